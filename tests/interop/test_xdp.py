"""User-space TCP on an interface beside the system's own stack: ``xdp:`` ports, over a veth pair.

Servers, run with an address of the stack's own, and with one that the system has too.  The system's own traffic on
the same interface and the same address must go on in both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import trustme
from support import PATIENCE, eventually

from .app import CHUNK
from .lab import Program, command, url_host
from .wire import SYSTEM_PORT, Wire, address, get, machine, machine_host, program_options, system_answers, udp_echo

APP = Path(__file__).with_name("app.py")
PORT, TLS_PORT = 8080, 8443
FAMILIES = pytest.mark.parametrize("family", [4, 6])

Tool = Callable[[str], str]


@dataclass
class Site:
    """An aiohttp server on the stack, and a server on the machine's kernel beside it."""

    mode: str
    wire: Wire
    program: Program
    authority: Path

    def url(self, family: int, path: str, scheme: str = "http") -> str:
        """A URL at the stack's server."""
        port = TLS_PORT if scheme == "https" else PORT
        return f"{scheme}://{url_host(address(self.mode, family))}:{port}{path}"


@pytest.fixture(scope="module")
def link() -> Iterator[Wire]:
    with machine() as made:
        yield made


@pytest.fixture(scope="module", params=["own", "shared"])
def site(request: pytest.FixtureRequest, link: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The application in a process at the machine, with and without TLS."""
    mode: str = request.param
    directory = tmp_path_factory.mktemp(mode)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "authority.pem")
    hosts = [address(mode, family) for family in (4, 6)]
    authority.issue_cert(*hosts).private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    arguments = [str(PORT), str(directory), *hosts, "--tls", str(TLS_PORT), str(directory / "server.pem")]
    with link.inside():
        program = Program(directory / "log", APP, arguments, **program_options(link, mode))
    with contextlib.closing(program):
        program.wait_until_open(hosts[1], PORT)
        yield Site(mode, link, program, directory / "authority.pem")
        eventually(lambda: not program.connections(), "no connection is left")
        program.terminate()
        assert program.wait() == 0
        assert program.output == "cleaned up\n"
    assert not link.has_program()


# ---- servers --------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1460, 40000, 5_000_000])
def test_responses(site: Site, family: int, size: int) -> None:
    assert get(site.url(family, f"/bytes/{size}")).content == (CHUNK * 5)[:size]


@FAMILIES
def test_uploads(site: Site, family: int) -> None:
    body = CHUNK * 4 + b"the end"
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            answer = session.post(site.url(family, "/digest"), data=body, timeout=PATIENCE).json()
            assert answer == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@FAMILIES
def test_tls(site: Site, family: int) -> None:
    assert get(site.url(family, "/bytes/2000000", "https"), verify=str(site.authority)).content == (CHUNK * 2)[:2000000]


@FAMILIES
def test_the_system_goes_on_beside_it(site: Site, tool: Tool, family: int) -> None:
    """Its TCP, UDP with fragments, and ping, while the stack is under load."""
    stop = threading.Event()
    failures: list[object] = []

    def load() -> None:
        while not stop.is_set():
            if get(site.url(family, "/bytes/100000")).content != CHUNK[:100000]:
                failures.append("a wrong response")

    # The thread is made in the others' namespace, as this one is.
    loader = threading.Thread(target=load)
    loader.start()
    try:
        for _ in range(5):
            assert system_answers(family)
        for size in (1, 1400, 5000, 60000):
            data = os.urandom(size)
            assert udp_echo(machine_host(family), SYSTEM_PORT, data) == data
        for size in ("56", "20000"):
            output = command(tool("ping"), f"-{family}", "-n", "-c", "3", "-i", "0.01", "-W", "5", "-s", size,
                             machine_host(family))  # fmt: skip
            assert "3 received, 0% packet loss" in output
    finally:
        stop.set()
        loader.join()
    assert failures == []


@FAMILIES
def test_ping(site: Site, tool: Tool, family: int) -> None:
    """Answered by the stack, or by the system, whoever has the address."""
    output = command(tool("ping"), f"-{family}", "-n", "-c", "3", "-i", "0.01", "-W", "5", "-s", "4000",
                     address(site.mode, family))  # fmt: skip
    assert "3 received, 0% packet loss" in output


@FAMILIES
def test_a_port_that_nobody_has_is_refused(site: Site, family: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address(site.mode, family), 9), PATIENCE)


@FAMILIES
def test_ports_are_the_stacks_or_the_systems(site: Site, family: int) -> None:
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with site.wire.inside(), socket.socket(kind, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if site.mode == "own":  # the system doesn't have that address
            with pytest.raises(OSError, match="assign requested address"):
                sock.bind((address("own", family), PORT))
            return
        for host in (machine_host(family), "::" if family == 6 else "0.0.0.0"):
            with pytest.raises(OSError, match="Address already in use"):
                sock.bind((host, PORT))
