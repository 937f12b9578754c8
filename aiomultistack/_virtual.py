"""A loop in virtual time: for tests, simulations, and anything that must come out the same each time.

The selector never waits: when no descriptor is ready it moves the clock to the loop's next timer.  The engine gets
the same clock, so that a ``mem:`` hub with delays and losses runs as fast as the machine can, and with a seed it
runs the same way each time.

Other threads live in real time.  While an executor works (name resolution does), time stands still.  What a thread
hands over with `call_soon_threadsafe`, the executors' results among it, waits until nothing else is left to do at
this instant, so that the moment of its arrival makes no difference.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ._config import Config
from ._factory import SelectorLoop, open_node
from ._node import Node

__all__ = ["VirtualLoop", "VirtualSelector", "new_virtual_loop"]

_START = 1_000_000_000  # nanoseconds; not 0, which asks the engine to read the system's clock


class VirtualSelector(selectors.BaseSelector):
    """A selector whose waiting is counted, not done."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self.now_ns = _START
        #: While it isn't 0, time stands still and the selector waits truly.
        self.held = 0
        #: Called when nothing is left to do at this instant; true if it found something.
        self.on_idle: Callable[[], bool] | None = None
        #: Called when nothing will ever be runnable by itself; may raise.
        self.on_stalled: Callable[[], None] | None = None
        #: Called before the clock moves, with the nanoseconds to come; may raise.
        self.on_advance: Callable[[int], None] | None = None

    def now(self) -> int:
        """Virtual time in nanoseconds."""
        return self.now_ns

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; if nothing is, `timeout` seconds pass at once.  Without a timeout it waits truly."""
        ready = self._real.select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.on_idle is not None and self.on_idle():
            return []
        if self.held:
            return self._real.select(None)
        if timeout is None:
            if self.on_stalled is not None:
                self.on_stalled()
            return self._real.select(None)
        step = max(1, round(timeout * 1e9))
        if self.on_advance is not None:
            self.on_advance(step)
        self.now_ns += step
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As `selectors.BaseSelector`."""
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As `selectors.BaseSelector`."""
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As `selectors.BaseSelector`."""
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """As `selectors.BaseSelector`."""
        return self._real.get_map()

    def close(self) -> None:
        """As `selectors.BaseSelector`."""
        self._real.close()


class VirtualLoop(SelectorLoop):
    """Our loop in virtual time."""

    def __init__(self, node: Node, selector: VirtualSelector) -> None:
        self._virtual = selector
        self._inbox: deque[asyncio.Handle] = deque()
        selector.on_idle = self._take_inbox
        super().__init__(node, selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now_ns / 1e9

    def call_soon_threadsafe(  # type: ignore[override]  # without type variables
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """`loop.call_soon_threadsafe()`: runs when nothing else is left to do at this instant."""
        self._check_closed()  # type: ignore[attr-defined]
        handle = asyncio.Handle(callback, args, self, context)
        self._inbox.append(handle)
        self._write_to_self()  # type: ignore[attr-defined]
        return handle

    def _take_inbox(self) -> bool:
        """Makes what other threads have handed over runnable."""
        if not self._inbox:
            return False
        while self._inbox:
            self._ready.append(self._inbox.popleft())  # type: ignore[attr-defined]
        return True

    def run_in_executor(  # type: ignore[override]  # without type variables
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """`loop.run_in_executor()`; it takes no virtual time."""
        future = super().run_in_executor(executor, func, *args)
        self._virtual.held += 1
        future.add_done_callback(self._release)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        """`loop.shutdown_default_executor()`; it takes no virtual time."""
        self._virtual.held += 1
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._virtual.held -= 1

    def _release(self, _: asyncio.Future[Any]) -> None:
        self._virtual.held -= 1


def new_virtual_loop(config: Config) -> VirtualLoop:
    """A loop in virtual time over a ``mem:`` port; `loop.multistack.attach()` adds further hosts to its hub."""
    selector = VirtualSelector()
    clock: Callable[[], int] = selector.now
    node = open_node(config.replace(control=False), clock)
    try:
        return VirtualLoop(node, selector)
    except BaseException:
        node.close()
        selector.close()
        raise
