"""The system drops what comes from the wire with one of its own addresses as source.

Relied on by docs/switch.md: a stack with a shared address can't reach the system's own programs through the NIC,
and need not try.
"""

import errno
import os
import socket
import struct

from system import hardware_address, ipv4, ones_complement, open_tap, refused, set_up

US, THEM = "10.77.0.1", "10.77.0.2"

tap = open_tap("probe0")
set_up("lo")
set_up("probe0", US)
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((US, 9))


def send(source: str) -> None:
    pseudo = socket.inet_aton(source) + socket.inet_aton(US) + struct.pack("!HH", 17, 10)
    udp = struct.pack("!HHHH", 7, 9, 10, 0) + b"hi"
    udp = udp[:6] + struct.pack("!H", ones_complement(pseudo + udp)) + udp[8:]
    os.write(tap, hardware_address("probe0") + bytes.fromhex("020000000002") + b"\x08\x00" + ipv4(source, US, 17, udp))


send(US)
send(THEM)
receiver.settimeout(20)
assert receiver.recvfrom(100)[1] == (THEM, 7)
receiver.setblocking(False)
with refused(errno.EAGAIN):  # the other one has not come
    receiver.recv(100)
