"""The demo: what it does must be right to the byte, and it must leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiomultistack import _control, _netns

ROOT = pytest.mark.skipif(_netns.why_not() is not None, reason="needs root and /dev/net/tun")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the demo."""
    return subprocess.run(
        [sys.executable, "-m", "aiomultistack", "demo", "--requests=200", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        check=False,
    )


def links() -> list[str]:
    """The network links of this namespace."""
    return sorted(line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:])


@pytest.mark.parametrize("mode", [pytest.param("tap", marks=ROOT), "mem"])
def test_demo(mode: str) -> None:
    before = links()
    completed = demo("--json", *(["--mem"] if mode == "mem" else []))
    assert completed.stderr == ""
    assert completed.returncode == 0
    report: dict[str, Any] = json.loads(completed.stdout)
    assert report["ok"] is True
    assert report["mode"] == mode
    assert report["answer"]["loop"].startswith("aiomultistack.")
    assert report["answer"]["server"][0] == "10.77.0.2"
    assert {fetch["route"] for fetch in report["fetches"]} == {
        "HTTP, IPv4", "HTTP, IPv6", "HTTPS, IPv4", "HTTPS, IPv6",
    }  # fmt: skip
    assert sum(fetch["requests"] for fetch in report["fetches"]) == 4 * (6 + 200)
    states = [each["state_name"] for each in report["endpoints"]]
    assert states.count("LISTEN") == 4
    assert states.count("ESTAB") >= 200
    assert report["kernel_sockets"] == (0 if mode == "tap" else None)
    assert [(item["server"], item["closing"]) for item in report["measured"]] == [
        ("aiomultistack", False), ("kernel", False), ("aiomultistack", True), ("kernel", True),
    ]  # fmt: skip
    assert all(item["requests"] == 200 and item["cpu_us"] >= 0 for item in report["measured"])
    assert links() == before


def test_demo_for_people() -> None:
    completed = demo("--mem")
    assert completed.stderr == ""
    for words in ("aiohttp", "LISTEN", "ESTAB", "CPU/request", "right to the byte", "user-space TCP"):
        assert words in completed.stdout
    assert "\x1b" not in completed.stdout
    assert "…" not in completed.stdout


@pytest.mark.parametrize("mode", [pytest.param("tap", marks=ROOT), "mem"])
def test_interrupted_demo_cleans_up(mode: str) -> None:
    before = links()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiomultistack", "demo", "--requests=1000000", *(["--mem"] if mode == "mem" else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    children = _wait_for_server(process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    assert links() == before


def _wait_for_server(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Waits until the demo's server runs; returns the demo's child processes."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        for pid in [process.pid, *(child.pid for child in children)]:
            if _control.find(pid):
                return children
        time.sleep(0.05)
    raise AssertionError(f"the demo's server did not start: {process.communicate(timeout=5)}")
