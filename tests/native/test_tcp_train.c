/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_tcp_train.c - segments that are taken in trains: nobody sees that they
 * were, and each kind that must not be is not.
 */
#include "check.h"

#define TWIN_CHECK CHECK
#include "twin_fixture.h"

#define BOTH(v6) for (uint32_t v6 = 0; v6 <= TWIN_V6; v6 += TWIN_V6)
#define USUAL (TWIN_TIMESTAMPS | TWIN_SACK | TWIN_WSCALE)
#define FRAMES 4096

/* Enough data that the first segments of a silence are over, and the size of segments is known. */
static void warm_up(struct twin *twin, int k)
{
    for (int i = 0; i < 20; i++) {
        twin_segment(twin, k, (struct twin_segment){.payload = TWIN_MSS});
        twin_exchange(twin);
    }
    while (twin_read(twin, k, 65536))
        continue;
    twin_exchange(twin);
}

/* How many segments a train takes if the third of four is as `what` says. */
static uint64_t taken(uint32_t how, struct twin_segment what)
{
    struct twin twin;
    twin_init(&twin, how, FRAMES, 0);
    warm_up(&twin, 0);
    uint64_t before = twin_merged(&twin);
    for (int i = 0; i < 4; i++)
        twin_segment(&twin, 0, i == 2 ? what : (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    uint64_t merged = twin_merged(&twin) - before;
    twin_fini(&twin);
    return merged;
}

static void test_what_a_train_takes(void)
{
    static const uint32_t hows[] = {USUAL, 0, USUAL | TWIN_ECN, USUAL | TWIN_ACCURATE, TWIN_ACCURATE};
    BOTH(v6)
        for (size_t i = 0; i < AMS_ARRAY_SIZE(hows); i++) {
            uint32_t how = hows[i] | v6;
            uint16_t ace = how & TWIN_ACCURATE ? TCP_AE | TCP_ECE : 0;
            CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS}), 3);
            CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_PSH | ace}), 3);
            CHECK_EQ(taken(how, (struct twin_segment){.payload = 10}), 3);
            CHECK_EQ(taken(how, (struct twin_segment){.payload = 1, .padding = 5}), 3);
            CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .verified = true}), 3);
            CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .ts_off = 7}), 3);
        }
}

/* The third ends the train, and is, if it is accepted, the first of the next one. */
static void test_what_a_train_does_not_take(void)
{
    BOTH(v6) {
        uint32_t how = USUAL | v6;
        CHECK_EQ(taken(how, (struct twin_segment){.payload = 0}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS + 1}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .window_off = -8}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_URG}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .sack = true}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .no_timestamps = true}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .nops = true}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .gso_size = 500, .verified = true}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .protocol = PROTO_UDP, .verified = true}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .from = 3, .verified = true}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .to = 3, .verified = true}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .other_mac = true}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .tos = 4}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .ts_off = -1}), 1);       /* PAWS */
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .bad_sum = true}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .cut = 1}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .seq_off = 100}), 1);     /* a hole */
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .seq_off = -500}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .ack_off = 1}), 1);       /* of what wasn't sent */
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .ack_off = -1}), 2);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_PSH}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_FIN}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_SYN}), 1);
        CHECK_EQ(taken(how, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_RST}), 1);
    }
    CHECK_EQ(taken(USUAL, (struct twin_segment){.payload = TWIN_MSS, .bad_ip_sum = true}), 1);
    CHECK_EQ(taken(USUAL, (struct twin_segment){.payload = TWIN_MSS, .ip_options = true}), 1);
    CHECK_EQ(taken(USUAL, (struct twin_segment){.payload = TWIN_MSS, .fragment = true}), 1);
}

/* Marks, and whatever says something about marks, are looked at one by one. */
static void test_congestion_ends_a_train(void)
{
    CHECK_EQ(taken(USUAL | TWIN_ECN, (struct twin_segment){.payload = TWIN_MSS, .tos = 3}), 1);
    CHECK_EQ(taken(USUAL | TWIN_ECN, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_ECE}), 2);
    CHECK_EQ(taken(USUAL | TWIN_ECN, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_CWR}), 2);
    CHECK_EQ(taken(USUAL | TWIN_ACCURATE, (struct twin_segment){.payload = TWIN_MSS, .tos = 3}), 1);
    CHECK_EQ(taken(USUAL | TWIN_ACCURATE, (struct twin_segment){.payload = TWIN_MSS, .flags = TCP_ACK | TCP_AE}), 1);
}

/* A train of data that isn't marked is counted as such (RFC 9768). */
static void test_bytes_by_code_point(void)
{
    struct twin twin;
    struct ams_tcp_info info;
    twin_init(&twin, USUAL | TWIN_ACCURATE, FRAMES, 0);
    warm_up(&twin, 0);
    for (int i = 0; i < 10; i++)
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS, .tos = 2});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 9);
    CHECK_EQ(ams_tcp_get_info(twin.stack[TWIN_BATCHED], twin.peers[0].id, &info, twin.now), 0);
    CHECK_EQ(info.received_ect0_bytes, 10 * TWIN_MSS);
    CHECK_EQ(info.received_ce, 0);
    CHECK_EQ(info.data_segs_in, 30);
    CHECK_EQ(info.segs_in, 31); /* the ACK of the SYN-ACK */
    CHECK_EQ(info.bytes_received, 30 * TWIN_MSS);
    CHECK_EQ(info.recv_queue, 10 * TWIN_MSS);
    CHECK_EQ(info.rcv_mss, TWIN_MSS);
    twin_fini(&twin);
}

/* Segments of several connections, in turn: nothing to take, nothing amiss.
 * In pairs: each second one. */
static void test_connections_side_by_side(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    for (int k = 0; k < TWIN_PEERS; k++)
        warm_up(&twin, k);
    for (int i = 0; i < 12; i++)
        twin_segment(&twin, i % 3, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 0);
    for (int i = 0; i < 12; i++)
        twin_segment(&twin, i / 2 % 3, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 6);
    twin_fini(&twin);
}

/* The right sequence number, but another's. */
static void test_the_other_connection(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    warm_up(&twin, 0);
    twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
    int32_t between = (int32_t)(twin.peers[0].seq - twin.peers[1].seq);
    int32_t acked = (int32_t)(twin.peers[0].ack - twin.peers[1].ack);
    twin_segment(&twin, 1, (struct twin_segment){.payload = TWIN_MSS, .seq_off = between, .ack_off = acked});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 0);
    twin_fini(&twin);
}

/* With a hole everything is looked at; what fills it as well. */
static void test_a_hole(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    warm_up(&twin, 0);
    twin.peers[0].seq += TWIN_MSS;
    for (int i = 0; i < 5; i++)
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 0);
    twin.peers[0].seq -= 6 * TWIN_MSS;
    twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
    twin.peers[0].seq += 5 * TWIN_MSS;
    for (int i = 0; i < 3; i++)
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 3);
    twin_fini(&twin);
}

/* Data that was there already is no forerunner: behind it come a segment that
 * renews ts_recent, or one that is the first since a delayed ACK was due. */
static void test_behind_a_duplicate(void)
{
    for (int late = 0; late < 2; late++) {
        struct twin twin;
        twin_init(&twin, USUAL, FRAMES, 0);
        warm_up(&twin, 0);
        for (int i = 0; i <= late; i++) { /* the second has to wait for its ACK */
            twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
            twin_exchange(&twin);
        }
        if (late) {
            twin.now += 100 * AMS_NS_PER_MS;
            for (int i = 0; i < TWINS; i++)
                stack_timers(twin.stack[i], twin.now);
        }
        uint64_t before = twin_merged(&twin);
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS, .seq_off = -(int32_t)TWIN_MSS});
        twin_segment(&twin, 0, (struct twin_segment){.payload = 400, .ts_off = 1});
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS, .ts_off = 1});
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS, .ts_off = 1});
        twin_deliver(&twin);
        CHECK_EQ(twin_merged(&twin) - before, 2);
        twin_exchange(&twin);
        twin_fini(&twin);
    }
}

/* What follows after the application has closed is refused (RFC 1122 section 4.2.2.13). */
static void test_after_close(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    warm_up(&twin, 0);
    twin_segment(&twin, 0, (struct twin_segment){.payload = 500});
    twin_deliver(&twin);
    twin_events(&twin);
    twin_read(&twin, 0, 500);
    for (int i = 0; i < TWINS; i++)
        CHECK(ams_tcp_close(twin.stack[i], twin.peers[0].id) >= 0);
    twin_segment(&twin, 0, (struct twin_segment){.payload = 500, .seq_off = -500});
    twin_segment(&twin, 0, (struct twin_segment){.payload = 500});
    twin_segment(&twin, 0, (struct twin_segment){.payload = 500});
    twin_exchange(&twin);
    CHECK_EQ(twin.stack[TWIN_BATCHED]->counters.tcp_abort_data, 1);
    twin_fini(&twin);
}

/* The window ends within the train. */
static void test_the_end_of_the_window(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 12000);
    for (int i = 0; i < 30; i++)
        twin_segment(&twin, 0, (struct twin_segment){.payload = 900});
    twin_exchange(&twin);
    const struct tcp_conn *conn = (struct tcp_conn *)sock_find(twin.stack[TWIN_BATCHED], twin.peers[0].id, SOCK_TCP);
    CHECK(twin_merged(&twin) >= 5 && twin_merged(&twin) < 29);
    CHECK(conn->rcv_queued <= 2 * 12000);
    CHECK(twin.stack[TWIN_BATCHED]->counters.tcp_rcv_dropped > 0);
    twin_fini(&twin);
}

/* While frames are scarce each segment is judged by itself: a connection may
 * have two of them unread. */
static void test_scarce_frames(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, 64, 0);
    for (int i = 0; i < 26; i++) {
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
        if (i % 13 == 12)
            twin_exchange(&twin);
    }
    CHECK_EQ(twin_merged(&twin), 24);
    for (int i = 0; i < 31; i++)
        twin_segment(&twin, 1, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK_EQ(twin_merged(&twin), 24);
    CHECK_EQ(twin_read(&twin, 1, 65536), 2 * TWIN_MSS);
    CHECK(twin.stack[TWIN_BATCHED]->counters.tcp_rcv_dropped > 0);
    twin_fini(&twin);
}

/* Sequence numbers and timestamps go past zero within a train. */
static void test_wrap_around(void)
{
    struct twin twin;
    twin_init(&twin, USUAL, FRAMES, 0);
    twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS}); /* begins 5,000 below zero */
    twin_exchange(&twin);
    for (int i = 0; i < 20; i++, twin.peers[0].tsval++)
        twin_segment(&twin, 0, (struct twin_segment){.payload = TWIN_MSS});
    twin_exchange(&twin);
    CHECK(twin.peers[0].seq < 20 * TWIN_MSS);
    CHECK_EQ(twin_merged(&twin), 19);
    twin_fini(&twin);
}

/* ---- by chance ------------------------------------------------------------------------- */

static uint32_t choose(void *rng, uint32_t bound)
{
    return rng_below(rng, bound);
}

static void test_random_conversations(void)
{
    uint64_t merged = 0, seen = 0;
    for (uint32_t seed = 0; seed < 400; seed++) {
        struct twin twin;
        struct ams_rng rng;
        rng_init(&rng, seed, 17);
        twin_init(&twin, seed % 64, seed % 7 ? FRAMES : 150, seed % 5 ? 0 : 12000);
        for (int step = 0; step < 60; step++)
            twin_random_step(&twin, choose, &rng);
        merged += twin_merged(&twin);
        seen += twin.stack[TWIN_BATCHED]->counters.tcp_rx;
        twin_fini(&twin);
    }
    CHECK(merged * 10 > seen); /* it is about both */
    CHECK(merged * 2 < seen);
}

int main(void)
{
    RUN(test_what_a_train_takes);
    RUN(test_what_a_train_does_not_take);
    RUN(test_congestion_ends_a_train);
    RUN(test_bytes_by_code_point);
    RUN(test_connections_side_by_side);
    RUN(test_the_other_connection);
    RUN(test_a_hole);
    RUN(test_behind_a_duplicate);
    RUN(test_after_close);
    RUN(test_the_end_of_the_window);
    RUN(test_scarce_frames);
    RUN(test_wrap_around);
    RUN(test_random_conversations);
    return check_report();
}
