/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/ipv4.h"

#include "wire/checksum.h"

#define FLAG_MF 0x2000u
#define OFFSET_MASK 0x1fffu

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_LSRR 131
#define OPTION_SSRR 137

enum wire_verdict ipv4_parse_quoted(const uint8_t *data, size_t len, struct ipv4_repr *repr)
{
    if (len < IP4_HEADER)
        return WIRE_TRUNCATED;
    unsigned header_len = (data[0] & 0xfu) * 4;
    if (data[0] >> 4 != 4 || header_len < IP4_HEADER)
        return WIRE_MALFORMED;
    if (header_len > len)
        return WIRE_TRUNCATED;
    unsigned flags = load_be16(data + 6);
    repr->header_len = (uint8_t)header_len;
    repr->tos = data[1];
    repr->total_len = load_be16(data + 2);
    repr->id = load_be16(data + 4);
    repr->frag_off = (uint16_t)((flags & OFFSET_MASK) * 8);
    repr->dont_fragment = flags & IP4_FLAG_DF;
    repr->more_fragments = flags & FLAG_MF;
    repr->ttl = data[8];
    repr->protocol = data[9];
    memcpy(repr->src, data + 12, 4);
    memcpy(repr->dst, data + 16, 4);
    return repr->total_len < header_len ? WIRE_MALFORMED : WIRE_OK;
}

/* True if the header's sum, its checksum included, is minus zero. */
static inline bool header_sum_ok(const uint8_t *data, unsigned header_len)
{
    if (header_len == IP4_HEADER) /* nearly all headers: a few additions will do */
        return ipv4_plain_sum_ok(data);
    return checksum_fold(checksum_add(0, data, header_len)) == 0xffff;
}

enum wire_verdict ipv4_parse(const uint8_t *data, size_t len, struct ipv4_repr *repr)
{
    enum wire_verdict verdict = ipv4_parse_quoted(data, len, repr);
    if (verdict != WIRE_OK)
        return verdict;
    if (repr->total_len > len)
        return WIRE_TRUNCATED;
    return header_sum_ok(data, repr->header_len) ? WIRE_OK : WIRE_CHECKSUM;
}

void ipv4_update_checksum(uint8_t *header, size_t header_len)
{
    store_be16(header + 10, 0);
    store_be16(header + 10, checksum_finish(checksum_add(0, header, header_len)));
}

/* The sum of an address's two halves. */
static inline uint32_t halves(const uint8_t address[4])
{
    uint32_t value = load_be32(address);
    return (value >> 16) + (value & 0xffff);
}

/* The checksum comes from the values, not from the bytes: what was written a
 * moment ago in small pieces is slow to read in large ones. */
void ipv4_emit(uint8_t *out, const struct ipv4_repr *repr)
{
    uint32_t first = 0x4500u | repr->tos;
    uint32_t fragment = (repr->dont_fragment ? IP4_FLAG_DF : 0) | (repr->more_fragments ? FLAG_MF : 0) |
                        (uint32_t)repr->frag_off >> 3;
    uint32_t life = (uint32_t)repr->ttl << 8 | repr->protocol;
    uint32_t sum = first + repr->total_len + repr->id + fragment + life + halves(repr->src) + halves(repr->dst);
    sum = (sum & 0xffff) + (sum >> 16);
    sum += sum >> 16;
    store_be16(out, first);
    store_be16(out + 2, repr->total_len);
    store_be16(out + 4, repr->id);
    store_be16(out + 6, fragment);
    store_be16(out + 8, life);
    store_be16(out + 10, ~sum);
    memcpy(out + 12, repr->src, 4);
    memcpy(out + 16, repr->dst, 4);
}

enum ipv4_options ipv4_check_options(const uint8_t *data, unsigned header_len)
{
    unsigned at = IP4_HEADER;
    while (at < header_len) {
        uint8_t kind = data[at];
        if (kind == OPTION_END)
            break;
        if (kind == OPTION_NOP) {
            at++;
            continue;
        }
        if (at + 2 > header_len || data[at + 1] < 2 || at + data[at + 1] > header_len)
            return IPV4_OPTIONS_MALFORMED;
        if (kind == OPTION_LSRR || kind == OPTION_SSRR)
            return IPV4_OPTIONS_ROUTED;
        at += data[at + 1];
    }
    return IPV4_OPTIONS_PLAIN;
}
