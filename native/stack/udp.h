/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.h - what the rest of the stack knows of UDP, besides stack.h.
 */
#ifndef AMS_STACK_UDP_H
#define AMS_STACK_UDP_H

#include "stack/stack.h"

/* Bytes that UDP's tables and endpoints hold, frames not counted. */
uint64_t udp_memory(const struct ams_stack *stack);

#endif
