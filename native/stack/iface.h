/* SPDX-License-Identifier: BSD-2-Clause
 *
 * iface.h - the stack's own addresses, as the network layer sees them.
 */
#ifndef AMS_STACK_IFACE_H
#define AMS_STACK_IFACE_H

#include "stack/stack.h"

/* What an address may be used for.  Only IFACE_USABLE answers and sends;
 * IFACE_TENTATIVE is being checked (RFC 4862 section 5.4) and may be bound
 * to; IFACE_DUPLICATE belongs to somebody else and is as if it were absent. */
enum iface_state { IFACE_TENTATIVE, IFACE_USABLE, IFACE_DUPLICATE };

struct iface_addr {
    uint8_t ip[16];
    uint8_t family;
    uint8_t state;            /* enum iface_state */
    uint8_t prefix_len;       /* of the 16-byte form: 96 more for IPv4 */
    uint32_t broadcast;       /* of its IPv4 subnet; 0: none */
    struct ams_timer timer;   /* duplicate address detection */
    struct ams_stack *stack;
};

struct iface_table {
    struct iface_addr *addrs;
    uint32_t n_addrs;
    uint32_t slot_mask;
    uint16_t *slots;          /* open addressing: index into addrs + 1; 0: empty */
    uint64_t defended_at;     /* last answer to an IPv4 address conflict */
};

/* The address entry of ip, whatever its state; NULL: not ours. */
struct iface_addr *iface_find(const struct ams_stack *stack, const uint8_t ip[16]);
/* True if the stack may bind to ip: ours, and not found to be a duplicate. */
bool iface_may_bind(const struct ams_stack *stack, const uint8_t ip[16]);
/* True if ip lies in a prefix of ours, or is link-local. */
bool iface_on_link(const struct ams_stack *stack, const uint8_t ip[16]);
/* True for 255.255.255.255 and the broadcast addresses of our subnets. */
bool iface_is_broadcast(const struct ams_stack *stack, const uint8_t ip[16]);
/* True for the groups that we are in: all nodes, the solicited-node groups
 * of our addresses, and what was joined (multicast.h). */
bool iface_in_group(const struct ams_stack *stack, const uint8_t ip[16]);
/* True if the stack has an address of that family that is no duplicate. */
bool iface_has_family(const struct ams_stack *stack, uint8_t family);
/* Begins to use the addresses: announces those that are usable, and starts
 * duplicate address detection for the others. */
void iface_start(struct ams_stack *stack, uint64_t now);
/* Another host uses, or wants to use, an address of ours. */
void iface_conflict(struct ams_stack *stack, struct iface_addr *addr, uint64_t now);

#endif
