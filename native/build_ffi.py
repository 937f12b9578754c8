"""Builds ``aiomultistack._native`` with cffi (out-of-line API mode).

The declarations come from the parts of ``native/include/aiomultistack.h``, between
their two markers: there is no second copy of any signature.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import cffi

NATIVE = Path(__file__).resolve().parent
ROOMS = ("core", "wire", "switch", "stack", "io")
# Files that only one system can build; all others build everywhere.
ONLY_ON = {
    "linux": ("io/*_linux.c", "io/xdp*.c", "io/bpf*.c", "io/netlink.c"),
    "freebsd": ("io/*_freebsd.c",),
}


def declarations() -> str:
    """What cffi reads: the marked section of each part of the public header, in the order of their inclusion."""
    include = NATIVE / "include"
    parts = re.findall(r'^#include "(.+)"$', (include / "aiomultistack.h").read_text(), re.MULTILINE)
    return "".join(section(include / part) for part in parts)


def section(header: Path) -> str:
    """The lines of a header between its markers."""
    _, _, rest = header.read_text().partition("/* CFFI-BEGIN */")
    marked, _, _ = rest.partition("/* CFFI-END */")
    if not marked:
        raise RuntimeError(f"{header.name} has lost its CFFI markers")
    return marked


def sources(platform: str = sys.platform) -> list[str]:
    """All C files of the module for a platform (as in ``sys.platform``), relative to the project's root."""
    others = [pattern for name, patterns in ONLY_ON.items() if not platform.startswith(name) for pattern in patterns]
    files = [path for room in ROOMS for path in (NATIVE / room).glob("*.c")]
    return sorted(
        str(path.relative_to(NATIVE.parent)) for path in files if not any(path.match(pattern) for pattern in others)
    )


ffibuilder = cffi.FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "aiomultistack._native",
    '#include "aiomultistack.h"\n',
    sources=sources(),
    depends=sorted(str(path.relative_to(NATIVE.parent)) for path in NATIVE.rglob("*.h")),
    include_dirs=["native", "native/include"],
    extra_compile_args=["-std=c11", "-O3", "-g1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter",
                        *os.environ.get("AMS_CFLAGS", "").split()],
    extra_link_args=os.environ.get("AMS_LDFLAGS", "").split(),
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
