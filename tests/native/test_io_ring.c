/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rings: both ends, wrap-around, values that an end that lies may write, and
 * regions in memory files.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "core/hash.h"
#include "core/status.h"
#include "io/flows.h"
#include "io/ring.h"

#define SLOTS 8u

static const struct ring_layout layout = {SLOTS, SLOTS, 2112};
static const struct ring_link link_info = {.mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500};

/* A region with both ends in this process. */
struct both {
    struct ring_region device, user;
};

static struct both both_new(void)
{
    struct both both;
    CHECK_EQ(ring_region_create(&both.device, "test", &layout, &link_info), 0);
    CHECK_EQ(ring_region_alias(&both.user, &both.device), 0);
    return both;
}

static void both_free(struct both *both)
{
    ring_region_close(&both->user);
    ring_region_close(&both->device);
    ring_region_close(&both->device);
}

/* Puts a number into the next slot of a ring that this end fills. */
static void put(struct ring *ring, uint32_t number)
{
    struct ring_item item;
    uint8_t *buffer = ring_peek(ring, &item);
    CHECK(buffer);
    memcpy(buffer, &number, 4);
    ring_insert(ring, item, 4, 0);
}

static uint32_t take(struct ring *ring)
{
    struct ring_item item;
    uint32_t number;
    const uint8_t *buffer = ring_extract(ring, &item);
    CHECK(buffer);
    CHECK_EQ(item.len, 4);
    memcpy(&number, buffer, 4);
    return number;
}

static void test_a_fresh_region_has_netmap_s_layout(void)
{
    struct both both = both_new();
    const uint8_t *base = both.device.base;
    int64_t offsets[4];
    uint32_t words[2];

    memcpy(words, base + 24, 8);
    CHECK_EQ(words[0], 1);
    CHECK_EQ(words[1], 1);
    memcpy(offsets, base + 56, sizeof(offsets));
    for (int rx = 0; rx < 2; rx++) {
        const uint8_t *ring = base + offsets[2 * rx];
        const struct ring *view = rx ? &both.device.rx : &both.device.tx;
        int64_t buf_ofs;
        uint32_t num_slots, buf_size, head, tail, first;
        uint16_t dir;
        memcpy(&buf_ofs, ring, 8);
        memcpy(&num_slots, ring + 8, 4);
        memcpy(&buf_size, ring + 12, 4);
        memcpy(&dir, ring + 18, 2);
        memcpy(&head, ring + 20, 4);
        memcpy(&tail, ring + 28, 4);
        memcpy(&first, ring + 256, 4);
        CHECK_EQ(num_slots, SLOTS);
        CHECK_EQ(buf_size, 2112);
        CHECK_EQ(dir, !rx);
        CHECK_EQ(head, 0);
        CHECK_EQ(tail, rx ? 0 : SLOTS - 1);
        CHECK_EQ(first, rx ? 1 + SLOTS : 1);
        CHECK(ring + buf_ofs + (int64_t)first * buf_size == ring_buffer(view, first));
        CHECK(ring_buffer(view, 0) == NULL);
        CHECK(ring_buffer(view, 2 * SLOTS) != NULL);
        CHECK(ring_buffer(view, 2 * SLOTS + 1) == NULL);
    }
    struct ring_link seen = ring_region_link(&both.user);
    CHECK_MEM(seen.mac, link_info.mac, 6);
    CHECK_EQ(seen.mtu, link_info.mtu);
    CHECK(both.user.flows && (uint8_t *)both.user.flows >= both.user.base);
    CHECK((uint8_t *)both.user.flows + FLOWS_SIZE <= both.user.base + both.user.size);
    CHECK((uint8_t *)both.device.flows - both.device.base == (uint8_t *)both.user.flows - both.user.base);
    both_free(&both);
}

static void test_tx_wraps_around_and_one_slot_stays_free(void)
{
    struct both both = both_new();
    struct ring *user = &both.user.tx, *device = &both.device.tx;
    uint32_t sent = 0, got = 0;

    CHECK(ring_device_empty(device));
    for (int round = 0; round < 100; round++) {
        while (!ring_user_full(user))
            put(user, sent++);
        CHECK(ring_device_empty(device)); /* not pushed yet */
        ring_user_push(user);
        CHECK_EQ(sent - got, SLOTS - 1);
        CHECK_EQ(ring_device_pending(device), SLOTS - 1);
        for (int i = 0; i < round % (int)SLOTS; i++)
            CHECK_EQ(take(device), got++);
        CHECK(ring_user_full(user)); /* not pulled yet */
        ring_device_pull(device);
        CHECK_EQ(ring_user_refresh(user), round % SLOTS);
        while (!ring_device_empty(device))
            CHECK_EQ(take(device), got++);
        ring_device_pull(device);
    }
    both_free(&both);
}

static void test_rx_wraps_around_and_one_slot_stays_free(void)
{
    struct both both = both_new();
    struct ring *user = &both.user.rx, *device = &both.device.rx;
    uint32_t sent = 0, got = 0;

    CHECK(ring_user_empty(user));
    for (int round = 0; round < 100; round++) {
        uint32_t before = ring_user_refresh(user);
        while (!ring_device_full(device))
            put(device, sent++);
        CHECK_EQ(sent - got, SLOTS - 1);
        CHECK_EQ(ring_user_refresh(user), before); /* not pushed yet */
        ring_device_push(device);
        for (int i = 0; i < 1 + round % ((int)SLOTS - 1); i++) {
            CHECK(!ring_user_empty(user));
            CHECK_EQ(take(user), got++);
        }
        CHECK(ring_device_full(device));
        ring_user_pull(user);
        CHECK(!ring_device_full(device));
    }
    both_free(&both);
}

static void test_buffers_may_be_exchanged(void)
{
    struct both both = both_new();
    struct ring *user = &both.user.tx, *device = &both.device.tx;
    struct ring_item item, other = ring_load(&both.user.rx.slots[3]);

    put(user, 1);
    item = ring_load(&user->slots[0]);
    memcpy(ring_buffer(user, other.buf_idx), "\7\0\0\0", 4);
    other.len = 4;
    other.flags = RING_BUF_CHANGED;
    ring_store(&user->slots[0], other);
    ring_store(&both.user.rx.slots[3], item);
    ring_user_push(user);
    CHECK(!ring_device_empty(device));
    CHECK_EQ(take(device), 7);
    both_free(&both);
}

/* Whatever an end writes into what it shares, the other stays inside. */
static void test_lies_lead_nowhere(void)
{
    struct both both = both_new();
    struct ring *rings[] = {&both.device.tx, &both.device.rx};
    struct ring_item item;
    struct ring_link seen;
    struct ams_rng rng;

    rng_init(&rng, 1, 2);
    for (int round = 0; round < 20000; round++) {
        struct ring *ring = rings[round & 1];
        uint32_t *words = (uint32_t *)(void *)ring->shared;
        words[rng_below(&rng, 16)] = (uint32_t)rng_next(&rng) & (rng_below(&rng, 2) ? 15 : UINT32_MAX);
        uint64_t word = rng_next(&rng);
        if (rng_below(&rng, 2))
            word &= 0xffffffff0000001f;
        memcpy(&ring->slots[rng_below(&rng, SLOTS)], &word, 8);
        uint32_t n = round & 1 ? ring_device_room(ring) : ring_device_pending(ring);
        CHECK(n < SLOTS);
        while (ring_avail(ring)) {
            uint8_t *buffer = round & 1 ? ring_peek(ring, &item) : ring_extract(ring, &item);
            if (buffer) {
                CHECK(buffer >= both.device.base && buffer + 2112 <= both.device.base + both.device.size);
                CHECK(round & 1 || item.len <= 2112);
                buffer[0] = buffer[2111] = 0;
            }
            if (round & 1)
                ring_insert(ring, item, 60, 0);
        }
        (round & 1 ? ring_device_push : ring_device_pull)(ring);
    }
    seen = ring_region_link(&both.user);
    CHECK_EQ(seen.mtu, 1500);
    both_free(&both);
}

static void test_an_index_out_of_range_changes_nothing(void)
{
    struct both both = both_new();

    put(&both.user.tx, 1);
    ring_user_push(&both.user.tx);
    both.device.tx.shared->head = SLOTS;
    CHECK_EQ(ring_device_pending(&both.device.tx), 0);
    CHECK(!ring_read_limit(&both.device.tx, &both.device.tx.shared->head, false));
    both.device.tx.shared->head = UINT32_MAX;
    CHECK_EQ(ring_device_pending(&both.device.tx), 0);
    both.device.tx.shared->head = 1;
    CHECK_EQ(ring_device_pending(&both.device.tx), 1);
    both_free(&both);
}

static void test_bells(void)
{
    struct both both = both_new();
    struct ring_bell *bell = both.device.user_bell;

    CHECK(bell == both.user.user_bell && bell != both.user.device_bell);
    CHECK(ring_bell_armed(bell)); /* from the start */
    CHECK(!ring_bell_due(bell, RING_WAKE_TX));
    CHECK(ring_bell_due(bell, RING_WAKE_RX));
    CHECK(!ring_bell_armed(bell));
    CHECK(!ring_bell_due(bell, RING_WAKE_RX));
    CHECK_EQ(ring_bell_arm(bell, RING_WAKE_RX | RING_WAKE_TX), 0);
    CHECK_EQ(ring_bell_arm(bell, RING_WAKE_TX), RING_WAKE_RX | RING_WAKE_TX);
    ring_bell_disarm(bell);
    CHECK(!ring_bell_due(bell, RING_WAKE_TX));
    both_free(&both);
}

static void test_another_process_opens_it(void)
{
    struct ring_region device, user;
    struct ring_item item;

    CHECK_EQ(ring_region_create(&device, "test", &layout, &link_info), 0);
    CHECK_EQ(ring_region_open(&user, device.fd), 0);
    CHECK(user.base != device.base);
    put(&user.tx, 5);
    ring_user_push(&user.tx);
    CHECK_EQ(ring_device_pending(&device.tx), 1);
    CHECK_EQ(take(&device.tx), 5);
    CHECK(ftruncate(device.fd, 0) < 0);
    CHECK(ftruncate(user.fd, 1 << 30) < 0);
    ring_region_discard(&device);
    CHECK_EQ(user.tx.shared->num_slots, 0); /* the view doesn't care */
    CHECK(ring_peek(&user.tx, &item) == NULL);
    ring_region_close(&device);
    ring_region_close(&user);
}

static void test_what_is_no_region_is_refused(void)
{
    struct ring_region region, good;
    int fd = memfd_create("x", 0);

    CHECK(fd >= 0);
    CHECK_EQ(ring_region_open(&region, -1), -AMS_EINVAL);
    CHECK_EQ(ring_region_open(&region, fd), -AMS_EINVAL);
    CHECK_EQ(ftruncate(fd, 100), 0);
    CHECK_EQ(ring_region_open(&region, fd), -AMS_EINVAL);
    CHECK_EQ(ftruncate(fd, 65536), 0);
    CHECK_EQ(ring_region_open(&region, fd), -AMS_EINVAL);
    close(fd);
    /* every word of the first page and of both rings' headers, wrong in turn */
    for (uint32_t at = 0; at < 3 * 4096; at += 4) {
        if (at % 4096 >= 320)
            continue;
        for (uint32_t value = 0; value < 3; value++) {
            CHECK_EQ(ring_region_create(&good, "test", &layout, &link_info), 0);
            uint32_t lie = value == 0 ? 0 : value == 1 ? UINT32_MAX : 0x7fffffff;
            memcpy(good.base + at, &lie, 4);
            if (ring_region_open(&region, good.fd) == 0) {
                CHECK(region.tx.slots >= (struct ring_slot *)(void *)region.base);
                CHECK((uint8_t *)(region.rx.slots + region.rx.num_slots) <= region.base + region.size);
                uint8_t *last = ring_buffer(&region.tx, region.tx.buf_first + region.tx.buf_count - 1);
                CHECK(last >= region.base && last + region.tx.buf_size <= region.base + region.size);
                ring_region_close(&region);
            }
            ring_region_close(&good);
        }
    }
}

static void test_layouts_have_limits(void)
{
    const struct ring_layout bad[] = {{7, 8, 2048},     {8, 7, 2048},  {65537, 8, 2048}, {8, 65537, 2048},
                                      {8, 8, 0},        {8, 8, 2050},  {8, 8, 65600}};
    struct ring_region region;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK_EQ(ring_region_create(&region, "test", &bad[i], &link_info), -AMS_EINVAL);
    CHECK_EQ(ring_buffer_size(60), 33 * 64);
    CHECK_EQ(ring_buffer_size(2112), 33 * 64);
    CHECK_EQ(ring_buffer_size(2113), 35 * 64);
}

int main(void)
{
    RUN(test_a_fresh_region_has_netmap_s_layout);
    RUN(test_tx_wraps_around_and_one_slot_stays_free);
    RUN(test_rx_wraps_around_and_one_slot_stays_free);
    RUN(test_buffers_may_be_exchanged);
    RUN(test_lies_lead_nowhere);
    RUN(test_an_index_out_of_range_changes_nothing);
    RUN(test_bells);
    RUN(test_another_process_opens_it);
    RUN(test_what_is_no_region_is_refused);
    RUN(test_layouts_have_limits);
    return check_report();
}
