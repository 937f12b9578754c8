"""Send and receive buffers that tune themselves, in virtual time.  What happens without memory: test_net_tcp.c."""

from __future__ import annotations

from typing import Any

import pytest
from aiomultistack._native import ffi, lib

from .world import MS, SECOND, Connection, World

MEGABYTE = 1 << 20
FAT = {"delay_ns": 50 * MS, "rate_bps": 200_000_000, "queue_frames": 2000}  # holds 2.5 MB
SHORT = {"delay_ns": MS // 4, "rate_bps": 20_000_000, "queue_frames": 8}  # holds 13 KB, queue and all


def number(connection: Connection, option: int) -> int:
    value = ffi.new("int *")
    assert lib.ams_tcp_getopt(connection.host.stack, connection.id, option, value) == 0
    return int(value[0])


def rcvbuf(connection: Connection) -> int:
    return number(connection, lib.AMS_OPT_RCVBUF)


def sndbuf(connection: Connection) -> int:
    return number(connection, lib.AMS_OPT_SNDBUF)


def pair(world: World, receiver: dict[str, Any], sender: dict[str, Any]) -> tuple[Connection, Connection]:
    """A connection's sending and its receiving end."""
    server = world.host("10.1.0.2/24", **receiver)
    server.listen()
    near = world.host("10.1.0.1/24", **sender).connect("10.1.0.2")
    assert world.run(10 * SECOND, lambda: near.connected and server.accepted)
    return near, server.accepted[0]


def transfer(
    link: dict[str, Any], size: int, *, receiver: dict[str, Any] | None = None, sender: dict[str, Any] | None = None
) -> tuple[float, int, int]:
    """Sends ``size`` bytes; Mbit/s, and the sizes of the sending and of the receiving buffer at the end."""
    with World(5, **link) as world:
        world.checked = False
        near, far = pair(world, receiver or {}, sender or {})
        start = world.now
        for _ in range(size >> 20):
            near.send(bytes(MEGABYTE))
        assert world.run(100 * SECOND, lambda: len(far.received) >= size)
        return size * 8e3 / (world.now - start), sndbuf(near), rcvbuf(far)


def test_buffers_grow_on_a_long_fat_path() -> None:
    rate, send, receive = transfer(FAT, 40 * MEGABYTE)
    assert rate > 80
    assert receive > 2.5 * MEGABYTE
    assert send > 2.5 * MEGABYTE


def test_the_receive_buffer_does_not_hold_slow_start_up() -> None:
    """From a buffer of a few segments on, it grows at least as fast as a sender that doubles its rate."""
    small, _, receive = transfer(FAT, 10 * MEGABYTE, receiver={"rcvbuf": 16384})
    large, _, _ = transfer(FAT, 10 * MEGABYTE, receiver={"rcvbuf": 6 * MEGABYTE})
    assert receive > MEGABYTE
    assert small > 0.6 * large


def test_they_stay_small_on_a_short_path() -> None:
    rate, _, receive = transfer(SHORT, 10 * MEGABYTE)
    assert rate > 18
    assert receive == 131072  # what it began with


def test_limits_hold() -> None:
    _, send, receive = transfer(FAT, 10 * MEGABYTE, receiver={"rcvbuf_max": 400_000}, sender={"sndbuf_max": 300_000})
    assert receive == 400_000
    assert send == 300_000


@pytest.mark.parametrize("option", ["AMS_OPT_SNDBUF", "AMS_OPT_RCVBUF"])
def test_a_size_that_was_set_stays(option: str) -> None:
    with World(5, **FAT) as world:
        world.checked = False
        near, far = pair(world, {}, {})
        end = near if option == "AMS_OPT_SNDBUF" else far
        end.option(getattr(lib, option), 100_000)
        near.send(bytes(5 * MEGABYTE))
        assert world.run(100 * SECOND, lambda: len(far.received) == 5 * MEGABYTE)
        assert number(end, getattr(lib, option)) == 100_000


def test_a_receiver_that_has_no_rtt_of_its_own_learns_it_from_the_data() -> None:
    """A connection made from a SYN cookie has seen no round trip."""
    _, _, receive = transfer(FAT, 20 * MEGABYTE, receiver={"syn_cookies": lib.AMS_SYN_COOKIES_ALWAYS})
    assert receive > MEGABYTE
