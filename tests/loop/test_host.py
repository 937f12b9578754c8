"""TAP ports: the system's side, permissions, and the kernel's TCP as the peer.  Needs root."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiomultistack

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root on Linux"),
]

PRELUDE = """
import asyncio, errno, json, os, socket, subprocess, sys
import aiomultistack
CONFIG = aiomultistack.Config("tap:ams0", ["10.9.0.2/24", "fd09::2/64"], host_addresses=["10.9.0.1/24", "fd09::1/64"],
                              control=False)
def show(*arguments):
    return json.loads(subprocess.check_output(["ip", "-j", *arguments]))
"""


UNPRIVILEGED = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
)  # fmt: skip


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of its own."""
    name = f"amsloop{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def unprivileged() -> tuple[str, ...]:
    """What to put before a command so that it runs as nobody in particular."""
    if subprocess.run([*UNPRIVILEGED, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"{sys.executable} is for this user only")
    return UNPRIVILEGED


def run_in(namespace: str, program: str, *prefix: str) -> Any:
    """Runs a program in the namespace and returns the JSON that it prints last."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *prefix, sys.executable, "-W", "error", "-c",
         PRELUDE + textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(aiomultistack.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_sets_up_the_system_s_side(namespace: str) -> None:
    result = run_in(
        namespace,
        """
        loop = aiomultistack.new_event_loop(CONFIG.replace(mtu=1400))
        (link,) = show("address", "show", "dev", "ams0")
        loop.close()
        after = subprocess.run(["ip", "link", "show", "ams0"], capture_output=True).returncode
        print(json.dumps({"link": link, "after": after}))
        """,
    )
    link = result["link"]
    assert "UP" in link["flags"]
    assert link["mtu"] == 1400
    addresses = {f"{item['local']}/{item['prefixlen']}" for item in link["addr_info"]}
    assert {"10.9.0.1/24", "fd09::1/64"} <= addresses
    assert result["after"] != 0  # the device goes with the loop


@pytest.mark.parametrize("base", ["uvloop", "asyncio"])
def test_the_kernel_s_tcp_is_served(namespace: str, base: str) -> None:
    result = run_in(
        namespace,
        f"""
        async def serve(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

        def client(host, data):
            with socket.create_connection((host, 80)) as sock:
                import threading
                sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
                sender.start()
                got, peer = b"", sock.getpeername()[0]
                while part := sock.recv(1 << 20):
                    got += part
                sender.join()
                return got == data, peer

        async def main():
            server = await asyncio.start_server(serve, None, 80)
            loop = asyncio.get_running_loop()
            answers = [
                await loop.run_in_executor(None, client, host, os.urandom(3_000_000))
                for host in ("10.9.0.2", "fd09::2")
            ]
            pings = [
                (await asyncio.create_subprocess_exec("ping", "-c", "1", "-W", "2", host, stdout=subprocess.DEVNULL))
                for host in ("10.9.0.2", "fd09::2")
            ]
            codes = [await ping.wait() for ping in pings]
            server.close()
            print(json.dumps({{"answers": answers, "pings": codes}}))

        aiomultistack.run(main(), config=CONFIG.replace(base={base!r}))
        """,
    )
    assert result == {"answers": [[True, "10.9.0.2"], [True, "fd09::2"]], "pings": [0, 0]}


def test_connects_to_the_kernel_s_tcp(namespace: str) -> None:
    result = run_in(
        namespace,
        """
        async def main():
            listener = socket.create_server(("10.9.0.1", 81))
            reader, writer = await asyncio.open_connection("10.9.0.1", 81)
            peer, address = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
            writer.write(b"from user space")
            await writer.drain()
            data = await asyncio.get_running_loop().run_in_executor(None, peer.recv, 100)
            peer.close()
            listener.close()
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            try:
                await asyncio.open_connection("10.9.0.1", 82)
            except ConnectionRefusedError as error:
                refused = str(error)
            print(json.dumps([address[0], data.decode(), refused]))

        aiomultistack.run(main(), config=CONFIG)
        """,
    )
    assert result[:2] == ["10.9.0.2", "from user space"]
    assert "Connect call failed ('10.9.0.1', 82)" in result[2]


def test_inside_a_running_loop(namespace: str) -> None:
    """A loop may be made while another one runs, and under our own policy."""
    result = run_in(
        namespace,
        """
        async def main():
            asyncio.set_event_loop_policy(aiomultistack.EventLoopPolicy(CONFIG))
            loop = asyncio.new_event_loop()
            loop.close()
            print(json.dumps(type(loop).__name__))

        if sys.version_info < (3, 14):
            asyncio.run(main())
        else:
            print('"UvloopLoop"')
        """,
    )
    assert result == "UvloopLoop"


def test_an_address_of_the_system(namespace: str) -> None:
    result = run_in(
        namespace,
        """
        subprocess.run(["ip", "address", "add", "10.9.0.2/24", "dev", "lo"], check=True)
        try:
            aiomultistack.new_event_loop(CONFIG)
        except aiomultistack.ConfigError as error:
            print(json.dumps(str(error)))
        """,
    )
    assert "10.9.0.2/24 is an address of this machine itself" in result


def test_without_permission(namespace: str, unprivileged: tuple[str, ...]) -> None:
    result = run_in(
        namespace,
        """
        try:
            aiomultistack.new_event_loop(CONFIG)
        except PermissionError as error:
            print(json.dumps([type(error).__name__, error.errno, str(error)]))
        """,
        *unprivileged,
    )
    name, number, text = result
    assert name == "PortPermissionError"
    assert number in (errno.EPERM, errno.EACCES)
    assert "root" in text


def test_a_prepared_tap_needs_no_permission(
    namespace: str, tmp_path: Path, unprivileged: tuple[str, ...]
) -> None:
    # On most systems anybody may open /dev/net/tun; where that isn't so, this process gets one of its own.
    open_to_all = 'mknod -m 666 "$0" c 10 200 && mount --bind "$0" /dev/net/tun && exec "$@"'
    prepare = [
        ["tuntap", "add", "dev", "ams0", "mode", "tap", "user", "65534"],
        ["address", "add", "10.9.0.1/24", "dev", "ams0"],
        ["address", "add", "fd09::1/64", "dev", "ams0", "nodad"],
        ["link", "set", "ams0", "up"],
    ]
    for command in prepare:
        subprocess.run(["ip", "-n", namespace, *command], check=True)
    result = run_in(
        namespace,
        """
        loop = aiomultistack.new_event_loop(CONFIG)
        loop.close()
        try:
            aiomultistack.new_event_loop(CONFIG.replace(host_addresses=["10.9.0.7/24"]))
        except PermissionError as error:
            print(json.dumps(str(error)))
        """,
        "sh", "-c", open_to_all, os.fspath(tmp_path / "tun"), *unprivileged,
    )  # fmt: skip
    assert "ip address add 10.9.0.7/24 dev ams0" in result


def test_the_device_is_deleted(namespace: str) -> None:
    """Connections fail, the loop goes on, and doesn't spin."""
    result = run_in(
        namespace,
        """
        lost = []

        class Client(asyncio.Protocol):
            def connection_lost(self, exc):
                lost.append(type(exc).__name__)

        async def main():
            loop = asyncio.get_running_loop()
            contexts = []
            loop.set_exception_handler(lambda _, context: contexts.append(context["message"]))
            listener = socket.create_server(("10.9.0.1", 81))
            await loop.create_connection(Client, "10.9.0.1", 81)
            subprocess.run(["ip", "link", "delete", "ams0"], check=True)
            while not lost:
                await asyncio.sleep(0.001)
            before = os.times().user
            await asyncio.sleep(0.2)
            listener.close()
            print(json.dumps([lost, contexts, os.times().user - before < 0.1]))

        aiomultistack.run(main(), config=CONFIG)
        """,
    )
    assert result == [["OSError"], ["The port of the user-space stack is gone"], True]
