"""The command's measurements: `aiomultistack bench`.

As in `_cli`, each imports what it needs when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure this machine, side by side with the kernel's stack."""


def _words(*choices: str) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Parses a comma-separated list of words out of `choices`."""

    def convert(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))
        for word in words:
            if word not in choices:
                raise click.BadParameter(f"{word!r} is none of {', '.join(choices)}.", context, parameter)
        if not words:
            raise click.BadParameter(f"name at least one of {', '.join(choices)}.", context, parameter)
        return words

    return convert


def _numbers(
    example: str, allowed: Callable[[int], bool], rule: str
) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """Parses a comma-separated list of numbers; rule: what is said if one is not allowed."""

    def convert(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
        try:
            numbers = tuple(dict.fromkeys(int(word) for word in value.split(",")))
        except ValueError:
            problem = f"{value!r} is not a list of numbers such as {example}."
            raise click.BadParameter(problem, context, parameter) from None
        if not all(map(allowed, numbers)):
            raise click.BadParameter(rule, context, parameter)
        return numbers

    return convert


_FRAME_SIZES = _numbers("64,1514", lambda size: 14 <= size <= 1514, "frames are from 14 to 1514 bytes long.")
_PORT_COUNTS = _numbers(
    "2,256",
    lambda count: count == 1 or (0 < count <= 4096 and count % 2 == 0),
    "numbers of ports are 1, or even and at most 4096.",
)


@bench.command()
@click.option(
    "--sizes",
    metavar="KB,...",
    callback=_numbers("1,4,32", lambda size: 0 < size <= 1 << 16, "sizes are from 1 to 65536 KB."),
    default="1,4,8,16,24,32",
    show_default=True,
    help="Response bodies.",
)
@click.option(
    "--modes",
    metavar="MODE,...",
    callback=_words("keep-alive", "close"),
    default="keep-alive,close",
    show_default=True,
    help="Persistent connections; one connection for each transaction.",
)
@click.option(
    "--flavours",
    metavar="NAME,...",
    callback=_words("multistack", "uvloop", "asyncio"),
    default="multistack,uvloop,asyncio",
    show_default=True,
    help="Servers to measure.",
)
@click.option(
    "--port",
    "ports",
    metavar="PORT,...",
    callback=_words("tap:", "xdp:"),
    default="tap:",
    show_default=True,
    help="What ours is reached over: a TAP, or AF_XDP on a veth pair.",
)
@click.option("--seconds", type=click.IntRange(1), default=2, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each; the median counts.")
@click.option(
    "--connections", type=click.IntRange(1, 10000), default=64, show_default=True, help="How many at a time."
)
@click.option(
    "--app",
    type=click.Choice(("protocol", "aiohttp")),
    default="protocol",
    show_default=True,
    help="A minimal asyncio.Protocol, or an aiohttp application.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table in Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def http(as_json: bool, as_markdown: bool, ports: tuple[str, ...], **options: Any) -> None:
    """HTTP servers on user-space TCP and on the kernel's, loaded by wrk.

    Ours is reached over a TAP (or what --port says), uvloop's and asyncio's over a veth pair between two
    namespaces.  Each server has one core, wrk another.  Takes about as many seconds as flavours x modes x
    sizes x rounds x seconds.  Needs root and wrk.
    """
    from aiomultistack import _bench, _bench_report
    from aiomultistack._ui import emit_json, out, steps

    ours = [{"tap:": "multistack", "xdp:": "multistack-xdp"}[port] for port in ports]
    others = [name for name in options["flavours"] if name != "multistack"]
    options["flavours"] = tuple((ours if "multistack" in options["flavours"] else []) + others)
    plan = _bench.Plan(**options)
    _bench.check(plan)
    _bench.interruptible()
    with steps("starting the servers", plan.runs) as progress:
        result = _bench.measure(plan, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    if as_markdown:
        click.echo(_bench_report.markdown(result))
        return
    for table in _bench_report.tables(result):
        out.print(table)
        out.print()
    for note in _bench_report.notes(result):
        out.print(note, soft_wrap=True)


@bench.command()
@click.option(
    "--connections", type=click.IntRange(1, 60000), default=10000, show_default=True, help="How many to open."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def idle(connections: int, as_json: bool) -> None:
    """Memory that idle keep-alive connections take.

    Client and server are two loops of this process, so that neither root nor a device is needed.
    """
    from aiomultistack import _bench_idle
    from aiomultistack._ui import emit_json, out, size, steps

    with steps("opening connections", connections + 64) as progress:
        result = _bench_idle.measure(connections, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    out.print(f"{result.connections:,} idle keep-alive connections, opened in {result.seconds:.1f} s.  Each takes")
    out.print(f"  {size(result.engine_server):>8}  of C in the engine, at the server's end")
    out.print(f"  {size(result.engine_client):>8}  of C in the engine, at the client's end")
    out.print(f"  {size(result.resident):>8}  of resident memory, both ends, with all objects of Python's")


@bench.command()
@click.option(
    "--connections",
    metavar="N,...",
    callback=_numbers("10,1000", lambda count: 0 < count <= 200_000, "numbers of connections are from 1 to 200000."),
    default="10,100,1000,10000,100000",
    show_default=True,
    help="How many are served in turn.",
)
@click.option(
    "--idle",
    metavar="N,...",
    callback=_numbers("100,1000", lambda count: 0 < count <= 100_000, "idle ones are from 1 to 100000."),
    default="100,1000,10000,100000",
    show_default=True,
    help="How many others are silent, in a second table: beside 10 that are served.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each; the median counts.")
@click.option(
    "--operations", type=click.IntRange(1), default=500_000, show_default=True, help="Segments of one run, at least."
)
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def engine(
    connections: tuple[int, ...], idle: tuple[int, ...], rounds: int, operations: int, as_json: bool
) -> None:
    """Nanoseconds that the engine takes for a segment, and for a whole transaction.

    The engine alone: no port, no switch, no Python, no checksums, and payload is read in place.
    """
    from rich import box
    from rich.table import Table

    from aiomultistack import _bench_engine
    from aiomultistack._ui import emit_json, out, steps

    served = _bench_engine.BESIDE_IDLE
    cells = [*((count, 0) for count in connections), *((served, count) for count in idle)]
    if served not in connections:
        cells.append((served, 0))
    with steps("measuring", rounds * len(cells) * len(_bench_engine.KINDS)) as progress:
        result = _bench_engine.measure(cells, rounds, operations, progress)
    if as_json:
        emit_json(result.as_dict())
        return

    def table(title: str, columns: Sequence[int]) -> Table:
        made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        made.add_column("")
        for count in columns:
            made.add_column(f"{count:,}", justify="right", no_wrap=True)
        return made

    busy = table("ns in the engine, by connections", connections)
    for kind, (_, what) in _bench_engine.KINDS.items():
        busy.add_row(what, *(f"{result.median(kind, count):,.0f}" for count in connections))
    busy.add_row("bytes when idle, tables too", *(f"{result.memory('data', count):,.0f}" for count in connections))
    out.print(busy)
    silent = table(f"ns in the engine, {served} connections beside so many that are silent", (0, *idle))
    for kind, (_, what) in _bench_engine.KINDS.items():
        silent.add_row(what, *(f"{result.median(kind, served, count):,.0f}" for count in (0, *idle)))
    out.print(silent)


@bench.command("switch")
@click.option("--sizes", metavar="BYTES,...", callback=_FRAME_SIZES, default="64,128,256,512,1024,1514",
              show_default=True, help="Frames, between two ports.")  # fmt: skip
@click.option("--ports", metavar="N,...", callback=_PORT_COUNTS, default="1,2,4,8,16,32,64,128,256",
              show_default=True, help="Ports, with the smallest frames.")  # fmt: skip
@click.option("--family", "families", type=click.Choice(("4", "6", "both")), default="both", show_default=True,
              help="IP version.")  # fmt: skip
@click.option("--slots", type=click.IntRange(8, 4096), default=128, show_default=True, help="Of each port's two rings.")
@click.option("--spread", is_flag=True, help="Each frame to another port, instead of to the neighbour.")
@click.option("--peer", type=click.Choice(("none", "dpdk")), default="none", show_default=True,
              help="Run DPDK's testpmd between two memif ports beside it.")  # fmt: skip
@click.option("--xdp/--no-xdp", default=None, help="Measure xdp: on a veth pair too.  [default: as root]")
@click.option("--seconds", type=click.FloatRange(0.01), default=0.3, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def bench_switch(families: str, peer: str, xdp: bool | None, as_json: bool, **options: Any) -> None:
    """Frames a second through the switch, from port to port in shared memory, and how long they take.

    One core for the switch, another for the clients.  Every frame's source is validated and its destination looked
    up.  Needs no root, but for the rate of xdp: on a veth pair, which comes last.
    """
    from aiomultistack import _bench_port, _bench_switch, _bench_switch_report, _netns
    from aiomultistack._ui import emit_json, out, steps

    plan = _bench_switch.Plan(
        families=(4, 6) if families == "both" else (int(families),),
        peer="" if peer == "none" else peer,
        xdp=not _netns.why_not() if xdp is None else xdp,
        **options,
    )
    runs = plan.rounds * (len(plan.cells) + (len(_bench_port.KINDS) if plan.xdp else 0))
    with steps("measuring", runs) as progress:
        result = _bench_switch.measure(plan, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    out.print(_bench_switch_report.table(result))
    for line in _bench_switch_report.lines(result):
        out.print(line)


@bench.command()
@click.argument("kind", type=click.Choice(("xdp",)), default="xdp")
@click.option("--sizes", metavar="BYTES,...", callback=_FRAME_SIZES, default="64,256,1514", show_default=True,
              help="Frames.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Length of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def port(kind: str, sizes: tuple[int, ...], seconds: float, rounds: int, as_json: bool) -> None:
    """Frames a second that a port receives, sends and echoes, without a stack.

    Over a veth pair between two namespaces, and so in AF_XDP's copy mode: a NIC whose driver knows zero copy does
    better.  Needs root.
    """
    from rich import box
    from rich.table import Table

    from aiomultistack import _bench, _bench_port
    from aiomultistack._ui import emit_json, out, steps

    _bench_port.check()
    _bench.interruptible()
    with steps("measuring", rounds * len(sizes) * len(_bench_port.KINDS)) as progress:
        result = _bench_port.measure(kind, sizes, seconds, rounds, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    table = Table(title=f"{kind}: on a veth pair", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("bytes", "", "Mframes/s", "Gb/s", "CPU/frame"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for size in sizes:
        for what in _bench_port.KINDS:
            rate = result.median(what, size, "mpps")
            cost = result.median(what, size, "cpu_each")
            table.add_row(str(size), what, f"{rate:.2f}", f"{rate * size * 8 / 1e3:.2f}", f"{cost:.0f} ns")
    out.print(table)


@bench.command()
@click.option(
    "--kinds",
    metavar="KIND,...",
    default="echo-1,echo-10,echo-100,connect,transaction",
    show_default=True,
    help="What is measured.",
)
@click.option("--flavours", metavar="NAME,...", default="multistack,uvloop,asyncio", show_default=True, help="Who is.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each; the median counts.")
@click.option(
    "--operations", type=click.IntRange(100), default=50_000, show_default=True,
    help="Round trips of one run; connections: a fifth.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def loop(kinds: str, flavours: str, rounds: int, operations: int, as_json: bool) -> None:
    """CPU time that the loop takes for round trips and connections, beside uvloop and asyncio.

    Both ends are on one loop: ours with two stacks in memory, the others over the kernel's loopback.
    """
    from rich import box
    from rich.table import Table

    from aiomultistack import _bench_loop
    from aiomultistack._ui import emit_json, microseconds, out, steps

    chosen = _names("--kinds", kinds, tuple(_bench_loop.KINDS)), _names("--flavours", flavours, _bench_loop.FLAVOURS)
    with steps("measuring", rounds * len(chosen[0]) * len(chosen[1])) as progress:
        result = _bench_loop.measure(*chosen, rounds, operations, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    title = f"CPU time, both ends, median of {rounds} runs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", *chosen[1], "per CPU second, of uvloop's"):
        table.add_column(name, justify="right" if name else "left")
    for kind in chosen[0]:
        cells = [microseconds(result.cpu_us(kind, flavour) or 0.0) for flavour in chosen[1]]
        gain = result.gain(kind)
        table.add_row(_bench_loop.KINDS[kind][1], *cells, "" if gain is None else f"{gain:.2f} x")
    out.print(table)


def _names(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """An option's comma-separated choice of names."""
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}.", param_hint=option)
    if not names:
        raise click.BadParameter(f"name at least one of {', '.join(known)}.", param_hint=option)
    return names
