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

/* What a frame brings, as far as this matters here. */
enum ahead_kind {
    AHEAD_NONE,                  /* no TCP, or not plain */
    AHEAD_DATA,
    AHEAD_ACK,                   /* no payload: it acknowledges some */
};

#define LINES_DATA 6u            /* of struct tcp_conn: [0, 6), */
#define LINES_ACK 9u             /* [1, 9), */
#define LINE_CC 10u              /* and congestion control's */

#define IP4_AT ETH_HEADER
#define IP4_PLAIN 0x45u          /* version 4, no options */
#define IP4_FRAGMENT 0x3fffu     /* more fragments, or an offset */

void tcp_ahead_begin(const struct ams_stack *stack, struct tcp_ahead *ahead, struct ams_frame **frames, int n)
{
    ahead->frames = frames;
    ahead->n = stack->tcp->n_flows >= stack->tcp->ahead_flows && n > 1 ? n : 0;
    ahead->hashed = ahead->located = ahead->followed = 0;
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

/* Does the segment bring payload?  If not, it acknowledges some. */
static bool has_payload(const uint8_t *data, uint32_t l4_off)
{
    uint32_t l4_len = l4_off == ETH_HEADER + IP4_HEADER ? load_be16(data + ETH_HEADER + 2) - IP4_HEADER
                                                        : load_be16(data + ETH_HEADER + 4);
    return l4_len > (data[l4_off + 12] >> 4) * 4u;
}

/* Leaves the hash in the frame and asks for the bucket.  Return: what kind of segment it is. */
static enum ahead_kind ahead_hash(const struct ams_stack *stack, struct ams_frame *frame)
{
    uint32_t l4_off = tcp_offset(frame);
    if (!l4_off)
        return AHEAD_NONE;
    const uint8_t *l4 = frame->data + l4_off;
    uint16_t remote_port = (uint16_t)load_be16(l4), local_port = (uint16_t)load_be16(l4 + 2);
    if (l4_off == ETH_HEADER + IP4_HEADER)
        frame->aux = tcp_flow_hash4(stack, l4 - 4, local_port, l4 - 8, remote_port);
    else
        frame->aux = tcp_flow_hash6(stack, l4 - 16, local_port, l4 - 32, remote_port);
    frame->marks |= TCP_MARK_HASHED;
    AMS_PREFETCH_FAR(&stack->tcp->buckets[frame->aux & (stack->tcp->n_buckets - 1)]);
    return has_payload(frame->data, l4_off) ? AHEAD_DATA : AHEAD_ACK;
}

/* Asks for what the segment needs of the connection that flow is part of. */
static void fetch_conn(struct tcp_flow *flow, enum ahead_kind kind)
{
    const char *conn = (const char *)tcp_conn_of(flow);
    if (kind == AHEAD_DATA) {
        for (uint32_t line = 0; line < LINES_DATA; line++)
            AMS_PREFETCH_FAR(conn + line * AMS_CACHE_LINE);
    } else {
        for (uint32_t line = 1; line < LINES_ACK; line++)
            AMS_PREFETCH_FAR(conn + line * AMS_CACHE_LINE);
        AMS_PREFETCH_FAR(conn + LINE_CC * AMS_CACHE_LINE);
    }
}

/* The first connection of the segment's bucket, right or not.  It is looked up
 * in each step anew: a segment in between may have ended it. */
static struct tcp_flow *first_of(const struct ams_stack *stack, const struct ams_frame *frame)
{
    return stack->tcp->buckets[frame->aux & (stack->tcp->n_buckets - 1)];
}

/* Asks for the first connection of the bucket. */
static void ahead_locate(const struct ams_stack *stack, const struct ams_frame *frame, enum ahead_kind kind)
{
    struct tcp_flow *flow = first_of(stack, frame);
    if (flow)
        fetch_conn(flow, kind);
}

/* Asks for where the application's id of the connection is looked up. */
static void follow_data(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    if (conn->sock.id >= 0)
        AMS_PREFETCH_FAR(&stack->socks[conn->sock.id]); /* it will read */
}

/* Asks for what an ACK will need of what the connection points to. */
static void follow_ack(const struct tcp_conn *conn, const struct ams_frame *frame)
{
    uint32_t ack = load_be32(frame->data + tcp_offset(frame) + 8);
    bool all = ack == conn->snd_nxt; /* nothing will be in flight any more */
    AMS_PREFETCH_FAR(conn->recs + conn->rec_head); /* two segments, mostly */
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
static void ahead_follow(const struct ams_stack *stack, const struct ams_frame *frame, enum ahead_kind kind)
{
    struct tcp_flow *flow = first_of(stack, frame);
    if (!flow)
        return;
    if (flow->hash != frame->aux) {
        if (flow->hash_next)
            fetch_conn(flow->hash_next, kind);
    } else if (!flow->is_tw) {
        if (kind == AHEAD_DATA)
            follow_data(stack, tcp_conn_of(flow));
        else
            follow_ack(tcp_conn_of(flow), frame);
    }
}

/* The end of a step that looks so far ahead. */
static int horizon(const struct tcp_ahead *ahead, int next, int distance)
{
    return next + distance < ahead->n ? next + distance : ahead->n;
}

/* The beginning of a step: frames before `next` are gone. */
static int begin(int done, int next)
{
    return done > next ? done : next;
}

void tcp_ahead_run(const struct ams_stack *stack, struct tcp_ahead *ahead, int next)
{
    struct ams_frame **frames = ahead->frames;
    int hashed = horizon(ahead, next, AHEAD_HASH);
    int located = horizon(ahead, next, AHEAD_LOCATE);
    int followed = horizon(ahead, next, AHEAD_FOLLOW);

    for (int i = begin(ahead->hashed, next); i < hashed; i++)
        ahead->kinds[i % AHEAD_RING] = (uint8_t)ahead_hash(stack, frames[i]);
    for (int i = begin(ahead->located, next); i < located; i++)
        if (ahead->kinds[i % AHEAD_RING])
            ahead_locate(stack, frames[i], ahead->kinds[i % AHEAD_RING]);
    for (int i = begin(ahead->followed, next); i < followed; i++)
        if (ahead->kinds[i % AHEAD_RING])
            ahead_follow(stack, frames[i], ahead->kinds[i % AHEAD_RING]);
    ahead->hashed = hashed;
    ahead->located = located;
    ahead->followed = followed;
}
