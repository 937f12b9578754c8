"""TCP connections of the user-space stack as `asyncio.Transport`.

Theory of operation
-------------------
A transport is made with an id of the engine and lives in its pump's table of endpoints until the engine has
released the id.  It behaves as asyncio's own `_SelectorSocketTransport` does; where a kernel socket's buffer
would take part, the engine's does:

- `write` hands the bytes to the engine, which answers with the *excess*: what doesn't fit its send buffer.  The
  excess is the transport's write buffer as flow control sees it.  Long `bytes` are not copied: the engine keeps
  a pointer, and `_refs` keeps them alive until it says that it is done.
- `close` with no excess closes the connection at once, so that the FIN rides on the last data segment; with
  excess it waits for the buffer to drain, as asyncio does.  connection_lost() follows in the next iteration.
- `abort` drops the excess, as asyncio drops its write buffer, and closes; what the engine's buffer holds is sent as
  what a kernel's buffer holds is.  As there, it is data that nobody has read, in the engine or in `_held`, which
  makes a reset of a close.
- `pause_reading` tells the engine to keep what arrives, which closes the receive window; data that the current
  batch holds already waits in `_held`.

- A selector reads once per iteration, and so finds EOF in an iteration after that of the last data.  sslproto counts
  on it: what it has scheduled with call_soon() when data came must run before eof_received(), or it shuts down
  with data undelivered.  A batch may hold many reads and the EOF: a `BufferedProtocol`, as sslproto's is, gets its
  EOF in the next iteration.

`_on_data` is what the pump calls with received bytes.  It points at the protocol's data_received while the
transport reads, at `_hold` while it is paused, and at `_drop` once it is closed, so that the usual case needs
no question.  A `BufferedProtocol` reads from the engine straight into its own buffer (`_buffered.py`).

Every call of the engine is guarded by `_id >= 0`: the id is dropped as soon as the engine may reuse it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import warnings
from asyncio import protocols
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._addresses import ENDPOINT_SIZE, SockAddr, unpack
from ._buffered import BufferedReading
from ._node import lib, status_error
from ._pump import CLOSED, DATA, DRAINED, EOF, NOBODY, READABLE, REFS, RELEASED, SCRATCH, Pump
from ._socket import StackSocket

if TYPE_CHECKING:
    from ._server import Server

__all__ = ["Transport", "wake"]

logger = logging.getLogger("asyncio")

REF_MIN = 8192  # bytes; from here on a reference is cheaper than a copy
JOIN_MAX = 4096  # bytes; shorter pieces of writelines() are joined
LOG_THRESHOLD_FOR_CONNLOST_WRITES = 5  # as asyncio.constants

_READ_BLOB: int = lib.AMS_READ_BLOB
_READ_EVENT: int = lib.AMS_READ_EVENT
_READ_PAUSED: int = lib.AMS_READ_PAUSED

_tcp_send = lib.ams_tcp_send
_tcp_send_ref = lib.ams_tcp_send_ref


class Transport(BufferedReading):
    """A TCP connection of the user-space stack."""

    __slots__ = (
        "__weakref__", "_born", "_conn_lost", "_context", "_eof", "_excess", "_extra_info", "_held_eof", "_held_error",
        "_names", "_no_write", "_on_data", "_pump", "_refs", "_run", "_server", "_v6",
    )  # fmt: skip

    _start_tls_compatible = True

    def __init__(
        self,
        pump: Pump,
        number: int,
        context: contextvars.Context,
        protocol: asyncio.BaseProtocol,
        server: Server | None = None,
        v6: bool = False,
    ) -> None:
        self._loop = pump.loop
        self._protocol_paused = False
        self._high_water = 65536
        self._low_water = 16384
        self._pump = pump
        self._stack = pump.stack
        self._id = number
        self._context = context
        self._run = context.run
        self._server = server
        self._closing = False
        self._conn_lost = 0
        self._eof = False
        self._no_write = False
        self._paused = False
        self._excess = 0
        self._refs: deque[bytes] | None = None
        self._held: deque[bytes] | None = None
        self._held_eof = False
        self._held_error = 0  # the status of an end that waits behind data that is held
        self._mode = _READ_BLOB
        self._names: bytes | None = None
        self._v6 = v6
        self._extra_info: dict[str, Any] | None = None
        self._protocol: Any = protocol
        if isinstance(protocol, protocols.BufferedProtocol):
            self._mode = _READ_EVENT
            self._deliver: Callable[[bytes], Any] = self._feed
        else:
            self._deliver = protocol.data_received  # type: ignore[attr-defined]
        self._on_data = self._deliver
        self._born = -1
        pump.endpoints[number] = self

    def __repr__(self) -> str:
        state = "closed" if self._conn_lost else "closing" if self._closing else "open"
        return f"<{type(self).__name__} {state} local={self._address(True)} peer={self._address(False)}>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not getattr(self, "_closing", True):
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)

    # ---- beginning ----------------------------------------------------------------------------------------

    def _open_accepted(self) -> None:
        """connection_made() for a connection that a listener accepted; called within the batch."""
        self._born = self._pump.begin_round()
        self._on_data = self._first_data
        if self._mode != _READ_BLOB:
            self._set_reading(self._mode)
        try:
            self._run(self._protocol.connection_made, self)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "Exception in protocol.connection_made()")

    def _open_connected(self, waiter: asyncio.Future[None] | None) -> None:
        """connection_made() and the start of reading for a connection that the engine keeps paused so far."""
        self._on_data = self._hold
        call_soon = self._loop.call_soon
        call_soon(self._protocol.connection_made, self, context=self._context)
        call_soon(self._connected, waiter)

    def _connected(self, waiter: asyncio.Future[None] | None) -> None:
        """connection_made() was called: whoever waits goes on, and then there may be data, in asyncio's order."""
        if waiter is not None:
            wake(waiter)
        self._loop.call_soon(self._start_reading)

    def _first_data(self, data: bytes) -> None:
        """The first data of an accepted connection: what connection_made() has scheduled comes before it."""
        if self._pump.round == self._born:
            self._hold(data)
            self._on_data = self._hold
            self._loop.call_soon(self._deliver_held)
        else:
            self._on_data = self._deliver
            self._deliver(data)

    def _too_early(self) -> bool:
        """True in the batch that has brought the connection: reading begins after the next callbacks of the loop."""
        if self._on_data != self._first_data:
            return False
        if self._pump.round != self._born:
            self._on_data = self._deliver
            return False
        self._on_data = self._hold
        self._loop.call_soon(self._deliver_held)
        return True

    def _start_reading(self) -> None:
        if self._held or self._held_eof:
            self._deliver_held()
        elif not self._paused and not self._closing:
            self._on_data = self._deliver
            self._set_reading(self._mode)

    def _set_reading(self, mode: int) -> None:
        """Tells the engine how to report what it receives; what waits there is reported soon."""
        if self._id >= 0:
            lib.ams_tcp_set_reading(self._stack, self._id, mode)
            if mode != _READ_PAUSED:
                self._pump.kick()

    # ---- what users ask -----------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Switches to another protocol; data that arrives from here on is the new one's."""
        self._protocol = protocol
        if isinstance(protocol, protocols.BufferedProtocol):
            mode, self._deliver = _READ_EVENT, self._feed
        else:
            mode, self._deliver = _READ_BLOB, protocol.data_received  # type: ignore[attr-defined]
        changed, self._mode = mode != self._mode, mode
        if self._closing or self._paused or self._held:
            return  # resume_reading() or _deliver_held() will use the new ones
        if self._on_data != self._hold:
            self._on_data = self._deliver
            if changed:
                self._set_reading(mode)

    def get_protocol(self) -> Any:
        """The current protocol; None after connection_lost()."""
        return self._protocol

    def is_closing(self) -> bool:
        """True after close() or abort(), or when the connection is lost."""
        return self._closing

    def is_reading(self) -> bool:
        """True while received data is passed on to the protocol."""
        return not self._closing and not self._paused

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """'peername', 'sockname', 'socket' (a `StackSocket`), and what TLS adds above."""
        if name == "peername":
            address = self._address(False)
            return default if address is None else address
        if name == "sockname":
            address = self._address(True)
            return default if address is None else address
        extra = self._extra_info
        if extra is None:
            extra = self._extra_info = {}
        if name == "socket" and name not in extra:
            extra[name] = StackSocket.of_transport(self)
        return extra.get(name, default)

    def _address(self, local: bool) -> SockAddr | None:
        """The connection's local or remote address; known for good once the connection is closed."""
        if self._names is None:
            if self._id < 0:
                return None
            self._remember()
        assert self._names is not None
        return unpack(self._names[:ENDPOINT_SIZE] if local else self._names[ENDPOINT_SIZE:], self._v6)

    def _remember(self) -> None:
        """Asks the engine for both addresses while it still knows them; they are rarely wanted, so not decoded."""
        pump = self._pump
        lib.ams_tcp_local(self._stack, self._id, pump.local)
        lib.ams_tcp_remote(self._stack, self._id, pump.remote)
        self._names = pump.names[:]

    # ---- writing ------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queues data; never blocks."""
        if data.__class__ is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            data = bytes(data)
        if self._no_write:
            self._refuse(data)
            return
        length = len(data)
        if length < REF_MIN:
            if not length:
                return
            excess = _tcp_send(self._stack, self._id, data, length)
        else:
            excess = _tcp_send_ref(self._stack, self._id, data, length)
            if excess >= 0:
                if self._refs is None:
                    self._refs = deque()
                self._refs.append(data)
        pump = self._pump
        if not pump._dirty:
            pump.touch()
        if excess:
            self._congested(excess)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Queues several pieces: short ones together, long ones each without a copy."""
        short: list[bytes | bytearray | memoryview] = []
        for data in list_of_data:
            if isinstance(data, (bytes, bytearray, memoryview)) and len(data) < JOIN_MAX:
                short.append(data)
                continue
            if short:
                self.write(b"".join(short))
                short.clear()
            self.write(data)
        if short:
            self.write(b"".join(short))

    def _refuse(self, data: bytes) -> None:
        """A write that asyncio doesn't allow, or that goes nowhere."""
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and self._conn_lost:
            if self._conn_lost >= LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1

    def _congested(self, excess: int) -> None:
        """The engine's buffer is full (excess), or it refused the data (a negative status)."""
        if excess < 0:
            self._fatal_error(status_error(excess), "Fatal write error on socket transport")
            return
        self._excess = excess
        if excess > self._high_water and not self._protocol_paused:
            self._maybe_pause_protocol()

    def _maybe_pause_protocol(self) -> None:
        super()._maybe_pause_protocol()  # type: ignore[misc]
        if self._protocol_paused and self._id >= 0 and not self._closing:
            lib.ams_tcp_want_drain(self._stack, self._id, self._low_water)

    def get_write_buffer_size(self) -> int:
        """Bytes that the engine's send buffer doesn't hold yet."""
        if self._id < 0 or self._conn_lost:
            return 0
        self._excess = max(0, lib.ams_tcp_excess(self._stack, self._id))
        return self._excess

    def can_write_eof(self) -> bool:
        """True: TCP has half-close."""
        return True

    def write_eof(self) -> None:
        """Sends FIN after what was written; receiving goes on."""
        if self._closing or self._eof:
            return
        self._eof = True
        self._no_write = True
        if self._id < 0:
            return
        lib.ams_tcp_shutdown(self._stack, self._id)
        self._pump.touch()

    def _drained(self) -> None:
        """The excess has fallen to where want_drain() asked to be told."""
        excess = self.get_write_buffer_size()
        if self._protocol_paused and excess <= self._low_water and not self._conn_lost:
            self._run(self._maybe_resume_protocol)  # type: ignore[attr-defined]
            excess = self.get_write_buffer_size()  # resume_writing() may write, while closing too: TLS says goodbye
        if self._conn_lost:
            return
        if self._closing and not excess:
            self._shut(None)
        elif self._closing or self._protocol_paused:
            self._want_drain()

    def _want_drain(self) -> None:
        """Has the engine tell when the excess has fallen: to the low-water mark, or to nothing for closing."""
        lib.ams_tcp_want_drain(self._stack, self._id, self._low_water if self._protocol_paused else 0)

    # ---- reading ------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Stops passing data to the protocol; the peer is held up by the receive window."""
        if self._closing or self._paused:
            return
        self._paused = True
        self._on_data = self._hold
        self._set_reading(_READ_PAUSED)

    def resume_reading(self) -> None:
        """Passes data on again, beginning with the next iteration of the loop."""
        if self._closing or not self._paused:
            return
        self._paused = False
        if self._held or self._held_eof or self._held_error:
            self._loop.call_soon(self._deliver_held)
        else:
            self._on_data = self._deliver
            self._set_reading(self._mode)

    def _hold(self, data: bytes) -> None:
        """Data of a batch in which somebody paused this transport."""
        if self._held is None:
            self._held = deque()
        self._held.append(data)

    def _pass_on(self, callback: Callable[[bytes], Any], data: bytes) -> None:
        """Calls back with data, off the hot path (that one is in `Pump._batches`); what it raises is fatal."""
        try:
            self._run(callback, data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")

    def _deliver_held(self) -> None:
        """Passes on what waited while reading was paused."""
        while self._held and not self._paused and not self._closing:
            data = self._held.popleft()
            self._pass_on(self._deliver, data)
        if self._paused or self._closing:
            return
        self._on_data = self._deliver
        if self._held_eof:
            self._held_eof = False
            self._at_eof()
        elif not self._held_error:
            self._set_reading(self._mode)
        if self._held_error and not self._conn_lost:
            self._lost(self._held_error)

    def _readable(self) -> None:
        """Takes what waits in the engine: data too long for the batch, or for a BufferedProtocol."""
        if self._paused or self._closing or self._held or self._too_early():
            return
        if self._mode == _READ_EVENT:
            self._run(self._read_buffered)
            return
        scratch, view = self._pump.scratch, self._pump.scratch_view
        count = SCRATCH
        while count == SCRATCH and self._mode == _READ_BLOB and not self._paused and not self._closing:
            count = lib.ams_tcp_recv(self._stack, self._id, scratch, SCRATCH)
            if count > 0:
                self._pass_on(self._on_data, view[:count])

    def _at_eof(self) -> None:
        """The peer has sent its FIN."""
        if self._closing:
            return
        if self._paused or self._held or self._too_early():
            self._held_eof = True
            return
        try:
            keep_open = self._run(self._protocol.eof_received)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    # ---- events -------------------------------------------------------------------------------------------

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        """Any event of the engine but plain data."""
        if bits & DATA:
            self._pass_on(self._on_data, data)
        if bits & READABLE:
            self._readable()
        if bits & EOF:
            if self._mode == _READ_EVENT:
                self._loop.call_soon(self._at_eof)
            else:
                self._at_eof()
        if bits & REFS and self._refs is not None:
            for _ in range(min(aux, len(self._refs))):
                self._refs.popleft()
        if bits & DRAINED:
            self._drained()
        if bits & CLOSED and aux < 0 and not self._conn_lost:
            if (self._held or self._held_eof) and not self._closing and not self._excess:
                self._held_error = aux  # who waits to write is told at once
            else:
                self._lost(aux)
        if bits & RELEASED:
            self._released()

    def _lost(self, status: int) -> None:
        """The connection has ended by itself."""
        self._fatal_error(status_error(status), "Fatal read error on socket transport")

    def _released(self) -> None:
        """The engine takes its id back."""
        number, self._id = self._id, -1
        self._refs = None
        if number >= 0 and self._pump.stack is not None:
            self._pump.endpoints[number] = NOBODY

    def _detach(self) -> None:
        """The node goes away, and the engine with it; the transport stays without a connection."""
        if self._id >= 0 and self._names is None:
            self._remember()
        self._id = -1
        self._no_write = True
        self._conn_lost += 1
        self._refs = self._held = None
        self._on_data = _drop
        if self._closing:
            self._server = self._protocol = None

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes the connection when everything written is on its way; connection_lost() follows."""
        if self._closing:
            return
        self._closing = True
        self._on_data = _drop
        if self._conn_lost:  # the loop was closed before
            return
        if self._excess and self.get_write_buffer_size():
            self._set_reading(_READ_PAUSED)
            self._want_drain()
        else:
            self._shut(None)

    def abort(self) -> None:
        """Closes the connection without waiting for the write buffer, which is lost."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        self._closing = True
        if self._conn_lost:
            return
        self._on_data = _drop
        dropped = lib.ams_tcp_drop_excess(self._stack, self._id)
        for _ in range(dropped if self._refs else 0):
            self._refs.pop()  # type: ignore[union-attr]
        self._shut(exc)

    def _shut(self, exc: BaseException | None) -> None:
        """Ends the connection in the engine and has connection_lost() called.

        The engine does as a kernel's close() does: what its send buffer holds and a FIN follow, or a reset if
        data was not read, or if SO_LINGER asks for it.
        """
        self._conn_lost += 1
        self._no_write = True
        if self._names is None:
            self._remember()
        how = lib.ams_tcp_abort if self._held else lib.ams_tcp_close
        if how(self._stack, self._id) != 0:
            self._released()
        pump = self._pump
        if not pump._dirty:
            pump.touch()
        self._loop.call_soon(self._call_connection_lost, exc, context=self._context)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(exc)
        finally:
            self._protocol = None
            self._deliver = _drop
            self._held = None
            server, self._server = self._server, None
            if server is not None:
                server._detach(self)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=exc)
        else:
            self._report(exc, message)
        self._force_close(exc)

    def _report(self, exc: BaseException, message: str) -> None:
        self._loop.call_exception_handler(
            {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        )


def _drop(data: bytes) -> None:
    """Data for a transport that is closed; a function, so that closed transports are in no reference cycle."""


def wake(waiter: asyncio.Future[None]) -> None:
    """Wakes a waiter that may have been cancelled."""
    if not waiter.cancelled():
        waiter.set_result(None)
