/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/membership.h"

#define IGMP_QUERY 0x11
#define IGMP2_REPORT 0x16
#define IGMP2_LEAVE 0x17
#define IGMP3_REPORT 0x22

#define IGMP2_LENGTH 8u
#define IGMP3_QUERY_LENGTH 12u
#define MLD1_LENGTH 24u
#define MLD2_QUERY_LENGTH 28u

#define TENTH_NS 100000000u
#define MS_NS 1000000u
/* What a zero means in IGMPv1's query (RFC 3376 section 7.2.1). */
#define IGMP1_RESPONSE (10000ull * MS_NS)

/* A code that turns into a small floating point number from `linear` on
 * (RFC 3376 section 4.1.1, RFC 3810 section 5.1.3).
 * @bits: of its mantissa */
static uint64_t decode(uint32_t code, uint32_t linear, unsigned bits)
{
    if (code < linear)
        return code;
    uint32_t mantissa = code & ((1u << bits) - 1), exponent = code >> bits & 7;
    return (uint64_t)(mantissa | 1u << bits) << (exponent + 3);
}

static enum wire_verdict parse4(const uint8_t *data, size_t len, struct membership_query *query)
{
    if (len < IGMP2_LENGTH)
        return WIRE_TRUNCATED;
    if (data[0] != IGMP_QUERY || (len > IGMP2_LENGTH && len < IGMP3_QUERY_LENGTH))
        return WIRE_MALFORMED;
    query->old = len == IGMP2_LENGTH;
    query->any = load_be32(data + 4) == 0;
    ip_map4(query->group, data + 4);
    query->max_response = query->old ? data[1] * (uint64_t)TENTH_NS : decode(data[1], 128, 4) * TENTH_NS;
    if (query->old && data[1] == 0)
        query->max_response = IGMP1_RESPONSE;
    return WIRE_OK;
}

static enum wire_verdict parse6(const uint8_t *data, size_t len, struct membership_query *query)
{
    static const uint8_t unspecified[16];
    if (len < MLD1_LENGTH)
        return WIRE_TRUNCATED;
    if (data[0] != ICMP6_MLD_QUERY || data[1] != 0 || (len > MLD1_LENGTH && len < MLD2_QUERY_LENGTH))
        return WIRE_MALFORMED;
    uint32_t code = load_be16(data + 4);
    query->old = len == MLD1_LENGTH;
    query->any = ip_equal(data + 8, unspecified);
    memcpy(query->group, data + 8, 16);
    query->max_response = (query->old ? code : decode(code, 32768, 12)) * MS_NS;
    return WIRE_OK;
}

enum wire_verdict membership_parse(const uint8_t *data, size_t len, bool ipv4, struct membership_query *query)
{
    memset(query, 0, sizeof(*query));
    return ipv4 ? parse4(data, len, query) : parse6(data, len, query);
}

uint32_t membership_emit(uint8_t *out, const uint8_t group[16], enum membership_record record, bool old)
{
    bool ipv4 = ip_is4(group), leaves = record == MEMBERSHIP_TO_INCLUDE;
    memset(out, 0, MEMBERSHIP_LENGTH_MAX);
    if (old && ipv4) {
        out[0] = leaves ? IGMP2_LEAVE : IGMP2_REPORT;
        memcpy(out + 4, group + 12, 4);
        return IGMP2_LENGTH;
    }
    if (old) {
        out[0] = leaves ? ICMP6_MLD_DONE : ICMP6_MLD_REPORT;
        memcpy(out + 8, group, 16);
        return MLD1_LENGTH;
    }
    out[0] = ipv4 ? IGMP3_REPORT : ICMP6_MLD2_REPORT;
    store_be16(out + 6, 1); /* records */
    out[8] = (uint8_t)record;
    memcpy(out + 12, ipv4 ? group + 12 : group, ipv4 ? 4 : 16);
    return ipv4 ? 16 : 28;
}
