/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ipv4.h - IPv4 headers (RFC 791).
 */
#ifndef AMS_WIRE_IPV4_H
#define AMS_WIRE_IPV4_H

#include <stdbool.h>

#include "wire/bytes.h"
#include "wire/proto.h"

#define IP4_FLAG_DF 0x4000u      /* of the 16 bits with flags and fragment offset */

struct ipv4_repr {
    uint8_t src[4];
    uint8_t dst[4];
    uint8_t header_len;      /* 20 to 60: options included */
    uint8_t tos;             /* DSCP and ECN */
    uint8_t ttl;
    uint8_t protocol;
    uint16_t total_len;      /* header and payload */
    uint16_t id;
    uint16_t frag_off;       /* of this fragment's payload, in bytes */
    bool dont_fragment;
    bool more_fragments;
};

/* Parses and checks a received header, its checksum included.
 * @len: bytes at data; those behind total_len are padding
 * Return: WIRE_OK, or what is wrong. */
enum wire_verdict ipv4_parse(const uint8_t *data, size_t len, struct ipv4_repr *repr);
/* The same for a packet quoted by an ICMP error: the rest may be missing,
 * and routers have changed fields without care for the checksum. */
enum wire_verdict ipv4_parse_quoted(const uint8_t *data, size_t len, struct ipv4_repr *repr);
/* Writes a header of IP4_HEADER bytes with its checksum; options are not
 * written (header_len is ignored). */
void ipv4_emit(uint8_t *out, const struct ipv4_repr *repr);
/* Renews the checksum of a header of header_len bytes. */
void ipv4_update_checksum(uint8_t *header, size_t header_len);

/* True if the sum over a header without options, its checksum included, is
 * minus zero. */
static inline bool ipv4_plain_sum_ok(const uint8_t header[IP4_HEADER])
{
    uint32_t words[5];
    memcpy(words, header, sizeof(words));
    uint64_t sum = (uint64_t)words[0] + words[1] + words[2] + words[3] + words[4];
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return sum == 0xffff;
}

enum ipv4_options {
    IPV4_OPTIONS_PLAIN,      /* may be ignored (RFC 1122 section 3.2.1.8) */
    IPV4_OPTIONS_ROUTED,     /* ask for source routing: not honoured (RFC 7126 section 4.3) */
    IPV4_OPTIONS_MALFORMED,
};

/* Looks through the options of a header that ipv4_parse() accepted. */
enum ipv4_options ipv4_check_options(const uint8_t *data, unsigned header_len);

/* 224.0.0.0/4 */
static inline bool ipv4_is_multicast(const uint8_t ip[4]) { return (ip[0] & 0xf0) == 0xe0; }
/* 127.0.0.0/8 */
static inline bool ipv4_is_loopback(const uint8_t ip[4]) { return ip[0] == 127; }
/* 255.255.255.255 */
static inline bool ipv4_is_broadcast(const uint8_t ip[4]) { return load_be32(ip) == 0xffffffffu; }

#endif
