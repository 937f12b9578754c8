"""`aiomultistack bench switch`: how many frames a second the switch moves between processes' ports.

The switch's thread has one core; all clients are one thread on another (native/io/bench_switch.c): it writes each
frame's headers, reads the start of each frame that arrives, and sends as fast as slots come back.  Each frame's
source is checked against the table of tuples, and its destination looked up there; then it is copied.  Rounds
alternate between the cells, and a cell's figure is the median of its rounds.

The rings have 128 slots each.  Every slot has a buffer of its own, so that longer rings at many ports are more memory
than the caches hold; `--slots` shows what that costs.

Latency is the time from before a frame is written until after it was read, between two ports: with few frames
(an idle switch, which polls a while before it sleeps), and with a half and nine tenths of what the switch moved
just before.  The load is paced; probes in it carry numbers, so that those which are lost are counted and all others
still tell their time.

`--peer dpdk` runs DPDK's testpmd beside it, in the same rounds: it forwards between two memif ports, which is the
same kind of ring in shared memory, and looks nothing up.  A second testpmd, on the load's core, sends back what it
gets.

As root it ends with the packet rate of `xdp:` on a veth pair, which has AF_XDP in copy mode only: what to expect of
an uplink (`aiomultistack bench port` has more of it).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from aiomultistack import _bench_port, _netns
from aiomultistack._bench import cores, machine
from aiomultistack._node import ffi, lib
from aiomultistack._ui import Steps, fail

SIZES = (64, 128, 256, 512, 1024, 1514)
PORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FAMILIES = (4, 6)
IDLE_RATE = 10_000  # frames a second through an "idle" switch
IDLE_TIMES = 7  # longer than others: with few probes, whatever else gets a core for 3 ms would be a short run's p99
LOADS = (("half", 0.5), ("90 %", 0.9))  # of what the switch can move
LINE = 24  # bytes that a frame takes on a wire besides its own: check sequence, preamble, gap


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    sizes: Sequence[int] = SIZES  # bytes of a frame, without its check sequence
    ports: Sequence[int] = PORTS
    families: Sequence[int] = FAMILIES
    slots: int = 128  # of each ring
    spread: bool = False  # each frame to another port, instead of to the neighbour
    seconds: float = 0.3
    rounds: int = 3
    peer: str = ""
    xdp: bool = False  # measure `xdp:` on a veth pair too

    @property
    def cells(self) -> list[tuple[int, int, int]]:
        """Family, ports, size: each size at two ports, and each number of ports at the smallest size."""
        pairs = dict.fromkeys([(2, size) for size in self.sizes] + [(ports, self.sizes[0]) for ports in self.ports])
        if 2 not in self.ports:
            pairs = dict.fromkeys((ports, size) for ports in self.ports for size in self.sizes)
        return [(family, ports, size) for family in self.families for ports, size in pairs]


@dataclass(frozen=True)
class Run:
    """One measurement of a cell."""

    frames: int
    nanoseconds: int
    dropped: int
    wakeups: int
    kicks: int

    @property
    def mpps(self) -> float:
        """Millions of frames a second that arrived."""
        return self.frames / self.nanoseconds * 1e3


@dataclass
class Cell:
    """All runs of one family, number of ports and size."""

    family: int
    ports: int
    size: int
    runs: list[Run] = field(default_factory=list)

    @property
    def mpps(self) -> float:
        """The median."""
        return statistics.median(run.mpps for run in self.runs)

    @property
    def gbps(self) -> float:
        """Gb/s on a wire that carried these frames."""
        return self.mpps * (self.size + LINE) * 8 / 1e3


@dataclass(frozen=True)
class Latency:
    """One way through the switch, in ns."""

    load: str
    rate: float  # frames a second that were sent
    p50: int
    p99: int
    samples: int  # 0: not one probe arrived
    probes: int = 0
    lost: int = 0  # of the probes


@dataclass
class Result:
    """What came of a plan."""

    plan: Plan
    cores: tuple[int, int]  # the switch's and the load's
    cells: list[Cell]
    latencies: list[Latency] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)  # Mpps of testpmd, round by round
    xdp: _bench_port.Result | None = None

    @property
    def reference(self) -> Cell | None:
        """The cell that the peer is compared with: two ports, the smallest frames."""
        return next((cell for cell in self.cells if cell.ports == 2 and cell.size == self.plan.sizes[0]), None)

    @property
    def ratio(self) -> float | None:
        """Our rate as a multiple of the peer's; None if there is no peer."""
        if not self.peer or self.reference is None:
            return None
        return self.reference.mpps / statistics.median(self.peer)

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        cells = [{**asdict(cell), "mpps": round(cell.mpps, 3), "gbps": round(cell.gbps, 2)} for cell in self.cells]
        return {
            "machine": machine(),
            "cores": {"switch": self.cores[0], "load": self.cores[1]},
            "slots": self.plan.slots,
            "spread": self.plan.spread,
            "cells": cells,
            "latency": [asdict(latency) for latency in self.latencies],
            "peer": {"name": self.plan.peer, "mpps": self.peer, "ratio": self.ratio} if self.plan.peer else None,
            "xdp": self.xdp.as_dict()["runs"] if self.xdp is not None else None,
        }


def _run(where: tuple[int, int], **plan: Any) -> Any:
    """One run of the native benchmark: struct ams_bench_switch_result."""
    result = ffi.new("struct ams_bench_switch_result *")
    error = ffi.new("char[]", 256)
    wanted = {"threaded": 1, "switch_cpu": where[0], "load_cpu": where[1], **plan}
    status = lib.ams_bench_switch(ffi.new("struct ams_bench_switch_plan *", wanted), result, error, len(error))
    if status < 0:
        fail(f"bench switch: {ffi.string(error).decode()}")
    return result


def measure(plan: Plan, progress: Steps) -> Result:
    """Runs the whole benchmark."""
    check(plan)
    where = cores()
    result = Result(plan, where, [Cell(*cell) for cell in plan.cells])
    duration = max(1, round(plan.seconds * 1000))
    with _peer(plan, where) as peer:
        for number in range(1, plan.rounds + 1):
            for cell in result.cells:
                what = f"round {number} of {plan.rounds}: IPv{cell.family}, {cell.ports} ports, {cell.size} bytes"
                progress.say(what)
                got = _run(where, ports=cell.ports, size=cell.size, v6=int(cell.family == 6),
                           slots=plan.slots, spread=int(plan.spread), duration_ms=duration)  # fmt: skip
                cell.runs.append(Run(got.frames, got.nanoseconds, got.dropped, got.wakeups, got.kicks))
                progress.say(what, 1)
            if peer is not None:
                progress.say(f"round {number} of {plan.rounds}: testpmd")
                result.peer.append(peer.measure(plan.seconds))
    result.latencies = _latencies(result, progress)
    if plan.xdp:  # last: it leaves us in another network namespace
        result.xdp = _bench_port.measure("xdp", plan.sizes[:1], max(plan.seconds, 0.1), plan.rounds, progress)
    return result


def _latencies(result: Result, progress: Steps) -> list[Latency]:
    """Sends probes through an idle and a loaded switch."""
    plan, found = result.plan, []
    common = {"ports": 2, "size": plan.sizes[0], "v6": int(plan.families[0] == 6), "slots": plan.slots,
              "duration_ms": max(1, round(plan.seconds * 1000))}  # fmt: skip
    progress.say("latency: what the switch moves at most")
    full = statistics.median(
        got.frames / got.nanoseconds * 1e9 for got in (_run(result.cores, **common) for _ in range(plan.rounds))
    )
    for load, rate in (("idle", float(IDLE_RATE)), *((name, max(full * part, 1.0)) for name, part in LOADS)):
        progress.say(f"latency: {load}")
        common["duration_ms"] = max(round(plan.seconds * 1000) * (IDLE_TIMES if load == "idle" else 1), 200)
        got = _run(result.cores, latency=1, rate=int(rate), **common)
        sent = got.sent / got.nanoseconds * 1e9
        found.append(Latency(load, sent, got.p50_ns, got.p99_ns, got.samples, got.probes, got.probes_lost))
    return found


def check(plan: Plan) -> None:
    """Fails with a sentence if this machine cannot run the plan."""
    if min(plan.sizes) < 64:
        fail("bench switch takes frames from 64 bytes on: what UDP over IPv6 needs")
    if plan.xdp and _netns.why_not():
        fail(f"--xdp makes network namespaces, which cannot be done here: {_netns.why_not()}")
    if plan.peer == "dpdk" and shutil.which("dpdk-testpmd") is None:
        fail("--peer dpdk needs DPDK's testpmd and its memif driver; try: apt-get install dpdk-dev librte-net-memif23")


# ---- testpmd ---------------------------------------------------------------------------


class _Testpmd:
    """One testpmd with two memif ports, between which it forwards."""

    def __init__(self, directory: str, role: str, core: int) -> None:
        self._log: IO[str] = open(Path(directory) / f"{role}.log", "w+")  # noqa: SIM115 (stop() closes it)
        command = [
            "stdbuf", "-oL", "dpdk-testpmd", f"--lcores=0@{core},1@{core}", "--no-huge", "-m", "256", "--no-pci",
            "--no-telemetry",
            f"--file-prefix=aiomultistack-{role}-{os.getpid()}",
            *(f"--vdev=net_memif{i},role={role},id={i},socket={directory}/{i}.sock,socket-abstract=no"
              for i in (0, 1)),
            "--", "-i", "--nb-cores=1", "--forward-mode=io", "--total-num-mbufs=16384",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT,
                                         text=True, bufsize=1)  # fmt: skip
        self.expect("testpmd>", 1)

    def say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")

    def output(self) -> str:
        """All that it has printed."""
        self._log.seek(0)
        return self._log.read()

    def expect(self, pattern: str, number: int) -> list[str]:
        """Waits until it has printed a pattern a number of times; what the pattern's group matched."""
        limit = time.monotonic() + 60
        while len(found := re.findall(pattern, self.output())) < number:
            if self._process.poll() is not None or time.monotonic() > limit:
                fail(f"testpmd doesn't run; the last it said: {self.output().strip()[-500:]}")
            time.sleep(0.02)
        return found

    def packets(self) -> int:
        """Frames that it has received on both ports."""
        pattern = r"RX-packets:\s+(\d+)"
        before = len(re.findall(pattern, self.output()))
        self.say("show port stats all")
        return sum(map(int, self.expect(pattern, before + 2)[before : before + 2]))

    def stop(self) -> None:
        self.say("stop")
        self.say("quit")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._log.close()


class _Peer:
    """A testpmd under test, and one that sends it back what it sends."""

    def __init__(self, directory: str, where: tuple[int, int]) -> None:
        self.switch = _Testpmd(directory, "server", where[0])
        try:
            self.load = _Testpmd(directory, "client", where[1])
        except BaseException:
            self.switch.stop()
            raise

    def measure(self, seconds: float) -> float:
        """Millions of frames a second."""
        self.switch.say("start")
        self.load.say("start tx_first 16")
        time.sleep(0.3)
        start, before = time.monotonic(), self.switch.packets()
        time.sleep(seconds)
        after, elapsed = self.switch.packets(), time.monotonic() - start
        self.load.say("stop")
        self.switch.say("stop")
        time.sleep(0.1)
        return (after - before) / elapsed / 1e6

    def stop(self) -> None:
        self.load.stop()
        self.switch.stop()


@contextlib.contextmanager
def _peer(plan: Plan, where: tuple[int, int]) -> Iterator[_Peer | None]:
    """Starts what we are compared with, and ends it."""
    if not plan.peer:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="aiomultistack-") as directory:
        peer = _Peer(directory, where)
        try:
            yield peer
        finally:
            peer.stop()
