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

/* The next timer that is due, whatever work that takes. */
static struct ams_timer *pop(struct timer_wheel *wheel, uint64_t now)
{
    uint32_t work = UINT32_MAX;
    return timer_pop(wheel, now, &work);
}

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
            for (struct ams_timer *timer; (timer = pop(&wheel, now));) {
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
    while (pop(&wheel, 86400ull * 365 * 10 * AMS_NS_PER_S))
        fired++;
    CHECK_EQ(fired, 3);
    CHECK(timer_wheel_deadline(&wheel) == UINT64_MAX);
}

/* The tick at which a timer may fire. */
static uint64_t tick_of(uint64_t expires)
{
    return (expires + (1u << TIMER_TICK_SHIFT) - 1) >> TIMER_TICK_SHIFT;
}

/* One of a million timers: what it was armed for last, and when that was. */
struct many {
    struct ams_timer timer;
    uint64_t due;           /* 0: not armed */
    uint32_t turn;          /* counts up with each arming */
};

struct million {
    struct timer_wheel wheel;
    struct many *timers;
    struct ams_rng rng;
    uint64_t now;
    uint64_t last_tick;     /* of the timer that fired last, and its turn */
    uint32_t last_turn;
    uint32_t turn, fired, cancelled;
};

#define MILLION 1000000u
#define MILLION_WORK 256u

static void million_arm(struct million *m, uint32_t i, uint64_t due)
{
    m->timers[i].due = due;
    m->timers[i].turn = ++m->turn;
    timer_arm(&m->wheel, &m->timers[i].timer, due);
}

/* Lets the wheel do a bounded amount of work.  What fires is due, in order of
 * ticks, and within a tick in the order in which it was armed. */
static void million_run(struct million *m)
{
    uint32_t work = MILLION_WORK, popped = 0;
    struct ams_timer *timer;
    while ((timer = timer_pop(&m->wheel, m->now, &work))) {
        struct many *one = AMS_CONTAINER_OF(timer, struct many, timer);
        CHECK(one->due && one->due <= m->now);
        CHECK(tick_of(one->due) > m->last_tick ||
              (tick_of(one->due) == m->last_tick && one->turn > m->last_turn));
        m->last_tick = tick_of(one->due);
        m->last_turn = one->turn;
        one->due = 0;
        m->fired++;
        popped++;
    }
    CHECK(work <= MILLION_WORK - popped);
    CHECK(work == 0 || timer_wheel_deadline(&m->wheel) > m->now); /* all that is due has fired, or as much as may */
    CHECK(work < MILLION_WORK);                                   /* and there was something to do */
}

/* A million timers, in crowds that are due at one time and spread over two
 * hours; while they fire, a few at a time, others are armed and cancelled. */
static void test_wheel_million(void)
{
    struct million *m = calloc(1, sizeof(*m));
    uint32_t rounds = 0;
    CHECK(m && (m->timers = calloc(MILLION, sizeof(*m->timers))));
    CHECK(sizeof(struct ams_timer) <= 32);
    rng_init(&m->rng, 42, 1);
    timer_wheel_init(&m->wheel, 0);
    for (uint32_t i = 0; i < MILLION; i++) {
        uint64_t crowd = (1 + rng_below(&m->rng, 4)) * 1800 * AMS_NS_PER_S;
        million_arm(m, i, i % 2 ? crowd : 1 + rng_next(&m->rng) % (7200 * AMS_NS_PER_S));
    }
    for (; m->wheel.armed; rounds++) {
        uint64_t deadline = timer_wheel_deadline(&m->wheel);
        CHECK(deadline != UINT64_MAX);
        m->now = deadline > m->now ? deadline : m->now;
        million_run(m);
        uint32_t i = rng_below(&m->rng, MILLION);
        if (rounds > MILLION / 4)
            continue; /* the rest runs out */
        if (m->timers[i].due) {
            timer_cancel(&m->wheel, &m->timers[i].timer);
            m->timers[i].due = 0;
            m->cancelled++;
        } else if (rng_below(&m->rng, 2)) { /* soon, perhaps in what is being moved */
            million_arm(m, i, m->now + rng_next(&m->rng) % (rng_below(&m->rng, 2) ? AMS_NS_PER_S : 90 * AMS_NS_PER_S));
        }
        CHECK(rounds < 2000000);
    }
    CHECK_EQ(m->fired + m->cancelled, m->turn);
    CHECK(m->turn > MILLION && m->cancelled > 1000);
    CHECK(timer_wheel_deadline(&m->wheel) == UINT64_MAX);
    free(m->timers);
    free(m);
}

/* However many timers are in a slot, one call does no more than it may: here
 * they are moved down level by level before any is due. */
static void test_wheel_bounded_work(void)
{
    static struct timer_wheel wheel;
    static struct ams_timer timers[3000];
    const uint64_t due = (uint64_t)(64 * 64 * 64 + 64 * 64 + 65) << TIMER_TICK_SHIFT;
    uint32_t calls = 0, fired = 0;
    timer_wheel_init(&wheel, 0);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(timers); i++)
        timer_arm(&wheel, &timers[i], due);
    while (fired < AMS_ARRAY_SIZE(timers)) {
        uint32_t work = 100;
        CHECK(timer_wheel_deadline(&wheel) <= due);
        for (struct ams_timer *timer; (timer = timer_pop(&wheel, due, &work)); fired++)
            CHECK(timer == &timers[fired]);
        CHECK_EQ(work, 0);
        calls++;
    }
    CHECK_EQ(calls, 4 * 3000 / 100); /* moved three times, fired once */
    uint32_t work = 1;
    CHECK(timer_pop(&wheel, due, &work) == NULL);
    CHECK_EQ(work, 1);
}

/* A timer tells of the one that was armed TIMER_AHEAD later; those that are
 * disarmed meanwhile, and perhaps freed, are not written to.  Whether they are
 * told of depends on where they lay: it's an address to ask for in time, no
 * more. */
static void test_wheel_ahead(void)
{
    static struct timer_wheel wheel;
    static struct ams_timer timers[4 * TIMER_AHEAD];
    timer_wheel_init(&wheel, 0);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(timers); i++) {
        struct ams_timer *passing = calloc(1, sizeof(*passing));
        CHECK(passing);
        timer_arm(&wheel, &timers[i], TICK * (1 + i / 10));
        if (i % 5 == 0) {
            timer_arm(&wheel, passing, TICK);
            timer_cancel(&wheel, passing);
        }
        free(passing);
    }
    unsigned told = 0;
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(timers); i++) {
        struct ams_timer *timer = pop(&wheel, 100 * TICK);
        CHECK(timer == &timers[i]);
        uintptr_t ahead = (uintptr_t)timer_ahead(timer), first = (uintptr_t)timers;
        if (ahead < first || ahead >= first + sizeof(timers))
            continue;
        CHECK(ahead > (uintptr_t)timer && ahead <= (uintptr_t)(timer + TIMER_AHEAD));
        told++;
    }
    CHECK(told >= AMS_ARRAY_SIZE(timers) / 2);
    CHECK(timer_ahead(&timers[AMS_ARRAY_SIZE(timers) - 1]) == NULL);
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
    RUN(test_wheel_bounded_work);
    RUN(test_wheel_ahead);
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
