"""Traffic classes and hop limits that the application chooses (ip(7), ipv6(7)), by packet scripts.

What Linux's packets have is proved by tests/requirements/linux/segments_have_their_socket_s_class.py, what its options
take by tests/loop/test_ip_options.py, where its sockets have the same tests as ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether

from .routers import AUTOCONF, Segment
from .script import MS, SECOND, Script
from .world import Connection, Host, World, endpoint, status_name

TOS, TTL, TCLASS, HOPS = lib.AMS_OPT_TOS, lib.AMS_OPT_TTL, lib.AMS_OPT_TCLASS, lib.AMS_OPT_HOPS
LISTENER = 0  # the first id
EF, AF21 = 0xB8, 0x48  # RFC 3246, RFC 2597
ECT0, CE = 2, 3
BOTH = pytest.mark.parametrize("v6", [False, True])


def of(segment: Any) -> tuple[int, int]:
    """Traffic class and hop limit of the packet that a segment came in."""
    network = segment.underlayer
    return (network.tc, network.hlim) if isinstance(network, IPv6) else (network.tos, network.ttl)


def tcp_set(s: Script, id_: int, option: int, value: int) -> str:
    return status_name(lib.ams_tcp_setopt(s.host.stack, id_, option, value))


def tcp_get(s: Script, id_: int, option: int) -> int:
    out = ffi.new("int *")
    assert lib.ams_tcp_getopt(s.host.stack, id_, option, out) == 0
    return int(out[0])


def choose(s: Script, id_: int, tos: int, hops: int) -> None:
    """Sets both for the network that the script is about."""
    assert tcp_set(s, id_, TCLASS if s.v6 else TOS, tos) == "OK"
    assert tcp_set(s, id_, HOPS if s.v6 else TTL, hops) == "OK"


# ---- TCP: what carries them --------------------------------------------------------------------------------------


@BOTH
def test_a_listener_gives_them_to_its_connections(v6: bool) -> None:
    with Script(v6=v6) as s:
        choose(s, LISTENER, EF, 9)
        s.syn(tos=AF21)
        assert of(s.expect("SA", ack=1)) == (EF, 9)
        assert of(s.expect("SA", ack=1, after=SECOND)) == (EF, 9)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        s.send("PA", seq=1, ack=1, data=b"request", tos=AF21)
        assert of(s.expect("A", ack=8)) == (EF, 9)
        connection.send(b"response")
        assert of(s.expect("PA", data=b"response")) == (EF, 9)
        s.wait(5 * SECOND)
        assert of(s.expect("PA", data=b"response")) == (EF, 9)  # again
        s.drain()
        s.send("A", seq=8, ack=9)
        choose(s, LISTENER, 0, 64)  # too late for this one
        connection.close()
        assert of(s.expect("FA")) == (EF, 9)
        s.send("FA", seq=8, ack=10)
        assert of(s.expect("A", ack=9)) == (EF, 9)


@BOTH
def test_time_wait_keeps_the_traffic_class_only(v6: bool) -> None:
    with Script(v6=v6) as s:
        choose(s, LISTENER, EF, 9)
        connection = s.open()
        connection.close()
        s.expect("FA")
        s.send("FA", seq=1, ack=2, tos=AF21)
        s.expect("A", ack=2)
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.send("FA", seq=1, ack=2, tos=AF21)
        assert of(s.expect("A", ack=2)) == (EF, 64)


@BOTH
def test_a_client_has_them_from_its_syn_on(v6: bool) -> None:
    with Script(v6=v6, listen=None) as s:
        connection = s.connect()
        choose(s, connection.id, EF, 255)
        assert of(s.expect("S")) == (EF, 255)
        assert of(s.expect("S", after=SECOND)) == (EF, 255)
        s.send("SA", seq=0, ack=1)
        assert of(s.expect("A", ack=1)) == (EF, 255)


@BOTH
def test_the_next_segment_has_what_is_changed(v6: bool) -> None:
    with Script(v6=v6) as s:
        connection = s.open()
        connection.send(b"a")
        assert of(s.expect("PA")) == (0, 64)
        s.send("A", seq=1, ack=2)
        choose(s, connection.id, AF21, 1)
        connection.send(b"b")
        assert of(s.expect("PA")) == (AF21, 1)
        s.send("A", seq=1, ack=3)
        choose(s, connection.id, 0, -1)
        connection.send(b"c")
        assert of(s.expect("PA")) == (0, 64)


@BOTH
def test_super_frames_have_them(v6: bool) -> None:
    with Script(v6=v6, offload=True) as s:
        choose(s, LISTENER, EF, 9)
        connection = s.open(mss=1000, win=60_000)
        connection.send(b"x" * 9000)
        segment = s.expect("PA")
        assert len(segment.payload) > 2000
        assert of(segment) == (EF, 9)


@BOTH
def test_cookies_have_the_listeners(v6: bool) -> None:
    with Script(v6=v6, syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        choose(s, LISTENER, EF, 9)
        s.syn(tos=AF21)
        assert of(s.expect("SA", ack=1)) == (EF, 9)
        s.send("A", seq=1, ack=1)
        s.accepted().send(b"x")
        assert of(s.expect("PA")) == (EF, 9)


@BOTH
def test_an_abort_has_them(v6: bool) -> None:
    with Script(v6=v6) as s:
        choose(s, LISTENER, EF, 9)
        s.open().abort()
        assert of(s.expect("RA")) == (EF, 9)


@BOTH
def test_who_is_refused_gets_the_class_of_what_it_sent(v6: bool) -> None:
    """Without the ECN bits, which speak of a packet's way here."""
    with Script(v6=v6) as s:
        choose(s, LISTENER, EF, 9)
        s.local_port = 81
        for tos in (AF21, AF21 | CE):
            s.syn(tos=tos)
            assert of(s.expect("RA")) == (AF21, 64)
        s.local_port = 80
        s.open().close()
        s.expect("FA")
        s.send("PA", seq=1, ack=2, data=b"too late", tos=AF21 | CE)
        assert of(s.expect("R")) == (AF21, 64)


@BOTH
def test_the_ecn_bits_are_tcps(v6: bool) -> None:
    with Script(v6=v6) as s:
        option = TCLASS if v6 else TOS
        assert tcp_set(s, LISTENER, option, EF | CE) == "OK"
        assert tcp_get(s, LISTENER, option) == EF
        s.syn(flags="SEC")
        assert of(s.expect("SAE", ack=1)) == (EF, 64)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        connection.send(b"x")
        assert of(s.expect("PA")) == (EF | ECT0, 64)
        assert tcp_set(s, connection.id, option, AF21 | CE) == "OK"
        s.send("PA", seq=1, ack=2, data=b"y", tos=EF | CE)
        assert of(s.expect("AE")) == (AF21, 64)
        assert tcp_get(s, connection.id, option) == AF21


@BOTH
def test_the_other_networks_are_kept_and_not_used(v6: bool) -> None:
    with Script(v6=v6) as s:
        for option, value in ((TOS, 0x20), (TTL, 20), (TCLASS, 0x60), (HOPS, 60)):
            assert tcp_set(s, LISTENER, option, value) == "OK"
        connection = s.open()
        connection.send(b"x")
        assert of(s.expect("PA")) == ((0x60, 60) if v6 else (0x20, 20))
        assert [tcp_get(s, connection.id, option) for option in (TOS, TTL, TCLASS, HOPS)] == [0x20, 20, 0x60, 60]


@BOTH
def test_a_listener_for_both_networks(v6: bool) -> None:
    with Script(v6=v6, listen=None) as s:
        id_ = lib.ams_tcp_listen(s.host.stack, endpoint("::", 80), 1, 0)
        s.local_port = 80
        for option, value in ((TOS, 0x20), (TTL, 20), (TCLASS, 0x60), (HOPS, 60)):
            assert tcp_set(s, id_, option, value) == "OK"
        s.syn()
        assert of(s.expect("SA", ack=1)) == ((0x60, 60) if v6 else (0x20, 20))


def test_a_hop_limit_of_nothing_is_ipv6s() -> None:
    with Script(v6=True) as s:
        choose(s, LISTENER, 0, 0)
        s.syn()
        assert of(s.expect("SA", ack=1)) == (0, 0)


def test_the_default_is_what_routers_say() -> None:
    with World() as world:
        host = world.host("fd01::1/64", flags=AUTOCONF)
        segment = Segment(world, host)
        segment.run()
        id_ = host.listen("::")
        segment.router(0xA).advertise(chlim=200)
        out = ffi.new("int *")
        for value, got in ((-1, 200), (7, 7), (-1, 200)):
            assert lib.ams_tcp_setopt(host.stack, id_, HOPS, value) == 0
            assert lib.ams_tcp_getopt(host.stack, id_, HOPS, out) == 0
            assert out[0] == got


# ---- what the options take ---------------------------------------------------------------------------------------

#: Option, value, and what it is then: TCP's, UDP's; None: refused.
VALUES = [
    (TOS, 0, 0, 0), (TOS, EF, EF, EF), (TOS, 255, 252, 255), (TOS, 256, 0, 0), (TOS, -1, 252, 255),
    (TTL, 1, 1, 1), (TTL, 255, 255, 255), (TTL, -1, 64, 64),
    (TTL, 0, None, None), (TTL, 256, None, None), (TTL, -2, None, None),
    (TCLASS, -1, 0, 0), (TCLASS, 0, 0, 0), (TCLASS, 255, 252, 255), (TCLASS, -2, None, None), (TCLASS, 256, None, None),
    (HOPS, -1, 64, 64), (HOPS, 0, 0, 0), (HOPS, 255, 255, 255), (HOPS, -2, None, None), (HOPS, 256, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value", "tcp", "udp"), VALUES)
def test_what_is_taken(option: int, value: int, tcp: int | None, udp: int | None) -> None:
    with Script() as s:
        stack = s.host.stack
        socket = lib.ams_udp_open(stack, endpoint("10.1.0.1", 53), ffi.NULL, 0)
        connection = s.open().id
        out = ffi.new("int *")
        for set_, get, id_, expected in (
            (lib.ams_tcp_setopt, lib.ams_tcp_getopt, LISTENER, tcp),
            (lib.ams_tcp_setopt, lib.ams_tcp_getopt, connection, tcp),
            (lib.ams_udp_setopt, lib.ams_udp_getopt, socket, udp),
        ):
            assert set_(stack, id_, option, 12) == 0
            assert status_name(set_(stack, id_, option, value)) == ("EINVAL" if expected is None else "OK")
            assert get(stack, id_, option, out) == 0
            assert out[0] == (12 if expected is None else expected)


# ---- UDP ---------------------------------------------------------------------------------------------------------


class Pair:
    """Two hosts with a UDP endpoint each, and all that crosses the link between them."""

    def __init__(self, v6: bool) -> None:
        self.world = World(offload=False)
        self.v6 = v6
        self.names = ["fd01::1", "fd01::2"] if v6 else ["10.1.0.1", "10.1.0.2"]
        self.hosts: list[Host] = [self.world.host(f"{name}/{64 if v6 else 24}") for name in self.names]
        self.wire = self.world.wire(monitor=True)
        self.ids = [
            lib.ams_udp_open(host.stack, endpoint(name, 5000), ffi.NULL, 0)
            for host, name in zip(self.hosts, self.names, strict=True)
        ]
        for host, id_ in zip(self.hosts, self.ids, strict=True):
            host.connections[id_] = Connection(host, id_)  # takes its events
        self.send(b"who are you")
        self.receive()
        self.wire.frames.clear()

    def set(self, option: int, value: int) -> None:
        assert lib.ams_udp_setopt(self.hosts[0].stack, self.ids[0], option, value) == 0

    def send(self, data: bytes, to: str | None = None) -> None:
        target = endpoint(to or self.names[1], 5000)
        assert lib.ams_udp_send(self.hosts[0].stack, self.ids[0], target, data, len(data), self.world.now) == 0
        self.world.run(10 * MS)

    def receive(self) -> tuple[int, int]:
        """Takes a datagram; its traffic class and hop limit."""
        buffer, out = ffi.new("char[]", 65536), ffi.new("int *")
        stack, id_ = self.hosts[1].stack, self.ids[1]
        assert lib.ams_udp_recv(stack, id_, ffi.NULL, buffer, 65536) > 0
        values = []
        for option in (lib.AMS_UDP_RECEIVED_TOS, lib.AMS_UDP_RECEIVED_HOPS):
            assert lib.ams_udp_getopt(stack, id_, option, out) == 0
            assert status_name(lib.ams_udp_setopt(stack, id_, option, 0)) == "ENOPROTOOPT"
            values.append(out[0])
        return values[0], values[1]

    def sent(self) -> list[tuple[int, int]]:
        """Traffic class and hop limit of each packet since the last call."""
        frames, self.wire.frames = self.wire.frames, []
        packets = [Ether(raw)[IPv6 if self.v6 else IP] for _, raw in frames]
        return [
            (packet.tc, packet.hlim) if self.v6 else (packet.tos, packet.ttl)
            for packet in packets
            if UDP in packet or IPv6ExtHdrFragment in packet or getattr(packet, "frag", 0)
        ]


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(request.param)
    yield made
    made.world.close()


def test_datagrams_have_them_ecn_bits_included(pair: Pair) -> None:
    tos, ttl = (TCLASS, HOPS) if pair.v6 else (TOS, TTL)
    for wanted in ((EF | CE, 9), (1, 255), (0, 64)):
        pair.set(tos, wanted[0])
        pair.set(ttl, -1 if wanted[1] == 64 else wanted[1])
        pair.send(b"datagram")
        assert pair.sent() == [wanted]
        assert pair.receive() == wanted


def test_each_fragment_has_them(pair: Pair) -> None:
    pair.set(TCLASS if pair.v6 else TOS, AF21 | ECT0)
    pair.set(HOPS if pair.v6 else TTL, 3)
    pair.send(b"x" * 4000)
    assert pair.sent() == [(AF21 | ECT0, 3)] * 3
    assert pair.receive() == (AF21 | ECT0, 3)


def test_groups_have_a_hop_limit_of_their_own(pair: Pair) -> None:
    pair.set(TCLASS if pair.v6 else TOS, EF)
    pair.set(HOPS if pair.v6 else TTL, 77)
    group = "ff05::99" if pair.v6 else "239.1.1.1"
    pair.send(b"to a group", group)
    assert pair.sent() == [(EF, 1)]
    pair.set(lib.AMS_UDP_MULTICAST_HOPS, 5)
    pair.send(b"to a group", group)
    assert pair.sent() == [(EF, 5)]
    pair.send(b"to one")
    assert pair.sent() == [(EF, 77)]


def test_one_datagrams_own(pair: Pair) -> None:
    stack, id_ = pair.hosts[0].stack, pair.ids[0]
    pair.set(TCLASS if pair.v6 else TOS, EF)
    pair.set(HOPS if pair.v6 else TTL, 77)
    group = "ff05::99" if pair.v6 else "239.1.1.1"
    for to, tos, hops, expected in (
        (pair.names[1], AF21 | CE, 3, (AF21 | CE, 3)),
        (pair.names[1], -1, 3, (EF, 3)),
        (pair.names[1], 0, -1, (0, 77)),
        (pair.names[1], -1, -1, (EF, 77)),
        (group, -1, -1, (EF, 1)),
        (group, 0, 9, (0, 9)),
    ):
        assert lib.ams_udp_send_as(stack, id_, endpoint(to, 5000), b"x", 1, tos, hops, pair.world.now) == 0
        pair.world.run(10 * MS)
        assert pair.sent() == [expected]
    for tos, hops in ((256, -1), (-2, -1), (-1, 256), (-1, -2)):
        status = lib.ams_udp_send_as(stack, id_, endpoint(group, 5000), b"x", 1, tos, hops, pair.world.now)
        assert status_name(status) == "EINVAL"
    assert pair.sent() == []


def test_what_waits_keeps_its_own(pair: Pair) -> None:
    """Each datagram is asked about when it is taken."""
    option = TCLASS if pair.v6 else TOS
    for tos in (EF, AF21, CE):
        pair.set(option, tos)
        pair.send(b"x")
    assert [pair.receive()[0] for _ in range(3)] == [EF, AF21, CE]
