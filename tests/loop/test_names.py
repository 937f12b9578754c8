"""Names that resolve over the user-space stack: `Config.dns`."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import itertools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import aiomultistack
from aiomultistack import Config, ConfigError
from aiomultistack._names import Resolver, nameserver

pytest.importorskip("dns.asyncresolver", reason="needs dnspython")

import dns.rcode

from .nameserver import Zone, serve

SERVER, SPARE, CLIENT = "10.9.0.1", "10.9.0.3", "10.9.0.2"
_numbers = itertools.count()

RECORDS = {
    "www.example.org.": {"A": [SERVER], "AAAA": ["fd09::1"]},
    "four.example.org.": {"A": [SERVER]},
    "far.example.org.": {"A": [SERVER], "AAAA": ["2001:db8::1"]},
    "six.example.org.": {"AAAA": ["fd09::1"]},
    "alias.example.org.": {"CNAME": ["four.example.org."]},
    "empty.example.org.": {"TXT": ['"nothing else"']},
    "many.example.org.": {"A": [f"192.0.2.{number}" for number in range(1, 101)]},
    "xn--bcher-kva.example.org.": {"A": ["192.0.2.9"]},
    "only.inside.example.org.": {"A": ["192.0.2.10"]},
    "1.0.9.10.in-addr.arpa.": {"PTR": ["www.example.org."]},
    f"{'.'.join(reversed('fd0900000000000000000000000000' + '01'))}.ip6.arpa.": {"PTR": ["six.example.org."]},
}


@contextlib.asynccontextmanager
async def serving(*zones: tuple[Zone, str], port: int = 53) -> AsyncIterator[None]:
    """Nameservers while a test runs."""
    made = [await serve(zone, host, port) for zone, host in zones]
    try:
        yield
    finally:
        for transport, server in made:
            transport.close()
            server.close()
            await server.wait_closed()
        await asyncio.sleep(0.01)


def run(main: Callable[[Zone], Coroutine[Any, Any, None]], base: str = "auto", **fields: Any) -> None:
    """Runs a test on a loop whose stack is a client, with a nameserver's stack beside it."""
    hub = f"mem:names-{next(_numbers)}"
    addresses = [f"{CLIENT}/24", "fd09::2/64"]
    config = Config(hub, **{"addresses": addresses, "dns": [SERVER], "base": base, "control": False,
                            "gateway": "10.9.0.254", "time_wait": 0.01, **fields})  # fmt: skip
    zone = Zone(RECORDS)
    loop = aiomultistack.new_event_loop(config)
    try:
        servers = [f"{SERVER}/24", f"{SPARE}/24", "fd09::1/64"]
        loop.multistack.attach(Config(hub, servers, control=False, time_wait=0.01))

        async def with_server() -> None:
            async with serving((zone, SERVER)):
                await main(zone)

        loop.run_until_complete(asyncio.wait_for(with_server(), 50))
    finally:
        loop.close()


async def addresses_of(name: str | bytes, **options: Any) -> list[str]:
    """The addresses that a stream's client would try, in order."""
    rows = await asyncio.get_running_loop().getaddrinfo(name, 80, type=socket.SOCK_STREAM, **options)
    return [row[4][0] for row in rows]


@pytest.mark.parametrize("base", ["uvloop", "asyncio"])
def test_names_have_addresses(base: str) -> None:
    async def main(zone: Zone) -> None:
        assert await addresses_of("www.example.org") == ["fd09::1", SERVER]
        assert zone.asked == {("udp", "www.example.org.", "A"): 1, ("udp", "www.example.org.", "AAAA"): 1}
        assert await addresses_of("WWW.Example.org.", family=socket.AF_INET) == [SERVER]
        assert zone.asked["udp", "www.example.org.", "AAAA"] == 1
        assert await addresses_of(b"four.example.org") == [SERVER]
        assert await addresses_of("bücher.example.org") == ["192.0.2.9"]
        async with await asyncio.start_server(lambda _, writer: writer.close(), SERVER, 80):
            reader, writer = await asyncio.open_connection("alias.example.org", 80)
            assert writer.get_extra_info("peername") == (SERVER, 80)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    run(main, base)


def test_rows_are_those_of_getaddrinfo() -> None:
    """One for each kind of socket, with service names; canonical names where asked for."""

    async def main(zone: Zone) -> None:
        loop = asyncio.get_running_loop()
        rows = await loop.getaddrinfo("four.example.org", "http")
        assert rows == socket.getaddrinfo(SERVER, "http")
        rows = await loop.getaddrinfo("four.example.org", None)
        assert rows == socket.getaddrinfo(SERVER, None)
        assert len(rows) == 3
        rows = await loop.getaddrinfo("alias.example.org", 80, type=socket.SOCK_DGRAM, flags=socket.AI_CANONNAME)
        assert rows == [(socket.AF_INET, socket.SOCK_DGRAM, 17, "four.example.org", (SERVER, 80))]
        with pytest.raises(socket.gaierror) as caught:
            await loop.getaddrinfo("four.example.org", "no such service")
        assert caught.value.errno == socket.EAI_SERVICE

    run(main)


def test_numbers_ask_nobody() -> None:
    async def main(zone: Zone) -> None:
        loop = asyncio.get_running_loop()
        for host in ("192.0.2.1", "2001:db8::1", "fe80::1%lo", None, "127.1"):
            for flags in (0, socket.AI_PASSIVE):
                assert await loop.getaddrinfo(host, 80, flags=flags) == socket.getaddrinfo(host, 80, flags=flags)
        for host, options, code in (
            ("192.0.2.1", {"family": socket.AF_INET6}, socket.EAI_ADDRFAMILY),
            ("www.example.org", {"flags": socket.AI_NUMERICHOST}, socket.EAI_NONAME),
            ("", {}, socket.EAI_NONAME),
        ):
            with pytest.raises(socket.gaierror) as caught:
                await loop.getaddrinfo(host, 80, **options)  # type: ignore[arg-type]
            assert caught.value.errno == code
        assert not zone.asked

    run(main)


def test_families() -> None:
    async def main(zone: Zone) -> None:
        six = {"family": socket.AF_INET6}
        assert await addresses_of("six.example.org") == ["fd09::1"]
        with pytest.raises(socket.gaierror) as caught:
            await addresses_of("four.example.org", **six)
        assert caught.value.errno == socket.EAI_NODATA
        assert await addresses_of("four.example.org", **six, flags=socket.AI_V4MAPPED) == [f"::ffff:{SERVER}"]
        assert await addresses_of("www.example.org", **six, flags=socket.AI_V4MAPPED) == ["fd09::1"]
        both = await addresses_of("www.example.org", **six, flags=socket.AI_V4MAPPED | socket.AI_ALL)
        assert both == ["fd09::1", f"::ffff:{SERVER}"]

    run(main)


def test_only_families_that_the_stack_has() -> None:
    async def main(zone: Zone) -> None:
        assert await addresses_of("www.example.org", flags=socket.AI_ADDRCONFIG) == [SERVER]
        assert ("udp", "www.example.org.", "AAAA") not in zone.asked
        assert await addresses_of("far.example.org") == [SERVER, "2001:db8::1"]  # no route: last

    run(main, addresses=[f"{CLIENT}/24"])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nobody.example.org", socket.EAI_NONAME), ("empty.example.org", socket.EAI_NODATA),
        ("servfail.example.org", socket.EAI_AGAIN), ("refused.example.org", socket.EAI_AGAIN),
        ("silent.example.org", socket.EAI_AGAIN), (b"two..dots", socket.EAI_NONAME),
        (b"x" * 64 + b".org", socket.EAI_NONAME), (b"\xff", socket.EAI_NONAME), ("x" * 64 + ".org", None),
    ],
)  # fmt: skip
def test_errors_are_those_of_getaddrinfo(name: str | bytes, code: int | None) -> None:
    async def main(zone: Zone) -> None:
        zone.silent.add("silent.example.org.")
        zone.failing["servfail.example.org."] = dns.rcode.SERVFAIL
        zone.failing["refused.example.org."] = dns.rcode.REFUSED
        with pytest.raises(socket.gaierror if code is not None else UnicodeError) as caught:
            await addresses_of(name)
        assert getattr(caught.value, "errno", None) == code
        with pytest.raises((socket.gaierror, UnicodeError)):
            await asyncio.open_connection(name, 80)

    run(main, dns_timeout=0.3)


def test_a_truncated_answer_comes_again_over_tcp() -> None:
    async def main(zone: Zone) -> None:
        found = await addresses_of("many.example.org", family=socket.AF_INET)
        assert sorted(found) == sorted(RECORDS["many.example.org."]["A"])
        assert zone.asked["udp", "many.example.org.", "A"] == 1
        assert zone.asked["tcp", "many.example.org.", "A"] == 1

    run(main)


def test_the_next_server_is_asked() -> None:
    """After one that is silent, after one that fails, after one that isn't there."""

    async def main(zone: Zone) -> None:
        spare = Zone(RECORDS)
        async with serving((spare, SPARE)):
            zone.silent.add("*")
            assert await addresses_of("four.example.org", family=socket.AF_INET) == [SERVER]
            zone.silent.clear()
            zone.failing["*"] = dns.rcode.SERVFAIL
            assert await addresses_of("four.example.org", family=socket.AF_INET) == [SERVER]
            assert spare.asked["udp", "four.example.org.", "A"] == 2

    run(main, dns=["10.9.0.1:54", SERVER, SPARE], dns_timeout=10)


def test_search_domains() -> None:
    async def main(zone: Zone) -> None:
        assert await addresses_of("four") == [SERVER]
        assert await addresses_of("only") == ["192.0.2.10"]
        with pytest.raises(socket.gaierror):
            await addresses_of("four.")

    run(main, dns_search=["inside.example.org", "example.org"])


def test_a_server_at_another_port_and_over_ipv6() -> None:
    async def main(zone: Zone) -> None:
        async with serving((zone, "fd09::1"), port=5353):
            assert await addresses_of("four.example.org") == [SERVER]

    run(main, dns=["[fd09::1]:5353"])


def test_many_at_once_and_cancelled_ones() -> None:
    async def main(zone: Zone) -> None:
        zone.silent.add("silent.example.org.")
        slow = [asyncio.ensure_future(addresses_of("silent.example.org")) for _ in range(20)]
        found = await asyncio.gather(*(addresses_of("www.example.org") for _ in range(50)))
        assert found == [["fd09::1", SERVER]] * 50
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        await asyncio.sleep(0.05)
        loop: Any = asyncio.get_running_loop()
        assert sum(info.protocol == socket.IPPROTO_UDP for info in loop.multistack.endpoints()) == 1  # the server's

    run(main)


def test_the_hosts_file_comes_first(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# comment\n192.0.2.33 box box.example.org\n2001:db8::33\tbox # both\nbad line\n")

    async def main(zone: Zone) -> None:
        loop: Any = asyncio.get_running_loop()
        loop._names = Resolver(loop.multistack.config, lambda address: True, str(hosts))
        assert await addresses_of("box") == ["2001:db8::33", "192.0.2.33"]
        assert await addresses_of("BOX.example.org.") == ["192.0.2.33"]
        rows = await loop.getaddrinfo("box.example.org", 80, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
        assert rows[0][3] == "box"
        assert await addresses_of("localhost", family=socket.AF_INET) == ["127.0.0.1"]
        assert await addresses_of("any.localhost") == ["::1", "127.0.0.1"]
        assert await loop.getnameinfo(("192.0.2.33", 80)) == ("box", "http")
        assert not zone.asked
        hosts.write_text("192.0.2.34 box\n")
        assert await addresses_of("box") == ["192.0.2.34"]
        hosts.unlink()
        with pytest.raises(socket.gaierror):
            await addresses_of("box")

    run(main)


def test_addresses_have_names() -> None:
    async def main(zone: Zone) -> None:
        loop = asyncio.get_running_loop()
        assert await loop.getnameinfo((SERVER, 80)) == ("www.example.org", "http")
        assert await loop.getnameinfo(("fd09::1", 80, 0, 0), socket.NI_NUMERICSERV) == ("six.example.org", "80")
        assert await loop.getnameinfo((SERVER, 80), socket.NI_NUMERICHOST) == (SERVER, "http")
        assert await loop.getnameinfo((SERVER, 80), socket.NI_NOFQDN) == ("www", "http")
        assert await loop.getnameinfo(("192.0.2.1", 80)) == ("192.0.2.1", "http")
        with pytest.raises(socket.gaierror) as caught:
            await loop.getnameinfo(("192.0.2.1", 80), socket.NI_NAMEREQD)
        assert caught.value.errno == socket.EAI_NONAME
        with pytest.raises(socket.gaierror):
            await loop.getnameinfo(("www.example.org", 80))

    run(main, dns_search="example.org")


# ---- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.9.0.1", ("10.9.0.1", 53)), ("10.9.0.1:5353", ("10.9.0.1", 5353)), ("fd09::1", ("fd09::1", 53)),
        ("[fd09::1]", ("fd09::1", 53)), ("[fd09::1]:54", ("fd09::1", 54)),
    ],
)  # fmt: skip
def test_nameservers_are_addresses(text: str, expected: tuple[str, int]) -> None:
    assert nameserver(text) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"dns": ["ns.example.org"]}, {"dns": "10.9.0.1:0"}, {"dns": "10.9.0.1:http"}, {"dns": "[fd09::1"},
        {"dns": "[fd09::1]53"}, {"dns": ["system", "10.9.0.1"]}, {"dns": "10.9.0.1", "dns_timeout": 0},
        {"dns": "10.9.0.1", "dns_timeout": "soon"},
    ],
)  # fmt: skip
def test_bad_configurations_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="dns"):
        Config("mem:x", ["10.9.0.2/24"], **fields)


def test_the_system_s_nameservers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "resolv.conf"
    monkeypatch.setattr("aiomultistack._names.RESOLV_CONF", str(conf))
    conf.write_text(f"nameserver {SERVER}\nsearch example.org\n")

    async def main(zone: Zone) -> None:
        assert await addresses_of("four") == [SERVER]

    run(main, dns="system")
    conf.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="names no server"):
        run(main, dns="system")


def test_without_dnspython_the_configuration_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "dns":
            raise ImportError(name)
        return ordinary(name, *arguments, **options)

    for name in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"aiomultistack\[dns\]"):
        aiomultistack.new_event_loop(Config("mem:without", ["10.9.0.2/24"], dns="10.9.0.1", control=False))
