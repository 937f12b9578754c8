/* SPDX-License-Identifier: BSD-2-Clause
 *
 * icmp.h - ICMP and ICMPv6 inside the stack.
 */
#ifndef AMS_STACK_ICMP_H
#define AMS_STACK_ICMP_H

#include "stack/stack.h"
#include "wire/icmp.h"

/* Errors that may be sent in a row. */
#define ICMP_BURST 50u

/* Tells the sender of a packet of ours what became of it.
 * @packet: IP header on, perhaps cut
 * @error: status, hard and mtu are set; the rest is filled in from packet */
void icmp_report(struct ams_stack *stack, const uint8_t *packet, size_t len, struct icmp_error *error, uint64_t now);
/* Reads a packet that an ICMP message quotes: addresses, and as far as its
 * protocol has them ports and sequence number.
 * @packet: IP header on, perhaps cut
 * Return: false if it did not come from an address of ours. */
bool icmp_read_quoted(const struct ams_stack *stack, const uint8_t *packet, size_t len, struct icmp_error *quote,
                      uint8_t *protocol);
/* Sends an error about a received packet, unless RFC 1122 section 3.2.2 or
 * RFC 4443 section 2.4 (e) forbid it, or too many were sent already.
 * @icmp: type, code, and the 32 bits behind the checksum */
void icmp_send_error(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                     const struct icmp_repr *icmp, uint64_t now);

#endif
