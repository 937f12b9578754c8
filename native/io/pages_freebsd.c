/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/pages.h"

/* There is no such call for shared memory before FreeBSD 14 (fspacectl(2)). */
void pages_discard(void *base, size_t size)
{
    (void)base, (void)size;
}
