/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_timer.c - retransmission, persist, loss probe, pacing, delayed ACK,
 * keep-alive, FIN-WAIT-2 and TIME-WAIT deadlines.
 *
 * The wheel timer of a connection may fire before any deadline is due (it is
 * not moved when a deadline moves away); then it is just armed again.
 */
#include "stack/tcp.h"

static uint64_t earliest(const struct tcp_conn *conn)
{
    uint64_t at = UINT64_MAX;
    if (conn->rexmit_at)
        at = conn->rexmit_at;
    if (conn->probe_at && conn->probe_at < at)
        at = conn->probe_at;
    if (conn->loss & LOSS_PACE_WAIT && conn->pace_at < at)
        at = conn->pace_at;
    if (conn->delack_at && conn->delack_at < at)
        at = conn->delack_at;
    if (conn->keep_at && conn->keep_at < at)
        at = conn->keep_at;
    return at;
}

void tcp_timer_update(struct ams_stack *stack, struct tcp_conn *conn)
{
    uint64_t at = earliest(conn);
    if (at != UINT64_MAX && (!timer_armed(&conn->timer) || at < conn->timer.expires))
        timer_arm(&stack->wheel, &conn->timer, at);
}

/* RTO, doubled so often (RFC 6298 section 5.5). */
static uint64_t doubled(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t times)
{
    return ams_min_u64(conn->rto << ams_min_u32(times, 16), stack->config.rto_max_ms * AMS_NS_PER_MS);
}

static uint64_t backed_off(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    return doubled(stack, conn, conn->backoff);
}

void tcp_rexmit_restart(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->snd_nxt != conn->snd_una) {
        conn->rexmit_at = now + backed_off(stack, conn);
        conn->flags &= ~CONN_PERSIST;
    } else if (tcp_unsent(conn)) {
        if (!(conn->flags & CONN_PERSIST) || !conn->rexmit_at) {
            conn->flags |= CONN_PERSIST; /* RFC 9293 section 3.8.6.1 */
            conn->rexmit_at = now + backed_off(stack, conn);
        }
    } else {
        conn->rexmit_at = 0;
        conn->flags &= ~CONN_PERSIST;
    }
    tcp_timer_update(stack, conn);
}

void tcp_fin_wait_2_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->linger2 < 0) {
        tcp_reset(stack, conn);
        return;
    }
    conn->keep_at = now + (uint64_t)(conn->linger2 ? conn->linger2 : TCP_FIN_WAIT_2_TIMEOUT) * AMS_NS_PER_S;
    tcp_timer_update(stack, conn);
}

void tcp_keepalive_restart(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->state == AMS_TCP_FIN_WAIT_2 && conn->flags & CONN_ORPHAN)
        return; /* keep_at is the FIN-WAIT-2 timer then */
    conn->keep_at = conn->flags & CONN_KEEPALIVE && conn->state != AMS_TCP_SYN_SENT
                        ? now + conn->keepidle * AMS_NS_PER_S
                        : 0;
    tcp_timer_update(stack, conn);
}

/* Gives up: the pending soft error explains it better, if there is one. */
static void give_up(struct ams_stack *stack, struct tcp_conn *conn)
{
    stack->counters.tcp_conn_failed++;
    tcp_drop(stack, conn, conn->error ? conn->error : -AMS_ETIMEDOUT);
}

/* RFC 5482: nothing was acknowledged for the user timeout. */
static bool user_timed_out(const struct tcp_conn *conn, uint64_t now)
{
    return conn->user_timeout_ms && conn->first_unacked_at &&
           now - conn->first_unacked_at >= conn->user_timeout_ms * AMS_NS_PER_MS;
}

/* When to try again: the timer backs off, but not beyond the user timeout (as Linux).
 * @linear: timeouts that don't count */
static uint64_t next_try(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t linear, uint64_t now)
{
    uint64_t at = now + doubled(stack, conn, conn->backoff > linear ? conn->backoff - linear : 0);
    if (AMS_LIKELY(!conn->user_timeout_ms || !conn->first_unacked_at))
        return at;
    uint64_t end = conn->first_unacked_at + conn->user_timeout_ms * AMS_NS_PER_MS;
    return ams_max_u64(ams_min_u64(at, end), now + AMS_NS_PER_MS);
}

/* Return: false if the connection is gone. */
static bool syn_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    bool active = conn->state == AMS_TCP_SYN_SENT;
    unsigned limit = active ? stack->config.syn_retries : stack->config.synack_retries;
    uint32_t linear = active ? stack->config.syn_linear_timeouts : 0;
    if (conn->syn_retries)
        limit = conn->syn_retries;
    limit += linear;
    unsigned defer = conn->listener ? conn->listener->defer_accept : 0;
    if ((conn->backoff >= limit && (!conn->deferred || conn->backoff >= defer)) || user_timed_out(conn, now)) {
        give_up(stack, conn);
        return false;
    }
    conn->backoff++;
    /* a peer that has answered is asked once more at the end: then its answer will do */
    if (!conn->deferred || conn->backoff >= defer)
        conn->flags |= CONN_SYN_NOW;
    conn->rexmit_at = next_try(stack, conn, linear, now);
    tcp_want_output(stack, conn);
    return true;
}

/* Is it time to stop asking for a window?  With an application: when nothing
 * answers.  Without one also when the timer has backed off to its limit, or
 * memory is short (both as Linux): a peer that keeps its window closed for
 * ever ("sockstress") would hold what was queued as long. */
static bool persist_hopeless(const struct ams_stack *stack, const struct tcp_conn *conn, uint64_t now)
{
    if (user_timed_out(conn, now))
        return true;
    if (!(conn->flags & CONN_ORPHAN))
        return conn->probes >= TCP_RETRIES2;
    return conn->probes >= TCP_ORPHAN_RETRIES || backed_off(stack, conn) == TCP_RTO_MAX || tcp_frames_short(stack);
}

/* The peer's window is closed.  Return: false if the connection is gone. */
static bool persist_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (persist_hopeless(stack, conn, now)) {
        give_up(stack, conn);
        return false;
    }
    conn->probes++;
    if (conn->backoff < 16)
        conn->backoff++;
    conn->flags |= CONN_PROBE_NOW;
    conn->rexmit_at = next_try(stack, conn, 0, now);
    stack->counters.tcp_zero_window_probe++;
    tcp_want_output(stack, conn);
    return true;
}

static bool rexmit_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    unsigned limit = conn->flags & CONN_ORPHAN ? TCP_ORPHAN_RETRIES : TCP_RETRIES2;
    /* the application's or the peer's idea of when to give up comes before ours (RFC 5482 section 3.1) */
    bool hopeless = conn->user_timeout_ms && !(conn->flags & CONN_ORPHAN) ? user_timed_out(conn, now)
                                                                         : conn->backoff >= limit;
    if (hopeless) {
        if (conn->user_timeout_ms)
            stack->counters.tcp_user_timeout++;
        give_up(stack, conn);
        return false;
    }
    tcp_mtu_timeout(stack, conn, now);
    tcp_ecn_timeout(conn);
    tcp_recovery_rto(stack, conn, now);
    if (conn->backoff < UINT8_MAX)
        conn->backoff++;
    conn->rexmit_at = next_try(stack, conn, 0, now);
    tcp_want_output(stack, conn);
    return true;
}

/* keep_at: FIN-WAIT-2 of an orphan, 2MSL, or keep-alive. */
static bool keep_timeout(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (conn->state == AMS_TCP_TIME_WAIT || (conn->state == AMS_TCP_FIN_WAIT_2 && conn->flags & CONN_ORPHAN)) {
        tcp_drop(stack, conn, 0);
        return false;
    }
    uint64_t idle_since = conn->last_rcv_at;
    uint64_t due = idle_since + conn->keepidle * AMS_NS_PER_S;
    if (!conn->probes && now < due) {
        conn->keep_at = due;
        return true;
    }
    if (conn->snd_nxt != conn->snd_una) { /* retransmission watches over it */
        conn->keep_at = now + conn->keepidle * AMS_NS_PER_S;
        return true;
    }
    /* the user timeout takes the place of the count (as Linux) */
    bool dead = conn->user_timeout_ms ? conn->probes && now - idle_since >= conn->user_timeout_ms * AMS_NS_PER_MS
                                      : conn->probes >= conn->keepcnt;
    if (dead) {
        stack->counters.tcp_keepalive_dropped++;
        conn->error = -AMS_ETIMEDOUT;
        conn->keep_at = 0;
        tcp_reset(stack, conn);
        return true;
    }
    conn->probes++;
    conn->flags |= CONN_PROBE_NOW;
    conn->keep_at = now + conn->keepintvl * AMS_NS_PER_S;
    stack->counters.tcp_keepalive++;
    tcp_want_output(stack, conn);
    return true;
}

void tcp_timer_fetch(const void *timer)
{
    if (!timer)
        return;
    /* nothing of it may be read, its kind included: it may be none any more */
    const char *conn = (const char *)timer - offsetof(struct tcp_conn, timer);
    AMS_PREFETCH(timer);
    AMS_PREFETCH(conn + offsetof(struct tcp_conn, loss));
    AMS_PREFETCH(conn + offsetof(struct tcp_conn, flags));
    AMS_PREFETCH(conn + offsetof(struct tcp_conn, out_next));
}

void tcp_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    struct tcp_conn *conn = AMS_CONTAINER_OF(timer, struct tcp_conn, timer);
    if (conn->delack_at && conn->delack_at <= now) {
        conn->delack_at = 0;
        conn->flags |= CONN_ACK_NOW;
        conn->flags &= ~CONN_PINGPONG; /* nothing came for it to ride on */
        stack->counters.tcp_delayed_ack++;
        tcp_want_output(stack, conn);
    }
    if (conn->loss & LOSS_PACE_WAIT && conn->pace_at <= now) {
        tcp_pace_due(conn, now);
        tcp_want_output(stack, conn);
    }
    if (conn->probe_at && conn->probe_at <= now) {
        tcp_probe_timeout(stack, conn, now);
    } else if (conn->rexmit_at && conn->rexmit_at <= now) {
        bool alive;
        if (conn->state == AMS_TCP_SYN_SENT || conn->state == AMS_TCP_SYN_RECEIVED)
            alive = syn_timeout(stack, conn, now);
        else if (conn->flags & CONN_PERSIST)
            alive = persist_timeout(stack, conn, now);
        else
            alive = rexmit_timeout(stack, conn, now);
        if (!alive)
            return;
    }
    if (conn->keep_at && conn->keep_at <= now && !keep_timeout(stack, conn, now))
        return;
    tcp_timer_update(stack, conn);
}
