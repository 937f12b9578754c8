"""Hosts on a hub in virtual time: the engine without a clock, a loop or a kernel.

A ``World`` has one hub and any number of ``Host``s, each a whole node (port,
switch, stack).  ``world.run()`` steps them from deadline to deadline, so that
minutes of protocol time take milliseconds and the same seed gives the same
frames.  A ``Wire`` is a bare port on the same hub: it records what crosses,
and a test can play a peer on it, segment by segment.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

from aiomultistack._native import ffi, lib

from aiomultistack import _node

MS = 1_000_000
SECOND = 1_000_000_000
START = 1_000 * SECOND
EVENTS = 256
BLOB = 1 << 18


def endpoint(address: str, port: int = 0) -> Any:
    """A ``struct ams_endpoint`` for an IPv4 or IPv6 address."""
    return _node.endpoint((address, port))


def status_name(status: int) -> str:
    """ECONNRESET and the like for a negative status."""
    return str(ffi.string(lib.ams_status_name(status)).decode())


class Connection:
    """What the application knows of one connection."""

    def __init__(self, host: Host, id_: int) -> None:
        self.host = host
        self.id = id_
        self.connected = False
        self.received = bytearray()
        self.eof = False
        self.drained = 0
        self.refs_released = 0
        self.closed: str | None = None  # "OK" or a status name once reported
        self.released = False
        self.on_data: Callable[[Connection], None] | None = None
        self.on_eof: Callable[[Connection], None] | None = None

    def send(self, data: bytes) -> int:
        result = int(lib.ams_tcp_send(self.host.stack, self.id, data, len(data)))
        assert result >= 0, status_name(result)
        return result

    def shutdown(self) -> None:
        assert lib.ams_tcp_shutdown(self.host.stack, self.id) == 0

    def close(self) -> None:
        self.released = lib.ams_tcp_close(self.host.stack, self.id) == 1
        if self.released:
            del self.host.connections[self.id]

    def abort(self) -> None:
        self.released = lib.ams_tcp_abort(self.host.stack, self.id) == 1
        if self.released:
            del self.host.connections[self.id]

    def pause(self) -> None:
        assert lib.ams_tcp_set_reading(self.host.stack, self.id, lib.AMS_READ_PAUSED) == 0

    def resume(self) -> None:
        assert lib.ams_tcp_set_reading(self.host.stack, self.id, lib.AMS_READ_BLOB) == 0

    def option(self, option: int, value: int) -> int:
        return int(lib.ams_tcp_setopt(self.host.stack, self.id, option, value))

    @property
    def info(self) -> Any:
        out = ffi.new("struct ams_tcp_info *")
        assert lib.ams_tcp_get_info(self.host.stack, self.id, out, self.host.world.now) == 0
        return out


class Host:
    """One node with an application that accepts everything and keeps what it reads."""

    def __init__(self, world: World, addresses: Iterable[str], **config: Any) -> None:
        self.world = world
        self.connections: dict[int, Connection] = {}
        self.accepted: list[Connection] = []
        self.on_accept: Callable[[Connection], None] | None = None
        self.mac: bytes = config.setdefault("mac", bytes([2, 0, 0, 0, 0, len(world.hosts) + 1]))
        self.node = _open_node(world, list(addresses), config)
        self.stack = lib.ams_node_stack(self.node)
        self.deadline = world.now
        self._events = ffi.new("int32_t[]", EVENTS * 4)
        self._blob = ffi.new("char[]", BLOB)

    def listen(self, address: str = "0.0.0.0", port: int = 80, backlog: int = 128) -> int:
        id_ = int(lib.ams_tcp_listen(self.stack, endpoint(address, port), backlog, lib.AMS_LISTEN_V6ONLY))
        assert id_ >= 0, status_name(id_)
        return id_

    def connect(self, address: str, port: int = 80) -> Connection:
        id_ = lib.ams_tcp_connect(self.stack, ffi.NULL, endpoint(address, port), self.world.now)
        assert id_ >= 0, status_name(id_)
        connection = self.connections[id_] = Connection(self, id_)
        return connection

    def counters(self) -> dict[str, int]:
        values = ffi.new("uint64_t[]", 512)
        count = lib.ams_node_counters(self.node, values, 512)
        return {ffi.string(lib.ams_counter_name(i)).decode(): values[i] for i in range(count)}

    def step(self) -> bool:
        """Polls and flushes once.  True if something happened."""
        count = lib.ams_node_poll(self.node, self.world.now, self._events, EVENTS, self._blob, BLOB)
        assert count >= 0, status_name(count)
        words = ffi.unpack(self._events, count * 4) if count else []
        offset = 0
        for id_, bits, aux, length in zip(*[iter(words)] * 4, strict=True):
            offset += self._dispatch(id_, bits, aux, length, offset)
        self.deadline = lib.ams_node_flush(self.node, self.world.now)
        if self.world.checked:
            wrong = lib.ams_stack_check(self.stack)
            assert wrong == ffi.NULL, ffi.string(wrong).decode()
        return count > 0

    def _dispatch(self, id_: int, bits: int, aux: int, length: int, offset: int) -> int:
        used = 0
        connection = self.connections.get(id_)
        if bits & lib.AMS_EV_ACCEPTED:
            connection = self.connections[id_] = Connection(self, id_)
            connection.connected = True
            self.accepted.append(connection)
            if self.on_accept:
                self.on_accept(connection)
        assert connection is not None, f"event {bits:#x} for unknown id {id_}"
        if bits & lib.AMS_EV_CONNECTED:
            connection.connected = True
        if bits & lib.AMS_EV_DATA:
            connection.received += ffi.buffer(self._blob + offset, length)[:]
            used = length
        if bits & lib.AMS_EV_READABLE and not connection.released:
            self._drain(connection)
        if bits & (lib.AMS_EV_DATA | lib.AMS_EV_READABLE) and connection.on_data:
            connection.on_data(connection)
        if bits & lib.AMS_EV_EOF:
            connection.eof = True
            if connection.on_eof:
                connection.on_eof(connection)
        if bits & lib.AMS_EV_DRAINED:
            connection.drained += 1
        if bits & lib.AMS_EV_REFS:
            connection.refs_released += aux
        if bits & lib.AMS_EV_CLOSED:
            connection.closed = status_name(aux)
        if bits & lib.AMS_EV_RELEASED:
            connection.released = True
            del self.connections[id_]
        return used

    def _drain(self, connection: Connection) -> None:
        length = ffi.new("size_t *")
        while True:
            data = lib.ams_tcp_peek(self.stack, connection.id, length)
            if data == ffi.NULL:
                return
            connection.received += ffi.buffer(data, length[0])[:]
            assert lib.ams_tcp_consume(self.stack, connection.id, length[0]) == 0

    def close(self) -> None:
        lib.ams_node_free(self.node)


def _open_node(world: World, addresses: list[str], config: dict[str, Any]) -> Any:
    spec = ffi.new("char[]", b"mem:world")
    port = ffi.new("struct ams_port_config *", {"spec": spec, "hub": world.hub})
    stack = ffi.new("struct ams_stack_config *", config)
    interfaces = [ipaddress.ip_interface(address) for address in addresses]
    ifaddrs = ffi.new("struct ams_ifaddr[]", len(interfaces))
    for slot, interface in zip(ifaddrs, interfaces, strict=True):
        slot.address = endpoint(str(interface.ip))[0]
        slot.prefix_len = interface.network.prefixlen
    stack.addresses = ifaddrs
    stack.n_addresses = len(interfaces)
    if "seed" not in config:
        stack.seed = [world.seed, len(world.hosts) + 1]
    stack.flags = config.get("flags", lib.AMS_STACK_NO_DAD)
    stack.now = world.now
    node = ffi.new("struct ams_node **")
    error = ffi.new("char[]", 256)
    status = lib.ams_node_new(node, port, stack, error, 256)
    assert status == 0, ffi.string(error).decode()
    return node[0]


class Wire:
    """A bare port on the hub; a monitor sees every frame as it was sent, and can still inject."""

    def __init__(self, world: World, *, monitor: bool) -> None:
        self.world = world
        spec = ffi.new("char[]", b"mem:world")
        flags = lib.AMS_PORT_MONITOR if monitor else 0
        config = ffi.new("struct ams_port_config *", {"spec": spec, "hub": world.hub, "flags": flags})
        port = ffi.new("struct ams_port **")
        error = ffi.new("char[]", 256)
        status = lib.ams_port_open(port, config, error, 256)
        assert status == 0, ffi.string(error).decode()
        self.port = port[0]
        self.frames: list[tuple[int, bytes]] = []
        self._buffer = ffi.new("char[]", 70000)

    def inject(self, frame: bytes) -> None:
        """Sends one Ethernet frame."""
        status = lib.ams_port_send(self.port, frame, len(frame), self.world.now)
        assert status >= 0, status_name(status)

    def collect(self) -> bool:
        """Moves what has arrived to ``frames``, with its time in ns."""
        found = False
        while True:
            length = lib.ams_port_recv(self.port, self._buffer, 70000, self.world.now)
            if length < 0:
                return found
            self.frames.append((self.world.now, ffi.buffer(self._buffer, length)[:]))
            found = True

    def close(self) -> None:
        lib.ams_port_close(self.port)


class World:
    """A hub, its hosts, and the time."""

    def __init__(self, seed: int = 1, *, offload: bool = False, mtu: int = 1500, **impairment: Any) -> None:
        self.seed = seed
        self.now = START
        self.hosts: list[Host] = []
        self.wires: list[Wire] = []
        self.checked = True  # look for contradictions after each step
        self.hub = lib.ams_hub_new(seed, mtu, 0 if offload else lib.AMS_HUB_NO_OFFLOAD)
        assert self.hub != ffi.NULL
        if impairment:
            self.impair(**impairment)

    def impair(self, **impairment: Any) -> None:
        """Changes the hub's impairment (fields of ``struct ams_impairment``)."""
        assert lib.ams_hub_impair(self.hub, ffi.new("struct ams_impairment *", impairment)) == 0

    def host(self, *addresses: str, **config: Any) -> Host:
        host = Host(self, addresses, **config)
        self.hosts.append(host)
        return host

    def wire(self, *, monitor: bool = False) -> Wire:
        wire = Wire(self, monitor=monitor)
        self.wires.append(wire)
        return wire

    def settle(self, rounds: int = 10_000) -> None:
        """Lets everything happen that can happen now."""
        for _ in range(rounds):
            busy = False
            for host in self.hosts:
                if host.deadline <= self.now or host.deadline == 0:
                    busy = True
                busy = host.step() or busy
            for wire in self.wires:
                busy = wire.collect() or busy
            frames_wait = lib.ams_hub_deadline(self.hub) <= self.now
            pending = any(host.deadline <= self.now for host in self.hosts)
            if not busy and not frames_wait and not pending:
                return
        raise AssertionError("the world does not come to rest")

    def run(self, duration: int = 10 * SECOND, until: Callable[[], object] | None = None) -> bool:
        """Runs for ``duration`` ns of virtual time, or until ``until()`` holds.

        Returns True if it was ``until`` that ended the run.
        """
        end = self.now + duration
        while True:
            self.settle()
            if until is not None and until():
                return True
            deadline = min([lib.ams_hub_deadline(self.hub), *(host.deadline for host in self.hosts)])
            if deadline >= end:
                self.now = end
                self.settle()
                return bool(until is not None and until())
            self.now = max(deadline, self.now + 1)

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        for host in self.hosts:
            host.close()
        lib.ams_hub_free(self.hub)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
