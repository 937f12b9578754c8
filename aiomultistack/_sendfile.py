"""`loop.sendfile()` for transports of the user-space stack, and for TLS over them.

There is no descriptor that the kernel's sendfile could write to, so this is what asyncio's fallback does: blocks
are read in the default executor and written with flow control.  Meanwhile a protocol of our own takes the place
of the application's, which learns nothing of the pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ._transport import Transport

__all__ = ["check_file", "send_blocks", "sendfile"]

BLOCK = 1 << 18  # bytes read at once


async def sendfile(
    loop: asyncio.AbstractEventLoop, transport: Any, file: Any, offset: int, count: int | None, fallback: bool
) -> int:
    """Sends `count` bytes of a binary file from `offset` on (None: to its end); returns how many were sent.

    The file's position is after the last byte sent, also on errors.  `fallback=False` asks for the kernel's
    sendfile: SendfileNotAvailableError.
    """
    if transport.is_closing():
        raise RuntimeError("Transport is closing")
    check_file(file, offset, count)
    if not fallback:
        if isinstance(transport, Transport):
            raise asyncio.SendfileNotAvailableError("the user-space stack has no descriptor for the kernel's sendfile")
        raise RuntimeError(f"fallback is disabled and native sendfile is not supported for transport {transport!r}")
    protocol = _Diversion(loop, transport)

    async def write(data: bytes) -> None:
        await protocol.drain()
        transport.write(data)

    try:
        total = await send_blocks(loop, file, offset, count, write)
        if not transport.is_closing():
            await protocol.drain()
        return total
    finally:
        protocol.restore()


async def send_blocks(
    loop: asyncio.AbstractEventLoop,
    file: Any,
    offset: int,
    count: int | None,
    send: Callable[[bytes], Awaitable[None]],
) -> int:
    """Reads blocks of a file in the default executor and sends them; returns how many bytes were sent."""
    if offset:
        file.seek(offset)
    total = 0
    try:
        while count is None or total < count:
            size = BLOCK if count is None else min(BLOCK, count - total)
            data = await loop.run_in_executor(None, file.read, size)
            if not data:
                break
            await send(data)
            total += len(data)
        return total
    finally:
        if total > 0 and hasattr(file, "seek"):
            file.seek(offset + total)


def _is_paused(transport: Any) -> bool:
    """True if a transport has told its protocol to pause writing."""
    paused = getattr(transport, "_protocol_paused", None)
    if paused is None:  # uvloop's doesn't say
        return bool(transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1])
    return bool(paused)


class _Diversion(asyncio.Protocol):
    """Stands in for a transport's protocol while a file is sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._was_reading = transport.is_reading()
        self._was_paused = _is_paused(transport)
        self._paused = self._was_paused
        self._waiter: asyncio.Future[None] | None = None
        transport.pause_reading()
        transport.set_protocol(self)

    async def drain(self) -> None:
        """Waits until writing may go on; raises if the connection is lost, before or meanwhile."""
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        if self._paused:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("Connection is closed by peer"))
        self._protocol.connection_lost(exc)

    def restore(self) -> None:
        """Puts the application's protocol back, and tells it what has become of flow control."""
        if self._transport.get_protocol() is not self:  # the connection is lost
            return
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        if self._paused and not self._was_paused:
            self._protocol.pause_writing()
        elif self._was_paused and not self._paused:
            self._protocol.resume_writing()


def check_file(file: Any, offset: int, count: int | None) -> None:
    """Raises what asyncio raises for bad arguments."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError("file should be opened in binary mode")
    if count is not None:
        if not isinstance(count, int):
            raise TypeError(f"count must be a positive integer (got {count!r})")
        if count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
    if not isinstance(offset, int):
        raise TypeError(f"offset must be a non-negative integer (got {offset!r})")
    if offset < 0:
        raise ValueError(f"offset must be a non-negative integer (got {offset!r})")
