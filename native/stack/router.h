/* SPDX-License-Identifier: BSD-2-Clause
 *
 * router.h - what is learnt from routers: themselves, prefixes, addresses,
 * better first hops.
 */
#ifndef AMS_STACK_ROUTER_H
#define AMS_STACK_ROUTER_H

#include "stack/iface.h"
#include "stack/stack.h"
#include "wire/router.h"

/* What a stack remembers at most; more is not listened to. */
#define ROUTER_LIMIT 8u            /* RFC 4861 section 6.3.4 wants two */
#define ROUTER_PREFIXES 16u        /* that are on the link */

struct router {
    uint8_t ip[16];                /* link-local */
    uint64_t expires;              /* 0: the place is free */
    uint64_t failed_at;            /* it did not answer then; 0: nothing is known against it */
    int8_t preference;
};

struct router_link_prefix {
    uint8_t prefix[16];
    uint8_t length;
    uint64_t expires;              /* 0: the place is free; UINT64_MAX: never */
};

/* An address made of a prefix (RFC 4862). */
struct router_address {
    uint8_t prefix[16];
    struct iface_addr *addr;       /* NULL: none yet, or a duplicate */
    uint64_t valid_until;          /* 0: the place is free; UINT64_MAX: for ever */
    uint64_t preferred_until;
    uint64_t retry_at;             /* with addr NULL: when the next one is tried */
    uint8_t tries;                 /* addresses that were duplicates: RFC 7217's DAD_Counter */
};

struct router_table {
    struct ams_timer timer;        /* the earliest of all that is due */
    struct router routers[ROUTER_LIMIT];
    struct router_link_prefix prefixes[ROUTER_PREFIXES];
    struct router_address addresses[IFACE_LEARNED];
    uint64_t solicit_at;           /* UINT64_MAX: no more */
    uint64_t solicit_interval;
    uint32_t solicits;             /* sent since the search began */
    bool heard;                    /* a router has advertised itself, at any time */
};

int router_init(struct ams_stack *stack);
void router_fini(struct ams_stack *stack);
/* Begins to look for routers. */
void router_start(struct ams_stack *stack, uint64_t now);
void router_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
/* A received router advertisement, its checksum verified. */
void router_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now);

/* The default router to use; NULL if none is known. */
const struct router *router_default(const struct ams_stack *stack);
/* True if ip is a default router that was learnt. */
bool router_known(const struct ams_stack *stack, const uint8_t ip[16]);
/* A next hop did not answer: another one is taken, where there is one.
 * Return: true if ip was a learnt router or the target of a redirect. */
bool router_failed(struct ams_stack *stack, const uint8_t ip[16], uint64_t now);
/* It did answer. */
void router_answered(struct ams_stack *stack, const uint8_t ip[16]);
/* It says that it is a router no longer (RFC 4861 section 7.2.5). */
void router_resigned(struct ams_stack *stack, const uint8_t ip[16], uint64_t now);
/* Arms the timer for what is due next. */
void router_reschedule(struct ams_stack *stack);
uint64_t router_memory(const struct ams_stack *stack);

/* ---- router_prefix.c --------------------------------------------------------- */

/* True if ip lies in a prefix that a router said is on the link. */
bool router_on_link(const struct ams_stack *stack, const uint8_t ip[16]);
/* Takes in a prefix.
 * @spread: to all hosts of the link at once: their probes should not be */
void router_prefix_learn(struct ams_stack *stack, const struct router_prefix *prefix, bool spread, uint64_t now);
/* Lets go of what has expired, and tries again what is to be tried. */
void router_prefix_expire(struct ams_stack *stack, uint64_t now);
/* When router_prefix_expire() has something to do; UINT64_MAX: never. */
uint64_t router_prefix_due(const struct ams_stack *stack);
/* A learnt address that was being probed is somebody else's. */
void router_address_conflict(struct ams_stack *stack, struct iface_addr *addr, uint64_t now);
/* The entry that an address belongs to, or NULL. */
const struct router_address *router_address_of(const struct ams_stack *stack, const struct iface_addr *addr);

/* ---- redirect.c ----------------------------------------------------------------- */

int redirect_init(struct ams_stack *stack);
void redirect_fini(struct ams_stack *stack);
void redirect_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now);
/* A received redirect of either family, its checksum verified. */
void redirect_input(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
/* Where dst was redirected to.
 * @next: result
 * Return: false if it was not. */
bool redirect_next_hop(const struct ams_stack *stack, const uint8_t dst[16], uint8_t next[16]);
/* Forgets all that was redirected to ip.  Return: true if there was any. */
bool redirect_forget(struct ams_stack *stack, const uint8_t ip[16]);
/* Lists what is redirected, as ams_stack_network() does, into out[0..max).
 * Return: how many there are. */
int redirect_list(const struct ams_stack *stack, struct ams_net_info *out, int max);
uint64_t redirect_memory(const struct ams_stack *stack);

#endif
