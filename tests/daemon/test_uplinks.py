"""Who reaches whom, for each kind of uplink and each place of the kernel's stack; over IPv4 and IPv6 at once."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pytest
from interop.lab import command, namespace, tap_name

from aiomultistack import _netns

from .machine import (
    EVERYBODY,
    FAR4,
    FAR6,
    GATEWAY4,
    GATEWAY6,
    KERNEL4,
    KERNEL6,
    KERNEL_EVERYBODY,
    KERNEL_SERVER,
    US4,
    US6,
    Machine,
    Namespace,
    machine,
)
from .stage import SERVER, Process, serving

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}"),
    pytest.mark.timeout(180),
]

PORT, STACK = 8000, 8001  # of servers on kernels, and on a stack of the switch
GATEWAY, FAR, KERNEL, US = (GATEWAY4, GATEWAY6), (FAR4, FAR6), (KERNEL4, KERNEL6), (US4, US6)

Target = tuple[tuple[str, str], int, Process]


def everybody(targets: list[Target]) -> tuple[list[str], str]:
    """What EVERYBODY is to be told, and what it is to say."""
    words = [word for hosts, port, _ in targets for host in hosts for word in (host, str(port))]
    return words, " ".join(str(server.pid) for _, _, server in targets for _ in range(2))


def reaches(site: Machine, where: Namespace | None, targets: list[Target]) -> None:
    """A program on a kernel's stack talks to all of these at once."""
    words, said = everybody(targets)
    site.start(where, KERNEL_EVERYBODY, *words).expect(said)


def stack_reaches(site: Machine, targets: list[Target]) -> None:
    """So does one on a stack of the switch."""
    words, said = everybody(targets)
    site.switch.client(EVERYBODY, *words).expect(said)


def refuses(site: Machine, where: Namespace | None, port: int) -> None:
    """Nobody has the port at our addresses, and who asks is told at once."""
    client = site.client(where)
    for host in US:
        assert client.ask(f"{host} {port} hello") == "ConnectionRefusedError ECONNREFUSED"


@pytest.mark.parametrize("uplink", ["none", "tap", "xdp"])
def test_stacks_network_and_kernel_talk_at_the_same_time(tmp_path: Path, uplink: str) -> None:
    with machine(tmp_path, uplink, "own") as site:
        outside = [] if uplink == "none" else [site.gateway, site.far]
        near, far, kernel = site.server(site.gateway, PORT), site.server(site.far, PORT), site.server(None, PORT)
        one, two = serving(site.switch, STACK), serving(site.switch, STACK + 1)
        local = [(US, STACK, one), (US, STACK + 1, two)]
        beyond = [(GATEWAY, PORT, near), (FAR, PORT, far)] if outside else []
        stack_reaches(site, [*local, (KERNEL, PORT, kernel), *beyond])
        for where in (*outside, None):
            reaches(site, where, local)
            refuses(site, where, STACK + 2)
        for run in (*(space.run for space in outside), command):
            for host in US:
                run("ping", "-c", "1", "-W", "5", host)


def test_a_kernel_with_the_switch_s_addresses(tmp_path: Path) -> None:
    with machine(tmp_path, "tap", "shares") as site:
        near, far, kernel = site.server(site.gateway, PORT), site.server(site.far, PORT), site.server(None, PORT)
        one, two = serving(site.switch, STACK), serving(site.switch, STACK + 1)
        beyond, local = [(GATEWAY, PORT, near), (FAR, PORT, far)], [(US, STACK, one), (US, STACK + 1, two)]
        stack_reaches(site, [*local, (US, PORT, kernel), *beyond])
        reaches(site, None, beyond)  # the kernel's own neighbours come from the switch
        for where in (site.gateway, site.far):
            reaches(site, where, [*local, (US, PORT, kernel)])
            refuses(site, where, STACK + 2)
        for host in US:
            site.far.run("ping", "-c", "1", "-W", "5", host)
        (uplink,) = json.loads(site.gateway.run("ip", "-j", "address", "show", "dev", "up0"))
        scoped = [row["local"] for row in uplink["addr_info"] if row["local"].startswith("fe80:")]
        for host in (*GATEWAY, *FAR, f"{scoped[0]}%{site.tap}"):
            command("ping", "-c", "1", "-W", "10", host)
        assert site.switch.client(SERVER, str(PORT)).line() == f"refused {errno.EADDRINUSE}"
        assert site.start(None, KERNEL_SERVER, str(STACK)).line() == f"refused {errno.EADDRINUSE}"
        macs = {row["dst"]: row.get("lladdr") for row in json.loads(site.gateway.run("ip", "-j", "neigh"))}
        assert {macs[host] for host in US} == {site.switch.describe()["switch"]["mac"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "tap:{tap}", "--host-address", f"{US4}/24", "--uplink", "tap:up0"], "all of them or none"),
        (["--host", "tap:{tap}", "--host-address", f"{US4}/24", "--host-address", f"{US6}/64"], "all of them or none"),
        (["--host", "tap:{tap}", "--uplink", "xdp:nic0"], "keeps packets to it to itself"),
    ],
)
def test_places_that_the_kernel_cannot_have(tmp_path: Path, arguments: list[str], message: str) -> None:
    with namespace():
        command("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic1")
        command("ip", "address", "add", f"{US6}/64", "dev", "nic0", "nodad")
        words = [word.format(tap=tap_name()) for word in arguments]
        served = ["--address", f"{US4}/24", "--address", f"{US6}/64"]
        daemon = Process(
            [sys.executable, "-m", "aiomultistack", "switch", "--socket", str(tmp_path / "s"), *served, *words]
        )
        try:
            assert daemon.process.wait(30) == 1
            assert message in daemon.error()
        finally:
            daemon.close()
