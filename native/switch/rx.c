/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rx.c - who gets a received frame.
 *
 * Theory of operation.  A batch passes three times: prefetch the frames;
 * parse the common shape, hash its destination tuple and prefetch the slot;
 * look up.  What is not of the common shape, and what misses in the table,
 * takes the slow path below, one frame at a time.
 *
 * The slow path never guesses: each oddity (tag, option, extension header,
 * fragment, quoted packet) is recognised, and is delivered, or dropped under
 * a counter of its own.  What we don't serve or understand at link level is
 * the host's, if it shares our address; of a host that is a station beside us
 * only what is not for our MAC address.
 */
#include <string.h>

#include "switch/switch.h"
#include "wire/bytes.h"

#define TAG_BYTES 4u

static const uint8_t rx_reasons[PACKET_STATUSES] = {
    [PACKET_RUNT] = SWITCH_RX_RUNT,
    [PACKET_VLAN] = SWITCH_RX_VLAN,
    [PACKET_ETHERTYPE] = SWITCH_RX_ETHERTYPE,
    [PACKET_TRUNCATED] = SWITCH_RX_TRUNCATED,
    [PACKET_BAD_HEADER] = SWITCH_RX_BAD_HEADER,
    [PACKET_BAD_LENGTH] = SWITCH_RX_BAD_LENGTH,
    [PACKET_SOURCE_ROUTE] = SWITCH_RX_SOURCE_ROUTE,
    [PACKET_BAD_EXTENSION] = SWITCH_RX_BAD_EXTENSION,
    [PACKET_FRAG_TINY] = SWITCH_RX_FRAG_TINY,
    [PACKET_SHORT] = SWITCH_RX_TRUNCATED,
};

static int32_t rx_drop(struct ams_switch *sw, enum switch_counter reason)
{
    sw->counters[reason]++;
    sw->rx_reason = reason;
    return SWITCH_TO_NOBODY;
}

/* The host's if it may be for it, else dropped for a reason. */
static int32_t rx_host_or_drop(struct ams_switch *sw, const uint8_t *data, enum switch_counter reason)
{
    bool beside = sw->beside && (data[0] & 1 || memcmp(data, sw->mac, 6) != 0);

    return beside || sw->unclaimed == SWITCH_TO_HOST ? SWITCH_TO_HOST : rx_drop(sw, reason);
}

/* Where a packet to an address of ours goes that nobody claimed. */
static int32_t rx_unclaimed(struct ams_switch *sw)
{
    return sw->unclaimed == SWITCH_TO_NOBODY ? rx_drop(sw, SWITCH_RX_UNCLAIMED) : sw->unclaimed;
}

/* An ICMP error goes to the owner of the tuple that the quoted packet, which
 * one of us sent, came from. */
static int32_t rx_icmp_error(struct ams_switch *sw, const struct ams_frame *frame, const struct packet *outer,
                             uint64_t now)
{
    struct packet quoted;
    struct switch_tuple tuple;
    uint32_t reach = ams_min_u32(frame->len, outer->l3_end);

    if (packet_parse_quoted(frame->data, reach, outer->l4 + ICMP_HEADER, outer->family, &quoted) ||
        switch_address_kind(sw, quoted.src, quoted.family) != SWITCH_ADDRESS_UNICAST)
        return rx_host_or_drop(sw, frame->data, SWITCH_RX_ICMP_QUOTE);
    if (!(quoted.flags & PACKET_PORTS)) /* about a ping, or about a later fragment */
        return SWITCH_TO_CONTROL;
    switch_tuple_set(&tuple, quoted.src, quoted.sport, quoted.protocol, quoted.family);
    const struct tuple_slot *slot = switch_find(sw, &tuple);
    return slot ? switch_pick(sw, slot, &quoted, true, now) : rx_unclaimed(sw);
}

/* Chooses the target of an IP packet that shows its transport header. */
static int32_t rx_whole(struct ams_switch *sw, const struct ams_frame *frame, const struct packet *packet, uint64_t now)
{
    enum switch_address kind = switch_address_kind(sw, packet->dst, packet->family);

    if (kind == SWITCH_ADDRESS_OTHER)
        return rx_host_or_drop(sw, frame->data, SWITCH_RX_NOT_OURS);
    if (packet->flags & PACKET_PORTS) {
        struct switch_tuple tuple;
        switch_tuple_set(&tuple, packet->dst, packet->dport, packet->protocol, packet->family);
        const struct tuple_slot *slot = switch_find(sw, &tuple);
        return slot ? switch_pick(sw, slot, packet, false, now) : rx_unclaimed(sw);
    }
    switch (packet->protocol) {
    case PROTO_ICMP:
    case PROTO_ICMPV6:
        if ((packet->protocol == PROTO_ICMP) != (packet->family == AMS_IPV4))
            return rx_unclaimed(sw);
        return packet_is_icmp_error(packet) ? rx_icmp_error(sw, frame, packet, now) : SWITCH_TO_CONTROL;
    case PACKET_IGMP: return SWITCH_TO_CONTROL;
    default: return rx_unclaimed(sw);
    }
}

/* Chooses the target of an IP packet, fragments included. */
static int32_t rx_ip(struct ams_switch *sw, const struct ams_frame *frame, const struct packet *packet, uint64_t now)
{
    sw->counters[SWITCH_RX_IP_OPTIONS] += !!(packet->flags & PACKET_OPTIONS);
    sw->counters[SWITCH_RX_EXTENSIONS] += !!(packet->flags & PACKET_EXTENSIONS);
    if (!(packet->flags & (PACKET_FRAG_FIRST | PACKET_FRAG_LATER)))
        return rx_whole(sw, frame, packet, now);
    sw->counters[SWITCH_RX_FRAGMENTS]++;
    if (packet->flags & PACKET_FRAG_FIRST) {
        int32_t target = rx_whole(sw, frame, packet, now);
        fragment_store(&sw->rx_fragments, packet, target, now);
        sw->counters[SWITCH_RX_FRAG_EVICTED] = sw->rx_fragments.evicted;
        return target;
    }
    const struct fragment_record *record = fragment_find(&sw->rx_fragments, packet, now);
    if (record)
        return record->target == SWITCH_TO_NOBODY ? rx_drop(sw, SWITCH_RX_FRAG_ORPHAN) : record->target;
    if (switch_address_kind(sw, packet->dst, packet->family) == SWITCH_ADDRESS_OTHER)
        return rx_host_or_drop(sw, frame->data, SWITCH_RX_NOT_OURS);
    return sw->orphans_to_control ? SWITCH_TO_CONTROL : rx_drop(sw, SWITCH_RX_FRAG_ORPHAN);
}

/* Takes a priority tag off: VLAN 0 means "untagged, with a priority"
 * (IEEE 802.1Q section 6.9). */
static void rx_untag(struct ams_switch *sw, struct ams_frame *frame)
{
    if (frame->len < ETH_HEADER + TAG_BYTES || load_be16(frame->data + 12) != 0x8100 ||
        load_be16(frame->data + 14) & 0x0fff)
        return;
    memmove(frame->data + TAG_BYTES, frame->data, 12);
    frame_pull(frame, TAG_BYTES);
    sw->counters[SWITCH_RX_PRIORITY_TAG]++;
}

/* True for group addresses and our own. */
static inline bool rx_mac_ours(const struct ams_switch *sw, const uint8_t *data)
{
    return data[0] & 1 || memcmp(data, sw->mac, 6) == 0;
}

/* The slow path: all shapes.
 * @more: bytes of the frame that follow those in `frame` */
static int32_t rx_frame(struct ams_switch *sw, struct ams_frame *frame, uint32_t more, uint64_t now)
{
    struct packet packet;

    rx_untag(sw, frame);
    enum packet_status status = packet_parse(frame->data, frame->len, frame->len + more, &packet);
    if (status == PACKET_RUNT)
        return rx_drop(sw, SWITCH_RX_RUNT);
    if (!rx_mac_ours(sw, frame->data))
        return rx_host_or_drop(sw, frame->data, SWITCH_RX_OTHER_MAC);
    if (status == PACKET_VLAN || status == PACKET_ETHERTYPE)
        return rx_host_or_drop(sw, frame->data, rx_reasons[status]);
    if (status)
        return rx_drop(sw, rx_reasons[status]);
    if (packet.ethertype == ETHERTYPE_ARP)
        return SWITCH_TO_CONTROL;
    return rx_ip(sw, frame, &packet, now);
}

/* Counts where a frame went; drops were counted with their reason. */
static inline void rx_count(struct ams_switch *sw, int32_t target)
{
    if (AMS_LIKELY(target >= 0))
        sw->counters[SWITCH_RX_OWNER]++;
    else if (target == SWITCH_TO_CONTROL)
        sw->counters[SWITCH_RX_CONTROL]++;
    else if (target == SWITCH_TO_HOST)
        sw->counters[SWITCH_RX_HOST]++;
}

/* Makes the destination tuple of a frame of the common shape. */
static inline bool rx_fast(const struct ams_switch *sw, const struct ams_frame *frame, struct switch_tuple *tuple)
{
    struct packet packet;

    if (!packet_fast(frame->data, frame->len, frame->len, &packet) || memcmp(frame->data, sw->mac, 6) != 0)
        return false;
    tuple_from_packet(tuple, frame->data + packet_dst_offset(&packet), packet.family, packet.dport, packet.protocol);
    return true;
}

/* Classifies up to SWITCH_BATCH frames.
 * @reasons: why those for nobody are dropped; may be NULL */
static void rx_batch(struct ams_switch *sw, struct ams_frame *const *frames, int n, int32_t *targets, uint8_t *reasons,
                     uint64_t now)
{
    struct switch_tuple tuples[SWITCH_BATCH];
    uint32_t hashes[SWITCH_BATCH];
    bool fast[SWITCH_BATCH];

    for (int i = 0; i < n; i++)
        AMS_PREFETCH(frames[i]->data);
    for (int i = 0; i < n; i++) {
        fast[i] = rx_fast(sw, frames[i], &tuples[i]);
        if (AMS_LIKELY(fast[i])) {
            hashes[i] = tuple_hash(&sw->tuples, &tuples[i]);
            tuple_prefetch(&sw->tuples, hashes[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        const struct tuple_slot *slot = fast[i] ? tuple_find(&sw->tuples, &tuples[i], hashes[i]) : NULL;
        if (fast[i] && !slot && sw->wildcards)
            slot = switch_find(sw, &tuples[i]);
        targets[i] = AMS_LIKELY(slot && !slot->group) ? slot->owner : rx_frame(sw, frames[i], 0, now);
        rx_count(sw, targets[i]);
        if (reasons)
            reasons[i] = sw->rx_reason;
    }
}

void switch_rx_reasons(struct ams_switch *sw, struct ams_frame *const *frames, int n, int32_t *targets,
                       uint8_t *reasons, uint64_t now)
{
    for (int done = 0; done < n; done += SWITCH_BATCH) {
        int part = n - done < SWITCH_BATCH ? n - done : SWITCH_BATCH;
        rx_batch(sw, frames + done, part, targets + done, reasons ? reasons + done : NULL, now);
    }
}

void switch_rx(struct ams_switch *sw, struct ams_frame *const *frames, int n, int32_t *targets, uint64_t now)
{
    switch_rx_reasons(sw, frames, n, targets, NULL, now);
}

int32_t switch_rx_local(struct ams_switch *sw, const uint8_t *data, uint32_t avail, uint32_t length, uint64_t now)
{
    struct ams_frame view = {.data = (uint8_t *)(uintptr_t)data, .len = avail}; /* untagged: not written to */
    int32_t target = rx_frame(sw, &view, length - avail, now);

    rx_count(sw, target);
    return target;
}

int32_t switch_group_receiver(struct ams_switch *sw, const uint8_t *data, uint32_t length, uint64_t now)
{
    struct packet packet;
    struct switch_tuple tuple;

    if (packet_parse(data, length, length, &packet) != PACKET_OK || !(packet.flags & PACKET_PORTS) ||
        packet.flags & PACKET_FRAG_FIRST)
        return SWITCH_TO_NOBODY;
    switch_tuple_set(&tuple, packet.dst, packet.dport, packet.protocol, packet.family);
    const struct tuple_slot *slot = switch_find(sw, &tuple);
    return slot ? switch_pick(sw, slot, &packet, false, now) : SWITCH_TO_NOBODY;
}
