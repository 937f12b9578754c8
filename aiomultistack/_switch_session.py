"""One connection to the switch daemon: its requests, what they were granted, and their end.

The messages are the structs of ``aiomultistack.h``, which cffi reads; there is no second description of them here.
Nothing that a client sends is believed: a message has exactly its type's length and descriptors, or the client is cut
off; what it asks for is checked by `_switch_owner` and the limits of the daemon.  A client that doesn't read its
answers is cut off too.
"""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._addresses import SockAddr, pack, unpack
from ._control import printable
from ._node import STATUS, ffi, lib
from ._switch_fabric import Frame, Link
from ._switch_owner import Claim, Key, RefusedError, discard, examine

if TYPE_CHECKING:
    from ._switch import Daemon

__all__ = ["Session"]

_BURST = 16  # messages taken from one client before the others have their turn
_DESCRIPTORS = 253  # that are received, if only to be closed: all that a message can have (SCM_MAX_FD)
_PIECE = 32768  # bytes of JSON in one message
_QUEUE = 4096  # messages that wait for a client to read
_PATIENCE = 30.0  # seconds that somebody may be connected who neither attaches nor captures
_PEERCRED = struct.Struct("3i")
_PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
_SO_PEERGROUPS = 59

_HEAD = "struct ams_msg"


class _ViolationError(Exception):
    """A client that doesn't keep to the protocol."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a Unix socket."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Asks the kernel."""
        pid, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        groups: array.array[int] = array.array("I")
        with contextlib.suppress(OSError):  # more than 256 groups: Python takes no more
            groups.frombytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024))
        return cls(pid, uid, gid, frozenset([gid, *groups]))


class Session:
    """A connected client, or somebody who only looks."""

    def __init__(self, daemon: Daemon, sock: socket.socket, peer: Peer) -> None:
        self._daemon = daemon
        self._sock = sock
        self._out: deque[bytes] = deque()
        self.peer = peer
        #: The client's port; None before its HELLO.
        self.link: Link | None = None
        self.name = ""
        self.closed = False
        #: Frames that this client is shown don't reach it if it doesn't read them.
        self.lost = 0
        sock.setblocking(False)
        daemon.loop.add_reader(sock.fileno(), self._readable)
        self._deadline = daemon.loop.call_later(_PATIENCE, self._expire)

    def __repr__(self) -> str:
        return f"<Session {self.name or '-'} pid={self.peer.pid} uid={self.peer.uid}>"

    @property
    def index(self) -> int:
        """The client's number; -1 if it has none."""
        return -1 if self.link is None else self.link.index

    def _expire(self) -> None:
        """Closes the connection of somebody who has had time to ask, and is no client."""
        if self.link is None and not self._daemon.captures(self):
            self.close()

    # ---- receiving ----------------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Takes requests; cuts off a client that is gone, or that breaks the rules."""
        try:
            for _ in range(_BURST):
                data, numbers = self._receive()
                if data is None:
                    return
                try:
                    self._request(data, numbers)
                finally:
                    for number in numbers:
                        discard(number)
        except _ViolationError as error:
            if str(error):
                self._daemon.log(f"{self} is cut off: {error}")
            self.close()

    def _receive(self) -> tuple[bytes | None, list[int]]:
        """The next message with its descriptors; None when there is none now."""
        space = socket.CMSG_SPACE(_DESCRIPTORS * 4)
        try:
            data, parts, flags, _ = self._sock.recvmsg(lib.AMS_MSG_SIZE + 1, space, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return None, []
        except OSError:
            raise _ViolationError from None
        numbers: array.array[int] = array.array("i")
        for level, kind, rights in parts:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers.frombytes(rights[: len(rights) - len(rights) % 4])
        if not data or flags & socket.MSG_TRUNC or len(numbers) > 1:
            for number in numbers:
                discard(number)
            raise _ViolationError("" if not data else "it sent too much at once")
        return data, list(numbers)

    def _request(self, data: bytes, numbers: list[int]) -> None:
        if len(data) < ffi.sizeof(_HEAD):
            raise _ViolationError("it sent a stump")
        head = ffi.new(_HEAD + " *")
        ffi.buffer(head)[:] = data[: ffi.sizeof(_HEAD)]
        found = _REQUESTS.get(head.type)
        if head.version != lib.AMS_MSG_VERSION or found is None:
            self._answer(head, STATUS["EPROTO"], text=f"this switch speaks version {lib.AMS_MSG_VERSION}")
            raise _ViolationError("it speaks another version of the protocol")
        name, handler = found
        if len(data) != ffi.sizeof(name):
            raise _ViolationError("it sent a message of the wrong length")
        request = ffi.new(name + " *")
        ffi.buffer(request)[:] = data
        try:
            handler(self, request if name != _HEAD else head, numbers)
        except RefusedError as refusal:
            if head.type != lib.AMS_MSG_RELEASE:
                self._answer(head, refusal.status, text=refusal.reason)

    # ---- answers ------------------------------------------------------------------------------------------

    def _answer(self, head: Any, status: int = 0, body: Any = None, text: str = "") -> None:
        """Answers a request: with `body`, a struct that begins with the head, or with text."""
        answer = ffi.new(_HEAD + " *") if body is None else ffi.addressof(body, "head")
        answer.version, answer.type = lib.AMS_MSG_VERSION, head.type | lib.AMS_MSG_ANSWER
        answer.serial, answer.status = head.serial, status
        raw = bytes(ffi.buffer(answer if body is None else body))
        self._send(raw + text.encode()[:512])

    def _send(self, message: bytes) -> None:
        """Sends a message as soon as the client reads; its order is kept."""
        if len(self._out) >= _QUEUE:
            raise _ViolationError("it doesn't read its answers")
        self._out.append(message)
        if len(self._out) == 1:
            self._flush()

    def _flush(self) -> None:
        loop = self._daemon.loop
        try:
            while self._out:
                self._sock.send(self._out[0], socket.MSG_NOSIGNAL)
                self._out.popleft()
        except (BlockingIOError, InterruptedError):
            loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            self._out.clear()
        loop.remove_writer(self._sock.fileno())

    def show(self, frame: Frame, lost: int) -> None:
        """Sends a captured frame, unless the client is behind."""
        if self.closed or len(self._out) >= _QUEUE:
            self.lost += 1
            return
        message = ffi.new("struct ams_msg_frame *")
        message.head.version, message.head.type = lib.AMS_MSG_VERSION, lib.AMS_MSG_FRAME
        message.time, message.index, message.outgoing = frame.time, frame.index, frame.outgoing
        message.reason, message.length, message.captured = frame.reason, frame.length, len(frame.data)
        message.lost = min(lost + self.lost, 0xFFFFFFFF)
        self._send(bytes(ffi.buffer(message)) + frame.data)

    # ---- requests -----------------------------------------------------------------------------------------

    def _hello(self, request: Any, numbers: list[int]) -> None:
        if self.link is not None:
            raise _ViolationError("it said hello twice")
        self.name = printable(ffi.string(request.name, 31).decode("utf-8", "replace"))
        self._daemon.admit(self)
        try:
            link = self._daemon.fabric.attach(request.tx_slots, request.rx_slots)
        except OSError as error:
            raise RefusedError("EMFILE", f"no port for this client: {error.strerror}") from None
        welcome = ffi.new("struct ams_msg_welcome *")
        welcome.head.version, welcome.head.serial = lib.AMS_MSG_VERSION, request.head.serial
        welcome.head.type = lib.AMS_MSG_HELLO | lib.AMS_MSG_ANSWER
        welcome.index, welcome.mtu = link.index, self._daemon.mtu
        ffi.buffer(ffi.addressof(welcome, "identity"))[:] = self._daemon.identity
        self.link = link
        rights = array.array("i", link.descriptors).tobytes()
        try:
            self._sock.sendmsg([ffi.buffer(welcome)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError:
            raise _ViolationError from None
        finally:
            for number in link.descriptors:
                os.close(number)
        self._daemon.log(f"{self} is attached as port {link.index}", logging.DEBUG)

    def _client(self) -> int:
        if self.link is None:
            raise RefusedError("ENOTCONN", "say hello first")
        return self.link.index

    def _key(self, request: Any) -> Key:
        """The tuple of a request; raises RefusedError if there can't be such."""
        address: SockAddr | None
        try:
            address = unpack(ffi.buffer(ffi.addressof(request, "local"))[:])
        except (OSError, ValueError):
            address = None
        if address is None or not address[1] or request.protocol not in _PROTOCOLS:
            raise RefusedError("EINVAL", "there is no such tuple")
        key = Key.of(request.protocol, address)
        if pack(key.address)[:20] != bytes(ffi.buffer(ffi.addressof(request, "local"))[:20]):
            raise RefusedError("EINVAL", "the address is not of its family")
        return key

    def _claim(self, request: Any, numbers: list[int]) -> None:
        index, key = self._client(), self._key(request)
        daemon = self._daemon
        if len(numbers) != 1:
            raise RefusedError("EMFILE", f"{key}: no descriptor has arrived with the claim")
        daemon.may_claim(self, key)
        number = numbers.pop()
        sock, proof = examine(number, key, self.peer.uid)
        claim = Claim(key, proof, sock, self)
        try:
            daemon.registry.add(claim)
        except RefusedError:
            claim.close()
            raise
        status = daemon.fabric.claim(index, key.protocol, key.address, lib.AMS_CLAIM_GROUP)
        if status < 0:
            daemon.registry.remove(self, key)
            claim.close()
            reason = ffi.string(lib.ams_status_text(status)).decode()
            raise RefusedError(ffi.string(lib.ams_status_name(status)).decode(), f"{key}: {reason}")
        self._answer(request.head)

    def _release(self, request: Any, numbers: list[int]) -> None:
        index, key = self._client(), self._key(request)
        claim = self._daemon.registry.remove(self, key)
        if claim is not None:
            self._daemon.fabric.release(index, key.protocol, key.address)
            claim.close()

    def _lend(self, request: Any, numbers: list[int]) -> None:
        index = self._client()
        taken = self._daemon.lend(self, index, request.low, request.high)
        answer = ffi.new("struct ams_msg_range *")
        answer.low, answer.high = taken.low, taken.high
        self._answer(request.head, 0, answer)

    def _lookup(self, request: Any, numbers: list[int]) -> None:
        owner = self._daemon.lookup(self._key(request))
        answer = ffi.new("struct ams_msg_tuple *")
        answer.local, answer.protocol, answer.index = request.local, request.protocol, owner
        self._answer(request.head, 0, answer)

    def _list(self, request: Any, numbers: list[int]) -> None:
        if self._out:
            raise RefusedError("EBUSY", "read the last answer first")
        text = json.dumps(self._daemon.describe(), separators=(",", ":")).encode()
        pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
        for number, piece in enumerate(pieces):
            answer = ffi.new(_HEAD + " *")
            answer.version, answer.type = lib.AMS_MSG_VERSION, lib.AMS_MSG_LIST | lib.AMS_MSG_ANSWER
            answer.serial, answer.status = request.serial, int(number + 1 < len(pieces))
            self._send(bytes(ffi.buffer(answer)) + piece)

    def _capture(self, request: Any, numbers: list[int]) -> None:
        self._daemon.start_capture(self, request.index, request.snap)
        self._answer(request.head)

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Takes everything back that the client had; idempotent."""
        if self.closed:
            return
        self.closed = True
        self._deadline.cancel()
        loop = self._daemon.loop
        loop.remove_reader(self._sock.fileno())
        loop.remove_writer(self._sock.fileno())
        self._drain()
        self._sock.close()
        self._out.clear()
        self._daemon.forget(self)


    def _drain(self) -> None:
        """Takes what waits, for its descriptors: the kernel would close them as if they were ours (`discard`)."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)
        while True:
            try:
                data, numbers = self._receive()
            except _ViolationError as error:
                if not str(error):  # the end
                    return
                continue
            if data is None:
                return
            for number in numbers:
                discard(number)


#: What there is to ask for: the struct of a request, and what answers it.
_REQUESTS: dict[int, tuple[str, Callable[[Session, Any, list[int]], None]]] = {
    lib.AMS_MSG_HELLO: ("struct ams_msg_hello", Session._hello),
    lib.AMS_MSG_CLAIM: ("struct ams_msg_tuple", Session._claim),
    lib.AMS_MSG_RELEASE: ("struct ams_msg_tuple", Session._release),
    lib.AMS_MSG_LEND: ("struct ams_msg_range", Session._lend),
    lib.AMS_MSG_LOOKUP: ("struct ams_msg_tuple", Session._lookup),
    lib.AMS_MSG_LIST: (_HEAD, Session._list),
    lib.AMS_MSG_CAPTURE: ("struct ams_msg_capture", Session._capture),
}
