"""What Linux's TCP socket options do, by packet scripts; tcp(7) says what they mean."""

from __future__ import annotations

import pytest
from aiomultistack._native import ffi, lib

from .script import MS, SECOND, Script
from .world import Connection

DEFER_ACCEPT, NOTSENT_LOWAT = lib.AMS_OPT_DEFER_ACCEPT, lib.AMS_OPT_NOTSENT_LOWAT
LINGER2, WINDOW_CLAMP = lib.AMS_OPT_LINGER2, lib.AMS_OPT_WINDOW_CLAMP
EINVAL = next(-i for i in range(1, 200) if ffi.string(lib.ams_status_name(-i)) == b"EINVAL")
LISTENER = 0  # the first id


def listener_option(s: Script, option: int, value: int) -> None:
    assert lib.ams_tcp_setopt(s.host.stack, LISTENER, option, value) == 0


def get(s: Script, id_: int, option: int) -> int:
    out = ffi.new("int *")
    assert lib.ams_tcp_getopt(s.host.stack, id_, option, out) == 0
    return int(out[0])


# ---- TCP_DEFER_ACCEPT --------------------------------------------------------------------------------------------


def test_deferred_until_data_comes() -> None:
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, 10)
        s.syn()
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1)
        s.quiet(500 * MS)
        assert not s.host.accepted
        s.send("PA", seq=1, ack=1, data=b"GET /")
        assert s.accepted().received == b"GET /"
        s.drain()


def test_deferred_until_the_time_is_over() -> None:
    """The SYN-ACK is sent once more at the end; the answer to that one will do."""
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, 3)
        assert get(s, LISTENER, DEFER_ACCEPT) == 3
        s.syn()
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1)
        s.expect("SA", ack=1, after=3 * SECOND)  # not after one second
        assert not s.host.accepted
        s.send("A", seq=1, ack=1)
        assert s.accepted().info.state == lib.AMS_TCP_ESTABLISHED


def test_deferred_for_ever_is_dropped() -> None:
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, 1)
        s.syn()
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1)
        s.wait(200 * SECOND)
        s.drain()
        assert not s.host.accepted
        s.send("PA", seq=1, ack=1, data=b"late")
        s.expect("R")


def test_who_has_not_answered_is_asked_as_ever() -> None:
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, 30)
        s.syn()
        s.expect("SA", ack=1)
        s.expect("SA", ack=1, after=SECOND)
        s.expect("SA", ack=1, after=2 * SECOND)


def test_a_fin_is_worth_reporting() -> None:
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, 10)
        s.syn()
        s.expect("SA", ack=1)
        s.send("FA", seq=1, ack=1)
        assert s.accepted().eof


@pytest.mark.parametrize(("asked", "got"), [(0, 0), (1, 1), (2, 3), (3, 3), (4, 7), (10, 15), (200, 247)])
def test_the_time_is_a_number_of_syn_acks(asked: int, got: int) -> None:
    """As Linux rounds it."""
    with Script() as s:
        listener_option(s, DEFER_ACCEPT, asked)
        assert get(s, LISTENER, DEFER_ACCEPT) == got


def test_cookies_do_not_wait() -> None:
    with Script(syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        listener_option(s, DEFER_ACCEPT, 10)
        s.open()


# ---- TCP_NOTSENT_LOWAT ---------------------------------------------------------------------------------------------


def excess(connection: Connection) -> int:
    return int(lib.ams_tcp_excess(connection.host.stack, connection.id))


def test_unsent_bytes_count_as_excess() -> None:
    """What is in flight doesn't: the application is asked for more as soon as that has left."""
    with Script() as s:
        connection = s.open(mss=1000, win=10_000)
        assert connection.option(NOTSENT_LOWAT, 2_000) == 0
        connection.send(b"x" * 15_000)
        s.drain()
        assert connection.info.not_sent == 5_000
        assert excess(connection) == 3_001
        lib.ams_tcp_want_drain(s.host.stack, connection.id, 0)
        s.send("A", seq=1, ack=3001, win=10_000)
        s.drain()
        assert connection.info.not_sent == 2_000
        assert connection.drained == 0
        s.send("A", seq=1, ack=4001, win=10_000)
        s.drain()
        assert connection.drained == 1
        assert excess(connection) == 0


def test_without_it_only_the_buffer_counts() -> None:
    with Script() as s:
        connection = s.open(mss=1000, win=10_000)
        connection.send(b"x" * 15_000)
        s.drain()
        assert excess(connection) == 0
        assert connection.option(NOTSENT_LOWAT, 5_001) == 0
        assert excess(connection) == 0
        assert connection.option(NOTSENT_LOWAT, 1) == 0
        assert excess(connection) == 5_000


# ---- TCP_LINGER2 ---------------------------------------------------------------------------------------------------


def half_closed(s: Script, connection: Connection) -> None:
    """Closes, and has the peer acknowledge the FIN."""
    connection.close()
    s.expect("FA", seq=1, ack=1)
    s.send("A", seq=1, ack=2)


@pytest.mark.parametrize(("value", "seconds", "told"), [(0, 60, 60), (5, 5, 5), (500, 120, 120)])
def test_fin_wait_2_lasts(value: int, seconds: int, told: int) -> None:
    with Script() as s:
        connection = s.open()
        assert connection.option(LINGER2, value) == 0
        assert get(s, connection.id, LINGER2) == told
        half_closed(s, connection)
        s.quiet((seconds - 1) * SECOND)
        s.send("A", seq=0, ack=2)  # a keep-alive probe: still there
        s.expect("A", seq=2, ack=1)
        s.wait(2 * SECOND)
        s.send("FA", seq=1, ack=2)
        s.expect("R")


def test_no_fin_wait_2_at_all() -> None:
    with Script() as s:
        connection = s.open()
        assert connection.option(LINGER2, -7) == 0
        assert get(s, connection.id, LINGER2) == -1
        half_closed(s, connection)
        s.expect("RA", seq=2)


def test_connections_inherit_it() -> None:
    with Script() as s:
        listener_option(s, LINGER2, 7)
        listener_option(s, NOTSENT_LOWAT, 1234)
        listener_option(s, WINDOW_CLAMP, 5000)
        connection = s.open()
        assert [get(s, connection.id, option) for option in (LINGER2, NOTSENT_LOWAT, WINDOW_CLAMP)] == [7, 1234, 5000]


def test_a_clamp_beyond_what_a_header_can_say() -> None:
    """As Linux: a listener keeps it, a connection without window scaling has 65,535."""
    with Script() as s:
        listener_option(s, WINDOW_CLAMP, 255_999)
        assert get(s, LISTENER, WINDOW_CLAMP) == 255_999
        assert get(s, s.open().id, WINDOW_CLAMP) == 65_535
    with Script() as s:
        listener_option(s, WINDOW_CLAMP, 255_999)
        assert get(s, s.open(wscale=7).id, WINDOW_CLAMP) == 255_999


# ---- TCP_WINDOW_CLAMP ----------------------------------------------------------------------------------------------


def test_no_window_is_larger() -> None:
    with Script() as s:
        listener_option(s, WINDOW_CLAMP, 4_000)
        s.syn(mss=1000)
        s.expect("SA", win=4_000)
        s.send("A", seq=1, ack=1)
        s.accepted().pause()
        for i in range(4):
            s.send("PA", seq=1 + i * 1000, ack=1, data=bytes(1000))
        s.wait(100 * MS)
        s.drain()
        assert s.accepted().info.rcv_wnd <= 4_000
        s.accepted().resume()
        s.wait(100 * MS)
        s.drain()
        s.send("PA", seq=4001, ack=1, data=bytes(1000))
        s.wait(100 * MS)
        assert s.accepted().info.rcv_wnd <= 4_000
        assert len(s.accepted().received) == 5_000


def test_a_clamp_has_a_least_value() -> None:
    with Script() as s:
        connection = s.open()
        assert connection.option(WINDOW_CLAMP, 1) == 0
        assert get(s, connection.id, WINDOW_CLAMP) == 1152
        assert connection.option(WINDOW_CLAMP, -1) == EINVAL
        assert connection.option(WINDOW_CLAMP, 0) == 0
        assert get(s, connection.id, WINDOW_CLAMP) >= 65535


def closed_and_read(s: Script, connection: Connection, at: int, least: int) -> None:
    """Data from ``at`` on closes the window; once it is read, the peer is told of at least ``least`` bytes."""
    connection.pause()
    first = at
    while (length := min(1460, connection.info.rcv_wnd)) and at < first + 1_000_000:
        s.send("PA", seq=at, ack=1, data=bytes(length))
        at += length
        s.wait(50 * MS)
    s.drain()
    assert connection.info.rcv_wnd == 0
    connection.received.clear()
    connection.resume()
    assert s.taken()
    assert len(connection.received) == at - first
    assert connection.info.rcv_wnd >= least


def test_a_clamp_below_a_segment_opens_again() -> None:
    """Windows open by a segment at least, or by half of what they may be (RFC 9293 section 3.8.6.2.2)."""
    with Script() as s:
        connection = s.open(mss=1460)
        for i in range(10):
            s.send("PA", seq=1 + 1460 * i, ack=1, data=bytes(1460))
        s.drain()
        assert connection.option(WINDOW_CLAMP, 1152) == 0
        closed_and_read(s, connection, 14_601, 1152)


@pytest.mark.parametrize(("option", "value"), [(lib.AMS_OPT_RCVBUF, 4096), (WINDOW_CLAMP, 1152)])
def test_a_buffer_below_the_unit_of_the_scale_opens_again(option: int, value: int) -> None:
    """A scale of 14 counts in 16 KiB.  Linux rounds up, too."""
    with Script(rcvbuf_max=1 << 30) as s:
        listener_option(s, option, value)
        s.syn(wscale=7)
        s.expect("SA", wscale=14)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        closed_and_read(s, connection, 1, 16_384)


# ---- TCP_SYNCNT, TCP_MAXSEG, TCP_QUICKACK, TCP_USER_TIMEOUT ----------------------------------------------------------


def test_syncnt_limits_the_syns() -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        assert get(s, connection.id, lib.AMS_OPT_SYNCNT) == 6
        assert connection.option(lib.AMS_OPT_SYNCNT, 2) == 0
        s.expect("S")
        s.expect("S", after=SECOND)
        s.expect("S", after=2 * SECOND)
        s.quiet(30 * SECOND)
        assert connection.closed == "ETIMEDOUT"


@pytest.mark.parametrize(("value", "legal"), [(0, True), (87, False), (88, True), (32767, True), (32768, False)])
def test_maxseg(value: int, legal: bool) -> None:
    with Script() as s:
        connection = s.open(mss=1400)
        assert (connection.option(lib.AMS_OPT_MAXSEG, value) == 0) == legal
        assert get(s, connection.id, lib.AMS_OPT_MAXSEG) == (88 if value == 88 else 1400)


def test_quickack_sends_the_ack_that_waits() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        for i in range(20):
            s.send("PA", seq=1 + i, ack=1, data=b"x")
        s.wait(100 * MS)
        s.drain()
        s.send("PA", seq=21, ack=1, data=b"x")
        s.quiet(5 * MS)
        assert connection.option(lib.AMS_OPT_QUICKACK, 1) == 0
        s.expect("A", ack=22)


def test_the_user_timeout_ends_the_last_wait() -> None:
    """The timer doesn't back off beyond it."""
    with Script() as s:
        connection = s.open(mss=1000)
        assert connection.option(lib.AMS_OPT_USER_TIMEOUT, 3_000) == 0
        connection.send(b"data")
        s.wait(2_990 * MS)
        assert connection.closed is None
        s.wait(20 * MS)
        assert connection.closed == "ETIMEDOUT"


def test_the_user_timeout_decides_about_keep_alive() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        for option, value in (
            (lib.AMS_OPT_KEEPIDLE, 10),
            (lib.AMS_OPT_KEEPINTVL, 5),
            (lib.AMS_OPT_KEEPCNT, 9),
            (lib.AMS_OPT_USER_TIMEOUT, 22_000),
            (lib.AMS_OPT_KEEPALIVE, 1),
        ):
            assert connection.option(option, value) == 0
        for delay in (10, 5, 5):
            s.expect("A", seq=0, after=delay * SECOND)
        s.expect("RA", after=5 * SECOND)  # not after nine probes
        assert connection.closed == "ETIMEDOUT"


# ---- TCP_INFO -------------------------------------------------------------------------------------------------------


def test_times_of_being_busy_and_of_a_closed_window() -> None:
    with Script() as s:
        connection = s.open(mss=1000, win=2_000)
        connection.send(b"x" * 4_000)
        s.drain()
        s.wait(100 * MS)
        s.send("A", seq=1, ack=2001, win=2_000)
        s.drain()
        s.wait(50 * MS)
        s.send("A", seq=1, ack=4001)
        s.wait(SECOND)
        info = connection.info
        assert info.busy_time == pytest.approx(150 * MS, abs=MS)
        assert info.rwnd_limited == pytest.approx(100 * MS, abs=MS)
        assert info.data_segs_out == 4
        assert info.data_segs_in == 0
        assert info.segs_retrans == 0


def test_retransmissions_and_segments_are_counted() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        connection.send(b"x" * 2_000)
        s.wait(2 * SECOND)
        s.drain()
        s.send("PA", seq=1, ack=2001, data=b"abc")
        info = connection.info
        assert info.segs_retrans >= 2
        assert info.data_segs_out == 2 + info.segs_retrans
        assert info.data_segs_in == 1


def test_the_delivery_rate() -> None:
    """Ten segments in a round trip of 100 ms."""
    with Script() as s:
        connection = s.open(mss=1000, rtt=100 * MS)
        connection.send(b"x" * 10_000)
        s.drain()
        s.wait(100 * MS)
        s.send("A", seq=1, ack=10_001)
        assert connection.info.delivery_rate == pytest.approx(100_000, rel=0.05)


# ---- timestamps that are old (RFC 7323 section 5) -------------------------------------------------------------------


def with_hole(s: Script) -> Connection:
    """Segments of 988 bytes in flight behind the first; the peer's latest timestamp is 150."""
    connection = s.open(mss=1000, sack=True, timestamps=True)
    connection.send(b"x" * 5_000)
    s.drain()
    s.send("A", seq=1, ack=989, tsval=150)
    return connection


def test_an_overtaken_ack_tells_of_its_blocks() -> None:
    """As Linux: it is harmless, and without it a path that reorders ACKs loses what they say."""
    with Script() as s:
        connection = with_hole(s)
        s.send("A", seq=1, ack=989, sack=[(1977, 2965)], tsval=140)
        assert connection.info.sacked == 988
        assert s.counter("tcp_paws") == 0


@pytest.mark.parametrize(
    ("what", "segment"),
    [
        ("data", {"flags": "PA", "ack": 989, "data": b"x", "tsval": 140}),
        ("acknowledges more", {"flags": "A", "ack": 1977, "tsval": 140}),
        ("a larger window", {"flags": "A", "ack": 989, "win": 65_000, "tsval": 140}),
        ("a closed window", {"flags": "A", "ack": 989, "win": 0, "tsval": 140}),
        ("too old", {"flags": "A", "ack": 989, "tsval": -100_000}),
    ],
)
def test_others_with_old_timestamps_are_dropped(what: str, segment: dict[str, object]) -> None:
    with Script() as s:
        s.window = 60_000
        with_hole(s)
        tsval = segment.pop("tsval")
        assert isinstance(tsval, int)
        s.send(seq=1, sack=[(1977, 2965)], tsval=tsval & 0xFFFFFFFF, **segment)  # type: ignore[arg-type]
        assert s.counter("tcp_paws") == 1
