"""What tests of several folders need: namespaces, waiting for others, what this process has open."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import time
from collections.abc import Callable, Iterator

import pytest

PATIENCE = 20.0  # seconds until what must happen is taken for not happening, on a machine busy with other things

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """Moves the calling thread into an empty network namespace of its own, and back again.

    The kernel takes the namespace away with its last process and descriptor.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        try:
            yield
        finally:
            if libc.setns(before, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(before)


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
