"""More bytes through one connection than its sequence numbers count: 4.7 GB, and every byte in its place."""

from __future__ import annotations

import random

import pytest
from engine.world import SECOND, Connection, World

BLOCK = random.Random(1).randbytes(1_000_003)  # its length divides no power of two: a repetition would be seen
TOTAL = 4700 * len(BLOCK)
QUEUE = 4 << 20  # bytes that may wait to be sent


class Checker:
    """Reads a connection and compares; keeps nothing."""

    def __init__(self, connection: Connection) -> None:
        self.count = 0
        self._twice = memoryview(BLOCK + BLOCK)
        connection.on_data = self._compare

    def _compare(self, connection: Connection) -> None:
        data, connection.received = memoryview(connection.received), bytearray()
        for at in range(0, len(data), len(BLOCK)):
            piece = data[at : at + len(BLOCK)]
            start = self.count % len(BLOCK)
            assert piece == self._twice[start : start + len(piece)], f"a byte from {self.count} on is wrong"
            self.count += len(piece)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_more_bytes_than_sequence_numbers() -> None:
    with World(offload=True) as world:
        world.checked = False
        client, server = world.host("10.1.0.1/24"), world.host("10.1.0.2/24")
        server.listen()
        near = client.connect("10.1.0.2")
        assert world.run(SECOND, lambda: server.accepted)
        checker = Checker(server.accepted[0])
        sent = 0
        while checker.count < TOTAL:
            while sent < TOTAL and sent - checker.count < QUEUE:
                near.send(BLOCK)
                sent += len(BLOCK)
            before = checker.count
            assert world.run(10 * SECOND, lambda before=before: checker.count > before)
        assert checker.count == TOTAL
        assert near.info.bytes_acked == TOTAL
        assert server.accepted[0].info.bytes_received == TOTAL
        near.close()
        server.accepted[0].close()
        world.run(100 * SECOND)
        assert near.released
