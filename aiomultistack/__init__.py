"""MultiStack for asyncio: unchanged asyncio programs on a user-space TCP/IP stack.

    import asyncio, aiomultistack

    config = aiomultistack.Config(port="tap:ams0", addresses=["10.9.0.2/24"], host_addresses=["10.9.0.1/24"])
    aiomultistack.run(main(), config=config)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._config import Config
from ._congestion import CongestionControl, CongestionReport, register_congestion_control
from ._errors import ConfigError, MultistackError, PortError, PortPermissionError
from ._factory import new_event_loop, run
from ._hub import Hub
from ._loop import Loop, Multistack
from ._network import NetworkInfo
from ._node import EndpointInfo, Node
from ._server import Server
from ._shadow import ShadowSocket, socket
from ._socket import StackSocket

if TYPE_CHECKING:
    from ._policy import EventLoopPolicy

__all__ = [
    "Config",
    "ConfigError",
    "CongestionControl",
    "CongestionReport",
    "EndpointInfo",
    "EventLoopPolicy",
    "Hub",
    "Loop",
    "Multistack",
    "MultistackError",
    "NetworkInfo",
    "Node",
    "PortError",
    "PortPermissionError",
    "Server",
    "ShadowSocket",
    "StackSocket",
    "new_event_loop",
    "register_congestion_control",
    "run",
    "socket",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Makes `EventLoopPolicy` on first use: asyncio deprecates policies, and its warnings are for their users."""
    if name == "EventLoopPolicy":
        from ._policy import EventLoopPolicy

        globals()[name] = EventLoopPolicy
        return EventLoopPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
