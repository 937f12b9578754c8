"""What all tests share: the plugin that this package brings for its users, pytest's means to test plugins, fixtures."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester", "pytest_aiomultistack"]


@pytest.fixture(scope="session")
def process_wide() -> None:
    """Opens what libuv opens once in a process and keeps, so that it isn't taken for a leak."""
    with contextlib.suppress(ImportError):
        import uvloop

        loop = uvloop.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """The path of a program, or a skip that says what to install."""

    def find(name: str, package: str = "", *directories: str) -> str:
        places = (str(found) for place in directories for found in Path("/").glob(place))
        path = shutil.which(name) or next(places, None)
        if path is None:
            pytest.skip(f"{name} is not installed (Debian: {package or name})")
        return path

    return find
