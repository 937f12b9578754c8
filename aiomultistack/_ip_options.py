"""Traffic class and hop limit of packets, as ip(7) and ipv6(7) have them: as socket options, and as ancillary data.

IPv4's options govern what is sent over IPv4, by sockets of IPv6 too; those of IPv6 are for sockets of IPv6 only.
Values are read and written as Linux does: IPv4's may have one byte, IPv6's may not.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

from ._node import lib

__all__ = ["OPTIONS", "RECEIVED", "Received", "of_datagram", "pack", "pack_received", "unpack"]

_INT = struct.Struct("i")
_IP, _IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
_IPV6_TCLASS = getattr(socket, "IPV6_TCLASS", 67)  # those of linux/in6.h and linux/in.h, where Python lacks them
_IPV6_HOPLIMIT = getattr(socket, "IPV6_HOPLIMIT", 52)
_IP_RECVTOS = getattr(socket, "IP_RECVTOS", 13)
_IP_RECVTTL = getattr(socket, "IP_RECVTTL", 12)
_IPV6_RECVTCLASS = getattr(socket, "IPV6_RECVTCLASS", 66)
_IPV6_RECVHOPLIMIT = getattr(socket, "IPV6_RECVHOPLIMIT", 51)

#: The engine's options by the kernel's level and name.
OPTIONS: dict[tuple[int, int], int] = {
    (_IP, socket.IP_TOS): lib.AMS_OPT_TOS,
    (_IP, socket.IP_TTL): lib.AMS_OPT_TTL,
    (_IPV6, _IPV6_TCLASS): lib.AMS_OPT_TCLASS,
    (_IPV6, socket.IPV6_UNICAST_HOPS): lib.AMS_OPT_HOPS,
}
#: Options that have received datagrams tell of their traffic class or hop limit (Linux's numbers).
RECEIVED: frozenset[tuple[int, int]] = (
    frozenset({(_IP, _IP_RECVTOS), (_IP, _IP_RECVTTL), (_IPV6, _IPV6_RECVTCLASS), (_IPV6, _IPV6_RECVHOPLIMIT)})
    if sys.platform == "linux"
    else frozenset()
)
#: A received datagram's traffic class and hop limit.
Received: TypeAlias = tuple[int, int]


def unpack(level: int, option: int, value: Any) -> int:
    """The number that a program means by an option's value, a number or bytes."""
    if isinstance(value, int):
        return value
    raw = bytes(value)
    if len(raw) >= _INT.size:
        return int(_INT.unpack_from(raw)[0])
    if level != _IP or (not raw and option == socket.IP_TTL):
        raise _invalid()
    return raw[0] if raw else 0


def pack(level: int, value: int, size: int) -> bytes:
    """An option's value in a buffer of some size."""
    if level == _IP and size < _INT.size:
        return bytes([value])
    return _INT.pack(value)[:size]


def of_datagram(ancillary: Iterable[tuple[int, int, Any]], v6: bool) -> tuple[int, int]:
    """What one datagram's ancillary data says about its traffic class and hop limit; -1: nothing.

    v6: it is sent over IPv6.  Raises OSError (EINVAL) for values that can't be.
    """
    tos = hops = -1
    level = _IPV6 if v6 else _IP
    for message_level, kind, value in ancillary:
        if message_level != level:
            continue
        if kind == (_IPV6_TCLASS if v6 else socket.IP_TOS):
            tos = _checked(level, kind, value, -1 if v6 else 0)
        elif kind == (_IPV6_HOPLIMIT if v6 else socket.IP_TTL):
            hops = _checked(level, kind, value, -1 if v6 else 1)
    return tos, hops


def _checked(level: int, kind: int, value: Any, least: int) -> int:
    number = unpack(level, kind, value)
    if not least <= number <= 255:
        raise _invalid()
    return number


def pack_received(asked: Iterable[tuple[int, int]], received: Received, v6: bool) -> list[tuple[int, int, bytes]]:
    """What recvmsg() returns beside a datagram.

    asked: the options of `RECEIVED` that are on.  v6: the datagram came over IPv6.
    """
    tos, hops = received
    known = (
        (((_IPV6, _IPV6_RECVHOPLIMIT), _IPV6_HOPLIMIT, _INT.pack(hops)),
         ((_IPV6, _IPV6_RECVTCLASS), _IPV6_TCLASS, _INT.pack(tos)))
        if v6 else
        (((_IP, _IP_RECVTTL), socket.IP_TTL, _INT.pack(hops)), ((_IP, _IP_RECVTOS), socket.IP_TOS, bytes([tos])))
    )  # fmt: skip
    return [(option[0], kind, data) for option, kind, data in known if option in asked]


def _invalid() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))
