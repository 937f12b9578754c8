/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Super-frames through the fabric, from client to client.
 */
#include "super_fixture.h"

static void test_super_frames_pass_whole(void)
{
    struct stage stage = stage_new(0);
    uint8_t head[PACKETS_MAX];

    CHECK(stage.one.port->info.caps & AMS_CAP_TSO4 && stage.one.port->info.caps & AMS_CAP_TSO6);
    for (uint32_t round = 0; round < 300; round++) { /* around the ring many times, at all offsets */
        bool v6 = round % 2;
        uint32_t length = 2 + round * 211 % (LONGEST - 1), header = super_head(head, v6, TWO, length);
        send_super(&stage, v6, TWO, length);
        struct ams_frame *frame = receive(&stage.two);
        CHECK(frame);
        CHECK_EQ(frame->len, header + length);
        CHECK_EQ(frame->gso_size, MSS);
        CHECK_EQ(frame->flags, FRAME_GSO | FRAME_CSUM_OK | FRAME_CSUM_PARTIAL);
        CHECK_MEM(frame->data, head, header);
        CHECK_MEM(frame->data + header, payload, length);
        frame_free(frame);
        CHECK(!receive(&stage.two));
    }
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_SUPER), 300);
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_FRAMES), 300);
    CHECK_EQ(counter(&stage, &stage.one, FABRIC_IN_BYTES), counter(&stage, &stage.two, FABRIC_OUT_BYTES));
    stage_free(&stage);
}

static void test_others_get_segments(void)
{
    static const uint32_t lengths[] = {2, MSS, MSS + 1, 2 * MSS, 10000, LONGEST};
    struct stage stage = stage_new(AMS_PORT_NO_OFFLOAD);
    uint32_t expected = 0;

    CHECK(!(stage.two.port->info.caps & AMS_CAP_TSO4));
    for (uint32_t round = 0; round < 2 * AMS_ARRAY_SIZE(lengths); round++) {
        uint32_t length = lengths[round / 2], offset = 0;
        send_super(&stage, round % 2, TWO, length);
        while (offset < length) {
            struct ams_frame *frame = receive(&stage.two);
            CHECK(frame);
            CHECK_EQ(frame->flags, FRAME_CSUM_OK);
            offset += check_segment(frame, round % 2, offset, length);
            frame_free(frame);
        }
        CHECK(!receive(&stage.two));
        expected += (length + MSS - 1) / MSS;
    }
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_FRAMES), expected);
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_CUT), 2 * AMS_ARRAY_SIZE(lengths));
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_SUPER), 0);
    stage_free(&stage);
}

/* Sends a super-frame of 5000 bytes after something was done to it. */
static void send_bent(struct stage *stage, void (*bend)(struct ams_tx *tx))
{
    uint8_t head[PACKETS_MAX];
    struct ams_tx tx = super_tx(head, false, TWO, 5000);
    struct ams_port *port = stage->one.port;

    bend(&tx);
    CHECK(port->ops->room(port) > 0);
    CHECK_EQ(port->ops->tx(port, &tx, 1, 1), 1);
    port->ops->flush(port, 1);
    CHECK(ams_fabric_poll(stage->fabric, 1) > 0);
}

static void bend_port(struct ams_tx *tx) { store_be16(tx->head + tx->csum_start, TWO); }
static void bend_mac(struct ams_tx *tx) { tx->head[11] ^= 1; }
static void bend_address(struct ams_tx *tx) { tx->head[29] ^= 4; }
static void bend_length(struct ams_tx *tx) { store_be16(tx->head + 16, load_be16(tx->head + 16) - 1); }
static void bend_protocol(struct ams_tx *tx) { tx->head[23] = PROTO_UDP; }
static void bend_offset(struct ams_tx *tx) { tx->head[tx->csum_start + 12] = 0xf0; } /* 60 bytes: still payload */
static void bend_header(struct ams_tx *tx) { tx->head[tx->csum_start + 12] = 0x40; }
static void bend_fragment(struct ams_tx *tx) { tx->head[20] |= 0x20; }
static void bend_group(struct ams_tx *tx) { tx->head[0] |= 1; }
static void bend_large(struct ams_tx *tx) { tx->gso_size = 1461; }
static void bend_small(struct ams_tx *tx) { tx->gso_size = 5000 / SUPER_SEGMENTS; }
static void bend_zero(struct ams_tx *tx) { tx->gso_size = 0xffff; }

static void test_what_is_forged_is_dropped(void)
{
    static const struct {
        void (*bend)(struct ams_tx *tx);
        int reason;
    } cases[] = {
        {bend_port, FABRIC_OWN_COUNTERS + SWITCH_TX_TUPLE},
        {bend_mac, FABRIC_OWN_COUNTERS + SWITCH_TX_SOURCE_MAC},
        {bend_address, FABRIC_OWN_COUNTERS + SWITCH_TX_SOURCE_ADDRESS},
        {bend_length, FABRIC_OWN_COUNTERS + SWITCH_TX_BAD_LENGTH},
        {bend_protocol, FABRIC_OWN_COUNTERS + SWITCH_TX_OFFLOAD},
        {bend_header, FABRIC_OWN_COUNTERS + SWITCH_TX_OFFLOAD},
        {bend_fragment, FABRIC_OWN_COUNTERS + SWITCH_TX_OFFLOAD},
        {bend_large, FABRIC_OWN_COUNTERS + SWITCH_TX_TOO_LONG},
        {bend_small, FABRIC_OWN_COUNTERS + SWITCH_TX_OFFLOAD},
        {bend_zero, FABRIC_OWN_COUNTERS + SWITCH_TX_TOO_LONG},
        {bend_group, FABRIC_NOWHERE},
    };
    struct stage stage = stage_new(0);

    for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
        uint64_t before = counter(&stage, &stage.one, cases[i].reason);
        send_bent(&stage, cases[i].bend);
        CHECK_EQ(counter(&stage, &stage.one, cases[i].reason), before + 1);
        CHECK(!receive(&stage.two));
    }
    send_bent(&stage, bend_offset); /* odd, but its own affair */
    struct ams_frame *frame = receive(&stage.two);
    CHECK(frame);
    frame_free(frame);
    stage_free(&stage);
}

static void test_a_full_ring_takes_nothing_of_it(void)
{
    struct stage stage = stage_new(0);
    uint32_t sent = 0;

    while (!counter(&stage, &stage.two, FABRIC_OUT_FULL)) { /* 31 slots each, of 127 */
        send_super(&stage, false, TWO, LONGEST);
        CHECK(++sent <= 5);
    }
    CHECK_EQ(sent, 5);
    for (uint32_t i = 0; i < 4; i++) {
        struct ams_frame *frame = receive(&stage.two);
        CHECK(frame);
        CHECK_MEM(frame->data + frame->len - LONGEST, payload, LONGEST);
        frame_free(frame);
    }
    CHECK(!receive(&stage.two));
    send_super(&stage, false, TWO, LONGEST);
    struct ams_frame *frame = receive(&stage.two);
    CHECK(frame);
    frame_free(frame);
    stage_free(&stage);
}

static void test_who_answers_gets_one_segment(void)
{
    struct stage stage = stage_new(0);
    struct ams_fabric_frame info;
    char frame[FABRIC_FRAME_MAX];

    send_super(&stage, false, NOBODY, 10000);
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, frame, sizeof(frame)), 1);
    CHECK_EQ(info.length, 54 + MSS);
    CHECK_MEM(frame + 54, payload, MSS);
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, frame, sizeof(frame)), -AMS_EAGAIN);
    stage_free(&stage);
}

/* A host that has our address, too, would not take it: who answers refuses it. */
static void test_a_host_that_shares_gets_none_of_ours(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_fabric_config config = fabric_config();
    struct ams_port_config there = {.spec = "mem:peer", .hub = hub, .flags = AMS_PORT_MONITOR};
    struct ams_fabric_frame info;
    struct ams_port *peer;
    struct stage stage;
    char error[256], frame[FABRIC_FRAME_MAX];

    config.flags = AMS_FABRIC_HOST_SHARES;
    config.tx_slots = config.rx_slots = SLOTS;
    config.host = (struct ams_port_config){.spec = "mem:host", .hub = hub};
    CHECK_EQ(ams_port_open(&peer, &there, error, sizeof(error)), 0);
    CHECK_EQ(ams_fabric_new(&stage.fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(stage.fabric), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.one, 0), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.two, 0), 0);
    claim(stage.fabric, &stage.one, ONE);
    send_super(&stage, false, NOBODY, 10000);
    CHECK_EQ(ams_port_recv(peer, frame, sizeof(frame), 1), -AMS_EAGAIN);
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, frame, sizeof(frame)), 1);
    CHECK_EQ(info.index, stage.one.link.index);
    stage_free(&stage);
    ams_port_close(peer);
    ams_hub_free(hub);
}

static void test_captures_show_it_whole(void)
{
    struct stage stage = stage_new(0);
    struct ams_fabric_frame info;
    static char frame[PORT_FRAME_MAX];

    CHECK_EQ(ams_fabric_capture(stage.fabric, -1, PORT_FRAME_MAX, 16), 0);
    send_super(&stage, false, TWO, 40000);
    send_bent(&stage, bend_port);
    for (int i = 0; i < 3; i++) { /* from one, to two; the forged one */
        CHECK_EQ(ams_fabric_captured(stage.fabric, &info, frame, sizeof(frame)), 1);
        uint32_t length = i < 2 ? 40000 : 5000;
        CHECK_EQ(info.captured, 54 + length);
        CHECK_EQ(info.index, i == 1 ? stage.two.link.index : stage.one.link.index);
        CHECK_EQ(info.reason, i == 2 ? FABRIC_OWN_COUNTERS + SWITCH_TX_TUPLE : FABRIC_NO_REASON);
        CHECK_MEM(frame + 54, payload, length);
    }
    CHECK_EQ(ams_fabric_captured(stage.fabric, &info, frame, sizeof(frame)), -AMS_EAGAIN);
    stage_free(&stage);
}

/* Who has only ams_port_recv() gets what is on a wire. */
static void test_raw_ports_get_segments(void)
{
    struct stage stage = stage_new(0);
    struct client raw;
    char frame[2048];

    CHECK_EQ(client_open(stage.fabric, &raw), 0);
    CHECK(!(raw.port->info.caps & AMS_CAP_TSO4));
    claim(stage.fabric, &raw, NOBODY);
    send_super(&stage, false, NOBODY, 5000);
    for (uint32_t offset = 0; offset < 5000; offset += MSS)
        CHECK_EQ(ams_port_recv(raw.port, frame, sizeof(frame), 1), 54 + ams_min_u32(MSS, 5000 - offset));
    CHECK_EQ(ams_port_recv(raw.port, frame, sizeof(frame), 1), -AMS_EAGAIN);
    client_close(&raw);
    stage_free(&stage);
}

/* ---- without memory ---------------------------------------------------------------------- */

static bool build_and_play(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_fabric_config config = fabric_config();
    struct client one = {.port = NULL}, two = {.port = NULL};
    struct ams_fabric *fabric = NULL;
    struct ams_frame *frame = NULL;
    uint8_t head[PACKETS_MAX];
    char error[256];
    bool done = false;

    frame_pool_fini(&pool); /* what it kept would not be allocated */
    frame_pool_init(&pool, PORT_POOL_FRAMES, false);
    config.tx_slots = config.rx_slots = SLOTS;
    config.uplink = (struct ams_port_config){.spec = "mem:uplink", .hub = hub};
    if (hub && !ams_fabric_new(&fabric, &config, error, sizeof(error)) && !fabric_serve(fabric) &&
        !open_client(fabric, &one, 0) && !open_client(fabric, &two, 0)) {
        bool ready = true;
        for (int i = 0; i < 2 && ready; i++) {
            struct ams_endpoint local = packets_endpoint(false, 1, i ? TWO : ONE);
            ready = !ams_fabric_claim(fabric, (i ? &two : &one)->link.index, PROTO_TCP, &local, 0);
        }
        for (int i = 0; i < 2 && ready; i++) { /* to the other one; to the wire */
            struct ams_tx tx = super_tx(head, false, TWO, 20000);
            memcpy(tx.head, i ? packets_peer_mac : packets_us_mac, 6);
            ready = one.port->ops->room(one.port) > 0 && one.port->ops->tx(one.port, &tx, 1, 1) == 1;
            one.port->ops->flush(one.port, 1);
            while (ams_fabric_poll(fabric, 1) > 0)
                ;
        }
        done = ready && two.port->ops->rx(two.port, &frame, 1, 1) == 1 &&
               fabric_counter(fabric, AMS_FABRIC_UPLINK, FABRIC_OUT_FRAMES) == 1;
        if (done)
            CHECK_EQ(frame->len, 54 + 20000);
        frame_free(frame);
    }
    if (one.port)
        client_close(&one);
    if (two.port)
        client_close(&two);
    ams_fabric_free(fabric);
    ams_hub_free(hub);
    return done;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(build_and_play) > 15);
}

int main(void)
{
    frame_pool_init(&pool, PORT_POOL_FRAMES, false);
    RUN(test_super_frames_pass_whole);
    RUN(test_others_get_segments);
    RUN(test_what_is_forged_is_dropped);
    RUN(test_a_full_ring_takes_nothing_of_it);
    RUN(test_who_answers_gets_one_segment);
    RUN(test_a_host_that_shares_gets_none_of_ours);
    RUN(test_captures_show_it_whole);
    RUN(test_raw_ports_get_segments);
    RUN(test_every_allocation_may_fail);
    frame_pool_fini(&pool);
    return check_report();
}
