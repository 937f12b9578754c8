"""TLS over the stack's transports, by asyncio's own `sslproto`, whose signature differs between versions."""

from __future__ import annotations

import asyncio
import ssl
import sys
from asyncio import sslproto
from typing import Any

__all__ = ["SSLContext", "app_transport", "is_ours", "make_protocol", "start_tls"]

SSLContext = ssl.SSLContext

_SHUTDOWN_TIMEOUT = sys.version_info >= (3, 11)  # sslproto has ssl_shutdown_timeout


def make_protocol(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext | bool | None,
    waiter: asyncio.Future[None] | None,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    handshake_timeout: float | None = None,
    shutdown_timeout: float | None = None,
    call_connection_made: bool = True,
) -> Any:
    """asyncio's SSLProtocol, to be put between a transport and an application's protocol."""
    options: dict[str, Any] = {"ssl_handshake_timeout": handshake_timeout}
    if _SHUTDOWN_TIMEOUT:
        options["ssl_shutdown_timeout"] = shutdown_timeout
    return sslproto.SSLProtocol(
        loop,
        protocol,
        None if isinstance(context, bool) else context,  # type: ignore[arg-type]
        waiter,  # type: ignore[arg-type]
        server_side,
        server_hostname,
        call_connection_made,
        **options,
    )


def app_transport(protocol: Any) -> asyncio.Transport:
    """The transport that an SSLProtocol offers to the application."""
    transport: asyncio.Transport = protocol._app_transport
    return transport


def underlying(transport: object) -> object:
    """What a TLS transport of asyncio's runs over, however deep; the transport itself if it isn't one."""
    while isinstance(transport, sslproto._SSLProtocolTransport):
        transport = transport._ssl_protocol._transport
    return transport


def is_ours(transport: object) -> bool:
    """True for a transport of the user-space stack, and for TLS over one."""
    from ._transport import Transport

    return isinstance(underlying(transport), Transport)


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: Any,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> asyncio.Transport:
    """`loop.start_tls()` for a transport of ours."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {context!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter = loop.create_future()
    ssl_protocol = make_protocol(
        loop,
        protocol,
        context,
        waiter,
        server_side=server_side,
        server_hostname=server_hostname,
        handshake_timeout=handshake_timeout,
        shutdown_timeout=shutdown_timeout,
        call_connection_made=False,
    )
    # Paused, so that no data can come before SSLProtocol.connection_made().
    transport.pause_reading()
    transport.set_protocol(ssl_protocol)
    made = loop.call_soon(ssl_protocol.connection_made, transport)
    resume = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException:
        transport.close()
        made.cancel()
        resume.cancel()
        raise
    return app_transport(ssl_protocol)
