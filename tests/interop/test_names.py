"""Names that are asked for over a TAP, of a nameserver on the kernel's UDP and TCP."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest

from .lab import KERNEL4, KERNEL6, namespace, stack_loop

pytest.importorskip("dns.asyncresolver", reason="needs dnspython")

from loop.nameserver import Zone

RECORDS = {
    "www.example.org.": {"A": [KERNEL4], "AAAA": [KERNEL6]},
    "many.example.org.": {"A": [f"192.0.2.{number}" for number in range(1, 101)]},
    f"{'.'.join(reversed(KERNEL4.split('.')))}.in-addr.arpa.": {"PTR": ["www.example.org."]},
}


class KernelNameserver:
    """Blocking sockets of the kernel's, each in a thread."""

    def __init__(self, host: str) -> None:
        self.zone = Zone(RECORDS)
        self._sockets = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for kind, run in ((socket.SOCK_DGRAM, self._datagrams), (socket.SOCK_STREAM, self._streams)):
            sock = socket.socket(family, kind)
            sock.bind((host, 53))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            self._sockets.append((sock, threading.Thread(target=run, args=(sock,))))
            self._sockets[-1][1].start()

    def _datagrams(self, sock: socket.socket) -> None:
        while True:
            data, sender = sock.recvfrom(512)
            if not data:
                return
            answer = self.zone.answer(data, "udp")
            assert answer is not None
            sock.sendto(answer, sender)

    def _streams(self, sock: socket.socket) -> None:
        while True:
            try:
                conn, _ = sock.accept()
            except OSError:
                return
            with conn, conn.makefile("rwb") as stream:
                (length,) = struct.unpack("!H", stream.read(2))
                answer = self.zone.answer(stream.read(length), "tcp")
                assert answer is not None
                stream.write(struct.pack("!H", len(answer)) + answer)

    def close(self) -> None:
        """Ends both threads."""
        for sock, thread in self._sockets:
            if sock.type == socket.SOCK_DGRAM:
                sock.sendto(b"", sock.getsockname())
            else:
                sock.shutdown(socket.SHUT_RDWR)
            thread.join()
            sock.close()


@pytest.mark.parametrize("server", [KERNEL4, KERNEL6])
def test_a_nameserver_of_the_kernel_s(server: str) -> None:
    with namespace(), stack_loop(dns=[server], dns_timeout=20) as bench:
        nameserver = KernelNameserver(server)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            rows = await loop.getaddrinfo("www.example.org", 80, type=socket.SOCK_STREAM)
            assert [row[4][0] for row in rows] == [KERNEL6, KERNEL4]
            rows = await loop.getaddrinfo("many.example.org", 80, type=socket.SOCK_STREAM, family=socket.AF_INET)
            assert len(rows) == 100
            assert nameserver.zone.asked["tcp", "many.example.org.", "A"] == 1
            assert await loop.getnameinfo((KERNEL4, 80)) == ("www.example.org", "http")

        try:
            bench.run(main)
        finally:
            nameserver.close()
        assert nameserver.zone.asked["udp", "www.example.org.", "A"] == 1
        assert bench.loop.multistack.counters()["stack.udp_rx"] >= 4
