"""Fixtures: a namespace for each module, a server on user-space TCP in it, loops on a TAP.

Everything here needs root and /dev/net/tun; without them each test says so and is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterator

import pytest

from aiomultistack import _netns

from .lab import Bench, namespace, stack_loop


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips this directory's tests where there are no namespaces and TAPs."""
    reason = _netns.why_not()
    for item in items:
        if "interop" in item.path.parts:
            item.add_marker(pytest.mark.root)
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"needs a TAP: {reason}"))


@pytest.fixture(scope="session", autouse=True)
def process_wide() -> None:
    """Opens what libuv opens once in a process and keeps, so that it isn't taken for a leak."""
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[None]:
    """A network namespace for the module's tests."""
    with namespace():
        yield


@pytest.fixture
def bench(lab: None, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A loop on a TAP; indirect parameters are fields of `Config`."""
    with stack_loop(**getattr(request, "param", {})) as bench:
        yield bench


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """The path of a program, or a skip that names what is missing."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find
