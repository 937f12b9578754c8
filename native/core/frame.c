/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/frame.h"

#include <stdatomic.h>
#include <string.h>

#include "core/alloc.h"

/* Free frames kept per class; more go back to the allocator. */
static const uint32_t frame_keep[FRAME_CLASSES] = {16384, 256, 16384};

/* Free frames per class that trimming leaves. */
static const uint32_t frame_stock[FRAME_CLASSES] = {16, 1, 16};

#define TRIM_STEP 64u

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

/* Takes a frame from the allocator.  The caller has the lock. */
static struct ams_frame *frame_alloc(struct frame_pool *pool, enum frame_class class_)
{
    struct ams_frame *frame = class_ == FRAME_CLASS_REF
                                  ? slab_new(&pool->refs)
                                  : mem_aligned(AMS_CACHE_LINE, sizeof(*frame) + frame_capacity[class_]);
    if (frame)
        pool->bytes += sizeof(*frame) + frame_capacity[class_];
    return frame;
}

/* Gives one back to it.  The caller has the lock. */
static void frame_dealloc(struct frame_pool *pool, struct ams_frame *frame, enum frame_class class_)
{
    pool->bytes -= sizeof(*frame) + frame_capacity[class_];
    if (class_ == FRAME_CLASS_REF)
        slab_free(&pool->refs, frame);
    else
        mem_free(frame);
}

void frame_pool_init(struct frame_pool *pool, uint32_t limit, bool shared)
{
    memset(pool, 0, sizeof(*pool));
    slab_init(&pool->refs, sizeof(struct ams_frame), NULL);
    pool->limit = limit;
    pool->shared = shared;
}

/* Gives n free frames of a class back.  The caller has the lock. */
static void pool_shrink(struct frame_pool *pool, enum frame_class class_, uint32_t n)
{
    pool->free_count[class_] -= n;
    for (; n; n--) {
        struct ams_frame *frame = pool->free_list[class_];
        pool->free_list[class_] = frame->next;
        frame_dealloc(pool, frame, class_);
    }
}

void frame_pool_fini(struct frame_pool *pool)
{
    AMS_ASSERT(pool->in_use == 0);
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++)
        pool_shrink(pool, class_, pool->free_count[class_]);
    slab_fini(&pool->refs);
}

/* Gives back what is to go of a class: TRIM_STEP at a time, as others may wait for the lock. */
static void trim_class(struct frame_pool *pool, enum frame_class class_, bool all)
{
    pool_lock(pool);
    uint32_t count = pool->free_count[class_], stock = frame_stock[class_];
    uint32_t excess = count > stock ? count - stock : 0;
    uint32_t left = all ? excess : (excess + 3) / 4;
    while (left && pool->free_count[class_]) {
        uint32_t step = ams_min_u32(ams_min_u32(left, TRIM_STEP), pool->free_count[class_]);
        pool_shrink(pool, class_, step);
        left -= step;
        pool_unlock(pool);
        pool_lock(pool);
    }
    pool_unlock(pool);
}

void frame_pool_trim(struct frame_pool *pool, bool all)
{
    for (int class_ = 0; class_ < FRAME_CLASSES; class_++)
        trim_class(pool, class_, all);
    pool_lock(pool);
    slab_trim(&pool->refs, all);
    pool_unlock(pool);
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
        frame = frame_alloc(pool, class_);
        if (!frame) {
            pool->failures++;
            pool_unlock(pool);
            return NULL;
        }
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
    pool_lock(pool);
    AMS_ASSERT(pool->in_use > 0);
    pool->in_use--;
    if (AMS_LIKELY(pool->free_count[class_] < frame_keep[class_])) {
        frame->next = pool->free_list[class_];
        pool->free_list[class_] = frame;
        pool->free_count[class_]++;
    } else {
        frame_dealloc(pool, frame, class_);
    }
    pool_unlock(pool);
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
