"""Connections that have no transport yet.

A `Conduit` stands in the pump's table for a connection that is being opened, that a listener which doesn't serve
yet holds back, or that belongs to a socket which the program uses with `loop.sock_recv()` and its kind.  The
engine keeps what arrives until a transport adopts the connection, or `recv` asks for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr
from ._node import check_status, endpoint, ffi, lib, sockaddr, status_error
from ._pump import CLOSED, CONNECTED, DATA, DRAINED, EOF, NOBODY, READABLE, RELEASED, SCRATCH, Pump
from ._readiness import Readiness
from ._socket import StackSocket
from ._transport import Transport

if TYPE_CHECKING:
    from ._server import Server

__all__ = ["Conduit", "would_block"]

SEND_MAX = 1 << 18  # bytes that one send() takes


class Conduit(Readiness):
    """A connection of the engine, before a transport takes it over.

    `recv` and `send` never block: they raise BlockingIOError, as a non-blocking socket does.
    """

    __slots__ = (
        "__weakref__", "_blocked", "_connected", "_eof", "_error", "_held", "_id", "_names", "_reading", "_socket",
        "_told", "_v6", "transport",
    )  # fmt: skip

    kind = socket.SOCK_STREAM

    def __init__(self, pump: Pump, number: int, connected: bool = False, *, v6: bool = False) -> None:
        """v6: the socket is one of IPv6, whose peer may be IPv4's."""
        super().__init__(pump)
        self._id = number
        self._v6 = v6
        self._connected = connected
        self._eof = False
        self._error: OSError | None = None
        self._told = False  # of the error
        self._held: deque[bytes] = deque()
        self._reading = False
        self._blocked = False  # somebody may wait to write
        self._names: tuple[SockAddr | None, SockAddr | None] | None = None
        self._socket: StackSocket | None = None
        #: Who has taken the connection over.
        self.transport: Transport | None = None
        pump.attach(number, self)
        lib.ams_tcp_set_reading(pump.stack, number, lib.AMS_READ_PAUSED)

    @classmethod
    async def open(cls, pump: Pump, remote: SockAddr, local: SockAddr | None = None) -> Conduit:
        """Begins to open a connection; raises what the engine says if it cannot be."""
        await pump.between_batches()
        return cls.begin(pump, remote, local)

    @classmethod
    def begin(cls, pump: Pump, remote: SockAddr, local: SockAddr | None = None) -> Conduit:
        """As open(), while no batch is being delivered."""
        if pump.stack is None:
            raise RuntimeError("Event loop is closed")
        number = check_status(lib.ams_tcp_connect(pump.stack, endpoint(local), endpoint(remote), pump.node.now()))
        pump.touch()
        return cls(pump, number, v6=":" in remote[0])

    @classmethod
    async def connect(cls, pump: Pump, remote: SockAddr, local: SockAddr | None = None) -> Conduit:
        """Opens a connection; raises what asyncio raises if it cannot be.  Cancelling it leaves nothing behind."""
        try:
            conduit = await cls.open(pump, remote, local)
        except OSError as error:
            raise _failed(error, remote) from None
        await conduit.established(remote)
        return conduit

    async def established(self, remote: SockAddr) -> None:
        """Waits until the connection is open; gives it up if it fails or the caller is cancelled."""
        try:
            while not self._connected and self._error is None:
                await self.wait()
        except BaseException:
            self.abort()
            raise
        if self._error is not None:
            self.abort()
            raise _failed(self._error, remote)

    def defers(self) -> bool:
        """True if the SYN waits for data to carry (TCP_FASTOPEN_CONNECT): to the program the connection is open."""
        room = ffi.new("int *")
        lib.ams_tcp_getopt(self.pump.stack, self._id, lib.AMS_OPT_FASTOPEN_ROOM, room)
        if room[0] < 0:
            return False
        self._connected = True
        return True

    def progress(self) -> int:
        """What another connect() of the socket returns: an errno, 0 when the connection is open."""
        if self._error is not None or self._id < 0:
            return self.take_error() or errno.ECONNABORTED
        return errno.EISCONN if self._connected else errno.EALREADY

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
        if bits & READABLE and self._blocked:
            self._leave_unread()
        if bits & (CONNECTED | DATA | READABLE | EOF | DRAINED | CLOSED | RELEASED):
            self._wake()

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self._error = exc if isinstance(exc, OSError) else OSError(str(exc))
        self._wake()

    def _detach(self) -> None:
        self._remember()
        self._id = -1
        self._fatal_error(ConnectionAbortedError("the loop is closed"), "")

    def _release(self) -> None:
        number, self._id = self._id, -1
        if number >= 0 and self.pump.stack is not None:
            self.pump.endpoints[number] = NOBODY

    # ---- what may be done with it -------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """True while the engine has the connection."""
        return self._id >= 0

    @property
    def socket(self) -> StackSocket:
        """Addresses and options, before and after a transport has taken the connection over."""
        if self.transport is not None:
            found: StackSocket = self.transport.get_extra_info("socket")
            return found
        if self._socket is None:
            self._socket = StackSocket(
                self.pump.node, lambda: self._id, lambda: self.addresses()[0], lambda: self.addresses()[1]
            )
        return self._socket

    def addresses(self) -> tuple[SockAddr | None, SockAddr | None]:
        """Local and remote socket address; known for good once the connection is gone."""
        if self._id < 0 or self.pump.stack is None:
            return self._names or (None, None)
        local, remote = ffi.new("struct ams_endpoint *"), ffi.new("struct ams_endpoint *")
        lib.ams_tcp_local(self.pump.stack, self._id, local)
        lib.ams_tcp_remote(self.pump.stack, self._id, remote)
        return sockaddr(local, self._v6), sockaddr(remote, self._v6)

    def _remember(self) -> None:
        if self._id >= 0:
            self._names = self.addresses()

    def abort(self) -> None:
        """Gives the connection up, with a reset if it exists; idempotent."""
        self._end(lib.ams_tcp_abort)

    def close(self) -> None:
        """Closes the connection as a kernel does: with a reset if data was not read; idempotent."""
        self._end(lib.ams_tcp_abort if self._held else lib.ams_tcp_close)

    def _end(self, how: Any) -> None:
        self.unwatch_all()
        if self._id >= 0 and self.pump.stack is not None:
            self._remember()
            if how(self.pump.stack, self._id) != 0:
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
        lib.ams_tcp_setopt(self.pump.stack, self._id, lib.AMS_OPT_NODELAY, 1)  # as asyncio does
        lib.ams_tcp_set_reading(self.pump.stack, self._id, lib.AMS_READ_PAUSED)
        number, self._id = self._id, -1
        self.transport = transport = Transport(self.pump, number, context, protocol, server, self._v6)
        if self._held:
            transport._held = self._held
        transport._held_eof = self._eof
        transport._open_connected(waiter)
        if self._error is not None:
            transport._fatal_error(self._error, "Fatal read error on socket transport")
        return transport

    # ---- as a socket --------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Has the engine tell of what arrives."""
        if not self._reading and self._id >= 0:
            self._reading = True
            lib.ams_tcp_set_reading(self.pump.stack, self._id, lib.AMS_READ_EVENT)
            self.pump.kick()

    def _leave_unread(self) -> None:
        """What nobody reads must not keep the news of a reset from who waits to write: the engine tells it then."""
        if self._id >= 0:
            self._reading = False
            lib.ams_tcp_set_reading(self.pump.stack, self._id, lib.AMS_READ_PAUSED)
            self.pump.kick()

    def _unread(self) -> int:
        """Bytes that recv() would find in the engine at once."""
        length = ffi.new("size_t *")
        lib.ams_tcp_peek(self.pump.stack, self._id, length)
        return int(length[0])

    def readable(self) -> bool:
        """True if recv() has something to return or to raise."""
        if self._held or self._eof or self._error is not None or self._id < 0 or self._unread():
            return True
        self._read()
        return False

    def writable(self) -> bool:
        """True if send() takes something, or raises."""
        if self._error is not None or self._id < 0:
            return True
        if not self._connected:
            return False
        if lib.ams_tcp_excess(self.pump.stack, self._id) <= 0:
            self._blocked = False
            return True
        lib.ams_tcp_want_drain(self.pump.stack, self._id, 0)
        self._blocked = True
        if self._reading and self._unread():
            self._leave_unread()
            self._wake()  # who waits to read has something to read
        return False

    def recv(self, size: int, peek: bool = False) -> bytes:
        """Up to size bytes; b"" at the end of the stream."""
        self._read()
        held = b"".join(self._held) if self._held else b""
        if len(held) < size and self._id >= 0:
            count = lib.ams_tcp_recv(self.pump.stack, self._id, self.pump.scratch, min(size - len(held), SCRATCH))
            if count > 0:
                self.pump.touch()
                held += self.pump.scratch_view[:count]
        if held:
            self._held.clear()
            if peek or len(held) > size:
                self._held.append(held if peek else held[size:])
            return held[:size]
        if size == 0 or self._eof:
            return b""
        if self._error is not None:
            self._raise_error()
            return b""
        if self._id < 0:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        raise would_block()

    def recvfrom(self, size: int, peek: bool = False) -> tuple[bytes, None]:
        """As recv(); a stream's data has no address of its own."""
        return self.recv(size, peek), None

    def send(self, data: Any) -> int:
        """Takes what there is room for; returns how many bytes that were."""
        if self._error is not None:
            self._raise_error()
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not self.writable():
            raise would_block()
        if self._id < 0:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        raw = bytes(memoryview(data).cast("B")[:SEND_MAX])
        check_status(lib.ams_tcp_send(self.pump.stack, self._id, raw, len(raw)))
        self.pump.touch()
        return len(raw)

    def sendto(self, data: Any, address: Any) -> int:
        """As send(): a connection has one peer only."""
        return self.send(data)

    def _raise_error(self) -> None:
        """Raises what ended the connection, once; the end of the stream is all that is left then."""
        if self._error is not None and not self._told:
            self._told = self._eof = True
            raise self._error

    def take_error(self) -> int:
        """SO_ERROR: the errno of what ended the connection, once."""
        try:
            self._raise_error()
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def shutdown(self, how: int) -> None:
        """`socket.shutdown()`."""
        if self._id < 0 or not self._connected:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if how != socket.SHUT_RD:
            check_status(lib.ams_tcp_shutdown(self.pump.stack, self._id))
            self.pump.touch()
        if how != socket.SHUT_WR:
            self._eof = True
            self._wake()


def would_block() -> BlockingIOError:
    """What a non-blocking socket raises when it isn't ready."""
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _failed(error: OSError, remote: SockAddr) -> OSError:
    """The error of a connect, worded as asyncio words it."""
    return OSError(error.errno, f"Connect call failed {remote}")
