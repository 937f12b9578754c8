/* SPDX-License-Identifier: BSD-2-Clause
 *
 * packet.h - what the switch needs to know of a packet.
 *
 * Theory of operation.  packet_parse() walks Ethernet, IPv4 or IPv6 with its
 * extension headers, and the start of TCP, UDP or ICMP, and gives one struct
 * packet for both directions.  It believes no length: each load lies within
 * `avail` bytes that were checked just before, and the IP header's own
 * lengths must fit the frame.  `avail` may be less than the frame's length
 * (a sender's headers without its payload): what cannot be reached then
 * gives PACKET_SHORT, and the caller may gather more and try again.
 *
 * packet_fast() does the same for the one shape that nearly all packets
 * have (no options, no extensions, no fragment, TCP or UDP), at a fraction
 * of the cost; it refuses everything else without a reason.
 */
#ifndef AMS_SWITCH_PACKET_H
#define AMS_SWITCH_PACKET_H

#include "aiomultistack.h"
#include "core/base.h"
#include "wire/proto.h"

#define PACKET_ETH_MIN 60u        /* shorter payloads may be padded to this */
#define PACKET_TCP_HEADER 20u
#define PACKET_EXTENSIONS_MAX 8   /* IPv6 extension headers walked */

#define PACKET_IGMP 2 /* protocol number (RFC 3376 section 4) */
#define PACKET_TCP_RST 0x04u

enum packet_status {
    PACKET_OK,
    PACKET_RUNT,          /* no Ethernet header */
    PACKET_VLAN,          /* IEEE 802.1Q tag, or more than one */
    PACKET_ETHERTYPE,     /* nothing that we know */
    PACKET_TRUNCATED,     /* ends within a header */
    PACKET_BAD_HEADER,
    PACKET_BAD_LENGTH,
    PACKET_SOURCE_ROUTE,
    PACKET_BAD_EXTENSION,
    PACKET_FRAG_TINY,
    PACKET_SHORT,         /* the frame goes on, but not within reach */
    PACKET_STATUSES
};

/* flags */
#define PACKET_FRAG_FIRST 1u  /* carries the ports, more fragments follow */
#define PACKET_FRAG_LATER 2u  /* carries no ports */
#define PACKET_PORTS 4u       /* sport and dport are valid */
#define PACKET_OPTIONS 8u     /* IPv4 options */
#define PACKET_EXTENSIONS 16u /* IPv6 extension headers */
#define PACKET_ROUTING 32u    /* an IPv6 routing header, no segments left or not */
#define PACKET_FRAG_DEEP 64u  /* a first fragment with extension headers before its transport header */

struct packet {
    uint8_t src[16];      /* IPv4-mapped for IPv4 */
    uint8_t dst[16];
    uint32_t l3;          /* offset of the IP header, or of the ARP packet */
    uint32_t l3_end;      /* offset of the first byte behind the IP packet */
    uint32_t l4;          /* offset of the transport header (of a fragment: of its payload) */
    uint32_t frag_id;
    uint16_t ethertype;
    uint16_t flags;       /* PACKET_* above */
    uint16_t frag_offset; /* in units of 8 bytes */
    uint16_t sport;
    uint16_t dport;
    uint8_t family;       /* AMS_IPV4, AMS_IPV6; 0: not IP */
    uint8_t protocol;     /* the first header that is no extension header */
    uint8_t hop_limit;
    uint8_t l4_hlen;      /* bytes of the TCP, UDP or ICMP header */
    uint8_t tcp_flags;
    uint8_t icmp_type;
    uint8_t icmp_code;
};

/* Parses a frame from its Ethernet header on.
 * @data: the first `avail` bytes of the frame
 * @total: the frame's whole length
 * @packet: result; complete only when PACKET_OK is returned
 * Return: PACKET_OK, or what is wrong. */
enum packet_status packet_parse(const uint8_t *data, uint32_t avail, uint32_t total, struct packet *packet);

/* Parses the packet that an ICMP error quotes; it may be cut anywhere behind
 * its ports, and its lengths are those of the original.
 * @data: the frame; @avail: bytes of it within reach
 * @offset: where the quoted IP header starts
 * @family: of the outer packet
 * Return: as packet_parse(). */
enum packet_status packet_parse_quoted(const uint8_t *data, uint32_t avail, uint32_t offset, uint8_t family,
                                       struct packet *packet);

/* Parses an unfragmented TCP or UDP packet without options or extensions.
 * @data: at least `avail` bytes; @total: the frame's length
 * @packet: family, protocol, ports, l3, l3_end, l4, l4_hlen, tcp_flags are
 *          set, addresses are not: see packet_src_offset()
 * Return: false if the packet has another shape or anything is wrong. */
bool packet_fast(const uint8_t *data, uint32_t avail, uint32_t total, struct packet *packet);

/* Offsets of the addresses of a packet that packet_fast() accepted. */
static inline uint32_t packet_src_offset(const struct packet *packet)
{
    return packet->l3 + (packet->family == AMS_IPV4 ? 12 : 8);
}

static inline uint32_t packet_dst_offset(const struct packet *packet)
{
    return packet->l3 + (packet->family == AMS_IPV4 ? 16 : 24);
}

/* True for ICMP and ICMPv6 types that report an error about a packet and
 * quote it (RFC 792, RFC 4443 section 2.1); a redirect is none. */
static inline bool packet_is_icmp_error(const struct packet *packet)
{
    if (packet->protocol == PROTO_ICMPV6)
        return packet->icmp_type < 128;
    return packet->icmp_type == 3 || packet->icmp_type == 11 || packet->icmp_type == 12;
}

#endif
