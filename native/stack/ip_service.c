/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ip_service.c - options for the traffic class and the hop limit of packets.
 *
 * Theory of operation.  TCP and UDP endpoints and listeners have a struct
 * ip_service each, which their packets get their traffic class (RFC 2474, RFC
 * 3168) and hop limit from.  What is accepted, and what it means, is Linux's
 * (ip(7), ipv6(7)): IPv4's traffic class is cut to eight bits, IPv6's must have
 * them; a hop limit of zero is IPv6's only; -1 stands for the default.  The
 * ECN bits of TCP's packets are TCP's.
 *
 * A hop limit is kept as a number one larger, so that all zeros are the
 * defaults, whatever those are when a packet leaves: routers may change IPv6's.
 */
#include "stack/ip.h"

int ip_service_set(struct ip_service *service, bool own_ecn, int option, int value)
{
    uint8_t mask = own_ecn ? 0xff : (uint8_t)~IP_ECN_MASK;
    switch (option) {
    case AMS_OPT_TOS:
        service->tos = (uint8_t)value & mask;
        return 0;
    case AMS_OPT_TCLASS: /* RFC 3542 section 6.5 */
        if (value < -1 || value > 255)
            return -AMS_EINVAL;
        service->tclass = value < 0 ? 0 : (uint8_t)value & mask;
        return 0;
    case AMS_OPT_TTL:
        if (value == 0 || value < -1 || value > 255)
            return -AMS_EINVAL;
        service->ttl = (uint16_t)(value + 1);
        return 0;
    case AMS_OPT_HOPS: /* RFC 3493 section 5.1 */
        if (value < -1 || value > 255)
            return -AMS_EINVAL;
        service->hops = (uint16_t)(value + 1);
        return 0;
    default:
        return -AMS_ENOPROTOOPT;
    }
}

int ip_service_get(const struct ams_stack *stack, const struct ip_service *service, int option, int *value)
{
    switch (option) {
    case AMS_OPT_TOS:
        *value = service->tos;
        return 0;
    case AMS_OPT_TCLASS:
        *value = service->tclass;
        return 0;
    case AMS_OPT_TTL:
        *value = service->ttl ? service->ttl - 1 : IP_HOP_LIMIT;
        return 0;
    case AMS_OPT_HOPS:
        *value = service->hops ? service->hops - 1 : stack->hop_limit6;
        return 0;
    default:
        return -AMS_ENOPROTOOPT;
    }
}
