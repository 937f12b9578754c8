"""A fabric with clients, as tests drive it: by hand, one round at a time, or on its own thread."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import Any

from aiomultistack._native import ffi, lib
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from aiomultistack import _node

MAC, PEER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
US4, PEER4 = "10.0.0.1", "10.0.0.2"
US6, PEER6 = "fd00::1", "fd00::2"
TCP_PROTO, UDP_PROTO = 6, 17
CONTROL, UPLINK, HOST = lib.AMS_FABRIC_CONTROL, lib.AMS_FABRIC_UPLINK, lib.AMS_FABRIC_HOST

# where things are in a client's memory (native/io/ring.c)
RING_OFFSETS = 56
RING_FIELDS = {"num_slots": 8, "buf_size": 12, "head": 20, "cur": 24, "tail": 28}
SLOTS = 256
SLOT = struct.Struct("=IHHQ")


def endpoint(address: str, port: int) -> Any:
    """struct ams_endpoint of an address."""
    return _node.endpoint((address, port))


def name_of(status: int) -> str:
    """A status' name; "OK" for 0 and above."""
    return "OK" if status >= 0 else str(ffi.string(lib.ams_status_name(status)).decode())


def datagram(sport: int, dport: int, *, v6: bool = False, payload: bytes = b"x" * 18, src: str = "", dst: str = "",
             src_mac: str = MAC, dst_mac: str = MAC, tcp: str = "") -> bytes:
    """A UDP packet (TCP with flags `tcp`) in a frame, from one of ours to another unless said otherwise."""
    network: Packet = IPv6(src=src or US6, dst=dst or US6) if v6 else IP(src=src or US4, dst=dst or US4)
    transport: Packet = TCP(sport=sport, dport=dport, flags=tcp) if tcp else UDP(sport=sport, dport=dport)
    return bytes(Ether(src=src_mac, dst=dst_mac) / network / transport / Raw(payload))


class Rings:
    """A client's memory, to be written to without any of the rules."""

    def __init__(self, memory_fd: int) -> None:
        self.map = mmap.mmap(memory_fd, os.fstat(memory_fd).st_size)
        (self.tx,) = struct.unpack_from("=q", self.map, RING_OFFSETS)

    def field(self, ring: int, name: str) -> int:
        return int(struct.unpack_from("=I", self.map, ring + RING_FIELDS[name])[0])

    def set_field(self, ring: int, name: str, value: int) -> None:
        struct.pack_into("=I", self.map, ring + RING_FIELDS[name], value & 0xFFFFFFFF)

    def slot(self, ring: int, number: int) -> tuple[int, int, int, int]:
        return SLOT.unpack_from(self.map, ring + SLOTS + SLOT.size * number)  # type: ignore[return-value]

    def set_slot(self, ring: int, number: int, buf_idx: int, length: int, flags: int = 0) -> None:
        SLOT.pack_into(self.map, ring + SLOTS + SLOT.size * number, buf_idx, length, flags, 0)

    def close(self) -> None:
        self.map.close()


class Client:
    """One attached port."""

    def __init__(self, fabric: Fabric, *, tx_slots: int = 64, rx_slots: int = 64, flags: int = 0) -> None:
        link = ffi.new("struct ams_fabric_link *")
        limits = {"tx_slots": tx_slots, "rx_slots": rx_slots, "flags": flags}
        status = lib.ams_fabric_attach(fabric.handle, ffi.new("struct ams_fabric_limits *", limits), link)
        if status < 0:
            raise OSError(lib.ams_status_errno(status), name_of(status))
        self.fabric = fabric
        self.index = int(link.index)
        assert self.index == status
        self.fds = (link.memory_fd, link.kick_fd, link.notify_fd)
        self.port: Any = None

    @property
    def spec(self) -> str:
        """What opens its port."""
        return "shm:" + ",".join(map(str, self.fds))

    def open(self) -> None:
        """Opens the client's end."""
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_port **")
        spec = ffi.new("char[]", self.spec.encode())
        status = lib.ams_port_open(out, ffi.new("struct ams_port_config *", {"spec": spec}), error, len(error))
        assert status == 0, ffi.string(error)
        self.port = out[0]

    def rings(self) -> Rings:
        """Its memory, raw."""
        return Rings(self.fds[0])

    def claim(self, port: int, *, address: str = "", protocol: int = UDP_PROTO, group: bool = False) -> str:
        """Claims a port number on an address, or on both of ours."""
        for each in [address] if address else [US4, US6]:
            status = lib.ams_fabric_claim(self.fabric.handle, self.index, protocol, endpoint(each, port), int(group))
            if status < 0:
                return name_of(status)
        return "OK"

    def release(self, port: int, *, address: str = "", protocol: int = UDP_PROTO) -> str:
        for each in [address] if address else [US4, US6]:
            status = lib.ams_fabric_release(self.fabric.handle, self.index, protocol, endpoint(each, port))
            if status < 0:
                return name_of(status)
        return "OK"

    def send(self, frame: bytes) -> str:
        if not self.port:
            self.open()
        return name_of(lib.ams_port_send(self.port, frame, len(frame), 0))

    def receive(self) -> list[bytes]:
        """All frames that wait."""
        if not self.port:
            self.open()
        frames = []
        buffer = ffi.new("char[]", 16384)
        while (length := lib.ams_port_recv(self.port, buffer, len(buffer), 0)) >= 0:
            frames.append(bytes(ffi.buffer(buffer, length)))
        assert name_of(length) == "EAGAIN"
        return frames

    def counters(self) -> dict[str, int]:
        return self.fabric.counters(self.index)

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def close(self) -> None:
        if self.port:
            lib.ams_port_close(self.port)
            self.port = None
        self.close_fds()


class Fabric:
    """The switch; without a thread until start()."""

    def __init__(self, **config: Any) -> None:
        self.keep: list[Any] = []
        self.clients: list[Client] = []
        for name in ("uplink", "host"):
            if name in config:
                config[name] = self._port_config(config[name])
        config = {"mac": bytes.fromhex(MAC.replace(":", "")), "cpu": -1, "seed": [1, 2], **config}
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_fabric **")
        status = lib.ams_fabric_new(out, ffi.new("struct ams_fabric_config *", config), error, len(error))
        if status < 0:
            raise OSError(lib.ams_status_errno(status), ffi.string(error).decode())
        self.handle = out[0]
        for address, prefix in ((US4, 24), (US6, 64)):
            assert self.serve(address, prefix) == "OK"

    def _port_config(self, what: tuple[str, Any]) -> dict[str, Any]:
        spec = ffi.new("char[]", what[0].encode())
        self.keep.append(spec)
        return {"spec": spec, "hub": what[1]}

    def serve(self, address: str, prefix: int) -> str:
        served = ffi.new("struct ams_ifaddr *", {"address": endpoint(address, 0)[0], "prefix_len": prefix})
        return name_of(lib.ams_fabric_add_address(self.handle, served))

    def attach(self, **limits: Any) -> Client:
        client = Client(self, **limits)
        self.clients.append(client)
        return client

    def detach(self, client: Client) -> None:
        assert lib.ams_fabric_detach(self.handle, client.index) == 0
        client.close()
        self.clients.remove(client)

    def run(self) -> None:
        """Rounds until nothing moves any more."""
        while lib.ams_fabric_poll(self.handle, 0) > 0:
            pass

    def start(self) -> None:
        assert lib.ams_fabric_start(self.handle) == 0

    def counters(self, index: int = -1) -> dict[str, int]:
        """The counters that are not 0, of a port or of all."""
        values = ffi.new("uint64_t[]", 256)
        n = lib.ams_fabric_counters(self.handle, index, values, len(values))
        assert n > 0, name_of(n)
        return {ffi.string(lib.ams_fabric_counter_name(i)).decode(): values[i] for i in range(n) if values[i]}

    def drops(self, index: int = -1) -> dict[str, int]:
        """Those that count dropped frames."""
        values = ffi.new("uint64_t[]", 256)
        n = lib.ams_fabric_counters(self.handle, index, values, len(values))
        return {ffi.string(lib.ams_fabric_counter_name(i)).decode(): values[i]
                for i in range(n) if values[i] and lib.ams_fabric_counter_drop(i)}

    def punted(self) -> list[tuple[int, bytes]]:
        """What waits for the control plane: who sent it, and the frame."""
        info = ffi.new("struct ams_fabric_frame *")
        buffer = ffi.new("char[]", 16384)
        frames = []
        while lib.ams_fabric_punted(self.handle, info, buffer, len(buffer)) == 1:
            frames.append((info.index, bytes(ffi.buffer(buffer, info.captured))))
        return frames

    def captured(self) -> list[tuple[int, bool, str, bytes]]:
        """What was captured: port, whether it went there, why it was dropped ("" if it wasn't), bytes."""
        info = ffi.new("struct ams_fabric_frame *")
        buffer = ffi.new("char[]", 16384)
        frames = []
        while lib.ams_fabric_captured(self.handle, info, buffer, len(buffer)) == 1:
            reason = ffi.string(lib.ams_fabric_counter_name(info.reason)).decode() if info.reason >= 0 else ""
            frames.append((info.index, bool(info.outgoing), reason, bytes(ffi.buffer(buffer, info.captured))))
        return frames

    def close(self) -> None:
        for client in self.clients:
            client.close()
        lib.ams_fabric_free(self.handle)
        self.handle = ffi.NULL

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hub:
    """An Ethernet in memory, with a port for the test and a name for the fabric's."""

    def __init__(self) -> None:
        self.hub = lib.ams_hub_new(1, 0, lib.AMS_HUB_NO_OFFLOAD)
        self.port, self.monitor = self._open(0), self._open(lib.AMS_PORT_MONITOR)

    def _open(self, flags: int) -> Any:
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_port **")
        spec = ffi.new("char[]", b"mem:peer")
        config = {"spec": spec, "hub": self.hub, "flags": flags}
        assert lib.ams_port_open(out, ffi.new("struct ams_port_config *", config), error, len(error)) == 0
        return out[0]

    @property
    def config(self) -> tuple[str, object]:
        return "mem:fabric", self.hub

    def send(self, frame: bytes) -> None:
        """Sends a frame to the fabric."""
        self.receive()
        assert lib.ams_port_send(self.port, frame, len(frame), 0) == 0
        self.receive()

    def receive(self) -> list[bytes]:
        """What the fabric has sent since, whoever it is for."""
        frames = []
        buffer = ffi.new("char[]", 4096)
        while (length := lib.ams_port_recv(self.monitor, buffer, len(buffer), 0)) >= 0:
            frames.append(bytes(ffi.buffer(buffer, length)))
        return frames

    def close(self) -> None:
        lib.ams_port_close(self.monitor)
        lib.ams_port_close(self.port)
        lib.ams_hub_free(self.hub)


@contextlib.contextmanager
def pair(**config: Any) -> Any:
    """A fabric with two clients that own port 1 and port 2, UDP and TCP."""
    with Fabric(**config) as fabric:
        clients = [fabric.attach(), fabric.attach()]
        for number, client in enumerate(clients, 1):
            for protocol in (UDP_PROTO, TCP_PROTO):
                assert client.claim(number, protocol=protocol) == "OK"
        yield fabric, *clients
