"""Losses that were none: F-RTO (RFC 5682), Eifel (RFC 3522, 4015), D-SACK (RFC 3708)."""

from __future__ import annotations

from .flights import LOSS, OPEN, RECOVERY, RTT, flight
from .script import MS, Script

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
        assert s.counter("tcp_spurious_rto") == 1
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
        assert s.counter("tcp_spurious_rto") == 0


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
        assert s.counter("tcp_spurious_rto") == 1
        assert connection.info.ca_state == OPEN


def test_frto_without_sack_does_not_trust_a_jump_over_the_retransmission() -> None:
    """What lay behind the hole arrived before: no proof that the timeout was spurious."""
    with Script() as s:
        connection = flight(s, 3)
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=3001)
        assert s.counter("tcp_spurious_rto") == 0
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
        assert s.counter("tcp_undo") == 1


def test_eifel_keeps_a_justified_reduction() -> None:
    with Script() as s:
        connection = flight(s, 10, sack=True, timestamps=True)
        original = s.last_tsval
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 10_001)], tsecr=original)
        s.expect("A", seq=1, length=1000)
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)  # echoes the retransmission
        assert s.counter("tcp_undo") == 0
        assert connection.info.snd_cwnd == 7000


def test_eifel_undoes_a_spurious_timeout() -> None:
    """RFC 4015 section 3.2."""
    with Script() as s:
        connection = flight(s, 4, timestamps=True)
        original = s.last_tsval
        s.expect("A", seq=1, after=300 * MS, tolerance=10 * MS)
        s.send("A", seq=1, ack=1001, tsecr=original)
        assert s.counter("tcp_spurious_rto") == 1
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
        assert s.counter("tcp_undo") == 1


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
        assert s.counter("tcp_undo") == 0


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
