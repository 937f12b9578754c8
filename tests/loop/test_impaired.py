"""Bad networks, many connections, and the same again: mostly in virtual time."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from typing import Any

import pytest

import aiomultistack
from aiomultistack._virtual import VirtualLoop, new_virtual_loop

from .conftest import close_loop
from .protocols import Recorder

PAYLOAD = random.Random(5).randbytes(10_000_000)


def hosts(name: str, **options: Any) -> VirtualLoop:
    """A virtual loop with two hosts, 10.9.0.1 and 10.9.0.2 (fd09::1, fd09::2), on hub `name`."""
    config = aiomultistack.Config(f"mem:{name}", ["10.9.0.1/24", "fd09::1/64"], seed=7, **options)
    loop = new_virtual_loop(config)
    loop.multistack.attach(config.replace(addresses=["10.9.0.2/24", "fd09::2/64"]))
    return loop


async def transfer(host: str, data: bytes) -> Recorder:
    """Sends data to a server on `host`; returns what that got."""
    loop = asyncio.get_running_loop()
    received: asyncio.Future[Recorder] = loop.create_future()

    def factory() -> Recorder:
        received.set_result(Recorder())
        return received.result()

    server = await loop.create_server(factory, host, 80)
    transport, client = await loop.create_connection(Recorder, host, 80)
    transport.write(data)
    transport.close()
    recorder = await received
    assert await recorder.lost is None
    await client.lost
    server.close()
    return recorder


@pytest.mark.parametrize("host", ["10.9.0.1", "fd09::1"])
def test_ten_megabytes_over_a_bad_network(host: str) -> None:
    """5 % loss, 5 % reordering, 1 % duplication, bit flips, delay: slow, but whole."""
    hub = aiomultistack.Hub(
        "bad", seed=3, loss=0.05, reorder=0.05, duplicate=0.01, corrupt=0.002, delay=0.005, jitter=0.001
    )
    loop = hosts("bad")
    recorder = loop.run_until_complete(transfer(host, PAYLOAD))
    assert hashlib.sha256(recorder.data).digest() == hashlib.sha256(PAYLOAD).digest()
    counters = loop.multistack.counters()
    assert counters["stack.tcp_retrans"] > 0
    close_loop(loop)
    del hub


def test_slow_network() -> None:
    """A megabit takes its time, in virtual seconds."""
    hub = aiomultistack.Hub("slow", rate=1e6, delay=0.05)
    loop = hosts("slow")
    began = loop.time()
    data = PAYLOAD[:500_000]
    recorder = loop.run_until_complete(transfer("10.9.0.1", data))
    assert recorder.data == data
    assert 4.0 < loop.time() - began < 12.0
    close_loop(loop)
    del hub


def run_once(name: str) -> tuple[dict[str, int], float]:
    """One transfer over a bad network: its counters, and how long it took."""
    hub = aiomultistack.Hub(name, seed=11, loss=0.1, reorder=0.1, delay=0.01, jitter=0.002)
    loop = hosts(name)
    loop.run_until_complete(transfer("10.9.0.1", PAYLOAD[:300_000]))
    result = loop.multistack.counters(), loop.time()
    close_loop(loop)
    del hub
    return result


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_once("repeated") == run_once("repeated")


def test_a_cut_cable_times_out() -> None:
    """TCP_USER_TIMEOUT: the connection fails with TimeoutError, in virtual time."""
    import socket

    hub = aiomultistack.Hub("cut", offload=False)
    loop = hosts("cut")

    async def main() -> None:
        accepted: list[Recorder] = []
        server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "10.9.0.1", 80)  # type: ignore[func-returns-value]
        transport, client = await loop.create_connection(Recorder, "10.9.0.1", 80)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
        hub.impair(loss=1.0)
        began = loop.time()
        transport.write(b"anybody there?")
        assert isinstance(await client.lost, TimeoutError)
        assert 4.0 < loop.time() - began < 10.0
        server.close()
        accepted[0].transport.abort()
        await accepted[0].lost

    loop.run_until_complete(main())
    close_loop(loop)


def test_datagrams_and_data_in_one_batch() -> None:
    """A datagram's event before the data of a connection's: each gets its own bytes."""
    loop = hosts("mixed")
    datagrams: list[bytes] = []

    class Datagrams(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            datagrams.append(data)

    async def main() -> None:
        accepted: list[Recorder] = []
        server = await loop.create_server(lambda: accepted.append(Recorder()) or accepted[-1], "10.9.0.1", 80)  # type: ignore[func-returns-value]
        udp, _ = await loop.create_datagram_endpoint(Datagrams, ("10.9.0.1", 53))
        sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("10.9.0.1", 53))
        transport, client = await loop.create_connection(Recorder, "10.9.0.1", 80)
        sent = b""
        for number in range(50):
            sender.sendto(b"datagram %d" % number)
            piece = PAYLOAD[number * 700 : number * 700 + 700]
            transport.write(piece)
            sent += piece
            await asyncio.sleep(0.01)
        assert accepted[0].data == sent
        assert datagrams == [b"datagram %d" % number for number in range(50)]
        transport.close()
        await client.lost
        for item in (udp, sender, server):
            item.close()
        await asyncio.sleep(0.1)

    loop.run_until_complete(main())
    close_loop(loop)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ten_thousand_connections() -> None:
    """10,000 keep-alive connections at a time over one hub, all answering."""
    count = 10_000
    config = aiomultistack.Config("mem:crowd", ["10.9.0.1/24"], control=False)
    loop = aiomultistack.new_event_loop(config)
    loop.multistack.attach(config.replace(addresses=["10.9.0.2/24"]))

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.answered = loop.create_future()

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.answered.set_result(data)

        def ask(self) -> asyncio.Future[bytes]:
            self.answered = loop.create_future()
            self.transport.write(b"GET / HTTP/1.1\r\nHost: crowd\r\n\r\n")
            return self.answered

    async def main() -> None:
        server = await loop.create_server(Server, "10.9.0.1", 80)
        clients: list[Client] = []
        for _ in range(count // 200):
            made = await asyncio.gather(*(loop.create_connection(Client, "10.9.0.1", 80) for _ in range(200)))
            clients += [protocol for _, protocol in made]
        for _ in range(2):
            answers = await asyncio.gather(*(client.ask() for client in clients))
            assert all(answer.endswith(b"ok") for answer in answers)
        assert len([info for info in loop.multistack.connections() if info.state_name == "ESTAB"]) == 2 * count
        server.close()
        server.abort_clients()
        for client in clients:
            client.transport.abort()
        nodes = loop.multistack.nodes
        for _ in range(200):  # a busy machine takes a while to end 20,000 connections
            if loop.multistack.frames == 0 and sum(node.endpoint_count for node in nodes) == 0:
                break
            await asyncio.sleep(0.05)
        assert sum(node.endpoint_count for node in nodes) == 0
        assert loop.multistack.frames == 0

    loop.run_until_complete(main())
    loop.close()
    gc.collect()
