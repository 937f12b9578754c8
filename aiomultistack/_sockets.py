"""The part of the loop that takes socket objects: `sock_*`, `add_reader`, `sendfile`, accepted sockets.

Each method asks whether the socket is a shadow (see `_shadow`), or becomes one because its address is the stack's.
If so, the method does what asyncio's does, by the socket's own non-blocking methods and its endpoint's readiness.
If not, the loop underneath does it; what uvloop lacks of asyncio's methods (`sock_recvfrom`, `sock_recvfrom_into`,
`sock_sendto`, `sock_sendfile`, `sendfile`) is made here of `add_reader` and `add_writer`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr, end_listening, is_listening, is_wildcard, numeric
from ._conduit import Conduit
from ._connect import TLSOptions, check_timeouts, open_transport
from ._endpoints import Acceptor, Datagrams, bind_flags
from ._readiness import READ, WRITE, Readiness
from ._sendfile import check_file, send_blocks, sendfile
from ._shadow import Endpoint, bound_address, endpoint_at, endpoint_of, hand_over, is_bound_here, make_shadow, shadow
from ._socket import TCP_FASTOPEN_CONNECT
from ._tls import is_ours

if TYPE_CHECKING:
    from ._pump import Pump

__all__ = ["SocketMethods"]

_INET = (socket.AF_INET, socket.AF_INET6)
_ANY: dict[int, SockAddr] = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0, 0, 0)}
_BACKLOG = 128  # a kernel socket doesn't say what it was asked for


class SocketMethods(asyncio.AbstractEventLoop):
    """Methods of the loop that take sockets."""

    #: True if the loop underneath lacks the methods that uvloop lacks.
    _base_lacks_methods = False

    _pumps: list[Pump]

    # Of `Loop`:
    def _pump_to(
        self, remote: tuple[Any, ...], local: tuple[Any, ...] | None = None, kind: int = socket.SOCK_STREAM
    ) -> Pump | None:
        raise NotImplementedError

    async def _addresses_learnt(self, remotes: Iterable[tuple[Any, ...]]) -> None:
        raise NotImplementedError

    def _pumps_at(self, address: tuple[Any, ...]) -> list[Pump]:
        raise NotImplementedError

    def _listens_on_host(self, address: tuple[Any, ...]) -> bool:
        raise NotImplementedError

    async def _resolve(self, address: tuple[Any, ...], kind: int, family: int, proto: int, flags: int) -> list[Any]:
        raise NotImplementedError

    # ---- whose socket is it -------------------------------------------------------------------------------

    def _check_socket(self, sock: Any) -> None:
        """Raises what asyncio raises for sockets that it cannot use."""
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    def _endpoint(self, sock: Any) -> Endpoint | None:
        """The endpoint that serves a socket, None if it is the kernel's."""
        endpoint = endpoint_of(sock)
        if endpoint is not None and endpoint.pump.loop is not self:
            raise RuntimeError(f"{sock!r} belongs to another event loop")
        return endpoint

    def _datagrams(
        self, sock: socket.socket, remote: SockAddr | None = None, *, handed_over: bool = False
    ) -> Endpoint | None:
        """The endpoint of a UDP socket, made if its address (or the one it sends to) is the stack's.

        handed_over: the loop is to own the socket from here on, so that a wildcard was meant.
        """
        endpoint = self._endpoint(sock)
        if endpoint is not None or sock.type != socket.SOCK_DGRAM or sock.family not in _INET:
            return endpoint
        local = bound_address(sock)
        if local is not None and is_wildcard(local[0]) and not handed_over and not is_bound_here(sock):
            return None  # the kernel has chosen the port when the socket first sent: it is the kernel's
        if local is not None:
            pump = next(iter(self._pumps_at(local)), None)
        else:
            pump = None if remote is None else self._pump_to(remote, None, sock.type)
        if pump is None or _has_peer(sock):
            return None
        if local is not None:
            pump.node.show(sock)
        datagrams = Datagrams(pump, local or _ANY[sock.family], None, bind_flags(sock))
        make_shadow(sock, datagrams)
        return datagrams

    def _acceptor(self, sock: socket.socket, backlog: int = _BACKLOG, *, accepting: bool = False) -> Endpoint | None:
        """The endpoint of a listening TCP socket, made if its address is the stack's.

        accepting: the program wants to accept. Another process may have made a socket that both have a shadow before,
        so that the kernel doesn't listen on it any more.
        """
        endpoint = self._endpoint(sock)
        if endpoint is not None or sock.type != socket.SOCK_STREAM or sock.family not in _INET:
            return endpoint
        local = bound_address(sock)
        pump = None if local is None else next(iter(self._pumps_at(local)), None)
        if pump is None or local is None or not (is_listening(sock) or (accepting and pump.node.shared)):
            return None
        pump.node.show(sock)
        acceptor = Acceptor(pump, local, backlog, bind_flags(sock))
        try:
            if not self._listens_on_host(local):
                end_listening(sock)
        except BaseException:
            acceptor.close()
            raise
        make_shadow(sock, acceptor)
        return acceptor

    async def _between_batches(self) -> None:
        for pump in self._pumps:
            if pump._dispatching:
                await pump.between_batches()

    # ---- receiving ----------------------------------------------------------------------------------------

    async def _receive(self, sock: Any, endpoint: Readiness | None, method: Callable[[], Any]) -> Any:
        """Calls a method of a socket until it doesn't block; endpoint None: a kernel socket's."""
        while True:
            try:
                return method()
            except (BlockingIOError, InterruptedError):
                if endpoint is None:
                    await self._ready(sock, READ)
                else:
                    await endpoint.wait()

    async def _ready(self, sock: socket.socket, way: int) -> None:
        """Waits for a kernel socket."""
        waiter = self.create_future()
        add, remove = (
            (super().add_reader, super().remove_reader) if way == READ else (super().add_writer, super().remove_writer)
        )
        add(sock.fileno(), _settle, waiter)
        try:
            await waiter
        finally:
            if sock.fileno() >= 0:
                remove(sock.fileno())

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """`loop.sock_recv()`."""
        endpoint = self._datagrams(sock) if sock.type == socket.SOCK_DGRAM else self._endpoint(sock)
        if endpoint is None:
            return await super().sock_recv(sock, nbytes)
        self._check_socket(sock)
        return await self._receive(sock, endpoint, lambda: endpoint.recv(nbytes))  # type: ignore[no-any-return]

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """`loop.sock_recv_into()`."""
        endpoint = self._datagrams(sock) if sock.type == socket.SOCK_DGRAM else self._endpoint(sock)
        if endpoint is None:
            return await super().sock_recv_into(sock, buf)
        self._check_socket(sock)
        return await self._receive(sock, endpoint, lambda: sock.recv_into(buf))  # type: ignore[no-any-return]

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """`loop.sock_recvfrom()`."""
        endpoint = await self._datagrams_of(sock)
        if endpoint is None and not self._base_lacks_methods:
            base: Any = super()
            return await base.sock_recvfrom(sock, bufsize)  # type: ignore[no-any-return]
        self._check_socket(sock)
        return await self._receive(sock, endpoint, lambda: sock.recvfrom(bufsize))  # type: ignore[no-any-return]

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """`loop.sock_recvfrom_into()`."""
        endpoint = await self._datagrams_of(sock)
        if endpoint is None and not self._base_lacks_methods:
            base: Any = super()
            return await base.sock_recvfrom_into(sock, buf, nbytes)  # type: ignore[no-any-return]
        self._check_socket(sock)
        size = nbytes or len(buf)
        return await self._receive(sock, endpoint, lambda: sock.recvfrom_into(buf, size))  # type: ignore[no-any-return]

    async def _datagrams_of(
        self, sock: socket.socket, remote: SockAddr | None = None, *, handed_over: bool = False
    ) -> Endpoint | None:
        await self._between_batches()
        return self._datagrams(sock, remote, handed_over=handed_over)

    # ---- sending ------------------------------------------------------------------------------------------

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """`loop.sock_sendall()`."""
        endpoint = self._endpoint(sock)
        if endpoint is None:
            await super().sock_sendall(sock, data)
            return
        self._check_socket(sock)
        view = memoryview(data).cast("B")
        while True:
            try:
                view = view[endpoint.send(view) :]
            except (BlockingIOError, InterruptedError):
                await endpoint.wait()
            if not view:
                return

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """`loop.sock_sendto()`; an unbound socket becomes the stack's if what it sends to is the stack's."""
        remote = _numeric_address(sock, address)
        endpoint = await self._datagrams_of(sock, remote)
        if endpoint is None:
            if not self._base_lacks_methods:
                base: Any = super()
                return await base.sock_sendto(sock, data, address)  # type: ignore[no-any-return]
            self._check_socket(sock)
            while True:
                try:
                    return sock.sendto(data, address)
                except (BlockingIOError, InterruptedError):
                    await self._ready(sock, WRITE)
        self._check_socket(sock)
        if remote is None:
            rows = await self._resolve(address[:2], sock.type, sock.family, sock.proto, 0)
            remote = rows[0][4]
        while True:
            try:
                return endpoint.sendto(data, remote)
            except (BlockingIOError, InterruptedError):
                await endpoint.wait()

    async def sock_sendfile(
        self, sock: socket.socket, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> int:
        """`loop.sock_sendfile()`; for a socket of the user-space stack there is the fallback only."""
        endpoint = self._endpoint(sock)
        if endpoint is None and not self._base_lacks_methods:
            return await super().sock_sendfile(sock, file, offset, count, fallback=fallback)
        self._check_socket(sock)
        if sock.type != socket.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        check_file(file, offset, count)
        if endpoint is None:
            sent = await self._kernel_sendfile(sock, file, offset, count)
            if sent is not None:
                return sent
        if not fallback:
            raise asyncio.SendfileNotAvailableError(f"the kernel's sendfile is not available for {sock!r} and {file!r}")
        return await send_blocks(self, file, offset, count, lambda data: self.sock_sendall(sock, data))

    async def _kernel_sendfile(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int | None:
        """sendfile(2) from a file to a kernel socket; None if the two don't go together."""
        try:
            source = file.fileno()
            size = os.fstat(source).st_size
        except (AttributeError, OSError, ValueError):
            return None
        end = size if count is None else min(size, offset + count)
        position = offset
        try:
            while position < end:
                try:
                    sent = os.sendfile(sock.fileno(), source, position, min(end - position, 1 << 30))
                except (BlockingIOError, InterruptedError):
                    await self._ready(sock, WRITE)
                    continue
                except OSError as error:
                    if position == offset and error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK):
                        return None
                    raise
                if not sent:
                    break
                position += sent
        finally:
            if position > offset and hasattr(file, "seek"):
                file.seek(position)
        return position - offset

    async def sendfile(
        self, transport: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool = True
    ) -> int:
        """`loop.sendfile()`."""
        if is_ours(transport) or self._base_lacks_methods:
            return await sendfile(self, transport, file, offset, count, fallback)
        return await super().sendfile(transport, file, offset, count, fallback=fallback)

    # ---- connections --------------------------------------------------------------------------------------

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """`loop.sock_connect()`: on the user-space stack if that routes the address."""
        if sock.type in (socket.SOCK_STREAM, socket.SOCK_DGRAM) and sock.family in _INET:
            remote = _numeric_address(sock, address)
            if remote is None:
                self._check_socket(sock)
                remote = (await self._resolve(address[:2], sock.type, sock.family, sock.proto, 0))[0][4]
            await self._addresses_learnt([remote])
            await self._between_batches()
            endpoint = self._endpoint(sock)
            pump = self._pump_to(remote, bound_address(sock), sock.type) if endpoint is None else endpoint.pump
            if pump is not None:
                self._check_socket(sock)
                await self._stack_connect(sock, pump, endpoint, remote)
                return
        await super().sock_connect(sock, address)

    async def _base_sock_connect(self, sock: socket.socket, address: Any) -> None:
        await super().sock_connect(sock, address)

    async def _stack_connect(
        self, sock: socket.socket, pump: Pump, endpoint: Endpoint | None, remote: SockAddr
    ) -> None:
        """Connects a socket on the user-space stack."""
        if isinstance(endpoint, Datagrams):
            endpoint.connect(remote)
        elif sock.type == socket.SOCK_DGRAM:
            make_shadow(sock, Datagrams(pump, bound_address(sock), remote, bind_flags(sock)))
        elif endpoint is not None and endpoint.usable:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        else:
            try:
                conduit = await Conduit.open(pump, remote, bound_address(sock))
            except OSError as error:
                raise OSError(error.errno, f"Connect call failed {remote}") from None
            make_shadow(sock, conduit)
            if not conduit.defers():
                await conduit.established(remote)

    def _fastopen_shadow(self, sock: socket.socket, data: Any, address: Any) -> int | None:
        """`socket.sendto()` of a shadow with MSG_FASTOPEN: as `_connect_shadow()`, but returns how many bytes it took.

        Without a cookie of the server's there is nothing to send them with: BlockingIOError (EINPROGRESS), as Linux.
        """
        number = self._connect_shadow(sock, address, fastopen=True)
        if number is None:
            return None
        if number:
            raise OSError(number, os.strerror(number))
        endpoint = self._endpoint(sock)
        assert endpoint is not None
        return endpoint.send(data)

    def _connect_shadow(self, sock: socket.socket, address: Any, fastopen: bool = False) -> int | None:
        """`socket.connect_ex()` of a shadow, called while the loop runs; None if the address is the kernel's."""
        remote = _numeric_address(sock, address)
        if remote is None:
            return None
        endpoint = self._endpoint(sock)
        pump = self._pump_to(remote, bound_address(sock), sock.type) if endpoint is None else endpoint.pump
        if pump is None:
            return None
        if isinstance(endpoint, Conduit):
            return endpoint.progress()
        if pump._dispatching:
            return errno.EAGAIN
        try:
            if isinstance(endpoint, Datagrams):
                endpoint.connect(remote)
            elif sock.type == socket.SOCK_DGRAM:
                make_shadow(sock, Datagrams(pump, bound_address(sock), remote, bind_flags(sock)))
            else:
                conduit = Conduit.begin(pump, remote, bound_address(sock))
                make_shadow(sock, conduit)
                if fastopen:
                    conduit.socket.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
                return 0 if conduit.defers() else errno.EINPROGRESS
        except OSError as error:
            return error.errno
        return 0

    def _adopt_listener(self, sock: socket.socket, backlog: int = _BACKLOG) -> None:
        """`socket.listen()` of a shadow, called while the loop runs."""
        if not any(pump._dispatching for pump in self._pumps):
            self._acceptor(sock, backlog)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """`loop.sock_accept()`."""
        await self._between_batches()
        acceptor = self._acceptor(sock, accepting=True)
        if acceptor is None:
            return await super().sock_accept(sock)
        self._check_socket(sock)
        if not isinstance(acceptor, Acceptor):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        also = self._listens_on_host(acceptor.addresses()[0] or ("", 0))
        if also:
            super().add_reader(sock.fileno(), acceptor._wake)
        try:
            while True:
                try:
                    conduit = acceptor.accept()
                    return shadow(conduit, sock.family), conduit.addresses()[1]
                except BlockingIOError:
                    pass
                if also:
                    try:
                        made, address = socket.socket.accept(sock)
                        made.setblocking(False)
                        return made, address
                    except (BlockingIOError, InterruptedError):
                        pass
                await acceptor.wait()
        finally:
            if also and sock.fileno() >= 0:
                super().remove_reader(sock.fileno())

    async def connect_accepted_socket(  # type: ignore[override]  # one signature for all versions of Python
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        ssl: ssl.SSLContext | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """`loop.connect_accepted_socket()`."""
        tls = TLSOptions(ssl, None, ssl_handshake_timeout, ssl_shutdown_timeout)
        conduit = self._endpoint(sock)
        if not isinstance(conduit, Conduit):
            base: Any = super().connect_accepted_socket
            return await base(protocol_factory, sock, **tls.arguments())  # type: ignore[no-any-return]
        check_timeouts(tls)
        hand_over(sock)
        return await open_transport(self, conduit, protocol_factory, tls, server_side=True)

    # ---- readiness ----------------------------------------------------------------------------------------

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """`loop.add_reader()`."""
        endpoint = self._watchable(fd)
        if endpoint is None:
            return super().add_reader(fd, callback, *args)
        endpoint.watch(READ, callback, args)
        return None

    def remove_reader(self, fd: Any) -> bool:
        """`loop.remove_reader()`."""
        endpoint = endpoint_at(fd)
        return super().remove_reader(fd) if endpoint is None else endpoint.unwatch(READ)

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """`loop.add_writer()`."""
        endpoint = self._watchable(fd)
        if endpoint is None:
            return super().add_writer(fd, callback, *args)
        endpoint.watch(WRITE, callback, args)
        return None

    def remove_writer(self, fd: Any) -> bool:
        """`loop.remove_writer()`."""
        endpoint = endpoint_at(fd)
        return super().remove_writer(fd) if endpoint is None else endpoint.unwatch(WRITE)

    def _watchable(self, fileobj: Any) -> Endpoint | None:
        """The endpoint of what add_reader() was given; a bound socket becomes the stack's here too."""
        endpoint = endpoint_at(fileobj)
        if endpoint is None and isinstance(fileobj, socket.socket) and not any(p._dispatching for p in self._pumps):
            endpoint = self._acceptor(fileobj) if fileobj.type == socket.SOCK_STREAM else self._datagrams(fileobj)
        if endpoint is not None and endpoint.pump.loop is not self:
            raise RuntimeError(f"{fileobj!r} belongs to another event loop")
        return endpoint


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _has_peer(sock: socket.socket) -> bool:
    """True if the kernel has connected a socket."""
    try:
        socket.socket.getpeername(sock)
    except OSError:
        return False
    return True


def _numeric_address(sock: socket.socket, address: Any) -> SockAddr | None:
    """An address that needs no resolver, as the stack wants it; None for any other."""
    if sock.family not in _INET or not isinstance(address, tuple) or len(address) < 2:
        return None
    found = numeric(address[0], address[1], sock.family)
    if found is None:
        return None
    if len(address) > 3 and address[3]:
        return (str(address[0]), found[1][1], 0, int(address[3]))
    return found[1]
