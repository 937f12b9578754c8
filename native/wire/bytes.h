/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bytes.h - loads and stores of network-order integers.
 *
 * Parsers check a length once, then load; no byte pointer is ever cast to
 * a header struct.
 */
#ifndef AMS_WIRE_BYTES_H
#define AMS_WIRE_BYTES_H

#include <stdint.h>
#include <string.h>

/* Two bytes, big-endian. */
static inline uint16_t load_be16(const uint8_t *p)
{
    return (uint16_t)((unsigned)p[0] << 8 | p[1]);
}

/* Four bytes, big-endian. */
static inline uint32_t load_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap32(v);
#endif
    return v;
}

/* Writes the low 16 bits of v, big-endian. */
static inline void store_be16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* Writes v, big-endian. */
static inline void store_be32(uint8_t *p, uint32_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap32(v);
#endif
    memcpy(p, &v, 4);
}

/* The IPv4-mapped address of v4 (RFC 4291 section 2.5.5.2).  Written as two
 * words because it is read so next: CPUs don't put a word together from
 * several stores on their way to memory, they wait. */
static inline void ip_map4(uint8_t out[16], const uint8_t v4[4])
{
    uint32_t address;
    memcpy(&address, v4, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    const uint64_t words[2] = {0, (uint64_t)address << 32 | 0xffff0000u};
#else
    const uint64_t words[2] = {0, (uint64_t)0xffff << 32 | address};
#endif
    memcpy(out, words, 16);
}

/* True if a 16-byte address is an IPv4-mapped one. */
static inline int ip_is4(const uint8_t ip[16])
{
    uint64_t high;
    uint32_t mid;
    memcpy(&high, ip, 8);
    memcpy(&mid, ip + 8, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return high == 0 && mid == 0xffff0000u;
#else
    return high == 0 && mid == 0x0000ffffu;
#endif
}

/* True if two 16-byte addresses are the same. */
static inline int ip_equal(const uint8_t a[16], const uint8_t b[16])
{
    uint64_t x[2], y[2];
    memcpy(x, a, 16);
    memcpy(y, b, 16);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

#endif
