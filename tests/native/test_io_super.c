/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Super-frames and chains of slots through the fabric.
 */
#include "core/hash.h"
#include "fabric_fixture.h"
#include "io/shm.h"
#include "wire/checksum.h"

#define ONE 1001
#define TWO 1002
#define NOBODY 1003
#define SLOTS 128u
#define MSS 1400u
#define LONGEST 65000u
#define SEQUENCE 0xfffffff0u /* wraps around within the first segment */
#define FLAGS (TCP_ACK | TCP_PSH | TCP_CWR)

/* Two clients; the second one may do without super-frames. */
struct stage {
    struct ams_fabric *fabric;
    struct client one, two;
};

static uint8_t payload[LONGEST];
static struct frame_pool pool; /* of all clients */

/* Opens a client's port as a stack does.  Return: 0 or a status. */
static int open_client(struct ams_fabric *fabric, struct client *client, uint32_t flags)
{
    char spec[64], error[256];
    struct port_error reason = {error, sizeof(error)};
    int status = ams_fabric_attach(fabric, NULL, &client->link);

    client->port = NULL;
    if (status < 0)
        return status;
    snprintf(spec, sizeof(spec), "shm:%d,%d,%d", client->link.memory_fd, client->link.kick_fd, client->link.notify_fd);
    struct ams_port_config config = {.spec = spec, .flags = flags};
    status = port_open(&client->port, &config, &pool, &reason);
    if (status)
        client_close(client);
    return status;
}

static void claim(struct ams_fabric *fabric, const struct client *client, uint16_t number)
{
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint local = packets_endpoint(v6, 1, number);
        CHECK_EQ(ams_fabric_claim(fabric, client->link.index, PROTO_TCP, &local, 0), 0);
    }
}

static struct stage stage_new(uint32_t flags)
{
    struct stage stage;
    struct ams_fabric_config config = fabric_config();
    char error[256];

    config.tx_slots = config.rx_slots = SLOTS;
    config.punt_frames = 64;
    CHECK_EQ(ams_fabric_new(&stage.fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(stage.fabric), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.one, 0), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.two, flags), 0);
    claim(stage.fabric, &stage.one, ONE);
    claim(stage.fabric, &stage.two, TWO);
    for (uint32_t i = 0; i < LONGEST; i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
    return stage;
}

static void stage_free(struct stage *stage)
{
    client_close(&stage->one);
    client_close(&stage->two);
    ams_fabric_free(stage->fabric);
}

static uint64_t counter(const struct stage *stage, const struct client *client, int which)
{
    return fabric_counter(stage->fabric, client->link.index, which);
}

/* Writes the headers of a super-frame.  Return: their length. */
static uint32_t super_head(uint8_t *head, bool v6, uint16_t to, uint32_t length)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .sport = ONE, .dport = to, .tcp_flags = FLAGS};

    packets_ip(what.dst, v6, 1);
    uint32_t header = packets_build(head, &what);
    memcpy(head, packets_us_mac, 6);
    store_be32(head + header - 16, SEQUENCE);
    if (v6) {
        store_be16(head + ETH_HEADER + 4, header - ETH_HEADER - IP6_HEADER + length);
    } else {
        store_be16(head + ETH_HEADER + 2, header - ETH_HEADER + length);
        store_be16(head + ETH_HEADER + 10, 0);
        store_be16(head + ETH_HEADER + 10, checksum_finish(checksum_add(0, head + ETH_HEADER, IP4_HEADER)));
    }
    return header;
}

/* Describes a super-frame in a head and three pieces. */
static struct ams_tx super_tx(uint8_t *head, bool v6, uint16_t to, uint32_t length)
{
    struct ams_tx tx;

    memset(&tx, 0, sizeof(tx));
    tx.head = head;
    tx.head_len = super_head(head, v6, to, length);
    tx.total = tx.head_len + length;
    tx.flags = (uint16_t)(TX_CSUM | (v6 ? TX_GSO6 : TX_GSO4));
    tx.csum_start = (uint16_t)(tx.head_len - 20);
    tx.csum_offset = 16;
    tx.gso_size = MSS;
    tx.gso_hdr_len = (uint16_t)tx.head_len;
    tx.n_frags = 3;
    tx.frags[0] = (struct ams_tx_frag){payload, 1};
    tx.frags[1] = (struct ams_tx_frag){payload + 1, length / 2};
    tx.frags[2] = (struct ams_tx_frag){payload + 1 + length / 2, length - 1 - length / 2};
    return tx;
}

static void send_super(struct stage *stage, bool v6, uint16_t to, uint32_t length)
{
    uint8_t head[PACKETS_MAX];
    struct ams_tx tx = super_tx(head, v6, to, length);
    struct ams_port *port = stage->one.port;

    CHECK(port->ops->room(port) > 0);
    CHECK_EQ(port->ops->tx(port, &tx, 1, 1), 1);
    port->ops->flush(port, 1);
    CHECK_EQ(port->info.tx_dropped, 0);
    while (ams_fabric_poll(stage->fabric, 1) > 0)
        ;
}

/* The next frame that a client gets; NULL: none. */
static struct ams_frame *receive(struct client *client)
{
    struct ams_frame *frame = NULL;
    int n = client->port->ops->rx(client->port, &frame, 1, 1);

    CHECK(n >= 0);
    return n ? frame : NULL;
}

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

/* Checks a segment.  Return: its payload's length. */
static uint32_t check_segment(const struct ams_frame *frame, bool v6, uint32_t offset, uint32_t length)
{
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER), header = l4 + 20, part = frame->len - header;
    uint8_t src[16], dst[16], flags = TCP_ACK;
    const uint8_t *ip = frame->data + ETH_HEADER, *tcp = frame->data + l4;

    CHECK(frame->len > header && frame->len <= header + MSS && offset + part <= length);
    if (v6) {
        CHECK_EQ(load_be16(ip + 4), frame->len - l4);
    } else {
        CHECK_EQ(load_be16(ip + 2), frame->len - ETH_HEADER);
        CHECK_EQ(load_be16(ip + 4), offset / MSS);
        CHECK_EQ(checksum_fold(checksum_add(0, ip, IP4_HEADER)), 0xffff);
    }
    packets_ip(src, v6, 1);
    packets_ip(dst, v6, 1);
    uint64_t sum = checksum_add(checksum_pseudo(src, dst, PROTO_TCP, frame->len - l4), tcp, frame->len - l4);
    CHECK_EQ(checksum_fold(sum), 0xffff);
    CHECK_EQ(load_be32(tcp + 4), SEQUENCE + offset);
    if (!offset)
        flags |= TCP_CWR;
    if (offset + part == length)
        flags |= TCP_PSH;
    CHECK_EQ(tcp[13], flags);
    CHECK_MEM(frame->data + header, payload + offset, part);
    return part;
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

/* ---- chains, by hand -------------------------------------------------------------------- */

/* The rings as a client has them that writes what it wants. */
static struct ring *raw(struct stage *stage)
{
    return &AMS_CONTAINER_OF(stage->one.port, struct shm_port, port)->region.tx;
}

/* Fills the next slot. */
static void put_slot(struct ring *tx, const uint8_t *data, uint32_t length, uint16_t flags)
{
    struct ring_item item;

    if (!ring_avail(tx))
        ring_user_refresh(tx);
    CHECK(ring_avail(tx) > 0);
    uint8_t *buffer = ring_peek(tx, &item);
    CHECK(buffer);
    memcpy(buffer, data, length);
    ring_insert(tx, item, length, flags);
}

static void push(struct stage *stage)
{
    ring_user_push(raw(stage));
    CHECK(write(stage->one.link.kick_fd, "\1\0\0\0\0\0\0\0", 8) == 8);
    while (ams_fabric_poll(stage->fabric, 1) > 0)
        ;
}

/* Sends a small frame, which must be the next that arrives. */
static void check_honest(struct stage *stage, uint32_t number)
{
    struct packets_frame what = {.outgoing = true, .sport = ONE, .dport = TWO, .payload = 24};
    uint8_t frame[PACKETS_MAX];

    packets_ip(what.dst, false, 1);
    uint32_t length = packets_build(frame, &what);
    memcpy(frame, packets_us_mac, 6);
    store_be32(frame + length - 4, number);
    put_slot(raw(stage), frame, length, 0);
    push(stage);
    struct ams_frame *got = receive(&stage->two);
    CHECK(got);
    CHECK_EQ(got->len, length);
    CHECK_EQ(load_be32(got->data + length - 4), number);
    frame_free(got);
}

static void test_a_frame_in_pieces_is_a_frame(void)
{
    struct stage stage = stage_new(0);
    uint8_t head[PACKETS_MAX];

    for (uint32_t round = 0; round < 100; round++) {
        uint32_t first = round % 55, header = super_head(head, false, TWO, 1000);
        put_slot(raw(&stage), head, first, RING_MOREFRAG); /* headers in pieces, too; empty ones */
        put_slot(raw(&stage), head + first, header - first, RING_MOREFRAG);
        put_slot(raw(&stage), payload, 0, RING_MOREFRAG);
        put_slot(raw(&stage), payload, 1000, 0);
        push(&stage);
        struct ams_frame *frame = receive(&stage.two);
        CHECK(frame);
        CHECK_EQ(frame->len, header + 1000);
        CHECK_EQ(frame->flags, 0);
        CHECK_MEM(frame->data, head, header);
        CHECK_MEM(frame->data + header, payload, 1000);
        frame_free(frame);
    }
    super_head(head, false, TWO, 1500); /* longer than the MTU, and no super-frame */
    put_slot(raw(&stage), head, 54, RING_MOREFRAG);
    put_slot(raw(&stage), payload, 1500, 0);
    push(&stage);
    CHECK(!receive(&stage.two));
    CHECK_EQ(counter(&stage, &stage.one, FABRIC_OWN_COUNTERS + SWITCH_TX_TOO_LONG), 1);
    stage_free(&stage);
}

static void test_chains_that_are_none(void)
{
    struct stage stage = stage_new(0);
    uint8_t head[PACKETS_MAX];
    struct ring *tx = raw(&stage);
    uint32_t header = super_head(head, false, TWO, 4000);

    ring_note_super(&tx->slots[tx->next], MSS); /* cut off */
    put_slot(tx, head, header, RING_SUPER | RING_MOREFRAG);
    put_slot(tx, payload, 2000, RING_MOREFRAG);
    push(&stage);
    CHECK_EQ(counter(&stage, &stage.one, FABRIC_IN_CHAIN), 1);
    check_honest(&stage, 1);
    for (uint32_t i = 0; i < SUPER_SLOTS + 1; i++) /* of too many slots */
        put_slot(tx, head, 1, i < SUPER_SLOTS ? RING_MOREFRAG : 0);
    push(&stage);
    CHECK_EQ(counter(&stage, &stage.one, FABRIC_IN_CHAIN), 2);
    check_honest(&stage, 2);
    for (uint32_t i = 0; i < 34; i++) /* of too many bytes */
        put_slot(tx, payload, 2000, RING_SUPER | (i < 33 ? RING_MOREFRAG : 0));
    push(&stage);
    CHECK_EQ(counter(&stage, &stage.one, FABRIC_IN_CHAIN), 3);
    check_honest(&stage, 3);
    for (uint32_t bad = 0; bad < 3; bad++) { /* with one bad slot, wherever */
        for (uint32_t i = 0; i < 3; i++) {
            struct ring_slot *slot = &tx->slots[tx->next];
            put_slot(tx, payload, 100, i < 2 ? RING_MOREFRAG : 0);
            struct ring_item item = ring_load(slot);
            item.buf_idx += i == bad ? 1u << 20 : 0;
            ring_store(slot, item);
        }
        push(&stage);
        CHECK_EQ(counter(&stage, &stage.one, FABRIC_IN_SLOT), bad + 1);
        for (uint32_t i = 0; i < 3; i++) { /* as it was */
            struct ring_slot *slot = &tx->slots[(tx->next + tx->num_slots - 3 + i) % tx->num_slots];
            struct ring_item item = ring_load(slot);
            item.buf_idx &= (1u << 20) - 1;
            ring_store(slot, item);
        }
        check_honest(&stage, 4 + bad);
    }
    put_slot(tx, head, header, RING_SUPER); /* without payload, without a size */
    push(&stage);
    CHECK(!receive(&stage.two));
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

static void test_a_receiver_with_a_bad_slot_loses_it(void)
{
    struct stage stage = stage_new(0);
    struct ring *rx = &AMS_CONTAINER_OF(stage.two.port, struct shm_port, port)->region.rx;
    struct ring_item item = ring_load(&rx->slots[2]), bad = {.buf_idx = UINT32_MAX};

    ring_store(&rx->slots[2], bad);
    send_super(&stage, false, TWO, 10000);
    CHECK_EQ(counter(&stage, &stage.two, FABRIC_OUT_SLOT), 1);
    CHECK(!receive(&stage.two));
    ring_store(&rx->slots[2], item);
    send_super(&stage, false, TWO, 10000);
    struct ams_frame *frame = receive(&stage.two);
    CHECK(frame);
    CHECK_MEM(frame->data + frame->len - 10000, payload, 10000);
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

/* ---- wires -------------------------------------------------------------------------------- */

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
    uint8_t head[PACKETS_MAX], src[16], dst[16];

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
        packets_ip(dst, false, 1);
        uint64_t sum = checksum_add(checksum_pseudo(src, dst, PROTO_TCP, 120), frame->data + 34, 120);
        CHECK_EQ(checksum_fold(sum) == 0xffff, to == TWO);
        frame_free(frame);
    }
    ams_port_close(peer);
    stage_free(&stage);
    ams_hub_free(hub);
}

/* Sends a super-frame in slots of any length, and often something of it wrong. */
static void send_random(struct stage *stage, struct ams_rng *rng)
{
    static uint8_t bytes[PACKETS_MAX + 12000];
    struct ring *tx = raw(stage);
    uint32_t length = 1 + rng_below(rng, 12000), header = super_head(bytes, rng_below(rng, 2), TWO, length);
    uint32_t total = header + length, step = 300 + rng_below(rng, 1700), kind = rng_below(rng, 8);

    memcpy(bytes + header, payload, length);
    if (kind == 0)
        bytes[rng_below(rng, header)] = (uint8_t)rng_next(rng);
    if (kind == 1)
        total -= rng_below(rng, total);
    ring_note_super(&tx->slots[tx->next], (uint16_t)(kind == 2 ? rng_next(rng) : MSS));
    for (uint32_t at = 0; at < total; at += step) {
        uint16_t flags = (uint16_t)((at ? 0 : RING_SUPER) | (at + step < total ? RING_MOREFRAG : 0));
        if (kind == 3 && !rng_below(rng, 3))
            flags = (uint16_t)rng_next(rng);
        if (kind == 4 && at + step >= total)
            flags |= RING_MOREFRAG;
        put_slot(tx, bytes + at, ams_min_u32(step, total - at), flags);
    }
    push(stage);
}

/* Whatever is in slots, notes and flags: nothing but the sender's own tuple gets out, and honest frames do. */
static void test_random_chains(void)
{
    struct stage stage = stage_new(0);
    struct ams_rng rng;
    uint32_t passed = 0;

    rng_init(&rng, 7, 8);
    for (uint32_t round = 0; round < 3000; round++) {
        send_random(&stage, &rng);
        for (struct ams_frame *frame; (frame = receive(&stage.two)); passed++) {
            struct packet packet;
            CHECK_MEM(frame->data + 6, packets_us_mac, 6);
            CHECK_EQ(packet_parse(frame->data, frame->len, frame->len, &packet), PACKET_OK);
            CHECK_EQ(packet.sport, ONE);
            CHECK_EQ(packet.dport, TWO);
            CHECK(frame->len <= 1514 || (frame->flags & FRAME_GSO && frame->gso_size));
            frame_free(frame);
        }
        check_honest(&stage, round);
    }
    CHECK(passed > 1000 && passed < 2800);
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

int main(void)
{
    frame_pool_init(&pool, PORT_POOL_FRAMES, false);
    RUN(test_super_frames_pass_whole);
    RUN(test_others_get_segments);
    RUN(test_what_is_forged_is_dropped);
    RUN(test_a_frame_in_pieces_is_a_frame);
    RUN(test_chains_that_are_none);
    RUN(test_a_full_ring_takes_nothing_of_it);
    RUN(test_a_receiver_with_a_bad_slot_loses_it);
    RUN(test_who_answers_gets_one_segment);
    RUN(test_a_host_that_shares_gets_none_of_ours);
    RUN(test_captures_show_it_whole);
    RUN(test_super_frames_leave_by_wires);
    RUN(test_super_frames_come_from_wires);
    RUN(test_checksums_are_filled_in);
    RUN(test_random_chains);
    RUN(test_raw_ports_get_segments);
    RUN(test_every_allocation_may_fail);
    frame_pool_fini(&pool);
    return check_report();
}
