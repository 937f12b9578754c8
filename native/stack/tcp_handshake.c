/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_handshake.c - how a connection is opened, from the SYN's answer on.
 *
 * Theory of operation.  Who has sent a SYN waits for a SYN-ACK, or for a SYN
 * if both ends open at once; who has answered one with a SYN-ACK waits for
 * its ACK.  What the SYNs offered is settled when the second of them comes
 * (tcp_negotiate()); the connection is established, with what the handshake
 * has told of the round trip, when ours was acknowledged.  A listener's part
 * until then is in tcp_listen.c.
 */
#include "stack/tcp.h"

void tcp_negotiate(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn)
{
    uint32_t fallback = conn->flow.family == AMS_IPV4 ? TCP_MSS_DEFAULT4 : TCP_MSS_DEFAULT6;
    conn->mss_peer = (uint16_t)(syn->mss ? syn->mss : fallback);
    if (!syn->has_timestamps)
        conn->flags &= ~CONN_TS_OK;
    if (!syn->sack_permitted)
        conn->flags &= ~CONN_SACK_OK;
    if (!syn->has_wscale || !(conn->flags & CONN_WSCALE_OK)) {
        conn->flags &= ~CONN_WSCALE_OK;
        conn->rcv_wscale = 0;
        conn->snd_wscale = 0;
        conn->rcvbuf = ams_min_u32(conn->rcvbuf, 65535);
    } else {
        conn->snd_wscale = syn->wscale;
    }
    if (conn->flags & CONN_TS_OK) {
        conn->ts_recent = syn->tsval;
        conn->ts_recent_age = (uint16_t)(stack->now / TCP_TS_AGE);
    }
    tcp_update_mss(conn);
}

void tcp_established(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->state = AMS_TCP_ESTABLISHED;
    if (!conn->backoff && conn->last_sent_at)
        tcp_rtt_sample(stack, conn, ams_max_u64(now - conn->last_sent_at, 1));
    conn->backoff = 0;
    conn->rexmit_at = 0;
    conn->recover = conn->lost_hint = conn->rexmit_hint = conn->retrans_high = conn->snd_una;
    if (conn->fastopen & FO_CHILD) {
        tcp_fastopen_settled(stack, conn);
        tcp_rexmit_restart(stack, conn, now);
    } else {
        conn->rcv_space_at = now;
        tcp_cc_start(stack, conn, now);
    }
    tcp_keepalive_restart(stack, conn, now);
}

/* ---- SYN_SENT (RFC 9293 section 3.10.7.3) ------------------------------------------ */

/* Simultaneous open: both sent a SYN. */
static void simultaneous_open(struct ams_stack *stack, struct tcp_conn *conn)
{
    conn->state = AMS_TCP_SYN_RECEIVED;
    conn->flags |= CONN_SYN_NOW;
    conn->rexmit_at = 0;
    tcp_want_output(stack, conn);
}

/* The SYN-ACK came. */
static void active_open_done(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *tcp, uint64_t now)
{
    bool repeated = conn->backoff;
    conn->snd_una = conn->iss + 1;
    tcp_update_window(conn, tcp);
    tcp_established(stack, conn, now);
    if (AMS_UNLIKELY(conn->ecn))
        tcp_ecn_opened(stack, conn, now);
    if (AMS_UNLIKELY(tcp->ack != conn->snd_una))
        tcp_process_ack(stack, conn, tcp, 0, now);
    if (AMS_UNLIKELY(conn->fastopen))
        tcp_fastopen_synack(stack, conn, tcp, repeated, now);
    conn->flags |= CONN_ACK_NOW;
    if (tcp_unsent(conn))
        conn->flags |= CONN_PINGPONG;
    sock_event(stack, &conn->sock, AMS_EV_CONNECTED);
    if (conn->flags & CONN_FIN_QUEUED)
        conn->state = AMS_TCP_FIN_WAIT_1;
    tcp_want_output(stack, conn);
}

/* An echo of what we cannot have sent: an old duplicate, or made up. */
static bool echo_impossible(const struct tcp_conn *conn, const struct tcp_repr *tcp, uint64_t now)
{
    uint32_t age = tcp_timestamp(conn, now) - tcp_timestamp(conn, conn->created);
    return conn->flags & CONN_TS_OK && tcp->has_timestamps && tcp->tsecr &&
           tcp_timestamp(conn, now) - tcp->tsecr > age;
}

bool tcp_syn_sent_input(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    bool ack = tcp->flags & TCP_ACK;
    if (ack && (seq_leq(tcp->ack, conn->iss) || seq_gt(tcp->ack, conn->snd_nxt) || echo_impossible(conn, tcp, now))) {
        if (!(tcp->flags & TCP_RST))
            tcp_send_reset(stack, tcp, seg->ip, seg->payload, now);
        return false;
    }
    if (tcp->flags & TCP_RST) {
        stack->counters.tcp_rst_rx++;
        if (ack) {
            stack->counters.tcp_conn_failed++;
            tcp_drop(stack, conn, -AMS_ECONNREFUSED);
        }
        return false;
    }
    if (!(tcp->flags & TCP_SYN))
        return false;
    conn->irs = tcp->seq;
    conn->rcv_nxt = conn->last_ack_sent = tcp->seq + 1;
    conn->rcv_adv = conn->rcv_nxt + ams_min_u32(conn->rcvbuf, 65535);
    tcp_negotiate(stack, conn, tcp);
    if (!ack)
        tcp_ecn_passive(stack, conn, tcp, seg->ip->tos);
    else if (conn->ecn)
        tcp_ecn_active(stack, conn, tcp, seg->ip->tos);
    if (conn->ext)
        tcp_option_answered(stack, conn, tcp, now);
    if (!ack) {
        simultaneous_open(stack, conn);
        return false;
    }
    active_open_done(stack, conn, tcp, now);
    return true;
}

/* ---- SYN_RECEIVED (RFC 9293 section 3.10.7.4, fifth) --------------------------------- */

/* TCP_DEFER_ACCEPT: a bare ACK of the SYN-ACK is not enough, unless the time
 * is over, or no SYN-ACK was kept to wait with (a cookie). */
static bool defers(struct tcp_conn *conn, const struct tcp_segment *seg)
{
    if (AMS_LIKELY(!conn->listener->defer_accept) || seg->seq_len || !conn->rexmit_at ||
        conn->backoff >= conn->listener->defer_accept)
        return false;
    conn->deferred = true;
    return true;
}

bool tcp_syn_received_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    if (seq_leq(tcp->ack, conn->iss) || seq_gt(tcp->ack, conn->snd_nxt)) {
        tcp_send_reset(stack, tcp, seg->ip, seg->payload, now);
        return false;
    }
    bool passive = conn->listener || conn->fastopen & FO_CHILD;
    if (conn->listener && (defers(conn, seg) || !tcp_listener_established(stack, conn, now)))
        return false;
    conn->snd_una = conn->iss + 1;
    tcp_update_window(conn, tcp);
    tcp_established(stack, conn, now);
    if (AMS_UNLIKELY(conn->ecn & ECN_ACCURATE))
        tcp_ecn_third(stack, conn, tcp, seg->payload, now);
    if (!passive) /* simultaneous open */
        sock_event(stack, &conn->sock, AMS_EV_CONNECTED);
    if (conn->flags & CONN_FIN_RECEIVED) /* the SYN had it, or what followed the SYN */
        conn->state = conn->flags & CONN_FIN_QUEUED ? AMS_TCP_LAST_ACK : AMS_TCP_CLOSE_WAIT;
    else if (conn->flags & CONN_FIN_QUEUED)
        conn->state = AMS_TCP_FIN_WAIT_1;
    return true;
}
