/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_tcp.c - TCP when memory runs out: allocations that fail one after
 * the other in each of its parts, and a pool that is nearly used up.
 *
 * Two stacks talk over a link that loses what a test wants it to.  A transfer
 * during which an allocation fails must get through all the same, or fail
 * with a status; nothing may leak, and ams_stack_check() must find nothing.
 */
#include "net_fixture.h"
#include "stack/tcp.h"

#define PORT 80
#define BLOB 65536

/* ---- two applications ------------------------------------------------------ */

struct transfer {
    struct world world;
    uint32_t seen;            /* segments with payload from A */
    uint32_t drop_every;      /* A's n-th data segment is lost, the 2n-th, ...; 0: none */
    uint32_t longest;         /* longer frames of A's are lost, 0: none */
    int client;               /* ids; < 0: none */
    int server;
    uint64_t received;        /* by B */
    bool reading;             /* B does */
    bool failed;              /* a status came instead of success */
};

static bool transfer_filter(struct world *world, int from, const uint8_t *frame, uint32_t len)
{
    struct transfer *transfer = world->filter_arg;
    if (from != A || len < 200)
        return true;
    transfer->seen++;
    if (transfer->longest && len > transfer->longest)
        return false;
    return !transfer->drop_every || transfer->seen % transfer->drop_every;
}

/* Takes one event of B's or A's. */
static void take_event(struct transfer *transfer, int which, const int32_t *event)
{
    if (event[1] & AMS_EV_ACCEPTED) {
        transfer->server = event[0];
        if (!transfer->reading)
            ams_tcp_set_reading(transfer->world.host[which], event[0], AMS_READ_PAUSED);
    }
    if (which == B && event[1] & AMS_EV_DATA)
        transfer->received += (uint32_t)event[3];
    if (event[1] & AMS_EV_CLOSED && event[2] < 0)
        transfer->failed = true;
    if (event[1] & AMS_EV_RELEASED) {
        if (which == A && event[0] == transfer->client)
            transfer->client = -1;
        if (which == B && event[0] == transfer->server)
            transfer->server = -1;
    }
}

/* What is only reported as readable is read here. */
static void drain(struct transfer *transfer)
{
    struct ams_stack *stack = transfer->world.host[B];
    size_t length;
    while (transfer->reading && transfer->server >= 0 && ams_tcp_peek(stack, transfer->server, &length)) {
        transfer->received += length;
        CHECK_EQ(ams_tcp_consume(stack, transfer->server, length), 0);
    }
}

static void take_events(struct transfer *transfer)
{
    static char blob[BLOB];
    for (int which = 0; which < HOSTS; which++) {
        int32_t events[16 * AMS_EVENT_WORDS];
        int n;
        while ((n = stack_events(transfer->world.host[which], events, 16, blob, sizeof(blob))) > 0)
            for (int i = 0; i < n; i++)
                take_event(transfer, which, events + i * AMS_EVENT_WORDS);
        CHECK(ams_stack_check(transfer->world.host[which]) == NULL);
    }
    drain(transfer);
}

/* Lets `ns` pass, from deadline to deadline. */
static void run(struct transfer *transfer, uint64_t ns)
{
    struct world *world = &transfer->world;
    uint64_t end = world->now + ns;
    for (;;) {
        world_settle(world);
        take_events(transfer);
        world_settle(world);
        uint64_t next = end;
        for (int i = 0; i < HOSTS; i++)
            next = ams_min_u64(next, ams_max_u64(stack_deadline(world->host[i]), world->now + 1));
        if (world->now >= end)
            return;
        world->now = next;
    }
}

static void transfer_init(struct transfer *transfer, struct world_options options)
{
    memset(transfer, 0, sizeof(*transfer));
    options.flags |= AMS_STACK_NO_DAD;
    world_init(&transfer->world, options);
    transfer->world.filter = transfer_filter;
    transfer->world.filter_arg = transfer;
    transfer->client = transfer->server = -1;
    transfer->reading = true;
}

/* Resets what is left, and checks that it was all. */
static void transfer_fini(struct transfer *transfer)
{
    for (int i = 0; i < HOSTS; i++)
        stack_abort_all(transfer->world.host[i], transfer->world.now);
    world_settle(&transfer->world);
    world_fini(&transfer->world);
}

/* Connects A to B's port.  Return: false if there was no memory. */
static bool transfer_connect(struct transfer *transfer, const char *congestion, int fastopen)
{
    struct ams_endpoint remote = packets_endpoint(false, 2, PORT);
    struct ams_stack *stack = transfer->world.host[A];
    transfer->client = ams_tcp_connect(stack, NULL, &remote, transfer->world.now);
    if (transfer->client < 0)
        return false;
    if (fastopen && ams_tcp_setopt(stack, transfer->client, AMS_OPT_FASTOPEN_CONNECT, fastopen) < 0)
        return false;
    return ams_tcp_set_congestion(stack, transfer->client, congestion) == 0;
}

/* Sends `total` bytes and waits for them.  Return: false if a status said why not. */
static bool transfer_data(struct transfer *transfer, uint32_t total)
{
    static char data[8192];
    uint64_t goal = transfer->received + total;
    for (uint32_t sent = 0; sent < total; sent += sizeof(data))
        if (ams_tcp_send(transfer->world.host[A], transfer->client, data, sizeof(data)) < 0) {
            transfer->failed = true;
            return false;
        }
    for (int i = 0; i < 600 && transfer->received < goal && !transfer->failed; i++)
        run(transfer, SECOND);
    return transfer->received == goal;
}

/* ---- every allocation fails once ------------------------------------------- */

/* What carry_out_plan() does. */
static struct plan {
    const char *congestion;
    struct world_options options;
    uint32_t drop_every;
    uint32_t longest;
    int rounds;               /* connections, one after the other */
    int fastopen;
} plan;

/* Opens B's port.  Return: false if there was no memory. */
static bool listen_at(struct transfer *transfer)
{
    struct ams_endpoint local = packets_endpoint(false, 2, PORT);
    int listener = ams_tcp_listen(transfer->world.host[B], &local, 16, 0);
    return listener >= 0 && ams_tcp_setopt(transfer->world.host[B], listener, AMS_OPT_FASTOPEN, 4) == 0;
}

/* One connection from open to close.  Return: true if its data arrived. */
static bool round_trip(struct transfer *transfer)
{
    transfer->server = -1;
    if (!transfer_connect(transfer, plan.congestion, plan.fastopen))
        return false;
    bool done = transfer_data(transfer, 65536);
    CHECK(done || transfer->failed); /* nothing stalls */
    if (transfer->client >= 0 && ams_tcp_close(transfer->world.host[A], transfer->client) == 1)
        transfer->client = -1;
    run(transfer, SECOND);
    if (transfer->server >= 0 && ams_tcp_close(transfer->world.host[B], transfer->server) == 1)
        transfer->server = -1;
    run(transfer, SECOND);
    return done;
}

static bool carry_out_plan(void)
{
    struct transfer transfer;
    long fail_at = check_fail_at;
    check_fail_at = 0; /* the stacks are made; what fails is a connection's */
    transfer_init(&transfer, plan.options);
    check_fail_at = fail_at;
    transfer.drop_every = plan.drop_every;
    transfer.longest = plan.longest;
    bool done = listen_at(&transfer);
    for (int i = 0; done && i < plan.rounds; i++)
        done = round_trip(&transfer);
    fail_at = check_fail_at;
    check_fail_at = 0;
    transfer_fini(&transfer);
    check_fail_at = fail_at;
    return done;
}

static void every_allocation(struct plan this_plan, long at_least)
{
    plan = this_plan;
    long count = check_every_allocation(carry_out_plan);
    printf("    %ld allocations\n", count);
    CHECK(count >= at_least);
}

static void test_recovery_with_sack(void)
{
    every_allocation((struct plan){.congestion = "cubic", .drop_every = 5, .rounds = 1}, 20);
}

static void test_recovery_without_sack(void)
{
    every_allocation((struct plan){.congestion = "reno",
                                   .options = {.flags = AMS_STACK_NO_SACK | AMS_STACK_NO_TIMESTAMPS},
                                   .drop_every = 7,
                                   .rounds = 1},
                     20);
}

/* BBR's state doesn't fit the TCB. */
static void test_congestion_control_with_a_state_of_its_own(void)
{
    every_allocation((struct plan){.congestion = "bbr", .drop_every = 9, .rounds = 1}, 20);
}

static void test_a_path_that_swallows_long_segments(void)
{
    every_allocation((struct plan){.congestion = "cubic", .longest = 1100, .rounds = 1}, 20);
}

static void test_syn_cookies(void)
{
    every_allocation((struct plan){.congestion = "cubic",
                                   .options = {.syn_cookies = AMS_SYN_COOKIES_ALWAYS},
                                   .rounds = 1},
                     20);
}

/* The first connection learns a cookie, the second uses it. */
static void test_fast_open(void)
{
    every_allocation((struct plan){.congestion = "cubic", .rounds = 2, .fastopen = 2}, 20);
}

/* ---- a pool that is nearly used up ------------------------------------------ */

#define FLOWS 40

/* Many connections, none of which is read from, have sent what they may. */
static void hoard(struct transfer *transfer, int clients[FLOWS])
{
    static char data[100000];
    struct ams_endpoint remote = packets_endpoint(false, 2, PORT);
    transfer->reading = false;
    CHECK(listen_at(transfer));
    for (int i = 0; i < FLOWS; i++) {
        clients[i] = ams_tcp_connect(transfer->world.host[A], NULL, &remote, transfer->world.now);
        CHECK(clients[i] >= 0);
        run(transfer, MS);
        CHECK_EQ(ams_tcp_send_ref(transfer->world.host[A], clients[i], data, sizeof(data)), 0);
    }
    run(transfer, 5 * SECOND);
}

/* What was promised to those that nobody reads from doesn't use the pool up: another one gets through. */
static void test_a_full_pool_leaves_room_for_others(void)
{
    struct transfer transfer;
    int clients[FLOWS];
    transfer_init(&transfer, (struct world_options){.frames = 1024});
    hoard(&transfer, clients);
    struct frame_pool *pool = &transfer.world.pool;
    CHECK(pool->in_use >= 768);
    CHECK(pool->in_use < 1000);
    transfer.reading = true;
    CHECK(transfer_connect(&transfer, "cubic", 0));
    CHECK(transfer_data(&transfer, 16 * 8192));
    int rcvbuf = 0;
    CHECK_EQ(ams_tcp_getopt(transfer.world.host[B], transfer.server, AMS_OPT_RCVBUF, &rcvbuf), 0);
    CHECK_EQ(rcvbuf, TCP_RCVBUF_DEFAULT); /* nothing grows now */
    transfer_fini(&transfer);
}

/* Behind a hole nothing is kept any more once frames are scarce: they are for what fills it. */
static void test_data_out_of_order_gives_way(void)
{
    struct transfer transfer;
    transfer_init(&transfer, (struct world_options){.frames = 512});
    CHECK(listen_at(&transfer));
    CHECK(transfer_connect(&transfer, "cubic", 0));
    run(&transfer, SECOND);
    struct ams_frame *taken[512];
    int n = 0;
    while (transfer.world.pool.in_use < 460)
        taken[n++] = frame_new(&transfer.world.pool, FRAME_CLASS_SMALL);
    transfer.drop_every = 2;
    CHECK(transfer_data(&transfer, 2 * 8192));
    CHECK(world_counters(&transfer.world, B)->tcp_rcv_dropped > 0);
    while (n)
        frame_free(taken[--n]);
    transfer_fini(&transfer);
}

int main(void)
{
    RUN(test_recovery_with_sack);
    RUN(test_recovery_without_sack);
    RUN(test_congestion_control_with_a_state_of_its_own);
    RUN(test_a_path_that_swallows_long_segments);
    RUN(test_syn_cookies);
    RUN(test_fast_open);
    RUN(test_a_full_pool_leaves_room_for_others);
    RUN(test_data_out_of_order_gives_way);
    return check_report();
}
