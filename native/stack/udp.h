/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.h - UDP endpoints, as udp.c, udp_data.c, udp_group.c and the stack's own books know
 * them; what the rest of the stack calls is in stack.h.
 */
#ifndef AMS_STACK_UDP_H
#define AMS_STACK_UDP_H

#include "stack/ip.h"
#include "stack/route.h"
#include "stack/stack.h"
#include "wire/bytes.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

#define UDP_GROUP_HOPS 1 /* RFC 1112 section 6.1 */

struct udp_sock {
    struct sock sock;            /* first: events.c knows no other part */
    struct udp_sock *next;       /* in its bucket */
    struct ams_endpoint local;
    uint32_t flags;              /* AMS_LISTEN_* */
    struct ams_endpoint remote;  /* family 0: not connected */
    struct ip_path path;         /* to path_dst */
    uint8_t path_dst[16];
    struct ams_frame *queue_head, *queue_tail;
    uint32_t queue_bytes;        /* payload */
    uint32_t queue_charge;
    int error;                   /* status, for the next call */
    uint8_t (*groups)[16];       /* that it has joined */
    uint32_t n_groups;
    struct ip_service service;
    uint8_t group_hops;          /* hop limit of what it sends to groups */
    bool group_loop;             /* what it sends to groups of ours is received here, too */
    uint8_t received_tos;        /* of the datagram that was taken last */
    uint8_t received_hops;
    uint64_t created;
    uint64_t packets_in, packets_out;
    uint64_t bytes_in, bytes_out;
};

struct udp_host {
    struct udp_sock **buckets;
    uint32_t mask;
    uint32_t count;
};

/* True for the IPv6 wildcard that takes IPv4 too. */
static inline bool udp_is_dual(const struct ams_endpoint *local, uint32_t flags)
{
    return local->family == AMS_IPV6 && !(flags & AMS_LISTEN_V6ONLY) && ip_is_any(local->ip);
}

/* True if an endpoint's family and address belong together. */
static inline bool udp_endpoint_valid(const struct ams_endpoint *endpoint)
{
    if (endpoint->family != AMS_IPV4 && endpoint->family != AMS_IPV6)
        return false;
    return (ip_is4(endpoint->ip) != 0) == (endpoint->family == AMS_IPV4);
}

static inline bool udp_is_group(const uint8_t ip[16])
{
    return ip_is4(ip) ? ipv4_is_multicast(ip + 12) : ipv6_is_multicast(ip);
}

/* True for addresses that are nobody's alone: the source is chosen per datagram. */
static inline bool udp_is_open(const uint8_t ip[16])
{
    return ip_is_any(ip) || udp_is_group(ip);
}

/* The endpoint of an id, or NULL. */
struct udp_sock *udp_of(struct ams_stack *stack, int id);
/* The endpoint for a datagram, or NULL. */
struct udp_sock *udp_find(const struct ams_stack *stack, const struct ams_endpoint *local,
                          const struct ams_endpoint *remote);
/* The next endpoint that a datagram to a group is for, behind `last` (NULL: the first). */
struct udp_sock *udp_find_next(const struct ams_stack *stack, struct udp_sock *last, const struct ams_endpoint *local,
                               const struct ams_endpoint *remote);
/* Leaves all groups. */
void udp_groups_fini(struct ams_stack *stack, struct udp_sock *udp);
/* Bytes that UDP's tables and endpoints hold, frames not counted. */
uint64_t udp_memory(const struct ams_stack *stack);

#endif
