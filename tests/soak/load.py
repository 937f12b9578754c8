"""Random mixed load: servers of several kinds, and clients that treat them well and badly.

Plain asyncio, so that it runs on any loop.  Every choice comes from one generator.  What may go wrong on a bad
network goes into `tally`; anything else ends the run.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

ECHO, SOURCE, TLS_ECHO, RUDE, SINK, UDP_ECHO = 7, 19, 8, 13, 9, 17
NOBODY = 4444
PATIENCE = 900.0  # seconds; nothing that goes well takes longer

#: What a client may meet: the peer or the network is at fault, or the time-out of its own.
EXPECTED = (ConnectionError, asyncio.TimeoutError, TimeoutError, asyncio.IncompleteReadError)
_POOL = random.Random(1).randbytes(1 << 20)


def dress(transport: asyncio.BaseTransport, rng: random.Random) -> None:
    """Sets some socket options at random; none of them may keep data from arriving.

    No window below a segment: facing it, Linux sends by its persist timer only, five times a second.
    """
    tcp, generic = socket.IPPROTO_TCP, socket.SOL_SOCKET
    choices: list[tuple[int, int, int | bytes]] = [
        (tcp, socket.TCP_NODELAY, rng.randrange(2)),
        (tcp, socket.TCP_QUICKACK, rng.randrange(2)),
        (tcp, socket.TCP_NOTSENT_LOWAT, rng.choice((1, 1000, 100_000))),
        (tcp, socket.TCP_LINGER2, rng.randrange(1, 60)),
        (tcp, socket.TCP_WINDOW_CLAMP, rng.choice((8192, 65536))),
        (tcp, socket.TCP_MAXSEG, rng.choice((536, 1000))),
        (tcp, socket.TCP_CONGESTION, rng.choice((b"reno", b"cubic"))),
        (tcp, socket.TCP_KEEPIDLE, rng.randrange(1, 100)),
        (generic, socket.SO_KEEPALIVE, 1),
        (generic, socket.SO_RCVBUF, rng.choice((8192, 100_000))),
        (generic, socket.SO_SNDBUF, rng.choice((8192, 100_000))),
    ]
    sock = transport.get_extra_info("socket")
    for option in rng.sample(choices, int(rng.random() ** 2 * len(choices))):
        with contextlib.suppress(OSError):  # it may be too late
            sock.setsockopt(*option)


class Echo(asyncio.Protocol):
    """Sends everything back, stops reading now and then, and respects back-pressure."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self._load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._load.connections.add(self)
        dress(transport, self._load.random)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        if self._load.random.random() < 0.01:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self._load.random.random(), self.transport.resume_reading)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.connections.discard(self)


class Rude(Echo):
    """Resets the connection as soon as data comes."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.abort()


class Sink(asyncio.BufferedProtocol):
    """Reads into a buffer of its own, and answers with the hash at the end."""

    transport: asyncio.Transport

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = bytearray(16384)
        self._digest = hashlib.sha256()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._load.connections.add(self)
        dress(transport, self._load.random)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._digest.update(self._buffer[:nbytes])

    def eof_received(self) -> None:
        self.transport.write(self._digest.digest())

    def connection_lost(self, error: Exception | None) -> None:
        self._load.connections.discard(self)


class UdpEcho(asyncio.DatagramProtocol):
    """Sends datagrams back."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Answers(asyncio.DatagramProtocol):
    """Collects what comes back."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.received.put_nowait(b"")


class Load:
    """Servers on `local`, clients of those on `remote`; both have the same ports."""

    def __init__(
        self, seed: str, local: str, remote: str, tls: tuple[ssl.SSLContext, ssl.SSLContext], largest: int = 400_000
    ) -> None:
        self.random = random.Random(seed)
        self.local, self.remote = local, remote
        self._server_tls, self._client_tls = tls
        self._largest = largest
        #: How often each action ended how.
        self.tally: collections.Counter[str] = collections.Counter()
        self.connections: set[Any] = set()
        self._servers: list[Any] = []
        self._actions: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("echo", self._echo), ("tls", self._tls), ("half-close", self._half_close), ("source", self._source),
            ("abort", self._abort), ("rude", self._rude), ("slow reader", self._slow), ("refused", self._refused),
            ("udp", self._udp), ("cancelled", self._cancelled), ("start_tls", self._start_tls),
        ]  # fmt: skip

    # ---- servers ------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Starts the servers."""
        loop = asyncio.get_running_loop()
        for port, factory, tls in (
            (ECHO, Echo, None), (TLS_ECHO, Echo, self._server_tls), (RUDE, Rude, None), (SINK, Sink, None),
        ):  # fmt: skip
            make: Any = factory
            self._servers.append(await loop.create_server(lambda make=make: make(self), self.local, port, ssl=tls))
        self._servers.append(await asyncio.start_server(self._serve_source, self.local, SOURCE))
        self._udp_server, _ = await loop.create_datagram_endpoint(UdpEcho, (self.local, UDP_ECHO))

    async def close(self) -> None:
        """Stops the servers and resets what is left of their connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for protocol in list(self.connections):
            protocol.transport.abort()
        self._udp_server.close()
        await asyncio.sleep(0.1)

    def hang_up(self) -> None:
        """Resets connections whose client has gone without the server hearing of it: its reset was lost."""
        for protocol in list(self.connections):
            self.tally["half-open"] += 1
            protocol.transport.abort()

    async def _serve_source(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends as many bytes as it is asked for; the streams' way."""
        self.connections.add(writer)
        try:
            while line := await reader.readline():
                left = int(line)
                while left:
                    piece = _POOL[: min(left, 50_000)]
                    writer.write(piece)
                    await writer.drain()
                    left -= len(piece)
        except EXPECTED:
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    # ---- clients ------------------------------------------------------------------------------------------

    async def work(self, until: float) -> None:
        """Does one thing after the other until the loop's clock says `until`."""
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            name, action = self.random.choice(self._actions)
            try:
                await asyncio.wait_for(action(), PATIENCE)
                self.tally[f"{name}: done"] += 1
            except EXPECTED as error:
                self.tally[f"{name}: {type(error).__name__}"] += 1
            await asyncio.sleep(self.random.random() * 0.2)

    def _data(self) -> bytes:
        size = int(self._largest ** self.random.random())
        start = self.random.randrange(len(_POOL) - size)
        return _POOL[start : start + size]

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Sends and receives at once, and compares."""

        async def send() -> None:
            rest = memoryview(data)
            while rest:
                size = self.random.randrange(1, 60_000)
                writer.write(bytes(rest[:size]))
                rest = rest[size:]
                await writer.drain()

        sending = asyncio.ensure_future(send())
        try:
            received = await reader.readexactly(len(data))
            assert received == data, "the echo differs"
            await sending
        finally:
            if not sending.done():
                sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, *EXPECTED):
                await sending

    async def _echo(self) -> None:
        reader, writer = await asyncio.open_connection(self.remote, ECHO)
        dress(writer.transport, self.random)
        try:
            for _ in range(self.random.randrange(1, 5)):
                await self._exchange(reader, writer, self._data())
        finally:
            writer.close()
        await writer.wait_closed()

    async def _tls(self) -> None:
        reader, writer = await asyncio.open_connection(
            self.remote, TLS_ECHO, ssl=self._client_tls, server_hostname="server", ssl_handshake_timeout=300
        )
        try:
            await self._exchange(reader, writer, self._data())
        finally:
            if self.random.random() < 0.3:
                writer.transport.abort()
            else:
                writer.close()
        await writer.wait_closed()

    async def _start_tls(self) -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        class Client(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                if not done.done():
                    done.set_result(data)

            def connection_lost(self, error: Exception | None) -> None:
                if not done.done():
                    done.set_exception(error or ConnectionResetError("closed too early"))

        transport, protocol = await loop.create_connection(Client, self.remote, TLS_ECHO)
        try:
            secure = await loop.start_tls(
                transport, protocol, self._client_tls, server_hostname="server", ssl_handshake_timeout=300
            )
            assert secure is not None
        except BaseException:
            transport.abort()
            if not done.done():
                done.cancel()
            else:
                done.exception()
            raise
        secure.write(b"secret")
        try:
            assert b"secret".startswith(await done)
        finally:
            secure.close()

    async def _half_close(self) -> None:
        reader, writer = await asyncio.open_connection(self.remote, SINK)
        data = self._data()
        try:
            writer.write(data)
            writer.write_eof()
            assert await reader.readexactly(32) == hashlib.sha256(data).digest(), "the hash differs"
            assert await reader.read() == b""
        finally:
            writer.close()
        await writer.wait_closed()

    async def _source(self) -> None:
        reader, writer = await asyncio.open_connection(self.remote, SOURCE)
        dress(writer.transport, self.random)
        try:
            size = len(self._data())
            writer.write(b"%d\n" % size)
            assert len(await reader.readexactly(size)) == size
        finally:
            writer.close()
        await writer.wait_closed()

    async def _slow(self) -> None:
        """Stops reading for a while; the sender has to wait, and to notice when it goes on."""
        reader, writer = await asyncio.open_connection(self.remote, SOURCE, limit=4096)
        try:
            writer.write(b"%d\n" % 300_000)
            for _ in range(3):
                await asyncio.sleep(self.random.random() * 3)
                await reader.readexactly(100_000)
        finally:
            writer.close()
        await writer.wait_closed()

    async def _abort(self) -> None:
        """Goes away in the middle."""
        port = self.random.choice((ECHO, SINK, SOURCE))
        _, writer = await asyncio.open_connection(self.remote, port)
        dress(writer.transport, self.random)
        writer.write(b"100000\n" if port == SOURCE else self._data())
        try:
            await asyncio.sleep(self.random.random() * 0.5)
        finally:
            writer.transport.abort()
        with contextlib.suppress(*EXPECTED):
            await writer.wait_closed()

    async def _rude(self) -> None:
        reader, writer = await asyncio.open_connection(self.remote, RUDE)
        try:
            writer.write(self._data())
            await reader.read()
            await asyncio.sleep(0.01)
        finally:
            writer.close()
            with contextlib.suppress(*EXPECTED):
                await writer.wait_closed()

    async def _refused(self) -> None:
        try:
            await asyncio.open_connection(self.remote, NOBODY)
        except ConnectionRefusedError:
            return
        raise AssertionError("somebody listens where nobody should")

    async def _udp(self) -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Answers, remote_addr=(self.remote, UDP_ECHO))
        try:
            for number in range(10):
                transport.sendto(b"%d" % number * self.random.randrange(1, 3000))
            await asyncio.wait_for(protocol.received.get(), 5)
        finally:
            transport.close()

    async def _cancelled(self) -> None:
        """Cancels something else at any point of it."""
        action = self.random.choice([action for name, action in self._actions if name != "cancelled"])
        task = asyncio.ensure_future(action())
        await asyncio.sleep(self.random.random() ** 3 * 5)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, *EXPECTED):
            await task
