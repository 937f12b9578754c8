"""What the peers of a process hear that dies: a reset, also if they only wait for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop.lab import command
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from aiomultistack import _netns
from aiomultistack._addresses import SockAddr, pack
from aiomultistack._node import lib
from aiomultistack._switch_farewell import Farewells, probe

from .machine import FAR4, FAR6, GATEWAY4, GATEWAY6, KERNEL4, KERNEL6, US4, US6, machine
from .stage import HOST4, HOST6, Process, Raw, Switch, bound, connecting, free_port, running, serving, until

pytestmark = pytest.mark.timeout(180)
needs_namespaces = pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}")

#: Connects to each "HOST PORT", gets an answer, and waits for more; says how that ended.
WAITER = """
import asyncio, sys
import aiomultistack

async def wait(reader):
    try:
        return repr(await asyncio.wait_for(reader.read(), 60))
    except Exception as error:
        return type(error).__name__

async def main():
    words, readers = sys.argv[1:], []
    for host, port in zip(words[::2], words[1::2]):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 20)
        writer.write(b"hello\\n")
        assert await asyncio.wait_for(reader.readline(), 20)
        readers.append((reader, writer))
    print("waiting", flush=True)
    print(*await asyncio.gather(*(wait(reader) for reader, _ in readers)), flush=True)

aiomultistack.run(main())
"""
KERNEL_WAITER = WAITER.replace("aiomultistack.run(main())", "asyncio.run(main())").replace("import aiomultistack\n", "")
RESET = "ConnectionResetError"
PORT = 8000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with running(tmp_path_factory.mktemp("switch")) as switch:
        yield switch


def waiting(waiter: Process) -> Process:
    """A waiter that has its connections."""
    waiter.expect("waiting")
    return waiter


def test_processes_of_the_same_switch(shared: Switch) -> None:
    port = free_port()
    server = serving(shared, port)
    waiter = waiting(shared.client(WAITER, *[word for host in (HOST4, HOST6) * 3 for word in (host, str(port))]))
    server.kill()
    waiter.expect(" ".join([RESET] * 6))


#: Connects twelve times to "HOST PORT"; says who answered, and, for each line that it is told, who answers still.
CALLER = """
import asyncio, sys
import aiomultistack

async def call(reader, writer):
    try:
        writer.write(b"hello\\n")
        return (await asyncio.wait_for(reader.readline(), 60)).split()[1].decode()
    except Exception as error:
        return type(error).__name__

async def main():
    loop = asyncio.get_running_loop()
    streams = [await asyncio.wait_for(asyncio.open_connection(*sys.argv[1:]), 20) for _ in range(12)]
    while True:
        print(*await asyncio.gather(*(call(*pair) for pair in streams)), flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)

aiomultistack.run(main())
"""


def test_the_other_member_of_a_group_keeps_its_connections(shared: Switch) -> None:
    port = free_port()
    servers = {str(server.pid): server for server in (serving(shared, port, "reuse_port") for _ in range(2))}
    caller = shared.client(CALLER, HOST4, str(port))
    said = caller.line()
    gone, left = servers
    assert set(said.split()) == {gone, left}
    waiter = waiting(shared.client(WAITER, *[HOST4, str(port)] * 12))
    servers[gone].kill()
    assert caller.ask("who is left?") == said.replace(gone, RESET)
    servers[left].kill()
    waiter.expect(" ".join([RESET] * 12))


@pytest.mark.root
@needs_namespaces
@pytest.mark.parametrize(("uplink", "host", "addresses"), [
    ("tap", "own", False), ("tap", "shares", False), ("xdp", "alone", True),
])  # fmt: skip
def test_programs_of_kernels_near_and_far(tmp_path: Path, uplink: str, host: str, addresses: bool) -> None:
    with machine(tmp_path, uplink, host, shared=addresses) as site:
        if uplink == "xdp":  # the system speaks for its address, and has to know where everybody is
            command("ip", "route", "add", "default", "via", GATEWAY4)
            command("ip", "-6", "route", "add", "default", "via", GATEWAY6)
        server = serving(site.switch, PORT)
        where = [site.gateway, site.far, *([None] if host == "own" else [])]
        words = [word for us in (US4, US6) for word in (us, str(PORT))]
        waiters = [waiting(site.start(place, KERNEL_WAITER, *words)) for place in where]
        waiters.append(waiting(site.switch.client(WAITER, *words)))
        server.kill()
        for waiter in waiters:
            waiter.expect(f"{RESET} {RESET}")
        # And of a client whose server waits.
        servers = [site.server(place, PORT + 1) for place in where]
        hosts = [(GATEWAY4, GATEWAY6), (FAR4, FAR6), (KERNEL4, KERNEL6)][: len(where)]
        client = site.switch.client(WAITER, *[word for pair in hosts for one in pair for word in (one, str(PORT + 1))])
        waiting(client)
        until(lambda: connections(PORT + 1, where) == 2 * len(where), "the connections")
        client.kill()
        until(lambda: connections(PORT + 1, where) == 0, "their end")
        for process in servers:
            process.close()


def connections(port: int, where: list[Any]) -> int:
    """How many connections servers on kernels have."""
    ask = ("ss", "-Htn", "state", "established", f"( sport = :{port} )")
    return sum(len((command(*ask) if place is None else place.run(*ask)).splitlines()) for place in where)


# ---- lies ----------------------------------------------------------------------------------------------


def flows_of(memory: int) -> mmap.mmap:
    """The list of connections in a client's memory: the last pages."""
    size = lib.AMS_FABRIC_FLOWS * 40
    whole = os.fstat(memory).st_size
    start = (whole - size) // mmap.PAGESIZE * mmap.PAGESIZE
    return mmap.mmap(memory, whole - start, offset=start)


def liar(switch: Switch, port: int, table: bytes) -> Raw:
    """A client that owns UDP and TCP port `port`, and lists what it likes."""
    raw = Raw(switch.path)
    raw.send(raw.message("ams_msg_hello", lib.AMS_MSG_HELLO, name=b"liar"))
    status, _, descriptors = raw.answer()
    assert status == 0
    with bound(HOST4, port) as proof:
        assert raw.claim(proof, socket.IPPROTO_TCP, (HOST4, port)) == (0, "")
    with flows_of(descriptors[0]) as listed:
        listed[: len(table)] = table
    for number in descriptors:
        os.close(number)
    return raw


def row(local: SockAddr, remote: SockAddr) -> bytes:
    """A slot of the list."""
    return pack(local)[:16] + pack(remote)[:16] + struct.pack("=Q", local[1] << 16 | remote[1])


def test_what_a_process_lists_does_no_harm(shared: Switch) -> None:
    """The connections of others, its own to nobody, and nonsense."""
    port, others = free_port(), free_port()
    server, client = serving(shared, others), connecting(shared)
    assert client.ask(f"{HOST4} {others} keep hello") == f"HELLO {server.pid}"
    (lent,) = [lent for lent in shared.describe()["lent"] if lent["pid"] == client.pid]
    rows = [
        row(local, (HOST4, remote))
        for low in range(lent["low"], lent["high"] + 1)
        for local, remote in (((HOST4, others), low), ((HOST4, port), low), ((HOST4, low), others))
    ]
    rows += [row((HOST4, port), (host, 7)) for host in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1")]
    rows += [row((HOST6, port, 0, 0), ("ff02::1", 7, 0, 0)), row(("10.1.2.3", port), ("10.77.0.9", 7))]
    for table in (b"".join(rows), os.urandom(lib.AMS_FABRIC_FLOWS * 40)):
        before = frames_to(shared, server)
        liar(shared, port, table).sock.close()
        until(lambda: ("tcp", HOST4, port) not in shared.tuples(), "the release")
        assert client.ask("say still") == f"STILL {server.pid}"
        until(lambda seen=before: frames_to(shared, server) > seen, "its frames")
    waiter = waiting(shared.client(WAITER, HOST4, str(others)))
    server.kill()
    waiter.expect(RESET)


def frames_to(switch: Switch, process: Process) -> int:
    """How many frames a client has got."""
    return next(int(port["rx_frames"]) for port in switch.clients() if port["pid"] == process.pid)


# ---- the packets ---------------------------------------------------------------------------------------

MAC, HOP = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 2])


@pytest.mark.parametrize(("local", "remote"), [
    (("10.77.0.2", 80), ("192.0.2.9", 50000)), (("fd77::2", 80, 0, 0), ("2001:db8::9", 50000, 0, 0)),
])  # fmt: skip
def test_the_packet(local: SockAddr, remote: SockAddr) -> None:
    frames = [Ether(probe(local, remote, HOP, MAC)) for _ in range(20)]
    for frame in frames:
        assert (frame.src, frame.dst) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
        ip, tcp = frame[IPv6] if ":" in local[0] else frame[IP], frame[TCP]
        assert (ip.src, tcp.sport, ip.dst, tcp.dport) == (local[0], 80, remote[0], 50000)
        assert (tcp.flags, dict(tcp.options)["Timestamp"][1], bytes(tcp.payload)) == ("A", 0, b"\0")
        again = ip.copy()  # scapy computes the checksums that aren't there
        del again[TCP].chksum
        if ":" not in local[0]:
            del again.chksum
        assert bytes(type(ip)(bytes(again))) == bytes(ip)
    assert len({frame[TCP].seq for frame in frames}) > 1 < len({frame[TCP].ack for frame in frames})


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with contextlib.closing(asyncio.new_event_loop()) as made:
        yield made


def test_who_is_told(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody for tuples that the process didn't have; those without a way there, or room, a little later."""
    sent: list[tuple[str, int]] = []
    asked: list[str] = []

    def hop(host: str) -> bytes | None:
        asked.append(host)
        if host == "192.0.2.1":
            raise OSError("no way")
        return HOP if asked.count(host) > 2 else None

    def send(frame: bytes) -> bool:
        sent.append((socket.inet_ntoa(frame[30:34]), int.from_bytes(frame[34:36], "big")))
        return len(sent) > 1

    hosts = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "224.0.0.1", "0.0.0.0", "127.0.0.1"]
    pairs = [pack(("10.77.0.2", port)) + pack((host, 9)) for port in (80, 81) for host in hosts]
    told = Farewells(loop, MAC, hop, send)
    told.say(b"".join(pairs), lambda local: local == ("10.77.0.2", 80))
    told.say(b"", lambda local: True)
    while len(sent) < 3:
        loop.run_until_complete(asyncio.sleep(0.01))
    assert set(asked) == set(hosts[:3])
    assert sorted(sent) == [("192.0.2.2", 80), ("192.0.2.2", 80), ("192.0.2.3", 80)]  # the first found no room
    count = len(sent)
    while len(sent) < count + 2:  # in case that one was lost
        loop.run_until_complete(asyncio.sleep(0.01))
    told.close()
    count = len(sent)
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert len(sent) == count
