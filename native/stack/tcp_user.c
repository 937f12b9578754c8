/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_user.c - what the application asks of a connection (RFC 9293 section
 * 3.9), and what it is told.
 *
 * Life of an id.  It is the application's from AMS_EV_ACCEPTED or
 * ams_tcp_connect() until ams_tcp_close()/ams_tcp_abort() returned 1, or
 * returned 0 and AMS_EV_RELEASED was reported.  AMS_EV_CLOSED tells that
 * the connection has ended by itself; the id is still the application's to
 * close.  It comes after the data that was received, but for an application
 * that doesn't read and has more to send than the buffer took: that one would
 * wait for ever, and a kernel's send() tells it, too.  After a close the TCB lives on without an id (an orphan) until
 * the peer has everything.
 */
#include <string.h>

#include "stack/neighbor.h"
#include "stack/route.h"
#include "stack/tcp.h"

#define CLAIM_TRIES 256u /* ephemeral ports asked for in vain before an active open fails */

static struct tcp_conn *conn_of(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    return conn && !(conn->flags & CONN_ORPHAN) ? conn : NULL;
}

uint8_t tcp_choose_wscale(uint32_t rcvbuf_max)
{
    uint8_t shift = 0;
    while (shift < 14 && (65535u << shift) < rcvbuf_max)
        shift++;
    return shift;
}

uint32_t tcp_ts_offset(const struct ams_stack *stack, const struct tcp_flow *flow)
{
    uint64_t words[4];
    memcpy(words, flow->local_ip, 16);
    memcpy(words + 2, flow->remote_ip, 16);
    return (uint32_t)siphash24(&stack->tcp->isn_key, words, 4);
}

void tcp_conn_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    conn->ts_offset = tcp_ts_offset(stack, &conn->flow);
    conn->iss = tcp_isn(stack, &conn->flow, now);
    conn->snd_una = conn->snd_nxt = conn->iss;
    conn->snd_end = conn->iss + 1;
    conn->snd_short = conn->iss;
    uint32_t refused = stack->config.flags;
    conn->flags |= (refused & AMS_STACK_NO_TIMESTAMPS ? 0 : CONN_TS_OK) | (refused & AMS_STACK_NO_SACK ? 0 : CONN_SACK_OK) |
                   (refused & AMS_STACK_NO_WSCALE ? 0 : CONN_WSCALE_OK);
    if (conn->flags & CONN_WSCALE_OK)
        conn->rcv_wscale = tcp_choose_wscale(ams_max_u32(stack->config.rcvbuf_max, conn->rcvbuf));
    conn->first_unacked_at = now;
}

/* Fills in the addresses of an active open.  Return: 0 or a status. */
static int connect_addresses(struct ams_stack *stack, struct tcp_conn *conn, const struct ams_endpoint *local,
                             const struct ams_endpoint *remote)
{
    struct tcp_flow *flow = &conn->flow;
    if (remote->family != AMS_IPV4 && remote->family != AMS_IPV6)
        return -AMS_EAFNOSUPPORT;
    if (!remote->port || ip_is_any(remote->ip))
        return -AMS_EADDRNOTAVAIL;
    flow->family = (uint8_t)remote->family;
    flow->remote_port = remote->port;
    memcpy(flow->remote_ip, remote->ip, 16);
    int status = ip_path_find(stack, remote->ip, &conn->path);
    if (status < 0)
        return status;
    if (conn->path.neighbor->kind == ROUTE_GROUP) /* RFC 9293 section 3.9.2.3, MUST-46 */
        return -AMS_ENETUNREACH;
    if (local && !ip_is_any(local->ip)) {
        if (!iface_owns(stack, local->ip))
            return -AMS_EADDRNOTAVAIL;
        memcpy(flow->local_ip, local->ip, 16);
    } else if (!iface_source(stack, remote->ip, flow->local_ip)) {
        return -AMS_EADDRNOTAVAIL;
    }
    if (local && local->port) {
        flow->local_port = local->port;
        return tcp_flow_find(stack, flow->local_ip, flow->local_port, flow->remote_ip, flow->remote_port, flow->family)
                   ? -AMS_EADDRINUSE
                   : 0;
    }
    return tcp_ephemeral_port(stack, flow);
}

/* Claims the local tuple.  An ephemeral port that another owner has, such as
 * an application of the operating system, is exchanged for the next one.
 * @fixed: the port was asked for
 * Return: 0 or a status. */
static int connect_claim(struct ams_stack *stack, struct tcp_conn *conn, bool fixed)
{
    uint32_t range = stack->config.ephemeral_high - stack->config.ephemeral_low + 1u;
    uint32_t tries = fixed ? 1 : ams_min_u32(range, CLAIM_TRIES);
    int status = tcp_claim(stack, conn);

    while (status == -AMS_EADDRINUSE && --tries) {
        status = tcp_ephemeral_port(stack, &conn->flow);
        if (status == 0)
            status = tcp_claim(stack, conn);
    }
    return status == -AMS_EADDRINUSE && !fixed ? -AMS_EADDRNOTAVAIL : status;
}

int ams_tcp_connect(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                    uint64_t now)
{
    stack->now = now = ams_max_u64(now, stack->now);
    struct tcp_conn *conn = tcp_conn_new(stack, now);
    if (!conn)
        return -AMS_ENOMEM;
    int status = connect_addresses(stack, conn, local, remote);
    if (status == 0)
        status = connect_claim(stack, conn, local && local->port);
    if (status == 0)
        status = tcp_flow_insert(stack, &conn->flow);
    if (status == 0)
        status = sock_register(stack, &conn->sock, SOCK_TCP);
    if (status < 0) {
        tcp_conn_free(stack, conn);
        return status;
    }
    tcp_conn_start(stack, conn, now);
    conn->state = AMS_TCP_SYN_SENT;
    conn->mss_peer = 65535;
    tcp_update_mss(conn);
    conn->flags |= CONN_SYN_NOW;
    stack->counters.tcp_active_open++;
    tcp_want_output(stack, conn);
    return conn->sock.id;
}

/* ---- reading ------------------------------------------------------------------ */

/* Takes n bytes off the in-order queue. */
static void queue_consume(struct ams_stack *stack, struct tcp_conn *conn, uint32_t n)
{
    uint32_t left = n;
    while (left) {
        struct ams_frame *frame = conn->rcv_head;
        uint32_t part = ams_min_u32(left, frame->len);
        frame_pull(frame, part);
        left -= part;
        if (!frame->len) {
            conn->rcv_head = frame->next;
            if (!conn->rcv_head)
                conn->rcv_tail = NULL;
            frame_free(frame);
        }
    }
    tcp_receive_consumed(stack, conn, n, stack->now);
}

/* Is the news of the connection's end held back until the queue is empty? */
static bool end_waits(const struct tcp_conn *conn)
{
    bool writes_only = conn->flags & CONN_WANT_DRAIN && conn->sock.read_mode == AMS_READ_PAUSED;
    return conn->rcv_queued && !writes_only;
}

/* Events that were held back until the queue was empty. */
static void queue_emptied(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->rcv_queued)
        return;
    if (conn->flags & CONN_FIN_RECEIVED && !(conn->flags & CONN_EOF_REPORTED))
        sock_event(stack, &conn->sock, AMS_EV_EOF);
    if (conn->flags & CONN_DEAD && conn->sock.events & AMS_EV_CLOSED)
        sock_event(stack, &conn->sock, AMS_EV_CLOSED);
}

const char *ams_tcp_peek(struct ams_stack *stack, int id, size_t *length)
{
    struct tcp_conn *conn = conn_of(stack, id);
    *length = 0;
    if (!conn || !conn->rcv_head)
        return NULL;
    *length = conn->rcv_head->len;
    return (const char *)conn->rcv_head->data;
}

int ams_tcp_consume(struct ams_stack *stack, int id, size_t length)
{
    struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return -AMS_EBADF;
    if (length > conn->rcv_queued)
        return -AMS_EINVAL;
    queue_consume(stack, conn, (uint32_t)length);
    queue_emptied(stack, conn);
    return 0;
}

/* Copies up to size bytes of the in-order queue.  Return: how many. */
static uint32_t queue_copy(const struct tcp_conn *conn, char *buffer, size_t size)
{
    uint32_t done = 0;
    for (struct ams_frame *frame = conn->rcv_head; frame && done < size; frame = frame->next) {
        uint32_t n = frame->len < size - done ? frame->len : (uint32_t)(size - done);
        memcpy(buffer + done, frame->data, n);
        done += n;
    }
    return done;
}

/* Copies up to size bytes out and consumes them.  Return: how many. */
static uint32_t queue_read(struct ams_stack *stack, struct tcp_conn *conn, char *buffer, size_t size)
{
    uint32_t done = queue_copy(conn, buffer, size);
    if (done)
        queue_consume(stack, conn, done);
    return done;
}

int ams_tcp_copy(struct ams_stack *stack, int id, char *buffer, size_t size)
{
    const struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return -AMS_EBADF;
    return (int)queue_copy(conn, buffer, size > INT32_MAX ? INT32_MAX : size);
}

int ams_tcp_recv(struct ams_stack *stack, int id, char *buffer, size_t size)
{
    struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return -AMS_EBADF;
    uint32_t n = queue_read(stack, conn, buffer, size > INT32_MAX ? INT32_MAX : size);
    if (n)
        queue_emptied(stack, conn);
    return (int)n;
}

int ams_tcp_set_reading(struct ams_stack *stack, int id, int mode)
{
    struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return -AMS_EBADF;
    if (mode < AMS_READ_BLOB || mode > AMS_READ_PAUSED)
        return -AMS_EINVAL;
    conn->sock.read_mode = (uint8_t)mode;
    if (mode == AMS_READ_PAUSED) {
        if (conn->sock.events & AMS_EV_CLOSED && !end_waits(conn))
            sock_event(stack, &conn->sock, AMS_EV_CLOSED);
        return 0;
    }
    if (conn->rcv_queued)
        sock_event(stack, &conn->sock, AMS_EV_DATA);
    queue_emptied(stack, conn);
    return 0;
}

/* ---- closing --------------------------------------------------------------------- */

/* Queues the FIN (section 3.10.4). */
static void queue_fin(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (conn->flags & CONN_FIN_QUEUED)
        return;
    conn->flags |= CONN_FIN_QUEUED;
    if (conn->state == AMS_TCP_ESTABLISHED)
        conn->state = AMS_TCP_FIN_WAIT_1;
    else if (conn->state == AMS_TCP_CLOSE_WAIT)
        conn->state = AMS_TCP_LAST_ACK;
    tcp_want_output(stack, conn);
}

int ams_tcp_shutdown(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return -AMS_EBADF;
    if (conn->flags & CONN_DEAD)
        return -AMS_ENOTCONN;
    queue_fin(stack, conn);
    return 0;
}

/* The application lets go.  Return: 1 if the id is free now, else 0. */
static int let_go(struct ams_stack *stack, struct tcp_conn *conn)
{
    conn->flags |= CONN_ORPHAN | CONN_RCV_SHUT;
    conn->flags &= ~CONN_WANT_DRAIN;
    conn->sock.events &= AMS_EV_REFS;
    if (conn->refs_held || conn->refs_released) {
        if (!conn->refs_held)
            sock_event(stack, &conn->sock, AMS_EV_REFS | AMS_EV_RELEASED);
        return 0;
    }
    sock_unregister(stack, &conn->sock);
    return 1;
}

void tcp_orphan_reset(struct ams_stack *stack, struct tcp_conn *conn)
{
    tcp_listener_forget(conn);
    conn->flags |= CONN_ORPHAN | CONN_RCV_SHUT;
    sock_unregister(stack, &conn->sock);
    if (conn->flags & CONN_DEAD || conn->snd_nxt == conn->iss)
        tcp_conn_free(stack, conn);
    else
        tcp_reset(stack, conn);
}

/* Ends a connection by RST.  The TCB goes once that was sent. */
static int abort_now(struct ams_stack *stack, struct tcp_conn *conn)
{
    bool silent = conn->flags & CONN_DEAD || conn->state == AMS_TCP_SYN_SENT || conn->state == AMS_TCP_TIME_WAIT ||
                  (conn->state == AMS_TCP_LAST_ACK && conn->snd_una == conn->snd_nxt && conn->flags & CONN_FIN_SENT);
    if (!silent) {
        int freed;
        tcp_send_fini(stack, conn); /* releases what is referenced; records stay for snd_nxt */
        conn->snd_end = conn->snd_nxt;
        freed = let_go(stack, conn);
        tcp_reset(stack, conn);
        return freed;
    }
    bool was_dead = conn->flags & CONN_DEAD;
    if (!was_dead)
        tcp_send_fini(stack, conn);
    int freed = let_go(stack, conn);
    if (freed)
        tcp_conn_free(stack, conn);
    else if (!was_dead)
        tcp_drop(stack, conn, 0);
    return freed;
}

int ams_tcp_abort(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = conn_of(stack, id);
    return conn ? abort_now(stack, conn) : -AMS_EBADF;
}

/* Close of a connection that can still speak. */
static int close_gracefully(struct ams_stack *stack, struct tcp_conn *conn)
{
    queue_fin(stack, conn);
    int freed = let_go(stack, conn);
    if (conn->state == AMS_TCP_FIN_WAIT_2) {
        tcp_fin_wait_2_start(stack, conn, stack->now);
    } else if (conn->state == AMS_TCP_TIME_WAIT && freed) {
        tcp_tw_from(stack, conn, stack->now);
    }
    return freed;
}

int ams_tcp_close(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = conn_of(stack, id);
    if (!conn)
        return tcp_listener_close(stack, id);
    /* RFC 2525 section 2.17, RFC 1122 section 4.2.2.13: unread data means RST */
    if (conn->flags & CONN_DEAD || conn->state == AMS_TCP_SYN_SENT || conn->linger == 0 || conn->rcv_queued)
        return abort_now(stack, conn);
    return close_gracefully(stack, conn);
}

void tcp_abort_all(struct ams_stack *stack)
{
    struct tcp_host *tcp = stack->tcp;
    for (uint32_t i = 0; i < TCP_LISTENER_BUCKETS; i++)
        while (tcp->listeners[i])
            tcp_listener_close(stack, tcp->listeners[i]->sock.id);
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&tcp->flows, &walk));) {
        if (flow->is_tw)
            continue;
        struct tcp_conn *conn = tcp_conn_of(flow);
        if (conn->state == AMS_TCP_SYN_SENT || conn->state == AMS_TCP_TIME_WAIT)
            continue;
        tcp_reset(stack, conn);
    }
}

static void flow_drop(struct ams_stack *stack, struct tcp_flow *flow, int status)
{
    if (flow->is_tw)
        tcp_tw_free(stack, (struct tcp_tw *)flow);
    else
        tcp_drop(stack, tcp_conn_of(flow), status);
}

void tcp_drop_all(struct ams_stack *stack, int status)
{
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&stack->tcp->flows, &walk));)
        flow_drop(stack, flow, status);
}

void tcp_drop_address(struct ams_stack *stack, const uint8_t ip[16], int status)
{
    struct tcp_flow_walk walk = {0};
    for (struct tcp_flow *flow; (flow = tcp_flows_walk(&stack->tcp->flows, &walk));)
        if (ip_equal(flow->local_ip, ip))
            flow_drop(stack, flow, status);
}

/* ---- reports ------------------------------------------------------------------------ */

/* One event's words, being filled. */
struct report {
    int32_t *events;
    int count;
    int32_t id;
};

static void report_add(struct report *report, uint32_t bits, int32_t aux, uint32_t length)
{
    int32_t *words = report->events + report->count * AMS_EVENT_WORDS;
    words[0] = report->id;
    words[1] = (int32_t)bits;
    words[2] = aux;
    words[3] = (int32_t)length;
    report->count++;
}

/* Copies short frames into the blob.  Return: the bytes copied. */
static uint32_t report_data(struct ams_stack *stack, struct tcp_conn *conn, char *blob, size_t room)
{
    uint32_t done = 0;
    for (struct ams_frame *frame = conn->rcv_head; frame; frame = frame->next) {
        if (frame->len > TCP_BLOB_DATA || frame->len > room - done)
            break;
        memcpy(blob + done, frame->data, frame->len);
        done += frame->len;
    }
    if (done)
        queue_consume(stack, conn, done);
    return done;
}

/* Data, EOF.  Return: bits to report. */
static uint32_t report_reading(struct ams_stack *stack, struct tcp_conn *conn, char *blob, size_t room,
                               uint32_t *length)
{
    uint32_t bits = 0;
    if (conn->sock.read_mode == AMS_READ_PAUSED)
        return 0;
    if (conn->rcv_queued && conn->sock.read_mode == AMS_READ_BLOB) {
        *length = report_data(stack, conn, blob, room);
        if (*length)
            bits |= AMS_EV_DATA;
    }
    if (conn->rcv_queued)
        bits |= AMS_EV_READABLE;
    else if (conn->flags & CONN_FIN_RECEIVED && !(conn->flags & CONN_EOF_REPORTED)) {
        conn->flags |= CONN_EOF_REPORTED;
        bits |= AMS_EV_EOF;
    }
    return bits;
}

/* The part of a report that concerns an application which has not closed. */
static void report_attached(struct ams_stack *stack, struct tcp_conn *conn, struct report *report, uint32_t pending,
                            char *blob, size_t room, size_t *blob_used)
{
    uint32_t bits = pending & (AMS_EV_CONNECTED | AMS_EV_DRAINED | AMS_EV_CONGESTION);
    uint32_t length = 0;
    int32_t aux = 0;
    if (pending & AMS_EV_ACCEPTED && conn->listener) {
        bits |= AMS_EV_ACCEPTED;
        aux = conn->listener->sock.id;
        tcp_listener_forget(conn);
    }
    if (pending & (AMS_EV_DATA | AMS_EV_EOF | AMS_EV_CLOSED))
        bits |= report_reading(stack, conn, blob, room, &length);
    *blob_used += length;
    if (bits)
        report_add(report, bits, aux, length);
}

int tcp_report(struct ams_stack *stack, struct sock *sock, int32_t *events, char *blob, size_t blob_size,
               size_t *blob_used)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock;
    struct report report = {events, 0, sock->id};
    size_t room = blob_size - *blob_used;
    if (*blob_used && sock->read_mode == AMS_READ_BLOB && conn->rcv_head && conn->rcv_head->len <= TCP_BLOB_DATA &&
        conn->rcv_head->len > room)
        return -1;
    uint32_t pending = sock->events;
    sock->events = 0;
    if (!(conn->flags & CONN_ORPHAN))
        report_attached(stack, conn, &report, pending, blob + *blob_used, room, blob_used);
    if (conn->refs_released) {
        report_add(&report, AMS_EV_REFS, (int32_t)conn->refs_released, 0);
        conn->refs_released = 0;
    }
    if (pending & AMS_EV_CLOSED) {
        if (end_waits(conn)) /* data first; queue_emptied() brings it back, and ams_tcp_set_reading() */
            sock->events |= AMS_EV_CLOSED;
        else
            report_add(&report, AMS_EV_CLOSED, sock->aux, 0);
    }
    if (pending & AMS_EV_RELEASED) {
        report_add(&report, AMS_EV_RELEASED, 0, 0);
        sock_unregister(stack, sock);
        if (conn->flags & CONN_DEAD)
            tcp_conn_free(stack, conn);
        else if (conn->state == AMS_TCP_TIME_WAIT)
            tcp_tw_from(stack, conn, stack->now);
    }
    return report.count;
}
