/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ndp.h - neighbour solicitations and advertisements (RFC 4861 section 4).
 */
#ifndef AMS_WIRE_NDP_H
#define AMS_WIRE_NDP_H

#include <stdbool.h>

#include "wire/icmp.h"

#define NDP_ROUTER 0x80000000u
#define NDP_SOLICITED 0x40000000u
#define NDP_OVERRIDE 0x20000000u

/* Without and with a link-layer address option. */
#define NDP_LENGTH 24u
#define NDP_LENGTH_LLADDR 32u

struct ndp_repr {
    uint8_t type;            /* ICMP6_NEIGHBOR_SOLICIT or _ADVERT */
    uint32_t flags;          /* NDP_*; of an advertisement */
    uint8_t target[16];
    bool has_lladdr;         /* source (solicitation) or target (advertisement) link-layer address */
    uint8_t lladdr[6];
};

/* Parses an ICMPv6 message of these two types.
 * Return: WIRE_OK, WIRE_TRUNCATED, or WIRE_MALFORMED (code, a multicast
 * target, an option of length zero: RFC 4861 sections 7.1.1 and 7.1.2). */
enum wire_verdict ndp_parse(const uint8_t *data, size_t len, struct ndp_repr *repr);
/* Writes NDP_LENGTH or NDP_LENGTH_LLADDR bytes, checksum zero; returns which. */
uint32_t ndp_emit(uint8_t *out, const struct ndp_repr *repr);

#endif
