"""Where the demo plays: servers on user-space TCP and on the kernel's, and a way to reach them.

  TapStage   as root: a namespace without a name for this process, whose clients use the kernel's TCP.
             The server on user-space TCP is an `aiomultistack run` on a TAP; the one on the kernel's is the
             same program on uvloop, in a namespace of its own at the end of a veth pair.
  MemStage   otherwise: threads of this process, each with a loop; server and clients of user-space TCP
             meet on a `mem:` hub, those of the kernel's on 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiomultistack
from aiomultistack import _netns
from aiomultistack._demo_client import Target
from aiomultistack._ui import fail

_T = TypeVar("_T")
_APP = str(Path(__file__).with_name("_demo_app.py"))
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 20.0
_PORT, _TLS_PORT = 8080, 8443


class Running(Protocol):
    """A server of the demo."""

    @property
    def target(self) -> Target:
        """Where it is."""

    @property
    def pid(self) -> int:
        """The process it runs in."""

    def cpu_us(self) -> float:
        """CPU time that it has used so far, user and system, in µs."""


class Stage(Protocol):
    """A place to play."""

    #: Lines that say what is set up.
    description: list[str]

    def user_space(self, certificate: str) -> contextlib.AbstractContextManager[Running]:
        """The server on user-space TCP."""

    def kernel(self, certificate: str) -> contextlib.AbstractContextManager[Running]:
        """The same application on the kernel's TCP."""

    def client(self, main: Coroutine[Any, Any, _T], server: Running) -> _T:
        """Runs a client's coroutine on a loop that reaches `server`."""

    def close(self) -> None:
        """Clears the stage, once its servers are gone."""


def _base_loop() -> asyncio.AbstractEventLoop:
    """A loop on the kernel's TCP: uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


def _run_on(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end.

    Raises KeyboardInterrupt after ^C, or SIGTERM, once the coroutine has been cancelled and has cleaned up.
    """
    task = loop.create_task(main)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Closes a loop and what hangs on it."""
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


# ---- processes and namespaces ---------------------------------------------------------------------------


class _Process:
    """A server in a process of its own."""

    def __init__(self, command: list[str], target: Target) -> None:
        self.target = target
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (close() closes it)
        libc = ctypes.CDLL(None)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # ^C goes to the demo alone, which ends its servers
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # and if it can't, the kernel does
        )
        self.pid = self._process.pid

    def cpu_us(self) -> float:
        """Time on a CPU of all its threads: in nanoseconds if the kernel tells, else in ticks."""
        threads = list(Path(f"/proc/{self.pid}/task").glob("*/schedstat"))
        if threads:
            return sum(int(thread.read_text().split()[0]) for thread in threads) / 1000
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6

    def give_link(self, name: str, address: str) -> None:
        """Once the process has left for a namespace of its own: gives it a link; `name` is our end of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._fail()
        _netns.veth(name, "eth0", self.pid)
        _netns.configure(name, [address])
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait_until_open(self) -> None:
        """Waits until the server accepts connections; fails if it ends before."""
        deadline = time.monotonic() + _START_SECONDS
        while (error := self._try_to_connect()) is not None:
            if self._process.poll() is not None:
                self._fail()
            if time.monotonic() > deadline:
                fail(f"the server on {self.target.host} does not answer: {error}")
            time.sleep(0.02)

    def _try_to_connect(self) -> OSError | None:
        """What keeps the server from answering; None if it accepts connections."""
        try:
            socket.create_connection((self.target.host, self.target.port), 1).close()
        except OSError as error:
            return error
        return None

    def _fail(self) -> None:
        self._process.wait(5)
        self._errors.seek(0)
        fail(f"the server ended before it served:\n{self._errors.read().strip()[-3000:]}")

    def close(self) -> None:
        """Ends it as ^C would; failing that, by force."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()


def _app_arguments(hosts: Sequence[str], certificate: str) -> list[str]:
    """The application's command line, from its file on."""
    options = [f"--host={host}" for host in hosts]
    return [_APP, *options, f"--port={_PORT}", f"--tls-port={_TLS_PORT}", f"--certificate={certificate}"]


class TapStage:
    """Servers in processes, the user-space one on a TAP; this process is the client."""

    _address, _address6, _kernel_address = "10.77.0.2", "fd77::2", "10.78.0.2"
    _options = (
        "--port=tap:ams0",
        f"--addresses={_address}/24,{_address6}/64",
        "--host-addresses=10.77.0.1/24,fd77::1/64",
    )

    def __init__(self) -> None:
        _netns.unshare()
        _netns.widen_ports()
        self._loop = _base_loop()
        self.description = [
            "An aiohttp application that knows nothing of aiomultistack was started, in a network",
            "namespace of its own, by",
            f"  aiomultistack run {' '.join(self._options[:2])} \\",
            f"      {self._options[2]} {os.path.basename(_APP)}",
            "Its clients are on the kernel's TCP, on the other side of the TAP.",
        ]

    @contextlib.contextmanager
    def user_space(self, certificate: str) -> Iterator[_Process]:
        """`aiomultistack run` with the application."""
        target = Target(self._address, _PORT, _TLS_PORT, self._address6)
        arguments = _app_arguments([self._address, self._address6], certificate)
        command = [sys.executable, "-m", "aiomultistack", "run", *self._options, *arguments]
        with contextlib.closing(_Process(command, target)) as process:
            process.wait_until_open()
            yield process

    @contextlib.contextmanager
    def kernel(self, certificate: str) -> Iterator[_Process]:
        """The application on uvloop, behind a veth pair."""
        target = Target(self._kernel_address, _PORT, _TLS_PORT)
        arguments = _app_arguments([self._kernel_address], certificate)
        command = [sys.executable, "-m", "aiomultistack._demo_stage", f"{self._kernel_address}/24", *arguments]
        with contextlib.closing(_Process(command, target)) as process:
            process.give_link("kernel0", "10.78.0.1/24")
            process.wait_until_open()
            yield process

    def client(self, main: Coroutine[Any, Any, _T], server: Running) -> _T:
        """Runs a client on the kernel's TCP, whichever the server."""
        return _run_on(self._loop, main)

    def close(self) -> None:
        """Closes the clients' loop; the namespace goes with the process."""
        _close(self._loop)


def _kernel_server() -> None:
    """Main function of the process that serves on the kernel's TCP: ADDRESS/LEN APP [ARGS]..."""
    _netns.unshare()
    print("isolated", flush=True)
    sys.stdin.readline()
    _netns.configure("eth0", [sys.argv[1]])
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    sys.argv[:] = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


# ---- threads of one process ------------------------------------------------------------------------------


class _Thread:
    """A server on a loop in a thread of this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hosts: list[str], port: int, certificate: str | None) -> None:
        from aiomultistack._demo_app import serve

        self.pid = os.getpid()
        self._loop = loop
        self._runner: Any = None
        self._thread = threading.Thread(target=loop.run_forever, name="demo server", daemon=True)
        self._thread.start()
        self._clock = time.pthread_getcpuclockid(self._thread.ident or 0)
        try:
            self._runner = self._call(serve(hosts, port, _TLS_PORT, certificate))
        except BaseException:
            self.close()
            raise
        self.target = Target(
            hosts[0], self._runner.addresses[0][1], _TLS_PORT if certificate else None, hosts[1] if hosts[1:] else None
        )

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_SECONDS)

    def cpu_us(self) -> float:
        """CPU time of the server's thread."""
        return time.clock_gettime(self._clock) * 1e6

    def close(self) -> None:
        """Ends the server, its thread and its loop."""
        try:
            if self._runner is not None:
                self._call(self._runner.cleanup())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class MemStage:
    """Servers and clients on loops of this process."""

    _server = ("10.77.0.2", "fd77::2")
    _client = ("10.77.0.1", "fd77::1")

    def __init__(self) -> None:
        self._port = f"mem:demo-{os.getpid()}"
        self.description = [
            "An aiohttp application that knows nothing of aiomultistack serves on one event loop,",
            f"on {self._server[0]} and {self._server[1]}; aiohttp's client is on another, on",
            f"{self._client[0]} and {self._client[1]}.  Between their two user-space stacks is an Ethernet in",
            "memory.",
        ]
        self._clients: dict[bool, asyncio.AbstractEventLoop] = {}

    def _loop(self, addresses: tuple[str, str]) -> asyncio.AbstractEventLoop:
        config = aiomultistack.Config(port=self._port, addresses=[f"{addresses[0]}/24", f"{addresses[1]}/64"])
        return aiomultistack.new_event_loop(config)

    @contextlib.contextmanager
    def user_space(self, certificate: str) -> Iterator[_Thread]:
        """The application on a loop of ours."""
        with contextlib.closing(_Thread(self._loop(self._server), list(self._server), _PORT, certificate)) as thread:
            yield thread

    @contextlib.contextmanager
    def kernel(self, certificate: str) -> Iterator[_Thread]:
        """The application on uvloop, on 127.0.0.1."""
        with contextlib.closing(_Thread(_base_loop(), ["127.0.0.1"], 0, None)) as thread:
            yield thread

    def client(self, main: Coroutine[Any, Any, _T], server: Running) -> _T:
        """Runs a client on the stack that the server is on."""
        user_space = server.target.host == self._server[0]
        if user_space not in self._clients:  # one for the whole demo: a stack that lives as long as a host does
            self._clients[user_space] = self._loop(self._client) if user_space else _base_loop()
        return _run_on(self._clients[user_space], main)

    def close(self) -> None:
        """Closes the clients' loops."""
        for loop in self._clients.values():
            _close(loop)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _kernel_server()
