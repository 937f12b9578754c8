"""A TAP that a process made is gone when its descriptor is, also after SIGKILL; only one may have it at a time.

Relied on by native/io/tap_linux.c: nothing is left to be cleaned up.
"""

import errno
import os
import signal
import time

from system import has_interface, open_tap, refused

ready, told = os.pipe()
child = os.fork()
if child == 0:
    open_tap("probe0")
    os.write(told, b"x")
    signal.pause()
os.read(ready, 1)
assert has_interface("probe0")
with refused(errno.EBUSY):
    open_tap("probe0")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
deadline = time.monotonic() + 20
while has_interface("probe0"):
    assert time.monotonic() < deadline
    time.sleep(0.01)
