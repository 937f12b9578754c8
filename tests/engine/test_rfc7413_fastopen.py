"""TCP Fast Open (RFC 7413), client and server."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet import ICMP

from .script import IP, MS, PEER_MAC, SECOND, TCP, Ether, Script, raw_options
from .world import Connection

FASTOPEN = 34
KEY = bytes(range(16))


def cookie_of(segment: Any) -> bytes | None:
    """The Fast Open option's value; None if there is none."""
    return dict(raw_options(segment)).get(FASTOPEN)


def syn(s: Script, cookie: bytes | None, data: bytes = b"", **more: Any) -> None:
    options: list[Any] = [("MSS", 1460)]
    if cookie is not None:
        options.append((FASTOPEN, cookie))
    s.send("S", seq=0, options=options, data=data, **more)


def server(limit: int = 8, **config: Any) -> Script:
    s = Script(fastopen_key=KEY, **config)
    listener = 0  # the first id
    assert lib.ams_tcp_setopt(s.host.stack, listener, lib.AMS_OPT_FASTOPEN, limit) == 0
    return s


def ask(s: Script) -> bytes:
    """A handshake that brings a cookie; closed again."""
    syn(s, b"")
    cookie = cookie_of(s.expect("SA", ack=1))
    assert cookie is not None
    assert len(cookie) == 8
    s.send("R", seq=1)
    s.port += 1
    return cookie


def test_a_request_brings_a_cookie_bound_to_the_client() -> None:
    """Section 4.1.2: the same for the same client, another for another key."""
    with server() as s:
        cookie = ask(s)
        assert ask(s) == cookie
    with Script(fastopen_key=bytes(16)) as other:
        lib.ams_tcp_setopt(other.host.stack, 0, lib.AMS_OPT_FASTOPEN, 1)
        assert ask(other) != cookie


def test_data_in_the_syn_is_delivered_and_answered_before_the_handshake_is_done() -> None:
    """Section 4.2.2."""
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"GET /")
        connection = s.accepted()
        assert connection.received == b"GET /"
        assert connection.info.state == lib.AMS_TCP_SYN_RECEIVED
        s.expect("SA", ack=6)
        connection.send(b"200 OK")
        s.expect("PA", seq=1, ack=6, data=b"200 OK")
        s.send("A", seq=6, ack=7)
        assert connection.info.state == lib.AMS_TCP_ESTABLISHED
        assert connection.info.options & lib.AMS_INFO_SYN_DATA
        s.quiet(100 * MS)


@pytest.mark.parametrize("cookie", [b"\0" * 8, b"\1" * 4, b"\2" * 16])
def test_a_bad_cookie_gets_a_good_one_and_no_data(cookie: bytes) -> None:
    with server() as s:
        good = ask(s)
        syn(s, cookie, b"GET /")
        assert cookie_of(s.expect("SA", ack=1)) == good
        s.send("PA", seq=1, ack=1, data=b"GET /")
        assert s.accepted().received == b"GET /"


def test_without_the_option_the_listener_takes_no_data() -> None:
    with Script() as s:
        syn(s, b"", b"GET /")
        segment = s.expect("SA", ack=1)
        assert cookie_of(segment) is None


def test_the_limit_of_pending_connections_holds() -> None:
    """Section 5.1: beyond it the handshake is an ordinary one."""
    with server(limit=2) as s:
        cookie = ask(s)
        numbers = []
        for expected in (4, 4, 1):
            syn(s, cookie, b"abc")
            s.expect("SA", ack=expected)
            numbers.append(s.iss)
            s.port += 1
        s.port, s.iss = s.port - 3, numbers[0]  # the first one ends its handshake: there is room again
        s.send("A", seq=4, ack=1)
        s.port += 3
        syn(s, cookie, b"abc")
        s.expect("SA", ack=4)


def test_the_syn_ack_is_repeated_and_data_waits_for_it() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"x")
        connection = s.accepted()
        s.expect("SA", ack=2)
        connection.send(b"y")
        s.expect("PA", seq=1, data=b"y")
        s.expect("SA", ack=2, after=SECOND)
        s.send("A", seq=2, ack=1)
        assert connection.info.state == lib.AMS_TCP_ESTABLISHED
        s.wait(2 * SECOND)
        s.expect("PA", seq=1, data=b"y")


def test_a_child_has_room_for_the_state_of_its_congestion_control() -> None:
    """BBR's doesn't fit in the TCB, and it is asked from the start: the answer may go before the handshake ends."""
    name = ffi.new("char[]", b"bbr")
    with server(congestion=name) as s:
        cookie = ask(s)
        memory = []
        for _ in range(2):
            syn(s, cookie, b"x")
            connection = s.accepted()
            s.expect("SA", ack=2)
            assert ffi.string(connection.info.congestion) == b"bbr"
            connection.send(bytes(20_000))
            assert sum(len(bytes(segment.payload)) for segment in s.taken()) == 14_600
            s.send("A", seq=2, ack=14_601)
            s.wait(SECOND)
            s.send("A", seq=2, ack=20_001)
            assert connection.info.bytes_acked == 20_000
            connection.abort()
            s.drain()
            memory.append(lib.ams_stack_memory(s.host.stack))
            s.port += 1
        assert memory[0] == memory[1]


def test_a_repeated_syn_is_answered_again() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"x")
        s.expect("SA", ack=2)
        syn(s, cookie, b"x")
        s.expect("SA", ack=2)
        assert s.accepted().received == b"x"
        assert len(s.host.accepted) == 1


def test_close_before_the_handshake_is_done() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"x")
        connection = s.accepted()
        s.expect("SA", ack=2)
        connection.close()
        s.expect("FA", seq=1, ack=2)
        s.send("FA", seq=2, ack=2)
        s.expect("A", seq=2, ack=3)
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_a_reset_before_the_handshake_is_done() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"x")
        connection = s.accepted()
        s.expect("SA", ack=2)
        s.send("R", seq=2)
        assert connection.closed == "ECONNRESET"
        assert connection.received == b"x"


# ---- client ------------------------------------------------------------------------------------------------


def connect(s: Script, how: int = 1) -> Connection:
    connection = s.connect()
    assert connection.option(lib.AMS_OPT_FASTOPEN_CONNECT, how) == 0
    return connection


def client(**config: Any) -> Script:
    return Script(listen=None, port=80, **config)


def learn(s: Script, cookie: bytes = b"12345678", mss: int = 1460) -> None:
    """A connection whose SYN-ACK brings a cookie."""
    connect(s)
    assert cookie_of(s.expect("S")) == b""
    s.send("SA", seq=0, ack=1, options=[("MSS", mss), (FASTOPEN, cookie)])
    s.expect("A", seq=1, ack=1)
    s.send("R", seq=1, ack=1)


def test_the_first_connection_asks_for_a_cookie_and_the_second_uses_it() -> None:
    """Section 4.2.1."""
    with client() as s:
        learn(s)
        connection = connect(s)
        s.quiet(100 * MS)  # the SYN waits for data
        connection.send(b"hello")
        segment = s.expect("S", data=b"hello")
        assert cookie_of(segment) == b"12345678"
        s.send("SA", seq=0, ack=6, options=[("MSS", 1460)])
        s.expect("A", seq=6, ack=1)
        assert connection.connected
        assert connection.info.options & lib.AMS_INFO_SYN_DATA
        s.quiet(SECOND)


def test_data_that_the_server_did_not_take_is_sent_again_at_once() -> None:
    with client() as s:
        learn(s)
        connection = connect(s)
        connection.send(b"hello")
        s.expect("S", data=b"hello")
        s.send("SA", seq=0, ack=1, options=[("MSS", 1460)])
        s.expect("PA", seq=1, ack=1, data=b"hello")
        assert not connection.info.options & lib.AMS_INFO_SYN_DATA
        assert connection.info.snd_cwnd >= 10 * 1460


def test_a_partial_acknowledgement_sends_the_rest() -> None:
    with client() as s:
        learn(s)
        connect(s).send(b"hello")
        s.expect("S", data=b"hello")
        s.send("SA", seq=0, ack=3, options=[("MSS", 1460)])
        s.expect("PA", seq=3, ack=1, data=b"llo")


def test_the_syn_carries_no_more_than_the_servers_mss_less_the_options() -> None:
    with client() as s:
        learn(s, mss=1000)
        connection = connect(s)
        connection.send(b"x" * 3000)
        s.expect("S", length=960)


def test_a_lost_syn_is_repeated_plain_and_data_stays_out_for_a_while() -> None:
    """Section 4.1.3: middleboxes that drop such SYNs."""
    with client() as s:
        learn(s)
        for _ in range(2):
            connection = connect(s)
            connection.send(b"hello")
            s.expect("S", data=b"hello")
            assert cookie_of(s.expect("S", length=0, after=SECOND)) is None
            s.send("SA", seq=0, ack=1, options=[("MSS", 1460)])
            s.expect("PA", seq=1, data=b"hello")
            s.send("R", seq=1, ack=6)
        connection = connect(s)
        connection.send(b"hello")
        assert cookie_of(s.expect("S", length=0)) is None
        s.send("SA", seq=0, ack=1, options=[("MSS", 1460)])
        s.expect("PA", seq=1, data=b"hello")


def test_data_in_the_syn_ack_is_received() -> None:
    with client() as s:
        learn(s)
        connection = connect(s)
        connection.send(b"hello")
        s.expect("S", data=b"hello")
        s.send("SA", seq=0, ack=6, options=[("MSS", 1460)], data=b"world")
        s.expect("A", seq=6, ack=6)
        assert connection.received == b"world"


def test_a_cookie_is_not_learnt_unasked() -> None:
    with client() as s:
        s.connect()
        assert cookie_of(s.expect("S")) is None
        s.send("SA", seq=0, ack=1, options=[("MSS", 1460), (FASTOPEN, b"12345678")])
        s.expect("A")
        connect(s).send(b"hello")
        assert cookie_of(s.expect("S", length=0)) == b""


def test_off() -> None:
    with client(fastopen=lib.AMS_FASTOPEN_OFF) as s:
        connection = s.connect()
        assert connection.option(lib.AMS_OPT_FASTOPEN_CONNECT, 1) < 0
        assert cookie_of(s.expect("S")) is None


def test_what_was_learnt_can_be_forgotten() -> None:
    with client() as s:
        learn(s)
        assert lib.ams_stack_set(s.host.stack, lib.AMS_SET_FORGET, 0) == 0
        learn(s)  # asks again


def test_a_listener_may_have_a_key_of_its_own() -> None:
    with server() as s:
        shared = ask(s)
        assert lib.ams_tcp_fastopen_key(s.host.stack, 0, bytes(15), 15) < 0
        assert ask(s) == shared
        assert lib.ams_tcp_fastopen_key(s.host.stack, 0, bytes(16), 16) == 0
        own = ask(s)
        assert own != shared
        assert lib.ams_tcp_fastopen_key(s.host.stack, 0, KEY, 16) == 0
        assert ask(s) == shared


# ---- what Linux does besides ---------------------------------------------------------------------------------------


def test_an_answer_before_the_handshake_is_done_goes_in_two_super_frames() -> None:
    """Before there is a round trip, too: two in flight keep the ACK clock running."""
    with server(offload=True) as s:
        cookie = ask(s)
        syn(s, cookie, b"GET /")
        s.expect("SA", ack=6)
        s.accepted().send(bytes(14600))
        s.expect("PA", seq=1, length=7300)
        s.expect("PA", seq=7301, length=7300)


def test_data_in_the_syn_counts_as_delivered_with_it() -> None:
    with Script(listen=None) as s:
        first = s.connect()
        first.option(lib.AMS_OPT_FASTOPEN_CONNECT, 1)
        s.expect("S")
        s.send("SA", seq=0, ack=1, options=[("MSS", 1460), (FASTOPEN, b"cookie12")])
        s.expect("A", seq=1)
        first.abort()
        s.drain()
        conn = s.connect()
        conn.option(lib.AMS_OPT_FASTOPEN_CONNECT, 1)
        conn.send(bytes(1000))
        s.expect("S", length=1000)
        s.send("SA", seq=0, ack=1001, options=[("MSS", 1460)])
        s.expect("A", seq=1001, ack=1)
        assert conn.info.delivered_segs == 1
        conn.send(bytes(100))
        s.expect("PA", seq=1001, length=100)
        s.send("A", seq=1, ack=1101)
        assert conn.info.delivered_segs == 2


def unreachable(s: Script) -> None:
    """An ICMP error that quotes the SYN-ACK."""
    quoted = IP(src=s.local, dst=s.remote) / TCP(sport=s.local_port, dport=s.port, seq=s.iss, flags="SA")
    frame = Ether(src=PEER_MAC, dst=bytes(s.host.mac).hex(":")) / IP(src="10.1.0.77", dst=s.local)
    s.wire.inject(bytes(frame / ICMP(type=3, code=1) / quoted))
    s._run(0)


def test_an_error_ends_a_child_that_nobody_has_used() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie)
        s.expect("SA", ack=1)
        unreachable(s)
        assert s.accepted().closed == "EHOSTUNREACH"
        s.send("A", seq=1, ack=1)
        s.expect("R", seq=1)


def test_an_error_does_not_end_a_child_that_is_in_use() -> None:
    with server() as s:
        cookie = ask(s)
        syn(s, cookie, b"GET /")
        s.expect("SA", ack=6)
        unreachable(s)
        conn = s.accepted()
        assert conn.closed is None
        s.send("A", seq=6, ack=1)
        assert conn.info.state == lib.AMS_TCP_ESTABLISHED
