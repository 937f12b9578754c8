/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tap.c - `tap:NAME`: frames through a TAP device.
 *
 * Theory of operation.  Each frame is one read() or write() of a virtio-net
 * header and the frame (IFF_VNET_HDR).  The header lets checksums stay
 * unfinished and TCP super-frames of up to 64 KB pass in both directions, so
 * that the kernel's segmentation and its GRO never run: fewer, larger frames
 * are what makes a TAP fast.
 *
 * Receive: the length is known only afterwards.  A frame is read into a large
 * frame, always the same as long as possible, hot in the cache; what fits a
 * small one is copied there, which costs less than readv() spends on a second
 * buffer.  Frames that a call didn't need go back to the pool before it
 * returns, so that what is in use is what the stack holds.
 *
 * The read that only finds the queue empty costs as much as one that brings
 * something.  After LONE_STREAK calls that each found exactly one frame the
 * driver stops after the first one (the fd is level-triggered: if there is
 * more, the loop comes back at once), and looks again every LONE_PROBE calls.
 *
 * Transmit: the virtio-net header is written in front of tx->head.  A frame of
 * up to LINEAR_MAX bytes is made contiguous and written, which costs less than
 * writev() does; payload beyond that is never copied.  A TAP rarely refuses
 * to take a frame; when it does (EAGAIN), the rest of the batch is copied to a
 * queue, and room() is 0 until that is empty.
 *
 * Without vnet headers (a system that has none, or AMS_PORT_NO_OFFLOAD) the
 * port's caps are 0 and checksums are finished here if somebody asks.
 *
 * A device that is deleted breaks the port for good.  One that is down takes
 * nothing: frames are dropped and counted.
 *
 * How a device is had and what its errors mean differs between systems:
 * tap_linux.c and tap_freebsd.c.
 */
#define _GNU_SOURCE /* writev under -std=c11 */

#include "io/tap.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/vnet.h"
#include "wire/proto.h"

#define SMALL_ROOM (FRAME_SMALL - FRAME_HEADROOM)
#define LONE_STREAK 16u
#define LONE_PROBE 16u
#define RETRY_DELAY AMS_NS_PER_MS /* no event tells when a full TAP has room again */

static struct tap_port *tap_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct tap_port, port);
}

/* ---- receive ------------------------------------------------------------------ */

/* Takes a frame out of the kernel's queue and drops it: the pool is dry. */
static ssize_t tap_discard(struct tap_port *tap)
{
    uint8_t scratch[64];
    ssize_t length = read(tap->fd, scratch, sizeof(scratch));
    if (length >= 0)
        tap->port.info.rx_dropped++;
    return length;
}

/* A small frame with a copy of what was read, NULL if the pool is dry. */
static struct ams_frame *tap_shrink(struct tap_port *tap, const struct ams_frame *large, uint32_t length)
{
    struct ams_frame *small = frame_new(tap->port.pool, FRAME_CLASS_SMALL);

    if (small)
        memcpy(small->data, large->data, length);
    return small;
}

/* Reads one frame.
 * @large: a spare frame to read into; NULL when it was used up
 * @out: the frame; NULL if it was dropped
 * Return: bytes read, or -1 with errno. */
static ssize_t tap_read(struct tap_port *tap, struct ams_frame **large, struct ams_frame **out)
{
    *out = NULL;
    if (!*large)
        *large = frame_new(tap->port.pool, FRAME_CLASS_LARGE);
    if (!*large)
        return tap_discard(tap);
    uint8_t *start = (*large)->data - tap->header;
    ssize_t got = read(tap->fd, start, FRAME_LARGE - FRAME_HEADROOM + tap->header);
    if (got < 0)
        return got;
    if ((size_t)got < tap->header + ETH_HEADER) {
        tap->port.info.rx_dropped++;
        return got;
    }
    uint32_t length = (uint32_t)got - tap->header;
    if (AMS_LIKELY(length <= SMALL_ROOM)) {
        *out = tap_shrink(tap, *large, length);
    } else {
        *out = *large;
        *large = NULL;
    }
    if (!*out) {
        tap->port.info.rx_dropped++;
        return got;
    }
    (*out)->len = length;
    if (tap->header)
        vnet_describe(*out, start);
    tap->port.info.rx_frames++;
    tap->port.info.rx_bytes += length;
    return got;
}

/* What a failed read means.  Return: 0 (nothing there), or a status. */
static int tap_rx_error(struct tap_port *tap, int number)
{
    if (number == EAGAIN || number == EINTR)
        return 0;
    int status = tap_system_rx_error(number);
    tap->gone = status != 0;
    return status;
}

static int tap_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    struct tap_port *tap = tap_from(port);
    struct ams_frame *large = NULL, *frame;
    bool stop_early = tap->lone >= LONE_STREAK && tap->lone % LONE_PROBE != 0;
    int taken = 0, reads = 0, status = 0;

    (void)now;
    if (tap->gone)
        return -AMS_ENODEV;
    while (reads < n) {
        if (tap_read(tap, &large, &frame) < 0) {
            status = tap_rx_error(tap, errno);
            break;
        }
        reads++;
        if (frame)
            frames[taken++] = frame;
        if (stop_early)
            break;
    }
    if (reads > 1)
        tap->lone = 0;
    else if (reads == 1 && n > 1)
        tap->lone++;
    frame_free(large);
    return taken ? taken : status;
}

/* ---- transmit ----------------------------------------------------------------- */

/* Completes a frame for the link: the virtio-net header in front of its head,
 * or its checksum. */
static void tap_finish(const struct tap_port *tap, const struct ams_tx *tx)
{
    if (tap->header)
        vnet_put(tx, tx->head - tap->header);
    else if (tx->flags & TX_CSUM)
        port_finish_csum(tx);
}

/* Counts what became of a frame that was written.
 * @result: of the write
 * Return: false if it must be tried again later. */
static bool tap_written(struct tap_port *tap, ssize_t result, uint32_t length)
{
    if (result >= 0) {
        tap->port.info.tx_frames++;
        tap->port.info.tx_bytes += length;
        return true;
    }
    if (errno == EAGAIN)
        return false;
    tap->port.info.tx_dropped++;
    return true;
}

/* Writes a short frame from one piece of memory. */
static ssize_t tap_write_linear(struct tap_port *tap, const struct ams_tx *tx)
{
    memcpy(tap->linear, tx->head - tap->header, tap->header);
    tx_gather(tx, tap->linear + tap->header);
    return write(tap->fd, tap->linear, tap->header + tx->total);
}

/* Writes a frame from where its pieces are. */
static ssize_t tap_write_pieces(struct tap_port *tap, const struct ams_tx *tx)
{
    struct iovec parts[TX_FRAGS + 1];

    parts[0] = (struct iovec){tx->head - tap->header, tx->head_len + tap->header};
    for (uint32_t i = 0; i < tx->n_frags; i++)
        parts[i + 1] = (struct iovec){(void *)(uintptr_t)tx->frags[i].data, tx->frags[i].len};
    return writev(tap->fd, parts, tx->n_frags + 1);
}

/* Writes one frame.  Return: false if the kernel has no room now. */
static bool tap_write(struct tap_port *tap, const struct ams_tx *tx)
{
    ssize_t result;

    tap_finish(tap, tx);
    do {
        if (!tx->n_frags)
            result = write(tap->fd, tx->head - tap->header, tx->head_len + tap->header);
        else if (tx->total <= LINEAR_MAX)
            result = tap_write_linear(tap, tx);
        else
            result = tap_write_pieces(tap, tx);
    } while (result < 0 && errno == EINTR);
    return tap_written(tap, result, tx->total);
}

/* Copies a frame, with its virtio-net header, to the queue.  (tap_write has
 * been called for it: header and checksum are in place.) */
static void tap_enqueue(struct tap_port *tap, const struct ams_tx *tx)
{
    struct ams_frame *frame = NULL;

    if (tap->header + tx->total <= FRAME_LARGE - FRAME_HEADROOM)
        frame = frame_new(tap->port.pool, port_frame_class(tap->header + tx->total));
    if (!frame) {
        tap->port.info.tx_dropped++;
        return;
    }
    memcpy(frame->data, tx->head - tap->header, tap->header);
    frame->len = tap->header + tx_gather(tx, frame->data + tap->header);
    if (tap->queue_tail)
        tap->queue_tail->next = frame;
    else
        tap->queue_head = frame;
    tap->queue_tail = frame;
}

static int tap_room(struct ams_port *port)
{
    return tap_from(port)->queue_head ? 0 : PORT_BURST;
}

static int tap_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    struct tap_port *tap = tap_from(port);
    int i = 0;

    while (i < n && tap_write(tap, &tx[i]))
        i++;
    if (i == n)
        return n;
    tap->retry_at = now + RETRY_DELAY;
    tap_enqueue(tap, &tx[i++]);
    for (; i < n; i++) {
        tap_finish(tap, &tx[i]);
        tap_enqueue(tap, &tx[i]);
    }
    return n;
}

static void tap_flush(struct ams_port *port, uint64_t now)
{
    struct tap_port *tap = tap_from(port);

    if (AMS_LIKELY(!tap->queue_head))
        return;
    while (tap->queue_head) {
        struct ams_frame *frame = tap->queue_head;
        ssize_t result = write(tap->fd, frame->data, frame->len);
        if (!tap_written(tap, result, frame->len - tap->header)) {
            tap->retry_at = now + RETRY_DELAY;
            return;
        }
        tap->queue_head = frame->next;
        frame_free(frame);
    }
    tap->queue_tail = NULL;
    tap->retry_at = AMS_NEVER;
}

static uint64_t tap_deadline(struct ams_port *port)
{
    return tap_from(port)->retry_at;
}

/* ---- open and close ----------------------------------------------------------- */

static void tap_close(struct ams_port *port)
{
    struct tap_port *tap = tap_from(port);

    while (tap->queue_head) {
        struct ams_frame *next = tap->queue_head->next;
        frame_free(tap->queue_head);
        tap->queue_head = next;
    }
    if (tap->fd >= 0)
        close(tap->fd);
    mem_free(tap);
}

static int tap_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                    struct frame_pool *pool, struct port_error *error)
{
    if (!name[0])
        return port_fail(error, -AMS_EINVAL, "a TAP port needs a device name, as in tap:tap0");
    if (strlen(name) >= IFNAMSIZ)
        return port_fail(error, -AMS_EINVAL, "device name '%.40s' is too long: at most %d characters", name,
                         IFNAMSIZ - 1);
    int status = tap_system_check(name, error);
    if (status)
        return status;
    struct tap_port *tap = mem_zalloc(1, sizeof(*tap));
    if (!tap)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    tap->port.ops = &tap_ops;
    tap->port.pool = pool;
    tap->retry_at = AMS_NEVER;
    tap->fd = -1;
    int number = tap_system_open(tap, name, !(config->flags & AMS_PORT_NO_OFFLOAD));
    if (number) {
        tap_close(&tap->port);
        return tap_system_refused(name, number, error);
    }
    AMS_ASSERT(tap->header == 0 || tap->header == VNET_HEADER);
    if (config->mtu)
        tap->port.info.mtu = config->mtu;
    tap->port.info.fd = tap->fd;
    *port = &tap->port;
    return 0;
}

const struct port_ops tap_ops = {
    .scheme = "tap",
    .open = tap_open,
    .rx = tap_rx,
    .room = tap_room,
    .tx = tap_tx,
    .flush = tap_flush,
    .deadline = tap_deadline,
    .close = tap_close,
};
