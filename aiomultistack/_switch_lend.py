"""Ranges of ports that a switch lends to its clients for outgoing connections.

A range is excluded from the kernel's own choice by sockets that hold its ports, one for TCP and one for UDP each:
the kernel gives a port that is bound to nobody else, neither for a connect() nor for a bind().  Where none of the
switch's addresses is the system's, nobody could get them anyway, and nothing is held.

Ranges come from above the kernel's own ephemeral ports first, where few applications listen, then from within them,
from the top down.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Any

from ._switch_owner import RefusedError

__all__ = ["Lender", "Range"]

_TRIES = 64  # places that are tried before the ports are taken for used up


class Range:
    """Ports low to high, TCP and UDP, that somebody has borrowed."""

    def __init__(self, low: int, high: int, owner: Any, held: list[socket.socket]) -> None:
        self.low = low
        self.high = high
        self.owner = owner
        self._held = held

    def __contains__(self, port: int) -> bool:
        return self.low <= port <= self.high

    def close(self) -> None:
        """Gives the ports back to the system."""
        for sock in self._held:
            sock.close()
        self._held.clear()


def system_range() -> tuple[int, int]:
    """The kernel's own ephemeral ports."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return 32768, 60999
    return int(low), int(high)


class Lender:
    """Lends ranges of `size` ports out of `ports` (first and last; None: chosen as above).

    hold: keep the ports bound in the kernel while they are lent.
    """

    def __init__(self, size: int = 256, ports: tuple[int, int] | None = None, hold: bool = True) -> None:
        self.size = size
        self._hold = hold
        self._areas = [ports] if ports is not None else self._default_areas()
        self._ranges: list[Range] = []
        self._random = random.Random()

    @staticmethod
    def _default_areas() -> list[tuple[int, int]]:
        low, high = system_range()
        return [(high + 1, 65535), (low, high)] if high < 65535 else [(low, high)]

    def _free(self, low: int, high: int) -> bool:
        return not any(low <= taken.high and taken.low <= high for taken in self._ranges)

    def _candidates(self) -> list[int]:
        """First ports of places where nobody has borrowed anything, in the order of trying."""
        found: list[int] = []
        for first, last in self._areas:
            size = min(self.size, last - first + 1)
            places = [low for low in range(first, last - size + 2, size) if self._free(low, low + size - 1)]
            self._random.shuffle(places)
            found += places
        return found[:_TRIES]

    def _claim(self, low: int, high: int, owner: Any) -> Range:
        """Takes a range; raises OSError if one of its ports is in use."""
        held: list[socket.socket] = []
        try:
            for port in range(low, high + 1) if self._hold else ():
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    held.append(_hold(kind, port))  # noqa: PERF401 -- what is held is closed if the next one fails
        except OSError:
            for sock in held:
                sock.close()
            raise
        taken = Range(low, high, owner, held)
        self._ranges.append(taken)
        return taken

    def lend(self, owner: Any, low: int = 0, high: int = 0) -> Range:
        """Lends a range, or the one asked for; raises RefusedError if that is impossible."""
        if low:
            inside = any(first <= low <= high <= last for first, last in self._areas)
            if not inside or high - low >= self.size or not self._free(low, high):
                raise RefusedError("EADDRINUSE", f"ports {low} to {high} are not free to be lent")
            try:
                return self._claim(low, high, owner)
            except OSError as error:
                raise RefusedError("EADDRINUSE", f"ports {low} to {high}: {error.strerror}") from None
        for first in self._candidates():
            with contextlib.suppress(OSError):
                last = min(first + self.size - 1, 65535)
                return self._claim(first, last, owner)
        raise RefusedError("EADDRNOTAVAIL", "no range of ports is left to be lent")

    def count(self, owner: Any) -> int:
        """How many ranges an owner has."""
        return sum(taken.owner is owner for taken in self._ranges)

    def find(self, port: int) -> Range | None:
        """The range that a port is lent in."""
        return next((taken for taken in self._ranges if port in taken), None)

    def give_back(self, owner: Any) -> list[Range]:
        """Ends all loans of an owner."""
        returned = [taken for taken in self._ranges if taken.owner is owner]
        self._ranges = [taken for taken in self._ranges if taken.owner is not owner]
        for taken in returned:
            taken.close()
        return returned

    def __iter__(self) -> Any:
        return iter(list(self._ranges))


def _hold(kind: int, port: int) -> socket.socket:
    """A socket that is bound to a port on all addresses of both families."""
    try:
        sock = socket.socket(socket.AF_INET6, kind)
        address: tuple[Any, ...] = ("::", port)
    except OSError:  # a kernel without IPv6
        sock = socket.socket(socket.AF_INET, kind)
        address = ("0.0.0.0", port)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
