"""What `bench engine` measures is what it says: every segment arrives, and many connections stay small."""

from __future__ import annotations

import errno
import json

import pytest
from click.testing import CliRunner

from aiomultistack import _bench_engine, _cli


@pytest.mark.parametrize(
    ("kind", "size"),
    [("data", 1460), ("train", 1460), ("sack", 1460), ("ack", 2 * 1460), ("connection", 0), ("transaction", 100)],
)
@pytest.mark.parametrize("connections", [1, 63, 1000])
def test_every_operation_is_carried_out(kind: str, size: int, connections: int) -> None:
    run = _bench_engine.run(kind, connections, 3000)
    assert run.operations + run.interrupted >= 3000
    assert run.bytes == run.operations * size
    assert run.endpoints == (1 if kind in _bench_engine.PASSING else connections + 1)
    assert run.nanoseconds > 0


@pytest.mark.parametrize("kind", list(_bench_engine.KINDS))
def test_beside_idle_connections(kind: str) -> None:
    run = _bench_engine.run(kind, 10, 1000, idle=990)
    assert run.operations + run.interrupted >= 1000
    assert run.endpoints == (991 if kind in _bench_engine.PASSING else 1001)
    assert run.bytes > 0 or kind == "connection"


def test_a_hundred_thousand_connections() -> None:
    run = _bench_engine.run("data", 100_000, 200_000)
    assert run.endpoints == 100_001
    assert run.bytes == run.operations * 1460
    assert run.memory <= 1024 * run.connections


@pytest.mark.parametrize("connections", [10_000, 32_769])
def test_an_idle_connection_takes_a_kilobyte(connections: int) -> None:
    """Tables included, also where they have just been doubled."""
    assert _bench_engine.run("data", connections, 1).memory <= 1024 * connections


@pytest.mark.parametrize(("connections", "idle"), [(0, 0), (200_001, 0), (1, 200_000), (0, 10)])
def test_impossible_numbers_are_refused(connections: int, idle: int) -> None:
    with pytest.raises(OSError) as caught:
        _bench_engine.run("data", connections, 1, idle)
    assert caught.value.errno == errno.EINVAL


def test_command() -> None:
    arguments = ["bench", "engine", "--connections", "20,30", "--idle", "40"]
    arguments += ["--rounds", "1", "--operations", "1000"]
    shown = CliRunner().invoke(_cli.cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "data in order" in shown.output
    assert "10 connections beside" in shown.output
    runs = json.loads(CliRunner().invoke(_cli.cli, [*arguments, "--json"]).output)["runs"]
    assert len(runs) == 6 * 4
