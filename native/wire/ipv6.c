/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/ipv6.h"

/* Codes of ICMPv6 Parameter Problem (RFC 4443 section 3.4). */
#define PROBLEM_FIELD 0
#define PROBLEM_NEXT_HEADER 1
#define PROBLEM_OPTION 2

#define OPTION_PAD1 0
#define OPTION_PADN 1

static const uint8_t loopback[16] = {[15] = 1};
static const uint8_t unspecified[16];

bool ipv6_is_loopback(const uint8_t ip[16])
{
    return ip_equal(ip, loopback);
}

bool ipv6_is_unspecified(const uint8_t ip[16])
{
    return ip_equal(ip, unspecified);
}

void ipv6_solicited_node(uint8_t out[16], const uint8_t ip[16])
{
    static const uint8_t prefix[13] = {0xff, 0x02, [11] = 1, [12] = 0xff};
    memcpy(out, prefix, sizeof(prefix));
    memcpy(out + 13, ip + 13, 3);
}

void ipv6_link_local(uint8_t out[16], const uint8_t mac[6])
{
    memset(out, 0, 16);
    out[0] = 0xfe;
    out[1] = 0x80;
    out[8] = mac[0] ^ 2;
    out[9] = mac[1];
    out[10] = mac[2];
    out[11] = 0xff;
    out[12] = 0xfe;
    out[13] = mac[3];
    out[14] = mac[4];
    out[15] = mac[5];
}

enum wire_verdict ipv6_parse_quoted(const uint8_t *data, size_t len, struct ipv6_repr *repr)
{
    if (len < IP6_HEADER)
        return WIRE_TRUNCATED;
    uint32_t first = load_be32(data);
    if (first >> 28 != 6)
        return WIRE_MALFORMED;
    repr->traffic_class = (uint8_t)(first >> 20);
    repr->flow_label = first & 0xfffffu;
    repr->payload_len = load_be16(data + 4);
    repr->next = data[6];
    repr->hop_limit = data[7];
    memcpy(repr->src, data + 8, 16);
    memcpy(repr->dst, data + 24, 16);
    return WIRE_OK;
}

enum wire_verdict ipv6_parse(const uint8_t *data, size_t len, struct ipv6_repr *repr)
{
    enum wire_verdict verdict = ipv6_parse_quoted(data, len, repr);
    if (verdict != WIRE_OK)
        return verdict;
    return IP6_HEADER + (size_t)repr->payload_len > len ? WIRE_TRUNCATED : WIRE_OK;
}

void ipv6_emit(uint8_t *out, const struct ipv6_repr *repr)
{
    store_be32(out, 6u << 28 | (uint32_t)repr->traffic_class << 20 | (repr->flow_label & 0xfffffu));
    store_be16(out + 4, repr->payload_len);
    out[6] = repr->next;
    out[7] = repr->hop_limit;
    memcpy(out + 8, repr->src, 16);
    memcpy(out + 24, repr->dst, 16);
}

/* Ends a walk with a Parameter Problem. */
static enum ipv6_walk_result reject(struct ipv6_walk *walk, uint8_t code, uint32_t pointer)
{
    walk->error_code = code;
    walk->error_pointer = pointer;
    return IPV6_WALK_REJECT;
}

/* Looks through the options of a hop-by-hop or destination options header.
 * None but padding is known, so the two high bits of each option's type say
 * what becomes of the packet (RFC 8200 section 4.2).
 * Return: IPV6_WALK_UPPER to go on. */
static enum ipv6_walk_result check_options(const uint8_t *packet, uint32_t at, uint32_t end, bool multicast,
                                           struct ipv6_walk *walk)
{
    while (at < end) {
        uint8_t type = packet[at];
        if (type == OPTION_PAD1) {
            at++;
            continue;
        }
        if (at + 2 > end || at + 2 + packet[at + 1] > end)
            return IPV6_WALK_DROP;
        if (type != OPTION_PADN && type >> 6 != 0) {
            bool silent = type >> 6 == 1 || (type >> 6 == 3 && multicast);
            return silent ? IPV6_WALK_DROP : reject(walk, PROBLEM_OPTION, at);
        }
        at += 2 + packet[at + 1];
    }
    return IPV6_WALK_UPPER;
}

/* Passes one header that lies whole within the packet.
 * Return: IPV6_WALK_UPPER to go on. */
static enum ipv6_walk_result check_extension(const uint8_t *packet, uint32_t end, bool multicast,
                                             struct ipv6_walk *walk)
{
    if (walk->next == PROTO_ROUTING) {
        /* Segments left: no routing type is honoured, type 0 least of all
         * (RFC 5095); zero segments are ignored (RFC 8200 section 4.4). */
        return packet[walk->offset + 3] ? reject(walk, PROBLEM_FIELD, walk->offset + 2) : IPV6_WALK_UPPER;
    }
    if (walk->next == PROTO_HOPOPTS && walk->offset != IP6_HEADER)
        return reject(walk, PROBLEM_NEXT_HEADER, walk->named_at);
    return check_options(packet, walk->offset + 2, end, multicast, walk);
}

enum ipv6_walk_result ipv6_walk(const uint8_t *packet, size_t len, bool multicast, struct ipv6_walk *walk)
{
    for (;;) {
        if (walk->next == PROTO_FRAGMENT)
            return IPV6_WALK_FRAGMENT;
        if (walk->next != PROTO_HOPOPTS && walk->next != PROTO_ROUTING && walk->next != PROTO_DSTOPTS)
            return IPV6_WALK_UPPER;
        if (++walk->count > IP6_MAX_EXTENSIONS || walk->offset + 8 > len)
            return IPV6_WALK_DROP;
        uint32_t end = walk->offset + 8 + packet[walk->offset + 1] * 8u;
        if (end > len)
            return IPV6_WALK_DROP;
        enum ipv6_walk_result result = check_extension(packet, end, multicast, walk);
        if (result != IPV6_WALK_UPPER)
            return result;
        walk->next = packet[walk->offset];
        walk->named_at = walk->offset;
        walk->offset = end;
    }
}

enum wire_verdict ipv6_fragment_parse(const uint8_t *data, size_t len, struct ipv6_fragment *fragment)
{
    if (len < IP6_FRAGMENT_HEADER)
        return WIRE_TRUNCATED;
    unsigned field = load_be16(data + 2);
    fragment->next = data[0];
    fragment->offset = (uint16_t)(field & 0xfff8u);
    fragment->more = field & 1;
    fragment->id = load_be32(data + 4);
    return WIRE_OK;
}

void ipv6_fragment_emit(uint8_t *out, const struct ipv6_fragment *fragment)
{
    out[0] = fragment->next;
    out[1] = 0;
    store_be16(out + 2, (fragment->offset & 0xfff8u) | (fragment->more ? 1u : 0u));
    store_be32(out + 4, fragment->id);
}
