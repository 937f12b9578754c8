/* SPDX-License-Identifier: BSD-2-Clause */
#define _POSIX_C_SOURCE 200809L /* clock_gettime under -std=c11 */

#include <time.h>

#include "aiomultistack.h"
#include "core/base.h"

uint64_t ams_clock_now(void)
{
    struct timespec now;

    AMS_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * AMS_NS_PER_S + (uint64_t)now.tv_nsec;
}
