/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bucket.h - a token bucket: a burst at once, and then one in each interval.
 */
#ifndef AMS_CORE_BUCKET_H
#define AMS_CORE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct token_bucket {
    uint64_t filled;          /* up to when tokens were put in */
    uint32_t tokens;
};

static inline void bucket_init(struct token_bucket *bucket, uint32_t burst, uint64_t now)
{
    *bucket = (struct token_bucket){.filled = now, .tokens = burst};
}

/* Takes a token, if there is one.
 * @burst: tokens that the bucket holds
 * @interval: ns in which one is put in, unless it is full
 * Return: false if there is none. */
static inline bool bucket_take(struct token_bucket *bucket, uint32_t burst, uint64_t interval, uint64_t now)
{
    uint64_t earned = (now - bucket->filled) / interval;
    if (earned >= burst - bucket->tokens) {
        bucket->tokens = burst;
        bucket->filled = now;
    } else {
        bucket->tokens += (uint32_t)earned;
        bucket->filled += earned * interval;
    }
    if (!bucket->tokens)
        return false;
    bucket->tokens--;
    return true;
}

#endif
