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
        struct ring_item item;
        const uint8_t *data = ring_extract(rx, &item);
        struct ams_frame *frame = data ? frame_new(shm->port.pool, port_frame_class(item.len)) : NULL;
        moved = true;
        if (!frame) {
            info->rx_dropped++;
            continue;
        }
        memcpy(frame->data, data, item.len);
        frame->len = item.len;
        if (item.flags & RING_CSUM_OK)
            frame->flags |= FRAME_CSUM_OK;
        info->rx_bytes += item.len;
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

    if (room < PORT_BURST)
        room = ring_user_refresh(tx);
    shm->starved = !room;
    if (!room) {
        shm_arm(shm);
        room = ring_user_refresh(tx);
    }
    return (int)room;
}

/* Puts a frame into the next slot.  Return: false if it cannot be sent. */
static bool shm_put(struct shm_port *shm, const struct ams_tx *tx)
{
    struct ring *ring = &shm->region.tx;
    struct ring_item item;

    if (!ring_avail(ring) || tx->total < ETH_HEADER || tx->total > shm->port.info.mtu + ETH_HEADER || tx->gso_size)
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

int shm_open_fds(struct shm_port *shm, const struct port_ops *ops, const struct shm_fds *fds, struct frame_pool *pool,
                 struct port_error *error)
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
    int status = shm_open_fds(shm, &shm_ops, &fds, pool, error);
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
