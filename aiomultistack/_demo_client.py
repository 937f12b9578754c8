"""The demo's clients: fetches whose bytes are checked, and a load that is measured.

They run on whatever loop runs them: asyncio on the kernel's TCP, or ours.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import aiohttp

from aiomultistack._demo_app import pattern

SIZES = (1, 1000, 65536, 1 << 20, 10 << 20)
CONCURRENT = 200
_TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True)
class Fetch:
    """Some requests, one by one or all at once."""

    route: str  # "HTTPS, IPv6"
    what: str
    requests: int
    bytes: int
    seconds: float
    error: str | None  # None: every byte was right


@dataclass(frozen=True)
class Target:
    """Where a server is."""

    host: str
    port: int
    tls_port: int | None = None
    host6: str | None = None

    def url(self, scheme: str = "http", ipv6: bool = False) -> str:
        """The root's URL."""
        host = f"[{self.host6}]" if ipv6 else self.host
        return f"{scheme}://{host}:{self.tls_port if scheme == 'https' else self.port}"


class WrongAnswerError(Exception):
    """An answer that is not what it should be."""


async def _get(session: aiohttp.ClientSession, url: str, size: int) -> int:
    async with session.get(f"{url}/bytes/{size}") as response:
        body = await response.read()
    if response.status != 200 or body != pattern(size):
        raise WrongAnswerError(f"{url}/bytes/{size}: status {response.status}, {len(body)} bytes, not what was sent")
    return len(body)


async def _post(session: aiohttp.ClientSession, url: str, size: int) -> int:
    body = pattern(size)
    async with session.post(f"{url}/upload", data=body) as response:
        answer = await response.text()
    if answer != hashlib.sha256(body).hexdigest():
        raise WrongAnswerError(f"{url}/upload: status {response.status}, the server's SHA-256 differs")
    return size


async def _timed(route: str, what: str, jobs: Sequence[Callable[[], Awaitable[int]]], at_once: bool) -> Fetch:
    """Runs the jobs; each returns how many bytes it moved."""
    start = time.perf_counter()
    results: list[int | BaseException] = []
    if at_once:
        results += await asyncio.gather(*(job() for job in jobs), return_exceptions=True)
    else:
        for job in jobs:
            results += await asyncio.gather(job(), return_exceptions=True)
    seconds = time.perf_counter() - start
    errors = [result for result in results if isinstance(result, BaseException)]
    for error in errors:
        if not isinstance(error, (aiohttp.ClientError, OSError, asyncio.TimeoutError, WrongAnswerError)):
            raise error
    moved = sum(result for result in results if isinstance(result, int))
    text = f"{len(errors)} failed, first {type(errors[0]).__name__}: {errors[0]}" if errors else None
    return Fetch(route, what, len(jobs), moved, seconds, text)


async def fetch_all(
    target: Target, tls: ssl.SSLContext, say: Callable[[str], None], meanwhile: Callable[[], Any]
) -> tuple[dict[str, Any], list[Fetch], Any]:
    """Fetches everything that the demo fetches.

    meanwhile: called, in a thread, while all connections are open.
    Returns what the server says of itself, the fetches, and what `meanwhile` returned.
    """
    fetches = []
    connector = aiohttp.TCPConnector(limit=0, ssl=tls)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        async with session.get(target.url()) as response:
            answer = await response.json()
        routes = [("HTTP, IPv4", target.url())]
        if target.host6:
            routes.append(("HTTP, IPv6", target.url(ipv6=True)))
        if target.tls_port:
            routes.append(("HTTPS, IPv4", target.url("https")))
            if target.host6:
                routes.append(("HTTPS, IPv6", target.url("https", ipv6=True)))
        for name, url in routes:
            say(f"{name}: one by one")
            jobs = [functools.partial(_get, session, url, size) for size in SIZES]
            jobs.append(functools.partial(_post, session, url, SIZES[-1]))
            fetches.append(await _timed(name, "GET 1 B to 10 MB, POST 10 MB", jobs, at_once=False))
        for name, url in routes:
            say(f"{name}: {CONCURRENT} requests at once")
            jobs = [functools.partial(_get, session, url, 1000)] * CONCURRENT
            fetches.append(await _timed(name, f"{CONCURRENT} GETs at once", jobs, at_once=True))
        seen = await asyncio.get_running_loop().run_in_executor(None, meanwhile)
    return answer, fetches, seen


class _Requester(asyncio.Protocol):
    """One connection of the load: asks, waits for the whole answer, asks again while there is work."""

    def __init__(self, load: Load, ended: asyncio.Future[None]) -> None:
        self._load = load
        self._ended = ended
        self._received = b""
        self._missing = -1  # bytes of body still to come; -1: the head is incomplete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._received += data
            head, separator, data = self._received.partition(b"\r\n\r\n")
            if not separator:
                return
            self._received = b""
            self._missing = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self._load.done += 1
            if not self._load.closing and self._load.take():
                self._transport.write(self._load.request)
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._ended.done():
            if error is not None:
                self._ended.set_exception(error)
            else:
                self._ended.set_result(None)


class Load:
    """Many small requests, some at a time.

    closing: whether each request has a connection of its own.
    """

    def __init__(self, target: Target, requests: int, connections: int, closing: bool, size: int = 1024) -> None:
        self.target = target
        self.closing = closing
        self.done = 0
        self._left = requests
        self._connections = connections
        last = "Connection: close\r\n" if closing else ""
        self.request = f"GET /bytes/{size} HTTP/1.1\r\nHost: {target.host}\r\n{last}\r\n".encode()

    def take(self) -> bool:
        """Takes one request off the work that is left; False if there is none."""
        self._left -= 1
        return self._left >= 0

    async def run(self) -> float:
        """Runs the load; returns the seconds that it took."""
        start = time.perf_counter()
        await asyncio.gather(*(self._worker() for _ in range(self._connections)))
        return time.perf_counter() - start

    async def _worker(self) -> None:
        loop = asyncio.get_running_loop()
        while self.take():
            ended: asyncio.Future[None] = loop.create_future()
            factory = functools.partial(_Requester, self, ended)
            transport, _ = await loop.create_connection(factory, self.target.host, self.target.port)
            try:
                await ended
            except BaseException:
                transport.abort()
                raise
