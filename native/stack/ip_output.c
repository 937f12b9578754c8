/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ip_output.c - IPv4 and IPv6 headers, and the ways out.
 *
 * Theory of operation.  There are two ways.  ip_output() completes a tx
 * descriptor in place, for TCP: a compare or two, one 16-byte copy of the
 * neighbour's Ethernet header, and the stores of the IP header, whose
 * checksum is computed from the fields.  ip_send() does the same for a
 * packet in a frame of its own, which then waits in `out`.
 *
 * Either way a packet for an unresolved neighbour becomes a whole frame that
 * waits in the neighbour's entry.  Only ip_send() may exceed the path MTU;
 * such a packet stays in one piece until its neighbour is known, and is cut
 * on its way into `out` (RFC 791, RFC 8200 section 4.5).
 */
#include <string.h>

#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/neighbor.h"
#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/icmp.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"
#include "wire/udp.h"

#define FLAG_DF 0x4000u

/* ---- headers ----------------------------------------------------------------- */

/* Writes an IPv4 header without options.
 * @id_flags: identification, flags and offset as they stand in the header */
static inline void write_ip4(uint8_t *out, uint32_t total_len, const uint8_t src[16], const uint8_t dst[16],
                             uint8_t protocol, uint8_t tos, uint8_t ttl, uint32_t id_flags)
{
    uint32_t from = load_be32(src + 12), to = load_be32(dst + 12);
    uint32_t lifetime = (uint32_t)ttl << 8 | protocol;
    uint32_t sum = 0x4500u + tos + total_len + (id_flags >> 16) + (id_flags & 0xffff) + lifetime + (from >> 16) +
                   (from & 0xffff) + (to >> 16) + (to & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum += sum >> 16;
    store_be32(out, (0x4500u | tos) << 16 | total_len);
    store_be32(out + 4, id_flags);
    store_be32(out + 8, lifetime << 16 | (~sum & 0xffff));
    memcpy(out + 12, src + 12, 4);
    memcpy(out + 16, dst + 12, 4);
}

/* The hop limit of a packet.
 * @hops: as in struct ip_service
 * @usual: where the application has chosen none */
static inline uint8_t hop_limit(uint16_t hops, uint8_t usual)
{
    return AMS_LIKELY(!hops) ? usual : (uint8_t)(hops - 1);
}

/* A label per flow (RFC 6437 section 3): the same for all packets of one,
 * and unlike for others. */
static inline uint32_t flow_label(const struct ams_stack *stack, const uint8_t *l4, const uint8_t src[16],
                                  const uint8_t dst[16], uint8_t protocol)
{
    if (protocol != PROTO_TCP && protocol != PROTO_UDP)
        return 0;
    uint64_t mix = (uint64_t)load_be32(src + 12) << 32 | load_be32(dst + 12);
    mix = (mix ^ stack->key.k[0]) * 0x9e3779b97f4a7c15u;
    mix = (mix ^ load_be32(l4) ^ stack->key.k[1]) * 0xd6e8feb86659fd93u;
    return (uint32_t)(mix >> 44);
}

/* Writes an IPv6 header. */
static inline void write_ip6(uint8_t *out, uint32_t payload_len, const uint8_t src[16], const uint8_t dst[16],
                             uint8_t protocol, uint8_t tos, uint8_t hop_limit, uint32_t label)
{
    store_be32(out, 6u << 28 | (uint32_t)tos << 20 | label);
    store_be32(out + 4, payload_len << 16 | (uint32_t)protocol << 8 | hop_limit);
    memcpy(out + 8, src, 16);
    memcpy(out + 24, dst, 16);
}

/* Identifies the fragments of one packet (RFC 6864 section 4, RFC 7739
 * section 5.3): counters by pairs of addresses, each with an offset of its own. */
static uint32_t fragment_id(struct ams_stack *stack, const uint8_t src[16], const uint8_t dst[16])
{
    uint64_t words[4];
    memcpy(words, src, 16);
    memcpy(words + 2, dst, 16);
    uint64_t hash = siphash13(&stack->key, words, 4);
    return (uint32_t)(hash >> 32) + stack->ip_ids[hash % STACK_IP_IDS]++;
}

/* ---- descriptors ---------------------------------------------------------------- */

struct ams_frame *ip_frame_from_tx(struct ams_stack *stack, const struct ams_tx *tx)
{
    bool small = tx->total <= FRAME_SMALL - FRAME_HEADROOM;
    struct ams_frame *frame = frame_new(stack->pool, small ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE);
    if (!frame) {
        stack->counters.no_memory++;
        return NULL;
    }
    frame->len = tx_gather(tx, frame->data);
    frame->marks = (uint8_t)(tx->flags & (TX_CSUM | TX_GSO4 | TX_GSO6));
    frame->aux16 = tx->csum_start;
    frame->aux = (uint32_t)tx->csum_offset << 16 | tx->gso_hdr_len;
    frame->gso_size = tx->gso_size;
    return frame;
}

/* The slow end of ip_output(): the neighbour cannot be sent to now. */
static void output_wait(struct ams_stack *stack, struct neighbor *neighbor, const struct ams_tx *tx, uint64_t now)
{
    struct ams_frame *frame = ip_frame_from_tx(stack, tx);
    if (frame)
        neighbor_wait(stack, neighbor, frame, now);
}

bool ip_output(struct ams_stack *stack, struct ip_path *path, struct ams_tx *tx, const uint8_t src[16],
               const uint8_t dst[16], const struct ip_service *service, uint8_t ecn, uint64_t now)
{
    if (AMS_UNLIKELY(path->generation != stack->path_generation) && ip_path_find(stack, dst, path) < 0) {
        stack->counters.ip_no_route++;
        return false;
    }
    struct neighbor *neighbor = path->neighbor;
    bool ready = neighbor_ready(neighbor, now);
    uint8_t *ip = tx->head + ETH_HEADER;
    memcpy(tx->head, neighbor->header, sizeof(neighbor->header)); /* its last two bytes are overwritten */
    uint32_t l4_off;
    if (path->family == AMS_IPV4) {
        l4_off = ETH_HEADER + IP4_HEADER;
        write_ip4(ip, tx->total - ETH_HEADER, src, dst, PROTO_TCP, service->tos | ecn,
                  hop_limit(service->ttl, IP_HOP_LIMIT), FLAG_DF);
    } else {
        l4_off = ETH_HEADER + IP6_HEADER;
        write_ip6(ip, tx->total - l4_off, src, dst, PROTO_TCP, service->tclass | ecn,
                  hop_limit(service->hops, stack->hop_limit6),
                  flow_label(stack, tx->head + l4_off, src, dst, PROTO_TCP));
    }
    tx->csum_start = (uint16_t)l4_off;
    if (tx->gso_size) {
        /* the TCP header's length is in its data offset (RFC 9293 section 3.1) */
        tx->gso_hdr_len = (uint16_t)(l4_off + (tx->head[l4_off + 12] >> 4) * 4u);
        tx->flags |= path->family == AMS_IPV4 ? TX_GSO4 : TX_GSO6;
    }
    if (AMS_UNLIKELY(!ready))
        output_wait(stack, neighbor, tx, now);
    return ready;
}

void ip_l4_checksum(struct ams_stack *stack, struct ams_tx *tx, const uint8_t src[16], const uint8_t dst[16],
                    uint8_t protocol, uint32_t l4_off, uint16_t offset)
{
    uint8_t *field = tx->head + l4_off + offset;
    uint64_t sum = checksum_pseudo(src, dst, protocol, tx->total - l4_off);
    if (AMS_LIKELY(stack->caps & AMS_CAP_CSUM_TX)) {
        store_be16(field, checksum_fold(sum));
        tx->flags |= TX_CSUM;
        tx->csum_start = (uint16_t)l4_off;
        tx->csum_offset = offset;
        return;
    }
    store_be16(field, 0);
    sum = checksum_add(sum, tx->head + l4_off, tx->head_len - l4_off);
    size_t at = tx->head_len - l4_off;
    for (unsigned i = 0; i < tx->n_frags; i++) {
        sum = checksum_add_at(sum, tx->frags[i].data, tx->frags[i].len, at);
        at += tx->frags[i].len;
    }
    uint16_t checksum = checksum_finish(sum);
    if (checksum == 0 && protocol == PROTO_UDP)
        checksum = 0xffff; /* RFC 768: zero means none */
    store_be16(field, checksum);
}

/* ---- frames ---------------------------------------------------------------------- */

/* Sets the checksum of a packet that is all in one frame.
 * @partial: the link finishes it */
static void set_checksum(struct ams_frame *frame, const struct ip_send *send, bool partial, uint32_t l4_off)
{
    uint8_t *l4 = frame->data + l4_off;
    uint32_t l4_len = frame->len - l4_off;
    uint64_t sum = send->protocol == PROTO_ICMP ? 0 : checksum_pseudo(send->src, send->dst, send->protocol, l4_len);
    if (partial) {
        store_be16(l4 + send->csum_offset, checksum_fold(sum));
        frame->marks |= TX_CSUM;
        frame->aux16 = (uint16_t)l4_off;
        frame->aux = (uint32_t)send->csum_offset << 16;
        return;
    }
    store_be16(l4 + send->csum_offset, 0);
    uint16_t checksum = checksum_finish(checksum_add(sum, l4, l4_len));
    if (checksum == 0 && send->protocol == PROTO_UDP)
        checksum = 0xffff;
    store_be16(l4 + send->csum_offset, checksum);
}

/* Consumes frame; returns status. */
static int refuse(struct ams_frame *frame, int status)
{
    frame_free(frame);
    return status;
}

/* Lets ourselves receive a copy of what goes to a group. */
static void loop_copy(struct ams_stack *stack, const struct ams_frame *frame)
{
    struct ams_frame *copy = frame_new(stack->pool, (enum frame_class)frame->class_);
    if (!copy) {
        stack->counters.no_memory++;
        return;
    }
    memcpy(copy->data, frame->data, frame->len);
    copy->len = frame->len;
    ip_loop(stack, copy);
}

int ip_send(struct ams_stack *stack, struct ip_path *path, struct ams_frame *frame, const struct ip_send *send,
            uint64_t now)
{
    if (path->generation != stack->path_generation) {
        int status = ip_path_find(stack, send->dst, path);
        if (status < 0) {
            stack->counters.ip_no_route++;
            return refuse(frame, status);
        }
    }
    struct neighbor *neighbor = path->neighbor;
    uint32_t ip_header = path->family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER;
    if (frame->len > 65535u - (path->family == AMS_IPV4 ? IP4_HEADER : 0u))
        return refuse(frame, -AMS_EMSGSIZE);
    uint32_t l4_len = frame->len;
    frame->data -= ETH_HEADER + ip_header;
    frame->len += ETH_HEADER + ip_header;
    frame->marks = 0;
    bool loop = neighbor->kind == ROUTE_LOOP;
    bool fits = loop || ip_header + l4_len <= path->mtu;
    bool offload = loop || (fits && (stack->caps & AMS_CAP_CSUM_TX));
    set_checksum(frame, send, offload && (send->protocol == PROTO_TCP || send->protocol == PROTO_UDP),
                 ETH_HEADER + ip_header);
    if (!fits) {
        frame->marks |= IP_MARK_FRAGMENT;
        frame->seq = path->mtu;
    }
    uint8_t hops = hop_limit(send->class_.hops, neighbor->kind == ROUTE_GROUP ? IP_HOP_LIMIT_GROUP
                                                : path->family == AMS_IPV4    ? IP_HOP_LIMIT
                                                                              : stack->hop_limit6);
    uint8_t *ip = frame->data + ETH_HEADER;
    if (path->family == AMS_IPV4)
        write_ip4(ip, IP4_HEADER + l4_len, send->src, send->dst, send->protocol, send->class_.tos, hops,
                  fits && !send->fragmentable ? FLAG_DF : fragment_id(stack, send->src, send->dst) << 16);
    else
        write_ip6(ip, l4_len, send->src, send->dst, send->protocol, send->class_.tos, hops,
                  flow_label(stack, ip + IP6_HEADER, send->src, send->dst, send->protocol));
    if (!neighbor_ready(neighbor, now))
        return neighbor_wait(stack, neighbor, frame, now);
    memcpy(frame->data, neighbor->header, ETH_HEADER);
    if (AMS_UNLIKELY(send->also_here))
        loop_copy(stack, frame);
    if (AMS_UNLIKELY(send->only_here))
        return refuse(frame, 0);
    return ip_transmit(stack, frame);
}

int ip_send_frame(struct ams_stack *stack, struct ams_frame *frame, const uint8_t src[16], const uint8_t dst[16],
                  uint8_t protocol, uint16_t csum_offset, struct ip_class class_, uint64_t now)
{
    struct ip_path path = {0};
    struct ip_send send = {.src = src, .dst = dst, .protocol = protocol, .class_ = class_, .csum_offset = csum_offset};
    return ip_send(stack, &path, frame, &send, now);
}

int ip_loop(struct ams_stack *stack, struct ams_frame *frame)
{
    if (stack->loop_count >= stack->out_limit) {
        stack->counters.out_queue_full++;
        return refuse(frame, -AMS_EAGAIN);
    }
    frame->flags = FRAME_CSUM_OK | (frame->gso_size ? FRAME_GSO : 0);
    frame->marks = 0;
    frame->aux16 = 0;
    frame->aux = 0;
    frame->next = NULL;
    if (stack->loop_head)
        stack->loop_tail->next = frame;
    else
        stack->loop_head = frame;
    stack->loop_tail = frame;
    stack->loop_count++;
    return 0;
}

void ip_loop_run(struct ams_stack *stack, uint64_t now)
{
    struct ams_frame *frame = stack->loop_head;
    stack->loop_head = stack->loop_tail = NULL;
    stack->loop_count = 0;
    while (frame) {
        struct ams_frame *next = frame->next;
        struct ip_arrival arrival = {.looped = true};
        frame->next = NULL;
        if (load_be16(frame->data + 12) == ETHERTYPE_IPV4)
            ip4_input(stack, frame, arrival, now);
        else
            ip6_input(stack, frame, arrival, now);
        frame = next;
    }
}

/* ---- fragmentation ------------------------------------------------------------------- */

/* Makes the fragment of `packet` that carries payload [offset, offset + len).
 * @hdr: Ethernet and IP header of the packet
 * Owns: the caller.  Return: NULL without memory. */
static struct ams_frame *fragment_new(struct ams_stack *stack, const struct ams_frame *packet, uint32_t hdr,
                                      uint32_t offset, uint32_t len, uint32_t id)
{
    bool ipv4 = hdr == ETH_HEADER + IP4_HEADER;
    bool more = hdr + offset + len < packet->len;
    uint32_t extra = ipv4 ? 0 : IP6_FRAGMENT_HEADER;
    bool small = hdr + extra + len <= FRAME_SMALL - FRAME_HEADROOM;
    struct ams_frame *frame = frame_new(stack->pool, small ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE);
    if (!frame)
        return NULL;
    uint8_t *ip = frame->data + ETH_HEADER;
    frame->len = hdr + extra + len;
    memcpy(frame->data, packet->data, hdr);
    memcpy(frame->data + hdr + extra, packet->data + hdr + offset, len);
    if (ipv4) {
        store_be16(ip + 2, IP4_HEADER + len);
        store_be16(ip + 6, (more ? 0x2000u : 0) | offset / 8);
        ipv4_update_checksum(ip, IP4_HEADER);
    } else {
        struct ipv6_fragment fragment = {.next = ip[6], .offset = (uint16_t)offset, .more = more, .id = id};
        ipv6_fragment_emit(frame->data + hdr, &fragment);
        store_be16(ip + 4, extra + len);
        ip[6] = PROTO_FRAGMENT;
    }
    return frame;
}

/* Cuts a packet; all of its fragments are queued, or none. */
static int fragment_packet(struct ams_stack *stack, struct ams_frame *packet)
{
    bool ipv4 = load_be16(packet->data + 12) == ETHERTYPE_IPV4;
    uint32_t hdr = ETH_HEADER + (ipv4 ? IP4_HEADER : IP6_HEADER);
    uint32_t room = packet->seq - (hdr - ETH_HEADER) - (ipv4 ? 0 : IP6_FRAGMENT_HEADER);
    uint32_t step = room & ~7u;
    uint32_t payload = packet->len - hdr;
    const uint8_t *ip = packet->data + ETH_HEADER;
    uint32_t id = ipv4 ? load_be16(ip + 4) : fragment_id(stack, ip + 8, ip + 24);
    struct ams_frame *head = NULL, **tail = &head;
    if (stack->out_count + (payload + step - 1) / step > stack->out_limit) {
        stack->counters.out_queue_full++;
        return refuse(packet, -AMS_EAGAIN);
    }
    uint32_t offset = 0;
    while (offset < payload) {
        *tail = fragment_new(stack, packet, hdr, offset, ams_min_u32(step, payload - offset), id);
        if (!*tail)
            break;
        tail = &(*tail)->next;
        offset += step;
    }
    bool complete = offset >= payload;
    if (!complete)
        stack->counters.no_memory++;
    frame_free(packet);
    while (head) {
        struct ams_frame *next = head->next;
        if (complete)
            stack_enqueue(stack, head);
        else
            frame_free(head);
        head = next;
    }
    return complete ? 0 : -AMS_ENOMEM;
}

int ip_transmit(struct ams_stack *stack, struct ams_frame *frame)
{
    if (AMS_UNLIKELY(frame->marks & IP_MARK_FRAGMENT))
        return fragment_packet(stack, frame);
    return stack_enqueue(stack, frame);
}
