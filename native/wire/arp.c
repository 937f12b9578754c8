/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/arp.h"

#define HARDWARE_ETHERNET 1u

enum wire_verdict arp_parse(const uint8_t *data, size_t len, struct arp_repr *repr)
{
    if (len < ARP_LENGTH)
        return WIRE_TRUNCATED;
    if (load_be16(data) != HARDWARE_ETHERNET || load_be16(data + 2) != ETHERTYPE_IPV4 || data[4] != ETH_ADDR ||
        data[5] != 4)
        return WIRE_MALFORMED;
    repr->operation = load_be16(data + 6);
    if (repr->operation != ARP_REQUEST && repr->operation != ARP_REPLY)
        return WIRE_MALFORMED;
    memcpy(repr->sender_mac, data + 8, ETH_ADDR);
    memcpy(repr->sender_ip, data + 14, 4);
    memcpy(repr->target_mac, data + 18, ETH_ADDR);
    memcpy(repr->target_ip, data + 24, 4);
    return eth_is_station(repr->sender_mac) ? WIRE_OK : WIRE_MALFORMED;
}

void arp_emit(uint8_t *out, const struct arp_repr *repr)
{
    store_be16(out, HARDWARE_ETHERNET);
    store_be16(out + 2, ETHERTYPE_IPV4);
    out[4] = ETH_ADDR;
    out[5] = 4;
    store_be16(out + 6, repr->operation);
    memcpy(out + 8, repr->sender_mac, ETH_ADDR);
    memcpy(out + 14, repr->sender_ip, 4);
    memcpy(out + 18, repr->target_mac, ETH_ADDR);
    memcpy(out + 24, repr->target_ip, 4);
}
