/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_send.c - the send queue: bytes of the application until acknowledged.
 *
 * Theory of operation.  The queue is a list of frames; frame->seq is the
 * sequence number of its first byte.  Short writes are copied into the tail
 * frame; long ones may stay where they are (reference frames), to be given
 * back through AMS_EV_REFS in order.  What lies beyond the socket buffer
 * (auto-tuned to twice cwnd, as Linux does) is the "write excess": asyncio's
 * flow control works on it, as it works on what a kernel did not take.
 *
 * A frame with the mark SEND_EOR ends a record: nothing is added to it, and
 * tcp_send_gather() stops behind it.
 */
#include <string.h>

#include "stack/tcp.h"

/* frame->marks */
#define SEND_EOR 1u
#define SEND_PUSH 2u /* and its last byte carries PSH */

uint32_t tcp_excess(const struct tcp_conn *conn)
{
    uint32_t queued = tcp_unacked(conn);
    uint32_t excess = queued > conn->sndbuf ? queued - conn->sndbuf : 0;
    if (AMS_LIKELY(!conn->notsent_lowat))
        return excess;
    /* TCP_NOTSENT_LOWAT: the application has to wait while that much isn't sent */
    uint32_t unsent = tcp_unsent(conn);
    return ams_max_u32(excess, unsent >= conn->notsent_lowat ? unsent - conn->notsent_lowat + 1 : 0);
}

void tcp_send_drained(struct ams_stack *stack, struct tcp_conn *conn)
{
    if (!(conn->flags & CONN_WANT_DRAIN) || tcp_excess(conn) > conn->drain_low)
        return;
    conn->flags &= ~CONN_WANT_DRAIN;
    sock_event(stack, &conn->sock, AMS_EV_DRAINED);
}

/* Appends a frame that holds the bytes at snd_end. */
static void send_append(struct tcp_conn *conn, struct ams_frame *frame)
{
    frame->seq = conn->snd_end;
    frame->next = NULL;
    if (conn->snd_tail)
        conn->snd_tail->next = frame;
    else
        conn->snd_head = frame;
    conn->snd_tail = frame;
}

/* Bytes that the tail frame takes. */
static uint32_t send_tailroom(const struct tcp_conn *conn)
{
    const struct ams_frame *tail = conn->snd_tail;
    return tail && !(tail->marks & SEND_EOR) ? frame_tailroom(tail) : 0;
}

/* Copies into the tail frame's free room.  Return: the bytes taken. */
static uint32_t send_fill_tail(struct tcp_conn *conn, const char *data, size_t length)
{
    struct ams_frame *tail = conn->snd_tail;
    uint32_t room = send_tailroom(conn);
    if (!room)
        return 0;
    uint32_t n = length < room ? (uint32_t)length : room;
    memcpy(tail->data + tail->len, data, n);
    tail->len += n;
    conn->snd_end += n;
    return n;
}

/* Common checks of a send.  Return: 0 or a status. */
static int send_check(const struct tcp_conn *conn, size_t length)
{
    if (conn->flags & CONN_DEAD)
        return conn->error ? conn->error : -AMS_EPIPE;
    if (conn->flags & (CONN_FIN_QUEUED | CONN_ORPHAN))
        return -AMS_EPIPE;
    /* sequence numbers must stay comparable: at most 2^30 bytes queued */
    if (length > (1u << 30) - tcp_unacked(conn))
        return -AMS_ENOBUFS;
    return 0;
}

/* Allocates the frames that `length` bytes need, linked.  All or nothing.
 * Owns: the caller.  Return: false without memory. */
static bool send_alloc(struct ams_stack *stack, size_t length, struct ams_frame **first)
{
    struct ams_frame *list = NULL;
    size_t room = 0;
    while (room < length) {
        enum frame_class class_ = length - room > 16 * TCP_CHUNK_SMALL ? FRAME_CLASS_LARGE : FRAME_CLASS_SMALL;
        struct ams_frame *frame = frame_new(stack->pool, class_);
        if (!frame) {
            while (list) {
                struct ams_frame *next = list->next;
                frame_free(list);
                list = next;
            }
            stack->counters.no_memory++;
            return false;
        }
        frame->data = frame->buffer;
        frame->next = list;
        list = frame;
        room += frame->capacity;
    }
    *first = list;
    return true;
}

/* What a send says of the segments that its bytes go out in. */
static void send_marked(struct tcp_conn *conn, uint32_t flags)
{
    conn->flags &= ~(CONN_MORE | CONN_UNPUSHED | CONN_PUSH);
    if (AMS_UNLIKELY(flags & AMS_SEND_MORE))
        conn->flags |= CONN_MORE | CONN_UNPUSHED;
    if (AMS_UNLIKELY(flags & AMS_SEND_EOR) && conn->snd_tail)
        conn->snd_tail->marks |= flags & AMS_SEND_MORE ? SEND_EOR : SEND_EOR | SEND_PUSH;
}

int ams_tcp_send(struct ams_stack *stack, int id, const char *data, size_t length)
{
    return ams_tcp_send_flags(stack, id, data, length, 0);
}

int ams_tcp_send_flags(struct ams_stack *stack, int id, const char *data, size_t length, uint32_t flags)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (!conn)
        return -AMS_EBADF;
    int status = send_check(conn, length);
    if (status < 0)
        return status;
    size_t in_tail = send_tailroom(conn);
    struct ams_frame *fresh = NULL;
    if (length > in_tail && !send_alloc(stack, length - in_tail, &fresh))
        return -AMS_ENOBUFS;
    size_t done = send_fill_tail(conn, data, length);
    while (done < length) {
        struct ams_frame *frame = fresh;
        fresh = frame->next;
        send_append(conn, frame);
        done += send_fill_tail(conn, data + done, length - done);
    }
    send_marked(conn, flags);
    tcp_want_output(stack, conn);
    return (int)tcp_excess(conn);
}

int ams_tcp_send_ref(struct ams_stack *stack, int id, const char *data, size_t length)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (!conn)
        return -AMS_EBADF;
    int status = length == 0 ? -AMS_EINVAL : send_check(conn, length);
    if (status < 0)
        return status;
    struct ams_frame *frame = frame_new_ref(stack->pool, (const uint8_t *)data, (uint32_t)length);
    if (!frame) {
        stack->counters.no_memory++;
        return -AMS_ENOBUFS;
    }
    send_append(conn, frame);
    conn->snd_end += (uint32_t)length;
    conn->refs_held++;
    send_marked(conn, 0);
    tcp_want_output(stack, conn);
    return (int)tcp_excess(conn);
}

int ams_tcp_excess(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    return conn ? (int)tcp_excess(conn) : -AMS_EBADF;
}

int ams_tcp_want_drain(struct ams_stack *stack, int id, size_t low)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (!conn)
        return -AMS_EBADF;
    conn->drain_low = low > INT32_MAX ? INT32_MAX : (uint32_t)low;
    if (tcp_excess(conn) <= conn->drain_low) {
        conn->flags &= ~CONN_WANT_DRAIN;
        sock_event(stack, &conn->sock, AMS_EV_DRAINED);
    } else {
        conn->flags |= CONN_WANT_DRAIN;
    }
    return 0;
}

/* Frees the head frame of the queue; counts a released reference. */
static void send_pop(struct ams_stack *stack, struct tcp_conn *conn)
{
    struct ams_frame *frame = conn->snd_head;
    conn->snd_head = frame->next;
    if (!conn->snd_head)
        conn->snd_tail = NULL;
    if (conn->snd_cursor == frame)
        conn->snd_cursor = conn->snd_head;
    if (frame->class_ == FRAME_CLASS_REF) {
        conn->refs_released++;
        conn->refs_held--;
        sock_event(stack, &conn->sock, AMS_EV_REFS);
    }
    frame_free(frame);
}

/* Ends the queue at sequence number end; no byte beyond it was sent.
 * Return: how many references were dropped, all later than those that stay. */
static int send_cut(struct tcp_conn *conn, uint32_t end)
{
    int refs = 0;
    struct ams_frame *last = NULL;
    struct ams_frame *frame = conn->snd_head;
    for (; frame && seq_lt(frame->seq, end); frame = frame->next)
        last = frame;
    if (last) {
        last->next = NULL;
        last->len = ams_min_u32(last->len, end - last->seq);
    } else {
        conn->snd_head = NULL;
    }
    conn->snd_tail = last;
    while (frame) {
        struct ams_frame *next = frame->next;
        if (conn->snd_cursor == frame)
            conn->snd_cursor = NULL;
        refs += frame->class_ == FRAME_CLASS_REF;
        frame_free(frame);
        frame = next;
    }
    conn->snd_end = end;
    conn->refs_held -= (uint32_t)refs;
    return refs;
}

int ams_tcp_drop_excess(struct ams_stack *stack, int id)
{
    struct tcp_conn *conn = (struct tcp_conn *)sock_find(stack, id, SOCK_TCP);
    if (!conn)
        return -AMS_EBADF;
    uint32_t end = conn->snd_end - tcp_excess(conn);
    if (seq_lt(end, conn->snd_nxt)) /* the buffer was made smaller; what was sent stays sent */
        end = conn->snd_nxt;
    if (seq_geq(end, conn->snd_end))
        return 0;
    int refs = send_cut(conn, end);
    tcp_send_drained(stack, conn);
    return refs;
}

void tcp_send_acked(struct ams_stack *stack, struct tcp_conn *conn, uint32_t una)
{
    /* the one frame that there is stays as it is until all of it is acknowledged: no need to look at it */
    bool partly = conn->snd_head == conn->snd_tail && seq_lt(una, conn->snd_end);
    while (conn->snd_head && !partly) {
        struct ams_frame *frame = conn->snd_head;
        if (seq_leq(una, frame->seq))
            break;
        uint32_t acked = una - frame->seq;
        if (acked < frame->len) {
            frame_pull(frame, acked);
            frame->seq += acked;
            break;
        }
        /* the tail frame of small writes is reused only while it has data */
        send_pop(stack, conn);
    }
    if (!(conn->flags & CONN_SNDBUF_FIXED) && conn->cwnd * 2 > conn->sndbuf && !tcp_frames_short(stack))
        conn->sndbuf = ams_min_u32(conn->cwnd * 2, stack->config.sndbuf_max);
    tcp_send_drained(stack, conn);
    if (conn->flags & CONN_ORPHAN && conn->sock.id >= 0 && conn->refs_held == 0)
        sock_event(stack, &conn->sock, AMS_EV_RELEASED);
}

void tcp_send_fini(struct ams_stack *stack, struct tcp_conn *conn)
{
    while (conn->snd_head)
        send_pop(stack, conn);
    conn->snd_cursor = NULL;
}

/* The frame that holds seq, looked for from the cursor where possible. */
static struct ams_frame *send_find(struct tcp_conn *conn, uint32_t seq)
{
    struct ams_frame *frame = conn->snd_cursor;
    if (!frame || seq_lt(seq, frame->seq))
        frame = conn->snd_head;
    while (frame && seq_geq(seq, frame->seq + frame->len))
        frame = frame->next;
    return frame;
}

uint32_t tcp_send_gather(struct tcp_conn *conn, uint32_t seq, uint32_t length, struct ams_tx *tx)
{
    struct ams_frame *frame = send_find(conn, seq);
    uint32_t done = 0;
    while (frame && done < length && tx->n_frags < TX_FRAGS) {
        uint32_t skip = seq + done - frame->seq;
        uint32_t n = ams_min_u32(frame->len - skip, length - done);
        tx->frags[tx->n_frags].data = frame->data + skip;
        tx->frags[tx->n_frags].len = n;
        tx->n_frags++;
        done += n;
        conn->snd_cursor = frame;
        if (frame->marks & SEND_EOR)
            break;
        frame = frame->next;
    }
    return done;
}

bool tcp_send_pushed(const struct tcp_conn *conn, uint32_t end)
{
    const struct ams_frame *frame = conn->snd_cursor;
    return frame && frame->marks & SEND_PUSH && frame->seq + frame->len == end;
}
