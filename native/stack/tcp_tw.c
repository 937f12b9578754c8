/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_tw.c - TIME-WAIT in its small form (RFC 9293 sections 3.6.1, 3.10.7.4).
 *
 * Once the application has let go, all that TIME-WAIT needs is the 4-tuple,
 * two sequence numbers and the timestamps.  Entries are on a list by age;
 * beyond max_time_wait the oldest goes.  A SYN with a newer timestamp, or (if
 * timestamps don't tell) a sequence number beyond the old one's, opens a new
 * connection (RFC 6191).
 *
 * An RST does not end the wait (RFC 1337), but for one case: a peer that has
 * lost its memory sends a SYN that looks old, gets our ACK, and answers that
 * with an RST of exactly the number acknowledged.  Without obeying it the peer
 * would have to try until the wait is over.  Old duplicates of data or ACKs,
 * RFC 1337's hazard, don't open this door.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

#define FREE_TWS_MAX 4096u
#define ISS_STEP 65538u /* beyond anything the old incarnation had in flight without scaling, as Linux does */

static void tw_unlink(struct tcp_host *tcp, struct tcp_tw *tw)
{
    if (tw->older)
        tw->older->newer = tw->newer;
    else
        tcp->tw_oldest = tw->newer;
    if (tw->newer)
        tw->newer->older = tw->older;
    else
        tcp->tw_newest = tw->older;
}

static void tw_link(struct tcp_host *tcp, struct tcp_tw *tw)
{
    tw->newer = NULL;
    tw->older = tcp->tw_newest;
    if (tcp->tw_newest)
        tcp->tw_newest->newer = tw;
    else
        tcp->tw_oldest = tw;
    tcp->tw_newest = tw;
}

void tcp_tw_free(struct ams_stack *stack, struct tcp_tw *tw)
{
    struct tcp_host *tcp = stack->tcp;
    struct ams_endpoint local = tcp_flow_local(&tw->flow);
    stack->owner.release(stack->owner.ctx, PROTO_TCP, &local);
    timer_cancel(&stack->wheel, &tw->timer);
    tcp_flow_remove(stack, &tw->flow);
    tw_unlink(tcp, tw);
    tcp->n_tw--;
    if (tcp->n_free_tws < FREE_TWS_MAX) {
        tw->newer = tcp->free_tws;
        tcp->free_tws = tw;
        tcp->n_free_tws++;
    } else {
        tcp->memory -= sizeof(*tw);
        mem_free(tw);
    }
    tcp_idle(stack);
}

/* Asks for what it takes to free the oldest entry, and for the one after it,
 * which will be the oldest then.  A busy server frees one with each connection,
 * and the last that anybody saw of it is a minute ago. */
static void tw_fetch_oldest(const struct tcp_host *tcp)
{
    const struct tcp_tw *tw = tcp->tw_oldest;
    if (!tw)
        return;
    AMS_PREFETCH(tcp_flow_line(&tcp->flows, tw->flow.hash));
    if (tw->newer) {
        AMS_PREFETCH(tw->newer);
        AMS_PREFETCH((const char *)tw->newer + AMS_CACHE_LINE);
    }
}

/* Makes an entry; when there are as many as there may be, the oldest goes.
 * Return: NULL without memory. */
static struct tcp_tw *tw_new(struct ams_stack *stack)
{
    struct tcp_host *tcp = stack->tcp;
    if (tcp->n_tw >= stack->config.max_time_wait && tcp->tw_oldest) {
        stack->counters.tcp_tw_overflow++;
        tcp_tw_free(stack, tcp->tw_oldest);
        tw_fetch_oldest(tcp);
    }
    struct tcp_tw *tw = tcp->free_tws;
    if (tw) {
        tcp->free_tws = tw->newer;
        tcp->n_free_tws--;
    } else {
        tw = mem_alloc(sizeof(*tw));
        if (!tw)
            return NULL;
        tcp->memory += sizeof(*tw);
    }
    memset(tw, 0, sizeof(*tw));
    return tw;
}

/* Acknowledges whatever the peer said. */
static void tw_ack(struct ams_stack *stack, const struct tcp_tw *tw, uint64_t now)
{
    struct tcp_repr repr = {
        .src_port = tw->flow.local_port,
        .dst_port = tw->flow.remote_port,
        .seq = tw->snd_nxt,
        .ack = tw->rcv_nxt,
        .flags = TCP_ACK | tw->ecn_flags,
        .window = (uint16_t)tw->window,
        .has_timestamps = tw->ts_ok,
        .tsval = (uint32_t)(now / AMS_NS_PER_MS) + tw->ts_offset,
        .tsecr = tw->ts_recent,
    };
    tcp_send_bare(stack, &tw->flow, &repr, now);
}

void tcp_tw_from(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    struct tcp_tw *tw = conn->flags & CONN_CLAIMED ? tw_new(stack) : NULL;
    if (!tw) {
        tcp_drop(stack, conn, 0);
        return;
    }
    bool ack = conn->flags & CONN_ACK_NOW;
    uint64_t expires = conn->keep_at ? conn->keep_at : now + stack->config.time_wait_ms * AMS_NS_PER_MS;
    tw->flow = conn->flow;
    tw->flow.is_tw = true;
    tw->snd_nxt = conn->snd_nxt;
    tw->rcv_nxt = conn->rcv_nxt;
    tw->ts_recent = conn->ts_recent;
    tw->ts_offset = conn->ts_offset;
    tw->ts_ok = conn->flags & CONN_TS_OK;
    tw->ecn_flags = tcp_ecn_ack_flags(conn, false);
    tw->window = ams_min_u32(tcp_receive_window(stack, conn) >> conn->rcv_wscale, 65535);
    tw->timer.kind = STACK_TIMER_TCP_TW;
    conn->flags &= ~CONN_CLAIMED; /* the claim goes over to tw */
    tcp_conn_free(stack, conn);
    tcp_flow_insert(stack, &tw->flow);
    tw_link(stack->tcp, tw);
    stack->tcp->n_tw++;
    timer_arm(&stack->wheel, &tw->timer, expires);
    if (ack)
        tw_ack(stack, tw, now);
    tw->flow.service.ttl = tw->flow.service.hops = 0; /* as Linux: from here on only the traffic class lasts */
}

void tcp_tw_expired(struct ams_stack *stack, struct ams_timer *timer)
{
    tcp_tw_free(stack, AMS_CONTAINER_OF(timer, struct tcp_tw, timer));
}

/* RFC 6191 section 2: may this SYN begin a new incarnation?  Where both have
 * timestamps these decide, and only equal ones leave it to the numbers. */
static bool syn_is_newer(const struct tcp_tw *tw, const struct tcp_repr *seg)
{
    if (tw->ts_ok && seg->has_timestamps && seg->tsval != tw->ts_recent)
        return (int32_t)(seg->tsval - tw->ts_recent) > 0;
    return seq_gt(seg->seq, tw->rcv_nxt);
}

void tcp_tw_input(struct ams_stack *stack, struct tcp_tw *tw, const struct tcp_repr *seg, const struct ip_info *ip,
                  uint32_t payload, uint64_t now)
{
    if (seg->flags & TCP_RST) {
        stack->counters.tcp_rst_rx++;
        if (tw->challenged && seg->seq == tw->rcv_nxt)
            tcp_tw_free(stack, tw);
        return;
    }
    if ((seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && syn_is_newer(tw, seg)) {
        struct tcp_listener *listener =
            tcp_listener_find(stack, tw->flow.local_ip, tw->flow.local_port, tw->flow.remote_ip, tw->flow.remote_port,
                              tw->flow.family);
        if (listener) {
            uint32_t min_iss = tw->snd_nxt + ISS_STEP;
            stack->counters.tcp_tw_recycled++;
            tcp_tw_free(stack, tw);
            tcp_listen_input(stack, listener, seg, ip, NULL, min_iss ? min_iss : 1, now);
            return;
        }
    }
    bool old_timestamp = tw->ts_ok && seg->has_timestamps && (int32_t)(seg->tsval - tw->ts_recent) < 0;
    if (seg->flags & TCP_FIN && !old_timestamp && seg->seq + payload + 1 == tw->rcv_nxt) {
        timer_arm(&stack->wheel, &tw->timer, now + stack->config.time_wait_ms * AMS_NS_PER_MS);
        tw_unlink(stack->tcp, tw);
        tw_link(stack->tcp, tw);
        tw_ack(stack, tw, now);
    } else if (seg->flags & (TCP_SYN | TCP_FIN) || payload || seg->seq != tw->rcv_nxt) {
        tw->challenged = tw->challenged || (seg->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
        tw_ack(stack, tw, now);
    }
}
