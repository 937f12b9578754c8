/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_posix.h - the calls of struct netmap_sys that are the same on all
 * systems: the device itself.  What a system knows of its interfaces is in
 * netmap_linux.c and netmap_freebsd.c.
 */
#ifndef AMS_IO_NETMAP_POSIX_H
#define AMS_IO_NETMAP_POSIX_H

#include <sys/ioctl.h>

#include "io/netmap_sys.h"

#define NM_IOCTL_CONTROL _IOWR('i', 151, struct nm_header) /* NIOCCTRL */
#define NM_IOCTL_TXSYNC _IO('i', 148)                      /* NIOCTXSYNC */
#define NM_IOCTL_RXSYNC _IO('i', 149)                      /* NIOCRXSYNC */

/* As the fields of struct netmap_sys; ctx is not used. */
int netmap_posix_open(void *ctx);
int netmap_posix_control(void *ctx, int fd, struct nm_header *header);
int netmap_posix_sync(void *ctx, int fd, bool tx);
void *netmap_posix_map(void *ctx, int fd, size_t size);
void netmap_posix_unmap(void *ctx, void *base, size_t size);
void netmap_posix_close(void *ctx, int fd);
bool netmap_posix_drain(void *ctx, int fd);
void netmap_posix_random(void *ctx, void *out, size_t size);

#endif
