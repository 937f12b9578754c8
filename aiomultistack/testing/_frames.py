"""Frames as people read them: for traces, and for tests that pick out frames."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

__all__ = ["Frame", "format_frames"]

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMP, _TCP, _UDP, _FRAGMENT, _ICMPV6 = 1, 6, 17, 44, 58
_NDP = range(133, 138)  # RFC 4861 section 4
_FLAGS = ((0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x10, "ACK"))
_PREVIEW = 40  # bytes of payload that a trace shows
_NAMES = {_ICMP: "ICMP", _ICMPV6: "ICMPv6", _TCP: "TCP", _UDP: "UDP"}


@dataclass(frozen=True)
class Frame:
    """One frame between two hosts, and what became of it.

    time: virtual seconds since the network was made, when it was sent.
    source, target: names of hosts.
    fate: "delivered", or why not: "lost", "cut", "queue full", "host down", "dropped by test", "nobody there".
    notes: "duplicate", "reordered", "corrupted".
    arrival: virtual seconds; None if it never arrives.
    raw: the Ethernet frame as its receiver gets it.
    """

    time: float
    source: str
    target: str
    raw: bytes = field(repr=False)
    fate: str = "delivered"
    notes: tuple[str, ...] = ()
    arrival: float | None = None

    @property
    def protocol(self) -> str:
        """"TCP", "UDP", "ICMP", "ICMPv6", "ARP", "NDP", or "other"."""
        return _protocol(self.raw)

    @property
    def ports(self) -> tuple[int, int] | None:
        """Source and destination port of TCP and UDP."""
        upper = _upper(self.raw)
        if upper is None or upper[0] not in (_TCP, _UDP) or len(self.raw) < upper[1] + 4:
            return None
        source, target = struct.unpack_from("!HH", self.raw, upper[1])
        return source, target

    @property
    def flags(self) -> frozenset[str]:
        """TCP's flags: "SYN", "FIN", "RST", "PSH", "ACK"; empty for anything else."""
        segment = _segment(self.raw)
        return frozenset(name for bit, name in _FLAGS if segment and segment.flags & bit)

    @property
    def payload(self) -> bytes:
        """What TCP or UDP carries; empty for anything else."""
        segment = _segment(self.raw)
        if segment:
            return self.raw[segment.payload : segment.end]
        upper = _upper(self.raw)
        if upper and upper[0] == _UDP:
            return self.raw[upper[1] + 8 : upper[2]]
        return b""

    def __str__(self) -> str:
        return format_frames([self])[0]


@dataclass(frozen=True)
class _Segment:
    """A TCP segment in a frame."""

    ports: tuple[int, int]
    seq: int
    ack: int
    flags: int
    window: int
    payload: int  # offset
    end: int


def _ethertype(raw: bytes) -> int:
    return int.from_bytes(raw[12:14], "big")


def _upper(raw: bytes) -> tuple[int, int, int] | None:
    """Protocol, offset and end of what an IP packet carries; None if it is none, or a later fragment."""
    kind = _ethertype(raw)
    if kind == _IPV4 and len(raw) >= 34:
        offset, total = 14 + (raw[14] & 15) * 4, int.from_bytes(raw[16:18], "big")
        if int.from_bytes(raw[20:22], "big") & 0x1FFF:
            return None
        return raw[23], offset, min(14 + total, len(raw))
    if kind == _IPV6 and len(raw) >= 54:
        end = min(54 + int.from_bytes(raw[18:20], "big"), len(raw))
        if raw[20] == _FRAGMENT and len(raw) >= 62:
            return None if int.from_bytes(raw[56:58], "big") & 0xFFF8 else (raw[54], 62, end)
        return raw[20], 54, end
    return None


def _segment(raw: bytes) -> _Segment | None:
    upper = _upper(raw)
    if upper is None or upper[0] != _TCP or len(raw) < upper[1] + 20:
        return None
    source, target, seq, ack, head, flags, window = struct.unpack_from("!HHIIBBH", raw, upper[1])
    return _Segment((source, target), seq, ack, flags, window, upper[1] + (head >> 4) * 4, upper[2])


def _protocol(raw: bytes) -> str:
    if _ethertype(raw) == _ARP:
        return "ARP"
    upper = _upper(raw)
    if upper is None:
        return "other"
    if upper[0] == _ICMPV6 and len(raw) > upper[1] and raw[upper[1]] in _NDP:
        return "NDP"
    return _NAMES.get(upper[0], "other")


def is_neighbour_discovery(raw: bytes) -> bool:
    """True for ARP and NDP."""
    return _protocol(raw) in ("ARP", "NDP")


def _hosts(raw: bytes) -> tuple[str, str]:
    if _ethertype(raw) == _IPV4:
        return socket.inet_ntop(socket.AF_INET, raw[26:30]), socket.inet_ntop(socket.AF_INET, raw[30:34])
    return socket.inet_ntop(socket.AF_INET6, raw[22:38]), socket.inet_ntop(socket.AF_INET6, raw[38:54])


def _preview(payload: bytes) -> str:
    if not payload:
        return ""
    text = payload[:_PREVIEW].decode("latin-1")
    if sum(32 <= ord(letter) < 127 or letter in "\r\n\t" for letter in text) < len(text):
        return ""
    return f" {text!r}" + ("..." if len(payload) > _PREVIEW else "")


def _describe(raw: bytes, starts: dict[tuple[str, str, int, int], int]) -> str:
    """One frame's contents.  starts: first sequence numbers by flow, so that others can be shown from 0."""
    kind = _protocol(raw)
    segment = _segment(raw)
    if segment is None:
        upper = _upper(raw)
        if kind == "UDP" and upper and len(raw) >= upper[1] + 8:
            source, target = struct.unpack_from("!HH", raw, upper[1])
            payload = raw[upper[1] + 8 : upper[2]]
            return f"UDP {source} > {target} len={len(payload)}{_preview(payload)}"
        if kind in ("ICMP", "ICMPv6") and upper:
            return f"{kind} type={raw[upper[1]]} code={raw[upper[1] + 1]}"
        return f"{kind} {len(raw)} bytes"
    ends = _hosts(raw)
    flow, back = (*ends, *segment.ports), (*reversed(ends), *reversed(segment.ports))
    if segment.flags & 0x02:
        starts[flow] = segment.seq
    seq = (segment.seq - starts.setdefault(flow, segment.seq)) & 0xFFFFFFFF
    names = ",".join(name for bit, name in _FLAGS if segment.flags & bit and name != "PSH")
    text = f"TCP {segment.ports[0]} > {segment.ports[1]} [{names}] seq={seq}"
    if segment.flags & 0x10:
        text += f" ack={(segment.ack - starts.setdefault(back, segment.ack)) & 0xFFFFFFFF}"  # type: ignore[arg-type]
    payload = raw[segment.payload : segment.end]
    return f"{text} win={segment.window} len={len(payload)}{_preview(payload)}"


def format_frames(frames: list[Frame]) -> list[str]:
    """A line for each frame; sequence numbers count from each connection's first frame in the list."""
    starts: dict[tuple[str, str, int, int], int] = {}
    width = max((len(f"{frame.source} > {frame.target}") for frame in frames), default=0)
    lines = []
    for frame in frames:
        outcome = ", ".join(frame.notes)
        if frame.fate != "delivered":
            outcome = ", ".join([*frame.notes, frame.fate.upper()])
        between = f"{frame.source} > {frame.target}"
        text = f"{frame.time:12.6f}  {between:{width}}  {_describe(frame.raw, starts)}"
        lines.append(f"{text}  ** {outcome}" if outcome else text)
    return lines
