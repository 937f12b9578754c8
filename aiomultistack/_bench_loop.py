"""`aiomultistack bench loop`: what the loop costs, without a network device.

Both ends run on one loop in this process: on ours with two stacks on a ``mem:`` hub, on uvloop and asyncio over the
kernel's loopback.  So one figure holds all the CPU time, user and system, that a round trip takes: two write() and
two data_received() of Python's, and everything below them.  Runs of the flavours alternate, and medians count.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import aiomultistack
from aiomultistack._bench import machine
from aiomultistack._ui import Steps

__all__ = ["FLAVOURS", "KINDS", "Result", "Run", "measure"]

#: Who is measured, and what is measured: (connections at a time, what a row is called).
FLAVOURS = ("multistack", "uvloop", "asyncio")
KINDS: dict[str, tuple[int, str]] = {
    "echo-1": (1, "round trip of 1 KB, one connection"),
    "echo-10": (10, "round trip of 1 KB, 10 connections"),
    "echo-100": (100, "round trip of 1 KB, 100 connections"),
    "connect": (20, "connect and close, 20 at a time"),
    "transaction": (20, "connect, 1 KB there and back, close, 20 at a time"),
}
_SIZE = 1024
_MESSAGE = bytes(_SIZE)
_PORT = 7777
_numbers = itertools.count()


@dataclass(frozen=True)
class Run:
    """One measurement."""

    kind: str
    flavour: str
    operations: int
    cpu: float  # seconds of user and system time
    wall: float  # seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time per operation."""
        return self.cpu / self.operations * 1e6


@dataclass(frozen=True)
class Result:
    """All measurements of one run of the benchmark."""

    runs: list[Run]

    def cpu_us(self, kind: str, flavour: str) -> float | None:
        """The median of CPU time per operation, microseconds; None if it wasn't measured."""
        found = [run.cpu_us for run in self.runs if (run.kind, run.flavour) == (kind, flavour)]
        return statistics.median(found) if found else None

    def rate(self, kind: str, flavour: str) -> float | None:
        """The median of operations per second."""
        found = [run.operations / run.wall for run in self.runs if (run.kind, run.flavour) == (kind, flavour)]
        return statistics.median(found) if found else None

    def gain(self, kind: str) -> float | None:
        """How many times uvloop's operations per CPU second ours are; None if either wasn't measured."""
        ours, theirs = self.cpu_us(kind, "multistack"), self.cpu_us(kind, "uvloop")
        return None if ours is None or theirs is None else theirs / ours

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"machine": machine(), "runs": [{**asdict(run), "cpu_us": run.cpu_us} for run in self.runs]}


class _Echo(asyncio.Protocol):
    """The server's end."""

    __slots__ = ("transport",)

    transport: Any

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Sends it back."""
        self.transport.write(data)


class _Asker(asyncio.Protocol):
    """The client's end: writes a message and waits until it is back, again and again."""

    __slots__ = ("_done", "_left", "_lost", "_missing", "transport")

    transport: Any

    def __init__(self, done: asyncio.Future[None], lost: asyncio.Future[None] | None, count: int) -> None:
        self._done = done
        self._lost = lost
        self._left = count
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport = transport

    def start(self) -> None:
        """Begins; all are begun at once."""
        self._missing = _SIZE
        self.transport.write(_MESSAGE)

    def data_received(self, data: bytes) -> None:
        """Counts the answer, and asks again."""
        self._missing -= len(data)
        if self._missing == 0:
            self._left -= 1
            if self._left:
                self._missing = _SIZE
                self.transport.write(_MESSAGE)
            elif not self._done.done():
                self._done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """The end."""
        for future in (self._done, self._lost):
            if future is not None and not future.done():
                future.set_result(None) if error is None else future.set_exception(error)


def _make_loop(flavour: str) -> tuple[asyncio.AbstractEventLoop, str]:
    """A loop, and where its server listens."""
    if flavour == "asyncio":
        return asyncio.SelectorEventLoop(), "127.0.0.1"
    if flavour == "uvloop":
        import uvloop

        return uvloop.new_event_loop(), "127.0.0.1"
    hub = f"mem:bench-{os.getpid()}-{next(_numbers)}"
    config = aiomultistack.Config(hub, ["10.77.0.1/24"], control=False, time_wait=1.0)
    loop = aiomultistack.new_event_loop(config)
    loop.multistack.attach(config.replace(addresses=["10.77.0.2/24"]))
    return loop, "10.77.0.1"


async def _connect(host: str, count: int, closes: bool) -> tuple[_Asker, list[asyncio.Future[None]]]:
    loop = asyncio.get_running_loop()
    waiters: list[asyncio.Future[None]] = [loop.create_future() for _ in range(1 + closes)]
    lost = waiters[1] if closes else None
    _, asker = await loop.create_connection(lambda: _Asker(waiters[0], lost, count), host, _PORT)
    return asker, waiters


async def _echo(host: str, connections: int, count: int) -> tuple[float, float]:
    """`count` round trips on each of so many connections; CPU seconds and seconds."""
    made = await asyncio.gather(*(_connect(host, count, False) for _ in range(connections)))
    start = _clock()
    for asker, _ in made:
        asker.start()
    for _, waiters in made:
        await waiters[0]
    taken = start()
    for asker, _ in made:
        asker.transport.close()
    return taken


def _clock() -> Callable[[], tuple[float, float]]:
    """Starts to measure; what it returns tells CPU seconds and seconds since."""
    cpu, wall = time.process_time(), time.perf_counter()
    return lambda: (time.process_time() - cpu, time.perf_counter() - wall)


async def _connections(host: str, at_once: int, count: int, ask: bool) -> tuple[float, float]:
    """So many workers open and close `count` connections each, one after the other; CPU seconds and seconds."""

    async def worker() -> None:
        for _ in range(count):
            asker, (done, lost) = await _connect(host, 1, True)
            if ask:
                asker.start()
                await done
            asker.transport.close()
            await lost

    await worker()  # what is made once is made now
    start = _clock()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return start()


def _run(kind: str, flavour: str, operations: int) -> Run:
    """One measurement on a loop of its own."""
    connections = KINDS[kind][0]
    count = max(1, operations // connections)
    loop, host = _make_loop(flavour)

    async def main() -> tuple[float, float]:
        server = await loop.create_server(_Echo, host, _PORT)
        if kind.startswith("echo"):
            taken = await _echo(host, connections, count)
        else:
            taken = await _connections(host, connections, count, kind == "transaction")
        server.close()
        await asyncio.sleep(0.01)
        return taken

    gc.collect()
    gc.freeze()
    try:
        cpu, wall = loop.run_until_complete(main())
    finally:
        loop.close()
        gc.unfreeze()
    return Run(kind, flavour, connections * count, cpu, wall)


def measure(kinds: tuple[str, ...], flavours: tuple[str, ...], rounds: int, operations: int, progress: Steps) -> Result:
    """Runs everything in turn; operations: of one run, a fifth for connections."""
    runs: list[Run] = []
    for number in range(rounds):
        for kind in kinds:
            for flavour in flavours if number % 2 == 0 else flavours[::-1]:
                progress.say(f"round {number + 1}: {kind}, {flavour}", 1)
                runs.append(_run(kind, flavour, operations if kind.startswith("echo") else operations // 5))
    return Result(runs)
