"""An eventfd and a pipe that were written to stay readable until somebody reads, however often they were rung.

Relied on by native/io/ring.h: a bell that rings between the last look and going to sleep is not missed.
"""

import errno
import os
import select

from system import refused

bell = os.eventfd(0, os.EFD_NONBLOCK) if hasattr(os, "eventfd") else None
reader, writer = os.pipe2(os.O_NONBLOCK)
watch = select.epoll()
watch.register(reader, select.EPOLLIN)
if bell is not None:
    watch.register(bell, select.EPOLLIN)
for _ in range(3):
    os.write(writer, b"x")
    if bell is not None:
        os.eventfd_write(bell, 1)
ringing = {descriptor for descriptor, _ in watch.poll(0)}
assert ringing == ({reader, bell} if bell is not None else {reader})
assert os.read(reader, 64) == b"xxx"
if bell is not None:
    assert os.eventfd_read(bell) == 3
assert watch.poll(0) == []
with refused(errno.EAGAIN):  # one who doesn't read is never waited for
    while True:
        os.write(writer, bytes(4096))
