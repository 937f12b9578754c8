"""Routers made of scapy, beside a host in virtual time: they advertise themselves, redirect, and answer or don't."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from aiomultistack._native import ffi, lib
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from .world import SECOND, Host, World

ALL_NODES = ("ff02::1", "33:33:00:00:00:01")
#: What a stack learns with: nothing is probed but what it learns, so that the tests' own addresses are usable at once.
AUTOCONF: int = lib.AMS_STACK_NO_DAD | lib.AMS_STACK_AUTOCONF | lib.AMS_STACK_REDIRECTS6
NEVER: int = lib.AMS_NEVER


def prefix(text: str, *, valid: int = 86400, preferred: int | None = None, flags: str = "LA") -> Packet:
    """A prefix option: flags L (on link) and A (for addresses), lifetimes in seconds."""
    network = ipaddress.IPv6Network(text)
    return ICMPv6NDOptPrefixInfo(
        prefix=str(network.network_address), prefixlen=network.prefixlen, L="L" in flags, A="A" in flags,
        validlifetime=valid, preferredlifetime=valid if preferred is None else preferred,
    )  # fmt: skip


def mtu(value: int) -> Packet:
    """An MTU option."""
    return ICMPv6NDOptMTU(mtu=value)


def forge(packet: Packet, **fields: Any) -> Packet:
    """The packet with other fields of its IPv6 header."""
    for name, value in fields.items():
        setattr(packet[IPv6], name, value)
    return packet


class Segment:
    """A link that routers share with one host, and what crossed it."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.wire = world.wire(monitor=True)
        self.routers: list[Router] = []
        self.seen: list[tuple[int, Packet]] = []
        world.settle()

    def router(self, number: int, **fields: Any) -> Router:
        """One more router: fe80::N, or 10.1.0.N for IPv4."""
        router = Router(self, number, **fields)
        self.routers.append(router)
        return router

    def run(self, seconds: float = 0.0) -> list[Packet]:
        """Lets time pass while routers answer solicitations; returns what the host sent meanwhile."""
        fresh: list[Packet] = []
        end = self.world.now + round(seconds * SECOND)
        while True:
            self.world.settle()
            frames, self.wire.frames = self.wire.frames, []
            for at, data in frames:
                packet = Ether(data)
                if packet.src != self.mac:
                    continue
                self.seen.append((at, packet))
                fresh.append(packet)
                for router in self.routers:
                    router.hear(packet)
            if frames:
                continue
            deadline = min(self.host.deadline, lib.ams_hub_deadline(self.world.hub))
            if self.world.now >= end:
                return fresh
            self.world.now = max(min(deadline, end), self.world.now + 1)

    @property
    def mac(self) -> str:
        return ":".join(f"{byte:02x}" for byte in self.host.mac)

    # ---- what the host knows ----

    def network(self, kind: int) -> list[Row]:
        """Rows of `ams_stack_network` of one kind."""
        rows = ffi.new("struct ams_net_info[]", 128)
        count = lib.ams_stack_network(self.host.stack, rows, 128, self.world.now)
        assert count <= 128
        return [Row.of(row) for row in rows[0:count] if row.kind == kind]

    def addresses(self) -> list[Row]:
        """Learned addresses."""
        return [row for row in self.network(lib.AMS_NET_ADDRESS) if row.flags & lib.AMS_NET_LEARNED]

    def current(self) -> str | None:
        """The default router in use."""
        rows = [row for row in self.network(lib.AMS_NET_ROUTER) if row.flags & lib.AMS_NET_CURRENT]
        return rows[0].address if rows else None

    def solicitations(self) -> list[tuple[int, Packet]]:
        """Router solicitations so far, with their times."""
        return [(at, packet) for at, packet in self.seen if ICMPv6ND_RS in packet]


@dataclass
class Row:
    """One row of `ams_stack_network`; times in seconds, None for ever."""

    address: str
    length: int
    flags: int
    preference: int
    via: str | None
    valid: float | None
    preferred: float | None

    @classmethod
    def of(cls, row: Any) -> Row:
        return cls(
            text(row.address.address), row.address.prefix_len, row.flags, row.preference,
            text(row.via) if row.via.family else None, seconds(row.valid), seconds(row.preferred),
        )  # fmt: skip


def text(endpoint: Any) -> str:
    """The address of a ``struct ams_endpoint``."""
    address = ipaddress.IPv6Address(bytes(ffi.buffer(endpoint.ip, 16)))
    return str(address.ipv4_mapped or address)


def seconds(value: int) -> float | None:
    return None if value == NEVER else value / SECOND


class Router:
    """One router: link-local address, MAC, and the habits of answering."""

    def __init__(self, segment: Segment, number: int, *, answers: bool = True) -> None:
        self.segment = segment
        self.ip = f"fe80::{number:x}"
        self.ip4 = f"10.1.0.{number}"
        self.mac = f"02:00:00:00:ff:{number:02x}"
        self.answers = answers
        self.received: list[Packet] = []

    def send(self, packet: Packet, to: str | None = None) -> None:
        """Sends a network-layer packet to the host, or to another MAC address."""
        self.segment.wire.inject(bytes(Ether(src=self.mac, dst=to or self.segment.mac) / packet))

    def advertisement(self, *options: Packet, lifetime: int = 1800, lladdr: bool = True, **fields: Any) -> Packet:
        """A router advertisement; fields are scapy's: chlim, prf, reachabletime, retranstimer."""
        packet = IPv6(src=self.ip, dst=ALL_NODES[0], hlim=255)
        packet /= ICMPv6ND_RA(**{"chlim": 0, "prf": 0, "routerlifetime": lifetime, **fields})
        if lladdr:
            packet /= ICMPv6NDOptSrcLLAddr(lladdr=self.mac)
        for option in options:
            packet /= option
        return packet

    def advertise(self, *options: Packet, **fields: Any) -> None:
        """Sends an advertisement to all nodes, and lets the host take it in."""
        self.send(self.advertisement(*options, **fields), ALL_NODES[1])
        self.segment.run()

    def hear(self, packet: Packet) -> None:
        """Takes what the host sent: answers solicitations of itself, keeps what it was to forward."""
        if packet.dst == self.mac:
            self.received.append(packet)
        if not self.answers:
            return
        if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == self.ip:
            answer = IPv6(src=self.ip, dst=packet[IPv6].src, hlim=255) / ICMPv6ND_NA(tgt=self.ip, R=1, S=1, O=1)
            self.send(answer / ICMPv6NDOptDstLLAddr(lladdr=self.mac))
        if ARP in packet and packet[ARP].op == 1 and packet[ARP].pdst == self.ip4:
            self.send(ARP(op=2, hwsrc=self.mac, psrc=self.ip4, hwdst=packet.src, pdst=packet[ARP].psrc))

    def forwards(self, destination: str) -> int:
        """How many packets to a destination it got so far."""
        return sum(1 for packet in self.received if IPv6 in packet and packet[IPv6].dst == destination)
