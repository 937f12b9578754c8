"""Protocols that write down what happens to them."""

from __future__ import annotations

import asyncio
from typing import Any


class Recorder(asyncio.Protocol):
    """Records its calls in `events`, its data in `data`; `lost` is done when the connection is."""

    def __init__(self, keep_open: bool = False) -> None:
        self.events: list[str] = []
        self.data = bytearray()
        self.keep_open = keep_open
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[asyncio.Transport] = loop.create_future()
        self.lost: asyncio.Future[BaseException | None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = transport
        if not self.made.done():
            self.made.set_result(transport)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        if self.events[-1] != "data":
            self.events.append("data")
        self.data += data
        for size, waiter in self._waiters:
            if len(self.data) >= size and not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        if not self.ended.done():
            self.ended.set_result(None)
        return self.keep_open

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.events.append("lost")
        if not self.lost.done():
            self.lost.set_result(exc)

    async def received(self, size: int) -> bytes:
        """Waits for `size` bytes in all; returns what has come."""
        if len(self.data) < size:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((size, waiter))
            await waiter
        return bytes(self.data)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and closes when the peer does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    """Collects datagrams and errors."""

    def __init__(self, echo: bool = False) -> None:
        self.echo = echo
        self.transport: Any = None
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()
        self.lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))
        if self.echo:
            self.transport.sendto(data.upper(), addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Pair:
    """A connected pair of recorders, one at each end."""

    def __init__(self, server: Recorder, client: Recorder) -> None:
        self.server = server
        self.client = client

    async def closed(self) -> None:
        """Aborts what is open still, and waits for both ends."""
        for end in (self.client, self.server):
            if end.transport is not None and not end.lost.done():
                end.transport.abort()
        await asyncio.gather(self.client.lost, self.server.lost)
