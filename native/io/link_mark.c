/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/link_mark.h"

#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/proto.h"

#define EXTENSIONS_MAX 8
#define TCP_HEADER 20u
#define TCP_CHECKSUM_AT 16u
#define UDP_CHECKSUM_AT 6u

/* Where the transport header is. */
struct place {
    uint8_t src[16];
    uint8_t dst[16];
    uint32_t l4;
    uint32_t end;       /* of the IP packet */
    uint8_t protocol;
};

/* Return: false if there is nothing to be seen: a fragment, or not IPv4. */
static bool place_ip4(const uint8_t *ip, uint32_t length, struct place *place)
{
    if (length < IP4_HEADER || load_be16(ip + 6) & 0x3fff)
        return false;
    place->l4 = (uint32_t)(ip[0] & 15) * 4;
    place->end = load_be16(ip + 2);
    place->protocol = ip[9];
    ip_map4(place->src, ip + 12);
    ip_map4(place->dst, ip + 16);
    return place->l4 >= IP4_HEADER && place->end <= length;
}

/* The same for IPv6, with the extension headers that leave the pseudo-header
 * as it is (a routing header doesn't: RFC 8200 section 8.1). */
static bool place_ip6(const uint8_t *ip, uint32_t length, struct place *place)
{
    if (length < IP6_HEADER)
        return false;
    place->l4 = IP6_HEADER;
    place->end = IP6_HEADER + load_be16(ip + 4);
    place->protocol = ip[6];
    memcpy(place->src, ip + 8, 16);
    memcpy(place->dst, ip + 24, 16);
    if (place->end > length)
        return false;
    for (int i = 0; i < EXTENSIONS_MAX && (place->protocol == PROTO_HOPOPTS || place->protocol == PROTO_DSTOPTS); i++) {
        if (place->l4 + 8 > place->end)
            return false;
        place->protocol = ip[place->l4];
        place->l4 += (ip[place->l4 + 1] + 1u) * 8;
    }
    return true;
}

/* True if the checksum field at `offset` of the transport header is unfinished. */
static bool mark_unfinished(const uint8_t *ip, const struct place *place, uint32_t offset)
{
    uint64_t sum = checksum_pseudo(place->src, place->dst, place->protocol, place->end - place->l4);
    return load_be16(ip + place->l4 + offset) == checksum_fold(sum);
}

/* Finds a whole TCP segment or UDP datagram in a frame.
 * Return: false if it is something else. */
static bool place_transport(const uint8_t *frame, uint32_t length, struct place *place)
{
    bool seen = false;

    if (length < ETH_HEADER)
        return false;
    uint32_t type = load_be16(frame + 12);
    if (type == ETHERTYPE_IPV4)
        seen = place_ip4(frame + ETH_HEADER, length - ETH_HEADER, place);
    else if (type == ETHERTYPE_IPV6)
        seen = place_ip6(frame + ETH_HEADER, length - ETH_HEADER, place);
    if (!seen || place->l4 > place->end || (place->protocol != PROTO_TCP && place->protocol != PROTO_UDP))
        return false;
    return place->end - place->l4 >= (place->protocol == PROTO_TCP ? TCP_HEADER : UDP_HEADER);
}

/* Where the checksum is in a transport header. */
static uint32_t place_checksum(const struct place *place)
{
    return place->protocol == PROTO_TCP ? TCP_CHECKSUM_AT : UDP_CHECKSUM_AT;
}

bool link_mark(struct ams_frame *frame, uint32_t mtu, bool partial)
{
    bool merged = frame->len > mtu + ETH_HEADER;
    struct place place;

    if (AMS_LIKELY(!merged && !partial))
        return true;
    if (!place_transport(frame->data, frame->len, &place))
        return !merged;
    const uint8_t *ip = frame->data + ETH_HEADER;
    if (partial && mark_unfinished(ip, &place, place_checksum(&place)))
        frame->flags |= FRAME_CSUM_OK | FRAME_CSUM_PARTIAL;
    if (!merged)
        return true;
    uint32_t header = place.protocol == PROTO_TCP ? (uint32_t)(ip[place.l4 + 12] >> 4) * 4 : 0;
    if (header < TCP_HEADER || place.l4 + header >= mtu)
        return false;
    frame->flags |= FRAME_GSO;
    frame->gso_size = (uint16_t)(mtu - place.l4 - header);
    return true;
}

void link_finish(uint8_t *frame, uint32_t length)
{
    struct place place;

    if (!place_transport(frame, length, &place))
        return;
    uint8_t *ip = frame + ETH_HEADER, *field = ip + place.l4 + place_checksum(&place);
    if (!mark_unfinished(ip, &place, place_checksum(&place)))
        return;
    /* The field's own sum is the pseudo-header's, which belongs in there. */
    uint16_t checksum = checksum_finish(checksum_add(0, ip + place.l4, place.end - place.l4));
    if (!checksum && place.protocol == PROTO_UDP) /* RFC 768: zero would mean "none" */
        checksum = 0xffff;
    store_be16(field, checksum);
}
