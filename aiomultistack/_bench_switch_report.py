"""How `aiomultistack bench switch` shows its result to people."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from aiomultistack import _bench_port
from aiomultistack._bench_switch import Latency, Result
from aiomultistack._ui import microseconds


def table(result: Result) -> Table:
    """The rates."""
    title = f"Through the switch, one core, rings of {result.plan.slots} slots"
    rates = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "ports", "bytes", "Mpps", "Gb/s"):
        rates.add_column(name, justify="right" if name else "left", no_wrap=True)
    for cell in result.cells:
        rates.add_row(f"IPv{cell.family}", str(cell.ports), str(cell.size), f"{cell.mpps:.2f}", f"{cell.gbps:.1f}")
    return rates


def lines(result: Result) -> Iterator[str]:
    """What belongs below the table."""
    yield from map(_latency, result.latencies)
    if result.ratio is not None and result.reference is not None:
        theirs = result.reference.mpps / result.ratio
        yield (
            f"testpmd between two memif ports, without a look-up: {theirs:.2f} Mpps; ours is"
            f" {result.ratio:.2f} times that"
        )
    if result.xdp is not None:
        size = result.plan.sizes[0]
        kinds = ((kind, result.xdp.median(kind, size, "mpps")) for kind in _bench_port.KINDS)
        rates = ", ".join(f"{kind} {rate:.3g}" for kind, rate in kinds)
        yield f"xdp: on a veth pair, in copy mode, frames of {size} bytes, Mpps: {rates}"
    if result.cores[0] == result.cores[1]:
        yield "Switch and clients shared one core: the figures say little."


def _latency(latency: Latency) -> str:
    """One line about a way through the switch."""
    what = "idle" if latency.load == "idle" else f"at {latency.rate / 1e6:.1f} Mpps ({latency.load} of what it moves)"
    lost = f"; {latency.lost:,} of {latency.probes:,} probes were lost" if latency.lost else ""
    if not latency.samples:
        return f"Latency, {what}: not known, since no probe arrived"
    p50, p99 = microseconds(latency.p50 / 1e3), microseconds(latency.p99 / 1e3)
    return f"Latency, {what}: p50 {p50}, p99 {p99}{lost}"
