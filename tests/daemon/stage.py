"""A switch daemon and its clients, all of them real processes.

A client that serves or connects is `python -c` on the user-space stack; it says on its standard output what it has
done, and does the next thing for each line that it is given on its standard input.  A raw client speaks the protocol
by itself, byte for byte.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiomultistack import _switch_show
from aiomultistack._addresses import pack
from aiomultistack._node import ffi, lib

PATIENCE = 30.0  # seconds until what must happen is taken for not happening
ROOT = Path(__file__).parents[2]

#: The addresses that the switch serves and the system doesn't have.
HOST4, HOST6 = "10.77.0.2", "fd77::2"
ADDRESSES = (f"{HOST4}/24", f"{HOST6}/64")


def until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for a condition and returns what it gives."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE:g} s"
        time.sleep(0.02)


_ports = itertools.count(20000 + os.getpid() % 1000 * 10, 4)


def free_port() -> int:
    """A TCP port that nobody has, nor the three after it, below the kernel's ephemeral ones; each call another."""
    for port in _ports:
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for number in range(port, port + 4):
                probes.enter_context(socket.create_server(("::", number), family=socket.AF_INET6, dualstack_ipv6=True))
            return port
    raise AssertionError("all ports are taken")


@contextlib.contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that other users may enter; pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="ams-switch-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


class Process:
    """A process, by lines of text in and out."""

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **options.pop("environment", {})}
        self.arguments = arguments
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- a pipe that nobody reads would fill up
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, **options
        )
        self._text = b""

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    def line(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._text:
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                self.kill()
                raise AssertionError(f"{self.arguments} said {self._text!r} and no more:\n{self.error()}")
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def expect(self, text: str) -> None:
        """Reads a line that must be `text`."""
        found = self.line()
        assert found == text, f"{found!r} is not {text!r}"

    def tell(self, text: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, text: str) -> str:
        """A line in, a line out."""
        self.tell(text)
        return self.line()

    def error(self) -> str:
        """What it has written to its standard error so far."""
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Sends a signal and waits for the end; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Makes sure that nothing is left."""
        self.kill()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


_BECOME = """
import asyncio, concurrent.futures.thread, encodings.idna, os, socket, uvloop
import aiomultistack, aiomultistack._factory
os.setgroups({groups})
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
"""


class Switch:
    """A switch daemon in a process."""

    def __init__(self, path: Path, *options: str, addresses: Sequence[str] = ADDRESSES, **more: Any) -> None:
        self.path = str(path)
        self._arguments = [sys.executable, "-m", "aiomultistack", "switch", "--socket", self.path, *options]
        for address in addresses:
            self._arguments += ["--address", address]
        self._more = more
        self.process: Process | None = None
        self._others: list[Process] = []
        self.start()

    def start(self) -> None:
        """Starts it, for the first time or again."""
        self.process = Process(self._arguments, **self._more)
        until(self._serves, "the switch's start")

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.process.poll() is None, self.process.error()
        try:
            return bool(self.describe()["switch"]["pid"] == self.process.pid)
        except _switch_show.SwitchError:
            return False

    def describe(self) -> dict[str, Any]:
        """What it tells about itself."""
        return _switch_show.describe(self.path, PATIENCE)

    def tuples(self) -> set[tuple[str, str, int]]:
        """The tuples that clients have."""
        return {(row["protocol"], row["host"], row["port"]) for row in self.describe()["tuples"]}

    def clients(self) -> list[dict[str, Any]]:
        """The clients' ports."""
        return [port for port in self.describe()["ports"] if "pid" in port]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Ends it."""
        assert self.process is not None
        status = self.process.kill(number)
        self.process.close()
        return status

    def client(self, program: str, *arguments: str, **options: Any) -> Process:
        """A program on the user-space stack; it ends with the test.

        user, groups: whom it becomes when its modules are loaded (the interpreter may lie where only root may go).
        """
        environment = {
            "AIOMULTISTACK_PORT": f"switch:{self.path}", "AIOMULTISTACK_CONTROL": "0",
            **options.pop("environment", {}),
        }  # fmt: skip
        user, groups = options.pop("user", None), options.pop("groups", [])
        if user is not None:
            program = _BECOME.format(groups=groups, user=user) + program
        made = Process([sys.executable, "-c", program, *arguments], environment=environment, **options)
        self._others.append(made)
        return made

    def raw(self) -> Raw:
        """A client that speaks the protocol by itself."""
        return Raw(self.path)

    def close(self) -> None:
        """Ends everything."""
        for other in self._others:
            other.close()
        if self.process is not None:
            self.process.close()


@contextlib.contextmanager
def running(path: Path, *options: str, **more: Any) -> Iterator[Switch]:
    """A switch for the length of a block."""
    switch = Switch(path / "switch.sock", *options, **more)
    try:
        yield switch
    finally:
        switch.close()


class Raw:
    """A connection to the daemon without any of the client's code."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(path)
        self._serial = 0

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Sends bytes as one message."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.sock.sendmsg([data], rights)

    def message(self, struct_name: str, kind: int, /, **fields: Any) -> bytes:
        """A struct of aiomultistack.h as a request."""
        struct = ffi.new(f"struct {struct_name} *")
        head = struct if struct_name == "ams_msg" else struct.head
        self._serial += 1
        head.version, head.type, head.serial = lib.AMS_MSG_VERSION, kind, self._serial
        for field, value in fields.items():
            if field == "local":
                ffi.buffer(ffi.addressof(struct, "local"))[:] = value
            else:
                setattr(struct, field, value)
        return bytes(ffi.buffer(struct))

    def answer(self) -> tuple[int, bytes, list[int]]:
        """Status, body and descriptors of the next message; ConnectionError if the daemon hung up."""
        data, descriptors, _, _ = socket.recv_fds(self.sock, 1 << 17, 8)
        if not data:
            raise ConnectionResetError("the switch hung up")
        head = ffi.new("struct ams_msg *")
        size = ffi.sizeof("struct ams_msg")
        ffi.buffer(head)[:] = data[:size]
        return int(head.status), data[size:], list(descriptors)

    def call(self, struct_name: str, kind: int, descriptors: Sequence[int] = (), /, **fields: Any) -> tuple[int, bytes]:
        """A request and its answer."""
        self.send(self.message(struct_name, kind, **fields), descriptors)
        status, body, passed = self.answer()
        for number in passed:
            os.close(number)
        return status, body

    def hello(self, name: bytes = b"raw") -> int:
        """Attaches; the client's number, or a negative status."""
        status, body = self.call("ams_msg_hello", lib.AMS_MSG_HELLO, name=name)
        return status if status < 0 else int.from_bytes(body[:4], sys.byteorder)

    def claim(self, sock: socket.socket | int, protocol: int, address: tuple[Any, ...]) -> tuple[int, str]:
        """Claims a tuple; status and reason."""
        number = sock if isinstance(sock, int) else sock.fileno()
        status, body = self.call(
            "ams_msg_tuple", lib.AMS_MSG_CLAIM, [number], local=pack(address), protocol=protocol
        )  # fmt: skip
        return status, body.decode()

    def hung_up(self) -> bool:
        """True once the daemon has closed this connection, whatever answers come before."""
        with contextlib.suppress(ConnectionError):
            while True:
                self.answer()
        return True


def bound(host: str, port: int, kind: int = socket.SOCK_STREAM, **options: int) -> socket.socket:
    """A kernel socket that is bound to an address that the system may not have."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for option in options:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), options[option])
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def status_name(status: int) -> str:
    """ "EADDRINUSE" for the number that an answer bears."""
    return str(ffi.string(lib.ams_status_name(status)).decode()) if status < 0 else "OK"


#: Serves: "PORT [HOST]" on its command line; echoes what it gets, in capitals, and the number of its process.
SERVER = """
import asyncio, os, sys
import aiomultistack

async def serve(reader, writer):
    try:
        while data := await reader.readline():
            writer.write(data.upper().rstrip() + b" %d\\n" % os.getpid())
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def main():
    port, *hosts = sys.argv[1:]
    reuse = "reuse_port" in hosts
    host = next((word for word in hosts if word != "reuse_port"), None)
    try:
        server = await asyncio.start_server(serve, host, int(port), **({"reuse_port": True} if reuse else {}))
    except OSError as error:
        print("refused", error.errno, flush=True)
        return
    print("serving", flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, sys.stdin.readline)
    server.close()

aiomultistack.run(main())
"""

#: Connects: a line "HOST PORT TEXT" in, the answer out.  "keep" holds the connection, "say TEXT" uses it again.
CLIENT = """
import asyncio, errno, sys
import aiomultistack

async def main():
    loop = asyncio.get_running_loop()
    kept = None
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        try:
            if line[0] == "say":
                reader, writer = kept
            else:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(line[0], int(line[1])), 20)
            writer.write(line[-1].encode() + b"\\n")
            answer = await asyncio.wait_for(reader.readline(), 20)
            print(answer.decode().strip() or "EOF", flush=True)
            if line[0] != "say" and len(line) > 3:
                kept = reader, writer
            elif line[0] != "say":
                writer.close()
        except OSError as error:
            print(type(error).__name__, errno.errorcode.get(error.errno), flush=True)

print("ready", flush=True)
aiomultistack.run(main())
"""


def serving(switch: Switch, port: int, *arguments: str, **options: Any) -> Process:
    """A server that serves."""
    server = switch.client(SERVER, str(port), *arguments, **options)
    server.expect("serving")
    return server


def connecting(switch: Switch, **options: Any) -> Process:
    """A client that is ready."""
    client = switch.client(CLIENT, **options)
    client.expect("ready")
    return client


