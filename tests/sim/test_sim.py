"""The simulator: its table in git is up to date, agrees with theory, and other things that links do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiomultistack._native import lib

from . import soak, table
from .bottleneck import MS, SECOND, Bottleneck, jain

RESULTS = Path(__file__).with_name("results.md")


@pytest.mark.parametrize(
    ("name", "rtt", "loss"), [("reno", 20, 0.03), ("cubic", 100, 0.01), ("cubic", 1, 0.1), ("bbr", 100, 0.1)]
)
def test_the_table_is_up_to_date(name: str, rtt: int, loss: float) -> None:
    """A part of it.  Where a change was meant: `cd tests; python -m sim.table > sim/results.md`."""
    row = table.cell(name, rtt, loss)
    assert row in RESULTS.read_text().splitlines(), f"{RESULTS} has another row than\n{row}"


def test_marks_take_the_place_of_losses() -> None:
    """RFC 3168 section 5, RFC 9768: with feedback of either kind the window shrinks, and nothing is sent again."""
    rows = [table.marking("cubic", 20, feedback) for feedback in table.FEEDBACK]
    assert set(rows) <= set(RESULTS.read_text().splitlines()), "\n".join(rows)
    found = [re.findall(r"[\d.]+", row.split("|", 4)[4]) for row in rows]
    goodputs = [float(goodput) for goodput, *_ in found]
    assert goodputs[0] > 18
    assert min(goodputs) > 14  # a queue of a quarter is too short for a window that comes back from 0.7
    retransmitted, reductions = ([int(cells[i]) for cells in found] for i in (1, 3))
    assert retransmitted[0] > 0 == reductions[0]
    assert retransmitted[1:] == [0, 0]
    assert min(reductions[1:]) > 0


def test_the_table_is_complete_and_agrees_with_theory() -> None:
    text = RESULTS.read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+) ms \| [\d.]+% \|", text, re.MULTILINE)
    assert len(rows) == len(table.ALGORITHMS) * len(table.RTTS) * len(table.LOSSES) + 5
    shares = [float(share) for share in re.findall(r"ms \| 0?[\d.]+% \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|$", text, re.M)]
    assert len(shares) == 5
    assert all(0.8 < share < 1.3 for share in shares), shares


def test_a_small_queue_is_shared_by_unlike_flows() -> None:
    """RFC 9438 section 5.1: CUBIC leaves Reno its part where Reno works well."""
    outcome = Bottleneck(("reno", "cubic"), rtt=20 * MS, duration=30 * SECOND, warm_up=10 * SECOND).run()
    assert outcome.total > 18_000_000
    assert jain(outcome.goodput) > 0.85


@pytest.mark.parametrize(("rtt", "queue"), [(16, 26), (20, 33), (40, 66)])
def test_a_small_queue_is_shared_by_bbr_flows(rtt: int, queue: int) -> None:
    """A bandwidth-delay product.  Segments one by one would let the faster flow find more room in it: 0.70 to 0.75."""
    what = Bottleneck(("bbr", "bbr"), rtt=rtt * MS, duration=20 * SECOND, warm_up=5 * SECOND, queue_frames=queue)
    outcome = what.run()
    assert outcome.total > 18_000_000
    assert jain(outcome.goodput) > 0.85


@pytest.mark.parametrize("name", ["reno", "cubic", "bbr"])
@pytest.mark.parametrize(
    ("faults", "share"),
    [
        ({"reorder": 0.05, "reorder_delay_ns": 4 * MS}, 0.8),  # within a quarter of the RTT
        ({"duplicate": 0.02}, 0.8),
        ({"burst": 0.0001, "burst_frames": 10.0}, 0.4),
        ({"jitter_ns": 5 * MS}, 0.8),
    ],
    ids=["reordering", "duplication", "bursts", "jitter"],
)
def test_what_is_no_congestion_costs_little(name: str, faults: dict[str, Any], share: float) -> None:
    outcome = Bottleneck((name,), rtt=20 * MS, duration=10 * SECOND, queue_frames=100, faults=faults).run()
    assert outcome.total > share * 19_000_000
    assert outcome.timeouts <= 2


def test_reordering_makes_no_spurious_retransmissions_once_it_is_known() -> None:
    """RFC 8985 section 6.2.4."""
    faults = {"reorder": 0.05, "reorder_delay_ns": 4 * MS}
    outcome = Bottleneck(("cubic",), rtt=40 * MS, duration=20 * SECOND, queue_frames=200, faults=faults).run()
    assert outcome.spurious < 40
    assert outcome.segments > 20_000


def test_the_same_seed_gives_the_same_outcome() -> None:
    what = Bottleneck(("cubic", "bbr"), rtt=20 * MS, loss=0.01, duration=5 * SECOND)
    assert what.run() == what.run()
    other = Bottleneck(("cubic", "bbr"), rtt=20 * MS, loss=0.01, duration=5 * SECOND, seed=2)
    assert what.run() != other.run()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_soak(first: int) -> None:
    """A short one; `cd tests; python -m sim.soak --seeds 5000 --asan` is a long one."""
    assert hasattr(lib, "ams_stack_check")
    for seed in range(first, first + 20):
        soak.run_seed(seed)
