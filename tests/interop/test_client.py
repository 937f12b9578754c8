"""Clients on the stack, servers on the kernel's TCP: aiohttp's ClientSession, asyncio's streams, TLS, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from support import PATIENCE

from .app import CHUNK, application
from .kernel_peer import accept_and_exchange, digest, listener, payload, stream_exchange
from .lab import KERNEL4, KERNEL6, NOBODY4, NOBODY6, STACK4, Bench, kernel_host, stack_host, url_host

FAMILIES = pytest.mark.parametrize("family", [4, 6])
LARGE = 100 << 20


class Certificates:
    """A server's context and a client's that trusts it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(KERNEL4, KERNEL6).configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


class KernelSite:
    """The application on a plain asyncio loop in a thread, on the kernel's TCP."""

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kernel's server")
        self._thread.start()
        self._runner = web.AppRunner(application(str(directory)), access_log=None, shutdown_timeout=1.0)
        asyncio.run_coroutine_threadsafe(self._start(certificates), self._loop).result(PATIENCE)

    async def _start(self, certificates: Certificates) -> None:
        await self._runner.setup()
        for host in (KERNEL4, KERNEL6):
            await web.TCPSite(self._runner, host, 8080, backlog=512).start()
            await web.TCPSite(self._runner, host, 8443, ssl_context=certificates.server).start()

    def url(self, family: int, path: str, scheme: str = "http") -> str:
        """The URL of a path."""
        return f"{scheme}://{url_host(kernel_host(family))}:{8443 if scheme == 'https' else 8080}{path}"

    def close(self) -> None:
        """Ends the server and its thread."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def site(bench: Bench, tmp_path: Path, certificates: Certificates) -> Iterator[KernelSite]:
    """A server on the kernel's side of the bench's TAP."""
    with contextlib.closing(KernelSite(tmp_path, certificates)) as site:
        yield site


# ---- aiohttp's client ------------------------------------------------------------------------------------


@FAMILIES
def test_aiohttp_gets_and_posts(bench: Bench, site: KernelSite, family: int) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(site.url(family, "/")) as response:
                assert await response.text() == f"hello {stack_host(family)} over HTTP/1.1"
            for size in (0, 1, 1460, 100_000, 3_000_000):
                async with session.get(site.url(family, f"/bytes/{size}")) as response:
                    body = await response.read()
                assert body == (CHUNK * 3)[:size]
                async with session.post(site.url(family, "/digest"), data=io.BytesIO(body)) as response:
                    assert await response.json() == {"length": size, "sha256": digest(body)}
            states = [info.state_name for info in bench.loop.multistack.connections()]
            assert states == ["ESTAB"]  # one connection did all of that

    bench.run(main)


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_aiohttp_100_megabytes(
    bench: Bench, site: KernelSite, certificates: Certificates, family: int, scheme: str
) -> None:
    async def main() -> None:
        sha256 = hashlib.sha256()
        connector = aiohttp.TCPConnector(ssl=certificates.client)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get(site.url(family, "/stream/100", scheme)) as response:
                async for data in response.content.iter_any():
                    sha256.update(data)
            assert sha256.hexdigest() == digest(CHUNK * 100)
            async with session.put(site.url(family, "/digest", scheme), data=_chunks(100)) as response:
                assert await response.json() == {"length": LARGE, "sha256": sha256.hexdigest()}

    bench.run(main)


async def _chunks(count: int):  # type: ignore[no-untyped-def]  # an async generator, which aiohttp takes as a body
    for _ in range(count):
        yield CHUNK


@FAMILIES
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_aiohttp_100_at_once(
    bench: Bench, site: KernelSite, certificates: Certificates, family: int, scheme: str
) -> None:
    async def main() -> None:
        connector = aiohttp.TCPConnector(ssl=certificates.client, limit=100)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(number: int) -> int:
                async with session.get(site.url(family, f"/bytes/{number * 1000}", scheme)) as response:
                    return len(await response.read())

            assert await asyncio.gather(*map(one, range(100))) == [number * 1000 for number in range(100)]

    bench.run(main)


@FAMILIES
def test_websocket(bench: Bench, site: KernelSite, family: int) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(site.url(family, "/websocket")) as socket:
            for size in (0, 1, 70_000, 1 << 20):
                await socket.send_bytes(CHUNK[:size])
                assert await socket.receive_bytes() == CHUNK[:size][::-1]

    bench.run(main)


# ---- asyncio's streams -----------------------------------------------------------------------------------


@FAMILIES
def test_streams_100_megabytes_each_way(bench: Bench, family: int) -> None:
    """Both ways at once, and ended by half-closes."""
    ours, theirs = payload(3, LARGE), payload(4, LARGE)

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            peer = asyncio.ensure_future(asyncio.to_thread(accept_and_exchange, listening, theirs))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            assert await stream_exchange(reader, writer, ours) == digest(theirs)
            assert await peer == digest(ours)

    bench.run(main)


@FAMILIES
def test_streams_over_tls(bench: Bench, certificates: Certificates, family: int) -> None:
    data = payload(5, 5 << 20)

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            peer = asyncio.ensure_future(asyncio.to_thread(accept_and_exchange, listening, data, certificates.server))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2], ssl=certificates.client)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            assert await peer == digest(data)
            writer.close()
            with contextlib.suppress(ssl.SSLError, ConnectionError):  # the peer went without waiting for close_notify
                await writer.wait_closed()

    bench.run(main)


@FAMILIES
def test_untrusted_certificate(bench: Bench, site: KernelSite, family: int) -> None:
    async def main() -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(kernel_host(family), 8443, ssl=ssl.create_default_context())

    bench.run(main)


@FAMILIES
@pytest.mark.parametrize("linger", [False, True], ids=["fin", "rst"])
def test_kernel_closes(bench: Bench, family: int, linger: bool) -> None:
    """An end of the kernel's making: EOF, or ConnectionResetError if it resets."""

    def peer(listening: socket.socket) -> None:
        sock, _ = listening.accept()
        with sock:
            assert sock.recv(5) == b"hello"
            if linger:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            thread = asyncio.ensure_future(asyncio.to_thread(peer, listening))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            writer.write(b"hello")
            if linger:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            else:
                assert await reader.read() == b""
            await thread
            writer.close()
            with contextlib.suppress(ConnectionResetError):
                await writer.wait_closed()

    bench.run(main)


# ---- what cannot be reached ------------------------------------------------------------------------------


@FAMILIES
def test_refused(bench: Bench, family: int) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(kernel_host(family), 9)
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.get(f"http://{url_host(kernel_host(family))}:9/")
            assert isinstance(caught.value.os_error, ConnectionRefusedError)

    bench.run(main)


@pytest.mark.parametrize("host", [NOBODY4, NOBODY6])
def test_nobody_there(bench: Bench, host: str) -> None:
    """Neighbour resolution gives up after some seconds (RFC 4861 section 7.3.3)."""

    async def main() -> None:
        with pytest.raises(OSError) as caught:
            await asyncio.open_connection(host, 80)
        assert caught.value.errno == 113, caught.value  # EHOSTUNREACH

    bench.run(main)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_unreachable_by_the_router(bench: Bench, host: str) -> None:
    """The kernel, as our router, has no route: ICMP says so."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")

    async def main() -> None:
        with pytest.raises(OSError) as caught:
            await asyncio.wait_for(asyncio.open_connection(host, 80), PATIENCE)
        assert caught.value.errno in (101, 113), caught.value  # ENETUNREACH, EHOSTUNREACH

    bench.run(main)


def test_timeout(bench: Bench) -> None:
    """A listener whose queue is full answers nothing."""

    async def main() -> None:
        with listener(KERNEL4) as listening, contextlib.ExitStack() as stack:
            listening.listen(0)
            for _ in range(2):  # filled by connections of the kernel's own
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(listening.getsockname())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.open_connection(*listening.getsockname()), 0.5)
        assert bench.loop.multistack.connections() == []

    bench.run(main)


def test_the_kernel_is_refused(bench: Bench) -> None:
    """The other way round: a closed port of the stack's, and a listener that was closed."""

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(socket.create_connection, (STACK4, 9), PATIENCE)
        server = await asyncio.start_server(lambda *_: None, STACK4, 8080)
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(socket.create_connection, (STACK4, 8080), PATIENCE)

    bench.run(main)
