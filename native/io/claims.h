/* SPDX-License-Identifier: BSD-2-Clause
 *
 * claims.h - the tuples of addresses that are shared with the operating system.
 *
 * Theory of operation.  For drivers behind claim() and release() of port.h.
 * The table holds exact tuples of shared addresses, each with the number of
 * claims that cover it: its own, and a wildcard's of its family.  When the
 * first one comes and when the last one goes, the driver is told.  Wildcard
 * claims are kept as tuples with the unspecified address, so that an address
 * that becomes shared later gets them too.
 *
 * A claim that is to be proved binds a kernel socket to the tuple, which stays
 * as long as the tuple: the kernel grants it by its own rules and gives it to
 * nobody else.  It does not listen, and what it receives is thrown away: only
 * what the driver fails to take from the kernel gets there.  A socket that the
 * application has bound itself, and shown, is used instead of a new one.
 */
#ifndef AMS_IO_CLAIMS_H
#define AMS_IO_CLAIMS_H

#include "aiomultistack.h"
#include "core/base.h"

struct claim_key {
    uint8_t ip[16];
    uint16_t port;         /* host order */
    uint8_t protocol;
    uint8_t family;        /* AMS_IPV4, AMS_IPV6 */
};

struct claim {
    struct claim_key key;
    uint32_t refs;         /* 0: the slot is free */
    int32_t fd;            /* the bound socket; -1: none */
    bool prove;            /* of a wildcard: its tuples are proved */
};

#define CLAIMS_SHOWN 16u

struct claim_table {
    struct claim *slots;   /* open addressing, at most half full */
    uint32_t mask;
    uint32_t used;
    uint8_t (*addresses)[16]; /* those that are shared */
    uint32_t n_addresses;
    uint32_t ifindex;      /* of link-local addresses */
    uint32_t n_shown;
    int32_t shown[CLAIMS_SHOWN]; /* sockets for claims to come, the oldest first */
    /* Tells the driver that a tuple is claimed now, or no longer.
     * Return: 0 or a status, which then is the claim's. */
    int (*change)(void *ctx, const struct claim_key *key, bool claimed);
    void *ctx;
};

/* Prepares an empty table.  Return: 0 or -AMS_ENOMEM. */
int claims_init(struct claim_table *table, uint32_t ifindex,
                int (*change)(void *ctx, const struct claim_key *key, bool claimed), void *ctx);
/* Closes all sockets.  The driver is not told.  Legal on a zeroed struct. */
void claims_fini(struct claim_table *table);
/* An address is shared from here on; no longer.  Return: 0 or a status. */
int claims_share(struct claim_table *table, const uint8_t ip[16]);
void claims_unshare(struct claim_table *table, const uint8_t ip[16]);
bool claims_shared(const struct claim_table *table, const uint8_t ip[16]);
/* As claim() and release() of port.h.  Claims of addresses that are not
 * shared need nothing. */
int claims_add(struct claim_table *table, uint8_t protocol, const struct ams_endpoint *local, bool prove);
void claims_remove(struct claim_table *table, uint8_t protocol, const struct ams_endpoint *local);

/* As show() and lookup() of port.h. */
int claims_show(struct claim_table *table, int fd);
int claims_lookup(const struct claim_table *table, uint8_t protocol, const struct ams_endpoint *address);

/* ---- of the system's own file -------------------------------------------------- */

/* Sets what a socket that proves a claim must have before it is bound: it
 * takes nothing, and needn't wait until an address is ready (RFC 4862 section
 * 5.4).  Return: 0, or -1 with errno. */
int claims_prepare(int fd, uint8_t family);

#endif
