/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_udp.c - UDP between two stacks: delivery, binding, queues, errors.
 */
#include "net_fixture.h"

static struct world world;

static const struct world_options plain = {.flags = AMS_STACK_NO_DAD};

static void send_to(int from, int id, bool v6, uint8_t host, uint16_t port, const void *data, size_t length, int expected)
{
    struct ams_endpoint to = packets_endpoint(v6, host, port);
    CHECK_EQ(ams_udp_send(world.host[from], id, &to, data, length, world.now), expected);
}

/* Receives one datagram of exactly these bytes. */
static void expect(int which, int id, const void *data, size_t length, const struct ams_endpoint *sender)
{
    static char buffer[65536];
    struct ams_endpoint from;
    CHECK_EQ(ams_udp_recv(world.host[which], id, &from, buffer, sizeof(buffer)), length);
    CHECK_MEM(buffer, data, length);
    if (sender) {
        CHECK_MEM(from.ip, sender->ip, 16);
        CHECK_EQ(from.port, sender->port);
        CHECK_EQ(from.family, sender->family);
    }
}

static void test_there_and_back(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        int a = world_udp(&world, A, v6, 1111), b = world_udp(&world, B, v6, 2222);
        struct ams_endpoint sender = packets_endpoint(v6, 1, 1111);
        send_to(A, a, v6, 2, 2222, "ping", 4, 0);
        world_settle(&world);
        expect(B, b, "ping", 4, &sender);
        CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, NULL, 0), -AMS_EAGAIN);
        send_to(B, b, v6, 1, 1111, "pong!", 5, 0);
        world_settle(&world);
        expect(A, a, "pong!", 5, NULL);
        world_fini(&world);
    }
}

static void test_every_size(void)
{
    static uint8_t data[65536];
    world_pattern(data, sizeof(data), 9);
    BOTH(v6) {
        for (uint32_t caps = 0; caps <= AMS_CAP_CSUM_TX; caps += AMS_CAP_CSUM_TX) {
            world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD, .caps = caps});
            int a = world_udp(&world, A, v6, 1111), b = world_udp(&world, B, v6, 2222);
            uint32_t limit = v6 ? 65527 : 65507;
            for (uint32_t length = 0; length <= limit; length += length < 40 ? 1 : length < 1600 ? 13 : 3571) {
                send_to(A, a, v6, 2, 2222, data, length, 0);
                world_settle(&world);
                expect(B, b, data, length, NULL);
            }
            send_to(A, a, v6, 2, 2222, data, limit, 0);
            world_settle(&world);
            expect(B, b, data, limit, NULL);
            send_to(A, a, v6, 2, 2222, data, limit + 1, -AMS_EMSGSIZE);
            CHECK_EQ(world_counters(&world, B)->udp_bad, 0);
            world_fini(&world);
        }
    }
}

/* A datagram that the buffer is too small for is cut, not lost. */
static void test_short_buffer(void)
{
    char buffer[4] = "....";
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 1), b = world_udp(&world, B, false, 2);
    send_to(A, a, false, 2, 2, "abcdef", 6, 0);
    world_settle(&world);
    CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, buffer, 3), 6);
    CHECK_MEM(buffer, "abc.", 4);
    world_fini(&world);
}

static void test_events(void)
{
    int32_t events[16 * AMS_EVENT_WORDS];
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 1), b = world_udp(&world, B, false, 2);
    send_to(A, a, false, 2, 2, "abc", 3, 0);
    send_to(A, a, false, 2, 2, "de", 2, 0);
    world_settle(&world);
    CHECK_EQ(stack_deadline(world.host[B]), 0); /* it wants to be polled */
    CHECK_EQ(stack_events(world.host[B], events, 16, NULL, 0), 1);
    CHECK_EQ(events[0], b);
    CHECK_EQ(events[1], AMS_EV_READABLE);
    CHECK_EQ(events[3], 0); /* not in the blob */
    CHECK_EQ(stack_events(world.host[B], events, 16, NULL, 0), 0);
    CHECK(stack_deadline(world.host[B]) != 0);
    world_fini(&world);
}

static void test_binding(void)
{
    world_init(&world, plain);
    struct ams_stack *stack = world.host[A];
    struct ams_endpoint any = packets_wildcard(false, 53), own = packets_endpoint(false, 1, 53);
    struct ams_endpoint other = packets_endpoint(false, 9, 53), any6 = packets_wildcard(true, 53);
    int id = ams_udp_open(stack, &any, NULL, 0);
    CHECK(id >= 0);
    CHECK_EQ(ams_udp_open(stack, &any, NULL, 0), -AMS_EADDRINUSE);
    CHECK_EQ(ams_udp_open(stack, &own, NULL, 0), -AMS_EADDRINUSE);
    CHECK_EQ(ams_udp_open(stack, &other, NULL, 0), -AMS_EADDRNOTAVAIL);
    CHECK_EQ(ams_udp_open(stack, &any6, NULL, 0), -AMS_EADDRINUSE); /* it would take IPv4 too */
    int id6 = ams_udp_open(stack, &any6, NULL, AMS_LISTEN_V6ONLY); /* the families are apart */
    CHECK(id6 >= 0);
    CHECK_EQ(ams_udp_close(stack, id), 1);
    CHECK_EQ(ams_udp_close(stack, id), -AMS_EBADF);
    id = ams_udp_open(stack, &own, NULL, 0);
    CHECK(id >= 0);
    CHECK_EQ(ams_udp_open(stack, &any, NULL, 0), -AMS_EADDRINUSE);
    CHECK_EQ(ams_udp_open(stack, NULL, NULL, 0), -AMS_EINVAL);
    CHECK_EQ(ams_udp_open(stack, &own, NULL, 1u << 30), -AMS_EINVAL);
    CHECK_EQ(ams_stack_endpoints(stack), 2);
    world_fini(&world);
}

/* The IPv6 wildcard talks IPv4 too, unless it is told not to. */
static void test_dual_stack(void)
{
    world_init(&world, plain);
    struct ams_endpoint any6 = packets_wildcard(true, 53), any = packets_wildcard(false, 53);
    struct ams_endpoint own = packets_endpoint(false, 2, 53);
    int dual = ams_udp_open(world.host[B], &any6, NULL, 0);
    CHECK(dual >= 0);
    CHECK_EQ(ams_udp_open(world.host[B], &any, NULL, 0), -AMS_EADDRINUSE);
    CHECK_EQ(ams_udp_open(world.host[B], &own, NULL, 0), -AMS_EADDRINUSE);
    BOTH(v6) {
        int id = world_udp(&world, A, v6, 7);
        struct ams_endpoint peer = packets_endpoint(v6, 1, 7), here = packets_endpoint(v6, 2, 53);
        send_to(A, id, v6, 2, 53, "question", 8, 0);
        world_settle(&world);
        expect(B, dual, "question", 8, &peer);
        CHECK_EQ(ams_udp_send(world.host[B], dual, &peer, "answer", 6, world.now), 0);
        world_settle(&world);
        expect(A, id, "answer", 6, &here);
    }
    CHECK_EQ(ams_udp_close(world.host[B], dual), 1);
    dual = ams_udp_open(world.host[B], &any6, NULL, AMS_LISTEN_V6ONLY);
    struct ams_endpoint peer = packets_endpoint(false, 1, 7);
    CHECK_EQ(ams_udp_send(world.host[B], dual, &peer, "x", 1, world.now), -AMS_EAFNOSUPPORT);
    int single = ams_udp_open(world.host[B], &any, NULL, 0);
    CHECK(single >= 0);
    world_fini(&world);
}

/* Endpoints that agree share a port: each sender has one of them, all get their part. */
static void test_shared_port(void)
{
    enum { GROUP = 4, SENDERS = 200 };
    int group[GROUP], got[GROUP] = {0}, before[SENDERS];
    BOTH(v6) {
        world_init(&world, plain);
        struct ams_endpoint own = packets_endpoint(v6, 2, 53);
        for (int i = 0; i < GROUP; i++) {
            got[i] = 0;
            group[i] = ams_udp_open(world.host[B], &own, NULL, AMS_LISTEN_REUSEPORT);
            CHECK(group[i] >= 0);
        }
        CHECK_EQ(ams_udp_open(world.host[B], &own, NULL, 0), -AMS_EADDRINUSE);
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < SENDERS; i++) {
                int id = world_udp(&world, A, v6, (uint16_t)(1000 + i));
                send_to(A, id, v6, 2, 53, "x", 1, 0);
                world_settle(&world);
                int taker = -1;
                for (int j = 0; j < (round < 2 ? GROUP : GROUP - 1); j++)
                    if (ams_udp_recv(world.host[B], group[j], NULL, NULL, 0) == 1)
                        taker = j;
                CHECK(taker >= 0);
                if (round == 0)
                    got[taker]++;
                else if (round == 1 || before[i] != GROUP - 1) /* who leaves moves nobody else's */
                    CHECK_EQ(taker, before[i]);
                before[i] = taker;
                CHECK_EQ(ams_udp_close(world.host[A], id), 1);
            }
            if (round == 1)
                CHECK_EQ(ams_udp_close(world.host[B], group[GROUP - 1]), 1);
        }
        for (int i = 0; i < GROUP; i++)
            CHECK(got[i] > SENDERS / GROUP / 3);
        world_fini(&world);
    }
}

static void test_ephemeral_ports(void)
{
    static int ids[28233];
    static bool seen[65536];
    const int range = 60999 - 32768 + 1;
    world_init(&world, plain);
    struct ams_endpoint any = packets_wildcard(false, 0), name;
    for (int i = 0; i < range; i++) {
        ids[i] = ams_udp_open(world.host[A], &any, NULL, 0);
        CHECK(ids[i] >= 0);
        CHECK_EQ(ams_udp_local(world.host[A], ids[i], &name), 0);
        CHECK(name.port >= 32768 && name.port <= 60999 && !seen[name.port]);
        seen[name.port] = true;
    }
    CHECK_EQ(ams_udp_open(world.host[A], &any, NULL, 0), -AMS_EADDRINUSE);
    for (int i = 0; i < range; i++)
        CHECK_EQ(ams_udp_close(world.host[A], ids[i]), 1);
    CHECK_EQ(ams_stack_endpoints(world.host[A]), 0);
    world_fini(&world);
}

/* The best match wins: connected before bound, an address before a wildcard. */
static void test_demultiplexing(void)
{
    world_init(&world, plain);
    struct ams_endpoint peer = packets_endpoint(false, 1, 7), local = packets_endpoint(false, 2, 9);
    int connected = ams_udp_open(world.host[B], &local, &peer, 0);
    CHECK(connected >= 0);
    int from7 = world_udp(&world, A, false, 7), from8 = world_udp(&world, A, false, 8);
    send_to(A, from7, false, 2, 9, "yes", 3, 0);
    send_to(A, from8, false, 2, 9, "no", 2, 0);
    world_settle(&world);
    expect(B, connected, "yes", 3, &peer);
    CHECK_EQ(ams_udp_recv(world.host[B], connected, NULL, NULL, 0), -AMS_EAGAIN);
    CHECK_EQ(world_counters(&world, B)->udp_no_port, 1);
    world_fini(&world);
}

static void test_connected_refused(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        struct ams_endpoint peer = packets_endpoint(v6, 2, 4444);
        int id = ams_udp_open(world.host[A], NULL, &peer, 0);
        CHECK(id >= 0);
        CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "x", 1, world.now), 0);
        world_settle(&world);
        CHECK_EQ(world_counters(&world, B)->icmp_error_tx, 1);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_ECONNREFUSED);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EAGAIN); /* told once */
        CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "x", 1, world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "x", 1, world.now), -AMS_ECONNREFUSED);
        world_fini(&world);
    }
}

static void test_send_errors(void)
{
    world_init(&world, plain);
    int id = world_udp(&world, A, false, 7);
    struct ams_endpoint v6 = packets_endpoint(true, 2, 7), zero_port = packets_endpoint(false, 2, 0);
    struct ams_endpoint off_link = packets_endpoint(false, 2, 7), any = packets_wildcard(false, 7);
    off_link.ip[12] = 192;
    CHECK_EQ(ams_udp_send(world.host[A], id, NULL, "x", 1, world.now), -AMS_ENOTCONN);
    CHECK_EQ(ams_udp_send(world.host[A], id, &v6, "x", 1, world.now), -AMS_EAFNOSUPPORT);
    CHECK_EQ(ams_udp_send(world.host[A], id, &zero_port, "x", 1, world.now), -AMS_EINVAL);
    CHECK_EQ(ams_udp_send(world.host[A], id, &any, "x", 1, world.now), -AMS_EINVAL);
    CHECK_EQ(ams_udp_send(world.host[A], id, &off_link, "x", 1, world.now), -AMS_ENETUNREACH);
    CHECK_EQ(ams_udp_send(world.host[A], 99, NULL, "x", 1, world.now), -AMS_EBADF);
    CHECK_EQ(world_counters(&world, A)->ip_no_route, 1);
    world_fini(&world);
}

static void test_receive_queue_is_bounded(void)
{
    static uint8_t data[1000];
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7), b = world_udp(&world, B, false, 7), received = 0;
    for (int i = 0; i < 300; i++) {
        send_to(A, a, false, 2, 7, data, sizeof(data), 0);
        world_settle(&world);
    }
    while (ams_udp_recv(world.host[B], b, NULL, NULL, 0) == sizeof(data))
        received++;
    CHECK_EQ(received, 212992 / (1000 + 256));
    CHECK_EQ(world_counters(&world, B)->udp_queue_full, 300 - received);
    world_fini(&world);
}

static void test_send_queue_is_bounded(void)
{
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7), status = 0, sent = 0;
    world_udp(&world, B, false, 7);
    send_to(A, a, false, 2, 7, "x", 1, 0);
    world_settle(&world); /* the neighbour is known now */
    struct ams_endpoint to = packets_endpoint(false, 2, 7);
    while (sent < 100000 && (status = ams_udp_send(world.host[A], a, &to, "x", 1, world.now)) == 0)
        sent++;
    CHECK_EQ(status, -AMS_EAGAIN);
    CHECK_EQ(sent, STACK_OUT_LIMIT);
    world_fini(&world);
}

/* RFC 768: zero means no checksum, for IPv4; RFC 8200 forbids it. */
static void test_zero_checksum(void)
{
    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        world_init(&world, plain);
        int id = world_udp(&world, A, v6, 9);
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .sport = 5, .dport = 9, .payload = 3,
                                    .body = (const uint8_t *)"abc"};
        world_inject(&world, A, frame, packets_build(frame, &udp));
        if (v6)
            CHECK_EQ(world_counters(&world, A)->udp_bad, 1);
        else
            expect(A, id, "abc", 3, NULL);
        world_fini(&world);
    }
}

static void test_bad_datagrams(void)
{
    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        world_init(&world, plain);
        int id = world_udp(&world, A, v6, 9);
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .sport = 5, .dport = 9, .payload = 20};
        uint32_t len = packets_build(frame, &udp), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
        packets_checksum(frame, len, v6, PROTO_UDP, UDP_CHECKSUM_AT);
        frame[l4 + UDP_HEADER + 3] ^= 1; /* a bit flips */
        world_inject(&world, A, frame, len);
        CHECK_EQ(world_counters(&world, A)->udp_bad, 1);
        frame[l4 + UDP_HEADER + 3] ^= 1;
        for (uint32_t length = 0; length < 8; length++) { /* shorter than its header */
            store_be16(frame + l4 + 4, length);
            world_inject(&world, A, frame, len);
        }
        store_be16(frame + l4 + 4, 29); /* longer than the packet */
        world_inject(&world, A, frame, len);
        CHECK_EQ(world_counters(&world, A)->udp_bad, 10);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EAGAIN);
        store_be16(frame + l4 + 4, 28);
        world_inject(&world, A, frame, len);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), 20);
        world_fini(&world);
    }
}

static void test_broadcast(void)
{
    world_init(&world, plain);
    struct ams_endpoint any = packets_wildcard(false, 67);
    int a = world_udp(&world, A, false, 68), b = ams_udp_open(world.host[B], &any, NULL, 0);
    send_to(A, a, false, 255, 67, "subnet", 6, 0);
    struct ams_endpoint limited = packets_endpoint(false, 255, 67);
    memset(limited.ip + 12, 255, 4);
    CHECK_EQ(ams_udp_send(world.host[A], a, &limited, "all", 3, world.now), 0);
    world_settle(&world);
    expect(B, b, "subnet", 6, NULL);
    expect(B, b, "all", 3, NULL);
    CHECK_EQ(ams_udp_close(world.host[B], b), 1);
    send_to(A, a, false, 255, 67, "nobody", 6, 0);
    world_settle(&world);
    CHECK_EQ(world_counters(&world, B)->udp_no_port, 1);
    CHECK_EQ(world_counters(&world, B)->icmp_error_tx, 0); /* never about a broadcast */
    world_fini(&world);
}

static void test_to_ourselves(void)
{
    static uint8_t data[9000];
    world_pattern(data, sizeof(data), 3);
    BOTH(v6) {
        world_init(&world, plain);
        world_settle(&world);
        world.n_trace = 0;
        int a = world_udp(&world, A, v6, 7), b = world_udp(&world, A, v6, 8);
        send_to(A, a, v6, 1, 8, data, sizeof(data), 0);
        send_to(A, a, v6, 1, 9, "x", 1, 0);
        CHECK_EQ(stack_deadline(world.host[A]), 0);
        world_settle(&world);
        expect(A, b, data, sizeof(data), NULL);
        CHECK_EQ(world_counters(&world, A)->udp_no_port, 1);
        CHECK_EQ(world.n_trace, 0); /* nothing of it is seen on the link */
        world_fini(&world);
    }
}

/* The claims that the stack makes with its owner. */
struct claims {
    int held;
    int refuse;               /* status to give; 0: none */
    struct ams_endpoint last;
};

static int claim(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct claims *claims = ctx;
    CHECK_EQ(protocol, PROTO_UDP);
    CHECK(local->port != 0);
    if (claims->refuse)
        return claims->refuse;
    claims->last = *local;
    claims->held++;
    return 0;
}

static void release(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct claims *claims = ctx;
    CHECK_EQ(protocol, PROTO_UDP);
    CHECK_EQ(local->port, claims->last.port);
    claims->held--;
}

static void test_claims(void)
{
    struct claims claims = {0};
    world_init(&world, plain);
    world.host[A]->owner = (struct ams_owner){.claim = claim, .release = release, .ctx = &claims};
    struct ams_endpoint any = packets_wildcard(false, 0), peer = packets_endpoint(false, 2, 9);
    int id = ams_udp_open(world.host[A], &any, NULL, 0);
    CHECK_EQ(claims.held, 1);
    CHECK(ip_is_any(claims.last.ip));
    ams_udp_close(world.host[A], id);
    CHECK_EQ(claims.held, 0);
    id = ams_udp_open(world.host[A], &any, &peer, 0); /* connecting fixes the address */
    CHECK(iface_owns(world.host[A], claims.last.ip));
    claims.refuse = -AMS_EADDRINUSE;
    any.port = 99;
    CHECK_EQ(ams_udp_open(world.host[A], &any, NULL, 0), -AMS_EADDRINUSE);
    CHECK_EQ(claims.held, 1);
    ams_udp_close(world.host[A], id);
    CHECK_EQ(claims.held, 0);
    world_fini(&world);
}

static void test_listing(void)
{
    struct ams_tcp_info info[4];
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7);
    struct ams_endpoint peer = packets_endpoint(true, 2, 9);
    int connected = ams_udp_open(world.host[A], NULL, &peer, 0);
    CHECK_EQ(ams_stack_list(world.host[A], info, 4, world.now), 2);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(info[i].protocol, PROTO_UDP);
        CHECK_EQ(info[i].state, info[i].id == connected ? AMS_TCP_ESTABLISHED : AMS_TCP_CLOSED);
        CHECK(info[i].id == a || info[i].id == connected);
    }
    CHECK_EQ(ams_stack_list(world.host[A], info, 1, world.now), 2);
    CHECK_EQ(ams_stack_list(world.host[A], NULL, 0, world.now), 2);
    world_fini(&world);
}

int main(void)
{
    RUN(test_there_and_back);
    RUN(test_every_size);
    RUN(test_short_buffer);
    RUN(test_events);
    RUN(test_binding);
    RUN(test_dual_stack);
    RUN(test_shared_port);
    RUN(test_ephemeral_ports);
    RUN(test_demultiplexing);
    RUN(test_connected_refused);
    RUN(test_send_errors);
    RUN(test_receive_queue_is_bounded);
    RUN(test_send_queue_is_bounded);
    RUN(test_zero_checksum);
    RUN(test_bad_datagrams);
    RUN(test_broadcast);
    RUN(test_to_ourselves);
    RUN(test_claims);
    RUN(test_listing);
    return check_report();
}
