/* SPDX-License-Identifier: BSD-2-Clause
 *
 * steps_tcp.c - what hostile segments cost: work, counted in basic blocks.
 *
 * Time tells little on a busy machine; so the engine is compiled with
 * -fsanitize-coverage=trace-pc, and each basic block of native/ that is
 * entered counts as one step (what memmove() and the like do inside is not
 * seen; what they are given is bounded elsewhere).  Each attack is preceded by
 * as many segments of an honest peer, and its bound is a multiple of their
 * work: an attacker must not get much more of our time for a segment than
 * anybody does.
 */
#include "peer_fixture.h"

#define ROUNDS 2000u
#define BOUND 8u              /* times the work of an honest segment */

static uint64_t steps;
void __sanitizer_cov_trace_pc(void);
__attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc(void) { steps++; }

static struct peer peer;
static uint64_t honest;       /* steps of a segment of data that is acknowledged at once */

/* The steps of one segment, and of all that the engine has to say to it. */
static uint64_t cost_of(struct peer_segment what)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t len = peer_build(&peer, &what, frame);
    uint64_t before = steps;
    world_inject(&peer.world, A, frame, len);
    world_settle(&peer.world);
    uint64_t cost = steps - before;
    peer_settle(&peer);
    return cost;
}

/* Measures `honest`, which leaves a connection with a large window behind. */
static void begin(void)
{
    peer_init(&peer, (struct world_options){0});
    peer_open(&peer, 1460, 65535);
    CHECK_EQ(ams_tcp_setopt(peer.world.host[A], peer.id, AMS_OPT_NODELAY, 1), 0);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 100; i++)
        sum += cost_of((struct peer_segment){.flags = TCP_ACK | TCP_PSH, .seq = 1 + 100 * i, .ack = 1, .window = 65535,
                                             .payload = 100});
    honest = sum / 100;
    peer.next = 10001;
    CHECK(honest > 50); /* it is counted at all */
}

static void judge(const char *what, uint64_t sum, uint64_t worst, uint32_t n)
{
    printf("    %s: %llu steps a segment, %llu at worst; an honest one's are %llu\n", what,
           (unsigned long long)(sum / n), (unsigned long long)worst, (unsigned long long)honest);
    CHECK(sum / n <= BOUND * honest);
}

/* Has n segments of one byte in flight. */
static uint32_t fly_bytes(uint32_t n)
{
    peer_take(&peer, 200000, 65535);
    uint32_t first = peer.high;
    for (uint32_t i = 0; i < n; i++) {
        CHECK(ams_tcp_send(peer.world.host[A], peer.id, "x", 1) >= 0);
        world_settle(&peer.world);
    }
    CHECK_EQ(peer.high - first, n);
    return first;
}

/* SACKs that say something else each time, over thousands of segments
 * (CVE-2019-11477 to 11479, CVE-2018-5390's cousin on the sender's side). */
static void test_sack_blocks_all_over_the_window(void)
{
    struct ams_rng rng;
    uint64_t sum = 0, worst = 0;
    rng_init(&rng, 1, 2);
    begin();
    uint32_t first = fly_bytes(8000);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct peer_segment ack = {.flags = TCP_ACK, .seq = 10001, .ack = first, .window = 65535, .n_sack = 3};
        for (int k = 0; k < 3; k++) {
            uint32_t at = first + 1 + rng_below(&rng, 7990);
            ack.sack[k] = (struct tcp_sack_block){at, at + 1 + rng_below(&rng, 3)};
        }
        uint64_t cost = cost_of(ack);
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    judge("SACK blocks", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* Bytes out of order, each with a gap before it, in the worst order. */
static void test_scattered_bytes(void)
{
    uint64_t sum = 0, worst = 0;
    begin();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t cost = cost_of((struct peer_segment){.flags = TCP_ACK, .seq = 10001 + 2 * (ROUNDS - i), .ack = 1,
                                                      .window = 65535, .payload = 1});
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    judge("scattered bytes", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* The same bytes again and again, cut otherwise each time. */
static void test_overlapping_segments(void)
{
    uint64_t sum = 0, worst = 0;
    struct ams_rng rng;
    rng_init(&rng, 3, 4);
    begin();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t cost = cost_of((struct peer_segment){.flags = TCP_ACK, .seq = 10002 + rng_below(&rng, 20000), .ack = 1,
                                                      .window = 65535, .payload = 1 + rng_below(&rng, 1400)});
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    judge("overlapping segments", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* SYNs from everywhere: first connections half open, then cookies. */
static void test_a_flood_of_syns(void)
{
    uint64_t sum = 0, worst = 0;
    begin();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t cost = cost_of((struct peer_segment){.flags = TCP_SYN, .port = (uint16_t)(1024 + i), .window = 65535,
                                                      .mss = 1460, .options = true});
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    CHECK(world_counters(&peer.world, A)->tcp_cookie_tx > ROUNDS / 4);
    judge("SYNs", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* ACKs that may or may not bring a cookie back. */
static void test_a_flood_of_acks_while_cookies_are_out(void)
{
    uint64_t sum = 0, worst = 0;
    begin();
    for (uint32_t i = 0; i < TCP_SYN_BACKLOG + 1; i++)
        peer_send(&peer, (struct peer_segment){.flags = TCP_SYN, .port = (uint16_t)(1024 + i), .window = 65535});
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t cost = cost_of((struct peer_segment){.flags = TCP_ACK, .port = (uint16_t)(20000 + i), .seq = i,
                                                      .ack = 77 * i, .window = 65535});
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    CHECK_EQ(world_counters(&peer.world, A)->tcp_cookie_bad, ROUNDS);
    judge("ACKs of no cookie", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* Resets, SYNs and ACKs that hit the window at best (RFC 5961). */
static void test_blind_segments(void)
{
    static const uint16_t flags[] = {TCP_RST, TCP_SYN, TCP_ACK, TCP_RST | TCP_ACK, TCP_FIN | TCP_ACK};
    uint64_t sum = 0, worst = 0;
    struct ams_rng rng;
    rng_init(&rng, 5, 6);
    begin();
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint64_t cost = cost_of((struct peer_segment){.flags = flags[i % 5], .seq = 10002 + rng_below(&rng, 100000),
                                                      .ack = rng_below(&rng, UINT32_MAX), .window = 65535});
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    judge("blind segments", sum, worst, ROUNDS);
    peer_fini(&peer);
}

/* Duplicate ACKs by the thousand, and D-SACKs of what was never lost. */
static void test_duplicate_acks(void)
{
    uint64_t sum = 0, worst = 0;
    begin();
    uint32_t first = fly_bytes(4000);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct peer_segment ack = {.flags = TCP_ACK, .seq = 10001, .ack = first, .window = 65535, .n_sack = i % 2,
                                   .sack = {{first - 100 - i % 50, first - 50}}};
        uint64_t cost = cost_of(ack);
        sum += cost;
        worst = ams_max_u64(worst, cost);
    }
    judge("duplicate ACKs", sum, worst, ROUNDS);
    peer_fini(&peer);
}

int main(void)
{
    RUN(test_sack_blocks_all_over_the_window);
    RUN(test_scattered_bytes);
    RUN(test_overlapping_segments);
    RUN(test_a_flood_of_syns);
    RUN(test_a_flood_of_acks_while_cookies_are_out);
    RUN(test_blind_segments);
    RUN(test_duplicate_acks);
    return check_report();
}
