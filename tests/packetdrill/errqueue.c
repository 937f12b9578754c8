/* SPDX-License-Identifier: BSD-2-Clause
 *
 * errqueue.c - a socket's error queue: what became of data sent.
 *
 * MSG_ZEROCOPY: the bytes are handed to the engine by reference; when it has
 * released the last reference of a call, the call's number is reported.
 * Consecutive numbers that nobody has read yet are one range.  They are
 * reported as copied, as Linux does of a TUN device: the medium here copies.
 *
 * SO_TIMESTAMPING: the times at which the last byte of a call was handed to
 * the device (SCHED, SND) and acknowledged (ACK).
 */
#include <errno.h>
#include <time.h>

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

#ifndef SCM_TIMESTAMPING
#define SCM_TIMESTAMPING SO_TIMESTAMPING
#endif

/* ---- the queue ------------------------------------------------------------------------------ */

/* Appends a report; readers are woken. */
static void note_push(struct pd_file *file, struct pd_note note)
{
    struct pd_errqueue *queue = &file->errors;
    if (queue->n == PD_NOTES)
        return; /* as when a socket's receive memory is used up */
    queue->notes[queue->n++] = note;
    file->changes++;
}

static struct pd_note note_pop(struct pd_errqueue *queue)
{
    struct pd_note note = queue->notes[0];
    memmove(queue->notes, queue->notes + 1, (size_t)--queue->n * sizeof(*queue->notes));
    return note;
}

/* ---- zero copy ------------------------------------------------------------------------------- */

void errqueue_released(struct pd_file *file, int count)
{
    struct pd_errqueue *queue = &file->errors;
    while (count-- > 0 && queue->n_refs) {
        struct pd_ref ref = queue->refs[0];
        memmove(queue->refs, queue->refs + 1, (size_t)--queue->n_refs * sizeof(*queue->refs));
        free(ref.data);
        if (!ref.last)
            continue;
        struct pd_note *tail = queue->n ? &queue->notes[queue->n - 1] : NULL;
        if (tail && tail->origin == SO_EE_ORIGIN_ZEROCOPY && tail->data + 1 == ref.number) {
            tail->data = ref.number;
            file->changes++;
        } else {
            note_push(file, (struct pd_note){.origin = SO_EE_ORIGIN_ZEROCOPY, .code = SO_EE_CODE_ZEROCOPY_COPIED,
                                             .info = ref.number, .data = ref.number});
        }
    }
}

/* Bytes that stay where they are until errqueue_released().
 * Return: them, or NULL if there are too many pieces. */
const char *errqueue_pin(struct pd_file *file, const char *data, size_t size, bool last)
{
    struct pd_errqueue *queue = &file->errors;
    char *copy = queue->n_refs < PD_REFS ? malloc(size) : NULL;
    if (!copy)
        return NULL;
    memcpy(copy, data, size); /* packetdrill frees its own when the call returns */
    queue->refs[queue->n_refs++] = (struct pd_ref){copy, queue->next_number, last};
    if (last)
        queue->next_number++;
    return copy;
}

/* A call that was cut short: what was taken of it is all there is. */
void errqueue_cut(struct pd_file *file)
{
    struct pd_errqueue *queue = &file->errors;
    if (queue->n_refs && !queue->refs[queue->n_refs - 1].last) {
        queue->refs[queue->n_refs - 1].last = true;
        queue->next_number++;
    }
}

/* ---- timestamps ---------------------------------------------------------------------------------- */

void errqueue_mark(struct pd_file *file)
{
    struct pd_errqueue *queue = &file->errors;
    uint32_t wanted = SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_TX_ACK;
    if (queue->timestamping & wanted && queue->n_marks < PD_NOTES)
        queue->marks[queue->n_marks++] = (struct pd_mark){file->written, false};
}

static void timestamp_push(struct pd_file *file, uint32_t flag, uint32_t kind, uint64_t end, uint64_t at)
{
    struct pd_errqueue *queue = &file->errors;
    if (queue->timestamping & flag)
        note_push(file, (struct pd_note){.origin = SO_EE_ORIGIN_TIMESTAMPING, .error = ENOMSG, .info = kind, .at = at,
                                         .data = queue->timestamping & SOF_TIMESTAMPING_OPT_ID
                                                     ? (uint32_t)(end - 1 - queue->first_key) : 0});
}

void errqueue_progress(struct pd_world *world, struct pd_file *file)
{
    struct pd_errqueue *queue = &file->errors;
    struct ams_tcp_info info;
    if (!queue->n_marks || file->id < 0 || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return;
    uint64_t acked = file->written - info.send_queue, sent = file->written - info.not_sent;
    for (int i = 0; i < queue->n_marks && queue->marks[i].end <= sent; i++)
        if (!queue->marks[i].sent) {
            queue->marks[i].sent = true;
            timestamp_push(file, SOF_TIMESTAMPING_TX_SCHED, SCM_TSTAMP_SCHED, queue->marks[i].end, world->now);
            timestamp_push(file, SOF_TIMESTAMPING_TX_SOFTWARE, SCM_TSTAMP_SND, queue->marks[i].end, world->now);
        }
    while (queue->n_marks && queue->marks[0].end <= acked) {
        timestamp_push(file, SOF_TIMESTAMPING_TX_ACK, SCM_TSTAMP_ACK, queue->marks[0].end, world->now);
        memmove(queue->marks, queue->marks + 1, (size_t)--queue->n_marks * sizeof(*queue->marks));
    }
}

int errqueue_timestamping(struct pd_world *world, struct pd_file *file, int flags)
{
    struct pd_errqueue *queue = &file->errors;
    struct ams_tcp_info info = {0};
    if (flags & SOF_TIMESTAMPING_OPT_ID && !(queue->timestamping & SOF_TIMESTAMPING_OPT_ID)) {
        if (file->state != PD_CONNECTED) {
            errno = EINVAL;
            return -1;
        }
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
        queue->first_key = file->written - info.send_queue;
    }
    queue->timestamping = (uint32_t)flags;
    return 0;
}

/* ---- reading it ------------------------------------------------------------------------------------ */

/* Appends one control message; there is always room in packetdrill's. */
static void control_put(struct msghdr *msg, size_t *used, int level, int type, const void *data, size_t size)
{
    struct cmsghdr *header = (struct cmsghdr *)((char *)msg->msg_control + *used);
    if (!msg->msg_control || *used + CMSG_SPACE(size) > msg->msg_controllen) {
        msg->msg_flags |= MSG_CTRUNC;
        return;
    }
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(header), data, size);
    *used += CMSG_SPACE(size);
}

int errqueue_take(struct pd_world *world, struct pd_file *file, struct msghdr *msg)
{
    (void)world;
    if (!file->errors.n) {
        msg->msg_controllen = 0;
        msg->msg_flags = MSG_ERRQUEUE;
        errno = EAGAIN;
        return -1;
    }
    struct pd_note note = note_pop(&file->errors);
    bool stamp = note.origin == SO_EE_ORIGIN_TIMESTAMPING;
    size_t used = 0;
    msg->msg_flags = MSG_ERRQUEUE;
    msg->msg_namelen = 0;
    if (stamp) {
        struct scm_timestamping times = {0};
        clock_at(note.at, &times.ts[0]);
        control_put(msg, &used, SOL_SOCKET, SCM_TIMESTAMPING, &times, sizeof(times));
        if (!(file->errors.timestamping & SOF_TIMESTAMPING_OPT_TSONLY))
            msg->msg_flags |= MSG_TRUNC; /* the packet that belongs to it has no room in an empty buffer */
    }
    struct {
        struct sock_extended_err error;
        struct sockaddr_in6 offender;
    } body = {.error = {.ee_errno = (uint32_t)note.error, .ee_origin = note.origin, .ee_code = note.code,
                        .ee_info = note.info, .ee_data = note.data}};
    bool v4 = file->family == AF_INET;
    control_put(msg, &used, v4 ? SOL_IP : SOL_IPV6, v4 ? IP_RECVERR : IPV6_RECVERR, &body,
                sizeof(body.error) + (v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    msg->msg_controllen = used;
    return 0;
}
