"""What an XDP program drops or redirects the system never sees: it answers neither with RST nor with anything else.

Relied on by `xdp:` (native/io/xdp.c): on a shared address the kernel would reset the user-space stack's connections.
"""

import os
import select
import socket
import struct

from system import attach_xdp, hardware_address, ipv4, ones_complement, open_tap, set_up, xdp_program

DROP = 1
US, THEM = "10.77.0.1", "10.77.0.2"
THEIR_MAC = bytes.fromhex("020000000002")

tap = open_tap("probe0")
set_up("probe0", US)
our_mac = hardware_address("probe0")


def syn() -> bytes:
    """To a port where nobody listens."""
    pseudo = socket.inet_aton(THEM) + socket.inet_aton(US) + struct.pack("!HH", 6, 20)
    tcp = struct.pack("!HHIIBBHHH", 7, 4711, 1, 0, 0x50, 2, 65535, 0, 0)
    tcp = tcp[:16] + struct.pack("!H", ones_complement(pseudo + tcp)) + tcp[18:]
    return our_mac + THEIR_MAC + b"\x08\x00" + ipv4(THEM, US, 6, tcp)


def reset_comes(seconds: float) -> bool:
    """True if a RST comes, ARP answered on the way."""
    os.write(tap, syn())
    while select.select([tap], [], [], seconds)[0]:
        frame = os.read(tap, 2000)
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01":
            answer = bytes.fromhex("0001080006040002") + THEIR_MAC + socket.inet_aton(THEM) + frame[22:32]
            os.write(tap, our_mac + THEIR_MAC + b"\x08\x06" + answer)
        elif frame[12:14] == b"\x08\x00" and frame[23] == 6:
            return bool(frame[47] & 4)
    return False


assert reset_comes(20)
link = attach_xdp(xdp_program(DROP), "probe0", flags=2)  # XDP_FLAGS_SKB_MODE
assert not reset_comes(0.5)
os.close(link)
assert reset_comes(20)
