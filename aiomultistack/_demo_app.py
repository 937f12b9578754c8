"""The demo's application: plain aiohttp.  It knows nothing of aiomultistack and imports none of it.

python _demo_app.py --host 127.0.0.1 --port 8080 [--tls-port 8443 --certificate FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import os
import random
import ssl

from aiohttp import web

LARGEST = 64 << 20  # bytes that /bytes/N will make


@functools.lru_cache(maxsize=16)
def pattern(size: int) -> bytes:
    """The body of /bytes/SIZE: random-looking, but always the same."""
    return random.Random(size).randbytes(size)


async def who(request: web.Request) -> web.Response:
    """Says who answers: the process, its event loop, and both ends of the connection."""
    assert request.transport is not None
    loop = type(asyncio.get_running_loop())
    return web.json_response(
        {
            "pid": os.getpid(),
            "loop": f"{loop.__module__}.{loop.__name__}",
            "server": request.transport.get_extra_info("sockname"),
            "client": request.transport.get_extra_info("peername"),
        }
    )


async def download(request: web.Request) -> web.Response:
    """Answers with as many bytes as the path asks for."""
    size = int(request.match_info["size"])
    if size > LARGEST:
        raise web.HTTPBadRequest(text=f"at most {LARGEST} bytes")
    return web.Response(body=pattern(size), content_type="application/octet-stream")


async def upload(request: web.Request) -> web.Response:
    """Answers with the SHA-256 of the request's body."""
    digest = hashlib.sha256()
    async for chunk in request.content.iter_chunked(1 << 16):
        digest.update(chunk)
    return web.Response(text=digest.hexdigest())


async def serve(hosts: list[str], port: int, tls_port: int | None, certificate: str | None) -> web.AppRunner:
    """Starts the application; the caller owns the runner that is returned."""
    app = web.Application(client_max_size=LARGEST)
    app.add_routes([web.get("/", who), web.get(r"/bytes/{size:\d+}", download), web.post("/upload", upload)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    for host in hosts:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    if tls_port is not None and certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        for host in hosts:
            await web.TCPSite(runner, host, tls_port, backlog=1024, ssl_context=context).start()
    return runner


async def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", action="append", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-port", type=int)
    parser.add_argument("--certificate")
    options = parser.parse_args()
    runner = await serve(options.host, options.port, options.tls_port, options.certificate)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
