/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_linux.c - what Linux knows of a netmap port's interface.
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC under -std=c11 */

#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/status.h"
#include "io/netlink.h"
#include "io/netmap.h"
#include "io/netmap_posix.h"
#include "io/xdp_link.h"

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

static const struct netmap_sys linux_system = {
    .open = netmap_posix_open,
    .control = netmap_posix_control,
    .sync = netmap_posix_sync,
    .map = netmap_posix_map,
    .unmap = netmap_posix_unmap,
    .close = netmap_posix_close,
    .link = linux_link,
    .watch = linux_watch,
    .drain = netmap_posix_drain,
    .promiscuous = linux_promiscuous,
    .has_address = linux_has_address,
    .random = netmap_posix_random,
};

const struct netmap_sys *netmap_system(void)
{
    return &linux_system;
}
