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
/* IFACE_INVALID is an address that was learnt and whose lifetime has ended,
 * but that somebody is bound to; as if it were absent, too. */
enum iface_state { IFACE_TENTATIVE, IFACE_USABLE, IFACE_DUPLICATE, IFACE_INVALID };

/* Addresses that may be learnt (router_prefix.c). */
#define IFACE_LEARNED 16u

struct iface_addr {
    uint8_t ip[16];
    uint8_t family;           /* 0: the place is free */
    uint8_t state;            /* enum iface_state */
    uint8_t prefix_len;       /* of the 16-byte form: 96 more for IPv4 */
    bool learned;             /* from a router; its prefix need not be on the link */
    bool deprecated;          /* not to be chosen if there is another (RFC 4862 section 5.5.4) */
    bool probed;              /* its solicitation is out */
    bool joined;              /* the group that solicitations for it go to */
    uint32_t broadcast;       /* of its IPv4 subnet; 0: none */
    uint32_t claims;          /* of a learned one: tuples that endpoints have on it */
    struct ams_timer timer;   /* duplicate address detection */
    struct ams_stack *stack;
};

struct iface_table {
    struct iface_addr *addrs;
    uint32_t n_addrs;         /* free places among them */
    uint32_t capacity;
    uint32_t slot_mask;
    struct ams_owner owner;   /* the stack's, while iface.c counts claims */
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
/* The number of leading bits that two addresses share. */
unsigned iface_common_prefix(const uint8_t a[16], const uint8_t b[16]);
/* True if addresses may be learnt: asked for, and the link is ours alone. */
bool iface_autoconf(const struct ams_stack *stack);
/* Adds an IPv6 address that is to be probed first.
 * @delay: ns until it is
 * Return: NULL if there is no room, no memory, whoever serves addresses
 * refuses it, or it is ours already. */
struct iface_addr *iface_learn(struct ams_stack *stack, const uint8_t ip[16], unsigned prefix_len, uint64_t delay,
                               uint64_t now);
/* Removes a learned address, and ends the connections on it. */
void iface_forget(struct ams_stack *stack, struct iface_addr *addr, uint64_t now);
/* Joins the address's group and asks whether somebody has it. */
void iface_probe(struct ams_stack *stack, struct iface_addr *addr, uint64_t now);
/* Lets the stack's owner count what is claimed on learned addresses. */
void iface_count_claims(struct ams_stack *stack);
/* Makes the table of places anew (iface.c). */
void iface_rehash(struct iface_table *table);
/* Another host uses, or wants to use, an address of ours. */
void iface_conflict(struct ams_stack *stack, struct iface_addr *addr, uint64_t now);

#endif
