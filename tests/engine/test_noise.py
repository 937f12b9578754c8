"""Garbage and mutated frames against the whole engine, in virtual time: it never crashes, leaks or stops working."""

from __future__ import annotations

import functools

import hypothesis
from aiomultistack._native import lib
from hypothesis import strategies as st

from .script import MS, SECOND
from .world import World

SETTINGS = hypothesis.settings(max_examples=150, deadline=None)


@functools.cache
def valid_frames() -> list[bytes]:
    """Frames of every kind that two hosts exchange: ARP, NDP, handshakes, data, losses, closes, resets."""
    return [*conversation("10.1.0.2", "0.0.0.0"), *conversation("fd01::2", "::")]


def conversation(address: str, wildcard: str) -> list[bytes]:
    """The frames of one family."""
    with World(3, loss=0.1, delay_ns=MS) as world:
        wire = world.wire(monitor=True)
        client = world.host("10.1.0.1/24", "fd01::1/64")
        server = world.host("10.1.0.2/24", "fd01::2/64")
        server.listen(wildcard)
        near = client.connect(address)
        near.send(bytes(30_000))
        refused = client.connect(address, 81)
        world.run(20 * SECOND, lambda: server.accepted and len(server.accepted[0].received) == 30_000)
        world.run(20 * SECOND, lambda: refused.closed)
        assert refused.closed == "ECONNREFUSED"
        near.shutdown()
        server.accepted[0].abort()
        world.run(SECOND)
        return [frame for _, frame in wire.frames]


def mutate(frame: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    """Overwrites bytes, mostly of the headers, and cuts the end off."""
    out = bytearray(frame)
    for place, value in edits:
        out[place % min(len(out), 100)] = value
    return bytes(out if cut is None else out[: max(14, len(out) - cut)])


MUTATIONS = st.tuples(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 60),
)


def survives(frames: list[bytes]) -> None:
    """Feeds frames to a host with a live connection; afterwards it must serve, and hold nothing."""
    with World(5) as world:
        client = world.host("10.1.0.1/24", "fd01::1/64")
        server = world.host("10.1.0.2/24", "fd01::2/64")
        server.listen()
        server.listen("::")
        client.connect("10.1.0.2").send(b"before")
        world.run(100 * MS)
        wire = world.wire()
        for frame in frames:
            wire.inject(frame)
            world.run(3 * MS)
        world.run(200 * SECOND)  # neighbours that the noise moved are found again, embryos die
        served = len(server.accepted)
        again = client.connect("10.1.0.2")
        again.send(b"after")
        world.run(60 * SECOND, lambda: len(server.accepted) > served and server.accepted[-1].received)
        assert bytes(server.accepted[-1].received) == b"after"
        for host in world.hosts:
            for connection in list(host.connections.values()):
                connection.abort()
        world.run(300 * SECOND)
        for host in world.hosts:
            assert lib.ams_stack_frames(host.stack) == 0


@SETTINGS
@hypothesis.given(st.lists(st.binary(min_size=14, max_size=1514), max_size=20))
def test_garbage(frames: list[bytes]) -> None:
    survives(frames)


@SETTINGS
@hypothesis.given(st.lists(MUTATIONS, min_size=1, max_size=40))
def test_mutated_frames(mutations: list[tuple[int, list[tuple[int, int]], int | None]]) -> None:
    frames = valid_frames()
    macs = {frame[:6] for frame in frames} | {frame[6:12] for frame in frames}
    assert len(macs) >= 2
    survives([mutate(frames[which % len(frames)], edits, cut) for which, edits, cut in mutations])
