"""Multicast with Linux: datagrams to groups both ways, and a bridge that asks for members and snoops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from .lab import KERNEL4, STACK4, Bench, command, stack_loop, tap_name

GROUPS = {4: "239.99.1.2", 6: "ff15::99:12"}
PORT = 5099
FAMILIES = pytest.mark.parametrize("family", [4, 6])


class Collector(asyncio.DatagramProtocol):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))


def membership(family: int, index: int = 0) -> tuple[int, int, int, bytes]:
    """Level, the options to join and leave, and their argument."""
    if family == 4:
        value = struct.pack("=4s4si", socket.inet_aton(GROUPS[4]), bytes(4), index)
        return socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP, value
    value = struct.pack("=16sI", socket.inet_pton(socket.AF_INET6, GROUPS[6]), index)
    return socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP, value


async def member(family: int) -> tuple[asyncio.DatagramTransport, Collector]:
    """An endpoint of ours that is in the group."""
    loop = asyncio.get_running_loop()
    any_address = "0.0.0.0" if family == 4 else "::"
    transport, protocol = await loop.create_datagram_endpoint(Collector, local_addr=(any_address, PORT))
    level, join, _, value = membership(family)
    transport.get_extra_info("socket").setsockopt(level, join, value)
    return transport, protocol


def kernel_socket(family: int, device: str) -> socket.socket:
    """A kernel socket whose multicast goes out, and comes in, on a device."""
    index = socket.if_nametoindex(device)
    if family == 4:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
    else:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.setblocking(False)
    return sock


@FAMILIES
def test_the_kernel_sends_to_our_group(bench: Bench, family: int) -> None:
    async def main() -> None:
        transport, protocol = await member(family)
        with kernel_socket(family, bench.config.port_name) as sock:
            sock.sendto(b"to the group", (GROUPS[family], PORT))
            data, address = await asyncio.wait_for(protocol.received.get(), 20)
            assert data == b"to the group"
            assert address[1] == sock.getsockname()[1]
            level, _, leave, value = membership(family)
            transport.get_extra_info("socket").setsockopt(level, leave, value)
            sock.sendto(b"nobody is there", (GROUPS[family], PORT))
            sock.sendto(b"to one", ((STACK4 if family == 4 else "fd99::2"), PORT))
            assert (await asyncio.wait_for(protocol.received.get(), 20))[0] == b"to one"
        transport.close()

    bench.run(main)


@FAMILIES
def test_we_send_to_the_kernel_s_group(bench: Bench, family: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        own = (STACK4 if family == 4 else "fd99::2", 0)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=own)
        with kernel_socket(family, bench.config.port_name) as sock:
            sock.bind(("", PORT) if family == 4 else ("::", PORT))
            level, join, _, value = membership(family, socket.if_nametoindex(bench.config.port_name))
            sock.setsockopt(level, join, value)
            transport.sendto(b"from the stack", (GROUPS[family], PORT))
            sock.settimeout(20)
            data, address = await loop.run_in_executor(None, sock.recvfrom, 100)
            assert data == b"from the stack"
            assert address[:2] == (own[0], transport.get_extra_info("sockname")[1])
        transport.close()

    bench.run(main)


# ---- a bridge that snoops -----------------------------------------------------------------------------------

BRIDGE = "amsbr0"


@pytest.fixture
def bridged(lab: None, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A TAP that is a port of a bridge, which asks for members and remembers them; its versions are the parameter."""
    igmp, mld = request.param
    options = ["mcast_snooping", "1", "mcast_querier", "1", "mcast_igmp_version", igmp, "mcast_mld_version", mld,
               "mcast_query_interval", "100", "mcast_membership_interval", "300", "mcast_query_response_interval", "50",
               "mcast_startup_query_interval", "50", "mcast_last_member_interval", "20",
               "mcast_last_member_count", "2"]  # fmt: skip
    command("ip", "link", "add", BRIDGE, "type", "bridge", *options)
    try:
        name = tap_name()
        command("ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr")
        command("ip", "link", "set", name, "master", BRIDGE, "up")
        command("ip", "address", "add", f"{KERNEL4}/24", "dev", BRIDGE)
        command("ip", "link", "set", BRIDGE, "up")
        with stack_loop(port=f"tap:{name}", host_addresses=[], gateway=[]) as bench:
            yield bench
    finally:
        command("ip", "link", "del", BRIDGE)


def members(device: str) -> set[str]:
    """Groups that the bridge believes to have members behind a port."""
    tables = json.loads(command("bridge", "-j", "mdb", "show", "dev", BRIDGE))
    return {row["grp"] for table in tables for row in table.get("mdb", []) if row.get("port") == device}


async def until(condition: Any, what: str) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.1)
    pytest.fail(what)


@FAMILIES
@pytest.mark.parametrize("bridged", [("3", "2"), ("2", "1")], indirect=True, ids=["IGMPv3, MLDv2", "IGMPv2, MLDv1"])
def test_a_bridge_learns_of_members(bridged: Bench, family: int) -> None:
    """Joining is reported, queries are answered, and leaving is reported: the kernel's table says so."""
    device, group = bridged.config.port_name, GROUPS[family]

    async def main() -> None:
        transport, _ = await member(family)
        with contextlib.closing(transport):
            await until(lambda: group in members(device), f"the bridge does not learn of {group}")
            before = bridged.loop.multistack.counters()["stack.group_query_rx"]
            await asyncio.sleep(5)  # longer than it remembers members that don't answer
            assert group in members(device)
            assert bridged.loop.multistack.counters()["stack.group_query_rx"] > before
            level, _, leave, value = membership(family)
            transport.get_extra_info("socket").setsockopt(level, leave, value)
            await until(lambda: group not in members(device), f"the bridge does not learn that {group} was left")

    bridged.run(main)
