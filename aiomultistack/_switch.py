"""The switch daemon: many stacks in processes of their own, and the system's, on one NIC and one IP address.

Theory of operation
-------------------
The data path is native code in a thread of its own (`_switch_fabric`); no packet passes through Python.  This is the
control plane, on an asyncio loop: clients connect to a Unix socket (`_switch_session`), prove which 3-tuples are
theirs (`_switch_owner`), borrow ephemeral ports (`_switch_lend`), and have their next hops looked up for them
(`_switch_neighbor`).  All that a client was granted is taken back when its socket closes, which the kernel sees to
when it dies.

For the addresses themselves (ARP, NDP, ICMP echo, RST for what nobody claimed) a small stack of the daemon's own
answers, attached to the data path like a client, but trusted; on a NIC whose addresses are the system's, the driver
leaves that to the system, and the small stack is only asked for neighbours.  So it is where the system shares the
addresses by a TAP (`SwitchSettings.host_shares`), but for ARP and NDP, which nobody else speaks for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import ipaddress
import logging
import os
import re
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import _host
from ._addresses import SockAddr, system_has
from ._config import Config
from ._errors import ConfigError
from ._node import Node, check_status, endpoint, ffi, lib
from ._pump import Pump
from ._switch_fabric import CONTROL, HOST, UPLINK, Fabric
from ._switch_farewell import Farewells
from ._switch_lend import Lender, Range
from ._switch_neighbor import Neighbours
from ._switch_owner import Key, RefusedError, Registry
from ._switch_session import Peer, Session
from ._switch_system import Listener, drop_privileges, group_id, notify, raise_descriptor_limit, user_id

__all__ = ["Daemon", "SwitchSettings", "serve"]

logger = logging.getLogger("aiomultistack.switch")

_CAPTURE_QUEUE = 8192  # frames
_CAPTURE_BURST = 256
_ACCEPT_BURST = 16
_REST = 0.5  # seconds without accepting, when that is impossible
_LOOKERS = 64  # connections besides the clients', of those who only look
_LOOKERS_EACH = 32  # of one user
_LOG_RATE = 20.0
_NAMES = {CONTROL: "control", UPLINK: "uplink", HOST: "host"}


@dataclass(frozen=True)
class SwitchSettings:
    """What a switch is made of.

    uplink: the port behind which the network is, as in `Config.port`; "" or "none": there is none.
    host: a TAP by which the system's own stack is on the switch too; "" or "none": there is none.  It is a station
        of its own with the host_addresses; or, if these are the switch's addresses, it shares them.
    socket: the path at which clients attach.
    addresses: served for all clients, with prefix lengths; empty: those that the system has on the uplink.
    gateway: default routers for clients, one of each family.
    host_addresses: what the system gets on its side of a TAP.
    mac, mtu: of the link that clients see; None and 0: the uplink's.
    max_clients, max_clients_per_user, max_tuples (of one client), max_ranges (of ephemeral ports, of one client).
    slots: of a client's rings, each direction; max_slots: that it may ask for.
    lend: ports in a range; ports: the first and the last to be lent, None: chosen by what the kernel leaves.
    socket_mode, socket_group: of the socket's file.
    allow: users ("alice", "1000") and groups ("@staff", "@50") that may attach; empty: who may connect.
    user: whom to become after set-up.
    """

    uplink: str = ""
    host: str = ""
    socket: str = ""
    addresses: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    mac: str | None = None
    mtu: int = 0
    max_clients: int = 256
    max_clients_per_user: int = 256
    max_tuples: int = 1024
    max_ranges: int = 16
    slots: int = 512
    max_slots: int = 4096
    lend: int = 256
    ports: tuple[int, int] | None = None
    socket_mode: int = 0o660
    socket_group: str | None = None
    allow: tuple[str, ...] = ()
    user: str | None = None

    def checked(self) -> SwitchSettings:
        """Itself in its normal form; raises ConfigError for what cannot be meant."""
        from dataclasses import replace

        settings = replace(
            self,
            uplink="" if self.uplink == "none" else self.uplink,
            host="" if self.host == "none" else self.host,
            addresses=self.addresses or _system_addresses(self.uplink),
        )
        if not settings.addresses:
            raise ConfigError("the switch has no addresses: name those that its clients share, --address 10.9.0.2/24")
        if not settings.socket:
            raise ConfigError("the switch has no socket: name one, --socket /run/aiomultistack/switch.sock")
        if len(settings.addresses) > lib.AMS_PORT_ADDRESSES:
            raise ConfigError(f"a switch serves {lib.AMS_PORT_ADDRESSES} addresses at most")
        Config("tap:check", settings.addresses, settings.gateway, mac=settings.mac, mtu=settings.mtu)
        Config("tap:check", host_addresses=settings.host_addresses)  # which may be the same: host_shares
        settings._check_host()
        return settings

    def _check_host(self) -> None:
        if self.host and not self.host.startswith("tap:"):
            raise ConfigError(f"--host is a TAP, such as tap:ams0, not {self.host!r}")
        if self.host and self.host_apart and (there := sorted(filter(system_has, _hosts(self.addresses)))):
            raise ConfigError(
                f"--host: {there[0]} is an address of this machine itself, and its kernel keeps packets to it to "
                f"itself; give the switch an --address of its own"
            )
        common = _hosts(self.addresses) & _hosts(self.host_addresses)
        if common and (common != _hosts(self.addresses) or not self.host_shares):
            raise ConfigError(
                f"--host-address {sorted(common)[0]} is an --address of the switch: the kernel shares either all of "
                f"them or none, and needs --host and an --uplink that it is not on by itself"
            )

    @property
    def host_shares(self) -> bool:
        """True if the system has the switch's addresses on its side of the TAP."""
        both = bool(self.host and self.uplink) and not self.host_apart
        return both and not _hosts(self.addresses).isdisjoint(_hosts(self.host_addresses))

    @property
    def host_apart(self) -> bool:
        """True if the system is on the uplink by itself, too."""
        scheme, _, name = self.uplink.partition(":")
        return scheme == "xdp" or (scheme == "netmap" and re.split("[/@]", name)[0].endswith(("*", "^")))


def _hosts(addresses: Iterable[str]) -> set[str]:
    return {str(ipaddress.ip_interface(text).ip) for text in addresses}


def device(spec: str) -> str:
    """The system's name of the device behind a port; empty if there is none."""
    scheme, _, name = spec.partition(":")
    return name.partition("@")[0] if scheme in ("xdp", "netmap", "tap") else ""


def _system_addresses(uplink: str) -> tuple[str, ...]:
    """The addresses that the system has on the uplink's device, without link-local ones."""
    name = device(uplink)
    if not name or uplink.startswith("tap:"):
        return ()

    def ask(ip: Any) -> tuple[str, ...]:
        indices = ip.link_lookup(ifname=name)
        if not indices:
            raise ConfigError(f"--uplink {uplink}: the system has no device {name!r}")
        found = ip.get_addr(index=indices[0])
        rows = [(str(row.get("local") or row.get("address")), row["prefixlen"]) for row in found]
        return tuple(f"{host}/{prefix}" for host, prefix in rows if not ipaddress.ip_address(host).is_link_local)

    return tuple(_host._in_thread(ask))


def _seed(settings: SwitchSettings) -> tuple[int, int]:
    raw = os.urandom(16)
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


def _mac(settings: SwitchSettings) -> bytes:
    """The configured Ethernet address; where the uplink has none of its own, one that outlives a restart."""
    if settings.mac is not None:
        return bytes.fromhex(settings.mac.replace(":", "").replace("-", ""))
    if settings.uplink.startswith(("xdp:", "netmap:")):
        return bytes(6)
    text = f"{settings.uplink}|{os.path.abspath(settings.socket)}|{','.join(settings.addresses)}"
    raw = bytearray(hashlib.blake2b(text.encode(), digest_size=6).digest())
    raw[0] = raw[0] & 0xFC | 0x02  # locally administered, an individual station's
    return bytes(raw)


class Daemon:
    """A running switch; made on the loop that it is to run on.

    Raises ConfigError, PortError or PortPermissionError if it cannot be made; nothing is left behind then.
    """

    def __init__(self, settings: SwitchSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings = settings.checked()
        self.loop = loop
        self.registry = Registry()
        self.sessions: set[Session] = set()
        self._log_tokens, self._logged = _LOG_RATE, loop.time()
        self._capturer: Session | None = None
        self._pump: Pump | None = None
        self._neighbours: Neighbours | None = None
        self._farewells: Farewells | None = None
        self._served = _hosts(settings.addresses)
        self._started = time.time()
        self._admins = {0, os.geteuid()}
        self._allowed_users = {user_id(name) for name in settings.allow if not name.startswith("@")}
        self._allowed_groups = {group_id(name[1:]) for name in settings.allow if name.startswith("@")}
        with contextlib.ExitStack() as undo:
            raise_descriptor_limit()
            group = None if settings.socket_group is None else group_id(settings.socket_group)
            self._listener = Listener(settings.socket, settings.socket_mode, group)
            undo.callback(self._listener.close)
            self.fabric = self._open_fabric()
            undo.callback(self.fabric.close)
            info = self.fabric.port_info(UPLINK if settings.uplink else CONTROL)
            self.mac = _mac(settings) if any(_mac(settings)) else bytes(info["mac"])
            self.mtu = settings.mtu or int(info["mtu"]) or 1500
            self._configure_taps()
            self.shared = [text for text in settings.addresses if system_has(text.partition("/")[0])]
            self.lender = Lender(settings.lend, settings.ports, hold=bool(self.shared))
            self.identity = self._identity()
            if settings.user is not None:
                drop_privileges(settings.user, settings.uplink.startswith("xdp:"))
                self._admins.add(os.geteuid())
            self.fabric.start()
            self._serve_addresses()
            self._listener.socket.setblocking(False)
            self._resting: asyncio.TimerHandle | None = None
            self._listen()
            undo.pop_all()

    # ---- set-up -------------------------------------------------------------------------------------------

    def _open_fabric(self) -> Fabric:
        settings = self.settings
        return Fabric(
            uplink=settings.uplink, host=settings.host, mac=_mac(settings), mtu=settings.mtu, seed=_seed(settings),
            host_shares=settings.host_shares, host_apart=settings.host_apart, max_clients=settings.max_clients + 1,
            max_claims=65536, slots=settings.slots, max_slots=settings.max_slots,
        )  # fmt: skip

    def _configure_taps(self) -> None:
        """Sets up the system's side of TAPs; the addresses given are the host's, or else the uplink's."""
        settings = self.settings
        for spec in (settings.host, settings.uplink):
            if spec.startswith("tap:"):
                host = spec == (settings.host or settings.uplink)
                config = Config(
                    spec, () if settings.host_shares else settings.addresses, None,
                    settings.host_addresses if host else (), mtu=settings.mtu,
                )  # fmt: skip
                _host.configure(
                    config, self.mac if host and settings.host_shares else None,
                    settings.addresses if host and settings.host_apart else (),
                )  # fmt: skip

    def _identity(self) -> bytes:
        """What each client is told of its link."""
        identity = ffi.new("struct ams_port_identity *")
        identity.mac = self.mac
        identity.flags = lib.AMS_IDENTITY_QUIET | lib.AMS_IDENTITY_HAIRPIN
        identity.n_addresses = len(self.settings.addresses)
        for row, text in zip(identity.addresses, self.settings.addresses, strict=False):
            interface = ipaddress.ip_interface(text)
            row.address = endpoint((str(interface.ip), 0))[0]
            row.prefix_len = interface.network.prefixlen
        for text in self.settings.gateway:
            name = "gateway6" if ":" in text else "gateway4"
            setattr(identity, name, endpoint((text, 0))[0])
        return bytes(ffi.buffer(identity))

    def _serve_addresses(self) -> None:
        """Serves the addresses, and attaches the small stack that answers for them."""
        for text in self.settings.addresses:
            interface = ipaddress.ip_interface(text)
            self.fabric.add_address(str(interface.ip), interface.network.prefixlen)
        if not self._system_speaks and any(":" in text for text in self.settings.addresses):
            self.fabric.add_address(_link_local(self.mac), 64)  # RFC 4291 section 2.8: each interface has one
        self._open_control()
        self._neighbours = Neighbours(self.loop, self.fabric.punted, self._resolve, self.fabric.inject)
        self._farewells = Farewells(self.loop, self.mac, self._hop, functools.partial(self.fabric.inject, CONTROL))
        self.loop.add_reader(self.fabric.punt_fd, self._neighbours.readable)

    @property
    def _system_speaks(self) -> bool:
        """True if the system answers for addresses of the switch on the uplink, and for the link-local one there."""
        return bool(self.shared) and self.settings.host_apart

    def _open_control(self) -> None:
        link = self.fabric.attach(control=True)
        try:
            config = Config(
                "shm:{},{},{}".format(*link.descriptors), self.settings.addresses, self.settings.gateway,
                mac=":".join(f"{byte:02x}" for byte in self.mac), control=False, dad=False,
            )  # fmt: skip
            flags = 0
            if self._system_speaks:
                alone = len(self.shared) == len(self.settings.addresses)
                flags = lib.AMS_STACK_QUIET if alone else lib.AMS_STACK_NO_LINK_LOCAL
            elif not any(":" in text for text in self.settings.addresses):
                flags = lib.AMS_STACK_NO_LINK_LOCAL  # not served: the switch would drop what is sent from it
            self._pump = Pump(self.loop, Node(config, flags=flags))
        finally:
            for number in link.descriptors:
                os.close(number)
        self.control = link.index

    def _resolve(self, address: SockAddr) -> bytes | None:
        """A neighbour's Ethernet address; None while it is being asked for."""
        if self._pump is None or self._pump.stack is None:
            raise OSError("there is nobody to ask")
        mac = ffi.new("uint8_t[6]")
        known = check_status(lib.ams_stack_neighbor(self._pump.stack, endpoint(address), mac, lib.ams_clock_now()))
        self._pump.touch()
        return bytes(mac) if known else None

    # ---- clients ------------------------------------------------------------------------------------------

    def log(self, text: str, level: int = logging.INFO) -> None:
        """Tells whoever reads the daemon's log, but no more than _LOG_RATE lines a second: clients make them."""
        now = self.loop.time()
        self._log_tokens = min(_LOG_RATE, self._log_tokens + (now - self._logged) * _LOG_RATE)
        self._logged = now
        if self._log_tokens >= 1 and logger.isEnabledFor(level):
            self._log_tokens -= 1
            logger.log(level, "%s", text)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_BURST):
            try:
                sock, _ = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors, no memory: those who wait would wake us again at once
                self.log(f"cannot accept: {error.strerror}", logging.WARNING)
                self.loop.remove_reader(self._listener.socket.fileno())
                self._resting = self.loop.call_later(_REST, self._listen)
                return
            try:
                peer = Peer.of(sock)
            except OSError:
                sock.close()
                continue
            if not self._allowed(peer):
                self.log(f"user {peer.uid} (pid {peer.pid}) may not connect")
                sock.close()
            elif self._crowded(peer):
                sock.close()
            else:
                self.sessions.add(Session(self, sock, peer))

    def _listen(self) -> None:
        self._resting = None
        self.loop.add_reader(self._listener.socket.fileno(), self._accept)

    def _crowded(self, peer: Peer) -> bool:
        """True if there is no place for another connection of a user: those who only look take none from others."""
        if peer.uid in self._admins:
            return len(self.sessions) >= self.settings.max_clients + 2 * _LOOKERS
        looking = sum(session.link is None and session.peer.uid == peer.uid for session in self.sessions)
        return looking >= _LOOKERS_EACH or len(self.sessions) >= self.settings.max_clients + _LOOKERS

    def _allowed(self, peer: Peer) -> bool:
        if not self.settings.allow or peer.uid in self._admins:
            return True
        return peer.uid in self._allowed_users or not self._allowed_groups.isdisjoint(peer.groups)

    def _clients(self) -> Iterable[Session]:
        return (session for session in self.sessions if session.link is not None)

    def admit(self, session: Session) -> None:
        """Raises RefusedError if there is no place for another client of its user."""
        clients = list(self._clients())
        same = sum(client.peer.uid == session.peer.uid for client in clients)
        if len(clients) >= self.settings.max_clients:
            raise RefusedError("EMFILE", f"it has {len(clients)} clients, as many as it takes (--max-clients)")
        if same >= self.settings.max_clients_per_user:
            raise RefusedError("EMFILE", f"user {session.peer.uid} has {same} clients already (--max-clients-per-user)")

    def may_claim(self, session: Session, key: Key) -> None:
        """Raises RefusedError for a tuple that is not to be had here."""
        if self.registry.count(session) >= self.settings.max_tuples:
            raise RefusedError("EMFILE", f"{key}: a client may have {self.settings.max_tuples} tuples (--max-tuples)")
        lent = self.lender.find(key.port)
        if lent is not None:
            raise RefusedError("EADDRINUSE", f"{key}: the port is lent to a client for outgoing connections")
        if not key.wildcard and not self.serves(key.host):
            raise RefusedError("EADDRNOTAVAIL", f"{key}: the switch does not serve that address")

    def serves(self, host: str) -> bool:
        """True if an address is one of the switch's."""
        address = ipaddress.ip_address(host)
        return any(address == ipaddress.ip_interface(text).ip for text in self.settings.addresses)

    def lend(self, session: Session, index: int, low: int, high: int) -> Range:
        """Lends a client a range of ephemeral ports; raises RefusedError."""
        if self.lender.count(session) >= self.settings.max_ranges:
            raise RefusedError("EADDRNOTAVAIL", f"a client may borrow {self.settings.max_ranges} ranges of ports")
        taken = self.lender.lend(session, low, high)
        for family in {ipaddress.ip_interface(text).version for text in self.settings.addresses}:
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
                self._claim_range(index, family, protocol, taken)
        return taken

    def _claim_range(self, index: int, family: int, protocol: int, taken: Range) -> None:
        """Gives a client the tuples of a range, but for those that another one has already."""
        ports = range(taken.low, taken.high + 1)
        addresses: list[SockAddr] = [("0.0.0.0", port) if family == 4 else ("::", port, 0, 0) for port in ports]
        if self.fabric.claim_ports(index, protocol, addresses[0], len(ports)) < 0:
            for address in addresses:
                self.fabric.claim(index, protocol, address)

    def lookup(self, key: Key) -> int:
        """Which client has a tuple; -1: none."""
        claim = self.registry.find(key)
        if claim is not None:
            return int(claim.owner.index)
        lent = self.lender.find(key.port)
        return int(lent.owner.index) if lent is not None else -1

    def captures(self, session: Session) -> bool:
        """True for the session that is shown frames."""
        return self._capturer is session

    def forget(self, session: Session) -> None:
        """A client is gone, and what it had."""
        self.sessions.discard(session)
        if self._capturer is session:
            self._stop_capture()
        flows = b""
        if session.link is not None:
            flows = self.fabric.detach(session.link.index)
            if self._neighbours is not None:
                self._neighbours.forget(session.link.index)
            self.log(f"{session} is gone", logging.DEBUG)
        claims, ranges = self.registry.remove_owner(session), self.lender.give_back(session)
        for claim in claims:
            claim.close()
        keys = {claim.key for claim in claims}

        def had(local: SockAddr) -> bool:
            key = Key.of(socket.IPPROTO_TCP, local)
            known = key in keys or key.anywhere in keys or any(local[1] in lent for lent in ranges)
            return known and local[0] in self._served

        if self._farewells is not None:
            self._farewells.say(flows, had)

    def _hop(self, host: str) -> bytes | None:
        """The Ethernet address by which a host is reached, as `_resolve()`."""
        if host in self._served:
            return self.mac
        address = ipaddress.ip_address(host)
        near = any(address in ipaddress.ip_interface(text).network for text in self.settings.addresses)
        routers = [] if near else [text for text in self.settings.gateway if (":" in text) == (address.version == 6)]
        for hop in (host,) if near else routers:
            return self._resolve((hop, 0) if address.version == 4 else (hop, 0, 0, 0))
        raise OSError(errno.ENETUNREACH, f"no way leads to {host}")

    # ---- what it shows ------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Everything there is to know, as JSON can carry it."""
        clients = {session.index: session for session in self._clients()}
        settings = self.settings
        return {
            "switch": {
                "pid": os.getpid(), "started": self._started, "uplink": settings.uplink or "none",
                "host": settings.host or "none", "socket": settings.socket, "addresses": list(settings.addresses),
                "gateway": list(settings.gateway), "shared": self.shared, "mac": _mac_text(self.mac), "mtu": self.mtu,
                "time": time.time(),
            },
            "ports": [self._describe_port(index, clients.get(index)) for index in sorted(self.fabric.ports())],
            "tuples": [
                {
                    "protocol": "tcp" if claim.key.protocol == socket.IPPROTO_TCP else "udp",
                    "host": claim.key.host, "port": claim.key.port, "client": claim.owner.index,
                    "name": claim.owner.name, "pid": claim.owner.peer.pid, "uid": claim.owner.peer.uid,
                }
                for claim in self.registry
            ],
            "lent": [
                {"low": lent.low, "high": lent.high, "client": lent.owner.index, "name": lent.owner.name,
                 "pid": lent.owner.peer.pid}
                for lent in self.lender
            ],
            "counters": self.fabric.counters(),
            "drops": [name for name, drop in zip(self.fabric.counter_names, self.fabric.drops, strict=True) if drop],
            "texts": dict(zip(self.fabric.counter_names, self.fabric.counter_texts, strict=True)),
        }  # fmt: skip

    def _describe_port(self, index: int, session: Session | None) -> dict[str, Any]:
        info: dict[str, Any] = {"index": index, "name": _NAMES.get(index, "control stack" if session is None else "")}
        with contextlib.suppress(OSError):
            counts = self.fabric.port_info(index)
            info |= counts | {"mac": _mac_text(counts["mac"])}
        if session is not None:
            info |= {"name": session.name, "pid": session.peer.pid, "uid": session.peer.uid,
                     "tuples": self.registry.count(session)}  # fmt: skip
        elif index in (UPLINK, HOST):
            info["spec"] = self.settings.uplink if index == UPLINK else self.settings.host
        return info | {"counters": self.fabric.counters(index)}

    def start_capture(self, session: Session, index: int, snap: int) -> None:
        """Shows a session the frames of a port; raises RefusedError."""
        owner = next((client for client in self._clients() if client.index == index), None)
        mine = owner is not None and owner.peer.uid == session.peer.uid
        if session.peer.uid not in self._admins and not mine:
            raise RefusedError("EPERM", "only root and the switch's user may look at the frames of others")
        if self._capturer is not None:
            raise RefusedError("EBUSY", "somebody captures already")
        if index != -1 and index not in self.fabric.ports():
            raise RefusedError("ENODEV", f"there is no port {index}")
        self.fabric.capture(index, snap or 65549, _CAPTURE_QUEUE)
        self._capturer = session
        self.loop.add_reader(self.fabric.capture_fd, self._captured)

    def _captured(self) -> None:
        lost = self.fabric.capture_lost
        for _ in range(_CAPTURE_BURST):
            frame = self.fabric.captured()
            if frame is None or self._capturer is None:
                return
            self._capturer.show(frame, lost)

    def _stop_capture(self) -> None:
        self.loop.remove_reader(self.fabric.capture_fd)
        self._capturer = None
        with contextlib.suppress(OSError):
            self.fabric.capture(-1, 0, 0)

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends it: clients see their sockets close; idempotent."""
        if self._resting is not None:
            self._resting.cancel()
        self.loop.remove_reader(self._listener.socket.fileno())
        if self._farewells is not None:
            self._farewells.close()
            self._farewells = None
        for session in list(self.sessions):
            session.close()
        if self._neighbours is not None:
            self.loop.remove_reader(self.fabric.punt_fd)
            self._neighbours.close()
            self._neighbours = None
        if self._pump is not None:
            self._pump.close()
            self._pump = None
        self.fabric.close()
        self._listener.close()


def _link_local(mac: bytes) -> str:
    """The IPv6 link-local address that is made from an Ethernet address (RFC 4291 appendix A)."""
    raw = bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + raw))


def _mac_text(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def serve(settings: SwitchSettings, ready: Any = None) -> None:
    """Runs a switch until SIGTERM or SIGINT.

    ready: called with the Daemon once clients may attach.
    """
    with contextlib.closing(_host.SystemLoop()) as loop:
        asyncio.set_event_loop(None)
        daemon = Daemon(settings, loop)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, loop.stop)
            notify("READY=1\nSTATUS=serving " + ", ".join(daemon.settings.addresses))
            if ready is not None:
                ready(daemon)
            loop.run_forever()
            notify("STOPPING=1")
        finally:
            daemon.close()
