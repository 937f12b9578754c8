"""`loop.sendfile()` for transports of the user-space stack, and for TLS over them.

There is no descriptor that the kernel's sendfile could write to, so this is asyncio's fallback: blocks are read
in the default executor and written with flow control.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events
from typing import Any

from ._transport import Transport

__all__ = ["sendfile"]

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
    _check(file, offset, count)
    if not fallback:
        if isinstance(transport, Transport):
            raise asyncio.SendfileNotAvailableError("the user-space stack has no descriptor for the kernel's sendfile")
        raise RuntimeError(
            f"fallback is disabled and native sendfile is not supported for transport {transport!r}"
        )
    if offset:
        file.seek(offset)
    total = 0
    protocol: Any = base_events._SendfileFallbackProtocol(transport)  # type: ignore[attr-defined]
    try:
        while count is None or total < count:
            size = BLOCK if count is None else min(BLOCK, count - total)
            data = await loop.run_in_executor(None, file.read, size)
            if not data:
                break
            await protocol.drain()
            transport.write(data)
            total += len(data)
        return total
    finally:
        if total > 0 and hasattr(file, "seek"):
            file.seek(offset + total)
        await protocol.restore()


def _check(file: Any, offset: int, count: int | None) -> None:
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
