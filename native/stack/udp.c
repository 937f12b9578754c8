/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp.c - UDP endpoints (RFC 768, RFC 8085, RFC 1122 section 4.1).
 *
 * Theory of operation.  Endpoints hang in a table by local port.  Binding is
 * exclusive (one endpoint per port and address, a wildcard counting as all
 * addresses of its family), so that a bucket holds few of them whatever the
 * number of endpoints, and remote hosts have no part in what it holds.
 *
 * A received datagram stays in the frame that it came in, which waits in the
 * endpoint's queue until the application takes it.  The sender's address is
 * kept in the frame itself, over the headers that nobody needs any more.
 * What a queue may hold is bounded in bytes; what does not fit is dropped
 * and counted.
 *
 * ICMP errors are told to connected endpoints only, as the next result of
 * send or receive.
 */
#include "stack/udp.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/route.h"
#include "wire/bytes.h"
#include "wire/udp.h"

#define BUCKETS_MIN 64u
#define BUCKETS_MAX 65536u
/* What a queue may hold, as Linux's net.core.rmem_default; each datagram is
 * charged UDP_CHARGE on top of its bytes. */
#define UDP_RCVBUF 212992u
#define UDP_CHARGE 256u
/* The sender's address, kept right before the payload: 28 bytes of headers
 * at least are there. */
#define UDP_FROM_SIZE 16u

struct udp_sock {
    struct sock sock;            /* first: events.c knows no other part */
    struct udp_sock *next;       /* in its bucket */
    struct ams_endpoint local;
    struct ams_endpoint remote;  /* family 0: not connected */
    struct ip_path path;         /* to path_dst */
    uint8_t path_dst[16];
    struct ams_frame *queue_head, *queue_tail;
    uint32_t queue_bytes;        /* payload */
    uint32_t queue_charge;
    int error;                   /* status, for the next call */
    uint64_t created;
    uint64_t packets_in, packets_out;
    uint64_t bytes_in, bytes_out;
};

struct udp_host {
    struct udp_sock **buckets;
    uint32_t mask;
    uint32_t count;
};

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
    if (udp->local.port != local->port || udp->local.family != local->family)
        return 0;
    if (ip_equal(udp->local.ip, local->ip))
        score += 1;
    else if (!ip_is_any(udp->local.ip))
        return 0;
    if (udp->remote.family) {
        if (udp->remote.port != remote->port || !ip_equal(udp->remote.ip, remote->ip))
            return 0;
        score += 2;
    }
    return score;
}

/* The endpoint for a datagram, or NULL. */
static struct udp_sock *table_find(const struct udp_host *host, const struct ams_endpoint *local,
                                   const struct ams_endpoint *remote)
{
    struct udp_sock *best = NULL;
    int best_score = 0;
    for (struct udp_sock *udp = *bucket_of(host, local->port); udp; udp = udp->next) {
        int score = match(udp, local, remote);
        if (score > best_score) {
            best = udp;
            best_score = score;
        }
    }
    return best;
}

/* True if another endpoint excludes binding to local. */
static bool table_conflicts(const struct udp_host *host, const struct ams_endpoint *local)
{
    for (const struct udp_sock *udp = *bucket_of(host, local->port); udp; udp = udp->next) {
        if (udp->local.port == local->port && udp->local.family == local->family &&
            (ip_is_any(udp->local.ip) || ip_is_any(local->ip) || ip_equal(udp->local.ip, local->ip)))
            return true;
    }
    return false;
}

/* ---- binding -------------------------------------------------------------------- */

/* Takes the local tuple, here and with the owner.  Return: 0 or a status. */
static int claim(struct ams_stack *stack, const struct ams_endpoint *local)
{
    if (table_conflicts(stack->udp, local))
        return -AMS_EADDRINUSE;
    return stack->owner.claim(stack->owner.ctx, PROTO_UDP, local);
}

/* Undoes claim(). */
static void release(struct ams_stack *stack, const struct ams_endpoint *local)
{
    stack->owner.release(stack->owner.ctx, PROTO_UDP, local);
}

/* Claims local, whose port is filled in if it is 0: from a random one on,
 * the first that is free (RFC 6056 section 3.3.1). */
static int bind_local(struct ams_stack *stack, struct ams_endpoint *local)
{
    if (local->port)
        return claim(stack, local);
    uint32_t low, range;
    int status;
    for (bool more = false; (status = stack_ephemeral(stack, more, &low, &range)) == 0; more = true) {
        uint32_t start = rng_below(&stack->rng, range);
        for (uint32_t i = 0; i < range; i++) {
            local->port = (uint16_t)(low + (start + i) % range);
            status = claim(stack, local);
            if (status != -AMS_EADDRINUSE)
                return status;
        }
    }
    return status == -AMS_EADDRNOTAVAIL ? -AMS_EADDRINUSE : status;
}

/* True if an endpoint's family and address belong together. */
static bool endpoint_valid(const struct ams_endpoint *endpoint)
{
    if (endpoint->family != AMS_IPV4 && endpoint->family != AMS_IPV6)
        return false;
    return (ip_is4(endpoint->ip) != 0) == (endpoint->family == AMS_IPV4);
}

/* Works out the local endpoint of a new socket.
 * @out: a wildcard may remain; the port may still be 0 */
static int choose_local(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                        struct ams_endpoint *out)
{
    if (!local && !remote)
        return -AMS_EINVAL;
    if ((local && !endpoint_valid(local)) || (remote && !endpoint_valid(remote)))
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
    if (!ip_is_any(out->ip))
        return iface_may_bind(stack, out->ip) ? 0 : -AMS_EADDRNOTAVAIL;
    if (!iface_has_family(stack, (uint8_t)out->family))
        return -AMS_EAFNOSUPPORT;
    if (remote && !iface_source(stack, remote->ip, out->ip))
        return -AMS_EADDRNOTAVAIL;
    return 0;
}

int ams_udp_open(struct ams_stack *stack, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                 uint32_t flags)
{
    struct ams_endpoint bound;
    if (flags & ~(uint32_t)(AMS_LISTEN_V6ONLY | AMS_LISTEN_REUSEADDR))
        return -AMS_EINVAL; /* these two ask for what is always so, and for what never is */
    int status = choose_local(stack, local, remote, &bound);
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
    status = bind_local(stack, &bound);
    if (status < 0)
        goto fail;
    udp->local = bound;
    udp->created = stack->now;
    status = sock_register(stack, &udp->sock, SOCK_UDP);
    if (status < 0)
        goto fail_claimed;
    table_add(stack->udp, udp);
    return udp->sock.id;

fail_claimed:
    release(stack, &bound);
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
    release(stack, &udp->local);
    sock_unregister(stack, &udp->sock);
    queue_free(udp);
    mem_free(udp);
}

/* The endpoint of an id, or NULL. */
static struct udp_sock *udp_of(struct ams_stack *stack, int id)
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

/* ---- sending ----------------------------------------------------------------------- */

/* Returns a pending error once. */
static int take_error(struct udp_sock *udp)
{
    int error = udp->error;
    udp->error = 0;
    return error;
}

/* The source address for dst.  Return: 0 or a status. */
static int choose_source(const struct ams_stack *stack, const struct udp_sock *udp, const uint8_t dst[16],
                         uint8_t src[16])
{
    if (ip_is_any(udp->local.ip))
        return iface_source(stack, dst, src) ? 0 : -AMS_ENETUNREACH;
    memcpy(src, udp->local.ip, 16);
    /* a tentative address must not be seen on the link (RFC 4862 section 5.4) */
    return iface_owns(stack, src) || iface_may_bind(stack, dst) ? 0 : -AMS_EADDRNOTAVAIL;
}

/* Checks what ams_udp_send() was given.
 * @to: the connected peer where it was NULL */
static int send_check(const struct udp_sock *udp, const struct ams_endpoint *to, size_t length)
{
    if (to->family == 0)
        return -AMS_ENOTCONN;
    if (!endpoint_valid(to) || to->family != udp->local.family)
        return -AMS_EAFNOSUPPORT;
    if (to->port == 0 || ip_is_any(to->ip))
        return -AMS_EINVAL;
    size_t limit = 65535u - UDP_HEADER - (to->family == AMS_IPV4 ? IP4_HEADER : 0u);
    return length > limit ? -AMS_EMSGSIZE : 0;
}

int ams_udp_send(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length,
                 uint64_t now)
{
    struct udp_sock *udp = udp_of(stack, id);
    uint8_t src[16];
    if (!udp)
        return -AMS_EBADF;
    stack->now = ams_max_u64(stack->now, now); /* AMS_NOW: as late as we know */
    if (!to)
        to = &udp->remote;
    int status = take_error(udp);
    if (status == 0)
        status = send_check(udp, to, length);
    if (status == 0)
        status = choose_source(stack, udp, to->ip, src);
    if (status < 0)
        return status;
    uint32_t headroom = ip_headroom((uint8_t)to->family);
    bool small = headroom + UDP_HEADER + length <= FRAME_SMALL - FRAME_HEADROOM;
    struct ams_frame *frame = frame_new(stack->pool, small ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE);
    if (!frame) {
        stack->counters.no_memory++;
        return -AMS_ENOBUFS;
    }
    frame->data += headroom;
    frame->len = UDP_HEADER + (uint32_t)length;
    udp_emit(frame->data, &(struct udp_repr){udp->local.port, to->port, (uint16_t)frame->len, 0});
    if (length)
        memcpy(frame->data + UDP_HEADER, data, length);
    if (!ip_equal(udp->path_dst, to->ip)) {
        memcpy(udp->path_dst, to->ip, 16);
        udp->path.generation = 0; /* look it up */
    }
    struct ip_send send = {.src = src, .dst = to->ip, .protocol = PROTO_UDP, .csum_offset = UDP_CHECKSUM_AT};
    status = ip_send(stack, &udp->path, frame, &send, stack->now);
    if (status < 0)
        return status;
    stack->counters.udp_tx++;
    udp->packets_out++;
    udp->bytes_out += length;
    return 0;
}

/* ---- receiving ------------------------------------------------------------------------ */

/* A short datagram in a large frame moves to a small one, if there is one. */
static struct ams_frame *shrink(struct ams_stack *stack, struct ams_frame *frame)
{
    if (frame->class_ != FRAME_CLASS_LARGE || frame->len > FRAME_SMALL - FRAME_HEADROOM)
        return frame;
    struct ams_frame *small = frame_new(stack->pool, FRAME_CLASS_SMALL);
    if (!small)
        return frame;
    memcpy(small->data, frame->data, frame->len);
    small->len = frame->len;
    frame_free(frame);
    return small;
}

/* Queues a payload for the application.  Consumes frame. */
static void queue_add(struct ams_stack *stack, struct udp_sock *udp, struct ams_frame *frame,
                      const struct ams_endpoint *from)
{
    uint32_t charge = frame->len + UDP_CHARGE;
    if (udp->queue_charge + charge > UDP_RCVBUF && udp->queue_head) {
        stack->counters.udp_queue_full++;
        frame_free(frame);
        return;
    }
    frame = shrink(stack, frame);
    memcpy(frame->data - UDP_FROM_SIZE, from->ip, 16);
    frame->aux16 = from->port;
    frame->next = NULL;
    if (udp->queue_head)
        udp->queue_tail->next = frame;
    else
        udp->queue_head = frame;
    udp->queue_tail = frame;
    udp->queue_bytes += frame->len;
    udp->queue_charge += charge;
    udp->packets_in++;
    udp->bytes_in += frame->len;
    sock_event(stack, &udp->sock, AMS_EV_READABLE);
}

/* Takes the first datagram off the queue.  Owns: the caller. */
static struct ams_frame *queue_take(struct udp_sock *udp)
{
    struct ams_frame *frame = udp->queue_head;
    if (!frame)
        return NULL;
    udp->queue_head = frame->next;
    udp->queue_bytes -= frame->len;
    udp->queue_charge -= frame->len + UDP_CHARGE;
    return frame;
}

/* Return: true if the checksum is right, or rightly absent. */
static bool checksum_ok(const struct ams_frame *frame, const struct ip_info *ip, const struct udp_repr *repr)
{
    if (repr->checksum == 0) /* RFC 768; RFC 8200 section 8.1 */
        return ip->family == AMS_IPV4;
    struct ip_info exact = *ip;
    exact.l4_len = repr->length;
    return ip_l4_checksum_ok(frame, &exact);
}

void udp_input(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint64_t now)
{
    struct udp_repr repr;
    stack->counters.udp_rx++;
    if (udp_parse(frame->data + ip->l4_off, ip->l4_len, &repr) != WIRE_OK || repr.dst_port == 0 ||
        !checksum_ok(frame, ip, &repr)) {
        stack->counters.udp_bad++;
        frame_free(frame);
        return;
    }
    struct ams_endpoint local = {.port = repr.dst_port, .family = ip->family};
    struct ams_endpoint remote = {.port = repr.src_port, .family = ip->family};
    memcpy(local.ip, ip->dst, 16);
    memcpy(remote.ip, ip->src, 16);
    struct udp_sock *udp = table_find(stack->udp, &local, &remote);
    if (!udp) {
        stack->counters.udp_no_port++;
        icmp_send_unreachable(stack, frame, ip, now);
        frame_free(frame);
        return;
    }
    frame_trim(frame, ip->l4_off + repr.length);
    frame_pull(frame, ip->l4_off + UDP_HEADER);
    queue_add(stack, udp, frame, &remote);
}

int ams_udp_recv(struct ams_stack *stack, int id, struct ams_endpoint *from, char *buffer, size_t size)
{
    struct udp_sock *udp = udp_of(stack, id);
    if (!udp)
        return -AMS_EBADF;
    int status = take_error(udp);
    if (status < 0)
        return status;
    struct ams_frame *frame = queue_take(udp);
    if (!frame)
        return -AMS_EAGAIN;
    if (from) {
        memset(from, 0, sizeof(*from));
        memcpy(from->ip, frame->data - UDP_FROM_SIZE, 16);
        from->port = frame->aux16;
        from->family = udp->local.family;
    }
    int length = (int)frame->len;
    if (length && size)
        memcpy(buffer, frame->data, frame->len < size ? frame->len : size);
    frame_free(frame);
    return length;
}

/* ---- errors, events, lists --------------------------------------------------------------- */

void udp_icmp_error(struct ams_stack *stack, const struct icmp_error *error, uint64_t now)
{
    struct udp_sock *udp = table_find(stack->udp, &error->local, &error->remote);
    if (!udp)
        return; /* we have sent no such thing */
    if (error->status == -AMS_EMSGSIZE) {
        ip_path_set_mtu(stack, error->remote.ip, error->mtu, now);
        return; /* the next datagram will be cut */
    }
    if (!udp->remote.family)
        return;
    udp->error = error->status;
    sock_event(stack, &udp->sock, AMS_EV_READABLE);
}

int udp_report(struct ams_stack *stack, struct sock *sock, int32_t *events, int max)
{
    struct udp_sock *udp = AMS_CONTAINER_OF(sock, struct udp_sock, sock);
    (void)stack;
    uint32_t pending = sock->events;
    sock->events = 0;
    if (!pending || max < 1)
        return 0;
    events[0] = sock->id;
    events[1] = (int32_t)pending;
    events[2] = udp->error;
    events[3] = 0; /* datagrams don't come in the blob */
    return 1;
}

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
