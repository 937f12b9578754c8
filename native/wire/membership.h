/* SPDX-License-Identifier: BSD-2-Clause
 *
 * membership.h - what hosts tell routers about groups: IGMP (RFC 2236, RFC
 * 3376) for IPv4 and MLD (RFC 2710, RFC 3810) for IPv6.
 *
 * Both are the same protocol with fields of other sizes; an "old" message is
 * one of IGMPv2 or MLDv1.  Addresses are IPv4-mapped.
 */
#ifndef AMS_WIRE_MEMBERSHIP_H
#define AMS_WIRE_MEMBERSHIP_H

#include <stdbool.h>

#include "wire/icmp.h"

#define MEMBERSHIP_LENGTH_MAX 28u
#define MEMBERSHIP_CHECKSUM_AT 2 /* in all of them */

struct membership_query {
    uint8_t group[16];       /* the unspecified address: all groups */
    bool any;
    bool old;
    uint64_t max_response;   /* ns: answers come within this time */
};

enum membership_record {     /* RFC 3376 section 4.2.12, RFC 3810 section 5.2.12; sources are none */
    MEMBERSHIP_IS_EXCLUDE = 2, /* an answer: in the group */
    MEMBERSHIP_TO_INCLUDE = 3, /* left it */
    MEMBERSHIP_TO_EXCLUDE = 4, /* joined it */
};

/* Parses a query, behind the IP header.  The checksum is not looked at.
 * Return: WIRE_OK, WIRE_TRUNCATED; WIRE_MALFORMED: it is something else. */
enum wire_verdict membership_parse(const uint8_t *data, size_t len, bool ipv4, struct membership_query *query);
/* Writes a report with one record, checksum zero; returns its length.
 * @old: as the older version has it, which is sent to the group itself */
uint32_t membership_emit(uint8_t *out, const uint8_t group[16], enum membership_record record, bool old);

#endif
