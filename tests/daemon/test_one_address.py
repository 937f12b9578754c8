"""One NIC, one IP address, three servers: one on the kernel's TCP, two in processes on user-space TCP.

The NIC is one end of a veth pair in this thread's namespace, the clients are at its other end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.lab import command, namespace

from aiomultistack import _netns

from .stage import CLIENT, PATIENCE, ROOT, SERVER, Process, Switch, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(_netns.why_not() is not None, reason=f"needs namespaces: {_netns.why_not()}"),
]

NIC4, NIC6 = "10.66.0.1", "fd66::1"
PEER4, PEER6 = "10.66.0.2", "fd66::2"
KERNEL, A, B = 8000, 8001, 8002
EXAMPLE = ROOT / "examples" / "one_address"

#: Asks every server over both families, again and again, ten requests to a connection; tells how many were answered,
#: and how often each exception came instead.  One that isn't for a connection that failed ends the asking.
LOAD = """
import collections, http.client, json, sys, threading, time
hosts, ports, seconds = sys.argv[1].split(","), [int(port) for port in sys.argv[2].split(",")], float(sys.argv[3])
tallies = {f"{port}/{host}": collections.Counter() for port in ports for host in hosts}
def ask(host, port, tally):
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        for _ in range(10):
            connection.request("GET", "/")
            answer = connection.getresponse()
            if answer.status != 200 or b"TCP" not in answer.read():
                raise AssertionError(answer.status)
            tally["good"] += 1
            time.sleep(0.004)
    except (OSError, http.client.RemoteDisconnected) as error:
        tally[type(error).__name__] += 1
        time.sleep(0.02)
    finally:
        connection.close()
def load(host, port, tally):
    while True:
        ask(host, port, tally)
for host in hosts:
    for port in ports:
        threading.Thread(target=load, args=(host, port, tallies[f"{port}/{host}"]), daemon=True).start()
for line in sys.stdin:
    print(json.dumps(tallies), flush=True)
"""

#: The same service as SERVER's, on the kernel's TCP.
KERNEL_SERVER = SERVER.replace("aiomultistack.run(main())", "asyncio.run(main())").replace("import aiomultistack\n", "")
PROBE = CLIENT.replace("aiomultistack.run(main())", "asyncio.run(main())").replace("import aiomultistack\n", "")


class Stage:
    """The NIC, its peer, and the processes on both sides."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[Process] = []
        self._peer = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        own = os.stat("/proc/thread-self/ns/net").st_ino
        until(lambda: os.stat(f"/proc/{self._peer.pid}/ns/net").st_ino != own, "the peer's namespace")
        command("ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic0", "netns", str(self._peer.pid))
        for prefix, addresses in (((), (NIC4, NIC6)), (self._inside(), (PEER4, PEER6))):
            command(*prefix, "ip", "link", "set", "lo", "up")
            command(*prefix, "ip", "link", "set", "nic0", "up")
            command(*prefix, "ip", "address", "add", f"{addresses[0]}/24", "dev", "nic0")
            command(*prefix, "ip", "address", "add", f"{addresses[1]}/64", "dev", "nic0", "nodad")
        self.switch = Switch(path / "switch.sock", "--uplink", "xdp:nic0", "--user", "65534", addresses=())

    def _inside(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self._peer.pid), "--net")

    def here(self, program: str, *arguments: str) -> Process:
        """A Python program on the kernel's stack beside the NIC."""
        self.processes.append(Process([sys.executable, "-c", program, *arguments]))
        return self.processes[-1]

    def there(self, program: str, *arguments: str) -> Process:
        """A Python program on the kernel's stack at the other end."""
        self.processes.append(Process([*self._inside(), sys.executable, "-c", program, *arguments]))
        return self.processes[-1]

    def run(self, *arguments: str) -> Process:
        """Python with arguments, beside the NIC."""
        self.processes.append(Process([sys.executable, *arguments], environment={"AIOMULTISTACK_CONTROL": "0"}))
        return self.processes[-1]

    def serve(self, port: int) -> Process:
        """A server on user-space TCP."""
        server = self.switch.client(SERVER, str(port))
        server.expect("serving")
        return server

    def close(self) -> None:
        """Ends everything; the namespaces go with their processes."""
        self.switch.close()
        for process in self.processes:
            process.close()
        self._peer.kill()
        self._peer.wait()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    if shutil.which("nsenter") is None or shutil.which("unshare") is None:
        pytest.skip("nsenter and unshare are not installed")
    with namespace():
        made = Stage(tmp_path)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.timeout(240)
def test_deaths_and_returns_under_load(stage: Stage) -> None:
    """http.server on the kernel's TCP; aiohttp in process A and uvicorn in process B on user-space TCP."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("uvicorn")
    (stage.path / "index.html").write_text("the kernel's TCP")
    stage.run("-m", "http.server", str(KERNEL), "--bind", "::", "--directory", str(stage.path))
    commands = {
        A: (str(EXAMPLE / "aiohttp_app.py"), str(A)),
        B: ("-m", "uvicorn", "--app-dir", str(EXAMPLE), "asgi_app:app", "--host", "", "--port", str(B),
            "--no-access-log"),
    }  # fmt: skip

    def tuples(port: int) -> set[tuple[str, str, int]]:
        return {("tcp", host, port) for host in ("0.0.0.0", "::")} & stage.switch.tuples()

    def start(port: int) -> Process:
        run = "-m", "aiomultistack", "run", f"--port=switch:{stage.switch.path}"
        process = stage.run(*run, *commands[port])
        until(lambda: len(tuples(port)) == 2 or process.process.poll() is not None, f"a server at port {port}")
        assert process.process.poll() is None, process.error()
        return process

    processes = {port: start(port) for port in commands}
    load = stage.there(LOAD, f"{NIC4},{NIC6}", f"{KERNEL},{A},{B}", str(PATIENCE / 3))

    def tallies(*ports: int) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = json.loads(load.ask("tell"))
        return {name: tally for name, tally in found.items() if int(name.partition("/")[0]) in ports}

    def all_go_on(*ports: int) -> None:
        before = tallies(*ports)

        def answered() -> bool:
            now = tallies(*ports)
            return all(now[name].get("good", 0) > before[name].get("good", 0) + 20 for name in before)

        until(answered, f"answers of {ports}")

    def unhurt(*ports: int) -> None:
        assert all(set(tally) == {"good"} for tally in tallies(*ports).values()), tallies(*ports)

    all_go_on(KERNEL, A, B)
    unhurt(KERNEL, A, B)
    for port, other in ((A, B), (B, A)):
        before = tallies(other)
        processes[port].kill(signal.SIGKILL)
        until(lambda port=port: not tuples(port), "the release of a tuple")
        all_go_on(KERNEL, other)
        assert [{**tally, "good": 0} for tally in tallies(other).values()] == [
            {**tally, "good": 0} for tally in before.values()
        ], "another process's clients notice nothing"
        processes[port] = start(port)
        all_go_on(KERNEL, A, B)
    stage.switch.kill(signal.SIGKILL)
    all_go_on(KERNEL)
    stage.switch.start()
    all_go_on(KERNEL, A, B)  # servers have come back by themselves, and clients to them
    unhurt(KERNEL)
    for tally in tallies(A, B).values():
        # A death is told to clients that send; one that only waits for its answer hears nothing, as nobody is left.
        assert set(tally) > {"good"}, tally
        assert tally.get("TimeoutError", 0) <= 3, tally
    load.kill()
    until(lambda: all(port.get("tuples") == 2 for port in stage.switch.clients()), "the clients")


def test_clients_on_the_shared_address(stage: Stage) -> None:
    """Out to the world, to another user-space stack, and to the kernel's own server on the same address."""
    for side in (stage.here, stage.there):
        side(KERNEL_SERVER, str(KERNEL)).expect("serving")
    server = stage.serve(A)
    client = stage.switch.client(CLIENT)
    client.expect("ready")
    outside = stage.there(PROBE)
    outside.expect("ready")
    for host, peer in ((NIC4, PEER4), (NIC6, PEER6)):
        assert client.ask(f"{peer} {KERNEL} hello") == f"HELLO {stage.processes[1].pid}"
        assert client.ask(f"{host} {A} hello") == f"HELLO {server.pid}"
        assert client.ask(f"{host} {KERNEL} hello") == f"HELLO {stage.processes[0].pid}"
        assert client.ask(f"{host} {B} hello") == "ConnectionRefusedError ECONNREFUSED"
        assert outside.ask(f"{host} {A} hello") == f"HELLO {server.pid}"
    command(*stage._inside(), "ping", "-c", "1", "-W", "5", NIC4)
    # A tuple of the user-space stack cannot be had by the kernel's programs, nor the other way round.
    stage.here(KERNEL_SERVER, str(A)).expect("refused 98")
    other = stage.switch.client(SERVER, str(KERNEL))
    other.expect("refused 98")


def test_the_example(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = set(command("ip", "netns").split())
    done = subprocess.run(
        [str(ROOT / "examples" / "one_address" / "run.sh"), sys.executable],
        capture_output=True, text=True, timeout=4 * PATIENCE, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split("  ", 1) for line in done.stdout.splitlines() if line.startswith("http://")]
    assert [url.rsplit(":", 1)[1] for url, _ in lines] == ["8000/", "8000/", "8001/", "8001/", "8002/", "8002/"]
    said = [text.split()[0] for _, text in lines]
    assert said == ["http.server"] * 2 + ["aiohttp"] * 2 + ["uvicorn"] * 2
    deadline = time.monotonic() + PATIENCE
    while {name for name in set(command("ip", "netns").split()) - before if name.startswith("ams-")}:
        assert time.monotonic() < deadline, "a namespace was left behind"
        time.sleep(0.1)
