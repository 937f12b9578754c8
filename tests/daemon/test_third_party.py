"""Stacks that aren't ours, in C, on the same switch: examples/udp_echo.c, and lwIP with examples/lwip."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aiomultistack import _netns

from .machine import KERNEL4, US4, machine
from .stage import HOST4, ROOT, Process, Switch, connecting, free_port, serving, until

sys.path.insert(0, str(ROOT / "native"))

#: Sends datagrams of several sizes and says how many came back as they were.
UDP_CLIENT = """
import asyncio, sys
import aiomultistack

async def main():
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()
    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            queue.put_nowait(data)
    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=(sys.argv[1], int(sys.argv[2])))
    good = 0
    for size in (0, 1, 17, 500, 1471, 1472):
        data = bytes(range(256)) * 6
        while True:
            transport.sendto(data[:size])
            try:
                good += await asyncio.wait_for(queue.get(), 2) == data[:size]
                break
            except asyncio.TimeoutError:
                pass
    print(good, flush=True)

aiomultistack.run(main())
"""


OPTIONS = (
    "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-Inative",
    "-Inative/include",
)  # fmt: skip


def compiled(*arguments: str) -> None:
    """Runs the C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    subprocess.run([compiler, *OPTIONS, *arguments], cwd=ROOT, check=True, timeout=170)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Those of the native files that a port needs."""
    from build_ffi import sources  # type: ignore[import-not-found]

    others = ("native/stack/", "native/io/node", "native/io/fabric", "native/io/bench")
    path = str(tmp_path_factory.mktemp("c") / "ports.so")
    compiled("-shared", "-fPIC", "-o", path, *[file for file in sources() if not file.startswith(others)], "-lm")
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, library: str) -> Path:
    path = tmp_path_factory.mktemp("c") / "udp_echo"
    compiled("-o", str(path), "examples/udp_echo.c", library)
    return path


@pytest.fixture(scope="module")
def lwip(tmp_path_factory: pytest.TempPathFactory, library: str) -> Path:
    if not Path("/usr/include/lwip/lwip/init.h").exists():
        pytest.skip("there is no lwIP: apt install liblwip-dev")
    path = tmp_path_factory.mktemp("c") / "tcp_echo"
    compiled("-I/usr/include/lwip", "-o", str(path), "examples/lwip/tcp_echo.c", library, "-llwip")
    return path


def test_a_raw_stack_beside_ours(switch: Switch, program: Path) -> None:
    port = free_port()
    echo = Process([str(program), switch.path, str(port)])
    try:
        echo.expect("serving")
        assert ("udp", HOST4, port) in switch.tuples()
        server, client = serving(switch, port), connecting(switch)  # TCP: the same number, another tuple
        switch.client(UDP_CLIENT, HOST4, str(port)).expect("6")
        assert client.ask(f"{HOST4} {port} hello") == f"HELLO {server.pid}"
        # It comes back by itself, too.
        switch.kill(signal.SIGKILL)
        switch.start()
        until(lambda: ("udp", HOST4, port) in switch.tuples(), "the echo's return")
        switch.client(UDP_CLIENT, HOST4, str(port)).expect("6")
        second = Process([str(program), switch.path, str(port)])
        assert second.process.wait(30) == 1
        assert second.error() == "address already in use\n"
        second.close()
    finally:
        echo.close()
    until(lambda: ("udp", HOST4, port) not in switch.tuples(), "the release")


def test_without_a_switch(program: Path, tmp_path: Path) -> None:
    echo = Process([str(program), str(tmp_path / "nowhere"), "7"])
    assert echo.process.wait(30) == 1
    assert "no switch answers" in echo.error()
    echo.close()


#: Connects to "HOST PORT" several times at once, and says how many got back all that they sent, and then an end.
TCP_CLIENT = """
import asyncio, os, sys

async def echoed(size):
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    data = os.urandom(size)
    writer.write(data)
    writer.write_eof()
    return await asyncio.wait_for(reader.read(), 60) == data

async def main():
    print(sum(await asyncio.gather(*map(echoed, (0, 1, 1460, 1461, 100_000, 500_000)))), flush=True)

asyncio.run(main())
"""

#: One segment that acknowledges all that was echoed before, and has the last byte and the FIN; says how often it came
#: back.
LAST_BYTE_CLIENT = """
import socket, sys

def echoed():
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        client.sendall(b"b")
        client.shutdown(socket.SHUT_WR)
        return client.recv(1) == b"b"

print(sum(echoed() for _ in range(20)), flush=True)
"""


@pytest.mark.root
@pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}")
@pytest.mark.timeout(180)
def test_lwip_beside_ours_and_the_kernel_s(tmp_path: Path, lwip: Path) -> None:
    """For the kernel's programs, over a TAP."""
    port = 8000
    with machine(tmp_path, "none", "own") as site:
        kernel, ours = site.server(None, port + 2), serving(site.switch, port + 1)
        echo = Process([str(lwip), site.switch.path, str(port)])
        try:
            echo.expect("serving")
            assert ("tcp", US4, port) in site.switch.tuples()
            client = site.client(None)
            assert client.ask(f"{US4} {port} keep hello") == "hello"
            site.start(None, TCP_CLIENT, US4, str(port)).expect("6")
            site.start(None, LAST_BYTE_CLIENT, US4, str(port)).expect("20")
            assert client.ask(f"{US4} {port + 1} hello") == f"HELLO {ours.pid}"
            assert client.ask(f"{KERNEL4} {port + 2} hello") == f"HELLO {kernel.pid}"
            assert client.ask("say again") == "again"
            (mine,) = [each for each in site.switch.clients() if each["pid"] == echo.pid]
            drops = site.switch.describe()["drops"]
            assert not {name: count for name, count in mine["counters"].items() if count and name in drops}
        finally:
            echo.close()
        until(lambda: ("tcp", US4, port) not in site.switch.tuples(), "the release")
