"""The pump: moves frames and events between one node and one loop.

Theory of operation
-------------------
The node's descriptor is watched with the loop's `add_reader`.  When it is readable, or the engine's deadline
has come, `dispatch` takes a batch: one `ams_node_poll` receives frames, runs timers and writes events, four
integers each, and the data of short reads back to back into a blob.  Events go straight to the endpoints'
methods, in order; there is no object per event, and a plain data event costs a list look-up, one slice and the
call of the protocol's method in its context.

`endpoints` maps the engine's ids to objects with this interface (`Endpoint`):

    _run(callable, *args)  runs in the endpoint's context
    _on_data(data)         what a data event calls; a transport points it at its protocol's data_received, at a
                           queue while it is paused, and at nothing once it is closed
    _event(bits, aux, data)  every other event
    _fatal_error(exc, message)  a callback raised
    _detach()              the node is going away: don't touch the engine again

An id without an endpoint maps to `NOBODY`, which ignores whatever comes.

Frames that the engine wants to send wait for `ams_node_flush`.  It is called once per batch at most: a method
that gave the engine something to send calls `touch()`.  During a dispatch that only sets a flag, and the flush
comes at the batch's end; otherwise `flush` is the loop's next callback.  A batch in which nobody wrote is
flushed by a callback too: tasks that the batch has woken run before it, so that acknowledgements ride on their
answers.

Pumps of one loop whose ports are on one hub are *siblings*.  A frame between them signals no descriptor (that would
be two system calls for each): whoever has flushed looks for siblings that got something, and kicks them.

A loop that runs while its process forks stays the parent's, as does the device: the child's copy of the engine must not
speak for the same connections.  Its pumps have nothing to drive any more, and closing them tells nobody.

There is one timer.  It is armed anew only if the engine's deadline is earlier than the one armed; a timer that
comes too early finds nothing due, and is armed for what is next then.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ._addresses import SockAddr, plain
from ._congestion import Deputies
from ._errors import PortError
from ._node import Node, ffi, lib, status_error

__all__ = ["NOBODY", "Endpoint", "Pump"]

EVENTS = 512  # events taken at once
FULL = EVENTS - 4  # beyond it there may be more: an endpoint's events (four at most) are never torn apart
BLOB = 1 << 20  # bytes of short reads taken at once
ROUNDS = 8  # batches in one dispatch before the loop's other callbacks get their turn
SCRATCH = 1 << 18  # bytes of one long read: asyncio's own max_size

ACCEPTED: int = lib.AMS_EV_ACCEPTED
CONNECTED: int = lib.AMS_EV_CONNECTED
DATA: int = lib.AMS_EV_DATA
READABLE: int = lib.AMS_EV_READABLE
EOF: int = lib.AMS_EV_EOF
DRAINED: int = lib.AMS_EV_DRAINED
REFS: int = lib.AMS_EV_REFS
CLOSED: int = lib.AMS_EV_CLOSED
RELEASED: int = lib.AMS_EV_RELEASED
CONGESTION: int = lib.AMS_EV_CONGESTION

NEVER: int = lib.AMS_NEVER


class Endpoint(Protocol):
    """What the pump needs of an endpoint."""

    @property
    def _run(self) -> Callable[..., Any]: ...
    @property
    def _on_data(self) -> Callable[[bytes], Any]: ...
    def _event(self, bits: int, aux: int, data: bytes) -> None: ...
    def _fatal_error(self, exc: BaseException, message: str) -> None: ...
    def _detach(self) -> None: ...


class _Nobody:
    """The endpoint of an id that nobody has."""

    def _run(self, *_: Any) -> None:
        pass

    def _on_data(self, data: bytes) -> None:
        pass

    def _event(self, bits: int, aux: int, data: bytes) -> None:
        pass

    def _fatal_error(self, exc: BaseException, message: str) -> None:
        pass

    def _detach(self) -> None:
        pass


NOBODY: Endpoint = _Nobody()

#: The pumps of this process, for those that it forks.
_pumps: weakref.WeakSet[Pump] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a child that was forked: what the parent is in the midst of isn't ours."""
    for pump in list(_pumps):
        if pump.loop.is_running():
            pump.abandon()


os.register_at_fork(after_in_child=_leave_to_parent)


class Pump:
    """Drives one node from one loop."""

    __slots__ = (
        "__weakref__", "_armed", "_backlog", "_blob", "_blob_view", "_clock", "_deputies", "_dirty", "_dispatching",
        "_events", "_fd", "_handle", "_numbers", "_pointer", "_port", "_round_begins", "_served", "_siblings", "_timer",
        "broken", "endpoints", "local", "loop", "names", "node", "remote", "round", "scratch", "scratch_view", "stack",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, node: Node) -> None:
        self.loop = loop
        self.node = node
        self.stack = node.stack
        self.endpoints: list[Endpoint] = [NOBODY] * 64
        self.broken: OSError | None = None
        self.scratch = ffi.new("char[]", SCRATCH)
        self.scratch_view = ffi.buffer(self.scratch)
        names = ffi.new("struct ams_endpoint[2]")
        self.names = ffi.buffer(names)
        self.local, self.remote = names, names + 1
        self._pointer = node.pointer
        self._clock = node.clock
        self._deputies = node.deputies = Deputies(node, loop.call_exception_handler)
        if node.config.congestion is not None:
            self._deputies.choose(node.config.congestion)
        self._events = ffi.new("int32_t[]", EVENTS * lib.AMS_EVENT_WORDS)
        self._numbers = memoryview(ffi.buffer(self._events)).cast("i")
        self._blob = ffi.new("char[]", BLOB)
        self._blob_view = ffi.buffer(self._blob)
        self._backlog: list[tuple[int, int, int, bytes]] = []
        self._served: dict[tuple[int, str, int], int] = {}
        #: Changes between the batch that has brought a connection and the first one after the loop's next callbacks.
        self.round = 0
        self._round_begins = False
        self._dirty = False
        self._dispatching = False
        self._armed = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._handle: asyncio.Handle | None = None
        self._port = lib.ams_node_port(self._pointer)
        self._siblings: tuple[Pump, ...] = ()
        self._fd = node.fileno()
        if self._fd >= 0:
            loop.add_reader(self._fd, self.dispatch)
        _pumps.add(self)
        self.kick()

    def join(self, others: Iterable[Pump]) -> None:
        """Becomes a sibling of those of the loop's other pumps that are on the same hub."""
        for other in others:
            if other is not self and self.node.hub is not None and other.node.hub is self.node.hub:
                for one, two in ((self, other), (other, self)):
                    one._siblings += (two,)
                    lib.ams_port_set_group(one._port, id(self.loop))

    def leave(self) -> None:
        """Is nobody's sibling any more: descriptors tell of everything again."""
        siblings, self._siblings = self._siblings, ()
        for sibling in siblings:
            sibling._siblings = tuple(item for item in sibling._siblings if item is not self)
        if self._pointer is not None:
            lib.ams_port_set_group(self._port, 0)

    # ---- endpoints ----------------------------------------------------------------------------------------

    def attach(self, number: int, endpoint: Endpoint) -> None:
        """Gives an id its endpoint."""
        endpoints = self.endpoints
        if number >= len(endpoints):
            endpoints.extend([NOBODY] * (number + 1 - len(endpoints) + len(endpoints) // 2))
        endpoints[number] = endpoint

    def serve(self, kind: int, address: SockAddr | None, count: int, dual: bool = False) -> None:
        """Notes that a listener or a UDP endpoint (kind) is bound to an address (count 1), or no longer (-1).

        dual: the address is IPv6's wildcard, and stands for IPv4's too.
        """
        if address is None:
            return
        host, port = plain(address)[:2]
        for key in [(kind, host, port), (kind, "0.0.0.0", port)][: 1 + dual]:
            self._served[key] = self._served.get(key, 0) + count
            if not self._served[key]:
                del self._served[key]

    def serves(self, kind: int, address: tuple[Any, ...]) -> bool:
        """True if somebody here is bound to an address, or to its family's wildcard."""
        wildcard = "::" if ":" in address[0] else "0.0.0.0"
        return any((kind, host, address[1]) in self._served for host in (address[0], wildcard))

    async def between_batches(self) -> None:
        """Waits for the end of the batch, if one is being delivered (to a task that runs eagerly).

        Whoever makes a new endpoint has to: its id may be one that this batch has just freed, and for which
        the batch holds further events.
        """
        while self._dispatching:  # noqa: ASYNC110 -- there is no event: the batch ends when its callbacks have
            await asyncio.sleep(0)

    # ---- the batch ----------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Takes what has arrived or is due, calls the endpoints, and sends what they wrote."""
        if self._dispatching or self._pointer is None:
            return
        self._dispatching = True
        try:
            if self._backlog:
                self._replay()
            self._batches()
        except BaseException:  # somebody interrupts the loop: what is left comes first in its next run
            if not self.loop.is_closed():
                self.kick()
            raise
        finally:
            self._dispatching = False
            if self._round_begins:
                self._round_begins = False
                self.loop.call_soon(self._next_round)
        if self.broken is not None:
            self._dirty = False  # nothing leaves any more
        elif self._dirty:
            self.flush()
        else:
            self.touch()

    def begin_round(self) -> int:
        """The number of a round that ends when the loop has run what this batch's callbacks have scheduled."""
        self._round_begins = True
        return self.round

    def _next_round(self) -> None:
        self.round += 1

    def _batches(self) -> None:
        """The hot path: polls and delivers until nothing is left, or the loop's others have waited enough."""
        endpoints, events, numbers, view = self.endpoints, self._events, self._numbers, self._blob_view
        now = 0 if self._clock is None else self._clock()
        for _ in range(ROUNDS):
            count = lib.ams_node_poll(self._pointer, now, events, EVENTS, self._blob, BLOB)
            if count <= 0:
                if count < 0:
                    self._break(count)
                return
            words = iter(numbers[: count * 4].tolist())
            offset = 0
            number = bits = aux = 0
            data = b""
            try:
                for number, bits, aux, length in zip(words, words, words, words):  # noqa: B905 -- always in fours
                    if bits == DATA:
                        end = offset + length
                        data = view[offset:end]
                        offset = end
                        endpoint = endpoints[number]
                        try:
                            endpoint._run(endpoint._on_data, data)
                        except (SystemExit, KeyboardInterrupt):
                            raise
                        except BaseException as exc:
                            endpoint._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
                    else:
                        end = offset + length
                        data = view[offset:end]
                        offset = end
                        self._deliver(number, bits, aux, data)
            except BaseException:
                self._keep(words, offset)
                raise
            if self._pointer is None or (count <= FULL and offset < BLOB // 2):
                return
        self.kick()

    def _deliver(self, number: int, bits: int, aux: int, data: bytes) -> None:
        """Any event but the plain data event."""
        if bits & ACCEPTED:
            self.attach(number, NOBODY)
            listener = self.endpoints[aux]
            if listener is NOBODY:  # closed by a callback of this batch
                lib.ams_tcp_abort(self.stack, number)
                self._dirty = True
            else:
                listener._accept(number)  # type: ignore[attr-defined]
        self.endpoints[number]._event(bits, aux, data)
        if bits & (CONGESTION | RELEASED):
            if bits & RELEASED:
                self._deputies.forget(number)
            else:
                self._deputies.ask(number)
                self._dirty = True

    def _keep(self, words: Any, offset: int) -> None:
        """Somebody interrupts the loop (KeyboardInterrupt): saves the rest of the batch for its next run."""
        for number, bits, aux, length in zip(words, words, words, words):  # noqa: B905 -- always in fours
            self._backlog.append((number, bits, aux, self._blob_view[offset : offset + length]))
            offset += length

    def _replay(self) -> None:
        """Delivers what `_keep` saved."""
        backlog = self._backlog
        while backlog:
            self._deliver(*backlog.pop(0))

    def kick(self) -> None:
        """Asks for a dispatch in the next iteration, because the engine has something to say."""
        if self._handle is None:
            self._handle = self.loop.call_soon(self._kicked)

    def _kicked(self) -> None:
        self._handle = None
        self.dispatch()

    # ---- sending and time ---------------------------------------------------------------------------------

    def touch(self) -> None:
        """The engine has something to send: at the end of this batch, or soon."""
        if not self._dirty:
            if not self._dispatching:
                self.loop.call_soon(self.flush)  # raises in debug mode, if called by another thread
            self._dirty = True

    def flush(self) -> None:
        """Sends what may be sent, and arms the timer for what is next."""
        if not self._dirty or self._dispatching:
            return
        self._dirty = False
        if self._pointer is None:
            return
        if self.broken is not None:
            self.kick()  # whoever wants to send learns of it there
            return
        deadline = lib.ams_node_flush(self._pointer, 0 if self._clock is None else self._clock())
        if deadline < self._armed:
            self._arm(deadline)
        for sibling in self._siblings:
            if sibling._handle is None and lib.ams_port_waiting(sibling._port):
                sibling.kick()

    def _arm(self, deadline: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = time.monotonic_ns() if self._clock is None else self._clock()
        self._armed = deadline
        self._timer = self.loop.call_later(max(0, deadline - now) / 1e9, self._expired)

    def _expired(self) -> None:
        self._timer = None
        self._armed = NEVER
        self.dispatch()

    # ---- the end ------------------------------------------------------------------------------------------

    def _break(self, status: int) -> None:
        """The port is broken for good: every endpoint loses its connection, and the port isn't watched any more.

        The loop's exception handler is told once; an endpoint that is opened later comes here too, and fails.
        """
        if self.broken is None:
            self.broken = error = PortError(lib.ams_status_errno(status), f"{self.node.config.port}: the port is gone")
            self._unwatch()
            self.loop.call_exception_handler(
                {"message": "The port of the user-space stack is gone", "exception": error}
            )
        for endpoint in [item for item in self.endpoints if item is not NOBODY]:
            endpoint._fatal_error(status_error(status), "The port is gone")

    def _unwatch(self) -> None:
        if self._fd >= 0:
            self.loop.remove_reader(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Drives nothing any more, and leaves port and selector as they are: they are another process's."""
        self._pointer = self._port = self.stack = None
        self._fd = -1
        self.node.abandon()

    def close(self) -> None:
        """Detaches every endpoint and closes the node; the loop must still be open.  Idempotent."""
        if self._pointer is None:
            return
        self._unwatch()
        self.leave()
        for handle in (self._timer, self._handle):
            if handle is not None:
                handle.cancel()
        self._timer = self._handle = None
        for endpoint in [item for item in self.endpoints if item is not NOBODY]:
            endpoint._detach()
        self.endpoints.clear()
        self._backlog.clear()
        self._pointer = self._port = self.stack = None
        self.node.close()
