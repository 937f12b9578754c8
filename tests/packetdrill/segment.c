/* SPDX-License-Identifier: BSD-2-Clause
 *
 * segment.c - cuts a TCP packet into segments, as a device does (TSO) where
 * the script has switched that off, and as they came before a receiver joined
 * them (GRO): a script's --mss says of what length they were.
 */
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <string.h>

#include "world.h"

/* Adds 16-bit words in network order. */
static uint32_t sum_words(uint32_t sum, const void *data, size_t len)
{
    const uint8_t *at = data;
    for (; len > 1; len -= 2, at += 2)
        sum += (uint32_t)(at[0] << 8 | at[1]);
    return len ? sum + (uint32_t)(at[0] << 8) : sum;
}

static uint16_t sum_fold(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

/* Where TCP's header begins; 0 if the packet has none that is whole. */
static size_t tcp_offset(const char *packet, size_t len)
{
    size_t offset;
    if (len < sizeof(struct iphdr))
        return 0;
    if ((uint8_t)*packet >> 4 == 4) {
        const struct iphdr *ip = (const struct iphdr *)packet;
        offset = ip->protocol == IPPROTO_TCP ? (size_t)ip->ihl * 4 : 0;
    } else {
        const struct ip6_hdr *ip = (const struct ip6_hdr *)packet;
        offset = len >= sizeof(*ip) && ip->ip6_nxt == IPPROTO_TCP ? sizeof(*ip) : 0;
    }
    return offset && offset + sizeof(struct tcphdr) <= len ? offset : 0;
}

/* Writes lengths and checksums of a packet whose TCP header is at offset. */
static void finish(char *packet, size_t offset, size_t len)
{
    struct tcphdr *tcp = (struct tcphdr *)(packet + offset);
    size_t l4 = len - offset;
    uint32_t sum = IPPROTO_TCP + (uint32_t)l4;
    if ((uint8_t)*packet >> 4 == 4) {
        struct iphdr *ip = (struct iphdr *)packet;
        ip->tot_len = htons((uint16_t)len);
        ip->check = 0;
        ip->check = sum_fold(sum_words(0, ip, offset));
        sum = sum_words(sum, &ip->saddr, 8);
    } else {
        struct ip6_hdr *ip = (struct ip6_hdr *)packet;
        ip->ip6_plen = htons((uint16_t)l4);
        sum = sum_words(sum, &ip->ip6_src, 32);
    }
    tcp->check = 0;
    tcp->check = sum_fold(sum_words(sum, tcp, l4));
}

int segment_cut(struct pd_world *world, const void *packet, size_t len, size_t mss, segment_emit *emit)
{
    char piece[PD_PACKET_MAX];
    size_t offset = tcp_offset(packet, len);
    const struct tcphdr *tcp = (const struct tcphdr *)((const char *)packet + offset);
    size_t headers = offset ? offset + (size_t)tcp->doff * 4 : len;
    if (!mss || headers >= len || len - headers <= mss || tcp->syn || len > sizeof(piece))
        return emit(world, packet, len);
    for (size_t done = 0; done < len - headers; done += mss) {
        size_t left = len - headers - done, n = left < mss ? left : mss;
        struct tcphdr *out = (struct tcphdr *)(piece + offset);
        memcpy(piece, packet, headers);
        memcpy(piece + headers, (const char *)packet + headers + done, n);
        out->seq = htonl(ntohl(tcp->seq) + (uint32_t)done);
        if (n < left)
            out->fin = out->psh = 0;
        finish(piece, offset, headers + n);
        if (emit(world, piece, headers + n) < 0)
            return -1;
    }
    return 0;
}

uint16_t segment_remote_port(const void *packet, size_t len)
{
    size_t offset = tcp_offset(packet, len);
    return offset ? ntohs(((const struct tcphdr *)((const char *)packet + offset))->dest) : 0;
}

size_t segment_options(const void *packet, size_t len)
{
    size_t offset = tcp_offset(packet, len);
    size_t header = offset ? (size_t)((const struct tcphdr *)((const char *)packet + offset))->doff * 4 : 0;
    return header > sizeof(struct tcphdr) ? header - sizeof(struct tcphdr) : 0;
}
