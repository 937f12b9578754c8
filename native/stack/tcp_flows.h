/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_flows.h - the table of flows: connections and TIME-WAIT, by 4-tuple.
 *
 * Theory of operation.  A bucket is one cache line: up to FLOW_WAYS flows, and
 * for each a tag, eight more bits of its hash.  The tags are compared all at
 * once, and nearly always name the right flow before anything of it was read;
 * so its memory can be asked for early (tcp_ahead.c).  What finds no room in
 * its line is chained behind it: one flow of twenty just before the table
 * doubles, at four flows a line, fewer otherwise.
 */
#ifndef AMS_STACK_TCP_FLOWS_H
#define AMS_STACK_TCP_FLOWS_H

#include "core/hash.h"
#include "core/slab.h"
#include "stack/stack.h"
#include "wire/bytes.h"

#define FLOW_WAYS 6u

/* What a look-up needs, and each packet; part of conn and tw. */
struct tcp_flow {
    struct tcp_flow *hash_next;  /* of those that found no room in the line */
    uint32_t hash;
    uint16_t local_port;
    uint16_t remote_port;
    uint8_t local_ip[16];
    uint8_t remote_ip[16];
    bool is_tw;
    uint8_t family;
    struct ip_service service;
};

struct tcp_flow_line {
    _Alignas(AMS_CACHE_LINE) uint8_t tags[8]; /* of flows[]; 0: that is free, as the last two are */
    struct tcp_flow *flows[FLOW_WAYS];
    struct tcp_flow *more;
};

_Static_assert(sizeof(struct tcp_flow_line) == AMS_CACHE_LINE, "a bucket is a cache line");

struct tcp_flows {
    struct tcp_flow_line *lines;
    uint32_t n_lines;            /* a power of two */
    uint32_t n;                  /* flows */
    struct hash_key key;
    slab_settle settle;
};

/* Where a walk over all flows is. */
struct tcp_flow_walk {
    uint32_t line;               /* the next one */
    uint32_t ways;               /* of the current line that are still to come */
    struct tcp_flow *chained;    /* the next one of it that has no way */
};

/* Prepares an empty table.
 * @key: what its own secret is derived from
 * @settle: told of memory that is in use for good, may be NULL
 * Return: 0, -AMS_ENOMEM. */
int tcp_flows_init(struct tcp_flows *flows, const struct siphash_key *key, slab_settle settle);
/* Frees the table, not what is in it. */
void tcp_flows_fini(struct tcp_flows *flows);
/* Bytes that the table takes. */
size_t tcp_flows_memory(const struct tcp_flows *flows);
/* Adds a flow whose 4-tuple is in no other; sets its hash. */
void tcp_flows_add(struct tcp_flows *flows, struct tcp_flow *flow);
/* Takes a flow out.  Return: false if it wasn't in. */
bool tcp_flows_remove(struct tcp_flows *flows, struct tcp_flow *flow);
/* The next flow of a walk, which begins with all fields 0; NULL: that was all.
 * The one that was given last may be taken out, others must stay. */
struct tcp_flow *tcp_flows_walk(const struct tcp_flows *flows, struct tcp_flow_walk *walk);

/* The hash of a 4-tuple. */
static inline uint32_t tcp_flow_hash4(const struct tcp_flows *flows, const uint8_t local_ip[4], uint16_t local_port,
                                      const uint8_t remote_ip[4], uint16_t remote_port)
{
    const struct hash_key *key = &flows->key;
    return hash_mix(key->start + key->odd[0] * load_be32(local_ip) + key->odd[1] * load_be32(remote_ip) +
                    key->odd[2] * ((uint32_t)local_port << 16 | remote_port));
}

static inline uint32_t tcp_flow_hash6(const struct tcp_flows *flows, const uint8_t local_ip[16], uint16_t local_port,
                                      const uint8_t remote_ip[16], uint16_t remote_port)
{
    const struct hash_key *key = &flows->key;
    uint64_t sum = key->start + key->odd[8] * ((uint32_t)local_port << 16 | remote_port);
    for (unsigned i = 0; i < 4; i++)
        sum += key->odd[i] * load_be32(local_ip + 4 * i) + key->odd[4 + i] * load_be32(remote_ip + 4 * i);
    return hash_mix(sum);
}

static inline uint32_t tcp_flow_hash(const struct tcp_flows *flows, const uint8_t local_ip[16], uint16_t local_port,
                                     const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family)
{
    if (family == AMS_IPV4)
        return tcp_flow_hash4(flows, local_ip + 12, local_port, remote_ip + 12, remote_port);
    return tcp_flow_hash6(flows, local_ip, local_port, remote_ip, remote_port);
}

/* The bucket of a hash, whose low bits choose it; the high ones are the tag. */
static inline struct tcp_flow_line *tcp_flow_line(const struct tcp_flows *flows, uint32_t hash)
{
    return &flows->lines[hash & (flows->n_lines - 1)];
}

static inline uint8_t tcp_flow_tag(uint32_t hash)
{
    return hash >> 24 ? (uint8_t)(hash >> 24) : 1;
}

/* A bit for each way whose tag is like `tag`: bit 7 of byte i for way i.  The
 * lowest is right, others may not be (a borrow). */
static inline uint64_t tcp_flow_hits(const struct tcp_flow_line *line, uint8_t tag)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t tags;
    memcpy(&tags, line->tags, sizeof(tags));
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    tags = __builtin_bswap64(tags);
#endif
    tags ^= tag * ones;
    return (tags - ones) & ~tags & 0x0000808080808080u; /* FLOW_WAYS of them */
}

/* The flow that a hash most likely stands for, by its tag; NULL: there is none. */
static inline struct tcp_flow *tcp_flow_likely(const struct tcp_flows *flows, uint32_t hash)
{
    const struct tcp_flow_line *line = tcp_flow_line(flows, hash);
    uint64_t hits = tcp_flow_hits(line, tcp_flow_tag(hash));
    return hits ? line->flows[__builtin_ctzll(hits) / 8] : line->more;
}

static inline bool tcp_flow_is(const struct tcp_flow *flow, const uint8_t local_ip[16], uint16_t local_port,
                               const uint8_t remote_ip[16], uint16_t remote_port)
{
    return flow->remote_port == remote_port && flow->local_port == local_port &&
           ip_equal(flow->remote_ip, remote_ip) && ip_equal(flow->local_ip, local_ip);
}

/* The flow of a 4-tuple whose hash is known; NULL if there is none. */
static inline struct tcp_flow *tcp_flows_get(const struct tcp_flows *flows, uint32_t hash, const uint8_t local_ip[16],
                                             uint16_t local_port, const uint8_t remote_ip[16], uint16_t remote_port)
{
    const struct tcp_flow_line *line = tcp_flow_line(flows, hash);
    for (uint64_t hits = tcp_flow_hits(line, tcp_flow_tag(hash)); hits; hits &= hits - 1) {
        struct tcp_flow *flow = line->flows[__builtin_ctzll(hits) / 8];
        if (AMS_LIKELY(flow && flow->hash == hash && tcp_flow_is(flow, local_ip, local_port, remote_ip, remote_port)))
            return flow;
    }
    for (struct tcp_flow *flow = line->more; flow; flow = flow->hash_next)
        if (flow->hash == hash && tcp_flow_is(flow, local_ip, local_port, remote_ip, remote_port))
            return flow;
    return NULL;
}

#endif
