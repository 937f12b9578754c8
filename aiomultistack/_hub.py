"""Hubs: Ethernet segments inside the process that ``mem:NAME`` ports attach to.

A name stands for one hub in the whole process, whatever thread its users run in.  The first user of a name
makes the hub, its last user takes it along; a `Hub` object that an application makes itself is a user too, and
the way to give the hub a seed, an MTU or faults.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from ._errors import ConfigError
from ._node import check_status, ffi, lib

__all__ = ["Hub"]

_lock = threading.Lock()
_hubs: weakref.WeakValueDictionary[str, Hub] = weakref.WeakValueDictionary()


class Hub:
    """A named Ethernet segment, with the faults of a real one if wanted.

    name: what ports call it, ``mem:NAME``.
    seed: decides every fault; same seed, same calls, same faults.
    mtu: bytes.
    loss, duplicate, reorder, corrupt: probability for each frame and receiver, 0 to 1.
    delay: seconds one way; jitter: seconds at most on top of it, order kept.
    reorder_delay: seconds that a reordered frame is held back; 0: four delays, at least a millisecond.
    rate: bits per second to each receiver; 0: unlimited.
    queue: frames that may wait for rate; 0: 1000.

    A hub lives as long as somebody refers to it.  Raises ConfigError if the name is in use, or a value is
    out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        mtu: int = 1500,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        corrupt: float = 0.0,
        delay: float = 0.0,
        jitter: float = 0.0,
        reorder_delay: float = 0.0,
        rate: float = 0.0,
        queue: int = 0,
        offload: bool = True,
    ) -> None:
        faults: dict[str, Any] = {
            "loss": loss, "duplicate": duplicate, "reorder": reorder, "corrupt": corrupt,
            "delay": delay, "jitter": jitter, "reorder_delay": reorder_delay, "rate": rate, "queue": queue,
        }  # fmt: skip
        if not name:
            raise ConfigError("a hub needs a name, such as 'lab' for ports 'mem:lab'")
        if not 576 <= mtu <= 65535:
            raise ConfigError(f"hub {name!r}: mtu must be from 576 to 65535, not {mtu!r}")
        self.name = name
        self.mtu = mtu
        self._offload = offload and not any(faults.values())
        with _lock:
            if name in _hubs:
                raise ConfigError(f"hub {name!r} exists already; choose another name, or make it before its first user")
            pointer = lib.ams_hub_new(seed & 0xFFFFFFFFFFFFFFFF, mtu, 0 if self._offload else lib.AMS_HUB_NO_OFFLOAD)
            if pointer == ffi.NULL:
                raise MemoryError("no memory for a hub")
            self.pointer: Any = ffi.gc(pointer, lib.ams_hub_free)
            if any(faults.values()):
                self.impair(**faults)
            _hubs[name] = self

    def __repr__(self) -> str:
        return f"<Hub {self.name!r} mtu={self.mtu}>"

    def impair(
        self,
        *,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        corrupt: float = 0.0,
        delay: float = 0.0,
        jitter: float = 0.0,
        reorder_delay: float = 0.0,
        rate: float = 0.0,
        queue: int = 0,
        mark: int = 0,
        burst: float = 0.0,
        burst_frames: float = 0.0,
    ) -> None:
        """Changes the faults from here on; what isn't named is off.

        `burst` is the probability that a frame begins a burst of losses of `burst_frames` frames on average;
        `mark` is the number of frames in the queue above which ECN-capable ones are marked.

        Raises ConfigError if a value is out of range, or the hub was made for offloads (the faults of a hub
        made with `offload=False`, or with any fault, may change at will).
        """
        for name, value in (
            ("loss", loss),
            ("duplicate", duplicate),
            ("reorder", reorder),
            ("corrupt", corrupt),
            ("burst", burst),
        ):
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"hub {self.name!r}: {name} is a probability from 0 to 1, not {value!r}")
        for name, value in (("delay", delay), ("jitter", jitter), ("reorder_delay", reorder_delay), ("rate", rate)):
            if value < 0:
                raise ConfigError(f"hub {self.name!r}: {name} cannot be negative")
        if self._offload:
            raise ConfigError(f"hub {self.name!r} was made for offloads; make it with offload=False to impair it")
        what = ffi.new("struct ams_impairment *")
        what.loss, what.duplicate, what.reorder, what.corrupt = loss, duplicate, reorder, corrupt
        what.delay_ns, what.jitter_ns = _nanoseconds(delay), _nanoseconds(jitter)
        what.reorder_delay_ns = _nanoseconds(reorder_delay)
        what.rate_bps, what.queue_frames = int(rate), queue
        what.mark_frames, what.burst, what.burst_frames = mark, burst, burst_frames
        check_status(lib.ams_hub_impair(self.pointer, what))

    @classmethod
    def attach(cls, name: str) -> Hub:
        """The hub of that name, made if there is none."""
        with _lock:
            hub = _hubs.get(name)
        if hub is not None:
            return hub
        try:
            return cls(name)
        except ConfigError:
            with _lock:
                hub = _hubs.get(name)
            if hub is None:
                raise
            return hub


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
