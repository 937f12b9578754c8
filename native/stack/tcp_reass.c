/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_reass.c - received data: the in-order queue, out-of-order runs, and
 * what SACK says of them.
 *
 * Theory of operation.  In-order payload stays in the frame that it came in,
 * on rcv_head..rcv_tail; short segments that follow unread ones are copied
 * into the tail's free room, so that a queue of tiny segments doesn't hold
 * one buffer each.  Out-of-order payload is kept as *runs*: contiguous,
 * sorted, never touching, each a list of frames.  Runs are bounded in
 * number, and so are their frames; what does not fit is dropped (the peer
 * keeps it until it is acknowledged).  Where segments overlap, what was
 * there first stays.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

#define RUNS_FIRST 4u
#define RUNS_MAX 512u
#define PIECES_MAX 8u /* runs that one segment may join */
#define COALESCE_SMALL 512u
#define COALESCE_QUEUED 65536u

void tcp_receive_append(struct tcp_conn *conn, struct ams_frame *frame)
{
    struct ams_frame *tail = conn->rcv_tail;
    uint32_t len = frame->len;
    conn->rcv_queued += len;
    if (tail && (len <= COALESCE_SMALL || conn->rcv_queued > COALESCE_QUEUED) && frame_tailroom(tail) >= len) {
        memcpy(tail->data + tail->len, frame->data, len);
        tail->len += len;
        frame_free(frame);
        return;
    }
    frame->next = NULL;
    if (tail)
        tail->next = frame;
    else
        conn->rcv_head = frame;
    conn->rcv_tail = frame;
}

static void run_free_frames(struct tcp_run *run)
{
    while (run->head) {
        struct ams_frame *next = run->head->next;
        frame_free(run->head);
        run->head = next;
    }
}

static void runs_release(struct ams_stack *stack, struct tcp_conn *conn)
{
    stack->tcp->memory -= conn->runs_cap * sizeof(*conn->runs);
    mem_free(conn->runs);
    conn->runs = NULL;
    conn->runs_cap = 0;
}

/* Forgets all that is out of order. */
static void runs_free(struct ams_stack *stack, struct tcp_conn *conn)
{
    for (uint32_t i = 0; i < conn->n_runs; i++)
        run_free_frames(&conn->runs[i]);
    conn->n_runs = 0;
    conn->n_sack_recent = 0;
    conn->ooo_bytes = conn->ooo_frames = 0;
    if (conn->runs)
        runs_release(stack, conn);
}

void tcp_receive_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    while (conn->rcv_head) {
        struct ams_frame *next = conn->rcv_head->next;
        frame_free(conn->rcv_head);
        conn->rcv_head = next;
    }
    conn->rcv_tail = NULL;
    conn->rcv_queued = 0;
    runs_free(stack, conn);
}

/* Remembers the run that changed last, for the order of SACK blocks
 * (RFC 2018 section 4).  Where it is noted already, that place is given up. */
static void sack_note(struct tcp_conn *conn, const struct tcp_run *run)
{
    uint32_t *recent = conn->sack_recent;
    uint32_t n = 0;
    while (n < conn->n_sack_recent && (seq_lt(recent[n], run->seq) || seq_geq(recent[n], run->end)))
        n++;
    if (n == conn->n_sack_recent && n < TCP_SACK_BLOCKS)
        conn->n_sack_recent++;
    memmove(recent + 1, recent, ams_min_u32(n, TCP_SACK_BLOCKS - 1) * sizeof(*recent));
    recent[0] = run->seq;
}

void tcp_dsack_note(struct tcp_conn *conn, uint32_t start, uint32_t end)
{
    if (conn->flags & CONN_DSACK) {
        if (seq_leq(start, conn->dsack.end) && seq_geq(end, conn->dsack.start)) {
            conn->dsack.start = seq_min(conn->dsack.start, start);
            conn->dsack.end = seq_max(conn->dsack.end, end);
        }
        return;
    }
    conn->dsack.start = start;
    conn->dsack.end = end;
    conn->flags |= CONN_DSACK;
}

/* Makes room for one more run at index.  Return: false at the limit. */
static bool runs_insert(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index)
{
    if (conn->n_runs == conn->runs_cap) {
        uint32_t cap = conn->runs_cap ? conn->runs_cap * 2 : RUNS_FIRST;
        if (cap > RUNS_MAX)
            return false;
        struct tcp_run *runs = mem_realloc(conn->runs, cap * sizeof(*runs));
        if (!runs)
            return false;
        stack->tcp->memory += (cap - conn->runs_cap) * sizeof(*runs);
        conn->runs = runs;
        conn->runs_cap = cap;
    }
    memmove(&conn->runs[index + 1], &conn->runs[index], (conn->n_runs - index) * sizeof(*conn->runs));
    conn->n_runs++;
    return true;
}

static void runs_remove(struct tcp_conn *conn, uint32_t index)
{
    conn->n_runs--;
    memmove(&conn->runs[index], &conn->runs[index + 1], (conn->n_runs - index) * sizeof(*conn->runs));
}

/* Joins run index + 1 to run index where they touch. */
static void runs_join(struct tcp_conn *conn, uint32_t index)
{
    if (index + 1 >= conn->n_runs)
        return;
    struct tcp_run *left = &conn->runs[index], *right = left + 1;
    if (left->end != right->seq)
        return;
    left->end = right->end;
    left->fin = right->fin;
    if (right->head) {
        if (left->tail)
            left->tail->next = right->head;
        else
            left->head = right->head;
        left->tail = right->tail;
    }
    runs_remove(conn, index + 1);
}

/* Index of the first run that ends after seq, by binary search. */
static uint32_t runs_search(const struct tcp_conn *conn, uint32_t seq)
{
    uint32_t low = 0, high = conn->n_runs;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (seq_leq(conn->runs[mid].end, seq))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Appends a frame to a run's end. */
static void run_append(struct tcp_run *run, struct ams_frame *frame, uint32_t len, bool fin)
{
    frame->next = NULL;
    if (run->tail)
        run->tail->next = frame;
    else
        run->head = frame;
    run->tail = frame;
    run->end += len;
    run->fin = run->fin || fin;
}

/* Keeps [seq, seq + frame->len), which touches no run's inside, just before
 * run index.  Consumes frame.  Return: false if it was dropped. */
static bool ooo_store(struct ams_stack *stack, struct tcp_conn *conn, struct ams_frame *frame, uint32_t seq, bool fin,
                      uint32_t index)
{
    uint32_t len = frame->len;
    if (index > 0 && conn->runs[index - 1].fin) { /* the FIN again, or what cannot be */
        frame_free(frame);
        return false;
    }
    if (conn->ooo_frames >= 64 + conn->rcvbuf / 512) {
        stack->counters.tcp_ooo_dropped++;
        frame_free(frame);
        return false;
    }
    if (index > 0 && conn->runs[index - 1].end == seq) {
        index--;
        run_append(&conn->runs[index], frame, len, fin);
    } else {
        if (!runs_insert(stack, conn, index)) {
            stack->counters.tcp_ooo_dropped++;
            frame_free(frame);
            return false;
        }
        conn->runs[index] = (struct tcp_run){.seq = seq, .end = seq};
        run_append(&conn->runs[index], frame, len, fin);
    }
    conn->ooo_bytes += len;
    conn->ooo_frames++;
    runs_join(conn, index);
    sack_note(conn, &conn->runs[index]);
    return true;
}

/* Copies a frame's first n bytes.  Return: a new frame, or NULL.  Owns: the caller. */
static struct ams_frame *frame_head(struct ams_stack *stack, const struct ams_frame *frame, uint32_t n)
{
    bool small = n <= FRAME_SMALL - FRAME_HEADROOM;
    struct ams_frame *head = frame_new(stack->pool, small ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE);
    if (!head)
        return NULL;
    memcpy(head->data, frame->data, n);
    head->len = n;
    return head;
}

/* Cuts off a segment's head, which run index has.
 * Return: false if nothing is left, and frame was freed. */
static bool ooo_known(struct tcp_conn *conn, struct ams_frame *frame, uint32_t *seq, uint32_t index)
{
    const struct tcp_run *run = &conn->runs[index];
    uint32_t end = *seq + frame->len;
    tcp_dsack_note(conn, *seq, seq_min(end, run->end));
    sack_note(conn, run);
    if (seq_leq(end, run->end)) {
        frame_free(frame);
        return false;
    }
    frame_pull(frame, run->end - *seq);
    *seq = run->end;
    return true;
}

/* Takes an out-of-order segment: cuts off what runs already have, keeps what
 * lies between them.  A long segment may reach across several, as when the
 * peer repeats short ones together. */
static void ooo_insert(struct ams_stack *stack, struct tcp_conn *conn, struct ams_frame *frame, uint32_t seq, bool fin)
{
    uint32_t index;
    stack->counters.tcp_ooo++;
    for (uint32_t pieces = 0;; pieces++) {
        index = runs_search(conn, seq);
        if (index < conn->n_runs && seq_geq(seq, conn->runs[index].seq) && !ooo_known(conn, frame, &seq, index++))
            return;
        uint32_t end = seq + frame->len;
        if (index >= conn->n_runs || seq_leq(end, conn->runs[index].seq))
            break;
        const struct tcp_run *next = &conn->runs[index];
        uint32_t gap = next->seq - seq;
        struct ams_frame *head = NULL;
        if (seq_leq(end, next->end))
            tcp_dsack_note(conn, next->seq, end);
        else if (pieces < PIECES_MAX)
            head = frame_head(stack, frame, gap);
        if (!head) { /* all that it fills is the gap before that run, or that must do */
            frame_trim(frame, gap);
            fin = false;
            break;
        }
        if (!ooo_store(stack, conn, head, seq, false, index)) {
            frame_free(frame);
            return;
        }
        frame_pull(frame, gap);
        seq += gap;
    }
    if (frame->len == 0 && !fin) {
        frame_free(frame);
        return;
    }
    ooo_store(stack, conn, frame, seq, fin, index);
}

/* The FIN is in order now.  What pretends to lie behind it goes.  The ACK of
 * the first FIN waits for what the application does now: close, mostly, so
 * that it rides on the other.  Where no data came before, it has nothing to
 * wait for (both as Linux). */
static void fin_reached(struct ams_stack *stack, struct tcp_conn *conn)
{
    runs_free(stack, conn);
    conn->rcv_nxt++;
    conn->flags &= ~CONN_DSACK; /* the peer sends nothing more that it could help with */
    conn->flags |= CONN_FIN_RECEIVED;
    conn->flags |= conn->state == AMS_TCP_ESTABLISHED && conn->data_rcv_at ? CONN_PINGPONG : CONN_ACK_NOW;
}

/* Moves runs that rcv_nxt has reached to the in-order queue. */
static void ooo_drain(struct ams_stack *stack, struct tcp_conn *conn)
{
    while (conn->n_runs && seq_leq(conn->runs[0].seq, conn->rcv_nxt)) {
        struct tcp_run run = conn->runs[0];
        runs_remove(conn, 0);
        uint32_t seq = run.seq;
        if (seq_lt(seq, conn->rcv_nxt)) /* the segment that filled the hole had it, too */
            tcp_dsack_note(conn, seq, seq_min(run.end, conn->rcv_nxt));
        while (run.head) {
            struct ams_frame *frame = run.head;
            run.head = frame->next;
            uint32_t end = seq + frame->len;
            conn->ooo_bytes -= frame->len;
            conn->ooo_frames--;
            if (seq_leq(end, conn->rcv_nxt)) {
                frame_free(frame);
            } else {
                frame_pull(frame, conn->rcv_nxt - seq);
                conn->rcv_nxt = end;
                tcp_receive_append(conn, frame);
            }
            seq = end;
        }
        if (run.fin && conn->rcv_nxt == run.end) {
            fin_reached(stack, conn);
            break;
        }
    }
    if (!conn->n_runs) {
        conn->n_sack_recent = 0;
        if (conn->runs_cap > RUNS_FIRST)
            runs_release(stack, conn);
    }
}

/* RFC 9293 section 3.8.6.3, RFC 5681 section 4.2: when to acknowledge.
 * More than one full segment: at once.  The first segments after a silence:
 * at once too, since the peer's cwnd is small and each ACK lets it grow (as
 * Linux's quick ACKs), unless data flows the other way as well: then the ACK
 * will ride on it. */
void tcp_ack_policy(struct ams_stack *stack, struct tcp_conn *conn, uint32_t segment, uint64_t now)
{
    if (segment) {
        if (!conn->data_rcv_at || now - conn->data_rcv_at > conn->rto)
            conn->quickacks = TCP_QUICKACKS;
        conn->data_rcv_at = now;
    }
    if (conn->rcv_nxt - conn->last_ack_sent > ams_max_u32(conn->rcv_mss, TCP_MSS_DEFAULT4) ||
        (conn->quickacks && !(conn->flags & CONN_PINGPONG)) ||
        conn->flags & CONN_QUICKACK || conn->n_runs) {
        conn->flags |= CONN_ACK_NOW;
    } else if (!conn->delack_at) {
        conn->delack_at = now + stack->config.delack_ms * AMS_NS_PER_MS;
        tcp_timer_update(stack, conn);
    }
}

/* Drops what lies left of rcv_nxt.  Return: false if nothing is left. */
static bool trim_left(struct ams_stack *stack, struct tcp_conn *conn, struct ams_frame *frame, uint32_t *seq, bool fin)
{
    if (!seq_lt(*seq, conn->rcv_nxt))
        return true;
    uint32_t old = conn->rcv_nxt - *seq;
    stack->counters.tcp_dup_data++;
    if (frame->len)
        tcp_dsack_note(conn, *seq, seq_min(conn->rcv_nxt, *seq + frame->len));
    conn->flags |= CONN_ACK_NOW;
    if (old > frame->len || (old == frame->len && !fin))
        return false;
    frame_pull(frame, old);
    *seq = conn->rcv_nxt;
    return true;
}

void tcp_receive(struct ams_stack *stack, struct tcp_conn *conn, struct ams_frame *frame, uint32_t seq, bool fin,
                 uint64_t now)
{
    uint32_t window = conn->rcv_adv - conn->rcv_nxt;
    if (!trim_left(stack, conn, frame, &seq, fin)) {
        frame_free(frame);
        return;
    }
    if (frame->len && AMS_UNLIKELY(tcp_receive_refused(stack, conn, seq))) {
        stack->counters.tcp_rcv_dropped++;
        frame_free(frame);
        return;
    }
    if (seq_gt(seq + frame->len, conn->rcv_nxt + window)) {
        stack->counters.tcp_rcv_dropped++;
        conn->flags |= CONN_ACK_NOW;
        uint32_t keep = seq_lt(seq, conn->rcv_nxt + window) ? conn->rcv_nxt + window - seq : 0;
        frame_trim(frame, keep);
        fin = false;
    }
    if (!frame->len && !fin) {
        frame_free(frame);
        return;
    }
    uint32_t len = frame->len;
    uint32_t segment = frame->flags & FRAME_GSO ? frame->gso_size : len;
    if (segment > conn->rcv_mss)
        conn->rcv_mss = (uint16_t)ams_min_u32(segment, tcp_advertised_mss(stack, conn));
    if (seq != conn->rcv_nxt) {
        if (conn->acks_owed < UINT8_MAX)
            conn->acks_owed++;
        conn->flags |= CONN_ACK_NOW;
        ooo_insert(stack, conn, frame, seq, fin);
        return;
    }
    stack->counters.tcp_rx_bytes += len;
    conn->bytes_received += len;
    conn->rcv_nxt += len;
    if (len)
        tcp_receive_append(conn, frame);
    else
        frame_free(frame);
    if (fin)
        fin_reached(stack, conn);
    else if (conn->n_runs) {
        conn->flags |= CONN_ACK_NOW;
        ooo_drain(stack, conn);
    }
    tcp_ack_policy(stack, conn, segment, now);
}

void tcp_sack_blocks(struct tcp_conn *conn, struct tcp_repr *repr, int room)
{
    int n = 0;
    if (conn->flags & CONN_DSACK) {
        conn->flags &= ~CONN_DSACK;
        repr->sack[n++] = conn->dsack;
    }
    int first = n;
    for (int i = 0; i < conn->n_sack_recent && n < room; i++) {
        uint32_t index = runs_search(conn, conn->sack_recent[i]);
        if (index >= conn->n_runs || seq_lt(conn->sack_recent[i], conn->runs[index].seq))
            continue;
        struct tcp_sack_block block = {conn->runs[index].seq, conn->runs[index].end};
        bool known = block.start == block.end;
        for (int k = first; k < n; k++)
            known = known || repr->sack[k].start == block.start;
        if (!known)
            repr->sack[n++] = block;
    }
    repr->n_sack = (uint8_t)n;
}
