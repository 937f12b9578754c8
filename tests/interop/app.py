"""The application under test: plain aiohttp, which knows nothing of the stack that it runs on.

python app.py PORT STATIC_DIRECTORY HOST... [--tls PORT CERTIFICATE]

It serves on every host until SIGTERM, and then lets the requests in flight finish.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import random
import signal
import ssl

import aiohttp
from aiohttp import web

CHUNK = random.Random(1).randbytes(1 << 20)

gone = web.AppKey("gone", list[str])
gate = web.AppKey("gate", asyncio.Event)


async def hello(request: web.Request) -> web.Response:
    """Says who asks."""
    return web.Response(text=f"hello {request.remote} over HTTP/{request.version.major}.{request.version.minor}")


async def fixed(request: web.Request) -> web.Response:
    """A body of so many bytes, with a Content-Length."""
    size = int(request.match_info["size"])
    return web.Response(body=(CHUNK * (size // len(CHUNK) + 1))[:size])


async def digest(request: web.Request) -> web.Response:
    """Hashes a body as it streams in."""
    sha256, length = hashlib.sha256(), 0
    async for data in request.content.iter_any():
        sha256.update(data)
        length += len(data)
    return web.json_response({"length": length, "sha256": sha256.hexdigest()})


async def stream(request: web.Request) -> web.StreamResponse:
    """Streams megabytes, chunked, or with a length if the query says so."""
    count = int(request.match_info["count"])
    response = web.StreamResponse()
    if "length" in request.query:
        response.content_length = count * len(CHUNK)
    await response.prepare(request)
    for _ in range(count):
        await response.write(CHUNK)
    await response.write_eof()
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    """Streams until the client goes away, and takes down that it did."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(CHUNK)
    except ConnectionError as error:
        request.app[gone].append(type(error).__name__)
    return response


async def slow(request: web.Request) -> web.Response:
    """Answers once the gate is open: after SIGTERM, or a request for /open."""
    await request.app[gate].wait()
    return web.Response(text="finished")


async def status(request: web.Request) -> web.Response:
    """The clients that left in mid-response, and how many tasks there are."""
    return web.json_response({"gone": request.app[gone], "tasks": len(asyncio.all_tasks())})


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Sends texts back in upper case, bytes reversed."""
    socket = web.WebSocketResponse(max_msg_size=16 << 20)
    await socket.prepare(request)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
        elif message.type == aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data[::-1])
    return socket


def application(directory: str) -> web.Application:
    """The application."""
    app = web.Application(client_max_size=1 << 30)
    app[gone] = []
    app[gate] = asyncio.Event()
    app.router.add_get("/", hello)
    app.router.add_get(r"/bytes/{size:\d+}", fixed)
    app.router.add_route("*", "/digest", digest)
    app.router.add_get(r"/stream/{count:\d+}", stream)
    app.router.add_get("/endless", endless)
    app.router.add_get("/slow", slow)
    app.router.add_get("/status", status)
    app.router.add_get("/websocket", websocket)
    app.router.add_static("/static", directory)
    return app


async def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("directory")
    parser.add_argument("host", nargs="+")
    parser.add_argument("--tls", nargs=2, metavar=("PORT", "CERTIFICATE"))
    options = parser.parse_args()
    app = application(options.directory)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10.0)
    await runner.setup()
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.tls[1])
        for host in options.host:
            await web.TCPSite(runner, host, int(options.tls[0]), ssl_context=context).start()
    for host in options.host:
        await web.TCPSite(runner, host, options.port, backlog=1024).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    asyncio.get_running_loop().call_later(0.2, app[gate].set)
    await runner.cleanup()
    print("cleaned up", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
