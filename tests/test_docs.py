"""What the README, docs/ and comments name is there: files, headings, tests, fields, commands, counters, functions."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import aiomultistack
from aiomultistack import _cli, _node

TOP = Path(__file__).parents[1]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md")), *sorted((TOP / "tests").glob("*/*.md"))]
FIRST = [page for page in PAGES if "tests" not in page.parts[len(TOP.parts) :]]  # what users read
UNIT = TOP / "examples/systemd/aiomultistack-switch.service"
#: Names in backticks that look like ours, and are CPython's modules or stand for any name.
FOREIGN = {"test_ssl", "test_sslproto", "native/stack/cc_NAME.c"}

#: Functions that comments name and that are not ours: Linux's, and two that stand for many.
ELSEWHERE = {"tcp_tso_autosize", "tcp_tso_should_defer", "x_emit", "x_parse"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
each_first = pytest.mark.parametrize("page", FIRST, ids=lambda page: str(page.relative_to(TOP)))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `aiomultistack ...` command on a page, in code blocks and in backticks."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    units = re.findall(r"^ExecStart=(.*)", text, re.MULTILINE)
    for line in ["\n".join(blocks), *re.findall(r"`([^`\n]+)`", text), *units]:
        for part in re.split(r"\n|\s#\s|;|&&|\|", line):
            if found := re.match(r"\s*(?:sudo )?(?:\S+/bin/)?aiomultistack (\w.*)", part):
                yield found[1].split()


@functools.cache
def known_tests() -> dict[str, set[str]]:
    """The names of the tests in each Python file."""
    found: dict[str, set[str]] = {}
    for path in (TOP / "tests").rglob("test_*.py"):
        found.setdefault(path.name, set()).update(re.findall(r"def (test_\w+)\(", path.read_text()))
    return found


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_first
def test_files_and_tests_in_backticks_exist(page: Path) -> None:
    every = set().union(*known_tests().values())
    for line in page.read_text().split("\n"):
        file = None
        for name in re.findall(r"`([^`\n]+)`", line):
            if name in FOREIGN:
                continue
            if re.fullmatch(r"test_\w+\.py", name):
                file = name
                assert name in known_tests(), name
            elif re.fullmatch(r"test_\w+\*?", name):
                known = known_tests()[file] if file else every
                start = name.rstrip("*")
                assert any(test.startswith(start) if name.endswith("*") else test == name for test in known), name
            elif re.fullmatch(r"(aiomultistack|native|tests|examples|docs)/[\w./*-]*", name):
                assert list(TOP.glob(name.rstrip("/"))), name


def test_every_room_and_folder_of_tests_is_named() -> None:
    text = (TOP / "README.md").read_text()
    folders = {path.parent for pattern in ("tests/*/*.[chp]*", "native/*/*.c") for path in TOP.glob(pattern)}
    assert [name for folder in folders if (name := str(folder.relative_to(TOP))) not in text] == []


def test_the_table_of_fields_is_complete() -> None:
    table = (TOP / "README.md").read_text().split("## Configuration")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == {field.name for field in dataclasses.fields(aiomultistack.Config)}


def test_the_sample_configuration_sets_fields_that_exist() -> None:
    named = re.findall(r"^(?:# )?(\w+) = ", (TOP / "examples/aiomultistack.toml").read_text(), re.MULTILINE)
    assert len(named) > 8
    assert set(named) <= {field.name for field in dataclasses.fields(aiomultistack.Config)}


def test_the_table_of_commands_is_complete() -> None:
    table = (TOP / "README.md").read_text().split("## The command")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    words = [words.split() for cell in cells for words in re.findall(r"`([^`]+)`", cell)]
    named = {words[2] if words[1] == "bench" else words[1] for words in words if words[0] == "aiomultistack"}
    named |= {words[0] for words in words if words[0] in _cli.cli.commands}
    bench = _cli.cli.commands["bench"]
    assert isinstance(bench, click.Group)
    assert named == {*_cli.cli.commands, *bench.commands} - {"bench"}


@pytest.mark.parametrize("page", [*FIRST, UNIT], ids=lambda page: str(page.relative_to(TOP)))
def test_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    assert page != UNIT or list(commands(page))
    for words in commands(page):
        command: click.Command = _cli.cli
        while isinstance(command, click.Group) and words:
            assert words[0] in command.commands, words
            command = command.commands[words.pop(0)]
        known = {name for option in command.params for name in option.opts + option.secondary_opts}
        for word in words:
            if command.name == "run" and (word == "-m" or not word.startswith("-")) and words.index(word) > 0:
                if not words[words.index(word) - 1].startswith("--"):
                    break  # the program's own words
            option = word.strip("[],").partition("=")[0]
            assert not re.fullmatch(r"--?[a-z][\w-]*", option) or option in known, (command.name, word)


@each_first
def test_counters_have_the_names_that_they_are_told_by(page: Path) -> None:
    known = set(_node._counter_names())
    for name in re.findall(r"`((?:stack|switch|port)\.[a-z]\w+)`", page.read_text()):
        assert name in known, name


def test_comments_in_c_name_functions_and_files_that_exist() -> None:
    sources = {path: path.read_text() for path in (TOP / "native").rglob("*.[ch]")}
    files = {path.name for path in [*sources, *(TOP / "tests").rglob("*.[ch]"), *(TOP / "examples").rglob("*.[ch]")]}
    comment = re.compile(r"/\*.*?\*/", re.DOTALL)
    words = {word for text in sources.values() for word in re.findall(r"\w+", comment.sub(" ", text))}
    wrong = [
        f"{path.relative_to(TOP)}: {name}"
        for path, text in sources.items()
        for found in comment.findall(text)
        for name in {*re.findall(r"\b([a-z]\w*_\w+)\(\)", found), *re.findall(r"\b([a-z]\w*_\w+\.[ch])\b", found)}
        if name not in words | files | ELSEWHERE
    ]
    assert wrong == []
