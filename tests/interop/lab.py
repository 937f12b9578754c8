"""Real programs on both sides of a TAP: network namespaces, servers in processes, loops in this one.

A test's process (its main thread, and whatever threads and processes that starts) moves into a network namespace
without a name, so that nothing on the machine is disturbed and nothing is left behind, however the test ends.
Inside, the kernel's TCP is on one side of a TAP and a user-space stack on the other.  The stack is driven either
by a process of its own, `Program`, an unchanged program under ``aiomultistack run``, or by a loop in the test's
process, `stack_loop`, where frames and endpoints can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from support import PATIENCE, descriptors, eventually, own_namespace

import aiomultistack
from aiomultistack import _control

_T = TypeVar("_T")

#: The stack's addresses, and the kernel's on the other side of the TAP.
STACK4, STACK6 = "10.99.0.2", "fd99::2"
KERNEL4, KERNEL6 = "10.99.0.1", "fd99::1"
#: An address of the TAP's network that nobody has.
NOBODY4, NOBODY6 = "10.99.0.77", "fd99::77"

ROOT = Path(__file__).parents[2]

_PR_SET_PDEATHSIG = 1
_numbers = itertools.count()


def stack_host(family: int) -> str:
    """The stack's address in a family, 4 or 6."""
    return STACK6 if family == 6 else STACK4


def kernel_host(family: int) -> str:
    """The kernel's address in a family, 4 or 6."""
    return KERNEL6 if family == 6 else KERNEL4


def url_host(host: str) -> str:
    """An address as a URL has it."""
    return f"[{host}]" if ":" in host else host


# ---- namespaces ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """Moves the calling thread into a network namespace of its own, with its loopback up, and back again."""
    with own_namespace():
        command("ip", "link", "set", "lo", "up")
        yield


def command(*arguments: str, timeout: float = 60.0) -> str:
    """Runs a command in this thread's namespace and returns its output; a failure shows what it said."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def set_sysctl(name: str, value: object) -> None:
    """Sets a sysctl of this thread's namespace, e.g. ("net.ipv4.tcp_sack", 0)."""
    path = Path("/proc/sys", *name.split("."))
    path.write_text(f"{value}\n")
    assert path.read_text().split() == str(value).split()


def tap_name() -> str:
    """A device name that no other test uses."""
    return f"ams{os.getpid() % 100000}x{next(_numbers)}"


def configuration(name: str, **fields: Any) -> aiomultistack.Config:
    """A TAP with the stack's and the kernel's addresses."""
    values: dict[str, Any] = {
        "port": f"tap:{name}",
        "addresses": [f"{STACK4}/24", f"{STACK6}/64"],
        "host_addresses": [f"{KERNEL4}/24", f"{KERNEL6}/64"],
        "gateway": [KERNEL4, KERNEL6],
        "time_wait": 0.05,
        "control": False,
    }
    return aiomultistack.Config(**{**values, **fields})


# ---- a loop of ours in this process ----------------------------------------------------------------------


class Bench:
    """A loop on the stack, and what its exception handler was called with."""

    def __init__(self, config: aiomultistack.Config) -> None:
        self.loop = aiomultistack.new_event_loop(config)
        self.config = config
        self.contexts: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.contexts.append(context))

    def run(self, main: Callable[[], Awaitable[_T]], timeout: float = 60.0) -> _T:
        """Runs a coroutine function to its end, and checks that it leaves no task, endpoint or frame."""

        async def checked() -> _T:
            result = await asyncio.wait_for(main(), timeout)
            await self._tasks_end()
            await self.settled()
            return result

        result = self.loop.run_until_complete(checked())
        assert self.contexts == []
        return result

    async def _tasks_end(self) -> None:
        """Waits for the tasks that are about to end, such as those of connections that were closed."""
        deadline = time.monotonic() + PATIENCE
        while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            assert time.monotonic() < deadline, tasks
            await asyncio.wait(tasks, timeout=0.05)

    async def settled(self) -> None:
        """Waits until the stack holds no endpoint and no frame; TIME-WAIT is short here."""
        deadline = time.monotonic() + PATIENCE
        stack = self.loop.multistack
        while stack.endpoints() or stack.frames:
            assert time.monotonic() < deadline, f"left behind: {stack.endpoints()}, {stack.frames} frames"
            await asyncio.sleep(0.01)

    def close(self) -> None:
        """Closes the loop as `asyncio.run()` does."""
        loop = self.loop
        try:
            if not loop.is_closed():
                for task in asyncio.all_tasks(loop):
                    task.cancel()
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


@contextlib.contextmanager
def stack_loop(**fields: Any) -> Iterator[Bench]:
    """A loop on a TAP of this thread's namespace; fields are those of `Config`.

    Checks that no descriptor is left behind.
    """
    before = descriptors()
    bench = Bench(configuration(tap_name(), **fields))
    try:
        yield bench
    finally:
        bench.close()
        gc.collect()
    assert descriptors() - before == set()


# ---- programs in processes of their own ------------------------------------------------------------------


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without our variables, and with this tree's package first."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")}
    path = os.pathsep.join(filter(None, [str(Path(aiomultistack.__file__).parents[1]), own.get("PYTHONPATH", "")]))
    return {**own, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}


class Program:
    """An unchanged program, run by ``aiomultistack run`` in this thread's namespace."""

    def __init__(self, log: Path, script: Path, arguments: Sequence[str] = (), **options: str) -> None:
        self.tap = tap_name()
        given = {
            "port": f"tap:{self.tap}",
            "addresses": f"{STACK4}/24,{STACK6}/64",
            "host-addresses": f"{KERNEL4}/24,{KERNEL6}/64",
            **options,
        }
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "aiomultistack", "run", *(f"--{name}={value}" for name, value in given.items()),
                 str(script), *arguments],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=environment(AIOMULTISTACK_TIME_WAIT="0.05"), preexec_fn=_die_with_parent,
            )  # fmt: skip

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    def wait_until_open(self, host: str, port: int) -> None:
        """Waits until it accepts connections; fails if it ends before."""

        def is_open() -> bool:
            assert self.process.poll() is None, f"it ended: {self.output}"
            with contextlib.suppress(OSError):
                socket.create_connection((host, port), 1.0).close()
                return True
            return False

        eventually(is_open, f"an answer from {host} port {port}")

    def control(self, request: str) -> Any:
        """What its loop answers on the control socket: to "endpoints" or "counters"."""
        (address,) = _control.find(self.process.pid)
        return _control.query(address.path, request, PATIENCE)

    def connections(self) -> list[Mapping[str, Any]]:
        """Its stack's TCP connections, without listeners."""
        return [row for row in self.control("endpoints") if row["protocol"] == 6 and row["state"] != 10]

    def descriptor_count(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def steady_descriptor_count(self) -> int:
        """The same, once it doesn't change any more: the control socket's connection is closed a little later."""
        counts: list[int] = []

        def steady() -> bool:
            counts.append(self.descriptor_count())
            return len(counts) >= 5 and len(set(counts[-5:])) == 1

        eventually(steady, "the number of descriptors stays the same")
        return counts[-1]

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for its end; returns its status."""
        return self.process.wait(timeout)

    def close(self) -> None:
        """Ends it by whatever means it takes."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
