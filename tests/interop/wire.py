"""A veth pair between two namespaces: a machine with its own kernel's stack, and others that talk to it.

The test's thread is at the others' end.  `Wire.inside()` takes it to the machine, where ``xdp:`` ports are opened.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from support import PATIENCE, eventually, namespace_of

from .lab import NOBODY4, NOBODY6, STACK4, STACK6, command, namespace, stack_host, tap_name, url_host

#: The machine's addresses, and those at the other end of the wire.
MACHINE4, MACHINE6 = "10.99.0.1", "fd99::1"
OTHERS4, OTHERS6 = "10.99.0.9", "fd99::9"
#: A stack's addresses at the machine: its own, or those that the system has too.
ADDRESSES = {"own": [f"{STACK4}/24", f"{STACK6}/64"], "shared": [f"{MACHINE4}/24", f"{MACHINE6}/64"]}
#: Where the machine's own server is.
SYSTEM_PORT = 8000

_SYSTEM_SERVER = Path(__file__).with_name("system_server.py")


def machine_host(family: int) -> str:
    """The machine's address in a family, 4 or 6."""
    return MACHINE6 if family == 6 else MACHINE4


def others_host(family: int) -> str:
    """The address of the other end in a family, 4 or 6."""
    return OTHERS6 if family == 6 else OTHERS4


def nobody_host(family: int) -> str:
    """An address of the wire's network that nobody has."""
    return NOBODY6 if family == 6 else NOBODY4


class Wire:
    """The machine's namespace and the link to it."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Moves the calling thread, and what it starts, to the machine."""
        return namespace_of(self._fd)

    def has_program(self) -> bool:
        """True if an XDP program is on the machine's link."""
        with self.inside():
            shown: list[dict[str, Any]] = json.loads(command("ip", "-j", "-d", "link", "show", self.name))
        return "prog" in shown[0].get("xdp", {})


def _up(name: str, addresses: list[str]) -> None:
    for address in addresses:
        command("ip", "addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    command("ip", "link", "set", name, "up")


@contextlib.contextmanager
def wire(*options: str) -> Iterator[Wire]:
    """Makes both namespaces and the link; options are those of ``ip link add`` for both ends."""
    with namespace():
        name = tap_name()
        with namespace():
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            command("ip", "link", "add", "others", *options, "type", "veth", "peer", "name", name, *options,
                    "netns", f"/proc/{os.getpid()}/fd/{fd}")  # fmt: skip
            made = Wire(fd, name)
            with made.inside():
                _up(name, [f"{MACHINE4}/24", f"{MACHINE6}/64"])
            _up("others", [f"{OTHERS4}/24", f"{OTHERS6}/64"])
            yield made
        finally:
            os.close(fd)


@contextlib.contextmanager
def machine(*options: str) -> Iterator[Wire]:
    """A wire, with a server on the machine's kernel."""
    with wire(*options) as made:
        with made.inside():
            server = subprocess.Popen([sys.executable, str(_SYSTEM_SERVER), str(SYSTEM_PORT)])
        try:
            eventually(lambda: system_answers(4), "the machine's server is there")
            yield made
        finally:
            server.kill()
            server.wait()


def address(mode: str, family: int) -> str:
    """The address of a stack at the machine: its own, or the system's."""
    return machine_host(family) if mode == "shared" else stack_host(family)


def program_options(made: Wire, mode: str) -> dict[str, str]:
    """What `lab.Program` needs to run on the wire."""
    return {"port": f"xdp:{made.name}", "addresses": ",".join(ADDRESSES[mode]), "host-addresses": ""}


def get(url: str, **options: object) -> requests.Response:
    """One GET on a connection of its own."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=PATIENCE, **options)  # type: ignore[arg-type]


def system_answers(family: int) -> bool:
    """Whether the machine's own TCP serves a large response."""
    with contextlib.suppress(requests.ConnectionError):
        url = f"http://{url_host(machine_host(family))}:{SYSTEM_PORT}/300000"
        return get(url).content == b"k" * 300000
    return False


def udp_echo(host: str, port: int, data: bytes) -> bytes:
    """What comes back for a datagram."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((host, port))
        sock.send(data)
        return sock.recv(65535)
