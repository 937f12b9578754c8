/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_limits.c - TCP's bounds that take thousands of segments to reach,
 * or a pool that is nearly used up.  Others: tests/engine/test_limits.py.
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

int main(void)
{
    RUN(test_the_scoreboard_is_bounded);
    RUN(test_short_memory_ends_closed_windows_without_application);
    RUN(test_short_memory_keeps_windows_small);
    return check_report();
}
