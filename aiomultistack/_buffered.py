"""How a transport reads into the buffers of a `BufferedProtocol`."""

from __future__ import annotations

from asyncio import transports
from collections import deque
from collections.abc import Callable
from typing import Any

from ._node import ffi, lib

__all__ = ["BufferedReading"]

_READ_EVENT: int = lib.AMS_READ_EVENT


class BufferedReading(transports._FlowControlMixin, transports.Transport):
    """The part of `Transport` that serves a `BufferedProtocol`: from the engine straight into its buffer."""

    __slots__ = ("_closing", "_deliver", "_held", "_id", "_mode", "_paused", "_protocol", "_stack")

    _closing: bool
    _deliver: Callable[[bytes], Any]
    _held: deque[bytes] | None
    _id: int
    _mode: int
    _paused: bool
    _protocol: Any
    _stack: Any

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        raise NotImplementedError

    def _read_buffered(self) -> None:
        """Reads into a BufferedProtocol's buffers until nothing is left; in the transport's context."""
        while self._mode == _READ_EVENT and not self._paused and not self._closing:
            buffer = self._get_buffer()
            if buffer is None:
                return
            target = ffi.from_buffer("char[]", buffer, True)
            count = lib.ams_tcp_recv(self._stack, self._id, target, len(target))
            ffi.release(target)
            if count <= 0 or not self._buffer_updated(count):
                return

    def _feed(self, data: bytes) -> None:
        """Data that came with the batch, for a BufferedProtocol; in the transport's context."""
        view = memoryview(data)
        while view and not self._closing:
            if self._mode != _READ_EVENT:  # the protocol was switched in between
                self._deliver(bytes(view))
                return
            if self._paused:
                if self._held is None:
                    self._held = deque()
                self._held.appendleft(bytes(view))
                return
            buffer = self._get_buffer()
            if buffer is None:
                return
            with memoryview(buffer).cast("B") as target:
                count = min(len(target), len(view))
                target[:count] = view[:count]
            view = view[count:]
            if not self._buffer_updated(count):
                return

    def _get_buffer(self) -> Any:
        """A BufferedProtocol's buffer; None if it hasn't one, which is fatal."""
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return None
        return buffer

    def _buffer_updated(self, count: int) -> bool:
        """Tells a BufferedProtocol of its data; False if it failed."""
        try:
            self._protocol.buffer_updated(count)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
            return False
        return True
