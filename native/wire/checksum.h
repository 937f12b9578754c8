/* SPDX-License-Identifier: BSD-2-Clause
 *
 * checksum.h - the Internet checksum (RFC 1071).
 *
 * Sums are kept as 64-bit accumulators of big-endian words' *native* loads;
 * checksum_fold() gives the 16-bit sum in network order as a value that
 * store_be16() writes.  A sum may be continued over pieces of any length as
 * long as every piece but the last starts at an even offset of the whole;
 * checksum_add_at() takes care of odd offsets.
 */
#ifndef AMS_WIRE_CHECKSUM_H
#define AMS_WIRE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* Adds length bytes to a sum. */
uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t length);
/* The same for a piece that starts at `offset` of the whole (odd: swapped). */
uint64_t checksum_add_at(uint64_t sum, const uint8_t *data, size_t length, size_t offset);
/* Folds to 16 bits, not inverted; in host order of the network value. */
uint16_t checksum_fold(uint64_t sum);
/* ~checksum_fold(): what a header carries. */
static inline uint16_t checksum_finish(uint64_t sum) { return (uint16_t)~checksum_fold(sum); }
/* The pseudo-header's sum (RFC 9293 section 3.1, RFC 8200 section 8.1).
 * Addresses are 16-byte, IPv4-mapped for IPv4 (only the last 4 count then). */
uint64_t checksum_pseudo(const uint8_t src[16], const uint8_t dst[16], uint8_t protocol, uint32_t length);

#endif
