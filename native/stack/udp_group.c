/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp_group.c - UDP endpoints in multicast groups (RFC 1112, RFC 3493 section 5.2).
 *
 * Theory of operation.  An endpoint joins groups, and leaves them when it is
 * closed; the stack is in a group as long as one of its endpoints is
 * (multicast.c).  What comes for a group that the stack is in goes, as on
 * Linux, to each endpoint that is bound to its port, and to a wildcard or the
 * group itself, whichever of them has joined.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/multicast.h"
#include "stack/udp.h"

/* Groups of one endpoint, as Linux's net.ipv4.igmp_max_memberships. */
#define UDP_GROUPS_MAX 20u

/* Which of an endpoint's groups this one is; n_groups if none. */
static uint32_t group_index(const struct udp_sock *udp, const uint8_t ip[16])
{
    uint32_t i = 0;
    while (i < udp->n_groups && !ip_equal(udp->groups[i], ip))
        i++;
    return i;
}

int ams_udp_join(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    if (!udp_endpoint_valid(group) || !udp_is_group(group->ip) ||
        (group->family != udp->local.family && !udp_is_dual(&udp->local, udp->flags)))
        return -AMS_EINVAL;
    if (stack->link_flags & STACK_LINK_QUIET)
        return -AMS_EOPNOTSUPP;
    if (group_index(udp, group->ip) < udp->n_groups)
        return -AMS_EADDRINUSE;
    if (udp->n_groups == UDP_GROUPS_MAX)
        return -AMS_ENOBUFS;
    uint8_t(*groups)[16] = mem_realloc(udp->groups, (udp->n_groups + 1) * sizeof(*groups));
    if (!groups)
        return -AMS_ENOMEM;
    udp->groups = groups;
    stack->now = ams_max_u64(stack->now, now);
    int status = multicast_join(stack, group->ip, stack->now);
    if (status == 0)
        memcpy(udp->groups[udp->n_groups++], group->ip, 16);
    return status;
}

int ams_udp_leave(struct ams_stack *stack, int id, const struct ams_endpoint *group, uint64_t now)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    uint32_t index = group_index(udp, group->ip);
    if (index == udp->n_groups)
        return -AMS_EADDRNOTAVAIL;
    stack->now = ams_max_u64(stack->now, now);
    multicast_leave(stack, group->ip, stack->now);
    memmove(udp->groups[index], udp->groups[udp->n_groups - 1], 16);
    udp->n_groups--;
    return 0;
}

void udp_groups_fini(struct ams_stack *stack, struct udp_sock *udp)
{
    for (uint32_t i = 0; i < udp->n_groups; i++)
        multicast_leave(stack, udp->groups[i], stack->now);
    mem_free(udp->groups);
}

int ams_udp_setopt(struct ams_stack *stack, int id, int option, int value)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    switch (option) {
    case AMS_UDP_MULTICAST_HOPS:
        if (value < -1 || value > 255)
            return -AMS_EINVAL;
        udp->group_hops = value < 0 ? UDP_GROUP_HOPS : (uint8_t)value;
        return 0;
    case AMS_UDP_MULTICAST_LOOP:
        if (value < 0)
            return -AMS_EINVAL;
        udp->group_loop = value;
        return 0;
    default:
        return ip_service_set(&udp->service, true, option, value);
    }
}

int ams_udp_getopt(struct ams_stack *stack, int id, int option, int *value)
{
    const struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    switch (option) {
    case AMS_UDP_MULTICAST_HOPS:
        *value = udp->group_hops;
        return 0;
    case AMS_UDP_MULTICAST_LOOP:
        *value = udp->group_loop;
        return 0;
    case AMS_UDP_RECEIVED_TOS:
        *value = udp->received_tos;
        return 0;
    case AMS_UDP_RECEIVED_HOPS:
        *value = udp->received_hops;
        return 0;
    default:
        return ip_service_get(stack, &udp->service, option, value);
    }
}
