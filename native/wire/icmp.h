/* SPDX-License-Identifier: BSD-2-Clause
 *
 * icmp.h - the headers of ICMP (RFC 792) and ICMPv6 (RFC 4443).
 *
 * Both have the same shape: type, code, checksum, and 32 bits whose meaning
 * depends on the type.
 */
#ifndef AMS_WIRE_ICMP_H
#define AMS_WIRE_ICMP_H

#include "wire/bytes.h"
#include "wire/proto.h"

#define ICMP_CHECKSUM_AT 2

#define ICMP4_ECHO_REPLY 0
#define ICMP4_UNREACHABLE 3
#define ICMP4_SOURCE_QUENCH 4
#define ICMP4_REDIRECT 5
#define ICMP4_ECHO_REQUEST 8
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PARAMETER_PROBLEM 12

#define ICMP4_CODE_PROTOCOL 2
#define ICMP4_CODE_PORT 3
#define ICMP4_CODE_FRAGMENTATION 4

#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3
#define ICMP6_PARAMETER_PROBLEM 4
#define ICMP6_ECHO_REQUEST 128
#define ICMP6_ECHO_REPLY 129
#define ICMP6_MLD_QUERY 130 /* RFC 2710, RFC 3810 */
#define ICMP6_MLD_REPORT 131
#define ICMP6_MLD_DONE 132
#define ICMP6_ROUTER_SOLICIT 133
#define ICMP6_ROUTER_ADVERT 134
#define ICMP6_NEIGHBOR_SOLICIT 135
#define ICMP6_NEIGHBOR_ADVERT 136
#define ICMP6_REDIRECT 137
#define ICMP6_MLD2_REPORT 143

#define ICMP6_CODE_NO_ROUTE 0
#define ICMP6_CODE_SCOPE 2
#define ICMP6_CODE_ADDRESS 3
#define ICMP6_CODE_PORT 4
#define ICMP6_CODE_NEXT_HEADER 1 /* of a Parameter Problem */

/* Code 1 of Time Exceeded, in both: fragments did not arrive in time. */
#define ICMP_CODE_REASSEMBLY 1

struct icmp_repr {
    uint8_t type;
    uint8_t code;
    uint32_t rest;           /* bytes 4 to 7 */
};

/* Parses the first eight bytes; the checksum is not looked at. */
static inline enum wire_verdict icmp_parse(const uint8_t *data, size_t len, struct icmp_repr *repr)
{
    if (len < ICMP_HEADER)
        return WIRE_TRUNCATED;
    repr->type = data[0];
    repr->code = data[1];
    repr->rest = load_be32(data + 4);
    return WIRE_OK;
}

/* Writes ICMP_HEADER bytes; the checksum is left zero. */
static inline void icmp_emit(uint8_t *out, const struct icmp_repr *repr)
{
    out[0] = repr->type;
    out[1] = repr->code;
    store_be16(out + 2, 0);
    store_be32(out + 4, repr->rest);
}

#endif
