"""loop.sock_*(), add_reader() and accepted sockets: with sockets that programs make themselves."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import struct
import tempfile

import pytest

from .conftest import Net, free_port
from .protocols import Echo, Recorder
from .sockets import SOL, bound, new_socket, plain, sockets

#: asyncio's remove_reader() tells whether there was a reader.
UVLOOP_SAYS_NOTHING = {"uvloop": None, "asyncio": True, "virtual": True}


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


@pytest.mark.parametrize("before", [False, True])
async def test_a_reset_wakes_who_waits_to_send_though_data_lies_unread(net: Net, before: bool) -> None:
    """And what lies unread stays to be read, with the end of the stream behind it."""
    async with sockets(net) as (server, client):
        if before:  # reading has been asked for once
            await net.loop.sock_sendall(client, b"early")
            assert await net.loop.sock_recv(server, 10) == b"early"
        sending = asyncio.ensure_future(net.loop.sock_sendall(server, bytes(16 << 20)))
        await asyncio.sleep(0.1)
        await net.loop.sock_sendall(client, b"unread")
        await asyncio.sleep(0.1)
        assert not sending.done()
        client.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            await sending
        assert await net.loop.sock_recv(server, 10) == b"unread"
        assert await net.loop.sock_recv(server, 10) == b""


async def test_a_reset_tells_reader_and_writer(net: Net) -> None:
    async with sockets(net) as (server, client):
        sending = asyncio.ensure_future(net.loop.sock_sendall(server, bytes(16 << 20)))
        receiving = asyncio.ensure_future(net.loop.sock_recv(server, 10))
        await asyncio.sleep(0.1)
        await net.loop.sock_sendall(client, b"data")
        assert await receiving == b"data"
        receiving = asyncio.ensure_future(net.loop.sock_recv(server, 10))
        await asyncio.sleep(0.1)
        assert not receiving.done()
        client.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        ends = await asyncio.gather(sending, receiving, return_exceptions=True)
        assert any(isinstance(end, ConnectionResetError) for end in ends)
        assert all(isinstance(end, ConnectionError) or end == b"" for end in ends)


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
