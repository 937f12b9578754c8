/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_info.c - options and statistics of connections and listeners.
 */
#include <string.h>

#include "stack/tcp_accecn.h"

int ams_tcp_local(struct ams_stack *stack, int id, struct ams_endpoint *out)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (conn) {
        *out = tcp_flow_local(&conn->flow);
        return 0;
    }
    struct tcp_listener *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (!listener)
        return -AMS_EBADF;
    *out = listener->local;
    return 0;
}

int ams_tcp_remote(struct ams_stack *stack, int id, struct ams_endpoint *out)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (!conn)
        return sock_find(stack, id, SOCK_LISTENER) ? -AMS_ENOTCONN : -AMS_EBADF;
    *out = tcp_flow_remote(&conn->flow);
    return 0;
}

/* ---- options -------------------------------------------------------------------- */

/* The option values that connections and listeners keep alike. */
struct options {
    uint32_t *flags;
    uint16_t *keepidle, *keepintvl;
    uint8_t *keepcnt;
    int16_t *linger;
    uint32_t *user_timeout_ms;
    uint32_t *maxseg;
    uint8_t *syn_retries;
    uint32_t *notsent_lowat, *window_clamp;
    int16_t *linger2;
    struct ip_service *service;
};

/* Finds where id keeps its options.  Return: 0 or -AMS_EBADF. */
static int options_of(struct ams_stack *stack, int id, struct options *out, struct tcp_conn **conn,
                      struct tcp_listener **listener)
{
    *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (*conn) {
        struct tcp_conn *c = *conn;
        *out = (struct options){&c->flags, &c->keepidle, &c->keepintvl, &c->keepcnt, &c->linger,
                                &c->user_timeout_ms, &c->maxseg, &c->syn_retries, &c->notsent_lowat, &c->window_clamp,
                                &c->linger2, &c->flow.service};
    } else if (*listener) {
        struct tcp_listener *l = *listener;
        *out = (struct options){&l->conn_flags, &l->keepidle, &l->keepintvl, &l->keepcnt, &l->linger,
                                &l->user_timeout_ms, &l->maxseg, &l->syn_retries, &l->notsent_lowat, &l->window_clamp,
                                &l->linger2, &l->service};
    } else {
        return -AMS_EBADF;
    }
    return 0;
}

/* The flag of an option that is on or off; 0 for others. */
static uint32_t flag_of(int option)
{
    switch (option) {
    case AMS_OPT_NODELAY:
        return CONN_NODELAY;
    case AMS_OPT_CORK:
        return CONN_CORK;
    case AMS_OPT_KEEPALIVE:
        return CONN_KEEPALIVE;
    case AMS_OPT_QUICKACK:
        return CONN_QUICKACK;
    case AMS_OPT_PACING:
        return CONN_PACING;
    default:
        return 0;
    }
}

/* What must happen at once when an option of a live connection changes. */
static void option_changed(struct ams_stack *stack, struct tcp_conn *conn, int option)
{
    if (option == AMS_OPT_KEEPALIVE || option == AMS_OPT_KEEPIDLE) {
        if (conn->state == AMS_TCP_ESTABLISHED || conn->state == AMS_TCP_CLOSE_WAIT)
            tcp_keepalive_restart(stack, conn, stack->now);
    } else if (option == AMS_OPT_NODELAY && conn->flags & CONN_NODELAY) {
        conn->flags |= CONN_PUSH; /* overrides even the cork, for what is queued */
    } else if (option == AMS_OPT_CORK && !(conn->flags & CONN_CORK)) {
        conn->flags &= ~CONN_MORE;
        if (conn->flags & CONN_NODELAY)
            conn->flags |= CONN_PUSH;
    } else if (option == AMS_OPT_MAXSEG) {
        tcp_update_mss(conn);
    } else if (option == AMS_OPT_NOTSENT_LOWAT) {
        tcp_send_drained(stack, conn);
    } else if (option == AMS_OPT_USER_TIMEOUT) {
        tcp_user_timeout_changed(stack, conn);
    } else if (option == AMS_OPT_QUICKACK) {
        if (conn->flags & CONN_QUICKACK)
            conn->flags = (conn->flags & ~CONN_PINGPONG) | (conn->delack_at ? CONN_ACK_NOW : 0);
        else
            conn->flags |= CONN_PINGPONG;
    } else if (option == AMS_OPT_PACING && !(conn->flags & CONN_PACING) && !(conn->cc->flags & TCP_CC_PACED)) {
        conn->pacing_rate = 0;
    }
    tcp_want_output(stack, conn);
}

/* Buffer sizes: fixed from here on, within the stack's limits. */
static int set_buffer(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_listener *listener, int option,
                      int value)
{
    bool send = option == AMS_OPT_SNDBUF;
    uint32_t limit = send ? stack->config.sndbuf_max : stack->config.rcvbuf_max;
    uint32_t size = ams_min_u32(ams_max_u32((uint32_t)value, 4096), limit);
    if (listener) {
        *(send ? &listener->sndbuf : &listener->rcvbuf) = size;
        return 0;
    }
    *(send ? &conn->sndbuf : &conn->rcvbuf) = size;
    conn->flags |= send ? CONN_SNDBUF_FIXED : CONN_RCVBUF_FIXED;
    return 0;
}

/* Options that are numbers.  Return: 0, -AMS_EINVAL, -AMS_ENOPROTOOPT. */
static int set_number(const struct options *options, int option, int value)
{
    switch (option) {
    case AMS_OPT_KEEPIDLE:
    case AMS_OPT_KEEPINTVL:
        if (value < 1 || value > 32767)
            return -AMS_EINVAL;
        *(option == AMS_OPT_KEEPIDLE ? options->keepidle : options->keepintvl) = (uint16_t)value;
        return 0;
    case AMS_OPT_KEEPCNT:
        if (value < 1 || value > 127)
            return -AMS_EINVAL;
        *options->keepcnt = (uint8_t)value;
        return 0;
    case AMS_OPT_LINGER:
        *options->linger = (int16_t)(value < 0 ? -1 : value > INT16_MAX ? INT16_MAX : value);
        return 0;
    case AMS_OPT_USER_TIMEOUT:
        if (value < 0)
            return -AMS_EINVAL;
        *options->user_timeout_ms = (uint32_t)value;
        return 0;
    case AMS_OPT_SYNCNT:
        if (value < 1 || value > 127)
            return -AMS_EINVAL;
        *options->syn_retries = (uint8_t)value;
        return 0;
    case AMS_OPT_MAXSEG:
        if (value && (value < (int)TCP_MSS_MIN || value > 32767))
            return -AMS_EINVAL;
        *options->maxseg = (uint32_t)value;
        return 0;
    case AMS_OPT_NOTSENT_LOWAT:
        *options->notsent_lowat = (uint32_t)value;
        return 0;
    case AMS_OPT_LINGER2:
        *options->linger2 = (int16_t)(value < 0 ? -1 : value > TCP_FIN_WAIT_2_MAX ? TCP_FIN_WAIT_2_MAX : value);
        return 0;
    case AMS_OPT_WINDOW_CLAMP:
        if (value < 0)
            return -AMS_EINVAL;
        *options->window_clamp = value ? ams_max_u32((uint32_t)value, TCP_WINDOW_CLAMP_MIN) : 0;
        return 0;
    default:
        return ip_service_set(options->service, false, option, value);
    }
}

/* How often a SYN-ACK is sent while the timer doubles from one second until
 * so many seconds are over, and the other way round (TCP_DEFER_ACCEPT). */
static uint8_t seconds_to_tries(int seconds)
{
    int tries = 0, step = 1;
    for (int over = 0; over < seconds && tries < UINT8_MAX; tries++) {
        over += step;
        step = step * 2 < TCP_RTO_MAX_S ? step * 2 : TCP_RTO_MAX_S;
    }
    return (uint8_t)tries;
}

static int tries_to_seconds(uint8_t tries)
{
    int over = 0, step = 1;
    for (; tries; tries--) {
        over += step;
        step = step * 2 < TCP_RTO_MAX_S ? step * 2 : TCP_RTO_MAX_S;
    }
    return over;
}

/* Fast Open's options. */
static int set_fastopen(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_listener *listener, int option,
                        int value)
{
    if (option == AMS_OPT_FASTOPEN_CONNECT)
        return conn ? tcp_fastopen_ask(stack, conn, value) : -AMS_EINVAL;
    if (!listener || value < 0)
        return -AMS_EINVAL;
    listener->fastopen_limit = (uint32_t)value;
    return 0;
}

int ams_tcp_setopt(struct ams_stack *stack, int id, int option, int value)
{
    struct options options;
    struct tcp_conn *conn;
    struct tcp_listener *listener;
    if (options_of(stack, id, &options, &conn, &listener) < 0)
        return -AMS_EBADF;
    int status = 0;
    uint32_t flag = flag_of(option);
    if (flag)
        *options.flags = value ? *options.flags | flag : *options.flags & ~flag;
    else if (option == AMS_OPT_SNDBUF || option == AMS_OPT_RCVBUF)
        status = value < 0 ? -AMS_EINVAL : set_buffer(stack, conn, listener, option, value);
    else if (option == AMS_OPT_DEFER_ACCEPT && listener)
        listener->defer_accept = seconds_to_tries(value);
    else if (option == AMS_OPT_DEFER_ACCEPT)
        status = 0; /* too late for a connection: as Linux, no error */
    else if (option == AMS_OPT_FASTOPEN || option == AMS_OPT_FASTOPEN_CONNECT)
        status = set_fastopen(stack, conn, listener, option, value);
    else
        status = set_number(&options, option, value);
    if (status == 0 && conn && !(conn->flags & CONN_DEAD))
        option_changed(stack, conn, option);
    return status;
}

/* The largest window that may be offered, by the option and by what a header can say. */
static uint32_t window_clamp(const struct tcp_conn *conn, uint32_t set)
{
    uint32_t most = 65535u << (conn ? conn->rcv_wscale : 0);
    return set && (!conn || set < most) ? set : most;
}

/* The options that are a number.  Return: 0, or a status for one that isn't. */
static int get_number(const struct ams_stack *stack, const struct options *options, int option, int *value)
{
    switch (option) {
    case AMS_OPT_NOTSENT_LOWAT:
        *value = (int)*options->notsent_lowat;
        return 0;
    case AMS_OPT_LINGER2:
        *value = *options->linger2 ? *options->linger2 : TCP_FIN_WAIT_2_TIMEOUT;
        return 0;
    case AMS_OPT_KEEPIDLE:
        *value = *options->keepidle;
        return 0;
    case AMS_OPT_KEEPINTVL:
        *value = *options->keepintvl;
        return 0;
    case AMS_OPT_KEEPCNT:
        *value = *options->keepcnt;
        return 0;
    case AMS_OPT_LINGER:
        *value = *options->linger;
        return 0;
    case AMS_OPT_USER_TIMEOUT:
        *value = (int)*options->user_timeout_ms;
        return 0;
    case AMS_OPT_SYNCNT:
        *value = *options->syn_retries ? *options->syn_retries : (int)stack->config.syn_retries;
        return 0;
    default:
        return ip_service_get(stack, options->service, option, value);
    }
}

int ams_tcp_getopt(struct ams_stack *stack, int id, int option, int *value)
{
    struct options options;
    struct tcp_conn *conn;
    struct tcp_listener *listener;
    if (options_of(stack, id, &options, &conn, &listener) < 0)
        return -AMS_EBADF;
    if (flag_of(option)) {
        *value = !!(*options.flags & flag_of(option));
        return 0;
    }
    switch (option) {
    case AMS_OPT_SNDBUF:
        *value = (int)(conn ? conn->sndbuf : listener->sndbuf ? listener->sndbuf : stack->config.sndbuf);
        return 0;
    case AMS_OPT_RCVBUF:
        *value = (int)(conn ? conn->rcvbuf : listener->rcvbuf ? listener->rcvbuf : stack->config.rcvbuf);
        return 0;
    case AMS_OPT_MAXSEG:
        *value = (int)(conn ? conn->snd_mss : listener->maxseg ? listener->maxseg : TCP_MSS_DEFAULT4);
        return 0;
    case AMS_OPT_ERROR:
        *value = conn ? conn->error : 0;
        if (conn && !(conn->flags & CONN_DEAD))
            conn->error = 0;
        return 0;
    case AMS_OPT_DEFER_ACCEPT:
        *value = listener ? tries_to_seconds(listener->defer_accept) : 0;
        return 0;
    case AMS_OPT_WINDOW_CLAMP:
        *value = (int)window_clamp(conn, *options.window_clamp);
        return 0;
    case AMS_OPT_FASTOPEN:
        *value = (int)(listener ? listener->fastopen_limit : 0);
        return 0;
    case AMS_OPT_FASTOPEN_CONNECT:
        *value = conn && conn->fastopen & FO_ASKED;
        return 0;
    case AMS_OPT_FASTOPEN_ROOM:
        *value = conn && tcp_fastopen_waits(conn) ? (int)tcp_fastopen_room(stack, conn) : -1;
        return 0;
    default:
        return get_number(stack, &options, option, value);
    }
}

int ams_tcp_set_congestion(struct ams_stack *stack, int id, const char *name)
{
    const struct tcp_cc_ops *cc = tcp_cc_find(stack, name);
    if (!cc)
        return -AMS_EINVAL;
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (conn)
        return tcp_cc_choose(stack, conn, cc);
    struct tcp_listener *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (!listener)
        return -AMS_EBADF;
    listener->cc = cc;
    return 0;
}

/* ---- statistics ------------------------------------------------------------------- */

static void name_copy(char out[16], const struct tcp_cc_ops *cc)
{
    size_t n = strlen(cc->name);
    memcpy(out, cc->name, n < 15 ? n : 15);
}

/* What Accurate ECN counts; the initial values are no news to anybody. */
static void accecn_info(const struct tcp_conn *conn, struct ams_tcp_info *out)
{
    struct tcp_accecn start, *acc = tcp_accecn_of(conn);
    tcp_accecn_counters(&start);
    out->received_ce = acc->r_cep - start.r_cep;
    out->delivered_ce = acc->s_cep - start.s_cep;
    out->received_ect1_bytes = acc->r_bytes[IP_ECT1 - 1] - start.r_bytes[IP_ECT1 - 1];
    out->received_ect0_bytes = acc->r_bytes[IP_ECT0 - 1] - start.r_bytes[IP_ECT0 - 1];
    out->received_ce_bytes = acc->r_bytes[IP_CE - 1] - start.r_bytes[IP_CE - 1];
    out->delivered_ect1_bytes = acc->s_bytes[IP_ECT1 - 1] - start.s_bytes[IP_ECT1 - 1];
    out->delivered_ect0_bytes = acc->s_bytes[IP_ECT0 - 1] - start.s_bytes[IP_ECT0 - 1];
    out->delivered_ce_bytes = acc->s_bytes[IP_CE - 1] - start.s_bytes[IP_CE - 1];
}

/* All that is told of a connection: one assignment for each field. */
static void conn_info(struct ams_stack *stack, const struct tcp_conn *conn, struct ams_tcp_info *out, uint64_t now)
{
    memset(out, 0, sizeof(*out));
    out->id = conn->flags & CONN_ORPHAN ? -1 : conn->sock.id;
    out->protocol = PROTO_TCP;
    out->state = conn->state;
    out->ca_state = conn->ca_state;
    out->options = (uint8_t)((conn->flags & CONN_TS_OK ? AMS_INFO_TIMESTAMPS : 0) |
                             (conn->flags & CONN_SACK_OK ? AMS_INFO_SACK : 0) |
                             (conn->flags & CONN_WSCALE_OK ? AMS_INFO_WSCALE : 0) |
                             (conn->ecn & (ECN_OK | ECN_ACCURATE) ? AMS_INFO_ECN : 0) |
                             (conn->ecn & ECN_ACCURATE ? AMS_INFO_ACCECN : 0) |
                             (conn->ecn & ECN_SEEN ? AMS_INFO_ECN_SEEN : 0) |
                             (conn->fastopen & FO_ACCEPTED ? AMS_INFO_SYN_DATA : 0));
    out->snd_wscale = conn->snd_wscale;
    out->rcv_wscale = conn->rcv_wscale;
    out->backoff = conn->backoff;
    out->probes = conn->probes;
    out->local = tcp_flow_local(&conn->flow);
    out->remote = tcp_flow_remote(&conn->flow);
    out->recv_queue = conn->rcv_queued;
    out->send_queue = tcp_unacked(conn);
    out->snd_mss = conn->snd_mss;
    out->rcv_mss = conn->rcv_mss;
    out->snd_cwnd = conn->cwnd;
    out->snd_ssthresh = conn->ssthresh;
    out->snd_wnd = conn->snd_wnd;
    out->rcv_wnd = conn->rcv_adv - conn->rcv_nxt;
    out->unacked = conn->snd_nxt - conn->snd_una;
    out->pmtu = conn->path.mtu;
    out->rto = conn->rto;
    out->srtt = conn->srtt;
    out->rttvar = conn->rttvar;
    out->min_rtt = conn->min_rtt;
    out->bytes_sent = conn->bytes_sent;
    out->bytes_acked = conn->bytes_acked;
    out->bytes_received = conn->bytes_received;
    out->bytes_retrans = conn->bytes_retrans;
    out->segs_out = conn->segs_out;
    out->segs_in = conn->segs_in;
    out->dsack_dups = conn->dsack_dups;
    out->created = conn->created;
    out->adv_mss = tcp_advertised_mss(stack, conn);
    out->sacked = conn->flags & CONN_SACK_OK ? conn->sacked_bytes : 0;
    out->lost = conn->lost_bytes;
    out->retrans_out = conn->retrans_bytes;
    out->not_sent = tcp_unsent(conn);
    out->reordering = ams_max_u32(conn->reordering, TCP_DUPTHRESH);
    out->delivered = conn->delivered;
    out->delivered_segs = conn->delivered_segs + (conn->state != AMS_TCP_SYN_SENT && conn->state != AMS_TCP_SYN_RECEIVED);
    out->pacing_rate = conn->pacing_rate;
    out->last_data_sent = now - (conn->last_sent_at ? conn->last_sent_at : conn->created);
    out->last_data_received = now - (conn->data_rcv_at ? conn->data_rcv_at : conn->created);
    out->last_received = now - (conn->last_rcv_at ? conn->last_rcv_at : conn->created);
    name_copy(out->congestion, conn->cc);
    if (conn->rate_interval)
        out->delivery_rate =
            (uint64_t)conn->rate_delivered * AMS_NS_PER_S / ((uint64_t)conn->rate_interval << TCP_AGO_SHIFT);
    out->segs_retrans = conn->segs_retrans;
    out->busy_time = conn->busy_time + (conn->busy_since ? now - conn->busy_since : 0);
    out->rwnd_limited = conn->rwnd_time + (conn->rwnd_since ? now - conn->rwnd_since : 0);
    out->data_segs_in = conn->data_segs_in;
    out->data_segs_out = conn->data_segs_out;
    if (conn->ecn & ECN_ACCURATE)
        accecn_info(conn, out);
}

static void listener_info(const struct tcp_listener *listener, struct ams_tcp_info *out)
{
    memset(out, 0, sizeof(*out));
    out->id = listener->sock.id;
    out->protocol = PROTO_TCP;
    out->state = AMS_TCP_LISTEN;
    out->local = listener->local;
    out->remote.family = listener->local.family;
    out->recv_queue = listener->waiting;
    out->send_queue = listener->backlog;
}

static void tw_info(const struct tcp_tw *tw, struct ams_tcp_info *out)
{
    memset(out, 0, sizeof(*out));
    out->id = -1;
    out->protocol = PROTO_TCP;
    out->state = AMS_TCP_TIME_WAIT;
    out->local = tcp_flow_local(&tw->flow);
    out->remote = tcp_flow_remote(&tw->flow);
}

int ams_tcp_get_info(struct ams_stack *stack, int id, struct ams_tcp_info *out, uint64_t now)
{
    now = ams_max_u64(now, stack->now);
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    struct tcp_listener *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (conn)
        conn_info(stack, conn, out, now);
    else if (listener)
        listener_info(listener, out);
    else
        return -AMS_EBADF;
    return 0;
}

int tcp_list(struct ams_stack *stack, struct ams_tcp_info *out, int max, uint64_t now)
{
    struct tcp_host *tcp = stack->tcp;
    int count = 0;
    now = ams_max_u64(now, stack->now);
    for (uint32_t i = 0; i < TCP_LISTENER_BUCKETS; i++)
        for (struct tcp_listener *listener = tcp->listeners[i]; listener; listener = listener->hash_next, count++)
            if (count < max)
                listener_info(listener, &out[count]);
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&tcp->flows, &walk)); count++) {
        if (count >= max)
            continue;
        if (flow->is_tw)
            tw_info((const struct tcp_tw *)flow, &out[count]);
        else
            conn_info(stack, tcp_conn_of(flow), &out[count], now);
    }
    return count;
}

uint64_t tcp_memory(const struct ams_stack *stack)
{
    uint64_t bytes = stack->tcp->memory + tcp_flows_memory(&stack->tcp->flows) + stack->tcp->conns.bytes;
    for (uint32_t i = 0; i < TCP_BOARDS; i++)
        bytes += stack->tcp->boards[i].bytes;
    return bytes;
}

/* Flags that a running stack keeps. */
#define SET_AT_BIRTH (AMS_STACK_NO_DAD | AMS_STACK_AUTOCONF | AMS_STACK_REDIRECTS4 | AMS_STACK_REDIRECTS6)

int ams_stack_set(struct ams_stack *stack, int setting, uint32_t value)
{
    switch (setting) {
    case AMS_SET_FLAGS:
        stack->config.flags = (value & ~SET_AT_BIRTH) | (stack->config.flags & SET_AT_BIRTH);
        return 0;
    case AMS_SET_ECN:
        if (value > AMS_ECN_ACCURATE_ACCEPT)
            return -AMS_EINVAL;
        stack->config.ecn = value;
        return 0;
    case AMS_SET_ACCECN:
        if (value > AMS_ACCECN_NEVER)
            return -AMS_EINVAL;
        stack->config.accecn_options = value;
        return 0;
    case AMS_SET_SYN_COOKIES:
        if (value > AMS_SYN_COOKIES_ALWAYS)
            return -AMS_EINVAL;
        stack->config.syn_cookies = value;
        return 0;
    case AMS_SET_FASTOPEN:
        stack->config.fastopen = value;
        return 0;
    case AMS_SET_FORGET:
        tcp_fastopen_forget(stack);
        return 0;
    default:
        return -AMS_EINVAL;
    }
}

int ams_stack_time_wait(struct ams_stack *stack)
{
    return (int)stack->tcp->n_tw;
}
