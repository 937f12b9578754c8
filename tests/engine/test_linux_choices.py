"""Packet scripts for what RFCs leave open and Linux has decided: a peer sees the same from both."""

from __future__ import annotations

from aiomultistack._native import lib

from .script import MS, SECOND, Script


def test_data_both_ways_is_not_paced_unasked() -> None:
    """Whether ACKs wait to ride on data says nothing of pacing: two flags, not one."""
    with Script() as s:
        conn = s.open(rtt=20 * MS)
        for i in range(3):
            s.send("PA", seq=1 + 10 * i, ack=1 + 10 * i, data=b"x" * 10)
            conn.send(b"y" * 10)
            s.wait(20 * MS)
        s.drain()
        s.send("A", seq=31, ack=31)
        assert conn.info.pacing_rate == 0


def test_pacing_asked_for_survives_data_both_ways() -> None:
    with Script() as s:
        conn = s.open(rtt=20 * MS)
        conn.option(lib.AMS_OPT_PACING, 1)
        s.send("PA", seq=1, ack=1, data=b"x" * 10)
        s.wait(SECOND)  # nothing to ride on: the ACK goes alone, and ACKs no longer wait for data
        s.drain()
        conn.send(b"y" * 10)
        s.expect("PA", seq=1, length=10)
        s.wait(20 * MS)
        s.send("A", seq=11, ack=11)
        assert conn.info.pacing_rate > 0
