/* SPDX-License-Identifier: BSD-2-Clause
 *
 * network.c - lists what a stack knows of its network, for people.
 */
#include <string.h>

#include "stack/router.h"
#include "wire/bytes.h"

/* A list that is being written: rows beyond its end are counted only. */
struct list {
    struct ams_net_info *out;
    int max;
    int count;
};

/* The next row, zeroed; NULL past the end. */
static struct ams_net_info *next_row(struct list *list, uint8_t kind, const uint8_t ip[16], uint32_t prefix_len)
{
    if (list->count++ >= list->max)
        return NULL;
    struct ams_net_info *row = &list->out[list->count - 1];
    memset(row, 0, sizeof(*row));
    row->kind = kind;
    row->address.address.family = ip_is4(ip) ? AMS_IPV4 : AMS_IPV6;
    row->address.prefix_len = prefix_len;
    row->valid = row->preferred = AMS_NEVER;
    memcpy(row->address.address.ip, ip, 16);
    return row;
}

/* What is left until then. */
static uint64_t left(uint64_t until, uint64_t now)
{
    if (until == UINT64_MAX)
        return AMS_NEVER;
    return until > now ? until - now : 0;
}

/* Our addresses, whatever their state. */
static void list_addresses(const struct ams_stack *stack, struct list *list)
{
    static const uint16_t meaning[] = {
        [IFACE_TENTATIVE] = AMS_NET_TENTATIVE,
        [IFACE_DUPLICATE] = AMS_NET_DUPLICATE,
        [IFACE_INVALID] = AMS_NET_INVALID,
    };
    for (uint32_t i = 0; i < stack->iface->n_addrs; i++) {
        const struct iface_addr *addr = &stack->iface->addrs[i];
        const struct router_address *entry = addr->learned ? router_address_of(stack, addr) : NULL;
        uint32_t prefix_len = addr->family == AMS_IPV4 ? addr->prefix_len - 96u : addr->prefix_len;
        struct ams_net_info *row = addr->family ? next_row(list, AMS_NET_ADDRESS, addr->ip, prefix_len) : NULL;
        if (!row)
            continue;
        row->flags = (addr->learned ? AMS_NET_LEARNED : 0) | (addr->deprecated ? AMS_NET_DEPRECATED : 0);
        if (addr->state < AMS_ARRAY_SIZE(meaning))
            row->flags |= meaning[addr->state];
        if (addr->learned) {
            row->valid = entry ? left(entry->valid_until, stack->now) : 0;
            row->preferred = entry ? left(entry->preferred_until, stack->now) : 0;
        }
    }
}

static void list_gateway(const struct ams_endpoint *gateway, struct list *list)
{
    struct ams_net_info *row = NULL;
    if (gateway->family)
        row = next_row(list, AMS_NET_ROUTER, gateway->ip, gateway->family == AMS_IPV4 ? 32 : 128);
    if (row)
        row->flags = AMS_NET_CURRENT;
}

/* Routers and prefixes that were learnt. */
static void list_learned(const struct ams_stack *stack, struct list *list)
{
    const struct router_table *table = stack->routers;
    const struct router *current = stack->config.gateway6.family ? NULL : router_default(stack);
    for (uint32_t i = 0; i < ROUTER_LIMIT; i++) {
        const struct router *router = &table->routers[i];
        struct ams_net_info *row = router->expires ? next_row(list, AMS_NET_ROUTER, router->ip, 128) : NULL;
        if (!row)
            continue;
        row->flags = AMS_NET_LEARNED | (router == current ? AMS_NET_CURRENT : 0) |
                     (router->failed_at ? AMS_NET_UNREACHABLE : 0);
        row->preference = router->preference;
        row->valid = row->preferred = left(router->expires, stack->now);
    }
    for (uint32_t i = 0; i < ROUTER_PREFIXES; i++) {
        const struct router_link_prefix *prefix = &table->prefixes[i];
        struct ams_net_info *row =
            prefix->expires ? next_row(list, AMS_NET_PREFIX, prefix->prefix, prefix->length) : NULL;
        if (!row)
            continue;
        row->flags = AMS_NET_LEARNED;
        row->valid = row->preferred = left(prefix->expires, stack->now);
    }
}

int ams_stack_network(struct ams_stack *stack, struct ams_net_info *out, int max, uint64_t now)
{
    struct list list = {.out = out, .max = max};
    stack->now = ams_max_u64(stack->now, now);
    list_addresses(stack, &list);
    list_gateway(&stack->config.gateway4, &list);
    list_gateway(&stack->config.gateway6, &list);
    if (stack->routers)
        list_learned(stack, &list);
    int room = list.max > list.count ? list.max - list.count : 0;
    return list.count + redirect_list(stack, room ? list.out + list.count : NULL, room);
}
