/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_bbr.c - BBR, version 1 (draft-cardwell-iccrg-bbr-congestion-control-00;
 * Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue
 * 14(5), 2016).
 *
 * Theory of operation.  BBR keeps a model of the path, the most that was
 * delivered per second within ten round trips and the shortest round trip
 * within ten seconds, and sends at that rate (paced) with about two
 * bandwidth-delay products in flight at most.  Loss is no signal to it:
 * during recovery it only avoids sending more than is delivered, for one
 * round.
 *
 *   STARTUP    doubles the rate each round until bandwidth has stopped
 *              growing (by a quarter) for three rounds
 *   DRAIN      empties the queue that this has made
 *   PROBE_BW   cycles through eight phases of a round trip: 5/4 of the rate
 *              to probe, 3/4 to drain, then six at the rate
 *   PROBE_RTT  for 200 ms, every ten seconds without a new minimum: four
 *              segments in flight, so that the queue is empty and the round
 *              trip is what the path takes
 *
 * ACKs that arrive in clumps (Wi-Fi, GRO) would leave the sender idle in
 * between: cwnd is raised by the most that such clumps have exceeded the
 * bandwidth estimate in the last five to ten rounds.  Long-term sampling
 * for token-bucket policers, which later versions have given up, is left out.
 */
#include <string.h>

#include "stack/tcp.h"

#define BBR_HIGH_GAIN 2.885                     /* 2 / ln 2: doubles each round */
#define BBR_CWND_GAIN 2.0
#define BBR_CYCLE 8u
#define BBR_BW_ROUNDS (BBR_CYCLE + 2)
#define BBR_MIN_RTT_WINDOW (10 * AMS_NS_PER_S)
#define BBR_PROBE_RTT_TIME (200 * AMS_NS_PER_MS)
#define BBR_MIN_SEGMENTS 4u
#define BBR_FULL_GROWTH 1.25
#define BBR_FULL_ROUNDS 3u
#define BBR_PACING_MARGIN 0.99                  /* a little below the estimate: queues stay short */
#define BBR_EXTRA_ROUNDS 5u
#define BBR_EXTRA_TIME (100 * AMS_NS_PER_MS)    /* at most that long at the bandwidth estimate */
#define BBR_EPOCH_MAX (1u << 30)

enum bbr_mode { BBR_STARTUP, BBR_DRAIN, BBR_PROBE_BW, BBR_PROBE_RTT };

/* The maximum within a window of rounds, from its three best samples in
 * order of age (Kathleen Nichols' filter). */
struct bbr_sample {
    uint64_t value;
    uint32_t round;
};

struct bbr {
    struct bbr_sample bw[3];  /* bytes per second */
    uint64_t full_bw;         /* what STARTUP compares with */
    uint64_t min_rtt;         /* ns, 0: none yet */
    uint64_t min_rtt_at;
    uint64_t probe_done_at;   /* end of PROBE_RTT, 0: not yet known */
    uint64_t phase_at;        /* when this phase of PROBE_BW began */
    uint64_t epoch_at;        /* ACK aggregation: when counting began, */
    uint64_t epoch_acked;     /* and the bytes since */
    uint32_t extra[2];        /* excess bytes: most in this and in the last window */
    uint32_t round;
    uint32_t round_delivered; /* conn->delivered (low bits) that ends this round */
    uint32_t prior_cwnd;      /* before recovery or PROBE_RTT */
    uint8_t mode;             /* enum bbr_mode */
    uint8_t phase;            /* of PROBE_BW */
    uint8_t full_rounds;      /* without growth */
    uint8_t extra_rounds;     /* of this window of extra[] */
    uint8_t extra_slot;
    uint8_t prev_ca_state;
    bool round_start;
    bool full_reached;
    bool conserve;            /* first round of recovery: one out for one delivered */
    bool idle_restart;
    bool probe_round_done;
    bool rtt_seen;            /* pacing_rate rests on a real RTT */
};

/* ---- the model -------------------------------------------------------------------- */

static uint64_t bbr_bw(const struct bbr *bbr)
{
    return bbr->bw[0].value;
}

/* Takes a sample of bandwidth into the windowed maximum: the three best, each
 * younger than the one before. */
static void bw_update(struct bbr *bbr, uint64_t value)
{
    struct bbr_sample *best = bbr->bw, fresh = {value, bbr->round};
    if (value >= best[0].value || fresh.round - best[2].round > BBR_BW_ROUNDS) {
        best[0] = best[1] = best[2] = fresh;
        return;
    }
    if (value >= best[1].value)
        best[1] = best[2] = fresh;
    else if (value >= best[2].value)
        best[2] = fresh;
    uint32_t age = fresh.round - best[0].round;
    if (age > BBR_BW_ROUNDS) { /* the best one is too old: the next ones move up */
        best[0] = best[1];
        best[1] = best[2];
        best[2] = fresh;
        if (fresh.round - best[0].round > BBR_BW_ROUNDS) {
            best[0] = best[1];
            best[1] = best[2];
        }
    } else if (best[1].round == best[0].round && age > BBR_BW_ROUNDS / 4) {
        best[1] = best[2] = fresh; /* a second best from the second quarter */
    } else if (best[2].round == best[1].round && age > BBR_BW_ROUNDS / 2) {
        best[2] = fresh; /* and a third from the second half */
    }
}

static double pacing_gain(const struct bbr *bbr)
{
    switch ((enum bbr_mode)bbr->mode) {
    case BBR_STARTUP:
        return BBR_HIGH_GAIN;
    case BBR_DRAIN:
        return 1 / BBR_HIGH_GAIN;
    case BBR_PROBE_BW:
        return bbr->phase == 0 ? 1.25 : bbr->phase == 1 ? 0.75 : 1.0;
    case BBR_PROBE_RTT:
        break;
    }
    return 1.0;
}

static double cwnd_gain(const struct bbr *bbr)
{
    if (bbr->mode == BBR_STARTUP || bbr->mode == BBR_DRAIN)
        return BBR_HIGH_GAIN;
    return bbr->mode == BBR_PROBE_BW ? BBR_CWND_GAIN : 1.0;
}

/* gain bandwidth-delay products, in bytes. */
static uint64_t bbr_bdp(const struct tcp_conn *conn, const struct bbr *bbr, double gain)
{
    if (!bbr->min_rtt)
        return tcp_initial_window(conn);
    return (uint64_t)(gain * (double)bbr_bw(bbr) * (double)bbr->min_rtt / (double)AMS_NS_PER_S);
}

/* The target with room for what offloads and delayed ACKs hold back. */
static uint64_t bbr_inflight(const struct tcp_conn *conn, const struct bbr *bbr, double gain)
{
    uint64_t target = bbr_bdp(conn, bbr, gain) + 3 * tcp_paced_burst(conn);
    target = (target / conn->snd_mss + 1) * conn->snd_mss;
    if (bbr->mode == BBR_PROBE_BW && bbr->phase == 0)
        target += 2 * conn->snd_mss; /* so that small BDPs are probed at all */
    return target;
}

static void set_pacing_rate(struct tcp_conn *conn, struct bbr *bbr, double gain)
{
    if (!bbr->rtt_seen && conn->srtt) { /* the first real RTT: what cwnd stands for */
        bbr->rtt_seen = true;
        conn->pacing_rate = (uint64_t)(BBR_HIGH_GAIN * conn->cwnd * (double)AMS_NS_PER_S / (double)conn->srtt);
    }
    uint64_t rate = (uint64_t)(gain * BBR_PACING_MARGIN * (double)bbr_bw(bbr));
    if (rate && (bbr->full_reached || rate > conn->pacing_rate))
        conn->pacing_rate = rate;
}

/* A round trip ends when a segment is delivered that was sent after the
 * last one's end.  The bandwidth filter counts in rounds. */
static void update_bw(const struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample)
{
    bbr->round_start = false;
    if (!sample->rate_valid || !sample->rate_interval)
        return;
    if (seq_geq(sample->rate_prior, bbr->round_delivered)) {
        bbr->round_delivered = (uint32_t)conn->delivered;
        bbr->round++;
        bbr->round_start = true;
        bbr->conserve = false;
    }
    uint64_t bw = sample->rate_delivered * AMS_NS_PER_S / sample->rate_interval;
    if (!sample->app_limited || bw >= bbr_bw(bbr))
        bw_update(bbr, bw);
}

/* How much more was acknowledged than the bandwidth estimate explains. */
static void update_extra(const struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample,
                         uint64_t now)
{
    if (bbr->round_start && ++bbr->extra_rounds >= BBR_EXTRA_ROUNDS) {
        bbr->extra_rounds = 0;
        bbr->extra_slot ^= 1;
        bbr->extra[bbr->extra_slot] = 0;
    }
    double seconds = (double)(now - bbr->epoch_at) / (double)AMS_NS_PER_S;
    uint64_t expected = (uint64_t)((double)bbr_bw(bbr) * seconds);
    if (bbr->epoch_acked <= expected || bbr->epoch_acked + sample->delivered >= BBR_EPOCH_MAX) {
        bbr->epoch_acked = 0; /* ACKs come no faster than expected: start over */
        bbr->epoch_at = now;
        expected = 0;
    }
    bbr->epoch_acked = ams_min_u64(bbr->epoch_acked + sample->delivered, BBR_EPOCH_MAX);
    uint32_t extra = (uint32_t)ams_min_u64(bbr->epoch_acked - expected, conn->cwnd);
    bbr->extra[bbr->extra_slot] = ams_max_u32(bbr->extra[bbr->extra_slot], extra);
}

static uint64_t extra_allowance(const struct bbr *bbr)
{
    if (!bbr->full_reached)
        return 0;
    uint64_t limit = bbr_bw(bbr) * BBR_EXTRA_TIME / AMS_NS_PER_S;
    return ams_min_u64(ams_max_u32(bbr->extra[0], bbr->extra[1]), limit);
}

/* ---- the modes ------------------------------------------------------------------------ */

/* PROBE_BW begins in a phase of its own, never in the draining one, so that
 * flows do not probe in step. */
static void enter_probe_bw(struct tcp_conn *conn, struct bbr *bbr, uint64_t now)
{
    uint32_t mix = (conn->iss ^ bbr->round * 0x9e3779b9u) * 0x85ebca6bu;
    uint8_t phase = (uint8_t)((mix >> 16) % (BBR_CYCLE - 1));
    bbr->mode = BBR_PROBE_BW;
    bbr->phase = phase ? (uint8_t)(phase + 1) : 0;
    bbr->phase_at = now;
}

static void enter_startup(struct bbr *bbr)
{
    bbr->mode = BBR_STARTUP;
}

/* The next phase of PROBE_BW: after a round trip; the probing one only when
 * it has filled the pipe (or lost), the draining one as soon as it has. */
static void update_phase(struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample, uint64_t now)
{
    if (bbr->mode != BBR_PROBE_BW)
        return;
    bool over = now - bbr->phase_at > bbr->min_rtt;
    if (bbr->phase == 0)
        over = over && (sample->lost || sample->prior_pipe >= bbr_inflight(conn, bbr, 1.25));
    else if (bbr->phase == 1)
        over = over || sample->prior_pipe <= bbr_inflight(conn, bbr, 1.0);
    if (!over)
        return;
    bbr->phase = (uint8_t)((bbr->phase + 1) % BBR_CYCLE);
    bbr->phase_at = now;
}

/* STARTUP has found the bandwidth when it grew by less than a quarter in
 * three rounds in a row. */
static void check_full(struct bbr *bbr, const struct tcp_cc_sample *sample)
{
    if (bbr->full_reached || !bbr->round_start || sample->app_limited)
        return;
    if ((double)bbr_bw(bbr) >= BBR_FULL_GROWTH * (double)bbr->full_bw) {
        bbr->full_bw = bbr_bw(bbr);
        bbr->full_rounds = 0;
        return;
    }
    bbr->full_reached = ++bbr->full_rounds >= BBR_FULL_ROUNDS;
}

static void check_drain(struct tcp_conn *conn, struct bbr *bbr, uint64_t now)
{
    if (bbr->mode == BBR_STARTUP && bbr->full_reached) {
        bbr->mode = BBR_DRAIN;
        conn->ssthresh = (uint32_t)ams_min_u64(bbr_inflight(conn, bbr, 1.0), TCP_CWND_MAX);
    }
    if (bbr->mode == BBR_DRAIN && tcp_pipe(conn) <= bbr_inflight(conn, bbr, 1.0))
        enter_probe_bw(conn, bbr, now);
}

static void save_cwnd(const struct tcp_conn *conn, struct bbr *bbr)
{
    if (bbr->prev_ca_state < TCP_CA_RECOVERY && bbr->mode != BBR_PROBE_RTT)
        bbr->prior_cwnd = conn->cwnd;
    else
        bbr->prior_cwnd = ams_max_u32(bbr->prior_cwnd, conn->cwnd);
}

static void check_probe_rtt_done(struct tcp_conn *conn, struct bbr *bbr, uint64_t now)
{
    if (!bbr->probe_done_at || now <= bbr->probe_done_at)
        return;
    bbr->min_rtt_at = now;
    conn->cwnd = ams_max_u32(conn->cwnd, bbr->prior_cwnd);
    if (bbr->full_reached)
        enter_probe_bw(conn, bbr, now);
    else
        enter_startup(bbr);
}

/* In PROBE_RTT: it lasts 200 ms and a round trip from when the pipe is low. */
static void run_probe_rtt(struct tcp_conn *conn, struct bbr *bbr, uint64_t now)
{
    tcp_rate_app_limited(conn); /* what is measured now is not the path's */
    if (!bbr->probe_done_at) {
        if (tcp_pipe(conn) <= BBR_MIN_SEGMENTS * conn->snd_mss) {
            bbr->probe_done_at = now + BBR_PROBE_RTT_TIME;
            bbr->probe_round_done = false;
            bbr->round_delivered = (uint32_t)conn->delivered;
        }
        return;
    }
    if (bbr->round_start)
        bbr->probe_round_done = true;
    if (bbr->probe_round_done)
        check_probe_rtt_done(conn, bbr, now);
}

/* Keeps the shortest round trip; when it is old, PROBE_RTT begins. */
static void update_min_rtt(struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample, uint64_t now)
{
    bool expired = now > bbr->min_rtt_at + BBR_MIN_RTT_WINDOW;
    if (sample->rtt && (!bbr->min_rtt || sample->rtt <= bbr->min_rtt || expired)) {
        bbr->min_rtt = sample->rtt;
        bbr->min_rtt_at = now;
    }
    if (expired && !bbr->idle_restart && bbr->mode != BBR_PROBE_RTT) {
        save_cwnd(conn, bbr);
        bbr->mode = BBR_PROBE_RTT;
        bbr->probe_done_at = 0;
    }
    if (bbr->mode == BBR_PROBE_RTT)
        run_probe_rtt(conn, bbr, now);
    if (sample->delivered)
        bbr->idle_restart = false;
}

/* ---- the window -------------------------------------------------------------------------- */

/* In and after recovery.  Return: true if cwnd is settled by that. */
static bool recovery_cwnd(struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample)
{
    uint8_t before = bbr->prev_ca_state, state = conn->ca_state;
    uint32_t pipe = tcp_pipe(conn);
    if (sample->lost)
        conn->cwnd = conn->cwnd > sample->lost + conn->snd_mss ? conn->cwnd - sample->lost : conn->snd_mss;
    if (state == TCP_CA_RECOVERY && before != TCP_CA_RECOVERY) {
        bbr->conserve = true;
        bbr->round_delivered = (uint32_t)conn->delivered;
        conn->cwnd = pipe + ams_max_u32(sample->delivered, conn->snd_mss);
    } else if (before >= TCP_CA_RECOVERY && state < TCP_CA_RECOVERY) {
        conn->cwnd = ams_max_u32(conn->cwnd, bbr->prior_cwnd);
        bbr->conserve = false;
    }
    bbr->prev_ca_state = state;
    if (bbr->conserve)
        conn->cwnd = ams_max_u32(conn->cwnd, pipe + sample->delivered);
    return bbr->conserve;
}

/* Moves cwnd towards what the model wants in flight. */
static void set_cwnd(struct tcp_conn *conn, struct bbr *bbr, const struct tcp_cc_sample *sample)
{
    if (!recovery_cwnd(conn, bbr, sample)) {
        uint64_t target = bbr_inflight(conn, bbr, cwnd_gain(bbr)) + extra_allowance(bbr);
        uint64_t cwnd = conn->cwnd;
        if (bbr->full_reached)
            cwnd = ams_min_u64(cwnd + sample->delivered, target);
        else if (cwnd < target || conn->delivered < tcp_initial_window(conn))
            cwnd += sample->delivered;
        conn->cwnd = (uint32_t)ams_min_u64(cwnd, TCP_CWND_MAX);
        conn->cwnd = ams_max_u32(conn->cwnd, BBR_MIN_SEGMENTS * conn->snd_mss);
    }
    if (bbr->mode == BBR_PROBE_RTT)
        conn->cwnd = ams_min_u32(conn->cwnd, BBR_MIN_SEGMENTS * conn->snd_mss);
}

/* ---- operations ------------------------------------------------------------------------------ */

static void bbr_init(struct tcp_conn *conn, uint64_t now)
{
    struct bbr *bbr = tcp_cc_state(conn);
    memset(bbr, 0, sizeof(*bbr));
    bbr->min_rtt = conn->min_rtt;
    bbr->min_rtt_at = now;
    bbr->epoch_at = now;
    bbr->prev_ca_state = TCP_CA_OPEN;
    bbr->round_delivered = (uint32_t)conn->delivered;
    bbr->rtt_seen = conn->srtt != 0;
    uint64_t rtt = conn->srtt ? conn->srtt : AMS_NS_PER_MS;
    conn->pacing_rate = (uint64_t)(BBR_HIGH_GAIN * conn->cwnd * (double)AMS_NS_PER_S / (double)rtt);
}

static void bbr_on_ack(struct tcp_conn *conn, const struct tcp_cc_sample *sample, uint64_t now)
{
    struct bbr *bbr = tcp_cc_state(conn);
    update_bw(conn, bbr, sample);
    update_extra(conn, bbr, sample, now);
    update_phase(conn, bbr, sample, now);
    check_full(bbr, sample);
    check_drain(conn, bbr, now);
    update_min_rtt(conn, bbr, sample, now);
    set_pacing_rate(conn, bbr, pacing_gain(bbr));
    set_cwnd(conn, bbr, sample);
}

static uint32_t bbr_on_loss(struct tcp_conn *conn, uint64_t now)
{
    save_cwnd(conn, tcp_cc_state(conn));
    return conn->ssthresh; /* loss is no signal */
}

static void bbr_on_rto(struct tcp_conn *conn, uint64_t now)
{
    struct bbr *bbr = tcp_cc_state(conn);
    bbr->prev_ca_state = TCP_CA_LOSS;
    bbr->full_bw = 0;
    bbr->round_start = true;
}

static void bbr_on_undo(struct tcp_conn *conn, uint64_t now)
{
    struct bbr *bbr = tcp_cc_state(conn);
    bbr->full_bw = 0; /* a spurious slow-down: bandwidth may still be found */
    bbr->full_rounds = 0;
}

/* Restarts from idle at the estimated rate, not faster. */
static void bbr_on_idle(struct tcp_conn *conn, uint64_t now)
{
    struct bbr *bbr = tcp_cc_state(conn);
    if (!conn->app_limited)
        return;
    bbr->idle_restart = true;
    bbr->epoch_at = now;
    bbr->epoch_acked = 0;
    if (bbr->mode == BBR_PROBE_BW)
        set_pacing_rate(conn, bbr, 1.0);
    else if (bbr->mode == BBR_PROBE_RTT)
        check_probe_rtt_done(conn, bbr, now);
}

const struct tcp_cc_ops cc_bbr = {
    .name = "bbr",
    .flags = TCP_CC_OWN_CWND | TCP_CC_PACED,
    .state_size = sizeof(struct bbr),
    .init = bbr_init,
    .on_ack = bbr_on_ack,
    .on_loss = bbr_on_loss,
    .on_rto = bbr_on_rto,
    .on_undo = bbr_on_undo,
    .on_idle = bbr_on_idle,
};
