/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_recovery.c - the scoreboard, loss detection and recovery.
 *
 * Theory of operation.  The records of what is between snd_una and snd_nxt
 * lie in a ring, ordered by sequence number, so a SACK block is found by
 * binary search.  Sums over the marks are kept as they change: the "pipe" of
 * RFC 6675 is one subtraction.
 *
 * Loss is detected
 *   - with SACK: a record is lost when more than (DupThresh - 1) * MSS bytes
 *     above it are SACKed (RFC 6675 section 4, IsLost);
 *   - without: at the third duplicate ACK, then at each partial ACK (RFC 6582);
 *     each duplicate ACK counts as one delivered segment;
 *   - a lost retransmission: something sent a quarter RTT later has arrived
 *     (the time-based rule of RFC 8985 section 6.2);
 *   - by timeout: everything not SACKed (RFC 6298 section 5).
 *
 * ca_state: OPEN nothing suspicious; DISORDER SACKs or duplicate ACKs, no
 * loss yet; RECOVERY until snd_una reaches `recover`; LOSS the same after a
 * timeout.  cwnd grows in OPEN, DISORDER and LOSS only.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

struct tcp_rec *tcp_rec_at(struct tcp_conn *conn, uint32_t index)
{
    return &conn->recs[(conn->rec_head + index) & (conn->rec_cap - 1)];
}

bool tcp_rec_reserve(struct ams_stack *stack, struct tcp_conn *conn, uint32_t more)
{
    uint32_t need = conn->rec_count + more;
    if (AMS_LIKELY(need <= conn->rec_cap))
        return true;
    uint32_t cap = conn->rec_cap;
    while (cap < need)
        cap *= 2;
    if (cap < 8)
        cap = 8;
    if (cap > TCP_RECS_MAX)
        return false;
    struct tcp_rec *recs = mem_alloc(cap * sizeof(*recs));
    if (!recs) {
        stack->counters.tcp_no_memory++;
        return false;
    }
    for (uint32_t i = 0; i < conn->rec_count; i++)
        recs[i] = *tcp_rec_at(conn, i);
    stack->tcp->memory += cap * sizeof(*recs);
    tcp_recs_fini(stack, conn);
    conn->recs = recs;
    conn->rec_cap = cap;
    conn->rec_head = 0;
    return true;
}

/* Frees the ring if it is not the inline one; rec_count stays. */
void tcp_recs_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->recs == conn->recs_inline)
        return;
    stack->tcp->memory -= conn->rec_cap * sizeof(*conn->recs);
    mem_free(conn->recs);
    conn->recs = conn->recs_inline;
    conn->rec_cap = TCP_RECS_INLINE;
    conn->rec_head = 0;
}

struct tcp_rec *tcp_rec_push(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (!tcp_rec_reserve(stack, conn, 1))
        return NULL;
    struct tcp_rec *rec = tcp_rec_at(conn, conn->rec_count++);
    memset(rec, 0, sizeof(*rec));
    return rec;
}

/* Takes the first n bytes of a record out of the sums. */
static void unaccount(struct tcp_conn *conn, const struct tcp_rec *rec, uint32_t n)
{
    if (rec->marks & REC_SACKED) {
        conn->sacked_bytes -= n;
    } else if (rec->marks & REC_LOST) {
        conn->lost_bytes -= n;
        if (rec->marks & REC_RETRANS)
            conn->retrans_bytes -= n;
    }
}

bool tcp_rec_split(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index, uint32_t seq)
{
    if (!tcp_rec_reserve(stack, conn, 1))
        return false;
    conn->rec_count++;
    for (uint32_t i = conn->rec_count - 1; i > index + 1; i--)
        *tcp_rec_at(conn, i) = *tcp_rec_at(conn, i - 1);
    struct tcp_rec *left = tcp_rec_at(conn, index);
    struct tcp_rec *right = tcp_rec_at(conn, index + 1);
    *right = *left;
    right->seq = seq;
    right->len = left->seq + left->len - seq;
    left->len = seq - left->seq;
    left->marks &= (uint8_t)~REC_FIN;
    return true;
}

/* Index of the record that holds seq; rec_count if it lies beyond. */
static uint32_t rec_search(struct tcp_conn *conn, uint32_t seq)
{
    uint32_t low = 0, high = conn->rec_count;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        const struct tcp_rec *rec = tcp_rec_at(conn, mid);
        if (seq_geq(seq, rec->seq + rec->len))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* A record was delivered: the time rule's newest send time.
 * Return: an RTT sample in ns, 0 if the record gives none (Karn). */
static uint64_t delivered(struct tcp_conn *conn, const struct tcp_rec *rec, uint64_t now)
{
    uint64_t rtt = ams_max_u64(now - rec->sent_at, 1);
    bool ambiguous = rec->marks & REC_EVER_RETRANS;
    /* which transmission arrived is unknown, unless it came back too early
     * to be the latest one */
    if (ambiguous && conn->min_rtt && rtt < conn->min_rtt)
        return 0;
    if (rec->sent_at > conn->rack_sent_at)
        conn->rack_sent_at = rec->sent_at;
    return ambiguous ? 0 : rtt;
}

void tcp_recs_ack(struct ams_stack *stack, struct tcp_conn *conn, uint32_t ack, struct tcp_delivery *out, uint64_t now)
{
    while (conn->rec_count) {
        struct tcp_rec *rec = tcp_rec_at(conn, 0);
        if (seq_leq(ack, rec->seq))
            break;
        uint32_t cut = ack - rec->seq;
        if (cut < rec->len) {
            unaccount(conn, rec, cut);
            rec->seq = ack;
            rec->len -= cut;
            break;
        }
        unaccount(conn, rec, rec->len);
        if (rec->marks & REC_EVER_RETRANS) {
            out->repaired = true;
            out->repaired_at = ams_max_u64(out->repaired_at, rec->sent_at);
        }
        if (!(rec->marks & REC_SACKED)) {
            uint64_t rtt = delivered(conn, rec, now);
            out->rtt = rtt ? rtt : out->rtt;
        }
        conn->rec_head = (conn->rec_head + 1) & (conn->rec_cap - 1);
        conn->rec_count--;
    }
    if (!conn->rec_count && conn->rec_cap > 64)
        tcp_recs_fini(stack, conn);
}

/* Marks one whole record as SACKed. */
static void mark_sacked(struct tcp_conn *conn, struct tcp_rec *rec, struct tcp_delivery *out, uint64_t now)
{
    if (rec->marks & REC_SACKED)
        return;
    unaccount(conn, rec, rec->len);
    uint64_t rtt = delivered(conn, rec, now);
    out->sack_rtt = rtt ? rtt : out->sack_rtt;
    rec->marks = (uint8_t)((rec->marks & ~(REC_LOST | REC_RETRANS)) | REC_SACKED);
    conn->sacked_bytes += rec->len;
    out->sacked += rec->len;
}

/* Marks the records of [start, end). */
static void sack_range(struct ams_stack *stack, struct tcp_conn *conn, uint32_t start, uint32_t end,
                       struct tcp_delivery *out, uint64_t now)
{
    uint32_t index = rec_search(conn, start);
    while (index < conn->rec_count) {
        struct tcp_rec *rec = tcp_rec_at(conn, index);
        if (seq_geq(rec->seq, end))
            break;
        if (seq_lt(rec->seq, start)) {
            if (rec->marks & REC_SACKED || !tcp_rec_split(stack, conn, index, start)) {
                index++;
                continue;
            }
            rec = tcp_rec_at(conn, ++index);
        }
        if (seq_gt(rec->seq + rec->len, end)) {
            if (rec->marks & REC_SACKED || !tcp_rec_split(stack, conn, index, end))
                break;
            rec = tcp_rec_at(conn, index);
        }
        mark_sacked(conn, rec, out, now);
        index++;
    }
    conn->high_sacked = conn->sacked_bytes == out->sacked ? end : seq_max(conn->high_sacked, end);
}

/* RFC 2883 section 4: the first block reports a duplicate if it lies below
 * the cumulative ACK or inside the second block. */
static bool is_dsack(const struct tcp_repr *seg)
{
    const struct tcp_sack_block *first = &seg->sack[0];
    if (seq_leq(first->end, seg->ack))
        return true;
    return seg->n_sack > 1 && seq_geq(first->start, seg->sack[1].start) && seq_leq(first->end, seg->sack[1].end);
}

/* Where in a block the last ACK's marking ended. */
static uint32_t sack_skip_known(const struct tcp_conn *conn, const struct tcp_sack_block *block)
{
    for (int i = 0; i < TCP_SACK_BLOCKS; i++) {
        const struct tcp_sack_block *known = &conn->sack_cache[i];
        if (known->start == block->start && known->start != known->end && seq_leq(known->end, block->end) &&
            seq_geq(known->start, conn->snd_una))
            return known->end;
    }
    return block->start;
}

void tcp_recs_sack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg,
                   struct tcp_delivery *out, uint64_t now)
{
    struct tcp_sack_block cache[TCP_SACK_BLOCKS] = {{0, 0}};
    for (int i = 0; i < seg->n_sack; i++) {
        struct tcp_sack_block block = seg->sack[i];
        if (i == 0 && is_dsack(seg)) {
            conn->dsack_dups++;
            continue;
        }
        uint32_t una = seq_max(conn->snd_una, seg->ack);
        if (seq_geq(block.start, block.end) || seq_gt(block.end, conn->snd_nxt) || seq_leq(block.end, una))
            continue; /* nonsense, or old news */
        if (seq_lt(block.start, una))
            block.start = una;
        uint32_t from = sack_skip_known(conn, &block);
        if (from != block.end)
            sack_range(stack, conn, from, block.end, out, now);
        cache[i] = block;
    }
    if (seg->n_sack)
        memcpy(conn->sack_cache, cache, sizeof(cache));
}

/* Marks one record lost. */
static void mark_lost(struct tcp_conn *conn, struct tcp_rec *rec)
{
    if (rec->marks & (REC_SACKED | REC_LOST))
        return;
    rec->marks |= REC_LOST;
    conn->lost_bytes += rec->len;
    if (seq_lt(rec->seq, conn->rexmit_hint))
        conn->rexmit_hint = rec->seq;
}

/* IsLost() of RFC 6675 for all records at once: walks down from the highest
 * SACKed byte until enough is SACKed above; what lies below and is not
 * SACKed is lost. */
static void detect_by_sack(struct tcp_conn *conn)
{
    if (!conn->sacked_bytes)
        return;
    uint32_t index = rec_search(conn, conn->high_sacked - 1);
    uint32_t above = 0;
    if (index >= conn->rec_count)
        return;
    for (;; index--) {
        const struct tcp_rec *rec = tcp_rec_at(conn, index);
        if (above > (TCP_DUPTHRESH - 1) * conn->snd_mss)
            break;
        if (rec->marks & REC_SACKED)
            above += rec->len;
        if (index == 0)
            return;
    }
    uint32_t limit = tcp_rec_at(conn, index)->seq + tcp_rec_at(conn, index)->len;
    uint32_t from = seq_max(conn->lost_hint, conn->snd_una);
    if (seq_geq(from, limit))
        return;
    for (uint32_t i = rec_search(conn, from); i <= index; i++)
        mark_lost(conn, tcp_rec_at(conn, i));
    conn->lost_hint = limit;
}

/* Retransmissions that must be lost too: something sent later by more than
 * the reordering window has been delivered. */
static void detect_lost_retransmissions(struct tcp_conn *conn)
{
    if (!conn->retrans_bytes)
        return;
    uint64_t window = ams_max_u64(conn->srtt / 4, AMS_NS_PER_MS);
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (seq_geq(rec->seq, conn->lost_hint) && seq_geq(rec->seq, conn->recover))
            break;
        if (!(rec->marks & REC_RETRANS))
            continue;
        if (rec->sent_at + window >= conn->rack_sent_at)
            break; /* those after it were retransmitted later */
        rec->marks &= (uint8_t)~REC_RETRANS;
        conn->retrans_bytes -= rec->len;
        if (seq_lt(rec->seq, conn->rexmit_hint))
            conn->rexmit_hint = rec->seq;
    }
}

/* Loss was detected: reduces the rate once per window (RFC 5681 section 3.2). */
static void enter_recovery(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->ssthresh = conn->cc->ssthresh(conn, now);
    conn->cwnd = conn->ssthresh;
    conn->recover = conn->snd_nxt;
    conn->ca_state = TCP_CA_RECOVERY;
    conn->flags |= CONN_REXMIT_NOW;
    stack->counters.tcp_fast_retrans++;
}

static void leave_recovery(struct tcp_conn *conn)
{
    if (conn->ca_state == TCP_CA_RECOVERY)
        conn->cwnd = ams_max_u32(conn->ssthresh, 2 * conn->snd_mss);
    conn->ca_state = conn->sacked_bytes && conn->flags & CONN_SACK_OK ? TCP_CA_DISORDER : TCP_CA_OPEN;
    conn->dupacks = 0;
    if (!(conn->flags & CONN_SACK_OK))
        conn->sacked_bytes = 0;
    conn->flags &= ~CONN_REXMIT_NOW;
}

/* Without SACK a duplicate ACK stands for one delivered segment. */
static void reno_duplicate(struct tcp_conn *conn)
{
    if (conn->dupacks < UINT8_MAX)
        conn->dupacks++;
    uint32_t flight = conn->snd_nxt - conn->snd_una;
    uint32_t room = flight - conn->lost_bytes;
    conn->sacked_bytes = ams_min_u32(conn->sacked_bytes + conn->snd_mss, room);
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
    if (conn->sacked_bytes > conn->snd_nxt - conn->snd_una - conn->lost_bytes - rec->len)
        conn->sacked_bytes = conn->snd_nxt - conn->snd_una - conn->lost_bytes - rec->len;
    mark_lost(conn, rec);
}

static void reno_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                      bool duplicate, uint64_t now)
{
    if (delivery->acked) {
        conn->sacked_bytes -= ams_min_u32(conn->sacked_bytes, delivery->acked);
        uint32_t flight = conn->snd_nxt - conn->snd_una;
        conn->sacked_bytes = ams_min_u32(conn->sacked_bytes, flight - ams_min_u32(flight, conn->lost_bytes));
        if (conn->ca_state == TCP_CA_RECOVERY) {
            reno_mark_head(stack, conn); /* partial ACK (RFC 6582 section 3.2, 5) */
            conn->flags |= CONN_REXMIT_NOW;
        } else if (conn->ca_state < TCP_CA_RECOVERY) {
            conn->dupacks = 0;
            conn->sacked_bytes = 0;
            conn->ca_state = TCP_CA_OPEN;
        }
    }
    if (!duplicate || conn->ca_state == TCP_CA_LOSS)
        return;
    reno_duplicate(conn);
    if (conn->ca_state < TCP_CA_RECOVERY) {
        conn->ca_state = TCP_CA_DISORDER;
        if (conn->dupacks >= TCP_DUPTHRESH) {
            reno_mark_head(stack, conn);
            enter_recovery(stack, conn, now);
        }
    }
}

void tcp_recovery_step(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_delivery *delivery,
                       bool duplicate, uint64_t now)
{
    if (conn->ca_state >= TCP_CA_RECOVERY && seq_geq(conn->snd_una, conn->recover))
        leave_recovery(conn);
    if (!(conn->flags & CONN_SACK_OK)) {
        reno_step(stack, conn, delivery, duplicate, now);
        return;
    }
    detect_by_sack(conn);
    if (conn->ca_state >= TCP_CA_RECOVERY) {
        detect_lost_retransmissions(conn);
        return;
    }
    if (conn->lost_bytes)
        enter_recovery(stack, conn, now);
    else
        conn->ca_state = conn->sacked_bytes ? TCP_CA_DISORDER : TCP_CA_OPEN;
}

/* The receiver dropped what it had SACKed (RFC 2018 section 8). */
static void forget_sacks(struct tcp_conn *conn)
{
    for (uint32_t i = 0; i < conn->rec_count; i++)
        tcp_rec_at(conn, i)->marks &= (uint8_t)~REC_SACKED;
    conn->sacked_bytes = 0;
    memset(conn->sack_cache, 0, sizeof(conn->sack_cache));
}

void tcp_recovery_rto(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->ca_state < TCP_CA_RECOVERY || !conn->backoff) {
        if (conn->ca_state != TCP_CA_LOSS)
            conn->ssthresh = conn->cc->ssthresh(conn, now);
        conn->cc->on_rto(conn, now);
    }
    if (!(conn->flags & CONN_SACK_OK) || (conn->rec_count && tcp_rec_at(conn, 0)->marks & REC_SACKED))
        forget_sacks(conn);
    conn->lost_bytes = 0;
    conn->retrans_bytes = 0;
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        rec->marks &= (uint8_t)~(REC_LOST | REC_RETRANS);
        mark_lost(conn, rec);
    }
    conn->rexmit_hint = conn->snd_una;
    conn->lost_hint = conn->snd_nxt;
    conn->recover = conn->snd_nxt;
    conn->cwnd = conn->snd_mss;
    conn->ca_state = TCP_CA_LOSS;
    conn->dupacks = 0;
    conn->flags |= CONN_REXMIT_NOW;
    stack->counters.tcp_rto++;
}

struct tcp_rec *tcp_recovery_next(struct tcp_conn *conn, uint32_t *index)
{
    if (conn->lost_bytes == conn->retrans_bytes)
        return NULL;
    uint32_t from = seq_max(conn->rexmit_hint, conn->snd_una);
    for (uint32_t i = rec_search(conn, from); i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if ((rec->marks & (REC_LOST | REC_RETRANS)) == REC_LOST) {
            conn->rexmit_hint = rec->seq;
            *index = i;
            return rec;
        }
    }
    return NULL;
}

void tcp_mtu_reduced(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    tcp_update_mss(stack, conn);
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        struct tcp_rec *rec = tcp_rec_at(conn, i);
        if (rec->marks & REC_SACKED || rec->len <= conn->snd_mss)
            continue;
        if (rec->marks & REC_RETRANS) {
            rec->marks &= (uint8_t)~REC_RETRANS;
            conn->retrans_bytes -= rec->len;
            conn->rexmit_hint = seq_min(conn->rexmit_hint, rec->seq);
        }
        mark_lost(conn, rec);
    }
    /* not congestion: the rate stays (RFC 1191 section 6.4) */
    if (conn->lost_bytes && conn->ca_state < TCP_CA_RECOVERY) {
        conn->ca_state = TCP_CA_LOSS;
        conn->recover = conn->snd_nxt;
    }
    conn->flags |= CONN_REXMIT_NOW;
    tcp_want_output(stack, conn);
    tcp_rexmit_restart(stack, conn, now);
}
