/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/ndp.h"

#define OPTION_SOURCE_LLADDR 1
#define OPTION_TARGET_LLADDR 2

enum wire_verdict ndp_parse(const uint8_t *data, size_t len, struct ndp_repr *repr)
{
    if (len < NDP_LENGTH)
        return WIRE_TRUNCATED;
    memset(repr, 0, sizeof(*repr));
    repr->type = data[0];
    if (data[1] != 0 || data[8] == 0xff)
        return WIRE_MALFORMED;
    uint8_t wanted = repr->type == ICMP6_NEIGHBOR_SOLICIT ? OPTION_SOURCE_LLADDR : OPTION_TARGET_LLADDR;
    repr->flags = load_be32(data + 4);
    memcpy(repr->target, data + 8, 16);
    for (size_t at = NDP_LENGTH; at < len;) {
        if (at + 2 > len)
            return WIRE_TRUNCATED;
        size_t option_len = data[at + 1] * 8u;
        if (option_len == 0)
            return WIRE_MALFORMED;
        if (at + option_len > len)
            return WIRE_TRUNCATED;
        if (data[at] == wanted && option_len == 8 && !repr->has_lladdr) {
            memcpy(repr->lladdr, data + at + 2, 6);
            repr->has_lladdr = true;
        }
        at += option_len;
    }
    return WIRE_OK;
}

uint32_t ndp_emit(uint8_t *out, const struct ndp_repr *repr)
{
    icmp_emit(out, &(struct icmp_repr){.type = repr->type, .rest = repr->flags});
    memcpy(out + 8, repr->target, 16);
    if (!repr->has_lladdr)
        return NDP_LENGTH;
    out[24] = repr->type == ICMP6_NEIGHBOR_SOLICIT ? OPTION_SOURCE_LLADDR : OPTION_TARGET_LLADDR;
    out[25] = 1;
    memcpy(out + 26, repr->lladdr, 6);
    return NDP_LENGTH_LLADDR;
}
