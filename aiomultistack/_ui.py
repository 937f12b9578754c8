"""What all commands share in front of people: consoles, progress lines, numbers, polite failures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Results go to standard output, everything else to standard error.  Brackets are brackets: processes and clients of a
#: switch choose their names themselves.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


class Failure(click.ClickException):
    """Ends a command with a sentence for people and exit status 1."""

    def show(self, file: Any = None) -> None:
        """Prints the sentence on standard error."""
        colour = "red" if err.is_terminal else None
        click.secho(f"aiomultistack: {self.format_message()}", file=file or sys.stderr, fg=colour)


def fail(message: str) -> NoReturn:
    """Ends the command; `message` says what is wrong and what to do about it."""
    raise Failure(message)


def explain(error: Exception) -> str:
    """What an exception of ours says, without the number that `str` puts before an OSError's words."""
    return str(getattr(error, "strerror", None) or error)


def wide(table: Any) -> None:
    """Prints a table on standard output, its title in one line; where that is no terminal, with nothing cut off."""
    console = out if out.is_terminal else Console(highlight=False, markup=False, width=240)
    title, table.title = table.title, None
    if title:
        console.print(title, soft_wrap=True)
    console.print(table)


def invocation() -> str:
    """How this command was called, for hints that can be pasted."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return f"{sys.executable} -m aiomultistack"
    return os.path.abspath(sys.argv[0])


def emit_json(value: object) -> None:
    """Prints `value` as indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2))


class Steps:
    """A progress line on standard error; shows itself on terminals only."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def say(self, text: str, advance: float = 0) -> None:
        """Names what is going on now, and counts `advance` steps as done."""
        self._progress.update(self._task, description=text, advance=advance)


@contextmanager
def steps(text: str, total: float | None = None) -> Iterator[Steps]:
    """Shows a progress line until the block ends.

    total: how many steps there are; None shows a spinner and the time gone by.
    """
    columns = [SpinnerColumn(), TextColumn("{task.description}")]
    if total is not None:
        columns += [BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn()]
    else:
        columns += [TimeElapsedColumn()]
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield Steps(progress, progress.add_task(text, total=total))


def microseconds(value: float | None) -> str:
    """A duration given in µs, with a unit that suits it: `870 µs`, `3.42 ms`, `1.20 s`."""
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.0f} µs" if value >= 100 else f"{value:.1f} µs"
    if value < 1_000_000:
        return f"{value / 1000:.2f} ms"
    return f"{value / 1_000_000:.2f} s"


def size(number: float) -> str:
    """A number of bytes for people: `512 B`, `1.5 KB`, `10 MB` (powers of 1024)."""
    for unit in ("B", "KB", "MB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1024
    return f"{number:.3g} GB"
