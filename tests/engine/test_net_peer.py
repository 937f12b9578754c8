"""The network layer against a peer played with scapy: another implementation builds and reads every packet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from aiomultistack._native import ffi, lib
from scapy.layers.inet import ICMP, IP, UDP, defragment, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    defragment6,
    fragment6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from .world import SECOND, Connection, Host, Wire, World, endpoint, status_name

MAC = "02:00:00:00:00:99"
OUR_IP = {4: "10.1.0.1", 6: "fd01::1"}
PEER_IP = {4: "10.1.0.9", 6: "fd01::9"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Peer:
    """A host made of scapy: it answers for its own addresses and keeps the rest."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.wire: Wire = world.wire()
        self.answers = True
        self.mac = ""
        world.settle()
        self.received: list[Packet] = []
        self.exchange()

    def exchange(self) -> list[Packet]:
        """Lets the engine work, answers its questions, and returns what else it sent."""
        fresh: list[Packet] = []
        while True:
            self.world.settle()
            frames, self.wire.frames = self.wire.frames, []
            if not frames:
                self.received += fresh
                return fresh
            for _, data in frames:
                packet = Ether(data)
                self.mac = self.mac or packet.src
                if not self._answer(packet):
                    fresh.append(packet)

    def _answer(self, packet: Packet) -> bool:
        if not self.answers:
            return False
        if ARP in packet and packet[ARP].op == 1 and packet[ARP].pdst == PEER_IP[4]:
            reply = ARP(op=2, hwsrc=MAC, psrc=PEER_IP[4], hwdst=packet.src, pdst=packet[ARP].psrc)
            self.send(reply, to=packet.src)
            return True
        if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == PEER_IP[6]:
            reply = IPv6(src=PEER_IP[6], dst=packet[IPv6].src, hlim=255) / ICMPv6ND_NA(tgt=PEER_IP[6], S=1, O=1, R=0)
            self.send(reply / ICMPv6NDOptDstLLAddr(lladdr=MAC), to=packet.src)
            return True
        return False

    def send(self, packet: Packet, to: str | None = None) -> None:
        """Sends a network-layer packet in an Ethernet frame."""
        self.wire.inject(bytes(Ether(src=MAC, dst=to or self.mac) / packet))

    def ask(self, packet: Packet, to: str | None = None) -> list[Packet]:
        """Sends, and returns what came of it."""
        self.send(packet, to)
        return self.exchange()


@pytest.fixture
def peer() -> Iterator[Peer]:
    with World() as world:
        yield Peer(world, world.host("10.1.0.1/24", "fd01::1/64"))


def ip(family: int, **fields: Any) -> Packet:
    """An IP header from the peer to us."""
    if family == 4:
        return IP(**{"src": PEER_IP[4], "dst": OUR_IP[4], **fields})
    return IPv6(**{"src": PEER_IP[6], "dst": OUR_IP[6], **fields})


def checked(packet: Packet) -> Packet:
    """The packet, once scapy has computed the same checksums and lengths for it."""
    layer: Packet = packet[IPv6] if IPv6 in packet else packet[IP]
    again = layer.copy()
    for part in (IP, UDP, ICMP, ICMPv6EchoReply, ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6ND_NS):
        if part in again:
            for field in ("chksum", "cksum", "len", "plen"):
                if field in again[part].fields:
                    del again[part].fields[field]
    assert bytes(again) == bytes(layer), packet.show(dump=True)
    return packet


def udp_socket(host: Host, local: Any, remote: Any = ffi.NULL) -> int:
    id_ = int(lib.ams_udp_open(host.stack, local, remote, 0))
    assert id_ >= 0, status_name(id_)
    host.connections[id_] = Connection(host, id_)  # takes its events
    return id_


def receive(host: Host, id_: int) -> bytes | str:
    """The next datagram, or the name of the status."""
    buffer = ffi.new("char[]", 65536)
    length = lib.ams_udp_recv(host.stack, id_, ffi.NULL, buffer, 65536)
    return bytes(ffi.buffer(buffer, length)) if length >= 0 else status_name(length)


def send(host: Host, id_: int, address: str, port: int, data: bytes) -> str:
    return status_name(lib.ams_udp_send(host.stack, id_, endpoint(address, port), data, len(data), host.world.now))


# ---- neighbours ----------------------------------------------------------------------------------------


def test_addresses_are_announced() -> None:
    with World() as world:
        wire = world.wire()
        host = world.host("10.1.0.1/24", "fd01::1/64")
        world.settle()
        packets = [Ether(data) for _, data in wire.frames]
        assert [p[ARP].psrc for p in packets if ARP in p] == ["10.1.0.1"]
        assert all(p[ARP].pdst == p[ARP].psrc and p.dst == "ff:ff:ff:ff:ff:ff" for p in packets if ARP in p)
        advertised = [checked(p)[ICMPv6ND_NA].tgt for p in packets if ICMPv6ND_NA in p]
        assert "fd01::1" in advertised
        assert any(address.startswith("fe80::") for address in advertised)
        assert host.counters()["stack.rx_frames"] == 0


def test_arp_and_solicitations_are_answered(peer: Peer) -> None:
    (reply,) = peer.ask(ARP(op=1, hwsrc=MAC, psrc=PEER_IP[4], pdst=OUR_IP[4]), to="ff:ff:ff:ff:ff:ff")
    assert (reply[ARP].op, reply[ARP].psrc, reply[ARP].pdst) == (2, OUR_IP[4], PEER_IP[4])
    assert reply[ARP].hwsrc == reply.src == peer.mac
    assert reply.dst == MAC
    solicitation = IPv6(src=PEER_IP[6], dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt=OUR_IP[6])
    (advert,) = peer.ask(solicitation / ICMPv6NDOptSrcLLAddr(lladdr=MAC), to="33:33:ff:00:00:01")
    assert checked(advert)[ICMPv6ND_NA].tgt == OUR_IP[6]
    assert (advert[ICMPv6ND_NA].S, advert[ICMPv6ND_NA].O, advert[ICMPv6ND_NA].R) == (1, 1, 0)
    assert advert[ICMPv6NDOptDstLLAddr].lladdr == peer.mac
    assert advert[IPv6].hlim == 255
    assert advert.dst == MAC
    assert peer.ask(ARP(op=1, hwsrc=MAC, psrc=PEER_IP[4], pdst="10.1.0.77"), to="ff:ff:ff:ff:ff:ff") == []


@FAMILIES
def test_what_the_engine_asks(peer: Peer, family: int) -> None:
    peer.answers = False
    id_ = udp_socket(peer.host, endpoint(OUR_IP[family], 7))
    assert send(peer.host, id_, PEER_IP[family], 9, b"x") == "OK"
    (question,) = peer.exchange()
    if family == 4:
        assert (question[ARP].op, question[ARP].psrc, question[ARP].pdst) == (1, OUR_IP[4], PEER_IP[4])
        assert question.dst == "ff:ff:ff:ff:ff:ff"
    else:
        assert checked(question)[ICMPv6ND_NS].tgt == PEER_IP[6]
        assert question[IPv6].dst == "ff02::1:ff00:9"
        assert question.dst == "33:33:ff:00:00:09"
        assert question[ICMPv6NDOptSrcLLAddr].lladdr == peer.mac


def test_duplicate_address_detection() -> None:
    with World() as world:
        wire = world.wire()
        host = world.host("fd01::1/64", flags=0)
        world.settle()
        probes = [packet for packet in (Ether(data) for _, data in wire.frames) if ICMPv6ND_NS in packet]
        targets = {checked(p)[ICMPv6ND_NS].tgt for p in probes}
        assert "fd01::1" in targets
        assert len(targets) == 2
        assert all(p[IPv6].src == "::" and ICMPv6NDOptSrcLLAddr not in p for p in probes)
        theirs = IPv6(src="fd01::1", dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt="fd01::1", O=1, S=0, R=0)
        wire.inject(bytes(Ether(src=MAC, dst="33:33:00:00:00:01") / theirs / ICMPv6NDOptDstLLAddr(lladdr=MAC)))
        world.run(3 * SECOND)
        assert host.counters()["stack.dad_conflict"] == 1
        assert not lib.ams_stack_owns(host.stack, endpoint("fd01::1"))
        wire.frames.clear()
        ping = IPv6(src="fe80::9", dst="fd01::1") / ICMPv6EchoRequest()
        wire.inject(bytes(Ether(src=MAC, dst=probes[0].src) / ping))
        world.settle()
        assert wire.frames == []


# ---- echo ------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 56, 1452, 1472, 1473, 3000, 65000])
def test_ping(peer: Peer, family: int, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    if family == 4:
        requests = fragment(ip(4, id=7) / ICMP(id=1, seq=2) / Raw(payload), 1480)
    else:
        request = ip(6) / IPv6ExtHdrFragment(id=7) / ICMPv6EchoRequest(id=1, seq=2, data=payload)
        requests = fragment6(request, 1500)
    for request in requests:
        peer.send(request)
    replies = peer.exchange()
    assert all(len(reply) <= 1514 for reply in replies)
    if family == 4:
        (whole,) = defragment([reply[IP] for reply in replies])
        assert checked(whole)[ICMP].type == 0
        assert (whole[ICMP].id, whole[ICMP].seq) == (1, 2)
        assert bytes(whole[ICMP].payload) == payload
    else:
        whole = defragment6(replies) if len(replies) > 1 else replies[0]
        assert (checked(whole)[ICMPv6EchoReply].id, whole[ICMPv6EchoReply].seq) == (1, 2)
        assert bytes(whole[ICMPv6EchoReply].data) == payload


def test_ping_all_nodes(peer: Peer) -> None:
    (reply,) = peer.ask(ip(6, dst="ff02::1") / ICMPv6EchoRequest(data=b"who?"), to="33:33:00:00:00:01")
    assert reply[IPv6].src == OUR_IP[6]
    assert checked(reply)[ICMPv6EchoReply].data == b"who?"
    assert peer.ask(ip(4, dst="10.1.0.255") / ICMP(), to="ff:ff:ff:ff:ff:ff") == []


# ---- UDP ---------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1000, 1472, 1473, 9000, 60000])
def test_udp_both_ways(peer: Peer, family: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    id_ = udp_socket(peer.host, endpoint(OUR_IP[family], 7))
    datagram = UDP(sport=9, dport=7) / Raw(data)
    if family == 4:
        packets = fragment(ip(4, id=3) / datagram, 1480)
    else:
        packets = fragment6(ip(6) / IPv6ExtHdrFragment(id=3) / datagram, 1500)
    random.Random(1).shuffle(packets)
    for packet in packets:
        peer.send(packet)
    peer.exchange()
    assert receive(peer.host, id_) == data
    assert send(peer.host, id_, PEER_IP[family], 9, data) == "OK"
    sent = peer.exchange()
    assert all(len(packet) <= 1514 for packet in sent)
    if family == 4:
        (whole,) = defragment([packet[IP] for packet in sent])
        assert all((len(sent) == 1) == packet[IP].flags.DF for packet in sent)
    else:
        whole = defragment6(sent) if len(sent) > 1 else sent[0]
    assert (checked(whole)[UDP].sport, whole[UDP].dport) == (7, 9)
    assert bytes(whole[UDP].payload) == data


@FAMILIES
def test_port_unreachable_quotes_the_packet(peer: Peer, family: int) -> None:
    packet = ip(family) / UDP(sport=9, dport=7) / Raw(b"q" * 1300)
    (error,) = peer.ask(packet)
    sent = bytes(packet)
    if family == 4:
        assert (checked(error)[ICMP].type, error[ICMP].code) == (3, 3)
        assert len(bytes(error[IP])) == 576
        assert sent.startswith(bytes(error[ICMP])[8:])
    else:
        assert checked(error)[ICMPv6DestUnreach].code == 4
        assert len(bytes(error[IPv6])) == 1280
        assert sent.startswith(bytes(error[ICMPv6DestUnreach])[8:])


@FAMILIES
def test_connection_refused(peer: Peer, family: int) -> None:
    id_ = udp_socket(peer.host, ffi.NULL, endpoint(PEER_IP[family], 9))
    assert lib.ams_udp_send(peer.host.stack, id_, ffi.NULL, b"x", 1, peer.world.now) == 0
    (packet,) = peer.exchange()
    quoted = packet.payload
    error = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    peer.ask(ip(family) / error / quoted)
    assert receive(peer.host, id_) == "ECONNREFUSED"
    assert receive(peer.host, id_) == "EAGAIN"


@FAMILIES
def test_path_mtu(peer: Peer, family: int) -> None:
    id_ = udp_socket(peer.host, endpoint(OUR_IP[family], 7))
    data = bytes(1400)
    assert send(peer.host, id_, PEER_IP[family], 9, data) == "OK"
    (packet,) = peer.exchange()
    error = ICMP(type=3, code=4, nexthopmtu=1300) if family == 4 else ICMPv6PacketTooBig(mtu=1300)
    quoted = bytes(packet.payload)[:500]
    peer.ask(ip(family) / error / Raw(quoted))
    assert send(peer.host, id_, PEER_IP[family], 9, data) == "OK"
    pieces = peer.exchange()
    assert len(pieces) == 2
    assert all(len(piece) <= 1314 for piece in pieces)
    if family == 6:
        assert all(IPv6ExtHdrFragment in piece for piece in pieces)


# ---- extension headers ----------------------------------------------------------------------------------------


def test_extension_headers(peer: Peer) -> None:
    id_ = udp_socket(peer.host, endpoint(OUR_IP[6], 7))
    chain = ip(6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(segleft=0) / IPv6ExtHdrFragment()
    assert peer.ask(chain / UDP(sport=9, dport=7) / Raw(b"deep")) == []
    assert receive(peer.host, id_) == b"deep"
    before = peer.host.counters()
    peer.send(ip(6) / IPv6ExtHdrRouting(addresses=["fd01::7"], segleft=1) / UDP(dport=7) / Raw(b"detour"))
    peer.exchange()
    assert receive(peer.host, id_) == "EAGAIN"
    after = peer.host.counters()
    arrivals = {"port.rx_frames", "port.rx_bytes", "stack.rx_frames", "stack.ip_rx"}
    assert {name for name in after if after[name] > before[name]} - arrivals, "it vanished without a trace"


# ---- nothing is trusted ------------------------------------------------------------------------------------------


def test_mutated_packets(peer: Peer) -> None:
    """Flipped, cut and lengthened packets: nothing breaks, and the engine still answers afterwards."""
    rng = random.Random(4)
    templates = [
        bytes(Ether(src=MAC, dst=peer.mac) / packet)
        for packet in (
            ip(4) / ICMP() / Raw(b"p" * 40),
            ip(4, options=[b"\x44\x04\x05\x00"]) / UDP(dport=7) / Raw(b"u"),
            ip(4, flags="MF", id=5) / UDP(dport=7) / Raw(b"f" * 64),
            ip(6) / ICMPv6EchoRequest(data=b"p"),
            ip(6) / IPv6ExtHdrHopByHop() / UDP(dport=7) / Raw(b"h"),
            ip(6) / IPv6ExtHdrFragment(id=9, m=1) / UDP(dport=7) / Raw(b"f" * 64),
            IPv6(src=PEER_IP[6], dst=OUR_IP[6], hlim=255) / ICMPv6ND_NS(tgt=OUR_IP[6]),
            ARP(op=1, hwsrc=MAC, psrc=PEER_IP[4], pdst=OUR_IP[4]),
        )
    ]
    udp_socket(peer.host, endpoint("10.1.0.1", 7))
    for _ in range(2000):
        frame = bytearray(rng.choice(templates))
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(14, len(frame))] = rng.randrange(256)
        if rng.random() < 0.2:
            del frame[rng.randrange(14, len(frame)) :]
        if rng.random() < 0.1:
            frame += rng.randbytes(rng.randrange(200))
        peer.wire.inject(bytes(frame))
        if rng.random() < 0.05:
            peer.world.run(rng.randrange(SECOND))
            peer.wire.frames.clear()
    peer.world.run(120 * SECOND)
    peer.wire.frames.clear()
    (reply,) = peer.ask(ip(4) / ICMP() / Raw(b"still there?"))
    assert bytes(reply[ICMP].payload) == b"still there?"
