"""Fast Open and ECN against the kernel's TCP, either side opening."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import aiomultistack

from .lab import Bench, kernel_host, stack_host, stack_loop
from .test_tcp_options import both, sysctls

FAMILIES = pytest.mark.parametrize("family", [4, 6])
TFO_CLIENT, TFO_SERVER = 1, 2
TCP_FASTOPEN_CONNECT, MSG_FASTOPEN = 30, 0x20000000  # linux/tcp.h, linux/socket.h
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
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
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


class KernelServer:
    """Answers connections with what they say in capitals; notes whose SYN had brought data."""

    def __init__(self, family: int) -> None:
        self._sock = socket.create_server(
            (kernel_host(family), 0), family=socket.AF_INET6 if family == 6 else socket.AF_INET
        )
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        self._sock.settimeout(30)
        self.port: int = self._sock.getsockname()[1]
        self.fast: list[bool] = []

    def serve(self, connections: int) -> None:
        """Serves that many, one after the other."""
        with self._sock:
            for _ in range(connections):
                sock, _ = self._sock.accept()
                with sock:
                    sock.settimeout(30)
                    data = sock.recv(1000)
                    self.fast.append(bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5] & SYN_DATA))
                    sock.sendall(data.upper())


async def open_fast(address: tuple[str, int], data: bytes, how: str) -> bytes:
    """One connection that wants Fast Open; returns the answer."""
    loop = asyncio.get_running_loop()
    kind = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with aiomultistack.socket(kind) as sock:
        sock.setblocking(False)
        if how == "sendto":
            try:
                assert sock.sendto(data, MSG_FASTOPEN, address) == len(data)
            except BlockingIOError:  # no cookie yet: it was a connect()
                await loop.sock_sendall(sock, data)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            await loop.sock_connect(sock, address)
            if how == "stream":
                reader, writer = await asyncio.open_connection(sock=sock)
                writer.write(data)
                answer = await reader.read(1000)
                writer.close()
                await writer.wait_closed()
                return answer
            await loop.sock_sendall(sock, data)
        return await loop.sock_recv(sock, 1000)


@FAMILIES
@pytest.mark.parametrize("how", ["sock_sendall", "stream", "sendto"])
def test_we_open_fast(family: int, how: str) -> None:
    """The same towards the kernel's server, from Python."""

    async def main(bench: Bench) -> tuple[list[bytes], list[bool]]:
        server = await asyncio.to_thread(KernelServer, family)
        served = asyncio.create_task(asyncio.to_thread(server.serve, 3))
        address = (kernel_host(family), server.port)
        answers = [await open_fast(address, b"hello", how) for _ in range(3)]
        await served
        return answers, server.fast

    with sysctls({"fastopen": TFO_SERVER}), stack_loop() as bench:
        answers, fast = bench.run(lambda: main(bench))
        assert answers == [b"HELLO"] * 3
        assert fast == [False, True, True]
        assert bench.loop.multistack.counters()["stack.tcp_fastopen_active"] == 2
