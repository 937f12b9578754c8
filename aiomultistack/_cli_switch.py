"""The commands of the switch: the daemon itself, and those that look into it.

As in `_cli`, each imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

if TYPE_CHECKING:
    from ._control import Address

__all__ = ["COMMANDS", "show_stats"]

_SOCKET = click.option("--socket", "path", metavar="PATH", help="The switch's socket.  [default: this user's]")


def show_stats(path: str | None, watch: float | None, everything: bool, as_json: bool) -> None:
    """Prints the counters of a switch's ports, and with `watch` how many a second."""
    import time

    from aiomultistack import _switch_show
    from aiomultistack._ui import emit_json, wide

    before = None
    if watch is not None:
        before = _ask_switch(path)
        time.sleep(watch)
    found = _ask_switch(path)
    if as_json:
        emit_json({"before": before, "now": found} if before else found)
    else:
        wide(_switch_show.counter_table(found, before, everything))


def _ask_switch(path: str | None) -> dict[str, Any]:
    """What a switch tells about itself; ends the command politely if there is none."""
    from aiomultistack import _switch_show
    from aiomultistack._ui import fail

    try:
        return _switch_show.describe(_switch_show.find_socket(path))
    except _switch_show.SwitchError as error:
        fail(str(error))


@click.command()
@_SOCKET
@click.option("--json", "as_json", is_flag=True, help="Print everything known, as JSON.")
def ports(path: str | None, as_json: bool) -> None:
    """List a switch's ports: uplink, host, and clients, with what they sent and received."""
    from aiomultistack import _switch_show
    from aiomultistack._ui import emit_json, wide

    found = _ask_switch(path)
    if as_json:
        emit_json(found["ports"])
    else:
        wide(_switch_show.ports_table(found))


@click.command()
@_SOCKET
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def tuples(path: str | None, as_json: bool) -> None:
    """List who has which (protocol, address, port) on a switch."""
    from aiomultistack import _switch_show
    from aiomultistack._ui import emit_json, wide

    found = _ask_switch(path)
    if as_json:
        emit_json({"tuples": found["tuples"], "lent": found["lent"]})
    else:
        wide(_switch_show.tuples_table(found))


@click.command()
@_SOCKET
@click.option("-w", "--write", "target", metavar="FILE", default="-", help="Where to; - is standard output.")
@click.option("-s", "--snap", type=click.IntRange(0), default=0, metavar="BYTES", help="Of each frame at most.")
@click.option("-c", "--count", type=click.IntRange(0), default=0, metavar="N", help="End after so many frames.")
@click.option("--seconds", type=click.FloatRange(0), metavar="SECONDS", help="End after so many seconds.")
@click.option("--drops", is_flag=True, help="Only frames that were dropped; a comment tells why.")
@click.option("--pid", "pids", type=int, multiple=True, metavar="PID", help="Of a process without a switch.")
@click.argument("port", required=False)
def capture(
    path: str | None, target: str, snap: int, count: int, seconds: float | None, drops: bool, pids: tuple[int, ...],
    port: str | None,
) -> None:  # fmt: skip
    """Write frames to a pcapng file, for Wireshark and tcpdump.

    Those of a switch's PORT, which is a number, a client's name or PID, uplink, host, or all; or, with --pid,
    those of the ports that a process has opened itself.  A dropped frame has a comment that says why.
    Interrupt it to end.

    \b
      aiomultistack capture uplink -w uplink.pcapng
      aiomultistack capture --pid 4711 | wireshark -k -i -
    """
    from aiomultistack import _capture, _switch_show
    from aiomultistack._control import ControlError
    from aiomultistack._pcapng import PcapngWriter
    from aiomultistack._ui import fail

    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("Captures are not for terminals: name a file with -w, or pipe them on.")
    if pids and (port is not None or path is not None):
        raise click.UsageError("A PORT is one of a switch's, as is --socket; --pid is for a process without one.")
    loops = _loops(pids)
    result = _capture.Captured()
    try:
        with click.open_file(target, "wb", lazy=True) as stream:  # a file is left alone until there is a capture
            recorder = _capture.Recorder(
                PcapngWriter(cast("BinaryIO", stream)), snap=snap, count=count, drops_only=drops, seconds=seconds,
                result=result,
            )  # fmt: skip
            what = port or ("all" if not pids else "process " + ", ".join(map(str, pids)))

            def ready() -> None:
                recorder.flush()
                click.echo(f"aiomultistack: capturing {what}", err=True)

            if pids:
                _capture.capture_loops(loops, recorder, snap, ready)
            else:
                _switch_show.capture(_switch_show.find_socket(path), port or "all", recorder, snap, ready)
    except (_switch_show.SwitchError, ControlError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # whoever reads has seen enough: click ends quietly
        fail(f"cannot write {target}: {error.strerror}")
    lost = f", {result.lost} missing" if result.lost else ""
    click.echo(f"aiomultistack: {result.frames} frames, {result.dropped} of them dropped{lost}", err=True)
    if result.lost and not snap:
        click.echo("They came faster than they could be written; --snap 128 keeps headers alone.", err=True)


def _loops(pids: Sequence[int]) -> list[Address]:
    """The control sockets of processes."""
    from aiomultistack import _control
    from aiomultistack._ui import fail

    found = []
    for pid in pids:
        addresses = _control.find(pid)
        if not addresses:
            fail(f"process {pid} has no aiomultistack loop that this user may look into")
        found += addresses
    return found


def _port_range(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Parses first and last of a range of ports."""
    if value is None:
        return None
    low, _, high = value.partition("-")
    if not (low.isdigit() and high.isdigit() and 0 < int(low) <= int(high) <= 65535):
        raise click.BadParameter(f"{value!r} is not a range such as 61000-65535.", context, parameter)
    return int(low), int(high)


def _mode(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Parses the mode of a file."""
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a mode such as 660.", context, parameter)
    return mode


@click.command()
@click.option("--uplink", metavar="PORT", default="none", show_default=True,
              help="Where the network is: xdp:eth0, netmap:eth0, tap:NAME, or none.")
@click.option("--host", metavar="tap:NAME", default="none", help="A TAP by which the kernel's stack is on it, too.")
@click.option("--socket", "socket", metavar="PATH", help="Where clients attach.  [default: this user's]")
@click.option("--address", "addresses", metavar="ADDR/LEN", multiple=True,
              help="Shared by all clients.  [default: the uplink's own]")
@click.option("--gateway", metavar="ADDR", multiple=True, help="A router for clients, one of each family at most.")
@click.option("--host-address", "host_addresses", metavar="ADDR/LEN", multiple=True,
              help="For the kernel's side of a TAP; with an uplink these may be the switch's own.")
@click.option("--mac", metavar="MAC", help="Of the link that clients see.  [default: the uplink's]")
@click.option("--mtu", type=click.IntRange(0, 65535), default=0, help="Bytes.  [default: the uplink's]")
@click.option("--max-clients", type=click.IntRange(1, 4000), default=256, show_default=True)
@click.option("--max-clients-per-user", type=click.IntRange(1), default=256, show_default=True)
@click.option("--max-tuples", type=click.IntRange(1), default=1024, show_default=True, help="Of one client.")
@click.option("--slots", type=click.IntRange(16, 65536), default=512, show_default=True, help="Of a client's rings.")
@click.option("--lend", type=click.IntRange(1, 8192), default=256, show_default=True,
              help="Ephemeral ports that are lent at a time.")
@click.option("--ports", metavar="LOW-HIGH", callback=_port_range, help="Ephemeral ports that may be lent.")
@click.option("--socket-mode", metavar="MODE", callback=_mode, default="660", show_default=True)
@click.option("--socket-group", metavar="GROUP", help="The group of the socket.")
@click.option("--allow", metavar="USER|@GROUP", multiple=True,
              help="Who may attach.  [default: all who may connect to the socket]")
@click.option("--user", metavar="USER", help="Become this user after set-up.")
@click.option("-v", "--verbose", is_flag=True, help="Log who comes and goes.")
def switch(socket: str | None, verbose: bool, **options: Any) -> None:
    """Let many stacks, and the kernel's, share one NIC and one IP address.

    Processes attach with the port switch:PATH.  A process owns the ports that it binds, and nobody else's; the
    kernel keeps all others.  Without an uplink it needs no root.

    \b
      aiomultistack switch --uplink xdp:eth0
      aiomultistack run --port switch:/run/aiomultistack.sock server.py
    """
    import logging
    from pathlib import Path

    from aiomultistack import MultistackError, _switch, _switch_show
    from aiomultistack._ui import explain, fail

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("aiomultistack switch: %(message)s"))
    _switch.logger.addHandler(handler)
    _switch.logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    path = socket or _switch_show.default_socket()

    def ready(daemon: _switch.Daemon) -> None:
        served = ", ".join(daemon.settings.addresses)
        daemon.log(f"serving {served}, uplink {daemon.settings.uplink or 'none'}, at {path}")

    try:
        if socket is None:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _switch.serve(_switch.SwitchSettings(socket=path, **options), ready)
    except MultistackError as error:
        fail(explain(error))


#: What `aiomultistack` is to know.
COMMANDS = (switch, ports, tuples, capture)
