/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_ahead.c - has memory fetched for the segments that come next.
 *
 * Theory of operation.  With many connections none is in the CPU's caches
 * when its segment comes, and a segment would wait for memory several times
 * in a row: for its bucket, for the connection that this points to, for what
 * that points to.  Memory takes as long for one line as for a dozen that are
 * asked for together.  So before a segment of a batch is worked on, those
 * behind it are looked at, and what they will need is asked for in steps, each
 * some segments later than the one before, whose answer it needs.
 *
 *   hash     ports and addresses tell the bucket; the hash is left in the
 *            frame, so that it is computed once
 *   locate   the bucket tells the connection.  The lines of it that data
 *            needs, or an ACK without data
 *   follow   the connection tells whether it is the right one, where its
 *            scoreboard and send queue are, and whether data is in order
 *   runs     what there is to know of holes tells where the runs are
 *
 * A step is done for AHEAD_GROUP segments at a time, and so many segments after
 * the step before.  In groups, because the first line of a connection has to be
 * found in the page tables, too, for which a CPU waits where it stands, unless
 * the next such instructions are so near that it begins them meanwhile.  Lines
 * are asked for in the second cache, which can wait for more of them at a time
 * than the first.
 *
 * Segments of one connection that stand side by side (a train) need no more
 * than the first of them: only that one counts.
 *
 * All this is guesswork about headers that nobody has checked yet: nothing is
 * written but the frame's aux, aux16 and marks, nothing read but what its length
 * allows and the table of flows.  A few hundred connections stay in the
 * caches by themselves; where there are no more, or no more of them speak,
 * nothing is done.
 */
#include <limits.h>
#include <string.h>

#include "stack/tcp.h"
#include "wire/eth.h"

#define SAMPLE 4                 /* frames of a batch that are looked at in any case */
#define WARM 1024u               /* tcp->ahead_warmth, where all are known */

#define LINES_DATA 6u            /* of struct tcp_conn: [0, 6), */
#define LINES_ACK 9u             /* [1, 9), */
#define LINE_CC 10u              /* and congestion control's */

#define IP4_AT ETH_HEADER
#define IP4_PLAIN 0x45u          /* version 4, no options */
#define IP4_FRAGMENT 0x3fffu     /* more fragments, or an offset */

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

/* Is this a segment of the same connection as the one that was looked at last? */
static bool same_again(struct tcp_ahead *ahead, const uint8_t *l4, uint32_t l4_off)
{
    uint64_t address; /* the peer's, and for IPv4 ours; the end of the peer's */
    uint32_t ports;
    memcpy(&address, l4 - (l4_off == ETH_HEADER + IP4_HEADER ? 8 : 24), sizeof(address));
    memcpy(&ports, l4, sizeof(ports));
    if (address == ahead->address && ports == ahead->ports)
        return true;
    ahead->address = address;
    ahead->ports = ports;
    return false;
}

/* Leaves the hash in the frame and asks for the bucket.
 * Return: false if there is nothing to be asked for. */
static bool ahead_hash(const struct ams_stack *stack, struct tcp_ahead *ahead, struct ams_frame *frame)
{
    uint32_t l4_off = tcp_offset(frame);
    if (!l4_off)
        return false;
    const uint8_t *l4 = frame->data + l4_off;
    if (same_again(ahead, l4, l4_off))
        return false;
    uint16_t remote_port = (uint16_t)load_be16(l4), local_port = (uint16_t)load_be16(l4 + 2);
    frame->aux16 = (uint16_t)l4_off;
    if (l4_off == ETH_HEADER + IP4_HEADER)
        frame->aux = tcp_flow_hash4(&stack->tcp->flows, l4 - 4, local_port, l4 - 8, remote_port);
    else
        frame->aux = tcp_flow_hash6(&stack->tcp->flows, l4 - 16, local_port, l4 - 32, remote_port);
    frame->marks |= has_payload(frame->data, l4_off) ? TCP_MARK_HASHED | TCP_MARK_DATA : TCP_MARK_HASHED;
    AMS_PREFETCH_FAR(tcp_flow_line(&stack->tcp->flows, frame->aux));
    return true;
}

/* Asks for what the segment needs of the connection that flow is part of. */
static void fetch_conn(struct tcp_flow *flow, const struct ams_frame *frame)
{
    const char *conn = (const char *)tcp_conn_of(flow);
    if (frame->marks & TCP_MARK_DATA) {
        for (uint32_t line = 0; line < LINES_DATA; line++)
            AMS_PREFETCH_FAR(conn + line * AMS_CACHE_LINE);
    } else {
        for (uint32_t line = 1; line < LINES_ACK; line++)
            AMS_PREFETCH_FAR(conn + line * AMS_CACHE_LINE);
        AMS_PREFETCH_FAR(conn + LINE_CC * AMS_CACHE_LINE);
    }
}

/* The connection that a segment seems to belong to, or NULL.  It is looked up
 * in each step anew: a segment in between may have ended it. */
static struct tcp_flow *flow_of(const struct ams_stack *stack, const struct ams_frame *frame)
{
    return tcp_flow_likely(&stack->tcp->flows, frame->aux);
}

/* Asks for the connection that the bucket names. */
static void ahead_locate(const struct ams_stack *stack, struct ams_frame *frame)
{
    struct tcp_flow *flow = flow_of(stack, frame);
    if (flow)
        fetch_conn(flow, frame);
}

/* Asks for what an ACK will need of what the connection points to. */
static void follow_ack(const struct tcp_conn *conn, const struct ams_frame *frame)
{
    uint32_t ack = load_be32(frame->data + frame->aux16 + 8);
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

/* Asks for what data needs that isn't in order, if this is none. */
static void follow_data(const struct tcp_conn *conn, struct ams_frame *frame)
{
    uint32_t seq = load_be32(frame->data + frame->aux16 + 4);
    if (AMS_LIKELY(seq == conn->rcv_nxt && !conn->n_runs))
        return;
    AMS_PREFETCH_FAR(&conn->runs);
    AMS_PREFETCH_FAR(&conn->dsack);
    frame->marks |= TCP_MARK_HOLE;
}

/* Asks for what the connection points to. */
static void ahead_follow(const struct ams_stack *stack, struct ams_frame *frame)
{
    struct tcp_flow *flow = flow_of(stack, frame);
    if (!flow || flow->hash != frame->aux || flow->is_tw)
        return;
    if (frame->marks & TCP_MARK_DATA)
        follow_data(tcp_conn_of(flow), frame);
    else
        follow_ack(tcp_conn_of(flow), frame);
}

/* Asks for the runs, which the step before has asked where they are. */
static void ahead_runs(const struct ams_stack *stack, struct ams_frame *frame)
{
    if (AMS_LIKELY(!(frame->marks & TCP_MARK_HOLE)))
        return;
    struct tcp_flow *flow = flow_of(stack, frame);
    if (flow && flow->hash == frame->aux && !flow->is_tw && tcp_conn_of(flow)->runs)
        AMS_PREFETCH(tcp_conn_of(flow)->runs);
}

/* ---- the steps --------------------------------------------------------------- */

/* Hashes until `upto` segments have been, or the batch ends. */
static void hash_upto(const struct ams_stack *stack, struct tcp_ahead *ahead, uint32_t upto, int next)
{
    int i = ahead->scanned > next ? ahead->scanned : next;
    while (ahead->hashed != upto && i < ahead->n) {
        if (ahead_hash(stack, ahead, ahead->frames[i]))
            ahead->ring[ahead->hashed++ % AHEAD_RING] = i;
        i++;
    }
    ahead->scanned = i;
}

/* The frame of a segment; NULL if there are not so many, or it is gone. */
static inline struct ams_frame *segment_at(const struct tcp_ahead *ahead, uint32_t i, int next)
{
    if ((int32_t)(ahead->hashed - i) <= 0)
        return NULL;
    int index = ahead->ring[i % AHEAD_RING];
    return index >= next ? ahead->frames[index] : NULL;
}

/* Does a step for the segments [from, from + AHEAD_GROUP), as far as they are there. */
static inline void group(const struct ams_stack *stack, const struct tcp_ahead *ahead, uint32_t from, int next,
                         void (*step)(const struct ams_stack *stack, struct ams_frame *frame))
{
    for (uint32_t i = from; i != from + AHEAD_GROUP; i++) {
        struct ams_frame *frame = segment_at(ahead, i, next);
        if (frame)
            step(stack, frame);
    }
}

/* Notes that a segment with that hash has come.  Return: had one shortly before? */
static bool recall(struct tcp_host *tcp, uint32_t hash)
{
    uint32_t *set = tcp->ahead_recent[hash >> 8 & (TCP_AHEAD_SETS - 1)];
    uint32_t way = 0;
    while (way < TCP_AHEAD_WAYS - 1 && set[way] != hash)
        way++;
    bool known = set[way] == hash;
    memmove(set + 1, set, way * sizeof(*set)); /* the latest first */
    set[0] = hash;
    return known;
}

/* Are nearly all segments of connections that had some shortly before?  Then
 * these are in the caches, however many others there are.  A few segments of
 * each batch tell, now here, now there, so that no order in which connections
 * are served looks like few of them. */
static bool are_warm(struct ams_stack *stack, struct tcp_ahead *ahead)
{
    struct tcp_host *tcp = stack->tcp;
    uint32_t seen = 0, known = 0;
    tcp->ahead_turn = tcp->ahead_turn * 1664525u + 1013904223u;
    int from = (int)((tcp->ahead_turn >> 16) % (uint32_t)ahead->n);
    for (int i = from; i < from + SAMPLE && i < ahead->n; i++)
        if (ahead_hash(stack, ahead, ahead->frames[i])) {
            known += recall(tcp, ahead->frames[i]->aux);
            seen++;
        }
    if (seen) /* an average over some eight batches */
        tcp->ahead_warmth += WARM / 8 * known / seen - tcp->ahead_warmth / 8;
    return tcp->ahead_warmth > WARM / 16 * 15;
}

void tcp_ahead_begin(struct ams_stack *stack, struct tcp_ahead *ahead, struct ams_frame **frames, int n)
{
    struct tcp_host *tcp = stack->tcp;
    ahead->next = INT_MAX;
    if (n <= 1 || (tcp->flows.n < TCP_AHEAD_FLOWS && !tcp->ahead_always))
        return;
    ahead->frames = frames;
    ahead->n = n;
    ahead->scanned = 0;
    ahead->hashed = ahead->at = 0;
    ahead->address = 0;
    ahead->ports = 0;
    if (are_warm(stack, ahead) && !tcp->ahead_always)
        return;
    ahead->next = 0;
    ahead->address = 0;
    hash_upto(stack, ahead, 3 * AHEAD_GROUP, 0);
    group(stack, ahead, 0, 0, ahead_locate);
    group(stack, ahead, AHEAD_GROUP, 0, ahead_locate);
    group(stack, ahead, 0, 0, ahead_follow);
}

void tcp_ahead_run(const struct ams_stack *stack, struct tcp_ahead *ahead, int next)
{
    while (ahead->next <= next) {
        uint32_t at = ahead->at;
        group(stack, ahead, at, next, ahead_runs);
        group(stack, ahead, at + AHEAD_GROUP, next, ahead_follow);
        group(stack, ahead, at + 2 * AHEAD_GROUP, next, ahead_locate);
        hash_upto(stack, ahead, at + 4 * AHEAD_GROUP, next);
        ahead->at = at + AHEAD_GROUP;
        bool more = (int32_t)(ahead->hashed - ahead->at) > 0;
        ahead->next = more ? ahead->ring[ahead->at % AHEAD_RING] : INT_MAX;
    }
}
