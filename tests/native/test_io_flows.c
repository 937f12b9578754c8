/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The list of connections that a process keeps for after its death.
 */
#include "check.h"
#include "core/hash.h"
#include "io/flows.h"
#include "packets.h"

static uint64_t table[FLOWS_SLOTS * FLOWS_WORDS];
static struct ams_fabric_flow found[FLOWS_SLOTS];

static void begin(void)
{
    memset(table, 0, sizeof(table));
    memset(found, 0xee, sizeof(found));
}

/* The nth connection of ours. */
static struct ams_fabric_flow flow_of(bool v6, uint32_t n)
{
    struct ams_fabric_flow flow = {packets_endpoint(v6, 1, 80), packets_endpoint(v6, (uint8_t)(n >> 14 & 0x7f), 0)};

    flow.remote.port = (uint16_t)(n % 16384 + 1000);
    return flow;
}

static bool same(const struct ams_endpoint *a, const struct ams_endpoint *b)
{
    return memcmp(a->ip, b->ip, 16) == 0 && a->port == b->port && a->family == b->family;
}

static bool listed(const struct ams_fabric_flow *flow, int n)
{
    for (int i = 0; i < n; i++) {
        if (same(&found[i].local, &flow->local) && same(&found[i].remote, &flow->remote))
            return true;
    }
    return false;
}

static void test_what_begins_and_has_not_ended_is_listed(void)
{
    begin();
    CHECK_EQ(flows_list(table, found, FLOWS_SLOTS), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        struct ams_fabric_flow flow = flow_of(i & 1, i);
        flows_add(table, &flow.local, &flow.remote);
    }
    CHECK_EQ(flows_list(table, found, FLOWS_SLOTS), 1000);
    CHECK_EQ(flows_list(table, found, 10), 10);
    for (uint32_t i = 0; i < 1000; i += 3) {
        struct ams_fabric_flow flow = flow_of(i & 1, i);
        flows_remove(table, &flow.local, &flow.remote);
        flows_remove(table, &flow.local, &flow.remote); /* not listed: nothing happens */
        flows_remove(table, &flow.remote, &flow.local);
    }
    int n = flows_list(table, found, FLOWS_SLOTS);
    CHECK_EQ(n, 666);
    for (uint32_t i = 0; i < 1000; i++) {
        struct ams_fabric_flow flow = flow_of(i & 1, i);
        CHECK_EQ(listed(&flow, n), i % 3 != 0);
    }
}

/* More than there is room for: the table fills up, and is empty again afterwards. */
static void test_a_full_table_lists_as_many_as_it_can(void)
{
    begin();
    for (uint32_t i = 0; i < 4 * FLOWS_SLOTS; i++) {
        struct ams_fabric_flow flow = flow_of(false, i);
        flows_add(table, &flow.local, &flow.remote);
        if (i == FLOWS_SLOTS / 2 - 1) /* half full: nearly all find a place */
            CHECK(flows_list(table, found, FLOWS_SLOTS) > (int)(i + 1) * 99 / 100);
    }
    CHECK(flows_list(table, found, FLOWS_SLOTS) > (int)FLOWS_SLOTS * 9 / 10);
    for (uint32_t i = 0; i < 4 * FLOWS_SLOTS; i++) {
        struct ams_fabric_flow flow = flow_of(false, i);
        flows_remove(table, &flow.local, &flow.remote);
    }
    CHECK_EQ(flows_list(table, found, FLOWS_SLOTS), 0);
}

/* Whatever is in the table, the reader stays inside and what it returns can be a connection. */
static void test_garbage_leads_nowhere(void)
{
    struct ams_rng rng;

    rng_init(&rng, 1, 2);
    for (int round = 0; round < 20; round++) {
        begin();
        for (size_t i = 0; i < AMS_ARRAY_SIZE(table); i++) {
            bool ports = i % FLOWS_WORDS == 4;
            table[i] = rng_next(&rng) >> (ports && round & 1 ? 32 : 0);
        }
        int n = flows_list(table, found, FLOWS_SLOTS);
        CHECK(n >= 0 && n <= (int)FLOWS_SLOTS);
        CHECK_EQ(n > 0, round & 1);
        for (int i = 0; i < n; i++) {
            CHECK(found[i].local.port && found[i].remote.port);
            CHECK(found[i].local.family == AMS_IPV6 && found[i].remote.family == AMS_IPV6);
            CHECK(!found[i].local.scope_id && !found[i].remote.scope_id);
        }
    }
    begin();
    struct ams_endpoint four = packets_endpoint(false, 1, 80), six = packets_endpoint(true, 2, 5000);
    flows_add(table, &four, &six); /* of two families */
    CHECK_EQ(flows_list(table, found, FLOWS_SLOTS), 0);
}

int main(void)
{
    RUN(test_what_begins_and_has_not_ended_is_listed);
    RUN(test_a_full_table_lists_as_many_as_it_can);
    RUN(test_garbage_leads_nowhere);
    return check_report();
}
