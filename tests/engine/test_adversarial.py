"""Peers and third parties that mean harm, each with the bound that holds.  SYN floods: test_rfc4987_flood.py."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether

from .script import MS, PEER_MAC, SECOND, Script
from .world import Connection

MSS = 1460


def kept(s: Script) -> int:
    """How many segments out of order were not dropped."""
    counters = s.host.counters()
    return counters["stack.tcp_ooo"] - counters["stack.tcp_ooo_dropped"]


def alive(s: Script, connection: Connection, seq: int = 1, ack: int = 1) -> None:
    """The connection still carries data."""
    before = len(connection.received)
    s.send("PA", seq=seq, ack=ack, data=b"alive")
    assert bytes(connection.received[before:]).startswith(b"alive")
    assert connection.closed is None


# ---- blind attacks (RFC 5961) ------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["R", "RA", "S", "SA"])
def test_blind_resets_and_syns_cost_one_answer_in_half_a_second(flags: str) -> None:
    """Sections 3.2 and 4.2: an attacker who hits the window but not the number learns little and ends nothing."""
    with Script() as s:
        connection = s.open()
        for i in range(100):
            s.send(flags, seq=2 + 600 * i, ack=1)
        assert len(s.taken()) == 1
        s.wait(600 * MS)
        for i in range(100):
            s.send(flags, seq=2 + 600 * i, ack=1)
        assert len(s.taken()) == 1
        alive(s, connection)


def test_many_connections_share_a_limit_that_cannot_be_counted() -> None:
    """Section 7, and CVE-2016-5696: the number allowed in a second is random."""
    allowed = []
    with Script() as s:
        for i in range(160):
            s.port = 2000 + i
            s.open()
        for _ in range(2):
            s.drain()
            for i in range(160):
                s.send("R", seq=2, port=2000 + i)
            allowed.append(len(s.taken()))
            s.wait(2 * SECOND)
    assert all(50 <= each < 150 for each in allowed)
    assert len(set(allowed)) > 1


def test_blind_data_needs_an_acknowledgement_in_range() -> None:
    """Section 5.2."""
    with Script() as s:
        connection = s.open()
        for ack in (1 + (1 << 20), 1 - (1 << 20), 1 << 31):
            for i in range(40):
                s.send("PA", seq=1 + i, ack=ack, data=b"evil")
        assert connection.received == b""
        assert len(s.taken()) <= 1
        alive(s, connection)


def test_old_bare_acks_are_no_ping_pong() -> None:
    with Script() as s:
        connection = s.open()
        for i in range(100):
            s.send("A", seq=-1000 - i, ack=1)
        assert len(s.taken()) <= 1
        alive(s, connection)


# ---- misbehaving receivers (Savage et al.) ---------------------------------------------------------------


def test_ack_splitting_gains_nothing() -> None:
    """RFC 3465: cwnd grows by bytes, not by ACKs."""
    with Script() as s:
        connection = s.open(mss=MSS)
        connection.send(b"x" * 60 * MSS)
        s.drain()
        before = connection.info.snd_cwnd
        for i in range(0, MSS, 20):
            s.send("A", seq=1, ack=1 + i)
        assert connection.info.snd_cwnd <= before + MSS


def test_optimistic_acks_are_ignored() -> None:
    """What was not sent cannot be acknowledged."""
    with Script() as s:
        connection = s.open(mss=MSS)
        connection.send(b"x" * 60 * MSS)
        s.drain()
        before = connection.info.snd_cwnd
        for i in range(60):
            s.send("A", seq=1, ack=1 + 11 * MSS + i * MSS)
        assert connection.info.snd_cwnd == before
        assert connection.info.bytes_acked == 0
        assert len(s.taken()) <= 1


def test_duplicate_acks_without_data_out_do_nothing() -> None:
    with Script() as s:
        connection = s.open(mss=MSS, sack=True)
        before = connection.info.snd_cwnd
        for _ in range(60):
            s.send("A", seq=1, ack=1)
        assert s.taken() == []
        assert connection.info.snd_cwnd == before


# ---- what arrives ------------------------------------------------------------------------------------------


def test_overlapping_segments_with_other_data_change_nothing_that_was_received() -> None:
    with Script() as s:
        connection = s.open()
        s.send("A", seq=11, ack=1, data=b"B" * 10)
        s.send("A", seq=1, ack=1, data=b"A" * 10)
        s.send("PA", seq=1, ack=1, data=b"X" * 20)
        s.send("PA", seq=5, ack=1, data=b"Y" * 20)
        assert bytes(connection.received[:20]) == b"A" * 10 + b"B" * 10
        assert bytes(connection.received[20:]) == b"Y" * 4


def test_scattered_bytes_hold_bounded_memory() -> None:
    """One-byte segments with gaps: each costs a frame, and there is an end to it."""
    with Script(rcvbuf=1 << 16) as s:
        connection = s.open(sack=True)
        before = lib.ams_stack_memory(s.host.stack)
        for i in range(700):
            s.send("A", seq=2 + 2 * i, ack=1, data=b"x")
        assert kept(s) == 64 + 65535 // 512  # as many frames as a buffer of 64 KB may have
        assert lib.ams_stack_memory(s.host.stack) - before < 1 << 20
        s.drain()
        alive(s, connection)


def test_scattered_bytes_in_a_large_buffer_make_a_bounded_number_of_runs() -> None:
    with Script(rcvbuf=1 << 20, rcvbuf_max=1 << 20) as s:
        connection = s.open(sack=True, wscale=7)
        for i in range(1200):
            s.send("A", seq=2 + 2 * i, ack=1, data=b"x")
        assert kept(s) == 512
        s.drain()
        alive(s, connection)


def test_nothing_lies_behind_a_fin() -> None:
    """Data beyond a FIN that came early is neither kept nor reported."""
    with Script() as s:
        connection = s.open(sack=True)
        s.send("A", seq=12, ack=1, data=b"beyond")
        s.send("FA", seq=1, ack=1, data=b"0123456789")
        s.drain()
        assert bytes(connection.received) == b"0123456789"
        assert connection.eof
        assert lib.ams_stack_frames(s.host.stack) == 0
        connection.send(b"bye")
        assert "SAck" not in dict(s.expect("PA", seq=1, ack=12, data=b"bye").options)


# ---- what is asked for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mss", [0, 1, 8, 47, 88])
def test_a_tiny_mss_makes_no_swarm_of_segments(mss: int) -> None:
    """The SACK panic class (CVE-2019-11477 to 11479): an MSS has a floor, and records are bounded."""
    with Script() as s:
        connection = s.open(mss=mss, sack=True)
        assert connection.info.snd_mss >= 88
        connection.send(b"x" * 30_000)
        s.drain()
        before = lib.ams_stack_memory(s.host.stack)
        for i in range(60):
            edge = 1 + connection.info.snd_mss * (2 * i + 1)
            s.send("A", seq=1, ack=1, sack=[(edge, edge + 1)])
        s.drain()
        assert lib.ams_stack_memory(s.host.stack) - before < 1 << 20
        assert len(connection.received) == 0


def test_a_window_that_shrinks_loses_nothing() -> None:
    with Script() as s:
        connection = s.open(mss=MSS)
        connection.send(b"x" * 4 * MSS)
        assert len(s.taken()) == 4
        s.send("A", seq=1, ack=1, win=100)  # what is out already stays out
        s.wait(100 * MS)
        s.send("A", seq=1, ack=1 + 2 * MSS, win=0)
        s.drain()
        s.wait(2 * SECOND)
        s.send("A", seq=1, ack=1 + 4 * MSS, win=65535)
        connection.send(b"more")
        s.drain()
        assert connection.info.bytes_acked == 4 * MSS


def test_tiny_windows_are_probed_not_filled_byte_by_byte() -> None:
    """Silly windows (RFC 9293 section 3.8.6.2)."""
    with Script() as s:
        connection = s.open(mss=MSS)
        connection.send(b"x" * 100 * MSS)
        s.drain()
        for i in range(50):
            s.send("A", seq=1, ack=1 + 10 * MSS, win=1 + i % 3)
        assert len(s.taken()) <= 2


def test_hoarders_of_closed_windows_end_at_the_limit() -> None:
    """Sockstress: at the limit of endpoints further ones are refused, those that are open work."""
    with Script(max_endpoints=20) as s:
        accepted = []
        for i in range(30):
            s.port = 2000 + i
            s.syn()
            for segment in s.taken():
                s.iss = segment.seq
            s.send("A", seq=1, ack=1, win=0)
            s.drain()
            accepted = list(s.host.accepted)
        assert 15 <= len(accepted) <= 20
        full = lib.ams_stack_memory(s.host.stack)
        for connection in accepted:
            connection.send(b"x" * 1000)
        s.wait(600 * SECOND)
        s.drain()
        assert lib.ams_stack_memory(s.host.stack) < full + 20 * 4096
        for connection in accepted:
            if connection.closed is None:
                connection.option(lib.AMS_OPT_USER_TIMEOUT, 1000)
        s.wait(300 * SECOND)
        assert all(connection.closed == "ETIMEDOUT" for connection in accepted)


# ---- timestamps -------------------------------------------------------------------------------------------------


def test_a_timestamp_from_outside_the_window_is_not_kept() -> None:
    """RFC 7323 section 4.3: else one forged segment would make PAWS drop all that follow."""
    with Script() as s:
        connection = s.open(timestamps=True)
        s.send("A", seq=1 << 30, ack=1, tsval=0x70000000)
        s.send("A", seq=-5000, ack=1, tsval=0x70000000)
        s.drain()
        alive(s, connection)


def test_echoes_that_were_never_sent_don_t_shape_the_timer() -> None:
    with Script() as s:
        connection = s.open(timestamps=True)
        for i in range(20):
            connection.send(b"x" * 100)
            s.drain()
            s.wait(10 * MS)
            s.send("A", seq=1, ack=1 + 100 * (i + 1), tsecr=(s.last_tsval - 1_000_000 * i) & 0xFFFFFFFF)
        assert connection.info.rto <= SECOND
        assert connection.info.srtt <= 100 * MS


def test_echoes_that_were_never_sent_don_t_time_a_retransmission() -> None:
    """Karn's rule lets an echo time what was sent twice; it must be one of the later copy's."""
    with Script() as s:
        connection = s.open(timestamps=True, rtt=10 * MS)
        connection.send(b"x" * 100)
        s.expect("PA", seq=1, ack=1, data=b"x" * 100)
        s.wait(2 * SECOND)  # it is sent again
        s.drain()
        s.send("A", seq=1, ack=101, tsecr=(s.last_tsval - 1_000_000) & 0xFFFFFFFF)
        assert connection.info.srtt <= 100 * MS
        assert connection.info.rto <= 60 * SECOND


# ---- ICMP (RFC 5927) --------------------------------------------------------------------------------------------


def icmp(s: Script, *, seq: int, kind: int = 3, code: int = 4, mtu: int = 0) -> None:
    """An ICMP error that quotes a segment of ours."""
    quoted = IP(src=s.local, dst=s.remote) / TCP(
        sport=s.local_port, dport=s.port, seq=((s.iss or 0) + seq) & 0xFFFFFFFF, flags="A"
    )
    message = ICMP(type=kind, code=code, nexthopmtu=mtu) if kind == 3 else ICMP(type=kind, code=code)
    frame = Ether(src=PEER_MAC, dst=bytes(s.host.mac).hex(":")) / IP(src="10.1.0.77", dst=s.local) / message / quoted
    s.wire.inject(bytes(frame))
    s._run(0)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 9, 13])
def test_unreachables_end_no_established_connection(code: int) -> None:
    """Section 5.2: what is hard for an open is soft afterwards."""
    with Script() as s:
        connection = s.open()
        connection.send(b"data")
        s.drain()
        for _ in range(20):
            icmp(s, seq=1, code=code)
        alive(s, connection, ack=5)


@pytest.mark.parametrize("seq", [0, 5, 100_000, -100_000])
def test_errors_about_what_is_not_in_flight_are_ignored(seq: int) -> None:
    """Section 4.1."""
    with Script() as s:
        connection = s.open()
        connection.send(b"data")
        s.drain()
        icmp(s, seq=seq, mtu=600)
        assert connection.info.snd_mss == 1460


@pytest.mark.parametrize("mtu", [0, 1, 68, 200])
def test_a_forged_path_mtu_has_a_floor(mtu: int) -> None:
    """Section 7: 68 bytes would leave 28 for data."""
    with Script() as s:
        connection = s.open()
        connection.send(b"x" * 5000)
        s.drain()
        for _ in range(10):
            icmp(s, seq=1, mtu=mtu)
        assert connection.info.snd_mss >= 552 - 40  # the floor is that of Linux
        assert len(s.taken()) < 200


def test_source_quench_does_nothing() -> None:
    """RFC 6633."""
    with Script() as s:
        connection = s.open()
        connection.send(b"x" * 5000)
        s.drain()
        before = connection.info.snd_cwnd
        icmp(s, seq=1, kind=4, code=0)
        assert connection.info.snd_cwnd == before


# ---- TIME-WAIT -------------------------------------------------------------------------------------------------------


def test_time_wait_is_not_assassinated() -> None:
    """RFC 1337: neither old segments nor resets end it."""
    with Script() as s:
        connection = s.open()
        connection.close()
        s.drain()
        s.send("FA", seq=1, ack=2)
        s.drain()
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        for flags, seq, data in (("R", 2, b""), ("R", 1, b""), ("PA", 1, b"old"), ("A", -5, b""), ("RA", 2, b"")):
            s.send(flags, seq=seq, ack=2, data=data)
            assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.drain()
        s.wait(61 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 0
