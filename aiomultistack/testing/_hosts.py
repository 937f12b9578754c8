"""Hosts of a virtual network.

A host is a machine: a name, addresses, a TCP/IP stack.  A `Life` is what runs on it between its start and its end:
every task and callback carries the life it belongs to in its context, which is how the loop knows whose stack a
connection is to use.  A task belongs to the host on which the task that made it runs, as threads do to a process.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from .._config import Config
from .._factory import open_node
from .._hub import Hub
from .._node import EndpointInfo
from .._pump import Pump
from .._rawport import RawPort

if TYPE_CHECKING:
    from ._network import Network

__all__ = ["Host", "Life", "current_life"]

_T = TypeVar("_T")
_hub_numbers = itertools.count()

#: The lives that code runs in, the innermost last: `with host:` adds one.
_lives: contextvars.ContextVar[tuple[Life, ...]] = contextvars.ContextVar("aiomultistack_lives", default=())


def current_life(context: contextvars.Context | None = None) -> Life | None:
    """The life that code in a context (None: this one) belongs to."""
    lives = _lives.get() if context is None else context.get(_lives, ())
    return lives[-1] if lives else None


class Life:
    """A host between its start and its end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ended = False
        #: Tasks that run in it, in the order in which they were made.
        self.tasks: dict[asyncio.Task[Any], None] = {}
        #: Tasks of `Host.start()`, whose failures a test must hear of.
        self.background: list[asyncio.Task[Any]] = []

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Notes that a task belongs here."""
        if not task.done():
            self.tasks[task] = None
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.pop(task, None)

    def end(self) -> None:
        """Its timers never fire, its tasks are cancelled."""
        self.ended = True
        self.host.network.loop.cancel_timers(self)
        for task in list(self.tasks):
            task.cancel()


class Host:
    """A machine in a virtual network; `Network.host()` makes it.

    ``with host:`` runs the code in it on this host, `run` and `start` run coroutines there.
    """

    def __init__(self, network: Network, name: str, addresses: tuple[str, ...], index: int) -> None:
        #: The network that it is in.
        self.network = network
        #: What other hosts call it.
        self.name = name
        #: Its addresses, numeric.
        self.addresses = tuple(address.partition("/")[0] for address in addresses)
        #: Its Ethernet address.
        self.mac = f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}"
        self._config = Config(
            f"mem:virtual-{next(_hub_numbers)}-{name}",
            addresses,
            mac=self.mac,
            seed=network.seed & ((1 << 64) - 1),
            congestion=network.congestion,
            control=False,
        )
        self._hub = Hub(self._config.port_name, seed=0, offload=False, mtu=network.mtu)
        self._starts = 0
        self.port = RawPort(self._hub)
        self._pump: Pump | None = None
        self.life = Life(self)
        self._boot()

    def __repr__(self) -> str:
        return f"<Host {self.name!r} {' '.join(self.addresses)}{'' if self.up else ' down'}>"

    # ---- running code -------------------------------------------------------------------------------------

    def __enter__(self) -> Host:
        _lives.set((*_lives.get(), self.life))
        return self

    def __exit__(self, *exc: object) -> None:
        _lives.set(_lives.get()[:-1])

    async def run(self, coro: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine on this host, as a task, and returns its result."""
        return await self._task(coro, None)

    def start(self, coro: Coroutine[Any, Any, _T], *, name: str | None = None) -> asyncio.Task[_T]:
        """Starts a coroutine on this host, to run beside the test: a server, for instance.

        It is cancelled when the test ends.  If it fails before, and nobody asks for its exception, the test fails.
        """
        task = self._task(coro, name)
        self.life.background.append(task)
        return task

    def _task(self, coro: Coroutine[Any, Any, _T], name: str | None) -> asyncio.Task[_T]:
        with self:
            return self.network.loop.create_task(coro, name=name)

    # ---- failing ------------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """False between `crash` and `restart`."""
        return self._pump is not None

    @property
    def pump(self) -> Pump | None:
        """What drives its stack; None while it is down."""
        return self._pump

    def crash(self) -> None:
        """The power fails: its code stops, its stack is gone, its peers hear nothing.

        Its tasks are cancelled (Python can't stop them in any other way), but whatever they do about it stays on
        this host; `restart` brings it back.  Does nothing if it is down.
        """
        pump, self._pump = self._pump, None
        if pump is None:
            return
        self.life.end()
        self.network.loop.remove_pump(pump)

    def kill(self) -> None:
        """Its program is killed, as by ``kill -9``: the machine closes its connections, and goes on.

        `restart` starts another program.  Its tasks are cancelled.
        """
        if self._pump is None or self.life.ended:
            return
        self.life.end()
        self.network.loop.close_endpoints(self._pump)

    def restart(self) -> None:
        """Starts it again after `crash`, with a new stack, or after `kill`; crashes it first if it runs.

        Nothing runs on it then: start its program with `start` or `run`.
        """
        if self._pump is not None and not self.life.ended:
            self.crash()
        self.life = Life(self)
        if self._pump is None:
            self._boot()

    def _boot(self) -> None:
        self._starts += 1
        seed = (self.network.seed + (self._starts << 64)) & ((1 << 128) - 1)
        self._pump = self.network.drive(open_node(self._config.replace(seed=seed), self.network.clock))

    def close(self) -> None:
        """Ends it for good; `Network.close()` calls it."""
        self.crash()
        self.port.close()

    # ---- what it knows ------------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """The counters of its stack by name, all since its last start; empty while it is down."""
        return {} if self._pump is None else self._pump.node.counters()

    def connections(self) -> list[EndpointInfo]:
        """Its TCP connections, listeners left out."""
        infos = [] if self._pump is None else self._pump.node.endpoints()
        return [info for info in infos if info.protocol == 6 and info.state_name != "LISTEN"]
