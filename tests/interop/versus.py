"""Our TCP and the kernel's as senders over the very same bad link: goodput side by side.

    cd tests; python -m interop.versus                                  # as root; a few minutes
    cd tests; python -m interop.versus --congestion bbr --losses 0.01,0.1 --rtts 20,300

Theory of operation
-------------------
The receiver is the kernel, in a network namespace of its own, behind a TAP.  The sender is either the kernel too, in
another namespace behind another TAP, or our engine, driven by this program's own loop.  The loop carries frames
between the two: each direction has a rate, a drop-tail queue, a delay, and loses frames.  Whether the n-th frame of a
direction is lost is decided by the seed, so both senders meet the same pattern.  All runs in real time.

What goes through differs from seed to seed, and even the kernel's two runs over one pattern differ: which segment
the n-th frame is depends on timers.  So each cell is measured over several seeds, and the kernel twice over each: a
share of 0.98 says little where the kernel's second run has 0.96 of its first.  The ± of a share is its standard error.

Cells are measured in processes of their own, as many at a time as --load lets, the senders of a cell together.  On a
machine that is busy with other things, `chrt --rr 20 python -m interop.versus ...` gives them the processor in time;
where this program was held up nevertheless, the three senders run again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import heapq
import itertools
import math
import multiprocessing
import os
import random
import select
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
LINKS = 16  # cells at a time
LATE = 0.02  # seconds that this program may come late to what is due, once; otherwise the cell is measured again
TRIES = 5  # times at most
_IPV4, _TCP = b"\x08\x00", 6


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

    def push(self, direction: int, frame: bytes, now: float, farther: float = 0.0) -> None:
        """Takes a frame in: it is lost, or held until its time has come; `farther`: seconds that its flow adds."""
        spared = frame[12:14] != _IPV4 or frame[23] != _TCP  # ARP, multicast groups: not part of the pattern
        if not spared and self._random[direction].random() < self._cell.loss:
            return
        waiting = max(0.0, self._free[direction] - now) * self._cell.rate / 8
        if waiting > self._cell.queue * FRAME:
            return
        self._free[direction] = max(now, self._free[direction]) + len(frame) * 8 / self._cell.rate
        release = self._free[direction] + self._cell.rtt / 2 + farther
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

    def __init__(self, cell: Cell, address: str = STACK4) -> None:
        with namespace():
            self.tap = _tap(address)
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

    def __init__(self, cell: Cell, address: str = STACK4) -> None:
        self._world = World(cell.seed)
        self._world.checked = False
        self._start = time.monotonic()
        name = ffi.new("char[]", cell.congestion.encode())
        mac = b"\x02\0" + socket.inet_aton(address)
        self._host = self._world.host(f"{address}/24", congestion=name, mac=mac)
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
    """The kernel's end: accepts connections and counts what each address sends."""

    def __init__(self) -> None:
        with namespace():
            self.tap = _tap(KERNEL4)
            self._listener = socket.create_server((KERNEL4, PORT))
        self._listener.setblocking(False)
        self._sockets: dict[str, socket.socket] = {}
        self._buffer = bytearray(1 << 20)
        self.received: Counter[str] = Counter()  #: bytes, by address

    def descriptors(self) -> list[int]:
        """What to wait for."""
        return [self.tap, self._listener.fileno(), *(sock.fileno() for sock in self._sockets.values())]

    def run(self) -> Iterator[bytes]:
        """Reads what has come; the frames that the kernel sends."""
        with contextlib.suppress(BlockingIOError):
            sock, (address, _) = self._listener.accept()
            sock.setblocking(False)
            self._sockets[address] = sock
        for address, sock in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while count := sock.recv_into(self._buffer):
                    self.received[address] += count
        yield from _frames(self.tap)

    @property
    def accepted(self) -> int:
        """How many connections there are."""
        return len(self._sockets)

    def close(self) -> None:
        for sock in (self._listener, *self._sockets.values()):
            sock.close()
        os.close(self.tap)


Sender = KernelSender | OurSender


@dataclass(frozen=True)
class Carried:
    """What came of a run."""

    received: dict[str, int]  #: bytes from each address
    late: float  #: seconds that this program was held up, once, at most


def interleaved(batches: Sequence[Sequence[bytes]]) -> list[tuple[int, bytes]]:
    """What senders have sent since the last look, with their indices, as if each had sent at even distances.

    One behind the other, the first sender's frames would find the most room in the queue after each pause of this
    program.
    """
    order = [
        ((number + 0.5) / len(batch), index, frame)
        for index, batch in enumerate(batches)
        for number, frame in enumerate(batch)
    ]
    order.sort(key=lambda entry: entry[0])
    return [(index, frame) for _, index, frame in order]


def carry(
    link: Link, receiver: Receiver, senders: Sequence[Sender], seconds: float, *, skip: float = 0.0, far: float = 0.0
) -> Carried:
    """Carries frames for so long from when all are connected, and counts from `skip` seconds on.

    The last sender is `far` seconds farther away, one way.
    """
    end = time.monotonic() + HANDSHAKE
    connected, counting, late = False, math.inf, 0.0
    before: Counter[str] = Counter()
    owners: dict[bytes, int] = {}
    last = len(senders) - 1
    while (now := time.monotonic()) < end:
        if receiver.accepted == len(senders) and not connected:
            connected, counting, end = True, now + skip, now + seconds
        if now >= counting:
            counting, before = math.inf, receiver.received.copy()
        while (due := link.pop(now)) is not None:
            direction, frame = due
            if direction == TO_RECEIVER:
                _deliver(receiver.tap, frame)
            else:
                owner = owners.get(frame[:6])
                for sender in senders if owner is None else (senders[owner],):  # all hear what is for groups
                    sender.receive(frame, now)
        # after the deliveries: what they cause must not wait for the next one
        for index, frame in interleaved([[*sender.run(now)] for sender in senders]):
            owners[frame[6:12]] = index
            link.push(TO_RECEIVER, frame, now, far if index == last else 0.0)
        for frame in receiver.run():
            link.push(TO_SENDER, frame, now, far if owners.get(frame[:6]) == last else 0.0)
        readable, writable = receiver.descriptors(), []
        wake = min(link.deadline, end)
        for sender in senders:
            more_readable, more_writable = sender.descriptors()
            readable += more_readable
            writable += more_writable
            wake = min(wake, sender.deadline)
        wake = max(time.monotonic(), wake)
        select.select(readable, writable, [], max(0.0, wake - time.monotonic()))
        late = max(late, time.monotonic() - wake)
    return Carried({address: count - before[address] for address, count in receiver.received.items()}, late)


def measure(cell: Cell, who: str) -> dict[str, Any]:
    """Goodput in bit/s of one sender, "kernel" or "ours", from the end of the handshake on."""
    link, receiver = Link(cell), Receiver()
    sender: Sender = KernelSender(cell) if who == "kernel" else OurSender(cell)
    run = carry(link, receiver, [sender], cell.seconds)
    goodput = sum(run.received.values()) * 8 / cell.seconds
    result = {"goodput": goodput, "late": run.late, "counters": sender.counters()}
    sender.close()
    receiver.close()
    return result


# ---- many cells ----------------------------------------------------------------------------------------------

SENDERS = ("ours", "kernel", "kernel")  # the kernel twice: what it differs from itself by is noise


def weight(cell: Cell) -> float:
    """About what a sender will get, in Mbit/s: how much work its link makes."""
    if not cell.loss or cell.congestion == "bbr":
        return cell.rate / 1e6
    by_loss = 1.2 * 1448 * 8 / cell.rtt / math.sqrt(cell.loss)  # Mathis et al. (1997)
    return min(cell.rate, by_loss) / 1e6


@dataclass(frozen=True)
class Comparison:
    """Goodputs in bit/s, one for each seed."""

    ours: list[float]
    kernels: list[float]
    again: list[float]  #: the kernel's over the same patterns once more
    disturbed: int = 0  #: seeds whose runs were held up each time

    @property
    def share(self) -> float:
        """Ours over the kernel's."""
        return self._share(range(len(self.ours)))

    def _share(self, seeds: Iterable[int]) -> float:
        seeds = list(seeds)
        theirs = sum(self.kernels[i] + self.again[i] for i in seeds) / 2
        return sum(self.ours[i] for i in seeds) / max(theirs, 1.0)

    @property
    def error(self) -> float:
        """Standard error of that, by the jackknife: each seed is left out once."""
        count = len(self.ours)
        if count < 2:
            return math.nan
        parts = [self._share(j for j in range(count) if j != i) for i in range(count)]
        return math.sqrt((count - 1) / count * sum((part - statistics.mean(parts)) ** 2 for part in parts))

    @property
    def itself(self) -> float:
        """The kernel's second runs over its first ones."""
        return sum(self.again) / max(sum(self.kernels), 1.0)


class Runs:
    """Measures cells over seeds, as many at a time as there is room for; a cell's senders at the same time."""

    def __init__(
        self,
        cells: Iterable[Cell],
        load: float,
        measured: Callable[[Any, str], dict[str, Any]] = measure,
        senders: Sequence[str] = SENDERS,
        late: float = LATE,
    ) -> None:
        self._load = load
        self._late = late
        self._measure = measured
        self._senders = senders
        self._waiting = sorted(cells, key=weight)
        self._tries: dict[Cell, int] = {}
        self._running: dict[Cell, list[concurrent.futures.Future[dict[str, Any]]]] = {}
        self._pool = concurrent.futures.ProcessPoolExecutor(
            len(senders) * LINKS, mp_context=multiprocessing.get_context("fork")
        )
        self.done: dict[Cell, list[Any]] = {}  #: the goodputs of the senders
        self.disturbed: set[Cell] = set()  #: of those that are done: held up each time

    def step(self) -> None:
        """Starts what there is room for, and waits until something has ended."""
        busy = sum(weight(cell) for cell in self._running) * len(self._senders)
        for cell in [*self._waiting]:
            needed = weight(cell) * len(self._senders)
            if len(self._running) < LINKS and (not self._running or busy + needed <= self._load):
                self._waiting.remove(cell)
                self._running[cell] = [self._pool.submit(self._measure, cell, who) for who in self._senders]
                busy += needed
        pending = [future for futures in self._running.values() for future in futures if not future.done()]
        concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        for cell, futures in [*self._running.items()]:
            if all(future.done() for future in futures):
                del self._running[cell]
                self._end(cell, [future.result() for future in futures])

    def _end(self, cell: Cell, results: list[dict[str, Any]]) -> None:
        self._tries[cell] = self._tries.get(cell, 0) + 1
        late = any(result["late"] > self._late for result in results)
        if late and self._tries[cell] < TRIES:
            self._waiting.append(cell)
        else:
            if late:
                self.disturbed.add(cell)
            self.done[cell] = [result["goodput"] for result in results]

    def close(self) -> None:
        """Ends its processes."""
        self._pool.shutdown(cancel_futures=True)


def compare(cells: Sequence[Cell], rounds: int, load: float) -> Iterator[tuple[Cell, Comparison]]:
    """Measures all cells, in order.

    `load` is how many Mbit/s may be in flight at once, so that this program is never what a sender waits for.  Links
    that carry little are cheap, and their goodput differs most from seed to seed: they get four times as many seeds.
    """
    seeded = {
        cell: [replace(cell, seed=cell.seed + i) for i in range(rounds * (4 if weight(cell) < cell.rate / 4e6 else 1))]
        for cell in cells
    }
    runs = Runs(itertools.chain.from_iterable(seeded.values()), load)
    try:
        for cell, ones in seeded.items():
            while not all(one in runs.done for one in ones):
                runs.step()
            ours, kernels, again = zip(*(runs.done[one] for one in ones), strict=True)
            yield cell, Comparison([*ours], [*kernels], [*again], len(runs.disturbed.intersection(ones)))
    finally:
        runs.close()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--congestion", default="cubic", help="comma-separated: cubic, reno, bbr")
    parser.add_argument("--rtts", default="1,20,100,300", help="ms, comma-separated")
    parser.add_argument("--losses", default="0,0.001,0.01,0.03,0.1", help="comma-separated")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=6, help="seeds, four times as many on slow links (default: 6)")
    parser.add_argument("--load", type=float, default=60.0, help="Mbit/s that may be in flight at once (default: 60)")
    options = parser.parse_args()
    cells = [
        Cell(name, float(rtt) / 1000, float(loss), options.seconds)
        for name in options.congestion.split(",")
        for rtt in options.rtts.split(",")
        for loss in options.losses.split(",")
    ]
    print("| congestion | RTT | loss | seeds | ours, Mbit/s | kernel's | ours / kernel's | kernel's / itself |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    found = []
    for cell, what in compare(cells, options.rounds, options.load):
        found.append(what)
        kernels = statistics.mean(what.kernels + what.again)
        print(
            f"| {cell.congestion} | {cell.rtt * 1000:.0f} ms | {cell.loss:.1%} | {len(what.ours)} "
            f"| {statistics.mean(what.ours) / 1e6:.3f} | {kernels / 1e6:.3f} "
            f"| {what.share:.2f} ± {what.error:.2f} | {what.itself:.2f} |",
            flush=True,
        )
    good, short = sum(what.share >= 0.99 for what in found), sum(what.share < 0.8 for what in found)
    disturbed = sum(what.disturbed for what in found)
    noise = sum(0.99 - 2 * what.error <= what.share < 0.99 for what in found)
    print(
        f"\n{good} of {len(found)} cells at the kernel's goodput (99 %) or above, {noise} more within two standard "
        f"errors of that, {short} below 80 %. The machine held {disturbed} runs up for more than {LATE * 1e3:.0f} ms."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
