/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/slab.h"

#include <string.h>

#include "core/alloc.h"

struct slab_unit {
    struct slab_unit *next, *prev; /* in the list of units that have room */
    void *freed;                   /* objects given back, linked through their first word */
    struct slab_unit *block;       /* first unit of the allocation that this one is part of */
    uint16_t used;                 /* objects */
    uint16_t fresh;                /* objects that have been in use so far: memory behind them is untouched */
    /* of a block, in its first unit */
    uint16_t n_units;
    uint16_t started;              /* units */
    uint16_t live;                 /* units with objects */
    struct slab_unit *block_next, *block_prev;
};

_Static_assert(sizeof(struct slab_unit) <= AMS_CACHE_LINE, "a unit's header is one cache line");

void slab_init(struct slab *slab, size_t size, slab_settle settle)
{
    memset(slab, 0, sizeof(*slab));
    slab->size = (uint32_t)((size + AMS_CACHE_LINE - 1) / AMS_CACHE_LINE * AMS_CACHE_LINE);
    slab->per_unit = (SLAB_UNIT - AMS_CACHE_LINE) / slab->size;
    slab->settle = settle;
    AMS_ASSERT(slab->per_unit > 0);
}

/* ---- the list of units that have room ----------------------------------------------- */

static void room_push_front(struct slab *slab, struct slab_unit *unit)
{
    unit->prev = NULL;
    unit->next = slab->head;
    if (slab->head)
        slab->head->prev = unit;
    else
        slab->tail = unit;
    slab->head = unit;
}

static void room_push_back(struct slab *slab, struct slab_unit *unit)
{
    unit->next = NULL;
    unit->prev = slab->tail;
    if (slab->tail)
        slab->tail->next = unit;
    else
        slab->head = unit;
    slab->tail = unit;
}

static void room_remove(struct slab *slab, struct slab_unit *unit)
{
    if (unit->prev)
        unit->prev->next = unit->next;
    else
        slab->head = unit->next;
    if (unit->next)
        unit->next->prev = unit->prev;
    else
        slab->tail = unit->prev;
}

/* ---- blocks ------------------------------------------------------------------------------ */

/* Allocates a unit, or a region of them.  Return: its first unit, no unit
 * started; NULL without memory.  Owns: the slab. */
static struct slab_unit *block_new(struct slab *slab)
{
    uint16_t n_units = slab->n_units < SLAB_SINGLES ? 1 : SLAB_REGION_UNITS;
    size_t size = (size_t)n_units * SLAB_UNIT;
    struct slab_unit *block = mem_aligned(size, size);
    if (!block)
        return NULL;
    memset(block, 0, sizeof(*block));
    block->n_units = n_units;
    block->block_next = slab->blocks;
    if (slab->blocks)
        slab->blocks->block_prev = block;
    slab->blocks = block;
    slab->n_units += n_units;
    slab->n_idle++;
    return block;
}

/* Gives a block without objects back. */
static void block_free(struct slab *slab, struct slab_unit *block)
{
    for (uint32_t i = 0; i < block->started; i++) {
        struct slab_unit *unit = (struct slab_unit *)((char *)block + (size_t)i * SLAB_UNIT);
        AMS_ASSERT(unit->used == 0);
        room_remove(slab, unit);
        slab->bytes -= AMS_CACHE_LINE + (uint64_t)unit->fresh * slab->size;
    }
    if (block->block_prev)
        block->block_prev->block_next = block->block_next;
    else
        slab->blocks = block->block_next;
    if (block->block_next)
        block->block_next->block_prev = block->block_prev;
    if (slab->filling == block)
        slab->filling = NULL;
    slab->n_units -= block->n_units;
    slab->n_idle--;
    mem_free(block);
}

/* Makes one more unit ready for use.  Return: false without memory. */
static bool unit_start(struct slab *slab)
{
    struct slab_unit *block = slab->filling;
    if (!block)
        slab->filling = block = block_new(slab);
    if (!block)
        return false;
    struct slab_unit *unit = (struct slab_unit *)((char *)block + (size_t)block->started * SLAB_UNIT);
    if (unit != block)
        memset(unit, 0, sizeof(*unit));
    unit->block = block;
    room_push_back(slab, unit);
    slab->bytes += AMS_CACHE_LINE;
    if (++block->started == block->n_units) {
        slab->filling = NULL;
        if (block->n_units > 1 && slab->settle)
            slab->settle(block, SLAB_REGION);
    }
    return true;
}

void slab_fini(struct slab *slab)
{
    AMS_ASSERT(slab->used == 0);
    slab_trim(slab, true);
}

void slab_trim(struct slab *slab, bool all)
{
    uint32_t left = all ? slab->n_idle : (slab->n_idle + 3) / 4;
    for (struct slab_unit *block = slab->blocks; block && left;) {
        struct slab_unit *next = block->block_next;
        if (!block->live) {
            block_free(slab, block);
            left--;
        }
        block = next;
    }
}

/* ---- objects ------------------------------------------------------------------------------- */

void *slab_new(struct slab *slab)
{
    if (AMS_UNLIKELY(!slab->head) && !unit_start(slab))
        return NULL;
    struct slab_unit *unit = slab->head;
    void *object = unit->freed;
    if (object) {
        memcpy(&unit->freed, object, sizeof(unit->freed));
    } else {
        object = (char *)unit + AMS_CACHE_LINE + (size_t)unit->fresh++ * slab->size;
        slab->bytes += slab->size;
    }
    if (unit->used++ == 0 && unit->block->live++ == 0)
        slab->n_idle--;
    if (unit->used == slab->per_unit)
        room_remove(slab, unit);
    slab->used++;
    return object;
}

void slab_free(struct slab *slab, void *object)
{
    struct slab_unit *unit = (struct slab_unit *)((uintptr_t)object & ~(uintptr_t)(SLAB_UNIT - 1));
    if (unit->used == slab->per_unit)
        room_push_front(slab, unit);
    memcpy(object, &unit->freed, sizeof(unit->freed));
    unit->freed = object;
    slab->used--;
    if (--unit->used)
        return;
    room_remove(slab, unit);
    room_push_back(slab, unit);
    if (--unit->block->live == 0)
        slab->n_idle++;
}
