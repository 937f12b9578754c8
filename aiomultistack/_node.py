"""The one module that imports the native extension.

It gives the handles Python types, turns status codes into exceptions, and owns the life of a node.  Other
modules get `lib` and `ffi` from here; the hot path (`_pump`, `_transport`) calls `lib` directly.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr, pack, system_has, unpack
from ._errors import ConfigError, port_error
from ._native import ffi as _ffi
from ._native import lib as _lib
from ._network import NetworkInfo, network_info

if TYPE_CHECKING:
    from ._config import Config
    from ._congestion import CongestionControl, Deputies
    from ._hub import Hub

__all__ = [
    "EndpointInfo", "Node", "check_status", "congestion_names", "endpoint", "ffi", "lib", "python_congestion",
    "status_error",
]  # fmt: skip

ffi: Any = _ffi
lib: Any = _lib

_ERROR_SIZE = 512
_IDENTITIES = ("/etc/machine-id", "/var/lib/dbus/machine-id", "/etc/hostid")
_CAPTURE_CHUNK = 1 << 20  # bytes taken at a time; more than any frame has

#: Congestion controls written in Python, by name; filled in by `_congestion`, made known to a stack by its pump.
python_congestion: dict[str, type[CongestionControl]] = {}


def _status_numbers() -> dict[str, int]:
    """Names of the engine's status codes, such as "ECONNRESET", and their (negative) numbers."""
    numbers: dict[str, int] = {}
    while (name := lib.ams_status_name(-len(numbers) - 1)) != ffi.NULL:
        numbers[ffi.string(name).decode()] = -len(numbers) - 1
    return numbers


STATUS: dict[str, int] = _status_numbers()
EAGAIN: int = STATUS["EAGAIN"]


def status_error(status: int, message: str | None = None) -> OSError:
    """The exception for a negative status: the subclass of OSError that fits its errno."""
    number = lib.ams_status_errno(status)
    return OSError(number, message or os.strerror(number))


def check_status(status: int) -> int:
    """Returns a status that is no error, raises the exception for one that is."""
    if status < 0:
        raise status_error(status)
    return status


def endpoint(address: tuple[Any, ...] | None) -> Any:
    """A `struct ams_endpoint *` of a numeric socket address; NULL of None."""
    if address is None:
        return ffi.NULL
    pointer = ffi.new("struct ams_endpoint *")
    ffi.buffer(pointer)[:] = pack(address)
    return pointer


def sockaddr(pointer: Any, v6: bool = False) -> SockAddr | None:
    """The socket address in a `struct ams_endpoint *`; v6: as an IPv6 socket knows it."""
    return unpack(ffi.buffer(pointer)[:], v6)


@dataclass(frozen=True)
class EndpointInfo:
    """What ``ss`` shows of an endpoint; the fields are those of `struct ams_tcp_info`.

    Times are in nanoseconds, sizes in bytes.  local and remote are socket addresses, None if not set.
    """

    id: int
    protocol: int
    state: int
    ca_state: int
    options: int
    snd_wscale: int
    rcv_wscale: int
    backoff: int
    probes: int
    local: SockAddr | None
    remote: SockAddr | None
    recv_queue: int
    send_queue: int
    snd_mss: int
    rcv_mss: int
    snd_cwnd: int
    snd_ssthresh: int
    snd_wnd: int
    rcv_wnd: int
    unacked: int
    pmtu: int
    rto: int
    srtt: int
    rttvar: int
    min_rtt: int
    bytes_sent: int
    bytes_acked: int
    bytes_received: int
    bytes_retrans: int
    segs_out: int
    segs_in: int
    dsack_dups: int
    created: int
    adv_mss: int
    sacked: int
    lost: int
    retrans_out: int
    not_sent: int
    delivered: int
    delivered_segs: int
    pacing_rate: int
    last_data_sent: int
    last_data_received: int
    last_received: int
    received_ce: int
    delivered_ce: int
    received_ect1_bytes: int
    received_ect0_bytes: int
    received_ce_bytes: int
    delivered_ect1_bytes: int
    delivered_ect0_bytes: int
    delivered_ce_bytes: int
    delivery_rate: int
    segs_retrans: int
    busy_time: int
    rwnd_limited: int
    data_segs_in: int
    data_segs_out: int
    reordering: int
    congestion: str

    @property
    def state_name(self) -> str:
        """The state as ``ss`` names it: "ESTAB", "LISTEN", ..."""
        return STATE_NAMES.get(self.state, str(self.state))


#: TCP's states by number, named as ``ss`` names them.
STATE_NAMES = {
    1: "ESTAB", 2: "SYN-SENT", 3: "SYN-RECV", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
    7: "UNCONN", 8: "CLOSE-WAIT", 9: "LAST-ACK", 10: "LISTEN", 11: "CLOSING",
}  # fmt: skip

_PLAIN_FIELDS = tuple(
    name for name in EndpointInfo.__dataclass_fields__ if name not in ("local", "remote", "congestion")
)


def _endpoint_info(info: Any) -> EndpointInfo:
    """The dataclass of a `struct ams_tcp_info`."""
    return EndpointInfo(
        local=unpack(ffi.buffer(ffi.addressof(info, "local"))[:]),
        remote=unpack(ffi.buffer(ffi.addressof(info, "remote"))[:]),
        congestion=ffi.string(info.congestion).decode(),
        **{name: getattr(info, name) for name in _PLAIN_FIELDS},
    )


class Node:
    """One port with its switch and its stack: a handle to the engine.

    Opening raises PortError (PortPermissionError) if the port cannot be opened, ConfigError if the engine
    refuses the configuration.  After `close()`, counters and endpoints are empty and nothing is owned.

    clock: nanoseconds for the engine; None lets it read the system's monotonic clock.
    flags: of AMS_STACK_*, besides those that the configuration asks for.
    """

    def __init__(
        self, config: Config, hub: Hub | None = None, clock: Callable[[], int] | None = None, flags: int = 0
    ) -> None:
        config.require()
        _check_congestion(config.congestion)
        self.config = config
        self.hub = hub
        self.clock = clock
        keep: list[Any] = []
        port = _port_config(config, hub, keep)
        stack = _stack_config(config, keep)
        stack.now = self.now()
        stack.flags |= flags
        if clock is not None:  # in virtual time there are neither routers nor switches that want to know of groups
            stack.flags |= lib.AMS_STACK_NO_REPORTS
        out = ffi.new("struct ams_node **")
        error = ffi.new("char[]", _ERROR_SIZE)
        status = lib.ams_node_new(out, port, stack, error, _ERROR_SIZE)
        if status < 0:
            raise _open_error(config, status, ffi.string(error).decode("utf-8", "replace"))
        self.pointer: Any = ffi.gc(out[0], lib.ams_node_free)
        self.stack: Any = lib.ams_node_stack(self.pointer)
        #: True if others have addresses of the stack's too: stacks on a ``switch:`` port, the system beside an
        #: ``xdp:`` or ``netmap:`` one.
        self.shared = config.scheme == "switch" or any(
            self._lookup((address.partition("/")[0], 0)) == 0 for address in config.addresses
        )
        self._counter_names = _counter_names()
        self._capture_buffer: Any = None
        #: Congestion controls written in Python; the pump's.
        self.deputies: Deputies | None = None
        #: IPv4 addresses that only sockets with SO_BROADCAST may send to.
        self.broadcasts = _broadcasts(config)

    @property
    def closed(self) -> bool:
        """True after `close()`."""
        return self.pointer is None

    def close(self) -> None:
        """Aborts what is open, sends the resets, closes the port; idempotent."""
        pointer, self.pointer, self.stack = self.pointer, None, None
        if pointer is not None:
            ffi.release(pointer)
        self.hub = None

    def abandon(self) -> None:
        """Leaves everything to the process that has forked this one: from here on as closed, but nothing is sent."""
        pointer, self.pointer, self.stack = self.pointer, None, None
        if pointer is not None:
            ffi.gc(pointer, None)  # its memory stays: transports may look into it

    def now(self) -> int:
        """The `now` argument of the engine's functions."""
        return int(lib.AMS_NOW) if self.clock is None else self.clock()

    def _time(self) -> int:
        """The time itself, for what doesn't read the clock."""
        return int(lib.ams_clock_now()) if self.clock is None else self.clock()

    def fileno(self) -> int:
        """The port's descriptor, readable when frames wait; -1 if it has none."""
        return int(self._port_info().fd)

    @property
    def mtu(self) -> int:
        """The port's MTU in bytes."""
        return int(self._port_info().mtu)

    @property
    def mac(self) -> str:
        """The port's own Ethernet address, all zero if it has none."""
        return ":".join(f"{byte:02x}" for byte in self._port_info().mac)

    def _port_info(self) -> Any:
        info = ffi.new("struct ams_port_info *")
        lib.ams_port_info(lib.ams_node_port(self.pointer), info)
        return info

    def owns(self, address: tuple[Any, ...]) -> bool:
        """True if the numeric socket address is one of the stack's own, or a wildcard."""
        return self.pointer is not None and lib.ams_stack_owns(self.stack, endpoint(address)) == 1

    def routes(self, address: tuple[Any, ...]) -> bool:
        """True if the stack has a route to the numeric socket address."""
        return self.pointer is not None and lib.ams_stack_routes(self.stack, endpoint(address)) == 1

    def show(self, sock: Any) -> None:
        """Lets a bound kernel socket prove the right to its address, where the port is shared; see `ams_port_show`."""
        if self.pointer is not None:
            status = lib.ams_port_show(lib.ams_node_port(self.pointer), sock.fileno())
            if status != STATUS["EOPNOTSUPP"]:
                check_status(status)

    def elsewhere(self, address: tuple[Any, ...], kind: int = socket.SOCK_STREAM) -> bool:
        """True if one of the stack's own addresses is the system's too, and no stack on the link has the port."""
        if not self.shared or not self.owns(address) or not system_has(address[0]):
            return False
        return self._lookup(address, socket.IPPROTO_TCP if kind == socket.SOCK_STREAM else socket.IPPROTO_UDP) == 0

    def _lookup(self, address: tuple[Any, ...], protocol: int = socket.IPPROTO_TCP) -> int:
        """Has a stack on the link the tuple?  1, 0 or a status; see `ams_port_lookup`."""
        return int(lib.ams_port_lookup(lib.ams_node_port(self.pointer), protocol, endpoint(address)))

    def counters(self) -> dict[str, int]:
        """Every counter of port, switch and stack, by name."""
        if self.pointer is None:
            return {}
        size = len(self._counter_names)
        values = ffi.new("uint64_t[]", max(size, 1))
        count = min(lib.ams_node_counters(self.pointer, values, size), size)
        return dict(zip(self._counter_names, ffi.unpack(values, count), strict=False))

    def endpoints(self) -> list[EndpointInfo]:
        """Every TCP and UDP endpoint, listeners and TIME-WAIT included."""
        if self.pointer is None:
            return []
        size = lib.ams_stack_list(self.stack, ffi.NULL, 0, self.now())
        infos = ffi.new("struct ams_tcp_info[]", max(size, 1))
        count = min(lib.ams_stack_list(self.stack, infos, size, self.now()), size)
        return [_endpoint_info(infos[index]) for index in range(count)]

    def network(self) -> list[NetworkInfo]:
        """The stack's addresses, prefixes on its link, routers and redirects."""
        return [] if self.pointer is None else network_info(self.stack, self._time())

    @property
    def learning(self) -> bool:
        """True while the stack waits for its first IPv6 address from a router; some seconds at most."""
        if not self.config.autoconf or self.pointer is None:
            return False
        return bool(lib.ams_stack_autoconf(self.stack, self._time()) == lib.AMS_AUTOCONF_WAITING)

    def endpoint_info(self, number: int) -> EndpointInfo:
        """One endpoint by its id; raises OSError if it is gone."""
        info = ffi.new("struct ams_tcp_info *")
        check_status(lib.ams_tcp_get_info(self.stack, number, info, self.now()))
        return _endpoint_info(info[0])

    def reasons(self) -> list[str]:
        """What each counter means, in the order of `counters()`: its name, and for the switch's a sentence."""
        texts = [lib.ams_counter_text(index) for index in range(len(self._counter_names))]
        return [
            name if text == ffi.NULL else f"{name}: {ffi.string(text).decode()}"
            for name, text in zip(self._counter_names, texts, strict=True)
        ]

    def capture(self, snap: int, size: int) -> None:
        """Starts to copy the port's frames, `snap` bytes of each (0: all), into a buffer of `size` bytes; 0 stops."""
        self._capture_buffer = ffi.new("char[]", _CAPTURE_CHUNK) if size else None
        if self.pointer is not None:
            check_status(lib.ams_node_capture(self.pointer, snap, size))

    def captured(self) -> bytes:
        """Takes copied frames out, as `struct ams_captured` and their bytes; empty when there are none."""
        if self.pointer is None or self._capture_buffer is None:
            return b""
        size = lib.ams_node_captured(self.pointer, self._capture_buffer, _CAPTURE_CHUNK)
        return bytes(ffi.buffer(self._capture_buffer, size))

    @property
    def capture_lost(self) -> int:
        """Frames that the capture's buffer had no room for."""
        return 0 if self.pointer is None else int(lib.ams_node_capture_lost(self.pointer))

    @property
    def frames(self) -> int:
        """Frames that the stack holds; 0 when it is idle and nothing leaks."""
        return 0 if self.pointer is None else int(lib.ams_stack_frames(self.stack))

    @property
    def endpoint_count(self) -> int:
        """Endpoints in use."""
        return 0 if self.pointer is None else int(lib.ams_stack_endpoints(self.stack))

    @property
    def memory(self) -> int:
        """Bytes that the stack's tables and connections take."""
        return 0 if self.pointer is None else int(lib.ams_stack_memory(self.stack))


# ---- from Config to the engine's structs ------------------------------------------------------------------


def _port_config(config: Config, hub: Hub | None, keep: list[Any]) -> Any:
    """A `struct ams_port_config *`; `keep` must live as long as it."""
    port = ffi.new("struct ams_port_config *")
    keep.append(ffi.new("char[]", config.port.encode()))
    port.spec = keep[-1]
    port.hub = ffi.NULL if hub is None else hub.pointer
    port.mtu = config.mtu
    port.flags = 0 if config.offload else lib.AMS_PORT_NO_OFFLOAD
    return port


def _stack_config(config: Config, keep: list[Any]) -> Any:
    """A `struct ams_stack_config *`; `keep` must live as long as it."""
    stack = ffi.new("struct ams_stack_config *")
    if config.mac is not None:
        stack.mac = bytes.fromhex(config.mac.replace(":", "").replace("-", ""))
    stack.seed = _seed(config)
    addresses = ffi.new("struct ams_ifaddr[]", len(config.addresses))
    for row, text in zip(addresses, config.addresses, strict=True):
        interface = ipaddress.ip_interface(text)
        row.address = endpoint((str(interface.ip), 0))[0]
        row.prefix_len = interface.network.prefixlen
    keep.append(addresses)
    stack.addresses, stack.n_addresses = addresses, len(config.addresses)
    for text in config.gateway:
        gateway = endpoint((text, 0))[0]
        if gateway.family == lib.AMS_IPV4:
            stack.gateway4 = gateway
        else:
            stack.gateway6 = gateway
    if config.congestion is not None and config.congestion not in python_congestion:
        keep.append(ffi.new("char[]", config.congestion.encode()))
        stack.congestion = keep[-1]
    stack.ecn = getattr(lib, "AMS_ECN_" + config.ecn.upper().replace("-", "_"))
    stack.mtu = config.mtu
    stack.max_endpoints = config.max_connections
    stack.sndbuf, stack.rcvbuf = config.sndbuf, config.rcvbuf
    stack.sndbuf_max, stack.rcvbuf_max = config.sndbuf_max, config.rcvbuf_max
    stack.time_wait_ms = max(1, round(config.time_wait * 1000))
    stack.ephemeral_low, stack.ephemeral_high = config.ephemeral_ports
    stack.flags = 0 if config.dad else lib.AMS_STACK_NO_DAD
    if config.autoconf:
        stack.flags |= lib.AMS_STACK_AUTOCONF
        stack.autoconf_key = _autoconf_key(config)
    if config.redirects in ("ipv6", "all") or (config.redirects == "auto" and config.autoconf):
        stack.flags |= lib.AMS_STACK_REDIRECTS6
    if config.redirects == "all":
        stack.flags |= lib.AMS_STACK_REDIRECTS4
    if config.pacing:
        stack.flags |= lib.AMS_STACK_PACING
    if config.user_timeout_option:
        stack.flags |= lib.AMS_STACK_USER_TIMEOUT_OPTION
    if config.scheme == "shm":  # a switch's own stack: its clients have the same addresses
        stack.flags |= lib.AMS_STACK_HAIRPIN
    return stack


def _broadcasts(config: Config) -> frozenset[str]:
    networks = [ipaddress.ip_interface(text).network for text in config.addresses]
    return frozenset(
        ["255.255.255.255"]
        + [str(network[-1]) for network in networks if network.version == 4 and network.prefixlen < 31]
    )


def _seed(config: Config) -> list[int]:
    """Two words of seed: random, or made from the configured one and the addresses (two nodes with the same
    seed must not have the same MAC; one whose MAC is given doesn't depend on its port's name)."""
    if config.seed is None:
        raw = os.urandom(16)
    else:
        text = f"{config.seed}|{config.mac or config.port}|{','.join(config.addresses)}"
        raw = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return [int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")]


def _autoconf_key(config: Config) -> list[int]:
    """The secret key of RFC 7217: the same at each start, where something is there to make it from; else zeros,
    for which the engine takes its seed."""
    secret = config.autoconf_secret
    if secret is None:
        secret = str(config.seed) if config.seed is not None else _machine_identity()
    if not secret:
        return [0, 0]
    key = hashlib.blake2b(secret.encode()).digest()
    interface = f"{config.port}|{config.mac or ''}".encode()
    raw = hashlib.blake2b(interface, key=key, digest_size=16, person=b"aiomultistack 6").digest()
    return [int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")]


def _machine_identity() -> str:
    """What machine-id(5) and hostid(1) tell; empty if there is nothing."""
    for path in _IDENTITIES:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if text := Path(path).read_text("ascii").strip():
                return text
    return ""


def congestion_names() -> list[str]:
    """The engine's own congestion controls."""
    names: list[str] = []
    while (name := lib.ams_congestion_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def _check_congestion(name: str | None) -> None:
    """Raises ConfigError for a congestion control that neither the engine has nor anybody has registered."""
    known = [*congestion_names(), *python_congestion]
    if name is not None and name not in known:
        raise ConfigError(f"congestion: there is no {name!r}; there are {', '.join(known)}")


def _counter_names() -> list[str]:
    names: list[str] = []
    while (name := lib.ams_counter_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def _open_error(config: Config, status: int, text: str) -> Exception:
    """The exception for a node that could not be made."""
    number = lib.ams_status_errno(status)
    reason = text or ffi.string(lib.ams_status_text(status)).decode()
    if number == errno.EINVAL:
        return ConfigError(f"{config.port}: {reason}")
    if number == errno.ENOMEM:
        return MemoryError(reason)
    return port_error(number, f"{config.port}: {reason}")
