/* SPDX-License-Identifier: BSD-2-Clause
 *
 * router_prefix.c - prefixes that routers advertise: what is on the link (RFC
 * 4861 section 6.3.4), and addresses made of them (RFC 4862 section 5.5).
 *
 * Theory of operation.  The two uses of a prefix are independent, and so are
 * their tables: that an address was made of a prefix doesn't put the prefix
 * on the link (RFC 5942 section 4).
 *
 * An address is a prefix of 64 bits and an identifier that only the secret
 * autoconf_key can tell (RFC 7217): the same in the same network each time,
 * and unlike in any two.  It is probed first, whatever AMS_STACK_NO_DAD says;
 * if somebody has it the next identifier is tried, IDGEN_RETRIES times.
 *
 *   tentative   may be bound to; nothing is sent from it
 *   preferred   as any address
 *   deprecated  still good, but not for new connections if there is another
 *   invalid     gone, with the connections on it (RFC 4862 section 5.5.4);
 *               listeners and sockets that were bound to it go on when it
 *               comes back
 */
#include <string.h>

#include "core/hash.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/bytes.h"
#include "wire/ipv6.h"

/* RFC 4862 section 5.5.3 (e): an advertisement can't shorten a lifetime below this. */
#define LIFETIME_KEPT (7200 * AMS_NS_PER_S)
/* RFC 7217 section 6. */
#define IDGEN_RETRIES 3u
#define IDGEN_DELAY AMS_NS_PER_S
/* MAX_RTR_SOLICITATION_DELAY (RFC 4862 section 5.4.2). */
#define SPREAD_MS 1000u

/* The time that a lifetime of so many seconds ends. */
static uint64_t end_of(uint32_t seconds, uint64_t now)
{
    return seconds == ROUTER_INFINITE ? UINT64_MAX : now + seconds * AMS_NS_PER_S;
}

/* ---- on the link ------------------------------------------------------------------ */

bool router_on_link(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct router_table *table = stack->routers;
    for (uint32_t i = 0; table && i < ROUTER_PREFIXES; i++) {
        const struct router_link_prefix *prefix = &table->prefixes[i];
        if (prefix->expires && iface_common_prefix(prefix->prefix, ip) >= prefix->length)
            return true;
    }
    return false;
}

/* What a prefix says of being on the link. */
static void learn_on_link(struct ams_stack *stack, const struct router_prefix *prefix, uint64_t now)
{
    struct router_table *table = stack->routers;
    struct router_link_prefix *entry = NULL, *empty = NULL;
    for (uint32_t i = 0; i < ROUTER_PREFIXES && !entry; i++) {
        struct router_link_prefix *at = &table->prefixes[i];
        if (!at->expires)
            empty = empty ? empty : at;
        else if (at->length == prefix->length && ip_equal(at->prefix, prefix->prefix))
            entry = at;
    }
    if (!prefix->valid) {
        if (entry) {
            entry->expires = 0;
            stack->path_generation++;
        }
        return;
    }
    if (!entry) {
        entry = empty;
        if (!entry) {
            stack->counters.router_full++;
            return;
        }
        memcpy(entry->prefix, prefix->prefix, 16);
        entry->length = prefix->length;
        stack->path_generation++;
    }
    entry->expires = end_of(prefix->valid, now);
}

/* ---- identifiers ------------------------------------------------------------------- */

/* Identifiers that are not for hosts (RFC 5453): the subnet's routers, what
 * IANA keeps, subnet anycast. */
static bool reserved(uint64_t id)
{
    return id == 0 || (id >= 0x02005efffe000000u && id <= 0x02005efffeffffffu) || id >= 0xfdffffffffffff80u;
}

/* Makes the address of a prefix: RFC 7217 section 5, F being SipHash-2-4.
 * The network interface is part of the key, which is made from its name. */
static void make_address(const struct ams_stack *stack, const struct router_address *entry, uint8_t ip[16])
{
    struct siphash_key key = {.k = {stack->config.autoconf_key[0], stack->config.autoconf_key[1]}};
    uint64_t words[3] = {0, entry->tries, 0}, id;
    memcpy(words, entry->prefix, 8);
    do {
        id = siphash24(&key, words, 3);
        words[2]++;
    } while (reserved(id));
    memcpy(ip, entry->prefix, 8);
    store_be32(ip + 8, (uint32_t)(id >> 32));
    store_be32(ip + 12, (uint32_t)id);
}

/* ---- addresses ----------------------------------------------------------------------- */

const struct router_address *router_address_of(const struct ams_stack *stack, const struct iface_addr *addr)
{
    const struct router_table *table = stack->routers;
    for (uint32_t i = 0; table && i < IFACE_LEARNED; i++)
        if (table->addresses[i].valid_until && table->addresses[i].addr == addr)
            return &table->addresses[i];
    return NULL;
}

/* Notes that this identifier did not do; RFC 7217 section 6. */
static void try_later(struct router_address *entry, uint64_t now)
{
    entry->addr = NULL;
    entry->tries++;
    entry->retry_at = entry->tries <= IDGEN_RETRIES ? now + IDGEN_DELAY : UINT64_MAX;
}

/* Makes the address and begins to probe it. */
static void try_address(struct ams_stack *stack, struct router_address *entry, uint64_t delay, uint64_t now)
{
    uint8_t ip[16];
    make_address(stack, entry, ip);
    entry->addr = iface_learn(stack, ip, 64, delay, now);
    if (!entry->addr)
        try_later(entry, now);
}

void router_address_conflict(struct ams_stack *stack, struct iface_addr *addr, uint64_t now)
{
    struct router_address *entry = (struct router_address *)(uintptr_t)router_address_of(stack, addr);
    iface_forget(stack, addr, now);
    if (!entry)
        return;
    try_later(entry, now);
    router_reschedule(stack);
}

/* New lifetimes of an address that there is (RFC 4862 section 5.5.3 (e)). */
static void refresh(struct router_address *entry, const struct router_prefix *prefix, uint64_t now)
{
    uint64_t until = end_of(prefix->valid, now);
    if (until > now + LIFETIME_KEPT || until > entry->valid_until)
        entry->valid_until = until;
    else if (entry->valid_until > now + LIFETIME_KEPT)
        entry->valid_until = now + LIFETIME_KEPT;
    entry->preferred_until = end_of(prefix->preferred, now);
    if (entry->addr)
        entry->addr->deprecated = entry->preferred_until <= now;
}

/* What a prefix says of addresses. */
static void learn_address(struct ams_stack *stack, const struct router_prefix *prefix, bool spread, uint64_t now)
{
    struct router_table *table = stack->routers;
    struct router_address *empty = NULL;
    if (prefix->preferred > prefix->valid || prefix->length != 64)
        return; /* RFC 4862 section 5.5.3 (c), (d) */
    for (uint32_t i = 0; i < IFACE_LEARNED; i++) {
        struct router_address *entry = &table->addresses[i];
        if (!entry->valid_until) {
            empty = empty ? empty : entry;
        } else if (ip_equal(entry->prefix, prefix->prefix)) {
            refresh(entry, prefix, now);
            return;
        }
    }
    if (!prefix->valid)
        return;
    if (!empty) {
        stack->counters.router_full++;
        return;
    }
    *empty = (struct router_address){.valid_until = end_of(prefix->valid, now),
                                     .preferred_until = end_of(prefix->preferred, now)};
    memcpy(empty->prefix, prefix->prefix, 16);
    try_address(stack, empty, spread ? rng_below(&stack->rng, SPREAD_MS) * AMS_NS_PER_MS : 0, now);
    if (empty->addr)
        empty->addr->deprecated = empty->preferred_until <= now;
}

void router_prefix_learn(struct ams_stack *stack, const struct router_prefix *prefix, bool spread, uint64_t now)
{
    if (ipv6_is_link_local(prefix->prefix) || ipv6_is_multicast(prefix->prefix) || ip_is4(prefix->prefix))
        return;
    if (prefix->on_link)
        learn_on_link(stack, prefix, now);
    if (prefix->autonomous)
        learn_address(stack, prefix, spread, now);
}

/* ---- time ------------------------------------------------------------------------------- */

/* Brings one address up to date. */
static void expire_address(struct ams_stack *stack, struct router_address *entry, uint64_t now)
{
    if (entry->valid_until <= now) {
        struct iface_addr *addr = entry->addr;
        memset(entry, 0, sizeof(*entry));
        if (addr)
            iface_forget(stack, addr, now);
        return;
    }
    if (!entry->addr && entry->retry_at <= now)
        try_address(stack, entry, 0, now);
    if (entry->addr)
        entry->addr->deprecated = entry->preferred_until <= now;
}

void router_prefix_expire(struct ams_stack *stack, uint64_t now)
{
    struct router_table *table = stack->routers;
    for (uint32_t i = 0; i < ROUTER_PREFIXES; i++) {
        if (table->prefixes[i].expires && table->prefixes[i].expires <= now) {
            table->prefixes[i].expires = 0;
            stack->path_generation++;
        }
    }
    for (uint32_t i = 0; i < IFACE_LEARNED; i++)
        if (table->addresses[i].valid_until)
            expire_address(stack, &table->addresses[i], now);
}

uint64_t router_prefix_due(const struct ams_stack *stack)
{
    const struct router_table *table = stack->routers;
    uint64_t due = UINT64_MAX;
    for (uint32_t i = 0; i < ROUTER_PREFIXES; i++)
        if (table->prefixes[i].expires)
            due = ams_min_u64(due, table->prefixes[i].expires);
    for (uint32_t i = 0; i < IFACE_LEARNED; i++) {
        const struct router_address *entry = &table->addresses[i];
        if (!entry->valid_until)
            continue;
        due = ams_min_u64(due, entry->valid_until);
        if (!entry->addr)
            due = ams_min_u64(due, entry->retry_at);
        else if (!entry->addr->deprecated)
            due = ams_min_u64(due, entry->preferred_until);
    }
    return due;
}
