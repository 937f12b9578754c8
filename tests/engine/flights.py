"""Scripts about loss: a connection with a flight of segments on its way.

The peer's round trip is 100 ms; segments carry 1000 bytes.
"""

from __future__ import annotations

from aiomultistack._native import lib

from .script import MS, Script
from .world import Connection

RTT = 100 * MS
OPEN, DISORDER, CWR, RECOVERY, LOSS = range(5)


def flight(s: Script, segments: int, **options: object) -> Connection:
    """An open connection with so many segments just sent."""
    connection = s.open(mss=1012 if options.get("timestamps") else 1000, rtt=RTT, **options)
    connection.option(lib.AMS_OPT_NODELAY, 1)
    connection.send(bytes(1000 * segments))
    for index in range(segments):
        s.expect("PA" if index == segments - 1 else "A", seq=1 + 1000 * index, length=1000)
    return connection
