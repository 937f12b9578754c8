"""Fixtures: Ethernets in memory on which a fabric's uplink and host port are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fabric_lab import Hub


@pytest.fixture
def wire() -> Iterator[Hub]:
    """Behind the uplink."""
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def other() -> Iterator[Hub]:
    """Behind the host port."""
    hub = Hub()
    yield hub
    hub.close()
