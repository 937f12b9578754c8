"""TCP's segments have the traffic class and hop limit of their socket; what is nobody's has the class of its cause.

A listener gives both to its connections.  The ECN bits of the class are TCP's.  TIME-WAIT keeps the class and forgets
the hop limit.  A reset for a port that is closed, or for data that comes after close(), has the class of what it
answers, without its ECN bits, and the usual hop limit.

Relied on by native/stack/ip_service.c, tcp_listen.c and tcp_tw.c, which do the same (tests/engine/test_ip_service.py).
"""

from __future__ import annotations

import os
import select
import socket
import struct

from system import IFF_TUN, ipv4, ones_complement, open_tap, pseudo_header, set_up

US, KERNEL = "10.98.0.2", "10.98.0.1"
PORT, CLOSED = 80, 81
EF, AF21, CE = 0xB8, 0x48, 3
FIN, SYN, PSH, ACK = 1, 2, 8, 16


class Peer:
    """One connection's other end, segment by segment."""

    def __init__(self, tun: int, port: int) -> None:
        self.tun = tun
        self.port = port
        self.next = 0  # what the kernel will send next

    def send(self, flags: int, seq: int, data: bytes = b"", to: int = PORT, tos: int = AF21 | CE) -> None:
        """Sends a segment that acknowledges everything."""
        head = struct.pack("!HHIIBBHHH", self.port, to, seq, self.next, 0x50, flags, 60000, 0, 0)
        initial = pseudo_header(US, KERNEL, socket.IPPROTO_TCP, len(head) + len(data))
        head = head[:16] + struct.pack("!H", ones_complement(head + data, initial)) + head[18:]
        os.write(self.tun, ipv4(US, KERNEL, socket.IPPROTO_TCP, head + data, tos))

    def receive(self) -> tuple[int, int, int]:
        """TCP flags, traffic class and hop limit of the next segment."""
        while select.select([self.tun], [], [], 10)[0]:
            packet = os.read(self.tun, 65536)
            if packet[0] == 0x45 and packet[9] == socket.IPPROTO_TCP:
                seq, flags = struct.unpack_from("!4xI5xB", packet, 20)
                size = struct.unpack_from("!H", packet, 2)[0] - 20 - (packet[32] >> 4) * 4
                self.next = seq + size + bool(flags & (SYN | FIN))
                return flags, packet[1], packet[8]
        raise AssertionError("nothing came")


def check_connection(tun: int, listener: socket.socket) -> None:
    """From the SYN to TIME-WAIT."""
    peer = Peer(tun, 4000)
    peer.send(SYN, 1)
    assert peer.receive() == (SYN | ACK, EF, 9)
    peer.send(ACK, 2)
    connection, _ = listener.accept()
    assert connection.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == EF
    assert connection.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 9
    connection.send(b"data")
    assert peer.receive() == (PSH | ACK, EF, 9)
    peer.send(ACK, 2)
    connection.close()
    assert peer.receive() == (FIN | ACK, EF, 9)
    peer.send(FIN | ACK, 2)
    assert peer.receive() == (ACK, EF, 9)
    peer.send(FIN | ACK, 2)
    assert peer.receive() == (ACK, EF, 64)


def check_refusals(tun: int, listener: socket.socket) -> None:
    """Segments that nobody wants."""
    peer = Peer(tun, 4001)
    peer.send(SYN, 1, to=CLOSED)
    assert peer.receive()[1:] == (AF21, 64)
    peer = Peer(tun, 4002)
    peer.send(SYN, 1)
    peer.receive()
    peer.send(ACK, 2)
    listener.accept()[0].close()
    assert peer.receive() == (FIN | ACK, EF, 9)
    peer.send(PSH | ACK, 2, b"too late")
    assert peer.receive()[1:] == (AF21, 64)


def main() -> None:
    tun = open_tap("class0", kind=IFF_TUN)
    with socket.socket() as listener:
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF | CE)
        listener.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 9)
        assert listener.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == EF
        set_up("class0", KERNEL)
        listener.bind((KERNEL, PORT))
        listener.listen()
        check_connection(tun, listener)
        check_refusals(tun, listener)


if __name__ == "__main__":
    main()
