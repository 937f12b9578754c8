"""The daemon's protocol, spoken by clients that mean harm: nothing that they send disturbs it or the others."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiomultistack import _switch_session
from aiomultistack._addresses import pack
from aiomultistack._node import lib

from .stage import (
    HOST4,
    HOST6,
    Process,
    Raw,
    Switch,
    bound,
    connecting,
    free_port,
    running,
    serving,
    status_name,
    until,
)

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


@pytest.fixture(scope="module")
def bystanders(shared: Switch) -> Iterator[Any]:
    """Asks a client to talk to a server: they must not notice what the others do."""
    port = free_port()
    server, client = serving(shared, port), connecting(shared)

    def talk() -> None:
        assert client.ask(f"{HOST4} {port} hello") == f"HELLO {server.pid}"

    talk()
    return talk


@pytest.fixture
def raw(shared: Switch) -> Iterator[Raw]:
    with shared.raw() as raw:
        assert raw.hello() >= lib.AMS_FABRIC_CLIENTS
        yield raw


def test_garbage(shared: Switch, bystanders: Any) -> None:
    random_bytes = random.Random(1)
    head = struct.Struct("=HHIiI")
    cut_off = [
        b"x", b"\0" * 15, head.pack(1, 99, 1, 0, 0), head.pack(2, lib.AMS_MSG_HELLO, 1, 0, 0), b"\xff" * 16,
        head.pack(1, lib.AMS_MSG_HELLO, 1, 0, 0),                        # too short for its type
        head.pack(1, lib.AMS_MSG_CLAIM, 1, 0, 0) + bytes(500),           # too long for it
        head.pack(1, lib.AMS_MSG_LIST | lib.AMS_MSG_ANSWER, 1, 0, 0),    # an answer
        head.pack(1, lib.AMS_MSG_FRAME, 1, 0, 0) + bytes(32), bytes(lib.AMS_MSG_SIZE + 1), bytes(100_000),
        *(random_bytes.randbytes(random_bytes.randrange(1, 3000)) for _ in range(50)),
    ]  # fmt: skip
    for message in cut_off:
        for attached in (False, True):
            with shared.raw() as raw:
                if attached:
                    raw.hello()
                raw.send(message)
                assert raw.hung_up()
    bystanders()
    until(lambda: len(shared.clients()) == 2, "the end of the others")


def test_requests_without_a_hello(shared: Switch) -> None:
    with shared.raw() as raw, bound(HOST4, free_port()) as sock:
        assert status_name(raw.claim(sock, TCP, sock.getsockname())[0]) == "ENOTCONN"
        assert status_name(raw.call("ams_msg_range", lib.AMS_MSG_LEND)[0]) == "ENOTCONN"
        assert raw.call("ams_msg_tuple", lib.AMS_MSG_LOOKUP, local=pack((HOST4, 1)), protocol=TCP)[0] == 0


def test_a_second_hello(raw: Raw, bystanders: Any) -> None:
    raw.send(raw.message("ams_msg_hello", lib.AMS_MSG_HELLO))
    assert raw.hung_up()
    bystanders()


@pytest.mark.parametrize("host", [HOST4, HOST6, "0.0.0.0", "::"])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_claim_and_its_release(shared: Switch, raw: Raw, host: str, kind: int) -> None:
    port = free_port()
    protocol = TCP if kind == socket.SOCK_STREAM else UDP
    name = "tcp" if protocol == TCP else "udp"
    with bound(host, port, kind) as sock:
        assert raw.claim(sock, protocol, sock.getsockname()) == (0, "")
        assert (name, host, port) in shared.tuples()
        assert status_name(raw.claim(sock, protocol, sock.getsockname())[0]) == "EADDRINUSE"  # it has it already
        with shared.raw() as other:
            other.hello()
            # Whoever has the socket itself belongs to the group; another socket is none.
            assert other.claim(sock, protocol, sock.getsockname()) == (0, "")
    # The daemon holds it, though everybody else has closed it.
    with pytest.raises(OSError) as caught:
        bound(host, port, kind)
    assert caught.value.errno == errno.EADDRINUSE
    until(lambda: len([row for row in shared.describe()["tuples"] if row["port"] == port]) == 1, "the other's end")
    raw.send(raw.message("ams_msg_tuple", lib.AMS_MSG_RELEASE, local=pack((host, port)), protocol=protocol))
    until(lambda: (name, host, port) not in shared.tuples(), "the release")
    bound(host, port, kind).close()


def refused(raw: Raw, sock: Any, protocol: int, address: tuple[Any, ...]) -> str:
    """The name of the status with which a claim is refused."""
    status, reason = raw.claim(sock, protocol, address)
    assert status == 0 or reason, "a refusal says why"
    return status_name(status)


def test_proofs_that_are_none(raw: Raw, shared: Switch, bystanders: Any) -> None:
    port = free_port()
    before = shared.tuples()
    with open("/dev/null", "rb") as file:
        assert refused(raw, file.fileno(), TCP, (HOST4, port)) == "EINVAL"
    left, right = os.pipe()
    assert refused(raw, left, TCP, (HOST4, port)) == "EINVAL"
    os.close(left)
    os.close(right)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            assert refused(raw, sock, TCP, (HOST4, port)) == "EINVAL"
    with socket.socket() as unbound:
        assert refused(raw, unbound, TCP, (HOST4, port)) == "EINVAL"
    with bound(HOST4, port) as sock:
        assert refused(raw, sock, UDP, (HOST4, port)) == "EINVAL"
        assert refused(raw, sock, TCP, (HOST4, port + 1)) == "EINVAL"
        assert refused(raw, sock, TCP, (HOST6, port, 0, 0)) == "EINVAL"
        assert refused(raw, sock, TCP, ("0.0.0.0", port)) == "EINVAL"  # more than it proves
        assert refused(raw, sock, 132, (HOST4, port)) == "EINVAL"
        assert refused(raw, sock, TCP, (HOST4, 0)) == "EINVAL"
    with bound("10.77.0.3", port) as sock:
        assert refused(raw, sock, TCP, ("10.77.0.3", port)) == "EADDRNOTAVAIL"
    with bound("127.0.0.1", port) as sock:
        assert refused(raw, sock, TCP, (HOST4, port)) == "EINVAL"
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)) as peer:
        connection, _ = server.accept()
        assert refused(raw, connection, TCP, ("127.0.0.1", port)) == "EADDRNOTAVAIL"
        connection.close()
        assert peer.recv(1) == b""
    with bound("0.0.0.0", port, socket.SOCK_DGRAM, SO_REUSEADDR=1) as sock:
        assert refused(raw, sock, UDP, ("0.0.0.0", port)) == "EINVAL"
    assert shared.tuples() == before
    bystanders()


def test_a_claim_without_or_with_too_many_descriptors(shared: Switch, bystanders: Any) -> None:
    port = free_port()
    with shared.raw() as raw, bound(HOST4, port) as sock:
        raw.hello()
        message = raw.message("ams_msg_tuple", lib.AMS_MSG_CLAIM, local=pack((HOST4, port)), protocol=TCP)
        raw.send(message)
        assert status_name(raw.answer()[0]) == "EMFILE"
        raw.send(message, [sock.fileno()] * 2)
        assert raw.hung_up()
    with shared.raw() as raw, bound(HOST4, port + 1) as sock:
        raw.hello()
        raw.send(message, [sock.fileno()] * 250)
        assert raw.hung_up()
    bystanders()


def test_a_flood_of_descriptors_and_requests(shared: Switch, bystanders: Any) -> None:
    pid = shared.process.pid if shared.process is not None else 0
    before = len(os.listdir(f"/proc/{pid}/fd"))
    with shared.raw() as raw, bound(HOST4, free_port()) as sock:
        raw.hello()
        raw.sock.setblocking(False)
        message = raw.message("ams_msg_tuple", lib.AMS_MSG_LOOKUP, local=pack((HOST4, 1)), protocol=TCP)
        sent = 0
        with contextlib.suppress(OSError):  # full, cut off, or too many in flight
            while sent < 20_000:  # it never reads
                raw.send(message, [sock.fileno()])
                sent += 1
        assert sent
        bystanders()
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, "the descriptors' end")
    bystanders()


def test_a_client_that_does_not_read_is_cut_off(shared: Switch, bystanders: Any) -> None:
    with shared.raw() as raw:
        raw.hello()
        message = raw.message("ams_msg_tuple", lib.AMS_MSG_LOOKUP, local=pack((HOST4, 1)), protocol=TCP)
        with contextlib.suppress(ConnectionError):
            for _ in range(100_000):
                raw.send(message)
            raise AssertionError("it was never cut off")
    bystanders()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a namespace")
def test_a_socket_of_another_namespace_proves_nothing(raw: Raw, shared: Switch) -> None:
    program = """
import ctypes, os, socket, sys
assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0
sock = socket.socket()
sock.bind(("0.0.0.0", 80))
channel = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(channel, [b"x"], [sock.fileno()])
"""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([sys.executable, "-c", program, str(theirs.fileno())], pass_fds=[theirs.fileno()], check=True)
        _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
    assert refused(raw, number, TCP, ("0.0.0.0", 80)) == "EPERM"
    os.close(number)
    assert ("tcp", "0.0.0.0", 80) not in shared.tuples()


def test_two_sockets_that_were_both_bound_before_either_is_claimed(shared: Switch, raw: Raw) -> None:
    """SO_REUSEADDR lets the kernel bind both; only one may have the tuple."""
    port = free_port()
    first, second = (bound("0.0.0.0", port, SO_REUSEADDR=1) for _ in range(2))
    with first, second, shared.raw() as other:
        other.hello()
        assert raw.claim(first, TCP, ("0.0.0.0", port)) == (0, "")
        assert refused(other, second, TCP, ("0.0.0.0", port)) == "EADDRINUSE"
        # A third cannot even be bound any more, nor can the second be listened on.
        with pytest.raises(OSError):
            bound("0.0.0.0", port, SO_REUSEADDR=1)
        with pytest.raises(OSError):
            second.listen()


def test_a_port_that_the_kernel_chose_stays_taken(shared: Switch, raw: Raw) -> None:
    """Linux lets it go when a socket stops to listen, which is how the daemon makes a proof exclusive."""
    for listening in (False, True):
        with bound("0.0.0.0", 0, SO_REUSEADDR=1) as sock:
            port = sock.getsockname()[1]
            if listening:
                sock.listen()
            assert raw.claim(sock, TCP, ("0.0.0.0", port)) == (0, "")
        with pytest.raises(OSError) as caught:
            bound("0.0.0.0", port, SO_REUSEADDR=1)
        assert caught.value.errno == errno.EADDRINUSE


def test_ports_are_lent_and_the_kernel_has_them_no_more(shared: Switch) -> None:
    with shared.raw() as raw:
        raw.hello()
        status, body = raw.call("ams_msg_range", lib.AMS_MSG_LEND)
        low, high = struct.unpack_from("=HH", body)
        assert status == 0
        assert high - low == 255
        with shared.raw() as other:
            other.hello()
            assert status_name(other.call("ams_msg_range", lib.AMS_MSG_LEND, low=low, high=high)[0]) == "EADDRINUSE"
            with bound(HOST4, low) as sock:  # the system hasn't that address; still, the port is lent
                assert refused(other, sock, TCP, (HOST4, low)) == "EADDRINUSE"
            status, body = other.call("ams_msg_range", lib.AMS_MSG_LEND)
            other_low, _ = struct.unpack_from("=HH", body)
            assert other_low > high or other_low + 255 < low
        index = raw.call("ams_msg_tuple", lib.AMS_MSG_LOOKUP, local=pack((HOST4, low)), protocol=UDP)[1]
        assert struct.unpack_from("=i", index, 28)[0] >= lib.AMS_FABRIC_CLIENTS
        # It goes with its client, and may be had again, as after the daemon's return.
    with shared.raw() as raw:
        raw.hello()
        ask = {"low": low, "high": high}
        until(lambda: raw.call("ams_msg_range", lib.AMS_MSG_LEND, **ask)[0] == 0, "the range's return")
        for _ in range(14):
            raw.call("ams_msg_range", lib.AMS_MSG_LEND)
        statuses = [raw.call("ams_msg_range", lib.AMS_MSG_LEND)[0] for _ in range(2)]
        assert status_name(statuses[-1]) == "EADDRNOTAVAIL"
        backwards = {"low": high, "high": low}
        assert raw.call("ams_msg_range", lib.AMS_MSG_LEND, **backwards)[0] < 0


def test_clients_come_and_go_without_a_trace(shared: Switch, bystanders: Any) -> None:
    pid = shared.process.pid if shared.process is not None else 0

    def rounds(count: int) -> None:
        for _ in range(count):
            with shared.raw() as raw, bound(HOST4, 0) as sock:
                raw.hello()
                assert raw.claim(sock, TCP, sock.getsockname()) == (0, "")

    rounds(20)
    until(lambda: len(shared.clients()) == 2, "the clients' end")
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    rounds(200)
    until(lambda: len(shared.clients()) == 2, "the clients' end")
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors, "the descriptors' end")
    bystanders()


def test_many_clients_at_once(shared: Switch, bystanders: Any) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    clients = []
    try:
        while len(clients) < 300:
            clients.append(shared.raw())
            if clients[-1].hello() < 0:
                break
        assert len(clients) == 255  # and the bystanders
        bystanders()
    finally:
        for client in clients:
            client.sock.close()
    until(lambda: len(shared.clients()) == 2, "the clients' end")


def test_rings_full_of_garbage(shared: Switch, bystanders: Any) -> None:
    """What the data path makes of hostile rings is tested natively; the daemon goes on here, too."""
    import mmap

    with shared.raw() as raw:
        raw.send(raw.message("ams_msg_hello", lib.AMS_MSG_HELLO))
        _, _, (memory, kick, notify) = raw.answer()
        noise = random.Random(2)
        with mmap.mmap(memory, 0) as region:
            for _ in range(200):
                at = noise.randrange(len(region) - 64) if noise.random() < 0.3 else noise.randrange(4096)
                region[at : at + 16] = noise.randbytes(16)
                os.write(kick, struct.pack("=Q", 1))
            with pytest.raises(OSError):  # it is sealed: no client can make the switch fault on it
                os.ftruncate(memory, 4096)
        for number in (memory, kick, notify):
            os.close(number)
        bystanders()
    bystanders()


def lingering(sock: socket.socket) -> contextlib.ExitStack:
    """Connects a socket to somebody who doesn't read, and fills it: its last close() takes a minute."""
    undo = contextlib.ExitStack()
    server = undo.enter_context(socket.create_server(("127.0.0.1", 0)))
    sock.connect(server.getsockname())
    undo.enter_context(server.accept()[0])
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return undo


@pytest.mark.parametrize("how", ["closed", "refused", "unread", "too many", "proof"])
def test_descriptors_that_are_slow_to_close(shared: Switch, how: str) -> None:
    """The daemon would stand still as long as close() waits, longer than anybody here waits for it."""
    port = free_port()
    with contextlib.ExitStack() as undo:
        raw, sock = undo.enter_context(shared.raw()), undo.enter_context(socket.socket())
        raw.hello()
        lookup = raw.message("ams_msg_tuple", lib.AMS_MSG_LOOKUP, local=pack((HOST4, 1)), protocol=TCP)
        if how == "proof":
            sock.bind(("0.0.0.0", port))
            assert raw.claim(sock, TCP, ("0.0.0.0", port)) == (0, "")
        undo.enter_context(lingering(sock))
        if how == "closed":
            raw.send(lookup, [sock.fileno()])
        elif how == "refused":
            claim = raw.message("ams_msg_tuple", lib.AMS_MSG_CLAIM, local=pack((HOST4, port)), protocol=TCP)
            raw.send(claim, [sock.fileno()])
        elif how == "unread":
            raw.send(b"nonsense")
            with contextlib.suppress(BrokenPipeError):
                raw.send(lookup, [sock.fileno()])
        elif how == "too many":
            raw.send(lookup, [sock.fileno()] * 200)
        sock.close()
        raw.sock.close()
        until(lambda: all(each["name"] != "raw" for each in shared.clients()), "its end")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to connect as somebody else")
def test_those_who_only_connect_take_no_place_from_others(shared: Switch) -> None:
    program = """
import os, socket, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
socks = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(40)]
for sock in socks:
    sock.settimeout(20)
    sock.connect(sys.argv[1])
print(sum(sock.recv(1) == b"" for sock in socks[32:]), flush=True)
sys.stdin.readline()
"""
    os.chmod(shared.path, 0o666)
    for parent in Path(shared.path).parents[:3]:
        os.chmod(parent, 0o755)
    crowd = Process([sys.executable, "-c", program, shared.path])
    try:
        crowd.expect("8")
        assert shared.describe()["switch"]["pid"]
    finally:
        crowd.close()


def test_who_does_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_switch_session, "_PATIENCE", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop, gone = asyncio.new_event_loop(), []
    daemon: Any = SimpleNamespace(loop=loop, captures=lambda session: False, forget=gone.append)
    with contextlib.closing(loop), theirs:
        session = _switch_session.Session(daemon, ours, _switch_session.Peer.of(ours))
        while not gone:
            loop.run_until_complete(asyncio.sleep(0.01))
        assert gone == [session]
        assert theirs.recv(1) == b""


def test_without_descriptors_it_waits_for_some(tmp_path: Path) -> None:
    limit = 60

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    with running(tmp_path, preexec_fn=limited) as switch, contextlib.ExitStack() as many:
        while b"cannot accept" not in switch.process.error().encode():  # type: ignore[union-attr]
            with contextlib.suppress(BlockingIOError):
                sock = many.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                sock.setblocking(False)
                sock.connect(switch.path)
            time.sleep(0.01)
        many.close()
        assert switch.describe()["switch"]["pid"]
