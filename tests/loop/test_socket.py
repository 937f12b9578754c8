"""get_extra_info('socket'): options and addresses by the kernel's numbers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .conftest import Net
from .protocols import Echo, Recorder

TCP, SOL = socket.IPPROTO_TCP, socket.SOL_SOCKET


@contextlib.asynccontextmanager
async def client_socket(net: Net) -> AsyncIterator[Any]:
    """The socket of a client's connection."""
    async with net.server(Echo) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        try:
            yield transport.get_extra_info("socket")
        finally:
            transport.abort()
            await protocol.lost


async def test_defaults(net: Net) -> None:
    async with client_socket(net) as sock:
        assert sock.getsockopt(TCP, socket.TCP_NODELAY) == 1  # as asyncio sets it
        assert sock.getsockopt(SOL, socket.SO_TYPE) == socket.SOCK_STREAM
        assert sock.getsockopt(SOL, socket.SO_ERROR) == 0
        assert sock.getsockopt(SOL, socket.SO_KEEPALIVE) == 0
        assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
        assert sock.getsockopt(SOL, socket.SO_ACCEPTCONN) == 0
        assert sock.getsockopt(SOL, socket.SO_SNDBUF) > 0
        assert sock.getsockopt(SOL, socket.SO_RCVBUF) > 0
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert sock.proto in (0, socket.IPPROTO_TCP)  # uvloop says 0
        assert sock.gettimeout() == 0.0


@pytest.mark.parametrize(
    ("level", "option", "value"),
    [
        (TCP, socket.TCP_NODELAY, 0),
        (SOL, socket.SO_KEEPALIVE, 1),
        (TCP, socket.TCP_KEEPIDLE, 77),
        (TCP, socket.TCP_KEEPINTVL, 7),
        (TCP, socket.TCP_KEEPCNT, 5),
        (TCP, socket.TCP_CORK, 1),
        (TCP, socket.TCP_USER_TIMEOUT, 12_345),
        (SOL, socket.SO_REUSEADDR, 1),
    ],
)
async def test_set_and_get(net: Net, level: int, option: int, value: int) -> None:
    async with client_socket(net) as sock:
        sock.setsockopt(level, option, value)
        assert sock.getsockopt(level, option) == value
        assert sock.getsockopt(level, option, 4) == struct.pack("i", value)
        sock.setsockopt(level, option, struct.pack("i", value))


async def test_buffers(net: Net) -> None:
    async with client_socket(net) as sock:
        sock.setsockopt(SOL, socket.SO_SNDBUF, 100_000)
        sock.setsockopt(SOL, socket.SO_RCVBUF, 100_000)
        assert sock.getsockopt(SOL, socket.SO_SNDBUF) >= 100_000
        assert sock.getsockopt(SOL, socket.SO_RCVBUF) >= 100_000


async def test_linger(net: Net) -> None:
    async with client_socket(net) as sock:
        sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 9))
        assert sock.getsockopt(SOL, socket.SO_LINGER, 8) == struct.pack("ii", 1, 9)
        sock.setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 0, 0))
        assert sock.getsockopt(SOL, socket.SO_LINGER, 8)[:4] == struct.pack("i", 0)
        with pytest.raises(OSError):
            sock.setsockopt(SOL, socket.SO_LINGER, 1)


async def test_linger_0_resets(net: Net) -> None:
    ends: list[Recorder] = []

    def factory() -> Recorder:
        ends.append(Recorder())
        return ends[-1]

    async with net.server(factory) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        while not ends:
            await asyncio.sleep(0)
        transport.get_extra_info("socket").setsockopt(SOL, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.close()
        assert isinstance(await ends[0].lost, ConnectionResetError)
        await protocol.lost


async def test_congestion_control(net: Net) -> None:
    async with client_socket(net) as sock:
        before = sock.getsockopt(TCP, socket.TCP_CONGESTION, 16)
        assert before.rstrip(b"\0")
        with pytest.raises(OSError):
            sock.setsockopt(TCP, socket.TCP_CONGESTION, b"no-such-algorithm")
        sock.setsockopt(TCP, socket.TCP_CONGESTION, before.rstrip(b"\0"))
        assert sock.getsockopt(TCP, socket.TCP_CONGESTION, 16) == before


async def test_tcp_info(net: Net) -> None:
    async with client_socket(net) as sock:
        info = sock.getsockopt(TCP, socket.TCP_INFO, 104)
        assert len(info) == 104
        state = info[0]
        rto, _, snd_mss, rcv_mss = struct.unpack_from("=4I", info, 8)
        rtt, snd_cwnd = struct.unpack_from("=I", info, 68)[0], struct.unpack_from("=I", info, 80)[0]
        assert state == 1  # TCP_ESTABLISHED
        assert 100_000 <= rto <= 3_000_000  # µs
        assert snd_mss >= 500
        assert rcv_mss >= 500
        assert (0 if net.base == "virtual" else 1) <= rtt < 1_000_000
        assert 2 <= snd_cwnd <= 100


async def test_unknown_options(net: Net) -> None:
    async with client_socket(net) as sock:
        with pytest.raises(OSError) as caught:
            sock.getsockopt(TCP, 999)
        assert caught.value.errno == errno.ENOPROTOOPT
        with pytest.raises(OSError) as caught:
            sock.setsockopt(TCP, 999, 1)
        assert caught.value.errno == errno.ENOPROTOOPT


async def test_a_socket_without_descriptor(ours: Net, net: Net) -> None:
    async with client_socket(net) as sock:
        assert sock.fileno() == -1
        assert "laddr=('10.9.0.2'" in repr(sock)
        with pytest.raises(OSError, match="no file descriptor"):
            sock.dup()
        with pytest.raises(ValueError, match="only 0 timeout"):
            sock.settimeout(1.0)
        with pytest.raises(ValueError, match="cannot be blocking"):
            sock.setblocking(True)
        sock.settimeout(0)
        sock.setblocking(False)


async def test_after_close(ours: Net, net: Net) -> None:
    async with net.server(Echo) as address:
        transport, protocol = await net.loop.create_connection(Recorder, *address)
        sock = transport.get_extra_info("socket")
        transport.abort()
        await protocol.lost
        assert sock.getpeername() == address
        with pytest.raises(OSError) as caught:
            sock.getsockopt(TCP, socket.TCP_NODELAY)
        assert caught.value.errno == errno.EBADF
