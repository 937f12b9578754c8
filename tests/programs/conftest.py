"""Real programs, unchanged, on user-space TCP and UDP.

Two settings, because each finds other things.  Over a `virtual_network` both peers are user-space, the loop
underneath is asyncio's, the link is bad and time is virtual.  Over a TAP the other peer is a real server or client on
the kernel's TCP, and the loop underneath is uvloop; these need root.

gRPC's grpc.aio is not among them: it polls its own sockets in C, and uses no transport of asyncio's.

A test whose package or server is missing says so and is skipped.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from interop.lab import Bench, namespace, stack_loop

from aiomultistack import _netns


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What these programs find old-fashioned in each other is not ours to judge."""
    for item in items:
        if "programs" in item.path.parts:
            for category in ("DeprecationWarning", "PendingDeprecationWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}"))


@pytest.fixture(scope="session", autouse=True)
def nothing_new(process_wide: None) -> None:
    """What is open when a test begins is no leak of its."""


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """A network namespace for the module's tests over a TAP."""
    reason = _netns.why_not()
    if reason:
        pytest.skip(f"needs a TAP: {reason}")
    with namespace():
        yield


@pytest.fixture
def bench(lab: None) -> Iterator[Bench]:
    """A loop on a TAP; the kernel's TCP is on the other side."""
    with stack_loop() as bench:
        yield bench


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who issues the certificates."""
    return trustme.CA()


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `authority` alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's key and certificate in one file, for the names and addresses that the tests use."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    names = "server", "10.99.0.2", "fd99::2", "fd00::2"
    authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(path)
    return path


@contextlib.contextmanager
def daemon(*command: str, log: Path, user: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the system's in the calling thread's namespace, ended with the test."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=user)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
