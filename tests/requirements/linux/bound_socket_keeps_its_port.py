"""A bound socket keeps its port for whoever has its descriptor, also after its maker has gone.

Relied on by the proof of ownership (aiomultistack/_switch_owner.py): a client binds and passes the socket by
SCM_RIGHTS; from then on the switch's descriptor alone keeps others away.
"""

import errno
import os
import socket

from system import refused

here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
child = os.fork()
if child == 0:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 4711))
    socket.send_fds(there, [b"x"], [bound.fileno()])
    os._exit(0)
_, (descriptor,), _, _ = socket.recv_fds(here, 10, 1)
os.waitpid(child, 0)

passed = socket.socket(fileno=descriptor)
assert passed.getsockname() == ("127.0.0.1", 4711)
other = socket.socket()
for address in ("127.0.0.1", "0.0.0.0"):
    with refused(errno.EADDRINUSE):
        other.bind((address, 4711))
passed.close()
other.bind(("127.0.0.1", 4711))
