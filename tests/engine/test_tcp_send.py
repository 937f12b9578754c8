"""What leaves, and when: segments, Nagle, the initial and the peer's window (RFC 9293 section 3.7)."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, TCP, Script


def test_segments_are_mss_sized_and_the_last_has_psh() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 2500)
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=1001, length=1000)
        s.expect("PA", seq=2001, length=500)


def test_initial_window_of_ten() -> None:
    """RFC 6928 section 2."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 50_000)
        for index in range(10):
            s.expect("A", seq=1 + 1000 * index, length=1000)
        assert not s.queue
        s.send("A", seq=1, ack=10_001)
        for index in range(10, 30):  # slow start doubles it
            s.expect("A", seq=1 + 1000 * index, length=1000)


def test_nagle_holds_a_short_segment_while_data_is_in_flight() -> None:
    """RFC 9293 section 3.7.4."""
    with Script() as s:
        connection = s.open()
        connection.send(b"first")
        s.expect("PA", seq=1, length=5)
        connection.send(b"second")
        s.wait(10 * MS)
        assert not s.queue
        s.send("A", seq=1, ack=6)
        s.expect("PA", seq=6, data=b"second")


def test_nodelay_sends_at_once() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"first")
        s.expect("PA", seq=1, length=5)
        connection.send(b"second")
        s.expect("PA", seq=6, data=b"second")


def test_cork_holds_until_it_is_taken_off() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_CORK, 1)
        connection.send(b"one")
        s.wait(100 * MS)
        assert not s.queue
        connection.send(b"two")
        connection.option(lib.AMS_OPT_CORK, 0)
        s.expect("PA", data=b"onetwo")


def test_fin_rides_on_the_last_data() -> None:
    with Script() as s:
        connection = s.open()
        connection.send(b"last words")
        connection.close()
        s.expect("FPA", seq=1, data=b"last words")


def test_peer_window_limits_and_probes_open_it() -> None:
    """RFC 9293 section 3.8.6.1: probes with exponential back-off."""
    with Script() as s:
        connection = s.open(win=0)
        connection.send(b"waiting")
        s.expect("A", seq=0, length=0, after=200 * MS, tolerance=30 * MS)
        s.send("A", seq=1, ack=1, win=0)
        s.expect("A", seq=0, length=0, after=400 * MS, tolerance=60 * MS)
        s.send("A", seq=1, ack=1, win=1000)
        s.expect("PA", seq=1, data=b"waiting")


def test_a_shrunk_window_does_not_confuse_the_sender() -> None:
    """RFC 9293 section 3.8.6: SHLD-14."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 3000)
        for _ in range(3):
            s.expect("A" if _ < 2 else "PA", length=1000)
        connection.send(b"y" * 1000)
        s.expect("PA", seq=3001)
        s.send("A", seq=1, ack=1001, win=500)
        connection.send(b"z" * 1000)
        s.wait(50 * MS)
        assert not s.queue
        s.send("A", seq=1, ack=4001, win=5000)
        s.expect("PA", seq=4001, length=1000)


# ---- SACK blocks in data segments (RFC 6691) ----------------------------------------------------------------


@pytest.mark.parametrize("offload", [False, True])
def test_sack_blocks_take_their_room_from_the_payload(offload: bool) -> None:
    """Also in what was cut to full segments before there was anything to SACK, and in super-frames."""
    with Script(offload=offload) as s:
        connection = s.open(mss=1460, sack=True, timestamps=True)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(bytes(1448))
        s.expect("PA", seq=1, ack=1, length=1448)
        s.send("PA", seq=1001, ack=1, data=b"too early")  # the engine's segments carry SACK from here on
        connection.send(bytes(5 * 1448))
        s.wait(10 * SECOND)
        longest = max(len(frame) for _, frame in s.queue)
        assert longest > 1514 if offload else 1400 < longest <= 1514
        assert s.host.counters()["switch.tx_too_long"] == 0
        assert s.counter("tcp_retrans") > 0


@pytest.mark.parametrize("timestamps", [False, True])
def test_data_goes_out_beside_as_many_sack_blocks_as_there_may_be(timestamps: bool) -> None:
    """RFC 2018 section 3: four blocks, three beside timestamps.  Segments stay within the MTU."""
    with Script() as s:
        connection = s.open(mss=1460, sack=True, timestamps=timestamps)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        for i in range(6):
            s.send("PA", seq=1001 + 100 * i, ack=1, data=b"too early")
        s.drain()
        connection.send(bytes(5 * 1460))
        s.wait(0)
        assert sum(s._payload_length(frame) for _, frame in s.queue) == 5 * 1460
        blocks = [len(value) // 2 for name, value in s.queue[0][1][TCP].options if name == "SAck"]
        assert blocks == [3 if timestamps else 4]
