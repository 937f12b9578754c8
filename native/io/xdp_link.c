/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* struct ifreq, SOCK_CLOEXEC under -std=c11 */

#include "io/xdp_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/status.h"
#include "io/bpf.h"
#include "wire/bytes.h"
#include "wire/ipv6.h"

/* Drivers whose other end may be this machine, or a virtual one's host, and
 * which then pass frames on with their checksums unfinished. */
static const char *const partial_drivers[] = {"veth", "tun", "virtio_net", "xen_netfront", "vmxnet3"};

/* Asks the driver; fails where it knows nothing of the question. */
static int link_ethtool(int fd, const char *name, void *question)
{
    struct ifreq request;

    memset(&request, 0, sizeof(request));
    strncpy(request.ifr_name, name, sizeof(request.ifr_name) - 1);
    request.ifr_data = question;
    return ioctl(fd, SIOCETHTOOL, &request);
}

/* How many queues receive; 1 if the driver doesn't say. */
static uint32_t link_queues(int fd, const char *name)
{
    struct ethtool_channels channels;

    memset(&channels, 0, sizeof(channels));
    channels.cmd = ETHTOOL_GCHANNELS;
    if (link_ethtool(fd, name, &channels) < 0)
        return 1;
    uint32_t queues = channels.combined_count + channels.rx_count;
    return queues ? queues : 1;
}

/* True if received checksums may be unfinished. */
static bool link_partial(int fd, const char *name, uint32_t flags)
{
    struct ethtool_drvinfo info;

    if (flags & IFF_LOOPBACK)
        return true;
    memset(&info, 0, sizeof(info));
    info.cmd = ETHTOOL_GDRVINFO;
    if (link_ethtool(fd, name, &info) < 0)
        return false;
    for (size_t i = 0; i < AMS_ARRAY_SIZE(partial_drivers); i++) {
        if (strncmp(info.driver, partial_drivers[i], sizeof(info.driver)) == 0)
            return true;
    }
    return false;
}

/* Asks rtnetlink.  Return: 0 or -errno. */
static int link_query(uint32_t ifindex, struct netlink_link *facts)
{
    int netlink = netlink_open(false);
    if (netlink < 0)
        return netlink;
    int status = netlink_get_link(netlink, ifindex, facts);
    close(netlink);
    return status;
}

int xdp_link_find(struct xdp_link *link, const char *name, const struct port_error *error)
{
    struct netlink_link facts;

    memset(link, 0, sizeof(*link));
    link->groups = -1;
    snprintf(link->name, sizeof(link->name), "%s", name);
    link->ifindex = if_nametoindex(name);
    if (!link->ifindex)
        return port_fail(error, -AMS_ENODEV, "there is no interface %s; 'ip link' lists those of this network namespace",
                         name);
    int status = link_query(link->ifindex, &facts);
    if (status < 0)
        return port_fail(error, port_status(-status), "cannot look at interface %s: %s", name, strerror(-status));
    if (!facts.ethernet)
        return port_fail(error, -AMS_EINVAL, "%s is no Ethernet interface: xdp: ports need one", name);
    link->mtu = facts.mtu;
    link->up = facts.flags & IFF_UP;
    memcpy(link->mac, facts.mac, 6);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return port_fail(error, port_status(errno), "cannot make a socket: %s", strerror(errno));
    link->queues = link_queues(fd, name);
    link->partial = link_partial(fd, name, facts.flags);
    close(fd);
    return 0;
}

void xdp_link_release(struct xdp_link *link)
{
    if (link->groups >= 0)
        close(link->groups);
    link->groups = -1;
}

/* True if IPv6 is enabled on the interface. */
static bool link_has_ipv6(const struct xdp_link *link)
{
    char path[64], value = '1';

    snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", link->name);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    if (fread(&value, 1, 1, file) != 1)
        value = '1';
    fclose(file);
    return value == '0';
}

/* An interface's address, mapped.  Return: false for other families. */
static bool address_ip(const struct sockaddr *address, uint8_t ip[16])
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (address && address->sa_family == AF_INET) {
        memcpy(&v4, address, sizeof(v4));
        ip_map4(ip, (const uint8_t *)&v4.sin_addr);
        return true;
    }
    if (address && address->sa_family == AF_INET6) {
        memcpy(&v6, address, sizeof(v6));
        memcpy(ip, &v6.sin6_addr, 16);
        return true;
    }
    return false;
}

bool xdp_link_system_has(const struct xdp_link *link, const uint8_t ip[16])
{
    struct ifaddrs *all;
    uint8_t other[16];
    bool link_local = !ip_is4(ip) && ipv6_is_link_local(ip), found = false;

    if (link_local) {
        ipv6_link_local(other, link->mac);
        if (ip_equal(ip, other) && link_has_ipv6(link))
            return true;
    }
    if (getifaddrs(&all) < 0)
        return true; /* claims of what isn't the system's are harmless; its packets taken away are not */
    for (const struct ifaddrs *each = all; each && !found; each = each->ifa_next) {
        if (link_local && strcmp(each->ifa_name, link->name) != 0)
            continue;
        found = address_ip(each->ifa_addr, other) && ip_equal(ip, other);
    }
    freeifaddrs(all);
    return found;
}

int xdp_link_listen(struct xdp_link *link, const uint8_t mac[6])
{
    struct packet_mreq request;

    if (link->groups < 0)
        link->groups = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* protocol 0: receives nothing */
    if (link->groups < 0)
        return -errno;
    memset(&request, 0, sizeof(request));
    request.mr_ifindex = (int)link->ifindex;
    request.mr_type = mac[0] & 1 ? PACKET_MR_MULTICAST : PACKET_MR_UNICAST;
    request.mr_alen = 6;
    memcpy(request.mr_address, mac, 6);
    return setsockopt(link->groups, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request)) < 0 ? -errno : 0;
}

void xdp_link_program(const struct xdp_link *link, char *text, size_t size)
{
    struct netlink_link facts;
    char name[16] = "";

    if (link_query(link->ifindex, &facts) < 0 || !facts.program) {
        snprintf(text, size, "a program");
        return;
    }
    bpf_program_name(facts.program, name);
    snprintf(text, size, "program %u%s%s", facts.program, *name ? " " : "", name);
}
