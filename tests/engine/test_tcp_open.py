"""Opening a connection (RFC 9293 section 3.5): options, retransmissions, refusals."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import IP, MS, PEER_MAC, SECOND, TCP, Ether, Script


@pytest.mark.parametrize("v6", [False, True])
def test_passive_open_offers_only_what_the_peer_offered(v6: bool) -> None:
    with Script(v6=v6) as s:
        s.syn(mss=1400)
        s.expect("SA", ack=1, length=0, mss=1440 if v6 else 1460, sack_ok=False)
        s.send("A", seq=1, ack=1)
        assert s.accepted().info.options == 0
        s.quiet()


def test_passive_open_with_all_options() -> None:
    with Script() as s:
        s.syn(sack=True, wscale=5, timestamps=True)
        segment = s.expect("SA", ack=1, mss=1460, wscale=7, sack_ok=True)
        assert [name for name, _ in segment.options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
        s.send("A", seq=1, ack=1, win=100)
        info = s.accepted().info
        assert info.snd_wnd == 100 << 5
        assert info.snd_mss == 1448
        assert info.options == lib.AMS_INFO_SACK | lib.AMS_INFO_TIMESTAMPS | lib.AMS_INFO_WSCALE


def test_active_open() -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S", seq=0, length=0, mss=1460, wscale=7, sack_ok=True)
        s.send("SA", seq=0, ack=1, options=[("MSS", 1000)])
        s.expect("A", seq=1, ack=1, length=0)
        assert connection.connected
        assert connection.info.snd_mss == 1000
        s.quiet()


def test_syn_is_retransmitted_with_backoff() -> None:
    """RFC 6298 sections 2.1 and 5.5."""
    with Script(listen=None) as s:
        s.connect()
        s.expect("S")
        for delay in (1, 2, 4, 8):
            s.expect("S", seq=0, after=delay * SECOND)


def test_the_first_timeouts_of_a_syn_may_be_equal() -> None:
    """syn_linear_timeouts: as Linux's sysctl; so many more retransmissions are made (its tcp_write_timeout())."""
    with Script(listen=None, syn_linear_timeouts=2, syn_retries=3) as s:
        connection = s.connect()
        s.expect("S")
        for seconds in (1, 1, 1, 2, 4):
            s.expect("S", after=seconds * SECOND)
        s.quiet(7 * SECOND)
        s.wait(2 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_timeouts_have_a_limit() -> None:
    """rto_max_ms (RFC 6298 section 2.4): of SYNs, SYN-ACKs and data."""
    with Script(rto_max_ms=1500) as s:
        s.syn()
        s.expect("SA")
        for delay in (1000, 1500, 1500):
            s.expect("SA", after=delay * MS)
        s.send("A", seq=1, ack=1)
        s.accepted().send(b"data")
        s.expect("PA", length=4)
        s.wait(4 * SECOND)
        s.drain()
        for _ in range(3):
            s.expect("PA", length=4, after=1500 * MS, tolerance=1500 * MS)
        start = s.world.now
        for _ in range(4):
            s.expect("PA", length=4, after=1500 * MS)
        assert s.world.now - start == pytest.approx(6 * SECOND, rel=0.01)


def test_syn_ack_is_retransmitted_and_the_connection_given_up() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        for delay in (1, 2, 4, 8, 16):
            s.expect("SA", seq=0, ack=1, after=delay * SECOND)
        s.quiet(120 * SECOND)
        assert not s.host.accepted
        assert lib.ams_stack_endpoints(s.host.stack) == 1


def test_repeated_syn_gets_the_same_syn_ack() -> None:
    with Script() as s:
        s.syn()
        iss = s.expect("SA").seq
        s.syn()
        assert s.expect("SA", ack=1).seq == iss


def test_simultaneous_open() -> None:
    """RFC 9293 section 3.5, figure 7."""
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("S", seq=0, options=[("MSS", 1460)])
        s.expect("SA", seq=0, ack=1)
        s.send("SA", seq=0, ack=1)
        assert connection.connected
        assert connection.info.state == lib.AMS_TCP_ESTABLISHED


def test_rst_in_answer_to_syn_refuses() -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("RA", seq=0, ack=1)
        assert connection.closed == "ECONNREFUSED"
        s.quiet()


def test_bad_ack_in_syn_sent_is_reset_and_ignored() -> None:
    """RFC 9293 section 3.10.7.3, first."""
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("SA", seq=0, ack=77)
        s.expect("R", seq=77)
        assert connection.closed is None
        assert not connection.connected


def test_segment_to_a_closed_port() -> None:
    """RFC 9293 section 3.10.7.1."""
    with Script() as s:
        s.local_port = 81
        s.syn()
        s.expect("RA", ack=1)
        s.send("A", seq=5, ack=9)
        s.expect("R")
        s.send("R", seq=5)
        s.quiet()


def test_ack_to_a_listener_is_reset() -> None:
    with Script() as s:
        s.send("A", seq=1, ack=1)
        s.expect("R")


def test_wrong_ack_of_the_syn_ack_is_reset() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("A", seq=1, ack=5000)
        s.expect("R", seq=5000)
        assert not s.host.accepted


def test_rst_ends_an_embryonic_connection() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("R", seq=1)
        s.quiet(10 * SECOND)
        assert not s.host.accepted


def test_data_with_the_final_ack_is_delivered() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("PA", seq=1, ack=1, data=b"early")
        assert s.accepted().received == b"early"


@pytest.mark.parametrize("options", [b"\x02", b"\x02\x00", b"\x02\xff\x00\x00", b"\x05\x09" + bytes(7), b"\x08\x02"])
def test_malformed_options_are_survived(options: bytes) -> None:
    with Script() as s:
        padded = options + b"\x01" * (-len(options) % 4)
        header = TCP(sport=s.port, dport=80, seq=s.isn, flags="S", dataofs=5 + len(padded) // 4, window=1000)
        packet = IP(bytes(IP(src=s.remote, dst=s.local, proto=6) / (bytes(header)[:20] + padded)))
        del packet[TCP].chksum
        s.wire.inject(bytes(Ether(src=PEER_MAC, dst=s.host.mac.hex(":")) / packet))
        s.wait(0)
        s.expect("SA", ack=1)


def test_a_tentative_address_can_be_listened_on() -> None:
    """RFC 4862 section 5.4: it answers once duplicate address detection is done."""
    with Script(listen=None, v6=True, flags=0) as s:
        s.host.listen(s.local, 80)
        s.wait(3 * SECOND)
        s.drain()
        s.local_port = 80
        s.open()
        assert s.accepted().connected
