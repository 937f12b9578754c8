/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Chains of slots, as clients write them that don't mean well: what is in them, and what becomes of them.
 */
#include "core/hash.h"
#include "super_fixture.h"

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

int main(void)
{
    frame_pool_init(&pool, PORT_POOL_FRAMES, false);
    RUN(test_a_frame_in_pieces_is_a_frame);
    RUN(test_chains_that_are_none);
    RUN(test_a_receiver_with_a_bad_slot_loses_it);
    RUN(test_random_chains);
    frame_pool_fini(&pool);
    return check_report();
}
