"""Fragments, options, extension headers, tags, lengths and truncation, on each way through the fabric.

Each shape of packet is sent from uplink, host and client, to uplink, host and client.  It arrives as it was sent, or
is dropped for a reason that depends on whether a port sent it (tx_) or a wire did (rx_).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from aiomultistack._native import lib
from fabric_lab import MAC, PEER4, PEER6, PEER_MAC, US4, US6, Hub, pair
from scapy.layers.inet import IP, UDP, IPOption_LSRR, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

HOST_MAC, HOST4, HOST6 = "02:00:00:00:00:99", "10.0.0.3", "fd00::3"
STATIONS = {"uplink": (PEER_MAC, PEER4, PEER6, 9), "host": (HOST_MAC, HOST4, HOST6, 9),
            "one": (MAC, US4, US6, 1), "two": (MAC, US4, US6, 2)}  # fmt: skip
TAG = 4


@dataclass(frozen=True)
class Way:
    """From whom to whom."""

    source: str
    destination: str

    @property
    def sent_by_client(self) -> bool:
        return self.source == "one"

    def network(self, v6: bool) -> Packet:
        """Ethernet and IP."""
        (mac, four, six, _), (to_mac, to_four, to_six, _) = STATIONS[self.source], STATIONS[self.destination]
        ip = IPv6(src=six, dst=to_six) if v6 else IP(src=four, dst=to_four, id=77)
        return Ether(src=mac, dst=to_mac) / ip

    def transport(self, size: int = 40) -> Packet:
        """A datagram; its payload."""
        return UDP(sport=STATIONS[self.source][3], dport=STATIONS[self.destination][3]) / Raw(b"y" * size)


Frames = list[bytes]
Shape = Callable[[Way, bool], Frames]


def plain(way: Way, v6: bool) -> Frames:
    return [bytes(way.network(v6) / way.transport())]


def extended(way: Way, v6: bool) -> Frames:
    """With an option, or with extension headers."""
    network = way.network(v6)
    if v6:
        return [bytes(network / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / way.transport())]
    network[IP].options = [IPOption_NOP()]
    return [bytes(network / way.transport())]


def routed(way: Way, v6: bool) -> Frames:
    """By a source route that is not at its end."""
    network = way.network(v6)
    if v6:
        return [bytes(network / IPv6ExtHdrRouting(addresses=["fd00::9"], segleft=1) / way.transport())]
    network[IP].options = [IPOption_LSRR(routers=["10.0.0.9"])]
    return [bytes(network / way.transport())]


def fragments(way: Way, v6: bool) -> Frames:
    if v6:
        return [bytes(part) for part in fragment6(way.network(v6) / IPv6ExtHdrFragment(id=5) / way.transport(900), 500)]
    return [bytes(part) for part in fragment(way.network(v6) / way.transport(900), 400)]


def orphan(way: Way, v6: bool) -> Frames:
    """A later fragment without its first one."""
    return fragments(way, v6)[1:2]


def tiny(way: Way, v6: bool) -> Frames:
    """A first fragment that shows TCP's ports, but not its flags (RFC 1858 section 3)."""
    network = way.network(v6)
    if v6:
        network /= IPv6ExtHdrFragment(nh=6, m=1, id=6)
    else:
        network[IP].flags, network[IP].proto = "MF", 6
    return [bytes(network / Raw(bytes(way.transport())[:8]))]


def tagged(way: Way, v6: bool) -> Frames:
    return [tag(plain(way, v6)[0], bytes(Dot1Q(vlan=5))[:TAG], 0x8100)]


def twice_tagged(way: Way, v6: bool) -> Frames:
    return [tag(tagged(way, v6)[0], bytes(Dot1AD(vlan=6))[:TAG], 0x88A8)]


def with_priority(way: Way, v6: bool) -> Frames:
    """A tag that names no VLAN."""
    return [tag(plain(way, v6)[0], bytes(Dot1Q(vlan=0, prio=3))[:TAG], 0x8100)]


def tag(frame: bytes, control: bytes, kind: int) -> bytes:
    return frame[:12] + kind.to_bytes(2, "big") + control[:2] + frame[12:]


def cut(way: Way, v6: bool) -> Frames:
    """Ends within its IP header."""
    return [plain(way, v6)[0][:30]]


def short(way: Way, v6: bool) -> Frames:
    """Ends before its IP packet does."""
    return [plain(way, v6)[0][:-5]]


def padded(way: Way, v6: bool) -> Frames:
    """A short packet, padded to Ethernet's minimum."""
    frame = bytes(way.network(v6) / way.transport(0))
    return [frame.ljust(60, b"\0")]


def trailing(way: Way, v6: bool) -> Frames:
    """Bytes behind the packet that are no padding."""
    return [plain(way, v6)[0] + b"smuggled" * 8]


def nonsense(way: Way, v6: bool) -> Frames:
    """An IP header of another version than its EtherType's."""
    frame = bytearray(plain(way, v6)[0])
    frame[14] = 0x35 if v6 else 0x43
    return [bytes(frame)]


def ports_that_lie(way: Way, v6: bool) -> Frames:
    """A UDP header that says it is longer than its packet."""
    frame = bytearray(plain(way, v6)[0])
    at = 14 + (40 if v6 else 20) + 4
    frame[at : at + 2] = (4000).to_bytes(2, "big")
    return [bytes(frame)]


ARRIVES = ""
#: What becomes of a shape that a wire sends to us, and of one that a client sends, "" being that it arrives.
SHAPES: dict[Shape, tuple[str, str]] = {
    plain: (ARRIVES, ARRIVES), extended: (ARRIVES, ARRIVES), fragments: (ARRIVES, ARRIVES), padded: (ARRIVES, ARRIVES),
    routed: ("rx_source_route", "tx_source_route"), orphan: ("rx_frag_orphan", "tx_frag_orphan"),
    tiny: ("rx_frag_tiny", "tx_frag_tiny"), tagged: ("rx_vlan", "tx_vlan"), twice_tagged: ("rx_vlan", "tx_vlan"),
    with_priority: (ARRIVES, "tx_vlan"), cut: ("rx_truncated", "tx_truncated"),
    short: ("rx_bad_length", "tx_bad_length"), trailing: (ARRIVES, "tx_bad_length"),
    nonsense: ("rx_bad_header", "tx_bad_header"), ports_that_lie: ("rx_bad_length", "tx_bad_length"),
}  # fmt: skip

WAYS = [Way("uplink", "one"), Way("host", "one"), Way("one", "two"), Way("one", "uplink"), Way("one", "host")]


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.source}-{way.destination}")
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_on_each_way(wire: Hub, other: Hub, shape: Shape, way: Way, v6: bool) -> None:
    frames = shape(way, v6)
    reason = SHAPES[shape][way.sent_by_client]
    with pair(uplink=wire.config, host=other.config) as (fabric, one, two):
        other.send(bytes(Ether(src=HOST_MAC, dst=PEER_MAC, type=0x88B5)))  # where the host is
        fabric.run()
        wire.receive()
        sender = {"uplink": wire, "host": other, "one": one}[way.source]
        for frame in frames:
            sender.send(frame)
        fabric.run()
        got = {"uplink": wire.receive(), "host": other.receive(), "one": one.receive(), "two": two.receive()}
        arrived = got.pop(way.destination)
        assert not any(got.values())
        assert fabric.punted() == []
        if reason:
            assert arrived == []
            assert fabric.drops() == {reason: len(frames)}
        else:
            assert fabric.drops() == {}
            untagged = [frame[:12] + frame[16:] for frame in frames]
            assert arrived == (untagged if shape is with_priority else frames)


@pytest.mark.parametrize("shape", [plain, extended, tagged, twice_tagged, fragments, trailing])
def test_what_passes_between_uplink_and_host_is_left_alone(wire: Hub, other: Hub, shape: Shape) -> None:
    with pair(uplink=wire.config, host=other.config) as (fabric, _, _):
        other.send(bytes(Ether(src=HOST_MAC, dst=PEER_MAC, type=0x88B5)))
        fabric.run()
        wire.receive()
        for way, sender, receiver in ((Way("uplink", "host"), wire, other), (Way("host", "uplink"), other, wire)):
            for v6 in (False, True):
                for frame in shape(way, v6):
                    sender.send(frame)
                fabric.run()
                assert receiver.receive() == shape(way, v6)
                assert sender.receive() == []
        assert fabric.drops() == {}


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_tags_for_a_host_that_shares_our_address_are_its_own(wire: Hub, other: Hub, v6: bool) -> None:
    """VLANs on the NIC are the system's; a priority tag is taken off on the way to an owner only by us."""
    with pair(uplink=wire.config, host=other.config, flags=lib.AMS_FABRIC_HOST_SHARES) as (fabric, one, _):
        for shape in (tagged, twice_tagged):
            wire.send(shape(Way("uplink", "one"), v6)[0])
        wire.send(with_priority(Way("uplink", "one"), v6)[0])
        fabric.run()
        assert other.receive() == [shape(Way("uplink", "one"), v6)[0] for shape in (tagged, twice_tagged)]
        assert one.receive() == plain(Way("uplink", "one"), v6)
        assert fabric.drops() == {}
