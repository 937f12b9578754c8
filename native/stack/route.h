/* SPDX-License-Identifier: BSD-2-Clause
 *
 * route.h - next hops and path MTUs.
 */
#ifndef AMS_STACK_ROUTE_H
#define AMS_STACK_ROUTE_H

#include "stack/stack.h"

enum route_kind {
    ROUTE_UNICAST,   /* to a neighbour, perhaps the gateway */
    ROUTE_GROUP,     /* broadcast or multicast: the MAC follows from the address */
    ROUTE_LOOP,      /* to ourselves */
    ROUTE_HAIRPIN,   /* to an address of ours that others have too: STACK_LINK_HAIRPIN */
};

/* Finds the next hop.
 * @next: whom to resolve; for groups and ourselves, dst itself
 * Return: 0, -AMS_ENETUNREACH, -AMS_EAFNOSUPPORT (no address of that family). */
int route_next_hop(const struct ams_stack *stack, const uint8_t dst[16], uint8_t next[16], enum route_kind *kind);
/* The path MTU to dst: what was learnt, else the link's. */
uint32_t route_mtu(const struct ams_stack *stack, const uint8_t dst[16]);
/* True if ip is a gateway: its neighbour entry stays. */
bool route_is_gateway(const struct ams_stack *stack, const uint8_t ip[16]);

#endif
