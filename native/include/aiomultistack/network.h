/* SPDX-License-Identifier: BSD-2-Clause
 *
 * network.h - what a stack has learnt of its network.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_NETWORK_H
#define AIOMULTISTACK_NETWORK_H

#include "stack.h"

/* CFFI-BEGIN */

/* ---- addresses, routers, prefixes --------------------------------------- */

/* What a stack knows of its network. */
#define AMS_NET_ADDRESS 1      /* an address of its own */
#define AMS_NET_PREFIX 2       /* a prefix whose addresses are on this link */
#define AMS_NET_ROUTER 3       /* a default router */
#define AMS_NET_REDIRECT 4     /* a destination with a better first hop than that */

#define AMS_NET_LEARNED 1      /* from a router, not from the configuration */
#define AMS_NET_TENTATIVE 2    /* address: being checked for duplicates */
#define AMS_NET_DUPLICATE 4    /* address: somebody else has it */
#define AMS_NET_DEPRECATED 8   /* address: good, but not chosen if there is another */
#define AMS_NET_INVALID 16     /* address: no longer ours, but an endpoint is bound to it */
#define AMS_NET_CURRENT 32     /* router: the one that packets go to */
#define AMS_NET_UNREACHABLE 64 /* router: it does not answer */

struct ams_net_info {
    uint8_t kind;           /* AMS_NET_ADDRESS to AMS_NET_REDIRECT */
    int8_t preference;      /* router: 1 high, 0 medium, -1 low (RFC 4191) */
    uint16_t flags;         /* AMS_NET_LEARNED on */
    uint32_t reserved;
    struct ams_ifaddr address;
    struct ams_endpoint via; /* redirect: the next hop; family 0 for others */
    uint64_t valid;         /* ns that are left of it; AMS_NEVER: for ever */
    uint64_t preferred;     /* address: ns until it is deprecated */
};
/* Lists it into out[0..max); returns how many there are. */
int ams_stack_network(struct ams_stack *stack, struct ams_net_info *out, int max, uint64_t now);

#define AMS_AUTOCONF_OFF 0     /* nothing is learnt */
#define AMS_AUTOCONF_WAITING 1 /* no IPv6 address but link-local ones: no router has answered, or it is being checked */
#define AMS_AUTOCONF_DONE 2    /* there is one, or it does not look as if there would be */
/* How far the stack is with learning its addresses. */
int ams_stack_autoconf(struct ams_stack *stack, uint64_t now);

/* CFFI-END */

#endif
