"""Socket addresses as Python has them, and as the engine has them (`struct ams_endpoint`)."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import Any, TypeAlias

__all__ = [
    "ENDPOINT_SIZE",
    "FAMILIES",
    "SockAddr",
    "bind_shared",
    "check_family",
    "end_listening",
    "is_global6",
    "is_listening",
    "is_loopback",
    "is_wildcard",
    "numeric",
    "pack",
    "plain",
    "system_has",
    "unpack",
]  # fmt: skip

#: ("10.9.0.2", 80) or ("fd09::2", 80, 0, 0).
SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

_ENDPOINT = struct.Struct("=16sHHI")  # ip, port, family, scope_id: struct ams_endpoint
ENDPOINT_SIZE = _ENDPOINT.size
_IP_FREEBIND = 15  # linux/in.h
_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291 section 2.5.5.2

#: The engine's families and the system's.
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def pack(address: tuple[Any, ...]) -> bytes:
    """A `struct ams_endpoint` of a numeric socket address.

    Raises OSError, as inet_pton does, if the host is not a numeric address.
    """
    host, port = address[:2]
    if ":" not in host:
        return _ENDPOINT.pack(_MAPPED + socket.inet_pton(socket.AF_INET, host), port, 4, 0)
    host, _, _ = host.partition("%")
    raw = socket.inet_pton(socket.AF_INET6, host)
    if raw.startswith(_MAPPED):
        return _ENDPOINT.pack(raw, port, 4, 0)
    scope = address[3] if len(address) > 3 else 0
    return _ENDPOINT.pack(raw, port, 6, scope)


def unpack(raw: bytes, v6: bool = False) -> SockAddr | None:
    """The socket address of a `struct ams_endpoint`; None if it holds none.

    v6: as an IPv6 socket knows it, which may have to do with IPv4: ("::ffff:10.9.0.2", 80, 0, 0).
    """
    ip, port, family, scope = _ENDPOINT.unpack(raw)
    if family == 4 and not v6:
        return socket.inet_ntop(socket.AF_INET, ip[12:]), port
    if family == 4:
        return socket.inet_ntop(socket.AF_INET6, ip), port, 0, 0
    if family == 6:
        return socket.inet_ntop(socket.AF_INET6, ip), port, 0, scope
    return None


def plain(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """A numeric socket address with an IPv4-mapped host as what it stands for: ("10.9.0.2", 80)."""
    host = address[0]
    if ":" not in host or host[:7].lower() != "::ffff:":
        return address
    raw = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return (socket.inet_ntop(socket.AF_INET, raw[12:]), address[1]) if raw.startswith(_MAPPED) else address


def check_family(address: tuple[Any, ...], v6: bool) -> None:
    """Raises what a kernel socket raises if it is asked to send to an address of another family than its own."""
    if (":" in address[0]) != v6:
        raise socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")


def numeric(host: object, port: object, family: int = 0) -> tuple[int, SockAddr] | None:
    """Family and socket address, if host and port are numbers already; None if a resolver has to be asked."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or "%" in host:
        return None
    try:
        number = int(port) if port not in (None, "", b"") else 0  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return None
    if not 0 <= number <= 65535:
        raise OverflowError("port must be 0-65535.")
    for candidate in (socket.AF_INET, socket.AF_INET6) if family == 0 else (family,):
        try:
            socket.inet_pton(candidate, host)
        except OSError:
            continue
        return (candidate, (host, number)) if candidate == socket.AF_INET else (candidate, (host, number, 0, 0))
    return None


def is_wildcard(host: str) -> bool:
    """True for 0.0.0.0 and ::."""
    return host in ("0.0.0.0", "::") or ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def is_global6(host: str) -> bool:
    """True for IPv6 unicast addresses that are good beyond one link: unique local ones too."""
    if ":" not in host or "%" in host:
        return False
    ip = ipaddress.IPv6Address(host)
    return not (ip.is_link_local or ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.ipv4_mapped)


def system_has(host: str) -> bool:
    """True if a numeric address is one of the system's own: it can be bound to."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def bind_shared(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket of the kernel's that is bound, with SO_REUSEPORT, to an address that needn't be the system's."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_REUSEADDR),
            (socket.SOL_SOCKET, socket.SO_REUSEPORT),
            (socket.IPPROTO_IP, _IP_FREEBIND),
        ):
            sock.setsockopt(level, option, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def is_listening(sock: Any) -> bool:
    """True if the kernel listens on a socket."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def end_listening(sock: Any) -> None:
    """Makes a socket on which the kernel may listen one that holds its port against all others, and no more.

    The kernel refuses connections to it from here on, and resets what has come in so far; other processes that have
    the socket see the same.  SO_REUSEADDR goes first: it would let others be bound to the port, since nobody listens.
    Linux lets a port that it has chosen itself go with the listening: it is bound again.  Raises OSError (EADDRINUSE)
    if somebody was faster.
    """
    with socket.socket(fileno=os.dup(sock.fileno())) as kernel:  # sock may be a wrapper with methods of its own
        if not is_listening(kernel):
            return
        name = kernel.getsockname()
        kernel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        try:
            kernel.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # another process was faster
        try:
            kernel.bind(name)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is still bound, as the program has named the port
                raise


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8 and ::1."""
    return host.startswith("127.") or host == "::1"
