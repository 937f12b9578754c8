"""Clients that go away in mid-response: the server is told, and keeps no endpoint, frame or task of theirs."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support import PATIENCE

from .app import CHUNK
from .lab import Bench, stack_host

FAMILIES = pytest.mark.parametrize("family", [4, 6])
LINGER_0 = b"\x01\0\0\0\0\0\0\0"
CLIENTS = 20


class Endless(asyncio.Protocol):
    """Writes as long as there is somebody to write to."""

    lost: list[tuple[BaseException | None, int]]  # why, and the bytes in the write buffer at the peer's FIN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.paused = False
        self.waiting = -1
        self.fill()

    def fill(self) -> None:
        """Writes until the buffer is full."""
        while not self.paused and not self.transport.is_closing():
            self.transport.write(CHUNK)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.fill()

    def eof_received(self) -> None:
        self.waiting = self.transport.get_write_buffer_size()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.paused = True
        Endless.lost.append((exc, self.waiting))


def leave(host: str, port: int, how: str) -> None:
    """Reads a little of the response, and goes."""
    with socket.create_connection((host, port), PATIENCE) as sock:
        left = 300_000
        while left > 0:
            left -= len(sock.recv(65536))
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        elif how == "half-close":
            sock.shutdown(socket.SHUT_WR)


@FAMILIES
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("bench", [{}, {"base": "asyncio"}, {"offload": False}], ids=["uvloop", "asyncio", "plain"],
                         indirect=True)  # fmt: skip
def test_disconnect_in_mid_response(bench: Bench, family: int, how: str) -> None:
    Endless.lost = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Endless, stack_host(family), 0)
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(asyncio.to_thread(leave, stack_host(family), port, how) for _ in range(CLIENTS)))
        while len(Endless.lost) < CLIENTS:
            await asyncio.sleep(0.01)
        server.close()
        await server.wait_closed()

    bench.run(main)
    # With unread data a close is a reset; after a half-close the transport ends in good order.
    kinds = {type(exc) for exc, _ in Endless.lost}
    assert kinds <= {ConnectionResetError, BrokenPipeError, type(None)}
    if how != "half-close":
        # A client that had read everything closes with a FIN.  If the ACKs that came with it have emptied the
        # write buffer, the transport has nothing left to lose and ends in good order: a kernel's would as well.
        assert all(exc is not None or waiting == 0 for exc, waiting in Endless.lost)
