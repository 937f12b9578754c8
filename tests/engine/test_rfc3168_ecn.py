"""Explicit Congestion Notification (RFC 3168)."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import lib

from .script import IP, SECOND, Script
from .test_tcp_congestion import named
from .world import Connection

ECT1, ECT0, CE = 1, 2, 3


def codepoint(s: Script, segment: Any) -> int:
    network = segment.underlayer
    return int(network.tc if s.v6 else network.tos) & 3


def opened(s: Script, **options: Any) -> Connection:
    """A passive open with ECN."""
    s.syn(flags="SEC", **options)
    s.expect("SAE", ack=1)
    s.send("A", seq=1, ack=1)
    return s.accepted()


@pytest.mark.parametrize("v6", [False, True])
def test_a_listener_agrees(v6: bool) -> None:
    """Section 6.1.1; data is ECT(0), SYN-ACK and pure ACKs are not ECT (sections 6.1.1, 6.1.4)."""
    with Script(v6=v6) as s:
        s.syn(flags="SEC")
        assert codepoint(s, s.expect("SAE", ack=1)) == 0
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        assert connection.info.options & lib.AMS_INFO_ECN
        connection.send(b"data")
        assert codepoint(s, s.expect("PA", length=4)) == ECT0
        s.send("PA", seq=1, ack=5, data=b"x", tos=ECT0)
        assert codepoint(s, s.expect("A", ack=2)) == 0
        assert connection.info.options & lib.AMS_INFO_ECN_SEEN


@pytest.mark.parametrize("flags", ["S", "SE", "SC"])
def test_a_syn_that_does_not_ask(flags: str) -> None:
    with Script() as s:
        s.syn(flags=flags)
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1)
        s.accepted().send(b"data")
        assert codepoint(s, s.expect("PA")) == 0


def test_off() -> None:
    with Script(ecn=lib.AMS_ECN_OFF) as s:
        s.syn(flags="SEC")
        s.expect("SA", ack=1)


@pytest.mark.parametrize(("answer", "agreed"), [("SAE", True), ("SA", False), ("SAEC", False)])
def test_the_active_side(answer: str, agreed: bool) -> None:
    """Section 6.1.1: an answer with both flags comes from a host that reflects reserved bits."""
    with Script(listen=None, ecn=lib.AMS_ECN_ASK) as s:
        connection = s.connect()
        s.expect("SEC")
        s.send(answer, seq=0, ack=1)
        s.expect("A", seq=1, ack=1)
        connection.send(b"data")
        assert codepoint(s, s.expect("PA")) == (ECT0 if agreed else 0)


def test_a_repeated_syn_does_not_ask() -> None:
    """Section 6.1.1.1."""
    with Script(listen=None, ecn=lib.AMS_ECN_ASK) as s:
        connection = s.connect()
        s.expect("SEC")
        s.expect("S", after=SECOND)
        s.send("SAE", seq=0, ack=1)
        s.expect("A")
        connection.send(b"data")
        assert codepoint(s, s.expect("PA")) == 0


def test_ce_is_echoed_until_cwr() -> None:
    """Section 6.1.3."""
    with Script() as s:
        opened(s)
        s.send("PA", seq=1, ack=1, data=b"a", tos=CE)
        s.expect("AE", ack=2)
        s.send("PA", seq=2, ack=1, data=b"b", tos=ECT0)
        s.expect("AE", ack=3)
        s.send("PAC", seq=3, ack=1, data=b"c", tos=ECT0)
        s.expect("A", ack=4)
        s.send("PAC", seq=4, ack=1, data=b"d", tos=CE)  # congestion again on the very segment
        s.expect("AE", ack=5)


def test_ece_halves_the_window_once_per_round_trip_and_says_so() -> None:
    """Section 6.1.2; nothing is retransmitted."""
    with Script(congestion=named(b"reno")) as s:
        connection = opened(s, sack=True, mss=1000)
        connection.send(b"x" * 30000)
        for i in range(10):
            s.expect("PA" if i == 29 else "A", seq=1 + i * 1000, length=1000)
        before = connection.info.snd_cwnd
        s.send("AE", seq=1, ack=1001)
        assert connection.info.snd_ssthresh == before // 2
        assert connection.info.ca_state == 2  # CWR
        for i in range(1, 5):
            s.send("AE", seq=1, ack=1001 + i * 1000)
        assert connection.info.snd_ssthresh == before // 2
        flags = ""
        while s.queue:
            segment = s.queue.pop(0)[1]
            assert segment[IP].tos & 3 == ECT0
            flags += str(segment["TCP"].flags)
        assert flags.count("C") == 1
        assert flags.startswith("AC")
        assert s.counter("tcp_retrans") == 0


def test_the_ack_of_all_that_was_out_may_still_report_old_marks() -> None:
    """Section 6.1.2, once a window: the receiver that sent it may not have seen CWR yet.  As Linux."""
    with Script(congestion=named(b"reno")) as s:
        connection = opened(s, sack=True, mss=1000)
        connection.send(b"x" * 30000)
        s.drain()
        before = connection.info.snd_cwnd
        s.send("AE", seq=1, ack=1001)
        s.send("AE", seq=1, ack=10_001)
        assert (connection.info.ca_state, connection.info.snd_ssthresh) == (2, before // 2)
        s.drain()
        s.send("A", seq=1, ack=11_001)  # what carried CWR: the reduction is answered
        assert (connection.info.ca_state, connection.info.snd_ssthresh) == (0, before // 2)
        s.drain()
        s.send("AE", seq=1, ack=12_001)
        assert connection.info.ca_state == 2
        assert connection.info.snd_ssthresh < before // 2


def test_what_is_sent_again_is_not_ect() -> None:
    """Section 6.1.5."""
    with Script() as s:
        connection = opened(s)
        connection.send(b"data")
        assert codepoint(s, s.expect("PA", seq=1)) == ECT0
        s._run_until_segment(3 * SECOND)
        segment = s.expect("PA", seq=1)
        assert codepoint(s, segment) == 0


def test_ece_on_a_connection_without_ecn_means_nothing() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        connection.send(b"x" * 5000)
        s.drain()
        s.send("AE", seq=1, ack=1001)
        assert connection.info.ca_state == 0
