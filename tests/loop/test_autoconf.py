"""Addresses that come late: a loop whose stack learns them from a router, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

import aiomultistack
from aiomultistack._rawport import RawPort
from aiomultistack._virtual import VirtualLoop, new_virtual_loop

PREFIX = ipaddress.IPv6Network("2001:db8:1::/64")
PEER = "2001:db8:1::1"  # a second stack of the loop, configured
FAR = "2001:db8:ffff::1"
MAC = "02:00:00:00:ff:01"
_numbers = itertools.count()


class Router:
    """Answers solicitations with a prefix, `delay` seconds later; keeps the TCP segments that it gets."""

    def __init__(self, hub: aiomultistack.Hub, delay: float = 0.0) -> None:
        self._port = RawPort(hub)
        self._delay = delay
        self.segments: list[Packet] = []

    async def run(self) -> None:
        """Serves until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            while (frame := self._port.receive(round(loop.time() * 1e9))) is not None:
                packet = Ether(frame)
                if ICMPv6ND_RS in packet:
                    loop.call_later(self._delay, self.advertise)
                elif TCP in packet and packet.dst == MAC:
                    self.segments.append(packet)
            await asyncio.sleep(0.01)

    def advertise(self, valid: int = 1800) -> None:
        """Sends an advertisement."""
        packet = Ether(src=MAC, dst="33:33:00:00:00:01") / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
        packet /= ICMPv6ND_RA(routerlifetime=1800, prf=0) / ICMPv6NDOptSrcLLAddr(lladdr=MAC)
        packet /= ICMPv6NDOptPrefixInfo(
            prefix=str(PREFIX.network_address), prefixlen=64, L=1, A=1, validlifetime=valid, preferredlifetime=valid
        )
        assert self._port.send(bytes(packet), round(asyncio.get_running_loop().time() * 1e9))

    def close(self) -> None:
        self._port.close()


class Place:
    """A loop on a link."""

    def __init__(self, **fields: object) -> None:
        name = f"autoconf-{next(_numbers)}"
        self.hub = aiomultistack.Hub(name)
        self.config = aiomultistack.Config(f"mem:{name}", autoconf=True, autoconf_secret="x", **fields)
        self.loop: VirtualLoop = new_virtual_loop(self.config)
        self.router: Router | None = None

    def run(self, main: Callable[[], Awaitable[None]], delay: float | None = 0.0) -> None:
        """Runs a test, with a router unless delay is None."""

        async def beside() -> None:
            task = None
            if delay is not None:
                self.router = Router(self.hub, delay)
                task = asyncio.ensure_future(self.router.run())
            try:
                await asyncio.wait_for(main(), 200)
            finally:
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

        self.loop.run_until_complete(beside())

    @property
    def address(self) -> str:
        """The learned address."""
        (found,) = [info.address for info in self.loop.multistack.network() if _is_learned(info)]
        return found

    def close(self) -> None:
        self.loop.close()
        if self.router is not None:
            self.router.close()


def _is_learned(info: aiomultistack.NetworkInfo) -> bool:
    return info.kind == "address" and "learned" in info.flags


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place()
    try:
        yield place
    finally:
        place.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    writer.close()


async def ask(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("host", ["::", None], ids=["wildcard", "none given"])
def test_a_server_from_before_accepts_on_it(place: Place, host: str | None) -> None:
    async def main() -> None:
        server = await asyncio.start_server(echo, host, 80)
        assert not any(map(_is_learned, place.loop.multistack.network()))
        await place.loop.multistack.addresses_learnt()
        place.loop.multistack.attach(place.config.replace(addresses=[f"{PEER}/64"], autoconf=False))
        assert await ask(place.address, 80) == b"hello\n"
        server.close()

    place.run(main, delay=1.0)


def test_what_is_known_is_told(place: Place) -> None:
    async def main() -> None:
        await place.loop.multistack.addresses_learnt()
        infos = {info.kind: info for info in place.loop.multistack.network() if "learned" in info.flags}
        address, router, prefix = infos["address"], infos["router"], infos["prefix"]
        assert ipaddress.ip_address(address.address) in PREFIX
        assert address.flags == ("learned",)
        assert address.valid is not None
        assert 1790 < address.valid <= 1800
        assert (router.address, router.flags, router.preference) == ("fe80::1", ("learned", "current"), "medium")
        assert (prefix.address, prefix.prefix_len) == ("2001:db8:1::", 64)

    place.run(main)


def test_a_connect_waits_for_it(place: Place) -> None:
    async def main() -> None:
        assert place.router is not None
        task = asyncio.ensure_future(asyncio.open_connection(FAR, 80))
        await asyncio.sleep(2.9)
        assert place.router.segments == []
        await asyncio.sleep(2.5)  # the advertisement at 3 s, up to a second of delay, a second of probing
        assert {segment[IPv6].src for segment in place.router.segments} == {place.address}
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    place.run(main, delay=3.0)


def test_sock_connect_and_datagrams_wait_too(place: Place) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            task = asyncio.ensure_future(place.loop.sock_connect(sock, (FAR, 80)))
            transport, _ = await place.loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(FAR, 9))
            assert place.loop.time() - began > 1
            assert transport.get_extra_info("sockname")[0] == place.address
            transport.close()
            await asyncio.sleep(0.2)
            assert place.router is not None
            assert place.router.segments[0][IPv6].src == place.address
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    began = place.loop.time()
    place.run(main)


def test_without_a_router_a_connect_fails_after_a_while(place: Place) -> None:
    """What becomes of it then is up to the system, whose it is; it has no such route either, or nobody answers."""

    async def main() -> None:
        before = place.loop.time()
        await place.loop.multistack.addresses_learnt()
        assert 10 < place.loop.time() - before < 20
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            assert place.loop._pump_to((FAR, 80, 0, 0)) is None

    place.run(main, delay=None)


def test_what_needs_no_new_address_does_not_wait() -> None:
    place = Place(addresses=["10.5.0.1/24"])

    async def main() -> None:
        place.loop.multistack.attach(place.config.replace(addresses=["10.5.0.2/24"], autoconf=False))
        server = await asyncio.start_server(echo, "10.5.0.1", 80)
        before = place.loop.time()
        assert await ask("10.5.0.1", 80) == b"hello\n"
        assert place.loop.time() - before < 1
        server.close()

    try:
        place.run(main, delay=None)
    finally:
        place.close()


def test_connections_learn_that_their_address_is_gone(place: Place) -> None:
    async def main() -> None:
        assert place.router is not None
        server = await asyncio.start_server(lambda reader, writer: None, "::", 80)
        place.router.advertise(valid=10)
        await asyncio.sleep(3)
        place.loop.multistack.attach(place.config.replace(addresses=[f"{PEER}/64"], autoconf=False))
        transport, protocol = await place.loop.create_connection(Losing, place.address, 80)
        accepted = [info for info in place.loop.multistack.connections() if info.local[:2] == (place.address, 80)]
        assert len(accepted) == 1
        await asyncio.sleep(10)
        assert not any(map(_is_learned, place.loop.multistack.network()))
        transport.abort()
        await protocol.lost
        server.close()

    place.run(main, delay=1000)


class Losing(asyncio.Protocol):
    """Says when its connection is lost."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)


# ---- configuration -----------------------------------------------------------------------------------------


def test_addresses_are_the_same_at_each_start() -> None:
    found = []
    for secret in ("x", "x", "y"):
        hub = aiomultistack.Hub("autoconf-stable")  # the port's name is part of what they are made from
        loop = new_virtual_loop(aiomultistack.Config("mem:autoconf-stable", autoconf=True, autoconf_secret=secret))

        async def main(loop: VirtualLoop = loop, hub: aiomultistack.Hub = hub) -> None:
            router = Router(hub)
            task = asyncio.ensure_future(router.run())
            await loop.multistack.addresses_learnt()
            task.cancel()
            router.close()
            found.extend(info.address for info in loop.multistack.network() if _is_learned(info))

        loop.run_until_complete(main())
        loop.close()
        del hub, loop, main
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("port", ["switch:/run/x.sock", "xdp:eth0", "netmap:eth0*", "netmap:eth0^"])
def test_shared_ports_learn_nothing(port: str) -> None:
    with pytest.raises(aiomultistack.ConfigError, match="the stack's alone"):
        aiomultistack.Config(port, ["10.9.0.2/24"], autoconf=True)


def test_fields() -> None:
    config = aiomultistack.Config.from_env(
        {"AIOMULTISTACK_PORT": "tap:x", "AIOMULTISTACK_AUTOCONF": "yes", "AIOMULTISTACK_REDIRECTS": "all"}
    )
    assert config.require().autoconf
    assert config.redirects == "all"
    with pytest.raises(aiomultistack.ConfigError, match="redirects"):
        aiomultistack.Config(redirects="some")
    with pytest.raises(aiomultistack.ConfigError, match="1280"):
        aiomultistack.Config("tap:x", autoconf=True, mtu=1000)
    with pytest.raises(aiomultistack.ConfigError, match="has no addresses"):
        aiomultistack.Config("tap:x").require()
