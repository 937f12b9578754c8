/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE

#include "io/wait.h"

#include <errno.h>
#include <sched.h>
#include <sys/epoll.h>

#include "core/status.h"
#include "io/port.h"

#define WAIT_EVENTS 64

int wait_new(void)
{
    int set = epoll_create1(EPOLL_CLOEXEC);

    return set < 0 ? port_status(errno) : set;
}

int wait_add(int set, int fd, uint64_t token, bool edge)
{
    struct epoll_event event = {.events = EPOLLIN | (edge ? EPOLLET : 0), .data.u64 = token};

    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? port_status(errno) : 0;
}

void wait_remove(int set, int fd)
{
    epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL);
}

int wait_for(int set, uint64_t *tokens, int max, int timeout)
{
    struct epoll_event events[WAIT_EVENTS];
    int n = epoll_wait(set, events, max < WAIT_EVENTS ? max : WAIT_EVENTS, timeout);

    for (int i = 0; i < n; i++)
        tokens[i] = events[i].data.u64;
    return n > 0 ? n : 0;
}

int wait_pin(pthread_attr_t *attr, int cpu)
{
    cpu_set_t cpus;

    if (cpu >= CPU_SETSIZE)
        return -AMS_EINVAL;
    CPU_ZERO(&cpus);
    CPU_SET((size_t)cpu, &cpus);
    return pthread_attr_setaffinity_np(attr, sizeof(cpus), &cpus) ? -AMS_EINVAL : 0;
}
