/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tx.c - what a port may send.
 *
 * Theory of operation.  The rule is that a packet leaves only if its source
 * 3-tuple belongs to the port that sends it; all else here closes ways
 * around that rule:
 *
 * - Lengths: the IP packet fills the frame (padding to the Ethernet minimum
 *   apart), so nothing rides behind it; the pieces add up to the frame.
 * - Headers in pieces: what the parser needs is gathered first, up to
 *   TX_REACH bytes; headers that lie deeper are refused.
 * - Fragments: the first one carries its ports and is checked; later ones
 *   follow a first one that the same port sent.  An identification that
 *   another port is using for the same pair of addresses is refused, since
 *   its fragments would mix with the other's at the receiver.  The ports are
 *   the first bytes of what was cut into fragments: a later one that overlaps
 *   the first can't reach them, whatever its receiver makes of it (RFC 5722).
 * - Offloads: the device writes a checksum where the descriptor says and
 *   repeats headers as long as it says; both must be what the packet shows,
 *   or they would rewrite ports after they were checked.
 * - A RST for a tuple that nobody owns is the control owner's to send.
 *
 * ARP, ICMP, NDP, MLD and IGMP are in tx_control.c.
 */
#include <string.h>

#include "switch/switch.h"
#include "wire/bytes.h"

#define TX_REACH SWITCH_HEAD /* Ethernet, IP with options, ICMP, quoted IP with options, ports: 158; IPv6 with extensions */

static const uint8_t tx_reasons[PACKET_STATUSES] = {
    [PACKET_RUNT] = SWITCH_TX_RUNT,
    [PACKET_VLAN] = SWITCH_TX_VLAN,
    [PACKET_ETHERTYPE] = SWITCH_TX_ETHERTYPE,
    [PACKET_TRUNCATED] = SWITCH_TX_TRUNCATED,
    [PACKET_BAD_HEADER] = SWITCH_TX_BAD_HEADER,
    [PACKET_BAD_LENGTH] = SWITCH_TX_BAD_LENGTH,
    [PACKET_SOURCE_ROUTE] = SWITCH_TX_SOURCE_ROUTE,
    [PACKET_BAD_EXTENSION] = SWITCH_TX_BAD_EXTENSION,
    [PACKET_FRAG_TINY] = SWITCH_TX_FRAG_TINY,
    [PACKET_SHORT] = SWITCH_TX_TRUNCATED,
};

/* True if the pieces of a descriptor add up to its total. */
static inline bool tx_pieces_ok(const struct ams_tx *tx)
{
    uint64_t sum = tx->head_len;

    if (AMS_UNLIKELY(tx->n_frags > TX_FRAGS))
        return false;
    for (uint32_t i = 0; i < tx->n_frags; i++)
        sum += tx->frags[i].len;
    return sum == tx->total;
}

/* Copies the first bytes of a frame together.
 * @scratch: TX_REACH bytes
 * Return: how many. */
static uint32_t tx_reach(const struct ams_tx *tx, uint8_t *scratch)
{
    uint32_t length = ams_min_u32(tx->head_len, TX_REACH);

    memcpy(scratch, tx->head, length);
    for (uint32_t i = 0; i < tx->n_frags && length < TX_REACH; i++) {
        uint32_t part = ams_min_u32(tx->frags[i].len, TX_REACH - length);
        memcpy(scratch + length, tx->frags[i].data, part);
        length += part;
    }
    return length;
}

/* Checks a request to finish the checksum against the packet. */
static inline bool tx_csum_ok(const struct ams_tx *tx, const struct packet *packet)
{
    uint32_t offset;

    switch (packet->protocol) {
    case PROTO_TCP: offset = 16; break;
    case PROTO_UDP: offset = 6; break;
    case PROTO_ICMPV6: offset = 2; break;
    default: return false;
    }
    return tx->csum_start == packet->l4 && tx->csum_offset == offset && packet->l4 + offset + 2 <= tx->head_len &&
           !(packet->flags & (PACKET_FRAG_FIRST | PACKET_FRAG_LATER)) && packet->family;
}

/* Checks length, and the requests for checksum and segmentation.
 * Return: SWITCH_PASSED or a reason. */
static inline enum switch_counter tx_offload(const struct ams_switch *sw, const struct ams_tx *tx,
                                             const struct packet *packet)
{
    uint32_t flags = tx->flags;

    if (AMS_UNLIKELY(flags & ~(TX_CSUM | TX_GSO4 | TX_GSO6)))
        return SWITCH_TX_OFFLOAD;
    if (flags & TX_CSUM && !tx_csum_ok(tx, packet))
        return SWITCH_TX_OFFLOAD;
    if (!tx->gso_size) {
        if (flags & (TX_GSO4 | TX_GSO6))
            return SWITCH_TX_OFFLOAD;
        return tx->total <= sw->mtu + ETH_HEADER ? SWITCH_PASSED : SWITCH_TX_TOO_LONG;
    }
    uint32_t header = packet->l4 + packet->l4_hlen;
    uint32_t expected = TX_CSUM | (packet->family == AMS_IPV4 ? TX_GSO4 : TX_GSO6);
    if (flags != expected || packet->protocol != PROTO_TCP || tx->gso_hdr_len != header ||
        header > tx->head_len || tx->total <= header)
        return SWITCH_TX_OFFLOAD;
    if (header + tx->gso_size > sw->mtu + ETH_HEADER)
        return SWITCH_TX_TOO_LONG;
    return SWITCH_PASSED;
}

/* True if the IP packet fills the frame, padding to the minimum apart. */
static inline bool tx_fills_frame(const struct ams_tx *tx, const struct packet *packet)
{
    return packet->l3_end == tx->total || (packet->l3_end < tx->total && tx->total <= PACKET_ETH_MIN);
}

/* Checks the source tuple of a packet that shows its ports. */
static enum switch_counter tx_tuple(struct ams_switch *sw, uint16_t port, const struct packet *packet, uint64_t now)
{
    struct switch_tuple tuple;
    struct flow_key flow;

    if (switch_address_kind(sw, packet->src, packet->family) != SWITCH_ADDRESS_UNICAST)
        return SWITCH_TX_SOURCE_ADDRESS;
    switch_tuple_set(&tuple, packet->src, packet->sport, packet->protocol, packet->family);
    const struct tuple_slot *slot = switch_find(sw, &tuple);
    if (slot && switch_owns(sw, slot, port)) {
        if (slot->group) {
            flow_of(&flow, packet, true);
            group_learn(&sw->groups, slot->group, port, &flow, packet->tcp_flags, now);
        }
        return SWITCH_PASSED;
    }
    /* RFC 9293 section 3.5.2: whoever answers for the address resets what nobody has */
    if (!slot && port == sw->control && packet->protocol == PROTO_TCP &&
        packet->tcp_flags & PACKET_TCP_RST && !(packet->flags & PACKET_FRAG_FIRST))
        return SWITCH_PASSED;
    return SWITCH_TX_TUPLE;
}

/* Checks an IP packet that is no later fragment. */
static enum switch_counter tx_whole(struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t avail,
                                    const struct packet *packet, uint64_t now)
{
    if (packet->flags & PACKET_PORTS)
        return tx_tuple(sw, port, packet, now);
    switch (packet->protocol) {
    case PROTO_ICMP:
    case PROTO_ICMPV6: return switch_tx_icmp(sw, port, data, avail, packet);
    case PACKET_IGMP: return switch_tx_igmp(sw, port, packet);
    default: return SWITCH_TX_PROTOCOL;
    }
}

/* Checks a fragment; `verdict` is what its ports (if any) gave. */
static enum switch_counter tx_fragment(struct ams_switch *sw, uint16_t port, const struct packet *packet,
                                       enum switch_counter verdict, uint64_t now)
{
    const struct fragment_record *record = fragment_find(&sw->tx_fragments, packet, now);

    if (verdict)
        return verdict;
    if (record && record->target != port)
        return SWITCH_TX_FRAG_CONFLICT;
    if (packet->flags & PACKET_FRAG_LATER) {
        if (switch_address_kind(sw, packet->src, packet->family) != SWITCH_ADDRESS_UNICAST)
            return SWITCH_TX_SOURCE_ADDRESS;
        return record ? SWITCH_PASSED : SWITCH_TX_FRAG_ORPHAN;
    }
    fragment_store(&sw->tx_fragments, packet, port, now);
    sw->counters[SWITCH_TX_FRAG_EVICTED] = sw->tx_fragments.evicted;
    return SWITCH_PASSED;
}

/* The slow path: all shapes. */
static enum switch_counter tx_frame(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, uint64_t now)
{
    uint8_t scratch[TX_REACH];
    const uint8_t *data = tx->head;
    uint32_t avail = tx->head_len;
    struct packet packet;

    if (!tx_pieces_ok(tx))
        return SWITCH_TX_DESCRIPTOR;
    if (tx->n_frags && avail < TX_REACH) {
        avail = tx_reach(tx, scratch);
        data = scratch;
    }
    enum packet_status status = packet_parse(data, avail, tx->total, &packet);
    if (status == PACKET_RUNT)
        return SWITCH_TX_RUNT;
    if (avail >= ETH_HEADER && memcmp(data + 6, sw->mac, 6) != 0)
        return SWITCH_TX_SOURCE_MAC;
    if (status)
        return tx_reasons[status];
    if (packet.flags & PACKET_ROUTING)
        return SWITCH_TX_SOURCE_ROUTE;
    if (packet.flags & PACKET_FRAG_DEEP)
        return SWITCH_TX_FRAG_TINY;
    enum switch_counter reason = tx_offload(sw, tx, &packet);
    if (reason)
        return reason;
    if (packet.ethertype == ETHERTYPE_ARP)
        return switch_tx_arp(sw, port, data, &packet);
    if (!tx_fills_frame(tx, &packet))
        return SWITCH_TX_BAD_LENGTH;
    reason = packet.flags & PACKET_FRAG_LATER ? SWITCH_PASSED : tx_whole(sw, port, data, avail, &packet, now);
    if (packet.flags & (PACKET_FRAG_FIRST | PACKET_FRAG_LATER))
        reason = tx_fragment(sw, port, &packet, reason, now);
    return reason;
}

/* Makes the source tuple of a frame of the common shape that is sound in all
 * but its tuple.  Return: false if it needs the slow path. */
static inline bool tx_fast(const struct ams_switch *sw, const struct ams_tx *tx, struct switch_tuple *tuple)
{
    struct packet packet;

    if (!packet_fast(tx->head, tx->head_len, tx->total, &packet) || memcmp(tx->head + 6, sw->mac, 6) != 0 ||
        !tx_pieces_ok(tx) || !tx_fills_frame(tx, &packet) || tx_offload(sw, tx, &packet))
        return false;
    tuple_from_packet(tuple, tx->head + packet_src_offset(&packet), packet.family, packet.sport, packet.protocol);
    return true;
}

/* Validates up to SWITCH_BATCH frames. */
static int tx_batch(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, int n, uint8_t *verdicts,
                    uint64_t now)
{
    struct switch_tuple tuples[SWITCH_BATCH];
    uint32_t hashes[SWITCH_BATCH];
    bool fast[SWITCH_BATCH];
    int passed = 0;

    for (int i = 0; i < n; i++) {
        fast[i] = tx_fast(sw, &tx[i], &tuples[i]);
        if (AMS_LIKELY(fast[i])) {
            hashes[i] = tuple_hash(&sw->tuples, &tuples[i]);
            tuple_prefetch(&sw->tuples, hashes[i]);
        }
    }
    for (int i = 0; i < n; i++) {
        const struct tuple_slot *slot = fast[i] ? tuple_find(&sw->tuples, &tuples[i], hashes[i]) : NULL;
        if (AMS_LIKELY(slot && slot->owner == port))
            verdicts[i] = SWITCH_PASSED;
        else
            verdicts[i] = (uint8_t)tx_frame(sw, port, &tx[i], now);
        sw->counters[verdicts[i]]++;
        passed += verdicts[i] == SWITCH_PASSED;
    }
    return passed;
}

int switch_tx(struct ams_switch *sw, uint16_t port, const struct ams_tx *tx, int n, uint8_t *verdicts, uint64_t now)
{
    int passed = 0;

    for (int done = 0; done < n; done += SWITCH_BATCH) {
        int part = n - done < SWITCH_BATCH ? n - done : SWITCH_BATCH;
        passed += tx_batch(sw, port, tx + done, part, verdicts + done, now);
    }
    return passed;
}

bool switch_truthful(struct ams_switch *sw, const uint8_t *data, uint32_t length)
{
    struct packet packet;

    if (length < ETH_HEADER || memcmp(data + 6, sw->mac, 6) != 0 || length > sw->mtu + ETH_HEADER ||
        packet_parse(data, length, length, &packet) != PACKET_OK)
        return false;
    if (packet.ethertype == ETHERTYPE_ARP)
        return switch_tx_arp(sw, sw->control, data, &packet) == SWITCH_PASSED;
    if (packet.flags & (PACKET_PORTS | PACKET_FRAG_FIRST | PACKET_FRAG_LATER | PACKET_ROUTING))
        return false;
    return tx_whole(sw, sw->control, data, length, &packet, 0) == SWITCH_PASSED;
}
