"""The kernel's stack on the switch, by a TAP: as its host port without an uplink, as its uplink, and in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.lab import command, namespace, tap_name

from aiomultistack import _netns

from .stage import HOST4, HOST6, Process, connecting, running, serving
from .test_one_address import KERNEL_SERVER, PROBE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}"),
]

KERNEL4, KERNEL6 = "10.77.0.1", "fd77::1"


@pytest.fixture
def apart() -> Iterator[None]:
    with namespace():
        yield


def kernel(program: str, *arguments: str) -> Process:
    """A program on the kernel's stack."""
    import sys

    return Process([sys.executable, "-c", program, *arguments])


@pytest.mark.parametrize("option", ["--host", "--uplink"])
def test_the_kernel_and_a_stack_talk_over_a_tap(apart: None, tmp_path: Path, option: str) -> None:
    options = [option, f"tap:{tap_name()}", "--host-address", f"{KERNEL4}/24", "--host-address", f"{KERNEL6}/64"]
    with running(tmp_path, *options) as switch:
        server, client = serving(switch, 8001), connecting(switch)
        probe, kernel_server = kernel(PROBE), kernel(KERNEL_SERVER, "8000")
        try:
            probe.expect("ready")
            kernel_server.expect("serving")
            for ours, theirs in ((HOST4, KERNEL4), (HOST6, KERNEL6)):
                assert probe.ask(f"{ours} 8001 hello") == f"HELLO {server.pid}"
                assert client.ask(f"{theirs} 8000 hello") == f"HELLO {kernel_server.pid}"
                assert probe.ask(f"{ours} 8002 hello") == "ConnectionRefusedError ECONNREFUSED"
                command("ping", "-c", "1", "-W", "5", ours)
        finally:
            probe.close()
            kernel_server.close()
