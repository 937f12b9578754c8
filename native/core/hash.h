/* SPDX-License-Identifier: BSD-2-Clause
 *
 * hash.h - keyed hashing and seeded random numbers.
 *
 * siphash13() is SipHash-1-3 (Aumasson & Bernstein 2012), as strong as a
 * hash table under attack needs; siphash24() is the full version, for ISNs
 * (RFC 6528).  hash_mix() is for a table that every segment asks: a keyed sum
 * of products (Carter & Wegman 1979, section 3; Lemire & Kaser 2014), a seventh of
 * SipHash's instructions.  Who doesn't know the key cannot name two inputs that
 * are more likely to collide than any others.  Its outputs must stay secret,
 * as few of them tell the key.  ams_rng is xoshiro256** (Blackman & Vigna 2018), seeded
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

#define HASH_WORDS 9u

/* Words are multiplied by odd[0], odd[1], ... */
struct hash_key {
    uint64_t start;
    uint64_t odd[HASH_WORDS];
};

/* Makes the key for hash_mix() out of another. */
void hash_key_derive(struct hash_key *out, const struct siphash_key *key);

/* The end of a sum of products, which starts with key->start: both halves of it
 * decide over each bit, so that inputs in arithmetic progression, as ports and
 * addresses are, don't stay one in buckets. */
static inline uint32_t hash_mix(uint64_t sum)
{
    return (uint32_t)((sum ^ sum >> 32) * 0xd6e8feb86659fd93u >> 32);
}

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
