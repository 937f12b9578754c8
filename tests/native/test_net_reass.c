/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_reass.c - fragments: any order, duplicates, overlaps, time-outs,
 * bounds.
 *
 * A UDP datagram is built whole, and its fragments are cut out of it, so that
 * only what reassembles to the very same bytes passes its checksum.
 */
#include "net_fixture.h"

#define PORT 9
#define DATAGRAM 4000u        /* UDP header and payload */

static struct world world;
static uint8_t datagram[DATAGRAM];
static int endpoint;

static void setup(bool v6)
{
    uint8_t frame[ETH_HEADER + IP6_HEADER + DATAGRAM];
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD});
    world_settle(&world);
    endpoint = world_udp(&world, A, v6, PORT);
    world_pattern(datagram, DATAGRAM, 5);
    udp_emit(datagram, &(struct udp_repr){77, PORT, DATAGRAM, 0});
    /* the checksum depends on the addresses of a whole packet */
    struct packets_frame what = {.v6 = v6, .protocol = PROTO_UDP};
    packets_build(frame, &what);
    memcpy(frame + l4, datagram, DATAGRAM);
    packets_checksum(frame, l4 + DATAGRAM, v6, PROTO_UDP, UDP_CHECKSUM_AT);
    memcpy(datagram, frame + l4, DATAGRAM);
}

/* Builds the fragment that carries [offset, offset + len) into frame. */
static uint32_t build(uint8_t *frame, bool v6, uint32_t id, uint32_t offset, uint32_t len, bool more)
{
    struct packets_frame what = {.v6 = v6, .protocol = PROTO_UDP, .frag_offset = (uint16_t)offset, .frag_id = id,
                                 .more_fragments = more, .payload = (uint16_t)len, .sport = 77, .dport = PORT};
    if (offset == 0) /* the builder adds the UDP header itself */
        what.payload = (uint16_t)(len - UDP_HEADER);
    uint32_t total = packets_build(frame, &what);
    memcpy(frame + total - len, datagram + offset, len);
    return total;
}

static void fragment(bool v6, uint32_t id, uint32_t offset, uint32_t len, bool more)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t total = build(frame, v6, id, offset, len, more);
    world_inject(&world, A, frame, total);
}

/* Checks whether the datagram has arrived, and takes it. */
static void expect_arrived(bool arrived)
{
    static uint8_t buffer[DATAGRAM];
    int length = ams_udp_recv(world.host[A], endpoint, NULL, (char *)buffer, sizeof(buffer));
    CHECK_EQ(length, arrived ? (int)(DATAGRAM - UDP_HEADER) : -AMS_EAGAIN);
    if (arrived)
        CHECK_MEM(buffer, datagram + UDP_HEADER, DATAGRAM - UDP_HEADER);
}

/* The three fragments used below: [0,1448) [1448,2896) [2896,4000). */
static void third(bool v6, uint32_t id, int which)
{
    uint32_t offset = (uint32_t)which * 1448;
    fragment(v6, id, offset, which == 2 ? DATAGRAM - offset : 1448, which != 2);
}

static void test_every_order(void)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    BOTH(v6) {
        setup(v6);
        for (int order = 0; order < 6; order++) {
            for (int i = 0; i < 3; i++) {
                expect_arrived(false);
                third(v6, 100 + (uint32_t)order, orders[order][i]);
            }
            expect_arrived(true);
        }
        CHECK_EQ(world_counters(&world, A)->frag_done, 6);
        CHECK_EQ(world.pool.in_use, 0);
        world_fini(&world);
    }
}

static void test_smallest_fragments(void)
{
    BOTH(v6) {
        setup(v6);
        for (uint32_t i = 0; i < DATAGRAM / 8; i++) {
            uint32_t block = i * 7 % (DATAGRAM / 8); /* 7 and 500 have no common factor: each one once */
            fragment(v6, 1, block * 8, 8, block != DATAGRAM / 8 - 1);
        }
        expect_arrived(true);
        world_fini(&world);
    }
}

/* Different datagrams don't mix: by identification, and for IPv4 by protocol. */
static void test_interleaved(void)
{
    BOTH(v6) {
        setup(v6);
        for (int i = 0; i < 3; i++)
            for (uint32_t id = 1; id <= 10; id++)
                third(v6, id, i);
        for (int i = 0; i < 10; i++)
            expect_arrived(true);
        expect_arrived(false);
        world_fini(&world);
    }
}

/* What the network duplicated is no attack. */
static void test_duplicates(void)
{
    BOTH(v6) {
        setup(v6);
        third(v6, 1, 0);
        third(v6, 1, 0);
        third(v6, 1, 2);
        third(v6, 1, 2);
        third(v6, 1, 1);
        expect_arrived(true);
        CHECK_EQ(world_counters(&world, A)->frag_overlap, 0);
        world_fini(&world);
    }
}

/* RFC 5722: an overlap ends the datagram, and what still comes of it. */
static void test_overlaps(void)
{
    static const struct {
        uint32_t offset, len;
        bool more;
    } second[] = {
        {1440, 1448, true},   /* over the first one's end */
        {0, 2896, true},      /* around it */
        {8, 1432, true},      /* within it, at another place of the same bytes */
        {8, 800, false},       /* a last one that ends before what is there */
    };
    BOTH(v6) {
        for (size_t i = 0; i < AMS_ARRAY_SIZE(second); i++) {
            setup(v6);
            uint8_t frame[ETH_HEADER + IP6_HEADER + 8 + DATAGRAM];
            third(v6, 1, 0);
            uint32_t total = build(frame, v6, 1, second[i].offset, second[i].len, second[i].more);
            frame[total - 1] ^= 0xff;
            world_inject(&world, A, frame, total);
            CHECK_EQ(world_counters(&world, A)->frag_overlap, 1);
            CHECK_EQ(world.pool.in_use, 0);
            for (int which = 0; which < 3; which++)
                third(v6, 1, which);
            expect_arrived(false);
            third(v6, 2, 0); /* others are not hurt */
            third(v6, 2, 1);
            third(v6, 2, 2);
            expect_arrived(true);
            world_fini(&world);
        }
    }
}

static void test_ends_that_disagree(void)
{
    BOTH(v6) {
        setup(v6);
        third(v6, 1, 2);
        fragment(v6, 1, 1448, 1000, false); /* another end */
        CHECK_EQ(world_counters(&world, A)->frag_overlap, 1);
        third(v6, 2, 2);
        fragment(v6, 2, 4000, 0, false); /* nothing at all */
        CHECK_EQ(world_counters(&world, A)->frag_bad, 1);
        fragment(v6, 3, 2896, 800, true);
        fragment(v6, 3, 1448, 800, false); /* the end lies before what came */
        CHECK_EQ(world_counters(&world, A)->frag_overlap, 2);
        expect_arrived(false);
        world_fini(&world);
    }
}

/* Time is over: the memory is freed, and the sender told if the first
 * fragment came. */
static void test_timeout(void)
{
    BOTH(v6) {
        setup(v6);
        uint64_t lifetime = v6 ? 60 * SECOND : 30 * SECOND;
        uint8_t type = v6 ? ICMP6_TIME_EXCEEDED : ICMP4_TIME_EXCEEDED;
        third(v6, 1, 0);
        third(v6, 2, 1);
        CHECK_EQ(world.pool.in_use, 2);
        world_advance(&world, lifetime - SECOND);
        CHECK_EQ(world.pool.in_use, 2);
        world.n_trace = 0;
        world_advance(&world, 2 * SECOND);
        CHECK_EQ(world.pool.in_use, 0);
        CHECK_EQ(world_counters(&world, A)->frag_timeout, 2);
        CHECK_EQ(world_counters(&world, A)->icmp_error_tx, 1);
        int found = 0;
        for (uint32_t i = 0; i < world.n_trace; i++) {
            const struct world_frame *frame = &world.trace[i];
            uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
            if (frame->from == A && load_be16(frame->data + 12) != ETHERTYPE_ARP && frame->data[l4] == type) {
                CHECK_EQ(frame->data[l4 + 1], ICMP_CODE_REASSEMBLY);
                found++;
            }
        }
        CHECK_EQ(found, 1);
        third(v6, 1, 1); /* too late */
        third(v6, 1, 2);
        expect_arrived(false);
        world_fini(&world);
    }
}

/* A flood of first fragments costs a bounded amount, and the latest live. */
static void test_bounds(void)
{
    BOTH(v6) {
        setup(v6);
        for (uint32_t id = 0; id < 1000; id++)
            third(v6, id, 0);
        CHECK_EQ(world.pool.in_use, 64);
        CHECK_EQ(world_counters(&world, A)->frag_limit, 1000 - 64);
        third(v6, 999, 1);
        third(v6, 999, 2);
        expect_arrived(true);
        world_fini(&world);
    }
}

static void test_too_large(void)
{
    BOTH(v6) {
        setup(v6);
        fragment(v6, 1, 65528, 16, false); /* beyond 65535: the "ping of death" */
        CHECK_EQ(world_counters(&world, A)->frag_bad, 1);
        fragment(v6, 1, 8, 20, true); /* not a multiple of eight */
        CHECK_EQ(world_counters(&world, A)->frag_bad, 2);
        CHECK_EQ(world.pool.in_use, v6 ? 3 : 0); /* IPv6 complains (RFC 8200 section 4.5), and asks for the MAC */
        CHECK_EQ(world_counters(&world, A)->icmp_error_tx, v6 ? 2 : 0);
        world_settle(&world);
        world_fini(&world);
    }
}

/* RFC 6946: offset 0 and no more to come is a packet of its own, beside
 * others of that identification. */
static void test_atomic_fragment(void)
{
    setup(true);
    third(true, 1, 0);
    uint8_t frame[ETH_HEADER + IP6_HEADER + IP6_FRAGMENT_HEADER + DATAGRAM];
    uint32_t total = build(frame, true, 1, 0, DATAGRAM, true);
    struct ipv6_fragment header = {.next = PROTO_UDP, .id = 1};
    ipv6_fragment_emit(frame + ETH_HEADER + IP6_HEADER, &header);
    world_inject(&world, A, frame, total);
    expect_arrived(true);
    third(true, 1, 1);
    third(true, 1, 2);
    expect_arrived(true);
    world_fini(&world);
}

/* A fragment within a fragment is no way to unlimited depth. */
static void test_nested_fragment_headers(void)
{
    setup(true);
    uint8_t frame[PACKETS_MAX];
    struct packets_frame what = {.v6 = true, .protocol = PROTO_FRAGMENT, .payload = 800, .more_fragments = true};
    uint32_t total = packets_build(frame, &what);
    for (uint32_t at = ETH_HEADER + IP6_HEADER; at + 8 <= total; at += 8) {
        struct ipv6_fragment header = {.next = PROTO_FRAGMENT, .id = 1};
        ipv6_fragment_emit(frame + at, &header);
    }
    world_inject(&world, A, frame, total);
    CHECK_EQ(world_counters(&world, A)->ip6_ext_dropped, 1);
    world_fini(&world);
}

/* RFC 3168 section 5.3. */
static void test_ecn(void)
{
    static const struct {
        uint8_t first, rest;
        bool arrives;
    } cases[] = {{2, 2, true}, {2, 3, true}, {0, 0, true}, {0, 3, false}};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
        setup(false);
        for (int which = 0; which < 3; which++) {
            uint8_t frame[PACKETS_MAX];
            uint32_t offset = (uint32_t)which * 1448;
            uint32_t total = build(frame, false, 1, offset, which == 2 ? DATAGRAM - offset : 1448, which != 2);
            frame[ETH_HEADER + 1] = which ? cases[i].rest : cases[i].first;
            ipv4_update_checksum(frame + ETH_HEADER, IP4_HEADER);
            world_inject(&world, A, frame, total);
        }
        expect_arrived(cases[i].arrives);
        world_fini(&world);
    }
}

int main(void)
{
    RUN(test_every_order);
    RUN(test_smallest_fragments);
    RUN(test_interleaved);
    RUN(test_duplicates);
    RUN(test_overlaps);
    RUN(test_ends_that_disagree);
    RUN(test_timeout);
    RUN(test_bounds);
    RUN(test_too_large);
    RUN(test_atomic_fragment);
    RUN(test_nested_fragment_headers);
    RUN(test_ecn);
    return check_report();
}
