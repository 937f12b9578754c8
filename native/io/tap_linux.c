/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tap_linux.c - a Linux TAP device.
 *
 * Opening /dev/net/tun and TUNSETIFF make the device, or attach to one that
 * exists; a device that this made goes with its fd.  IFF_VNET_HDR and
 * TUNSETOFFLOAD give the offloads.
 */
#define _GNU_SOURCE /* struct ifreq, O_CLOEXEC under -std=c11 */

#include "io/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/status.h"
#include "io/vnet.h"

#define TAP_DEVICE "/dev/net/tun"

int tap_system_check(const char *name, const struct port_error *error)
{
    if (strpbrk(name, "/%: \t\n") || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return port_fail(error, -AMS_EINVAL, "'%s' is not a device name: use letters, digits, '-', '_' and '.'", name);
    return 0;
}

int tap_system_refused(const char *name, int number, const struct port_error *error)
{
    int status = port_status(number);

    switch (number) {
    case EPERM:
    case EACCES:
        return port_fail(error, status,
                         "no permission for TAP device %s: run as root, or have root make it for you: "
                         "ip tuntap add dev %s mode tap user $USER (and let you open " TAP_DEVICE ")", name, name);
    case EBUSY:
        return port_fail(error, status,
                         "TAP device %s is used by another process, or by another loop of this one: give each a TAP "
                         "of its own, or let them share a switch", name);
    case ENOENT:
    case ENODEV:
        return port_fail(error, status, TAP_DEVICE " is missing: load the tun module (modprobe tun), or give the "
                         "container this device");
    case EINVAL:
        return port_fail(error, status, "%s exists, but is no TAP device (a TUN, or another kind of interface)", name);
    default:
        return port_fail(error, status, "cannot open TAP device %s: %s", name, strerror(number));
    }
}

/* Attaches fd to the device, with the most features that the kernel grants.
 * Return: 0, or an errno. */
static int tap_attach(struct tap_port *tap, const char *name, bool offload)
{
    static const short features[] = {IFF_VNET_HDR, IFF_VNET_HDR | IFF_MULTI_QUEUE, 0, IFF_MULTI_QUEUE};
    struct ifreq request;
    int number = EINVAL;

    for (size_t i = offload ? 0 : 2; i < AMS_ARRAY_SIZE(features); i++) {
        memset(&request, 0, sizeof(request));
        memcpy(request.ifr_name, name, strlen(name));
        request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | features[i]);
        if (ioctl(tap->fd, TUNSETIFF, &request) == 0) {
            tap->header = features[i] & IFF_VNET_HDR ? VNET_HEADER : 0;
            return 0;
        }
        number = errno;
        if (number != EINVAL) /* EINVAL: other features than the device has */
            break;
    }
    return number;
}

/* Asks for checksum and segmentation offload; sets what was granted. */
static void tap_set_offload(struct tap_port *tap)
{
    int size = (int)tap->header;
    uint32_t *caps = &tap->port.info.caps;

    if (!tap->header) {
        ioctl(tap->fd, TUNSETOFFLOAD, 0ul); /* a device that somebody else used may still have it on */
        return;
    }
    ioctl(tap->fd, TUNSETVNETHDRSZ, &size);
    /* What we may send needs no agreement; what the kernel may send does. */
    *caps = AMS_CAP_CSUM_TX | AMS_CAP_TSO4 | AMS_CAP_TSO6;
    if (ioctl(tap->fd, TUNSETOFFLOAD, (unsigned long)(TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)) == 0)
        *caps |= AMS_CAP_CSUM_RX | AMS_CAP_LRO;
    else if (ioctl(tap->fd, TUNSETOFFLOAD, (unsigned long)TUN_F_CSUM) == 0)
        *caps |= AMS_CAP_CSUM_RX;
}

/* Reads the device's MTU and MAC.  Return: 0, or an errno. */
static int tap_read_link(struct tap_port *tap, const char *name)
{
    struct ifreq request;
    int number = 0, fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return errno;
    memset(&request, 0, sizeof(request));
    memcpy(request.ifr_name, name, strlen(name));
    if (ioctl(fd, SIOCGIFMTU, &request) == 0)
        tap->port.info.mtu = (uint32_t)request.ifr_mtu;
    else
        number = errno;
    if (ioctl(fd, SIOCGIFHWADDR, &request) == 0)
        memcpy(tap->port.info.mac, request.ifr_hwaddr.sa_data, 6);
    else
        number = errno;
    close(fd);
    return number;
}

int tap_system_open(struct tap_port *tap, const char *name, bool offload)
{
    tap->fd = open(TAP_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    int number = tap->fd < 0 ? errno : tap_attach(tap, name, offload);
    if (number)
        return number;
    tap_set_offload(tap);
    return tap_read_link(tap, name);
}

/* EBADFD: the device was deleted. */
int tap_system_rx_error(int number)
{
    return number == EBADFD || number == EFAULT ? -AMS_ENODEV : port_status(number);
}
