"""What the switch daemon asks of the system: its socket, its privileges, its supervisor.

The socket.  A second daemon on the same path is refused: a lock file beside the socket says whether somebody serves
it, and goes with its process; a socket without a holder of the lock is stale and is replaced.  A socket passed by
systemd (socket activation) is taken as it is.

Privileges.  After set-up the daemon becomes an unprivileged user; what it keeps is CAP_NET_ADMIN and CAP_BPF if the
uplink's driver needs them to change its maps and to ask the kernel for neighbours.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import grp
import os
import pwd
import resource
import socket
import struct
import sys

from ._errors import ConfigError, PortError, port_error

__all__ = ["Listener", "drop_privileges", "group_id", "notify", "raise_descriptor_limit", "user_id"]

_FIRST_PASSED = 3  # systemd's SD_LISTEN_FDS_START
_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_NET_ADMIN, _CAP_BPF = 12, 39


def user_id(name: str) -> int:
    """The number of a user given by name or number; raises ConfigError."""
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"there is no user {name!r}") from None


def group_id(name: str) -> int:
    """The number of a group given by name or number; raises ConfigError."""
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {name!r}") from None


class Listener:
    """The daemon's listening socket, made or inherited.

    mode: of the socket's file; group: whose it is, None for the user's own.
    Raises PortError if another daemon serves the path, or it cannot be made.
    """

    def __init__(self, path: str, mode: int = 0o660, group: int | None = None) -> None:
        self.path = path
        self._lock = -1
        passed = _passed_socket()
        if passed is not None:
            self.socket = passed
            self.inherited = True
            return
        self.inherited = False
        try:
            self._take_lock()
            self.socket = self._make(mode, group)
        except OSError as error:
            self._drop_lock()
            if isinstance(error, PortError):
                raise
            raise port_error(error.errno or errno.EIO, f"cannot listen at {path}: {error.strerror}") from None

    def _take_lock(self) -> None:
        name = f"{self.path}.lock"
        while True:
            self._lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise port_error(
                    errno.EADDRINUSE,
                    f"another switch serves {self.path} already; choose another --socket, or stop that one first",
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), os.stat(name, follow_symlinks=False)):
                    return
            self._drop_lock()  # of one that was about to go, and has taken the file with it since we opened it

    def _drop_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _make(self, mode: int, group: int | None) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)  # stale: we have the lock
            mask = os.umask(0o777)
            try:
                sock.bind(self.path)
            finally:
                os.umask(mask)
            if group is not None:
                os.chown(self.path, -1, group)
            os.chmod(self.path, mode)
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Stops listening and removes what was made."""
        self.socket.close()
        if not self.inherited:
            with contextlib.suppress(OSError):  # after a change of user the directory may not be ours
                os.unlink(self.path)
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}.lock")
            self._drop_lock()


def _passed_socket() -> socket.socket | None:
    """The socket that a supervisor has opened for us (sd_listen_fds(3)), if it has."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS", "0") == "0":
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    os.set_inheritable(_FIRST_PASSED, False)
    sock = socket.socket(fileno=_FIRST_PASSED)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_SEQPACKET:
        raise ConfigError("the socket that was passed is of the wrong type: use ListenSequentialPacket= in its unit")
    return sock


def notify(state: str) -> None:
    """Tells the supervisor, e.g. "READY=1" (sd_notify(3)); without one, nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(state.encode(), address)


def raise_descriptor_limit() -> None:
    """Each tuple is a descriptor: takes as many as the system grants."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def drop_privileges(user: str, capabilities: bool) -> None:
    """Becomes another user for good.

    capabilities: keep CAP_NET_ADMIN and CAP_BPF.
    To be called before there are threads.  Raises ConfigError if it cannot be done.
    """
    uid = user_id(user)
    try:
        entry = pwd.getpwuid(uid)
        gid, name = entry.pw_gid, entry.pw_name
    except KeyError:
        gid, name = uid, None
    keep = capabilities and sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if keep and libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if name is not None:
            os.initgroups(name, gid)
        else:
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if keep:
            _keep_capabilities(libc)
    except OSError as error:
        raise ConfigError(
            f"cannot become user {user}: {error.strerror}; start the switch as root, or without --user"
        ) from None


def _keep_capabilities(libc: ctypes.CDLL) -> None:
    """Leaves nothing but CAP_NET_ADMIN and CAP_BPF (capset(2)); an older kernel has no CAP_BPF."""
    for wanted in ((_CAP_NET_ADMIN, _CAP_BPF), (_CAP_NET_ADMIN,)):
        low = sum(1 << number for number in wanted if number < 32)
        high = sum(1 << (number - 32) for number in wanted if number >= 32)
        header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
        data = struct.pack("=6I", low, low, 0, high, high, 0)
        if libc.capset(header, data) == 0:
            return
    raise OSError(ctypes.get_errno(), "capset")
