"""What is particular to XDP ports: whose frames, other programs, queues, long frames, links that go away.

Also a proof of each behaviour of the kernel that the driver relies on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiomultistack._native import lib
from port_segment import PATIENCE, Port, PortError, XdpSegment, ip, packet_socket, quiet_namespace, veth
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from support import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and bpf(2)")
SEARCHED = [str(folder) for folder in Path(__file__).parents[:2]]  # where programs of the tests find port_segment


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with quiet_namespace():
        yield


def frame(number: int, size: int = 60) -> bytes:
    """A broadcast frame of an experimental EtherType (IEEE 802), with a number in it."""
    header = bytes(Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff", type=0x88B5))
    return header + (number.to_bytes(4, "big") * (size // 4 + 1))[: size - len(header)]


def program_of(name: str) -> int | None:
    """The id of the XDP program on a link."""
    shown = subprocess.run(["ip", "-j", "-d", "link", "show", name], check=True, capture_output=True, text=True)
    xdp: dict[str, Any] = json.loads(shown.stdout)[0].get("xdp", {})
    return xdp["prog"]["id"] if "prog" in xdp else None


# ---- the program on the link ----------------------------------------------------------------------------------


def test_the_program_comes_with_the_port_and_goes_with_it() -> None:
    veth("ams0", "ams0p")
    assert program_of("ams0") is None
    port = Port("xdp:ams0")
    assert program_of("ams0") is not None
    port.close()
    assert program_of("ams0") is None


def test_the_program_goes_with_a_killed_process() -> None:
    veth("ams0", "ams0p")
    code = f"import sys, time; sys.path[:0] = {SEARCHED!r}\n" \
           "from port_segment import Port\nport = Port('xdp:ams0')\nprint('open', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        assert program_of("ams0") is not None
        process.send_signal(signal.SIGKILL)
    eventually(lambda: program_of("ams0") is None, "the program is gone")
    segment = Port("xdp:ams0")
    segment.close()


def test_a_link_with_another_program_is_refused_politely() -> None:
    ip("link", "add", "ams0", "numrxqueues", "2", "numtxqueues", "2", "type", "veth", "peer", "name", "ams0p",
       "numrxqueues", "2", "numtxqueues", "2")  # fmt: skip
    ip("link", "set", "ams0", "up")
    first = Port("xdp:ams0@0")
    number = program_of("ams0")
    for spec, words in (("xdp:ams0@1", f"program {number} aiomultistack"), ("xdp:ams0@0", "queue 0 of ams0 is used")):
        with pytest.raises(PortError) as caught:
            Port(spec)
        assert caught.value.status == "EBUSY"
        assert words in caught.value.text
    assert program_of("ams0") == number
    first.close()
    assert program_of("ams0") is None


@pytest.mark.parametrize(
    ("capabilities", "enough"),
    [("-all", False), ("+net_admin,+net_raw,+bpf,+ipc_lock", False),
     ("+net_admin,+net_raw,+bpf,+perfmon,+ipc_lock", True)],
)  # fmt: skip
def test_the_privileges_that_it_needs_are_those_that_it_names(capabilities: str, enough: bool) -> None:
    veth("ams0", "ams0p")
    code = f"import sys; sys.path[:0] = {SEARCHED!r}\nfrom port_segment import Port, PortError\n" \
           "try: Port('xdp:ams0').close(); print('open')\nexcept PortError as error: print(error.status, error.text)"
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups"]
    check = [*nobody, sys.executable, "-c", "import aiomultistack._native"]
    if subprocess.run(check, capture_output=True, check=False).returncode:
        pytest.skip("other users can't read this Python or this tree")
    command = [*nobody, "--inh-caps", capabilities, "--ambient-caps", capabilities, sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    if enough:
        assert output.stdout == "open\n", output
    else:
        assert output.stdout.startswith("EPERM ")
        assert "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON" in output.stdout


# ---- frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mtu", [1280, 1500, 2500, 3812, 9000])
def test_frames_of_every_mtu(mtu: int) -> None:
    with contextlib.closing(XdpSegment("ams0", mtu)) as segment:
        assert segment.port.info.mtu == mtu
        for size in (60, mtu // 2, mtu + 13, mtu + 14):
            assert segment.port.send(frame(1, size)) == "OK"
            assert segment.peer_recv() == frame(1, size)
            segment.peer_send(frame(2, size))
            assert segment.port.recv() == frame(2, size)
        assert segment.port.send(frame(3, mtu + 15)) == "EMSGSIZE"
        for number in range(300):
            assert segment.port.send(frame(number, mtu)) == "OK"
            assert segment.peer_recv() == frame(number, mtu)


def test_the_rings_go_round_many_times() -> None:
    with contextlib.closing(XdpSegment("ams0")) as segment:
        for number in range(0, 10000, 100):
            for each in range(number, number + 100):
                segment.peer_send(frame(each))
            for each in range(number, number + 100):
                got = segment.port.recv()
                assert got == frame(each)
                assert segment.port.send(got) == "OK"
            for each in range(number, number + 100):
                assert segment.peer_recv() == frame(each)
        info = segment.port.info
        assert (info.rx_frames, info.tx_frames, info.rx_dropped, info.tx_dropped) == (10000, 10000, 0, 0)


def test_what_is_not_received_in_time_is_counted() -> None:
    with contextlib.closing(XdpSegment("ams0")) as segment:
        for number in range(6000):
            segment.peer_send(frame(number))
        taken = 0
        while isinstance(segment.port.try_recv(), tuple):
            taken += 1
        info = segment.port.info
        assert info.rx_frames == taken
        assert taken + info.rx_dropped == 6000
        assert info.rx_dropped > 0


def test_a_dry_pool_drops_and_counts() -> None:
    veth("ams0", "ams0p")
    port = Port("xdp:ams0", flags=lib.AMS_PORT_ALL, pool_frames=1)
    with packet_socket("ams0p") as peer:
        peer.send(frame(1, 1500))
        peer.send(frame(2, 1500))
        assert port.recv() == frame(1, 1500)
        assert port.recv() == frame(2, 1500)
    port.close()


def test_every_queue_is_received_from() -> None:
    ip("link", "add", "ams0", "numrxqueues", "4", "numtxqueues", "4", "type", "veth", "peer", "name", "ams0p",
       "numrxqueues", "4", "numtxqueues", "4")  # fmt: skip
    for name in ("ams0", "ams0p"):
        ip("link", "set", name, "up")
    port = Port("xdp:ams0", flags=lib.AMS_PORT_ALL)
    sent = set()
    with packet_socket("ams0p") as peer:
        for number in range(200):  # the sending queue, and so the receiving one, follows the flow's hash
            packet = bytes(Ether(dst="02:00:00:00:00:01") / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=number))
            sent.add(packet)
            peer.send(packet)
    assert {port.recv() for _ in range(200)} == sent
    assert port.send(frame(1)) == "OK"
    port.close()


def test_a_queue_that_is_not_there_is_refused() -> None:
    veth("ams0", "ams0p")
    with pytest.raises(PortError, match="no queue 99"):
        Port("xdp:ams0@99")


def test_an_mtu_above_the_links_is_refused() -> None:
    veth("ams0", "ams0p")
    with pytest.raises(PortError, match="MTU 1501 is more than that of ams0"):
        Port("xdp:ams0", mtu=1501)


# ---- links that go away ------------------------------------------------------------------------------------------


def test_a_deleted_link_breaks_the_port_for_good() -> None:
    segment = XdpSegment("ams0")
    ip("link", "del", "ams0")
    assert segment.port.readable(PATIENCE), "nobody told"
    assert segment.port.try_recv() == "ENODEV"
    assert segment.port.try_recv() == "ENODEV"
    segment.port.send(frame(1))
    assert segment.port.info.tx_dropped == 1
    segment.close()


def test_a_link_that_moves_to_another_namespace_is_gone() -> None:
    segment = XdpSegment("ams0")
    with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as other:
        here = os.readlink("/proc/thread-self/ns/net")
        eventually(lambda: os.readlink(f"/proc/{other.pid}/ns/net") != here, "it has a namespace")
        ip("link", "set", "ams0", "netns", str(other.pid))
        assert segment.port.readable(PATIENCE), "nobody told"
        assert segment.port.try_recv() == "ENODEV"
        other.kill()
    segment.close()


def test_a_link_that_is_down_drops_and_counts_and_comes_back() -> None:
    with contextlib.closing(XdpSegment("ams0")) as segment:
        ip("link", "set", "ams0", "down")
        assert segment.port.readable(PATIENCE), "nobody told"
        assert segment.port.try_recv() == "EAGAIN"
        assert segment.port.send(frame(1)) == "OK"
        assert (segment.port.info.tx_frames, segment.port.info.tx_dropped) == (0, 1)
        ip("link", "set", "ams0", "up")
        eventually(lambda: (segment.port.try_recv(), segment.port.send(frame(2)), segment.port.info.tx_frames)[2],
                   "the link is up again")  # fmt: skip
        assert segment.peer_recv() == frame(2)
        segment.peer_send(frame(3))
        assert segment.port.recv() == frame(3)


# ---- what the driver believes of the kernel ------------------------------------------------------------------------


def test_the_kernel_leaves_checksums_on_a_veth_unfinished() -> None:
    """Why link_mark.c exists: the field holds the pseudo-header's sum only."""
    veth("ams0", "ams0p")
    ip("addr", "add", "10.99.0.1/24", "dev", "ams0p")
    with packet_socket("ams0") as link:
        mac = link.getsockname()[4].hex(":")
    ip("neigh", "add", "10.99.0.2", "lladdr", mac, "dev", "ams0p")
    port = Port("xdp:ams0", flags=lib.AMS_PORT_ALL)
    assert port.info.caps & lib.AMS_CAP_CSUM_RX
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        client.connect_ex(("10.99.0.2", 80))
        packet = Ether(port.recv())
    written = packet[TCP].chksum
    del packet[TCP].chksum
    assert Ether(bytes(packet))[TCP].chksum != written
    port.close()


def test_frames_that_are_not_the_users_reach_the_system() -> None:
    """A port that serves no address leaves everything to the kernel."""
    veth("ams0", "ams0p")
    ip("addr", "add", "10.99.0.1/24", "dev", "ams0p")
    port = Port("xdp:ams0")
    with packet_socket("ams0") as system, packet_socket("ams0p") as peer:
        mac = system.getsockname()[4].hex(":")
        packets = [bytes(Ether(dst=mac) / layer / UDP(dport=9) / bytes(50))
                   for layer in (IP(dst="10.99.0.2"), IPv6(dst="fd99::2"))]  # fmt: skip
        for packet in [*packets, frame(1)]:
            peer.send(packet)
            while system.recv(70000) != packet:
                pass
    assert port.try_recv() == "EAGAIN"
    assert port.info.rx_frames == 0
    port.close()
