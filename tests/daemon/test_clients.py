"""Programs on one switch: they talk, own what they bind, and go; so does the daemon."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys

import pytest

from .stage import (
    HOST4,
    HOST6,
    ROOT,
    SERVER,
    Process,
    Switch,
    connecting,
    free_port,
    public_directory,
    running,
    serving,
    until,
)

HOSTS = pytest.mark.parametrize("host", [HOST4, HOST6])


@HOSTS
def test_two_programs_talk_over_one_address(shared: Switch, host: str) -> None:
    port = free_port()
    server, client = serving(shared, port), connecting(shared)
    assert client.ask(f"{host} {port} hello") == f"HELLO {server.pid}"
    # Nobody has this one, and the switch's own stack says so.
    assert client.ask(f"{host} {port + 1} hello") == "ConnectionRefusedError ECONNREFUSED"


def test_a_program_talks_to_itself(shared: Switch) -> None:
    program = """
import asyncio, aiomultistack
async def main():
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_server(serve, "10.77.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("10.77.0.2", port)
    writer.write(b"to myself\\n")
    print((await reader.read()).decode().strip(), flush=True)
    writer.close()
    server.close()
aiomultistack.run(main())
"""
    client = shared.client(program)
    client.expect("to myself")


BULK = """
import asyncio, hashlib, sys, aiomultistack
host, port, server = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
data = b"".join(hashlib.sha256(bytes([i & 255, i >> 8])).digest() for i in range(32768)) * 8  # 8 MB
async def serve(reader, writer):
    writer.write(b"whole" if await reader.read(-1) == data else b"broken")
    writer.close()
async def main():
    if server:
        await asyncio.start_server(serve, host, port)
        print("serving", flush=True)
        await asyncio.sleep(600)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    writer.write_eof()
    print((await reader.read()).decode(), flush=True)
    writer.close()
aiomultistack.run(main())
"""


@HOSTS
@pytest.mark.parametrize("offload", ["1", "0"])
def test_bulk_passes_in_super_frames_or_segments(shared: Switch, host: str, offload: str) -> None:
    port = free_port()
    server = shared.client(BULK, host, str(port), "server", environment={"AIOMULTISTACK_OFFLOAD": offload})
    server.expect("serving")
    client = shared.client(BULK, host, str(port))
    client.expect("whole")
    counters = next(row["counters"] for row in shared.clients() if row["pid"] == server.pid)
    assert (counters["out_super"] > 0) == (offload == "1")
    assert (counters["out_cut"] > 0) == (offload == "0")


@HOSTS
def test_datagrams(shared: Switch, host: str) -> None:
    program = """
import asyncio, sys, aiomultistack
async def main():
    loop = asyncio.get_running_loop()
    got = loop.create_future()
    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport): self.transport = transport
        def datagram_received(self, data, address):
            if len(sys.argv) == 3: self.transport.sendto(data.upper(), address)
            else: got.set_result(data)
    if len(sys.argv) == 3:
        await loop.create_datagram_endpoint(Echo, (sys.argv[1], int(sys.argv[2])))
        print("serving", flush=True)
        await asyncio.sleep(60)
    transport, _ = await loop.create_datagram_endpoint(Echo, remote_addr=(sys.argv[1], int(sys.argv[2])))
    transport.sendto(b"x" * int(sys.argv[3]))
    print(len(await asyncio.wait_for(got, 20)), flush=True)
aiomultistack.run(main())
"""
    port = free_port()
    server = shared.client(program, host, str(port))
    server.expect("serving")
    for size in (10, 4000):  # one packet, and fragments
        shared.client(program, host, str(port), str(size)).expect(str(size))
    server.close()


@HOSTS
def test_a_port_of_another_program_is_refused(shared: Switch, host: str) -> None:
    port = free_port()
    serving(shared, port, host)
    other = shared.client(SERVER, str(port), host)
    other.expect(f"refused {errno.EADDRINUSE}")
    shared.client(SERVER, str(port)).expect(f"refused {errno.EADDRINUSE}")


def test_a_port_of_the_kernel_s_is_refused_and_the_other_way_round(shared: Switch) -> None:
    port = free_port()
    for listening in (False, True):
        with socket.socket() as kernel:
            if listening:
                kernel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kernel.bind(("0.0.0.0", port))
            if listening:
                kernel.listen()
            shared.client(SERVER, str(port)).expect(f"refused {errno.EADDRINUSE}")
    serving(shared, port)
    for options in ([], [socket.SO_REUSEADDR], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]):
        with socket.socket() as kernel:
            for option in options:
                kernel.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError) as caught:
                kernel.bind(("0.0.0.0", port))
            assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a client as somebody else")
def test_another_user_may_not_have_a_privileged_port() -> None:
    options = ("--socket-mode", "666", "--max-tuples", "4", "--max-clients-per-user", "2")
    with public_directory() as path, running(path, *options) as switch:
        other = switch.client(SERVER, "80", user=65534)
        other.expect(f"refused {errno.EACCES}")
        serving(switch, 80)
        # Its limits: two clients of a user, four tuples of a client.
        port = free_port()
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                serving(switch, port, user=65534)
                port += 1
            third = switch.client(SERVER, str(port), user=65534)
            assert third.process.wait(30) != 0
            assert "--max-clients-per-user" in third.error()
            stack.pop_all()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a client as somebody else")
def test_who_may_attach() -> None:
    options = ("--socket-mode", "666", "--allow", "12345", "--allow", "@65534")
    with public_directory() as path, running(path, *options) as switch:
        port = free_port()
        stranger = switch.client(SERVER, str(port), user=12346)
        assert stranger.process.wait(30) != 0
        assert "this user may not attach" in stranger.error()
        serving(switch, port, user=12345)
        serving(switch, port + 1, user=12346, groups=[65534])


def test_a_program_s_death_frees_what_it_had(shared: Switch) -> None:
    port = free_port()
    server = serving(shared, port)
    client = connecting(shared)
    assert client.ask(f"{HOST4} {port} keep hello") == f"HELLO {server.pid}"
    assert ("tcp", "0.0.0.0", port) in shared.tuples()
    server.kill(signal.SIGKILL)
    until(lambda: ("tcp", "0.0.0.0", port) not in shared.tuples(), "the tuple's release")
    assert client.ask(f"{HOST4} {port} hello") == "ConnectionRefusedError ECONNREFUSED"
    with socket.socket() as kernel:
        kernel.bind(("0.0.0.0", port))
    other = serving(shared, port)
    assert client.ask(f"{HOST6} {port} hello") == f"HELLO {other.pid}"


def test_a_program_that_hangs_disturbs_nobody(shared: Switch) -> None:
    port = free_port()
    stopped, server, client = serving(shared, port), serving(shared, port + 1), connecting(shared)
    stopped.process.send_signal(signal.SIGSTOP)
    try:
        for number in range(20):
            assert client.ask(f"{HOST4} {port + 1} {number}") == f"{number} {server.pid}"
    finally:
        stopped.process.send_signal(signal.SIGCONT)
    assert client.ask(f"{HOST4} {port} hello") == f"HELLO {stopped.pid}"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_daemon_s_end_and_its_return(switch: Switch, how: signal.Signals) -> None:
    port = free_port()
    server, client = serving(switch, port), connecting(switch)
    assert client.ask(f"{HOST4} {port} keep hello") == f"HELLO {server.pid}"
    assert switch.kill(how) == (0 if how == signal.SIGTERM else -how)
    # The connection is lost, with an error that says why; and nothing new can be opened.
    assert client.ask("say again") == "OSError ENETDOWN"
    assert client.ask(f"{HOST4} {port} hello") == "OSError ENETDOWN"
    switch.start()
    until(lambda: ("tcp", "0.0.0.0", port) in switch.tuples(), "the listener's return")
    until(lambda: len(switch.clients()) == 2, "the clients' return")
    for host in (HOST4, HOST6):
        assert until(lambda host=host: (said := client.ask(f"{host} {port} hello")) != "OSError ENETDOWN" and said,
                     "a connection") == f"HELLO {server.pid}"  # fmt: skip


def test_one_listening_socket_of_two_processes(shared: Switch) -> None:
    """As with uvicorn's or gunicorn's workers: the parent binds, the children inherit."""
    program = SERVER.replace(
        "async def main():", "parent = None\n\nasync def main():"
    ).replace(
        "server = await asyncio.start_server(serve, host, int(port), **({\"reuse_port\": True} if reuse else {}))",
        "server = await asyncio.start_server(serve, sock=parent)",
    ).replace(
        "aiomultistack.run(main())",
        """
import socket
parent = socket.socket()
parent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
parent.bind(("0.0.0.0", int(sys.argv[1])))
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        aiomultistack.run(main())
        os._exit(0)
    children.append(child)
print(*children, flush=True)
for child in children:
    os.waitpid(child, 0)
""",
    )
    port = free_port()
    parent = shared.client(program, str(port))
    lines = [parent.line() for _ in range(3)]
    children = set(next(line for line in lines if line != "serving").split())
    client = connecting(shared)
    seen = {client.ask(f"{HOST4} {port} hello").split()[1] for _ in range(40)}
    assert seen == children
    # A member's death: those who are left get all of it.
    gone = children.pop()
    os.kill(int(gone), signal.SIGKILL)
    until(lambda: int(gone) not in {row["pid"] for row in shared.describe()["tuples"]}, "the member's release")
    assert {client.ask(f"{HOST4} {port} hello").split()[1] for _ in range(10)} == children
    os.kill(int(next(iter(children))), signal.SIGKILL)
    parent.process.wait(30)


def test_reuse_port_makes_a_group(shared: Switch) -> None:
    port = free_port()
    servers = [serving(shared, port, "reuse_port") for _ in range(2)]
    client = connecting(shared)
    seen = {client.ask(f"{HOST6} {port} hello").split()[1] for _ in range(40)}
    assert seen == {str(server.pid) for server in servers}
    shared.client(SERVER, str(port)).expect(f"refused {errno.EADDRINUSE}")  # one that doesn't share


def test_reuse_port_inside_one_stack_and_beside_another(shared: Switch) -> None:
    """Two listeners of one process share their port with each other, and with another process."""
    program = """
import asyncio, sys, aiomultistack

def answering(name):
    async def serve(reader, writer):
        await reader.readline()
        writer.write(name + b"\\n")
        writer.close()
    return serve

async def main():
    port = int(sys.argv[1])
    servers = [await asyncio.start_server(answering(name), None, port, reuse_port=True) for name in (b"one", b"two")]
    print("serving", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        servers.pop().close()
        print("closed", flush=True)

aiomultistack.run(main())
"""
    port = free_port()
    server = shared.client(program, str(port))
    server.expect("serving")
    client = connecting(shared)
    assert {client.ask(f"{HOST4} {port} hello") for _ in range(40)} == {"one", "two"}
    other = serving(shared, port, "reuse_port")
    assert {client.ask(f"{HOST4} {port} hello") for _ in range(60)} == {"one", "two", f"HELLO {other.pid}"}
    assert server.ask("close one of them") == "closed"
    assert {client.ask(f"{HOST4} {port} hello") for _ in range(40)} == {"one", f"HELLO {other.pid}"}


def test_uvicorn_s_workers(shared: Switch) -> None:
    """They are started anew, not forked, and are given the parent's socket."""
    uvicorn = pytest.importorskip("uvicorn")
    if tuple(int(part) for part in uvicorn.__version__.split(".")[:2]) < (0, 36):
        pytest.skip("this uvicorn takes no loop factory")
    program = """
import asyncio, sys, aiomultistack
async def main():
    seen = set()
    for _ in range(int(sys.argv[2])):
        reader, writer = await asyncio.wait_for(asyncio.open_connection("10.77.0.2", int(sys.argv[1])), 20)
        writer.write(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        seen.add(int((await reader.read()).split()[-1]))
        writer.close()
    print(*sorted(seen), flush=True)
aiomultistack.run(main())
"""
    port = free_port()
    server = Process(
        [sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT / "examples" / "one_address"), "asgi_app:app",
         "--loop", "aiomultistack:new_event_loop", "--workers", "2", "--host", "0.0.0.0", "--port", str(port)],
        environment={"AIOMULTISTACK_PORT": f"switch:{shared.path}", "AIOMULTISTACK_CONTROL": "0"},
    )  # fmt: skip

    def workers() -> set[int]:
        return {row["pid"] for row in shared.describe()["tuples"] if row["port"] == port}

    try:
        until(lambda: len(workers()) == 2, "the workers' start")
        client = shared.client(program, str(port), "40")
        assert {int(word) for word in client.line().split()} == workers()
        assert server.kill(signal.SIGTERM) in (0, -signal.SIGTERM)
        until(lambda: not workers(), "the workers' end")
    finally:
        for worker in workers():
            os.kill(worker, signal.SIGKILL)
        server.close()
