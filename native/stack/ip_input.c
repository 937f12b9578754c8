/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ip_input.c - received IPv4 and IPv6 packets.
 *
 * Theory of operation.  A packet's header is parsed, its addresses are
 * judged, the link's padding is cut off, fragments go to reassembly, and the
 * rest goes up with a struct ip_info that says where its transport header
 * lies.  Whatever fails on the way is freed and counted.  We are a host, no
 * router: nothing is forwarded.
 */
#include <string.h>

#include "stack/multicast.h"
#include "stack/icmp.h"
#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/reass.h"
#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

/* Frees frame and counts it. */
static void drop(struct ams_frame *frame, uint64_t *counter)
{
    ++*counter;
    frame_free(frame);
}

bool ip_l4_checksum_ok(const struct ams_frame *frame, const struct ip_info *ip)
{
    if (AMS_LIKELY(frame->flags & FRAME_CSUM_OK))
        return true;
    uint64_t sum = checksum_pseudo(ip->src, ip->dst, ip->protocol, ip->l4_len);
    return checksum_fold(checksum_add(sum, frame->data + ip->l4_off, ip->l4_len)) == 0xffff;
}

/* The counter for a header that its parser refused. */
static uint64_t *verdict_counter(struct ams_stack *stack, enum wire_verdict verdict)
{
    switch (verdict) {
    case WIRE_TRUNCATED:
        return &stack->counters.ip_truncated;
    case WIRE_CHECKSUM:
        return &stack->counters.ip_bad_checksum;
    case WIRE_OK:
    case WIRE_MALFORMED:
        break;
    }
    return &stack->counters.ip_bad_header;
}

/* Judges a packet's destination and sets ip->dst_unicast.
 * Return: false if the packet is not for us. */
static bool accept_destination(const struct ams_stack *stack, struct ip_info *ip, struct ip_arrival arrival)
{
    if (AMS_LIKELY(iface_owns(stack, ip->dst))) {
        ip->dst_unicast = true;
        if (AMS_UNLIKELY(ip_is_loopback(ip->dst)))
            return arrival.looped;
        return !arrival.group; /* RFC 1122 section 3.3.6 */
    }
    if (arrival.looped && iface_may_bind(stack, ip->dst)) { /* tentative, but our own business */
        ip->dst_unicast = true;
        return true;
    }
    ip->dst_unicast = false;
    return iface_in_group(stack, ip->dst) || iface_is_broadcast(stack, ip->dst);
}

/* Our own address as the source of what came from the link: forged, unless
 * others on the link have it too (whom a switch watches). */
static bool source_forged(const struct ams_stack *stack, const struct ip_info *ip, struct ip_arrival arrival)
{
    return !arrival.looped && !(stack->link_flags & STACK_LINK_HAIRPIN) && iface_owns(stack, ip->src);
}

/* ---- IPv4 -------------------------------------------------------------------- */

void ip4_deliver(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    switch (ip->protocol) {
    case PROTO_TCP:
        if (AMS_LIKELY(ip->dst_unicast))
            tcp_input(stack, frame, ip, now);
        else /* RFC 9293 section 3.9.2.3 */
            drop(frame, &stack->counters.rx_not_for_us);
        return;
    case PROTO_UDP:
        udp_input(stack, frame, ip, now);
        return;
    case PROTO_ICMP:
        icmp_input(stack, frame, ip, now);
        return;
    case PROTO_IGMP:
        multicast_input(stack, frame, ip, now);
        frame_free(frame);
        return;
    default: /* RFC 1122 section 3.2.2.1 */
        icmp_send_error(stack, frame, ip,
                        &(struct icmp_repr){.type = ICMP4_UNREACHABLE, .code = ICMP4_CODE_PROTOCOL}, now);
        drop(frame, &stack->counters.ip_unknown_protocol);
    }
}

/* Return: false if no host may send from that address (RFC 1122 section
 * 3.2.1.3).  Bridges that ask for members of groups may have none (RFC 4541
 * section 2.1.1). */
static bool source4_valid(const struct ams_stack *stack, const struct ip_info *ip, struct ip_arrival arrival)
{
    const uint8_t *src = ip->src + 12;
    if (ip->protocol == PROTO_IGMP && load_be32(src) == 0)
        return true;
    return src[0] != 0 && src[0] < 224 && (arrival.looped || !ipv4_is_loopback(src)) &&
           !iface_is_broadcast(stack, ip->src);
}

void ip4_input(struct ams_stack *stack, struct ams_frame *frame, struct ip_arrival arrival, uint64_t now)
{
    struct ipv4_repr repr;
    const uint8_t *packet = frame->data + ETH_HEADER;
    stack->counters.ip_rx++;
    enum wire_verdict verdict = ipv4_parse(packet, frame->len - ETH_HEADER, &repr);
    if (AMS_UNLIKELY(verdict != WIRE_OK)) {
        drop(frame, verdict_counter(stack, verdict));
        return;
    }
    if (AMS_UNLIKELY(repr.header_len > IP4_HEADER)) {
        enum ipv4_options options = ipv4_check_options(packet, repr.header_len);
        if (options != IPV4_OPTIONS_PLAIN) {
            drop(frame, options == IPV4_OPTIONS_ROUTED ? &stack->counters.ip_options_dropped
                                                       : &stack->counters.ip_bad_header);
            return;
        }
    }
    struct ip_info ip = {
        .family = AMS_IPV4,
        .protocol = repr.protocol,
        .ttl = repr.ttl,
        .tos = repr.tos,
        .l3_off = ETH_HEADER,
        .l4_off = ETH_HEADER + repr.header_len,
        .l4_len = (uint32_t)repr.total_len - repr.header_len,
    };
    ip_map4(ip.src, repr.src);
    ip_map4(ip.dst, repr.dst);
    if (!accept_destination(stack, &ip, arrival)) {
        drop(frame, &stack->counters.rx_not_for_us);
        return;
    }
    if (!source4_valid(stack, &ip, arrival) || source_forged(stack, &ip, arrival)) {
        drop(frame, &stack->counters.ip_bad_header);
        return;
    }
    frame_trim(frame, ip.l4_off + ip.l4_len);
    if (AMS_UNLIKELY(repr.more_fragments || repr.frag_off))
        reass_input4(stack, frame, &ip, &repr, now);
    else
        ip4_deliver(stack, frame, &ip, now);
}

/* ---- IPv6 ---------------------------------------------------------------------- */

/* Says that a header's value was not understood (RFC 4443 section 3.4). */
static void send_problem(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint8_t code,
                         uint32_t pointer, uint64_t now)
{
    icmp_send_error(stack, frame, ip,
                    &(struct icmp_repr){.type = ICMP6_PARAMETER_PROBLEM, .code = code, .rest = pointer}, now);
}

/* Hands up what lies behind the last extension header. */
static void deliver_upper(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip,
                          uint32_t named_at, uint64_t now)
{
    switch (ip->protocol) {
    case PROTO_TCP:
        if (AMS_LIKELY(ip->dst_unicast))
            tcp_input(stack, frame, ip, now);
        else
            drop(frame, &stack->counters.rx_not_for_us);
        return;
    case PROTO_UDP:
        udp_input(stack, frame, ip, now);
        return;
    case PROTO_ICMPV6:
        icmp_input(stack, frame, ip, now);
        return;
    case PROTO_NONE: /* RFC 8200 section 4.7: nothing follows */
        frame_free(frame);
        return;
    default:
        send_problem(stack, frame, ip, ICMP6_CODE_NEXT_HEADER, named_at, now);
        drop(frame, &stack->counters.ip_unknown_protocol);
    }
}

void ip6_deliver(struct ams_stack *stack, struct ams_frame *frame, struct ip_info *ip, struct ipv6_walk walk,
                 bool reassembled, uint64_t now)
{
    const uint8_t *packet = frame->data + ip->l3_off;
    uint32_t len = frame->len - ip->l3_off;
    enum ipv6_walk_result result = ipv6_walk(packet, len, !ip->dst_unicast, &walk);
    ip->protocol = walk.next;
    ip->l4_off = ip->l3_off + walk.offset;
    ip->l4_len = len - walk.offset;
    ip->reassembled = reassembled;
    switch (result) {
    case IPV6_WALK_UPPER:
        deliver_upper(stack, frame, ip, walk.named_at, now);
        return;
    case IPV6_WALK_FRAGMENT:
        if (!reassembled) {
            reass_input6(stack, frame, ip, &walk, now);
            return;
        }
        break; /* a fragment within a fragment */
    case IPV6_WALK_REJECT:
        send_problem(stack, frame, ip, walk.error_code, walk.error_pointer, now);
        break;
    case IPV6_WALK_DROP:
        break;
    }
    drop(frame, &stack->counters.ip6_ext_dropped);
}

/* Return: false if no host may send this from that address. */
static bool source6_valid(const struct ip_info *ip, uint8_t next, struct ip_arrival arrival)
{
    if (ipv6_is_multicast(ip->src) || (ipv6_is_loopback(ip->src) && !arrival.looped) || ip_is4(ip->src))
        return false;
    return !ipv6_is_unspecified(ip->src) || next == PROTO_ICMPV6; /* RFC 4862 section 5.4.2 */
}

void ip6_input(struct ams_stack *stack, struct ams_frame *frame, struct ip_arrival arrival, uint64_t now)
{
    struct ipv6_repr repr;
    stack->counters.ip_rx++;
    enum wire_verdict verdict = ipv6_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &repr);
    if (AMS_UNLIKELY(verdict != WIRE_OK)) {
        drop(frame, verdict_counter(stack, verdict));
        return;
    }
    struct ip_info ip = {
        .family = AMS_IPV6,
        .protocol = repr.next,
        .ttl = repr.hop_limit,
        .tos = repr.traffic_class,
        .l3_off = ETH_HEADER,
        .l4_off = ETH_HEADER + IP6_HEADER,
        .l4_len = repr.payload_len,
    };
    memcpy(ip.src, repr.src, 16);
    memcpy(ip.dst, repr.dst, 16);
    /* A mapped address must not pass for the IPv4 one (RFC 4942 section 2.2). */
    if (ip_is4(ip.dst) || !accept_destination(stack, &ip, arrival)) {
        drop(frame, &stack->counters.rx_not_for_us);
        return;
    }
    if (!source6_valid(&ip, repr.next, arrival) || source_forged(stack, &ip, arrival)) {
        drop(frame, &stack->counters.ip_bad_header);
        return;
    }
    frame_trim(frame, ip.l4_off + ip.l4_len);
    if (AMS_LIKELY(repr.next == PROTO_TCP && ip.dst_unicast))
        tcp_input(stack, frame, &ip, now);
    else
        ip6_deliver(stack, frame, &ip, ipv6_walk_start(repr.next), false, now);
}
