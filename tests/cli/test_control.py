"""The control socket: what it answers, when it is there, and that it disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.table import Table

from aiomultistack import _control, _ui


@dataclass
class Endpoint:
    local: tuple[str, int] | None = ("10.0.0.1", 80)
    congestion: str = "cubic"
    raw: bytes = b"\x01\xff"


@dataclass
class Node:
    """A node as far as the control socket knows one."""

    listed: list[Endpoint] = field(default_factory=lambda: [Endpoint()])
    broken: bool = False

    def endpoints(self) -> list[Endpoint]:
        if self.broken:
            raise RuntimeError("no more")
        return self.listed

    def counters(self) -> dict[str, int]:
        return {"rx_frames": 3, "rx_dropped": 0}


def uvloop_loop() -> asyncio.AbstractEventLoop:
    return pytest.importorskip("uvloop").new_event_loop()


LOOPS = pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop_loop], ids=["asyncio", "uvloop"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that control sockets are made in."""
    path = tmp_path / "c"
    monkeypatch.setattr(_control, "directory", lambda: path)
    monkeypatch.setattr(_control, "_directories", lambda: iter([path]))
    return path


@contextmanager
def running(new_loop: Callable[[], asyncio.AbstractEventLoop], node: Node) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop with a control socket, running in a thread."""
    loop = new_loop()
    server = _control.start(loop, node)
    ready = threading.Event()
    loop.call_soon(ready.set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    ready.wait()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        _control.stop(server)
        _control.stop(server)
        loop.close()


def only(folder: Path) -> _control.Address:
    (address,) = _control.find()
    assert address.pid == os.getpid()
    assert address.path.parent == folder
    return address


@LOOPS
def test_answers(folder: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with running(new_loop, Node()):
        address = only(folder)
        assert address.process
        assert _control.query(address.path, "endpoints") == [
            {"local": ["10.0.0.1", 80], "congestion": "cubic", "raw": "01ff"}
        ]
        assert _control.query(address.path, "counters") == {"rx_frames": 3, "rx_dropped": 0}
        assert _control.query(address.path, "config") is None
        with pytest.raises(_control.ControlError, match="unknown command 'shutdown'"):
            _control.query(address.path, "shutdown")
    assert _control.find() == []
    assert list(folder.iterdir()) == []


@LOOPS
def test_answer_larger_than_the_socket_buffer(
    folder: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with running(new_loop, Node([Endpoint()] * 50_000)):
        assert len(_control.query(only(folder).path, "endpoints", timeout=60)) == 50_000


@LOOPS
def test_requests_in_a_row_and_half_close(folder: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with running(new_loop, Node([Endpoint()] * 10_000)), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(only(folder).path))
        client.sendall(b'{"cmd": "counters"}\n{"cmd":')
        client.sendall(b' "endpoints"}\nnonsense\n[1]\n')
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as stream:
            counters, endpoints, nonsense, wrong = map(json.loads, stream)
    assert counters == {"result": {"rx_frames": 3, "rx_dropped": 0}}
    assert len(endpoints["result"]) == 10_000
    assert "one line" in nonsense["error"]
    assert "one line" in wrong["error"]


def test_endless_request_is_cut_off(folder: Path) -> None:
    with running(asyncio.SelectorEventLoop, Node()), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.fspath(only(folder).path))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"x" * (1 << 24))


def test_failing_node_is_reported_to_the_client_only(folder: Path) -> None:
    errors: list[object] = []
    with running(asyncio.SelectorEventLoop, Node(broken=True)) as loop:
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        with pytest.raises(_control.ControlError, match="RuntimeError: no more"):
            _control.query(only(folder).path, "endpoints")
        assert _control.query(only(folder).path, "counters")
    assert errors == []


def test_client_that_leaves_with_an_answer_under_way(folder: Path) -> None:
    errors: list[object] = []
    with running(asyncio.SelectorEventLoop, Node([Endpoint()] * 50_000)) as loop:
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(only(folder).path))
            client.sendall(b'{"cmd": "endpoints"}\n')
            client.recv(10)
        assert _control.query(only(folder).path, "counters")
    assert errors == []


def test_it_is_no_task_and_nothing_is_there_before_the_loop_runs(folder: Path) -> None:
    loop = asyncio.SelectorEventLoop()
    server = _control.start(loop, Node())
    assert not folder.exists()

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    assert loop.run_until_complete(tasks()) == 1
    assert only(folder).path.exists()
    _control.stop(server)
    assert _control.find() == []
    loop.close()


def test_loop_that_never_ran_leaves_nothing(folder: Path) -> None:
    loop = asyncio.SelectorEventLoop()
    _control.stop(_control.start(loop, Node()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    _control.stop(None)
    assert not folder.exists()


def test_each_loop_has_its_own(folder: Path) -> None:
    with running(asyncio.SelectorEventLoop, Node()), running(asyncio.SelectorEventLoop, Node()):
        first, second = _control.find(os.getpid())
        assert first.number < second.number
        assert _control.find(os.getpid() + 1) == []


@pytest.mark.parametrize("spoil", ["file", "mode", "long"])
def test_unusable_directory_does_not_hurt_the_loop(
    folder: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil == "file":
        folder.write_text("in the way")
    elif spoil == "mode":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        monkeypatch.setattr(_control, "directory", lambda: folder / ("x" * 120))
    with running(asyncio.SelectorEventLoop, Node()):
        assert _control.find() == []


def test_directory_is_for_its_user_only(folder: Path) -> None:
    with running(asyncio.SelectorEventLoop, Node()):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_files_of_dead_processes_are_removed(folder: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder.mkdir(mode=0o700)
    stale = folder / f"{dead.pid}-0.sock"
    stale.touch()
    other = folder / "notes.txt"
    other.touch()
    assert _control.find() == []
    assert not stale.exists()
    assert other.exists()


def test_stopped_loop_is_reported(folder: Path) -> None:
    loop = asyncio.SelectorEventLoop()
    server = _control.start(loop, Node())
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(_control.ControlError, match="stopped or busy"):
        _control.query(only(folder).path, "counters", timeout=0.05)
    path = only(folder).path
    _control.stop(server)
    loop.close()
    with pytest.raises(_control.ControlError, match="No such file"):
        _control.query(path, "counters")


def test_fork_does_not_take_the_file_along(folder: Path) -> None:
    loop = asyncio.SelectorEventLoop()
    server = _control.start(loop, Node())
    loop.run_until_complete(asyncio.sleep(0))
    path = only(folder).path
    child = os.fork()
    if child == 0:
        server.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert path.exists()
    _control.stop(server)
    loop.close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("uid", "runtime", "expected"),
    [
        (0, "/run/user/0", "/run/aiomultistack"),
        (1000, "/run/user/1000", "/run/user/1000/aiomultistack"),
        (1000, None, "/tmp/aiomultistack-1000"),
    ],
)
def test_directory(uid: int, runtime: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if runtime is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert _control.directory() == Path(expected)


# ---- what others say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b'{"result": ["\\u001b[2J\\u202etxt", {"\\u0007": 1}]}', ["?[2J?txt", {"?": 1}]),
        ('{"result": "\u009b2J"}'.encode(), "?2J"),
        (b'{"result": "plain"}', "plain"),
        (b'{"error": "\\u001b]0;x"}', _control.ControlError),
        (b"[1, 2]", _control.ControlError),
        (b"{}", _control.ControlError),
    ],
)
def test_answers_can_do_nothing_to_a_terminal(answer: bytes, result: object, tmp_path: Path) -> None:
    """Root looks into processes of others, which may answer whatever they like."""
    path = tmp_path / "1-0.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if result is _control.ControlError:
                with pytest.raises(_control.ControlError) as caught:
                    _control.query(path, "endpoints", 30)
                assert str(caught.value).isprintable()
            else:
                assert _control.query(path, "endpoints", 30) == result
        finally:
            thread.join()


def test_a_process_s_name_can_do_nothing_to_a_terminal(tmp_path: Path) -> None:
    comm = Path(f"/proc/{os.getpid()}/comm")
    before = comm.read_bytes()
    comm.write_bytes(b"\x1b[31m\xffname")
    try:
        assert _control.Address(os.getpid(), 0, tmp_path).process == "?[31m\ufffdname"
    finally:
        comm.write_bytes(before)


def test_names_in_tables_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", title="[/b]")
    table.add_row("[/x]")
    _ui.wide(table)
    printed = capsys.readouterr().out
    assert "[/b]" in printed
    assert "[/x]" in printed
