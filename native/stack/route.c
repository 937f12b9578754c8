/* SPDX-License-Identifier: BSD-2-Clause
 *
 * route.c - next hops, and path MTUs learnt from "too big".
 *
 * Theory of operation.  One link makes routing short: ourselves, a group, a
 * neighbour in one of our prefixes, where it was redirected to, or the gateway
 * of the family; for IPv6 that may be a router that was learnt.
 *
 * Learnt path MTUs are kept by destination in a small set-associative cache
 * and forgotten after ten minutes (RFC 1191 section 6.3, RFC 8201 section
 * 5.3), so that a path that got better is found.  Each change starts a new
 * path generation, whereupon cached paths look here again.
 */
#include "stack/route.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/iface.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/bytes.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

#define PMTU_SETS 64u
#define PMTU_WAYS 4u
#define PMTU_LIFETIME (600 * AMS_NS_PER_S)
/* Smaller values are not believed for IPv4 (RFC 5927 section 7; the same
 * floor as Linux's min_pmtu). */
#define PMTU_MIN4 552u

struct pmtu_entry {
    uint8_t dst[16];
    uint64_t expires;   /* 0: empty */
    uint32_t mtu;
};

struct route_table {
    struct ams_timer timer;   /* the earliest expiry, or before it */
    struct pmtu_entry pmtu[PMTU_SETS][PMTU_WAYS];
};

/* ---- next hop -------------------------------------------------------------- */

/* The gateway of a family; NULL if there is none. */
static const struct ams_endpoint *gateway_of(const struct ams_stack *stack, uint8_t family)
{
    const struct ams_endpoint *gateway =
        family == AMS_IPV4 ? &stack->config.gateway4 : &stack->config.gateway6;
    return gateway->family ? gateway : NULL;
}

bool route_is_gateway(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct ams_endpoint *gateway = gateway_of(stack, ip_is4(ip) ? AMS_IPV4 : AMS_IPV6);
    return (gateway && ip_equal(gateway->ip, ip)) || router_known(stack, ip);
}

/* True for a group of either family. */
static bool is_multicast(const uint8_t ip[16])
{
    return ip_is4(ip) ? ipv4_is_multicast(ip + 12) : ipv6_is_multicast(ip);
}

int route_next_hop(const struct ams_stack *stack, const uint8_t dst[16], uint8_t next[16], enum route_kind *kind)
{
    uint8_t family = ip_is4(dst) ? AMS_IPV4 : AMS_IPV6;
    bool loopback = ip_is_loopback(dst);
    if (ip_is_any(dst))
        return -AMS_ENETUNREACH;
    if (!iface_has_family(stack, family))
        return -AMS_EAFNOSUPPORT;
    memcpy(next, dst, 16);
    if (iface_may_bind(stack, dst)) {
        *kind = stack->link_flags & STACK_LINK_HAIRPIN && !loopback ? ROUTE_HAIRPIN : ROUTE_LOOP;
        return 0;
    }
    if (loopback) /* those that are not ours are the operating system's */
        return -AMS_ENETUNREACH;
    if (is_multicast(dst) || iface_is_broadcast(stack, dst)) {
        *kind = ROUTE_GROUP;
        return 0;
    }
    *kind = ROUTE_UNICAST;
    if (iface_on_link(stack, dst))
        return 0;
    if (redirect_next_hop(stack, dst, next))
        return 0;
    const struct ams_endpoint *gateway = gateway_of(stack, family);
    const struct router *router = gateway || family == AMS_IPV4 ? NULL : router_default(stack);
    if (!gateway && !router)
        return -AMS_ENETUNREACH;
    memcpy(next, gateway ? gateway->ip : router->ip, 16);
    return 0;
}

int ip_path_find(struct ams_stack *stack, const uint8_t dst[16], struct ip_path *path)
{
    uint8_t next[16];
    enum route_kind kind;
    path->neighbor = NULL;
    int status = route_next_hop(stack, dst, next, &kind);
    if (status < 0)
        return -AMS_ENETUNREACH;
    struct neighbor *neighbor = neighbor_get(stack, next, kind);
    if (!neighbor)
        return -AMS_ENOMEM;
    path->neighbor = neighbor;
    path->family = ip_is4(dst) ? AMS_IPV4 : AMS_IPV6;
    path->mtu = (uint16_t)route_mtu(stack, dst); /* stack->mtu is no more than 65535 */
    path->generation = stack->path_generation; /* last: neighbor_get() may have moved it */
    return 0;
}

/* ---- path MTU ---------------------------------------------------------------- */

/* The PMTU_WAYS entries among which dst would be. */
static struct pmtu_entry *pmtu_set(const struct ams_stack *stack, const uint8_t dst[16])
{
    uint64_t words[2];
    memcpy(words, dst, 16);
    return stack->route->pmtu[siphash13(&stack->key, words, 2) % PMTU_SETS];
}

uint32_t route_mtu(const struct ams_stack *stack, const uint8_t dst[16])
{
    const struct pmtu_entry *set = pmtu_set(stack, dst);
    uint32_t link = ip_is4(dst) ? stack->mtu : stack->mtu6;
    for (unsigned way = 0; way < PMTU_WAYS; way++)
        if (set[way].expires > stack->now && ip_equal(set[way].dst, dst))
            return ams_min_u32(set[way].mtu, link);
    return link;
}

void ip_path_set_mtu(struct ams_stack *stack, const uint8_t dst[16], uint32_t mtu, uint64_t now)
{
    mtu = ams_max_u32(mtu, ip_is4(dst) ? PMTU_MIN4 : IP6_MIN_MTU);
    if (mtu >= route_mtu(stack, dst))
        return; /* only ever lower: RFC 8201 section 4 */
    struct pmtu_entry *set = pmtu_set(stack, dst);
    struct pmtu_entry *entry = &set[0];
    for (unsigned way = 0; way < PMTU_WAYS; way++) {
        if (ip_equal(set[way].dst, dst)) {
            entry = &set[way];
            break;
        }
        if (set[way].expires < entry->expires)
            entry = &set[way];
    }
    memcpy(entry->dst, dst, 16);
    entry->mtu = mtu;
    entry->expires = now + PMTU_LIFETIME;
    stack->path_generation++;
    if (!timer_armed(&stack->route->timer))
        timer_arm(&stack->wheel, &stack->route->timer, entry->expires);
}

void route_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    uint64_t earliest = UINT64_MAX;
    for (unsigned i = 0; i < PMTU_SETS * PMTU_WAYS; i++) {
        struct pmtu_entry *entry = &stack->route->pmtu[i / PMTU_WAYS][i % PMTU_WAYS];
        if (entry->expires && entry->expires <= now)
            memset(entry, 0, sizeof(*entry));
        else if (entry->expires && entry->expires < earliest)
            earliest = entry->expires;
    }
    stack->path_generation++;
    if (earliest != UINT64_MAX)
        timer_arm(&stack->wheel, timer, earliest);
}

/* ---- life cycle ---------------------------------------------------------------- */

/* Return: true if there is no gateway, or one that is a host's address. */
static bool gateway_valid(const struct ams_endpoint *gateway, uint8_t family)
{
    if (gateway->family == 0)
        return true;
    return gateway->family == family && (ip_is4(gateway->ip) != 0) == (family == AMS_IPV4) &&
           !ip_is_any(gateway->ip) && !is_multicast(gateway->ip) && !ip_is_loopback(gateway->ip);
}

int route_init(struct ams_stack *stack)
{
    if (!gateway_valid(&stack->config.gateway4, AMS_IPV4) || !gateway_valid(&stack->config.gateway6, AMS_IPV6))
        return -AMS_EINVAL;
    stack->route = mem_zalloc(1, sizeof(*stack->route));
    if (!stack->route)
        return -AMS_ENOMEM;
    stack->route->timer.kind = STACK_TIMER_ROUTE;
    return 0;
}

void route_fini(struct ams_stack *stack)
{
    if (!stack->route)
        return;
    timer_cancel(&stack->wheel, &stack->route->timer);
    mem_free(stack->route);
    stack->route = NULL;
}
