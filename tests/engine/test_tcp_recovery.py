"""Recovery of what was lost: by SACK (RFC 6675), PRR (RFC 9937), NewReno (RFC 6582), limited transmit (RFC 3042)."""

from __future__ import annotations

from aiomultistack._native import ffi

from .flights import OPEN, RECOVERY, RTT, flight
from .script import Script
from .world import Connection

# ---- PRR (RFC 9937) -----------------------------------------------------------------------------------------


def recovered_with(s: Script, connection: Connection, lost: int, flight_size: int) -> list[int]:
    """SACKs one segment after another, the first `lost` excepted; how many segments each ACK lets out."""
    sent = []
    connection.send(bytes(30_000))
    for index in range(lost, flight_size):
        s.send("A", seq=1, ack=1, sack=[(1 + 1000 * lost, 1001 + 1000 * index)])
        sent.append(len(s.queue))
        s.drain()
    return sent


def test_prr_spreads_the_reduction_over_the_round_trip() -> None:
    """Section 6: about ssthresh / RecoverFS segments for each delivered."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        sent = recovered_with(s, connection, 1, 10)
        assert max(sent) <= 1
        assert sum(sent[2:]) in (5, 6, 7)  # 0.7 of what was delivered after the third
        s.send("A", seq=1, ack=12_001)
        assert connection.info.ca_state == OPEN
        assert connection.info.snd_ssthresh == 7000
        assert 7000 <= connection.info.snd_cwnd < 7500


def test_prr_counts_in_whole_segments() -> None:
    """Section 6, rounded up: with half of the window every other delivery lets a segment out, from the first on.

    The last finds as much in flight as ssthresh lets.
    """
    with Script(congestion=ffi.new("char[]", b"reno")) as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        assert recovered_with(s, connection, 1, 10) == [1, 1, 1, 0, 1, 0, 1, 0, 0]


def test_prr_after_heavy_loss_sends_what_was_delivered() -> None:
    """Section 6: below ssthresh, conservatively one for one while more is found lost."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        sent = recovered_with(s, connection, 7, 10)
        assert sum(sent) <= 3
        assert sent[-1] >= 1


def test_prr_slow_starts_back_to_ssthresh() -> None:
    """Section 6: each ACK that advances and shows no loss (SafeACK) adds a segment."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        recovered_with(s, connection, 7, 10)
        s.wait(RTT)
        s.drain()
        s.send("A", seq=1, ack=1001, sack=[(7001, 10_001)])
        assert len(s.queue) == 2


# ---- without SACK (RFC 5681, 6582, 3042) --------------------------------------------------------------------


def test_limited_transmit() -> None:
    """RFC 3042 section 2: the first two duplicate ACKs let a new segment out each."""
    with Script() as s:
        connection = flight(s, 10)
        connection.send(bytes(5000))
        s.wait(RTT)
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=10_001, length=1000)
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=11_001, length=1000)
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=1, length=1000)


def test_limited_transmit_with_sack() -> None:
    """RFC 3042 section 2, RFC 6675 section 5 (1): SACKed segments have left the network."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        connection.send(bytes(5000))
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.expect("A", seq=10_001, length=1000)


def test_newreno_partial_ack_retransmits_the_next_hole() -> None:
    """RFC 6582 section 3.2, step 5."""
    with Script() as s:
        connection = flight(s, 10)
        s.wait(RTT)
        for _ in range(3):
            s.send("A", seq=1, ack=1)
        s.expect("A", seq=1)
        s.wait(RTT)
        s.send("A", seq=1, ack=4001)
        s.expect("A", seq=4001, length=1000)
        assert connection.info.ca_state == RECOVERY
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)
        assert connection.info.ca_state == OPEN
        assert connection.info.snd_cwnd == 7000


def test_newreno_counts_each_hole_as_one_segment() -> None:
    """The duplicates were answers to what lies behind all holes: a partial ACK of the first uses none of them up."""
    with Script() as s:
        connection = flight(s, 10)
        s.wait(RTT)
        for _ in range(8):
            s.send("A", seq=1, ack=1)
        s.expect("A", seq=1)
        s.drain()
        assert connection.info.delivered == 8000
        s.wait(RTT)
        s.send("A", seq=1, ack=1001)
        s.expect("A", seq=1001, length=1000)
        assert connection.info.delivered == 9000
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)
        assert connection.info.ca_state == OPEN
        assert connection.info.delivered == 10_000


def test_newreno_repairs_many_holes_by_an_ack_each() -> None:
    """One per round trip (RFC 6582 section 1), and never by a timeout."""
    with Script() as s:
        flight(s, 10)
        s.wait(RTT)
        for _ in range(5):
            s.send("A", seq=1, ack=1)
        s.expect("A", seq=1)
        for hole in range(1, 5):
            s.wait(RTT)
            s.send("A", seq=1, ack=1 + 1000 * hole)
            s.expect("A", seq=1 + 1000 * hole, length=1000)
        assert s.counter("tcp_rto") == 0


def test_newreno_ignores_duplicates_right_after_recovery() -> None:
    """RFC 6582 section 4.1: they are answers to what was retransmitted in vain."""
    with Script() as s:
        connection = flight(s, 10)
        s.wait(RTT)
        for _ in range(3):
            s.send("A", seq=1, ack=1)
        s.expect("A", seq=1)
        s.send("A", seq=1, ack=10_001)
        cwnd = connection.info.snd_cwnd
        connection.send(bytes(4000))
        s.drain()
        for _ in range(4):
            s.send("A", seq=1, ack=10_001)
        assert s.counter("tcp_retrans") == 1
        assert connection.info.snd_cwnd >= cwnd
