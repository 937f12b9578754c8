"""The User Timeout option (RFC 5482), and TCP_USER_TIMEOUT, which it is about."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import ffi, lib

from .script import SECOND, Script, raw_options
from .world import Connection

KIND = 28
MINUTES = 0x8000
ON = lib.AMS_STACK_NO_DAD | lib.AMS_STACK_USER_TIMEOUT_OPTION
USER_TIMEOUT = lib.AMS_OPT_USER_TIMEOUT


def advertised(segment: Any) -> int | None:
    """The option's value; None if there is none."""
    value = dict(raw_options(segment)).get(KIND)
    assert value is None or len(value) == 2
    return None if value is None else int.from_bytes(value, "big")


def option(value: int) -> list[Any]:
    return [(KIND, value.to_bytes(2, "big"))]


def timeout(connection: Connection) -> int:
    """TCP_USER_TIMEOUT, in milliseconds."""
    out = ffi.new("int *")
    assert lib.ams_tcp_getopt(connection.host.stack, connection.id, USER_TIMEOUT, out) == 0
    return int(out[0])


def opened(s: Script, ms: int = 0) -> Connection:
    """A passive open; the listener's connections have this user timeout."""
    assert lib.ams_tcp_setopt(s.host.stack, 0, USER_TIMEOUT, ms) == 0
    return s.open(mss=1000)


@pytest.mark.parametrize(
    ("ms", "value"),
    [(1, 1), (30_000, 30), (30_001, 31), (0x7FFF * 1000, 0x7FFF), (0x8000 * 1000, MINUTES | 547), (2**31 - 1, 0xFFFF)],
)
def test_the_syn_ack_and_the_first_segment_tell(ms: int, value: int) -> None:
    """Section 3.2; seconds where they fit, minutes else, never less than what is set (section 3.3)."""
    with Script(flags=ON) as s:
        assert lib.ams_tcp_setopt(s.host.stack, 0, USER_TIMEOUT, ms) == 0
        s.syn()
        assert advertised(s.expect("SA", ack=1)) == value
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        connection.send(b"one")
        assert advertised(s.expect("PA", length=3)) == value
        s.send("A", seq=1, ack=4)
        connection.send(b"two")
        assert advertised(s.expect("PA", length=3)) is None


def test_who_opens_tells() -> None:
    with Script(listen=None, flags=ON) as s:
        connection = s.connect()
        assert connection.option(USER_TIMEOUT, 60_000) == 0
        assert advertised(s.expect("S")) == 60
        s.send("SA", seq=0, ack=1)
        assert advertised(s.expect("A", seq=1, ack=1)) == 60


def test_a_change_is_told() -> None:
    with Script(flags=ON) as s:
        connection = opened(s)
        connection.send(b"one")
        assert advertised(s.expect("PA")) is None
        s.send("A", seq=1, ack=4)
        assert connection.option(USER_TIMEOUT, 200_000) == 0
        connection.send(b"two")
        assert advertised(s.expect("PA")) == 200


@pytest.mark.parametrize(("value", "seconds"), [(500, 500), (MINUTES | 10, 600), (5, 100), (MINUTES | 0x7FFF, 86400)])
@pytest.mark.parametrize("when", ["syn", "later"])
def test_the_peers_is_taken_over_within_limits(value: int, seconds: int, when: str) -> None:
    """Section 3.1: at least 100 s, a day at most."""
    with Script(flags=ON) as s:
        s.send("S", seq=0, options=option(value) if when == "syn" else [])
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        if when == "later":
            s.send("PA", seq=1, ack=1, data=b"x", options=option(value))
        assert timeout(connection) == seconds * 1000


def test_one_that_was_set_stays() -> None:
    """Section 3.1: CHANGEABLE is false then."""
    with Script(flags=ON) as s:
        connection = opened(s, 20_000)
        s.send("PA", seq=1, ack=1, data=b"x", options=option(500))
        assert timeout(connection) == 20_000


def test_what_was_taken_over_is_not_advertised() -> None:
    with Script(flags=ON) as s:
        connection = opened(s)
        s.send("PA", seq=1, ack=1, data=b"x", options=option(500))
        s.drain()
        connection.send(b"answer")
        assert advertised(s.expect("PA", length=6)) is None


@pytest.mark.parametrize("options", [option(0), option(MINUTES), [(KIND, b"\1")], [(KIND, b"\1\2\3")]])
def test_what_makes_no_sense_is_ignored(options: list[Any]) -> None:
    with Script(flags=ON) as s:
        connection = opened(s)
        s.send("PA", seq=1, ack=1, data=b"x", options=options)
        assert timeout(connection) == 0


def test_off_by_default() -> None:
    with Script() as s:
        assert lib.ams_tcp_setopt(s.host.stack, 0, USER_TIMEOUT, 30_000) == 0
        s.syn()
        assert advertised(s.expect("SA", ack=1)) is None
        s.send("A", seq=1, ack=1, options=option(500))
        assert timeout(s.accepted()) == 30_000


def test_a_peer_that_asks_for_longer_gets_it() -> None:
    """With the default a connection is given up after 15 retransmissions, some 15 minutes; here after two hours."""
    with Script(flags=ON) as s:
        connection = opened(s)
        s.send("PA", seq=1, ack=1, data=b"x", options=option(MINUTES | 120))
        connection.send(b"data")
        s.wait(7000 * SECOND)
        assert connection.closed is None
        s.wait(400 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_a_short_one_ends_the_connection() -> None:
    with Script() as s:
        connection = opened(s, 5_000)
        connection.send(b"data")
        s.wait(4 * SECOND)
        assert connection.closed is None
        s.wait(10 * SECOND)
        assert connection.closed == "ETIMEDOUT"
