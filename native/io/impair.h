/* SPDX-License-Identifier: BSD-2-Clause
 *
 * impair.h - what a bad link does to frames: a line per receiver.
 *
 * Theory of operation.  A line decides what becomes of each frame that is
 * on its way to one receiver, in this order: lost, damaged, queued for the
 * link's rate (or dropped when that queue is full), delayed, duplicated.  A
 * frame whose time has not come is held in a binary heap, ordered by release
 * time and, among equals, by arrival.  Bursts of losses follow Gilbert's
 * model: a line is good or bad; a bad one loses everything.  A frame that
 * finds a long queue is marked if its sender understands ECN (RFC 3168).  Every decision is drawn from the
 * hub's generator, so that equal calls at equal times give equal results.
 *
 * Jitter keeps the order (no frame is released before its predecessor);
 * reordering is a matter of the frames chosen for it, which are held longer
 * and don't hold up the others.
 */
#ifndef AMS_IO_IMPAIR_H
#define AMS_IO_IMPAIR_H

#include "aiomultistack.h"
#include "core/base.h"
#include "core/frame.h"
#include "core/hash.h"

struct impair_item {
    uint64_t release;
    uint64_t order;
    struct ams_frame *frame;
};

struct impair_line {
    struct impair_item *heap; /* earliest release first */
    uint32_t held;
    uint32_t capacity;
    uint64_t order;           /* of the next frame */
    uint64_t last_release;    /* of the last frame that was not reordered */
    uint64_t link_free;       /* when the last frame has been serialised */
    uint64_t *departures;     /* ring: when each frame queued for the rate is through */
    uint32_t ring_size;
    uint32_t ring_first;
    uint32_t queued;
    bool bad;                 /* in a burst of losses */
    uint64_t dropped;
};

/* True if what is a possible impairment. */
bool impair_valid(const struct ams_impairment *what);
/* True if it does anything at all. */
bool impair_active(const struct ams_impairment *what);

/* Prepares a line for an impairment; frames that it holds stay held.
 * Return: 0, -AMS_ENOMEM (the line is as it was). */
int impair_line_set(struct impair_line *line, const struct ams_impairment *what);
/* Frees the line and the frames in it; legal on a zeroed struct. */
void impair_line_fini(struct impair_line *line);

/* Sends a frame down the line: from here on it is held, or it was dropped.
 * @what: the impairment that the line was set for
 * Owns: the line takes frame. */
void impair_line_push(struct impair_line *line, const struct ams_impairment *what, struct ams_rng *rng,
                      struct ams_frame *frame, uint64_t now);
/* The next frame whose time has come, or NULL.  Owns: the caller. */
struct ams_frame *impair_line_pop(struct impair_line *line, uint64_t now);
/* When the next frame is due; AMS_NEVER if none is held. */
static inline uint64_t impair_line_deadline(const struct impair_line *line)
{
    return line->held ? line->heap[0].release : AMS_NEVER;
}

#endif
