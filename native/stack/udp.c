/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.c - UDP endpoints (RFC 768, RFC 8085, RFC 1122 section 4.1): their
 * table, binding, and lists.  What they send and receive is in udp_data.c.
 *
 * Theory of operation.  Endpoints hang in a table by local port.  Binding is
 * exclusive (one endpoint per port and address, a wildcard counting as all
 * addresses of its family, the IPv6 one as all of both unless it is for IPv6
 * only) but for endpoints that agree to share a port.  So a bucket holds few
 * of them whatever the number of endpoints, and remote hosts have no part in
 * what it holds.
 *
 * A datagram goes to the endpoint that fits best: one connected to its
 * sender, then one bound to the address itself, then the family's wildcard,
 * then the IPv6 wildcard that takes IPv4 too.  Among endpoints that share a
 * port the sender's address and port decide (sock_weight()).
 */
#include "stack/udp.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/iface.h"
#include "stack/ip.h"

#define BUCKETS_MIN 64u
#define BUCKETS_MAX 65536u

/* ---- table ------------------------------------------------------------------ */

/* The chain of a local port. */
static struct udp_sock **bucket_of(const struct udp_host *host, uint16_t port)
{
    return &host->buckets[port & host->mask];
}

/* Doubles the table.  Without memory the chains get longer, no more. */
static void table_grow(struct udp_host *host)
{
    uint32_t size = (host->mask + 1) * 2;
    struct udp_sock **old = host->buckets;
    struct udp_sock **buckets = mem_zalloc(size, sizeof(*buckets));
    if (!buckets)
        return;
    uint32_t old_size = host->mask + 1;
    host->buckets = buckets;
    host->mask = size - 1;
    for (uint32_t i = 0; i < old_size; i++) {
        while (old[i]) {
            struct udp_sock *udp = old[i];
            struct udp_sock **bucket = bucket_of(host, udp->local.port);
            old[i] = udp->next;
            udp->next = *bucket;
            *bucket = udp;
        }
    }
    mem_free(old);
}

/* Enters an endpoint, whose local.port is set. */
static void table_add(struct udp_host *host, struct udp_sock *udp)
{
    if (host->count > host->mask && host->mask + 1 < BUCKETS_MAX)
        table_grow(host);
    struct udp_sock **bucket = bucket_of(host, udp->local.port);
    udp->next = *bucket;
    *bucket = udp;
    host->count++;
}

/* Takes an endpoint out. */
static void table_remove(struct udp_host *host, struct udp_sock *udp)
{
    struct udp_sock **link = bucket_of(host, udp->local.port);
    while (*link != udp)
        link = &(*link)->next;
    *link = udp->next;
    host->count--;
}

/* How well udp matches a datagram; 0: not at all. */
static int match(const struct udp_sock *udp, const struct ams_endpoint *local, const struct ams_endpoint *remote)
{
    int score = 1;
    if (udp->local.port != local->port)
        return 0;
    if (udp->local.family == local->family)
        score += 1;
    else if (!udp_is_dual(&udp->local, udp->flags))
        return 0;
    if (ip_equal(udp->local.ip, local->ip))
        score += 2;
    else if (!ip_is_any(udp->local.ip))
        return 0;
    if (udp->remote.family) {
        if (udp->remote.port != remote->port || !ip_equal(udp->remote.ip, remote->ip))
            return 0;
        score += 4;
    }
    return score;
}

struct udp_sock *udp_find(const struct ams_stack *stack, const struct ams_endpoint *local,
                          const struct ams_endpoint *remote)
{
    struct udp_sock *best = NULL;
    int best_score = 0;
    for (struct udp_sock *udp = *bucket_of(stack->udp, local->port); udp; udp = udp->next) {
        int score = match(udp, local, remote);
        if (score > best_score ||
            (score && score == best_score && /* they share the port */
             sock_weight(stack, &udp->sock, remote->ip, remote->port) >
                 sock_weight(stack, &best->sock, remote->ip, remote->port))) {
            best = udp;
            best_score = score;
        }
    }
    return best;
}

struct udp_sock *udp_find_next(const struct ams_stack *stack, struct udp_sock *last, const struct ams_endpoint *local,
                               const struct ams_endpoint *remote)
{
    struct udp_sock *udp = last ? last->next : *bucket_of(stack->udp, local->port);
    while (udp && !match(udp, local, remote))
        udp = udp->next;
    return udp;
}

/* True if another endpoint excludes binding to local. */
static bool table_conflicts(const struct udp_host *host, const struct ams_endpoint *local, uint32_t flags)
{
    for (const struct udp_sock *udp = *bucket_of(host, local->port); udp; udp = udp->next) {
        if (udp->local.port != local->port || udp->flags & flags & AMS_LISTEN_REUSEPORT)
            continue;
        if (udp->local.family != local->family && !udp_is_dual(&udp->local, udp->flags) && !udp_is_dual(local, flags))
            continue;
        if (ip_is_any(udp->local.ip) || ip_is_any(local->ip) || ip_equal(udp->local.ip, local->ip))
            return true;
    }
    return false;
}

/* ---- binding -------------------------------------------------------------------- */

/* The IPv4 wildcard that belongs to a dual one. */
static struct ams_endpoint wildcard4(uint16_t port)
{
    struct ams_endpoint out = {.port = port, .family = AMS_IPV4};
    ip_map4(out.ip, (const uint8_t[4]){0});
    return out;
}

/* What the owner is asked for: an endpoint that is bound to a group sends
 * from any of our addresses. */
static struct ams_endpoint claimed(const struct ams_endpoint *local)
{
    struct ams_endpoint tuple = *local;
    if (udp_is_group(local->ip))
        memset(tuple.ip + (local->family == AMS_IPV4 ? 12 : 0), 0, local->family == AMS_IPV4 ? 4 : 16);
    return tuple;
}

/* Undoes claim(). */
static void release(struct ams_stack *stack, const struct ams_endpoint *local, uint32_t flags)
{
    struct ams_endpoint first = claimed(local);
    stack->owner.release(stack->owner.ctx, PROTO_UDP, &first);
    if (udp_is_dual(local, flags)) {
        struct ams_endpoint second = wildcard4(local->port);
        stack->owner.release(stack->owner.ctx, PROTO_UDP, &second);
    }
}

/* Takes the local tuple (both wildcards, if it is dual), here and with the owner.  Return: 0 or a status. */
static int claim(struct ams_stack *stack, const struct ams_endpoint *local, uint32_t flags)
{
    if (table_conflicts(stack->udp, local, flags))
        return -AMS_EADDRINUSE;
    struct ams_endpoint first = claimed(local);
    int status = stack->owner.claim(stack->owner.ctx, PROTO_UDP, &first);
    if (status < 0 || !udp_is_dual(local, flags))
        return status;
    struct ams_endpoint second = wildcard4(local->port);
    status = stack->owner.claim(stack->owner.ctx, PROTO_UDP, &second);
    if (status < 0)
        stack->owner.release(stack->owner.ctx, PROTO_UDP, &first);
    return status;
}

/* Claims local, whose port is filled in if it is 0: from a random one on,
 * the first that is free (RFC 6056 section 3.3.1). */
static int bind_local(struct ams_stack *stack, struct ams_endpoint *local, uint32_t flags)
{
    if (local->port)
        return claim(stack, local, flags);
    flags &= ~(uint32_t)AMS_LISTEN_REUSEPORT; /* a free port is nobody's */
    uint32_t low, range;
    int status;
    for (bool more = false; (status = stack_ephemeral(stack, more, &low, &range)) == 0; more = true) {
        uint32_t start = rng_below(&stack->rng, range);
        for (uint32_t i = 0; i < range; i++) {
            local->port = (uint16_t)(low + (start + i) % range);
            status = claim(stack, local, flags);
            if (status != -AMS_EADDRINUSE)
                return status;
        }
    }
    return status == -AMS_EADDRNOTAVAIL ? -AMS_EADDRINUSE : status;
}

/* Works out the local endpoint of a new socket.
 * @out: a wildcard may remain; the port may still be 0 */
static int choose_local(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                        uint32_t flags, struct ams_endpoint *out)
{
    if (!local && !remote)
        return -AMS_EINVAL;
    if ((local && !udp_endpoint_valid(local)) || (remote && !udp_endpoint_valid(remote)))
        return -AMS_EAFNOSUPPORT;
    if (local && remote && local->family != remote->family)
        return -AMS_EAFNOSUPPORT;
    if (remote && (remote->port == 0 || ip_is_any(remote->ip)))
        return -AMS_EINVAL;
    memset(out, 0, sizeof(*out));
    out->family = local ? local->family : remote->family;
    if (local) {
        out->port = local->port;
        memcpy(out->ip, local->ip, 16);
    } else if (remote->family == AMS_IPV4) {
        ip_map4(out->ip, (const uint8_t[4]){0});
    }
    if (!udp_is_open(out->ip))
        return iface_may_bind(stack, out->ip) ? 0 : -AMS_EADDRNOTAVAIL;
    if (!iface_has_family(stack, (uint8_t)out->family) &&
        !(udp_is_dual(out, flags) && iface_has_family(stack, AMS_IPV4)))
        return -AMS_EAFNOSUPPORT;
    if (remote && ip_is_any(out->ip) && !iface_source(stack, remote->ip, out->ip))
        return -AMS_EADDRNOTAVAIL;
    return 0;
}

int ams_udp_open(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                 uint32_t flags)
{
    struct ams_endpoint bound;
    if (flags & ~(uint32_t)(AMS_LISTEN_V6ONLY | AMS_LISTEN_REUSEADDR | AMS_LISTEN_REUSEPORT))
        return -AMS_EINVAL; /* AMS_LISTEN_REUSEADDR has no meaning here, as long as there is no multicast */
    if (remote)
        flags |= AMS_LISTEN_V6ONLY; /* a connected endpoint has one family */
    int status = choose_local(stack, local, remote, flags, &bound);
    if (status < 0)
        return status;
    struct udp_sock *udp = mem_zalloc(1, sizeof(*udp));
    if (!udp)
        return -AMS_ENOMEM;
    if (remote) {
        udp->remote = *remote;
        memcpy(udp->path_dst, remote->ip, 16);
        status = ip_path_find(stack, remote->ip, &udp->path);
        if (status < 0)
            goto fail;
    }
    status = bind_local(stack, &bound, flags);
    if (status < 0)
        goto fail;
    udp->local = bound;
    udp->flags = flags;
    udp->created = stack->now;
    udp->group_hops = UDP_GROUP_HOPS;
    udp->group_loop = true;
    status = sock_register(stack, &udp->sock, SOCK_UDP);
    if (status < 0)
        goto fail_claimed;
    table_add(stack->udp, udp);
    return udp->sock.id;

fail_claimed:
    release(stack, &bound, flags);
fail:
    mem_free(udp);
    return status;
}

/* Frees what was not read. */
static void queue_free(struct udp_sock *udp)
{
    while (udp->queue_head) {
        struct ams_frame *next = udp->queue_head->next;
        frame_free(udp->queue_head);
        udp->queue_head = next;
    }
}

/* Ends an endpoint: its port and its id are free again. */
static void udp_free(struct ams_stack *stack, struct udp_sock *udp)
{
    table_remove(stack->udp, udp);
    udp_groups_fini(stack, udp);
    release(stack, &udp->local, udp->flags);
    sock_unregister(stack, &udp->sock);
    queue_free(udp);
    mem_free(udp);
}

struct udp_sock *udp_of(struct ams_stack *stack, int id)
{
    struct sock *sock = sock_find(stack, id, SOCK_UDP);
    return sock ? AMS_CONTAINER_OF(sock, struct udp_sock, sock) : NULL;
}

int ams_udp_close(struct ams_stack *stack, int id)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    udp_free(stack, udp);
    return 1;
}

int ams_udp_local(struct ams_stack *stack, int id, struct ams_endpoint *out)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    *out = udp->local;
    return 0;
}

/* ---- lists ----------------------------------------------------------------------------------- */

/* What ss shows of an endpoint. */
static void udp_describe(const struct udp_sock *udp, struct ams_tcp_info *out)
{
    memset(out, 0, sizeof(*out));
    out->id = udp->sock.id;
    out->protocol = PROTO_UDP;
    out->state = udp->remote.family ? AMS_TCP_ESTABLISHED : AMS_TCP_CLOSED;
    out->local = udp->local;
    out->remote = udp->remote;
    if (!udp->remote.family) {
        out->remote.family = udp->local.family;
        if (udp->local.family == AMS_IPV4)
            ip_map4(out->remote.ip, (const uint8_t[4]){0});
    }
    out->recv_queue = udp->queue_bytes;
    out->pmtu = udp->remote.family ? udp->path.mtu : 0;
    out->bytes_sent = udp->bytes_out;
    out->bytes_received = udp->bytes_in;
    out->segs_out = udp->packets_out;
    out->segs_in = udp->packets_in;
    out->created = udp->created;
}

int udp_list(struct ams_stack *stack, struct ams_tcp_info *out, int max)
{
    const struct udp_host *host = stack->udp;
    int count = 0;
    for (uint32_t i = 0; i <= host->mask; i++) {
        for (const struct udp_sock *udp = host->buckets[i]; udp; udp = udp->next) {
            if (count < max)
                udp_describe(udp, &out[count]);
            count++;
        }
    }
    return count;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

int udp_init(struct ams_stack *stack)
{
    struct udp_host *host = mem_zalloc(1, sizeof(*host));
    if (!host)
        return -AMS_ENOMEM;
    host->buckets = mem_zalloc(BUCKETS_MIN, sizeof(*host->buckets));
    if (!host->buckets) {
        mem_free(host);
        return -AMS_ENOMEM;
    }
    host->mask = BUCKETS_MIN - 1;
    stack->udp = host;
    return 0;
}

void udp_fini(struct ams_stack *stack)
{
    struct udp_host *host = stack->udp;
    if (!host)
        return;
    for (uint32_t i = 0; i <= host->mask; i++)
        while (host->buckets[i])
            udp_free(stack, host->buckets[i]);
    mem_free(host->buckets);
    mem_free(host);
    stack->udp = NULL;
}

uint64_t udp_memory(const struct ams_stack *stack)
{
    const struct udp_host *host = stack->udp;
    return sizeof(*host) + (host->mask + 1ull) * sizeof(*host->buckets) + host->count * sizeof(struct udp_sock);
}
