"""create_server() and Server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from typing import Any

import pytest

from .conftest import Net, free_port
from .protocols import Echo, Recorder


async def echoes(host: str, port: int) -> bool:
    """True if an echo server answers there."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"x")
    answer = await reader.read(1)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer == b"x"


async def test_is_an_abstract_server(net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0)
    assert isinstance(server, asyncio.AbstractServer) or net.flavour == "uvloop-kernel"
    assert server.get_loop() is net.loop
    assert server.is_serving()
    server.close()
    assert not server.is_serving()
    server.close()
    await server.wait_closed()
    assert len(server.sockets) == 0


async def test_port_0_takes_a_free_one(net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0)
    async with server:
        (sock,) = server.sockets
        host, port = sock.getsockname()
        assert host == net.host4
        assert port > 0
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert await echoes(host, port)


async def test_several_hosts(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop binds a host twice that is listed twice")
    server = await net.loop.create_server(Echo, [net.host4, net.host6, net.host4], free_port())
    async with server:
        assert {sock.getsockname()[0] for sock in server.sockets} == {net.host4, net.host6}
        for sock in server.sockets:
            assert await echoes(*sock.getsockname()[:2])


@pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::"])
async def test_wildcards(net: Net, host: str | None) -> None:
    server = await net.loop.create_server(Echo, host, free_port())
    async with server:
        families = {sock.family for sock in server.sockets}
        if host in (None, ""):
            assert families == {socket.AF_INET, socket.AF_INET6}
        for sock in server.sockets:
            target = net.host4 if sock.family == socket.AF_INET else net.host6
            assert await echoes(target, sock.getsockname()[1])


async def test_family_restricts_a_wildcard(net: Net) -> None:
    server = await net.loop.create_server(Echo, None, free_port(), family=socket.AF_INET)
    async with server:
        assert {sock.family for sock in server.sockets} == {socket.AF_INET}


@pytest.mark.parametrize("family", [4, 6])
async def test_address_in_use(net: Net, family: int) -> None:
    host = net.hosts[family == 6]
    async with net.server(Echo, host) as (_, port):
        with pytest.raises(OSError) as caught:
            await net.loop.create_server(Echo, host, port)
        assert caught.value.errno == errno.EADDRINUSE
        assert "address already in use" in str(caught.value)


async def test_the_address_is_free_again_after_close(net: Net) -> None:
    async with net.server(Echo) as (host, port):
        assert await echoes(host, port)
    server = await net.loop.create_server(Echo, host, port)
    async with server:
        assert await echoes(host, port)


async def test_close_refuses_new_connections_and_keeps_old_ones(net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0)
    address = server.sockets[0].getsockname()
    _, client = await net.loop.create_connection(Recorder, *address)
    client.transport.write(b"x")
    await client.received(1)
    server.close()
    with pytest.raises(ConnectionRefusedError):
        await net.loop.create_connection(Recorder, *address)
    client.transport.write(b"y")
    assert await client.received(2) == b"xy"
    client.transport.close()
    await client.lost
    await server.wait_closed()


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="since Python 3.12.1")
async def test_wait_closed_waits_for_connections(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop's doesn't")
    server = await net.loop.create_server(Echo, net.host4, 0)
    _, client = await net.loop.create_connection(Recorder, *server.sockets[0].getsockname())
    client.transport.write(b"x")
    await client.received(1)
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    client.transport.close()
    await waiting


@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_close_clients(net: Net, how: str) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0)
    if not hasattr(server, how):
        server.close()
        pytest.skip("since Python 3.13, and not in uvloop")
    _, client = await net.loop.create_connection(Recorder, *server.sockets[0].getsockname())
    client.transport.write(b"x")
    await client.received(1)
    server.close()
    getattr(server, how)()
    await client.lost
    await server.wait_closed()


async def test_serve_forever(net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0, start_serving=False)
    assert not server.is_serving()
    address = server.sockets[0].getsockname()
    task = asyncio.ensure_future(server.serve_forever())
    while not server.is_serving():
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    assert await echoes(*address)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_start_serving_later(net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0, start_serving=False)
    address = server.sockets[0].getsockname()
    await server.start_serving()
    await server.start_serving()
    async with server:
        assert await echoes(*address)


async def test_connections_before_start_serving_wait(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0, start_serving=False)
    async with server:
        _, client = await net.loop.create_connection(Recorder, *server.sockets[0].getsockname())
        client.transport.write(b"patient")
        await asyncio.sleep(0.02)
        assert client.data == b""
        await server.start_serving()
        assert await client.received(7) == b"patient"
        client.transport.close()
        await client.lost


async def test_a_factory_that_fails_for_one_that_waits(ours: Net, net: Net) -> None:
    """It is told, as for a connection that comes later, and the others are served."""
    failures = [ZeroDivisionError("one")]

    def factory() -> asyncio.Protocol:
        if failures:
            raise failures.pop()
        return Echo()

    server = await net.loop.create_server(factory, net.host4, 0, start_serving=False)
    async with server:
        address = server.sockets[0].getsockname()
        clients = [(await net.loop.create_connection(Recorder, *address))[1] for _ in range(2)]
        await server.start_serving()
        context = net.take_error()
        assert context["message"] == "Error on transport creation for incoming connection"
        assert isinstance(context["exception"], ZeroDivisionError)
        for client in clients:
            client.transport.write(b"here")
        await clients[0].lost
        assert await clients[1].received(4) == b"here"
        clients[1].transport.close()
        await clients[1].lost


async def test_close_with_connections_before_start_serving(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0, start_serving=False)
    _, client = await net.loop.create_connection(Recorder, *server.sockets[0].getsockname())
    await asyncio.sleep(0.01)
    server.close()
    await server.wait_closed()
    assert isinstance(await client.lost, ConnectionResetError)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"ssl": True}, TypeError, "ssl argument must be an SSLContext"),
        ({"ssl_handshake_timeout": 1.0}, ValueError, "only meaningful with ssl"),
        ({"host": None, "port": None}, ValueError, "Neither host/port nor sock"),
    ],
)
async def test_bad_arguments(net: Net, options: dict[str, Any], error: type[Exception], match: str) -> None:
    arguments = {"host": net.host4, "port": 0, **options}
    with pytest.raises(error, match=match):
        await net.loop.create_server(Echo, **arguments)


async def test_listener_options(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, net.host4, 0)
    async with server:
        (sock,) = server.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made = asyncio.get_running_loop().create_future()

        class Made(Recorder):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                made.set_result(transport)

        server._options = type(server._options)(Made)  # type: ignore[attr-defined]
        _, client = await net.loop.create_connection(Recorder, *sock.getsockname())
        accepted = (await made).get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        client.transport.abort()
        await client.lost


async def test_port_out_of_range(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop cuts the number to 16 bits")
    with pytest.raises(OverflowError):
        await net.loop.create_server(Echo, net.host4, 70_000)


# ---- whose address is it ------------------------------------------------------------------------------------


async def test_loopback_is_the_system_s(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        assert server.sockets[0].fileno() > 0
        assert await echoes(*server.sockets[0].getsockname())


async def test_hosts_of_both_stacks(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, ["127.0.0.1", net.host4], 0)
    async with server:
        addresses = [sock.getsockname() for sock in server.sockets]
        assert {host for host, _ in addresses} == {"127.0.0.1", net.host4}
        for address in addresses:
            assert await echoes(*address)


async def test_an_address_of_nobody(ours: Net, net: Net) -> None:
    with pytest.raises(OSError):
        await net.loop.create_server(Echo, "10.9.0.99", 0)


async def test_a_bound_kernel_socket_s_address_moves_over(ours: Net, net: Net) -> None:
    """What uvicorn does with several workers: it binds the wildcard itself."""
    sock = socket.socket()
    sock.bind(("0.0.0.0", 0))
    port = sock.getsockname()[1]
    server = await net.loop.create_server(Echo, sock=sock)
    async with server:
        assert await echoes(net.host4, port)
    assert sock.fileno() == -1


async def test_a_kernel_socket_on_loopback_stays(ours: Net, net: Net) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await net.loop.create_server(Echo, sock=sock)
    async with server:
        assert await echoes(*sock.getsockname())
