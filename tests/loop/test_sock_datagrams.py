"""loop.sock_recvfrom(), sock_sendto() and datagram endpoints on sockets that programs make themselves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from typing import Any

import pytest

from .conftest import Net, free_port
from .protocols import Datagrams
from .sockets import SOL, bound, plain


@contextlib.contextmanager
def udp(net: Net, host: str) -> Any:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no sock_recvfrom() and no sock_sendto()")
    with bound(net, host, socket.SOCK_DGRAM) as server, plain(host, socket.SOCK_DGRAM) as client:
        yield server, client


@pytest.mark.parametrize("family", [4, 6])
async def test_datagrams(net: Net, family: int) -> None:
    loop, host = net.loop, net.hosts[family == 6]
    with udp(net, host) as (server, client):
        receiving = asyncio.ensure_future(loop.sock_recvfrom(server, 100))
        await asyncio.sleep(0)
        assert await loop.sock_sendto(client, b"ping", server.getsockname()) == 4
        data, address = await receiving
        assert data == b"ping"
        assert address[1] == client.getsockname()[1]
        buffer = bytearray(20)
        await loop.sock_sendto(server, b"pong", address)
        assert await loop.sock_recvfrom_into(client, buffer) == (4, server.getsockname())
        assert buffer[:4] == b"pong"
        await loop.sock_sendto(server, b"cut here", address)
        assert await loop.sock_recvfrom_into(client, buffer, 3) == (3, server.getsockname())
        assert buffer[:4] == b"cutg"
        await loop.sock_sendto(server, b"", address)
        assert await loop.sock_recvfrom(client, 10) == (b"", server.getsockname())


async def test_a_connected_datagram_socket(net: Net) -> None:
    loop = net.loop
    with udp(net, net.host4) as (server, client):
        receiving = asyncio.ensure_future(loop.sock_recvfrom(server, 100))
        await asyncio.sleep(0)
        await loop.sock_connect(client, server.getsockname())
        assert client.getpeername() == server.getsockname()
        await loop.sock_sendall(client, b"hello")
        assert await receiving == (b"hello", client.getsockname())
        await loop.sock_sendto(server, b"back", client.getsockname())
        assert await loop.sock_recv(client, 100) == b"back"


async def test_datagram_errors(net: Net) -> None:
    loop = net.loop
    with udp(net, net.host4) as (_, client):
        with pytest.raises(OSError) as caught:
            await loop.sock_sendto(client, b"x" * 70_000, (net.host4, 9))
        assert caught.value.errno == errno.EMSGSIZE
        await loop.sock_connect(client, (net.host4, free_port()))
        await loop.sock_sendall(client, b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_recv(client, 100)


async def test_broadcasts_need_permission(net: Net) -> None:
    broadcast = "10.9.0.255" if net.ours else "127.255.255.255"
    with udp(net, net.host4) as (_, client):
        with pytest.raises(PermissionError):
            await net.loop.sock_sendto(client, b"x", (broadcast, 9))
        client.setsockopt(SOL, socket.SO_BROADCAST, 1)
        assert client.getsockopt(SOL, socket.SO_BROADCAST) == 1
        assert await net.loop.sock_sendto(client, b"x", (broadcast, 9)) == 1


async def test_a_bound_socket_becomes_a_datagram_endpoint(net: Net) -> None:
    sock = bound(net, net.host4, socket.SOCK_DGRAM)
    address = sock.getsockname()
    transport, protocol = await net.loop.create_datagram_endpoint(Datagrams, sock=sock)
    other, peer = await net.loop.create_datagram_endpoint(Datagrams, remote_addr=address)
    assert transport.get_extra_info("sockname") == address
    other.sendto(b"ping")
    assert await protocol.received.get() == (b"ping", other.get_extra_info("sockname"))
    transport.sendto(b"pong", other.get_extra_info("sockname"))
    assert await peer.received.get() == (b"pong", address)
    transport.close()
    other.close()
    await asyncio.sleep(0.01)


async def test_allow_broadcast(net: Net) -> None:
    broadcast = ("10.9.0.255" if net.ours else "127.255.255.255", 9)
    for allowed in (False, True):
        transport, protocol = await net.loop.create_datagram_endpoint(
            Datagrams, local_addr=(net.host4, 0), allow_broadcast=allowed
        )
        transport.sendto(b"all", broadcast)
        await asyncio.sleep(0.01)
        assert [type(protocol.errors.get_nowait()) for _ in range(protocol.errors.qsize())] == (
            [] if allowed else [PermissionError]
        )
        assert protocol.received.empty()
        transport.close()
        await asyncio.sleep(0.01)


async def test_kernel_datagrams_on_our_loop(ours: Net, net: Net) -> None:
    with plain("127.0.0.1", socket.SOCK_DGRAM) as one, plain("127.0.0.1", socket.SOCK_DGRAM) as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        receiving = asyncio.ensure_future(net.loop.sock_recvfrom(one, 10))
        await asyncio.sleep(0)
        await net.loop.sock_sendto(two, b"kernel", one.getsockname())
        assert await receiving == (b"kernel", two.getsockname())
        buffer = bytearray(10)
        await net.loop.sock_sendto(one, b"back", two.getsockname())
        assert await net.loop.sock_recvfrom_into(two, buffer) == (4, one.getsockname())


async def test_netlink_datagram_endpoints(ours: Net, net: Net) -> None:
    if not hasattr(socket, "AF_NETLINK"):
        pytest.skip("no netlink here")
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    sock.bind((0, 0))
    transport, protocol = await net.loop.create_datagram_endpoint(Datagrams, sock=sock)
    message = struct.pack("=IHHII", 17, 18, 0x301, 7, 0) + b"\0"  # RTM_GETLINK, a dump
    transport.sendto(message, (0, 0))
    data, _ = await protocol.received.get()
    assert struct.unpack_from("=IHHI", data)[3] == 7
    transport.close()
    await asyncio.sleep(0.01)
