"""A loop on an ``xdp:`` port in the test's own process: clients, datagrams, errors, and how it ends."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import gc
import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import descriptors, eventually

import aiomultistack

from .kernel_peer import accept_and_exchange, digest, listener, payload, stream_exchange
from .lab import STACK4, Bench, Program, command, configuration
from .wire import (
    ADDRESSES,
    MACHINE4,
    SYSTEM_PORT,
    Wire,
    address,
    machine,
    nobody_host,
    others_host,
    program_options,
    system_answers,
    udp_echo,
    wire,
)

APP = Path(__file__).with_name("app.py")
PORT = 8080
FAMILIES = pytest.mark.parametrize("family", [4, 6])

Tool = Callable[[str], str]


@pytest.fixture(scope="module")
def link() -> Iterator[Wire]:
    with machine() as made:
        yield made


@pytest.fixture(scope="module")
def others(link: Wire) -> Iterator[concurrent.futures.Executor]:
    """Threads at the other end of the wire."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        barrier = threading.Barrier(2)  # a thread's namespace is that of who makes it: make both now
        for ready in [pool.submit(barrier.wait) for _ in range(2)]:
            ready.result()
        yield pool


@contextlib.contextmanager
def stack_on(made: Wire, mode: str, **fields: object) -> Iterator[Bench]:
    """A loop on the machine's link, in whose namespace this thread is meanwhile.

    Checks that no descriptor and no program is left behind.
    """
    gc.collect()
    with made.inside():
        before = descriptors()
        gateways = [others_host(family) for family in (4, 6)]
        bench = Bench(configuration("", port=f"xdp:{made.name}", addresses=ADDRESSES[mode], host_addresses=[],
                                    gateway=gateways, **fields))  # fmt: skip
        try:
            yield bench
        finally:
            bench.close()
            gc.collect()
        assert descriptors() - before == set()
        assert not made.has_program()


@pytest.fixture(params=["own", "shared"])
def bench(
    request: pytest.FixtureRequest, link: Wire, others: concurrent.futures.Executor
) -> Iterator[tuple[str, Bench]]:
    with stack_on(link, request.param) as bench:
        yield request.param, bench


@FAMILIES
def test_outgoing_connections(
    link: Wire, others: concurrent.futures.Executor, bench: tuple[str, Bench], family: int
) -> None:
    """To a server that has never heard of us: the next hop has to be found first."""
    mode, stack = bench
    sent, wanted = payload(1, 2_000_000), payload(2, 3_000_000)
    command("ip", "neigh", "flush", "dev", link.name)
    others.submit(command, "ip", "neigh", "flush", "dev", "others").result()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            accepting = loop.run_in_executor(others, accept_and_exchange, server, wanted)
            reader, writer = await asyncio.open_connection(others_host(family), server.getsockname()[1])
            assert writer.get_extra_info("sockname")[0] == address(mode, family)
            assert await stream_exchange(reader, writer, sent) == digest(wanted)
            assert await accepting == digest(sent)

    listening = contextlib.ExitStack()
    server = others.submit(listening.enter_context, listener(others_host(family))).result()
    with listening:
        stack.run(main)


@FAMILIES
def test_datagrams_with_fragments(
    others: concurrent.futures.Executor, bench: tuple[str, Bench], family: int
) -> None:
    mode, stack = bench

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
            self.transport.sendto(data[::-1], peer)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(address(mode, family), 5000))
        for size in (1, 1400, 3000, 20000):
            data = os.urandom(size)
            back = await loop.run_in_executor(others, udp_echo, address(mode, family), 5000, data)
            assert back == data[::-1]
        transport.close()

    stack.run(main)


@FAMILIES
def test_icmp_errors_come_back(bench: tuple[str, Bench], family: int) -> None:
    """A TCP reset; UDP's port unreachable, which quotes our tuple; nobody at all, as the kernel finds."""
    mode, stack = bench
    told: list[Exception] = []

    class Told(asyncio.DatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            told.append(exc)
            done.set()

    done = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(others_host(family), 9)
        transport, _ = await loop.create_datagram_endpoint(Told, remote_addr=(others_host(family), 9))
        transport.sendto(b"anyone?")
        await done.wait()
        transport.close()
        if mode == "own":  # as over any other port
            return
        with pytest.raises(OSError) as caught:
            await asyncio.open_connection(nobody_host(family), 9)
        assert caught.value.errno == errno.EHOSTUNREACH

    stack.run(main)
    assert [type(error) for error in told] == [ConnectionRefusedError]


def test_a_port_of_the_systems_is_refused(bench: tuple[str, Bench]) -> None:
    mode, stack = bench

    async def main() -> None:
        for family in (4, 6):
            if mode == "own":  # another address: both may have the number
                server = await asyncio.start_server(lambda *_: None, address(mode, family), SYSTEM_PORT)
                server.close()
                await server.wait_closed()
                continue
            with pytest.raises(OSError) as caught:
                await asyncio.start_server(lambda *_: None, address(mode, family), SYSTEM_PORT)
            assert caught.value.errno == errno.EADDRINUSE

    stack.run(main)


def test_ephemeral_ports_that_the_system_has_are_left_out(link: Wire) -> None:
    """Of four ports three are the system's."""
    with (
        listener(others_host(4)) as server,
        stack_on(link, "shared", ephemeral_ports=(40000, 40003)) as stack,
        contextlib.ExitStack() as held,
    ):
        for port in (40000, 40001, 40003):
            held.enter_context(socket.create_server((MACHINE4, port)))

        async def main() -> None:
            _, writer = await asyncio.open_connection(*server.getsockname())
            assert writer.get_extra_info("sockname") == (MACHINE4, 40002)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()  # nobody accepts, and closes, at the other end
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

        stack.run(main)


def test_the_systems_address_cannot_be_shared_under_another_mac(link: Wire) -> None:
    with link.inside(), pytest.raises(aiomultistack.ConfigError, match="leave mac unset"):
        aiomultistack.new_event_loop(configuration("", port=f"xdp:{link.name}", addresses=ADDRESSES["shared"],
                                                   host_addresses=[], mac="02:00:00:00:00:77"))  # fmt: skip


def test_an_address_of_its_own_may_have_another_mac(
    link: Wire, others: concurrent.futures.Executor, tool: Tool
) -> None:
    with stack_on(link, "own", mac="02:00:00:00:00:77") as stack:

        async def main() -> None:
            ping = (command, tool("ping"), "-n", "-c", "1", "-W", "5", STACK4)
            assert "1 received" in await asyncio.get_running_loop().run_in_executor(others, *ping)

        stack.run(main)
        assert "02:00:00:00:00:77" in others.submit(command, "ip", "neigh", "show", STACK4).result()
        assert promiscuity(link.name) == 1  # a veth has no filter for more than one address
    with link.inside():
        assert promiscuity(link.name) == 0


def promiscuity(name: str) -> int:
    """How many ask for all frames of a link in this thread's namespace."""
    shown: list[dict[str, int]] = json.loads(command("ip", "-j", "-d", "link", "show", name))
    return shown[0]["promiscuity"]


def test_the_link_listens_for_solicitations_and_is_not_promiscuous(link: Wire) -> None:
    group = "33:33:ff:00:00:02"  # that of fd99::2 (RFC 4291 section 2.7.1)
    with stack_on(link, "own"):
        assert group in command("ip", "maddr", "show", "dev", link.name)
        assert promiscuity(link.name) == 0
    with link.inside():
        assert group not in command("ip", "maddr", "show", "dev", link.name)


def test_a_wildcard_listens_on_both_stacks(link: Wire, others: concurrent.futures.Executor) -> None:
    """The system's listener shows that the port is ours; the shared address is the stack's all the same."""
    with stack_on(link, "shared", host_stack="also") as stack:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()
            await writer.wait_closed()

        def ask(host: str) -> bytes:
            with socket.create_connection((host, PORT), 10) as client:
                client.sendall(b"who?\n")
                return client.recv(100)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            server = await asyncio.start_server(serve, None, PORT)
            for family in (4, 6):
                accepted = stack.loop.multistack.counters()["stack.tcp_passive_open"]
                assert await loop.run_in_executor(others, ask, address("shared", family)) == b"who?\n"
                assert stack.loop.multistack.counters()["stack.tcp_passive_open"] == accepted + 1
            assert await asyncio.to_thread(ask, "127.0.0.1") == b"who?\n"
            server.close()
            await server.wait_closed()

        stack.run(main)


@FAMILIES
def test_the_applications_own_socket_proves_its_port(
    link: Wire, others: concurrent.futures.Executor, family: int
) -> None:
    with stack_on(link, "shared") as stack:
        host = address("shared", family)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            own = socket.create_server((host, PORT), family=socket.AF_INET6 if family == 6 else socket.AF_INET)
            server = await asyncio.start_server(lambda _, writer: writer.close(), sock=own)
            accepted = stack.loop.multistack.counters()["stack.tcp_passive_open"]
            with await loop.run_in_executor(others, socket.create_connection, (host, PORT), 10) as client:
                assert await loop.run_in_executor(others, client.recv, 1) == b""
            assert stack.loop.multistack.counters()["stack.tcp_passive_open"] == accepted + 1
            server.close()
            await server.wait_closed()

        stack.run(main)
        with socket.create_server((host, PORT), family=socket.AF_INET6 if family == 6 else socket.AF_INET):
            pass  # free again


@FAMILIES
def test_the_systems_servers_on_the_shared_address_are_reached_through_the_system(link: Wire, family: int) -> None:
    with stack_on(link, "shared") as stack:

        async def main() -> None:
            reader, writer = await asyncio.open_connection(address("shared", family), SYSTEM_PORT)
            writer.write(b"GET /5 HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"\r\n\r\nkkkkk")
            writer.close()
            await writer.wait_closed()

        stack.run(main)


# ---- ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["own", "shared"])
def test_a_killed_process_leaves_nothing(link: Wire, tmp_path: Path, mode: str) -> None:
    arguments = [str(PORT), str(tmp_path), address(mode, 4)]
    for _ in range(2):
        with link.inside():
            program = Program(tmp_path / "log", APP, arguments, **program_options(link, mode))
        with contextlib.closing(program):
            program.wait_until_open(address(mode, 4), PORT)
            assert link.has_program()
            program.process.send_signal(signal.SIGKILL)
            program.process.wait()
        eventually(lambda: not link.has_program(), "the program is gone")
        assert system_answers(4)
        with link.inside(), socket.create_server((MACHINE4, PORT)):
            pass  # the system may have the port again


def test_a_link_that_is_deleted_ends_connections_with_an_error(tool: Tool) -> None:
    with wire() as made, listener(others_host(4)) as server, made.inside():
        bench = Bench(configuration("", port=f"xdp:{made.name}", addresses=ADDRESSES["own"], host_addresses=[]))

        async def main() -> None:
            reader, writer = await asyncio.open_connection(*server.getsockname())
            await asyncio.to_thread(command, "ip", "link", "del", made.name)
            with pytest.raises(OSError) as caught:
                await reader.read(1)
            assert caught.value.errno == errno.ENODEV
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        try:
            bench.loop.run_until_complete(asyncio.wait_for(main(), 60.0))
        finally:
            bench.close()
        assert len(bench.contexts) == 1
