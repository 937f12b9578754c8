"""Congestion control: windows, their validation, pacing, and the algorithms, in virtual time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from aiomultistack._native import ffi, lib

from .script import MS, SECOND, Script
from .world import Connection, World

RTT = 100 * MS
ALGORITHMS = [b"cubic", b"reno", b"bbr"]


def named(name: bytes) -> Any:
    return ffi.new("char[]", name)


def acknowledge(s: Script, upto: int, step: int = 2000, start: int = 1, **more: Any) -> None:
    """ACKs of every second segment, as a receiver sends them; forgets what they let out."""
    for ack in range(start + step, upto + 1, step):
        s.send("A", seq=1, ack=ack, **more)
    s.drain()


# ---- choosing ----------------------------------------------------------------------------------------------


def test_algorithms_are_listed() -> None:
    names = []
    while (name := lib.ams_congestion_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name))
    assert names == ALGORITHMS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_can_be_chosen_before_and_after_the_handshake(name: bytes) -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        assert lib.ams_tcp_set_congestion(s.host.stack, connection.id, named(name)) == 0
        s.expect("S")
        s.send("SA", seq=0, ack=1, options=[("MSS", 1000)])
        s.expect("A")
        assert ffi.string(connection.info.congestion) == name
        connection.send(bytes(5000))
        s.wait(SECOND)
        for other in ALGORITHMS:
            assert lib.ams_tcp_set_congestion(s.host.stack, connection.id, named(other)) == 0
            assert ffi.string(connection.info.congestion) == other
        connection.send(bytes(5000))
        s.wait(SECOND)
        assert lib.ams_tcp_set_congestion(s.host.stack, connection.id, named(b"none")) < 0


# ---- slow start and window validation ----------------------------------------------------------------------


def test_slow_start_doubles_while_the_window_is_used() -> None:
    """RFC 5681 section 3.1."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(100_000))
        s.drain()
        s.wait(RTT)
        acknowledge(s, 10_001)
        assert connection.info.snd_cwnd == 20_000


def test_window_does_not_grow_beyond_twice_what_is_used() -> None:
    """RFC 7661 section 4.1: requests of one segment each prove nothing about larger windows."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, rtt=RTT)
        for index in range(50):
            connection.send(bytes(1000))
            s.expect("PA", seq=1 + 1000 * index)
            s.wait(RTT)
            s.send("A", seq=1, ack=1001 + 1000 * index)
        assert connection.info.snd_cwnd == 10_000


def test_idle_sender_loses_half_of_its_window_for_each_rto() -> None:
    """RFC 2861 section 3.1, down to the initial window."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(70_000))
        s.drain()
        for window in (10, 20, 40):
            s.wait(RTT)
            acknowledge(s, 1 + 1000 * (window * 2 - 10), start=1 + 1000 * (window - 10))
        before = connection.info.snd_cwnd
        assert before >= 70_000
        s.wait(connection.info.rto + 10 * MS)
        connection.send(b"again")
        s.drain()
        assert before / 2 <= connection.info.snd_cwnd <= before / 2 + 1000
        s.send("A", seq=1, ack=70_006)
        s.wait(60 * SECOND)
        connection.send(b"again")
        s.drain()
        assert connection.info.snd_cwnd == 10_000
        assert connection.info.snd_ssthresh > 0x7FFFFFFF


def test_application_limited_sender_comes_back_to_what_it_uses() -> None:
    """RFC 2861 section 3.2."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(bytes(70_000))
        s.drain()
        for window in (10, 20, 40):
            s.wait(RTT)
            acknowledge(s, 1 + 1000 * (window * 2 - 10), start=1 + 1000 * (window - 10))
        ack = 70_001
        for _ in range(40):
            connection.send(bytes(1000))
            ack += 1000
            s.wait(RTT)
            s.send("A", seq=1, ack=ack)
        assert connection.info.snd_cwnd < 20_000


# ---- reno and cubic ----------------------------------------------------------------------------------------


def test_reno_grows_by_a_segment_for_each_window_of_whole_segments() -> None:
    """RFC 5681 section 3.1: one a round trip, and a window of 5.5 segments lets five of them out in each."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(60_000))
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=1001)
        assert connection.info.snd_cwnd == 11_000
        s.send("A", seq=1, ack=1001, sack=[(2001, 12_001)])
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=12_001)
        assert (connection.info.ca_state, connection.info.snd_cwnd) == (0, 5500)
        ack, counted = 12_001, 1000  # the segment that was repaired
        for window in (5500, 6500, 7500):
            assert connection.info.snd_cwnd == window
            s.drain()
            s.wait(RTT)
            ack += window // 1000 * 1000 - counted
            s.send("A", seq=1, ack=ack)
            counted = 0
        assert connection.info.snd_cwnd == 8500


@pytest.mark.parametrize(("name", "kept"), [(b"reno", 0.5), (b"cubic", 0.7)])
def test_multiplicative_decrease(name: bytes, kept: float) -> None:
    """RFC 5681 section 3.1, RFC 9438 section 4.6."""
    with Script(congestion=named(name)) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(50_000))
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=1, sack=[(1001, 10_001)])
        assert connection.info.snd_ssthresh == 10_000 * kept


def test_hystart_ends_slow_start_when_the_rtt_grows() -> None:
    """RFC 9406 section 4.2: a queue is building up; after five slower rounds slow start is over, without a loss."""
    with World(1, delay_ns=20 * MS, rate_bps=20_000_000, queue_frames=1000) as world:
        client = world.host("10.1.0.1/24", congestion=named(b"cubic"))
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        connection.send(bytes(12_000_000))
        world.run(5 * SECOND)
        info = connection.info
        assert info.snd_ssthresh < 0x7FFFFFFF
        assert info.bytes_retrans == 0
        assert info.snd_ssthresh > 100_000  # the path holds 100 KB


def transfer(name: bytes, size: int, *, pacing: bool = False, **link: Any) -> tuple[float, Connection, World]:
    """Sends ``size`` bytes over a link; seconds it took, the sender, the closed world."""
    with World(3, **link) as world:
        client = world.host("10.1.0.1/24", congestion=named(name))
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        assert world.run(10 * SECOND, lambda: connection.connected)
        if pacing:
            connection.option(lib.AMS_OPT_PACING, 1)
        connection.send(bytes(size))
        start = world.now
        assert world.run(600 * SECOND, lambda: connection.info.send_queue == 0)
        return (world.now - start) / SECOND, connection, world


def test_bbr_fills_a_lossy_path() -> None:
    """Loss is no signal: 2 % leave most of 20 Mbit/s, where Reno keeps little of it."""
    link: dict[str, Any] = {"delay_ns": 25 * MS, "rate_bps": 20_000_000, "queue_frames": 100, "loss": 0.02}
    bbr, _, _ = transfer(b"bbr", 10_000_000, **link)
    reno, _, _ = transfer(b"reno", 10_000_000, **link)
    assert 10_000_000 * 8 / bbr > 15_000_000
    assert reno > 3 * bbr


def test_bbr_keeps_queues_short() -> None:
    """In a buffer of ten bandwidth-delay products CUBIC builds a queue; BBR keeps about one of them in flight."""
    link: dict[str, Any] = {"delay_ns": 20 * MS, "rate_bps": 20_000_000, "queue_frames": 700}

    def srtt(name: bytes) -> float:
        with World(3, **link) as world:
            client = world.host("10.1.0.1/24", congestion=named(name))
            server = world.host("10.1.0.2/24")
            server.listen()
            connection = client.connect("10.1.0.2")
            connection.send(bytes(60_000_000))
            world.run(15 * SECOND)
            assert client.counters()["stack.tcp_tx_bytes"] > 25_000_000
            return int(connection.info.srtt) / MS

    assert srtt(b"bbr") < 60 < 80 < srtt(b"cubic")


def test_bbr_probes_for_the_minimum_rtt() -> None:
    """Every ten seconds four segments in flight for 200 ms, when no new minimum was seen."""
    with World(3, delay_ns=20 * MS, rate_bps=20_000_000, queue_frames=100, jitter_ns=2 * MS) as world:
        client = world.host("10.1.0.1/24", congestion=named(b"bbr"))
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        connection.send(bytes(60_000_000))
        lowest = []
        for _ in range(30 * 20):
            world.run(50 * MS)
            lowest.append(connection.info.snd_cwnd)
        assert min(lowest[20 * 5 :]) == 4 * 1448
        assert lowest.count(4 * 1448) < 60  # 2 % of the time and a little


# ---- pacing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"cubic", b"reno"])
def test_pacing_spreads_the_window(name: bytes) -> None:
    """Linux's rule: twice cwnd over srtt in slow start."""
    with Script(congestion=named(name)) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.option(lib.AMS_OPT_PACING, 1)
        connection.send(bytes(10_000))
        s.wait(RTT)
        s.drain()
        s.send("A", seq=1, ack=10_001)  # from here on there is a rate: about 200 to 400 segments a second
        connection.send(bytes(10_000))
        s.wait(0)
        assert 1 <= len(s.queue) <= 3
        s.wait(20 * MS)
        assert 4 <= len(s.queue) <= 9
        s.wait(40 * MS)
        assert len(s.queue) == 10


def test_paced_segments_leave_in_bursts_where_no_port_splits_super_frames() -> None:
    """Two segments at least, as Linux, and no third before its time, even if an ACK comes first."""
    with Script(congestion=named(b"reno")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.option(lib.AMS_OPT_PACING, 1)
        connection.send(bytes(10_000))
        s.wait(RTT)
        s.drain()
        s.send("A", seq=1, ack=10_001)  # from here on there is a rate
        connection.send(bytes(20_000))
        s.wait(0)
        assert len(s.queue) == 2
        start = s.queue[0][0]
        rate = connection.info.pacing_rate
        s.wait(500 * SECOND // rate)  # half a segment later
        s.send("A", seq=1, ack=11_001)
        assert len(s.queue) == 2
        s.wait(RTT)
        leaving = Counter(at for at, _ in s.queue)
        assert set(leaving.values()) == {2}
        assert sorted(leaving)[1] - start == pytest.approx(2000 * SECOND / rate, abs=MS)


def test_the_initial_window_is_not_paced() -> None:
    """As Linux, whose fair queue paces from the eleventh segment on: a request's answer leaves at once."""
    with Script(congestion=named(b"bbr")) as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        connection.send(bytes(40_000))
        s.wait(0)
        assert len(s.queue) == 10
        s.drain()
        s.wait(RTT)
        s.send("A", seq=1, ack=10_001)
        s.wait(RTT // 4)
        leaving = Counter(at for at, _ in s.queue)
        assert len(leaving) > 1
        assert max(leaving.values()) == 2


@pytest.mark.parametrize(("mbps", "segments"), [(20, 2), (2, 2), (1, 1)])
def test_bbr_fills_a_link_by_short_bursts(mbps: int, segments: int) -> None:
    """A lone flow is paced, not clocked by its window.  Below 1.2 Mbit/s, as Linux's, segment by segment."""
    with World(3, delay_ns=50 * MS, rate_bps=mbps * 1_000_000, queue_frames=200) as world:
        client = world.host("10.1.0.1/24", congestion=named(b"bbr"))
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        connection.send(bytes(15_000_000))
        world.run(4 * SECOND)
        wire = world.wire(monitor=True)
        world.run(SECOND)
        mac = bytes(client.mac)
        bursts = Counter(at for at, frame in wire.frames if frame[6:12] == mac and len(frame) > 1000)
        assert len(bursts) > 70 * mbps / segments
        assert sum(count == segments for count in bursts.values()) > 0.9 * len(bursts)


def test_a_conversation_is_not_paced_unless_somebody_asks() -> None:
    """That data flows both ways, and ACKs wait to ride on it, has nothing to do with pacing."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=RTT)
        for i in range(5):
            s.send("PA", seq=1 + 10 * i, ack=1 + 1000 * i, data=bytes(10))
            connection.send(bytes(1000))
            s.drain()
        s.wait(RTT)
        s.send("A", seq=51, ack=5001)
        assert connection.info.pacing_rate == 0


def test_pacing_keeps_the_rate_in_the_long_run() -> None:
    """Wake-ups are late by up to a tick each; the rate must not be."""
    paced, _, _ = transfer(b"cubic", 10_000_000, pacing=True, delay_ns=10 * MS, rate_bps=50_000_000, queue_frames=200)
    plain, _, _ = transfer(b"cubic", 10_000_000, delay_ns=10 * MS, rate_bps=50_000_000, queue_frames=200)
    assert paced < 1.2 * plain


def departures(flags: int) -> tuple[list[tuple[int, int]], int]:
    """When frames with data left a CUBIC sender that fills 100 Mbit/s, how long they were, and its pacing rate."""
    with World(3, delay_ns=10 * MS, rate_bps=100_000_000, queue_frames=1000) as world:
        client = world.host("10.1.0.1/24", flags=lib.AMS_STACK_NO_DAD | flags)
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        connection.send(bytes(10_000_000))
        world.run(500 * MS)
        wire = world.wire(monitor=True)
        world.run(100 * MS)
        mac = bytes(client.mac)
        return [(at, len(frame)) for at, frame in wire.frames if frame[6:12] == mac], int(connection.info.pacing_rate)


def test_a_stack_can_pace_all_its_connections() -> None:
    """What leaves at one instant is a millisecond's data at most; else it is what an ACK lets go."""
    frames, rate = departures(lib.AMS_STACK_PACING)
    bursts: dict[int, int] = {}
    for at, length in frames:
        bursts[at] = bursts.get(at, 0) + length
    assert rate > 10_000_000
    assert sum(bursts.values()) > 900_000
    assert len(bursts) > 60  # in 100 ms
    assert max(bursts.values()) < 3 * rate / 1000
    _, unpaced = departures(0)
    assert unpaced == 0


def test_super_frames_are_a_millisecond_long_where_output_is_paced() -> None:
    """As Linux sizes them: not what the window lets go, not two segments."""
    with Script(offload=True, flags=lib.AMS_STACK_NO_DAD | lib.AMS_STACK_PACING) as s:
        connection = s.open(mss=1000, sack=True, rtt=5 * MS)
        connection.send(bytes(60_000))
        s.wait(5 * MS)
        s.drain()
        s.send("A", seq=1, ack=10_001)
        s.wait(5 * MS)
        rate = connection.info.pacing_rate
        lengths = [s._payload_length(frame) for _, frame in s.queue]
        assert sum(lengths) > 15_000
        assert 3000 <= max(lengths) <= rate / 1000


def test_a_loop_that_is_busy_now_and_then_does_not_lower_the_rate() -> None:
    """Wake-ups that are late by 8 ms: what wasn't sent meanwhile is sent then."""
    link: dict[str, Any] = {"delay_ns": 25 * MS, "rate_bps": 20_000_000, "queue_frames": 100}
    with World(3, **link) as world:
        client = world.host("10.1.0.1/24", congestion=named(b"bbr"))
        server = world.host("10.1.0.2/24")
        server.listen()
        connection = client.connect("10.1.0.2")
        assert world.run(10 * SECOND, lambda: connection.connected)
        connection.send(bytes(20_000_000))
        for _ in range(10 * SECOND // (8 * MS)):
            world.now += 8 * MS  # nothing runs
            world.settle()
        assert len(server.accepted[0].received) * 8 / 10 > 15_000_000
