/* SPDX-License-Identifier: BSD-2-Clause
 *
 * adapter.c - packetdrill's calls on sockets.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "packetdrill.h"
#include "preload.h"
#include "world.h"

#define EPOCH_S 1700000000ull            /* what the virtual clock shows at first */
#define RECEIVE_LIMIT (20000 * PD_NS_PER_S) /* how long netdev_receive() may wait */
#define WRITE_CHUNK (1 << 20)

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* ---- addresses --------------------------------------------------------------------- */

bool address_in(const struct sockaddr *address, socklen_t len, struct ams_endpoint *out)
{
    memset(out, 0, sizeof(*out));
    if (address->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        out->family = AMS_IPV4;
        out->port = ntohs(in->sin_port);
        memcpy(out->ip, mapped_prefix, 12);
        memcpy(out->ip + 12, &in->sin_addr, 4);
        return true;
    }
    if (address->sa_family != AF_INET6 || len < sizeof(struct sockaddr_in6))
        return false;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    out->port = ntohs(in6->sin6_port);
    memcpy(out->ip, &in6->sin6_addr, 16);
    out->family = memcmp(out->ip, mapped_prefix, 12) == 0 ? AMS_IPV4 : AMS_IPV6;
    return true;
}

void address_out(int family, const struct ams_endpoint *endpoint, struct sockaddr *address, socklen_t *len)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(endpoint->port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(endpoint->port)};
    memcpy(&in.sin_addr, endpoint->ip + 12, 4);
    memcpy(&in6.sin6_addr, endpoint->ip, 16);
    socklen_t size = family == AF_INET ? sizeof(in) : sizeof(in6);
    const void *from = family == AF_INET ? (const void *)&in : (const void *)&in6;
    if (address)
        memcpy(address, from, *len < size ? *len : size);
    *len = size;
}

/* ---- opening ------------------------------------------------------------------------ */

static int do_socket(void *userdata, int domain, int type, int protocol)
{
    struct pd_world *world = userdata;
    if (domain != AF_INET && domain != AF_INET6) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    if ((type & 0xf) != SOCK_STREAM || (protocol && protocol != IPPROTO_TCP)) {
        errno = EPROTONOSUPPORT;
        return -1;
    }
    struct pd_file *file = world_file_new(world, PD_TCP);
    if (!file)
        return -1;
    file->family = domain;
    file->flags = type & SOCK_NONBLOCK ? O_RDWR | O_NONBLOCK : O_RDWR;
    file->local.family = domain == AF_INET ? AMS_IPV4 : AMS_IPV6;
    return file->fd;
}

static int do_bind(void *userdata, int fd, const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (!address_in(address, len, &file->local)) {
        errno = EINVAL;
        return -1;
    }
    file->bound = true;
    return world_start(world, &file->local);
}

static int do_listen(void *userdata, int fd, int backlog)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file || world_start(world, file->bound ? &file->local : NULL) < 0)
        return -1;
    if (file->state == PD_LISTENING)
        return 0;
    settings_renew(world);
    /* Linux lets one more wait than asked for */
    int id = ams_tcp_listen(world->stack, &file->local, backlog + 1, file->v6only ? AMS_LISTEN_V6ONLY : 0);
    if (id < 0)
        return world_fail(id);
    world_bind_id(world, file, id);
    file->state = PD_LISTENING;
    sockopt_apply(world, file);
    return 0;
}

static bool accept_ready(struct pd_file *file, void *arg)
{
    (void)arg;
    return file->n_accepted > 0;
}

static bool must_not_wait(const struct pd_file *file, int flags)
{
    return file->flags & O_NONBLOCK || flags & MSG_DONTWAIT;
}

static int do_accept(void *userdata, int fd, struct sockaddr *address, socklen_t *len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (file->state != PD_LISTENING) {
        errno = EINVAL;
        return -1;
    }
    if ((!accept_ready(file, NULL) && must_not_wait(file, 0)) ||
        !world_wait(world, file, accept_ready, NULL, UINT64_MAX)) {
        errno = EAGAIN;
        return -1;
    }
    struct pd_file *child = file->accepted[0];
    file->n_accepted--;
    memmove(file->accepted, file->accepted + 1, (size_t)file->n_accepted * sizeof(*file->accepted));
    if (address && len)
        address_out(child->family, &child->remote, address, len);
    world_settle(world);
    return child->fd;
}

static bool connect_ready(struct pd_file *file, void *arg)
{
    (void)arg;
    return file->state != PD_CONNECTING;
}

/* The outcome of an open that has ended. */
static int connect_result(struct pd_file *file)
{
    if (file->state != PD_CLOSED)
        return 0;
    errno = file->error ? file->error : ECONNABORTED;
    file->told = true;
    return -1;
}

/* connect() with an unspecified address dissolves the association. */
static int disconnect(struct pd_world *world, struct pd_file *file)
{
    if (file->id >= 0) {
        ams_tcp_abort(world->stack, file->id);
        world->by_id[file->id] = NULL;
        file->id = -1;
        world_settle(world);
    }
    file->state = PD_NEW;
    file->eof = file->told = false;
    file->error = 0;
    return 0;
}

/* Starts an active open.  Return: 0 or -1 with errno. */
static int connect_start(struct pd_world *world, struct pd_file *file, const struct ams_endpoint *remote)
{
    if (world_start(world, file->bound ? &file->local : NULL) < 0)
        return -1;
    settings_renew(world);
    int id = ams_tcp_connect(world->stack, file->bound ? &file->local : NULL, remote, world->now);
    if (id < 0)
        return world_fail(id);
    world_bind_id(world, file, id);
    file->remote = *remote;
    file->state = PD_CONNECTING;
    ams_tcp_set_reading(world->stack, id, AMS_READ_EVENT);
    sockopt_apply(world, file);
    return 0;
}

/* Asks for Fast Open.  Return: the bytes that the SYN can carry; -1: no SYN waits. */
static int fastopen_wait(struct pd_world *world, struct pd_file *file, int how)
{
    int room = -1;
    ams_tcp_setopt(world->stack, file->id, AMS_OPT_FASTOPEN_CONNECT, how);
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_FASTOPEN_ROOM, &room);
    return room;
}

static int do_connect(void *userdata, int fd, const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    struct ams_endpoint remote;
    if (!file)
        return -1;
    if (address->sa_family == AF_UNSPEC)
        return disconnect(world, file);
    if (!address_in(address, len, &remote)) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    if (file->state == PD_CONNECTED || (file->state == PD_CLOSED && file->told)) {
        errno = EISCONN;
        return -1;
    }
    if (file->deferred) {
        errno = EISCONN;
        return -1;
    }
    if (file->state == PD_CONNECTING && must_not_wait(file, 0)) {
        errno = EALREADY;
        return -1;
    }
    if (file->state == PD_NEW) {
        if (connect_start(world, file, &remote) < 0)
            return -1;
        if (file->fastopen_connect && fastopen_wait(world, file, 1) >= 0) {
            file->deferred = true; /* it is the first write that connects */
            return 0;
        }
        world_settle(world);
        if (file->state == PD_CONNECTING && must_not_wait(file, 0)) {
            errno = EINPROGRESS;
            return -1;
        }
    }
    world_wait(world, file, connect_ready, NULL, UINT64_MAX);
    return connect_result(file);
}

/* ---- reading -------------------------------------------------------------------------- */

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

/* Copies the first piece without consuming it. */
static ssize_t peek_data(struct pd_world *world, struct pd_file *file, char *buffer, size_t size)
{
    size_t waiting;
    const char *data = ams_tcp_peek(world->stack, file->id, &waiting);
    size_t n = waiting < size ? waiting : size;
    if (n)
        memcpy(buffer, data, n);
    return (ssize_t)n;
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
    ssize_t n = flags & MSG_PEEK ? peek_data(world, file, buffer, size)
                                 : take_data(world, file, flags & MSG_TRUNC ? NULL : buffer, size);
    world_settle(world);
    return n;
}

static ssize_t do_recv(void *userdata, int fd, void *buffer, size_t size, int flags)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    return file ? read_some(world, file, buffer, size, flags) : -1;
}

static ssize_t do_recvfrom(void *userdata, int fd, void *buffer, size_t size, int flags, struct sockaddr *address,
                           socklen_t *len)
{
    if (address && len)
        *len = 0; /* a stream has no source to name */
    return do_recv(userdata, fd, buffer, size, flags);
}

static ssize_t do_readv(void *userdata, int fd, const struct iovec *iov, int count)
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

static ssize_t do_recvmsg(void *userdata, int fd, struct msghdr *msg, int flags)
{
    if (flags & MSG_ERRQUEUE) { /* nothing is ever queued there */
        errno = EAGAIN;
        return -1;
    }
    msg->msg_controllen = 0;
    msg->msg_flags = 0;
    msg->msg_namelen = 0;
    ssize_t total = 0;
    for (size_t i = 0; i < msg->msg_iovlen; i++) {
        struct iovec *iov = &msg->msg_iov[i];
        ssize_t n = do_recv(userdata, fd, iov->iov_base, iov->iov_len, flags | (total ? MSG_DONTWAIT : 0));
        if (n < 0)
            return total ? total : -1;
        total += n;
        if ((size_t)n < iov->iov_len)
            break;
    }
    return total;
}

/* ---- writing ---------------------------------------------------------------------------- */

/* Bytes that a kernel's send() would take now. */
static size_t write_room(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info;
    int sndbuf = 0;
    if (file->id < 0 || ams_tcp_get_info(world->stack, file->id, &info, world->now) < 0)
        return 0;
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_SNDBUF, &sndbuf);
    if (info.not_sent >= file_lowat(file))
        return 0;
    return info.send_queue < (uint32_t)sndbuf ? (uint32_t)sndbuf - info.send_queue : 0;
}

static bool write_ready(struct pd_file *file, void *arg)
{
    return file->state == PD_CLOSED || (file->state == PD_CONNECTED && write_room(arg, file) > 0);
}

static int write_error(struct pd_file *file)
{
    errno = file->error && !file->told ? file->error : EPIPE;
    file->told = true;
    return -1;
}

static ssize_t write_some(struct pd_world *world, struct pd_file *file, const char *data, size_t size, int flags)
{
    size_t done = 0;
    if (file->state == PD_NEW || file->state == PD_LISTENING) {
        errno = file->state == PD_NEW ? EPIPE : ENOTCONN;
        return -1;
    }
    while (done < size) {
        if (file->write_shut || file->state == PD_CLOSED)
            return done ? (ssize_t)done : write_error(file);
        size_t room = file->state == PD_CONNECTED || file->deferred ? write_room(world, file) : 0;
        if (!room) {
            ams_tcp_want_drain(world->stack, file->id, 0);
            if (must_not_wait(file, flags)) {
                errno = EAGAIN;
                return done ? (ssize_t)done : -1;
            }
            if (!world_wait(world, file, write_ready, world, UINT64_MAX)) {
                errno = EAGAIN;
                return done ? (ssize_t)done : -1;
            }
            continue;
        }
        size_t n = size - done < room ? size - done : room;
        n = n < WRITE_CHUNK ? n : WRITE_CHUNK;
        int status = ams_tcp_send(world->stack, file->id, data + done, n);
        if (status < 0) {
            if (done)
                return (ssize_t)done;
            return world_fail(status);
        }
        done += n;
        world_settle(world);
    }
    return (ssize_t)done;
}

/* MSG_MORE holds a partial segment back, as TCP_CORK does. */
static ssize_t send_some(struct pd_world *world, struct pd_file *file, const void *data, size_t size, int flags)
{
    int corked = 0;
    bool more = flags & MSG_MORE && file->id >= 0;
    if (more) {
        ams_tcp_getopt(world->stack, file->id, AMS_OPT_CORK, &corked);
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_CORK, 1);
    }
    ssize_t n = write_some(world, file, data, size, flags);
    if (more && !corked)
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_CORK, 0);
    return n;
}

/* The data that a waiting SYN can carry.  Return: the bytes, -1 with errno. */
static ssize_t syn_write(struct pd_world *world, struct pd_file *file, const void *data, size_t size)
{
    int room = -1;
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_FASTOPEN_ROOM, &room);
    file->deferred = false;
    if (!size || room < 0)
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_FASTOPEN_CONNECT, 2);
    size_t n = room < 0 ? 0 : size < (size_t)room ? size : (size_t)room;
    int status = n ? ams_tcp_send(world->stack, file->id, data, n) : 0;
    if (status < 0)
        return world_fail(status);
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
    size_t room = write_room(world, file), rest = size - (size_t)done;
    rest = rest < room ? rest : room;
    if (rest && file->state == PD_CONNECTING && ams_tcp_send(world->stack, file->id, data + done, rest) >= 0)
        done += (ssize_t)rest;
    world_wait(world, file, connect_ready, NULL, UINT64_MAX);
    if (connect_result(file) < 0)
        return -1;
    if ((size_t)done == size)
        return done;
    ssize_t more = send_some(world, file, data + done, size - (size_t)done, flags);
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
    return syn_finish(world, file, data, size, flags, syn_write(world, file, data, size));
}

static ssize_t do_sendto(void *userdata, int fd, const void *data, size_t size, int flags,
                         const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (!file->deferred && flags & MSG_FASTOPEN && (file->state == PD_NEW || file->state == PD_CONNECTING))
        return send_fastopen(world, file, data, size, flags, address, len);
    if (file->deferred)
        return syn_finish(world, file, data, size, flags, syn_write(world, file, data, size));
    return send_some(world, file, data, size, flags);
}

static ssize_t do_send(void *userdata, int fd, const void *data, size_t size, int flags)
{
    return do_sendto(userdata, fd, data, size, flags, NULL, 0);
}

/* Makes one buffer of several.  Owns: the caller.  Return: NULL with errno. */
static char *gather(const struct iovec *iov, size_t count, size_t *total)
{
    *total = 0;
    for (size_t i = 0; i < count; i++)
        *total += iov[i].iov_len;
    char *buffer = malloc(*total ? *total : 1);
    size_t at = 0;
    for (size_t i = 0; buffer && i < count; at += iov[i].iov_len, i++)
        if (iov[i].iov_len)
            memcpy(buffer + at, iov[i].iov_base, iov[i].iov_len);
    return buffer;
}

static ssize_t do_sendmsg(void *userdata, int fd, const struct msghdr *msg, int flags)
{
    size_t total;
    char *buffer = gather(msg->msg_iov, msg->msg_iovlen, &total);
    if (!buffer)
        return -1;
    ssize_t n = do_sendto(userdata, fd, buffer, total, flags, msg->msg_name, msg->msg_namelen);
    free(buffer);
    return n;
}

static ssize_t do_writev(void *userdata, int fd, const struct iovec *iov, int count)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    return do_sendmsg(userdata, fd, &msg, 0);
}

/* ---- the rest of a socket's life -------------------------------------------------------- */

static int do_shutdown(void *userdata, int fd, int how)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (file->state != PD_CONNECTED && file->state != PD_CONNECTING && file->state != PD_LISTENING) {
        errno = ENOTCONN;
        return -1;
    }
    if (how == SHUT_RD || how == SHUT_RDWR)
        file->read_shut = true;
    if ((how == SHUT_WR || how == SHUT_RDWR) && file->state != PD_LISTENING) {
        file->write_shut = true;
        int status = ams_tcp_shutdown(world->stack, file->id);
        if (status < 0)
            return world_fail(status);
    }
    file->changes++;
    world_settle(world);
    return 0;
}

static int do_close(void *userdata, int fd)
{
    return world_close(userdata, fd);
}

static int do_fcntl(void *userdata, int fd, int command, ...)
{
    struct pd_world *world = userdata;
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    va_list arguments;
    va_start(arguments, command);
    int value = command == F_SETFL ? va_arg(arguments, int) : 0;
    va_end(arguments);
    if (!file) {
        errno = EBADF;
        return -1;
    }
    switch (command) {
    case F_GETFL:
        return file->flags;
    case F_SETFL:
        file->flags = O_RDWR | (value & O_NONBLOCK);
        return 0;
    case F_GETFD:
    case F_SETFD:
        return 0;
    default:
        errno = EINVAL;
        return -1;
    }
}

static int do_ioctl(void *userdata, int fd, unsigned long request, ...)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    struct ams_tcp_info info = {0};
    va_list arguments;
    va_start(arguments, request);
    int *value = va_arg(arguments, int *);
    va_end(arguments);
    if (!file)
        return -1;
    if (request == FIONBIO) {
        file->flags = *value ? O_RDWR | O_NONBLOCK : O_RDWR;
        return 0;
    }
    if (file->state == PD_LISTENING) {
        errno = EINVAL;
        return -1;
    }
    if (file->id >= 0)
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
    if (request == FIONREAD)
        *value = (int)info.recv_queue;
    else if (request == SIOCOUTQ)
        *value = (int)info.send_queue;
    else if (request == SIOCOUTQNSD)
        *value = (int)(info.send_queue > info.unacked ? info.send_queue - info.unacked : 0);
    else
        return errno = EINVAL, -1;
    return 0;
}

/* ---- packets and the clock ----------------------------------------------------------------- */

static int do_netdev_send(void *userdata, const void *packet, size_t len)
{
    struct pd_world *world = userdata;
    if (!world->node && world_start(world, NULL) < 0)
        return -1;
    settings_renew(world);
    int status = world_inject(world, packet, len);
    world_run(world, world->now, false);
    return status;
}

static int do_netdev_receive(void *userdata, void *buffer, size_t *len, long long *time_us)
{
    struct pd_world *world = userdata;
    if (!world->out_head)
        world_run(world, world->now + RECEIVE_LIMIT, true);
    struct pd_packet *packet = world->out_head;
    if (!packet) { /* an empty packet fails the script */
        *len = 0;
        return 0;
    }
    world->out_head = packet->next;
    if (!packet->next)
        world->out_tail = NULL;
    *len = packet->len < *len ? packet->len : *len;
    memcpy(buffer, packet->data, *len);
    *time_us = (long long)(EPOCH_S * 1000000 + packet->at / PD_NS_PER_US);
    free(packet);
    return 0;
}

/* packetdrill has let go of its lock here: a thread that has just returned
 * from a blocking call gets (real) time to take it and to note its result. */
static int do_usleep(void *userdata, useconds_t duration)
{
    static const struct timespec moment = {.tv_nsec = 2000000};
    struct pd_world *world = userdata;
    if (world->handed_over) {
        world->handed_over = false;
        pthread_mutex_unlock(&world->lock);
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&world->lock);
    }
    world_run(world, world->now + duration * PD_NS_PER_US, false);
    return 0;
}

static int do_gettimeofday(void *userdata, struct timeval *tv, struct timezone *tz)
{
    struct pd_world *world = userdata;
    (void)tz;
    if (!world_clock_read(world))
        world_run(world, world->now + PD_NS_PER_US, false);
    tv->tv_sec = (time_t)(EPOCH_S + world->now / PD_NS_PER_S);
    tv->tv_usec = (suseconds_t)(world->now % PD_NS_PER_S / PD_NS_PER_US);
    return 0;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Each entry takes the lock around the call that does the work. */
#define LOCKED(type, name, parameters, arguments)          \
    static type locked_##name parameters                   \
    {                                                      \
        struct pd_world *world_ = userdata;                \
        pthread_mutex_lock(&world_->lock);                 \
        type result_ = do_##name arguments;                \
        int errno_ = errno;                                \
        pthread_mutex_unlock(&world_->lock);               \
        errno = errno_;                                    \
        return result_;                                    \
    }

static ssize_t do_read(void *userdata, int fd, void *buffer, size_t size)
{
    struct pd_world *world = userdata;
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    return file && file->kind == PD_PIPE ? files_read_pipe(file, buffer, size) : do_recv(userdata, fd, buffer, size, 0);
}

static ssize_t do_write(void *userdata, int fd, const void *data, size_t size)
{
    struct pd_world *world = userdata;
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    return file && file->kind == PD_PIPE ? files_write_pipe(file, data, size) : do_send(userdata, fd, data, size, 0);
}

static ssize_t do_splice(void *userdata, int fd_in, loff_t *off_in, int fd_out, loff_t *off_out, size_t len,
                         unsigned int flags)
{
    char *buffer = malloc(len ? len : 1);
    (void)off_in, (void)off_out, (void)flags;
    if (!buffer)
        return -1;
    ssize_t n = do_read(userdata, fd_in, buffer, len);
    if (n > 0)
        n = do_write(userdata, fd_out, buffer, (size_t)n);
    free(buffer);
    return n;
}

static int do_getsockopt(void *userdata, int fd, int level, int name, void *value, socklen_t *len)
{
    return sockopt_get(userdata, fd, level, name, value, len);
}

static int do_setsockopt(void *userdata, int fd, int level, int name, const void *value, socklen_t len)
{
    int status = sockopt_set(userdata, fd, level, name, value, len);
    struct pd_world *world = userdata;
    if (world->node)
        world_settle(world);
    return status;
}

LOCKED(int, socket, (void *userdata, int domain, int type, int protocol), (userdata, domain, type, protocol))
LOCKED(int, bind, (void *userdata, int fd, const struct sockaddr *address, socklen_t len),
       (userdata, fd, address, len))
LOCKED(int, listen, (void *userdata, int fd, int backlog), (userdata, fd, backlog))
LOCKED(int, accept, (void *userdata, int fd, struct sockaddr *address, socklen_t *len), (userdata, fd, address, len))
LOCKED(int, connect, (void *userdata, int fd, const struct sockaddr *address, socklen_t len),
       (userdata, fd, address, len))
LOCKED(ssize_t, read, (void *userdata, int fd, void *buffer, size_t size), (userdata, fd, buffer, size))
LOCKED(ssize_t, readv, (void *userdata, int fd, const struct iovec *iov, int count), (userdata, fd, iov, count))
LOCKED(ssize_t, recv, (void *userdata, int fd, void *buffer, size_t size, int flags),
       (userdata, fd, buffer, size, flags))
LOCKED(ssize_t, recvfrom,
       (void *userdata, int fd, void *buffer, size_t size, int flags, struct sockaddr *address, socklen_t *len),
       (userdata, fd, buffer, size, flags, address, len))
LOCKED(ssize_t, recvmsg, (void *userdata, int fd, struct msghdr *msg, int flags), (userdata, fd, msg, flags))
LOCKED(ssize_t, write, (void *userdata, int fd, const void *data, size_t size), (userdata, fd, data, size))
LOCKED(ssize_t, writev, (void *userdata, int fd, const struct iovec *iov, int count), (userdata, fd, iov, count))
LOCKED(ssize_t, send, (void *userdata, int fd, const void *data, size_t size, int flags),
       (userdata, fd, data, size, flags))
LOCKED(ssize_t, sendto,
       (void *userdata, int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
        socklen_t len),
       (userdata, fd, data, size, flags, address, len))
LOCKED(ssize_t, sendmsg, (void *userdata, int fd, const struct msghdr *msg, int flags), (userdata, fd, msg, flags))
LOCKED(int, close, (void *userdata, int fd), (userdata, fd))
LOCKED(int, shutdown, (void *userdata, int fd, int how), (userdata, fd, how))
LOCKED(int, getsockopt, (void *userdata, int fd, int level, int name, void *value, socklen_t *len),
       (userdata, fd, level, name, value, len))
LOCKED(int, setsockopt, (void *userdata, int fd, int level, int name, const void *value, socklen_t len),
       (userdata, fd, level, name, value, len))
LOCKED(int, netdev_send, (void *userdata, const void *packet, size_t len), (userdata, packet, len))
LOCKED(int, netdev_receive, (void *userdata, void *buffer, size_t *len, long long *time_us),
       (userdata, buffer, len, time_us))
LOCKED(int, usleep, (void *userdata, useconds_t duration), (userdata, duration))
LOCKED(int, gettimeofday, (void *userdata, struct timeval *tv, struct timezone *tz), (userdata, tv, tz))
LOCKED(ssize_t, splice,
       (void *userdata, int fd_in, loff_t *off_in, int fd_out, loff_t *off_out, size_t len, unsigned int flags),
       (userdata, fd_in, off_in, fd_out, off_out, len, flags))

static int splice_as_int(void *userdata, int fd_in, loff_t *off_in, int fd_out, loff_t *off_out, size_t len,
                         unsigned int flags)
{
    return (int)locked_splice(userdata, fd_in, off_in, fd_out, off_out, len, flags);
}

static void do_free(void *userdata)
{
    struct pd_world *world = userdata;
    preload_connect(NULL);
    world_stop(world);
    pthread_cond_destroy(&world->woken);
    pthread_cond_destroy(&world->returned);
    pthread_mutex_destroy(&world->lock);
    free(world);
}

/* What the preloaded library asks of us: is it ours, and the answer. */
static bool hook_getsockopt(void *userdata, int fd, int level, int name, void *value, socklen_t *len, int *result)
{
    struct pd_world *world = userdata;
    if (fd < 0 || fd >= PD_FDS || !world->by_fd[fd])
        return false;
    *result = locked_getsockopt(world, fd, level, name, value, len);
    return true;
}

static bool hook_close(void *userdata, int fd, int *result)
{
    struct pd_world *world = userdata;
    if (fd < 0 || fd >= PD_FDS || !world->by_fd[fd])
        return false;
    *result = locked_close(world, fd);
    return true;
}

static bool hook_write(void *userdata, int fd, const void *data, size_t size, ssize_t *result)
{
    struct pd_world *world = userdata;
    if (fd < 0 || fd >= PD_FDS || !world->by_fd[fd])
        return false;
    *result = locked_write(world, fd, data, size);
    return true;
}

__attribute__((visibility("default"))) void packetdrill_interface_init(const char *flags,
                                                                       struct packetdrill_interface *interface)
{
    static struct preload_hooks hooks;
    struct pd_world *world = calloc(1, sizeof(*world));
    if (!world)
        abort();
    pthread_mutex_init(&world->lock, NULL);
    pthread_cond_init(&world->woken, NULL);
    pthread_cond_init(&world->returned, NULL);
    world->main_thread = pthread_self();
    world->now = PD_NS_PER_S * 1000;
    world->so_flags = flags ? strdup(flags) : NULL;
    settings_remember(world);
    *interface = (struct packetdrill_interface){
        .userdata = world,
        .free = do_free,
        .socket = locked_socket,
        .bind = locked_bind,
        .listen = locked_listen,
        .accept = locked_accept,
        .connect = locked_connect,
        .read = locked_read,
        .readv = locked_readv,
        .recv = locked_recv,
        .recvfrom = locked_recvfrom,
        .recvmsg = locked_recvmsg,
        .write = locked_write,
        .writev = locked_writev,
        .send = locked_send,
        .sendto = locked_sendto,
        .sendmsg = locked_sendmsg,
        .fcntl = do_fcntl,
        .ioctl = do_ioctl,
        .close = locked_close,
        .shutdown = locked_shutdown,
        .getsockopt = locked_getsockopt,
        .setsockopt = locked_setsockopt,
        .netdev_send = locked_netdev_send,
        .netdev_receive = locked_netdev_receive,
        .usleep = locked_usleep,
        .gettimeofday = locked_gettimeofday,
        .splice = splice_as_int,
    };
    files_install(interface);
    hooks = (struct preload_hooks){world, hook_getsockopt, hook_close, hook_write};
    preload_connect(&hooks);
}
