"""What arrives: acknowledgements and their delay, SACK, reassembly, the window (RFC 9293 section 3.8.6)."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, Script


def test_delayed_ack() -> None:
    """RFC 9293 section 3.8.6.3; 40 ms as Linux, once data has flowed both ways."""
    with Script() as s:
        s.open().option(lib.AMS_OPT_QUICKACK, 0)
        s.send("PA", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", seq=1, ack=101, after=40 * MS)
        s.quiet()


def test_the_first_segments_are_acknowledged_without_delay() -> None:
    """As Linux does, so that the peer's slow start is not held up: 16 of them, and again after a silence."""
    with Script() as s:
        connection = s.open()
        for i in range(16):
            s.send("PA", seq=1 + i, ack=1, data=b"x")
            s.expect("A", ack=2 + i)
        s.send("PA", seq=17, ack=1, data=b"x")
        s.expect("A", ack=18, after=40 * MS)
        s.wait(3 * SECOND)
        s.send("PA", seq=18, ack=1, data=b"x")
        s.expect("A", ack=19)
        connection.send(b"answer")
        s.expect("PA", length=6)
        s.send("PA", seq=19, ack=7, data=b"x")
        s.expect("A", ack=20, after=40 * MS)


def test_every_second_full_segment_is_acknowledged_at_once() -> None:
    """RFC 5681 section 4.2."""
    with Script() as s:
        s.open().option(lib.AMS_OPT_QUICKACK, 0)
        s.send("A", seq=1, ack=1, data=b"x" * 1460)
        assert not s.queue
        s.send("A", seq=1461, ack=1, data=b"x" * 1460)
        s.expect("A", ack=2921)


def test_ack_rides_on_data() -> None:
    with Script() as s:
        connection = s.open()
        connection.on_data = lambda c: c.send(b"answer")
        s.send("PA", seq=1, ack=1, data=b"question")
        s.expect("PA", seq=1, ack=9, data=b"answer")
        s.send("A", seq=9, ack=7)
        s.quiet()


def test_out_of_order_data_is_acknowledged_at_once_and_kept() -> None:
    """RFC 5681 section 4.2."""
    with Script() as s:
        connection = s.open()
        s.send("A", seq=101, ack=1, data=b"b" * 100)
        s.expect("A", ack=1)
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        s.expect("A", ack=201)
        assert connection.received == b"a" * 100 + b"b" * 100


def test_sack_blocks_latest_first() -> None:
    """RFC 2018 section 4."""
    with Script() as s:
        s.open(sack=True)
        s.send("A", seq=101, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(101, 201)])
        s.send("A", seq=301, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(301, 401), (101, 201)])
        s.send("A", seq=201, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(101, 401)])
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=401, sack=[])


def test_each_block_is_reported_however_often_one_changed() -> None:
    """RFC 2018 section 4: as many of the latest blocks as there is room for."""
    with Script() as s:
        s.open(sack=True)
        for seq in (101, 301, 501):
            s.send("A", seq=seq, ack=1, data=b"x" * 100)
            s.expect("A", ack=1)
        for seq in range(601, 1101, 100):
            s.send("A", seq=seq, ack=1, data=b"x" * 100)
            s.expect("A", ack=1, sack=[(501, seq + 100), (301, 401), (101, 201)])
        s.send("A", seq=501, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(501, 601), (501, 1101), (301, 401), (101, 201)])
        s.send("A", seq=1201, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(1201, 1301), (501, 1101), (301, 401), (101, 201)])


def test_dsack_reports_duplicates() -> None:
    """RFC 2883 section 4.1."""
    with Script() as s:
        s.open(sack=True)
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=101)
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=101, sack=[(1, 101)])


def test_overlapping_segments_keep_what_came_first() -> None:
    with Script() as s:
        connection = s.open()
        s.send("A", seq=51, ack=1, data=b"b" * 50)
        s.send("A", seq=41, ack=1, data=b"c" * 80)
        s.send("A", seq=1, ack=1, data=b"a" * 60)
        s.drain()
        s.wait(SECOND)
        received = bytes(connection.received)
        assert received.startswith(b"a" * 41)
        assert len(received) >= 60
        s.send("A", seq=1 + len(received), ack=1, data=b"d")
        assert bytes(connection.received) == received + b"d"


def test_data_beyond_the_window_is_cut() -> None:
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        s.send("A", seq=1, ack=1, data=b"x" * 1460)
        s.send("A", seq=1461, ack=1, data=b"x" * 1460)
        s.send("A", seq=2921, ack=1, data=b"x" * 1460)
        s.drain()
        assert connection.info.recv_queue == 4096
        assert connection.info.rcv_wnd == 0
        connection.resume()
        segment = s.expect("A", ack=4097)
        assert segment.window == 4096


def test_zero_window_probe_is_answered() -> None:
    """RFC 9293 section 3.8.6.1."""
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        for seq in (1, 1461, 2921):
            s.send("A", seq=seq, ack=1, data=b"x" * min(1460, 4097 - seq))
        s.drain()
        s.wait(SECOND)
        s.drain()
        s.send("A", seq=4097, ack=1, data=b"?")
        s.expect("A", ack=4097, win=0)


def test_our_fin_may_be_acknowledged_beside_data_that_has_no_room() -> None:
    """Section 3.10.7.4: with a closed window the ACK of an unacceptable segment counts, also for the FIN's state."""
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        for seq in (1, 1461, 2921):
            s.send("A", seq=seq, ack=1, data=b"x" * min(1460, 4097 - seq))
        connection.shutdown()
        s.drain()
        s.send("A", seq=4097, ack=2, data=b"no room")
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_2
        connection.resume()
        s.drain()
        s.send("FA", seq=4097, ack=2)
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT


@pytest.mark.parametrize("isn", [0xFFFFFFFF, 0xFFFFFF00, 0x7FFFFFFF])
def test_peer_sequence_numbers_wrap(isn: int) -> None:
    with Script(isn=isn) as s:
        connection = s.open(sack=True)
        s.send("A", seq=201, ack=1, data=b"c" * 100)
        s.expect("A", ack=1, sack=[(201, 301)])
        s.send("A", seq=101, ack=1, data=b"b" * 100)
        s.expect("A", ack=1, sack=[(101, 301)])
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        s.expect("A", ack=301)
        assert connection.received == b"a" * 100 + b"b" * 100 + b"c" * 100
