"""Exceptions of this package that asyncio doesn't have.

Sockets' errors are those that asyncio users know (`ConnectionRefusedError`, `TimeoutError`, `OSError` with an
errno).  Everything else derives from `MultistackError`, and its message says what to do.
"""

from __future__ import annotations

import errno

__all__ = ["ConfigError", "MultistackError", "PortError", "PortPermissionError"]


class MultistackError(Exception):
    """Base of the errors that only this package raises."""


class ConfigError(MultistackError, ValueError):
    """The configuration cannot be used; the message says which field and what it wants."""


class PortError(MultistackError, OSError):
    """A port (TAP, hub, ...) could not be opened or broke down; `errno` tells how."""


class PortPermissionError(PortError, PermissionError):
    """This process may not open the port, or may not set up the system's side of it."""


def port_error(number: int, message: str) -> PortError:
    """The exception for a port's errno."""
    kind = PortPermissionError if number in (errno.EPERM, errno.EACCES) else PortError
    return kind(number, message)
