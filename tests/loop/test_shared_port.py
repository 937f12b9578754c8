"""Several sockets of one loop on one port: SO_REUSEPORT."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Any

import pytest

import aiomultistack

from .conftest import Net
from .protocols import Recorder
from .sockets import SOL, new_socket

CLIENTS = 60


def sharing_socket(net: Net, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of a program's own that shares its port."""
    sock = new_socket(net, net.host4, kind)
    sock.setsockopt(SOL, socket.SO_REUSEPORT, 1)
    return sock


async def spread(address: tuple[str, int], servers: int) -> list[int]:
    """Connects many times; how many connections each server (which says its number) has got."""
    counts = [0] * servers
    for _ in range(CLIENTS):
        reader, writer = await asyncio.open_connection(*address)
        counts[int(await reader.read())] += 1
        writer.close()
        await writer.wait_closed()
    return counts


def telling(number: int) -> Any:
    """A server's protocol that says its number and closes."""

    class Telling(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(str(number).encode())
            transport.close()

    return Telling


async def test_servers_share_a_port(net: Net) -> None:
    """Each gets its part of the connections; the others take over the port of one that leaves."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        port = 0
        servers = []
        for number in range(3):
            server = await loop.create_server(telling(number), net.host4, port, reuse_port=True)
            servers.append(await stack.enter_async_context(server))
            port = server.sockets[0].getsockname()[1]
            assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        with pytest.raises(OSError) as caught:
            await loop.create_server(telling(9), net.host4, port)
        assert caught.value.errno == errno.EADDRINUSE
        counts = await spread((net.host4, port), 3)
        assert sum(counts) == CLIENTS
        assert min(counts) > 0
        servers[0].close()
        counts = await spread((net.host4, port), 3)
        assert counts[0] == 0
        assert min(counts[1:]) > 0


async def test_port_0_is_a_free_port_even_if_it_is_to_be_shared(net: Net) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        ports = set()
        for number in range(20):
            server = await loop.create_server(telling(number), net.host4, 0, reuse_port=True)
            await stack.enter_async_context(server)
            ports.add(server.sockets[0].getsockname()[1])
        assert len(ports) == 20


async def test_listening_sockets_share_a_port(net: Net) -> None:
    """With sock_accept(), with create_server(sock=), and both together."""
    loop = asyncio.get_running_loop()
    with sharing_socket(net) as one, sharing_socket(net) as two:
        one.bind((net.host4, 0))
        address = one.getsockname()
        two.bind(address)
        one.listen()
        two.listen()
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)

        async def accept() -> None:
            while True:
                conn, _ = await loop.sock_accept(one)
                with conn:
                    await loop.sock_sendall(conn, b"0")

        accepting = asyncio.ensure_future(accept())
        async with await loop.create_server(telling(1), sock=two):
            counts = await spread(address, 2)
            assert sum(counts) == CLIENTS
            assert min(counts) > 0
        accepting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await accepting


async def test_a_port_is_shared_only_by_those_who_agree(net: Net) -> None:
    with sharing_socket(net) as one, (aiomultistack.socket() if net.ours else socket.socket()) as two:
        one.bind((net.host4, 0))
        one.listen()
        with pytest.raises(OSError) as caught:
            two.bind(one.getsockname())
        assert caught.value.errno == errno.EADDRINUSE


class Counting(asyncio.DatagramProtocol):
    """Counts what it gets, by sender."""

    def __init__(self) -> None:
        self.senders: list[Any] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.senders.append(addr)


@pytest.mark.parametrize("how", ["address", "sock"])
async def test_datagram_endpoints_share_a_port(net: Net, how: str) -> None:
    """All that one sender sends goes to one of them."""
    loop = asyncio.get_running_loop()
    address = (net.host4, 0)
    ends = []
    for _ in range(3):
        if how == "address":
            transport, protocol = await loop.create_datagram_endpoint(Counting, address, reuse_port=True)
        else:
            sock = sharing_socket(net, socket.SOCK_DGRAM)
            sock.bind(address)
            transport, protocol = await loop.create_datagram_endpoint(Counting, sock=sock)
        address = transport.get_extra_info("sockname")
        assert transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        ends.append((transport, protocol))
    if net.flavour != "uvloop-kernel":  # uvloop sets SO_REUSEADDR, and with that the kernel lets it
        with pytest.raises(OSError) as caught:
            await loop.create_datagram_endpoint(Counting, address)
        assert caught.value.errno == errno.EADDRINUSE
    clients = [await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address) for _ in range(40)]
    for _ in range(3):
        for client, _ in clients:
            client.sendto(b"x")
    while sum(len(protocol.senders) for _, protocol in ends) < 120:
        await asyncio.sleep(0.01)
    found = [set(protocol.senders) for _, protocol in ends]
    assert all(found)
    assert sum(map(len, found)) == 40
    for transport, _ in [*ends, *clients]:
        transport.close()
    await asyncio.sleep(0.01)


async def test_recorders_of_a_shared_port_are_told_of_the_end(net: Net) -> None:
    """Closing one server leaves the connections of all as they are."""
    loop = asyncio.get_running_loop()
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    one = await loop.create_server(factory, net.host4, 0, reuse_port=True)
    address = one.sockets[0].getsockname()
    two = await loop.create_server(factory, *address, reuse_port=True)
    _, client = await loop.create_connection(Recorder, *address)
    client.transport.write(b"hello")
    while not made:
        await asyncio.sleep(0.01)
    one.close()
    two.close()
    assert await made[0].received(5) == b"hello"
    client.transport.close()
    await asyncio.gather(client.lost, made[0].lost)
