"""An XDP program attached by a BPF link is detached when the link's descriptor is gone, also after SIGKILL.

Relied on by native/io/xdp_link.c: an interface is never left with a program whose socket nobody reads.
"""

import errno
import os
import signal
import subprocess
import time

from system import attach_xdp, open_tap, refused, set_up, xdp_program

PASS = 2

tap = open_tap("probe0")
set_up("probe0")
ready, told = os.pipe()
child = os.fork()
if child == 0:
    link = attach_xdp(xdp_program(PASS), "probe0")
    os.write(told, b"x")
    signal.pause()
os.read(ready, 1)
assert "xdp" in subprocess.run(["ip", "link", "show", "probe0"], capture_output=True, text=True, check=True).stdout
with refused(errno.EBUSY, errno.EEXIST):  # a second program doesn't take the first one's place
    attach_xdp(xdp_program(PASS), "probe0")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
deadline = time.monotonic() + 20
while True:
    try:
        attach_xdp(xdp_program(PASS), "probe0")
        break
    except OSError:
        assert time.monotonic() < deadline
        time.sleep(0.01)
