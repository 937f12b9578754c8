"""Accurate ECN (RFC 9768 section 3.1): who asks, who accepts, and what spoils it."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .accecn import (
    ACCURATE,
    INITIAL,
    NOT_ECT,
    REFLECTED,
    accurate,
    ace,
    client,
    counters,
    letters,
    opened,
    sends_ect,
    server,
)
from .script import SECOND, Script
from .test_rfc3168_ecn import CE, ECT0, ECT1, codepoint
from .test_tcp_congestion import named

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


def test_a_setting_that_changes_during_a_handshake_is_no_contradiction() -> None:
    """The peer asks as it did before; the answer is as it was, too."""
    with Script(ecn=lib.AMS_ECN_ACCEPT) as s:
        s.syn(flags="SECN")
        s.expect("SAE", ack=1)
        assert lib.ams_stack_set(s.host.stack, lib.AMS_SET_ECN, ACCURATE) == 0
        s.syn(flags="SECN")
        s.expect("SAE", ack=1)
        s.send("A", seq=1, ack=1)
        assert s.accepted().info.state == lib.AMS_TCP_ESTABLISHED


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
