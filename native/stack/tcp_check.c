/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_check.c - what must be true of every connection at rest.
 *
 * Theory of operation.  Much of a TCB is kept twice: sums beside the lists
 * that they sum up, a timer beside the deadlines that it serves.  This file
 * computes each once more, the slow way, and compares.  Nothing here is used
 * by the engine itself; tests and fuzzers call it after each step, and who
 * adds an extension is told at once when it breaks something.
 */
#include "stack/tcp.h"

/* A check's result: NULL or a sentence. */
#define EXPECT(condition, sentence) \
    do {                            \
        if (!(condition))           \
            return (sentence);      \
    } while (0)

/* RFC 9293 section 3.4: what is acknowledged, sent and queued are in order. */
static const char *check_send_space(const struct tcp_conn *conn)
{
    uint32_t last = conn->snd_end + !!(conn->flags & CONN_FIN_SENT);
    EXPECT(seq_leq(conn->snd_una, conn->snd_nxt), "snd_una is beyond snd_nxt");
    EXPECT(seq_leq(conn->snd_nxt, last), "snd_nxt is beyond all that was queued");
    EXPECT(!(conn->flags & CONN_FIN_SENT) || conn->flags & CONN_FIN_QUEUED, "a FIN was sent that nobody asked for");
    return NULL;
}

/* The send queue holds what was queued and isn't acknowledged; its first
 * frame may begin before that. */
static const char *check_send_queue(const struct tcp_conn *conn)
{
    uint32_t first = seq_gt(conn->snd_una, conn->iss) ? conn->snd_una : conn->iss + 1, bytes = 0;
    bool cursor = conn->snd_cursor == NULL;
    if (conn->snd_head) {
        const struct ams_frame *head = conn->snd_head;
        EXPECT(seq_leq(head->seq, first) && seq_gt(head->seq + head->len, first), "the first chunk is not needed");
        first = head->seq;
    }
    for (const struct ams_frame *frame = conn->snd_head; frame; frame = frame->next) {
        bytes += frame->len;
        cursor = cursor || frame == conn->snd_cursor;
        EXPECT(frame->next || frame == conn->snd_tail, "snd_tail is not the last chunk");
    }
    EXPECT(bytes == (seq_gt(conn->snd_end, first) ? conn->snd_end - first : 0), "the send queue's length is wrong");
    EXPECT(cursor, "snd_cursor is not in the send queue");
    return NULL;
}

/* The scoreboard: contiguous from snd_una to snd_nxt, sums as the marks say. */
static const char *check_scoreboard(struct tcp_conn *conn)
{
    uint32_t next = seq_gt(conn->snd_una, conn->iss) ? conn->snd_una : conn->iss + 1;
    uint32_t sacked = 0, lost = 0, retrans = 0;
    if (conn->rec_count == 0)
        return NULL;
    for (uint32_t i = 0; i < conn->rec_count; i++) {
        const struct tcp_rec *rec = tcp_rec_at(conn, i);
        EXPECT(rec->seq == next && rec->len > 0, "the scoreboard has a hole, an overlap or an empty record");
        next = rec->seq + rec->len;
        if (rec->marks & REC_SACKED) {
            sacked += rec->len;
        } else if (rec->marks & REC_LOST) {
            lost += rec->len;
            retrans += rec->marks & REC_RETRANS ? rec->len : 0;
        }
    }
    EXPECT(next == conn->snd_nxt, "the scoreboard doesn't end at snd_nxt");
    /* Without SACK it counts duplicate ACKs (RFC 6582). */
    EXPECT(conn->flags & CONN_SACK_OK ? sacked == conn->sacked_bytes
                                      : conn->sacked_bytes + lost <= conn->snd_nxt - conn->snd_una,
           "sacked_bytes is wrong");
    EXPECT(lost == conn->lost_bytes, "lost_bytes is wrong");
    EXPECT(retrans == conn->retrans_bytes, "retrans_bytes is wrong");
    EXPECT(conn->rec_count <= conn->rec_cap, "the scoreboard is fuller than it is large");
    return NULL;
}

/* What was received: the in-order queue, then runs that don't touch. */
static const char *check_receive(const struct tcp_conn *conn)
{
    uint32_t queued = 0, bytes = 0, frames = 0, last = conn->rcv_nxt;
    for (const struct ams_frame *frame = conn->rcv_head; frame; frame = frame->next) {
        queued += frame->len;
        EXPECT(frame->next || frame == conn->rcv_tail, "rcv_tail is not the last frame");
    }
    EXPECT(queued == conn->rcv_queued, "rcv_queued is wrong");
    EXPECT(seq_leq(conn->rcv_nxt, conn->rcv_adv + 1), "rcv_nxt is beyond the window that was offered");
    for (uint32_t i = 0; i < conn->n_runs; i++) {
        const struct tcp_run *run = &conn->runs[i];
        uint32_t length = 0;
        for (const struct ams_frame *frame = run->head; frame; frame = frame->next, frames++)
            length += frame->len;
        EXPECT(seq_gt(run->seq, last), "runs touch, overlap or are out of order");
        EXPECT(run->end - run->seq == length, "a run's length is wrong");
        last = run->end;
        bytes += length;
    }
    EXPECT(bytes == conn->ooo_bytes && frames == conn->ooo_frames, "ooo_bytes or ooo_frames is wrong");
    return NULL;
}

/* A deadline that is set is served by the wheel; what waits for an answer has one. */
static const char *check_timers(const struct tcp_conn *conn)
{
    const uint64_t deadlines[] = {conn->rexmit_at, conn->delack_at, conn->keep_at, conn->probe_at,
                                  conn->loss & LOSS_PACE_WAIT ? conn->pace_at : 0};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(deadlines); i++)
        EXPECT(!deadlines[i] || (timer_armed(&conn->timer) && conn->timer.expires <= deadlines[i]),
               "a deadline is set that no timer serves");
    if (conn->flags & (CONN_ON_OUTPUT | CONN_CORK))
        return NULL;
    EXPECT(conn->rexmit_at || conn->snd_una == conn->snd_nxt, "data is in flight and no timer watches over it");
    bool waits = conn->loss & LOSS_PACE_WAIT || tcp_fastopen_waits(conn);
    EXPECT(conn->rexmit_at || waits || !tcp_unsent(conn), "data waits and nothing will send it");
    return NULL;
}

/* The congestion control has run since cwnd was given, in the room that its state needs. */
static const char *check_congestion(const struct tcp_conn *conn)
{
    bool heap = conn->loss & LOSS_CC_HEAP, large = conn->cc->state_size > sizeof(conn->cc_words);
    EXPECT(!conn->cwnd || heap == large, "the congestion control's state is not where it has room");
    EXPECT(conn->cwnd || !heap, "the congestion control has state before it runs");
    EXPECT(conn->cwnd || conn->state == AMS_TCP_SYN_SENT || conn->state == AMS_TCP_SYN_RECEIVED,
           "a connection is open and has no cwnd");
    return NULL;
}

/* The state is what became of the FINs, and a connection that the application
 * has let go of comes to an end. */
static const char *check_state(const struct tcp_conn *conn)
{
    bool ours = conn->flags & CONN_FIN_SENT && conn->snd_una == conn->snd_nxt;
    bool orphan = conn->flags & CONN_ORPHAN && !(conn->flags & (CONN_ON_OUTPUT | CONN_RST_NOW));
    switch (conn->state) {
    case AMS_TCP_FIN_WAIT_1:
    case AMS_TCP_CLOSING:
    case AMS_TCP_LAST_ACK:
        EXPECT(!ours, "our FIN was acknowledged and the state doesn't show it");
        break;
    case AMS_TCP_FIN_WAIT_2:
        EXPECT(ours, "the state is FIN-WAIT-2 and our FIN isn't acknowledged");
        EXPECT(!orphan || conn->keep_at, "nothing ends FIN-WAIT-2");
        break;
    case AMS_TCP_TIME_WAIT:
        EXPECT(ours && conn->flags & CONN_FIN_RECEIVED, "the state is TIME-WAIT without two FINs");
        EXPECT(conn->keep_at, "nothing ends TIME-WAIT");
        break;
    default:
        break;
    }
    return NULL;
}

/* Return: what is wrong with a connection, or NULL. */
static const char *check_conn(struct ams_stack *stack, struct tcp_conn *conn)
{
    const struct tcp_flow *flow = &conn->flow;
    EXPECT(tcp_flow_find(stack, flow->local_ip, flow->local_port, flow->remote_ip, flow->remote_port,
                         flow->family) == flow,
           "the table gives another connection for this 4-tuple");
    if (conn->flags & CONN_DEAD)
        return check_receive(conn);
    const char *wrong = check_send_space(conn);
    if (!wrong)
        wrong = check_send_queue(conn);
    if (!wrong)
        wrong = check_scoreboard(conn);
    if (!wrong)
        wrong = check_receive(conn);
    if (!wrong)
        wrong = check_timers(conn);
    if (!wrong)
        wrong = check_congestion(conn);
    return wrong ? wrong : check_state(conn);
}

const char *ams_stack_check(struct ams_stack *stack)
{
    struct tcp_host *tcp = stack->tcp;
    uint32_t flows = 0;
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&tcp->flows, &walk)); flows++) {
        const char *wrong = flow->is_tw ? NULL : check_conn(stack, tcp_conn_of(flow));
        if (wrong)
            return wrong;
    }
    EXPECT(flows == tcp->flows.n, "the number of flows is wrong");
    return NULL;
}
