"""`aiomultistack bench port`: how many frames a second a port receives, sends and echoes.

The port is at one end of a veth pair, in a process with a core and a network namespace of its own.  At the other
end, on another core:

  receive  another port of the same kind sends as fast as it can
  send     the kernel, which drops what is for nobody
  echo     another port sends as fast as it can and doesn't look at what comes back

Frames are counted, and CPU time taken, in the process under test.  On a veth pair the kernel's work for a
frame is done by whoever happens to run, so that a part of what sending costs may be the other end's.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from aiomultistack import _netns
from aiomultistack._bench import cores, machine
from aiomultistack._node import check_status, ffi, lib
from aiomultistack._ui import Steps, fail, invocation

KINDS = ("receive", "send", "echo")
SIZES = (64, 256, 1514)
_WHAT = {"receive": lib.AMS_BENCH_RECEIVE, "send": lib.AMS_BENCH_SEND, "echo": lib.AMS_BENCH_ECHO}
_LINK = "ams0"
_OTHER = "ams1"
_ETHERTYPE = 0x88B5  # for experiments (IEEE 802): the kernel drops it
_LEAD = 0.2  # seconds that the other end sends before and after


@dataclass(frozen=True)
class Run:
    """One measurement."""

    kind: str
    size: int  # bytes of a frame, without its checksum
    frames: int
    nanoseconds: int
    cpu_ns: float  # of the process under test, user and system, all together

    @property
    def mpps(self) -> float:
        """Millions of frames a second."""
        return self.frames / self.nanoseconds * 1e3

    @property
    def cpu_each(self) -> float:
        """Nanoseconds of CPU time per frame."""
        return self.cpu_ns / self.frames if self.frames else 0.0


@dataclass(frozen=True)
class Result:
    """All measurements of one run of the benchmark."""

    port: str
    runs: list[Run]

    def median(self, kind: str, size: int, figure: str) -> float:
        """The median of a figure of `Run` over the rounds."""
        wanted = (run for run in self.runs if (run.kind, run.size) == (kind, size))
        return float(statistics.median(getattr(run, figure) for run in wanted))

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        runs = [{**asdict(run), "mpps": run.mpps, "cpu_ns_each": run.cpu_each} for run in self.runs]
        return {"machine": machine(), "port": self.port, "runs": runs}


class _Worker:
    """A process with a port, which it drives as it is told."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiomultistack._bench_port", json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.listen()

    def tell(self, **message: object) -> None:
        """Sends it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def listen(self) -> dict[str, Any]:
        """Reads its answer; fails with what it says if it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            words = self.process.stderr.read().strip().splitlines()
            fail(words[-1] if words else "the benchmark's process ended without a word")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def check() -> None:
    """Fails with a sentence if this user cannot run the benchmark."""
    missing = _netns.why_not()
    if missing == "not root":
        fail(f"bench port makes network namespaces and so needs root; try: sudo {invocation()} bench port")
    if missing:
        fail(missing)


def measure(scheme: str, sizes: Sequence[int], seconds: float, rounds: int, progress: Steps) -> Result:
    """Runs the whole benchmark.  Leaves this process in a namespace of its own."""
    check()
    tested_core, other_core = cores()
    _netns.unshare()
    runs = []
    tested = _Worker({"core": tested_core, "isolated": True})
    try:
        _netns.veth(_OTHER, _LINK, tested.process.pid)
        _netns.configure(_OTHER, [])
        tested.tell(port=f"{scheme}:{_LINK}")
        tested.listen()
        for number in range(rounds):
            for size in sizes:
                for kind in KINDS:
                    progress.say(f"round {number + 1} of {rounds}: {kind}, {size} bytes", 0)
                    runs.append(_run(tested, other_core, f"{scheme}:{_OTHER}", kind, size, seconds))
                    progress.say(f"round {number + 1} of {rounds}: {kind}, {size} bytes", 1)
    finally:
        tested.stop()
    return Result(scheme, runs)


def _run(tested: _Worker, core: int, spec: str, kind: str, size: int, seconds: float) -> Run:
    """One measurement, with another port at the other end where one is needed."""
    other = None
    if kind != "send":
        other = _Worker({"core": core, "isolated": False})
        other.tell(port=spec)
        other.listen()
    try:
        if other is not None:
            other.tell(kind="send", size=size, seconds=seconds + 2 * _LEAD)
        tested.tell(kind=kind, size=size, seconds=seconds, lead=_LEAD)
        answer = tested.listen()
        if other is not None:
            other.listen()
    finally:
        if other is not None:
            other.stop()
    return Run(kind, size, answer["frames"], answer["nanoseconds"], answer["cpu_ns"])


# ---- the worker's process ---------------------------------------------------------------------------------------


def _open(spec: str) -> Any:
    """Opens a port that takes everything; ends the process with its reason if it can't be."""
    name, error = ffi.new("char[]", spec.encode()), ffi.new("char[]", 512)
    config = ffi.new("struct ams_port_config *", {"spec": name, "flags": lib.AMS_PORT_ALL})
    out = ffi.new("struct ams_port **")
    if lib.ams_port_open(out, config, error, len(error)) < 0:
        sys.exit(f"{spec}: {ffi.string(error).decode()}")
    return out[0]


def _drive(port: Any, kind: str, size: int, seconds: float, lead: float = 0.0) -> dict[str, float]:
    """Drives a port; what comes within the first `lead` seconds doesn't count."""
    frame = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack("!H", _ETHERTYPE) + bytes(size - 14)
    result = ffi.new("struct ams_bench_frames *")
    if lead:
        check_status(lib.ams_bench_port(port, _WHAT[kind], frame, len(frame), int(lead * 1e9), result))
    before = resource.getrusage(resource.RUSAGE_SELF)
    check_status(lib.ams_bench_port(port, _WHAT[kind], frame, len(frame), int(seconds * 1e9), result))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    frames = result.received if kind == "receive" else result.sent
    return {"frames": frames, "nanoseconds": result.nanoseconds, "cpu_ns": cpu * 1e9}


def main() -> None:
    """The process's main function: a line of JSON in, a line out."""
    spec = json.loads(sys.argv[1])
    os.sched_setaffinity(0, {spec["core"]})
    if spec["isolated"]:
        _netns.unshare()
    port = None
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "port" in message:
            name = message["port"].partition(":")[2]
            if spec["isolated"]:
                _netns.configure(name, [])
            port = _open(message["port"])
            print(json.dumps({}), flush=True)
        else:
            print(json.dumps(_drive(port, **message)), flush=True)


if __name__ == "__main__":
    main()
