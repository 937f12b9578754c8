"""Captures: frames of a switch's ports, or of the port that a loop opened itself, as pcapng.

Theory of operation
-------------------
While somebody captures, a loop's node copies frames into a buffer of its own (see native/io/node_capture.h).
`LoopCapture` empties it every few milliseconds into the control socket's connection, unless what was sent
before still waits there: then the buffer fills up, and the node counts what it can't keep.  After the answer
to the request the connection carries chunks, a `_CHUNK` and records (`struct ams_captured`) each.

The client's side is blocking code for the command line.  `Recorder` is the part that captures of switches
and of loops share: what is written, counted, and when it is enough.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ._control import Address, ControlError

if TYPE_CHECKING:
    import asyncio

    from ._config import Config
    from ._pcapng import PcapngWriter

__all__ = ["Captured", "LoopCapture", "Recorder", "capture_loops"]

_BUFFER = 16 << 20  # bytes that a node may keep
_BACKLOG = 4 << 20  # bytes that may wait for the client before the node has to keep them
_INTERVAL = 0.01  # seconds
_CHUNK = struct.Struct("=QII")  # frames that the node has lost, the node's number, bytes of records that follow
_RECORD = struct.Struct("=QIIii")  # struct ams_captured
_ALIGN = 8


@dataclass
class Captured:
    """What a capture has brought so far."""

    frames: int = 0
    dropped: int = 0
    lost: int = 0


class Recorder:
    """Writes frames, each interface described when its first one comes.

    snap: bytes of each frame at most; 0: all.  count: frames after which it is enough; 0: never.
    drops_only: only frames that were dropped.  seconds: after which it is enough; None: never.
    result: is kept up to date, for one who interrupts the capture.
    """

    def __init__(
        self, writer: PcapngWriter, *, snap: int = 0, count: int = 0, drops_only: bool = False,
        seconds: float | None = None, result: Captured | None = None,
    ) -> None:  # fmt: skip
        self._writer = writer
        self._snap = snap
        self._count = count
        self._drops_only = drops_only
        self._end = None if seconds is None else time.monotonic() + seconds
        self._offset = time.time_ns() - time.monotonic_ns()
        self._interfaces: dict[object, int] = {}
        self.result = Captured() if result is None else result

    @property
    def left(self) -> float | None:
        """Seconds until it is enough, None if there is no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    @property
    def done(self) -> bool:
        """True if it is enough."""
        return bool(self._count and self.result.frames >= self._count) or self.left == 0.0

    def frame(
        self, key: object, name: Callable[[], str], at: int, data: bytes, length: int, outbound: bool, reason: str
    ) -> None:
        """Writes a frame.

        key, name: its interface, and what that is called.  at: ns of the monotonic clock.
        reason: why it was dropped; empty if it was not.
        """
        if self.done or (self._drops_only and not reason):
            return
        if key not in self._interfaces:
            self._interfaces[key] = self._writer.interface(name(), self._snap)
        self._writer.packet(
            self._interfaces[key], at + self._offset, data, length=length,
            comment=f"dropped: {reason}" if reason else "", outbound=outbound,
        )  # fmt: skip
        self.result.frames += 1
        self.result.dropped += bool(reason)

    def flush(self) -> None:
        """Shows what was written to those who watch; for when nothing more is waiting."""
        self._writer.flush()


# ---- the loop's side ---------------------------------------------------------------------------------


class Capturable(Protocol):
    """What a capture needs of a node."""

    config: Config

    def reasons(self) -> Sequence[str]:
        """What each counter means, in order, to one whose frame it counts as dropped."""

    def capture(self, snap: int, size: int) -> None:
        """Starts to copy frames into a buffer of `size` bytes; 0 stops."""

    def captured(self) -> bytes:
        """Takes copied frames out."""

    @property
    def capture_lost(self) -> int:
        """Frames that the buffer had no room for."""


class LoopCapture:
    """A capture of one loop's ports, while its client listens.

    send: takes bytes for the client and says how many wait for it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, nodes: Sequence[Capturable], snap: int, send: Callable[[bytes], int]
    ) -> None:
        self._loop = loop
        self._nodes = nodes
        self._send = send
        for node in nodes:
            node.capture(snap, _BUFFER)
        self._timer: asyncio.TimerHandle | None = loop.call_later(_INTERVAL, self._drain)

    def _drain(self) -> None:
        """Sends what was copied, as far as the client keeps up."""
        self._timer = self._loop.call_later(_INTERVAL, self._drain)
        waiting = self._send(b"")
        for number, node in enumerate(self._nodes):
            while waiting < _BACKLOG and (records := node.captured()):
                waiting = self._send(_CHUNK.pack(node.capture_lost, number, len(records)) + records)

    def close(self) -> None:
        """Stops it; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            for node in self._nodes:
                node.capture(0, 0)


# ---- the command line's side -------------------------------------------------------------------------


class _Stream:
    """The connection to one loop that is being captured."""

    def __init__(self, address: Address, snap: int) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._input = bytearray()
        self._lost: dict[int, int] = {}
        try:
            self.sock.settimeout(2.0)
            self.sock.connect(os.fspath(address.path))
            self.sock.sendall(json.dumps({"cmd": "capture", "snap": snap}).encode() + b"\n")
            answer = self._answer()
        except TimeoutError as error:
            self.sock.close()
            raise ControlError("no answer in 2 s: its loop is stopped or busy") from error
        except OSError as error:
            self.sock.close()
            raise ControlError(error.strerror or str(error)) from error
        except BaseException:
            self.sock.close()
            raise
        self._reasons: Sequence[str] = answer["reasons"]
        self._names = [f"{address.process or 'process'} {address.pid}, {port}" for port in answer["ports"]]

    @property
    def lost(self) -> int:
        """Frames that found no room."""
        return sum(self._lost.values())

    def _answer(self) -> dict[str, Any]:
        """Reads the line that comes before the chunks."""
        while b"\n" not in self._input:
            data = self.sock.recv(65536)
            if not data:
                raise ControlError("it closed the connection without an answer")
            self._input += data
        line, _, self._input = self._input.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise ControlError(reply["error"])
        result: dict[str, Any] = reply["result"]
        return result

    def receive(self, recorder: Recorder) -> bool:
        """Passes on what came; False when the loop has ended."""
        data = self.sock.recv(1 << 20)
        self._input += data
        while len(self._input) >= _CHUNK.size:
            lost, node, size = _CHUNK.unpack_from(self._input)
            if len(self._input) < _CHUNK.size + size:
                break
            self._lost[node] = lost
            self._records(node, bytes(self._input[_CHUNK.size : _CHUNK.size + size]), recorder)
            del self._input[: _CHUNK.size + size]
        return bool(data)

    def _records(self, node: int, chunk: bytes, recorder: Recorder) -> None:
        position = 0
        while position < len(chunk):
            at, length, captured, outgoing, reason = _RECORD.unpack_from(chunk, position)
            position += _RECORD.size
            recorder.frame(
                (self, node), lambda: self._names[node], at, chunk[position : position + captured], length,
                bool(outgoing), self._reasons[reason] if reason >= 0 else "",
            )  # fmt: skip
            position += -(-(_RECORD.size + captured) // _ALIGN) * _ALIGN - _RECORD.size


def capture_loops(
    addresses: Sequence[Address], recorder: Recorder, snap: int = 0, ready: Callable[[], None] | None = None
) -> None:
    """Captures the ports of running loops until it is enough, interrupted, or all of them have ended.

    snap: bytes of each frame at most; 0: all.  ready: called when the capture runs.
    Raises ControlError if a loop refuses.
    """
    with selectors.DefaultSelector() as selector:
        streams: list[_Stream] = []
        try:
            for address in addresses:
                streams.append(_Stream(address, snap))
                selector.register(streams[-1].sock, selectors.EVENT_READ, streams[-1])
            if ready is not None:
                ready()
            while selector.get_map() and not recorder.done:
                for key, _ in selector.select(recorder.left):
                    try:
                        alive = key.data.receive(recorder)
                    except ConnectionError:
                        alive = False
                    if not alive:
                        selector.unregister(key.fileobj)
                recorder.result.lost = sum(stream.lost for stream in streams)
                recorder.flush()
        finally:
            for stream in streams:
                stream.sock.close()
