"""Running an unchanged program on user-space TCP: `aiomultistack run`.

The program is started as `python SCRIPT` and `python -m MODULE` start it (sys.argv, sys.path[0],
`__main__`), after every way by which it could ask for an event loop has been pointed at ours: asyncio's
policy where there is one, `asyncio.new_event_loop` where there is none any more, and uvloop's entry
points, since our loop is a uvloop with one more stack.
"""

from __future__ import annotations

import asyncio
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiomultistack


def install(config: aiomultistack.Config) -> None:
    """Makes the event loops that this process will create ours."""

    def new_event_loop() -> asyncio.AbstractEventLoop:
        return aiomultistack.new_event_loop(config)

    if sys.version_info < (3, 16):
        with warnings.catch_warnings():  # the policy system is deprecated since 3.14, but until 3.16 it decides
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(aiomultistack.EventLoopPolicy(config))
    else:
        asyncio.events.new_event_loop = new_event_loop
        asyncio.new_event_loop = new_event_loop
    _install_for_uvloop(new_event_loop)


def _install_for_uvloop(new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Gives programs that ask for uvloop our loop."""
    try:
        import uvloop
    except ImportError:
        return

    def run(main: Any, *, loop_factory: Any = None, debug: bool | None = None, **ignored: Any) -> Any:
        if loop_factory is not None and sys.version_info >= (3, 11):
            with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
                return runner.run(main)
        return asyncio.run(main, debug=debug)

    def install() -> None:
        """Has been done."""

    def policy() -> Any:
        return asyncio.get_event_loop_policy()

    vars(uvloop).update(new_event_loop=new_event_loop, run=run, install=install, EventLoopPolicy=policy)


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Runs a script, a directory or a zip file with a __main__ in it, as `python PATH` does."""
    sys.argv[:] = [path, *arguments]
    if Path(path).is_file() and not path.endswith((".zip", ".pyz")):
        _set_first_path(os.path.dirname(os.path.realpath(path)))
    else:
        _drop_first_path()  # run_path puts the directory or zip file there
    runpy.run_path(path, run_name="__main__")


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Runs a module or package as `python -m NAME` does."""
    sys.argv[:] = [name, *arguments]
    _set_first_path(os.getcwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _safe_path() -> bool:
    return bool(getattr(sys.flags, "safe_path", False))


def _drop_first_path() -> None:
    """Takes away what Python put first for the `aiomultistack` command itself."""
    if not _safe_path() and sys.path:
        del sys.path[0]


def _set_first_path(path: str) -> None:
    _drop_first_path()
    if not _safe_path():
        sys.path.insert(0, path)


def show_exception(error: BaseException) -> None:
    """Prints the traceback of an exception that ended the program, without the frames that started it."""
    trimmed = _trim(error.__traceback__)
    traceback.print_exception(type(error), error, trimmed)


def _trim(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that the program is to blame for."""
    ours = {__file__, runpy.__file__, "<frozen runpy>", str(Path(__file__).with_name("_cli.py"))}
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace
