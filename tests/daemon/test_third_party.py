"""A stack that isn't ours, in C, on the same switch: examples/udp_echo.c."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled with those of the native files that a port needs."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("c") / "udp_echo"
    from build_ffi import sources  # type: ignore[import-not-found]

    others = ("native/stack/", "native/io/node", "native/io/fabric", "native/io/bench")
    files = [file for file in sources() if not file.startswith(others)]
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
    subprocess.run(
        [compiler, "-std=gnu11", *warnings, "-Inative", "-Inative/include", "-o", str(path), "examples/udp_echo.c",
         *files, "-lpthread", "-lm"],
        cwd=ROOT, check=True, timeout=170,
    )  # fmt: skip
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
