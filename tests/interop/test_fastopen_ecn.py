"""Fast Open and ECN against the kernel's TCP, either side opening."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .lab import Bench, stack_host, stack_loop
from .test_tcp_options import both, sysctls

FAMILIES = pytest.mark.parametrize("family", [4, 6])
TFO_CLIENT = 1
ECN, SYN_DATA = 8, 32


@FAMILIES
@pytest.mark.parametrize(("kernel", "ours", "agreed"), [(1, "accept", (True, False)), (2, "ask", (False, True)),
                                                        (1, "ask", (True, True)), (0, "ask", (False, False)),
                                                        (1, "off", (False, False)),
                                                        (1, "accurate", (True, True)),
                                                        (2, "accurate", (False, True)),
                                                        (0, "accurate", (False, False))])  # fmt: skip
def test_ecn(family: int, kernel: int, ours: str, agreed: tuple[bool, bool]) -> None:
    """Agreed on when who opens asks and who answers accepts; data crosses intact."""
    with sysctls({"ecn": kernel}), stack_loop(ecn=ours) as bench:
        assert tuple(bool(info.options & ECN) for info in both(bench, family, 1 << 20)) == agreed


def kernel_client(family: int, port: int, data: bytes) -> tuple[bytes, bool]:
    """Connects with TCP_FASTOPEN_CONNECT; returns the answer, and whether the SYN's data was taken."""
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with socket.socket(kind) as sock:
        sock.settimeout(20)
        sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
        sock.connect((stack_host(family), port))
        sock.sendall(data)
        answer = sock.recv(1000)
        options = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
        return answer, bool(options & SYN_DATA)


@FAMILIES
def test_the_kernel_opens_fast(family: int) -> None:
    """The first connection fetches a cookie, the next ones send their data in the SYN."""

    async def main(bench: Bench) -> list[tuple[bytes, bool]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.read(1000)).upper())
            writer.close()

        server = await asyncio.start_server(serve, stack_host(family), 0)
        async with server:
            listening: Any = server.sockets[0]
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
            port = listening.getsockname()[1]
            return [await asyncio.to_thread(kernel_client, family, port, b"hello") for _ in range(3)]

    with sysctls({"fastopen": TFO_CLIENT}), stack_loop() as bench:
        answers = bench.run(lambda: main(bench))
        assert answers == [(b"HELLO", False), (b"HELLO", True), (b"HELLO", True)]
        assert bench.loop.multistack.counters()["stack.tcp_fastopen_passive"] == 2
