"""Congestion controls in Python: when they are asked, and that what they say holds."""

from __future__ import annotations

import asyncio
import itertools
import runpy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiomultistack
from aiomultistack import CongestionControl, CongestionReport
from aiomultistack._node import python_congestion
from aiomultistack.testing import Network

ROOT = Path(__file__).parents[2]
TCP_CONGESTION = getattr(socket, "TCP_CONGESTION", 13)
_numbers = itertools.count()


class Recording(CongestionControl):
    """Remembers what it was told; its window is as it is told."""

    made: list[Recording]
    window: int | None

    def __init__(self, mss: int, cwnd: int) -> None:
        super().__init__(mss, cwnd)
        self.made.append(self)
        self.reports: list[tuple[str, CongestionReport]] = []

    def on_ack(self, report: CongestionReport) -> None:
        self.reports.append(("ack", report))
        if self.window is not None:
            self.cwnd = self.window
        else:
            self.cwnd += report.acked

    def on_loss(self, report: CongestionReport) -> None:
        super().on_loss(report)
        self.reports.append(("loss", report))

    def on_rto(self, report: CongestionReport) -> None:
        self.reports.append(("rto", report))

    def told(self, what: str) -> list[CongestionReport]:
        return [report for name, report in self.reports if name == what]


@pytest.fixture
def recording() -> Iterator[type[Recording]]:
    """A class of the test's own, registered."""

    class Own(Recording):
        name = f"own{next(_numbers)}"
        made: list[Recording] = []
        window = None

    aiomultistack.register_congestion_control(Own)
    yield Own
    del python_congestion[Own.name]


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass
    writer.write(b"done")
    writer.close()


async def serve() -> None:
    server = await asyncio.start_server(sink, port=9)
    await server.serve_forever()


async def transfer(size: int, congestion: bytes | None = None) -> Any:
    """Sends `size` bytes; returns the socket, still open."""
    reader, writer = await asyncio.open_connection("receiver", 9)
    sock = writer.get_extra_info("socket")
    if congestion is not None:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, congestion)
    writer.write(bytes(size))
    writer.write_eof()
    assert await reader.read() == b"done"
    return writer


def test_it_is_asked_once_per_round_trip(recording: type[Recording]) -> None:
    with Network(delay=0.05, congestion=recording.name) as network:
        network.host("receiver").start(serve())

        async def main() -> float:
            start = network.time()
            (await transfer(1_000_000)).close()
            return network.time() - start

        trips = network.run(main()) / 0.1
    sender = recording.made[0]
    acks = sender.told("ack")
    assert trips / 2 <= len(acks) <= trips + 1
    assert sum(report.acked for report in acks) >= 900_000
    assert all(report.min_rtt == pytest.approx(0.1, rel=0.1) for report in acks if report.min_rtt)
    assert all(report.delivery_rate >= 0 and report.duration >= 0 and not report.lost for report in acks)
    assert not sender.told("loss")
    assert not sender.told("rto")


def test_the_window_is_what_it_says(recording: type[Recording]) -> None:
    recording.window = 4 * 1448
    with Network(delay=0.05, congestion=recording.name) as network:
        network.host("receiver").start(serve())

        async def main() -> None:
            task = asyncio.ensure_future(transfer(200_000))
            await asyncio.sleep(2)
            (info,) = network.local.connections()
            assert info.congestion == recording.name
            assert info.snd_cwnd == recording.window
            assert info.unacked <= 4 * 1460
            (await task).close()

        network.run(main())


def test_pacing(recording: type[Recording]) -> None:
    class Paced(recording):  # type: ignore[misc,valid-type]
        name = f"paced{next(_numbers)}"

        def on_ack(self, report: CongestionReport) -> None:
            super().on_ack(report)
            self.cwnd, self.pacing_rate = 1_000_000, 100_000.0

    aiomultistack.register_congestion_control(Paced)
    with Network(delay=0.005, congestion=Paced.name) as network:
        network.host("receiver").start(serve())

        async def main() -> float:
            start = network.time()
            (await transfer(1_000_000)).close()
            return network.time() - start

        assert network.run(main()) == pytest.approx(10, rel=0.1)
    del python_congestion[Paced.name]


def test_losses_and_timeouts_are_reported_at_once(recording: type[Recording]) -> None:
    with Network(seed=3, delay=0.02, loss=0.02, congestion=recording.name) as network:
        receiver = network.host("receiver")
        receiver.start(serve())

        async def main() -> None:
            task = asyncio.ensure_future(transfer(2_000_000))
            await asyncio.sleep(0.3)
            with network.partition("test", "receiver"):
                await asyncio.sleep(3)
            (await task).close()

        network.run(main())
    sender = recording.made[0]
    assert sender.told("loss")
    assert sender.told("rto")
    assert sum(report.lost for _, report in sender.reports) > 0


def test_a_socket_chooses(recording: type[Recording]) -> None:
    with Network(delay=0.01) as network:
        network.host("receiver").start(serve())

        async def main() -> None:
            for _ in range(2):
                writer = await transfer(100_000, recording.name.encode())
                sock = writer.get_extra_info("socket")
                name = sock.getsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, 16).rstrip(b"\0").decode()
                assert name == recording.name
                writer.close()
                await asyncio.sleep(1)
            _, writer = await asyncio.open_connection("receiver", 9)
            with pytest.raises(OSError, match="Invalid"):
                writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, b"nobody's")
            writer.close()
            await writer.wait_closed()

        network.run(main())
    assert len(recording.made) == 2, "each connection has one of its own"


def test_who_fails_is_replaced_by_cubic() -> None:
    class Failing(CongestionControl):
        name = "failing"

    aiomultistack.register_congestion_control(Failing)
    contexts: list[dict[str, Any]] = []
    try:
        with Network(delay=0.01, congestion="failing") as network:
            network.host("receiver").start(serve())

            async def main() -> None:
                asyncio.get_running_loop().set_exception_handler(lambda _, context: contexts.append(context))
                writer = await transfer(100_000)
                (info,) = network.local.connections()
                assert info.congestion == "cubic"
                writer.close()

            network.run(main())
    finally:
        del python_congestion["failing"]
    assert contexts
    assert isinstance(contexts[0]["exception"], NotImplementedError)
    assert "failing" in contexts[0]["message"]


@pytest.mark.parametrize("name", ["", "a" * 16, "cubic", "reno"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        aiomultistack.register_congestion_control(type("Bad", (CongestionControl,), {"name": name}))


def test_a_name_is_taken_once(recording: type[Recording]) -> None:
    assert aiomultistack.register_congestion_control(recording) is recording
    with pytest.raises(ValueError, match="another name"):
        aiomultistack.register_congestion_control(type("Other", (CongestionControl,), {"name": recording.name}))


def test_the_example_keeps_queues_short(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "python_congestion.py"))
    try:
        example["main"]()
    finally:
        del python_congestion["gentle"]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    rates = {row[0]: float(row[1]) for row in rows}
    times = {row[0]: float(row[2]) for row in rows}
    assert times["gentle"] < 55 < times["cubic"]
    assert rates["gentle"] > 9
