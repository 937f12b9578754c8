/* SPDX-License-Identifier: BSD-2-Clause
 *
 * open.c - a socket's life: opening, accepting, connecting, shutting down.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "calls.h"

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* ---- addresses --------------------------------------------------------------------- */

bool address_in(const struct sockaddr *address, socklen_t len, struct ams_endpoint *out)
{
    memset(out, 0, sizeof(*out));
    if (!address || len < sizeof(address->sa_family))
        return false;
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

int do_socket(void *userdata, int domain, int type, int protocol)
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

int do_bind(void *userdata, int fd, const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file)
        return -1;
    if (file->bound || file->id >= 0 || !address_in(address, len, &file->local)) {
        errno = EINVAL;
        return -1;
    }
    file->bound = true;
    return world_start(world, &file->local);
}

int do_listen(void *userdata, int fd, int backlog)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    if (!file || world_start(world, file->bound ? &file->local : NULL) < 0)
        return -1;
    if (file->state == PD_LISTENING)
        return 0;
    if (file->state != PD_NEW) {
        errno = EINVAL;
        return -1;
    }
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

bool must_not_wait(const struct pd_file *file, int flags)
{
    return file->flags & O_NONBLOCK || flags & MSG_DONTWAIT;
}

int do_accept(void *userdata, int fd, struct sockaddr *address, socklen_t *len)
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

bool connect_ready(struct pd_file *file, void *arg)
{
    (void)arg;
    return file->state != PD_CONNECTING;
}

/* The outcome of an open that has ended. */
int connect_result(struct pd_file *file)
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
int connect_start(struct pd_world *world, struct pd_file *file, const struct ams_endpoint *remote)
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
    if (settings_pacing())
        ams_tcp_setopt(world->stack, id, AMS_OPT_PACING, 1);
    return 0;
}

/* Asks for Fast Open.  Return: the bytes that the SYN can carry; -1: no SYN waits. */
int fastopen_wait(struct pd_world *world, struct pd_file *file, int how)
{
    int room = -1;
    ams_tcp_setopt(world->stack, file->id, AMS_OPT_FASTOPEN_CONNECT, how);
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_FASTOPEN_ROOM, &room);
    return room;
}

int do_connect(void *userdata, int fd, const struct sockaddr *address, socklen_t len)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, fd, PD_TCP);
    struct ams_endpoint remote;
    if (!file)
        return -1;
    if (!address || len < sizeof(address->sa_family)) {
        errno = address ? EINVAL : EFAULT;
        return -1;
    }
    if (address->sa_family == AF_UNSPEC)
        return disconnect(world, file);
    if (!address_in(address, len, &remote)) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    if (file->state == PD_CONNECTED && file->in_progress) { /* the call that asks how it ended */
        file->in_progress = false;
        return 0;
    }
    if (file->state == PD_CLOSED && file->told && !file->connected_at)
        disconnect(world, file); /* after one that failed, another try */
    if (file->state == PD_CONNECTED || file->state == PD_LISTENING || (file->state == PD_CLOSED && file->told)) {
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
            file->in_progress = true;
            errno = EINPROGRESS;
            return -1;
        }
    }
    world_wait(world, file, connect_ready, NULL, UINT64_MAX);
    return connect_result(file);
}

/* ---- the rest of a socket's life -------------------------------------------------------- */

int do_shutdown(void *userdata, int fd, int how)
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

struct lingering {
    struct pd_world *world;
    int id;
};

/* A condition for world_wait(): the peer has acknowledged our FIN, or there is no connection any more. */
static bool fin_acknowledged(struct pd_file *file, void *arg)
{
    const struct lingering *lingering = arg;
    struct ams_tcp_info info = {0};
    (void)file;
    if (ams_tcp_get_info(lingering->world->stack, lingering->id, &info, lingering->world->now) < 0)
        return true;
    return info.state != AMS_TCP_FIN_WAIT_1 && info.state != AMS_TCP_CLOSING && info.state != AMS_TCP_LAST_ACK;
}

/* SO_LINGER with a time: close() waits for the peer, whether the socket is
 * non-blocking or not, unless unread data makes it a reset. */
static void linger(struct pd_world *world, struct pd_file *file)
{
    struct lingering lingering = {world, file->id};
    size_t unread = 0;
    int seconds = -1;
    ams_tcp_getopt(world->stack, file->id, AMS_OPT_LINGER, &seconds);
    ams_tcp_peek(world->stack, file->id, &unread);
    if (seconds <= 0 || unread || ams_tcp_shutdown(world->stack, file->id) < 0)
        return;
    world_settle(world);
    world_wait(world, file, fin_acknowledged, &lingering, world->now + (uint64_t)seconds * PD_NS_PER_S);
}

int do_close(void *userdata, int fd)
{
    struct pd_world *world = userdata;
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    if (file && file->kind == PD_TCP && file->state == PD_CONNECTED && file->id >= 0)
        linger(world, file);
    return world_close(world, fd);
}

int do_fcntl(void *userdata, int fd, int command, ...)
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

int do_ioctl(void *userdata, int fd, unsigned long request, ...)
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
    if (!value) {
        errno = EFAULT;
        return -1;
    }
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
