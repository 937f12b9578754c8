"""Accurate ECN (RFC 9768) in packet scripts: its field, its options, connections that use it."""

from __future__ import annotations

from typing import Any

from aiomultistack._native import lib

from .script import SECOND, Script, raw_options
from .test_rfc3168_ecn import CE, ECT0, ECT1, codepoint
from .world import Connection

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
    for kind, value in raw_options(segment):
        if kind in (ORDER0, ORDER1):
            names = ["e0b", "ceb", "e1b"] if kind == ORDER0 else ["e1b", "ceb", "e0b"]
            return {names[i]: int.from_bytes(value[i * 3 : i * 3 + 3], "big") for i in range(len(value) // 3)}
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
