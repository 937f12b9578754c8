/* SPDX-License-Identifier: BSD-2-Clause
 *
 * router.c - the hosts' part of router discovery (RFC 4861 section 6.3).
 *
 * Theory of operation.  With AMS_STACK_AUTOCONF, and on a link that is ours
 * alone, routers are asked for at once and then at growing intervals for as
 * long as none is known (RFC 7559), and what they advertise is taken in: who
 * is a default router and how much it wants to be one (RFC 4191), the link's
 * parameters, and prefixes (router_prefix.c).  The random delay before the
 * first solicitation is left out for iface.c's reason.
 *
 * A router whose neighbour entry fails is marked; packets then go to the
 * best of the others, and to the one that failed longest ago when all have
 * (section 6.3.6).  An answer or an advertisement clears the mark.  A gateway
 * of the configuration goes before all of them.
 *
 * Advertisements are not authenticated: whoever is on the link can send one.
 * So all that they can make a host remember is bounded, and what they can
 * make it do is kept within reason: hop limits that would cut the host off
 * are not believed, timers are held in a range, a lifetime can't be cut to
 * less than two hours.  That they come from the link itself is certain: the
 * hop limit is 255, the source link-local (section 6.1.2), and they are not
 * fragmented (RFC 6980).
 *
 * One timer serves all that is here and in router_prefix.c; there is little
 * of it, so it is looked through.
 */
#include "stack/router.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/ip.h"
#include "stack/neighbor.h"

#define NDP_HOP_LIMIT 255
/* RFC 7559 section 2: IRT and MRT. */
#define SOLICIT_FIRST (4 * AMS_NS_PER_S)
#define SOLICIT_MOST (3600 * AMS_NS_PER_S)
/* After so many solicitations there is probably no router: MAX_RTR_SOLICITATIONS
 * (RFC 4861 section 10). */
#define SOLICITS_TELLING 3u
#define SOLICIT_PATIENCE AMS_NS_PER_S /* MAX_RTR_SOLICITATION_DELAY: for the answer to the last of them */

/* What is believed.  A small hop limit would cut the host off (CVE-2015-2922). */
#define HOP_LIMIT_LEAST 32u
#define REACHABLE_MOST_MS 3600000u /* RFC 4861 section 6.2.1 */
#define RETRANS_LEAST_MS 100u
#define RETRANS_MOST_MS 10000u

/* ---- the list ------------------------------------------------------------------ */

static struct router *find(const struct ams_stack *stack, const uint8_t ip[16])
{
    struct router_table *table = stack->routers;
    for (uint32_t i = 0; table && i < ROUTER_LIMIT; i++)
        if (table->routers[i].expires && ip_equal(table->routers[i].ip, ip))
            return &table->routers[i];
    return NULL;
}

bool router_known(const struct ams_stack *stack, const uint8_t ip[16])
{
    return find(stack, ip) != NULL;
}

/* True if a is to be used rather than b. */
static bool better(const struct router *a, const struct router *b)
{
    if (a->failed_at != b->failed_at)
        return a->failed_at < b->failed_at;
    return a->preference > b->preference;
}

const struct router *router_default(const struct ams_stack *stack)
{
    const struct router_table *table = stack->routers;
    const struct router *best = NULL;
    for (uint32_t i = 0; table && i < ROUTER_LIMIT; i++) {
        const struct router *router = &table->routers[i];
        if (router->expires && (!best || better(router, best)))
            best = router;
    }
    return best;
}

/* A place for one more: a free one, else that of the worst if it has failed,
 * or is wanted less.  Return: NULL if there is none. */
static struct router *place_for(struct router_table *table, int8_t preference)
{
    struct router *worst = &table->routers[0];
    for (uint32_t i = 0; i < ROUTER_LIMIT; i++) {
        struct router *router = &table->routers[i];
        if (!router->expires)
            return router;
        if (better(worst, router))
            worst = router;
    }
    return worst->failed_at || worst->preference < preference ? worst : NULL;
}

/* Looks for routers, from the beginning. */
static void search(struct ams_stack *stack, uint64_t now)
{
    struct router_table *table = stack->routers;
    table->solicit_at = now;
    table->solicit_interval = 0;
    table->solicits = 0;
}

/* The default router may be another one now.
 * @before: the one that it was */
static void changed(struct ams_stack *stack, const struct router *before)
{
    if (router_default(stack) != before)
        stack->path_generation++;
}

/* Takes a router off the list; the search begins again with the last one. */
static void drop(struct ams_stack *stack, struct router *router, uint64_t now)
{
    memset(router, 0, sizeof(*router));
    stack->path_generation++;
    if (!router_default(stack))
        search(stack, now);
}

bool router_failed(struct ams_stack *stack, const uint8_t ip[16], uint64_t now)
{
    struct router *router = find(stack, ip);
    bool redirected = redirect_forget(stack, ip);
    if (!router)
        return redirected;
    const struct router *before = router_default(stack);
    router->failed_at = now;
    changed(stack, before);
    return true;
}

void router_answered(struct ams_stack *stack, const uint8_t ip[16])
{
    struct router *router = find(stack, ip);
    if (!router || !router->failed_at)
        return;
    const struct router *before = router_default(stack);
    router->failed_at = 0;
    changed(stack, before);
}

void router_resigned(struct ams_stack *stack, const uint8_t ip[16], uint64_t now)
{
    struct router *router = find(stack, ip);
    if (!router)
        return;
    drop(stack, router, now);
    router_reschedule(stack);
}

/* ---- solicitations ---------------------------------------------------------------- */

/* Asks routers to advertise themselves, and says when to ask again: RFC 7559
 * section 2.1, with RFC 8415 section 15's random factors. */
static void solicit(struct ams_stack *stack, uint64_t now)
{
    struct router_table *table = stack->routers;
    uint64_t base = table->solicit_interval ? 2 * table->solicit_interval : SOLICIT_FIRST;
    uint64_t unit = table->solicit_interval ? table->solicit_interval : SOLICIT_FIRST;
    if (base > SOLICIT_MOST)
        base = unit = SOLICIT_MOST;
    uint64_t tenth = unit / 10;
    table->solicit_interval = base - tenth + rng_below(&stack->rng, 2001) * (tenth / 1000);
    table->solicit_at = now + table->solicit_interval;
    table->solicits++;
    stack->counters.router_solicit_tx++;
    ndp_router_solicit(stack);
}

/* ---- advertisements ------------------------------------------------------------------ */

/* What an advertisement says about its sender.
 * Return: false if there is no room for it. */
static bool learn_router(struct ams_stack *stack, const uint8_t ip[16], const struct router_advert *advert,
                         uint64_t now)
{
    struct router_table *table = stack->routers;
    struct router *router = find(stack, ip);
    const struct router *before = router_default(stack);
    if (!advert->lifetime) {
        if (router)
            drop(stack, router, now);
        return true;
    }
    if (!router) {
        router = place_for(table, advert->preference);
        if (!router) {
            stack->counters.router_full++;
            return false;
        }
        memcpy(router->ip, ip, 16);
        stack->path_generation++; /* `before` may have been in this place */
    }
    router->expires = now + advert->lifetime * AMS_NS_PER_S;
    router->preference = advert->preference;
    router->failed_at = 0;
    table->solicit_at = UINT64_MAX;
    changed(stack, before);
    return true;
}

/* The link's parameters (RFC 4861 section 6.3.4), as far as they are believed. */
static void learn_parameters(struct ams_stack *stack, const struct router_advert *advert)
{
    if (advert->hop_limit >= HOP_LIMIT_LEAST)
        stack->hop_limit6 = advert->hop_limit;
    if (advert->reachable_ms && advert->reachable_ms <= REACHABLE_MOST_MS)
        stack->reachable_ms6 = advert->reachable_ms;
    if (advert->retrans_ms)
        stack->retrans_ms6 =
            ams_min_u32(ams_max_u32(advert->retrans_ms, RETRANS_LEAST_MS), RETRANS_MOST_MS);
    if (advert->mtu >= IP6_MIN_MTU && advert->mtu <= stack->mtu && advert->mtu != stack->mtu6) {
        stack->mtu6 = advert->mtu;
        stack->path_generation++;
    }
}

void router_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct router_advert advert;
    struct router_prefix prefix;
    const uint8_t *message = frame->data + ip->l4_off;
    stack->counters.router_advert_rx++;
    if (!stack->routers)
        return;
    if (ip->ttl != NDP_HOP_LIMIT || ip->reassembled || !ipv6_is_link_local(ip->src) ||
        router_advert_parse(message, ip->l4_len, &advert) != WIRE_OK) {
        stack->counters.router_advert_bad++;
        return;
    }
    stack->routers->heard = true;
    if (learn_router(stack, ip->src, &advert, now) && advert.has_lladdr)
        neighbor_learn(stack, ip->src, advert.lladdr, NEIGHBOR_ASKED, now);
    learn_parameters(stack, &advert);
    for (size_t at = 0; router_advert_prefix(message, ip->l4_len, &at, &prefix);)
        router_prefix_learn(stack, &prefix, !ip->dst_unicast, now);
    router_reschedule(stack);
}

/* ---- time -------------------------------------------------------------------------------- */

void router_reschedule(struct ams_stack *stack)
{
    struct router_table *table = stack->routers;
    uint64_t due = ams_min_u64(table->solicit_at, router_prefix_due(stack));
    for (uint32_t i = 0; i < ROUTER_LIMIT; i++)
        if (table->routers[i].expires)
            due = ams_min_u64(due, table->routers[i].expires);
    if (due == UINT64_MAX)
        timer_cancel(&stack->wheel, &table->timer);
    else if (!timer_armed(&table->timer) || table->timer.expires != due)
        timer_arm(&stack->wheel, &table->timer, due);
}

void router_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    (void)timer;
    struct router_table *table = stack->routers;
    for (uint32_t i = 0; i < ROUTER_LIMIT; i++)
        if (table->routers[i].expires && table->routers[i].expires <= now)
            drop(stack, &table->routers[i], now);
    router_prefix_expire(stack, now);
    if (table->solicit_at <= now)
        solicit(stack, now);
    router_reschedule(stack);
}

int ams_stack_autoconf(struct ams_stack *stack, uint64_t now)
{
    const struct router_table *table = stack->routers;
    stack->now = ams_max_u64(stack->now, now);
    if (!table)
        return AMS_AUTOCONF_OFF;
    for (uint32_t i = 0; i < stack->iface->n_addrs; i++) {
        const struct iface_addr *addr = &stack->iface->addrs[i];
        if (addr->family == AMS_IPV6 && addr->state == IFACE_USABLE && !ipv6_is_link_local(addr->ip))
            return AMS_AUTOCONF_DONE;
    }
    for (uint32_t i = 0; i < IFACE_LEARNED; i++)
        if (table->addresses[i].valid_until && (table->addresses[i].addr || table->addresses[i].retry_at != UINT64_MAX))
            return AMS_AUTOCONF_WAITING;
    bool answered = table->heard || table->solicits > SOLICITS_TELLING;
    uint64_t last = table->solicit_at - table->solicit_interval; /* when the latest one was sent */
    if (!answered && table->solicits == SOLICITS_TELLING)
        answered = stack->now >= last + SOLICIT_PATIENCE;
    return answered ? AMS_AUTOCONF_DONE : AMS_AUTOCONF_WAITING;
}

/* ---- life cycle --------------------------------------------------------------------------- */

int router_init(struct ams_stack *stack)
{
    stack->hop_limit6 = IP_HOP_LIMIT;
    stack->reachable_ms6 = NEIGHBOR_REACHABLE_MS;
    stack->retrans_ms6 = NEIGHBOR_RETRANS_MS;
    stack->mtu6 = stack->mtu;
    if (!iface_autoconf(stack))
        return 0;
    stack->routers = mem_zalloc(1, sizeof(*stack->routers));
    if (!stack->routers)
        return -AMS_ENOMEM;
    stack->routers->timer.kind = STACK_TIMER_ROUTER;
    stack->routers->solicit_at = UINT64_MAX;
    return 0;
}

void router_start(struct ams_stack *stack, uint64_t now)
{
    if (!stack->routers)
        return;
    search(stack, now);
    solicit(stack, now);
    router_reschedule(stack);
}

void router_fini(struct ams_stack *stack)
{
    if (!stack->routers)
        return;
    timer_cancel(&stack->wheel, &stack->routers->timer);
    mem_free(stack->routers);
    stack->routers = NULL;
}

uint64_t router_memory(const struct ams_stack *stack)
{
    return stack->routers ? sizeof(*stack->routers) : 0;
}
