"""Sockets that programs make themselves, for loop.sock_*()."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiomultistack

from .conftest import Net

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def new_socket(net: Net, host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket that may be bound to `host`."""
    make: Any = aiomultistack.socket if net.ours else socket.socket
    sock = make(family_of(host), kind)
    sock.setblocking(False)
    return sock  # type: ignore[no-any-return]


def bound(net: Net, host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = new_socket(net, host, kind)
    sock.bind((host, 0))
    if kind == socket.SOCK_STREAM:
        sock.listen(50)
    return sock


def plain(host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket as any library makes it."""
    sock = socket.socket(family_of(host), kind)
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def sockets(net: Net, host: str | None = None) -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A connected pair: the accepted one, and the client's."""
    host = host or net.host4
    with bound(net, host) as listener, plain(host) as client:
        accepting = asyncio.ensure_future(net.loop.sock_accept(listener))
        await net.loop.sock_connect(client, listener.getsockname())
        accepted, address = await accepting
        with accepted:
            assert accepted.getsockname() == listener.getsockname() == client.getpeername()
            assert accepted.getpeername() == client.getsockname() == address
            yield accepted, client
