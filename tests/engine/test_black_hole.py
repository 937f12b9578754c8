"""Paths that swallow long segments and say nothing (RFC 2923 section 2.1, RFC 4821 section 7.7)."""

from __future__ import annotations

from aiomultistack._native import lib

from .script import SECOND, Script


def deliver(s: Script, limit: int, total: int, patience: int = 60) -> int:
    """A peer behind a path that carries segments of up to `limit` bytes of payload; returns what it got."""
    got = 1
    for _ in range(patience):
        while s.queue:
            _, frame = s.queue.pop(0)
            start, length = (frame["TCP"].seq - (s.iss or 0)) & 0xFFFFFFFF, s._payload_length(frame)
            if length <= limit and start <= got < start + length:
                got = start + length
                s.send("A", seq=1, ack=got)
        if got == 1 + total:
            break
        s.wait(SECOND)
    return got - 1


def test_shorter_segments_get_through() -> None:
    with Script() as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 5000)
        assert deliver(s, 1100, 5000) == 5000
        assert connection.info.snd_mss == 1024
        assert s.host.counters()["stack.tcp_black_hole"] == 1


def test_still_shorter_ones_where_needed() -> None:
    with Script() as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 3000)
        assert deliver(s, 600, 3000) == 3000
        assert connection.info.snd_mss == 512


def test_it_can_be_turned_off() -> None:
    with Script(flags=lib.AMS_STACK_NO_DAD | lib.AMS_STACK_NO_BLACK_HOLE) as s:
        connection = s.open(mss=1460)
        connection.send(b"x" * 3000)
        assert deliver(s, 1100, 3000, patience=30) == 0
        assert connection.info.snd_mss == 1460
