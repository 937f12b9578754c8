"""loop.sock_*(), add_reader() and accepted sockets: with sockets that programs make themselves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import io
import os
import socket
import struct
import tempfile
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

import aiomultistack

from .conftest import Net, free_port
from .protocols import Echo, Recorder

#: asyncio's remove_reader() tells whether there was a reader.
UVLOOP_SAYS_NOTHING = {"uvloop": None, "asyncio": True, "virtual": True}

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def new_socket(net: Net, host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket that may be bound to `host`."""
    make: Any = aiomultistack.socket if net.ours else socket.socket
    sock = make(family_of(host), kind)
    sock.setblocking(False)
    return sock  # type: ignore[no-any-return]


def bound(net: Net, host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = new_socket(net, host, kind)
    sock.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(50)
    return sock


def plain(host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket as any library makes it."""
    sock = socket.socket(family_of(host), kind)
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def sockets(net: Net, host: str | None = None) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A connected pair: the accepted one, and the client's."""
    host = host or net.host4
    with bound(net, host) as listener, plain(host) as client:
        accepting = asyncio.ensure_future(net.loop.sock_accept(listener))
        await net.loop.sock_connect(client, listener.getsockname())
        accepted, address = await accepting
        with accepted:
            assert accepted.getsockname() == listener.getsockname() == client.getpeername()
            assert accepted.getpeername() == client.getsockname() == address
            yield accepted, client


# ---- streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
async def test_accept_and_talk(net: Net, family: int) -> None:
    async with sockets(net, net.hosts[family == 6]) as (server, client):
        assert isinstance(server, socket.socket)
        assert server.gettimeout() == 0.0
        await net.loop.sock_sendall(client, b"ping")
        assert await net.loop.sock_recv(server, 100) == b"ping"
        buffer = bytearray(10)
        await net.loop.sock_sendall(server, memoryview(b"pong"))
        assert await net.loop.sock_recv_into(client, buffer) == 4
        assert buffer[:4] == b"pong"


async def test_waits_for_data_and_for_its_end(net: Net) -> None:
    async with sockets(net) as (server, client):
        receiving = asyncio.ensure_future(net.loop.sock_recv(server, 10))
        await asyncio.sleep(0.01)
        assert not receiving.done()
        await net.loop.sock_sendall(client, b"0123456789abc")
        assert await receiving == b"0123456789"
        assert await net.loop.sock_recv(server, 10) == b"abc"
        client.close()
        assert await net.loop.sock_recv(server, 10) == b""
        assert await net.loop.sock_recv(server, 10) == b""


async def test_much_data_with_a_slow_reader(net: Net) -> None:
    data = os.urandom(3_000_000)
    async with sockets(net) as (server, client):
        sending = asyncio.ensure_future(net.loop.sock_sendall(client, data))
        await asyncio.sleep(0.02)
        assert sending.done() <= (not net.ours)  # a kernel's loopback may hold it all
        received = bytearray()
        while len(received) < len(data):
            received += await net.loop.sock_recv(server, 100_000)
        await sending
        assert received == data


async def test_cancelling_leaves_the_socket_usable(net: Net) -> None:
    async with sockets(net) as (server, client):
        receiving = asyncio.ensure_future(net.loop.sock_recv(server, 10))
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await net.loop.sock_sendall(client, b"x")
        assert await net.loop.sock_recv(server, 10) == b"x"


async def test_half_close(net: Net) -> None:
    async with sockets(net) as (server, client):
        client.shutdown(socket.SHUT_WR)
        assert await net.loop.sock_recv(server, 10) == b""
        await net.loop.sock_sendall(server, b"late")
        assert await net.loop.sock_recv(client, 10) == b"late"
        with pytest.raises(OSError) as caught:
            await net.loop.sock_sendall(client, b"more")
        assert caught.value.errno == errno.EPIPE


async def test_receiving_ends_by_itself(net: Net) -> None:
    """SHUT_RD: the end of the stream, though the peer goes on; SHUT_RDWR: both."""
    async with sockets(net) as (server, client):
        waiting = asyncio.ensure_future(net.loop.sock_recv(client, 10))
        await asyncio.sleep(0.01)
        client.shutdown(socket.SHUT_RD)
        assert await waiting == b""
        await net.loop.sock_sendall(client, b"still")
        assert await net.loop.sock_recv(server, 10) == b"still"
        client.shutdown(socket.SHUT_RDWR)
        assert await net.loop.sock_recv(server, 10) == b""
        with pytest.raises(BrokenPipeError):
            await net.loop.sock_sendall(client, b"x")


async def test_a_pair_of_sockets_is_the_kernel_s(net: Net) -> None:
    one, two = socket.socketpair()
    one.setblocking(False)
    two.setblocking(False)
    with one:
        transport, client = await net.loop.create_connection(Recorder, sock=two)
        await net.loop.sock_sendall(one, b"hello")
        assert await client.received(5) == b"hello"
        transport.write(b"answer")
        assert await net.loop.sock_recv(one, 10) == b"answer"
        transport.close()
        await client.lost


async def test_reset(net: Net) -> None:
    async with sockets(net) as (server, client):
        client.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            await net.loop.sock_recv(server, 10)
        assert await net.loop.sock_recv(server, 10) == b""
        with pytest.raises(BrokenPipeError):
            await net.loop.sock_sendall(server, b"x")


async def test_connect_errors(net: Net) -> None:
    with plain(net.host4) as sock:
        with pytest.raises(ConnectionRefusedError) as caught:
            await net.loop.sock_connect(sock, (net.host4, free_port()))
        assert caught.value.errno == errno.ECONNREFUSED
    async with sockets(net) as (server, client):
        with pytest.raises(OSError) as other:
            await net.loop.sock_connect(server, server.getpeername())
        assert other.value.errno == errno.EISCONN
        assert client.fileno() >= 0


async def test_several_accepts(net: Net) -> None:
    with bound(net, net.host4) as listener:
        tasks = [asyncio.ensure_future(net.loop.sock_accept(listener)) for _ in range(1)]
        clients = [plain(net.host4) for _ in range(5)]
        for client in clients:
            await net.loop.sock_connect(client, listener.getsockname())
        accepted = [await tasks[0]] + [await net.loop.sock_accept(listener) for _ in range(4)]
        assert sorted(address for _, address in accepted) == sorted(client.getsockname() for client in clients)
        for sock in (*clients, *(sock for sock, _ in accepted)):
            sock.close()


async def test_accepting_a_socket_that_does_not_listen(net: Net) -> None:
    with new_socket(net, net.host4) as sock:
        sock.bind((net.host4, 0))
        with pytest.raises(OSError) as caught:
            await net.loop.sock_accept(sock)
        assert caught.value.errno == errno.EINVAL


async def test_accept_cancelled(net: Net) -> None:
    with bound(net, net.host4) as listener:
        accepting = asyncio.ensure_future(net.loop.sock_accept(listener))
        await asyncio.sleep(0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        with plain(net.host4) as client:
            again = asyncio.ensure_future(net.loop.sock_accept(listener))
            await net.loop.sock_connect(client, listener.getsockname())
            sock, _ = await again
            sock.close()


async def test_a_datagram_socket_that_cannot_be_connected_stays_what_it_was(ours: Net, net: Net) -> None:
    with bound(net, net.host4, socket.SOCK_DGRAM) as server, plain(net.host4, socket.SOCK_DGRAM) as client:
        address = server.getsockname()
        assert await net.loop.sock_sendto(client, b"first", address) == 5
        _, name = await net.loop.sock_recvfrom(server, 100)
        with pytest.raises(OSError) as caught:
            await net.loop.sock_connect(server, ("203.0.113.1", 0))
        assert caught.value.errno in (errno.EINVAL, errno.EADDRNOTAVAIL)
        assert server.getsockname() == address
        with pytest.raises(OSError, match="not connected"):
            server.getpeername()
        await net.loop.sock_sendto(client, b"second", address)
        assert await net.loop.sock_recvfrom(server, 100) == (b"second", name)


async def test_debug_mode_wants_non_blocking_sockets(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop's sock_accept() doesn't ask")
    net.loop.set_debug(True)
    async with sockets(net) as (server, client):
        client.settimeout(1)
        for attempt in (
            net.loop.sock_recv(client, 1),
            net.loop.sock_recv_into(client, bytearray(1)),
            net.loop.sock_sendall(client, b"x"),
            net.loop.sock_connect(client, (net.host4, 1)),
            net.loop.sock_accept(client),
            net.loop.sock_sendfile(client, io.BytesIO(b"x")),
        ):
            with pytest.raises(ValueError, match="non-blocking"):
                await attempt
        assert server.getblocking() is False


@pytest.mark.parametrize("side", ["accepted", "connected"])
async def test_a_socket_becomes_a_transport(net: Net, side: str) -> None:
    async with sockets(net) as (server, client):
        await net.loop.sock_sendall(client, b"early")
        await net.loop.sock_sendall(server, b"early")
        if side == "accepted":
            transport, protocol = await net.loop.connect_accepted_socket(Recorder, server)
            other = client
        else:
            transport, protocol = await net.loop.create_connection(Recorder, sock=client)
            other = server
        assert transport.get_extra_info("peername") == other.getsockname()
        assert await protocol.received(5) == b"early"
        transport.write(b"+1")
        transport.close()
        await protocol.lost
        assert protocol.events == ["made", "data", "lost"]
        rest = b""
        while part := await net.loop.sock_recv(other, 100):
            rest += part
        assert rest == b"early+1"


async def test_connect_accepted_socket_checks(net: Net) -> None:
    async with sockets(net) as (server, _):
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await net.loop.connect_accepted_socket(Recorder, server, ssl_handshake_timeout=1)


async def test_create_server_on_a_listening_socket(net: Net) -> None:
    listener = bound(net, net.host4)
    address = listener.getsockname()
    early = plain(net.host4)
    await net.loop.sock_connect(early, address)
    server = await net.loop.create_server(Echo, sock=listener)
    async with server:
        assert server.sockets[0].getsockname() == address
        _, protocol = await net.loop.create_connection(Recorder, *address)
        protocol.transport.write(b"hi")
        assert await protocol.received(2) == b"hi"
        await net.loop.sock_sendall(early, b"first")
        assert await net.loop.sock_recv(early, 10) == b"first"
        early.close()
        protocol.transport.abort()
        await protocol.lost


# ---- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (1000, 70_000), (0, 5_000_000)])
async def test_sock_sendfile(net: Net, kind: str, offset: int, count: int | None) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no sock_sendfile()")
    data = os.urandom(1_000_000)
    expected = data[offset:][:count]
    with tempfile.TemporaryFile() if kind == "file" else io.BytesIO() as file:
        file.write(data)
        file.seek(0)
        async with sockets(net) as (server, client):
            sending = asyncio.ensure_future(net.loop.sock_sendfile(client, file, offset, count))
            received = bytearray()
            while len(received) < len(expected):
                received += await net.loop.sock_recv(server, 1 << 16)
            assert await sending == len(expected)
            assert received == expected
            assert file.tell() == offset + len(expected)


async def test_sock_sendfile_checks(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no sock_sendfile()")
    async with sockets(net) as (_, client):
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await net.loop.sock_sendfile(client, io.BytesIO(b"x"), fallback=False)
        with pytest.raises(ValueError, match="positive"):
            await net.loop.sock_sendfile(client, io.BytesIO(b"x"), 0, 0)
        with pytest.raises(ValueError, match="non-negative"):
            await net.loop.sock_sendfile(client, io.BytesIO(b"x"), -1)
        with pytest.raises(TypeError):
            await net.loop.sock_sendfile(client, io.BytesIO(b"x"), 0, "all")
        with pytest.raises(ValueError, match="binary"), tempfile.TemporaryFile("w+") as text:
            await net.loop.sock_sendfile(client, text)


# ---- datagrams ------------------------------------------------------------------------------------------------


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


class Datagrams(asyncio.DatagramProtocol):
    """Collects what comes."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.queue.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.queue.put_nowait((type(exc), None))


async def test_a_bound_socket_becomes_a_datagram_endpoint(net: Net) -> None:
    sock = bound(net, net.host4, socket.SOCK_DGRAM)
    address = sock.getsockname()
    transport, protocol = await net.loop.create_datagram_endpoint(Datagrams, sock=sock)
    other, peer = await net.loop.create_datagram_endpoint(Datagrams, remote_addr=address)
    assert transport.get_extra_info("sockname") == address
    other.sendto(b"ping")
    assert await protocol.queue.get() == (b"ping", other.get_extra_info("sockname"))
    transport.sendto(b"pong", other.get_extra_info("sockname"))
    assert await peer.queue.get() == (b"pong", address)
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
        assert protocol.queue.qsize() == (0 if allowed else 1)
        if not allowed:
            assert (await protocol.queue.get())[0] is PermissionError
        transport.close()
        await asyncio.sleep(0.01)


# ---- readiness ------------------------------------------------------------------------------------------------


async def test_add_reader_is_level_triggered(net: Net) -> None:
    async with sockets(net) as (server, client):
        calls: list[bytes] = []
        done = net.loop.create_future()

        def ready(token: str) -> None:
            assert token == "token"
            calls.append(server.recv(2))
            if len(calls) == 3:
                assert net.loop.remove_reader(server) in (True, UVLOOP_SAYS_NOTHING[net.base])
                done.set_result(None)

        net.loop.add_reader(server, ready, "token")
        await asyncio.sleep(0.01)
        assert calls == []
        await net.loop.sock_sendall(client, b"aabbccdd")
        await done
        await asyncio.sleep(0.01)
        assert calls == [b"aa", b"bb", b"cc"]
        assert not net.loop.remove_reader(server)  # there is none any more
        assert await net.loop.sock_recv(server, 10) == b"dd"


async def test_readers_by_descriptor_and_in_a_context(net: Net) -> None:
    async with sockets(net) as (server, client):
        seen = net.loop.create_future()
        net.loop.add_reader(server.fileno(), seen.set_exception, AssertionError("replaced"))
        net.loop.add_reader(server.fileno(), lambda: seen.done() or seen.set_result(asyncio.current_task()))
        client.send(b"x")
        assert await seen is None
        assert net.loop.remove_reader(server.fileno()) in (True, UVLOOP_SAYS_NOTHING[net.base])


async def test_add_writer(net: Net) -> None:
    async with sockets(net) as (server, client):
        sent = 0
        full = net.loop.create_future()

        def fill() -> None:
            nonlocal sent
            try:
                while True:
                    sent += client.send(b"x" * 50_000)
            except BlockingIOError:
                if not full.done():
                    full.set_result(None)

        net.loop.add_writer(client, fill)
        await full
        before = sent
        received = 0
        while received < before:
            received += len(await net.loop.sock_recv(server, 1 << 20))
        while sent == before:
            await asyncio.sleep(0.001)
        net.loop.remove_writer(client)


async def test_raising_callbacks_go_to_the_exception_handler(net: Net) -> None:
    async with sockets(net) as (server, client):

        def fail() -> None:
            net.loop.remove_reader(server)
            raise RuntimeError("reader")

        net.loop.add_reader(server, fail)
        client.send(b"x")
        while not net.contexts:
            await asyncio.sleep(0.001)
        assert str(net.take_error()["exception"]) == "reader"


# ---- sockets of the user-space stack ------------------------------------------------------------------------------


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


# ---- what uvloop lacks, with the kernel's sockets -----------------------------------------------------------------


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


async def test_kernel_sendfile_on_our_loop(ours: Net, net: Net) -> None:
    data = os.urandom(2_000_000)
    received = bytearray()
    done = net.loop.create_future()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1 << 16):
            received.extend(part)
        writer.close()
        done.set_result(None)

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        with tempfile.TemporaryFile() as file, plain("127.0.0.1") as sock:
            file.write(data)
            await net.loop.sock_connect(sock, address)
            assert await net.loop.sock_sendfile(sock, file, 10, fallback=False) == len(data) - 10
            assert file.tell() == len(data)
            sock.shutdown(socket.SHUT_WR)
            await done
            assert received == data[10:]
        received.clear()
        done = net.loop.create_future()
        _, writer = await asyncio.open_connection(*address)
        assert await net.loop.sendfile(writer.transport, io.BytesIO(data)) == len(data)
        writer.close()
        await done
        assert received == data


async def test_netlink_datagram_endpoints(ours: Net, net: Net) -> None:
    if not hasattr(socket, "AF_NETLINK"):
        pytest.skip("no netlink here")
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    sock.bind((0, 0))
    transport, protocol = await net.loop.create_datagram_endpoint(Datagrams, sock=sock)
    message = struct.pack("=IHHII", 17, 18, 0x301, 7, 0) + b"\0"  # RTM_GETLINK, a dump
    transport.sendto(message, (0, 0))
    data, _ = await protocol.queue.get()
    assert struct.unpack_from("=IHHI", data)[3] == 7
    transport.close()
    await asyncio.sleep(0.01)
