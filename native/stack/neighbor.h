/* SPDX-License-Identifier: BSD-2-Clause
 *
 * neighbor.h - who is on the link, and under which MAC.
 */
#ifndef AMS_STACK_NEIGHBOR_H
#define AMS_STACK_NEIGHBOR_H

#include "stack/iface.h"
#include "stack/route.h"
#include "stack/stack.h"
#include "wire/eth.h"

/* States of RFC 4861 section 7.3.2, for ARP as well.
 *
 *   state       MAC known  packets are        timer runs
 *   IDLE        no         queued: INCOMPLETE no
 *   INCOMPLETE  no         queued             next solicitation
 *   REACHABLE   yes        sent               no: looked at when sending
 *   STALE       yes        sent: DELAY        no
 *   DELAY       yes        sent               until PROBE
 *   PROBE       yes        sent               next solicitation
 *   FIXED       yes        sent               no (groups, hairpins)
 *   LOOP        -          received           no (ourselves)
 *
 * Failure to resolve leads back to IDLE: the next packet tries again. */
enum neighbor_state {
    NEIGHBOR_IDLE,
    NEIGHBOR_INCOMPLETE,
    NEIGHBOR_REACHABLE,
    NEIGHBOR_STALE,
    NEIGHBOR_DELAY,
    NEIGHBOR_PROBE,
    NEIGHBOR_FIXED,
    NEIGHBOR_LOOP,
};

/* RFC 4861 section 10; routers may say otherwise for IPv6. */
#define NEIGHBOR_REACHABLE_MS 30000u
#define NEIGHBOR_RETRANS_MS 1000u

#define NEIGHBOR_LIMIT 1024u
#define NEIGHBOR_QUEUE_LIMIT 128u     /* frames, and */
#define NEIGHBOR_QUEUE_BYTES 262144u  /* bytes of their buffers */

struct neighbor {
    uint8_t header[16];       /* the Ethernet header to write; 2 bytes to spare */
    uint64_t usable_until;    /* fast path: before this, header may be used as it is */
    struct ams_stack *stack;
    uint8_t ip[16];
    uint8_t state;            /* enum neighbor_state */
    uint8_t kind;             /* enum route_kind */
    uint8_t probes;           /* solicitations sent in this state */
    uint8_t queued;
    bool used;                /* since the eviction hand last passed */
    bool linked;              /* in the hash table */
    uint32_t queued_bytes;
    struct ams_frame *queue_head, *queue_tail;
    struct neighbor *hash_next;
    struct ams_timer timer;
};

/* The entry of ip, made if need be; the least recently used one goes when
 * the table is full, and cached paths are renewed then.
 * Return: NULL without memory.  Valid while path_generation stays. */
struct neighbor *neighbor_get(struct ams_stack *stack, const uint8_t ip[16], enum route_kind kind);
/* The entry of ip, or NULL. */
struct neighbor *neighbor_find(struct ams_stack *stack, const uint8_t ip[16]);

/* Not the fast path: see neighbor_ready(). */
bool neighbor_refresh(struct neighbor *neighbor, uint64_t now);

/* True if a packet may be sent with neighbor->header now. */
static inline bool neighbor_ready(struct neighbor *neighbor, uint64_t now)
{
    neighbor->used = true;
    return AMS_LIKELY(now < neighbor->usable_until) || neighbor_refresh(neighbor, now);
}

/* Keeps a whole frame until the neighbour's MAC is known, and asks for that;
 * or gives it to ourselves.  Consumes frame.  Return: 0 or a status. */
int neighbor_wait(struct ams_stack *stack, struct neighbor *neighbor, struct ams_frame *frame, uint64_t now);

/* What a packet on the link told about a neighbour. */
enum neighbor_news {
    NEIGHBOR_ANSWERED,        /* it answered our solicitation: reachable */
    NEIGHBOR_ASKED,           /* it asked us, and so told its MAC */
    NEIGHBOR_OVERHEARD,       /* it told its MAC unasked: only known entries change */
};

/* Takes in a neighbour's MAC. */
void neighbor_learn(struct ams_stack *stack, const uint8_t ip[16], const uint8_t mac[ETH_ADDR],
                    enum neighbor_news news, uint64_t now);
/* It answered, and nothing else is new (RFC 4861 section 7.3.1). */
void neighbor_reachable(struct neighbor *neighbor, uint64_t now);

/* The upper layer made progress with this path's next hop: it is reachable
 * (RFC 4861 section 7.3.1).  Cheap enough for every ACK. */
static inline void neighbor_confirm(const struct ip_path *path, uint64_t now)
{
    struct neighbor *neighbor = path->neighbor;
    /* Entries are recycled but never freed while the stack lives, so that a
     * path of an older generation may be looked at, though not believed. */
    if (neighbor && neighbor->usable_until < now + 8 * AMS_NS_PER_S &&
        path->generation == neighbor->stack->path_generation)
        neighbor_reachable(neighbor, now);
}

/* Tells the link that an address is ours: gratuitous ARP, or an unsolicited
 * neighbour advertisement. */
void neighbor_announce(struct ams_stack *stack, const struct iface_addr *addr);
/* Bytes that the table holds. */
uint64_t neighbor_memory(const struct ams_stack *stack);

/* ---- neighbor_arp.c ----------------------------------------------------------- */
/* A received ARP packet.  Consumes frame. */
void arp_input(struct ams_stack *stack, struct ams_frame *frame, struct eth_repr *eth, uint64_t now);
/* Asks for an IPv4 neighbour: broadcast, or to its known MAC. */
void arp_solicit(struct ams_stack *stack, const struct neighbor *neighbor, bool unicast);
void arp_announce(struct ams_stack *stack, const struct iface_addr *addr);

/* ---- neighbor_ndp.c ------------------------------------------------------------- */
/* A received neighbour solicitation or advertisement, checksum verified. */
void ndp_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
/* Asks for an IPv6 neighbour: by its solicited-node group, or its known MAC. */
void ndp_solicit(struct ams_stack *stack, const struct neighbor *neighbor, bool unicast);
void ndp_announce(struct ams_stack *stack, const struct iface_addr *addr);
/* Asks all routers to advertise themselves (RFC 4861 section 6.3.7). */
void ndp_router_solicit(struct ams_stack *stack);
/* Asks whether somebody else has a tentative address (RFC 4862 section 5.4.2). */
void ndp_probe(struct ams_stack *stack, const struct iface_addr *addr);

#endif
