/* SPDX-License-Identifier: BSD-2-Clause */
#include <sys/types.h>

#include <sys/socket.h>

#include <netinet/in.h>

#include "io/claims.h"

/* A datagram socket's buffer is kept as small as it can be; what it holds is
 * never read. */
int claims_prepare(int fd, uint8_t family)
{
    int on = 1, size = 1;

    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    return family == AMS_IPV4 ? 0 : setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
}
