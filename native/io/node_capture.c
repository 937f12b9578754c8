/* SPDX-License-Identifier: BSD-2-Clause
 *
 * node_capture.c - the frames of a node's port, for whoever debugs it.
 * node_capture.h has the theory of operation.
 */
#include "io/node_capture.h"

#include <string.h>

#include "aiomultistack.h"
#include "core/alloc.h"
#include "switch/switch.h"
#include "wire/bytes.h"

#define CAPTURE_ALIGN 8u

struct node_capture *node_capture_new(uint32_t snap, size_t size)
{
    struct node_capture *capture = mem_zalloc(1, sizeof(*capture));

    if (!capture)
        return NULL;
    capture->records = mem_zalloc(1, size);
    if (!capture->records) {
        mem_free(capture);
        return NULL;
    }
    capture->size = size;
    capture->snap = snap ? snap : UINT32_MAX;
    return capture;
}

void node_capture_free(struct node_capture *capture)
{
    if (!capture)
        return;
    mem_free(capture->records);
    mem_free(capture);
}

/* Bytes that a record takes. */
static size_t capture_stride(uint32_t captured)
{
    return (sizeof(struct ams_captured) + captured + CAPTURE_ALIGN - 1) / CAPTURE_ALIGN * CAPTURE_ALIGN;
}

/* Makes a record.
 * Return: where its bytes go, info->captured of them; NULL if there is no room. */
static uint8_t *capture_record(struct node_capture *capture, struct ams_captured *info)
{
    info->captured = ams_min_u32(info->length, capture->snap);
    size_t stride = capture_stride(info->captured);
    if (stride > capture->size - capture->used) {
        capture->lost++;
        return NULL;
    }
    uint8_t *record = capture->records + capture->used;
    memcpy(record, info, sizeof(*info));
    capture->used += stride;
    return record + sizeof(*info);
}

void node_capture_rx(struct node_capture *capture, struct ams_frame *const *frames, int n, const int32_t *targets,
                     const uint8_t *reasons, int base, uint64_t now)
{
    for (int i = 0; i < n; i++) {
        bool dropped = targets[i] == SWITCH_TO_NOBODY;
        struct ams_captured info = {.time = now, .length = frames[i]->len, .outgoing = 0,
                                    .reason = dropped ? base + reasons[i] : NODE_CAPTURE_PASSED};
        uint8_t *bytes = capture_record(capture, &info);
        if (bytes)
            memcpy(bytes, frames[i]->data, info.captured);
    }
}

/* Copies the first bytes of a frame that lies in pieces. */
static void capture_gather(uint8_t *bytes, const struct ams_tx *tx, uint32_t length)
{
    uint32_t done = ams_min_u32(tx->head_len, length);

    memcpy(bytes, tx->head, done);
    for (uint32_t i = 0; i < tx->n_frags && done < length; i++) {
        uint32_t piece = ams_min_u32(tx->frags[i].len, length - done);
        memcpy(bytes + done, tx->frags[i].data, piece);
        done += piece;
    }
}

void node_capture_tx(struct node_capture *capture, const struct ams_tx *tx, int n, const uint8_t *verdicts, int base,
                     uint64_t now)
{
    for (int i = 0; i < n; i++) {
        bool dropped = verdicts[i] != SWITCH_PASSED;
        struct ams_captured info = {.time = now, .length = tx[i].total, .outgoing = 1,
                                    .reason = dropped ? base + verdicts[i] : NODE_CAPTURE_PASSED};
        uint8_t *bytes = capture_record(capture, &info);
        if (bytes)
            capture_gather(bytes, &tx[i], info.captured);
    }
}

size_t node_capture_take(struct node_capture *capture, char *buffer, size_t size)
{
    size_t taken = 0;

    while (taken < capture->used) {
        struct ams_captured info;
        memcpy(&info, capture->records + taken, sizeof(info));
        size_t stride = capture_stride(info.captured);
        if (stride > size - taken)
            break;
        taken += stride;
    }
    memcpy(buffer, capture->records, taken);
    memmove(capture->records, capture->records + taken, capture->used - taken);
    capture->used -= taken;
    return taken;
}
