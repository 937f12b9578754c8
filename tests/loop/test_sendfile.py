"""loop.sendfile()."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from .conftest import Net
from .protocols import Recorder

DATA = os.urandom(1_500_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of DATA."""
    file = tmp_path / "data"
    file.write_bytes(DATA)
    return file


@contextlib.asynccontextmanager
async def connected(net: Net, tls: bool) -> AsyncIterator[tuple[Recorder, Any]]:
    """A receiving server's recorder, and a client's transport."""
    ends: list[Recorder] = []
    server_options: dict[str, Any] = {}
    client_options: dict[str, Any] = {}
    if tls:
        import ssl

        authority = trustme.CA()
        server_options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("server.test").configure_cert(server_options["ssl"])
        client_options["ssl"] = ssl.create_default_context()
        client_options["server_hostname"] = "server.test"
        authority.configure_trust(client_options["ssl"])

    def factory() -> Recorder:
        ends.append(Recorder())
        return ends[-1]

    async with net.server(factory, **server_options) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address, **client_options)
        while not ends or not ends[0].made.done():
            await asyncio.sleep(0)
        yield ends[0], transport
        transport.close()
        await protocol.lost
        await ends[0].lost


def skip_without_sendfile(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no sendfile")


@pytest.mark.parametrize("tls", [False, True])
async def test_whole_file(net: Net, path: Path, tls: bool) -> None:
    skip_without_sendfile(net)
    async with connected(net, tls) as (server, transport):
        with path.open("rb") as file:
            transport.write(b"before ")
            assert await net.loop.sendfile(transport, file) == len(DATA)
            assert file.tell() == len(DATA)
            transport.write(b" after")
        assert await server.received(len(DATA) + 13) == b"before " + DATA + b" after"


async def test_part_of_a_file(net: Net, path: Path) -> None:
    skip_without_sendfile(net)
    async with connected(net, False) as (server, transport):
        with path.open("rb") as file:
            assert await net.loop.sendfile(transport, file, 1000, 300_000) == 300_000
            assert file.tell() == 301_000
        assert await server.received(300_000) == DATA[1000:301_000]


async def test_reading_goes_on_afterwards(net: Net, path: Path) -> None:
    skip_without_sendfile(net)
    async with connected(net, False) as (server, transport):
        with path.open("rb") as file:
            await net.loop.sendfile(transport, file)
        assert transport.is_reading()
        server.transport.write(b"thanks")
        assert await transport.get_protocol().received(6) == b"thanks"


async def test_without_fallback(ours: Net, net: Net, path: Path) -> None:
    async with connected(net, False) as (_, transport):
        with path.open("rb") as file, pytest.raises(asyncio.SendfileNotAvailableError):
            await net.loop.sendfile(transport, file, fallback=False)


async def test_bad_arguments(net: Net, path: Path) -> None:
    skip_without_sendfile(net)
    async with connected(net, False) as (_, transport):
        with path.open("r") as text, pytest.raises(ValueError, match="binary"):
            await net.loop.sendfile(transport, text)
        with path.open("rb") as file:
            with pytest.raises(ValueError, match="non-negative"):
                await net.loop.sendfile(transport, file, -1)
            with pytest.raises(ValueError, match="positive"):
                await net.loop.sendfile(transport, file, 0, 0)


async def test_closing_transport(net: Net, path: Path) -> None:
    skip_without_sendfile(net)
    async with connected(net, False) as (_, transport):
        transport.close()
        with path.open("rb") as file, pytest.raises(RuntimeError, match="closing"):
            await net.loop.sendfile(transport, file)


async def test_peer_goes_away(ours: Net, net: Net, path: Path) -> None:
    async with connected(net, False) as (server, transport):
        server.transport.pause_reading()
        with path.open("rb") as file:
            big = asyncio.ensure_future(send_again_and_again(net, transport, file))
            await asyncio.sleep(0.01)
            server.transport.abort()
            with pytest.raises((ConnectionError, RuntimeError)):
                await big


async def send_again_and_again(net: Net, transport: Any, file: Any) -> None:
    while True:
        await net.loop.sendfile(transport, file)
        file.seek(0)
