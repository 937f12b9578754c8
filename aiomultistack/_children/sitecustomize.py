"""What a child process of ``aiomultistack run`` imports when its interpreter starts.

Python imports a module of this name from the search path, which begins with PYTHONPATH.  This one steps aside for
another that was meant, and waits until the program imports asyncio or uvloop: a child that does neither pays nothing.
It is read by every Python that the program starts, also by older ones and by those of other environments, which it
leaves alone.
"""

import os
import sys

_VARIABLE = "AIOMULTISTACK_RUN"
_HERE = os.path.dirname(os.path.abspath(__file__))
_WATCHED = ("asyncio", "uvloop")


def _step_aside() -> None:
    """Takes this directory out of the search path and imports the sitecustomize module that it has hidden."""
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) != _HERE]
    own = sys.modules.pop(__name__)
    try:
        import sitecustomize  # noqa: F401 -- the other one
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, own)


def _install(name: str) -> None:
    """Points what a module has just defined at loops on user-space TCP."""
    try:
        import aiomultistack._run
    except ImportError as error:
        if not (error.name or "").startswith("aiomultistack"):
            raise
        sys.path.append(os.path.dirname(os.path.dirname(_HERE)))  # the parent found it by its working directory
        import aiomultistack._run
    aiomultistack._run.install_into(name)


class _Loader:
    """Loads a module as its own loader does, and calls `_install` then."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        """Called by the import system."""
        return self._loader.create_module(spec)

    def exec_module(self, module):
        """Called by the import system."""
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _install(module.__name__)


class _Finder:
    """Finds the watched modules where the others do."""

    def find_spec(self, name, path=None, target=None):
        """Called by the import system."""
        if name not in _WATCHED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


_step_aside()
if os.environ.get(_VARIABLE) == sys.prefix:
    sys.meta_path.insert(0, _Finder())
    for _name in _WATCHED:
        if _name in sys.modules:
            _install(_name)
