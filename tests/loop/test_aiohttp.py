"""Stock aiohttp, server and client, on our loop: two hosts on a hub, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import random
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web

from .conftest import Net

CHUNK = random.Random(1).randbytes(1 << 20)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
pytestmark = pytest.mark.usefixtures("ours")


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {request.remote} over HTTP/{request.version.major}.{request.version.minor}")


async def post(request: web.Request) -> web.Response:
    body = await request.read()
    return web.json_response({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})


async def upload(request: web.Request) -> web.Response:
    """Hashes a body as it streams in."""
    digest, total = hashlib.sha256(), 0
    async for data in request.content.iter_any():
        digest.update(data)
        total += len(data)
    return web.json_response({"length": total, "sha256": digest.hexdigest()})


async def download(request: web.Request) -> web.StreamResponse:
    """Streams megabytes, chunked or with a length."""
    megabytes = int(request.query["megabytes"])
    response = web.StreamResponse()
    if "length" in request.query:
        response.content_length = megabytes * len(CHUNK)
    await response.prepare(request)
    for _ in range(megabytes):
        await response.write(CHUNK)
    await response.write_eof()
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
        elif message.type == aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data[::-1])
    return socket


def application(directory: Path) -> web.Application:
    """An application that knows nothing of its stack."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/", hello)
    app.router.add_post("/post", post)
    app.router.add_put("/upload", upload)
    app.router.add_get("/download", download)
    app.router.add_get("/websocket", websocket)
    app.router.add_static("/static", directory)
    return app


@contextlib.asynccontextmanager
async def served(net: Net, app: web.Application, family: int, **options: Any) -> AsyncIterator[str]:
    """The application on a free port; yields its URL without a scheme."""
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, net.hosts[family == 6], 0, **options)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"[{host}]:{port}" if family == 6 else f"{host}:{port}"
    finally:
        await runner.cleanup()


@FAMILIES
async def test_get_and_keep_alive(net: Net, tmp_path: Path, family: int) -> None:
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        peers = set()
        for _ in range(20):
            async with session.get(f"http://{address}/") as response:
                assert response.status == 200
                text = await response.text()
                peers.add(text)
        client = ("10.9.0.2", "fd09::2")[family == 6]
        assert peers == {f"hello {client} over HTTP/1.1"}
        states = [info.state_name for info in net.loop.multistack.connections()]  # type: ignore[attr-defined]
        assert states.count("ESTAB") == 2  # one connection, seen from both hosts


@FAMILIES
async def test_connection_close(net: Net, tmp_path: Path, family: int) -> None:
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        for _ in range(5):
            async with session.get(f"http://{address}/", headers={"Connection": "close"}) as response:
                assert response.status == 200
                await response.read()


@FAMILIES
async def test_post(net: Net, tmp_path: Path, family: int) -> None:
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        for size in (0, 1, 1000, 100_000, 3_000_000):
            body = CHUNK[:size] if size <= len(CHUNK) else os.urandom(size)
            async with session.post(f"http://{address}/post", data=io.BytesIO(body)) as response:
                assert await response.json() == {"length": size, "sha256": hashlib.sha256(body).hexdigest()}


@pytest.mark.parametrize("query", ["", "&length"])
@FAMILIES
async def test_streaming_response(net: Net, tmp_path: Path, family: int, query: str) -> None:
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/download?megabytes=3{query}") as response:
            assert ("Transfer-Encoding" in response.headers) is (query == "")
            assert await response.read() == CHUNK * 3


@FAMILIES
async def test_100_megabytes_down(net: Net, tmp_path: Path, family: int) -> None:
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(CHUNK)
    digest = hashlib.sha256()
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/download?megabytes=100") as response:
            async for data in response.content.iter_any():
                digest.update(data)
    assert digest.digest() == expected.digest()


@FAMILIES
async def test_100_megabytes_up(net: Net, tmp_path: Path, family: int) -> None:
    expected = hashlib.sha256()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(100):
            expected.update(CHUNK)
            yield CHUNK

    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        async with session.put(f"http://{address}/upload", data=body()) as response:
            answer = await response.json()
    assert answer == {"length": 100 << 20, "sha256": expected.hexdigest()}


@FAMILIES
async def test_websocket(net: Net, tmp_path: Path, family: int) -> None:
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        async with session.ws_connect(f"http://{address}/websocket") as socket:
            await socket.send_str("echo")
            assert await socket.receive_str() == "ECHO"
            for size in (0, 1, 70_000, 1_000_000):
                await socket.send_bytes(CHUNK[:size])
                assert await socket.receive_bytes() == CHUNK[:size][::-1]


@FAMILIES
async def test_static_file(net: Net, tmp_path: Path, family: int) -> None:
    (tmp_path / "file").write_bytes(CHUNK * 3)
    async with served(net, application(tmp_path), family) as address, aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/static/file") as response:
            assert response.headers["Content-Length"] == str(3 * len(CHUNK))
            assert await response.read() == CHUNK * 3
        async with session.get(f"http://{address}/static/file", headers={"Range": "bytes=1000-1999"}) as response:
            assert response.status == 206
            assert await response.read() == CHUNK[1000:2000]


@FAMILIES
async def test_https(net: Net, tmp_path: Path, family: int) -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(net.hosts[family == 6]).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    (tmp_path / "file").write_bytes(CHUNK)
    async with served(net, application(tmp_path), family, ssl_context=server) as address:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client)) as session:
            async with session.get(f"https://{address}/") as response:
                assert response.status == 200
            async with session.get(f"https://{address}/download?megabytes=5") as response:
                assert await response.read() == CHUNK * 5
            async with session.post(f"https://{address}/post", data=CHUNK) as response:
                assert (await response.json())["length"] == len(CHUNK)
            async with session.get(f"https://{address}/static/file") as response:
                assert await response.read() == CHUNK


@FAMILIES
async def test_client_disconnects_in_mid_response(net: Net, tmp_path: Path, family: int) -> None:
    outcome: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(CHUNK)
        except (ConnectionError, asyncio.CancelledError) as exc:
            outcome.set_result(exc)
            raise

    app = application(tmp_path)
    app.router.add_get("/endless", endless)
    async with served(net, app, family) as address:
        async with aiohttp.ClientSession() as session:
            response = await session.get(f"http://{address}/endless")
            await response.content.readexactly(100_000)
            response.close()
        assert isinstance(await outcome, (ConnectionError, asyncio.CancelledError))


@FAMILIES
async def test_graceful_shutdown(net: Net, tmp_path: Path, family: int) -> None:
    """A request in progress is answered; the listener is gone meanwhile."""
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        started.set()
        await finish.wait()
        return web.Response(text="finished")

    app = application(tmp_path)
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app, shutdown_timeout=5.0)
    await runner.setup()
    await web.TCPSite(runner, net.hosts[family == 6], 0).start()
    host, port = runner.addresses[0][:2]
    address = f"[{host}]:{port}" if family == 6 else f"{host}:{port}"
    async with aiohttp.ClientSession() as session:
        request = asyncio.ensure_future(session.get(f"http://{address}/slow"))
        await started.wait()
        cleanup = asyncio.ensure_future(runner.cleanup())
        await asyncio.sleep(0.01)
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{address}/")
        finish.set()
        async with await request as response:
            assert await response.text() == "finished"
        await cleanup


@FAMILIES
async def test_concurrent_requests(net: Net, tmp_path: Path, family: int) -> None:
    async with served(net, application(tmp_path), family) as address:
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(number: int) -> int:
                async with session.post(f"http://{address}/post", data=CHUNK[: number * 100]) as response:
                    return int((await response.json())["length"])

            assert await asyncio.gather(*(one(number) for number in range(300))) == [n * 100 for n in range(300)]


async def test_connection_refused(net: Net) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await session.get("http://10.9.0.1:1/")
        assert isinstance(caught.value.os_error, ConnectionRefusedError)
