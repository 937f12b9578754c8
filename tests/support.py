"""What tests of several folders need: waiting for others, and what this process has open."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable

import pytest

PATIENCE = 20.0  # seconds until what must happen is taken for not happening, on a machine busy with other things


def descriptors() -> set[str]:
    """What this process's descriptors refer to."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def eventually(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Waits until a condition about another process holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen in {timeout:g} s: {what}")
        select.select([], [], [], 0.02)
