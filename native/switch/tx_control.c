/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tx_control.c - validation of packets that have no 3-tuple of their own.
 *
 * Who speaks for an address itself is the control owner, and it may say
 * nothing but the truth: our MAC address, addresses that we serve.  The one
 * thing that any port may send besides TCP and UDP is an ICMP error about a
 * packet that it received, that is, one that quotes a packet whose
 * destination tuple it owns, sent to whom that packet came from.
 */
#include <string.h>

#include "switch/switch.h"
#include "wire/arp.h"
#include "wire/icmp.h"

#define NDP_OPTION_SOURCE_MAC 1
#define NDP_OPTION_TARGET_MAC 2
#define NDP_HOP_LIMIT 255 /* RFC 4861 section 7.1 */
#define NDP_NEIGHBOR 24u  /* a solicitation or advertisement without options (RFC 4861 sections 4.3, 4.4) */

static bool control_serves(const struct ams_switch *sw, const uint8_t ip[16], uint8_t family)
{
    return switch_address_kind(sw, ip, family) == SWITCH_ADDRESS_UNICAST;
}

static bool control_unspecified(const uint8_t ip[16])
{
    static const uint8_t unspecified[16];
    return ip_equal(ip, unspecified);
}

enum switch_counter switch_tx_arp(const struct ams_switch *sw, uint16_t port, const uint8_t *data,
                                  const struct packet *packet)
{
    static const uint8_t zero[4];
    struct arp_repr arp;
    uint8_t sender[16], target[16];

    if (port != sw->control || arp_parse(data + packet->l3, ARP_LENGTH, &arp) != WIRE_OK ||
        !eth_equal(arp.sender_mac, sw->mac))
        return SWITCH_TX_ARP;
    ip_map4(sender, arp.sender_ip);
    ip_map4(target, arp.target_ip);
    if (arp.operation == ARP_REQUEST && memcmp(arp.sender_ip, zero, 4) == 0) /* RFC 5227 section 2.1.1: a probe */
        return control_serves(sw, target, AMS_IPV4) ? SWITCH_PASSED : SWITCH_TX_ARP;
    return control_serves(sw, sender, AMS_IPV4) ? SWITCH_PASSED : SWITCH_TX_ARP;
}

/* An ICMP error: it must answer a packet that this port received. */
static enum switch_counter tx_icmp_error(const struct ams_switch *sw, uint16_t port, const uint8_t *data,
                                         uint32_t avail, const struct packet *outer)
{
    struct packet quoted;
    struct switch_tuple tuple;
    uint32_t reach = ams_min_u32(avail, outer->l3_end);

    if (packet_parse_quoted(data, reach, outer->l4 + ICMP_HEADER, outer->family, &quoted) ||
        !ip_equal(quoted.src, outer->dst) || !control_serves(sw, quoted.dst, quoted.family))
        return SWITCH_TX_ICMP;
    if (!(quoted.flags & PACKET_PORTS))
        return port == sw->control ? SWITCH_PASSED : SWITCH_TX_ICMP;
    switch_tuple_set(&tuple, quoted.dst, quoted.dport, quoted.protocol, quoted.family);
    const struct tuple_slot *slot = switch_find(sw, &tuple);
    bool ours = slot ? switch_owns(sw, slot, port) : port == sw->control;
    return ours ? SWITCH_PASSED : SWITCH_TX_ICMP;
}

/* Walks NDP options: a link-layer address in them must be ours.
 * @offset: of the first option; @own: type whose presence is reported
 * Return: -1 malformed or false, else whether an option `own` is there. */
static int ndp_options(const struct ams_switch *sw, const uint8_t *data, uint32_t avail, uint32_t offset, uint32_t end,
                       uint8_t own)
{
    int seen = 0;

    if (offset > end || end > avail)
        return -1;
    while (offset < end) {
        if (end - offset < 8)
            return -1;
        uint32_t length = data[offset + 1] * 8u;
        if (!length || length > end - offset)
            return -1;
        uint8_t type = data[offset];
        if (type == NDP_OPTION_SOURCE_MAC || type == NDP_OPTION_TARGET_MAC) {
            if (length != 8 || memcmp(data + offset + 2, sw->mac, 6) != 0)
                return -1;
            seen |= type == own;
        }
        offset += length;
    }
    return seen;
}

/* Router solicitations, neighbour solicitations and advertisements. */
static enum switch_counter tx_ndp(const struct ams_switch *sw, const uint8_t *data, uint32_t avail,
                                  const struct packet *packet)
{
    bool router = packet->icmp_type == ICMP6_ROUTER_SOLICIT;
    bool advert = packet->icmp_type == ICMP6_NEIGHBOR_ADVERT;
    uint32_t fixed = router ? 8 : NDP_NEIGHBOR; /* RFC 4861 section 4.1 */
    uint32_t reach = ams_min_u32(avail, packet->l3_end);

    /* RFC 6980: never fragmented */
    if (packet->hop_limit != NDP_HOP_LIMIT || packet->icmp_code || packet->flags & PACKET_FRAG_FIRST ||
        reach - packet->l4 < fixed)
        return SWITCH_TX_NDP;
    int own = ndp_options(sw, data, avail, packet->l4 + fixed, packet->l3_end,
                          advert ? NDP_OPTION_TARGET_MAC : NDP_OPTION_SOURCE_MAC);
    if (own < 0)
        return SWITCH_TX_NDP;
    const uint8_t *target = data + packet->l4 + 8;
    if (advert && !control_serves(sw, target, AMS_IPV6))
        return SWITCH_TX_NDP;
    if (control_serves(sw, packet->src, AMS_IPV6))
        return SWITCH_PASSED;
    /* From the unspecified address: a solicitation of a router, or, for duplicate
     * address detection (RFC 4862 section 5.4.2), of our own address. */
    if (!control_unspecified(packet->src) || advert || own || (!router && !control_serves(sw, target, AMS_IPV6)))
        return SWITCH_TX_NDP;
    return SWITCH_PASSED;
}

/* Which ICMPv6 messages a port may send; see the head of this file. */
static enum switch_counter tx_icmp6(const struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t avail,
                                    const struct packet *packet)
{
    bool served = control_serves(sw, packet->src, AMS_IPV6);

    if (packet_is_icmp_error(packet)) {
        if (packet->icmp_type == ICMP6_TOO_BIG || !packet->icmp_type || packet->icmp_type > 4)
            return SWITCH_TX_ICMP; /* a router's word */
        return served ? tx_icmp_error(sw, port, data, avail, packet) : SWITCH_TX_SOURCE_ADDRESS;
    }
    if (port != sw->control)
        return SWITCH_TX_ICMP;
    switch (packet->icmp_type) {
    case ICMP6_ROUTER_SOLICIT:
    case ICMP6_NEIGHBOR_SOLICIT:
    case ICMP6_NEIGHBOR_ADVERT: return tx_ndp(sw, data, avail, packet);
    case ICMP6_MLD_REPORT:
    case ICMP6_MLD_DONE:
    case ICMP6_MLD2_REPORT: /* RFC 3810 section 5.2.13 */
        return served || control_unspecified(packet->src) ? SWITCH_PASSED : SWITCH_TX_SOURCE_ADDRESS;
    case ICMP6_ECHO_REQUEST:
    case ICMP6_ECHO_REPLY: return served ? SWITCH_PASSED : SWITCH_TX_SOURCE_ADDRESS;
    default: return SWITCH_TX_ICMP;
    }
}

enum switch_counter switch_tx_icmp(const struct ams_switch *sw, uint16_t port, const uint8_t *data, uint32_t avail,
                                   const struct packet *packet)
{
    if ((packet->protocol == PROTO_ICMP) != (packet->family == AMS_IPV4))
        return SWITCH_TX_PROTOCOL;
    if (packet->family == AMS_IPV6)
        return tx_icmp6(sw, port, data, avail, packet);
    if (!control_serves(sw, packet->src, AMS_IPV4))
        return SWITCH_TX_SOURCE_ADDRESS;
    if (packet_is_icmp_error(packet))
        return tx_icmp_error(sw, port, data, avail, packet);
    if (port == sw->control && (packet->icmp_type == ICMP4_ECHO_REQUEST || packet->icmp_type == ICMP4_ECHO_REPLY))
        return SWITCH_PASSED;
    return SWITCH_TX_ICMP;
}

enum switch_counter switch_tx_igmp(const struct ams_switch *sw, uint16_t port, const struct packet *packet)
{
    if (packet->family != AMS_IPV4 || port != sw->control || packet->flags & PACKET_FRAG_FIRST)
        return SWITCH_TX_PROTOCOL;
    return control_serves(sw, packet->src, AMS_IPV4) ? SWITCH_PASSED : SWITCH_TX_SOURCE_ADDRESS;
}

/* ---- what others say about addresses --------------------------------------------- */

static uint32_t neighbor_arp_is(const struct ams_switch *sw, const uint8_t *data)
{
    uint8_t sender[16], target[16];
    struct arp_repr arp;
    uint32_t is = SWITCH_NEIGHBOR;

    if (arp_parse(data, ARP_LENGTH, &arp) != WIRE_OK)
        return is;
    ip_map4(sender, arp.sender_ip);
    ip_map4(target, arp.target_ip);
    if (arp.operation == ARP_REQUEST)
        is |= SWITCH_NEIGHBOR_ASKS | (control_serves(sw, target, AMS_IPV4) ? SWITCH_NEIGHBOR_OURS : 0);
    return is | (control_serves(sw, sender, AMS_IPV4) ? SWITCH_NEIGHBOR_POSES : 0);
}

uint32_t switch_neighbor(const struct ams_switch *sw, const uint8_t *data, uint32_t length)
{
    struct packet packet;

    if (packet_parse(data, length, length, &packet) != PACKET_OK)
        return 0;
    if (packet.ethertype == ETHERTYPE_ARP)
        return neighbor_arp_is(sw, data + packet.l3);
    /* RFC 6980: what is fragmented is ignored by whoever gets it */
    if (packet.family != AMS_IPV6 || packet.protocol != PROTO_ICMPV6 ||
        packet.flags & (PACKET_FRAG_FIRST | PACKET_FRAG_LATER) || packet.l3_end - packet.l4 < NDP_NEIGHBOR ||
        (packet.icmp_type != ICMP6_NEIGHBOR_SOLICIT && packet.icmp_type != ICMP6_NEIGHBOR_ADVERT))
        return 0;
    bool asks = packet.icmp_type == ICMP6_NEIGHBOR_SOLICIT;
    bool target = control_serves(sw, data + packet.l4 + ICMP_HEADER, AMS_IPV6);
    bool poses = control_serves(sw, packet.src, AMS_IPV6) || (!asks && target);
    return SWITCH_NEIGHBOR | (asks ? SWITCH_NEIGHBOR_ASKS : 0) | (asks && target ? SWITCH_NEIGHBOR_OURS : 0) |
           (poses ? SWITCH_NEIGHBOR_POSES : 0);
}
