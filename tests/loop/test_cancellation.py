"""Cancelling at each await: what a method of the loop has begun is undone, whenever it is cancelled.

An operation is started as a task and cancelled after so many iterations of the loop, from none to more than it
needs.  It either ends as cancelled or has finished; the `net` fixture sees to it that no task, endpoint, frame or
descriptor is left, and nothing was reported to the exception handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .conftest import Net
from .protocols import Echo, Recorder
from .sockets import new_socket

STEPS = 12

Operation = Callable[[], Awaitable[Any]]


async def cancel_at_each_step(operation: Operation, undo: Callable[[Any], Any]) -> None:
    """Runs an operation again and again, cancelled later each time; undoes it when it has finished."""
    finished = False
    for step in range(STEPS):
        task = asyncio.ensure_future(operation())
        for _ in range(step):
            await asyncio.sleep(0)
        finished = task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            result = undo(await task)
            if asyncio.iscoroutine(result):
                await result
    await asyncio.sleep(0.05)
    if not finished:  # a slow machine, or one that needs more steps: at last without a cancellation
        result = undo(await operation())
        if asyncio.iscoroutine(result):
            await result
    await asyncio.sleep(0.05)


def close_transport(pair: tuple[Any, Any]) -> None:
    """Undoes what returns transport and protocol."""
    pair[0].close()


async def test_create_connection(net: Net) -> None:
    loop = asyncio.get_running_loop()
    async with net.server(Echo) as address:
        await cancel_at_each_step(lambda: loop.create_connection(Recorder, *address), close_transport)


async def test_create_connection_with_happy_eyeballs(ours: Net, net: Net) -> None:
    """asyncio's own leaves sockets behind, uvloop doesn't have it."""
    loop = asyncio.get_running_loop()
    async with net.server(Echo) as address:
        await cancel_at_each_step(
            lambda: loop.create_connection(Recorder, *address, happy_eyeballs_delay=0.25), close_transport
        )


async def test_create_connection_with_tls(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    loop = asyncio.get_running_loop()
    async with net.server(Echo, ssl=contexts[0]) as address:
        await cancel_at_each_step(
            lambda: loop.create_connection(Recorder, *address, ssl=contexts[1], server_hostname="server.test"),
            close_transport,
        )


async def test_create_server(ours: Net, net: Net) -> None:
    """asyncio's own goes on listening if it is cancelled late, and nobody can close it."""
    loop = asyncio.get_running_loop()
    await cancel_at_each_step(lambda: loop.create_server(Recorder, net.host4, 0), lambda server: server.close())


async def test_create_datagram_endpoint(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop leaves the endpoint open, and then can't close the loop")
    loop = asyncio.get_running_loop()
    await cancel_at_each_step(
        lambda: loop.create_datagram_endpoint(asyncio.DatagramProtocol, (net.host4, 0)), close_transport
    )


async def test_sock_methods(net: Net) -> None:
    """Connecting, accepting, receiving and sending; each finds its socket usable by the next."""
    loop = asyncio.get_running_loop()
    with new_socket(net, net.host4) as listening:
        listening.bind((net.host4, 0))
        listening.listen()
        address = listening.getsockname()

        async def connect() -> socket.socket:
            sock = new_socket(net, net.host4)
            try:
                await loop.sock_connect(sock, address)
            except BaseException:
                sock.close()
                raise
            return sock

        await cancel_at_each_step(connect, lambda sock: sock.close())
        accepting = asyncio.ensure_future(loop.sock_accept(listening))
        ours = await connect()
        theirs, _ = await accepting
        while theirs.getpeername() != ours.getsockname():  # one of those that were cancelled
            theirs.close()
            theirs, _ = await loop.sock_accept(listening)

        async def accept_none() -> Any:
            return await loop.sock_accept(listening)

        for step in range(4):
            task = asyncio.ensure_future(accept_none())
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with ours, theirs:
            for step in range(4):
                task = asyncio.ensure_future(loop.sock_recv(theirs, 100))
                for _ in range(step):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await loop.sock_sendall(ours, b"still here")
            assert await loop.sock_recv(theirs, 100) == b"still here"
            sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(64 << 20)))
            await asyncio.sleep(0.05)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert await loop.sock_recv(theirs, 100)


async def test_sendfile(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no sendfile")
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(8 << 20))
        async with net.server(Recorder) as address:
            for step in range(0, STEPS, 3):
                _, client = await loop.create_connection(Recorder, *address)
                task = asyncio.ensure_future(loop.sendfile(client.transport, file))
                for _ in range(step):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                client.transport.abort()
                await client.lost
            await asyncio.sleep(0.1)


async def test_start_tls(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A cancelled handshake closes the connection."""
    loop = asyncio.get_running_loop()
    async with net.server(Recorder) as address:  # which never answers
        for step in range(STEPS):
            _, client = await loop.create_connection(Recorder, *address)
            task = asyncio.ensure_future(
                loop.start_tls(client.transport, client, contexts[1], server_hostname="server.test")
            )
            for _ in range(step):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            client.transport.abort()
        await asyncio.sleep(0.1)


async def test_waiting_for_a_server(net: Net) -> None:
    """serve_forever() closes its server when it is cancelled."""
    loop = asyncio.get_running_loop()
    for step in range(4):
        server = await loop.create_server(Recorder, net.host4, 0)
        task = asyncio.ensure_future(server.serve_forever())
        for _ in range(step):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if step:
            assert not server.is_serving()
        server.close()
        await server.wait_closed()


async def test_a_stream_s_drain(net: Net) -> None:
    """The writer is usable afterwards."""
    data = bytes(8 << 20)
    got = asyncio.get_running_loop().create_future()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        got.set_result(await reader.read(-1))
        writer.close()

    server = await asyncio.start_server(slow, net.host4, 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(data)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.02)
        writer.write(b"more")
        await writer.drain()
        writer.write_eof()
        assert await got == data + b"more"
        writer.close()
        await writer.wait_closed()
