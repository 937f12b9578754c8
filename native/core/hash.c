/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/hash.h"

static inline uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

struct sip {
    uint64_t a, b, c, d;
};

static inline void sip_round(struct sip *v)
{
    v->a += v->b;
    v->c += v->d;
    v->b = rotl(v->b, 13) ^ v->a;
    v->d = rotl(v->d, 16) ^ v->c;
    v->a = rotl(v->a, 32);
    v->c += v->b;
    v->a += v->d;
    v->b = rotl(v->b, 17) ^ v->c;
    v->d = rotl(v->d, 21) ^ v->a;
    v->c = rotl(v->c, 32);
}

/* The body of both variants: c_rounds per word, d_rounds at the end. */
static inline uint64_t sip_hash(const struct siphash_key *key, const uint64_t *data, size_t words, int c_rounds,
                                int d_rounds)
{
    struct sip v = {
        key->k[0] ^ 0x736f6d6570736575u,
        key->k[1] ^ 0x646f72616e646f6du,
        key->k[0] ^ 0x6c7967656e657261u,
        key->k[1] ^ 0x7465646279746573u,
    };
    for (size_t i = 0; i <= words; i++) {
        uint64_t word = i < words ? data[i] : (uint64_t)words << 59;
        v.d ^= word;
        for (int round = 0; round < c_rounds; round++)
            sip_round(&v);
        v.a ^= word;
    }
    v.c ^= 0xff;
    for (int round = 0; round < d_rounds; round++)
        sip_round(&v);
    return v.a ^ v.b ^ v.c ^ v.d;
}

uint64_t siphash13(const struct siphash_key *key, const uint64_t *data, size_t words)
{
    return sip_hash(key, data, words, 1, 3);
}

uint64_t siphash24(const struct siphash_key *key, const uint64_t *data, size_t words)
{
    return sip_hash(key, data, words, 2, 4);
}

void hash_key_derive(struct hash_key *out, const struct siphash_key *key)
{
    uint64_t word = 0;
    out->start = siphash24(key, &word, 1);
    for (uint32_t i = 0; i < HASH_WORDS; i++) {
        word++;
        out->odd[i] = siphash24(key, &word, 1) | 1;
    }
}

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void rng_init(struct ams_rng *rng, uint64_t seed0, uint64_t seed1)
{
    uint64_t first = seed0, second = seed1 ^ 0xa5a5a5a55a5a5a5au;
    for (int i = 0; i < 4; i++)
        rng->s[i] = splitmix64(&first) ^ rotl(splitmix64(&second), 17);
    rng->s[0] |= 1; /* never all zero */
}

uint64_t rng_next(struct ams_rng *rng)
{
    uint64_t *s = rng->s;
    uint64_t result = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

uint32_t rng_below(struct ams_rng *rng, uint32_t bound)
{
    return (uint32_t)((rng_next(rng) >> 32) * bound >> 32);
}

double rng_unit(struct ams_rng *rng)
{
    return (double)(rng_next(rng) >> 11) * 0x1.0p-53;
}
