/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_rcvbuf.c - how much the peer may send: the receive buffer and the
 * window that is offered.
 *
 * Theory of operation.  The buffer follows what is needed (dynamic
 * right-sizing, Fisk & Feng 2001, with Linux's factors).  Once per round trip
 * the bytes that the application took are compared with the most that it took
 * in any round trip before.  If they are more, the buffer becomes twice of
 * them, since the measurement is a round trip late, and up to as much again,
 * in proportion to the growth, since the sender may be in slow start; data
 * that waits behind a hole comes on top.  It never shrinks, and never exceeds
 * rcvbuf_max.  Buffers that the application has set stay as they are.
 *
 * The round trip is the peer's: from an ACK to the first data that echoes its
 * timestamp.  Our own srtt, which may be as old as the handshake or missing
 * (SYN cookies), serves where there are no timestamps.
 *
 * The window opens as the peer shows what it sends: 64 KiB at first, then four
 * times what has come, in order or not.  Its slow start is never short of
 * window, but nobody gets the whole buffer's worth of our memory with a first
 * burst.
 *
 * Memory.  All frames of a stack come from one pool with a limit.  Once three
 * quarters of it are in use, buffers no longer grow and windows open by four
 * segments at most; what was offered before stays offered (RFC 9293 section
 * 3.8.6).  Once seven eighths are, data out of order is dropped, and so is
 * data for connections that have two segments unread: the rest of the pool is
 * left to those that can go on with it.  What is dropped stays with the
 * peer, which has no acknowledgement of it.
 */
#include "stack/tcp.h"

#define RTT_SHIFT 3                /* weight of a sample: 1/8 */
#define WINDOW_START 65536u        /* what a peer of whom nothing is known may send at once, as Linux, */
#define WINDOW_GROWTH 4ull         /* and later: times what it has sent; slow start needs twice */
#define SHORT_SEGMENTS 4u          /* what windows open by while frames are short, */
#define SCARCE_SEGMENTS 2u         /* and what a connection may have unread while they are scarce */

bool tcp_frames_short(const struct ams_stack *stack)
{
    return stack->pool->in_use >= stack->pool->limit - stack->pool->limit / 4;
}

bool tcp_receive_scarce(const struct ams_stack *stack)
{
    return stack->pool->in_use >= stack->pool->limit - stack->pool->limit / 8;
}

bool tcp_receive_refused(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t seq)
{
    if (AMS_LIKELY(!tcp_receive_scarce(stack)))
        return false;
    return seq != conn->rcv_nxt || conn->rcv_queued >= SCARCE_SEGMENTS * ams_max_u32(conn->rcv_mss, TCP_MSS_DEFAULT4);
}

void tcp_receive_rtt(struct tcp_conn *conn, uint32_t tsecr, uint64_t now)
{
    conn->rcv_rtt_echo = tsecr;
    uint64_t ms = tcp_timestamp(conn, now) - tsecr;
    if (ms > TCP_RTO_MAX / AMS_NS_PER_MS)
        return; /* an echo of what we didn't send */
    uint32_t sample = (uint32_t)(ams_max_u64(ms * AMS_NS_PER_MS, AMS_NS_PER_MS) >> TCP_AGO_SHIFT);
    if (!conn->rcv_rtt) {
        conn->rcv_rtt = sample;
        return;
    }
    /* a pause of the sender's looks like a long round trip */
    sample = ams_min_u32(sample, 2 * conn->rcv_rtt);
    conn->rcv_rtt = conn->rcv_rtt - (conn->rcv_rtt >> RTT_SHIFT) + (sample >> RTT_SHIFT);
}

uint32_t tcp_receive_window(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    uint32_t advertised = seq_gt(conn->rcv_adv, conn->rcv_nxt) ? conn->rcv_adv - conn->rcv_nxt : 0;
    uint32_t room = conn->rcvbuf > conn->rcv_queued ? conn->rcvbuf - conn->rcv_queued : 0;
    uint32_t most = conn->rcvbuf, unit = 1u << conn->rcv_wscale;
    if (AMS_UNLIKELY(tcp_frames_short(stack)))
        most = ams_min_u32(most, SHORT_SEGMENTS * ams_max_u32(conn->rcv_mss, TCP_MSS_DEFAULT4));
    if (AMS_UNLIKELY(conn->window_clamp))
        most = ams_min_u32(most, conn->window_clamp);
    room = ams_min_u32(room, most);
    uint64_t early = conn->n_runs ? conn->ooo_bytes : 0;
    uint64_t opened = ams_max_u64(WINDOW_START, WINDOW_GROWTH * (conn->bytes_received + early));
    if (room > opened)
        room = (uint32_t)opened;
    /* receiver's SWS avoidance (RFC 9293 section 3.8.6.2.2): what a window opens by at least */
    uint32_t least = ams_min_u32(most / 2, conn->rcv_mss);
    if (AMS_UNLIKELY(most < unit) && room >= least)
        room = unit; /* as Linux: what can't be said in whole units would never open again */
    room = room >> conn->rcv_wscale << conn->rcv_wscale;
    room = ams_min_u32(room, 65535u << conn->rcv_wscale);
    if (room <= advertised)
        return advertised;
    /* a unit of the scale that is begun is given whole, so that the edge doesn't go back */
    if (room - advertised < least)
        return (advertised + unit - 1) / unit * unit;
    return room;
}

/* The buffer for `copied` bytes per round trip, the most so far. */
static uint32_t wanted_buffer(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t copied)
{
    uint64_t wanted = 2ull * copied + 16ull * conn->rcv_mss;
    uint32_t grown = ams_min_u32(copied - conn->rcv_space, conn->rcv_space);
    wanted += wanted * grown / ams_max_u32(conn->rcv_space, 1);
    if (conn->n_runs)
        wanted += conn->runs[conn->n_runs - 1].end - conn->rcv_nxt;
    return (uint32_t)ams_min_u64(wanted, stack->config.rcvbuf_max);
}

/* A round trip is over, or not yet. */
static void autotune(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    uint64_t elapsed = now - conn->rcv_space_at;
    if (elapsed < AMS_NS_PER_MS || elapsed < (conn->rcv_rtt ? (uint64_t)conn->rcv_rtt << TCP_AGO_SHIFT : conn->srtt))
        return;
    if (!conn->rcv_space)
        conn->rcv_space = ams_min_u32(conn->rcvbuf, 10 * conn->rcv_mss);
    if (conn->rcv_copied > conn->rcv_space) {
        if (!(conn->flags & CONN_RCVBUF_FIXED) && !tcp_frames_short(stack))
            conn->rcvbuf = ams_max_u32(conn->rcvbuf, wanted_buffer(stack, conn, conn->rcv_copied));
        conn->rcv_space = conn->rcv_copied;
    }
    conn->rcv_copied = 0;
    conn->rcv_space_at = now;
}

void tcp_receive_consumed(struct ams_stack *stack, struct tcp_conn *conn, uint32_t n, uint64_t now)
{
    conn->rcv_queued -= n;
    conn->rcv_copied += n;
    autotune(stack, conn, now);
    if (conn->flags & (CONN_DEAD | CONN_FIN_RECEIVED))
        return;
    /* a window update only when the peer may be short of window: twice of
     * what it has, as Linux does */
    uint32_t have = conn->rcv_adv - conn->rcv_nxt;
    uint32_t window = tcp_receive_window(stack, conn);
    if (window >= 2 * have && window > have) {
        conn->flags |= CONN_ACK_NOW;
        tcp_want_output(stack, conn);
    }
}
