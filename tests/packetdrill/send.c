/* SPDX-License-Identifier: BSD-2-Clause
 *
 * send.c - writing to a socket, with Fast Open's ways of opening one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "calls.h"

static bool write_ready(struct pd_file *file, void *arg)
{
    return file->state == PD_CLOSED || file->write_shut ||
           (file->state == PD_CONNECTED && !file->sendbuf.refused && sendbuf_room(arg, file) > 0);
}

static int write_error(struct pd_file *file)
{
    errno = file->error && !file->told ? file->error : EPIPE;
    file->told = true;
    return -1;
}

/* Hands bytes to the engine, in the way that the call's flags ask for.
 * @full: they fill a buffer of Linux's, which no super-frame reaches across
 * @last: they are the last of the call
 * Return: 0 or -1 with errno. */
static int hand_over(struct pd_world *world, struct pd_file *file, const char *data, size_t n, int flags, bool full,
                     bool last)
{
    bool record = last && flags & MSG_EOR;
    bool pushed = file->written + n - file->pushed > file->sendbuf.window / 2; /* where Linux pushes in a long write */
    uint32_t how = !pushed && (!last || flags & MSG_MORE) ? AMS_SEND_MORE : 0;
    int status;
    if (flags & MSG_ZEROCOPY && file->errors.zerocopy) {
        const char *pinned = errqueue_pin(file, data, n, last);
        if (!pinned) {
            errno = ENOBUFS;
            return -1;
        }
        status = ams_tcp_send_ref(world->stack, file->id, pinned, n);
    } else {
        how |= record || full ? AMS_SEND_EOR : 0;
        status = ams_tcp_send_flags(world->stack, file->id, data, n, how);
    }
    if (status < 0)
        return world_fail(status);
    sendbuf_wrote(world, file, n, record);
    if (!(how & AMS_SEND_MORE))
        file->pushed = file->written;
    return 0;
}

/* There is no room: sends what there is, and waits.  Return: false with errno if it must not. */
static bool wait_for_room(struct pd_world *world, struct pd_file *file, int flags)
{
    file->sendbuf.refused = true;
    if (file->id >= 0 && file->state == PD_CONNECTED)
        ams_tcp_send_flags(world->stack, file->id, "", 0, 0);
    world_settle(world);
    if (!must_not_wait(file, flags) && world_wait(world, file, write_ready, world, UINT64_MAX))
        return true;
    errno = EAGAIN;
    return false;
}

/* The engine's errno as write() reports it: a final one only once. */
static int send_failed(struct pd_file *file)
{
    if (errno == ENOBUFS)
        return -1;
    errno = file->told ? EPIPE : errno;
    file->told = true;
    return -1;
}

/* Sends the pieces of a call, of `size` bytes in all; what stays in place
 * goes out piece by piece, but not before the last of them is queued. */
static ssize_t write_some(struct pd_world *world, struct pd_file *file, const struct iovec *iov, size_t size, int flags)
{
    size_t done = 0, offset = 0;
    while (done < size) {
        if (offset == iov->iov_len) {
            iov++;
            offset = 0;
            continue;
        }
        if (file->write_shut || file->state == PD_CLOSED)
            return done ? (ssize_t)done : write_error(file);
        size_t room = file->state == PD_CONNECTED || file->deferred ? sendbuf_room(world, file) : 0;
        if (!room) {
            if (!wait_for_room(world, file, flags))
                return done ? (ssize_t)done : -1;
            continue;
        }
        size_t n = iov->iov_len - offset < room ? iov->iov_len - offset : room;
        const char *data = (const char *)iov->iov_base + offset;
        if (hand_over(world, file, data, n, flags, n == room, done + n == size) < 0)
            return done ? (ssize_t)done : send_failed(file);
        done += n;
        offset += n;
        if (offset < iov->iov_len || done == size)
            world_settle(world);
    }
    return (ssize_t)done;
}

static ssize_t send_some(struct pd_world *world, struct pd_file *file, const struct iovec *iov, size_t size, int flags)
{
    if (file->state == PD_NEW || file->state == PD_LISTENING) {
        errno = EPIPE;
        return -1;
    }
    settings_renew(world);
    ssize_t n = write_some(world, file, iov, size, flags);
    errqueue_cut(file);
    if (n > 0) {
        errqueue_mark(file);
        world_settle(world);
    }
    return n;
}

/* The data that a waiting SYN can carry.  Return: the bytes, -1 with errno. */
static ssize_t syn_write(struct pd_world *world, struct pd_file *file, const void *data, size_t size, int flags)
{
    int room = -1;
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_FASTOPEN_ROOM, &room);
    file->deferred = false;
    if (!size || room < 0)
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_FASTOPEN_CONNECT, 2);
    size_t n = room < 0 ? 0 : size < (size_t)room ? size : (size_t)room;
    if (n && hand_over(world, file, data, n, flags & MSG_ZEROCOPY, false, n == size) < 0)
        return -1;
    errqueue_cut(file);
    world_settle(world);
    return (ssize_t)n;
}

/* The rest of a write whose beginning went with the SYN: `done` bytes. */
static ssize_t syn_finish(struct pd_world *world, struct pd_file *file, const char *data, size_t size, int flags,
                          ssize_t done)
{
    if (done < 0)
        return -1;
    if (must_not_wait(file, flags)) {
        errno = EINPROGRESS;
        return done ? done : -1;
    }
    /* the rest is ready to leave when the connection is there */
    size_t room = sendbuf_room(world, file), rest = size - (size_t)done;
    rest = rest < room ? rest : room;
    if (rest && file->state == PD_CONNECTING && hand_over(world, file, data + done, rest, 0, false, true) >= 0)
        done += (ssize_t)rest;
    world_wait(world, file, connect_ready, NULL, UINT64_MAX);
    if (connect_result(file) < 0)
        return -1;
    if ((size_t)done == size)
        return done;
    struct iovec left = {(char *)(uintptr_t)data + done, size - (size_t)done};
    ssize_t more = send_some(world, file, &left, left.iov_len, flags);
    return more < 0 ? (done ? done : -1) : done + more;
}

/* sendto() with MSG_FASTOPEN: connect() and write() in one. */
static ssize_t send_fastopen(struct pd_world *world, struct pd_file *file, const void *data, size_t size, int flags,
                             const struct sockaddr *address, socklen_t len)
{
    struct ams_endpoint remote;
    if (!(settings_fastopen(world) & AMS_FASTOPEN_CLIENT) || (address && address->sa_family == AF_UNSPEC)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    if (file->state == PD_CONNECTING) {
        errno = EALREADY;
        return -1;
    }
    if (!address || !address_in(address, len, &remote)) {
        errno = EINVAL;
        return -1;
    }
    if (connect_start(world, file, &remote) < 0)
        return -1;
    fastopen_wait(world, file, 1);
    return syn_finish(world, file, data, size, flags, syn_write(world, file, data, size, flags));
}

ssize_t do_sendto(void *userdata, int fd, const void *data, size_t size, int flags,
                         const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (!data && size) {
        errno = EFAULT;
        return -1;
    }
    if (!file->deferred && flags & MSG_FASTOPEN && (file->state == PD_NEW || file->state == PD_CONNECTING))
        return send_fastopen(world, file, data, size, flags, address, len);
    if (file->deferred)
        return syn_finish(world, file, data, size, flags, syn_write(world, file, data, size, flags));
    struct iovec whole = {(void *)(uintptr_t)data, size};
    return send_some(world, file, &whole, size, flags);
}

ssize_t do_send(void *userdata, int fd, const void *data, size_t size, int flags)
{
    return do_sendto(userdata, fd, data, size, flags, NULL, 0);
}

/* Makes one buffer of several.  Owns: the caller.  Return: NULL with errno. */
static char *gather(const struct iovec *iov, size_t count, size_t *total)
{
    *total = 0;
    for (size_t i = 0; i < count; i++) {
        if (!iov[i].iov_base && iov[i].iov_len) {
            errno = EFAULT;
            return NULL;
        }
        *total += iov[i].iov_len;
    }
    char *buffer = malloc(*total ? *total : 1);
    size_t at = 0;
    for (size_t i = 0; buffer && i < count; at += iov[i].iov_len, i++)
        if (iov[i].iov_len)
            memcpy(buffer + at, iov[i].iov_base, iov[i].iov_len);
    return buffer;
}

ssize_t do_sendmsg(void *userdata, int fd, const struct msghdr *msg, int flags)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    size_t total;
    if (!file)
        return -1;
    char *buffer = gather(msg->msg_iov, msg->msg_iovlen, &total);
    if (buffer && flags & MSG_ZEROCOPY && file->errors.zerocopy && file->state == PD_CONNECTED && total) {
        free(buffer);
        return send_some(world, file, msg->msg_iov, total, flags);
    }
    if (!buffer)
        return -1;
    ssize_t n = do_sendto(userdata, fd, buffer, total, flags, msg->msg_name, msg->msg_namelen);
    free(buffer);
    return n;
}

ssize_t do_writev(void *userdata, int fd, const struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    return do_sendmsg(userdata, fd, &msg, 0);
}
