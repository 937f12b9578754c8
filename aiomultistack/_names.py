"""Names over the stack's own UDP: `loop.getaddrinfo()` and `loop.getnameinfo()` where `Config.dns` says whom to ask.

Theory of operation
-------------------
What `socket.getaddrinfo()` does with numbers it does here too: it is called with AI_NUMERICHOST, which asks nobody, for
hosts that are numbers (or None) and for each address that a name turned out to have.  So its errors, service names
and the shape of its rows are the system's.  In between come /etc/hosts, ``localhost`` (RFC 6761 section 6.3), and DNS
by dnspython's asynchronous resolver, whose queries are datagram endpoints and connections of the running loop: they
leave through the user-space stack if that routes the server's address.  A truncated answer is asked for again over
TCP, a server that doesn't answer or that fails makes way for the next, relative names are tried with the search
domains.

Addresses of both families come sorted: those that the stack routes first, IPv6 before IPv4 (a small part of RFC 6724
section 6, which is about having several sources).  Nothing is remembered between calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr
from ._errors import ConfigError

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver

    from ._config import Config

__all__ = ["Resolver", "nameserver"]

HOSTS = "/etc/hosts"
RESOLV_CONF = "/etc/resolv.conf"
SYSTEM = "system"  # in Config.dns: the nameservers of /etc/resolv.conf
PORT = 53
TRY = 2.0  # seconds that a server has for one answer

_TEXTS = {
    socket.EAI_NONAME: "Name or service not known",
    socket.EAI_NODATA: "No address associated with hostname",
    socket.EAI_AGAIN: "Temporary failure in name resolution",
    socket.EAI_FAIL: "Non-recoverable failure in name resolution",
}
#: What is told of when two queries fail in different ways.
_WORST_FIRST = (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_NODATA, socket.EAI_NONAME)
_FAMILY = {"A": socket.AF_INET, "AAAA": socket.AF_INET6}


def nameserver(text: str) -> tuple[str, int]:
    """Address and port of a nameserver: "10.9.0.1", "10.9.0.1:5353", "fd09::1", "[fd09::1]:5353".

    Raises ValueError if it is none of these.
    """
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [ADDRESS]:PORT")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    ipaddress.ip_address(host)
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{port!r} is not a port")
    return host, int(port)


class Resolver:
    """Resolves names for a loop.

    config: dns, dns_search, dns_timeout and addresses matter.  routes: tells if the stack routes an address.
    Raises ConfigError if dnspython is missing, or if there is nobody to ask.
    """

    def __init__(self, config: Config, routes: Callable[[SockAddr], bool], hosts: str = HOSTS) -> None:
        self._routes = routes
        self._resolver = _dns_resolver(config)
        self._backend = _backend()
        self._hosts = _Hosts(hosts)
        versions = {ipaddress.ip_interface(address).version for address in config.addresses}
        if config.autoconf:
            versions.add(6)
        self._own = [kind for kind, version in (("A", 4), ("AAAA", 6)) if version in versions]

    # ---- names to addresses -------------------------------------------------------------------------------

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, kind: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        """As `socket.getaddrinfo()`; raises `socket.gaierror` as that does."""
        for_numbers = (flags | socket.AI_NUMERICHOST) & ~socket.AI_ADDRCONFIG
        try:
            return socket.getaddrinfo(host, port, family, kind, proto, for_numbers)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or flags & socket.AI_NUMERICHOST or not host:
                raise
        name = _text(host)
        found, canonical = await self._addresses(name, family, flags)
        plain = (flags & (socket.AI_PASSIVE | socket.AI_NUMERICSERV)) | socket.AI_NUMERICHOST
        rows: list[Any] = []
        for address in found:
            rows += socket.getaddrinfo(address, port, family, kind, proto, plain)
        if flags & socket.AI_CANONNAME and rows:
            rows[0] = (*rows[0][:3], canonical, rows[0][4])
        return rows

    async def _addresses(self, name: str, family: int, flags: int) -> tuple[list[str], str]:
        """The addresses of a name, the best first, and its canonical name."""
        kinds = [kind for kind, its in _FAMILY.items() if family in (socket.AF_UNSPEC, its)]
        if flags & socket.AI_ADDRCONFIG:
            kinds = [kind for kind in kinds if kind in self._own]
        mapped = family == socket.AF_INET6 and flags & socket.AI_V4MAPPED
        if mapped:
            kinds = ["AAAA", "A"]
        if not kinds:
            raise _failure(socket.EAI_NONAME)
        found, canonical = self._hosts.addresses(name, kinds)
        if not found:
            found, canonical = await self._ask_all(name, kinds)
        if mapped:
            six = [address for address in found if ":" in address]
            if not six or flags & socket.AI_ALL:
                six += [f"::ffff:{address}" for address in found if ":" not in address]
            found = six
        if family == socket.AF_UNSPEC:
            found = sorted(found, key=self._rank)
        return found, canonical

    def _rank(self, address: str) -> tuple[bool, bool]:
        """What comes first when an address is chosen: those that can be reached, then IPv6."""
        six = ":" in address
        return not self._routes((address, 0, 0, 0) if six else (address, 0)), not six

    async def _ask_all(self, name: str, kinds: Iterable[str]) -> tuple[list[str], str]:
        """Asks for several kinds of addresses at once.  Raises gaierror if there are none of any kind."""
        results = await asyncio.gather(*(self._ask(name, kind) for kind in kinds), return_exceptions=True)
        found: list[str] = []
        canonical = name
        codes = set()
        for result in results:
            if isinstance(result, socket.gaierror):
                codes.add(result.errno)
            elif isinstance(result, BaseException):
                raise result
            else:
                found += [record.address for record in result if hasattr(record, "address")]
                canonical = result.canonical_name.to_text(omit_final_dot=True)
        if not found:
            raise _failure(next((code for code in _WORST_FIRST if code in codes), socket.EAI_NODATA))
        return found, canonical

    async def _ask(self, name: str, kind: str) -> Any:
        """One question to DNS; raises gaierror."""
        import dns.exception
        import dns.name
        import dns.resolver

        try:
            return await self._resolver.resolve(name, kind, search=True, backend=self._backend)
        except (dns.resolver.NXDOMAIN, dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel):
            raise _failure(socket.EAI_NONAME) from None
        except dns.resolver.NoAnswer:
            raise _failure(socket.EAI_NODATA) from None
        except (dns.exception.Timeout, dns.resolver.NoNameservers, OSError):
            raise _failure(socket.EAI_AGAIN) from None
        except dns.exception.DNSException:
            raise _failure(socket.EAI_FAIL) from None

    # ---- addresses to names -------------------------------------------------------------------------------

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
        """As `socket.getnameinfo()`; raises `socket.gaierror` as that does."""
        numeric = (flags | socket.NI_NUMERICHOST) & ~socket.NI_NAMEREQD
        number, service = socket.getnameinfo(sockaddr, numeric)
        if flags & socket.NI_NUMERICHOST:
            return number, service
        name = self._hosts.name(number)
        if name is None:
            import dns.reversename

            try:
                answer = await self._ask(dns.reversename.from_address(number.partition("%")[0]).to_text(), "PTR")
                name = str(answer[0].target.to_text(omit_final_dot=True))
            except socket.gaierror:
                if flags & socket.NI_NAMEREQD:
                    raise
                return number, service
        if flags & socket.NI_NOFQDN:
            for domain in self._resolver.search:
                name = name.removesuffix("." + domain.to_text(omit_final_dot=True))
        return name, service


def _failure(code: int) -> socket.gaierror:
    return socket.gaierror(code, _TEXTS[code])


def _text(host: str | bytes) -> str:
    """A host's name in ASCII, as `socket.getaddrinfo()` makes it."""
    try:
        return host.decode("ascii") if isinstance(host, bytes) else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _failure(socket.EAI_NONAME) from None


def _dns_resolver(config: Config) -> DnsResolver:
    """dnspython's resolver for a configuration."""
    try:
        import dns.asyncresolver
        import dns.name
        import dns.nameserver
        import dns.resolver
    except ImportError:
        raise ConfigError(
            "dns is set, which needs dnspython: 'pip install aiomultistack[dns]', or leave dns empty"
        ) from None
    if SYSTEM in config.dns:
        try:
            resolver = dns.asyncresolver.Resolver(RESOLV_CONF)
        except dns.resolver.NoResolverConfiguration:
            raise ConfigError(f"dns is {SYSTEM!r}, but {RESOLV_CONF} names no server; name one in dns") from None
    else:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*nameserver(text)) for text in config.dns]
        resolver.search = []
        resolver.domain = dns.name.root
    if config.dns_search:
        resolver.search = [dns.name.from_text(domain) for domain in config.dns_search]
    resolver.lifetime = config.dns_timeout
    resolver.timeout = min(TRY, config.dns_timeout)
    return resolver


def _backend() -> Any:
    """dnspython's way to use asyncio, with connected datagram endpoints.

    It takes unconnected ones otherwise, which are nobody's until they send; and these learn of no ICMP error.
    """
    import dns.asyncbackend

    kind: Any = type(dns.asyncbackend.get_backend("asyncio"))
    made: Any = type("ConnectedBackend", (kind,), {"datagram_connection_required": lambda _: True})
    return made()


class _Hosts:
    """/etc/hosts, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[str, list[tuple[str, str]]] = {}  # address and first name of each line
        self._reverse: dict[str, str] = {}

    def _read(self) -> None:
        try:
            state = os.stat(self._path)
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8", errors="replace") as stream:
                lines = stream.readlines()
        except OSError:
            stamp, lines = None, []
        self._stamp = stamp
        self._names, self._reverse = {}, {}
        for line in lines:
            words = line.partition("#")[0].split()
            with contextlib.suppress(ValueError, IndexError):
                address = str(ipaddress.ip_address(words[0]))
                self._reverse.setdefault(address, words[1])
                for word in words[1:]:
                    self._names.setdefault(word.lower(), []).append((address, words[1]))

    def addresses(self, name: str, kinds: Iterable[str]) -> tuple[list[str], str]:
        """The addresses of a name, of some kinds, and its canonical name."""
        self._read()
        key = name.lower().removesuffix(".")
        found = self._names.get(key, [])
        if not found and (key == "localhost" or key.endswith(".localhost")):
            found = [("::1", name), ("127.0.0.1", name)]
        wanted = [row for row in found if ("AAAA" if ":" in row[0] else "A") in kinds]
        return [row[0] for row in wanted], wanted[0][1] if wanted else name

    def name(self, address: str) -> str | None:
        """The first name of an address."""
        self._read()
        return self._reverse.get(address)
