"""`aiomultistack bench idle`: what a connection costs in memory while nothing happens on it.

Two loops in two threads of this process meet on a `mem:` hub: the server is the one of `bench http`, the
client opens keep-alive connections, makes one request on each and leaves it open.  The engine
says how many bytes of C it holds for them; resident memory, which holds both ends with their Python objects
and asyncio's share, is read before and after.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import threading
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import aiomultistack
from aiomultistack._bench import machine
from aiomultistack._bench_server import PORT, Responder, Tally, make_responses
from aiomultistack._ui import Steps

_T = TypeVar("_T")
_SERVER, _CLIENT = "10.77.0.2", "10.77.0.1"
_AT_ONCE = 200  # connections that are being opened at a time
_REQUEST = b"GET /1024 HTTP/1.1\r\nHost: idle\r\n\r\n"


@dataclass(frozen=True)
class Idle:
    """What idle connections took."""

    connections: int
    seconds: float  # to open them all and make a request on each
    engine_server: float  # bytes of C per connection, the server's end
    engine_client: float
    resident: float  # bytes of resident memory per connection, both ends

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"machine": machine(), **asdict(self)}


class _Visitor(asyncio.Protocol):
    """A client's end: one request, then silence."""

    __slots__ = ("_answered", "_missing", "transport")

    def __init__(self, answered: asyncio.Future[None], length: int) -> None:
        self._answered = answered
        self._missing = length

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        """Counts the answer."""
        self._missing -= len(data)
        if self._missing == 0:
            self._answered.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fails if that was too early."""
        if not self._answered.done():
            self._answered.set_exception(error or ConnectionResetError("closed before the answer"))


class _Side:
    """A loop in a thread."""

    def __init__(self, address: str, connections: int) -> None:
        config = aiomultistack.Config(
            port=f"mem:idle-{os.getpid()}",
            addresses=[f"{address}/24"],
            ephemeral_ports=(1024, 65535),
            max_connections=connections + 1024,
            control=False,
        )
        self.loop = aiomultistack.new_event_loop(config)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine on the loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def memory(self) -> int:
        """Bytes that the engine holds."""

        async def ask() -> int:
            return sum(node.memory for node in self.loop.multistack.nodes)

        return self.call(ask())

    def close(self) -> None:
        """Ends the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _resident() -> int:
    """This process's resident memory in bytes, garbage collected."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _open(number: int, length: int, progress: Steps) -> list[_Visitor]:
    """Opens `number` connections and makes a request on each."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> _Visitor:
        async with gate:
            answered: asyncio.Future[None] = loop.create_future()
            factory = functools.partial(_Visitor, answered, length)
            _, visitor = await loop.create_connection(factory, _SERVER, PORT)
            await answered
            progress.say(f"opening {number:,} connections", 1)
            return visitor

    return await asyncio.gather(*(one() for _ in range(number)))


async def _shut(visitors: list[_Visitor]) -> None:
    for visitor in visitors:
        visitor.transport.abort()


def measure(connections: int, progress: Steps) -> Idle:
    """Opens `connections` idle connections and weighs them."""
    responses = make_responses([1024])
    length = len(responses[b"/1024"][0])
    server = _Side(_SERVER, connections)
    try:
        client = _Side(_CLIENT, connections)
        try:
            listening = server.call(
                server.loop.create_server(lambda: Responder(responses, Tally()), _SERVER, PORT, backlog=_AT_ONCE)
            )
            visitors = client.call(_open(64, length, progress))  # what exists once has been made by these
            before = server.memory(), client.memory(), _resident()
            start = time.perf_counter()
            visitors += client.call(_open(connections, length, progress))
            seconds = time.perf_counter() - start
            after = server.memory(), client.memory(), _resident()
            grown = [(b - a) / connections for a, b in zip(before, after, strict=True)]
            client.call(_shut(visitors))
            server.loop.call_soon_threadsafe(listening.close)
        finally:
            client.close()
    finally:
        server.close()
    return Idle(connections, seconds, *grown)
