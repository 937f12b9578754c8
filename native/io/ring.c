/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ring.c - views of rings, and regions of our own in a memfd.
 *
 * Layout of a region (offsets in bytes; all of it is written by both ends):
 *
 *   0      netmap_if and its ring_ofs[4]; struct ring_link
 *   128    two bells, a cache line each: the device's, the user's
 *   4096   the TX ring: header, slots
 *          the RX ring, from the next page on
 *          buffers, from the next page on; the first has index 1, since
 *          netmap uses 0 for "no buffer"
 *          the user's list of connections (flows.h), from the next page on;
 *          its pages come as they are needed
 */
#define _GNU_SOURCE

#include "io/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/status.h"
#include "io/flows.h"
#include "io/pages.h"
#include "io/port.h"

#define REGION_LINK 96u
#define REGION_BELLS 128u
#define REGION_PAGE 4096u
#define REGION_NAME "aiomultistack"
#define REGION_BUF_FIRST 1u
#define REGION_SIZE_MAX ((uint64_t)1 << 34)

_Static_assert(sizeof(struct ring_slot) == 16, "netmap_slot");
_Static_assert(offsetof(struct ring_slot, ptr) == 8, "netmap_slot.ptr");
_Static_assert(sizeof(struct ring_item) == 8, "what is read of a slot at once");
_Static_assert(offsetof(struct ring_shared, dir) == 18, "netmap_ring.dir");
_Static_assert(offsetof(struct ring_shared, head) == 20, "netmap_ring.head");
_Static_assert(offsetof(struct ring_shared, tail) == 28, "netmap_ring.tail");
_Static_assert(offsetof(struct ring_shared, ts) == 40, "netmap_ring.ts");
_Static_assert(offsetof(struct ring_shared, buf_align) == 64, "netmap_ring.buf_align");
_Static_assert(offsetof(struct ring_if, bufs_head) == 32, "netmap_if.ni_bufs_head");
_Static_assert(sizeof(struct ring_if) == RING_IF_OFFSETS, "netmap_if.ring_ofs");
_Static_assert(REGION_LINK >= RING_IF_OFFSETS + 32 && REGION_LINK + sizeof(struct ring_link) <= REGION_BELLS,
               "between ring_ofs and the bells");
_Static_assert(sizeof(struct ring_bell) == AMS_CACHE_LINE, "a line of its own");

/* ---- views ------------------------------------------------------------------- */

/* True if [offset, offset + length) lies within size bytes. */
static bool span_fits(uint64_t offset, uint64_t length, uint64_t size)
{
    return offset <= size && length <= size - offset;
}

int ring_init(struct ring *ring, const struct ring_bounds *bounds, uint64_t offset, bool device)
{
    memset(ring, 0, sizeof(*ring));
    if (offset % 8 || !span_fits(offset, RING_HEADER, bounds->size))
        return -AMS_EINVAL;
    struct ring_shared *shared = (struct ring_shared *)(void *)(bounds->base + offset);
    int64_t buf_ofs = __atomic_load_n(&shared->buf_ofs, __ATOMIC_RELAXED);
    uint32_t num_slots = __atomic_load_n(&shared->num_slots, __ATOMIC_RELAXED);
    uint32_t buf_size = __atomic_load_n(&shared->buf_size, __ATOMIC_RELAXED);
    if (num_slots < 2 || num_slots > RING_SLOTS_MAX || !buf_size || buf_size > RING_BUFFER_MAX ||
        !span_fits(offset + RING_HEADER, (uint64_t)num_slots * sizeof(struct ring_slot), bounds->size))
        return -AMS_EINVAL;
    /* The first buffer that may be used, and the end of the last one. */
    uint64_t first = offset + (uint64_t)buf_ofs + (uint64_t)bounds->buf_first * buf_size;
    if (!span_fits(first, (uint64_t)bounds->buf_count * buf_size, bounds->size))
        return -AMS_EINVAL;
    ring->shared = shared;
    ring->slots = (struct ring_slot *)(void *)(bounds->base + offset + RING_HEADER);
    ring->buffers = bounds->base + offset + buf_ofs;
    ring->num_slots = num_slots;
    ring->buf_size = buf_size;
    ring->buf_first = bounds->buf_first;
    ring->buf_count = bounds->buf_count;
    uint32_t head = __atomic_load_n(&shared->head, __ATOMIC_ACQUIRE);
    uint32_t tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
    if (head >= num_slots || tail >= num_slots)
        return -AMS_EINVAL;
    /* A device's TX end has sent all that it gave back; RX goes on at tail. */
    ring->next = !device ? head : shared->dir == RING_DIR_TX ? ring_after(ring, tail) : tail;
    ring->limit = ring->next;
    return 0;
}

/* ---- regions -------------------------------------------------------------------- */

uint32_t ring_buffer_size(uint32_t frame)
{
    uint32_t lines = (ams_max_u32(frame, RING_BUFFER_MIN) + AMS_CACHE_LINE - 1) / AMS_CACHE_LINE;
    return (lines | 1) * AMS_CACHE_LINE;
}

static uint64_t page_up(uint64_t size)
{
    return (size + REGION_PAGE - 1) / REGION_PAGE * REGION_PAGE;
}

/* Where things are in a region of a layout. */
struct region_plan {
    uint64_t tx, rx, buffers, flows, size;
};

static int region_plan(struct region_plan *plan, const struct ring_layout *layout)
{
    uint32_t tx = layout->tx_slots, rx = layout->rx_slots;

    if (tx < RING_SLOTS_MIN || tx > RING_SLOTS_MAX || rx < RING_SLOTS_MIN || rx > RING_SLOTS_MAX ||
        layout->buf_size < AMS_CACHE_LINE || layout->buf_size > RING_BUFFER_MAX || layout->buf_size % AMS_CACHE_LINE)
        return -AMS_EINVAL;
    plan->tx = REGION_PAGE;
    plan->rx = page_up(plan->tx + RING_HEADER + (uint64_t)tx * sizeof(struct ring_slot));
    plan->buffers = page_up(plan->rx + RING_HEADER + (uint64_t)rx * sizeof(struct ring_slot));
    plan->flows = page_up(plan->buffers + (uint64_t)(tx + rx) * layout->buf_size);
    plan->size = page_up(plan->flows + FLOWS_SIZE);
    return plan->size <= REGION_SIZE_MAX ? 0 : -AMS_EINVAL;
}

/* Writes a ring's header and slots into fresh memory. */
static void region_write_ring(uint8_t *base, uint64_t offset, uint64_t buffers, const struct ring_layout *layout,
                              uint16_t dir)
{
    struct ring_shared *shared = (struct ring_shared *)(void *)(base + offset);
    struct ring_slot *slots = (struct ring_slot *)(void *)(base + offset + RING_HEADER);
    uint32_t first = REGION_BUF_FIRST + (dir == RING_DIR_TX ? 0 : layout->tx_slots);

    shared->buf_ofs = (int64_t)(buffers - offset) - (int64_t)(REGION_BUF_FIRST * layout->buf_size);
    shared->num_slots = dir == RING_DIR_TX ? layout->tx_slots : layout->rx_slots;
    shared->buf_size = layout->buf_size;
    shared->dir = dir;
    shared->tail = dir == RING_DIR_TX ? shared->num_slots - 1 : 0;
    for (uint32_t i = 0; i < shared->num_slots; i++)
        slots[i].buf_idx = first + i;
}

/* Writes all that netmap has in a region: its head, the rings, the slots. */
static void region_write(uint8_t *base, const struct region_plan *plan, const struct ring_layout *layout,
                         const struct ring_link *link)
{
    struct ring_if *nifp = (struct ring_if *)(void *)base;
    int64_t offsets[4] = {(int64_t)plan->tx, 0, (int64_t)plan->rx, 0};

    memcpy(nifp->name, REGION_NAME, sizeof(REGION_NAME));
    nifp->version = RING_NETMAP_API;
    nifp->tx_rings = nifp->rx_rings = 1;
    nifp->host_tx_rings = nifp->host_rx_rings = 1; /* with offset 0: there are none */
    memcpy(base + RING_IF_OFFSETS, offsets, sizeof(offsets));
    struct ring_link about = *link;
    about.flows = plan->flows;
    memcpy(base + REGION_LINK, &about, sizeof(about));
    region_write_ring(base, plan->tx, plan->buffers, layout, RING_DIR_TX);
    region_write_ring(base, plan->rx, plan->buffers, layout, RING_DIR_RX);
}

/* Fills in both views.  region->base and size are set. */
static int region_views(struct ring_region *region, uint64_t tx, uint64_t rx, uint32_t buffers, bool device)
{
    struct ring_bounds bounds = {region->base, region->size, REGION_BUF_FIRST, buffers};
    struct ring_bell *bells = (struct ring_bell *)(void *)(region->base + REGION_BELLS);
    int status = ring_init(&region->tx, &bounds, tx, device);

    if (!status)
        status = ring_init(&region->rx, &bounds, rx, device);
    region->device_bell = &bells[0];
    region->user_bell = &bells[1];
    return status;
}

/* Maps a region's file, but for its list of connections with its pages in place. */
static int region_map(struct ring_region *region)
{
    void *base = pages_map(region->fd, region->size, region->size > FLOWS_SIZE ? region->size - FLOWS_SIZE : region->size);

    if (!base)
        return port_status(errno);
    region->base = base;
    region->mapped = true;
    return 0;
}

/* Makes a memfd of a size that stays. */
static int region_memfd(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return port_status(errno);
    if (ftruncate(fd, (off_t)size) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        int status = port_status(errno);
        close(fd);
        return status;
    }
    return fd;
}

int ring_region_create(struct ring_region *region, const char *name, const struct ring_layout *layout,
                       const struct ring_link *link)
{
    struct region_plan plan;

    memset(region, 0, sizeof(*region));
    region->fd = -1;
    int status = region_plan(&plan, layout);
    if (status)
        return status;
    region->fd = region_memfd(name, plan.size);
    if (region->fd < 0) {
        status = region->fd;
        region->fd = -1;
        return status;
    }
    region->size = plan.size;
    status = region_map(region);
    if (!status) {
        region_write(region->base, &plan, layout, link);
        status = region_views(region, plan.tx, plan.rx, layout->tx_slots + layout->rx_slots, true);
        region->flows = (uint64_t *)(void *)(region->base + plan.flows);
        ring_bell_arm(region->user_bell, RING_WAKE_RX);
        ring_bell_arm(region->device_bell, RING_WAKE_TX);
    }
    if (status)
        ring_region_close(region);
    return status;
}

/* Reads where the rings of a region are, and makes the user's views. */
static int region_user_views(struct ring_region *region)
{
    const struct ring_if *nifp = (const struct ring_if *)(const void *)region->base;
    int64_t offsets[4];

    if (region->size < REGION_PAGE || memcmp(nifp->name, REGION_NAME, sizeof(REGION_NAME)) != 0 ||
        nifp->version != RING_NETMAP_API)
        return -AMS_EINVAL;
    memcpy(offsets, region->base + RING_IF_OFFSETS, sizeof(offsets));
    uint64_t tx = (uint64_t)offsets[0], rx = (uint64_t)offsets[2];
    if (!span_fits(tx, RING_HEADER, region->size) || !span_fits(rx, RING_HEADER, region->size))
        return -AMS_EINVAL;
    const struct ring_shared *tx_ring = (const struct ring_shared *)(const void *)(region->base + tx);
    const struct ring_shared *rx_ring = (const struct ring_shared *)(const void *)(region->base + rx);
    uint64_t buffers = (uint64_t)tx_ring->num_slots + rx_ring->num_slots;
    uint64_t flows = ring_region_link(region).flows;
    bool listed = flows && flows % 8 == 0 && span_fits(flows, FLOWS_SIZE, region->size);
    region->flows = listed ? (uint64_t *)(void *)(region->base + flows) : NULL;
    return buffers <= 2 * RING_SLOTS_MAX ? region_views(region, tx, rx, (uint32_t)buffers, false) : -AMS_EINVAL;
}

int ring_region_open(struct ring_region *region, int fd)
{
    struct stat stat;

    memset(region, 0, sizeof(*region));
    region->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (region->fd < 0)
        return errno == EBADF ? -AMS_EINVAL : port_status(errno);
    int status = -AMS_EINVAL;
    if (fstat(region->fd, &stat) == 0 && stat.st_size > 0 && (uint64_t)stat.st_size <= REGION_SIZE_MAX) {
        region->size = (size_t)stat.st_size;
        status = region_map(region);
    }
    if (!status)
        status = region_user_views(region);
    if (status)
        ring_region_close(region);
    return status;
}

int ring_region_alias(struct ring_region *region, const struct ring_region *device)
{
    memset(region, 0, sizeof(*region));
    region->fd = -1;
    region->base = device->base;
    region->size = device->size;
    return region_user_views(region);
}

struct ring_link ring_region_link(const struct ring_region *region)
{
    struct ring_link link;

    memcpy(&link, region->base + REGION_LINK, sizeof(link));
    return link;
}

void ring_region_discard(struct ring_region *region)
{
    if (region->base)
        pages_discard(region->base, region->size);
}

void ring_region_close(struct ring_region *region)
{
    if (region->mapped)
        munmap(region->base, region->size);
    if (region->fd >= 0)
        close(region->fd);
    region->mapped = false;
    region->base = NULL;
    region->size = 0;
    region->fd = -1;
}
