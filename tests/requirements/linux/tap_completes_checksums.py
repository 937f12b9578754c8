"""A TAP with IFF_VNET_HDR takes frames whose checksum is to be completed, and gives such ones once asked to.

Relied on by native/io/tap.c and native/io/vnet.h: the stack leaves transport checksums to the port.
"""

import fcntl
import os
import select
import socket
import struct

from system import IFF_VNET_HDR, TUN_F_CSUM, TUNSETOFFLOAD, hardware_address, ipv4, open_tap, pseudo_header, set_up

NEEDS_CSUM = 1
US, THEM = "10.77.0.1", "10.77.0.2"  # the kernel's, and that of who is behind the TAP

tap = open_tap("probe0", IFF_VNET_HDR)
fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM)
set_up("probe0", US)

receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind((US, 9))
receiver.settimeout(20)
udp = struct.pack("!HHHH", 7, 9, 13, pseudo_header(THEM, US, 17, 13)) + b"hello"
frame = hardware_address("probe0") + bytes.fromhex("020000000002") + b"\x08\x00" + ipv4(THEM, US, 17, udp)
os.write(tap, struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 34, 6) + frame)
assert receiver.recv(100) == b"hello"

arp = bytes.fromhex("0001080006040002020000000002") + socket.inet_aton(THEM)
reply = arp + hardware_address("probe0") + socket.inet_aton(US)
receiver.sendto(b"answer", (THEM, 7))
while True:
    assert select.select([tap], [], [], 20)[0]
    data = os.read(tap, 2048)
    header, frame = data[:10], data[10:]
    if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01":
        os.write(tap, bytes(10) + hardware_address("probe0") + bytes.fromhex("020000000002") + b"\x08\x06" + reply)
    elif frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame.endswith(b"answer"):
        break
flags, _, _, _, start, offset = struct.unpack("=BBHHHH", header)
assert flags & NEEDS_CSUM
assert (start, offset) == (34, 6)
assert struct.unpack("!H", frame[40:42])[0] == pseudo_header(US, THEM, 17, 14)
