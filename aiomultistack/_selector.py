"""asyncio's own datagram transport on uvloop, for sockets that uvloop's doesn't take: netlink, packet, ...

asyncio's transports ask their loop for four methods that selector loops have beside the public ones.  `_Face` adds
them to any loop that has `add_reader` and `add_writer`.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from asyncio import selector_events
from collections.abc import Callable
from typing import Any

__all__ = ["datagram_endpoint"]


class _Face:
    """A loop, as asyncio's selector transports want to see it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._add_reader: Callable[..., Any] = loop.add_reader
        self._remove_reader = loop.remove_reader
        self._add_writer: Callable[..., Any] = loop.add_writer
        self._remove_writer = loop.remove_writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def datagram_endpoint(
    loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], asyncio.DatagramProtocol], sock: socket.socket
) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
    """`loop.create_datagram_endpoint(sock=)` as asyncio's selector loop does it."""
    if sock.type == socket.SOCK_STREAM:
        raise ValueError(f"A datagram socket was expected, got {sock!r}")
    sock.setblocking(False)
    protocol = protocol_factory()
    waiter = loop.create_future()
    face: Any = _Face(loop)
    transport: Any = selector_events._SelectorDatagramTransport(  # type: ignore[attr-defined]
        face, sock, protocol, None, waiter
    )
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol
