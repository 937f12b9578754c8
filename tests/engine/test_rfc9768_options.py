"""Accurate ECN (RFC 9768 section 3.2.3): the options that count bytes."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .accecn import (
    ACCURATE,
    INITIAL,
    ORDER0,
    ORDER1,
    REFLECTED,
    ace,
    client,
    counters,
    letters,
    opened,
    option,
    sends_ect,
    server,
)
from .script import MS, SECOND, Script, raw_options
from .test_rfc3168_ecn import CE, ECT0, ECT1, codepoint


def test_only_counters_that_ever_changed_are_reported() -> None:
    """Section 3.2.3.3, with its examples."""
    with server() as s:
        opened(s)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"abc", tos=ECT0)
        assert counters(s.expect("A" + letters(INITIAL), ack=4)) == {"e0b": 4}
        s.send("PA" + letters(INITIAL), seq=4, ack=1, data=b"de", tos=CE)
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=6)) == {"e0b": 4, "ceb": 2}
        s.send("PA" + letters(INITIAL), seq=6, ack=1, data=b"f", tos=ECT1)
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=7)) == {"e0b": 4, "ceb": 2, "e1b": 2}
        s.send("PA" + letters(INITIAL), seq=7, ack=1, data=b"g")  # Not-ECT: nothing has changed
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=8)) is None


def test_the_order_is_the_shorter_one() -> None:
    with server() as s:
        opened(s)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"abc", tos=ECT1)
        segment = s.expect("A" + letters(INITIAL), ack=4)
        assert counters(segment) == {"e1b": 4}
        assert bytes([ORDER1, 5]) in bytes(segment)
        s.send("PA" + letters(INITIAL), seq=4, ack=1, data=b"de", tos=CE)
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=6)) == {"e1b": 4, "ceb": 2}


def test_data_carries_the_option_and_makes_room_for_it() -> None:
    with server() as s:
        connection = opened(s, mss=1000)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"abc", tos=ECT0)
        s.drain()
        s.send("PA" + letters(INITIAL), seq=4, ack=1, data=b"abc", tos=ECT0)
        connection.send(b"x" * 3000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=7, ack=3001)
        s.send("PA" + letters(INITIAL), seq=7, ack=3001, data=b"abc", tos=CE)
        s.drain()
        s.send("A" + letters(INITIAL), seq=10, ack=3001)
        for i in range(16):
            s.send("PA" + letters(INITIAL), seq=10 + i, ack=3001, data=b"x", tos=ECT0)
            s.drain()
        s.wait(200 * MS)
        s.drain()
        s.send("PA" + letters(INITIAL), seq=26, ack=3001, data=b"x", tos=ECT0)
        connection.send(b"y" * 2000)
        first = s.queue.pop(0)[1]["TCP"] if s.queue else s.expect("A" + letters(INITIAL + 1), length=988)
        assert counters(first) == {"e0b": 24, "ceb": 3}


def test_two_sack_blocks_come_before_the_option() -> None:
    """Section 3.2.3.3: with timestamps and two blocks there is room for two fields, not for three."""
    with server() as s:
        opened(s, sack=True, timestamps=True)
        s.send("PA" + letters(INITIAL), seq=11, ack=1, data=b"a", tos=ECT0)
        segment = s.expect("A" + letters(INITIAL), ack=1, sack=[(11, 12)])
        assert counters(segment) == {"e0b": 2}
        s.send("PA" + letters(INITIAL), seq=21, ack=1, data=b"b", tos=CE)
        segment = s.expect("A" + letters(INITIAL + 1), ack=1, sack=[(21, 22), (11, 12)])
        assert counters(segment) == {"e0b": 2, "ceb": 1}
        s.send("PA" + letters(INITIAL), seq=31, ack=1, data=b"c", tos=CE)
        segment = s.expect("A" + letters(INITIAL + 2), ack=1, sack=[(31, 32), (21, 22)])
        assert counters(segment) == {"e0b": 2, "ceb": 2}
        s.send("PA" + letters(INITIAL), seq=41, ack=1, data=b"d")  # nothing to report: three blocks
        segment = s.expect("A" + letters(INITIAL + 2), ack=1, sack=[(41, 42), (31, 32), (21, 22)])
        assert counters(segment) is None


def test_what_does_not_fit_is_reported_later() -> None:
    """All three counters have changed, and the option loses its end: not what the peer doesn't know."""
    with server() as s:
        opened(s, sack=True, timestamps=True)
        for i, tos in enumerate((ECT0, CE, ECT1)):
            s.send("PA" + letters(INITIAL), seq=1 + i, ack=1, data=b"x", tos=tos)
            s.drain()
        for i in range(3):
            s.send("PA" + letters(INITIAL), seq=11 + 10 * i, ack=1, data=b"a", tos=ECT1)
            segment = s.expect("A" + letters(INITIAL + 1), ack=4)
            whole = {"e1b": 3 + i, "ceb": 1, "e0b": 2}
            assert counters(segment) == (dict(list(whole.items())[:2]) if i else whole)
        s.send("PA" + letters(INITIAL), seq=41, ack=1, data=b"ab", tos=ECT0)  # the other order has the news
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=4)) == {"e0b": 4, "ceb": 1}


def test_retransmissions_have_the_latest_counter_and_no_option() -> None:
    """Section 3.2: the feedback is what is known when a segment leaves."""
    with server() as s:
        connection = opened(s)
        connection.send(b"data")
        s.expect("PA" + letters(INITIAL), seq=1)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x", tos=CE)
        s.drain()
        s._run_until_segment(3 * SECOND)
        segment = s.expect("PA" + letters(INITIAL + 1), seq=1)
        assert counters(segment) is None
        assert codepoint(s, segment) == ECT0


def test_all_segments_are_ecn_capable() -> None:
    """As Linux's (RFC 8311 section 4.3): marks of acknowledgements and of retransmissions are told, too."""
    with server() as s:
        connection = opened(s)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x")
        s.wait(200 * MS)
        assert codepoint(s, s.expect("A" + letters(INITIAL), ack=2)) == ECT0
        connection.close()
        assert codepoint(s, s.expect("FA" + letters(INITIAL), seq=1)) == ECT0


@pytest.mark.parametrize(
    ("timestamps", "expected"),
    [
        (False, [2, ORDER1, 1, 1, 1, 4, 1, 3]),  # MSS, the counters, SACK permitted, window scale
        (True, [2, 4, 8, ORDER1, 1, 1, 3]),
    ],
)
def test_options_are_in_the_order_of_linux(timestamps: bool, expected: list[int]) -> None:
    with server() as s:
        s.syn(flags="SECN", mss=1000, sack=True, wscale=7, timestamps=timestamps)
        assert [kind for kind, _ in raw_options(s.expect("SAC", ack=1))] == expected


def test_every_segment_may_have_the_option() -> None:
    """AMS_ACCECN_ALWAYS: what Linux does by default, retransmissions included."""
    with server(accecn_options=lib.AMS_ACCECN_ALWAYS) as s:
        connection = opened(s, mss=1012)
        for i in range(3):
            connection.send(b"x" * 1000)
            segment = s.expect("PA" + letters(INITIAL), seq=1 + 1000 * i, length=1000)
            assert counters(segment) == {"e1b": 1, "ceb": 0, "e0b": 1}
        s.send("A" + letters(INITIAL), seq=1, ack=1001, options=option(ORDER0, 1001, 0, 1))
        again = s.expect("PA" + letters(INITIAL), length=1000, after=SECOND, tolerance=SECOND)
        assert counters(again) == {"e1b": 1, "ceb": 0, "e0b": 1}


def test_a_peer_without_options_gets_none() -> None:
    """AMS_ACCECN_ALWAYS, as Linux: until the peer sends one."""
    with server(accecn_options=lib.AMS_ACCECN_ALWAYS) as s:
        s.syn(flags="SECN", mss=1000)
        assert counters(s.expect("SAC", ack=1)) is not None
        s.send("AC", seq=1, ack=1)
        connection = s.accepted()
        connection.send(b"x" * 100)
        assert counters(s.expect("PA" + letters(INITIAL), seq=1)) is None
        s.send("A" + letters(INITIAL), seq=1, ack=101, options=option(ORDER0, 101, 0, 1))
        connection.send(b"x" * 100)
        assert counters(s.expect("PA" + letters(INITIAL), seq=101)) == {"e1b": 1, "ceb": 0, "e0b": 1}


def test_the_option_can_be_turned_off() -> None:
    with server(accecn_options=lib.AMS_ACCECN_NEVER) as s:
        s.syn(flags="SECN", mss=1000)
        assert counters(s.expect("SAC", ack=1)) is None
        s.send("AC", seq=1, ack=1, options=option(ORDER0, 1, 0, 1))
        s.accepted()
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x", tos=CE)
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=2)) is None
    for value in (lib.AMS_ACCECN_NEVER + 1, 1 << 31):
        with server() as s:
            assert lib.ams_stack_set(s.host.stack, lib.AMS_SET_ACCECN, value) < 0


def test_acks_with_the_option_that_do_not_arrive() -> None:
    """Section 3.2.3.2.2: what was acknowledged comes a third time: somebody drops ACKs with options."""
    with server(accecn_options=lib.AMS_ACCECN_ALWAYS) as s:
        opened(s, sack=True)
        for expected in (True, True, False):
            s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x" * 100, tos=ECT0)
            s.wait(200 * MS)
            assert (counters(s.expect("A" + letters(INITIAL), ack=101)) is not None) == expected
        s.send("PA" + letters(INITIAL), seq=101, ack=1, data=b"x" * 100, tos=ECT0)
        s.wait(200 * MS)
        assert counters(s.expect("A" + letters(INITIAL), ack=201)) is None


def test_a_duplicate_long_after_the_option_says_nothing() -> None:
    """The latest ACK had none: it isn't the option that keeps ACKs from arriving."""
    with server() as s:
        opened(s, sack=True)
        for seq in (1, 1, 101, 1):
            s.send("PA" + letters(INITIAL), seq=seq, ack=1, data=b"x" * 100, tos=ECT0)
            s.wait(200 * MS)
            s.drain()
        s.send("PA" + letters(INITIAL), seq=201, ack=1, data=b"x" * 100, tos=ECT0)
        s.wait(200 * MS)
        assert counters(s.expect("A" + letters(INITIAL), ack=301)) == {"e0b": 301}


def test_a_repeated_syn_ack_is_reflected_whatever_its_flags() -> None:
    """Section 3.1.5: the third SYN-ACK has none, and both ends are in AccECN mode all the same."""
    with Script(listen=None, ecn=ACCURATE) as s:
        client(s)
        s.expect("AC", seq=1)
        s.send("SA", seq=0, ack=1, tos=ECT0)
        assert ace(s.expect("AN", seq=1)) == REFLECTED[ECT0]


@pytest.mark.parametrize(("acks", "expected"), [([1000, 10_000], 8), ([10_000], 0)])
def test_the_field_may_have_gone_round(acks: list[int], expected: int) -> None:
    """Section 3.2.2.5.2, appendix A.2.1: the worst is supposed where ACKs usually stand for few packets."""
    with server() as s:
        connection = opened(s, fields=(), mss=1000)
        connection.send(b"x" * 10_000)
        s.drain()
        for acked in acks:
            s.send("A" + letters(INITIAL), seq=1, ack=acked + 1)
        assert connection.info.delivered_ce == expected


def test_options_that_seem_to_be_dropped_are_given_up() -> None:
    """Section 3.2.3.2.2: the first data, which had one, was lost; feedback by the field goes on."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = client(s)
        s.expect("AC", seq=1)
        connection.send(b"data")
        assert counters(s.expect("PA" + letters(INITIAL), seq=1)) is not None
        s._run_until_segment(SECOND)
        s.drain()
        s.wait(2 * SECOND)  # the loss probe and a timeout
        s.drain()
        s.send("PA" + letters(INITIAL), seq=1, ack=5, data=b"x", tos=CE)
        assert counters(s.expect("A" + letters(INITIAL + 1), ack=2)) is None


@pytest.mark.parametrize("fields", [(0, 0, 1), (1, 0, 0), (0,)])
def test_options_that_are_zeroed_are_ignored(fields: tuple[int, ...]) -> None:
    """Section 3.2.3.2.4."""
    with server() as s:
        connection = opened(s, fields=fields, mss=1000)
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=1001, options=option(ORDER0, 1001, 0, 1))
        assert connection.info.delivered_ect0_bytes == 0


def test_a_syn_ack_with_a_zeroed_option() -> None:
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = client(s, options=option(ORDER0, 0, 0, 0))
        s.drain()
        connection.send(b"x" * 500)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=501, options=option(ORDER0, 501, 0, 1))
        assert connection.info.delivered_ect0_bytes == 0


@pytest.mark.parametrize(
    ("kind", "fields", "padding", "expected"),
    [
        (ORDER0, (301, 200, 501), b"", (300, 200, 500)),
        (ORDER1, (501, 200, 301), b"", (300, 200, 500)),
        (ORDER0, (301, 200), b"", (300, 200, 0)),
        (ORDER1, (501,), b"", (0, 0, 500)),
        (ORDER0, (), b"", (0, 0, 0)),
        (ORDER0, (301, 200), b"\xff\xff", (300, 200, 0)),  # whole fields count, the rest is padding
        (ORDER0, (301, 200, 501), b"\xff\xff\xff\xff", (300, 200, 500)),
    ],
)
def test_options_of_all_lengths_are_read(
    kind: int, fields: tuple[int, ...], padding: bytes, expected: tuple[int, int, int]
) -> None:
    """Section 3.2.3."""
    with server() as s:
        connection = opened(s, mss=1000)
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL + 1), seq=1, ack=1001, options=option(kind, *fields, padding=padding))
        info = connection.info
        assert (info.delivered_ect0_bytes, info.delivered_ce_bytes, info.delivered_ect1_bytes) == expected


def test_counters_of_bytes_wrap() -> None:
    """Section 3.2.3.1: 24 bits of them are sent."""
    with server() as s:
        connection = opened(s, fields=(0xFFFF00, 0, 1), mss=1000)
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=1001, options=option(ORDER0, 500))
        before = connection.info.delivered_ect0_bytes
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=2001, options=option(ORDER0, 1500))
        assert connection.info.delivered_ect0_bytes - before == 1000


def test_an_option_in_the_syn_is_ignored() -> None:
    """Section 3.2.3.2.1."""
    with server() as s:
        s.send("SECN", seq=0, options=[("MSS", 1000), *option(ORDER0, 0, 0, 0)])
        s.expect("SAC")
        s.send("AC", seq=1, ack=1, options=option(ORDER0, 1, 0, 1))
        connection = s.accepted()
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=1001, options=option(ORDER0, 1001))
        assert connection.info.delivered_ect0_bytes == 1000


def test_bytes_marked_without_a_packet_marked() -> None:
    """Section 3.2.3.2.5: the two contradict each other, so nothing is ECN-capable any more."""
    with server() as s:
        connection = opened(s, mss=1000)
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=1001, options=option(ORDER0, 1, 1000))
        assert not sends_ect(s, connection)


def test_options_of_a_connection_without_accecn_mean_nothing() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        connection.send(b"x" * 1000)
        s.drain()
        s.send("A" + letters(INITIAL + 1), seq=1, ack=1001, options=option(ORDER0, 1, 1000, 1))
        assert connection.info.ca_state == 0
        assert connection.info.delivered_ce == 0
