"""The system's side of a TAP: link up, MTU, addresses; set with netlink by pyroute2.

What is as it should be already is left alone, so that an administrator can prepare a TAP for an unprivileged
user.  pyroute2 runs an asyncio loop of its own: it gets a plain one, in a thread if a loop is running here, so that
neither our event loop policy nor uvloop gets in its way.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ._errors import ConfigError, PortError, port_error

if TYPE_CHECKING:
    from ._config import Config

__all__ = ["configure"]

#: asyncio's own loop, also where `aiomultistack run` has put ours in its place.
SystemLoop = asyncio.SelectorEventLoop

_IFF_UP = 1
_IFA_F_NODAD = 2


def configure(config: Config, mac: bytes | None = None, routes: Iterable[str] = ()) -> None:
    """Brings an open TAP's system side to what the configuration says.

    mac: the Ethernet address that it is to have; None: its own.
    routes: addresses that the system is to find behind it, whatever its other routes say.

    Raises ConfigError if one of the stack's addresses is the system's own, PortPermissionError if something is to
    be changed and may not be, PortError for other failures.
    """
    if sys.platform == "linux":
        _in_thread(lambda ip: _configure(ip, config, mac, routes))


def _in_thread(work: Any) -> Any:
    """Calls work(IPRoute) with a plain loop of its own, in another thread if a loop is running in this one."""
    result: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        from pyroute2 import IPRoute

        loop = SystemLoop()
        try:
            with IPRoute(use_event_loop=loop) as ip:
                result.append(work(ip))
        except BaseException as exc:
            error.append(exc)
        finally:
            loop.run_until_complete(asyncio.sleep(0))  # for its transports' connection_lost()
            loop.close()

    thread = threading.Thread(target=run, name="aiomultistack-netlink")
    thread.start()
    thread.join()
    if error:
        raise error[0]
    return result[0]


def _check_addresses(ip: Any, config: Config) -> None:
    """The system's kernel would answer for an address that it has itself."""
    system = {str(row.get("local") or row.get("address")) for row in ip.get_addr()}
    for address in config.addresses:
        if str(ipaddress.ip_interface(address).ip) in system:
            raise ConfigError(
                f"addresses: {address} is an address of this machine itself; give the user-space stack one of its "
                f"own, or remove the system's with 'ip address del'"
            )


def _configure(ip: Any, config: Config, mac: bytes | None, routes: Iterable[str]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    name = config.port_name
    try:
        indices = ip.link_lookup(ifname=name)
        if not indices:
            raise PortError(errno.ENODEV, f"{config.port}: the system has no link {name!r} after opening it")
        _check_addresses(ip, config)
        link = ip.get_links(indices[0])[0]
        if config.mtu and link.get("mtu") != config.mtu:
            ip.link("set", index=indices[0], mtu=config.mtu)
        if mac is not None and link.get("address") != mac.hex(":"):
            ip.link("set", index=indices[0], address=mac.hex(":"))
        _add_addresses(ip, indices[0], config)
        if not link["flags"] & _IFF_UP:
            ip.link("set", index=indices[0], state="up")
        for text in routes:
            ip.route("replace", dst=str(ipaddress.ip_interface(text).ip), oif=indices[0])
    except NetlinkError as error:
        code = abs(error.code)
        if code in (errno.EPERM, errno.EACCES):
            raise port_error(
                code,
                f"{config.port}: setting up the system's side needs root or CAP_NET_ADMIN; or let root run "
                f"{_commands(config)}",
            ) from None
        raise port_error(code, f"{config.port}: the system refused its side's set-up: {error.args[-1]}") from None


def _add_addresses(ip: Any, index: int, config: Config) -> None:
    """Adds the host addresses that the link lacks."""
    present = {(str(row.get("local") or row.get("address")), row["prefixlen"]) for row in ip.get_addr(index=index)}
    for text in config.host_addresses:
        interface = ipaddress.ip_interface(text)
        address, prefix = str(interface.ip), interface.network.prefixlen
        if (address, prefix) in present:
            continue
        options: dict[str, Any] = {"family": socket.AF_INET if interface.version == 4 else socket.AF_INET6}
        if interface.version == 6 and not config.dad:
            options["flags"] = _IFA_F_NODAD
        ip.addr("add", index=index, address=address, prefixlen=prefix, **options)


def _commands(config: Config) -> str:
    """What an administrator would type."""
    name = config.port_name
    lines = [f"ip address add {address} dev {name}" for address in config.host_addresses]
    return "'" + "; ".join([*lines, f"ip link set {name} up"]) + "'"
