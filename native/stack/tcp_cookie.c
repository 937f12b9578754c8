/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_cookie.c - SYN cookies (RFC 4987 section 3.6).
 *
 * Theory of operation.  When a listener has as many half-open connections as
 * it may, a SYN is answered without keeping anything.  What would have been
 * kept is in our initial sequence number:
 *
 *   iss = H(0, 0) + irs + (t << 24) + ((H(t, irs) + mss) mod 2^24)
 *
 * H is a keyed hash of the 4-tuple and its arguments, t counts periods of 64 s
 * and mss is an index into a short table.  The final ACK brings iss + 1 back; a
 * number that was not made here within the last two periods passes with a
 * probability of about 2^-28.  irs is in the hash because it must be exact: if
 * the first data is lost and its successor completes the handshake, a sum that
 * allows for an error of a few bytes would have them missing from the stream.
 * Window scale, SACK and ECN are in the low bits of the
 * timestamp, which the peer echoes; without timestamps none of them is agreed
 * on.  Accurate ECN needs no room: the final ACK tells whether it was agreed on
 * (RFC 9768 section 5.1).
 *
 * ACKs are looked at only while a cookie may be out, so that otherwise none
 * can be guessed at all.
 */
#include <string.h>

#include "stack/tcp.h"

#define PERIOD (64 * AMS_NS_PER_S)
#define PERIODS_VALID 2u
#define MSS_MASK 0xffffffu
#define TS_BITS 6u          /* of the timestamp: */
#define TS_WSCALE 15u       /* four bits of window scale; all ones: none */
#define TS_SACK 16u
#define TS_ECN 32u

static const uint16_t mss_table[] = {TCP_MSS_MIN, 536, 1220, 1300, 1400, 1440, 1460, 8960};

static uint32_t cookie_hash(const struct ams_stack *stack, const struct tcp_flow *flow, uint32_t period, uint32_t irs)
{
    uint64_t words[6];
    memcpy(words, flow->local_ip, 16);
    memcpy(words + 2, flow->remote_ip, 16);
    words[4] = (uint64_t)period << 32 | (uint64_t)flow->local_port << 16 | flow->remote_port;
    words[5] = irs;
    return (uint32_t)siphash24(&stack->tcp->cookie_key, words, 6);
}

/* Periods are counted from one: zero is the hash that doesn't age. */
static uint32_t period_of(uint64_t now)
{
    return (uint32_t)(now / PERIOD % 255) + 1;
}

static void flow_of(struct tcp_flow *flow, const struct tcp_repr *seg, const struct ip_info *ip)
{
    memset(flow, 0, sizeof(*flow));
    memcpy(flow->local_ip, ip->dst, 16);
    memcpy(flow->remote_ip, ip->src, 16);
    flow->local_port = seg->dst_port;
    flow->remote_port = seg->src_port;
    flow->family = ip->family;
}

/* The largest entry of the table that the peer's offer allows. */
static uint32_t mss_index(const struct tcp_repr *syn, uint8_t family)
{
    uint32_t offered = syn->mss ? syn->mss : family == AMS_IPV4 ? TCP_MSS_DEFAULT4 : TCP_MSS_DEFAULT6;
    uint32_t index = AMS_ARRAY_SIZE(mss_table) - 1;
    while (index && mss_table[index] > offered)
        index--;
    return index;
}

/* A timestamp of now whose low bits hold what was agreed; never in the future. */
static uint32_t pack_timestamp(uint32_t clock, const struct tcp_repr *syn, bool sack, bool wscale, bool ecn)
{
    uint32_t bits = wscale ? syn->wscale : TS_WSCALE;
    bits |= (sack ? TS_SACK : 0) | (ecn ? TS_ECN : 0);
    uint32_t value = clock >> TS_BITS << TS_BITS | bits;
    return (int32_t)(value - clock) > 0 ? value - (1u << TS_BITS) : value;
}

void tcp_cookie_send(struct ams_stack *stack, const struct tcp_listener *listener, const struct tcp_repr *syn,
                     const struct ip_info *ip, uint64_t now)
{
    struct tcp_flow flow;
    flow_of(&flow, syn, ip);
    flow.service = listener->service;
    uint32_t period = period_of(now), refused = stack->config.flags;
    uint32_t data = (cookie_hash(stack, &flow, period, syn->seq) + mss_index(syn, ip->family)) & MSS_MASK;
    uint32_t rcvbuf = listener->rcvbuf ? listener->rcvbuf : stack->config.rcvbuf;
    uint32_t headers = (ip->family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER) + TCP_HEADER;
    uint32_t mss = ams_min_u32(stack->mtu - headers, listener->maxseg ? listener->maxseg : 65535);
    struct tcp_repr repr = {
        .src_port = syn->dst_port,
        .dst_port = syn->src_port,
        .seq = cookie_hash(stack, &flow, 0, 0) + syn->seq + (period << 24) + data,
        .ack = syn->seq + 1,
        .flags = TCP_SYN | TCP_ACK,
        .window = (uint16_t)ams_min_u32(rcvbuf, 65535),
        .mss = (uint16_t)ams_min_u32(mss, 65535),
    };
    uint16_t ecn = tcp_ecn_answer(stack, syn, ip->tos);
    bool classic = ecn == TCP_ECE;
    if (syn->has_timestamps && !(refused & AMS_STACK_NO_TIMESTAMPS)) {
        repr.has_timestamps = true;
        repr.sack_permitted = syn->sack_permitted && !(refused & AMS_STACK_NO_SACK);
        repr.has_wscale = syn->has_wscale && !(refused & AMS_STACK_NO_WSCALE);
        repr.wscale = tcp_choose_wscale(ams_max_u32(stack->config.rcvbuf_max, rcvbuf));
        uint32_t clock = (uint32_t)(now / AMS_NS_PER_MS) + tcp_ts_offset(stack, &flow);
        repr.tsval = pack_timestamp(clock, syn, repr.sack_permitted, repr.has_wscale, classic);
        repr.tsecr = syn->tsval;
    }
    if (!classic || repr.has_timestamps)
        repr.flags |= ecn;
    stack->tcp->cookies_until = now + (PERIODS_VALID + 1) * PERIOD;
    stack->counters.tcp_cookie_tx++;
    tcp_send_bare(stack, &flow, &repr, now);
}

/* Rebuilds the SYN that a cookie stands for.  Return: false if it is none. */
static bool cookie_open(const struct ams_stack *stack, const struct tcp_flow *flow, const struct tcp_repr *ack,
                        struct tcp_repr *syn, uint64_t now)
{
    uint32_t rest = ack->ack - 1 - cookie_hash(stack, flow, 0, 0) - (ack->seq - 1);
    uint32_t made = rest >> 24;
    if (!made || (period_of(now) + 255 - made) % 255 >= PERIODS_VALID)
        return false;
    uint32_t index = (rest - cookie_hash(stack, flow, made, ack->seq - 1)) & MSS_MASK;
    if (index >= AMS_ARRAY_SIZE(mss_table))
        return false;
    *syn = (struct tcp_repr){
        .src_port = ack->src_port,
        .dst_port = ack->dst_port,
        .seq = ack->seq - 1,
        .flags = TCP_SYN,
        .window = (uint16_t)ams_min_u32(ack->window, 65535),
        .mss = mss_table[index],
        .has_timestamps = ack->has_timestamps,
        .tsval = ack->tsval,
    };
    if (ack->has_timestamps) {
        syn->sack_permitted = ack->tsecr & TS_SACK;
        syn->has_wscale = (ack->tsecr & TS_WSCALE) != TS_WSCALE;
        syn->wscale = ack->tsecr & TS_WSCALE;
        syn->flags |= ack->tsecr & TS_ECN ? TCP_ECE | TCP_CWR : 0;
    }
    if (tcp_ecn_answered_accurately(stack, ack))
        syn->flags |= TCP_ACE;
    return true;
}

bool tcp_cookie_accept(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *ack,
                       const struct ip_info *ip, struct tcp_conn **child, uint64_t now)
{
    struct tcp_flow flow;
    struct tcp_repr syn;
    *child = NULL;
    if (now >= stack->tcp->cookies_until || (ack->flags & (TCP_ACK | TCP_SYN | TCP_RST)) != TCP_ACK)
        return false;
    flow_of(&flow, ack, ip);
    if (!cookie_open(stack, &flow, ack, &syn, now)) {
        stack->counters.tcp_cookie_bad++;
        return false;
    }
    if (tcp_listener_full(listener)) {
        stack->counters.tcp_accept_overflow++;
        return true;
    }
    struct tcp_conn *conn = tcp_listen_child(stack, listener, &syn, ip, 0, now);
    if (!conn)
        return true;
    conn->iss = ack->ack - 1;
    conn->snd_una = conn->iss;
    conn->snd_nxt = conn->snd_end = conn->iss + 1;
    conn->snd_short = conn->iss;
    conn->flags &= ~CONN_SYN_NOW;
    stack->counters.tcp_cookie_ok++;
    *child = conn;
    return true;
}
