"""The object behind ``get_extra_info('socket')`` and ``Server.sockets``.

It stands where asyncio has `asyncio.TransportSocket`: addresses, and options by the numbers that the kernel uses
for them, so that programs that tune their sockets go on doing so.  It has no descriptor: `fileno()` is -1.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _ip_options, _multicast
from ._addresses import FAMILIES, SockAddr
from ._node import EndpointInfo, Node, check_status, ffi, lib

if TYPE_CHECKING:
    from ._transport import Transport

__all__ = ["TCP_FASTOPEN_CONNECT", "StackSocket"]

_LINGER = struct.Struct("ii")

_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", 18)
_TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
_TCP_INFO = getattr(socket, "TCP_INFO", 11)

TCP_FASTOPEN_CONNECT = 30  # linux/tcp.h; the socket module has no name for it

#: Options that are one number to the engine as to the kernel.
_NUMBERS: dict[tuple[int, int], int] = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): lib.AMS_OPT_KEEPALIVE,
    (socket.SOL_SOCKET, socket.SO_SNDBUF): lib.AMS_OPT_SNDBUF,
    (socket.SOL_SOCKET, socket.SO_RCVBUF): lib.AMS_OPT_RCVBUF,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): lib.AMS_OPT_NODELAY,
    (socket.IPPROTO_TCP, socket.TCP_MAXSEG): lib.AMS_OPT_MAXSEG,
    (socket.IPPROTO_TCP, _TCP_USER_TIMEOUT): lib.AMS_OPT_USER_TIMEOUT,
}
for _name, _option in (
    ("TCP_CORK", lib.AMS_OPT_CORK),
    ("TCP_NOPUSH", lib.AMS_OPT_CORK),
    ("TCP_KEEPIDLE", lib.AMS_OPT_KEEPIDLE),
    ("TCP_KEEPALIVE", lib.AMS_OPT_KEEPIDLE),
    ("TCP_KEEPINTVL", lib.AMS_OPT_KEEPINTVL),
    ("TCP_KEEPCNT", lib.AMS_OPT_KEEPCNT),
    ("TCP_QUICKACK", lib.AMS_OPT_QUICKACK),
    ("TCP_SYNCNT", lib.AMS_OPT_SYNCNT),
    ("TCP_FASTOPEN", lib.AMS_OPT_FASTOPEN),
    ("TCP_DEFER_ACCEPT", lib.AMS_OPT_DEFER_ACCEPT),
    ("TCP_NOTSENT_LOWAT", lib.AMS_OPT_NOTSENT_LOWAT),
    ("TCP_LINGER2", lib.AMS_OPT_LINGER2),
    ("TCP_WINDOW_CLAMP", lib.AMS_OPT_WINDOW_CLAMP),
):
    if hasattr(socket, _name):
        _NUMBERS[socket.IPPROTO_TCP, getattr(socket, _name)] = _option

if sys.platform == "linux":
    _NUMBERS[socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT] = lib.AMS_OPT_FASTOPEN_CONNECT

#: Options that may be set to what they are anyway.
_FIXED: dict[tuple[int, int], int] = {(socket.SOL_SOCKET, socket.SO_REUSEADDR): 1}
#: Options that are decided when a socket is bound.
_FLAGS: dict[tuple[int, int], int] = {(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY): lib.AMS_LISTEN_V6ONLY}
if hasattr(socket, "SO_REUSEPORT"):
    _FLAGS[socket.SOL_SOCKET, socket.SO_REUSEPORT] = lib.AMS_LISTEN_REUSEPORT

# struct tcp_info of linux/tcp.h, up to tcpi_rehash.
_TCP_INFO_LAYOUT = struct.Struct("=8B24I4Q6I4Q2I2Q6I")


class StackSocket:
    """A socket of the user-space stack, as far as one may look at it.

    number: returns the engine's id, -1 once the endpoint is closed.  flags: what it was bound with (AMS_LISTEN_*).
    touch: has what an option made the engine send sent soon.
    """

    __slots__ = (
        "_flags", "_listener", "_node", "_number", "_peername", "_sockname", "_touch", "family", "proto", "type",
    )  # fmt: skip

    def __init__(
        self,
        node: Node,
        number: Callable[[], int],
        sockname: Callable[[], SockAddr | None],
        peername: Callable[[], SockAddr | None],
        kind: int = socket.SOCK_STREAM,
        listener: bool = False,
        flags: int = 0,
        touch: Callable[[], None] | None = None,
    ) -> None:
        self._node = node
        self._number = number
        self._sockname = sockname
        self._peername = peername
        self._listener = listener
        self._flags = flags
        self._touch = touch
        name = sockname()
        self.family = FAMILIES[4] if name is None or len(name) == 2 else FAMILIES[6]
        self.type = socket.SocketKind(kind)
        self.proto = socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP

    @classmethod
    def of_transport(cls, transport: Transport) -> StackSocket:
        """The socket of a TCP connection."""
        return cls(
            transport._pump.node,
            lambda: transport._id,
            lambda: transport._address(True),
            lambda: transport._address(False),
        )

    def __repr__(self) -> str:
        return (
            f"<aiomultistack.StackSocket family={self.family!s} type={self.type!s} "
            f"laddr={self._sockname()} raddr={self._peername()}>"
        )

    # ---- addresses ----------------------------------------------------------------------------------------

    def getsockname(self) -> SockAddr:
        """The local address."""
        return self._known(self._sockname(), errno.EBADF)

    def getpeername(self) -> SockAddr:
        """The remote address; raises OSError (ENOTCONN) if there is none."""
        return self._known(self._peername(), errno.ENOTCONN)

    @staticmethod
    def _known(address: SockAddr | None, number: int) -> SockAddr:
        if address is None:
            raise OSError(number, os.strerror(number))
        return address

    def fileno(self) -> int:
        """-1: the kernel has no descriptor for it."""
        return -1

    def gettimeout(self) -> float:
        """0.0: it never blocks."""
        return 0.0

    def getblocking(self) -> bool:
        """False, as for every socket of an event loop."""
        return False

    def settimeout(self, value: float | None) -> None:
        """Only 0 is possible."""
        if value != 0:
            raise ValueError("settimeout(): only 0 timeout is allowed on transport sockets")

    def setblocking(self, flag: bool) -> None:
        """Only False is possible."""
        if flag:
            raise ValueError("setblocking(): transport sockets cannot be blocking")

    def dup(self) -> Any:
        """Raises OSError: there is no descriptor to duplicate."""
        raise OSError(errno.EOPNOTSUPP, "a socket of the user-space stack has no file descriptor to duplicate")

    def shutdown(self, how: int) -> None:
        """Half-closes the connection (SHUT_WR, SHUT_RDWR); SHUT_RD has no effect on the wire."""
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            check_status(lib.ams_tcp_shutdown(self._node.stack, self._open()))

    # ---- options ------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """The engine's id; raises OSError (EBADF) if the socket is closed."""
        number = self._number()
        if number < 0 or self._node.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return number

    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        """The value of an option: a number, or `buflen` bytes at most. Unknown ones: OSError (ENOPROTOOPT)."""
        if (level, optname) == (socket.IPPROTO_TCP, _TCP_INFO):
            return tcp_info(self._node.endpoint_info(self._open()))[: buflen or None]
        if (level, optname) == (socket.IPPROTO_TCP, _TCP_CONGESTION):
            name = self._node.endpoint_info(self._open()).congestion.encode()
            return name.ljust(16, b"\0")[: buflen or None]
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_LINGER):
            seconds = self._get(lib.AMS_OPT_LINGER)
            return _LINGER.pack(seconds >= 0, max(0, seconds))[: buflen or None]
        value = self._number_option(level, optname)
        return _ip_options.pack(level, value, buflen) if buflen else value

    def _number_option(self, level: int, optname: int) -> int:
        """The value of an option that is one number."""
        if level == socket.SOL_SOCKET:
            if optname == socket.SO_TYPE:
                return int(self.type)
            if optname == getattr(socket, "SO_PROTOCOL", 38):
                return int(self.proto)
            if optname == getattr(socket, "SO_DOMAIN", 39):
                return int(self.family)
            if optname == getattr(socket, "SO_ACCEPTCONN", 30):
                return int(self._listener)
            if optname == socket.SO_ERROR:
                status = self._get(lib.AMS_OPT_ERROR) if self.type == socket.SOCK_STREAM else 0
                return int(lib.ams_status_errno(status)) if status else 0
        if (level, optname) in _FIXED:
            return _FIXED[level, optname]
        if (level, optname) in _FLAGS and (level == socket.SOL_SOCKET or self.family == socket.AF_INET6):
            return int(bool(self._flags & _FLAGS[level, optname]))
        return self._get(self._option(level, optname))

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None, /) -> None:
        """Sets an option, as `socket.setsockopt`. Unknown ones: OSError (ENOPROTOOPT)."""
        if (level, optname) == (socket.IPPROTO_TCP, _TCP_CONGESTION):
            name = bytes(value).rstrip(b"\0") if not isinstance(value, str) else value.encode()
            number = self._open()
            if self._node.deputies is not None:
                self._node.deputies.learn(name.decode("ascii", "replace"))
            check_status(lib.ams_tcp_set_congestion(self._node.stack, number, name))
            return
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_LINGER):
            try:
                on, seconds = _LINGER.unpack(value)
            except (struct.error, TypeError):
                raise OSError(errno.EINVAL, "SO_LINGER wants struct.pack('ii', on, seconds)") from None
            self._set(lib.AMS_OPT_LINGER, seconds if on else -1)
            return
        if self.type == socket.SOCK_DGRAM and _multicast.is_option(level, optname):
            _multicast.set_option(self._node.stack, self._open(), level, optname, value, self._node.now())
            if self._touch is not None:
                self._touch()
            return
        if (level, optname) in _FIXED or ((level, optname) in _FLAGS and level == socket.SOL_SOCKET):
            return
        self._set(self._option(level, optname), _ip_options.unpack(level, optname, value))

    def _option(self, level: int, optname: int) -> int:
        option = _ip_options.OPTIONS.get((level, optname))
        if option is None and self.type == socket.SOCK_STREAM:
            option = _NUMBERS.get((level, optname))
        elif option is None:
            option = _multicast.NUMBERS.get((level, optname))
        if option is None or (level == socket.IPPROTO_IPV6 and self.family != socket.AF_INET6):
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return option

    def _get(self, option: int) -> int:
        value = ffi.new("int *")
        get = lib.ams_tcp_getopt if self.type == socket.SOCK_STREAM else lib.ams_udp_getopt
        check_status(get(self._node.stack, self._open(), option, value))
        return int(value[0])

    def _set(self, option: int, value: int) -> None:
        set_ = lib.ams_tcp_setopt if self.type == socket.SOCK_STREAM else lib.ams_udp_setopt
        check_status(set_(self._node.stack, self._open(), option, value))


_UNLIMITED = 0xFFFFFFFFFFFFFFFF
_TCP_INFO_OPTIONS = 63  # those that mean the same to Linux


def tcp_info(info: EndpointInfo) -> bytes:
    """An endpoint's state laid out as Linux's `struct tcp_info`; what the engine doesn't count is 0."""
    mss = max(1, info.snd_mss)
    us, ms = 1000, 1_000_000  # struct tcp_info has microseconds and milliseconds
    rcv_mss = info.rcv_mss or min(mss, 536)  # Linux's guess before anything has come
    return _TCP_INFO_LAYOUT.pack(
        info.state, info.ca_state, info.backoff, info.probes, info.backoff, info.options & _TCP_INFO_OPTIONS,
        info.snd_wscale | info.rcv_wscale << 4, 0,
        _u32(info.rto // us), 0, info.snd_mss, rcv_mss,
        -(-info.unacked // mss), -(-info.sacked // mss), -(-info.lost // mss), -(-info.retrans_out // mss), 0,
        _u32(info.last_data_sent // ms), 0, _u32(info.last_data_received // ms), _u32(info.last_received // ms),
        info.pmtu, info.rcv_wnd, _u32(info.srtt // us), _u32(info.rttvar // us),
        0x7FFFFFFF if info.snd_ssthresh == 0xFFFFFFFF else info.snd_ssthresh // mss,
        -(-info.snd_cwnd // mss), info.adv_mss, info.reordering or 3,
        0, info.rcv_wnd, _u32(info.segs_retrans),                        # rcv_rtt, rcv_space, total_retrans
        info.pacing_rate or _UNLIMITED, _UNLIMITED, info.bytes_acked, info.bytes_received,
        _u32(info.segs_out), _u32(info.segs_in), _u32(info.not_sent),
        _u32(info.min_rtt // us), info.data_segs_in, info.data_segs_out,
        info.delivery_rate, info.busy_time // us, info.rwnd_limited // us, 0,  # sndbuf_limited: it takes everything
        info.delivered_segs, info.delivered_ce, info.bytes_sent, info.bytes_retrans,
        _u32(info.dsack_dups), 0, 0, info.snd_wnd, info.rcv_wnd, 0,      # reord_seen, rcv_ooopack, rehash
    )  # fmt: skip


def _u32(value: int) -> int:
    return min(value, 0xFFFFFFFF)
