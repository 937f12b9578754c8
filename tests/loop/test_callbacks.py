"""What protocols are called with, in which order and context, and what becomes of their failures, on every stack."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import time
from typing import Any

import pytest

from .conftest import Net, pair
from .protocols import Echo, Recorder

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
