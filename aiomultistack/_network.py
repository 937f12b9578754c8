"""What a stack knows of its network: its addresses, prefixes on the link, routers, redirects; with lifetimes."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._native import ffi as _ffi
from ._native import lib as _lib

__all__ = ["NetworkInfo", "network_info"]

ffi: Any = _ffi
lib: Any = _lib

_KINDS = {
    lib.AMS_NET_ADDRESS: "address",
    lib.AMS_NET_PREFIX: "prefix",
    lib.AMS_NET_ROUTER: "router",
    lib.AMS_NET_REDIRECT: "redirect",
}
_FLAGS = {
    lib.AMS_NET_LEARNED: "learned",
    lib.AMS_NET_TENTATIVE: "tentative",
    lib.AMS_NET_DUPLICATE: "duplicate",
    lib.AMS_NET_DEPRECATED: "deprecated",
    lib.AMS_NET_INVALID: "invalid",
    lib.AMS_NET_CURRENT: "current",
    lib.AMS_NET_UNREACHABLE: "unreachable",
}
_PREFERENCES = {1: "high", 0: "medium", -1: "low"}
_DAY, _HOUR = 86400, 3600


@dataclass(frozen=True)
class NetworkInfo:
    """One thing that a stack knows of its network.

    kind: ``"address"`` (one of its own), ``"prefix"`` (whose addresses are on the link), ``"router"``, or
        ``"redirect"`` (a destination with a better first hop than the router).
    address, prefix_len: what it is about.
    flags: ``"learned"`` (from a router; from the configuration otherwise), of an address ``"tentative"`` (being
        checked for duplicates), ``"duplicate"``, ``"deprecated"`` (not chosen if there is another) or ``"invalid"`` (no
        longer the stack's, though a socket is bound to it), of a router ``"current"`` (the one in use) and
        ``"unreachable"``.
    preference: of a router: ``"high"``, ``"medium"`` or ``"low"`` (RFC 4191).
    via: of a redirect: the first hop.
    valid, preferred: seconds that are left of it, and until an address is deprecated (RFC 4862 section 5.5.4);
        None: for ever.
    """

    kind: str
    address: str
    prefix_len: int
    flags: tuple[str, ...]
    preference: str | None
    via: str | None
    valid: float | None
    preferred: float | None


def network_info(stack: Any, now: int) -> list[NetworkInfo]:
    """All that a `struct ams_stack *` knows; now: as the engine's functions take it."""
    size = lib.ams_stack_network(stack, ffi.NULL, 0, now)
    rows = ffi.new("struct ams_net_info[]", max(size, 1))
    count = min(lib.ams_stack_network(stack, rows, size, now), size)
    return [_info(rows[index]) for index in range(count)]


def _info(row: Any) -> NetworkInfo:
    kind = _KINDS[row.kind]
    return NetworkInfo(
        kind=kind,
        address=_text(row.address.address),
        prefix_len=row.address.prefix_len,
        flags=tuple(name for bit, name in _FLAGS.items() if row.flags & bit),
        preference=_PREFERENCES[row.preference] if kind == "router" else None,
        via=_text(row.via) if row.via.family else None,
        valid=_seconds(row.valid),
        preferred=_seconds(row.preferred),
    )


def _text(endpoint: Any) -> str:
    address = ipaddress.IPv6Address(bytes(ffi.buffer(endpoint.ip, 16)))
    return str(address.ipv4_mapped or address)


def _seconds(value: int) -> float | None:
    return None if value == lib.AMS_NEVER else value / 1e9


# ---- for people ------------------------------------------------------------------------------------------

#: Headings of `row()`.
HEADINGS = ("What", "Address", "Via", "State", "Valid", "Preferred")


def row(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a `NetworkInfo` as the control socket gives it."""
    whole = 128 if ":" in info["address"] else 32
    shown = info["address"] if info["prefix_len"] == whole else f"{info['address']}/{info['prefix_len']}"
    state = [flag for flag in info["flags"] if flag != "learned"]
    if info["preference"] not in (None, "medium"):
        state.append(f"preference {info['preference']}")
    if "learned" not in info["flags"]:
        state.append("configured")
    return (
        info["kind"], shown, info["via"] or "", ", ".join(state), duration(info["valid"]),
        duration(info["preferred"]) if info["kind"] == "address" else "",
    )  # fmt: skip


def duration(seconds: float | None) -> str:
    """A time for people: "6d 23h", "1h 30m", "29m 59s", "forever"."""
    if seconds is None:
        return "forever"
    whole = int(seconds)
    if whole >= _DAY:
        return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"
    if whole >= _HOUR:
        return f"{whole // _HOUR}h {whole % _HOUR // 60}m"
    return f"{whole // 60}m {whole % 60}s" if whole >= 60 else f"{whole}s"


def lines(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows as a table, headings first."""
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
            for cells in [HEADINGS, *rows]]  # fmt: skip
