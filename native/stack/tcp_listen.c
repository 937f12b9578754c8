/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_listen.c - listeners, passive opens, and resets for nobody's segments.
 *
 * A SYN makes a whole TCB in SYN_RECEIVED; the listener counts these
 * ("embryonic") and those established but not yet reported ("waiting"), both
 * bounded.  With the accept queue full SYNs are dropped and the final ACK is
 * ignored, so that the peer keeps trying, as Linux does; with too many half
 * open SYNs are answered with cookies (tcp_cookie.c).
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/iface.h"
#include "stack/tcp.h"

void tcp_send_bare(struct ams_stack *stack, const struct tcp_flow *flow, const struct tcp_repr *repr, uint64_t now)
{
    struct ams_frame *frame = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!frame) {
        stack->counters.no_memory++;
        return;
    }
    frame->len = tcp_emit(repr, frame->data);
    stack->counters.tcp_tx++;
    ip_send_frame(stack, frame, flow->local_ip, flow->remote_ip, PROTO_TCP, TCP_CSUM_OFFSET,
                  ip_service_class(&flow->service, flow->family), now);
}

void tcp_send_reset(struct ams_stack *stack, const struct tcp_repr *seg, const struct ip_info *ip, uint32_t payload,
                    uint64_t now)
{
    if (seg->flags & TCP_RST)
        return;
    stack->counters.tcp_no_conn++;
    stack->counters.tcp_rst_tx++;
    struct tcp_repr repr = {.src_port = seg->dst_port, .dst_port = seg->src_port};
    if (seg->flags & TCP_ACK) {
        repr.seq = seg->ack;
        repr.flags = TCP_RST;
    } else {
        repr.ack = seg->seq + payload + !!(seg->flags & TCP_SYN) + !!(seg->flags & TCP_FIN);
        repr.flags = TCP_RST | TCP_ACK;
    }
    uint8_t tos = ip->tos & (uint8_t)~IP_ECN_MASK; /* as Linux: of the same class as what it answers */
    struct tcp_flow flow = {.family = ip->family, .service = {.tos = tos, .tclass = tos}};
    memcpy(flow.local_ip, ip->dst, 16);
    memcpy(flow.remote_ip, ip->src, 16);
    tcp_send_bare(stack, &flow, &repr, now);
}

/* What a connection takes over from its listener. */
static void inherit(struct tcp_conn *conn, const struct tcp_listener *listener)
{
    conn->flags |= listener->conn_flags;
    conn->keepidle = listener->keepidle;
    conn->keepintvl = listener->keepintvl;
    conn->keepcnt = listener->keepcnt;
    conn->linger = listener->linger;
    conn->user_timeout_ms = listener->user_timeout_ms;
    conn->maxseg = listener->maxseg;
    conn->syn_retries = listener->syn_retries;
    conn->notsent_lowat = listener->notsent_lowat;
    conn->window_clamp = listener->window_clamp;
    conn->linger2 = listener->linger2;
    conn->flow.service = listener->service;
    if (listener->cc)
        conn->cc = listener->cc;
    if (listener->sndbuf) {
        conn->sndbuf = listener->sndbuf;
        conn->flags |= CONN_SNDBUF_FIXED;
    }
    if (listener->rcvbuf) {
        conn->rcvbuf = listener->rcvbuf;
        conn->flags |= CONN_RCVBUF_FIXED;
    }
}

/* Puts a new connection under its listener's care. */
static void adopt(struct tcp_listener *listener, struct tcp_conn *conn)
{
    conn->listener = listener;
    conn->child_prev = NULL;
    conn->child_next = listener->children;
    if (listener->children)
        listener->children->child_prev = conn;
    listener->children = conn;
    listener->embryonic++;
}

/* Fills in a TCB from a SYN. */
static void conn_from_syn(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg,
                          const struct ip_info *ip, uint32_t min_iss, uint64_t now)
{
    memcpy(conn->flow.local_ip, ip->dst, 16);
    memcpy(conn->flow.remote_ip, ip->src, 16);
    conn->flow.local_port = seg->dst_port;
    conn->flow.remote_port = seg->src_port;
    conn->flow.family = ip->family;
    conn->state = AMS_TCP_SYN_RECEIVED;
    conn->irs = seg->seq;
    conn->rcv_nxt = conn->last_ack_sent = seg->seq + 1;
    conn->rcv_adv = conn->rcv_nxt + ams_min_u32(conn->rcvbuf, 65535);
    tcp_conn_start(stack, conn, now);
    if (min_iss && seq_lt(conn->iss, min_iss)) {
        conn->iss = min_iss; /* RFC 6191: above the old incarnation's */
        conn->snd_una = conn->snd_nxt = conn->iss;
        conn->snd_end = conn->iss + 1;
        conn->snd_short = conn->iss;
    }
    conn->snd_wnd = conn->max_snd_wnd = seg->window;
    conn->flags |= CONN_SYN_NOW;
}

bool tcp_listener_full(const struct tcp_listener *listener)
{
    return listener->waiting >= ams_max_u32(listener->backlog, 1);
}

struct tcp_conn *tcp_listen_child(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *seg,
                                  const struct ip_info *ip, uint32_t min_iss, uint64_t now)
{
    struct tcp_conn *conn = tcp_conn_new(stack, now);
    if (!conn)
        return NULL;
    inherit(conn, listener);
    conn_from_syn(stack, conn, seg, ip, min_iss, now);
    if (ip_path_find(stack, ip->src, &conn->path) < 0 || tcp_claim(stack, conn) < 0 ||
        tcp_flow_insert(stack, &conn->flow) < 0) {
        stack->counters.tcp_syn_dropped++;
        tcp_conn_free(stack, conn);
        return NULL;
    }
    tcp_negotiate(stack, conn, seg);
    tcp_ecn_passive(stack, conn, seg, ip->tos);
    tcp_option_join(stack, conn, seg, now);
    adopt(listener, conn);
    return conn;
}

/* Must this SYN be answered with a cookie, or dropped?  Return: true if it was dealt with. */
static bool overloaded(struct ams_stack *stack, const struct tcp_listener *listener, const struct tcp_repr *seg,
                       const struct ip_info *ip, uint64_t now)
{
    uint32_t mode = stack->config.syn_cookies;
    bool full = listener->embryonic >= stack->config.syn_backlog;
    if (tcp_listener_full(listener) || (full && mode == AMS_SYN_COOKIES_NEVER)) {
        stack->counters.tcp_syn_dropped++;
        return true;
    }
    if (!full && mode != AMS_SYN_COOKIES_ALWAYS)
        return false;
    tcp_cookie_send(stack, listener, seg, ip, now);
    return true;
}

void tcp_listen_input(struct ams_stack *stack, struct tcp_listener *listener, const struct tcp_repr *seg,
                      const struct ip_info *ip, struct ams_frame **frame, uint32_t min_iss, uint64_t now)
{
    if (seg->flags & TCP_RST)
        return;
    if (seg->flags & TCP_ACK || !(seg->flags & TCP_SYN)) {
        if (seg->flags & TCP_ACK)
            tcp_send_reset(stack, seg, ip, 0, now);
        return;
    }
    if (seg->flags & TCP_FIN)
        return; /* nobody opens and closes at once; Linux says nothing either */
    stack->counters.tcp_syn_rx++;
    if (overloaded(stack, listener, seg, ip, now))
        return;
    struct tcp_conn *conn = tcp_listen_child(stack, listener, seg, ip, min_iss, now);
    if (!conn)
        return;
    tcp_fastopen_child(stack, listener, conn, seg, frame, now);
    tcp_want_output(stack, conn);
}

bool tcp_listener_established(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    struct tcp_listener *listener = conn->listener;
    if (conn->fastopen & FO_CHILD) { /* the application has it already */
        listener->embryonic--;
        listener->waiting++;
        stack->counters.tcp_passive_open++;
        return true;
    }
    if (tcp_listener_full(listener) || sock_register(stack, &conn->sock, SOCK_TCP) < 0) {
        stack->counters.tcp_accept_overflow++;
        if (!conn->rexmit_at) /* made of a cookie: without a timer it would stay half open for ever */
            tcp_rexmit_restart(stack, conn, now);
        return false;
    }
    listener->embryonic--;
    listener->waiting++;
    stack->counters.tcp_passive_open++;
    sock_event(stack, &conn->sock, AMS_EV_ACCEPTED);
    return true;
}

/* The IPv4 wildcard that a dual-stack listener takes beside its own.
 * Return: false if it isn't one. */
static bool listener_second(const struct tcp_listener *listener, struct ams_endpoint *out)
{
    static const uint8_t any4[4];
    if (listener->local.family != AMS_IPV6 || listener->flags & AMS_LISTEN_V6ONLY || !ip_is_any(listener->local.ip))
        return false;
    *out = listener->local;
    out->family = AMS_IPV4;
    ip_map4(out->ip, any4);
    return true;
}

/* Claims what a listener needs: a dual-stack one needs both wildcards. */
static int listener_claim(struct ams_stack *stack, const struct tcp_listener *listener)
{
    struct ams_endpoint second;
    int status = stack->owner.claim(stack->owner.ctx, PROTO_TCP, &listener->local);
    if (status < 0 || !listener_second(listener, &second))
        return status;
    status = stack->owner.claim(stack->owner.ctx, PROTO_TCP, &second);
    if (status < 0)
        stack->owner.release(stack->owner.ctx, PROTO_TCP, &listener->local);
    return status;
}

void tcp_listener_release(struct ams_stack *stack, const struct tcp_listener *listener)
{
    struct ams_endpoint second;
    stack->owner.release(stack->owner.ctx, PROTO_TCP, &listener->local);
    if (listener_second(listener, &second))
        stack->owner.release(stack->owner.ctx, PROTO_TCP, &second);
}

/* Is (address, port) taken by another listener of this stack? */
static bool listener_conflicts(struct ams_stack *stack, const struct ams_endpoint *local, uint32_t flags)
{
    struct tcp_listener *other = stack->tcp->listeners[local->port % TCP_LISTENER_BUCKETS];
    for (; other; other = other->hash_next) {
        if (other->local.port != local->port)
            continue;
        bool same_family = other->local.family == local->family;
        bool dual = (other->local.family == AMS_IPV6 && !(other->flags & AMS_LISTEN_V6ONLY) &&
                     ip_is_any(other->local.ip)) ||
                    (local->family == AMS_IPV6 && !(flags & AMS_LISTEN_V6ONLY) && ip_is_any(local->ip));
        if (!same_family && !dual)
            continue;
        if (other->flags & flags & AMS_LISTEN_REUSEPORT)
            continue;
        if (ip_equal(other->local.ip, local->ip) || ip_is_any(other->local.ip) || ip_is_any(local->ip))
            return true;
    }
    return false;
}

/* Picks a free port for a listener that asked for port 0. */
static int listener_port(struct ams_stack *stack, struct ams_endpoint *local, uint32_t flags)
{
    uint32_t low, range;
    int status = 0;
    for (bool more = false; (status = stack_ephemeral(stack, more, &low, &range)) == 0; more = true) {
        uint32_t offset = rng_below(&stack->rng, range);
        for (uint32_t i = 0; i < range; i++) {
            local->port = (uint16_t)(low + (offset + i) % range);
            if (!listener_conflicts(stack, local, flags & ~(uint32_t)AMS_LISTEN_REUSEPORT))
                return 0;
        }
    }
    return status == -AMS_EADDRNOTAVAIL ? -AMS_EADDRINUSE : status;
}

static int listener_check(struct ams_stack *stack, struct ams_endpoint *local, uint32_t flags)
{
    if (local->family != AMS_IPV4 && local->family != AMS_IPV6)
        return -AMS_EAFNOSUPPORT;
    if (!ip_is_any(local->ip) && !iface_may_bind(stack, local->ip))
        return -AMS_EADDRNOTAVAIL;
    if (!local->port)
        return listener_port(stack, local, flags);
    return listener_conflicts(stack, local, flags) ? -AMS_EADDRINUSE : 0;
}

int ams_tcp_listen(struct ams_stack *stack, const struct ams_endpoint *local, int backlog, uint32_t flags)
{
    struct ams_endpoint bound = *local;
    int status = listener_check(stack, &bound, flags);
    if (status < 0)
        return status;
    struct tcp_listener *listener = mem_zalloc(1, sizeof(*listener));
    if (!listener)
        return -AMS_ENOMEM;
    listener->local = bound;
    listener->flags = flags;
    listener->backlog = backlog < 1 ? 1 : (uint32_t)backlog;
    listener->keepidle = TCP_KEEPIDLE_DEFAULT;
    listener->keepintvl = TCP_KEEPINTVL_DEFAULT;
    listener->keepcnt = TCP_KEEPCNT_DEFAULT;
    listener->linger = -1;
    status = listener_claim(stack, listener);
    if (status < 0) {
        mem_free(listener);
        return status;
    }
    status = sock_register(stack, &listener->sock, SOCK_LISTENER);
    if (status < 0) {
        tcp_listener_release(stack, listener);
        mem_free(listener);
        return status;
    }
    struct tcp_listener **bucket = &stack->tcp->listeners[bound.port % TCP_LISTENER_BUCKETS];
    listener->hash_next = *bucket;
    *bucket = listener;
    stack->tcp->n_listeners++;
    return listener->sock.id;
}

/* Is the peer's ACK of our SYN-ACK, if there is a peer, still to come? */
static bool half_open(const struct tcp_conn *conn)
{
    return conn->state == AMS_TCP_SYN_RECEIVED && !conn->deferred && !(conn->fastopen & FO_CHILD);
}

/* Ends a listener.  Connections that were not accepted are reset.  Half-open
 * ones go without a word, since their SYNs may have been forged: who does
 * answer our SYN-ACK finds nobody there (as with Linux). */
static void listener_close(struct ams_stack *stack, struct tcp_listener *listener)
{
    while (listener->children) {
        struct tcp_conn *conn = listener->children;
        if (half_open(conn))
            tcp_conn_free(stack, conn);
        else
            tcp_orphan_reset(stack, conn);
    }
    struct tcp_listener **slot = &stack->tcp->listeners[listener->local.port % TCP_LISTENER_BUCKETS];
    while (*slot != listener)
        slot = &(*slot)->hash_next;
    *slot = listener->hash_next;
    stack->tcp->n_listeners--;
    tcp_listener_release(stack, listener);
    sock_unregister(stack, &listener->sock);
    mem_free(listener);
}

int tcp_listener_close(struct ams_stack *stack, int id)
{
    struct tcp_listener *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (!listener)
        return -AMS_EBADF;
    listener_close(stack, listener);
    return 1;
}
