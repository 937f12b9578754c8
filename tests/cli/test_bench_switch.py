"""`aiomultistack bench switch`: short runs, and what its figures mean."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

from aiomultistack import _bench_switch, _bench_switch_report, _netns
from aiomultistack._bench_switch import Cell, Latency, Plan, Result, Run
from aiomultistack._node import ffi, lib

pytestmark = pytest.mark.timeout(150)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command."""
    return subprocess.run([sys.executable, "-m", "aiomultistack", "bench", "switch", *arguments], capture_output=True,
                          text=True, timeout=100, check=False)


SHORT = ("--rounds", "1", "--seconds", "0.02", "--no-xdp")


@pytest.mark.parametrize("arguments", [(), ("--spread",)])
def test_a_short_run_moves_frames(arguments: tuple[str, ...]) -> None:
    done = command(*SHORT, "--sizes", "64,1514", "--ports", "1,2,4", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    cells = {(cell["family"], cell["ports"], cell["size"]): cell for cell in result["cells"]}
    assert set(cells) == {(family, *rest) for family in (4, 6) for rest in ((2, 64), (2, 1514), (1, 64), (4, 64))}
    assert all(run["frames"] > 0 for cell in cells.values() for run in cell["runs"])
    assert [latency["load"] for latency in result["latency"]] == ["idle", "half", "90 %"]
    for latency in result["latency"]:  # whatever was lost, what arrived tells its time
        assert latency["samples"] == min(latency["probes"] - latency["lost"], 1 << 17)
        assert latency["samples"] > 0
        assert 0 < latency["p50"] <= latency["p99"]
        assert latency["rate"] > 0
    assert result["peer"] is None
    assert result["xdp"] is None


def test_people_get_a_table() -> None:
    done = command(*SHORT, "--sizes", "64", "--ports", "2", "--family", "4")
    assert done.returncode == 0, done.stderr
    assert "Mpps" in done.stdout
    assert "Latency, idle: p50" in done.stdout
    assert "90 % of what it moves" in done.stdout
    assert "not known" not in done.stdout


@pytest.mark.skipif(_netns.why_not() is not None, reason="needs root, for network namespaces")
def test_root_sees_the_rate_of_xdp() -> None:
    done = command("--rounds", "1", "--seconds", "0.1", "--sizes", "64", "--ports", "2", "--family", "4", "--xdp")
    assert done.returncode == 0, done.stderr
    found = re.search(r"copy mode.*: receive (\S+), send (\S+), echo (\S+)", " ".join(done.stdout.split()))
    assert found, done.stdout
    assert float(found[2]) > 0  # what another process sends may not come while it hasn't the core
    assert all(float(rate) >= 0 for rate in found.groups())


@pytest.mark.parametrize("spread", [0, 1])
def test_lost_probes_are_counted_and_spoil_no_other(spread: int) -> None:
    """Four ports that offer more than the switch can deliver into rings of eight slots."""
    plan = {"ports": 4, "size": 64, "slots": 8, "latency": 1, "duration_ms": 30, "switch_cpu": -1, "load_cpu": -1}
    result, error = ffi.new("struct ams_bench_switch_result *"), ffi.new("char[]", 256)
    wanted = ffi.new("struct ams_bench_switch_plan *", {**plan, "spread": spread})
    assert lib.ams_bench_switch(wanted, result, error, len(error)) == 0
    assert result.probes > result.probes_lost
    assert result.samples == result.probes - result.probes_lost
    assert 0 < result.p50_ns <= result.p99_ns
    if not spread:
        assert result.probes_lost == 0  # to a neighbour goes what its ring holds


def test_a_line_tells_what_was_lost() -> None:
    latency = Latency("half", 9e6, 1200, 34000, 900, 1000, 100)
    result = Result(Plan(), (1, 0), [Cell(4, 2, 64, [Run(30, 1000, 0, 0, 0)])], [latency])
    assert list(_bench_switch_report.lines(result)) == [
        "Latency, at 9.0 Mpps (half of what it moves): p50 1.2 µs, p99 34.0 µs; 100 of 1,000 probes were lost"
    ]


@pytest.mark.skipif(shutil.which("dpdk-testpmd") is None, reason="needs DPDK's testpmd")
def test_testpmd_runs_beside_it() -> None:
    done = command(*SHORT, "--sizes", "64", "--ports", "2", "--family", "4", "--peer", "dpdk", "--json")
    assert done.returncode == 0, done.stderr
    peer = json.loads(done.stdout)["peer"]
    assert len(peer["mpps"]) == 1
    assert peer["mpps"][0] > 0
    assert peer["ratio"] > 0


@pytest.mark.parametrize(("arguments", "word"), [
    (("--ports", "3"), "even"), (("--ports", "x"), "2,256"), (("--sizes", "10"), "14"), (("--slots", "4"), "8"),
])
def test_bad_arguments_are_refused(arguments: tuple[str, ...], word: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert word in done.stderr


def test_frames_too_short_for_ipv6_are_refused() -> None:
    done = command("--sizes", "60")
    assert done.returncode == 1
    assert "64" in done.stderr


def test_figures() -> None:
    cell = Cell(4, 2, 256, [Run(20, 1000, 0, 0, 0), Run(10, 1000, 0, 0, 0), Run(30, 1000, 0, 0, 0)])
    assert cell.mpps == pytest.approx(20)
    assert cell.gbps == pytest.approx(20 * 280 * 8 / 1000)  # 20 Mpps of 256 bytes fill 40 GbE
    other = Cell(4, 2, 64, [Run(30, 1000, 0, 0, 0)])
    assert Result(Plan(), (1, 0), [cell, other], peer=[20.0, 10.0, 30.0]).ratio == pytest.approx(1.5)
    assert Result(Plan(), (1, 0), [cell, other]).ratio is None
    assert len(_bench_switch.Plan().cells) == 2 * (6 + 9 - 1)
    assert len(_bench_switch.Plan(ports=(4, 8), sizes=(64, 128)).cells) == 2 * 4
