/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/impair.h"

#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/port.h"
#include "wire/bytes.h"
#include "wire/eth.h"
#include "wire/ipv4.h"
#include "wire/proto.h"

#define QUEUE_FRAMES_DEFAULT 1000u
#define QUEUE_FRAMES_MAX (1u << 20)
#define MAC_BYTES 12u /* a flipped bit spares the addresses: the frame still arrives */
#define DELAY_MAX (3600 * AMS_NS_PER_S)

static bool impair_probability(double value)
{
    return value >= 0.0 && value <= 1.0; /* false for NaN */
}

bool impair_valid(const struct ams_impairment *what)
{
    return impair_probability(what->loss) && impair_probability(what->duplicate) &&
           impair_probability(what->reorder) && impair_probability(what->corrupt) &&
           impair_probability(what->burst) && what->burst_frames >= 0.0 && what->delay_ns <= DELAY_MAX &&
           what->jitter_ns <= DELAY_MAX && what->reorder_delay_ns <= DELAY_MAX &&
           what->queue_frames <= QUEUE_FRAMES_MAX;
}

bool impair_active(const struct ams_impairment *what)
{
    return what->loss > 0 || what->duplicate > 0 || what->reorder > 0 || what->corrupt > 0 ||
           what->burst > 0 || what->delay_ns || what->jitter_ns || what->rate_bps;
}

int impair_line_set(struct impair_line *line, const struct ams_impairment *what)
{
    uint32_t size = what->queue_frames ? what->queue_frames : QUEUE_FRAMES_DEFAULT;

    if (!what->rate_bps || size == line->ring_size)
        return 0;
    uint64_t *departures = mem_zalloc(size, sizeof(*departures));
    if (!departures)
        return -AMS_ENOMEM;
    mem_free(line->departures);
    line->departures = departures;
    line->ring_size = size;
    line->ring_first = line->queued = 0;
    return 0;
}

void impair_line_fini(struct impair_line *line)
{
    for (uint32_t i = 0; i < line->held; i++)
        frame_free(line->heap[i].frame);
    mem_free(line->heap);
    mem_free(line->departures);
    memset(line, 0, sizeof(*line));
}

/* ---- the heap -------------------------------------------------------------- */

static bool item_before(const struct impair_item *a, const struct impair_item *b)
{
    return a->release < b->release || (a->release == b->release && a->order < b->order);
}

/* Holds a frame until `release`; drops it without memory. */
static void line_hold(struct impair_line *line, struct ams_frame *frame, uint64_t release)
{
    if (line->held == line->capacity) {
        uint32_t capacity = line->capacity ? line->capacity * 2 : 64;
        struct impair_item *heap = mem_realloc(line->heap, capacity * sizeof(*heap));
        if (!heap) {
            frame_free(frame);
            line->dropped++;
            return;
        }
        line->heap = heap;
        line->capacity = capacity;
    }
    struct impair_item item = {release, line->order++, frame};
    uint32_t i = line->held++;
    while (i && item_before(&item, &line->heap[(i - 1) / 2])) {
        line->heap[i] = line->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    line->heap[i] = item;
}

struct ams_frame *impair_line_pop(struct impair_line *line, uint64_t now)
{
    if (!line->held || line->heap[0].release > now)
        return NULL;
    struct ams_frame *frame = line->heap[0].frame;
    struct impair_item last = line->heap[--line->held];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = i * 2 + 1;
        if (child >= line->held)
            break;
        if (child + 1 < line->held && item_before(&line->heap[child + 1], &line->heap[child]))
            child++;
        if (item_before(&last, &line->heap[child]))
            break;
        line->heap[i] = line->heap[child];
        i = child;
    }
    line->heap[i] = last;
    return frame;
}

/* ---- decisions --------------------------------------------------------------- */

static bool line_chance(struct ams_rng *rng, double probability)
{
    return probability > 0 && rng_unit(rng) < probability;
}

static uint64_t line_uniform(struct ams_rng *rng, uint64_t bound)
{
    return bound ? (uint64_t)(rng_unit(rng) * (double)bound) : 0;
}

static void line_corrupt(struct ams_rng *rng, struct ams_frame *frame)
{
    if (frame->len <= MAC_BYTES)
        return;
    uint32_t bit = rng_below(rng, (frame->len - MAC_BYTES) * 8);
    frame->data[MAC_BYTES + bit / 8] ^= (uint8_t)(1u << bit % 8);
}

/* Gilbert's model: is this frame part of a burst of losses? */
static bool line_in_burst(struct impair_line *line, const struct ams_impairment *what, struct ams_rng *rng)
{
    if (line->bad)
        line->bad = !(what->burst_frames <= 1 || line_chance(rng, 1 / what->burst_frames));
    else
        line->bad = line_chance(rng, what->burst);
    return line->bad;
}

/* Sets Congestion Experienced where the sender allows it (RFC 3168 section 5). */
static void line_mark(struct ams_frame *frame)
{
    uint8_t *ip = frame->data + ETH_HEADER;
    if (frame->len < ETH_HEADER + IP4_HEADER)
        return;
    uint16_t type = load_be16(frame->data + 12);
    if (type == ETHERTYPE_IPV4 && ip[1] & 3 && frame->len >= ETH_HEADER + (ip[0] & 15) * 4u) {
        ip[1] |= 3;
        ipv4_update_checksum(ip, (ip[0] & 15) * 4u);
    } else if (type == ETHERTYPE_IPV6 && ip[1] & 0x30) {
        ip[1] |= 0x30;
    }
}

/* Queues a frame for the link.
 * @through: result: when its last bit has left
 * Return: false if the queue is full. */
static bool line_serialise(struct impair_line *line, const struct ams_impairment *what, uint32_t length, uint64_t now,
                           uint64_t *through)
{
    *through = now;
    if (!what->rate_bps)
        return true;
    while (line->queued && line->departures[line->ring_first] <= now) {
        line->ring_first = (line->ring_first + 1) % line->ring_size;
        line->queued--;
    }
    if (line->queued == line->ring_size)
        return false;
    *through = ams_max_u64(now, line->link_free) + (uint64_t)length * 8 * AMS_NS_PER_S / what->rate_bps;
    line->link_free = *through;
    line->departures[(line->ring_first + line->queued) % line->ring_size] = *through;
    line->queued++;
    return true;
}

/* Delays one frame.  Owns: takes frame. */
static void line_send(struct impair_line *line, const struct ams_impairment *what, struct ams_rng *rng,
                      struct ams_frame *frame, uint64_t now)
{
    uint64_t release;

    if (!line_serialise(line, what, frame->len, now, &release)) {
        frame_free(frame);
        line->dropped++;
        return;
    }
    if (what->mark_frames && line->queued > what->mark_frames)
        line_mark(frame);
    release += what->delay_ns + line_uniform(rng, what->jitter_ns);
    if (line_chance(rng, what->reorder)) {
        uint64_t extra = what->reorder_delay_ns;
        release += extra ? extra : ams_max_u64(4 * what->delay_ns, AMS_NS_PER_MS);
    } else {
        release = ams_max_u64(release, line->last_release);
        line->last_release = release;
    }
    line_hold(line, frame, release);
}

void impair_line_push(struct impair_line *line, const struct ams_impairment *what, struct ams_rng *rng,
                      struct ams_frame *frame, uint64_t now)
{
    if (line_chance(rng, what->loss) || line_in_burst(line, what, rng)) {
        frame_free(frame);
        line->dropped++;
        return;
    }
    if (line_chance(rng, what->corrupt))
        line_corrupt(rng, frame);
    struct ams_frame *twin = NULL;
    if (line_chance(rng, what->duplicate)) {
        twin = frame_new(frame->pool, (enum frame_class)frame->class_);
        if (twin) {
            memcpy(twin->data, frame->data, frame->len);
            twin->len = frame->len;
            twin->flags = frame->flags;
            twin->gso_size = frame->gso_size;
        }
    }
    line_send(line, what, rng, frame, now);
    if (twin)
        line_send(line, what, rng, twin, now);
}
