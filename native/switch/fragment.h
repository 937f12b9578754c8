/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fragment.h - where the later fragments of a packet belong.
 *
 * Theory of operation.  Only a packet's first fragment shows its ports.  Its
 * fate is recorded under (source, destination, identification, protocol);
 * later fragments look it up.  The table has a fixed size: FRAGMENT_SETS
 * sets of FRAGMENT_WAYS records.  A record lives for FRAGMENT_LIFETIME, about
 * as long as receivers wait for missing pieces.
 *
 * When a set is full, a record of whoever holds most of the set gives way,
 * the oldest first: one that floods the table displaces its own records.
 */
#ifndef AMS_SWITCH_FRAGMENT_H
#define AMS_SWITCH_FRAGMENT_H

#include "core/base.h"
#include "core/hash.h"
#include "switch/packet.h"

#define FRAGMENT_SETS 128u
#define FRAGMENT_WAYS 8u
#define FRAGMENT_LIFETIME (30 * AMS_NS_PER_S) /* RFC 1122 section 3.3.2: between 60 s and 120 s; hosts use 30 s */

struct fragment_key {
    uint8_t src[16];
    uint8_t dst[16];
    uint32_t id;
    uint32_t protocol;    /* 0 for IPv6: RFC 8200 section 4.5 identifies without it */
};

struct fragment_record {
    struct fragment_key key;
    uint64_t expires;     /* 0: free */
    int32_t target;
};

struct fragment_table {
    struct fragment_record *records;
    struct siphash_key key;
    uint64_t evicted;
};

/* Return: 0 or -AMS_ENOMEM. */
int fragment_table_init(struct fragment_table *table, const uint64_t seed[2]);
void fragment_table_fini(struct fragment_table *table);

/* The live record of a fragment's packet, or NULL. */
struct fragment_record *fragment_find(struct fragment_table *table, const struct packet *packet, uint64_t now);
/* Records (or renews) where the packet of a first fragment goes.
 * @target: what fragment_find() will show */
void fragment_store(struct fragment_table *table, const struct packet *packet, int32_t target, uint64_t now);
/* Forgets all records with this target. */
void fragment_forget(struct fragment_table *table, int32_t target);

#endif
