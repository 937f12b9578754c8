"""The comparison of how two flows share a link works: pairs of both stacks, and what is made of their goodputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from . import sharing
from .sharing import ADDRESSES, PAIRS, SharedCell, Shares
from .versus import TO_RECEIVER, Link, interleaved


def test_a_queue_is_as_long_as_asked() -> None:
    cell = SharedCell("bbr+cubic", 0.02, 0.0, bdps=0.5)
    assert cell.queue == 16  # of 33 frames that 20 Mbit/s and 20 ms hold
    assert replace(cell, bdps=4.0).queue == 132
    assert replace(cell, rtt=0.001).queue == sharing.QUEUE_MIN
    assert cell.names == ("bbr", "cubic")
    assert replace(cell, congestion="reno").names == ("reno", "reno")


def test_a_flow_may_be_farther_away() -> None:
    """Its frames are later, and don't hold up those of the other flow."""
    link = Link(SharedCell("bbr", 0.02, 0.0, rate=8e6))
    link.push(TO_RECEIVER, b"far" + bytes(997), 5.0, 0.04)
    link.push(TO_RECEIVER, b"near" + bytes(996), 5.0)
    assert link.deadline == pytest.approx(5.012)
    frames = [link.pop(6.0), link.pop(6.0)]
    assert [frame[1][:1] for frame in frames if frame] == [b"n", b"f"]


def test_shares_are_of_each_seed() -> None:
    """The mean of the indices, not the index of means: a lead that changes sides is no fairness."""
    shares = Shares([(9e6, 1e6), (1e6, 9e6)])
    assert shares.total == pytest.approx(10e6)
    assert shares.first == pytest.approx(0.5)
    assert shares.fairness == pytest.approx(100 / 164)
    assert shares.error == pytest.approx(0.0)


@pytest.mark.parametrize("pair", [*PAIRS])
def test_both_flows_get_through(pair: str) -> None:
    result = sharing.measure(SharedCell("cubic+reno", 0.01, 0.0, 1.5, skip=0.5, farther=2.0), pair)
    assert len(result["goodput"]) == len(ADDRESSES)
    assert min(result["goodput"]) > 100_000


def test_frames_of_both_flows_take_turns() -> None:
    """However long this program was held up: neither flow finds the queue emptier than the other."""
    batches = [[b"a1", b"a2", b"a3", b"a4"], [b"b1", b"b2"], []]
    order = interleaved(batches)
    assert [frame for _, frame in order] == [b"a1", b"b1", b"a2", b"a3", b"b2", b"a4"]
    assert [index for index, frame in order if frame[:1] == b"b"] == [1, 1]
