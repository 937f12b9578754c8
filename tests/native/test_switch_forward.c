/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From port to port: whatever the short path decides, the general path decides
 * likewise; and groups.
 */
#include "core/hash.h"
#include "switch_fixture.h"

#define FRAMES 200000
#define MEMBER 3

/* A switch with exact claims, wildcards and a group. */
static struct ams_switch *busy_switch(void)
{
    struct ams_switch *sw = fixture_new(SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct ams_endpoint any = packets_wildcard(v6, 90), one = packets_endpoint(v6, 1, 91),
                            group = packets_endpoint(v6, 1, 92);
        CHECK_EQ(switch_claim(sw, OTHER, PROTO_TCP, &any), 0);
        CHECK_EQ(switch_claim(sw, OTHER, PROTO_UDP, &one), 0);
        CHECK_EQ(switch_join(sw, OTHER, PROTO_UDP, &group), 0);
        CHECK_EQ(switch_join(sw, MEMBER, PROTO_UDP, &group), 0);
    }
    return sw;
}

/* A frame that may be wrong anywhere, and mostly isn't. */
static uint32_t random_frame(struct ams_rng *rng, uint8_t *frame)
{
    static const uint16_t ports[] = {OWNED, OWNED, UNOWNED, 90, 91, 92};
    static const uint8_t protocols[] = {PROTO_TCP, PROTO_TCP, PROTO_UDP, PROTO_UDP, PROTO_ICMP, PROTO_ICMPV6};
    bool v6 = rng_below(rng, 2);
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = protocols[rng_below(rng, 6)],
                                 .sport = ports[rng_below(rng, 6)], .dport = ports[rng_below(rng, 6)],
                                 .tcp_flags = 0x10, .payload = (uint16_t)(rng_below(rng, 3) ? rng_below(rng, 64)
                                                                                             : rng_below(rng, 1600)),
                                 .tos = (uint8_t)rng_below(rng, 256), .hop_limit = (uint8_t)rng_below(rng, 256)};

    if (rng_below(rng, 3))
        packets_ip(what.dst, v6, 1);
    if (!rng_below(rng, 10))
        packets_ip(what.src, v6, (uint8_t)(2 + rng_below(rng, 3)));
    if (!rng_below(rng, 20))
        what.more_fragments = true;
    uint32_t length = packets_build(frame, &what);
    uint32_t station = rng_below(rng, 8);
    memcpy(frame, station ? packets_us_mac : packets_peer_mac, 6);
    if (station == 7)
        memset(frame, 0xff, 6);
    if (!rng_below(rng, 3)) {
        for (uint32_t flips = 1 + rng_below(rng, 2); flips; flips--)
            frame[rng_below(rng, ams_min_u32(length, 80))] ^= (uint8_t)(1u << rng_below(rng, 8));
    }
    if (!rng_below(rng, 10))
        length -= rng_below(rng, ams_min_u32(length, 30));
    if (!rng_below(rng, 10))
        length += rng_below(rng, 20);
    return length;
}

static void test_both_paths_agree(void)
{
    struct ams_switch *fast = busy_switch(), *general = busy_switch();
    struct switch_line lines[4];
    struct ams_rng rng;
    uint32_t decided = 0, delivered = 0, dropped = 0;

    memset(lines, 0, sizeof(lines));
    rng_init(&rng, 1, 7);
    for (int done = 0; done < FRAMES;) {
        static uint8_t frames[SWITCH_BATCH][PACKETS_MAX];
        struct switch_view views[SWITCH_BATCH];
        int32_t targets[SWITCH_BATCH], target;
        uint16_t port = (uint16_t)(1 + rng_below(&rng, 3));
        int n = 1 + (int)rng_below(&rng, SWITCH_BATCH);
        for (int i = 0; i < n; i++) {
            memset(frames[i], 0, 128);
            views[i] = (struct switch_view){frames[i], random_frame(&rng, frames[i])};
        }
        switch_forward(fast, port, &lines[port], views, n, targets);
        for (int i = 0; i < n; i++) {
            enum switch_counter verdict = switch_forward_any(general, port, frames[i], views[i].length, &target, 1);
            if (targets[i] == SWITCH_UNDECIDED) {
                int32_t again;
                CHECK_EQ(switch_forward_any(fast, port, frames[i], views[i].length, &again, 1), verdict);
                CHECK_EQ(again, target);
                dropped += verdict != SWITCH_PASSED;
                continue;
            }
            CHECK_EQ(verdict, SWITCH_PASSED);
            CHECK_EQ(targets[i], target);
            decided++;
            delivered += target >= 0;
        }
        done += n;
        if (!rng_below(&rng, 50)) { /* what was remembered must not outlive a change */
            struct ams_endpoint local = packets_endpoint(rng_below(&rng, 2), 1, OWNED);
            for (int i = 0; i < 2; i++) {
                struct ams_switch *sw = i ? general : fast;
                if (switch_release(sw, OWNER, PROTO_TCP, &local) == 0)
                    CHECK_EQ(switch_claim(sw, MEMBER, PROTO_TCP, &local), 0);
                else if (switch_release(sw, MEMBER, PROTO_TCP, &local) == 0)
                    CHECK_EQ(switch_claim(sw, OWNER, PROTO_TCP, &local), 0);
            }
        }
    }
    for (int i = 0; i < SWITCH_COUNTERS; i++)
        CHECK_EQ(fast->counters[i], general->counters[i]);
    CHECK(decided > FRAMES / 50);
    CHECK(delivered > FRAMES / 100);
    CHECK(dropped > FRAMES / 10);
    ams_switch_free(fast);
    ams_switch_free(general);
}

/* ---- groups ----------------------------------------------------------------------------- */

/* Where a connection's packet goes. */
static int route_flow(struct ams_switch *sw, bool v6, uint16_t remote)
{
    return route(sw, &(struct packets_frame){.v6 = v6, .sport = remote, .dport = 443, .tcp_flags = 0x02});
}

static int send_flow(struct ams_switch *sw, int port, bool v6, uint16_t remote, uint8_t flags)
{
    return verdict(sw, port, &(struct packets_frame){.v6 = v6, .outgoing = true, .sport = 443, .dport = remote,
                                                     .tcp_flags = flags});
}

static void test_a_group_spreads_evenly_and_by_flow(void)
{
    struct ams_switch *sw = fixture_new(SWITCH_TO_NOBODY, 0);

    BOTH(v6) {
        struct ams_endpoint local = packets_endpoint(v6, 1, 443);
        int shares[5] = {0};
        for (uint16_t port = 1; port < 5; port++)
            CHECK_EQ(switch_join(sw, port, PROTO_TCP, &local), 0);
        for (uint16_t remote = 1000; remote < 3000; remote++) {
            int target = route_flow(sw, v6, remote);
            CHECK(target >= 1 && target < 5);
            CHECK_EQ(route_flow(sw, v6, remote), target);
            shares[target]++;
        }
        for (int port = 1; port < 5; port++)
            CHECK(shares[port] > 400 && shares[port] < 600);
    }
    CHECK_EQ(sw->groups.evicted, 0);
    ams_switch_free(sw);
}

static void test_only_members_send_and_none_takes_another_s_flow(void)
{
    struct ams_switch *sw = fixture_new(SWITCH_TO_NOBODY, 0);
    struct ams_endpoint local = packets_endpoint(false, 1, 443);

    CHECK_EQ(switch_join(sw, 1, PROTO_TCP, &local), 0);
    CHECK_EQ(switch_join(sw, 2, PROTO_TCP, &local), 0);
    CHECK_EQ(switch_claim(sw, 3, PROTO_TCP, &local), -AMS_EADDRINUSE);
    CHECK_EQ(send_flow(sw, 3, false, 5000, 0x10), SWITCH_TX_TUPLE);
    int owner = route_flow(sw, false, 5000), thief = 3 - owner;
    CHECK_EQ(send_flow(sw, owner, false, 5000, 0x10), SWITCH_PASSED);
    CHECK_EQ(send_flow(sw, thief, false, 5000, 0x10), SWITCH_PASSED); /* the tuple is its own, too */
    CHECK_EQ(send_flow(sw, thief, false, 5000, 0x04), SWITCH_PASSED);
    CHECK_EQ(route_flow(sw, false, 5000), owner);
    /* Learnt against the score: the connection stays with who has it. */
    CHECK_EQ(send_flow(sw, owner, false, 5000, 0x14), SWITCH_PASSED); /* RST: forgotten */
    CHECK_EQ(send_flow(sw, thief, false, 5000, 0x10), SWITCH_PASSED);
    CHECK_EQ(route_flow(sw, false, 5000), thief);
    switch_release_port(sw, (uint16_t)thief);
    CHECK_EQ(route_flow(sw, false, 5000), owner);
    switch_release_port(sw, (uint16_t)owner);
    CHECK_EQ(route_flow(sw, false, 5000), SWITCH_TO_NOBODY);
    ams_switch_free(sw);
}

/* What the network sends can't displace what is established. */
static void test_a_full_table_keeps_what_is_established(void)
{
    struct ams_switch *sw;
    struct ams_switch_config config = {.mtu = 1500, .unclaimed = SWITCH_TO_NOBODY, .seed = {5, 6}, .max_flows = 64};
    struct ams_ifaddr address = {packets_endpoint(false, 1, 0), 24};
    struct ams_endpoint local = packets_endpoint(false, 1, 443);
    int winner[64];

    memcpy(config.mac, packets_us_mac, 6);
    CHECK_EQ(ams_switch_new(&sw, &config), 0);
    CHECK_EQ(switch_add_address(sw, &address), 0);
    CHECK_EQ(switch_join(sw, 1, PROTO_TCP, &local), 0);
    for (uint16_t i = 0; i < 20; i++)
        CHECK_EQ(send_flow(sw, 1, false, (uint16_t)(1000 + i), 0x10), SWITCH_PASSED);
    CHECK_EQ(switch_join(sw, 2, PROTO_TCP, &local), 0);
    for (uint16_t i = 0; i < 20; i++)
        winner[i] = route_flow(sw, false, (uint16_t)(1000 + i));
    for (uint16_t remote = 2000; remote < 12000; remote++) { /* SYNs, and the answers to them */
        int target = route_flow(sw, false, remote);
        CHECK_EQ(send_flow(sw, target, false, remote, 0x12), SWITCH_PASSED);
    }
    for (uint16_t i = 0; i < 20; i++) {
        CHECK_EQ(winner[i], 1);
        CHECK_EQ(route_flow(sw, false, (uint16_t)(1000 + i)), 1);
    }
    CHECK_EQ(sw->groups.evicted, 0);
    for (uint16_t remote = 2000; remote < 4000; remote++) /* established ones displace the oldest */
        CHECK_EQ(send_flow(sw, 2, false, remote, 0x10), SWITCH_PASSED);
    CHECK(sw->groups.evicted > 1000);
    ams_switch_free(sw);
}

/* Where a segment of a connection goes at a moment, in ms. */
static int route_at(struct ams_switch *sw, bool v6, uint16_t remote, uint8_t flags, uint64_t when)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t length = packets_build(
        frame, &(struct packets_frame){.v6 = v6, .sport = remote, .dport = 443, .tcp_flags = flags});
    return ams_switch_route(sw, (const char *)frame, length, when * 1000000);
}

static void send_at(struct ams_switch *sw, int port, bool v6, uint16_t remote, uint8_t flags, uint64_t when)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t length = packets_build(frame, &(struct packets_frame){.v6 = v6, .outgoing = true, .sport = 443,
                                                                   .dport = remote, .tcp_flags = flags});
    CHECK_EQ(ams_switch_check(sw, port, (const char *)frame, length, when * 1000000), SWITCH_PASSED);
}

/* A client that uses few ports again and again reaches a newcomer too, but never in the middle of a connection. */
static void test_a_port_that_is_used_again_may_go_to_a_newcomer(void)
{
    struct ams_switch *sw = fixture_new(SWITCH_TO_NOBODY, 0);
    const uint8_t syn = 0x02, synack = 0x12, ack = 0x10, fin = 0x11;

    BOTH(v6) {
        struct ams_endpoint local = packets_endpoint(v6, 1, 443);
        int moved = 0;
        CHECK_EQ(switch_join(sw, 1, PROTO_TCP, &local), 0);
        for (uint16_t remote = 1000; remote < 1100; remote++) {
            CHECK_EQ(route_at(sw, v6, remote, syn, 1), 1);
            send_at(sw, 1, v6, remote, synack, 1);
            send_at(sw, 1, v6, remote, ack, 2);
        }
        CHECK_EQ(switch_join(sw, 2, PROTO_TCP, &local), 0);
        for (uint16_t remote = 1000; remote < 1100; remote++) {
            CHECK_EQ(route_at(sw, v6, remote, syn, 5000), 1); /* idle for long, but open */
            CHECK_EQ(route_at(sw, v6, remote, fin, 5001), 1);
            CHECK_EQ(route_at(sw, v6, remote, syn, 9000), 1); /* half closed */
            send_at(sw, 1, v6, remote, fin, 9001);
            CHECK_EQ(route_at(sw, v6, remote, syn, 9500), 1); /* just closed */
            CHECK_EQ(route_at(sw, v6, remote, ack, 11000), 1); /* no new connection */
            int owner = route_at(sw, v6, remote, syn, 13000);
            if (owner == 1)
                continue;
            moved++;
            CHECK_EQ(route_at(sw, v6, remote, ack, 13000), 1); /* a SYN alone teaches nothing */
            CHECK_EQ(route_at(sw, v6, remote, syn, 15000), owner);
            send_at(sw, owner, v6, remote, synack, 15001);
            send_at(sw, 1, v6, remote, ack, 15001); /* from TIME-WAIT, to something old */
            CHECK_EQ(route_at(sw, v6, remote, ack, 15002), owner);
            CHECK_EQ(route_at(sw, v6, remote, fin, 15003), owner);
            CHECK_EQ(route_at(sw, v6, remote, syn, 19000), owner); /* a connection of its own, and half closed */
        }
        CHECK(moved > 25 && moved < 75);
    }
    ams_switch_free(sw);
}

static void test_groups_have_limits(void)
{
    struct ams_switch *sw = fixture_new(SWITCH_TO_NOBODY, 0);
    struct ams_endpoint local = packets_endpoint(false, 1, 443), any = packets_wildcard(false, 443),
                        owned = packets_endpoint(false, 1, OWNED);

    for (uint16_t port = 1; port <= GROUP_MEMBERS; port++)
        CHECK_EQ(switch_join(sw, port, PROTO_TCP, &local), 0);
    CHECK_EQ(switch_join(sw, GROUP_MEMBERS + 1, PROTO_TCP, &local), -AMS_EMFILE);
    CHECK_EQ(switch_join(sw, 1, PROTO_TCP, &any), -AMS_EADDRINUSE);
    CHECK_EQ(switch_claim(sw, 1, PROTO_TCP, &any), -AMS_EADDRINUSE);
    CHECK_EQ(switch_join(sw, OWNER, PROTO_TCP, &owned), -AMS_EADDRINUSE);
    CHECK_EQ(switch_claim(sw, 5, PROTO_TCP, &local), 0); /* a member claims once more */
    CHECK_EQ(switch_claims(sw, 5, PROTO_TCP, &local), 2);
    CHECK_EQ(switch_release(sw, 5, PROTO_TCP, &local), 0);
    CHECK_EQ(switch_release(sw, 5, PROTO_TCP, &local), 0);
    CHECK_EQ(switch_release(sw, 5, PROTO_TCP, &local), -AMS_EINVAL);
    CHECK_EQ(switch_remove_address(sw, &local), 0);
    CHECK_EQ(switch_release(sw, 1, PROTO_TCP, &local), -AMS_EINVAL);
    for (uint16_t port = 1; port <= 100; port++) { /* numbers are used again */
        any.port = (uint16_t)(1000 + port);
        CHECK_EQ(switch_join(sw, port, PROTO_TCP, &any), 0);
        if (port % 2)
            CHECK_EQ(switch_release(sw, port, PROTO_TCP, &any), 0);
    }
    CHECK(sw->groups.capacity <= 128);
    ams_switch_free(sw);
}

static bool make_groups(void)
{
    struct ams_switch_config config = {.mtu = 1500, .unclaimed = SWITCH_TO_NOBODY, .max_flows = 64};
    struct ams_switch *sw;
    int status = ams_switch_new(&sw, &config);

    for (uint16_t port = 1; port < 20 && !status; port++) {
        struct ams_endpoint any = packets_wildcard(false, port);
        status = switch_join(sw, port, PROTO_TCP, &any);
        CHECK(status == 0 || status == -AMS_ENOMEM);
    }
    ams_switch_free(sw);
    return !status;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(make_groups) > 20);
}

int main(void)
{
    RUN(test_both_paths_agree);
    RUN(test_a_group_spreads_evenly_and_by_flow);
    RUN(test_only_members_send_and_none_takes_another_s_flow);
    RUN(test_a_full_table_keeps_what_is_established);
    RUN(test_a_port_that_is_used_again_may_go_to_a_newcomer);
    RUN(test_groups_have_limits);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
