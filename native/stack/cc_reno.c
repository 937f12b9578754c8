/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_reno.c - Reno's congestion control (RFC 5681).
 */
#include "stack/tcp.h"

/* The state is one word: bytes acknowledged towards the next increase. */

static void reno_init(struct tcp_conn *conn, uint64_t now)
{
    conn->cc_words[0] = 0;
}

static void reno_on_ack(struct tcp_conn *conn, const struct tcp_cc_sample *sample, uint64_t now)
{
    uint32_t left = tcp_cc_slow_start(conn, sample->delivered);
    if (left)
        tcp_cc_additive_increase(conn, left, conn->cwnd, &conn->cc_words[0]);
}

/* RFC 5681 section 3.1, (4).  cwnd stands for FlightSize: it was used, or
 * window validation would have lowered it. */
static uint32_t reno_on_loss(struct tcp_conn *conn, uint64_t now)
{
    conn->cc_words[0] = 0;
    return ams_max_u32(conn->cwnd / 2, 2 * conn->snd_mss);
}

const struct tcp_cc_ops cc_reno = {
    .name = "reno",
    .state_size = sizeof(uint64_t),
    .init = reno_init,
    .on_ack = reno_on_ack,
    .on_loss = reno_on_loss,
    .on_rto = reno_init,
};
