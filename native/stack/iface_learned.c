/* SPDX-License-Identifier: BSD-2-Clause
 *
 * iface_learned.c - addresses that come and go.
 *
 * Theory of operation.  Routers say which prefixes there are (router_prefix.c
 * makes addresses of them); here they become addresses of the stack, in
 * places that iface_init() has reserved, and whoever serves the stack's
 * addresses (the switch, a driver) is told of each.
 *
 * An address that is forgotten ends its connections, but endpoints may still
 * be bound to it, with tuples that they will give back some day.  So claims
 * are counted: the stack's owner is replaced by functions that count and pass
 * on.  Until the last claim is released the address keeps its place, in the
 * state IFACE_INVALID, and comes back to life if it is learnt again.
 */
#include <string.h>

#include "stack/iface.h"
#include "stack/multicast.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/bytes.h"
#include "wire/ipv6.h"

bool iface_autoconf(const struct ams_stack *stack)
{
    return stack->config.flags & AMS_STACK_AUTOCONF && !(stack->link_flags & STACK_LINK_QUIET);
}

/* ---- claims ------------------------------------------------------------------- */

/* Frees the place of an address that nobody has any use for. */
static void vacate(struct ams_stack *stack, struct iface_addr *addr)
{
    const struct ams_owner *owner = &stack->iface->owner;
    struct ams_endpoint address = {.family = addr->family};
    if (addr->state != IFACE_INVALID || addr->claims)
        return;
    memcpy(address.ip, addr->ip, 16);
    memset(addr, 0, sizeof(*addr));
    iface_rehash(stack->iface);
    if (owner->unserve)
        owner->unserve(owner->ctx, &address);
}

/* The learned address that a tuple is on; NULL: another one, or all. */
static struct iface_addr *claimed_address(const struct ams_stack *stack, const struct ams_endpoint *local)
{
    struct iface_addr *addr = iface_find(stack, local->ip);
    return addr && addr->learned ? addr : NULL;
}

static int claim_counted(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct ams_stack *stack = ctx;
    const struct ams_owner *owner = &stack->iface->owner;
    int status = owner->claim(owner->ctx, protocol, local);
    struct iface_addr *addr = claimed_address(stack, local);
    if (status == 0 && addr)
        addr->claims++;
    return status;
}

static void release_counted(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct ams_stack *stack = ctx;
    const struct ams_owner *owner = &stack->iface->owner;
    struct iface_addr *addr = claimed_address(stack, local);
    owner->release(owner->ctx, protocol, local);
    if (!addr)
        return;
    AMS_ASSERT(addr->claims);
    addr->claims--;
    vacate(stack, addr);
}

static int lend_through(void *ctx, uint16_t *low, uint16_t *high)
{
    struct ams_stack *stack = ctx;
    const struct ams_owner *owner = &stack->iface->owner;
    return owner->lend(owner->ctx, low, high);
}

static void flow_through(void *ctx, const struct ams_endpoint *local, const struct ams_endpoint *remote, bool begins)
{
    struct ams_stack *stack = ctx;
    const struct ams_owner *owner = &stack->iface->owner;
    owner->flow(owner->ctx, local, remote, begins);
}

void iface_count_claims(struct ams_stack *stack)
{
    stack->iface->owner = stack->owner;
    stack->owner = (struct ams_owner){
        .claim = claim_counted,
        .release = release_counted,
        .lend = stack->owner.lend ? lend_through : NULL,
        .flow = stack->owner.flow ? flow_through : NULL,
        .ctx = stack,
    };
}

/* ---- life of an address ---------------------------------------------------------- */

void iface_probe(struct ams_stack *stack, struct iface_addr *addr, uint64_t now)
{
    uint8_t group[16];
    ipv6_solicited_node(group, addr->ip);
    addr->joined = multicast_join(stack, group, now) == 0; /* if not it goes unreported: see iface_in_group() */
    addr->probed = true;
    ndp_probe(stack, addr);
    timer_arm(&stack->wheel, &addr->timer, now + stack->retrans_ms6 * AMS_NS_PER_MS);
}

/* A place in the table.  Return: NULL if it is full. */
static struct iface_addr *place(struct iface_table *table)
{
    for (uint32_t i = 0; i < table->n_addrs; i++)
        if (!table->addrs[i].family)
            return &table->addrs[i];
    return table->n_addrs < table->capacity ? &table->addrs[table->n_addrs++] : NULL;
}

/* Fills in a place, and has the address served.  Return: false if it is refused. */
static bool occupy(struct ams_stack *stack, struct iface_addr *addr, const uint8_t ip[16], unsigned prefix_len)
{
    const struct ams_owner *owner = &stack->iface->owner;
    struct ams_ifaddr served = {.address = {.family = AMS_IPV6}, .prefix_len = prefix_len};
    memcpy(served.address.ip, ip, 16);
    if (owner->serve && owner->serve(owner->ctx, &served) < 0)
        return false;
    memcpy(addr->ip, ip, 16);
    addr->family = AMS_IPV6;
    addr->prefix_len = (uint8_t)prefix_len;
    addr->learned = true;
    addr->stack = stack;
    addr->timer.kind = STACK_TIMER_IFACE;
    iface_rehash(stack->iface);
    return true;
}

struct iface_addr *iface_learn(struct ams_stack *stack, const uint8_t ip[16], unsigned prefix_len, uint64_t delay,
                               uint64_t now)
{
    struct iface_addr *addr = iface_find(stack, ip);
    if (addr && addr->state != IFACE_INVALID)
        return NULL;
    if (!addr) {
        addr = place(stack->iface);
        if (!addr || !occupy(stack, addr, ip, prefix_len))
            return NULL;
    }
    addr->state = IFACE_TENTATIVE;
    addr->deprecated = false;
    stack->path_generation++; /* it may have been a neighbour's */
    if (delay)
        timer_arm(&stack->wheel, &addr->timer, now + delay);
    else
        iface_probe(stack, addr, now);
    return addr;
}

void iface_forget(struct ams_stack *stack, struct iface_addr *addr, uint64_t now)
{
    uint8_t ip[16];
    memcpy(ip, addr->ip, 16);
    timer_cancel(&stack->wheel, &addr->timer);
    if (addr->joined) {
        uint8_t group[16];
        ipv6_solicited_node(group, ip);
        multicast_leave(stack, group, now);
    }
    addr->state = IFACE_INVALID;
    addr->probed = addr->joined = false;
    stack->path_generation++;
    addr->claims++; /* it stays until the connections are gone */
    tcp_drop_address(stack, ip, -AMS_EADDRNOTAVAIL);
    addr->claims--;
    vacate(stack, addr);
}
