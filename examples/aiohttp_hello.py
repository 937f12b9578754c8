"""A plain aiohttp server.  Nothing in it knows about user-space TCP.

On the kernel's TCP:

    python examples/aiohttp_hello.py

On user-space TCP, over a TAP named ams0 (as root):

    aiomultistack run --port tap:ams0 --addresses 10.9.0.2/24 --host-addresses 10.9.0.1/24 \\
        examples/aiohttp_hello.py

and then, from another terminal:

    curl http://10.9.0.2:8080/
"""

import asyncio

from aiohttp import web


async def hello(request: web.Request) -> web.Response:
    """Answers with the names of both ends of the connection."""
    assert request.transport is not None
    server = request.transport.get_extra_info("sockname")
    client = request.transport.get_extra_info("peername")
    loop = type(asyncio.get_running_loop())
    return web.Response(text=f"Hello {client[0]}, this is {server[0]} on {loop.__module__}.{loop.__name__}\n")


def make_app() -> web.Application:
    """The application."""
    app = web.Application()
    app.router.add_get("/", hello)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), port=8080)
