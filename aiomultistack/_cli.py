"""The `aiomultistack` command.

Each command imports what it needs when it runs, so that `aiomultistack run` costs a program's start
next to nothing.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aiomultistack import __version__, _cli_bench, _cli_switch

if TYPE_CHECKING:
    from aiomultistack import Config

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_F = TypeVar("_F", bound=Callable[..., Any])

#: Options of `run` that set a field of Config, with their help.
_FIELDS = {
    "port": ("PORT", "Where frames go: tap:NAME, xdp:INTERFACE, netmap:INTERFACE, switch:PATH, mem:NAME."),
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


#: What a full disk, a quota or a broken one says to whoever writes.
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

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
        if position > len(arguments):
            return super().parse_args(context, arguments)  # the last option lacks its value
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

        from aiomultistack._ui import explain, fail

        # asyncio.run(main()) had made its coroutine before a loop could be refused: not the program's fault
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        fail(explain(error))
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
        name, value = _setting(setting)
        os.environ[f"AIOMULTISTACK_{name.upper()}"] = value
    try:
        loaded = Config.load()
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if not loaded.port or not (loaded.addresses or loaded.autoconf or loaded.scheme == "switch"):
        raise click.UsageError(
            "Say where frames go and which addresses are the stack's, for instance\n\n"
            "  --port tap:ams0 --addresses 10.9.0.2/24 --host-addresses 10.9.0.1/24\n\n"
            f"or set AIOMULTISTACK_PORT and AIOMULTISTACK_ADDRESSES, or write {FILE_NAME}."
        )
    return loaded


def _setting(text: str) -> tuple[str, str]:
    """Field and value of a `--set`; raises BadParameter for what Config doesn't know or can't read."""
    from aiomultistack._config import FIELDS, nearest

    name, equals, value = text.partition("=")
    name, value = name.strip().lower().replace("-", "_"), value.strip()
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not FIELD=VALUE.", param_hint="--set")
    if name not in FIELDS:
        raise click.BadParameter(f"there is no field {name!r}{nearest(name, FIELDS)}.", param_hint="--set")
    try:
        FIELDS[name].metadata["parse"](value)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} cannot be read: {error}.", param_hint="--set") from None
    return name, value


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
@click.option("-w", "--watch", type=click.FloatRange(0.01), metavar="SECONDS",
              help="Of a switch: rates too, over so many seconds.")
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
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; times in seconds, null for ever.")
@click.argument("pid", required=False, type=int)
def network(as_json: bool, pid: int | None) -> None:
    """Show the addresses and routers of running processes.

    Their own addresses, prefixes on their links, default routers and redirects: what was configured, and
    what routers have advertised, with its lifetimes.
    """
    from aiomultistack import _network
    from aiomultistack._ui import emit_json, out

    loops = list(_ask("network", pid))
    if as_json:
        emit_json(
            [
                {"pid": address.pid, "process": address.process, "loop": address.number, "network": rows}
                for address, rows in loops
            ]
        )
        return
    for address, rows in loops:
        click.secho(f"{address.process or 'process'} {address.pid}, loop {address.number}", bold=out.is_terminal)
        for line in _network.lines([_network.row(each) for each in rows]):
            click.echo(line)


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


for _command in (_cli_bench.bench, *_cli_switch.COMMANDS):
    cli.add_command(_command)


def main() -> None:
    """The entry point of the `aiomultistack` command."""
    try:
        cli(prog_name="aiomultistack")
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at exit
        print(f"aiomultistack: the output cannot be written: {os.strerror(error.errno)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
