"""Of sockets bound to one port with SO_REUSEADDR only one can listen, and after it has, no other can be bound.

Relied on by aiomultistack/_switch_owner.py: that is how the switch makes a socket exclusive whose owner has set
SO_REUSEADDR, as nearly all servers do.
"""

import errno
import socket

from system import refused


def bound(reuse: bool = True) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    sock.bind(("127.0.0.1", 4711))
    return sock


first, second = bound(), bound()  # neither listens: both may have it
first.listen(1)
with refused(errno.EADDRINUSE):
    second.listen(1)
second.close()

first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
first.shutdown(socket.SHUT_RDWR)  # it listens no more, and stays bound
assert first.getsockname() == ("127.0.0.1", 4711)
for reuse in (False, True):
    with refused(errno.EADDRINUSE):
        bound(reuse)
