/* SPDX-License-Identifier: BSD-2-Clause
 *
 * icmp.c - ICMP and ICMPv6: echo, errors in, errors out.
 *
 * Theory of operation.  Echo requests are answered with their own payload,
 * whatever its size.  Errors that others report are reduced to a status, and
 * go to the protocol whose packet they quote; believing them is up to that
 * protocol (RFC 5927).  Errors that we report obey the lists of RFC 1122
 * section 3.2.2 and RFC 4443 section 2.4 (e), and a token bucket for all of
 * them together (RFC 4443 section 2.4 (f)).
 */
#include "stack/icmp.h"

#include <string.h>

#include "stack/multicast.h"
#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/neighbor.h"
#include "stack/router.h"
#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

/* One token per millisecond, up to ICMP_BURST. */
#define TOKEN_TIME AMS_NS_PER_MS
/* What an error may quote: RFC 1812 section 4.3.2.3, RFC 4443 section 3. */
#define QUOTE_MAX4 (IP4_MIN_MTU - IP4_HEADER - ICMP_HEADER)
#define QUOTE_MAX6 (IP6_MIN_MTU - IP6_HEADER - ICMP_HEADER)

/* ---- errors to us ------------------------------------------------------------- */

/* What an IPv4 error means (RFC 1122 sections 3.2.2.1 and 4.2.3.9).
 * Return: false if it is none that anybody needs to know. */
static bool meaning4(const struct icmp_repr *icmp, struct icmp_error *error)
{
    static const struct {
        int8_t status;
        bool hard;
    } unreachable[] = {
        {AMS_ENETUNREACH, false},  {AMS_EHOSTUNREACH, false}, {AMS_ENOPROTOOPT, true},  {AMS_ECONNREFUSED, true},
        {AMS_EMSGSIZE, false},     {AMS_EOPNOTSUPP, false},   {AMS_ENETUNREACH, false}, {AMS_EHOSTUNREACH, false},
        {AMS_EHOSTUNREACH, false}, {AMS_EACCES, false},       {AMS_EACCES, false},      {AMS_ENETUNREACH, false},
        {AMS_EHOSTUNREACH, false}, {AMS_EACCES, false},       {AMS_EHOSTUNREACH, false}, {AMS_EHOSTUNREACH, false},
    };
    switch (icmp->type) {
    case ICMP4_UNREACHABLE:
        if (icmp->code >= AMS_ARRAY_SIZE(unreachable))
            return false;
        error->status = -unreachable[icmp->code].status;
        error->hard = unreachable[icmp->code].hard;
        if (icmp->code == ICMP4_CODE_FRAGMENTATION)
            error->mtu = icmp->rest & 0xffff; /* RFC 1191 section 4 */
        return true;
    case ICMP4_TIME_EXCEEDED:
        error->status = -AMS_EHOSTUNREACH;
        return true;
    case ICMP4_PARAMETER_PROBLEM:
        error->status = -AMS_EPROTO;
        return true;
    default: /* source quench is to be ignored (RFC 6633) */
        return false;
    }
}

/* What an IPv6 error means (RFC 4443 section 3). */
static bool meaning6(const struct icmp_repr *icmp, struct icmp_error *error)
{
    switch (icmp->type) {
    case ICMP6_UNREACHABLE:
        error->hard = icmp->code == ICMP6_CODE_PORT;
        if (icmp->code == ICMP6_CODE_PORT)
            error->status = -AMS_ECONNREFUSED;
        else if (icmp->code == ICMP6_CODE_NO_ROUTE)
            error->status = -AMS_ENETUNREACH;
        else if (icmp->code == ICMP6_CODE_ADDRESS || icmp->code == ICMP6_CODE_SCOPE)
            error->status = -AMS_EHOSTUNREACH;
        else
            error->status = -AMS_EACCES;
        return true;
    case ICMP6_TOO_BIG:
        error->status = -AMS_EMSGSIZE;
        error->mtu = icmp->rest;
        return true;
    case ICMP6_TIME_EXCEEDED:
        error->status = -AMS_EHOSTUNREACH;
        return true;
    case ICMP6_PARAMETER_PROBLEM:
        error->status = icmp->code == ICMP6_CODE_NEXT_HEADER ? -AMS_ENOPROTOOPT : -AMS_EPROTO;
        error->hard = icmp->code == ICMP6_CODE_NEXT_HEADER;
        return true;
    default:
        return false;
    }
}

/* The next smaller size that links have, for routers that don't tell theirs
 * (RFC 1191 section 7.1). */
static uint32_t plateau_below(uint32_t size)
{
    static const uint16_t plateaus[] = {32000, 17914, 8166, 4352, 2002, 1492, 1006};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(plateaus); i++)
        if (plateaus[i] < size)
            return plateaus[i];
    return IP4_MIN_MTU;
}

/* Where a quoted packet's transport header lies. */
struct quoted {
    uint8_t protocol;
    uint32_t l4_off;
    uint32_t total_len;
};

/* Parses a quoted IPv4 packet.  Return: false if it cannot be told whose it is. */
static bool quoted4(const uint8_t *packet, size_t len, struct icmp_error *error, struct quoted *quoted)
{
    struct ipv4_repr repr;
    if (ipv4_parse_quoted(packet, len, &repr) != WIRE_OK || repr.frag_off)
        return false;
    ip_map4(error->local.ip, repr.src);
    ip_map4(error->remote.ip, repr.dst);
    error->local.family = error->remote.family = AMS_IPV4;
    *quoted = (struct quoted){repr.protocol, repr.header_len, repr.total_len};
    return true;
}

/* The same for IPv6. */
static bool quoted6(const uint8_t *packet, size_t len, struct icmp_error *error, struct quoted *quoted)
{
    struct ipv6_repr repr;
    if (ipv6_parse_quoted(packet, len, &repr) != WIRE_OK)
        return false;
    struct ipv6_walk walk = ipv6_walk_start(repr.next);
    enum ipv6_walk_result result = ipv6_walk(packet, len, true, &walk);
    if (result == IPV6_WALK_FRAGMENT) {
        struct ipv6_fragment fragment;
        if (ipv6_fragment_parse(packet + walk.offset, len - walk.offset, &fragment) != WIRE_OK || fragment.offset)
            return false;
        walk.next = fragment.next;
        walk.offset += IP6_FRAGMENT_HEADER;
    } else if (result != IPV6_WALK_UPPER) {
        return false;
    }
    memcpy(error->local.ip, repr.src, 16);
    memcpy(error->remote.ip, repr.dst, 16);
    error->local.family = error->remote.family = AMS_IPV6;
    *quoted = (struct quoted){walk.next, walk.offset, IP6_HEADER + repr.payload_len};
    return true;
}

/* Fills in what a quoted packet tells: addresses, ports, sequence number.
 * Return: false if it is none that we have sent. */
static bool read_quoted(const struct ams_stack *stack, const uint8_t *packet, size_t len, struct icmp_error *error,
                        struct quoted *quoted)
{
    bool ipv4 = len > 0 && packet[0] >> 4 == 4;
    bool understood = ipv4 ? quoted4(packet, len, error, quoted) : quoted6(packet, len, error, quoted);
    /* RFC 792 promises eight bytes of the transport header. */
    if (!understood || quoted->l4_off + 8 > len || !iface_find(stack, error->local.ip))
        return false;
    const uint8_t *l4 = packet + quoted->l4_off;
    error->local.port = load_be16(l4);
    error->remote.port = load_be16(l4 + 2);
    error->seq = load_be32(l4 + 4);
    return true;
}

bool icmp_read_quoted(const struct ams_stack *stack, const uint8_t *packet, size_t len, struct icmp_error *quote,
                      uint8_t *protocol)
{
    struct quoted quoted;
    if (!read_quoted(stack, packet, len, quote, &quoted))
        return false;
    *protocol = quoted.protocol;
    return true;
}

void icmp_report(struct ams_stack *stack, const uint8_t *packet, size_t len, struct icmp_error *error, uint64_t now)
{
    struct icmp_error full = *error;
    struct quoted quoted;
    if (!read_quoted(stack, packet, len, &full, &quoted)) {
        stack->counters.icmp_bad++;
        return;
    }
    if (full.status == -AMS_EMSGSIZE && full.mtu == 0)
        full.mtu = plateau_below(quoted.total_len);
    if (quoted.protocol == PROTO_TCP) {
        tcp_icmp_error(stack, &full, now);
    } else if (quoted.protocol == PROTO_UDP) {
        udp_icmp_error(stack, &full, now);
    }
}

/* ---- errors from us ------------------------------------------------------------- */

/* Return: false if too many errors were sent lately. */
static bool within_rate(struct ams_stack *stack, uint64_t now)
{
    bool within = bucket_take(&stack->icmp_errors, ICMP_BURST, TOKEN_TIME, now);
    stack->counters.icmp_rate_limited += !within;
    return within;
}

/* True for ICMP messages that must not be answered by an error. */
static bool quotes_error(const struct ams_frame *frame, const struct ip_info *ip)
{
    if (ip->protocol != PROTO_ICMP && ip->protocol != PROTO_ICMPV6)
        return false;
    if (ip->l4_len == 0)
        return true;
    uint8_t type = frame->data[ip->l4_off];
    if (ip->protocol == PROTO_ICMPV6)
        return type < 128 || type == ICMP6_REDIRECT;
    return type == ICMP4_UNREACHABLE || type == ICMP4_SOURCE_QUENCH || type == ICMP4_REDIRECT ||
           type == ICMP4_TIME_EXCEEDED || type == ICMP4_PARAMETER_PROBLEM;
}

/* Return: true if an error about that packet may be sent. */
static bool may_complain(const struct ams_frame *frame, const struct ip_info *ip, const struct icmp_repr *icmp)
{
    if (quotes_error(frame, ip) || frame->data[0] & 1)
        return false;
    if (ip->family == AMS_IPV4)
        return ip->dst_unicast;
    if (ipv6_is_unspecified(ip->src))
        return false;
    bool about_option = icmp->type == ICMP6_PARAMETER_PROBLEM && icmp->code == 2;
    return ip->dst_unicast || about_option; /* RFC 4443 section 2.4 (e.3) */
}

void icmp_send_error(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                     const struct icmp_repr *icmp, uint64_t now)
{
    uint8_t src[16];
    if (!may_complain(frame, ip, icmp) || !within_rate(stack, now))
        return;
    memcpy(src, ip->dst, 16);
    if (!ip->dst_unicast && !iface_source(stack, ip->src, src))
        return;
    struct ams_frame *out = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!out) {
        stack->counters.no_memory++;
        return;
    }
    uint32_t quote = ams_min_u32(frame->len - ip->l3_off, ip->family == AMS_IPV4 ? QUOTE_MAX4 : QUOTE_MAX6);
    out->data += ip_headroom(ip->family);
    icmp_emit(out->data, icmp);
    memcpy(out->data + ICMP_HEADER, frame->data + ip->l3_off, quote);
    out->len = ICMP_HEADER + quote;
    stack->counters.icmp_error_tx++;
    struct ip_path path = {0};
    struct ip_send send = {
        .src = src,
        .dst = ip->src,
        .protocol = ip->family == AMS_IPV4 ? PROTO_ICMP : PROTO_ICMPV6,
        .csum_offset = ICMP_CHECKSUM_AT,
        .fragmentable = true,
    };
    ip_send(stack, &path, out, &send, now);
}

void icmp_send_unreachable(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                           uint64_t now)
{
    struct icmp_repr icmp4 = {.type = ICMP4_UNREACHABLE, .code = ICMP4_CODE_PORT};
    struct icmp_repr icmp6 = {.type = ICMP6_UNREACHABLE, .code = ICMP6_CODE_PORT};
    icmp_send_error(stack, frame, ip, ip->family == AMS_IPV4 ? &icmp4 : &icmp6, now);
}

/* ---- echo -------------------------------------------------------------------------- */

/* Answers an echo request (RFC 1122 section 3.2.2.6, RFC 4443 section 4.2). */
static void echo_reply(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    uint8_t src[16];
    bool ipv4 = ip->family == AMS_IPV4;
    memcpy(src, ip->dst, 16);
    if (!ip->dst_unicast) {
        /* Broadcast pings make amplifiers (RFC 2644); IPv6 groups are ours to answer. */
        if (ipv4 || ipv6_is_unspecified(ip->src) || !iface_source(stack, ip->src, src))
            return;
    }
    uint32_t headroom = ip_headroom(ip->family);
    bool small = headroom + ip->l4_len <= FRAME_SMALL - FRAME_HEADROOM;
    struct ams_frame *out = frame_new(stack->pool, small ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE);
    if (!out) {
        stack->counters.no_memory++;
        return;
    }
    out->data += headroom;
    out->len = ip->l4_len;
    memcpy(out->data, frame->data + ip->l4_off, ip->l4_len);
    out->data[0] = ipv4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;
    stack->counters.icmp_echo++;
    struct ip_path path = {0};
    struct ip_send send = {
        .src = src,
        .dst = ip->src,
        .protocol = ip->protocol,
        .class_.tos = ip->tos & (uint8_t)~IP_ECN_MASK,
        .csum_offset = ICMP_CHECKSUM_AT,
        .fragmentable = true,
    };
    ip_send(stack, &path, out, &send, now);
}

/* ---- received ------------------------------------------------------------------------ */

/* ICMP has no pseudo-header, ICMPv6 has (RFC 4443 section 2.3). */
static bool icmp_checksum_ok(const struct ams_frame *frame, const struct ip_info *ip)
{
    if (ip->family == AMS_IPV6)
        return ip_l4_checksum_ok(frame, ip);
    if (frame->flags & FRAME_CSUM_OK)
        return true;
    return checksum_fold(checksum_add(0, frame->data + ip->l4_off, ip->l4_len)) == 0xffff;
}

/* Handles an error message, whose quoted packet lies behind the header. */
static void icmp_error_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                             const struct icmp_repr *icmp, uint64_t now)
{
    struct icmp_error error = {0};
    bool known = ip->family == AMS_IPV4 ? meaning4(icmp, &error) : meaning6(icmp, &error);
    if (!known)
        return;
    stack->counters.icmp_error_rx++;
    if (ip->dst_unicast)
        icmp_report(stack, frame->data + ip->l4_off + ICMP_HEADER, ip->l4_len - ICMP_HEADER, &error, now);
}

void icmp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct icmp_repr icmp;
    stack->counters.icmp_rx++;
    if (icmp_parse(frame->data + ip->l4_off, ip->l4_len, &icmp) != WIRE_OK || !icmp_checksum_ok(frame, ip)) {
        stack->counters.icmp_bad++;
        frame_free(frame);
        return;
    }
    if (ip->family == AMS_IPV4 && icmp.type == ICMP4_ECHO_REQUEST)
        echo_reply(stack, frame, ip, now);
    else if (ip->family == AMS_IPV6 && icmp.type == ICMP6_ECHO_REQUEST)
        echo_reply(stack, frame, ip, now);
    else if (ip->family == AMS_IPV6 && (icmp.type == ICMP6_NEIGHBOR_SOLICIT || icmp.type == ICMP6_NEIGHBOR_ADVERT))
        ndp_input(stack, frame, ip, now);
    else if (ip->family == AMS_IPV6 && icmp.type == ICMP6_ROUTER_ADVERT)
        router_input(stack, frame, ip, now);
    else if (icmp.type == (ip->family == AMS_IPV6 ? ICMP6_REDIRECT : ICMP4_REDIRECT))
        redirect_input(stack, frame, ip, now);
    else if (ip->family == AMS_IPV6 && icmp.type == ICMP6_MLD_QUERY)
        multicast_input(stack, frame, ip, now);
    else
        icmp_error_input(stack, frame, ip, &icmp, now);
    frame_free(frame);
}
