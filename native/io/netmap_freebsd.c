/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_freebsd.c - what FreeBSD knows of a netmap port's interface.
 */
#include <sys/types.h>

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/bpf.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "io/link_freebsd.h"
#include "io/netmap.h"
#include "io/netmap_posix.h"
#include "wire/bytes.h"

static int freebsd_link(void *ctx, const char *name, struct netmap_link *link)
{
    struct ifreq request;
    int status = 0, fd = socket(AF_LOCAL, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)ctx;
    if (fd < 0)
        return -errno;
    memset(link, 0, sizeof(*link));
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, name, strlen(name));
    link->index = if_nametoindex(name);
    if (!link->index)
        status = -ENODEV;
    if (!status && ioctl(fd, SIOCGIFMTU, &request) == 0)
        link->mtu = (uint32_t)request.ifr_mtu;
    else if (!status)
        status = -errno;
    if (!status && ioctl(fd, SIOCGIFFLAGS, &request) == 0)
        link->up = request.ifr_flags & IFF_UP;
    else if (!status)
        status = -errno;
    close(fd);
    link_read_mac(name, link->mac);
    /* Pairs of interfaces inside this machine, which leave checksums to each other. */
    link->partial = strncmp(name, "epair", 5) == 0 || strncmp(name, "vtnet", 5) == 0;
    return status;
}

static int freebsd_watch(void *ctx)
{
    int fd = socket(PF_ROUTE, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    (void)ctx;
    return fd < 0 ? -errno : fd;
}

static int freebsd_promiscuous(void *ctx, const char *name)
{
    struct ifreq request;
    int fd = open("/dev/bpf", O_RDWR | O_CLOEXEC);

    (void)ctx;
    if (fd < 0)
        return -errno;
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, name, strlen(name));
    if (ioctl(fd, BIOCSETIF, &request) < 0 || ioctl(fd, BIOCPROMISC, NULL) < 0) {
        int number = errno;
        close(fd);
        return -number;
    }
    return fd;
}

/* True if an interface's address is this one. */
static bool freebsd_is(const struct sockaddr *address, const uint8_t ip[16])
{
    uint8_t other[16];

    if (!address || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
        return false;
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof(v4));
        ip_map4(other, (const uint8_t *)&v4.sin_addr);
    } else {
        struct sockaddr_in6 v6;
        memcpy(&v6, address, sizeof(v6));
        memcpy(other, &v6.sin6_addr, 16);
        if (other[0] == 0xfe && (other[1] & 0xc0) == 0x80) /* the kernel keeps the scope in there */
            other[2] = other[3] = 0;
    }
    return ip_equal(other, ip);
}

static bool freebsd_has_address(void *ctx, const char *name, const uint8_t ip[16])
{
    struct ifaddrs *all;
    bool link_local = !ip_is4(ip) && ip[0] == 0xfe && (ip[1] & 0xc0) == 0x80, found = false;

    (void)ctx;
    if (getifaddrs(&all) != 0)
        return true; /* claims of what isn't the system's are harmless; its packets taken away are not */
    for (const struct ifaddrs *one = all; one && !found; one = one->ifa_next) {
        if (!link_local || strcmp(one->ifa_name, name) == 0)
            found = freebsd_is(one->ifa_addr, ip);
    }
    freeifaddrs(all);
    return found;
}

static const struct netmap_sys freebsd_system = {
    .open = netmap_posix_open,
    .control = netmap_posix_control,
    .sync = netmap_posix_sync,
    .map = netmap_posix_map,
    .unmap = netmap_posix_unmap,
    .close = netmap_posix_close,
    .link = freebsd_link,
    .watch = freebsd_watch,
    .drain = netmap_posix_drain,
    .promiscuous = freebsd_promiscuous,
    .has_address = freebsd_has_address,
    .random = netmap_posix_random,
};

const struct netmap_sys *netmap_system(void)
{
    return &freebsd_system;
}
