/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_ahead.c - has memory fetched for the segments that come next.
 *
 * Theory of operation.  With many connections none is in the CPU's caches
 * when its segment comes, and a segment would wait for memory several times
 * in a row: for its bucket, for the connection that this points to, for what
 * that points to.  Memory takes as long for one line as for a dozen that are
 * asked for together.  So while a segment of a batch is worked on, those
 * behind it are looked at, and what they will need is asked for in steps, each
 * some segments later than the one before, whose answer it needs.  Not more:
 * a CPU can wait for some twenty lines at a time, and an ACK needs ten.
 *
 *   hash     AHEAD_HASH segments ahead: ports and addresses tell the bucket;
 *            the hash is left in the frame, so that it is computed once
 *   locate   AHEAD_LOCATE ahead: the bucket tells the connection.  The lines
 *            of it that data needs, or an ACK without data
 *   follow   AHEAD_FOLLOW ahead: the connection tells whether it is the right
 *            one, and where its scoreboard and send queue are
 *
 * All this is guesswork about headers that nobody has checked yet: nothing is
 * written but frame->aux and a mark, nothing read but what the frame's length
 * allows and the tables of flows.  A few hundred connections stay in the
 * caches by themselves; then nothing is done.
 */
#include "stack/tcp.h"
#include "wire/eth.h"

#define AHEAD_HASH 9
#define AHEAD_LOCATE 6
#define AHEAD_FOLLOW 3

#define LINES_DATA 6u            /* of struct tcp_conn: [0, 6), */
#define LINES_ACK 9u             /* [1, 9), */
#define LINE_CC 10u              /* and congestion control's */

#define IP4_AT ETH_HEADER
#define IP4_PLAIN 0x45u          /* version 4, no options */
#define IP4_FRAGMENT 0x3fffu     /* more fragments, or an offset */

void tcp_ahead_begin(const struct ams_stack *stack, struct tcp_ahead *ahead, struct ams_frame **frames, int n)
{
    *ahead = (struct tcp_ahead){.frames = frames, .n = stack->tcp->n_flows >= stack->tcp->ahead_flows && n > 1 ? n : 0};
}

/* Where a frame's TCP header lies, as far as one can see at a glance.
 * Return: its offset, 0: this is none, or not a plain one. */
static uint32_t tcp_offset(const struct ams_frame *frame)
{
    const uint8_t *data = frame->data;
    if (frame->len < ETH_HEADER + IP4_HEADER + TCP_HEADER)
        return 0;
    unsigned type = load_be16(data + 2 * ETH_ADDR);
    if (type == ETHERTYPE_IPV4 && data[IP4_AT] == IP4_PLAIN && data[IP4_AT + 9] == PROTO_TCP &&
        !(load_be16(data + IP4_AT + 6) & IP4_FRAGMENT))
        return ETH_HEADER + IP4_HEADER;
    if (type == ETHERTYPE_IPV6 && data[ETH_HEADER + 6] == PROTO_TCP &&
        frame->len >= ETH_HEADER + IP6_HEADER + TCP_HEADER)
        return ETH_HEADER + IP6_HEADER;
    return 0;
}

/* Leaves the hash in the frame and asks for the bucket. */
static void ahead_hash(const struct ams_stack *stack, struct ams_frame *frame)
{
    uint32_t l4_off = tcp_offset(frame);
    if (!l4_off)
        return;
    const uint8_t *l4 = frame->data + l4_off;
    uint16_t remote_port = (uint16_t)load_be16(l4), local_port = (uint16_t)load_be16(l4 + 2);
    if (l4_off == ETH_HEADER + IP4_HEADER)
        frame->aux = tcp_flow_hash4(stack, l4 - 4, local_port, l4 - 8, remote_port);
    else
        frame->aux = tcp_flow_hash6(stack, l4 - 16, local_port, l4 - 32, remote_port);
    frame->marks |= TCP_MARK_HASHED;
    AMS_PREFETCH_FAR(&stack->tcp->buckets[frame->aux & (stack->tcp->n_buckets - 1)]);
}

/* Does the segment bring payload?  If not, it acknowledges some. */
static bool has_payload(const struct ams_frame *frame)
{
    const uint8_t *data = frame->data;
    uint32_t l3_len = data[ETH_HEADER] >> 4 == 4 ? load_be16(data + ETH_HEADER + 2)
                                                 : load_be16(data + ETH_HEADER + 4) + IP6_HEADER;
    uint32_t l4_off = data[ETH_HEADER] >> 4 == 4 ? IP4_HEADER : IP6_HEADER;
    return l3_len > l4_off + (data[ETH_HEADER + l4_off + 12] >> 4) * 4u;
}

/* Of a segment that has_payload() has seen. */
static uint32_t ack_number(const struct ams_frame *frame)
{
    return load_be32(frame->data + tcp_offset(frame) + 8);
}

/* Asks for the lines [first, end) of the connection that flow is part of. */
static void fetch_lines(struct tcp_flow *flow, uint32_t first, uint32_t end)
{
    const char *conn = (const char *)tcp_conn_of(flow);
    for (uint32_t line = first; line < end; line++)
        AMS_PREFETCH_FAR(conn + line * AMS_CACHE_LINE);
}

/* Asks for what the segment needs of the connection that flow is part of. */
static void fetch_conn(struct tcp_flow *flow, bool payload)
{
    fetch_lines(flow, payload ? 0 : 1, payload ? LINES_DATA : LINES_ACK);
    if (!payload)
        fetch_lines(flow, LINE_CC, LINE_CC + 1);
}

/* Asks for the first connection of the bucket, right or not. */
static void ahead_locate(const struct ams_stack *stack, const struct ams_frame *frame)
{
    const struct tcp_host *tcp = stack->tcp;
    if (!(frame->marks & TCP_MARK_HASHED))
        return;
    struct tcp_flow *flow = tcp->buckets[frame->aux & (tcp->n_buckets - 1)];
    if (flow)
        fetch_conn(flow, has_payload(frame));
}

/* Asks for where the application's id of the connection is looked up. */
static void fetch_id(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    if (conn->sock.id >= 0)
        AMS_PREFETCH_FAR(&stack->socks[conn->sock.id]);
}

/* Asks for what an ACK will need of what the connection points to. */
static void follow_ack(const struct ams_stack *stack, const struct tcp_conn *conn, const struct ams_frame *frame)
{
    bool all = ack_number(frame) == conn->snd_nxt; /* nothing will be in flight any more */
    AMS_PREFETCH_FAR(conn->recs + conn->rec_head);     /* two segments, mostly */
    AMS_PREFETCH_FAR(conn->recs + ((conn->rec_head + 1u) & (conn->rec_cap - 1u)));
    if (conn->snd_head && (all || conn->snd_head != conn->snd_tail))
        AMS_PREFETCH_FAR(conn->snd_head);
    if (!all)
        return;
    AMS_PREFETCH_FAR(conn); /* the application may be told */
    AMS_PREFETCH_FAR(&conn->busy_time);
    AMS_PREFETCH_FAR(tcp_board_of(conn));
}

/* Asks for what the connection points to, or for the next one of the bucket. */
static void ahead_follow(const struct ams_stack *stack, const struct ams_frame *frame)
{
    const struct tcp_host *tcp = stack->tcp;
    if (!(frame->marks & TCP_MARK_HASHED))
        return;
    struct tcp_flow *flow = tcp->buckets[frame->aux & (tcp->n_buckets - 1)];
    if (!flow)
        return;
    bool payload = has_payload(frame);
    if (flow->hash != frame->aux) {
        if (flow->hash_next)
            fetch_conn(flow->hash_next, payload);
        return;
    }
    if (flow->is_tw)
        return;
    if (payload)
        fetch_id(stack, tcp_conn_of(flow)); /* it will read */
    else
        follow_ack(stack, tcp_conn_of(flow), frame);
}

/* The least of what there is and what is so far ahead. */
static int horizon(const struct tcp_ahead *ahead, int next, int distance)
{
    return next + distance < ahead->n ? next + distance : ahead->n;
}

void tcp_ahead_run(const struct ams_stack *stack, struct tcp_ahead *ahead, int next)
{
    /* frames before `next` are gone */
    ahead->hashed = next > ahead->hashed ? next : ahead->hashed;
    ahead->located = next > ahead->located ? next : ahead->located;
    ahead->followed = next > ahead->followed ? next : ahead->followed;
    for (; ahead->hashed < horizon(ahead, next, AHEAD_HASH); ahead->hashed++)
        ahead_hash(stack, ahead->frames[ahead->hashed]);
    for (; ahead->located < horizon(ahead, next, AHEAD_LOCATE); ahead->located++)
        ahead_locate(stack, ahead->frames[ahead->located]);
    for (; ahead->followed < horizon(ahead, next, AHEAD_FOLLOW); ahead->followed++)
        ahead_follow(stack, ahead->frames[ahead->followed]);
}
