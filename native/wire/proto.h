/* SPDX-License-Identifier: BSD-2-Clause
 *
 * proto.h - numbers that several protocols share, and what a parser says.
 *
 * The wire layer knows formats, not policy.  Each protocol has a *repr*: a
 * plain struct with the header's fields in host order.  x_parse() checks
 * every length before it loads, and fills the repr; x_emit() writes the repr
 * into a buffer that the caller has made large enough.
 */
#ifndef AMS_WIRE_PROTO_H
#define AMS_WIRE_PROTO_H

#define ETH_HEADER 14u
#define IP4_HEADER 20u
#define IP6_HEADER 40u
#define UDP_HEADER 8u
#define ICMP_HEADER 8u

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_ARP 0x0806u
#define ETHERTYPE_IPV6 0x86ddu

#define PROTO_HOPOPTS 0
#define PROTO_ICMP 1
#define PROTO_IGMP 2
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_ICMPV6 58
#define PROTO_NONE 59
#define PROTO_DSTOPTS 60

/* RFC 8200 section 5: no link below this carries IPv6. */
#define IP6_MIN_MTU 1280u
/* RFC 791: every IPv4 host takes datagrams of this size. */
#define IP4_MIN_MTU 576u

enum wire_verdict {
    WIRE_OK,
    WIRE_TRUNCATED, /* shorter than its own length fields say */
    WIRE_MALFORMED, /* fields that contradict each other or the RFC */
    WIRE_CHECKSUM,  /* header checksum is wrong */
};

#endif
