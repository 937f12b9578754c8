/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tap_freebsd.c - a FreeBSD TAP device, tap(4).
 *
 * Opening /dev/tapN makes the interface tapN if there is none (sysctl
 * net.link.tap.devfs_cloning), and one process may have it open at a time.
 * The interface stays when the fd is closed.  No virtio-net headers are used:
 * frames have real checksums and the MTU's size.
 */
#include "io/tap.h"

#include <sys/types.h>

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_tap.h>
#include <net/if_types.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/status.h"
#include "io/link_freebsd.h"

#define TAP_DIRECTORY "/dev/"

int tap_system_check(const char *name, const struct port_error *error)
{
    if (strncmp(name, "tap", 3) != 0 || !name[3] || name[3 + strspn(name + 3, "0123456789")])
        return port_fail(error, -AMS_EINVAL, "'%s' is not a TAP device: they are called tap0, tap1, ...", name);
    return 0;
}

int tap_system_refused(const char *name, int number, const struct port_error *error)
{
    int status = port_status(number);

    switch (number) {
    case EPERM:
    case EACCES:
        return port_fail(error, status,
                         "no permission for TAP device %s: run as root, or have root set net.link.tap.user_open=1 "
                         "and give you " TAP_DIRECTORY "%s", name, name);
    case EBUSY: return port_fail(error, status, "TAP device %s is used by another process", name);
    case ENOENT:
    case ENXIO:
        return port_fail(error, status, TAP_DIRECTORY "%s is missing: run ifconfig %s create, or set "
                         "net.link.tap.devfs_cloning=1", name, name);
    default: return port_fail(error, status, "cannot open TAP device %s: %s", name, strerror(number));
    }
}

/* Reads the device's MTU and MAC, by the name that the interface has now.
 * Return: 0, or an errno. */
static int tap_read_link(struct tap_port *tap)
{
    struct ifreq request;
    int number = 0;

    memset(&request, 0, sizeof(request));
    if (ioctl(tap->fd, TAPGIFNAME, &request) != 0)
        return errno;
    int fd = socket(AF_LOCAL, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    if (ioctl(fd, SIOCGIFMTU, &request) == 0)
        tap->port.info.mtu = (uint32_t)request.ifr_mtu;
    else
        number = errno;
    close(fd);
    return number ? number : link_read_mac(request.ifr_name, tap->port.info.mac);
}

int tap_system_open(struct tap_port *tap, const char *name, bool offload)
{
    char path[sizeof(TAP_DIRECTORY) + IFNAMSIZ];

    (void)offload;
    snprintf(path, sizeof(path), TAP_DIRECTORY "%s", name);
    tap->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap->fd < 0)
        return errno;
    return tap_read_link(tap);
}

/* EHOSTDOWN: the interface is down, and may come back. */
int tap_system_rx_error(int number)
{
    if (number == EHOSTDOWN)
        return 0;
    return number == EBADF ? -AMS_ENODEV : port_status(number);
}
