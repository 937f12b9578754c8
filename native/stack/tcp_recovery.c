/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_recovery.c - what is done about loss, and about loss that was none.
 *
 * Theory of operation.  Loss is detected
 *   - with SACK: by RACK-TLP (tcp_rack.c);
 *   - without: at the third duplicate ACK, then at each partial ACK (RFC 6582);
 *     each duplicate ACK counts as one delivered segment, and lets a new one
 *     out before the third (limited transmit, RFC 3042);
 *   - by timeout: what RACK would call lost, and the first segment.
 *
 * ca_state: OPEN nothing suspicious; DISORDER SACKs or duplicate ACKs, no
 * loss yet; CWR cwnd is being reduced after an ECN signal; RECOVERY the same
 * after a loss; both until snd_una reaches `recover`; LOSS the same after a
 * timeout, with slow start from one segment.  In CWR and RECOVERY cwnd is
 * PRR's (RFC 9937), unless the congestion control owns it.
 *
 * Each reduction can be undone (RFC 4015), as long as it is not known to have
 * been right: when the first ACK after a retransmission echoes a timestamp
 * from before it (Eifel, RFC 3522), when D-SACK has reported every
 * retransmission as a duplicate (RFC 3708), or when F-RTO (RFC 5682) sees
 * originals arrive after a timeout.
 */
#include "stack/tcp.h"

/* ---- the reduction, and its undoing ------------------------------------------------ */

/* Remembers what an undo must restore. */
static void undo_prepare(struct tcp_conn *conn)
{
    conn->undo_cwnd = conn->cwnd;
    conn->undo_ssthresh = conn->ssthresh;
    conn->undo_marker = conn->snd_una;
    conn->undo_retrans = conn->retrans_bytes;
    conn->loss = (uint16_t)((conn->loss | LOSS_UNDO) & ~LOSS_UNDO_SENT);
}

/* Starts PRR (RFC 9937 section 6): once per window.
 * @delivery: of the ACK that shows the loss, NULL if a timer did */
static void reduction_begin(struct tcp_conn *conn, const struct tcp_delivery *delivery, uint32_t ssthresh)
{
    uint32_t before = conn->sacked_bytes - (delivery ? ams_min_u32(delivery->sacked, conn->sacked_bytes) : 0);
    conn->prr_flight = conn->snd_nxt - conn->snd_una - before + (delivery ? delivery->acked : 0);
    conn->prr_flight = ams_max_u32(conn->prr_flight, 1);
    conn->prr_delivered = conn->prr_out = 0;
    conn->ssthresh = ssthresh;
    conn->recover = conn->snd_nxt;
    conn->loss &= (uint16_t)~LOSS_TLP_OUT;
    if (conn->ecn & ECN_OK)
        conn->ecn |= ECN_CWR; /* RFC 3168 section 6.1.2: whatever the reason was */
}

void tcp_prr_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    uint32_t pipe = tcp_pipe(conn);
    int64_t room;
    conn->prr_delivered += delivery->delivered;
    if (pipe > conn->ssthresh) {
        /* rounded up to a whole segment, as by one who counts in segments: what is left of one is not sent, and
         * must not make each of them wait for the next ACK */
        uint64_t unit = (uint64_t)conn->prr_flight * conn->snd_mss;
        uint64_t segments = ((uint64_t)conn->prr_delivered * conn->ssthresh + unit - 1) / unit;
        room = (int64_t)(segments * conn->snd_mss) - conn->prr_out;
    } else {
        room = (int64_t)conn->prr_delivered - conn->prr_out;
        if (room < delivery->delivered)
            room = delivery->delivered;
        if (delivery->acked && conn->lost_total == delivery->prior_lost) /* SafeACK */
            room += conn->snd_mss;
        if (room > conn->ssthresh - pipe)
            room = conn->ssthresh - pipe;
    }
    if (room < conn->snd_mss && !conn->prr_out)
        room = conn->snd_mss; /* the fast retransmit */
    conn->cwnd = pipe + (room > 0 ? (uint32_t)room : 0);
}

/* Back to where the reduction began (RFC 4015 section 3). */
static void undo(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->cwnd = ams_max_u32(conn->cwnd, conn->undo_cwnd);
    conn->ssthresh = ams_max_u32(conn->ssthresh, conn->undo_ssthresh);
    conn->loss &= (uint16_t)~(LOSS_UNDO | LOSS_UNDO_SENT | LOSS_FRTO | LOSS_FRTO_NEW);
    conn->cwnd_at = now;
    if (conn->cc->on_undo)
        conn->cc->on_undo(conn, now);
    stack->counters.tcp_undo++;
}

/* Eifel detection (RFC 3522 section 3.2): does this ACK, the first for new
 * data after a retransmission, echo an original's timestamp? */
static bool echoes_original(const struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    return conn->loss & LOSS_UNDO_SENT && delivery->acked && delivery->tsecr &&
           (int32_t)(delivery->tsecr - conn->retrans_ts) < 0;
}

static bool may_undo(const struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    if (!(conn->loss & LOSS_UNDO) || !(conn->loss & LOSS_UNDO_SENT))
        return false;
    return conn->undo_retrans == 0 || echoes_original(conn, delivery);
}

/* A D-SACK came: a retransmission was not needed. */
static void dsack_seen(struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    /* More duplicates than retransmissions: the network makes them.  Without reordering they come of timeouts and
     * probes that a lost ACK has caused, which no reordering window would have prevented (as Linux). */
    if (conn->dsack_dups <= conn->segs_retrans && conn->loss & LOSS_REORDERED)
        tcp_rack_dsack(conn);
    if (conn->loss & LOSS_UNDO && seq_gt(delivery->dsack_end, conn->undo_marker))
        conn->undo_retrans -= ams_min_u32(conn->undo_retrans, delivery->dsacked);
}

void tcp_recovery_sent(struct tcp_conn *conn, struct tcp_rec *rec, uint32_t len, uint64_t now)
{
    if (!conn->retrans_bytes)
        conn->retrans_oldest = now;
    if ((rec->marks & (REC_LOST | REC_RETRANS)) == REC_LOST) { /* a probe may repeat a retransmission */
        rec->marks |= REC_RETRANS;
        conn->retrans_bytes += rec->len;
    }
    rec->marks |= REC_EVER_RETRANS;
    if (conn->loss & LOSS_UNDO)
        conn->loss |= LOSS_UNDO_SENT;
    if (seq_leq(conn->retrans_high, conn->snd_una)) {
        conn->retrans_ts = tcp_timestamp(conn, now);
        conn->retrans_high = rec->seq + rec->len;
    }
    conn->retrans_high = seq_max(conn->retrans_high, rec->seq + rec->len);
    conn->undo_retrans += rec->len;
    conn->bytes_retrans += len;
    conn->segs_retrans += len > conn->snd_mss ? (len + conn->snd_mss - 1) / conn->snd_mss : 1;
    tcp_rate_sent(conn, rec, now);
}

/* ---- entering and leaving -------------------------------------------------------- */

static void enter_recovery(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                           uint64_t now)
{
    if (conn->ca_state != TCP_CA_CWR) {
        undo_prepare(conn);
        reduction_begin(conn, delivery, conn->cc->on_loss(conn, now));
    }
    conn->recover = conn->snd_nxt;
    conn->ca_state = TCP_CA_RECOVERY;
    if (conn->lost_bytes != conn->retrans_bytes)
        conn->flags |= CONN_REXMIT_NOW;
    stack->counters.tcp_fast_retrans++;
}

/* What is lost is sent again without congestion being the reason. */
static void repair_only(struct tcp_conn *conn)
{
    conn->ca_state = TCP_CA_LOSS;
    conn->recover = conn->snd_nxt;
    conn->loss &= (uint16_t)~(LOSS_UNDO | LOSS_UNDO_SENT | LOSS_FRTO | LOSS_FRTO_NEW);
    conn->flags |= CONN_REXMIT_NOW;
}

/* Nothing but a probe of the path's MTU is lost: no reason for a reduction. */
static bool probe_lost(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (AMS_LIKELY(!conn->mtu_probe) || !tcp_mtu_lost(stack, conn))
        return false;
    repair_only(conn);
    return true;
}

void tcp_cc_ecn(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->ca_state >= TCP_CA_CWR || conn->state < AMS_TCP_ESTABLISHED)
        return;
    const struct tcp_cc_ops *cc = conn->cc;
    conn->loss &= (uint16_t)~(LOSS_UNDO | LOSS_UNDO_SENT); /* it was no guess */
    reduction_begin(conn, NULL, cc->on_ecn ? cc->on_ecn(conn, now) : cc->on_loss(conn, now));
    conn->ca_state = TCP_CA_CWR;
    stack->counters.tcp_ecn_reduced++;
}

/* Recovery is over, or was undone. */
static void leave_recovery(struct tcp_conn *conn, uint64_t now)
{
    bool sack = conn->flags & CONN_SACK_OK;
    uint8_t from = conn->ca_state;
    if (from != TCP_CA_CWR)
        tcp_rack_recovered(conn);
    if (!sack) {
        conn->sacked_bytes = 0;
        if (conn->snd_una == conn->recover)
            conn->loss |= LOSS_RENO_HOLD;
    }
    conn->ca_state = sack && conn->sacked_bytes ? TCP_CA_DISORDER : TCP_CA_OPEN;
    conn->dupacks = 0;
    conn->flags &= ~CONN_REXMIT_NOW;
    conn->loss &= (uint16_t)~(LOSS_FRTO | LOSS_FRTO_NEW);
    conn->cwnd_at = now;
    if (conn->cc->on_exit)
        conn->cc->on_exit(conn, now);
}

/* The end of CWR or RECOVERY: cwnd is ssthresh now (RFC 9937 section 6). */
static void finish_reduction(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                             uint64_t now)
{
    if (!(conn->cc->flags & TCP_CC_OWN_CWND))
        conn->cwnd = ams_max_u32(conn->ssthresh, 2 * conn->snd_mss);
    if (may_undo(conn, delivery))
        undo(stack, conn, now);
    leave_recovery(conn, now);
}

/* A tail loss probe has repaired what was lost: the reduction that recovery
 * would have made, at once (RFC 8985 section 7.4.2). */
static void probe_repaired(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                           uint64_t now)
{
    if (conn->ca_state >= TCP_CA_CWR)
        return;
    conn->loss &= (uint16_t)~(LOSS_UNDO | LOSS_UNDO_SENT);
    reduction_begin(conn, delivery, conn->cc->on_loss(conn, now));
    conn->ca_state = TCP_CA_CWR;
    finish_reduction(stack, conn, delivery, now);
    stack->counters.tcp_tlp_recovered++;
}

/* ---- without SACK (RFC 6582) ---------------------------------------------------- */

void tcp_reno_account(struct tcp_conn *conn, struct tcp_delivery *delivery)
{
    uint32_t flight = conn->snd_nxt - conn->snd_una;
    uint32_t room = flight - ams_min_u32(flight, conn->lost_bytes);
    if (delivery->repaired)
        delivery->original = false; /* what lay behind a hole may have arrived long ago */
    if (delivery->acked) {
        /* a segment was the hole; the rest is what duplicate ACKs have counted already (as Linux) */
        uint32_t hole = ams_min_u32(delivery->delivered, conn->snd_mss);
        delivery->delivered -= ams_min_u32(conn->sacked_bytes, delivery->delivered - hole);
        conn->sacked_bytes -= ams_min_u32(conn->sacked_bytes, delivery->acked - ams_min_u32(delivery->acked, hole));
        conn->sacked_bytes = ams_min_u32(conn->sacked_bytes, room);
        conn->loss &= (uint16_t)~LOSS_RENO_HOLD;
    } else if (delivery->duplicate && conn->sacked_bytes < room) {
        uint32_t more = ams_min_u32(conn->snd_mss, room - conn->sacked_bytes);
        conn->sacked_bytes += more;
        delivery->delivered += more;
    }
}

/* The first segment is lost, and nothing is known of the others. */
static void reno_mark_head(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (!conn->rec_count)
        return;
    struct tcp_rec *rec = tcp_rec_at(conn, 0);
    if (rec->len > conn->snd_mss && !(rec->marks & REC_LOST) &&
        tcp_rec_split(stack, conn, 0, rec->seq + conn->snd_mss))
        rec = tcp_rec_at(conn, 0);
    if (!(rec->marks & REC_LOST)) {
        uint32_t rest = conn->snd_nxt - conn->snd_una - conn->lost_bytes - rec->len;
        conn->sacked_bytes = ams_min_u32(conn->sacked_bytes, rest);
    }
    tcp_rec_mark_lost(conn, rec);
}

/* Loss detection without SACK: duplicate and partial ACKs (RFC 6582). */
static void reno_detect(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    if (delivery->acked) {
        if (conn->ca_state == TCP_CA_RECOVERY) {
            reno_mark_head(stack, conn); /* partial ACK (RFC 6582 section 3.2, 5) */
            conn->flags |= CONN_REXMIT_NOW;
        } else if (conn->ca_state <= TCP_CA_CWR) {
            conn->dupacks = 0;
            conn->sacked_bytes = 0;
        }
    }
    if (!delivery->duplicate || conn->ca_state == TCP_CA_LOSS || conn->loss & LOSS_RENO_HOLD)
        return;
    if (conn->dupacks < UINT8_MAX)
        conn->dupacks++;
    if (conn->ca_state < TCP_CA_RECOVERY && conn->dupacks >= TCP_DUPTHRESH)
        reno_mark_head(stack, conn);
}

/* ---- after a timeout ---------------------------------------------------------------- */

void tcp_recovery_rto(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    bool fresh = conn->ca_state < TCP_CA_RECOVERY;
    bool reneged = conn->rec_count && tcp_rec_at(conn, 0)->marks & REC_SACKED;
    bool sack = conn->flags & CONN_SACK_OK;
    if (conn->ca_state <= TCP_CA_DISORDER || seq_geq(conn->snd_una, conn->recover) ||
        (conn->ca_state == TCP_CA_LOSS && !conn->backoff)) {
        undo_prepare(conn);
        conn->ssthresh = conn->cc->on_loss(conn, now); /* RFC 5681 section 3.1, (4) */
        conn->cc->on_rto(conn, now);
        if (conn->ecn & ECN_OK)
            conn->ecn |= ECN_CWR;
    }
    if (!sack || reneged)
        tcp_recs_forget_sacks(conn);
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (i && sack && !reneged && !tcp_rack_expired(conn, rec, now))
            continue; /* RFC 8985 section 6.3 */
        if (rec->marks & REC_RETRANS)
            tcp_rec_mark_relost(conn, rec);
        tcp_rec_mark_lost(conn, rec);
    }
    conn->rexmit_hint = conn->snd_una;
    conn->recover = conn->snd_nxt;
    conn->cwnd = tcp_pipe(conn) + conn->snd_mss;
    conn->cwnd_at = now;
    conn->ca_state = TCP_CA_LOSS;
    conn->dupacks = 0;
    conn->probe_at = 0;
    conn->flags |= CONN_REXMIT_NOW;
    conn->loss &= (uint16_t)~(LOSS_TLP_OUT | LOSS_TLP_NOW | LOSS_FRTO | LOSS_FRTO_NEW);
    if (fresh || conn->backoff)
        conn->loss |= LOSS_FRTO; /* RFC 5682 section 3.1, step 1 */
    stack->counters.tcp_rto++;
}

/* The timeout was spurious: nothing is lost. */
static void undo_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    tcp_recs_unmark_lost(conn);
    undo(stack, conn, now);
    conn->backoff = 0;
    stack->counters.tcp_spurious_rto++;
    leave_recovery(conn, now);
}

/* F-RTO's steps 2 and 3, with and without SACK (RFC 5682 sections 2.1, 3.1).
 * Return: true if the timeout was spurious. */
static bool frto_step(struct tcp_conn *conn, const struct tcp_delivery *delivery)
{
    conn->loss &= (uint16_t)~LOSS_FRTO_NEW;
    if (!(conn->loss & LOSS_FRTO))
        return false;
    if (delivery->original && (delivery->acked || delivery->sacked))
        return true; /* 3b: data sent once was delivered */
    if (seq_gt(conn->snd_nxt, conn->recover)) {
        if (delivery->sacked || delivery->duplicate)
            conn->loss &= (uint16_t)~LOSS_FRTO; /* 3a: the loss was real */
    } else if (delivery->acked && seq_lt(conn->snd_una, conn->recover)) {
        conn->recover = conn->snd_nxt;
        conn->loss |= LOSS_FRTO_NEW; /* 2b */
    }
    return false;
}

/* An ACK in LOSS.  Return: true if LOSS is over. */
static bool loss_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                      uint64_t now)
{
    bool undoable = conn->loss & LOSS_UNDO;
    bool delayed = undoable && delivery->acked && may_undo(conn, delivery);
    bool over = seq_geq(conn->snd_una, conn->recover);
    if (delayed || (frto_step(conn, delivery) && undoable)) {
        undo_timeout(stack, conn, now);
        return true;
    }
    if (over)
        leave_recovery(conn, now);
    return over;
}

/* ---- each ACK ------------------------------------------------------------------------ */

/* An ACK in CWR or RECOVERY.  Return: true if that is over. */
static bool reduction_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                           uint64_t now)
{
    /* the ACK of all that was out may still report marks from before: only one beyond it answers the reduction (as
     * Linux; RFC 3168 section 6.1.2 wants one reduction a window) */
    bool answered = conn->ca_state == TCP_CA_CWR ? seq_gt(conn->snd_una, conn->recover)
                                                 : seq_geq(conn->snd_una, conn->recover);
    if (answered) {
        finish_reduction(stack, conn, delivery, now);
        return true;
    }
    if (conn->ca_state == TCP_CA_RECOVERY && conn->loss & LOSS_UNDO && echoes_original(conn, delivery)) {
        conn->loss |= LOSS_REORDERED; /* the hole was filled by what was late */
        tcp_recs_unmark_lost(conn);
        undo(stack, conn, now);
        leave_recovery(conn, now);
        return true;
    }
    return false;
}

void tcp_recovery_detected(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->lost_bytes == conn->retrans_bytes)
        return;
    if (conn->ca_state < TCP_CA_RECOVERY && !probe_lost(stack, conn)) {
        struct tcp_delivery nothing = {.prior_lost = conn->lost_total};
        enter_recovery(stack, conn, NULL, now);
        if (!(conn->cc->flags & TCP_CC_OWN_CWND))
            tcp_prr_ack(conn, &nothing);
    }
    tcp_want_output(stack, conn);
}

void tcp_recovery_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                       uint64_t now)
{
    if (AMS_UNLIKELY(delivery->dsacked))
        dsack_seen(conn, delivery);
    if (AMS_UNLIKELY(conn->loss & LOSS_TLP_OUT) && tcp_tlp_ack(conn, delivery))
        probe_repaired(stack, conn, delivery, now);
    if (AMS_LIKELY(conn->ca_state == TCP_CA_OPEN && !conn->sacked_bytes && !conn->lost_bytes && !delivery->dsacked &&
                   !delivery->duplicate))
        return;
    if (conn->ca_state == TCP_CA_LOSS)
        loss_step(stack, conn, delivery, now);
    else if (tcp_reducing(conn))
        reduction_step(stack, conn, delivery, now);
    if (conn->ca_state <= TCP_CA_DISORDER && conn->loss & LOSS_UNDO && delivery->dsacked && may_undo(conn, delivery))
        undo(stack, conn, now);
    if (conn->flags & CONN_SACK_OK)
        tcp_rack_detect(stack, conn, now);
    else
        reno_detect(stack, conn, delivery);
    if (conn->ca_state >= TCP_CA_RECOVERY)
        return;
    /* What is lost beyond `recover` was sent after the last reduction: the next one, even if all of it has been sent
     * again already (RFC 6675 section 5; as Linux). */
    if (conn->lost_bytes != conn->retrans_bytes || (conn->flags & CONN_SACK_OK && conn->lost_bytes)) {
        if (!probe_lost(stack, conn))
            enter_recovery(stack, conn, delivery, now);
    } else if (conn->ca_state != TCP_CA_CWR)
        conn->ca_state = conn->sacked_bytes ? TCP_CA_DISORDER : TCP_CA_OPEN;
}

/* ---- output asks --------------------------------------------------------------------- */

struct tcp_rec *tcp_recovery_next(struct tcp_conn *conn, uint32_t *index)
{
    if (conn->lost_bytes == conn->retrans_bytes)
        return NULL;
    uint32_t from = seq_max(conn->rexmit_hint, conn->snd_una);
    for (uint32_t i = tcp_rec_search(conn, from); i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if ((rec->marks & (REC_LOST | REC_RETRANS)) == REC_LOST) {
            conn->rexmit_hint = rec->seq;
            *index = i;
            return rec;
        }
    }
    return NULL;
}

/* Marks what is in flight in records longer than `length` lost, and sends it
 * again.  The rate stays: nothing says that there is congestion. */
static void resend_longer(struct ams_stack *stack, struct tcp_conn *conn, uint32_t length, uint64_t now)
{
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (rec->marks & REC_SACKED || rec->len <= length)
            continue;
        if (rec->marks & REC_RETRANS)
            tcp_rec_mark_relost(conn, rec);
        tcp_rec_mark_lost(conn, rec);
    }
    conn->mtu_probe = 0;
    if (conn->lost_bytes && conn->ca_state < TCP_CA_RECOVERY)
        repair_only(conn);
    conn->flags |= CONN_REXMIT_NOW;
    tcp_want_output(stack, conn);
    tcp_rexmit_restart(stack, conn, now);
}

void tcp_recovery_resend(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    resend_longer(stack, conn, 0, now);
}

void tcp_mtu_reduced(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    tcp_update_mss(conn);
    resend_longer(stack, conn, conn->snd_mss, now); /* RFC 1191 section 6.4 */
}
