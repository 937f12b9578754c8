"""10,000 keep-alive connections at once, in memory: a server's loop in one thread, a client's in another."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import aiomultistack

CONNECTIONS = 10_000
ROUNDS = 2
AT_ONCE = 500  # connects in progress at a time
REQUEST = b"GET / HTTP/1.1\r\nHost: server\r\nConnection: keep-alive\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SERVER = "10.98.0.1"


class Server(asyncio.Protocol):
    """Answers each request, and counts connections."""

    open = 0
    largest = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""
        Server.open += 1
        Server.largest = max(Server.largest, Server.open)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.buffer.startswith(REQUEST):
            self.buffer = self.buffer[len(REQUEST) :]
            self.transport.write(RESPONSE)

    def connection_lost(self, exc: BaseException | None) -> None:
        assert exc is None
        Server.open -= 1


class Client(asyncio.Protocol):
    """Waits for one response at a time, and for the end."""

    def __init__(self) -> None:
        self.buffer = b""
        self.answer: asyncio.Future[bytes] | None = None
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    async def ask(self) -> bytes:
        """Sends the request; returns as many bytes as the response must have."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(REQUEST)
        return await self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.answer is not None and len(self.buffer) >= len(RESPONSE):
            answer, self.answer = self.answer, None
            answer.set_result(self.buffer)
            self.buffer = b""

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


def configuration(address: str) -> aiomultistack.Config:
    """A host on the test's hub."""
    return aiomultistack.Config(
        f"mem:scale-{os.getpid()}", [f"{address}/24"], control=False, time_wait=0.05, ephemeral_ports=(20000, 60999)
    )


class ServerThread:
    """A loop in a thread."""

    def __init__(self) -> None:
        self.loop = aiomultistack.new_event_loop(configuration(SERVER))
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, name="server")
        self._thread.start()
        self._server: Any = self.call(self._listen())

    async def _listen(self) -> Any:
        return await self.loop.create_server(Server, SERVER, 80, backlog=1024)

    def call(self, work: Any) -> Any:
        """Runs a coroutine on the loop; returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _facts(self) -> dict[str, int]:
        (node,) = self.loop.multistack.nodes
        return {"memory": node.memory, "frames": node.frames, "endpoints": len(node.endpoints()), "open": Server.open}

    def facts(self) -> dict[str, int]:
        """What the server's stack holds now."""
        return dict(self.call(self._facts()))

    async def _stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def close(self) -> None:
        """Ends it."""
        self.call(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def server() -> Iterator[ServerThread]:
    """The server's loop."""
    with contextlib.closing(ServerThread()) as server:
        yield server
    assert server.errors == []


def resident() -> int:
    """Bytes of memory that this process has in use."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def open_all(loop: asyncio.AbstractEventLoop) -> list[Client]:
    """Opens all connections, so many at a time."""
    clients: list[Client] = []
    left = iter(range(CONNECTIONS))

    async def worker() -> None:
        for _ in left:
            _, client = await loop.create_connection(Client, SERVER, 80)
            clients.append(client)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return clients


async def settled(loop: aiomultistack.Loop, server: ServerThread) -> None:
    """Waits until nothing is left of the connections, on either side."""
    deadline = time.monotonic() + 120
    while True:
        facts = await asyncio.to_thread(server.facts)
        ours = loop.multistack
        if facts["frames"] == facts["open"] == 0 == ours.frames and facts["endpoints"] == 1 and not ours.endpoints():
            return
        assert time.monotonic() < deadline, f"left behind: {facts}, {len(ours.endpoints())}, {ours.frames} frames"
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_10_000_keep_alive_connections(server: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    """All open at once, two requests on each, and then nothing is left."""
    loop = aiomultistack.new_event_loop(configuration("10.98.0.2"))
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    lines: list[str] = []

    async def main() -> None:
        gc.collect()
        before, engine_before = resident(), server.facts()["memory"]
        started = time.monotonic()
        clients = await open_all(loop)
        opened = time.monotonic()
        assert len(loop.multistack.connections()) == CONNECTIONS
        for _ in range(ROUNDS):
            answers = await asyncio.gather(*(client.ask() for client in clients))
            assert all(answer == RESPONSE for answer in answers)
        asked = time.monotonic()
        facts = await asyncio.to_thread(server.facts)
        assert facts["open"] == Server.largest == CONNECTIONS
        assert facts["endpoints"] == CONNECTIONS + 1
        lines.append(
            f"{CONNECTIONS} connections: opened in {opened - started:.2f} s, {ROUNDS} rounds in "
            f"{asked - opened:.2f} s; "
            f"per connection {(facts['memory'] - engine_before) / CONNECTIONS:.0f} bytes in the server's engine, "
            f"{(resident() - before) / CONNECTIONS:.0f} bytes in all (both ends, Python included)"
        )
        for client in clients:
            client.transport.close()
        assert set(await asyncio.gather(*(client.lost for client in clients))) == {None}
        await settled(loop, server)

    try:
        loop.run_until_complete(asyncio.wait_for(main(), 120))
        assert errors == []
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    with capsys.disabled():
        print("\n" + "\n".join(lines))
