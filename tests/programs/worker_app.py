"""The same service as an ASGI application, `app`, and as one of aiohttp's, `web_app()`: says which process answers."""

from __future__ import annotations

import os
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI, by hand."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])  # as servers expect it of applications without lifespan
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def web_app() -> Any:
    """aiohttp's."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=str(os.getpid()))

    application = web.Application()
    application.router.add_get("/", answer)
    return application
