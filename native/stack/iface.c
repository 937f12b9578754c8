/* SPDX-License-Identifier: BSD-2-Clause
 *
 * iface.c - the stack's own addresses.
 *
 * Theory of operation.  Addresses come from the configuration and stay, or
 * are learnt from routers and come and go (iface_learned.c); the IPv6
 * link-local one is made from the MAC.  A small hash table of indices answers
 * "is this ours?", which every received packet asks.
 *
 * IPv4 addresses are usable at once and announced by a gratuitous ARP (RFC
 * 5227 section 2.3).  IPv6 addresses are first tentative (RFC 4862 section
 * 5.4): one solicitation goes out, and if nobody objects within a second the
 * address is announced and used.  The random delay before the first
 * solicitation is left out: it spreads hosts that boot together on one link,
 * which user-space stacks do not do, and would keep IPv6 down for a second.
 *
 * Loopback addresses may be among ours.  They work inside the stack, and the
 * link learns nothing of them.
 */
#include "stack/iface.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/multicast.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/bytes.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

/* DEFEND_INTERVAL: RFC 5227 section 1.1. */
#define DEFEND_INTERVAL (10 * AMS_NS_PER_S)

/* True if an address is ours, though perhaps not usable yet. */
static inline bool exists(const struct iface_addr *addr)
{
    return addr->state <= IFACE_USABLE;
}

/* ---- look-ups ------------------------------------------------------------ */

/* Where the search for ip starts. */
static inline uint32_t slot_of(const struct iface_table *table, const uint8_t ip[16])
{
    uint64_t low;
    memcpy(&low, ip + 8, 8);
    return (uint32_t)(low * 0x9e3779b97f4a7c15u >> 32) & table->slot_mask;
}

struct iface_addr *iface_find(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct iface_table *table = stack->iface;
    for (uint32_t slot = slot_of(table, ip); table->slots[slot]; slot = (slot + 1) & table->slot_mask) {
        struct iface_addr *addr = &table->addrs[table->slots[slot] - 1];
        if (ip_equal(addr->ip, ip))
            return addr;
    }
    return NULL;
}

bool iface_owns(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct iface_addr *addr = iface_find(stack, ip);
    return addr && addr->state == IFACE_USABLE;
}

bool iface_may_bind(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct iface_addr *addr = iface_find(stack, ip);
    return addr && exists(addr);
}

unsigned iface_common_prefix(const uint8_t a[16], const uint8_t b[16])
{
    for (unsigned i = 0; i < 16; i += 4) {
        uint32_t differing = load_be32(a + i) ^ load_be32(b + i);
        if (differing)
            return i * 8 + (unsigned)__builtin_clz(differing);
    }
    return 128;
}

bool iface_on_link(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct iface_table *table = stack->iface;
    uint8_t family = ip_is4(ip) ? AMS_IPV4 : AMS_IPV6;
    if (ipv6_is_link_local(ip))
        return true;
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        const struct iface_addr *addr = &table->addrs[i];
        if (addr->family == family && !addr->learned && iface_common_prefix(addr->ip, ip) >= addr->prefix_len)
            return true;
    }
    return family == AMS_IPV6 && router_on_link(stack, ip);
}

bool iface_is_broadcast(const struct ams_stack *stack, const uint8_t ip[16])
{
    if (!ip_is4(ip))
        return false;
    uint32_t address = load_be32(ip + 12);
    if (address == 0xffffffffu)
        return true;
    const struct iface_table *table = stack->iface;
    for (uint32_t i = 0; i < table->n_addrs; i++)
        if (table->addrs[i].broadcast == address)
            return address != 0;
    return false;
}

bool iface_in_group(const struct ams_stack *stack, const uint8_t ip[16])
{
    if (ip_is4(ip))
        return load_be32(ip + 12) == 0xe0000001u || multicast_joined(stack, ip); /* 224.0.0.1 (RFC 1112 section 4) */
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    if (ip_equal(ip, all_nodes) || multicast_joined(stack, ip))
        return true;
    const struct iface_table *table = stack->iface;
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        uint8_t group[16];
        if (table->addrs[i].family != AMS_IPV6 || !exists(&table->addrs[i]))
            continue;
        ipv6_solicited_node(group, table->addrs[i].ip);
        if (ip_equal(group, ip))
            return true;
    }
    return false;
}

bool iface_has_family(const struct ams_stack *stack, uint8_t family)
{
    const struct iface_table *table = stack->iface;
    for (uint32_t i = 0; i < table->n_addrs; i++)
        if (table->addrs[i].family == family && exists(&table->addrs[i]))
            return true;
    return false;
}

/* How well addr suits as the source for dst: RFC 6724 section 5, rules 2
 * (scope), 3 (not deprecated) and 8 (longest matching prefix), in one number. */
static unsigned source_score(const struct iface_addr *addr, const uint8_t dst[16], bool dst_link_local)
{
    unsigned matching = iface_common_prefix(addr->ip, dst);
    if (matching > addr->prefix_len)
        matching = addr->prefix_len;
    return (ipv6_is_link_local(addr->ip) == dst_link_local ? 512u : 0u) + (addr->deprecated ? 0u : 256u) + matching + 1;
}

bool iface_source(const struct ams_stack *stack, const uint8_t dst[16], uint8_t out[16])
{
    const struct iface_table *table = stack->iface;
    if (iface_owns(stack, dst)) { /* rule 1 */
        memcpy(out, dst, 16);
        return true;
    }
    uint8_t family = ip_is4(dst) ? AMS_IPV4 : AMS_IPV6;
    bool dst_link_local =
        ipv6_is_link_local(dst) || (family == AMS_IPV6 && ipv6_is_multicast(dst) && (dst[1] & 0xf) <= 2);
    const struct iface_addr *best = NULL;
    unsigned best_score = 0;
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        const struct iface_addr *addr = &table->addrs[i];
        if (addr->family != family || addr->state != IFACE_USABLE || ip_is_loopback(addr->ip))
            continue; /* a loopback address does for loopback only, and that was rule 1 */
        unsigned score = source_score(addr, dst, dst_link_local);
        if (score > best_score) {
            best = addr;
            best_score = score;
        }
    }
    if (!best)
        return false;
    /* routers would not pass it on (RFC 4291 section 2.5.6), so nobody would answer */
    if (ipv6_is_link_local(best->ip) && !dst_link_local && !ipv6_is_multicast(dst) && !iface_on_link(stack, dst))
        return false;
    memcpy(out, best->ip, 16);
    return true;
}

/* ---- life of an address ---------------------------------------------------- */

void iface_start(struct ams_stack *stack, uint64_t now)
{
    struct iface_table *table = stack->iface;
    if (stack->link_flags & STACK_LINK_QUIET)
        return;
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        struct iface_addr *addr = &table->addrs[i];
        if (addr->family == AMS_IPV6 && !ip_is_loopback(addr->ip)) {
            /* first, for switches that watch (RFC 4862 section 5.4.2) */
            uint8_t group[16];
            ipv6_solicited_node(group, addr->ip);
            addr->joined = multicast_join(stack, group, now) == 0;
        }
        addr->probed = true;
        if (addr->state == IFACE_USABLE) {
            neighbor_announce(stack, addr);
        } else {
            ndp_probe(stack, addr);
            timer_arm(&stack->wheel, &addr->timer, now + stack->retrans_ms6 * AMS_NS_PER_MS);
        }
    }
}

void iface_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    struct iface_addr *addr = AMS_CONTAINER_OF(timer, struct iface_addr, timer);
    if (addr->state != IFACE_TENTATIVE)
        return;
    if (!addr->probed) {
        iface_probe(stack, addr, now);
        return;
    }
    addr->state = IFACE_USABLE;
    neighbor_announce(stack, addr);
}

void iface_conflict(struct ams_stack *stack, struct iface_addr *addr, uint64_t now)
{
    stack->counters.dad_conflict++;
    if (addr->state == IFACE_TENTATIVE && addr->learned) {
        router_address_conflict(stack, addr, now);
        return;
    }
    if (addr->state == IFACE_TENTATIVE) {
        uint8_t group[16];
        ipv6_solicited_node(group, addr->ip);
        timer_cancel(&stack->wheel, &addr->timer);
        addr->state = IFACE_DUPLICATE;
        if (addr->joined)
            multicast_leave(stack, group, now);
        addr->joined = false;
        stack->path_generation++;
        return;
    }
    /* We had it first: say so, but don't fight (RFC 5227 section 2.4 (b)). */
    struct iface_table *table = stack->iface;
    if (addr->state != IFACE_USABLE || (table->defended_at && now < table->defended_at + DEFEND_INTERVAL))
        return;
    table->defended_at = now;
    neighbor_announce(stack, addr);
}

/* ---- configuration ----------------------------------------------------------- */

/* Return: true if a host may have this address. */
static bool is_host_address(const struct ams_ifaddr *config)
{
    const uint8_t *ip = config->address.ip;
    if (ip_is_any(ip))
        return false;
    if (config->address.family == AMS_IPV4)
        return config->prefix_len <= 32 && ip_is4(ip) && !ipv4_is_multicast(ip + 12) && !ipv4_is_broadcast(ip + 12);
    return config->address.family == AMS_IPV6 && config->prefix_len <= 128 && !ip_is4(ip) && !ipv6_is_multicast(ip);
}

/* Notes where an address is found. */
static void slot_fill(struct iface_table *table, const struct iface_addr *addr)
{
    uint32_t slot = slot_of(table, addr->ip);
    while (table->slots[slot])
        slot = (slot + 1) & table->slot_mask;
    table->slots[slot] = (uint16_t)(addr - table->addrs + 1);
}

void iface_rehash(struct iface_table *table)
{
    memset(table->slots, 0, (table->slot_mask + 1) * sizeof(*table->slots));
    for (uint32_t i = 0; i < table->n_addrs; i++)
        if (table->addrs[i].family)
            slot_fill(table, &table->addrs[i]);
}

/* Adds one address; one that is there already is left as it is. */
static void add_address(struct ams_stack *stack, const uint8_t ip[16], uint8_t family, unsigned prefix_len)
{
    struct iface_table *table = stack->iface;
    if (iface_find(stack, ip))
        return;
    struct iface_addr *addr = &table->addrs[table->n_addrs++];
    memcpy(addr->ip, ip, 16);
    addr->family = family;
    addr->prefix_len = (uint8_t)(family == AMS_IPV4 ? prefix_len + 96 : prefix_len);
    if (family == AMS_IPV4 && prefix_len < 31) /* the longer ones have none (RFC 3021 section 2.2) */
        addr->broadcast = load_be32(ip + 12) | 0xffffffffu >> prefix_len;
    addr->stack = stack;
    addr->timer.kind = STACK_TIMER_IFACE;
    bool usable = family == AMS_IPV4 || (stack->config.flags & AMS_STACK_NO_DAD) ||
                  (stack->link_flags & STACK_LINK_QUIET) || ip_is_loopback(ip);
    addr->state = usable ? IFACE_USABLE : IFACE_TENTATIVE;
    slot_fill(table, addr);
}

int iface_init(struct ams_stack *stack)
{
    const struct ams_stack_config *config = &stack->config;
    if ((config->n_addresses == 0 && !iface_autoconf(stack)) || config->n_addresses > 4096)
        return -AMS_EINVAL;
    if (iface_autoconf(stack) && stack->mtu < IP6_MIN_MTU)
        return -AMS_EINVAL;
    for (uint32_t i = 0; i < config->n_addresses; i++) {
        if (!is_host_address(&config->addresses[i]))
            return -AMS_EINVAL;
        if (config->addresses[i].address.family == AMS_IPV6 && stack->mtu < IP6_MIN_MTU)
            return -AMS_EINVAL;
    }
    uint32_t slots = 8, capacity = config->n_addresses + 1 + (iface_autoconf(stack) ? IFACE_LEARNED : 0);
    while (slots < 2 * capacity)
        slots *= 2;
    struct iface_table *table = mem_zalloc(1, sizeof(*table));
    if (!table)
        return -AMS_ENOMEM;
    stack->iface = table;
    table->slot_mask = slots - 1;
    table->capacity = capacity;
    table->addrs = mem_zalloc(capacity, sizeof(*table->addrs));
    table->slots = mem_zalloc(slots, sizeof(*table->slots));
    if (!table->addrs || !table->slots) {
        iface_fini(stack);
        return -AMS_ENOMEM;
    }
    for (uint32_t i = 0; i < config->n_addresses; i++) {
        const struct ams_ifaddr *from = &config->addresses[i];
        add_address(stack, from->address.ip, (uint8_t)from->address.family, from->prefix_len);
    }
    bool elsewhere = stack->link_flags & STACK_LINK_QUIET || config->flags & AMS_STACK_NO_LINK_LOCAL;
    if (stack->mtu >= IP6_MIN_MTU && !elsewhere) { /* RFC 4291 section 2.8: each interface has one */
        uint8_t ip[16];
        ipv6_link_local(ip, stack->mac);
        add_address(stack, ip, AMS_IPV6, 64);
    }
    if (iface_autoconf(stack))
        iface_count_claims(stack);
    return 0;
}

void iface_fini(struct ams_stack *stack)
{
    struct iface_table *table = stack->iface;
    if (!table)
        return;
    for (uint32_t i = 0; i < table->n_addrs; i++)
        timer_cancel(&stack->wheel, &table->addrs[i].timer);
    mem_free(table->addrs);
    mem_free(table->slots);
    mem_free(table);
    stack->iface = NULL;
}

int stack_addresses(const struct ams_stack *stack, struct ams_ifaddr *out, int max)
{
    const struct iface_table *table = stack->iface;
    int count = 0;
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        const struct iface_addr *addr = &table->addrs[i];
        if (!addr->family)
            continue;
        if (count < max) {
            struct ams_ifaddr *row = &out[count];
            memset(row, 0, sizeof(*row));
            memcpy(row->address.ip, addr->ip, 16);
            row->address.family = addr->family;
            row->prefix_len = addr->family == AMS_IPV4 ? addr->prefix_len - 96u : addr->prefix_len;
        }
        count++;
    }
    return count;
}
