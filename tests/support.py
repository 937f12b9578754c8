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


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


@contextlib.contextmanager
def _elsewhere(go: Callable[[ctypes.CDLL], None]) -> Iterator[None]:
    """Moves the calling thread into the network namespace that `go` takes it to, and back again."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        go(libc)
        try:
            yield
        finally:
            _check(libc.setns(before, _CLONE_NEWNET), "setns")
    finally:
        os.close(before)


def own_namespace() -> contextlib.AbstractContextManager[None]:
    """Moves the calling thread into an empty network namespace of its own, and back again.

    The kernel takes the namespace away with its last process and descriptor.
    """
    return _elsewhere(lambda libc: _check(libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)"))


def namespace_of(fd: int) -> contextlib.AbstractContextManager[None]:
    """Moves the calling thread, and what it starts, into the network namespace of a descriptor, and back again."""
    return _elsewhere(lambda libc: _check(libc.setns(fd, _CLONE_NEWNET), "setns"))


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
