"""A client that forges everything, on a switch with a network behind it: nothing forged leaves, nobody else notices.

What single frames are refused for is tested natively and in tests/switch; here they go all the way.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from aiomultistack import _netns
from aiomultistack._addresses import pack
from aiomultistack._node import ffi, lib

from .machine import (
    EVERYBODY,
    FAR4,
    FAR6,
    GATEWAY4,
    GATEWAY6,
    KERNEL_EVERYBODY,
    US4,
    US6,
    Machine,
    machine,
)
from .stage import serving, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}"),
    pytest.mark.timeout(180),
]

KERNEL, STACK, OWN, NOBODY = 8000, 8001, 9000, 9999  # ports: the kernel's, a server's, the villain's, nobody's
STRANGER = "02:00:00:00:00:66"
KEPT = ""  # true, but not the client's to say: left to the control plane, which does nothing with it

#: Notes the frames that arrive at a device, and says which when it is asked.
SNIFFER = """
import json, select, socket, sys
seen = []
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
    wire.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
    wire.bind((sys.argv[1], 0))
    print("ready", flush=True)
    while True:
        for ready in select.select([wire, sys.stdin], [], [])[0]:
            if ready is wire:
                frame, address = wire.recvfrom(4000)
                if address[2] != socket.PACKET_OUTGOING:
                    seen.append(frame.hex())
            elif not sys.stdin.readline():
                sys.exit()
            else:
                print(json.dumps(seen), flush=True)
                seen = []
"""


def forgeries(us: str, gateway: str) -> list[tuple[bytes, str]]:
    """Frames that a client that has one UDP tuple may not send, and the counter of each.

    us, gateway: Ethernet addresses.
    """

    def frame(*layers: Packet, src: str = us, dst: str = gateway) -> bytes:
        packet: Packet = Ether(src=src, dst=dst)
        for layer in layers:
            packet = packet / layer
        return bytes(packet)

    four, six = IP(src=US4, dst=GATEWAY4), IPv6(src=US6, dst=GATEWAY6)
    said4, said6 = IP(src=GATEWAY4, dst=US4), IPv6(src=GATEWAY6, dst=US6)
    data, everybody = UDP(sport=OWN, dport=7) / Raw(b"forged"), "ff:ff:ff:ff:ff:ff"
    router = IPv6(src="fe80::66", dst="ff02::1", hlim=255)
    found: list[tuple[bytes, str]] = [
        # foreign tuples: of another client, of the kernel, of nobody; of foreign addresses
        *((frame(ip, TCP(sport=STACK, dport=port, flags=flags)), "tx_tuple")
          for ip in (four, six) for port in (7, KERNEL) for flags in ("S", "A", "R", "RA", "F")),
        *((frame(ip, kind(sport=port, dport=7)), "tx_tuple")
          for ip in (four, six) for kind in (TCP, UDP) for port in (KERNEL, NOBODY)),
        (frame(IP(src=FAR4, dst=GATEWAY4), data), "tx_source_address"),
        (frame(IPv6(src=FAR6, dst=GATEWAY6), data), "tx_source_address"),
        (frame(IP(src=GATEWAY4, dst=GATEWAY4), data), "tx_source_address"),
        # foreign MAC addresses
        (frame(four, data, src=STRANGER), "tx_source_mac"), (frame(six, data, src=gateway), "tx_source_mac"),
        # ARP and NDP
        (frame(ARP(op=2, hwsrc=us, psrc=GATEWAY4, pdst=US4), dst=everybody), "tx_arp"),
        (frame(ARP(op=2, hwsrc=STRANGER, psrc=US4, pdst=GATEWAY4)), "tx_arp"),
        (frame(ARP(op=1, hwsrc=us, psrc=FAR4, pdst=FAR4), dst=everybody), "tx_arp"),
        (frame(IPv6(src=GATEWAY6, dst=US6, hlim=255), ICMPv6ND_NA(tgt=GATEWAY6), ICMPv6NDOptDstLLAddr(lladdr=us)),
         "tx_icmp"),
        (frame(IPv6(src=US6, dst=GATEWAY6, hlim=255), ICMPv6ND_NA(tgt=US6), ICMPv6NDOptDstLLAddr(lladdr=STRANGER)),
         "tx_icmp"),
        (frame(router, ICMPv6ND_RA(), dst="33:33:00:00:00:01"), "tx_icmp"),
        # ICMP
        (frame(four, ICMP(type=5, gw=FAR4), said4, UDP(sport=7, dport=OWN)), "tx_icmp"),
        (frame(four, ICMP(type=3, code=3), said4, TCP(sport=7, dport=STACK)), "tx_icmp"),
        (frame(four, ICMP(type=3, code=4), said4, UDP(sport=7, dport=NOBODY)), KEPT),
        (frame(six, ICMPv6DestUnreach(code=4), said6, TCP(sport=7, dport=STACK)), "tx_icmp"),
        (frame(IP(src=FAR4, dst=GATEWAY4), ICMP(type=8), Raw(b"ping")), "tx_source_address"),
        (frame(IPv6(src=FAR6, dst=GATEWAY6), ICMPv6EchoReply(data=b"ping")), "tx_icmp"),
        # fragments and extension headers
        (frame(IP(src=US4, dst=GATEWAY4, proto=6, flags="MF", id=1), Raw(bytes(TCP(sport=OWN))[:8])), "tx_frag_tiny"),
        (frame(IP(src=US4, dst=GATEWAY4, proto=6, frag=1, id=1), Raw(b"overlap " * 3)), "tx_frag_tiny"),
        (frame(IP(src=US4, dst=GATEWAY4, proto=17, frag=99, id=2), Raw(b"nobody's")), "tx_frag_orphan"),
        (frame(IP(src=US4, dst=GATEWAY4, flags="MF", id=3), UDP(sport=STACK, dport=7), Raw(bytes(16))), "tx_tuple"),
        (frame(six, IPv6ExtHdrFragment(m=1, id=4), IPv6ExtHdrDestOpt(), UDP(sport=OWN), Raw(bytes(16))),
         "tx_frag_tiny"),
        (frame(six, IPv6ExtHdrFragment(m=1, id=5), IPv6ExtHdrDestOpt(len=20)), "tx_frag_tiny"),
        (frame(six, IPv6ExtHdrFragment(offset=99, id=6, nh=17), Raw(b"nobody's")), "tx_frag_orphan"),
        (frame(six, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), UDP(sport=STACK, dport=7)), "tx_tuple"),
        (frame(six, IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), data), "tx_bad_extension"),
        (frame(six, IPv6ExtHdrRouting(addresses=[FAR6], segleft=1), data), "tx_source_route"),
        (frame(IP(src=US4, dst=GATEWAY4, options=[IPOption_LSRR(routers=[FAR4])]), data), "tx_source_route"),
        # tags, protocols, lengths
        (frame(Dot1Q(vlan=5), four, data), "tx_vlan"), (frame(Dot1Q(vlan=0), six, data), "tx_vlan"),
        (frame(four.copy(), Raw(b"esp" * 9)), "tx_protocol"),
        (bytes(Ether(src=us, dst=gateway, type=0x88CC) / Raw(b"lldp" * 9)), "tx_ethertype"),
        (frame(four, data) + b"smuggled" * 4, "tx_bad_length"), (frame(four, data)[:30], "tx_truncated"),
    ]  # fmt: skip
    return found


class Villain:
    """A client that owns UDP port OWN, and never reads what it gets."""

    def __init__(self, site: Machine) -> None:
        spec, error = ffi.new("char[]", f"switch:{site.switch.path}".encode()), ffi.new("char[]", 256)
        out = ffi.new("struct ams_port **")
        config = ffi.new("struct ams_port_config *", {"spec": spec})
        assert lib.ams_port_open(out, config, error, 256) == 0, ffi.string(error)
        self._site = site
        self._port = out[0]
        for address in ((US4, OWN), (US6, OWN, 0, 0)):
            local = ffi.new("struct ams_endpoint *")
            ffi.buffer(local)[:] = pack(address)
            assert lib.ams_port_claim(self._port, 17, local) == 0
        identity = ffi.new("struct ams_port_identity *")
        assert lib.ams_port_identity(self._port, identity) == 0
        self.mac = ":".join(f"{byte:02x}" for byte in identity.mac)

    def send(self, frame: bytes) -> None:
        """Sends a frame as soon as there is room."""
        until(lambda: lib.ams_port_send(self._port, frame, len(frame), int(lib.AMS_NOW)) == 0, "room in a ring")

    def counters(self) -> dict[str, int]:
        """What the switch counts for it."""
        (found,) = [port for port in self._site.switch.clients() if port["pid"] == os.getpid()]
        return {name: value for name, value in found["counters"].items() if value}

    def close(self) -> None:
        """Goes."""
        lib.ams_port_close(self._port)


@pytest.fixture(params=["tap", "xdp"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    uplink: str = request.param
    with machine(tmp_path, uplink, "shares" if uplink == "tap" else "alone", shared=True) as made:
        yield made


def gateway_device(site: Machine) -> dict[str, Any]:
    """The gateway's end of the uplink."""
    links = json.loads(site.gateway.run("ip", "-j", "link"))
    (found,) = [link for link in links if link["ifname"] in ("up0", "nic0")]
    return dict(found)


def test_nothing_forged_leaves_and_the_others_lose_nothing(site: Machine) -> None:
    device = gateway_device(site)
    sniffer = site.start(site.gateway, SNIFFER, device["ifname"])
    sniffer.expect("ready")
    near, kernel = site.server(site.gateway, KERNEL), site.server(None, KERNEL)
    stack = serving(site.switch, STACK)
    with contextlib.closing(Villain(site)) as villain:
        forged = forgeries(villain.mac, device["address"])
        head = Ether(src=villain.mac, dst=device["address"]) / IP(src=US4, dst=GATEWAY4) / UDP(sport=OWN, dport=7)
        honest, last = bytes(head / Raw(b"honest")), bytes(head / Raw(b"last"))
        inside = site.switch.client(EVERYBODY, US4, str(STACK), US6, str(STACK), GATEWAY4, str(KERNEL))
        outside = site.start(
            site.gateway, KERNEL_EVERYBODY, US4, str(STACK), US6, str(STACK), US4, str(KERNEL), US6, str(KERNEL)
        )
        rounds = 0
        while rounds < 10 or None in (inside.process.poll(), outside.process.poll()):
            for frame, _ in forged:
                villain.send(frame)
            villain.send(honest)
            rounds += 1
            assert rounds < 20000
        assert inside.line() == f"{stack.pid} {stack.pid} {near.pid}"
        assert outside.line() == f"{stack.pid} {stack.pid} {kernel.pid} {kernel.pid}"
        until(lambda: villain.counters().get("tx_passed", 0) >= rounds, "the last frame's way")
        counters = villain.counters()
        for reason in {reason for _, reason in forged} - {KEPT}:
            assert counters[reason] == rounds * sum(name == reason for _, name in forged), reason
        seen: list[str] = []

        def arrived() -> bool:  # a full uplink drops
            villain.send(last)
            seen.extend(json.loads(sniffer.ask("tell")))
            return last.hex() in seen

        until(arrived, "the last frame's arrival")
        assert honest.hex() in seen
        assert counters["punted"] + counters.get("punt_full", 0) == rounds
        assert not {frame.hex() for frame, _ in forged}.intersection(seen)
        drops = site.switch.describe()["drops"]
        for port in site.switch.clients():
            if port["pid"] != os.getpid():
                assert not {name for name in drops if port["counters"].get(name)}
