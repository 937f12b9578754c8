/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_mtu.c - segments as long as the path carries them, where no ICMP
 * message says how long that is (RFC 4821, as Linux with tcp_mtu_probing=1).
 *
 * Theory of operation.  Segment after segment gets lost without a word:
 * perhaps they are too long, and the message that should say so is dropped
 * (RFC 2923 section 2.1).  So after repeated timeouts segments get shorter
 * (section 7.7), 1024 bytes first and then 512: mss_cap is below what the
 * path's known MTU and the peer would let us send.
 *
 * It may have been an outage, or another path by now.  So once data flows, a
 * longer segment of new data is sent now and then: the probe.  The first is
 * as long as segments were before the trouble; where that fails, the search
 * goes on by halves between what is known to arrive (mss_cap) and what isn't
 * known to fail (mss_high).  It ends when the two are within eight bytes,
 * and begins again ten minutes later (section 7.3: the path may change).
 *
 * A probe that arrives makes all segments that long.  One that alone gets
 * lost says nothing about congestion: its data is sent again in shorter
 * segments, and the window stays (section 7.6.2).  If other segments were
 * lost, too, or a timeout was needed, the probe says nothing, and is repeated
 * some time (section 7.6.4).
 *
 * Probes need SACK, an undisturbed connection, and a window that has room for
 * what the loss of one would need to be found: other segments behind it.  But
 * a path that loses one of ten never gives such a window, and times out often
 * enough to be taken for a black hole: so a search begins after a while with
 * any window, even if the loss of that probe will cost a timeout.
 * Lengths are those of segments without options, as in the MSS option.
 */
#include "stack/tcp.h"

#define MTU_SEARCH_END 8u          /* bytes between the bounds, as Linux */
#define MTU_SEARCH_MS 600000u      /* until the next search, as Linux and RFC 4821 section 7.3 have it */
#define MTU_CWND_SEGMENTS 11u      /* section 7.4: a probe must be cheap */
#define MTU_BEHIND_SEGMENTS (TCP_DUPTHRESH + 1)
#define MTU_PATIENCE_MS 5000u      /* then the first probe of a search goes with any window */

static uint32_t now_ms(uint64_t now)
{
    return (uint32_t)(now / AMS_NS_PER_MS);
}

uint32_t tcp_mss_limit(const struct tcp_conn *conn)
{
    uint32_t headers = (conn->flow.family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER) + TCP_HEADER;
    uint32_t mss = conn->path.mtu > headers + TCP_MSS_MIN ? conn->path.mtu - headers : TCP_MSS_MIN;
    mss = ams_min_u32(mss, ams_max_u32(conn->mss_peer, TCP_MSS_MIN));
    if (conn->maxseg)
        mss = ams_min_u32(mss, ams_max_u32(conn->maxseg, TCP_MSS_MIN));
    return mss;
}

void tcp_update_mss(struct tcp_conn *conn)
{
    uint32_t mss = tcp_mss_limit(conn);
    if (conn->mss_cap)
        mss = ams_min_u32(mss, conn->mss_cap);
    if (conn->flags & CONN_TS_OK)
        mss -= 12;
    conn->snd_mss = mss;
}

void tcp_mtu_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->mtu_probe = 0; /* inconclusive */
    if (conn->backoff < TCP_BLACK_HOLE_TIMEOUTS || conn->snd_mss <= TCP_BLACK_HOLE_MSS / 2 ||
        stack->config.flags & AMS_STACK_NO_BLACK_HOLE)
        return;
    conn->mss_cap = conn->snd_mss > TCP_BLACK_HOLE_MSS ? TCP_BLACK_HOLE_MSS : TCP_BLACK_HOLE_MSS / 2;
    conn->mss_high = 0;
    conn->mtu_search_ms = now_ms(now);
    stack->counters.tcp_black_hole++;
    tcp_update_mss(conn);
}

/* The length to try next.  0: the search rests. */
static uint32_t next_length(struct tcp_conn *conn, uint64_t now)
{
    if (!conn->mss_high)
        return (int32_t)(now_ms(now) - conn->mtu_search_ms) < 0 ? 0 : tcp_mss_limit(conn);
    if (conn->mss_high < conn->mss_cap + MTU_SEARCH_END) {
        conn->mss_high = 0;
        conn->mtu_search_ms = now_ms(now) + MTU_SEARCH_MS;
        return 0;
    }
    return (conn->mss_high + conn->mss_cap + 1u) / 2;
}

/* Has a search waited for a large window long enough? */
static bool out_of_patience(const struct tcp_conn *conn, uint64_t now)
{
    return !conn->mss_high && (int32_t)(now_ms(now) - conn->mtu_search_ms) >= (int32_t)MTU_PATIENCE_MS;
}

uint32_t tcp_mtu_probe(struct ams_stack *stack, struct tcp_conn *conn, uint32_t avail, uint32_t mss, uint64_t now)
{
    if (conn->mtu_probe || conn->ca_state != TCP_CA_OPEN || conn->sacked_bytes || conn->lost_bytes ||
        !(conn->flags & CONN_SACK_OK) || conn->loss & LOSS_TLP_OUT)
        return 0;
    bool cheap = conn->cwnd >= MTU_CWND_SEGMENTS * conn->snd_mss;
    if (!cheap && !out_of_patience(conn, now))
        return 0;
    uint32_t length = ams_min_u32(next_length(conn, now), tcp_mss_limit(conn));
    if (length <= conn->mss_cap)
        return 0;
    uint32_t payload = mss + length - conn->mss_cap; /* what options take stays the same */
    uint32_t needed = payload + MTU_BEHIND_SEGMENTS * mss;
    int32_t room = (int32_t)(conn->snd_una + conn->snd_wnd - conn->snd_nxt);
    if (avail < needed || room < (int32_t)needed || tcp_pipe(conn) + payload > conn->cwnd)
        return 0;
    if (!cheap)
        conn->mtu_search_ms = now_ms(now); /* if it says nothing, not again at once */
    conn->mtu_probe = (uint16_t)length;
    conn->mtu_probe_seq = conn->snd_nxt;
    conn->mtu_probe_len = (uint16_t)payload;
    stack->counters.tcp_mtu_probe++;
    return payload;
}

void tcp_mtu_acked(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (seq_lt(conn->snd_una, conn->mtu_probe_seq + conn->mtu_probe_len))
        return;
    conn->mss_cap = conn->mtu_probe;
    conn->mtu_probe = 0;
    if (conn->mss_cap >= tcp_mss_limit(conn))
        conn->mss_cap = conn->mss_high = 0; /* the path is as it was */
    stack->counters.tcp_mtu_probe_ok++;
    tcp_update_mss(conn);
}

bool tcp_mtu_lost(struct ams_stack *stack, struct tcp_conn *conn)
{
    uint32_t length = conn->mtu_probe;
    conn->mtu_probe = 0; /* whatever it was, it is over */
    uint32_t lost = conn->lost_bytes - conn->retrans_bytes;
    if (conn->ca_state >= TCP_CA_CWR || lost != conn->mtu_probe_len)
        return false;
    uint32_t index = tcp_rec_search(conn, conn->mtu_probe_seq);
    const struct tcp_rec *rec = tcp_rec_at(conn, index);
    if (index >= conn->rec_count || rec->seq != conn->mtu_probe_seq || !(rec->marks & REC_LOST))
        return false;
    conn->mss_high = (uint16_t)(length - 1);
    stack->counters.tcp_mtu_probe_lost++;
    return true;
}
