/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_tcp_ahead.c - looking ahead in a batch changes nothing but how long it
 * takes: the flow that is found, and all else, is what it is without.
 */
#include "check.h"

#define TWIN_CHECK CHECK
#include "twin_fixture.h"

#define USUAL (TWIN_TIMESTAMPS | TWIN_SACK | TWIN_WSCALE)
#define FRAMES 4096

static uint32_t choose(void *rng, uint32_t below)
{
    return rng_below(rng, below);
}

/* A twin whose stacks look ahead, few flows as there are. */
static void ahead_init(struct twin *twin, uint32_t how, uint32_t frames)
{
    twin_init(twin, how, frames, 0);
    for (int i = 0; i < TWINS; i++)
        twin->stack[i]->tcp->ahead_always = true;
}

/* Gives all flows one hash. */
static void one_hash(struct tcp_flows *flows)
{
    struct tcp_flow *all[2 * TWIN_PEERS];
    struct tcp_flow_walk walk = {0};
    uint32_t n = 0;
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(flows, &walk));) {
        CHECK(n < AMS_ARRAY_SIZE(all));
        CHECK(tcp_flows_remove(flows, flow));
        all[n++] = flow;
    }
    memset(flows->key.odd, 0, sizeof(flows->key.odd));
    while (n)
        tcp_flows_add(flows, all[--n]);
}

/* The hash is left in frames of both families, and is the flow's. */
static void test_the_hash_is_the_flows(void)
{
    for (uint32_t v6 = 0; v6 <= TWIN_V6; v6 += TWIN_V6) {
        struct twin twin;
        ahead_init(&twin, USUAL | v6, FRAMES);
        for (int k = 0; k < TWIN_PEERS; k++)
            twin_segment(&twin, k, (struct twin_segment){.payload = TWIN_MSS});
        twin_exchange(&twin);
        for (int k = 0; k < TWIN_PEERS; k++) {
            struct tcp_conn *conns[TWINS];
            for (int i = 0; i < TWINS; i++)
                conns[i] = (struct tcp_conn *)sock_find(twin.stack[i], twin.peers[k].id, SOCK_TCP);
            CHECK(conns[TWIN_BATCHED]->rcv_head->marks & TCP_MARK_HASHED);
            CHECK_EQ(conns[TWIN_BATCHED]->rcv_head->aux, conns[TWIN_BATCHED]->flow.hash);
            CHECK(!(conns[TWIN_SINGLY]->rcv_head->marks & TCP_MARK_HASHED)); /* nothing is ahead */
        }
        twin_fini(&twin);
    }
}

/* With few flows nothing is looked at twice. */
static void test_few_flows(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    for (int k = 0; k < TWIN_PEERS; k++)
        twin_segment(&twin, k, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(twin.stack[TWIN_BATCHED], twin.peers[0].id, SOCK_TCP);
    CHECK(!(conn->rcv_head->marks & TCP_MARK_HASHED));
    twin_fini(&twin);
}

/* Where the same few connections speak again and again, that is known; where
 * others do, it is forgotten. */
static void test_few_that_speak(void)
{
    struct twin twin;
    ahead_init(&twin, USUAL, FRAMES);
    struct tcp_host *tcp = twin.stack[TWIN_BATCHED]->tcp;
    for (uint32_t batch = 0; batch < 80; batch++) {
        if (batch >= 40)
            memset(tcp->ahead_recent, 0, sizeof(tcp->ahead_recent)); /* as if many others had come between */
        for (int k = 0; k < TWIN_PEERS; k++)
            twin_segment(&twin, k, (struct twin_segment){.payload = 100});
        twin_exchange(&twin);
        if (batch == 0)
            CHECK(tcp->ahead_warmth < 200);
        if (batch == 39)
            CHECK(tcp->ahead_warmth > 900 && tcp->ahead_warmth <= 1032);
    }
    CHECK(tcp->ahead_warmth < 100);
    CHECK_EQ(twin.stack[TWIN_SINGLY]->tcp->ahead_warmth, 0);
    twin_fini(&twin);
}

/* Frames of all kinds, good and bad, in batches and one by one: both stacks do
 * the same.  In every third conversation all flows have one hash. */
static void test_random_conversations(void)
{
    for (uint32_t seed = 0; seed < 150; seed++) {
        struct twin twin;
        struct ams_rng rng;
        rng_init(&rng, seed, 23);
        ahead_init(&twin, seed % 64, seed % 7 ? FRAMES : 150);
        for (int i = 0; i < TWINS && seed % 3 == 0; i++)
            one_hash(&twin.stack[i]->tcp->flows);
        for (int step = 0; step < 60; step++)
            twin_random_step(&twin, choose, &rng);
        twin_fini(&twin);
    }
}

int main(void)
{
    RUN(test_the_hash_is_the_flows);
    RUN(test_few_flows);
    RUN(test_few_that_speak);
    RUN(test_random_conversations);
    return check_report();
}
