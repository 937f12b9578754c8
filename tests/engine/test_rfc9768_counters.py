"""Accurate ECN (RFC 9768): the ACE field that counts, and what it means for the rest of TCP."""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .accecn import (
    ACCURATE,
    INITIAL,
    ORDER0,
    accurate,
    ace,
    letters,
    opened,
    option,
    sends_ect,
    server,
)
from .script import MS, SECOND, Script
from .test_rfc3168_ecn import CE, ECT0, ECT1, codepoint
from .test_tcp_congestion import named
from .world import Connection, Host, World

# ---- the ACE field ------------------------------------------------------------------------------------------------


def test_ce_is_counted_modulo_eight() -> None:
    """Section 3.2.2: pure ACKs and data that comes again count, too."""
    with server() as s:
        connection = opened(s)
        for i in range(12):
            s.send("PA" + letters(INITIAL), seq=1 + i, ack=1, data=b"x", tos=CE)
        s.drain()
        connection.send(b"data")
        assert ace(s.expect("PA" + letters((INITIAL + 12) % 8))) == (INITIAL + 12) % 8
        s.send("A" + letters(INITIAL), seq=13, ack=5, tos=CE)
        s.send("PA" + letters(INITIAL), seq=12, ack=5, data=b"xy", tos=CE)  # half of it came before
        s.drain()
        assert connection.info.received_ce == 14


def test_an_unacceptable_segment_does_not_count() -> None:
    """Section 3.2: only acceptable packets do."""
    with server() as s:
        connection = opened(s)
        s.send("PA" + letters(INITIAL), seq=1_000_000, ack=1, data=b"x", tos=CE)
        s.send("A" + letters(INITIAL), seq=1, ack=1_000_000, tos=CE)
        assert connection.info.received_ce == 0


def test_the_mode_has_no_cwr_and_no_echo() -> None:
    """Section 3.1.5: a reduction is not announced; data that sets CWR's bit clears nothing."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 30000)
        s.drain()
        s.send("A" + letters(INITIAL + 1), seq=1, ack=1001)
        assert connection.info.ca_state == 2  # CWR
        for i in range(2, 9):
            s.send("A" + letters(INITIAL + 1), seq=1, ack=1 + i * 1000)
        while s.queue:
            segment = s.queue.pop(0)[1]
            assert ace(segment["TCP"]) == INITIAL
            assert codepoint(s, segment["TCP"]) == ECT0


def test_one_reduction_for_each_window() -> None:
    """Each CE is counted; cwnd is halved once per round trip (RFC 3168 section 6.1.2)."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 30000)
        s.drain()
        before = connection.info.snd_cwnd
        for i in range(1, 6):
            s.send("A" + letters((INITIAL + i) % 8), seq=1, ack=1 + i * 1000)
        assert connection.info.delivered_ce == 5
        assert connection.info.snd_ssthresh == before // 2
        assert s.counter("tcp_ecn_reduced") == 1
        assert s.counter("tcp_retrans") == 0


def test_an_old_ack_is_ignored() -> None:
    """Section 3.2.2.2: what a later one has superseded would look like seven marks more."""
    with server() as s:
        connection = opened(s, mss=1000, timestamps=True)
        connection.send(b"x" * 4000)
        s.drain()
        s.tsval += 10
        s.send("A" + letters(INITIAL + 1), seq=1, ack=3001)
        s.send("A" + letters(INITIAL), seq=1, ack=2001, tsval=s.tsval - 5)
        assert connection.info.delivered_ce == 1
        s.send("A" + letters(INITIAL + 2), seq=1, ack=3001, tsval=s.tsval + 1)  # new by its timestamp
        assert connection.info.delivered_ce == 2


def test_the_first_ce_after_others_is_acknowledged_at_once() -> None:
    """Section 3.2.2.5.1, change-triggered; one CE more is not, two are (increment-triggered)."""
    with server() as s:
        connection = opened(s, mss=1000)
        for i in range(20):  # beyond the ACKs at once of the beginning
            s.send("PA" + letters(INITIAL), seq=1 + i, ack=1, data=b"x", tos=ECT0)
        s.wait(100 * MS)
        s.drain()
        s.send("PA" + letters(INITIAL), seq=21, ack=1, data=b"x", tos=ECT0)
        s.quiet(MS)
        s.send("PA" + letters(INITIAL), seq=22, ack=1, data=b"x", tos=CE)
        s.expect("A" + letters(INITIAL + 1), ack=23)
        s.send("PA" + letters(INITIAL), seq=23, ack=1, data=b"x", tos=CE)
        s.quiet(MS)
        s.send("PA" + letters(INITIAL), seq=24, ack=1, data=b"x", tos=CE)
        s.expect("A" + letters((INITIAL + 3) % 8), ack=25)
        assert connection.info.received_ce == 3


def test_every_third_marked_ack_is_acknowledged() -> None:
    """Section 3.2.2.5.1: ACKs of ACKs, that have no SACK blocks and don't go on for ever."""
    with server() as s:
        opened(s)
        for i in range(6):
            s.send("A" + letters(INITIAL), seq=1, ack=1, tos=CE)
            if i % 3 == 2:
                s.expect("A" + letters((INITIAL + i + 1) % 8), ack=1, length=0)
            else:
                s.quiet(MS)


# ---- whether the field has gone round (section 3.2.2.5.2) ---------------------------------------------------------


def marked(s: Script, connection: Connection, rounds: int) -> int:
    """Sends segments one by one, each of them reported as marked.  Returns the peer's counter."""
    counter = INITIAL
    for _ in range(rounds):
        start = connection.info.bytes_acked
        connection.send(b"x" * 1000)
        s.drain()
        counter += 1
        s.send("A" + letters(counter % 8), seq=1, ack=start + 1001)
    return counter


def test_a_jump_after_dense_marks_counts_the_hidden_cycles() -> None:
    """Everything was marked of late: of 18 packets in one ACK, a difference of 2 means 18, not 2."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 100_000)
        acked = 0
        while connection.info.unacked < 30_000:  # slow start
            s.drain()
            acked += connection.info.unacked
            s.send("A" + letters(INITIAL), seq=1, ack=1 + acked)
        s.drain()
        for i in range(1, 5):
            s.send("A" + letters((INITIAL + i) % 8), seq=1, ack=1 + acked + i * 1000)
        assert connection.info.delivered_ce == 4
        s.send("A" + letters((INITIAL + 4 + 2) % 8), seq=1, ack=1 + acked + 22_000)
        assert connection.info.delivered_ce == 22


def test_a_jump_on_a_path_without_marks_counts_what_is_seen() -> None:
    """One ACK for many segments, as hosts send that merge what they receive, is no sign of congestion."""
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 10000)
        s.drain()
        s.send("A" + letters(INITIAL), seq=1, ack=10001)
        assert connection.info.delivered_ce == 0
        assert connection.info.snd_ssthresh == 0xFFFFFFFF


@pytest.mark.parametrize(("bytes_marked", "counted"), [(10000, 10), (2000, 2), (0, 2)])
def test_the_option_tells_how_often_it_went_round(bytes_marked: int, counted: int) -> None:
    with server(congestion=named(b"reno")) as s:
        connection = opened(s, mss=1000, sack=True)
        connection.send(b"x" * 10000)
        s.drain()
        fields = (10001 - bytes_marked, bytes_marked, 1)
        s.send("A" + letters((INITIAL + 2) % 8), seq=1, ack=10001, options=option(ORDER0, *fields))
        assert connection.info.delivered_ce == counted
        assert connection.info.delivered_ce_bytes == bytes_marked
        assert connection.info.delivered_ect0_bytes == 10000 - bytes_marked


def test_marks_that_never_stop_are_not_believed() -> None:
    """Section 3.2.2.3: every packet of four rounds was marked: that is no queue."""
    with server() as s:
        connection = opened(s, mss=1000, sack=True)
        marked(s, connection, 6)
        reduced = s.counter("tcp_ecn_reduced")
        assert not sends_ect(s, connection)
        s.send("A" + letters((INITIAL + 7) % 8), seq=1, ack=6005)
        assert s.counter("tcp_ecn_reduced") == reduced


# ---- with other parts of TCP ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("third", "expected"), [(0b010, True), (0b110, True), (0b111, True), (0, False), (1, False)])
def test_syn_cookies(third: int, expected: bool) -> None:
    """Section 5.1: nothing is kept; the ACK tells which mode it was."""
    with server(syn_cookies=lib.AMS_SYN_COOKIES_ALWAYS) as s:
        s.syn(flags="SECN" if expected else "S", tos=ECT1)
        s.expect("SACE" if expected else "SA", ack=1)
        s.send("A" + letters(third), seq=1, ack=1)
        assert accurate(s.accepted()) == expected


def test_fast_open_data_in_the_syn_is_not_counted() -> None:
    """Section 3.2."""
    with server(fastopen=lib.AMS_FASTOPEN_SERVER | lib.AMS_FASTOPEN_LISTENERS | lib.AMS_FASTOPEN_SERVER_NO_COOKIE) as s:
        s.send("SECN", seq=0, options=[("MSS", 1000)], data=b"hello", tos=CE)
        connection = s.accepted()
        assert connection.received == b"hello"
        s.expect("SACN", ack=6)
        connection.send(b"world")
        s.expect("PA" + letters(INITIAL), seq=1)
        s.send("AC", seq=6, ack=6)
        assert connection.info.received_ce_bytes == 0
        assert connection.info.received_ce == 0


def test_time_wait_repeats_the_counter() -> None:
    with server() as s:
        connection = opened(s)
        s.send("PA" + letters(INITIAL), seq=1, ack=1, data=b"x", tos=CE)
        s.drain()
        connection.close()
        s.expect("FA" + letters(INITIAL + 1), seq=1)
        s.send("FA" + letters(INITIAL), seq=2, ack=2)
        s.expect("A" + letters(INITIAL + 1), ack=3)
        s.send("FA" + letters(INITIAL), seq=2, ack=2)
        s.expect("A" + letters(INITIAL + 1), ack=3)


def test_super_frames_are_left_to_who_would_not_change_their_flags() -> None:
    """Section 3.3.4: a port that cuts a super-frame clears CWR in all parts but the first."""
    with server(offload=True) as s:
        connection = opened(s, mss=1000)
        connection.send(b"x" * 4000)
        s.expect("PA" + letters(INITIAL), length=4000)  # 5 has no CWR
        s.send("PA" + letters(INITIAL), seq=1, ack=4001, data=b"x", tos=CE)
        s.drain()
        connection.send(b"y" * 4000)
        for i in range(4):
            s.expect(("PA" if i == 3 else "A") + letters(INITIAL + 1), seq=4001 + i * 1000, length=1000)


def test_the_counters_memory_goes_with_the_connection() -> None:
    """What one connection has left (the TCB is kept for the next one) is enough for the second."""
    with server() as s:
        memory = []
        for _ in range(3):
            connection = opened(s)
            open_ = lib.ams_stack_memory(s.host.stack)
            connection.abort()
            s.wait(0)
            s.drain()
            s.port += 1
            memory.append(lib.ams_stack_memory(s.host.stack))
            assert memory[-1] < open_
        assert memory[0] == memory[1] == memory[2]


def received(host: Host) -> int:
    """Bytes that the first connection of a host has brought."""
    return len(host.accepted[0].received) if host.accepted else 0


def test_both_ends_over_a_marking_queue() -> None:
    """Bulk data through a bottleneck that marks: no loss, and both ends agree on what was marked."""
    world = World(seed=3, delay_ns=10 * MS, rate_bps=20_000_000, queue_frames=1000, mark_frames=15)
    try:
        sender = world.host("10.1.0.1/24", ecn=ACCURATE)
        receiver = world.host("10.1.0.2/24", ecn=ACCURATE)
        receiver.listen()
        connection = sender.connect("10.1.0.2")
        data = bytes(2_000_000)
        connection.send(data)
        world.run(60 * SECOND, until=lambda: received(receiver) >= len(data))
        world.run(SECOND)
        ours, theirs = connection.info, receiver.accepted[0].info
        assert accurate(connection)
        assert ours.bytes_retrans == 0
        assert 0 < ours.delivered_ce == theirs.received_ce
        assert ours.delivered_ce_bytes == theirs.received_ce_bytes
        assert ours.delivered_ect0_bytes == theirs.received_ect0_bytes
        assert ours.delivered_ce_bytes + ours.delivered_ect0_bytes == len(data)
        assert sender.counters()["stack.tcp_ecn_reduced"] > 2
    finally:
        world.close()


def test_both_ends_over_a_bad_marking_queue() -> None:
    """The same with loss and reordering: data is whole, and the field's copy keeps up."""
    world = World(
        seed=5, delay_ns=10 * MS, rate_bps=20_000_000, mark_frames=3, loss=0.003, reorder=0.01, duplicate=0.01
    )
    try:
        sender = world.host("10.1.0.1/24", ecn=ACCURATE)
        receiver = world.host("10.1.0.2/24", ecn=ACCURATE)
        receiver.listen()
        connection = sender.connect("10.1.0.2")
        data = bytes(range(256)) * 3000
        connection.send(data)
        world.run(300 * SECOND, until=lambda: received(receiver) >= len(data))
        world.run(5 * SECOND)
        assert bytes(receiver.accepted[0].received) == data
        ours, theirs = connection.info, receiver.accepted[0].info
        assert accurate(connection)
        assert 0 < ours.delivered_ce == theirs.received_ce
        assert ours.delivered_ce_bytes == theirs.received_ce_bytes
    finally:
        world.close()
