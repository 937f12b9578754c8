"""Both ends of each kind of port: what the contract suite is run over."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from aiomultistack._native import ffi, lib
from support import own_namespace

SOL_PACKET = 263
PACKET_VNET_HDR = 15
ETH_P_ALL = 3
PATIENCE = 5.0  # seconds until a frame that must come is taken for lost


class PortError(OSError):
    """A port that couldn't be opened; ``status`` names the AMS status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(lib.ams_status_errno(status), text)
        self.status: str = ffi.string(lib.ams_status_name(status)).decode()
        self.text = text


class Port:
    """A raw port."""

    ffi: Any = ffi  # those of a library that has other ports
    lib: Any = lib

    def __init__(self, spec: str, *, flags: int = 0, mtu: int = 0, hub: Any = ffi.NULL, pool_frames: int = 0) -> None:
        name = ffi.new("char[]", spec.encode())
        config = ffi.new("struct ams_port_config *", {"spec": name, "flags": flags, "mtu": mtu, "hub": hub,
                                                      "pool_frames": pool_frames})
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_port **")
        status = lib.ams_port_open(out, config, error, len(error))
        if status < 0:
            raise PortError(status, ffi.string(error).decode())
        self.handle = out[0]

    def close(self) -> None:
        """Closes it; twice is harmless."""
        if self.handle:
            self.lib.ams_port_close(self.handle)
            self.handle = self.ffi.NULL

    @property
    def info(self) -> Any:
        """struct ams_port_info, now."""
        info = self.ffi.new("struct ams_port_info *")
        self.lib.ams_port_info(self.handle, info)
        return info

    def send(self, frame: bytes) -> str:
        """Sends a frame; "OK" or the name of the status."""
        return self.status_name(self.lib.ams_port_send(self.handle, frame, len(frame), 0))

    def status_name(self, status: int) -> str:
        """The name of a status."""
        return str(self.ffi.string(self.lib.ams_status_name(status)).decode())

    def try_recv(self, size: int = 70000) -> tuple[int, bytes] | str:
        """The next frame's full length and its first ``size`` bytes, or the name of the status."""
        buffer = self.ffi.new("char[]", size)
        length = self.lib.ams_port_recv(self.handle, buffer, size, 0)
        if length < 0:
            return self.status_name(length)
        return length, bytes(self.ffi.buffer(buffer, min(length, size)))

    def readable(self, timeout: float = 0) -> bool:
        """Whether fd becomes readable within ``timeout`` seconds."""
        return bool(select.select([self.info.fd], [], [], timeout)[0])

    def recv(self) -> bytes:
        """The next frame, waiting for it."""
        assert self.readable(PATIENCE), "no frame came"
        got = self.try_recv()
        assert isinstance(got, tuple), got
        return got[1]


class Segment(Protocol):
    """A link with our port at one end and a peer at the other."""

    port: Port

    def peer_send(self, frame: bytes) -> None:
        """Sends a frame towards the port."""

    def peer_recv(self) -> bytes:
        """The next test frame from the port."""

    def again(self) -> Port:
        """Another port of the kind, once the first is closed."""


class MemSegment:
    """Two mem ports on one hub."""

    def __init__(self, flags: int) -> None:
        self.hub = lib.ams_hub_new(1, 0, flags)
        self.port = Port("mem:contract", hub=self.hub)
        self.peer = Port("mem:contract", hub=self.hub)

    def peer_send(self, frame: bytes) -> None:
        assert self.peer.send(frame) == "OK"

    def peer_recv(self) -> bytes:
        return self.peer.recv()

    def again(self) -> Port:
        return Port("mem:x", hub=self.hub)

    def close(self) -> None:
        self.port.close()
        self.peer.close()
        lib.ams_hub_free(self.hub)


class ShmSegment:
    """A port on shared rings; the test is the device at their other end, since a switch would not pass such frames.

    The memory is made by a fabric that never runs.
    """

    SLOTS, HEADER = 256, 256

    def __init__(self) -> None:
        error = ffi.new("char[]", 256)
        out = ffi.new("struct ams_fabric **")
        config = {"cpu": -1, "mac": bytes([2, 0, 0, 0, 0, 1]), "tx_slots": self.SLOTS, "rx_slots": self.SLOTS}
        assert lib.ams_fabric_new(out, ffi.new("struct ams_fabric_config *", config), error, len(error)) == 0
        self.fabric = out[0]
        self.link = ffi.new("struct ams_fabric_link *")
        assert lib.ams_fabric_attach(self.fabric, ffi.NULL, self.link) >= 0
        self.notify, self._notifier = os.pipe()
        self._memory = mmap.mmap(self.link.memory_fd, os.fstat(self.link.memory_fd).st_size)
        self._tx, _, self._rx, _ = struct.unpack_from("=4q", self._memory, 56)
        self._next = 0  # of the TX ring's slots
        self.port = self.again()

    @property
    def fds(self) -> tuple[int, int, int]:
        """What a client gets: memory, kick, notify."""
        return self.link.memory_fd, self.link.kick_fd, self.notify

    def again(self) -> Port:
        return Port("shm:{},{},{}".format(*self.fds))

    def _buffer(self, ring: int, slot: int) -> tuple[int, int]:
        """Where a slot's buffer is, and how much of it is used."""
        buf_ofs, _, buf_size = struct.unpack_from("=qII", self._memory, ring)
        buf_idx, length = struct.unpack_from("=IH", self._memory, ring + self.HEADER + 16 * slot)
        return ring + buf_ofs + buf_idx * buf_size, length

    def peer_send(self, frame: bytes) -> None:
        (tail,) = struct.unpack_from("=I", self._memory, self._rx + 28)
        start, _ = self._buffer(self._rx, tail)
        self._memory[start : start + len(frame)] = frame
        struct.pack_into("=HH", self._memory, self._rx + self.HEADER + 16 * tail + 4, len(frame), 0)
        struct.pack_into("=I", self._memory, self._rx + 28, (tail + 1) % self.SLOTS)
        (armed,) = struct.unpack_from("=I", self._memory, 192)
        if armed:
            struct.pack_into("=I", self._memory, 192, 0)
            os.write(self._notifier, b"x")

    def peer_recv(self) -> bytes:
        (head,) = struct.unpack_from("=I", self._memory, self._tx + 20)
        assert head != self._next, "no frame was sent"
        start, length = self._buffer(self._tx, self._next)
        frame = bytes(self._memory[start : start + length])
        struct.pack_into("=I", self._memory, self._tx + 28, self._next)
        self._next = (self._next + 1) % self.SLOTS
        return frame

    def close(self) -> None:
        self.port.close()
        self._memory.close()
        lib.ams_fabric_free(self.fabric)
        for fd in (self.notify, self._notifier, self.link.memory_fd, self.link.kick_fd, self.link.notify_fd):
            os.close(fd)


class SwitchSegment(ShmSegment):
    """The same rings, from a daemon that grants them to whoever says hello."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.path = f"{self._directory.name}/socket"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._idle = threading.Semaphore(0)
        super().__init__()

    def again(self) -> Port:
        if not self._thread.is_alive():
            self._thread.start()
        return SwitchPort(f"switch:{self.path}", self._idle)

    def _serve(self) -> None:
        """Welcomes one client after the other, until there is an empty message."""
        while True:
            client, _ = self._listener.accept()
            with client:
                hello = client.recv(lib.AMS_MSG_SIZE)
                if not hello:
                    return
                socket.send_fds(client, [self._welcome(hello)], self.fds)
                assert client.recv(1) == b"", "a raw port asks for nothing"
            self._idle.release()

    def _welcome(self, hello: bytes) -> bytes:
        welcome = ffi.new("struct ams_msg_welcome *")
        head = ffi.buffer(ffi.addressof(welcome, "head"))
        head[:] = hello[: len(head)]
        welcome.head.type |= lib.AMS_MSG_ANSWER
        welcome.mtu = 1500
        welcome.identity.mac = bytes([2, 0, 0, 0, 0, 1])
        return bytes(ffi.buffer(welcome))

    def close(self) -> None:
        self.port.close()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
            end.connect(self.path)
        self._thread.join()
        self._listener.close()
        self._directory.cleanup()
        super().close()


class SwitchPort(Port):
    """A port whose daemon is in this process: it is closed when that has closed its end too."""

    def __init__(self, spec: str, idle: threading.Semaphore) -> None:
        super().__init__(spec)
        self._idle = idle

    def close(self) -> None:
        if self.handle:
            super().close()
            self._idle.acquire()


class TapSegment:
    """A TAP device and a packet socket on the kernel's side of it."""

    def __init__(self, name: str, flags: int) -> None:
        self.port = Port(f"tap:{name}", flags=flags)
        ip("link", "set", name, "up")
        self.peer = packet_socket(name)

    def again(self) -> Port:
        return Port("tap:ams1")

    def peer_send(self, frame: bytes) -> None:
        self.peer.send(frame)

    def peer_recv(self) -> bytes:
        while True:
            data, address = self.peer.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING:
                return data

    def close(self) -> None:
        self.port.close()
        self.peer.close()


class XdpSegment:
    """A veth pair with an XDP port that takes everything at one end, and a packet socket at the other."""

    def __init__(self, name: str, mtu: int = 1500) -> None:
        self.peer_name = f"{name}p"
        veth(name, self.peer_name, mtu)
        self.name = name
        self.port = Port(f"xdp:{name}", flags=lib.AMS_PORT_ALL)
        self.peer = packet_socket(self.peer_name)

    def again(self) -> Port:
        return Port(f"xdp:{self.name}")

    def peer_send(self, frame: bytes) -> None:
        self.peer.send(frame)

    def peer_recv(self) -> bytes:
        while True:
            data, address = self.peer.recvfrom(70000)
            if address[2] != socket.PACKET_OUTGOING:
                return data

    def close(self) -> None:
        self.port.close()
        self.peer.close()


def veth(name: str, peer: str, mtu: int = 1500) -> None:
    """Makes a veth pair, both ends up."""
    ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", "name", peer, "mtu", str(mtu))
    ip("link", "set", name, "up")
    ip("link", "set", peer, "up")


def packet_socket(name: str, *, vnet: bool = False) -> socket.socket:
    """A packet socket on a device; with ``vnet`` each frame has a virtio-net header in front."""
    peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    if vnet:
        peer.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    peer.bind((name, 0))
    peer.settimeout(PATIENCE)
    return peer


def vnet_header(*, gso_type: int, header_length: int, gso_size: int, csum_start: int, csum_offset: int) -> bytes:
    """struct virtio_net_hdr with NEEDS_CSUM."""
    return struct.pack("=BBHHHH", 1, gso_type, header_length, gso_size, csum_start, csum_offset)


def ip(*arguments: str) -> None:
    """Runs ip(8) in the current network namespace."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def quiet_namespace() -> Iterator[None]:
    """Puts this thread into a network namespace of its own, quiet and empty; nothing of it stays."""
    with own_namespace():
        disable = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        if disable.exists():
            disable.write_text("1")  # no router solicitations among the test frames
        yield
