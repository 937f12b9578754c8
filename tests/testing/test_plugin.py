"""The pytest plugin and the unittest class, seen from outside."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from aiomultistack.testing import Network

EXAMPLE = Path(__file__).parents[2] / "examples" / "virtual_network"

COMMON = (
    "-p", "pytest_aiomultistack", "-p", "no:cacheprovider", "-p", "no:hypothesispytest",
    "-o", "asyncio_default_fixture_loop_scope=function",  # or pytest-asyncio warns
)  # fmt: skip

PROGRAM = '''
import asyncio
import pytest

async def shout(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()

async def serve():
    async with await asyncio.start_server(shout, None, 7) as server:
        await server.serve_forever()

async def ask():
    reader, writer = await asyncio.open_connection("server", 7)
    writer.write(b"hello\\\\n")
    answer = await reader.read()
    writer.close()
    return answer
'''.replace("\\\\", "\\")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that run elsewhere find this tree, installed or not."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture
def run(pytester: pytest.Pytester) -> object:
    """Runs pytest on a file of the given tests."""

    def run(tests: str, *options: str, apart: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_it=PROGRAM + tests)
        if apart:
            return pytester.runpytest_subprocess(*COMMON, *options)
        quiet = "-W", "error", "-W", "ignore::pytest.PytestAssertRewriteWarning"  # imported already
        return pytester.runpytest_inprocess(*COMMON, *quiet, *options)

    return run


MODES = pytest.mark.parametrize("mode", ["strict", "auto"])


@MODES
def test_coroutines_as_tests(run, mode: str) -> None:  # type: ignore[no-untyped-def]
    result = run(
        """
async def test_function(virtual_network):
    virtual_network.host("server").start(serve())
    assert await ask() == b"HELLO\\n"
    assert asyncio.get_running_loop() is virtual_network.loop

class TestGroup:
    async def test_method(self, virtual_network):
        assert isinstance(self, TestGroup)
        await asyncio.sleep(1000)
        assert virtual_network.time() == 1000

def test_plain(virtual_network):
    virtual_network.host("server").start(serve())
    assert virtual_network.run(ask()) == b"HELLO\\n"

@pytest.mark.virtual_network(delay=2.0, seed=77)
async def test_options(virtual_network):
    assert virtual_network.seed == 77
    virtual_network.host("server").start(serve())
    await ask()
    assert virtual_network.time() >= 8

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.asyncio
async def test_marked_for_another_plugin(virtual_network, number):
    assert asyncio.get_running_loop() is virtual_network.loop
""",
        "-o", f"asyncio_mode={mode}",
    )  # fmt: skip
    result.assert_outcomes(passed=6)


def test_asynchronous_fixtures(run) -> None:  # type: ignore[no-untyped-def]
    result = run(
        """
@pytest.fixture
async def server(virtual_network):
    with virtual_network.host("server"):
        server = await asyncio.start_server(shout, None, 7)
    yield server
    assert asyncio.get_running_loop() is virtual_network.loop
    server.close()
    print("closed the server")

@pytest.fixture
async def answer(virtual_network, server):
    return await ask()

async def test_it(virtual_network, answer):
    assert answer == b"HELLO\\n"
""",
        "-s", "-o", "asyncio_mode=strict",
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*closed the server*"])


FAILING = """
async def test_it(virtual_network):
    virtual_network.host("server").start(serve())
    virtual_network.links(loss=0.2)
    await ask()
    assert False
"""


def test_a_failure_shows_its_seed_and_its_frames(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run(FAILING, "--network-seed=41", f"--network-captures={tmp_path}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*virtual network: seed 41*", "*--network-seed=41*", "capture: *.pcapng", "*test > server*SYN*"]
    )
    (capture,) = tmp_path.iterdir()
    assert capture.read_bytes().startswith(b"\x0a\x0d\x0d\x0a")


def test_seeds_and_runs(run) -> None:  # type: ignore[no-untyped-def]
    seeds = """
async def test_it(virtual_network):
    print("seed", virtual_network.seed)
"""

    def used(*options: str) -> list[str]:
        result = run(seeds, "-s", *options)
        return [line.partition("seed ")[2].partition(" ")[0] for line in result.outlines if "seed " in line]

    assert used() == used()
    assert used("--network-seed=5") == ["5"]
    assert used("--network-seed=5", "--network-runs=3") == ["5", "6", "7"]
    (first,) = used()
    assert used("--network-runs=2") == [first, str(int(first) + 1)]
    assert used("--network-seed=random") != used("--network-seed=random")
    assert run(seeds, "--network-seed=x").ret == pytest.ExitCode.USAGE_ERROR


def test_a_run_without_networks_imports_nothing(run) -> None:  # type: ignore[no-untyped-def]
    result = run(
        """
import sys

def test_it():
    assert "pytest_aiomultistack" in sys.modules
    assert "aiomultistack" not in sys.modules
""",
        apart=True,
    )
    result.assert_outcomes(passed=1)


def test_unittest(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(
        test_case=PROGRAM
        + """
from aiomultistack.testing import NetworkTestCase

class Case(NetworkTestCase):
    network_options = {"delay": 1.0}

    async def asyncSetUp(self):
        self.network.host("server").start(serve())

    async def test_answer(self):
        self.assertEqual(await ask(), b"HELLO\\n")
        self.assertGreaterEqual(self.network.time(), 4.0)

    async def test_seed(self):
        await asyncio.sleep(5)
        self.assertEqual(self.network.time(), 5.0)
"""
    )
    command = [sys.executable, "-W", "error", "-m", "unittest", path.stem]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def test_runner() -> None:
    """`asyncio.Runner` takes a network's loop."""
    if sys.version_info < (3, 11):
        pytest.skip("asyncio.Runner came with Python 3.11")
    network = Network(3)
    with asyncio.Runner(loop_factory=network.loop_factory) as runner:
        runner.run(asyncio.sleep(3600 - 1))
    assert network.time() == 3599
    assert network.loop.is_closed()


def test_the_example(pytester: pytest.Pytester) -> None:
    """The naive client fails its test, which says why; the repaired one passes."""
    options = *COMMON, "--rootdir", str(EXAMPLE), str(EXAMPLE)
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=4, xfailed=1)
    result = pytester.runpytest_subprocess("--runxfail", *options)
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(["*nothing is runnable*", "*client.py:*in naive_fetch: * await reader.readline()*"])
