/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_neighbor.c - ARP, neighbour discovery and duplicate address
 * detection between two stacks, and against hand-made packets.
 */
#include "net_fixture.h"
#include "stack/neighbor.h"

static struct world world;

static const struct world_options plain = {.flags = AMS_STACK_NO_DAD};
static const struct world_options with_dad = {0};

static int drop_from;         /* the host whose frames a filter drops */

static bool drop_one_side(struct world *w, int from, const uint8_t *frame, uint32_t len)
{
    (void)w, (void)frame, (void)len;
    return from != drop_from;
}

static struct neighbor *peer_entry(int host, bool v6)
{
    uint8_t ip[16];
    packets_ip(ip, v6, (uint8_t)(2 - host));
    return neighbor_find(world.host[host], ip);
}

static void send_one(int id, bool v6, int expected)
{
    struct ams_endpoint to = packets_endpoint(v6, 2, 9);
    CHECK_EQ(ams_udp_send(world.host[A], id, &to, "x", 1, world.now), expected);
}

/* How many solicitations (or ARP requests) for the peer A has sent. */
static int solicitations(bool v6)
{
    int count = 0;
    for (uint32_t i = 0; i < world.n_trace; i++) {
        const struct world_frame *frame = &world.trace[i];
        struct ndp_repr ndp;
        struct arp_repr arp;
        uint8_t target[16];
        packets_ip(target, v6, 2);
        if (frame->from != A)
            continue;
        if (v6 && load_be16(frame->data + 12) == ETHERTYPE_IPV6 && frame->data[54] == ICMP6_NEIGHBOR_SOLICIT &&
            ndp_parse(frame->data + 54, frame->len - 54, &ndp) == WIRE_OK)
            count += ip_equal(ndp.target, target);
        if (!v6 && load_be16(frame->data + 12) == ETHERTYPE_ARP &&
            arp_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &arp) == WIRE_OK)
            count += arp.operation == ARP_REQUEST && memcmp(arp.target_ip, target + 12, 4) == 0;
    }
    return count;
}

static void test_resolution(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        world_settle(&world);
        world.n_trace = 0;
        int a = world_udp(&world, A, v6, 7), b = world_udp(&world, B, v6, 9);
        CHECK(peer_entry(A, v6) == NULL);
        send_one(a, v6, 0);
        CHECK_EQ(peer_entry(A, v6)->state, NEIGHBOR_INCOMPLETE);
        world_settle(&world);
        CHECK_EQ(peer_entry(A, v6)->state, NEIGHBOR_REACHABLE);
        CHECK_EQ(peer_entry(B, v6)->state, NEIGHBOR_STALE); /* it learnt from being asked */
        CHECK_EQ(solicitations(v6), 1);
        CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, NULL, 0), 1);
        world_fini(&world);
    }
}

/* 1 s apart, three in all; then what waits fails. */
static void test_failure(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        world_settle(&world);
        world.n_trace = 0;
        drop_from = B;
        world.filter = drop_one_side;
        struct ams_endpoint peer = packets_endpoint(v6, 2, 9);
        int id = ams_udp_open(world.host[A], NULL, &peer, 0);
        CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "x", 1, world.now), 0);
        world_advance(&world, 2900 * MS);
        CHECK_EQ(solicitations(v6), 3);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EAGAIN);
        CHECK_EQ(world.pool.in_use, 1);
        world_advance(&world, 200 * MS);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EHOSTUNREACH);
        CHECK_EQ(world_counters(&world, A)->neighbor_failed, 1);
        CHECK_EQ(world.pool.in_use, 0);
        world_advance(&world, 60 * SECOND);
        CHECK_EQ(solicitations(v6), 3); /* nobody asks any more */
        world.filter = NULL;
        int b = world_udp(&world, B, v6, 9);
        CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "y", 1, world.now), 0); /* but the next packet tries again */
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, NULL, 0), 1);
        world_fini(&world);
    }
}

/* The newest wait; RFC 4861 section 7.2.2. */
static void test_wait_queue_is_bounded(void)
{
    BOTH(v6) {
        uint8_t byte;
        world_init(&world, plain);
        int a = world_udp(&world, A, v6, 7), b = world_udp(&world, B, v6, 9);
        struct ams_endpoint to = packets_endpoint(v6, 2, 9);
        for (int i = 0; i < (int)NEIGHBOR_QUEUE_LIMIT + 4; i++) {
            byte = (uint8_t)i;
            CHECK_EQ(ams_udp_send(world.host[A], a, &to, (const char *)&byte, 1, world.now), 0);
        }
        CHECK_EQ(world_counters(&world, A)->neighbor_queue_full, 4);
        world_settle(&world);
        for (int i = 4; i < (int)NEIGHBOR_QUEUE_LIMIT + 4; i++) {
            CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, (char *)&byte, 1), 1);
            CHECK_EQ(byte, i);
        }
        CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, NULL, 0), -AMS_EAGAIN);
        world_fini(&world);
    }
}

/* Large packets that wait are bounded by the memory that they take. */
static void test_wait_queue_is_bounded_in_bytes(void)
{
    static char data[8000];
    BOTH(v6) {
        world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD, .mtu = 9000});
        int a = world_udp(&world, A, v6, 7);
        struct ams_endpoint to = packets_endpoint(v6, 2, 9);
        drop_from = B;
        world.filter = drop_one_side;
        for (int i = 0; i < 2; i++)
            CHECK(ams_udp_send(world.host[A], a, &to, data, sizeof(data), world.now) == 0);
        uint32_t each = peer_entry(A, v6)->queued_bytes / peer_entry(A, v6)->queued;
        for (uint32_t i = 0; i < NEIGHBOR_QUEUE_BYTES / each; i++)
            CHECK(ams_udp_send(world.host[A], a, &to, data, sizeof(data), world.now) == 0);
        CHECK(peer_entry(A, v6)->queued_bytes <= NEIGHBOR_QUEUE_BYTES);
        CHECK(peer_entry(A, v6)->queued < NEIGHBOR_QUEUE_LIMIT);
        CHECK(world_counters(&world, A)->neighbor_queue_full > 0);
        world_fini(&world);
    }
}

/* REACHABLE, STALE, DELAY, PROBE, and back by the answer. */
static void test_states(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        int a = world_udp(&world, A, v6, 7);
        send_one(a, v6, 0);
        world_settle(&world);
        struct neighbor *peer = peer_entry(A, v6);
        CHECK_EQ(peer->state, NEIGHBOR_REACHABLE);
        CHECK(peer->usable_until >= world.now + 15 * SECOND && peer->usable_until <= world.now + 45 * SECOND);
        world_advance(&world, 46 * SECOND);
        world.n_trace = 0;
        send_one(a, v6, 0);
        CHECK_EQ(peer->state, NEIGHBOR_DELAY);
        world_advance(&world, 4900 * MS);
        CHECK_EQ(solicitations(v6), 0);
        world_advance(&world, 200 * MS);
        CHECK_EQ(solicitations(v6), 1);
        CHECK_EQ(peer->state, NEIGHBOR_REACHABLE);
        world_advance(&world, 46 * SECOND);
        send_one(a, v6, 0);
        CHECK_EQ(peer->state, NEIGHBOR_DELAY);
        struct ip_path path = {0};
        struct ams_endpoint to = packets_endpoint(v6, 2, 9);
        CHECK_EQ(ip_path_find(world.host[A], to.ip, &path), 0);
        neighbor_confirm(&path, world.now); /* as TCP does when an ACK arrives */
        CHECK_EQ(peer->state, NEIGHBOR_REACHABLE);
        CHECK(!timer_armed(&peer->timer));
        world_fini(&world);
    }
}

/* A neighbour that is gone: probed by unicast, then forgotten. */
static void test_probe_fails(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        int a = world_udp(&world, A, v6, 7);
        send_one(a, v6, 0);
        world_settle(&world);
        world_advance(&world, 46 * SECOND);
        world.n_trace = 0;
        drop_from = B;
        world.filter = drop_one_side;
        send_one(a, v6, 0);
        world_advance(&world, 9 * SECOND);
        CHECK_EQ(solicitations(v6), 3);
        for (uint32_t i = 1; i < world.n_trace; i++)
            CHECK_MEM(world.trace[i].data, packets_peer_mac, 6); /* unicast */
        CHECK_EQ(peer_entry(A, v6)->state, NEIGHBOR_IDLE);
        world_fini(&world);
    }
}

/* A changed MAC is used as soon as it is announced. */
static void test_new_mac(void)
{
    static const uint8_t new_mac[6] = {2, 0, 0, 0, 0, 0x99};
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7);
    send_one(a, false, 0);
    world_settle(&world);
    struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 2}};
    memcpy(arp.sender_mac, new_mac, 6);
    world_inject(&world, A, frame, packets_arp(frame, new_mac, &arp));
    CHECK_EQ(peer_entry(A, false)->state, NEIGHBOR_STALE);
    CHECK_MEM(peer_entry(A, false)->header, new_mac, 6);
    arp.sender_ip[3] = 77; /* somebody that we have nothing to do with */
    world_inject(&world, A, frame, packets_arp(frame, new_mac, &arp));
    CHECK(neighbor_find(world.host[A], packets_endpoint(false, 77, 0).ip) == NULL);
    world_fini(&world);
}

static void test_arp_is_answered_for_us_only(void)
{
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    world_settle(&world);
    uint64_t sent = world_counters(&world, A)->arp_tx;
    struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 3}};
    memcpy(arp.sender_mac, packets_peer_mac, 6);
    world_inject(&world, A, frame, packets_arp(frame, packets_peer_mac, &arp));
    CHECK_EQ(world_counters(&world, A)->arp_tx, sent);
    arp.target_ip[3] = 1;
    world_inject(&world, A, frame, packets_arp(frame, packets_peer_mac, &arp));
    CHECK_EQ(world_counters(&world, A)->arp_tx, sent + 1);
    memset(arp.sender_ip, 0, 4); /* a probe (RFC 5227) */
    world_inject(&world, A, frame, packets_arp(frame, packets_peer_mac, &arp));
    CHECK_EQ(world_counters(&world, A)->arp_tx, sent + 2);
    uint32_t len = packets_arp(frame, packets_us_mac, &arp);
    world_inject(&world, A, frame, len); /* Ethernet and ARP sender differ */
    CHECK_EQ(world_counters(&world, A)->arp_bad, 1);
    CHECK_EQ(world_counters(&world, A)->arp_tx, sent + 2);
    world_fini(&world);
}

/* No station has a group's MAC: what pretends to would have us send to all (RFC 1812 section 3.3.2). */
static void test_group_macs_are_not_believed_in_arp(void)
{
    static const uint8_t groups[][6] = {{1, 0, 0x5e, 0, 0, 9}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0}};
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7);
    drop_from = B;
    world.filter = drop_one_side;
    send_one(a, false, 0);
    for (size_t i = 0; i < AMS_ARRAY_SIZE(groups); i++) {
        struct arp_repr arp = {.operation = ARP_REPLY, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 1}};
        memcpy(arp.sender_mac, groups[i], 6);
        uint32_t len = packets_arp(frame, groups[i], &arp);
        memcpy(frame, packets_us_mac, 6);
        world_inject(&world, A, frame, len);
        CHECK_EQ(peer_entry(A, false)->state, NEIGHBOR_INCOMPLETE);
    }
    world_fini(&world);
}

/* The network's broadcast address belongs to nobody: no entry is made for it. */
static void test_arp_from_the_broadcast_address_is_not_learned(void)
{
    uint8_t frame[PACKETS_MAX], ip[16];
    static const uint8_t broadcast[4] = {10, 0, 0, 255};
    world_init(&world, plain);
    struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 255}, .target_ip = {10, 0, 0, 1}};
    memcpy(arp.sender_mac, packets_peer_mac, 6);
    world_inject(&world, A, frame, packets_arp(frame, packets_peer_mac, &arp));
    ip_map4(ip, broadcast);
    CHECK(neighbor_find(world.host[A], ip) == NULL);
    world_fini(&world);
}

/* Somebody uses our IPv4 address: it is counted, and defended at most every
 * ten seconds. */
static void test_ipv4_conflict(void)
{
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    world_settle(&world);
    struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 1}, .target_ip = {10, 0, 0, 1}};
    memcpy(arp.sender_mac, packets_peer_mac, 6);
    uint32_t len = packets_arp(frame, packets_peer_mac, &arp);
    world.n_trace = 0;
    for (int i = 0; i < 5; i++)
        world_inject(&world, A, frame, len);
    world_settle(&world);
    CHECK_EQ(world_counters(&world, A)->dad_conflict, 5);
    CHECK_EQ(world_count(&world, A, ETHERTYPE_ARP), 1);
    world_advance(&world, 10 * SECOND);
    world_inject(&world, A, frame, len);
    world_settle(&world);
    CHECK_EQ(world_count(&world, A, ETHERTYPE_ARP), 2);
    world_fini(&world);
}

static void test_addresses_are_announced(void)
{
    world_init(&world, plain);
    world_settle(&world);
    CHECK_EQ(world_count(&world, A, ETHERTYPE_ARP), 1);
    CHECK_EQ(world_counters(&world, A)->ndp_tx, 2);          /* fd00::1 and the link-local address */
    CHECK_EQ(world_counters(&world, A)->group_report_tx, 1); /* their solicited-node group is the same */
    CHECK_EQ(world_count(&world, A, ETHERTYPE_IPV6), 3);
    world_fini(&world);
}

/* RFC 4862 section 5.4: tentative for a second, silent meanwhile, then used. */
static void test_dad_succeeds(void)
{
    world_init(&world, with_dad);
    struct ams_endpoint own = packets_endpoint(true, 1, 0), to = packets_endpoint(true, 2, 9);
    int a = world_udp(&world, A, true, 7); /* may be bound to already */
    world_settle(&world);
    CHECK(!iface_owns(world.host[A], own.ip));
    CHECK_EQ(ams_stack_owns(world.host[A], &own), 1);
    CHECK_EQ(ams_udp_send(world.host[A], a, &to, "x", 1, world.now), -AMS_EADDRNOTAVAIL);
    CHECK_EQ(world_counters(&world, A)->ndp_tx, 2);
    for (uint32_t i = 0; i < world.n_trace; i++)
        if (load_be16(world.trace[i].data + 12) == ETHERTYPE_IPV6)
            CHECK(ipv6_is_unspecified(world.trace[i].data + ETH_HEADER + 8));
    world_advance(&world, 900 * MS);
    CHECK(!iface_owns(world.host[A], own.ip));
    world_advance(&world, 200 * MS);
    CHECK(iface_owns(world.host[A], own.ip));
    CHECK_EQ(world_counters(&world, A)->dad_conflict, 0);
    CHECK_EQ(ams_udp_send(world.host[A], a, &to, "x", 1, world.now), 0);
    world_settle(&world);
    CHECK_EQ(world_counters(&world, B)->udp_rx, 1);
    world_fini(&world);
}

/* Two hosts that want one address at the same time: neither gets it. */
static void test_dad_collision(void)
{
    world_init(&world, (struct world_options){.same_address = true});
    world_advance(&world, 5 * SECOND);
    struct ams_endpoint own = packets_endpoint(true, 1, 0);
    for (int i = 0; i < HOSTS; i++) {
        CHECK_EQ(world_counters(&world, i)->dad_conflict >= 1, 1);
        CHECK(!iface_owns(world.host[i], own.ip));
        CHECK_EQ(ams_stack_owns(world.host[i], &own), 0);
    }
    world_fini(&world);
}

/* Who comes second is told by who has the address. */
static void test_dad_is_defended(void)
{
    int status;
    world_init(&world, plain);
    world_settle(&world);
    stack_free(world.host[B]);
    struct world_options late = {.same_address = true};
    world.host[B] = world_host(&world.pool, B, &late, world.now, &status);
    CHECK_EQ(status, 0);
    world_advance(&world, 5 * SECOND);
    struct ams_endpoint own = packets_endpoint(true, 1, 0);
    CHECK(iface_owns(world.host[A], own.ip));
    CHECK(!iface_owns(world.host[B], own.ip));
    CHECK_EQ(world_counters(&world, B)->dad_conflict >= 1, 1);
    world_fini(&world);
}

/* A neighbour discovery message to A. */
static void inject_ndp(uint8_t hop_limit, const struct ndp_repr *ndp, bool break_checksum)
{
    uint8_t frame[PACKETS_MAX], message[NDP_LENGTH_LLADDR];
    uint32_t message_len = ndp_emit(message, ndp);
    struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = ndp->type, .hop_limit = hop_limit,
                                 .payload = (uint16_t)(message_len - ICMP_HEADER)};
    uint32_t len = packets_build(frame, &what);
    memcpy(frame + len - message_len, message, message_len);
    packets_checksum(frame, len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
    frame[len - 1] ^= break_checksum;
    world_inject(&world, A, frame, len);
}

static void test_ndp_validity(void)
{
    world_init(&world, plain);
    world_settle(&world);
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_SOLICIT, .has_lladdr = true, .lladdr = {2, 0, 0, 0, 0, 2}};
    packets_ip(ndp.target, true, 1);
    uint64_t sent = world_counters(&world, A)->ndp_tx;
    inject_ndp(254, &ndp, false); /* it passed a router */
    CHECK_EQ(world_counters(&world, A)->ndp_bad, 1);
    inject_ndp(255, &ndp, true);
    CHECK_EQ(world_counters(&world, A)->icmp_bad, 1);
    CHECK_EQ(world_counters(&world, A)->ndp_tx, sent);
    CHECK(peer_entry(A, true) == NULL);
    inject_ndp(255, &ndp, false);
    CHECK_EQ(world_counters(&world, A)->ndp_tx, sent + 1);
    CHECK_EQ(peer_entry(A, true)->state, NEIGHBOR_STALE);
    world_fini(&world);
}

/* What RFC 4861 sections 7.1.1 and 7.1.2 want to be discarded, and what has a group's MAC. */
static void test_ndp_that_nobody_may_send(void)
{
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    static const struct {
        uint8_t type;
        bool from_nowhere, to_group, lladdr, group_mac;
        bool bad;
    } cases[] = {
        {ICMP6_NEIGHBOR_SOLICIT, true, true, true, false, true},    /* a probe that names its sender */
        {ICMP6_NEIGHBOR_SOLICIT, true, false, false, false, true},  /* one to a single host */
        {ICMP6_NEIGHBOR_SOLICIT, true, true, false, false, false},  /* as it should be */
        {ICMP6_NEIGHBOR_SOLICIT, false, false, true, true, true},   /* it cannot be answered */
        {ICMP6_NEIGHBOR_ADVERT, false, true, true, false, true},    /* an answer for all */
        {ICMP6_NEIGHBOR_ADVERT, false, false, true, true, false},   /* ignored */
    };
    for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
        uint8_t frame[PACKETS_MAX], message[NDP_LENGTH_LLADDR];
        world_init(&world, plain);
        int a = world_udp(&world, A, true, 7);
        world_settle(&world);
        drop_from = B;
        world.filter = drop_one_side;
        send_one(a, true, 0);
        world_settle(&world);
        uint64_t sent = world_counters(&world, A)->ndp_tx;
        struct ndp_repr ndp = {.type = cases[i].type, .has_lladdr = cases[i].lladdr, .lladdr = {2, 0, 0, 0, 0, 2}};
        ndp.flags = ndp.type == ICMP6_NEIGHBOR_ADVERT ? NDP_SOLICITED | NDP_OVERRIDE : 0;
        ndp.lladdr[0] |= cases[i].group_mac;
        packets_ip(ndp.target, true, ndp.type == ICMP6_NEIGHBOR_ADVERT ? 2 : 1);
        uint32_t message_len = ndp_emit(message, &ndp);
        struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = ndp.type, .hop_limit = 255,
                                     .zero_src = cases[i].from_nowhere,
                                     .payload = (uint16_t)(message_len - ICMP_HEADER)};
        if (cases[i].to_group)
            memcpy(what.dst, all_nodes, 16);
        uint32_t len = packets_build(frame, &what);
        memcpy(frame + len - message_len, message, message_len);
        packets_checksum(frame, len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
        if (cases[i].to_group)
            memcpy(frame, (uint8_t[]){0x33, 0x33, 0, 0, 0, 1}, 6);
        world_inject(&world, A, frame, len);
        CHECK_EQ(world_counters(&world, A)->ndp_bad, cases[i].bad);
        CHECK_EQ(peer_entry(A, true)->state, NEIGHBOR_INCOMPLETE);
        bool answered = i == 2; /* RFC 4862 section 5.4.3 */
        CHECK_EQ(world_counters(&world, A)->ndp_tx, sent + answered);
        world_fini(&world);
    }
}

/* RFC 4861 section 7.2.5: without the override flag a different MAC is not
 * taken over, but ours is doubted. */
static void test_ndp_override(void)
{
    world_init(&world, plain);
    int a = world_udp(&world, A, true, 7);
    send_one(a, true, 0);
    world_settle(&world);
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .has_lladdr = true, .lladdr = {2, 0, 0, 0, 0, 0x99}};
    packets_ip(ndp.target, true, 2);
    inject_ndp(255, &ndp, false);
    CHECK_MEM(peer_entry(A, true)->header, packets_peer_mac, 6);
    CHECK_EQ(peer_entry(A, true)->usable_until, 0);
    ndp.flags = NDP_OVERRIDE;
    inject_ndp(255, &ndp, false);
    CHECK_MEM(peer_entry(A, true)->header, ndp.lladdr, 6);
    CHECK_EQ(peer_entry(A, true)->state, NEIGHBOR_STALE);
    packets_ip(ndp.target, true, 3); /* never asked for */
    inject_ndp(255, &ndp, false);
    CHECK(neighbor_find(world.host[A], ndp.target) == NULL);
    world_fini(&world);
}

/* More neighbours than the table holds: the least used go, the gateway stays,
 * paths notice. */
static void test_table_is_bounded(void)
{
    struct ip_path path = {0};
    world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD, .gateway = true});
    struct ams_stack *stack = world.host[A];
    uint8_t far[16] = {0x20, 0x01}, ip[16];
    CHECK_EQ(ip_path_find(stack, far, &path), 0);
    struct neighbor *gateway = path.neighbor;
    uint32_t generation = stack->path_generation;
    for (uint32_t i = 0; i < 4 * NEIGHBOR_LIMIT; i++) {
        packets_ip(ip, true, 3);
        store_be32(ip + 8, i);
        struct ip_path other = {0};
        CHECK_EQ(ip_path_find(stack, ip, &other), 0);
        CHECK(other.neighbor != gateway);
        CHECK_EQ(other.generation, stack->path_generation);
    }
    CHECK(stack->path_generation != generation);
    CHECK(neighbor_memory(stack) < 1u << 20);
    CHECK_EQ(ip_path_find(stack, far, &path), 0);
    CHECK(path.neighbor == gateway);
    world_fini(&world);
}

int main(void)
{
    RUN(test_resolution);
    RUN(test_failure);
    RUN(test_wait_queue_is_bounded);
    RUN(test_wait_queue_is_bounded_in_bytes);
    RUN(test_states);
    RUN(test_probe_fails);
    RUN(test_new_mac);
    RUN(test_arp_is_answered_for_us_only);
    RUN(test_group_macs_are_not_believed_in_arp);
    RUN(test_arp_from_the_broadcast_address_is_not_learned);
    RUN(test_ipv4_conflict);
    RUN(test_addresses_are_announced);
    RUN(test_dad_succeeds);
    RUN(test_dad_collision);
    RUN(test_dad_is_defended);
    RUN(test_ndp_validity);
    RUN(test_ndp_that_nobody_may_send);
    RUN(test_ndp_override);
    RUN(test_table_is_bounded);
    return check_report();
}
