"""Resets, and segments of third parties that guess (RFC 5961)."""

from __future__ import annotations

from .script import Script


def test_exact_rst_resets() -> None:
    with Script() as s:
        connection = s.open()
        s.send("R", seq=1)
        assert connection.closed == "ECONNRESET"
        s.quiet()


def test_rst_inside_the_window_is_challenged() -> None:
    """Section 3.2."""
    with Script() as s:
        connection = s.open()
        s.send("R", seq=100)
        s.expect("A", seq=1, ack=1)
        assert connection.closed is None


def test_rst_outside_the_window_is_ignored() -> None:
    with Script() as s:
        connection = s.open()
        s.send("R", seq=1_000_000)
        s.quiet()
        assert connection.closed is None


def test_syn_in_a_synchronised_state_is_challenged() -> None:
    """Section 4.2."""
    with Script() as s:
        connection = s.open()
        s.send("S", seq=50)
        s.expect("A", seq=1, ack=1)
        assert connection.closed is None


def test_ack_of_data_never_sent_is_challenged() -> None:
    """Section 5.2."""
    with Script() as s:
        connection = s.open()
        s.send("PA", seq=1, ack=5000, data=b"evil")
        s.expect("A", seq=1, ack=1)
        assert connection.received == b""


def test_challenge_acks_are_limited() -> None:
    """Section 7: one in half a second for a connection, as Linux does; test_adversarial.py has the stack's limit."""
    with Script() as s:
        s.open()
        for _ in range(100):
            s.send("R", seq=100)
        assert len(s.queue) == 1


def test_segments_without_ack_are_dropped() -> None:
    with Script() as s:
        connection = s.open()
        s.send("P", seq=1, data=b"no ack")
        s.quiet()
        assert connection.received == b""
