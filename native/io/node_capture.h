/* SPDX-License-Identifier: BSD-2-Clause
 *
 * node_capture.h - the frames of a node's port, for whoever debugs it.
 *
 * Theory of operation.  While somebody captures, the node copies each frame
 * that its port gives or takes, and each that its switch drops with the
 * reason, into a buffer of fixed size.  The loop that runs the node empties
 * it, in one copy, so there is neither lock nor ring.  What finds the buffer
 * full is counted.  While nobody captures the node has no such object, and
 * pays one comparison a batch.
 */
#ifndef AMS_IO_NODE_CAPTURE_H
#define AMS_IO_NODE_CAPTURE_H

#include "core/frame.h"

#define NODE_CAPTURE_PASSED (-1) /* reason of a frame that was not dropped */

struct node_capture {
    uint8_t *records;  /* struct ams_captured and its bytes, again and again */
    size_t size, used;
    uint32_t snap;     /* bytes of each frame at most */
    uint64_t lost;
};

/* @snap: bytes of each frame at most; 0: all
 * @size: bytes of the buffer
 * Return: NULL when out of memory. */
struct node_capture *node_capture_new(uint32_t snap, size_t size);
void node_capture_free(struct node_capture *capture);

/* Copies received frames.
 * @reasons: of those whose target is nobody, the counter of the switch
 * @base: what to add to it for ams_counter_name() */
void node_capture_rx(struct node_capture *capture, struct ams_frame *const *frames, int n, const int32_t *targets,
                     const uint8_t *reasons, int base, uint64_t now);

/* Copies frames that are about to be sent.
 * @verdicts: the switch's, one a frame
 * @base: as above */
void node_capture_tx(struct node_capture *capture, const struct ams_tx *tx, int n, const uint8_t *verdicts, int base,
                     uint64_t now);

/* Moves out as many records as fit, whole ones, the oldest first.
 * Return: bytes written. */
size_t node_capture_take(struct node_capture *capture, char *buffer, size_t size);

#endif
