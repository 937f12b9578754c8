"""SYN floods (RFC 4987): cookies, the backlogs, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, Script


def cookies(**config: Any) -> Script:
    return Script(syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS, **config)


@pytest.mark.parametrize("v6", [False, True])
def test_nothing_is_kept_until_the_cookie_comes_back(v6: bool) -> None:
    with cookies(v6=v6) as s:
        s.syn(port=1000)  # whoever asks first is looked up, and remembered
        s.drain()
        before = lib.ams_stack_memory(s.host.stack)
        s.syn(mss=1300)
        s.expect("SA", ack=1)
        assert lib.ams_stack_memory(s.host.stack) == before
        s.send("PA", seq=1, ack=1, data=b"hello")
        s.expect("A", seq=1, ack=6)
        connection = s.accepted()
        assert connection.received == b"hello"
        assert connection.info.snd_mss == 1300
        connection.send(b"x" * 1400)
        s.expect("A", seq=1, length=1300)
        s.expect("PA", seq=1301, length=100)


def test_window_scale_and_sack_are_in_the_timestamp() -> None:
    with cookies() as s:
        s.syn(sack=True, wscale=7, timestamps=True)
        segment = s.expect("SA", ack=1, sack_ok=True)
        assert "Timestamp" in dict(segment.options)
        s.send("A", seq=1, ack=1, win=100)
        info = s.accepted().info
        assert info.snd_wscale == 7
        assert info.options & lib.AMS_INFO_SACK
        assert info.options & lib.AMS_INFO_TIMESTAMPS
        assert info.snd_wnd == 100 << 7


def test_without_timestamps_neither_is_offered() -> None:
    with cookies() as s:
        s.syn(sack=True, wscale=7)
        segment = s.expect("SA", ack=1, sack_ok=False)
        assert "WScale" not in dict(segment.options)
        s.send("A", seq=1, ack=1)
        assert not s.accepted().info.options & (lib.AMS_INFO_SACK | lib.AMS_INFO_WSCALE)


@pytest.mark.parametrize(("seq", "ack"), [(1, 101), (1, -99), (101, 1), (-99, 1), (1, 1 + (1 << 24))])
def test_numbers_that_are_no_cookie_are_refused(seq: int, ack: int) -> None:
    with cookies() as s:
        s.syn()
        s.expect("SA", ack=1)
        s.send("A", seq=seq, ack=ack)
        s.expect("R")
        assert not s.host.accepted


def test_a_byte_that_was_lost_before_the_cookie_came_back_is_missed() -> None:
    """The handshake's last ACK and the first data are lost; what follows must not pass for the stream's beginning."""
    for lost in range(1, 20):
        with cookies() as s:
            s.syn()
            s.expect("SA", ack=1)
            s.send("PA", seq=1 + lost, ack=1, data=b"behind what was lost")
            s.expect("R")
            assert not s.host.accepted


def test_a_cookie_is_bound_to_its_ports_and_expires() -> None:
    with cookies() as s:
        s.syn()
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1, port=s.port + 1)
        s.expect("R")
        s.wait(200 * SECOND)
        s.send("A", seq=1, ack=1)
        s.expect("R")
        assert not s.host.accepted


def test_a_cookie_grows_old_though_newer_ones_are_out() -> None:
    """Else one that was seen once would open connections as long as the flood lasts."""
    with cookies() as s:
        s.syn()
        s.expect("SA", ack=1)
        for port in range(2000, 2003):
            s.wait(60 * SECOND)
            s.send("S", port=port)
        s.drain()
        s.send("A", seq=1, ack=1)
        s.expect("R")
        assert s.counter("tcp_cookie_bad") == 1
        assert not s.host.accepted


def test_a_cookie_lasts_a_minute() -> None:
    with cookies() as s:
        s.syn()
        s.expect("SA", ack=1)
        s.wait(60 * SECOND)
        s.send("A", seq=1, ack=1)
        assert s.accepted()


def test_guessing_needs_a_flood() -> None:
    """While no cookie is out an ACK is never one."""
    with Script() as s:
        s.send("A", seq=1, ack=1)
        s.expect("R")
        assert s.counter("tcp_cookie_bad") == 0


def test_legitimate_clients_connect_during_a_flood_and_memory_is_flat() -> None:
    with Script(syn_backlog=64) as s:
        for port in range(10000, 10064):
            s.send("S", seq=0, port=port, options=[("MSS", 1460)])
        s.drain()
        full = lib.ams_stack_memory(s.host.stack)
        for port in range(20000, 20300):
            s.send("S", seq=0, port=port, options=[("MSS", 1460)])
        assert s.counter("tcp_cookie_tx") == 300
        s.drain()
        for i in range(20):
            s.port = 30000 + i
            s.syn()
            s.expect("SA", ack=1)
            s.send("PA", seq=1, ack=1, data=b"GET")
            s.expect("A", ack=4)
            assert s.accepted().received == b"GET"
        assert lib.ams_stack_memory(s.host.stack) <= full + 20 * 1100
        assert s.counter("tcp_cookie_ok") == 20


def test_without_cookies_the_backlog_drops() -> None:
    with Script(syn_backlog=4, syn_cookies=lib.AMS_SYN_COOKIES_NEVER) as s:
        for port in range(10000, 10004):
            s.send("S", seq=0, port=port)
        s.drain()
        s.syn()
        s.quiet(100 * MS)
        assert s.counter("tcp_syn_dropped") == 1
        s.wait(130 * SECOND)  # the half-open ones have given up
        s.drain()
        s.open()
