"""The comparison with the kernel's sender works: both get through, over links that treat them alike."""

from __future__ import annotations

import pytest

from .versus import TO_RECEIVER, TO_SENDER, Cell, Link, measure


def survivors(cell: Cell, direction: int) -> list[int]:
    """Which of 300 frames come out."""
    link = Link(cell)
    for number in range(300):
        link.push(direction, bytes(14) + number.to_bytes(2, "big"), number * 0.01)
    out = []
    while (due := link.pop(1000.0)) is not None:
        assert due[0] == direction
        out.append(int.from_bytes(due[1][14:], "big"))
    return out


def test_the_seed_decides_what_is_lost() -> None:
    cell = Cell("cubic", 0.02, 0.1, seed=3)
    kept = survivors(cell, TO_RECEIVER)
    assert kept == survivors(cell, TO_RECEIVER) == sorted(kept)
    assert 240 < len(kept) < 295
    assert kept != survivors(cell, TO_SENDER)
    assert kept != survivors(Cell("cubic", 0.02, 0.1, seed=4), TO_RECEIVER)


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
