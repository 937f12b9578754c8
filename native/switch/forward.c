/* SPDX-License-Identifier: BSD-2-Clause
 *
 * forward.c - from one port to another: validation and demux in one pass.
 *
 * Theory of operation.  Nearly every packet is TCP or UDP over IPv4 or IPv6
 * without options, extensions or fragments, from a tuple that one port owns,
 * to another such tuple or to a station elsewhere.  switch_forward() decides
 * on those, and only those, in a straight line that calls nothing: the source
 * MAC address and the EtherType are compared as one word, headers are checked
 * by lengths at fixed places, and both tuples are compared with what the port
 * sent last before any table is asked.  What it cannot decide it leaves,
 * uncounted, to switch_forward_any(), which asks switch_tx() and switch_rx()
 * themselves.  They are the authority: whatever switch_forward() does decide,
 * they would decide likewise, and a test holds it to that.
 *
 * A batch passes twice: parse, compare and prefetch; then look up.
 *
 * A memo holds as long as the switch's epoch does, which changes with every
 * claim and release.  Groups are not remembered, nor decided here: their
 * members depend on the flow.
 */
#include <string.h>

#include "switch/switch.h"
#include "wire/bytes.h"

#define TCP4 (ETH_HEADER + IP4_HEADER)
#define TCP6 (ETH_HEADER + IP6_HEADER)

/* What is known of a frame between the two passes. */
struct forward_item {
    struct switch_tuple source, destination;
    uint32_t source_hash, destination_hash;
    bool sound;                  /* of the common shape, with nothing wrong */
    bool local;                  /* for a tuple of this switch */
    bool group;                  /* for a group address */
    bool source_known;           /* the memo's */
    bool destination_known;
    int32_t target;              /* the memo's, if it is known */
};

/* Two bytes and the EtherType behind a MAC address, as the CPU loads them. */
static inline uint64_t forward_load(const uint8_t *p)
{
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FORWARD_MAC 0x0000ffffffffffffu
#define FORWARD_TYPE(type) ((uint64_t)(((type) >> 8 | (type) << 8) & 0xffff) << 48)
#else
#define FORWARD_MAC 0xffffffffffff0000u
#define FORWARD_TYPE(type) ((uint64_t)(type))
#endif

/* Checks the transport header.
 * @l4: where it is; @end: offset of the packet's end from there */
static inline bool forward_l4(const uint8_t *l4, uint8_t protocol, uint32_t end)
{
    if (AMS_LIKELY(protocol == PROTO_TCP)) {
        uint32_t hlen = (uint32_t)(l4[12] >> 4) * 4;
        return hlen >= PACKET_TCP_HEADER && hlen <= end;
    }
    if (protocol == PROTO_UDP) {
        uint32_t length = load_be16(l4 + 4);
        return end >= UDP_HEADER && length >= UDP_HEADER && length <= end;
    }
    return false;
}

/* Checks a frame and makes its tuples.  Return: false if it is not of the
 * common shape, or anything at all is wrong. */
static inline bool forward_parse(const struct ams_switch *sw, const struct switch_view *frame,
                                 struct forward_item *item)
{
    const uint8_t *data = frame->data, *l4;
    uint64_t source = forward_load(data + 6);
    uint32_t length = frame->length, l4_offset, end;
    uint8_t protocol;

    if (AMS_UNLIKELY(length < TCP4 + UDP_HEADER || length > sw->mtu + ETH_HEADER))
        return false;
    if (AMS_LIKELY(source == (sw->station | FORWARD_TYPE(ETHERTYPE_IPV4)))) {
        const uint8_t *ip = data + ETH_HEADER;
        if (ip[0] != 0x45 || load_be16(ip + 6) & 0x3fff)
            return false;
        end = ETH_HEADER + load_be16(ip + 2);
        l4_offset = TCP4;
        protocol = ip[9];
        l4 = data + TCP4;
        tuple_from_packet(&item->source, ip + 12, AMS_IPV4, load_be16(l4), protocol);
        tuple_from_packet(&item->destination, ip + 16, AMS_IPV4, load_be16(l4 + 2), protocol);
    } else if (source == (sw->station | FORWARD_TYPE(ETHERTYPE_IPV6))) {
        const uint8_t *ip = data + ETH_HEADER;
        if (ip[0] >> 4 != 6 || ip_is4(ip + 8) || ip_is4(ip + 24))
            return false;
        end = TCP6 + load_be16(ip + 4);
        l4_offset = TCP6;
        protocol = ip[6];
        l4 = data + TCP6;
        tuple_from_packet(&item->source, ip + 8, AMS_IPV6, load_be16(l4), protocol);
        tuple_from_packet(&item->destination, ip + 24, AMS_IPV6, load_be16(l4 + 2), protocol);
    } else {
        return false;
    }
    /* The packet fills the frame, padding to the minimum apart. */
    if (AMS_UNLIKELY(end != length && (end > length || length > PACKET_ETH_MIN)))
        return false;
    return end >= l4_offset && forward_l4(l4, protocol, end - l4_offset);
}

static inline bool memo_holds(const struct switch_memo *memo, const struct ams_switch *sw,
                              const struct switch_tuple *tuple)
{
    return memo->epoch == sw->epoch && tuple_equal(&memo->tuple, tuple);
}

static inline void memo_note(struct switch_memo *memo, const struct ams_switch *sw, const struct switch_tuple *tuple,
                             int32_t target)
{
    memo->tuple = *tuple;
    memo->epoch = sw->epoch;
    memo->target = target;
}

/* The first pass over one frame. */
static inline void forward_look(const struct ams_switch *sw, const struct switch_line *line,
                                const struct switch_view *frame, struct forward_item *item)
{
    uint64_t destination = forward_load(frame->data);

    item->sound = forward_parse(sw, frame, item);
    if (AMS_UNLIKELY(!item->sound))
        return;
    item->group = frame->data[0] & 1;
    item->local = (destination & FORWARD_MAC) == (sw->station & FORWARD_MAC);
    item->source_known = memo_holds(&line->source, sw, &item->source);
    item->destination_known = memo_holds(&line->destination, sw, &item->destination);
    item->target = line->destination.target;
    if (!item->source_known) {
        item->source_hash = tuple_hash(&sw->tuples, &item->source);
        tuple_prefetch(&sw->tuples, item->source_hash);
    }
    if (item->local && !item->destination_known) {
        item->destination_hash = tuple_hash(&sw->tuples, &item->destination);
        tuple_prefetch(&sw->tuples, item->destination_hash);
    }
}

/* What tuple_find() missed may belong to a wildcard; rarely called, since what
 * it finds is remembered. */
static __attribute__((noinline)) const struct tuple_slot *forward_wildcard(const struct ams_switch *sw,
                                                                           const struct switch_tuple *tuple, bool source)
{
    if (!sw->wildcards ||
        (source && switch_address_kind(sw, tuple->ip, tuple->family) != SWITCH_ADDRESS_UNICAST))
        return NULL;
    return switch_find(sw, tuple);
}

/* The second pass: where the frame goes.  Nothing is counted here. */
static inline int32_t forward_decide(const struct ams_switch *sw, uint16_t port, struct switch_line *line,
                                     const struct forward_item *item)
{
    if (AMS_UNLIKELY(!item->sound))
        return SWITCH_UNDECIDED;
    if (!item->source_known) {
        const struct tuple_slot *slot = tuple_find(&sw->tuples, &item->source, item->source_hash);
        if (AMS_UNLIKELY(!slot))
            slot = forward_wildcard(sw, &item->source, true);
        if (AMS_UNLIKELY(!slot || slot->owner != port))
            return SWITCH_UNDECIDED;
        memo_note(&line->source, sw, &item->source, port);
    }
    if (!item->local)
        return AMS_UNLIKELY(item->group) ? SWITCH_TO_ALL : SWITCH_TO_WIRE;
    if (item->destination_known)
        return item->target;
    const struct tuple_slot *slot = tuple_find(&sw->tuples, &item->destination, item->destination_hash);
    if (AMS_UNLIKELY(!slot))
        slot = forward_wildcard(sw, &item->destination, false);
    if (AMS_UNLIKELY(!slot || slot->group))
        return SWITCH_UNDECIDED;
    memo_note(&line->destination, sw, &item->destination, slot->owner);
    return slot->owner;
}

void switch_forward(struct ams_switch *sw, uint16_t port, struct switch_line *line, const struct switch_view *frames,
                    int n, int32_t *targets)
{
    struct forward_item items[SWITCH_BATCH];
    uint32_t passed = 0, delivered = 0;

    AMS_ASSERT(n <= SWITCH_BATCH);
    for (int i = 0; i < n; i++)
        forward_look(sw, line, &frames[i], &items[i]);
    for (int i = 0; i < n; i++) {
        targets[i] = forward_decide(sw, port, line, &items[i]);
        passed += targets[i] != SWITCH_UNDECIDED;
        delivered += targets[i] >= 0;
    }
    sw->counters[SWITCH_PASSED] += passed;
    sw->counters[SWITCH_RX_OWNER] += delivered;
}

enum switch_counter switch_forward_tx(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, int32_t *target,
                                      uint64_t now)
{
    const uint8_t *data = tx->head;
    uint8_t verdict;

    *target = SWITCH_TO_NOBODY;
    switch_tx(sw, port, tx, 1, &verdict, now);
    if (verdict != SWITCH_PASSED)
        return (enum switch_counter)verdict;
    if (data[0] & 1) {
        *target = SWITCH_TO_ALL;
    } else if (memcmp(data, sw->mac, 6) != 0) {
        *target = SWITCH_TO_WIRE;
    } else {
        *target = switch_rx_local(sw, data, tx->head_len, tx->total, now);
        if (*target == SWITCH_TO_NOBODY)
            return (enum switch_counter)sw->rx_reason;
    }
    return SWITCH_PASSED;
}

enum switch_counter switch_forward_any(struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t length,
                                       int32_t *target, uint64_t now)
{
    struct ams_tx tx;

    memset(&tx, 0, offsetof(struct ams_tx, frags));
    tx.head = (uint8_t *)(uintptr_t)data; /* read only */
    tx.head_len = tx.total = length;
    return switch_forward_tx(sw, port, &tx, target, now);
}
