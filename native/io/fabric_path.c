/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_path.c - from client to client.
 *
 * Theory of operation.  A batch passes five times, so that each cache line
 * that another core has is asked for a while before it is needed:
 *
 *   1. read slots, prefetch the frames
 *   2. copy the frames' heads; prefetch those of the next batch
 *   3. decide (switch_forward())
 *   4. reserve slots in the receivers' rings, prefetch their buffers
 *   5. copy
 *
 * Then the sender gets its slots back.  Receivers see nothing until
 * fabric_publish().  What isn't one frame in one slot is read in pass 1, and
 * left until pass 4 (fabric_super.h).
 */
#define _GNU_SOURCE

#include <string.h>
#include <unistd.h>

#include "core/status.h"
#include "io/fabric.h"
#include "wire/proto.h"

#define PATH_SLOTS_AHEAD 8u      /* slots of a receiver that are prefetched: two lines */
#define PATH_AHEAD 256u          /* bytes of a frame that are prefetched; the processor sees what comes behind them */
#define PATH_INLINE 512u         /* bytes behind a head that are copied without a call */

/* ---- towards a client -------------------------------------------------------------- */

/* Says why a frame could not be put into a client's ring. */
static __attribute__((noinline)) void path_refuse(struct ams_fabric *fabric, struct fabric_port *port,
                                                  enum fabric_counter reason, const uint8_t *head,
                                                  uint32_t head_length, const uint8_t *rest, uint32_t length)
{
    fabric_count(port, reason, 1);
    if (fabric->capturing)
        fabric_tap(fabric, port->index, true, (int)reason, head, head_length, rest, length);
}

/* Asks for a frame's lines, to be written. */
static inline void path_expect(uint8_t *buffer, uint32_t length)
{
    uint32_t end = ams_min_u32(length, PATH_AHEAD);

    AMS_PREFETCH_WRITE(buffer);
    for (uint32_t i = AMS_CACHE_LINE; i < end; i += AMS_CACHE_LINE)
        AMS_PREFETCH_WRITE(buffer + i);
}

/* Reserves the next slot of a client's RX ring.
 * @reason: set if there is none
 * Return: its buffer, or NULL. */
static inline uint8_t *path_reserve(struct ams_fabric *fabric, struct fabric_port *port, uint32_t length,
                                    uint16_t flags, enum fabric_counter *reason)
{
    struct ring *rx = &port->rx;
    struct ring_item item;

    if (AMS_UNLIKELY(!ring_avail(rx) && !ring_device_room(rx))) {
        *reason = FABRIC_OUT_FULL;
        return NULL;
    }
    if (AMS_UNLIKELY(length > rx->buf_size)) {
        *reason = FABRIC_OUT_LENGTH;
        return NULL;
    }
    uint8_t *buffer = ring_peek(rx, &item);
    if (AMS_UNLIKELY(!buffer)) {
        *reason = FABRIC_OUT_SLOT;
        return NULL;
    }
    path_expect(buffer, length);
    ring_insert(rx, item, length, flags);
    uint32_t ahead = rx->next + PATH_SLOTS_AHEAD;
    AMS_PREFETCH_WRITE(&rx->slots[ahead < rx->num_slots ? ahead : ahead - rx->num_slots]);
    fabric_count(port, FABRIC_OUT_FRAMES, 1);
    fabric_count(port, FABRIC_OUT_BYTES, length);
    fabric_filled(fabric, port, 1);
    return buffer;
}

bool fabric_deliver(struct ams_fabric *fabric, struct fabric_port *port, const uint8_t *data, uint32_t length,
                    uint16_t flags)
{
    enum fabric_counter reason;
    uint8_t *buffer = path_reserve(fabric, port, length, flags, &reason);

    if (!buffer) {
        path_refuse(fabric, port, reason, data, length, NULL, length);
        return false;
    }
    memcpy(buffer, data, length);
    if (fabric->capturing)
        fabric_tap(fabric, port->index, true, FABRIC_NO_REASON, data, length, NULL, length);
    return true;
}

void fabric_publish(struct ams_fabric *fabric)
{
    if (!fabric->n_dirty)
        return;
    for (uint32_t i = 0; i < fabric->n_dirty; i++) {
        struct fabric_port *port = fabric->dirty[i];
        if (port->dirty & RING_WAKE_RX)
            ring_device_push(&port->rx);
    }
    ring_fence();
    for (uint32_t i = 0; i < fabric->n_dirty; i++) {
        struct fabric_port *port = fabric->dirty[i];
        /* A pipe that is full is as readable as can be. */
        if (ring_bell_due(port->user_bell, port->dirty) && write(port->notify_fd, "", 1) == 1)
            fabric_count(port, FABRIC_WAKEUPS, 1);
        port->dirty = 0;
        port->unpublished = 0;
    }
    fabric->n_dirty = 0;
    fabric->unpublished = 0;
    fabric->urgent = false;
}

/* ---- from a client ------------------------------------------------------------------- */

/* Asks for a frame's lines, to be read.
 * @most: bytes; a constant */
static inline void path_ask(const uint8_t *data, uint32_t length, uint32_t most)
{
    uint32_t end = ams_min_u32(length, most);

    AMS_PREFETCH(data);
    for (uint32_t i = AMS_CACHE_LINE; i < end; i += AMS_CACHE_LINE)
        AMS_PREFETCH(data + i);
}

/* Pass 1 over what is no frame in one slot: a chain, or a slot that can't be
 * used.  The passes up to the fourth leave it alone.
 * Return: slots used up; 0: the batch has no place for it. */
static __attribute__((noinline)) uint32_t path_chain(struct fabric_batch *batch, uint32_t i, struct ring *tx,
                                                     uint32_t left)
{
    if (batch->n_pieces > SUPER_PIECES - SUPER_SLOTS)
        return 0;
    batch->data[i] = NULL;
    batch->views[i].length = 0;
    return super_read(tx, left, batch->pieces, &batch->n_pieces, &batch->chains[i], &batch->reasons[i]);
}

/* Pass 1 over one frame.  What can't be used gets a reason.
 * Return: slots used up; 0: the batch ends before it. */
static inline uint32_t path_slot(struct fabric_batch *batch, uint32_t i, struct ring *tx, uint32_t left)
{
    struct ring_item item = ring_load(&tx->slots[tx->next]);
    const uint8_t *data = ring_buffer(tx, item.buf_idx);

    if (AMS_UNLIKELY(!data || item.len > tx->buf_size || item.flags & (RING_MOREFRAG | RING_INDIRECT | RING_SUPER)))
        return path_chain(batch, i, tx, left);
    tx->next = ring_after(tx, tx->next);
    batch->views[i].length = item.len;
    batch->data[i] = data;
    path_ask(data, item.len, PATH_AHEAD);
    return 1;
}

/* Asks for the heads of the next batch, while this one is worked on. */
static inline void path_next(const struct ring *tx, uint32_t left)
{
    uint32_t n = ams_min_u32(left, FABRIC_BATCH);

    for (uint32_t i = tx->next; n; n--, i = ring_after(tx, i)) {
        struct ring_item item = ring_load(&tx->slots[i]);
        const uint8_t *data = ring_buffer(tx, item.buf_idx);
        if (AMS_LIKELY(data != NULL))
            path_ask(data, item.len, FABRIC_HEAD);
    }
}

/* Pass 2 over one frame: its head becomes ours.  Buffers are longer than a head. */
static inline void path_head(struct fabric_batch *batch, uint32_t i)
{
    uint8_t *head = batch->heads[i];
    const uint8_t *data = batch->data[i];

    batch->views[i].data = head;
    if (AMS_UNLIKELY(!data))
        return;
    memcpy(head, data, AMS_CACHE_LINE);
    if (batch->views[i].length > AMS_CACHE_LINE)
        memcpy(head + AMS_CACHE_LINE, data + AMS_CACHE_LINE, FABRIC_HEAD - AMS_CACHE_LINE);
}

/* Copies what comes behind the head: by whole lines where a call would cost as
 * much as they do. */
static inline void path_rest(uint8_t *out, const uint8_t *data, uint32_t length)
{
    if (length < AMS_CACHE_LINE || length > PATH_INLINE) {
        memcpy(out, data, length);
        return;
    }
    for (uint32_t i = 0; i + AMS_CACHE_LINE < length; i += AMS_CACHE_LINE)
        memcpy(out + i, data + i, AMS_CACHE_LINE);
    memcpy(out + length - AMS_CACHE_LINE, data + length - AMS_CACHE_LINE, AMS_CACHE_LINE);
}

/* Copies a frame whose head is ours, and nothing behind its end. */
static inline void path_copy(uint8_t *out, const uint8_t *head, const uint8_t *data, uint32_t length)
{
    if (AMS_LIKELY(length >= 32 && length <= 64)) { /* two overlapping moves */
        memcpy(out, head, 32);
        memcpy(out + length - 32, head + length - 32, 32);
    } else if (length > FABRIC_HEAD) {
        memcpy(out, head, FABRIC_HEAD);
        path_rest(out + FABRIC_HEAD, data + FABRIC_HEAD, length - FABRIC_HEAD);
    } else if (length > 64) {
        memcpy(out, head, 64);
        memcpy(out + length - 64, head + length - 64, 64);
    } else {
        memcpy(out, head, length);
    }
}

/* Counts a frame that was refused where it came from. */
static void path_drop(struct ams_fabric *fabric, struct fabric_port *port, int reason, const uint8_t *data,
                      uint32_t length)
{
    port->counters[reason]++;
    if (fabric->capturing)
        fabric_tap(fabric, port->index, false, reason, data, length, NULL, length);
}

/* True if a client may leave a frame that it may not send itself to the
 * control plane: what has no tuple, and is nothing but the truth. */
static bool path_may_punt(struct ams_fabric *fabric, enum switch_counter verdict, const uint8_t *data, uint32_t length)
{
    if (verdict != SWITCH_TX_ARP && verdict != SWITCH_TX_NDP && verdict != SWITCH_TX_ICMP &&
        verdict != SWITCH_TX_PROTOCOL)
        return false;
    return switch_truthful(&fabric->sw, data, length);
}

/* A frame of ours goes where it was decided. */
static void path_dispatch(struct ams_fabric *fabric, struct fabric_port *port, const uint8_t *data, uint32_t length,
                          int32_t target)
{
    struct fabric_wire *wire;

    if (fabric->capturing)
        fabric_tap(fabric, port->index, false, FABRIC_NO_REASON, data, length, NULL, length);
    switch (target) {
    case SWITCH_TO_ALL: fabric_flood(fabric, port, data, length); return;
    case SWITCH_TO_CONTROL:
    case SWITCH_TO_HOST: fabric_control(fabric, port, data, length); return;
    case SWITCH_TO_WIRE:
        wire = fabric_wire_to(fabric, data, port->index);
        if (wire)
            fabric_wire_put(fabric, wire, port, data, length, NULL, length);
        else
            fabric_count(port, FABRIC_NOWHERE, 1);
        return;
    default: fabric_deliver(fabric, fabric->ports[target], data, length, 0);
    }
}

/* Judges a frame that was copied to fabric->scratch as a whole, and sends it on. */
static void path_judge(struct ams_fabric *fabric, struct fabric_port *port, uint32_t length)
{
    uint8_t *frame = fabric->scratch;
    int32_t target;
    enum switch_counter verdict = switch_forward_any(&fabric->sw, port->index, frame, length, &target, fabric->now);
    if (verdict == SWITCH_PASSED) {
        port->counters[FABRIC_OWN_COUNTERS + SWITCH_PASSED]++;
        path_dispatch(fabric, port, frame, length, target);
    } else if (path_may_punt(fabric, verdict, frame, length)) {
        fabric_punt(fabric, port, frame, length);
    } else {
        path_drop(fabric, port, FABRIC_OWN_COUNTERS + verdict, frame, length);
    }
}

/* Pass 4 over a chain, or over a slot that can't be used. */
static __attribute__((noinline)) void path_pieces(struct ams_fabric *fabric, struct fabric_port *port, uint32_t i)
{
    struct fabric_batch *batch = &fabric->batch;
    const struct super_chain *chain = &batch->chains[i];

    fabric_count(port, FABRIC_IN_BYTES, chain->total);
    if (!chain->n) {
        path_drop(fabric, port, batch->reasons[i], fabric->scratch, 0);
    } else if (chain->size) {
        super_forward(fabric, port, chain);
    } else if (chain->total > fabric->mtu + ETH_HEADER) {
        path_drop(fabric, port, FABRIC_OWN_COUNTERS + SWITCH_TX_TOO_LONG, fabric->scratch, 0);
    } else {
        super_gather(&batch->pieces[chain->first], fabric->scratch, chain->total);
        path_judge(fabric, port, chain->total);
    }
}

/* A frame that takes a closer look: all of it is copied first. */
static __attribute__((noinline)) void path_slow(struct ams_fabric *fabric, struct fabric_port *port, uint32_t i)
{
    struct fabric_batch *batch = &fabric->batch;
    uint32_t length = batch->views[i].length, head = ams_min_u32(length, FABRIC_HEAD);

    if (!batch->data[i]) {
        path_pieces(fabric, port, i);
        return;
    }
    memcpy(fabric->scratch, batch->heads[i], head);
    memcpy(fabric->scratch + head, batch->data[i] + head, length - head);
    path_judge(fabric, port, length);
}

/* Pass 4 over one frame that isn't for another client's ring alone. */
static __attribute__((noinline)) void path_other(struct ams_fabric *fabric, struct fabric_port *port, uint32_t i)
{
    struct fabric_batch *batch = &fabric->batch;
    uint32_t length = batch->views[i].length;

    if (batch->targets[i] == SWITCH_UNDECIDED) {
        path_slow(fabric, port, i);
        return;
    }
    port->counters[FABRIC_OWN_COUNTERS + SWITCH_PASSED]++;
    uint32_t head = ams_min_u32(length, FABRIC_HEAD);
    memcpy(fabric->scratch, batch->heads[i], head);
    memcpy(fabric->scratch + head, batch->data[i] + head, length - head);
    path_dispatch(fabric, port, fabric->scratch, length, batch->targets[i]);
}

/* What client-to-client frames of a batch look like to those who capture. */
static __attribute__((noinline)) void path_capture(struct ams_fabric *fabric, const struct fabric_port *port, uint32_t i,
                                                   bool delivered)
{
    const struct fabric_batch *batch = &fabric->batch;
    uint32_t length = batch->views[i].length, head = ams_min_u32(length, FABRIC_HEAD);

    fabric_tap(fabric, port->index, false, FABRIC_NO_REASON, batch->heads[i], head, batch->data[i] + head, length);
    if (delivered)
        fabric_tap(fabric, fabric->ports[batch->targets[i]]->index, true, FABRIC_NO_REASON, batch->heads[i], head,
                   batch->data[i] + head, length);
}

/* Asks for the next slots of receivers that change from frame to frame; where
 * they don't, path_reserve() has asked for them. */
static inline void path_approach(const struct ams_fabric *fabric, uint32_t n)
{
    const int32_t *targets = fabric->batch.targets;

    for (uint32_t i = 1; i < n; i++) {
        if (targets[i] == targets[i - 1] || targets[i] < 0)
            continue;
        const struct ring *rx = &fabric->ports[targets[i]]->rx;
        AMS_PREFETCH(&rx->slots[rx->next]);
    }
}

/* Pass 4: reserves places. */
static void path_place(struct ams_fabric *fabric, struct fabric_port *port, uint32_t n)
{
    struct fabric_batch *batch = &fabric->batch;
    uint32_t passed = 0;

    for (uint32_t i = 0; i < n; i++) {
        batch->out[i] = NULL;
        if (AMS_UNLIKELY(batch->targets[i] < 0)) {
            path_other(fabric, port, i);
            continue;
        }
        enum fabric_counter reason;
        struct fabric_port *to = fabric->ports[batch->targets[i]];
        uint32_t length = batch->views[i].length;
        passed++;
        batch->out[i] = path_reserve(fabric, to, length, 0, &reason);
        if (AMS_UNLIKELY(!batch->out[i]))
            path_refuse(fabric, to, reason, batch->heads[i], ams_min_u32(length, FABRIC_HEAD),
                        batch->data[i] + ams_min_u32(length, FABRIC_HEAD), length);
        if (AMS_UNLIKELY(fabric->capturing))
            path_capture(fabric, port, i, batch->out[i] != NULL);
    }
    port->counters[FABRIC_OWN_COUNTERS + SWITCH_PASSED] += passed;
}

uint32_t fabric_pull(struct ams_fabric *fabric, struct fabric_port *port)
{
    struct fabric_batch *batch = &fabric->batch;
    struct ring *tx = &port->tx;
    uint64_t bytes = 0;

    if (AMS_UNLIKELY(!ring_read_limit(tx, &tx->shared->head, false))) {
        fabric_count(port, FABRIC_IN_INDEX, 1);
        tx->limit = tx->next; /* what was left is gone, or the port would never rest */
        return 0;
    }
    uint32_t n = 0, left = ring_avail(tx);
    if (!left)
        return 0;
    batch->n_pieces = 0;
    for (uint32_t used; n < FABRIC_BATCH && left; n++, left -= used) {
        used = path_slot(batch, n, tx, left);
        if (AMS_UNLIKELY(!used))
            break;
    }
    for (uint32_t i = 0; i < n; i++) {
        path_head(batch, i);
        bytes += batch->views[i].length;
    }
    path_next(tx, left);
    switch_forward(&fabric->sw, port->index, &port->line, batch->views, (int)n, batch->targets);
    path_approach(fabric, n);
    path_place(fabric, port, n);
    for (uint32_t i = 0; i < n; i++) {
        if (AMS_LIKELY(batch->out[i] != NULL))
            path_copy(batch->out[i], batch->heads[i], batch->data[i], batch->views[i].length);
    }
    ring_device_pull(tx);
    fabric_touch(fabric, port, RING_WAKE_TX);
    fabric_count(port, FABRIC_IN_FRAMES, n);
    fabric_count(port, FABRIC_IN_BYTES, bytes);
    return n;
}
