/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* MADV_REMOVE under -std=c11 */

#include "io/pages.h"

#include <sys/mman.h>

void pages_discard(void *base, size_t size)
{
    madvise(base, size, MADV_REMOVE);
}
