/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_rate.c - how fast data is delivered (draft-ietf-ccwg-bbr, "Delivery
 * Rate Samples").
 *
 * Theory of operation.  Each record remembers how much had been delivered,
 * and when, at the time when it was sent.  When it is delivered itself, the
 * difference to now is what the network has delivered in between.  The rate
 * is that amount over the longer of the time that sending it took and the
 * time that the ACKs took: the shorter one may be a burst's.  A sample taken
 * while the application had too little to send says nothing about the path's
 * capacity, and is marked.
 */
#include "stack/tcp.h"

static uint32_t ago(uint64_t from, uint64_t to)
{
    return (uint32_t)ams_min_u64((to - from) >> TCP_AGO_SHIFT, UINT32_MAX);
}

void tcp_rate_sent(struct tcp_conn *conn, struct tcp_rec *rec, uint64_t now)
{
    if (conn->snd_una == conn->snd_nxt)
        conn->first_tx_at = conn->delivered_at = now;
    rec->sent_at = now;
    rec->delivered = (uint32_t)conn->delivered;
    rec->delivered_ago = ago(conn->delivered_at, now);
    rec->first_tx_ago = ago(conn->first_tx_at, now);
    rec->marks = (uint8_t)((rec->marks & ~REC_APP_LIMITED) | (conn->app_limited ? REC_APP_LIMITED : 0));
}

void tcp_rate_delivered(struct tcp_conn *conn, const struct tcp_rec *rec, struct tcp_rate_mark *mark)
{
    uint32_t end = rec->seq + rec->len;
    if (mark->valid && (rec->sent_at < mark->sent_at || (rec->sent_at == mark->sent_at && seq_lt(end, mark->end_seq))))
        return;
    mark->valid = true;
    mark->app_limited = rec->marks & REC_APP_LIMITED;
    mark->end_seq = end;
    mark->delivered = rec->delivered;
    mark->sent_at = rec->sent_at;
    mark->delivered_at = rec->sent_at - ((uint64_t)rec->delivered_ago << TCP_AGO_SHIFT);
    mark->send_elapsed = (uint64_t)rec->first_tx_ago << TCP_AGO_SHIFT;
    conn->first_tx_at = rec->sent_at;
}

void tcp_rate_sample(struct tcp_conn *conn, const struct tcp_delivery *delivery, struct tcp_cc_sample *out,
                     uint64_t now)
{
    const struct tcp_rate_mark *mark = &delivery->mark;
    *out = (struct tcp_cc_sample){.acked = delivery->acked,
                                  .delivered = delivery->delivered,
                                  .lost = conn->lost_total - delivery->prior_lost,
                                  .prior_pipe = delivery->prior_pipe,
                                  .rtt = delivery->rtt};
    if (conn->app_limited && seq_gt((uint32_t)conn->delivered, conn->app_limited))
        conn->app_limited = 0;
    if (!mark->valid)
        return;
    out->rate_valid = true;
    out->rate_prior = mark->delivered;
    out->app_limited = mark->app_limited;
    uint64_t interval = ams_max_u64(mark->send_elapsed, now - mark->delivered_at);
    uint32_t amount = (uint32_t)conn->delivered - mark->delivered;
    /* less than the shortest RTT: a retransmission that was none */
    if (!amount || !interval || interval + (1u << TCP_AGO_SHIFT) < conn->min_rtt)
        return;
    out->rate_delivered = amount;
    out->rate_interval = interval;
    uint32_t units = (uint32_t)ams_min_u64((interval >> TCP_AGO_SHIFT) + 1, UINT32_MAX);
    if (!mark->app_limited || (uint64_t)amount * conn->rate_interval >= (uint64_t)units * conn->rate_delivered) {
        conn->rate_delivered = amount;
        conn->rate_interval = units;
    }
}

void tcp_rate_app_limited(struct tcp_conn *conn)
{
    if (tcp_pipe(conn) < conn->cwnd && conn->lost_bytes == conn->retrans_bytes)
        conn->app_limited = ams_max_u32((uint32_t)conn->delivered + tcp_pipe(conn), 1);
}
