/* SPDX-License-Identifier: BSD-2-Clause
 *
 * vnet.h - the virtio-net header in front of a frame, by which a link leaves
 * checksums and segmentation to its other side (Virtual I/O Device version
 * 1.2 section 5.1.6).  Fields are in the machine's own byte order, as TAP
 * devices and netmap's VALE switches have them.
 */
#ifndef AMS_IO_VNET_H
#define AMS_IO_VNET_H

#include <string.h>

#include "aiomultistack.h"
#include "core/base.h"
#include "core/frame.h"

#define VNET_HEADER 10u        /* bytes */
#define VNET_HEADER_MERGED 12u /* with the number of merged buffers behind */

#define VNET_CSUM_PARTIAL 1u   /* flags: the checksum at csum_start + csum_offset is unfinished */
#define VNET_CSUM_VALID 2u     /* flags: the checksum was verified */

#define VNET_GSO_NONE 0u
#define VNET_GSO_TCP4 1u
#define VNET_GSO_TCP6 4u
#define VNET_GSO_ECN 0x80u     /* added to the others */

struct vnet_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;          /* of all headers of a super-frame */
    uint16_t gso_size;         /* payload of each of its segments */
    uint16_t csum_start;
    uint16_t csum_offset;
};

_Static_assert(sizeof(struct vnet_header) == VNET_HEADER, "the layout is the link's");

/* Writes the header for a frame to be sent.
 * @out: VNET_HEADER bytes */
static inline void vnet_put(const struct ams_tx *tx, uint8_t *out)
{
    struct vnet_header header = {0};

    if (tx->flags & TX_CSUM) {
        header.flags = VNET_CSUM_PARTIAL;
        header.csum_start = tx->csum_start;
        header.csum_offset = tx->csum_offset;
    }
    if (tx->gso_size) {
        header.gso_type = tx->flags & TX_GSO4 ? VNET_GSO_TCP4 : VNET_GSO_TCP6;
        header.gso_size = tx->gso_size;
        header.hdr_len = tx->gso_hdr_len;
    }
    memcpy(out, &header, sizeof(header));
}

/* Sets a received frame's flags from its header.
 * @in: VNET_HEADER bytes */
static inline void vnet_describe(struct ams_frame *frame, const uint8_t *in)
{
    struct vnet_header header;

    memcpy(&header, in, sizeof(header));
    if (header.flags & VNET_CSUM_PARTIAL)
        frame->flags |= FRAME_CSUM_OK | FRAME_CSUM_PARTIAL;
    else if (header.flags & VNET_CSUM_VALID)
        frame->flags |= FRAME_CSUM_OK;
    if ((header.gso_type & ~VNET_GSO_ECN) != VNET_GSO_NONE) {
        frame->flags |= FRAME_GSO;
        frame->gso_size = header.gso_size;
    }
}

#endif
