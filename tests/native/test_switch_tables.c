/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The tuple table against a plain list, the fragment table's bounds, and the
 * rules of claiming.
 */
#include "check.h"
#include "core/status.h"
#include "packets.h"
#include "switch/switch.h"

static const uint64_t seed[2] = {1, 2};

static struct switch_tuple tuple_number(uint32_t n)
{
    struct switch_tuple tuple;
    struct ams_endpoint endpoint = packets_endpoint(n & 1, (uint8_t)(n >> 1 & 3), (uint16_t)(n >> 3));
    switch_tuple_set(&tuple, endpoint.ip, endpoint.port, n & 1 ? PROTO_TCP : PROTO_UDP, (uint8_t)endpoint.family);
    return tuple;
}

static void test_table_agrees_with_a_list(void)
{
    enum { TUPLES = 3000, STEPS = 40000 };
    static int model[TUPLES];
    struct tuple_table table;
    struct ams_rng rng;
    uint32_t used = 0;

    CHECK_EQ(tuple_table_init(&table, seed, 1), 0);
    rng_init(&rng, 7, 7);
    memset(model, 0xff, sizeof(model));
    for (int step = 0; step < STEPS; step++) {
        uint32_t n = rng_below(&rng, TUPLES);
        struct switch_tuple tuple = tuple_number(n);
        CHECK_EQ(tuple_owner(&table, &tuple), model[n]);
        if (model[n] == TUPLE_NOBODY) {
            model[n] = (int)rng_below(&rng, 1000);
            CHECK_EQ(tuple_insert(&table, &tuple, (uint16_t)model[n], 0), 0);
            used++;
        } else if (rng_below(&rng, 2)) {
            tuple_remove(&table, tuple_find(&table, &tuple, tuple_hash(&table, &tuple)));
            model[n] = TUPLE_NOBODY;
            used--;
        }
        CHECK_EQ(table.used, used);
    }
    for (uint32_t n = 0; n < TUPLES; n++) {
        struct switch_tuple tuple = tuple_number(n);
        CHECK_EQ(tuple_owner(&table, &tuple), model[n]);
    }
    tuple_table_fini(&table);
}

static struct packet fragment_packet(uint32_t id, uint8_t peer)
{
    struct packet packet;
    memset(&packet, 0, sizeof(packet));
    packet.family = AMS_IPV4;
    packet.protocol = PROTO_UDP;
    packet.frag_id = id;
    packets_ip(packet.src, false, peer);
    packets_ip(packet.dst, false, 1);
    return packet;
}

static void test_fragments_expire(void)
{
    struct fragment_table table;
    struct packet packet = fragment_packet(1, 2), other = fragment_packet(2, 2);

    CHECK_EQ(fragment_table_init(&table, seed), 0);
    fragment_store(&table, &packet, 5, 100);
    CHECK(fragment_find(&table, &other, 100) == NULL);
    CHECK_EQ(fragment_find(&table, &packet, 99 + FRAGMENT_LIFETIME)->target, 5);
    CHECK(fragment_find(&table, &packet, 100 + FRAGMENT_LIFETIME) == NULL);
    fragment_store(&table, &packet, 6, 200);
    CHECK_EQ(fragment_find(&table, &packet, 200)->target, 6);
    fragment_forget(&table, 6);
    CHECK(fragment_find(&table, &packet, 200) == NULL);
    fragment_table_fini(&table);
}

static void test_a_flood_displaces_itself(void)
{
    struct fragment_table table;
    struct packet victim = fragment_packet(99, 9);

    CHECK_EQ(fragment_table_init(&table, seed), 0);
    fragment_store(&table, &victim, 1, 1);
    for (uint32_t id = 0; id < 20000; id++) {
        struct packet packet = fragment_packet(id, 2);
        fragment_store(&table, &packet, 2, 2 + id);
    }
    CHECK(table.evicted > 0);
    CHECK_EQ(fragment_find(&table, &victim, 30000)->target, 1);
    fragment_table_fini(&table);
}

static struct ams_switch *switch_new(void)
{
    struct ams_switch *sw;
    struct ams_switch_config config = {.mtu = 1500, .unclaimed = AMS_SWITCH_TO_CONTROL, .seed = {3, 4}};

    memcpy(config.mac, packets_us_mac, 6);
    CHECK_EQ(ams_switch_new(&sw, &config), 0);
    for (int v6 = 0; v6 < 2; v6++) {
        for (uint8_t n = 1; n < 12; n += 10) {
            struct ams_ifaddr address = {packets_endpoint(v6, n, 0), v6 ? 64 : 24};
            CHECK_EQ(ams_switch_add_address(sw, &address), 0);
            CHECK_EQ(ams_switch_add_address(sw, &address), 0);
        }
    }
    return sw;
}

static void test_claims_are_exclusive_and_counted(void)
{
    struct ams_switch *sw = switch_new();

    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint local = packets_endpoint(v6, 1, 80), foreign = packets_endpoint(v6, 7, 80);
        CHECK_EQ(ams_switch_claim(sw, 3, PROTO_TCP, &local), 0);
        CHECK_EQ(ams_switch_claim(sw, 3, PROTO_TCP, &local), 0);
        CHECK_EQ(ams_switch_claim(sw, 4, PROTO_TCP, &local), -AMS_EADDRINUSE);
        CHECK_EQ(ams_switch_claim(sw, 4, PROTO_UDP, &local), 0);
        CHECK_EQ(ams_switch_claim(sw, 4, PROTO_TCP, &foreign), -AMS_EADDRNOTAVAIL);
        CHECK_EQ(ams_switch_release(sw, 4, PROTO_TCP, &local), -AMS_EINVAL);
        CHECK_EQ(ams_switch_release(sw, 3, PROTO_TCP, &local), 0);
        CHECK_EQ(ams_switch_claim(sw, 4, PROTO_TCP, &local), -AMS_EADDRINUSE);
        CHECK_EQ(ams_switch_release(sw, 3, PROTO_TCP, &local), 0);
        CHECK_EQ(ams_switch_release(sw, 3, PROTO_TCP, &local), -AMS_EINVAL);
        CHECK_EQ(ams_switch_claim(sw, 4, PROTO_TCP, &local), 0);
    }
    ams_switch_free(sw);
}

static void test_wildcards_and_addresses_exclude_each_other(void)
{
    struct ams_switch *sw = switch_new();

    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint any = packets_wildcard(v6, 80), one = packets_endpoint(v6, 1, 80),
                            two = packets_endpoint(v6, 11, 80);
        CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &two), 0);
        CHECK_EQ(ams_switch_claim(sw, 2, PROTO_TCP, &any), -AMS_EADDRINUSE);
        CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &any), 0);
        CHECK_EQ(ams_switch_claim(sw, 2, PROTO_TCP, &one), -AMS_EADDRINUSE);
        CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &one), 0);
        CHECK_EQ(ams_switch_release(sw, 1, PROTO_TCP, &any), 0);
        CHECK_EQ(ams_switch_release(sw, 1, PROTO_TCP, &two), 0);
        CHECK_EQ(ams_switch_claim(sw, 2, PROTO_TCP, &two), 0);
    }
    CHECK_EQ(sw->wildcards, 0);
    ams_switch_free(sw);
}

static void test_a_port_that_goes_takes_its_claims_along(void)
{
    struct ams_switch *sw = switch_new();

    for (uint32_t round = 0; round < 20; round++) {
        for (uint16_t n = 1; n <= 2000; n++) {
            struct ams_endpoint local = packets_endpoint(n & 1, 1, n);
            CHECK_EQ(ams_switch_claim(sw, n % 3, PROTO_TCP, &local), 0);
        }
        struct ams_endpoint any = packets_wildcard(false, 5000);
        CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &any), 0);
        CHECK_EQ(sw->tuples.used, 2001);
        ams_switch_release_port(sw, 1);
        CHECK_EQ(sw->tuples.used, 1333);
        ams_switch_release_port(sw, 0);
        ams_switch_release_port(sw, 2);
        CHECK_EQ(sw->tuples.used, 0);
        CHECK_EQ(sw->wildcards, 0);
    }
    CHECK(sw->tuples.mask < 8192);
    ams_switch_free(sw);
}

static void test_bad_arguments_are_refused(void)
{
    struct ams_switch *sw, *none;
    struct ams_switch_config config = {.mtu = 1500, .unclaimed = 0};
    struct ams_endpoint local = packets_endpoint(false, 1, 80);
    struct ams_ifaddr address = {local, 33};

    CHECK_EQ(ams_switch_new(&none, &config), -AMS_EINVAL); /* 0 is a port, not a place for the unclaimed */
    CHECK(none == NULL);
    sw = switch_new();
    CHECK_EQ(ams_switch_add_address(sw, &address), -AMS_EINVAL);
    CHECK_EQ(ams_switch_claim(sw, 1, PROTO_ICMP, &local), -AMS_EINVAL);
    CHECK_EQ(ams_switch_claim(sw, -1, PROTO_TCP, &local), -AMS_EINVAL);
    CHECK_EQ(ams_switch_claim(sw, 1 << 16, PROTO_TCP, &local), -AMS_EINVAL);
    local.port = 0;
    CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &local), -AMS_EINVAL);
    local = packets_endpoint(false, 1, 80);
    local.family = AMS_IPV6;
    CHECK_EQ(ams_switch_claim(sw, 1, PROTO_TCP, &local), -AMS_EINVAL);
    ams_switch_free(sw);
    ams_switch_free(NULL);
}

static bool make_and_fill(void)
{
    struct ams_switch *sw;
    struct ams_switch_config config = {.mtu = 1500, .unclaimed = AMS_SWITCH_TO_HOST};
    struct ams_ifaddr address = {packets_endpoint(false, 1, 0), 24};

    int status = ams_switch_new(&sw, &config);
    if (!status)
        status = ams_switch_add_address(sw, &address);
    for (uint16_t port = 1; port < 2000 && !status; port++) {
        struct ams_endpoint local = packets_endpoint(false, 1, port);
        status = ams_switch_claim(sw, 1, PROTO_TCP, &local);
    }
    ams_switch_free(sw);
    CHECK(status == 0 || status == -AMS_ENOMEM);
    return status == 0;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(make_and_fill) >= 6);
}

int main(void)
{
    RUN(test_table_agrees_with_a_list);
    RUN(test_fragments_expire);
    RUN(test_a_flood_displaces_itself);
    RUN(test_claims_are_exclusive_and_counted);
    RUN(test_wildcards_and_addresses_exclude_each_other);
    RUN(test_a_port_that_goes_takes_its_claims_along);
    RUN(test_bad_arguments_are_refused);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
