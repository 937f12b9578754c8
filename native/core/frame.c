/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/frame.h"

#include <stdatomic.h>
#include <string.h>

#include "core/alloc.h"

/* Free frames kept per class; more go back to the allocator. */
static const uint32_t frame_keep[FRAME_CLASSES] = {16384, 256, 16384};

/* Free frames per class that trimming leaves. */
static const uint32_t frame_stock[FRAME_CLASSES] = {64, 4, 64};

static const uint32_t frame_capacity[FRAME_CLASSES] = {FRAME_SMALL, FRAME_LARGE, 0};

static inline void pool_lock(struct frame_pool *pool)
{
    if (!pool->shared)
        return;
    int expected = 0;
    while (!atomic_compare_exchange_weak_explicit(&pool->lock, &expected, 1, memory_order_acquire,
                                                  memory_order_relaxed))
        expected = 0;
}

static inline void pool_unlock(struct frame_pool *pool)
{
    if (pool->shared)
        atomic_store_explicit(&pool->lock, 0, memory_order_release);
}

void frame_pool_init(struct frame_pool *pool, uint32_t limit, bool shared)
{
    memset(pool, 0, sizeof(*pool));
    pool->limit = limit;
    pool->shared = shared;
}

void frame_pool_fini(struct frame_pool *pool)
{
    AMS_ASSERT(pool->in_use == 0);
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++) {
        struct ams_frame *frame = pool->free_list[class_];
        while (frame) {
            struct ams_frame *next = frame->next;
            mem_free(frame);
            frame = next;
        }
        pool->free_list[class_] = NULL;
        pool->free_count[class_] = 0;
    }
    pool->bytes = 0;
}

/* Takes the frames of a class that are to go off its list.
 * Return: the list of them.  Owns: the caller. */
static struct ams_frame *pool_excess(struct frame_pool *pool, int class_, bool all)
{
    struct ams_frame *excess = NULL;
    pool_lock(pool);
    uint32_t count = pool->free_count[class_], stock = frame_stock[class_];
    count = count > stock ? count - stock : 0;
    if (!all)
        count = (count + 3) / 4;
    for (uint32_t i = 0; i < count; i++) {
        struct ams_frame *frame = pool->free_list[class_];
        pool->free_list[class_] = frame->next;
        frame->next = excess;
        excess = frame;
    }
    pool->free_count[class_] -= count;
    pool->bytes -= (uint64_t)count * (sizeof(*excess) + frame_capacity[class_]);
    pool_unlock(pool);
    return excess;
}

void frame_pool_trim(struct frame_pool *pool, bool all)
{
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++) {
        struct ams_frame *frame = pool_excess(pool, class_, all);
        while (frame) {
            struct ams_frame *next = frame->next;
            mem_free(frame);
            frame = next;
        }
    }
}

struct ams_frame *frame_new(struct frame_pool *pool, enum frame_class class_)
{
    uint32_t capacity = frame_capacity[class_];
    pool_lock(pool);
    if (AMS_UNLIKELY(pool->in_use >= pool->limit)) {
        pool->failures++;
        pool_unlock(pool);
        return NULL;
    }
    struct ams_frame *frame = pool->free_list[class_];
    if (AMS_LIKELY(frame != NULL)) {
        pool->free_list[class_] = frame->next;
        pool->free_count[class_]--;
    } else {
        frame = mem_alloc(sizeof(*frame) + capacity);
        if (!frame) {
            pool->failures++;
            pool_unlock(pool);
            return NULL;
        }
        pool->bytes += sizeof(*frame) + capacity;
    }
    pool->in_use++;
    pool_unlock(pool);
    memset(frame, 0, sizeof(*frame));
    frame->pool = pool;
    frame->class_ = (uint8_t)class_;
    frame->capacity = capacity;
    if (capacity) {
        frame->buffer = (uint8_t *)(frame + 1);
        frame->data = frame->buffer + FRAME_HEADROOM;
    }
    return frame;
}

struct ams_frame *frame_new_ref(struct frame_pool *pool, const uint8_t *data, uint32_t len)
{
    struct ams_frame *frame = frame_new(pool, FRAME_CLASS_REF);
    if (frame) {
        frame->data = (uint8_t *)(uintptr_t)data;
        frame->len = len;
    }
    return frame;
}

void frame_free(struct ams_frame *frame)
{
    if (!frame)
        return;
    struct frame_pool *pool = frame->pool;
    int class_ = frame->class_;
    bool keep;
    pool_lock(pool);
    AMS_ASSERT(pool->in_use > 0);
    pool->in_use--;
    keep = pool->free_count[class_] < frame_keep[class_];
    if (keep) {
        frame->next = pool->free_list[class_];
        pool->free_list[class_] = frame;
        pool->free_count[class_]++;
    } else {
        pool->bytes -= sizeof(*frame) + frame_capacity[class_];
    }
    pool_unlock(pool);
    if (!keep)
        mem_free(frame);
}

uint32_t tx_gather(const struct ams_tx *tx, uint8_t *out)
{
    memcpy(out, tx->head, tx->head_len);
    out += tx->head_len;
    for (uint32_t i = 0; i < tx->n_frags; i++) {
        memcpy(out, tx->frags[i].data, tx->frags[i].len);
        out += tx->frags[i].len;
    }
    return tx->total;
}
