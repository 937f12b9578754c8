/* SPDX-License-Identifier: BSD-2-Clause
 *
 * link_freebsd.c - what FreeBSD's drivers ask about interfaces.
 */
#include <sys/types.h>

#include <sys/socket.h>

#include <errno.h>
#include <ifaddrs.h>
#include <net/if_dl.h>
#include <string.h>

#include "core/base.h"
#include "io/link_freebsd.h"

int link_read_mac(const char *name, uint8_t mac[6])
{
    struct ifaddrs *all;

    if (getifaddrs(&all) != 0)
        return errno;
    for (const struct ifaddrs *one = all; one; one = one->ifa_next) {
        struct sockaddr_dl link;
        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_LINK || strcmp(one->ifa_name, name) != 0)
            continue;
        memcpy(&link, one->ifa_addr, ams_min_u32(one->ifa_addr->sa_len, sizeof(link)));
        if (link.sdl_alen == 6)
            memcpy(mac, LLADDR(&link), 6);
    }
    freeifaddrs(all);
    return 0;
}
