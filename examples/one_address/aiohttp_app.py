"""A server: aiohttp, unchanged.  ``python aiohttp_app.py PORT``."""

from __future__ import annotations

import os
import sys

from aiohttp import web


async def hello(request: web.Request) -> web.Response:
    """Says who answers."""
    return web.Response(text=f"aiohttp on user-space TCP, process {os.getpid()}\n")


def main() -> None:
    """Serves on all addresses."""
    app = web.Application()
    app.add_routes([web.get("/", hello)])
    web.run_app(app, host=["0.0.0.0", "::"], port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
