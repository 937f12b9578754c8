"""Congestion controls written in Python.

Theory of operation
-------------------
The engine asks nobody while it works.  It gathers what happens to a connection, and once per round trip, or at
once when something is lost, it raises an event (native/stack/cc_external.c).  The pump then takes the report,
gives it to the connection's `CongestionControl`, and hands the answer, window and pacing rate, back.  However fast
a connection is, that is one call per round trip.

Classes are registered by name, for all loops of the process; each stack learns the names when it is made, or when a
socket asks for one (TCP_CONGESTION).  An instance belongs to one connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ._node import check_status, congestion_names, ffi, lib
from ._node import python_congestion as _registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._node import Node

__all__ = ["CongestionControl", "CongestionReport", "Deputies", "register_congestion_control"]

_NO_SSTHRESH = 0xFFFFFFFF
_NS = 1e-9

_START, _ACK, _LOSS, _RTO = lib.AMS_CC_START, lib.AMS_CC_ACK, lib.AMS_CC_LOSS, lib.AMS_CC_RTO
_ECN, _UNDO, _IDLE = lib.AMS_CC_ECN, lib.AMS_CC_UNDO, lib.AMS_CC_IDLE


@dataclass(frozen=True)
class CongestionReport:
    """What happened to a connection since its last report; bytes, seconds, bytes per second."""

    acked: int  #: bytes newly delivered
    lost: int  #: bytes thought lost, with a loss or a time-out
    in_flight: int  #: bytes in the network now
    rtt: float  #: the latest sample; 0.0: none yet
    min_rtt: float  #: the shortest sample since the last report; 0.0: none
    srtt: float  #: the smoothed round-trip time (RFC 6298); 0.0: none yet
    delivery_rate: float  #: the highest rate seen since the last report; 0.0: none
    duration: float  #: time since the last report


class CongestionControl:
    """Base class of congestion controls; one instance for each connection.

    The engine calls `on_ack` about once per round trip, the others when they happen.  Each may change `cwnd`,
    `ssthresh` and `pacing_rate`, which hold afterwards.  Loss detection, retransmission and recovery (RFC 8985,
    RFC 6937) remain the engine's.  An exception goes to the loop's exception handler, and the connection goes on
    with CUBIC.

        class Careful(aiomultistack.CongestionControl):
            name = "careful"

            def on_ack(self, report):
                self.cwnd += self.mss

        aiomultistack.register_congestion_control(Careful)
    """

    #: What `Config.congestion` and TCP_CONGESTION call it; at most 15 letters.
    name: ClassVar[str] = ""

    def __init__(self, mss: int, cwnd: int) -> None:
        self.mss = mss  #: bytes of payload in a segment; the engine keeps it up to date
        self.cwnd = cwnd  #: congestion window in bytes
        self.ssthresh: int | None = None  #: in bytes; None: no loss yet
        self.pacing_rate: float | None = None  #: bytes per second; None: no pacing

    def on_ack(self, report: CongestionReport) -> None:
        """A round trip is over, or data was acknowledged after something else had been reported."""
        raise NotImplementedError(f"{type(self).__name__} must define on_ack()")

    def on_loss(self, report: CongestionReport) -> None:
        """Something was lost.  `cwnd` is what it was before, times 0.7 already; the window after recovery."""
        self.ssthresh = self.cwnd

    def on_rto(self, report: CongestionReport) -> None:
        """The retransmission timer expired; `cwnd` is one segment already."""

    def on_ecn(self, report: CongestionReport) -> None:
        """The network signalled congestion (RFC 3168); as `on_loss` by default."""
        self.on_loss(report)

    def on_undo(self, report: CongestionReport) -> None:
        """What was reported as lost wasn't; `cwnd` is what it was before."""

    def on_idle(self, report: CongestionReport) -> None:
        """Sending begins again after a pause; the engine has made `cwnd` smaller (RFC 2861)."""


def register_congestion_control(cls: type[CongestionControl]) -> type[CongestionControl]:
    """Makes a congestion control known by its name; may be used as a class decorator.

    Raises ValueError if the name is empty, longer than 15 bytes, or taken by another class or the engine.
    """
    name = cls.name
    if not name or len(name.encode()) > 15:
        raise ValueError(f"{cls.__name__}.name must have 1 to 15 bytes, not {name!r}")
    if name in congestion_names() or _registry.get(name, cls) is not cls:
        raise ValueError(f"there is a congestion control {name!r} already: give {cls.__name__} another name")
    _registry[name] = cls
    return cls


class Deputies:
    """The congestion controls of one stack's connections."""

    __slots__ = ("_classes", "_instances", "_node", "_report", "_report_error")

    def __init__(self, node: Node, report_error: Callable[[dict[str, Any]], object]) -> None:
        self._node = node
        self._report_error = report_error
        self._classes: list[type[CongestionControl]] = []  # by the stack's index
        self._instances: dict[int, CongestionControl] = {}
        self._report = ffi.new("struct ams_cc_report *")

    def choose(self, name: str) -> None:
        """Makes a registered class the congestion control of the stack's new connections."""
        if name in _registry:
            self.learn(name)
            check_status(lib.ams_stack_set_congestion(self._node.stack, name.encode()))

    def learn(self, name: str) -> None:
        """Tells the stack of a class; does nothing if there is none of that name, or it knows it."""
        cls = _registry.get(name)
        if cls is not None and cls not in self._classes:
            index = check_status(lib.ams_congestion_register(self._node.stack, name.encode()))
            assert index == len(self._classes)
            self._classes.append(cls)

    def forget(self, number: int) -> None:
        """The connection with that id is gone."""
        self._instances.pop(number, None)

    def ask(self, number: int) -> None:
        """Takes a connection's report, and sets what its congestion control makes of it."""
        raw, stack = self._report, self._node.stack
        if stack is None or lib.ams_cc_report(stack, number, raw) < 0:
            return
        cls = self._classes[raw.algorithm]
        deputy = self._instances.get(number)
        try:
            if raw.what & _START or deputy.__class__ is not cls:
                deputy = self._instances[number] = cls(raw.mss, raw.cwnd)
            assert deputy is not None
            deputy.mss, deputy.cwnd = raw.mss, raw.cwnd
            deputy.ssthresh = None if raw.ssthresh == _NO_SSTHRESH else raw.ssthresh
            _tell(deputy, raw)
            ssthresh = _NO_SSTHRESH if deputy.ssthresh is None else min(max(0, int(deputy.ssthresh)), _NO_SSTHRESH)
            cwnd = min(max(0, int(deputy.cwnd)), _NO_SSTHRESH)
            lib.ams_cc_set(stack, number, cwnd, ssthresh, int(deputy.pacing_rate or 0))
        except Exception as exc:
            self._instances.pop(number, None)
            lib.ams_tcp_set_congestion(stack, number, b"cubic")
            self._report_error(
                {"message": f"The congestion control {cls.name!r} failed; its connection uses CUBIC", "exception": exc}
            )


def _tell(deputy: CongestionControl, raw: Any) -> None:
    """Calls what the report says has happened."""
    what = raw.what
    report = CongestionReport(
        acked=raw.acked,
        lost=raw.lost,
        in_flight=raw.in_flight,
        rtt=raw.rtt * _NS,
        min_rtt=raw.min_rtt * _NS,
        srtt=raw.srtt * _NS,
        delivery_rate=float(raw.delivery_rate),
        duration=raw.duration * _NS,
    )
    if what & _IDLE:
        deputy.on_idle(report)
    if what & _UNDO:
        deputy.on_undo(report)
    if what & _RTO:
        deputy.on_rto(report)
    elif what & _LOSS:
        deputy.on_loss(report)
    elif what & _ECN:
        deputy.on_ecn(report)
    elif what & _ACK:
        deputy.on_ack(report)
