/* SPDX-License-Identifier: BSD-2-Clause
 *
 * slab.h - many objects of one size, each on cache lines of its own.
 *
 * Theory of operation.  Objects are cut out of *units* of SLAB_UNIT bytes,
 * which begin at a multiple of that, so that an object's unit is found by its
 * address.  A unit starts with a header of one cache line; an object's size is
 * rounded up to whole lines.  An odd number of them is best: then the same
 * line of all objects is spread over all sets of a cache.
 *
 * The first units are allocated one by one; once there are SLAB_SINGLES, they
 * come from *regions* of SLAB_REGION bytes, as large as a large page.  When all
 * units of a region are in use, `settle` is told, which may have the system
 * put the region into one large page.  Not before, so that memory which no
 * object has needed costs nothing.
 *
 * What was freed is used again first.  Units and regions without objects stay
 * until slab_trim() gives them back.
 */
#ifndef AMS_CORE_SLAB_H
#define AMS_CORE_SLAB_H

#include "core/base.h"

#define SLAB_UNIT 65536u
#define SLAB_REGION_UNITS 32u
#define SLAB_REGION (SLAB_UNIT * SLAB_REGION_UNITS)
#define SLAB_SINGLES 8u

struct slab_unit;

/* Tells of memory that is in use for good.  May be NULL. */
typedef void (*slab_settle)(void *base, size_t size);

struct slab {
    uint32_t size;             /* of an object, rounded up */
    uint32_t per_unit;
    slab_settle settle;
    struct slab_unit *head, *tail; /* units that have room; those without objects come last */
    struct slab_unit *blocks;  /* what was allocated, linked through the first unit of each */
    struct slab_unit *filling; /* the region whose units aren't all started, NULL: none */
    uint32_t n_units;          /* allocated */
    uint32_t n_idle;           /* blocks without objects */
    uint32_t used;             /* objects */
    uint64_t bytes;            /* what objects have needed so far, and headers */
};

/* Prepares an empty slab for objects of so many bytes, at most a few KB. */
void slab_init(struct slab *slab, size_t size, slab_settle settle);
/* Frees all memory.  No object may be in use any more. */
void slab_fini(struct slab *slab);
/* Takes an object, uninitialised.  Return: NULL without memory.  Owns: the caller. */
void *slab_new(struct slab *slab);
/* Gives an object back. */
void slab_free(struct slab *slab, void *object);
/* Gives units and regions without objects back to the allocator.
 * @all: all of them; otherwise a quarter */
void slab_trim(struct slab *slab, bool all);

#endif
