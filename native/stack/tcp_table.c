/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_table.c - the table of listeners, and the life of a TCB.
 *
 * Theory of operation.  Flows (connections and TIME-WAIT) are in one hash
 * table (tcp_flows.h).  Listeners are in a fixed one by port: a look-up tries
 * the exact address first, then the family's wildcard, then an IPv6 wildcard
 * that also takes IPv4.  Among listeners that share address and port, the one
 * of greatest weight for the remote end gets the connection.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

#define FREE_STOCK 16u /* cached TIME-WAIT entries that trimming leaves */

struct tcp_flow *tcp_flow_find(struct ams_stack *stack, const uint8_t local_ip[16], uint16_t local_port,
                               const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family)
{
    const struct tcp_flows *flows = &stack->tcp->flows;
    uint32_t hash = tcp_flow_hash(flows, local_ip, local_port, remote_ip, remote_port, family);
    return tcp_flows_get(flows, hash, local_ip, local_port, remote_ip, remote_port);
}

struct tcp_flow *tcp_flow_next(struct ams_stack *stack, const struct ams_frame *frame, const struct ip_info *ip,
                               uint16_t local_port, uint16_t remote_port)
{
    struct tcp_host *tcp = stack->tcp;
    struct tcp_flow *flow = tcp->latest;
    if (flow && tcp_flow_is(flow, ip->dst, local_port, ip->src, remote_port))
        return flow;
    uint32_t hash = frame->marks & TCP_MARK_HASHED
                        ? frame->aux
                        : tcp_flow_hash(&tcp->flows, ip->dst, local_port, ip->src, remote_port, ip->family);
    return tcp->latest = tcp_flows_get(&tcp->flows, hash, ip->dst, local_port, ip->src, remote_port);
}

/* Tells the owner of the tuples that a connection begins, or has ended. */
static void flow_tell(struct ams_stack *stack, const struct tcp_flow *flow, bool begins)
{
    struct ams_endpoint local = tcp_flow_local(flow), remote = tcp_flow_remote(flow);
    stack->owner.flow(stack->owner.ctx, &local, &remote, begins);
}

int tcp_flow_insert(struct ams_stack *stack, struct tcp_flow *flow)
{
    struct tcp_flows *flows = &stack->tcp->flows;
    if (flows->n >= stack->socks_limit + stack->config.max_time_wait)
        return -AMS_EMFILE;
    tcp_flows_add(flows, flow);
    if (stack->owner.flow && !flow->is_tw)
        flow_tell(stack, flow, true);
    return 0;
}

void tcp_flow_remove(struct ams_stack *stack, struct tcp_flow *flow)
{
    struct tcp_host *tcp = stack->tcp;
    if (tcp->latest == flow)
        tcp->latest = NULL;
    if (tcp_flows_remove(&tcp->flows, flow) && stack->owner.flow && !flow->is_tw)
        flow_tell(stack, flow, false);
}

struct tcp_conn *tcp_conn_new(struct ams_stack *stack, uint64_t now)
{
    struct tcp_host *tcp = stack->tcp;
    struct tcp_conn *conn = slab_new(&tcp->conns);
    if (!conn) {
        stack->counters.tcp_no_memory++;
        return NULL;
    }
    memset(conn, 0, sizeof(*conn));
    conn->sock.id = -1;
    conn->sock.kind = SOCK_TCP;
    conn->recs = conn->recs_inline;
    conn->rec_cap = TCP_RECS_INLINE;
    conn->sndbuf = stack->config.sndbuf;
    conn->rcvbuf = stack->config.rcvbuf;
    conn->rto = TCP_RTO_INITIAL;
    conn->keepidle = TCP_KEEPIDLE_DEFAULT;
    conn->keepintvl = TCP_KEEPINTVL_DEFAULT;
    conn->keepcnt = TCP_KEEPCNT_DEFAULT;
    conn->linger = -1;
    conn->flags = stack->config.flags & AMS_STACK_PACING ? CONN_PACING : 0;
    conn->cc = tcp->cc_default;
    conn->ssthresh = UINT32_MAX;
    conn->created = now;
    conn->timer.kind = STACK_TIMER_TCP;
    tcp->n_conns++;
    return conn;
}

void tcp_listener_forget(struct tcp_conn *conn)
{
    struct tcp_listener *listener = conn->listener;
    if (!listener)
        return;
    if (conn->state == AMS_TCP_SYN_RECEIVED)
        listener->embryonic--;
    else
        listener->waiting--;
    if (conn->child_prev)
        conn->child_prev->child_next = conn->child_next;
    else
        listener->children = conn->child_next;
    if (conn->child_next)
        conn->child_next->child_prev = conn->child_prev;
    conn->listener = NULL;
}

void tcp_conn_free(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct tcp_host *tcp = stack->tcp;
    tcp_fastopen_settled(stack, conn);
    tcp_listener_forget(conn);
    tcp_unlink_output(stack, conn);
    timer_cancel(&stack->wheel, &conn->timer);
    tcp_flow_remove(stack, &conn->flow);
    tcp_send_fini(stack, conn);
    tcp_receive_fini(stack, conn);
    tcp_recs_fini(stack, conn);
    tcp_cc_fini(stack, conn);
    tcp_option_fini(stack, conn);
    sock_unregister(stack, &conn->sock);
    if (conn->flags & CONN_CLAIMED) {
        struct ams_endpoint local = tcp_flow_local(&conn->flow);
        stack->owner.release(stack->owner.ctx, PROTO_TCP, &local);
    }
    tcp->n_conns--;
    slab_free(&tcp->conns, conn);
    tcp_idle(stack);
}

void tcp_idle(struct ams_stack *stack)
{
    if (!stack->tcp->n_conns && !stack->tcp->n_tw)
        stack->trim_at = 0;
}

/* How many of a cache's entries are to go. */
static uint32_t trim_count(uint32_t cached, bool all)
{
    uint32_t excess = cached > FREE_STOCK ? cached - FREE_STOCK : 0;
    return all ? excess : (excess + 3) / 4;
}

void tcp_trim(struct ams_stack *stack, bool all)
{
    struct tcp_host *tcp = stack->tcp;
    slab_trim(&tcp->conns, all);
    for (uint32_t i = 0; i < TCP_BOARDS; i++)
        slab_trim(&tcp->boards[i], all);
    for (uint32_t count = trim_count(tcp->n_free_tws, all); count; count--) {
        struct tcp_tw *tw = tcp->free_tws;
        tcp->free_tws = tw->newer;
        tcp->n_free_tws--;
        tcp->memory -= sizeof(*tw);
        mem_free(tw);
    }
}

int tcp_claim(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct ams_endpoint local = tcp_flow_local(&conn->flow);
    int status = stack->owner.claim(stack->owner.ctx, PROTO_TCP, &local);
    if (status == 0)
        conn->flags |= CONN_CLAIMED;
    return status;
}

/* True if a listener that is bound to `bound` takes segments to ip. */
static int listener_score(const struct tcp_listener *listener, const uint8_t ip[16], uint8_t family)
{
    if (ip_equal(listener->local.ip, ip))
        return 3;
    if (!ip_is_any(listener->local.ip))
        return 0;
    if (listener->local.family == family)
        return 2;
    return listener->local.family == AMS_IPV6 && !(listener->flags & AMS_LISTEN_V6ONLY) ? 1 : 0;
}

struct tcp_listener *tcp_listener_find(struct ams_stack *stack, const uint8_t local_ip[16], uint16_t port,
                                       const uint8_t remote_ip[16], uint16_t remote_port, uint8_t family)
{
    struct tcp_listener *best = NULL;
    int best_score = 0;
    struct tcp_listener *listener = stack->tcp->listeners[port % TCP_LISTENER_BUCKETS];
    for (; listener; listener = listener->hash_next) {
        if (listener->local.port != port)
            continue;
        int score = listener_score(listener, local_ip, family);
        if (score > best_score ||
            (score && score == best_score && /* they share the port */
             sock_weight(stack, &listener->sock, remote_ip, remote_port) >
                 sock_weight(stack, &best->sock, remote_ip, remote_port))) {
            best = listener;
            best_score = score;
        }
    }
    return best;
}

uint32_t tcp_isn(struct ams_stack *stack, const struct tcp_flow *flow, uint64_t now)
{
    uint64_t words[5];
    memcpy(words, flow->local_ip, 16);
    memcpy(words + 2, flow->remote_ip, 16);
    words[4] = (uint64_t)flow->local_port << 16 | flow->remote_port;
    /* RFC 6528 section 3: M + F(...), M ticking every 4 microseconds */
    return (uint32_t)(now / 4000) + (uint32_t)siphash24(&stack->tcp->isn_key, words, 5);
}

int tcp_ephemeral_port(struct ams_stack *stack, struct tcp_flow *flow)
{
    uint32_t low, range;
    uint64_t words[5];
    int status;
    memcpy(words, flow->local_ip, 16);
    memcpy(words + 2, flow->remote_ip, 16);
    words[4] = flow->remote_port;
    /* RFC 6056 section 3.3.3: an offset per destination plus a counter; the
     * counter's place is taken by a random step, as in section 3.3.5. */
    for (bool more = false; (status = stack_ephemeral(stack, more, &low, &range)) == 0; more = true) {
        uint32_t offset = (uint32_t)siphash13(&stack->tcp->port_key, words, 5) + rng_below(&stack->rng, range);
        if (flow->local_port >= low && flow->local_port - low < range) /* it is taken: the next one */
            offset = flow->local_port - low + 1u;
        for (uint32_t i = 0; i < range; i++) {
            uint16_t port = (uint16_t)(low + (offset + i) % range);
            if (tcp_flow_find(stack, flow->local_ip, port, flow->remote_ip, flow->remote_port, flow->family) ||
                tcp_listener_find(stack, flow->local_ip, port, flow->remote_ip, flow->remote_port, flow->family))
                continue;
            flow->local_port = port;
            return 0;
        }
    }
    return status;
}

/* Fills in what the configuration left open. */
static void retry_defaults(struct ams_stack_config *config)
{
    config->syn_retries = config->syn_retries ? ams_min_u32(config->syn_retries, 127) : TCP_SYN_RETRIES;
    config->rto_max_ms = ams_max_u32(config->rto_max_ms ? config->rto_max_ms : TCP_RTO_MAX_S * 1000u, config->rto_min_ms);
    config->syn_backlog = config->syn_backlog ? config->syn_backlog : TCP_SYN_BACKLOG;
    config->min_tso_segs = config->min_tso_segs ? config->min_tso_segs : 2;
    config->fastopen = config->fastopen ? config->fastopen : AMS_FASTOPEN_CLIENT | AMS_FASTOPEN_SERVER;
    config->synack_retries = config->synack_retries ? ams_min_u32(config->synack_retries, 127) : TCP_SYNACK_RETRIES;
}

/* Fills in the buffer sizes that the configuration left open: at least one
 * socket buffer fits below its maximum. */
static void buffer_defaults(struct ams_stack_config *config)
{
    config->sndbuf = config->sndbuf ? ams_max_u32(config->sndbuf, 4096) : TCP_SNDBUF_DEFAULT;
    config->rcvbuf = config->rcvbuf ? ams_max_u32(config->rcvbuf, 4096) : TCP_RCVBUF_DEFAULT;
    config->sndbuf_max = ams_max_u32(config->sndbuf_max ? config->sndbuf_max : TCP_SNDBUF_MAX, config->sndbuf);
    config->rcvbuf_max = ams_max_u32(config->rcvbuf_max ? config->rcvbuf_max : TCP_RCVBUF_MAX, config->rcvbuf);
    /* beyond 2^30 - 1 bytes sequence numbers could not be told apart */
    config->sndbuf_max = ams_min_u32(config->sndbuf_max, 1u << 29);
    config->rcvbuf_max = ams_min_u32(config->rcvbuf_max, 1u << 29);
    config->sndbuf = ams_min_u32(config->sndbuf, config->sndbuf_max);
    config->rcvbuf = ams_min_u32(config->rcvbuf, config->rcvbuf_max);
}

/* The key of Fast Open's cookies: the configured one, or one from the seed. */
static void fastopen_key(struct ams_stack *stack)
{
    static const uint8_t none[16];
    struct siphash_key *key = &stack->tcp->fastopen_key;
    const uint8_t *given = stack->config.fastopen_key;
    key->k[0] = rng_next(&stack->rng);
    key->k[1] = rng_next(&stack->rng);
    if (memcmp(given, none, sizeof(none)) == 0)
        return;
    tcp_fastopen_key(given, key);
}

int tcp_init(struct ams_stack *stack)
{
    buffer_defaults(&stack->config);
    retry_defaults(&stack->config);
    struct tcp_host *tcp = mem_zalloc(1, sizeof(*tcp));
    if (!tcp)
        return -AMS_ENOMEM;
    stack->tcp = tcp;
    slab_init(&tcp->conns, sizeof(struct tcp_conn), stack->settle);
    tcp_boards_init(stack);
    int table = tcp_flows_init(&tcp->flows, &stack->key, stack->settle);
    const char *name = stack->config.congestion;
    tcp->cc_default = tcp_cc_find(stack, name ? name : "cubic");
    int status = tcp->cc_default && stack->config.ecn <= AMS_ECN_ACCURATE_ACCEPT &&
                         stack->config.accecn_options <= AMS_ACCECN_NEVER &&
                         stack->config.syn_cookies <= AMS_SYN_COOKIES_ALWAYS
                     ? 0
                     : -AMS_EINVAL;
    tcp->heads = mem_zalloc(TCP_HEADS, TCP_HEAD_SIZE);
    if (table < 0 || !tcp->heads)
        status = -AMS_ENOMEM;
    if (status < 0) {
        tcp_fini(stack);
        return status;
    }
    tcp->memory = sizeof(*tcp);
    tcp->isn_key.k[0] = rng_next(&stack->rng);
    tcp->isn_key.k[1] = rng_next(&stack->rng);
    tcp->port_key.k[0] = rng_next(&stack->rng);
    tcp->port_key.k[1] = rng_next(&stack->rng);
    fastopen_key(stack);
    tcp_option_init(stack);
    tcp->cookie_key.k[0] = rng_next(&stack->rng);
    tcp->cookie_key.k[1] = rng_next(&stack->rng);
    return 0;
}

/* Frees every flow of every kind. */
static void flows_free(struct ams_stack *stack)
{
    struct tcp_host *tcp = stack->tcp;
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&tcp->flows, &walk));)
        if (flow->is_tw)
            tcp_tw_free(stack, (struct tcp_tw *)flow);
        else
            tcp_conn_free(stack, tcp_conn_of(flow));
}

void tcp_fini(struct ams_stack *stack)
{
    struct tcp_host *tcp = stack->tcp;
    if (!tcp)
        return;
    flows_free(stack);
    /* connections that were dropped but not yet reported are in no table */
    for (uint32_t i = 0; i < stack->n_socks; i++)
        if (stack->socks[i] && stack->socks[i]->kind == SOCK_TCP)
            tcp_conn_free(stack, (struct tcp_conn *)stack->socks[i]);
    for (uint32_t i = 0; i < TCP_LISTENER_BUCKETS; i++)
        while (tcp->listeners[i]) {
            struct tcp_listener *listener = tcp->listeners[i];
            tcp->listeners[i] = listener->hash_next;
            tcp_listener_release(stack, listener);
            sock_unregister(stack, &listener->sock);
            mem_free(listener);
        }
    slab_fini(&tcp->conns);
    for (uint32_t i = 0; i < TCP_BOARDS; i++)
        slab_fini(&tcp->boards[i]);
    while (tcp->free_tws) {
        struct tcp_tw *tw = tcp->free_tws;
        tcp->free_tws = tw->newer;
        mem_free(tw);
    }
    tcp_cc_external_fini(tcp);
    tcp_fastopen_fini(stack);
    tcp_flows_fini(&tcp->flows);
    mem_free(tcp->heads);
    mem_free(tcp);
    stack->tcp = NULL;
}
