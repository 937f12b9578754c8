"""Who owns which 3-tuple of a switch, and how that is proved.

Theory of operation
-------------------
A client proves its right to (address, protocol, port) by passing a kernel socket that is bound to it.  That the
kernel let it bind is the proof: of its permission (ports below 1024), and that nobody else has the tuple.  The
daemon keeps the descriptor as long as the client has the tuple, so that nobody else can get it meanwhile.

What is passed is not believed.  `examine` looks at it:

- it is a TCP or UDP socket, neither connected nor bound to a device, and its address and port are the claimed ones
  or a wildcard that covers them;
- it is of this network namespace: in another one, anybody may be root and bind what he likes;
- it is exclusive.  SO_REUSEADDR lets two TCP sockets be bound to one port as long as neither listens; so the daemon
  makes the socket listen for a moment, which the kernel refuses (EADDRINUSE) if there is another, and takes the
  option away before it stops.  From then on no other socket can be bound to the port, whatever its options.  A UDP
  socket with SO_REUSEADDR is refused, since nothing tells who else is there.

Nor is it closed as if it were ours.  Where a client has let go of a socket that it has connected since, with SO_LINGER
set, the daemon's close() would be the last one, and wait for the peer; with a file of a file system of the client's own
it would wait for the client.  `discard` waits for nobody.

Several clients share a tuple as a *group* if they pass the same socket (one inode: a parent bound it and its workers
inherited it), or if the sockets have SO_REUSEPORT, which the kernel grants to one user only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ._addresses import SockAddr, end_listening, is_wildcard
from ._node import STATUS

__all__ = ["Claim", "Key", "Proof", "RefusedError", "Registry", "discard", "examine", "status_of"]

_SO_NETNS_COOKIE = 71
_SO_BINDTOIFINDEX = 62
_SIOCGSKNS = 0x894C
_TCP_CLOSE, _TCP_LISTEN = 7, 10
_INET = (socket.AF_INET, socket.AF_INET6)
_NO_LINGER = struct.pack("ii", 0, 0)


class RefusedError(Exception):
    """A request that is not granted: the engine's status (negative), and a sentence."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = STATUS[status]
        self.reason = reason


def status_of(error: OSError) -> str:
    """The name of the status for an errno; EIO for those that have none."""
    name = errno.errorcode.get(error.errno or 0, "EIO")
    return name if name in STATUS else "EIO"


@dataclass(frozen=True)
class Key:
    """A local 3-tuple."""

    protocol: int
    family: int
    host: str
    port: int

    @classmethod
    def of(cls, protocol: int, address: SockAddr) -> Key:
        """The tuple of a numeric socket address; its protocol is 6 or 17."""
        return cls(protocol, 6 if ":" in address[0] else 4, address[0], address[1])

    @property
    def address(self) -> SockAddr:
        """As a socket address."""
        return (self.host, self.port) if self.family == 4 else (self.host, self.port, 0, 0)

    @property
    def wildcard(self) -> bool:
        """True for all addresses of the family."""
        return is_wildcard(self.host)

    @property
    def anywhere(self) -> Key:
        """The wildcard that covers it."""
        return Key(self.protocol, self.family, "0.0.0.0" if self.family == 4 else "::", self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.family == 6 else self.host
        return f"{'tcp' if self.protocol == socket.IPPROTO_TCP else 'udp'} {host}:{self.port}"


@dataclass(frozen=True)
class Proof:
    """What a socket that was examined shows."""

    inode: int
    uid: int
    reuse_port: bool

    def shares(self, other: Proof) -> bool:
        """True if the holders of both sockets may have one tuple."""
        return self.inode == other.inode or (self.reuse_port and other.reuse_port and self.uid == other.uid)


@dataclass
class Claim:
    """A tuple that a client has; `sock` is its proof."""

    key: Key
    proof: Proof
    sock: socket.socket
    owner: Any

    def close(self) -> None:
        """Lets go of the kernel socket."""
        discard(self.sock.detach())


def _namespace_cookie(sock: socket.socket) -> bytes | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:  # before Linux 5.14
        return None


def _namespace_inode(sock: socket.socket) -> int | None:
    import fcntl

    try:
        number = fcntl.ioctl(sock.fileno(), _SIOCGSKNS)
    except OSError:
        return None
    try:
        return os.fstat(number).st_ino
    finally:
        os.close(number)


def _foreign(sock: socket.socket) -> bool:
    """True if a socket is of another network namespace than this process, or if that cannot be told."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        for look in (_namespace_cookie, _namespace_inode):
            theirs, ours = look(sock), look(own)
            if theirs is not None and ours is not None:
                return bool(theirs != ours)
    return True


def _option(sock: socket.socket, level: int, option: int) -> int:
    try:
        return sock.getsockopt(level, option)
    except OSError:
        return 0


def _bound(sock: socket.socket) -> tuple[str, int, bool]:
    """Address and port that a socket is bound to, and whether it is a dual-stack wildcard."""
    name = sock.getsockname()
    host, port = str(name[0]).partition("%")[0], int(name[1])
    if sock.family == socket.AF_INET6 and host.startswith("::ffff:") and "." in host:
        return host[7:], port, False
    only = _option(sock, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) if sock.family == socket.AF_INET6 else 1
    return host, port, host == "::" and not only


def _covers(sock: socket.socket, key: Key) -> bool:
    host, port, both = _bound(sock)
    if port != key.port:
        return False
    if both:
        return True
    if (6 if ":" in host else 4) != key.family:
        return False
    return is_wildcard(host) or socket.inet_pton(_INET[key.family == 6], host) == socket.inet_pton(
        _INET[key.family == 6], key.host
    )


def _tcp_state(sock: socket.socket) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def _make_exclusive(sock: socket.socket) -> None:
    """Lets no other socket be bound to a TCP socket's port from here on; raises OSError if one is."""
    if _tcp_state(sock) == _TCP_LISTEN:
        return  # as exclusive as can be, and in use by its owner
    sock.listen(0)
    end_listening(sock)


def discard(number: int) -> None:
    """Closes a descriptor that a client has passed, without waiting."""
    if stat.S_ISSOCK(os.fstat(number).st_mode):
        # of whatever family: Python would ask for a name, which not all sockets have (AF_ALG's, which anybody can make)
        with socket.socket(_INET[0], socket.SOCK_STREAM, 0, fileno=number) as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    else:
        threading.Thread(target=os.close, args=(number,), daemon=True).start()


def examine(number: int, key: Key, uid: int) -> tuple[socket.socket, Proof]:
    """Checks that a descriptor proves the right to a tuple; takes ownership of it.

    uid: the user who passed it.
    Raises RefusedError.
    """
    try:
        sock = socket.socket(fileno=number)
    except OSError:
        discard(number)
        raise RefusedError("EINVAL", "what was passed is not a socket") from None
    try:
        return sock, _examine(sock, key, uid)
    except OSError as error:
        discard(sock.detach())
        raise RefusedError(status_of(error), f"{key}: {error.strerror}") from None
    except BaseException:
        discard(sock.detach())
        raise


def _examine(sock: socket.socket, key: Key, uid: int) -> Proof:
    kind = socket.SOCK_STREAM if key.protocol == socket.IPPROTO_TCP else socket.SOCK_DGRAM
    if sock.family not in _INET or sock.type != kind or sock.proto != key.protocol:
        raise RefusedError("EINVAL", f"{key}: the socket that was passed is not of that protocol")
    if _foreign(sock):
        raise RefusedError("EPERM", f"{key}: the socket is of another network namespace than the switch")
    if not _covers(sock, key):
        raise RefusedError("EINVAL", f"{key}: the socket is bound to {sock.getsockname()[:2]}")
    if _option(sock, socket.SOL_SOCKET, _SO_BINDTOIFINDEX):
        raise RefusedError("EINVAL", f"{key}: the socket is bound to a device, and proves nothing for others")
    try:
        sock.getpeername()
    except OSError:
        pass
    else:
        raise RefusedError("EISCONN", f"{key}: the socket is connected")
    if kind == socket.SOCK_STREAM:
        if _tcp_state(sock) not in (_TCP_CLOSE, _TCP_LISTEN):
            raise RefusedError("EINVAL", f"{key}: the socket is in use")
        _make_exclusive(sock)
    elif _option(sock, socket.SOL_SOCKET, socket.SO_REUSEADDR):
        raise RefusedError("EINVAL", f"{key}: a UDP socket with SO_REUSEADDR may be one of many")
    reuse_port = bool(_option(sock, socket.SOL_SOCKET, socket.SO_REUSEPORT))
    return Proof(os.fstat(sock.fileno()).st_ino, uid, reuse_port)


@dataclass
class Registry:
    """All tuples of a switch, by tuple and by owner."""

    _tuples: dict[Key, list[Claim]] = field(default_factory=dict)
    _owners: dict[Any, dict[Key, Claim]] = field(default_factory=dict)

    def add(self, claim: Claim) -> None:
        """Enters a claim; raises RefusedError (EADDRINUSE) if another owner has the tuple and doesn't share it."""
        present = self._tuples.get(claim.key, [])
        if any(other.owner is claim.owner or not claim.proof.shares(other.proof) for other in present):
            raise RefusedError("EADDRINUSE", f"{claim.key}: another client has it")
        self._tuples.setdefault(claim.key, []).append(claim)
        self._owners.setdefault(claim.owner, {})[claim.key] = claim

    def remove(self, owner: Any, key: Key) -> Claim | None:
        """Takes a claim out; None if the owner has no such."""
        claims = self._owners.get(owner, {})
        claim = claims.pop(key, None)
        if claim is None:
            return None
        if not claims:
            del self._owners[owner]
        rest = [other for other in self._tuples[key] if other is not claim]
        if rest:
            self._tuples[key] = rest
        else:
            del self._tuples[key]
        return claim

    def remove_owner(self, owner: Any) -> list[Claim]:
        """Takes all claims of an owner out."""
        return [claim for key in list(self._owners.get(owner, ())) if (claim := self.remove(owner, key)) is not None]

    def count(self, owner: Any) -> int:
        """How many tuples an owner has."""
        return len(self._owners.get(owner, ()))

    def find(self, key: Key) -> Claim | None:
        """Whose a tuple is, exactly or by a wildcard; the first of a group."""
        found = self._tuples.get(key) or self._tuples.get(key.anywhere)
        return found[0] if found else None

    def __iter__(self) -> Iterator[Claim]:
        return (claim for claims in self._tuples.values() for claim in claims)


