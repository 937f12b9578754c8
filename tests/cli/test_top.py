"""`aiomultistack top`: rates out of samples, and what it shows of a running process."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aiomultistack import _control, _ss, _top

BASE: dict[str, Any] = {
    "id": 3, "created": 1, "protocol": 6, "state": 1, "local": ["10.9.0.2", 80], "remote": ["10.9.0.1", 40000],
    "recv_queue": 0, "send_queue": 0, "snd_mss": 1448, "snd_cwnd": 14480, "srtt": 1_500_000, "bytes_acked": 1000,
    "bytes_received": 100, "bytes_retrans": 0,
}  # fmt: skip


def endpoint(**changes: Any) -> dict[str, Any]:
    """An endpoint in normal form."""
    return _ss.normal({**BASE, **changes})


def sample(at: float, endpoints: list[dict[str, Any]], cpu: float | None = None, **counters: int) -> _top.LoopSample:
    """A sample taken `at` seconds; `stack__tcp_rto=1` is the counter stack.tcp_rto."""
    named = {name.replace("__", "."): value for name, value in counters.items()}
    return _top.LoopSample(7, 0, "server", at, cpu, named, endpoints, at)


def test_rates_are_per_second() -> None:
    before = sample(10, [], 1.0, stack__tcp_rx_bytes=500, port__rx_frames=10, stack__tcp_passive_open=4)
    now = sample(12, [endpoint(), endpoint(state=10, remote=None)], 2.0,
                 stack__tcp_rx_bytes=2500, port__rx_frames=30, stack__tcp_passive_open=10)  # fmt: skip
    rates = _top.compare(before, now)
    assert (rates.received, rates.frames_in, rates.opened, rates.sent) == (1000, 10, 3, 0)
    assert rates.cpu == 0.5
    assert (rates.connections, rates.listeners) == (1, 1)


def test_troubles_come_with_their_reasons_the_worst_first() -> None:
    before = sample(0, [], switch__rx_owner=0, switch__rx_runt=0, stack__tcp_rto=0, stack__tcp_rx=0)
    now = sample(1, [], switch__rx_owner=9, switch__rx_runt=1, stack__tcp_rto=5, stack__tcp_rx=50)
    assert list(_top.compare(before, now).troubles.items()) == [("stack.tcp_rto", 5), ("switch.rx_runt", 1)]


def test_a_process_whose_cpu_time_nobody_may_read() -> None:
    assert _top.compare(sample(0, []), sample(1, [])).cpu is None


def test_connections_have_rates_of_their_own() -> None:
    before = sample(0, [endpoint()])
    now = sample(2, [
        endpoint(bytes_acked=3000, bytes_received=500, bytes_retrans=20),
        endpoint(id=4, created=2, bytes_acked=100),  # it is new
        endpoint(id=5, state=10, remote=None),
        endpoint(id=6, protocol=17),
    ])  # fmt: skip
    first, second = _top.connections(before, now)
    assert (first.acked, first.received, first.retransmitted, first.cwnd) == (1000, 200, 10, 10)
    assert second.acked == 50


def test_an_identifier_used_again_is_another_connection() -> None:
    before = sample(0, [endpoint(bytes_acked=10**9)])
    (found,) = _top.connections(before, sample(1, [endpoint(created=5, bytes_acked=70)]))
    assert found.acked == 70


@pytest.mark.parametrize(("by", "first"), [("traffic", "a"), ("rtt", "b"), ("retrans", "c"), ("queue", "d")])
def test_orders(by: str, first: str) -> None:
    idle = next(iter(_top.connections(sample(0, [endpoint()]), sample(1, [endpoint()]))))
    found = [
        replace(idle, local="d", send_queue=5),
        replace(idle, local="c", retransmitted=1.0),
        replace(idle, local="b", rtt=10**9),
        replace(idle, local="a", received=10.0),
    ]
    assert _top.ordered(found, by)[0].local == first


def test_a_long_list_of_endpoints_is_asked_for_rarely(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second's worth of listing buys fifty seconds without; counters are asked for each time."""
    clock, asked = [0.0], []

    def query(path: Path, command: str) -> Any:
        asked.append(command)
        if command == "counters":
            return {}
        clock[0] += 1.0
        return []

    monkeypatch.setattr(_control, "find", lambda pid: [_control.Address(os.getpid(), 0, tmp_path)])
    monkeypatch.setattr(_control, "query", query)
    monkeypatch.setattr(_top.time, "monotonic", lambda: clock[0])
    sampler = _top.Sampler()
    for _ in range(49):
        sampler.take()
        clock[0] += 1.0
    assert asked.count("endpoints") == 1
    clock[0] += 2.0
    sampler.take()
    assert asked.count("endpoints") == 2
    assert asked.count("counters") == 50


def test_a_loop_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_control, "find", lambda pid: [_control.Address(os.getpid(), 0, tmp_path / "none.sock")])
    watch = _top.Watch(_top.Sampler())
    view = watch.look()
    assert not view.loops
    assert "No such file" in view.silent[os.getpid(), 0]


# ---- a process -----------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio
    import aiomultistack

    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)

    async def main():
        await asyncio.start_server(echo, "10.9.0.2", 80)
        reader, writer = await asyncio.open_connection("10.9.0.2", 80)
        print("ready", flush=True)
        while True:
            writer.write(bytes(1000))
            await reader.readexactly(1000)
            await asyncio.sleep(0.002)

    aiomultistack.run(main(), config=aiomultistack.Config(port="mem:top", addresses=["10.9.0.2/24"]))
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")} | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "TERM": "xterm",
}


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server and a client that are busy with each other."""
    path = tmp_path / "busy.py"
    path.write_text(textwrap.dedent(PROGRAM))
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def top(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, away from terminals."""
    return subprocess.run(
        [sys.executable, "-m", "aiomultistack", "top", *arguments],
        capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_as_json(program: subprocess.Popen[str]) -> None:
    """Rates of connections come with the second list of them, which is due when the first one's time has paid off."""
    with subprocess.Popen(
        [sys.executable, "-m", "aiomultistack", "top", "--json", "-n", "200", "-d", "0.3", str(program.pid)],
        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                view = json.loads(line)
                (loop,) = view["loops"]
                assert (loop["pid"], loop["connections"], loop["listeners"]) == (program.pid, 2, 1)
                assert loop["received"] > 0
                assert {each["local"] for each in view["connections"]} >= {"10.9.0.2:80"}
                if all(each["acked"] > 0 for each in view["connections"]):
                    break
            else:
                pytest.fail("no rates in 200 looks")
        finally:
            process.kill()


def test_as_tables(program: subprocess.Popen[str]) -> None:
    result = top("-n", "1", "-d", "0.3", str(program.pid))
    assert result.returncode == 0, result.stderr
    loops, _, seen = result.stdout.partition("\n\n")
    assert f"python {program.pid}" in loops or f"{program.pid}" in loops
    assert seen.splitlines()[0].split()[:4] == ["in", "out", "again", "RTT"]
    assert sum("ESTAB" in line and "10.9.0.2:80" in line for line in seen.splitlines()) == 2


def test_on_a_terminal(program: subprocess.Popen[str]) -> None:
    """It shows the connections, sorts by something else at `s`, ends at `q`, and leaves the terminal as it was."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "aiomultistack", "top", "-d", "0.2", str(program.pid)],
            {**ENVIRONMENT, "COLUMNS": "150", "LINES": "24"},
        )
    try:
        shown = until(terminal, "10.9.0.2:80")
        assert "by traffic" in shown
        os.write(terminal, b"s")
        until(terminal, "by rtt")
        os.write(terminal, b"q")
        until(terminal, "\x1b[?1049l")  # the screen that was there before
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pid = 0
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal)


def until(terminal: int, text: str) -> str:
    """Reads until `text` has come."""
    shown, deadline = "", time.monotonic() + 60
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no {text!r} in {shown!r}"
        shown += os.read(terminal, 65536).decode("utf-8", "replace")
    return shown


def test_a_process_that_is_not_there() -> None:
    result = top("-n", "1", "4194304")
    assert result.returncode == 1
    assert "has no aiomultistack loop" in result.stderr
