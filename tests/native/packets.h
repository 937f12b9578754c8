/* SPDX-License-Identifier: BSD-2-Clause
 *
 * packets.h - frames for the native tests, built by the wire layer's emitters.
 *
 * A struct packets_frame says what a frame is like; zero fields take what is
 * usual.  packets_build() writes it.  Tests change one thing at a time.
 */
#ifndef AMS_TESTS_PACKETS_H
#define AMS_TESTS_PACKETS_H

#include <string.h>

#include "aiomultistack.h"
#include "wire/arp.h"
#include "wire/checksum.h"
#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"
#include "wire/ndp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define PACKETS_MAX 2048

static const uint8_t packets_us_mac[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t packets_peer_mac[6] = {2, 0, 0, 0, 0, 2};

struct packets_frame {
    bool v6;
    bool outgoing;            /* from us to the peer; else the other way */
    uint8_t protocol;         /* 0: TCP */
    uint16_t sport, dport;
    uint8_t tcp_flags;
    uint8_t icmp_type, icmp_code;
    uint8_t hop_limit;        /* 0: 64 */
    uint8_t tos;              /* traffic class */
    uint16_t frag_offset;     /* bytes */
    bool more_fragments;
    uint32_t frag_id;
    uint16_t payload;         /* bytes of payload behind the transport header */
    const uint8_t *body;      /* what they are; NULL: zeros */
    uint8_t src[16], dst[16]; /* zero: us or the peer, by direction */
    bool zero_src;            /* the unspecified address, really */
};

/* 10.0.0.N or fd00::N, in 16 bytes. */
static inline void packets_ip(uint8_t out[16], bool v6, uint8_t n)
{
    const uint8_t v4[4] = {10, 0, 0, n};
    if (v6) {
        memset(out, 0, 16);
        out[0] = 0xfd;
        out[15] = n;
    } else {
        ip_map4(out, v4);
    }
}

static inline struct ams_endpoint packets_endpoint(bool v6, uint8_t n, uint16_t port)
{
    struct ams_endpoint endpoint = {.port = port, .family = v6 ? AMS_IPV6 : AMS_IPV4};
    packets_ip(endpoint.ip, v6, n);
    return endpoint;
}

static inline struct ams_endpoint packets_wildcard(bool v6, uint16_t port)
{
    struct ams_endpoint endpoint = {.port = port, .family = v6 ? AMS_IPV6 : AMS_IPV4};
    if (!v6)
        endpoint.ip[10] = endpoint.ip[11] = 0xff;
    return endpoint;
}

/* Writes the transport header.  Return: its length. */
static inline uint32_t packets_transport(uint8_t *out, const struct packets_frame *what, uint8_t protocol)
{
    if (protocol == PROTO_TCP) {
        struct tcp_repr tcp = {.src_port = what->sport, .dst_port = what->dport, .flags = what->tcp_flags};
        return tcp_emit(&tcp, out);
    }
    if (protocol == PROTO_UDP) {
        struct udp_repr udp = {what->sport, what->dport, (uint16_t)(UDP_HEADER + what->payload), 0};
        udp_emit(out, &udp);
        return UDP_HEADER;
    }
    if (protocol == PROTO_ICMP || protocol == PROTO_ICMPV6) {
        struct icmp_repr icmp = {what->icmp_type, what->icmp_code, 0};
        icmp_emit(out, &icmp);
        return ICMP_HEADER;
    }
    return 0;
}

/* Writes IP header (with a fragment header where IPv6 needs one), transport
 * header and payload.  Return: the packet's length. */
static inline uint32_t packets_build_ip(uint8_t *out, const struct packets_frame *what)
{
    static const uint8_t none[16];
    uint8_t src[16], dst[16], protocol = what->protocol ? what->protocol : PROTO_TCP;
    bool fragment = what->frag_offset || what->more_fragments;
    uint32_t ip_len = what->v6 ? IP6_HEADER + (fragment ? IP6_FRAGMENT_HEADER : 0) : IP4_HEADER;

    packets_ip(src, what->v6, what->outgoing ? 1 : 2);
    packets_ip(dst, what->v6, what->outgoing ? 2 : 1);
    if (memcmp(what->src, none, 16) != 0 || what->zero_src)
        memcpy(src, what->src, 16);
    if (memcmp(what->dst, none, 16) != 0)
        memcpy(dst, what->dst, 16);
    uint32_t l4 = what->frag_offset ? 0 : packets_transport(out + ip_len, what, protocol);
    if (what->body)
        memcpy(out + ip_len + l4, what->body, what->payload);
    else
        memset(out + ip_len + l4, 0, what->payload);
    uint32_t total = ip_len + l4 + what->payload;
    if (what->v6) {
        struct ipv6_repr ip = {.payload_len = (uint16_t)(total - IP6_HEADER), .hop_limit = what->hop_limit ? what->hop_limit : 64,
                               .next = fragment ? PROTO_FRAGMENT : protocol, .traffic_class = what->tos};
        memcpy(ip.src, src, 16);
        memcpy(ip.dst, dst, 16);
        ipv6_emit(out, &ip);
        if (fragment) {
            struct ipv6_fragment header = {protocol, what->frag_offset, what->more_fragments, what->frag_id};
            ipv6_fragment_emit(out + IP6_HEADER, &header);
        }
        return total;
    }
    struct ipv4_repr ip = {.header_len = IP4_HEADER, .ttl = what->hop_limit ? what->hop_limit : 64,
                           .protocol = protocol, .total_len = (uint16_t)total, .id = (uint16_t)what->frag_id,
                           .frag_off = what->frag_offset, .more_fragments = what->more_fragments, .tos = what->tos};
    memcpy(ip.src, src + 12, 4);
    memcpy(ip.dst, dst + 12, 4);
    ipv4_emit(out, &ip);
    return total;
}

/* Writes a whole frame.  Return: its length. */
static inline uint32_t packets_build(uint8_t out[PACKETS_MAX], const struct packets_frame *what)
{
    struct eth_repr eth = {.type = what->v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4};

    memcpy(eth.src, what->outgoing ? packets_us_mac : packets_peer_mac, 6);
    memcpy(eth.dst, what->outgoing ? packets_peer_mac : packets_us_mac, 6);
    eth_emit(out, &eth);
    return ETH_HEADER + packets_build_ip(out + ETH_HEADER, what);
}

/* Writes an ARP frame. */
static inline uint32_t packets_arp(uint8_t out[PACKETS_MAX], const uint8_t eth_src[6], const struct arp_repr *arp)
{
    struct eth_repr eth = {.type = ETHERTYPE_ARP};

    memset(eth.dst, 0xff, 6);
    memcpy(eth.src, eth_src, 6);
    eth_emit(out, &eth);
    arp_emit(out + ETH_HEADER, arp);
    return ETH_HEADER + ARP_LENGTH;
}

/* The sum over a frame's transport header and payload, and over what its
 * checksum covers besides: 0xffff, folded, if that is right. */
static inline uint64_t packets_sum(const uint8_t *frame, uint32_t len, bool v6, uint8_t protocol)
{
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
    uint8_t src[16], dst[16];
    if (v6) {
        memcpy(src, frame + ETH_HEADER + 8, 16);
        memcpy(dst, frame + ETH_HEADER + 24, 16);
    } else {
        ip_map4(src, frame + ETH_HEADER + 12);
        ip_map4(dst, frame + ETH_HEADER + 16);
    }
    uint64_t sum = protocol == PROTO_ICMP ? 0 : checksum_pseudo(src, dst, protocol, len - l4);
    return checksum_add(sum, frame + l4, len - l4);
}

/* Sets the transport checksum of a frame that packets_build() made.
 * @offset: where it is in the transport header */
static inline void packets_checksum(uint8_t *frame, uint32_t len, bool v6, uint8_t protocol, uint32_t offset)
{
    uint32_t at = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER) + offset;
    store_be16(frame + at, 0);
    store_be16(frame + at, checksum_finish(packets_sum(frame, len, v6, protocol)));
}

#endif
