"""What connections do with their lives, with Linux at the other end: talk in turns, come and go, close by halves,
break, linger, be urgent; whatever congestion control either side uses.  Either side opens, IPv4 and IPv6.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE

from aiomultistack._node import ffi, lib

from .kernel_peer import listener
from .lab import Bench, command, kernel_host, namespace, stack_host, stack_loop
from .test_tcp_options import both

FAMILIES = pytest.mark.parametrize("family", [4, 6])
OURS = [
    ffi.string(name).decode()
    for name in iter(map(lib.ams_congestion_name, range(100)).__next__, ffi.NULL)
]
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


# ---- congestion control -------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("theirs", ["reno", "cubic", "bbr"])
@pytest.mark.parametrize("ours", OURS)
def test_congestion_control(family: int, ours: str, theirs: str) -> None:
    if theirs not in AVAILABLE.read_text().split():
        pytest.skip(f"this kernel has no {theirs}")
    with namespace(), stack_loop(congestion=ours) as bench:
        device = bench.config.port_name
        for network in ("10.99.0.0/24", "fd99::/64"):  # a sysctl can't choose what isn't allowed to everybody
            command("ip", "route", "replace", network, "dev", device, "congctl", theirs)
        assert [info.congestion for info in both(bench, family, size=1 << 20)] == [ours, ours]


# ---- turns --------------------------------------------------------------------------------------------------

TURNS = 1000


def message(turn: int) -> bytes:
    """What is said in one turn: four bytes of length and number, and some that follow from them."""
    length = turn * 7919 % 1500
    return struct.pack("!HH", length, turn % 65536) + bytes([turn % 256]) * length


def blocking_turns(sock: socket.socket, first: bool) -> None:
    """One side of the talk on a kernel socket."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = sock.makefile("rb")
    for turn in range(TURNS):
        if first:
            sock.sendall(message(turn))
        wanted = message(turn)
        assert file.read(len(wanted)) == wanted
        if not first:
            sock.sendall(wanted)
    file.close()


async def stream_turns(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bool) -> Any:
    """The other side; returns what the stack knew of the connection at the end."""
    for turn in range(TURNS):
        wanted = message(turn)
        if first:
            writer.write(wanted)
        assert await reader.readexactly(len(wanted)) == wanted
        if not first:
            writer.write(wanted)
    (info,) = (
        info
        for info in asyncio.get_running_loop().multistack.connections()  # type: ignore[attr-defined]
        if info.remote[1] == writer.get_extra_info("peername")[1]
    )
    writer.close()
    await writer.wait_closed()
    return info


@FAMILIES
@pytest.mark.parametrize("first", [True, False], ids=["we-begin", "they-begin"])
def test_turns(bench: Bench, family: int, first: bool) -> None:
    """A thousand messages each way, one waiting for the other."""

    async def main() -> None:
        with listener(kernel_host(family)) as listening:

            def peer() -> None:
                sock, _ = listening.accept()
                sock.settimeout(PATIENCE)
                with sock:
                    blocking_turns(sock, not first)

            their = asyncio.ensure_future(asyncio.to_thread(peer))
            streams = await asyncio.open_connection(*listening.getsockname()[:2])
            info = await stream_turns(*streams, first)
            await their
        assert info.bytes_received == sum(len(message(turn)) for turn in range(TURNS))

    bench.run(main)


# ---- coming and going ---------------------------------------------------------------------------------------

VISITS, AT_ONCE = 400, 20


@FAMILIES
def test_many_short_connections_in(bench: Bench, family: int) -> None:
    def visit(address: tuple[str, int], number: int) -> None:
        with socket.create_connection(address, PATIENCE) as sock:
            sock.sendall(b"%d\n" % number)
            assert sock.makefile("rb").read() == b"%d\n" % (number * number)

    def visits(address: tuple[str, int], start: int) -> None:
        for number in range(start, VISITS, AT_ONCE):
            visit(address, number)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(await reader.readline())
        writer.write(b"%d\n" % (number * number))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, stack_host(family), 0)
        async with server:
            address = server.sockets[0].getsockname()[:2]
            await asyncio.gather(*(asyncio.to_thread(visits, address, start) for start in range(AT_ONCE)))

    bench.run(main)


@FAMILIES
def test_many_short_connections_out(bench: Bench, family: int) -> None:
    def serve(listening: socket.socket) -> None:
        for _ in range(VISITS):
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(PATIENCE)
                number = int(sock.makefile("rb").readline())
                sock.sendall(b"%d\n" % (number * number))

    async def visit(address: tuple[str, int], number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"%d\n" % number)
            assert await reader.read() == b"%d\n" % (number * number)
            writer.close()
            await writer.wait_closed()

    async def main() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        with listener(kernel_host(family)) as listening:
            peer = asyncio.ensure_future(asyncio.to_thread(serve, listening))
            address = listening.getsockname()[:2]
            await asyncio.gather(*(visit(address, number, gate) for number in range(VISITS)))
            await peer

    bench.run(main)


# ---- endings ------------------------------------------------------------------------------------------------

LONG = bytes(range(256)) * 4096


def read_all(sock: socket.socket) -> bytes:
    """What comes until the peer's FIN."""
    with sock.makefile("rb") as file:
        return file.read()


@FAMILIES
def test_we_close_our_half_first(bench: Bench, family: int) -> None:
    def peer(listening: socket.socket) -> bytes:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(PATIENCE)
            got = read_all(sock)
            sock.sendall(LONG)  # after our FIN
            return got

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            their = asyncio.ensure_future(asyncio.to_thread(peer, listening))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            writer.write(b"the end")
            writer.write_eof()
            assert await reader.read() == LONG
            assert await their == b"the end"
            writer.close()
            await writer.wait_closed()

    bench.run(main)


@FAMILIES
def test_they_close_their_half_first(bench: Bench, family: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"the end"
        writer.write(LONG)
        await writer.drain()
        writer.close()

    def visit(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, PATIENCE) as sock:
            sock.sendall(b"the end")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)

    async def main() -> None:
        server = await asyncio.start_server(serve, stack_host(family), 0)
        async with server:
            assert await asyncio.to_thread(visit, server.sockets[0].getsockname()[:2]) == LONG

    bench.run(main)


@FAMILIES
def test_they_reset(bench: Bench, family: int) -> None:
    def peer(listening: socket.socket) -> None:
        sock, _ = listening.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            their = asyncio.ensure_future(asyncio.to_thread(peer, listening))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await their
            writer.close()

    bench.run(main)


@FAMILIES
@pytest.mark.parametrize("how", ["abort", "unread", "linger"])
def test_we_end_at_once(bench: Bench, family: int, how: str) -> None:
    """By abort(), which resets only if data is unread; by close() with SO_LINGER of no seconds, which always does."""

    def peer(listening: socket.socket) -> bytes | type[BaseException]:
        sock, _ = listening.accept()
        data = b""
        with sock:
            sock.settimeout(PATIENCE)
            sock.sendall(b"question")
            try:
                while piece := sock.recv(1 << 16):
                    data += piece
            except OSError as error:
                return type(error)
        return data

    async def main() -> None:
        with listener(kernel_host(family)) as listening:
            their = asyncio.ensure_future(asyncio.to_thread(peer, listening))
            reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            if how == "unread":
                writer.transport.pause_reading()
                while not any(info.recv_queue for info in bench.loop.multistack.connections()):
                    await asyncio.sleep(0.01)
            else:
                assert await reader.readexactly(8) == b"question"
            writer.write(b"some")
            if how == "linger":
                option = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                writer.close()
            else:
                writer.transport.abort()
            assert await their == (b"some" if how == "abort" else ConnectionResetError)

    bench.run(main)


@FAMILIES
def test_what_was_written_before_close_arrives(bench: Bench, family: int) -> None:
    """The peer begins to read when our side has closed long ago."""

    def peer(listening: socket.socket, closed: threading.Event) -> bytes:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(PATIENCE)
            closed.wait(PATIENCE)
            return read_all(sock)

    async def main() -> None:
        closed = threading.Event()
        with listener(kernel_host(family)) as listening:
            their = asyncio.ensure_future(asyncio.to_thread(peer, listening, closed))
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            writer.write(LONG)
            writer.close()
            closed.set()
            assert await their == LONG
            await writer.wait_closed()

    bench.run(main)


@FAMILIES
def test_urgent_data_stays_in_line(bench: Bench, family: int) -> None:
    """RFC 6093 section 5: the urgent mechanism is not used, and urgent data is data."""
    got: asyncio.Future[bytes]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.read())
        writer.close()

    def visit(address: tuple[str, int]) -> None:
        with socket.create_connection(address, PATIENCE) as sock:
            sock.sendall(b"plain ")
            sock.send(b"urgent", socket.MSG_OOB)
            sock.sendall(b" plain again")

    async def main() -> None:
        nonlocal got
        got = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(serve, stack_host(family), 0)
        async with server:
            await asyncio.to_thread(functools.partial(visit, server.sockets[0].getsockname()[:2]))
            assert await got == b"plain urgent plain again"

    bench.run(main)

