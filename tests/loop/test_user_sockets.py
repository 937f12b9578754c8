"""Sockets of the user-space stack as programs see them: the same object, and the truth about the connection."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import warnings

import pytest

import aiomultistack

from .conftest import Net, free_port
from .protocols import Echo, Recorder
from .sockets import SOL, TCP, new_socket, plain, sockets


async def test_a_socket_connects_by_itself(ours: Net, net: Net) -> None:
    async with net.server(Echo) as address:
        with new_socket(net, net.host4) as sock:
            assert sock.connect_ex(address) == errno.EINPROGRESS
            assert sock.connect_ex(address) == errno.EALREADY
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            writable = net.loop.create_future()
            net.loop.add_writer(sock, lambda: writable.done() or writable.set_result(None))
            await writable
            net.loop.remove_writer(sock)
            assert sock.getsockopt(SOL, socket.SO_ERROR) == 0
            assert sock.connect_ex(address) == errno.EISCONN
            assert sock.getpeername() == address
            sock.sendall(b"hello")
            assert await net.loop.sock_recv(sock, 10) == b"hello"
    with new_socket(net, net.host4) as sock:
        with pytest.raises(BlockingIOError):
            sock.connect((net.host4, free_port()))
        failed = net.loop.create_future()
        net.loop.add_writer(sock, lambda: failed.done() or failed.set_result(None))
        await failed
        assert sock.getsockopt(SOL, socket.SO_ERROR) == errno.ECONNREFUSED


async def test_a_kernel_socket_is_told_the_truth(ours: Net, net: Net) -> None:
    class Library(socket.socket):
        """A library's own class, with attributes."""

    async with net.server(Echo) as address:
        sock = Library()
        sock.note = "mine"  # type: ignore[attr-defined]
        sock.setblocking(False)
        sock.setsockopt(TCP, socket.TCP_KEEPIDLE, 77)
        sock.setsockopt(SOL, socket.SO_KEEPALIVE, 1)
        await net.loop.sock_connect(sock, address)
        assert isinstance(sock, Library)
        assert isinstance(sock, socket.socket)
        assert sock.note == "mine"  # type: ignore[attr-defined]
        assert sock.getpeername() == address
        assert sock.getsockname()[0] == "10.9.0.2"
        assert sock.getsockopt(TCP, socket.TCP_KEEPIDLE) == 77
        assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 0
        sock.setsockopt(TCP, socket.TCP_NODELAY, 1)
        (info,) = [item for item in net.loop.multistack.connections() if item.local == sock.getsockname()]  # type: ignore[attr-defined]
        assert info.remote == address
        assert "10.9.0.2" in repr(sock)
        transport, protocol = await net.loop.create_connection(Recorder, sock=sock)
        assert sock.getpeername() == address
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1
        transport.abort()
        await protocol.lost


async def test_duplicates_share_the_connection(ours: Net, net: Net) -> None:
    async with sockets(net) as (server, client):
        copy = client.dup()
        client.close()
        await net.loop.sock_sendall(copy, b"still here")
        assert await net.loop.sock_recv(server, 20) == b"still here"
        copy.close()
        assert await net.loop.sock_recv(server, 20) == b""


async def test_detached_descriptors_keep_the_connection(ours: Net, net: Net) -> None:
    async with sockets(net) as (server, client):
        descriptor = client.detach()
        assert client.fileno() == -1
        with socket.socket(fileno=descriptor) as again:
            await net.loop.sock_sendall(again, b"moved")
            assert await net.loop.sock_recv(server, 20) == b"moved"
            assert again.getpeername() == server.getsockname()
        assert await net.loop.sock_recv(server, 20) == b""


async def test_a_lost_socket_closes_its_connection(ours: Net, net: Net) -> None:
    async with net.server(Recorder) as address:
        sock = plain(net.host4)
        await net.loop.sock_connect(sock, address)
        assert len(net.loop.multistack.connections()) == 2  # type: ignore[attr-defined]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            del sock
            gc.collect()
        assert [warning.category for warning in caught] == [ResourceWarning]


async def test_peeking(ours: Net, net: Net) -> None:
    async with sockets(net) as (server, client):
        await net.loop.sock_sendall(client, b"abc")
        assert await net.loop.sock_recv(server, 0) == b""
        while True:
            try:
                assert server.recv(2, socket.MSG_PEEK) == b"ab"
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert server.recv(10) == b"abc"
        assert server.sendmsg([b"d", b"ef"]) == 3
        assert await net.loop.sock_recv(client, 10) == b"def"
        with pytest.raises(BlockingIOError):
            client.recvmsg(10)


async def test_sockets_of_two_loops_are_kept_apart(ours: Net, net: Net) -> None:
    async with sockets(net) as (server, _):
        other = aiomultistack.new_event_loop(
            aiomultistack.Config("mem:apart", ["10.9.9.1/24"], control=False, base="asyncio")
        )
        try:
            with pytest.raises(RuntimeError, match="another event loop"):
                other._endpoint(server)
        finally:
            other.close()
