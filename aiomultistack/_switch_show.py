"""The command's side of a switch: asks the daemon at its socket, and shows what it says.

Blocking code, with no more of the protocol than one who only looks needs: LIST and CAPTURE, without a HELLO.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._control import directory

if TYPE_CHECKING:
    from rich.table import Table

    from ._capture import Recorder

__all__ = ["SwitchError", "capture", "counter_table", "default_socket", "describe", "find_socket"]

_SYSTEM_SOCKET = "/run/aiomultistack.sock"
_ANSWER_SIZE = 65536
_FRAME_SIZE = 1 << 17
_WIRE_NAMES = {0: "control", 1: "uplink", 2: "host"}


class SwitchError(Exception):
    """A switch did not answer, or refused; the message says why."""


def default_socket() -> str:
    """Where a switch of this user listens unless it is told otherwise."""
    return _SYSTEM_SOCKET if os.geteuid() == 0 else str(directory() / "switch.sock")


def find_socket(path: str | None) -> str:
    """The socket to ask: the one given, or the user's own switch's, or the system's."""
    if path is not None:
        return path
    own = default_socket()
    return own if Path(own).exists() or not Path(_SYSTEM_SOCKET).exists() else _SYSTEM_SOCKET


def _connect(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise SwitchError(f"no switch answers at {path}: is it running, and is this its --socket?") from None
    except OSError as error:
        sock.close()
        raise SwitchError(f"{path}: {error.strerror}") from None
    return sock


def _exchange(sock: socket.socket, kind: int, request: Any) -> Iterator[bytes]:
    """Sends a request (a cffi struct) and yields the texts of its answers."""
    from ._node import ffi, lib

    head = ffi.addressof(request, "head") if ffi.typeof(request).item.cname != "struct ams_msg" else request
    head.version, head.type, head.serial = lib.AMS_MSG_VERSION, kind, 1
    size = ffi.sizeof("struct ams_msg")
    try:
        sock.send(bytes(ffi.buffer(request)))
        while True:
            data = sock.recv(_ANSWER_SIZE)
            if len(data) < size:
                raise SwitchError("the switch hung up; this user may not ask it")
            answer = ffi.new("struct ams_msg *")
            ffi.buffer(answer)[:] = data[:size]
            if answer.status < 0:
                raise SwitchError(data[size:].decode("utf-8", "replace"))
            yield data[size:]
            if not answer.status:
                return
    except TimeoutError:
        raise SwitchError("the switch does not answer") from None
    except OSError as error:
        raise SwitchError(f"the switch hung up: {error.strerror}") from None


def describe(path: str, timeout: float = 5.0) -> dict[str, Any]:
    """Everything that a switch tells about itself; raises SwitchError."""
    from ._node import ffi, lib

    with _connect(path, timeout) as sock:
        text = b"".join(_exchange(sock, lib.AMS_MSG_LIST, ffi.new("struct ams_msg *")))
    found: dict[str, Any] = json.loads(text)
    return found


# ---- tables ----------------------------------------------------------------------------------------------


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    return table


def port_name(port: Mapping[str, Any]) -> str:
    """What people call a port: "uplink", or a client's program and number."""
    return str(port.get("spec") or port["name"] or f"port {port['index']}")


def _dropped(port: Mapping[str, Any], drops: set[str]) -> int:
    return sum(value for name, value in port["counters"].items() if name in drops)


def ports_table(found: Mapping[str, Any]) -> Table:
    """The ports of a switch, one in a row."""
    switch, drops = found["switch"], set(found["drops"])
    title = f"switch {switch['socket']}, pid {switch['pid']}: {', '.join(switch['addresses'])} at {switch['mac']}"
    numbers = ("port", "PID", "UID", "tuples", "RX frames", "RX bytes", "TX frames", "TX bytes", "dropped")
    table = _table(title, "port", "name", "PID", "UID", *numbers[3:], right=numbers)
    for port in found["ports"]:
        cells = (port.get("pid", ""), port.get("uid", ""), port.get("tuples", ""), *(
            port.get(name, "") for name in ("rx_frames", "rx_bytes", "tx_frames", "tx_bytes")
        ), _dropped(port, drops))  # fmt: skip
        table.add_row(str(port["index"]), port_name(port), *map(str, cells))
    return table


def tuples_table(found: Mapping[str, Any]) -> Table:
    """Who has which 3-tuple."""
    table = _table("", "proto", "local address", "port", "client", "PID", "UID", right=("port", "PID", "UID"))
    for row in sorted(found["tuples"], key=lambda row: (row["protocol"], row["port"], row["host"], row["client"])):
        table.add_row(row["protocol"], row["host"], str(row["port"]), row["name"], str(row["pid"]), str(row["uid"]))
    for row in found["lent"]:
        table.add_row("both", "*", f"{row['low']}-{row['high']}", f"{row['name']} (lent)", str(row["pid"]), "")
    return table


def counter_table(found: Mapping[str, Any], before: Mapping[str, Any] | None = None, everything: bool = False) -> Table:
    """Counters of each port by name; with what was found earlier, also how many a second."""
    right = ("count", "per second")
    table = _table("", "port", "counter", "count", *(("per second",) if before else ()), "meaning", right=right)
    seconds = found["switch"]["time"] - before["switch"]["time"] if before else 0.0
    earlier = {port["index"]: port["counters"] for port in before["ports"]} if before else {}
    for port in found["ports"]:
        name = f"{port['index']} {port_name(port)}"
        for counter, value in port["counters"].items():
            if not value and not everything:
                continue
            old = earlier.get(port["index"], {}).get(counter, 0)
            rate = (f"{(value - old) / seconds:,.0f}" if seconds > 0 else "",) if before else ()
            table.add_row(name, counter, str(value), *rate, found["texts"].get(counter, ""))
            name = ""
    return table


# ---- capture ---------------------------------------------------------------------------------------------


def choose_port(found: Mapping[str, Any], wanted: str) -> int:
    """The index of a port given by number, name, client's program or PID; "all" is -1.  Raises SwitchError."""
    if wanted == "all":
        return -1
    matches = [
        port["index"] for port in found["ports"]
        if wanted in (str(port["index"]), _WIRE_NAMES.get(port["index"]), port_name(port), str(port.get("pid", "")))
    ]  # fmt: skip
    if len(matches) == 1:
        return int(matches[0])
    known = ", ".join(f"{port['index']} ({port_name(port)})" for port in found["ports"])
    what = "is ambiguous" if matches else "is not there"
    raise SwitchError(f"port {wanted!r} {what}; there are {known}, and all")


def capture(
    path: str, wanted: str, recorder: Recorder, snap: int = 0, ready: Callable[[], None] | None = None
) -> None:
    """Captures a port of a switch until it is enough or interrupted.

    wanted: as in `choose_port`.  snap: bytes of each frame at most; 0: all.  ready: called when the capture runs.
    Raises SwitchError.
    """
    from ._node import ffi, lib

    found = describe(path)
    names = {port["index"]: port_name(port) for port in found["ports"]}
    reasons = [f"{name}: {text}" for name, text in found["texts"].items()]
    request = ffi.new("struct ams_msg_capture *")
    request.index, request.snap = choose_port(found, wanted), snap
    with _connect(path, 5.0) as sock:
        for _ in _exchange(sock, lib.AMS_MSG_CAPTURE, request):
            pass
        if ready is not None:
            ready()
        frame, size = ffi.new("struct ams_msg_frame *"), ffi.sizeof("struct ams_msg_frame")
        sock.setblocking(False)
        while not recorder.done:
            try:
                data = sock.recv(_FRAME_SIZE)
            except BlockingIOError:
                recorder.flush()
                select.select([sock], [], [], recorder.left)
                continue
            if len(data) < size:
                break  # the switch has ended
            ffi.buffer(frame)[:] = data[:size]
            index = int(frame.index)
            if index not in names:
                names[index] = _WIRE_NAMES.get(index, "client")  # if it is gone again
                with contextlib.suppress(SwitchError):  # attached since
                    names |= {port["index"]: port_name(port) for port in describe(path)["ports"]}
            name = f"{index} {names[index]}"
            recorder.frame(
                index, partial(str, name), frame.time, data[size:], frame.length, bool(frame.outgoing),
                reasons[frame.reason] if frame.reason >= 0 else "",
            )  # fmt: skip
            recorder.result.lost = frame.lost
