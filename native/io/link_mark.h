/* SPDX-License-Identifier: BSD-2-Clause
 *
 * link_mark.h - what a link of this machine leaves to its receiver.
 *
 * Theory of operation.  XDP and netmap show a frame's bytes, not what the kernel knows of
 * them.  On a link whose other end is this machine's kernel (a veth, a virtual
 * machine's NIC) the sender may have left its checksum unfinished: the field
 * holds the pseudo-header's sum, which the sending device would have completed.
 * A finished checksum equals that sum once in 65536 packets, and then nothing
 * is lost but the check of a packet that never left the machine's memory.  So
 * on such links, and only there, a packet whose checksum field is the
 * pseudo-header's sum is marked as FRAME_CSUM_PARTIAL and believed; all others
 * are verified as ever.
 *
 * Super-frames: where a driver or the kernel has merged TCP segments, or not
 * cut them yet, the frame exceeds the MTU.  It is marked FRAME_GSO with the
 * segment size that the MTU allows.  Merged datagrams of other protocols
 * cannot be told apart any more.
 */
#ifndef AMS_IO_LINK_MARK_H
#define AMS_IO_LINK_MARK_H

#include "core/frame.h"

/* Sets a received frame's flags.
 * @partial: the link may deliver unfinished checksums
 * Return: false if the frame must be dropped. */
bool link_mark(struct ams_frame *frame, uint32_t mtu, bool partial);

/* Completes the checksum of a frame if it is unfinished, for a receiver that
 * verifies it. */
void link_finish(uint8_t *frame, uint32_t length);

#endif
