"""Retransmission by the timeout (RFC 6298) and by the third duplicate ACK or SACK (RFC 5681, 6675)."""

from __future__ import annotations

import pytest

from .flights import LOSS, flight
from .script import MS, SECOND, Script


def test_retransmission_timeout_and_backoff() -> None:
    """RFC 6298: 200 ms minimum above the RTT, doubling."""
    with Script() as s:
        connection = s.open()
        connection.send(b"lost")
        s.expect("PA", seq=1)
        for delay in (200, 400, 800, 1600):
            s.expect("PA", seq=1, data=b"lost", after=delay * MS, tolerance=5 * MS)
        s.send("A", seq=1, ack=5)
        s.quiet(10 * SECOND)


def test_rto_adapts_to_the_rtt() -> None:
    """RFC 6298 section 2.2 and 2.3."""
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.wait(500 * MS)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        assert 495 * MS < connection.info.srtt < 505 * MS
        connection.send(b"data")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=1500 * MS, tolerance=10 * MS)


def test_karn_no_sample_from_a_retransmission() -> None:
    """RFC 6298 section 3."""
    with Script() as s:
        connection = s.open()
        srtt = connection.info.srtt
        connection.send(b"data")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=200 * MS, tolerance=5 * MS)
        s.wait(50 * MS)
        s.send("A", seq=1, ack=5)
        assert connection.info.srtt == srtt


def test_no_sample_from_what_waited_behind_a_hole() -> None:
    """RFC 6298 section 3: data that arrived long ago is acknowledged when the hole before it is filled."""
    with Script() as s:
        connection = s.open(mss=1000)
        srtt = connection.info.srtt
        connection.send(b"x" * 2000)
        s.expect("A", seq=1)
        s.expect("PA", seq=1001)
        for delay in (200, 400, 800):
            s.expect("A", seq=1, after=delay * MS, tolerance=5 * MS)
        s.send("A", seq=1, ack=2001)
        assert connection.info.srtt == srtt


def test_fast_retransmit_at_the_third_duplicate_ack() -> None:
    """RFC 5681 section 3.2, RFC 6582."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.send(b"x" * 10_000)
        for _ in range(10):
            s.expect("PA" if _ == 9 else "A", length=1000)
        s.send("A", seq=1, ack=1)
        s.send("A", seq=1, ack=1)
        assert not s.queue
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=1, length=1000)
        # a partial ACK: the next hole goes at once
        s.send("A", seq=1, ack=3001)
        s.expect("A", seq=3001, length=1000)
        s.send("A", seq=1, ack=10_001)
        s.quiet(SECOND)
        info = connection.info
        assert info.bytes_retrans == 2000
        assert info.ca_state == 0


def test_sack_recovery_sends_only_the_holes() -> None:
    """RFC 6675 section 5."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=100 * MS)
        connection.send(b"x" * 10_000)
        for _ in range(10):
            s.expect("PA" if _ == 9 else "A", length=1000)
        s.wait(100 * MS)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.send("A", seq=1, ack=1, sack=[(1001, 3001)])
        assert not s.queue
        s.send("A", seq=1, ack=1, sack=[(1001, 3001), (4001, 7001)])
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=3001, length=1000)
        s.send("A", seq=1, ack=3001, sack=[(4001, 10_001)])
        s.send("A", seq=1, ack=10_001)
        s.quiet(SECOND)
        assert connection.info.bytes_retrans == 2000


def test_sack_of_part_of_what_was_sent_together() -> None:
    with Script(listen=80) as s:
        connection = s.open(mss=1000, sack=True)
        connection.send(b"x" * 5000)
        for _ in range(5):
            s.expect("PA" if _ == 4 else "A", length=1000)
        s.send("A", seq=1, ack=501, sack=[(1501, 5001)])
        s.expect("A", seq=501)
        s.drain()
        s.send("A", seq=1, ack=5001)
        s.quiet(SECOND)


def test_nonsense_sack_blocks_do_no_harm() -> None:
    with Script() as s:
        connection = s.open(mss=1000, sack=True)
        connection.send(b"x" * 3000)
        for _ in range(3):
            s.expect("PA" if _ == 2 else "A", length=1000)
        for sack in ([(2001, 1001)], [(90_000, 91_000)], [(-5000, -4000)], [(1, 100_000)], [(1, 1)]):
            s.send("A", seq=1, ack=1, sack=sack)
        s.drain()
        s.send("A", seq=1, ack=3001)
        s.quiet(SECOND)
        assert connection.closed is None
        assert connection.info.send_queue == 0


def test_a_timeout_forgets_sacks_of_a_reneging_receiver() -> None:
    """RFC 2018 section 8."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=100 * MS)
        connection.send(b"x" * 2000)
        s.expect("A", length=1000)
        s.expect("PA", length=1000)
        s.send("A", seq=1, ack=1, sack=[(1, 1001)])
        s.expect("PA", seq=1001, after=202 * MS, tolerance=5 * MS)  # a loss probe
        s.expect("A", seq=1, after=400 * MS, tolerance=120 * MS)
        s.send("A", seq=1, ack=2001)
        s.quiet(SECOND)


def test_the_timeout_waits_while_older_data_is_sacked() -> None:
    """As Linux: behind a queue that has grown, the retransmission's ACK comes later than the timeout expects."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(100 * MS)
        s.send("A", seq=1, ack=1, sack=[(1001, 4001)])
        s.expect("A", seq=1, length=1000)  # RACK: the first one is lost
        s.drain()
        for end in (5001, 6001, 7001):  # what was sent before that
            s.wait(connection.info.rto - 50 * MS)
            s.send("A", seq=1, ack=1, sack=[(1001, end)])
            assert s.counter("tcp_rto") == 0
        s.drain()
        wait = connection.info.rto
        s.quiet(wait - 5 * MS)
        s.expect("A", seq=1, after=5 * MS, tolerance=5 * MS)
        assert s.counter("tcp_rto") == 1


@pytest.mark.parametrize("sack", [False, True])
def test_a_timeout_starts_over_with_one_segment(sack: bool) -> None:
    """RFC 5681 section 3.1: cwnd is the loss window, ssthresh set once for all timeouts in a row."""
    with Script() as s:
        connection = flight(s, 10, sack=sack)
        s.wait(400 * MS if not sack else 600 * MS)
        s.drain()
        info = connection.info
        assert info.ca_state == LOSS
        assert info.snd_cwnd == 1000
        assert info.snd_ssthresh == 7000
        s.wait(800 * MS)
        assert connection.info.snd_ssthresh == 7000
        assert connection.info.backoff == 2


def test_minimum_rto_can_be_configured() -> None:
    """RFC 6298 section 2.4; Linux's 200 ms is the default."""
    with Script(rto_min_ms=50) as s:
        connection = s.open(mss=1000)
        connection.send(b"lost")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=50 * MS)
        s.expect("PA", seq=1, after=100 * MS)
        s.wait(10 * SECOND)
        assert s.counter("tcp_rto") > 5


@pytest.mark.parametrize("sack", [False, True])
def test_a_fast_retransmission_has_a_whole_timeout_to_be_acknowledged(sack: bool) -> None:
    """RFC 6675 section 6: on a path of 300 ms the timer of 500 ms that began with the original would expire first."""
    with Script() as s:
        connection = s.open(mss=1000, sack=sack, rtt=300 * MS)
        first = 1
        for _ in range(20):  # until the round trip is known well
            connection.send(bytes(1000))
            s.expect("PA", seq=first)
            s.wait(300 * MS)
            first += 1000
            s.send("A", seq=1, ack=first)
        connection.send(bytes(6000))
        s.wait(300 * MS)
        s.drain()
        for count in range(2, 6):
            s.send("A", seq=1, ack=first, sack=[(first + 1000, first + 1000 * count)] if sack else None)
        s.expect("A", seq=first, length=1000)
        s.quiet(310 * MS)
        s.send("A", seq=1, ack=first + 6000)
        s.quiet(2 * SECOND)
        assert s.counter("tcp_rto") == 0
