"""The `aiomultistack` command.

Each command imports what it needs when it runs, so that `aiomultistack run` costs a program's start
next to nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aiomultistack import __version__, _cli_switch

if TYPE_CHECKING:
    from aiomultistack import Config

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_F = TypeVar("_F", bound=Callable[..., Any])

#: Options of `run` that set a field of Config, with their help.
_FIELDS = {
    "port": ("PORT", "Where frames go: tap:NAME or mem:NAME."),
    "addresses": ("ADDR/LEN,...", "Addresses of the user-space stack."),
    "gateway": ("ADDR,...", "Gateways, one of each family at most."),
    "host-addresses": ("ADDR/LEN,...", "Addresses for the kernel's side of a TAP."),
}


@click.group(context_settings=_CONTEXT)
@click.version_option(__version__, message="aiomultistack %(version)s")
def cli() -> None:
    """asyncio on a TCP/IP stack in user-space.

    Unchanged programs run on it (run), a demonstration shows it at work (demo), ss, stats and top
    look into running processes, bench measures it against the kernel's stack on this machine.
    """


def _config_options(function: _F) -> _F:
    """Adds the options that configure the stack."""
    for name, (metavar, text) in reversed(_FIELDS.items()):
        function = click.option(f"--{name}", metavar=metavar, help=text)(function)
    function = click.option(
        "--set", "settings", metavar="FIELD=VALUE", multiple=True, help="Any other field of Config, e.g. mtu=9000."
    )(function)
    return click.option(
        "--config", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Configuration to read (TOML)."
    )(function)


#: Options of `run` that take no value.
_ALONE = ("-h", "--help", "--children", "--no-children")


class _RunCommand(click.Command):
    """A command whose options end where the program's begin: with its name."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Puts `--` where the program's own arguments begin."""
        position = 0
        while position < len(arguments) and arguments[position].startswith("-") and arguments[position] != "--":
            word = arguments[position]
            alone = "=" in word or word in _ALONE or (word.startswith("-m") and word != "-m")
            position += 1 if alone else 2
            if word.startswith("-m"):
                break
        if arguments[position : position + 1] != ["--"]:
            arguments = [*arguments[:position], "--", *arguments[position:]]
        return super().parse_args(context, arguments)


@cli.command(cls=_RunCommand)
@_config_options
@click.option(
    "--children/--no-children", default=None,
    help="Python processes that it starts too, or not; without either: on a switch.",
)
@click.option("-m", "module", metavar="MODULE", help="Run a module or package, like python -m.")
@click.argument("arguments", metavar="[SCRIPT] [ARGS]...", nargs=-1, type=click.UNPROCESSED)
def run(module: str | None, arguments: tuple[str, ...], children: bool | None, **options: Any) -> None:
    """Run an unchanged asyncio program on user-space TCP.

    Its servers and clients on the stack's addresses are served in user-space; whatever else it does goes
    where it always went.  What is not given here comes from the environment (AIOMULTISTACK_PORT and
    so on) and from aiomultistack.toml.

    \b
      aiomultistack run --port tap:ams0 --addresses 10.9.0.2/24 \\
          --host-addresses 10.9.0.1/24 server.py
      aiomultistack run -m aiohttp.web -H 10.9.0.2 mypackage:app
    """
    if module is None and not arguments:
        raise click.UsageError("Give a script, or -m and a module.")
    config = load_config(**options)
    if module is None and not os.path.exists(arguments[0]):
        raise click.UsageError(f"There is no script {arguments[0]!r}.")
    from aiomultistack import MultistackError, _run

    _run.install(config)
    _run.reach_children(config, children)
    try:
        if module is not None:
            _run.run_module(module, arguments)
        else:
            _run.run_script(arguments[0], arguments[1:])
    except SystemExit:
        raise
    except MultistackError as error:
        import warnings

        from aiomultistack._ui import fail

        # asyncio.run(main()) had made its coroutine before a loop could be refused: not the program's fault
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        fail(str(error))
    except BaseException as error:
        _run.show_exception(error)
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def load_config(config: str | None = None, settings: Sequence[str] = (), **fields: str | None) -> Config:
    """The configuration: the options given, then the environment, then the file.

    Options become environment variables, so that processes which the program starts have them too.
    """
    from aiomultistack import Config, ConfigError
    from aiomultistack._config import FILE_NAME

    if config is not None:
        os.environ["AIOMULTISTACK_CONFIG"] = config
    for name, value in fields.items():
        if value is not None:
            os.environ[f"AIOMULTISTACK_{name.upper()}"] = value
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{setting!r} is not FIELD=VALUE.", param_hint="--set")
        os.environ[f"AIOMULTISTACK_{name.strip().upper().replace('-', '_')}"] = value.strip()
    try:
        loaded = Config.load()
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if not loaded.port or not (loaded.addresses or loaded.scheme == "switch"):
        raise click.UsageError(
            "Say where frames go and which addresses are the stack's, for instance\n\n"
            "  --port tap:ams0 --addresses 10.9.0.2/24 --host-addresses 10.9.0.1/24\n\n"
            f"or set AIOMULTISTACK_PORT and AIOMULTISTACK_ADDRESSES, or write {FILE_NAME}."
        )
    return loaded


@cli.command()
@click.option("--mem", is_flag=True, help="Inside one process, as without root.")
@click.option("--requests", default=5000, show_default=True, metavar="N", help="Requests for each measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def demo(mem: bool, requests: int, as_json: bool) -> None:
    """Show it at work: an aiohttp server on user-space TCP.

    As root, an unchanged aiohttp application is served over a TAP to clients on the kernel's TCP, in a
    network namespace that disturbs nothing and vanishes with the demo.  Without root, server and client
    are two event loops of one process.
    """
    from aiomultistack import _demo

    sys.exit(_demo.main(mem=mem, requests=requests, as_json=as_json))


@cli.command()
@click.option("-t", "--tcp", is_flag=True, help="TCP only.")
@click.option("-u", "--udp", is_flag=True, help="UDP only.")
@click.option("-l", "--listening", is_flag=True, help="Listening endpoints only.")
@click.option("-a", "--all", "everything", is_flag=True, help="Listening and TIME-WAIT ones too.")
@click.option("-n", "--numeric", is_flag=True, help="Accepted for habit's sake; ports are always numbers.")
@click.option("-i", "--info", is_flag=True, help="Tell TCP's internals: windows, timers, counts.")
@click.option("--json", "as_json", is_flag=True, help="Print everything known, as JSON.")
@click.argument("pid", required=False, type=int)
def ss(
    tcp: bool, udp: bool, listening: bool, everything: bool, numeric: bool, info: bool, as_json: bool, pid: int | None
) -> None:
    """List the connections of running processes, as ss(8) does.

    Without PID, of all processes that this user may look into.
    """
    from aiomultistack import _ss
    from aiomultistack._ui import emit_json, out

    selection = _ss.Selection(tcp or not udp, udp or not tcp, listening, everything)
    loops = []
    for address, endpoints in _ask("endpoints", pid):
        chosen = sorted(filter(selection.__contains__, map(_ss.normal, endpoints)), key=_ss.order)
        loops.append((address, chosen))
    if as_json:
        emit_json(
            [
                {"pid": address.pid, "process": address.process, "loop": address.number, "endpoints": chosen}
                for address, chosen in loops
            ]
        )
        return
    rows, notes = [], []
    for address, chosen in loops:
        process = address.process
        rows += [_ss.row(each, process, address.pid) for each in chosen]
        notes += [_ss.details(each) if info else "" for each in chosen]
    for number, line in enumerate(_ss.layout(rows, notes)):
        click.secho(line, bold=number == 0 and out.is_terminal)


@cli.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Zeros too.")
@click.option("--switch", "switched", is_flag=True, help="A switch's counters instead, for each of its ports.")
@click.option("--socket", "path", metavar="PATH", help="The switch's socket; implies --switch.")
@click.option("-w", "--watch", metavar="SECONDS", type=float, help="Of a switch: rates too, over so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print all counters as JSON.")
@click.argument("pid", required=False, type=int)
def stats(
    everything: bool, switched: bool, path: str | None, watch: float | None, as_json: bool, pid: int | None
) -> None:
    """Show the counters of running processes, or of a switch; drops by reason."""
    from rich.table import Table

    from aiomultistack._ui import emit_json, out

    if switched or path is not None or watch is not None:
        _cli_switch.show_stats(path, watch, everything, as_json)
        return
    loops = list(_ask("counters", pid))
    if as_json:
        emit_json(
            [
                {"pid": address.pid, "process": address.process, "loop": address.number, "counters": counters}
                for address, counters in loops
            ]
        )
        return
    for address, counters in loops:
        title = f"{address.process or 'process'} {address.pid}, loop {address.number}"
        table = Table("counter", title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("value", justify="right")
        for name, value in counters.items():
            if value or everything:
                table.add_row(name, str(value))
        out.print(table)


@cli.command()
@click.option("-d", "--delay", type=click.FloatRange(0.05), default=1.0, show_default=True, metavar="SECONDS",
              help="Between two looks.")
@click.option("-n", "--count", type=click.IntRange(0), default=0, metavar="N", help="End after so many looks.")
@click.option("-s", "--sort", "order", type=click.Choice(["traffic", "rtt", "retrans", "queue"]), default="traffic",
              show_default=True, help="Which connections come first.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each look.")
@click.argument("pid", required=False, type=int)
def top(delay: float, count: int, order: str, as_json: bool, pid: int | None) -> None:
    """Watch running processes: rates, losses, and their busiest connections, live.

    Without PID, all processes that this user may look into.  On a terminal q ends it and s sorts by
    something else; elsewhere the tables are printed one after another.
    """
    from aiomultistack import _top

    _top.main(pid, delay, count, order, as_json)


@contextmanager
def _reported(address: Any) -> Iterator[None]:
    """Names a loop that doesn't answer on standard error, and goes on."""
    from aiomultistack._control import ControlError

    try:
        yield
    except ControlError as error:
        click.echo(f"aiomultistack: process {address.pid}, loop {address.number}: {error}", err=True)


def _ask(command: str, pid: int | None) -> list[tuple[Any, Any]]:
    """Each loop's answer to `command`; those that don't answer are named on standard error."""
    from aiomultistack import _control
    from aiomultistack._ui import fail

    addresses = _control.find(pid)
    if not addresses and pid is not None:
        fail(f"process {pid} has no aiomultistack loop that this user may look into")
    answers = []
    for address in addresses:
        with _reported(address):
            answers.append((address, _control.query(address.path, command)))
    if not answers and addresses:
        sys.exit(1)
    if not addresses:
        click.echo("aiomultistack: no running process of this user has an aiomultistack loop", err=True)
    return answers


@cli.group()
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


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parses a comma-separated list of sizes in KB."""
    try:
        sizes = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,4,32.", context, parameter) from None
    if not all(0 < size <= 1 << 16 for size in sizes):
        raise click.BadParameter("sizes are from 1 to 65536 KB.", context, parameter)
    return sizes


def _frame_sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parses a comma-separated list of frames' sizes."""
    try:
        sizes = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 64,1514.", context, parameter) from None
    if not all(14 <= size <= 1514 for size in sizes):
        raise click.BadParameter("frames are from 14 to 1514 bytes long.", context, parameter)
    return sizes


@bench.command()
@click.option(
    "--sizes",
    metavar="KB,...",
    callback=_sizes,
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


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parses a comma-separated list of numbers of connections."""
    try:
        counts = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 10,1000.", context, parameter) from None
    if not all(0 < count <= 200_000 for count in counts):
        raise click.BadParameter("numbers of connections are from 1 to 200000.", context, parameter)
    return counts


@bench.command()
@click.option(
    "--connections",
    metavar="N,...",
    callback=_counts,
    default="10,100,1000,10000,100000",
    show_default=True,
    help="How many are served in turn.",
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Runs of each; the median counts.")
@click.option(
    "--operations", type=click.IntRange(1), default=500_000, show_default=True, help="Segments of one run, at least."
)
@click.option("--json", "as_json", is_flag=True, help="Print every run as JSON.")
def engine(connections: tuple[int, ...], rounds: int, operations: int, as_json: bool) -> None:
    """Nanoseconds that the engine takes for a segment, and for a whole transaction.

    The engine alone: no port, no switch, no Python, no checksums, and payload is read in place.
    """
    from rich import box
    from rich.table import Table

    from aiomultistack import _bench_engine
    from aiomultistack._ui import emit_json, out, steps

    with steps("measuring", rounds * len(connections) * len(_bench_engine.KINDS)) as progress:
        result = _bench_engine.measure(connections, rounds, operations, progress)
    if as_json:
        emit_json(result.as_dict())
        return
    table = Table(title="ns in the engine, by connections", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for count in connections:
        table.add_column(f"{count:,}", justify="right", no_wrap=True)
    for kind, (_, what) in _bench_engine.KINDS.items():
        table.add_row(what, *(f"{result.median(kind, count):,.0f}" for count in connections))
    table.add_row("bytes when idle, tables too", *(f"{result.memory('data', count):,.0f}" for count in connections))
    out.print(table)


def _port_counts(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parses a comma-separated list of numbers of ports."""
    try:
        counts = tuple(dict.fromkeys(int(word) for word in value.split(",")))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 2,256.", context, parameter) from None
    if not all(count == 1 or (0 < count <= 4096 and count % 2 == 0) for count in counts):
        raise click.BadParameter("numbers of ports are 1, or even and at most 4096.", context, parameter)
    return counts


@bench.command("switch")
@click.option("--sizes", metavar="BYTES,...", callback=_frame_sizes, default="64,128,256,512,1024,1514",
              show_default=True, help="Frames, between two ports.")  # fmt: skip
@click.option("--ports", metavar="N,...", callback=_port_counts, default="1,2,4,8,16,32,64,128,256",
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
@click.option("--sizes", metavar="BYTES,...", callback=_frame_sizes, default="64,256,1514", show_default=True,
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

    chosen = _names(kinds, tuple(_bench_loop.KINDS)), _names(flavours, _bench_loop.FLAVOURS)
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


def _names(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """A comma-separated choice of names."""
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}.")
    return names


for _command in _cli_switch.COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """The entry point of the `aiomultistack` command."""
    cli(prog_name="aiomultistack")


if __name__ == "__main__":
    main()
