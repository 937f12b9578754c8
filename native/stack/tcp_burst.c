/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_burst.c - how much leaves at once, and when.
 *
 * Theory of operation.  A super-frame costs about as much as a segment, so
 * large ones are cheap; but what leaves at once arrives at once at the path's
 * queue, and ACKs that come for small parts keep the sender going.  So the
 * size of a super-frame follows the connection's rate and windows, as in Linux
 * (tcp_tso_autosize()), and a sender in mid-burst waits a little for more room
 * (tcp_tso_should_defer()).  A paced connection has a clock, pace_at, that each
 * byte moves on: nothing leaves before, but for what belongs to one burst.
 * tcp_burst_room() puts it together with the windows and with the rules that
 * hold short segments back (Nagle's, and silly window avoidance).
 */
#include "stack/tcp.h"

#define NEAR_RTT (512 * AMS_NS_PER_US)
#define BURST_GAP AMS_NS_PER_MS /* what was sent longer ago belongs to another burst */
#define WINDOW_SHARE 3u         /* that part of the window is always worth a frame */
#define BURST_SHIFT 10          /* 1/1024 of what is sent in a second */
#define PACED_FROM 10u          /* segments that leave before pacing begins, as in Linux: the initial window (RFC 6928) */

/* Bytes of a super-frame of an unpaced connection, as Linux sizes them: what
 * the connection sends in about a millisecond, at least min_tso_segs, so that
 * slow paths get their data spread and fast ones large frames; half of cwnd
 * while the round trip is not known.  Nearby peers (round trips of up to half
 * a millisecond) get the largest. */
static uint32_t burst_size(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t mss)
{
    uint64_t near_shift = AMS_LIKELY(conn->srtt) ? conn->min_rtt / NEAR_RTT : UINT64_MAX;
    if (AMS_LIKELY(!near_shift))
        return TCP_GSO_MAX;
    uint64_t percent = conn->cwnd < conn->ssthresh / 2 ? 200 : 120;
    uint64_t burst = TCP_GSO_MAX;
    if (AMS_LIKELY(conn->srtt))
        burst = conn->cwnd * percent / 100 * (AMS_NS_PER_S >> BURST_SHIFT) / conn->srtt;
    if (near_shift < 32)
        burst += TCP_GSO_MAX >> near_shift;
    burst = ams_max_u64(ams_min_u64(burst, TCP_GSO_MAX), stack->config.min_tso_segs * mss);
    /* two frames in flight keep the ACK clock running */
    return (uint32_t)ams_max_u64(ams_min_u64(burst, ams_min_u32(conn->cwnd / 2, TCP_GSO_MAX)), mss);
}

uint32_t tcp_segment_limit(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t mss)
{
    uint32_t cap = conn->flow.family == AMS_IPV4 ? AMS_CAP_TSO4 : AMS_CAP_TSO6;
    if (!(stack->caps & cap) || (conn->ecn & ECN_ACCURATE && tcp_ecn_unsplittable(conn)))
        return mss;
    uint32_t bytes = conn->pacing_rate ? ams_min_u32(tcp_paced_burst(conn), TCP_GSO_MAX) : burst_size(stack, conn, mss);
    /* at most half of the window at once, as Linux, so that the other half keeps the peer busy */
    if (conn->max_snd_wnd > TCP_MSS_DEFAULT4)
        bytes = ams_max_u32(ams_min_u32(bytes, conn->max_snd_wnd / 2), mss);
    return ams_min_u32(bytes / mss, TCP_GSO_SEGMENTS) * mss;
}

/* How far ahead of its pace a paced connection may be within a burst, in ns.
 * A port that splits super-frames takes a burst as one.  For others Linux
 * splits it itself, so that its segments leave together all the same; single
 * segments at even distances would do well alone, but at a queue that is full
 * they find room more often the faster their flow is, whose share then grows
 * (Floyd and Jacobson, "On Traffic Phase Effects in Packet-Switched Gateways",
 * 1992). */
static uint64_t pace_ahead(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    uint32_t burst = tcp_paced_burst(conn), unit = tcp_segment_limit(stack, conn, conn->snd_mss);
    return burst > unit ? (burst - unit) * AMS_NS_PER_S / conn->pacing_rate : 0;
}

bool tcp_paced_waits(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->pace_at <= now) {
        tcp_pace_due(conn, now);
        return false;
    }
    if (!(conn->loss & LOSS_PACE_WAIT) && conn->pace_at - now <= pace_ahead(stack, conn))
        return false;
    conn->loss |= LOSS_PACE_WAIT;
    tcp_timer_update(stack, conn);
    return true;
}

void tcp_paced_sent(struct tcp_conn *conn, uint32_t len, uint64_t now)
{
    if (AMS_UNLIKELY(conn->data_segs_out < PACED_FROM))
        return;
    if (conn->pace_at + tcp_pace_slack(conn) < now)
        conn->pace_at = now;
    conn->pace_at += len * AMS_NS_PER_S / conn->pacing_rate;
}

/* True if data that fills what the windows let go now should wait until they
 * let more go at once: a super-frame costs about as much as a segment.  Only
 * in the middle of a burst, while less than a third of the window is free,
 * and if the oldest segment in flight has half of its round trip behind it,
 * so that an ACK is near: the rules of Linux.
 * @room: what the windows let go
 * @frame: the longest payload of one descriptor */
static bool burst_waits(struct tcp_conn *conn, uint32_t room, uint32_t frame, uint32_t mss, uint64_t now)
{
    if (AMS_LIKELY(room >= frame) || frame <= mss || conn->ca_state >= TCP_CA_RECOVERY ||
        now - conn->last_sent_at > BURST_GAP || room >= ams_min_u32(conn->snd_wnd, conn->cwnd) / WINDOW_SHARE)
        return false;
    return conn->rec_count && now - tcp_rec_at(conn, 0)->sent_at >= conn->srtt / 2;
}

uint32_t tcp_burst_room(struct ams_stack *stack, struct tcp_conn *conn, uint32_t avail, uint32_t mss, uint64_t now)
{
    int32_t room = (int32_t)(conn->snd_una + conn->snd_wnd - conn->snd_nxt);
    uint32_t len = room > 0 ? ams_min_u32(avail, (uint32_t)room) : 0;
    uint32_t pipe = tcp_pipe(conn);
    uint32_t allowed = conn->cwnd > pipe ? conn->cwnd - pipe : 0;
    if (AMS_UNLIKELY(len < ams_min_u32(avail, allowed)) && !conn->rwnd_since)
        conn->rwnd_since = now;
    if (len > allowed) {
        len = allowed / mss * mss;
        if (!len && !pipe)
            len = ams_min_u32(avail, mss);
        if (!len)
            tcp_cc_sent(conn, true, now);
    }
    uint32_t frame = conn->ecn & ECN_CWR ? mss : tcp_segment_limit(stack, conn, mss);
    if (AMS_UNLIKELY(conn->flags & CONN_PROBE_NOW))
        return ams_min_u32(len, mss); /* the override timeout of RFC 9293 section 3.8.6.2.1 */
    if (len && len < avail && burst_waits(conn, len, frame, mss, now)) {
        tcp_cc_sent(conn, allowed <= (uint32_t)room, now);
        return 0;
    }
    len = ams_min_u32(len, frame);
    uint32_t tail = len % mss;
    if (!tail)
        return len;
    if (len < avail) {
        /* sender's SWS avoidance (RFC 9293 section 3.8.6.2.1): a short
         * segment in mid-stream only if it is half of the largest window */
        return len >= mss ? len - tail : (len >= conn->max_snd_wnd / 2 ? len : 0);
    }
    /* Nagle's rule as Minshall put it: only one short segment in flight */
    bool short_out = seq_gt(conn->snd_short, conn->snd_una);
    bool hold = conn->flags & (CONN_CORK | CONN_MORE) || (!(conn->flags & CONN_NODELAY) && short_out);
    return hold && !(conn->flags & (CONN_FIN_QUEUED | CONN_PUSH)) ? len - tail : len;
}
