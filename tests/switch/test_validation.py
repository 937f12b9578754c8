"""Property: whatever bytes, a packet passes only if its source 3-tuple is the port's.

The judge is scapy: an independent dissector says what a frame that passed really is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from aiomultistack._native import ffi, lib
from fabric_lab import MAC, PEER4, PEER6, PEER_MAC, TCP_PROTO, UDP_PROTO, US4, US6, endpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6ND_NA,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

CONTROL, OWNER, OTHER = 0, 1, 2
OWNED, OTHERS, UNOWNED = 8000, 8001, 8002


class Switch:
    """A switch where OWNER has port 8000 and OTHER has port 8001, TCP and UDP, on both addresses."""

    def __init__(self) -> None:
        config = ffi.new("struct ams_switch_config *", {"mac": bytes.fromhex(MAC.replace(":", "")), "mtu": 1500,
                                                        "control": CONTROL, "unclaimed": lib.AMS_SWITCH_TO_CONTROL})
        out = ffi.new("struct ams_switch **")
        assert lib.ams_switch_new(out, config) == 0
        self.handle = out[0]
        for address, length in ((US4, 24), (US6, 64)):
            served = ffi.new("struct ams_ifaddr *", {"address": endpoint(address, 0)[0], "prefix_len": length})
            assert lib.ams_switch_add_address(self.handle, served) == 0
            for protocol in (TCP_PROTO, UDP_PROTO):
                for port, number in ((OWNER, OWNED), (OTHER, OTHERS)):
                    assert lib.ams_switch_claim(self.handle, port, protocol, endpoint(address, number)) == 0

    def check(self, port: int, frame: bytes) -> str:
        """The verdict: "tx_passed" or the reason."""
        verdict = lib.ams_switch_check(self.handle, port, frame, len(frame), 1)
        return str(ffi.string(lib.ams_switch_counter_name(verdict)).decode())

    def close(self) -> None:
        lib.ams_switch_free(self.handle)


@pytest.fixture
def switch() -> Iterator[Switch]:
    made = Switch()
    with contextlib.closing(made):
        yield made


def may_pass(frame: bytes, port: int) -> bool:
    """Whether a frame that ``port`` sent first thing, as scapy sees it, is one that it may send."""
    packet = Ether(frame)
    network = packet.payload
    if packet.src != MAC:
        return False
    if isinstance(network, ARP):
        probe = network.psrc == "0.0.0.0" and network.op == 1 and network.pdst == US4
        return port == CONTROL and network.hwsrc == MAC and (network.psrc == US4 or probe)
    if not isinstance(network, (IP, IPv6)):
        return False
    fragment = network.getlayer(IPv6ExtHdrFragment)
    if (isinstance(network, IP) and network.frag) or (fragment is not None and fragment.offset):
        return False  # nothing that it could follow was sent before
    ours: bool = network.src == (US4 if isinstance(network, IP) else US6)
    transport = network.getlayer(TCP) or network.getlayer(UDP)
    if transport is None:  # ICMP, ICMPv6, IGMP: which of them may pass is tested below, one by one
        return port == CONTROL or (ours and any("ICMP" in layer.__name__ for layer in network.layers()))
    if port == CONTROL:
        return ours and isinstance(transport, TCP) and "R" in transport.flags and transport.sport not in (OWNED, OTHERS)
    return ours and bool(transport.sport == (OWNED if port == OWNER else OTHERS))


ports = st.sampled_from([OWNED, OTHERS, UNOWNED, 53, 0])
addresses4 = st.sampled_from([US4, PEER4, "0.0.0.0", "255.255.255.255", "10.0.0.255", "127.0.0.1", "224.0.0.1"])
addresses6 = st.sampled_from([US6, PEER6, "::", "ff02::1", "::ffff:10.0.0.1", "::1"])


@st.composite
def transports(draw: st.DrawFn) -> Packet:
    """TCP, UDP, ICMP or nothing known, with a payload."""
    payload = Raw(draw(st.binary(max_size=40)))
    sport, dport = draw(ports), draw(ports)
    transport: Packet = draw(st.sampled_from([
        TCP(sport=sport, dport=dport, flags=draw(st.sampled_from(["S", "A", "R", "RA", "PA"]))) / payload,
        UDP(sport=sport, dport=dport) / payload,
        ICMP() / payload,
        payload,
    ]))
    return transport


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """A packet that may be forged in any of its layers."""
    ether = Ether(src=draw(st.sampled_from([MAC, MAC, MAC, PEER_MAC])), dst=PEER_MAC)
    network: Packet
    if draw(st.booleans()):
        options = draw(st.sampled_from([[], [], [IPOption_NOP()] * 4, [IPOption_LSRR(routers=[PEER4])]]))
        network = IP(src=draw(addresses4), dst=PEER4, options=options,
                     flags=draw(st.sampled_from([0, 0, "DF", "MF"])), frag=draw(st.sampled_from([0, 0, 0, 1, 2, 185])))
    else:
        network = IPv6(src=draw(addresses6), dst=PEER6)
        for header in draw(st.lists(st.sampled_from([
            IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(), IPv6ExtHdrFragment(m=1, id=7),
            IPv6ExtHdrFragment(offset=2, id=7), IPv6ExtHdrFragment(id=9),
        ]), max_size=3)):
            network = network / header.copy()
    if draw(st.integers(0, 9)) == 0:
        ether = ether / Dot1Q(vlan=draw(st.integers(0, 2)))
    return ether / network / draw(transports())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A packet's bytes, some of them changed, perhaps cut or longer."""
    frame = bytearray(bytes(draw(packets())))
    for _ in range(draw(st.integers(0, 3))):
        frame[draw(st.integers(0, min(len(frame), 90) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([0, 0, 0, 1, 7, 20]))
    return bytes(frame[: len(frame) - cut]) + draw(st.sampled_from([b"", b"", b"\0" * 3, b"\xff" * 40]))


def judge(frame: bytes) -> None:
    """Offers a frame to a fresh switch for every port."""
    made = Switch()
    with contextlib.closing(made):
        for port in (CONTROL, OWNER, OTHER):
            if made.check(port, frame) == "tx_passed":
                assert may_pass(frame, port), (port, frame.hex(), Ether(frame).summary())


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(packets())
def test_forged_packets_do_not_pass(packet: Packet) -> None:
    judge(bytes(packet))


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated())
def test_mutated_packets_do_not_pass(frame: bytes) -> None:
    judge(frame)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_garbage_does_not_pass(frame: bytes) -> None:
    judge(frame)


@pytest.mark.parametrize("network", [IP(src=US4, dst=PEER4), IPv6(src=US6, dst=PEER6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", [TCP, UDP])
def test_honest_packets_pass(switch: Switch, network: Packet, kind: type[Packet]) -> None:
    for payload in (b"", b"x" * 1400):
        frame = bytes(Ether(src=MAC, dst=PEER_MAC) / network / kind(sport=OWNED, dport=9) / Raw(payload))
        assert switch.check(OWNER, frame) == "tx_passed"
        assert switch.check(OTHER, frame) == "tx_tuple"


def ether(*layers: Packet) -> bytes:
    """A frame from us."""
    packet: Packet = Ether(src=MAC, dst=PEER_MAC)
    for layer in layers:
        packet = packet / layer
    return bytes(packet)


IP4, IP6 = IP(src=US4, dst=PEER4), IPv6(src=US6, dst=PEER6)
TO_US4, TO_US6 = IP(src=PEER4, dst=US4), IPv6(src=PEER6, dst=US6)
DATA = TCP(sport=OWNED, dport=9)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (ether(IP(src=PEER4, dst=US4), DATA), "tx_source_address"),
        (ether(IPv6(src=PEER6, dst=US6), DATA), "tx_source_address"),
        (ether(IP4, TCP(sport=OTHERS, dport=9)), "tx_tuple"),
        (ether(IP4, TCP(sport=UNOWNED, dport=9, flags="R")), "tx_tuple"),
        (ether(IP6, TCP(sport=OTHERS, dport=9, flags="RA")), "tx_tuple"),
        (bytes(Ether(src=PEER_MAC, dst=MAC) / IP4 / DATA), "tx_source_mac"),
        (ether(Dot1Q(vlan=0), IP4, DATA), "tx_vlan"),
        (ether(Dot1Q(vlan=1), Dot1Q(vlan=2), IP4, DATA), "tx_vlan"),
        (ether(ARP(op=2, hwsrc=MAC, psrc=US4)), "tx_arp"),
        (ether(IP4, ICMP(type=8)), "tx_icmp"),
        (ether(IP4, ICMP(type=5), TO_US4, DATA), "tx_icmp"),
        (ether(IP4, ICMP(type=3), TO_US4, TCP(sport=9, dport=OTHERS)), "tx_icmp"),
        (ether(IP4, ICMP(type=3), IP(src="10.0.0.7", dst=US4), TCP(sport=9, dport=OWNED)), "tx_icmp"),
        (ether(IP6, ICMPv6EchoReply()), "tx_icmp"),
        (ether(IP6, ICMPv6DestUnreach(), TO_US6, TCP(sport=9, dport=OTHERS)), "tx_icmp"),
        (ether(IPv6(src=US6, dst=PEER6, hlim=255), ICMPv6ND_NA(tgt=US6), ICMPv6NDOptDstLLAddr(lladdr=MAC)), "tx_icmp"),
        (ether(IP(src=US4, dst=PEER4, options=[IPOption_LSRR(routers=[PEER4])]), DATA), "tx_source_route"),
        (ether(IP6, IPv6ExtHdrRouting(type=4, segleft=0), DATA), "tx_source_route"),
        (ether(IP6, *[IPv6ExtHdrDestOpt() for _ in range(9)], DATA), "tx_bad_extension"),
        (ether(IP6, IPv6ExtHdrFragment(m=1), IPv6ExtHdrDestOpt(len=20)), "tx_frag_tiny"),
        (ether(IP6, IPv6ExtHdrFragment(m=1), IPv6ExtHdrDestOpt(), DATA, Raw(b"x" * 44)), "tx_frag_tiny"),
        (ether(IP(src=US4, dst=PEER4, flags="MF"), Raw(bytes(DATA)[:8])), "tx_protocol"),
        (ether(IP(src=US4, dst=PEER4, flags="MF", proto=6), Raw(bytes(DATA)[:8])), "tx_frag_tiny"),
        (ether(IP(src=US4, dst=PEER4, frag=1, proto=6), Raw(bytes(DATA))), "tx_frag_tiny"),
        (ether(IP(src=US4, dst=PEER4, frag=100, proto=17), Raw(b"x" * 80)), "tx_frag_orphan"),
        (ether(IP4, DATA) + b"\0" * 30, "tx_bad_length"),
        (ether(IP(src=US4, dst=PEER4, len=39), DATA), "tx_truncated"),
        (ether(IP(src=US4, dst=PEER4, ihl=4), DATA), "tx_bad_header"),
        (ether(IP(src=US4, dst=PEER4, proto=50), Raw(b"x" * 80)), "tx_protocol"),
    ],
)
def test_each_forgery_has_its_reason(switch: Switch, frame: bytes, reason: str) -> None:
    assert switch.check(OWNER, frame) == reason


@pytest.mark.parametrize(
    "frame",
    [
        ether(ARP(op=2, hwsrc=MAC, psrc=US4)),
        ether(IP4, ICMP(type=0), Raw(b"x" * 56)),
        ether(IP6, ICMPv6EchoReply(data=b"x" * 56)),
        ether(IPv6(src=US6, dst=PEER6, hlim=255), ICMPv6ND_NA(tgt=US6), ICMPv6NDOptDstLLAddr(lladdr=MAC)),
        ether(IP4, TCP(sport=UNOWNED, dport=9, flags="RA")),
        ether(IP4, ICMP(type=3, code=3), TO_US4, UDP(sport=9, dport=UNOWNED)),
        ether(IP6, ICMPv6DestUnreach(code=4), TO_US6, UDP(sport=9, dport=UNOWNED)),
    ],
)
def test_what_only_the_control_owner_may_send(switch: Switch, frame: bytes) -> None:
    assert switch.check(CONTROL, frame) == "tx_passed"
    assert switch.check(OWNER, frame) != "tx_passed"


def test_counters_say_what_was_refused(switch: Switch) -> None:
    for _ in range(3):
        switch.check(OTHER, ether(IP4, DATA))
    values = ffi.new("uint64_t[100]")
    count = lib.ams_switch_counters(switch.handle, values, 100)
    names = [ffi.string(lib.ams_switch_counter_name(i)).decode() for i in range(count)]
    assert len(set(names)) == count
    assert {name: value for name, value in zip(names, values[0:count], strict=True) if value} == {"tx_tuple": 3}
    assert lib.ams_switch_counter_name(count) == ffi.NULL
