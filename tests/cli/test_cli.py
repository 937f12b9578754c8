"""The `aiomultistack` command as its users meet it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiomultistack import _control, _network
from aiomultistack._cli import cli

ROOT = Path(__file__).parents[2]
MEM = ["--port=mem:test", "--addresses=10.9.0.2/24,fd09::2/64"]


def invoke(*arguments: str) -> Result:
    """Runs the command in this process."""
    return CliRunner().invoke(cli, arguments, prog_name="aiomultistack")


def command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own, without configuration of ours in the environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")}
    return subprocess.run(
        [sys.executable, "-m", "aiomultistack", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def script(folder: Path, text: str, name: str = "program.py") -> str:
    """Writes a program."""
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_full_disk() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "aiomultistack", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "aiomultistack: the output cannot be written: No space left on device\n"


# ---- help and mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run", "demo", "ss", "network", "stats", "top", "bench"]),
        (["run"], ["--port", "--addresses", "--gateway", "--host-addresses", "--config", "-m"]),
        (["demo"], ["--mem", "--json", "root"]),
        (["ss"], ["--listening", "--info", "--json", "PID"]),
        (["stats"], ["--json", "PID"]),
        (["network"], ["--json", "PID", "routers"]),
        (["bench"], ["http", "idle"]),
        (["bench", "http"], ["--sizes", "--modes", "--flavours", "--rounds", "wrk"]),
        (["bench", "idle"], ["--connections"]),
    ],
)
def test_help(arguments: list[str], words: list[str]) -> None:
    result = invoke(*arguments, "--help")
    assert result.exit_code == 0
    for word in words:
        assert word in result.output
    assert all(len(line) <= 100 for line in result.output.splitlines())


def test_version() -> None:
    assert re.fullmatch(r"aiomultistack \d+\.\d+\S*\n", invoke("--version").output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", *MEM], "Give a script, or -m and a module."),
        (["run", *MEM, "/no/such.py"], "There is no script '/no/such.py'."),
        (["run", "--set", "mtu", "x.py"], "'mtu' is not FIELD=VALUE"),
        (["run", "--port=foo:bar", "--addresses=10.0.0.1/8", "x.py"], "foo"),
        (["run", "--port=mem:x", "--addresses=10.0.0.256/8", "x.py"], "10.0.0.256/8"),
        (["run", *MEM, "--set", "mtu=12", "x.py"], "mtu 12 is too small"),
        (["run", *MEM, "--set", "mtu=much", "x.py"], "'mtu=much' cannot be read: it is not a whole number."),
        (["run", *MEM, "--set", "ephemeral_ports=9-x", "x.py"], "it is not a range such as 32768-60999."),
        (["run", *MEM, "--set", "host-stak=also", "x.py"], "no field 'host_stak'; did you mean 'host_stack'?"),
        (["run", *MEM, "-m"], "Option '-m' requires an argument."),
        (["run", "--port"], "Option '--port' requires an argument."),
        (["run", "--nonsense", "x.py"], "--nonsense"),
        (["run", "--config", "/no/such.toml", "x.py"], "/no/such.toml"),
        (["bench", "http", "--sizes", "1,x"], "1,4,32"),
        (["bench", "http", "--sizes", "0"], "from 1 to 65536"),
        (["bench", "http", "--modes", "close,shut"], "'shut' is none of keep-alive, close."),
        (["bench", "http", "--flavours", ","], "name at least one of multistack, uvloop, asyncio"),
        (["bench", "http", "--rounds", "0"], "0"),
        (["bench", "loop", "--kinds", "echo-7"], "--kinds: 'echo-7' is none of echo-1,"),
        (["bench", "loop", "--flavours", ","], "name at least one of multistack"),
        (["stats", "--switch", "-w", "-1"], "-1.0 is not in the range x>=0.01"),
        (["capture", "--seconds", "-1"], "-1.0 is not in the range x>=0"),
        (["ss", "mine"], "mine"),
        (["nonsense"], "nonsense"),
    ],
)
def test_mistakes(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AIOMULTISTACK_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # options become variables; not those of this process
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_run_without_configuration(tmp_path: Path) -> None:
    result = command("run", script(tmp_path, ""), cwd=tmp_path)
    assert result.returncode == 2
    assert "AIOMULTISTACK_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_bench_http_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = invoke("bench", "http")
    assert result.exit_code == 1
    assert "needs root; try: sudo" in result.output


# ---- run -------------------------------------------------------------------------------------------------


def test_errors_of_ports_have_no_number(tmp_path: Path) -> None:
    result = command("run", "--port=switch:/no/such", script(tmp_path, "import asyncio; asyncio.new_event_loop()"))
    assert result.returncode == 1
    assert result.stderr.startswith("aiomultistack: switch:/no/such: no switch answers")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (["-m", "no_such_module"], "aiomultistack: No module named no_such_module\n"),
        (["."], "aiomultistack: can't find '__main__' module in '.'\n"),
    ],
)
def test_run_what_is_not_there(what: list[str], message: str, tmp_path: Path) -> None:
    result = command("run", *MEM, *what, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, message)


@pytest.mark.parametrize("host", ["10.9.0.2", "fd09::2"])
def test_run_lets_programs_bind_the_stack_s_addresses(host: str, tmp_path: Path) -> None:
    """As sanic and hypercorn do: a socket of the kernel's, which then is served by the loop."""
    path = script(
        tmp_path,
        f"""
        import asyncio, socket

        async def main():
            with socket.socket(socket.{"AF_INET6" if ":" in host else "AF_INET"}) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(({host!r}, 80))
                server = await asyncio.start_server(lambda reader, writer: writer.close(), sock=sock)
                reader, writer = await asyncio.open_connection({host!r}, 80)
                print(type(server.sockets[0]).__name__, writer.get_extra_info("peername")[:2], await reader.read())
                writer.close()
            try:
                socket.socket().bind(("10.9.0.3", 80))
            except OSError as error:
                print(error.strerror)

        asyncio.run(main())
        """,
    )
    result = command("run", *MEM, path)
    assert result.stdout == f"StackSocket ('{host}', 80) b''\nCannot assign requested address\n", result.stderr


def test_run_has_a_policy_that_is_uvloop_s(tmp_path: Path) -> None:
    """As sanic asks."""
    pytest.importorskip("uvloop")
    path = script(
        tmp_path,
        """
        import asyncio, warnings
        import uvloop

        warnings.simplefilter("ignore", DeprecationWarning)
        print(isinstance(asyncio.get_event_loop_policy(), uvloop.EventLoopPolicy))
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        loop = asyncio.new_event_loop()
        print(loop.multistack.config.port)
        loop.close()
        """,
    )
    result = command("run", *MEM, path)
    assert result.stdout == "True\nmem:test\n", result.stderr


def test_run_leaves_exceptions_to_the_program_s_hook(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import sys, traceback

        def hook(kind, error, trace):
            print(kind.__name__, error, *(frame.name for frame in traceback.extract_tb(trace)))

        sys.excepthook = hook
        1 / 0
        """,
    )
    result = command("run", *MEM, path)
    assert (result.returncode, result.stdout, result.stderr) == (1, "ZeroDivisionError division by zero <module>\n", "")


def test_run_script_as_python_would(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio, json, sys
        import neighbour

        async def main():
            server = await asyncio.start_server(lambda reader, writer: None, "10.9.0.2", 80)
            loop = asyncio.get_running_loop()
            name = server.sockets[0].getsockname()
            server.close()
            return [type(loop).__mro__[1].__module__, name, loop.multistack_config.mtu]

        print(json.dumps([__name__, sys.argv, sys.path[0], neighbour.here, asyncio.run(main())]))
        """,
    )
    script(tmp_path, "here = 'imported'", "neighbour.py")
    result = command("run", *MEM, "--set", "mtu=1400", path, "--port", "-x")
    assert result.stderr == ""
    assert json.loads(result.stdout) == [
        "__main__", [path, "--port", "-x"], str(tmp_path.resolve()), "imported",
        ["aiomultistack._loop", ["10.9.0.2", 80], 1400],
    ]  # fmt: skip


def test_run_module(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    script(package, "", "__init__.py")
    script(package, "import sys; print(__name__, __package__, sys.argv[1:], sys.path[0])", "__main__.py")
    result = command("run", *MEM, "-m", "package", "-m", "--help", cwd=tmp_path)
    assert result.stderr == ""
    assert result.stdout == f"__main__ package ['-m', '--help'] {tmp_path.resolve()}\n"


def test_run_program_that_asks_for_uvloop(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    path = script(
        tmp_path,
        """
        import asyncio, uvloop

        async def main():
            print(asyncio.get_running_loop().multistack_config.port)

        uvloop.run(main())
        loop = uvloop.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
        """,
    )
    result = command("run", *MEM, path)
    assert result.stderr == ""
    assert result.stdout == "mem:test\nmem:test\n"


@pytest.mark.parametrize("source", ["environment", "file", "named file"])
def test_run_takes_its_configuration_from(source: str, tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio

        async def main():
            print(asyncio.get_running_loop().multistack_config.port)

        asyncio.run(main())
        """,
    )
    toml = 'port = "mem:file"\naddresses = ["10.9.0.2/24"]\n'
    options: list[str] = []
    environment = {}
    if source == "environment":
        environment = {"AIOMULTISTACK_PORT": "mem:file", "AIOMULTISTACK_ADDRESSES": "10.9.0.2/24"}
    elif source == "file":
        (tmp_path / "aiomultistack.toml").write_text(toml)
    else:
        (tmp_path / "other.toml").write_text(toml)
        options = ["--config", "other.toml"]
    result = command("run", *options, path, cwd=tmp_path, **environment)
    assert (result.stdout, result.stderr) == ("mem:file\n", "")
    result = command("run", *options, "--port", "mem:option", path, cwd=tmp_path, **environment)
    assert (result.stdout, result.stderr) == ("mem:option\n", "")


def test_run_passes_on_exit_status_and_output(tmp_path: Path) -> None:
    result = command("run", *MEM, script(tmp_path, "import sys; print('out'); sys.exit(7)"))
    assert (result.returncode, result.stdout, result.stderr) == (7, "out\n", "")


def test_run_shows_the_programs_own_traceback_only(tmp_path: Path) -> None:
    path = script(tmp_path, "def f():\n    raise ValueError('mine')\n\nf()\n")
    result = command("run", *MEM, path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "ValueError: mine"
    files = re.findall(r'File "(.*?)"', result.stderr)
    assert files == [path, path]


def test_run_interrupted_program(tmp_path: Path) -> None:
    result = command("run", *MEM, script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGINT)"))
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "KeyboardInterrupt"


def test_run_explains_a_port_that_cannot_be_opened(tmp_path: Path) -> None:
    path = script(tmp_path, "import asyncio; asyncio.run(asyncio.sleep(0))")
    result = command("run", "--port=tap:a-name-that-is-too-long", "--addresses=10.9.0.2/24", path)
    assert result.returncode != 0
    assert "a-name-that-is-too-long" in result.stderr
    assert "Traceback" not in result.stderr


# ---- ss and stats ----------------------------------------------------------------------------------------

SERVER = """
    import asyncio, sys

    async def serve(reader, writer):
        writer.write(await reader.readexactly(5))
        await reader.read()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, ["10.9.0.2", "fd09::2"], 80)
        reader, writer = await asyncio.open_connection("10.9.0.2", 80)
        writer.write(b"hello")
        await reader.readexactly(5)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        writer.close()
        server.close()

    asyncio.run(main())
"""


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A process with two listeners and a connection to itself."""
    path = script(tmp_path, SERVER)
    process = subprocess.Popen(
        [sys.executable, "-m", "aiomultistack", "run", *MEM, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()
    assert _control.find(process.pid) == []


def test_ss_and_stats(server: subprocess.Popen[bytes]) -> None:
    pid = str(server.pid)
    header, *lines = invoke("ss", pid).stdout.splitlines()
    assert header.split() == [
        "Netid", "State", "Recv-Q", "Send-Q", "Local", "Address:Port", "Peer", "Address:Port", "Process",
    ]  # fmt: skip
    assert len(lines) == 2
    assert {line.split()[1] for line in lines} == {"ESTAB"}
    assert all(f"pid={pid}" in line for line in lines)

    header, *lines = invoke("ss", "-tln", pid).stdout.splitlines()
    assert [line.split()[4:6] for line in lines] == [["10.9.0.2:80", "*:*"], ["[fd09::2]:80", "*:*"]]
    assert invoke("ss", "-u", pid).stdout.count("\n") == 1
    assert invoke("ss", "-a", pid).stdout.count("\n") == 5

    lines = invoke("ss", "-i", pid).stdout.splitlines()
    assert len(lines) == 5
    assert "cwnd:" in lines[2]
    assert "bytes_received:5" in lines[2]

    (loop,) = json.loads(invoke("ss", "-a", "--json", pid).stdout)
    assert loop["pid"] == server.pid
    assert sorted(each["state_name"] for each in loop["endpoints"]) == ["ESTAB", "ESTAB", "LISTEN", "LISTEN"]

    assert f"{pid}, loop 0" in invoke("stats", pid).stdout
    (loop,) = json.loads(invoke("stats", "--json", pid).stdout)
    counters = loop["counters"]
    assert counters
    assert all(isinstance(value, int) for value in counters.values())
    assert invoke("stats", "-a", pid).stdout.count("\n") >= len(counters)
    assert any(each["pid"] == server.pid for each in json.loads(invoke("ss", "--json").stdout))

    title, header, *lines = invoke("network", pid).stdout.splitlines()
    assert f"{pid}, loop 0" in title
    assert header.split() == ["What", "Address", "Via", "State", "Valid", "Preferred"]
    assert ["address", "10.9.0.2/24", "configured", "forever", "forever"] in [line.split() for line in lines]
    (loop,) = json.loads(invoke("network", "--json", pid).stdout)
    assert {"address": "fd09::2", "valid": None}.items() <= loop["network"][1].items()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "forever"), (0.4, "0s"), (59.9, "59s"), (60, "1m 0s"), (5400, "1h 30m"), (604799, "6d 23h")],
)
def test_lifetimes_for_people(seconds: float | None, text: str) -> None:
    assert _network.duration(seconds) == text


def test_what_is_learnt_for_people() -> None:
    info: dict[str, Any] = {
        "kind": "router", "address": "fe80::1", "prefix_len": 128, "flags": ["learned", "current"],
        "preference": "high", "via": None, "valid": 1800.0, "preferred": 1800.0,
    }  # fmt: skip
    assert _network.row(info) == ("router", "fe80::1", "", "current, preference high", "30m 0s", "")
    address = {**info, "kind": "address", "address": "2001:db8::5", "prefix_len": 64,
               "flags": ["learned", "deprecated"], "preference": None, "preferred": 0.0}  # fmt: skip
    assert _network.row(address) == ("address", "2001:db8::5/64", "", "deprecated", "30m 0s", "0s")
    gateway = {**info, "address": "10.0.0.1", "prefix_len": 32, "flags": ["current"], "preference": "medium"}
    gateway["valid"] = None
    assert _network.row(gateway) == ("router", "10.0.0.1", "", "current, configured", "forever", "")


def test_ss_of_a_process_without_loops() -> None:
    result = invoke("ss", str(os.getppid()))
    assert result.exit_code == 1
    assert f"process {os.getppid()} has no aiomultistack loop" in result.output


@pytest.mark.parametrize("name", ["ss", "stats", "network"])
def test_nothing_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_control, "find", lambda pid=None: [])
    result = invoke(name)
    assert result.exit_code == 0
    assert "no running process" in result.stderr
    assert json.loads(invoke(name, "--json").stdout) == []


def test_control_can_be_turned_off(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        import asyncio, os
        from aiomultistack import _control

        async def main():
            await asyncio.sleep(0)
            print(_control.find(os.getpid()))

        asyncio.run(main())
        """,
    )
    result = command("run", *MEM, path, AIOMULTISTACK_CONTROL="0")
    assert (result.stdout, result.stderr) == ("[]\n", "")
