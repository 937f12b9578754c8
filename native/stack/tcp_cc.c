/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_cc.c - what all congestion controls have in common: the table of them,
 * their state, when they are asked, and whether the window is used at all.
 *
 * Window validation (RFC 7661, in RFC 2861's manner as Linux does it): cwnd
 * only grows while the sender fills it, or half of it in slow start; a
 * sender that has not filled it for an RTO comes half-way back to what it
 * used; one that was idle loses half for each RTO, down to the initial
 * window.  ssthresh remembers three quarters of what was lost.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

static const struct tcp_cc_ops *const cc_table[] = {&cc_cubic, &cc_reno, &cc_bbr};

const struct tcp_cc_ops *tcp_cc_at(int index)
{
    return index >= 0 && (size_t)index < AMS_ARRAY_SIZE(cc_table) ? cc_table[index] : NULL;
}

const struct tcp_cc_ops *tcp_cc_find(const struct ams_stack *stack, const char *name)
{
    for (size_t i = 0; i < AMS_ARRAY_SIZE(cc_table); i++)
        if (strcmp(cc_table[i]->name, name) == 0)
            return cc_table[i];
    return tcp_cc_external_find(stack->tcp, name);
}

const char *ams_congestion_name(int index)
{
    const struct tcp_cc_ops *cc = tcp_cc_at(index);
    return cc ? cc->name : NULL;
}

/* ---- state --------------------------------------------------------------------- */

void *tcp_cc_state(struct tcp_conn *conn)
{
    return conn->loss & LOSS_CC_HEAP ? conn->cc_heap : conn->cc_words;
}

void tcp_cc_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->cc->fini)
        conn->cc->fini(conn);
    if (conn->loss & LOSS_CC_HEAP) {
        stack->tcp->memory -= conn->cc->state_size;
        mem_free(conn->cc_heap);
        conn->loss &= (uint16_t)~LOSS_CC_HEAP;
    }
    memset(conn->cc_words, 0, sizeof(conn->cc_words));
}

/* True from tcp_cc_start() on, which gives the first cwnd: with a handshake's
 * end, or before it (Fast Open's children). */
static bool running(const struct tcp_conn *conn)
{
    return conn->cwnd && !(conn->flags & CONN_DEAD);
}

int tcp_cc_choose(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_cc_ops *cc)
{
    void *heap = NULL;
    if (conn->cc == cc)
        return 0;
    if (running(conn) && cc->state_size > sizeof(conn->cc_words)) {
        heap = mem_zalloc(1, cc->state_size);
        if (!heap)
            return -AMS_ENOMEM;
    }
    tcp_cc_fini(stack, conn);
    conn->cc = cc;
    if (heap) {
        conn->cc_heap = heap;
        conn->loss |= LOSS_CC_HEAP;
        stack->tcp->memory += cc->state_size;
    }
    conn->pacing_rate = 0;
    if (running(conn))
        cc->init(conn, stack->now);
    return 0;
}

uint32_t tcp_initial_window(const struct tcp_conn *conn)
{
    return ams_min_u32(10 * conn->snd_mss, ams_max_u32(2 * conn->snd_mss, 14600));
}

void tcp_cc_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    const struct tcp_cc_ops *cc = conn->cc;
    conn->cwnd = tcp_initial_window(conn);
    conn->cwnd_at = now;
    conn->cwnd_used_seq = conn->snd_una;
    if (cc->state_size > sizeof(conn->cc_words)) {
        conn->cc = &cc_reno; /* has no state outside of the TCB */
        if (tcp_cc_choose(stack, conn, cc) == 0)
            return;
        stack->counters.tcp_no_memory++;
    }
    conn->cc->init(conn, now);
}

/* ---- growth -------------------------------------------------------------------- */

uint32_t tcp_cc_slow_start(struct tcp_conn *conn, uint32_t acked)
{
    if (conn->cwnd >= conn->ssthresh)
        return acked;
    uint32_t grown = conn->ssthresh - conn->cwnd > acked ? conn->cwnd + acked : conn->ssthresh;
    uint32_t left = acked - (grown - conn->cwnd);
    conn->cwnd = ams_min_u32(grown, TCP_CWND_MAX);
    return left;
}

void tcp_cc_additive_increase(struct tcp_conn *conn, uint32_t acked, uint32_t window, uint64_t *credit)
{
    /* a round trip brings ACKs of as many whole segments as the window holds */
    uint32_t unit = ams_max_u32(window - window % conn->snd_mss, conn->snd_mss);
    *credit += acked;
    if (*credit >= unit) {
        uint64_t steps = *credit / unit;
        *credit -= steps * unit;
        conn->cwnd = (uint32_t)ams_min_u64(conn->cwnd + steps * conn->snd_mss, TCP_CWND_MAX);
    }
}

/* Does the sender use its window, or half of it in slow start? */
static bool window_used(const struct tcp_conn *conn)
{
    if (conn->flags & CONN_CWND_LIMITED)
        return true;
    return conn->cwnd < conn->ssthresh && conn->cwnd < 2 * conn->cwnd_used;
}

/* Paces an algorithm that does not pace itself: the window over the smoothed
 * RTT, twice of it in slow start and 6/5 later, so that the window decides. */
static void pace_window(struct tcp_conn *conn)
{
    if (!conn->srtt)
        return;
    double gain = conn->cwnd < conn->ssthresh / 2 ? 2.0 : 1.2;
    conn->pacing_rate = (uint64_t)(gain * conn->cwnd * (double)AMS_NS_PER_S / (double)conn->srtt);
}

void tcp_cc_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery, uint64_t now)
{
    struct tcp_cc_sample sample;
    if (!delivery->delivered && !delivery->acked)
        return;
    tcp_rate_sample(conn, delivery, &sample, now);
    if (conn->cc->flags & TCP_CC_OWN_CWND) {
        conn->cc->on_ack(conn, &sample, now);
    } else if (tcp_reducing(conn)) {
        if (delivery->delivered) /* else cwnd stays, and never is 0 (RFC 9937 section 6.2) */
            tcp_prr_ack(conn, delivery);
    } else if (delivery->acked && (conn->ca_state == TCP_CA_LOSS || window_used(conn))) {
        conn->cc->on_ack(conn, &sample, now);
    }
    if (AMS_UNLIKELY(conn->flags & CONN_PACING) && !(conn->cc->flags & TCP_CC_PACED))
        pace_window(conn);
}

/* ---- use ------------------------------------------------------------------------- */

/* Three quarters of what the window was. */
static void remember_window(struct tcp_conn *conn)
{
    if (!tcp_reducing(conn))
        conn->ssthresh = ams_max_u32(conn->ssthresh, conn->cwnd / 4 * 3);
}

void tcp_cc_sent(struct tcp_conn *conn, bool limited, uint64_t now)
{
    uint32_t flight = conn->snd_nxt - conn->snd_una;
    bool was_limited = conn->flags & CONN_CWND_LIMITED;
    if (limited || seq_geq(conn->snd_una, conn->cwnd_used_seq) || (!was_limited && flight > conn->cwnd_used)) {
        conn->flags = limited ? conn->flags | CONN_CWND_LIMITED : conn->flags & ~CONN_CWND_LIMITED;
        conn->cwnd_used = flight;
        conn->cwnd_used_seq = conn->snd_nxt;
    }
    if (window_used(conn)) {
        conn->cwnd_at = now;
    } else if (now - conn->cwnd_at >= conn->rto && !(conn->cc->flags & TCP_CC_OWN_CWND) &&
               conn->ca_state == TCP_CA_OPEN) {
        /* RFC 2861 section 3.2: limited by the application for an RTO */
        uint32_t used = ams_max_u32(conn->cwnd_used, tcp_initial_window(conn));
        if (used < conn->cwnd) {
            remember_window(conn);
            conn->cwnd = (conn->cwnd + used) / 2;
        }
        conn->cwnd_at = now;
    }
}

void tcp_cc_restart(struct tcp_conn *conn, uint64_t now)
{
    uint64_t idle = now - conn->last_sent_at;
    bool own = conn->cc->flags & TCP_CC_OWN_CWND;
    if (!conn->last_sent_at || (idle < conn->rto && !own))
        return;
    if (!own) {
        uint32_t floor = ams_min_u32(tcp_initial_window(conn), conn->cwnd);
        remember_window(conn);
        for (; idle >= conn->rto && conn->cwnd > floor; idle -= conn->rto)
            conn->cwnd /= 2;
        conn->cwnd = ams_max_u32(conn->cwnd, floor);
    }
    conn->cwnd_at = now;
    conn->cwnd_used = 0;
    if (conn->cc->on_idle)
        conn->cc->on_idle(conn, now);
}
