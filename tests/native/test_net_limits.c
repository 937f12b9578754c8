/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_limits.c - TCP's bounds that take thousands of segments to reach,
 * or a pool that is nearly used up; and tables that cannot grow for want of
 * memory.  Others: tests/engine/test_limits.py.
 */
#include "peer_fixture.h"

static struct peer peer;

/* Writes n single bytes, each a segment of its own. */
static void write_bytes(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        CHECK(ams_tcp_send(peer.world.host[A], peer.id, "x", 1) >= 0);
        if (i % 8 == 7)
            world_settle(&peer.world);
    }
    peer_settle(&peer);
}

/* Each segment in flight has a record, and tiny ones need many: there is an
 * end to that (CVE-2019-11478), which stalls nothing. */
static void test_the_scoreboard_is_bounded(void)
{
    peer_init(&peer, (struct world_options){0});
    peer_open(&peer, 1460, 65535);
    CHECK_EQ(ams_tcp_setopt(peer.world.host[A], peer.id, AMS_OPT_NODELAY, 1), 0);
    peer_take(&peer, 200000, 65535);
    CHECK(peer_conn(&peer)->cwnd > 2 * TCP_RECS_MAX);
    uint32_t before = peer.high;
    uint64_t memory = tcp_memory(peer.world.host[A]);
    for (uint32_t i = 0; i < TCP_RECS_MAX + 1000; i++) {
        CHECK(ams_tcp_send(peer.world.host[A], peer.id, "x", 1) >= 0);
        world_settle(&peer.world);
    }
    CHECK_EQ(peer_conn(&peer)->rec_count, TCP_RECS_MAX);
    CHECK_EQ(peer.high - before, TCP_RECS_MAX);
    CHECK(tcp_memory(peer.world.host[A]) - memory < 2 * TCP_RECS_MAX * sizeof(struct tcp_rec));
    /* a SACK inside needs no record more; the rest goes when there is room */
    struct peer_segment sack = {.flags = TCP_ACK, .seq = 1, .ack = before, .window = 65535, .n_sack = 1,
                                .sack = {{before + 5, before + 9}}};
    peer_send(&peer, sack);
    peer_send(&peer, (struct peer_segment){.flags = TCP_ACK, .seq = 1, .ack = peer.high, .window = 65535});
    CHECK_EQ(peer.high - before, TCP_RECS_MAX + 1000);
    peer_send(&peer, (struct peer_segment){.flags = TCP_ACK, .seq = 1, .ack = peer.high, .window = 65535});
    CHECK_EQ(peer_conn(&peer)->rec_count, 0);
    CHECK_EQ(tcp_memory(peer.world.host[A]), memory);
    peer_fini(&peer);
}

/* Takes frames away until so many are left to the pool. */
static int drain_pool(struct ams_frame **taken, uint32_t left)
{
    struct frame_pool *pool = &peer.world.pool;
    int n = 0;
    while (pool->limit - pool->in_use > left)
        taken[n++] = frame_new(pool, FRAME_CLASS_SMALL);
    return n;
}

/* While memory is short nobody's closed window holds what no application waits for any more. */
static void test_short_memory_ends_closed_windows_without_application(void)
{
    static struct ams_frame *taken[1024];
    for (int scarce = 0; scarce < 2; scarce++) {
        peer_init(&peer, (struct world_options){.frames = 400});
        peer_open(&peer, 1460, 0);
        write_bytes(100);
        CHECK_EQ(ams_tcp_close(peer.world.host[A], peer.id), 1);
        int n = drain_pool(taken, scarce ? 90 : 200);
        for (int i = 0; i < 10; i++) {
            peer.world.now += 200 * MS;
            peer_send(&peer, (struct peer_segment){.flags = TCP_ACK, .seq = 1, .ack = 1, .window = 0});
        }
        CHECK_EQ(peer.world.host[A]->tcp->n_conns, !scarce);
        while (n)
            frame_free(taken[--n]);
        peer_fini(&peer);
    }
}

/* While memory is short windows open by four segments at most: a new connection's, too. */
static void test_short_memory_keeps_windows_small(void)
{
    static struct ams_frame *taken[1024];
    peer_init(&peer, (struct world_options){.frames = 400});
    int n = drain_pool(taken, 90);
    peer_open(&peer, 1460, 65535);
    struct tcp_conn *conn = peer_conn(&peer);
    peer_send(&peer, (struct peer_segment){.flags = TCP_ACK | TCP_PSH, .seq = 1, .ack = 1, .window = 65535, .payload = 1});
    CHECK(tcp_receive_window(peer.world.host[A], conn) <= 65535); /* what the SYN-ACK offered stays */
    for (uint32_t at = 2; at < 65000; at += 1000) {
        peer_send(&peer, (struct peer_segment){.flags = TCP_ACK, .seq = at, .ack = 1, .window = 65535, .payload = 1000});
        CHECK_EQ(ams_tcp_consume(peer.world.host[A], peer.id, conn->rcv_queued), 0);
    }
    CHECK(tcp_receive_window(peer.world.host[A], conn) <= 4 * 1460);
    while (n)
        frame_free(taken[--n]);
    peer_fini(&peer);
}

/* ---- tables that grow ------------------------------------------------------ */

#define MANY 300

/* Opens more endpoints than the first tables hold, one connection with a
 * congestion control from outside among them.
 * Return: true if nothing failed. */
static bool open_many(struct ams_stack *stack, uint64_t now)
{
    struct ams_endpoint remote = packets_endpoint(false, 2, PEER_PORT), any = packets_wildcard(false, 0);
    int first = -1;
    for (int i = 0; i < MANY; i++) {
        int tcp = ams_tcp_connect(stack, NULL, &remote, now);
        int udp = tcp < 0 ? tcp : ams_udp_open(stack, &any, NULL, 0);
        if (udp < 0) {
            CHECK_EQ(udp, -AMS_ENOMEM);
            return false;
        }
        first = first < 0 ? tcp : first;
    }
    int status = ams_congestion_register(stack, "outside");
    if (status >= 0)
        status = ams_tcp_set_congestion(stack, first, "outside");
    CHECK(status >= 0 || status == -AMS_ENOMEM);
    return status >= 0;
}

static bool open_many_once(void)
{
    long fail_at = check_fail_at;
    check_fail_at = 0; /* the stacks are made; what fails is what they need later */
    world_init(&peer.world, (struct world_options){.flags = AMS_STACK_NO_DAD});
    check_fail_at = fail_at;
    bool done = open_many(peer.world.host[A], peer.world.now);
    fail_at = check_fail_at;
    check_fail_at = 0;
    CHECK(ams_stack_check(peer.world.host[A]) == NULL);
    CHECK(ams_stack_endpoints(peer.world.host[A]) <= 2 * MANY);
    world_fini(&peer.world);
    check_fail_at = fail_at;
    return done;
}

/* A failed growth is a status, or (of hash tables) a longer chain; never half of it. */
static void test_tables_that_cannot_grow(void)
{
    CHECK(check_every_allocation(open_many_once) > MANY);
}

int main(void)
{
    RUN(test_the_scoreboard_is_bounded);
    RUN(test_short_memory_ends_closed_windows_without_application);
    RUN(test_short_memory_keeps_windows_small);
    RUN(test_tables_that_cannot_grow);
    return check_report();
}
