/* SPDX-License-Identifier: BSD-2-Clause
 *
 * receive.c - reading from a socket.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "calls.h"

static bool read_ready(struct pd_file *file, void *arg)
{
    struct pd_world *world = arg;
    size_t waiting = 0;
    if (file->id >= 0)
        ams_tcp_peek(world->stack, file->id, &waiting);
    return waiting || file->eof || file->state == PD_CLOSED || file->read_shut;
}

/* The error that a read reports once, if any.  Return: 0 or -1 with errno. */
static int read_error(struct pd_file *file)
{
    if (!file->error || file->told)
        return 0;
    file->told = true;
    errno = file->error;
    return -1;
}

/* Takes up to size bytes; with buffer NULL they are thrown away (MSG_TRUNC). */
static ssize_t take_data(struct pd_world *world, struct pd_file *file, char *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        size_t waiting;
        const char *data = ams_tcp_peek(world->stack, file->id, &waiting);
        size_t n = waiting < size - done ? waiting : size - done;
        if (!n)
            break;
        if (buffer)
            memcpy(buffer + done, data, n);
        ams_tcp_consume(world->stack, file->id, n);
        done += n;
    }
    return (ssize_t)done;
}

static ssize_t read_some(struct pd_world *world, struct pd_file *file, char *buffer, size_t size, int flags)
{
    if (file->state == PD_NEW || file->state == PD_LISTENING) {
        errno = ENOTCONN;
        return -1;
    }
    if (flags & MSG_OOB) { /* urgent data stays in line */
        errno = EINVAL;
        return -1;
    }
    if (!size)
        return 0;
    if (!read_ready(file, world)) {
        if (must_not_wait(file, flags)) {
            errno = EAGAIN;
            return -1;
        }
        if (!world_wait(world, file, read_ready, world, UINT64_MAX)) {
            errno = EAGAIN;
            return -1;
        }
    }
    size_t waiting = 0;
    if (file->id >= 0)
        ams_tcp_peek(world->stack, file->id, &waiting);
    if (!waiting)
        return read_error(file);
    if (!buffer && !(flags & MSG_TRUNC)) {
        errno = EFAULT;
        return -1;
    }
    ssize_t n = flags & MSG_PEEK ? ams_tcp_copy(world->stack, file->id, buffer, size)
                                 : take_data(world, file, flags & MSG_TRUNC ? NULL : buffer, size);
    world_settle(world);
    return n;
}

/* MSG_WAITALL: goes on until all is there, the stream ends or the socket fails. */
static ssize_t read_all(struct pd_world *world, struct pd_file *file, char *buffer, size_t size, int flags)
{
    ssize_t total = read_some(world, file, buffer, size, flags);
    if (!(flags & MSG_WAITALL) || flags & MSG_PEEK || total <= 0 || must_not_wait(file, flags))
        return total;
    while ((size_t)total < size) {
        ssize_t n = read_some(world, file, buffer ? buffer + total : NULL, size - (size_t)total, flags);
        if (n <= 0)
            break;
        total += n;
    }
    return total;
}

ssize_t do_recv(void *userdata, int fd, void *buffer, size_t size, int flags)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    return file ? read_all(world, file, buffer, size, flags) : -1;
}

ssize_t do_recvfrom(void *userdata, int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                    socklen_t *len)
{
    if (address && len)
        *len = 0; /* a stream has no source to name */
    return do_recv(userdata, fd, buffer, size, flags);
}

ssize_t do_readv(void *userdata, int fd, const struct iovec *iov, int count)
{
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        ssize_t n = do_recv(userdata, fd, iov[i].iov_base, iov[i].iov_len, total ? MSG_DONTWAIT : 0);
        if (n < 0)
            return total ? total : -1;
        total += n;
        if ((size_t)n < iov[i].iov_len)
            break;
    }
    return total;
}

/* Fills the message's buffers one after the other. */
static ssize_t scatter(struct pd_world *world, struct pd_file *file, struct msghdr *msg, int flags)
{
    ssize_t total = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++) {
        struct iovec *iov = &msg->msg_iov[i];
        int how = !total || flags & MSG_WAITALL ? flags : flags | MSG_DONTWAIT;
        ssize_t n = read_all(world, file, iov->iov_base, iov->iov_len, how);
        if (n < 0)
            return total ? total : -1;
        total += n;
        if ((size_t)n < iov->iov_len)
            break;
    }
    return total;
}

/* TCP_CM_INQ: what is left to read; 1 for the end of the stream. */
static void put_inq(struct pd_world *world, struct pd_file *file, struct msghdr *msg, ssize_t total)
{
    struct ams_tcp_info info = {0};
    if (!file->inq || total < 0 || !msg->msg_control || msg->msg_controllen < CMSG_SPACE(sizeof(int))) {
        msg->msg_controllen = 0;
        return;
    }
    ams_tcp_get_info(world->stack, file->id, &info, world->now);
    int left = (int)info.recv_queue;
    if (!left && (file->eof || info.state == AMS_TCP_CLOSE_WAIT))
        left = 1;
    struct cmsghdr *header = msg->msg_control;
    header->cmsg_level = SOL_TCP;
    header->cmsg_type = TCP_CM_INQ;
    header->cmsg_len = CMSG_LEN(sizeof(left));
    memcpy(CMSG_DATA(header), &left, sizeof(left));
    msg->msg_controllen = CMSG_SPACE(sizeof(left));
}

ssize_t do_recvmsg(void *userdata, int fd, struct msghdr *msg, int flags)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (flags & MSG_ERRQUEUE)
        return errqueue_take(world, file, msg);
    ssize_t total = scatter(world, file, msg, flags);
    put_inq(world, file, msg, total);
    msg->msg_flags = 0;
    msg->msg_namelen = 0;
    return total;
}
