/* SPDX-License-Identifier: BSD-2-Clause
 *
 * ring.h - netmap's rings, in the kernel's memory or in a memfd of our own.
 *
 * Theory of operation.  A ring is an array of slots in shared memory; a slot
 * names a buffer and says how much of it is used.  The *user* end (an
 * application) owns the slots from head up to, not including, tail; all
 * others are the *device* end's (netmap's kernel side, or our switch).  Only
 * the user writes head and cur, only the device writes tail:
 *
 *   TX ring: the user fills slots at head and advances it; the device sends
 *            them, and gives them back by advancing tail.
 *   RX ring: the device fills slots at tail and advances it; the user reads
 *            slots from head and gives them back by advancing it.
 *
 * One slot stays unused, so that head == tail always means "none is mine".
 * An end may exchange the buffers of its slots (netmap's zero copy), and
 * marks that with RING_BUF_CHANGED.
 *
 * The other end is not trusted, neither a client by the switch nor, as far
 * as lengths and indices go, the kernel by us: netmap doesn't check them.
 * Therefore struct ring keeps a private copy of everything that does not
 * change and of the index that this end owns.  What does change, the other
 * end's index and a slot's first eight bytes, is read with one atomic load
 * into a local, and checked before it is used: an index must lie within the
 * ring, a buffer within the range that belongs to it, a length within its
 * buffer.  Whatever was written there, nothing outside the region is touched.
 *
 * Both directions look the same from one end: slots from `next` (ours) up to
 * `limit` (as last read from the other end) may be worked on.
 *
 *   user,   TX   full    insert   push      (ring_user_*)
 *   user,   RX   empty   extract  pull
 *   device, TX   empty   extract  pull      (ring_device_*)
 *   device, RX   full    insert   push
 *
 * insert and extract are private to this end until push or pull publishes
 * the index, once for a batch.
 *
 * Sleeping.  An end that is about to sleep *arms* a bell, a word in shared
 * memory that it alone sets; the other end, having published an index, looks
 * at the bell, clears it, and only then makes a system call to wake the
 * sleeper.  A wakeup can't be lost:
 *
 *   sleeper: armed = 1; full fence; read index; if something is there,
 *            don't sleep
 *   ringer:  write index; full fence; read armed; if 1, clear it and signal
 *
 * Each fence keeps a store before a later load of the same thread, so that at
 * least one of the two loads sees the other end's store (Dekker's argument).
 * A bell lies in a cache line of its own, which stays shared between the
 * cores as long as nobody sleeps.
 *
 * A region is what our own rings live in: a memfd with netmap_if, one TX
 * ring, one RX ring, two bells and the buffers.  It is sealed against
 * changing its size, so that no client can make the switch fault on it.
 * (A client may punch holes into it; that costs page faults for the batch,
 * and zeros for itself.)
 */
#ifndef AMS_IO_RING_H
#define AMS_IO_RING_H

#include <string.h>

#include "core/base.h"

/* ---- netmap's memory layout (API version 14) ------------------------------- */

/* struct netmap_slot */
struct ring_slot {
    uint32_t buf_idx;
    uint16_t len;
    uint16_t flags;
    uint64_t ptr;
};

#define RING_BUF_CHANGED 0x0001u /* buf_idx is another than before */
#define RING_REPORT 0x0002u
#define RING_FORWARD 0x0004u
#define RING_NO_LEARN 0x0008u
#define RING_INDIRECT 0x0010u
#define RING_MOREFRAG 0x0020u    /* the frame goes on in the next slot */
#define RING_SUPER 0x2000u       /* ours: TCP segments as one, its checksum unfinished; the first slot's ptr
                                  * holds the payload of each segment (ring_super_size()) */
#define RING_CSUM_OK 0x4000u     /* ours, switch to client: the checksum is vouched for */

/* struct netmap_ring; slots[] begin RING_HEADER bytes in */
struct ring_shared {
    int64_t buf_ofs;             /* of buffer 0, from here */
    uint32_t num_slots;
    uint32_t buf_size;
    uint16_t ringid;
    uint16_t dir;                /* 0 RX, 1 TX */
    uint32_t head;               /* the user's */
    uint32_t cur;                /* the user's */
    uint32_t tail;               /* the device's */
    uint32_t flags;              /* the user's: RING_TAKES_SUPER in an RX ring */
    uint32_t pad;
    int64_t ts[2];
    uint64_t offset_mask;
    uint64_t buf_align;
};

#define RING_HEADER 256u
#define RING_TAKES_SUPER 0x10000u /* ours: the user wants super-frames, not their segments */
#define RING_DIR_RX 0
#define RING_DIR_TX 1

/* struct netmap_if; ring_ofs[] follows: tx, host tx, rx, host rx */
struct ring_if {
    char name[16];
    uint32_t version;
    uint32_t flags;
    uint32_t tx_rings;
    uint32_t rx_rings;
    uint32_t bufs_head;
    uint32_t host_tx_rings;
    uint32_t host_rx_rings;
    uint32_t spare[3];
};

#define RING_IF_OFFSETS 56u /* where ring_ofs[] begins */
#define RING_NETMAP_API 14u

/* ---- one end of a ring ------------------------------------------------------ */

struct ring {
    struct ring_shared *shared;
    struct ring_slot *slots;
    uint8_t *buffers;            /* where buffer 0 is, or would be */
    uint32_t num_slots;
    uint32_t buf_size;
    uint32_t buf_first;          /* valid buffers: buf_first up to buf_first + buf_count */
    uint32_t buf_count;
    uint32_t next;               /* the next slot that this end works on */
    uint32_t limit;              /* the first slot that is not this end's, as last read */
};

/* Where rings may lie, for ring_init(). */
struct ring_bounds {
    uint8_t *base;               /* a mapping */
    size_t size;
    uint32_t buf_first;          /* buffers that this port may use */
    uint32_t buf_count;
};

/* Makes one end's view of a ring that exists already; believes nothing that
 * leads out of the bounds.
 * @offset: of the ring in the mapping
 * @device: this is the device's end
 * Return: 0, -AMS_EINVAL if the ring or its buffers don't fit the mapping. */
int ring_init(struct ring *ring, const struct ring_bounds *bounds, uint64_t offset, bool device);

/* Index arithmetic. */
static inline uint32_t ring_after(const struct ring *ring, uint32_t index)
{
    return index + 1 == ring->num_slots ? 0 : index + 1;
}

static inline uint32_t ring_before(const struct ring *ring, uint32_t index)
{
    return (index ? index : ring->num_slots) - 1;
}

/* Slots from `from` up to, not including, `to`. */
static inline uint32_t ring_distance(const struct ring *ring, uint32_t from, uint32_t to)
{
    return to >= from ? to - from : to + ring->num_slots - from;
}

/* Slots that may be worked on now, without looking at the other end. */
static inline uint32_t ring_avail(const struct ring *ring)
{
    return ring_distance(ring, ring->next, ring->limit);
}

/* Reads the other end's index, once.
 * Return: false if it is no index of this ring; nothing changes then. */
static inline bool ring_read_limit(struct ring *ring, const uint32_t *index, bool keep_one)
{
    uint32_t value = __atomic_load_n(index, __ATOMIC_ACQUIRE);

    if (AMS_UNLIKELY(value >= ring->num_slots))
        return false;
    ring->limit = keep_one ? ring_before(ring, value) : value;
    return true;
}

/* ---- slots and buffers -------------------------------------------------------- */

/* The first eight bytes of a slot, as read once. */
struct ring_item {
    uint32_t buf_idx;
    uint16_t len;
    uint16_t flags;
};

static inline struct ring_item ring_load(const struct ring_slot *slot)
{
    uint64_t word = __atomic_load_n((const uint64_t *)(const void *)slot, __ATOMIC_RELAXED);
    struct ring_item item;

    memcpy(&item, &word, sizeof(item));
    return item;
}

static inline void ring_store(struct ring_slot *slot, struct ring_item item)
{
    uint64_t word;

    memcpy(&word, &item, sizeof(word));
    __atomic_store_n((uint64_t *)(void *)slot, word, __ATOMIC_RELAXED);
}

/* Notes beside a slot how much payload the segments of a super-frame have. */
static inline void ring_note_super(struct ring_slot *slot, uint16_t size)
{
    __atomic_store_n(&slot->ptr, size, __ATOMIC_RELAXED);
}

/* What was noted there. */
static inline uint16_t ring_super_size(const struct ring_slot *slot)
{
    return (uint16_t)__atomic_load_n(&slot->ptr, __ATOMIC_RELAXED);
}

/* Slots that a frame of this length takes. */
static inline uint32_t ring_slots_for(const struct ring *ring, uint32_t length)
{
    return length <= ring->buf_size ? 1 : (length + ring->buf_size - 1) / ring->buf_size;
}

/* True if the longest super-frames fit a ring more than once. */
static inline bool ring_fits_super(const struct ring *ring, uint32_t longest)
{
    return ring->num_slots > 2 * ring_slots_for(ring, longest);
}

/* A buffer's address; NULL if the index isn't one of this ring's. */
static inline uint8_t *ring_buffer(const struct ring *ring, uint32_t buf_idx)
{
    if (AMS_UNLIKELY(buf_idx - ring->buf_first >= ring->buf_count))
        return NULL;
    return ring->buffers + (size_t)buf_idx * ring->buf_size;
}

/* Takes the next slot.  Only while ring_avail() > 0.
 * @item: result: the slot as it was read, its length at most a buffer's
 * Return: the buffer, NULL if the slot names none: it is used up all the same. */
static inline uint8_t *ring_extract(struct ring *ring, struct ring_item *item)
{
    *item = ring_load(&ring->slots[ring->next]);
    ring->next = ring_after(ring, ring->next);
    if (AMS_UNLIKELY(item->len > ring->buf_size))
        item->len = (uint16_t)ring->buf_size;
    return ring_buffer(ring, item->buf_idx);
}

/* The buffer of the next slot, to be filled; NULL if the slot names none.
 * Only while ring_avail() > 0. */
static inline uint8_t *ring_peek(const struct ring *ring, struct ring_item *item)
{
    *item = ring_load(&ring->slots[ring->next]);
    return ring_buffer(ring, item->buf_idx);
}

/* Uses the next slot with the buffer that ring_peek() gave.
 * @length: at most buf_size */
static inline void ring_insert(struct ring *ring, struct ring_item item, uint32_t length, uint16_t flags)
{
    item.len = (uint16_t)length;
    item.flags = flags;
    ring_store(&ring->slots[ring->next], item);
    ring->next = ring_after(ring, ring->next);
}

/* ---- the user's end ------------------------------------------------------------- */

/* Sees what the device has done since.
 * Return: slots that may be worked on. */
static inline uint32_t ring_user_refresh(struct ring *ring)
{
    ring_read_limit(ring, &ring->shared->tail, false);
    return ring_avail(ring);
}

static inline bool ring_user_full(struct ring *ring) { return !ring_avail(ring) && !ring_user_refresh(ring); }
static inline bool ring_user_empty(struct ring *ring) { return ring_user_full(ring); }

/* Publishes the slots that were worked on: filled (TX: push) or read (RX: pull). */
static inline void ring_user_publish(struct ring *ring)
{
    __atomic_store_n(&ring->shared->cur, ring->next, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->shared->head, ring->next, __ATOMIC_RELEASE);
}

static inline void ring_user_push(struct ring *ring) { ring_user_publish(ring); }
static inline void ring_user_pull(struct ring *ring) { ring_user_publish(ring); }

/* ---- the device's end ------------------------------------------------------------ */

/* TX: sees what the user wants sent.  Return: how many slots that is. */
static inline uint32_t ring_device_pending(struct ring *ring)
{
    ring_read_limit(ring, &ring->shared->head, false);
    return ring_avail(ring);
}

static inline bool ring_device_empty(struct ring *ring) { return !ring_avail(ring) && !ring_device_pending(ring); }

/* TX: gives the slots that were extracted back to the user. */
static inline void ring_device_pull(struct ring *ring)
{
    __atomic_store_n(&ring->shared->tail, ring_before(ring, ring->next), __ATOMIC_RELEASE);
}

/* RX: sees what the user has read.  Return: how many slots may be filled. */
static inline uint32_t ring_device_room(struct ring *ring)
{
    ring_read_limit(ring, &ring->shared->head, true);
    return ring_avail(ring);
}

static inline bool ring_device_full(struct ring *ring) { return !ring_avail(ring) && !ring_device_room(ring); }

/* RX: gives the slots that were filled to the user. */
static inline void ring_device_push(struct ring *ring)
{
    __atomic_store_n(&ring->shared->tail, ring->next, __ATOMIC_RELEASE);
}

/* ---- bells ------------------------------------------------------------------------ */

struct ring_bell {
    uint32_t armed;              /* RING_WAKE_*: what the sleeper waits for */
    uint8_t pad[AMS_CACHE_LINE - 4];
};

#define RING_WAKE_RX 1u          /* frames to receive */
#define RING_WAKE_TX 2u          /* room to send */

/* Keeps earlier stores before later loads. */
static inline void ring_fence(void)
{
#if defined(__SANITIZE_THREAD__)
    uint32_t word = 0;           /* a fence that ThreadSanitizer understands */
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* Arms a bell of ours.  The caller looks at its ring again before it sleeps.
 * Return: what it was armed for; 0: it has been rung. */
static inline uint32_t ring_bell_arm(struct ring_bell *bell, uint32_t what)
{
    uint32_t before = __atomic_exchange_n(&bell->armed, what, __ATOMIC_ACQ_REL);

    ring_fence();
    return before;
}

static inline bool ring_bell_armed(const struct ring_bell *bell)
{
    return __atomic_load_n(&bell->armed, __ATOMIC_ACQUIRE) != 0;
}

static inline void ring_bell_disarm(struct ring_bell *bell)
{
    __atomic_store_n(&bell->armed, 0, __ATOMIC_RELAXED);
}

/* Says whether the other end sleeps on its bell and is to be woken for
 * `what`; if so, the bell is cleared.  A ring_fence() lies between the index
 * that was published and this call. */
static inline bool ring_bell_due(struct ring_bell *bell, uint32_t what)
{
    if (AMS_LIKELY(!(__atomic_load_n(&bell->armed, __ATOMIC_RELAXED) & what)))
        return false;
    return __atomic_exchange_n(&bell->armed, 0, __ATOMIC_ACQ_REL) & what;
}

/* ---- a region of our own ----------------------------------------------------------- */

#define RING_SLOTS_MIN 8u
#define RING_SLOTS_MAX 65536u
#define RING_BUFFER_MIN 2048u
#define RING_BUFFER_MAX 65536u

struct ring_layout {
    uint32_t tx_slots;
    uint32_t rx_slots;
    uint32_t buf_size;           /* a multiple of the cache line */
};

/* The link behind a region, for the client's information. */
struct ring_link {
    uint8_t mac[6];
    uint16_t features;           /* RING_LINK_* */
    uint32_t mtu;
    uint32_t reserved;
    uint64_t flows;              /* where the list of connections is (flows.h); the region's maker sets it */
};

#define RING_LINK_SUPER 1u       /* the switch takes super-frames */

struct ring_region {
    uint8_t *base;
    size_t size;
    int fd;                      /* the memfd; -1: not kept */
    bool mapped;                 /* base is ours to unmap */
    struct ring tx, rx;
    struct ring_bell *device_bell; /* armed by the device, rung by the user */
    struct ring_bell *user_bell;   /* armed by the user, rung by the device */
    uint64_t *flows;             /* the user's connections, for the device to read when it is gone; NULL: no list */
};

/* Buffer size for frames of up to `frame` bytes: an odd number of cache
 * lines, so that equal places of many buffers don't share a few cache sets. */
uint32_t ring_buffer_size(uint32_t frame);

/* Makes a region: memfd, mapping, rings with a buffer in each slot; the views
 * are the device's.
 * Return: 0, -AMS_EINVAL, -AMS_ENOMEM, -AMS_EMFILE.  Owns: the caller. */
int ring_region_create(struct ring_region *region, const char *name, const struct ring_layout *layout,
                       const struct ring_link *link);
/* Maps a region that another process made; the views are the user's.
 * @fd: its memfd; duplicated, the caller's stays the caller's
 * Return: 0, -AMS_EINVAL if it is no such region, -AMS_ENOMEM, -AMS_EMFILE. */
int ring_region_open(struct ring_region *region, int fd);
/* The user's views of a region that is mapped by this process already.
 * Lives as long as `device`; closing it is harmless. */
int ring_region_alias(struct ring_region *region, const struct ring_region *device);
/* What the region's maker wrote about the link. */
struct ring_link ring_region_link(const struct ring_region *region);
/* Takes the pages of a region away from whoever still maps it; it reads as zeros. */
void ring_region_discard(struct ring_region *region);
/* Unmaps and closes; legal twice. */
void ring_region_close(struct ring_region *region);

#endif
