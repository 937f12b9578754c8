/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.h - UDP headers (RFC 768).
 */
#ifndef AMS_WIRE_UDP_H
#define AMS_WIRE_UDP_H

#include "wire/bytes.h"
#include "wire/proto.h"

#define UDP_CHECKSUM_AT 6

struct udp_repr {
    uint16_t src_port;
    uint16_t dst_port;
    uint16_t length;         /* header and payload */
    uint16_t checksum;       /* 0: none */
};

/* Parses a header whose datagram has len bytes.
 * Return: WIRE_OK, WIRE_TRUNCATED, or WIRE_MALFORMED (length below 8). */
static inline enum wire_verdict udp_parse(const uint8_t *data, size_t len, struct udp_repr *repr)
{
    if (len < UDP_HEADER)
        return WIRE_TRUNCATED;
    repr->src_port = load_be16(data);
    repr->dst_port = load_be16(data + 2);
    repr->length = load_be16(data + 4);
    repr->checksum = load_be16(data + 6);
    if (repr->length < UDP_HEADER)
        return WIRE_MALFORMED;
    return repr->length > len ? WIRE_TRUNCATED : WIRE_OK;
}

/* Writes UDP_HEADER bytes. */
static inline void udp_emit(uint8_t *out, const struct udp_repr *repr)
{
    store_be16(out, repr->src_port);
    store_be16(out + 2, repr->dst_port);
    store_be16(out + 4, repr->length);
    store_be16(out + 6, repr->checksum);
}

#endif
