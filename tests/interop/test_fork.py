"""A process forks while its loop runs: connections stay the parent's, whatever the child does at its end."""

from __future__ import annotations

import asyncio
import os
import socket
import warnings

import pytest
from support import PATIENCE

from .lab import Bench, stack_host


def ask(host: str, port: int, go_on: list[str]) -> list[bytes]:
    """A client of the kernel's TCP: one question before the fork, and one behind it."""
    with socket.create_connection((host, port), PATIENCE) as sock:
        answers = []
        for name in go_on:
            with open(name, "rb") as turn:
                turn.read()
            sock.sendall(b"question")
            answers.append(sock.recv(100))
        return answers


def end(bench: Bench, how: str) -> None:
    """What a child may do, knowingly or not, before it is gone."""
    loop = bench.loop
    if how == "transports":
        for pump in loop._pumps:
            for endpoint in list(pump.endpoints):
                getattr(endpoint, "abort", getattr(endpoint, "close", int))()
            pump.flush()
            pump.dispatch()
    for node in loop.multistack.nodes:
        node.close()
        assert node.closed
    for pump in loop._pumps:
        pump.close()


@pytest.mark.parametrize("how", ["nodes", "transports"])
@pytest.mark.parametrize("bench", [{}, {"base": "asyncio"}], ids=["uvloop", "asyncio"], indirect=True)
def test_connections_stay_the_parent_s(bench: Bench, how: str, tmp_path: object) -> None:
    turns = [f"{tmp_path}/{number}" for number in range(2)]
    for turn in turns:
        os.mkfifo(turn)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    async def main() -> list[bytes]:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(serve, stack_host(4), 0)
        asking = loop.run_in_executor(None, ask, *server.sockets[0].getsockname(), turns)
        await loop.run_in_executor(None, lambda: open(turns[0], "wb").close())
        while not any(info.bytes_sent for info in bench.loop.multistack.connections()):
            await asyncio.sleep(0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer: there are threads
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                end(bench, how)
                status = 0
            finally:
                os._exit(status)
        _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await loop.run_in_executor(None, lambda: open(turns[1], "wb").close())
        answers: list[bytes] = await asking
        server.close()
        await server.wait_closed()
        return answers

    assert bench.run(main) == [b"question", b"question"]
