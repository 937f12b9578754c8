"""Connections that have no transport yet.

A `Conduit` stands in the pump's table for a connection that is being opened, that a listener which doesn't serve
yet holds back, or that belongs to a kernel socket which a library has connected with `loop.sock_connect()`.  The
engine keeps what arrives until a transport adopts the connection, or `recv` asks for it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr
from ._node import check_status, endpoint, ffi, lib, sockaddr, status_error
from ._pump import CLOSED, CONNECTED, DATA, DRAINED, EOF, NOBODY, READABLE, RELEASED, SCRATCH, Pump
from ._transport import Transport

if TYPE_CHECKING:
    from ._server import Server

__all__ = ["Conduit"]

_SEND_HIGH = 65536  # bytes of excess beyond which sendall() waits
_SEND_LOW = 16384


class Conduit:
    """A connection of the engine, before a transport takes it over.

    All events wake whoever waits; each waiter looks for itself at what has changed.
    """

    __slots__ = ("_connected", "_eof", "_error", "_held", "_id", "_reading", "_waiters", "pump")

    def __init__(self, pump: Pump, number: int) -> None:
        self.pump = pump
        self._id = number
        self._connected = False
        self._eof = False
        self._error: OSError | None = None
        self._held: deque[bytes] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._reading = False
        pump.attach(number, self)
        lib.ams_tcp_set_reading(pump.stack, number, lib.AMS_READ_PAUSED)

    @classmethod
    async def connect(cls, pump: Pump, remote: SockAddr, local: SockAddr | None = None) -> Conduit:
        """Opens a connection; raises what asyncio raises if it cannot be.  Cancelling it leaves nothing behind."""
        await pump.between_batches()
        if pump.stack is None:
            raise RuntimeError("Event loop is closed")
        status = lib.ams_tcp_connect(pump.stack, endpoint(local), endpoint(remote), pump.node.now())
        if status < 0:
            raise _failed(status_error(status), remote)
        conduit = cls(pump, status)
        lib.ams_tcp_setopt(pump.stack, status, lib.AMS_OPT_NODELAY, 1)  # as asyncio does
        pump.touch()
        try:
            while not conduit._connected and conduit._error is None:
                await conduit._wait()
        except BaseException:
            conduit.abort()
            raise
        if conduit._error is not None:
            conduit.abort()
            raise _failed(conduit._error, remote)
        return conduit

    # ---- events -------------------------------------------------------------------------------------------

    def _run(self, callback: Any, *args: Any) -> Any:
        return callback(*args)

    def _on_data(self, data: bytes) -> None:
        self._held.append(data)
        self._wake()

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        if bits & CONNECTED:
            self._connected = True
        if bits & DATA:
            self._held.append(data)
        if bits & EOF:
            self._eof = True
        if bits & CLOSED and aux < 0 and self._error is None:
            self._error = status_error(aux)
        if bits & RELEASED:
            self._release()
        if bits & (CONNECTED | DATA | READABLE | EOF | DRAINED | CLOSED | RELEASED):
            self._wake()

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self._error = exc if isinstance(exc, OSError) else OSError(str(exc))
        self._wake()

    def _detach(self) -> None:
        self._id = -1
        self._fatal_error(ConnectionAbortedError("the loop is closed"), "")

    def _release(self) -> None:
        number, self._id = self._id, -1
        if number >= 0 and self.pump.stack is not None:
            self.pump.endpoints[number] = NOBODY

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self) -> None:
        waiter = self.pump.loop.create_future()
        self._waiters.append(waiter)
        await waiter

    # ---- what may be done with it -------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """True while the engine has the connection."""
        return self._id >= 0

    def addresses(self) -> tuple[SockAddr | None, SockAddr | None]:
        """Local and remote socket address."""
        if self._id < 0:
            return None, None
        local, remote = ffi.new("struct ams_endpoint *"), ffi.new("struct ams_endpoint *")
        lib.ams_tcp_local(self.pump.stack, self._id, local)
        lib.ams_tcp_remote(self.pump.stack, self._id, remote)
        return sockaddr(local), sockaddr(remote)

    def abort(self) -> None:
        """Gives the connection up, with a reset if it exists; idempotent."""
        if self._id >= 0 and self.pump.stack is not None:
            if lib.ams_tcp_abort(self.pump.stack, self._id) != 0:
                self._release()
            self.pump.touch()

    def close(self) -> None:
        """Closes the connection in good order; idempotent."""
        if self._id >= 0 and self.pump.stack is not None:
            if lib.ams_tcp_close(self.pump.stack, self._id) != 0:
                self._release()
            self.pump.touch()

    def adopt(
        self,
        protocol: asyncio.BaseProtocol,
        context: contextvars.Context,
        server: Server | None = None,
        waiter: asyncio.Future[None] | None = None,
    ) -> Transport:
        """Makes the connection a transport, and calls connection_made() soon."""
        if self._id < 0:
            raise self._error or ConnectionAbortedError("the connection is gone")
        number, self._id = self._id, -1
        transport = Transport(self.pump, number, context, protocol, server)
        if self._held:
            transport._held = self._held
        transport._held_eof = self._eof
        transport._open_connected(waiter)
        if self._error is not None:
            transport._fatal_error(self._error, "Fatal read error on socket transport")
        return transport

    # ---- loop.sock_recv() and friends ---------------------------------------------------------------------

    async def recv(self, size: int) -> bytes:
        """Up to size bytes; b"" at the end of the stream."""
        if not self._reading and self._id >= 0:
            self._reading = True
            lib.ams_tcp_set_reading(self.pump.stack, self._id, lib.AMS_READ_EVENT)
            self.pump.kick()
        while True:
            if self._held:
                data = self._held.popleft()
                if len(data) > size:
                    self._held.appendleft(data[size:])
                return data[:size]
            if self._id >= 0:
                scratch = self.pump.scratch
                count = lib.ams_tcp_recv(self.pump.stack, self._id, scratch, min(size, SCRATCH))
                if count > 0:
                    self.pump.touch()
                    return bytes(self.pump.scratch_view[:count])
            if self._eof or size == 0:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()

    async def sendall(self, data: Any) -> None:
        """Sends all of data, waiting while the engine's buffer is full."""
        if self._error is not None:
            raise self._error
        raw = bytes(data)
        excess = check_status(lib.ams_tcp_send(self.pump.stack, self._id, raw, len(raw)))
        self.pump.touch()
        while excess > _SEND_HIGH:
            lib.ams_tcp_want_drain(self.pump.stack, self._id, _SEND_LOW)
            await self._wait()
            if self._error is not None:
                raise self._error
            excess = lib.ams_tcp_excess(self.pump.stack, self._id)


def _failed(error: OSError, remote: SockAddr) -> OSError:
    """The error of a connect, worded as asyncio words it."""
    return OSError(error.errno, f"Connect call failed {remote}")
