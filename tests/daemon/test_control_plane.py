"""Parts of the daemon's control plane by themselves: what one client does to them is not at the cost of others."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiomultistack._addresses import SockAddr
from aiomultistack._errors import PortError
from aiomultistack._switch_fabric import FIRST_CLIENT, Frame
from aiomultistack._switch_neighbor import Neighbours
from aiomultistack._switch_owner import Key, RefusedError, discard, examine
from aiomultistack._switch_system import Listener

scapy = pytest.importorskip("scapy.all", reason="needs scapy, to make frames")

MAC = bytes.fromhex("020000000001")


class Timer:
    """What call_later() returns."""

    def __init__(self, at: float, callback: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.at, self.callback, self.arguments = at, callback, arguments
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.at


class Clock:
    """As much of a loop as has to do with time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        timer = Timer(self.now + delay, callback, arguments)
        self.timers.append(timer)
        return timer

    def run(self, seconds: float) -> None:
        """Lets time pass."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end and not timer.gone]:
            timer = min(due, key=Timer.when)
            self.timers.remove(timer)
            self.now = timer.at
            timer.callback(*timer.arguments)
        self.now = end


# ---- descriptors that clients pass ------------------------------------------------------------------------------


def nameless() -> socket.socket:
    """A socket that has no getsockname()."""
    for family, kind in ((38, socket.SOCK_SEQPACKET), (44, socket.SOCK_RAW)):  # AF_ALG, which anybody can make; AF_XDP
        with contextlib.suppress(OSError):
            return socket.socket(family, kind, 0)
    pytest.skip("this system has neither AF_ALG nor AF_XDP for us")


def test_a_socket_without_a_name_proves_nothing_and_is_closed() -> None:
    with nameless() as sock:
        number = os.dup(sock.fileno())
        with pytest.raises(RefusedError, match="not a socket"):
            examine(number, Key(socket.IPPROTO_TCP, 4, "10.9.0.2", 80), 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        number = os.dup(sock.fileno())
        discard(number)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


# ---- neighbours -----------------------------------------------------------------------------------------------


def question(client: int, target: int) -> Frame:
    """A client's ARP request for 10.9.x.y."""
    request = scapy.ARP(op="who-has", hwsrc=MAC, psrc="10.9.0.2", pdst=f"10.9.{target >> 8}.{target & 255}")
    raw = bytes(scapy.Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / request)
    return Frame(0, client, 1, -1, len(raw), raw)


def test_a_client_that_asks_for_a_whole_network_is_not_in_the_way_of_others() -> None:
    clock, asked = Clock(), deque(question(FIRST_CLIENT, number) for number in range(1500))
    answered: list[int] = []
    known: set[str] = set()

    def resolve(address: SockAddr) -> bytes | None:
        return MAC if address[0] in known else None

    neighbours = Neighbours(
        clock,  # type: ignore[arg-type]
        lambda: asked.popleft() if asked else None,
        resolve,
        lambda client, frame: answered.append(client) is None,
    )
    while asked:
        neighbours.readable()
    asked.append(question(FIRST_CLIENT + 1, 7))
    neighbours.readable()
    known.add("10.9.0.7")
    clock.run(0.02)
    assert answered == [FIRST_CLIENT, FIRST_CLIENT + 1]
    clock.run(10)  # nobody has answered the others; there is room for new questions
    known.add("10.9.1.0")
    asked.extend(question(FIRST_CLIENT, 256) for _ in range(2))
    neighbours.readable()
    assert answered[2:] == [FIRST_CLIENT, FIRST_CLIENT]
    neighbours.forget(FIRST_CLIENT)
    neighbours.close()


# ---- the socket -----------------------------------------------------------------------------------------------


def test_the_lock_of_a_daemon_that_goes_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our opening the file and locking it the one before us has removed it: two would serve one path."""
    path = str(tmp_path / "switch.sock")
    before = Listener(path)
    going = [before]
    flock = fcntl.flock

    def slow(number: int, how: int) -> None:
        if going:
            going.pop().close()
        flock(number, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    after = Listener(path)
    monkeypatch.undo()
    try:
        with pytest.raises(PortError) as caught:
            Listener(path)
        assert caught.value.errno == errno.EADDRINUSE
    finally:
        after.close()
    assert list(tmp_path.iterdir()) == []
