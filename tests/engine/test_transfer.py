"""Two engines over a hub in virtual time: transfers, closes, failures."""

from __future__ import annotations

import hashlib
import random

import pytest
from aiomultistack._native import lib

from .world import MS, SECOND, Connection, Host, World

ADDRESSES = {"ipv4": ("10.1.0.1/24", "10.1.0.2/24"), "ipv6": ("fd01::1/64", "fd01::2/64")}


def pair(world: World, family: str = "ipv4", **config: object) -> tuple[Host, Host, str]:
    """A client, a server listening on port 80, and the server's address."""
    client_ip, server_ip = ADDRESSES[family]
    client = world.host(client_ip, **config)
    server = world.host(server_ip, **config)
    server.listen("0.0.0.0" if family == "ipv4" else "::")
    return client, server, server_ip.split("/")[0]


def establish(world: World, family: str = "ipv4", **config: object) -> tuple[Connection, Connection]:
    client, server, address = pair(world, family, **config)
    connection = client.connect(address)
    assert world.run(10 * SECOND, lambda: connection.connected and server.accepted)
    return connection, server.accepted[0]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("offload", [False, True])
def test_request_and_response(family: str, offload: bool) -> None:
    with World(offload=offload) as world:
        near, far = establish(world, family)
        far.on_data = lambda c: c.send(b"response to " + bytes(c.received))
        near.send(b"request")
        world.run(SECOND)
        assert far.received == b"request"
        assert near.received == b"response to request"


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("congestion", [b"cubic", b"reno"])
def test_bulk_both_ways(family: str, offload: bool, congestion: bytes) -> None:
    from aiomultistack._native import ffi

    name = ffi.new("char[]", congestion)
    up, down = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(2_000_000)
    with World(offload=offload) as world:
        near, far = establish(world, family, congestion=name)
        near.send(up)
        far.send(down)
        assert world.run(60 * SECOND, lambda: len(far.received) == len(up) and len(near.received) == len(down))
        assert hashlib.sha256(far.received).digest() == hashlib.sha256(up).digest()
        assert hashlib.sha256(near.received).digest() == hashlib.sha256(down).digest()
        for host in world.hosts:
            counters = host.counters()
            assert counters["stack.tcp_retrans"] == 0
            assert not [k for k, v in counters.items() if k.startswith("switch.") and "drop" in k and v]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("seed", range(3))
def test_ten_megabytes_survive_a_bad_link(family: str, seed: int) -> None:
    data = random.Random(seed).randbytes(10_000_000)
    with World(seed, loss=0.05, reorder=0.05, duplicate=0.01, corrupt=0.01, delay_ns=5 * MS) as world:
        near, far = establish(world, family)
        near.send(data)
        near.shutdown()
        assert world.run(900 * SECOND, lambda: far.eof)
        assert hashlib.sha256(far.received).digest() == hashlib.sha256(data).digest()
        assert world.hosts[1].counters()["stack.tcp_bad_checksum"] > 0
        assert world.hosts[0].counters()["stack.tcp_retrans"] > 0


def test_orderly_close_leaves_one_time_wait_and_nothing_else() -> None:
    with World() as world:
        near, far = establish(world)
        client, server = world.hosts
        far.on_eof = lambda c: c.close()
        near.send(b"bye")
        near.close()
        assert near.released
        world.run(SECOND)
        assert far.received == b"bye"
        assert far.eof
        assert far.released
        assert lib.ams_stack_time_wait(client.stack) == 1
        assert lib.ams_stack_time_wait(server.stack) == 0
        world.run(61 * SECOND)
        assert lib.ams_stack_time_wait(client.stack) == 0
        for host in world.hosts:
            assert lib.ams_stack_frames(host.stack) == 0
        assert lib.ams_stack_endpoints(client.stack) == 0
        assert lib.ams_stack_endpoints(server.stack) == 1  # the listener


def test_simultaneous_close() -> None:
    with World(delay_ns=10 * MS) as world:
        near, far = establish(world)
        near.close()
        far.close()
        world.run(SECOND)
        client, server = world.hosts
        assert lib.ams_stack_time_wait(client.stack) == 1
        assert lib.ams_stack_time_wait(server.stack) == 1


def test_half_close() -> None:
    with World() as world:
        near, far = establish(world)
        near.send(b"question")
        near.shutdown()
        world.run(SECOND)
        assert far.eof
        assert near.info.state == lib.AMS_TCP_FIN_WAIT_2
        assert far.info.state == lib.AMS_TCP_CLOSE_WAIT
        far.send(b"answer" * 1000)
        far.close()
        world.run(SECOND)
        assert near.received == b"answer" * 1000
        assert near.eof


@pytest.mark.parametrize("days", [1, 24, 25, 50, 195, 210, 250, 400, 1000])
def test_a_connection_goes_on_after_any_pause(days: int) -> None:
    """Clocks that count milliseconds in 32 bits wrap after 50 days, those of ages whenever."""
    with World(delay_ns=20 * MS) as world:
        near, far = establish(world)
        near.send(b"before")
        world.run(SECOND)
        for number in range(2):
            world.run(days * 86400 * SECOND)
            for one, other in ((near, far), (far, near)):
                data = bytes([number]) * 100_000
                other.received.clear()
                one.send(data)
                assert world.run(5 * SECOND, lambda other=other, data=data: other.received == data)
        for host in world.hosts:
            assert host.counters()["stack.tcp_paws"] == 0
            assert host.counters()["stack.tcp_retrans"] == 0


def test_connection_refused() -> None:
    with World() as world:
        client, _, address = pair(world)
        connection = client.connect(address, 81)
        world.run(SECOND)
        assert connection.closed == "ECONNREFUSED"
        connection.close()
        assert connection.released
        assert lib.ams_stack_endpoints(client.stack) == 0


def test_unreachable_neighbour() -> None:
    with World() as world:
        client = world.host("10.1.0.1/24")
        connection = client.connect("10.1.0.99")
        world.run(10 * SECOND)
        assert connection.closed == "EHOSTUNREACH"


def test_no_route() -> None:
    from .world import endpoint, ffi, status_name

    with World() as world:
        client = world.host("10.1.0.1/24")
        status = lib.ams_tcp_connect(client.stack, ffi.NULL, endpoint("192.168.7.7", 80), world.now)
        assert status < 0
        assert status_name(status) == "ENETUNREACH"


def test_abort_resets_the_peer() -> None:
    with World() as world:
        near, far = establish(world)
        near.abort()
        world.run(SECOND)
        assert far.closed == "ECONNRESET"


def test_close_with_unread_data_resets() -> None:
    with World() as world:
        near, far = establish(world)
        near.pause()
        far.send(b"unread")
        world.run(SECOND)
        near.close()
        world.run(SECOND)
        assert far.closed == "ECONNRESET"


def test_data_after_close_is_refused() -> None:
    with World() as world:
        near, far = establish(world)
        near.close()
        world.run(SECOND)
        assert far.eof
        far.send(b"too late")
        world.run(SECOND)
        assert far.closed in ("ECONNRESET", "EPIPE")


def test_paused_reader_closes_the_window_and_probes_reopen_it() -> None:
    data = random.Random(5).randbytes(1_000_000)
    with World() as world:
        near, far = establish(world)
        far.pause()
        near.send(data)
        world.run(30 * SECOND)
        assert near.info.snd_wnd < 1500
        assert near.info.send_queue > 0
        assert world.hosts[0].counters()["stack.tcp_zero_window_probe"] > 0
        far.resume()
        assert world.run(200 * SECOND, lambda: len(far.received) == len(data))
        assert far.received == data


def test_a_long_closed_window_is_survived() -> None:
    with World() as world:
        near, far = establish(world)
        far.pause()
        near.send(bytes(500_000))
        world.run(3600 * SECOND)
        assert near.closed is None
        far.resume()
        assert world.run(200 * SECOND, lambda: len(far.received) == 500_000)


def test_retransmission_timeout_gives_up() -> None:
    with World() as world:
        near, _ = establish(world)
        world.impair(loss=1.0)
        near.send(b"into the void")
        world.run(3600 * SECOND)
        assert near.closed in ("ETIMEDOUT", "EHOSTUNREACH")
        assert world.hosts[0].counters()["stack.tcp_rto"] >= 8


def test_syn_retries_time_out() -> None:
    with World() as world:
        _near, _ = establish(world)  # so that the neighbour is known
        world.impair(loss=1.0)
        again = world.hosts[0].connect("10.1.0.2")
        world.run(300 * SECOND)
        assert again.closed in ("ETIMEDOUT", "EHOSTUNREACH")


def test_keepalive_detects_a_dead_peer_and_keeps_a_live_one() -> None:
    with World() as world:
        near, _ = establish(world)
        for option, value in (
            (lib.AMS_OPT_KEEPIDLE, 10),
            (lib.AMS_OPT_KEEPINTVL, 5),
            (lib.AMS_OPT_KEEPCNT, 3),
            (lib.AMS_OPT_KEEPALIVE, 1),
        ):
            assert near.option(option, value) == 0
        world.run(300 * SECOND)
        assert near.closed is None
        assert world.hosts[0].counters()["stack.tcp_keepalive"] >= 10
        world.impair(loss=1.0)
        world.run(60 * SECOND)
        assert near.closed == "ETIMEDOUT"


def test_references_are_released_in_order_and_after_close() -> None:
    from .world import ffi

    with World() as world:
        near, far = establish(world)
        buffers = [ffi.new("char[]", random.Random(i).randbytes(50_000)) for i in range(3)]
        for buffer in buffers:
            assert lib.ams_tcp_send_ref(near.host.stack, near.id, buffer, 50_000) >= 0
        near.close()
        assert not near.released
        world.run(10 * SECOND, lambda: far.eof)
        world.run(SECOND)
        assert near.refs_released == 3
        assert near.released
        assert bytes(far.received) == b"".join(ffi.buffer(b, 50_000)[:] for b in buffers)


@pytest.mark.parametrize("by_reference", [False, True])
def test_the_excess_can_be_dropped(by_reference: bool) -> None:
    """What the socket buffer holds arrives with the FIN; the rest is gone, and its references are free at once."""
    from .world import ffi

    data = [random.Random(i).randbytes(100_000) for i in range(10)]
    buffers = [ffi.new("char[]", piece) for piece in data]
    with World() as world:
        near, far = establish(world)
        far.pause()
        for buffer in buffers:
            if by_reference:
                assert lib.ams_tcp_send_ref(near.host.stack, near.id, buffer, 100_000) >= 0
            else:
                near.send(ffi.buffer(buffer, 100_000)[:])
        world.run(SECOND)
        assert lib.ams_tcp_want_drain(near.host.stack, near.id, 0) == 0
        excess = lib.ams_tcp_excess(near.host.stack, near.id)
        assert 0 < excess < 1_000_000
        refs = lib.ams_tcp_drop_excess(near.host.stack, near.id)
        assert refs == (excess // 100_000 if by_reference else 0)
        assert lib.ams_tcp_excess(near.host.stack, near.id) == 0
        assert lib.ams_tcp_drop_excess(near.host.stack, near.id) == 0
        world.run(MS)
        assert near.drained == 1
        near.send(b"more")  # the queue goes on where it was cut
        near.close()
        far.resume()
        assert world.run(60 * SECOND, lambda: far.eof)
        assert far.received == b"".join(data)[: 1_000_000 - excess] + b"more"
        world.run(SECOND)
        assert near.refs_released + refs == (10 if by_reference else 0)
        assert near.released
        assert lib.ams_tcp_drop_excess(near.host.stack, near.id) < 0


def test_drain_event_at_the_low_water_mark() -> None:
    with World(delay_ns=5 * MS) as world:
        near, _far = establish(world)
        assert near.send(bytes(3_000_000)) > 0
        assert lib.ams_tcp_want_drain(near.host.stack, near.id, 1000) == 0
        assert near.drained == 0
        assert world.run(60 * SECOND, lambda: near.drained)
        assert lib.ams_tcp_excess(near.host.stack, near.id) <= 1000
        assert near.drained == 1


def test_many_connections_come_and_go() -> None:
    with World() as world:
        client, server, address = pair(world)

        def serve(connection: Connection) -> None:
            connection.on_data = lambda c: (c.send(b"x" * 1000), c.close())

        server.on_accept = serve
        for _ in range(20):
            batch = [client.connect(address) for _ in range(50)]
            for connection in batch:
                connection.send(b"GET")
            assert world.run(10 * SECOND, lambda batch=batch: all(c.eof for c in batch))
            for connection in batch:
                assert connection.received == b"x" * 1000
                connection.close()
        world.run(SECOND)
        recycled = server.counters()["stack.tcp_tw_recycled"]  # random ports meet again now and then
        assert lib.ams_stack_time_wait(server.stack) + recycled == 1000
        world.run(120 * SECOND)
        assert lib.ams_stack_time_wait(server.stack) == 0
        assert lib.ams_stack_frames(server.stack) == 0 == lib.ams_stack_frames(client.stack)


def test_listener_backlog_holds_and_close_resets_what_waits() -> None:
    with World() as world:
        near, far = establish(world)
        client, server = world.hosts
        listener = server.listen(port=81)
        waiting = client.connect("10.1.0.2", 81)
        assert lib.ams_tcp_close(server.stack, listener) == 1
        world.run(SECOND)
        assert waiting.closed == "ECONNREFUSED"
        assert near.closed is None
        assert far.closed is None


def trace(seed: int) -> list[tuple[int, bytes]]:
    with World(seed, loss=0.03, reorder=0.03, duplicate=0.01, corrupt=0.005, delay_ns=2 * MS, jitter_ns=MS) as world:
        near, far = establish(world)
        wire = world.wire(monitor=True)
        near.send(random.Random(9).randbytes(300_000))
        near.shutdown()
        far.on_eof = lambda c: c.close()
        assert world.run(300 * SECOND, lambda: far.released)
        world.run(SECOND)
        return wire.frames


def test_same_seed_same_trace() -> None:
    first = trace(4)
    assert len(first) > 200
    assert first == trace(4)
    assert first != trace(5)


def test_dual_stack_listener_takes_both_families_and_both_tuples() -> None:
    from .world import endpoint

    with World() as world:
        client = world.host("10.1.0.1/24", "fd01::1/64")
        server = world.host("10.1.0.2/24", "fd01::2/64")
        listener = lib.ams_tcp_listen(server.stack, endpoint("::", 80), 10, 0)
        assert listener >= 0
        for address in ("10.1.0.2", "fd01::2"):
            connection = client.connect(address)
            assert world.run(10 * SECOND, lambda connection=connection: connection.connected)
        counters = server.counters()
        assert counters["switch.rx_owner"] == counters["stack.tcp_rx"] > 0  # no SYN came in unclaimed
        assert lib.ams_tcp_close(server.stack, listener) == 1
        refused = client.connect("10.1.0.2")
        world.run(SECOND)
        assert refused.closed == "ECONNREFUSED"
