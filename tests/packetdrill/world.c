/* SPDX-License-Identifier: BSD-2-Clause
 *
 * world.c - virtual time, the wire, the engine's events, and waiting.
 */
#include "world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define ETHERNET 14
#define TIMESTAMPS_SIZE 12
#define RETURN_TIMEOUT_S 2 /* real time that a woken thread gets to return */

static const uint8_t stack_mac[6] = {2, 0, 0, 0, 0, 1};
static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 2};

/* ---- life ------------------------------------------------------------------------ */

/* One of the local addresses, the whole family on-link: no gateway needed. */
static void local_address(struct ams_ifaddr *out, const struct pd_world *world, const struct ams_endpoint *local,
                          int family, const char *fallback)
{
    char text[64];
    out->prefix_len = 0;
    out->address.family = family == AF_INET ? AMS_IPV4 : AMS_IPV6;
    if (local && local->family == out->address.family) {
        memcpy(out->address.ip, local->ip, 16);
        return;
    }
    bool given = settings_option("local_ip", text, sizeof(text)) && !strchr(text, ':') == (family == AF_INET);
    if (!given && !settings_flag(world, family == AF_INET ? "local4" : "local6", text, sizeof(text)))
        snprintf(text, sizeof(text), "%s", fallback);
    if (family == AF_INET6) {
        inet_pton(AF_INET6, text, out->address.ip);
        return;
    }
    memset(out->address.ip, 0, 10);
    memset(out->address.ip + 10, 0xff, 2);
    inet_pton(AF_INET, text, out->address.ip + 12);
}

int world_start(struct pd_world *world, const struct ams_endpoint *local)
{
    static const uint8_t zero[12];
    if (world->node)
        return 0;
    if (local && memcmp(local->ip + 12, zero, 4) == 0 &&
        (local->family == AMS_IPV4 || memcmp(local->ip, zero, 12) == 0))
        local = NULL; /* a wildcard */
    struct ams_ifaddr addresses[2] = {0};
    local_address(&addresses[0], world, local, AF_INET, "192.168.0.1");
    local_address(&addresses[1], world, local, AF_INET6, "fd3d:fa7b:d17d::1");
    struct ams_stack_config config = {.addresses = addresses, .n_addresses = 2, .flags = AMS_STACK_NO_DAD};
    struct ams_port_config port = {.spec = "mem:packetdrill"};
    memcpy(config.mac, stack_mac, 6);
    config.seed[0] = 0x7061636b65746472;
    config.now = world->now;
    settings_read(world, &config, &port);
    world->offload = settings_offload();
    world->hub = ams_hub_new(1, 65535, 0); /* scripts send segments larger than the MTU, as GRO makes them */
    port.hub = world->hub;
    char error[256] = "no memory";
    struct ams_port_config wire = {.spec = "mem:packetdrill", .hub = world->hub};
    if (!world->hub || ams_port_open(&world->wire, &wire, error, sizeof(error)) < 0 ||
        ams_node_new(&world->node, &port, &config, error, sizeof(error)) < 0) {
        fprintf(stderr, "adapter: %s\n", error);
        errno = ENOMEM;
        return -1;
    }
    world->stack = ams_node_stack(world->node);
    return 0;
}

/* What the engine may still refer to stays until it is gone. */
static void file_free(struct pd_world *world, struct pd_file *file)
{
    int count = file->errors.n_refs;
    if (count) {
        struct pd_ref *grown = realloc(world->pinned, (size_t)(world->n_pinned + count) * sizeof(*grown));
        if (!grown)
            abort();
        memcpy(grown + world->n_pinned, file->errors.refs, (size_t)count * sizeof(*grown));
        world->pinned = grown;
        world->n_pinned += count;
    }
    free(file->sendbuf.queue);
    free(file->pipe_data);
    free(file);
}

void world_stop(struct pd_world *world)
{
    ams_node_free(world->node);
    if (world->wire)
        ams_port_close(world->wire);
    if (world->hub)
        ams_hub_free(world->hub);
    for (int fd = 0; fd < PD_FDS; fd++)
        if (world->by_fd[fd])
            file_free(world, world->by_fd[fd]);
    for (int i = 0; i < world->n_pinned; i++)
        free(world->pinned[i].data);
    free(world->pinned);
    while (world->out_head) {
        struct pd_packet *packet = world->out_head;
        world->out_head = packet->next;
        free(packet);
    }
    free(world->by_id);
    free(world->so_flags);
}

/* ---- files ------------------------------------------------------------------------ */

int world_fail(int status)
{
    errno = ams_status_errno(status);
    return -1;
}

struct pd_file *world_file_new(struct pd_world *world, enum pd_kind kind)
{
    struct pd_file *file = calloc(1, sizeof(*file));
    int fd = file ? eventfd(0, EFD_CLOEXEC) : -1;
    if (fd < 0 || fd >= PD_FDS) {
        free(file);
        errno = EMFILE;
        return NULL;
    }
    file->kind = kind;
    file->fd = fd;
    file->id = -1;
    world->by_fd[fd] = file;
    return file;
}

struct pd_file *world_file(struct pd_world *world, int fd, enum pd_kind kind)
{
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    if (!file)
        errno = EBADF;
    else if (file->kind != kind)
        errno = kind == PD_TCP ? ENOTSOCK : EINVAL;
    return file && file->kind == kind ? file : NULL;
}

void world_bind_id(struct pd_world *world, struct pd_file *file, int id)
{
    if (id >= world->n_by_id) {
        int size = id + 64;
        struct pd_file **grown = realloc(world->by_id, (size_t)size * sizeof(*grown));
        if (!grown)
            abort();
        memset(grown + world->n_by_id, 0, (size_t)(size - world->n_by_id) * sizeof(*grown));
        world->by_id = grown;
        world->n_by_id = size;
    }
    world->by_id[id] = file;
    if (file)
        file->id = id;
}

/* Lets go of an engine id. */
static void id_close(struct pd_world *world, int id)
{
    ams_tcp_close(world->stack, id);
    if (id < world->n_by_id)
        world->by_id[id] = NULL;
}

int world_close(struct pd_world *world, int fd)
{
    struct pd_file *file = fd >= 0 && fd < PD_FDS ? world->by_fd[fd] : NULL;
    if (!file) {
        errno = EBADF;
        return -1;
    }
    for (int i = 0; i < file->n_accepted; i++) {
        ams_tcp_abort(world->stack, file->accepted[i]->id);
        world->by_id[file->accepted[i]->id] = NULL;
        file->accepted[i]->id = -1;
        world_close(world, file->accepted[i]->fd);
    }
    if (file->id >= 0)
        id_close(world, file->id);
    if (file->pipe_peer)
        file->pipe_peer->pipe_peer = NULL;
    world->by_fd[fd] = NULL;
    close(fd);
    file_free(world, file);
    if (world->node)
        world_settle(world);
    return 0;
}

/* ---- the wire ----------------------------------------------------------------------- */

/* Puts one IP packet on the wire.  Return: 0 or -1 with errno. */
static int wire_put(struct pd_world *world, const void *packet, size_t len)
{
    char frame[PD_PACKET_MAX];
    if (!len || len + ETHERNET > sizeof(frame)) {
        errno = EMSGSIZE;
        return -1;
    }
    memcpy(frame, stack_mac, 6);
    memcpy(frame + 6, peer_mac, 6);
    bool v4 = *(const uint8_t *)packet >> 4 == 4;
    frame[12] = (char)(v4 ? 0x08 : 0x86);
    frame[13] = (char)(v4 ? 0x00 : 0xdd);
    memcpy(frame + ETHERNET, packet, len);
    int status = ams_port_send(world->wire, frame, len + ETHERNET, world->now);
    return status < 0 ? world_fail(status) : 0;
}

int world_inject(struct pd_world *world, const void *packet, size_t len)
{
    char mss[16] = "0";
    settings_option("mss", mss, sizeof(mss));
    int status = segment_cut(world, packet, len, (size_t)atoi(mss), wire_put);
    world_settle(world);
    return status;
}

/* Answers "who has?" for every address but the stack's own. */
static void answer_arp(struct pd_world *world, const uint8_t *frame)
{
    uint8_t reply[42];
    memcpy(reply, frame, sizeof(reply));
    memcpy(reply, frame + 6, 6);
    memcpy(reply + 6, peer_mac, 6);
    reply[21] = 2;
    memcpy(reply + 22, peer_mac, 6);
    memcpy(reply + 28, frame + 38, 4);
    memcpy(reply + 32, frame + 22, 10);
    ams_port_send(world->wire, (const char *)reply, sizeof(reply), world->now);
}

/* The one's complement sum of ICMPv6 and its pseudo-header. */
static uint16_t icmp6_checksum(const uint8_t *ip6, size_t payload)
{
    uint32_t sum = (uint32_t)payload + 58;
    for (size_t i = 8; i < 40 + payload; i += 2)
        sum += (uint32_t)ip6[i] << 8 | ip6[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

static void answer_solicitation(struct pd_world *world, const uint8_t *frame)
{
    uint8_t reply[ETHERNET + 40 + 32] = {0};
    uint8_t *ip = reply + ETHERNET, *icmp = ip + 40;
    memcpy(reply, frame + 6, 6);
    memcpy(reply + 6, peer_mac, 6);
    memcpy(reply + 12, frame + 12, 2);
    ip[0] = 0x60;
    ip[5] = 32;
    ip[6] = 58;
    ip[7] = 255;
    memcpy(ip + 8, frame + ETHERNET + 48, 16);  /* the target */
    memcpy(ip + 24, frame + ETHERNET + 8, 16);  /* who asked */
    icmp[0] = 136;
    icmp[4] = 0x60; /* solicited, override */
    memcpy(icmp + 8, ip + 8, 16);
    icmp[24] = 2;
    icmp[25] = 1;
    memcpy(icmp + 26, peer_mac, 6);
    uint16_t sum = icmp6_checksum(ip, 32);
    icmp[2] = (uint8_t)(sum >> 8);
    icmp[3] = (uint8_t)sum;
    ams_port_send(world->wire, (const char *)reply, sizeof(reply), world->now);
}

/* True for what a link needs and no script knows of. */
static bool link_chatter(struct pd_world *world, const uint8_t *frame, size_t len)
{
    uint16_t type = (uint16_t)(frame[12] << 8 | frame[13]);
    if (type == 0x0806) {
        if (len >= 42 && frame[21] == 1 && memcmp(frame + 28, frame + 38, 4) != 0)
            answer_arp(world, frame);
        return true;
    }
    if (type != 0x86dd || len < ETHERNET + 44 || frame[ETHERNET + 6] != 58)
        return false;
    uint8_t kind = frame[ETHERNET + 40];
    if (kind == 135 && len >= ETHERNET + 64)
        answer_solicitation(world, frame);
    return kind >= 133 && kind <= 137;
}

/* Appends a packet to those that packetdrill has not seen.  Return: 0. */
static int out_put(struct pd_world *world, const void *data, size_t len)
{
    struct pd_packet *packet = malloc(sizeof(*packet) + len);
    if (!packet)
        abort();
    packet->next = NULL;
    packet->at = world->now;
    packet->len = len;
    memcpy(packet->data, data, len);
    if (world->out_tail)
        world->out_tail->next = packet;
    else
        world->out_head = packet;
    world->out_tail = packet;
    return 0;
}

/* How a device would cut a packet: the payload of each part, 0: not at all.
 * Linux's tun leaves super-frames with Accurate ECN's flags to the kernel. */
static size_t cut_size(struct pd_world *world, const void *packet, size_t len)
{
    uint16_t port = segment_remote_port(packet, len);
    struct ams_tcp_info info;
    for (int id = 0; id < world->n_by_id; id++) {
        const struct pd_file *file = world->by_id[id];
        if (file && file->state != PD_LISTENING && file->remote.port == port &&
            ams_tcp_get_info(world->stack, id, &info, world->now) == 0 &&
            (!world->offload || info.options & AMS_INFO_ACCECN))
            return info.snd_mss - segment_options(packet, len) +
                   (info.options & AMS_INFO_TIMESTAMPS ? TIMESTAMPS_SIZE : 0);
    }
    return 0;
}

/* Takes one frame off the wire.  Return: false if there is none. */
static bool wire_take(struct pd_world *world)
{
    char frame[PD_PACKET_MAX];
    int len = ams_port_recv(world->wire, frame, sizeof(frame), world->now);
    if (len < 0)
        return false;
    if (len <= ETHERNET || link_chatter(world, (const uint8_t *)frame, (size_t)len))
        return true;
    const char *packet = frame + ETHERNET;
    size_t size = (size_t)len - ETHERNET;
    segment_cut(world, packet, size, cut_size(world, packet, size), out_put);
    return true;
}

/* ---- events and time -------------------------------------------------------------------- */

/* A new connection waits in its listener. */
static void event_accepted(struct pd_world *world, int id, int listener_id)
{
    struct pd_file *listener = listener_id < world->n_by_id ? world->by_id[listener_id] : NULL;
    ams_tcp_set_reading(world->stack, id, AMS_READ_EVENT);
    struct pd_file *child = listener && listener->n_accepted < PD_ACCEPT_QUEUE ? world_file_new(world, PD_TCP) : NULL;
    if (!child) {
        ams_tcp_abort(world->stack, id);
        return;
    }
    child->family = listener->family;
    child->flags = O_RDWR;
    child->state = PD_CONNECTED;
    ams_tcp_local(world->stack, id, &child->local);
    ams_tcp_remote(world->stack, id, &child->remote);
    world_bind_id(world, child, id);
    child->connected_at = world->now;
    child->errors.zerocopy = listener->errors.zerocopy;
    child->sendbuf.limit = listener->sendbuf.limit;
    child->sendbuf.fixed = listener->sendbuf.fixed;
    sendbuf_start(world, child);
    if (settings_pacing())
        ams_tcp_setopt(world->stack, id, AMS_OPT_PACING, 1);
    listener->accepted[listener->n_accepted++] = child;
    listener->changes++;
}

static void event_dispatch(struct pd_world *world, const int32_t *words)
{
    int id = words[0], bits = words[1];
    if (bits & AMS_EV_ACCEPTED)
        event_accepted(world, id, words[2]);
    struct pd_file *file = id < world->n_by_id ? world->by_id[id] : NULL;
    if (!file)
        return;
    if (bits & AMS_EV_REFS)
        errqueue_released(file, words[2]);
    if (bits & ~AMS_EV_REFS)
        file->changes++;
    if (bits & AMS_EV_CONNECTED) {
        file->state = PD_CONNECTED;
        file->deferred = false;
        file->connected_at = world->now;
        sendbuf_start(world, file);
    }
    if (bits & AMS_EV_EOF)
        file->eof = true;
    if (bits & AMS_EV_CLOSED) {
        file->state = PD_CLOSED;
        file->error = words[2] ? ams_status_errno(words[2]) : 0;
        file->eof = true;
    }
}

void world_settle(struct pd_world *world)
{
    int32_t events[4 * 64];
    char none;
    bool busy = true;
    while (busy) {
        int n = ams_node_poll(world->node, world->now, events, 64, &none, 0);
        busy = n > 0;
        for (int i = 0; i < n; i++)
            event_dispatch(world, events + 4 * i);
        uint64_t deadline = ams_node_flush(world->node, world->now);
        while (wire_take(world))
            busy = true;
        busy = busy || deadline <= world->now;
    }
    for (int id = 0; id < world->n_by_id; id++)
        if (world->by_id[id]) {
            errqueue_progress(world, world->by_id[id]);
            sendbuf_watch(world, world->by_id[id]);
        }
    counters_publish(world);
}

/* Lets one thread go whose condition holds, and waits until it is back.
 * Return: false if there is none. */
static bool waiter_release(struct pd_world *world)
{
    struct pd_waiter *waiter = world->waiters;
    while (waiter && (waiter->go || (!waiter->ready(waiter->file, waiter->arg) && world->now < waiter->deadline)))
        waiter = waiter->next;
    if (!waiter)
        return false;
    waiter->go = true;
    pthread_cond_broadcast(&world->woken);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += RETURN_TIMEOUT_S;
    while (!waiter->clock_read && pthread_cond_timedwait(&world->returned, &world->lock, &limit) == 0)
        ;
    world->handed_over = true;
    return true;
}

void world_run(struct pd_world *world, uint64_t until, bool packets)
{
    for (;;) {
        uint64_t next = until;
        if (world->node) {
            world_settle(world);
            while (waiter_release(world))
                ;
            uint64_t deadline = ams_node_flush(world->node, world->now);
            next = deadline < next ? deadline : next;
        }
        if (packets && world->out_head)
            return;
        for (struct pd_waiter *waiter = world->waiters; waiter; waiter = waiter->next)
            if (!waiter->go && waiter->deadline < next)
                next = waiter->deadline;
        if (world->now >= until)
            return;
        world->now = next > world->now ? next : world->now + 1;
    }
}

static void waiter_unlink(struct pd_world *world, struct pd_waiter *waiter)
{
    struct pd_waiter **slot = &world->waiters;
    while (*slot && *slot != waiter)
        slot = &(*slot)->next;
    if (*slot)
        *slot = waiter->next;
}

/* The waiter whose thread has not read the clock yet; one a thread. */
static _Thread_local struct pd_waiter returning;
static _Thread_local bool is_returning;

bool world_clock_read(struct pd_world *world)
{
    if (!is_returning)
        return false;
    is_returning = false;
    returning.clock_read = true;
    waiter_unlink(world, &returning);
    pthread_cond_broadcast(&world->returned);
    return true;
}

/* The main thread has nobody else to advance time. */
static bool wait_on_main(struct pd_world *world, struct pd_file *file, bool (*ready)(struct pd_file *, void *),
                         void *arg, uint64_t deadline)
{
    uint64_t end = deadline != UINT64_MAX ? deadline : world->now + 10 * PD_NS_PER_S;
    while (!ready(file, arg) && world->now < end) {
        uint64_t next = world->node ? ams_node_flush(world->node, world->now) : end;
        world_run(world, next < end ? (next > world->now ? next : world->now + 1) : end, false);
    }
    return ready(file, arg);
}

bool world_wait(struct pd_world *world, struct pd_file *file, bool (*ready)(struct pd_file *, void *), void *arg,
                uint64_t deadline)
{
    if (ready(file, arg))
        return true;
    if (world->now >= deadline)
        return false;
    if (pthread_equal(pthread_self(), world->main_thread))
        return wait_on_main(world, file, ready, arg, deadline);
    world_clock_read(world); /* of a former wait in the same call */
    returning = (struct pd_waiter){.ready = ready, .file = file, .arg = arg, .deadline = deadline,
                                   .thread = pthread_self(), .next = world->waiters};
    world->waiters = &returning;
    while (!returning.go)
        pthread_cond_wait(&world->woken, &world->lock);
    is_returning = true;
    return ready(file, arg);
}
