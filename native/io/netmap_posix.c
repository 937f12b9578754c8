/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_posix.c - the netmap device, as Linux and FreeBSD both have it.
 */
#define _GNU_SOURCE /* O_CLOEXEC, getentropy under -std=c11 */

#include "io/netmap_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base.h"

int netmap_posix_open(void *ctx)
{
    int fd = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);

    (void)ctx;
    return fd < 0 ? -errno : fd;
}

int netmap_posix_control(void *ctx, int fd, struct nm_header *header)
{
    (void)ctx;
    return ioctl(fd, NM_IOCTL_CONTROL, header) < 0 ? -errno : 0;
}

int netmap_posix_sync(void *ctx, int fd, bool tx)
{
    (void)ctx;
    return ioctl(fd, tx ? NM_IOCTL_TXSYNC : NM_IOCTL_RXSYNC, NULL) < 0 ? -errno : 0;
}

void *netmap_posix_map(void *ctx, int fd, size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    (void)ctx;
    return base == MAP_FAILED ? NULL : base;
}

void netmap_posix_unmap(void *ctx, void *base, size_t size)
{
    (void)ctx;
    munmap(base, size);
}

void netmap_posix_close(void *ctx, int fd)
{
    (void)ctx;
    close(fd);
}

/* A message that was lost (ENOBUFS) is news too. */
bool netmap_posix_drain(void *ctx, int fd)
{
    char buffer[8192];
    bool any = false;

    (void)ctx;
    for (;;) {
        if (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) < 0 && errno != ENOBUFS)
            return any;
        any = true;
    }
}

void netmap_posix_random(void *ctx, void *out, size_t size)
{
    (void)ctx;
    AMS_ASSERT(getentropy(out, size) == 0);
}
