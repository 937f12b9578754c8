/* SPDX-License-Identifier: BSD-2-Clause
 *
 * reass.h - reassembly of fragments.
 */
#ifndef AMS_STACK_REASS_H
#define AMS_STACK_REASS_H

#include "stack/stack.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"

/* Takes a fragment, its window cut to the packet; delivers the datagram when
 * it is complete.  Consumes frame. */
void reass_input4(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip,
                  const struct ipv4_repr *repr, uint64_t now);
/* The same for IPv6; walk stands on the fragment header. */
void reass_input6(struct ams_stack *stack, struct ams_frame *frame, struct ip_info *ip, const struct ipv6_walk *walk,
                  uint64_t now);
/* Bytes that the table holds, frames not counted. */
uint64_t reass_memory(const struct ams_stack *stack);

#endif
