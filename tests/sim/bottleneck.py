"""A simulator: engines that share a bottleneck, in virtual time.

Theory of operation
-------------------
Senders and one receiver are hosts on a hub (`tests.engine.world`).  What the receiver is sent passes one line with
a rate, a queue, a delay and faults: the bottleneck.  Each sender has a line of the same kind for what it is sent,
the acknowledgements.  Every decision of the lines comes from one seed, so a run is repeatable to the last frame.

Each sender keeps its send queue filled from the start to the end.  The faults begin once all are connected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiomultistack._native import ffi, lib
from engine.world import MS, SECOND, Connection, World

__all__ = ["MS", "SECOND", "Bottleneck", "Outcome", "jain"]

SERVER = "10.1.0.1"
# What is rolled for each frame is for those of TCP: reports of groups would move all that follows.
FLAGS = lib.AMS_STACK_NO_DAD | lib.AMS_STACK_NO_REPORTS
FRAME = 1514
_CHUNK = 1 << 18
_REFILL = 1 << 17
_STEP = 20 * MS


@dataclass(frozen=True)
class Bottleneck:
    """What is simulated; times in ns."""

    congestion: tuple[str, ...] = ("cubic",)  #: one name for each flow
    rate_bps: int = 20_000_000
    rtt: int = 20 * MS
    loss: float = 0.0
    duration: int = 30 * SECOND
    warm_up: int = 0  #: not counted in goodput
    seed: int = 1
    queue_frames: int = 0  #: 0: a bandwidth-delay product, at least 20
    faults: dict[str, Any] = field(default_factory=dict)  #: further fields of struct ams_impairment
    config: dict[str, Any] = field(default_factory=dict)  #: of every stack

    @property
    def queue(self) -> int:
        """Frames that the queue holds."""
        return self.queue_frames or max(20, self.rate_bps * self.rtt // (8 * FRAME * SECOND))

    def link(self) -> dict[str, Any]:
        """Fields of struct ams_impairment without faults."""
        return {"rate_bps": self.rate_bps, "queue_frames": self.queue, "delay_ns": self.rtt // 2}

    def run(self) -> Outcome:
        """Simulates it."""
        with World(self.seed, **self.link()) as world:
            world.checked = False  # the soak looks for contradictions; here they would cost most of the time
            return _run(self, world)


@dataclass(frozen=True)
class Outcome:
    """What came of it, all flows together; rates in bit/s."""

    goodput: tuple[float, ...]  #: of each flow
    segments: int  #: sent by all
    retransmitted: int
    spurious: int  #: segments that the receiver had already
    timeouts: int
    undone: int  #: reductions that were taken back
    marked: int  #: reductions because of ECN's marks

    @property
    def total(self) -> float:
        """Goodput of all flows in bit/s."""
        return sum(self.goodput)


def jain(shares: tuple[float, ...]) -> float:
    """Jain's index of fairness: 1 is equal shares, 1/n is one flow having all."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _run(what: Bottleneck, world: World) -> Outcome:
    server = world.host(f"{SERVER}/24", flags=FLAGS, **what.config)
    server.listen()
    names = [ffi.new("char[]", name.encode()) for name in what.congestion]
    senders = [
        world.host(f"10.1.0.{index + 2}/24", congestion=name, flags=FLAGS, **what.config)
        for index, name in enumerate(names)
    ]
    flows = [sender.connect(SERVER) for sender in senders]
    assert world.run(30 * SECOND, lambda: len(server.accepted) == len(flows) and all(f.connected for f in flows))
    world.impair(**{**what.link(), "loss": what.loss, **what.faults})
    chunk = ffi.new("char[]", _CHUNK)
    received: list[int] = [0] * len(flows)
    end = world.now + what.duration
    counting = world.now + what.warm_up
    while world.now < end:
        for flow in flows:
            _refill(flow, chunk)
        world.run(min(_STEP, end - world.now))
        _collect(server.accepted, received, count=world.now > counting)
    seconds = (what.duration - what.warm_up) / SECOND
    order = _order(server.accepted, flows)
    totals = [sender.counters() for sender in senders]
    return Outcome(
        goodput=tuple(received[order[i]] * 8 / seconds for i in range(len(flows))),
        segments=sum(total["stack.tcp_tx"] for total in totals),
        retransmitted=sum(total["stack.tcp_retrans"] for total in totals),
        spurious=server.counters()["stack.tcp_dup_data"],
        timeouts=sum(total["stack.tcp_rto"] for total in totals),
        undone=sum(total["stack.tcp_undo"] for total in totals),
        marked=sum(total["stack.tcp_ecn_reduced"] for total in totals),
    )


def _refill(flow: Connection, chunk: Any) -> None:
    while lib.ams_tcp_excess(flow.host.stack, flow.id) < _REFILL:
        assert lib.ams_tcp_send(flow.host.stack, flow.id, chunk, _CHUNK) >= 0


def _collect(accepted: list[Connection], received: list[int], *, count: bool) -> None:
    for index, connection in enumerate(accepted):
        if count:
            received[index] += len(connection.received)
        connection.received.clear()


def _order(accepted: list[Connection], flows: list[Connection]) -> list[int]:
    """For each flow the index of its other end."""
    ports = []
    remote = ffi.new("struct ams_endpoint *")
    for connection in accepted:
        assert lib.ams_tcp_remote(connection.host.stack, connection.id, remote) == 0
        ports.append((bytes(remote.ip), int(remote.port)))
    out = []
    for flow in flows:
        assert lib.ams_tcp_local(flow.host.stack, flow.id, remote) == 0
        out.append(ports.index((bytes(remote.ip), int(remote.port))))
    return out
