"""IPv6 sockets whose peers are IPv4's: addresses such as ::ffff:10.9.0.1 (RFC 4291 section 2.5.5.2, RFC 3493)."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any

import pytest

from .conftest import Net
from .protocols import Echo, Recorder
from .sockets import new_socket


def mapped(host: str) -> str:
    """An IPv4 address as an IPv6 socket has it."""
    return f"::ffff:{host}"


def ipv6_socket(net: Net, kind: int, v6only: bool = False) -> socket.socket:
    """An IPv6 socket of a program's own."""
    sock = new_socket(net, "::", kind)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
    return sock


# ---- TCP ----------------------------------------------------------------------------------------------------


async def test_connecting_to_a_mapped_address(net: Net) -> None:
    """The connection is IPv4's, its names are those of an IPv6 socket."""
    async with net.server(Recorder) as (host, port):
        _, client = await asyncio.get_running_loop().create_connection(Recorder, mapped(host), port)
        names = [client.transport.get_extra_info(name) for name in ("peername", "sockname")]
        assert names[0] == (mapped(host), port, 0, 0)
        assert names[1][0].startswith("::ffff:")
        assert len(names[1]) == 4
        sock = client.transport.get_extra_info("socket")
        assert sock.family == socket.AF_INET6
        assert sock.getpeername() == names[0]
        assert sock.getsockname() == names[1]
        client.transport.close()
        await client.lost
        assert client.transport.get_extra_info("peername") == names[0]
        await asyncio.sleep(0.01)


async def test_sock_connect_to_a_mapped_address(net: Net) -> None:
    loop = asyncio.get_running_loop()
    async with net.server(Echo) as (host, port):
        with ipv6_socket(net, socket.SOCK_STREAM) as sock:
            await loop.sock_connect(sock, (mapped(host), port))
            assert sock.getpeername() == (mapped(host), port, 0, 0)
            await loop.sock_sendall(sock, b"hello")
            assert await loop.sock_recv(sock, 5) == b"hello"


@pytest.mark.parametrize("taken", ["create_server", "sock_accept"])
async def test_a_listening_socket_of_both_families(net: Net, taken: str) -> None:
    """As uvicorn and gunicorn make it for "::"."""
    loop = asyncio.get_running_loop()
    with ipv6_socket(net, socket.SOCK_STREAM) as sock:
        sock.bind(("::", 0))
        sock.listen()
        port = sock.getsockname()[1]
        peers: asyncio.Queue[Any] = asyncio.Queue()

        class Server(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                peers.put_nowait((transport.get_extra_info("sockname"), transport.get_extra_info("peername")))
                transport.close()

        async def accept() -> None:
            while True:
                conn, peer = await loop.sock_accept(sock)
                with conn:
                    assert conn.family == socket.AF_INET6
                    assert conn.getpeername() == peer
                    peers.put_nowait((conn.getsockname(), peer))

        server = None
        accepting = None
        if taken == "create_server":
            server = await loop.create_server(Server, sock=sock)
        else:
            accepting = asyncio.ensure_future(accept())
        try:
            for host in net.hosts:
                reader, writer = await asyncio.open_connection(host, port)
                seen = (host if ":" in host else mapped(host), port, 0, 0)
                own = writer.get_extra_info("sockname")
                assert await peers.get() == (seen, own if ":" in own[0] else (mapped(own[0]), own[1], 0, 0))
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()
        finally:
            if server is not None:
                server.close()
                await server.wait_closed()
            if accepting is not None:
                accepting.cancel()
                await asyncio.wait([accepting])


async def test_a_listening_socket_of_one_family(net: Net) -> None:
    loop = asyncio.get_running_loop()
    with ipv6_socket(net, socket.SOCK_STREAM, v6only=True) as sock:
        sock.bind(("::", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        async with await loop.create_server(Recorder, sock=sock):
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(Recorder, net.host4, port)


async def test_create_server_is_of_one_family(net: Net) -> None:
    """asyncio sets IPV6_V6ONLY, so that one server can have both wildcards."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Recorder, "::", 0) as six:
        port = six.sockets[0].getsockname()[1]
        assert six.sockets[0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        async with await loop.create_server(Recorder, "0.0.0.0", port):
            pass


# ---- UDP ----------------------------------------------------------------------------------------------------


class Answering(asyncio.DatagramProtocol):
    """Sends back what it gets; keeps senders and errors."""

    def __init__(self) -> None:
        self.seen: asyncio.Queue[Any] = asyncio.Queue()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.seen.put_nowait((data, addr))
        if data != b"answer":
            self.transport.sendto(b"answer", addr)

    def error_received(self, exc: Exception) -> None:
        self.seen.put_nowait(exc)


@pytest.mark.parametrize("how", ["address", "sock"])
async def test_a_datagram_endpoint_of_both_families(net: Net, how: str) -> None:
    loop = asyncio.get_running_loop()
    transport: Any
    if how == "sock":  # as aioquic's client does
        sock = ipv6_socket(net, socket.SOCK_DGRAM)
        sock.bind(("::", 0, 0, 0))
        transport, server = await loop.create_datagram_endpoint(Answering, sock=sock)
    else:
        transport, server = await loop.create_datagram_endpoint(Answering, ("::", 0))
    name = transport.get_extra_info("sockname")
    assert name[0] == "::"
    for host in net.hosts:
        client_transport, client = await loop.create_datagram_endpoint(Answering, remote_addr=(host, name[1]))
        own = client_transport.get_extra_info("sockname")
        client_transport.sendto(b"question")
        assert await server.seen.get() == (b"question", own if ":" in own[0] else (mapped(own[0]), own[1], 0, 0))
        data, sender = await client.seen.get()
        assert (data, sender[:2]) == (b"answer", (host, name[1]))
        client_transport.close()
    transport.close()
    await asyncio.sleep(0.01)


async def test_a_datagram_endpoint_connected_to_a_mapped_address(net: Net) -> None:
    loop = asyncio.get_running_loop()
    server_transport, server = await loop.create_datagram_endpoint(Answering, (net.host4, 0))
    port = server_transport.get_extra_info("sockname")[1]
    transport, client = await loop.create_datagram_endpoint(Answering, remote_addr=(mapped(net.host4), port))
    assert transport.get_extra_info("peername") == (mapped(net.host4), port, 0, 0)
    own = transport.get_extra_info("sockname")
    assert own[0].startswith("::ffff:")
    transport.sendto(b"question")
    assert await server.seen.get() == (b"question", (own[0].removeprefix("::ffff:"), own[1]))
    assert await client.seen.get() == (b"answer", (mapped(net.host4), port, 0, 0))
    transport.close()
    server_transport.close()
    await asyncio.sleep(0.01)


async def test_sockets_send_to_mapped_addresses(net: Net) -> None:
    if not net.ours and (net.base == "uvloop" or sys.version_info < (3, 11)):
        pytest.skip("uvloop has no sock_sendto(), nor has asyncio before Python 3.11")
    loop = asyncio.get_running_loop()
    server_transport, server = await loop.create_datagram_endpoint(Answering, (net.host4, 0))
    port = server_transport.get_extra_info("sockname")[1]
    with ipv6_socket(net, socket.SOCK_DGRAM) as sock:
        await loop.sock_sendto(sock, b"question", (mapped(net.host4), port))
        assert (await server.seen.get())[0] == b"question"
        data, sender = await loop.sock_recvfrom(sock, 100)
        assert (data, sender) == (b"answer", (mapped(net.host4), port, 0, 0))
        assert len(sock.getsockname()) == 4
    server_transport.close()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("family", [4, 6])
async def test_an_address_of_another_family_is_an_error(net: Net, family: int) -> None:
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop raises ValueError")
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Answering, ("::" if family == 6 else "0.0.0.0", 0))
    transport.sendto(b"x", (net.host4 if family == 6 else net.host6, 9))
    error = await protocol.seen.get()
    assert isinstance(error, socket.gaierror)
    assert error.errno == socket.EAI_ADDRFAMILY
    transport.close()
    await asyncio.sleep(0.01)


async def test_both_wildcards_of_a_port(net: Net) -> None:
    """The IPv6 one takes both, unless it is told not to."""
    loop = asyncio.get_running_loop()
    if net.flavour == "uvloop-kernel":
        pytest.skip("uvloop sets SO_REUSEADDR, and with that the kernel lets it")
    transport, _ = await loop.create_datagram_endpoint(Answering, ("::", 0))
    port = transport.get_extra_info("sockname")[1]
    with pytest.raises(OSError) as caught:
        await loop.create_datagram_endpoint(Answering, ("0.0.0.0", port))
    assert caught.value.errno == errno.EADDRINUSE
    transport.close()
    await asyncio.sleep(0.01)
    sock = ipv6_socket(net, socket.SOCK_DGRAM, v6only=True)
    sock.bind(("::", 0))
    port = sock.getsockname()[1]
    six, _ = await loop.create_datagram_endpoint(Answering, sock=sock)
    four, _ = await loop.create_datagram_endpoint(Answering, ("0.0.0.0", port))
    six.close()
    four.close()
    await asyncio.sleep(0.01)
