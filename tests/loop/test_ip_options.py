"""IP_TOS, IP_TTL, IPV6_TCLASS, IPV6_UNICAST_HOPS of all kinds of sockets: what they take, who inherits them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import aiomultistack

from .conftest import Net, pair
from .protocols import Recorder
from .sockets import bound, new_socket, plain, sockets

IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
TOS, TTL, TCLASS, HOPS = socket.IP_TOS, socket.IP_TTL, socket.IPV6_TCLASS, socket.IPV6_UNICAST_HOPS
RECVTTL, RECVTOS = 12, 13  # linux/in.h
RECVHOPLIMIT, RECVTCLASS = socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS
EF, AF21, CE = 0xB8, 0x48, 3
FAMILIES = pytest.mark.parametrize("family", [4, 6])

#: Level, option, value, and what streams and datagram sockets say then (or the errno of what is refused): Linux's.
VALUES: list[tuple[int, int, Any, int, int]] = [
    (IP, TOS, 0, 0, 0), (IP, TOS, EF, EF, EF), (IP, TOS, 255, 252, 255), (IP, TOS, 256, 0, 0), (IP, TOS, -1, 252, 255),
    (IP, TOS, b"\x48", 0x48, 0x48), (IP, TOS, b"\x48\0", 0x48, 0x48), (IP, TOS, b"", 0, 0),
    (IP, TOS, struct.pack("i", EF), EF, EF),
    (IP, TTL, 1, 1, 1), (IP, TTL, 255, 255, 255), (IP, TTL, -1, 64, 64), (IP, TTL, b"\x09", 9, 9),
    (IP, TTL, 0, -errno.EINVAL, -errno.EINVAL), (IP, TTL, 256, -errno.EINVAL, -errno.EINVAL),
    (IP, TTL, b"", -errno.EINVAL, -errno.EINVAL),
    (IPV6, TCLASS, EF, EF, EF), (IPV6, TCLASS, 255, 252, 255), (IPV6, TCLASS, -1, 0, 0),
    (IPV6, TCLASS, 256, -errno.EINVAL, -errno.EINVAL), (IPV6, TCLASS, b"\x48", -errno.EINVAL, -errno.EINVAL),
    (IPV6, HOPS, 0, 0, 0), (IPV6, HOPS, 255, 255, 255), (IPV6, HOPS, -1, 64, 64),
    (IPV6, HOPS, -2, -errno.EINVAL, -errno.EINVAL), (IPV6, HOPS, b"\x09", -errno.EINVAL, -errno.EINVAL),
]  # fmt: skip


def check_values(sock: Any, stream: bool) -> None:
    """Tries all of `VALUES` on a socket."""
    for level, option, value, of_stream, of_datagrams in VALUES:
        expected = of_stream if stream else of_datagrams
        if level == IPV6 and sock.family == socket.AF_INET:
            with pytest.raises(OSError, match=r"not available|not supported"):
                sock.setsockopt(level, option, value)
            continue
        sock.setsockopt(level, option, 12)
        if expected < 0:
            with pytest.raises(OSError) as caught:
                sock.setsockopt(level, option, value)
            assert caught.value.errno == -expected
            assert sock.getsockopt(level, option) == 12
            continue
        sock.setsockopt(level, option, value)
        assert sock.getsockopt(level, option) == expected, (level, option, value)
        assert sock.getsockopt(level, option, 4) == struct.pack("i", expected)
        assert sock.getsockopt(level, option, 1) == bytes([expected])
        assert len(sock.getsockopt(level, option, 2)) == (1 if level == IP else 2)


@FAMILIES
async def test_values_of_transports(net: Net, family: int) -> None:
    async with pair(net, host=net.hosts[family == 6]) as ends:
        check_values(ends.client.transport.get_extra_info("socket"), True)
        check_values(ends.server.transport.get_extra_info("socket"), True)


@FAMILIES
async def test_values_of_sockets(net: Net, family: int) -> None:
    host = net.hosts[family == 6]
    with new_socket(net, host) as fresh, new_socket(net, host, socket.SOCK_DGRAM) as fresh_datagrams:
        check_values(fresh, True)
        check_values(fresh_datagrams, False)
    async with sockets(net, host) as (server, client):
        check_values(server, True)
        check_values(client, True)
    with bound(net, host) as listener:
        check_values(listener, True)
    async with datagram_sockets(net, host) as (server, client):
        check_values(server, False)
        check_values(client, False)


async def test_values_of_datagram_transports(net: Net) -> None:
    transport, _ = await net.loop.create_datagram_endpoint(asyncio.DatagramProtocol, (net.host4, 0))
    try:
        check_values(transport.get_extra_info("socket"), False)
    finally:
        transport.close()
        await asyncio.sleep(0)


# ---- what is set before there is anything to set it on ------------------------------------------------------------


def choose(sock: Any, tos: int = EF, hops: int = 9) -> None:
    """Sets both for the family of the socket."""
    sock.setsockopt(*((IPV6, TCLASS) if sock.family == socket.AF_INET6 else (IP, TOS)), tos)
    sock.setsockopt(*((IPV6, HOPS) if sock.family == socket.AF_INET6 else (IP, TTL)), hops)


def chosen(sock: Any) -> tuple[int, int]:
    """What `choose` has set."""
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(IPV6, TCLASS), sock.getsockopt(IPV6, HOPS)
    return sock.getsockopt(IP, TOS), sock.getsockopt(IP, TTL)


@FAMILIES
@pytest.mark.parametrize("make", [plain, new_socket])
async def test_before_connecting(net: Net, family: int, make: Any) -> None:
    host = net.hosts[family == 6]
    async with net.server(Recorder, host) as address:
        sock = plain(host) if make is plain else new_socket(net, host)
        choose(sock)
        await net.loop.sock_connect(sock, address)
        assert chosen(sock) == (EF, 9)
        transport, protocol = await net.loop.create_connection(Recorder, sock=sock)
        assert chosen(transport.get_extra_info("socket")) == (EF, 9)
        transport.abort()
        await protocol.lost


@FAMILIES
async def test_a_listening_sockets_are_inherited(net: Net, family: int) -> None:
    host = net.hosts[family == 6]
    with new_socket(net, host) as listener, plain(host) as client:
        choose(listener)
        listener.bind((host, 0))
        listener.listen()
        accepting = asyncio.ensure_future(net.loop.sock_accept(listener))
        await net.loop.sock_connect(client, listener.getsockname())
        accepted, _ = await accepting
        with accepted:
            assert chosen(accepted) == chosen(listener) == (EF, 9)
            assert chosen(client) == (0, 64)


@FAMILIES
async def test_a_servers_are_inherited(net: Net, family: int) -> None:
    """Of a socket that the program has made; and of the server's own, later."""
    host = net.hosts[family == 6]
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    listener = new_socket(net, host)
    choose(listener)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
    listener.bind((host, 0))
    server = await net.loop.create_server(factory, sock=listener)
    try:
        for expected in ((EF, 9), (AF21, 255)):
            choose(server.sockets[0], *expected)
            address = server.sockets[0].getsockname()
            transport, protocol = await net.loop.create_connection(Recorder, *address[:2])
            while not made:
                await asyncio.sleep(0)
            await made[0].made
            accepted = made[0].transport.get_extra_info("socket")
            assert chosen(accepted) == expected
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1 or not net.ours
            transport.abort()
            await protocol.lost
            await made.pop().lost
    finally:
        server.close()
        await server.wait_closed()


# ---- datagrams ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def datagram_sockets(net: Net, host: str) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A UDP socket, and another that is connected to it."""
    with bound(net, host, socket.SOCK_DGRAM) as server, new_socket(net, host, socket.SOCK_DGRAM) as client:
        net.loop.add_reader(server, int)  # that is how ours becomes the stack's
        net.loop.remove_reader(server)
        client.connect(server.getsockname())
        yield server, client


async def receive(net: Net, sock: socket.socket, room: int = 100, flags: int = 0) -> tuple[bytes, list[Any], int]:
    """recvmsg() once there is something."""
    ready = net.loop.create_future()
    net.loop.add_reader(sock, lambda: ready.done() or ready.set_result(None))
    await ready
    net.loop.remove_reader(sock)
    data, messages, flags, _ = sock.recvmsg(100, room, flags)
    return data, messages, flags & socket.MSG_CTRUNC


def ancillary(family: int, tos: int | None, hops: int | None) -> list[tuple[int, int, bytes]]:
    """What Linux tells of a datagram, in its order."""
    found = []
    if hops is not None:
        found.append((IPV6, socket.IPV6_HOPLIMIT, struct.pack("i", hops)) if family == 6
                     else (IP, TTL, struct.pack("i", hops)))  # fmt: skip
    if tos is not None:
        found.append((IPV6, TCLASS, struct.pack("i", tos)) if family == 6 else (IP, TOS, bytes([tos])))
    return found


@FAMILIES
async def test_a_datagrams_class_and_hop_limit(net: Net, family: int) -> None:
    async with datagram_sockets(net, net.hosts[family == 6]) as (server, client):
        client.send(b"nobody asked")
        assert await receive(net, server) == (b"nobody asked", [], 0)
        recv_tos = (IPV6, RECVTCLASS) if family == 6 else (IP, RECVTOS)
        recv_hops = (IPV6, RECVHOPLIMIT) if family == 6 else (IP, RECVTTL)
        server.setsockopt(*recv_tos, 1)
        assert server.getsockopt(*recv_tos) == 1
        client.send(b"defaults")
        assert await receive(net, server) == (b"defaults", ancillary(family, 0, None), 0)
        server.setsockopt(*recv_hops, 1)
        choose(client, EF | CE, 200)
        client.send(b"chosen")
        assert await receive(net, server, flags=socket.MSG_PEEK) == (b"chosen", ancillary(family, EF | CE, 200), 0)
        assert await receive(net, server) == (b"chosen", ancillary(family, EF | CE, 200), 0)
        client.send(b"no room")
        assert (await receive(net, server, 0))[1:] == ([], socket.MSG_CTRUNC)
        client.send(b"room for one")
        assert (await receive(net, server, socket.CMSG_SPACE(4)))[1:] == (
            ancillary(family, None, 200), socket.MSG_CTRUNC,
        )  # fmt: skip
        server.setsockopt(*recv_tos, 0)
        server.setsockopt(*recv_hops, 0)
        client.send(b"no longer")
        assert await receive(net, server) == (b"no longer", [], 0)


@FAMILIES
async def test_one_datagrams_own(net: Net, family: int) -> None:
    level, tos, hops = (IPV6, TCLASS, socket.IPV6_HOPLIMIT) if family == 6 else (IP, TOS, TTL)
    async with datagram_sockets(net, net.hosts[family == 6]) as (server, client):
        for option in (RECVTCLASS, RECVHOPLIMIT) if family == 6 else (RECVTOS, RECVTTL):
            server.setsockopt(level, option, 1)
        choose(client, EF, 200)
        own = [(level, tos, struct.pack("i", AF21 | CE)), (level, hops, struct.pack("i", 3))]
        client.sendmsg([b"its ", b"own"], own)
        assert await receive(net, server) == (b"its own", ancillary(family, AF21 | CE, 3), 0)
        client.sendmsg([b"one of them"], [(level, hops, struct.pack("i", 3))])
        assert await receive(net, server) == (b"one of them", ancillary(family, EF, 3), 0)
        client.sendmsg([b"none"])
        assert await receive(net, server) == (b"none", ancillary(family, EF, 200), 0)
        for kind, wrong in ((tos, 256), (hops, 256), *((((TTL, 0)),) if family == 4 else ((hops, -2),))):
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                client.sendmsg([b"x"], [(level, kind, struct.pack("i", wrong))])


@FAMILIES
async def test_datagram_sockets_keep_what_was_set_before(net: Net, family: int) -> None:
    host = net.hosts[family == 6]
    with new_socket(net, host, socket.SOCK_DGRAM) as server, new_socket(net, host, socket.SOCK_DGRAM) as client:
        level, option = (IPV6, RECVTCLASS) if family == 6 else (IP, RECVTOS)
        server.setsockopt(level, option, 1)
        choose(server)
        server.bind((host, 0))
        choose(client, AF21 | CE, 7)
        client.connect(server.getsockname())
        client.send(b"hello")
        assert await receive(net, server) == (b"hello", ancillary(family, AF21 | CE, None), 0)
        assert chosen(server) == (EF, 9)
        server.connect(client.getsockname())
        assert chosen(server) == (EF, 9)
        client.send(b"again")
        assert await receive(net, server) == (b"again", ancillary(family, AF21 | CE, None), 0)


async def test_group_options_are_kept_too(net: Net) -> None:
    with new_socket(net, net.host4, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(IP, socket.IP_MULTICAST_TTL, 5)
        sock.setsockopt(IP, socket.IP_MULTICAST_LOOP, 0)
        sock.connect((net.host4, 9))
        assert sock.getsockopt(IP, socket.IP_MULTICAST_TTL) == 5
        assert sock.getsockopt(IP, socket.IP_MULTICAST_LOOP) == 0


# ---- sockets for both families ------------------------------------------------------------------------------------


async def test_a_socket_for_both_families(net: Net) -> None:
    """IPv4's options are for those of its peers that are IPv4's, and IPv6's for the others."""
    make: Any = aiomultistack.socket if net.ours else socket.socket
    with make(socket.AF_INET6, socket.SOCK_DGRAM) as dual, new_socket(net, net.host4, socket.SOCK_DGRAM) as four:
        dual.setblocking(False)
        dual.setsockopt(IPV6, socket.IPV6_V6ONLY, 0)
        for level, option in ((IP, RECVTOS), (IPV6, RECVTCLASS)):
            dual.setsockopt(level, option, 1)
        dual.bind(("::", 0))
        net.loop.add_reader(dual, int)
        net.loop.remove_reader(dual)
        dual.setsockopt(IP, TOS, EF)
        dual.setsockopt(IPV6, TCLASS, AF21)
        four.setsockopt(IP, RECVTOS, 1)
        four.setsockopt(IP, TOS, 0x20)
        port = dual.getsockname()[1]
        four.connect((net.host4, port))
        four.send(b"over IPv4")
        assert await receive(net, dual) == (b"over IPv4", ancillary(4, 0x20, None), 0)
        dual.sendto(b"back", ("::ffff:" + four.getsockname()[0], four.getsockname()[1]))
        assert await receive(net, four) == (b"back", ancillary(4, EF, None), 0)
        with new_socket(net, net.host6, socket.SOCK_DGRAM) as six:
            six.setsockopt(IPV6, RECVTCLASS, 1)
            six.setsockopt(IPV6, TCLASS, 0x60)
            six.connect((net.host6, port))
            six.send(b"over IPv6")
            assert await receive(net, dual) == (b"over IPv6", ancillary(6, 0x60, None), 0)
            dual.sendto(b"back", six.getsockname())
            assert await receive(net, six) == (b"back", ancillary(6, AF21, None), 0)
