/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/pages.h"

#include <sys/mman.h>

void *pages_map(int fd, size_t size, size_t ready)
{
    (void)ready; /* what isn't there yet can't be mapped */
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ALIGNED_SUPER | MAP_PREFAULT_READ, fd, 0);

    return base == MAP_FAILED ? NULL : base;
}

/* Superpages come by themselves. */
void pages_settle(void *base, size_t size)
{
    (void)base, (void)size;
}

/* There is no such call for shared memory before FreeBSD 14 (fspacectl(2)). */
void pages_discard(void *base, size_t size)
{
    (void)base, (void)size;
}
