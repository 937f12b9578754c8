/* SPDX-License-Identifier: BSD-2-Clause
 *
 * alloc.h - where all of native/ gets its memory.
 *
 * One seam for the fail-nth-allocation tests: when native/ is compiled with
 * AMS_TEST_ALLOC, the test program supplies ams_test_fail_alloc(), and an
 * allocation for which that returns true fails.
 */
#ifndef AMS_CORE_ALLOC_H
#define AMS_CORE_ALLOC_H

#include <stdlib.h>

#ifdef AMS_TEST_ALLOC
#include <stdbool.h>
bool ams_test_fail_alloc(void);
#define ALLOC_FAILS() ams_test_fail_alloc()
#else
#define ALLOC_FAILS() 0
#endif

/* malloc, or NULL. */
static inline void *mem_alloc(size_t size) { return ALLOC_FAILS() ? NULL : malloc(size); }
/* calloc, or NULL. */
static inline void *mem_zalloc(size_t count, size_t size) { return ALLOC_FAILS() ? NULL : calloc(count, size); }
/* realloc, or NULL with ptr untouched. */
static inline void *mem_realloc(void *ptr, size_t size) { return ALLOC_FAILS() ? NULL : realloc(ptr, size); }
/* Uninitialised memory on a boundary (a power of two), or NULL. */
static inline void *mem_aligned(size_t alignment, size_t size)
{
    return ALLOC_FAILS() ? NULL : aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
static inline void mem_free(void *ptr) { free(ptr); }

#endif
