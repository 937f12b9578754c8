"""CPython's own tests of asyncio on our loop: see suite.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("suite.py")
TIMEOUT = 300  # seconds


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT + 10)
@pytest.mark.parametrize("tap", [False, True], ids=["loopback", "tap"])
def test_cpython_s_own_tests(tap: bool) -> None:
    if tap and (os.geteuid() != 0 or not os.path.exists("/dev/net/tun")):
        pytest.skip("needs root and /dev/net/tun")
    if importlib.util.find_spec("test.test_asyncio") is None:
        pytest.skip("this Python comes without its tests (Debian has them in libpython3-testsuite)")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOMULTISTACK_")}
    done = subprocess.run(
        [sys.executable, str(SUITE), *["--tap"] * tap], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=TIMEOUT, env=environment, check=False,
    )  # fmt: skip
    print(done.stdout[-20_000:])
    assert done.returncode == 0, done.stdout.splitlines()[-1]
