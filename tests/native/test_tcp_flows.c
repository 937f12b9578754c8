/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_tcp_flows.c - the table of flows.
 */
#include "check.h"

#include "stack/tcp_flows.h"

#define FLOWS 5000u

static const struct siphash_key secret = {{1, 2}};

/* The 4-tuple number i, of either family. */
static struct tcp_flow flow_number(uint32_t i)
{
    struct tcp_flow flow = {.local_port = 80, .remote_port = (uint16_t)(1024 + i / 4)};
    flow.family = i % 2 ? AMS_IPV4 : AMS_IPV6;
    ip_map4(flow.local_ip, (const uint8_t[]){10, 0, 0, 1});
    ip_map4(flow.remote_ip, (const uint8_t[]){10, 0, (uint8_t)(i / 2 % 2), 2});
    if (flow.family == AMS_IPV6)
        flow.local_ip[0] = flow.remote_ip[0] = 0x20;
    return flow;
}

static struct tcp_flow *get(const struct tcp_flows *flows, const struct tcp_flow *like)
{
    uint32_t hash = tcp_flow_hash(flows, like->local_ip, like->local_port, like->remote_ip, like->remote_port,
                                  like->family);
    return tcp_flows_get(flows, hash, like->local_ip, like->local_port, like->remote_ip, like->remote_port);
}

/* A walk meets each flow once that is marked, and no other. */
static void check_walk(const struct tcp_flows *flows, const struct tcp_flow *all, const bool *in)
{
    static uint8_t met[FLOWS];
    struct tcp_flow_walk walk = {0};
    uint32_t n = 0;
    memset(met, 0, sizeof(met));
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(flows, &walk)); n++)
        CHECK_EQ(met[flow - all]++, 0);
    CHECK_EQ(n, flows->n);
    for (uint32_t i = 0; i < FLOWS; i++)
        CHECK_EQ(met[i], in[i]);
}

/* Adds and removes at random, and asks for what is in and what isn't.
 * @alike: all flows have one hash
 * @poor: the table cannot grow */
static void conversation(uint64_t seed, uint32_t range, bool alike, bool poor)
{
    static struct tcp_flow all[FLOWS];
    static bool in[FLOWS];
    struct tcp_flows flows;
    struct ams_rng rng;
    uint32_t n = 0;

    rng_init(&rng, seed, 7);
    memset(in, 0, sizeof(in));
    CHECK_EQ(tcp_flows_init(&flows, &secret, NULL), 0);
    if (alike)
        memset(flows.key.odd, 0, sizeof(flows.key.odd));
    for (uint32_t i = 0; i < FLOWS; i++)
        all[i] = flow_number(i);
    for (uint32_t step = 0; step < 6 * range; step++) {
        uint32_t i = rng_below(&rng, range);
        CHECK(get(&flows, &all[i]) == (in[i] ? &all[i] : NULL));
        check_fail_at = poor;
        if (in[i])
            CHECK(tcp_flows_remove(&flows, &all[i]));
        else
            tcp_flows_add(&flows, &all[i]);
        check_fail_at = 0;
        in[i] = !in[i];
        n = in[i] ? n + 1 : n - 1;
        CHECK_EQ(flows.n, n);
        if (step % range == 0)
            check_walk(&flows, all, in);
    }
    if (poor)
        CHECK_EQ(tcp_flows_memory(&flows), 32 * AMS_CACHE_LINE);
    check_walk(&flows, all, in);
    struct tcp_flow_walk walk = {0}; /* what was met last may go */
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&flows, &walk));) {
        CHECK(tcp_flows_remove(&flows, flow));
        CHECK(!tcp_flows_remove(&flows, flow));
    }
    CHECK_EQ(flows.n, 0);
    tcp_flows_fini(&flows);
}

static void test_random_conversations(void)
{
    for (uint64_t seed = 0; seed < 8; seed++) {
        conversation(seed, FLOWS, false, false);
        conversation(seed, 500, false, true);
        conversation(seed, 40, true, false);
    }
}

static void test_no_memory(void)
{
    struct tcp_flows flows;
    check_fail_at = 1;
    CHECK_EQ(tcp_flows_init(&flows, &secret, NULL), -AMS_ENOMEM);
    tcp_flows_fini(&flows);
}

/* The tag nearly always names the flow, just before the table doubles, too. */
static void test_likely_is_right(void)
{
    static struct tcp_flow all[4096];
    struct tcp_flows flows;
    uint32_t right = 0;
    CHECK_EQ(tcp_flows_init(&flows, &secret, NULL), 0);
    for (uint32_t i = 0; i < AMS_ARRAY_SIZE(all); i++) {
        all[i] = flow_number(i);
        tcp_flows_add(&flows, &all[i]);
    }
    CHECK_EQ(flows.n, 4 * flows.n_lines);
    for (uint32_t i = 0; i < AMS_ARRAY_SIZE(all); i++)
        right += tcp_flow_likely(&flows, all[i].hash) == &all[i];
    CHECK(right > AMS_ARRAY_SIZE(all) * 92 / 100);
    tcp_flows_fini(&flows);
}

/* Every tag that there can be, in every way, beside those that differ by one:
 * the lowest hit is the right one. */
static void test_tags(void)
{
    for (uint32_t tag = 1; tag < 256; tag++)
        for (uint32_t way = 0; way < FLOW_WAYS; way++) {
            struct tcp_flow_line line;
            memset(&line, 0, sizeof(line));
            for (uint32_t i = 0; i < FLOW_WAYS; i++)
                line.tags[i] = (uint8_t)(i == way ? tag : tag ^ 1);
            uint64_t hits = tcp_flow_hits(&line, (uint8_t)tag);
            CHECK_EQ(__builtin_ctzll(hits) / 8, way);
            CHECK_EQ(hits & ~0x808080808080u, 0);
            line.tags[way] = 0;
            CHECK_EQ(tcp_flow_hits(&line, (uint8_t)tag), 0);
        }
}

/* Neither ports nor addresses that follow one another crowd in some lines,
 * whatever the key: at four flows a line, chance alone leaves 12 or 13 in the
 * fullest of a thousand. */
static void test_progressions_are_spread(void)
{
    static struct tcp_flow all[4000];
    for (uint64_t seed = 0; seed < 60; seed++) {
        const struct siphash_key key = {{seed, ~seed}};
        struct tcp_flows flows;
        CHECK_EQ(tcp_flows_init(&flows, &key, NULL), 0);
        for (uint32_t i = 0; i < AMS_ARRAY_SIZE(all); i++) {
            struct tcp_flow flow = flow_number(seed % 2);
            flow.remote_port = (uint16_t)(1024 + (seed % 3 == 0 ? i * (1 + seed % 5) : 0));
            if (seed % 3 == 1)
                store_be32(flow.remote_ip + 12, 0x0a000000 + i * (1u << seed % 12));
            if (seed % 3 == 2)
                store_be32(flow.remote_ip + (seed % 2 ? 12 : 8), 0x0a000000 - 3 * i);
            all[i] = flow;
            tcp_flows_add(&flows, &all[i]);
        }
        for (uint32_t line = 0; line < flows.n_lines; line++) {
            uint32_t n = 0;
            for (uint32_t way = 0; way < FLOW_WAYS; way++)
                n += flows.lines[line].flows[way] != NULL;
            for (const struct tcp_flow *flow = flows.lines[line].more; flow; flow = flow->hash_next)
                n++;
            CHECK(n <= 18);
        }
        tcp_flows_fini(&flows);
    }
}

int main(void)
{
    RUN(test_random_conversations);
    RUN(test_no_memory);
    RUN(test_likely_is_right);
    RUN(test_tags);
    RUN(test_progressions_are_spread);
    return check_report();
}
