"""One contract, every driver: what a port does, whatever is behind it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

import pytest
from aiomultistack._native import lib
from fake_netmap import FakePipe
from port_segment import (
    MemSegment,
    Port,
    PortError,
    Segment,
    ShmSegment,
    SwitchSegment,
    TapSegment,
    XdpSegment,
    ip,
    packet_socket,
    quiet_namespace,
    vnet_header,
)
from scapy.layers.inet import IP, TCP, in4_pseudoheader
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.utils import checksum

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE = 1, 2, 0x1000, 0x100


def frame(number: int, size: int = 60) -> bytes:
    """A frame of an experimental EtherType (IEEE 802), broadcast, with a number in it."""
    header = bytes(Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff", type=0x88B5))
    return header + (number.to_bytes(4, "big") * (size // 4 + 1))[: size - len(header)]


@pytest.fixture(
    params=["mem", "mem-offload", "shm", "switch",
            pytest.param("netmap-fake", marks=pytest.mark.timeout(300)),  # compiles the driver first
            *(pytest.param(kind, marks=needs_root) for kind in ("tap", "tap-plain", "xdp"))]
)
def segment(request: pytest.FixtureRequest) -> Iterator[Segment]:
    kind: str = request.param
    with contextlib.ExitStack() as stack:
        made: MemSegment | ShmSegment | FakePipe | TapSegment | XdpSegment
        if kind.startswith("mem"):
            made = MemSegment(0 if kind == "mem-offload" else lib.AMS_HUB_NO_OFFLOAD)
        elif kind in ("shm", "switch"):
            made = ShmSegment() if kind == "shm" else SwitchSegment()
        elif kind == "netmap-fake":
            made = FakePipe()
        else:
            stack.enter_context(quiet_namespace())
            if kind == "xdp":
                made = XdpSegment("ams0")
            else:
                made = TapSegment("ams0", lib.AMS_PORT_NO_OFFLOAD if kind == "tap-plain" else 0)
        stack.callback(made.close)
        yield made


@pytest.fixture
def namespace() -> Iterator[None]:
    with quiet_namespace():
        yield


# ---- the contract --------------------------------------------------------------


def test_info_describes_the_link(segment: Segment) -> None:
    info = segment.port.info
    assert info.mtu == 1500
    assert os.fstat(info.fd)
    if isinstance(segment, XdpSegment):
        assert info.caps & ~(lib.AMS_CAP_CSUM_RX | lib.AMS_CAP_LRO) == 0
    else:
        assert info.caps in (0, 31)
    assert info.rx_frames == info.tx_frames == info.rx_dropped == info.tx_dropped == 0
    if isinstance(segment, TapSegment):
        assert bytes(info.mac) == segment.peer.getsockname()[4]
    elif isinstance(segment, XdpSegment):
        with packet_socket("ams0") as link:
            assert bytes(info.mac) == link.getsockname()[4]
    elif isinstance(segment, ShmSegment):
        assert bytes(info.mac) == bytes([2, 0, 0, 0, 0, 1])
    else:
        assert bytes(info.mac) == bytes(6)


@pytest.mark.parametrize("size", [14, 15, 60, 1513, 1514])
def test_frames_arrive_as_they_were_sent(segment: Segment, size: int) -> None:
    assert segment.port.send(frame(1, size)) == "OK"
    assert segment.peer_recv() == frame(1, size)
    segment.peer_send(frame(2, size))
    assert segment.port.recv() == frame(2, size)


def test_order_is_kept_and_counters_count(segment: Segment) -> None:
    for number in range(100):
        assert segment.port.send(frame(number)) == "OK"
        segment.peer_send(frame(number, 200))
    assert [segment.peer_recv() for _ in range(100)] == [frame(number) for number in range(100)]
    assert [segment.port.recv() for _ in range(100)] == [frame(number, 200) for number in range(100)]
    info = segment.port.info
    assert (info.tx_frames, info.tx_bytes) == (100, 6000)
    assert (info.rx_frames, info.rx_bytes) == (100, 20000)
    assert info.rx_dropped == info.tx_dropped == 0


def test_nothing_there_is_eagain_and_fd_is_silent(segment: Segment) -> None:
    assert segment.port.try_recv() == "EAGAIN"
    assert not segment.port.readable()
    segment.peer_send(frame(1))
    segment.peer_send(frame(2))
    assert segment.port.recv() == frame(1)
    assert segment.port.readable()
    assert segment.port.recv() == frame(2)
    assert segment.port.try_recv() == "EAGAIN"
    assert not segment.port.readable()


def test_a_short_buffer_cuts_but_tells_the_length(segment: Segment) -> None:
    segment.peer_send(frame(1, 300))
    assert segment.port.readable(5)
    assert segment.port.try_recv(20) == (300, frame(1, 300)[:20])
    assert segment.port.try_recv() == "EAGAIN"


def test_impossible_lengths_are_refused(segment: Segment) -> None:
    assert segment.port.send(frame(1)[:13]) == "EINVAL"
    assert segment.port.send(frame(1, 1515)) == "EMSGSIZE"
    assert segment.port.info.tx_frames == 0


def test_no_fd_and_no_memory_stays(segment: Segment) -> None:
    segment.port.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10 if isinstance(segment, XdpSegment) else 50):  # the kernel takes its time with AF_XDP's memory
        port = segment.again()
        port.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("", "tap:, mem:, shm:, xdp:"),
        ("eth0", "tap:, mem:, shm:, xdp:"),
        ("netmapp:x", "tap:, mem:, shm:, xdp:"),
        ("tap:", "name"),
        ("tap:with/slash", "with/slash"),
        ("tap:tap%d", "tap%d"),
        ("tap:a-name-too-long-for-linux", "too long"),
        ("mem:", "name"),
        ("mem:x", "hub"),
        ("netmap:", "vale0:x"),
        ("netmap:eth0/z", "/x"),
        ("vale0:", "lacks"),
    ],
)
def test_bad_specs_say_what_is_wrong(spec: str, word: str) -> None:
    with pytest.raises(PortError) as caught:
        Port(spec)
    assert caught.value.status == "EINVAL"
    assert caught.value.errno == errno.EINVAL
    assert word in caught.value.text


# ---- what is particular to TAP ----------------------------------------------------


def make_persistent(name: str, flags: int) -> None:
    """Makes a device that outlives this call, as ``ip tuntap add`` does."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    finally:
        os.close(fd)


@needs_root
@pytest.mark.usefixtures("namespace")
def test_without_permission_the_message_says_what_to_do() -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(PortError) as caught:
            Port("tap:ams0")
    finally:
        os.seteuid(0)
    assert caught.value.status in ("EPERM", "EACCES")
    assert "root" in caught.value.text
    assert "ip tuntap add dev ams0 mode tap user $USER" in caught.value.text


@needs_root
@pytest.mark.usefixtures("namespace")
def test_a_device_in_use_is_busy() -> None:
    first = Port("tap:ams0")
    with pytest.raises(PortError) as caught:
        Port("tap:ams0")
    first.close()
    assert caught.value.status == "EBUSY"
    assert "another process" in caught.value.text


@needs_root
@pytest.mark.usefixtures("namespace")
def test_a_device_of_another_kind_is_no_tap() -> None:
    make_persistent("tun9", IFF_TUN | IFF_NO_PI)
    for name in ("lo", "tun9"):
        with pytest.raises(PortError) as caught:
            Port(f"tap:{name}")
        assert caught.value.status == "EINVAL"
        assert "no TAP device" in caught.value.text


@needs_root
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("flags", [0, IFF_MULTI_QUEUE])
@pytest.mark.parametrize("ours", [0, 1])
def test_a_persistent_device_can_be_attached_to(flags: int, ours: int) -> None:
    make_persistent("ams0", IFF_TAP | IFF_NO_PI | flags)
    ip("link", "set", "ams0", "mtu", "1400", "address", "02:00:00:00:00:77")
    for _ in range(2):
        segment = TapSegment("ams0", ours)
        assert segment.port.info.mtu == 1400
        assert bytes(segment.port.info.mac).hex(":") == "02:00:00:00:00:77"
        assert segment.port.send(frame(5)) == "OK"
        assert segment.peer_recv() == frame(5)
        segment.close()


@needs_root
@pytest.mark.usefixtures("namespace")
def test_a_deleted_device_breaks_the_port_for_good() -> None:
    segment = TapSegment("ams0", 0)
    ip("link", "del", "ams0")
    assert segment.port.try_recv() == "ENODEV"
    assert segment.port.try_recv() == "ENODEV"
    segment.port.send(frame(1))
    assert segment.port.info.tx_dropped == 1
    segment.close()


@needs_root
@pytest.mark.usefixtures("namespace")
def test_a_device_that_is_down_drops_and_counts() -> None:
    segment = TapSegment("ams0", 0)
    ip("link", "set", "ams0", "down")
    assert segment.port.send(frame(1)) == "OK"
    assert (segment.port.info.tx_frames, segment.port.info.tx_dropped) == (0, 1)
    ip("link", "set", "ams0", "up")
    assert segment.port.send(frame(2)) == "OK"
    assert segment.port.info.tx_frames == 1
    segment.close()


@needs_root
@pytest.mark.usefixtures("namespace")
def test_a_dry_pool_drops_instead_of_spinning() -> None:
    port = Port("tap:ams0", pool_frames=1)
    ip("link", "set", "ams0", "up")
    with packet_socket("ams0") as peer:
        peer.send(frame(1))
        assert port.readable(5)
        assert port.try_recv() == "EAGAIN"
        assert not port.readable()
    assert port.info.rx_dropped == 1
    port.close()


def super_frame(payload: bytes) -> bytes:
    """A TCP segment of any length, its checksum left to a device: only the pseudo-header's sum is there."""
    network = IP(src="10.0.0.1", dst="10.0.0.2")
    pseudo = in4_pseudoheader(6, network, 20 + len(payload))
    transport = TCP(flags="A", chksum=checksum(pseudo) ^ 0xFFFF)
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network / transport / Raw(payload))


@needs_root
@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("size", [1800, 1921, 5000, 40000, 65000])
def test_super_frames_come_whole_or_cut_to_the_mtu(size: int) -> None:
    payload = os.urandom(size)
    whole = super_frame(payload)
    for flags in (0, lib.AMS_PORT_NO_OFFLOAD):
        segment = TapSegment("ams0", flags)
        with packet_socket("ams0", vnet=True) as peer:
            peer.send(vnet_header(gso_type=1, header_length=54, gso_size=1460, csum_start=34, csum_offset=16) + whole)
        if not flags:
            got = segment.port.recv()
            assert got[54:] == payload
            assert got[:50] == whole[:50]
        else:
            collected = b""
            while len(collected) < size:
                part = segment.port.recv()
                assert len(part) <= 1514
                packet = Ether(part)
                written = packet[TCP].chksum
                del packet[TCP].chksum
                assert Ether(bytes(packet))[TCP].chksum == written
                collected += bytes(packet[TCP].payload)
            assert collected == payload
        segment.close()
