"""The fabric with the system's stack beside it: who gets what, and who answers for the addresses."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib
from fabric_lab import HOST, MAC, PEER4, PEER6, PEER_MAC, UPLINK, US4, US6, Hub, datagram, pair
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

HOST_MAC, HOST4, HOST6 = "02:00:00:00:00:99", "10.0.0.3", "fd00::3"
BROADCAST = "ff:ff:ff:ff:ff:ff"
SHARES, APART = lib.AMS_FABRIC_HOST_SHARES, lib.AMS_FABRIC_HOST_APART
families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


def asks(mac: str, source: str, target: str) -> bytes:
    """An ARP request, or a neighbour solicitation."""
    if ":" not in target:
        return bytes(Ether(src=mac, dst=BROADCAST) / ARP(hwsrc=mac, psrc=source, pdst=target))
    last = int(target.rpartition(":")[2], 16)
    head = Ether(src=mac, dst=f"33:33:ff:00:00:{last:02x}") / IPv6(src=source, dst=f"ff02::1:ff00:{last:x}", hlim=255)
    return bytes(head / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=mac))


def tells(mac: str, address: str, to: str, to_mac: str) -> bytes:
    """An ARP reply, or a neighbour advertisement: `address` is at `mac`."""
    head: Packet = Ether(src=mac, dst=to_mac)
    if ":" not in address:
        return bytes(head / ARP(op=2, hwsrc=mac, psrc=address, hwdst=to_mac, pdst=to))
    head /= IPv6(src=address, dst=to, hlim=255)
    return bytes(head / ICMPv6ND_NA(tgt=address, R=0) / ICMPv6NDOptDstLLAddr(lladdr=mac))


def ping(v6: bool, destination: str) -> bytes:
    """An echo request from the peer to our MAC address."""
    network = IPv6(src=PEER6, dst=destination) / ICMPv6EchoRequest() if v6 else IP(src=PEER4, dst=destination) / ICMP()
    return bytes(Ether(src=PEER_MAC, dst=MAC) / network)


def names(v6: bool) -> tuple[str, str, str]:
    """Our address, the peer's, the host's."""
    return (US6, PEER6, HOST6) if v6 else (US4, PEER4, HOST4)


# ---- a station of its own ------------------------------------------------------------------


@families
def test_a_host_beside_us_is_a_station_like_others(wire: Hub, other: Hub, v6: bool) -> None:
    _, peer, host = names(v6)
    with pair(uplink=wire.config, host=other.config) as (fabric, one, _):
        hello = datagram(5, 5, v6=v6, src=host, src_mac=HOST_MAC, dst=peer, dst_mac=PEER_MAC)
        other.send(hello)  # its address is learnt
        fabric.run()
        assert wire.receive() == [hello]
        to_host = datagram(1, 22, v6=v6, dst=host, dst_mac=HOST_MAC)
        one.send(to_host)
        for_host = datagram(5, 5, v6=v6, src=peer, src_mac=PEER_MAC, dst=host, dst_mac=HOST_MAC)
        wire.send(for_host)
        fabric.run()
        assert sorted(other.receive()) == sorted([to_host, for_host])
        from_host = datagram(22, 1, v6=v6, src=host, src_mac=HOST_MAC)
        other.send(from_host)
        fabric.run()
        assert one.receive() == [from_host]
        assert wire.receive() == []
        unclaimed = datagram(9, 22, v6=v6, src=peer, src_mac=PEER_MAC, tcp="S")
        wire.send(unclaimed)  # to be refused, not to be given to a host that would not take it
        fabric.run()
        assert fabric.punted() == [(UPLINK, unclaimed)]
        assert other.receive() == []
        assert fabric.drops() == {}


@families
def test_whoever_asks_for_our_addresses_is_answered_by_us_alone(wire: Hub, other: Hub, v6: bool) -> None:
    us, peer, host = names(v6)
    with pair(uplink=wire.config, host=other.config) as (fabric, _, _):
        for hub, index, mac, source in ((wire, UPLINK, PEER_MAC, peer), (other, HOST, HOST_MAC, host)):
            hub.send(asks(mac, source, us))
            fabric.run()
            assert fabric.punted() == [(index, asks(mac, source, us))]
            assert wire.receive() == other.receive() == []
        wire.send(asks(PEER_MAC, peer, host))
        other.send(asks(HOST_MAC, host, peer))
        fabric.run()
        assert other.receive() == [asks(PEER_MAC, peer, host)]
        assert wire.receive() == [asks(HOST_MAC, host, peer)]


@families
def test_our_own_questions_reach_uplink_and_host(wire: Hub, other: Hub, v6: bool) -> None:
    us, peer, host = names(v6)
    with pair(uplink=wire.config, host=other.config) as (fabric, _, _):
        control = fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        control.send(asks(MAC, us, peer))
        fabric.run()
        assert wire.receive() == other.receive() == [asks(MAC, us, peer)]
        other.send(tells(HOST_MAC, host, us, MAC))
        wire.send(tells(PEER_MAC, peer, us, MAC))
        fabric.run()
        assert sorted(control.receive()) == sorted([tells(HOST_MAC, host, us, MAC), tells(PEER_MAC, peer, us, MAC)])
        control.send(tells(MAC, us, host, HOST_MAC))
        control.send(tells(MAC, us, peer, PEER_MAC))
        fabric.run()
        assert other.receive() == [tells(MAC, us, host, HOST_MAC)]
        assert wire.receive() == [tells(MAC, us, peer, PEER_MAC)]
        assert fabric.drops() == {}


@families
def test_a_host_cannot_speak_for_our_addresses(wire: Hub, other: Hub, v6: bool) -> None:
    us, peer, _ = names(v6)
    with pair(uplink=wire.config, host=other.config) as (fabric, _, _):
        lies = [tells(HOST_MAC, us, peer, PEER_MAC), asks(HOST_MAC, us, peer)]
        for lie in lies:
            other.send(lie)
        fabric.run()
        assert wire.receive() == []
        assert fabric.punted() == []
        assert fabric.drops() == fabric.drops(HOST) == {"tx_ndp" if v6 else "tx_arp": 2}


@families
def test_apart_uplink_and_host_exchange_nothing(wire: Hub, other: Hub, v6: bool) -> None:
    _, peer, host = names(v6)
    with pair(uplink=wire.config, host=other.config, flags=APART) as (fabric, one, _):
        other.send(asks(HOST_MAC, host, peer))
        wire.send(asks(PEER_MAC, peer, host))
        other.send(datagram(5, 5, v6=v6, src=host, src_mac=HOST_MAC, dst=peer, dst_mac=PEER_MAC))
        wire.send(datagram(5, 5, v6=v6, src=peer, src_mac=PEER_MAC, dst=host, dst_mac=HOST_MAC))
        fabric.run()
        assert wire.receive() == other.receive() == []
        assert fabric.drops() == {"nowhere": 2}
        one.send(datagram(1, 22, v6=v6, dst=host, dst_mac=HOST_MAC))
        one.send(datagram(1, 22, v6=v6, dst=peer, dst_mac=PEER_MAC))
        fabric.run()
        assert other.receive() == [datagram(1, 22, v6=v6, dst=host, dst_mac=HOST_MAC)]
        assert wire.receive() == [datagram(1, 22, v6=v6, dst=peer, dst_mac=PEER_MAC)]


# ---- a host with our addresses ----------------------------------------------------------------


@families
def test_a_host_that_shares_gets_what_nobody_claimed(wire: Hub, other: Hub, v6: bool) -> None:
    us, peer, _ = names(v6)
    with pair(uplink=wire.config, host=other.config, flags=SHARES) as (fabric, one, _):
        control = fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        unclaimed = datagram(9, 22, v6=v6, src=peer, src_mac=PEER_MAC, tcp="S")
        claimed = datagram(9, 1, v6=v6, src=peer, src_mac=PEER_MAC)
        for frame in (unclaimed, claimed, ping(v6, us)):
            wire.send(frame)
        fabric.run()
        assert other.receive() == [unclaimed, ping(v6, us)]
        assert one.receive() == [claimed]
        answer = datagram(22, 9, v6=v6, dst=peer, dst_mac=PEER_MAC, tcp="SA")
        other.send(answer)
        fabric.run()
        assert wire.receive() == [answer]
        assert control.receive() == []
        assert fabric.drops() == {}


@families
def test_a_host_that_shares_speaks_neither_arp_nor_ndp(wire: Hub, other: Hub, v6: bool) -> None:
    us, peer, _ = names(v6)
    with pair(uplink=wire.config, host=other.config, flags=SHARES) as (fabric, _, _):
        control = fabric.attach(flags=lib.AMS_ATTACH_CONTROL)
        wire.send(asks(PEER_MAC, peer, us))
        wire.send(tells(PEER_MAC, peer, us, MAC))
        fabric.run()
        assert other.receive() == []
        assert control.receive() == [asks(PEER_MAC, peer, us), tells(PEER_MAC, peer, us, MAC)]
        other.send(asks(MAC, us, peer))
        other.send(tells(MAC, us, peer, PEER_MAC))
        control.send(asks(MAC, us, peer))
        fabric.run()
        assert fabric.punted() == [(HOST, asks(MAC, us, peer))]
        assert wire.receive() == [asks(MAC, us, peer)]  # the control owner's
        assert other.receive() == []
        assert fabric.drops() == {"tx_ndp" if v6 else "tx_arp": 1}
        answer = tells(PEER_MAC, peer, us, MAC)
        assert lib.ams_fabric_inject(fabric.handle, HOST, answer, len(answer)) == 0
        assert other.receive() == [answer]


def test_a_host_that_shares_has_a_link_local_address_of_its_own(wire: Hub, other: Hub) -> None:
    own = "fe80::55"
    with pair(uplink=wire.config, host=other.config, flags=SHARES) as (fabric, _, _):
        wire.send(asks(PEER_MAC, PEER6, own))
        fabric.run()
        assert other.receive() == [asks(PEER_MAC, PEER6, own)]
        other.send(tells(MAC, own, PEER6, PEER_MAC))
        fabric.run()
        assert wire.receive() == [tells(MAC, own, PEER6, PEER_MAC)]
        assert fabric.drops() == {}


@families
def test_clients_of_a_host_that_shares_are_refused_by_the_control_owner(wire: Hub, other: Hub, v6: bool) -> None:
    """The host would take such a packet for a forgery: its source is the host's own address."""
    with pair(uplink=wire.config, host=other.config, flags=SHARES) as (fabric, one, _):
        local = datagram(1, 22, v6=v6, tcp="S")
        one.send(local)
        broadcast = bytes(Ether(src=MAC, dst=BROADCAST) / IP(src=US4, dst="10.0.0.255") / UDP(sport=1, dport=9) / Raw())
        one.send(broadcast)
        fabric.run()
        assert other.receive() == []
        assert fabric.punted() == [(one.index, local)]
        assert wire.receive() == [broadcast]
        assert fabric.drops() == {}
