"""What goes wrong on a TAP: permissions, names, devices that vanish, and frames that nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import random
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw
from support import PATIENCE, descriptors, eventually

import aiomultistack

from .lab import (
    KERNEL4,
    KERNEL6,
    STACK4,
    STACK6,
    Bench,
    Program,
    command,
    configuration,
    environment,
    stack_host,
    tap_name,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])
ETH_P_ALL = 3
SERVER = """
import asyncio, sys

async def main():
    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
    server = await asyncio.start_server(echo, None, 7)
    print("serving", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """An echo server that knows nothing of its stack."""
    path = tmp_path / "server.py"
    path.write_text(textwrap.dedent(SERVER))
    return path


# ---- opening ---------------------------------------------------------------------------------------------


def test_no_permission(lab: None, script: Path, tool: Callable[[str], str]) -> None:
    """An ordinary user without capabilities: an error that says what to do."""
    script.parent.chmod(0o755)
    done = subprocess.run(
        [tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
         sys.executable, "-c",
         "import aiomultistack\n"
         "config = aiomultistack.Config('tap:amsnobody', ['10.99.0.2/24'])\n"
         "try: aiomultistack.new_event_loop(config)\n"
         "except aiomultistack.PortPermissionError as error: print(error.errno, error)\n"],
        capture_output=True, text=True, timeout=60, env=environment(), cwd="/", check=False,
    )  # fmt: skip
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"nobody may not read the package or the interpreter: {done.stderr.splitlines()[-1]}")
    assert done.stderr == ""
    number, _, message = done.stdout.partition(" ")
    assert int(number) in (errno.EPERM, errno.EACCES)
    assert "tap:amsnobody" in message
    assert "root" in message or "CAP_NET_ADMIN" in message


def test_name_in_use(lab: None) -> None:
    """A TAP has one owner at a time; the second one learns whose fault it is, and leaves nothing."""
    before = descriptors()
    config = configuration(tap_name(), host_addresses=[])
    first = aiomultistack.new_event_loop(config)
    try:
        with pytest.raises(aiomultistack.PortError) as caught:
            aiomultistack.new_event_loop(config.replace(addresses=["10.99.0.3/24"], gateway=[]))
        assert caught.value.errno == errno.EBUSY
        assert config.port in str(caught.value)
    finally:
        first.close()
    gc.collect()
    assert descriptors() - before == set()


def test_a_name_that_is_no_tap(lab: None) -> None:
    before = descriptors()
    with pytest.raises((aiomultistack.PortError, aiomultistack.ConfigError)) as caught:
        aiomultistack.new_event_loop(configuration("lo", host_addresses=[]))
    assert "lo" in str(caught.value)
    with pytest.raises((aiomultistack.PortError, aiomultistack.ConfigError)):
        aiomultistack.new_event_loop(configuration("a-name-that-is-too-long", host_addresses=[]))
    gc.collect()
    assert descriptors() - before == set()


def test_the_systems_own_address(lab: None) -> None:
    """The kernel would answer in the stack's place."""
    command("ip", "address", "add", "10.99.7.2/32", "dev", "lo")
    with pytest.raises(aiomultistack.ConfigError, match="an address of this machine itself"):
        aiomultistack.new_event_loop(
            configuration(tap_name(), addresses=["10.99.7.2/24"], host_addresses=[], gateway=[])
        )


# ---- a device that vanishes ------------------------------------------------------------------------------


def test_tap_deleted_while_serving(lab: None, bench: Bench) -> None:
    """The connection ends with an error, the loop's handler is told once, and the loop goes on."""
    lost: list[BaseException | None] = []
    made = asyncio.Event()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set()

        def connection_lost(self, exc: BaseException | None) -> None:
            lost.append(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, STACK4, 8080)
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex((STACK4, 8080))
            await made.wait()
            await asyncio.to_thread(command, "ip", "link", "delete", bench.config.port_name)
            while not lost:
                await asyncio.sleep(0.005)
        started = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - started < 0.15, "the loop is busy with a device that is gone"
        with pytest.raises(OSError):
            await asyncio.open_connection(KERNEL4, 80)
        server.close()
        await server.wait_closed()

    bench.loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    assert len(lost) == 1
    assert isinstance(lost[0], OSError)
    assert [type(context["exception"]) for context in bench.contexts] == [aiomultistack.PortError]
    assert bench.config.port in str(bench.contexts[0]["exception"])


def test_tap_deleted_under_a_program(lab: None, script: Path, tmp_path: Path) -> None:
    """It says what has happened, uses no CPU, and still ends when it is told to."""
    with contextlib.closing(Program(tmp_path / "log", script)) as program:
        program.wait_until_open(STACK4, 7)
        command("ip", "link", "delete", program.tap)
        eventually(lambda: "port is gone" in program.output or "is gone" in program.output, "it says so")
        before = program.cpu_seconds()
        time.sleep(0.5)
        assert program.cpu_seconds() - before < 0.2
        program.terminate()
        program.wait()
        assert program.output.count("Traceback") <= 1


# ---- frames that nobody should send ----------------------------------------------------------------------


class Attacker:
    """A packet socket on the kernel's side of the stack's TAP: what it sends, the stack receives."""

    def __init__(self, bench: Bench) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.bind((bench.config.port_name, 0))
        self.source = self.socket.getsockname()[4].hex(":")
        self.target = "ff:ff:ff:ff:ff:ff"

    def learn(self) -> None:
        """Finds out the stack's Ethernet address, which the kernel resolves for a ping."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (STACK4, 9))
        words = command("ip", "neighbour", "show", STACK4).split()
        if "lladdr" in words:
            self.target = words[words.index("lladdr") + 1]

    def make_amends(self) -> None:
        """Says who the kernel is: whoever may send on a link can forge ARP and NDP, and some of the frames did."""
        ether = Ether(src=self.source, dst=self.target)
        for _ in range(2):
            self.send(bytes(ether / ARP(op=1, psrc=KERNEL4, pdst=STACK4, hwsrc=self.source)))
            advertisement = IPv6(src=KERNEL6, dst=STACK6, hlim=255) / ICMPv6ND_NA(tgt=KERNEL6, R=0, S=0, O=1)
            self.send(bytes(ether / advertisement / ICMPv6NDOptDstLLAddr(lladdr=self.source)))

    def send(self, frame: bytes) -> None:
        """Sends a frame; what the kernel itself refuses (too short, too long) is no matter."""
        with contextlib.suppress(OSError):
            self.socket.send(frame)


def samples(source: str, target: str) -> list[bytes]:
    """Valid frames of every kind that the stack knows, to be mutated."""
    ether = Ether(src=source, dst=target)
    four, six = IP(src=KERNEL4, dst=STACK4), IPv6(src=KERNEL6, dst=STACK6)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    packets = [
        ARP(op=1, psrc=KERNEL4, pdst=STACK4, hwsrc=source),
        ARP(op=2, psrc=STACK4, pdst=STACK4, hwsrc="02:00:00:00:00:66"),
        four / ICMP() / Raw(b"x" * 64),
        six / ICMPv6EchoRequest(data=b"x" * 64),
        *(ip / TCP(sport=1024, dport=8080, flags=flags, seq=1, ack=1, options=options) / Raw(b"data")
          for ip in (four, six) for flags in ("S", "SA", "A", "FA", "R", "SFRPAU", "")),
        *(ip / UDP(sport=1, dport=9) / Raw(b"x" * 20) for ip in (four, six)),
        IP(src=KERNEL4, dst=STACK4, id=7, flags="MF") / UDP(sport=1, dport=9, len=4000) / Raw(b"x" * 512),
        IP(src=KERNEL4, dst=STACK4, id=7, frag=64, flags="MF", proto=17) / Raw(b"y" * 512),
        IP(src=KERNEL4, dst=STACK4, id=8, frag=8191, proto=6) / Raw(b"z" * 100),
        IPv6(src=KERNEL6, dst=STACK6) / IPv6ExtHdrFragment(m=1, id=9, nh=6) / Raw(b"y" * 512),
        IPv6(src=KERNEL6, dst=STACK6) / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=8080, flags="S"),
        IP(src=KERNEL4, dst=STACK4) / ICMP(type=3, code=4, nexthopmtu=68) / IP(src=STACK4, dst=KERNEL4) / TCP(),
    ]  # fmt: skip
    return [bytes(ether / packet) for packet in packets]


def mutated(frames: list[bytes], rng: random.Random) -> bytes:
    """One of the frames with some bytes changed, cut or added."""
    frame = bytearray(rng.choice(frames))
    for _ in range(rng.randrange(1, 6)):
        kind = rng.randrange(4)
        where = rng.randrange(12, max(13, len(frame)))
        if kind == 0 and where < len(frame):
            frame[where] = rng.randrange(256)
        elif kind == 1:
            del frame[where:]
        elif kind == 2:
            frame[where:where] = rng.randbytes(rng.randrange(1, 40))
        elif len(frame) > 40:
            frame[where : where + 2] = rng.choice((b"\0\0", b"\xff\xff", b"\x80\0"))
    return bytes(frame)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An echo server's part."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


def ask(host: str, data: bytes) -> bytes:
    """One round with the echo server, on the kernel's TCP."""
    with socket.create_connection((host, 8080), PATIENCE) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while got := sock.recv(65536):
            answer += got
        return answer


@contextlib.contextmanager
def attacked(bench: Bench) -> Iterator[Callable[[Callable[[Attacker], None]], None]]:
    """An echo server on both families; what is called with a function lets it attack, and sees that all is well."""
    servers: list[asyncio.AbstractServer] = []
    attacker = Attacker(bench)

    async def start() -> None:
        servers.extend([await asyncio.start_server(echo, stack_host(family), 8080) for family in (4, 6)])

    async def one(attack: Callable[[Attacker], None]) -> None:
        await asyncio.to_thread(attacker.learn)
        await asyncio.to_thread(attack, attacker)
        attacker.make_amends()
        for family in (4, 6):
            assert await asyncio.to_thread(ask, stack_host(family), b"still there?" * 1000) == b"still there?" * 1000

    async def stop() -> None:
        for server in servers:
            server.close()
            await server.wait_closed()

    bench.loop.run_until_complete(start())
    try:
        yield lambda attack: bench.loop.run_until_complete(asyncio.wait_for(one(attack), 30))
    finally:
        bench.loop.run_until_complete(stop())
        attacker.socket.close()
    assert bench.contexts == []


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(seed=strategies.integers(0, 1 << 32))
def _mutations(strike: Callable[[Callable[[Attacker], None]], None], seed: int) -> None:
    rng = random.Random(seed)

    def attack(attacker: Attacker) -> None:
        frames = samples(attacker.source, attacker.target)
        for _ in range(200):
            attacker.send(mutated(frames, rng))

    strike(attack)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)
@hypothesis.given(frames=strategies.lists(strategies.binary(min_size=14, max_size=1514), min_size=1, max_size=50))
def _garbage(strike: Callable[[Callable[[Attacker], None]], None], frames: list[bytes]) -> None:
    def attack(attacker: Attacker) -> None:
        target = bytes.fromhex(attacker.target.replace(":", ""))
        for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b""):
            for frame in frames:
                attacker.send(target + frame[:6] + kind + frame)

    strike(attack)


@pytest.mark.parametrize("bench", [{}, {"offload": False}], ids=["offload", "plain"], indirect=True)
@pytest.mark.parametrize("attack", [_mutations, _garbage], ids=["mutations", "garbage"])
def test_frames_injected(bench: Bench, attack: Callable[..., None]) -> None:
    """Whatever comes, the server serves afterwards, and what the frames left goes away."""
    with attacked(bench) as strike:
        attack(strike)
        dropped = sum(count for name, count in bench.loop.multistack.counters().items() if "tx" not in name)
        assert dropped > 0


@pytest.mark.parametrize("bench", [{}], ids=["offload"], indirect=True)
def test_syn_flood(bench: Bench) -> None:
    """Half-open connections from addresses that don't exist keep nobody out for long, and use bounded memory."""

    def attack(attacker: Attacker) -> None:
        for number in range(3000):
            source = f"10.99.0.{100 + number % 100}"
            packet = IP(src=source, dst=STACK4) / TCP(sport=1024 + number, dport=8080, flags="S", seq=number)
            attacker.send(bytes(Ether(src=attacker.source, dst=attacker.target) / packet))

    with attacked(bench) as strike:
        before = bench.loop.multistack.nodes[0].memory
        strike(attack)
        assert bench.loop.multistack.nodes[0].memory - before < 16 << 20
