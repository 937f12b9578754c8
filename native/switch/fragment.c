/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch/fragment.h"

#include <string.h>

#include "core/alloc.h"
#include "core/status.h"

_Static_assert(sizeof(struct fragment_key) == 40, "hashed as five words, compared as bytes");

int fragment_table_init(struct fragment_table *table, const uint64_t seed[2])
{
    memset(table, 0, sizeof(*table));
    table->records = mem_zalloc(FRAGMENT_SETS * FRAGMENT_WAYS, sizeof(*table->records));
    if (!table->records)
        return -AMS_ENOMEM;
    table->key.k[0] = seed[0];
    table->key.k[1] = seed[1];
    return 0;
}

void fragment_table_fini(struct fragment_table *table)
{
    mem_free(table->records);
    table->records = NULL;
}

/* Makes a packet's key and finds the set that it belongs to. */
static struct fragment_record *fragment_set(struct fragment_table *table, const struct packet *packet,
                                            struct fragment_key *key)
{
    uint64_t words[5];

    memcpy(key->src, packet->src, 16);
    memcpy(key->dst, packet->dst, 16);
    key->id = packet->frag_id;
    key->protocol = packet->family == AMS_IPV4 ? packet->protocol : 0;
    memcpy(words, key, sizeof(words));
    return &table->records[siphash13(&table->key, words, 5) % FRAGMENT_SETS * FRAGMENT_WAYS];
}

struct fragment_record *fragment_find(struct fragment_table *table, const struct packet *packet, uint64_t now)
{
    struct fragment_key key;
    struct fragment_record *set = fragment_set(table, packet, &key);

    for (uint32_t i = 0; i < FRAGMENT_WAYS; i++) {
        if (set[i].expires > now && memcmp(&set[i].key, &key, sizeof(key)) == 0)
            return &set[i];
    }
    return NULL;
}

/* Chooses the record of a full set that gives way: the oldest of the target
 * that holds most of them. */
static struct fragment_record *fragment_victim(struct fragment_record *set)
{
    struct fragment_record *victim = NULL;
    uint32_t most = 0;

    for (uint32_t i = 0; i < FRAGMENT_WAYS; i++) {
        uint32_t held = 0;
        for (uint32_t j = 0; j < FRAGMENT_WAYS; j++)
            held += set[j].target == set[i].target;
        if (held > most || (held == most && set[i].expires < victim->expires)) {
            victim = &set[i];
            most = held;
        }
    }
    return victim;
}

void fragment_store(struct fragment_table *table, const struct packet *packet, int32_t target, uint64_t now)
{
    struct fragment_key key;
    struct fragment_record *set = fragment_set(table, packet, &key), *record = NULL;

    for (uint32_t i = 0; i < FRAGMENT_WAYS && !record; i++) {
        if (set[i].expires > now && memcmp(&set[i].key, &key, sizeof(key)) == 0)
            record = &set[i];
    }
    for (uint32_t i = 0; i < FRAGMENT_WAYS && !record; i++) {
        if (set[i].expires <= now)
            record = &set[i];
    }
    if (!record) {
        record = fragment_victim(set);
        table->evicted++;
    }
    record->key = key;
    record->target = target;
    record->expires = now + FRAGMENT_LIFETIME;
}

void fragment_forget(struct fragment_table *table, int32_t target)
{
    for (uint32_t i = 0; i < FRAGMENT_SETS * FRAGMENT_WAYS; i++) {
        if (table->records[i].target == target)
            table->records[i].expires = 0;
    }
}
