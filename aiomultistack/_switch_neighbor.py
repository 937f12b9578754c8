"""Answers what clients ask of their link: ARP requests and neighbour solicitations for their next hops.

Clients may not speak ARP or NDP on the wire, since they share an address; the switch keeps what they ask back, and
hands it to its control plane.  This asks the daemon's own small stack, which keeps a neighbour cache as any host does
(on a NIC that the system shares, its driver asks the kernel's), and gives the client the answer that the neighbour
would have given.  What a client announces is ignored.  A kernel that shares the addresses by a TAP is treated alike.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ._addresses import SockAddr
from ._switch_fabric import FIRST_CLIENT, HOST, Frame
from ._switch_farewell import checksum

__all__ = ["Neighbours", "Question", "parse_question"]

_ARP, _IPV6 = 0x0806, 0x86DD
_ARP_PACKET = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_REQUEST, _REPLY = 1, 2
_ICMPV6, _SOLICIT, _ADVERT = 58, 135, 136  # RFC 4861 sections 4.3, 4.4
_SOLICITED, _OVERRIDE = 0x40000000, 0x20000000
_TARGET_MAC = 2
_ETHERNET = 14

_INTERVAL = 0.005  # seconds between looks at what is being asked for
_PATIENCE = 3.5  # seconds until a neighbour has not answered (RFC 4861 section 10: three times one second)
_PENDING = 1024  # questions that may wait
_PENDING_EACH = 64  # of one client: another's are answered while it asks for all addresses of a network
_BURST = 64  # frames looked at before the loop's others have their turn


@dataclass(frozen=True)
class Question:
    """A client's question for a neighbour's Ethernet address."""

    client: int
    mac: bytes
    source: bytes
    target: bytes

    @property
    def address(self) -> SockAddr:
        """Whom it asks for."""
        host = str(ipaddress.ip_address(self.target))
        return (host, 0) if len(self.target) == 4 else (host, 0, 0, 0)

    def answer(self, mac: bytes) -> bytes:
        """The frame in which the neighbour would answer."""
        if len(self.target) == 4:
            packet = _ARP_PACKET.pack(1, 0x0800, 6, 4, _REPLY, mac, self.target, self.mac, self.source)
            return self.mac + mac + struct.pack("!H", _ARP) + packet
        flags = _SOLICITED | _OVERRIDE
        body = struct.pack("!BBHI16sBB6s", _ADVERT, 0, 0, flags, self.target, _TARGET_MAC, 1, mac)
        pseudo = self.target + self.source + struct.pack("!II", len(body), _ICMPV6)
        body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
        header = struct.pack("!IHBB16s16s", 6 << 28, len(body), _ICMPV6, 255, self.target, self.source)
        return self.mac + mac + struct.pack("!H", _IPV6) + header + body


def parse_question(frame: Frame) -> Question | None:
    """The question in a client's frame; None if it asks nothing."""
    data = frame.data
    if len(data) < _ETHERNET:
        return None
    mac, (kind,) = data[6:12], struct.unpack_from("!H", data, 12)
    if kind == _ARP and len(data) >= _ETHERNET + _ARP_PACKET.size:
        *_, operation, _, source, _, target = _ARP_PACKET.unpack_from(data, _ETHERNET)
        asks = operation == _REQUEST and source != target and source != bytes(4)
        return Question(frame.index, mac, source, target) if asks else None
    if kind == _IPV6 and len(data) >= _ETHERNET + 40 + 24 and data[20] == _ICMPV6 and data[54] == _SOLICIT:
        source, target = data[22:38], data[62:78]
        return Question(frame.index, mac, source, target) if source != bytes(16) and target[0] != 0xFF else None
    return None


class Neighbours:
    """Answers clients' questions.

    resolve: a neighbour's Ethernet address, None while it is being asked for; OSError if it is not on the link.
    answer: sends a frame to a client.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[], Frame | None],
        resolve: Callable[[SockAddr], bytes | None],
        answer: Callable[[int, bytes], bool],
    ) -> None:
        self._loop = loop
        self._take = take
        self._resolve = resolve
        self._answer = answer
        self._pending: dict[Question, float] = {}
        self._waiting: Counter[int] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def readable(self) -> None:
        """Looks at the frames that wait."""
        for _ in range(_BURST):
            frame = self._take()
            if frame is None:
                return
            asks = frame.index >= FIRST_CLIENT or frame.index == HOST
            question = parse_question(frame) if asks else None
            if question is not None and not self._try(question) and self._room(question):
                self._pending[question] = self._loop.time() + _PATIENCE
                self._waiting[question.client] += 1
                self._arm()

    def _room(self, question: Question) -> bool:
        """True if a question that can't be answered yet may wait, and doesn't."""
        if question in self._pending or len(self._pending) >= _PENDING:
            return False
        return self._waiting[question.client] < _PENDING_EACH

    def _try(self, question: Question) -> bool:
        """Answers if that is possible now, or never will be."""
        try:
            mac = self._resolve(question.address)
        except OSError:
            return True
        if mac is None:
            return False
        self._answer(question.client, question.answer(mac))
        return True

    def _arm(self) -> None:
        if self._timer is None and self._pending:
            self._timer = self._loop.call_later(_INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for question, until in list(self._pending.items()):
            if now >= until or self._try(question):
                del self._pending[question]
                self._waiting[question.client] -= 1
        self._arm()

    def forget(self, client: int) -> None:
        """A client is gone."""
        self._pending = {question: until for question, until in self._pending.items() if question.client != client}
        del self._waiting[client]

    def close(self) -> None:
        """Stops looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
        self._waiting.clear()


