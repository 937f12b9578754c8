/* SPDX-License-Identifier: BSD-2-Clause */
#include "switch/switch.h"

#include <string.h>

#include "core/status.h"
#include "wire/bytes.h"

#define SWITCH_MTU_MIN 68u /* RFC 791 section 3.2 */
#define SWITCH_MTU_MAX 65535u

static const uint8_t any4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
static const uint8_t any6[16];

static const uint8_t *ip_any(uint8_t family)
{
    return family == AMS_IPV4 ? any4 : any6;
}

static bool ip_is_wildcard(const uint8_t ip[16], uint8_t family)
{
    return ip_equal(ip, ip_any(family));
}

/* Turns a tuple into the wildcard that covers it.  Its family is marked, so
 * that no packet from or to 0.0.0.0 or :: finds it as if by an exact claim. */
static void tuple_to_wildcard(struct switch_tuple *tuple)
{
    memcpy(tuple->ip, ip_any(tuple->family), 16);
    tuple->family |= TUPLE_WILDCARD;
}

/* What was remembered of owners no longer holds. */
static void switch_changed(struct ams_switch *sw)
{
    if (!++sw->epoch) /* 0 is what no memo was noted at */
        sw->epoch = 1;
}

int switch_init(struct ams_switch *sw, const struct ams_switch_config *config)
{
    struct ams_rng rng;
    uint64_t seed[5][2];
    int status;

    memset(sw, 0, sizeof(*sw));
    if (config->mtu < SWITCH_MTU_MIN || config->mtu > SWITCH_MTU_MAX || config->unclaimed > SWITCH_TO_CONTROL ||
        config->unclaimed < SWITCH_TO_NOBODY || config->mac[0] & 1)
        return -AMS_EINVAL;
    memcpy(sw->mac, config->mac, 6);
    memcpy(&sw->station, config->mac, 6);
    sw->epoch = 1;
    sw->control = config->control;
    sw->mtu = config->mtu;
    sw->unclaimed = config->unclaimed;
    sw->orphans_to_control = config->flags & AMS_SWITCH_ORPHANS;
    rng_init(&rng, config->seed[0], config->seed[1]);
    for (int i = 0; i < 5; i++) {
        seed[i][0] = rng_next(&rng);
        seed[i][1] = rng_next(&rng);
    }
    group_table_init(&sw->groups, seed[4], config->max_flows);
    status = tuple_table_init(&sw->tuples, seed[0], 1024);
    if (!status)
        status = tuple_table_init(&sw->addresses, seed[1], 16);
    if (!status)
        status = fragment_table_init(&sw->rx_fragments, seed[2]);
    if (!status)
        status = fragment_table_init(&sw->tx_fragments, seed[3]);
    if (status)
        switch_fini(sw);
    return status;
}

void switch_fini(struct ams_switch *sw)
{
    group_table_fini(&sw->groups);
    fragment_table_fini(&sw->tx_fragments);
    fragment_table_fini(&sw->rx_fragments);
    tuple_table_fini(&sw->addresses);
    tuple_table_fini(&sw->tuples);
}

/* ---- addresses -------------------------------------------------------------- */

/* True if ip is written the way its family demands. */
static bool ip_fits_family(const uint8_t ip[16], uint16_t family)
{
    return (family == AMS_IPV4 && ip_is4(ip)) || (family == AMS_IPV6 && !ip_is4(ip));
}

static bool ip_is_multicast(const uint8_t ip[16], uint8_t family)
{
    return family == AMS_IPV4 ? (ip[12] & 0xf0) == 0xe0 : ip[0] == 0xff;
}

/* Enters an address with its kind, unless it is there. */
static int switch_put_address(struct ams_switch *sw, const uint8_t ip[16], uint8_t family, enum switch_address kind)
{
    struct switch_tuple key;

    switch_tuple_set(&key, ip, 0, 0, family);
    struct tuple_slot *slot = tuple_find(&sw->addresses, &key, tuple_hash(&sw->addresses, &key));
    if (!slot)
        return tuple_insert(&sw->addresses, &key, (uint16_t)kind, 0);
    if (kind == SWITCH_ADDRESS_UNICAST)
        slot->owner = SWITCH_ADDRESS_UNICAST;
    return 0;
}

int switch_add_address(struct ams_switch *sw, const struct ams_ifaddr *address)
{
    const uint8_t *ip = address->address.ip;
    uint8_t family = (uint8_t)address->address.family;
    uint32_t prefix = address->prefix_len;

    if (!ip_fits_family(ip, address->address.family) || prefix > (family == AMS_IPV4 ? 32u : 128u) ||
        ip_is_wildcard(ip, family) || ip_is_multicast(ip, family))
        return -AMS_EINVAL;
    switch_changed(sw);
    int status = switch_put_address(sw, ip, family, SWITCH_ADDRESS_UNICAST);
    if (status || family != AMS_IPV4 || prefix == 0 || prefix > 30) /* RFC 3021: /31 has no broadcast address */
        return status;
    uint8_t broadcast[16];
    memcpy(broadcast, ip, 16);
    store_be32(broadcast + 12, load_be32(ip + 12) | 0xffffffffu >> prefix);
    return switch_put_address(sw, broadcast, family, SWITCH_ADDRESS_BROADCAST);
}

enum switch_address switch_address_kind(const struct ams_switch *sw, const uint8_t ip[16], uint8_t family)
{
    static const uint8_t all_ones[4] = {0xff, 0xff, 0xff, 0xff};
    struct switch_tuple key;

    switch_tuple_set(&key, ip, 0, 0, family);
    int kind = tuple_owner(&sw->addresses, &key);
    if (kind != TUPLE_NOBODY)
        return (enum switch_address)kind;
    if (ip_is_multicast(ip, family))
        return SWITCH_ADDRESS_MULTICAST;
    if (family == AMS_IPV4 && memcmp(ip + 12, all_ones, 4) == 0)
        return SWITCH_ADDRESS_BROADCAST;
    return SWITCH_ADDRESS_OTHER;
}

/* ---- claims ----------------------------------------------------------------- */

/* Checks the arguments of a claim and makes the key.
 * Return: 0 or -AMS_EINVAL. */
static int switch_claim_key(struct switch_tuple *key, uint8_t protocol, const struct ams_endpoint *local)
{
    if ((protocol != PROTO_TCP && protocol != PROTO_UDP) || !local->port ||
        !ip_fits_family(local->ip, local->family))
        return -AMS_EINVAL;
    switch_tuple_set(key, local->ip, local->port, protocol, (uint8_t)local->family);
    if (ip_is_wildcard(key->ip, key->family))
        tuple_to_wildcard(key);
    return 0;
}

/* True if a slot stands in the way of a claim by a port. */
static bool slot_conflicts(const struct tuple_slot *slot, uint16_t port)
{
    return slot && (slot->group || slot->owner != port);
}

static struct tuple_slot *switch_slot(const struct ams_switch *sw, const struct switch_tuple *key)
{
    return tuple_find(&sw->tuples, key, tuple_hash(&sw->tuples, key));
}

/* True if somebody else, or a group, owns a tuple that a claim would overlap.
 * @key: the claim, not in the table itself */
static bool switch_claim_conflicts(const struct ams_switch *sw, uint16_t port, const struct switch_tuple *key)
{
    struct switch_tuple other = *key;

    if (!(key->family & TUPLE_WILDCARD)) {
        tuple_to_wildcard(&other);
        return slot_conflicts(switch_slot(sw, &other), port);
    }
    other.family = key->family & (uint8_t)~TUPLE_WILDCARD;
    for (uint32_t i = 0; i <= sw->addresses.mask; i++) {
        const struct tuple_slot *served = &sw->addresses.slots[i];
        if (!served->refs || served->tuple.family != other.family)
            continue;
        memcpy(other.ip, served->tuple.ip, 16);
        if (slot_conflicts(switch_slot(sw, &other), port))
            return true;
    }
    return false;
}

/* Enters a claim on a tuple that nobody has. */
static int switch_claim_new(struct ams_switch *sw, uint16_t port, const struct switch_tuple *key, bool group)
{
    bool wildcard = key->family & TUPLE_WILDCARD;
    int number = 0;

    if (!wildcard && switch_address_kind(sw, key->ip, key->family) != SWITCH_ADDRESS_UNICAST)
        return -AMS_EADDRNOTAVAIL;
    if (switch_claim_conflicts(sw, port, key))
        return -AMS_EADDRINUSE;
    if (group)
        number = group_new(&sw->groups, port);
    if (number < 0)
        return number;
    int status = tuple_insert(&sw->tuples, key, group ? TUPLE_GROUP : port, (uint16_t)number);
    if (status && group)
        group_leave(&sw->groups, (uint32_t)number, port, true);
    if (status)
        return status;
    sw->wildcards += wildcard;
    switch_changed(sw);
    return 0;
}

int switch_claim(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct switch_tuple key;
    int status = switch_claim_key(&key, protocol, local);

    if (status)
        return status;
    struct tuple_slot *slot = switch_slot(sw, &key);
    if (!slot)
        return switch_claim_new(sw, port, &key, false);
    if (!switch_owns(sw, slot, port))
        return -AMS_EADDRINUSE;
    if (slot->group)
        return group_join(&sw->groups, slot->group, port);
    AMS_ASSERT(slot->refs != UINT32_MAX);
    slot->refs++;
    return 0;
}

int switch_join(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct switch_tuple key;
    int status = switch_claim_key(&key, protocol, local);

    if (status)
        return status;
    struct tuple_slot *slot = switch_slot(sw, &key);
    if (!slot)
        return switch_claim_new(sw, port, &key, true);
    return slot->group ? group_join(&sw->groups, slot->group, port) : -AMS_EADDRINUSE;
}

/* Removes a slot, with the count of wildcards. */
static void switch_remove(struct ams_switch *sw, struct tuple_slot *slot)
{
    sw->wildcards -= !!(slot->tuple.family & TUPLE_WILDCARD);
    switch_changed(sw);
    tuple_remove(&sw->tuples, slot);
}

int switch_release(struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct switch_tuple key;
    int status = switch_claim_key(&key, protocol, local);

    if (status)
        return status;
    struct tuple_slot *slot = switch_slot(sw, &key);
    if (!slot || !switch_owns(sw, slot, port))
        return -AMS_EINVAL;
    if (slot->group) {
        if (!group_leave(&sw->groups, slot->group, port, false))
            switch_remove(sw, slot);
    } else if (slot->refs > 1) {
        slot->refs--;
    } else {
        switch_remove(sw, slot);
    }
    return 0;
}

uint32_t switch_claims(const struct ams_switch *sw, uint16_t port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct switch_tuple key;

    if (switch_claim_key(&key, protocol, local))
        return 0;
    const struct tuple_slot *slot = switch_slot(sw, &key);
    if (!slot || !switch_owns(sw, slot, port))
        return 0;
    return slot->group ? group_find(&sw->groups, slot->group, port)->refs : slot->refs;
}

/* Takes a slot from a port.  Return: true if the slot is gone. */
static bool switch_forfeit(struct ams_switch *sw, struct tuple_slot *slot, uint16_t port)
{
    if (!slot->refs || !switch_owns(sw, slot, port))
        return false;
    if (slot->group && group_leave(&sw->groups, slot->group, port, true))
        return false;
    switch_remove(sw, slot);
    return true;
}

void switch_release_port(struct ams_switch *sw, uint16_t port)
{
    bool again = true;

    /* Removal moves later slots of a run into the hole, and those of a run
     * that wraps around may move from the front to a place already passed:
     * go on until a pass finds nothing. */
    while (again) {
        again = false;
        for (uint32_t i = 0; i <= sw->tuples.mask; i++) {
            while (switch_forfeit(sw, &sw->tuples.slots[i], port))
                again = true;
        }
    }
    fragment_forget(&sw->rx_fragments, port);
    fragment_forget(&sw->tx_fragments, port);
}

/* Removes the tuples on one address. */
static void switch_clear_address(struct ams_switch *sw, const struct switch_tuple *address)
{
    bool again = true;

    while (again) { /* as in switch_release_port() */
        again = false;
        for (uint32_t i = 0; i <= sw->tuples.mask; i++) {
            struct tuple_slot *slot = &sw->tuples.slots[i];
            while (slot->refs && slot->tuple.family == address->family && ip_equal(slot->tuple.ip, address->ip)) {
                if (slot->group)
                    group_drop(&sw->groups, slot->group);
                switch_remove(sw, slot);
                again = true;
            }
        }
    }
}

int switch_remove_address(struct ams_switch *sw, const struct ams_endpoint *address)
{
    struct switch_tuple key;

    switch_tuple_set(&key, address->ip, 0, 0, (uint8_t)address->family);
    struct tuple_slot *slot = tuple_find(&sw->addresses, &key, tuple_hash(&sw->addresses, &key));
    if (!slot || slot->owner != SWITCH_ADDRESS_UNICAST)
        return -AMS_EADDRNOTAVAIL;
    switch_changed(sw);
    tuple_remove(&sw->addresses, slot);
    switch_clear_address(sw, &key);
    return 0;
}

/* ---- who owns what ------------------------------------------------------------- */

const struct tuple_slot *switch_find(const struct ams_switch *sw, const struct switch_tuple *tuple)
{
    const struct tuple_slot *slot = switch_slot(sw, tuple);

    if (slot || !sw->wildcards)
        return slot;
    if (switch_address_kind(sw, tuple->ip, tuple->family) == SWITCH_ADDRESS_OTHER)
        return NULL;
    struct switch_tuple wildcard = *tuple;
    tuple_to_wildcard(&wildcard);
    return switch_slot(sw, &wildcard);
}

bool switch_owns(const struct ams_switch *sw, const struct tuple_slot *slot, uint16_t port)
{
    return slot->owner == port || (slot->group && group_find(&sw->groups, slot->group, port));
}

int switch_pick(struct ams_switch *sw, const struct tuple_slot *slot, const struct packet *packet, bool sending,
                uint64_t now)
{
    struct flow_key key;

    if (AMS_LIKELY(!slot->group))
        return slot->owner;
    flow_of(&key, packet, sending);
    return group_pick(&sw->groups, slot->group, &key, sending ? 0 : packet->tcp_flags, now);
}
