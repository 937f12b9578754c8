/* SPDX-License-Identifier: BSD-2-Clause
 *
 * shm.c - the client's end of a port of the fabric.
 *
 * Theory of operation.  Frames are copied between the rings and the stack's
 * pool: they are small, and a buffer that is shared with another process is
 * no place for bytes that were checked once.
 *
 * The port's fd is a pipe into which the switch writes a byte when it finds
 * our bell armed (ring.h).  The bell is armed when a receive finds the ring
 * empty, and stays as it is while frames keep coming: under load neither end
 * makes a system call.  Whenever rx() returns, one of these holds, so that
 * whoever waits for fd misses nothing:
 *
 *   - the bell is armed, and the ring was empty after that;
 *   - the bell was rung, and its byte is in the pipe, or about to be.
 *
 * Therefore the bell is armed before the pipe is drained, not after; a byte
 * that comes in between belongs to a ring that shows in the bell.  Sometimes
 * the pipe is readable though nothing came; that costs one call.
 *
 * Towards the switch it is an eventfd that is only ever written.
 *
 * Super-frames pass in chains of slots (fabric_super.h) if the switch takes
 * them and both rings hold more than two of the longest.  room() is then the
 * number of frames that fit even if they are all of that length.  Chains from
 * the switch are gathered into one frame; the switch is believed as little as
 * it believes us.
 */
#define _GNU_SOURCE

#include "io/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "wire/proto.h"

#define SHM_DRAIN 64

static struct shm_port *shm_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct shm_port, port);
}

/* ---- receiving ------------------------------------------------------------------- */

/* Gathers the rest of a chain behind what is in a frame.
 * @item: the chain's last slot that was read
 * Return: false if it doesn't end, or is longer than a frame can be. */
static bool shm_gather(struct ring *rx, struct ams_frame *frame, struct ring_item item)
{
    while (item.flags & RING_MOREFRAG) {
        if (!ring_avail(rx))
            return false;
        const uint8_t *data = ring_extract(rx, &item);
        if (!data || item.len > frame_tailroom(frame))
            frame = NULL; /* the slots are used up all the same */
        if (!frame)
            break;
        memcpy(frame->data + frame->len, data, item.len);
        frame->len += item.len;
    }
    while (item.flags & RING_MOREFRAG && ring_avail(rx))
        ring_extract(rx, &item);
    return frame != NULL;
}

/* Takes the next frame out of the ring, which is not empty.
 * Return: NULL if it was dropped. */
static struct ams_frame *shm_take_one(struct shm_port *shm)
{
    struct ring *rx = &shm->region.rx;
    uint16_t size = ring_super_size(&rx->slots[rx->next]);
    struct ring_item item;
    const uint8_t *data = ring_extract(rx, &item);
    bool chain = item.flags & RING_MOREFRAG;
    enum frame_class class = chain ? FRAME_CLASS_LARGE : port_frame_class(item.len);
    struct ams_frame *frame = data ? frame_new(shm->port.pool, class) : NULL;

    if (AMS_LIKELY(frame != NULL)) {
        memcpy(frame->data, data, item.len);
        frame->len = item.len;
        if (item.flags & RING_CSUM_OK)
            frame->flags |= FRAME_CSUM_OK;
        if (item.flags & RING_SUPER) {
            frame->flags |= FRAME_GSO | FRAME_CSUM_PARTIAL;
            frame->gso_size = size;
        }
    }
    if (AMS_UNLIKELY(chain)) {
        struct ams_frame nowhere = {.len = 0};
        if (!shm_gather(rx, frame ? frame : &nowhere, item)) {
            frame_free(frame);
            frame = NULL;
        }
    }
    return frame;
}

/* Takes up to n frames out of the ring. */
static int shm_take(struct shm_port *shm, struct ams_frame **frames, int n)
{
    struct ams_port_info *info = &shm->port.info;
    struct ring *rx = &shm->region.rx;
    int taken = 0;
    bool moved = false;

    if (ring_avail(rx) < (uint32_t)n)
        ring_user_refresh(rx);
    while (taken < n && ring_avail(rx)) {
        struct ams_frame *frame = shm_take_one(shm);
        moved = true;
        if (!frame) {
            info->rx_dropped++;
            continue;
        }
        info->rx_bytes += frame->len;
        frames[taken++] = frame;
    }
    if (moved)
        ring_user_pull(rx);
    info->rx_frames += (uint64_t)taken;
    return taken;
}

/* Empties the pipe.  Return: whether there was something in it. */
static bool shm_drain(const struct shm_port *shm)
{
    char bytes[SHM_DRAIN];
    ssize_t got = read(shm->notify_fd, bytes, sizeof(bytes));

    return got > 0;
}

static void shm_arm(struct shm_port *shm)
{
    if (!ring_bell_arm(shm->region.user_bell, RING_WAKE_RX | (shm->starved ? RING_WAKE_TX : 0)))
        shm->rung = true;
}

int shm_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    struct shm_port *shm = shm_from(port);
    const struct ring_bell *bell = shm->region.user_bell;
    int taken = shm_take(shm, frames, n);

    (void)now;
    while (taken < n && (shm->rung || !ring_bell_armed(bell))) {
        shm_arm(shm);
        taken += shm_take(shm, frames + taken, n - taken);
        if (taken == n)
            break;
        if (shm_drain(shm))
            shm->rung = false;
        else if (ring_bell_armed(bell)) /* its byte is still on the way: it will call us again */
            break;
    }
    return taken;
}

/* ---- sending ----------------------------------------------------------------------- */

int shm_room(struct ams_port *port)
{
    struct shm_port *shm = shm_from(port);
    struct ring *tx = &shm->region.tx;
    uint32_t room = ring_avail(tx);

    if (room < PORT_BURST * shm->longest)
        room = ring_user_refresh(tx);
    shm->starved = room < shm->longest;
    if (shm->starved) {
        shm_arm(shm);
        room = ring_user_refresh(tx);
    }
    return (int)(room / shm->longest);
}

/* Copies a super-frame into as many slots as it takes.
 * Return: false if it cannot be sent; the ring is as before. */
static bool shm_put_super(struct shm_port *shm, const struct ams_tx *tx)
{
    struct ring *ring = &shm->region.tx;
    uint32_t slots = ring_slots_for(ring, tx->total), start = ring->next, left = tx->total, piece = 0, offset = 0;
    struct ring_item item;

    if (slots > shm->longest || ring_avail(ring) < slots)
        return false;
    ring_note_super(&ring->slots[start], tx->gso_size);
    for (uint16_t flags = RING_SUPER; slots; slots--, flags = 0) {
        uint8_t *buffer = ring_peek(ring, &item);
        uint32_t length = ams_min_u32(left, ring->buf_size);
        if (!buffer) {
            ring->next = start;
            return false;
        }
        for (uint32_t filled = 0, part; filled < length; filled += part) { /* piece 0 is the head */
            const uint8_t *from = piece ? tx->frags[piece - 1].data : tx->head;
            uint32_t whole = piece ? tx->frags[piece - 1].len : tx->head_len;
            part = ams_min_u32(length - filled, whole - offset);
            memcpy(buffer + filled, from + offset, part);
            offset += part;
            if (offset == whole) {
                piece++;
                offset = 0;
            }
        }
        left -= length;
        ring_insert(ring, item, length, flags | (slots > 1 ? RING_MOREFRAG : 0));
    }
    return true;
}

/* Puts a frame into the next slot.  Return: false if it cannot be sent. */
static bool shm_put(struct shm_port *shm, const struct ams_tx *tx)
{
    struct ring *ring = &shm->region.tx;
    struct ring_item item;

    if (tx->gso_size)
        return shm_put_super(shm, tx);
    if (!ring_avail(ring) || tx->total < ETH_HEADER || tx->total > shm->port.info.mtu + ETH_HEADER)
        return false;
    uint8_t *buffer = ring_peek(ring, &item);
    if (!buffer)
        return false;
    if (tx->flags & TX_CSUM)
        port_finish_csum(tx);
    ring_insert(ring, item, tx_gather(tx, buffer), 0);
    return true;
}

int shm_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    struct shm_port *shm = shm_from(port);

    (void)now;
    for (int i = 0; i < n; i++) {
        if (!shm_put(shm, &tx[i])) {
            port->info.tx_dropped++;
            continue;
        }
        shm->dirty = true;
        port->info.tx_frames++;
        port->info.tx_bytes += tx[i].total;
    }
    return n;
}

void shm_flush(struct ams_port *port, uint64_t now)
{
    struct shm_port *shm = shm_from(port);
    uint64_t one = 1;

    (void)now;
    if (!shm->dirty)
        return;
    shm->dirty = false;
    ring_user_push(&shm->region.tx);
    ring_fence();
    if (ring_bell_due(shm->region.device_bell, RING_WAKE_TX) && write(shm->kick_fd, &one, sizeof(one)) < 0)
        return; /* a full counter is as readable as can be */
}

uint64_t shm_deadline(struct ams_port *port)
{
    (void)port;
    return AMS_NEVER;
}

/* ---- opening ------------------------------------------------------------------------ */

void shm_close_fds(struct shm_port *shm)
{
    ring_region_close(&shm->region);
    if (shm->kick_fd >= 0)
        close(shm->kick_fd);
    if (shm->notify_fd >= 0)
        close(shm->notify_fd);
    shm->kick_fd = shm->notify_fd = -1;
}

/* Duplicates an fd; notify_fd is read without waiting, whatever others do to
 * the flags of what it shares with them. */
static int shm_dup(int fd, int *out)
{
    int flags;

    *out = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (*out < 0)
        return errno == EBADF ? -AMS_EINVAL : port_status(errno);
    flags = fcntl(*out, F_GETFL);
    return flags >= 0 && fcntl(*out, F_SETFL, flags | O_NONBLOCK) == 0 ? 0 : port_status(errno);
}

/* Offers super-frames to the stack, and asks the switch for them. */
static void shm_offload(struct shm_port *shm)
{
    struct ring *rx = &shm->region.rx, *tx = &shm->region.tx;

    if (!ring_fits_super(tx, PORT_FRAME_MAX) || !ring_fits_super(rx, PORT_FRAME_MAX))
        return;
    shm->longest = ring_slots_for(tx, PORT_FRAME_MAX);
    shm->port.info.caps = AMS_CAP_CSUM_TX | AMS_CAP_CSUM_RX | AMS_CAP_TSO4 | AMS_CAP_TSO6 | AMS_CAP_LRO;
    __atomic_store_n(&rx->shared->flags, RING_TAKES_SUPER, __ATOMIC_RELAXED);
}

int shm_open_fds(struct shm_port *shm, const struct port_ops *ops, const struct shm_fds *fds, struct frame_pool *pool,
                 uint32_t flags, struct port_error *error)
{
    memset(shm, 0, sizeof(*shm));
    shm->kick_fd = shm->notify_fd = -1;
    shm->port.ops = ops;
    shm->port.pool = pool;
    int status = ring_region_open(&shm->region, fds->memory);
    if (status)
        return port_fail(error, status, "fd %d holds no rings of an aiomultistack switch: %s", fds->memory,
                         ams_status_text(status));
    status = shm_dup(fds->kick, &shm->kick_fd);
    if (!status)
        status = shm_dup(fds->notify, &shm->notify_fd);
    if (status) {
        shm_close_fds(shm);
        return port_fail(error, status, "cannot use the fds %d and %d: %s", fds->kick, fds->notify,
                         ams_status_text(status));
    }
    struct ring_link link = ring_region_link(&shm->region);
    memcpy(shm->port.info.mac, link.mac, 6);
    shm->port.info.mtu = ams_min_u32(link.mtu, shm->region.tx.buf_size - ETH_HEADER);
    shm->port.info.fd = shm->notify_fd;
    shm->longest = 1;
    if (link.features & RING_LINK_SUPER && !(flags & (AMS_PORT_NO_OFFLOAD | PORT_RAW)))
        shm_offload(shm);
    return 0;
}

/* Parses "3,4,5". */
static bool shm_parse(const char *name, struct shm_fds *fds)
{
    int *const out[] = {&fds->memory, &fds->kick, &fds->notify};
    char *end;

    for (size_t i = 0; i < AMS_ARRAY_SIZE(out); i++) {
        if (*name < '0' || *name > '9')
            return false;
        long value = strtol(name, &end, 10);
        if (value > INT32_MAX || *end != (i + 1 < AMS_ARRAY_SIZE(out) ? ',' : '\0'))
            return false;
        *out[i] = (int)value;
        name = end + 1;
    }
    return true;
}

static int shm_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                    struct frame_pool *pool, struct port_error *error)
{
    struct shm_fds fds;

    if (!shm_parse(name, &fds))
        return port_fail(error, -AMS_EINVAL,
                         "'shm:%.40s' must name three file descriptors, of memory, kick and notify, as in shm:3,4,5",
                         name);
    struct shm_port *shm = mem_alloc(sizeof(*shm));
    if (!shm)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    int status = shm_open_fds(shm, &shm_ops, &fds, pool, config->flags, error);
    if (!status && config->mtu > shm->port.info.mtu) {
        status = port_fail(error, -AMS_EINVAL, "MTU %u is above the switch's, %u", config->mtu, shm->port.info.mtu);
        shm_close_fds(shm);
    }
    if (status) {
        mem_free(shm);
        return status;
    }
    if (config->mtu)
        shm->port.info.mtu = config->mtu;
    *port = &shm->port;
    return 0;
}

static void shm_close(struct ams_port *port)
{
    struct shm_port *shm = shm_from(port);

    shm_close_fds(shm);
    mem_free(shm);
}

const struct port_ops shm_ops = {
    .scheme = "shm",
    .open = shm_open,
    .rx = shm_rx,
    .room = shm_room,
    .tx = shm_tx,
    .flush = shm_flush,
    .deadline = shm_deadline,
    .close = shm_close,
};
