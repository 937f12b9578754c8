/* SPDX-License-Identifier: BSD-2-Clause
 *
 * pages.h - what systems do differently with memory.
 */
#ifndef AMS_IO_PAGES_H
#define AMS_IO_PAGES_H

#include <stddef.h>

/* Maps a memfd, all of it, for reading and writing, with the pages of its first
 * `ready` bytes in place so that nobody waits for a page fault later, and large ones where the system
 * has them to give and they fit: with hundreds of regions the CPU's memory of
 * where pages are holds the large ones only.
 * Return: the address, NULL with errno set.  Undone by munmap(). */
void *pages_map(int fd, size_t size, size_t ready);

/* Frees the pages of a shared mapping for everybody who maps them; they read
 * as zeros.  Where a system can't, they stay until all have unmapped them. */
void pages_discard(void *base, size_t size);

/* Says that private memory is in use for good: it may move into large pages.
 * Needs no success.
 * @base, @size: multiples of a large page */
void pages_settle(void *base, size_t size);

#endif
