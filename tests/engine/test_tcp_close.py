"""Closing a connection, and giving up on a peer (RFC 9293 sections 3.6, 3.8.3 and 3.8.4)."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, Script


def test_passive_close() -> None:
    """ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSED."""
    with Script() as s:
        connection = s.open()
        s.send("FA", seq=1, ack=1)
        s.expect("A", ack=2)
        assert connection.eof
        assert connection.info.state == lib.AMS_TCP_CLOSE_WAIT
        connection.close()
        s.expect("FA", seq=1, ack=2)
        s.send("A", seq=2, ack=2)
        s.quiet()
        assert lib.ams_stack_endpoints(s.host.stack) == 1
        assert lib.ams_stack_time_wait(s.host.stack) == 0


def test_active_close() -> None:
    """FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT."""
    with Script() as s:
        connection = s.open()
        connection.shutdown()
        s.expect("FA", seq=1, ack=1)
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_1
        s.send("A", seq=1, ack=2)
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_2
        s.send("PA", seq=1, ack=2, data=b"more")
        assert connection.received == b"more"
        s.expect("A", seq=2, ack=5)
        s.send("FA", seq=5, ack=2)
        s.expect("A", seq=2, ack=6)
        assert connection.eof
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT
        connection.close()
        assert connection.released
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_closing_state() -> None:
    """Both FINs cross: CLOSING, then TIME_WAIT."""
    with Script() as s:
        connection = s.open()
        connection.shutdown()
        s.expect("FA", seq=1, ack=1)
        s.send("FA", seq=1, ack=1)
        s.expect("A", ack=2)
        assert connection.info.state == lib.AMS_TCP_CLOSING
        s.send("A", seq=2, ack=2)
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT


def test_fin_is_retransmitted() -> None:
    with Script() as s:
        connection = s.open()
        connection.close()
        s.expect("FA", seq=1)
        s.expect("FA", seq=1, after=200 * MS, tolerance=5 * MS)


def test_fin_out_of_order_waits_for_the_data() -> None:
    with Script() as s:
        connection = s.open()
        s.send("FA", seq=11, ack=1)
        s.expect("A", ack=1)
        assert not connection.eof
        s.send("A", seq=1, ack=1, data=b"0123456789")
        s.expect("A", ack=12)
        assert connection.eof
        assert connection.received == b"0123456789"


def test_time_wait_acknowledges_a_repeated_fin() -> None:
    with Script() as s:
        s.time_wait()
        s.send("FA", seq=1, ack=2)
        s.expect("A", seq=2, ack=2)
        s.wait(30 * SECOND)
        s.send("FA", seq=1, ack=2)  # and begins anew
        s.expect("A", seq=2, ack=2)
        s.wait(45 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.wait(20 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 0


def test_time_wait_is_not_assassinated() -> None:
    """RFC 1337."""
    with Script() as s:
        s.time_wait()
        s.send("R", seq=2)
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_time_wait_is_reused_by_a_newer_syn() -> None:
    """RFC 6191."""
    with Script() as s:
        s.time_wait()
        old = s.iss
        s.isn += 10_000
        s.syn()
        segment = s.expect("SA", ack=1)
        assert (segment.seq - (old or 0)) & 0xFFFFFFFF > 65535
        assert lib.ams_stack_time_wait(s.host.stack) == 0
        s.send("A", seq=1, ack=1)
        assert len(s.host.accepted) == 2


def test_time_wait_gives_way_to_a_peer_that_has_lost_its_memory() -> None:
    """RFC 9293 section 3.10.7.3: the peer resets what it does not know, and its next SYN gets through."""
    with Script() as s:
        s.time_wait()
        old_isn = s.isn
        s.isn -= 10_000
        s.syn()
        ack = s.expect("A", seq=2).ack
        assert ack == old_isn + 2
        s.send("R", seq=ack + 1 - s.isn)
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.send("R", seq=ack - s.isn)
        assert lib.ams_stack_time_wait(s.host.stack) == 0
        s.syn()
        s.expect("SA", ack=1)


def test_time_wait_refuses_an_older_syn() -> None:
    with Script() as s:
        s.time_wait()
        s.isn -= 10_000
        s.syn()
        s.expect("A", seq=2)
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_orphan_in_fin_wait_2_times_out() -> None:
    with Script() as s:
        connection = s.open()
        connection.close()
        s.expect("FA", seq=1)
        s.send("A", seq=1, ack=2)
        s.quiet(61 * SECOND)
        s.send("PA", seq=1, ack=2, data=b"anyone?")
        s.expect("R", seq=2)


def test_linger_zero_resets() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_LINGER, 0)
        connection.send(b"never mind")
        connection.close()
        s.expect("RA", seq=1)
        s.quiet()


def test_fin_twice_out_of_order() -> None:
    """Its second copy is no news, whatever of the data before it is missing."""
    with Script() as s:
        connection = s.open(sack=True)
        for _ in range(3):
            s.send("FA", seq=201, ack=1)
            s.expect("A", ack=1)
        s.send("FA", seq=101, ack=1, data=b"b" * 100)
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        assert connection.received == b"a" * 100 + b"b" * 100
        assert connection.eof


def test_keepalive_probes() -> None:
    """RFC 9293 section 3.8.4."""
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_KEEPIDLE, 10)
        connection.option(lib.AMS_OPT_KEEPINTVL, 3)
        connection.option(lib.AMS_OPT_KEEPCNT, 2)
        connection.option(lib.AMS_OPT_KEEPALIVE, 1)
        s.expect("A", seq=0, ack=1, length=0, after=10 * SECOND)
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=0, after=10 * SECOND)
        s.expect("A", seq=0, after=3 * SECOND)
        s.expect("RA", after=3 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_keepalive_probe_of_the_peer_is_answered() -> None:
    with Script() as s:
        s.open()
        s.send("A", seq=0, ack=1)
        s.expect("A", seq=1, ack=1)


def test_user_timeout() -> None:
    """RFC 5482."""
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_USER_TIMEOUT, 1000)
        connection.send(b"anyone?")
        s.wait(900 * MS)
        assert connection.closed is None
        s.wait(2 * SECOND)
        assert connection.closed == "ETIMEDOUT"


# ---- who is told of a reset, and when ------------------------------------------------------------------------------


@pytest.mark.parametrize("excess", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_a_reset_is_told_behind_the_data_but_to_who_only_writes(excess: bool, paused: bool) -> None:
    """Whoever reads nothing and waits to write would wait for ever; what lies unread stays to be read."""
    with Script(sndbuf=8192, sndbuf_max=8192) as s:
        connection = s.open()
        told: list[str | None] = []
        connection.on_data = lambda c: told.append(c.closed)
        if paused:
            connection.pause()
        connection.send(bytes(20_000 if excess else 5_000))
        s.send("PA", seq=1, ack=1, data=b"unread", hold=True)
        s.send("R", seq=7)
        if paused:
            assert connection.closed == ("ECONNRESET" if excess else None)
            connection.resume()
            s.drain()
        assert told == ["ECONNRESET" if paused and excess else None]
        assert connection.received == b"unread"
        assert connection.closed == "ECONNRESET"
        connection.close()
        assert connection.released
        assert lib.ams_stack_frames(s.host.stack) == 0


def test_who_would_write_after_a_reset_is_told_by_the_send() -> None:
    with Script(sndbuf=8192, sndbuf_max=8192) as s:
        connection = s.open()
        connection.pause()
        connection.send(bytes(5_000))
        s.send("PA", seq=1, ack=1, data=b"unread")
        s.send("R", seq=7)
        assert connection.closed is None
        assert lib.ams_tcp_want_drain(s.host.stack, connection.id, 0) == 0  # nothing waits: told at once
        s.drain()
        assert connection.drained == 1
        assert lib.ams_tcp_send(s.host.stack, connection.id, b"x", 1) < 0
        connection.close()
        assert connection.released
