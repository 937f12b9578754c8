"""One contract suite, several event loops.

A test that takes the fixture `net` is a coroutine function; it runs once on each flavour:

    asyncio-kernel, uvloop-kernel   the loops everybody knows, on 127.0.0.1 and ::1: what is to be expected
    uvloop-mem, asyncio-mem         our loop with two nodes, a server's and a client's, on one hub
    virtual-mem                     the same in virtual time: what takes seconds takes none

After each test the loop must be left clean: no pending task, no exception that went to the loop's handler
without the test having taken it, no frame, no endpoint, no descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import itertools
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme
from support import descriptors

import aiomultistack
from aiomultistack._virtual import new_virtual_loop

from .protocols import Pair, Recorder

TIMEOUT = 15.0
FLAVOURS = ("asyncio-kernel", "uvloop-kernel", "uvloop-mem", "asyncio-mem", "virtual-mem")
_numbers = itertools.count()


@dataclass
class Net:
    """A loop, and the addresses that a test serves on and connects to."""

    flavour: str
    loop: asyncio.AbstractEventLoop
    host4: str
    host6: str
    #: What the loop's exception handler was called with; a test takes what it expects.
    contexts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ours(self) -> bool:
        """True on the user-space stack."""
        return self.flavour.endswith("mem")

    @property
    def base(self) -> str:
        """The loop underneath: "asyncio" or "uvloop"."""
        return self.flavour.partition("-")[0]

    @property
    def hosts(self) -> tuple[str, str]:
        """The server's IPv4 and IPv6 address."""
        return self.host4, self.host6

    def take_error(self) -> dict[str, Any]:
        """The one context that the exception handler got."""
        assert len(self.contexts) == 1, self.contexts
        return self.contexts.pop()

    @contextlib.asynccontextmanager
    async def server(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str | None = None, **options: Any
    ) -> AsyncIterator[tuple[str, int]]:
        """A server on a free port; yields host and port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(factory, host or self.host4, 0, **options)
        try:
            yield server.sockets[0].getsockname()[:2]
        finally:
            server.close()
            await server.wait_closed()


@contextlib.asynccontextmanager
async def pair(
    net: Net,
    server: Callable[[], Any] | None = None,
    client: Callable[[], Any] | None = None,
    host: str | None = None,
) -> AsyncIterator[Pair]:
    """A connection between two recorders (or what the factories make); both ends are gone afterwards."""
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def factory() -> Any:
        protocol = (server or Recorder)()
        made.set_result(protocol)
        return protocol

    async with net.server(factory, host) as address:
        _, protocol = await asyncio.get_running_loop().create_connection(client or Recorder, *address)
        ends = Pair(await made, protocol)
        await asyncio.shield(ends.server.made)
        try:
            yield ends
        finally:
            await ends.closed()


def make_loop(flavour: str) -> tuple[asyncio.AbstractEventLoop, str, str]:
    """A new loop of a flavour, with its server's addresses."""
    base, _, stack = flavour.partition("-")
    if stack == "kernel":
        if base == "asyncio":
            return asyncio.SelectorEventLoop(), "127.0.0.1", "::1"
        uvloop = pytest.importorskip("uvloop")
        return uvloop.new_event_loop(), "127.0.0.1", "::1"
    if base == "uvloop":
        pytest.importorskip("uvloop")
    hub = f"mem:contract-{next(_numbers)}"
    server = aiomultistack.Config(
        hub,
        ["10.9.0.1/24", "fd09::1/64"],
        gateway="10.9.0.254",
        base="auto" if base == "virtual" else base,
        time_wait=0.01,
        control=False,
    )
    client = server.replace(addresses=["10.9.0.2/24", "fd09::2/64"], gateway=())
    loop = new_virtual_loop(server) if base == "virtual" else aiomultistack.new_event_loop(server)
    loop.multistack.attach(client)
    return loop, "10.9.0.1", "fd09::1"


async def settled(net: Net) -> None:
    """Waits until the stacks hold nothing but what is reserved for TIME-WAIT."""
    assert isinstance(net.loop, aiomultistack.Loop)
    for _ in range(1000):
        nodes = net.loop.multistack.nodes
        if all(node.frames == 0 and node.endpoint_count == 0 for node in nodes):
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"left behind: {net.loop.multistack.endpoints()}, {net.loop.multistack.frames} frames")


def run_on(net: Net, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test's coroutine and checks what it leaves."""

    async def checked() -> None:
        await asyncio.wait_for(main(), TIMEOUT)
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        assert not left, left
        if net.ours:
            await settled(net)

    net.loop.run_until_complete(checked())
    assert net.contexts == []


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop as `asyncio.run()` does."""
    try:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_asyncgens(), TIMEOUT))
        loop.run_until_complete(asyncio.wait_for(loop.shutdown_default_executor(), TIMEOUT))
    finally:
        loop.close()


def pytest_configure(config: pytest.Config) -> None:
    """Python 3.10's sslproto forgets to mark its transports closed when the peer closes; asyncio's own do it too."""
    if sys.version_info < (3, 11):
        config.addinivalue_line("filterwarnings", "ignore:unclosed transport <asyncio.sslproto:ResourceWarning")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The flavours on which a test makes sense."""
    names = metafunc.fixturenames
    if "net" in names:
        suffix = "virtual-mem" if "virtual" in names else "-mem" if "ours" in names else ""
        metafunc.parametrize("net", [name for name in FLAVOURS if name.endswith(suffix)], indirect=True)


@pytest.fixture
def net(request: pytest.FixtureRequest, process_wide: None) -> Iterator[Net]:
    """A loop of each flavour in turn."""
    before = descriptors()
    loop, host4, host6 = make_loop(request.param)
    net = Net(request.param, loop, host4, host6)
    loop.set_exception_handler(lambda _, context: net.contexts.append(context))
    try:
        yield net
    finally:
        close_loop(loop)
        gc.collect()
    assert descriptors() - before == set()


@pytest.fixture
def ours(net: Net) -> Net:
    """For tests about the user-space stack: only our flavours."""
    return net


@pytest.fixture
def virtual(net: Net) -> Net:
    """For tests that would take seconds: only virtual time."""
    return net


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutine functions that take `net`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or "net" not in pyfuncitem.fixturenames:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run_on(pyfuncitem.funcargs["net"], lambda: pyfuncitem.obj(**arguments))
    return True


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that trust each other."""
    authority = trustme.CA()
    certificate = authority.issue_cert("server.test", "10.9.0.1", "fd09::1", "127.0.0.1", "::1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client
