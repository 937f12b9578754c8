/* SPDX-License-Identifier: BSD-2-Clause
 *
 * base.h - small things that every room uses.
 */
#ifndef AMS_CORE_BASE_H
#define AMS_CORE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AMS_LIKELY(x) __builtin_expect(!!(x), 1)
#define AMS_UNLIKELY(x) __builtin_expect(!!(x), 0)
/* Asks for the cache line at p.  The empty statement keeps compilers from
 * leaving out functions that do nothing else (GCC takes them for pure ones). */
#define AMS_PREFETCH(p)         \
    do {                        \
        __builtin_prefetch(p);  \
        __asm__ volatile("");   \
    } while (0)
/* Asks for the line to be had in the second-level cache: one of many that are
 * needed a little later, more than the first level can wait for at a time. */
#define AMS_PREFETCH_FAR(p)          \
    do {                             \
        __builtin_prefetch(p, 0, 2); \
        __asm__ volatile("");        \
    } while (0)
/* Asks for a line that will be written, also if another core has it.  On x86-64
 * compilers do that only where they are told that the processor can; those
 * that can't take the instruction for none. */
#if defined(__x86_64__)
#define AMS_PREFETCH_WRITE(p) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(p)))
#else
#define AMS_PREFETCH_WRITE(p) __builtin_prefetch((p), 1)
#endif
#define AMS_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define AMS_CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
#define AMS_CACHE_LINE 64

#define AMS_NS_PER_US 1000ull
#define AMS_NS_PER_MS 1000000ull
#define AMS_NS_PER_S 1000000000ull

/* A check for programmer errors that survives release builds: traps. */
#define AMS_ASSERT(condition)          \
    do {                               \
        if (AMS_UNLIKELY(!(condition))) \
            __builtin_trap();          \
    } while (0)

static inline uint32_t ams_min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t ams_max_u32(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline uint64_t ams_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t ams_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

#endif
