"""RACK-TLP (RFC 8985): loss found by time, and tails probed."""

from __future__ import annotations

import pytest
from aiomultistack._native import ffi, lib

from .flights import OPEN, RECOVERY, RTT, flight
from .script import MS, Script
from .world import Connection

# ---- RACK (RFC 8985 section 6) ------------------------------------------------------------------------------


def test_rack_waits_a_quarter_of_the_rtt_for_reordering() -> None:
    """Sections 6.2.4 and 6.2.5: one SACK starts the reordering timer."""
    with Script() as s:
        flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.expect("A", seq=1, length=1000, after=25 * MS)
        s.send("A", seq=1, ack=4001)
        s.quiet()


def test_rack_reordering_inside_the_window_retransmits_nothing() -> None:
    with Script() as s:
        connection = flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.wait(20 * MS)
        s.send("A", seq=1, ack=4001)
        s.quiet()
        assert connection.info.bytes_retrans == 0
        assert connection.info.ca_state == OPEN


def test_rack_three_sacked_segments_end_the_wait() -> None:
    """Section 6.2.4: DupThresh segments SACKed make the window nothing."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 4001)])
        s.expect("A", seq=1, length=1000)
        assert connection.info.ca_state == RECOVERY


def test_rack_does_not_call_lost_what_was_sent_later() -> None:
    """Section 6.2.5: a segment is judged only by one that was sent after it."""
    with Script() as s:
        connection = flight(s, 2, sack=True)
        s.wait(50 * MS)
        connection.send(bytes(2000))
        s.expect("A", seq=2001)
        s.expect("PA", seq=3001)
        s.wait(50 * MS)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.expect("A", seq=1, after=25 * MS)
        s.send("A", seq=1, ack=2001)
        s.wait(10 * MS)
        assert not s.queue  # 2001 and 3001 were sent after all that was delivered
        s.send("A", seq=1, ack=4001)
        s.quiet()


def test_rack_finds_a_lost_retransmission() -> None:
    """Section 6.2.5: something sent after the retransmission was delivered."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 6001)])
        s.expect("A", seq=1)
        connection.send(bytes(3000))
        s.send("A", seq=1, ack=1, sack=[(1001, 9001)])
        s.expect("A", seq=10_001, length=1000)
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(10_001, 11_001), (1001, 9001)])
        s.expect("A", seq=1, length=1000)
        assert s.counter("tcp_rto") == 0


def test_loss_beyond_the_recovery_point_is_the_next_reduction() -> None:
    """RFC 6675 section 5: what was sent during recovery and got lost is not paid for by that one, even if repaired."""
    with Script(congestion=ffi.new("char[]", b"reno")) as s:
        connection = flight(s, 10, sack=True)
        connection.send(bytes(20_000))
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 10_001)])
        s.expect("A", seq=1)
        for index in range(10, 14):
            s.expect("A", seq=1 + 1000 * index)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(11_001, 14_001), (1001, 10_001)])  # the retransmission is late
        s.drain()
        assert connection.info.lost >= 1000
        first = connection.info.snd_ssthresh
        s.send("A", seq=1, ack=10_001, sack=[(11_001, 14_001)])
        assert connection.info.ca_state == RECOVERY
        assert connection.info.snd_ssthresh < first
        assert s.counter("tcp_fast_retrans") == 2


def test_rack_tolerates_more_after_reordering_was_seen() -> None:
    """Section 6.2.4: with reordering seen, three SACKs no longer end the wait."""
    with Script() as s:
        connection = flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.send("A", seq=1, ack=4001)
        connection.send(bytes(8000))
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=4001, sack=[(5001, 9001)])
        s.expect("A", seq=4001, after=25 * MS)


def dsack_then_loss(s: Script, connection: Connection, start: int) -> None:
    """The first of four segments from `start` on is only late, but repaired; then the first of four more is lost."""
    connection.send(bytes(4000))
    s.drain()
    s.wait(RTT)
    s.send("A", seq=1, ack=start, sack=[(start + 1000, start + 2000)])
    s.expect("A", seq=start, after=25 * MS)
    s.send("A", seq=1, ack=start + 4000)
    s.wait(RTT)
    s.send("A", seq=1, ack=start + 4000, sack=[(start, start + 1000)])
    connection.send(bytes(4000))
    s.drain()
    s.wait(RTT)
    s.send("A", seq=1, ack=start + 4000, sack=[(start + 5000, start + 6000)])


def test_rack_dsack_widens_the_window_once_a_round() -> None:
    """Section 6.2.4: each round with a D-SACK adds a quarter of the RTT, where there is reordering."""
    with Script() as s:
        connection = flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.send("A", seq=1, ack=4001)
        dsack_then_loss(s, connection, 4001)
        s.expect("A", seq=8001, after=50 * MS)


def test_rack_dsack_without_reordering_leaves_the_window() -> None:
    """As Linux: it comes of probes and timeouts that a lost ACK has caused; waiting longer would not prevent those."""
    with Script() as s:
        connection = flight(s, 1, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1001)
        dsack_then_loss(s, connection, 1001)
        s.expect("A", seq=5001, after=25 * MS)


def test_rack_finds_a_lost_retransmission_by_a_later_one() -> None:
    """Section 6.2: the SACK of a retransmission beside a hole echoes what came before the hole, and counts.

    RFC 7323 section 4.3: only what fills the hole moves the timestamp that is echoed.
    """
    with Script() as s:
        flight(s, 10, sack=True, timestamps=True)
        echo = s.last_tsval
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(2001, 10_001)], tsecr=echo)
        s.expect("A", seq=1)
        s.expect("A", seq=1001)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 10_001)], tsecr=echo)
        s.expect("A", seq=1, length=1000)
        assert s.counter("tcp_rto") == 0


def test_a_partly_sacked_segment_counts_as_missing() -> None:
    """As in Linux: a receiver has whole segments or none, and one that claims bytes must not fill the scoreboard."""
    with Script() as s:
        connection = flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(501, 4001)])
        s.expect("A", seq=1, length=1000)
        s.send("A", seq=1, ack=4001)
        s.quiet()
        assert connection.info.bytes_retrans == 1000


@pytest.mark.parametrize("last", [4001, 3501, 3002])
def test_a_super_frame_is_split_only_between_its_segments(last: int) -> None:
    with Script(offload=True) as s:
        connection = s.open(mss=1000, sack=True)
        connection.send(bytes(5000))
        s.expect("PA", seq=1, length=5000)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(501, last)])  # its edges are inside of segments
        assert connection.info.sacked == (last - 1001) // 1000 * 1000
        s.send("A", seq=1, ack=1, sack=[(501, last + 499)])
        assert connection.info.sacked == (last + 499 - 1001) // 1000 * 1000


def test_a_peer_that_claims_single_bytes_makes_no_records() -> None:
    with Script(offload=True) as s:
        connection = s.open(rtt=RTT, mss=1000, sack=True)
        connection.send(bytes(10000))
        s.drain()
        before = lib.ams_stack_memory(connection.host.stack)
        for byte in range(2, 900, 2):
            s.send("A", seq=1, ack=1, sack=[(byte, byte + 1)])
        assert connection.info.sacked == 0
        assert lib.ams_stack_memory(connection.host.stack) == before


def test_rack_on_timeout_spares_what_was_just_sent() -> None:
    """Section 6.3: only the first segment, and what is old enough, is marked at a timeout."""
    with Script() as s:
        connection = flight(s, 2, sack=True)
        s.expect("PA", seq=1001, after=202 * MS)  # a loss probe
        s.wait(240 * MS)
        connection.send(bytes(2000))
        s.expect("A", seq=2001)
        s.expect("PA", seq=3001)
        s.expect("A", seq=1, length=1000, after=60 * MS, tolerance=20 * MS)
        assert s.counter("tcp_rto") == 1
        s.send("A", seq=1, ack=4001)
        s.quiet()
        assert connection.info.bytes_retrans == 2000


# ---- tail loss probes (RFC 8985 section 7) ------------------------------------------------------------------


def test_tlp_sends_the_last_segment_again_after_two_rtts() -> None:
    """Section 7.3."""
    with Script() as s:
        flight(s, 3, sack=True)
        s.expect("PA", seq=2001, length=1000, after=202 * MS)
        assert s.counter("tcp_tlp") == 1
        assert s.counter("tcp_rto") == 0


def test_tlp_prefers_new_data() -> None:
    """Section 7.3: new data tells as much, and is never in vain."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(20_000))
        for index in range(10):
            s.expect("A", seq=1 + 1000 * index)
        s.expect("A", seq=10_001, length=1000, after=202 * MS)
        s.wait(50 * MS)
        assert not s.queue  # one probe
        assert connection.info.bytes_retrans == 0


def test_tlp_for_a_single_segment_allows_for_a_delayed_ack() -> None:
    """Section 7.2: WCDelAckT is added, up to the retransmission timeout."""
    with Script() as s:
        flight(s, 1, sack=True)
        s.expect("PA", seq=1, after=300 * MS, tolerance=5 * MS)  # srtt + the minimum RTO
        assert s.counter("tcp_tlp") == 1


def test_tlp_needs_sack() -> None:
    """Section 7.2."""
    with Script() as s:
        flight(s, 3)
        s.expect("A", seq=1, after=300 * MS, tolerance=5 * MS)
        assert s.counter("tcp_tlp") == 0
        assert s.counter("tcp_rto") == 1


def test_tlp_starts_recovery_of_a_lost_tail() -> None:
    """Section 7.3: the probe's SACK makes RACK find the rest."""
    with Script() as s:
        connection = flight(s, 5, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=2001)
        s.expect("PA", seq=4001, after=202 * MS)
        s.wait(RTT)
        s.send("A", seq=1, ack=2001, sack=[(4001, 5001)])
        s.expect("A", seq=2001)
        s.send("A", seq=1, ack=3001, sack=[(4001, 5001)])
        s.expect("A", seq=3001)
        s.send("A", seq=1, ack=5001)
        s.quiet()
        assert s.counter("tcp_rto") == 0
        assert connection.info.snd_cwnd < 10_000


def test_no_tlp_while_what_was_lost_behind_the_recovery_point_is_on_its_way() -> None:
    """Section 7.2: it is the next recovery's, which has timeouts, and no probes."""
    with Script() as s:
        connection = flight(s, 2, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])  # reordering: the window for it stays in recovery
        s.send("A", seq=1, ack=2001)
        connection.send(bytes(1000))
        s.expect("PA", seq=2001)
        s.wait(20 * MS)
        connection.send(bytes(4000))
        for seq in (3001, 4001, 5001, 6001):
            s.expect("PA" if seq == 6001 else "A", seq=seq)
        s.wait(RTT)
        s.send("A", seq=1, ack=2001, sack=[(5001, 6001)])
        s.expect("PA", seq=2001, after=6 * MS)  # the first is lost: `recover` is 7001
        connection.send(bytes(1000))
        s.wait(4 * MS)
        s.send("A", seq=1, ack=2001, sack=[(5001, 7001)])
        s.expect("PA", seq=7001)
        s.expect("A", seq=3001, after=25 * MS)
        s.expect("A", seq=4001)
        s.wait(115 * MS)
        s.send("A", seq=1, ack=2001, sack=[(3001, 7001)])  # they were sent after 7001, which is lost, too
        s.expect("PA", seq=2001)
        s.expect("PA", seq=7001)
        s.wait(RTT)
        s.send("A", seq=1, ack=7001)
        assert connection.info.ca_state == RECOVERY  # for 7001, which the last one did not pay for
        s.expect("PA", seq=7001, after=302 * MS, tolerance=10 * MS)
        assert s.counter("tcp_tlp") == 0
        assert s.counter("tcp_rto") == 1
        s.wait(RTT)
        s.send("A", seq=1, ack=8001)
        assert connection.info.ca_state == OPEN
        assert connection.info.retrans_out == 0


def test_tlp_that_repaired_the_loss_still_costs() -> None:
    """Section 7.4.2: no D-SACK, so the last segment had been lost."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=9001)
        s.expect("PA", seq=9001, after=300 * MS, tolerance=110 * MS)
        before = connection.info.snd_cwnd
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)
        connection.send(bytes(1000))
        s.expect("PA", seq=10_001)
        s.wait(RTT)
        s.send("A", seq=1, ack=11_001)
        assert s.counter("tcp_tlp_recovered") == 1
        assert connection.info.snd_cwnd <= before * 0.75


def test_tlp_that_was_not_needed_costs_nothing() -> None:
    """Section 7.4.2: a D-SACK says that both have arrived."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=9001)
        s.drain()
        s.expect("PA", seq=9001, after=300 * MS, tolerance=110 * MS)
        s.send("A", seq=1, ack=10_001)
        s.send("A", seq=1, ack=10_001, sack=[(9001, 10_001)])
        connection.send(bytes(1000))
        s.expect("PA", seq=10_001)
        s.wait(RTT)
        s.send("A", seq=1, ack=11_001)
        assert s.counter("tcp_tlp_recovered") == 0
        assert connection.info.snd_ssthresh > 0x7FFFFFFF
