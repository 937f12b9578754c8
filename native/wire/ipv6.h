/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ipv6.h - IPv6 headers and extension headers (RFC 8200).
 */
#ifndef AMS_WIRE_IPV6_H
#define AMS_WIRE_IPV6_H

#include <stdbool.h>

#include "wire/bytes.h"
#include "wire/proto.h"

#define IP6_FRAGMENT_HEADER 8u
/* More extension headers than this in one packet are taken for an attack
 * (RFC 8883 section 2.2). */
#define IP6_MAX_EXTENSIONS 8

struct ipv6_repr {
    uint8_t src[16];
    uint8_t dst[16];
    uint32_t flow_label;
    uint16_t payload_len;    /* extension headers included */
    uint8_t traffic_class;
    uint8_t next;            /* next header */
    uint8_t hop_limit;
};

/* Parses and checks a received header.
 * Return: WIRE_OK, or what is wrong. */
enum wire_verdict ipv6_parse(const uint8_t *data, size_t len, struct ipv6_repr *repr);
/* The same for a packet quoted by an ICMPv6 error: its end may be missing. */
enum wire_verdict ipv6_parse_quoted(const uint8_t *data, size_t len, struct ipv6_repr *repr);
/* Writes IP6_HEADER bytes. */
void ipv6_emit(uint8_t *out, const struct ipv6_repr *repr);

/* A position in the chain of headers. */
struct ipv6_walk {
    uint8_t next;            /* kind of the header at `offset` */
    uint8_t count;           /* extension headers passed */
    uint32_t offset;         /* from the IPv6 header */
    uint32_t named_at;       /* offset of the octet that names `next` */
    uint8_t error_code;      /* IPV6_WALK_REJECT: code and pointer of the */
    uint32_t error_pointer;  /* Parameter Problem (RFC 4443 section 3.4) */
};

enum ipv6_walk_result {
    IPV6_WALK_UPPER,         /* `next` is no extension header */
    IPV6_WALK_FRAGMENT,      /* a fragment header lies at `offset` */
    IPV6_WALK_DROP,          /* truncated, or an option says: discard */
    IPV6_WALK_REJECT,        /* discard and say so */
};

/* Passes hop-by-hop, routing and destination options headers.
 * @walk: where to start; left where the walk ended
 * @multicast: the packet's destination is a group
 * Return: why it stopped. */
enum ipv6_walk_result ipv6_walk(const uint8_t *packet, size_t len, bool multicast, struct ipv6_walk *walk);
/* The start of a walk: right behind the IPv6 header. */
static inline struct ipv6_walk ipv6_walk_start(uint8_t next)
{
    return (struct ipv6_walk){.next = next, .offset = IP6_HEADER, .named_at = 6};
}

struct ipv6_fragment {
    uint8_t next;
    uint16_t offset;         /* bytes */
    bool more;
    uint32_t id;
};

/* Parses a fragment header (RFC 8200 section 4.5). */
enum wire_verdict ipv6_fragment_parse(const uint8_t *data, size_t len, struct ipv6_fragment *fragment);
/* Writes IP6_FRAGMENT_HEADER bytes. */
void ipv6_fragment_emit(uint8_t *out, const struct ipv6_fragment *fragment);

/* ff00::/8 */
static inline bool ipv6_is_multicast(const uint8_t ip[16]) { return ip[0] == 0xff; }
/* fe80::/10 */
static inline bool ipv6_is_link_local(const uint8_t ip[16]) { return ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80; }
/* ::1 */
bool ipv6_is_loopback(const uint8_t ip[16]);
/* :: */
bool ipv6_is_unspecified(const uint8_t ip[16]);
/* ff02::1:ffXX:XXXX of an address (RFC 4291 section 2.7.1). */
void ipv6_solicited_node(uint8_t out[16], const uint8_t ip[16]);
/* fe80:: with the modified EUI-64 of a hardware address (RFC 4291, appendix A). */
void ipv6_link_local(uint8_t out[16], const uint8_t mac[6]);

#endif
