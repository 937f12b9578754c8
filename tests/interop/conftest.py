"""Fixtures: a namespace for each module, a server on user-space TCP in it, loops on a TAP.

Everything here needs root and /dev/net/tun; without them each test says so and is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

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
def nothing_new(process_wide: None) -> None:
    """What is open when a test begins is no leak of its."""


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
