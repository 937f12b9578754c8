"""Hosts that fail, tests that get stuck, and what runs outside of virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import warnings
from typing import Any

import pytest

from aiomultistack import MultistackError
from aiomultistack.testing import BackgroundTaskError, DeadlockError, Network, VirtualTimeoutError

from .programs import ask, serve, shout


async def connected(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has answered once."""
    reader, writer = await asyncio.open_connection(host, 7)
    writer.write(b"hello\n")
    assert await reader.readline() == b"HELLO\n"
    return reader, writer


async def test_a_crash_is_silent_and_a_restart_resets(virtual_network: Network) -> None:
    network = virtual_network
    server = network.host("server")
    task = server.start(serve())
    reader, writer = await connected("server")
    server.crash()
    assert not server.up
    assert server.counters() == {}
    writer.write(b"still there?\n")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(reader.readline(), 10)
    assert task.cancelled()
    server.restart()
    assert server.up
    with pytest.raises(ConnectionResetError):  # the new stack knows nothing of the connection
        await reader.readline()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await ask("server")
    server.start(serve())
    assert await ask("server") == b"HELLO\n"


async def test_a_killed_program_s_connections_are_closed(virtual_network: Network) -> None:
    server = virtual_network.host("server")
    server.start(serve())
    reader, writer = await connected("server")
    server.kill()
    assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await ask("server")
    server.restart()
    server.start(serve())
    assert await ask("server") == b"HELLO\n"


async def test_the_dead_do_nothing(virtual_network: Network) -> None:
    """Timers never fire, cleaning up reaches nobody, new tasks end at once."""
    server = virtual_network.host("server")
    done: list[str] = []

    async def late() -> None:
        done.append("late")

    async def program() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(1, done.append, "timer")
        try:
            await asyncio.sleep(1000)
        finally:
            done.append("cleanup")
            tasks.append(asyncio.create_task(late()))
            with contextlib.suppress(OSError):
                await asyncio.open_connection("test", 7)

    tasks: list[asyncio.Task[None]] = []
    with virtual_network.local:
        listener = await asyncio.start_server(shout, None, 7)
    server.start(program())
    await asyncio.sleep(0.5)
    server.crash()
    await asyncio.sleep(10)
    assert done == ["cleanup"]
    assert tasks[0].cancelled()
    assert virtual_network.trace() == []
    listener.close()


def test_a_deadlock_is_told_with_who_waits_where() -> None:
    async def stuck(question: asyncio.Event) -> None:
        await question.wait()

    async def main() -> None:
        network.host("server").start(stuck(asyncio.Event()), name="the-server")
        reader, _ = await asyncio.open_connection("other", 7)
        await reader.readline()

    with Network(3) as network:
        network.host("other").start(serve())
        with pytest.raises(DeadlockError) as info:
            network.run(main())
        text = str(info.value)
    for expected in (
        "nothing is runnable", "seed 3", "the-server", "await question.wait()", "await reader.readline()",
        "test: ESTAB", "[SYN]",
    ):  # fmt: skip
        assert expected in text


def test_virtual_time_runs_out() -> None:
    async def main() -> None:
        ticker = asyncio.create_task(tick())
        await asyncio.Event().wait()
        await ticker

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)

    began = time.monotonic()
    with Network(time_limit=100) as network:
        with pytest.raises(VirtualTimeoutError, match="100 s of virtual time"):
            network.run(main())
        assert network.time() <= 100
    assert time.monotonic() - began < 30


def test_failures_in_the_background_are_noticed() -> None:
    async def fail() -> None:
        raise ValueError("unheard of")

    async def main(notice: bool) -> None:
        task = network.host("server").start(fail())
        await asyncio.sleep(1)
        if notice:
            assert isinstance(task.exception(), ValueError)

    with Network() as network:
        network.run(main(True))
    with Network() as network, pytest.raises(BackgroundTaskError, match=r"server.*unheard of") as info:
        network.run(main(False))
    assert isinstance(info.value.__cause__, ValueError)


async def test_threads_take_no_virtual_time(virtual_network: Network) -> None:
    loop = asyncio.get_running_loop()
    began = virtual_network.time()
    ticks: list[float] = []
    loop.call_later(1, ticks.append, 1.0)
    assert await loop.run_in_executor(None, lambda: time.sleep(0.02) or "done") == "done"
    assert await asyncio.to_thread(lambda: 5) == 5
    assert virtual_network.time() == began
    assert ticks == []


async def test_threads_of_ones_own(virtual_network: Network) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()

    def work() -> None:
        time.sleep(0.02)
        loop.call_soon_threadsafe(event.set)

    thread = threading.Thread(target=work)
    with virtual_network.hold():
        thread.start()
        await event.wait()
    thread.join()
    assert virtual_network.time() == 0


async def test_subprocesses_are_refused(virtual_network: Network) -> None:
    with pytest.raises(MultistackError, match="real time"):
        await asyncio.create_subprocess_exec("true")
    with pytest.raises(MultistackError, match="real time"):
        await asyncio.create_subprocess_shell("true")


async def test_pipes_of_the_system_work(virtual_network: Network) -> None:
    """A descriptor that isn't the network's keeps a test from counting as stuck."""
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    ready = loop.create_future()
    loop.add_reader(reading, lambda: ready.done() or ready.set_result(None))
    thread = threading.Timer(0.02, os.write, (writing, b"x"))
    thread.start()
    await ready
    loop.remove_reader(reading)
    thread.join()
    os.close(reading)
    os.close(writing)


def test_nothing_is_left_behind() -> None:
    """Descriptors and objects go with the network, even after a failure."""

    async def main() -> None:
        await connected("server")
        raise RuntimeError("enough")

    def once() -> None:
        with warnings.catch_warnings(), Network(loss=0.1) as network:
            network.host("server").start(serve())
            warnings.simplefilter("ignore", ResourceWarning)  # main() doesn't close its connection
            with pytest.raises(RuntimeError):
                network.run(main())

    def left() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), sum(isinstance(item, Network) for item in gc.get_objects())

    before = [left() for _ in range(3) if once() is None]
    assert before[1] == before[2]


class Impatient(asyncio.Protocol):
    """Raises when data comes."""

    def data_received(self, data: bytes) -> None:
        raise ValueError("too much")


async def test_errors_of_protocols_reach_the_exception_handler(virtual_network: Network) -> None:
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    with virtual_network.host("server"):
        server = await loop.create_server(Impatient, None, 7)
    assert await ask("server") == b""
    assert [type(context["exception"]) for context in contexts] == [ValueError]
    server.close()
