/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_output.c - builds segments when the ring has room for them.
 *
 * Theory of operation.  Connections with something to say are on the output
 * list.  tcp_output() asks each in turn for frames until it has none left
 * (tcp_emit_one() returns EMIT_NONE) or the descriptors are full; after a burst
 * the connection goes to the list's end.  In order of urgency a connection
 * sends: RST, SYN, retransmissions, new data (with FIN), probes, pure ACKs.
 * Every segment but the first SYN carries the latest ACK, so a pure ACK goes
 * out only if nothing else did.
 *
 * State (snd_nxt, records, timers) changes only when a descriptor was
 * filled, and descriptors are only asked for when the port has promised
 * room: a full ring loses nothing.
 */
#include <string.h>

#include "stack/tcp.h"

#define OUTPUT_BURST 16
#define IP_ECN_ECT0 2u /* RFC 3168 section 5 */

enum emit_result {
    EMIT_NONE,   /* nothing more to send now */
    EMIT_FRAME,  /* the descriptor is filled */
    EMIT_PARKED, /* sent, but it waits for its neighbour */
    EMIT_FREED,  /* the connection is gone */
};

void tcp_want_output(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct tcp_host *tcp = stack->tcp;
    if (conn->flags & (CONN_ON_OUTPUT | CONN_DEAD))
        return;
    conn->flags |= CONN_ON_OUTPUT;
    conn->out_next = NULL;
    conn->out_prev = tcp->out_tail;
    if (tcp->out_tail)
        tcp->out_tail->out_next = conn;
    else
        tcp->out_head = conn;
    tcp->out_tail = conn;
}

void tcp_unlink_output(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct tcp_host *tcp = stack->tcp;
    if (!(conn->flags & CONN_ON_OUTPUT))
        return;
    conn->flags &= ~CONN_ON_OUTPUT;
    if (conn->out_prev)
        conn->out_prev->out_next = conn->out_next;
    else
        tcp->out_head = conn->out_next;
    if (conn->out_next)
        conn->out_next->out_prev = conn->out_prev;
    else
        tcp->out_tail = conn->out_prev;
    conn->out_next = conn->out_prev = NULL;
}

bool tcp_output_pending(const struct ams_stack *stack)
{
    return stack->tcp && stack->tcp->out_head;
}

uint32_t tcp_advertised_mss(const struct ams_stack *stack, const struct tcp_conn *conn)
{
    uint32_t headers = (conn->flow.family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER) + TCP_HEADER;
    /* a path that was too narrow for our SYN's data will be for the peer's */
    uint32_t mtu = conn->fastopen & FO_DATA ? ams_min_u32(stack->mtu, conn->path.mtu) : stack->mtu;
    return ams_min_u32(ams_min_u32(mtu - headers, 65535), conn->maxseg ? conn->maxseg : 65535);
}

/* Makes sure that the path is known.  Return: false when there is no route. */
static bool path_ready(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (AMS_LIKELY(conn->path.neighbor && conn->path.generation == stack->path_generation))
        return true;
    uint32_t mtu = conn->path.mtu;
    if (ip_path_find(stack, conn->flow.remote_ip, &conn->path) < 0)
        return false;
    if (conn->path.mtu != mtu)
        tcp_update_mss(conn);
    return true;
}

/* What every segment of a synchronised connection carries. */
static void segment_init(const struct ams_stack *stack, struct tcp_conn *conn, struct tcp_repr *repr, uint32_t seq,
                         uint16_t flags, uint64_t now)
{
    memset(repr, 0, sizeof(*repr));
    repr->src_port = conn->flow.local_port;
    repr->dst_port = conn->flow.remote_port;
    repr->seq = seq;
    repr->ack = conn->rcv_nxt;
    repr->flags = flags | TCP_ACK;
    if (AMS_UNLIKELY(conn->ecn & (ECN_ECHO | ECN_ACCURATE)) && !(flags & (TCP_SYN | TCP_RST)))
        repr->flags |= tcp_ecn_ack_flags(conn, false);
    if (conn->flags & CONN_TS_OK) {
        repr->has_timestamps = true;
        repr->tsval = tcp_timestamp(conn, now);
        repr->tsecr = conn->ts_recent;
    }
    uint32_t window = tcp_receive_window(stack, conn);
    uint32_t field = ams_min_u32(window >> conn->rcv_wscale, 65535);
    repr->window = (uint16_t)field;
    if (seq_gt(conn->rcv_nxt + (field << conn->rcv_wscale), conn->rcv_adv))
        conn->rcv_adv = conn->rcv_nxt + (field << conn->rcv_wscale);
}

/* The IP-ECN field of what is no new data.  RFC 3168 sections 6.1.4 and 6.1.5
 * have it empty, as nothing could be told of the marks of an ACK; Accurate ECN
 * counts those, too, and as Linux its segments all are ECN-capable (RFC 8311
 * section 4.3). */
static uint8_t control_ecn(const struct tcp_conn *conn)
{
    return (conn->ecn & (ECN_ACCURATE | ECN_ECT)) == (ECN_ACCURATE | ECN_ECT) ? IP_ECN_ECT0 : 0;
}

/* Writes the header before the frags that tx has, and hands it to IP.
 * @ecn: the IP-ECN field; the rest of the traffic class is the application's */
static enum emit_result segment_send(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx,
                                     const struct tcp_repr *repr, uint32_t payload, uint8_t ecn, uint64_t now)
{
    uint32_t l4_off = ip_headroom(conn->flow.family);
    uint32_t header_len = tcp_emit(repr, tx->head + l4_off);
    tx->head_len = l4_off + header_len;
    tx->total = tx->head_len + payload;
    /* SACK blocks take their room from the payload (RFC 6691): each part of a
     * super-frame repeats the header's options */
    uint32_t options = header_len - TCP_HEADER - (conn->flags & CONN_TS_OK ? 12 : 0);
    uint32_t mss = conn->snd_mss - options;
    tx->gso_size = payload > mss && !tcp_mtu_is_probe(conn, repr->seq, payload) ? (uint16_t)mss : 0;
    ip_l4_checksum(stack, tx, conn->flow.local_ip, conn->flow.remote_ip, PROTO_TCP, l4_off, TCP_CSUM_OFFSET);
    if (AMS_LIKELY(repr->flags & TCP_ACK)) {
        if (conn->quickacks && (conn->delack_at || conn->flags & CONN_ACK_NOW))
            conn->quickacks--;
        conn->last_ack_sent = conn->rcv_nxt;
        conn->flags &= ~CONN_ACK_NOW;
        conn->delack_at = 0;
    }
    conn->segs_out++;
    if (payload || repr->flags & (TCP_SYN | TCP_FIN))
        conn->last_sent_at = now;
    stack->counters.tcp_tx++;
    return ip_output(stack, &conn->path, tx, conn->flow.local_ip, conn->flow.remote_ip, &conn->flow.service, ecn, now)
               ? EMIT_FRAME
               : EMIT_PARKED;
}

/* What Fast Open adds to the first SYN.  Return: bytes of data, described in tx. */
static uint32_t syn_data(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, struct tcp_repr *repr,
                         uint64_t now)
{
    uint32_t len = tcp_fastopen_syn(stack, conn, repr);
    struct tcp_rec *rec = len ? tcp_rec_push(stack, conn) : NULL;
    if (!rec)
        return 0;
    len = tcp_send_gather(conn, conn->iss + 1, len, tx);
    rec->seq = conn->iss + 1;
    rec->len = len;
    rec->marks = seq_geq(rec->seq + len, conn->snd_end) ? REC_PUSH : 0;
    tcp_rate_sent(conn, rec, now);
    conn->fastopen |= FO_DATA;
    conn->bytes_sent += len;
    stack->counters.tcp_fastopen_active++;
    return len;
}

/* SYN or SYN-ACK (RFC 9293 section 3.10.1, RFC 7323 section 1.3). */
static enum emit_result emit_syn(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint64_t now)
{
    struct tcp_repr repr;
    bool passive = conn->state == AMS_TCP_SYN_RECEIVED;
    bool first = conn->snd_nxt == conn->iss;
    uint32_t payload = 0;
    uint8_t options[TCP_OPTIONS_MAX];
    if (AMS_UNLIKELY(conn->fastopen & FO_WAIT) && tcp_fastopen_waits(conn))
        return EMIT_NONE;
    segment_init(stack, conn, &repr, conn->iss, TCP_SYN, now);
    if (passive && conn->ecn)
        repr.flags |= tcp_ecn_synack(conn);
    if (!passive) {
        repr.flags = TCP_SYN | tcp_ecn_syn(stack, conn, first);
        repr.ack = 0;
        repr.tsecr = 0;
    }
    repr.mss = (uint16_t)tcp_advertised_mss(stack, conn);
    repr.sack_permitted = conn->flags & CONN_SACK_OK;
    repr.has_timestamps = conn->flags & CONN_TS_OK;
    repr.tsval = tcp_timestamp(conn, now);
    repr.has_wscale = conn->flags & CONN_WSCALE_OK;
    repr.wscale = conn->rcv_wscale;
    if (AMS_UNLIKELY(conn->fastopen & FO_ASKED) && first && !passive)
        payload = syn_data(stack, conn, tx, &repr, now);
    if (AMS_UNLIKELY(conn->fastopen & FO_REPLY))
        tcp_fastopen_reply(stack, conn, &repr);
    if (!passive && first)
        tcp_option_join(stack, conn, NULL, now);
    if (AMS_UNLIKELY(conn->ext)) {
        uint32_t room = TCP_OPTIONS_MAX - (tcp_header_size(&repr) - TCP_HEADER);
        tcp_option_emit(stack, conn, passive ? TCP_PLACE_SYN_ACK : TCP_PLACE_SYN, &repr, options, room);
    }
    uint32_t window = ams_min_u32(conn->rcvbuf, 65535); /* never scaled in a SYN */
    if (conn->window_clamp)
        window = ams_min_u32(window, conn->window_clamp);
    repr.window = (uint16_t)window;
    conn->rcv_adv = conn->rcv_nxt + window;
    conn->flags &= ~CONN_SYN_NOW;
    if (first)
        conn->snd_nxt = conn->iss + 1 + payload;
    else
        stack->counters.tcp_retrans++;
    if (!conn->rexmit_at && conn->fastopen & FO_CHILD) {
        conn->rexmit_at = now + conn->rto;
        tcp_timer_update(stack, conn);
    } else if (!conn->rexmit_at) {
        tcp_rexmit_restart(stack, conn, now);
    }
    return segment_send(stack, conn, tx, &repr, payload, 0, now);
}

static enum emit_result emit_rst(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint64_t now)
{
    struct tcp_repr repr;
    segment_init(stack, conn, &repr, conn->snd_nxt, TCP_RST, now);
    enum emit_result result = segment_send(stack, conn, tx, &repr, 0, 0, now);
    stack->counters.tcp_rst_tx++;
    conn->flags &= ~CONN_RST_NOW;
    tcp_drop(stack, conn, conn->error);
    return result;
}

/* The payload of a full segment, SACK blocks and other options deducted (RFC 6691). */
static uint32_t segment_mss(const struct ams_stack *stack, const struct tcp_conn *conn, enum tcp_place place)
{
    struct tcp_option_plan plan;
    if (AMS_LIKELY(!conn->ext && !conn->n_runs && !(conn->flags & CONN_DSACK)))
        return conn->snd_mss;
    return conn->snd_mss - tcp_option_plan(stack, conn, place, &plan);
}

/* Adds SACK blocks and other options to a segment that is no SYN. */
static void add_options(struct ams_stack *stack, struct tcp_conn *conn, enum tcp_place place, struct tcp_repr *repr,
                        uint8_t scratch[TCP_OPTIONS_MAX])
{
    struct tcp_option_plan plan;
    if (AMS_LIKELY(!conn->ext && !conn->n_runs && !(conn->flags & CONN_DSACK)))
        return;
    tcp_option_plan(stack, conn, place, &plan);
    if (plan.others)
        tcp_option_emit(stack, conn, place, repr, scratch, plan.others);
    if (plan.sack_blocks)
        tcp_sack_blocks(conn, repr, plan.sack_blocks);
}

/* Sends payload [seq, seq + len); marks: the record's.  tx has its frags. */
static enum emit_result emit_data(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint32_t seq,
                                  uint32_t len, uint8_t marks, uint64_t now)
{
    struct tcp_repr repr;
    uint8_t options[TCP_OPTIONS_MAX];
    uint8_t flags = marks & REC_FIN ? TCP_FIN : 0;
    /* on the last byte written, and on super-frames: their receiver need not
     * wait for more to join to them */
    if (len && (marks & REC_PUSH || len > conn->snd_mss))
        flags |= TCP_PSH;
    if (conn->data_rcv_at && now - conn->data_rcv_at < stack->config.delack_ms * AMS_NS_PER_MS)
        conn->flags |= CONN_PINGPONG;
    segment_init(stack, conn, &repr, seq, flags, now);
    add_options(stack, conn, marks & REC_EVER_RETRANS ? TCP_PLACE_AGAIN : TCP_PLACE_DATA, &repr, options);
    conn->bytes_sent += len;
    conn->prr_out += len;
    conn->data_segs_out += len > conn->snd_mss ? (len + conn->snd_mss - 1) / conn->snd_mss : !!len;
    tcp_pace_sent(conn, len, now);
    stack->counters.tcp_tx_bytes += len;
    uint8_t ecn = control_ecn(conn);
    if (AMS_UNLIKELY(conn->ecn & ECN_ECT) && len && !(marks & REC_EVER_RETRANS)) {
        ecn = IP_ECN_ECT0; /* RFC 3168 section 6.1.5: new data only */
        if (conn->ecn & ECN_CWR)
            repr.flags |= TCP_CWR;
        conn->ecn &= (uint8_t)~ECN_CWR;
    }
    return segment_send(stack, conn, tx, &repr, len, ecn, now);
}

/* Retransmits the first lost record as far as cwnd lets it. */
static enum emit_result emit_retransmission(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx,
                                            uint64_t now)
{
    uint32_t index;
    struct tcp_rec *rec = tcp_recovery_next(conn, &index);
    if (!rec)
        return EMIT_NONE;
    uint32_t pipe = tcp_pipe(conn);
    uint32_t mss = segment_mss(stack, conn, TCP_PLACE_AGAIN);
    uint32_t allowed = conn->cwnd > pipe ? conn->cwnd - pipe : 0;
    if (allowed < rec->len && allowed < mss) {
        if (!(conn->flags & CONN_REXMIT_NOW))
            return EMIT_NONE;
        allowed = mss;
    }
    uint32_t limit = ams_min_u32(tcp_segment_limit(stack, conn, mss), allowed < mss ? mss : allowed / mss * mss);
    bool fin = rec->marks & REC_FIN;
    uint32_t len = rec->len - fin;
    if (len > limit) {
        if (!tcp_rec_split(stack, conn, index, rec->seq + limit))
            return EMIT_NONE;
        rec = tcp_rec_at(conn, index);
        fin = false;
        len = limit;
    }
    uint32_t gathered = tcp_send_gather(conn, rec->seq, len, tx);
    if (gathered < len) { /* more pieces than a descriptor has room for */
        if (!tcp_rec_split(stack, conn, index, rec->seq + gathered))
            return EMIT_NONE;
        rec = tcp_rec_at(conn, index);
        fin = false;
        len = gathered;
    }
    conn->flags &= ~CONN_REXMIT_NOW;
    rec->unit = (uint16_t)mss;
    tcp_recovery_sent(conn, rec, len, now);
    stack->counters.tcp_retrans++;
    /* the first one gets a whole timeout to be acknowledged (RFC 6675 section 6): without that, one that was found
     * lost a round trip late would time out on each path longer than the minimum timeout */
    if (!conn->rexmit_at || index == 0)
        tcp_rexmit_restart(stack, conn, now);
    return emit_data(stack, conn, tx, rec->seq, len, rec->marks, now);
}

/* Retransmits the last segment in flight, for a tail loss probe. */
static enum emit_result emit_last_again(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx,
                                        uint64_t now)
{
    uint32_t index = conn->rec_count - 1;
    struct tcp_rec *rec = tcp_rec_at(conn, index);
    bool fin = rec->marks & REC_FIN;
    uint32_t mss = segment_mss(stack, conn, TCP_PLACE_AGAIN);
    if (rec->marks & REC_SACKED)
        return EMIT_NONE;
    if (rec->len - fin > mss) {
        uint32_t tail = (rec->len - fin) % mss ? (rec->len - fin) % mss : mss;
        if (!tcp_rec_split(stack, conn, index, rec->seq + rec->len - fin - tail))
            return EMIT_NONE;
        rec = tcp_rec_at(conn, ++index);
    }
    uint32_t len = rec->len - fin;
    if (tcp_send_gather(conn, rec->seq, len, tx) < len)
        return EMIT_NONE;
    tcp_recovery_sent(conn, rec, len, now);
    stack->counters.tcp_retrans++;
    return emit_data(stack, conn, tx, rec->seq, len, rec->marks, now);
}

/* Describes the new data that may go now in tx: a longer segment to find the
 * path's MTU, or what windows let go.  Return: its length. */
static uint32_t gather_new(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint32_t avail,
                           uint32_t mss, uint64_t now)
{
    uint32_t len = AMS_UNLIKELY(conn->mss_cap) ? tcp_mtu_probe(stack, conn, avail, mss, now) : 0;
    if (len) {
        if (tcp_send_gather(conn, conn->snd_nxt, len, tx) == len)
            return len;
        conn->mtu_probe = 0; /* in more pieces than a descriptor has room for */
        tx->n_frags = 0;
    }
    len = tcp_burst_room(stack, conn, avail, mss, now);
    return len ? tcp_send_gather(conn, conn->snd_nxt, len, tx) : 0;
}

/* Whether new data has PSH: its receiver need not wait for more.
 * @avail: bytes that were queued and not sent; len of them go */
static bool new_is_pushed(struct tcp_conn *conn, const struct ams_tx *tx, uint32_t len, uint32_t avail)
{
    if (AMS_UNLIKELY(conn->flags & CONN_PROBE_NOW)) { /* no need to ask for a window any more */
        conn->flags &= ~CONN_PROBE_NOW;
        conn->backoff = conn->probes = 0;
        return true;
    }
    /* what waits for the next descriptor is no reason to wait for the receiver */
    if ((len == avail && !(conn->flags & CONN_UNPUSHED)) || tx->n_frags == TX_FRAGS)
        return true;
    return len && tcp_send_pushed(conn, conn->snd_nxt + len);
}

/* New data, the FIN behind it, or both.  Nothing changes unless a segment is made. */
static enum emit_result emit_new(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint64_t now)
{
    if (conn->flags & CONN_FIN_SENT)
        return EMIT_NONE;
    uint32_t avail = tcp_unsent(conn);
    bool fin_pending = conn->flags & CONN_FIN_QUEUED;
    if (!avail && !fin_pending)
        return EMIT_NONE;
    uint32_t len = 0, mss = segment_mss(stack, conn, TCP_PLACE_DATA);
    if (avail) {
        if (!conn->busy_since)
            conn->busy_since = now;
        /* the application was idle; not so if it is the peer's window that waits */
        if (conn->snd_una == conn->snd_nxt && !(conn->flags & CONN_PERSIST) &&
            !(stack->config.flags & AMS_STACK_NO_IDLE_RESTART))
            tcp_cc_restart(conn, now);
        len = gather_new(stack, conn, tx, avail, mss, now);
        if (!len) {
            if (!conn->rexmit_at)
                tcp_rexmit_restart(stack, conn, now); /* the persist timer */
            return EMIT_NONE;
        }
    }
    bool fin = fin_pending && len == avail;
    struct tcp_rec *rec = tcp_rec_push(stack, conn);
    if (!rec) {
        conn->mtu_probe = 0;
        return EMIT_NONE;
    }
    rec->seq = conn->snd_nxt;
    rec->len = len + fin;
    bool probe = tcp_mtu_is_probe(conn, conn->snd_nxt, len);
    rec->unit = (uint16_t)(probe ? len : mss);
    rec->marks = (fin ? REC_FIN : 0) | (new_is_pushed(conn, tx, len, avail) ? REC_PUSH : 0);
    tcp_rate_sent(conn, rec, now);
    if (len % mss && !probe)
        conn->snd_short = conn->snd_nxt + len;
    uint32_t seq = conn->snd_nxt;
    bool idle = conn->snd_una == conn->snd_nxt;
    conn->snd_nxt += rec->len;
    if (AMS_UNLIKELY(conn->notsent_lowat))
        tcp_send_drained(stack, conn);
    if (fin)
        conn->flags |= CONN_FIN_SENT;
    if (idle) {
        conn->first_unacked_at = now;
        conn->rack_sent_at = 0;
        conn->lost_hint = conn->rexmit_hint = seq;
    }
    if (idle || !conn->rexmit_at || conn->flags & CONN_PERSIST)
        tcp_rexmit_restart(stack, conn, now);
    tcp_tlp_schedule(stack, conn, now);
    if (len == avail) {
        tcp_cc_sent(conn, false, now);
        tcp_rate_app_limited(conn);
    }
    return emit_data(stack, conn, tx, seq, len, rec->marks, now);
}

/* A tail loss probe: new data if the peer's window lets it, whatever cwnd
 * is; else the last segment once more (RFC 8985 section 7.3). */
static enum emit_result emit_tail_probe(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx,
                                        uint64_t now)
{
    conn->loss &= (uint16_t)~LOSS_TLP_NOW;
    if (!conn->rec_count || conn->ca_state >= TCP_CA_RECOVERY)
        return EMIT_NONE;
    uint32_t cwnd = conn->cwnd;
    conn->cwnd = ams_max_u32(cwnd, tcp_pipe(conn) + conn->snd_mss);
    enum emit_result result = emit_new(stack, conn, tx, now);
    conn->cwnd = cwnd;
    if (result == EMIT_NONE) {
        tx->n_frags = 0;
        result = emit_last_again(stack, conn, tx, now);
        conn->loss |= LOSS_TLP_RETRANS;
    } else {
        conn->loss &= (uint16_t)~LOSS_TLP_RETRANS;
    }
    if (result == EMIT_NONE)
        return result;
    conn->loss |= LOSS_TLP_OUT;
    conn->tlp_end_seq = conn->snd_nxt;
    conn->probe_at = 0;
    stack->counters.tcp_tlp++;
    tcp_rexmit_restart(stack, conn, now);
    return result;
}

/* A pure ACK, or a probe one byte to the left (keep-alive, zero window). */
static enum emit_result emit_ack(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, bool probe,
                                 uint64_t now)
{
    struct tcp_repr repr;
    uint8_t options[TCP_OPTIONS_MAX];
    segment_init(stack, conn, &repr, probe ? conn->snd_una - 1 : conn->snd_nxt, 0, now);
    if (AMS_UNLIKELY(conn->ecn & ECN_ACCURATE) && tcp_ecn_handshake_ack(conn)) {
        uint16_t ecn = tcp_ecn_ack_flags(conn, true);
        if (!conn->n_runs && !probe)
            repr.flags = TCP_ACK | ecn;
    }
    add_options(stack, conn, TCP_PLACE_ACK, &repr, options);
    return segment_send(stack, conn, tx, &repr, 0, control_ecn(conn), now);
}

/* F-RTO's step 2b: new data instead of retransmissions (RFC 5682).  What
 * cannot be sent decides for the conventional way. */
static enum emit_result emit_frto(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint64_t now)
{
    enum emit_result result = emit_new(stack, conn, tx, now);
    if (result == EMIT_NONE && conn->snd_nxt == conn->recover)
        conn->loss &= (uint16_t)~(LOSS_FRTO | LOSS_FRTO_NEW);
    return result;
}

/* Retransmissions first, then new data. */
static enum emit_result emit_data_segment(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx,
                                          uint64_t now)
{
    enum emit_result result = EMIT_NONE;
    if ((tcp_unsent(conn) || conn->lost_bytes != conn->retrans_bytes) && tcp_pace_waits(stack, conn, now))
        return EMIT_NONE;
    if (AMS_UNLIKELY(conn->lost_bytes != conn->retrans_bytes)) {
        if (conn->loss & LOSS_FRTO_NEW) {
            result = emit_frto(stack, conn, tx, now);
            if (result != EMIT_NONE || conn->loss & LOSS_FRTO_NEW)
                return result;
        }
        tx->n_frags = 0;
        result = emit_retransmission(stack, conn, tx, now);
    }
    if (result == EMIT_NONE && conn->lost_bytes == conn->retrans_bytes)
        result = emit_new(stack, conn, tx, now);
    return result;
}

/* Builds the connection's next segment. */
static enum emit_result tcp_emit_one(struct ams_stack *stack, struct tcp_conn *conn, struct ams_tx *tx, uint64_t now)
{
    tx->n_frags = 0;
    tx->flags = 0;
    tx->owned = NULL;
    if (!path_ready(stack, conn)) {
        stack->counters.ip_no_route++;
        tcp_drop(stack, conn, -AMS_ENETUNREACH);
        return EMIT_FREED;
    }
    if (AMS_UNLIKELY(conn->flags & (CONN_RST_NOW | CONN_SYN_NOW)))
        return conn->flags & CONN_RST_NOW ? emit_rst(stack, conn, tx, now) : emit_syn(stack, conn, tx, now);
    if (AMS_UNLIKELY(conn->state == AMS_TCP_SYN_SENT))
        return EMIT_NONE;
    if (AMS_UNLIKELY(conn->ecn & ECN_ACCURATE) && tcp_ecn_handshake_ack(conn))
        return emit_ack(stack, conn, tx, false, now);
    enum emit_result result = EMIT_NONE;
    if (conn->state != AMS_TCP_SYN_RECEIVED || conn->fastopen & FO_CHILD) {
        if (AMS_UNLIKELY(conn->loss & LOSS_TLP_NOW))
            result = emit_tail_probe(stack, conn, tx, now);
        if (result == EMIT_NONE)
            result = emit_data_segment(stack, conn, tx, now);
    }
    if (result != EMIT_NONE)
        return result;
    tx->n_frags = 0;
    if (conn->flags & CONN_PROBE_NOW) {
        conn->flags &= ~CONN_PROBE_NOW;
        return emit_ack(stack, conn, tx, true, now);
    }
    if (conn->acks_owed > 1 && !(conn->flags & CONN_SACK_OK)) {
        conn->acks_owed--;
        return emit_ack(stack, conn, tx, false, now);
    }
    conn->acks_owed = 0;
    return conn->flags & CONN_ACK_NOW ? emit_ack(stack, conn, tx, false, now) : EMIT_NONE;
}

int tcp_output(struct ams_stack *stack, struct ams_tx *tx, int n, uint64_t now)
{
    struct tcp_host *tcp = stack->tcp;
    int count = 0, burst = 0;
    struct tcp_conn *last = NULL;
    while (count < n && tcp->out_head && tcp->heads_used < TCP_HEADS) {
        struct tcp_conn *conn = tcp->out_head;
        burst = conn == last ? burst + 1 : 0;
        last = conn;
        if (burst >= OUTPUT_BURST && conn->out_next) {
            tcp_unlink_output(stack, conn);
            tcp_want_output(stack, conn);
            continue;
        }
        tx[count].head = tcp->heads + tcp->heads_used * TCP_HEAD_SIZE + FRAME_HEADROOM;
        enum emit_result result = tcp_emit_one(stack, conn, &tx[count], now);
        if (result == EMIT_FRAME) {
            count++;
            tcp->heads_used++;
        }
        if (result == EMIT_NONE)
            tcp_unlink_output(stack, conn);
        if (result != EMIT_FRAME)
            last = NULL;
    }
    return count;
}

void tcp_output_done(struct ams_stack *stack)
{
    stack->tcp->heads_used = 0;
}
