/* SPDX-License-Identifier: BSD-2-Clause
 *
 * hash.h - keyed hashing and seeded random numbers.
 *
 * siphash13() is SipHash-1-3 (Aumasson & Bernstein 2012), as strong as a
 * hash table under attack needs; siphash24() is the full version, for ISNs
 * (RFC 6528).  ams_rng is xoshiro256** (Blackman & Vigna 2018), seeded
 * through splitmix64: fast, reproducible, not for secrets.
 */
#ifndef AMS_CORE_HASH_H
#define AMS_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct siphash_key {
    uint64_t k[2];
};

/* Hash `words` 64-bit words. */
uint64_t siphash13(const struct siphash_key *key, const uint64_t *data, size_t words);
uint64_t siphash24(const struct siphash_key *key, const uint64_t *data, size_t words);

struct ams_rng {
    uint64_t s[4];
};

void rng_init(struct ams_rng *rng, uint64_t seed0, uint64_t seed1);
uint64_t rng_next(struct ams_rng *rng);
/* Uniform in [0, bound); bound > 0. */
uint32_t rng_below(struct ams_rng *rng, uint32_t bound);
/* Uniform in [0, 1). */
double rng_unit(struct ams_rng *rng);

#endif
