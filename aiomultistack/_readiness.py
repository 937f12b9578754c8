"""Who waits for what: readiness of the stack's endpoints that programs use as sockets.

A kernel socket's readiness comes from the selector; that of an endpoint of the user-space stack from its events.
`Readiness` turns these into what asyncio has for sockets: futures for `loop.sock_recv()` and its kind, and callbacks
for `loop.add_reader()` and `loop.add_writer()`, which are level-triggered there and here: a callback is called once
in each iteration of the loop, as long as the endpoint is ready.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._pump import Pump

__all__ = ["Readiness"]

READ, WRITE = 0, 1


class Readiness:
    """Base of endpoints that can be waited for.

    All events wake whoever waits; each waiter looks for itself at what has changed.
    """

    __slots__ = ("_callbacks", "_scheduled", "_waiters", "pump")

    def __init__(self, pump: Pump) -> None:
        self.pump = pump
        self._waiters: list[asyncio.Future[None]] = []
        self._callbacks: list[asyncio.Handle | None] | None = None  # of add_reader() and add_writer()
        self._scheduled = False

    def readable(self) -> bool:
        """True if receiving (or accepting) would not block."""
        raise NotImplementedError

    def writable(self) -> bool:
        """True if sending would not block."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Something has changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._callbacks is not None:
            self._schedule()

    async def wait(self) -> None:
        """Waits until something has changed."""
        waiter = self.pump.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled() and waiter in self._waiters:
                self._waiters.remove(waiter)

    # ---- add_reader() and add_writer() --------------------------------------------------------------------

    def watch(self, way: int, callback: Any, args: tuple[Any, ...]) -> asyncio.Handle:
        """Has a callback called while the endpoint is ready for READ or WRITE; it replaces an earlier one."""
        handle = asyncio.Handle(callback, args, self.pump.loop)
        if self._callbacks is None:
            self._callbacks = [None, None]
        earlier, self._callbacks[way] = self._callbacks[way], handle
        if earlier is not None:
            earlier.cancel()
        self._schedule()
        return handle

    def unwatch(self, way: int) -> bool:
        """Forgets a callback; False if there is none."""
        handle = None if self._callbacks is None else self._callbacks[way]
        if handle is None:
            return False
        assert self._callbacks is not None
        handle.cancel()
        self._callbacks[way] = None
        if self._callbacks == [None, None]:
            self._callbacks = None
        return True

    def unwatch_all(self) -> None:
        """Forgets all callbacks, as the selector does of a descriptor that is closed."""
        self.unwatch(READ)
        self.unwatch(WRITE)

    def _schedule(self) -> None:
        if not self._scheduled and not self.pump.loop.is_closed():
            self._scheduled = True
            self.pump.loop.call_soon(self._call)

    def _call(self) -> None:
        """Calls the callbacks whose time has come, and comes back while one of them stays ready."""
        self._scheduled = False
        called = False
        for way, ready in ((READ, self.readable), (WRITE, self.writable)):
            handle = None if self._callbacks is None else self._callbacks[way]
            if handle is not None and not handle.cancelled() and ready():
                called = True
                handle._run()
        if called and self._callbacks is not None:
            self._schedule()
