"""The pytest plugin of aiomultistack: the fixture ``virtual_network`` and what belongs to it.

pytest loads this module in every run, so it imports nothing but pytest until a test asks for the fixture; that is
why it stands outside of the package.  docs/testing.md says how to use it.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiomultistack.testing import Network

__all__ = ["virtual_network"]

_FIXTURE = "virtual_network"
_MARKER = (
    "virtual_network(seed=None, **options): arguments of aiomultistack.testing.Network for the fixture virtual_network"
)
_network_key: pytest.StashKey[Network] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called by pytest."""
    group = parser.getgroup("aiomultistack", "virtual networks of aiomultistack")
    group.addoption(
        "--network-seed",
        metavar="N",
        help="seed of virtual networks: a number, or 'random'; without it each test has its own, made from its name",
    )
    group.addoption(
        "--network-runs", metavar="N", type=int, default=1, help="run each test on a virtual network with N seeds"
    )
    group.addoption(
        "--network-captures", metavar="DIR", help="write what crossed the network of each failed test to DIR, as pcapng"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Called by pytest."""
    config.addinivalue_line("markers", _MARKER)
    seed = config.getoption("--network-seed")
    if seed not in (None, "random") and not re.fullmatch(r"\d+", seed):
        raise pytest.UsageError(f"--network-seed wants a number or 'random', not {seed!r}")
    if config.getoption("--network-runs") < 1:
        raise pytest.UsageError("--network-runs wants a number from 1 on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``--network-runs``: each test that uses a network, again and again."""
    runs = metafunc.config.getoption("--network-runs")
    if runs > 1 and _FIXTURE in metafunc.fixturenames:
        metafunc.parametrize(_FIXTURE, range(runs), indirect=True, ids=lambda number: f"run{number}")


def _seed(request: pytest.FixtureRequest, wanted: int | None) -> int:
    """The seed of a test's network."""
    option = request.config.getoption("--network-seed")
    if option == "random":
        return random.SystemRandom().randrange(1 << 32)
    number = getattr(request, "param", 0)
    if option is not None:
        return int(option) + int(number)
    if wanted is not None:
        return wanted + int(number)
    name = re.sub(r"\[run\d+\]|\brun\d+-|-run\d+\b", "", request.node.nodeid.rpartition("/")[2])
    return zlib.crc32(name.encode()) + int(number)


@pytest.fixture
def virtual_network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """A network of hosts in virtual time (`aiomultistack.testing.Network`); the test may be a coroutine."""
    from aiomultistack.testing import Network

    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers(_FIXTURE))):
        if mark.args:
            raise pytest.UsageError("the marker virtual_network takes keyword arguments")
        options.update(mark.kwargs)
    options["seed"] = _seed(request, options.get("seed"))
    with Network(**options) as network:
        request.node.stash[_network_key] = network
        yield network


# ---- coroutines ----------------------------------------------------------------------------------------------


def _coroutine_function(function: Any) -> Callable[..., Coroutine[Any, Any, Any]] | None:
    """The coroutine function behind a test function; another plugin may have wrapped it by now."""
    for candidate in (function, inspect.unwrap(function)):
        if inspect.iscoroutinefunction(candidate):
            return functools.partial(candidate, function.__self__) if _unbound(candidate, function) else candidate
    return None


def _unbound(candidate: Any, function: Any) -> bool:
    """True if unwrapping a method has lost its object."""
    return not inspect.ismethod(candidate) and getattr(function, "__self__", None) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs coroutine functions that use the fixture on its network."""
    if _FIXTURE not in pyfuncitem.funcargs:
        return None
    function = _coroutine_function(pyfuncitem.obj)
    if function is None:
        return None
    network: Any = pyfuncitem.funcargs[_FIXTURE]
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    network.run(function(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> Generator[None, Any, Any]:
    """Runs coroutine and asynchronous generator fixtures that use the fixture on its network."""
    function = fixturedef.func
    if _FIXTURE in fixturedef.argnames:
        if inspect.isasyncgenfunction(function):
            fixturedef.func = _generator_fixture(function, request)  # type: ignore[misc]
        elif inspect.iscoroutinefunction(function):
            fixturedef.func = _coroutine_fixture(function)  # type: ignore[misc]
    try:
        return (yield)
    finally:
        fixturedef.func = function  # type: ignore[misc]


def _coroutine_fixture(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(virtual_network: Network, **others: Any) -> Any:
        return virtual_network.run(function(virtual_network=virtual_network, **others))

    return run


def _generator_fixture(function: Callable[..., AsyncGenerator[Any, None]], request: Any) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(virtual_network: Network, **others: Any) -> Any:
        generator = function(virtual_network=virtual_network, **others)

        async def first() -> Any:
            return await generator.__anext__()

        async def last() -> None:
            try:
                await generator.__anext__()
            except StopAsyncIteration:
                return
            raise RuntimeError(f"fixture {function.__name__} yields more than once")

        value = virtual_network.run(first())
        request.addfinalizer(lambda: virtual_network.run(last()))
        return value

    return run


# ---- reports -------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows a failed test's network: the seed, what waits, the last frames."""
    report = yield
    network = item.stash.get(_network_key, None)
    if call.when == "call" and report.failed and network is not None:
        from aiomultistack.testing import DeadlockError, VirtualTimeoutError

        title = f"virtual network: seed {network.seed}, {network.time():.6f} s"
        lines = [f"to see it again: --network-seed={network.seed}"]
        directory = item.config.getoption("--network-captures")
        if directory:
            path = Path(directory) / (re.sub(r"[^\w.-]+", "_", item.nodeid).strip("_") + ".pcapng")
            path.parent.mkdir(parents=True, exist_ok=True)
            network.save_pcapng(path)
            lines.append(f"capture: {path}")
        if not isinstance(call.excinfo and call.excinfo.value, (DeadlockError, VirtualTimeoutError)):
            lines.append(network.describe())  # what these two say themselves
        report.sections.append((title, "\n".join(lines)))
    return report
