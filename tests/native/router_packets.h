/* SPDX-License-Identifier: BSD-2-Clause
 *
 * router_packets.h - what routers send, for the native tests and the fuzzers.
 */
#ifndef AMS_TESTS_ROUTER_PACKETS_H
#define AMS_TESTS_ROUTER_PACKETS_H

#include "packets.h"
#include "wire/checksum.h"
#include "wire/router.h"

#define ROUTER_PACKETS_PREFIX 32u /* bytes of a prefix option */

/* fe80::N */
static inline void router_packets_ip(uint8_t out[16], uint16_t n)
{
    memset(out, 0, 16);
    out[0] = 0xfe;
    out[1] = 0x80;
    store_be16(out + 14, n);
}

/* Writes an advertisement without options, behind its checksum zero. */
static inline uint32_t router_packets_advert(uint8_t *out, uint8_t hop_limit, uint8_t flags, uint16_t lifetime)
{
    memset(out, 0, ROUTER_ADVERT_LENGTH);
    out[0] = ICMP6_ROUTER_ADVERT;
    out[4] = hop_limit;
    out[5] = flags;
    store_be16(out + 6, lifetime);
    return ROUTER_ADVERT_LENGTH;
}

/* Writes a prefix option for 2001:db8:N::/length; flags are L 0x80, A 0x40. */
static inline uint32_t router_packets_prefix(uint8_t *out, uint32_t n, uint8_t length, uint8_t flags, uint32_t valid,
                                             uint32_t preferred)
{
    memset(out, 0, ROUTER_PACKETS_PREFIX);
    out[0] = 3;
    out[1] = ROUTER_PACKETS_PREFIX / 8;
    out[2] = length;
    out[3] = flags;
    store_be32(out + 4, valid);
    store_be32(out + 8, preferred);
    store_be32(out + 16, 0x20010db8u);
    store_be32(out + 20, n);
    return ROUTER_PACKETS_PREFIX;
}

/* Writes a link-layer address option: type 1 source, 2 target. */
static inline uint32_t router_packets_mac(uint8_t *out, uint8_t type, const uint8_t mac[6])
{
    out[0] = type;
    out[1] = 1;
    memcpy(out + 2, mac, 6);
    return 8;
}

/* Writes a redirect without options. */
static inline uint32_t router_packets_redirect(uint8_t *out, const uint8_t target[16], const uint8_t destination[16])
{
    memset(out, 0, ROUTER_REDIRECT_LENGTH);
    out[0] = ICMP6_REDIRECT;
    memcpy(out + 8, target, 16);
    memcpy(out + 24, destination, 16);
    return ROUTER_REDIRECT_LENGTH;
}

/* Puts a message of ICMPv6 in a frame to us, with a right checksum. */
static inline uint32_t router_packets_frame(uint8_t out[PACKETS_MAX], const uint8_t src[16], const uint8_t dst[16],
                                            const uint8_t *message, uint32_t len)
{
    struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .hop_limit = 255,
                                 .payload = (uint16_t)(len - ICMP_HEADER)};
    memcpy(what.src, src, 16);
    memcpy(what.dst, dst, 16);
    uint32_t total = packets_build(out, &what);
    uint8_t *l4 = out + total - len;
    memcpy(l4, message, len);
    store_be16(l4 + ICMP_CHECKSUM_AT, 0);
    uint64_t sum = checksum_pseudo(src, dst, PROTO_ICMPV6, len);
    store_be16(l4 + ICMP_CHECKSUM_AT, checksum_finish(checksum_add(sum, l4, len)));
    return total;
}

#endif
