"""Redirects of both families (RFC 4861 section 8, RFC 792, RFC 1122 section 3.2.2.2), and who is not believed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptRedirectedHdr,
    IPv6,
)
from scapy.packet import Packet, Raw

from .routers import AUTOCONF, Router, Segment, forge
from .world import Connection, World, endpoint, status_name

OURS = {4: "10.1.0.1", 6: "fd01::1"}
FAR = {4: "192.0.2.1", 6: "2001:db8:ffff::1"}
FLAGS = AUTOCONF | lib.AMS_STACK_REDIRECTS4
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Place:
    """A host behind one router, with another one beside it."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.first = segment.router(0xA)
        self.better = segment.router(0xB)
        self.first.advertise()
        self.id = {family: self._open(family) for family in (4, 6)}

    def _open(self, family: int) -> int:
        host = self.segment.host
        id_ = int(lib.ams_udp_open(host.stack, endpoint(OURS[family], 700), ffi.NULL, 0))
        assert id_ >= 0, status_name(id_)
        host.connections[id_] = Connection(host, id_)
        return id_

    def via(self, family: int, to: str | None = None) -> Router | None:
        """Whom a datagram goes through; None if straight to its destination."""
        before = [len(router.received) for router in self.segment.routers]
        stack, now = self.segment.host.stack, self.segment.world.now
        assert lib.ams_udp_send(stack, self.id[family], endpoint(to or FAR[family], 9), b"x", 1, now) == 0
        self.segment.run(0.1)
        layer = IP if family == 4 else IPv6
        for router, count in zip(self.segment.routers, before, strict=True):
            if any(layer in packet and packet[layer].dst == (to or FAR[family]) for packet in router.received[count:]):
                return router
        return None

    def datagram(self, family: int, *, sport: int = 700, to: str | None = None, src: str | None = None) -> Packet:
        """What the host sends."""
        layer = IP if family == 4 else IPv6
        return layer(src=src or OURS[family], dst=to or FAR[family]) / UDP(sport=sport, dport=9) / Raw(b"x")

    def redirect(
        self, family: int, quoted: Packet | None, *, target: Router | str | None = None, to: str | None = None
    ) -> Packet:
        """A redirect to the better router."""
        target = self.better if target is None else target
        if family == 4:
            gateway = target.ip4 if isinstance(target, Router) else target
            return IP(src=self.first.ip4, dst=OURS[4]) / ICMP(type=5, code=1, gw=gateway) / Raw(bytes(quoted)[:28])
        ip = target.ip if isinstance(target, Router) else target
        packet = IPv6(src=self.first.ip, dst=OURS[6], hlim=255) / ICMPv6ND_Redirect(tgt=ip, dst=to or FAR[6])
        if isinstance(target, Router):
            packet /= ICMPv6NDOptDstLLAddr(lladdr=target.mac)
        return packet if quoted is None else packet / ICMPv6NDOptRedirectedHdr(pkt=quoted)

    def tell(self, packet: Packet) -> bool:
        """Sends a redirect; True if it was heeded."""
        before = self.segment.host.counters()
        self.first.send(packet)
        self.segment.run()
        after = self.segment.host.counters()
        assert after["stack.redirect_rx"] == before["stack.redirect_rx"] + 1
        return after["stack.redirect_refused"] == before["stack.redirect_refused"]

    def rows(self) -> list[tuple[str, str | None]]:
        return [(row.address, row.via) for row in self.segment.network(lib.AMS_NET_REDIRECT)]


@pytest.fixture
def place() -> Iterator[Place]:
    with World() as world:
        yield Place(Segment(world, host(world, FLAGS)))


def host(world: World, flags: int) -> object:
    return world.host("10.1.0.1/24", "fd01::1/64", flags=flags, gateway4=endpoint("10.1.0.10")[0])


@FAMILIES
def test_a_redirect_is_followed(place: Place, family: int) -> None:
    assert place.via(family) is place.first
    assert place.tell(place.redirect(family, place.datagram(family)))
    assert place.via(family) is place.better
    other = "192.0.2.2" if family == 4 else "2001:db8:ffff::2"
    assert place.via(family, other) is place.first  # one destination, not its network
    via = place.better.ip4 if family == 4 else place.better.ip
    assert place.rows() == [(FAR[family], via)]
    assert not place.tell(place.redirect(family, place.datagram(family)))  # its sender is the first hop no more


@FAMILIES
def test_it_is_forgotten_after_a_while(place: Place, family: int) -> None:
    place.via(family)
    assert place.tell(place.redirect(family, place.datagram(family)))
    place.segment.run(590)
    assert place.via(family) is place.better
    place.segment.run(20)
    assert place.rows() == []
    assert place.via(family) is place.first


@FAMILIES
def test_it_is_forgotten_when_the_target_is_dead(place: Place, family: int) -> None:
    place.better.answers = False
    place.via(family)
    packet = place.redirect(family, place.datagram(family))
    if family == 6:
        del packet[ICMPv6ND_Redirect].payload
        packet = packet / ICMPv6NDOptRedirectedHdr(pkt=place.datagram(6))
    assert place.tell(packet)
    assert place.via(family) is None
    place.segment.run(4)
    assert place.rows() == []
    assert sum(1 for packet in place.first.received if UDP in packet) == 2  # what waited went the old way
    assert place.via(family) is place.first


def test_to_the_destination_itself(place: Place) -> None:
    """Section 8: target and destination are the same: a neighbour after all."""
    place.via(6)
    assert place.tell(place.redirect(6, place.datagram(6), target=FAR[6]))
    assert place.via(6) is None
    asked = [packet[ICMPv6ND_NS].tgt for _, packet in place.segment.seen if ICMPv6ND_NS in packet]
    assert FAR[6] in asked


def test_the_quote_may_be_missing_in_ipv6(place: Place) -> None:
    place.via(6)
    assert place.tell(place.redirect(6, None))
    assert place.via(6) is place.better


@FAMILIES
def test_a_connection_is_moved(place: Place, family: int) -> None:
    segment = place.segment
    segment.host.connect(FAR[family])
    (syn,) = [packet for packet in segment.run() if TCP in packet]
    assert syn.dst == place.first.mac
    quoted = syn[IP if family == 4 else IPv6]
    wrong = quoted.copy()
    wrong[TCP].seq = (quoted[TCP].seq + 100_000) & 0xFFFFFFFF  # RFC 5927: not in flight
    assert not place.tell(place.redirect(family, wrong))
    wrong = quoted.copy()
    wrong[TCP].dport = 81
    assert not place.tell(place.redirect(family, wrong))
    assert place.tell(place.redirect(family, quoted))
    (again,) = [packet for packet in segment.run(1.5) if TCP in packet]
    assert again.dst == place.better.mac
    assert again[TCP].seq == syn[TCP].seq


@FAMILIES
def test_who_is_not_believed(place: Place, family: int) -> None:
    place.via(family)
    layer = IP if family == 4 else IPv6
    good = place.datagram(family)
    elsewhere = "192.0.2.99" if family == 4 else "2001:db8:ffff::99"

    def refused(packet: Packet) -> None:
        assert not place.tell(packet)
        assert place.rows() == []

    packet = place.redirect(family, good)
    packet[layer].src = place.better.ip4 if family == 4 else place.better.ip
    refused(packet)  # not the first hop
    refused(place.redirect(family, place.datagram(family, sport=701)))  # we have sent no such thing
    refused(place.redirect(family, place.datagram(family, src=elsewhere)))
    refused(place.redirect(family, good, target=OURS[family]))  # ourselves
    refused(place.redirect(family, good, target=place.first))  # nothing new
    if family == 6:
        refused(place.redirect(6, place.datagram(6, to=elsewhere)))  # quotes another destination
        refused(forge(place.redirect(6, good), hlim=254))
        refused(forge(place.redirect(6, good), src="2001:db8::1"))
        refused(place.redirect(6, good, target="2001:db8::1"))  # neither link-local nor the destination
        refused(place.redirect(6, None, to="ff0e::1"))
        bad = place.redirect(6, good)
        bad[ICMPv6ND_Redirect].code = 1
        refused(bad)
        refused(place.redirect(6, None) / Raw(bytes(8)))  # an option of length zero
    else:
        refused(place.redirect(4, good, target="192.0.2.77"))  # not on the link
        refused(place.redirect(4, good, target="10.1.0.255"))
        refused(place.redirect(4, good, target="224.0.0.1"))
        bad = place.redirect(4, good)
        bad[ICMP].code = 4
        refused(bad)
        refused(place.redirect(4, Raw(b"E")))
    assert place.via(family) is place.first


@pytest.mark.parametrize("flags", [0, lib.AMS_STACK_REDIRECTS6, lib.AMS_STACK_REDIRECTS4])
def test_only_those_that_are_asked_for(flags: int) -> None:
    with World() as world:
        base = lib.AMS_STACK_NO_DAD | lib.AMS_STACK_AUTOCONF
        place = Place(Segment(world, host(world, base | flags)))  # type: ignore[arg-type]
        for family, flag in ((4, lib.AMS_STACK_REDIRECTS4), (6, lib.AMS_STACK_REDIRECTS6)):
            place.via(family)
            assert place.tell(place.redirect(family, place.datagram(family))) == bool(flags & flag)


def test_a_flood_is_bounded(place: Place) -> None:
    """A first hop that redirects everything: a burst is heeded, then ten a second; the table has 256 places."""
    place.via(6)
    heeded = sum(place.tell(place.redirect(6, None, to=f"2001:db8:1::{number:x}")) for number in range(200))
    assert heeded == 32
    place.segment.run(1)
    assert place.tell(place.redirect(6, None, to="2001:db8:2::1"))
    assert len(place.rows()) == 33
