/* SPDX-License-Identifier: BSD-2-Clause
 *
 * daemon_grants_linux.c - what a client of the switch daemon was granted.
 *
 * Theory of operation.  The daemon grants a tuple to whoever shows a kernel
 * socket that is bound to it: permissions, exclusivity against applications
 * of the kernel's own stack, and release when a process dies are then the
 * kernel's.  The socket never carries anything.  It is one that the
 * application has bound already and showed us (grants_show), or we bind one
 * here, with IP_FREEBIND, since the kernel may not have the address itself.
 *
 * The stack claims more than the daemon is asked about.  A connection that a
 * wildcard listener accepts is covered by the listener's tuple, an outgoing
 * one by a range of ports that was lent.  So a claim counts the stack's claims
 * that it covers, and goes with the last of them: connections outlive their
 * listener.
 *
 * SO_REUSEADDR lets a TCP socket be bound while connections of an earlier one
 * linger in the kernel's TIME-WAIT; the daemon makes it exclusive afterwards.
 */
#define _GNU_SOURCE /* SOCK_CLOEXEC, F_DUPFD_CLOEXEC under -std=c11 */

#include "io/daemon.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "wire/bytes.h"
#include "wire/proto.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78 /* linux/in6.h */
#endif

union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* ---- kernel sockets ------------------------------------------------------------- */

static bool grants_wildcard(const struct ams_endpoint *local)
{
    static const uint8_t any4[16] = {[10] = 0xff, [11] = 0xff}, any6[16];
    return ip_equal(local->ip, local->family == AMS_IPV4 ? any4 : any6);
}

/* Writes an endpoint as bind(2) wants it.  Return: its length. */
static socklen_t grants_sockaddr(union socket_address *out, const struct ams_endpoint *local)
{
    memset(out, 0, sizeof(*out));
    if (local->family == AMS_IPV4) {
        out->v4.sin_family = AF_INET;
        out->v4.sin_port = htons(local->port);
        memcpy(&out->v4.sin_addr, local->ip + 12, 4);
        return sizeof(out->v4);
    }
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons(local->port);
    out->v6.sin6_scope_id = local->scope_id;
    memcpy(&out->v6.sin6_addr, local->ip, 16);
    return sizeof(out->v6);
}

/* Options of a socket that is bound and never used; where one is missing,
 * bind() says what comes of it. */
static void grants_options(int fd, uint8_t protocol, uint16_t family)
{
    int on = 1, little = 1;

    if (family == AMS_IPV6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (family == AMS_IPV6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
    else
        setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on));
    if (protocol == PROTO_TCP)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    else
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
}

/* Binds a kernel socket to a tuple.
 * @out: the socket, the caller's
 * Return: 0, or the status that bind(2) gives: -AMS_EACCES, -AMS_EADDRINUSE. */
static int grants_bind(uint8_t protocol, const struct ams_endpoint *local, int *out)
{
    union socket_address address;
    socklen_t length = grants_sockaddr(&address, local);
    int kind = protocol == PROTO_TCP ? SOCK_STREAM : SOCK_DGRAM;
    int fd = socket(address.any.sa_family, kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return port_status(errno);
    grants_options(fd, protocol, local->family);
    if (bind(fd, &address.any, length) < 0) {
        int status = port_status(errno);
        close(fd);
        return status;
    }
    *out = fd;
    return 0;
}

/* What a socket is bound to.
 * @both: a dual-stack wildcard: it proves both families
 * Return: false if it is no bound TCP or UDP socket. */
static bool grants_describe(int fd, uint8_t *protocol, struct ams_endpoint *local, bool *both)
{
    union socket_address address;
    socklen_t length = sizeof(address), size = sizeof(int);
    int kind, only = 0;

    memset(local, 0, sizeof(*local));
    if (getsockname(fd, &address.any, &length) < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) < 0 ||
        (kind != SOCK_STREAM && kind != SOCK_DGRAM))
        return false;
    *protocol = kind == SOCK_STREAM ? PROTO_TCP : PROTO_UDP;
    if (address.any.sa_family == AF_INET) {
        local->family = AMS_IPV4;
        local->port = ntohs(address.v4.sin_port);
        ip_map4(local->ip, (const uint8_t *)&address.v4.sin_addr);
    } else if (address.any.sa_family == AF_INET6) {
        size = sizeof(only);
        getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &size);
        memcpy(local->ip, &address.v6.sin6_addr, 16);
        local->family = ip_is4(local->ip) ? AMS_IPV4 : AMS_IPV6;
        local->port = ntohs(address.v6.sin6_port);
    } else {
        return false;
    }
    *both = local->family == AMS_IPV6 && !only && grants_wildcard(local);
    return local->port != 0;
}

/* True if a bound socket proves the right to a tuple. */
static bool grants_proves(int fd, uint8_t protocol, const struct ams_endpoint *local)
{
    struct ams_endpoint bound;
    uint8_t kind;
    bool both;

    if (!grants_describe(fd, &kind, &bound, &both) || kind != protocol || bound.port != local->port)
        return false;
    if (both)
        return true;
    return bound.family == local->family && (ip_equal(bound.ip, local->ip) || grants_wildcard(&bound));
}

/* ---- sockets that were shown ------------------------------------------------------ */

static void grants_unshow(struct daemon_grants *grants, uint32_t i)
{
    close(grants->shown[i]);
    grants->n_shown--;
    memmove(&grants->shown[i], &grants->shown[i + 1], (grants->n_shown - i) * sizeof(grants->shown[0]));
}

int grants_show(struct daemon_grants *grants, int fd)
{
    struct ams_endpoint local;
    uint8_t protocol;
    bool both;

    if (!grants_describe(fd, &protocol, &local, &both))
        return -AMS_EINVAL;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0)
        return port_status(errno);
    if (grants->n_shown == DAEMON_SHOWN)
        grants_unshow(grants, 0);
    grants->shown[grants->n_shown++] = copy;
    return 0;
}

/* A socket that proves a tuple: one that was shown, or one bound here.
 * @out: the socket, the caller's.  Return: 0 or a status. */
static int grants_proof(const struct daemon_grants *grants, uint8_t protocol, const struct ams_endpoint *local,
                        int *out)
{
    for (uint32_t i = grants->n_shown; i-- > 0;) {
        if (!grants_proves(grants->shown[i], protocol, local))
            continue;
        *out = fcntl(grants->shown[i], F_DUPFD_CLOEXEC, 0);
        return *out < 0 ? port_status(errno) : 0;
    }
    return grants_bind(protocol, local, out);
}

/* Forgets the sockets that were shown for a tuple which is gone. */
static void grants_forget_shown(struct daemon_grants *grants, uint8_t protocol, const struct ams_endpoint *local)
{
    for (uint32_t i = grants->n_shown; i-- > 0;) {
        if (grants_proves(grants->shown[i], protocol, local))
            grants_unshow(grants, i);
    }
}

/* ---- the table ----------------------------------------------------------------------- */

static struct daemon_claim **grants_bucket(struct daemon_grants *grants, uint16_t port)
{
    return &grants->buckets[port % DAEMON_BUCKETS];
}

/* The claim that covers a tuple: its own, or a wildcard's. */
static struct daemon_claim *grants_find(struct daemon_grants *grants, uint8_t protocol,
                                        const struct ams_endpoint *local)
{
    struct daemon_claim *wildcard = NULL;

    for (struct daemon_claim *claim = *grants_bucket(grants, local->port); claim; claim = claim->next) {
        if (claim->local.port != local->port || claim->protocol != protocol || claim->local.family != local->family)
            continue;
        if (ip_equal(claim->local.ip, local->ip))
            return claim;
        if (grants_wildcard(&claim->local))
            wildcard = claim;
    }
    return wildcard;
}

static bool grants_lent(const struct daemon_grants *grants, uint16_t port)
{
    for (uint32_t i = 0; i < grants->n_ranges; i++) {
        if (port >= grants->ranges[i].low && port <= grants->ranges[i].high)
            return true;
    }
    return false;
}

/* Asks the daemon for a tuple.  Return: 0 or a status. */
static int grants_ask(struct daemon *daemon, const struct daemon_claim *claim)
{
    struct ams_msg_tuple request;
    struct daemon_message answer;

    memset(&request, 0, sizeof(request));
    request.local = claim->local;
    request.protocol = claim->protocol;
    int status = daemon_call(daemon, &request.head, AMS_MSG_CLAIM, sizeof(request), claim->fd, &answer);
    daemon_message_fini(&answer);
    return status;
}

int grants_add(struct daemon_grants *grants, struct daemon *daemon, uint8_t protocol, const struct ams_endpoint *local)
{
    if (grants_lent(grants, local->port))
        return 0;
    struct daemon_claim *claim = grants_find(grants, protocol, local);
    if (claim) {
        AMS_ASSERT(claim->refs != UINT32_MAX);
        claim->refs++;
        return 0;
    }
    claim = mem_zalloc(1, sizeof(*claim));
    if (!claim)
        return -AMS_ENOMEM;
    claim->local = *local;
    claim->protocol = protocol;
    claim->refs = 1;
    int status = grants_proof(grants, protocol, local, &claim->fd);
    if (status) {
        mem_free(claim);
        return status;
    }
    status = grants_ask(daemon, claim);
    if (status) {
        close(claim->fd);
        mem_free(claim);
        return status;
    }
    struct daemon_claim **bucket = grants_bucket(grants, local->port);
    claim->next = *bucket;
    *bucket = claim;
    return 0;
}

/* Takes a claim out of the table and frees it. */
static void grants_drop(struct daemon_grants *grants, struct daemon_claim *claim)
{
    struct daemon_claim **link = grants_bucket(grants, claim->local.port);

    while (*link != claim)
        link = &(*link)->next;
    *link = claim->next;
    close(claim->fd);
    mem_free(claim);
}

void grants_remove(struct daemon_grants *grants, struct daemon *daemon, uint8_t protocol,
                   const struct ams_endpoint *local)
{
    struct ams_msg_tuple request;

    if (grants_lent(grants, local->port))
        return;
    struct daemon_claim *claim = grants_find(grants, protocol, local);
    if (!claim || --claim->refs)
        return;
    memset(&request, 0, sizeof(request));
    request.local = claim->local;
    request.protocol = protocol;
    grants_forget_shown(grants, protocol, &claim->local);
    grants_drop(grants, claim);
    /* If it can't be told, it is gone or hung, and learns it from the socket. */
    daemon_send(daemon, &request.head, AMS_MSG_RELEASE, sizeof(request), -1);
}

/* ---- ephemeral ports -------------------------------------------------------------------- */

/* Asks for a range; a fixed one if its low is not 0. */
static int grants_range(struct daemon *daemon, struct daemon_range *range)
{
    struct ams_msg_range request;
    struct daemon_message answer;

    memset(&request, 0, sizeof(request));
    request.low = range->low;
    request.high = range->high;
    int status = daemon_call(daemon, &request.head, AMS_MSG_LEND, sizeof(request), -1, &answer);
    if (!status && (answer.length < sizeof(answer.u.range) || !answer.u.range.low ||
                    answer.u.range.low > answer.u.range.high))
        status = -AMS_EPROTO;
    if (!status)
        *range = (struct daemon_range){answer.u.range.low, answer.u.range.high};
    daemon_message_fini(&answer);
    return status;
}

int grants_lend(struct daemon_grants *grants, struct daemon *daemon, uint16_t *low, uint16_t *high)
{
    struct daemon_range range = {0, 0};

    if (grants->n_ranges == DAEMON_RANGES)
        return -AMS_EADDRNOTAVAIL;
    int status = grants_range(daemon, &range);
    if (status)
        return status;
    grants->ranges[grants->n_ranges++] = range;
    *low = range.low;
    *high = range.high;
    return 0;
}

/* ---- all of it ----------------------------------------------------------------------------- */

int grants_renew(struct daemon_grants *grants, struct daemon *daemon)
{
    int status = 0;

    for (uint32_t i = 0; i < grants->n_ranges && !status; i++)
        status = grants_range(daemon, &grants->ranges[i]);
    for (uint32_t i = 0; i < DAEMON_BUCKETS && !status; i++) {
        for (const struct daemon_claim *claim = grants->buckets[i]; claim && !status; claim = claim->next)
            status = grants_ask(daemon, claim);
    }
    return status;
}

void grants_fini(struct daemon_grants *grants)
{
    for (uint32_t i = 0; i < DAEMON_BUCKETS; i++) {
        while (grants->buckets[i])
            grants_drop(grants, grants->buckets[i]);
    }
    while (grants->n_shown)
        grants_unshow(grants, grants->n_shown - 1);
}
