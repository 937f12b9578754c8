"""The daemon as its operator meets it: start, supervision, end, and what its commands show."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from aiomultistack._cli import cli
from aiomultistack._node import ffi, lib
from aiomultistack._switch_fabric import Frame
from aiomultistack._switch_neighbor import Question, parse_question

from .stage import ADDRESSES, HOST4, HOST6, ROOT, Process, Switch, connecting, free_port, running, serving, until


def invoke(*arguments: str) -> str:
    """A command's standard output."""
    result = CliRunner().invoke(cli, arguments, prog_name="aiomultistack")
    assert result.exit_code == 0, result.output
    return result.output


def start(path: Path, *options: str, **more: Any) -> Process:
    """A daemon that may fail."""
    addresses = [word for address in ADDRESSES for word in ("--address", address)]
    return Process(
        [sys.executable, "-m", "aiomultistack", "switch", "--socket", str(path), *addresses, *options], **more
    )


def test_a_second_daemon_is_refused_and_a_stale_socket_is_not_in_the_way(tmp_path: Path) -> None:
    with running(tmp_path) as switch:
        second = start(Path(switch.path))
        assert second.process.wait(30) == 1
        assert "another switch serves" in second.error()
        second.close()
        assert switch.describe()["switch"]["pid"] == switch.process.pid if switch.process else False
        switch.kill(signal.SIGKILL)
        assert os.path.exists(switch.path)
        switch.start()
        assert switch.kill(signal.SIGTERM) == 0
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--uplink", "xdp:nowhere0"], "nowhere0"),
        (["--uplink", "nonsense"], "unknown port"),
        (["--host", "xdp:eth0"], "--host is a TAP"),
        (["--user", "nobody-of-that-name"], "there is no user"),
        (["--address", "10.0.0.300/24"], "not an address"),
        (["--host", "tap:ams0", "--host-address", "10.0.0.300/24"], "not an address"),
        (["--allow", "@no-such-group"], "there is no group"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: list[str], message: str) -> None:
    daemon = start(tmp_path / "socket", *options)
    assert daemon.process.wait(30) == 1
    assert message in daemon.error()
    assert "Traceback" not in daemon.error()
    daemon.close()
    assert os.listdir(tmp_path) == []


def test_no_address(tmp_path: Path) -> None:
    daemon = Process([sys.executable, "-m", "aiomultistack", "switch", "--socket", str(tmp_path / "socket")])
    assert daemon.process.wait(30) == 1
    assert "--address" in daemon.error()
    daemon.close()


def test_readiness_and_socket_activation(tmp_path: Path) -> None:
    path = tmp_path / "activated"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
    ):
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(30)
        listener.bind(str(path))
        listener.listen()
        program = f"""
import os, sys
os.dup2({listener.fileno()}, 3)
os.environ |= dict(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", NOTIFY_SOCKET={str(tmp_path / "notify")!r})
os.execv(sys.executable, [sys.executable, "-m", "aiomultistack", "switch", "--socket", {str(path)!r},
                          "--address", {ADDRESSES[0]!r}])
"""
        daemon = Process([sys.executable, "-c", program], pass_fds=[listener.fileno()])
        try:
            assert supervisor.recv(1000).startswith(b"READY=1\n")
            from aiomultistack import _switch_show

            assert _switch_show.describe(str(path))["switch"]["addresses"] == [ADDRESSES[0]]
            daemon.process.terminate()
            assert supervisor.recv(1000) == b"STOPPING=1"
            assert daemon.process.wait(30) == 0
            assert path.exists(), "the socket is the supervisor's"
        finally:
            daemon.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_privileges_are_dropped(tmp_path: Path) -> None:
    with running(tmp_path, "--user", "65534") as switch:
        pid = switch.process.pid if switch.process is not None else 0
        for task in os.listdir(f"/proc/{pid}/task"):
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{pid}/task/{task}/status").read_text().splitlines()
                if ":\t" in line
            )  # fmt: skip
            assert status["Uid"].split() == ["65534"] * 4
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        port = free_port()
        server, client = serving(switch, port), connecting(switch)
        assert client.ask(f"{HOST4} {port} hello") == f"HELLO {server.pid}"


def test_ports_tuples_and_stats(shared: Switch) -> None:
    port = free_port()
    server, client = serving(shared, port), connecting(shared)
    assert client.ask(f"{HOST6} {port} hello") == f"HELLO {server.pid}"
    ports = {row.get("pid"): row for row in json.loads(invoke("ports", "--socket", shared.path, "--json"))}
    assert ports[server.pid]["tuples"] == 2
    assert ports[server.pid]["uid"] == os.getuid()
    assert ports[server.pid]["rx_frames"] >= 3
    assert str(server.pid) in invoke("ports", "--socket", shared.path)
    found = json.loads(invoke("tuples", "--socket", shared.path, "--json"))
    assert {(row["host"], row["pid"]) for row in found["tuples"] if row["port"] == port} == {
        ("0.0.0.0", server.pid), ("::", server.pid),
    }  # fmt: skip
    assert {row["pid"] for row in found["lent"]} >= {client.pid}
    text = invoke("tuples", "--socket", shared.path)
    assert any(str(port) in line and str(server.pid) in line for line in text.splitlines())
    assert "(lent)" in text
    assert "frames taken from the port" in invoke("stats", "--socket", shared.path)
    rates = json.loads(invoke("stats", "--socket", shared.path, "--watch", "0.1", "--json"))
    assert rates["now"]["switch"]["time"] > rates["before"]["switch"]["time"]
    assert "per second" in invoke("stats", "--socket", shared.path, "--watch", "0.1")
    result = CliRunner().invoke(cli, ["ports", "--socket", "/nowhere/at/all"])
    assert result.exit_code == 1
    assert "no switch answers" in result.output


# ---- captures ----------------------------------------------------------------------------------------------


@pytest.fixture
def forger(shared: Switch) -> Iterator[Any]:
    """Sends raw frames as a client that owns one UDP tuple: the port's functions."""
    spec, error = ffi.new("char[]", f"switch:{shared.path}".encode()), ffi.new("char[]", 256)
    config = ffi.new("struct ams_port_config *", {"spec": spec})
    out = ffi.new("struct ams_port **")
    assert lib.ams_port_open(out, config, error, 256) == 0, ffi.string(error)
    yield out[0]
    lib.ams_port_close(out[0])


def test_a_capture_tells_why_frames_were_dropped(shared: Switch, forger: Any, tmp_path: Path) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import ARP, Ether
    from scapy.utils import PcapNgReader

    identity = ffi.new("struct ams_port_identity *")
    assert lib.ams_port_identity(forger, identity) == 0
    mac = ":".join(f"{byte:02x}" for byte in identity.mac)
    index = next(port["index"] for port in shared.clients() if port["pid"] == os.getpid())
    target = tmp_path / "capture.pcapng"
    capture = Process(
        [sys.executable, "-m", "aiomultistack", "capture", "--socket", shared.path, "-w", str(target), "-c", "5",
         str(index)]
    )  # fmt: skip
    until(lambda: "capturing" in capture.error(), "the capture's start")
    frames = [
        Ether(src=mac, dst=mac) / IP(src=HOST4, dst=HOST4) / TCP(sport=1, dport=2),          # not its tuple
        Ether(src="02:00:00:00:00:09", dst=mac) / IP(src=HOST4, dst=HOST4) / UDP(),           # not its MAC
        Ether(src=mac, dst=mac) / IP(src="10.9.9.9", dst=HOST4) / UDP(sport=5, dport=6),      # not its address
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=mac, psrc="10.77.0.1"),     # a spoofed answer
        Ether(src=mac, dst=mac, type=0x88CC) / (b"x" * 50),                                   # no protocol of ours
    ]  # fmt: skip
    for frame in frames:
        raw = bytes(frame)
        assert lib.ams_port_send(forger, raw, len(raw), 0) == 0
    assert capture.process.wait(30) == 0, capture.error()
    assert "5 frames, 5 of them dropped" in capture.error()
    capture.close()
    with PcapNgReader(str(target)) as reader:
        packets = list(reader)
    assert [bytes(packet)[: len(bytes(frame))] for packet, frame in zip(packets, frames, strict=True)] == [
        bytes(frame) for frame in frames
    ]
    reasons = [bytes(getattr(packet, "comment", b"") or b"").decode() for packet in packets]
    for reason, word in zip(reasons, ("tx_tuple", "tx_source_mac", "tx_source_address", "tx_arp", "tx_ethertype"),
                            strict=True):  # fmt: skip
        assert word in reason, reasons
    if shutil.which("tshark") and shutil.which("capinfos"):
        shown = subprocess.run(
            ["tshark", "-r", str(target), "-T", "fields", "-e", "frame.comment"], capture_output=True, text=True,
            check=True,
        ).stdout.splitlines()  # fmt: skip
        assert all("dropped: " in line for line in shown)
        assert len(shown) == 5
        assert "Number of packets:   5" in subprocess.run(
            ["capinfos", str(target)], capture_output=True, text=True, check=True
        ).stdout


def test_a_capture_knows_who_attached_after_it_began(shared: Switch, tmp_path: Path) -> None:
    target = tmp_path / "capture.pcapng"
    capture = Process([sys.executable, "-m", "aiomultistack", "capture", "--socket", shared.path, "-w", str(target)])
    until(lambda: "capturing" in capture.error(), "the capture's start")
    spec, error = ffi.new("char[]", f"switch:{shared.path}".encode()), ffi.new("char[]", 256)
    out = ffi.new("struct ams_port **")
    assert lib.ams_port_open(out, ffi.new("struct ams_port_config *", {"spec": spec}), error, 256) == 0
    client = next(port for port in shared.clients() if port["pid"] == os.getpid())
    assert lib.ams_port_send(out[0], b"x" * 60, 60, 0) == 0
    name = f"{client['index']} {client['name']}".encode()
    until(lambda: name in target.read_bytes(), "its name in the file")
    lib.ams_port_close(out[0])
    capture.process.send_signal(signal.SIGINT)
    assert capture.process.wait(30) == 0, capture.error()
    capture.close()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as somebody else")
def test_captures_are_not_for_everybody(shared: Switch) -> None:
    os.chmod(shared.path, 0o666)
    for parent in Path(shared.path).parents[:3]:
        os.chmod(parent, 0o755)
    program = f"""
import io, os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import aiomultistack._switch_show as show
from aiomultistack._capture import Recorder
from aiomultistack._pcapng import PcapngWriter
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    show.capture({shared.path!r}, "all", Recorder(PcapngWriter(io.BytesIO()), count=1))
except show.SwitchError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert "only root" in done.stdout


# ---- neighbours --------------------------------------------------------------------------------------------


def test_questions_and_their_answers() -> None:
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
    from scapy.layers.l2 import ARP, Ether

    mac, other = "02:00:00:00:00:01", b"\x02\0\0\0\0\x09"

    def asked(packet: Any) -> Question | None:
        return parse_question(Frame(0, 7, 0, -1, len(packet), bytes(packet)))

    question = asked(Ether(src=mac) / ARP(hwsrc=mac, psrc=HOST4, pdst="10.77.0.9"))
    assert question is not None
    assert question.address == ("10.77.0.9", 0)
    reply = Ether(question.answer(other))
    assert (reply.dst, reply.src, reply[ARP].op) == (mac, "02:00:00:00:00:09", 2)
    assert (reply[ARP].psrc, reply[ARP].pdst) == ("10.77.0.9", HOST4)
    solicit = Ether(src=mac) / IPv6(src=HOST6, dst="ff02::1:ff00:9", hlim=255)
    question = asked(solicit / ICMPv6ND_NS(tgt="fd77::9") / ICMPv6NDOptSrcLLAddr(lladdr=mac))
    assert question is not None
    raw = question.answer(other)
    reply = Ether(raw)
    assert (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == ("fd77::9", HOST6, 255)
    assert (reply[ICMPv6ND_NA].tgt, reply[ICMPv6ND_NA].S) == ("fd77::9", 1)
    del reply[ICMPv6ND_NA].cksum
    assert bytes(reply) == raw, "the checksum is right"
    # Announcements, probes and stumps ask nothing.
    for packet in (
        Ether(src=mac) / ARP(hwsrc=mac, psrc=HOST4, pdst=HOST4), Ether(src=mac) / ARP(op=2, hwsrc=mac, psrc=HOST4),
        Ether(src=mac) / ARP(hwsrc=mac, psrc="0.0.0.0", pdst=HOST4), Ether(src=mac, type=0x0806),
        solicit / ICMPv6ND_NA(tgt=HOST6), Ether(src=mac) / IPv6(src="::", dst="ff02::1") / ICMPv6ND_NS(tgt=HOST6),
    ):  # fmt: skip
        assert asked(packet) is None


def test_a_switch_without_ipv6_says_nothing_that_it_refuses(tmp_path: Path) -> None:
    """Its control stack has no link-local address, for the switch serves none."""
    with running(tmp_path, addresses=["10.9.0.2/24"]) as switch:
        def control() -> dict[str, int]:
            (port,) = [port for port in switch.describe()["ports"] if port["name"] == "control stack"]
            return {name: count for name, count in port["counters"].items() if count}

        until(lambda: control().get("tx_passed", 0) >= 1, "an announcement")
        time.sleep(1.5)  # a group would be reported again within a second (RFC 3810 section 9.11)
        assert not control().keys() & set(switch.describe()["drops"])
