"""The native data path of the switch, with Python types: a handle to `struct ams_fabric`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._addresses import SockAddr, pack
from ._errors import ConfigError, port_error
from ._node import STATUS, check_status, ffi, lib

__all__ = ["CONTROL", "FIRST_CLIENT", "HOST", "UPLINK", "Fabric", "Frame", "Link"]

CONTROL: int = lib.AMS_FABRIC_CONTROL
UPLINK: int = lib.AMS_FABRIC_UPLINK
HOST: int = lib.AMS_FABRIC_HOST
FIRST_CLIENT: int = lib.AMS_FABRIC_CLIENTS

_ERROR_SIZE = 512
_FRAME_SIZE = 65549
_FLOWS: int = lib.AMS_FABRIC_FLOWS


@dataclass(frozen=True)
class Link:
    """A client's port: its number, and the descriptors that it is to have, which are ours to close."""

    index: int
    descriptors: tuple[int, int, int]


@dataclass(frozen=True)
class Frame:
    """A frame that the data path handed out; the fields are those of `struct ams_fabric_frame`."""

    time: int
    index: int
    outgoing: int
    reason: int
    length: int
    data: bytes


def _endpoint(address: SockAddr) -> Any:
    pointer = ffi.new("struct ams_endpoint *")
    ffi.buffer(pointer)[:] = pack(address)
    return pointer


class Fabric:
    """Opens uplink and host port, and switches between them and clients once `start()` was called.

    uplink, host: ports as in `Config.port`; empty: none.
    mac: 6 bytes, all zero: the uplink's, or made from the seed.  mtu: bytes, 0: the uplink's.
    host_shares: the host's stack has the addresses too, with the same MAC; it gets what nobody claimed.
    host_apart: nothing passes between uplink and host.

    Raises PortError, PortPermissionError or ConfigError.
    """

    def __init__(
        self, *, uplink: str, host: str, mac: bytes, mtu: int, seed: tuple[int, int], host_shares: bool,
        host_apart: bool, max_clients: int, max_claims: int, slots: int, max_slots: int,
    ) -> None:  # fmt: skip
        config = ffi.new("struct ams_fabric_config *")
        keep = [ffi.new("char[]", spec.encode()) for spec in (uplink, host)]
        config.mac, config.mtu, config.seed = mac, mtu, seed
        config.flags = host_shares * lib.AMS_FABRIC_HOST_SHARES | host_apart * lib.AMS_FABRIC_HOST_APART
        if uplink:
            config.uplink.spec = keep[0]
            config.uplink.mtu = mtu
        if host:
            config.host.spec = keep[1]
            config.host.mtu = mtu
        config.max_clients, config.max_claims = max_clients, max_claims
        config.tx_slots = config.rx_slots = slots
        config.max_slots = max_slots
        config.cpu = -1
        out = ffi.new("struct ams_fabric **")
        error = ffi.new("char[]", _ERROR_SIZE)
        status = lib.ams_fabric_new(out, config, error, _ERROR_SIZE)
        if status < 0:
            number = lib.ams_status_errno(status)
            text = ffi.string(error).decode("utf-8", "replace") or ffi.string(lib.ams_status_text(status)).decode()
            raise ConfigError(text) if status == STATUS["EINVAL"] else port_error(number, text)
        self._pointer: Any = ffi.gc(out[0], lib.ams_fabric_free)
        self._buffer = ffi.new("char[]", _FRAME_SIZE)
        self._frame = ffi.new("struct ams_fabric_frame *")
        self._flows = ffi.new("struct ams_fabric_flow[]", _FLOWS)
        self.counter_names = _names(lib.ams_fabric_counter_name)
        self.counter_texts = _names(lib.ams_fabric_counter_text)
        self.drops = tuple(bool(lib.ams_fabric_counter_drop(index)) for index in range(len(self.counter_names)))

    def start(self) -> None:
        """Starts the thread that moves frames."""
        check_status(lib.ams_fabric_start(self._pointer))

    def close(self) -> None:
        """Ends the thread, detaches everybody and closes the ports; idempotent."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            ffi.release(pointer)

    # ---- clients ------------------------------------------------------------------------------------------

    def attach(self, tx_slots: int = 0, rx_slots: int = 0, control: bool = False) -> Link:
        """A new client's port; raises OSError (EMFILE: too many)."""
        limits = ffi.new("struct ams_fabric_limits *")
        limits.tx_slots, limits.rx_slots = tx_slots, rx_slots
        limits.flags = lib.AMS_ATTACH_CONTROL if control else 0
        link = ffi.new("struct ams_fabric_link *")
        check_status(lib.ams_fabric_attach(self._pointer, limits, link))
        return Link(link.index, (link.memory_fd, link.kick_fd, link.notify_fd))

    def detach(self, index: int) -> bytes:
        """Takes a client's tuples and port away; returns the connections that its memory lists.

        They are pairs of `struct ams_endpoint`, local and remote, and nothing in them is to be believed.
        """
        if self._pointer is None:
            return b""
        count = lib.ams_fabric_detach_flows(self._pointer, index, self._flows, _FLOWS)
        return bytes(ffi.buffer(self._flows)[: max(count, 0) * ffi.sizeof("struct ams_fabric_flow")])

    def claim(self, index: int, protocol: int, address: SockAddr, flags: int = 0) -> int:
        """Gives a client a tuple; returns 0 or a negative status."""
        return int(lib.ams_fabric_claim(self._pointer, index, protocol, _endpoint(address), flags))

    def claim_ports(self, index: int, protocol: int, address: SockAddr, count: int) -> int:
        """Gives a client the tuples of `count` port numbers, from the address's on, or none; returns as claim()."""
        return int(lib.ams_fabric_claim_ports(self._pointer, index, protocol, _endpoint(address), count, 0))

    def release(self, index: int, protocol: int, address: SockAddr) -> None:
        """Takes a tuple back."""
        lib.ams_fabric_release(self._pointer, index, protocol, _endpoint(address))

    def add_address(self, host: str, prefix: int) -> None:
        """Serves an address; raises OSError."""
        address = ffi.new("struct ams_ifaddr *")
        address.address = _endpoint((host, 0) if ":" not in host else (host, 0, 0, 0))[0]
        address.prefix_len = prefix
        check_status(lib.ams_fabric_add_address(self._pointer, address))

    # ---- what it knows ------------------------------------------------------------------------------------

    def port_info(self, index: int) -> dict[str, Any]:
        """Counts, MTU and MAC of a port; raises OSError if there is none."""
        info = ffi.new("struct ams_port_info *")
        check_status(lib.ams_fabric_port_info(self._pointer, index, info))
        counts = ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "rx_dropped", "tx_dropped")
        return {"mtu": int(info.mtu), "mac": bytes(info.mac)} | {name: int(getattr(info, name)) for name in counts}

    def ports(self) -> list[int]:
        """The indices in use."""
        size = lib.ams_fabric_ports(self._pointer, ffi.NULL, 0)
        indices = ffi.new("int[]", max(size, 1))
        count = min(lib.ams_fabric_ports(self._pointer, indices, size), size)
        return [int(indices[number]) for number in range(count)]

    def counters(self, index: int = -1) -> dict[str, int]:
        """Counters of one port, or of all ports together, by name."""
        size = len(self.counter_names)
        values = ffi.new("uint64_t[]", size)
        if lib.ams_fabric_counters(self._pointer, index, values, size) < 0:
            return {}
        return dict(zip(self.counter_names, ffi.unpack(values, size), strict=True))

    # ---- frames -------------------------------------------------------------------------------------------

    @property
    def punt_fd(self) -> int:
        """Readable when `punted()` has a frame."""
        return int(lib.ams_fabric_punt_fd(self._pointer))

    def punted(self) -> Frame | None:
        """The next frame that the control plane must look at."""
        status = lib.ams_fabric_punted(self._pointer, self._frame, self._buffer, _FRAME_SIZE)
        return self._taken() if status == 1 else None

    def inject(self, index: int, frame: bytes) -> bool:
        """Gives a frame to a port, or (CONTROL) to whom it is addressed; False if that was full."""
        return int(lib.ams_fabric_inject(self._pointer, index, frame, len(frame))) == 0

    def capture(self, index: int, snap: int, frames: int) -> None:
        """Copies a port's frames (-1: all) into a queue of `frames` places; 0 places: no longer."""
        check_status(lib.ams_fabric_capture(self._pointer, index, snap, frames))

    @property
    def capture_fd(self) -> int:
        """Readable when `captured()` has a frame."""
        return int(lib.ams_fabric_capture_fd(self._pointer))

    @property
    def capture_lost(self) -> int:
        """Frames that found the queue full."""
        return int(lib.ams_fabric_capture_lost(self._pointer))

    def captured(self) -> Frame | None:
        """The next frame of a capture."""
        status = lib.ams_fabric_captured(self._pointer, self._frame, self._buffer, _FRAME_SIZE)
        return self._taken() if status == 1 else None

    def _taken(self) -> Frame:
        info = self._frame
        data = ffi.buffer(self._buffer, info.captured)[:]
        return Frame(info.time, info.index, info.outgoing, info.reason, info.length, data)


def _names(function: Any) -> list[str]:
    names: list[str] = []
    while (name := function(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names
