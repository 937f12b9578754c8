/* SPDX-License-Identifier: BSD-2-Clause
 *
 * arp.h - ARP for IPv4 over Ethernet (RFC 826).
 */
#ifndef AMS_WIRE_ARP_H
#define AMS_WIRE_ARP_H

#include "wire/eth.h"

#define ARP_LENGTH 28u
#define ARP_REQUEST 1u
#define ARP_REPLY 2u

struct arp_repr {
    uint16_t operation;             /* ARP_REQUEST, ARP_REPLY */
    uint8_t sender_mac[ETH_ADDR];
    uint8_t sender_ip[4];
    uint8_t target_mac[ETH_ADDR];
    uint8_t target_ip[4];
};

/* Parses the packet behind the Ethernet header.
 * Return: WIRE_OK; WIRE_TRUNCATED; WIRE_MALFORMED for other hardware or
 * protocol types, operations, or a sender that is no station. */
enum wire_verdict arp_parse(const uint8_t *data, size_t len, struct arp_repr *repr);
/* Writes ARP_LENGTH bytes. */
void arp_emit(uint8_t *out, const struct arp_repr *repr);

#endif
