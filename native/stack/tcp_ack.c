/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_ack.c - what an acknowledgement does: window, RTT, delivered data.
 */
#include "stack/tcp.h"

/* RFC 6298 section 2 with Linux's floor: the variance term is at least the
 * minimum RTO, so that a steady path does not time out on a delayed ACK. */
void tcp_rtt_sample(struct ams_stack *stack, struct tcp_conn *conn, uint64_t rtt)
{
    if (!conn->srtt) {
        conn->srtt = rtt;
        conn->rttvar = rtt / 2;
    } else {
        uint64_t delta = rtt > conn->srtt ? rtt - conn->srtt : conn->srtt - rtt;
        conn->rttvar = conn->rttvar - conn->rttvar / 4 + delta / 4;
        conn->srtt = conn->srtt - conn->srtt / 8 + rtt / 8;
    }
    if (!conn->min_rtt || rtt < conn->min_rtt)
        conn->min_rtt = rtt;
    if (!(conn->flags & CONN_TS_OK)) /* then nothing tells the peer's, see tcp_rcvbuf.c */
        conn->rcv_rtt = (uint32_t)ams_min_u64(conn->srtt >> TCP_AGO_SHIFT, UINT32_MAX);
    uint64_t rto_min = stack->config.rto_min_ms * AMS_NS_PER_MS;
    conn->rto = ams_min_u64(conn->srtt + ams_max_u64(4 * conn->rttvar, rto_min), stack->config.rto_max_ms * AMS_NS_PER_MS);
}

void tcp_update_window(struct tcp_conn *conn, const struct tcp_repr *seg)
{
    uint32_t window = seg->flags & TCP_SYN ? seg->window : (uint32_t)seg->window << conn->snd_wscale;
    conn->snd_wnd = window;
    conn->snd_wl1 = seg->seq;
    conn->snd_wl2 = seg->ack;
    if (window > conn->max_snd_wnd)
        conn->max_snd_wnd = window;
}

/* RFC 9293 section 3.10.7.4: is this segment's window news?
 * Return: true if the window changed. */
static bool window_step(struct tcp_conn *conn, const struct tcp_repr *seg)
{
    if (!(seq_lt(conn->snd_wl1, seg->seq) ||
          (conn->snd_wl1 == seg->seq && seq_leq(conn->snd_wl2, seg->ack))))
        return false;
    uint32_t before = conn->snd_wnd;
    tcp_update_window(conn, seg);
    return conn->snd_wnd != before;
}

/* New data was acknowledged: bookkeeping before recovery looks at it. */
static void ack_advance(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg,
                        struct tcp_delivery *delivery, uint64_t now)
{
    delivery->acked = seg->ack - conn->snd_una;
    tcp_recs_ack(stack, conn, seg->ack, delivery, now);
    conn->snd_una = seg->ack;
    if (!tcp_unacked(conn) && conn->busy_since) {
        conn->busy_time += now - conn->busy_since;
        conn->busy_since = 0;
    }
    conn->bytes_acked += delivery->acked;
    conn->backoff = 0;
    conn->probes = 0;
    conn->first_unacked_at = now;
    tcp_send_acked(stack, conn, seg->ack);
}

/* The RTT sample that an ACK gives: from a segment sent once, else from the
 * echoed timestamp (RFC 7323 section 4.1), which is right for repaired data
 * too.  But an echo of anything older than the last retransmission says that
 * either the path is slow or an ACK was lost; the latter would make each
 * timeout lengthen the next one, so such an echo is not taken.
 * Return: ns, 0: none. */
static uint64_t best_sample(const struct tcp_conn *conn, const struct tcp_repr *seg,
                            const struct tcp_delivery *delivery, bool fresh, uint64_t now)
{
    if (delivery->rtt && !delivery->repaired)
        return delivery->rtt;
    if (delivery->sack_rtt)
        return delivery->sack_rtt;
    if (!fresh || !(conn->flags & CONN_TS_OK) || !seg->has_timestamps || !seg->tsecr)
        return 0;
    int32_t elapsed = (int32_t)(tcp_timestamp(conn, now) - seg->tsecr);
    if (elapsed < 0 || (uint64_t)elapsed * AMS_NS_PER_MS > now - delivery->repaired_at + 2 * AMS_NS_PER_MS)
        return 0;
    return ams_max_u64((uint64_t)elapsed * AMS_NS_PER_MS, AMS_NS_PER_MS);
}

/* True if the ACK number is one that we may see (RFC 5961 section 5.2). */
static bool ack_acceptable(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now)
{
    if (seq_gt(seg->ack, conn->snd_nxt) ||
        seq_lt(seg->ack, conn->snd_una - ams_max_u32(conn->max_snd_wnd, 1))) {
        tcp_challenge_ack(stack, conn, now);
        return false;
    }
    return true;
}

/* True if the segment acknowledges nothing new on a connection that has
 * nothing queued, in flight or to repair: the receiving end of a stream, which
 * need not look at what belongs to sending. */
static bool nothing_acked(const struct tcp_conn *conn, const struct tcp_repr *seg)
{
    return seg->ack == conn->snd_una && conn->snd_una == conn->snd_nxt && conn->snd_nxt == conn->snd_end &&
           !(conn->flags & CONN_FIN_QUEUED) && !seg->n_sack && !(conn->ecn & (ECN_OK | ECN_ACCURATE));
}

/* Does news of what was sent before the first segment's latest transmission
 * give that one more time?  So does Linux: behind a queue the answer comes
 * later than the timeout expects, and what is SACKed meanwhile shows that the
 * path is alive; RACK finds a lost retransmission then without a timeout.
 * What was sent after it doesn't count, or the timer would never expire. */
static bool head_gets_time(struct tcp_conn *conn, const struct tcp_delivery *delivery, uint64_t now)
{
    return delivery->sack_rtt && conn->rec_count &&
           delivery->sack_rtt > ams_max_u64(now - tcp_rec_at(conn, 0)->sent_at, 1); /* a sample is never 0 */
}

bool tcp_process_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                     uint64_t now)
{
    if (AMS_UNLIKELY(!ack_acceptable(stack, conn, seg, now)))
        return false;
    conn->flags &= ~CONN_MORE; /* Linux holds back no longer than that */
    bool window_changed = window_step(conn, seg);
    if (nothing_acked(conn, seg))
        return true;
    bool fresh = seq_gt(seg->ack, conn->snd_una);
    struct tcp_delivery delivery = {
        .prior_pipe = tcp_pipe(conn),
        .prior_lost = conn->lost_total,
        .fack = conn->sacked_bytes ? conn->high_sacked : conn->snd_una,
        .tsecr = conn->flags & CONN_TS_OK && seg->has_timestamps ? seg->tsecr : 0,
        /* RFC 5681 section 2 */
        .duplicate = !fresh && seg->ack == conn->snd_una && !payload && !window_changed &&
                     conn->snd_nxt != conn->snd_una && !(seg->flags & (TCP_SYN | TCP_FIN)),
    };
    if (AMS_UNLIKELY(conn->rwnd_since)) { /* output will look again */
        conn->rwnd_time += now - conn->rwnd_since;
        conn->rwnd_since = 0;
    }
    if (AMS_UNLIKELY(seg->n_sack) && conn->flags & CONN_SACK_OK)
        tcp_recs_sack(stack, conn, seg, &delivery, now);
    if (fresh)
        ack_advance(stack, conn, seg, &delivery, now);
    else if (seq_lt(seg->ack, conn->snd_una))
        stack->counters.tcp_old_ack++;
    if (AMS_UNLIKELY(!(conn->flags & CONN_SACK_OK)))
        tcp_reno_account(conn, &delivery);
    delivery.rtt = best_sample(conn, seg, &delivery, fresh, now);
    if (delivery.rtt)
        tcp_rtt_sample(stack, conn, delivery.rtt);
    if (delivery.delivered) {
        conn->delivered += delivery.delivered;
        conn->delivered_at = now;
    }
    if (fresh || delivery.duplicate || delivery.sacked || delivery.dsacked)
        tcp_recovery_step(stack, conn, &delivery, now);
    if (AMS_UNLIKELY(conn->mtu_probe))
        tcp_mtu_acked(stack, conn);
    if (AMS_UNLIKELY(conn->ecn & (ECN_OK | ECN_ACCURATE)))
        tcp_ecn_ack(stack, conn, seg, payload, &delivery, now);
    tcp_cc_ack(conn, &delivery, now);
    if (AMS_UNLIKELY(window_changed && conn->flags & CONN_PERSIST)) {
        conn->backoff = 0;
        if (!(stack->config.flags & AMS_STACK_NO_IDLE_RESTART))
            tcp_cc_restart(conn, now); /* nothing was sent while the window was closed */
    }
    if (fresh || (window_changed && conn->flags & CONN_PERSIST) || head_gets_time(conn, &delivery, now)) {
        tcp_rexmit_restart(stack, conn, now);
        tcp_tlp_schedule(stack, conn, now);
    }
    if (conn->lost_bytes != conn->retrans_bytes || tcp_unsent(conn) ||
        (conn->flags & (CONN_FIN_QUEUED | CONN_FIN_SENT)) == CONN_FIN_QUEUED)
        tcp_want_output(stack, conn);
    return true;
}
