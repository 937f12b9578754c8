"""Addresses made of advertised prefixes (RFC 4862 section 5.5, RFC 7217) in virtual time."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)

from .routers import ALL_NODES, AUTOCONF, Router, Segment, prefix
from .world import Connection, World, endpoint, status_name

HOUR = 3600
FAR = "2001:db8:ffff::1"


def make_segment(world: World, *addresses: str, key: tuple[int, int] = (7, 8), seed: int = 1) -> Segment:
    host = world.host(*addresses, flags=AUTOCONF, autoconf_key=list(key), seed=[seed, 2])
    return Segment(world, host)


@pytest.fixture
def segment() -> Iterator[Segment]:
    with World() as world:
        yield make_segment(world)


@pytest.fixture
def router(segment: Segment) -> Router:
    return segment.router(0xA)


def the_address(segment: Segment) -> str:
    (row,) = segment.addresses()
    return row.address


def learn(**fields: int) -> str:
    """The address that a new host makes of 2001:db8:1::/64."""
    with World() as world:
        segment = make_segment(world, **fields)  # type: ignore[arg-type]
        segment.router(0xA).advertise(prefix("2001:db8:1::/64"))
        return the_address(segment)


def echo(segment: Segment, router: Router, address: str) -> bool:
    """True if the host answers a ping to an address."""
    router.send(IPv6(src=FAR, dst=address) / ICMPv6EchoRequest())
    return any(ICMPv6EchoReply in packet and packet[IPv6].src == address for packet in segment.run())


# ---- from prefix to address -----------------------------------------------------------------------------


def test_an_address_is_made_probed_and_used(segment: Segment, router: Router) -> None:
    assert lib.ams_stack_autoconf(segment.host.stack, segment.world.now) == lib.AMS_AUTOCONF_WAITING
    router.advertise(prefix("2001:db8:1::/64", valid=7 * 86400, preferred=86400))
    (row,) = segment.addresses()
    assert ipaddress.ip_address(row.address) in ipaddress.ip_network("2001:db8:1::/64")
    assert row.flags == lib.AMS_NET_LEARNED | lib.AMS_NET_TENTATIVE
    assert (row.length, row.valid, row.preferred) == (64, 7 * 86400.0, 86400.0)
    assert not echo(segment, router, row.address)
    segment.run(1)  # all hosts of the link got the same: each waits a random time
    (probe,) = [(at, packet) for at, packet in segment.seen if ICMPv6ND_NS in packet and packet[IPv6].src == "::"]
    assert probe[1][ICMPv6ND_NS].tgt == row.address
    assert lib.ams_stack_autoconf(segment.host.stack, segment.world.now) == lib.AMS_AUTOCONF_WAITING
    segment.run(1)
    assert lib.ams_stack_autoconf(segment.host.stack, segment.world.now) == lib.AMS_AUTOCONF_DONE
    assert the_address(segment) == row.address
    assert segment.addresses()[0].flags == lib.AMS_NET_LEARNED
    assert echo(segment, router, row.address)
    tell = [packet for _, packet in segment.seen if ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt == row.address]
    assert tell[0][IPv6].dst == "ff02::1"


def test_an_advertisement_for_us_alone_is_acted_upon_at_once(segment: Segment, router: Router) -> None:
    packet = router.advertisement(prefix("2001:db8:1::/64"))
    packet[IPv6].dst = next(row.address for row in segment.network(lib.AMS_NET_ADDRESS))
    router.send(packet)
    sent = segment.run()
    assert [probe[ICMPv6ND_NS].tgt for probe in sent if ICMPv6ND_NS in probe] == [the_address(segment)]


def test_the_identifier_is_stable_and_tells_nothing() -> None:
    """RFC 7217: the same for the same key and prefix, whatever the MAC; other ones otherwise."""
    assert learn(seed=1) == learn(seed=99)
    assert learn(key=(7, 9)) != learn(key=(7, 8))  # type: ignore[arg-type]
    with World() as world:
        segment = make_segment(world)
        segment.router(0xA).advertise(prefix("2001:db8:1::/64"), prefix("2001:db8:2::/64"))
        first, second = [int(ipaddress.ip_address(row.address)) & (1 << 64) - 1 for row in segment.addresses()]
        assert first != second
        assert f"{first:016x}"[6:10] != "fffe"  # no EUI-64 of the MAC


def test_prefixes_that_are_none_for_addresses(segment: Segment, router: Router) -> None:
    router.advertise(
        prefix("2001:db8:1::/64", flags="L"),
        prefix("fe80::/64"),
        prefix("2001:db8:2::/64", valid=100, preferred=101),
        prefix("2001:db8:3::/56"),
        prefix("2001:db8:4::/72"),
        prefix("2001:db8:5::/64", valid=0),
        prefix("ff02::/64"),
    )
    assert segment.addresses() == []


def test_a_host_with_addresses_of_its_own_gets_more() -> None:
    with World() as world:
        segment = make_segment(world, "10.1.0.1/24", "2001:db8:1::5/64")
        segment.router(0xA).advertise(prefix("2001:db8:1::/64"))
        segment.run(3)
        assert len(segment.addresses()) == 1
        assert len(segment.network(lib.AMS_NET_ADDRESS)) == 4


# ---- duplicates ------------------------------------------------------------------------------------------


def refuse(segment: Segment, router: Router, address: str) -> None:
    """Somebody else has the address."""
    packet = IPv6(src=address, dst=ALL_NODES[0], hlim=255) / ICMPv6ND_NA(tgt=address, R=0, S=0, O=1)
    router.send(packet / ICMPv6NDOptDstLLAddr(lladdr=router.mac), ALL_NODES[1])
    segment.run()


def test_a_duplicate_gives_way_to_another_identifier(segment: Segment, router: Router) -> None:
    router.advertise(prefix("2001:db8:1::/64"))
    first = the_address(segment)
    refuse(segment, router, first)
    assert segment.addresses() == []
    assert not lib.ams_stack_owns(segment.host.stack, endpoint(first))
    segment.run(3)
    second = the_address(segment)
    assert second != first
    assert segment.addresses()[0].flags == lib.AMS_NET_LEARNED
    assert segment.host.counters()["stack.dad_conflict"] == 1
    assert echo(segment, router, second)


def test_it_gives_up_after_three_retries(segment: Segment, router: Router) -> None:
    router.advertise(prefix("2001:db8:1::/64"))
    tried = []
    while rows := segment.addresses():
        tried.append(rows[0].address)
        refuse(segment, router, rows[0].address)
        segment.run(1.1)
    assert len(set(tried)) == len(tried) == 4  # RFC 7217 section 6: IDGEN_RETRIES
    segment.run(60)
    assert segment.addresses() == []
    assert lib.ams_stack_autoconf(segment.host.stack, segment.world.now) == lib.AMS_AUTOCONF_DONE
    router.advertise(prefix("2001:db8:1::/64"))
    segment.run(60)
    assert segment.addresses() == []


# ---- lifetimes ---------------------------------------------------------------------------------------------


def test_deprecated_then_gone(segment: Segment, router: Router) -> None:
    router.advertise(prefix("2001:db8:1::/64", valid=300, preferred=100), prefix("2001:db8:2::/64"), lifetime=9000)
    segment.run(3)
    old, new = [row.address for row in segment.addresses()]
    assert source(segment, "2001:db8:1::99") == old
    segment.run(98)
    assert [row.flags & lib.AMS_NET_DEPRECATED for row in segment.addresses()] == [lib.AMS_NET_DEPRECATED, 0]
    assert source(segment, "2001:db8:1::99") == new  # RFC 6724 section 5, rule 3
    assert echo(segment, router, old)
    segment.run(200)
    assert the_address(segment) == new
    assert not echo(segment, router, old)


def source(segment: Segment, to: str) -> str:
    """The address that a connection to `to` would come from."""
    host = segment.host
    id_ = int(lib.ams_udp_open(host.stack, ffi.NULL, endpoint(to, 9), 0))
    assert id_ >= 0, status_name(id_)
    host.connections[id_] = Connection(host, id_)
    out = ffi.new("struct ams_endpoint *")
    assert lib.ams_udp_local(host.stack, id_, out) == 0
    assert lib.ams_udp_close(host.stack, id_) == 1
    del host.connections[id_]
    return str(ipaddress.IPv6Address(bytes(ffi.buffer(out.ip, 16))))


@pytest.mark.parametrize(
    ("remaining", "told", "becomes"),
    [
        (86400, 8 * HOUR, 8 * HOUR),  # more than two hours: as told
        (86400, 60, 2 * HOUR),  # less can't be told by somebody who isn't known
        (HOUR, 60, HOUR),
        (HOUR, HOUR + 60, HOUR + 60),  # but more
        (86400, 0, 2 * HOUR),
    ],
)
def test_lifetimes_cannot_be_cut_below_two_hours(
    segment: Segment, router: Router, remaining: int, told: int, becomes: int
) -> None:
    router.advertise(prefix("2001:db8:1::/64", valid=remaining))
    router.advertise(prefix("2001:db8:1::/64", valid=told, preferred=0))
    (row,) = segment.addresses()
    assert row.valid == becomes
    assert row.flags & lib.AMS_NET_DEPRECATED  # the preferred lifetime follows at once
    router.advertise(prefix("2001:db8:1::/64", valid=remaining))
    assert not segment.addresses()[0].flags & lib.AMS_NET_DEPRECATED


def test_for_ever(segment: Segment, router: Router) -> None:
    router.advertise(prefix("2001:db8:1::/64", valid=0xFFFFFFFF), lifetime=9000)
    segment.run(10 * 86400)
    (row,) = segment.addresses()
    assert (row.valid, row.preferred) == (None, None)
    assert segment.network(lib.AMS_NET_PREFIX)[0].valid is None


# ---- endpoints on addresses that come and go --------------------------------------------------------------------


def handshake(segment: Segment, router: Router, to: str, sport: int = 1000) -> bool:
    """True if a SYN to port 80 of an address is answered by a SYN-ACK; the handshake is completed then."""
    router.send(IPv6(src=FAR, dst=to) / TCP(sport=sport, dport=80, flags="S", seq=1))
    answers = [packet for packet in segment.run() if TCP in packet and packet[TCP].flags == "SA"]
    for answer in answers:
        router.send(IPv6(src=FAR, dst=to) / TCP(sport=sport, dport=80, flags="A", seq=2, ack=answer[TCP].seq + 1))
    segment.run()
    return bool(answers)


def test_a_wildcard_listener_accepts_on_it(segment: Segment, router: Router) -> None:
    segment.host.listen("::")
    router.advertise(prefix("2001:db8:1::/64"))
    segment.run(3)
    assert handshake(segment, router, the_address(segment))
    assert len(segment.host.accepted) == 1


def test_connections_end_with_their_address(segment: Segment, router: Router) -> None:
    segment.host.listen("::")
    router.advertise(prefix("2001:db8:1::/64", valid=100), prefix("2001:db8:2::/64"))
    segment.run(3)
    old, new = [row.address for row in segment.addresses()]
    assert handshake(segment, router, old)
    assert handshake(segment, router, new)
    out = segment.host.connect(FAR)  # from the first one: they match its destination alike
    segment.run(100)
    first, second = segment.host.accepted
    assert (first.closed, out.closed) == ("EADDRNOTAVAIL", "EADDRNOTAVAIL")
    assert second.closed is None
    for connection in (first, out):
        connection.close()
    assert the_address(segment) == new
    assert not handshake(segment, router, old, 1001)


def test_what_is_bound_to_it_lives_on(segment: Segment, router: Router) -> None:
    """The listener keeps its tuple while the address is gone, and serves again when it comes back."""
    router.advertise(prefix("2001:db8:1::/64", valid=100))
    segment.run(3)
    address = the_address(segment)
    listener = segment.host.listen(address)
    segment.run(100)
    (row,) = segment.addresses()
    assert (row.address, row.flags) == (address, lib.AMS_NET_LEARNED | lib.AMS_NET_INVALID)
    assert not lib.ams_stack_owns(segment.host.stack, endpoint(address))
    status = lib.ams_tcp_listen(segment.host.stack, endpoint(address, 81), 1, 0)
    assert status_name(status) == "EADDRNOTAVAIL"
    assert not handshake(segment, router, address)
    router.advertise(prefix("2001:db8:1::/64", valid=100))
    segment.run(3)
    assert the_address(segment) == address
    assert handshake(segment, router, address, 1001)
    segment.run(100)
    assert lib.ams_tcp_close(segment.host.stack, listener) == 1
    (connection,) = segment.host.accepted
    assert connection.closed == "EADDRNOTAVAIL"
    assert len(segment.addresses()) == 1
    connection.close()
    segment.run(1)
    assert segment.addresses() == []  # nobody is bound to it any more: its place is free


def test_addresses_that_come_and_go_leave_nothing(segment: Segment, router: Router) -> None:
    router.advertise(prefix("2001:db8:1::/64", valid=10))
    segment.run(15)
    before = lib.ams_stack_memory(segment.host.stack)
    for number in range(100):
        router.advertise(prefix(f"2001:db8:{number:x}::/64", valid=5))
        segment.run(6)
    assert segment.addresses() == []
    assert lib.ams_stack_memory(segment.host.stack) <= before + 4096
    assert len(segment.network(lib.AMS_NET_ADDRESS)) == 1


# ---- before there is an address -------------------------------------------------------------------------------------


def test_a_connect_before_the_address_fails_at_once(segment: Segment, router: Router) -> None:
    """A link-local address is no source for what a router would have to forward."""
    def status() -> str:
        return status_name(lib.ams_tcp_connect(segment.host.stack, ffi.NULL, endpoint(FAR, 80), segment.world.now))

    assert status() == "ENETUNREACH"
    router.advertise(prefix("2001:db8:1::/64"))
    assert status() == "EADDRNOTAVAIL"  # it is being probed
    segment.run(2)
    connection = segment.host.connect(FAR)
    (syn,) = [packet for packet in segment.run() if TCP in packet]
    assert syn[IPv6].src == the_address(segment)
    connection.abort()


def test_when_nobody_answers_it_is_done(segment: Segment) -> None:
    def state() -> int:
        return int(lib.ams_stack_autoconf(segment.host.stack, segment.world.now))

    assert state() == lib.AMS_AUTOCONF_WAITING
    segment.run(8)
    assert state() == lib.AMS_AUTOCONF_WAITING
    segment.run(9)
    assert state() == lib.AMS_AUTOCONF_DONE


def test_without_any_address_there_must_be_autoconf() -> None:
    with World() as world, pytest.raises(AssertionError):
        world.host()
