"""The tests of CPython's that cannot pass on our loop, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXPECTED", "Row"]


@dataclass
class Row:
    """Tests whose name fits a pattern, on some versions of Python."""

    pattern: str
    reason: str
    first: tuple[int, int] = (3, 10)
    last: tuple[int, int] = (3, 99)
    tap: bool = False  # with --tap only, or without it only
    races: bool = False  # passes now and then: a thread of the test's stops the loop, perhaps too late
    used: bool = False


EXPECTED = [
    Row(
        "test_events.*.test_create_server_multiple_hosts_ipv6",
        "replaces the socket module inside asyncio by a mock with a method (getsockbyname) that no socket has",
    ),
    Row(
        "test_streams.StreamTests.test_unclosed_server_resource_warnings",
        "connects with a blocking socket to a server of the loop in whose thread it blocks, which would have to answer",
        (3, 13),
        tap=True,
    ),
]
