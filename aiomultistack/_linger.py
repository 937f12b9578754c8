"""What connections that were closed have yet to send when their loop closes.

Theory of operation
-------------------
A program writes its last answer, closes its transports and ends.  With the system's TCP that is enough: the kernel
goes on sending when the process is gone.  A user-space stack goes with its process, so closing the loop has to wait
for it: until the peers have acknowledged all data and the FIN of every connection that the program had closed.
That includes transports that were closed with a full write buffer: what is in it is the engine's already.
Connections that are open still are not waited for; closing the node resets them.

The wait ends early if nothing at all arrives for `SILENCE` (the peers are gone), and after `PATIENCE` at the latest.
It takes place after the loop's last iteration, so no callback of the program runs: events are taken and dropped.

In virtual time nothing is waited for: it stands still unless the loop runs.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from ._node import Node, ffi, lib
from ._transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._pump import Pump

__all__ = ["linger"]

PATIENCE = 10.0  # seconds in all
SILENCE = 1.0  # seconds without a frame: longer than a retransmission timeout on a working network

_EVENTS = 256
_BLOB = 1 << 18
#: States in which an endpoint without an owner has sent something that the peer has not acknowledged.
_SENDING = (
    lib.AMS_TCP_SYN_RECEIVED, lib.AMS_TCP_ESTABLISHED, lib.AMS_TCP_CLOSE_WAIT,
    lib.AMS_TCP_FIN_WAIT_1, lib.AMS_TCP_CLOSING, lib.AMS_TCP_LAST_ACK,
)  # fmt: skip


def linger(pumps: Iterable[Pump]) -> None:
    """Drives nodes until their closed connections have sent everything.  To be called when no loop does."""
    alive = [pump for pump in pumps if not pump.node.closed and pump.node.clock is None]
    for pump in alive:
        for endpoint in [item for item in pump.endpoints if isinstance(item, Transport)]:
            if endpoint._closing and not endpoint._conn_lost:
                endpoint._shut(None)
        pump.leave()
    _drive([pump.node for pump in alive])


def _drive(nodes: list[Node]) -> None:
    """Polls and flushes nodes until all have finished, or nobody listens any more; they may be each other's peers."""
    end = time.monotonic() + PATIENCE
    quiet_end = time.monotonic() + SILENCE
    events, blob = ffi.new("int32_t[]", _EVENTS * lib.AMS_EVENT_WORDS), ffi.new("char[]", _BLOB)
    poller = select.poll()
    for node in nodes:
        poller.register(node.fileno(), select.POLLIN)
    while any(map(_unfinished, nodes)) and time.monotonic() < min(end, quiet_end):
        deadlines = []
        for node in nodes:
            if lib.ams_node_poll(node.pointer, lib.AMS_NOW, events, _EVENTS, blob, _BLOB) < 0:
                return
            deadlines.append(lib.ams_node_flush(node.pointer, lib.AMS_NOW))
        wait = min(min(deadlines) / 1e9, end, quiet_end) - time.monotonic()
        if poller.poll(max(0, wait * 1000)):
            quiet_end = time.monotonic() + SILENCE


def _unfinished(node: Node) -> bool:
    """True if a connection that the program has closed has data or a FIN that was not acknowledged."""
    size = lib.ams_stack_list(node.stack, ffi.NULL, 0, lib.AMS_NOW)
    infos = ffi.new("struct ams_tcp_info[]", max(size, 1))
    count = min(lib.ams_stack_list(node.stack, infos, size, lib.AMS_NOW), size)
    return any(infos[index].id < 0 and infos[index].state in _SENDING for index in range(count))
