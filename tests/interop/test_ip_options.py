"""Traffic classes and hop limits between the stack and Linux: what crosses the TAP, and what either side is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

import aiomultistack

from .kernel_peer import digest, payload
from .lab import Bench, kernel_host, stack_host

FAMILIES = pytest.mark.parametrize("family", [4, 6])
IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_RECVTTL, IP_RECVTOS = 12, 13  # linux/in.h
EF, AF21, CE = 0xB8, 0x48, 3
ETH_P_ALL, PACKET_OUTGOING = 3, 4
ETHERTYPES = {0x0800: 4, 0x86DD: 6}
TCP = 6
DATA = payload(5, 300_000)


@dataclass
class Tap:
    """What the stack sends into a TAP: traffic class, hop limit and TCP flags of each segment."""

    sniffer: socket.socket
    segments: list[tuple[int, int, int]] = field(default_factory=list)

    def collect(self) -> list[tuple[int, int, int]]:
        """All segments so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self.sniffer.recvfrom(65536)
                if address[2] != PACKET_OUTGOING:
                    self._add(frame)
        return self.segments

    def _add(self, frame: bytes) -> None:
        family = ETHERTYPES.get(struct.unpack_from("!H", frame, 12)[0])
        ip = frame[14:]
        if family == 4 and ip[9] == TCP:
            self.segments.append((ip[1], ip[8], ip[20 + 13]))
        elif family == 6 and ip[6] == TCP:
            self.segments.append((struct.unpack_from("!H", ip)[0] >> 4 & 0xFF, ip[7], ip[40 + 13]))


@contextlib.contextmanager
def tapped(name: str) -> Iterator[Tap]:
    """Watches a TAP."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer:
        sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sniffer.bind((name, ETH_P_ALL))
        sniffer.setblocking(False)
        yield Tap(sniffer)


def choose(sock: socket.socket, family: int, tos: int, hops: int) -> None:
    """Sets traffic class and hop limit."""
    sock.setsockopt(*((IPV6, socket.IPV6_TCLASS) if family == 6 else (IP, socket.IP_TOS)), tos)
    sock.setsockopt(*((IPV6, socket.IPV6_UNICAST_HOPS) if family == 6 else (IP, socket.IP_TTL)), hops)


def ask(sock: socket.socket, family: int) -> None:
    """Has recvmsg() tell both."""
    for option in (socket.IPV6_RECVTCLASS, socket.IPV6_RECVHOPLIMIT) if family == 6 else (IP_RECVTOS, IP_RECVTTL):
        sock.setsockopt(IPV6 if family == 6 else IP, option, 1)


def told(messages: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """Traffic class and hop limit of what recvmsg() returned."""
    values = {kind: int.from_bytes(data, "little") for _, kind, data in messages}
    if socket.IP_TOS in values:
        return values[socket.IP_TOS], values[socket.IP_TTL]
    return values[socket.IPV6_TCLASS], values[socket.IPV6_HOPLIMIT]


async def send_and_end(writer: asyncio.StreamWriter) -> None:
    writer.write(DATA)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def read_all(sock: socket.socket) -> str:
    """The digest of all that a peer sends."""
    received = bytearray()
    with sock:
        sock.settimeout(30)
        while part := sock.recv(1 << 16):
            received += part
    return digest(bytes(received))


@FAMILIES
def test_a_servers_connections(bench: Bench, family: int) -> None:
    """From the SYN-ACK to the last ACK, super-frames included."""

    async def main() -> None:
        ended = asyncio.get_running_loop().create_future()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await send_and_end(writer)
            ended.set_result(None)

        with tapped(bench.config.port_name) as tap:
            server = await asyncio.start_server(serve, stack_host(family), 0)
            choose(server.sockets[0], family, EF | CE, 9)
            port = server.sockets[0].getsockname()[1]
            sock = await asyncio.to_thread(socket.create_connection, (stack_host(family), port), 30)
            assert await asyncio.to_thread(read_all, sock) == digest(DATA)
            await ended
            server.close()
            await server.wait_closed()
            segments = tap.collect()
            assert segments[0][2] & 0x12 == 0x12
            assert {(tos, hops) for tos, hops, _ in segments} == {(EF, 9)}

    bench.run(main)


@FAMILIES
def test_a_clients_connection(bench: Bench, family: int) -> None:
    """What was set before it connects is on its SYN; what is set later on all that follows."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        with tapped(bench.config.port_name) as tap, socket.socket(kind) as listener:
            listener.bind((kernel_host(family), 0))
            listener.listen()
            sock = aiomultistack.socket(kind)
            sock.setblocking(False)
            choose(sock, family, AF21, 7)
            await loop.sock_connect(sock, listener.getsockname())
            _, writer = await asyncio.open_connection(sock=sock)
            accepted, _ = listener.accept()
            reading = asyncio.ensure_future(asyncio.to_thread(read_all, accepted))
            assert {segment[:2] for segment in tap.collect()} == {(AF21, 7)}
            assert tap.segments[0][2] == 0x02
            before = len(tap.segments)
            choose(writer.get_extra_info("socket"), family, EF, 255)
            await send_and_end(writer)
            assert await reading == digest(DATA)
            assert {segment[:2] for segment in tap.collect()[before:]} == {(EF, 255)}

    bench.run(main)


@FAMILIES
def test_datagrams_both_ways(bench: Bench, family: int) -> None:
    """All eight bits of the class, in fragments too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        with aiomultistack.socket(kind, socket.SOCK_DGRAM) as ours, socket.socket(kind, socket.SOCK_DGRAM) as theirs:
            theirs.bind((kernel_host(family), 0))
            theirs.settimeout(30)
            ask(theirs, family)
            ours.setblocking(False)
            ask(ours, family)
            choose(ours, family, EF | CE, 9)
            ours.bind((stack_host(family), 0))
            for length in (10, 5000):
                assert await loop.sock_sendto(ours, bytes(length), theirs.getsockname()) == length
                data, messages, _, sender = await asyncio.to_thread(theirs.recvmsg, 10_000, 200)
                assert len(data) == length
                assert sender[:2] == ours.getsockname()[:2]
                assert told(messages) == (EF | CE, 9)
            choose(theirs, family, AF21 | 1, 33)
            for length in (10, 5000):
                readable = loop.create_future()
                loop.add_reader(ours, lambda ready=readable: ready.done() or ready.set_result(None))
                theirs.sendto(bytes(length), ours.getsockname())
                await readable
                loop.remove_reader(ours)
                data, messages, _, _ = ours.recvmsg(10_000, 200)
                assert len(data) == length
                assert told(messages) == (AF21 | 1, 33)

    bench.run(main)
