/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fabric with clients that don't keep to the rules, and without memory.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <sys/mman.h>

#include "core/hash.h"
#include "fabric_fixture.h"
#include "io/hub.h"

#define ONE 1001
#define TWO 1002
#define VILLAIN 1003

struct stage {
    struct ams_fabric *fabric;
    struct ams_hub *hub;
    struct ams_port *wire;
    struct client one, two, villain;
    struct ring_region rings; /* the villain's */
    uint32_t sent, received;
};

static struct stage stage_new(void)
{
    struct stage stage = {.hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD)};
    struct ams_fabric_config config = fabric_config();
    struct ams_port_config wire = {.spec = "mem:x", .hub = stage.hub};
    char error[256];

    config.uplink = wire;
    config.punt_frames = 64;
    CHECK_EQ(ams_port_open(&stage.wire, &wire, error, sizeof(error)), 0);
    CHECK_EQ(ams_fabric_new(&stage.fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(stage.fabric), 0);
    CHECK_EQ(client_open(stage.fabric, &stage.one), 0);
    CHECK_EQ(client_open(stage.fabric, &stage.two), 0);
    CHECK_EQ(client_open(stage.fabric, &stage.villain), 0);
    CHECK_EQ(client_claim(stage.fabric, &stage.one, ONE, 0), 0);
    CHECK_EQ(client_claim(stage.fabric, &stage.two, TWO, 0), 0);
    CHECK_EQ(client_claim(stage.fabric, &stage.villain, VILLAIN, 0), 0);
    CHECK_EQ(ring_region_open(&stage.rings, stage.villain.link.memory_fd), 0);
    return stage;
}

static void stage_free(struct stage *stage)
{
    ring_region_close(&stage->rings);
    client_close(&stage->one);
    client_close(&stage->two);
    client_close(&stage->villain);
    ams_fabric_free(stage->fabric);
    ams_port_close(stage->wire);
    ams_hub_free(stage->hub);
}

/* Nothing that reached the wire or a client says it is from a tuple that its
 * sender doesn't own. */
static void check_source(const uint8_t *frame, int length, bool from_one)
{
    struct packet packet;

    CHECK_EQ(packet_parse(frame, (uint32_t)length, (uint32_t)length, &packet), PACKET_OK);
    CHECK_MEM(frame + 6, packets_us_mac, 6);
    if (packet.flags & PACKET_PORTS)
        CHECK(packet.sport == VILLAIN || (from_one && packet.sport == ONE));
}

/* The honest pair exchanges frames; all of them arrive, in order. */
static void honest_round(struct stage *stage)
{
    uint8_t frame[65600];
    char drain[65600];
    int length;

    for (int i = 0; i < 5; i++, stage->sent++)
        CHECK_EQ(client_send(&stage->one, stage->sent & 1, ONE, TWO, stage->sent), 0);
    ams_fabric_poll(stage->fabric, AMS_NOW);
    while ((length = ams_port_recv(stage->two.port, (char *)frame, sizeof(frame), 1)) >= 0) {
        uint32_t number;
        check_source(frame, length, true);
        struct packet packet;
        packet_parse(frame, (uint32_t)length, (uint32_t)length, &packet);
        if (packet.sport != ONE)
            continue;
        memcpy(&number, frame + length - 4, 4);
        CHECK_EQ(number, stage->received);
        stage->received++;
    }
    CHECK_EQ(stage->received, stage->sent);
    while ((length = ams_port_recv(stage->wire, (char *)frame, sizeof(frame), 1)) >= 0)
        check_source(frame, length, false);
    while (ams_port_recv(stage->one.port, drain, sizeof(drain), 1) >= 0)
        ;
    struct ams_fabric_frame info;
    while (ams_fabric_punted(stage->fabric, &info, drain, sizeof(drain)) == 1)
        CHECK_EQ(info.index, stage->villain.link.index);
}

/* Writes a frame that may be anything into one of the villain's buffers. */
static uint32_t forge(struct stage *stage, struct ams_rng *rng, uint8_t *buffer)
{
    static const uint16_t ports[] = {ONE, TWO, VILLAIN, VILLAIN, VILLAIN, 0};
    bool v6 = rng_below(rng, 2);
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = rng_below(rng, 4) ? PROTO_UDP : PROTO_TCP,
                                 .sport = ports[rng_below(rng, 6)], .dport = ports[rng_below(rng, 6)],
                                 .payload = (uint16_t)rng_below(rng, 200)};
    uint8_t frame[PACKETS_MAX];

    (void)stage;
    if (rng_below(rng, 2))
        packets_ip(what.dst, v6, 1);
    if (!rng_below(rng, 5))
        packets_ip(what.src, v6, 7);
    if (!rng_below(rng, 6))
        what.frag_offset = (uint16_t)(rng_below(rng, 3) * 8);
    what.more_fragments = !rng_below(rng, 8);
    uint32_t length = packets_build(frame, &what);
    if (what.dst[15] == 1 || what.dst[15])
        memcpy(frame, rng_below(rng, 2) ? packets_us_mac : packets_peer_mac, 6);
    for (uint32_t flips = rng_below(rng, 4); flips; flips--)
        frame[rng_below(rng, length)] = (uint8_t)rng_next(rng);
    memcpy(buffer, frame, length);
    return length;
}

static void test_a_villain_harms_only_itself(void)
{
    struct stage stage = stage_new();
    struct ams_rng rng;

    rng_init(&rng, 42, 43);
    for (int round = 0; round < 4000; round++) {
        struct ring *tx = &stage.rings.tx, *rx = &stage.rings.rx;
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t slot = rng_below(&rng, 64);
            uint8_t *buffer = ring_buffer(tx, 1 + rng_below(&rng, 128));
            uint32_t length = forge(&stage, &rng, buffer);
            struct ring_item item = {(uint32_t)((uint64_t)(buffer - tx->buffers) / tx->buf_size), (uint16_t)length, 0};
            if (!rng_below(&rng, 6))
                item.buf_idx = (uint32_t)rng_next(&rng);
            if (!rng_below(&rng, 6))
                item.len = (uint16_t)rng_next(&rng);
            if (!rng_below(&rng, 6))
                item.flags = (uint16_t)rng_next(&rng);
            ring_store(&tx->slots[slot], item);
            if (!rng_below(&rng, 4))
                ring_store(&rx->slots[slot], item);
        }
        uint32_t *words[] = {&tx->shared->head, &rx->shared->head, &tx->shared->tail, &rx->shared->tail,
                             &tx->shared->num_slots, &tx->shared->buf_size};
        *words[rng_below(&rng, 6)] = rng_below(&rng, 3) ? rng_below(&rng, 64) : (uint32_t)rng_next(&rng);
        if (!rng_below(&rng, 20))
            tx->shared->buf_ofs = (int64_t)rng_next(&rng);
        *(uint32_t *)(void *)stage.rings.device_bell = (uint32_t)rng_next(&rng);
        *(uint32_t *)(void *)stage.rings.user_bell = (uint32_t)rng_next(&rng);
        CHECK(write(stage.villain.link.kick_fd, "\1\0\0\0\0\0\0\0", 8) == 8);
        honest_round(&stage);
    }
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_FRAMES) > 10000);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_SLOT) > 0);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_LENGTH) > 0);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_CHAIN) > 0);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_INDEX) > 0);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_OWN_COUNTERS + SWITCH_TX_TUPLE) > 0);
    CHECK_EQ(fabric_counter(stage.fabric, stage.one.link.index, FABRIC_OWN_COUNTERS + SWITCH_TX_TUPLE), 0);
    stage_free(&stage);
}

/* Every word of the shared memory but the buffers, filled with one value. */
static void test_scribbled_regions(void)
{
    static const uint32_t values[] = {0, 1, 0x7fffffff, 0xffffffff, 0x80000000, 63, 64, 65, 4096};

    for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
        struct stage stage = stage_new();
        uint32_t *words = (uint32_t *)(void *)stage.rings.base;
        for (uint32_t i = 0; i < 3 * 4096 / 4; i++)
            words[i] = values[v];
        for (int round = 0; round < 50; round++)
            honest_round(&stage);
        stage_free(&stage);
    }
}

/* A hole in the region, pages gone under the switch's feet. */
static void test_punched_regions(void)
{
    struct stage stage = stage_new();

    for (int round = 0; round < 50; round++) {
        CHECK_EQ(madvise(stage.rings.base, stage.rings.size, MADV_REMOVE), 0);
        CHECK(write(stage.villain.link.kick_fd, "\1\0\0\0\0\0\0\0", 8) == 8);
        honest_round(&stage);
    }
    stage_free(&stage);
}

/* A client that floods and never reads; its pipe fills up, too. */
static void test_a_flood_stays_in_its_port(void)
{
    struct stage stage = stage_new();

    /* The pipe's reading end is the villain's: taking O_NONBLOCK off changes nothing for the switch. */
    CHECK_EQ(fcntl(stage.villain.link.notify_fd, F_SETFL, 0), 0);
    CHECK_EQ(fcntl(stage.villain.link.notify_fd, F_SETPIPE_SZ, 4096), 4096);
    for (int round = 0; round < 6000; round++) {
        *(uint32_t *)(void *)stage.rings.user_bell = UINT32_MAX;
        for (int i = 0; i < 10; i++)
            client_send(&stage.villain, i & 1, VILLAIN, VILLAIN, 0);
        honest_round(&stage);
    }
    CHECK_EQ(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_OUT_FRAMES), 63);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_OUT_FULL) > 50000);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_WAKEUPS) == 4096);
    stage_free(&stage);
}

/* A client that leaves its index out of range doesn't keep the switch awake. */
static void test_a_broken_index_lets_the_switch_rest(void)
{
    struct stage stage = stage_new();

    for (int i = 0; i < 60; i++)
        CHECK_EQ(client_send(&stage.villain, false, VILLAIN, VILLAIN, 0), 0);
    CHECK_EQ(ams_fabric_poll(stage.fabric, AMS_NOW), FABRIC_BATCH);
    CHECK_EQ(stage.fabric->n_active, 1);
    stage.rings.tx.shared->head = UINT32_MAX;
    for (uint64_t start = ams_clock_now(); stage.fabric->n_active && ams_clock_now() - start < 20 * AMS_NS_PER_S;)
        CHECK_EQ(ams_fabric_poll(stage.fabric, AMS_NOW), 0);
    CHECK_EQ(stage.fabric->n_active, 0);
    CHECK(fabric_counter(stage.fabric, stage.villain.link.index, FABRIC_IN_INDEX) > 0);
    honest_round(&stage);
    stage_free(&stage);
}

/* ---- without memory ---------------------------------------------------------------- */

static bool play(struct ams_fabric *fabric)
{
    struct client clients[3];
    int opened = 0, status = fabric_serve(fabric);

    while (!status && opened < 3) {
        status = client_open(fabric, &clients[opened]);
        opened += !status;
    }
    for (int i = 0; i < opened && !status; i++) {
        status = client_claim(fabric, &clients[i], (uint16_t)(ONE + i), 0);
        if (!status)
            status = client_claim(fabric, &clients[i], 80, AMS_CLAIM_GROUP);
    }
    if (!status)
        status = ams_fabric_capture(fabric, -1, 128, 64);
    if (!status)
        status = client_send(&clients[0], false, ONE, TWO, 7);
    while (!status && ams_fabric_poll(fabric, AMS_NOW) > 0)
        ;
    if (!status)
        status = client_receive(&clients[1]) == 7 ? 0 : -AMS_ENOMEM; /* no frame to receive it into */
    for (int i = 0; i < opened; i++) {
        client_close(&clients[i]);
        CHECK_EQ(ams_fabric_detach(fabric, clients[i].link.index), 0);
    }
    return !status;
}

static bool build_and_play(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_fabric_config config = fabric_config();
    struct ams_fabric *fabric;
    char error[256];
    bool done = false;

    if (!hub)
        return false;
    config.uplink = (struct ams_port_config){.spec = "mem:x", .hub = hub};
    config.host = (struct ams_port_config){.spec = "mem:y", .hub = hub};
    int status = ams_fabric_new(&fabric, &config, error, sizeof(error));
    if (!status)
        done = play(fabric);
    else
        CHECK(status == -AMS_ENOMEM && error[0] && !fabric);
    ams_fabric_free(fabric);
    ams_hub_free(hub);
    return done;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(build_and_play) > 20);
}

int main(void)
{
    RUN(test_a_villain_harms_only_itself);
    RUN(test_scribbled_regions);
    RUN(test_punched_regions);
    RUN(test_a_flood_stays_in_its_port);
    RUN(test_a_broken_index_lets_the_switch_rest);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
