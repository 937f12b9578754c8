"""Property: whatever a client writes into its rings, a frame comes out somewhere only if its source is the client's.

The judge is scapy.  Frames come out at another client, at the uplink, and at the control plane.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from aiomultistack._native import ffi, lib
from fabric_lab import MAC, PEER4, PEER6, PEER_MAC, TCP_PROTO, UDP_PROTO, US4, US6, Fabric, Rings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

OWNED, OTHERS, GROUPED, UNOWNED = 8000, 8001, 8002, 9999
BUFFERS = 64 + 64


class Lab:
    """A fabric with a sender that doesn't keep to the rules, another client, and an uplink."""

    def __init__(self) -> None:
        self.hub = lib.ams_hub_new(1, 0, lib.AMS_HUB_NO_OFFLOAD)
        self.wire = self._open("mem:wire", self.hub)
        self.fabric = Fabric(uplink=("mem:uplink", self.hub), punt_frames=1024)
        self.sender, self.other = self.fabric.attach(), self.fabric.attach()
        for protocol in (TCP_PROTO, UDP_PROTO):
            assert self.sender.claim(OWNED, protocol=protocol) == self.other.claim(OTHERS, protocol=protocol) == "OK"
            for client in (self.sender, self.other):
                assert client.claim(GROUPED, protocol=protocol, group=True) == "OK"
        self.rings: Rings = self.sender.rings()
        self.buf_ofs = int.from_bytes(self.rings.map[self.rings.tx : self.rings.tx + 8], "little", signed=True)
        self.buf_size = self.rings.field(self.rings.tx, "buf_size")
        self.head = 0

    def _open(self, spec: str, hub: Any) -> Any:
        out, error, name = ffi.new("struct ams_port **"), ffi.new("char[]", 256), ffi.new("char[]", spec.encode())
        config = ffi.new("struct ams_port_config *", {"spec": name, "hub": hub})
        assert lib.ams_port_open(out, config, error, len(error)) == 0
        return out[0]

    def write(self, frame: bytes, *, buf_idx: int = -1, length: int = -1, flags: int = 0) -> None:
        """Puts a frame into the next slot, without a look at the ring's indices."""
        number = self.head % 64
        index = number + 1
        start = self.rings.tx + self.buf_ofs + index * self.buf_size
        self.rings.map[start : start + len(frame)] = frame
        self.rings.set_slot(self.rings.tx, number, index if buf_idx < 0 else buf_idx,
                            len(frame) if length < 0 else length, flags)
        self.head += 1

    def out(self) -> list[bytes]:
        """Lets the fabric work; all frames of the sender's that came out."""
        self.rings.set_field(self.rings.tx, "head", self.head % 64)
        os.write(self.sender.fds[1], (1).to_bytes(8, "little"))
        self.fabric.run()
        frames = self.other.receive() + receive(self.wire)
        frames += [frame for index, frame in self.fabric.punted() if index == self.sender.index]
        self.sender.receive()
        return frames

    def close(self) -> None:
        self.rings.close()
        self.fabric.close()
        lib.ams_port_close(self.wire)
        lib.ams_hub_free(self.hub)


def receive(port: Any) -> list[bytes]:
    """All frames that wait at a port."""
    buffer, frames = ffi.new("char[]", 4096), []
    while (length := lib.ams_port_recv(port, buffer, len(buffer), 0)) >= 0:
        frames.append(bytes(ffi.buffer(buffer, length)))
    return frames


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    with contextlib.closing(made):
        yield made


def is_true(frame: bytes) -> bool:
    """Whether a frame says nothing but what the sender may say, or may ask the control plane to say."""
    packet = Ether(frame)
    network = packet.payload
    if packet.src != MAC:
        return False
    if isinstance(network, ARP):
        probe = network.psrc == "0.0.0.0" and network.pdst == US4
        return bool(network.hwsrc == MAC and (network.psrc == US4 or probe))
    if not isinstance(network, (IP, IPv6)):
        return False
    transport = network.getlayer(TCP) or network.getlayer(UDP)
    later = (network.frag if isinstance(network, IP) else getattr(network.getlayer(IPv6ExtHdrFragment), "offset", 0))
    if later:
        return True  # it followed a first one; tested in C
    if transport is None or network.getlayer(ICMP) is not None or "ICMPv6" in repr(network.layers()):
        return network.src in (US4, US6, "::")
    return network.src in (US4, US6) and transport.sport in (OWNED, GROUPED)


ports = st.sampled_from([OWNED, OWNED, OTHERS, GROUPED, UNOWNED, 0])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame that may be forged in any of its layers, some of its bytes changed."""
    ether = Ether(src=draw(st.sampled_from([MAC, MAC, MAC, PEER_MAC])),
                  dst=draw(st.sampled_from([MAC, PEER_MAC, "ff:ff:ff:ff:ff:ff"])))
    network: Packet
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return bytes(ether / ARP(op=draw(st.sampled_from([1, 2])), hwsrc=draw(st.sampled_from([MAC, PEER_MAC])),
                                 psrc=draw(st.sampled_from([US4, PEER4, "0.0.0.0"])),
                                 pdst=draw(st.sampled_from([US4, PEER4]))))
    if kind < 6:
        network = IP(src=draw(st.sampled_from([US4, US4, PEER4])), dst=draw(st.sampled_from([US4, PEER4])),
                     options=draw(st.sampled_from([[], [], [IPOption_NOP()] * 4])),
                     flags=draw(st.sampled_from([0, 0, 0, "MF"])), frag=draw(st.sampled_from([0, 0, 0, 0, 7])))
    else:
        network = IPv6(src=draw(st.sampled_from([US6, US6, PEER6])), dst=draw(st.sampled_from([US6, PEER6])),
                       hlim=255)
        for header in draw(st.lists(st.sampled_from([IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1, id=7)]),
                                    max_size=2)):
            network = network / header.copy()
    payload = Raw(draw(st.binary(max_size=200)))
    transport: Packet = draw(st.sampled_from([
        TCP(sport=draw(ports), dport=draw(ports), flags=draw(st.sampled_from(["S", "A", "R"]))) / payload,
        UDP(sport=draw(ports), dport=draw(ports)) / payload,
        ICMP() / payload, ICMPv6ND_NS(tgt=PEER6), ICMPv6ND_NA(tgt=US6), payload,
    ]))
    if draw(st.integers(0, 9)) == 0:
        ether = ether / Dot1Q(vlan=draw(st.integers(0, 2)))
    frame = bytearray(bytes(ether / network / transport))
    for _ in range(draw(st.integers(0, 2))):
        frame[draw(st.integers(0, len(frame) - 1))] = draw(st.integers(0, 255))
    return bytes(frame)


slots = st.fixed_dictionaries({}, optional={
    "buf_idx": st.one_of(st.integers(0, BUFFERS + 1), st.integers(0, 2**32 - 1)),
    "length": st.integers(0, 65535), "flags": st.integers(0, 65535),
})


@settings(max_examples=120, deadline=None,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                                 HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.tuples(frames(), st.one_of(st.just({}), st.just({}), slots)), min_size=1, max_size=8))
def test_what_comes_out_is_true(lab: Lab, batch: list[tuple[bytes, dict[str, int]]]) -> None:
    for frame, slot in batch:
        lab.write(frame, **slot)
    for frame in lab.out():
        assert is_true(frame), Ether(frame).summary()


def test_honest_frames_come_out(lab: Lab) -> None:
    sent = [bytes(Ether(src=MAC, dst=MAC) / IP(src=US4, dst=US4) / UDP(sport=port, dport=OTHERS) / Raw(b"x" * 30))
            for port in (OWNED, GROUPED)]
    for frame in sent:
        lab.write(frame)
    assert lab.out() == sent
