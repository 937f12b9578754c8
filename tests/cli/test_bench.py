"""The benchmark's parts, and a short run of the whole."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from aiomultistack import _bench, _bench_report, _netns
from aiomultistack._bench import Cell, Plan, Run
from aiomultistack._bench_server import Responder, Tally, make_responses
from aiomultistack._ui import microseconds, size


class Recorder:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True


def respond(*pieces: bytes) -> tuple[Recorder, Tally]:
    """What the benchmark's server makes of the pieces."""
    transport, tally = Recorder(), Tally()
    responder = Responder(make_responses([10]), tally)
    responder.connection_made(cast(asyncio.Transport, transport))
    for piece in pieces:
        responder.data_received(piece)
    return transport, tally


GET = b"GET /10 HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = make_responses([10])[b"/10"][0]


@pytest.mark.parametrize("cut", range(1, len(GET)))
def test_responder_puts_pieces_together(cut: int) -> None:
    transport, tally = respond(GET[:cut], GET[cut:])
    assert transport.written == ANSWER
    assert not transport.closed
    assert tally.requests == 1


def test_responder_answers_a_pipeline() -> None:
    transport, tally = respond(GET + GET + GET[:5], GET[5:])
    assert transport.written == ANSWER * 3
    assert (tally.requests, tally.connections) == (3, 1)


def test_responder_closes_when_asked() -> None:
    transport, _ = respond(b"GET /10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: 10" in head
    assert len(body) == 10
    assert transport.closed


@pytest.mark.parametrize("request_line", [b"GET /11 HTTP/1.1", b"PUT /10 HTTP/1.1", b"nonsense"])
def test_responder_refuses(request_line: bytes) -> None:
    transport, _ = respond(request_line + b"\r\n\r\n")
    assert transport.written.startswith(b"HTTP/1.1 404 ")
    assert transport.closed


def run_of(rate: float, cpu: float, errors: dict[str, int] | None = None) -> Run:
    return Run(rate, cpu, cpu / 2, client_us=15.0, p50_us=500.0, p99_us=2500.0, connections=64, errors=errors or {})


def result_of(plan: Plan) -> _bench.Result:
    """A result with figures of our own."""
    cells = [
        Cell("multistack", "close", 1024, [run_of(30_000, 9), run_of(31_000, 10), run_of(500, 99, {"read": 2})]),
        Cell("uvloop", "close", 1024, [run_of(15_000, 20)]),
    ]
    return _bench.Result(plan, cells, (1, 0), _bench.machine())


PLAN = Plan(flavours=("multistack", "uvloop"), modes=("close",), sizes=(1,))


def test_medians_and_ratios() -> None:
    result = result_of(PLAN)
    ours, theirs = result.cells
    assert ours.median("requests_per_s") == 30_000
    assert ours.median("cpu_us") == 10
    assert result.ratio(ours) == 0.5
    assert result.ratio(theirs) is None
    assert ours.errors == {"read": 2}
    document = json.loads(json.dumps(result.as_dict()))
    assert [cell["cpu_of_uvloop"] for cell in document["cells"]] == [0.5, None]
    assert document["machine"]["python"]


def test_table_has_a_row_for_each_cell() -> None:
    from rich.console import Console

    result = result_of(PLAN)
    console = Console(width=80)
    with console.capture() as capture:
        for table in _bench_report.tables(result):
            console.print(table)
    text = capture.get()
    assert "One connection per transaction" in text
    (ours,) = [line.split() for line in text.splitlines() if "aiomultistack" in line]
    assert ours == ["1", "aiomultistack", "30,000", "10.0", "µs", "0.50", "x", "15.0", "µs", "500", "µs", "2.50", "ms"]
    assert "…" not in text
    assert any("2 read" in note for note in _bench_report.notes(result))


def test_markdown() -> None:
    head, rule, row, *_ = _bench_report.markdown(result_of(PLAN)).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") == 10
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["one for each request", "1", "10.0 µs", "20.0 µs", "**0.50**"]
    assert cells[5:] == ["25.0 µs", "35.0 µs", "30,000", "15,000"]


def test_plan_counts_its_runs() -> None:
    assert PLAN.runs == 2 * (1 + 1 * 1 * 3)


def test_wrk_output() -> None:
    assert _bench.parse_wrk('Running...\n\nJSON {"requests": 3, "p50_us": 1.5}\n') == {"requests": 3, "p50_us": 1.5}
    assert _bench.parse_wrk("unable to connect to 10.0.0.1:80\n") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (9.26, "9.3 µs"), (870.4, "870 µs"), (3421.0, "3.42 ms"), (1_200_000.0, "1.20 s")],
)
def test_microseconds(value: float | None, text: str) -> None:
    assert microseconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(1, "1 B"), (1536, "1.5 KB"), (10 << 20, "10 MB"), (3 << 30, "3 GB")])
def test_size(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.skipif(_netns.why_not() is not None or shutil.which("wrk") is None, reason="needs root and wrk")
def test_bench_http(tmp_path: Path) -> None:
    before = Path("/proc/net/dev").read_text().count("\n")
    options = ["--sizes=1", "--seconds=1", "--rounds=1", "--connections=8", "--json"]
    completed = subprocess.run(
        [sys.executable, "-m", "aiomultistack", "bench", "http", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert completed.stderr == ""
    result: dict[str, Any] = json.loads(completed.stdout)
    assert len(result["cells"]) == 6
    for cell in result["cells"]:
        assert cell["errors"] == {}, cell
        assert cell["requests_per_s"] > 100
        assert 0 < cell["cpu_us"] < 5000
        assert 0 < cell["client_us"] < 5000
        assert 0 < cell["p50_us"] <= cell["p99_us"]
    assert Path("/proc/net/dev").read_text().count("\n") == before


@pytest.mark.skipif(_netns.why_not() is not None or shutil.which("wrk") is None, reason="needs root and wrk")
def test_bench_http_over_xdp() -> None:
    options = ["--port=xdp:", "--flavours=multistack", "--sizes=1,32", "--seconds=1", "--rounds=1", "--connections=8"]
    completed = subprocess.run(
        [sys.executable, "-m", "aiomultistack", "bench", "http", *options, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert completed.stderr == ""
    result: dict[str, Any] = json.loads(completed.stdout)
    assert {cell["flavour"] for cell in result["cells"]} == {"multistack-xdp"}
    for cell in result["cells"]:
        assert cell["errors"] == {}, cell
        assert cell["requests_per_s"] > 10


@pytest.mark.skipif(_netns.why_not() is not None, reason="needs root")
def test_bench_port() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "aiomultistack", "bench", "port", "xdp", "--sizes=64", "--seconds=0.2", "--rounds=1",
         "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert completed.stderr == ""
    runs = json.loads(completed.stdout)["runs"]
    assert [run["kind"] for run in runs] == ["receive", "send", "echo"]
    for run in runs:
        assert run["frames"] > 0
        assert run["cpu_ns_each"] > 0


def test_bench_idle() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "aiomultistack", "bench", "idle", "--connections=300", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert completed.stderr == ""
    result = json.loads(completed.stdout)
    assert result["connections"] == 300
    assert 0 < result["engine_server"] < 65536
    assert 0 < result["engine_client"] < 65536


def test_bench_loop() -> None:
    command = [sys.executable, "-m", "aiomultistack", "bench", "loop", "--rounds=1", "--operations=200"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    completed = subprocess.run(
        [*command, "--flavours=multistack,asyncio", "--json"],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert completed.stderr == ""
    runs = json.loads(completed.stdout)["runs"]
    assert {(run["kind"], run["flavour"]) for run in runs} == {
        (kind, flavour)
        for kind in ("echo-1", "echo-10", "echo-100", "connect", "transaction")
        for flavour in ("multistack", "asyncio")
    }
    assert all(0 < run["cpu_us"] < 100_000 for run in runs)
    wrong = subprocess.run([*command, "--kinds=echo"], capture_output=True, text=True, check=False, env=environment)
    assert wrong.returncode == 2
    assert "'echo' is none of echo-1" in wrong.stderr
