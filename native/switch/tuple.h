/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tuple.h - the table of local 3-tuples and who owns them.
 *
 * Theory of operation.  Open addressing with linear probing over 32-byte
 * slots, two to a cache line, never more than half full, so that a look-up
 * touches one line nearly always.  Deletion shifts the run back: there are
 * no tombstones, and the table doesn't age.  It grows by doubling.
 *
 * Owners insert, the network only looks up; still, the hash is keyed with a
 * secret, so that those who may choose their ports can't choose their slots.
 * It is a folded 64x64 multiply: a tenth of SipHash's price, and enough
 * where an attacker never sees a hash and can insert only what it was
 * granted.  Where the compiler has no 128-bit product, SipHash-1-3 is used.
 *
 * Look-ups come in two steps for batches: tuple_hash() and tuple_prefetch()
 * for all of them, then tuple_find().
 */
#ifndef AMS_SWITCH_TUPLE_H
#define AMS_SWITCH_TUPLE_H

#include <string.h>

#include "aiomultistack.h"
#include "core/base.h"
#include "core/hash.h"

struct switch_tuple {
    uint8_t ip[16];      /* IPv4-mapped for IPv4 */
    uint16_t port;       /* host order */
    uint8_t protocol;
    uint8_t family;      /* AMS_IPV4, AMS_IPV6, with TUPLE_WILDCARD for any address of the node */
};

struct tuple_slot {
    struct switch_tuple tuple;
    uint32_t hash;
    uint32_t refs;       /* claims; 0: the slot is free */
    uint16_t owner;      /* port index, or TUPLE_GROUP */
    uint16_t group;      /* number of the group; 0: one port owns it */
};

struct tuple_table {
    struct tuple_slot *slots;
    uint32_t mask;       /* slots - 1 */
    uint32_t used;
    uint64_t secret[2];
};

#define TUPLE_NOBODY (-1)
#define TUPLE_GROUP 0xffffu /* an owner that is no port */
#define TUPLE_WILDCARD 0x80

/* Prepares a table of at least `capacity` tuples.
 * @seed: two secret words
 * Return: 0 or -AMS_ENOMEM. */
int tuple_table_init(struct tuple_table *table, const uint64_t seed[2], uint32_t capacity);
/* Frees its memory; legal on a zeroed struct. */
void tuple_table_fini(struct tuple_table *table);

static inline uint32_t tuple_hash(const struct tuple_table *table, const struct switch_tuple *tuple)
{
    /* Loaded in the pieces in which tuples are stored: a wider load would wait for the stores. */
    uint64_t word[3];
    uint32_t tail;
    memcpy(&word[0], tuple->ip, 8);
    memcpy(&word[1], tuple->ip + 8, 8);
    memcpy(&tail, &tuple->port, 4);
    word[2] = tail;
#ifdef __SIZEOF_INT128__
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)(word[0] ^ word[2] << 32 ^ table->secret[0]) * (word[1] ^ table->secret[1]);
    uint64_t sum = (uint64_t)product ^ (uint64_t)(product >> 64) ^ word[2];
    product = (wide)(sum ^ table->secret[1]) * (table->secret[0] | 1);
    return (uint32_t)((uint64_t)product ^ (uint64_t)(product >> 64));
#else
    struct siphash_key key = {{table->secret[0], table->secret[1]}};
    return (uint32_t)siphash13(&key, word, 3);
#endif
}

static inline void tuple_prefetch(const struct tuple_table *table, uint32_t hash)
{
    AMS_PREFETCH(&table->slots[hash & table->mask]);
}

static inline bool tuple_equal(const struct switch_tuple *a, const struct switch_tuple *b)
{
    uint64_t x[2], y[2];
    uint32_t u, v;
    memcpy(&x[0], a->ip, 8);
    memcpy(&x[1], a->ip + 8, 8);
    memcpy(&u, &a->port, 4);
    memcpy(&y[0], b->ip, 8);
    memcpy(&y[1], b->ip + 8, 8);
    memcpy(&v, &b->port, 4);
    return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (u ^ v)) == 0;
}

/* Makes a tuple from an address as it is in a packet: 4 or 16 bytes.  Stores
 * whole words, which tuple_hash() then reads back without a stall.
 * @ip: where the address lies
 * @port: in host order */
static inline void tuple_from_packet(struct switch_tuple *tuple, const uint8_t *ip, uint8_t family, uint16_t port,
                                     uint8_t protocol)
{
    if (AMS_LIKELY(family == AMS_IPV4)) {
        uint64_t word = 0;
        uint32_t v4;
        memcpy(&v4, ip, 4);
        memcpy(tuple->ip, &word, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word = (uint64_t)v4 << 32 | 0xffff0000u;
#else
        word = 0x0000ffff00000000u | v4;
#endif
        memcpy(tuple->ip + 8, &word, 8);
    } else {
        uint64_t word;
        memcpy(&word, ip, 8);
        memcpy(tuple->ip, &word, 8);
        memcpy(&word, ip + 8, 8);
        memcpy(tuple->ip + 8, &word, 8);
    }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint32_t tail = port | (uint32_t)protocol << 16 | (uint32_t)family << 24;
#else
    uint32_t tail = (uint32_t)port << 16 | (uint32_t)protocol << 8 | family;
#endif
    memcpy(&tuple->port, &tail, 4);
}

/* Finds a tuple's slot.
 * @hash: its tuple_hash()
 * Return: the slot, valid until the next insert or remove; NULL if absent. */
static inline struct tuple_slot *tuple_find(const struct tuple_table *table, const struct switch_tuple *tuple,
                                            uint32_t hash)
{
    for (uint32_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        struct tuple_slot *slot = &table->slots[i];
        if (!slot->refs)
            return NULL;
        if (AMS_LIKELY(slot->hash == hash && tuple_equal(&slot->tuple, tuple)))
            return slot;
    }
}

/* The owner of exactly this tuple, or TUPLE_NOBODY. */
static inline int tuple_owner(const struct tuple_table *table, const struct switch_tuple *tuple)
{
    const struct tuple_slot *slot = tuple_find(table, tuple, tuple_hash(table, tuple));
    return slot ? slot->owner : TUPLE_NOBODY;
}

/* Adds a tuple that is not there yet, with one reference.
 * @group: its number, if owner is TUPLE_GROUP
 * Return: 0, -AMS_ENOMEM (the table is as it was). */
int tuple_insert(struct tuple_table *table, const struct switch_tuple *tuple, uint16_t owner, uint16_t group);
/* Removes a slot that tuple_find() gave, whatever its references. */
void tuple_remove(struct tuple_table *table, struct tuple_slot *slot);

#endif
