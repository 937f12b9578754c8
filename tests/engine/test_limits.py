"""What a peer may make the engine keep, send and believe: each bound driven past its edge.

Attacks as such are in test_adversarial.py, SYN floods in test_rfc4987_flood.py, what needs thousands of segments
in tests/native/test_net_limits.c.
"""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, Script
from .world import Connection

MSS = 1460


def kept_open(s: Script) -> bool:
    """Does the engine still know the connection of the script's port?  One that it doesn't know is answered by RST."""
    s.drain()
    s.send("PA", seq=1, ack=1, data=b"?")
    return all("R" not in str(segment.flags) for segment in s.taken())


def until_silence(s: Script, *, answer: bool, win: int = 0, limit: int = 3600 * SECOND) -> float:
    """Lets time pass until nothing is sent any more, answering each segment or not.  Returns the seconds it took."""
    start = last = s.world.now
    while s.world.now < start + limit:
        s._run_until_segment(400 * SECOND)
        if not s.queue:
            break
        last = s.queue.pop(0)[0]
        if answer:
            s.send("A", seq=1, ack=1, win=win)
    return (last - start) / SECOND


# ---- closed windows (sockstress) -----------------------------------------------------------------------------


def hold_back(s: Script) -> Connection:
    """A connection with data that the peer's window doesn't let out."""
    connection = s.open(win=0)
    connection.send(b"x" * 5000)
    s.drain()
    return connection


def test_a_closed_window_without_application_ends_though_it_is_answered() -> None:
    """Else whoever answers probes for ever would hold what was queued as long; over once probes are 120 s apart."""
    with Script() as s:
        hold_back(s).close()
        assert 60 < until_silence(s, answer=True) < 600
        assert not kept_open(s)


def test_a_closed_window_without_application_ends_sooner_without_answer() -> None:
    with Script() as s:
        hold_back(s).close()
        assert until_silence(s, answer=False) < 300
        assert s.counter("tcp_zero_window_probe") == 8
        assert not kept_open(s)


def test_a_closed_window_with_an_application_waits_as_long_as_it_is_answered() -> None:
    with Script() as s:
        connection = hold_back(s)
        until_silence(s, answer=True, limit=4000 * SECOND)
        assert connection.closed is None
        s.send("A", seq=1, ack=1, win=65535)
        assert sum(len(bytes(segment.payload)) for segment in s.taken()) == 5000


def test_a_closed_window_with_an_application_is_given_up_without_answers() -> None:
    with Script() as s:
        connection = hold_back(s)
        until_silence(s, answer=False)
        assert s.counter("tcp_zero_window_probe") == 15
        assert connection.closed == "ETIMEDOUT"


def test_segments_in_a_closed_window_end_nothing() -> None:
    """Only an ACK counts then: no SYN, no RST beside the exact one."""
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        for i in range(4):
            s.send("PA", seq=1 + 1024 * i, ack=1, data=b"x" * 1024)
        s.drain()
        connection.send(b"y" * 100)
        s.drain()
        for flags in ("SA", "RA"):
            s.send(flags, seq=4098, ack=101)
            assert connection.info.bytes_acked == 0
        s.send("A", seq=4098, ack=101)
        assert connection.info.bytes_acked == 100
        assert connection.closed is None


# ---- windows that shrink --------------------------------------------------------------------------------------


def test_nothing_new_is_sent_past_a_window_that_shrank() -> None:
    """RFC 9293 section 3.8.6: what is out is repaired, nothing else goes until the window has caught up."""
    with Script() as s:
        connection = s.open(mss=MSS)
        connection.send(b"x" * 10 * MSS)
        assert len(s.taken()) == 10
        s.send("A", seq=1, ack=1 + 4 * MSS, win=MSS)  # its edge is behind what is out
        connection.send(b"y" * 3 * MSS)
        assert s.taken() == []
        s.send("A", seq=1, ack=1 + 8 * MSS, win=MSS)
        assert s.taken() == []
        s.send("A", seq=1, ack=1 + 10 * MSS, win=65535)
        assert [len(bytes(segment.payload)) for segment in s.taken()] == [MSS] * 3


@pytest.mark.parametrize("win", [0, 1, 700])
def test_what_a_window_shrank_away_from_is_still_repaired(win: int) -> None:
    with Script() as s:
        connection = s.open(mss=MSS, sack=True)
        connection.send(b"x" * 4 * MSS)
        s.drain()
        s.send("A", seq=1, ack=1, win=win)
        s.wait(20 * SECOND)
        assert {segment.seq - s.iss for segment in s.taken()} >= {1, 1 + 3 * MSS}
        s.send("A", seq=1, ack=1 + 4 * MSS, win=65535)
        assert connection.info.bytes_acked == 4 * MSS
        connection.send(b"more")
        s.expect("PA", seq=1 + 4 * MSS, data=b"more")


# ---- timestamps -----------------------------------------------------------------------------------------------


def echoed(s: Script, connection: Connection) -> int:
    """The timestamp that the engine's next segment echoes."""
    s.drain()
    connection.option(lib.AMS_OPT_NODELAY, 1)
    connection.send(b"?")
    return int(dict(s.expect("PA").options)["Timestamp"][1])


def test_a_timestamp_beyond_the_last_ack_is_not_kept() -> None:
    """RFC 7323 section 4.3, (2): what fills a hole must not look old beside what lay behind it."""
    with Script() as s:
        connection = s.open(timestamps=True, sack=True)
        s.send("A", seq=1001, ack=1, data=b"y" * 100, tsval=5000)
        assert echoed(s, connection) == 100
        s.send("A", seq=1, ack=1, data=b"x" * 1000, tsval=4000)
        assert len(connection.received) == 1100
        assert echoed(s, connection) == 4000


def test_a_timestamp_beside_an_impossible_ack_is_not_kept() -> None:
    """Whoever doesn't know what we have sent could have PAWS drop all that the peer sends from now on."""
    with Script() as s:
        connection = s.open(timestamps=True)
        s.send("A", seq=1, ack=100_000, tsval=0x70000000)
        s.send("A", seq=1, ack=-100_000, tsval=0x70000000)
        s.send("PA", seq=1, ack=1, data=b"alive", tsval=101)
        assert connection.received == b"alive"
        assert echoed(s, connection) == 101


def test_a_timestamp_beside_data_for_a_closed_window_is_not_kept() -> None:
    with Script(rcvbuf=4096) as s:
        connection = s.open(timestamps=True)
        connection.pause()
        for i in range(4):
            s.send("PA", seq=1 + 1024 * i, ack=1, data=b"x" * 1024)
        s.send("A", seq=4097, ack=1, data=b"more", tsval=9000)
        assert echoed(s, connection) == 100


def test_timestamps_do_not_go_back() -> None:
    with Script() as s:
        connection = s.open(timestamps=True)
        s.send("PA", seq=1, ack=1, data=b"a", tsval=200)
        s.send("PA", seq=2, ack=1, data=b"b", tsval=199)
        assert connection.received == b"a"
        assert echoed(s, connection) == 200


def test_a_connection_idle_for_24_days_believes_any_timestamp() -> None:
    """RFC 7323 section 5.5: by then the peer's clock may have wrapped."""
    with Script() as s:
        connection = s.open(timestamps=True)
        s.wait(23 * 86400 * SECOND)
        s.send("PA", seq=1, ack=1, data=b"early", tsval=50)
        assert connection.received == b""
        s.drain()
        s.wait(2 * 86400 * SECOND)
        s.send("PA", seq=1, ack=1, data=b"fine", tsval=50)
        assert connection.received == b"fine"


@pytest.mark.parametrize("days", [25, 190, 195, 200, 215, 400, 3650])
def test_a_connection_idle_for_long_goes_on_with_the_timestamps_that_come_then(days: int) -> None:
    """They are echoed, too, and PAWS protects again from what is older than they are."""
    with Script() as s:
        connection = s.open(timestamps=True)
        s.wait(days * 86400 * SECOND)
        before = (100 - 5000) & 0xFFFFFFFF
        s.send("PA", seq=1, ack=1, data=b"a", tsval=before)
        s.send("PA", seq=2, ack=1, data=b"b", tsval=before + 1)
        assert connection.received == b"ab"
        assert echoed(s, connection) == before + 1
        s.send("PA", seq=3, ack=2, data=b"old", tsval=before)
        assert connection.received == b"ab"


# ---- TIME-WAIT --------------------------------------------------------------------------------------------------


def test_time_wait_has_a_limit_and_the_oldest_goes_first() -> None:
    with Script(max_time_wait=3) as s:
        for port in range(2000, 2005):
            s.port = port
            s.time_wait()
        assert lib.ams_stack_time_wait(s.host.stack) == 3
        assert s.counter("tcp_tw_overflow") == 2
        s.send("FA", seq=1, ack=2, port=2001)
        assert str(s.taken()[0].flags) == "R"
        s.send("FA", seq=1, ack=2, port=2002)
        assert str(s.taken()[0].flags) == "A"


@pytest.mark.parametrize(
    ("tsval", "seq", "opens"),
    [(101, -5000, True), (101, 5000, True), (100, 5000, True), (100, -5000, False), (99, 5000, False)],
)
def test_in_time_wait_timestamps_tell_which_syn_is_new(tsval: int, seq: int, opens: bool) -> None:
    """RFC 6191 section 2: an old duplicate of a SYN must not end the wait, whatever its number."""
    with Script() as s:
        s.time_wait(timestamps=True)
        s.send("S", seq=seq, tsval=tsval, tsecr=0)
        segment = s.taken()[0]
        assert str(segment.flags) == ("SA" if opens else "A")
        assert lib.ams_stack_time_wait(s.host.stack) == (0 if opens else 1)


def test_an_old_fin_does_not_prolong_time_wait() -> None:
    with Script() as s:
        s.time_wait(timestamps=True)
        s.wait(50 * SECOND)
        s.send("FA", seq=1, ack=2, tsval=50)
        s.wait(11 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 0


# ---- how many ------------------------------------------------------------------------------------------------------


def half_open(s: Script, ports: range) -> dict[int, int]:
    """SYNs from several ports.  Returns the engine's initial sequence numbers."""
    for port in ports:
        s.send("S", port=port, options=[("MSS", MSS)])
    return {segment.dport: segment.seq for segment in s.taken()}


def complete(s: Script, isses: dict[int, int]) -> None:
    """The final ACKs of all of them, at once."""
    for port, iss in isses.items():
        s.iss = iss
        s.send("A", seq=1, ack=1, port=port, hold=True)
    s.wait(0)


@pytest.mark.parametrize("backlog", [1, 2])
def test_a_full_accept_queue_leaves_the_rest_half_open(backlog: int) -> None:
    """Their final ACKs are ignored, and SYNs dropped, so that the peers keep trying."""
    with Script(listen=None) as s:
        s.host.listen(port=80, backlog=backlog)
        s.local_port = 80
        isses = half_open(s, range(2000, 2004))
        for port, iss in isses.items():
            s.iss = iss
            s.send("A", seq=1, ack=1, port=port, hold=True)
        s.send("S", port=3000)
        assert s.taken() == []
        assert len(s.host.accepted) == backlog
        assert s.counter("tcp_accept_overflow") == 4 - backlog
        assert s.counter("tcp_syn_dropped") == 1
        s.wait(1100 * MS)
        again = {segment.dport: segment.seq for segment in s.taken()}
        assert again == {port: isses[port] for port in list(isses)[backlog:]}
        for port in again:
            complete(s, {port: again[port]})
        assert len(s.host.accepted) == 4


def test_a_full_accept_queue_does_not_reset_who_brings_a_cookie() -> None:
    with Script(listen=None, syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        s.host.listen(port=80, backlog=2)
        s.local_port = 80
        isses = half_open(s, range(2000, 2004))
        memory = lib.ams_stack_memory(s.host.stack)
        complete(s, isses)
        assert len(s.host.accepted) == 2
        assert s.counter("tcp_accept_overflow") == 2
        assert lib.ams_stack_memory(s.host.stack) <= memory + 2 * 1500
        assert s.taken() == []
        complete(s, dict(list(isses.items())[2:]))  # the peers try again
        assert len(s.host.accepted) == 4


def test_who_brings_a_cookie_when_there_are_no_endpoints_does_not_stay_for_ever() -> None:
    with Script(max_endpoints=4, syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        isses = half_open(s, range(2000, 2006))
        complete(s, isses)
        assert len(s.host.accepted) == 3
        assert s.counter("tcp_accept_overflow") == 3
        s.wait(200 * SECOND)
        s.drain()
        for port in range(2003, 2006):
            s.port = port
            s.iss = isses[port]
            assert not kept_open(s)


def test_half_open_connections_have_a_limit_of_their_own_without_cookies() -> None:
    """As many as endpoints and TIME-WAIT together, however large the backlog."""
    with Script(max_endpoints=5, max_time_wait=3, syn_backlog=1000, syn_cookies=lib.AMS_SYN_COOKIES_NEVER) as s:
        assert len(half_open(s, range(2000, 2020))) == 8
        assert s.counter("tcp_syn_dropped") == 12
