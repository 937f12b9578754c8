"""What fuzzing has found, once more: corpora and past crashes through each target, with AddressSanitizer and UBSan."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.c"))


def test_each_target_has_a_corpus() -> None:
    assert sorted(path.name for path in (HERE / "corpus").iterdir()) == TARGETS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", TARGETS)
def test_replay(target: str) -> None:
    if not shutil.which("make") or not shutil.which("cc"):
        pytest.skip("a C compiler and make build the targets")
    inputs = list((HERE / "corpus" / target).iterdir())
    run = subprocess.run(
        ["make", "-s", "-C", str(HERE), "replay", f"TARGETS={target}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=590,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{len(inputs)} inputs" in run.stdout
