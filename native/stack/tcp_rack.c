/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_rack.c - loss detection by time: RACK-TLP (RFC 8985).
 *
 * Theory of operation.  Segments are judged in the order in which they were
 * sent, not in that of their sequence numbers: once a segment is known
 * delivered, everything that was sent a reordering window or more before it
 * and is still missing is lost.  What is not yet that old is waited for by
 * the reordering timer.  This finds lost retransmissions, too.
 *
 * Originals are in the ring in the order in which they were sent, so they
 * are judged from lost_hint upwards, up to the first one that must wait: each
 * is looked at once.  Retransmissions lie anywhere below; they are looked
 * through only when the oldest of them may have expired (retrans_oldest).
 *
 * The window is nothing during recovery, and once DupThresh segments are
 * SACKed (which makes it RFC 6675's rule), as long as no reordering was seen;
 * then it is a quarter of the minimum RTT, more after each round with a
 * D-SACK, for 16 recoveries, at most an SRTT (section 6.2.4).
 *
 * A tail loss probe (section 7) is sent when nothing has been heard for two
 * RTTs: new data if there is, else the last segment again.  It makes the
 * receiver say what is missing, so that RACK can work where a timeout would
 * have been needed.  probe_at is the deadline of either; both give way to
 * the retransmission timeout.
 */
#include "stack/tcp.h"

#define REO_PERSIST 16u                       /* section 6.2.4 */
#define REO_MULT_MAX 250u
#define REORDERING_MAX 300u                   /* what is reported, as Linux */
#define ACK_DELAY_MAX (200 * AMS_NS_PER_MS)   /* WCDelAckT, section 7.2 */
#define PTO_INITIAL AMS_NS_PER_S
#define PTO_SLACK (2 * AMS_NS_PER_MS)         /* two ticks of the wheel */

/* RACK_sent_after() (section 6.2). */
static bool sent_after(uint64_t at1, uint32_t end1, uint64_t at2, uint32_t end2)
{
    return at1 > at2 || (at1 == at2 && seq_gt(end1, end2));
}

uint64_t tcp_rack_delivered(struct tcp_conn *conn, const struct tcp_rec *rec, const struct tcp_delivery *delivery,
                            uint32_t tsecr, uint64_t now)
{
    uint64_t rtt = ams_max_u64(now - rec->sent_at, 1);
    uint32_t end = rec->seq + rec->len;
    bool again = rec->marks & REC_EVER_RETRANS;
    if (!again && seq_lt(end, delivery->fack)) { /* section 6.2, step 3 */
        uint32_t distance = (delivery->fack - rec->seq + conn->snd_mss - 1) / conn->snd_mss;
        conn->reordering = (uint16_t)ams_max_u32(conn->reordering, ams_min_u32(distance, REORDERING_MAX));
        conn->loss |= LOSS_REORDERED;
    }
    /* Which transmission arrived is unknown, unless the echoed timestamp or
     * an impossibly short time tells that it was not the last (step 2). */
    if (again && (rtt < conn->min_rtt || (tsecr && (int32_t)(tsecr - tcp_timestamp(conn, rec->sent_at)) < 0)))
        return 0;
    if (sent_after(rec->sent_at, end, conn->rack_sent_at, conn->rack_end_seq)) {
        conn->rack_sent_at = rec->sent_at;
        conn->rack_end_seq = end;
        conn->rack_rtt = (uint32_t)ams_min_u64(rtt >> TCP_AGO_SHIFT, UINT32_MAX);
    }
    return again ? 0 : rtt;
}

void tcp_rack_dsack(struct tcp_conn *conn)
{
    if (conn->loss & LOSS_DSACK_ROUND && seq_lt(conn->snd_una, conn->dsack_round))
        return;
    conn->loss |= LOSS_DSACK_ROUND;
    conn->dsack_round = conn->snd_nxt;
    if (conn->reo_mult < REO_MULT_MAX)
        conn->reo_mult++;
    conn->reo_persist = REO_PERSIST;
}

void tcp_rack_recovered(struct tcp_conn *conn)
{
    if (conn->reo_persist && --conn->reo_persist == 0)
        conn->reo_mult = 0;
}

/* RACK_update_reo_wnd() (section 6.2.4); reo_mult counts from 0. */
static uint64_t reo_window(const struct tcp_conn *conn)
{
    if (!(conn->loss & LOSS_REORDERED) &&
        (conn->ca_state >= TCP_CA_RECOVERY || conn->sacked_bytes >= TCP_DUPTHRESH * conn->snd_mss))
        return 0;
    return ams_min_u64((1u + conn->reo_mult) * (conn->min_rtt / 4), conn->srtt);
}

/* How long after its transmission a segment is lost, if one that was sent
 * later has arrived. */
static uint64_t rack_wait(const struct tcp_conn *conn)
{
    return ((uint64_t)conn->rack_rtt << TCP_AGO_SHIFT) + reo_window(conn);
}

bool tcp_rack_expired(const struct tcp_conn *conn, const struct tcp_rec *rec, uint64_t now)
{
    return rec->sent_at + rack_wait(conn) <= now;
}

/* Asks to be called again at `at`. */
static void reorder_timer(struct ams_stack *stack, struct tcp_conn *conn, uint64_t at)
{
    conn->loss &= (uint16_t)~LOSS_PROBE_TLP;
    conn->probe_at = at;
    tcp_timer_update(stack, conn);
}

/* Judges retransmissions in flight.
 * Return: when the first of the others is due, UINT64_MAX if none is. */
static uint64_t detect_retransmissions(struct tcp_conn *conn, uint64_t wait, uint64_t now)
{
    uint64_t due = UINT64_MAX;
    if (!conn->retrans_bytes || conn->retrans_oldest > conn->rack_sent_at)
        return due;
    if (conn->retrans_oldest + wait > now)
        return conn->retrans_oldest + wait;
    uint64_t oldest = UINT64_MAX;
    uint32_t left = conn->retrans_bytes;
    for (uint32_t i = 0; i < conn->rec_count && left; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (!(rec->marks & REC_RETRANS))
            continue;
        left -= rec->len;
        if (sent_after(conn->rack_sent_at, conn->rack_end_seq, rec->sent_at, rec->seq + rec->len)) {
            if (rec->sent_at + wait <= now) {
                tcp_rec_mark_relost(conn, rec);
                continue;
            }
            due = ams_min_u64(due, rec->sent_at + wait);
        }
        oldest = ams_min_u64(oldest, rec->sent_at);
    }
    conn->retrans_oldest = oldest;
    return due;
}

/* Judges originals from lost_hint upwards.  Return: as above. */
static uint64_t detect_originals(struct tcp_conn *conn, uint64_t wait, uint64_t now)
{
    uint32_t from = seq_max(conn->lost_hint, conn->snd_una);
    uint32_t i = tcp_rec_search(conn, from);
    bool contiguous = true; /* all before this one are judged */
    for (; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (!(rec->marks & (REC_SACKED | REC_LOST))) {
            bool before = sent_after(conn->rack_sent_at, conn->rack_end_seq, rec->sent_at, rec->seq + rec->len);
            if (before && rec->sent_at + wait <= now) {
                tcp_rec_mark_lost(conn, rec);
            } else if (rec->marks & REC_EVER_RETRANS) {
                contiguous = false; /* a probe, or kept by an undo: younger than its neighbours */
                continue;
            } else {
                return before ? rec->sent_at + wait : UINT64_MAX;
            }
        }
        if (contiguous)
            conn->lost_hint = rec->seq + rec->len;
    }
    return UINT64_MAX;
}

void tcp_rack_detect(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (!conn->rack_sent_at)
        return;
    uint64_t wait = rack_wait(conn);
    uint64_t due = detect_retransmissions(conn, wait, now);
    due = ams_min_u64(due, detect_originals(conn, wait, now));
    if (due != UINT64_MAX)
        reorder_timer(stack, conn, due);
    else if (!(conn->loss & LOSS_PROBE_TLP))
        conn->probe_at = 0;
}

/* ---- tail loss probes ---------------------------------------------------------- */

void tcp_tlp_schedule(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->ca_state >= TCP_CA_RECOVERY || conn->ca_state == TCP_CA_DISORDER || conn->snd_una == conn->snd_nxt ||
        conn->loss & LOSS_TLP_OUT || !(conn->flags & CONN_SACK_OK) || conn->backoff) {
        if (conn->loss & LOSS_PROBE_TLP)
            conn->probe_at = 0;
        return;
    }
    uint64_t pto = conn->srtt ? 2 * conn->srtt + PTO_SLACK : PTO_INITIAL;
    if (conn->srtt && conn->snd_nxt - conn->snd_una <= conn->snd_mss)
        pto += ACK_DELAY_MAX;
    conn->loss |= LOSS_PROBE_TLP;
    conn->probe_at = conn->rexmit_at ? ams_min_u64(now + pto, conn->rexmit_at) : now + pto;
    tcp_timer_update(stack, conn);
}

bool tcp_tlp_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    if (AMS_LIKELY(!(conn->loss & LOSS_TLP_OUT)) || seq_lt(conn->snd_una, conn->tlp_end_seq))
        return false;
    bool retrans = conn->loss & LOSS_TLP_RETRANS;
    if (!retrans || delivery->dsacked) { /* nothing was lost */
        conn->loss &= (uint16_t)~LOSS_TLP_OUT;
        return false;
    }
    if (seq_gt(conn->snd_una, conn->tlp_end_seq) || delivery->acked) {
        /* The probe, or the original: section 7.4.2 takes the first for sure
         * once an ACK goes beyond without a D-SACK. */
        bool beyond = seq_gt(conn->snd_una, conn->tlp_end_seq);
        if (beyond)
            conn->loss &= (uint16_t)~LOSS_TLP_OUT;
        return beyond;
    }
    if (delivery->duplicate && !delivery->sacked)
        conn->loss &= (uint16_t)~LOSS_TLP_OUT; /* both have arrived */
    return false;
}

void tcp_probe_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->probe_at = 0;
    if (conn->snd_una == conn->snd_nxt)
        return;
    if (!(conn->loss & LOSS_PROBE_TLP)) {
        tcp_rack_detect(stack, conn, now);
        tcp_recovery_detected(stack, conn, now);
        return;
    }
    conn->loss = (uint16_t)((conn->loss & ~LOSS_PROBE_TLP) | LOSS_TLP_NOW);
    tcp_rexmit_restart(stack, conn, now); /* it may be due, too: the probe goes first */
    tcp_want_output(stack, conn);
}
