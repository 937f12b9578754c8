/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_slab.c - objects of one size in few pages.
 */
#include "check.h"

#include "core/hash.h"
#include "core/slab.h"

#define SIZE 952u                /* rounded up: 15 cache lines, 68 objects in a unit */
#define PER_UNIT 68u
#define SINGLES (SLAB_SINGLES * PER_UNIT)
#define PER_REGION (SLAB_REGION_UNITS * PER_UNIT)
#define OBJECTS 12000u

/* What `settle` was told. */
static struct {
    unsigned calls;
    uintptr_t base;
    size_t size;
} settled;

static void settle(void *base, size_t size)
{
    settled.calls++;
    settled.base = (uintptr_t)base;
    settled.size = size;
}

/* Marks all bytes of an object. */
static void *object_new(struct slab *slab, unsigned mark)
{
    uint8_t *object = slab_new(slab);
    if (object)
        memset(object, (int)(mark & 0xff), SIZE);
    return object;
}

static bool object_is(const uint8_t *object, unsigned mark)
{
    for (unsigned i = 0; i < SIZE; i++)
        if (object[i] != (uint8_t)mark)
            return false;
    return true;
}

/* Objects lie on cache lines of their own; the books count what was needed. */
static void test_objects(void)
{
    struct slab slab;
    void *objects[PER_UNIT + 1];
    slab_init(&slab, SIZE, NULL);
    CHECK_EQ(slab.size, 960);
    CHECK_EQ(slab.per_unit, PER_UNIT);
    CHECK_EQ(slab.bytes, 0);
    for (unsigned i = 0; i <= PER_UNIT; i++) {
        objects[i] = object_new(&slab, i);
        CHECK_EQ((uintptr_t)objects[i] % AMS_CACHE_LINE, 0);
        CHECK_EQ(slab.bytes, (i + 1) * 960 + (i / PER_UNIT + 1) * AMS_CACHE_LINE);
    }
    for (unsigned i = 0; i <= PER_UNIT; i++)
        CHECK(object_is(objects[i], i));
    CHECK_EQ(slab.used, PER_UNIT + 1);
    uint64_t bytes = slab.bytes;
    slab_free(&slab, objects[3]);
    CHECK(slab_new(&slab) == objects[3]); /* used again first, for nothing */
    CHECK_EQ(slab.bytes, bytes);
    for (unsigned i = 0; i <= PER_UNIT; i++)
        slab_free(&slab, objects[i]);
    CHECK_EQ(slab.bytes, bytes);
    slab_trim(&slab, false); /* a quarter of two blocks is one */
    CHECK(slab.bytes > 0 && slab.bytes < bytes);
    slab_trim(&slab, false);
    CHECK_EQ(slab.bytes, 0);
    slab_fini(&slab);
}

/* Random use against a plain array: no object is given out twice, none changes
 * in anybody else's hands, and in the end there is no memory left. */
static void against_array(uint64_t seed)
{
    static void *objects[OBJECTS];
    struct slab slab;
    struct ams_rng rng;
    unsigned used = 0;
    rng_init(&rng, seed, 4);
    memset(objects, 0, sizeof(objects));
    slab_init(&slab, SIZE, NULL);
    for (unsigned phase = 0; phase < 8; phase++) {
        unsigned chance = phase % 2 ? 20 : 80; /* it grows, it shrinks */
        for (unsigned step = 0; step < 15000; step++) {
            unsigned i = rng_below(&rng, OBJECTS);
            if (!objects[i] && rng_below(&rng, 100) < chance) {
                objects[i] = object_new(&slab, i);
                CHECK(objects[i] != NULL);
                used++;
            } else if (objects[i] && rng_below(&rng, 100) >= chance) {
                CHECK(object_is(objects[i], i));
                slab_free(&slab, objects[i]);
                objects[i] = NULL;
                used--;
            }
            CHECK_EQ(slab.used, used);
            if (rng_below(&rng, 2000) == 0)
                slab_trim(&slab, rng_below(&rng, 2));
        }
    }
    for (unsigned i = 0; i < OBJECTS; i++)
        if (objects[i]) {
            CHECK(object_is(objects[i], i));
            slab_free(&slab, objects[i]);
        }
    slab_trim(&slab, true);
    CHECK_EQ(slab.bytes, 0);
    CHECK_EQ(slab.n_units, 0);
    CHECK_EQ(slab.n_idle, 0);
    slab_fini(&slab);
}

static void test_against_array(void)
{
    for (uint64_t seed = 1; seed <= 3; seed++)
        against_array(seed);
}

/* Few objects take single units; a region is settled once, when it is in use. */
static void test_regions(void)
{
    static void *objects[SINGLES + 2 * PER_REGION];
    struct slab slab;
    memset(&settled, 0, sizeof(settled));
    slab_init(&slab, SIZE, settle);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(objects); i++) {
        objects[i] = slab_new(&slab);
        CHECK(objects[i] != NULL);
        /* its last unit begins with the first object beyond 31 units */
        unsigned expected = i < SINGLES ? 0 : (i - SINGLES + PER_UNIT) / PER_REGION;
        CHECK_EQ(settled.calls, expected);
    }
    CHECK_EQ(settled.size, SLAB_REGION);
    CHECK_EQ(settled.base % SLAB_REGION, 0);
    CHECK_EQ(slab.n_units, SLAB_SINGLES + 2 * SLAB_REGION_UNITS);
    /* 1/250 for headers */
    CHECK(slab.bytes < AMS_ARRAY_SIZE(objects) * 964);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(objects); i++)
        if (i != SINGLES) /* one that keeps its region */
            slab_free(&slab, objects[i]);
    slab_trim(&slab, true);
    CHECK_EQ(slab.n_units, SLAB_REGION_UNITS);
    slab_free(&slab, objects[SINGLES]);
    slab_fini(&slab);
    CHECK_EQ(slab.bytes, 0);
}

/* What is left of a region, when others are empty, is used before they are. */
static void test_the_fullest_first(void)
{
    static void *objects[4 * PER_UNIT];
    struct slab slab;
    slab_init(&slab, SIZE, NULL);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(objects); i++)
        objects[i] = slab_new(&slab);
    for (unsigned i = 0; i < AMS_ARRAY_SIZE(objects); i++)
        if (i != 2 * PER_UNIT) /* the third unit keeps one */
            slab_free(&slab, objects[i]);
    CHECK_EQ(slab.n_idle, 3);
    for (unsigned i = 1; i < PER_UNIT; i++) {
        objects[i] = slab_new(&slab);
        CHECK_EQ((uintptr_t)objects[i] / SLAB_UNIT, (uintptr_t)objects[2 * PER_UNIT] / SLAB_UNIT);
    }
    CHECK_EQ(slab.n_idle, 3);
    for (unsigned i = 1; i < PER_UNIT; i++)
        slab_free(&slab, objects[i]);
    slab_free(&slab, objects[2 * PER_UNIT]);
    slab_fini(&slab);
}

/* Takes more objects than single units hold.  Return: true if there was memory for all. */
static bool take_many(void)
{
    static void *objects[SINGLES + 1];
    struct slab slab;
    unsigned count = 0;
    slab_init(&slab, SIZE, NULL);
    while (count < AMS_ARRAY_SIZE(objects) && (objects[count] = object_new(&slab, count)) != NULL)
        count++;
    CHECK_EQ(slab.used, count);
    for (unsigned i = 0; i < count; i++) {
        CHECK(object_is(objects[i], i));
        slab_free(&slab, objects[i]);
    }
    slab_fini(&slab);
    return count == AMS_ARRAY_SIZE(objects);
}

/* Without memory there is no object, and those that are there stay. */
static void test_no_memory(void)
{
    CHECK_EQ(check_every_allocation(take_many), SLAB_SINGLES + 1);
}

int main(void)
{
    RUN(test_objects);
    RUN(test_against_array);
    RUN(test_regions);
    RUN(test_the_fullest_first);
    RUN(test_no_memory);
    return check_report();
}
