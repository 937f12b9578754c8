"""Who reaches whom, for each kind of uplink and each place of the kernel's stack; over IPv4 and IPv6 at once."""

from __future__ import annotations

import ast
import errno
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from interop.lab import command, namespace, tap_name
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

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
    NIC4,
    US4,
    US6,
    Machine,
    Namespace,
    machine,
)
from .stage import SERVER, Process, bound, connecting, serving, until

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


def frames_of(site: Machine, server: Process) -> int:
    """How many frames a client of the switch has received."""
    (port,) = [port for port in site.switch.clients() if port["pid"] == server.pid]
    return int(port["rx_frames"])


def packet_socket(device: str) -> socket.socket:
    """Sees what the kernel gets from a device; the tag of a VLAN is not among the bytes."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    made.bind((device, 0))
    made.settimeout(20)
    return made


def quiet(site: Machine, server: Process) -> int:
    """As frames_of(), once its connections have ended."""
    last = [-1]

    def same() -> bool:
        last.append(frames_of(site, server))
        return len(last) > 10 and len(set(last[-10:])) == 1

    until(same, "the end of all connections")
    return last[-1]


#: Sends frames, in hexadecimal, out of a device.
WIRE = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind((sys.argv[1], 0))
    for frame in sys.argv[2:]:
        wire.send(bytes.fromhex(frame))
print("sent", flush=True)
"""


@pytest.mark.parametrize("uplink", ["tap", "xdp"])
def test_vlans_of_the_uplink_are_the_system_s(tmp_path: Path, uplink: str) -> None:
    with machine(tmp_path, uplink, "shares" if uplink == "tap" else "alone", shared=True) as site:
        ours, theirs = (site.tap, "up0") if uplink == "tap" else ("nic0", "nic0")
        stack = serving(site.switch, STACK)
        reaches(site, site.gateway, [(US, STACK, stack)])  # nobody asks for neighbours later
        before = quiet(site, stack)
        mac = bytes.fromhex(site.switch.describe()["switch"]["mac"].replace(":", ""))
        packet = bytes(IP(src=GATEWAY4, dst=US4) / TCP(sport=9, dport=STACK, flags="R") / Raw(b"for the system"))
        plain = mac + bytes([2, 0, 0, 0, 0, 9]) + b"\x08\0" + packet
        tagged = plain[:12] + b"\x81\0\0\x05" + plain[12:]
        with packet_socket(ours) as seen:
            site.start(site.gateway, WIRE, theirs, tagged.hex(), plain.hex()).expect("sent")
            while packet not in seen.recv(2000):
                pass
        until(lambda: frames_of(site, stack) > before, "the frame without a tag")
        assert frames_of(site, stack) == before + 1


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


ALSO: dict[str, Any] = {"environment": {"AIOMULTISTACK_HOST_STACK": "also"}}


@pytest.mark.parametrize(("uplink", "host"), [("xdp", ""), ("xdp", US6), ("tap", US4)])
def test_a_server_on_both_stacks_of_a_shared_address(tmp_path: Path, uplink: str, host: str) -> None:
    """The way from a program on this machine's kernel to one on a stack, at the address that both have."""
    with machine(tmp_path, uplink, "shares" if uplink == "tap" else "alone", shared=True) as site:
        both = serving(site.switch, STACK, *([host] if host else []), **ALSO)
        reached = US if not host else (host, host)
        for _ in range(2):
            before = frames_of(site, both)
            reaches(site, None, [(reached, STACK, both)])  # over the kernel's loopback
            assert frames_of(site, both) == before
            reaches(site, site.gateway, [(reached, STACK, both)])
            reaches(site, site.far, [(reached, STACK, both)])
            stack_reaches(site, [(reached, STACK, both)])
            assert frames_of(site, both) > before + 100
            site.switch.kill()
            site.switch.start()  # the listener is claimed anew
            if uplink == "tap":
                return  # whose gateway's end went with the switch
            until(lambda: any(port == STACK for _, _, port in site.switch.tuples()), "a claim")
        other = site.start(None, KERNEL_SERVER, str(STACK), *([host] if host else []))
        assert other.line() == f"refused {errno.EADDRINUSE}"


def test_a_server_on_both_stacks_without_a_shared_address(tmp_path: Path) -> None:
    with machine(tmp_path, "none") as site:
        both = serving(site.switch, STACK, **ALSO)
        reaches(site, None, [(("127.0.0.1", "::1"), STACK, both)])
        stack_reaches(site, [(US, STACK, both)])
        second = serving(site.switch, STACK + 1)  # on the stack alone
        stack_reaches(site, [(US, STACK + 1, second)])
        refuses_at = site.client(None)
        assert refuses_at.ask(f"127.0.0.1 {STACK + 1} hello") == "ConnectionRefusedError ECONNREFUSED"


def test_a_server_on_both_stacks_chooses_its_port(tmp_path: Path) -> None:
    choosing = SERVER.replace(
        'print("serving"', 'print(*sorted({sock.getsockname()[:2] for sock in server.sockets}), sep=";"'
    )
    with machine(tmp_path, "none") as site:
        names = [ast.literal_eval(word) for word in site.switch.client(choosing, "0", **ALSO).line().split(";")]
        assert [host for host, _ in names] == ["0.0.0.0", "::"]
        kernel, stack = site.client(None), connecting(site.switch)
        for (_, port), system, ours in zip(names, ("127.0.0.1", "::1"), US, strict=True):
            assert kernel.ask(f"{system} {port} hello") == stack.ask(f"{ours} {port} hello")


#: Binds "tcp" or "udp" sockets: "KIND HOST PORT" in; "bound", or the errno, out.  They stay bound.
BINDER = """
import asyncio, sys
import aiomultistack

async def main():
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        try:
            if line[0] == "tcp":
                await asyncio.start_server(lambda *streams: None, line[1], int(line[2]))
            else:
                await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (line[1], int(line[2])))
            print("bound", flush=True)
        except OSError as error:
            print(error.errno, flush=True)

aiomultistack.run(main())
"""
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def kernel_refuses(host: str, port: int, kind: str) -> bool:
    """Whether the kernel says that a port is in use."""
    try:
        bound(host, port, KINDS[kind]).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return True
    return False


def test_kernel_and_stacks_exclude_each_other_at_a_shared_address(tmp_path: Path) -> None:
    with machine(tmp_path, "xdp", shared=True) as site:
        binder = site.switch.client(BINDER)
        port = STACK
        for kind in KINDS:
            for host, any_host in ((US4, "0.0.0.0"), (US6, "::")):
                for ours, theirs in ((host, host), (host, any_host), (any_host, host), (any_host, any_host)):
                    port += 1
                    with bound(theirs, port, KINDS[kind]):
                        assert binder.ask(f"{kind} {ours} {port}") == str(errno.EADDRINUSE)
                    assert binder.ask(f"{kind} {ours} {port}") == "bound"
                    assert kernel_refuses(theirs, port, kind)
        binder.kill()
        until(lambda: not site.switch.tuples(), "the release")
        assert not any(kernel_refuses(host, number, kind)
                       for number in range(STACK + 1, port + 1) for host in US for kind in KINDS)  # fmt: skip


def test_the_kernel_has_no_port_that_was_lent(tmp_path: Path) -> None:
    with machine(tmp_path, "xdp", shared=True) as site:
        near = site.server(site.gateway, PORT)
        client = connecting(site.switch)
        assert client.ask(f"{GATEWAY4} {PORT} hello") == f"HELLO {near.pid}"
        lent = [number for row in site.switch.describe()["lent"] for number in range(row["low"], row["high"] + 1)]
        assert len(lent) >= 256
        ways = [(host, number, kind) for number in lent for host in (*US, "0.0.0.0", "::") for kind in KINDS]
        assert all(kernel_refuses(*way) for way in ways)
        client.kill()
        until(lambda: not site.switch.describe()["lent"], "the range's return")
        assert not any(kernel_refuses(*way) for way in ways)


@pytest.mark.parametrize("addresses", ["own", "shared", "mixed"])
def test_a_switch_sends_nothing_of_its_own_that_it_refuses(tmp_path: Path, addresses: str) -> None:
    """What its control stack says about the addresses as it starts: nothing about those that the system has."""
    mixed = ("--address", f"{NIC4}/24") if addresses == "mixed" else ()
    with machine(tmp_path, "xdp", "alone", *mixed, shared=addresses == "shared") as site:
        def control() -> dict[str, int]:
            (port,) = [port for port in site.switch.describe()["ports"] if port["name"] == "control stack"]
            return {name: count for name, count in port["counters"].items() if count}

        if addresses != "shared":
            until(lambda: control().get("tx_passed", 0) >= 3, "an announcement")
        serving(site.switch, STACK).close()  # time passes
        time.sleep(1.5)  # and a second for each group that is reported again (RFC 3810 section 9.11)
        assert site.drops() == {}
        assert addresses != "shared" or not control()
