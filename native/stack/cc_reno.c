/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_reno.c - Reno's congestion control (RFC 5681), and the pieces of it
 * that other algorithms share.
 */
#include <string.h>

#include "stack/tcp.h"

static const struct tcp_cc_ops *const cc_table[] = {&cc_cubic, &cc_reno};

const struct tcp_cc_ops *tcp_cc_at(int index)
{
    return index >= 0 && (size_t)index < AMS_ARRAY_SIZE(cc_table) ? cc_table[index] : NULL;
}

const struct tcp_cc_ops *tcp_cc_find(const char *name)
{
    for (size_t i = 0; i < AMS_ARRAY_SIZE(cc_table); i++)
        if (strcmp(cc_table[i]->name, name) == 0)
            return cc_table[i];
    return NULL;
}

const char *ams_congestion_name(int index)
{
    const struct tcp_cc_ops *cc = tcp_cc_at(index);
    return cc ? cc->name : NULL;
}

/* RFC 3465 with L = 2 MSS per ACK of one segment; stretch ACKs (GRO) count
 * in full, as Linux counts them.
 * Return: the acknowledged bytes left when ssthresh was reached. */
uint32_t tcp_cc_slow_start(struct tcp_conn *conn, uint32_t acked)
{
    if (conn->cwnd >= conn->ssthresh)
        return acked;
    uint32_t grown = conn->ssthresh - conn->cwnd > acked ? conn->cwnd + acked : conn->ssthresh;
    uint32_t left = acked - (grown - conn->cwnd);
    conn->cwnd = grown;
    return left;
}

/* One MSS per `window` bytes acknowledged; the remainder is carried in the
 * first private word. */
void tcp_cc_additive_increase(struct tcp_conn *conn, uint32_t acked, uint32_t window)
{
    uint64_t credit = conn->cc_private[0] + acked;
    uint32_t unit = ams_max_u32(window, conn->snd_mss);
    if (credit >= unit) {
        uint64_t steps = credit / unit;
        credit -= steps * unit;
        uint64_t cwnd = conn->cwnd + steps * conn->snd_mss;
        conn->cwnd = cwnd > (1u << 30) ? 1u << 30 : (uint32_t)cwnd;
    }
    conn->cc_private[0] = credit;
}

static void reno_init(struct tcp_conn *conn, uint64_t now)
{
    memset(conn->cc_private, 0, sizeof(conn->cc_private));
}

static void reno_on_ack(struct tcp_conn *conn, uint32_t acked, uint64_t rtt, uint64_t now)
{
    uint32_t left = tcp_cc_slow_start(conn, acked);
    if (left)
        tcp_cc_additive_increase(conn, left, conn->cwnd);
}

/* RFC 5681 section 3.1, (4). */
static uint32_t reno_ssthresh(struct tcp_conn *conn, uint64_t now)
{
    uint32_t flight = ams_min_u32(conn->snd_nxt - conn->snd_una, conn->cwnd);
    return ams_max_u32(flight / 2, 2 * conn->snd_mss);
}

static void reno_on_rto(struct tcp_conn *conn, uint64_t now)
{
    conn->cc_private[0] = 0;
}

static void reno_on_idle(struct tcp_conn *conn, uint64_t now)
{
    conn->cc_private[0] = 0;
}

const struct tcp_cc_ops cc_reno = {
    .name = "reno",
    .init = reno_init,
    .on_ack = reno_on_ack,
    .ssthresh = reno_ssthresh,
    .on_rto = reno_on_rto,
    .on_idle = reno_on_idle,
};
