"""The control socket: how `aiomultistack ss`, `stats` and `top` look into a running process.

Theory of operation
-------------------
Each loop listens on a Unix socket of its own, `PID-N.sock` (N counts the loops of the process), in a
directory that only its user may enter.  A request is one line of JSON, `{"cmd": "endpoints"}`; the
answer is one line too, `{"result": ...}` or `{"error": "..."}`.  A connection may ask any number of
times; after `capture` it carries frames (`_capture`) and no more answers.

The loop's side (`start`, `stop`) costs nothing until the loop runs: the first iteration binds the
socket.  It uses nothing but `add_reader` and `add_writer`, so there is no task, no transport and no
server object that a program could find among its own, and nothing that keeps a loop running.  A socket
that cannot be made (a read-only file system, a full disk) is not worth an exception in somebody's
server: it is logged at debug level and the loop goes on without.

The client's side (`find`, `query`) is blocking code for the command line.  A socket whose process is
gone is removed on sight.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import json
import logging
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio

    from ._capture import Capturable, LoopCapture

logger = logging.getLogger("aiomultistack")

#: The requests that a loop answers.
COMMANDS = ("endpoints", "counters", "network", "config", "capture")

_REQUEST_LIMIT = 4096  # bytes; no request comes near it, so whoever exceeds it is not a client of ours
_SUN_PATH_LIMIT = 100  # bytes; the smallest sockaddr_un.sun_path of the platforms we run on, less a margin
_NAME = re.compile(r"(\d+)-(\d+)\.sock\Z")
_numbers = itertools.count()


class ControlError(Exception):
    """A control socket did not answer, or answered with an error."""


class Observable(Protocol):
    """What the control socket needs of a node."""

    def endpoints(self) -> Sequence[Any]:
        """Every TCP and UDP endpoint, as a dataclass each."""

    def counters(self) -> Mapping[str, int]:
        """Every counter of port, switch and stack."""

    def network(self) -> Sequence[Any]:
        """Addresses, prefixes, routers and redirects, as a dataclass each."""

    @property
    def nodes(self) -> Sequence[Capturable]:
        """The nodes whose frames can be captured."""


# ---- where the sockets are ---------------------------------------------------------------------------


def directory() -> Path:
    """The directory of this user's control sockets.

    Root's is /run/aiomultistack; others use $XDG_RUNTIME_DIR/aiomultistack, or
    /tmp/aiomultistack-UID where there is none.
    """
    uid = os.geteuid()
    if uid == 0 and os.path.isdir("/run"):
        return Path("/run/aiomultistack")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and uid != 0:
        return Path(runtime) / "aiomultistack"
    return Path(f"/tmp/aiomultistack-{uid}")


def _directories() -> Iterator[Path]:
    """Where to look for sockets: one's own directory, and for root everybody's."""
    own = directory()
    yield own
    fallback = Path(f"/tmp/aiomultistack-{os.geteuid()}")
    if fallback != own:
        yield fallback
    if os.geteuid() == 0:
        for path in itertools.chain(Path("/run/user").glob("*/aiomultistack"), Path("/tmp").glob("aiomultistack-*")):
            if path not in (own, fallback):
                yield path


def _make_directory(path: Path) -> None:
    """Makes the directory, or checks that the one which exists is ours alone.

    Raises PermissionError if someone else made it: under /tmp anybody could have.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory that only user {os.geteuid()} may enter")


# ---- the loop's side ---------------------------------------------------------------------------------


def start(loop: asyncio.AbstractEventLoop, node: Observable) -> ControlServer:
    """Serves a control socket for `loop`, beginning with the loop's first iteration.

    node: answers `endpoints`, `counters` and `network`; `config` is answered from `loop.multistack_config`.
    Never raises for want of a directory or a file descriptor.  Returns what `stop` wants.
    """
    return ControlServer(loop, node)


def stop(server: ControlServer | None) -> None:
    """Closes the socket and its connections and removes its file.

    To be called before the loop is closed.  Safe to call twice, with None, and on a loop that never ran.
    """
    if server is not None:
        server.close()


class ControlServer:
    """The listening socket of one loop."""

    __slots__ = ("_capturing", "_clients", "_listener", "_loop", "_node", "_pid", "_start", "path")

    def __init__(self, loop: asyncio.AbstractEventLoop, node: Observable) -> None:
        self._loop = loop
        self._node = node
        self._pid = os.getpid()
        self._listener: socket.socket | None = None
        self._clients: set[_Client] = set()
        self._capturing: _Client | None = None
        #: The socket's file, once it is there.
        self.path: Path | None = None
        self._start: asyncio.Handle | None = loop.call_soon(self._open)

    def _open(self) -> None:
        """Binds and listens; the loop's first callback."""
        self._start = None
        if os.getpid() != self._pid:  # the loop was made before a fork: the file would bear the parent's PID
            return
        path = directory() / f"{self._pid}-{next(_numbers)}.sock"
        listener = None
        try:
            _make_directory(path.parent)
            if len(os.fsencode(path)) > _SUN_PATH_LIMIT:
                raise OSError(f"{path} is too long for a Unix socket")
            path.unlink(missing_ok=True)  # of an earlier process with our PID
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.setblocking(False)
            listener.bind(os.fspath(path))
            self.path = path
            listener.listen(8)
            self._loop.add_reader(listener.fileno(), self._accept)
            self._listener = listener
        except OSError as error:
            logger.debug("no control socket: %s", error)
            if listener is not None:
                listener.close()
            self._unlink()

    def _accept(self) -> None:
        """Takes the connections that wait."""
        assert self._listener is not None
        with contextlib.suppress(OSError):  # BlockingIOError: none left; EMFILE: the next one may fare better
            while True:
                connection, _ = self._listener.accept()
                self._clients.add(_Client(self, connection))

    def answer(self, line: bytes, client: _Client) -> bytes:
        """The answer to one request line of a client, newline included."""
        reply: dict[str, Any]
        try:
            request = json.loads(line)
            command, snap = request["cmd"], int(request.get("snap", 0))
        except (ValueError, KeyError, TypeError, AttributeError):
            reply = {"error": 'a request is one line such as {"cmd": "endpoints"}'}
        else:
            try:
                reply = {"result": self._capture(client, snap) if command == "capture" else self._result(command)}
            except ControlError as error:
                reply = {"error": str(error)}
            except Exception as error:  # a node that is being closed: tell the client, don't disturb the loop
                reply = {"error": f"{type(error).__name__}: {error}"}
        return json.dumps(reply, separators=(",", ":")).encode() + b"\n"

    def _result(self, command: object) -> object:
        """What `command` asks for, as JSON can carry it."""
        if command == "endpoints":
            return [plain(endpoint) for endpoint in self._node.endpoints()]
        if command == "counters":
            return dict(self._node.counters())
        if command == "network":
            return [plain(row) for row in self._node.network()]
        if command == "config":
            return plain(getattr(self._loop, "multistack_config", None))
        raise ControlError(f"unknown command {command!r}; there are {', '.join(COMMANDS)}")

    def _capture(self, client: _Client, snap: int) -> object:
        """Lets a client have the port's frames from here on."""
        if self._capturing is not None:
            raise ControlError("somebody else captures its frames already")
        if not 0 <= snap < 1 << 32:
            raise ControlError(f"frames can't be cut at {snap} bytes")
        nodes = self._node.nodes
        client.capture(nodes, snap)
        self._capturing = client
        return {"ports": [node.config.port for node in nodes], "reasons": nodes[0].reasons()}

    def forget(self, client: _Client) -> None:
        """Drops a connection that has closed."""
        self._clients.discard(client)
        if self._capturing is client:
            self._capturing = None

    def close(self) -> None:
        """Closes everything and removes the file; idempotent."""
        if self._start is not None:
            self._start.cancel()
            self._start = None
        for client in list(self._clients):
            client.close()
        if self._listener is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._unlink()

    def _unlink(self) -> None:
        """Removes the file, unless this is a fork of the process that made it."""
        if self.path is not None and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.path = None


class _Client:
    """One connection to a control socket."""

    __slots__ = ("_capture", "_ended", "_input", "_output", "_server", "_socket", "_writing")

    def __init__(self, server: ControlServer, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._input = b""
        self._output = bytearray()
        self._capture: LoopCapture | None = None
        self._writing = False
        self._ended = False
        connection.setblocking(False)
        server._loop.add_reader(connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_REQUEST_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._capture is not None:  # it has nothing more to ask
            if not data:
                self.close()
            return
        self._input += data
        while b"\n" in self._input:
            line, _, self._input = self._input.partition(b"\n")
            self._output += self._server.answer(line, self)
        self._ended = not data or len(self._input) > _REQUEST_LIMIT
        self._writable()

    def _writable(self) -> None:
        """Sends what the socket takes; the rest, and further requests, wait for it."""
        loop, number = self._server._loop, self._socket.fileno()
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._output[:sent]
        if self._ended and not self._output:
            self.close()
        elif bool(self._output) != self._writing:
            self._writing = bool(self._output)
            if self._writing:
                loop.remove_reader(number)
                loop.add_writer(number, self._writable)
            else:
                loop.remove_writer(number)
                loop.add_reader(number, self._readable)

    def capture(self, nodes: Sequence[Capturable], snap: int) -> None:
        """Sends the nodes' frames, behind the answer to this request."""
        from ._capture import LoopCapture

        self._capture = LoopCapture(self._server._loop, nodes, snap, self._send)

    def _send(self, data: bytes) -> int:
        """Sends data.  Returns how many bytes wait."""
        self._output += data
        if data and not self._writing:
            self._writable()
        return len(self._output)

    def close(self) -> None:
        loop = self._server._loop
        if self._capture is not None:
            self._capture.close()
        if not loop.is_closed():
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._server.forget(self)


def plain(value: object) -> Any:
    """`value` in terms of JSON: dataclasses and mappings as objects, bytes in hex, the unknown as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


# ---- the command line's side -------------------------------------------------------------------------


def printable(text: str) -> str:
    """A text of somebody else's, with question marks for what a terminal might obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclasses.dataclass(frozen=True, order=True)
class Address:
    """A control socket that was found: the loop `number` of the process `pid`."""

    pid: int
    number: int
    path: Path

    @property
    def process(self) -> str:
        """The process's name as the kernel has it; empty if it cannot be told."""
        try:
            return printable(Path(f"/proc/{self.pid}/comm").read_text(errors="replace").strip())
        except OSError:
            return ""


def find(pid: int | None = None) -> list[Address]:
    """The control sockets that this user may query, of all processes or of `pid`, in order.

    Sockets of processes that are gone are removed.
    """
    found = []
    for folder in _directories():
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            match = _NAME.match(name)
            if match is None:
                continue
            address = Address(int(match[1]), int(match[2]), folder / name)
            if not _alive(address.pid):
                with contextlib.suppress(OSError):
                    address.path.unlink()
            elif pid is None or pid == address.pid:
                found.append(address)
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def query(path: Path, command: str, timeout: float = 2.0) -> Any:
    """Asks the loop behind `path` and returns the `result` of its answer.

    timeout: seconds of silence after which the loop counts as stuck.
    Raises ControlError if nobody answers or the answer is an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps({"cmd": command}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except TimeoutError as error:
            raise ControlError(f"no answer in {timeout:g} s: its loop is stopped or busy") from error
        except OSError as error:
            raise ControlError(error.strerror or str(error)) from error
    try:
        reply = json.loads(line)
    except ValueError as error:
        raise ControlError("it closed the connection without an answer") from error
    if not (line.isascii() and b"\\u" not in line):  # none of ours: root looks into processes of others, too
        reply = _cleaned(reply)
    if not isinstance(reply, dict) or not reply.keys() & {"error", "result"}:
        raise ControlError("its answer is none that this version understands")
    if "error" in reply:
        raise ControlError(str(reply["error"]))
    return reply["result"]


def _cleaned(value: Any) -> Any:
    """JSON whose texts can't move a terminal's cursor."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    return value
