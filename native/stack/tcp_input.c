/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_input.c - segment arrival (RFC 9293 section 3.10.7).
 *
 * Theory of operation.  tcp_input() finds the flow and hands the segment to
 * conn_input(), tcp_tw_input(), tcp_listen_input() or tcp_send_reset().
 * conn_input() goes through the RFC's steps in order: sequence number, RST,
 * SYN, ACK, payload, FIN (in SYN_SENT, and for the ACK of our SYN-ACK, by
 * tcp_handshake.c); RFC 7323's timestamp check comes before the first
 * and RFC 5961's stricter RST and SYN rules are applied.  Nothing is sent
 * from here: the connection is put on the output list.
 */
#include <string.h>

#include "stack/neighbor.h"
#include "stack/tcp.h"

#define PAWS_IDLE (24 * 86400 * AMS_NS_PER_S / TCP_TS_AGE) /* in units of ts_recent_age */

/* Leaves the tables and timers; what the application holds stays until it
 * has been told. */
static void conn_detach(struct ams_stack *stack, struct tcp_conn *conn)
{
    tcp_unlink_output(stack, conn);
    timer_cancel(&stack->wheel, &conn->timer);
    tcp_fastopen_settled(stack, conn);
    tcp_flow_remove(stack, &conn->flow);
    conn->rexmit_at = conn->probe_at = conn->delack_at = conn->keep_at = 0;
    conn->loss &= (uint16_t)~LOSS_PACE_WAIT;
    tcp_send_fini(stack, conn);
    conn->rec_count = 0;
    tcp_recs_fini(stack, conn);
    conn->sacked_bytes = conn->lost_bytes = conn->retrans_bytes = 0;
    conn->snd_una = conn->snd_nxt = conn->snd_end;
    conn->flags |= CONN_DEAD;
}

void tcp_drop(struct ams_stack *stack, struct tcp_conn *conn, int status)
{
    if (conn->sock.id < 0) {
        tcp_conn_free(stack, conn);
        return;
    }
    if (conn->flags & CONN_DEAD)
        return;
    if (tcp_excess(conn)) /* who waits to write is told though data lies unread (tcp_user.c) */
        conn->flags |= CONN_WANT_DRAIN;
    conn_detach(stack, conn);
    conn->state = AMS_TCP_CLOSED;
    conn->error = status;
    if (conn->flags & CONN_ORPHAN) {
        sock_event(stack, &conn->sock, AMS_EV_RELEASED);
    } else {
        conn->sock.aux = status;
        sock_event(stack, &conn->sock, AMS_EV_CLOSED);
    }
}

void tcp_reset(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->flags & CONN_DEAD)
        return;
    conn->flags |= CONN_RST_NOW;
    conn->flags &= ~CONN_SYN_NOW;
    tcp_want_output(stack, conn);
}

/* Answers to segments that nobody should send are few: one in half a second
 * per connection, so that two hosts cannot keep each other busy. */
static bool unasked_ack_limited(struct tcp_conn *conn, uint64_t now)
{
    uint32_t ms = (uint32_t)(now / AMS_NS_PER_MS) | 1;
    if (conn->challenge_ms && ms - conn->challenge_ms < TCP_CHALLENGE_MS)
        return true;
    conn->challenge_ms = ms;
    return false;
}

void tcp_challenge_ack(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    struct tcp_host *tcp = stack->tcp;
    if (unasked_ack_limited(conn, now))
        return;
    uint64_t epoch = now / AMS_NS_PER_S;
    if (tcp->challenge_epoch != epoch) {
        tcp->challenge_epoch = epoch;
        /* RFC 5961 section 10: a limit that cannot be counted from outside */
        tcp->challenge_count = TCP_CHALLENGE_ACKS / 2 + rng_below(&stack->rng, TCP_CHALLENGE_ACKS);
    }
    if (!tcp->challenge_count)
        return;
    tcp->challenge_count--;
    stack->counters.tcp_challenge_ack++;
    conn->flags |= CONN_ACK_NOW;
    tcp_want_output(stack, conn);
}

/* An ACK that others have overtaken: it tells nothing but which segments were
 * SACKed, and does no harm.  Whoever sends data that the network reorders
 * would lose these otherwise (as Linux). */
static bool overtaken_ack(const struct tcp_conn *conn, const struct tcp_repr *tcp, uint32_t seq_len)
{
    uint32_t window = (uint32_t)tcp->window << conn->snd_wscale;
    uint32_t age = conn->ts_recent - tcp->tsval;
    return tcp->flags & TCP_ACK && !seq_len && tcp->seq == conn->rcv_nxt && tcp->ack == conn->snd_una &&
           !seq_lt(conn->snd_wl1, tcp->seq) && window && window <= conn->snd_wnd && age <= conn->rto / AMS_NS_PER_MS;
}

/* RFC 7323 section 5.5: is ts_recent so old that the peer's clock may have wrapped? */
static bool timestamp_outdated(const struct tcp_conn *conn, uint64_t now)
{
    return (uint16_t)(now / TCP_TS_AGE - conn->ts_recent_age) >= PAWS_IDLE;
}

/* Section 5.3, R1: is the timestamp too old? */
static bool paws_rejects(const struct tcp_conn *conn, const struct tcp_repr *tcp, uint32_t seq_len, uint64_t now)
{
    if (!(conn->flags & CONN_TS_OK) || !tcp->has_timestamps || tcp->flags & TCP_RST)
        return false;
    if (AMS_LIKELY((int32_t)(tcp->tsval - conn->ts_recent) >= 0))
        return false;
    return !timestamp_outdated(conn, now) && !overtaken_ack(conn, tcp, seq_len);
}

/* Section 3.10.7.4, first: is any of it inside the receive window? */
static bool sequence_acceptable(const struct tcp_conn *conn, uint32_t seq, uint32_t len)
{
    uint32_t window = conn->rcv_adv - conn->rcv_nxt;
    if (AMS_LIKELY(seq == conn->rcv_nxt && (len <= window || window)))
        return true;
    if (!len)
        return window ? seq_leq(conn->rcv_nxt, seq) && seq_lt(seq, conn->rcv_nxt + window) : seq == conn->rcv_nxt;
    if (!window)
        return false;
    uint32_t last = seq + len - 1;
    return (seq_leq(conn->rcv_nxt, seq) && seq_lt(seq, conn->rcv_nxt + window)) ||
           (seq_leq(conn->rcv_nxt, last) && seq_lt(last, conn->rcv_nxt + window)) ||
           (seq_lt(seq, conn->rcv_nxt) && seq_gt(last, conn->rcv_nxt));
}

/* A bare ACK of a peer that has filled our window: its sequence number is one
 * past the last acceptable one, and what it acknowledges counts (as Linux). */
static bool at_right_edge(const struct tcp_conn *conn, const struct tcp_segment *seg)
{
    return seg->tcp->seq == conn->rcv_adv && !seg->seq_len && (seg->tcp->flags & (TCP_ACK | TCP_RST)) == TCP_ACK;
}

/* An unacceptable segment is answered with an ACK. */
static void out_of_window(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    stack->counters.tcp_out_of_window++;
    if (tcp->flags & TCP_RST)
        return;
    if (seg->payload && seq_leq(tcp->seq + seg->payload, conn->rcv_nxt)) {
        stack->counters.tcp_dup_data++;
        if (AMS_UNLIKELY(conn->ecn & ECN_ACCURATE))
            tcp_ecn_duplicate(conn);
        tcp_dsack_note(conn, tcp->seq, tcp->seq + seg->payload); /* RFC 2883 section 4.1 */
    }
    conn->last_rcv_at = now;
    if ((tcp->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && tcp->seq == conn->irs)
        tcp_ecn_synack_again(conn, seg->ip->tos);
    /* data and keep-alive probes are answered, bare ACKs and SYNs now and then */
    bool bare = !seg->payload && (tcp->flags & TCP_SYN || tcp->seq + 1 != conn->rcv_nxt) && !(tcp->flags & TCP_FIN);
    if (bare && unasked_ack_limited(conn, now))
        return;
    conn->flags |= CONN_ACK_NOW;
    tcp_want_output(stack, conn);
}

/* RFC 5961 section 3.2.  Return: true if the connection is gone. */
static bool rst_input(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *tcp, uint64_t now)
{
    stack->counters.tcp_rst_rx++;
    if (tcp->seq != conn->rcv_nxt) {
        tcp_challenge_ack(stack, conn, now);
        return false;
    }
    stack->counters.tcp_conn_reset++;
    int status = -AMS_ECONNRESET;
    if (conn->state == AMS_TCP_SYN_RECEIVED && !conn->listener && !(conn->fastopen & FO_CHILD))
        status = -AMS_ECONNREFUSED;
    else if (conn->state == AMS_TCP_CLOSING || conn->state == AMS_TCP_LAST_ACK || conn->state == AMS_TCP_TIME_WAIT)
        status = 0;
    else if (conn->state == AMS_TCP_CLOSE_WAIT)
        status = -AMS_EPIPE;
    tcp_drop(stack, conn, status);
    return true;
}

static void enter_time_wait(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->state = AMS_TCP_TIME_WAIT;
    conn->rexmit_at = 0;
    conn->keep_at = now + stack->config.time_wait_ms * AMS_NS_PER_MS;
    tcp_timer_update(stack, conn);
}

/* Our FIN was acknowledged.  Return: true if the connection is gone. */
static bool fin_acked(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    switch (conn->state) {
    case AMS_TCP_FIN_WAIT_1:
        conn->state = AMS_TCP_FIN_WAIT_2;
        if (conn->flags & CONN_ORPHAN)
            tcp_fin_wait_2_start(stack, conn, now);
        return conn->flags & CONN_RST_NOW;
    case AMS_TCP_CLOSING:
        enter_time_wait(stack, conn, now);
        return false;
    case AMS_TCP_LAST_ACK:
        tcp_drop(stack, conn, 0);
        return true;
    default:
        return false;
    }
}

/* The peer's FIN is in order (section 3.10.7.4, eighth). */
static void fin_input(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    sock_event(stack, &conn->sock, AMS_EV_EOF);
    if (conn->state == AMS_TCP_ESTABLISHED)
        conn->state = AMS_TCP_CLOSE_WAIT;
    else if (conn->state == AMS_TCP_FIN_WAIT_1)
        conn->state = AMS_TCP_CLOSING; /* fin_acked() was checked before */
    else if (conn->state == AMS_TCP_FIN_WAIT_2)
        enter_time_wait(stack, conn, now);
}

/* What still comes in TIME-WAIT, as the small form has it (tcp_tw.c): a FIN
 * again restarts the wait, and all that is not a bare ACK of the right number
 * is acknowledged. */
static void time_wait_text(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    if (tcp->flags & TCP_FIN && tcp->seq + seg->seq_len == conn->rcv_nxt)
        enter_time_wait(stack, conn, now);
    if (seg->seq_len || (tcp->seq != conn->rcv_nxt && !unasked_ack_limited(conn, now)))
        conn->flags |= CONN_ACK_NOW;
}

/* Payload and FIN.  Return: true if the connection is gone or going. */
static bool text_input(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    bool fin = tcp->flags & TCP_FIN;
    if (!seg->payload && !fin)
        return false;
    if (conn->state != AMS_TCP_ESTABLISHED && conn->state != AMS_TCP_FIN_WAIT_1 && conn->state != AMS_TCP_FIN_WAIT_2) {
        if (seq_lt(tcp->seq, conn->rcv_nxt)) /* again: the peer missed our ACK */
            conn->flags |= CONN_ACK_NOW;
        return false;
    }
    conn->data_segs_in += seg->frame->flags & FRAME_GSO && seg->payload
                              ? (seg->payload + seg->frame->gso_size - 1) / seg->frame->gso_size
                              : !!seg->payload;
    if (conn->flags & CONN_RCV_SHUT && seq_gt(tcp->seq + seg->payload, conn->rcv_nxt) && seg->payload) {
        stack->counters.tcp_abort_data++; /* RFC 1122 section 4.2.2.13 */
        /* with the sequence number that the peer waits for: our FIN may not have reached it, and one
         * beyond what it has would only be challenged (RFC 5961 section 3.2) */
        tcp_send_reset(stack, tcp, seg->ip, seg->payload, now);
        tcp_drop(stack, conn, 0);
        return true;
    }
    struct ams_frame *frame = seg->frame;
    uint32_t seq = tcp->seq + !!(tcp->flags & TCP_SYN); /* a SYN-ACK may carry data */
    seg->frame = NULL;
    uint32_t queued = conn->rcv_queued;
    if (conn->flags & CONN_TS_OK && tcp->has_timestamps && tcp->tsecr != conn->rcv_rtt_echo &&
        seg->payload >= conn->rcv_mss)
        tcp_receive_rtt(conn, tcp->tsecr, now);
    tcp_receive(stack, conn, frame, seq, fin, now);
    if (conn->rcv_queued != queued)
        sock_event(stack, &conn->sock, AMS_EV_DATA);
    if (conn->flags & CONN_FIN_RECEIVED)
        fin_input(stack, conn, now);
    return false;
}

/* The ACK field, of a segment whose ACK counts.
 * @acceptable: false: it does though the rest is to be dropped
 * Return: false: the segment goes no further, or the connection is gone. */
static bool ack_input(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, bool acceptable,
                      uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    uint32_t una = conn->snd_una;
    if (!tcp_process_ack(stack, conn, tcp, seg->payload, now))
        return false; /* nor does it renew ts_recent: who made its ACK up could stop the real peer's segments */
    if (acceptable && conn->flags & CONN_TS_OK && tcp->has_timestamps && seq_leq(tcp->seq, conn->last_ack_sent) &&
        ((int32_t)(tcp->tsval - conn->ts_recent) >= 0 || timestamp_outdated(conn, now))) {
        conn->ts_recent = tcp->tsval; /* RFC 7323 section 4.3 */
        conn->ts_recent_age = (uint16_t)(now / TCP_TS_AGE);
    }
    if (conn->snd_una == una)
        return true;
    neighbor_confirm(&conn->path, now);
    return !(conn->flags & CONN_FIN_SENT && conn->snd_una == conn->snd_nxt && fin_acked(stack, conn, now));
}

/* The steps before ACK processing.  Return: false: drop the segment. */
static bool checks(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    if (AMS_UNLIKELY(paws_rejects(conn, tcp, seg->seq_len, now))) {
        stack->counters.tcp_paws++;
        if (seg->seq_len) {
            conn->flags |= CONN_ACK_NOW;
            tcp_want_output(stack, conn);
        }
        return false;
    }
    /* simultaneous open: the SYN-ACK repeats a SYN that we have (figure 7) */
    if (AMS_UNLIKELY(conn->state == AMS_TCP_SYN_RECEIVED && !conn->listener) &&
        (tcp->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK) && tcp->seq == conn->irs) {
        conn->dsack = (struct tcp_sack_block){conn->irs, conn->irs + 1}; /* it may wait for our ACK of its SYN */
        conn->flags |= CONN_DSACK | CONN_ACK_NOW;
        return true;
    }
    if (AMS_UNLIKELY(conn->state == AMS_TCP_SYN_RECEIVED) && (tcp->flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN &&
        tcp->seq == conn->irs) {
        if (!tcp_ecn_syn_again(stack, conn, tcp, seg->ip->tos)) {
            tcp_reset(stack, conn);
            return false;
        }
        conn->flags |= CONN_SYN_NOW; /* the peer did not get our SYN-ACK */
        tcp_want_output(stack, conn);
        return false;
    }
    if (AMS_UNLIKELY(!sequence_acceptable(conn, tcp->seq, seg->seq_len) && !at_right_edge(conn, seg))) {
        out_of_window(stack, conn, seg, now);
        /* an acceptable ACK in an otherwise unacceptable segment still counts
         * when the window is closed (section 3.10.7.4) */
        if (conn->rcv_adv == conn->rcv_nxt && tcp->flags & TCP_ACK && !(tcp->flags & (TCP_RST | TCP_SYN)) &&
            conn->state != AMS_TCP_SYN_RECEIVED)
            ack_input(stack, conn, seg, false, now);
        return false;
    }
    if (AMS_UNLIKELY(tcp->flags & TCP_RST)) {
        rst_input(stack, conn, tcp, now);
        return false;
    }
    if (AMS_UNLIKELY(tcp->flags & TCP_SYN)) {
        tcp_challenge_ack(stack, conn, now); /* RFC 5961 section 4.2 */
        return false;
    }
    return tcp->flags & TCP_ACK;
}

/* Return: true if it has gone through all the steps, and the connection is there. */
static bool conn_input(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_segment *seg, uint64_t now)
{
    const struct tcp_repr *tcp = seg->tcp;
    bool waits = conn->state == AMS_TCP_TIME_WAIT;
    conn->segs_in++;
    if (AMS_UNLIKELY(conn->state == AMS_TCP_SYN_SENT)) {
        if (!tcp_syn_sent_input(stack, conn, seg, now))
            return false;
    } else {
        if (!checks(stack, conn, seg, now))
            return false;
        if (AMS_UNLIKELY(conn->state == AMS_TCP_SYN_RECEIVED) && !tcp_syn_received_ack(stack, conn, seg, now))
            return false;
        conn->last_rcv_at = now;
        conn->probes = 0;
        if (AMS_UNLIKELY(conn->ext))
            tcp_option_receive(stack, conn, tcp, now);
        if (!ack_input(stack, conn, seg, true, now))
            return false;
    }
    if (AMS_UNLIKELY(conn->ecn & (ECN_OK | ECN_ACCURATE)))
        tcp_ecn_arrived(conn, tcp, seg->ip->tos, seg->payload, seg->frame->flags & FRAME_GSO ? seg->frame->gso_size : 0);
    if (AMS_UNLIKELY(waits))
        time_wait_text(stack, conn, seg, now);
    else if (text_input(stack, conn, seg, now))
        return false;
    if (AMS_UNLIKELY(conn->state == AMS_TCP_TIME_WAIT && conn->sock.id < 0)) {
        tcp_tw_from(stack, conn, now);
        return false;
    }
    if (conn->flags & CONN_ACK_NOW)
        tcp_want_output(stack, conn);
    return true;
}

void tcp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct tcp_repr tcp;
    stack->counters.tcp_rx++;
    if (AMS_UNLIKELY(!ip->dst_unicast || !tcp_parse(frame->data + ip->l4_off, ip->l4_len, &tcp))) {
        stack->counters.tcp_bad_header++;
        frame_free(frame);
        return;
    }
    if (AMS_UNLIKELY(!ip_l4_checksum_ok(frame, ip))) {
        stack->counters.tcp_bad_checksum++;
        frame_free(frame);
        return;
    }
    struct tcp_segment seg = {.tcp = &tcp, .ip = ip, .frame = frame, .payload = ip->l4_len - tcp.header_len};
    seg.seq_len = seg.payload + !!(tcp.flags & TCP_SYN) + !!(tcp.flags & TCP_FIN);
    struct tcp_flow *flow = tcp_flow_next(stack, frame, ip, tcp.dst_port, tcp.src_port);
    if (AMS_LIKELY(flow && !flow->is_tw)) {
        frame_pull(frame, ip->l4_off + tcp.header_len);
        frame_trim(frame, seg.payload);
        struct tcp_conn *conn = tcp_conn_of(flow);
        if (conn_input(stack, conn, &seg, now) && seg.payload && tcp_train_likely(stack, conn, ip))
            tcp_train(stack, conn, ip, now);
    } else if (flow) {
        tcp_tw_input(stack, (struct tcp_tw *)flow, &tcp, ip, seg.payload, now);
    } else {
        struct tcp_listener *listener =
            tcp_listener_find(stack, ip->dst, tcp.dst_port, ip->src, tcp.src_port, ip->family);
        if (listener) {
            frame_pull(frame, ip->l4_off + tcp.header_len);
            frame_trim(frame, seg.payload);
            struct tcp_conn *child = NULL;
            bool cookie = AMS_UNLIKELY(tcp.flags & TCP_ACK) &&
                          tcp_cookie_accept(stack, listener, &tcp, ip, &child, now);
            if (child)
                conn_input(stack, child, &seg, now);
            else if (!cookie)
                tcp_listen_input(stack, listener, &tcp, ip, &seg.frame, 0, now);
        }
        else
            tcp_send_reset(stack, &tcp, ip, seg.payload, now);
    }
    frame_free(seg.frame);
}

/* RFC 1122 section 4.2.3.9, RFC 5927: errors about segments in flight. */
void tcp_icmp_error(struct ams_stack *stack, const struct icmp_error *error, uint64_t now)
{
    struct tcp_flow *flow = tcp_flow_find(stack, error->local.ip, error->local.port, error->remote.ip,
                                          error->remote.port, (uint8_t)error->local.family);
    if (!flow || flow->is_tw)
        return;
    struct tcp_conn *conn = tcp_conn_of(flow);
    if (conn->flags & CONN_DEAD)
        return;
    /* a Fast Open child's SYN-ACK is in flight before snd_una */
    uint32_t oldest = conn->state == AMS_TCP_SYN_RECEIVED ? conn->iss : conn->snd_una;
    if (seq_lt(error->seq, oldest) || seq_geq(error->seq, conn->snd_nxt)) {
        stack->counters.tcp_icmp_out_of_window++; /* RFC 5927 section 4.1 */
        return;
    }
    if (error->status == -AMS_EMSGSIZE) {
        ip_path_set_mtu(stack, conn->flow.remote_ip, error->mtu, now);
        if (ip_path_find(stack, conn->flow.remote_ip, &conn->path) == 0)
            tcp_mtu_reduced(stack, conn, now);
        if (conn->state == AMS_TCP_SYN_SENT) {
            conn->flags |= CONN_SYN_NOW; /* a SYN with data: again, without */
            tcp_want_output(stack, conn);
        }
        return;
    }
    if (conn->state == AMS_TCP_SYN_SENT ||
        (conn->state == AMS_TCP_SYN_RECEIVED && (conn->listener || tcp_fastopen_untouched(conn)))) {
        stack->counters.tcp_conn_failed++;
        tcp_drop(stack, conn, error->status);
        return;
    }
    conn->error = error->status; /* soft: told if the connection times out */
}
