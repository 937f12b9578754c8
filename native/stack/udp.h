/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.h - UDP endpoints, as udp.c, udp_data.c and the stack's own books know
 * them; what the rest of the stack calls is in stack.h.
 */
#ifndef AMS_STACK_UDP_H
#define AMS_STACK_UDP_H

#include "stack/ip.h"
#include "stack/route.h"
#include "stack/stack.h"

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

/* The endpoint of an id, or NULL. */
struct udp_sock *udp_of(struct ams_stack *stack, int id);
/* The endpoint for a datagram, or NULL. */
struct udp_sock *udp_find(const struct ams_stack *stack, const struct ams_endpoint *local,
                          const struct ams_endpoint *remote);
/* Bytes that UDP's tables and endpoints hold, frames not counted. */
uint64_t udp_memory(const struct ams_stack *stack);

#endif
