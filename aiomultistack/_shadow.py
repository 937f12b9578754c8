"""Sockets of the kernel's that the user-space stack serves.

Theory of operation
-------------------
Libraries make kernel sockets themselves, bind or connect them, and pass them to the loop: ``sock_connect``,
``sock_accept``, ``create_server(sock=)``.  When the address is the stack's, the loop opens an endpoint of the stack
and makes the socket its *shadow*: the object's class is changed to a subclass of its own, `ShadowSocket`, whose
methods ask the endpoint (a `Conduit`, `Acceptor` or `Datagrams`).  So whoever holds the object is told the truth:
addresses, options, shutdown, and non-blocking recv and send for those who use `loop.add_reader()`.

The kernel's socket stays open underneath for as long as the object is.  It is what `fileno()` returns, it holds the
port that it was bound to against other programs, and it carries no data.  The kernel doesn't listen on it any more
(`end_listening`), or its own clients would be accepted into a backlog that nobody reads.  Closing the object, or
losing it, closes the endpoint.  Which endpoint belongs to which object is kept beside them, because a change of class
cannot add attributes.  A duplicate shares the endpoint; `detach()` leaves it with the descriptor, known by the
kernel's number of the socket (its inode), until another object for that descriptor comes to the loop.

An endpoint is the event loop's: other threads may close a socket, nothing else.

`aiomultistack.socket()` makes sockets that are shadows from the start, and that may be bound to addresses that the
kernel doesn't have (`IP_FREEBIND`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket as socket_module
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _ip_options, _multicast
from ._addresses import SockAddr
from ._conduit import Conduit
from ._endpoints import Acceptor, Datagrams, kernel_options
from ._socket import TCP_FASTOPEN_CONNECT, StackSocket

if TYPE_CHECKING:
    from ._sockets import SocketMethods

__all__ = [
    "Endpoint", "ShadowSocket", "bound_address", "copy_options", "endpoint_at", "endpoint_of", "free_bind",
    "hand_over", "is_bound_here", "make_shadow", "shadow", "socket",
]  # fmt: skip

Endpoint: TypeAlias = Conduit | Acceptor | Datagrams

_IP_FREEBIND = getattr(socket_module, "IP_FREEBIND", 15)  # linux/in.h
_MSG_FASTOPEN = getattr(socket_module, "MSG_FASTOPEN", 0x20000000 if sys.platform == "linux" else 0)
_FASTOPEN_CONNECT = (socket_module.IPPROTO_TCP, TCP_FASTOPEN_CONNECT)
_BROADCAST = (socket_module.SOL_SOCKET, socket_module.SO_BROADCAST)
#: Options of which the kernel's socket, bound as it is, tells the truth.
_KERNEL_OPTIONS = {
    (socket_module.SOL_SOCKET, socket_module.SO_REUSEADDR),
    (socket_module.SOL_SOCKET, getattr(socket_module, "SO_REUSEPORT", 15)),
    (socket_module.IPPROTO_IPV6, socket_module.IPV6_V6ONLY),
}
_SO_BUF_LOCK = 72  # asm-generic/socket.h, Linux 5.14: 1 SO_SNDBUF, 2 SO_RCVBUF has been set

#: The endpoint of each shadow, what happens when it is closed or lost, and how many shadows an endpoint has.
_endpoints: weakref.WeakKeyDictionary[Any, Endpoint] = weakref.WeakKeyDictionary()
_endings: weakref.WeakKeyDictionary[Any, weakref.finalize[Any, Any]] = weakref.WeakKeyDictionary()
_users: weakref.WeakKeyDictionary[Endpoint, int] = weakref.WeakKeyDictionary()
#: Those that the program wants opened fast.
_fast: weakref.WeakSet[Any] = weakref.WeakSet()
#: Those that the program has bound itself.
_bound: weakref.WeakSet[Any] = weakref.WeakSet()
#: The shadow of each descriptor, and endpoints whose descriptor has lost its object, by inode.
_by_fd: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_detached: dict[int, Endpoint] = {}


class _Shadow:
    """The methods of a shadow; a mixin, so that it fits over subclasses of `socket.socket` too."""

    __slots__ = ()

    # ---- addresses ----------------------------------------------------------------------------------------

    def getsockname(self: Any) -> Any:
        """The local address."""
        endpoint = _endpoints.get(self)
        return super().getsockname() if endpoint is None else endpoint.socket.getsockname()  # type: ignore[misc]

    def getpeername(self: Any) -> Any:
        """The remote address."""
        endpoint = _endpoints.get(self)
        return super().getpeername() if endpoint is None else endpoint.socket.getpeername()  # type: ignore[misc]

    def bind(self: Any, address: Any) -> None:
        """Binds the socket, to addresses of the user-space stack too."""
        super().bind(address)  # type: ignore[misc]
        _bound.add(self)

    def listen(self: Any, *backlog: int) -> None:
        """Listens; on the user-space stack at once if its loop runs, else when the loop is first asked."""
        if isinstance(_endpoints.get(self), Acceptor):
            return  # it does already, and the kernel must not
        super().listen(*backlog)  # type: ignore[misc]
        loop = _running_loop()
        if loop is not None:
            loop._adopt_listener(self, *backlog)

    def accept(self: Any) -> tuple[Any, Any]:
        """The next connection and its peer's address; BlockingIOError if there is none."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().accept()  # type: ignore[misc,no-any-return]
        if not isinstance(endpoint, Acceptor):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        conduit = endpoint.accept()
        return shadow(conduit, self.family), conduit.addresses()[1]

    def connect(self: Any, address: Any) -> None:
        """Connects; a TCP connection takes time: BlockingIOError (EINPROGRESS), it is open when it is writable."""
        number = self.connect_ex(address)
        if number:
            raise OSError(number, os.strerror(number))

    def connect_ex(self: Any, address: Any) -> int:
        """As connect(), but returns the errno."""
        loop = _running_loop()
        if loop is None:
            return super().connect_ex(address)  # type: ignore[misc,no-any-return]
        number = loop._connect_shadow(self, address)
        return super().connect_ex(address) if number is None else number  # type: ignore[misc]

    # ---- data ---------------------------------------------------------------------------------------------

    def recv(self: Any, bufsize: int, flags: int = 0) -> bytes:
        """Receives; BlockingIOError if there is nothing."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().recv(bufsize, flags)  # type: ignore[misc,no-any-return]
        return endpoint.recv(bufsize, bool(flags & socket_module.MSG_PEEK))

    def recvfrom(self: Any, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """Receives, with the sender's address."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().recvfrom(bufsize, flags)  # type: ignore[misc,no-any-return]
        return endpoint.recvfrom(bufsize, bool(flags & socket_module.MSG_PEEK))

    def recv_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receives into a buffer; the number of bytes."""
        return self.recvfrom_into(buffer, nbytes, flags)[0]  # type: ignore[no-any-return]

    def recvfrom_into(self: Any, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        """Receives into a buffer, with the sender's address."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().recvfrom_into(buffer, nbytes, flags)  # type: ignore[misc,no-any-return]
        with memoryview(buffer).cast("B") as view:
            data, address = endpoint.recvfrom(nbytes or len(view), bool(flags & socket_module.MSG_PEEK))
            view[: len(data)] = data
        return len(data), address

    def send(self: Any, data: Any, flags: int = 0) -> int:
        """Sends what there is room for; BlockingIOError if there is none."""
        endpoint = _endpoints.get(self)
        return super().send(data, flags) if endpoint is None else endpoint.send(data)  # type: ignore[misc]

    def sendall(self: Any, data: Any, flags: int = 0) -> None:
        """Sends everything, or raises BlockingIOError in the middle of it, as non-blocking sockets do."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            super().sendall(data, flags)  # type: ignore[misc]
            return
        view = memoryview(data).cast("B")
        while view:
            view = view[endpoint.send(view) :]

    def sendto(self: Any, data: Any, *arguments: Any) -> int:
        """Sends a datagram; with MSG_FASTOPEN it opens a connection whose SYN carries the data."""
        endpoint = _endpoints.get(self)
        if endpoint is None and len(arguments) == 2 and arguments[0] & _MSG_FASTOPEN:
            loop = _running_loop()
            sent = None if loop is None else loop._fastopen_shadow(self, data, arguments[1])
            if sent is not None:
                return sent
        if endpoint is None:
            return super().sendto(data, *arguments)  # type: ignore[misc,no-any-return]
        return endpoint.sendto(data, arguments[-1])

    def sendmsg(self: Any, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        """Sends several buffers as one; ancillary data gives a datagram its own traffic class and hop limit."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().sendmsg(buffers, ancdata, flags, address)  # type: ignore[misc,no-any-return]
        data = b"".join(bytes(buffer) for buffer in buffers)
        if isinstance(endpoint, Datagrams):
            ancillary = list(ancdata)
            return endpoint.send(data, ancillary) if address is None else endpoint.sendto(data, address, ancillary)
        return endpoint.send(data) if address is None else endpoint.sendto(data, address)

    def recvmsg(self: Any, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        """Receives; the ancillary data is a datagram's traffic class and hop limit, if they were asked for."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().recvmsg(bufsize, ancbufsize, flags)  # type: ignore[misc,no-any-return]
        peek = bool(flags & socket_module.MSG_PEEK)
        if not isinstance(endpoint, Datagrams):
            return endpoint.recv(bufsize, peek), [], 0, None
        data, messages, address = endpoint.recvmsg(bufsize, peek)
        kept: list[tuple[int, int, bytes]] = []
        room = ancbufsize
        for message in messages:
            if room < socket_module.CMSG_LEN(len(message[2])):
                return data, kept, socket_module.MSG_CTRUNC, address
            kept.append(message)
            room -= socket_module.CMSG_SPACE(len(message[2]))
        return data, kept, 0, address

    def shutdown(self: Any, how: int) -> None:
        """Ends one direction or both."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            super().shutdown(how)  # type: ignore[misc]
        else:
            endpoint.shutdown(how)

    # ---- options ------------------------------------------------------------------------------------------

    def getsockopt(self: Any, level: int, optname: int, *buflen: int) -> Any:
        """The endpoint's option, or the kernel's socket's if it is none that the stack has."""
        endpoint = _endpoints.get(self)
        if endpoint is None:
            return super().getsockopt(level, optname, *buflen)  # type: ignore[misc]
        if (level, optname) == (socket_module.SOL_SOCKET, socket_module.SO_ERROR):
            return endpoint.take_error()
        if (level, optname) in _KERNEL_OPTIONS:
            return super().getsockopt(level, optname, *buflen)  # type: ignore[misc]
        try:
            return endpoint.socket.getsockopt(level, optname, *buflen)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
        return super().getsockopt(level, optname, *buflen)  # type: ignore[misc]

    def setsockopt(self: Any, level: int, optname: int, *value: Any) -> None:
        """Sets an option of the endpoint, or of the kernel's socket if the stack doesn't have it."""
        endpoint = _endpoints.get(self)
        if isinstance(endpoint, Datagrams) and (level, optname) == _BROADCAST:
            endpoint.broadcast = bool(value[0])
        elif isinstance(endpoint, Datagrams) and (level, optname) in _ip_options.RECEIVED:
            super().setsockopt(level, optname, *value)  # type: ignore[misc]
            endpoint.wanted = _wanted(self)
            return
        elif endpoint is None and (level, optname) == _FASTOPEN_CONNECT:
            (_fast.add if value[0] else _fast.discard)(self)
            with contextlib.suppress(OSError):  # the kernel may not be allowed to; that is its own affair
                super().setsockopt(level, optname, *value)  # type: ignore[misc]
            return
        elif endpoint is not None and (level, optname) not in _KERNEL_OPTIONS:
            try:
                endpoint.socket.setsockopt(level, optname, *value)
                return
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:
                    raise
        super().setsockopt(level, optname, *value)  # type: ignore[misc]

    # ---- the end ------------------------------------------------------------------------------------------

    def _real_close(self: Any, *arguments: Any) -> None:
        _let_go(self)
        super()._real_close(*arguments)  # type: ignore[misc]

    def detach(self: Any) -> int:
        """Gives the descriptor away, and the endpoint with it."""
        endpoint = _endpoints.pop(self, None)
        if endpoint is not None:
            _endings.pop(self).detach()
            _detached[os.fstat(self.fileno()).st_ino] = endpoint
        return super().detach()  # type: ignore[misc,no-any-return]

    def dup(self: Any) -> Any:
        """A duplicate; the endpoint is closed with the last of them."""
        copy = super().dup()  # type: ignore[misc]
        endpoint = _endpoints.get(self)
        if endpoint is not None:
            _bind(copy, endpoint)
        return copy


class ShadowSocket(_Shadow, socket_module.socket):
    """A `socket.socket` that the user-space stack serves."""

    __slots__ = ()


@functools.lru_cache(maxsize=64)
def _shadow_class(kind: type) -> type:
    """The shadow's class of a subclass of `socket.socket`."""
    if kind is socket_module.socket:
        return ShadowSocket
    return type(kind.__name__, (_Shadow, kind), {"__slots__": (), "__module__": kind.__module__})


def socket(
    family: int = socket_module.AF_INET, type: int = socket_module.SOCK_STREAM, proto: int = 0
) -> ShadowSocket:
    """A new socket that may be bound and connected to addresses of the user-space stack.

    To be used with the methods of an event loop of ours, such as `loop.sock_connect()` and
    `loop.create_server(sock=)`, or with `loop.add_reader()`; its own methods never block.  Addresses that are not the
    stack's are the kernel's, as with any socket.  Raises what `socket.socket()` raises.
    """
    made = ShadowSocket(family, type, proto)
    free_bind(made)
    return made


def free_bind(sock: socket_module.socket) -> None:
    """Lets a socket be bound to addresses that the kernel doesn't have, where the system knows how."""
    with contextlib.suppress(OSError):
        socket_module.socket.setsockopt(sock, socket_module.IPPROTO_IP, _IP_FREEBIND, 1)


# ---- which endpoint is whose ------------------------------------------------------------------------------


def endpoint_of(sock: Any) -> Endpoint | None:
    """The endpoint that serves a socket; None if the kernel does."""
    if isinstance(sock, _Shadow):
        found = _endpoints.get(sock)
        if found is not None:
            return found
    if _detached and isinstance(sock, socket_module.socket) and sock.fileno() >= 0:
        found = _detached.pop(os.fstat(sock.fileno()).st_ino, None)
        if found is not None:
            _become(sock)
            _bind(sock, found, 0)
            return found
    return None


def endpoint_at(fileobj: Any) -> Endpoint | None:
    """The endpoint of what `loop.add_reader()` takes: a socket, or the descriptor of one."""
    if not isinstance(fileobj, int):
        return endpoint_of(fileobj)
    sock = _by_fd.get(fileobj) if _by_fd else None
    return _endpoints.get(sock) if sock is not None and sock.fileno() == fileobj else None


def make_shadow(sock: socket_module.socket, endpoint: Endpoint) -> None:
    """Has an endpoint serve a socket from here on; options that were set on the socket are set on the endpoint."""
    if isinstance(endpoint, Datagrams):
        endpoint.broadcast = bool(socket_module.socket.getsockopt(sock, *_BROADCAST))
        endpoint.wanted = _wanted(sock)
    copy_options(sock, endpoint.socket)
    if sock in _fast:
        with contextlib.suppress(OSError):
            endpoint.socket.setsockopt(*_FASTOPEN_CONNECT, 1)
    _become(sock)
    _bind(sock, endpoint)


def shadow(endpoint: Endpoint, family: int) -> ShadowSocket:
    """A new socket object for an endpoint."""
    made = ShadowSocket(family, endpoint.kind)
    made.setblocking(False)
    _bind(made, endpoint)
    return made


def _become(sock: Any) -> None:
    if not isinstance(sock, _Shadow):
        kind: Any = type(sock)
        sock.__class__ = _shadow_class(kind)


def _bind(sock: Any, endpoint: Endpoint, count: int = 1) -> None:
    _endpoints[sock] = endpoint
    _users[endpoint] = _users.get(endpoint, 0) + count
    _endings[sock] = ending = weakref.finalize(sock, _release, endpoint)
    ending.atexit = False
    _by_fd[sock.fileno()] = sock


def _let_go(sock: Any) -> None:
    """A socket object is closed."""
    if _endpoints.pop(sock, None) is not None:
        _endings.pop(sock)()


def hand_over(sock: socket_module.socket) -> None:
    """A transport takes the endpoint over: the descriptor goes, addresses and options can still be asked for."""
    socket_module.socket._real_close(sock)  # type: ignore[attr-defined]


def _release(endpoint: Endpoint) -> None:
    """A socket object is closed or lost: the endpoint goes with the last of them."""
    _users[endpoint] = users = _users.get(endpoint, 1) - 1
    loop = endpoint.pump.loop
    if users > 0 or not endpoint.usable or loop.is_closed():
        return
    if asyncio._get_running_loop() is loop:
        endpoint.close()
    else:
        loop.call_soon_threadsafe(endpoint.close)


def _running_loop() -> SocketMethods | None:
    """The running loop if it is one of ours."""
    from ._sockets import SocketMethods

    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, SocketMethods) else None


# ---- options ----------------------------------------------------------------------------------------------

_STREAM_OPTIONS = (
    (socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE),
    *(
        (socket_module.IPPROTO_TCP, getattr(socket_module, name))
        for name in (
            "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT", "TCP_SYNCNT",
            "TCP_DEFER_ACCEPT", "TCP_NOTSENT_LOWAT", "TCP_LINGER2", "TCP_WINDOW_CLAMP", "TCP_FASTOPEN",
        )
        if hasattr(socket_module, name)
    ),
    *((_FASTOPEN_CONNECT,) if sys.platform == "linux" else ()),
    *_ip_options.OPTIONS,
)  # fmt: skip
_DATAGRAM_OPTIONS = (*_ip_options.OPTIONS, *_multicast.NUMBERS)


@functools.lru_cache(maxsize=128)
def _usual(family: int, kind: int, level: int, option: int) -> int:
    """What the kernel says of an option of a new socket."""
    with socket_module.socket(family, kind) as fresh:
        return fresh.getsockopt(level, option)


def copy_options(sock: Any, target: StackSocket) -> None:
    """Sets on an endpoint what the program has set on the kernel's socket before."""
    get, stream = kernel_options(sock), sock.type == socket_module.SOCK_STREAM
    for level, option in _STREAM_OPTIONS if stream else _DATAGRAM_OPTIONS:
        if level == socket_module.IPPROTO_IPV6 and sock.family != socket_module.AF_INET6:
            continue
        with contextlib.suppress(OSError):
            value = get(level, option)
            if value != _usual(sock.family, sock.type, level, option):
                target.setsockopt(level, option, value)
    if stream:
        _copy_buffers(get, target)


def _copy_buffers(get: Callable[..., Any], target: StackSocket) -> None:
    """The options of streams that aren't one number to the kernel as to the engine."""
    sol = socket_module.SOL_SOCKET
    linger: Any = get(sol, socket_module.SO_LINGER, 8)
    if any(linger):
        target.setsockopt(sol, socket_module.SO_LINGER, linger)
    try:
        locked = get(sol, _SO_BUF_LOCK)
    except OSError:  # an older kernel doesn't say
        return
    for bit, option in ((1, socket_module.SO_SNDBUF), (2, socket_module.SO_RCVBUF)):
        if locked & bit:
            target.setsockopt(sol, option, get(sol, option) // 2)  # socket(7): the kernel has doubled it


def _wanted(sock: Any) -> frozenset[tuple[int, int]]:
    """What of `_ip_options.RECEIVED` is on."""
    get, found = kernel_options(sock), set()
    for level, option in _ip_options.RECEIVED:
        if level == socket_module.IPPROTO_IP or sock.family == socket_module.AF_INET6:
            with contextlib.suppress(OSError):
                if get(level, option):
                    found.add((level, option))
    return frozenset(found)


def is_bound_here(sock: Any) -> bool:
    """True if the program has bound a shadow itself; a kernel socket may have got its port by sending something."""
    return sock in _bound


def bound_address(sock: socket_module.socket) -> SockAddr | None:
    """What a kernel socket is bound to; None if it has no port."""
    address: SockAddr = socket_module.socket.getsockname(sock)
    return address if address[1] else None
