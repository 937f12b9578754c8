"""Accurate ECN feedback (RFC 9768): negotiation, the ACE field, the options, and what spoils them."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import lib

from .script import MS, SECOND, Script
from .test_rfc3168_ecn import CE, ECT0, ECT1, codepoint
from .test_tcp_congestion import named
from .world import Connection, Host, World

NOT_ECT = 0
ORDER0, ORDER1 = 172, 174
ACCURATE = lib.AMS_ECN_ACCURATE
INITIAL = 5  # section 3.2.1: what the counter of CE packets begins with
REFLECTED = {NOT_ECT: 0b010, ECT1: 0b011, ECT0: 0b100, CE: 0b110}  # tables 2 and 3


def letters(ace: int) -> str:
    """The flags AE, CWR and ECE of a number, as scapy writes them."""
    return "".join(letter for bit, letter in ((4, "N"), (2, "C"), (1, "E")) if ace & bit)


def ace(segment: Any) -> int:
    """The ACE field of a segment."""
    flags = str(segment.flags)
    return 4 * ("N" in flags) + 2 * ("C" in flags) + ("E" in flags)


def counters(segment: Any) -> dict[str, int] | None:
    """What a segment's AccECN option says; None if it has none."""
    raw = bytes(segment)[20 : segment.dataofs * 4]
    while raw and raw[0]:
        if raw[0] == 1:
            raw = raw[1:]
            continue
        if raw[0] in (ORDER0, ORDER1):
            names = ["e0b", "ceb", "e1b"] if raw[0] == ORDER0 else ["e1b", "ceb", "e0b"]
            value = raw[2 : raw[1]]
            return {names[i]: int.from_bytes(value[i * 3 : i * 3 + 3], "big") for i in range(len(value) // 3)}
        raw = raw[raw[1] :]
    return None


def option(kind: int, *fields: int, padding: bytes = b"") -> list[Any]:
    """An AccECN option with these fields, for ``Script.send``."""
    return [(kind, b"".join(field.to_bytes(3, "big") for field in fields) + padding)]


def server(**config: Any) -> Script:
    return Script(ecn=ACCURATE, **config)


def opened(s: Script, *, third: int = 0b010, fields: tuple[int, ...] = (1, 0, 1), **options: Any) -> Connection:
    """A passive open in AccECN mode."""
    s.syn(flags="SECN", **options)
    s.expect("SAC", ack=1)
    s.send("A" + letters(third), seq=1, ack=1, options=option(ORDER0, *fields))
    return s.accepted()


def client(s: Script, answer: int = 0b010, **more: Any) -> Connection:
    """An active open; the peer answers its SYN with these flags."""
    connection = s.connect()
    assert ace(s.expect("SECN")) == 7
    s.send("SA" + letters(answer), seq=0, ack=1, **more)
    return connection


def accurate(connection: Connection) -> bool:
    return bool(connection.info.options & lib.AMS_INFO_ACCECN)


def sends_ect(s: Script, connection: Connection, **expected: Any) -> bool:
    """Whether new data is ECN-capable."""
    connection.send(b"data")
    segment = s._run_until_segment(SECOND) or s.queue.pop(0)[1]["TCP"]
    return codepoint(s, segment) == ECT0


# ---- negotiation: the listener (section 3.1.1, table 2) --------------------------------------------------------


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("tos", REFLECTED)
def test_the_syn_ack_tells_how_the_syn_came(tos: int, v6: bool) -> None:
    with server(v6=v6) as s:
        s.syn(flags="SECN", tos=tos)
        segment = s.expect("SA" + letters(REFLECTED[tos]), ack=1)
        assert codepoint(s, segment) == NOT_ECT
        assert counters(segment) == {"e0b": 1, "ceb": 0, "e1b": 1}  # section 3.2.3.2.1
        s.send("AC", seq=1, ack=1)
        connection = s.accepted()
        assert accurate(connection)
        connection.send(b"data")
        segment = s.expect("PA" + letters(INITIAL))  # a SYN's CE is not counted (section 3.2.2.2)
        assert codepoint(s, segment) == ECT0


@pytest.mark.parametrize("asked", [0b001, 0b010, 0b100, 0b101, 0b110, 0b111])
def test_combinations_yet_to_be_defined_ask_too(asked: int) -> None:
    """Section 3.1.3."""
    with server() as s:
        s.syn(flags="S" + letters(asked))
        s.expect("SAC", ack=1)


def test_a_classic_syn_gets_a_classic_answer() -> None:
    with server() as s:
        s.syn(flags="SEC")
        s.expect("SAE", ack=1)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        assert connection.info.options & lib.AMS_INFO_ECN
        assert not accurate(connection)
        s.send("PA", seq=1, ack=1, data=b"a", tos=CE)
        s.expect("AE", ack=2)


def test_a_syn_without_ecn_gets_none() -> None:
    with server() as s:
        s.syn()
        assert counters(s.expect("SA", ack=1)) is None
        s.send("A", seq=1, ack=1)
        assert not s.accepted().info.options & lib.AMS_INFO_ECN


@pytest.mark.parametrize("mode", [lib.AMS_ECN_ACCEPT, lib.AMS_ECN_ASK])
def test_without_accecn_its_syn_asks_for_the_older_kind(mode: int) -> None:
    with Script(ecn=mode) as s:
        s.syn(flags="SECN")
        assert counters(s.expect("SAE", ack=1)) is None


def test_off() -> None:
    with Script(ecn=lib.AMS_ECN_OFF) as s:
        s.syn(flags="SECN")
        s.expect("SA", ack=1)


@pytest.mark.parametrize(
    ("mode", "asks"), [(lib.AMS_ECN_ACCURATE_CLASSIC, "SEC"), (lib.AMS_ECN_ACCURATE_ACCEPT, "S"), (ACCURATE, "SECN")]
)
def test_modes_that_accept_it_ask_for_different_things(mode: int, asks: str) -> None:
    with Script(ecn=mode) as s:
        s.syn(flags="SECN")
        s.expect("SAC", ack=1)
        s.connect()
        s.expect(asks)


@pytest.mark.parametrize("first", ["SECN", "SEC"])
def test_two_syns_that_contradict_each_other_end_the_attempt(first: str) -> None:
    """Section 3.1.5."""
    with server() as s:
        s.syn(flags=first)
        s.expect("SAC" if first == "SECN" else "SAE", ack=1)
        s.syn(flags="SEC" if first == "SECN" else "SECN")
        s.expect("RA")
        s.quiet(10 * SECOND)


def test_a_second_syn_that_does_not_ask_is_answered_alike_but_nothing_is_ect() -> None:
    """Section 3.1.5: who knows whether the client will be in AccECN mode?"""
    with server() as s:
        s.syn(flags="SECN")
        s.expect("SAC", ack=1)
        s.syn(tos=ECT1)
        s.expect("SACE", ack=1)  # how the latest SYN came
        s.send("AC", seq=1, ack=1)
        connection = s.accepted()
        assert accurate(connection)
        assert not sends_ect(s, connection)


def test_the_syn_ack_falls_back_in_two_steps() -> None:
    """Section 3.2.3.2.2: first without the option, then without flags; the mode stays, the option is tried later."""
    with server() as s:
        s.syn(flags="SECN")
        assert counters(s.expect("SAC", ack=1)) is not None
        assert counters(s.expect("SAC", ack=1, after=SECOND)) is None
        assert counters(s.expect("SA", ack=1, after=2 * SECOND)) is None
        s.send("AC", seq=1, ack=1)
        connection = s.accepted()
        assert accurate(connection)
        assert not sends_ect(s, connection)
        s.send("PA", seq=1, ack=5, data=b"x", tos=CE)
        segment = s.expect("A" + letters(INITIAL + 1), ack=2)  # feedback is given all the same
        assert counters(segment) == {"e1b": 1, "ceb": 1}


# ---- negotiation: who opens -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "mode", "ect"),
    [
        (0b000, None, False),
        (0b001, "classic", True),
        (0b010, "accurate", True),
        (0b011, "accurate", False),  # our SYN was Not-ECT: somebody changes the field (section 3.2.2.3)
        (0b100, "accurate", False),
        (0b101, "accurate", True),  # reserved: as if it had come unchanged (section 3.1.3)
        (0b110, "accurate", False),
        (0b111, None, False),  # flags sent back by a host that doesn't know them
    ],
)
def test_each_answer(answer: int, mode: str | None, ect: bool) -> None:
    """Table 2."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = client(s, answer)
        assert ace(s.expect("A" + letters(0b010 if mode == "accurate" else 0), seq=1, ack=1)) == (
            0b010 if mode == "accurate" else 0
        )
        options = connection.info.options
        assert bool(options & lib.AMS_INFO_ECN) == (mode is not None)
        assert accurate(connection) == (mode == "accurate")
        assert sends_ect(s, connection) == ect


@pytest.mark.parametrize("tos", REFLECTED)
def test_the_last_ack_tells_how_the_syn_ack_came(tos: int) -> None:
    """Table 3: a pure ACK, with the option; the counter knows of CE, too."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = client(s, tos=tos)
        segment = s.expect("A" + letters(REFLECTED[tos]), seq=1, ack=1)
        assert counters(segment) == {"e0b": 1, "ceb": 0, "e1b": 1}
        connection.send(b"data")
        segment = s.expect("PA" + letters(INITIAL + (tos == CE)), seq=1)
        assert counters(segment) == {"e0b": 1, "ceb": 0, "e1b": 1}  # and on the first data


def test_that_ack_goes_before_data() -> None:
    """Section 3.2.2.1."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = s.connect()
        connection.send(b"data")
        s.expect("SECN")
        s.send("SAC", seq=0, ack=1)
        s.expect("AC", seq=1, length=0)
        s.expect("PA" + letters(INITIAL), seq=1, length=4)


def test_a_repeated_syn_ack_is_acknowledged_likewise_and_counted_once() -> None:
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = client(s)
        s.expect("AC", seq=1)
        for delay in (SECOND, 2 * SECOND):
            s.wait(delay)
            s.send("SAC", seq=0, ack=1, tos=CE)
            s.expect("A" + letters(REFLECTED[CE]), seq=1, ack=1)
        connection.send(b"data")
        s.expect("PA" + letters(INITIAL + 1))


def test_congestion_met_by_the_syn() -> None:
    """Section 3.2.2.2: obeyed, though the copy of the counter stays."""
    with Script(listen=None, ecn=ACCURATE, congestion=named(b"reno")) as s:
        connection = client(s, 0b110, options=[("MSS", 1000)])
        s.expect("AC")
        assert connection.info.snd_ssthresh == 5000
        connection.send(b"x" * 3000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=3001)
        assert connection.info.delivered_ce == 0


def test_the_syn_asks_twice() -> None:
    """Section 3.1.4.1."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = s.connect()
        s.expect("SECN")
        s.expect("SECN", after=SECOND)
        s.expect("S", after=2 * SECOND)
        s.send("SAC", seq=0, ack=1)  # the answer to one of the first two
        s.expect("AC")
        assert accurate(connection)
        assert sends_ect(s, connection)


def test_simultaneous_open() -> None:
    """Section 3.1.2: as if it were a listener that got the SYN."""
    with Script(listen=None, ecn=ACCURATE) as s:
        connection = s.connect()
        s.expect("SECN")
        s.syn(flags="SECN", tos=ECT0)
        s.expect("SAN", seq=0, ack=1)
        s.send("SAC", seq=0, ack=1)
        assert connection.info.state == lib.AMS_TCP_ESTABLISHED
        assert accurate(connection)
        s.drain()  # an ACK, or none
        connection.send(b"data")
        s.expect("PA" + letters(INITIAL))


# ---- the ACK of the SYN-ACK (table 4) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("third", "marks", "ect"),
    [*((0, 0, False), (1, 0, True), (2, 0, True), (3, 0, False)),
     *((4, 0, False), (5, 0, True), (6, 1, False), (7, 0, True))],
)  # fmt: skip
def test_each_ack_of_the_syn_ack(third: int, marks: int, ect: bool) -> None:
    with server() as s:
        connection = opened(s, third=third)
        assert accurate(connection)
        assert connection.info.delivered_ce == marks
        assert (connection.info.snd_ssthresh != 0xFFFFFFFF) == bool(marks)
        assert sends_ect(s, connection) == ect


def test_after_a_zero_feedback_is_given_and_not_obeyed() -> None:
    with server() as s:
        connection = opened(s, third=0, mss=1000)
        connection.send(b"x" * 3000)
        s.drain()
        s.send("A" + letters(INITIAL + 3), seq=1, ack=3001)
        assert connection.info.snd_ssthresh == 0xFFFFFFFF
        s.send("PA" + letters(INITIAL + 3), seq=1, ack=3001, data=b"x", tos=CE)
        assert ace(s.expect("A" + letters(INITIAL + 1))) == INITIAL + 1


def test_data_instead_of_that_ack_has_the_counter() -> None:
    with server() as s:
        s.syn(flags="SECN")
        s.expect("SAC")
        s.send("PA" + letters(INITIAL + 1), seq=1, ack=1, data=b"data")
        assert s.accepted().info.delivered_ce == 1


def test_a_counter_that_begins_with_zero_is_not_believed() -> None:
    """Section 3.2.2.4."""
    with server() as s:
        s.syn(flags="SECN", mss=1000)
        s.expect("SAC")
        s.send("PA", seq=1, ack=1, data=b"data")
        connection = s.accepted()
        s.drain()
        assert not sends_ect(s, connection)
        s.send("A" + letters(3), seq=5, ack=5)
        assert connection.info.snd_ssthresh == 0xFFFFFFFF


def test_any_other_beginning_is_legal() -> None:
    """Section 3.2.2.4: whatever isn't zero may mean something one day."""
    with server() as s:
        connection = opened(s)
        connection.send(b"x")
        s.drain()
        s.send("AE", seq=1, ack=2)
        assert sends_ect(s, connection)


# ---- the ACE field ------------------------------------------------------------------------------------------------


def test_ce_is_counted_modulo_eight() -> None:
    """Section 3.2.2: pure ACKs and data that comes again count, too."""
    with server() as s:
        connection = opened(s)
        for i in range(12):
            s.send("PA" + letters(INITIAL), seq=1 + i, ack=1, data=b"x", tos=CE)
        s.drain()
        connection.send(b"data")
        assert ace(s.expect("PA" + letters((INITIAL + 12) % 8))) == (INITIAL + 12) % 8
        s.send("A" + letters(INITIAL), seq=13, ack=5, tos=CE)
        s.send("PA" + letters(INITIAL), seq=12, ack=5, data=b"xy", tos=CE)  # half of it came before
        s.drain()
        assert connection.info.received_ce == 14


def test_an_unacceptable_segment_does_not_count() -> None:
    """Section 3.2: only acceptable packets do."""
    with server() as s:
        connection = opened(s)
        s.send("PA" + letters(INITIAL), seq=1_000_000, ack=1, data=b"x", tos=CE)
        s.send("A" + letters(INITIAL), seq=1, ack=1_000_000, tos=CE)
        assert connection.info.received_ce == 0


def test_the_mode_has_no_cwr_and_no_echo() -> None:
    """Section 3.1.5: a reduction is not announced; data that sets CWR's bit clears nothing."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 30000)
        s.drain()
        s.send("A" + letters(INITIAL + 1), seq=1, ack=1001)
        assert connection.info.ca_state == 2  # CWR
        for i in range(2, 9):
            s.send("A" + letters(INITIAL + 1), seq=1, ack=1 + i * 1000)
        while s.queue:
            segment = s.queue.pop(0)[1]
            assert ace(segment["TCP"]) == INITIAL
            assert codepoint(s, segment["TCP"]) == ECT0


def test_one_reduction_for_each_window() -> None:
    """Each CE is counted; cwnd is halved once per round trip (RFC 3168 section 6.1.2)."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 30000)
        s.drain()
        before = connection.info.snd_cwnd
        for i in range(1, 6):
            s.send("A" + letters((INITIAL + i) % 8), seq=1, ack=1 + i * 1000)
        assert connection.info.delivered_ce == 5
        assert connection.info.snd_ssthresh == before // 2
        assert s.host.counters()["stack.tcp_ecn_reduced"] == 1
        assert s.host.counters()["stack.tcp_retrans"] == 0


def test_an_old_ack_is_ignored() -> None:
    """Section 3.2.2.2: what a later one has superseded would look like seven marks more."""
    with server() as s:
        connection = opened(s, mss=1000, timestamps=True)
        connection.send(b"x" * 4000)
        s.drain()
        s.tsval += 10
        s.send("A" + letters(INITIAL + 1), seq=1, ack=3001)
        s.send("A" + letters(INITIAL), seq=1, ack=2001, tsval=s.tsval - 5)
        assert connection.info.delivered_ce == 1
        s.send("A" + letters(INITIAL + 2), seq=1, ack=3001, tsval=s.tsval + 1)  # new by its timestamp
        assert connection.info.delivered_ce == 2


def test_the_first_ce_after_others_is_acknowledged_at_once() -> None:
    """Section 3.2.2.5.1, change-triggered; one CE more is not, two are (increment-triggered)."""
    with server() as s:
        connection = opened(s, mss=1000)
        for i in range(20):  # beyond the ACKs at once of the beginning
            s.send("PA" + letters(INITIAL), seq=1 + i, ack=1, data=b"x", tos=ECT0)
        s.wait(100 * MS)
        s.drain()
        s.send("PA" + letters(INITIAL), seq=21, ack=1, data=b"x", tos=ECT0)
        s.quiet(MS)
        s.send("PA" + letters(INITIAL), seq=22, ack=1, data=b"x", tos=CE)
        s.expect("A" + letters(INITIAL + 1), ack=23)
        s.send("PA" + letters(INITIAL), seq=23, ack=1, data=b"x", tos=CE)
        s.quiet(MS)
        s.send("PA" + letters(INITIAL), seq=24, ack=1, data=b"x", tos=CE)
        s.expect("A" + letters((INITIAL + 3) % 8), ack=25)
        assert connection.info.received_ce == 3


def test_every_third_marked_ack_is_acknowledged() -> None:
    """Section 3.2.2.5.1: ACKs of ACKs, that have no SACK blocks and don't go on for ever."""
    with server() as s:
        opened(s)
        for i in range(6):
            s.send("A" + letters(INITIAL), seq=1, ack=1, tos=CE)
            if i % 3 == 2:
                s.expect("A" + letters((INITIAL + i + 1) % 8), ack=1, length=0)
            else:
                s.quiet(MS)


# ---- whether the field has gone round (section 3.2.2.5.2) ---------------------------------------------------------


def marked(s: Script, connection: Connection, rounds: int) -> int:
    """Sends segments one by one, each of them reported as marked.  Returns the peer's counter."""
    counter = INITIAL
    for _ in range(rounds):
        start = connection.info.bytes_acked
        connection.send(b"x" * 1000)
        s.drain()
        counter += 1
        s.send("A" + letters(counter % 8), seq=1, ack=start + 1001)
    return counter


def test_a_jump_after_dense_marks_counts_the_hidden_cycles() -> None:
    """Everything was marked of late: of 18 packets in one ACK, a difference of 2 means 18, not 2."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 100_000)
        acked = 0
        while connection.info.unacked < 30_000:  # slow start
            s.drain()
            acked += connection.info.unacked
            s.send("A" + letters(INITIAL), seq=1, ack=1 + acked)
        s.drain()
        for i in range(1, 5):
            s.send("A" + letters((INITIAL + i) % 8), seq=1, ack=1 + acked + i * 1000)
        assert connection.info.delivered_ce == 4
        s.send("A" + letters((INITIAL + 4 + 2) % 8), seq=1, ack=1 + acked + 22_000)
        assert connection.info.delivered_ce == 22


def test_a_jump_on_a_path_without_marks_counts_what_is_seen() -> None:
    """One ACK for many segments, as hosts send that merge what they receive, is no sign of congestion."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 10000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=10001)
        assert connection.info.delivered_ce == 0
        assert connection.info.snd_ssthresh == 0xFFFFFFFF


@pytest.mark.parametrize(("bytes_marked", "counted"), [(10000, 10), (2000, 2), (0, 2)])
def test_the_option_tells_how_often_it_went_round(bytes_marked: int, counted: int) -> None:
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 10000)
        s.drain()
        fields = (10001 - bytes_marked, bytes_marked, 1)
        s.send("A" + letters((INITIAL + 2) % 8), seq=1, ack=10001, options=option(ORDER0, *fields))
        assert connection.info.delivered_ce == counted
        assert connection.info.delivered_ce_bytes == bytes_marked
        assert connection.info.delivered_ect0_bytes == 10000 - bytes_marked


def test_marks_that_never_stop_are_not_believed() -> None:
    """Section 3.2.2.3: every packet of four rounds was marked: that is no queue."""
    with server() as s:
        connection = opened(s, mss=1000, sack=True)
        marked(s, connection, 6)
        reduced = s.host.counters()["stack.tcp_ecn_reduced"]
        assert not sends_ect(s, connection)
        s.send("A" + letters((INITIAL + 7) % 8), seq=1, ack=6005)
        assert s.host.counters()["stack.tcp_ecn_reduced"] == reduced


# ---- the options (section 3.2.3) ------------------------------------------------------------------------------------


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


def kinds(segment: Any) -> list[int]:
    """The kinds of a segment's options, in their order."""
    raw, found = bytes(segment)[20 : segment.dataofs * 4], []
    while raw:
        found.append(raw[0])
        raw = raw[1 if raw[0] == 1 else raw[1] :]
    return found


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
        assert kinds(s.expect("SAC", ack=1)) == expected


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


# ---- with other parts of TCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("third", "expected"), [(0b010, True), (0b110, True), (0b111, True), (0, False), (1, False)])
def test_syn_cookies(third: int, expected: bool) -> None:
    """Section 5.1: nothing is kept; the ACK tells which mode it was."""
    with server(syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        s.syn(flags="SECN" if expected else "S", tos=ECT1)
        s.expect("SACE" if expected else "SA", ack=1)
        s.send("A" + letters(third), seq=1, ack=1)
        assert accurate(s.accepted()) == expected


def test_fast_open_data_in_the_syn_is_not_counted() -> None:
    """Section 3.2."""
    with server(fastopen=lib.AMS_FASTOPEN_SERVER | lib.AMS_FASTOPEN_LISTENERS | lib.AMS_FASTOPEN_SERVER_NO_COOKIE) as s:
        s.send("SECN", seq=0, options=[("MSS", 1000)], data=b"hello", tos=CE)
        connection = s.accepted()
        assert connection.received == b"hello"
        s.expect("SACN", ack=6)
        connection.send(b"world")
        s.expect("PA" + letters(INITIAL), seq=1)
        s.send("AC", seq=6, ack=6)
        assert connection.info.received_ce_bytes == 0
        assert connection.info.received_ce == 0


def test_time_wait_repeats_the_counter() -> None:
    with server() as s:
        connection = opened(s)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x", tos=CE)
        s.drain()
        connection.close()
        s.expect("FA" + letters(INITIAL + 1), seq=1)
        s.send("FA" + letters(INITIAL), seq=2, ack=2)
        s.expect("A" + letters(INITIAL + 1), ack=3)
        s.send("FA" + letters(INITIAL), seq=2, ack=2)
        s.expect("A" + letters(INITIAL + 1), ack=3)


def test_super_frames_are_left_to_who_would_not_change_their_flags() -> None:
    """Section 3.3.4: a port that cuts a super-frame clears CWR in all parts but the first."""
    with server(offload=True) as s:
        connection = opened(s, mss=1000)
        connection.send(b"x" * 4000)
        s.expect("PA" + letters(INITIAL), length=4000)  # 5 has no CWR
        s.send("PA" + letters(INITIAL), seq=1, ack=4001, data=b"x", tos=CE)
        s.drain()
        connection.send(b"y" * 4000)
        for i in range(4):
            s.expect(("PA" if i == 3 else "A") + letters(INITIAL + 1), seq=4001 + i * 1000, length=1000)


def test_the_counters_memory_goes_with_the_connection() -> None:
    """What one connection has left (the TCB is kept for the next one) is enough for the second."""
    with server() as s:
        memory = []
        for _ in range(3):
            connection = opened(s)
            open_ = lib.ams_stack_memory(s.host.stack)
            connection.abort()
            s.wait(0)
            s.drain()
            s.port += 1
            memory.append(lib.ams_stack_memory(s.host.stack))
            assert memory[-1] < open_
        assert memory[0] == memory[1] == memory[2]


def received(host: Host) -> int:
    """Bytes that the first connection of a host has brought."""
    return len(host.accepted[0].received) if host.accepted else 0


def test_both_ends_over_a_marking_queue() -> None:
    """Bulk data through a bottleneck that marks: no loss, and both ends agree on what was marked."""
    world = World(seed=3, delay_ns=10 * MS, rate_bps=20_000_000, queue_frames=1000, mark_frames=15)
    try:
        sender = world.host("10.1.0.1/24", ecn=ACCURATE)
        receiver = world.host("10.1.0.2/24", ecn=ACCURATE)
        receiver.listen()
        connection = sender.connect("10.1.0.2")
        data = bytes(2_000_000)
        connection.send(data)
        world.run(60 * SECOND, until=lambda: received(receiver) >= len(data))
        world.run(SECOND)
        ours, theirs = connection.info, receiver.accepted[0].info
        assert accurate(connection)
        assert ours.bytes_retrans == 0
        assert 0 < ours.delivered_ce == theirs.received_ce
        assert ours.delivered_ce_bytes == theirs.received_ce_bytes
        assert ours.delivered_ect0_bytes == theirs.received_ect0_bytes
        assert ours.delivered_ce_bytes + ours.delivered_ect0_bytes == len(data)
        assert sender.counters()["stack.tcp_ecn_reduced"] > 2
    finally:
        world.close()


def test_both_ends_over_a_bad_marking_queue() -> None:
    """The same with loss and reordering: data is whole, and the field's copy keeps up."""
    world = World(
        seed=5, delay_ns=10 * MS, rate_bps=20_000_000, mark_frames=3, loss=0.003, reorder=0.01, duplicate=0.01
    )
    try:
        sender = world.host("10.1.0.1/24", ecn=ACCURATE)
        receiver = world.host("10.1.0.2/24", ecn=ACCURATE)
        receiver.listen()
        connection = sender.connect("10.1.0.2")
        data = bytes(range(256)) * 3000
        connection.send(data)
        world.run(300 * SECOND, until=lambda: received(receiver) >= len(data))
        world.run(5 * SECOND)
        assert bytes(receiver.accepted[0].received) == data
        ours, theirs = connection.info, receiver.accepted[0].info
        assert accurate(connection)
        assert 0 < ours.delivered_ce == theirs.received_ce
        assert ours.delivered_ce_bytes == theirs.received_ce_bytes
    finally:
        world.close()
