"""Segments that come together are taken together, and nobody sees it: the same scripts, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .script import MS, Script

MSS = 1000
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "timestamps": {"timestamps": True, "sack": True, "wscale": 7},
    "v6": {"v6": True, "timestamps": True},
}


@pytest.fixture(params=OPTIONS)
def script(request: pytest.FixtureRequest) -> Iterator[Script]:
    """A script with a connection on which data has flowed, so that ACKs are delayed."""
    options = dict(OPTIONS[request.param])
    with Script(v6=options.pop("v6", False)) as s:
        s.open(mss=MSS, **options)
        for i in range(20):
            s.send("PA", seq=1 + i * MSS, ack=1, data=bytes(MSS))
            s.expect("A", ack=1 + (i + 1) * MSS, after=40 * MS if i >= 16 else 0)
        yield s


BASE = 1 + 20 * MSS


def send_all(script: Script, together: bool, sizes: list[int], **more: Any) -> None:
    """Data in order, in one batch or in one for each segment."""
    seq = BASE
    with script.together(together):
        for size in sizes:
            script.send("PA", seq=seq, ack=1, data=bytes([size % 251]) * size, **more)
            seq += size


def merged(script: Script) -> int:
    return script.host.counters()["stack.tcp_rx_merged"]


@pytest.mark.parametrize("together", [False, True])
def test_one_ack_answers_a_train(script: Script, together: bool) -> None:
    """It is the last of those that one by one would have had."""
    send_all(script, together, [MSS] * 8)
    for i in [8] if together else [2, 4, 6, 8]:
        script.expect("A", ack=BASE + i * MSS)
    script.quiet(100 * MS)
    assert merged(script) == (7 if together else 0)
    info = script.accepted().info
    assert (info.data_segs_in, info.bytes_received, info.rcv_mss) == (28, 28 * MSS, MSS)
    assert script.accepted().received[20 * MSS :] == bytes([MSS % 251]) * 8 * MSS


@pytest.mark.parametrize("together", [False, True])
def test_little_data_is_acknowledged_later(script: Script, together: bool) -> None:
    """Two short segments are less than a full one: the ACK may wait."""
    send_all(script, together, [100, 90])
    script.expect("A", ack=BASE + 190, after=40 * MS)
    assert merged(script) == (1 if together else 0)


@pytest.mark.parametrize("together", [False, True])
def test_a_hole_ends_the_train(script: Script, together: bool) -> None:
    with script.together(together):
        script.send("A", seq=BASE, ack=1, data=bytes(MSS))
        script.send("A", seq=BASE + MSS, ack=1, data=bytes(MSS))
        script.send("A", seq=BASE + 3 * MSS, ack=1, data=bytes(MSS))
        script.send("A", seq=BASE + 4 * MSS, ack=1, data=bytes(MSS))
    script.wait(0)
    assert merged(script) == (1 if together else 0)
    script.queue.clear()
    script.send("A", seq=BASE + 2 * MSS, ack=1, data=bytes(MSS))
    script.expect("A", ack=BASE + 5 * MSS)
    assert len(script.accepted().received) == 25 * MSS


@pytest.mark.parametrize("together", [False, True])
def test_a_fin_ends_the_train(script: Script, together: bool) -> None:
    with script.together(together):
        script.send("A", seq=BASE, ack=1, data=bytes(MSS))
        script.send("A", seq=BASE + MSS, ack=1, data=bytes(MSS))
        script.send("FA", seq=BASE + 2 * MSS, ack=1, data=bytes(MSS))
    script.wait(0)
    assert script.queue[-1][1]["TCP"].ack == (script.isn + BASE + 3 * MSS + 1) & 0xFFFFFFFF
    assert script.accepted().eof
    assert len(script.accepted().received) == 23 * MSS


def test_every_segment_is_counted(script: Script) -> None:
    """Counters tell what was on the wire, not what TCP made of it."""
    before = script.host.counters()["stack.rx_frames"]
    send_all(script, True, [MSS] * 8)
    assert script.host.counters()["stack.rx_frames"] == before + 8
    info = script.accepted().info
    assert (info.segs_in, info.data_segs_in) == (29, 28)
