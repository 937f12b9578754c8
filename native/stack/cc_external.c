/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cc_external.c - congestion controls that live outside of the engine.
 *
 * Theory of operation.  The engine gathers what happens to a connection for
 * a round trip, then tells the application (AMS_EV_CONGESTION), who takes
 * the report (ams_cc_report) and says what the window and the pacing rate
 * shall be (ams_cc_set): Narayan et al., "Restructuring Endpoint Congestion
 * Control" (SIGCOMM 2018).  Nothing outside is called from within the
 * engine, and the cost is one event per round trip, however fast the
 * connection is.  Loss, timeouts and ECN signals are reported at once.
 *
 * What can't wait for an answer is decided here, until the answer comes:
 * after a loss the window is multiplied by 0.7 (RFC 9438 section 4.6), after
 * a timeout it begins with one segment as always.  A connection whose
 * application has closed it has nobody to ask, and grows as Reno does.
 *
 * A name belongs to the stack in which it was registered: each registration
 * is a table of operations of its own, all with the same functions.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

/* What has been gathered since the last report; in conn->cc_words. */
struct external {
    uint64_t started_at;
    uint64_t min_rtt;         /* ns, 0: no sample */
    uint64_t rtt;             /* ns, the latest */
    uint64_t rate;            /* bytes per second, the highest seen */
    uint64_t credit;          /* of Reno's growth */
    uint32_t delivered_then;  /* conn->delivered at the last report */
    uint32_t lost;            /* bytes */
    uint32_t round_end;       /* a round trip is over when this is acknowledged */
    uint32_t what;            /* AMS_CC_* */
};

_Static_assert(sizeof(struct external) <= TCP_CC_WORDS * sizeof(uint64_t), "the state lies in the TCB");

/* A registration. */
struct tcp_cc_external {
    struct tcp_cc_ops ops;
    struct ams_stack *stack;
    int index;
    char name[16];
};

static struct external *state_of(struct tcp_conn *conn)
{
    return tcp_cc_state(conn);
}

static struct tcp_cc_external *registration_of(const struct tcp_conn *conn)
{
    return AMS_CONTAINER_OF(conn->cc, struct tcp_cc_external, ops);
}

/* Has the application told what there is to tell. */
static void notify(struct tcp_conn *conn, uint32_t what)
{
    state_of(conn)->what |= what;
    sock_event(registration_of(conn)->stack, &conn->sock, AMS_EV_CONGESTION);
}

static void external_init(struct tcp_conn *conn, uint64_t now)
{
    struct external *state = state_of(conn);
    memset(state, 0, sizeof(*state));
    state->started_at = now;
    state->round_end = conn->snd_nxt;
    state->delivered_then = (uint32_t)conn->delivered;
    notify(conn, AMS_CC_START);
}

static void external_on_ack(struct tcp_conn *conn, const struct tcp_cc_sample *sample, uint64_t now)
{
    struct external *state = state_of(conn);
    if (sample->rtt) {
        state->rtt = sample->rtt;
        state->min_rtt = state->min_rtt ? ams_min_u64(state->min_rtt, sample->rtt) : sample->rtt;
    }
    if (sample->rate_interval)
        state->rate = ams_max_u64(state->rate, sample->rate_delivered * AMS_NS_PER_S / sample->rate_interval);
    if (conn->sock.id < 0) {
        uint32_t left = tcp_cc_slow_start(conn, sample->delivered);
        if (left)
            tcp_cc_additive_increase(conn, left, conn->cwnd, &state->credit);
    } else if (seq_gt(conn->snd_una, state->round_end)) {
        state->round_end = conn->snd_nxt;
        notify(conn, AMS_CC_ACK);
    }
}

static uint32_t reduced(const struct tcp_conn *conn)
{
    return ams_max_u32((uint32_t)((uint64_t)conn->cwnd * 7 / 10), 2 * conn->snd_mss);
}

static uint32_t external_on_loss(struct tcp_conn *conn, uint64_t now)
{
    state_of(conn)->lost += conn->lost_bytes;
    notify(conn, AMS_CC_LOSS);
    return reduced(conn);
}

static uint32_t external_on_ecn(struct tcp_conn *conn, uint64_t now)
{
    notify(conn, AMS_CC_ECN);
    return reduced(conn);
}

static void external_on_rto(struct tcp_conn *conn, uint64_t now)
{
    state_of(conn)->lost += conn->lost_bytes;
    notify(conn, AMS_CC_RTO);
}

static void external_on_undo(struct tcp_conn *conn, uint64_t now)
{
    notify(conn, AMS_CC_UNDO);
}

static void external_on_idle(struct tcp_conn *conn, uint64_t now)
{
    notify(conn, AMS_CC_IDLE);
}

static const struct tcp_cc_ops external_ops = {
    .state_size = sizeof(struct external),
    .init = external_init,
    .on_ack = external_on_ack,
    .on_loss = external_on_loss,
    .on_rto = external_on_rto,
    .on_ecn = external_on_ecn,
    .on_undo = external_on_undo,
    .on_idle = external_on_idle,
};

/* ---- registrations ---------------------------------------------------------------- */

const struct tcp_cc_ops *tcp_cc_external_find(const struct tcp_host *tcp, const char *name)
{
    for (int i = 0; i < tcp->n_external; i++)
        if (strcmp(tcp->external[i]->name, name) == 0)
            return &tcp->external[i]->ops;
    return NULL;
}

void tcp_cc_external_fini(struct tcp_host *tcp)
{
    while (tcp->n_external)
        mem_free(tcp->external[--tcp->n_external]);
}

int ams_congestion_register(struct ams_stack *stack, const char *name)
{
    struct tcp_host *tcp = stack->tcp;
    size_t length = strlen(name);
    if (!length || length >= sizeof(tcp->external[0]->name))
        return -AMS_EINVAL;
    if (tcp_cc_find(stack, name))
        return -AMS_EADDRINUSE;
    if (tcp->n_external == TCP_CC_EXTERNAL_MAX)
        return -AMS_ENOMEM;
    struct tcp_cc_external *external = mem_zalloc(1, sizeof(*external));
    if (!external)
        return -AMS_ENOMEM;
    external->ops = external_ops;
    external->ops.name = external->name;
    external->stack = stack;
    external->index = tcp->n_external;
    memcpy(external->name, name, length);
    tcp->external[tcp->n_external++] = external;
    return external->index;
}

int ams_stack_set_congestion(struct ams_stack *stack, const char *name)
{
    const struct tcp_cc_ops *cc = tcp_cc_find(stack, name);
    if (!cc)
        return -AMS_EINVAL;
    stack->tcp->cc_default = cc;
    return 0;
}

/* ---- reports and answers ------------------------------------------------------------ */

/* A connection whose congestion control is outside; NULL otherwise. */
static struct tcp_conn *external_conn(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    return conn && conn->cc->init == external_init && !(conn->flags & CONN_DEAD) ? conn : NULL;
}

int ams_cc_report(struct ams_stack *stack, int id, struct ams_cc_report *out)
{
    struct tcp_conn *conn = external_conn(stack, id);
    if (!conn)
        return -AMS_EBADF;
    struct external *state = state_of(conn);
    uint64_t now = stack->now;
    *out = (struct ams_cc_report){
        .algorithm = registration_of(conn)->index,
        .what = state->what,
        .acked = (uint32_t)conn->delivered - state->delivered_then,
        .lost = state->lost,
        .in_flight = tcp_pipe(conn),
        .mss = conn->snd_mss,
        .cwnd = tcp_reducing(conn) ? conn->ssthresh : conn->cwnd,
        .ssthresh = conn->ssthresh,
        .rtt = state->rtt,
        .min_rtt = state->min_rtt,
        .srtt = conn->srtt,
        .delivery_rate = state->rate,
        .duration = now - state->started_at,
        .pacing_rate = conn->pacing_rate,
    };
    state->started_at = now;
    state->min_rtt = state->rate = 0;
    state->delivered_then = (uint32_t)conn->delivered;
    state->lost = state->what = 0;
    return 0;
}

int ams_cc_set(struct ams_stack *stack, int id, uint32_t cwnd, uint32_t ssthresh, uint64_t pacing_rate)
{
    struct tcp_conn *conn = external_conn(stack, id);
    if (!conn)
        return -AMS_EBADF;
    cwnd = ams_min_u32(ams_max_u32(cwnd, conn->snd_mss), TCP_CWND_MAX);
    if (tcp_reducing(conn)) { /* PRR leads cwnd there, and leaves it there */
        conn->ssthresh = cwnd;
    } else {
        conn->cwnd = cwnd;
        conn->ssthresh = ssthresh;
    }
    conn->pacing_rate = pacing_rate;
    tcp_want_output(stack, conn);
    return 0;
}
