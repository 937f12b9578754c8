"""Multicast options of UDP sockets, as ip(7) and ipv6(7) have them."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from ._node import check_status, endpoint, lib

_JOIN = {
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP): lib.ams_udp_join,
    (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP): lib.ams_udp_leave,
    (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP): lib.ams_udp_join,
    (socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP): lib.ams_udp_leave,
}
#: The engine's options that are one number, by the kernel's level and name.
NUMBERS = {
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL): lib.AMS_UDP_MULTICAST_HOPS,
    (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP): lib.AMS_UDP_MULTICAST_LOOP,
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS): lib.AMS_UDP_MULTICAST_HOPS,
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP): lib.AMS_UDP_MULTICAST_LOOP,
}


def is_option(level: int, option: int) -> bool:
    """True for the options that `set_option` knows."""
    return (level, option) in _JOIN or (level, option) in NUMBERS


def set_option(stack: Any, number: int, level: int, option: int, value: Any, now: int) -> None:
    """Joins or leaves a group (`struct ip_mreq`, `ip_mreqn` or `ipv6_mreq`; the interface in it is the stack's one,
    whatever it says), or sets hop limit or loop of what goes to groups.  Raises OSError.
    """
    if (level, option) in NUMBERS:
        amount = value if isinstance(value, int) else int.from_bytes(value, "little")
        check_status(lib.ams_udp_setopt(stack, number, NUMBERS[level, option], amount))
        return
    family, length = (socket.AF_INET, 4) if level == socket.IPPROTO_IP else (socket.AF_INET6, 16)
    if isinstance(value, int) or len(value) < length:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    group = socket.inet_ntop(family, bytes(value)[:length])
    check_status(_JOIN[level, option](stack, number, endpoint((group, 0)), now))
