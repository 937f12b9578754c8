"""Nobody can make a sealed memfd shorter, so that reading a mapping of it never ends in SIGBUS.

Relied on by native/io/shm.c and the switch: rings lie in memory that both ends map and neither trusts.
"""

import errno
import fcntl
import mmap
import os

from system import refused

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL

memory = os.memfd_create("rings", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
os.ftruncate(memory, 1 << 16)
fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) & SEALS == SEALS  # as the other end sees
for length in (0, 4096, 1 << 20):
    with refused(errno.EPERM):
        os.ftruncate(memory, length)
with refused(errno.EPERM):  # nor unwritable for the other end
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
with mmap.mmap(memory, 1 << 16) as view:
    view[0xFFFF] = 1
