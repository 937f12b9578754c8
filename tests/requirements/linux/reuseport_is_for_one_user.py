"""Only sockets of one user share a port by SO_REUSEPORT.

Relied on by groups of workers (aiomultistack/_switch_owner.py): sockets with this option prove that their owners
are one user's.
"""

import errno
import os
import socket

NOBODY = 65534


def bound() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 4711))
    return sock


first, second = bound(), bound()
child = os.fork()
if child == 0:
    os.setuid(NOBODY)
    try:
        bound()
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EADDRINUSE
