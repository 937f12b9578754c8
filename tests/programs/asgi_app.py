"""An ASGI application: FastAPI below Starlette."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

api = FastAPI()


@api.get("/{name}")
async def hello(name: str, request: Request) -> dict[str, str]:
    """JSON with the client's address."""
    assert request.client is not None
    return {"hello": name, "client": request.client.host}


async def digest(request: StarletteRequest) -> PlainTextResponse:
    """SHA-256 of a body, as it streams in."""
    found = hashlib.sha256()
    async for part in request.stream():
        found.update(part)
    return PlainTextResponse(found.hexdigest())


async def stream(request: StarletteRequest) -> StreamingResponse:
    """Chunks."""

    async def parts() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["chunks"])):
            yield b"%06d" % number * 1000

    return StreamingResponse(parts())


async def slow(request: StarletteRequest) -> PlainTextResponse:
    """An answer that takes half a minute."""
    await asyncio.sleep(30)
    return PlainTextResponse("at last")


async def echo(socket: WebSocket) -> None:
    """Sends messages back."""
    await socket.accept()
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        return


app = Starlette(
    routes=[
        Mount("/hello", api),
        Route("/digest", digest, methods=["POST"]),
        Route("/stream", stream),
        Route("/slow", slow),
        WebSocketRoute("/echo", echo),
    ]
)
