"""Test frameworks that make the loops themselves, as docs/testing.md shows: pytest-asyncio and anyio's plugin."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest

import aiomultistack

pytest_asyncio = pytest.importorskip("pytest_asyncio")

#: What the tests in here talk to: the user-space stack of their own loop, at 127.0.0.1.
ECHO = """
    import asyncio

    async def echoes():
        async def serve(reader, writer):
            writer.write(await reader.read())
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"echo")
            writer.write_eof()
            assert await reader.read() == b"echo"
            writer.close()
            await writer.wait_closed()
        return asyncio.get_running_loop().multistack.counters()["stack.tcp_active_open"]
"""

CONFIG = """
    import pytest
    import aiomultistack

    CONFIG = aiomultistack.Config("mem:tests", ["127.0.0.1/8"], control=False)
"""

TESTS = """
    import asyncio
    import pytest
    from echo import echoes

    {mark}
    async def test_one():
        assert await echoes() == 1

    {mark}
    async def test_another_has_a_loop_of_its_own():
        assert await echoes() == 1
"""


def run(pytester: pytest.Pytester, fixtures: str, mark: str, *options: str) -> None:
    """Runs the two tests with a conftest.py."""
    pytester.makepyfile(echo=ECHO)
    pytester.makeconftest(CONFIG + fixtures)
    pytester.makepyfile(TESTS.format(mark=mark))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(aiomultistack.__file__).parents[1]), prepend=os.pathsep)
        pytester.runpytest_subprocess(*options).assert_outcomes(passed=2)


def test_pytest_asyncio_s_event_loop_policy(pytester: pytest.Pytester) -> None:
    fixture = """
    @pytest.fixture(scope="session")
    def event_loop_policy():
        return aiomultistack.EventLoopPolicy(CONFIG)
    """
    run(pytester, fixture, "@pytest.mark.asyncio", "-p", "no:anyio")


@pytest.mark.skipif(
    tuple(map(int, version("pytest-asyncio").split(".")[:2])) < (1, 4), reason="loop factories are pytest-asyncio 1.4's"
)
def test_pytest_asyncio_s_loop_factories(pytester: pytest.Pytester) -> None:
    hook = """
    import functools

    def pytest_asyncio_loop_factories(config, item):
        return {"multistack": functools.partial(aiomultistack.new_event_loop, CONFIG)}
    """
    run(pytester, hook, "@pytest.mark.asyncio", "-p", "no:anyio")


def test_anyio_s_plugin(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    fixture = """
    import functools

    @pytest.fixture
    def anyio_backend():
        return "asyncio", {"loop_factory": functools.partial(aiomultistack.new_event_loop, CONFIG)}
    """
    run(pytester, fixture, "@pytest.mark.anyio", "-p", "no:asyncio")
