"""`loop.create_connection()` where an address of the user-space stack is among the candidates.

The order of attempts, the errors and their words are asyncio's; a candidate that the stack routes becomes a
`Conduit`, any other a kernel socket, which the base loop's own create_connection() finishes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import socket
import sys
from asyncio import staggered
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _tls
from ._addresses import SockAddr
from ._conduit import Conduit

if TYPE_CHECKING:
    import ssl

    from ._loop import Loop
    from ._sockets import SocketMethods

if sys.version_info < (3, 11):
    ExceptionGroup: Any = None

__all__ = ["AddressInfo", "TLSOptions", "check_timeouts", "connect_any", "open_transport"]

#: A row of getaddrinfo().
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


@dataclass(frozen=True)
class TLSOptions:
    """The TLS arguments of create_connection(); context None means none."""

    context: ssl.SSLContext | bool | None = None
    server_hostname: str | None = None
    handshake_timeout: float | None = None
    shutdown_timeout: float | None = None

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of create_connection(), those that are set."""
        values = {
            "ssl": self.context,
            "server_hostname": self.server_hostname,
            "ssl_handshake_timeout": self.handshake_timeout,
            "ssl_shutdown_timeout": self.shutdown_timeout,
        }
        return {name: value for name, value in values.items() if value is not None}


def check_timeouts(tls: TLSOptions) -> None:
    """Raises ValueError for time-outs without TLS, as asyncio does."""
    for name, value in (("handshake", tls.handshake_timeout), ("shutdown", tls.shutdown_timeout)):
        if value is not None and not tls.context:
            raise ValueError(f"ssl_{name}_timeout is only meaningful with ssl")


async def connect_any(
    loop: Loop,
    infos: Iterable[AddressInfo],
    local_infos: Iterable[AddressInfo] | None,
    happy_eyeballs_delay: float | None,
    interleave: int | None,
    all_errors: bool,
) -> Conduit | socket.socket:
    """Connects to the first of `infos` that answers; raises as asyncio does if none does."""
    candidates = list(infos)
    if interleave:
        candidates = _interleave(candidates, interleave)
    locals_ = None if local_infos is None else list(local_infos)
    errors: list[list[OSError]] = []
    opened: list[Conduit | socket.socket] = []
    winner: Conduit | socket.socket | None = None
    try:
        if happy_eyeballs_delay is None:
            for info in candidates:
                try:
                    winner = await _attempt(loop, errors, opened, info, locals_)
                    break
                except OSError:
                    continue
        else:
            attempts = (functools.partial(_attempt, loop, errors, opened, info, locals_) for info in candidates)
            winner = (await staggered.staggered_race(attempts, happy_eyeballs_delay, loop=loop))[0]
    finally:
        for connection in opened:
            if connection is not winner:
                connection.close()
    if winner is None:
        raise _failure(list(itertools.chain.from_iterable(errors)), all_errors)
    return winner


async def _attempt(
    loop: Loop,
    errors: list[list[OSError]],
    opened: list[Conduit | socket.socket],
    info: AddressInfo,
    local_infos: list[AddressInfo] | None,
) -> Conduit | socket.socket:
    """One candidate; its errors go to `errors`, what it opened to `opened`."""
    mine: list[OSError] = []
    errors.append(mine)
    family, remote = info[0], info[4]
    try:
        local = None
        if local_infos is not None:
            local = next((row[4] for row in local_infos if row[0] == family), None)
            if local is None:
                raise OSError(f"no matching local address with {family=} found")
        pump = loop._pump_to(remote, local)
        if pump is not None:
            conduit = await Conduit.connect(pump, _address(remote), None if local is None else _address(local))
            opened.append(conduit)
            return conduit
        return await _kernel_attempt(loop, opened, info, local)
    except OSError as error:
        mine.append(error)
        raise


async def _kernel_attempt(
    loop: Loop, opened: list[Conduit | socket.socket], info: AddressInfo, local: tuple[Any, ...] | None
) -> socket.socket:
    """A candidate that isn't the user-space stack's."""
    family, kind, proto, _, remote = info
    sock = socket.socket(family, kind, proto)
    opened.append(sock)
    sock.setblocking(False)
    if local is not None:
        try:
            sock.bind(local)
        except OSError as error:
            text = f"error while attempting to bind on address {local!r}: {str(error.strerror).lower()}"
            raise OSError(error.errno, text) from None
    await loop._base_sock_connect(sock, remote)
    return sock


def _failure(errors: list[OSError], all_errors: bool) -> Exception:
    """The exception for connections that all failed."""
    if all_errors and ExceptionGroup is not None:
        group: Exception = ExceptionGroup("create_connection failed", errors)
        return group
    if not errors:
        return OSError("getaddrinfo() returned empty list")
    if len({str(error) for error in errors}) == 1:
        return errors[0]
    return OSError("Multiple exceptions: {}".format(", ".join(str(error) for error in errors)))


def _address(address: tuple[Any, ...]) -> SockAddr:
    """A row's address without what getaddrinfo may add to it."""
    host = str(address[0]).partition("%")[0]
    return (host, int(address[1])) if len(address) == 2 else (host, int(address[1]), 0, int(address[3]))


def _interleave(infos: list[AddressInfo], first: int) -> list[AddressInfo]:
    """Alternates between address families, `first` of the first one at the beginning (RFC 8305 section 4)."""
    families: dict[Any, list[AddressInfo]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    groups = list(families.values())
    head = groups[0][: first - 1]
    groups[0] = groups[0][first - 1 :]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return head + [info for info in mixed if info is not None]


async def open_transport(
    loop: SocketMethods,
    conduit: Conduit,
    factory: Callable[[], asyncio.BaseProtocol],
    tls: TLSOptions,
    server_side: bool = False,
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """Gives a connection its protocol and transport, and waits until both are ready."""
    context = contextvars.copy_context()
    waiter = loop.create_future()
    transport: asyncio.Transport
    try:
        protocol = factory()
        if tls.context:
            layer = _tls.make_protocol(
                loop,
                protocol,
                tls.context,
                waiter,
                server_side=server_side,
                server_hostname=tls.server_hostname,
                handshake_timeout=tls.handshake_timeout,
                shutdown_timeout=tls.shutdown_timeout,
            )
            conduit.adopt(layer, context)
            transport = _tls.app_transport(layer)
        else:
            transport = conduit.adopt(protocol, context, waiter=waiter)
    except BaseException:
        conduit.close()
        raise
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol
