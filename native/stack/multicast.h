/* SPDX-License-Identifier: BSD-2-Clause
 *
 * multicast.h - multicast groups that the stack is in.
 */
#ifndef AMS_STACK_MULTICAST_H
#define AMS_STACK_MULTICAST_H

#include "stack/stack.h"

/* Groups that a stack may be in. */
#define MULTICAST_LIMIT 1024u

/* Joins a group once more; it takes as many multicast_leave() to be out of it.
 * Return: 0, -AMS_EINVAL (no group), -AMS_ENOBUFS (too many), -AMS_ENOMEM. */
int multicast_join(struct ams_stack *stack, const uint8_t ip[16], uint64_t now);
void multicast_leave(struct ams_stack *stack, const uint8_t ip[16], uint64_t now);
/* True if a group was joined. */
bool multicast_joined(const struct ams_stack *stack, const uint8_t ip[16]);
/* A received IGMP message, or MLD query whose checksum was verified. */
void multicast_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
/* Bytes that the table holds. */
uint64_t multicast_memory(const struct ams_stack *stack);

#endif
