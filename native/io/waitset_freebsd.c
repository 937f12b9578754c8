/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/waitset.h"

#include <sys/types.h>

#include <sys/event.h>
#include <sys/time.h>

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <unistd.h>

int waitset_new(void)
{
    int set = kqueue();

    if (set < 0)
        return -errno;
    fcntl(set, F_SETFD, FD_CLOEXEC);
    return set;
}

/* Changes the filter of one descriptor.  Return: 0 or a negative errno. */
static int waitset_change(int set, int fd, unsigned short flags)
{
    struct kevent change;

    EV_SET(&change, (uintptr_t)fd, EVFILT_READ, flags, 0, 0, NULL);
    return kevent(set, &change, 1, NULL, 0, NULL) ? -errno : 0;
}

int waitset_add(int set, int fd)
{
    return waitset_change(set, fd, EV_ADD);
}

int waitset_remove(int set, int fd)
{
    return waitset_change(set, fd, EV_DELETE);
}
