/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/xdp_resolve.h"

#include <string.h>
#include <unistd.h>

#include "io/netlink.h"
#include "wire/arp.h"
#include "wire/checksum.h"
#include "wire/ipv6.h"
#include "wire/ndp.h"

#define NDP_AT (ETH_HEADER + IP6_HEADER)
#define NDP_HOP_LIMIT 255 /* RFC 4861 section 7.1: proves that no router forwarded it */

void resolver_init(struct xdp_resolver *resolver, uint32_t ifindex, struct frame_pool *pool,
                   const struct claim_table *claims)
{
    memset(resolver, 0, sizeof(*resolver));
    resolver->fd = -1;
    resolver->ifindex = ifindex;
    resolver->pool = pool;
    resolver->claims = claims;
    resolver->answers_end = &resolver->answers;
}

int resolver_open(struct xdp_resolver *resolver)
{
    if (resolver->fd < 0)
        resolver->fd = netlink_open(false);
    return resolver->fd < 0 ? resolver->fd : 0;
}

void resolver_fini(struct xdp_resolver *resolver)
{
    struct ams_frame *frame;

    while (resolver_receive(resolver, &frame, 1))
        frame_free(frame);
    if (resolver->fd >= 0)
        close(resolver->fd);
    resolver->fd = -1;
}

/* ---- answers ---------------------------------------------------------------------- */

/* Writes an ARP reply as the neighbour would have sent it. */
static uint32_t answer_arp(uint8_t *out, const struct resolve_question *question, const uint8_t mac[6],
                           const uint8_t ours[6])
{
    struct eth_repr eth = {.type = ETHERTYPE_ARP};
    struct arp_repr arp = {.operation = ARP_REPLY};

    memcpy(eth.dst, ours, 6);
    memcpy(eth.src, mac, 6);
    memcpy(arp.sender_mac, mac, 6);
    memcpy(arp.sender_ip, question->target.ip + 12, 4);
    memcpy(arp.target_mac, ours, 6);
    memcpy(arp.target_ip, question->asker + 12, 4);
    eth_emit(out, &eth);
    arp_emit(out + ETH_HEADER, &arp);
    return ETH_HEADER + ARP_LENGTH;
}

/* The same for a neighbour advertisement (RFC 4861 section 7.2.4). */
static uint32_t answer_ndp(uint8_t *out, const struct resolve_question *question, const uint8_t mac[6],
                           const uint8_t ours[6])
{
    struct eth_repr eth = {.type = ETHERTYPE_IPV6};
    struct ipv6_repr ip = {.next = PROTO_ICMPV6, .hop_limit = NDP_HOP_LIMIT};
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .flags = NDP_SOLICITED | NDP_OVERRIDE, .has_lladdr = true};

    memcpy(eth.dst, ours, 6);
    memcpy(eth.src, mac, 6);
    memcpy(ip.src, question->target.ip, 16);
    memcpy(ip.dst, question->asker, 16);
    memcpy(ndp.target, question->target.ip, 16);
    memcpy(ndp.lladdr, mac, 6);
    uint32_t length = ndp_emit(out + NDP_AT, &ndp);
    uint64_t sum = checksum_pseudo(ip.src, ip.dst, PROTO_ICMPV6, length);
    store_be16(out + NDP_AT + ICMP_CHECKSUM_AT, checksum_finish(checksum_add(sum, out + NDP_AT, length)));
    ip.payload_len = (uint16_t)length;
    eth_emit(out, &eth);
    ipv6_emit(out + ETH_HEADER, &ip);
    return NDP_AT + length;
}

/* Queues the answer to a question; without memory there is none, and the user asks again. */
static void resolver_answer(struct xdp_resolver *resolver, const struct resolve_question *question,
                            const uint8_t mac[6])
{
    struct ams_frame *frame =
        resolver->n_answers < RESOLVE_ANSWERS ? frame_new(resolver->pool, FRAME_CLASS_SMALL) : NULL;

    if (!frame)
        return;
    if (question->target.family == AMS_IPV4)
        frame->len = answer_arp(frame->data, question, mac, resolver->mac);
    else
        frame->len = answer_ndp(frame->data, question, mac, resolver->mac);
    frame->next = NULL;
    *resolver->answers_end = frame;
    resolver->answers_end = &frame->next;
    resolver->n_answers++;
}

int resolver_receive(struct xdp_resolver *resolver, struct ams_frame **frames, int n)
{
    int taken = 0;

    while (taken < n && resolver->answers) {
        struct ams_frame *frame = resolver->answers;
        resolver->answers = frame->next;
        frame->next = NULL;
        frames[taken++] = frame;
        resolver->n_answers--;
    }
    if (!resolver->answers)
        resolver->answers_end = &resolver->answers;
    return taken;
}

/* ---- questions -------------------------------------------------------------------- */

static bool endpoint_same_ip(const struct ams_endpoint *a, const struct ams_endpoint *b)
{
    return a->family == b->family && ip_equal(a->ip, b->ip);
}

/* Keeps a question until there is news. */
static void resolver_keep(struct xdp_resolver *resolver, const struct resolve_question *question)
{
    for (uint32_t i = 0; i < RESOLVE_QUESTIONS; i++) {
        struct resolve_question *kept = &resolver->questions[i];
        if (endpoint_same_ip(&kept->target, &question->target) && ip_equal(kept->asker, question->asker))
            return;
    }
    resolver->questions[resolver->n_questions++ % RESOLVE_QUESTIONS] = *question;
}

/* Answers a question now, or sees to it that there will be an answer. */
static void resolver_ask(struct xdp_resolver *resolver, const struct resolve_question *question)
{
    uint8_t mac[6];
    bool certain = false;

    int status = netlink_get_neighbor(resolver->fd, resolver->ifindex, &question->target, mac, &certain);
    if (status == 0)
        resolver_answer(resolver, question, mac);
    else
        resolver_keep(resolver, question);
    if (!certain)
        netlink_use_neighbor(resolver->fd, resolver->ifindex, &question->target);
}

void resolver_news(struct xdp_resolver *resolver, const struct ams_endpoint *ip, const uint8_t mac[6])
{
    for (uint32_t i = 0; i < RESOLVE_QUESTIONS; i++) {
        struct resolve_question *kept = &resolver->questions[i];
        if (!endpoint_same_ip(&kept->target, ip))
            continue;
        resolver_answer(resolver, kept, mac);
        kept->target.family = 0;
    }
}

void resolver_again(struct xdp_resolver *resolver)
{
    for (uint32_t i = 0; i < RESOLVE_QUESTIONS; i++) {
        struct resolve_question question = resolver->questions[i];
        if (!question.target.family)
            continue;
        resolver->questions[i].target.family = 0;
        resolver_ask(resolver, &question);
    }
}

/* ---- what is sent ------------------------------------------------------------------ */

/* ARP about a shared address is the system's to send.  Return: true: the frame
 * goes no further, and what it asks was asked of the system. */
static bool takes_arp(struct xdp_resolver *resolver, const struct ams_tx *tx)
{
    struct resolve_question question = {.target = {.family = AMS_IPV4}};
    struct arp_repr arp;

    if (arp_parse(tx->head + ETH_HEADER, tx->head_len - ETH_HEADER, &arp) != WIRE_OK)
        return false;
    ip_map4(question.asker, arp.sender_ip);
    ip_map4(question.target.ip, arp.target_ip);
    if (claims_shared(resolver->claims, question.asker)) {
        if (arp.operation == ARP_REQUEST && !ip_equal(question.asker, question.target.ip))
            resolver_ask(resolver, &question);
        return true;
    }
    /* a probe for one (RFC 5227 section 2.1) */
    return arp.operation == ARP_REQUEST && claims_shared(resolver->claims, question.target.ip);
}

/* The same for neighbour discovery. */
static bool takes_ndp(struct xdp_resolver *resolver, const struct ams_tx *tx)
{
    struct resolve_question question = {.target = {.family = AMS_IPV6}};
    struct ndp_repr ndp;

    if (ndp_parse(tx->head + NDP_AT, tx->head_len - NDP_AT, &ndp) != WIRE_OK)
        return false;
    memcpy(question.asker, tx->head + ETH_HEADER + 8, 16);
    memcpy(question.target.ip, ndp.target, 16);
    if (claims_shared(resolver->claims, ndp.target))
        return true;
    if (!claims_shared(resolver->claims, question.asker))
        return false;
    if (ndp.type == ICMP6_NEIGHBOR_SOLICIT)
        resolver_ask(resolver, &question);
    return true;
}

bool resolver_takes(struct xdp_resolver *resolver, const struct ams_tx *tx)
{
    if (tx->head_len < ETH_HEADER)
        return false;
    uint16_t type = load_be16(tx->head + 12);
    if (type == ETHERTYPE_ARP)
        return takes_arp(resolver, tx);
    if (type != ETHERTYPE_IPV6 || tx->head_len < NDP_AT + NDP_LENGTH || tx->head[ETH_HEADER + 6] != PROTO_ICMPV6)
        return false;
    uint8_t message = tx->head[NDP_AT];
    if (message != ICMP6_NEIGHBOR_SOLICIT && message != ICMP6_NEIGHBOR_ADVERT)
        return false;
    return takes_ndp(resolver, tx);
}
