"""Reading and writing a TAP whose interface was deleted fails with EBADFD; on one that is down, with EIO.

Relied on by native/io/tap.c: the first ends the port with an error, the second is a frame lost.
"""

import errno
import os
import shutil
import subprocess

from system import cannot_tell, open_tap, refused, set_up

if shutil.which("ip") is None:
    cannot_tell("needs ip (iproute2)")
tap = open_tap("probe0")

with refused(errno.EIO):
    os.write(tap, bytes(60))
set_up("probe0")
os.write(tap, bytes(60))
subprocess.run(["ip", "link", "delete", "probe0"], check=True)
with refused(errno.EBADFD):
    os.write(tap, bytes(60))
with refused(errno.EBADFD):
    os.read(tap, 2000)
