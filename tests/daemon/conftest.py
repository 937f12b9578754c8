"""Fixtures: a switch without an uplink, which needs no root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .stage import Switch, running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """A switch for the tests of a module that leave it as it was."""
    with running(tmp_path_factory.mktemp("switch")) as switch:
        yield switch


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Switch]:
    """A switch of the test's own."""
    with running(tmp_path) as switch:
        yield switch
