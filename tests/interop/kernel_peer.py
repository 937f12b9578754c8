"""The kernel's side of a transfer: blocking sockets, to be called in an executor's thread.

Every transfer is checked by both sides: each sends `size` bytes made from a seed, then a FIN, and returns the SHA-256
of what it got.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
import socket
import ssl
import threading
from collections.abc import Iterator

from support import PATIENCE


@functools.lru_cache(maxsize=4)
def payload(seed: int, size: int) -> bytes:
    """Bytes that look random, but are always the same."""
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    """Their SHA-256."""
    return hashlib.sha256(data).hexdigest()


def exchange(sock: socket.socket, data: bytes) -> str:
    """Sends data and a FIN while it receives; returns the SHA-256 of what has come until the peer's FIN."""
    sha256 = hashlib.sha256()

    def send() -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while got := sock.recv(1 << 18):
            sha256.update(got)
    finally:
        sender.join()
    return sha256.hexdigest()


def connect_and_exchange(host: str, port: int, data: bytes) -> str:
    """A client's part."""
    with socket.create_connection((host, port), PATIENCE) as sock:
        return exchange(sock, data)


@contextlib.contextmanager
def listener(host: str) -> Iterator[socket.socket]:
    """A listening socket of the kernel's, on a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def accept_and_exchange(listening: socket.socket, data: bytes, context: ssl.SSLContext | None = None) -> str:
    """A server's part, for one connection."""
    sock, _ = listening.accept()
    sock.settimeout(PATIENCE)
    if context is not None:
        with context.wrap_socket(sock, server_side=True) as tls:
            return _echo_digest(tls, data)
    with sock:
        return exchange(sock, data)


def _echo_digest(sock: socket.socket, data: bytes) -> str:
    """TLS has no half-close: receives as many bytes as it then sends."""
    sha256, left = hashlib.sha256(), len(data)
    while left:
        got = sock.recv(1 << 18)
        assert got, f"{left} bytes are missing"
        sha256.update(got)
        left -= len(got)
    sock.sendall(data)
    return sha256.hexdigest()


async def stream_exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> str:
    """The same as `exchange`, with asyncio's streams."""
    sha256 = hashlib.sha256()

    async def send() -> None:
        view = memoryview(data)
        for start in range(0, len(data), 1 << 18):
            writer.write(view[start : start + (1 << 18)])
            await writer.drain()
        writer.write_eof()

    sender = asyncio.ensure_future(send())
    while got := await reader.read(1 << 18):
        sha256.update(got)
    await sender
    writer.close()
    await writer.wait_closed()
    return sha256.hexdigest()
