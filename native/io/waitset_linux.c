/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* EPOLL_CLOEXEC under -std=c11 */

#include "io/waitset.h"

#include <errno.h>
#include <stddef.h>
#include <sys/epoll.h>

int waitset_new(void)
{
    int set = epoll_create1(EPOLL_CLOEXEC);
    return set < 0 ? -errno : set;
}

int waitset_add(int set, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int waitset_remove(int set, int fd)
{
    return epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL) ? -errno : 0;
}
