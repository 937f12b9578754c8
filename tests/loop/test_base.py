"""What isn't the user-space stack's goes to the loop underneath, untouched; and the life of a loop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
from support import descriptors

import aiomultistack
from aiomultistack import _loop

from .conftest import Net
from .protocols import Echo, Recorder

CONFIG = aiomultistack.Config("mem:base", ["10.9.0.1/24"], control=False)


async def test_unix_sockets(ours: Net, net: Net, tmp_path: Path) -> None:
    server = await net.loop.create_unix_server(Echo, os.fspath(tmp_path / "socket"))
    async with server:
        transport, protocol = await net.loop.create_unix_connection(Recorder, os.fspath(tmp_path / "socket"))
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.close()
        await protocol.lost


async def test_subprocess(ours: Net, net: Net) -> None:
    if net.base == "virtual":
        pytest.skip("a process doesn't live in virtual time")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('child')", stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert output == b"child\n"
    assert process.returncode == 0


async def test_signals(ours: Net, net: Net) -> None:
    got = asyncio.Event()
    net.loop.add_signal_handler(signal.SIGUSR1, got.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await got.wait()
    net.loop.remove_signal_handler(signal.SIGUSR1)


async def test_executor_and_threadsafe_calls(ours: Net, net: Net) -> None:
    name = await net.loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert name != threading.current_thread().name
    done = asyncio.Event()
    await net.loop.run_in_executor(None, net.loop.call_soon_threadsafe, done.set)
    await done.wait()


async def test_pipes(ours: Net, net: Net) -> None:
    source, sink = os.pipe()
    read_end, write_end = os.fdopen(source, "rb", 0), os.fdopen(sink, "wb", 0)
    transport, protocol = await net.loop.connect_read_pipe(Recorder, read_end)
    write_end.write(b"through a pipe")
    write_end.close()
    assert await protocol.received(14) == b"through a pipe"
    await protocol.lost
    transport.close()


async def test_readers(ours: Net, net: Net) -> None:
    left, right = socket.socketpair()
    with left, right:
        readable = asyncio.Event()
        net.loop.add_reader(left, readable.set)
        right.send(b"x")
        await readable.wait()
        net.loop.remove_reader(left)


async def test_tls_on_the_system_s_stack(ours: Net, net: Net) -> None:
    import ssl

    import trustme

    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    server = await net.loop.create_server(Echo, "127.0.0.1", 0, ssl=server_context)
    async with server:
        address = server.sockets[0].getsockname()
        transport, protocol = await net.loop.create_connection(Recorder, *address, ssl=client_context)
        transport.write(b"x")
        assert await protocol.received(1) == b"x"
        transport.close()
        await protocol.lost


async def test_local_name(ours: Net, net: Net) -> None:
    server = await net.loop.create_server(Echo, "localhost", 0)
    async with server:
        assert all(sock.fileno() > 0 for sock in server.sockets)


async def test_wildcard_on_both_stacks(ours: Net, net: Net) -> None:
    object.__setattr__(net.loop.multistack, "config", net.loop.multistack.config.replace(host_stack="also"))  # type: ignore[attr-defined]
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    server = await net.loop.create_server(Echo, "0.0.0.0", port)
    async with server:
        for host in ("127.0.0.1", net.host4):
            transport, protocol = await net.loop.create_connection(Recorder, host, port)
            transport.write(b"x")
            assert await protocol.received(1) == b"x"
            transport.close()
            await protocol.lost


# ---- the loop's life ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["uvloop", "asyncio"])
def test_close_with_everything_open(base: str) -> None:
    """Unclosed transports are aborted and warned about; nothing is leaked."""
    before = descriptors()
    loop = aiomultistack.new_event_loop(CONFIG.replace(base=base))
    node = loop.multistack.attach(CONFIG.replace(addresses=["10.9.0.2/24"]))
    ends: list[Recorder] = []

    async def main() -> None:
        server = await loop.create_server(lambda: ends.append(Recorder()) or ends[-1], "10.9.0.1", 80)  # type: ignore[func-returns-value]
        ends.append((await loop.create_connection(Recorder, "10.9.0.1", 80))[1])
        while len(ends) < 2:
            await asyncio.sleep(0)
        ends[1].transport.write(b"x" * 10_000_000)
        assert server.is_serving()

    loop.run_until_complete(main())
    transports = [end.transport for end in ends]
    loop.close()
    loop.close()
    assert node.closed
    assert loop.is_closed()
    assert node.counters() == {}
    assert node.endpoints() == []
    for transport in transports:
        transport.write(b"into the void")
        assert transport.get_write_buffer_size() == 0
        assert transport.get_extra_info("peername") is not None
        with pytest.raises(OSError):
            transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del transport
        transports.clear()
        ends.clear()
        gc.collect()
    assert sum("unclosed transport" in str(warning.message) for warning in caught) == 2
    assert descriptors() - before == set()


def test_close_while_running() -> None:
    loop = aiomultistack.new_event_loop(CONFIG)

    async def main() -> None:
        with pytest.raises(RuntimeError):
            loop.close()

    loop.run_until_complete(main())
    loop.close()


def test_run() -> None:
    async def main() -> str:
        assert isinstance(asyncio.get_running_loop(), aiomultistack.Loop)
        assert asyncio.get_running_loop().get_debug()
        return "done"

    assert aiomultistack.run(main(), config=CONFIG, debug=True) == "done"


def test_run_closes_the_loop_after_a_failure() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        aiomultistack.run(main(), config=CONFIG)
    assert loops[0].is_closed()


def test_run_inside_a_loop() -> None:
    async def main() -> None:
        inner = asyncio.sleep(0)
        try:
            with pytest.raises(RuntimeError, match="running event loop"):
                aiomultistack.run(inner, config=CONFIG)
        finally:
            inner.close()

    aiomultistack.run(main(), config=CONFIG)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies are deprecated there")
def test_policy() -> None:
    policy = aiomultistack.EventLoopPolicy(CONFIG)
    loop = policy.new_event_loop()
    assert isinstance(loop, aiomultistack.Loop)
    loop.close()
    asyncio.set_event_loop_policy(policy)
    try:

        async def main() -> bool:
            return isinstance(asyncio.get_running_loop(), aiomultistack.Loop)

        assert asyncio.run(main())
    finally:
        asyncio.set_event_loop_policy(None)


def test_import_is_quiet() -> None:
    """No warning at import, whatever the version of Python."""
    subprocess.run([sys.executable, "-W", "error", "-c", "import aiomultistack"], check=True)


def test_keyboard_interrupt_loses_nothing() -> None:
    """An interrupt in one callback of a batch, and another in the next: the rest comes when the loop runs again."""
    loop = aiomultistack.new_event_loop(CONFIG.replace(base="asyncio"))
    loop.multistack.attach(CONFIG.replace(addresses=["10.9.0.2/24"]))
    ends: list[Recorder] = []
    interrupts = [KeyboardInterrupt(), KeyboardInterrupt()]

    class Interrupting(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if interrupts:
                raise interrupts.pop()

    async def prepare() -> None:
        await loop.create_server(lambda: ends.append(Interrupting()) or ends[-1], "10.9.0.1", 80)  # type: ignore[func-returns-value]
        for _ in range(5):
            ends.append((await loop.create_connection(Recorder, "10.9.0.1", 80))[1])
        while len(ends) < 10:
            await asyncio.sleep(0)
        for end in ends:
            if type(end) is Recorder:
                end.transport.write(b"data")

    async def finish() -> None:
        servers = [end for end in ends if type(end) is Interrupting]
        for server in servers:
            await asyncio.wait_for(server.received(4), 5)
        for end in ends:
            end.transport.abort()
        await asyncio.gather(*(end.lost for end in ends))

    loop.run_until_complete(prepare())
    while interrupts:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(1))
    loop.run_until_complete(finish())
    loop.close()


def test_an_interrupt_while_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever doesn't want to wait for what peers have yet to acknowledge leaves no loop half closed."""

    def impatient(pumps: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_loop, "linger", impatient)
    before = descriptors()
    loop = aiomultistack.new_event_loop(CONFIG)
    node = loop.multistack.nodes[0]
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert loop.is_closed()
    assert node.closed
    assert descriptors() <= before


def test_two_loops_in_two_threads() -> None:
    """A hub joins loops of different threads."""
    ready = threading.Event()
    stop: list[Any] = []
    failures: list[BaseException] = []

    def serve() -> None:
        async def main() -> None:
            server = await asyncio.get_running_loop().create_server(Echo, "10.9.0.1", 80)
            finished = asyncio.Event()
            stop.extend([asyncio.get_running_loop(), finished])
            ready.set()
            async with server:
                await finished.wait()

        try:
            aiomultistack.run(main(), config=CONFIG.replace(port="mem:threads"))
        except BaseException as exc:
            failures.append(exc)
            ready.set()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("10.9.0.1", 80)
        data = os.urandom(2_000_000)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.close()
        await writer.wait_closed()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(10)
        assert not failures
        aiomultistack.run(client(), config=CONFIG.replace(port="mem:threads", addresses=["10.9.0.2/24"]))
    finally:
        if stop:
            stop[0].call_soon_threadsafe(stop[1].set)
        thread.join(10)
    assert not thread.is_alive()
    assert not failures


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
async def test_eager_tasks_may_connect_in_the_midst_of_a_batch(ours: Net, net: Net) -> None:
    """An id that a callback frees isn't given to a new connection while its old events are still to come."""
    if net.base == "uvloop" and sys.version_info >= (3, 13):
        pytest.skip("uvloop calls the factory with an argument that early releases of 3.13 don't know")
    net.loop.set_task_factory(asyncio.eager_task_factory)
    tasks: list[asyncio.Task[Any]] = []

    class Reconnecting(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.abort()
            if len(tasks) < 20:
                tasks.append(asyncio.ensure_future(net.loop.create_connection(Reconnecting, *address)))  # type: ignore[arg-type]

    class Greeter(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(b"hello" * 10_000)
            transport.close()

    async with net.server(Greeter) as address:
        for _ in range(5):
            await net.loop.create_connection(Reconnecting, *address)
        while len(tasks) < 20:
            await asyncio.sleep(0.001)
        made = await asyncio.gather(*tasks)
        await asyncio.gather(*(protocol.lost for _, protocol in made))
    net.loop.set_task_factory(None)


@pytest.mark.parametrize("base", ["uvloop", "asyncio"])
def test_a_host_talks_to_itself(base: str) -> None:
    """One node: a connection from its own address to its own address."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "10.9.0.1", 80)
        async with server:
            transport, protocol = await loop.create_connection(Recorder, "10.9.0.1", 80)
            data = os.urandom(1_000_000)
            transport.write(data)
            assert await asyncio.wait_for(protocol.received(len(data)), 10) == data
            assert transport.get_extra_info("sockname")[0] == "10.9.0.1"
            transport.close()
            await protocol.lost

    aiomultistack.run(main(), config=CONFIG.replace(base=base))


async def test_closed_transports_need_no_garbage_collector(ours: Net, net: Net) -> None:
    made: list[weakref.ref[Any]] = []

    class Brief(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(weakref.ref(transport))
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.close()

        def connection_lost(self, exc: BaseException | None) -> None:
            self.transport = None

    async with net.server(Brief) as address:
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"x")
                assert await reader.read() == b"x"
                writer.close()
                await writer.wait_closed()
            await asyncio.sleep(0.05)
            assert len(made) == 3
            assert [reference() for reference in made] == [None] * 3
        finally:
            gc.enable()
