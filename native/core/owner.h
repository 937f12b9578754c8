/* SPDX-License-Identifier: BSD-2-Clause
 *
 * owner.h - how a stack asks for the right to use a local 3-tuple.
 *
 * Before an endpoint may send, its (local address, protocol, local port)
 * must belong to the port that it sends through; the switch is who says so.
 * The stack knows only this interface, so that it depends neither on the
 * switch in its own process nor on a daemon's socket protocol.
 *
 * A wildcard address (0.0.0.0 or ::) claims the port number on every address
 * of the node in that family.  Claims by one owner are counted: each claim()
 * that returned 0 is undone by one release() with the same arguments.
 */
#ifndef AMS_CORE_OWNER_H
#define AMS_CORE_OWNER_H

#include "aiomultistack.h"
#include "core/base.h"

struct ams_owner {
    /* Claims a local 3-tuple.
     * @ctx: the field below
     * @protocol: 6 TCP, 17 UDP
     * @local: address (may be a wildcard) and port, which is not 0
     * Return: 0, -AMS_EADDRINUSE when another owner has it, -AMS_ENOMEM. */
    int (*claim)(void *ctx, uint8_t protocol, const struct ams_endpoint *local);
    /* Undoes one claim(). */
    void (*release)(void *ctx, uint8_t protocol, const struct ams_endpoint *local);
    /* Lends a range of ports, of TCP and UDP, that a stack may choose from
     * when it is asked for any; they are still to be claimed one by one.
     * Each call lends another range, besides those lent before.  NULL: the
     * stack's configuration has the only range.
     * Return: 0, -AMS_EADDRNOTAVAIL when there are no more, or why not. */
    int (*lend)(void *ctx, uint16_t *low, uint16_t *high);
    /* Serves an address that the stack has from here on, and no longer: before
     * anything is claimed on it, after all of that is released.  NULL: nobody
     * has to know.  Return: 0 or a status, whereupon the stack does without. */
    int (*serve)(void *ctx, const struct ams_ifaddr *address);
    void (*unserve)(void *ctx, const struct ams_endpoint *address);
    /* Tells that a TCP connection begins, or has ended, for an owner who
     * speaks for the stack after its sudden death.  NULL: there is none. */
    void (*flow)(void *ctx, const struct ams_endpoint *local, const struct ams_endpoint *remote, bool begins);
    void *ctx;
};

#endif
