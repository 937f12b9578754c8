/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* IP_FREEBIND under -std=c11 */

#include "io/claims.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

int claims_prepare(int fd, uint8_t family)
{
    struct sock_filter nothing = {BPF_RET | BPF_K, 0, 0, 0};
    struct sock_fprog filter = {1, &nothing};
    int on = 1;

    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0 ||
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)) < 0)
        return -1;
    return family == AMS_IPV4 ? 0 : setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
}
