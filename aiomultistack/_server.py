"""Listeners of the user-space stack, and `asyncio.Server` over them.

One `Server` may listen on several addresses of the stack and, where a list of hosts or ``host_stack="also"`` asks
for it, on the system's stack too: the base loop's own server is then one of its parts.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import os
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _tls
from ._addresses import SockAddr
from ._conduit import Conduit
from ._endpoints import Acceptor, bind_flags
from ._node import STATUS, check_status, endpoint, ffi, lib, sockaddr
from ._pump import NOBODY, Pump
from ._socket import StackSocket
from ._transport import Transport

if TYPE_CHECKING:
    import ssl

__all__ = ["Listener", "Server", "ServerOptions"]

_WAIT_FOR_CLIENTS = sys.version_info >= (3, 12)  # what Server.wait_closed() means
_SKIPPED = (STATUS["EADDRNOTAVAIL"], STATUS["EAFNOSUPPORT"])


@dataclass(frozen=True)
class ServerOptions:
    """What `create_server` was asked for, as far as listeners need it."""

    factory: Callable[[], asyncio.BaseProtocol]
    backlog: int = 100
    tls: ssl.SSLContext | None = None
    handshake_timeout: float | None = None
    shutdown_timeout: float | None = None
    reuse_address: bool = True
    keep_alive: bool = False
    reuse_port: bool = False
    #: The IPv6 wildcard takes IPv4 too.
    dual: bool = False

    def of_socket(self, sock: socket.socket) -> ServerOptions:
        """The same for a listening socket that the program has made and bound itself."""
        flags = bind_flags(sock)
        return dataclasses.replace(
            self,
            reuse_port=bool(flags & lib.AMS_LISTEN_REUSEPORT),
            dual=sock.family == socket.AF_INET6 and not flags & lib.AMS_LISTEN_V6ONLY,
        )


class Listener:
    """A listening endpoint: makes transports of what the engine accepts."""

    __slots__ = (
        "_backlog", "_context", "_dual", "_flags", "_id", "_pump", "_server", "_v6", "_waiting", "kernel_socket",
        "serving", "sockname",
    )  # fmt: skip

    def __init__(
        self, pump: Pump, address: SockAddr, server: Server, options: ServerOptions, acceptor: Acceptor | None = None
    ) -> None:
        self._v6 = ":" in address[0]
        self._dual = options.dual and address[0] == "::"
        self._flags = (
            (lib.AMS_LISTEN_V6ONLY if self._v6 and not self._dual else 0)
            | (lib.AMS_LISTEN_REUSEADDR if options.reuse_address else 0)
            | (lib.AMS_LISTEN_REUSEPORT if options.reuse_port else 0)
        )
        backlog = max(options.backlog, pump.node.config.backlog)
        self._waiting: list[Conduit] = []
        if acceptor is None:
            self._id = check_status(lib.ams_tcp_listen(pump.stack, endpoint(address), backlog, self._flags))
        else:
            self._id, waiting = acceptor.release()
            self._waiting.extend(waiting)
        self._pump = pump
        self._server = server
        self._context = contextvars.copy_context()
        self._backlog = backlog
        self.serving = False
        self.kernel_socket: socket.socket | None = None
        pump.attach(self._id, self)
        lib.ams_tcp_setopt(pump.stack, self._id, lib.AMS_OPT_NODELAY, 1)  # as asyncio does, for each connection
        if options.keep_alive:
            lib.ams_tcp_setopt(pump.stack, self._id, lib.AMS_OPT_KEEPALIVE, 1)
        name = ffi.new("struct ams_endpoint *")
        check_status(lib.ams_tcp_local(pump.stack, self._id, name))
        self.sockname: SockAddr | None = sockaddr(name, self._v6)
        pump.serve(socket.SOCK_STREAM, self.sockname, 1, self._dual)

    @property
    def socket(self) -> StackSocket:
        """What `Server.sockets` shows."""
        return StackSocket(
            self._pump.node, lambda: self._id, lambda: self.sockname, lambda: None, listener=True, flags=self._flags
        )

    # ---- events -------------------------------------------------------------------------------------------

    def _accept(self, number: int) -> None:
        """A new connection; called within the batch, before its data is delivered."""
        server = self._server
        if not self.serving:
            self._hold(number)
            return
        context = self._context.copy()
        try:
            protocol = context.run(server._make_protocol)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._failed(number, exc)
            return
        transport = Transport(self._pump, number, context, protocol, server, self._v6)
        server._clients.add(transport)
        transport._open_accepted()

    def _hold(self, number: int) -> None:
        """Not serving yet: the connection waits, as in a backlog."""
        conduit = Conduit(self._pump, number, connected=True, v6=self._v6)
        self._waiting = [waiting for waiting in self._waiting if waiting.usable]
        if len(self._waiting) < self._backlog:
            self._waiting.append(conduit)
        else:
            conduit.abort()

    def _failed(self, number: int, exc: BaseException) -> None:
        lib.ams_tcp_close(self._pump.stack, number)
        self._pump.touch()
        self._report(exc)

    def _report(self, exc: BaseException) -> None:
        self._pump.loop.call_exception_handler(
            {"message": "Error on transport creation for incoming connection", "exception": exc}
        )

    def start(self) -> None:
        """Serves connections from here on, beginning with those that wait."""
        self.serving = True
        waiting, self._waiting = self._waiting, []
        for conduit in waiting:
            if conduit.usable:
                self._start_one(conduit)

    def _start_one(self, conduit: Conduit) -> None:
        """A connection that has waited; one whose protocol can't be made doesn't keep the others from theirs."""
        context = self._context.copy()
        try:
            protocol = context.run(self._server._make_protocol)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            conduit.close()
            self._report(exc)
            return
        self._server._clients.add(conduit.adopt(protocol, context, self._server))

    def _run(self, callback: Any, *args: Any) -> None:
        pass

    def _on_data(self, data: bytes) -> None:
        pass

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        pass

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self.close()

    def _detach(self) -> None:
        self._id = -1
        self._close_kernel_socket()

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stops listening; idempotent."""
        number, self._id = self._id, -1
        for conduit in self._waiting:
            conduit.abort()
        self._waiting.clear()
        self._close_kernel_socket()
        if number >= 0 and self._pump.stack is not None:
            self._pump.endpoints[number] = NOBODY
            lib.ams_tcp_close(self._pump.stack, number)
            self._pump.serve(socket.SOCK_STREAM, self.sockname, -1, self._dual)
            self._pump.touch()

    def _close_kernel_socket(self) -> None:
        if self.kernel_socket is not None:
            self.kernel_socket.close()
            self.kernel_socket = None


class Server(asyncio.AbstractServer):
    """What `loop.create_server()` returns; works as `asyncio.Server` does in the running version of Python."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ServerOptions) -> None:
        self._loop = loop
        self._options = options
        self._listeners: list[Listener] | None = []
        self._parts: list[asyncio.Server] = []
        self._clients: set[Transport] = set()
        self._attached = 0
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving = False
        self._forever: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # ---- making -------------------------------------------------------------------------------------------

    def _listen(self, pump: Pump, address: SockAddr, acceptor: Acceptor | None = None) -> bool:
        """Adds a listener, or takes one over; False if the stack has no address of that family."""
        assert self._listeners is not None
        if acceptor is not None and acceptor.pump is not pump:
            acceptor = None
        try:
            self._listeners.append(Listener(pump, address, self, self._options, acceptor))
        except OSError as error:
            if error.errno in [lib.ams_status_errno(status) for status in _SKIPPED]:
                return False
            reason = os.strerror(error.errno or 0).lower()
            text = f"error while attempting to bind on address {address!r}: {reason}"
            raise OSError(error.errno, text) from None
        return True

    def _make_protocol(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection, with TLS below it if the server has that."""
        options = self._options
        protocol = options.factory()
        if options.tls is None:
            return protocol
        made: asyncio.BaseProtocol = _tls.make_protocol(
            self._loop,
            protocol,
            options.tls,
            None,
            server_side=True,
            handshake_timeout=options.handshake_timeout,
            shutdown_timeout=options.shutdown_timeout,
        )
        return made

    def _start(self) -> None:
        if self._serving or self._listeners is None:
            return
        self._serving = True
        for listener in self._listeners:
            listener.start()

    def _attach(self, transport: Any = None) -> None:
        """As in asyncio.Server, for transports of others: wait_closed() waits for them too."""
        self._attached += 1

    def _detach(self, transport: Any = None) -> None:
        """A connection of this server is lost."""
        if transport in self._clients:
            self._clients.discard(transport)
        elif self._attached:
            self._attached -= 1
        if not self._clients and not self._attached and self._listeners is None:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # ---- asyncio.Server -----------------------------------------------------------------------------------

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the server runs on."""
        return self._loop

    def is_serving(self) -> bool:
        """True while new connections are accepted."""
        return self._serving

    @property
    def sockets(self) -> tuple[Any, ...]:
        """A socket for each address: a `StackSocket`, or the system's if it (too) is listened on there."""
        if self._listeners is None:
            return ()
        others = [item for part in self._parts for item in part.sockets]
        names = {item.getsockname() for item in others}
        return (*(item.socket for item in self._listeners if item.sockname not in names), *others)

    @property
    def _sockets(self) -> list[Any] | None:
        """As in asyncio.Server, for those who look: None once the server is closed."""
        return None if self._listeners is None else list(self.sockets)

    def close(self) -> None:
        """Stops accepting; connections that exist go on."""
        listeners, self._listeners = self._listeners, None
        if listeners is None:
            return
        for listener in listeners:
            listener.close()
        for part in self._parts:
            part.close()
        self._serving = False
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
            self._forever = None
        if not self._clients and not self._attached:
            self._wake()

    def close_clients(self) -> None:
        """Closes every connection of this server."""
        for transport in list(self._clients):
            transport.close()
        for part in self._parts:
            getattr(part, "close_clients", _nothing)()

    def abort_clients(self) -> None:
        """Aborts every connection of this server."""
        for transport in list(self._clients):
            transport.abort()
        for part in self._parts:
            getattr(part, "abort_clients", _nothing)()

    async def start_serving(self) -> None:
        """Starts to accept, if it doesn't yet."""
        self._start()
        for part in self._parts:
            await part.start_serving()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Accepts until cancelled, and closes the server then."""
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._listeners is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._forever = forever = self._loop.create_future()
        try:
            await self.start_serving()
            await forever
        except asyncio.CancelledError:
            try:
                self.close()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    async def wait_closed(self) -> None:
        """Waits as asyncio does: since 3.12 until the server is closed and its connections are gone."""
        for part in self._parts:
            await part.wait_closed()
        if self._waiters is None or (self._listeners is None and not _WAIT_FOR_CLIENTS):
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()
        await self.wait_closed()


def _nothing() -> None:
    """Stands for the methods that servers have since Python 3.13."""


def listen_on(
    server: Server, pumps: Iterable[Pump], address: SockAddr, acceptor: Acceptor | None = None
) -> bool:
    """Listens on an address of one or several nodes; False if none has its family.

    A wildcard with port 0 takes the same port on all nodes.  acceptor: what listens there already.
    """
    port = address[1]
    done = False
    for pump in pumps:
        if server._listen(pump, (address[0], port, *address[2:]), acceptor):
            done = True
            assert server._listeners is not None
            name = server._listeners[-1].sockname
            port = port or (name[1] if name else 0)
    return done
