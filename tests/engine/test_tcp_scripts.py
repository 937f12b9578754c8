"""TCP by packet scripts: what the engine must send, segment by segment.

Each test names the RFC and section that it holds the engine to.
"""

from __future__ import annotations

import pytest
from aiomultistack._native import lib

from .script import IP, MS, PEER_MAC, SECOND, TCP, Ether, Script

# ---- opening (RFC 9293 section 3.5) -------------------------------------------------------------------------


@pytest.mark.parametrize("v6", [False, True])
def test_passive_open_offers_only_what_the_peer_offered(v6: bool) -> None:
    with Script(v6=v6) as s:
        s.syn(mss=1400)
        s.expect("SA", ack=1, length=0, mss=1440 if v6 else 1460, sack_ok=False)
        s.send("A", seq=1, ack=1)
        assert s.accepted().info.options == 0
        s.quiet()


def test_passive_open_with_all_options() -> None:
    with Script() as s:
        s.syn(sack=True, wscale=5, timestamps=True)
        segment = s.expect("SA", ack=1, mss=1460, wscale=7, sack_ok=True)
        assert [name for name, _ in segment.options] == ["MSS", "SAckOK", "Timestamp", "NOP", "WScale"]
        s.send("A", seq=1, ack=1, win=100)
        info = s.accepted().info
        assert info.snd_wnd == 100 << 5
        assert info.snd_mss == 1448
        assert info.options == lib.AMS_INFO_SACK | lib.AMS_INFO_TIMESTAMPS | lib.AMS_INFO_WSCALE


def test_active_open() -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S", seq=0, length=0, mss=1460, wscale=7, sack_ok=True)
        s.send("SA", seq=0, ack=1, options=[("MSS", 1000)])
        s.expect("A", seq=1, ack=1, length=0)
        assert connection.connected
        assert connection.info.snd_mss == 1000
        s.quiet()


def test_syn_is_retransmitted_with_backoff() -> None:
    """RFC 6298 sections 2.1 and 5.5."""
    with Script(listen=None) as s:
        s.connect()
        s.expect("S")
        for delay in (1, 2, 4, 8):
            s.expect("S", seq=0, after=delay * SECOND)


def test_the_first_timeouts_of_a_syn_may_be_equal() -> None:
    """syn_linear_timeouts: as Linux's sysctl; so many more retransmissions are made (its tcp_write_timeout())."""
    with Script(listen=None, syn_linear_timeouts=2, syn_retries=3) as s:
        connection = s.connect()
        s.expect("S")
        for seconds in (1, 1, 1, 2, 4):
            s.expect("S", after=seconds * SECOND)
        s.quiet(7 * SECOND)
        s.wait(2 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_timeouts_have_a_limit() -> None:
    """rto_max_ms (RFC 6298 section 2.4): of SYNs, SYN-ACKs and data."""
    with Script(rto_max_ms=1500) as s:
        s.syn()
        s.expect("SA")
        for delay in (1000, 1500, 1500):
            s.expect("SA", after=delay * MS)
        s.send("A", seq=1, ack=1)
        s.accepted().send(b"data")
        s.expect("PA", length=4)
        s.wait(4 * SECOND)
        s.drain()
        for _ in range(3):
            s.expect("PA", length=4, after=1500 * MS, tolerance=1500 * MS)
        start = s.world.now
        for _ in range(4):
            s.expect("PA", length=4, after=1500 * MS)
        assert s.world.now - start == pytest.approx(6 * SECOND, rel=0.01)


def test_syn_ack_is_retransmitted_and_the_connection_given_up() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        for delay in (1, 2, 4, 8, 16):
            s.expect("SA", seq=0, ack=1, after=delay * SECOND)
        s.quiet(120 * SECOND)
        assert not s.host.accepted
        assert lib.ams_stack_endpoints(s.host.stack) == 1


def test_repeated_syn_gets_the_same_syn_ack() -> None:
    with Script() as s:
        s.syn()
        iss = s.expect("SA").seq
        s.syn()
        assert s.expect("SA", ack=1).seq == iss


def test_simultaneous_open() -> None:
    """RFC 9293 section 3.5, figure 7."""
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("S", seq=0, options=[("MSS", 1460)])
        s.expect("SA", seq=0, ack=1)
        s.send("SA", seq=0, ack=1)
        assert connection.connected
        assert connection.info.state == lib.AMS_TCP_ESTABLISHED


def test_rst_in_answer_to_syn_refuses() -> None:
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("RA", seq=0, ack=1)
        assert connection.closed == "ECONNREFUSED"
        s.quiet()


def test_bad_ack_in_syn_sent_is_reset_and_ignored() -> None:
    """RFC 9293 section 3.10.7.3, first."""
    with Script(listen=None) as s:
        connection = s.connect()
        s.expect("S")
        s.send("SA", seq=0, ack=77)
        s.expect("R", seq=77)
        assert connection.closed is None
        assert not connection.connected


def test_segment_to_a_closed_port() -> None:
    """RFC 9293 section 3.10.7.1."""
    with Script() as s:
        s.local_port = 81
        s.syn()
        s.expect("RA", ack=1)
        s.send("A", seq=5, ack=9)
        s.expect("R")
        s.send("R", seq=5)
        s.quiet()


def test_ack_to_a_listener_is_reset() -> None:
    with Script() as s:
        s.send("A", seq=1, ack=1)
        s.expect("R")


def test_wrong_ack_of_the_syn_ack_is_reset() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("A", seq=1, ack=5000)
        s.expect("R", seq=5000)
        assert not s.host.accepted


def test_rst_ends_an_embryonic_connection() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("R", seq=1)
        s.quiet(10 * SECOND)
        assert not s.host.accepted


def test_data_with_the_final_ack_is_delivered() -> None:
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.send("PA", seq=1, ack=1, data=b"early")
        assert s.accepted().received == b"early"


# ---- data and acknowledgements ------------------------------------------------------------------------------


def test_delayed_ack() -> None:
    """RFC 9293 section 3.8.6.3; 40 ms as Linux, once data has flowed both ways."""
    with Script() as s:
        s.open().option(lib.AMS_OPT_QUICKACK, 0)
        s.send("PA", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", seq=1, ack=101, after=40 * MS)
        s.quiet()


def test_the_first_segments_are_acknowledged_without_delay() -> None:
    """As Linux does, so that the peer's slow start is not held up: 16 of them, and again after a silence."""
    with Script() as s:
        connection = s.open()
        for i in range(16):
            s.send("PA", seq=1 + i, ack=1, data=b"x")
            s.expect("A", ack=2 + i)
        s.send("PA", seq=17, ack=1, data=b"x")
        s.expect("A", ack=18, after=40 * MS)
        s.wait(3 * SECOND)
        s.send("PA", seq=18, ack=1, data=b"x")
        s.expect("A", ack=19)
        connection.send(b"answer")
        s.expect("PA", length=6)
        s.send("PA", seq=19, ack=7, data=b"x")
        s.expect("A", ack=20, after=40 * MS)


def test_every_second_full_segment_is_acknowledged_at_once() -> None:
    """RFC 5681 section 4.2."""
    with Script() as s:
        s.open().option(lib.AMS_OPT_QUICKACK, 0)
        s.send("A", seq=1, ack=1, data=b"x" * 1460)
        assert not s.queue
        s.send("A", seq=1461, ack=1, data=b"x" * 1460)
        s.expect("A", ack=2921)


def test_ack_rides_on_data() -> None:
    with Script() as s:
        connection = s.open()
        connection.on_data = lambda c: c.send(b"answer")
        s.send("PA", seq=1, ack=1, data=b"question")
        s.expect("PA", seq=1, ack=9, data=b"answer")
        s.send("A", seq=9, ack=7)
        s.quiet()


def test_out_of_order_data_is_acknowledged_at_once_and_kept() -> None:
    """RFC 5681 section 4.2."""
    with Script() as s:
        connection = s.open()
        s.send("A", seq=101, ack=1, data=b"b" * 100)
        s.expect("A", ack=1)
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        s.expect("A", ack=201)
        assert connection.received == b"a" * 100 + b"b" * 100


def test_sack_blocks_latest_first() -> None:
    """RFC 2018 section 4."""
    with Script() as s:
        s.open(sack=True)
        s.send("A", seq=101, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(101, 201)])
        s.send("A", seq=301, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(301, 401), (101, 201)])
        s.send("A", seq=201, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(101, 401)])
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=401, sack=[])


def test_each_block_is_reported_however_often_one_changed() -> None:
    """RFC 2018 section 4: as many of the latest blocks as there is room for."""
    with Script() as s:
        s.open(sack=True)
        for seq in (101, 301, 501):
            s.send("A", seq=seq, ack=1, data=b"x" * 100)
            s.expect("A", ack=1)
        for seq in range(601, 1101, 100):
            s.send("A", seq=seq, ack=1, data=b"x" * 100)
            s.expect("A", ack=1, sack=[(501, seq + 100), (301, 401), (101, 201)])
        s.send("A", seq=501, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(501, 601), (501, 1101), (301, 401), (101, 201)])
        s.send("A", seq=1201, ack=1, data=b"x" * 100)
        s.expect("A", ack=1, sack=[(1201, 1301), (501, 1101), (301, 401), (101, 201)])


def test_dsack_reports_duplicates() -> None:
    """RFC 2883 section 4.1."""
    with Script() as s:
        s.open(sack=True)
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=101)
        s.send("A", seq=1, ack=1, data=b"x" * 100)
        s.expect("A", ack=101, sack=[(1, 101)])


def test_overlapping_segments_keep_what_came_first() -> None:
    with Script() as s:
        connection = s.open()
        s.send("A", seq=51, ack=1, data=b"b" * 50)
        s.send("A", seq=41, ack=1, data=b"c" * 80)
        s.send("A", seq=1, ack=1, data=b"a" * 60)
        s.drain()
        s.wait(SECOND)
        received = bytes(connection.received)
        assert received.startswith(b"a" * 41)
        assert len(received) >= 60
        s.send("A", seq=1 + len(received), ack=1, data=b"d")
        assert bytes(connection.received) == received + b"d"


def test_data_beyond_the_window_is_cut() -> None:
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        s.send("A", seq=1, ack=1, data=b"x" * 1460)
        s.send("A", seq=1461, ack=1, data=b"x" * 1460)
        s.send("A", seq=2921, ack=1, data=b"x" * 1460)
        s.drain()
        assert connection.info.recv_queue == 4096
        assert connection.info.rcv_wnd == 0
        connection.resume()
        segment = s.expect("A", ack=4097)
        assert segment.window == 4096


def test_zero_window_probe_is_answered() -> None:
    """RFC 9293 section 3.8.6.1."""
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        for seq in (1, 1461, 2921):
            s.send("A", seq=seq, ack=1, data=b"x" * min(1460, 4097 - seq))
        s.drain()
        s.wait(SECOND)
        s.drain()
        s.send("A", seq=4097, ack=1, data=b"?")
        s.expect("A", ack=4097, win=0)


def test_our_fin_may_be_acknowledged_beside_data_that_has_no_room() -> None:
    """Section 3.10.7.4: with a closed window the ACK of an unacceptable segment counts, also for the FIN's state."""
    with Script(rcvbuf=4096) as s:
        connection = s.open()
        connection.pause()
        for seq in (1, 1461, 2921):
            s.send("A", seq=seq, ack=1, data=b"x" * min(1460, 4097 - seq))
        connection.shutdown()
        s.drain()
        s.send("A", seq=4097, ack=2, data=b"no room")
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_2
        connection.resume()
        s.drain()
        s.send("FA", seq=4097, ack=2)
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT


# ---- sending ------------------------------------------------------------------------------------------------


def test_segments_are_mss_sized_and_the_last_has_psh() -> None:
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 2500)
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=1001, length=1000)
        s.expect("PA", seq=2001, length=500)


def test_initial_window_of_ten() -> None:
    """RFC 6928 section 2."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 50_000)
        for index in range(10):
            s.expect("A", seq=1 + 1000 * index, length=1000)
        assert not s.queue
        s.send("A", seq=1, ack=10_001)
        for index in range(10, 30):  # slow start doubles it
            s.expect("A", seq=1 + 1000 * index, length=1000)


def test_nagle_holds_a_short_segment_while_data_is_in_flight() -> None:
    """RFC 9293 section 3.7.4."""
    with Script() as s:
        connection = s.open()
        connection.send(b"first")
        s.expect("PA", seq=1, length=5)
        connection.send(b"second")
        s.wait(10 * MS)
        assert not s.queue
        s.send("A", seq=1, ack=6)
        s.expect("PA", seq=6, data=b"second")


def test_nodelay_sends_at_once() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"first")
        s.expect("PA", seq=1, length=5)
        connection.send(b"second")
        s.expect("PA", seq=6, data=b"second")


def test_cork_holds_until_it_is_taken_off() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_CORK, 1)
        connection.send(b"one")
        s.wait(100 * MS)
        assert not s.queue
        connection.send(b"two")
        connection.option(lib.AMS_OPT_CORK, 0)
        s.expect("PA", data=b"onetwo")


def test_fin_rides_on_the_last_data() -> None:
    with Script() as s:
        connection = s.open()
        connection.send(b"last words")
        connection.close()
        s.expect("FPA", seq=1, data=b"last words")


def test_peer_window_limits_and_probes_open_it() -> None:
    """RFC 9293 section 3.8.6.1: probes with exponential back-off."""
    with Script() as s:
        connection = s.open(win=0)
        connection.send(b"waiting")
        s.expect("A", seq=0, length=0, after=200 * MS, tolerance=30 * MS)
        s.send("A", seq=1, ack=1, win=0)
        s.expect("A", seq=0, length=0, after=400 * MS, tolerance=60 * MS)
        s.send("A", seq=1, ack=1, win=1000)
        s.expect("PA", seq=1, data=b"waiting")


def test_a_shrunk_window_does_not_confuse_the_sender() -> None:
    """RFC 9293 section 3.8.6: SHLD-14."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.option(lib.AMS_OPT_NODELAY, 1)
        connection.send(b"x" * 3000)
        for _ in range(3):
            s.expect("A" if _ < 2 else "PA", length=1000)
        connection.send(b"y" * 1000)
        s.expect("PA", seq=3001)
        s.send("A", seq=1, ack=1001, win=500)
        connection.send(b"z" * 1000)
        s.wait(50 * MS)
        assert not s.queue
        s.send("A", seq=1, ack=4001, win=5000)
        s.expect("PA", seq=4001, length=1000)


# ---- loss ---------------------------------------------------------------------------------------------------


def test_retransmission_timeout_and_backoff() -> None:
    """RFC 6298: 200 ms minimum above the RTT, doubling."""
    with Script() as s:
        connection = s.open()
        connection.send(b"lost")
        s.expect("PA", seq=1)
        for delay in (200, 400, 800, 1600):
            s.expect("PA", seq=1, data=b"lost", after=delay * MS, tolerance=5 * MS)
        s.send("A", seq=1, ack=5)
        s.quiet(10 * SECOND)


def test_rto_adapts_to_the_rtt() -> None:
    """RFC 6298 section 2.2 and 2.3."""
    with Script() as s:
        s.syn()
        s.expect("SA")
        s.wait(500 * MS)
        s.send("A", seq=1, ack=1)
        connection = s.accepted()
        assert 495 * MS < connection.info.srtt < 505 * MS
        connection.send(b"data")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=1500 * MS, tolerance=10 * MS)


def test_karn_no_sample_from_a_retransmission() -> None:
    """RFC 6298 section 3."""
    with Script() as s:
        connection = s.open()
        srtt = connection.info.srtt
        connection.send(b"data")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=200 * MS, tolerance=5 * MS)
        s.wait(50 * MS)
        s.send("A", seq=1, ack=5)
        assert connection.info.srtt == srtt


def test_no_sample_from_what_waited_behind_a_hole() -> None:
    """RFC 6298 section 3: data that arrived long ago is acknowledged when the hole before it is filled."""
    with Script() as s:
        connection = s.open(mss=1000)
        srtt = connection.info.srtt
        connection.send(b"x" * 2000)
        s.expect("A", seq=1)
        s.expect("PA", seq=1001)
        for delay in (200, 400, 800):
            s.expect("A", seq=1, after=delay * MS, tolerance=5 * MS)
        s.send("A", seq=1, ack=2001)
        assert connection.info.srtt == srtt


def test_timestamps_give_a_sample_for_repaired_data() -> None:
    """RFC 7323 section 4.1."""
    with Script() as s:
        connection = s.open(timestamps=True)
        connection.send(b"lost")
        s.expect("PA", seq=1)
        s.expect("PA", seq=1, after=201 * MS, tolerance=5 * MS)
        s.wait(80 * MS)
        s.send("A", seq=1, ack=5)
        assert 5 * MS < connection.info.srtt < 20 * MS  # an eighth of 80 ms


def test_fast_retransmit_at_the_third_duplicate_ack() -> None:
    """RFC 5681 section 3.2, RFC 6582."""
    with Script() as s:
        connection = s.open(mss=1000)
        connection.send(b"x" * 10_000)
        for _ in range(10):
            s.expect("PA" if _ == 9 else "A", length=1000)
        s.send("A", seq=1, ack=1)
        s.send("A", seq=1, ack=1)
        assert not s.queue
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=1, length=1000)
        # a partial ACK: the next hole goes at once
        s.send("A", seq=1, ack=3001)
        s.expect("A", seq=3001, length=1000)
        s.send("A", seq=1, ack=10_001)
        s.quiet(SECOND)
        info = connection.info
        assert info.bytes_retrans == 2000
        assert info.ca_state == 0


def test_sack_recovery_sends_only_the_holes() -> None:
    """RFC 6675 section 5."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=100 * MS)
        connection.send(b"x" * 10_000)
        for _ in range(10):
            s.expect("PA" if _ == 9 else "A", length=1000)
        s.wait(100 * MS)
        s.send("A", seq=1, ack=1, sack=[(1001, 2001)])
        s.send("A", seq=1, ack=1, sack=[(1001, 3001)])
        assert not s.queue
        s.send("A", seq=1, ack=1, sack=[(1001, 3001), (4001, 7001)])
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=3001, length=1000)
        s.send("A", seq=1, ack=3001, sack=[(4001, 10_001)])
        s.send("A", seq=1, ack=10_001)
        s.quiet(SECOND)
        assert connection.info.bytes_retrans == 2000


def test_sack_of_part_of_what_was_sent_together() -> None:
    with Script(listen=80) as s:
        connection = s.open(mss=1000, sack=True)
        connection.send(b"x" * 5000)
        for _ in range(5):
            s.expect("PA" if _ == 4 else "A", length=1000)
        s.send("A", seq=1, ack=501, sack=[(1501, 5001)])
        s.expect("A", seq=501)
        s.drain()
        s.send("A", seq=1, ack=5001)
        s.quiet(SECOND)


def test_nonsense_sack_blocks_do_no_harm() -> None:
    with Script() as s:
        connection = s.open(mss=1000, sack=True)
        connection.send(b"x" * 3000)
        for _ in range(3):
            s.expect("PA" if _ == 2 else "A", length=1000)
        for sack in ([(2001, 1001)], [(90_000, 91_000)], [(-5000, -4000)], [(1, 100_000)], [(1, 1)]):
            s.send("A", seq=1, ack=1, sack=sack)
        s.drain()
        s.send("A", seq=1, ack=3001)
        s.quiet(SECOND)
        assert connection.closed is None
        assert connection.info.send_queue == 0


def test_a_timeout_forgets_sacks_of_a_reneging_receiver() -> None:
    """RFC 2018 section 8."""
    with Script() as s:
        connection = s.open(mss=1000, sack=True, rtt=100 * MS)
        connection.send(b"x" * 2000)
        s.expect("A", length=1000)
        s.expect("PA", length=1000)
        s.send("A", seq=1, ack=1, sack=[(1, 1001)])
        s.expect("PA", seq=1001, after=202 * MS, tolerance=5 * MS)  # a loss probe
        s.expect("A", seq=1, after=400 * MS, tolerance=120 * MS)
        s.send("A", seq=1, ack=2001)
        s.quiet(SECOND)


# ---- timestamps (RFC 7323) ----------------------------------------------------------------------------------


def test_timestamps_are_echoed() -> None:
    with Script() as s:
        s.open(timestamps=True)
        s.tsval = 5000
        s.send("PA", seq=1, ack=1, data=b"x")
        segment = s.expect("A", ack=2)
        assert dict(segment.options)["Timestamp"][1] == 5000


def test_paws_drops_an_old_timestamp_and_acknowledges() -> None:
    with Script() as s:
        connection = s.open(timestamps=True)
        s.tsval = 5000
        s.send("PA", seq=1, ack=1, data=b"new")
        s.expect("A", ack=4)
        s.send("PA", seq=4, ack=1, data=b"old", tsval=4000)
        s.expect("A", ack=4)
        assert connection.received == b"new"
        assert s.host.counters()["stack.tcp_paws"] == 1


def test_timestamps_wrap_around() -> None:
    with Script() as s:
        s.tsval = 0xFFFFFFF0
        connection = s.open(timestamps=True)
        s.tsval = 0xFFFFFFFF
        s.send("PA", seq=1, ack=1, data=b"a")
        s.tsval = 5
        s.send("PA", seq=2, ack=1, data=b"b")
        assert connection.received == b"ab"


# ---- sequence number wrap-around ----------------------------------------------------------------------------


@pytest.mark.parametrize("isn", [0xFFFFFFFF, 0xFFFFFF00, 0x7FFFFFFF])
def test_peer_sequence_numbers_wrap(isn: int) -> None:
    with Script(isn=isn) as s:
        connection = s.open(sack=True)
        s.send("A", seq=201, ack=1, data=b"c" * 100)
        s.expect("A", ack=1, sack=[(201, 301)])
        s.send("A", seq=101, ack=1, data=b"b" * 100)
        s.expect("A", ack=1, sack=[(101, 301)])
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        s.expect("A", ack=301)
        assert connection.received == b"a" * 100 + b"b" * 100 + b"c" * 100


# ---- closing ------------------------------------------------------------------------------------------------


def test_passive_close() -> None:
    """ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSED."""
    with Script() as s:
        connection = s.open()
        s.send("FA", seq=1, ack=1)
        s.expect("A", ack=2)
        assert connection.eof
        assert connection.info.state == lib.AMS_TCP_CLOSE_WAIT
        connection.close()
        s.expect("FA", seq=1, ack=2)
        s.send("A", seq=2, ack=2)
        s.quiet()
        assert lib.ams_stack_endpoints(s.host.stack) == 1
        assert lib.ams_stack_time_wait(s.host.stack) == 0


def test_active_close() -> None:
    """FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT."""
    with Script() as s:
        connection = s.open()
        connection.shutdown()
        s.expect("FA", seq=1, ack=1)
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_1
        s.send("A", seq=1, ack=2)
        assert connection.info.state == lib.AMS_TCP_FIN_WAIT_2
        s.send("PA", seq=1, ack=2, data=b"more")
        assert connection.received == b"more"
        s.expect("A", seq=2, ack=5)
        s.send("FA", seq=5, ack=2)
        s.expect("A", seq=2, ack=6)
        assert connection.eof
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT
        connection.close()
        assert connection.released
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_closing_state() -> None:
    """Both FINs cross: CLOSING, then TIME_WAIT."""
    with Script() as s:
        connection = s.open()
        connection.shutdown()
        s.expect("FA", seq=1, ack=1)
        s.send("FA", seq=1, ack=1)
        s.expect("A", ack=2)
        assert connection.info.state == lib.AMS_TCP_CLOSING
        s.send("A", seq=2, ack=2)
        assert connection.info.state == lib.AMS_TCP_TIME_WAIT


def test_fin_is_retransmitted() -> None:
    with Script() as s:
        connection = s.open()
        connection.close()
        s.expect("FA", seq=1)
        s.expect("FA", seq=1, after=200 * MS, tolerance=5 * MS)


def test_fin_out_of_order_waits_for_the_data() -> None:
    with Script() as s:
        connection = s.open()
        s.send("FA", seq=11, ack=1)
        s.expect("A", ack=1)
        assert not connection.eof
        s.send("A", seq=1, ack=1, data=b"0123456789")
        s.expect("A", ack=12)
        assert connection.eof
        assert connection.received == b"0123456789"


def time_wait(s: Script) -> None:
    """Brings the connection into TIME_WAIT, the engine having closed first."""
    connection = s.open()
    connection.close()
    s.expect("FA", seq=1)
    s.send("FA", seq=1, ack=2)
    s.expect("A", ack=2)


def test_time_wait_acknowledges_a_repeated_fin() -> None:
    with Script() as s:
        time_wait(s)
        s.send("FA", seq=1, ack=2)
        s.expect("A", seq=2, ack=2)
        s.wait(30 * SECOND)
        s.send("FA", seq=1, ack=2)  # and begins anew
        s.expect("A", seq=2, ack=2)
        s.wait(45 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.wait(20 * SECOND)
        assert lib.ams_stack_time_wait(s.host.stack) == 0


def test_time_wait_is_not_assassinated() -> None:
    """RFC 1337."""
    with Script() as s:
        time_wait(s)
        s.send("R", seq=2)
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_time_wait_is_reused_by_a_newer_syn() -> None:
    """RFC 6191."""
    with Script() as s:
        time_wait(s)
        old = s.iss
        s.isn += 10_000
        s.syn()
        segment = s.expect("SA", ack=1)
        assert (segment.seq - (old or 0)) & 0xFFFFFFFF > 65535
        assert lib.ams_stack_time_wait(s.host.stack) == 0
        s.send("A", seq=1, ack=1)
        assert len(s.host.accepted) == 2


def test_time_wait_gives_way_to_a_peer_that_has_lost_its_memory() -> None:
    """RFC 9293 section 3.10.7.3: the peer resets what it does not know, and its next SYN gets through."""
    with Script() as s:
        time_wait(s)
        old_isn = s.isn
        s.isn -= 10_000
        s.syn()
        ack = s.expect("A", seq=2).ack
        assert ack == old_isn + 2
        s.send("R", seq=ack + 1 - s.isn)
        assert lib.ams_stack_time_wait(s.host.stack) == 1
        s.send("R", seq=ack - s.isn)
        assert lib.ams_stack_time_wait(s.host.stack) == 0
        s.syn()
        s.expect("SA", ack=1)


def test_time_wait_refuses_an_older_syn() -> None:
    with Script() as s:
        time_wait(s)
        s.isn -= 10_000
        s.syn()
        s.expect("A", seq=2)
        assert lib.ams_stack_time_wait(s.host.stack) == 1


def test_orphan_in_fin_wait_2_times_out() -> None:
    with Script() as s:
        connection = s.open()
        connection.close()
        s.expect("FA", seq=1)
        s.send("A", seq=1, ack=2)
        s.quiet(61 * SECOND)
        s.send("PA", seq=1, ack=2, data=b"anyone?")
        s.expect("R", seq=2)


# ---- resets and blind attacks (RFC 5961) --------------------------------------------------------------------


def test_exact_rst_resets() -> None:
    with Script() as s:
        connection = s.open()
        s.send("R", seq=1)
        assert connection.closed == "ECONNRESET"
        s.quiet()


def test_rst_inside_the_window_is_challenged() -> None:
    """Section 3.2."""
    with Script() as s:
        connection = s.open()
        s.send("R", seq=100)
        s.expect("A", seq=1, ack=1)
        assert connection.closed is None


def test_rst_outside_the_window_is_ignored() -> None:
    with Script() as s:
        connection = s.open()
        s.send("R", seq=1_000_000)
        s.quiet()
        assert connection.closed is None


def test_syn_in_a_synchronised_state_is_challenged() -> None:
    """Section 4.2."""
    with Script() as s:
        connection = s.open()
        s.send("S", seq=50)
        s.expect("A", seq=1, ack=1)
        assert connection.closed is None


def test_ack_of_data_never_sent_is_challenged() -> None:
    """Section 5.2."""
    with Script() as s:
        connection = s.open()
        s.send("PA", seq=1, ack=5000, data=b"evil")
        s.expect("A", seq=1, ack=1)
        assert connection.received == b""


def test_challenge_acks_are_limited() -> None:
    """Section 7: one in half a second for a connection, as Linux does; test_adversarial.py has the stack's limit."""
    with Script() as s:
        s.open()
        for _ in range(100):
            s.send("R", seq=100)
        assert len(s.queue) == 1


def test_segments_without_ack_are_dropped() -> None:
    with Script() as s:
        connection = s.open()
        s.send("P", seq=1, data=b"no ack")
        s.quiet()
        assert connection.received == b""


# ---- keep-alive and user timeout ----------------------------------------------------------------------------


def test_keepalive_probes() -> None:
    """RFC 9293 section 3.8.4."""
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_KEEPIDLE, 10)
        connection.option(lib.AMS_OPT_KEEPINTVL, 3)
        connection.option(lib.AMS_OPT_KEEPCNT, 2)
        connection.option(lib.AMS_OPT_KEEPALIVE, 1)
        s.expect("A", seq=0, ack=1, length=0, after=10 * SECOND)
        s.send("A", seq=1, ack=1)
        s.expect("A", seq=0, after=10 * SECOND)
        s.expect("A", seq=0, after=3 * SECOND)
        s.expect("RA", after=3 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_keepalive_probe_of_the_peer_is_answered() -> None:
    with Script() as s:
        s.open()
        s.send("A", seq=0, ack=1)
        s.expect("A", seq=1, ack=1)


def test_user_timeout() -> None:
    """RFC 5482."""
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_USER_TIMEOUT, 1000)
        connection.send(b"anyone?")
        s.wait(900 * MS)
        assert connection.closed is None
        s.wait(2 * SECOND)
        assert connection.closed == "ETIMEDOUT"


def test_linger_zero_resets() -> None:
    with Script() as s:
        connection = s.open()
        connection.option(lib.AMS_OPT_LINGER, 0)
        connection.send(b"never mind")
        connection.close()
        s.expect("RA", seq=1)
        s.quiet()


# ---- malformed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [b"\x02", b"\x02\x00", b"\x02\xff\x00\x00", b"\x05\x09" + bytes(7), b"\x08\x02"])
def test_malformed_options_are_survived(options: bytes) -> None:
    with Script() as s:
        padded = options + b"\x01" * (-len(options) % 4)
        header = TCP(sport=s.port, dport=80, seq=s.isn, flags="S", dataofs=5 + len(padded) // 4, window=1000)
        packet = IP(bytes(IP(src=s.remote, dst=s.local, proto=6) / (bytes(header)[:20] + padded)))
        del packet[TCP].chksum
        s.wire.inject(bytes(Ether(src=PEER_MAC, dst=s.host.mac.hex(":")) / packet))
        s.wait(0)
        s.expect("SA", ack=1)


def test_a_tentative_address_can_be_listened_on() -> None:
    """RFC 4862 section 5.4: it answers once duplicate address detection is done."""
    with Script(listen=None, v6=True, flags=0) as s:
        s.host.listen(s.local, 80)
        s.wait(3 * SECOND)
        s.drain()
        s.local_port = 80
        s.open()
        assert s.accepted().connected


def test_fin_twice_out_of_order() -> None:
    """Its second copy is no news, whatever of the data before it is missing."""
    with Script() as s:
        connection = s.open(sack=True)
        for _ in range(3):
            s.send("FA", seq=201, ack=1)
            s.expect("A", ack=1)
        s.send("FA", seq=101, ack=1, data=b"b" * 100)
        s.send("A", seq=1, ack=1, data=b"a" * 100)
        assert connection.received == b"a" * 100 + b"b" * 100
        assert connection.eof
