"""What the stack has in place of a kernel's listening socket and of its UDP socket.

Together with `Conduit`, which stands for a connected one, these are what a `ShadowSocket` asks when the program
calls a method of it.  None of their methods blocks: they raise BlockingIOError, as a non-blocking socket does.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from . import _ip_options, _multicast
from ._addresses import SockAddr, check_family, is_wildcard, plain
from ._conduit import Conduit, would_block
from ._node import EAGAIN, check_status, endpoint, ffi, lib, sockaddr, status_error
from ._pump import CLOSED, NOBODY, READABLE, RELEASED, Pump
from ._readiness import Readiness
from ._socket import StackSocket

__all__ = ["Acceptor", "Datagrams", "bind_flags", "kernel_options"]

DATAGRAM_MAX = 65535  # bytes; no UDP datagram is longer


def kernel_options(sock: Any) -> Callable[..., Any]:
    """The `getsockopt` of a kernel socket, or of a wrapper such as gunicorn's."""
    if isinstance(sock, socket.socket):
        return functools.partial(socket.socket.getsockopt, sock)  # past what a shadow makes of it
    get: Callable[..., Any] = sock.getsockopt
    return get


def bind_flags(sock: Any) -> int:
    """The engine's flags for what a program has set on a kernel socket before it is bound."""
    get = kernel_options(sock)
    flags: int = lib.AMS_LISTEN_REUSEADDR
    if hasattr(socket, "SO_REUSEPORT") and get(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        flags |= lib.AMS_LISTEN_REUSEPORT
    if sock.family == socket.AF_INET6 and get(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        flags |= lib.AMS_LISTEN_V6ONLY
    return flags


class _Endpoint(Readiness):
    """What the two have in common.

    flags: the engine's (AMS_LISTEN_*).
    """

    __slots__ = ("__weakref__", "_flags", "_id", "_socket", "_sockname", "v6")

    kind: int

    def __init__(self, pump: Pump, flags: int, v6: bool) -> None:
        super().__init__(pump)
        self._id = -1
        self._flags = flags
        #: True if the endpoint stands for a socket of IPv6, whose peers may be IPv4's.
        self.v6 = v6
        self._sockname: SockAddr | None = None
        self._socket: StackSocket | None = None

    @property
    def usable(self) -> bool:
        """True while the engine has the endpoint."""
        return self._id >= 0

    def addresses(self) -> tuple[SockAddr | None, SockAddr | None]:
        """Local and remote socket address."""
        return self._sockname, None

    @property
    def dual(self) -> bool:
        """True if the endpoint takes what comes to either family's addresses."""
        name = self._sockname
        return name is not None and name[0] == "::" and not self._flags & lib.AMS_LISTEN_V6ONLY

    def take_error(self) -> int:
        """SO_ERROR."""
        return 0

    def _run(self, callback: Any, *args: Any) -> Any:
        return callback(*args)

    def _on_data(self, data: bytes) -> None:
        """Data doesn't come with the batch."""

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        if bits & (READABLE | CLOSED | RELEASED):
            self._wake()

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        self._id = -1
        self._wake()

    def _detach(self) -> None:
        self._id = -1
        self._wake()

    def _enter(self) -> None:
        """Enters the id into the pump's table."""
        self.pump.attach(self._id, self)
        self.pump.serve(self.kind, self._sockname, 1, self.dual)

    def _forget(self) -> int:
        """Takes the id out of the pump's table; the id, -1 if there is none any more."""
        self.unwatch_all()
        number, self._id = self._id, -1
        if number >= 0 and self.pump.stack is not None:
            self.pump.endpoints[number] = NOBODY
            self.pump.serve(self.kind, self._sockname, -1, self.dual)
            return number
        return -1

    def _closed(self) -> OSError:
        return OSError(errno.EBADF, os.strerror(errno.EBADF))


class Acceptor(_Endpoint):
    """A listener for `loop.sock_accept()`."""

    __slots__ = ("_backlog", "_waiting")

    kind = socket.SOCK_STREAM

    def __init__(self, pump: Pump, address: SockAddr, backlog: int, flags: int) -> None:
        super().__init__(pump, flags, ":" in address[0])
        self._backlog = max(backlog, pump.node.config.backlog)
        self._waiting: deque[Conduit] = deque()
        self._id = check_status(lib.ams_tcp_listen(pump.stack, endpoint(address), self._backlog, flags))
        name = ffi.new("struct ams_endpoint *")
        lib.ams_tcp_local(pump.stack, self._id, name)
        self._sockname = sockaddr(name, self.v6)
        self._enter()

    @property
    def socket(self) -> StackSocket:
        """Address and options."""
        if self._socket is None:
            self._socket = StackSocket(
                self.pump.node, lambda: self._id, lambda: self._sockname, lambda: None, listener=True, flags=self._flags
            )
        return self._socket

    def _accept(self, number: int) -> None:
        """A new connection; called within the batch."""
        conduit = Conduit(self.pump, number, connected=True, v6=self.v6)
        self._waiting = deque(waiting for waiting in self._waiting if waiting.usable)
        if len(self._waiting) < self._backlog:
            self._waiting.append(conduit)
        else:
            conduit.abort()
        self._wake()

    def readable(self) -> bool:
        """True if accept() has something to return or to raise."""
        return bool(self._waiting) or self._id < 0

    def writable(self) -> bool:
        """Never: there is nothing to send."""
        return False

    def accept(self) -> Conduit:
        """The connection that has waited longest."""
        if self._waiting:
            return self._waiting.popleft()
        raise would_block() if self._id >= 0 else self._closed()

    def release(self) -> tuple[int, deque[Conduit]]:
        """Hands the listener over to a server: its id, and the connections that wait."""
        if self._id < 0:
            raise self._closed()
        return self._forget(), self._waiting

    def recv(self, size: int, peek: bool = False) -> bytes:
        """Raises OSError (ENOTCONN)."""
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    recvfrom: Any = recv

    def send(self, data: Any) -> int:
        """Raises OSError (ENOTCONN)."""
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def sendto(self, data: Any, address: Any) -> int:
        """Raises OSError (ENOTCONN)."""
        return self.send(data)

    def shutdown(self, how: int) -> None:
        """Stops listening, as Linux does."""
        self.close()

    def close(self) -> None:
        """Stops listening; connections that nobody has accepted are reset.  Idempotent."""
        for conduit in self._waiting:
            conduit.abort()
        self._waiting.clear()
        number = self._forget()
        if number >= 0:
            lib.ams_tcp_close(self.pump.stack, number)
            self.pump.touch()
        self._wake()


class Datagrams(_Endpoint):
    """A UDP endpoint for `loop.sock_recvfrom()` and its kind."""

    __slots__ = ("_error", "_from", "_held", "_peername", "broadcast", "wanted")

    kind = socket.SOCK_DGRAM

    def __init__(self, pump: Pump, local: SockAddr | None, remote: SockAddr | None, flags: int = 0) -> None:
        super().__init__(pump, flags, ":" in (local or remote or ("",))[0])
        #: SO_BROADCAST.
        self.broadcast = False
        #: What recvmsg() is to tell of datagrams: options of `_ip_options.RECEIVED`.
        self.wanted: frozenset[tuple[int, int]] = frozenset()
        self._held: deque[tuple[bytes, SockAddr | None, _ip_options.Received]] = deque()
        self._error: OSError | None = None
        self._from = ffi.new("struct ams_endpoint *")
        self._open(local, remote)

    def _open(self, local: SockAddr | None, remote: SockAddr | None) -> None:
        if local is not None and remote is not None and ":" not in plain(remote)[0] and is_wildcard(local[0]):
            local = ("0.0.0.0", local[1])  # of a dual socket that gets an IPv4 peer
        stack = self.pump.stack
        self._id = check_status(lib.ams_udp_open(stack, endpoint(local), endpoint(remote), self._flags))
        self._peername = remote
        name = ffi.new("struct ams_endpoint *")
        lib.ams_udp_local(stack, self._id, name)
        self._sockname = sockaddr(name, self.v6)
        self._enter()

    @property
    def socket(self) -> StackSocket:
        """Addresses and options."""
        if self._socket is None:
            self._socket = StackSocket(
                self.pump.node, lambda: self._id, lambda: self._sockname, lambda: self._peername, socket.SOCK_DGRAM,
                flags=self._flags, touch=self.pump.touch,
            )  # fmt: skip
        return self._socket

    def addresses(self) -> tuple[SockAddr | None, SockAddr | None]:
        """Local and remote socket address."""
        return self._sockname, self._peername

    def connect(self, remote: SockAddr) -> None:
        """Gives the endpoint a peer, or another one; what others have sent is dropped.

        Raises OSError if that can't be; the endpoint is what it was then, or closed if others have its port by now.
        """
        local, peer = self._sockname, self._peername
        if self._id < 0:
            raise self._closed()
        chosen = self._numbers()
        number, self._id = self._id, -1
        lib.ams_udp_close(self.pump.stack, number)
        self.pump.endpoints[number] = NOBODY
        self.pump.serve(self.kind, self._sockname, -1, self.dual)
        self._held.clear()
        try:
            self._open(local, remote)
        except OSError:
            self._open(local, peer)
            raise
        finally:
            if self._id >= 0:
                fresh = self._numbers()
                for option, value in chosen.items():
                    if value != fresh[option]:
                        lib.ams_udp_setopt(self.pump.stack, self._id, option, value)

    def _numbers(self) -> dict[int, int]:
        """The engine's options that are one number."""
        value, found = ffi.new("int *"), {}
        for option in (*_ip_options.OPTIONS.values(), *_multicast.NUMBERS.values()):
            lib.ams_udp_getopt(self.pump.stack, self._id, option, value)
            found[option] = int(value[0])
        return found

    def _pull(self) -> bool:
        """Takes the next datagram or error from the engine; True if there is one."""
        if self._held or self._error is not None or self._id < 0:
            return True
        scratch = self.pump.scratch
        length = lib.ams_udp_recv(self.pump.stack, self._id, self._from, scratch, DATAGRAM_MAX)
        if length == EAGAIN:
            return False
        if length < 0:
            self._error = status_error(length)
        else:
            received = self._received() if self.wanted else (0, 0)
            self._held.append((self.pump.scratch_view[:length], sockaddr(self._from, self.v6), received))
        return True

    def _received(self) -> _ip_options.Received:
        """Traffic class and hop limit of the datagram that was taken last."""
        value, numbers = ffi.new("int *"), []
        for option in (lib.AMS_UDP_RECEIVED_TOS, lib.AMS_UDP_RECEIVED_HOPS):
            lib.ams_udp_getopt(self.pump.stack, self._id, option, value)
            numbers.append(int(value[0]))
        return numbers[0], numbers[1]

    def readable(self) -> bool:
        """True if recvfrom() has something to return or to raise."""
        return self._pull()

    def writable(self) -> bool:
        """Always, as far as one can tell before trying."""
        return True

    def take_error(self) -> int:
        """SO_ERROR: the errno of an ICMP error, once."""
        self._pull()
        error, self._error = self._error, None
        return 0 if error is None else error.errno or errno.EIO

    def recvfrom(self, size: int, peek: bool = False) -> tuple[bytes, SockAddr | None]:
        """The next datagram, cut to size, and who sent it."""
        data, address, _ = self._take(peek)
        return data[:size], address

    def recvmsg(self, size: int, peek: bool = False) -> tuple[bytes, list[tuple[int, int, bytes]], SockAddr | None]:
        """As recvfrom(), with the ancillary data that is `wanted`."""
        data, address, received = self._take(peek)
        v6 = address is not None and ":" in plain(address)[0]
        return data[:size], _ip_options.pack_received(self.wanted, received, v6), address

    def _take(self, peek: bool) -> tuple[bytes, SockAddr | None, _ip_options.Received]:
        if not self._pull():
            raise would_block()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if not self._held:
            raise self._closed()
        return self._held[0] if peek else self._held.popleft()

    def recv(self, size: int, peek: bool = False) -> bytes:
        """The next datagram, cut to size."""
        return self.recvfrom(size, peek)[0]

    def sendto(self, data: Any, address: SockAddr | None, ancillary: Iterable[tuple[int, int, Any]] = ()) -> int:
        """Sends a datagram; its length."""
        if self._id < 0:
            raise self._closed()
        if address is not None:
            check_family(address, self.v6)
        host = plain(address or self._peername or ("",))[0]
        if not self.broadcast and host in self.pump.node.broadcasts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        tos, hops = _ip_options.of_datagram(ancillary, ":" in host) if ancillary else (-1, -1)
        raw = bytes(data)
        status = lib.ams_udp_send_as(
            self.pump.stack, self._id, endpoint(address), raw, len(raw), tos, hops, self.pump.node.now()
        )
        self.pump.touch()
        if status == EAGAIN:
            self.pump.loop.call_soon(self._wake)  # after the flush that makes room
            raise would_block()
        check_status(status)
        return len(raw)

    def send(self, data: Any, ancillary: Iterable[tuple[int, int, Any]] = ()) -> int:
        """Sends a datagram to the peer; its length."""
        if self._peername is None:
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        return self.sendto(data, None, ancillary)

    def shutdown(self, how: int) -> None:
        """Raises OSError (ENOTCONN) without a peer, and does nothing with one."""
        if self._peername is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    def release(self) -> tuple[int, SockAddr | None, deque[tuple[bytes, SockAddr | None]]]:
        """Hands the endpoint over to a transport: its id, its peer, and the datagrams that wait."""
        if self._id < 0:
            raise self._closed()
        return self._forget(), self._peername, deque((data, address) for data, address, _ in self._held)

    def close(self) -> None:
        """Closes the endpoint; idempotent."""
        number = self._forget()
        if number >= 0:
            lib.ams_udp_close(self.pump.stack, number)
            self.pump.touch()
        self._wake()
