/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch/tuple.h"

#include "core/alloc.h"
#include "core/status.h"

#define TUPLE_SLOTS_MIN 64u
#define TUPLE_SLOTS_MAX (1u << 30)

_Static_assert(sizeof(struct switch_tuple) == 20, "a tuple is compared and hashed as 20 bytes without padding");
_Static_assert(sizeof(struct tuple_slot) == 32, "two slots to a cache line");

int tuple_table_init(struct tuple_table *table, const uint64_t seed[2], uint32_t capacity)
{
    uint32_t slots = TUPLE_SLOTS_MIN;

    memset(table, 0, sizeof(*table));
    while (slots / 2 < capacity && slots < TUPLE_SLOTS_MAX)
        slots *= 2;
    table->slots = mem_zalloc(slots, sizeof(*table->slots));
    if (!table->slots)
        return -AMS_ENOMEM;
    table->mask = slots - 1;
    table->secret[0] = seed[0];
    table->secret[1] = seed[1];
    return 0;
}

void tuple_table_fini(struct tuple_table *table)
{
    mem_free(table->slots);
    table->slots = NULL;
    table->used = 0;
}

/* Puts a slot where its hash says, in a table known to have room. */
static void tuple_place(struct tuple_table *table, const struct tuple_slot *slot)
{
    uint32_t i = slot->hash & table->mask;
    while (table->slots[i].refs)
        i = (i + 1) & table->mask;
    table->slots[i] = *slot;
}

/* Doubles the table.  Return: 0, -AMS_ENOMEM. */
static int tuple_grow(struct tuple_table *table)
{
    struct tuple_slot *old = table->slots;
    uint32_t old_slots = table->mask + 1;

    if (old_slots >= TUPLE_SLOTS_MAX)
        return -AMS_ENOMEM;
    struct tuple_slot *slots = mem_zalloc((size_t)old_slots * 2, sizeof(*slots));
    if (!slots)
        return -AMS_ENOMEM;
    table->slots = slots;
    table->mask = old_slots * 2 - 1;
    for (uint32_t i = 0; i < old_slots; i++) {
        if (old[i].refs)
            tuple_place(table, &old[i]);
    }
    mem_free(old);
    return 0;
}

int tuple_insert(struct tuple_table *table, const struct switch_tuple *tuple, uint16_t owner, uint16_t group)
{
    if (table->used >= (table->mask + 1) / 2) {
        int status = tuple_grow(table);
        if (status)
            return status;
    }
    struct tuple_slot slot = {.tuple = *tuple, .hash = tuple_hash(table, tuple), .refs = 1, .owner = owner,
                              .group = group};
    tuple_place(table, &slot);
    table->used++;
    return 0;
}

void tuple_remove(struct tuple_table *table, struct tuple_slot *slot)
{
    uint32_t hole = (uint32_t)(slot - table->slots), i = hole;

    AMS_ASSERT(hole <= table->mask && slot->refs);
    /* Shift back each later slot of the run that may live at the hole. */
    for (;;) {
        i = (i + 1) & table->mask;
        if (!table->slots[i].refs)
            break;
        uint32_t home = table->slots[i].hash & table->mask;
        if (((i - home) & table->mask) >= ((i - hole) & table->mask)) {
            table->slots[hole] = table->slots[i];
            hole = i;
        }
    }
    memset(&table->slots[hole], 0, sizeof(table->slots[hole]));
    table->used--;
}
