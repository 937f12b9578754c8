"""`aiomultistack bench engine`: what one segment costs the engine alone.

No port, no switch, no Python: C code plays the peers and times the engine, see native/io/bench_engine.c.  Each
connection is served in turn, in random order, so that the columns show what the caches make of many connections.  The
work itself doesn't grow with them: a second table has a few that are served beside many that are established and
silent.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aiomultistack._bench import machine
from aiomultistack._node import check_status, ffi, lib
from aiomultistack._ui import Steps

KINDS: dict[str, tuple[int, str]] = {
    "ack": (lib.AMS_BENCH_ACK, "ACK of two segments"),
    "data": (lib.AMS_BENCH_DATA, "data in order"),
    "train": (lib.AMS_BENCH_TRAIN, "data in order, trains of 16"),
    "sack": (lib.AMS_BENCH_SACK, "data, every second early"),
    "connection": (lib.AMS_BENCH_CONNECTION, "accept, close"),
    "transaction": (lib.AMS_BENCH_TRANSACTION, "accept, request, 1 KB, close"),
}
PASSING = ("connection", "transaction")  # kinds whose connections come and go
BESIDE_IDLE = 10  # connections that are served beside idle ones


@dataclass(frozen=True)
class Run:
    """One measurement."""

    kind: str
    connections: int  # that are served
    idle: int  # beside them
    operations: int
    nanoseconds: int  # in the engine, all operations together
    interrupted: int  # operations besides, not counted because something else ran meanwhile
    bytes: int  # payload that the application read or that was acknowledged
    memory: int  # bytes of C that the idle connections took, all together
    endpoints: int  # at the end, the listener included

    @property
    def each(self) -> float:
        """Nanoseconds per operation."""
        return self.nanoseconds / self.operations


@dataclass(frozen=True)
class Result:
    """All measurements of one run of the benchmark."""

    runs: list[Run]

    def median(self, kind: str, connections: int, idle: int = 0) -> float:
        """Nanoseconds per operation."""
        return statistics.median(run.each for run in self._of(kind, connections, idle))

    def memory(self, kind: str, connections: int) -> float:
        """Bytes of C per idle connection."""
        return self._of(kind, connections, 0)[0].memory / connections

    def _of(self, kind: str, connections: int, idle: int) -> list[Run]:
        return [run for run in self.runs if (run.kind, run.connections, run.idle) == (kind, connections, idle)]

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {"machine": machine(), "runs": [{**asdict(run), "ns_each": run.each} for run in self.runs]}


def run(kind: str, connections: int, operations: int, idle: int = 0) -> Run:
    """Measures at least `operations` operations of one kind, spread over `connections`, beside `idle` others.

    Raises OSError (ENOMEM) when there is not enough memory.
    """
    result = ffi.new("struct ams_bench_result *")
    check_status(lib.ams_bench_engine(KINDS[kind][0], connections, idle, operations, result))
    return Run(
        kind,
        connections,
        idle,
        result.operations,
        result.nanoseconds,
        result.interrupted,
        result.bytes,
        result.memory,
        result.endpoints,
    )


def measure(cells: Sequence[tuple[int, int]], rounds: int, operations: int, progress: Steps) -> Result:
    """Measures all kinds with each pair of connections that are served and idle ones, `rounds` times in turn."""
    runs = []
    for number in range(rounds):
        for kind in KINDS:
            for count, idle in cells:
                beside = f" beside {idle:,}" if idle else ""
                progress.say(f"round {number + 1}: {KINDS[kind][1]}, {count:,} connections{beside}", 1)
                wanted = operations // 5 if kind in PASSING else operations
                runs.append(run(kind, count, max(wanted, 2 * count), idle))
    return Result(runs)
