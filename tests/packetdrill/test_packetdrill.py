"""Our own packetdrill scripts, where packetdrill is at hand.

``PACKETDRILL`` names its source directory (.../gtests/net/packetdrill), with the program built in it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .run import VARIANTS, build, run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.pkt"))
SOURCE = os.environ.get("PACKETDRILL", "")


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """packetdrill's directory, and the directory with the adapter, built once."""
    if not SOURCE:
        pytest.skip("PACKETDRILL is not set")
    if os.getuid():
        pytest.skip("network namespaces need root")
    out = tmp_path_factory.mktemp("packetdrill")
    build(Path(SOURCE), out)
    return Path(SOURCE), out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(adapter: tuple[Path, Path], script: Path, variant: str) -> None:
    result = run_script(*adapter, script, variant)
    assert result.passed, result.output
