"""Runs the programs that prove what is relied on of the kernel; see README.md beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = sorted(path for path in (Path(__file__).parent / "linux").glob("*.py") if path.stem != "system")
CANT_TELL = 77


@pytest.mark.root
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="proves behaviour of Linux")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a network namespace")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare (util-linux)")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: str(path.stem))
def test_kernel(program: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == CANT_TELL:
        pytest.skip(done.stdout.strip() or done.stderr.strip())
    assert done.returncode == 0, done.stderr


def test_each_says_what_it_proves() -> None:
    assert len(PROGRAMS) > 12
    for program in PROGRAMS:
        text = program.read_text()
        first, _, rest = text.partition("\n")
        assert first.startswith('"""'), program
        assert first.endswith("."), program
        assert "Relied on by" in rest, program
