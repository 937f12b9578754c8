/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_linux.c - the netmap driver's system calls on Linux.
 */
#define _GNU_SOURCE /* O_CLOEXEC, getentropy under -std=c11 */

#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/status.h"
#include "io/netlink.h"
#include "io/netmap.h"
#include "io/xdp_link.h"

#define IOCTL_CONTROL 0xc0586997ul
#define IOCTL_TXSYNC 0x6994ul
#define IOCTL_RXSYNC 0x6995ul

static int linux_open(void *ctx)
{
    int fd = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);

    (void)ctx;
    return fd < 0 ? -errno : fd;
}

static int linux_control(void *ctx, int fd, struct nm_header *header)
{
    (void)ctx;
    return ioctl(fd, IOCTL_CONTROL, header) < 0 ? -errno : 0;
}

static int linux_sync(void *ctx, int fd, bool tx)
{
    (void)ctx;
    return ioctl(fd, tx ? IOCTL_TXSYNC : IOCTL_RXSYNC, NULL) < 0 ? -errno : 0;
}

static void *linux_map(void *ctx, int fd, size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    (void)ctx;
    return base == MAP_FAILED ? NULL : base;
}

static void linux_unmap(void *ctx, void *base, size_t size)
{
    (void)ctx;
    munmap(base, size);
}

static void linux_close(void *ctx, int fd)
{
    (void)ctx;
    close(fd);
}

static int linux_link(void *ctx, const char *name, struct netmap_link *link)
{
    struct port_error silent = {NULL, 0};
    struct xdp_link facts;

    (void)ctx;
    if (!if_nametoindex(name))
        return -ENODEV;
    int status = xdp_link_find(&facts, name, &silent);
    if (status)
        return status == -AMS_ENODEV ? -ENODEV : -ams_status_errno(status);
    /* Where netmap has no driver for the NIC, it takes frames behind the kernel's GRO, which merges segments
     * and leaves their checksum unfinished.  Which way it is, netmap doesn't say. */
    *link = (struct netmap_link){.index = facts.ifindex, .mtu = facts.mtu, .up = facts.up, .partial = true};
    memcpy(link->mac, facts.mac, 6);
    xdp_link_release(&facts);
    return 0;
}

static int linux_watch(void *ctx)
{
    (void)ctx;
    return netlink_open(true);
}

/* A datagram that was lost (ENOBUFS) is news too. */
static bool linux_drain(void *ctx, int fd)
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

static int linux_promiscuous(void *ctx, const char *name)
{
    struct packet_mreq request = {.mr_type = PACKET_MR_PROMISC};
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: receives nothing */

    (void)ctx;
    if (fd < 0)
        return -errno;
    request.mr_ifindex = (int)if_nametoindex(name);
    if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request)) < 0) {
        int number = errno;
        close(fd);
        return -number;
    }
    return fd;
}

static bool linux_has_address(void *ctx, const char *name, const uint8_t ip[16])
{
    struct port_error silent = {NULL, 0};
    struct xdp_link link;

    (void)ctx;
    if (xdp_link_find(&link, name, &silent))
        return true; /* claims of what isn't the system's are harmless; its packets taken away are not */
    bool has = xdp_link_system_has(&link, ip);
    xdp_link_release(&link);
    return has;
}

static void linux_random(void *ctx, void *out, size_t size)
{
    (void)ctx;
    AMS_ASSERT(getentropy(out, size) == 0);
}

static const struct netmap_sys linux_system = {
    .open = linux_open,
    .control = linux_control,
    .sync = linux_sync,
    .map = linux_map,
    .unmap = linux_unmap,
    .close = linux_close,
    .link = linux_link,
    .watch = linux_watch,
    .drain = linux_drain,
    .promiscuous = linux_promiscuous,
    .has_address = linux_has_address,
    .random = linux_random,
};

const struct netmap_sys *netmap_system(void)
{
    return &linux_system;
}
