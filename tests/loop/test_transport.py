"""Transports: the same observable behaviour on every stack."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .conftest import Net
from .protocols import Echo, Pair, Recorder


@contextlib.asynccontextmanager
async def pair(
    net: Net,
    server: Callable[[], Any] | None = None,
    client: Callable[[], Any] | None = None,
    host: str | None = None,
) -> AsyncIterator[Pair]:
    """A connection between two recorders (or what the factories make); both ends are gone afterwards."""
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def factory() -> Any:
        protocol = (server or Recorder)()
        made.set_result(protocol)
        return protocol

    async with net.server(factory, host) as address:
        _, protocol = await asyncio.get_running_loop().create_connection(client or Recorder, *address)
        ends = Pair(await made, protocol)
        await asyncio.shield(ends.server.made)
        try:
            yield ends
        finally:
            await ends.closed()


# ---- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
async def test_both_ways(net: Net, family: int) -> None:
    async with pair(net, host=net.hosts[family == 6]) as ends:
        ends.client.transport.write(b"ping")
        assert await ends.server.received(4) == b"ping"
        ends.server.transport.write(b"pong")
        assert await ends.client.received(4) == b"pong"


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), memoryview(b"-bytes-")[1:-1]])
async def test_write_takes_bytes_like(net: Net, data: Any) -> None:
    async with pair(net) as ends:
        ends.client.transport.write(data)
        assert await ends.server.received(5) == b"bytes"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_large_writes_of_every_kind(net: Net, kind: Any) -> None:
    data = os.urandom(300_000)
    async with pair(net) as ends:
        ends.client.transport.write(kind(data))
        assert await ends.server.received(len(data)) == data


async def test_changing_a_written_bytearray_is_harmless(net: Net) -> None:
    async with pair(net) as ends:
        data = bytearray(b"a" * 400_000)
        ends.client.transport.write(data)
        data[:] = b"b" * len(data)
        assert await ends.server.received(len(data)) == b"a" * len(data)


@pytest.mark.parametrize("bad", ["text", 1, [1, 2]])
async def test_write_refuses_other_types(net: Net, bad: Any) -> None:
    async with pair(net) as ends:
        with pytest.raises(TypeError):
            ends.client.transport.write(bad)


async def test_empty_write_is_nothing(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.write(b"")
        ends.client.transport.write(b"x")
        assert await ends.server.received(1) == b"x"


async def test_writelines(net: Net) -> None:
    parts = [b"a", bytearray(b"b"), memoryview(b"c"), b"d" * 100_000, b"e", b"", b"f" * 5000, b"g"]
    whole = b"".join(bytes(part) for part in parts)
    async with pair(net) as ends:
        ends.client.transport.writelines(parts)
        assert await ends.server.received(len(whole)) == whole


async def test_many_writes_keep_their_order(net: Net) -> None:
    parts = [os.urandom(1 + 37 * index % 20_000) for index in range(300)]
    async with pair(net) as ends:
        for part in parts:
            ends.client.transport.write(part)
        whole = b"".join(parts)
        assert await ends.server.received(len(whole)) == whole


async def test_megabytes_both_ways_at_once(net: Net) -> None:
    up, down = os.urandom(4_000_000), os.urandom(3_000_000)
    async with pair(net) as ends:
        ends.client.transport.write(up)
        ends.server.transport.write(down)
        got_up, got_down = await asyncio.gather(ends.server.received(len(up)), ends.client.received(len(down)))
        assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()


async def test_write_in_connection_made(net: Net) -> None:
    class Greeter(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(b"hello")

    async with pair(net, Greeter, Greeter) as ends:
        assert await ends.client.received(5) == b"hello"
        assert await ends.server.received(5) == b"hello"


# ---- the end of a connection --------------------------------------------------------------------------------


async def test_close_tells_both_ends(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.close()
        assert ends.client.events == ["made"]  # connection_lost() is never called from within close()
        assert ends.client.transport.is_closing()
        assert await ends.client.lost is None
        assert await ends.server.lost is None
        assert ends.server.events == ["made", "eof", "lost"]
        assert ends.client.events == ["made", "lost"]


async def test_close_delivers_what_was_written(net: Net) -> None:
    data = os.urandom(5_000_000)
    async with pair(net) as ends:
        ends.client.transport.write(data)
        ends.client.transport.close()
        assert await ends.server.lost is None
        assert ends.server.data == data
        assert await ends.client.lost is None


async def test_double_close(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.close()
        ends.client.transport.close()
        await ends.client.lost
        ends.client.transport.close()
        await asyncio.sleep(0)
        assert ends.client.events.count("lost") == 1


async def test_a_closing_transport_resumes_its_protocol(net: Net) -> None:
    """What resume_writing() writes then is sent: so TLS says goodbye behind a full buffer."""

    class Polite(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(b"goodbye")

    data = bytes(4 << 20)
    async with pair(net, Polite) as ends:
        ends.client.transport.pause_reading()
        ends.server.transport.write(data)
        assert "pause" in ends.server.events
        ends.server.transport.close()
        await asyncio.sleep(0.1)
        ends.client.transport.resume_reading()
        assert await ends.server.lost is None
        assert await ends.client.lost is None
        assert ends.server.events == ["made", "pause", "resume", "lost"]
        assert ends.client.data == data + b"goodbye"


async def test_abort_ends_the_stream_in_good_order(net: Net) -> None:
    """As close(): what was sent arrives, and then the end of the stream."""
    async with pair(net) as ends:
        ends.server.transport.write(b"last words")
        ends.server.transport.abort()
        assert ends.server.events == ["made"]
        assert await ends.server.lost is None
        assert await ends.client.lost is None
        assert ends.client.events == ["made", "data", "eof", "lost"]
        assert ends.client.data == b"last words"


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_data_that_nobody_has_read_makes_a_reset_of_the_end(net: Net, how: str) -> None:
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.write(b"unread")
        await asyncio.sleep(0.1)
        getattr(ends.server.transport, how)()
        assert await ends.server.lost is None
        assert isinstance(await ends.client.lost, ConnectionResetError)


@pytest.mark.parametrize("pieces", [1, 40])
async def test_abort_drops_the_write_buffer(net: Net, pieces: int) -> None:
    """What is in the socket's buffer arrives, what is in the transport's doesn't."""
    data = os.urandom(16 << 20)
    size = len(data) // pieces
    async with pair(net) as ends:
        ends.client.transport.pause_reading()
        for start in range(0, len(data), size):
            ends.server.transport.write(data[start : start + size])
        await asyncio.sleep(0.1)
        left = ends.server.transport.get_write_buffer_size()
        assert 0 < left < len(data)
        ends.server.transport.abort()
        if net.flavour != "uvloop-kernel":  # uvloop goes on counting it
            assert ends.server.transport.get_write_buffer_size() == 0
        assert await ends.server.lost is None
        ends.client.transport.resume_reading()
        assert await ends.client.lost is None
        assert ends.client.data == data[: len(data) - left]


async def test_abort_of_a_transport_that_is_closing(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.pause_reading()
        ends.server.transport.write(bytes(16 << 20))
        ends.server.transport.close()
        await asyncio.sleep(0.1)
        assert not ends.server.lost.done()
        ends.server.transport.abort()
        assert await ends.server.lost is None
        ends.client.transport.resume_reading()
        assert await ends.client.lost is None
        assert len(ends.client.data) < 16 << 20


async def test_write_after_close_is_dropped(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop raises RuntimeError")
    async with pair(net) as ends:
        ends.client.transport.close()
        await ends.client.lost
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(8):
                ends.client.transport.write(b"too late")
        assert "socket.send() raised exception." in caplog.text
        await ends.server.lost
        assert ends.server.data == b""


async def test_half_close(net: Net) -> None:
    async with pair(net, lambda: Recorder(keep_open=True)) as ends:
        assert ends.client.transport.can_write_eof()
        ends.client.transport.write(b"question")
        ends.client.transport.write_eof()
        await ends.server.ended
        assert ends.server.data == b"question"
        with pytest.raises(RuntimeError, match="write_eof"):
            ends.client.transport.write(b"more")
        ends.server.transport.write(b"answer")
        assert await ends.client.received(6) == b"answer"
        ends.server.transport.close()
        assert await ends.client.lost is None
        assert await ends.server.lost is None


async def test_write_eof_after_much_data(net: Net) -> None:
    data = os.urandom(3_000_000)
    async with pair(net, lambda: Recorder(keep_open=True)) as ends:
        ends.client.transport.write(data)
        ends.client.transport.write_eof()
        ends.client.transport.write_eof()
        await ends.server.ended
        assert ends.server.data == data


async def test_eof_closes_unless_told_otherwise(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.write_eof()
        assert await ends.server.lost is None
        assert ends.server.events == ["made", "eof", "lost"]
        assert await ends.client.lost is None


async def test_both_ends_close_at_once(net: Net) -> None:
    async with pair(net) as ends:
        ends.client.transport.close()
        ends.server.transport.close()
        assert await ends.client.lost is None
        assert await ends.server.lost is None


# ---- flow control -------------------------------------------------------------------------------------------


async def test_pause_and_resume_writing(net: Net) -> None:
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        chunk = b"x" * 262_144
        total = 0
        while "pause" not in ends.client.events:
            ends.client.transport.write(chunk)
            total += len(chunk)
            assert total < 1 << 29
        assert ends.client.transport.get_write_buffer_size() > 0
        ends.server.transport.resume_reading()
        await ends.server.received(total)
        while "resume" not in ends.client.events:
            await asyncio.sleep(0.001)
        assert ends.client.events == ["made", "pause", "resume"]
        assert ends.client.transport.get_write_buffer_size() <= 16_384


async def test_write_buffer_limits(net: Net) -> None:
    async with pair(net) as ends:
        transport = ends.client.transport
        if net.flavour != "uvloop-kernel":  # which says (16, 65536)
            assert transport.get_write_buffer_limits() == (16_384, 65_536)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits(0)
        assert transport.get_write_buffer_limits() == (0, 0)
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_write_buffer_size() == 0


async def test_high_water_zero_pauses_at_the_first_excess(net: Net) -> None:
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.set_write_buffer_limits(0)
        ends.client.transport.write(b"x" * 64_000_000)
        assert ends.client.events == ["made", "pause"]
        ends.server.transport.resume_reading()
        await ends.server.received(64_000_000)
        while ends.client.events[-1] != "resume":
            await asyncio.sleep(0.001)
        assert ends.client.transport.get_write_buffer_size() == 0


async def test_pause_reading_holds_data_back(net: Net) -> None:
    async with pair(net) as ends:
        transport = ends.server.transport
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        ends.client.transport.write(b"held")
        await asyncio.sleep(0.05)
        assert ends.server.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        assert await ends.server.received(4) == b"held"


async def test_eof_waits_behind_paused_data(net: Net) -> None:
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.write(b"held")
        ends.client.transport.close()
        await asyncio.sleep(0.05)
        assert ends.server.events == ["made"]
        ends.server.transport.resume_reading()
        assert await ends.server.lost is None
        assert ends.server.events == ["made", "data", "eof", "lost"]
        assert ends.server.data == b"held"


async def test_pause_in_data_received(net: Net) -> None:
    class Sipping(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    async with pair(net, Sipping) as ends:
        data = os.urandom(1_000_000)
        ends.client.transport.write(data)
        assert await ends.server.received(len(data)) == data


async def test_a_neighbour_may_pause_close_or_abort(net: Net) -> None:
    """Data of one batch for a connection that another callback of the batch has just stopped."""
    ends: list[Recorder] = []

    class Tyrant(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for other, action in zip([end for end in ends if end is not self], ("pause_reading", "close", "abort"),
                                     strict=True):
                getattr(other.transport, action)()
                other.events.append(action)

    def factory() -> Recorder:
        ends.append(Tyrant())
        return ends[-1]

    async with net.server(factory) as address:
        loop = asyncio.get_running_loop()
        clients = [(await loop.create_connection(Recorder, *address))[1] for _ in range(4)]
        while len(ends) < 4:
            await asyncio.sleep(0)
        for client in clients:
            client.transport.write(b"all at once")
        while all(end.data == b"" for end in ends):
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        for end in ends:
            for action in ("pause_reading", "close", "abort"):
                if action in end.events:
                    assert "data" not in end.events[end.events.index(action):]
        for end in [*ends, *clients]:
            end.transport.abort()
        await asyncio.gather(*(end.lost for end in [*ends, *clients]))


# ---- protocols ----------------------------------------------------------------------------------------------


async def test_set_protocol(net: Net) -> None:
    async with pair(net) as ends:
        second = Recorder()
        second.events.append("made")
        assert ends.server.transport.get_protocol() is ends.server
        ends.server.transport.set_protocol(second)
        assert ends.server.transport.get_protocol() is second
        ends.client.transport.write(b"for the second")
        assert await second.received(14) == b"for the second"
        assert ends.server.data == b""
        ends.server.transport.set_protocol(ends.server)


class Buffered(asyncio.BufferedProtocol):
    """Reads into a small buffer of its own."""

    def __init__(self, size: int = 1000) -> None:
        self.recorder = Recorder()
        self.made = self.recorder.made
        self.lost = self.recorder.lost
        self.buffer = bytearray(size)
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.recorder.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.recorder.data_received(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        return self.recorder.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.recorder.connection_lost(exc)


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
async def test_buffered_protocol(net: Net, size: int) -> None:
    data = os.urandom(5_000 if size == 1 else 500_000)
    async with pair(net, lambda: Buffered(size), lambda: Buffered(size)) as ends:
        ends.client.transport.write(data)
        assert await ends.server.recorder.received(len(data)) == data
        ends.server.transport.write(data[::-1])
        assert await ends.client.recorder.received(len(data)) == data[::-1]
        ends.client.transport.close()
        assert await ends.server.lost is None


async def test_what_data_schedules_runs_before_eof(net: Net) -> None:
    """sslproto shuts down with data undelivered if what it schedules when data comes runs after EOF."""

    class Scheduling(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            if net.ours:
                self.transport._pump.kick()  # as something else may have done just before
            net.loop.call_soon(self.recorder.events.append, "soon")

    async with pair(net, lambda: Scheduling(1 << 20)) as ends:
        ends.client.transport.write(b"x" * 1000)
        ends.client.transport.write_eof()
        assert await ends.server.lost is None
        assert ends.server.recorder.events == ["made", "data", "soon", "eof", "lost"]


async def test_switch_to_buffered_protocol_and_back(net: Net) -> None:
    async with pair(net) as ends:
        buffered = Buffered()
        buffered.transport = ends.server.transport
        buffered.recorder.events.append("made")
        ends.server.transport.set_protocol(buffered)
        ends.client.transport.write(b"one")
        assert await buffered.recorder.received(3) == b"one"
        ends.server.transport.set_protocol(ends.server)
        ends.client.transport.write(b"two")
        assert await ends.server.received(3) == b"two"


class EmptyBuffer(Buffered):
    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray()


class FailingBuffer(Buffered):
    def get_buffer(self, sizehint: int) -> bytearray:
        raise ZeroDivisionError


class FailingUpdate(Buffered):
    def buffer_updated(self, nbytes: int) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("kind", "error"),
    [(EmptyBuffer, RuntimeError), (FailingBuffer, ZeroDivisionError), (FailingUpdate, ZeroDivisionError)],
)
async def test_failing_buffered_protocol(net: Net, kind: type[Buffered], error: type[Exception]) -> None:
    async with pair(net, kind) as ends:
        ends.client.transport.write(b"x")
        if net.flavour == "uvloop-kernel" and kind is FailingBuffer:
            error = RuntimeError  # uvloop's own, for whatever get_buffer() raised
        assert isinstance(await ends.server.lost, error)
        assert isinstance(net.take_error()["exception"], error)


# ---- failing callbacks --------------------------------------------------------------------------------------


async def test_exception_in_data_received_is_fatal(net: Net) -> None:
    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    async with pair(net, Failing) as ends:
        ends.client.transport.write(b"x")
        assert isinstance(await ends.server.lost, ZeroDivisionError)
        context = net.take_error()
        assert isinstance(context["exception"], ZeroDivisionError)
        assert context["protocol"] is ends.server
        assert context["transport"] is ends.server.transport
        await ends.client.lost


async def test_exception_in_eof_received_is_fatal(net: Net) -> None:
    class Failing(Recorder):
        def eof_received(self) -> bool | None:
            raise ZeroDivisionError

    async with pair(net, Failing) as ends:
        ends.client.transport.write_eof()
        assert isinstance(await ends.server.lost, ZeroDivisionError)
        assert isinstance(net.take_error()["exception"], ZeroDivisionError)


async def test_exception_in_connection_lost_is_reported(net: Net) -> None:
    class Failing(Recorder):
        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            raise ZeroDivisionError

    async with pair(net, Failing) as ends:
        ends.server.transport.close()
        await ends.server.lost
        assert isinstance(net.take_error()["exception"], ZeroDivisionError)


async def test_exception_in_pause_writing_is_reported(net: Net) -> None:
    class Failing(Recorder):
        def pause_writing(self) -> None:
            raise ZeroDivisionError

    async with pair(net, client=Failing) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.set_write_buffer_limits(0)
        ends.client.transport.write(b"x" * 64_000_000)
        assert isinstance(net.take_error()["exception"], ZeroDivisionError)
        assert not ends.client.transport.is_closing()


async def test_exception_in_connection_made(net: Net) -> None:
    class Failing(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            raise ZeroDivisionError

    async with pair(net, Failing):
        assert isinstance(net.take_error()["exception"], ZeroDivisionError)


async def test_exception_in_factory_costs_one_connection(net: Net) -> None:
    if not net.ours:
        pytest.skip("asyncio reports it in debug mode only, and both leave the client hanging")
    made: list[Recorder] = []

    def factory() -> asyncio.Protocol:
        if not made:
            made.append(Recorder())
            raise ZeroDivisionError
        return Echo()

    async with net.server(factory) as address:
        loop = asyncio.get_running_loop()
        _, first = await loop.create_connection(Recorder, *address)
        await first.lost
        assert isinstance(net.take_error()["exception"], ZeroDivisionError)
        _, second = await loop.create_connection(Recorder, *address)
        second.transport.write(b"x")
        assert await second.received(1) == b"x"
        second.transport.close()
        await second.lost


# ---- contexts, extra information -----------------------------------------------------------------------------

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def test_callbacks_run_in_the_creator_s_context(net: Net) -> None:
    seen: list[tuple[str, str]] = []

    class Witness(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            seen.append(("made", variable.get()))
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            seen.append(("data", variable.get()))
            super().data_received(data)

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)

    async with net.server(Echo) as address:
        variable.set("client")
        _, witness = await asyncio.get_running_loop().create_connection(Witness, *address)
        variable.set("later")
        witness.transport.write(b"x")
        await witness.received(1)
        witness.transport.close()
        await witness.lost
    assert seen == [("made", "client"), ("data", "client")]


async def test_server_connections_have_contexts_of_their_own(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop's connections share the server's")
    seen: list[str] = []

    class Setter(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            seen.append(variable.get())
            variable.set("changed")

    variable.set("server")
    async with net.server(Setter) as address:
        for number in range(2):
            _, client = await asyncio.get_running_loop().create_connection(Recorder, *address)
            while len(seen) <= number:
                await asyncio.sleep(0)
            client.transport.abort()
            await client.lost
    assert seen == ["server", "server"]


@pytest.mark.parametrize("family", [4, 6])
async def test_extra_info(net: Net, family: int) -> None:
    async with pair(net, host=net.hosts[family == 6]) as ends:
        client, server = ends.client.transport, ends.server.transport
        assert client.get_extra_info("peername") == server.get_extra_info("sockname")
        assert client.get_extra_info("sockname") == server.get_extra_info("peername")
        assert client.get_extra_info("peername")[0] == net.hosts[family == 6]
        assert len(client.get_extra_info("peername")) == (2 if family == 4 else 4)
        assert client.get_extra_info("nonsense", 7) == 7
        sock = client.get_extra_info("socket")
        assert sock.getpeername() == client.get_extra_info("peername")
        assert sock.getsockname() == client.get_extra_info("sockname")
        client.close()
        await ends.client.lost
        assert client.get_extra_info("peername") == ends.server.transport.get_extra_info("sockname")


async def test_repr(net: Net) -> None:
    async with pair(net) as ends:
        assert "Transport" in repr(ends.client.transport)
        ends.client.transport.close()
        await ends.client.lost
        assert "clos" in repr(ends.client.transport)


# ---- streams ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [4, 6])
async def test_streams(net: Net, family: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, net.hosts[family == 6], 0)
    async with server:
        address = server.sockets[0].getsockname()[:2]
        reader, writer = await asyncio.open_connection(*address)
        for word in (b"alpha\n", b"beta\n", b"x" * 50_000 + b"\n"):
            writer.write(word)
            await writer.drain()
            assert await reader.readline() == word.upper()
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_stream_reader_holds_up_a_fast_sender(net: Net) -> None:
    total = 20_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(total // 100_000):
            writer.write(b"z" * 100_000)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, net.host4, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        count = 0
        while data := await reader.read(65_536):
            count += len(data)
        assert count == total
        writer.close()
        await writer.wait_closed()


async def test_reset_reaches_a_stream_s_reader(net: Net) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()
        gone.set()

    server = await asyncio.start_server(serve, net.host4, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"xx")  # one byte stays unread, so that a kernel's close() resets as well
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await gone.wait()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()


async def test_many_connections_at_once(net: Net) -> None:
    async with net.server(Echo) as address:

        async def one(number: int) -> None:
            reader, writer = await asyncio.open_connection(*address)
            message = b"%d\n" % number * 100
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(one(number) for number in range(200)))


# ---- order --------------------------------------------------------------------------------------------------


class Eager(Recorder):
    """Writes down when what it has scheduled runs, and when its data comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        asyncio.get_running_loop().call_soon(self.events.append, "scheduled")


@pytest.mark.parametrize("size", [1, 100_000])
async def test_what_connection_made_schedules_comes_before_data(net: Net, size: int) -> None:
    accepted: list[Eager] = []

    def factory() -> Eager:
        accepted.append(Eager())
        return accepted[-1]

    async with net.server(factory) as address:
        clients = []
        for _ in range(5):
            transport, protocol = await net.loop.create_connection(Recorder, *address)
            transport.write(b"x" * size)
            transport.write_eof()
            clients.append(protocol)
        while len(accepted) < 5:
            await asyncio.sleep(0)
        for protocol in (*accepted, *clients):
            await protocol.lost
        for protocol in accepted:
            assert protocol.events == ["made", "scheduled", "data", "eof", "lost"]
            assert len(protocol.data) == size


async def test_eof_without_data_comes_after_what_connection_made_schedules(net: Net) -> None:
    accepted: asyncio.Future[Eager] = net.loop.create_future()

    def factory() -> Eager:
        accepted.set_result(Eager())
        return accepted.result()

    async with net.server(factory) as address:
        transport, _ = await net.loop.create_connection(Recorder, *address)
        transport.close()
        protocol = await accepted
        await protocol.lost
        assert protocol.events == ["made", "scheduled", "eof", "lost"]


async def test_data_comes_after_create_connection_has_returned(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop may deliver data first")

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello")
            transport.close()

    class Client(Recorder):
        returned = False

        def data_received(self, data: bytes) -> None:
            assert self.returned
            super().data_received(data)

    async with net.server(Greeter) as address:
        for _ in range(20):
            _, protocol = await net.loop.create_connection(Client, *address)
            protocol.returned = True
            assert await protocol.received(5) == b"hello"
            await protocol.lost


async def test_buffer_sizes_when_writing_pauses_and_resumes(net: Net) -> None:
    sizes: list[tuple[str, int]] = []

    class Writer(Recorder):
        def pause_writing(self) -> None:
            sizes.append(("pause", self.transport.get_write_buffer_size()))

        def resume_writing(self) -> None:
            sizes.append(("resume", self.transport.get_write_buffer_size()))

    async with pair(net, client=Writer) as ends:
        transport = ends.client.transport
        transport.set_write_buffer_limits(high=50_000, low=10_000)
        ends.server.transport.pause_reading()
        while not sizes:
            transport.write(b"x" * 20_000)
            await asyncio.sleep(0)
        ((first, size),) = sizes
        assert first == "pause"
        assert 50_000 < size <= 70_000
        before = transport.get_write_buffer_size()
        transport.write(b"y" * 1000)
        assert transport.get_write_buffer_size() == before + 1000
        ends.server.transport.resume_reading()
        while len(sizes) < 2:
            await asyncio.sleep(0.001)
        assert sizes[1][0] == "resume"
        assert sizes[1][1] <= 10_000


async def test_writing_in_another_thread_is_refused_in_debug_mode(ours: Net, net: Net) -> None:
    """And what is written in the loop's own thread afterwards is sent as ever."""
    net.loop.set_debug(True)
    async with pair(net) as ends:
        with pytest.raises(RuntimeError, match="Non-thread-safe operation"):
            await net.loop.run_in_executor(None, ends.client.transport.write, b"x")
        ends.client.transport.write(b"y")
        assert await ends.server.received(2) == b"xy"


async def test_slow_callbacks_are_reported_in_debug_mode(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    if net.base == "virtual":
        pytest.skip("callbacks take no virtual time")
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop doesn't time what a transport's data causes")
    net.loop.set_debug(True)
    net.loop.slow_callback_duration = 0.02  # type: ignore[attr-defined]

    class Slow(Recorder):
        def data_received(self, data: bytes) -> None:
            time.sleep(0.05)
            super().data_received(data)

    with caplog.at_level(logging.WARNING, "asyncio"):
        async with pair(net, server=Slow) as ends:
            ends.client.transport.write(b"x")
            await ends.server.received(1)
            await asyncio.sleep(0.01)
    assert any("Executing" in record.getMessage() and "took" in record.getMessage() for record in caplog.records)
