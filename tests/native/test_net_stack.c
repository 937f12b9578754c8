/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_stack.c - life cycle, configuration, determinism, failing memory,
 * and noise.
 */
#include "net_fixture.h"
#include "core/hash.h"

static struct world world;

static const struct world_options plain = {.flags = AMS_STACK_NO_DAD};

/* ---- configuration ------------------------------------------------------------------ */

static struct ams_ifaddr own[2];
static struct ams_stack_config config;
static struct stack_link link_;
static struct frame_pool pool;

static void defaults(void)
{
    own[0] = world_address(false, 1);
    own[1] = world_address(true, 1);
    config = (struct ams_stack_config){.seed = {1, 2}, .addresses = own, .n_addresses = 2};
    link_ = (struct stack_link){.mtu = 1500, .pool = &pool};
}

static int try_new(void)
{
    int status = 1;
    frame_pool_init(&pool, 100, false);
    struct ams_stack *stack = stack_new(&config, &link_, WORLD_START, &status);
    CHECK_EQ(stack == NULL, status < 0);
    stack_free(stack);
    CHECK_EQ(pool.in_use, 0);
    frame_pool_fini(&pool);
    return status;
}

#define TRY(change, expected)      \
    do {                           \
        defaults();                \
        change;                    \
        CHECK_EQ(try_new(), expected); \
    } while (0)

static void test_configuration(void)
{
    TRY((void)0, 0);
    TRY(config.n_addresses = 0, -AMS_EINVAL);
    TRY(config.addresses = NULL, -AMS_EINVAL);
    TRY(own[0].address.family = 0, -AMS_EINVAL);
    TRY(own[0].address.family = AMS_IPV6, -AMS_EINVAL);
    TRY(own[0].prefix_len = 33, -AMS_EINVAL);
    TRY(own[1].prefix_len = 129, -AMS_EINVAL);
    TRY(own[0].address.ip[12] = 127, 0); /* works inside the stack */
    TRY(own[0].address.ip[12] = 224, -AMS_EINVAL);
    TRY(memset(own[0].address.ip + 12, 0, 4), -AMS_EINVAL);
    TRY(own[1].address.ip[0] = 0xff, -AMS_EINVAL);
    TRY(own[1] = own[0], 0); /* twice the same is once */
    TRY(config.gateway4 = packets_endpoint(true, 2, 0), -AMS_EINVAL);
    TRY(config.gateway4 = packets_endpoint(false, 2, 0), 0);
    TRY(config.gateway6 = packets_endpoint(false, 2, 0), -AMS_EINVAL);
    TRY(config.mtu = 500, -AMS_EINVAL);
    TRY(config.mtu = 1279, -AMS_EINVAL); /* too small for its IPv6 address */
    TRY((config.mtu = 1279, config.n_addresses = 1), 0);
    TRY(link_.mtu = 65535, 0);
    TRY(link_.mtu = 70000, -AMS_EINVAL);
    TRY(config.mac[0] = 1, -AMS_EINVAL);
    TRY((config.ephemeral_low = 2, config.ephemeral_high = 1), -AMS_EINVAL);
    TRY(config.congestion = "nonsense", -AMS_EINVAL);
    TRY(config.congestion = "reno", 0);
}

static void test_defaults(void)
{
    int status;
    defaults();
    config.mtu = 9000;
    frame_pool_init(&pool, 100, false);
    struct ams_stack *stack = stack_new(&config, &link_, WORLD_START, &status);
    CHECK(stack != NULL);
    CHECK_EQ(stack->mtu, 1500); /* no more than the link's */
    CHECK_EQ(stack->config.time_wait_ms, 60000);
    CHECK_EQ(stack->config.rto_min_ms, 200);
    CHECK_EQ(stack->config.delack_ms, 40);
    CHECK_EQ(stack->config.ephemeral_low, 32768);
    CHECK_EQ(stack->config.ephemeral_high, 60999);
    CHECK_EQ(stack->config.max_endpoints, 1 << 20);
    CHECK(strcmp(stack->config.congestion, "cubic") == 0);
    CHECK(stack->config.addresses != own);
    const uint8_t *mac = stack_mac(stack);
    CHECK((mac[0] & 3) == 2); /* locally administered, one station */
    uint8_t first[6];
    memcpy(first, mac, 6);
    stack_free(stack);
    config.seed[0]++;
    stack = stack_new(&config, &link_, WORLD_START, &status);
    CHECK(memcmp(stack_mac(stack), first, 6) != 0);
    CHECK(ams_stack_memory(stack) > sizeof(*stack));
    stack_free(stack);
    frame_pool_fini(&pool);
}

static void test_counters(void)
{
    uint64_t values[256];
    world_init(&world, plain);
    int n = stack_counter_values(world.host[A], values, 256);
    CHECK(n > 50 && n < 256);
    for (int i = 0; i < n; i++)
        CHECK(stack_counter_name(i) != NULL);
    CHECK(stack_counter_name(n) == NULL && stack_counter_name(-1) == NULL);
    values[3] = 77;
    CHECK_EQ(stack_counter_values(world.host[A], values, 3), n);
    CHECK_EQ(values[3], 77);
    world_fini(&world);
}

/* ---- the verbs ------------------------------------------------------------------------ */

/* Whatever the ring's size, everything leaves, in order. */
static void test_small_rings(void)
{
    struct ams_tx tx;
    uint8_t head[FRAME_HEADROOM + TX_HEAD_MAX];
    world_init(&world, plain);
    world_settle(&world);
    int a = world_udp(&world, A, false, 7);
    struct ams_endpoint to = packets_endpoint(false, 255, 9); /* broadcast: nothing to resolve */
    for (int i = 0; i < 10; i++) {
        char byte = (char)i;
        CHECK_EQ(ams_udp_send(world.host[A], a, &to, &byte, 1, world.now), 0);
    }
    CHECK_EQ(stack_output(world.host[A], &tx, 0, world.now), 0);
    for (int i = 0; i < 10; i++) {
        memset(&tx, 0, sizeof(tx));
        tx.head = head + FRAME_HEADROOM;
        CHECK_EQ(stack_deadline(world.host[A]), 0);
        CHECK_EQ(stack_output(world.host[A], &tx, 1, world.now), 1);
        CHECK_EQ(tx.head[ETH_HEADER + IP4_HEADER + UDP_HEADER], i);
        stack_output_done(world.host[A], &tx, 1);
    }
    CHECK_EQ(stack_output(world.host[A], &tx, 1, world.now), 0);
    CHECK(stack_deadline(world.host[A]) > world.now);
    world_fini(&world);
}

/* A clock that goes back does no harm. */
static void test_time_never_goes_back(void)
{
    world_init(&world, plain);
    int a = world_udp(&world, A, false, 7);
    struct ams_endpoint to = packets_endpoint(false, 2, 9);
    CHECK_EQ(ams_udp_send(world.host[A], a, &to, "x", 1, AMS_NOW), 0);
    world.now -= 500 * SECOND;
    world_settle(&world);
    CHECK_EQ(world.host[A]->now, WORLD_START);
    world_fini(&world);
}

/* ---- TCP over all this -------------------------------------------------------------------- */

/* Pulls the events of one host.  Return: the bits of the last one for id. */
static int32_t poll_events(int host, int id, int *accepted)
{
    static char blob[65536];
    int32_t events[64 * AMS_EVENT_WORDS], bits = 0;
    int n = stack_events(world.host[host], events, 64, blob, sizeof(blob));
    for (int i = 0; i < n; i++) {
        const int32_t *event = events + i * AMS_EVENT_WORDS;
        if (event[1] & AMS_EV_ACCEPTED && accepted)
            *accepted = event[0];
        if (event[0] == id)
            bits |= event[1];
    }
    return bits;
}

/* Connects host A to port 80 of host `server`; both sides know it. */
static int connect_tcp(bool v6, int server, int *accepted)
{
    struct ams_endpoint local = packets_endpoint(v6, (uint8_t)(server + 1), 80);
    CHECK(ams_tcp_listen(world.host[server], &local, 8, 0) >= 0);
    int id = ams_tcp_connect(world.host[A], NULL, &local, world.now);
    CHECK(id >= 0);
    *accepted = -1;
    int32_t bits = 0;
    for (int i = 0; i < 4; i++) {
        world_settle(&world);
        bits |= poll_events(A, id, accepted);
        if (server != A)
            poll_events(server, -1, accepted);
    }
    CHECK(bits & AMS_EV_CONNECTED);
    CHECK(*accepted >= 0);
    return id;
}

/* 100 KB from the client to the server. */
static void transfer(int client, int server_host, int server)
{
    static uint8_t data[100000], received[100000], seen[100000];
    size_t got = 0;
    world_pattern(data, sizeof(data), 6);
    CHECK_EQ(ams_tcp_set_reading(world.host[server_host], server, AMS_READ_EVENT), 0);
    CHECK(ams_tcp_send(world.host[A], client, (char *)data, sizeof(data)) >= 0);
    for (int i = 0; i < 1000 && got < sizeof(data); i++) {
        int waiting = ams_tcp_copy(world.host[server_host], server, (char *)seen, sizeof(seen));
        CHECK(waiting >= 0);
        CHECK_EQ(ams_tcp_copy(world.host[server_host], server, (char *)seen, sizeof(seen)), waiting);
        CHECK_MEM(data + got, seen, (size_t)waiting);
        int n = ams_tcp_recv(world.host[server_host], server, (char *)received + got, (int)(sizeof(received) - got));
        CHECK_EQ(n, waiting);
        got += n > 0 ? (size_t)n : 0;
        if (n <= 0)
            world_advance(&world, 10 * MS);
        else
            world_settle(&world);
    }
    CHECK_EQ(got, sizeof(data));
    CHECK_MEM(data, received, sizeof(data));
}

static void test_tcp(void)
{
    BOTH(v6) {
        int server;
        world_init(&world, plain);
        int client = connect_tcp(v6, B, &server);
        transfer(client, B, server);
        CHECK_EQ(world_counters(&world, B)->tcp_bad_checksum, 0);
        world_fini(&world);
    }
}

static void test_tcp_to_ourselves(void)
{
    BOTH(v6) {
        int server;
        world_init(&world, plain);
        world_settle(&world);
        world.n_trace = 0;
        int client = connect_tcp(v6, A, &server);
        transfer(client, A, server);
        CHECK_EQ(world.n_trace, 0);
        world_fini(&world);
    }
}

/* A connect to nobody: "no route to host", after three solicitations. */
static void test_tcp_to_nobody(void)
{
    BOTH(v6) {
        int32_t events[8 * AMS_EVENT_WORDS];
        int n = 0;
        world_init(&world, plain);
        struct ams_endpoint remote = packets_endpoint(v6, 99, 80);
        int id = ams_tcp_connect(world.host[A], NULL, &remote, world.now);
        CHECK(id >= 0);
        for (int i = 0; i < 50 && n == 0; i++) {
            world.now += 100 * MS;
            world_settle(&world);
            n = stack_events(world.host[A], events, 8, NULL, 0);
        }
        CHECK(n > 0);
        CHECK_EQ(events[0], id);
        CHECK(events[1] & AMS_EV_CLOSED);
        CHECK_EQ(events[2], -AMS_EHOSTUNREACH);
        CHECK(world.now - WORLD_START < 4 * SECOND);
        world_fini(&world);
    }
}

/* RSTs for everybody, then nothing is left. */
static void test_abort_all(void)
{
    int server;
    world_init(&world, plain);
    connect_tcp(false, B, &server);
    stack_abort_all(world.host[A], world.now);
    world_settle(&world);
    CHECK_EQ(world_counters(&world, B)->tcp_rst_rx, 1);
    world_fini(&world);
}

/* ---- determinism --------------------------------------------------------------------------- */

/* A hash of all that is sent in a small scenario. */
static uint64_t trace_hash;

static bool hash_frame(struct world *w, int from, const uint8_t *frame, uint32_t len)
{
    uint64_t words[4] = {trace_hash, w->now, (uint64_t)from << 32 | len, checksum_add(0, frame, len)};
    trace_hash = siphash13(&(struct siphash_key){{1, 2}}, words, 4);
    return true;
}

static uint64_t scenario(void)
{
    int server;
    trace_hash = 0;
    world_init(&world, (struct world_options){.mtu = 1400});
    world.filter = hash_frame;
    world_advance(&world, 3 * SECOND);
    struct ams_endpoint any = packets_wildcard(true, 0), to = packets_endpoint(true, 2, 9);
    int udp = ams_udp_open(world.host[A], &any, NULL, 0);
    CHECK_EQ(ams_udp_send(world.host[A], udp, &to, "hello", 5, world.now), 0);
    int client = connect_tcp(true, B, &server);
    transfer(client, B, server);
    world_advance(&world, 100 * SECOND);
    world_fini(&world);
    return trace_hash;
}

static void test_same_seed_same_trace(void)
{
    uint64_t first = scenario();
    CHECK(first != 0);
    CHECK(scenario() == first);
}

/* ---- failing memory -------------------------------------------------------------------------- */

/* Everything that allocates, once; success means that all of it worked. */
static bool exercise(void)
{
    int status;
    struct world_options options = plain;
    bool good = false;
    memset(&world, 0, sizeof(world));
    frame_pool_init(&world.pool, 1000, false);
    world.now = WORLD_START;
    struct ams_stack *stack = world_host(&world.pool, A, &options, world.now, &status);
    if (stack) {
        uint8_t frame[PACKETS_MAX];
        struct ams_endpoint local = packets_endpoint(false, 1, 7), to = packets_endpoint(false, 2, 9);
        int id = ams_udp_open(stack, &local, NULL, 0);
        good = id >= 0 && ams_udp_send(stack, id, &to, (char *)frame, 1000, world.now) == 0;
        struct packets_frame fragment = {.protocol = PROTO_UDP, .more_fragments = true, .payload = 1000, .dport = 7};
        uint32_t len = packets_build(frame, &fragment);
        struct ams_frame *received = frame_new(&world.pool, FRAME_CLASS_SMALL);
        if (received) {
            memcpy(received->data, frame, len);
            received->len = len;
            stack_input(stack, &received, 1, world.now);
        }
        good = good && received && stack->counters.no_memory == 0;
        for (int i = 0; i < 5; i++) {
            struct ams_tx tx[4];
            uint8_t heads[4][FRAME_HEADROOM + TX_HEAD_MAX];
            memset(tx, 0, sizeof(tx));
            for (int j = 0; j < 4; j++)
                tx[j].head = heads[j] + FRAME_HEADROOM;
            stack_output_done(stack, tx, stack_output(stack, tx, 4, world.now + (uint64_t)i * SECOND));
        }
        good = good && stack->counters.no_memory == 0;
    } else {
        CHECK_EQ(status, -AMS_ENOMEM);
    }
    stack_free(stack);
    CHECK_EQ(world.pool.in_use, 0);
    frame_pool_fini(&world.pool);
    return good;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(exercise) > 15);
}

/* ---- noise --------------------------------------------------------------------------------------- */

/* Valid frames with bytes changed, cut, and at odd times. */
static void test_mutations(void)
{
    struct ams_rng rng;
    rng_init(&rng, 9, 9);
    world_init(&world, plain);
    world_udp(&world, A, false, PROTO_UDP);
    for (int round = 0; round < 30000; round++) {
        static const uint8_t protocols[] = {PROTO_UDP, PROTO_TCP, PROTO_ICMP, PROTO_ICMPV6, PROTO_FRAGMENT,
                                            PROTO_HOPOPTS, PROTO_ROUTING, PROTO_DSTOPTS};
        uint8_t frame[PACKETS_MAX];
        struct packets_frame what = {
            .v6 = rng_below(&rng, 2),
            .protocol = protocols[rng_below(&rng, AMS_ARRAY_SIZE(protocols))],
            .sport = (uint16_t)rng_below(&rng, 100),
            .dport = PROTO_UDP,
            .icmp_type = (uint8_t)(rng_below(&rng, 2) ? rng_below(&rng, 16) : 128 + rng_below(&rng, 10)),
            .hop_limit = rng_below(&rng, 2) ? 255 : 64,
            .payload = (uint16_t)rng_below(&rng, 200),
            .more_fragments = rng_below(&rng, 8) == 0,
            .frag_id = rng_below(&rng, 4),
        };
        uint32_t len = packets_build(frame, &what);
        for (uint32_t changes = rng_below(&rng, 4); changes > 0; changes--)
            frame[ETH_HEADER + rng_below(&rng, len - ETH_HEADER)] = (uint8_t)rng_next(&rng);
        if (!what.v6 && rng_below(&rng, 2))
            ipv4_update_checksum(frame + ETH_HEADER, IP4_HEADER);
        if (rng_below(&rng, 4) == 0)
            len = rng_below(&rng, len + 1);
        struct ams_frame *received = frame_new(&world.pool, FRAME_CLASS_SMALL);
        CHECK(received != NULL);
        memcpy(received->data, frame, len);
        received->len = len;
        received->flags = rng_below(&rng, 2) ? FRAME_CSUM_OK : 0;
        stack_input(world.host[A], &received, 1, world.now);
        if (rng_below(&rng, 50) == 0) {
            world.now += rng_below(&rng, 2000) * MS;
            world_settle(&world);
            world.n_trace = 0;
        }
    }
    CHECK(world_counters(&world, A)->udp_rx > 100); /* not all of it was noise */
    world_fini(&world);
}

int main(void)
{
    RUN(test_configuration);
    RUN(test_defaults);
    RUN(test_counters);
    RUN(test_small_rings);
    RUN(test_time_never_goes_back);
    RUN(test_tcp);
    RUN(test_tcp_to_ourselves);
    RUN(test_tcp_to_nobody);
    RUN(test_abort_all);
    RUN(test_same_seed_same_trace);
    RUN(test_every_allocation_may_fail);
    RUN(test_mutations);
    return check_report();
}
