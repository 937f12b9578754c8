/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_fake_ring.h - the kernel's side of the rings of netmap_fake.h.
 */
#ifndef AMS_TESTS_NETMAP_FAKE_RING_H
#define AMS_TESTS_NETMAP_FAKE_RING_H

#include <string.h>

#include "core/base.h"
#include "io/ring.h"

#define FAKE_SLOTS 128u
#define FAKE_BUF_SIZE 2048u
#define FAKE_BUFFERS (256u << 10)         /* offset of buffer 0 in a region */
#define FAKE_REGION (8u << 20)

struct fake_region {
    int fd;
    uint8_t *base;
    uint32_t used;                        /* bytes of rings */
    uint32_t next_buffer;
};

/* The kernel's side of a ring. */
struct fake_ring {
    struct fake_region *region;
    uint32_t offset;                      /* 0: there is none */
    uint32_t head;                        /* the user's index, as of the last sync */
    uint32_t tail;
    bool tx;
};

static inline struct ring_shared *fake_shared(const struct fake_ring *ring)
{
    return (struct ring_shared *)(void *)(ring->region->base + ring->offset);
}

static inline struct ring_slot *fake_slot(const struct fake_ring *ring, uint32_t index)
{
    return (struct ring_slot *)(void *)(ring->region->base + ring->offset + RING_HEADER) + index % FAKE_SLOTS;
}

/* As the kernel: an index that isn't in the region gives buffer 0. */
static inline uint8_t *fake_buffer(const struct fake_ring *ring, uint32_t index)
{
    if (index >= (FAKE_REGION - FAKE_BUFFERS) / FAKE_BUF_SIZE)
        index = 0;
    return ring->region->base + FAKE_BUFFERS + (size_t)index * FAKE_BUF_SIZE;
}

static inline uint32_t fake_distance(uint32_t from, uint32_t to)
{
    return (to + FAKE_SLOTS - from) % FAKE_SLOTS;
}

/* Lays a ring out in a region, with a buffer in every slot. */
static inline void fake_ring_make(struct fake_ring *ring, struct fake_region *region, bool tx, uint16_t id)
{
    *ring = (struct fake_ring){.region = region, .offset = (region->used + 127u) & ~127u, .tx = tx};
    region->used = ring->offset + RING_HEADER + FAKE_SLOTS * (uint32_t)sizeof(struct ring_slot);
    struct ring_shared *shared = fake_shared(ring);
    memset(shared, 0, RING_HEADER);
    shared->buf_ofs = (int64_t)FAKE_BUFFERS - ring->offset;
    shared->num_slots = FAKE_SLOTS;
    shared->buf_size = FAKE_BUF_SIZE;
    shared->ringid = id;
    shared->dir = tx;
    ring->tail = shared->tail = tx ? FAKE_SLOTS - 1 : 0;
    for (uint32_t i = 0; i < FAKE_SLOTS; i++)
        *fake_slot(ring, i) = (struct ring_slot){.buf_idx = region->next_buffer++};
}

/* Reads the user's indices.  What can't be resets them, and nothing is said.
 * Return: false after a reset. */
static inline bool fake_prologue(struct fake_ring *ring, uint32_t *head)
{
    struct ring_shared *shared = fake_shared(ring);

    *head = __atomic_load_n(&shared->head, __ATOMIC_ACQUIRE);
    if (*head < FAKE_SLOTS && shared->cur < FAKE_SLOTS &&
        fake_distance(ring->head, *head) <= fake_distance(ring->head, ring->tail))
        return true;
    shared->head = shared->cur = ring->head;
    shared->tail = ring->tail;
    return false;
}

static inline void fake_set_tail(struct fake_ring *ring, uint32_t tail)
{
    ring->tail = tail;
    __atomic_store_n(&fake_shared(ring)->tail, tail, __ATOMIC_RELEASE);
}

/* RX: slots that the user has given back are free. */
static inline void fake_rx_sync(struct fake_ring *ring)
{
    uint32_t head;

    if (fake_prologue(ring, &head))
        ring->head = head;
    fake_set_tail(ring, ring->tail);
}

/* RX: puts one piece into a ring; the user sees it at once.
 * Return: false if there is no room. */
static inline bool fake_rx_put(struct fake_ring *ring, const uint8_t *data, uint16_t length, uint16_t flags)
{
    uint32_t next = (ring->tail + 1) % FAKE_SLOTS;

    if (next == ring->head)
        return false;
    struct ring_slot *slot = fake_slot(ring, ring->tail);
    if (data)
        memcpy(fake_buffer(ring, slot->buf_idx), data, ams_min_u32(length, FAKE_BUF_SIZE));
    slot->len = length;
    slot->flags = flags;
    fake_set_tail(ring, next);
    return true;
}

/* TX: takes the next slot that the user wants sent, and gives it back.
 * Return: false if there is none. */
static inline bool fake_tx_get(struct fake_ring *ring, struct ring_slot *slot)
{
    uint32_t head;

    if (!fake_prologue(ring, &head) || ring->head == head)
        return false;
    struct ring_slot *from = fake_slot(ring, ring->head);
    *slot = *from;
    from->flags &= (uint16_t)~RING_BUF_CHANGED;
    ring->head = (ring->head + 1) % FAKE_SLOTS;
    fake_set_tail(ring, (ring->tail + 1) % FAKE_SLOTS);
    return true;
}

#endif
