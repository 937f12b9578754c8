/* SPDX-License-Identifier: BSD-2-Clause
 *
 * neighbor_ndp.c - neighbour discovery (RFC 4861) and duplicate address
 * detection (RFC 4862) over the neighbour cache.
 *
 * Messages are built with their Ethernet header at once: their destinations
 * are groups and senders that just told their MAC, so none of them needs a
 * path.  Router advertisements are router.c's, redirects redirect.c's.
 */
#include <string.h>

#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/checksum.h"
#include "wire/ipv6.h"
#include "wire/ndp.h"

#define NDP_HOP_LIMIT 255

/* The longest of the messages. */
#define MESSAGE_MAX NDP_LENGTH_LLADDR

/* Frames and queues one message of ICMPv6, whose checksum it sets.
 * @dst_mac: NULL for a group: made from dst */
static void message_send(struct ams_stack *stack, const uint8_t src[16], const uint8_t dst[16], const uint8_t *dst_mac,
                         const uint8_t *bytes, uint32_t len)
{
    struct ams_frame *frame = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!frame) {
        stack->counters.no_memory++;
        return;
    }
    struct eth_repr eth = {.dst = {0x33, 0x33}, .type = ETHERTYPE_IPV6};
    if (dst_mac)
        memcpy(eth.dst, dst_mac, ETH_ADDR);
    else
        memcpy(eth.dst + 2, dst + 12, 4);
    memcpy(eth.src, stack->mac, ETH_ADDR);
    eth_emit(frame->data, &eth);

    uint8_t *message = frame->data + ETH_HEADER + IP6_HEADER;
    memcpy(message, bytes, len);
    uint64_t sum = checksum_pseudo(src, dst, PROTO_ICMPV6, len);
    store_be16(message + ICMP_CHECKSUM_AT, checksum_finish(checksum_add(sum, message, len)));

    struct ipv6_repr ip = {.payload_len = (uint16_t)len, .next = PROTO_ICMPV6, .hop_limit = NDP_HOP_LIMIT};
    memcpy(ip.src, src, 16);
    memcpy(ip.dst, dst, 16);
    ipv6_emit(frame->data + ETH_HEADER, &ip);
    frame->len = ETH_HEADER + IP6_HEADER + len;
    stack->counters.ndp_tx++;
    stack_enqueue(stack, frame);
}

static void ndp_send(struct ams_stack *stack, const uint8_t src[16], const uint8_t dst[16], const uint8_t *dst_mac,
                     const struct ndp_repr *ndp)
{
    uint8_t message[MESSAGE_MAX];
    message_send(stack, src, dst, dst_mac, message, ndp_emit(message, ndp));
}

void ndp_router_solicit(struct ams_stack *stack)
{
    static const uint8_t all_routers[16] = {0xff, 0x02, [15] = 2};
    uint8_t message[MESSAGE_MAX], source[16];
    bool named = iface_source(stack, all_routers, source) && ipv6_is_link_local(source);
    if (!named)
        memset(source, 0, 16);
    message_send(stack, source, all_routers, NULL, message, router_solicit_emit(message, named ? stack->mac : NULL));
}

void ndp_solicit(struct ams_stack *stack, const struct neighbor *neighbor, bool unicast)
{
    uint8_t source[16], group[16];
    if (!iface_source(stack, neighbor->ip, source))
        return;
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_SOLICIT, .has_lladdr = true};
    memcpy(ndp.target, neighbor->ip, 16);
    memcpy(ndp.lladdr, stack->mac, ETH_ADDR);
    if (unicast) {
        ndp_send(stack, source, neighbor->ip, neighbor->header, &ndp);
        return;
    }
    ipv6_solicited_node(group, neighbor->ip);
    ndp_send(stack, source, group, NULL, &ndp);
}

void ndp_probe(struct ams_stack *stack, const struct iface_addr *addr)
{
    static const uint8_t unspecified[16];
    uint8_t group[16];
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_SOLICIT};
    memcpy(ndp.target, addr->ip, 16);
    ipv6_solicited_node(group, addr->ip);
    ndp_send(stack, unspecified, group, NULL, &ndp);
}

/* Advertises an address of ours.
 * @dst: to whom; NULL: to all nodes
 * @dst_mac: with dst: its MAC */
static void ndp_advertise(struct ams_stack *stack, const uint8_t address[16], const uint8_t *dst,
                          const uint8_t *dst_mac)
{
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .flags = NDP_OVERRIDE, .has_lladdr = true};
    if (dst)
        ndp.flags |= NDP_SOLICITED;
    memcpy(ndp.target, address, 16);
    memcpy(ndp.lladdr, stack->mac, ETH_ADDR);
    ndp_send(stack, address, dst ? dst : all_nodes, dst ? dst_mac : NULL, &ndp);
}

void ndp_announce(struct ams_stack *stack, const struct iface_addr *addr)
{
    ndp_advertise(stack, addr->ip, NULL, NULL);
}

/* ---- received ----------------------------------------------------------------- */

/* A solicitation (RFC 4861 section 7.2.3, RFC 4862 section 5.4.3).
 * Return: false if it is not valid. */
static bool solicitation(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                         const struct ndp_repr *ndp, uint64_t now)
{
    bool probing = ipv6_is_unspecified(ip->src);
    if (probing && (ndp->has_lladdr || !ipv6_is_multicast(ip->dst)))
        return false; /* RFC 4861 section 7.1.1 */
    struct iface_addr *addr = iface_find(stack, ndp->target);
    if (!addr || addr->state == IFACE_DUPLICATE || ip_is_loopback(addr->ip))
        return true;
    if (addr->state == IFACE_TENTATIVE) {
        if (probing) /* two nodes want it: neither gets it */
            iface_conflict(stack, addr, now);
        return true;
    }
    if (probing) {
        ndp_advertise(stack, addr->ip, NULL, NULL);
        return true;
    }
    const uint8_t *mac = ndp->has_lladdr ? ndp->lladdr : frame->data + ETH_ADDR;
    if (!eth_is_station(mac))
        return false;
    if (ndp->has_lladdr)
        neighbor_learn(stack, ip->src, mac, iface_on_link(stack, ip->src) ? NEIGHBOR_ASKED : NEIGHBOR_OVERHEARD, now);
    ndp_advertise(stack, addr->ip, ip->src, mac);
    return true;
}

/* An advertisement (RFC 4861 section 7.2.5).
 * Return: false if it is not valid. */
static bool advertisement(struct ams_stack *stack, const struct ip_info *ip, const struct ndp_repr *ndp, uint64_t now)
{
    bool solicited = ndp->flags & NDP_SOLICITED;
    if (solicited && ipv6_is_multicast(ip->dst))
        return false; /* RFC 4861 section 7.1.2 */
    struct iface_addr *ours = iface_find(stack, ndp->target);
    if (ours) {
        iface_conflict(stack, ours, now);
        return true;
    }
    if (!(ndp->flags & NDP_ROUTER))
        router_resigned(stack, ndp->target, now);
    struct neighbor *neighbor = neighbor_find(stack, ndp->target);
    if (!neighbor || neighbor->kind != ROUTE_UNICAST)
        return true;
    bool known = neighbor->state >= NEIGHBOR_REACHABLE;
    if (!ndp->has_lladdr) {
        if (known && solicited) { /* unicast solicitations are answered so */
            neighbor_reachable(neighbor, now);
            router_answered(stack, ndp->target);
        }
        return true;
    }
    if (known && !(ndp->flags & NDP_OVERRIDE) && !eth_equal(neighbor->header, ndp->lladdr)) {
        /* another MAC, but not to be believed over ours: check ours soon */
        if (neighbor->state == NEIGHBOR_REACHABLE)
            neighbor->usable_until = 0;
        return true;
    }
    neighbor_learn(stack, ndp->target, ndp->lladdr, solicited ? NEIGHBOR_ANSWERED : NEIGHBOR_OVERHEARD, now);
    return true;
}

void ndp_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct ndp_repr ndp;
    bool valid = false;
    stack->counters.ndp_rx++;
    /* A hop limit of 255 proves that no router forwarded it; RFC 6980 section 5: no fragments. */
    if (ip->ttl == NDP_HOP_LIMIT && !ip->reassembled && ndp_parse(frame->data + ip->l4_off, ip->l4_len, &ndp) == WIRE_OK) {
        if (ndp.type == ICMP6_NEIGHBOR_SOLICIT)
            valid = solicitation(stack, frame, ip, &ndp, now);
        else
            valid = advertisement(stack, ip, &ndp, now);
    }
    if (!valid)
        stack->counters.ndp_bad++;
}
