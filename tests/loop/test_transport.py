"""Transports: data, flow control and the end of a connection, the same on every stack."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import struct
from typing import Any

import pytest

from .conftest import Net, pair
from .protocols import Recorder

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


@pytest.mark.parametrize("closing", [False, True])
async def test_who_waits_to_write_is_told_of_a_reset_though_data_lies_unread(net: Net, closing: bool) -> None:
    """Whoever reads nothing for a while, or no more as they are closing, would wait for ever otherwise."""
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.pause_reading()
        ends.client.transport.write(b"unread")
        ends.server.transport.write(bytes(16 << 20))
        await asyncio.sleep(0.1)
        if closing:
            ends.server.transport.close()
        assert ends.server.transport.get_write_buffer_size()
        ends.client.transport.abort()
        assert isinstance(await ends.server.lost, ConnectionError)
        assert ends.server.data == b""


async def test_who_pauses_and_has_nothing_to_write_gets_the_data_before_the_reset(net: Net) -> None:
    async with pair(net) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.write(b"the last words")
        await asyncio.sleep(0.1)
        sock = ends.client.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ends.client.transport.abort()
        assert await ends.client.lost is None
        await asyncio.sleep(0.1)
        assert ends.server.events == ["made"]
        ends.server.transport.resume_reading()
        assert isinstance(await ends.server.lost, ConnectionResetError)
        assert ends.server.data == b"the last words"


async def test_a_reset_waits_behind_data_that_a_neighbour_has_stopped(net: Net) -> None:
    """Data, reset, and the callback that pauses reading, all in one iteration of the loop."""
    ends: list[Any] = []

    class First(Recorder):
        """Whoever gets data first pauses the other."""

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for end in ends:
                if end.server is not self and not end.server.data:
                    end.server.transport.pause_reading()

    async with pair(net, First) as one, pair(net, First) as two:
        ends += [one, two]
        for end in ends:
            sock = end.client.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.client.transport.write(b"the last words")
        if net.ours:
            one.client.transport._pump.flush()  # a kernel sends at once
        for end in ends:
            end.client.transport.abort()
        await asyncio.sleep(0.1)
        (stopped,) = (end.server for end in ends if not end.server.data)
        assert stopped.events == ["made"]
        stopped.transport.resume_reading()
        assert isinstance(await stopped.lost, ConnectionResetError)
        assert stopped.data == b"the last words"


async def test_data_before_a_reset_right_behind_the_handshake(net: Net) -> None:
    """The connection, its data and its end may come in one iteration of the server's loop."""

    class Hasty(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            pump = self.transport._pump if net.ours else None
            self.transport.write(b"the only words")
            if pump:
                pump.flush()  # a kernel sends at once
            self.transport.abort()
            if pump:
                pump.flush()

    async with pair(net, client=Hasty) as ends:
        assert isinstance(await ends.server.lost, ConnectionResetError)
        assert ends.server.data == b"the only words"
        assert ends.server.events == ["made", "data", "lost"]


async def test_data_and_eof_come_before_a_reset_that_came_while_reading_was_paused(net: Net) -> None:
    async with pair(net, server=lambda: Recorder(keep_open=True)) as ends:
        ends.server.transport.pause_reading()
        ends.client.transport.pause_reading()
        ends.client.transport.write(b"the last words")
        ends.client.transport.write_eof()
        await asyncio.sleep(0.1)
        ends.server.transport.write(b"unread")
        await asyncio.sleep(0.1)
        ends.client.transport.abort()
        await asyncio.sleep(0.1)
        assert ends.server.events == ["made"]
        ends.server.transport.resume_reading()
        await asyncio.sleep(0.1)
        assert ends.server.events[:3] == ["made", "data", "eof"]
        assert ends.server.data == b"the last words"


@pytest.mark.parametrize("size", [5, 14_000])  # in one flight
async def test_data_comes_before_the_reset_though_more_waits_to_be_sent(ours: Net, net: Net, size: int) -> None:
    """A kernel's loop gets there as well when it reads before it writes."""
    data = os.urandom(size)
    async with pair(net) as ends:
        ends.client.transport.pause_reading()
        ends.server.transport.write(bytes(16 << 20))
        await asyncio.sleep(0.1)
        ends.client.transport.write(data)
        await asyncio.sleep(0)
        ends.client.transport.abort()
        assert isinstance(await ends.server.lost, ConnectionResetError)
        assert ends.server.data == data


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
