"""Loopback addresses on a stack inside the process, which it shares with the kernel."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aiomultistack
from aiomultistack._rawport import RawPort

from .protocols import Echo, Recorder


def config(name: str, **options: Any) -> aiomultistack.Config:
    return aiomultistack.Config(f"mem:{name}", ["127.0.0.1/8", "::1/128"], control=False, **options)


def run(main: Callable[[], Coroutine[Any, Any, None]], **options: Any) -> None:
    aiomultistack.run(main(), config=config("loopback", **options))


def opened() -> int:
    """Connections that the running loop's stack has opened."""
    return asyncio.get_running_loop().multistack.counters()["stack.tcp_active_open"]  # type: ignore[attr-defined,no-any-return]


async def talk(*address: Any) -> None:
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *address[:2])
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    assert transport.get_extra_info("peername")[:2] == address[:2]
    transport.close()
    await protocol.lost


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_servers_and_their_clients_are_the_stack_s(host: str) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, host, 0)
        async with server:
            for number, sock in enumerate(server.sockets, 1):
                await talk(*sock.getsockname())
                assert opened() == number

    run(main)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_datagrams(host: str) -> None:
    class Collector(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.received.set_result((data, addr))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, collector = await loop.create_datagram_endpoint(Collector, local_addr=(host, 0))
        client, _ = await loop.create_datagram_endpoint(Collector, remote_addr=server.get_extra_info("sockname")[:2])
        client.sendto(b"here")
        assert await collector.received == (b"here", client.get_extra_info("sockname"))
        client.close()
        server.close()

    run(main)


def test_what_the_kernel_serves_is_reached_there() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            accepted, _ = listener.accept()
            accepted.sendall(b"kernel")
            accepted.close()
            assert await reader.read() == b"kernel"
            writer.close()
            await writer.wait_closed()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *listener_address())
        assert opened() == 0

    run(main)


def listener_address() -> tuple[str, int]:
    """A loopback address that nobody serves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        return host, port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_servers_on_both_stacks(host: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, host, 0)
        async with server:
            (sock,) = server.sockets
            port = sock.getsockname()[1]
            await talk("127.0.0.1", port)
            assert opened() == 1

            def kernel_client() -> bytes:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                    client.sendall(b"kernel")
                    return client.recv(10)

            assert await loop.run_in_executor(None, kernel_client) == b"kernel"

    run(main, host_stack="also")


def test_accepting_from_both_stacks() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            for serving in (False, True):  # before the first sock_accept() the kernel has the port, then both have it
                accepting = asyncio.ensure_future(loop.sock_accept(listener))
                if serving:
                    await asyncio.sleep(0)
                with socket.socket() as client:
                    client.setblocking(False)
                    connecting = asyncio.ensure_future(loop.sock_connect(client, listener.getsockname()))
                    sock, address = await accepting
                    await connecting
                    assert address == client.getsockname()
                    with sock:
                        await loop.sock_sendall(client, b"x")
                        assert await loop.sock_recv(sock, 1) == b"x"
            with socket.create_connection(listener.getsockname()) as blocking:
                sock, address = await loop.sock_accept(listener)
                assert address == blocking.getsockname()
                sock.close()
        assert opened() >= 1

    run(main, host_stack="also")


def test_the_link_learns_nothing_of_loopback() -> None:
    mac = b"\x02\0\0\0\0\x07"

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        (node,) = loop.multistack.nodes
        neighbour = RawPort(node.hub)
        try:
            async with await loop.create_server(Echo, "127.0.0.1", 0) as server:
                await talk(*server.sockets[0].getsockname())
            frames = []
            while (frame := neighbour.receive(node.now())) is not None:
                frames.append(frame)
            assert not any(b"\x7f\0\0\x01" in frame for frame in frames)
            before = node.counters()["stack.rx_not_for_us"]
            neighbour.send(mac + b"\x02\0\0\0\0\x09\x08\x00" + ip4_echo("10.0.0.1", "127.0.0.1"), node.now())
            while node.counters()["stack.rx_not_for_us"] == before:
                await asyncio.sleep(0.001)
        finally:
            neighbour.close()

    run(main, mac="02:00:00:00:00:07")


def ip4_echo(source: str, target: str) -> bytes:
    """An ICMP echo request over IPv4."""
    from scapy.layers.inet import ICMP, IP

    return bytes(IP(src=source, dst=target) / ICMP())
