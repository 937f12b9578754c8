"""`aiomultistack bench http`: user-space TCP beside the kernel's, on this machine, in one run.

Theory of operation
-------------------
The benchmark moves itself into a network namespace without a name, the clients'.  Server processes run
the same program (`_bench_server`) on different loops:

  multistack      our loop; its TAP's kernel side is in the clients' namespace
  multistack-xdp  our loop over AF_XDP at the end of a veth pair, in a namespace of its own
  uvloop          uvloop on the kernel's TCP, likewise
  asyncio         asyncio's selector loop, likewise

All servers are pinned to one core, wrk to another.  Only one is asked at a time; the idle ones use no
CPU.  A cell is one flavour, mode and response size; the cells' runs alternate between the flavours, round
after round, so that a change in the machine's mood hits all alike, and a cell's figure is the median
of its rounds.

CPU per request is the server process's user and system time, from getrusage(2) by the server
itself, divided by the requests that it answered.  That is what users pay for a server, but no like for like
comparison of stacks: whoever sends a packet runs its receiver's half of the kernel too.  On a veth pair each
side pays for the other's; on a TAP the server, whose write(2) runs the client's TCP, pays for the client
and is paid nothing back.  So wrk's CPU per request is given as well: the sum of the two is fair.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from aiomultistack import _netns
from aiomultistack._bench_server import ServerSpec, command
from aiomultistack._ui import Steps, fail, invocation

FLAVOURS = ("multistack", "uvloop", "asyncio")
BASELINE = "uvloop"
MODES = ("keep-alive", "close")
SIZES = (1, 4, 8, 16, 24, 32)

#: Prints wrk's own figures as JSON.  No response() here: it would slow wrk down.
_WRK_SCRIPT = """
done = function(summary, latency, requests)
  io.write(string.format('\\nJSON {"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, ' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect, summary.errors.read, summary.errors.write,
    summary.errors.status, summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    flavours: Sequence[str] = FLAVOURS
    modes: Sequence[str] = MODES
    sizes: Sequence[int] = SIZES  # KB of response body
    seconds: int = 2
    rounds: int = 3
    connections: int = 64
    app: str = "protocol"
    config: dict[str, Any] = field(default_factory=dict)  # more fields of our Config

    @property
    def runs(self) -> int:
        """How often wrk will be run."""
        return len(self.flavours) * (1 + len(self.modes) * len(self.sizes) * self.rounds)


@dataclass(frozen=True)
class Run:
    """One run of wrk."""

    requests_per_s: float
    cpu_us: float  # of the server per request, user and system
    user_us: float
    client_us: float  # of wrk per request, user and system
    p50_us: float
    p99_us: float
    connections: int  # that the server accepted
    errors: dict[str, int]  # by kind, those that occurred


@dataclass
class Cell:
    """All runs of one flavour, mode and size."""

    flavour: str
    mode: str
    size: int  # bytes
    runs: list[Run] = field(default_factory=list)

    def median(self, name: str) -> float:
        """The median of a figure of `Run` over the rounds."""
        return float(statistics.median(getattr(run, name) for run in self.runs))

    @property
    def errors(self) -> dict[str, int]:
        """wrk's errors of all rounds."""
        total: dict[str, int] = {}
        for run in self.runs:
            for kind, number in run.errors.items():
                total[kind] = total.get(kind, 0) + number
        return total

    def as_dict(self) -> dict[str, Any]:
        """The cell for JSON: the medians and every run."""
        names = ("requests_per_s", "cpu_us", "user_us", "client_us", "p50_us", "p99_us")
        return {
            "flavour": self.flavour,
            "mode": self.mode,
            "size": self.size,
            **{name: round(self.median(name), 2) for name in names},
            "errors": self.errors,
            "runs": [asdict(run) for run in self.runs],
        }


@dataclass(frozen=True)
class Result:
    """What came of a plan."""

    plan: Plan
    cells: list[Cell]
    cores: tuple[int, int]  # the server's and wrk's
    machine: dict[str, str]

    def ratio(self, cell: Cell, figure: str = "cpu_us") -> float | None:
        """A cell's figure as a multiple of uvloop's in the same mode and size; None where there is none."""
        for other in self.cells:
            if (other.flavour, other.mode, other.size) == (BASELINE, cell.mode, cell.size):
                return cell.median(figure) / other.median(figure) if other is not cell else None
        return None

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "machine": self.machine,
            "cores": {"server": self.cores[0], "wrk": self.cores[1]},
            "seconds": self.plan.seconds,
            "rounds": self.plan.rounds,
            "connections": self.plan.connections,
            "app": self.plan.app,
            "cells": [{**cell.as_dict(), "cpu_of_uvloop": _rounded(self.ratio(cell))} for cell in self.cells],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class Server:
    """A server process, seen from the benchmark."""

    def __init__(self, spec: ServerSpec, link: str) -> None:
        self.spec = spec
        self.link = link
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (stop() closes it)
        self.process = subprocess.Popen(
            command(spec), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1
        )

    def start(self) -> None:
        """Gives it its link and waits until it listens."""
        if self.spec.isolated:
            self.expect("isolated")
            _netns.veth(self.link, "eth0", self.process.pid)
            _netns.configure(self.link, [self.spec.client])
            self._tell()
        self.expect("ready")

    def tally(self) -> dict[str, float]:
        """Asks what it has done so far."""
        self._tell()
        return self.expect("tally")

    def _tell(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # expect() will say why
            self.process.stdin.write("\n")

    def expect(self, event: str) -> dict[str, Any]:
        """Reads one line, which must be about `event`; otherwise fails with what the server said last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(5)
            fail(f"the {self.spec.flavour} server ended unexpectedly:\n{self.complaints()}")
        message: dict[str, Any] = json.loads(line)
        if message.pop("event") != event:
            fail(f"the {self.spec.flavour} server said {line.strip()!r}, expected {event!r}")
        return message

    def complaints(self) -> str:
        """The last that it wrote to its standard error."""
        self._errors.seek(0)
        return self._errors.read().strip()[-2000:]

    def stop(self) -> None:
        """Ends it: politely, or not."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._errors.close()


def check(plan: Plan) -> None:
    """Fails with a sentence if this machine or user cannot run the benchmark."""
    missing = _netns.why_not()
    if missing == "not root":
        fail(f"bench http makes network namespaces and a TAP and so needs root; try: sudo {invocation()} bench http")
    if missing:
        fail(missing)
    if shutil.which("wrk") is None:
        fail("bench http needs the load generator wrk; try: apt-get install wrk")
    if plan.app == "aiohttp":
        try:
            metadata.version("aiohttp")
        except metadata.PackageNotFoundError:
            fail("--app aiohttp needs aiohttp; try: pip install aiohttp")


def cores() -> tuple[int, int]:
    """The cores for the server and for wrk; the same one twice if there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[-1], usable[0]


def measure(plan: Plan, progress: Steps) -> Result:
    """Runs the whole benchmark.  Leaves this process in a namespace of its own, pinned to wrk's core."""
    check(plan)
    server_core, client_core = cores()
    _netns.unshare()
    _netns.widen_ports()
    os.sched_setaffinity(0, {client_core})
    cells = {
        (flavour, mode, size): Cell(flavour, mode, size * 1024)
        for mode in plan.modes
        for size in plan.sizes
        for flavour in plan.flavours
    }
    with _servers(plan, server_core) as servers, _script() as script:
        for flavour in plan.flavours:
            progress.say(f"{flavour}: warming up", 0)
            run_wrk(servers[flavour], plan, script, plan.modes[0], plan.sizes[0] * 1024, seconds=1)
            progress.say(f"{flavour}: warming up", 1)
        for number in range(plan.rounds):
            for mode in plan.modes:
                for size in plan.sizes:
                    for flavour in plan.flavours:
                        progress.say(f"round {number + 1} of {plan.rounds}: {flavour}, {mode}, {size} KB", 0)
                        cell = cells[flavour, mode, size]
                        cell.runs.append(run_wrk(servers[flavour], plan, script, mode, cell.size, plan.seconds))
                        progress.say(f"round {number + 1} of {plan.rounds}: {flavour}, {mode}, {size} KB", 1)
    return Result(plan, list(cells.values()), (server_core, client_core), machine())


@contextlib.contextmanager
def _servers(plan: Plan, core: int) -> Iterator[dict[str, Server]]:
    """Starts a server of each flavour, and ends them all."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for number, flavour in enumerate(plan.flavours, 1):
            spec = ServerSpec(
                flavour=flavour,
                address=f"10.77.{number}.2/24",
                client=f"10.77.{number}.1/24",
                sizes=[size * 1024 for size in plan.sizes],
                app=plan.app,
                cpu=core,
                config=plan.config if flavour.startswith("multistack") else {},
            )
            servers[flavour] = Server(spec, f"bench{number}")
            stack.callback(servers[flavour].stop)
        for server in servers.values():
            server.start()
        yield servers


@contextlib.contextmanager
def _script() -> Iterator[str]:
    """wrk's script as a file."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", prefix="aiomultistack-") as file:
        file.write(_WRK_SCRIPT)
        file.flush()
        yield file.name


def run_wrk(server: Server, plan: Plan, script: str, mode: str, size: int, seconds: int) -> Run:
    """Loads `server` for `seconds` and returns what came of it."""
    arguments = ["wrk", "-t1", f"-c{plan.connections}", f"-d{seconds}s", "--latency", "--timeout", "5s", "-s", script]
    if mode == "close":
        arguments += ["-H", "Connection: close"]
    before, client_before = server.tally(), _children_us()
    result = subprocess.run(
        [*arguments, f"http://{server.spec.host}/{size}"], capture_output=True, text=True, timeout=seconds + 60,
        check=False,
    )
    after, client_after = server.tally(), _children_us()
    report = parse_wrk(result.stdout)
    if report is None:
        fail(f"wrk failed on the {server.spec.flavour} server: {(result.stderr or result.stdout).strip()}")
    done = {name: after[name] - before[name] for name in before}
    if done["requests"] <= 0 or report["requests"] == 0:
        fail(
            f"the {server.spec.flavour} server answered no request ({mode}, {size} bytes); it says:\n"
            f"{server.complaints()}"
        )
    return Run(
        requests_per_s=report["requests"] / report["duration_us"] * 1e6,
        cpu_us=done["cpu_us"] / done["requests"],
        user_us=done["user_us"] / done["requests"],
        client_us=(client_after - client_before) / done["requests"],
        p50_us=report["p50_us"],
        p99_us=report["p99_us"],
        connections=int(done["connections"]),
        errors={
            kind: int(report[kind]) for kind in ("connect", "read", "write", "status", "timeout") if report[kind]
        },
    )


def _children_us() -> float:
    """CPU time of this process's children that have ended, in µs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e6


def parse_wrk(output: str) -> dict[str, float] | None:
    """The line of figures that our script makes wrk print; None if there is none."""
    for line in output.splitlines():
        if line.startswith("JSON "):
            figures: dict[str, float] = json.loads(line[5:])
            return figures
    return None


def machine() -> dict[str, str]:
    """What the figures hold for."""
    versions = {}
    for name in ("aiomultistack", "uvloop", "aiohttp"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": model,
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def interruptible() -> None:
    """Makes SIGTERM end the benchmark the way ^C does, so that its servers end too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
