/* SPDX-License-Identifier: BSD-2-Clause
 *
 * group.h - several ports that share one tuple.
 *
 * Theory of operation.  Workers of one server may all listen on one tuple.
 * Each packet to it belongs to a *flow*: local and remote address and port.
 * Seen from the group, both directions of a connection have the same flow,
 * and so the same owner.
 *
 * A flow that isn't known goes to the member with the highest score, a keyed
 * hash of flow and member (rendezvous hashing, Thaler and Ravishankar 1998).
 * That needs no state: connections spread evenly, and while the members stay
 * the same each packet of a connection finds the same one.
 *
 * When a member joins or leaves, scores of other members don't change, but
 * the newcomer wins some of the flows.  So that connections stay where they
 * are, flows are *learned* from what members send: an established one from
 * any segment after the handshake, a tentative one from SYN-ACK (or UDP).
 * What the network sends teaches nothing, so that a flood of SYNs can't fill
 * the table with more than tentative flows.  A flow on which both sides have
 * sent a FIN, and nothing for a second since, is over: a SYN on it goes by
 * score again, or few clients that use their ports again and again would
 * never reach a newcomer.  Its old owner may be in TIME-WAIT, which no other
 * connection needs to know of.
 *
 * The table is bounded: FLOW_WAYS records to a set.  In a full set records of
 * members that have left give way first, then the oldest tentative one, then
 * the oldest established one; a tentative flow never displaces an established
 * one.  A flow that was displaced is still found by its score, as long as the
 * members stay the same: only the two together, a full table and a change of
 * membership, can break a connection.
 */
#ifndef AMS_SWITCH_GROUP_H
#define AMS_SWITCH_GROUP_H

#include "core/base.h"
#include "core/hash.h"
#include "switch/packet.h"

#define GROUP_MEMBERS 64u
#define GROUPS_MAX 65534u
#define FLOW_WAYS 8u
#define FLOWS_DEFAULT 65536u

struct flow_key {
    uint8_t local[16];
    uint8_t remote[16];
    uint16_t local_port;
    uint16_t remote_port;
    uint8_t protocol;
    uint8_t family;
    uint16_t zero;
};

struct flow_record {
    struct flow_key key;
    uint64_t seen;               /* 0: free */
    uint32_t serial;             /* of the member */
    uint16_t group;
    uint8_t established;
    uint8_t closed;              /* who has sent a FIN */
};

struct group_member {
    uint16_t port;
    uint32_t refs;               /* claims */
    uint32_t serial;             /* of this membership; never used again */
};

struct switch_group {
    uint32_t n;
    struct group_member members[GROUP_MEMBERS];
};

struct group_table {
    struct switch_group **groups; /* by number - 1; NULL: free */
    uint32_t capacity;
    uint32_t serial;              /* the last one given */
    uint32_t flow_sets;           /* a power of two; 0 until there is a group */
    uint32_t flow_limit;          /* flows wanted */
    struct flow_record *flows;
    struct siphash_key key;
    uint64_t evicted;             /* established flows displaced */
};

/* @flows: how many are remembered; 0: FLOWS_DEFAULT */
void group_table_init(struct group_table *table, const uint64_t seed[2], uint32_t flows);
void group_table_fini(struct group_table *table);

/* Makes a group with one member.  Return: its number, > 0, or -AMS_ENOMEM. */
int group_new(struct group_table *table, uint16_t port);
/* Adds a member, or one more claim of it.  Return: 0, -AMS_EMFILE if it is full. */
int group_join(struct group_table *table, uint32_t number, uint16_t port);
/* Undoes one claim, or all of them.
 * Return: members left; the group is gone with the last one; -AMS_EINVAL if
 * the port is no member. */
int group_leave(struct group_table *table, uint32_t number, uint16_t port, bool all);
/* Ends a group, whoever is in it. */
void group_drop(struct group_table *table, uint32_t number);
/* The member that a port is; NULL if none. */
const struct group_member *group_find(const struct group_table *table, uint32_t number, uint16_t port);

/* The flow of a packet that shows its ports, as its receiver or its sender sees it. */
void flow_of(struct flow_key *key, const struct packet *packet, bool sending);
/* A group, and its first member's port. */
const struct switch_group *group_get(const struct group_table *table, uint32_t number);
int group_first(const struct group_table *table, uint32_t number);
/* The port that a received packet of this flow belongs to. */
int group_pick(struct group_table *table, uint32_t number, const struct flow_key *key, uint8_t tcp_flags,
               uint64_t now);
/* Learns from a packet that a member sent. */
void group_learn(struct group_table *table, uint32_t number, uint16_t port, const struct flow_key *key,
                 uint8_t tcp_flags, uint64_t now);

#endif
