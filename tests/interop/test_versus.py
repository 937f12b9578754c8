"""The comparison with the kernel's sender works: both get through, over links that treat them alike."""

from __future__ import annotations

import pytest

from .versus import TO_RECEIVER, TO_SENDER, Cell, Comparison, Link, Runs, compare, measure

TCP_FRAME = bytes(12) + b"\x08\x00" + bytes(9) + b"\x06"


def survivors(cell: Cell, direction: int) -> list[int]:
    """Which of 300 frames come out."""
    link = Link(cell)
    for number in range(300):
        link.push(direction, TCP_FRAME + number.to_bytes(2, "big"), number * 0.01)
    out = []
    while (due := link.pop(1000.0)) is not None:
        assert due[0] == direction
        out.append(int.from_bytes(due[1][24:], "big"))
    return out


def test_the_seed_decides_what_is_lost() -> None:
    cell = Cell("cubic", 0.02, 0.1, seed=3)
    kept = survivors(cell, TO_RECEIVER)
    assert kept == survivors(cell, TO_RECEIVER) == sorted(kept)
    assert 240 < len(kept) < 295
    assert kept != survivors(cell, TO_SENDER)
    assert kept != survivors(Cell("cubic", 0.02, 0.1, seed=4), TO_RECEIVER)


def test_what_is_not_tcp_neither_gets_lost_nor_moves_the_pattern() -> None:
    cell = Cell("cubic", 0.02, 0.5)
    link = Link(cell)
    for number in range(300):
        link.push(TO_RECEIVER, bytes(12) + b"\x86\xdd" + bytes(40), number * 0.01)  # IPv6: groups are reported
        link.push(TO_RECEIVER, TCP_FRAME + number.to_bytes(2, "big"), number * 0.01)
    out = []
    while (due := link.pop(1000.0)) is not None:
        out.append(due[1])
    assert sum(frame[12:14] == b"\x86\xdd" for frame in out) == 300
    assert [int.from_bytes(frame[24:], "big") for frame in out if len(frame) == 26] == survivors(cell, TO_RECEIVER)


def test_a_share_comes_with_its_error() -> None:
    """Ours is always 0.9 of the kernel's, whose goodput differs from seed to seed: no error.  Then 0.8 or 1.0."""
    kernels = [1e6, 2e6, 5e6, 1e6]
    steady = Comparison([0.9 * goodput for goodput in kernels], kernels, kernels)
    assert (steady.share, steady.itself) == (pytest.approx(0.9), 1.0)
    assert steady.error == pytest.approx(0.0, abs=1e-9)
    moving = Comparison([0.8e6, 1e6, 0.8e6, 1e6], [1e6] * 4, [1.1e6, 1.1e6, 1e6, 1e6])
    assert moving.share == pytest.approx(0.9 / 1.025)
    assert moving.error == pytest.approx(0.063, abs=0.01)  # about 0.115 / sqrt(4 - 1), in units of 1.025
    assert moving.itself == pytest.approx(1.05)


def test_a_cell_that_was_held_up_is_measured_again() -> None:
    cell = Cell("cubic", 0.02, 0.1)
    good, bad = [{"goodput": 1.0 * number, "late": late} for number, late in enumerate((0.001, 0.5))]
    runs = Runs([], 60.0)
    try:
        runs._end(cell, [good, good, bad])
        assert runs.done == {}
        runs._end(cell, [good, good, good])
        assert (runs.done[cell], runs.disturbed) == ([0.0, 0.0, 0.0], set())
        for _ in range(3):
            runs._end(cell, [bad, good, good])
        assert (runs.done[cell], runs.disturbed) == ([1.0, 0.0, 0.0], {cell})  # five times: that will have to do
    finally:
        runs.close()


def test_cells_are_compared_side_by_side() -> None:
    cells = [Cell("cubic", 0.005, 0.03, seconds=0.5), Cell("reno", 0.1, 0.1, seconds=0.5)]
    found = list(compare(cells, 1, 60.0))
    assert [cell for cell, _ in found] == cells
    assert [len(what.ours) for _, what in found] == [1, 4]
    assert all(min(what.ours + what.kernels + what.again) > 0 for _, what in found)


def test_a_frame_takes_half_a_round_trip_and_its_serialisation() -> None:
    link = Link(Cell("cubic", 0.1, 0.0, rate=8e6))
    link.push(TO_RECEIVER, bytes(1000), 5.0)
    link.push(TO_RECEIVER, bytes(1000), 5.0)
    assert link.deadline == pytest.approx(5.051)
    assert link.pop(5.0505) is None
    assert link.pop(5.0515) is not None
    assert link.deadline == pytest.approx(5.052)


@pytest.mark.parametrize("who", ["ours", "kernel"])
def test_a_sender_gets_through(who: str) -> None:
    result = measure(Cell("cubic", 0.005, 0.01, seconds=1.0), who)
    assert result["goodput"] > 100_000
