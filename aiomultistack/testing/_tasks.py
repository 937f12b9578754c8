"""Where tasks wait, in words."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["describe_tasks"]

_LIBRARIES = (Path(asyncio.__file__).parent, Path(__file__).parent, Path(__file__).parent.parent)


def _frames(awaitable: Any) -> list[tuple[FrameType, CodeType]]:
    """The frames of a suspended coroutine, from the outermost to the one that waits."""
    found = []
    while awaitable is not None:
        for prefix in ("cr", "gi", "ag"):
            frame = getattr(awaitable, f"{prefix}_frame", None)
            if frame is not None:
                found.append((frame, getattr(awaitable, f"{prefix}_code")))
                awaitable = getattr(awaitable, f"{prefix}_await" if prefix != "gi" else "gi_yieldfrom", None)
                break
        else:
            break
    return found


def _short(filename: str) -> str:
    path = Path(filename)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(Path(*path.parts[-2:]))


def _is_library(filename: str) -> bool:
    """True for asyncio's own files and ours: the interesting line is the one that called them."""
    return filename.startswith("<") or Path(filename).parent in _LIBRARIES


def _where(task: asyncio.Task[Any]) -> list[str]:
    frames = _frames(task.get_coro())
    if not frames:
        return ["      (not started, or running)"]
    own = [pair for pair in frames if not _is_library(pair[0].f_code.co_filename)]
    lines = []
    for frame, code in own[-3:] or frames[-1:]:
        text = linecache.getline(code.co_filename, frame.f_lineno).strip()
        name = getattr(code, "co_qualname", code.co_name)
        lines.append(f"      {_short(code.co_filename)}:{frame.f_lineno} in {name}: {text}")
    return lines


def describe_tasks(tasks: Iterable[tuple[str, asyncio.Task[Any]]]) -> list[str]:
    """Lines that say where each task waits; each comes with the name of its host."""
    lines = []
    for host, task in tasks:
        coro = task.get_coro()
        name = getattr(coro, "__qualname__", repr(coro))
        lines.append(f"  {host}: task {task.get_name()} ({name}) waits at")
        lines += _where(task)
    return lines
