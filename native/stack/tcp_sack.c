/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_sack.c - the scoreboard: what became of each segment sent.
 *
 * Theory of operation.  The records of what is between snd_una and snd_nxt
 * lie in a ring, ordered by sequence number, so a SACK block is found by
 * binary search.  Sums over the marks are kept as they change: the "pipe" of
 * RFC 6675 is one subtraction.  A record is split where a SACK block ends
 * inside it; both halves keep what is known of its transmission.  It is only
 * split where its segments meet: a receiver has whole segments or none, and
 * one that claims single bytes must not make the ring grow.
 *
 * Each delivered record tells RACK its send time, and the rate sampler what
 * had been delivered when it was sent.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

static size_t board_size(uint32_t cap)
{
    return sizeof(struct tcp_board) + cap * sizeof(struct tcp_rec);
}

/* The slab for rings of so many records; NULL: they are allocated one by one. */
static struct slab *board_slab(struct ams_stack *stack, uint32_t cap)
{
    for (uint32_t i = 0; i < TCP_BOARDS; i++)
        if (cap == TCP_RECS_LEAST << i)
            return &stack->tcp->boards[i];
    return NULL;
}

void tcp_boards_init(struct ams_stack *stack)
{
    for (uint32_t i = 0; i < TCP_BOARDS; i++)
        slab_init(&stack->tcp->boards[i], board_size(TCP_RECS_LEAST << i), stack->settle);
}

/* Return: a ring, NULL without memory.  Owns: the caller. */
static struct tcp_board *board_new(struct ams_stack *stack, uint32_t cap)
{
    struct slab *slab = board_slab(stack, cap);
    struct tcp_board *board = slab ? slab_new(slab) : mem_aligned(AMS_CACHE_LINE, board_size(cap));
    if (board && !slab)
        stack->tcp->memory += board_size(cap);
    return board;
}

static void board_free(struct ams_stack *stack, struct tcp_board *board, uint32_t cap)
{
    struct slab *slab = board_slab(stack, cap);
    if (slab) {
        slab_free(slab, board);
    } else {
        stack->tcp->memory -= board_size(cap);
        mem_free(board);
    }
}

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
    if (cap < TCP_RECS_LEAST)
        cap = TCP_RECS_LEAST;
    if (cap > TCP_RECS_MAX)
        return false;
    struct tcp_board *board = board_new(stack, cap);
    if (!board) {
        stack->counters.tcp_no_memory++;
        return false;
    }
    for (uint32_t i = 0; i < conn->rec_count; i++)
        board->recs[i] = *tcp_rec_at(conn, i);
    if (conn->recs != conn->recs_inline)
        memcpy(board->cache, tcp_board_of(conn)->cache, sizeof(board->cache));
    else
        memset(board->cache, 0, sizeof(board->cache));
    tcp_recs_fini(stack, conn);
    conn->recs = board->recs;
    conn->rec_cap = cap;
    conn->rec_head = 0;
    return true;
}

/* Frees the ring if it is not the inline one; rec_count stays. */
void tcp_recs_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->recs == conn->recs_inline)
        return;
    board_free(stack, tcp_board_of(conn), conn->rec_cap);
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

/* The segments that a record is; a FIN goes with the last. */
static uint32_t segments_of(const struct tcp_conn *conn, const struct tcp_rec *rec)
{
    uint32_t unit = rec->unit ? rec->unit : conn->snd_mss;
    uint32_t payload = rec->len - !!(rec->marks & REC_FIN);
    return payload <= unit ? 1 : (payload + unit - 1) / unit;
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
    left->marks &= (uint8_t)~(REC_FIN | REC_PUSH);
    return true;
}

uint32_t tcp_rec_search(struct tcp_conn *conn, uint32_t seq)
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

/* A record that was not delivered before is now.
 * @tsecr: the echo of a transmission of it or of a later one, 0: not known */
static uint64_t delivered(struct tcp_conn *conn, const struct tcp_rec *rec, struct tcp_delivery *out, uint32_t tsecr,
                          uint64_t now)
{
    if (!(rec->marks & REC_EVER_RETRANS) && seq_leq(rec->seq + rec->len, conn->recover))
        out->original = true;
    conn->delivered_segs += segments_of(conn, rec);
    tcp_rate_delivered(conn, rec, &out->mark);
    return tcp_rack_delivered(conn, rec, out, tsecr, now);
}

void tcp_recs_ack(struct ams_stack *stack, struct tcp_conn *conn, uint32_t ack, struct tcp_delivery *out, uint64_t now)
{
    while (conn->rec_count) {
        struct tcp_rec *rec = tcp_rec_at(conn, 0);
        if (seq_leq(ack, rec->seq))
            break;
        uint32_t cut = ams_min_u32(ack - rec->seq, rec->len);
        unaccount(conn, rec, cut);
        if (!(rec->marks & REC_SACKED))
            out->delivered += cut;
        if (cut < rec->len) {
            uint32_t before = segments_of(conn, rec);
            rec->seq = ack;
            rec->len -= cut;
            if (!(rec->marks & REC_SACKED))
                conn->delivered_segs += before - segments_of(conn, rec);
            break;
        }
        if (rec->marks & REC_EVER_RETRANS) {
            out->repaired = true;
            out->repaired_at = ams_max_u64(out->repaired_at, rec->sent_at);
        }
        if (!(rec->marks & REC_SACKED)) {
            uint64_t rtt = delivered(conn, rec, out, out->tsecr, now);
            out->rtt = rtt ? rtt : out->rtt;
        }
        bool last = rec->seq + rec->len == ack; /* the next one may lie on another line */
        conn->rec_head = (conn->rec_head + 1) & (conn->rec_cap - 1);
        conn->rec_count--;
        if (last)
            break;
    }
    if (!conn->rec_count)
        tcp_recs_fini(stack, conn);
}

/* Marks one whole record as SACKed. */
static void mark_sacked(struct tcp_conn *conn, struct tcp_rec *rec, struct tcp_delivery *out, uint64_t now)
{
    if (rec->marks & REC_SACKED)
        return;
    unaccount(conn, rec, rec->len);
    /* what is echoed beside a hole is from before the hole (RFC 7323 section 4.3) */
    uint64_t rtt = delivered(conn, rec, out, 0, now);
    out->sack_rtt = rtt ? rtt : out->sack_rtt;
    rec->marks = (uint8_t)((rec->marks & ~(REC_LOST | REC_RETRANS)) | REC_SACKED);
    conn->sacked_bytes += rec->len;
    out->sacked += rec->len;
    out->delivered += rec->len;
}

/* Splits a record at the last border of its segments up to seq, or (up) at
 * the first from there on.  Return: false if there is none inside, or no memory. */
static bool split_between(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index, uint32_t seq, bool up)
{
    const struct tcp_rec *rec = tcp_rec_at(conn, index);
    uint32_t unit = rec->unit ? rec->unit : conn->snd_mss;
    uint32_t offset = (seq - rec->seq + (up ? unit - 1 : 0)) / unit * unit;
    return offset && offset < rec->len && tcp_rec_split(stack, conn, index, rec->seq + offset);
}

/* Marks the records of [start, end), of which those up to `from` have been. */
static void sack_range(struct ams_stack *stack, struct tcp_conn *conn, uint32_t start, uint32_t from, uint32_t end,
                       struct tcp_delivery *out, uint64_t now)
{
    uint32_t index = tcp_rec_search(conn, from);
    while (index < conn->rec_count) {
        struct tcp_rec *rec = tcp_rec_at(conn, index);
        if (seq_geq(rec->seq, end))
            break;
        if (seq_lt(rec->seq, start)) {
            bool split = !(rec->marks & REC_SACKED) && split_between(stack, conn, index, start, true);
            index++;
            if (!split)
                continue;
            rec = tcp_rec_at(conn, index);
            if (seq_geq(rec->seq, end))
                break;
        }
        if (seq_gt(rec->seq + rec->len, end)) {
            if (rec->marks & REC_SACKED || !split_between(stack, conn, index, end, false))
                break;
            rec = tcp_rec_at(conn, index);
        }
        mark_sacked(conn, rec, out, now);
        uint32_t high = rec->seq + rec->len;
        conn->high_sacked = conn->sacked_bytes == rec->len ? high : seq_max(conn->high_sacked, high);
        index++;
    }
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

/* The bytes that a D-SACK block reports; 0 if they cannot be ours. */
static uint32_t dsack_length(const struct tcp_conn *conn, const struct tcp_sack_block *block)
{
    uint32_t length = block->end - block->start;
    if (!length || length > ams_max_u32(conn->max_snd_wnd, conn->snd_mss) || seq_gt(block->end, conn->snd_nxt))
        return 0;
    return length;
}

/* Where in a block the last ACK's marking ended. */
static uint32_t sack_skip_known(struct tcp_conn *conn, const struct tcp_sack_block *block)
{
    if (conn->recs == conn->recs_inline)
        return block->start;
    for (int i = 0; i < TCP_SACK_BLOCKS; i++) {
        const struct tcp_sack_block *known = &tcp_board_of(conn)->cache[i];
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
            out->dsacked = dsack_length(conn, &block);
            out->dsack_end = block.end;
            continue;
        }
        uint32_t una = seq_max(conn->snd_una, seg->ack);
        if (seq_geq(block.start, block.end) || seq_gt(block.end, conn->snd_nxt) || seq_leq(block.end, una))
            continue; /* nonsense, or old news */
        if (seq_lt(block.start, una))
            block.start = una;
        uint32_t from = sack_skip_known(conn, &block);
        if (from != block.end)
            sack_range(stack, conn, block.start, from, block.end, out, now);
        cache[i] = block;
    }
    if (conn->recs != conn->recs_inline)
        memcpy(tcp_board_of(conn)->cache, cache, sizeof(cache));
}

void tcp_rec_mark_lost(struct tcp_conn *conn, struct tcp_rec *rec)
{
    if (rec->marks & (REC_SACKED | REC_LOST))
        return;
    rec->marks |= REC_LOST;
    conn->lost_bytes += rec->len;
    conn->lost_total += rec->len;
    conn->rexmit_hint = seq_min(conn->rexmit_hint, rec->seq);
}

void tcp_rec_mark_relost(struct tcp_conn *conn, struct tcp_rec *rec)
{
    rec->marks &= (uint8_t)~REC_RETRANS;
    conn->retrans_bytes -= rec->len;
    conn->lost_total += rec->len;
    conn->rexmit_hint = seq_min(conn->rexmit_hint, rec->seq);
}

void tcp_recs_unmark_lost(struct tcp_conn *conn)
{
    for (uint32_t i = 0; i < conn->rec_count; i++)
        tcp_rec_at(conn, i)->marks &= (uint8_t)~(REC_LOST | REC_RETRANS);
    conn->lost_bytes = conn->retrans_bytes = 0;
    conn->lost_hint = conn->snd_una;
}

void tcp_recs_forget_sacks(struct tcp_conn *conn)
{
    for (uint32_t i = 0; i < conn->rec_count; i++)
        tcp_rec_at(conn, i)->marks &= (uint8_t)~REC_SACKED;
    conn->sacked_bytes = 0;
    if (conn->recs != conn->recs_inline)
        memset(tcp_board_of(conn)->cache, 0, sizeof(tcp_board_of(conn)->cache));
}
