"""TLS: servers, clients, start_tls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import Any

import pytest

from .conftest import Net
from .protocols import Echo, Recorder


@pytest.mark.parametrize("family", [4, 6])
async def test_echo(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext], family: int) -> None:
    server, client = contexts
    data = os.urandom(1_000_000)
    async with net.server(Echo, net.hosts[family == 6], ssl=server) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address, ssl=client)
        assert transport.get_extra_info("peername")[:2] == address
        assert transport.get_extra_info("cipher") is not None
        assert transport.get_extra_info("ssl_object").version().startswith("TLS")
        assert transport.get_extra_info("sslcontext") is client
        assert transport.get_extra_info("socket").getpeername()[:2] == address
        transport.write(data)
        assert await protocol.received(len(data)) == data
        transport.close()
        assert await protocol.lost is None


async def test_server_hostname(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = contexts
    async with net.server(Echo, ssl=server) as address:
        transport, protocol = await net.loop.create_connection(
            Recorder, *address, ssl=client, server_hostname="server.test"
        )
        transport.close()
        await protocol.lost
        with pytest.raises(ssl.SSLCertVerificationError):
            await net.loop.create_connection(Recorder, *address, ssl=client, server_hostname="other.test")


async def test_untrusted_certificate(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with net.server(Echo, ssl=contexts[0]) as address:
        with pytest.raises(ssl.SSLCertVerificationError):
            await net.loop.create_connection(Recorder, *address, ssl=True)


async def test_plain_client_at_a_tls_server(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with net.server(Recorder, ssl=contexts[0]) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        transport.write(b"GET / HTTP/1.1\r\n\r\n")
        await protocol.lost


async def test_handshake_timeout(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """The server never answers the client's hello."""
    ends: list[Recorder] = []

    def factory() -> Recorder:
        ends.append(Recorder(keep_open=True))
        return ends[-1]

    async with net.server(factory) as address:
        with pytest.raises((ConnectionAbortedError, asyncio.TimeoutError)):
            await net.loop.create_connection(Recorder, *address, ssl=contexts[1], ssl_handshake_timeout=0.05)
        if not ends[0].lost.done():
            ends[0].transport.abort()
        await ends[0].lost


async def test_flow_control(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    total = 5_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(total // 100_000):
            writer.write(b"s" * 100_000)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        served.set()

    served = asyncio.Event()
    server = await asyncio.start_server(serve, net.host4, 0, ssl=contexts[0])
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=contexts[1])
        count = 0
        while data := await reader.read(50_000):
            count += len(data)
        assert count == total
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        await served.wait()


async def test_start_tls(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    class Upgrading(Recorder):
        """Answers "tls?" with "tls!" and goes on encrypted."""

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.data == b"tls?":
                self.data.clear()
                self.transport.pause_reading()  # the next bytes are start_tls()'s
                self.transport.write(b"tls!")
                self.upgrading = asyncio.ensure_future(self.upgrade())
            elif self.upgrading.done():
                self.transport.write(data.upper())

        async def upgrade(self) -> None:
            self.transport = await net.loop.start_tls(self.transport, self, contexts[0], server_side=True)
            self.transport.write(b"ready")

    async with net.server(Upgrading) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        transport.write(b"tls?")
        assert await protocol.received(4) == b"tls!"
        protocol.data.clear()
        upgraded: Any = await net.loop.start_tls(transport, protocol, contexts[1], server_hostname="server.test")
        assert await protocol.received(5) == b"ready"
        upgraded.write(b"secret")
        assert await protocol.received(11) == b"readySECRET"
        upgraded.close()
        await protocol.lost


async def test_start_tls_wants_a_context(net: Net) -> None:
    async with net.server(Echo) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        with pytest.raises(TypeError):
            await net.loop.start_tls(transport, protocol, None)  # type: ignore[arg-type]
        transport.abort()
        await protocol.lost


async def test_abort(net: Net, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with net.server(Echo, ssl=contexts[0]) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address, ssl=contexts[1])
        transport.abort()
        await protocol.lost
        assert transport.is_closing()
