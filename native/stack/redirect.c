/* SPDX-License-Identifier: BSD-2-Clause
 *
 * redirect.c - better first hops that routers tell of (RFC 4861 section 8,
 * RFC 792, RFC 1122 section 3.2.2.2).
 *
 * Theory of operation.  What was redirected is kept by destination in a small
 * set-associative cache, and forgotten after ten minutes, so that a wrong
 * hint heals; or as soon as the new hop does not answer (RFC 4861 section
 * 7.3.3).  Redirects for whole networks are taken for the one host that they
 * quote.
 *
 * A redirect moves traffic to whom it names, so it is heeded only if all of
 * this holds:
 *   - it is asked for: AMS_STACK_REDIRECTS4, AMS_STACK_REDIRECTS6, and the
 *     link is ours alone
 *   - it comes from the hop that packets to the destination go to now
 *   - the new hop is on the link, and not ourselves
 *   - it quotes a packet that we may have sent to the destination: of TCP by
 *     a connection, with a sequence number that is in flight, of UDP by an
 *     open endpoint (RFC 5927).  IPv4's must quote; IPv6's, whose hop limit
 *     proves that it was sent on this link, need not, but may not quote
 *     anything else
 *   - not too many came lately
 */
#include <string.h>

#include "core/alloc.h"
#include "core/seq.h"
#include "stack/icmp.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "stack/tcp.h"
#include "stack/udp.h"
#include "wire/bytes.h"
#include "wire/ipv4.h"

#define SETS 64u
#define WAYS 4u
#define LIFETIME (600 * AMS_NS_PER_S)
#define NDP_HOP_LIMIT 255
/* RFC 792: network, host, and both for a type of service. */
#define ICMP4_REDIRECT_CODES 4
/* Those that may be heeded in a row, and the time until there is one more. */
#define BURST 32u
#define TOKEN_TIME (100 * AMS_NS_PER_MS)

struct redirect {
    uint8_t dst[16];
    uint8_t next[16];
    uint64_t expires;         /* 0: the place is free */
};

struct redirect_table {
    struct ams_timer timer;   /* the earliest expiry, or before it */
    struct token_bucket heeded; /* how many may be, now */
    struct redirect entries[SETS][WAYS];
};

/* What a redirect of either family says. */
struct advice {
    uint8_t dst[16];
    uint8_t next[16];
    const uint8_t *mac;       /* of next; NULL: not told */
    const uint8_t *quoted;    /* NULL: nothing */
    size_t quoted_len;
};

/* ---- the cache ------------------------------------------------------------------- */

static struct redirect *set_of(const struct ams_stack *stack, const uint8_t dst[16])
{
    uint64_t words[2];
    memcpy(words, dst, 16);
    return stack->redirects->entries[siphash13(&stack->key, words, 2) % SETS];
}

bool redirect_next_hop(const struct ams_stack *stack, const uint8_t dst[16], uint8_t next[16])
{
    if (AMS_LIKELY(!stack->redirects))
        return false;
    const struct redirect *set = set_of(stack, dst);
    for (uint32_t way = 0; way < WAYS; way++) {
        if (set[way].expires > stack->now && ip_equal(set[way].dst, dst)) {
            memcpy(next, set[way].next, 16);
            return true;
        }
    }
    return false;
}

/* Enters what was told; the one that expires first makes room. */
static void remember(struct ams_stack *stack, const struct advice *advice, uint64_t now)
{
    struct redirect_table *table = stack->redirects;
    struct redirect *set = set_of(stack, advice->dst), *entry = &set[0];
    for (uint32_t way = 0; way < WAYS; way++) {
        if (set[way].expires && ip_equal(set[way].dst, advice->dst)) {
            entry = &set[way];
            break;
        }
        if (set[way].expires < entry->expires)
            entry = &set[way];
    }
    memcpy(entry->dst, advice->dst, 16);
    memcpy(entry->next, advice->next, 16);
    entry->expires = now + LIFETIME;
    stack->path_generation++;
    if (!timer_armed(&table->timer))
        timer_arm(&stack->wheel, &table->timer, entry->expires);
}

bool redirect_forget(struct ams_stack *stack, const uint8_t ip[16])
{
    bool found = false;
    for (uint32_t i = 0; stack->redirects && i < SETS * WAYS; i++) {
        struct redirect *entry = &stack->redirects->entries[i / WAYS][i % WAYS];
        if (entry->expires && ip_equal(entry->next, ip)) {
            entry->expires = 0;
            found = true;
        }
    }
    stack->path_generation += found;
    return found;
}

void redirect_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    uint64_t earliest = UINT64_MAX;
    for (uint32_t i = 0; i < SETS * WAYS; i++) {
        struct redirect *entry = &stack->redirects->entries[i / WAYS][i % WAYS];
        if (entry->expires && entry->expires <= now)
            entry->expires = 0;
        else if (entry->expires && entry->expires < earliest)
            earliest = entry->expires;
    }
    stack->path_generation++;
    if (earliest != UINT64_MAX)
        timer_arm(&stack->wheel, timer, earliest);
}

int redirect_list(const struct ams_stack *stack, struct ams_net_info *out, int max)
{
    int count = 0;
    for (uint32_t i = 0; stack->redirects && i < SETS * WAYS; i++) {
        const struct redirect *entry = &stack->redirects->entries[i / WAYS][i % WAYS];
        if (entry->expires <= stack->now)
            continue;
        if (count < max) {
            uint8_t family = ip_is4(entry->dst) ? AMS_IPV4 : AMS_IPV6;
            struct ams_net_info *row = &out[count];
            memset(row, 0, sizeof(*row));
            row->kind = AMS_NET_REDIRECT;
            row->flags = AMS_NET_LEARNED;
            row->address.address.family = row->via.family = family;
            row->address.prefix_len = family == AMS_IPV4 ? 32 : 128;
            memcpy(row->address.address.ip, entry->dst, 16);
            memcpy(row->via.ip, entry->next, 16);
            row->valid = entry->expires - stack->now;
        }
        count++;
    }
    return count;
}

/* ---- what is believed ---------------------------------------------------------------- */

/* Could a connection have sent this segment just now?  Its acknowledgements
 * bear snd_nxt. */
static bool tcp_sent(struct ams_stack *stack, const struct icmp_error *quote)
{
    struct tcp_flow *flow = tcp_flow_find(stack, quote->local.ip, quote->local.port, quote->remote.ip,
                                          quote->remote.port, (uint8_t)quote->local.family);
    if (!flow || flow->is_tw)
        return false;
    const struct tcp_conn *conn = tcp_conn_of(flow);
    return seq_geq(quote->seq, conn->snd_una) && seq_leq(quote->seq, conn->snd_nxt);
}

/* Is the quoted packet one of ours to that destination? */
static bool quotes_ours(struct ams_stack *stack, const struct advice *advice)
{
    struct icmp_error quote = {0};
    uint8_t protocol;
    if (!icmp_read_quoted(stack, advice->quoted, advice->quoted_len, &quote, &protocol) ||
        !ip_equal(quote.remote.ip, advice->dst))
        return false;
    if (protocol == PROTO_TCP)
        return tcp_sent(stack, &quote);
    return protocol != PROTO_UDP || udp_find(stack, &quote.local, &quote.remote);
}

/* Return: true if the advice is to be followed: the list at the head of this file. */
static bool believable(struct ams_stack *stack, const struct ip_info *ip, const struct advice *advice, uint64_t now)
{
    uint8_t hop[16];
    enum route_kind kind;
    if (!ip->dst_unicast || route_next_hop(stack, advice->dst, hop, &kind) < 0 || kind != ROUTE_UNICAST ||
        !ip_equal(hop, ip->src) || ip_equal(hop, advice->next))
        return false;
    if (iface_find(stack, advice->next) || ip_is_any(advice->next) || ip_is_loopback(advice->next))
        return false;
    return (!advice->quoted || quotes_ours(stack, advice)) &&
           bucket_take(&stack->redirects->heeded, BURST, TOKEN_TIME, now);
}

/* ---- received ---------------------------------------------------------------------------- */

/* Reads an IPv6 redirect, and checks what doesn't depend on routes (RFC 4861
 * section 8.1).  A target that isn't link-local is the destination itself. */
static bool read6(const struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                  struct advice *advice, struct router_redirect *repr)
{
    if (!(stack->config.flags & AMS_STACK_REDIRECTS6) || ip->ttl != NDP_HOP_LIMIT || ip->reassembled ||
        !ipv6_is_link_local(ip->src) ||
        router_redirect_parse(frame->data + ip->l4_off, ip->l4_len, repr) != WIRE_OK || ip_is4(repr->target) ||
        ip_is4(repr->destination))
        return false;
    memcpy(advice->dst, repr->destination, 16);
    memcpy(advice->next, repr->target, 16);
    advice->mac = repr->has_lladdr ? repr->lladdr : NULL;
    advice->quoted = repr->quoted;
    advice->quoted_len = repr->quoted_len;
    return true;
}

/* The same for IPv4: the destination is the quoted packet's. */
static bool read4(const struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                  struct advice *advice)
{
    const uint8_t *message = frame->data + ip->l4_off;
    struct ipv4_repr quoted;
    if (!(stack->config.flags & AMS_STACK_REDIRECTS4) || message[1] >= ICMP4_REDIRECT_CODES ||
        ipv4_parse_quoted(message + ICMP_HEADER, ip->l4_len - ICMP_HEADER, &quoted) != WIRE_OK)
        return false;
    ip_map4(advice->dst, quoted.dst);
    ip_map4(advice->next, message + 4);
    advice->quoted = message + ICMP_HEADER;
    advice->quoted_len = ip->l4_len - ICMP_HEADER;
    return !ipv4_is_multicast(message + 4) && !iface_is_broadcast(stack, advice->next) &&
           iface_on_link(stack, advice->next);
}

void redirect_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct router_redirect repr;
    struct advice advice = {0};
    stack->counters.redirect_rx++;
    if (!stack->redirects) {
        stack->counters.redirect_refused++;
        return;
    }
    bool read = ip->family == AMS_IPV4 ? read4(stack, frame, ip, &advice) : read6(stack, frame, ip, &advice, &repr);
    if (!read || !believable(stack, ip, &advice, now)) {
        stack->counters.redirect_refused++;
        return;
    }
    remember(stack, &advice, now);
    if (advice.mac)
        neighbor_learn(stack, advice.next, advice.mac, NEIGHBOR_ASKED, now);
}

/* ---- life cycle -------------------------------------------------------------------------- */

int redirect_init(struct ams_stack *stack)
{
    if (!(stack->config.flags & (AMS_STACK_REDIRECTS4 | AMS_STACK_REDIRECTS6)) ||
        stack->link_flags & STACK_LINK_QUIET)
        return 0;
    stack->redirects = mem_zalloc(1, sizeof(*stack->redirects));
    if (!stack->redirects)
        return -AMS_ENOMEM;
    stack->redirects->timer.kind = STACK_TIMER_REDIRECT;
    bucket_init(&stack->redirects->heeded, BURST, stack->now);
    return 0;
}

void redirect_fini(struct ams_stack *stack)
{
    if (!stack->redirects)
        return;
    timer_cancel(&stack->wheel, &stack->redirects->timer);
    mem_free(stack->redirects);
    stack->redirects = NULL;
}

uint64_t redirect_memory(const struct ams_stack *stack)
{
    return stack->redirects ? sizeof(*stack->redirects) : 0;
}
