"""CPython's own tests of asyncio's network side, run on our event loop.

    python tests/cpython/suite.py [--tap] [-v] [MODULE ...] [-k SUBSTRING]

The tests are those of the running Python (`test.test_asyncio`); nothing of them is in this tree.  They make their
loops with `asyncio.SelectorEventLoop()` and `asyncio.new_event_loop()`, which are ours here: each has a stack of its
own, on which the addresses 127.0.0.1 and ::1 are (a ``mem:`` port with ``host_stack="also"``).  What the loop serves
there, its own clients reach over the user-space stack.  Blocking sockets in a test's threads, and in the thread of
the loop itself, are the kernel's; they find the server on the kernel's side of these addresses.

With --tap (as root, in a network namespace of its own) each loop has a TAP device instead, and what a test binds to
127.0.0.1 is bound to the addresses at its two ends: then the kernel's TCP talks to ours in every test whose blocking
sockets are in threads.

`EXPECTED` names the tests that cannot pass, each with its reason; one that passes nevertheless is a failure of the
suite, and so is a name that no longer fits any test.  The closing line counts the tests in which connections or
datagrams went over the user-space stack.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import fnmatch
import importlib
import itertools
import os
import socket
import sys
import time
import traceback
import unittest
import warnings
from asyncio import events, unix_events
from collections.abc import Iterator
from typing import Any

from expected import EXPECTED, Row
from pyroute2 import IPRoute

from aiomultistack import Config
from aiomultistack._factory import SelectorLoop, open_node

#: Modules of test.test_asyncio in which a loop of ours has a part.
MODULES = (
    "test_buffered_proto", "test_context", "test_events", "test_pep492", "test_runners", "test_sendfile",
    "test_server", "test_sock_lowlevel", "test_ssl", "test_sslproto", "test_streams",
)  # fmt: skip

#: Those whose blocking sockets are in threads of their own.
TAP_MODULES = ("test_buffered_proto", "test_server", "test_ssl", "test_sslproto", "test_streams")

#: Names of the kernel's loopback address in tests.
LOCAL = ("127.0.0.1", "localhost")

_INSIDE = "AMS_CPYTHON_SUITE_INSIDE"

#: Classes that run a test once more with another selector underneath.
REPEATED = ("PollEventLoopTests", "SelectEventLoopTests", "PollEventLoop", "SelectEventLoop")

#: The engine's counters that tell of traffic on the user-space stack.
COUNTERS = ("stack.tcp_active_open", "stack.tcp_passive_open", "stack.udp_rx")

TIMEOUT = 120  # seconds after which a test hangs, and the suite is given up

_ordinary = asyncio.SelectorEventLoop
_numbers = itertools.count()


class SuiteLoop(SelectorLoop):
    """What `asyncio.SelectorEventLoop` is while the suite runs."""

    traffic = 0

    #: True while a port is being opened, for which pyroute2 uses a loop of its own.
    opening = False

    def __new__(cls, *args: Any) -> Any:
        """An ordinary loop for pyroute2."""
        return super().__new__(cls) if not SuiteLoop.opening else _ordinary()

    def __init__(self, selector: Any = None) -> None:
        SuiteLoop.opening = True
        try:
            node = open_node(self._config())
        finally:
            SuiteLoop.opening = False
        super().__init__(node, selector)

    @staticmethod
    def _config() -> Config:
        return Config(
            f"mem:cpython-{next(_numbers)}", ["127.0.0.1/8", "::1/128"], host_stack="also", time_wait=0.1, control=False
        )

    def close(self) -> None:
        """Notes what went over the user-space stack."""
        if not self.is_closed():
            counters = self.multistack.counters()
            SuiteLoop.traffic += sum(counters[name] for name in COUNTERS)
        super().close()


class TapLoop(SuiteLoop):
    """A loop whose stack is at the other end of a TAP device."""

    #: What stands for 127.0.0.1 on the kernel's side, and on ours.
    kernel, own = "127.0.0.1", "127.0.0.1"

    @staticmethod
    def _config() -> Config:
        number = next(_numbers)
        network = f"10.{number >> 8 & 255}.{number & 255}"
        TapLoop.kernel, TapLoop.own = f"{network}.1", f"{network}.2"
        return Config(
            f"tap:cpy{number}", [f"{TapLoop.own}/24"], host_addresses=[f"{TapLoop.kernel}/24"], time_wait=0.1,
            control=False,
        )  # fmt: skip

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """On our address instead of 127.0.0.1."""
        return await super().create_server(protocol_factory, TapLoop.own if host in LOCAL else host, port, **options)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        """To our address if a server of this loop is meant."""
        if host in LOCAL and self._pumps[0].serves(socket.SOCK_STREAM, (TapLoop.own, port)):
            host = TapLoop.own
        return await super().create_connection(protocol_factory, host, port, **options)


class KernelSocket(socket.socket):
    """The kernel's sockets of tests are bound to its address on the TAP device instead of to 127.0.0.1."""

    def bind(self, address: Any) -> None:
        """See above."""
        if isinstance(address, tuple) and address[0] == "127.0.0.1":
            address = (TapLoop.kernel, *address[1:])
        super().bind(address)


def enter_namespace() -> None:
    """Goes on in a network namespace of its own, with an empty loopback device."""
    if os.environ.get(_INSIDE) is None:
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])
    with IPRoute() as route:
        route.link("set", index=1, state="up")


def install(tap: bool) -> None:
    """Makes the loops of this process ours."""
    kind = TapLoop if tap else SuiteLoop
    asyncio.SelectorEventLoop = kind  # type: ignore[misc,assignment]
    if hasattr(asyncio, "EventLoop"):
        asyncio.EventLoop = kind
    if tap:
        socket.socket = KernelSocket  # type: ignore[misc]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None) or unix_events._DefaultEventLoopPolicy
        policy._loop_factory = kind
        events.set_event_loop_policy(None)


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite, however deep."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from cases(item)
        else:
            yield item


def name_of(case: unittest.TestCase) -> str:
    """MODULE.CLASS.METHOD."""
    return case.id().removeprefix("test.test_asyncio.")


def rows() -> list[Row]:
    """What is expected to fail on the running Python, in the running mode."""
    version, tap = sys.version_info[:2], asyncio.SelectorEventLoop is TapLoop
    return [row for row in EXPECTED if row.first <= version <= row.last and row.tap == tap]


def row_of(name: str) -> Row | None:
    """Why a test is expected to fail on the running Python; None if it isn't."""
    for row in rows():
        if fnmatch.fnmatchcase(name, row.pattern):
            row.used = True
            return row
    return None


class Result(unittest.TextTestResult):
    """Knows which failures are expected, and which tests had traffic."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.with_traffic = 0
        self.slow: list[tuple[float, str]] = []
        self._before = 0
        self._started = 0.0
        self._bad = False

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802 -- unittest's name
        """Notes what there was before."""
        self._before, self._started, self._bad = SuiteLoop.traffic, time.monotonic(), False
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 -- unittest's name
        """Counts."""
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)
        self.with_traffic += SuiteLoop.traffic > self._before
        self.slow.append((time.monotonic() - self._started, name_of(test)))

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802 -- unittest's name
        """A failure, perhaps an expected one."""
        self._unwell(test, err, super().addFailure)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802 -- unittest's name
        """An error, perhaps an expected one."""
        self._unwell(test, err, super().addError)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802 -- unittest's name
        """A part of a test."""
        if err is not None:
            self._unwell(test, err, super().addError)

    def addSuccess(self, test: Any) -> None:  # noqa: N802 -- unittest's name
        """A success, unless it wasn't expected."""
        if self._bad:
            return
        row = row_of(name_of(test))
        if row is not None and not row.races:
            self.addUnexpectedSuccess(test)
        else:
            super().addSuccess(test)

    def _unwell(self, test: Any, err: Any, add: Any) -> None:
        known = isinstance(test, unittest.TestCase) and row_of(name_of(test)) is not None
        if known and not self._bad:
            self.addExpectedFailure(test, err)
        elif not known:
            add(test, err)
        self._bad = True


def load(names: list[str], only: str) -> unittest.TestSuite:
    """The tests of some modules."""
    suite = unittest.TestSuite()
    for name in names:
        try:
            module = importlib.import_module(f"test.test_asyncio.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"test.test_asyncio.{name}":
                raise
            continue  # a module that other versions have
        for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module)):
            kind = type(case).__name__
            if not kind.startswith(REPEATED) and only in name_of(case):
                suite.addTest(case)
    return suite


def main() -> int:
    """Runs the suite; 0 if all is as expected."""
    parser = argparse.ArgumentParser(description="CPython's tests of asyncio, on user-space TCP")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("-k", default="", dest="only", metavar="SUBSTRING", help="only tests with this in their name")
    parser.add_argument("-v", action="store_true", dest="verbose", help="one line for each test")
    parser.add_argument("--durations", type=int, default=0, metavar="N", help="show the slowest tests")
    parser.add_argument("--tap", action="store_true", help="over TAP devices, with the kernel's sockets as peers")
    arguments = parser.parse_args()
    if arguments.tap:
        enter_namespace()
    install(arguments.tap)
    arguments.modules = arguments.modules or list(TAP_MODULES if arguments.tap else MODULES)
    suite = load(arguments.modules, arguments.only)
    runner = unittest.TextTestRunner(resultclass=Result, verbosity=2 if arguments.verbose else 1, warnings="default")
    result: Any = runner.run(suite)
    for seconds, name in sorted(result.slow, reverse=True)[: arguments.durations]:
        print(f"{seconds:6.2f} s  {name}")
    for test in result.unexpectedSuccesses:
        print(f"UNEXPECTED SUCCESS: {name_of(test)}")
    unused = [row for row in rows() if not row.used]
    whole = arguments.modules == list(TAP_MODULES if arguments.tap else MODULES) and not arguments.only
    for row in unused if whole else ():
        print(f"NOTHING FITS: {row.pattern}")
    print(
        f"Python {sys.version.split()[0]}: {result.testsRun} tests, {result.with_traffic} over the user-space stack, "
        f"{len(result.failures) + len(result.errors)} failed, {len(result.expectedFailures)} expected failures, "
        f"{len(result.skipped)} skipped"
    )
    return int(not result.wasSuccessful() or bool(result.unexpectedSuccesses) or (whole and bool(unused)))


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:
        traceback.print_exc()
        status = 2
    sys.exit(status)
