"""A link with faults between a stack and the kernel: what netem does, on kernels that have none, and repeatable.

Theory of operation
-------------------
The stack opens a TAP, `stack_side`, whose other end nobody has: a packet socket takes what the stack sends and brings
what it is to get.  The kernel's addresses are on a second TAP, `kernel_side`, whose descriptor a thread of ours holds.
The thread carries frames between the two, and every frame meets its fate by a seeded generator of its direction: it is
lost, sent twice, held back until some others have overtaken it, or has one bit flipped behind its Ethernet header.

The kernel's side of `stack_side` has no address and answers nothing (ARP and IPv6 are switched off there).
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any

from .lab import KERNEL4, KERNEL6, command, tap_name

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_ETH_P_ALL = 3
_ETHERNET_HEADER = 14
_HELD_SECONDS = 0.003
_NEIGHBOUR = (b"\x08\x06",)  # EtherType of ARP: spared, its retries take a second each


class FaultyLink:
    """Probabilities, for each frame of either direction: loss, duplicate, reorder, corrupt."""

    def __init__(
        self, seed: int, *, loss: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, corrupt: float = 0.0
    ) -> None:
        self._faults = {"loss": loss, "duplicate": duplicate, "reorder": reorder, "corrupt": corrupt}
        self._random = (random.Random(seed), random.Random(seed + 1))
        self.stack_side, self.kernel_side = tap_name(), tap_name()
        #: How many frames met with each fault.
        self.counts: Counter[str] = Counter()
        self._held: deque[tuple[float, int, bytes]] = deque()
        self._stop_reader, self._stop_writer = os.pipe2(os.O_CLOEXEC)
        self._tap = open_tap(self.kernel_side)
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # hears nothing until it is bound
        self._thread = threading.Thread(target=self._carry, name="faulty link")
        for address in (f"{KERNEL4}/24", f"{KERNEL6}/64"):
            command("ip", "address", "add", address, "dev", self.kernel_side, "nodad")
        command("ip", "link", "set", self.kernel_side, "up")

    def __enter__(self) -> FaultyLink:
        return self

    def start(self) -> None:
        """Connects both sides, once the stack has opened its own."""
        Path(f"/proc/sys/net/ipv6/conf/{self.stack_side}/disable_ipv6").write_text("1")
        command("ip", "link", "set", self.stack_side, "arp", "off")
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._packets.bind((self.stack_side, _ETH_P_ALL))
        self._packets.setblocking(False)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        os.write(self._stop_writer, b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for descriptor in (self._tap, self._stop_reader, self._stop_writer):
            os.close(descriptor)
        self._packets.close()

    # ---- the thread ---------------------------------------------------------------------------------------

    def _carry(self) -> None:
        poller = select.poll()
        for descriptor in (self._stop_reader, self._tap, self._packets.fileno()):
            poller.register(descriptor, select.POLLIN)
        while True:
            wait = self._held[0][0] - time.monotonic() if self._held else None
            ready = {descriptor for descriptor, _ in poller.poll(None if wait is None else max(0.0, wait * 1000))}
            if self._stop_reader in ready:
                return
            if self._tap in ready:
                self._take_all(0)
            if self._packets.fileno() in ready:
                self._take_all(1)
            while self._held and self._held[0][0] <= time.monotonic():
                _, direction, frame = self._held.popleft()
                self._deliver(direction, frame)

    def _take_all(self, direction: int) -> None:
        """Takes what waits on one side, up to a batch."""
        for _ in range(64):
            try:
                if direction == 0:
                    frame = os.read(self._tap, 65536)
                else:
                    frame, address = self._packets.recvfrom(65536)
                    if address[2] == socket.PACKET_OUTGOING:
                        continue  # our own, on its way to the stack
            except OSError:  # nothing more, or the stack's side is gone
                return
            self._fate(direction, frame)

    def _fate(self, direction: int, frame: bytes) -> None:
        rng, faults = self._random[direction], self._faults
        if frame[12:14] in _NEIGHBOUR:
            self._deliver(direction, frame)
            return
        met = {name for name, probability in faults.items() if rng.random() < probability}
        self.counts.update(met)
        if "loss" in met:
            return
        if "corrupt" in met:
            bit = rng.randrange(_ETHERNET_HEADER * 8, len(frame) * 8)
            damaged = bytearray(frame)
            damaged[bit // 8] ^= 1 << bit % 8
            frame = bytes(damaged)
        for _ in range(2 if "duplicate" in met else 1):
            if "reorder" in met:
                self._held.append((time.monotonic() + _HELD_SECONDS, direction, frame))
            else:
                self._deliver(direction, frame)

    def _deliver(self, direction: int, frame: bytes) -> None:
        """A frame to the stack (0) or the kernel (1); what a full queue or a dead end refuses is lost."""
        try:
            if direction == 0:
                self._packets.send(frame)
            else:
                os.write(self._tap, frame)
        except OSError:
            self.counts["refused"] += 1


def open_tap(name: str) -> int:
    """A TAP device of our own, without offloads."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request: Any = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
