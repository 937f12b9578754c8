/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* madvise() and its advice under -std=c11 */

#include "io/pages.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>

#define PAGES_LARGE ((size_t)2 << 20) /* what transparent huge pages are on x86-64, and on arm64 with pages of 4 KB */
#define PAGES_SMALL 4096u
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23        /* Linux 5.14 */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25              /* Linux 6.1 */
#endif

/* Reserves addresses that begin at a multiple of PAGES_LARGE, as pages must
 * lie in memory as they lie in the file to be large.
 * Return: where; MAP_FAILED. */
static void *pages_reserve(size_t size)
{
    uint8_t *base = mmap(NULL, size + PAGES_LARGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED)
        return MAP_FAILED;
    size_t before = -(uintptr_t)base & (PAGES_LARGE - 1);
    size_t rounded = (size + PAGES_SMALL - 1) & ~(size_t)(PAGES_SMALL - 1);
    if (before)
        munmap(base, before);
    munmap(base + before + rounded, size + PAGES_LARGE - before - rounded);
    return base + before;
}

void *pages_map(int fd, size_t size, size_t ready)
{
    void *at = size >= PAGES_LARGE ? pages_reserve(size) : MAP_FAILED;
    bool large = at != MAP_FAILED;
    void *base = mmap(large ? at : NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | (large ? MAP_FIXED : 0), fd, 0);

    if (base == MAP_FAILED) {
        if (large)
            munmap(at, size);
        return NULL;
    }
    if (large)
        madvise(base, size, MADV_HUGEPAGE);
    if (madvise(base, ready, MADV_POPULATE_WRITE) < 0) {
        for (size_t i = 0; i < ready; i += PAGES_SMALL) /* a kernel that doesn't know it */
            (void)*((volatile const uint8_t *)base + i);
    }
    return base;
}

/* At once where the system can do that; otherwise it is left to khugepaged,
 * which takes its time. */
void pages_settle(void *base, size_t size)
{
    madvise(base, size, MADV_HUGEPAGE);
    madvise(base, size, MADV_COLLAPSE);
}

void pages_discard(void *base, size_t size)
{
    madvise(base, size, MADV_REMOVE);
}
