/* SPDX-License-Identifier: BSD-2-Clause
 *
 * peer_fixture.h - a TCP peer that does as it likes.
 *
 * Host A of a world (net_fixture.h) is the engine; the peer is the test, with
 * B's address: B only answers for its MAC.  peer_send() gives A a segment,
 * numbers relative as in tests/engine/script.py; what A sends is counted, and
 * its last header kept.
 */
#ifndef AMS_TESTS_PEER_FIXTURE_H
#define AMS_TESTS_PEER_FIXTURE_H

#include "net_fixture.h"
#include "stack/tcp.h"

#define PEER_PORT 80
#define PEER_ISN 1000u

struct peer {
    struct world world;
    uint32_t port;
    uint32_t iss;             /* A's */
    int id;                   /* the connection accepted last, -1: none */
    uint32_t accepted;        /* how many were */
    uint32_t segments;        /* that A has sent */
    uint32_t high;            /* one past the highest byte that A has sent, relative */
    uint32_t next;            /* what A waits for, relative: for peer_take() */
    struct tcp_repr last;     /* the latest of A's segments */
};

/* A segment of the peer's. */
struct peer_segment {
    uint16_t flags;
    uint32_t seq, ack;        /* relative */
    uint16_t port;            /* 0: the peer's */
    uint16_t window;
    uint16_t mss;
    uint8_t host;             /* 10.0.0.host; 0: B */
    bool options;             /* those of a SYN: SACK permitted, window scale 14 */
    int n_sack;
    struct tcp_sack_block sack[TCP_SACK_BLOCKS]; /* relative */
    uint32_t payload;
};

/* TCP ends at the test; all else reaches B. */
static bool peer_filter(struct world *world, int from, const uint8_t *frame, uint32_t len)
{
    struct peer *peer = world->filter_arg;
    uint32_t l4 = ETH_HEADER + IP4_HEADER;
    if (from != A || len < l4 || load_be16(frame + 12) != ETHERTYPE_IPV4 || frame[ETH_HEADER + 9] != PROTO_TCP)
        return true;
    CHECK(tcp_parse(frame + l4, len - l4, &peer->last));
    if (peer->last.flags & TCP_SYN)
        peer->iss = peer->last.seq;
    uint32_t end = peer->last.seq + len - l4 - peer->last.header_len - peer->iss;
    if ((int32_t)(end - peer->high) > 0 && !(peer->last.flags & TCP_RST))
        peer->high = end;
    peer->segments++;
    return false;
}

/* Lets A say what it wants to, and takes its events. */
static inline void peer_settle(struct peer *peer)
{
    int32_t events[16 * AMS_EVENT_WORDS];
    int n;
    world_settle(&peer->world);
    while ((n = stack_events(peer->world.host[A], events, 16, NULL, 0)) > 0)
        for (int i = 0; i < n; i++)
            if (events[i * AMS_EVENT_WORDS + 1] & AMS_EV_ACCEPTED) {
                peer->id = events[i * AMS_EVENT_WORDS];
                peer->accepted++;
            }
    world_settle(&peer->world);
    CHECK(ams_stack_check(peer->world.host[A]) == NULL);
}

/* Builds a segment.  Return: the frame's length. */
static inline uint32_t peer_build(const struct peer *peer, const struct peer_segment *what, uint8_t frame[PACKETS_MAX])
{
    struct tcp_repr tcp = {
        .src_port = what->port ? what->port : (uint16_t)peer->port,
        .dst_port = PEER_PORT,
        .seq = PEER_ISN + what->seq,
        .ack = what->flags & TCP_ACK ? peer->iss + what->ack : 0,
        .flags = what->flags,
        .window = what->window,
        .mss = what->mss,
        .sack_permitted = what->options,
        .has_wscale = what->options,
        .wscale = 14,
        .n_sack = (uint8_t)what->n_sack,
    };
    for (int i = 0; i < what->n_sack; i++)
        tcp.sack[i] = (struct tcp_sack_block){peer->iss + what->sack[i].start, peer->iss + what->sack[i].end};
    uint32_t header = tcp_header_size(&tcp);
    struct packets_frame ip = {.protocol = 255, .payload = (uint16_t)(header + what->payload)};
    if (what->host)
        packets_ip(ip.src, false, what->host);
    uint32_t len = packets_build(frame, &ip);
    frame[ETH_HEADER + 9] = PROTO_TCP;
    ipv4_update_checksum(frame + ETH_HEADER, IP4_HEADER);
    tcp_emit(&tcp, frame + ETH_HEADER + IP4_HEADER);
    packets_checksum(frame, len, false, PROTO_TCP, TCP_CSUM_OFFSET);
    return len;
}

/* Gives A a segment, but not yet the word. */
static inline void peer_inject(struct peer *peer, struct peer_segment what)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t len = peer_build(peer, &what, frame);
    world_inject(&peer->world, A, frame, len);
}

static inline void peer_send(struct peer *peer, struct peer_segment what)
{
    peer_inject(peer, what);
    peer_settle(peer);
}

static inline void peer_init(struct peer *peer, struct world_options options)
{
    struct ams_endpoint local = packets_endpoint(false, 1, PEER_PORT);
    memset(peer, 0, sizeof(*peer));
    options.flags |= AMS_STACK_NO_DAD;
    world_init(&peer->world, options);
    peer->world.filter = peer_filter;
    peer->world.filter_arg = peer;
    peer->port = 40000;
    peer->id = -1;
    CHECK(ams_tcp_listen(peer->world.host[A], &local, 1024, 0) >= 0);
}

static inline void peer_fini(struct peer *peer)
{
    world_fini(&peer->world);
}

/* A connection from the peer, which has seen a round trip; its options are
 * SACK and window scale. */
static inline void peer_open(struct peer *peer, uint16_t mss, uint16_t window)
{
    peer->high = 0;
    peer->next = 1;
    peer_send(peer, (struct peer_segment){.flags = TCP_SYN, .window = 65535, .mss = mss, .options = true});
    CHECK_EQ(peer->last.flags & (TCP_SYN | TCP_ACK), TCP_SYN | TCP_ACK);
    peer->world.now += 10 * MS;
    peer_send(peer, (struct peer_segment){.flags = TCP_ACK, .seq = 1, .ack = 1, .window = window});
    CHECK(peer->id >= 0);
}

/* What the engine knows of the connection. */
static inline struct tcp_conn *peer_conn(struct peer *peer)
{
    return (struct tcp_conn *)sock_find(peer->world.host[A], peer->id, SOCK_TCP);
}

/* A sends `total` bytes, all of which are acknowledged, window by window. */
static inline void peer_take(struct peer *peer, uint32_t total, uint16_t window)
{
    static char data[65536];
    uint32_t goal = tcp_unacked(peer_conn(peer)) + (peer_conn(peer)->snd_una - peer->iss) + total;
    for (uint32_t sent = 0; sent < total; sent += sizeof(data))
        CHECK(ams_tcp_send(peer->world.host[A], peer->id, data, ams_min_u32(sizeof(data), total - sent)) >= 0);
    for (int round = 0; round < 1000 && peer->high != goal; round++) {
        peer_settle(peer);
        peer->world.now += 10 * MS;
        peer_send(peer, (struct peer_segment){.flags = TCP_ACK, .seq = peer->next, .ack = peer->high, .window = window});
    }
    CHECK_EQ(peer->high, goal);
    peer_send(peer, (struct peer_segment){.flags = TCP_ACK, .seq = peer->next, .ack = peer->high, .window = window});
}

#endif
