/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ip.h - what the files of the network layer know of each other.
 *
 * Whole frames.  A frame that is ready to leave, waits for a neighbour, or
 * goes to ourselves has its window on the Ethernet header and carries what a
 * tx descriptor would say in its own fields:
 *
 *   marks     TX_CSUM, TX_GSO4, TX_GSO6; IP_MARK_FRAGMENT
 *   aux16     csum_start
 *   aux       csum_offset in the high half, gso_hdr_len in the low one
 *   gso_size  as in struct ams_tx
 *   seq       with IP_MARK_FRAGMENT: the MTU to cut the packet to
 */
#ifndef AMS_STACK_IP_H
#define AMS_STACK_IP_H

#include "stack/stack.h"
#include "wire/ipv6.h"

#define IP_MARK_FRAGMENT 0x80u
#define IP_HOP_LIMIT 64          /* RFC 1700; unicast */
#define IP_HOP_LIMIT_GROUP 1     /* RFC 1112 section 6.1 */

/* ---- ip_input.c ------------------------------------------------------------ */

/* How a packet came to us. */
struct ip_arrival {
    bool group;      /* link-layer broadcast or multicast */
    bool looped;     /* sent by ourselves, over no link */
};

/* A received IPv4 or IPv6 packet behind its Ethernet header.  Consumes frame. */
void ip4_input(struct ams_stack *stack, struct ams_frame *frame, struct ip_arrival arrival, uint64_t now);
void ip6_input(struct ams_stack *stack, struct ams_frame *frame, struct ip_arrival arrival, uint64_t now);
/* Hands a whole packet up.  Consumes frame. */
void ip4_deliver(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now);
/* The same for IPv6, where extension headers may lie before the upper layer.
 * @ip: protocol, l4_off and l4_len are set from the walk
 * @walk: where to go on
 * @reassembled: a fragment header was passed; there must be no other */
void ip6_deliver(struct ams_stack *stack, struct ams_frame *frame, struct ip_info *ip, struct ipv6_walk walk,
                 bool reassembled, uint64_t now);

/* ---- ip_output.c ------------------------------------------------------------- */

/* What ip_send() is to do with a frame. */
struct ip_send {
    const uint8_t *src;
    const uint8_t *dst;
    uint8_t protocol;
    struct ip_class class_;  /* the default hop limit is that of the kind of destination */
    bool fragmentable;       /* IPv4: without DF, routers may cut it */
    bool also_here;          /* to a group that we are in: receive a copy, too */
    bool only_here;          /* it does not go out */
    uint16_t csum_offset;    /* of the L4 checksum, from the L4 header */
};

/* As ip_send_frame(), on a path that was looked up already. */
int ip_send(struct ams_stack *stack, struct ip_path *path, struct ams_frame *frame, const struct ip_send *send,
            uint64_t now);
/* Copies what a descriptor describes into a whole frame.  Owns: the caller.
 * Return: NULL without memory. */
struct ams_frame *ip_frame_from_tx(struct ams_stack *stack, const struct ams_tx *tx);
/* Queues a whole frame whose Ethernet header is complete; cuts it into
 * fragments if it is marked so.  Consumes frame.  Return: 0 or a status. */
int ip_transmit(struct ams_stack *stack, struct ams_frame *frame);
/* Queues a whole frame for ourselves.  Consumes frame.  Return: 0, -AMS_EAGAIN. */
int ip_loop(struct ams_stack *stack, struct ams_frame *frame);
/* Receives what ip_loop() queued before the call. */
void ip_loop_run(struct ams_stack *stack, uint64_t now);

#endif
