/* SPDX-License-Identifier: BSD-2-Clause
 *
 * multicast.c - multicast groups, and the hosts' part of IGMP (RFC 2236, RFC
 * 3376) and MLD (RFC 2710, RFC 3810), without source filters.
 *
 * Theory of operation.  A group is joined by as many users as want it:
 * sockets, and for solicited-node groups our own addresses.  Routers, and
 * switches that listen in, learn of the first join and the last leave by a
 * report that is sent ROBUSTNESS times, since it may get lost; a group that
 * was left stays in the table until all of them are out.  Queries are
 * answered after a random time, so that the hosts of a link don't all speak
 * at once.  While an old router is about, reports are in its language (RFC
 * 3376 section 7.2.1, RFC 3810 section 8.2.1).
 *
 * A group has one timer for all of that.  All nodes, and what doesn't leave
 * this host, are no groups that anybody is told about.
 *
 * Messages are built with their Ethernet header at once, as those of
 * neighbour discovery are.  They carry a Router Alert (RFC 2113, RFC 2711)
 * and go no further than this link.
 */
#include "stack/multicast.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/iface.h"
#include "wire/checksum.h"
#include "wire/eth.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"
#include "wire/membership.h"

#define BUCKETS 64u
#define ROBUSTNESS 2u
#define UNSOLICITED_INTERVAL AMS_NS_PER_S             /* RFC 3376 section 8.11, RFC 3810 section 9.11 */
#define OLD_ROUTER_PRESENT (260 * AMS_NS_PER_S)       /* RFC 3376 section 8.12: twice 125 s, and 10 s */
#define IP4_ALERT_HEADER 24u
#define IP6_ALERT_HEADER 8u

struct group {
    struct group *next;       /* in its bucket */
    struct ams_stack *stack;
    uint8_t ip[16];
    uint32_t users;           /* 0: left, and not all reports of it are out */
    uint8_t reports;          /* how often the change is still to be told */
    bool asked;               /* a query waits for an answer */
    struct ams_timer timer;
};

struct multicast_table {
    struct group *buckets[BUCKETS];
    uint32_t count;
    uint64_t old_router_until[2]; /* IPv4, IPv6 */
};

/* ---- table ------------------------------------------------------------------ */

static struct group **bucket_of(const struct ams_stack *stack, const uint8_t ip[16])
{
    return &stack->groups->buckets[(ip[15] ^ ip[14] ^ ip[1]) % BUCKETS];
}

static struct group *find(const struct ams_stack *stack, const uint8_t ip[16])
{
    for (struct group *group = *bucket_of(stack, ip); group; group = group->next)
        if (ip_equal(group->ip, ip))
            return group;
    return NULL;
}

bool multicast_joined(const struct ams_stack *stack, const uint8_t ip[16])
{
    const struct group *group = find(stack, ip);
    return group && group->users;
}

static void forget(struct ams_stack *stack, struct group *group)
{
    struct group **link = bucket_of(stack, group->ip);
    while (*link != group)
        link = &(*link)->next;
    *link = group->next;
    timer_cancel(&stack->wheel, &group->timer);
    stack->groups->count--;
    mem_free(group);
}

static bool is_group(const uint8_t ip[16])
{
    return ip_is4(ip) ? ipv4_is_multicast(ip + 12) : ipv6_is_multicast(ip);
}

/* True if routers are told of a group (RFC 3376 section 5, RFC 3810 section 6). */
static bool is_reported(const struct ams_stack *stack, const uint8_t ip[16])
{
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    if (stack->link_flags & STACK_LINK_QUIET || stack->config.flags & AMS_STACK_NO_REPORTS)
        return false;
    if (ip_is4(ip))
        return load_be32(ip + 12) != 0xe0000001u;
    return (ip[1] & 0xf) > 1 && !ip_equal(ip, all_nodes);
}

/* ---- messages ------------------------------------------------------------------- */

/* Where a report goes: to the routers that understand it, or to the group. */
static void report_target(uint8_t out[16], const uint8_t group[16], enum membership_record record, bool old)
{
    static const uint8_t all_igmp3[4] = {224, 0, 0, 22}, all_routers[4] = {224, 0, 0, 2};
    memcpy(out, group, 16);
    if (old && record != MEMBERSHIP_TO_INCLUDE)
        return;
    if (ip_is4(group)) {
        ip_map4(out, old ? all_routers : all_igmp3);
        return;
    }
    memset(out, 0, 16);
    out[0] = 0xff;
    out[1] = 2;
    out[15] = old ? 2 : 0x16;
}

/* Writes an IPv4 header with Router Alert.  Return: its length. */
static uint32_t emit_ip4(uint8_t *out, const uint8_t src[16], const uint8_t dst[16], uint32_t len)
{
    struct ipv4_repr ip = {.ttl = 1, .protocol = PROTO_IGMP, .total_len = (uint16_t)(IP4_ALERT_HEADER + len), .tos = 0xc0,
                           .dont_fragment = true};
    memcpy(ip.src, src + 12, 4);
    memcpy(ip.dst, dst + 12, 4);
    ipv4_emit(out, &ip);
    out[0] = 0x40 | IP4_ALERT_HEADER / 4;
    store_be32(out + IP4_HEADER, 0x94040000u);
    ipv4_update_checksum(out, IP4_ALERT_HEADER);
    return IP4_ALERT_HEADER;
}

/* The same for IPv6, in a hop-by-hop header. */
static uint32_t emit_ip6(uint8_t *out, const uint8_t src[16], const uint8_t dst[16], uint32_t len)
{
    static const uint8_t alert[IP6_ALERT_HEADER] = {PROTO_ICMPV6, 0, 5, 2, 0, 0, 1, 0};
    struct ipv6_repr ip = {.payload_len = (uint16_t)(IP6_ALERT_HEADER + len), .next = PROTO_HOPOPTS, .hop_limit = 1};
    memcpy(ip.src, src, 16);
    memcpy(ip.dst, dst, 16);
    ipv6_emit(out, &ip);
    memcpy(out + IP6_HEADER, alert, sizeof(alert));
    return IP6_HEADER + IP6_ALERT_HEADER;
}

/* Whom a report is from.  MLD's is from the link-local address, or from the
 * unspecified one while that is not usable (RFC 3810 section 5.2.13); an
 * IGMP report waits for there to be an address.  Return: false without one. */
static bool report_source(const struct ams_stack *stack, const uint8_t target[16], uint8_t src[16])
{
    static const uint8_t on_link[16] = {0xff, 0x02, [15] = 0x16};
    if (ip_is4(target))
        return iface_source(stack, target, src);
    if (!iface_source(stack, on_link, src) || !ipv6_is_link_local(src))
        memset(src, 0, 16);
    return true;
}

/* Reports a group, in the language of the oldest router about. */
static void send_report(struct ams_stack *stack, const uint8_t group[16], enum membership_record record, uint64_t now)
{
    uint8_t src[16], dst[16], message[MEMBERSHIP_LENGTH_MAX];
    bool ipv4 = ip_is4(group), old = now < stack->groups->old_router_until[!ipv4];
    report_target(dst, group, record, old);
    if (!report_source(stack, dst, src))
        return;
    struct ams_frame *frame = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!frame) {
        stack->counters.no_memory++;
        return;
    }
    struct eth_repr eth = {.dst = {0x33, 0x33, dst[12], dst[13], dst[14], dst[15]}, .type = ETHERTYPE_IPV6};
    if (ipv4) {
        eth = (struct eth_repr){.dst = {1, 0, 0x5e, dst[13] & 0x7f, dst[14], dst[15]}, .type = ETHERTYPE_IPV4};
    }
    memcpy(eth.src, stack->mac, ETH_ADDR);
    eth_emit(frame->data, &eth);
    uint32_t len = membership_emit(message, group, record, old);
    uint64_t sum = ipv4 ? 0 : checksum_pseudo(src, dst, PROTO_ICMPV6, len);
    store_be16(message + MEMBERSHIP_CHECKSUM_AT, checksum_finish(checksum_add(sum, message, len)));
    uint8_t *ip = frame->data + ETH_HEADER;
    uint32_t header = ipv4 ? emit_ip4(ip, src, dst, len) : emit_ip6(ip, src, dst, len);
    memcpy(ip + header, message, len);
    frame->len = ETH_HEADER + header + len;
    stack->counters.group_report_tx++;
    stack_enqueue(stack, frame);
}

/* ---- life of a group --------------------------------------------------------------- */

/* A random time up to `most`, as RFC 3376 section 5.2 and RFC 3810 section 6.2 want. */
static uint64_t random_delay(struct ams_stack *stack, uint64_t most)
{
    return rng_below(&stack->rng, (uint32_t)ams_min_u64(most / AMS_NS_PER_MS, 0x7fffffff) + 1) * AMS_NS_PER_MS;
}

/* Tells of a change once, and arms the timer for the next time. */
static void tell_change(struct ams_stack *stack, struct group *group, uint64_t now)
{
    group->reports--;
    send_report(stack, group->ip, group->users ? MEMBERSHIP_TO_EXCLUDE : MEMBERSHIP_TO_INCLUDE, now);
    if (group->reports)
        timer_arm(&stack->wheel, &group->timer, now + random_delay(stack, UNSOLICITED_INTERVAL));
}

void multicast_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    struct group *group = AMS_CONTAINER_OF(timer, struct group, timer);
    if (group->asked && group->users)
        send_report(stack, group->ip, MEMBERSHIP_IS_EXCLUDE, now);
    group->asked = false;
    if (group->reports)
        tell_change(stack, group, now);
    if (!group->users && !group->reports)
        forget(stack, group);
}

int multicast_join(struct ams_stack *stack, const uint8_t ip[16], uint64_t now)
{
    struct multicast_table *table = stack->groups;
    struct group *group = find(stack, ip);
    if (!is_group(ip))
        return -AMS_EINVAL;
    if (!group) {
        if (table->count >= MULTICAST_LIMIT)
            return -AMS_ENOBUFS;
        group = mem_zalloc(1, sizeof(*group));
        if (!group)
            return -AMS_ENOMEM;
        memcpy(group->ip, ip, 16);
        group->stack = stack;
        group->timer.kind = STACK_TIMER_MULTICAST;
        group->next = *bucket_of(stack, ip);
        *bucket_of(stack, ip) = group;
        table->count++;
    }
    if (group->users++ == 0 && is_reported(stack, ip)) {
        group->reports = ROBUSTNESS;
        tell_change(stack, group, now);
    }
    return 0;
}

void multicast_leave(struct ams_stack *stack, const uint8_t ip[16], uint64_t now)
{
    struct group *group = find(stack, ip);
    if (!group || !group->users || --group->users)
        return;
    group->asked = false;
    group->reports = 0;
    if (!is_reported(stack, ip)) {
        forget(stack, group);
        return;
    }
    group->reports = ROBUSTNESS;
    tell_change(stack, group, now);
}

/* ---- queries -------------------------------------------------------------------------- */

/* Answers for one group, soon; an answer that is due earlier does for both
 * (RFC 3810 section 6.2). */
static void answer_later(struct ams_stack *stack, struct group *group, uint64_t most, uint64_t now)
{
    uint64_t at = now + random_delay(stack, most);
    if (!group->users || !is_reported(stack, group->ip))
        return;
    group->asked = true;
    if (!timer_armed(&group->timer) || at < group->timer.expires)
        timer_arm(&stack->wheel, &group->timer, at);
}

/* Did a router on this link send it (RFC 3810 section 6.2; RFC 3376 section 9)?
 * The checksum of an MLD message was verified on its way here. */
static bool query_valid(const struct ams_frame *frame, const struct ip_info *ip)
{
    if (ip->family == AMS_IPV6)
        return ip->ttl == 1 && ipv6_is_link_local(ip->src);
    return ip->ttl == 1 && checksum_fold(checksum_add(0, frame->data + ip->l4_off, ip->l4_len)) == 0xffff;
}

void multicast_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct membership_query query;
    struct multicast_table *table = stack->groups;
    bool ipv4 = ip->family == AMS_IPV4;
    if (membership_parse(frame->data + ip->l4_off, ip->l4_len, ipv4, &query) != WIRE_OK || !query_valid(frame, ip) ||
        (!query.any && !is_group(query.group)))
        return; /* reports of others among them */
    stack->counters.group_query_rx++;
    if (query.old)
        table->old_router_until[!ipv4] = now + OLD_ROUTER_PRESENT;
    if (!query.any) {
        struct group *group = find(stack, query.group);
        if (group)
            answer_later(stack, group, query.max_response, now);
        return;
    }
    for (uint32_t i = 0; i < BUCKETS; i++)
        for (struct group *group = table->buckets[i]; group; group = group->next)
            if ((ip_is4(group->ip) != 0) == ipv4)
                answer_later(stack, group, query.max_response, now);
}

/* ---- life cycle ------------------------------------------------------------------------- */

int multicast_init(struct ams_stack *stack)
{
    stack->groups = mem_zalloc(1, sizeof(*stack->groups));
    return stack->groups ? 0 : -AMS_ENOMEM;
}

void multicast_fini(struct ams_stack *stack)
{
    if (!stack->groups)
        return;
    for (uint32_t i = 0; i < BUCKETS; i++)
        while (stack->groups->buckets[i])
            forget(stack, stack->groups->buckets[i]);
    mem_free(stack->groups);
    stack->groups = NULL;
}

uint64_t multicast_memory(const struct ams_stack *stack)
{
    return sizeof(*stack->groups) + stack->groups->count * sizeof(struct group);
}
