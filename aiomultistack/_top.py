"""`aiomultistack top`: what running loops are doing now.

Theory of operation
-------------------
A `Sampler` asks the control sockets of all loops, again and again; `compare` makes rates of two samples
and knows nothing of time, sockets or terminals.  What is shown comes from counters, which cost a loop
next to nothing, and from the list of its endpoints, which costs it time for each of them.  So the list
is asked for less often the longer it took to come: looking may take a loop a fiftieth of its time, no
matter how many connections it has.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aiomultistack import _control, _ss
from aiomultistack._ui import err, microseconds, out

#: What connections can be sorted by; the first is what `top` begins with.
ORDERS = ("traffic", "rtt", "retrans", "queue")

#: The part of a loop's time that listing its endpoints may take.
_ATTENTION = 0.02

#: What the switch counts and lets pass.
_PASSED = frozenset(
    f"switch.{name}"
    for name in ("tx_passed", "rx_owner", "rx_control", "rx_host", "rx_fragments", "rx_ip_options", "rx_extensions",
                 "rx_priority_tag")
)  # fmt: skip
#: How the names of the other counters end that tell of something lost or refused.
_TROUBLES = ("_dropped", "_bad", "_full", "_overflow", "_failed", "_no_memory", "bad_checksum", "bad_header",
             "_truncated", "_timeout", "_limit", "_overlap", "_black_hole", "_conflict", "_rto")  # fmt: skip


@dataclass(frozen=True)
class LoopSample:
    """One loop at one moment.

    cpu: seconds of CPU time that its process has used, None where that can't be told.
    """

    pid: int
    number: int
    process: str
    time: float
    cpu: float | None
    counters: Mapping[str, int]
    endpoints: Sequence[Mapping[str, Any]]
    endpoints_time: float


@dataclass(frozen=True)
class LoopRates:
    """What a loop did between two samples; rates are for a second, in bytes where not said otherwise."""

    pid: int
    loop: int
    process: str
    cpu: float | None  # 1.0 is all of one core
    connections: int
    listeners: int
    opened: float
    received: float
    sent: float
    frames_in: float
    frames_out: float
    retransmitted: float  # segments
    troubles: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ConnectionRates:
    """A TCP connection; rates in bytes a second, times in ns, queues in bytes, cwnd in segments."""

    pid: int
    loop: int
    process: str
    local: str
    remote: str
    state: str
    received: float
    acked: float
    retransmitted: float
    rtt: int
    cwnd: int
    recv_queue: int
    send_queue: int


def _troubled(name: str) -> bool:
    if name.startswith("switch."):
        return name not in _PASSED
    return name.endswith(_TROUBLES)


def compare(before: LoopSample, now: LoopSample) -> LoopRates:
    """What `now` has more than `before`, a sample of the same loop."""
    seconds = max(now.time - before.time, 1e-9)

    def rate(*names: str) -> float:
        return sum(now.counters.get(name, 0) - before.counters.get(name, 0) for name in names) / seconds

    troubles = {name: value for name in now.counters if _troubled(name) and (value := rate(name)) > 0}
    listening = [each for each in now.endpoints if _listens(each)]
    return LoopRates(
        pid=now.pid,
        loop=now.number,
        process=now.process,
        cpu=None if now.cpu is None or before.cpu is None else max(0.0, now.cpu - before.cpu) / seconds,
        connections=len(now.endpoints) - len(listening),
        listeners=len(listening),
        opened=rate("stack.tcp_active_open", "stack.tcp_passive_open"),
        received=rate("stack.tcp_rx_bytes"),
        sent=rate("stack.tcp_tx_bytes"),
        frames_in=rate("port.rx_frames"),
        frames_out=rate("port.tx_frames"),
        retransmitted=rate("stack.tcp_retrans"),
        troubles=dict(sorted(troubles.items(), key=lambda item: -item[1])),
    )


def connections(before: LoopSample, now: LoopSample) -> Iterator[ConnectionRates]:
    """The TCP connections of `now`, with their rates since `before`, a sample of the same loop."""
    known = {(each["id"], each["created"]): each for each in before.endpoints}
    seconds = max(now.endpoints_time - before.endpoints_time, 1e-9)
    for each in now.endpoints:
        if each["protocol"] != _ss.TCP or _listens(each):
            continue
        earlier = known.get((each["id"], each["created"]), {})  # a new one began with nothing
        yield ConnectionRates(
            pid=now.pid,
            loop=now.number,
            process=now.process,
            local=_ss.address_text(each["local"]),
            remote=_ss.address_text(each["remote"]),
            state=_ss.state_text(each),
            received=_more(each, earlier, "bytes_received") / seconds,
            acked=_more(each, earlier, "bytes_acked") / seconds,
            retransmitted=_more(each, earlier, "bytes_retrans") / seconds,
            rtt=each["srtt"],
            cwnd=each["snd_cwnd"] // (each["snd_mss"] or 1),
            recv_queue=each["recv_queue"],
            send_queue=each["send_queue"],
        )


def _more(endpoint: Mapping[str, Any], earlier: Mapping[str, Any], name: str) -> int:
    return max(0, int(endpoint[name]) - int(earlier.get(name, 0)))


def _listens(endpoint: Mapping[str, Any]) -> bool:
    return endpoint in _ss.Selection(listening=True)


def ordered(found: Iterable[ConnectionRates], by: str) -> list[ConnectionRates]:
    """Sorts by one of ORDERS, the largest first."""
    keys: dict[str, Callable[[ConnectionRates], float]] = {
        "traffic": lambda it: it.received + it.acked,
        "rtt": lambda it: it.rtt,
        "retrans": lambda it: it.retransmitted,
        "queue": lambda it: it.recv_queue + it.send_queue,
    }
    return sorted(found, key=lambda it: (-keys[by](it), it.local, it.remote))


class Sampler:
    """Asks all loops that this user may look into.

    pid: only those of this process.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._last: dict[tuple[int, int], LoopSample] = {}
        self._listing: dict[tuple[int, int], float] = {}
        #: Why loops did not answer, by (PID, number).
        self.silent: dict[tuple[int, int], str] = {}

    def take(self) -> dict[tuple[int, int], LoopSample]:
        """A sample of each loop that answers."""
        self.silent.clear()
        taken = {}
        for address in _control.find(self._pid):
            key = address.pid, address.number
            try:
                taken[key] = self._sample(key, address)
            except _control.ControlError as error:
                self.silent[key] = str(error)
        self._last = taken
        return taken

    def _sample(self, key: tuple[int, int], address: _control.Address) -> LoopSample:
        counters = _control.query(address.path, "counters")
        now, cpu = time.monotonic(), _cpu(address.pid)
        last = self._last.get(key)
        if last is not None and now < last.endpoints_time + self._listing.get(key, 0.0) / _ATTENTION:
            endpoints, listed = last.endpoints, last.endpoints_time
        else:
            endpoints = [_ss.normal(each) for each in _control.query(address.path, "endpoints")]
            listed = time.monotonic()
            self._listing[key] = listed - now
        process = last.process if last else address.process
        return LoopSample(address.pid, address.number, process, now, cpu, counters, endpoints, listed)


def _cpu(pid: int) -> float | None:
    """Seconds of CPU time that a process has used (proc(5): utime and stime of /proc/PID/stat)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- for people --------------------------------------------------------------------------------------


def _bits(per_second: float) -> str:
    return _ss.rate_text(per_second * 8) if per_second else "-"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value else "-"


def _table(cells: list[list[str]], headings: Sequence[str], left: int, bold: bool) -> Table:
    """A table whose last `left` columns are words and the others numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold" if bold else "none", expand=False)
    for number, heading in enumerate(headings):
        justify: Any = "left" if number >= len(headings) - left else "right"
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in cells:
        table.add_row(*row)
    return table


def loops_table(rates: Iterable[LoopRates], colours: bool = True) -> Table:
    """A line for each loop."""
    cells = [
        ["-" if it.cpu is None else f"{it.cpu:.0%}", f"{it.connections:,}", f"{it.listeners:,}", _count(it.opened),
         _bits(it.received), _bits(it.sent), _count(it.frames_in), _count(it.frames_out), _count(it.retransmitted),
         _count(sum(it.troubles.values())), f"{it.process or 'process'} {it.pid}" + (f", {it.loop}" if it.loop else "")]
        for it in rates
    ]  # fmt: skip
    headings = ("CPU", "conns", "listeners", "opened/s", "in", "out", "frames in/s", "out/s", "retrans/s", "trouble/s",
                "process")  # fmt: skip
    return _table(cells, headings, 1, colours)


def connections_table(found: Sequence[ConnectionRates], colours: bool = True) -> Table:
    """A line for each connection."""
    cells = [
        [_bits(it.received), _bits(it.acked), _bits(it.retransmitted), microseconds(it.rtt / 1000) if it.rtt else "-",
         str(it.cwnd), str(it.recv_queue), str(it.send_queue), it.state, it.local, it.remote, f"{it.process} {it.pid}"]
        for it in found
    ]  # fmt: skip
    headings = ("in", "out", "again", "RTT", "cwnd", "Recv-Q", "Send-Q", "State", "Local Address:Port",
                "Peer Address:Port", "process")  # fmt: skip
    return _table(cells, headings, 4, colours)


@dataclass
class View:
    """What is known between two samples, ready to be shown."""

    loops: list[LoopRates]
    connections: list[ConnectionRates]
    silent: dict[tuple[int, int], str]

    def render(self, order: str, lines: int | None, colours: bool) -> RenderableType:
        """The screen: loops, their troubles, and as many connections as fit into `lines`."""
        parts: list[RenderableType] = [loops_table(self.loops, colours)] if self.loops else []
        notes = []
        for it in self.loops:
            if it.troubles:
                reasons = ", ".join(f"{name} {_count(value)}/s" for name, value in list(it.troubles.items())[:4])
                notes.append(Text(f"{it.process} {it.pid}: {reasons}", style="yellow" if colours else ""))
        for (pid, number), reason in self.silent.items():
            notes.append(Text(f"process {pid}, loop {number}: {reason}", style="red" if colours else ""))
        if not self.loops and not self.silent:
            notes.append(Text("no running process of this user has an aiomultistack loop"))
        parts += notes
        found = ordered(self.connections, order)
        room = len(found) if lines is None else max(1, lines - len(self.loops) - len(notes) - 4)
        if found:
            parts += ["", connections_table(found[:room], colours)]
        if len(found) > room:
            parts.append(Text(f"and {len(found) - room:,} more", style="dim" if colours else ""))
        return Group(*parts)

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return {
            "loops": [asdict(it) for it in self.loops],
            "connections": [asdict(it) for it in self.connections],
            "silent": [{"pid": pid, "loop": number, "error": text} for (pid, number), text in self.silent.items()],
        }


class Watch:
    """Takes samples and remembers what the next ones are compared with."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._before = sampler.take()
        self._listed = dict(self._before)
        self._shown: dict[tuple[int, int], list[ConnectionRates]] = {}

    def look(self) -> View:
        """What happened since the last look."""
        taken = self._sampler.take()
        rates = []
        for key, now in taken.items():
            rates.append(compare(self._before.get(key, now), now))
            listed = self._listed.get(key)
            if listed is None or listed.endpoints_time != now.endpoints_time:
                self._shown[key] = list(connections(listed or now, now))
                self._listed[key] = now
            elif key not in self._shown:  # the second list isn't due yet: there are no rates, but connections there are
                self._shown[key] = list(connections(now, now))
        for key in self._shown.keys() - taken.keys():
            del self._shown[key], self._listed[key]
        self._before = taken
        found = [each for key in taken for each in self._shown.get(key, ())]
        return View(rates, found, dict(self._sampler.silent))


def main(pid: int | None, delay: float, count: int, order: str, as_json: bool) -> None:
    """Shows what loops do, every `delay` seconds, `count` times or (0) until it is told to end."""
    if pid is not None and not _control.find(pid):
        from aiomultistack._ui import fail

        fail(f"process {pid} has no aiomultistack loop that this user may look into")
    watch = Watch(Sampler(pid))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        if as_json or not (out.is_terminal and sys.stdin.isatty()):
            _print(watch, delay, count, order, as_json)
        else:
            _live(watch, delay, count, order)


def _print(watch: Watch, delay: float, count: int, order: str, as_json: bool) -> None:
    """One look after another, as JSON or tables, for files and pipes."""
    console = Console(highlight=False, markup=False, width=240)
    number = 0
    while not count or number < count:
        time.sleep(delay)
        view = watch.look()
        number += 1
        if as_json:
            click.echo(json.dumps(view.plain()))
        else:
            console.print(view.render(order, None, colours=False))
            if number != count:
                console.print()
        sys.stdout.flush()


def _live(watch: Watch, delay: float, count: int, order: str) -> None:
    """The screen of a terminal, until `q`; `s` sorts by something else."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    former = termios.tcgetattr(terminal)
    number = 0
    try:
        tty.setcbreak(terminal)
        with Live(console=out, screen=True, auto_refresh=False) as live:
            view: View | None = None
            while True:
                head = Text(f"every {delay:g} s, by {order}   q: quit, s: sort by something else", style="dim")
                body = "looking ..." if view is None else view.render(order, out.size.height - 2, colours=True)
                live.update(Group(head, body), refresh=True)
                if count and number >= count:
                    return
                key = _key(terminal, delay)
                if key in ("q", "Q", "\x1b"):
                    return
                if key in ("s", "S"):
                    order = ORDERS[(ORDERS.index(order) + 1) % len(ORDERS)]
                    continue
                view = watch.look()
                number += 1
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, former)
        err.show_cursor(True)


def _key(terminal: int, timeout: float) -> str:
    """The key that is pressed within `timeout` seconds; empty if none is."""
    ready, _, _ = select.select([terminal], [], [], timeout)
    return os.read(terminal, 1).decode("latin-1") if ready else ""
