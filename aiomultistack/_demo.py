"""`aiomultistack demo`: an unchanged aiohttp server on user-space TCP, and what its clients see."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.table import Table
from rich.text import Text

from aiomultistack import _control, _netns, _ss
from aiomultistack._ui import emit_json, fail, invocation, microseconds, out, size, steps

try:
    import aiohttp  # noqa: F401  (the demo's extra; checked here so that its absence gets a sentence)
    import trustme
except ImportError as error:
    _MISSING: str | None = error.name
else:
    _MISSING = None

_CONNECTIONS = 32  # of the load, at a time
_SHOWN = 6  # connections in the report


@dataclass(frozen=True)
class Measured:
    """One server under load."""

    server: str
    closing: bool
    requests: int
    requests_per_s: float
    cpu_us: float  # of the server, per request


@dataclass
class Report:
    """What happened."""

    mode: str  # "tap" or "mem"
    why: str | None = None  # why not tap
    answer: dict[str, Any] = field(default_factory=dict)  # what the server says of itself
    fetches: list[Any] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    kernel_sockets: int | None = None  # that the kernel has on the server's addresses
    measured: list[Measured] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every byte was right."""
        return bool(self.fetches) and all(fetch.error is None for fetch in self.fetches)


def main(mem: bool, requests: int, as_json: bool) -> int:
    """Plays the demo and prints what happened.

    mem: inside this process even as root.  Returns the exit status.
    """
    if _MISSING is not None:
        fail(f"the demo needs {_MISSING}; try: pip install 'aiomultistack[demo]'")
    why = "--mem was given" if mem else _netns.why_not()
    report = Report("mem" if why else "tap", why)
    if not as_json:
        for line in _introduction(why):
            out.print(line)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        description = _play(report, requests)
    except KeyboardInterrupt:
        click.echo("aiomultistack: interrupted; everything was cleaned up", err=True)
        return 130
    if as_json:
        emit_json({**asdict(report), "ok": report.ok})
    else:
        _show(report, description)
    return 0 if report.ok else 1


def _introduction(why: str | None) -> list[str]:
    if why is None:
        return []
    if why == "not root":
        return [
            "Without root there can be no TAP, so everything happens inside this process.  For the whole demo,",
            f"with a TAP and clients on the kernel's TCP:  sudo {invocation()} demo",
            "",
        ]
    return [f"Everything happens inside this process: {why}.", ""]


def _play(report: Report, requests: int) -> list[str]:
    """Sets the stage, fetches, measures; fills in the report.  Returns the stage's description."""
    from aiomultistack._demo_client import fetch_all
    from aiomultistack._demo_stage import MemStage, Stage, TapStage

    with contextlib.ExitStack() as cleanup:
        progress = cleanup.enter_context(steps("starting the server"))
        stage: Stage = cleanup.enter_context(
            contextlib.closing(TapStage() if report.mode == "tap" else MemStage())
        )
        certificate, tls = cleanup.enter_context(_certificates())
        server = cleanup.enter_context(stage.user_space(certificate))

        def look() -> None:
            report.endpoints = _endpoints(server.pid, server.target.host, server.target.host6)
            if report.mode == "tap":
                report.kernel_sockets = _kernel_sockets((server.target.host, server.target.host6))

        work = fetch_all(server.target, tls, progress.say, look)
        report.answer, report.fetches, _ = stage.client(work, server)
        if report.ok and requests > 0:
            progress.say("starting the same application on the kernel's TCP")
            other = cleanup.enter_context(stage.kernel(certificate))
            pairs = (("aiomultistack", server), ("kernel", other))
            for closing in (False, True):
                for name, each in pairs:
                    progress.say(f"measuring: {'one connection per request' if closing else 'keep-alive'}, {name}")
                    report.measured.append(_measure(stage, each, name, requests, closing))
    return stage.description


def _measure(stage: Any, server: Any, name: str, requests: int, closing: bool) -> Measured:
    """Loads a server, after a little warming up."""
    from aiomultistack._demo_client import Load

    stage.client(Load(server.target, requests // 10 + 1, _CONNECTIONS, closing).run(), server)
    load = Load(server.target, requests, _CONNECTIONS, closing)
    before = server.cpu_us()
    seconds = stage.client(load.run(), server)
    spent = server.cpu_us() - before
    return Measured(name, closing, load.done, load.done / seconds, spent / max(load.done, 1))


@contextlib.contextmanager
def _certificates() -> Iterator[tuple[str, ssl.SSLContext]]:
    """A certificate for the server, as a file, and a context that trusts it."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="aiomultistack-") as folder:
        path = os.path.join(folder, "server.pem")
        authority.issue_cert("10.77.0.2", "fd77::2", "10.78.0.2").private_key_and_cert_chain_pem.write_to_path(path)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        yield path, context


def _endpoints(pid: int, *hosts: str | None) -> list[dict[str, Any]]:
    """The server's endpoints, asked of its control socket as `aiomultistack ss` does."""
    endpoints: list[dict[str, Any]] = []
    for address in _control.find(pid):
        with contextlib.suppress(_control.ControlError):
            endpoints += map(_ss.normal, _control.query(address.path, "endpoints"))
    mine = [each for each in endpoints if each["local"] and each["local"]["host"] in hosts]
    return sorted(mine, key=_ss.order)


def _kernel_sockets(hosts: tuple[str | None, ...]) -> int:
    """How many TCP sockets the kernel has whose local address is one of `hosts`."""
    wanted = set()
    for host in filter(None, hosts):
        packed = ipaddress.ip_address(host).packed
        words = (packed[i : i + 4] for i in range(0, len(packed), 4))
        wanted.add("".join(f"{int.from_bytes(word, 'little'):08X}" for word in words))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    return sum(line.split()[1].partition(":")[0] in wanted for line in lines)


# ---- the report -------------------------------------------------------------------------------------------


def _show(report: Report, description: list[str]) -> None:
    """Prints the report for people."""
    for line in description:
        out.print(line, soft_wrap=True)
    answer = report.answer
    server, client = (_ss.address_text({"host": a[0], "port": a[1]}) for a in (answer["server"], answer["client"]))
    out.print(f"\nIt says: process {answer['pid']}, event loop {answer['loop']},")
    out.print(f"         {server} talking to {client}.")
    if report.kernel_sockets is not None:
        number = "no socket" if report.kernel_sockets == 0 else f"{report.kernel_sockets} sockets"
        out.print(f"The kernel has {number} on the server's addresses.")
    out.print()
    out.print(_fetch_table(report))
    _show_connections(report)
    if report.measured:
        out.print(_measured_table(report))
    if report.ok:
        total = sum(fetch.requests for fetch in report.fetches)
        moved = sum(fetch.bytes for fetch in report.fetches)
        out.print(f"All {total} fetches, {size(moved)} in all, were right to the byte.", style="green")
    else:
        for fetch in report.fetches:
            if fetch.error is not None:
                out.print(f"{fetch.route}, {fetch.what}: {fetch.error}", style="red")


def _table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    return table


def _fetch_table(report: Report) -> Table:
    table = _table("Fetches, compared byte by byte", "", "what", "moved", "time", "result")
    table.columns[1].justify = "left"
    for fetch in report.fetches:
        table.add_row(
            fetch.route,
            fetch.what,
            size(fetch.bytes),
            microseconds(fetch.seconds * 1e6),
            "ok" if fetch.error is None else Text("failed", style="red"),
        )
    return table


def _show_connections(report: Report) -> None:
    out.print("Connections, as aiomultistack ss -i shows them", style="bold")
    out.print()
    shown = report.endpoints[: _SHOWN - 2]
    shown += sorted(report.endpoints[_SHOWN - 2 :], key=lambda each: -each["bytes_acked"])[:2]
    rows = [_ss.row(each, "", report.answer["pid"])[:-1] for each in shown]
    for line in _ss.layout(rows, [_ss.details(each) for each in shown]):
        out.print(line.expandtabs(4), soft_wrap=True)
    if len(report.endpoints) > len(shown):
        out.print(f"... and {len(report.endpoints) - len(shown)} more")
    out.print()


def _measured_table(report: Report) -> Table:
    where = "over the TAP and over a veth pair" if report.mode == "tap" else "over mem: and over 127.0.0.1"
    title = f"The same application and clients, {where}"
    table = _table(title, "server", "connections", "requests/s", "CPU/request")
    table.columns[1].justify = "left"
    for number, item in enumerate(report.measured, 1):
        table.add_row(
            "user-space TCP" if item.server == "aiomultistack" else "kernel's TCP, uvloop",
            "one for each request" if item.closing else f"{_CONNECTIONS} kept alive",
            f"{item.requests_per_s:,.0f}",
            microseconds(item.cpu_us),
            end_section=number % 2 == 0,
        )
    return table
