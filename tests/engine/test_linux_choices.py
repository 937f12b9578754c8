"""Packet scripts for what RFCs leave open and Linux has decided: a peer sees the same from both."""

from __future__ import annotations

from aiomultistack._native import ffi, lib

from .script import MS, SECOND, Script
from .world import Connection


def test_data_both_ways_is_not_paced_unasked() -> None:
    """Whether ACKs wait to ride on data says nothing of pacing: two flags, not one."""
    with Script() as s:
        conn = s.open(rtt=20 * MS)
        for i in range(3):
            s.send("PA", seq=1 + 10 * i, ack=1 + 10 * i, data=b"x" * 10)
            conn.send(b"y" * 10)
            s.wait(20 * MS)
        s.drain()
        s.send("A", seq=31, ack=31)
        assert conn.info.pacing_rate == 0


def test_pacing_asked_for_survives_data_both_ways() -> None:
    with Script() as s:
        conn = s.open(rtt=20 * MS)
        conn.option(lib.AMS_OPT_PACING, 1)
        s.send("PA", seq=1, ack=1, data=b"x" * 10)
        s.wait(SECOND)  # nothing to ride on: the ACK goes alone, and ACKs no longer wait for data
        s.drain()
        conn.send(b"y" * 10)
        s.expect("PA", seq=1, length=10)
        s.wait(20 * MS)
        s.send("A", seq=11, ack=11)
        assert conn.info.pacing_rate > 0


# ---- the end of connections ---------------------------------------------------------------------------------


def test_ack_of_the_first_fin_rides_on_the_second() -> None:
    with Script() as s:
        conn = s.open()
        s.send("PA", seq=1, ack=1, data=b"x" * 10)
        s.expect("A", ack=11)
        s.send("FA", seq=11, ack=1)
        s.quiet(30 * MS)
        conn.close()
        s.expect("FA", seq=1, ack=12)


def test_ack_of_the_first_fin_does_not_wait_for_ever() -> None:
    with Script() as s:
        s.open()
        s.send("PA", seq=1, ack=1, data=b"x" * 10)
        s.expect("A", ack=11)
        s.send("FA", seq=11, ack=1)
        s.expect("A", seq=1, ack=12, after=40 * MS)


def test_fin_after_no_data_is_acknowledged_at_once() -> None:
    with Script() as s:
        s.open()
        s.send("FA", seq=1, ack=1)
        s.expect("A", seq=1, ack=2)


def test_fin_with_a_full_segment_is_acknowledged_at_once() -> None:
    with Script() as s:
        s.open()
        s.send("PA", seq=1, ack=1, data=b"x" * 1460)
        s.expect("A", ack=1461)
        s.send("FPA", seq=1461, ack=1, data=b"x" * 1460)
        s.expect("A", ack=2922)


def test_fin_that_ends_our_close_is_acknowledged_at_once() -> None:
    with Script() as s:
        conn = s.open()
        s.send("PA", seq=1, ack=1, data=b"x" * 10)
        s.expect("A", ack=11)
        conn.shutdown()
        s.expect("FA", seq=1)
        s.send("A", seq=11, ack=2)
        s.send("FA", seq=11, ack=2)
        s.expect("A", seq=2, ack=12)


def test_listener_that_closes_says_nothing_to_half_open_connections() -> None:
    """Their SYNs may be forged; whoever answers the SYN-ACK is reset."""
    with Script(listen=None) as s:
        s.local_port = 81
        listener = s.host.listen("0.0.0.0", 81)
        s.syn()
        s.expect("SA", ack=1)
        assert lib.ams_tcp_close(s.host.stack, listener) == 1
        s.quiet(10 * SECOND)
        s.send("A", seq=1, ack=1)
        s.expect("R", seq=1)


# ---- long segments across short ones ------------------------------------------------------------------------


def test_segment_across_what_is_there_fills_all_gaps() -> None:
    """As when the peer repeats short segments together: nothing of it is to be sent again."""
    with Script() as s:
        conn = s.open(sack=True)
        for seq in (201, 401, 601):
            s.send("A", seq=seq, ack=1, data=b"o" * 100)
            s.expect("A", ack=1)
        s.send("A", seq=151, ack=1, data=b"n" * 600)
        s.expect("A", ack=1, sack=[(201, 301), (151, 751)])
        s.send("A", seq=1, ack=1, data=b"a" * 150)
        s.expect("A", ack=751)
        assert bytes(conn.received) == b"a" * 150 + b"n" * 50 + (b"o" * 100 + b"n" * 100) * 2 + b"o" * 100 + b"n" * 50


def test_overlap_at_the_end_is_reported() -> None:
    """RFC 2883 section 4.2: the part that was there already."""
    with Script() as s:
        s.open(sack=True)
        s.send("A", seq=201, ack=1, data=b"o" * 100)
        s.expect("A", ack=1, sack=[(201, 301)])
        s.send("A", seq=151, ack=1, data=b"n" * 125)
        s.expect("A", ack=1, sack=[(201, 276), (151, 301)])


def test_segment_across_many_leaves_what_is_too_much() -> None:
    """The work for one segment is bounded; what it would have filled besides comes again."""
    with Script() as s:
        conn = s.open(sack=True)
        for i in range(12):
            s.send("A", seq=101 + 100 * i, ack=1, data=b"o" * 50)
        s.drain()
        s.send("A", seq=51, ack=1, data=b"n" * 1300)
        s.expect("A", ack=1, sack=[(101, 151), (51, 951), (1201, 1251), (1101, 1151)])
        s.send("A", seq=1, ack=1, data=b"a" * 1400)
        s.expect("A", ack=1401)
        assert len(conn.received) == 1400


# ---- MSG_EOR and MSG_MORE: records, and data that is held back ----------------------------------------------


def send(conn: Connection, data: bytes, flags: int) -> None:
    assert lib.ams_tcp_send_flags(conn.host.stack, conn.id, data, len(data), flags) >= 0


EOR, MORE = lib.AMS_SEND_EOR, lib.AMS_SEND_MORE


def test_later_bytes_do_not_join_a_record() -> None:
    with Script() as s:
        conn = s.open(mss=1000)
        for _ in range(3):
            send(conn, b"x" * 400, EOR)
        conn.send(b"y" * 1500)
        for i in range(3):
            s.expect("PA", seq=1 + 400 * i, length=400)
        s.expect("A", seq=1201, length=1000)
        s.send("A", seq=1, ack=2201)
        s.expect("PA", seq=2201, length=500)


def test_a_record_joins_what_was_queued_before_it() -> None:
    with Script() as s:
        conn = s.open(mss=1000)
        conn.send(b"x" * 300)
        send(conn, b"y" * 300, EOR)
        conn.send(b"z" * 300)
        s.expect("PA", seq=1, length=600)


def test_records_are_repeated_one_by_one() -> None:
    with Script() as s:
        conn = s.open(mss=1000, sack=True, rtt=20 * MS)
        conn.option(lib.AMS_OPT_NODELAY, 1)
        for _ in range(6):
            send(conn, b"x" * 400, EOR)
        for i in range(6):
            s.expect("PA", seq=1 + 400 * i, length=400)
        s.wait(20 * MS)
        s.send("A", seq=1, ack=1, sack=[(801, 2401)])
        s.expect("PA", seq=1, length=400, after=6 * MS)  # a quarter of the round trip, in case they are late
        s.expect("PA", seq=401, length=400)


def test_a_large_record_is_cut_as_usual() -> None:
    with Script() as s:
        conn = s.open(mss=1000)
        send(conn, b"x" * 2500, EOR)
        conn.send(b"y" * 100)
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=1001, length=1000)
        s.expect("PA", seq=2001, length=500)


def test_more_to_come_is_waited_for_without_nagle() -> None:
    with Script() as s:
        conn = s.open(mss=1000, rtt=20 * MS)
        conn.option(lib.AMS_OPT_NODELAY, 1)
        send(conn, b"x" * 100, MORE)
        s.quiet(50 * MS)
        send(conn, b"x" * 200, MORE)
        s.quiet(50 * MS)
        conn.send(b"x" * 5)
        s.expect("PA", seq=1, length=305)


def test_more_to_come_goes_with_the_next_ack_and_without_push() -> None:
    with Script() as s:
        conn = s.open(mss=1000, rtt=20 * MS)
        conn.option(lib.AMS_OPT_NODELAY, 1)
        send(conn, b"x" * 2050, MORE)
        s.expect("A", seq=1, length=1000)
        s.expect("A", seq=1001, length=1000)
        s.quiet(10 * MS)
        s.send("A", seq=1, ack=2001)
        s.expect("A", seq=2001, length=50)


def test_what_is_held_back_goes_when_the_persist_timer_fires() -> None:
    """RFC 9293 section 3.8.6.2.1's override time-out; tcp(7): 200 milliseconds, and the round trip."""
    with Script() as s:
        conn = s.open(mss=1000, rtt=20 * MS)
        conn.option(lib.AMS_OPT_CORK, 1)
        conn.send(b"x" * 40)
        s.expect("PA", seq=1, length=40, after=220 * MS)
        s.wait(20 * MS)
        s.send("A", seq=1, ack=41)
        assert conn.info.backoff == 0
        s.quiet(SECOND)


def test_a_window_too_small_for_good_manners_is_used_after_all() -> None:
    with Script() as s:
        conn = s.open(mss=1000, rtt=20 * MS)
        s.send("A", seq=1, ack=1, win=100)
        conn.send(b"x" * 500)
        s.expect("PA", seq=1, length=100, after=220 * MS)


def test_nodelay_pushes_even_through_the_cork() -> None:
    with Script() as s:
        conn = s.open(mss=1000)
        conn.option(lib.AMS_OPT_CORK, 1)
        conn.send(b"x" * 40)
        s.quiet(50 * MS)
        conn.option(lib.AMS_OPT_NODELAY, 1)
        s.expect("PA", seq=1, length=40)
        s.send("A", seq=1, ack=41)
        conn.send(b"x" * 40)
        s.quiet(50 * MS)
        conn.option(lib.AMS_OPT_CORK, 0)
        s.expect("PA", seq=41, length=40)


# ---- other choices --------------------------------------------------------------------------------------------


def test_data_after_close_is_refused_where_the_peer_believes_it() -> None:
    """Our FIN may be lost: an RST behind it would only be challenged (RFC 5961 section 3.2)."""
    with Script() as s:
        conn = s.open()
        conn.close()
        s.expect("FA", seq=1)
        s.send("PA", seq=1, ack=1, data=b"late")
        s.expect("R", seq=1)
        s.quiet()


def test_an_impossible_ack_does_not_renew_the_timestamp() -> None:
    with Script() as s:
        s.open(timestamps=True, tsval=100)
        s.send("A", seq=1, ack=9999, tsval=200_000)
        s.drain()
        s.send("PA", seq=1, ack=1, data=b"hello", tsval=101)
        s.expect("A", ack=6, after=0)


def test_a_closed_window_is_no_idleness_of_the_sender() -> None:
    """Until it opens: then nothing was sent for a while, whoever is to blame (as Linux)."""
    with Script() as s:
        conn = s.open(mss=1000, rtt=100 * MS, wscale=7, win=511)
        conn.send(bytes(10_000))
        s.drain()
        s.wait(100 * MS)
        s.send("A", seq=1, ack=10_001, win=0)
        assert conn.info.snd_cwnd == 20_000
        conn.send(bytes(20_000))
        s.expect("A", seq=10_000, length=0, after=300 * MS)  # a window probe
        s.expect("A", seq=10_000, length=0, after=600 * MS)
        assert conn.info.snd_cwnd == 20_000
        s.send("A", seq=1, ack=10_001, win=511)
        assert conn.info.snd_cwnd == 10_000


def test_the_furthest_reordering_is_told_in_segments() -> None:
    with Script() as s:
        conn = s.open(mss=1000, sack=True, rtt=20 * MS)
        conn.send(bytes(10_000))
        s.drain()
        assert conn.info.reordering == 3
        s.wait(20 * MS)
        s.send("A", seq=1, ack=1, sack=[(6001, 7001)])
        s.send("A", seq=1, ack=1, sack=[(1001, 2001), (6001, 7001)])
        assert conn.info.reordering == 6


def test_a_super_frame_is_at_most_half_of_the_peers_window() -> None:
    with Script(offload=True) as s:
        s.syn(mss=1000, win=8000)
        s.expect("SA", ack=1)
        s.send("A", seq=1, ack=1, win=8000)
        conn = s.accepted()
        conn.send(bytes(8000))
        s.expect("PA", seq=1, length=4000)
        s.expect("PA", seq=4001, length=4000)


def test_syn_ack_that_echoes_what_was_never_sent_is_refused() -> None:
    with Script(listen=None) as s:
        conn = s.connect()
        syn = s.expect("S")
        sent = dict(syn.options)["Timestamp"][0]
        options = [("MSS", 1000), ("Timestamp", (500, (sent + 9999) & 0xFFFFFFFF))]
        s.send("SA", seq=0, ack=1, options=options)
        s.expect("R", seq=1)
        s.send("SA", seq=0, ack=1, options=[("MSS", 1000), ("Timestamp", (500, sent))])
        s.expect("A", seq=1, ack=1)
        assert conn.connected


def test_simultaneous_open_acknowledges_the_repeated_syn() -> None:
    """With a D-SACK, in case the peer's SYN-ACK waits for the ACK of its SYN."""
    with Script(listen=None) as s:
        conn = s.connect()
        s.expect("S")
        s.send("S", seq=0, options=[("MSS", 1000), ("SAckOK", b"")])
        s.expect("SA", seq=0, ack=1)
        s.send("SA", seq=0, ack=1, options=[("MSS", 1000), ("SAckOK", b"")])
        s.expect("A", seq=1, ack=1, sack=[(0, 1)])
        s.quiet()
        assert conn.connected


def test_of_several_duplicates_the_first_is_reported() -> None:
    with Script() as s:
        s.open(mss=1460, sack=True)
        s.send("PA", seq=301, ack=1, data=bytes(300))
        s.expect("A", ack=1, sack=[(301, 601)])
        s.send("PA", seq=901, ack=1, data=bytes(300))
        s.expect("A", ack=1, sack=[(901, 1201), (301, 601)])
        s.send("PA", seq=1, ack=1, data=bytes(1200))
        s.expect("A", ack=1201, sack=[(301, 601)])


def test_a_fin_ends_the_report_of_duplicates() -> None:
    with Script() as s:
        s.open(mss=1000, sack=True)
        s.send("PA", seq=1, ack=1, data=bytes(1000))
        s.expect("A", ack=1001)
        s.send("FPA", seq=1, ack=1, data=bytes(1000))
        s.expect("A", ack=1002, sack=[])


def test_segments_out_of_order_show_the_peers_segment_size() -> None:
    with Script() as s:
        conn = s.open(mss=1460, sack=True)
        s.send("PA", seq=2001, ack=1, data=bytes(1000))
        s.expect("A", ack=1)
        assert conn.info.rcv_mss == 1000


# ---- the window opens as the peer shows what it sends -------------------------------------------------------


def test_the_window_is_64_kib_until_the_peer_has_sent_a_quarter_of_that() -> None:
    with Script(rcvbuf=512 << 10) as s:
        conn = s.open(mss=1000, wscale=7)
        unit = 1 << conn.info.rcv_wscale
        for received in range(1000, 21000, 1000):
            s.send("PA", seq=received - 999, ack=1, data=bytes(1000))
            ack = s.expect("A", ack=1 + received, after=40 * MS if received > 16000 else 0, tolerance=40 * MS)
            assert ack.window * unit == max(64 << 10, 4 * received) // unit * unit


def test_a_window_update_waits_until_the_peer_may_need_it() -> None:
    """What the first read frees is no news while the peer has sent next to nothing."""
    with Script(rcvbuf=512 << 10) as s:
        conn = s.open(mss=1000, wscale=7)
        conn.pause()
        s.send("PA", seq=1, ack=1, data=bytes(1000))
        s.expect("A", ack=1001)
        conn.resume()
        s.quiet(100 * MS)
        assert len(conn.received) == 1000


# ---- super-frames ------------------------------------------------------------------------------------------


def send_refs(conn: Connection, pieces: list[bytes]) -> list[object]:
    """Queues pieces that stay where they are; keep what is returned until they are released."""
    kept = [ffi.from_buffer(piece) for piece in pieces]
    for piece in kept:
        assert lib.ams_tcp_send_ref(conn.host.stack, conn.id, piece, len(piece)) >= 0
    return kept


def test_a_full_descriptor_is_pushed() -> None:
    """17 pieces go together, as in an sk_buff; the rest is held back by Nagle, not by the receiver."""
    with Script(offload=True) as s:
        conn = s.open(mss=1000)
        kept = send_refs(conn, [b"x"] * 40)
        s.expect("PA", seq=1, length=17)
        s.quiet(10 * MS)
        s.send("A", seq=1, ack=18)
        s.expect("PA", seq=18, length=17)
        s.send("A", seq=1, ack=35)
        s.expect("PA", seq=35, length=6)
        s.send("A", seq=1, ack=41)
        assert conn.refs_released == len(kept)


# ---- what was delivered, in segments -------------------------------------------------------------------------


def test_deliveries_are_counted_in_segments_and_the_syn_is_one() -> None:
    with Script(offload=True) as s:
        conn = s.open(mss=1000, sack=True)
        assert conn.info.delivered_segs == 1
        conn.send(bytes(4500))
        s.drain()
        s.send("A", seq=1, ack=1, sack=[(2001, 3001)])
        assert conn.info.delivered_segs == 2
        s.send("A", seq=1, ack=1001, sack=[(2001, 3001)])
        assert conn.info.delivered_segs == 3
        s.send("A", seq=1, ack=3001)
        assert conn.info.delivered_segs == 4
        s.send("A", seq=1, ack=3501)  # of a segment and a half there is one left
        assert conn.info.delivered_segs == 5
        s.send("A", seq=1, ack=4501)
        assert conn.info.delivered_segs == 6


def test_a_fin_is_counted_with_its_segment() -> None:
    with Script() as s:
        conn = s.open(mss=1000)
        conn.send(bytes(1000))
        conn.shutdown()
        s.drain()
        s.send("A", seq=1, ack=1002)
        assert conn.info.delivered_segs == 2


def burst(s: Script) -> Connection:
    """A connection with much to send, which has just sent 4 of what 10 and 2 acknowledged segments allow."""
    conn = s.open(mss=1000, rtt=20 * MS)
    conn.send(bytes(60000))
    s.expect("PA", seq=1, length=5000)
    s.expect("PA", seq=5001, length=5000)
    s.wait(20 * MS)
    s.send("A", seq=1, ack=2001)
    s.expect("PA", seq=10001, length=4000)
    return conn


def test_a_small_part_of_the_window_waits_for_more_of_it() -> None:
    """Until a third of it is free: a super-frame costs about as much as a segment."""
    with Script(offload=True, min_tso_segs=8) as s:
        burst(s)
        for ack in (3001, 4001):
            s.send("A", seq=1, ack=ack)
            s.quiet(0)
        s.send("A", seq=1, ack=5001)
        s.expect("PA", seq=14001, length=6000)


def test_a_part_of_the_window_does_not_wait_where_no_ack_is_near() -> None:
    with Script(offload=True, min_tso_segs=8) as s:
        burst(s)
        s.wait(2 * MS)  # another burst
        s.send("A", seq=1, ack=3001)
        s.expect("PA", seq=14001, length=2000)
        s.send("A", seq=1, ack=10001)  # the oldest in flight is new
        s.drain()
        s.send("A", seq=1, ack=11001)
        s.expect("PA", length=2000)


def test_the_rest_of_what_was_written_does_not_wait() -> None:
    with Script(offload=True, min_tso_segs=8) as s:
        conn = s.open(mss=1000, rtt=20 * MS)
        conn.send(bytes(16000))
        s.drain()
        s.wait(20 * MS)
        s.send("A", seq=1, ack=2001)
        s.expect("PA", seq=10001, length=4000)
        s.send("A", seq=1, ack=3001)
        s.expect("PA", seq=14001, length=2000)


def test_a_bare_ack_from_the_right_edge_counts() -> None:
    """The peer has filled our window and lost it all: its ACKs come from one past the last byte of it."""
    with Script(rcvbuf=4096, rcvbuf_max=4096) as s:
        s.syn()
        edge = 1 + s.expect("SA").window
        s.send("A", seq=1, ack=1)
        conn = s.accepted()
        conn.send(b"x" * 1000)
        s.drain()
        s.send("A", seq=edge + 1, ack=1001)
        assert conn.info.bytes_acked == 0
        s.drain()
        s.send("A", seq=edge, ack=1001)
        assert conn.info.bytes_acked == 1000
        s.send("RA", seq=edge, ack=1001)  # RFC 5961 section 3.2: outside
        assert conn.closed is None
