/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_freebsd.c - the netmap driver's system calls on FreeBSD.
 */
#include <sys/types.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/bpf.h>
#include <net/if.h>
#include <net/if_dl.h>
#include <net/netmap.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "io/netmap.h"
#include "wire/bytes.h"

static int freebsd_open(void *ctx)
{
    int fd = open(NETMAP_DEVICE, O_RDWR | O_CLOEXEC);

    (void)ctx;
    return fd < 0 ? -errno : fd;
}

static int freebsd_control(void *ctx, int fd, struct nm_header *header)
{
    (void)ctx;
    return ioctl(fd, NIOCCTRL, header) < 0 ? -errno : 0;
}

static int freebsd_sync(void *ctx, int fd, bool tx)
{
    (void)ctx;
    return ioctl(fd, tx ? NIOCTXSYNC : NIOCRXSYNC, NULL) < 0 ? -errno : 0;
}

static void *freebsd_map(void *ctx, int fd, size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    (void)ctx;
    return base == MAP_FAILED ? NULL : base;
}

static void freebsd_unmap(void *ctx, void *base, size_t size)
{
    (void)ctx;
    munmap(base, size);
}

static void freebsd_close(void *ctx, int fd)
{
    (void)ctx;
    close(fd);
}

/* Finds an interface's Ethernet address; zero stays if it has none. */
static void freebsd_read_mac(const char *name, uint8_t mac[6])
{
    struct ifaddrs *all;

    if (getifaddrs(&all) != 0)
        return;
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        struct sockaddr_dl link;
        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_LINK || strcmp(one->ifa_name, name) != 0)
            continue;
        memcpy(&link, one->ifa_addr, ams_min_u32(one->ifa_addr->sa_len, sizeof(link)));
        if (link.sdl_alen == 6)
            memcpy(mac, LLADDR(&link), 6);
    }
    freeifaddrs(all);
}

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
    freebsd_read_mac(name, link->mac);
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

/* A message that was lost (ENOBUFS) is news too. */
static bool freebsd_drain(void *ctx, int fd)
{
    char buffer[2048];
    bool any = false;

    (void)ctx;
    for (;;) {
        if (recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT) < 0 && errno != ENOBUFS)
            return any;
        any = true;
    }
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

static void freebsd_random(void *ctx, void *out, size_t size)
{
    (void)ctx;
    AMS_ASSERT(getentropy(out, size) == 0);
}

static const struct netmap_sys freebsd_system = {
    .open = freebsd_open,
    .control = freebsd_control,
    .sync = freebsd_sync,
    .map = freebsd_map,
    .unmap = freebsd_unmap,
    .close = freebsd_close,
    .link = freebsd_link,
    .watch = freebsd_watch,
    .drain = freebsd_drain,
    .promiscuous = freebsd_promiscuous,
    .has_address = freebsd_has_address,
    .random = freebsd_random,
};

const struct netmap_sys *netmap_system(void)
{
    return &freebsd_system;
}
