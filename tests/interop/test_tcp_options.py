"""5 MB both ways at once between the stack's TCP and the kernel's, with the kernel's options switched on and off, with
and without offloads, at several MTUs, and over links with faults; IPv4 and IPv6, either side opening.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from .faulty import FaultyLink
from .kernel_peer import (
    accept_and_exchange,
    connect_and_exchange,
    digest,
    listener,
    payload,
    stream_exchange,
)
from .lab import Bench, kernel_host, namespace, set_sysctl, stack_host, stack_loop

SIZE = 5 << 20
OURS, THEIRS = payload(1, SIZE), payload(2, SIZE)
FAMILIES = pytest.mark.parametrize("family", [4, 6])
TIMESTAMPS, SACK, WSCALE = 1, 2, 4


@contextlib.contextmanager
def sysctls(values: dict[str, object]) -> Iterator[None]:
    """A namespace whose TCP has these settings."""
    with namespace():
        for name, value in values.items():
            set_sysctl(f"net.ipv4.tcp_{name}", value)
        yield


async def transfer_in(family: int, size: int = SIZE) -> Any:
    """The kernel connects; returns what the stack knew of the connection when it had ended."""
    info = None
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal info
        info = asyncio.get_running_loop().multistack.connections()[0]  # type: ignore[attr-defined]
        done.set_result(await stream_exchange(reader, writer, OURS[:size]))

    server = await asyncio.start_server(serve, stack_host(family), 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        theirs = await asyncio.to_thread(connect_and_exchange, stack_host(family), port, THEIRS[:size])
        assert theirs == digest(OURS[:size])
        assert await done == digest(THEIRS[:size])
    return info


async def transfer_out(family: int, size: int = SIZE) -> Any:
    """The stack connects; returns what it knew of the connection at its start."""
    with listener(kernel_host(family)) as listening:
        peer = asyncio.ensure_future(asyncio.to_thread(accept_and_exchange, listening, THEIRS[:size]))
        reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
        info = asyncio.get_running_loop().multistack.connections()[0]  # type: ignore[attr-defined]
        assert await stream_exchange(reader, writer, OURS[:size]) == digest(THEIRS[:size])
        assert await peer == digest(OURS[:size])
    return info


def both(bench: Bench, family: int, size: int = SIZE, timeout: float = 50.0) -> list[Any]:
    """Either side opens, in turn."""
    return [bench.run(functools.partial(each, family, size), timeout) for each in (transfer_in, transfer_out)]


# ---- options ---------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
@pytest.mark.parametrize("sack", [1, 0], ids=["sack", "nosack"])
@pytest.mark.parametrize("timestamps", [1, 0], ids=["ts", "nots"])
@pytest.mark.parametrize("window_scaling", [1, 0], ids=["wscale", "nowscale"])
def test_options(family: int, offload: bool, sack: int, timestamps: int, window_scaling: int) -> None:
    """What the kernel doesn't offer is not used, in either direction of opening."""
    with (
        sysctls({"sack": sack, "timestamps": timestamps, "window_scaling": window_scaling}),
        stack_loop(offload=offload) as bench,
    ):
        wanted = timestamps * TIMESTAMPS + sack * SACK + window_scaling * WSCALE
        assert [info.options for info in both(bench, family)] == [wanted, wanted]
        assert bench.loop.multistack.counters()["port.rx_dropped"] == 0


# ---- MTUs ------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("offload", [True, False], ids=["offload", "plain"])
@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_mtu(family: int, offload: bool, mtu: int) -> None:
    with namespace(), stack_loop(offload=offload, mtu=mtu) as bench:
        headers = 60 if family == 6 else 40
        for info in both(bench, family):
            assert info.snd_mss in (mtu - headers, mtu - headers - 12)  # with or without room for timestamps


# ---- faults ----------------------------------------------------------------------------------------------

FAULTS = {
    "loss": {"loss": 0.02},
    "reordering": {"reorder": 0.05},
    "duplication": {"duplicate": 0.05},
    "corruption": {"corrupt": 0.01},
    "everything": {"loss": 0.01, "reorder": 0.02, "duplicate": 0.01, "corrupt": 0.005},
}


@FAMILIES
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("sack", [1, 0], ids=["sack", "nosack"])
def test_faulty_link(family: int, faults: dict[str, float], sack: int) -> None:
    """A link that loses, reorders, duplicates and damages frames in both directions, by a seed."""
    with sysctls({"sack": sack}), FaultyLink(seed=family * 10 + sack, **faults) as link:
        with stack_loop(port=f"tap:{link.stack_side}", host_addresses=[], offload=False) as bench:
            link.start()
            both(bench, family, size=1 << 20)
        for name, probability in faults.items():
            assert probability == 0 or link.counts[name] > 0, f"no frame met with {name}"


@FAMILIES
@pytest.mark.parametrize("netem", ["loss 1%", "delay 5ms", "delay 2ms reorder 25% 50%", "duplicate 2%"])
def test_netem(family: int, netem: str) -> None:
    """Faults of the kernel's making, on its way to the stack."""
    with namespace(), stack_loop(offload=False) as bench:
        tc = shutil.which("tc")
        if tc is None:
            pytest.skip("tc is not installed")
        done = subprocess.run(
            [tc, "qdisc", "add", "dev", bench.config.port_name, "root", "netem", *netem.split()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"this kernel has no netem: {done.stderr.strip()}")
        both(bench, family)
