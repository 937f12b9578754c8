"""Routers that are Linux: radvd advertises a prefix, and the kernel forwards and redirects."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import eventually

import aiomultistack

from .lab import KERNEL4, STACK4, Bench, command, set_sysctl

PREFIX = ipaddress.IPv6Network("2001:db8:99::/64")
NEAR = "2001:db8:99::1"  # the kernel's address in it
FAR = "2001:db8:ffff::1"  # another one, behind the router that it is
MTU = 1400

CONFIGURATION = """
interface {device} {{
    AdvSendAdvert on;
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 4;
    AdvLinkMTU {mtu};
    AdvDefaultPreference high;
    AdvRetransTimer 100;
    prefix {prefix} {{
        AdvOnLink on;
        AdvAutonomous on;
        AdvValidLifetime 900;
        AdvPreferredLifetime 600;
    }};
}};
"""

pytestmark = pytest.mark.parametrize(
    "bench",
    [{"addresses": [f"{STACK4}/24"], "gateway": [KERNEL4], "autoconf": True, "redirects": "all"}],
    indirect=True,
    ids=["autoconf"],
)


class Router:
    """radvd, and the kernel that forwards."""

    def __init__(self, bench: Bench, program: str, folder: Path) -> None:
        self.device = bench.config.port_name
        for name in ("net.ipv6.conf.all.forwarding", "net.ipv4.ip_forward"):
            set_sysctl(name, 1)
        command("ip", "address", "add", f"{NEAR}/64", "dev", self.device, "nodad")
        command("ip", "address", "replace", f"{FAR}/128", "dev", "lo", "nodad")
        file = folder / "radvd.conf"
        file.write_text(CONFIGURATION.format(device=self.device, mtu=MTU, prefix=PREFIX))
        self._log = folder / "radvd.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [program, "-n", "-C", str(file), "-p", str(folder / "radvd.pid"), "-m", "stderr", "-d", "1"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def link_local(self) -> str:
        """The router's own address, that it advertises itself from."""
        lines = command("ip", "-6", "-o", "address", "show", "dev", self.device, "scope", "link")
        return lines.split()[3].partition("/")[0]

    def stop(self) -> None:
        """Ends radvd, which says that it is no router any more."""
        self.process.terminate()
        assert self.process.wait(20) == 0, self._log.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def router(bench: Bench, tool: Callable[[str], str], tmp_path: Path) -> Iterator[Router]:
    router = Router(bench, tool("radvd"), tmp_path)
    try:
        yield router
    finally:
        router.close()


def rows(bench: Bench, kind: str) -> list[aiomultistack.NetworkInfo]:
    return [info for info in bench.loop.multistack.network() if info.kind == kind and "learned" in info.flags]


async def learned(bench: Bench) -> str:
    """Waits for an address, longer than connects would: radvd has to start, too."""
    for _ in range(600):
        found = [info.address for info in rows(bench, "address") if "tentative" not in info.flags]
        if found:
            return found[0]
        await asyncio.sleep(0.05)
    pytest.fail(f"no address was learnt: {bench.loop.multistack.network()}")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()
    await writer.wait_closed()


def ask(host: str, source: str) -> bytes:
    """A kernel client of an echo server."""
    with socket.create_connection((host, 80), 20, (source, 0)) as sock:
        sock.sendall(b"hello\n")
        return sock.makefile("rb").read()


def test_a_linux_router_is_learnt_and_used(bench: Bench, router: Router) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, "::", 80)  # before there is an address
        address = await learned(bench)
        assert ipaddress.ip_address(address) in PREFIX
        (default,) = rows(bench, "router")
        assert (default.address, default.flags) == (router.link_local(), ("learned", "current"))
        assert default.preference == "high"
        (prefix,) = rows(bench, "prefix")
        assert (prefix.address, prefix.prefix_len) == (str(PREFIX.network_address), 64)
        (info,) = rows(bench, "address")
        assert info.valid is not None
        assert info.preferred is not None
        assert 800 < info.valid <= 900
        assert 500 < info.preferred <= 600
        loop = asyncio.get_running_loop()
        for source in (NEAR, FAR):
            assert await loop.run_in_executor(None, ask, address, source) == b"hello\n"
        server.close()
        await server.wait_closed()
        await to_the_kernel(bench, address)
        await loop.run_in_executor(None, router.stop)
        for _ in range(400):
            if not rows(bench, "router"):
                break
            await asyncio.sleep(0.05)
        assert rows(bench, "router") == []
        assert [info.address for info in rows(bench, "address")] == [address]  # its lifetime goes on

    bench.run(main)


async def to_the_kernel(bench: Bench, address: str) -> None:
    """A connection to a kernel server behind the router, by the link's MTU."""
    with socket.create_server((FAR, 0), family=socket.AF_INET6) as listener:
        reader, writer = await asyncio.open_connection(FAR, listener.getsockname()[1])
        accepted, peer = listener.accept()
        with accepted:
            assert peer[0] == address
            (info,) = [info for info in bench.loop.multistack.connections() if info.state_name == "ESTAB"]
            assert info.pmtu == MTU
            writer.write(bytes(100_000))
            writer.write_eof()
            loop = asyncio.get_running_loop()
            data = await loop.run_in_executor(None, accepted.makefile("rb").read)
            assert len(data) == 100_000
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_redirects(bench: Bench, router: Router, family: int) -> None:
    """It knows another router on the same link, and says so."""
    device = router.device
    via, network, far = {
        4: ("10.99.0.77", "192.0.2.0/24", "192.0.2.1"),
        6: ("fe80::77", "2001:db8:eeee::/64", "2001:db8:eeee::1"),
    }[family]
    ip = ("ip", f"-{family}")
    command(*ip, "neigh", "replace", via, "lladdr", "02:00:00:00:00:77", "dev", device, "nud", "permanent")
    command(*ip, "route", "replace", network, "via", via, "dev", device)

    async def main() -> None:
        address = await learned(bench) if family == 6 else STACK4
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=(address, 700))
        for _ in range(200):
            transport.sendto(b"x", (far, 9))
            await asyncio.sleep(0.1)
            if rows(bench, "redirect"):
                break
        (info,) = rows(bench, "redirect")
        assert (info.address, info.via) == (far, via)
        assert info.valid is not None
        assert 500 < info.valid <= 600
        transport.close()

    try:
        bench.run(main)
    finally:
        command(*ip, "route", "del", network)


def test_the_kernel_s_view(bench: Bench, router: Router) -> None:
    """Linux finds us by neighbour discovery on the address that we made."""

    async def main() -> None:
        address = await learned(bench)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, resolve, address, router.device)
        assert found

    bench.run(main)


def resolve(address: str, device: str) -> bool:
    """True once the kernel has a MAC for an address."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (address, 9))

    def known() -> bool:
        line = command("ip", "-6", "neigh", "show", address, "dev", device)
        return "lladdr" in line and "FAILED" not in line

    eventually(known, "the kernel resolves our address")
    return True
