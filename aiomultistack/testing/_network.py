"""A virtual network: hosts, links, names, one loop, one clock, one seed.

Theory of operation
-------------------
Each host has a stack on an Ethernet segment of its own (`Hub`), whose only other member is a raw port.  The network
is what joins these ports: it takes each frame that a host sends, asks the link to the receiver what becomes of it,
and puts it on the receiver's segment when its time has come.  Everything happens in callbacks of one loop in virtual
time, in an order that the seed alone decides.

ARP and NDP pass at once and unharmed, also across a partition: what is tested is a program on the Internet, and
not its first hop.  A host that is down answers nothing, of course.

The clock moves only when no callback is left to run at its present instant.  If there is no timer either, and no
frame on its way, nothing will ever happen again: that is a deadlock, and `run` says which tasks wait, and where.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import ipaddress
import itertools
import random
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from .._errors import ConfigError, MultistackError
from .._node import Node
from .._pcapng import PcapngWriter
from .._pump import Pump
from .._virtual import VirtualSelector
from ._frames import Frame, format_frames, is_neighbour_discovery
from ._hosts import Host, Life
from ._links import Faults, Link
from ._loop import NetworkLoop
from ._tasks import describe_tasks

__all__ = ["BackgroundTaskError", "DeadlockError", "Network", "Partition", "VirtualTimeoutError"]

_T = TypeVar("_T")
_NS = 1_000_000_000
_HISTORY = 100_000  # frames that a trace keeps
_TAIL = 40  # frames that a report shows


class DeadlockError(MultistackError):
    """Nothing is runnable and nothing will be; the message says which tasks wait, and where."""


class VirtualTimeoutError(MultistackError):
    """The test has used up its virtual time; the message says which tasks wait, and where."""


class BackgroundTaskError(MultistackError):
    """A task of `Host.start()` has failed, which nobody noticed; `__cause__` is its exception."""


class Partition:
    """Hosts that can't reach each other until `heal`; also a context manager."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._links = list(links)
        for link in self._links:
            link.cuts += 1

    def heal(self) -> None:
        """Lets frames pass again; idempotent."""
        links, self._links = self._links, []
        for link in links:
            link.cuts -= 1

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *exc: object) -> None:
        self.heal()


class Network:
    """Hosts, and the links between them.

    seed: decides everything that chance decides; same seed, same run.
    time_limit: virtual seconds after which `run` gives up.
    lookup_delay: virtual seconds that resolving a name takes.
    ipv6: each host gets an IPv6 address beside its IPv4 one, which its name resolves to in the second place.
    mtu: bytes.  congestion: the hosts' congestion control; None: the default.
    faults: what each link does unless `link` says otherwise: delay (0.5 ms each way if not given), jitter, loss,
        duplicate, reorder, reorder_delay, corrupt, rate, queue, as in `Faults`.

    Code of the test itself runs on a host named "test".  Raises ConfigError for a value that can't be meant.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        time_limit: float = 3600.0,
        lookup_delay: float = 0.0,
        ipv6: bool = False,
        mtu: int = 1500,
        congestion: str | None = None,
        **faults: Any,
    ) -> None:
        #: The seed.
        self.seed = seed
        self.ipv6 = ipv6
        self.mtu = mtu
        self.congestion = congestion
        #: Virtual seconds that resolving a name takes.
        self.lookup_delay = lookup_delay
        #: Virtual seconds after which `run` gives up.
        self.time_limit = time_limit
        self._faults = _faults(Faults(), faults)
        self._selector = VirtualSelector()
        self._selector.on_stalled = self._stalled
        self._selector.on_advance = self._advance
        self._begin = self._selector.now_ns
        self._loop: NetworkLoop | None = None
        self._hosts: dict[str, Host] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._partitions: list[Partition] = []
        self._by_mac: dict[bytes, Host] = {}
        self._drops: list[_Drop] = []
        self._trace: deque[Frame] = deque(maxlen=_HISTORY)
        self._flying: list[tuple[int, int, Host, Host, bytes]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        self._random_state: Any = None
        #: The host that the test itself runs on.
        self.local = self.host("test")

    def __repr__(self) -> str:
        return f"<Network seed={self.seed} {' '.join(self._hosts)} at {self.time():.6f} s>"

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- hosts and names ----------------------------------------------------------------------------------

    @property
    def loop(self) -> NetworkLoop:
        """The loop that all hosts share."""
        assert self._loop is not None
        return self._loop

    def time(self) -> float:
        """Virtual seconds since the network was made."""
        return (self._selector.now_ns - self._begin) / _NS

    @property
    def hosts(self) -> Mapping[str, Host]:
        """The hosts by name."""
        return MappingProxyType(self._hosts)

    def host(self, name: str, addresses: str | Iterable[str] = ()) -> Host:
        """The host of that name, made if there is none.

        addresses: numeric, without a prefix length; not given: the next of 10.0.0.0/16, with `ipv6` of fd00::/64 too.
        All hosts reach each other directly.  Raises ConfigError if the name or an address is taken.
        """
        if name in self._hosts:
            if addresses:
                raise ConfigError(f"host {name!r} exists already, with addresses {self._hosts[name].addresses}")
            return self._hosts[name]
        index = len(self._hosts) + 1
        texts = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        if not texts:
            texts = (f"10.0.{index >> 8}.{index & 255}", f"fd00::{index:x}")[: 1 + self.ipv6]
        for text in texts:
            if self.name_of(text) is not None:
                raise ConfigError(f"host {name!r}: address {text} is {self.name_of(text)!r}'s already")
        host = Host(self, name, tuple(_with_prefix(text) for text in texts), index)
        self._hosts[name] = host
        self._by_mac[bytes.fromhex(host.mac.replace(":", ""))] = host
        self.loop.add_reader(host.port.fileno(), self._collect, host)
        return host

    def drive(self, node: Node) -> Pump:
        """Has the network's loop drive a node; makes the loop for the first one."""
        if self._loop is None:
            self._loop = NetworkLoop(self, node, self._selector)
            return self._loop._pumps[0]
        return self._loop.add_pump(node)

    @property
    def clock(self) -> Callable[[], int]:
        """Virtual time in nanoseconds, for nodes."""
        return self._selector.now

    def set_name(self, name: str, *targets: str | Host) -> None:
        """Lets a name resolve to hosts or numeric addresses; to nothing without any, so that looking it up fails."""
        found: list[str] = []
        for target in targets:
            found += target.addresses if isinstance(target, Host) else [str(ipaddress.ip_address(target))]
        self._names[name.lower()] = tuple(found)

    async def lookup(self, name: str) -> tuple[str, ...]:
        """The addresses of a name; what `loop.getaddrinfo()` asks.  Raises `socket.gaierror` if there are none."""
        if name.lower() == "localhost":
            return ("127.0.0.1", "::1")[: 1 + self.ipv6]
        if self.lookup_delay:
            await asyncio.sleep(self.lookup_delay)
        found = self._names.get(name.lower().rstrip("."))
        if found is None and name in self._hosts:
            found = self._hosts[name].addresses
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    def name_of(self, address: str) -> str | None:
        """The name of the host that has a numeric address."""
        ip = ipaddress.ip_address(address)
        for host in self._hosts.values():
            if any(ip == ipaddress.ip_address(own) for own in host.addresses):
                return host.name
        return None

    # ---- links --------------------------------------------------------------------------------------------

    def link(self, source: str | Host, target: str | Host, *, both: bool = True, **faults: Any) -> None:
        """Changes how the link between two hosts treats frames; what isn't named stays.

        both: in both directions, not only from source to target.  faults: as in `Faults`.
        """
        ends = self._known(source), self._known(target)
        for pair in (ends, ends[::-1]) if both else (ends,):
            link = self._link(*pair)
            link.faults = _faults(link.faults, faults)

    def links(self, **faults: Any) -> None:
        """Changes all links, those of hosts to come too; what isn't named stays."""
        self._faults = _faults(self._faults, faults)
        for link in self._links.values():
            link.faults = _faults(link.faults, faults)

    def partition(self, *groups: str | Host | Iterable[str | Host], both: bool = True) -> Partition:
        """Cuts the links between groups of hosts; what is under way is lost.

        One group is cut off from everybody else.  both=False: only from the first group to the others.
        ``with network.partition("server"):`` heals itself at its end; `Partition.heal()` does it too.
        """
        sides = [self._group(group) for group in groups]
        if len(sides) == 1:
            sides.append([host for host in self._hosts.values() if host not in sides[0]])
        pairs = [
            (a, b)
            for one, other in itertools.permutations(range(len(sides)), 2)
            if both or one == 0
            for a in sides[one]
            for b in sides[other]
            if a is not b
        ]
        made = Partition(self._link(*pair) for pair in dict.fromkeys(pairs))
        self._partitions.append(made)
        return made

    def heal(self) -> None:
        """Ends all partitions."""
        while self._partitions:
            self._partitions.pop().heal()

    def drop(self, matches: Callable[[Frame], bool], times: int | None = None) -> None:
        """Loses the frames for which `matches` returns true: the next `times` of them, or all.

        ``network.drop(lambda frame: frame.source == "client" and "SYN" in frame.flags, times=1)``
        """
        self._drops.append(_Drop(matches, times))

    def _known(self, host: str | Host) -> Host:
        if isinstance(host, Host):
            return host
        if host not in self._hosts:
            raise ConfigError(f"there is no host {host!r} yet; make it with network.host({host!r})")
        return self._hosts[host]

    def _group(self, group: str | Host | Iterable[str | Host]) -> list[Host]:
        return [self._known(item) for item in ([group] if isinstance(group, (str, Host)) else group)]

    def _link(self, source: Host, target: Host) -> Link:
        pair = source.name, target.name
        if pair not in self._links:
            self._links[pair] = Link(" > ".join(pair), self.seed, self._faults)
        return self._links[pair]

    # ---- frames -------------------------------------------------------------------------------------------

    def _collect(self, source: Host) -> None:
        """Takes what a host has sent."""
        now = self._selector.now_ns
        while (raw := source.port.receive(now)) is not None:
            if not source.up:
                continue
            if raw[0] & 1:
                for target in list(self._hosts.values()):
                    if target is not source:
                        self._carry(source, target, raw, now)
            elif (owner := self._by_mac.get(raw[:6])) is not None:
                self._carry(source, owner, raw, now)

    def _carry(self, source: Host, target: Host, raw: bytes, now: int) -> None:
        """Decides what becomes of a frame on its way from one host to another."""
        if is_neighbour_discovery(raw):
            self._put(target, raw)
            return
        time = (now - self._begin) / _NS
        for drop in self._drops:
            if drop.takes(Frame(time, source.name, target.name, raw)):
                self._trace.append(Frame(time, source.name, target.name, raw, "dropped by test"))
                return
        for passage in self._link(source, target).pass_on(raw, now):
            fate = passage.fate if target.up or passage.fate != "delivered" else "host down"
            arrival = (passage.release - self._begin) / _NS if fate == "delivered" else None
            self._trace.append(Frame(time, source.name, target.name, passage.frame, fate, passage.notes, arrival))
            if fate == "delivered":
                heapq.heappush(self._flying, (passage.release, next(self._order), source, target, passage.frame))
        self._arm()

    def _arm(self) -> None:
        """Sets the timer for the frame that arrives first."""
        if not self._flying:
            return
        first = self._flying[0][0]
        if self._timer is not None:
            if self._armed <= first:
                return
            self._timer.cancel()
        self._armed = first
        self._timer = self.loop.call_at(first / _NS, self._arrive)

    def _arrive(self) -> None:
        """Delivers what is due; what a partition has cut meanwhile is lost."""
        self._timer = None
        now = self._selector.now_ns
        while self._flying and self._flying[0][0] <= now + 1:
            _, _, source, target, raw = heapq.heappop(self._flying)
            if self._link(source, target).cuts:
                time = (now - self._begin) / _NS
                self._trace.append(Frame(time, source.name, target.name, raw, "cut", ("under way",)))
            else:
                self._put(target, raw)
        self._arm()

    def _put(self, target: Host, raw: bytes) -> None:
        if target.up:
            target.port.send(raw, self._selector.now_ns)

    # ---- running ------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine on the host "test" until it is done, and returns its result.

        May be called several times; what `Host.start()` has started goes on in between.  Python's `random` starts
        from the network's seed, and gets its state back afterwards.

        Raises DeadlockError if nothing is runnable any more, VirtualTimeoutError after `time_limit`,
        BackgroundTaskError if all went well but for a background task.
        """
        loop = self.loop
        with self._seeded():
            result: _T = loop.run_until_complete(loop.create_task(main))
        self._check_background()
        return result

    def loop_factory(self) -> asyncio.AbstractEventLoop:
        """The network's loop, for `asyncio.Runner`, which closes it, and the network with it."""
        return self.loop

    def close(self) -> None:
        """Cancels what still runs and closes the loop; idempotent."""
        loop = self.loop
        if loop.is_closed():
            return
        self._selector.on_stalled = self._selector.on_advance = None
        with self._seeded():
            self._cancel_all()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=60.0))

    def _loop_closes(self) -> None:
        """The loop is about to be closed: ends the hosts."""
        if self._timer is not None:
            self._timer.cancel()
        for host in self._hosts.values():
            self.loop.remove_reader(host.port.fileno())
            host.close()

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """While it lasts, time stands still and the loop waits for other threads that a test has started itself.

        Executors (`run_in_executor`, `asyncio.to_thread`) need no help.
        """
        return self._hold()

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        self._selector.held += 1
        try:
            yield
        finally:
            self._selector.held -= 1

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        """Python's own generator starts from the seed, and goes on from one `run` to the next."""
        outside = random.getstate()
        if self._random_state is None:
            random.seed(self.seed)
        else:
            random.setstate(self._random_state)
        try:
            yield
        finally:
            self._random_state = random.getstate()
            random.setstate(outside)

    # ---- when nothing goes on -----------------------------------------------------------------------------

    def _stalled(self) -> None:
        if not self.loop.watches_others():
            raise DeadlockError(
                f"nothing is runnable and nothing will be, at {self.time():.6f} s of virtual time (seed {self.seed})\n"
                + self.describe()
            )

    def _advance(self, step: int) -> None:
        if self.time() + step / _NS > self.time_limit:
            raise VirtualTimeoutError(
                f"{self.time_limit:g} s of virtual time are used up (seed {self.seed}; `time_limit` sets it)\n"
                + self.describe()
            )

    def _check_background(self) -> None:
        """Raises for a failed background task whose exception nobody has asked for."""
        for life, task in self._background():
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                error = task.exception()
                raise BackgroundTaskError(
                    f"task {task.get_name()} of host {life.host.name!r} has failed: {error!r} (seed {self.seed})"
                ) from error

    def _background(self) -> list[tuple[Life, asyncio.Task[Any]]]:
        return [(host.life, task) for host in self._hosts.values() for task in host.life.background]

    def describe(self) -> str:
        """What each task waits for, the state of each connection, and the last frames."""
        tasks: list[tuple[str, asyncio.Task[Any]]] = []
        known: set[asyncio.Task[Any]] = set()
        for host in self._hosts.values():
            tasks += [(host.name, task) for task in host.life.tasks]
            known.update(host.life.tasks)
        others = [task for task in asyncio.all_tasks(self.loop) if task not in known and not task.done()]
        tasks = [("test", task) for task in sorted(others, key=lambda task: task.get_name())] + tasks
        lines = ["tasks:", *(describe_tasks(tasks) or ["  none"])]
        for life, task in self._background():
            if task.done() and not task.cancelled() and task.exception() is not None:
                lines.append(f"  {life.host.name}: task {task.get_name()} has failed: {task.exception()!r}")
        connections = [
            f"  {host.name}: {info.state_name} {_show(info.local)} > {_show(info.remote)}"
            + (f", {info.send_queue} bytes unacknowledged" if info.send_queue else "")
            + (f", {info.recv_queue} bytes unread" if info.recv_queue else "")
            for host in self._hosts.values()
            for info in host.connections()
        ]
        lines += ["connections:", *(connections or ["  none"]), *self._last_frames()]
        return "\n".join(lines)

    def _last_frames(self) -> list[str]:
        frames = list(self._trace)
        if not frames:
            return ["frames: none"]
        shown = format_frames(frames)[-_TAIL:]
        return [f"frames (the last {len(shown)} of {len(frames)}; seconds):", *shown]

    # ---- traces -------------------------------------------------------------------------------------------

    def trace(self) -> list[Frame]:
        """Every frame that hosts have sent each other, the last 100,000 of them; ARP and NDP are left out."""
        return list(self._trace)

    def format_trace(self) -> str:
        """The trace as text, a line for each frame."""
        return "\n".join(format_frames(list(self._trace)))

    def save_pcapng(self, path: str | PathLike[str]) -> None:
        """Writes the trace for Wireshark; a comment says what became of each frame that didn't simply arrive."""
        with Path(path).open("wb") as file:
            writer = PcapngWriter(file)
            numbers = {name: writer.interface(name) for name in self._hosts}
            for frame in self._trace:
                comment = ", ".join([*frame.notes, *([] if frame.fate == "delivered" else [frame.fate])])
                stamp = round(frame.time * _NS)
                writer.packet(numbers[frame.source], stamp, frame.raw, comment=comment, outbound=True)


class _Drop:
    """Frames that a test wants lost."""

    def __init__(self, matches: Callable[[Frame], bool], times: int | None) -> None:
        self._matches = matches
        self._left = times

    def takes(self, frame: Frame) -> bool:
        """True if this frame is to be lost."""
        if self._left == 0 or not self._matches(frame):
            return False
        if self._left is not None:
            self._left -= 1
        return True


def _faults(base: Faults, changes: dict[str, Any]) -> Faults:
    """Faults with some values changed; raises ConfigError for a name that is none."""
    values = {**vars(base)}
    for name, value in changes.items():
        if name not in values:
            raise ConfigError(f"a link has no {name!r}; it has {', '.join(values)}")
        values[name] = value
    return Faults(**values)


def _with_prefix(text: str) -> str:
    """An address with the prefix that makes every other one a neighbour."""
    return f"{ipaddress.ip_address(text)}/0"


def _show(address: Any) -> str:
    if address is None:
        return "*"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
