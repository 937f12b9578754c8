"""Servers with several workers, unchanged, on one listening port of a switch; their clients on it too.

The switch has no uplink, so that nothing here needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from daemon.stage import HOST4, Process, Switch, free_port, running, until

import aiomultistack

PATIENCE = 40.0  # seconds, for processes that start on a busy machine
HERE = Path(__file__).parent

#: Who serves, what must be installed for it, and the command.
SERVERS = {
    "uvicorn": (["uvicorn"], "uvicorn worker_app:app --host 0.0.0.0 --port {port} --workers 2 --no-access-log"),
    "gunicorn with uvicorn's worker": (
        ["gunicorn", "uvicorn_worker"],
        "gunicorn worker_app:app --bind 0.0.0.0:{port} --workers 2 --worker-class uvicorn_worker.UvicornWorker",
    ),
    "gunicorn with aiohttp's worker": (
        ["gunicorn", "aiohttp"],
        "gunicorn worker_app:web_app --bind 0.0.0.0:{port} --workers 2 --worker-class aiohttp.GunicornWebWorker",
    ),
    "hypercorn": (["hypercorn"], "hypercorn worker_app:app --bind 0.0.0.0:{port} --workers 2"),
}


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """A switch for all of them."""
    with running(tmp_path_factory.mktemp("switch")) as made:
        yield made


@contextlib.contextmanager
def serving(switch: Switch, command: str) -> Iterator[Process]:
    """A server's own command under ``aiomultistack run``; checks that SIGTERM ends it and its workers."""
    process = Process(
        [sys.executable, "-m", "aiomultistack", "run", f"--port=switch:{switch.path}", "-m", *command.split()],
        environment={"AIOMULTISTACK_CONTROL": "0", "XDG_RUNTIME_DIR": str(Path(switch.path).parent)},  # gunicorn's
        cwd=HERE, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
        assert process.process.poll() is None, process.error()
        assert process.kill(signal.SIGTERM) in (0, -signal.SIGTERM), process.error()
        until(lambda: not switch.tuples(), "the release of the port")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that a failed test has left
        process.close()


async def answers(host: str, port: int) -> str:
    """What the server answers over a connection of its own; OSError in whatever way it fails."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionResetError(f"{answer!r} is no answer")
    return body.decode()


async def workers(port: int, server: Process, number: int = 2, without: frozenset[str] = frozenset()) -> set[str]:
    """Asks until so many processes have answered, all of them within one second round and none of `without`."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    seen: set[str] = set()
    while len(seen) < number:
        assert server.process.poll() is None, server.error()
        assert asyncio.get_running_loop().time() < deadline, f"only {seen} answer:\n{server.error()}"
        try:
            seen.add(await answers(HOST4, port))
        except (OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.1)
        seen -= without
    return seen


@contextlib.asynccontextmanager
async def asked(port: int) -> AsyncIterator[list[str | Exception]]:
    """Asks all the time meanwhile; what each attempt came to: a process's number, or an exception."""
    results: list[str | Exception] = []

    over = asyncio.Event()  # wait_for() of Python 3.11 and older may lose a cancellation

    async def ask() -> None:
        while not over.is_set():
            try:
                results.append(await answers(HOST4, port))
            except (OSError, asyncio.TimeoutError) as error:
                results.append(error)
            await asyncio.sleep(0.01)

    task = asyncio.ensure_future(ask())
    try:
        yield results
    finally:
        over.set()
        await task


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", SERVERS)
def test_workers(name: str, switch: Switch) -> None:
    """Both workers answer; clients on the kernel's stack are refused; a worker that dies is replaced."""
    modules, command = SERVERS[name]
    for module in modules:
        pytest.importorskip(module)
    port = free_port()

    async def main(server: Process) -> None:
        pids = await workers(port, server)
        assert str(server.pid) not in pids
        with pytest.raises(ConnectionRefusedError):  # not accepted into a backlog that nobody reads
            socket.create_connection(("127.0.0.1", port), 10)
        if name == "hypercorn":
            return  # it ends when a worker does
        victim = min(pids)
        async with asked(port) as results:
            os.kill(int(victim), signal.SIGKILL)
            replaced = await workers(port, server, 2, frozenset({victim}))
            while not replaced.intersection(results):
                await asyncio.sleep(0.1)
        assert pids - {victim} < replaced
        # The connection that the dead worker had may be lost, whatever comes after is served.
        failed = [result for result in results if isinstance(result, Exception)]
        assert len(failed) <= 1, failed

    with serving(switch, command.format(port=port)) as server:
        aiomultistack.run(main(server), config=aiomultistack.Config(f"switch:{switch.path}", control=False))
