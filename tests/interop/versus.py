"""Our TCP and the kernel's as senders over the very same bad link: goodput side by side.

    cd tests; python -m interop.versus                                  # as root; a few minutes
    cd tests; python -m interop.versus --congestion bbr --losses 0.01,0.1 --rtts 20,300

Theory of operation
-------------------
The receiver is the kernel, in a network namespace of its own, behind a TAP.  The sender is either the kernel too, in
another namespace behind another TAP, or our engine, driven by this program's own loop.  The loop carries frames
between the two: each direction has a rate, a drop-tail queue, a delay, and loses frames.  Whether the n-th frame of a
direction is lost is decided by the seed, so both senders meet the same pattern.  All runs in real time.

Cells are measured in processes of their own, a few at a time, ours and the kernel's always together.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import heapq
import itertools
import json
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from aiomultistack._native import ffi, lib
from engine.world import START, World

from .faulty import open_tap
from .lab import KERNEL4, STACK4, command, namespace, tap_name

PORT = 5001
FRAME = 1514
CHUNK = bytes(1 << 17)
TO_RECEIVER, TO_SENDER = 0, 1
HANDSHAKE = 60.0  # seconds at most
_ARP = b"\x08\x06"


@dataclass(frozen=True)
class Cell:
    """One link and one congestion control; rtt in seconds, rate in bit/s."""

    congestion: str
    rtt: float
    loss: float
    seconds: float = 10.0
    rate: float = 20e6
    seed: int = 1

    @property
    def queue(self) -> int:
        """Frames that a direction's queue holds: a bandwidth-delay product, at least 20."""
        return max(20, int(self.rate * self.rtt / 8 / FRAME))


class Link:
    """Both directions of a cell's link."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._random = [random.Random(cell.seed * 2 + direction) for direction in (TO_RECEIVER, TO_SENDER)]
        self._free = [0.0, 0.0]
        self._order = itertools.count()
        self._held: list[tuple[float, int, int, bytes]] = []

    def push(self, direction: int, frame: bytes, now: float) -> None:
        """Takes a frame in: it is lost, or held until its time has come."""
        spared = frame[12:14] == _ARP
        if not spared and self._random[direction].random() < self._cell.loss:
            return
        waiting = max(0.0, self._free[direction] - now) * self._cell.rate / 8
        if waiting > self._cell.queue * FRAME:
            return
        self._free[direction] = max(now, self._free[direction]) + len(frame) * 8 / self._cell.rate
        release = self._free[direction] + self._cell.rtt / 2
        heapq.heappush(self._held, (release, next(self._order), direction, frame))

    def pop(self, now: float) -> tuple[int, bytes] | None:
        """The next frame whose time has come, and its direction."""
        if not self._held or self._held[0][0] > now:
            return None
        _, _, direction, frame = heapq.heappop(self._held)
        return direction, frame

    @property
    def deadline(self) -> float:
        """When the next frame is due."""
        return self._held[0][0] if self._held else float("inf")


class KernelSender:
    """A socket of the kernel's in a namespace of its own."""

    def __init__(self, cell: Cell) -> None:
        with namespace():
            self.tap = _tap(STACK4)
            self._statistics = open("/proc/thread-self/net/netstat", encoding="ascii")  # noqa: SIM115
            self._socket = socket.socket()
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, cell.congestion.encode())
        with contextlib.suppress(BlockingIOError):
            self._socket.connect((KERNEL4, PORT))

    def descriptors(self) -> tuple[list[int], list[int]]:
        """What to wait for: readable, writable."""
        return [self.tap], [self._socket.fileno()]

    def run(self, now: float) -> Iterator[bytes]:
        """Writes what may be written; the frames that it sends."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.send(CHUNK):
                pass
        yield from _frames(self.tap)

    def receive(self, frame: bytes, now: float) -> None:
        """Gives it a frame."""
        _deliver(self.tap, frame)

    @property
    def deadline(self) -> float:
        """It has timers of its own."""
        return float("inf")

    def counters(self) -> dict[str, int]:
        """Its namespace's, for a closer look."""
        lines = [line.split() for line in self._statistics]
        found = {}
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            found.update({name: int(value) for name, value in zip(names[1:], values[1:], strict=True)})
        return {name: value for name, value in found.items() if value and name.startswith("TCP")}

    def close(self) -> None:
        self._socket.close()
        self._statistics.close()
        os.close(self.tap)


class OurSender:
    """A connection of the engine's, whose time is the real one."""

    def __init__(self, cell: Cell) -> None:
        self._world = World(cell.seed)
        self._world.checked = False
        self._start = time.monotonic()
        name = ffi.new("char[]", cell.congestion.encode())
        self._host = self._world.host(f"{STACK4}/24", congestion=name)
        self._wire = self._world.wire()
        self._connection = self._host.connect(KERNEL4, PORT)

    def _clock(self, now: float) -> None:
        self._world.now = max(self._world.now, START + int((now - self._start) * 1e9))

    def descriptors(self) -> tuple[list[int], list[int]]:
        """There are none: all is in this process."""
        return [], []

    def run(self, now: float) -> Iterator[bytes]:
        """Runs what is due; the frames that it sends."""
        self._clock(now)
        connection = self._connection
        while lib.ams_tcp_excess(self._host.stack, connection.id) < len(CHUNK):
            connection.send(CHUNK)
        self._world.settle()
        frames, self._wire.frames = self._wire.frames, []
        for _, frame in frames:
            yield frame

    def receive(self, frame: bytes, now: float) -> None:
        """Gives it a frame."""
        self._clock(now)
        self._wire.inject(frame)

    @property
    def deadline(self) -> float:
        """When it has something to do."""
        return self._start + (self._host.deadline - START) / 1e9

    def counters(self) -> dict[str, int]:
        """The stack's, for a closer look."""
        return {name: value for name, value in self._host.counters().items() if value}

    def close(self) -> None:
        self._world.close()


def _tap(address: str) -> int:
    """A TAP in this thread's namespace with that address."""
    name = tap_name()
    descriptor = open_tap(name)
    command("ip", "address", "add", f"{address}/24", "dev", name)
    command("ip", "link", "set", name, "up", "txqueuelen", "10000")
    return descriptor


def _frames(tap: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(tap, 65536)


def _deliver(tap: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # the interface's queue is full: lost, as on any link
        os.write(tap, frame)


class Receiver:
    """The kernel's end: accepts one connection and counts what it brings."""

    def __init__(self) -> None:
        with namespace():
            self.tap = _tap(KERNEL4)
            self._listener = socket.create_server((KERNEL4, PORT))
        self._listener.setblocking(False)
        self._socket: socket.socket | None = None
        self._buffer = bytearray(1 << 20)
        self.received = 0

    def descriptors(self) -> list[int]:
        """What to wait for."""
        return [self.tap, (self._socket or self._listener).fileno()]

    def run(self) -> Iterator[bytes]:
        """Reads what has come; the frames that the kernel sends."""
        with contextlib.suppress(BlockingIOError):
            if self._socket is None:
                self._socket, _ = self._listener.accept()
                self._socket.setblocking(False)
            while count := self._socket.recv_into(self._buffer):
                self.received += count
        yield from _frames(self.tap)

    @property
    def accepted(self) -> bool:
        """Is there a connection?"""
        return self._socket is not None

    def close(self) -> None:
        for sock in (self._listener, self._socket):
            if sock is not None:
                sock.close()
        os.close(self.tap)


def measure(cell: Cell, who: str) -> dict[str, Any]:
    """Goodput in bit/s of one sender, "kernel" or "ours", from the end of the handshake on."""
    link, receiver = Link(cell), Receiver()
    sender = KernelSender(cell) if who == "kernel" else OurSender(cell)
    end = time.monotonic() + HANDSHAKE
    counting = False
    while (now := time.monotonic()) < end:
        if receiver.accepted and not counting:
            counting, end = True, now + cell.seconds
        while (due := link.pop(now)) is not None:
            direction, frame = due
            if direction == TO_RECEIVER:
                _deliver(receiver.tap, frame)
            else:
                sender.receive(frame, now)
        # after the deliveries: what they cause must not wait for the next one
        for frame in sender.run(now):
            link.push(TO_RECEIVER, frame, now)
        for frame in receiver.run():
            link.push(TO_SENDER, frame, now)
        readable, writable = sender.descriptors()
        timeout = max(0.0, min(link.deadline, sender.deadline, end) - time.monotonic())
        select.select(readable + receiver.descriptors(), writable, [], timeout)
    result = {"goodput": receiver.received * 8 / cell.seconds, "counters": sender.counters()}
    sender.close()
    receiver.close()
    return result


def measure_apart(cell: Cell, who: str) -> dict[str, Any]:
    """The same in a process of its own."""
    argument = json.dumps([asdict(cell), who])
    done = subprocess.run(
        [sys.executable, "-m", "interop.versus", "--one", argument], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout))


def compare(cell: Cell, rounds: int) -> tuple[float, float]:
    """Mean goodput of ours and of the kernel, over as many seeds as there are rounds."""
    ours, kernels = [], []
    for index in range(rounds):
        seeded = Cell(**{**asdict(cell), "seed": cell.seed + index})
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            mine, theirs = (pool.submit(measure_apart, seeded, who) for who in ("ours", "kernel"))
            ours.append(mine.result()["goodput"])
            kernels.append(theirs.result()["goodput"])
    return statistics.mean(ours), statistics.mean(kernels)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--congestion", default="cubic", help="comma-separated: cubic, reno, bbr")
    parser.add_argument("--rtts", default="1,20,100,300", help="ms, comma-separated")
    parser.add_argument("--losses", default="0,0.001,0.01,0.03,0.1", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=6, help="seeds; means are shown (default: 6)")
    parser.add_argument("--parallel", type=int, default=4, help="cells at a time (default: 4)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fields, who = json.loads(options.one)
        print(json.dumps(measure(Cell(**fields), who)))
        return 0
    cells = [
        Cell(name, float(rtt) / 1000, float(loss), options.seconds)
        for name in options.congestion.split(",")
        for rtt in options.rtts.split(",")
        for loss in options.losses.split(",")
    ]
    print("| congestion | RTT | loss | ours, Mbit/s | kernel's, Mbit/s | ours / kernel's |")
    print("| --- | --: | --: | --: | --: | --: |")
    shares = []
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        for cell, (ours, kernels) in zip(cells, pool.map(lambda c: compare(c, options.rounds), cells), strict=True):
            shares.append(ours / max(kernels, 1.0))
            print(
                f"| {cell.congestion} | {cell.rtt * 1000:.0f} ms | {cell.loss:.1%} | {ours / 1e6:.2f} "
                f"| {kernels / 1e6:.2f} | {shares[-1]:.2f} |",
                flush=True,
            )
    good, short = sum(share >= 0.99 for share in shares), sum(share < 0.8 for share in shares)
    print(f"\n{good} of {len(shares)} cells at the kernel's goodput (99 %) or above, {short} below 80 % of it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
