"""A user without privileges can't bind a port below net.ipv4.ip_unprivileged_port_start, here 1024.

Relied on by the proof of ownership (aiomultistack/_switch_owner.py), which has no rule of its own for such ports.
"""

import errno
import os
import socket
from pathlib import Path

Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("1024")
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")):
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            socket.socket(family).bind((address, 1023))
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EACCES
