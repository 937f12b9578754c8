"""Loss recovery by packet scripts: RACK-TLP, PRR, F-RTO, undo, NewReno, limited transmit.

The peer's round trip is 100 ms throughout; segments carry 1000 bytes.
"""

from __future__ import annotations

import pytest
from aiomultistack._native import ffi, lib

from .script import MS, SECOND, TCP, Script
from .world import Connection

RTT = 100 * MS
OPEN, DISORDER, CWR, RECOVERY, LOSS = range(5)


def flight(s: Script, segments: int, **options: object) -> Connection:
    """An open connection with so many segments just sent."""
    connection = s.open(mss=1012 if options.get("timestamps") else 1000, rtt=RTT, **options)
    connection.option(lib.AMS_OPT_NODELAY, 1)
    connection.send(bytes(1000 * segments))
    for index in range(segments):
        s.expect("PA" if index == segments - 1 else "A", seq=1 + 1000 * index, length=1000)
    return connection


def counter(s: Script, name: str) -> int:
    return s.host.counters()[f"stack.tcp_{name}"]


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
        assert counter(s, "rto") == 0


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
        assert counter(s, "fast_retrans") == 2


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
        assert counter(s, "rto") == 0


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
        assert counter(s, "rto") == 1
        s.send("A", seq=1, ack=4001)
        s.quiet()
        assert connection.info.bytes_retrans == 2000


# ---- tail loss probes (RFC 8985 section 7) ------------------------------------------------------------------


def test_tlp_sends_the_last_segment_again_after_two_rtts() -> None:
    """Section 7.3."""
    with Script() as s:
        flight(s, 3, sack=True)
        s.expect("PA", seq=2001, length=1000, after=202 * MS)
        assert counter(s, "tlp") == 1
        assert counter(s, "rto") == 0


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
        assert counter(s, "tlp") == 1


def test_tlp_needs_sack() -> None:
    """Section 7.2."""
    with Script() as s:
        flight(s, 3)
        s.expect("A", seq=1, after=300 * MS, tolerance=5 * MS)
        assert counter(s, "tlp") == 0
        assert counter(s, "rto") == 1


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
        assert counter(s, "rto") == 0
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
        assert counter(s, "tlp") == 0
        assert counter(s, "rto") == 1
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
        assert counter(s, "tlp_recovered") == 1
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
        assert counter(s, "tlp_recovered") == 0
        assert connection.info.snd_ssthresh > 0x7FFFFFFF


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


# ---- F-RTO (RFC 5682) ---------------------------------------------------------------------------------------


def test_frto_with_sack_undoes_a_spurious_timeout() -> None:
    """Section 3.1: new data goes out instead of retransmissions, and originals arrive."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        connection.send(bytes(20_000))
        s.expect("A", seq=10_001, after=202 * MS)  # a loss probe, new data
        s.expect("A", seq=1, length=1000, after=300 * MS, tolerance=10 * MS)
        assert connection.info.ca_state == LOSS
        s.send("A", seq=1, ack=1001)  # of the original, as it turns out
        s.expect("A", seq=11_001, length=1000)  # step 2b
        s.drain()
        s.send("A", seq=1, ack=2001)  # never retransmitted
        info = connection.info
        assert info.ca_state == OPEN
        assert info.snd_cwnd >= 10_000
        assert counter(s, "spurious_rto") == 1
        assert info.bytes_retrans == 1000


def test_frto_goes_on_after_a_real_timeout() -> None:
    """Section 3.1, step 3a: new data is SACKed, and the old is still missing."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        connection.send(bytes(20_000))
        s.expect("A", seq=10_001, after=202 * MS)
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=1001)
        s.expect("A", seq=11_001)
        s.expect("A", seq=12_001)
        s.send("A", seq=1, ack=1001, sack=[(11_001, 12_001)])
        s.expect("A", seq=1001, length=1000)
        assert connection.info.ca_state == LOSS
        assert counter(s, "spurious_rto") == 0


def test_frto_without_sack() -> None:
    """Section 2.1."""
    with Script() as s:
        connection = flight(s, 10)
        connection.send(bytes(20_000))
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=1001)
        s.expect("A", seq=10_001)
        s.expect("A", seq=11_001)
        s.send("A", seq=1, ack=2001)
        assert counter(s, "spurious_rto") == 1
        assert connection.info.ca_state == OPEN


def test_frto_without_sack_does_not_trust_a_jump_over_the_retransmission() -> None:
    """What lay behind the hole arrived before: no proof that the timeout was spurious."""
    with Script() as s:
        connection = flight(s, 3)
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=3001)
        assert counter(s, "spurious_rto") == 0
        assert connection.info.snd_ssthresh < 20_000


def test_frto_with_nothing_new_to_send_retransmits() -> None:
    """Section 3.1, step 2b: the conventional way."""
    with Script() as s:
        flight(s, 4)
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=1001)
        s.expect("A", seq=1001, length=1000)


# ---- undo (RFC 3522, 4015, 3708) ----------------------------------------------------------------------------


def test_eifel_undoes_a_spurious_fast_retransmit() -> None:
    """RFC 3522 section 3.2: the first new ACK echoes a timestamp from before the retransmission."""
    with Script() as s:
        connection = flight(s, 10, sack=True, timestamps=True)
        cwnd = connection.info.snd_cwnd
        original = s.last_tsval
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 5001)], tsecr=original)
        s.expect("A", seq=1, length=1000)
        assert connection.info.ca_state == RECOVERY
        s.send("A", seq=1, ack=5001, tsecr=original)
        info = connection.info
        assert info.ca_state == OPEN
        assert info.snd_cwnd >= cwnd
        assert info.snd_ssthresh > 0x7FFFFFFF
        assert counter(s, "undo") == 1


def test_eifel_keeps_a_justified_reduction() -> None:
    with Script() as s:
        connection = flight(s, 10, sack=True, timestamps=True)
        original = s.last_tsval
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 10_001)], tsecr=original)
        s.expect("A", seq=1, length=1000)
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)  # echoes the retransmission
        assert counter(s, "undo") == 0
        assert connection.info.snd_cwnd == 7000


def test_eifel_undoes_a_spurious_timeout() -> None:
    """RFC 4015 section 3.2."""
    with Script() as s:
        connection = flight(s, 4, timestamps=True)
        original = s.last_tsval
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=1001, tsecr=original)
        assert counter(s, "spurious_rto") == 1
        assert connection.info.backoff == 0
        s.send("A", seq=1, ack=4001, tsecr=original)
        s.quiet()
        assert connection.info.bytes_retrans == 1000


def test_dsack_of_all_that_was_retransmitted_undoes() -> None:
    """RFC 3708 section 2."""
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 4001)])
        s.expect("A", seq=1, length=1000)
        s.send("A", seq=1, ack=10_001)
        assert connection.info.snd_cwnd == 7000
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001, sack=[(1, 1001)])
        assert connection.info.snd_cwnd >= 10_000
        assert counter(s, "undo") == 1


def test_dsack_of_half_of_it_does_not() -> None:
    with Script() as s:
        connection = flight(s, 10, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(2001, 6001)])
        s.drain()
        s.send("A", seq=1, ack=1001, sack=[(2001, 6001)])
        s.drain()
        s.send("A", seq=1, ack=10_001)
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001, sack=[(1, 1001)])
        assert connection.info.bytes_retrans == 2000
        assert connection.info.snd_cwnd == 7000
        assert counter(s, "undo") == 0


def test_duplicates_made_by_the_network_do_not_widen_the_window() -> None:
    """RFC 8985 section 6.2.4: D-SACKs without retransmissions mean nothing."""
    with Script() as s:
        connection = flight(s, 4, sack=True)
        s.wait(RTT)
        s.send("A", seq=1, ack=4001)
        for _ in range(3):
            s.send("A", seq=1, ack=4001, sack=[(1, 1001)])
            s.wait(RTT)
        connection.send(bytes(4000))
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=4001, sack=[(5001, 6001)])
        s.expect("A", seq=4001, after=25 * MS)


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
        assert counter(s, "retrans") == 1
        assert connection.info.snd_cwnd >= cwnd


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
        assert counter(s, "rto") > 5


# ---- SACK blocks in data segments (RFC 6691) ----------------------------------------------------------------


@pytest.mark.parametrize("offload", [False, True])
def test_sack_blocks_take_their_room_from_the_payload(offload: bool) -> None:
    """Also in what was cut to full segments before there was anything to SACK, and in super-frames."""
    with Script(offload=offload) as s:
        connection = s.open(mss=1460, sack=True, timestamps=True)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(bytes(1448))
        s.expect("PA", seq=1, ack=1, length=1448)
        s.send("PA", seq=1001, ack=1, data=b"too early")  # the engine's segments carry SACK from here on
        connection.send(bytes(5 * 1448))
        s.wait(10 * SECOND)
        longest = max(len(frame) for _, frame in s.queue)
        assert longest > 1514 if offload else 1400 < longest <= 1514
        assert s.host.counters()["switch.tx_too_long"] == 0
        assert counter(s, "retrans") > 0


@pytest.mark.parametrize("timestamps", [False, True])
def test_data_goes_out_beside_as_many_sack_blocks_as_there_may_be(timestamps: bool) -> None:
    """RFC 2018 section 3: four blocks, three beside timestamps.  Segments stay within the MTU."""
    with Script() as s:
        connection = s.open(mss=1460, sack=True, timestamps=timestamps)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        for i in range(6):
            s.send("PA", seq=1001 + 100 * i, ack=1, data=b"too early")
        s.drain()
        connection.send(bytes(5 * 1460))
        s.wait(0)
        assert sum(s._payload_length(frame) for _, frame in s.queue) == 5 * 1460
        blocks = [len(value) // 2 for name, value in s.queue[0][1][TCP].options if name == "SAck"]
        assert blocks == [3 if timestamps else 4]


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
        assert s.host.counters()["stack.tcp_rto"] == 0
