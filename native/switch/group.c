/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch/group.h"

#include <string.h>

#include "core/alloc.h"
#include "core/status.h"

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_ACK 0x10u
#define GROUPS_MIN 8u
#define FLOW_REST 1000000000u /* ns that both FINs must be past before a new connection may go elsewhere */

/* flow_record.closed: who has sent a FIN */
#define CLOSED_HERE 1u
#define CLOSED_THERE 2u

_Static_assert(sizeof(struct flow_key) == 40, "hashed as five words, compared as bytes");

void group_table_init(struct group_table *table, const uint64_t seed[2], uint32_t flows)
{
    memset(table, 0, sizeof(*table));
    table->key.k[0] = seed[0];
    table->key.k[1] = seed[1];
    table->flow_limit = flows ? flows : FLOWS_DEFAULT;
}

void group_table_fini(struct group_table *table)
{
    for (uint32_t i = 0; i < table->capacity; i++)
        mem_free(table->groups[i]);
    mem_free(table->groups);
    mem_free(table->flows);
    table->groups = NULL;
    table->flows = NULL;
    table->capacity = table->flow_sets = 0;
}

/* ---- membership ----------------------------------------------------------------- */

static struct switch_group *group_at(const struct group_table *table, uint32_t number)
{
    AMS_ASSERT(number > 0 && number <= table->capacity && table->groups[number - 1]);
    return table->groups[number - 1];
}

const struct switch_group *group_get(const struct group_table *table, uint32_t number)
{
    return group_at(table, number);
}

int group_first(const struct group_table *table, uint32_t number)
{
    return group_at(table, number)->members[0].port;
}

static struct group_member *member_of(struct switch_group *group, uint16_t port)
{
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->members[i].port == port)
            return &group->members[i];
    }
    return NULL;
}

const struct group_member *group_find(const struct group_table *table, uint32_t number, uint16_t port)
{
    return member_of(group_at(table, number), port);
}

/* Makes the table of flows, once.  Return: 0, -AMS_ENOMEM. */
static int flows_prepare(struct group_table *table)
{
    uint32_t sets = 1;

    if (table->flows)
        return 0;
    while (sets * FLOW_WAYS < table->flow_limit && sets < 1u << 24)
        sets *= 2;
    table->flows = mem_zalloc((size_t)sets * FLOW_WAYS, sizeof(*table->flows));
    if (!table->flows)
        return -AMS_ENOMEM;
    table->flow_sets = sets;
    return 0;
}

/* A free number, 0 if memory or numbers are out. */
static uint32_t group_number(struct group_table *table)
{
    uint32_t free = 0;

    while (free < table->capacity && table->groups[free])
        free++;
    if (free < table->capacity)
        return free + 1;
    uint32_t capacity = table->capacity ? table->capacity * 2 : GROUPS_MIN;
    if (capacity > GROUPS_MAX)
        return 0;
    struct switch_group **groups = mem_realloc(table->groups, capacity * sizeof(*groups));
    if (!groups)
        return 0;
    memset(groups + table->capacity, 0, (capacity - table->capacity) * sizeof(*groups));
    table->groups = groups;
    table->capacity = capacity;
    return free + 1;
}

int group_new(struct group_table *table, uint16_t port)
{
    if (flows_prepare(table))
        return -AMS_ENOMEM;
    uint32_t number = group_number(table);
    struct switch_group *group = number ? mem_zalloc(1, sizeof(*group)) : NULL;
    if (!group)
        return -AMS_ENOMEM;
    table->groups[number - 1] = group;
    int status = group_join(table, number, port);
    AMS_ASSERT(status == 0);
    return (int)number;
}

int group_join(struct group_table *table, uint32_t number, uint16_t port)
{
    struct switch_group *group = group_at(table, number);
    struct group_member *member = member_of(group, port);

    if (member) {
        AMS_ASSERT(member->refs != UINT32_MAX);
        member->refs++;
        return 0;
    }
    if (group->n == GROUP_MEMBERS)
        return -AMS_EMFILE;
    group->members[group->n++] = (struct group_member){.port = port, .refs = 1, .serial = ++table->serial};
    return 0;
}

int group_leave(struct group_table *table, uint32_t number, uint16_t port, bool all)
{
    struct switch_group *group = group_at(table, number);
    struct group_member *member = member_of(group, port);

    if (!member)
        return -AMS_EINVAL;
    if (!all && --member->refs)
        return (int)group->n;
    *member = group->members[--group->n];
    int left = (int)group->n;
    if (!left) {
        table->groups[number - 1] = NULL;
        mem_free(group);
    }
    return left;
}

void group_drop(struct group_table *table, uint32_t number)
{
    mem_free(group_at(table, number));
    table->groups[number - 1] = NULL;
}

/* ---- flows ------------------------------------------------------------------------ */

void flow_of(struct flow_key *key, const struct packet *packet, bool sending)
{
    memset(key, 0, sizeof(*key));
    memcpy(key->local, sending ? packet->src : packet->dst, 16);
    memcpy(key->remote, sending ? packet->dst : packet->src, 16);
    key->local_port = sending ? packet->sport : packet->dport;
    key->remote_port = sending ? packet->dport : packet->sport;
    key->protocol = packet->protocol;
    key->family = packet->family;
}

static uint64_t flow_hash(const struct group_table *table, const struct flow_key *key)
{
    uint64_t words[5];

    memcpy(words, key, sizeof(words));
    return siphash13(&table->key, words, 5);
}

static struct flow_record *flow_set(struct group_table *table, uint64_t hash)
{
    return &table->flows[(hash & (table->flow_sets - 1)) * FLOW_WAYS];
}

static struct flow_record *flow_find(struct flow_record *set, const struct flow_key *key)
{
    for (uint32_t i = 0; i < FLOW_WAYS; i++) {
        if (set[i].seen && memcmp(&set[i].key, key, sizeof(*key)) == 0)
            return &set[i];
    }
    return NULL;
}

/* The member that a record is of; NULL if it has left. */
static const struct group_member *flow_member(const struct switch_group *group, const struct flow_record *record)
{
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->members[i].serial == record->serial)
            return &group->members[i];
    }
    return NULL;
}

/* True if the connection is over as far as one can see, so that another may have its addresses and ports. */
static bool flow_over(const struct flow_record *record, uint64_t now)
{
    return record->closed == (CLOSED_HERE | CLOSED_THERE) && now > record->seen && now - record->seen >= FLOW_REST;
}

/* True if the member that a record is of is still there. */
static bool flow_alive(const struct group_table *table, const struct flow_record *record)
{
    const struct switch_group *group = table->groups[record->group - 1];

    return group && flow_member(group, record);
}

/* The record of a full set that gives way; NULL if none may.
 * @established: the newcomer is */
static struct flow_record *flow_victim(struct group_table *table, struct flow_record *set, bool established)
{
    struct flow_record *victim = NULL;

    for (uint32_t i = 0; i < FLOW_WAYS; i++) {
        if (!set[i].seen || !flow_alive(table, &set[i]))
            return &set[i];
        if (set[i].established && !established)
            continue;
        if (!victim || set[i].established < victim->established ||
            (set[i].established == victim->established && set[i].seen < victim->seen))
            victim = &set[i];
    }
    table->evicted += victim && victim->established;
    return victim;
}

/* A member's score for a flow: a finaliser over both (Steele, Lea and Flood 2014). */
static uint64_t flow_score(uint64_t hash, uint32_t serial)
{
    uint64_t z = hash ^ (serial * 0x9e3779b97f4a7c15u);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int group_pick(struct group_table *table, uint32_t number, const struct flow_key *key, uint8_t tcp_flags, uint64_t now)
{
    const struct switch_group *group = group_at(table, number);
    uint64_t hash = flow_hash(table, key), best = 0;
    struct flow_record *record = flow_find(flow_set(table, hash), key);
    const struct group_member *winner = record ? flow_member(group, record) : NULL;

    if (winner && (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && flow_over(record, now))
        winner = NULL; /* by its score, as if nothing were known; its SYN-ACK will tell */
    if (winner) {
        record->seen = now | 1;
        if (tcp_flags & TCP_FIN)
            record->closed |= CLOSED_THERE;
        return winner->port;
    }
    for (uint32_t i = 0; i < group->n; i++) {
        uint64_t score = flow_score(hash, group->members[i].serial);
        if (!winner || score > best) {
            winner = &group->members[i];
            best = score;
        }
    }
    return winner->port; /* a group has at least one member */
}

void group_learn(struct group_table *table, uint32_t number, uint16_t port, const struct flow_key *key,
                 uint8_t tcp_flags, uint64_t now)
{
    struct switch_group *group = group_at(table, number);
    const struct group_member *member = member_of(group, port), *known;
    uint64_t hash = flow_hash(table, key);
    struct flow_record *set = flow_set(table, hash), *record = flow_find(set, key);
    bool tcp = key->protocol == PROTO_TCP;
    bool established = tcp && (tcp_flags & (TCP_ACK | TCP_SYN)) == TCP_ACK;

    AMS_ASSERT(member);
    known = record ? flow_member(group, record) : NULL;
    if (known && known != member && !flow_over(record, now)) /* another's: a member can't take it */
        return;
    if (tcp && tcp_flags & TCP_RST) {
        if (known == member)
            record->seen = 0;
        return;
    }
    if (!record) {
        record = flow_victim(table, set, established);
        if (!record)
            return;
        known = NULL;
    }
    if (known != member || (tcp && tcp_flags & TCP_SYN)) { /* a connection of its own */
        record->established &= known == member;
        record->closed = 0;
    }
    if (tcp_flags & TCP_FIN)
        record->closed |= CLOSED_HERE;
    record->key = *key;
    record->serial = member->serial;
    record->group = (uint16_t)number;
    record->established |= established;
    record->seen = now | 1;
}
