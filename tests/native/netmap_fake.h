/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_fake.h - /dev/netmap for tests, in a memfd.
 *
 * Behaves as the real one was observed to (API 14): what it refuses and with
 * which errno, who writes which index and when, that it believes buffer
 * indices and lengths, that rings drop or push back when they are full.  Its
 * world is small:
 *
 *   eth0       a NIC with two ring pairs and host rings, in region 1; the test
 *              plays the wire (fake_wire_*) and the operating system
 *              (fake_host_*)
 *   eth0{N     pipes, in region 1
 *   vale0:X    ports of one switch, which floods; each in a region of its own
 *              unless one is asked for
 *
 * Include it under _GNU_SOURCE.  A descriptor is an eventfd.  The real one is readable while poll() in the
 * kernel finds frames; here fake_poll() must be called for that.
 */
#ifndef AMS_TESTS_NETMAP_FAKE_H
#define AMS_TESTS_NETMAP_FAKE_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/netmap_abi.h"
#include "io/netmap_sys.h"
#include "netmap_fake_ring.h"

#define FAKE_PORTS 8
#define FAKE_REGIONS 8
#define FAKE_NIC_RINGS 2u
#define FAKE_RINGS (2 * FAKE_NIC_RINGS + 2)

/* A NIC, a VALE port or one end of a pipe. */
struct fake_adapter {
    char name[64];
    uint32_t users;
    bool exclusive;
    struct fake_region *region;
    uint32_t n_rings;                     /* of each direction */
    bool nic;
    uint32_t vnet;
    struct fake_ring rings[FAKE_RINGS];   /* tx, host tx, rx, host rx */
};

struct fake_fd {
    int fd;                               /* 0: unused */
    struct fake_adapter *adapter;         /* NULL: not registered */
    bool rings[FAKE_RINGS];
};

struct fake {
    struct netmap_sys sys;
    struct fake_region regions[FAKE_REGIONS];
    struct fake_adapter adapters[FAKE_PORTS];
    struct fake_fd fds[FAKE_PORTS];
    struct netmap_link link;              /* of eth0; index 0: there is none */
    int watch;
    int promiscuous;                      /* the descriptor that keeps it so */
    uint8_t address[16];                  /* of the operating system on eth0 */
    int missing;                          /* errno that open() fails with */
    uint32_t rx_syncs, tx_syncs, maps;
    int sync_error;                       /* of the next sync */
};

/* One of an adapter's rings: a ring of the NIC's, or the one of the host's. */
static inline struct fake_ring *fake_ring(struct fake_adapter *adapter, bool tx, bool host, uint32_t index)
{
    uint32_t per_side = adapter->n_rings + (adapter->nic ? 1 : 0);
    return &adapter->rings[(tx ? 0 : per_side) + (host ? adapter->n_rings : index)];
}

/* ---- what is behind the rings ---------------------------------------------------- */

static inline struct fake_adapter *fake_find(struct fake *fake, const char *name)
{
    for (int i = 0; i < FAKE_PORTS; i++) {
        if (strcmp(fake->adapters[i].name, name) == 0)
            return &fake->adapters[i];
    }
    return NULL;
}

/* A pipe's other end; NULL if nobody has opened it. */
static inline struct fake_adapter *fake_pipe_peer(struct fake *fake, const struct fake_adapter *adapter)
{
    char name[64];

    memcpy(name, adapter->name, sizeof(name));
    char *brace = strpbrk(name, "{}");
    *brace = *brace == '{' ? '}' : '{';
    struct fake_adapter *peer = fake_find(fake, name);
    return peer && peer->users ? peer : NULL;
}

/* Pipes move slots, buffers and all, and keep what the reader has no room for. */
static inline void fake_pipe_sync(struct fake *fake, struct fake_adapter *adapter)
{
    struct fake_ring *tx = fake_ring(adapter, true, false, 0);
    struct fake_adapter *peer = fake_pipe_peer(fake, adapter);
    struct ring_slot slot;
    struct fake_ring *rx = peer ? fake_ring(peer, false, false, 0) : NULL;

    while (rx && (rx->tail + 1) % FAKE_SLOTS != rx->head && fake_tx_get(tx, &slot)) {
        struct ring_slot *in = fake_slot(rx, rx->tail), *out = fake_slot(tx, tx->head + FAKE_SLOTS - 1);
        uint32_t free_buffer = in->buf_idx;
        *in = slot;
        in->flags |= RING_BUF_CHANGED;
        out->buf_idx = free_buffer;
        out->flags |= RING_BUF_CHANGED;
        fake_set_tail(rx, (rx->tail + 1) % FAKE_SLOTS);
    }
}

/* A VALE switch floods; a member that is full loses the frame.  Headers are
 * passed on, or taken off and put on as zeros between unlike members. */
static inline void fake_vale_sync(struct fake *fake, struct fake_adapter *adapter)
{
    struct fake_ring *tx = fake_ring(adapter, true, false, 0);
    struct ring_slot slot;
    bool first = true;

    while (fake_tx_get(tx, &slot)) {
        uint8_t *data = fake_buffer(tx, slot.buf_idx), zeros[FAKE_BUF_SIZE] = {0};
        for (int i = 0; i < FAKE_PORTS; i++) {
            struct fake_adapter *other = &fake->adapters[i];
            if (other == adapter || !other->users || strncmp(other->name, "vale0:", 6) != 0 || strpbrk(other->name, "{}"))
                continue;
            uint32_t skip = first && other->vnet != adapter->vnet ? adapter->vnet : 0;
            uint32_t add = first && other->vnet != adapter->vnet ? other->vnet : 0;
            memcpy(zeros + add, data + skip, ams_min_u32(slot.len - skip, FAKE_BUF_SIZE - add));
            fake_rx_put(fake_ring(other, false, false, 0), zeros, (uint16_t)(slot.len - skip + add),
                        slot.flags & RING_MOREFRAG);
        }
        first = !(slot.flags & RING_MOREFRAG);
    }
}

/* Says that something about the link has changed. */
static inline void fake_announce(struct fake *fake)
{
    uint64_t one = 1;
    if (fake->watch > 0 && write(fake->watch, &one, sizeof(one)) < 0)
        abort();
}

static inline bool fake_wire_send(struct fake *fake, uint32_t ring, const uint8_t *data, uint16_t length,
                                  uint16_t flags)
{
    return fake_rx_put(fake_ring(fake_find(fake, "eth0"), false, false, ring), data, length, flags);
}

static inline bool fake_host_send(struct fake *fake, const uint8_t *data, uint16_t length)
{
    return fake_rx_put(fake_ring(fake_find(fake, "eth0"), false, true, 0), data, length, 0);
}

/* What reached the wire, or the operating system, since.
 * Return: its length, 0 if there is nothing. */
static inline uint32_t fake_take(struct fake_ring *ring, uint8_t *out, struct ring_slot *slot)
{
    if (!fake_tx_get(ring, slot))
        return 0;
    memcpy(out, fake_buffer(ring, slot->buf_idx), ams_min_u32(slot->len, FAKE_BUF_SIZE));
    return slot->len;
}

/* ---- requests ------------------------------------------------------------------- */

static inline struct fake_fd *fake_fd(struct fake *fake, int fd)
{
    for (int i = 0; i < FAKE_PORTS; i++) {
        if (fake->fds[i].fd == fd)
            return &fake->fds[i];
    }
    return NULL;
}

/* A region, made when it is first asked for. */
static inline struct fake_region *fake_region(struct fake *fake, uint32_t id)
{
    if (id == 0 || id >= FAKE_REGIONS)
        return NULL;
    struct fake_region *region = &fake->regions[id];
    if (region->base)
        return region;
    region->fd = memfd_create("netmap", MFD_CLOEXEC);
    if (region->fd < 0 || ftruncate(region->fd, FAKE_REGION) < 0)
        abort();
    region->base = mmap(NULL, FAKE_REGION, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);
    if (region->base == MAP_FAILED)
        abort();
    region->next_buffer = 2;
    region->used = 128;
    return region;
}

/* Finds or makes an adapter.  Return: NULL with *number set if it can't be. */
static inline struct fake_adapter *fake_adapter(struct fake *fake, const char *name, uint32_t mem_id, int *number)
{
    struct fake_adapter *adapter = fake_find(fake, name);
    bool pipe = strpbrk(name, "{}"), vale = !pipe && strncmp(name, "vale0:", 6) == 0 && name[6];
    bool nic = strcmp(name, "eth0") == 0 && fake->link.index;

    *number = ENXIO;
    if (!nic && !vale && !(pipe && (strncmp(name, "eth0", 4) == 0 || strncmp(name, "vale0:", 6) == 0)))
        return NULL;
    *number = EINVAL;
    if (adapter)
        return mem_id && adapter->region != fake_region(fake, mem_id) ? NULL : adapter;
    int free_slot = 0;
    while (free_slot < FAKE_PORTS && *fake->adapters[free_slot].name)
        free_slot++;
    *number = ENOMEM;
    if (free_slot == FAKE_PORTS)
        return NULL;
    *number = EINVAL;
    struct fake_region *region = fake_region(fake, mem_id ? mem_id : vale ? 2 + (uint32_t)free_slot : 1);
    if (!region)
        return NULL;
    adapter = &fake->adapters[free_slot];
    memset(adapter, 0, sizeof(*adapter));
    snprintf(adapter->name, sizeof(adapter->name), "%s", name);
    adapter->nic = nic;
    adapter->n_rings = nic ? FAKE_NIC_RINGS : 1;
    adapter->region = region;
    uint32_t per_side = adapter->n_rings + nic;
    for (uint32_t i = 0; i < 2 * per_side; i++)
        fake_ring_make(&adapter->rings[i], region, i < per_side, (uint16_t)(i % per_side));
    return adapter;
}

/* Which rings a request is about.  Return: 0 or a negative errno. */
static inline int fake_select(const struct fake_adapter *adapter, const struct nm_register *request, bool *chosen)
{
    uint32_t per_side = adapter->n_rings + adapter->nic;
    bool nic = request->mode == NM_MODE_ALL_NIC || request->mode == NM_MODE_NIC_SW;
    bool host = request->mode == NM_MODE_SW || request->mode == NM_MODE_NIC_SW || request->mode == NM_MODE_ONE_SW;
    bool one = request->mode == NM_MODE_ONE_NIC;

    if ((!nic && !host && !one) || (host && !adapter->nic) || (one && request->ringid >= adapter->n_rings))
        return -EINVAL;
    for (uint32_t i = 0; i < 2 * per_side; i++) {
        uint32_t index = i % per_side;
        chosen[i] = index < adapter->n_rings ? nic || (one && index == request->ringid) : host;
    }
    return 0;
}

/* Writes a netmap_if for the rings that are bound. */
static inline uint64_t fake_write_if(const struct fake_adapter *adapter, const bool *chosen)
{
    struct fake_region *region = adapter->region;
    uint32_t nifp = (region->used + 63u) & ~63u, per_side = adapter->n_rings + adapter->nic;
    struct ring_if facts = {.version = NM_API, .tx_rings = adapter->n_rings, .rx_rings = adapter->n_rings,
                            .host_tx_rings = adapter->nic, .host_rx_rings = adapter->nic};

    region->used = nifp + RING_IF_OFFSETS + 8 * FAKE_RINGS;
    memcpy(region->base + nifp, &facts, RING_IF_OFFSETS);
    for (uint32_t i = 0; i < 2 * per_side; i++) {
        int64_t offset = chosen[i] ? (int64_t)adapter->rings[i].offset - nifp : 0;
        memcpy(region->base + nifp + RING_IF_OFFSETS + 8 * i, &offset, 8);
    }
    return nifp;
}

static inline int fake_register(struct fake *fake, struct fake_fd *fd, const char *name, struct nm_register *request)
{
    bool chosen[FAKE_RINGS] = {false};
    int number;

    if (fd->adapter)
        return -EBUSY;
    struct fake_adapter *adapter = fake_adapter(fake, name, request->mem_id, &number);
    if (!adapter)
        return -number;
    int status = fake_select(adapter, request, chosen);
    if (status)
        return status;
    if (adapter->vnet && !(request->flags & NM_FLAG_ACCEPT_VNET))
        return -EIO;
    if (adapter->users && (adapter->exclusive || request->flags & NM_FLAG_EXCLUSIVE))
        return -EBUSY;
    adapter->users++;
    adapter->exclusive = request->flags & NM_FLAG_EXCLUSIVE;
    fd->adapter = adapter;
    memcpy(fd->rings, chosen, sizeof(chosen));
    request->offset = fake_write_if(adapter, chosen);
    request->memsize = FAKE_REGION;
    request->tx_rings = request->rx_rings = (uint16_t)adapter->n_rings;
    request->tx_slots = request->rx_slots = FAKE_SLOTS;
    request->mem_id = (uint16_t)(adapter->region - fake->regions);
    return 0;
}

static int fake_control(void *ctx, int number, struct nm_header *header)
{
    struct fake *fake = ctx;
    struct fake_fd *fd = fake_fd(fake, number);
    void *body = (void *)(uintptr_t)header->body;
    struct fake_adapter *adapter = fake_find(fake, header->name);

    if (header->version < 14 || header->version > 15)
        return -EINVAL;
    if (header->request == NM_REGISTER)
        return fake_register(fake, fd, header->name, body);
    struct nm_port_hdr *hdr = body;
    if (!adapter || strncmp(adapter->name, "vale0:", 6) != 0)
        return -ENXIO;
    if (header->request == NM_PORT_HDR_GET) {
        hdr->length = adapter->vnet;
        return 0;
    }
    if (header->request != NM_PORT_HDR_SET || (hdr->length && hdr->length != 10 && hdr->length != 12))
        return -EINVAL;
    adapter->vnet = hdr->length;
    return 0;
}

static int fake_sync(void *ctx, int number, bool tx)
{
    struct fake *fake = ctx;
    struct fake_fd *fd = fake_fd(fake, number);
    int error = fake->sync_error;

    tx ? fake->tx_syncs++ : fake->rx_syncs++;
    fake->sync_error = 0;
    if (error)
        return -error;
    if (!fd->adapter || (fd->adapter->nic && !fake->link.index))
        return -ENXIO;
    struct fake_adapter *adapter = fd->adapter;
    if (tx && strpbrk(adapter->name, "{}"))
        fake_pipe_sync(fake, adapter);
    else if (tx && !adapter->nic)
        fake_vale_sync(fake, adapter);
    for (uint32_t i = 0; i < FAKE_RINGS; i++) {
        uint32_t head;
        if (fd->rings[i] && adapter->rings[i].tx == tx)
            tx ? (void)fake_prologue(&adapter->rings[i], &head) : fake_rx_sync(&adapter->rings[i]);
    }
    return 0;
}

/* Sets whether a descriptor is readable, as poll() in the kernel would find it. */
static inline void fake_poll(struct fake *fake)
{
    for (int i = 0; i < FAKE_PORTS; i++) {
        struct fake_fd *fd = &fake->fds[i];
        uint64_t count = 1;
        bool readable = false;
        if (!fd->fd || !fd->adapter)
            continue;
        for (uint32_t r = 0; r < FAKE_RINGS; r++) {
            if (!fd->rings[r] || fd->adapter->rings[r].tx)
                continue;
            fake_rx_sync(&fd->adapter->rings[r]);
            readable |= fd->adapter->rings[r].head != fd->adapter->rings[r].tail;
        }
        ssize_t done = readable ? write(fd->fd, &count, sizeof(count)) : read(fd->fd, &count, sizeof(count));
        (void)done;
    }
}

/* Forgets what an adapter that nobody uses any more was. */
static inline void fake_reset(struct fake_adapter *adapter)
{
    adapter->exclusive = false;
    adapter->vnet = 0;
    for (uint32_t i = 0; i < 2 * (adapter->n_rings + adapter->nic); i++) {
        struct fake_ring *ring = &adapter->rings[i];
        struct ring_shared *shared = fake_shared(ring);
        shared->head = shared->cur = ring->head = 0;
        shared->tail = ring->tail = ring->tx ? FAKE_SLOTS - 1 : 0;
    }
}

/* ---- the other calls ---------------------------------------------------------------- */

static int fake_open(void *ctx)
{
    struct fake *fake = ctx;
    struct fake_fd *fd = fake_fd(fake, 0);

    if (fake->missing)
        return -fake->missing;
    *fd = (struct fake_fd){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    return fd->fd;
}

static void *fake_map(void *ctx, int number, size_t size)
{
    struct fake *fake = ctx;
    struct fake_fd *fd = fake_fd(fake, number);

    if (!fd->adapter || size != FAKE_REGION)
        return NULL;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd->adapter->region->fd, 0);
    fake->maps += base != MAP_FAILED;
    return base == MAP_FAILED ? NULL : base;
}

static void fake_unmap(void *ctx, void *base, size_t size)
{
    ((struct fake *)ctx)->maps--;
    munmap(base, size);
}

static void fake_close(void *ctx, int number)
{
    struct fake *fake = ctx;
    struct fake_fd *fd = fake_fd(fake, number);

    if (fd && fd->adapter && --fd->adapter->users == 0)
        fake_reset(fd->adapter);
    if (fd)
        fd->fd = 0;
    if (number == fake->watch)
        fake->watch = 0;
    else if (number == fake->promiscuous)
        fake->promiscuous = 0;
    close(number);
}

static int fake_link(void *ctx, const char *name, struct netmap_link *link)
{
    struct fake *fake = ctx;

    if (strcmp(name, "eth0") != 0 || !fake->link.index)
        return -ENODEV;
    *link = fake->link;
    return 0;
}

static int fake_watch(void *ctx)
{
    struct fake *fake = ctx;

    fake->watch = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return fake->watch;
}

static bool fake_drain(void *ctx, int fd)
{
    uint64_t count;

    (void)ctx;
    return read(fd, &count, sizeof(count)) > 0;
}

static int fake_promiscuous(void *ctx, const char *name)
{
    struct fake *fake = ctx;

    (void)name;
    fake->promiscuous = eventfd(0, EFD_CLOEXEC);
    return fake->promiscuous;
}

static bool fake_has_address(void *ctx, const char *name, const uint8_t ip[16])
{
    (void)name;
    return memcmp(((struct fake *)ctx)->address, ip, 16) == 0;
}

static void fake_random(void *ctx, void *out, size_t size)
{
    (void)ctx;
    memset(out, 42, size);
}

static inline void fake_init(struct fake *fake)
{
    memset(fake, 0, sizeof(*fake));
    fake->sys = (struct netmap_sys){
        .open = fake_open, .control = fake_control, .sync = fake_sync, .map = fake_map, .unmap = fake_unmap,
        .close = fake_close, .link = fake_link, .watch = fake_watch, .drain = fake_drain,
        .promiscuous = fake_promiscuous, .has_address = fake_has_address, .random = fake_random, .ctx = fake,
    };
    fake->link = (struct netmap_link){.index = 3, .mtu = 1500, .mac = {2, 0, 0, 0, 0, 0xe0}, .up = true};
}

static inline void fake_fini(struct fake *fake)
{
    for (int i = 0; i < FAKE_REGIONS; i++) {
        if (!fake->regions[i].base)
            continue;
        munmap(fake->regions[i].base, FAKE_REGION);
        close(fake->regions[i].fd);
    }
}

#endif
