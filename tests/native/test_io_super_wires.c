/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Super-frames from and to wires: an uplink that segments or merges, and one that doesn't.
 */
#include "super_fixture.h"

/* A stage with a hub as its uplink.
 * @peer: result: a port of the hub's */
static struct stage stage_on(struct ams_hub *hub, struct ams_port **peer, uint32_t flags)
{
    struct ams_fabric_config config = fabric_config();
    struct ams_port_config there = {.spec = "mem:peer", .hub = hub};
    struct stage stage;
    char error[256];

    config.tx_slots = config.rx_slots = SLOTS;
    config.uplink = (struct ams_port_config){.spec = "mem:uplink", .hub = hub};
    CHECK_EQ(ams_fabric_new(&stage.fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(stage.fabric), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.one, 0), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.two, flags), 0);
    claim(stage.fabric, &stage.one, ONE);
    claim(stage.fabric, &stage.two, TWO);
    CHECK_EQ(ams_port_open(peer, &there, error, sizeof(error)), 0);
    return stage;
}

static void test_a_wire_that_segments_gets_it_whole(bool segments)
{
    struct ams_hub *hub = ams_hub_new(1, 0, segments ? 0 : AMS_HUB_NO_OFFLOAD);
    struct ams_port *peer;
    struct stage stage = stage_on(hub, &peer, 0);
    struct ams_frame *frames[64];
    uint8_t head[PACKETS_MAX];
    struct ams_tx tx = super_tx(head, false, TWO, 10000);
    struct ams_port *port = stage.one.port;
    uint32_t offset = 0;

    memcpy(tx.head, packets_peer_mac, 6);
    CHECK(port->ops->room(port) > 0);
    CHECK_EQ(port->ops->tx(port, &tx, 1, 1), 1);
    port->ops->flush(port, 1);
    CHECK(ams_fabric_poll(stage.fabric, 1) > 0);
    int n = peer->ops->rx(peer, frames, 64, 1);
    CHECK_EQ(n, segments ? 1 : 8);
    if (segments) {
        CHECK_EQ(frames[0]->flags, FRAME_GSO | FRAME_CSUM_OK | FRAME_CSUM_PARTIAL);
        CHECK_EQ(frames[0]->gso_size, MSS);
        CHECK_EQ(frames[0]->len, 54 + 10000);
        CHECK_MEM(frames[0]->data + 54, payload, 10000);
    }
    for (int i = 0; i < n; i++) {
        offset += segments ? 10000 : check_segment(frames[i], false, offset, 10000);
        frame_free(frames[i]);
    }
    CHECK_EQ(offset, 10000);
    ams_port_close(peer);
    stage_free(&stage);
    ams_hub_free(hub);
}

static void test_super_frames_leave_by_wires(void)
{
    test_a_wire_that_segments_gets_it_whole(true);
    test_a_wire_that_segments_gets_it_whole(false);
}

/* Sends what super_tx() made from the peer. */
static void from_peer(struct stage *stage, struct ams_port *peer, struct ams_tx *tx)
{
    memcpy(tx->head + 6, packets_peer_mac, 6);
    CHECK_EQ(peer->ops->tx(peer, tx, 1, 1), 1);
    peer->ops->flush(peer, 1);
    CHECK(ams_fabric_poll(stage->fabric, 1) > 0);
}

static void test_super_frames_come_from_wires(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_port *peer;
    struct stage stage = stage_on(hub, &peer, AMS_PORT_NO_OFFLOAD);
    struct ams_frame *frame;
    uint8_t head[PACKETS_MAX];
    uint32_t offset = 0;

    struct ams_tx tx = super_tx(head, true, ONE, 20000); /* whole */
    from_peer(&stage, peer, &tx);
    frame = receive(&stage.one);
    CHECK(frame);
    CHECK_EQ(frame->flags, FRAME_GSO | FRAME_CSUM_OK | FRAME_CSUM_PARTIAL);
    CHECK_MEM(frame->data + frame->len - 20000, payload, 20000);
    frame_free(frame);
    tx = super_tx(head, true, TWO, 20000); /* cut */
    from_peer(&stage, peer, &tx);
    while (offset < 20000) {
        frame = receive(&stage.two);
        CHECK(frame);
        offset += check_segment(frame, true, offset, 20000);
        frame_free(frame);
    }
    tx = super_tx(head, false, NOBODY, 20000); /* for whoever answers */
    from_peer(&stage, peer, &tx);
    struct ams_fabric_frame info;
    char punted[FABRIC_FRAME_MAX];
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, punted, sizeof(punted)), 1);
    CHECK_EQ(info.length, 54 + MSS);
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, punted, sizeof(punted)), -AMS_EAGAIN);
    tx = super_tx(head, false, TWO, 9000); /* segments above the MTU */
    tx.gso_size = 1461;
    from_peer(&stage, peer, &tx);
    CHECK(!receive(&stage.two));
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_LENGTH), 1);
    tx = super_tx(head, false, NOBODY, 9000); /* for whoever answers, too */
    tx.gso_size = 1461;
    from_peer(&stage, peer, &tx);
    CHECK_EQ(ams_fabric_punted(stage.fabric, &info, punted, sizeof(punted)), -AMS_EAGAIN);
    CHECK_EQ(fabric_counter(stage.fabric, AMS_FABRIC_CONTROL, FABRIC_OUT_LENGTH), 1);
    ams_port_close(peer);
    stage_free(&stage);
    ams_hub_free(hub);
}

/* A frame whose checksum the wire left unfinished gets it for those who'd miss it. */
static void test_checksums_are_filled_in(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_port *peer;
    struct stage stage = stage_on(hub, &peer, AMS_PORT_NO_OFFLOAD);
    uint8_t head[PACKETS_MAX], src[16];

    for (int to = ONE; to <= TWO; to++) {
        struct ams_tx tx = super_tx(head, false, (uint16_t)to, 100);
        tx.gso_size = tx.gso_hdr_len = 0;
        tx.flags = TX_CSUM;
        packets_ip(src, false, 1);
        store_be16(head + tx.csum_start + 16, checksum_fold(checksum_pseudo(src, src, PROTO_TCP, 120)));
        from_peer(&stage, peer, &tx);
        struct ams_frame *frame = receive(to == ONE ? &stage.one : &stage.two);
        CHECK(frame);
        CHECK(frame->flags & FRAME_CSUM_OK);
        CHECK_EQ(checksum_fold(packets_sum(frame->data, frame->len, false, PROTO_TCP)) == 0xffff, to == TWO);
        frame_free(frame);
    }
    ams_port_close(peer);
    stage_free(&stage);
    ams_hub_free(hub);
}

int main(void)
{
    frame_pool_init(&pool, PORT_POOL_FRAMES, false);
    RUN(test_super_frames_leave_by_wires);
    RUN(test_super_frames_come_from_wires);
    RUN(test_checksums_are_filled_in);
    frame_pool_fini(&pool);
    return check_report();
}
