"""The network layer against the kernel's, across a TAP: ping, UDP, errors, in a namespace of the test's own."""

from __future__ import annotations

import ipaddress
import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiomultistack._native import ffi, lib
from support import own_namespace

from .world import endpoint, status_name

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, TAP"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun"),
]

OURS = {4: "10.7.0.2", 6: "fd07::2"}
KERNEL = {4: "10.7.0.1", 6: "fd07::1"}
FAMILIES = pytest.mark.parametrize("family", [4, 6])
PATIENCE = 5.0  # seconds


def wait_until_usable() -> None:
    """Waits until the kernel's IPv6 address isn't tentative: it finishes that in the background, even without DAD."""
    wanted = ipaddress.IPv6Address(KERNEL[6]).packed.hex()
    end = time.monotonic() + PATIENCE
    while True:
        rows = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
        if any(row[0] == wanted and not int(row[4], 16) & 0x40 for row in rows):
            return
        assert time.monotonic() < end, "the kernel's IPv6 address stays tentative"
        select.select([], [], [], 0.005)


class Tap:
    """A node on a TAP whose other end is the kernel's."""

    def __init__(self, flags: int) -> None:
        spec = ffi.new("char[]", b"tap:amsnet0")
        port = ffi.new("struct ams_port_config *", {"spec": spec, "flags": flags})
        config = ffi.new("struct ams_stack_config *")
        addresses = ffi.new("struct ams_ifaddr[]", 2)
        for slot, (address, prefix) in zip(addresses, [(OURS[4], 24), (OURS[6], 64)], strict=True):
            slot.address = endpoint(address)[0]
            slot.prefix_len = prefix
        config.addresses = addresses
        config.n_addresses = 2
        config.seed = [1, 2]
        config.flags = lib.AMS_STACK_NO_DAD
        error = ffi.new("char[]", 256)
        node = ffi.new("struct ams_node **")
        assert lib.ams_node_new(node, port, config, error, 256) == 0, ffi.string(error)
        self.node = node[0]
        self.stack = lib.ams_node_stack(self.node)
        info = ffi.new("struct ams_port_info *")
        lib.ams_port_info(lib.ams_node_port(self.node), info)
        self.fd = info.fd
        self._events = ffi.new("int32_t[]", 256)
        self._blob = ffi.new("char[]", 65536)
        for command in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{KERNEL[4]}/24", "dev", "amsnet0"],
            ["addr", "add", f"{KERNEL[6]}/64", "dev", "amsnet0", "nodad"],
            ["link", "set", "amsnet0", "up"],
        ):
            subprocess.run(["ip", *command], check=True)
        wait_until_usable()

    def step(self, timeout: float) -> None:
        """Serves the port for one turn."""
        select.select([self.fd], [], [], timeout)
        assert lib.ams_node_poll(self.node, lib.AMS_NOW, self._events, 64, self._blob, 65536) >= 0
        lib.ams_node_flush(self.node, lib.AMS_NOW)

    def serve(self, until: Callable[[], Any]) -> Any:
        """Serves until ``until()`` gives something true, and returns that."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.step(0.01)
            if result := until():
                return result
        raise AssertionError("nothing came of it")

    def counters(self) -> dict[str, int]:
        values = ffi.new("uint64_t[]", 512)
        count = lib.ams_node_counters(self.node, values, 512)
        return {ffi.string(lib.ams_counter_name(i)).decode(): values[i] for i in range(count)}


@pytest.fixture(params=[0, lib.AMS_PORT_NO_OFFLOAD], ids=["offload", "plain"])
def tap(request: pytest.FixtureRequest) -> Iterator[Tap]:
    with own_namespace():
        tap = Tap(request.param)
        try:
            yield tap
        finally:
            lib.ams_node_free(tap.node)


@pytest.mark.skipif(shutil.which("ping") is None, reason="needs ping(8)")
@FAMILIES
@pytest.mark.parametrize("size", [56, 1472, 4000, 60000])
def test_the_kernel_pings_us(tap: Tap, family: int, size: int) -> None:
    for _ in range(3):  # one by one: ping waits for the last of several no longer than for the others
        command = ["ping", f"-{family}", "-c", "1", "-W", "4", "-s", str(size), OURS[family]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ping:
            try:
                tap.serve(lambda ping=ping: ping.poll() is not None)
            finally:
                ping.kill()
            assert ping.stdout is not None
            output = ping.stdout.read()
        counters = {name: value for name, value in tap.counters().items() if value}
        assert ping.returncode == 0, (output, counters)
        assert " 0% packet loss" in output
        assert "wrong" not in output
    assert counters["stack.icmp_echo"] == 3


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 20000, 65000])
def test_udp_with_the_kernel(tap: Tap, family: int, size: int) -> None:
    data = bytes(i * 7 & 255 for i in range(size))
    id_ = lib.ams_udp_open(tap.stack, endpoint(OURS[family], 7), ffi.NULL, 0)
    assert id_ >= 0
    sender = ffi.new("struct ams_endpoint *")
    buffer = ffi.new("char[]", 65536)

    def received() -> bytes | None:
        length = lib.ams_udp_recv(tap.stack, id_, sender, buffer, 65536)
        return b">" + bytes(ffi.buffer(buffer, length)) if length >= 0 else None

    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as kernel:
        kernel.setblocking(False)
        kernel.bind((KERNEL[family], 0))
        kernel.sendto(data, (OURS[family], 7))
        assert tap.serve(received) == b">" + data
        assert sender.port == kernel.getsockname()[1]
        assert lib.ams_udp_send(tap.stack, id_, sender, data, size, lib.AMS_NOW) == 0
        tap.serve(lambda: select.select([kernel], [], [], 0)[0])
        reply, address = kernel.recvfrom(65536)
        assert reply == data
        assert address[1] == 7
    assert tap.counters()["stack.udp_bad"] == 0


@FAMILIES
def test_the_kernel_is_refused(tap: Tap, family: int) -> None:
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as kernel:
        kernel.setblocking(False)
        kernel.connect((OURS[family], 9))
        kernel.send(b"x")
        error = tap.serve(lambda: kernel.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        assert os.strerror(error) == "Connection refused"


@FAMILIES
def test_the_kernel_refuses_us(tap: Tap, family: int) -> None:
    id_ = lib.ams_udp_open(tap.stack, ffi.NULL, endpoint(KERNEL[family], 9), 0)
    assert lib.ams_udp_send(tap.stack, id_, ffi.NULL, b"x", 1, lib.AMS_NOW) == 0

    def status() -> str | None:
        result = lib.ams_udp_recv(tap.stack, id_, ffi.NULL, ffi.NULL, 0)
        return None if result == -4 and status_name(result) == "EAGAIN" else status_name(result)

    assert tap.serve(status) == "ECONNREFUSED"


@FAMILIES
def test_the_kernel_knows_our_mac(tap: Tap, family: int) -> None:
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as kernel:
        kernel.sendto(b"x", (OURS[family], 9))
        tap.serve(lambda: tap.counters()["stack.udp_rx"])
    table = subprocess.run(
        ["ip", f"-{family}", "neigh", "show", OURS[family]], check=True, capture_output=True, text=True
    ).stdout
    assert "lladdr" in table
    assert "FAILED" not in table
