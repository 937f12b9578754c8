"""Loop factories: whoever makes loops makes ours."""

from __future__ import annotations

import asyncio
import sys
import unittest
import warnings
from typing import Any

import pytest

import aiomultistack

CONFIG = aiomultistack.Config("mem:runners", ["127.0.0.1/8"], control=False)


def factory() -> aiomultistack.Loop:
    return aiomultistack.new_event_loop(CONFIG)


async def work() -> str:
    """Talks to itself over the user-space stack."""
    loop: Any = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"echo")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert loop.multistack.counters()["stack.tcp_active_open"] == 1
    return answer.decode()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.Runner is new in Python 3.11")
def test_runner() -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(work()) == "echo"


def test_isolated_asyncio_test_case() -> None:
    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = staticmethod(factory)  # Python 3.13's; older ones ask the policy

        async def test_it(self) -> None:
            assert await work() == "echo"

    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()
        asyncio.set_event_loop_policy(aiomultistack.EventLoopPolicy(CONFIG))
        try:
            Case("test_it").run(result)
        finally:
            asyncio.set_event_loop_policy(before)
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.errors


def test_uvicorn_takes_the_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    config = uvicorn.Config("app:app", loop="aiomultistack:new_event_loop")
    if not hasattr(config, "get_loop_factory"):
        pytest.skip("uvicorn takes loop factories since 0.36")
    monkeypatch.setenv("AIOMULTISTACK_PORT", CONFIG.port)
    monkeypatch.setenv("AIOMULTISTACK_ADDRESSES", ",".join(CONFIG.addresses))
    monkeypatch.setenv("AIOMULTISTACK_CONTROL", "0")
    loop = config.get_loop_factory()()
    try:
        assert loop.run_until_complete(work()) == "echo"
    finally:
        loop.close()
