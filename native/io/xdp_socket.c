/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* MAP_ANONYMOUS, MAP_POPULATE, SOCK_CLOEXEC under -std=c11 */

#include "io/xdp_socket.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/alloc.h"
#include "io/port.h"
#include "wire/proto.h"

#ifndef AF_XDP
#define AF_XDP 44
#endif
#ifndef SOL_XDP
#define SOL_XDP 283
#endif
/* Linux 6.6 */
#ifndef XDP_USE_SG
#define XDP_USE_SG (1 << 4)
#endif
#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

#define SEND_BUFFER (8 << 20)  /* copy mode: what may be in the hands of the link, bytes */
/* A queue is free some time after its last socket was closed: the kernel
 * puts that off. */
#define BUSY_TRIES 200
#define BUSY_PAUSE 10000000 /* ns */
#define FRAME_ROOM (FRAME_LARGE - FRAME_HEADROOM)

/* ---- rings -------------------------------------------------------------------- */

static uint32_t ring_load(const uint32_t *index)
{
    return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

static void ring_store(uint32_t *index, uint32_t value)
{
    __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

static bool ring_wants_wakeup(const struct xdp_ring *ring)
{
    return __atomic_load_n(ring->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP;
}

/* Free slots of a ring that we produce into. */
static uint32_t ring_free(struct xdp_ring *ring, uint32_t wanted)
{
    if (ring->size - (ring->mine - ring->theirs) < wanted)
        ring->theirs = ring_load(ring->consumer);
    return ring->size - (ring->mine - ring->theirs);
}

/* Filled slots of a ring that we consume from. */
static uint32_t ring_ready(struct xdp_ring *ring)
{
    if (ring->theirs == ring->mine)
        ring->theirs = ring_load(ring->producer);
    return ring->theirs - ring->mine;
}

static uint64_t *ring_address(const struct xdp_ring *ring, uint32_t index)
{
    return (uint64_t *)ring->slots + (index & (ring->size - 1));
}

static struct xdp_desc *ring_desc(const struct xdp_ring *ring, uint32_t index)
{
    return (struct xdp_desc *)ring->slots + (index & (ring->size - 1));
}

/* Maps a ring.
 * @offsets: where its parts are; @page: its place in the socket's file
 * Return: 0 or -errno. */
static int ring_open(struct xdp_ring *ring, int fd, uint32_t size, size_t slot,
                     const struct xdp_ring_offset *offsets, off_t page)
{
    size_t length = offsets->desc + size * slot;
    void *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);

    if (map == MAP_FAILED)
        return -errno;
    ring->map = map;
    ring->map_size = length;
    ring->producer = (uint32_t *)((uint8_t *)map + offsets->producer);
    ring->consumer = (uint32_t *)((uint8_t *)map + offsets->consumer);
    ring->flags = (uint32_t *)((uint8_t *)map + offsets->flags);
    ring->slots = (uint8_t *)map + offsets->desc;
    ring->size = size;
    return 0;
}

static void ring_close(struct xdp_ring *ring)
{
    if (ring->map)
        munmap(ring->map, ring->map_size);
}

/* ---- open and close ------------------------------------------------------------ */

/* Gives the kernel the area and the rings' sizes.  Return: 0 or -errno. */
static int socket_register(struct xdp_socket *socket)
{
    struct xdp_umem_reg area;
    const struct {
        int option;
        uint32_t size;
    } rings[] = {
        {XDP_UMEM_FILL_RING, socket->rx_chunks},
        {XDP_UMEM_COMPLETION_RING, ams_max_u32(socket->tx_chunks, 2)},
        {XDP_RX_RING, socket->rx_chunks},
        {XDP_TX_RING, socket->tx_chunks},
    };

    memset(&area, 0, sizeof(area));
    area.addr = (uint64_t)(uintptr_t)socket->area;
    area.len = socket->area_size;
    area.chunk_size = socket->chunk;
    if (setsockopt(socket->fd, SOL_XDP, XDP_UMEM_REG, &area, sizeof(area)) < 0)
        return -errno;
    for (size_t i = 0; i < AMS_ARRAY_SIZE(rings); i++) {
        if (rings[i].size &&
            setsockopt(socket->fd, SOL_XDP, rings[i].option, &rings[i].size, sizeof(rings[i].size)) < 0)
            return -errno;
    }
    return 0;
}

/* Maps the four rings.  Return: 0 or -errno. */
static int socket_map(struct xdp_socket *socket)
{
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof(at);
    uint32_t rx = socket->rx_chunks, tx = socket->tx_chunks, completion = ams_max_u32(tx, 2);

    memset(&at, 0, sizeof(at));
    if (getsockopt(socket->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &size) < 0)
        return -errno;
    if (size != sizeof(at)) /* before Linux 5.4: no flags, no need-wakeup */
        return -EPROTONOSUPPORT;
    int status = ring_open(&socket->fill, socket->fd, rx, sizeof(uint64_t), &at.fr, (off_t)XDP_UMEM_PGOFF_FILL_RING);
    if (!status)
        status = ring_open(&socket->completion, socket->fd, completion, sizeof(uint64_t), &at.cr,
                           (off_t)XDP_UMEM_PGOFF_COMPLETION_RING);
    if (!status)
        status = ring_open(&socket->rx, socket->fd, rx, sizeof(struct xdp_desc), &at.rx, XDP_PGOFF_RX_RING);
    if (!status && tx)
        status = ring_open(&socket->tx, socket->fd, tx, sizeof(struct xdp_desc), &at.tx, XDP_PGOFF_TX_RING);
    return status;
}

/* Hands out the chunks: to the fill ring, and to the store for sending. */
static int socket_stock(struct xdp_socket *socket)
{
    socket->spare = mem_zalloc(socket->tx_chunks + 1, sizeof(*socket->spare));
    if (!socket->spare)
        return -ENOMEM;
    for (uint32_t i = 0; i < socket->rx_chunks; i++)
        *ring_address(&socket->fill, i) = (uint64_t)i * socket->chunk;
    socket->fill.mine = socket->rx_chunks;
    ring_store(socket->fill.producer, socket->fill.mine);
    for (uint32_t i = 0; i < socket->tx_chunks; i++)
        socket->spare[socket->n_spare++] = (uint64_t)(socket->rx_chunks + i) * socket->chunk;
    return 0;
}

/* Opens and binds with one set of flags.  On failure all but the area is undone. */
static int socket_try(struct xdp_socket *xsk, const struct xdp_socket_config *config, uint8_t *area, int flags)
{
    struct sockaddr_xdp address;
    int size = SEND_BUFFER;

    memset(xsk, 0, sizeof(*xsk));
    xsk->queue = config->queue;
    xsk->chunk = config->chunk;
    xsk->rx_chunks = config->rx_chunks;
    xsk->tx_chunks = config->may_send ? config->tx_chunks : 0;
    xsk->area_size = (size_t)(xsk->rx_chunks + xsk->tx_chunks) * xsk->chunk;
    xsk->area = area;
    xsk->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    int status = xsk->fd < 0 ? -errno : socket_register(xsk);
    if (!status)
        status = socket_map(xsk);
    if (!status)
        status = socket_stock(xsk);
    if (!status) {
        if (setsockopt(xsk->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
            setsockopt(xsk->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)); /* less will do, slower */
        memset(&address, 0, sizeof(address));
        address.sxdp_family = AF_XDP;
        address.sxdp_flags = (uint16_t)(flags | XDP_USE_NEED_WAKEUP);
        address.sxdp_ifindex = config->ifindex;
        address.sxdp_queue_id = config->queue;
        if (bind(xsk->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
            status = -errno;
    }
    if (status) {
        xsk->area = NULL;
        xdp_socket_close(xsk);
        return status;
    }
    xsk->zero_copy = flags & XDP_ZEROCOPY;
    xsk->several = flags & XDP_USE_SG;
    return 0;
}

/* Binds with the best flags that the driver grants.  Return: 0 or -errno, of the last attempt. */
static int socket_attempts(struct xdp_socket *socket, const struct xdp_socket_config *config, uint8_t *area)
{
    static const int attempts[] = {XDP_ZEROCOPY | XDP_USE_SG, XDP_ZEROCOPY, XDP_COPY | XDP_USE_SG, XDP_COPY};
    int status = -EINVAL;

    for (size_t i = 0; i < AMS_ARRAY_SIZE(attempts); i++) {
        if (config->several_needed && !(attempts[i] & XDP_USE_SG))
            continue;
        status = socket_try(socket, config, area, attempts[i]);
        if (!status || status == -ENOMEM || status == -EBUSY)
            return status;
    }
    return status == -EINVAL && config->several_needed ? -EMSGSIZE : status;
}

int xdp_socket_open(struct xdp_socket *socket, const struct xdp_socket_config *config)
{
    const struct timespec pause = {0, BUSY_PAUSE};
    size_t size = (size_t)(config->rx_chunks + (config->may_send ? config->tx_chunks : 0)) * config->chunk;
    void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    memset(socket, 0, sizeof(*socket));
    socket->fd = -1;
    if (area == MAP_FAILED)
        return -ENOMEM;
    int status = socket_attempts(socket, config, area);
    for (int tries = 0; status == -EBUSY && tries < BUSY_TRIES; tries++) {
        nanosleep(&pause, NULL);
        status = socket_attempts(socket, config, area);
    }
    if (status)
        munmap(area, size);
    return status;
}

void xdp_socket_close(struct xdp_socket *socket)
{
    frame_free(socket->partial);
    ring_close(&socket->tx);
    ring_close(&socket->rx);
    ring_close(&socket->completion);
    ring_close(&socket->fill);
    if (socket->fd >= 0)
        close(socket->fd);
    if (socket->area)
        munmap(socket->area, socket->area_size);
    mem_free(socket->spare);
    memset(socket, 0, sizeof(*socket));
    socket->fd = -1;
}

/* ---- receive ------------------------------------------------------------------ */

/* Appends a chunk's bytes to the frame under way.
 * Return: false if it had to be dropped. */
static bool socket_append(struct xdp_socket *socket, struct frame_pool *pool, const uint8_t *data, uint32_t length,
                          bool last)
{
    struct ams_frame *frame = socket->partial;

    if (!frame) {
        enum frame_class size = last ? port_frame_class(length) : FRAME_CLASS_LARGE;
        frame = socket->partial = frame_new(pool, size);
        if (!frame)
            return false;
    }
    if (length > FRAME_ROOM - frame->len || length > frame_tailroom(frame)) {
        frame_free(frame);
        socket->partial = NULL;
        return false;
    }
    memcpy(frame->data + frame->len, data, length);
    frame->len += length;
    return true;
}

int xdp_socket_receive(struct xdp_socket *socket, struct frame_pool *pool, struct ams_frame **frames, int n,
                       uint64_t *dropped)
{
    struct xdp_ring *rx = &socket->rx, *fill = &socket->fill;
    uint32_t ready = ring_ready(rx), used = 0;
    int taken = 0;

    while (used < ready && taken < n) {
        const struct xdp_desc *desc = ring_desc(rx, rx->mine + used);
        bool last = !(desc->options & XDP_PKT_CONTD);
        if (used + 1 < ready)
            AMS_PREFETCH(socket->area + ring_desc(rx, rx->mine + used + 1)->addr);
        /* Every chunk comes from the fill ring: there is a free slot for it. */
        *ring_address(fill, fill->mine + used) = desc->addr & ~(uint64_t)(socket->chunk - 1);
        used++;
        if (!socket->skipping &&
            !socket_append(socket, pool, socket->area + desc->addr, desc->len, last)) {
            socket->skipping = true;
            ++*dropped;
        }
        if (!last)
            continue;
        if (!socket->skipping) {
            frames[taken++] = socket->partial;
            socket->partial = NULL;
        }
        socket->skipping = false;
    }
    if (used) {
        rx->mine += used;
        ring_store(rx->consumer, rx->mine);
        fill->mine += used;
        ring_store(fill->producer, fill->mine);
    }
    if (AMS_UNLIKELY(ring_wants_wakeup(fill)))
        recvfrom(socket->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
    return taken;
}

/* ---- transmit ----------------------------------------------------------------- */

/* Takes chunks that were sent back into the store. */
static void socket_reclaim(struct xdp_socket *socket)
{
    struct xdp_ring *done = &socket->completion;
    uint32_t ready = ring_ready(done);

    if (!ready)
        return;
    for (uint32_t i = 0; i < ready; i++)
        socket->spare[socket->n_spare++] = *ring_address(done, done->mine + i) & ~(uint64_t)(socket->chunk - 1);
    done->mine += ready;
    ring_store(done->consumer, done->mine);
}

uint32_t xdp_socket_room(struct xdp_socket *socket, uint32_t length)
{
    uint32_t chunks = (length + socket->chunk - 1) / socket->chunk, wanted = chunks * PORT_BURST;

    if (socket->n_spare < wanted)
        socket_reclaim(socket);
    uint32_t room = ams_min_u32(socket->n_spare, ring_free(&socket->tx, wanted));
    return chunks == 1 ? room : room / chunks;
}

/* Puts one descriptor into the tx ring, which xdp_socket_send() then shows. */
static void socket_put(struct xdp_socket *socket, uint64_t address, uint32_t length, bool last)
{
    struct xdp_desc *desc = ring_desc(&socket->tx, socket->tx.mine++);

    desc->addr = address;
    desc->len = length;
    desc->options = last ? 0 : XDP_PKT_CONTD;
}

/* Copies a long frame into as many chunks as it takes. */
static void socket_scatter(struct xdp_socket *socket, const struct ams_tx *tx)
{
    uint64_t address = socket->spare[--socket->n_spare];
    uint32_t filled = 0, left = tx->total;

    for (int32_t i = -1; i < (int32_t)tx->n_frags; i++) {
        const uint8_t *from = i < 0 ? tx->head : tx->frags[i].data;
        uint32_t length = i < 0 ? tx->head_len : tx->frags[i].len;
        while (length) {
            uint32_t part = ams_min_u32(length, socket->chunk - filled);
            memcpy(socket->area + address + filled, from, part);
            filled += part, from += part, length -= part, left -= part;
            if (filled < socket->chunk || !left)
                continue;
            socket_put(socket, address, filled, false);
            address = socket->spare[--socket->n_spare];
            filled = 0;
        }
    }
    socket_put(socket, address, filled, true);
}

void xdp_socket_send(struct xdp_socket *socket, const struct ams_tx *tx)
{
    AMS_ASSERT(socket->n_spare);
    if (AMS_LIKELY(tx->total <= socket->chunk)) {
        uint64_t address = socket->spare[--socket->n_spare];
        tx_gather(tx, socket->area + address);
        socket_put(socket, address, tx->total, true);
    } else {
        socket_scatter(socket, tx);
    }
    ring_store(socket->tx.producer, socket->tx.mine);
}

uint32_t xdp_socket_unsent(const struct xdp_socket *socket)
{
    return socket->tx.mine - ring_load(socket->tx.consumer);
}

int xdp_socket_kick(struct xdp_socket *socket)
{
    uint32_t unsent = xdp_socket_unsent(socket);

    /* In copy mode each call sends a batch, and says EAGAIN if there is more. */
    while (unsent) {
        if (!ring_wants_wakeup(&socket->tx))
            return 0; /* the driver will see it by itself */
        if (sendto(socket->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN && errno != EBUSY &&
            errno != ENOBUFS && errno != EINTR)
            return -errno;
        uint32_t now = xdp_socket_unsent(socket);
        if (now == unsent)
            return socket->zero_copy ? 0 : -EAGAIN;
        unsent = now;
    }
    return 0;
}

void xdp_socket_drops(const struct xdp_socket *socket, uint64_t *rx, uint64_t *tx)
{
    struct xdp_statistics counts;
    socklen_t size = sizeof(counts);

    memset(&counts, 0, sizeof(counts));
    getsockopt(socket->fd, SOL_XDP, XDP_STATISTICS, &counts, &size);
    *rx = counts.rx_dropped + counts.rx_ring_full;
    *tx = counts.tx_invalid_descs;
}
