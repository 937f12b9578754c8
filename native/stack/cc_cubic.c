/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_cubic.c - CUBIC (RFC 9438).
 *
 * State lives in the TCB's private words; windows are in segments (double),
 * times in seconds, as the RFC's formulas have them.
 */
#include <string.h>

#include "stack/tcp.h"

#define CUBIC_C 0.4                                   /* RFC 9438 section 5 */
#define CUBIC_BETA 0.7                                /* section 4.6 */
#define CUBIC_ALPHA (3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA)) /* section 4.3 */

struct cubic {
    double w_max;
    double k;            /* seconds to reach w_max again */
    double w_est;        /* Reno-friendly window */
    double cwnd_epoch;
    double fraction;     /* cwnd growth below one byte, in segments */
    uint64_t epoch_at;   /* ns; 0: no epoch yet */
};

_Static_assert(sizeof(struct cubic) <= TCP_CC_PRIVATE * sizeof(uint64_t), "CUBIC's state fits the TCB");

static struct cubic cubic_load(const struct tcp_conn *conn)
{
    struct cubic state;
    memcpy(&state, conn->cc_private, sizeof(state));
    return state;
}

static void cubic_store(struct tcp_conn *conn, const struct cubic *state)
{
    memcpy(conn->cc_private, state, sizeof(*state));
}

/* Cube root by Newton's method; x >= 0. */
static double cube_root(double x)
{
    if (x <= 0)
        return 0;
    double root = x > 1 ? x / 3 + 1 : 1;
    for (int i = 0; i < 60; i++) {
        double next = (2 * root + x / (root * root)) / 3;
        double step = next > root ? next - root : root - next;
        root = next;
        if (step < 1e-9 * root)
            break;
    }
    return root;
}

static void cubic_init(struct tcp_conn *conn, uint64_t now)
{
    memset(conn->cc_private, 0, sizeof(conn->cc_private));
}

/* Section 4.2: starts the clock of a congestion avoidance stage. */
static void cubic_start_epoch(const struct tcp_conn *conn, struct cubic *state, double cwnd, uint64_t now)
{
    state->epoch_at = now;
    state->cwnd_epoch = cwnd;
    state->w_est = cwnd;
    state->fraction = 0;
    if (state->w_max <= cwnd) {
        state->w_max = cwnd;
        state->k = 0;
    } else {
        state->k = cube_root((state->w_max - cwnd) / CUBIC_C);
    }
}

static void cubic_on_ack(struct tcp_conn *conn, uint32_t acked, uint64_t rtt, uint64_t now)
{
    uint32_t left = tcp_cc_slow_start(conn, acked);
    if (!left)
        return;
    struct cubic state = cubic_load(conn);
    double mss = conn->snd_mss;
    double cwnd = conn->cwnd / mss;
    double segments = left / mss;
    if (!state.epoch_at)
        cubic_start_epoch(conn, &state, cwnd, now);
    double t = (double)(now - state.epoch_at + conn->srtt) / (double)AMS_NS_PER_S;
    double offset = t - state.k;
    double target = CUBIC_C * offset * offset * offset + state.w_max;
    if (target < cwnd)
        target = cwnd;
    if (target > 1.5 * cwnd)
        target = 1.5 * cwnd; /* section 4.2 */
    /* section 4.3: the Reno-friendly region */
    double alpha = state.w_est >= state.w_max && state.k > 0 ? 1.0 : CUBIC_ALPHA;
    state.w_est += alpha * segments / cwnd;
    double grow = (target - cwnd) / cwnd * segments;
    if (state.w_est > cwnd + grow)
        grow = state.w_est - cwnd;
    state.fraction += grow;
    double bytes = state.fraction * mss;
    if (bytes >= 1) {
        uint64_t step = (uint64_t)bytes;
        state.fraction -= (double)step / mss;
        uint64_t next = conn->cwnd + step;
        conn->cwnd = next > (1u << 30) ? 1u << 30 : (uint32_t)next;
    }
    cubic_store(conn, &state);
}

/* Sections 4.6 and 4.7: multiplicative decrease and fast convergence. */
static uint32_t cubic_ssthresh(struct tcp_conn *conn, uint64_t now)
{
    struct cubic state = cubic_load(conn);
    double cwnd = (double)conn->cwnd / conn->snd_mss;
    state.w_max = cwnd < state.w_max ? cwnd * (1.0 + CUBIC_BETA) / 2.0 : cwnd;
    state.epoch_at = 0;
    cubic_store(conn, &state);
    uint32_t reduced = (uint32_t)(conn->cwnd * CUBIC_BETA);
    return ams_max_u32(reduced, 2 * conn->snd_mss);
}

static void cubic_on_rto(struct tcp_conn *conn, uint64_t now)
{
    struct cubic state = cubic_load(conn);
    state.epoch_at = 0; /* section 4.8 */
    cubic_store(conn, &state);
}

/* Idle time must not count as growth time: the epoch starts anew. */
static void cubic_on_idle(struct tcp_conn *conn, uint64_t now)
{
    cubic_on_rto(conn, now);
}

const struct tcp_cc_ops cc_cubic = {
    .name = "cubic",
    .init = cubic_init,
    .on_ack = cubic_on_ack,
    .ssthresh = cubic_ssthresh,
    .on_rto = cubic_on_rto,
    .on_idle = cubic_on_idle,
};
