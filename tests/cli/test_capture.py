"""`aiomultistack capture --pid`: the frames of a port that a process opened itself."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import aiomultistack
from aiomultistack import _capture, _control
from aiomultistack._cli import cli
from aiomultistack._pcapng import PcapngWriter
from aiomultistack._rawport import RawPort

scapy = pytest.importorskip("scapy.all", reason="needs scapy, to read captures")

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")} | {
    "PYTHONPATH": str(Path(__file__).parents[2])
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control sockets of this test's loops, and of nobody else's."""
    path = tmp_path / "c"
    monkeypatch.setattr(_control, "directory", lambda: path)
    monkeypatch.setattr(_control, "_directories", lambda: iter([path]))


@pytest.fixture
def server() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread, with an echo server on 10.9.0.2 port 7, on a hub that is called capture."""
    config = aiomultistack.Config(port="mem:capture", addresses=["10.9.0.2/24", "fd09::2/64"], mac="02:00:00:00:00:02")
    loop = aiomultistack.new_event_loop(config)
    ready = threading.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve() -> None:
        await asyncio.start_server(echo, ["10.9.0.2", "fd09::2"], 7)
        loop.call_later(0.05, ready.set)  # after the control socket

    task = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert ready.wait(30), task
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def ask(size: int) -> None:
    reader, writer = await asyncio.open_connection("10.9.0.2", 7)
    writer.write(bytes(size))
    await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()


def run_client(size: int = 100) -> None:
    """One question to the server and its answer, from a stack of its own."""
    config = aiomultistack.Config(port="mem:capture", addresses=["10.9.0.1/24"], control=False)
    aiomultistack.run(ask(size), config=config)


class Capture:
    """A capture of this process's loops in a thread."""

    def __init__(self, **options: object) -> None:
        self.file = io.BytesIO()
        self.result = _capture.Captured()
        self.recorder = _capture.Recorder(PcapngWriter(self.file), result=self.result, **options)  # type: ignore[arg-type]
        self._ready = threading.Event()
        snap = int(options.get("snap", 0))  # type: ignore[call-overload]
        self._thread = threading.Thread(
            target=_capture.capture_loops, args=(_control.find(os.getpid()), self.recorder, snap, self._begin)
        )
        self._thread.start()
        assert self._ready.wait(30)

    def _begin(self) -> None:
        self.recorder.flush()
        self._ready.set()

    def packets(self, enough: Callable[[list[scapy.Packet]], object]) -> list[scapy.Packet]:
        """What was captured, once that is enough."""
        deadline = time.monotonic() + 30
        while True:
            self.file.flush()
            packets = list(scapy.PcapNgReader(io.BytesIO(self.file.getvalue())))
            if enough(packets):
                break
            assert time.monotonic() < deadline, packets
            time.sleep(0.01)
        self.recorder._count = 1  # it is enough
        return packets

    def join(self) -> None:
        """Waits for its end."""
        self._thread.join(30)
        assert not self._thread.is_alive()


def tcp_flags(packets: list[scapy.Packet]) -> list[str]:
    """Of the TCP segments: S, SA, A and so on."""
    return [str(packet[scapy.TCP].flags) for packet in packets if scapy.TCP in packet]


def test_both_directions_whole(server: asyncio.AbstractEventLoop) -> None:
    capture = Capture()
    run_client(3000)
    packets = capture.packets(lambda seen: sum("F" in flags for flags in tcp_flags(seen)) == 2)
    run_client()  # so that it notices that it is enough
    capture.join()
    assert tcp_flags(packets)[:3] == ["S", "SA", "A"]
    to_server = [packet for packet in packets if scapy.TCP in packet and packet[scapy.TCP].dport == 7]
    assert sum(len(packet[scapy.TCP].payload) for packet in to_server if packet[scapy.IP].len > 60) == 3000
    directions = {packet.direction for packet in to_server if hasattr(packet, "direction")}
    assert directions <= {1}  # received
    assert all(abs(float(packet.time) - time.time()) < 600 for packet in packets)


def test_why_a_frame_was_dropped(server: asyncio.AbstractEventLoop) -> None:
    capture = Capture(drops_only=True)
    (node,) = server.multistack.nodes  # type: ignore[attr-defined]
    raw = RawPort(node.hub)
    run_client()
    tagged = (
        scapy.Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:77") / scapy.Dot1Q(vlan=5) / scapy.IP(dst="10.9.0.2")
    )
    assert raw.send(bytes(tagged / scapy.UDP() / bytes(20)), time.monotonic_ns())
    (packet,) = capture.packets(bool)
    raw.close()
    assert b"dropped: switch.rx_vlan: " in packet.comment
    assert capture.result.dropped == 1


def test_frames_cut_short(server: asyncio.AbstractEventLoop) -> None:
    capture = Capture(snap=60, count=30)
    run_client(1 << 20)
    capture.join()
    packets = capture.packets(lambda seen: len(seen) == 30)
    assert max(len(packet.original) for packet in packets) == 60
    assert max(packet.wirelen for packet in packets) > 1000


def test_one_capture_at_a_time(server: asyncio.AbstractEventLoop) -> None:
    capture = Capture(count=1)
    addresses = _control.find(os.getpid())
    recorder = _capture.Recorder(PcapngWriter(io.BytesIO()))
    with pytest.raises(_control.ControlError, match="somebody else captures"):
        _capture.capture_loops(addresses, recorder)
    run_client()
    capture.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            _capture._Stream(addresses[0], 0).sock.close()
            break
        except _control.ControlError:  # until the loop has noticed that the first one has gone
            time.sleep(0.01)
    else:
        pytest.fail("a capture that has ended still has the port")


def test_impossible_lengths(server: asyncio.AbstractEventLoop) -> None:
    recorder = _capture.Recorder(PcapngWriter(io.BytesIO()))
    with pytest.raises(_control.ControlError, match="can't be cut at -1"):
        _capture.capture_loops(_control.find(os.getpid()), recorder, snap=-1)


def test_a_client_that_does_not_read_costs_frames_and_nothing_else(server: asyncio.AbstractEventLoop) -> None:
    """The connection fills up, then the node's buffer; the server goes on, and what is lost is counted."""
    (address,) = _control.find(os.getpid())
    stream = _capture._Stream(address, 0)
    (node,) = server.multistack.nodes  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60
    while not node.capture_lost and time.monotonic() < deadline:
        run_client(8 << 20)
    lost = node.capture_lost
    assert lost > 0
    result = _capture.Captured()
    recorder = _capture.Recorder(PcapngWriter(io.BytesIO()), result=result)
    while stream.lost < lost:
        assert stream.receive(recorder)
    assert result.frames > 100
    stream.sock.close()


def test_the_end_of_the_loop_ends_it(server: asyncio.AbstractEventLoop) -> None:
    capture = Capture()
    run_client()
    capture.packets(bool)
    capture.recorder._count = 0  # it is never enough
    server.call_soon_threadsafe(_control.stop, server._control)  # type: ignore[attr-defined]
    capture.join()


# ---- the command -----------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio
    import aiomultistack

    SERVER = aiomultistack.Config(port="mem:lab", addresses=["10.9.0.2/24"])
    CLIENT = aiomultistack.Config(port="mem:lab", addresses=["10.9.0.1/24"])

    async def main():
        aiomultistack_loop = asyncio.get_running_loop()
        aiomultistack_loop.multistack.attach(CLIENT)
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "10.9.0.2", 80)
        print("ready", flush=True)
        while True:
            reader, writer = await asyncio.open_connection("10.9.0.2", 80, local_addr=("10.9.0.1", 0))
            await reader.read()
            writer.close()
            await asyncio.sleep(0.01)

    aiomultistack.run(main(), config=SERVER)
"""


def test_the_command(tmp_path: Path) -> None:
    """A process with two ports: an interface each."""
    program, target = tmp_path / "two.py", tmp_path / "two.pcapng"
    program.write_text(textwrap.dedent(PROGRAM))
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            done = subprocess.run(
                [sys.executable, "-m", "aiomultistack", "capture", "--pid", str(process.pid), "-w", str(target),
                 "--count", "30"],
                capture_output=True, text=True, timeout=60, env=ENVIRONMENT, check=False,
            )  # fmt: skip
        finally:
            process.kill()
    assert done.returncode == 0, done.stderr
    assert f"capturing process {process.pid}" in done.stderr
    assert "30 frames, 0 of them dropped" in done.stderr
    assert len(scapy.rdpcap(str(target))) == 30
    assert target.read_bytes().count(b", mem:lab") == 2


def test_mistakes() -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "aiomultistack", "capture", *arguments], capture_output=True, text=True,
            timeout=60, env=ENVIRONMENT, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stderr

    assert "PORT is one of a switch's" in run("--pid", "1", "uplink")
    assert "process 4194304 has no aiomultistack loop" in run("--pid", "4194304")


def test_a_capture_that_cannot_begin_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "earlier.pcapng"
    path.write_bytes(b"frames")
    result = CliRunner().invoke(cli, ["capture", "--socket", str(tmp_path / "none"), "-w", str(path)])
    assert result.exit_code == 1
    assert "no switch answers" in result.output
    assert path.read_bytes() == b"frames"


def test_a_file_that_cannot_be_written_is_told(server: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["capture", "--pid", str(os.getpid()), "-w", str(tmp_path / "no" / "such")])
    assert result.exit_code == 1
    assert "No such file or directory" in result.output
    assert "Traceback" not in result.output


def test_a_capture_of_nothing_is_a_file_all_the_same(server: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    path = tmp_path / "none.pcapng"
    result = CliRunner().invoke(cli, ["capture", "--pid", str(os.getpid()), "--seconds", "0", "-w", str(path)])
    assert result.exit_code == 0, result.output
    assert list(scapy.PcapNgReader(io.BytesIO(path.read_bytes()))) == []
