"""UDP endpoints of the user-space stack as `asyncio.DatagramTransport`."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
import warnings
from asyncio import transports
from collections import deque
from collections.abc import Callable
from typing import Any

from ._addresses import SockAddr, check_family, plain
from ._endpoints import DATAGRAM_MAX, Datagrams
from ._node import EAGAIN, endpoint, ffi, lib, sockaddr, status_error
from ._pump import CLOSED, NOBODY, READABLE, RELEASED
from ._socket import StackSocket
from ._transport import wake

__all__ = ["DatagramTransport"]

_BATCH = 64  # datagrams that one event may deliver before others get their turn


class DatagramTransport(transports._FlowControlMixin, transports.DatagramTransport):
    """A UDP endpoint of the user-space stack."""

    __slots__ = (
        "__weakref__", "_broadcast", "_closing", "_conn_lost", "_context", "_dual", "_flags", "_from", "_held", "_id",
        "_on_data", "_peername", "_protocol", "_pump", "_queue", "_queued", "_retrying", "_run", "_socket",
        "_sockname", "_stack", "_started", "_v6",
    )  # fmt: skip

    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        datagrams: Datagrams,
        protocol: asyncio.DatagramProtocol,
        broadcast: bool,
        waiter: asyncio.Future[None],
    ) -> None:
        pump = datagrams.pump
        super().__init__(None, pump.loop)
        self._closing = False
        self._sockname = datagrams.addresses()[0]
        self._v6, self._dual, self._flags = datagrams.v6, datagrams.dual, datagrams._flags
        self._id, self._peername, self._held = datagrams.release()
        self._broadcast = broadcast
        self._conn_lost = 0
        self._pump = pump
        self._stack = pump.stack
        self._context = contextvars.copy_context()
        self._run = self._context.run
        self._on_data: Callable[[bytes], Any] = _ignore
        self._protocol: asyncio.DatagramProtocol | None = protocol
        self._queue: deque[tuple[bytes, SockAddr | None]] = deque()
        self._queued = 0
        self._retrying = False
        self._started = False
        self._from = ffi.new("struct ams_endpoint *")
        self._socket: StackSocket | None = None
        pump.attach(self._id, self)
        pump.serve(socket.SOCK_DGRAM, self._sockname, 1, self._dual)
        self._loop.call_soon(protocol.connection_made, self, context=self._context)
        self._loop.call_soon(self._start, context=self._context)
        self._loop.call_soon(wake, waiter)

    def __repr__(self) -> str:
        state = "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} local={self._sockname} peer={self._peername}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not getattr(self, "_closing", True):
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    def _start(self) -> None:
        """Receives what has come before there was a transport, and from here on what comes."""
        self._started = True
        while self._held and not self._closing and self._protocol is not None:
            self._pass_on(*self._held.popleft())
        self._receive()

    # ---- what users ask -----------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """'sockname', 'peername', 'socket'."""
        if name == "sockname":
            return self._sockname
        if name == "peername":
            return default if self._peername is None else self._peername
        if name == "socket":
            if self._socket is None:
                self._socket = StackSocket(
                    self._pump.node, lambda: self._id, lambda: self._sockname, lambda: self._peername,
                    socket.SOCK_DGRAM, flags=self._flags, touch=self._pump.touch,
                )  # fmt: skip
            return self._socket
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Switches to another protocol."""
        self._protocol = protocol  # type: ignore[assignment]

    def get_protocol(self) -> Any:
        """The current protocol."""
        return self._protocol

    def is_closing(self) -> bool:
        """True after close() or abort()."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes of datagrams that wait for room in the engine's queue."""
        return self._queued

    # ---- sending ------------------------------------------------------------------------------------------

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Sends one datagram, to `addr` or to the connected peer; an error goes to error_received()."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._peername is not None:
            if addr not in (None, self._peername, self._peername[:2]):
                raise ValueError(f"Invalid address: must be None or {self._peername}")
            addr = None
        elif addr is None:
            raise ValueError("sendto() of an unconnected endpoint needs an address")
        if self._conn_lost:
            return
        raw = bytes(data)
        if self._queue or not self._send(raw, addr):
            self._queue.append((raw, addr))
            self._queued += len(raw)
            self._maybe_pause_protocol()  # type: ignore[attr-defined]
            self._retry_soon()

    def _send(self, data: bytes, addr: SockAddr | None) -> bool:
        """Gives the engine a datagram; False if its queue is full."""
        try:
            if addr is not None:
                check_family(addr, self._v6)
                if not self._broadcast and plain(addr)[0] in self._pump.node.broadcasts:
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            if self._protocol is not None:
                self._protocol.error_received(error)
            return True
        status = lib.ams_udp_send(self._stack, self._id, endpoint(addr), data, len(data), self._pump.node.now())
        self._pump.touch()
        if status == EAGAIN:
            return False
        if status < 0 and self._protocol is not None:
            self._protocol.error_received(status_error(status))
        return True

    def _retry_soon(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._loop.call_soon(self._retry)

    def _retry(self) -> None:
        """Sends what waits, after the pump has flushed the engine's queue."""
        self._retrying = False
        while self._queue and not self._conn_lost:
            data, addr = self._queue[0]
            if not self._send(data, addr):
                self._retry_soon()
                break
            self._queue.popleft()
            self._queued -= len(data)
        self._maybe_resume_protocol()  # type: ignore[attr-defined]
        if self._closing and not self._queue and not self._conn_lost:
            self._shut(None)

    # ---- receiving ----------------------------------------------------------------------------------------

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        if bits & READABLE and self._started:
            self._run(self._receive)
        if bits & CLOSED and aux < 0 and not self._conn_lost:
            self._fatal_error(status_error(aux), "Fatal read error on datagram transport")
        if bits & RELEASED:
            self._released()

    def _receive(self) -> None:
        scratch, view, source = self._pump.scratch, self._pump.scratch_view, self._from
        for _ in range(_BATCH):
            if self._closing or self._protocol is None:
                return
            length = lib.ams_udp_recv(self._stack, self._id, source, scratch, DATAGRAM_MAX)
            if length == EAGAIN:
                return
            if length < 0:
                self._pass_on(status_error(length), None)
            else:
                self._pass_on(view[:length], sockaddr(source, self._v6))
        self._loop.call_soon(self._receive, context=self._context)

    def _pass_on(self, data: bytes | OSError, address: SockAddr | None) -> None:
        """Calls the protocol with a datagram or an error; what it raises is fatal."""
        assert self._protocol is not None
        try:
            if isinstance(data, OSError):
                self._protocol.error_received(data)
            else:
                self._protocol.datagram_received(data, address)  # type: ignore[arg-type]
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.datagram_received() call failed.")

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the endpoint when everything is sent; connection_lost() follows."""
        if self._closing:
            return
        self._closing = True
        if not self._queue and not self._conn_lost:
            self._shut(None)

    def abort(self) -> None:
        """Closes the endpoint at once."""
        self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if not isinstance(exc, OSError):
            self._loop.call_exception_handler(
                {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            )
        self._force_close(exc)

    def _force_close(self, exc: BaseException | None) -> None:
        self._closing = True
        self._queue.clear()
        self._queued = 0
        if not self._conn_lost:
            self._shut(exc)

    def _shut(self, exc: BaseException | None) -> None:
        self._conn_lost += 1
        if lib.ams_udp_close(self._stack, self._id) != 0:
            self._released()
        self._pump.touch()
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)

    def _released(self) -> None:
        number, self._id = self._id, -1
        if number >= 0 and self._pump.stack is not None:
            self._pump.endpoints[number] = NOBODY
            self._pump.serve(socket.SOCK_DGRAM, self._sockname, -1, self._dual)

    def _detach(self) -> None:
        self._id = -1
        self._conn_lost += 1
        self._queue.clear()

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)  # type: ignore[arg-type]


def _ignore(data: bytes) -> None:
    """Datagrams don't come with the batch."""
