/* SPDX-License-Identifier: BSD-2-Clause
 *
 * eth.h - Ethernet II headers.
 */
#ifndef AMS_WIRE_ETH_H
#define AMS_WIRE_ETH_H

#include <stdbool.h>

#include "wire/bytes.h"
#include "wire/proto.h"

#define ETH_ADDR 6

struct eth_repr {
    uint8_t dst[ETH_ADDR];
    uint8_t src[ETH_ADDR];
    uint16_t type;
};

/* Parses the header at data.
 * Return: WIRE_OK or WIRE_TRUNCATED. */
static inline enum wire_verdict eth_parse(const uint8_t *data, size_t len, struct eth_repr *repr)
{
    if (len < ETH_HEADER)
        return WIRE_TRUNCATED;
    memcpy(repr->dst, data, ETH_ADDR);
    memcpy(repr->src, data + 6, ETH_ADDR);
    repr->type = load_be16(data + 12);
    return WIRE_OK;
}

/* Writes ETH_HEADER bytes. */
static inline void eth_emit(uint8_t *out, const struct eth_repr *repr)
{
    memcpy(out, repr->dst, ETH_ADDR);
    memcpy(out + 6, repr->src, ETH_ADDR);
    store_be16(out + 12, repr->type);
}

/* True if two hardware addresses are the same. */
static inline bool eth_equal(const uint8_t a[ETH_ADDR], const uint8_t b[ETH_ADDR])
{
    uint32_t x, y;
    uint16_t v, w;
    memcpy(&x, a, 4);
    memcpy(&y, b, 4);
    memcpy(&v, a + 4, 2);
    memcpy(&w, b + 4, 2);
    return ((x ^ y) | (uint32_t)(v ^ w)) == 0;
}

/* True for broadcast and multicast addresses (IEEE 802 I/G bit). */
static inline bool eth_is_group(const uint8_t a[ETH_ADDR]) { return a[0] & 1; }

/* True for what may name one station: not a group, not zero. */
static inline bool eth_is_station(const uint8_t a[ETH_ADDR])
{
    return !eth_is_group(a) && (a[0] | a[1] | a[2] | a[3] | a[4] | a[5]) != 0;
}

#endif
