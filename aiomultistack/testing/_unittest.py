"""`unittest.IsolatedAsyncioTestCase` on a virtual network."""

from __future__ import annotations

import asyncio
import sys
import unittest
import zlib
from typing import Any

from ._network import Network

__all__ = ["NetworkTestCase"]


class NetworkTestCase(unittest.IsolatedAsyncioTestCase):
    """Test methods, `asyncSetUp` and `asyncTearDown` run in virtual time, each test on a network of its own.

    `network` is the running test's `Network`; `network_options` are the arguments that it is made with.  The seed,
    if they name none, comes from the test's name.
    """

    #: Arguments of `Network`.
    network_options: dict[str, Any] = {}
    #: The running test's network.
    network: Network

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Runs the test; `unittest` calls it."""
        options = {"seed": zlib.crc32(self.id().encode()), **self.network_options}
        with Network(**options) as self.network:
            if sys.version_info >= (3, 13):
                self.loop_factory = self.network.loop_factory
                return super().run(result)
            before = asyncio.get_event_loop_policy()
            asyncio.set_event_loop_policy(_one_loop_policy(self.network))
            try:
                return super().run(result)
            finally:
                asyncio.set_event_loop_policy(before)


def _one_loop_policy(network: Network) -> asyncio.AbstractEventLoopPolicy:
    """Hands out a network's loop where this Python's test case has no other way to choose one."""

    class OneLoop(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return network.loop

    return OneLoop()
