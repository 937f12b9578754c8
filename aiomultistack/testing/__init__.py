"""Tests of asyncio programs against a broken network, in virtual time.

    from aiomultistack.testing import Network

    def test_client_gives_up() -> None:
        with Network(seed=1, loss=0.1) as network:
            network.host("server").start(serve())
            network.run(client("server"))

A `Network` has hosts with a TCP/IP stack each, and links that lose, delay, reorder, duplicate and damage frames.
The programs under test are ordinary asyncio: nothing in them is mocked.  Time is virtual: a test that waits ten
minutes for a time-out takes milliseconds.  With the same seed, the same happens each time.

With pytest, the fixture ``virtual_network`` is a `Network`, and tests that ask for it may be coroutines.  With
unittest, `NetworkTestCase` has one in ``self.network``.  docs/testing.md has the whole story.
"""

from __future__ import annotations

from ._frames import Frame
from ._hosts import Host
from ._links import Faults
from ._network import BackgroundTaskError, DeadlockError, Network, Partition, VirtualTimeoutError
from ._unittest import NetworkTestCase

__all__ = [
    "BackgroundTaskError",
    "DeadlockError",
    "Faults",
    "Frame",
    "Host",
    "Network",
    "NetworkTestCase",
    "Partition",
    "VirtualTimeoutError",
]
