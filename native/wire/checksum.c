/* SPDX-License-Identifier: BSD-2-Clause
 *
 * checksum.c - the Internet checksum, 32 bytes at a time.
 *
 * Theory of operation.  The one's complement sum of 16-bit words is a sum
 * modulo 2^16 - 1.  2^64 - 1 is a multiple of that, so 64-bit words may be
 * added with end-around carry and folded at the end; and since the sum is
 * byte-order independent (RFC 1071 section 2 (B)) words are loaded as the
 * machine likes them and swapped once, after folding.  Four accumulators
 * hide the latency of the carries.
 */
#include "wire/checksum.h"

#include <string.h>

#include "core/base.h"

/* Eight bytes as the machine likes them. */
static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* a + b with end-around carry. */
static inline uint64_t add_carry(uint64_t a, uint64_t b)
{
    a += b;
    return a + (a < b);
}

/* A word that has n bytes, `value` as the machine likes them, behind `at` zeros. */
static inline uint64_t placed(uint64_t value, size_t at, size_t n)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    (void)n;
    return value << 8 * at;
#else
    return value << 8 * (8 - at - n);
#endif
}

/* The last 0 to 7 bytes as one word, in memory order, zeros behind. */
static inline uint64_t load_tail(const uint8_t *p, size_t n)
{
    uint64_t word = 0;
    size_t at = 0;
    if (n & 4) {
        uint32_t four;
        memcpy(&four, p, 4);
        word = placed(four, 0, 4);
        at = 4;
    }
    if (n & 2) {
        uint16_t two;
        memcpy(&two, p + at, 2);
        word |= placed(two, at, 2);
        at += 2;
    }
    if (n & 1)
        word |= placed(p[at], at, 1);
    return word;
}

uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t length)
{
    if (length >= 32) {
        uint64_t s0 = sum, s1 = 0, s2 = 0, s3 = 0;
        do {
            s0 = add_carry(s0, load64(data));
            s1 = add_carry(s1, load64(data + 8));
            s2 = add_carry(s2, load64(data + 16));
            s3 = add_carry(s3, load64(data + 24));
            data += 32;
            length -= 32;
        } while (length >= 32);
        sum = add_carry(add_carry(s0, s1), add_carry(s2, s3));
    }
    while (length >= 8) {
        sum = add_carry(sum, load64(data));
        data += 8;
        length -= 8;
    }
    return add_carry(sum, load_tail(data, length));
}

/* Folds to 16 bits as the machine loaded them. */
static inline uint16_t fold_native(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + ((sum >> 16) & 0xffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

uint64_t checksum_add_at(uint64_t sum, const uint8_t *data, size_t length, size_t offset)
{
    if (AMS_LIKELY((offset & 1) == 0))
        return checksum_add(sum, data, length);
    return add_carry(sum, __builtin_bswap16(fold_native(checksum_add(0, data, length))));
}

uint16_t checksum_fold(uint64_t sum)
{
    uint16_t folded = fold_native(sum);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    folded = __builtin_bswap16(folded);
#endif
    return folded;
}

/* The twelve bytes that map an IPv4 address add up to 0xffff, which is zero
 * in this arithmetic; so both families are summed alike. */
uint64_t checksum_pseudo(const uint8_t src[16], const uint8_t dst[16], uint8_t protocol, uint32_t length)
{
    uint64_t sum = add_carry(load64(src), load64(src + 8));
    sum = add_carry(sum, add_carry(load64(dst), load64(dst + 8)));
    uint64_t tail = (uint64_t)length + protocol;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    tail = __builtin_bswap64(tail);
#endif
    return add_carry(sum, tail);
}
