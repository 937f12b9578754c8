"""Makes loops: the class that fits the loop underneath, over a node opened for the configuration."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from . import _host
from ._config import Config
from ._errors import ConfigError
from ._hub import Hub
from ._loop import Loop
from ._node import Node

__all__ = ["SelectorLoop", "new_event_loop", "open_node", "run"]

_T = TypeVar("_T")


class SelectorLoop(Loop, asyncio.SelectorEventLoop):  # type: ignore[misc]  # one signature for all versions
    """Our loop over asyncio's selector loop."""


@functools.lru_cache(maxsize=1)
def _uvloop_class() -> type[Loop] | None:
    """Our loop over uvloop's; None where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None

    class UvloopLoop(Loop, uvloop.Loop):  # type: ignore[misc]  # one signature for all versions
        """Our loop over uvloop's."""

        _base_lacks_methods = True

    return UvloopLoop


def loop_class(base: str) -> type[Loop]:
    """The class for a `Config.base`; raises ConfigError if uvloop is asked for and missing."""
    if base == "asyncio":
        return SelectorLoop
    found = _uvloop_class()
    if found is not None:
        return found
    if base == "uvloop":
        raise ConfigError("base='uvloop', but uvloop is not installed: 'pip install uvloop', or use base='asyncio'")
    return SelectorLoop


def open_node(config: Config, clock: Callable[[], int] | None = None) -> Node:
    """Opens the configured port with a stack on it, and sets up the system's side of a TAP."""
    config.require()
    if config.scheme != "tap":
        return Node(config, Hub.attach(config.port_name) if config.scheme == "mem" else None, clock)
    node = Node(config, None, clock)
    try:
        _host.configure(config)
    except BaseException:
        node.close()
        raise
    return node


def new_event_loop(config: Config | None = None) -> Loop:
    """A new event loop on user-space TCP; a `loop_factory` for `asyncio.Runner` and its kind.

    config: None takes it from the environment and ``aiomultistack.toml`` (`Config.load()`).
    Raises ConfigError, PortError or PortPermissionError, with a message that says what to do.
    """
    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config must be an aiomultistack.Config, not {config!r}")
    config = (Config.load() if config is None else config).require()
    kind = loop_class(config.base)
    node = open_node(config)
    try:
        return kind(node)
    except BaseException:
        node.close()
        raise


def run(main: Coroutine[Any, Any, _T], *, config: Config | None = None, debug: bool | None = None) -> _T:
    """Runs a coroutine on a new loop and closes that, as `asyncio.run()` does."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("aiomultistack.run() cannot be called from a running event loop")
    factory = functools.partial(new_event_loop, config)
    if hasattr(asyncio, "Runner"):
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            result: _T = runner.run(main)
            return result
    return _run_310(main, factory, debug)


def _run_310(main: Coroutine[Any, Any, _T], factory: Callable[[], Loop], debug: bool | None) -> _T:
    """`asyncio.run()` of Python 3.10, with a loop factory."""
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    loop = factory()
    try:
        asyncio.set_event_loop(loop)
        if debug is not None:
            loop.set_debug(debug)
        return loop.run_until_complete(main)
    finally:
        try:
            _cancel_all_tasks(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_all_tasks(loop: Loop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            loop.call_exception_handler(
                {
                    "message": "unhandled exception during aiomultistack.run() shutdown",
                    "exception": task.exception(),
                    "task": task,
                }
            )
