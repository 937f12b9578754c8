"""The event loop policy: a thin layer for programs that still use asyncio's policy system.

Policies are deprecated since Python 3.14 and go in 3.16; this module is imported only when somebody asks for
`aiomultistack.EventLoopPolicy`, and gets asyncio's base class by a name that doesn't warn.
"""

from __future__ import annotations

import asyncio
from asyncio import unix_events
from typing import TYPE_CHECKING

from ._config import Config
from ._factory import new_event_loop

if TYPE_CHECKING:
    _Base = asyncio.DefaultEventLoopPolicy
else:
    _Base = getattr(unix_events, "_DefaultEventLoopPolicy", None) or asyncio.DefaultEventLoopPolicy

__all__ = ["EventLoopPolicy"]


class EventLoopPolicy(_Base):
    """Makes every new event loop one on user-space TCP.

    config: None takes it from the environment and ``aiomultistack.toml``, when a loop is made.
    """

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self._config = config

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A new event loop; see `aiomultistack.new_event_loop`."""
        return new_event_loop(self._config)
