"""Virtual networks: hosts, names, links and their faults."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from aiomultistack import ConfigError
from aiomultistack.testing import Faults, Frame, Network

from .programs import Datagrams, ask, serve

DATA = random.Random(1).randbytes(300_000)


async def transfer(host: str, data: bytes, received: bytearray) -> None:
    """Sends data to a host that collects it, and waits for the end."""
    _, writer = await asyncio.open_connection(host, 9)
    writer.write(data)
    writer.close()
    await writer.wait_closed()
    while len(received) < len(data):
        await asyncio.sleep(0.01)


async def collect(received: bytearray) -> None:
    """Takes whatever comes."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            received.extend(data)
        writer.close()

    async with await asyncio.start_server(connected, None, 9) as server:
        await server.serve_forever()


async def test_a_round_trip_takes_its_time(virtual_network: Network) -> None:
    network = virtual_network
    network.links(delay=0.25)
    network.host("server").start(serve())
    assert await ask("server") == b"HELLO\n"
    assert network.time() == pytest.approx(1.0, abs=0.01)  # a handshake and a question


@pytest.mark.virtual_network(ipv6=True)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_names_resolve_in_both_families(virtual_network: Network, family: int) -> None:
    server = virtual_network.host("server")
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo("server", 7, family=family, type=socket.SOCK_STREAM)
    assert [info[4][0] for info in infos] == [server.addresses[family == socket.AF_INET6]]
    server.start(serve())
    assert await ask(infos[0][4][0]) == b"HELLO\n"
    assert (await loop.getnameinfo(infos[0][4]))[0] == "server"


async def test_names_of_ones_own(virtual_network: Network) -> None:
    network = virtual_network
    server = network.host("server", ["203.0.113.7"])
    server.start(serve())
    network.set_name("api.example.com", server)
    assert await ask("API.example.com.") == b"HELLO\n"
    network.set_name("api.example.com")
    with pytest.raises(socket.gaierror):
        await ask("api.example.com")
    with pytest.raises(socket.gaierror):
        await ask("example.org")


async def test_lookups_take_time(virtual_network: Network) -> None:
    virtual_network.host("server").start(serve())
    virtual_network.lookup_delay = 5.0
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(ask("server"), 3)


async def test_code_runs_on_the_host_that_it_is_meant_for(virtual_network: Network) -> None:
    one, two = virtual_network.host("one"), virtual_network.host("two")
    seen: list[Any] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        writer.close()

    async def visit() -> None:
        _, writer = await asyncio.open_connection("one", 7)
        writer.close()
        await writer.wait_closed()

    with one:
        server = await asyncio.start_server(connected, "0.0.0.0", 7)
    await two.run(visit())
    with two:
        await asyncio.create_task(visit())
    await visit()
    await asyncio.sleep(1)
    assert seen == [two.addresses[0], two.addresses[0], virtual_network.local.addresses[0]]
    server.close()


async def test_each_host_has_its_own_ports_and_localhost(virtual_network: Network) -> None:
    for name in ("one", "two"):
        virtual_network.host(name).start(serve("127.0.0.1"))
    await asyncio.sleep(0.001)
    for name in ("one", "two"):
        assert await virtual_network.host(name).run(ask("localhost")) == b"HELLO\n"
    with pytest.raises(ConnectionRefusedError):
        await ask("localhost")


async def test_what_cannot_be_bound_or_reached(virtual_network: Network) -> None:
    virtual_network.host("server")
    with pytest.raises(ConnectionRefusedError):
        await ask("server")
    with pytest.raises(OSError) as info:
        await serve("10.0.0.99")
    assert info.value.errno == errno.EADDRNOTAVAIL
    began = virtual_network.time()
    with pytest.raises(OSError) as info:
        await ask("10.0.0.99")
    assert info.value.errno == errno.EHOSTUNREACH
    assert virtual_network.time() > began


async def test_datagrams(virtual_network: Network) -> None:
    loop = asyncio.get_running_loop()
    with virtual_network.host("server"):
        server, _ = await loop.create_datagram_endpoint(lambda: Datagrams(echo=True), ("0.0.0.0", 53))
    client, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=("server", 53))
    client.sendto(b"question")
    assert await protocol.received.get() == b"QUESTION"
    virtual_network.links(loss=1.0)
    client.sendto(b"question")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(protocol.received.get(), 60)
    client.close()
    server.close()
    await asyncio.sleep(0)


async def test_a_datagram_endpoint_without_any_address_is_on_the_network(virtual_network: Network) -> None:
    loop = asyncio.get_running_loop()
    with virtual_network.host("server") as host:
        server, _ = await loop.create_datagram_endpoint(lambda: Datagrams(echo=True), ("0.0.0.0", 53))
        address = server.get_extra_info("socket").getsockname()
    assert address[1] == 53
    client, protocol = await loop.create_datagram_endpoint(Datagrams, family=socket.AF_INET)
    client.sendto(b"question", (host.addresses[0], 53))
    assert await protocol.received.get() == b"QUESTION"
    client.close()
    server.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "faults",
    [
        {"loss": 0.05},
        {"reorder": 0.1, "delay": 0.005},
        {"duplicate": 0.1, "jitter": 0.003},
        {"corrupt": 0.02},
        {"rate": 2e6, "queue": 20},
        {"loss": 0.03, "reorder": 0.03, "duplicate": 0.02, "corrupt": 0.01, "delay": 0.01, "jitter": 0.005},
    ],
    ids=lambda faults: "+".join(faults),
)
async def test_data_survives_faults(virtual_network: Network, faults: dict[str, Any]) -> None:
    virtual_network.links(**faults)
    received = bytearray()
    virtual_network.host("server").start(collect(received))
    await transfer("server", DATA, received)
    assert received == DATA
    fates = {frame.fate for frame in virtual_network.trace()} | {
        note for frame in virtual_network.trace() for note in frame.notes
    }
    for name, fate in (("loss", "lost"), ("reorder", "reordered"), ("duplicate", "duplicate"),
                       ("corrupt", "corrupted"), ("queue", "queue full")):  # fmt: skip
        assert (fate in fates) == (name in faults)
    if "rate" in faults:
        assert virtual_network.time() > len(DATA) * 8 / faults["rate"]


def run_once(seed: int, path: Path | None = None) -> tuple[str, float, list[float]]:
    """A transfer over a bad link: its trace, its time, and what `random` said."""
    with Network(seed, loss=0.05, reorder=0.05, jitter=0.002) as network:
        received = bytearray()
        network.host("server").start(collect(received))
        network.run(transfer("server", DATA[:100_000], received))
        numbers = [network.run(draw()) for _ in range(2)]
        if path is not None:
            network.save_pcapng(path)
        return network.format_trace(), network.time(), numbers


async def draw() -> float:
    return random.random()


def test_the_seed_decides(tmp_path: Path) -> None:
    outside = random.getstate()
    first = run_once(7, tmp_path / "first")
    assert first == run_once(7, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert first != run_once(8)
    assert first[2][0] != first[2][1]
    assert random.getstate() == outside


def test_one_link_does_not_disturb_another() -> None:
    """What happens between two hosts stays the same whatever a third one does."""
    traces = []
    for others in (False, True):
        with Network(5, loss=0.2) as network:
            received = bytearray()
            network.host("server").start(collect(received))
            third = network.host("third")
            if others:
                third.start(serve())
                network.run(ask("third"))
                network.run(asyncio.sleep(1 - network.time()))
            else:
                network.run(asyncio.sleep(1))
            network.run(transfer("server", DATA[:50_000], received))
            ends = "test", "server"
            traces.append([frame.fate for frame in network.trace() if (frame.source, frame.target) == ends])
    assert traces[0] == traces[1]


async def test_single_links(virtual_network: Network) -> None:
    network = virtual_network
    for name in ("near", "far"):
        network.host(name).start(serve())
    network.link("test", "far", delay=1.0)
    network.link("near", "test", delay=0.1, both=False)
    began = network.time()
    await ask("near")
    assert network.time() - began == pytest.approx(2 * 0.1005, abs=0.001)
    await ask("far")
    assert network.time() - began == pytest.approx(2 * 0.1005 + 4, abs=0.001)


async def test_a_partition_and_its_end(virtual_network: Network) -> None:
    """What was sent meanwhile arrives when the network is whole again."""
    network = virtual_network
    network.host("server").start(serve())
    reader, writer = await asyncio.open_connection("server", 7)
    await asyncio.sleep(1)
    with network.partition("server"):
        writer.write(b"anybody there?\n")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.readline(), 30)
        with pytest.raises(TimeoutError):  # the engine's own, after all its SYNs
            await ask("server")
    assert await reader.readline() == b"ANYBODY THERE?\n"
    assert "cut" in {frame.fate for frame in network.trace()}
    writer.close()


async def test_partitions_between_groups(virtual_network: Network) -> None:
    network = virtual_network
    for name in ("a", "b", "c"):
        network.host(name).start(serve())
    partition = network.partition(["a", "b"], ["c", "test"])
    assert await network.host("a").run(ask("b")) == b"HELLO\n"
    assert await ask("c") == b"HELLO\n"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(ask("a"), 10)
    partition.heal()
    partition.heal()
    assert await ask("a") == b"HELLO\n"
    network.partition("a", both=False)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(ask("a"), 10)
    assert all(frame.fate != "cut" for frame in network.trace() if frame.target == "a" and frame.time > 100)
    network.heal()
    assert await ask("a") == b"HELLO\n"


async def test_chosen_frames_are_lost(virtual_network: Network) -> None:
    network = virtual_network
    network.host("server").start(serve())
    network.drop(lambda frame: "SYN" in frame.flags, times=2)
    await ask("server")
    assert network.time() > 3  # two retransmission timeouts, RFC 6298
    lost = [frame for frame in network.trace() if frame.fate == "dropped by test"]
    assert [frame.flags for frame in lost] == [{"SYN"}, {"SYN"}]
    assert lost[0].protocol == "TCP"
    assert lost[0].ports is not None
    assert lost[0].ports[1] == 7
    assert "[SYN] seq=0" in str(lost[0])


async def test_frames_tell_what_they_carry(virtual_network: Network) -> None:
    virtual_network.host("server").start(serve())
    await ask("server", b"shall I?\n")
    assert b"".join(frame.payload for frame in virtual_network.trace()) == b"shall I?\nSHALL I?\n"
    text = virtual_network.format_trace()
    assert "test > server" in text
    assert "len=9 'shall I?\\n'" in text
    for frame in virtual_network.trace():
        assert isinstance(frame, Frame)
        assert frame.arrival == pytest.approx(frame.time + 0.0005)


def test_values_that_cannot_be_meant() -> None:
    for wrong in ({"loss": 1.5}, {"delay": -1}, {"loss": float("nan")}, {"speed": 3}):
        with pytest.raises(ConfigError):
            Network(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Faults(corrupt=2)
    with Network() as network:
        network.host("server", ["192.0.2.1"])
        with pytest.raises(ConfigError, match="server"):
            network.host("other", ["192.0.2.1"])
        with pytest.raises(ConfigError, match="exists"):
            network.host("server", ["192.0.2.2"])
        with pytest.raises(ConfigError, match="no host 'nobody'"):
            network.link("server", "nobody")
