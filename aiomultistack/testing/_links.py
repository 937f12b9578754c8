"""What happens to frames between two hosts.

Every decision of a link comes from a generator of its own, seeded by the network's seed and the names of both
hosts: what one link does is the same whatever the others do.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, fields

from .._errors import ConfigError

__all__ = ["FRAME_FATES", "Faults", "Link"]

_NS = 1_000_000_000
_PROBABILITIES = ("loss", "duplicate", "reorder", "corrupt")

#: What may become of a frame, as traces name it.
FRAME_FATES = ("delivered", "lost", "cut", "queue full", "host down", "dropped by test", "nobody there")


@dataclass(frozen=True)
class Faults:
    """How a link treats what crosses it in one direction.

    delay: seconds one way; jitter: seconds at most on top of it, order kept.
    loss, duplicate, reorder, corrupt: probability for each frame, 0 to 1; corrupt flips one bit.
    reorder_delay: seconds that a reordered frame is held back; 0: four delays, at least a millisecond.
    rate: bits per second; 0: unlimited.
    queue: frames that may wait for rate.

    Raises ConfigError for a value out of range.
    """

    delay: float = 0.0005
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0
    queue: int = 1000

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value >= 0:  # NaN is refused too
                raise ConfigError(f"{item.name} of a link cannot be {value!r}")
        for name in _PROBABILITIES:
            if getattr(self, name) > 1:
                raise ConfigError(f"{name} is a probability from 0 to 1, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Passage:
    """One copy of a frame on its way, or not."""

    fate: str
    release: int  # nanoseconds; when it arrives, if it does
    frame: bytes
    notes: tuple[str, ...] = ()


class Link:
    """One direction between two hosts."""

    def __init__(self, name: str, seed: int, faults: Faults) -> None:
        self.name = name
        self.faults = faults
        #: How many partitions cut it now.
        self.cuts = 0
        self._random = random.Random(f"{seed}/{name}")
        self._free = 0  # when the line has sent everything, nanoseconds
        self._last = 0  # when the last frame in order arrives
        self._departures: deque[int] = deque()

    def pass_on(self, frame: bytes, now: int) -> list[Passage]:
        """What becomes of a frame that enters the link now: one passage, or two if it is duplicated."""
        faults, notes = self.faults, []
        if self.cuts:
            return [Passage("cut", now, frame)]
        if self._chance(faults.loss):
            return [Passage("lost", now, frame)]
        if self._chance(faults.corrupt):
            frame, notes = self._flip(frame), ["corrupted"]
        copies = 2 if self._chance(faults.duplicate) else 1
        passages = []
        for number in range(copies):
            marks = [*notes, "duplicate"] if number else notes
            passages.append(self._send(frame, now, marks))
        return passages

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    def _flip(self, frame: bytes) -> bytes:
        """Flips a bit behind the Ethernet addresses, so that the frame still arrives."""
        bit = self._random.randrange(12 * 8, len(frame) * 8)
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    def _send(self, frame: bytes, now: int, notes: list[str]) -> Passage:
        faults = self.faults
        release = now
        if faults.rate:
            while self._departures and self._departures[0] <= now:
                self._departures.popleft()
            if len(self._departures) >= max(1, faults.queue):
                return Passage("queue full", now, frame, tuple(notes))
            release = self._free = max(now, self._free) + round(len(frame) * 8 * _NS / faults.rate)
            self._departures.append(release)
        release += round(faults.delay * _NS)
        if faults.jitter:
            release += round(self._random.random() * faults.jitter * _NS)
        if self._chance(faults.reorder):
            release += round((faults.reorder_delay or max(4 * faults.delay, 0.001)) * _NS)
            notes = [*notes, "reordered"]
        else:
            release = self._last = max(release, self._last)
        return Passage("delivered", release, frame, tuple(notes))
