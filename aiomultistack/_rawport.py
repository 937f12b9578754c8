"""A port without a stack: whole frames in and out."""

from __future__ import annotations

from typing import Any

from ._hub import Hub
from ._node import EAGAIN, check_status, ffi, lib, status_error

__all__ = ["RawPort"]

_FRAME_MAX = 1 << 17  # bytes; longer than any frame


class RawPort:
    """A port on a hub (``mem:``) that an application drives itself, frame by frame.

    hub: the segment to join.  Raises OSError if that cannot be.
    """

    def __init__(self, hub: Hub) -> None:
        spec = ffi.new("char[]", f"mem:{hub.name}".encode())
        config = ffi.new("struct ams_port_config *", {"spec": spec, "hub": hub.pointer})
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_port **")
        status = lib.ams_port_open(out, config, error, len(error))
        if status < 0:
            raise status_error(status, ffi.string(error).decode("utf-8", "replace"))
        self._hub = hub
        self._pointer: Any = ffi.gc(out[0], lib.ams_port_close)
        self._buffer = ffi.new("char[]", _FRAME_MAX)
        self._view = ffi.buffer(self._buffer)

    def fileno(self) -> int:
        """A descriptor that is readable while frames wait."""
        info = ffi.new("struct ams_port_info *")
        lib.ams_port_info(self._pointer, info)
        return int(info.fd)

    def send(self, frame: bytes, now: int) -> bool:
        """Sends one Ethernet frame; false if the port is full.  now: nanoseconds."""
        status = lib.ams_port_send(self._pointer, frame, len(frame), now)
        return status != EAGAIN and check_status(status) >= 0

    def receive(self, now: int) -> bytes | None:
        """One Ethernet frame; None if none waits.  now: nanoseconds."""
        length = lib.ams_port_recv(self._pointer, self._buffer, _FRAME_MAX, now)
        if length == EAGAIN:
            return None
        return bytes(self._view[: check_status(length)])

    def close(self) -> None:
        """Leaves the hub; idempotent."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            ffi.release(pointer)
