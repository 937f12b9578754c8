/* SPDX-License-Identifier: BSD-2-Clause
 *
 * files.c - poll, epoll and pipes.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "packetdrill.h"
#include "preload.h"
#include "world.h"

#define PIPE_LIMIT 65536

void preload_connect(const struct preload_hooks *hooks)
{
    const struct preload_hooks **slot = dlsym(RTLD_DEFAULT, PRELOAD_SYMBOL);
    if (slot)
        *slot = hooks;
}

uint32_t file_lowat(const struct pd_file *file)
{
    return file->notsent_lowat ? file->notsent_lowat : settings_notsent_lowat();
}

/* ---- readiness ----------------------------------------------------------------------- */

static short stream_ready(struct pd_world *world, struct pd_file *file)
{
    struct ams_tcp_info info = {0};
    short events = 0;
    if (file->state == PD_NEW)
        return POLLOUT | POLLHUP;
    if (file->id >= 0)
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
    /* the engine reports the end only behind the data before it */
    bool ended = file->eof || info.state == AMS_TCP_CLOSE_WAIT || info.state == AMS_TCP_CLOSING ||
                 info.state == AMS_TCP_LAST_ACK || info.state == AMS_TCP_TIME_WAIT;
    if (info.recv_queue || ended || file->read_shut)
        events |= POLLIN | POLLRDNORM;
    if (ended || file->read_shut)
        events |= POLLRDHUP;
    if (file->errors.n)
        events |= POLLERR;
    if (file->state == PD_CLOSED) {
        events |= POLLIN | POLLOUT | POLLHUP | POLLRDHUP | POLLRDNORM | POLLWRNORM;
        if (file->error && !file->told)
            events |= POLLERR;
    }
    if ((file->read_shut || ended) && file->write_shut)
        events |= POLLHUP;
    if (file->state == PD_CONNECTED) {
        if (file->write_shut || sendbuf_writable(world, file))
            events |= POLLOUT | POLLWRNORM;
        else
            file->sendbuf.refused = true;
    }
    if (file->deferred)
        events |= POLLOUT | POLLWRNORM;
    return events;
}

short file_ready(struct pd_world *world, struct pd_file *file)
{
    switch (file->kind) {
    case PD_TCP:
        if (file->state == PD_LISTENING)
            return file->n_accepted ? POLLIN | POLLRDNORM : 0;
        return stream_ready(world, file);
    case PD_PIPE:
        return (short)((file->pipe_len ? POLLIN | POLLRDNORM : 0) | (file->pipe_peer ? POLLOUT : POLLHUP));
    default:
        return 0;
    }
}

/* ---- poll ------------------------------------------------------------------------------ */

struct polling {
    struct pd_world *world;
    struct pollfd *fds;
    nfds_t n;
};

static int poll_scan(const struct polling *polling)
{
    int count = 0;
    for (nfds_t i = 0; i < polling->n; i++) {
        struct pollfd *entry = &polling->fds[i];
        struct pd_file *file = entry->fd >= 0 && entry->fd < PD_FDS ? polling->world->by_fd[entry->fd] : NULL;
        short ready = file ? file_ready(polling->world, file) : POLLNVAL;
        entry->revents = (short)(ready & (entry->events | POLLERR | POLLHUP | POLLNVAL));
        count += entry->revents != 0;
    }
    return count;
}

static bool poll_ready(struct pd_file *file, void *arg)
{
    (void)file;
    return poll_scan(arg) > 0;
}

static uint64_t deadline_of(const struct pd_world *world, int timeout_ms)
{
    return timeout_ms < 0 ? UINT64_MAX : world->now + (uint64_t)timeout_ms * 1000 * PD_NS_PER_US;
}

static int files_poll(void *userdata, struct pollfd *fds, nfds_t n, int timeout_ms)
{
    struct pd_world *world = userdata;
    struct polling polling = {world, fds, n};
    pthread_mutex_lock(&world->lock);
    if (!poll_scan(&polling))
        world_wait(world, NULL, poll_ready, &polling, deadline_of(world, timeout_ms));
    int count = poll_scan(&polling);
    pthread_mutex_unlock(&world->lock);
    return count;
}

/* ---- epoll ------------------------------------------------------------------------------ */

static int files_epoll_create(void *userdata, int size)
{
    struct pd_world *world = userdata;
    if (size < 1) {
        errno = EINVAL;
        return -1;
    }
    struct pd_file *file = world_file_new(world, PD_EPOLL);
    return file ? file->fd : -1;
}

static int watch_find(const struct pd_file *file, int fd)
{
    for (int i = 0; i < file->n_watches; i++)
        if (file->watches[i].fd == fd)
            return i;
    return -1;
}

static int files_epoll_ctl(void *userdata, int epfd, int op, int fd, struct epoll_event *event)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, epfd, PD_EPOLL);
    if (!file)
        return -1;
    struct pd_file *target = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    int index = watch_find(file, fd);
    errno = !target ? EBADF : op == EPOLL_CTL_ADD ? (index >= 0 ? EEXIST : 0) : (index < 0 ? ENOENT : 0);
    if (op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD && op != EPOLL_CTL_DEL)
        errno = EINVAL;
    else if (!errno && op != EPOLL_CTL_DEL && !event)
        errno = EFAULT;
    if (errno)
        return -1;
    if (op == EPOLL_CTL_DEL) {
        file->watches[index] = file->watches[--file->n_watches];
        return 0;
    }
    if (op == EPOLL_CTL_ADD && file->n_watches == PD_WATCHES) {
        errno = ENOSPC;
        return -1;
    }
    index = op == EPOLL_CTL_ADD ? file->n_watches++ : index;
    file->watches[index] = (struct pd_watch){fd, event->events, event->data.u64, target->changes - 1, false};
    return 0;
}

struct epolling {
    struct pd_world *world;
    struct epoll_event *events;
    int max;
};

/* Reports what is ready; take: edges and one-shots are used up. */
static int epoll_scan(struct pd_file *file, const struct epolling *epolling, bool take)
{
    int count = 0;
    for (int i = 0; i < file->n_watches && count < epolling->max; i++) {
        struct pd_watch *watch = &file->watches[i];
        struct pd_file *target = epolling->world->by_fd[watch->fd];
        uint32_t ready = target ? (uint32_t)(uint16_t)file_ready(epolling->world, target) : 0;
        ready &= watch->events | EPOLLERR | EPOLLHUP;
        if (!ready || watch->spent || (watch->events & EPOLLET && watch->seen == target->changes))
            continue;
        if (take) {
            epolling->events[count] = (struct epoll_event){.events = ready, .data.u64 = watch->data};
            watch->seen = target->changes;
            watch->spent = watch->events & EPOLLONESHOT;
        }
        count++;
    }
    return count;
}

static bool epoll_ready(struct pd_file *file, void *arg)
{
    return epoll_scan(file, arg, false) > 0;
}

static int files_epoll_wait(void *userdata, int epfd, struct epoll_event *events, int max, int timeout_ms)
{
    struct pd_world *world = userdata;
    struct pd_file *file = world_file(world, epfd, PD_EPOLL);
    struct epolling epolling = {world, events, max};
    if (!file)
        return -1;
    if (max <= 0) {
        errno = EINVAL;
        return -1;
    }
    pthread_mutex_lock(&world->lock);
    if (!epoll_ready(file, &epolling))
        world_wait(world, file, epoll_ready, &epolling, deadline_of(world, timeout_ms));
    int count = epoll_scan(file, &epolling, true);
    pthread_mutex_unlock(&world->lock);
    return count;
}

/* ---- pipes ------------------------------------------------------------------------------- */

static int files_pipe(void *userdata, int fds[2])
{
    struct pd_world *world = userdata;
    struct pd_file *reader = world_file_new(world, PD_PIPE);
    struct pd_file *writer = reader ? world_file_new(world, PD_PIPE) : NULL;
    if (!writer)
        return -1;
    reader->pipe_peer = writer;
    writer->pipe_peer = reader;
    reader->flags = writer->flags = O_RDWR;
    fds[0] = reader->fd;
    fds[1] = writer->fd;
    return 0;
}

ssize_t files_read_pipe(struct pd_file *file, void *buffer, size_t size)
{
    size_t n = file->pipe_len < size ? file->pipe_len : size;
    if (!n && file->pipe_peer) {
        errno = EAGAIN;
        return -1;
    }
    if (n) {
        memcpy(buffer, file->pipe_data, n);
        memmove(file->pipe_data, file->pipe_data + n, file->pipe_len - n);
    }
    file->pipe_len -= n;
    return (ssize_t)n;
}

size_t files_pipe_room(const struct pd_file *file)
{
    return file->pipe_peer ? PIPE_LIMIT - file->pipe_peer->pipe_len : PIPE_LIMIT;
}

ssize_t files_write_pipe(struct pd_file *file, const void *data, size_t size)
{
    struct pd_file *reader = file->pipe_peer;
    if (!reader) {
        errno = EPIPE;
        return -1;
    }
    size_t room = PIPE_LIMIT - reader->pipe_len;
    size_t n = size < room ? size : room;
    char *grown = n ? realloc(reader->pipe_data, reader->pipe_len + n) : NULL;
    if (!grown) {
        errno = n ? ENOMEM : EAGAIN;
        return -1;
    }
    reader->pipe_data = grown;
    memcpy(grown + reader->pipe_len, data, n);
    reader->pipe_len += n;
    reader->changes++;
    return (ssize_t)n;
}

void files_install(struct packetdrill_interface *interface)
{
    interface->poll = files_poll;
    interface->epoll_create = files_epoll_create;
    interface->epoll_ctl = files_epoll_ctl;
    interface->epoll_wait = files_epoll_wait;
    interface->pipe = files_pipe;
}
