/* SPDX-License-Identifier: BSD-2-Clause
 *
 * pages.h - what systems do differently with memory.
 */
#ifndef AMS_IO_PAGES_H
#define AMS_IO_PAGES_H

#include <stddef.h>

/* Frees the pages of a shared mapping for everybody who maps them; they read
 * as zeros.  Where a system can't, they stay until all have unmapped them. */
void pages_discard(void *base, size_t size);

#endif
