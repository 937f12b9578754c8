"""create_connection(), and the connections of sockets that libraries make themselves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import re
import socket
import sys
from typing import Any

import pytest

from .conftest import Net, free_port
from .protocols import Echo, Recorder


async def connect(host: str, port: int, **options: Any) -> Recorder:
    """A connected recorder."""
    _, protocol = await asyncio.get_running_loop().create_connection(Recorder, host, port, **options)
    return protocol


async def done(*protocols: Recorder) -> None:
    """Aborts connections and waits until they are gone."""
    for protocol in protocols:
        protocol.transport.abort()
    await asyncio.gather(*(protocol.lost for protocol in protocols))


@pytest.mark.parametrize("family", [4, 6])
async def test_refused(net: Net, family: int) -> None:
    port = free_port()
    host = net.hosts[family == 6]
    with pytest.raises(ConnectionRefusedError) as caught:
        await connect(host, port)
    assert caught.value.errno == errno.ECONNREFUSED
    if net.flavour != "uvloop-kernel":
        assert f"Connect call failed ('{host}', {port}" in str(caught.value)


async def test_unreachable_network(ours: Net, net: Net) -> None:
    """No route to it on the stack: it is the system's business."""
    assert net.loop._pump_to(("203.0.113.1", 80), ("10.9.0.2", 0)) is None  # type: ignore[attr-defined]


async def test_silent_neighbour_is_unreachable(virtual: Net, net: Net) -> None:
    with pytest.raises(OSError) as caught:
        await connect("10.9.0.77", 80)
    assert caught.value.errno == errno.EHOSTUNREACH
    assert "Connect call failed ('10.9.0.77', 80)" in str(caught.value)


@pytest.mark.parametrize("group", ["10.9.0.255", "255.255.255.255", "224.0.0.9", "ff02::9"])
async def test_a_group_is_nobody_to_connect_to(virtual: Net, net: Net, group: str) -> None:
    """RFC 9293 section 3.9.2.3, MUST-46; Linux calls it ENETUNREACH."""
    with pytest.raises(OSError) as caught:
        await connect(group, 80)
    assert caught.value.errno == errno.ENETUNREACH


async def test_cancelled_connect_leaves_nothing(virtual: Net, net: Net) -> None:
    task = asyncio.ensure_future(connect("10.9.0.77", 80))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [info for info in net.loop.multistack.connections() if info.id >= 0] == []  # type: ignore[attr-defined]


async def test_connect_with_a_timeout(virtual: Net, net: Net) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(connect("10.9.0.77", 80), 0.02)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in Python 3.12")
async def test_all_errors(net: Net) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop has no all_errors")
    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        await connect(net.host4, free_port(), all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError]


async def test_a_name_with_several_addresses(ours: Net, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second address answers; the names are the base loop's to resolve."""
    async with net.server(Echo) as (host, port):
        give_names(net, monkeypatch, ("10.9.0.1", free_port()), (host, port))
        protocol = await connect("several.test", port)
        assert protocol.transport.get_extra_info("peername") == (host, port)
        await done(protocol)


async def test_all_addresses_of_a_name_fail(ours: Net, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    give_names(net, monkeypatch, ("10.9.0.1", 81), ("10.9.0.1", 82))
    with pytest.raises(OSError, match=r"Multiple exceptions: .*81.*82"):
        await connect("several.test", 80)


async def test_happy_eyeballs(virtual: Net, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address is silent; the second wins, and nothing of the first is left."""
    async with net.server(Echo) as (host, port):
        give_names(net, monkeypatch, ("10.9.0.77", port), (host, port))
        protocol = await connect("several.test", port, happy_eyeballs_delay=0.01)
        assert protocol.transport.get_extra_info("peername") == (host, port)
        await done(protocol)


@pytest.mark.parametrize(("interleave", "order"), [(None, "6644"), (1, "6464"), (2, "6644"), (0, "6644")])
async def test_interleave(net: Net, monkeypatch: pytest.MonkeyPatch, interleave: int | None, order: str) -> None:
    """The order of attempts, as the errors of all of them tell it (RFC 8305 section 4)."""
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop doesn't know it")
    ports = [free_port() for _ in range(4)]
    rows: list[Any] = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (net.host6, port, 0, 0)) for port in ports[:2]
    ] + [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (net.host4, port)) for port in ports[2:]]

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return rows

    monkeypatch.setattr(type(net.loop), "getaddrinfo", staticmethod(getaddrinfo))
    with pytest.raises(OSError, match="Multiple exceptions") as caught:
        await net.loop.create_connection(Recorder, "several.test", 80, interleave=interleave)
    tried = re.findall(r"Connect call failed \('([^']*)'", str(caught.value))
    assert "".join("6" if ":" in host else "4" for host in tried) == order


async def test_user_space_and_system_in_one_name(ours: Net, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of which one address is the stack's, and refuses, the other the system's."""
    server = await net.loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        give_names(net, monkeypatch, ("10.9.0.1", port), ("127.0.0.1", port))
        protocol = await connect("mixed.test", port)
        assert protocol.transport.get_extra_info("peername") == ("127.0.0.1", port)
        protocol.transport.write(b"x")
        assert await protocol.received(1) == b"x"
        await done(protocol)


def give_names(net: Net, monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Has the resolver answer with these addresses for every name in .test."""

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        found = addresses if host.endswith(".test") else [(host, port)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr(type(net.loop), "getaddrinfo", staticmethod(getaddrinfo))


@pytest.mark.parametrize("family", [4, 6])
async def test_local_addr(ours: Net, net: Net, family: int) -> None:
    local = ("10.9.0.2", "fd09::2")[family == 6]
    async with net.server(Echo, net.hosts[family == 6]) as address:
        protocol = await connect(*address, local_addr=(local, 45_678))
        assert protocol.transport.get_extra_info("sockname")[:2] == (local, 45_678)
        await done(protocol)


async def test_local_addr_in_use(ours: Net, net: Net) -> None:
    async with net.server(Echo) as address:
        protocol = await connect(*address, local_addr=("10.9.0.2", 45_678))
        with pytest.raises(OSError) as caught:
            await connect(*address, local_addr=("10.9.0.2", 45_678))
        assert caught.value.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
        await done(protocol)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"server_hostname": "x"}, ValueError),
        ({"ssl_handshake_timeout": 1.0}, ValueError),
        ({"sock": "sock"}, ValueError),
    ],
)
async def test_bad_arguments(net: Net, options: dict[str, Any], error: type[Exception]) -> None:
    sock = socket.socket()
    try:
        if "sock" in options:
            options = {"sock": sock}
        with pytest.raises(error):
            await connect(net.host4, 1, **options)
    finally:
        sock.close()


async def test_no_address_at_all(net: Net) -> None:
    with pytest.raises(ValueError, match="host and port was not specified"):
        await asyncio.get_running_loop().create_connection(Recorder)


# ---- kernel sockets -----------------------------------------------------------------------------------------


def kernel_socket(family: int = socket.AF_INET) -> socket.socket:
    """A non-blocking TCP socket, as libraries make them."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("family", [4, 6])
async def test_sock_connect_then_create_connection(net: Net, family: int) -> None:
    """What aiohttp's client does."""
    loop = asyncio.get_running_loop()
    async with net.server(Echo, net.hosts[family == 6]) as address:
        sock = kernel_socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        full = address if family == 4 else (*address, 0, 0)
        await loop.sock_connect(sock, full)
        _, protocol = await loop.create_connection(Recorder, sock=sock)
        protocol.transport.write(b"adopted")
        assert await protocol.received(7) == b"adopted"
        assert protocol.transport.get_extra_info("peername") == full
        assert protocol.transport.get_extra_info("socket").getpeername() == full
        await done(protocol)


async def test_sock_connect_refused(net: Net) -> None:
    sock = kernel_socket()
    with contextlib.closing(sock), pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().sock_connect(sock, (net.host4, free_port()))


async def test_sock_connect_cancelled(virtual: Net, net: Net) -> None:
    sock = kernel_socket()
    with contextlib.closing(sock):
        task = asyncio.ensure_future(net.loop.sock_connect(sock, ("10.9.0.77", 80)))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_connected_socket_that_nobody_adopts(ours: Net, net: Net) -> None:
    ends: list[Recorder] = []
    async with net.server(lambda: ends.append(Recorder()) or ends[-1]) as address:  # type: ignore[func-returns-value]
        sock = kernel_socket()
        await net.loop.sock_connect(sock, address)
        sock.close()
        del sock
        gc.collect()
        while not ends:
            await asyncio.sleep(0.001)
        assert await ends[0].lost is None


async def test_sock_sendall_and_recv(net: Net) -> None:
    loop = asyncio.get_running_loop()
    data = bytes(range(256)) * 4000
    async with net.server(Echo) as address:
        sock = kernel_socket()
        await loop.sock_connect(sock, address)
        sending = asyncio.ensure_future(loop.sock_sendall(sock, data))
        got = bytearray()
        while len(got) < len(data) // 2:
            got += await loop.sock_recv(sock, 10_000)
        buffer = bytearray(7777)
        while len(got) < len(data):
            count = await loop.sock_recv_into(sock, buffer)
            assert count
            got += buffer[:count]
        await sending
        assert got == data
        sock.close()
        del sock
        gc.collect()
        await asyncio.sleep(0.05)


async def test_sock_recv_sees_the_end(net: Net) -> None:
    loop = asyncio.get_running_loop()

    class Brief(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"bye")
            transport.close()

    async with net.server(Brief) as address:
        sock = kernel_socket()
        await loop.sock_connect(sock, address)
        assert await loop.sock_recv(sock, 100) == b"bye"
        assert await loop.sock_recv(sock, 100) == b""
        sock.close()
        del sock
        gc.collect()


async def test_the_system_s_connections_are_left_alone(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        address = server.sockets[0].getsockname()
        protocol = await connect(*address)
        sock = kernel_socket()
        await net.loop.sock_connect(sock, address)
        assert sock.getpeername() == address
        sock.close()
        assert protocol.transport.get_extra_info("socket").fileno() > 0
        await done(protocol)
