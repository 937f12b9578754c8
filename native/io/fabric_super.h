/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_super.h - frames in pieces: chains of slots, and super-frames.
 *
 * Theory of operation.  A TCP stack hands a *super-frame* down: one header
 * and up to 64 KB of payload, for whoever is at the link's end to cut into
 * segments.  In a ring it lies in a chain of slots (RING_MOREFRAG), its first
 * one marked RING_SUPER and telling the segments' size; its checksum is left
 * unfinished.  A receiver that says so in its ring (RING_TAKES_SUPER) gets it
 * as it is, in a chain; so does a wire whose driver segments.  For others it
 * is cut here, with checksums.  What it costs to pass a frame through stack,
 * switch and stack is paid once instead of 45 times.
 *
 * A chain is as hostile as all that clients write.  Each of its slots is read
 * once and checked (super_read()); a chain that is cut off, longer than
 * a super-frame, or has a bad slot is dropped as a whole.  The first
 * SWITCH_HEAD bytes are copied, judged, and delivered as they were judged;
 * payload is copied from where it is.  Segments are SUPER_SEGMENTS at most, so
 * that nobody can have a few bytes cut into a hundred thousand frames.
 *
 * A chain that is no super-frame is an ordinary frame in pieces, as netmap
 * allows; it is put together and goes the ordinary way.
 */
#ifndef AMS_IO_FABRIC_SUPER_H
#define AMS_IO_FABRIC_SUPER_H

#include "core/base.h"
#include "io/ring.h"

struct ams_fabric;
struct ams_frame;
struct fabric_port;
struct fabric_wire;

#define SUPER_SLOTS 64u          /* of a chain */
#define SUPER_PIECES 256u        /* of all chains of a batch; at least SUPER_SLOTS */
#define SUPER_SEGMENTS 128u      /* of a super-frame of a client's; TCP_GSO_SEGMENTS is no more */

/* A part of a frame. */
struct super_piece {
    const uint8_t *data;
    uint32_t length;
};

/* A chain, as it was read. */
struct super_chain {
    uint16_t first;              /* its pieces in the batch */
    uint16_t n;                  /* 0: unusable, for batch.reasons[] */
    uint16_t size;               /* payload of each segment; 0: no super-frame */
    uint32_t total;
};

/* Reads the chain at the next slot of a sender's ring.
 * @pieces: of the batch; @used: how many there are, updated
 * @left: slots that may be read
 * @chain: result; n is 0 if it is unusable
 * @reason: why it is
 * Return: slots that were used up. */
uint32_t super_read(struct ring *tx, uint32_t left, struct super_piece *pieces, uint32_t *used,
                    struct super_chain *chain, uint16_t *reason);

/* True if a client wants super-frames whole, and its ring can hold them.  It
 * then knows what an unfinished checksum is, too. */
bool super_wanted(const struct fabric_port *to);

/* Judges a super-frame of a client's and sends it on.
 * @chain: with a size */
void super_forward(struct ams_fabric *fabric, struct fabric_port *from, const struct super_chain *chain);

/* Sends a super-frame that came from a wire to a client or another wire.
 * @frame: with FRAME_GSO; stays the caller's
 * @to, @wire: one of them; NULL both: it is for a tuple that nobody has */
void super_from_wire(struct ams_fabric *fabric, struct fabric_port *from, const struct ams_frame *frame,
                     struct fabric_port *to, struct fabric_wire *wire);

/* Copies the pieces of a chain together.
 * @out: at least @length bytes, of which the chain has as many */
void super_gather(const struct super_piece *pieces, uint8_t *out, uint32_t length);

#endif
