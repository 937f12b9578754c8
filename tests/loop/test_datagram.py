"""create_datagram_endpoint()."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .conftest import Net
from .protocols import Datagrams


async def endpoint(net: Net, echo: bool = False, **options: Any) -> Datagrams:
    """A datagram endpoint's protocol."""
    _, protocol = await net.loop.create_datagram_endpoint(lambda: Datagrams(echo), **options)
    return protocol


async def closed(*protocols: Datagrams) -> None:
    for protocol in protocols:
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert await protocol.lost is None


@pytest.mark.parametrize("family", [4, 6])
async def test_connected(net: Net, family: int) -> None:
    server = await endpoint(net, echo=True, local_addr=(net.hosts[family == 6], 0))
    address = server.transport.get_extra_info("sockname")
    client = await endpoint(net, remote_addr=address[:2])
    client.transport.sendto(b"question")
    assert await client.received.get() == (b"QUESTION", address)
    assert server.received.get_nowait() == (b"question", client.transport.get_extra_info("sockname"))
    assert client.transport.get_extra_info("peername") == address
    assert client.transport.get_extra_info("socket").type == socket.SOCK_DGRAM
    with pytest.raises(ValueError, match="Invalid address"):
        client.transport.sendto(b"x", ("203.0.113.9", 9))
    await closed(client, server)


async def test_sizes(net: Net) -> None:
    server = await endpoint(net, echo=True, local_addr=(net.host4, 0))
    address = server.transport.get_extra_info("sockname")
    client = await endpoint(net, remote_addr=address)
    for size in (1, 1472, 1473, 9000, 60_000):
        client.transport.sendto(b"z" * size)
        data, _ = await client.received.get()
        assert data == b"Z" * size
    await closed(client, server)


async def test_too_long(net: Net) -> None:
    server = await endpoint(net, local_addr=(net.host4, 0))
    client = await endpoint(net, remote_addr=server.transport.get_extra_info("sockname"))
    client.transport.sendto(b"z" * 70_000)
    assert isinstance(await client.errors.get(), OSError)
    await closed(client, server)


async def test_refused(net: Net) -> None:
    probe = await endpoint(net, local_addr=(net.host4, 0))
    address = probe.transport.get_extra_info("sockname")
    await closed(probe)
    client = await endpoint(net, remote_addr=address)
    client.transport.sendto(b"anybody?")
    assert isinstance(await client.errors.get(), ConnectionRefusedError)
    await closed(client)


async def test_unconnected(ours: Net, net: Net) -> None:
    server = await endpoint(net, echo=True, local_addr=(net.host4, 0))
    client = await endpoint(net, local_addr=("10.9.0.2", 0))
    address = server.transport.get_extra_info("sockname")
    client.transport.sendto(b"x", address)
    assert await client.received.get() == (b"X", address)
    assert client.transport.get_extra_info("peername") is None
    await closed(client, server)


async def test_address_in_use(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop sets SO_REUSEADDR")
    first = await endpoint(net, local_addr=(net.host4, 0))
    with pytest.raises(OSError):
        await endpoint(net, local_addr=first.transport.get_extra_info("sockname"))
    await closed(first)


async def test_many_at_once(net: Net) -> None:
    server = await endpoint(net, local_addr=(net.host4, 0))
    client = await endpoint(net, remote_addr=server.transport.get_extra_info("sockname"))
    client.transport.sendto(b"0")
    await server.received.get()  # the neighbour is known now; few datagrams may wait for that
    for number in range(50):
        client.transport.sendto(b"%d" % number)
    assert [int((await server.received.get())[0]) for _ in range(50)] == list(range(50))
    await closed(client, server)


async def test_exception_in_datagram_received(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop goes on")

    class Failing(Datagrams):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            raise ZeroDivisionError

    _, server = await net.loop.create_datagram_endpoint(Failing, local_addr=(net.host4, 0))
    client = await endpoint(net, remote_addr=server.transport.get_extra_info("sockname"))
    client.transport.sendto(b"x")
    while not net.contexts:
        await asyncio.sleep(0.001)
    assert isinstance(net.take_error()["exception"], ZeroDivisionError)
    server.transport.abort()
    await server.lost
    await closed(client)


@pytest.mark.parametrize("group", ["239.7.7.7", "ff05::77"])
async def test_a_group_is_joined_and_left(net: Net, group: str) -> None:
    """The options of ip(7) and ipv6(7); whoever is in the group hears himself, too."""
    if not net.ours:
        pytest.skip("which interface a kernel's group is on depends on its routes")
    v6 = ":" in group
    host = net.host6 if v6 else net.host4
    protocol = await endpoint(net, local_addr=("::" if v6 else "0.0.0.0", 5353))
    sock = protocol.transport.get_extra_info("socket")
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    join, leave = (
        (socket.IPV6_JOIN_GROUP, socket.IPV6_LEAVE_GROUP)
        if v6
        else (socket.IP_ADD_MEMBERSHIP, socket.IP_DROP_MEMBERSHIP)
    )
    request = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, group) + bytes(4)
    sock.setsockopt(level, join, request)
    with pytest.raises(OSError, match="in use"):
        sock.setsockopt(level, join, request)
    protocol.transport.sendto(b"query", (group, 5353))
    data, sender = await protocol.received.get()
    assert (data, sender[0]) == (b"query", host)
    sock.setsockopt(level, socket.IPV6_MULTICAST_LOOP if v6 else socket.IP_MULTICAST_LOOP, 0)
    protocol.transport.sendto(b"not for us", (group, 5353))
    sock.setsockopt(level, leave, request)
    with pytest.raises(OSError, match="address"):
        sock.setsockopt(level, leave, request)
    protocol.transport.sendto(b"the last", (host, 5353))
    assert (await protocol.received.get())[0] == b"the last"
    await closed(protocol)
