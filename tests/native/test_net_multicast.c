/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Multicast groups: who is in them, and what routers are told.
 */
#include "net_fixture.h"

#include "stack/multicast.h"
#include "wire/membership.h"

static struct world world;

/* 239.1.2.N or ff05::N. */
static struct ams_endpoint group(bool v6, uint8_t n)
{
    struct ams_endpoint out = {.family = v6 ? AMS_IPV6 : AMS_IPV4, .ip = {0xff, 0x05, [15] = n}};
    if (!v6)
        ip_map4(out.ip, (const uint8_t[4]){239, 1, 2, n});
    return out;
}

static void begin(void)
{
    world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD});
    world_advance(&world, 3 * SECOND); /* solicited-node groups have been reported */
    world.n_trace = 0;
}

/* An endpoint of host `which` on the wildcard, port 5000. */
static int listener(int which, bool v6)
{
    struct ams_endpoint any = packets_wildcard(v6, 5000);
    int id = ams_udp_open(world.host[which], &any, NULL, 0);
    CHECK(id >= 0);
    return id;
}

/* The ICMPv6 or IGMP message of a frame in the trace, its checksum and Router Alert verified. */
static const uint8_t *message_of(const struct world_frame *frame)
{
    const uint8_t *ip = frame->data + ETH_HEADER;
    bool v6 = load_be16(frame->data + 12) == ETHERTYPE_IPV6;
    uint32_t header = v6 ? IP6_HEADER + 8 : 24, len = frame->len - ETH_HEADER - header;
    uint64_t sum = v6 ? checksum_pseudo(ip + 8, ip + 24, PROTO_ICMPV6, len) : 0;
    CHECK_EQ(checksum_fold(checksum_add(sum, ip + header, len)), 0xffff);
    if (v6) {
        CHECK_EQ(ip[6], PROTO_HOPOPTS);
        CHECK_EQ(ip[7], 1); /* hop limit */
        CHECK_EQ(load_be32(ip + IP6_HEADER), (uint32_t)PROTO_ICMPV6 << 24 | 5 << 8 | 2);
        CHECK_EQ(ip[8], 0xfe); /* from a link-local address */
        CHECK_EQ(frame->data[0], 0x33);
        CHECK_MEM(frame->data + 2, ip + 36, 4);
    } else {
        CHECK_EQ(ip[0], 0x46);
        CHECK_EQ(ip[8], 1);
        CHECK_EQ(checksum_fold(checksum_add(0, ip, 24)), 0xffff);
        CHECK_EQ(load_be32(ip + IP4_HEADER), 0x94040000u);
        CHECK_EQ(frame->data[0], 1);
        CHECK_EQ(frame->data[5], ip[19]);
    }
    return ip + header;
}

/* True if a frame is a report of that kind about a group, to the routers that understand it. */
static bool is_report(const struct world_frame *frame, const struct ams_endpoint *about, enum membership_record record)
{
    static const uint8_t all_igmp3[4] = {224, 0, 0, 22}, all_mld2[16] = {0xff, 0x02, [15] = 0x16};
    bool v6 = about->family == AMS_IPV6;
    const uint8_t *ip = frame->data + ETH_HEADER, *message = message_of(frame);
    return message[0] == (v6 ? 143 : 0x22) && load_be16(message + 6) == 1 && message[8] == record &&
           load_be16(message + 10) == 0 && memcmp(message + 12, about->ip + (v6 ? 0 : 12), v6 ? 16 : 4) == 0 &&
           memcmp(ip + (v6 ? 24 : 16), v6 ? all_mld2 : all_igmp3, v6 ? 16 : 4) == 0;
}

static uint8_t querier4[4] = {10, 0, 0, 9};

/* A router's query, to host A.
 * @about: NULL: all groups
 * @ttl: 1 is right */
static void query(bool v6, bool old, const struct ams_endpoint *about, uint16_t code, uint8_t ttl)
{
    uint8_t frame[PACKETS_MAX], body[24] = {0};
    struct packets_frame what = {.v6 = v6, .protocol = v6 ? PROTO_ICMPV6 : PROTO_IGMP, .icmp_type = 130,
                                 .hop_limit = ttl, .body = body,
                                 .dst = {0xff, 0x02, [15] = 1}, .src = {0xfe, 0x80, [15] = 9}};
    if (!v6) {
        ip_map4(what.dst, (const uint8_t[4]){224, 0, 0, 1});
        ip_map4(what.src, querier4);
        body[0] = 0x11;
        body[1] = (uint8_t)code;
        if (about)
            memcpy(body + 4, about->ip + 12, 4);
        what.payload = old ? 8 : 12;
    } else {
        if (about)
            memcpy(body, about->ip, 16);
        what.payload = old ? 16 : 20;
    }
    uint32_t len = packets_build(frame, &what), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    frame[0] = v6 ? 0x33 : 1;
    if (v6)
        store_be16(frame + l4 + 4, code);
    packets_checksum(frame, len, v6, v6 ? PROTO_ICMPV6 : PROTO_ICMP, 2);
    world_inject(&world, A, frame, len);
}

static void test_joining_and_leaving_is_told_twice(void)
{
    BOTH(v6) {
        begin();
        struct ams_endpoint one = group(v6, 7);
        int id = listener(A, v6);
        CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
        world_settle(&world);
        CHECK_EQ(world.n_trace, 1);
        world_advance(&world, 5 * SECOND);
        CHECK_EQ(world.n_trace, 2);
        CHECK(is_report(&world.trace[0], &one, MEMBERSHIP_TO_EXCLUDE));
        CHECK(is_report(&world.trace[1], &one, MEMBERSHIP_TO_EXCLUDE));
        CHECK(world.trace[1].at - world.trace[0].at <= SECOND + 2 * MS);
        CHECK_EQ(ams_udp_leave(world.host[A], id, &one, world.now), 0);
        CHECK(!multicast_joined(world.host[A], one.ip));
        world_advance(&world, 5 * SECOND);
        CHECK_EQ(world.n_trace, 4);
        CHECK(is_report(&world.trace[2], &one, MEMBERSHIP_TO_INCLUDE));
        CHECK(is_report(&world.trace[3], &one, MEMBERSHIP_TO_INCLUDE));
        world_fini(&world);
    }
}

static void test_members_are_counted(void)
{
    begin();
    struct ams_endpoint one = group(false, 7), any = packets_wildcard(false, 5001);
    int first = listener(A, false), second = ams_udp_open(world.host[A], &any, NULL, 0);
    CHECK_EQ(ams_udp_join(world.host[A], first, &one, world.now), 0);
    CHECK_EQ(ams_udp_join(world.host[A], first, &one, world.now), -AMS_EADDRINUSE);
    CHECK_EQ(ams_udp_join(world.host[A], second, &one, world.now), 0);
    world_advance(&world, 3 * SECOND);
    CHECK_EQ(world.n_trace, 2);
    CHECK_EQ(ams_udp_leave(world.host[A], first, &one, world.now), 0);
    CHECK_EQ(ams_udp_leave(world.host[A], first, &one, world.now), -AMS_EADDRNOTAVAIL);
    CHECK(multicast_joined(world.host[A], one.ip));
    CHECK_EQ(ams_udp_close(world.host[A], second), 1); /* leaves it */
    CHECK(!multicast_joined(world.host[A], one.ip));
    world_advance(&world, 3 * SECOND);
    CHECK_EQ(world.n_trace, 4);
    /* left, and joined again before all of that was told */
    CHECK_EQ(ams_udp_join(world.host[A], first, &one, world.now), 0);
    CHECK_EQ(ams_udp_leave(world.host[A], first, &one, world.now), 0);
    CHECK_EQ(ams_udp_join(world.host[A], first, &one, world.now), 0);
    world_advance(&world, 3 * SECOND);
    CHECK(is_report(&world.trace[world.n_trace - 1], &one, MEMBERSHIP_TO_EXCLUDE));
    CHECK(multicast_joined(world.host[A], one.ip));
    world_fini(&world);
}

static void test_what_cannot_be_joined(void)
{
    begin();
    struct ams_endpoint host = packets_endpoint(false, 2, 0), other = group(true, 1), any = packets_wildcard(false, 0);
    int id = listener(A, false);
    CHECK_EQ(ams_udp_join(world.host[A], id, &host, world.now), -AMS_EINVAL);
    CHECK_EQ(ams_udp_join(world.host[A], id, &other, world.now), -AMS_EINVAL);
    CHECK_EQ(ams_udp_join(world.host[A], id, &any, world.now), -AMS_EINVAL);
    CHECK_EQ(ams_udp_join(world.host[A], id + 1000, &host, world.now), -AMS_EBADF);
    for (uint8_t n = 0; n < 20; n++) {
        struct ams_endpoint one = group(false, n);
        CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
    }
    struct ams_endpoint last = group(false, 20);
    CHECK_EQ(ams_udp_join(world.host[A], id, &last, world.now), -AMS_ENOBUFS);
    world_fini(&world);
}

static void test_the_table_has_an_end(void)
{
    begin();
    uint8_t ip[16] = {0xff, 0x01}; /* stays inside this host: nobody is told */
    int joined = 0, status;
    while ((status = multicast_join(world.host[A], ip, world.now)) == 0) {
        store_be16(ip + 14, (uint32_t)++joined);
        CHECK(joined <= (int)MULTICAST_LIMIT);
    }
    CHECK_EQ(status, -AMS_ENOBUFS);
    world_advance(&world, 3 * SECOND);
    CHECK_EQ(world.n_trace, 0);
    world_fini(&world);
}

static void test_queries_are_answered_within_their_time(void)
{
    BOTH(v6) {
        begin();
        struct ams_endpoint one = group(v6, 7), two = group(v6, 8);
        int id = listener(A, v6);
        CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
        CHECK_EQ(ams_udp_join(world.host[A], id, &two, world.now), 0);
        world_advance(&world, 3 * SECOND);
        world.n_trace = 0;
        uint64_t asked = world.now;
        query(v6, false, NULL, v6 ? 2000 : 20, 1);
        world_advance(&world, 5 * SECOND);
        CHECK_EQ(world.n_trace, v6 ? 3 : 2); /* for IPv6, the solicited-node group, too */
        int seen = 0;
        for (uint32_t i = 0; i < world.n_trace; i++) {
            CHECK(world.trace[i].at <= asked + 2 * SECOND + 2 * MS);
            seen += is_report(&world.trace[i], &one, MEMBERSHIP_IS_EXCLUDE) ? 1 : 0;
            seen += is_report(&world.trace[i], &two, MEMBERSHIP_IS_EXCLUDE) ? 10 : 0;
        }
        CHECK_EQ(seen, 11);
        query(v6, false, &two, v6 ? 1000 : 10, 1); /* about one of them */
        query(v6, false, &two, v6 ? 1000 : 10, 1); /* one answer does for both */
        world.n_trace = 0;
        world_advance(&world, 5 * SECOND);
        CHECK_EQ(world.n_trace, 1);
        CHECK(is_report(&world.trace[0], &two, MEMBERSHIP_IS_EXCLUDE));
        world_fini(&world);
    }
}

/* From beyond the link, about nothing, or after the group was left. */
static void test_queries_that_get_no_answer(void)
{
    BOTH(v6) {
        begin();
        struct ams_endpoint one = group(v6, 7), other = group(v6, 9);
        int id = listener(A, v6);
        CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
        world_advance(&world, 3 * SECOND);
        world.n_trace = 0;
        query(v6, false, NULL, 10, 64);
        query(v6, false, &other, 10, 1);
        world_advance(&world, 20 * SECOND);
        CHECK_EQ(world.n_trace, 0);
        query(v6, false, &one, v6 ? 9000 : 90, 1);
        CHECK_EQ(ams_udp_leave(world.host[A], id, &one, world.now), 0);
        world_advance(&world, 20 * SECOND);
        CHECK_EQ(world.n_trace, 2); /* that it was left, twice */
        world_fini(&world);
    }
}

/* RFC 4541 section 2.1.1: a bridge that asks on behalf of nobody. */
static void test_a_querier_without_an_address(void)
{
    begin();
    struct ams_endpoint one = group(false, 7);
    int id = listener(A, false);
    CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
    world_advance(&world, 3 * SECOND);
    world.n_trace = 0;
    memset(querier4, 0, 4);
    query(false, false, &one, 10, 1);
    memcpy(querier4, (const uint8_t[4]){10, 0, 0, 9}, 4);
    world_advance(&world, 3 * SECOND);
    CHECK_EQ(world.n_trace, 1);
    CHECK(is_report(&world.trace[0], &one, MEMBERSHIP_IS_EXCLUDE));
    world_fini(&world);
}

/* RFC 3376 section 7.2.1, RFC 3810 section 8.2.1. */
static void test_old_routers_are_told_in_their_language(void)
{
    BOTH(v6) {
        begin();
        struct ams_endpoint one = group(v6, 7), two = group(v6, 8);
        int id = listener(A, v6);
        CHECK_EQ(ams_udp_join(world.host[A], id, &one, world.now), 0);
        world_advance(&world, 3 * SECOND);
        world.n_trace = 0;
        query(v6, true, &one, v6 ? 1000 : 10, 1);
        world_advance(&world, 3 * SECOND);
        CHECK_EQ(world.n_trace, 1);
        CHECK_EQ(message_of(&world.trace[0])[0], v6 ? 131 : 0x16);
        CHECK_MEM(world.trace[0].data + ETH_HEADER + (v6 ? 24 : 16), one.ip + (v6 ? 0 : 12), v6 ? 16 : 4);
        CHECK_EQ(ams_udp_leave(world.host[A], id, &one, world.now), 0);
        world_settle(&world);
        CHECK_EQ(message_of(&world.trace[1])[0], v6 ? 132 : 0x17);
        world_advance(&world, 300 * SECOND); /* the old router is gone */
        world.n_trace = 0;
        CHECK_EQ(ams_udp_join(world.host[A], id, &two, world.now), 0);
        world_settle(&world);
        CHECK(is_report(&world.trace[0], &two, MEMBERSHIP_TO_EXCLUDE));
        world_fini(&world);
    }
}

static void test_codes_of_long_times(void)
{
    struct membership_query out;
    uint8_t igmp[12] = {0x11, 0xff}, mld[28] = {130, 0, 0, 0, 0xff, 0xff};
    CHECK_EQ(membership_parse(igmp, 12, true, &out), WIRE_OK);
    CHECK_EQ(out.max_response, 31744ull * 100 * MS); /* 31 << 10 tenths */
    CHECK_EQ(membership_parse(mld, 28, false, &out), WIRE_OK);
    CHECK_EQ(out.max_response, 8387584ull * MS); /* 8191 << 10 */
    CHECK_EQ(membership_parse(igmp, 8, true, &out), WIRE_OK);
    CHECK_EQ(out.max_response, 25500ull * MS);
    CHECK_EQ(membership_parse(igmp, 9, true, &out), WIRE_MALFORMED);
    CHECK_EQ(membership_parse(mld, 25, false, &out), WIRE_MALFORMED);
    CHECK_EQ(membership_parse(mld, 23, false, &out), WIRE_TRUNCATED);
    CHECK_EQ(membership_parse(igmp, 7, true, &out), WIRE_TRUNCATED);
}

/* Datagrams reach those who have joined, and ourselves if wanted. */
static void test_datagrams(void)
{
    BOTH(v6) {
        begin();
        struct ams_endpoint one = group(v6, 7), from;
        char buffer[16];
        int a = listener(A, v6), b = listener(B, v6);
        one.port = 5000;
        CHECK_EQ(ams_udp_send(world.host[A], a, &one, "early", 5, world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), -AMS_EAGAIN);
        CHECK_EQ(ams_udp_join(world.host[B], b, &one, world.now), 0);
        CHECK_EQ(ams_udp_join(world.host[A], a, &one, world.now), 0);
        world_settle(&world);
        world.n_trace = 0;
        CHECK_EQ(ams_udp_send(world.host[A], a, &one, "hello", 5, world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), 5);
        CHECK_EQ(from.port, 5000);
        CHECK_EQ(world.trace[0].data[ETH_HEADER + (v6 ? 7 : 8)], 1);         /* hop limit */
        CHECK_EQ(ams_udp_recv(world.host[A], a, &from, buffer, 16), 5);      /* our own copy */
        CHECK_EQ(ams_udp_setopt(world.host[A], a, AMS_UDP_MULTICAST_LOOP, 0), 0);
        CHECK_EQ(ams_udp_setopt(world.host[A], a, AMS_UDP_MULTICAST_HOPS, 9), 0);
        CHECK_EQ(ams_udp_send(world.host[A], a, &one, "hello", 5, world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[A], a, &from, buffer, 16), -AMS_EAGAIN);
        CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), 5);
        CHECK_EQ(world.trace[1].data[ETH_HEADER + (v6 ? 7 : 8)], 9);
        CHECK_EQ(ams_udp_setopt(world.host[A], a, AMS_UDP_MULTICAST_LOOP, 1), 0);
        CHECK_EQ(ams_udp_setopt(world.host[A], a, AMS_UDP_MULTICAST_HOPS, 0), 0); /* no further than this host */
        CHECK_EQ(ams_udp_send(world.host[A], a, &one, "hello", 5, world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[A], a, &from, buffer, 16), 5);
        CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), -AMS_EAGAIN);
        CHECK_EQ(ams_udp_setopt(world.host[A], a, AMS_UDP_MULTICAST_HOPS, 256), -AMS_EINVAL);
        CHECK_EQ(ams_udp_setopt(world.host[A], a, 99, 1), -AMS_ENOPROTOOPT);
        world_fini(&world);
    }
}

/* Longer ones are cut on the link and whole for ourselves. */
static void test_long_datagrams(void)
{
    BOTH(v6) {
        static char data[5000], buffer[6000];
        begin();
        struct ams_endpoint one = group(v6, 7), from;
        int a = listener(A, v6), b = listener(B, v6);
        one.port = 5000;
        world_pattern((uint8_t *)data, sizeof(data), 3);
        CHECK_EQ(ams_udp_join(world.host[B], b, &one, world.now), 0);
        CHECK_EQ(ams_udp_join(world.host[A], a, &one, world.now), 0);
        CHECK_EQ(ams_udp_send(world.host[A], a, &one, data, sizeof(data), world.now), 0);
        world_settle(&world);
        for (int host = 0; host < HOSTS; host++) {
            CHECK_EQ(ams_udp_recv(world.host[host], host == A ? a : b, &from, buffer, sizeof(buffer)), sizeof(data));
            CHECK_MEM(buffer, data, sizeof(data));
        }
        world_fini(&world);
    }
}

static void test_bound_to_the_group(void)
{
    begin();
    struct ams_endpoint one = group(true, 7), other = group(true, 8), from, self = packets_endpoint(true, 1, 5000);
    char buffer[16];
    one.port = other.port = 5000;
    int a = listener(A, true), b = ams_udp_open(world.host[B], &one, NULL, 0);
    CHECK(b >= 0);
    CHECK_EQ(ams_udp_join(world.host[B], b, &one, world.now), 0);
    CHECK_EQ(ams_udp_join(world.host[B], b, &other, world.now), 0);
    CHECK_EQ(ams_udp_send(world.host[A], a, &other, "other", 5, world.now), 0);
    CHECK_EQ(ams_udp_send(world.host[A], a, &one, "hello", 5, world.now), 0);
    world_settle(&world);
    CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), 5);
    CHECK_MEM(buffer, "hello", 5);
    CHECK_EQ(ams_udp_recv(world.host[B], b, &from, buffer, 16), -AMS_EAGAIN);
    CHECK_EQ(ams_udp_send(world.host[B], b, &self, "back", 4, world.now), 0); /* from its address, not the group's */
    world_settle(&world);
    CHECK_EQ(ams_udp_recv(world.host[A], a, &from, buffer, 16), 4);
    struct ams_endpoint host = packets_endpoint(true, 2, 5000);
    CHECK_MEM(from.ip, host.ip, 16);
    world_fini(&world);
}

/* A tentative address's solicited-node group is told from nobody, before the probe (RFC 4862 section 5.4.2). */
static void test_solicited_node_groups(void)
{
    static const uint8_t unspecified[16];
    world_init(&world, (struct world_options){0});
    world_settle(&world);
    uint32_t reports = 0;
    bool probed = false;
    for (uint32_t i = 0; i < world.n_trace; i++) {
        const uint8_t *ip = world.trace[i].data + ETH_HEADER;
        if (world.trace[i].from != A || load_be16(world.trace[i].data + 12) != ETHERTYPE_IPV6)
            continue;
        CHECK_MEM(ip + 8, unspecified, 16);
        reports += ip[6] == PROTO_HOPOPTS;
        CHECK(ip[6] == PROTO_HOPOPTS || reports);
        probed = probed || ip[6] == PROTO_ICMPV6;
    }
    CHECK_EQ(reports, 1);
    CHECK(probed);
    world_fini(&world);
}

static bool join_once(void)
{
    struct ams_endpoint one = group(false, 7), any = packets_wildcard(false, 5000);
    struct world_options options = {.flags = AMS_STACK_NO_DAD};
    struct frame_pool pool;
    int status;
    frame_pool_init(&pool, 100, false);
    struct ams_stack *stack = world_host(&pool, A, &options, WORLD_START, &status);
    int id = stack ? ams_udp_open(stack, &any, NULL, 0) : status;
    status = id < 0 ? id : ams_udp_join(stack, id, &one, WORLD_START);
    CHECK(status == 0 || status == -AMS_ENOMEM);
    bool whole = stack && stack->counters.no_memory == 0;
    stack_free(stack);
    CHECK_EQ(pool.in_use, 0);
    frame_pool_fini(&pool);
    return status == 0 && whole;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(join_once) > 10);
}

int main(void)
{
    RUN(test_joining_and_leaving_is_told_twice);
    RUN(test_members_are_counted);
    RUN(test_what_cannot_be_joined);
    RUN(test_the_table_has_an_end);
    RUN(test_queries_are_answered_within_their_time);
    RUN(test_queries_that_get_no_answer);
    RUN(test_a_querier_without_an_address);
    RUN(test_old_routers_are_told_in_their_language);
    RUN(test_codes_of_long_times);
    RUN(test_datagrams);
    RUN(test_long_datagrams);
    RUN(test_bound_to_the_group);
    RUN(test_solicited_node_groups);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
