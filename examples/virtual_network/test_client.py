"""What becomes of a client when the network breaks: minutes of virtual time in milliseconds, no root, no mocks.

    pip install aiomultistack pytest
    pytest examples/virtual_network                    # passes; one test is known to fail
    pytest examples/virtual_network --runxfail         # and why
"""

import asyncio

import pytest
from client import fetch, naive_fetch

from aiomultistack.testing import DeadlockError, Network

VALUES = {"colour": "green"}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection."""
    try:
        while line := await reader.readline():
            key = line.decode().split()[1]
            await asyncio.sleep(0.1)  # a slow database
            writer.write(VALUES[key].encode() + b"\n")
            await writer.drain()
    finally:
        writer.close()


async def serve() -> None:
    """An ordinary asyncio server."""
    async with await asyncio.start_server(answer, None, 4000) as server:
        await server.serve_forever()


@pytest.mark.parametrize("client", [naive_fetch, fetch])
async def test_both_work_while_nothing_breaks(virtual_network: Network, client) -> None:  # type: ignore[no-untyped-def]
    virtual_network.links(delay=0.05, loss=0.1)
    virtual_network.host("server").start(serve())
    assert await client("server", "colour") == "green"


@pytest.mark.xfail(raises=DeadlockError, strict=True, reason="the bug that this example is about")
async def test_naive_client_survives_a_crash(virtual_network: Network) -> None:
    """The server's power fails between question and answer: TCP has nothing to send, so nothing ever times out."""
    server = virtual_network.host("server")
    server.start(serve())
    asyncio.get_running_loop().call_later(0.08, server.crash)
    with pytest.raises((OSError, asyncio.TimeoutError)):
        await naive_fetch("server", "colour")


async def test_client_survives_a_crash(virtual_network: Network) -> None:
    """The server is back after six seconds: the second attempt finds it, or the third."""
    server = virtual_network.host("server")
    server.start(serve())

    async def accident() -> None:
        await asyncio.sleep(0.08)
        server.crash()
        await asyncio.sleep(6)
        server.restart()
        server.start(serve())

    task = asyncio.create_task(accident())
    assert await fetch("server", "colour") == "green"
    assert virtual_network.time() > 5
    await task


async def test_client_gives_up(virtual_network: Network) -> None:
    """Nobody is there: three attempts of five seconds, and an exception."""
    virtual_network.host("server").start(serve())
    with virtual_network.partition("server"), pytest.raises(asyncio.TimeoutError):
        await fetch("server", "colour")
    assert virtual_network.time() == 15
