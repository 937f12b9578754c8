/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_fastopen.c - TCP Fast Open (RFC 7413), client and server.
 *
 * Theory of operation.  Client: what servers said is kept in a small table,
 * direct-mapped by a keyed hash of the server's address, so that it cannot
 * grow and an attacker cannot aim at an entry.  A connection that asks for
 * Fast Open holds its SYN back until data is queued if there is a cookie;
 * otherwise its SYN asks for one.  Only the first SYN has data and the
 * option: a repeated one is plain, because a middlebox may have eaten the
 * first (section 4.1.3), and a server that loses such SYNs gets none for a
 * time that doubles.
 *
 * Server: a cookie is the SipHash of both addresses under a secret key
 * (section 4.1.2), so it needs no state.  A SYN with a good one makes a
 * connection that the application gets at once, in SYN_RECEIVED, with the
 * SYN's data; it may answer before the handshake is done.  How many may be
 * in that state is bounded by listener (section 5.1), and beyond the bound,
 * or with a bad cookie, the SYN is answered as any other.
 *
 * Such a child's snd_una is past its SYN from the start: its SYN-ACK is
 * repeated by state and timer, not because of sequence numbers.
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/tcp.h"

#define ENTRIES 1024u
#define COOKIE_LENGTH 8u
#define LOSS_PENALTY (60 * AMS_NS_PER_S) /* without data in SYNs after they were lost; doubles */
#define LOSSES_FORGIVEN 1u
#define OPTION_SPACE 40u

/* What is known of one server. */
struct tcp_fastopen_entry {
    uint8_t remote_ip[16];
    uint64_t lost_at;         /* when a SYN with data was lost last */
    uint16_t mss;             /* 0: the entry is empty */
    uint8_t losses;
    uint8_t form;             /* of the next request: 0 or 2 RFC 7413's, 1 experimental */
    uint8_t cookie_kind;      /* as it came */
    uint8_t cookie_len;
    uint8_t cookie[TCP_FASTOPEN_COOKIE_MAX];
};

/* ---- client ---------------------------------------------------------------------- */

static uint32_t entry_index(const struct ams_stack *stack, const uint8_t remote_ip[16])
{
    uint64_t words[2];
    memcpy(words, remote_ip, 16);
    return (uint32_t)siphash13(&stack->key, words, 2) % ENTRIES;
}

/* What is known of a server; NULL if nothing. */
static struct tcp_fastopen_entry *entry_find(const struct ams_stack *stack, const uint8_t remote_ip[16])
{
    if (!stack->tcp->fastopen_cache)
        return NULL;
    struct tcp_fastopen_entry *entry = &stack->tcp->fastopen_cache[entry_index(stack, remote_ip)];
    return entry->mss && ip_equal(entry->remote_ip, remote_ip) ? entry : NULL;
}

/* The entry of a server, emptied if it was another's.  NULL: no memory. */
static struct tcp_fastopen_entry *entry_take(struct ams_stack *stack, const uint8_t remote_ip[16])
{
    struct tcp_host *tcp = stack->tcp;
    if (!tcp->fastopen_cache) {
        tcp->fastopen_cache = mem_zalloc(ENTRIES, sizeof(*tcp->fastopen_cache));
        if (!tcp->fastopen_cache)
            return NULL;
        tcp->memory += ENTRIES * sizeof(*tcp->fastopen_cache);
    }
    struct tcp_fastopen_entry *entry = &tcp->fastopen_cache[entry_index(stack, remote_ip)];
    if (!entry->mss || !ip_equal(entry->remote_ip, remote_ip)) {
        memset(entry, 0, sizeof(*entry));
        memcpy(entry->remote_ip, remote_ip, 16);
    }
    return entry;
}

void tcp_fastopen_forget(struct ams_stack *stack)
{
    if (stack->tcp->fastopen_cache)
        memset(stack->tcp->fastopen_cache, 0, ENTRIES * sizeof(*stack->tcp->fastopen_cache));
}

void tcp_fastopen_fini(struct ams_stack *stack)
{
    mem_free(stack->tcp->fastopen_cache);
    stack->tcp->fastopen_cache = NULL;
}

static bool no_cookie_needed(const struct ams_stack *stack)
{
    return stack->config.fastopen & AMS_FASTOPEN_CLIENT_NO_COOKIE;
}

/* True while SYNs with data to this server get lost. */
static bool punished(const struct tcp_fastopen_entry *entry, uint64_t now)
{
    if (!entry || entry->losses <= LOSSES_FORGIVEN)
        return false;
    unsigned shift = entry->losses > 10 ? 10 : entry->losses;
    return now - entry->lost_at < LOSS_PENALTY << shift;
}

/* True if the first SYN may carry data. */
static bool data_allowed(struct ams_stack *stack, const struct tcp_conn *conn)
{
    const struct tcp_fastopen_entry *entry = entry_find(stack, conn->flow.remote_ip);
    if (punished(entry, stack->now))
        return false;
    return no_cookie_needed(stack) || (entry && entry->cookie_len);
}

int tcp_fastopen_ask(struct ams_stack *stack, struct tcp_conn *conn, int value)
{
    if (value < 0 || value > 2)
        return -AMS_EINVAL;
    if (!(stack->config.fastopen & AMS_FASTOPEN_CLIENT))
        return -AMS_EOPNOTSUPP;
    if (conn->state != AMS_TCP_SYN_SENT || conn->snd_nxt != conn->iss)
        return -AMS_EINVAL;
    conn->fastopen &= (uint8_t)~(FO_ASKED | FO_WAIT);
    if (value)
        conn->fastopen |= FO_ASKED;
    if (value == 1 && data_allowed(stack, conn))
        conn->fastopen |= FO_WAIT;
    return 0;
}

/* Bytes queued before the SYN has gone. */
static uint32_t queued(const struct tcp_conn *conn)
{
    return conn->snd_end - (conn->iss + 1);
}

bool tcp_fastopen_waits(const struct tcp_conn *conn)
{
    return conn->fastopen & FO_WAIT && conn->state == AMS_TCP_SYN_SENT && conn->snd_nxt == conn->iss &&
           !queued(conn) && !(conn->flags & CONN_FIN_QUEUED);
}

uint32_t tcp_fastopen_room(struct ams_stack *stack, const struct tcp_conn *conn)
{
    if (!(conn->fastopen & FO_ASKED) || !data_allowed(stack, conn))
        return 0;
    const struct tcp_fastopen_entry *entry = entry_find(stack, conn->flow.remote_ip);
    uint32_t headers = (conn->flow.family == AMS_IPV4 ? IP4_HEADER : IP6_HEADER) + TCP_HEADER;
    uint32_t mss = conn->path.mtu > headers ? conn->path.mtu - headers : 0;
    uint32_t fallback = conn->flow.family == AMS_IPV4 ? TCP_MSS_DEFAULT4 : TCP_MSS_DEFAULT6;
    mss = ams_min_u32(mss, entry ? entry->mss : no_cookie_needed(stack) ? mss : fallback);
    if (conn->maxseg)
        mss = ams_min_u32(mss, conn->maxseg);
    return mss > OPTION_SPACE ? mss - OPTION_SPACE : 0;
}

uint32_t tcp_fastopen_syn(struct ams_stack *stack, struct tcp_conn *conn, struct tcp_repr *repr)
{
    const struct tcp_fastopen_entry *entry = entry_find(stack, conn->flow.remote_ip);
    conn->fastopen &= (uint8_t)~FO_WAIT;
    if (punished(entry, stack->now))
        return 0;
    bool cookie = entry && entry->cookie_len;
    if (cookie || !no_cookie_needed(stack)) {
        repr->fastopen_kind = cookie ? entry->cookie_kind
                              : entry && entry->form == 1 ? TCP_OPT_EXPERIMENTAL
                                                          : TCP_OPT_FASTOPEN;
        if (cookie) {
            repr->fastopen_len = entry->cookie_len;
            memcpy(repr->fastopen, entry->cookie, entry->cookie_len);
        }
        conn->fastopen |= FO_OPTION | (repr->fastopen_kind == TCP_OPT_EXPERIMENTAL ? FO_EXPERIMENTAL : 0);
    }
    return ams_min_u32(queued(conn), tcp_fastopen_room(stack, conn));
}

/* Keeps what the SYN-ACK says (section 4.1.3). */
static void learn(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, bool repeated, bool lost,
                  uint64_t now)
{
    bool cookie = conn->fastopen & FO_OPTION && seg->fastopen_kind && seg->fastopen_len;
    bool refused = conn->fastopen & FO_OPTION && !cookie && !(conn->fastopen & FO_DATA) && !repeated;
    struct tcp_fastopen_entry *entry = entry_take(stack, conn->flow.remote_ip);
    if (!entry)
        return;
    entry->mss = (uint16_t)ams_max_u32(conn->mss_peer, 1);
    if (cookie) {
        entry->cookie_kind = seg->fastopen_kind;
        entry->cookie_len = seg->fastopen_len;
        memcpy(entry->cookie, seg->fastopen, seg->fastopen_len);
    } else if (refused && entry->form != 2) {
        entry->form = conn->fastopen & FO_EXPERIMENTAL ? 2 : 1;
    }
    if (lost) {
        entry->losses = entry->losses < UINT8_MAX ? entry->losses + 1 : UINT8_MAX;
        entry->lost_at = now;
    } else {
        entry->losses = 0;
    }
}

void tcp_fastopen_synack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, bool repeated,
                         uint64_t now)
{
    bool unacked = conn->fastopen & FO_DATA && conn->snd_una != conn->snd_nxt;
    bool lost = repeated && unacked && !(seg->fastopen_kind && seg->fastopen_len);
    if (conn->fastopen & (FO_OPTION | FO_DATA))
        learn(stack, conn, seg, repeated, lost, now);
    if (unacked) {
        tcp_recovery_resend(stack, conn, now);
    } else if (conn->fastopen & FO_DATA) {
        conn->fastopen |= FO_ACCEPTED;
        conn->delivered_segs = 0; /* it came in the SYN, which is counted */
    }
}

/* ---- server -------------------------------------------------------------------------- */

void tcp_fastopen_key(const uint8_t given[16], struct siphash_key *key)
{
    *key = (struct siphash_key){{0, 0}};
    for (int i = 0; i < 16; i++)
        key->k[i / 8] |= (uint64_t)given[i] << 8 * (i % 8);
}

int ams_tcp_fastopen_key(struct ams_stack *stack, int id, const uint8_t *key, size_t length)
{
    struct tcp_listener *listener = (struct tcp_listener *)sock_find(stack, id, SOCK_LISTENER);
    if (!listener)
        return -AMS_EBADF;
    if (length != 16)
        return -AMS_EINVAL;
    tcp_fastopen_key(key, &listener->fastopen_key);
    listener->fastopen_own_key = true;
    return 0;
}

/* The cookie of a client (section 4.1.2). */
static void cookie_make(const struct ams_stack *stack, const struct tcp_conn *conn, uint8_t out[COOKIE_LENGTH])
{
    const struct tcp_flow *flow = &conn->flow;
    bool own = conn->listener && conn->listener->fastopen_own_key;
    const struct siphash_key *key = own ? &conn->listener->fastopen_key : &stack->tcp->fastopen_key;
    uint64_t words[4], hash;
    if (flow->family == AMS_IPV4) {
        memcpy(words, flow->remote_ip + 12, 4);
        memcpy((uint8_t *)words + 4, flow->local_ip + 12, 4);
        hash = siphash24(key, words, 1);
    } else {
        memcpy(words, flow->remote_ip, 16);
        memcpy(words + 2, flow->local_ip, 16);
        hash = siphash24(key, words, 4);
    }
    for (uint32_t i = 0; i < COOKIE_LENGTH; i++)
        out[i] = (uint8_t)(hash >> 8 * i);
}

void tcp_fastopen_reply(struct ams_stack *stack, const struct tcp_conn *conn, struct tcp_repr *repr)
{
    repr->fastopen_kind = conn->fastopen & FO_EXPERIMENTAL ? TCP_OPT_EXPERIMENTAL : TCP_OPT_FASTOPEN;
    repr->fastopen_len = COOKIE_LENGTH;
    cookie_make(stack, conn, repr->fastopen);
}

/* Children that may be open before their handshake is done. */
static uint32_t child_limit(const struct ams_stack *stack, const struct tcp_listener *listener)
{
    if (!(stack->config.fastopen & AMS_FASTOPEN_SERVER))
        return 0;
    if (listener->fastopen_limit)
        return listener->fastopen_limit;
    return stack->config.fastopen & AMS_FASTOPEN_LISTENERS ? listener->backlog : 0;
}

/* Is the SYN's cookie good?  If not, a cookie is owed. */
static bool cookie_good(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg)
{
    uint8_t cookie[COOKIE_LENGTH];
    if (stack->config.fastopen & AMS_FASTOPEN_SERVER_NO_COOKIE)
        return true;
    if (!seg->fastopen_kind)
        return false;
    cookie_make(stack, conn, cookie);
    if (seg->fastopen_len == COOKIE_LENGTH && memcmp(cookie, seg->fastopen, COOKIE_LENGTH) == 0)
        return true;
    conn->fastopen |= FO_REPLY | (seg->fastopen_kind == TCP_OPT_EXPERIMENTAL ? FO_EXPERIMENTAL : 0);
    return false;
}

void tcp_fastopen_child(struct ams_stack *stack, struct tcp_listener *listener, struct tcp_conn *conn,
                        const struct tcp_repr *seg, struct ams_frame **frame, uint64_t now)
{
    uint32_t payload = frame && *frame ? (*frame)->len : 0;
    if (!seg->fastopen_kind && !payload)
        return;
    if (listener->fastopen_pending >= child_limit(stack, listener) || !cookie_good(stack, conn, seg))
        return;
    if (listener->waiting + listener->fastopen_pending >= ams_max_u32(listener->backlog, 1) ||
        sock_register(stack, &conn->sock, SOCK_TCP) < 0)
        return;
    listener->fastopen_pending++;
    conn->fastopen |= FO_CHILD | (payload ? FO_ACCEPTED : 0);
    conn->snd_una = conn->iss + 1;
    conn->snd_wl1 = seg->seq;
    conn->recover = conn->lost_hint = conn->rexmit_hint = conn->retrans_high = conn->snd_una;
    conn->rcv_space_at = now;
    tcp_cc_start(stack, conn, now);
    stack->counters.tcp_fastopen_passive++;
    sock_event(stack, &conn->sock, AMS_EV_ACCEPTED);
    if (payload) {
        tcp_receive(stack, conn, *frame, seg->seq + 1, false, now);
        conn->data_rcv_at = 0; /* it says nothing of how the peer will send (as Linux) */
        *frame = NULL;
        sock_event(stack, &conn->sock, AMS_EV_DATA);
    }
}

void tcp_fastopen_settled(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (!(conn->fastopen & FO_CHILD))
        return;
    conn->fastopen &= (uint8_t)~FO_CHILD;
    struct tcp_flow *flow = &conn->flow;
    struct tcp_listener *listener = tcp_listener_find(stack, flow->local_ip, flow->local_port, flow->remote_ip,
                                                      flow->remote_port, flow->family);
    if (listener && !listener->fastopen_pending && listener->flags & AMS_LISTEN_REUSEPORT)
        for (listener = stack->tcp->listeners[flow->local_port % TCP_LISTENER_BUCKETS]; listener;
             listener = listener->hash_next) /* the group has changed since: it is one of the others */
            if (listener->local.port == flow->local_port && listener->fastopen_pending)
                break;
    if (listener && listener->fastopen_pending)
        listener->fastopen_pending--;
}
