/* SPDX-License-Identifier: BSD-2-Clause
 *
 * adapter.c - packets, the clock, and the table of calls that packetdrill gets.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "calls.h"
#include "packetdrill.h"
#include "preload.h"

#define EPOCH_S 1700000000ull            /* what the virtual clock shows at first */
#define RECEIVE_LIMIT (20000 * PD_NS_PER_S) /* how long netdev_receive() may wait */

/* ---- packets and the clock ----------------------------------------------------------------- */

static int do_netdev_send(void *userdata, const void *packet, size_t len)
{
    struct pd_world *world = userdata;
    if (!world->node && world_start(world, NULL) < 0)
        return -1;
    settings_renew(world);
    int status = world_inject(world, packet, len);
    for (int id = 0; id < world->n_by_id; id++)
        if (world->by_id[id])
            sendbuf_input(world, world->by_id[id]);
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

void clock_at(uint64_t at, struct timespec *out)
{
    out->tv_sec = (time_t)(EPOCH_S + at / PD_NS_PER_S);
    out->tv_nsec = (long)(at % PD_NS_PER_S);
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
    struct pd_world *world = userdata;
    struct pd_file *in = fd_in >= 0 && fd_in < PD_FDS ? world->by_fd[fd_in] : NULL;
    struct pd_file *out = fd_out >= 0 && fd_out < PD_FDS ? world->by_fd[fd_out] : NULL;
    (void)off_in, (void)off_out, (void)flags;
    if (!in || !out || (in->kind != PD_PIPE && out->kind != PD_PIPE)) {
        errno = in && out ? EINVAL : EBADF;
        return -1;
    }
    if (out->kind == PD_PIPE) { /* what is read must not get lost */
        size_t room = files_pipe_room(out);
        len = len < room ? len : room;
        if (!room) {
            errno = EAGAIN;
            return -1;
        }
    }
    char *buffer = malloc(len ? len : 1);
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
