"""With TUN_F_TSO4 the kernel's TCP gives a TAP frames longer than the MTU, to be cut, and takes such.

Relied on by native/io/tap.c: a response of 32 KB is one frame and one system call, both ways.
"""

import fcntl
import os
import select
import socket
import struct

from system import (
    IFF_VNET_HDR,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUNSETOFFLOAD,
    hardware_address,
    ipv4,
    open_tap,
    pseudo_header,
    set_up,
)

NEEDS_CSUM, GSO_TCPV4 = 1, 1
US, THEM = "10.77.0.1", "10.77.0.2"
THEIR_MAC = bytes.fromhex("020000000002")
SIZE = 8000

tap = open_tap("probe0", IFF_VNET_HDR)
fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
set_up("probe0", US)
our_mac = hardware_address("probe0")


def send(sequence: int, acknowledged: int, flags: int, options: bytes = b"", data: bytes = b"", mss: int = 0) -> None:
    """A TCP segment to the kernel; with `mss`, one to be cut."""
    length = 20 + len(options) + len(data)
    tcp = struct.pack("!HHIIBBHHH", 80, port, sequence, acknowledged, (20 + len(options)) << 2, flags, 65535,
                      pseudo_header(THEM, US, 6, length), 0)  # fmt: skip
    frame = our_mac + THEIR_MAC + b"\x08\x00" + ipv4(THEM, US, 6, tcp + options + data)
    header = struct.pack("=BBHHHH", NEEDS_CSUM, GSO_TCPV4 if mss else 0, 54 + len(options) if mss else 0, mss, 34, 16)
    assert os.write(tap, header + frame) == len(header + frame)


def receive() -> tuple[bytes, bytes]:
    """The next TCP frame of the kernel's, ARP answered on the way: virtio-net header and IP packet."""
    while True:
        assert select.select([tap], [], [], 20)[0]
        data = os.read(tap, 70000)
        frame = data[10:]
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01":
            answer = bytes.fromhex("0001080006040002") + THEIR_MAC + socket.inet_aton(THEM) + frame[22:32]
            os.write(tap, bytes(10) + our_mac + THEIR_MAC + b"\x08\x06" + answer)
        elif frame[12:14] == b"\x08\x00" and frame[23] == 6:
            return data[:10], frame[14:]


client = socket.socket()
client.setblocking(False)
client.connect_ex((THEM, 80))
_, syn = receive()
port, sequence = struct.unpack("!H2xI", syn[20:28])
send(1000, sequence + 1, 0x12, b"\x02\x04\x05\xb4")  # SYN, ACK; an MSS of 1460
receive()
client.setblocking(True)
client.sendall(bytes(SIZE))

header, packet = receive()
_, kind, _, cut, _, _ = struct.unpack("=BBHHHH", header)
assert (kind, cut) == (GSO_TCPV4, 1460)
assert len(packet) > 1500

send(1001, sequence + 1, 0x18, b"", bytes(range(250)) * 16, mss=1460)  # 4000 bytes
client.settimeout(20)
got = b""
while len(got) < 4000:
    got += client.recv(10000)
assert got == bytes(range(250)) * 16
