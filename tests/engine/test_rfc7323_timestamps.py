"""Timestamps: echoes, PAWS, samples of the round trip (RFC 7323 sections 3 to 5)."""

from __future__ import annotations

from .script import MS, Script


def test_timestamps_give_a_sample_for_repaired_data() -> None:
    """RFC 7323 section 4.1."""
    with Script() as s:
        connection = s.open(timestamps=True)
        connection.send(b"lost")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=201 * MS, tolerance=5 * MS)
        s.wait(80 * MS)
        s.send("A", seq=1, ack=5)
        assert 5 * MS < connection.info.srtt < 20 * MS  # an eighth of 80 ms


def test_timestamps_are_echoed() -> None:
    with Script() as s:
        s.open(timestamps=True)
        s.tsval = 5000
        s.send("PA", seq=1, ack=1, data=b"x")
        segment = s.expect("A", ack=2)
        assert dict(segment.options)["Timestamp"][1] == 5000


def test_paws_drops_an_old_timestamp_and_acknowledges() -> None:
    with Script() as s:
        connection = s.open(timestamps=True)
        s.tsval = 5000
        s.send("PA", seq=1, ack=1, data=b"new")
        s.expect("A", ack=4)
        s.send("PA", seq=4, ack=1, data=b"old", tsval=4000)
        s.expect("A", ack=4)
        assert connection.received == b"new"
        assert s.counter("tcp_paws") == 1


def test_timestamps_wrap_around() -> None:
    with Script() as s:
        s.tsval = 0xFFFFFFF0
        connection = s.open(timestamps=True)
        s.tsval = 0xFFFFFFFF
        s.send("PA", seq=1, ack=1, data=b"a")
        s.tsval = 5
        s.send("PA", seq=2, ack=1, data=b"b")
        assert connection.received == b"ab"
