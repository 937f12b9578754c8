"""Router discovery (RFC 4861 section 6.3) in virtual time, with routers made of scapy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6Unknown,
    IPv6,
    fragment6,
)
from scapy.layers.inet6 import IPv6ExtHdrFragment as Fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from .routers import ALL_NODES, AUTOCONF, Router, Segment, forge, mtu, prefix
from .world import SECOND, Connection, World, endpoint, status_name

FAR = "2001:db8:ffff::1"


@pytest.fixture
def segment() -> Iterator[Segment]:
    with World() as world:
        yield Segment(world, world.host("fd01::1/64", flags=AUTOCONF))


def udp(segment: Segment, to: str = FAR) -> str:
    """Sends a datagram; the name of the status."""
    host = segment.host
    id_ = int(lib.ams_udp_open(host.stack, endpoint("fd01::1", 0), ffi.NULL, 0))
    assert id_ >= 0, status_name(id_)
    status = lib.ams_udp_send(host.stack, id_, endpoint(to, 9), b"x", 1, segment.world.now)
    host.connections[id_] = Connection(host, id_)
    return status_name(status)


# ---- solicitations -------------------------------------------------------------------------------------


def test_routers_are_asked_for_at_growing_intervals(segment: Segment) -> None:
    segment.run(20_000)
    asked = segment.solicitations()
    first = asked[0][1]
    assert first[IPv6].dst == "ff02::2"
    assert first.dst == "33:33:00:00:00:02"
    assert first[IPv6].hlim == 255
    assert first[ICMPv6NDOptSrcLLAddr].lladdr == segment.mac
    assert first[IPv6].src.startswith("fe80::")
    gaps = [(later[0] - sooner[0]) / SECOND for sooner, later in itertools.pairwise(asked)]
    assert 3.6 <= gaps[0] <= 4.41  # RFC 7559 section 2.1
    for sooner, later in itertools.pairwise(gaps):
        assert 1.89 * sooner <= later <= 2.11 * sooner or 3240 <= later <= 3970
    assert max(gaps) > 3200


def test_an_answer_ends_the_search(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise()
    count = len(segment.solicitations())
    segment.run(1000)
    assert len(segment.solicitations()) == count
    assert segment.current() == router.ip
    segment.run(801)  # its lifetime was half an hour
    assert segment.current() is None
    assert len(segment.solicitations()) > count


def test_a_router_that_is_none_is_searched_on(segment: Segment) -> None:
    segment.router(0xA).advertise(lifetime=0)
    count = len(segment.solicitations())
    segment.run(30)
    assert len(segment.solicitations()) > count


def test_the_source_is_unspecified_until_there_is_one() -> None:
    with World() as world:
        wire = world.wire()
        world.host("fd01::1/64", flags=lib.AMS_STACK_AUTOCONF)  # its link-local address is being probed
        world.settle()
        (asked,) = [packet for packet in map(Ether, (data for _, data in wire.frames)) if ICMPv6ND_RS in packet]
        assert asked[IPv6].src == "::"
        assert ICMPv6NDOptSrcLLAddr not in asked


def test_nothing_is_learnt_unasked() -> None:
    with World() as world:
        segment = Segment(world, world.host("fd01::1/64"))
        assert segment.solicitations() == []
        segment.router(0xA).advertise(prefix("2001:db8:1::/64"))
        segment.run(5)
        assert segment.current() is None
        assert segment.addresses() == []
        assert segment.host.counters()["stack.router_advert_rx"] == 1
        assert udp(segment) == "ENETUNREACH"
        assert lib.ams_stack_autoconf(segment.host.stack, segment.world.now) == lib.AMS_AUTOCONF_OFF


# ---- validity (section 6.1.2) -----------------------------------------------------------------------------


def test_advertisements_that_are_refused(segment: Segment) -> None:
    router = segment.router(0xA)

    def refused(packet: IPv6) -> None:
        before = segment.host.counters()["stack.router_advert_bad"]
        router.send(packet, ALL_NODES[1])
        segment.run()
        assert segment.host.counters()["stack.router_advert_bad"] == before + 1
        assert segment.current() is None

    refused(forge(router.advertisement(), hlim=254))  # a router has forwarded it
    refused(forge(router.advertisement(), src="2001:db8::1"))
    refused(router.advertisement(code=1))
    zero = router.advertisement() / Raw(b"\x05\x00\x00\x00\x00\x00\x05\xdc")  # an option of length zero
    refused(zero)
    short = router.advertisement() / Raw(b"\x05\x02\x00\x00\x00\x00\x05\xdc")  # one that is longer than the packet
    refused(short)
    refused(IPv6(src=router.ip, dst=ALL_NODES[0], hlim=255) / ICMPv6Unknown(type=134, msgbody=bytes(8)))
    router.advertise()
    assert segment.current() == router.ip


def test_advertisements_in_fragments_are_refused(segment: Segment) -> None:
    """RFC 6980 section 5."""
    router = segment.router(0xA)
    whole = router.advertisement(Raw(bytes([200, 180]) + bytes(180 * 8 - 2)))  # a long option that nobody knows
    packet = IPv6(src=whole.src, dst=whole.dst, hlim=255) / Fragment(id=7) / whole[ICMPv6ND_RA]
    pieces = fragment6(packet, 1280)
    assert len(pieces) > 1
    for piece in pieces:
        router.send(piece, ALL_NODES[1])
    segment.run()
    assert segment.host.counters()["stack.frag_done"] == 1
    assert segment.host.counters()["stack.router_advert_bad"] == 1
    assert segment.current() is None


# ---- the list (section 6.3.4), and whom to choose (6.3.6) ------------------------------------------------


def test_packets_go_to_the_router(segment: Segment) -> None:
    router = segment.router(0xA)
    assert udp(segment) == "ENETUNREACH"
    router.advertise()
    assert udp(segment) == "OK"
    sent = segment.run()
    assert router.forwards(FAR) == 1
    assert not [packet for packet in sent if ICMPv6ND_NS in packet]  # its MAC came with the advertisement


def test_a_router_that_does_not_tell_its_mac_is_asked(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise(lladdr=False)
    assert udp(segment) == "OK"
    sent = segment.run()
    assert [packet[ICMPv6ND_NS].tgt for packet in sent if ICMPv6ND_NS in packet] == [router.ip]
    assert router.forwards(FAR) == 1


def test_preferences(segment: Segment) -> None:
    """RFC 4191 section 2.1: 01 high, 00 medium, 11 low, 10 is taken for medium."""
    low, medium, high = (segment.router(number) for number in (0xA, 0xB, 0xC))
    low.advertise(prf=3)
    assert segment.current() == low.ip
    medium.advertise(prf=2)
    assert segment.current() == medium.ip
    high.advertise(prf=1)
    assert segment.current() == high.ip
    high.advertise(prf=1, lifetime=0)
    assert segment.current() == medium.ip
    medium.advertise(prf=3)
    assert segment.current() == low.ip  # alike: who was first


def test_a_router_that_resigns(segment: Segment) -> None:
    """Section 7.2.5: its advertisement as a neighbour has no R flag any more."""
    router = segment.router(0xA)
    router.advertise()
    tell = IPv6(src=router.ip, dst=ALL_NODES[0], hlim=255) / ICMPv6ND_NA(tgt=router.ip, R=1, O=1)
    router.send(tell / ICMPv6NDOptDstLLAddr(lladdr=router.mac), ALL_NODES[1])
    segment.run()
    assert segment.current() == router.ip
    tell[ICMPv6ND_NA].R = 0
    router.send(tell / ICMPv6NDOptDstLLAddr(lladdr=router.mac), ALL_NODES[1])
    segment.run()
    assert segment.current() is None


@pytest.mark.parametrize("lladdr", [True, False], ids=["mac known", "mac unknown"])
def test_a_dead_router_is_left_for_another(segment: Segment, lladdr: bool) -> None:
    dead, live = segment.router(0xA, answers=False), segment.router(0xB)
    dead.advertise(prf=1, lladdr=lladdr)
    live.advertise()
    assert udp(segment) == "OK"
    segment.run(20)  # DELAY, three probes, or three solicitations
    assert segment.current() == live.ip
    if not lladdr:  # what waited for the first one's MAC wasn't lost
        assert live.forwards(FAR) == 1
    sent = live.forwards(FAR)
    assert udp(segment) == "OK"
    segment.run(1)
    assert live.forwards(FAR) == sent + 1
    dead.answers = True
    dead.advertise(prf=1)  # it is back
    assert segment.current() == dead.ip


def test_when_all_are_dead_they_take_turns(segment: Segment) -> None:
    routers = [segment.router(number, answers=False) for number in (0xA, 0xB)]
    for router in routers:
        router.advertise(lladdr=False)
    asked = []
    for _ in range(4):
        asked.append(segment.current())
        udp(segment)
        segment.run(3.5)
    assert asked == [routers[0].ip, routers[1].ip, routers[0].ip, routers[1].ip]


def test_a_configured_gateway_goes_first() -> None:
    with World() as world:
        segment = Segment(world, world.host("fd01::1/64", flags=AUTOCONF, gateway6=endpoint("fe80::b")[0]))
        learned, configured = segment.router(0xA), segment.router(0xB)
        learned.advertise(prf=1)
        assert segment.current() == configured.ip
        assert udp(segment) == "OK"
        segment.run()
        assert configured.forwards(FAR) == 1


def test_the_list_is_bounded(segment: Segment) -> None:
    """Eight routers; more are not listened to, unless they are wanted more or others are dead."""
    first = segment.router(1)
    first.advertise()
    for number in range(2, 200):
        segment.router(number).advertise(lladdr=False)
    assert len(segment.network(lib.AMS_NET_ROUTER)) == 8
    assert segment.current() == first.ip
    assert segment.host.counters()["stack.router_full"] == 191
    segment.router(200).advertise(prf=3)
    assert "fe80::c8" not in {row.address for row in segment.network(lib.AMS_NET_ROUTER)}
    segment.router(201).advertise(prf=1)
    assert segment.current() == "fe80::c9"
    assert len(segment.network(lib.AMS_NET_ROUTER)) == 8


# ---- what is on the link -----------------------------------------------------------------------------------


def test_prefixes_on_the_link(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise(prefix("2001:db8:1::/64", valid=100, flags="L"))
    (row,) = segment.network(lib.AMS_NET_PREFIX)
    assert (row.address, row.length, row.valid) == ("2001:db8:1::", 64, 100.0)
    assert udp(segment, "2001:db8:1::9") == "OK"
    sent = segment.run()
    assert [packet[ICMPv6ND_NS].tgt for packet in sent if ICMPv6ND_NS in packet] == ["2001:db8:1::9"]
    router.advertise(prefix("2001:db8:1::/64", valid=0, flags=""))  # says nothing of the link
    assert len(segment.network(lib.AMS_NET_PREFIX)) == 1
    segment.run(101)
    assert segment.network(lib.AMS_NET_PREFIX) == []
    udp(segment, "2001:db8:1::8")
    segment.run()
    assert router.forwards("2001:db8:1::8") == 1
    router.advertise(prefix("2001:db8:2::/64", flags="L"), prefix("fe80::/64", flags="L"))
    assert [row.address for row in segment.network(lib.AMS_NET_PREFIX)] == ["2001:db8:2::"]
    router.advertise(prefix("2001:db8:2::/64", flags="L", valid=0))
    assert segment.network(lib.AMS_NET_PREFIX) == []


def test_prefixes_are_bounded(segment: Segment) -> None:
    router = segment.router(0xA)
    for base in range(0, 80, 40):
        router.advertise(*[prefix(f"2001:db8:{number:x}::/64") for number in range(base, base + 40)])
    assert len(segment.network(lib.AMS_NET_PREFIX)) == 16
    assert len(segment.addresses()) == 16
    assert segment.host.counters()["stack.router_full"] == 2 * (80 - 16)


# ---- parameters ------------------------------------------------------------------------------------------------


def reply_hop_limit(segment: Segment, router: Router) -> int:
    router.send(IPv6(src=FAR, dst="fd01::1") / ICMPv6EchoRequest())
    return next(packet[IPv6].hlim for packet in segment.run() if packet[IPv6].dst == FAR)


def test_the_hop_limit(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise()
    assert reply_hop_limit(segment, router) == 64
    router.advertise(chlim=200)
    assert reply_hop_limit(segment, router) == 200
    router.advertise(chlim=1)  # would cut us off: not believed
    assert reply_hop_limit(segment, router) == 200


def test_the_mtu(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise()

    def longest() -> int:
        router.send(IPv6(src=FAR, dst="fd01::1") / ICMPv6EchoRequest(data=bytes(1400)))
        return max(len(packet[IPv6]) for packet in segment.run() if packet[IPv6].dst == FAR)

    assert longest() == 1448
    router.advertise(mtu(1300))
    assert longest() <= 1300
    router.advertise(mtu(1279))  # less than IPv6 needs
    router.advertise(mtu(9000))  # more than the link has
    assert 1280 < longest() <= 1300
    router.advertise(mtu(1500))
    assert longest() == 1448


def test_reachable_time_and_retransmissions(segment: Segment) -> None:
    router = segment.router(0xA)
    router.advertise(reachabletime=2000, retranstimer=200)
    udp(segment, "fd01::99")
    segment.run(2)
    asked = [at for at, packet in segment.seen if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == "fd01::99"]
    assert len(asked) == 3
    assert all(0.2 <= (b - a) / SECOND <= 0.21 for a, b in itertools.pairwise(asked))
    router.advertise(retranstimer=1)  # held at 100 ms
    udp(segment, "fd01::98")
    segment.run(2)
    asked = [at for at, packet in segment.seen if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == "fd01::98"]
    assert all(0.1 <= (b - a) / SECOND <= 0.11 for a, b in itertools.pairwise(asked))


# ---- floods ---------------------------------------------------------------------------------------------------------


def test_a_flood_leaves_the_host_as_it_was(segment: Segment) -> None:
    """Two hundred advertisements from as many sources: memory stays, and the true router stays in use."""
    true = segment.router(0xA)
    true.advertise(prefix("2001:db8:1::/64"), prf=1)
    segment.run(5)
    (address,) = [row.address for row in segment.addresses()]
    before = lib.ams_stack_memory(segment.host.stack)
    for number in range(200):
        false = Router(segment, 0x1000 + number)
        false.mac = "02:00:00:00:ee:01"
        packet = false.advertisement(prefix(f"2001:db8:{number + 2:x}::/64"), chlim=1, retranstimer=1)
        false.send(packet, ALL_NODES[1])
        if number % 100 == 0:
            segment.run()
    segment.run(10)
    assert segment.current() == true.ip
    assert address in {row.address for row in segment.addresses()}
    assert len(segment.network(lib.AMS_NET_ROUTER)) == 8
    assert lib.ams_stack_memory(segment.host.stack) - before < 100_000
    udp(segment)
    segment.run(1)
    assert true.forwards(FAR) == 1
