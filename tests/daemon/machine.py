"""A machine with a switch, its network, and what is behind a router: three network namespaces.

    this thread's namespace      the uplink      gateway              far
    switch, clients, kernel   <----------------> 10.66.0.2, fd66::2 -------> 10.88.0.2, fd88::2

What the uplink is, and where this machine's kernel is, varies:

    none    there is no uplink; gateway and far are not reached
    tap     the uplink's other side is a TAP in the gateway's namespace
    xdp     the uplink is a veth, whose addresses the kernel has, or others than those of the switch

    alone   the kernel is not on the switch
    own     by a TAP, with addresses of its own
    shares  by a TAP, with the switch's addresses
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from interop.lab import command, namespace, tap_name

from .stage import CLIENT, SERVER, Process, Switch, until

US4, US6 = "10.66.0.1", "fd66::1"
GATEWAY4, GATEWAY6 = "10.66.0.2", "fd66::2"
KERNEL4, KERNEL6 = "10.66.0.3", "fd66::3"
NIC4, NIC6 = "10.66.0.4", "fd66::4"  # the kernel's on a veth whose addresses aren't the switch's
FAR4, FAR6 = "10.88.0.2", "fd88::2"

#: Talks to all of "HOST PORT HOST PORT ..." at once, line by line; says who answered.
EVERYBODY = """
import asyncio, sys
import aiomultistack

async def talk(host, port):
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 20)
    for number in range(50):
        writer.write(b"hello %d\\n" % number)
        answer = (await asyncio.wait_for(reader.readline(), 20)).split()
        assert answer[:2] == [b"HELLO", b"%d" % number], (host, port, answer)
    writer.close()
    return answer[2].decode()

async def main():
    words = sys.argv[1:]
    print(*await asyncio.gather(*map(talk, words[::2], words[1::2])), flush=True)

aiomultistack.run(main())
"""

#: The services of stage.SERVER and stage.CLIENT, on the kernel's TCP.
KERNEL_SERVER, KERNEL_CLIENT, KERNEL_EVERYBODY = (
    program.replace("aiomultistack.run(main())", "asyncio.run(main())").replace("import aiomultistack\n", "")
    for program in (SERVER, CLIENT, EVERYBODY)
)


class Namespace:
    """A network namespace that lives as long as a process in it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        own = os.stat("/proc/thread-self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self.pid}/ns/net").st_ino != own, "a namespace")
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        """The process by which ip(8) knows it."""
        return self._holder.pid

    @property
    def inside(self) -> tuple[str, ...]:
        """What to put before a command so that it runs here."""
        return ("nsenter", "--target", str(self.pid), "--net")

    def run(self, *arguments: str) -> str:
        """Runs a command here."""
        return command(*self.inside, *arguments)

    def close(self) -> None:
        """Ends its process."""
        self._holder.kill()
        self._holder.wait()


def addresses(prefix: tuple[str, ...], device: str, four: str, six: str, lengths: tuple[int, int] = (24, 64)) -> None:
    """Gives a device its addresses and brings it up."""
    command(*prefix, "ip", "link", "set", device, "up")
    command(*prefix, "ip", "address", "add", f"{four}/{lengths[0]}", "dev", device)
    command(*prefix, "ip", "address", "add", f"{six}/{lengths[1]}", "dev", device, "nodad")


class Machine:
    """All of it."""

    switch: Switch

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self.tap = tap_name()
        self.gateway, self.far = (self._undo.enter_context(contextlib.closing(Namespace())) for _ in range(2))

    def build(self, path: Path, uplink: str, host: str, shared: bool, *options: str) -> None:
        """Makes the links and starts the switch."""
        self._wire_far()
        us = (US4, US6)
        arguments = [*options]
        if uplink == "xdp":
            self._wire_nic(us if shared else (NIC4, NIC6))
            arguments += ["--uplink", "xdp:nic0"]
        elif uplink == "tap":
            arguments += ["--uplink", "tap:up0"]
        if uplink != "none":
            arguments += ["--gateway", GATEWAY4, "--gateway", GATEWAY6]
        if host != "alone":
            theirs = us if host == "shares" else (KERNEL4, KERNEL6)
            lengths = (32, 128) if uplink == "xdp" else (24, 64)
            arguments += ["--host", f"tap:{self.tap}"]
            for address, length in zip(theirs, lengths, strict=True):
                arguments += ["--host-address", f"{address}/{length}"]
        self.switch = Switch(path / "switch.sock", *arguments, addresses=[f"{US4}/24", f"{US6}/64"])
        self._undo.enter_context(contextlib.closing(self.switch))
        if uplink == "tap":
            command("ip", "link", "set", "up0", "netns", str(self.gateway.pid))
            addresses(self.gateway.inside, "up0", GATEWAY4, GATEWAY6)
        if host == "shares":
            for family, router in (("-4", GATEWAY4), ("-6", GATEWAY6)):
                command("ip", family, "route", "add", "default", "via", router, "dev", self.tap)

    def _wire_far(self) -> None:
        far = ("peer", "name", "far0", "netns", str(self.far.pid))
        self.gateway.run("ip", "link", "add", "far0", "type", "veth", *far)
        addresses(self.gateway.inside, "far0", "10.88.0.1", "fd88::1")
        addresses(self.far.inside, "far0", FAR4, FAR6)
        self.gateway.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.far.run("ip", "route", "add", "default", "via", "10.88.0.1")
        self.far.run("ip", "-6", "route", "add", "default", "via", "fd88::1")

    def _wire_nic(self, ours: tuple[str, str]) -> None:
        command("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic0", "netns", str(self.gateway.pid))
        addresses((), "nic0", *ours)
        addresses(self.gateway.inside, "nic0", GATEWAY4, GATEWAY6)

    def start(self, where: Namespace | None, program: str, *arguments: str) -> Process:
        """A Python program on the kernel's stack: of a namespace, or of this machine."""
        inside = () if where is None else where.inside
        process = Process([*inside, sys.executable, "-c", program, *arguments])
        return self._undo.enter_context(contextlib.closing(process))

    def server(self, where: Namespace | None, port: int) -> Process:
        """A server on the kernel's stack that serves."""
        process = self.start(where, KERNEL_SERVER, str(port))
        process.expect("serving")
        return process

    def client(self, where: Namespace | None) -> Process:
        """A client on the kernel's stack that is ready."""
        process = self.start(where, KERNEL_CLIENT)
        process.expect("ready")
        return process

    def drops(self) -> dict[str, int]:
        """What the switch has dropped, by reason."""
        found = self.switch.describe()
        return {name: found["counters"][name] for name in found["drops"] if found["counters"].get(name)}

    def close(self) -> None:
        """Ends everything; the namespaces go with their processes."""
        self._undo.close()


@contextlib.contextmanager
def machine(path: Path, uplink: str, host: str = "alone", *options: str, shared: bool = False) -> Iterator[Machine]:
    """A machine for the length of a block."""
    with namespace(), contextlib.closing(Machine()) as made:
        made.build(path, uplink, host, shared, *options)
        yield made
