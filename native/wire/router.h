/* SPDX-License-Identifier: BSD-2-Clause
 *
 * router.h - what routers tell hosts: router advertisements and redirects
 * (RFC 4861 sections 4.2 and 4.5), and how hosts ask (section 4.1).
 */
#ifndef AMS_WIRE_ROUTER_H
#define AMS_WIRE_ROUTER_H

#include <stdbool.h>

#include "wire/icmp.h"

#define ROUTER_SOLICIT_LENGTH 8u
#define ROUTER_SOLICIT_LENGTH_LLADDR 16u
#define ROUTER_ADVERT_LENGTH 16u
#define ROUTER_REDIRECT_LENGTH 40u

/* Lifetimes of prefixes, in seconds: for ever. */
#define ROUTER_INFINITE 0xffffffffu

struct router_advert {
    uint8_t hop_limit;       /* 0, here and below: the router doesn't say */
    int8_t preference;       /* RFC 4191 section 2.1: 1 high, 0 medium, -1 low */
    uint16_t lifetime;       /* as a default router, s; 0: it is none */
    uint32_t reachable_ms;
    uint32_t retrans_ms;
    uint32_t mtu;
    bool has_lladdr;
    uint8_t lladdr[6];       /* the router's */
};

struct router_prefix {       /* RFC 4861 section 4.6.2 */
    uint8_t prefix[16];      /* bits behind its length are zero */
    uint8_t length;
    bool on_link;
    bool autonomous;         /* hosts may make addresses of it (RFC 4862) */
    uint32_t valid;          /* s */
    uint32_t preferred;
};

struct router_redirect {
    uint8_t target[16];      /* the better first hop */
    uint8_t destination[16];
    bool has_lladdr;
    uint8_t lladdr[6];       /* the target's */
    const uint8_t *quoted;   /* the packet that was redirected, into the message; NULL: none */
    size_t quoted_len;
};

/* Parses an advertisement, of prefixes only that they are well-formed.
 * Return: WIRE_OK, WIRE_TRUNCATED, or WIRE_MALFORMED (code, an option of
 * length zero: RFC 4861 section 6.1.2). */
enum wire_verdict router_advert_parse(const uint8_t *data, size_t len, struct router_advert *repr);
/* Takes the next prefix of an advertisement that router_advert_parse() took.
 * @at: where to look; zero at first
 * Return: false when there are no more. */
bool router_advert_prefix(const uint8_t *data, size_t len, size_t *at, struct router_prefix *out);
/* Parses a redirect.
 * Return: as router_advert_parse(); malformed as well: a destination that is
 * a group, a target that is neither link-local nor the destination (RFC 4861
 * section 8.1). */
enum wire_verdict router_redirect_parse(const uint8_t *data, size_t len, struct router_redirect *repr);
/* Writes a solicitation, checksum zero; returns its length.
 * @lladdr: of its sender; NULL: without, as from the unspecified address */
uint32_t router_solicit_emit(uint8_t *out, const uint8_t *lladdr);

#endif
