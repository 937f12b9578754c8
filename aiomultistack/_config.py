"""Configuration: one frozen dataclass, filled in by code, the environment or a TOML file.

Where a field comes from, the earlier wins: an explicit argument, the variable ``AIOMULTISTACK_<FIELD>``, the
file ``aiomultistack.toml`` in the current directory (or the one that ``AIOMULTISTACK_CONFIG`` names), the
default.  `Config(...)` itself looks at none of them: `Config.load()` does.

A field's metadata says how its text is read, so that a new field needs no code elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._errors import ConfigError
from ._names import SYSTEM, nameserver

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config"]

PREFIX = "AIOMULTISTACK_"
FILE_VARIABLE = "AIOMULTISTACK_CONFIG"
FILE_NAME = "aiomultistack.toml"
RUN_VARIABLE = "AIOMULTISTACK_RUN"  # `aiomultistack run` tells child processes by it what they are; see _run

ECN_MODES = ("accept", "ask", "off", "accurate", "accurate-accept", "accurate-classic")

_SCHEMES = ("tap", "mem", "xdp", "netmap", "switch", "shm")
_VALE = re.compile(r"vale[A-Za-z0-9]*")  # switches of netmap's
_MAC = re.compile(r"[0-9A-Fa-f]{2}([:-])[0-9A-Fa-f]{2}(\1[0-9A-Fa-f]{2}){4}\Z")
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_HINT = (
    "Set a port and addresses: Config(port='tap:ams0', addresses=['10.9.0.2/24'], host_addresses=['10.9.0.1/24']), "
    "or the variables AIOMULTISTACK_PORT and AIOMULTISTACK_ADDRESSES, or port and addresses in aiomultistack.toml"
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError("it is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it is not a number") from None


def _range(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split("-")))
    except ValueError:
        raise ValueError("it is not a range such as 32768-60999") from None


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"it is neither {', '.join(_TRUE)} nor {', '.join(_FALSE)}")


def _field(default: Any, parse: Callable[[str], Any] = str) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of `Config`, before they are checked."""

    port: str = _field("")
    addresses: tuple[str, ...] = _field((), _words)
    gateway: tuple[str, ...] = _field((), _words)
    host_addresses: tuple[str, ...] = _field((), _words)
    host_stack: str = _field("no")
    mac: str | None = _field(None)
    mtu: int = _field(0, _integer)
    congestion: str | None = _field(None)
    ecn: str = _field("accept")
    seed: int | None = _field(None, _integer)
    sndbuf: int = _field(0, _integer)
    rcvbuf: int = _field(0, _integer)
    sndbuf_max: int = _field(0, _integer)
    rcvbuf_max: int = _field(0, _integer)
    backlog: int = _field(1024, _integer)
    max_connections: int = _field(0, _integer)
    time_wait: float = _field(60.0, _number)
    ephemeral_ports: tuple[int, int] = _field((32768, 60999), _range)
    offload: bool = _field(True, _boolean)
    pacing: bool = _field(False, _boolean)
    user_timeout_option: bool = _field(False, _boolean)
    dad: bool = _field(False, _boolean)
    autoconf: bool = _field(False, _boolean)
    autoconf_secret: str | None = _field(None)
    redirects: str = _field("auto")
    base: str = _field("auto")
    control: bool = _field(True, _boolean)
    dns: tuple[str, ...] = _field((), _words)
    dns_search: tuple[str, ...] = _field((), _words)
    dns_timeout: float = _field(5.0, _number)


class Config(_Fields):
    """What a loop's user-space stack is made of.

    port: ``tap:NAME`` (a TAP device, made if missing), ``xdp:INTERFACE`` or ``xdp:INTERFACE@QUEUE`` (a Linux
        interface beside the system's own stack, which keeps all other traffic), ``netmap:INTERFACE`` (taken
        from the system), ``netmap:INTERFACE*`` (shared with it) or another of netmap's names, such as
        ``vale0:x``, ``switch:PATH`` (a running ``aiomultistack switch``), or ``mem:NAME`` (a hub inside the
        process).
    addresses: the stack's own, each with a prefix length: ``["10.9.0.2/24", "fd09::2/64"]``.  On an ``xdp:`` or
        ``netmap:INTERFACE*`` port they may be the system's too: then ports that the stack uses are taken from
        the system, and nothing else.  On a ``switch:`` port they are the switch's, and need not be given.
        A ``mem:`` port may have loopback addresses (``"127.0.0.1/8"``), which it shares with the system: binds take
        place on the stack, and connects where somebody listens.
    gateway: default routers, at most one of each family: ``"10.9.0.1"`` or ``"10.9.0.1,fd09::1"``.
    host_addresses: what the system's side of a TAP gets; needs root or CAP_NET_ADMIN if it lacks them.
    host_stack: ``"no"``, or ``"also"``: servers on wildcard and loopback addresses, and on those that the system
        shares, listen on the system's own stack too.
    mac: the stack's Ethernet address; None: the interface's (``xdp:``, ``netmap:``), or made from the seed.
    mtu: bytes; 0: the port's own.
    congestion: name of the congestion control; None: the engine's default, ``"cubic"``.
    ecn: Explicit Congestion Notification (RFC 3168): ``"accept"`` where the peer asks for it, ``"ask"`` for it on
        outgoing connections too, or ``"off"``.  ``"accurate"`` accepts and asks for Accurate ECN feedback (RFC 9768),
        with the older kind where the peer has no better; ``"accurate-accept"`` accepts both kinds and asks for none,
        ``"accurate-classic"`` accepts both and asks for the older one.
    seed: makes initial sequence numbers, ports and hash keys repeatable (tests only); None: random.
    sndbuf, rcvbuf: initial socket buffers in bytes; sndbuf_max, rcvbuf_max: what auto-tuning may make of
        them; 0: the engine's default.
    backlog: connections that may wait in each listener, if more than the application asks for: they come in
        bursts, and the loop takes them as soon as it runs.
    max_connections: endpoints of all kinds; 0: the engine's limit, 1,048,576.
    time_wait: seconds that a closed connection's ports stay reserved (RFC 9293 section 3.6.1).
    ephemeral_ports: first and last local port of outgoing connections.
    offload: let the port do checksums and segmentation where it can.
    pacing: spread what a connection sends over its round-trip time, with any congestion control; ``"bbr"`` always does.
    user_timeout_option: tell peers about TCP_USER_TIMEOUT where it is set, and heed what they tell where it isn't
        (RFC 5482).
    dad: probe IPv6 addresses before use (RFC 4862 section 5.4); they are usable a second later then.
    autoconf: learn from router advertisements: default routers, prefixes on the link, its MTU (RFC 4861 section
        6.3), and IPv6 addresses (RFC 4862), which are probed whatever `dad` says.  `addresses` may be empty then.  For
        ports that are the stack's alone; a `gateway` goes before routers that are learnt.
    autoconf_secret: what the addresses are made from besides prefix and port (RFC 7217): with the same text they are
        the same at each start.  None: the seed if that is set, else the machine's identity (/etc/machine-id).
    redirects: routers' hints at a better first hop, heeded if they quote what the stack has sent: ``"ipv6"`` (RFC 4861
        section 8), ``"all"``: and IPv4's (RFC 1122 section 3.2.2.2), which nothing but that protects against forgery,
        ``"no"``, or ``"auto"``: IPv6's with `autoconf`.
    base: the loop underneath: ``"uvloop"``, ``"asyncio"``, or ``"auto"``: uvloop if it is installed.
    control: answer ``aiomultistack ss`` on a Unix socket.
    dns: nameservers that resolve names, asked over the stack where it routes them: ``"10.9.0.1"``,
        ``"[fd09::1]:5353"``, or ``"system"`` for those of /etc/resolv.conf.  Needs dnspython (the extra ``dns``).
        None given: the system resolves, in a thread.
        Names in /etc/hosts come first.
    dns_search: domains in which relative names are looked up; dns_timeout: seconds that an answer may take.

    Raises ConfigError for whatever cannot be meant.  Sequences may be given as comma-separated text.
    """

    __slots__ = ()

    def __init__(
        self,
        port: str = "",
        addresses: str | Iterable[str] = (),
        gateway: str | Iterable[str] | None = None,
        host_addresses: str | Iterable[str] = (),
        *,
        host_stack: str = "no",
        mac: str | None = None,
        mtu: int = 0,
        congestion: str | None = None,
        ecn: str = "accept",
        seed: int | None = None,
        sndbuf: int = 0,
        rcvbuf: int = 0,
        sndbuf_max: int = 0,
        rcvbuf_max: int = 0,
        backlog: int = 1024,
        max_connections: int = 0,
        time_wait: float = 60.0,
        ephemeral_ports: tuple[int, int] = (32768, 60999),
        offload: bool = True,
        pacing: bool = False,
        user_timeout_option: bool = False,
        dad: bool = False,
        autoconf: bool = False,
        autoconf_secret: str | None = None,
        redirects: str = "auto",
        base: str = "auto",
        control: bool = True,
        dns: str | Iterable[str] = (),
        dns_search: str | Iterable[str] = (),
        dns_timeout: float = 5.0,
    ) -> None:
        super().__init__(
            port=port,
            addresses=_tuple("addresses", addresses),
            gateway=_tuple("gateway", gateway),
            host_addresses=_tuple("host_addresses", host_addresses),
            host_stack=host_stack,
            mac=mac,
            mtu=mtu,
            congestion=congestion,
            ecn=ecn,
            seed=seed,
            sndbuf=sndbuf,
            rcvbuf=rcvbuf,
            sndbuf_max=sndbuf_max,
            rcvbuf_max=rcvbuf_max,
            backlog=backlog,
            max_connections=max_connections,
            time_wait=time_wait,
            ephemeral_ports=ephemeral_ports,
            offload=offload,
            pacing=pacing,
            user_timeout_option=user_timeout_option,
            dad=dad,
            autoconf=autoconf,
            autoconf_secret=autoconf_secret,
            redirects=redirects,
            base=base,
            control=control,
            dns=_tuple("dns", dns),
            dns_search=_tuple("dns_search", dns_search),
            dns_timeout=dns_timeout,
        )
        _check(self)

    @classmethod
    def load(cls, **explicit: Any) -> Config:
        """The configuration from arguments, environment and file, in this order of precedence."""
        return cls(**{**_file_values(os.environ), **_environ_values(os.environ), **explicit})

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Config:
        """The configuration from ``AIOMULTISTACK_*`` variables alone."""
        return cls(**_environ_values(os.environ if environ is None else environ))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Config:
        """The configuration from a TOML file; fields stand at its top or in a table ``[aiomultistack]``."""
        return cls(**_read_file(Path(path)))

    def replace(self, **changes: Any) -> Config:
        """A copy with some fields changed."""
        return type(self)(**{**dataclasses.asdict(self), **changes})

    def require(self) -> Config:
        """Returns itself if it has what a stack needs; raises ConfigError if not."""
        if not self.port and not self.addresses:
            raise ConfigError(f"aiomultistack is not configured. {_HINT}")
        if not self.port:
            raise ConfigError(f"no port is configured. {_HINT}")
        if not self.addresses and not self.autoconf and self.scheme != "switch":
            raise ConfigError(f"port {self.port!r} has no addresses. {_HINT}")
        return self

    @property
    def scheme(self) -> str:
        """The port's driver: ``tap``, ``xdp``, ``netmap``, ``mem``, or the name of a VALE switch."""
        return self.port.partition(":")[0]

    @property
    def port_name(self) -> str:
        """The port without its driver: a device's or a hub's name."""
        return self.port.partition(":")[2]


FIELDS: dict[str, dataclasses.Field[Any]] = {item.name: item for item in dataclasses.fields(_Fields)}


def nearest(name: str, known: Iterable[str]) -> str:
    """A half-sentence that suggests one of the known names; empty if none is like it."""
    match = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _tuple(name: str, value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Text with commas, or an iterable of texts, as a tuple."""
    if value is None:
        return ()
    if isinstance(value, str):
        return _words(value)
    try:
        items = tuple(str(item) for item in value)
    except TypeError:
        raise ConfigError(f"{name} must be a list of addresses, not {value!r}") from None
    return items


# ---- sources ---------------------------------------------------------------------------------------------


def _environ_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that the environment sets."""
    values = {}
    variables = {PREFIX + name.upper(): item for name, item in FIELDS.items()}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in (FILE_VARIABLE, RUN_VARIABLE):
            continue
        item = variables.get(variable)
        if item is None:
            near = nearest(variable, variables)
            if near:
                raise ConfigError(f"the variable {variable} is not one of ours{near}")
            continue
        try:
            values[item.name] = item.metadata["parse"](text)
        except ValueError as error:
            raise ConfigError(f"{variable}={text!r} cannot be read: {error}") from None
    return values


def _file_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the configuration file, if there is one."""
    named = environ.get(FILE_VARIABLE)
    path = Path(named) if named else Path(FILE_NAME)
    if not named and not path.is_file():
        return {}
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    table = table.get("aiomultistack", table)
    for name in table:
        if name not in FIELDS:
            raise ConfigError(f"{path}: there is no field {name!r}{nearest(name, FIELDS)}")
    return dict(table)


# ---- checks ----------------------------------------------------------------------------------------------


def _check(config: Config) -> None:
    """Raises ConfigError for the first field that is wrong; brings the others to their normal form."""
    _check_port(config.port)
    _check_interfaces("addresses", config.addresses, config.scheme == "mem")
    _check_interfaces("host_addresses", config.host_addresses)
    _check_gateways(config)
    _check_choice("host_stack", config.host_stack, ("no", "also"))
    _check_choice("ecn", config.ecn, ECN_MODES)
    _check_choice("redirects", config.redirects, ("auto", "no", "ipv6", "all"))
    _check_choice("base", config.base, ("auto", "uvloop", "asyncio"))
    for name in ("offload", "pacing", "user_timeout_option", "dad", "autoconf", "control"):
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be true or false, not {getattr(config, name)!r}")
    for name in ("sndbuf", "rcvbuf", "sndbuf_max", "rcvbuf_max", "backlog", "max_connections"):
        _check_range(name, getattr(config, name), 0, 1 << 30)
    _check_range("mtu", config.mtu, 0, 65535)
    if 0 < config.mtu < (1280 if config.autoconf or any(":" in text for text in config.addresses) else 576):
        raise ConfigError(f"mtu {config.mtu} is too small: IPv6 needs 1280 bytes (RFC 8200 section 5), IPv4 576")
    if config.seed is not None:
        _check_range("seed", config.seed, 0, (1 << 128) - 1)
    if config.mac is not None:
        _check_mac(config.mac)
    if config.congestion is not None and not isinstance(config.congestion, str):
        raise ConfigError(f"congestion must be a name such as 'cubic', not {config.congestion!r}")
    both = {text.partition("/")[0] for text in config.addresses} & {t.partition("/")[0] for t in config.host_addresses}
    if both:
        raise ConfigError(f"{both.pop()} is among addresses and host_addresses: each side of a TAP has its own")
    if config.host_addresses and config.scheme != "tap":
        raise ConfigError(f"host_addresses are for tap: ports; {config.port!r} has no system side")
    _check_autoconf(config)
    _check_timing(config)
    _check_dns(config)


def _check_autoconf(config: Config) -> None:
    if config.autoconf_secret is not None and not isinstance(config.autoconf_secret, str):
        raise ConfigError(f"autoconf_secret must be text, not {config.autoconf_secret!r}")
    if not config.autoconf or not config.port:
        return
    shared = config.scheme == "netmap" and config.port.endswith(("*", "^"))
    if shared or config.scheme in ("switch", "xdp", "shm"):
        raise ConfigError(
            f"autoconf is for ports that are the stack's alone: on {config.port!r} router advertisements are the "
            f"system's; list the addresses"
        )


def _check_dns(config: Config) -> None:
    try:
        for text in config.dns:
            if text != SYSTEM:
                nameserver(text)
    except ValueError as error:
        raise ConfigError(f"dns: {text!r} is neither a nameserver's address nor {SYSTEM!r}: {error}") from None
    if SYSTEM in config.dns and len(config.dns) > 1:
        raise ConfigError(f"dns: {SYSTEM!r} stands alone, it means the nameservers of /etc/resolv.conf")
    if not isinstance(config.dns_timeout, (int, float)) or not 0 < config.dns_timeout <= 3600:
        raise ConfigError(f"dns_timeout must be seconds up to 3600, not {config.dns_timeout!r}")


def _check_port(port: str) -> None:
    if not isinstance(port, str):
        raise ConfigError(f"port must be text such as 'tap:ams0', not {port!r}")
    if not port:
        return
    scheme, colon, name = port.partition(":")
    if not colon or not name or (scheme not in _SCHEMES and not _VALE.fullmatch(scheme)):
        raise ConfigError(
            f"port {port!r} is not one of tap:NAME, xdp:INTERFACE, netmap:INTERFACE, switch:PATH, mem:NAME"
            + (f"; for a TAP device write 'tap:{port}'" if not colon else "")
        )


def _check_interfaces(name: str, addresses: tuple[str, ...], inside: bool = False) -> None:
    """Checks addresses; inside: of a port inside the process, where loopback addresses are possible."""
    for address in addresses:
        if "/" not in address:
            raise ConfigError(f"{name}: {address!r} needs a prefix length, such as {address}/{_usual_prefix(address)}")
        try:
            interface = ipaddress.ip_interface(address)
        except ValueError as error:
            raise ConfigError(f"{name}: {address!r} is not an address with a prefix length: {error}") from None
        if not _is_unicast(interface, inside):
            raise ConfigError(f"{name}: {address} cannot be an interface's own address; choose a unicast address")
        if "%" in address:
            raise ConfigError(f"{name}: {address} has a zone; the port says which link it is, leave the zone out")
    if len({ipaddress.ip_interface(address).ip for address in addresses}) != len(addresses):
        raise ConfigError(f"{name}: an address is listed twice in {', '.join(addresses)}")


def _is_unicast(interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface, inside: bool) -> bool:
    """True for addresses that one station may have (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7)."""
    ip, network = interface.ip, interface.network
    if ip.is_multicast or ip.is_unspecified or (ip.is_loopback and not inside):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped is None
    ends = (network[0], network[-1]) if 0 < network.prefixlen < 31 else ()  # RFC 3021 lets links of two have both
    return ip not in ends and ip != ipaddress.IPv4Address("255.255.255.255")


def _usual_prefix(address: str) -> int:
    return 64 if ":" in address else 24


def _check_gateways(config: Config) -> None:
    networks = [ipaddress.ip_interface(address).network for address in config.addresses]
    families = set()
    for text in config.gateway:
        try:
            gateway = ipaddress.ip_address(text)
        except ValueError:
            raise ConfigError(f"gateway: {text!r} is not an IP address") from None
        if gateway.version in families:
            raise ConfigError(f"gateway: only one IPv{gateway.version} gateway is possible")
        families.add(gateway.version)
        reachable = any(network.version == gateway.version and gateway in network for network in networks)
        if networks and not reachable and not (gateway.version == 6 and gateway.is_link_local):
            raise ConfigError(f"gateway {gateway} is in no network of addresses ({', '.join(config.addresses)})")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name} must be a number from {low} to {high}, not {value!r}")


def _check_mac(mac: object) -> None:
    if not isinstance(mac, str) or not _MAC.match(mac):
        raise ConfigError(f"mac must look like '02:00:00:00:00:01', not {mac!r}")
    if int(mac[:2], 16) & 1:
        raise ConfigError(f"mac {mac} is a group address: its first byte must be even")


def _check_timing(config: Config) -> None:
    if not isinstance(config.time_wait, (int, float)) or not 0 <= config.time_wait <= 3600:
        raise ConfigError(f"time_wait must be seconds from 0 to 3600, not {config.time_wait!r}")
    ports = config.ephemeral_ports
    try:
        low, high = ports
        valid = isinstance(low, int) and isinstance(high, int) and 1 <= low <= high <= 65535
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ConfigError(f"ephemeral_ports must be first and last port, such as (32768, 60999), not {ports!r}")
    object.__setattr__(config, "ephemeral_ports", (low, high))
