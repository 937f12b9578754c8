"""Tells the peers of a process that died that their connections are over.

Theory of operation
-------------------
A kernel closes the connections of a process that it ends.  A stack in the process itself can't; its peers are reset
when they send something, as soon as nobody has the tuple any more, but one who only waits would wait forever.  What
the process was connected to stands in its shared memory (native/io/flows.h), which the daemon reads when it has gone.

No sequence number is known, nor needed.  Each peer gets a segment of one byte whose numbers are random, and so outside
of its window; it answers with an ACK (RFC 9293 section 3.10.7.4, RFC 5961 section 5), to a connection that nobody has,
which whoever speaks for the address now (the switch's own stack, the system, or another process that listens on the
port) answers with a reset of exactly the right number.  A timestamp option is there because some drop segments without
one (RFC 7323 section 3.2), the byte because of those whose timestamp is old only ones with data may be answered.
Somebody who doesn't know the connection any more answers with a reset, which ends it.

Nothing happens to a connection that lives, so that the list needn't be true: it was the process's own memory, and may
hold anything.  What is sent is limited to local tuples that the process had, and to a pace.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from ._addresses import ENDPOINT_SIZE, SockAddr, unpack

__all__ = ["Farewells", "checksum", "probe"]

_PAIR = 2 * ENDPOINT_SIZE  # struct ams_fabric_flow
_IPV4, _IPV6 = 0x0800, 0x86DD
_ACK = 0x10
_TCP = struct.Struct("!HH4s4sHHHHBBBB4sI")  # RFC 9293 section 3.1 with two NOPs and a timestamp (RFC 7323 section 3.2)
_WORDS = _TCP.size // 4
_BYTE = b"\0"

_INTERVAL = 0.005  # seconds between bursts
_BURST = 64  # packets
_LIMIT = 65536  # that may wait
_AGAIN = 0.7  # seconds until a second packet, should the first or its answer be lost; Linux answers twice a second
_PATIENCE = 3.5  # seconds until a next hop has not answered (RFC 4861 section 10: three times one second)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def probe(local: SockAddr, remote: SockAddr, to: bytes, mac: bytes) -> bytes:
    """The frame with a segment from local to remote that no connection expects.

    to, mac: its destination and source addresses on the Ethernet.
    """
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    source, target = socket.inet_pton(family, local[0]), socket.inet_pton(family, remote[0])
    numbers = os.urandom(14)
    ends, flags, stamp = (local[1], remote[1], numbers[:4], numbers[4:8]), _WORDS << 12 | _ACK, numbers[8:12]
    pseudo = source + target + struct.pack("!II", _TCP.size + len(_BYTE), socket.IPPROTO_TCP)
    sum_ = checksum(pseudo + _TCP.pack(*ends, flags, 0, 0, 0, 1, 1, 8, 10, stamp, 0) + _BYTE)
    segment = _TCP.pack(*ends, flags, 0, sum_, 0, 1, 1, 8, 10, stamp, 0) + _BYTE
    if family == socket.AF_INET6:
        header = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64) + source + target
        return to + mac + struct.pack("!H", _IPV6) + header + segment
    length = 20 + len(segment)
    words = struct.pack("!BBH2sHBB", 0x45, 0, length, numbers[12:14], 0x4000, 64, socket.IPPROTO_TCP)
    sum_ = checksum(words + b"\0\0" + source + target)
    return to + mac + struct.pack("!H", _IPV4) + words + struct.pack("!H", sum_) + source + target + segment


class Farewells:
    """Sends what is to be sent after deaths, in bursts.

    mac: the source of it.
    hop: the Ethernet address by which a host is reached; None while it is being asked for; OSError if there is none.
    send: sends a frame to whom it is addressed; False if there is no room now.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        mac: bytes,
        hop: Callable[[str], bytes | None],
        send: Callable[[bytes], bool],
    ) -> None:
        self._loop = loop
        self._mac = mac
        self._hop = hop
        self._send = send
        self._waiting: deque[tuple[bytes, Callable[[SockAddr], bool], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._later: set[asyncio.TimerHandle] = set()

    def say(self, flows: bytes, had: Callable[[SockAddr], bool]) -> None:
        """Tells the peers of a process that is gone.

        flows: what it wrote into its list, as pairs of `struct ams_endpoint`, local and remote.
        had: whether a local tuple was the process's.
        """
        if not flows:
            return
        self._queue(flows, had)
        self._later = {handle for handle in self._later if not handle.cancelled() and handle.when() > self._loop.time()}
        self._later.add(self._loop.call_later(_AGAIN, self._queue, flows, had))

    def _queue(self, flows: bytes, had: Callable[[SockAddr], bool]) -> None:
        until = self._loop.time() + _PATIENCE
        room = max(0, _LIMIT - len(self._waiting))
        for at in range(0, min(len(flows), room * _PAIR), _PAIR):
            self._waiting.append((flows[at : at + _PAIR], had, until))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_later(_INTERVAL, self._burst)

    def _burst(self) -> None:
        self._timer = None
        for _ in range(min(_BURST, len(self._waiting))):
            pair, had, until = self._waiting.popleft()
            if not self._try(pair, had) and self._loop.time() < until:
                self._waiting.append((pair, had, until))
        self._arm()

    def _try(self, pair: bytes, had: Callable[[SockAddr], bool]) -> bool:
        """Sends the packet for a pair, if there is to be one; False: not now."""
        local, remote = unpack(pair[:ENDPOINT_SIZE]), unpack(pair[ENDPOINT_SIZE:])
        if local is None or remote is None or not had(local):
            return True
        host = ipaddress.ip_address(remote[0])
        if host.is_multicast or host.is_unspecified or host.is_loopback:
            return True
        try:
            mac = self._hop(remote[0])
        except OSError:
            return True
        return mac is not None and self._send(probe(local, remote, mac, self._mac))

    def close(self) -> None:
        """Sends nothing any more."""
        for handle in (self._timer, *self._later):
            if handle is not None:
                handle.cancel()
        self._timer = None
        self._later.clear()
        self._waiting.clear()
