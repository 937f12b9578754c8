"""An ASGI application for uvicorn, unchanged.  ``uvicorn asgi_app:app --host 0.0.0.0 --port PORT``."""

from __future__ import annotations

import os
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Says who answers."""
    if scope["type"] != "http":
        return
    body = f"uvicorn on user-space TCP, process {os.getpid()}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
