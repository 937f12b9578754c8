/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/router.h"

#include "wire/ipv6.h"

#define OPTION_SOURCE_LLADDR 1
#define OPTION_TARGET_LLADDR 2
#define OPTION_PREFIX 3
#define OPTION_REDIRECTED 4
#define OPTION_MTU 5

#define PREFIX_LENGTH 32u
#define PREFIX_ON_LINK 0x80u
#define PREFIX_AUTONOMOUS 0x40u

/* One option of a message. */
struct option {
    uint8_t type;
    const uint8_t *data;     /* its type on */
    size_t len;              /* 8 or more */
};

/* Takes the option at `at`, and moves on.
 * Return: WIRE_OK; the option's length is wrong otherwise. */
static enum wire_verdict option_next(const uint8_t *data, size_t len, size_t *at, struct option *option)
{
    if (*at + 2 > len)
        return WIRE_TRUNCATED;
    option->type = data[*at];
    option->data = data + *at;
    option->len = data[*at + 1] * 8u;
    if (option->len == 0)
        return WIRE_MALFORMED;
    if (*at + option->len > len)
        return WIRE_TRUNCATED;
    *at += option->len;
    return WIRE_OK;
}

/* RFC 4191 section 2.2: the reserved value is taken for medium, and so is
 * that of a router which is none. */
static int8_t preference_of(uint8_t flags, uint16_t lifetime)
{
    static const int8_t meaning[] = {0, 1, 0, -1};
    return lifetime ? meaning[flags >> 3 & 3] : 0;
}

enum wire_verdict router_advert_parse(const uint8_t *data, size_t len, struct router_advert *repr)
{
    if (len < ROUTER_ADVERT_LENGTH)
        return WIRE_TRUNCATED;
    if (data[0] != ICMP6_ROUTER_ADVERT || data[1] != 0)
        return WIRE_MALFORMED;
    *repr = (struct router_advert){.hop_limit = data[4], .lifetime = load_be16(data + 6),
                                   .reachable_ms = load_be32(data + 8), .retrans_ms = load_be32(data + 12)};
    repr->preference = preference_of(data[5], repr->lifetime);
    for (size_t at = ROUTER_ADVERT_LENGTH; at < len;) {
        struct option option;
        enum wire_verdict verdict = option_next(data, len, &at, &option);
        if (verdict != WIRE_OK)
            return verdict;
        if (option.type == OPTION_SOURCE_LLADDR && option.len == 8 && !repr->has_lladdr) {
            memcpy(repr->lladdr, option.data + 2, 6);
            repr->has_lladdr = true;
        } else if (option.type == OPTION_MTU && option.len == 8) {
            repr->mtu = load_be32(option.data + 4);
        }
    }
    return WIRE_OK;
}

/* Clears the bits of a prefix behind its length. */
static void cut_prefix(uint8_t prefix[16], unsigned length)
{
    for (unsigned i = 0; i < 16; i++) {
        unsigned kept = length > 8 * i ? length - 8 * i : 0;
        if (kept < 8)
            prefix[i] &= (uint8_t)(0xff00u >> kept);
    }
}

bool router_advert_prefix(const uint8_t *data, size_t len, size_t *at, struct router_prefix *out)
{
    struct option option;
    if (*at == 0)
        *at = ROUTER_ADVERT_LENGTH;
    while (*at < len && option_next(data, len, at, &option) == WIRE_OK) {
        if (option.type != OPTION_PREFIX || option.len != PREFIX_LENGTH || option.data[2] > 128)
            continue;
        out->length = option.data[2];
        out->on_link = option.data[3] & PREFIX_ON_LINK;
        out->autonomous = option.data[3] & PREFIX_AUTONOMOUS;
        out->valid = load_be32(option.data + 4);
        out->preferred = load_be32(option.data + 8);
        memcpy(out->prefix, option.data + 16, 16);
        cut_prefix(out->prefix, out->length);
        return true;
    }
    return false;
}

enum wire_verdict router_redirect_parse(const uint8_t *data, size_t len, struct router_redirect *repr)
{
    if (len < ROUTER_REDIRECT_LENGTH)
        return WIRE_TRUNCATED;
    memset(repr, 0, sizeof(*repr));
    memcpy(repr->target, data + 8, 16);
    memcpy(repr->destination, data + 24, 16);
    if (data[0] != ICMP6_REDIRECT || data[1] != 0 || ipv6_is_multicast(repr->destination) ||
        (!ipv6_is_link_local(repr->target) && !ip_equal(repr->target, repr->destination)))
        return WIRE_MALFORMED;
    for (size_t at = ROUTER_REDIRECT_LENGTH; at < len;) {
        struct option option;
        enum wire_verdict verdict = option_next(data, len, &at, &option);
        if (verdict != WIRE_OK)
            return verdict;
        if (option.type == OPTION_TARGET_LLADDR && option.len == 8 && !repr->has_lladdr) {
            memcpy(repr->lladdr, option.data + 2, 6);
            repr->has_lladdr = true;
        } else if (option.type == OPTION_REDIRECTED && option.len > 8 && !repr->quoted) {
            repr->quoted = option.data + 8;
            repr->quoted_len = option.len - 8;
        }
    }
    return WIRE_OK;
}

uint32_t router_solicit_emit(uint8_t *out, const uint8_t *lladdr)
{
    icmp_emit(out, &(struct icmp_repr){.type = ICMP6_ROUTER_SOLICIT});
    if (!lladdr)
        return ROUTER_SOLICIT_LENGTH;
    out[8] = OPTION_SOURCE_LLADDR;
    out[9] = 1;
    memcpy(out + 10, lladdr, 6);
    return ROUTER_SOLICIT_LENGTH_LLADDR;
}
