/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch/packet.h"

#include <string.h>

#include "wire/bytes.h"

#define TYPE_VLAN 0x8100u
#define TYPE_QINQ 0x88a8u
#define TYPE_QINQ_OLD 0x9100u

/* IPv4 options (RFC 791 section 3.1) */
#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_LSRR 131
#define OPTION_SSRR 137

/* What the walk through one packet carries along. */
struct walk {
    const uint8_t *data;
    uint32_t avail;       /* bytes within reach */
    bool quoted;          /* a piece of a packet, in an ICMP error */
};

/* Checks that `need` bytes at `offset` belong to the packet and can be read.
 * @end: the packet's end by its own account */
static enum packet_status walk_need(const struct walk *walk, uint32_t offset, uint32_t need, uint32_t end)
{
    if (offset > end || need > end - offset)
        return PACKET_TRUNCATED;
    if (offset > walk->avail || need > walk->avail - offset)
        return walk->quoted ? PACKET_TRUNCATED : PACKET_SHORT;
    return PACKET_OK;
}

/* Parses the ports of TCP or UDP, or ICMP's type and code.
 * @packet: l4, l3_end, protocol and fragment fields are set */
static enum packet_status parse_l4(const struct walk *walk, struct packet *packet)
{
    bool first = packet->flags & PACKET_FRAG_FIRST;
    uint32_t end = packet->l3_end, need;

    if (packet->flags & PACKET_FRAG_LATER) {
        /* RFC 1858 section 3.2.2, RFC 3128: a fragment that would overwrite the TCP flags */
        return packet->protocol == PROTO_TCP && packet->frag_offset == 1 ? PACKET_FRAG_TINY : PACKET_OK;
    }
    switch (packet->protocol) {
    case PROTO_TCP: need = walk->quoted ? 4 : PACKET_TCP_HEADER; break;
    case PROTO_UDP: need = walk->quoted ? 4 : UDP_HEADER; break;
    case PROTO_ICMP:
    case PROTO_ICMPV6: need = walk->quoted ? 2 : ICMP_HEADER; break;
    default: return PACKET_OK;
    }
    enum packet_status status = walk_need(walk, packet->l4, need, end);
    if (status)
        return status == PACKET_TRUNCATED && first ? PACKET_FRAG_TINY : status;
    const uint8_t *l4 = walk->data + packet->l4;
    packet->l4_hlen = (uint8_t)need;
    if (packet->protocol == PROTO_ICMP || packet->protocol == PROTO_ICMPV6) {
        packet->icmp_type = l4[0];
        packet->icmp_code = l4[1];
        return PACKET_OK;
    }
    packet->sport = load_be16(l4);
    packet->dport = load_be16(l4 + 2);
    packet->flags |= PACKET_PORTS;
    if (walk->quoted)
        return PACKET_OK;
    if (packet->protocol == PROTO_UDP) {
        uint32_t length = load_be16(l4 + 4);
        if (length < UDP_HEADER || (!first && length > end - packet->l4))
            return PACKET_BAD_LENGTH;
        return PACKET_OK;
    }
    uint32_t hlen = (uint32_t)(l4[12] >> 4) * 4;
    if (hlen < PACKET_TCP_HEADER)
        return PACKET_BAD_HEADER;
    if (hlen > end - packet->l4)
        return first ? PACKET_FRAG_TINY : PACKET_BAD_LENGTH;
    packet->l4_hlen = (uint8_t)hlen;
    packet->tcp_flags = l4[13];
    return PACKET_OK;
}

/* Notes a fragment's place, and checks that its size is possible.
 * @offset: in units of 8 bytes; @more: more fragments follow */
static enum packet_status parse_fragment(const struct walk *walk, struct packet *packet, uint16_t offset, bool more)
{
    uint32_t length = packet->l3_end - packet->l4;

    if (!offset && !more) /* RFC 6946: an atomic fragment is a whole packet */
        return PACKET_OK;
    packet->frag_offset = offset;
    packet->flags |= offset ? PACKET_FRAG_LATER : PACKET_FRAG_FIRST;
    if (walk->quoted)
        return PACKET_OK;
    if (!length || (more && length % 8) || offset * 8u + length > 65535)
        return PACKET_BAD_LENGTH;
    return PACKET_OK;
}

/* Walks IPv4 options: well-formed, no source route (RFC 7126 section 4). */
static enum packet_status parse_ip4_options(const uint8_t *options, uint32_t length)
{
    for (uint32_t i = 0; i < length;) {
        if (options[i] == OPTION_END)
            return PACKET_OK;
        if (options[i] == OPTION_NOP) {
            i++;
            continue;
        }
        if (options[i] == OPTION_LSRR || options[i] == OPTION_SSRR)
            return PACKET_SOURCE_ROUTE;
        if (i + 1 >= length || options[i + 1] < 2 || options[i + 1] > length - i)
            return PACKET_BAD_HEADER;
        i += options[i + 1];
    }
    return PACKET_OK;
}

/* @limit: where the bytes that hold the packet end (of a quoted one: unused) */
static enum packet_status parse_ip4(const struct walk *walk, uint32_t offset, uint32_t limit, struct packet *packet)
{
    enum packet_status status = walk_need(walk, offset, IP4_HEADER, limit);
    if (status)
        return status;
    const uint8_t *ip = walk->data + offset;
    uint32_t hlen = (uint32_t)(ip[0] & 15) * 4, length = load_be16(ip + 2);
    if (ip[0] >> 4 != 4 || hlen < IP4_HEADER)
        return PACKET_BAD_HEADER;
    if (length < hlen || (!walk->quoted && length > limit - offset))
        return PACKET_BAD_LENGTH;
    status = walk_need(walk, offset, hlen, limit);
    if (status)
        return status;
    packet->family = AMS_IPV4;
    packet->protocol = ip[9];
    packet->hop_limit = ip[8];
    packet->l3 = offset;
    packet->l3_end = offset + length;
    packet->l4 = offset + hlen;
    packet->frag_id = load_be16(ip + 4);
    ip_map4(packet->src, ip + 12);
    ip_map4(packet->dst, ip + 16);
    if (hlen > IP4_HEADER) {
        packet->flags |= PACKET_OPTIONS;
        status = parse_ip4_options(ip + IP4_HEADER, hlen - IP4_HEADER);
        if (status && !walk->quoted)
            return status;
    }
    uint16_t fragment = load_be16(ip + 6);
    status = parse_fragment(walk, packet, fragment & 0x1fff, fragment & 0x2000);
    return status ? status : parse_l4(walk, packet);
}

/* Reads a fragment header at packet->l4 and steps over it.
 * @next: in: PROTO_FRAGMENT, out: the header that follows */
static enum packet_status parse_ip6_fragment(const struct walk *walk, struct packet *packet, uint8_t *next)
{
    enum packet_status status = walk_need(walk, packet->l4, 8, packet->l3_end);
    if (status)
        return status;
    const uint8_t *header = walk->data + packet->l4;
    *next = header[0];
    packet->l4 += 8;
    packet->frag_id = load_be32(header + 4);
    uint16_t place = load_be16(header + 2);
    return parse_fragment(walk, packet, place >> 3, place & 1);
}

/* Walks the extension headers from packet->l4 on, up to the first header
 * that is none; sets l4 and protocol. */
static enum packet_status parse_ip6_chain(const struct walk *walk, struct packet *packet, uint8_t next)
{
    enum packet_status status;
    bool fragment_seen = false;

    for (int i = 0; i <= PACKET_EXTENSIONS_MAX; i++) {
        packet->protocol = next;
        switch (next) {
        case PROTO_HOPOPTS:
            if (i) /* RFC 8200 section 4.1: only directly after the IPv6 header */
                return PACKET_BAD_EXTENSION;
            break;
        case PROTO_ROUTING:
        case PROTO_DSTOPTS: break;
        case PROTO_FRAGMENT:
            if (fragment_seen)
                return PACKET_BAD_EXTENSION;
            fragment_seen = true;
            packet->flags |= PACKET_EXTENSIONS;
            status = parse_ip6_fragment(walk, packet, &next);
            if (status)
                return status;
            packet->protocol = next;
            if (packet->flags & PACKET_FRAG_LATER)
                return PACKET_OK;
            continue;
        default: return PACKET_OK;
        }
        bool first = packet->flags & PACKET_FRAG_FIRST;
        packet->flags |= PACKET_EXTENSIONS | (first ? PACKET_FRAG_DEEP : 0);
        status = walk_need(walk, packet->l4, 8, packet->l3_end);
        if (status) /* RFC 7112: the first fragment carries the whole chain */
            return status == PACKET_TRUNCATED && first ? PACKET_FRAG_TINY : status;
        const uint8_t *header = walk->data + packet->l4;
        uint32_t length = (header[1] + 1u) * 8;
        if (next == PROTO_ROUTING) {
            packet->flags |= PACKET_ROUTING;
            if (header[2] == 0 && header[3] != 0 && !walk->quoted) /* RFC 5095 */
                return PACKET_SOURCE_ROUTE;
        }
        if (length > packet->l3_end - packet->l4)
            return first ? PACKET_FRAG_TINY : PACKET_BAD_EXTENSION;
        next = header[0];
        packet->l4 += length;
    }
    return PACKET_BAD_EXTENSION;
}

/* An IPv6 header at `offset`, and what follows it.
 * @limit: where the frame, or the quoted packet, ends */
static enum packet_status parse_ip6(const struct walk *walk, uint32_t offset, uint32_t limit, struct packet *packet)
{
    enum packet_status status = walk_need(walk, offset, IP6_HEADER, limit);
    if (status)
        return status;
    const uint8_t *ip = walk->data + offset;
    uint32_t length = load_be16(ip + 4);
    if (ip[0] >> 4 != 6)
        return PACKET_BAD_HEADER;
    if (!walk->quoted && length > limit - offset - IP6_HEADER)
        return PACKET_BAD_LENGTH;
    packet->family = AMS_IPV6;
    packet->hop_limit = ip[7];
    packet->l3 = offset;
    packet->l4 = offset + IP6_HEADER;
    packet->l3_end = packet->l4 + length;
    memcpy(packet->src, ip + 8, 16);
    memcpy(packet->dst, ip + 24, 16);
    /* an IPv4-mapped address on the wire would alias one of the other family (RFC 4291 section 2.5.5.2) */
    if (ip_is4(packet->src) || ip_is4(packet->dst))
        return PACKET_BAD_HEADER;
    status = parse_ip6_chain(walk, packet, ip[6]);
    return status ? status : parse_l4(walk, packet);
}

enum packet_status packet_parse(const uint8_t *data, uint32_t avail, uint32_t total, struct packet *packet)
{
    struct walk walk = {data, avail, false};

    memset(packet, 0, sizeof(*packet));
    if (total < ETH_HEADER)
        return PACKET_RUNT;
    if (avail < ETH_HEADER)
        return PACKET_SHORT;
    packet->l3 = ETH_HEADER;
    packet->ethertype = load_be16(data + 12);
    switch (packet->ethertype) {
    case ETHERTYPE_IPV4: return parse_ip4(&walk, ETH_HEADER, total, packet);
    case ETHERTYPE_IPV6: return parse_ip6(&walk, ETH_HEADER, total, packet);
    case ETHERTYPE_ARP: return walk_need(&walk, ETH_HEADER, 28, total);
    case TYPE_VLAN:
    case TYPE_QINQ:
    case TYPE_QINQ_OLD: return PACKET_VLAN;
    default: return PACKET_ETHERTYPE;
    }
}

enum packet_status packet_parse_quoted(const uint8_t *data, uint32_t avail, uint32_t offset, uint8_t family,
                                       struct packet *packet)
{
    struct walk walk = {data, avail, true};

    memset(packet, 0, sizeof(*packet));
    if (family == AMS_IPV4)
        return parse_ip4(&walk, offset, avail, packet);
    return parse_ip6(&walk, offset, avail, packet);
}

bool packet_fast(const uint8_t *data, uint32_t avail, uint32_t total, struct packet *packet)
{
    const uint8_t *ip = data + ETH_HEADER, *l4;
    uint32_t end, l4_offset;

    if (AMS_UNLIKELY(avail < ETH_HEADER + IP4_HEADER + UDP_HEADER))
        return false;
    uint32_t type = load_be16(data + 12);
    if (AMS_LIKELY(type == ETHERTYPE_IPV4)) {
        if (ip[0] != 0x45 || load_be16(ip + 6) & 0x3fff)
            return false;
        packet->family = AMS_IPV4;
        packet->protocol = ip[9];
        l4_offset = ETH_HEADER + IP4_HEADER;
        end = ETH_HEADER + load_be16(ip + 2);
    } else if (type == ETHERTYPE_IPV6) {
        l4_offset = ETH_HEADER + IP6_HEADER;
        if (ip[0] >> 4 != 6 || avail < l4_offset + UDP_HEADER || ip_is4(ip + 8) || ip_is4(ip + 24))
            return false;
        packet->family = AMS_IPV6;
        packet->protocol = ip[6];
        end = l4_offset + load_be16(ip + 4);
    } else {
        return false;
    }
    if (AMS_UNLIKELY(end > total))
        return false;
    l4 = data + l4_offset;
    if (AMS_LIKELY(packet->protocol == PROTO_TCP)) {
        if (avail < l4_offset + PACKET_TCP_HEADER)
            return false;
        uint32_t hlen = (uint32_t)(l4[12] >> 4) * 4;
        if (hlen < PACKET_TCP_HEADER || l4_offset + hlen > end)
            return false;
        packet->l4_hlen = (uint8_t)hlen;
        packet->tcp_flags = l4[13];
    } else if (packet->protocol == PROTO_UDP) {
        uint32_t length = load_be16(l4 + 4);
        if (length < UDP_HEADER || l4_offset + length > end)
            return false;
        packet->l4_hlen = UDP_HEADER;
        packet->tcp_flags = 0;
    } else {
        return false;
    }
    packet->flags = PACKET_PORTS;
    packet->l3 = ETH_HEADER;
    packet->l3_end = end;
    packet->l4 = l4_offset;
    packet->sport = load_be16(l4);
    packet->dport = load_be16(l4 + 2);
    return true;
}
