/* SPDX-License-Identifier: BSD-2-Clause
 *
 * frame.h - frames, the pool that they come from, and what is sent.
 *
 * Theory of operation.  A *frame* is a small header (one cache line) in
 * front of one contiguous buffer.  There are two buffer classes: small
 * (FRAME_SMALL bytes, enough for an Ethernet frame at MTU 1500) and large
 * (FRAME_LARGE bytes, a 64 KB super-frame with headroom), so that no packet
 * is ever a chain and every parser sees contiguous bytes.  A third class
 * has no buffer at all: a *reference* frame points at memory of somebody
 * else (bytes of the application that wait to be acknowledged).
 *
 * The same struct serves received frames, the receive queue, and the chunks
 * of a send queue: data/len is a window that moves over the buffer.
 *
 * A pool keeps freed frames on a LIFO list per class, hot in the cache, and
 * counts what is in use; beyond `limit` frames frame_new() fails.  What a
 * burst has left on the lists goes back to the allocator little by little, as
 * the pool's user calls frame_pool_trim().  A pool is
 * single-threaded unless made `shared` (the hub's), where a spin lock guards
 * the lists.  A frame goes back to the pool that it came from.
 *
 * What leaves is described by a *tx descriptor* (struct ams_tx): headers in
 * a scratch buffer plus up to TX_FRAGS pieces of payload, all of them valid
 * until the driver's tx() returns.  Drivers gather; nothing is copied before
 * them.
 */
#ifndef AMS_CORE_FRAME_H
#define AMS_CORE_FRAME_H

#include "core/base.h"
#include "core/slab.h"

#define FRAME_SMALL 2048u
#define FRAME_HEADROOM 128u                     /* before a received frame: room for a vnet header */
#define FRAME_LARGE (65536u + 2048u + FRAME_HEADROOM)

enum frame_class { FRAME_CLASS_SMALL, FRAME_CLASS_LARGE, FRAME_CLASS_REF, FRAME_CLASSES };

/* frame flags */
#define FRAME_CSUM_OK 1u      /* L4 checksum known to be good (or of no consequence): don't verify */
#define FRAME_GSO 2u          /* a super-frame; gso_size is its segments' payload */
#define FRAME_CSUM_PARTIAL 4u /* L4 checksum holds the pseudo-header sum only (local sender) */

struct frame_pool;

struct ams_frame {
    _Alignas(AMS_CACHE_LINE) struct ams_frame *next; /* list link; owner's use */
    uint8_t *data;           /* first byte of the window */
    uint32_t len;            /* bytes in the window */
    uint32_t seq;            /* owner's use (TCP queues: sequence number of data[0]) */
    uint8_t *buffer;         /* start of the buffer; NULL for references */
    uint32_t capacity;       /* bytes at buffer */
    uint16_t flags;
    uint16_t gso_size;
    struct frame_pool *pool;
    uint8_t class_;          /* enum frame_class */
    uint8_t marks;           /* owner's use */
    uint16_t aux16;          /* owner's use */
    uint32_t aux;            /* owner's use */
};

struct frame_pool {
    struct slab refs;        /* where references lie */
    struct ams_frame *free_list[FRAME_CLASSES];
    uint32_t free_count[FRAME_CLASSES];
    uint32_t in_use;
    uint32_t limit;
    bool shared;
    _Atomic(int) lock;
    uint64_t failures;       /* frame_new() refused */
    uint64_t bytes;          /* memory that the pool holds, free frames included */
};

/* Prepares an empty pool.
 * @limit: frames in use at most
 * @shared: several threads use it */
void frame_pool_init(struct frame_pool *pool, uint32_t limit, bool shared);
/* Gives cached frames back to the allocator.
 * @all: all but a small stock; otherwise a quarter of what is beyond it */
void frame_pool_trim(struct frame_pool *pool, bool all);
/* Frees all cached frames.  No frame may be in use any more. */
void frame_pool_fini(struct frame_pool *pool);

/* Takes a frame: data = buffer + FRAME_HEADROOM, len 0, other fields zero.
 * Return: the frame, NULL at the limit or without memory.  Owns: the caller. */
struct ams_frame *frame_new(struct frame_pool *pool, enum frame_class class_);
/* A reference frame over [data, data+len). */
struct ams_frame *frame_new_ref(struct frame_pool *pool, const uint8_t *data, uint32_t len);
/* Gives a frame back; NULL is legal. */
void frame_free(struct ams_frame *frame);

/* Bytes free behind the window. */
static inline uint32_t frame_tailroom(const struct ams_frame *frame)
{
    if (!frame->buffer)
        return 0;
    return (uint32_t)(frame->buffer + frame->capacity - (frame->data + frame->len));
}

/* Moves the window's start forward: the first n bytes are gone. */
static inline void frame_pull(struct ams_frame *frame, uint32_t n)
{
    AMS_ASSERT(n <= frame->len);
    frame->data += n;
    frame->len -= n;
}

/* Cuts the window's end down to len bytes. */
static inline void frame_trim(struct ams_frame *frame, uint32_t len)
{
    AMS_ASSERT(len <= frame->len);
    frame->len = len;
}

#define TX_FRAGS 17           /* as many as an sk_buff has; a kernel would copy more together */
#define TX_HEAD_MAX 192u      /* Ethernet + IPv6 + TCP with options, and to spare */

/* tx flags */
#define TX_CSUM 1u            /* L4 checksum at csum_offset is partial: the port, or its driver, finishes it */
#define TX_GSO4 2u
#define TX_GSO6 4u

struct ams_tx_frag {
    const uint8_t *data;
    uint32_t len;
};

/* One frame to send.  total = head_len + the sum of the frags. */
struct ams_tx {
    uint8_t *head;           /* Ethernet header first; FRAME_HEADROOM bytes before it are scratch */
    uint32_t head_len;
    uint32_t total;
    uint16_t flags;
    uint16_t csum_start;     /* from the start of the frame: the L4 header */
    uint16_t csum_offset;    /* from csum_start: its checksum field */
    uint16_t gso_size;       /* payload per segment; 0: not a super-frame */
    uint16_t gso_hdr_len;    /* headers to repeat per segment */
    uint16_t n_frags;
    struct ams_frame *owned; /* freed by the stack after the batch was sent; may be NULL */
    struct ams_tx_frag frags[TX_FRAGS];
};

/* Copies a whole frame out, gathering.
 * @out: at least tx->total bytes
 * Return: tx->total. */
uint32_t tx_gather(const struct ams_tx *tx, uint8_t *out);

#endif
