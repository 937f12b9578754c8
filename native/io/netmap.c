/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap.c - `netmap:NAME`: the rings of a NIC, of a VALE switch's port or of
 * a pipe, by /dev/netmap.
 *
 * Theory of operation.  The kernel's rings and buffers are mapped into this
 * process; ring.h has their layout and reads them with care.  Frames are
 * copied between ring and pool: a stack keeps frames for as long as its
 * application doesn't read, and a NIC's ring has only a few hundred buffers.
 * What is passed on unseen is not copied (netmap_swap).
 *
 * Receive.  poll() on the descriptor, by whoever waits for info.fd, makes the
 * kernel look for frames, so that after it rx() needs no system call: it reads
 * what is visible.  A call that finds nothing makes one (NIOCRXSYNC), which
 * also returns the slots that were read; so does a call after which half a
 * ring waits to be returned, since a ring that overflows drops without a
 * counter.
 *
 * Transmit.  tx() fills slots; flush() tells the kernel of all of them with
 * one NIOCTXSYNC.  All frames leave by the first TX ring, so that none
 * overtakes another.  A kernel that hasn't sent everything (a NIC that is
 * busy, a pipe whose reader sleeps) is asked again after a while: no event
 * says that there is room, since info.fd reports frames to receive only.
 *
 * A frame that exceeds a buffer takes several slots (MOREFRAG).  We receive
 * such chains from any port, and send them to VALE ports with virtio-net
 * headers, which take super-frames: the switch finishes and cuts them for
 * members without headers.
 *
 * A link that is down: poll() on its port can sleep in the kernel for seconds.
 * Therefore news of the link are watched, and info.fd is a set of two
 * descriptors, of which netmap's is taken out while the link is down.  Frames
 * to be sent are dropped and counted then.  When the interface is gone the port
 * is broken for good, and its descriptor is closed at once: the kernel waits
 * for that before the interface can vanish.
 */
#include "io/netmap.h"

#include <errno.h>

#include "core/status.h"
#include "io/link_mark.h"
#include "io/waitset.h"
#include "wire/proto.h"

#define NEWS_EVERY 256u                    /* busy calls of rx() between looks at the news */
#define RETRY_FULL (100 * AMS_NS_PER_US)   /* while no frame has room */
#define RETRY_FIRST AMS_NS_PER_MS          /* while some frames aren't sent; doubled each time */
#define RETRY_LAST (64 * AMS_NS_PER_MS)

/* ---- the link ------------------------------------------------------------------- */

/* Takes netmap's descriptor into or out of the set, as the link goes up and down. */
static void netmap_set_up(struct netmap_port *netmap, bool up)
{
    if (up == netmap->link.up)
        return;
    netmap->link.up = up;
    if (up)
        waitset_add(netmap->wait, netmap->fd);
    else
        waitset_remove(netmap->wait, netmap->fd);
}

/* Looks whether the link has changed. */
static void netmap_news(struct netmap_port *netmap)
{
    struct netmap_link link;

    netmap->busy = 0;
    if (netmap->watch < 0)
        return;
    if (!netmap->sys->drain(netmap->sys->ctx, netmap->watch))
        return;
    int status = netmap->sys->link(netmap->sys->ctx, netmap->name.link, &link);
    if (status == -ENODEV || (!status && link.index != netmap->link.index)) {
        netmap_set_up(netmap, false);
        netmap->gone = true;
    } else if (!status && netmap->name.kind == NETMAP_NIC) { /* pipes don't care */
        netmap_set_up(netmap, link.up);
    }
}

/* Gives an interface that is gone back to the kernel, which waits for that
 * before it lets go of it.  No ring is touched any more. */
static void netmap_let_go(struct netmap_port *netmap)
{
    const struct netmap_sys *sys = netmap->sys;

    netmap->retry_at = AMS_NEVER;
    netmap->unsynced = false;
    if (netmap->base)
        sys->unmap(sys->ctx, netmap->base, netmap->size);
    netmap->base = NULL;
    if (netmap->wait >= 0 && netmap->fd >= 0) { /* otherwise it is info.fd, which somebody still waits for */
        sys->close(sys->ctx, netmap->fd);
        netmap->fd = -1;
    }
}

/* Goes on where the kernel is: it resets a ring in which it found an index
 * that can't be, and says so only thus. */
static void netmap_adopt(struct netmap_rings *set)
{
    for (uint32_t i = 0; i < set->n; i++) {
        struct ring *ring = &set->rings[i];
        uint32_t head = __atomic_load_n(&ring->shared->head, __ATOMIC_ACQUIRE);
        if (AMS_UNLIKELY(head != ring->next && head < ring->num_slots))
            ring->next = ring->limit = head;
    }
}

bool netmap_sync(struct netmap_port *netmap, bool tx)
{
    if (AMS_UNLIKELY(netmap->gone || !netmap->link.up))
        return !netmap->gone;
    int status = netmap->sys->sync(netmap->sys->ctx, netmap->fd, tx);
    if (!tx)
        netmap->unreturned = 0;
    netmap_adopt(tx ? &netmap->tx : &netmap->rx);
    netmap_adopt(tx ? &netmap->host_tx : &netmap->host_rx);
    if (AMS_UNLIKELY(status == -ENXIO || status == -EBADF))
        netmap->gone = true;
    return !netmap->gone; /* EIO: the rings are stopped while the link changes */
}

/* ---- frames and slots ------------------------------------------------------------- */

bool netmap_chain(const struct ring *ring, uint32_t *slots, uint32_t *bytes)
{
    uint32_t avail = ring_avail(ring), index = ring->next;

    *bytes = 0;
    for (*slots = 1; *slots <= avail; (*slots)++, index = ring_after(ring, index)) {
        struct ring_item item = ring_load(&ring->slots[index]);
        *bytes += ams_min_u32(item.len, ring->buf_size);
        if (AMS_LIKELY(!(item.flags & RING_MOREFRAG)))
            return true;
    }
    (*slots)--;
    return avail && avail == ring->num_slots - 1; /* a chain that fills its ring will not get longer */
}

void netmap_skip(struct ring *ring, uint32_t slots)
{
    while (slots--)
        ring->next = ring_after(ring, ring->next);
}

/* Copies a chain to one place.
 * @room: bytes at out
 * Return: bytes copied; 0 if the chain has changed meanwhile, or a slot names
 * no buffer. */
static uint32_t netmap_gather(struct ring *ring, uint32_t slots, uint8_t *out, uint32_t room)
{
    uint32_t used = 0;

    while (slots--) {
        struct ring_item item;
        const uint8_t *data = ring_extract(ring, &item);
        if (AMS_UNLIKELY(!data || item.len > room - used)) {
            netmap_skip(ring, slots);
            return 0;
        }
        memcpy(out + used, data, item.len);
        used += item.len;
    }
    return used;
}

struct ams_frame *netmap_take(struct netmap_port *netmap, struct ring *ring, uint32_t slots, uint32_t bytes)
{
    uint32_t vnet = netmap->vnet;
    struct ams_frame *frame = NULL;

    if (AMS_LIKELY(bytes >= vnet + ETH_HEADER && bytes <= vnet + PORT_FRAME_MAX))
        frame = frame_new(netmap->port.pool, port_frame_class(bytes - vnet));
    if (AMS_UNLIKELY(!frame)) {
        netmap_skip(ring, slots);
        netmap->port.info.rx_dropped++;
        return NULL;
    }
    uint8_t *start = frame->data - vnet;
    uint32_t got = netmap_gather(ring, slots, start, bytes);
    bool usable = got >= vnet + ETH_HEADER;
    if (usable) {
        frame->len = got - vnet;
        if (vnet)
            vnet_describe(frame, start);
        else
            usable = link_mark(frame, netmap->port.info.mtu, netmap->link.partial);
    }
    if (AMS_UNLIKELY(!usable)) {
        frame_free(frame);
        netmap->port.info.rx_dropped++;
        return NULL;
    }
    netmap->port.info.rx_frames++;
    netmap->port.info.rx_bytes += frame->len;
    return frame;
}

/* What is still to be copied of a frame that is sent. */
struct netmap_source {
    const struct ams_tx *tx;
    uint32_t piece;              /* 0: the head */
    uint32_t at;                 /* within it */
};

/* Copies up to room bytes of a frame.  Return: how many. */
static uint32_t netmap_source_read(struct netmap_source *source, uint8_t *out, uint32_t room)
{
    uint32_t used = 0;

    while (used < room && source->piece <= source->tx->n_frags) {
        bool head = source->piece == 0;
        const uint8_t *data = head ? source->tx->head : source->tx->frags[source->piece - 1].data;
        uint32_t length = head ? source->tx->head_len : source->tx->frags[source->piece - 1].len;
        uint32_t part = ams_min_u32(length - source->at, room - used);
        memcpy(out + used, data + source->at, part);
        used += part;
        source->at += part;
        if (source->at == length) {
            source->piece++;
            source->at = 0;
        }
    }
    return used;
}

bool netmap_put(struct netmap_port *netmap, struct ring *ring, const struct ams_tx *tx)
{
    struct netmap_source source = {.tx = tx};
    uint32_t left = tx->total + netmap->vnet, offset = netmap->vnet, first = ring->next;

    if (AMS_UNLIKELY(left > ring_avail(ring) * (uint64_t)ring->buf_size) &&
        left > ring_user_refresh(ring) * (uint64_t)ring->buf_size)
        return false;
    while (left) {
        struct ring_item item;
        uint8_t *out = ring_peek(ring, &item);
        if (AMS_UNLIKELY(!out)) {
            ring->next = first;
            return false;
        }
        if (offset) {
            memset(out, 0, offset);
            vnet_put(tx, out);
        }
        uint32_t used = offset + netmap_source_read(&source, out + offset, ring->buf_size - offset);
        AMS_ASSERT(used && used <= left);
        left -= used;
        offset = 0;
        ring_insert(ring, item, used, left ? RING_MOREFRAG : 0);
    }
    return true;
}

bool netmap_swap(struct ring *from, struct ring *to, uint32_t length)
{
    struct ring_item mine, other;

    if (AMS_UNLIKELY(!ring_peek(from, &mine) || !ring_peek(to, &other)))
        return false;
    uint32_t free_index = other.buf_idx;
    uint16_t more = mine.flags & RING_MOREFRAG;
    other.buf_idx = mine.buf_idx;
    mine.buf_idx = free_index;
    ring_insert(to, other, length, RING_BUF_CHANGED | more);
    ring_insert(from, mine, 0, RING_BUF_CHANGED);
    return true;
}

/* ---- receive ---------------------------------------------------------------------- */

/* Takes up to n frames out of one ring. */
static int netmap_receive_ring(struct netmap_port *netmap, struct ring *ring, struct ams_frame **frames, int n)
{
    uint32_t slots, bytes, before = ring->next;
    int taken = 0;

    if (ring_avail(ring) < (uint32_t)n)
        ring_user_refresh(ring);
    while (taken < n && netmap_chain(ring, &slots, &bytes)) {
        struct ams_frame *frame = netmap_take(netmap, ring, slots, bytes);
        if (frame)
            frames[taken++] = frame;
    }
    if (ring->next != before)
        ring_user_pull(ring);
    netmap->unreturned += ring_distance(ring, before, ring->next);
    return taken;
}

int netmap_receive(struct netmap_port *netmap, struct ams_frame **frames, int n)
{
    int taken = 0;

    for (uint32_t i = 0; i < netmap->rx.n && taken < n; i++) {
        struct ring *ring = &netmap->rx.rings[(netmap->next + i) % netmap->rx.n];
        taken += netmap_receive_ring(netmap, ring, frames + taken, n - taken);
    }
    if (taken == n)
        netmap->next = (netmap->next + 1) % netmap->rx.n; /* so that no ring starves the others */
    return taken;
}

/* Takes what is visible, from whoever may have sent it. */
static int netmap_collect(struct netmap_port *netmap, struct ams_frame **frames, int n, uint64_t now)
{
    return netmap->share ? netmap_share_receive(netmap, frames, n, now) : netmap_receive(netmap, frames, n);
}

static int netmap_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    struct netmap_port *netmap = netmap_from(port);

    int taken = AMS_LIKELY(!netmap->gone) ? netmap_collect(netmap, frames, n, now) : 0;
    if (AMS_UNLIKELY(netmap->gone)) {
        netmap_let_go(netmap);
        return taken ? taken : -AMS_ENODEV;
    }
    if (netmap->unreturned > netmap->rx.rings[0].num_slots / 2)
        netmap_sync(netmap, false);
    if (AMS_LIKELY(taken) && ++netmap->busy < NEWS_EVERY)
        return taken;
    netmap_news(netmap);
    if (!taken && netmap_sync(netmap, false))
        taken = netmap_collect(netmap, frames, n, now);
    if (AMS_UNLIKELY(netmap->gone))
        netmap_let_go(netmap);
    return taken ? taken : netmap->gone ? -AMS_ENODEV : 0;
}

/* ---- transmit --------------------------------------------------------------------- */

/* TX slots that may be filled, which are as many as they will be without a
 * call of the kernel. */
static uint32_t netmap_slots(struct netmap_port *netmap)
{
    return ring_user_refresh(&netmap->tx.rings[0]);
}

static int netmap_room(struct ams_port *port)
{
    struct netmap_port *netmap = netmap_from(port);

    if (AMS_UNLIKELY(!netmap->link.up || netmap->gone))
        return PORT_BURST; /* to be dropped */
    uint32_t room = ring_avail(&netmap->tx.rings[0]) / netmap->frame_slots;
    if (room < PORT_BURST)
        room = netmap_slots(netmap) / netmap->frame_slots;
    if (!room && netmap_sync(netmap, true)) {
        netmap->unsynced = true; /* flush() sees how it goes on */
        room = netmap_slots(netmap) / netmap->frame_slots;
    }
    return room < PORT_BURST ? (int)room : PORT_BURST;
}

static int netmap_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    struct netmap_port *netmap = netmap_from(port);
    struct ring *ring = &netmap->tx.rings[0];
    bool up = netmap->link.up;

    (void)now;
    if (AMS_UNLIKELY(netmap->gone)) {
        port->info.tx_dropped += (uint64_t)n;
        return n;
    }
    for (int i = 0; i < n; i++) {
        if (!netmap->vnet && tx[i].flags & TX_CSUM)
            port_finish_csum(&tx[i]);
        if (netmap->share && !netmap_share_send(netmap, &tx[i]))
            continue;
        if (AMS_UNLIKELY(!up || tx[i].total < ETH_HEADER || !netmap_put(netmap, ring, &tx[i]))) {
            port->info.tx_dropped++;
            continue;
        }
        port->info.tx_frames++;
        port->info.tx_bytes += tx[i].total;
    }
    ring_user_push(ring);
    netmap->unsynced = true;
    return n;
}

static void netmap_flush(struct ams_port *port, uint64_t now)
{
    struct netmap_port *netmap = netmap_from(port);
    struct ring *ring = &netmap->tx.rings[0];

    if (AMS_LIKELY(!netmap->unsynced && now < netmap->retry_at))
        return;
    if (AMS_UNLIKELY(netmap->gone)) {
        netmap->retry_at = AMS_NEVER;
        return;
    }
    uint32_t before = ring_avail(ring);
    netmap_sync(netmap, true);
    uint32_t free_slots = netmap_slots(netmap);
    if (free_slots == ring->num_slots - 1 || netmap->gone || !netmap->link.up) {
        netmap->retry_at = AMS_NEVER;
        netmap->retry_after = RETRY_FIRST;
    } else {
        if (netmap->unsynced || free_slots > before)
            netmap->retry_after = RETRY_FIRST;
        else
            netmap->retry_after = ams_min_u64(2 * netmap->retry_after, RETRY_LAST);
        netmap->retry_at = now + (free_slots < netmap->frame_slots ? RETRY_FULL : netmap->retry_after);
    }
    netmap->unsynced = false;
}

static uint64_t netmap_deadline(struct ams_port *port)
{
    return netmap_from(port)->retry_at;
}

/* ---- passing on --------------------------------------------------------------------- */

/* Passes on what one ring has, as long as there is room. */
static int netmap_forward_ring(struct netmap_port *from, struct ring *ring, struct netmap_port *to, int n)
{
    struct ring *out = &to->tx.rings[0];
    uint32_t slots, bytes;
    int done = 0;

    ring_user_refresh(ring);
    while (done < n && netmap_chain(ring, &slots, &bytes)) {
        if (ring_avail(out) < slots && ring_user_refresh(out) < slots)
            break;
        while (slots--) {
            uint32_t length = ams_min_u32(ring_load(&ring->slots[ring->next]).len, ring->buf_size);
            if (!netmap_swap(ring, out, length)) {
                netmap_skip(ring, slots + 1);
                from->port.info.rx_dropped++;
                break;
            }
        }
        from->port.info.rx_frames++;
        from->port.info.rx_bytes += bytes;
        to->port.info.tx_frames++;
        to->port.info.tx_bytes += bytes;
        done++;
    }
    if (done) {
        ring_user_pull(ring);
        ring_user_push(out);
        to->unsynced = true;
    }
    return done;
}

static int netmap_forward(struct ams_port *port, struct ams_port *other, int n, uint64_t now)
{
    struct netmap_port *from = netmap_from(port), *to = netmap_from(other);
    int done = 0;

    if (other->ops->forward != netmap_forward || from->mem_id != to->mem_id || from->size != to->size ||
        from->sys->ctx != to->sys->ctx || from->vnet != to->vnet || from->share || to->share)
        return -AMS_EOPNOTSUPP;
    if (from->gone || to->gone) {
        netmap_let_go(from->gone ? from : to);
        return -AMS_ENODEV;
    }
    for (int look = 0; look < 2 && !done; look++) {
        for (uint32_t i = 0; i < from->rx.n && done < n; i++)
            done += netmap_forward_ring(from, &from->rx.rings[i], to, n - done);
        if (!done && !look) {
            netmap_news(from);
            netmap_sync(from, false);
        }
    }
    netmap_flush(other, now);
    return done;
}

/* ---- the driver ------------------------------------------------------------------------ */

static void netmap_close(struct ams_port *port)
{
    netmap_end(netmap_from(port));
}

static int netmap_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                       struct frame_pool *pool, struct port_error *error)
{
    return netmap_open_on(netmap_system(), port, name, config, pool, error);
}

#define NETMAP_VERBS                                                                                        \
    .scheme = "netmap", .knows = netmap_claims_spec, .open = netmap_open, .rx = netmap_rx, .room = netmap_room, \
    .tx = netmap_tx, .flush = netmap_flush, .deadline = netmap_deadline, .forward = netmap_forward,         \
    .close = netmap_close

const struct port_ops netmap_ops = {NETMAP_VERBS};

/* A NIC's: its user is reached at an Ethernet address that the NIC listens to. */
const struct port_ops netmap_nic_ops = {
    NETMAP_VERBS,
    .station = netmap_station,
    .serve = netmap_serve,
    .unserve = netmap_unserve,
    .claim = netmap_claim,
    .release = netmap_release,
    .show = netmap_show,
    .lookup = netmap_lookup,
};
