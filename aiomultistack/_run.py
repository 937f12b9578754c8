"""Running an unchanged program on user-space TCP: `aiomultistack run`.

Theory of operation
-------------------
The program is started as `python SCRIPT` and `python -m MODULE` start it (sys.argv, sys.path[0], `__main__`), after
every way by which it could ask for an event loop has been pointed at ours: asyncio's policy where there is one,
`asyncio.new_event_loop` where there is none any more, the class `asyncio.SelectorEventLoop`, and uvloop's entry
points, since our loop is a uvloop with one more stack.

Many servers bind their sockets themselves and hand them to the loop.  The kernel refuses to bind what it doesn't have,
so `socket.bind()` lets it have the stack's addresses (`IP_FREEBIND`): the socket holds the port, and receives nothing.

What it forks has all that too.  Processes that it starts anew (multiprocessing's spawn and forkserver, subprocesses)
get it by `reach_children`: PYTHONPATH leads them to a ``sitecustomize`` module of ours, which does the same in each
interpreter of the same environment once that imports asyncio or uvloop; the configuration is in the variables
``AIOMULTISTACK_*``.  Several processes can share a switch, but not a TAP or an interface: by default children are
reached where the port is a `switch:`.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import runpy
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiomultistack

from . import _config
from ._factory import SelectorLoop, open_node
from ._shadow import free_bind

_CHILDREN = str(Path(__file__).with_name("_children"))


def install(config: aiomultistack.Config) -> None:
    """Makes the event loops that this process will create ours."""
    _install_into_asyncio(config)
    try:
        import uvloop  # noqa: F401 -- to be changed
    except ImportError:
        return
    _install_into_uvloop(config)


def install_into(name: str) -> None:
    """Does it in a child process for a module, "asyncio" or "uvloop", that has just been imported."""
    if name == "asyncio":
        _install_into_asyncio(None)
    else:
        _install_into_uvloop(None)


def _install_into_asyncio(config: aiomultistack.Config | None) -> None:
    """Gives programs that ask asyncio for a loop ours; config None: each loop takes it from the environment."""

    class SelectorEventLoop(SelectorLoop):
        """Our loop over asyncio's, for programs that name its class."""

        def __init__(self, selector: Any = None) -> None:
            node = open_node(aiomultistack.Config.load() if config is None else config)
            try:
                super().__init__(node, selector)
            except BaseException:
                node.close()
                raise

    _install_into_socket(config)
    for name in ("SelectorEventLoop", "EventLoop"):
        if hasattr(asyncio, name):
            setattr(asyncio, name, SelectorEventLoop)
    if sys.version_info < (3, 16):
        with warnings.catch_warnings():  # the policy system is deprecated since 3.14, but until 3.16 it decides
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(_policy(config)())
    else:
        asyncio.events.new_event_loop = asyncio.new_event_loop = _factory(config)


def _install_into_socket(config: aiomultistack.Config | None) -> None:
    """Lets programs bind kernel sockets to addresses that only the user-space stack has."""
    addresses = (aiomultistack.Config.load() if config is None else config).addresses
    own = {str(ipaddress.ip_interface(text).ip) for text in addresses}
    kernel_bind = socket.socket.bind

    def bind(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address and address[0] in own:
            free_bind(self)
        kernel_bind(self, address)

    bind.__doc__ = kernel_bind.__doc__
    socket.socket.bind = bind  # type: ignore[method-assign, assignment]


def _factory(config: aiomultistack.Config | None) -> Callable[[], asyncio.AbstractEventLoop]:
    def new_event_loop() -> asyncio.AbstractEventLoop:
        return aiomultistack.new_event_loop(config)

    return new_event_loop


@functools.lru_cache(maxsize=1)
def _policy(config: aiomultistack.Config | None) -> Any:
    """The class of the policy that is set: programs ask whether it is uvloop's."""

    class EventLoopPolicy(aiomultistack.EventLoopPolicy):
        """Makes every new event loop one on user-space TCP."""

        def __init__(self) -> None:
            super().__init__(config)

    return EventLoopPolicy


def _install_into_uvloop(config: aiomultistack.Config | None) -> None:
    """Gives programs that ask for uvloop our loop."""
    import uvloop

    def run(main: Any, *, loop_factory: Any = None, debug: bool | None = None, **ignored: Any) -> Any:
        if loop_factory is not None and sys.version_info >= (3, 11):
            with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
                return runner.run(main)
        return asyncio.run(main, debug=debug)

    def install() -> None:
        """Has been done."""

    vars(uvloop).update(new_event_loop=_factory(config), run=run, install=install)
    if sys.version_info < (3, 16):
        vars(uvloop).update(EventLoopPolicy=_policy(config))


def reach_children(config: aiomultistack.Config, wanted: bool | None = None) -> None:
    """Lets Python processes that this one will start be on user-space TCP too, or not.

    wanted: None if the port decides, see above.
    """
    environ = os.environ
    others = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != _CHILDREN]
    environ.pop(_config.RUN_VARIABLE, None)
    if config.scheme == "switch" if wanted is None else wanted:
        environ[_config.RUN_VARIABLE] = sys.prefix
        others.insert(0, _CHILDREN)
        file = environ.get(_config.FILE_VARIABLE) or _config.FILE_NAME  # wherever the children's directory is
        if os.path.isfile(file):
            environ[_config.FILE_VARIABLE] = os.path.abspath(file)
        if config.scheme == "switch":
            environ["AIOMULTISTACK_PORT"] = f"switch:{os.path.abspath(config.port_name)}"
    if others:
        environ["PYTHONPATH"] = os.pathsep.join(others)
    else:
        environ.pop("PYTHONPATH", None)


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
    """Shows an exception that ended the program by the program's `sys.excepthook`, as Python itself does.

    Without the frames that started it; a module or a __main__ that is not there has no others, and is a sentence.
    """
    trimmed = _trim(error.__traceback__)
    if trimmed is None and isinstance(error, ImportError):
        print(f"aiomultistack: {error}", file=sys.stderr)
    else:
        sys.excepthook(type(error), error.with_traceback(trimmed), trimmed)


def _trim(trace: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that the program is to blame for."""
    ours = {__file__, runpy.__file__, "<frozen runpy>", str(Path(__file__).with_name("_cli.py"))}
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace
