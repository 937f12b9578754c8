/* SPDX-License-Identifier: BSD-2-Clause
 *
 * udp_data.c - datagrams that UDP endpoints send and receive (RFC 768).
 *
 * Theory of operation.  A received datagram stays in the frame that it came
 * in, which waits in the endpoint's queue until the application takes it.
 * The sender's address is kept in the frame itself, over the headers that
 * nobody needs any more, traffic class and hop limit in frame->aux.  What a queue may hold is bounded in bytes; what
 * does not fit is dropped and counted.
 *
 * ICMP errors are told to connected endpoints only, as the next result of
 * send or receive.
 */
#include <string.h>

#include "stack/iface.h"
#include "stack/udp.h"
#include "wire/bytes.h"
#include "wire/udp.h"

/* What a queue may hold, as Linux's net.core.rmem_default; each datagram is
 * charged UDP_CHARGE on top of its bytes. */
#define UDP_RCVBUF 212992u
#define UDP_CHARGE 256u
/* The sender's address, kept right before the payload: 28 bytes of headers
 * at least are there. */
#define UDP_FROM_SIZE 16u

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
    if (udp_is_open(udp->local.ip))
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
    if (!udp_endpoint_valid(to) || (to->family != udp->local.family && !udp_is_dual(&udp->local, udp->flags)))
        return -AMS_EAFNOSUPPORT;
    if (to->port == 0 || ip_is_any(to->ip))
        return -AMS_EINVAL;
    size_t limit = 65535u - UDP_HEADER - (to->family == AMS_IPV4 ? IP4_HEADER : 0u);
    return length > limit ? -AMS_EMSGSIZE : 0;
}

/* Fills in the network's part of what is sent to an address.
 * @tos, @hops: the datagram's own; -1: the endpoint's */
static void send_class(const struct ams_stack *stack, const struct udp_sock *udp, int tos, int hops,
                       struct ip_send *send)
{
    bool group = udp_is_group(send->dst);
    if (hops < 0 && group)
        hops = udp->group_hops;
    send->class_ = ip_service_class(&udp->service, ip_is4(send->dst) ? AMS_IPV4 : AMS_IPV6);
    if (tos >= 0)
        send->class_.tos = (uint8_t)tos;
    if (hops >= 0)
        send->class_.hops = (uint16_t)(hops + 1);
    send->only_here = group && hops == 0;
    send->also_here = group && udp->group_loop && iface_in_group(stack, send->dst);
}

int ams_udp_send(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length,
                 uint64_t now)
{
    return ams_udp_send_as(stack, id, to, data, length, -1, -1, now);
}

int ams_udp_send_as(struct ams_stack *stack, int id, const struct ams_endpoint *to, const char *data, size_t length,
                    int tos, int hops, uint64_t now)
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
        status = tos < -1 || tos > 255 || hops < -1 || hops > 255 ? -AMS_EINVAL : send_check(udp, to, length);
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
    send_class(stack, udp, tos, hops, &send);
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
    small->aux = frame->aux;
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

/* Queues copies of what came for a group for all that it is for, but `first`. */
static void queue_copies(struct ams_stack *stack, const struct udp_sock *first, const struct ams_frame *frame,
                         const struct ams_endpoint *local, const struct ams_endpoint *from)
{
    struct udp_sock *udp = NULL;
    while ((udp = udp_find_next(stack, udp, local, from)) != NULL) {
        struct ams_frame *copy = udp == first ? NULL : frame_new(stack->pool, (enum frame_class)frame->class_);
        if (!copy) {
            stack->counters.no_memory += udp != first;
            continue;
        }
        memcpy(copy->data, frame->data, frame->len);
        copy->len = frame->len;
        copy->aux = frame->aux;
        queue_add(stack, udp, copy, from);
    }
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
    struct udp_sock *udp = udp_find(stack, &local, &remote);
    if (!udp) {
        stack->counters.udp_no_port++;
        icmp_send_unreachable(stack, frame, ip, now);
        frame_free(frame);
        return;
    }
    frame_trim(frame, ip->l4_off + repr.length);
    frame_pull(frame, ip->l4_off + UDP_HEADER);
    frame->aux = (uint32_t)ip->ttl << 8 | ip->tos;
    if (udp_is_group(ip->dst))
        queue_copies(stack, udp, frame, &local, &remote);
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
        from->family = ip_is4(from->ip) ? AMS_IPV4 : AMS_IPV6;
    }
    udp->received_tos = (uint8_t)frame->aux;
    udp->received_hops = (uint8_t)(frame->aux >> 8);
    int length = (int)frame->len;
    if (length && size)
        memcpy(buffer, frame->data, frame->len < size ? frame->len : size);
    frame_free(frame);
    return length;
}

/* ---- errors, events --------------------------------------------------------------- */

void udp_icmp_error(struct ams_stack *stack, const struct icmp_error *error, uint64_t now)
{
    struct udp_sock *udp = udp_find(stack, &error->local, &error->remote);
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

int udp_report(struct sock *sock, int32_t *events)
{
    struct udp_sock *udp = AMS_CONTAINER_OF(sock, struct udp_sock, sock);
    uint32_t pending = sock->events;
    sock->events = 0;
    if (!pending)
        return 0;
    events[0] = sock->id;
    events[1] = (int32_t)pending;
    events[2] = udp->error;
    events[3] = 0; /* datagrams don't come in the blob */
    return 1;
}
