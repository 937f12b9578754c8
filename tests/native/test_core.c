/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_core.c - timers, frames, hashes, sequence numbers, statuses, and the
 * TCP header.
 */
#include "check.h"

#include <errno.h>

#include "aiomultistack.h"
#include "core/frame.h"
#include "core/hash.h"
#include "core/seq.h"
#include "core/status.h"
#include "core/timer.h"
#include "wire/tcp.h"

/* ---- timers ------------------------------------------------------------------ */

#define TIMERS 500
#define TICK (1ull << TIMER_TICK_SHIFT)

/* Random arming, cancelling and waiting, against a plain array: no timer
 * fires early, none is later than one tick, none is lost; and waking at the
 * deadline is always enough. */
static void wheel_against_array(uint64_t seed)
{
    static struct timer_wheel wheel;
    static struct ams_timer timers[TIMERS];
    uint64_t due[TIMERS] = {0};
    struct ams_rng rng;
    uint64_t now = (seed % 7) * 123456789123ull;
    int armed = 0;

    memset(timers, 0, sizeof(timers));
    rng_init(&rng, seed, 1);
    timer_wheel_init(&wheel, now);
    for (int step = 0; step < 20000 || armed; step++) {
        uint32_t i = rng_below(&rng, TIMERS);
        uint32_t action = rng_below(&rng, 10);
        if (step < 20000 && action < 4) {
            armed += !due[i];
            due[i] = now + (rng_next(&rng) >> (14 + rng_below(&rng, 44)));
            timer_arm(&wheel, &timers[i], due[i]);
        } else if (step < 20000 && action < 6) {
            armed -= !!due[i];
            due[i] = 0;
            timer_cancel(&wheel, &timers[i]);
        } else {
            uint64_t deadline = timer_wheel_deadline(&wheel);
            if (deadline == UINT64_MAX) {
                CHECK_EQ(armed, 0);
                continue;
            }
            if (deadline > now)
                now = action < 9 ? deadline : now + (deadline - now) / 2;
            for (struct ams_timer *timer; (timer = timer_pop(&wheel, now));) {
                uint64_t at = due[timer - timers];
                CHECK(at != 0 && at <= now);
                CHECK(!timer_armed(timer));
                due[timer - timers] = 0;
                armed--;
            }
            for (int k = 0; k < TIMERS; k++)
                CHECK(!due[k] || due[k] + TICK > now);
        }
        CHECK_EQ(wheel.armed, armed);
    }
}

static void test_wheel_against_array(void)
{
    for (uint64_t seed = 0; seed < 20; seed++)
        wheel_against_array(seed);
}

/* A jump over years fires everything that was due in between. */
static void test_wheel_jump(void)
{
    static struct timer_wheel wheel;
    struct ams_timer timers[3] = {{0}};
    timer_wheel_init(&wheel, 0);
    timer_arm(&wheel, &timers[0], 5);
    timer_arm(&wheel, &timers[1], 40 * AMS_NS_PER_S);
    timer_arm(&wheel, &timers[2], 86400ull * 365 * 5 * AMS_NS_PER_S);
    int fired = 0;
    while (timer_pop(&wheel, 86400ull * 365 * 10 * AMS_NS_PER_S))
        fired++;
    CHECK_EQ(fired, 3);
    CHECK(timer_wheel_deadline(&wheel) == UINT64_MAX);
}

/* A million timers: each fires once, not before its time, and late by a tick at most. */
static void test_wheel_million(void)
{
    static struct timer_wheel wheel;
    const uint32_t count = 1000000;
    const uint64_t span = 3600 * AMS_NS_PER_S, step = span / 1000;
    struct ams_timer *timers = calloc(count, sizeof(*timers));
    uint64_t *due = calloc(count, sizeof(*due)), state = 42;
    uint32_t fired = 0, cancelled = 0, wrong = 0;
    CHECK(timers && due);
    timer_wheel_init(&wheel, 0);
    for (uint32_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        due[i] = 1 + (state >> 16) % span;
        timer_arm(&wheel, &timers[i], due[i]);
    }
    for (uint32_t i = 0; i < count; i += 10, cancelled++)
        timer_cancel(&wheel, &timers[i]);
    for (uint64_t now = step; now <= span + step; now += step) {
        struct ams_timer *timer;
        while ((timer = timer_pop(&wheel, now))) {
            uint64_t at = due[timer - timers];
            wrong += at > now || at + step + AMS_NS_PER_MS * 2 < now || (timer - timers) % 10 == 0;
            fired++;
        }
    }
    CHECK_EQ(wrong, 0);
    CHECK_EQ(fired + cancelled, count);
    CHECK(timer_wheel_deadline(&wheel) == UINT64_MAX);
    free(timers);
    free(due);
}

/* ---- frames -------------------------------------------------------------------- */

static void test_pool_limit_and_reuse(void)
{
    struct frame_pool pool;
    frame_pool_init(&pool, 2, false);
    struct ams_frame *a = frame_new(&pool, FRAME_CLASS_SMALL);
    struct ams_frame *b = frame_new(&pool, FRAME_CLASS_LARGE);
    CHECK(a && b && !frame_new(&pool, FRAME_CLASS_SMALL));
    CHECK_EQ(pool.failures, 1);
    CHECK_EQ(frame_tailroom(a), FRAME_SMALL - FRAME_HEADROOM);
    CHECK_EQ(frame_tailroom(b), FRAME_LARGE - FRAME_HEADROOM);
    a->len = 100;
    frame_pull(a, 40);
    CHECK_EQ(a->len, 60);
    CHECK_EQ(frame_tailroom(a), FRAME_SMALL - FRAME_HEADROOM - 100);
    frame_free(a);
    CHECK(frame_new(&pool, FRAME_CLASS_SMALL) == a);
    CHECK_EQ(a->len, 0);
    frame_free(a);
    frame_free(b);
    frame_free(NULL);
    frame_pool_fini(&pool);
    CHECK_EQ(pool.bytes, 0);
}

static void test_pool_gives_back_what_a_burst_has_left(void)
{
    static struct ams_frame *frames[3][300];
    struct frame_pool pool;
    uint64_t base, full, last;

    frame_pool_init(&pool, 1000, false);
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++)
        for (int i = 0; i < 300; i++) {
            frames[class_][i] = frame_new(&pool, (enum frame_class)class_);
            CHECK(frames[class_][i] != NULL);
        }
    full = pool.bytes;
    frame_pool_trim(&pool, true); /* what is in use stays */
    CHECK_EQ(pool.bytes, full);
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++)
        for (int i = 0; i < 300; i++)
            frame_free(frames[class_][i]);
    last = pool.bytes; /* less than full: a class keeps only so many */
    for (int i = 0; i < 60; i++) {
        frame_pool_trim(&pool, false);
        CHECK(pool.bytes <= last && (i || pool.bytes > last / 2));
        last = pool.bytes;
    }
    frame_pool_trim(&pool, true);
    base = pool.bytes;
    CHECK_EQ(base, last); /* it had come so far by itself */
    CHECK(base > 0 && base < 600000);
    CHECK(pool.free_count[FRAME_CLASS_SMALL] > 0 && pool.free_count[FRAME_CLASS_LARGE] > 0);
    frame_pool_fini(&pool);
}

static void test_pool_without_memory(void)
{
    struct frame_pool pool;
    frame_pool_init(&pool, 10, false);
    check_fail_at = 1;
    CHECK(!frame_new(&pool, FRAME_CLASS_SMALL));
    CHECK_EQ(pool.in_use, 0);
    check_fail_at = 0;
    frame_pool_fini(&pool);
}

static void test_gather(void)
{
    uint8_t head[] = "head-", out[32] = {0};
    struct ams_tx tx = {.head = head, .head_len = 5, .total = 11, .n_frags = 2};
    tx.frags[0] = (struct ams_tx_frag){(const uint8_t *)"ab", 2};
    tx.frags[1] = (struct ams_tx_frag){(const uint8_t *)"cdef", 4};
    CHECK_EQ(tx_gather(&tx, out), 11);
    CHECK_MEM(out, "head-abcdef", 12);
}

/* ---- hashes and numbers ------------------------------------------------------------ */

/* The paper's test vector: key 00..0f, message 00..0e has 15 bytes; ours are
 * whole words, so the 8-byte message of the reference table serves. */
static void test_siphash_vector(void)
{
    struct siphash_key key = {{0x0706050403020100u, 0x0f0e0d0c0b0a0908u}};
    uint64_t message = 0x0706050403020100u;
    CHECK(siphash24(&key, &message, 1) == 0x93f5f5799a932462u);
    CHECK(siphash24(&key, &message, 0) == 0x726fdb47dd0e0e31u);
    CHECK(siphash13(&key, &message, 1) != siphash24(&key, &message, 1));
}

static void test_rng_is_reproducible_and_bounded(void)
{
    struct ams_rng a, b, c;
    rng_init(&a, 1, 2);
    rng_init(&b, 1, 2);
    rng_init(&c, 1, 3);
    bool differs = false;
    for (int i = 0; i < 1000; i++) {
        uint64_t value = rng_next(&a);
        CHECK(value == rng_next(&b));
        differs = differs || value != rng_next(&c);
        CHECK(rng_below(&a, 7) < 7);
        rng_next(&b);
        double unit = rng_unit(&c);
        CHECK(unit >= 0 && unit < 1);
    }
    CHECK(differs);
}

static void test_sequence_numbers_wrap(void)
{
    CHECK(seq_lt(0xffffffffu, 0) && seq_gt(0, 0xffffffffu));
    CHECK(seq_lt(0x7fffffffu, 0x80000000u) && !seq_lt(5, 5) && seq_leq(5, 5) && seq_geq(5, 5));
    CHECK_EQ(seq_max(0xfffffff0u, 0x10), 0x10);
    CHECK_EQ(seq_min(0xfffffff0u, 0x10), 0xfffffff0u);
}

static void test_statuses(void)
{
    CHECK_EQ(ams_status_errno(-AMS_ECONNREFUSED), ECONNREFUSED);
    CHECK_EQ(ams_status_errno(0), 0);
    CHECK(strcmp(ams_status_name(-AMS_ENOMEM), "ENOMEM") == 0);
    CHECK(!ams_status_name(-AMS_STATUS_END) && !ams_status_name(1));
    CHECK(strlen(ams_status_text(-AMS_EIO)) > 0 && strlen(ams_status_text(-999)) > 0);
}

/* ---- the TCP header --------------------------------------------------------------------- */

/* What is emitted is parsed back, whatever the options. */
static void test_tcp_round_trip(void)
{
    for (int mask = 0; mask < 16; mask++) {
        for (int blocks = 0; blocks <= (mask & 4 ? 3 : 4); blocks++) {
            struct tcp_repr in = {.src_port = 1, .dst_port = 65535, .seq = 0xdeadbeef, .ack = 7, .flags = 0x5a,
                                  .window = 4711, .urgent = 9}, out;
            in.mss = mask & 1 ? 1460 : 0;
            in.sack_permitted = mask & 2;
            in.has_timestamps = mask & 4;
            in.has_wscale = mask & 8;
            if (in.mss || in.sack_permitted || in.has_wscale)
                blocks = 0; /* SYN options and SACK blocks never meet */
            in.tsval = in.has_timestamps ? 11 : 0;
            in.tsecr = in.has_timestamps ? 12 : 0;
            in.wscale = in.has_wscale ? 7 : 0;
            in.n_sack = (uint8_t)blocks;
            for (int i = 0; i < blocks; i++)
                in.sack[i] = (struct tcp_sack_block){100u * (unsigned)i, 100u * (unsigned)i + 50};
            uint8_t wire[60] = {0};
            uint32_t length = tcp_emit(&in, wire);
            CHECK_EQ(length, tcp_header_size(&in));
            CHECK(length <= 60 && length % 4 == 0);
            CHECK(tcp_parse(wire, length, &out));
            CHECK_EQ(out.header_len, length);
            CHECK(out.seq == in.seq && out.ack == in.ack && out.flags == in.flags && out.window == in.window);
            CHECK(out.mss == in.mss && out.sack_permitted == in.sack_permitted && out.has_wscale == in.has_wscale);
            CHECK_EQ(out.has_timestamps, in.has_timestamps);
            CHECK(!in.has_timestamps || (out.tsval == in.tsval && out.tsecr == in.tsecr));
            CHECK(!in.has_wscale || out.wscale == in.wscale);
            CHECK_EQ(out.n_sack, in.n_sack);
            CHECK_MEM(out.sack, in.sack, sizeof(in.sack[0]) * (size_t)blocks);
            for (uint32_t cut = 0; cut < length; cut++)
                CHECK(!tcp_parse(wire, cut, &out));
            if (in.mss || in.sack_permitted || in.has_wscale)
                break;
        }
    }
}

/* Any bytes: no crash, and nothing out of range. */
static void test_tcp_parse_noise(void)
{
    struct ams_rng rng;
    rng_init(&rng, 9, 9);
    for (int i = 0; i < 200000; i++) {
        uint8_t *wire = malloc(60); /* exact size: ASan sees every byte beyond */
        uint32_t length = rng_below(&rng, 61);
        for (uint32_t k = 0; k < 60; k++)
            wire[k] = rng_below(&rng, 3) ? (uint8_t)rng_below(&rng, 12) : (uint8_t)rng_next(&rng);
        if (length > 12 && rng_below(&rng, 2))
            wire[12] = (uint8_t)(length / 4 << 4);
        struct tcp_repr out;
        memset(&out, 0, sizeof(out));
        if (tcp_parse(wire, length, &out)) {
            CHECK(out.header_len <= length && out.header_len >= TCP_HEADER);
            CHECK(out.n_sack <= TCP_SACK_BLOCKS && out.wscale <= 14);
        }
        free(wire);
    }
}

int main(void)
{
    RUN(test_wheel_against_array);
    RUN(test_wheel_jump);
    RUN(test_wheel_million);
    RUN(test_pool_limit_and_reuse);
    RUN(test_pool_gives_back_what_a_burst_has_left);
    RUN(test_pool_without_memory);
    RUN(test_gather);
    RUN(test_siphash_vector);
    RUN(test_rng_is_reproducible_and_bounded);
    RUN(test_sequence_numbers_wrap);
    RUN(test_statuses);
    RUN(test_tcp_round_trip);
    RUN(test_tcp_parse_noise);
    return check_report();
}
