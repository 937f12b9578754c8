/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>
#include <sys/param.h>
#include <sys/cpuset.h>
#include <sys/event.h>
#include <pthread.h>
#include <pthread_np.h>

#include "io/wait.h"

#include <errno.h>
#include <time.h>

#include "core/status.h"
#include "io/port.h"

#define WAIT_EVENTS 64

int wait_new(void)
{
    int set = kqueue();

    return set < 0 ? port_status(errno) : set;
}

int wait_add(int set, int fd, uint64_t token, bool edge)
{
    struct kevent event;

    EV_SET(&event, (uintptr_t)fd, EVFILT_READ, EV_ADD | (edge ? EV_CLEAR : 0), 0, 0, (void *)(uintptr_t)token);
    return kevent(set, &event, 1, NULL, 0, NULL) < 0 ? port_status(errno) : 0;
}

void wait_remove(int set, int fd)
{
    struct kevent event;

    EV_SET(&event, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0, NULL);
    kevent(set, &event, 1, NULL, 0, NULL);
}

int wait_for(int set, uint64_t *tokens, int max, int timeout)
{
    struct kevent events[WAIT_EVENTS];
    struct timespec limit = {timeout / 1000, (long)(timeout % 1000) * 1000000};
    int n = kevent(set, NULL, 0, events, max < WAIT_EVENTS ? max : WAIT_EVENTS, timeout < 0 ? NULL : &limit);

    for (int i = 0; i < n; i++)
        tokens[i] = (uint64_t)(uintptr_t)events[i].udata;
    return n > 0 ? n : 0;
}

int wait_pin(pthread_attr_t *attr, int cpu)
{
    cpuset_t cpus;

    if (cpu >= CPU_SETSIZE)
        return -AMS_EINVAL;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return pthread_attr_setaffinity_np(attr, sizeof(cpus), &cpus) ? -AMS_EINVAL : 0;
}
