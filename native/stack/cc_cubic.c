/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_cubic.c - CUBIC (RFC 9438) with HyStart++ (RFC 9406).
 *
 * Theory of operation.  Between two losses cwnd follows a cubic function of
 * time, W_cubic(t) = C (t - K)^3 + W_max, whose plateau is where the last
 * loss happened; it grows at least as Reno would (W_est).  Windows are in
 * segments and times in seconds, as the RFC's formulas have them.
 *
 * The first slow start ends before it loses a whole window: when the minimum
 * RTT of a round is well above the last round's, growth is slowed to a
 * quarter (conservative slow start), and after five such rounds congestion
 * avoidance begins, unless the RTT falls again.
 */
#include <string.h>

#include "stack/tcp.h"

#define CUBIC_C 0.4                                   /* RFC 9438 section 5 */
#define CUBIC_BETA 0.7                                /* section 4.6 */
#define CUBIC_ALPHA (3.0 * (1.0 - CUBIC_BETA) / (1.0 + CUBIC_BETA)) /* section 4.3 */

#define HYSTART_RTT_SHIFT 10                          /* RTTs are kept in units of 1024 ns */
#define HYSTART_THRESH_MIN ((4 * AMS_NS_PER_MS) >> HYSTART_RTT_SHIFT) /* RFC 9406 section 4.3 */
#define HYSTART_THRESH_MAX ((16 * AMS_NS_PER_MS) >> HYSTART_RTT_SHIFT)
#define HYSTART_DIVISOR 8u
#define HYSTART_SAMPLES 8u
#define CSS_GROWTH_DIVISOR 4u
#define CSS_ROUNDS 5u

struct cubic {
    uint64_t epoch_at;   /* ns, when this congestion avoidance stage began; 0: not yet */
    double w_est;        /* Reno-friendly window */
    float w_max;
    float w_max_before;  /* before the last reduction, for an undo */
    float k;             /* seconds to reach w_max again */
    float cwnd_prior;    /* at the last reduction */
    float fraction;      /* growth below one byte, in segments */
    uint32_t round_end;  /* HyStart++: windowEnd */
    uint32_t last_rtt;   /* minimum of the last round, 0: none */
    uint32_t rtt;        /* of this one so far, 0: none */
    uint32_t css_rtt;    /* minimum when conservative slow start began, 0: it has not */
    uint8_t samples;
    uint8_t css_rounds;
};

_Static_assert(sizeof(struct cubic) <= TCP_CC_WORDS * sizeof(uint64_t), "CUBIC's state fits the TCB");

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
    struct cubic *state = tcp_cc_state(conn);
    memset(state, 0, sizeof(*state));
    state->round_end = conn->snd_nxt;
}

/* ---- HyStart++ (RFC 9406 section 4.2) ------------------------------------------- */

/* A round is over: its minimum is the next one's measure. */
static void hystart_round(struct tcp_conn *conn, struct cubic *state)
{
    state->round_end = conn->snd_nxt;
    state->last_rtt = state->rtt;
    state->rtt = 0;
    state->samples = 0;
    if (state->css_rtt && ++state->css_rounds >= CSS_ROUNDS)
        conn->ssthresh = conn->cwnd;
}

/* Looks at one RTT sample: enters conservative slow start, or leaves it. */
static void hystart_sample(struct cubic *state, uint64_t rtt)
{
    uint32_t units = (uint32_t)ams_min_u64(ams_max_u64(rtt >> HYSTART_RTT_SHIFT, 1), UINT32_MAX / 2);
    if (!state->rtt || units < state->rtt)
        state->rtt = units;
    if (state->samples < HYSTART_SAMPLES)
        state->samples++;
    if (state->samples < HYSTART_SAMPLES)
        return;
    if (state->css_rtt) {
        if (state->rtt < state->css_rtt)
            state->css_rtt = 0; /* the increase was spurious */
    } else if (state->last_rtt) {
        uint32_t thresh = ams_min_u32(ams_max_u32(state->last_rtt / HYSTART_DIVISOR, HYSTART_THRESH_MIN),
                                      HYSTART_THRESH_MAX);
        if (state->rtt >= state->last_rtt + thresh) {
            state->css_rtt = state->rtt;
            state->css_rounds = 0;
        }
    }
}

/* Slow start.  Return: the bytes left for congestion avoidance. */
static uint32_t cubic_slow_start(struct tcp_conn *conn, struct cubic *state, const struct tcp_cc_sample *sample)
{
    if (conn->ssthresh == UINT32_MAX) { /* the first one (RFC 9406 section 4.3) */
        if (sample->rtt)
            hystart_sample(state, sample->rtt);
        if (seq_geq(conn->snd_una, state->round_end))
            hystart_round(conn, state);
        if (state->css_rtt && conn->ssthresh == UINT32_MAX)
            return tcp_cc_slow_start(conn, (sample->delivered + CSS_GROWTH_DIVISOR - 1) / CSS_GROWTH_DIVISOR);
    }
    return tcp_cc_slow_start(conn, sample->delivered);
}

/* ---- congestion avoidance ----------------------------------------------------------- */

/* Section 4.2: starts the clock of a congestion avoidance stage. */
static void cubic_start_epoch(struct cubic *state, double cwnd, uint64_t now)
{
    state->epoch_at = now;
    state->w_est = cwnd;
    state->fraction = 0;
    if (state->w_max <= cwnd) { /* also the first one, and after a timeout (section 4.8) */
        state->w_max = (float)cwnd;
        state->k = 0;
    } else {
        state->k = (float)cube_root((state->w_max - cwnd) / CUBIC_C);
    }
}

static double w_cubic(const struct cubic *state, uint64_t elapsed)
{
    double offset = (double)elapsed / (double)AMS_NS_PER_S - state->k;
    return CUBIC_C * offset * offset * offset + state->w_max;
}

/* What cwnd grows by for `segments` acknowledged, in segments. */
static double cubic_growth(const struct tcp_conn *conn, struct cubic *state, double cwnd, double segments,
                           uint64_t now)
{
    uint64_t elapsed = now - state->epoch_at;
    double alpha = state->w_est >= state->cwnd_prior ? 1.0 : CUBIC_ALPHA;
    state->w_est += alpha * segments / cwnd;
    if (w_cubic(state, elapsed) < state->w_est) /* section 4.3: the Reno-friendly region */
        return state->w_est > cwnd ? state->w_est - cwnd : 0;
    double target = w_cubic(state, elapsed + conn->srtt); /* sections 4.4 and 4.5 */
    if (target > 1.5 * cwnd)
        target = 1.5 * cwnd;
    return target > cwnd ? (target - cwnd) / cwnd * segments : 0;
}

static void cubic_on_ack(struct tcp_conn *conn, const struct tcp_cc_sample *sample, uint64_t now)
{
    struct cubic *state = tcp_cc_state(conn);
    uint32_t left = sample->delivered;
    if (conn->cwnd < conn->ssthresh) {
        left = cubic_slow_start(conn, state, sample);
        if (!left)
            return;
    }
    double mss = conn->snd_mss;
    double cwnd = conn->cwnd / mss;
    if (!state->epoch_at)
        cubic_start_epoch(state, cwnd, now);
    double bytes = (state->fraction + cubic_growth(conn, state, cwnd, left / mss, now)) * mss;
    uint64_t whole = (uint64_t)bytes;
    state->fraction = (float)((bytes - (double)whole) / mss);
    conn->cwnd = (uint32_t)ams_min_u64(conn->cwnd + whole, TCP_CWND_MAX);
}

/* Sections 4.6 and 4.7: multiplicative decrease and fast convergence. */
static uint32_t cubic_on_loss(struct tcp_conn *conn, uint64_t now)
{
    struct cubic *state = tcp_cc_state(conn);
    float cwnd = (float)conn->cwnd / (float)conn->snd_mss;
    state->w_max_before = state->w_max;
    state->w_max = cwnd < state->w_max ? cwnd * (float)((1.0 + CUBIC_BETA) / 2.0) : cwnd;
    state->cwnd_prior = cwnd;
    state->epoch_at = 0;
    return ams_max_u32((uint32_t)(conn->cwnd * CUBIC_BETA), 2 * conn->snd_mss);
}

/* Section 4.8: K is 0, and W_max what cwnd will be then. */
static void cubic_on_rto(struct tcp_conn *conn, uint64_t now)
{
    struct cubic *state = tcp_cc_state(conn);
    state->w_max = 0;
    state->epoch_at = 0;
}

/* Section 4.9: on the way to the same plateau as before. */
static void cubic_on_undo(struct tcp_conn *conn, uint64_t now)
{
    struct cubic *state = tcp_cc_state(conn);
    state->w_max = state->w_max_before;
    state->epoch_at = 0;
}

/* Idle time must not count as growth time: the epoch starts anew. */
static void cubic_on_idle(struct tcp_conn *conn, uint64_t now)
{
    struct cubic *state = tcp_cc_state(conn);
    state->epoch_at = 0;
    state->round_end = conn->snd_nxt;
    state->samples = 0;
    state->rtt = 0;
}

const struct tcp_cc_ops cc_cubic = {
    .name = "cubic",
    .state_size = sizeof(struct cubic),
    .init = cubic_init,
    .on_ack = cubic_on_ack,
    .on_loss = cubic_on_loss,
    .on_rto = cubic_on_rto,
    .on_undo = cubic_on_undo,
    .on_idle = cubic_on_idle,
};
