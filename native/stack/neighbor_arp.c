/* SPDX-License-Identifier: BSD-2-Clause
 *
 * neighbor_arp.c - ARP (RFC 826, RFC 5227) over the neighbour cache.
 */
#include <string.h>

#include "stack/neighbor.h"
#include "wire/arp.h"
#include "wire/ipv4.h"

/* Builds and queues one ARP packet. */
static void arp_send(struct ams_stack *stack, const uint8_t dst_mac[ETH_ADDR], const struct arp_repr *arp)
{
    struct ams_frame *frame = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!frame) {
        stack->counters.no_memory++;
        return;
    }
    struct eth_repr eth = {.type = ETHERTYPE_ARP};
    memcpy(eth.dst, dst_mac, ETH_ADDR);
    memcpy(eth.src, stack->mac, ETH_ADDR);
    eth_emit(frame->data, &eth);
    arp_emit(frame->data + ETH_HEADER, arp);
    frame->len = ETH_HEADER + ARP_LENGTH;
    stack->counters.arp_tx++;
    stack_enqueue(stack, frame);
}

static const uint8_t broadcast[ETH_ADDR] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

void arp_solicit(struct ams_stack *stack, const struct neighbor *neighbor, bool unicast)
{
    uint8_t source[16];
    if (!iface_source(stack, neighbor->ip, source))
        return;
    struct arp_repr arp = {.operation = ARP_REQUEST};
    memcpy(arp.sender_mac, stack->mac, ETH_ADDR);
    memcpy(arp.sender_ip, source + 12, 4);
    memcpy(arp.target_ip, neighbor->ip + 12, 4);
    arp_send(stack, unicast ? neighbor->header : broadcast, &arp);
}

/* An announcement is a request for our own address (RFC 5227 section 2.3). */
void arp_announce(struct ams_stack *stack, const struct iface_addr *addr)
{
    struct arp_repr arp = {.operation = ARP_REQUEST};
    memcpy(arp.sender_mac, stack->mac, ETH_ADDR);
    memcpy(arp.sender_ip, addr->ip + 12, 4);
    memcpy(arp.target_ip, addr->ip + 12, 4);
    arp_send(stack, broadcast, &arp);
}

/* Answers a request for an address of ours. */
static void arp_reply(struct ams_stack *stack, const struct arp_repr *request)
{
    struct arp_repr arp = {.operation = ARP_REPLY};
    memcpy(arp.sender_mac, stack->mac, ETH_ADDR);
    memcpy(arp.sender_ip, request->target_ip, 4);
    memcpy(arp.target_mac, request->sender_mac, ETH_ADDR);
    memcpy(arp.target_ip, request->sender_ip, 4);
    arp_send(stack, request->sender_mac, &arp);
}

/* Takes in what the sender says about itself.
 * Return: false if it claims an address of ours: it is not answered. */
static bool arp_learn(struct ams_stack *stack, const struct arp_repr *arp, bool to_us, bool broadcasted, uint64_t now)
{
    uint8_t sender[16];
    ip_map4(sender, arp->sender_ip);
    if (ip_is_any(sender)) /* a probe: it has no address yet (RFC 5227 section 2.1.1) */
        return true;
    struct iface_addr *conflict = iface_find(stack, sender);
    if (conflict) {
        iface_conflict(stack, conflict, now);
        return false;
    }
    if (iface_is_broadcast(stack, sender) || ipv4_is_multicast(arp->sender_ip))
        return true;
    enum neighbor_news news = NEIGHBOR_OVERHEARD;
    if (to_us && arp->operation == ARP_REQUEST && iface_on_link(stack, sender))
        news = NEIGHBOR_ASKED;
    else if (to_us && arp->operation == ARP_REPLY && !broadcasted)
        news = NEIGHBOR_ANSWERED;
    neighbor_learn(stack, sender, arp->sender_mac, news, now);
    return true;
}

void arp_input(struct ams_stack *stack, struct ams_frame *frame, struct eth_repr *eth, uint64_t now)
{
    struct arp_repr arp;
    uint8_t target[16];
    stack->counters.arp_rx++;
    if (arp_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &arp) != WIRE_OK ||
        !eth_equal(arp.sender_mac, eth->src)) {
        stack->counters.arp_bad++;
        frame_free(frame);
        return;
    }
    frame_free(frame);
    if (eth_equal(arp.sender_mac, stack->mac))
        return; /* our own, reflected */
    ip_map4(target, arp.target_ip);
    bool to_us = iface_owns(stack, target) && !ip_is_loopback(target);
    if (arp_learn(stack, &arp, to_us, eth_is_group(eth->dst), now) && to_us && arp.operation == ARP_REQUEST)
        arp_reply(stack, &arp);
}
