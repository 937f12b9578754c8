/* SPDX-License-Identifier: BSD-2-Clause
 *
 * pair.h - two engines, the link between them, and what their applications
 * see; for fuzz_pair.c, which says what happens to them.
 */
#ifndef AMS_FUZZ_PAIR_H
#define AMS_FUZZ_PAIR_H

#include <stdbool.h>
#include <stdio.h>

#include "fuzz.h"
#include "packets.h"
#include "stack/tcp.h"

#define CONNS 3
#define STREAM 150000u           /* bytes that a connection may carry in one direction */
#define FLIGHT 96                /* frames under way in one direction; further ones are lost */
#define BATCH 16
#define FRAMES 100000
#define DAMAGED 1                /* ams_frame.marks: one bit was flipped, two might cancel out */

enum { CLIENT, SERVER, HOSTS };
enum { OFFLOAD = 1, IPV6 = 2, COOKIES = 12, FASTOPEN = 16, NO_COOKIE = 32, USER_TIMEOUT = 64, EXTERNAL = 128 }; /* fuzz.how */

/* One end of a connection, as its application sees it. */
struct end {
    int id;                      /* -1: none yet, or gone */
    uint32_t written, read;
    uint32_t refs;               /* pieces lent to the engine */
    bool used, shut, eof;
};

struct link {
    struct ams_frame *frames[FLIGHT];
    int count;
};

struct fuzz {
    struct fuzz_input input;
    struct frame_pool pool;
    struct ams_stack *stack[HOSTS];
    struct end ends[HOSTS][CONNS];
    bool fragile[CONNS];         /* somebody gave up on it: bytes may be missing */
    int listeners[CONNS];
    struct link links[HOSTS];    /* by sender */
    uint64_t refused[HOSTS];     /* sends for which there was no memory */
    uint64_t now, hostile_until;
    uint8_t how;
    uint32_t longest;            /* packets that the path carries; longer ones vanish */
    bool healed;
    bool starved;                /* a frame was wanted that memory had no room for: connections may fail */
    bool cookies;                /* a handshake that lost its last ACK may end in a reset (RFC 4987 section 3.6) */
};

static uint8_t streams[CONNS][HOSTS][STREAM];

/* Bytes that are not easily taken for others of the same or another stream. */
static void make_streams(void)
{
    uint32_t word = 1;
    if (streams[0][0][0])
        return;
    for (int k = 0; k < CONNS; k++)
        for (int host = 0; host < HOSTS; host++)
            for (uint32_t i = 0; i < STREAM; i++) {
                word = word * 1664525u + 1013904223u;
                streams[k][host][i] = (uint8_t)(word >> 24) | 1;
            }
}

/* ---- the link ------------------------------------------------------------------------ */

static struct ams_frame *link_take(struct link *link, int index)
{
    struct ams_frame *frame = link->frames[index];
    link->count--;
    memmove(&link->frames[index], &link->frames[index + 1],
            (size_t)(link->count - index) * sizeof(link->frames[0]));
    return frame;
}

static void deliver(struct fuzz *fuzz, int from, struct ams_frame *frame)
{
    stack_input(fuzz->stack[1 - from], &frame, 1, fuzz->now);
}

static struct ams_frame *copy_of(struct fuzz *fuzz, const struct ams_frame *frame)
{
    struct ams_frame *copy = frame_new(&fuzz->pool, (enum frame_class)frame->class_);
    if (!copy)
        return NULL;
    memcpy(copy->data, frame->data, frame->len);
    copy->len = frame->len;
    copy->flags = frame->flags;
    copy->marks = frame->marks;
    copy->gso_size = frame->gso_size;
    return copy;
}

static bool is_tcp(const struct ams_frame *frame)
{
    uint16_t type = load_be16(frame->data + 12);
    return (type == ETHERTYPE_IPV4 && frame->data[ETH_HEADER + 9] == PROTO_TCP) ||
           (type == ETHERTYPE_IPV6 && frame->data[ETH_HEADER + 6] == PROTO_TCP);
}

/* Puts what a host sends on its link, as a port would. */
static void send_frame(struct fuzz *fuzz, int from, const struct ams_tx *tx)
{
    struct link *link = &fuzz->links[from];
    uint32_t reach = tx->gso_size ? tx->gso_hdr_len + tx->gso_size : tx->total;
    FUZZ_ASSERT(reach <= 1500 + ETH_HEADER && (fuzz->how & OFFLOAD || (!tx->gso_size && !(tx->flags & TX_CSUM))));
    struct ams_frame *frame = frame_new(&fuzz->pool, tx->total > FRAME_SMALL - FRAME_HEADROOM ? FRAME_CLASS_LARGE
                                                                                              : FRAME_CLASS_SMALL);
    if (!frame) { /* lost, as a port loses it */
        fuzz->starved = true;
        return;
    }
    frame->len = tx_gather(tx, frame->data);
    frame->flags = (tx->flags & TX_CSUM ? FRAME_CSUM_OK : 0) | (tx->gso_size ? FRAME_GSO : 0);
    frame->gso_size = tx->gso_size;
    if (!is_tcp(frame))
        deliver(fuzz, from, frame);
    else if (link->count == FLIGHT || reach > fuzz->longest + ETH_HEADER)
        frame_free(frame);
    else
        link->frames[link->count++] = frame;
}

/* Sets Congestion Experienced where the sender allows it (RFC 3168 section 5). */
static void mark(struct ams_frame *frame)
{
    uint8_t *ip = frame->data + ETH_HEADER;
    if (load_be16(frame->data + 12) == ETHERTYPE_IPV6) {
        ip[1] |= ip[1] & 0x30 ? 0x30 : 0;
    } else if (ip[1] & 3) {
        ip[1] |= 3;
        ipv4_update_checksum(ip, IP4_HEADER);
    }
}

/* Flips one bit behind the IP header. */
static void damage(struct fuzz *fuzz, struct ams_frame *frame)
{
    uint32_t l4 = ip_headroom(load_be16(frame->data + 12) == ETHERTYPE_IPV6 ? AMS_IPV6 : AMS_IPV4);
    uint16_t bit = take16(&fuzz->input);
    if (frame->flags & FRAME_CSUM_OK || frame->marks & DAMAGED || frame->len <= l4)
        return; /* nobody would notice */
    frame->data[l4 + bit / 8 % (frame->len - l4)] ^= (uint8_t)(1u << bit % 8);
    frame->marks |= DAMAGED;
}

/* ---- what the applications see ----------------------------------------------------------- */

/* True if a connection may end otherwise than in peace. */
static bool broken(const struct fuzz *fuzz, int k)
{
    return fuzz->fragile[k] || fuzz->cookies || fuzz->starved;
}

static void received(struct fuzz *fuzz, int host, int k, const void *data, size_t length)
{
    struct end *end = &fuzz->ends[host][k];
    const struct end *peer = &fuzz->ends[1 - host][k];
    FUZZ_ASSERT(!end->eof && end->read + length <= peer->written);
    FUZZ_ASSERT(memcmp(data, streams[k][1 - host] + end->read, length) == 0);
    end->read += (uint32_t)length;
}

/* Reads up to `most` bytes, by two ways in turn. */
static void read_some(struct fuzz *fuzz, int host, int k, size_t most)
{
    static char buffer[STREAM];
    struct end *end = &fuzz->ends[host][k];
    size_t length;
    if (end->id < 0)
        return;
    const char *data = ams_tcp_peek(fuzz->stack[host], end->id, &length);
    if (data && most & 1) {
        length = length < most ? length : most;
        received(fuzz, host, k, data, length);
        FUZZ_ASSERT(ams_tcp_consume(fuzz->stack[host], end->id, length) == 0);
    } else {
        int got = ams_tcp_recv(fuzz->stack[host], end->id, buffer, most < STREAM ? most : STREAM);
        FUZZ_ASSERT(got >= 0 || got == -AMS_ENOTCONN);
        if (got > 0)
            received(fuzz, host, k, buffer, (size_t)got);
    }
}

static int connection_of(const struct fuzz *fuzz, int host, int id)
{
    for (int k = 0; k < CONNS; k++)
        if (fuzz->ends[host][k].id == id)
            return k;
    return -1;
}

static void accepted(struct fuzz *fuzz, int id, int listener)
{
    for (int k = 0; k < CONNS; k++) {
        if (fuzz->listeners[k] == listener && !fuzz->ends[SERVER][k].used) {
            fuzz->ends[SERVER][k].id = id;
            fuzz->ends[SERVER][k].used = true;
            return;
        }
    }
    ams_tcp_abort(fuzz->stack[SERVER], id); /* of segments from the grave */
}

/* A congestion control outside of the engine, which the input plays. */
static void outside(struct fuzz *fuzz, int host, int id)
{
    struct ams_cc_report report;
    if (ams_cc_report(fuzz->stack[host], id, &report) < 0)
        return; /* another one was chosen since */
    uint8_t how = take8(&fuzz->input);
    uint64_t rate = how & 64 ? 100000 : how & 128 ? 10000000 : 0;
    FUZZ_ASSERT(ams_cc_set(fuzz->stack[host], id, (how & 63) * report.mss, report.ssthresh, rate) == 0);
}

/* One event.  Return: bytes of the blob that were its own. */
static uint32_t on_event(struct fuzz *fuzz, int host, const int32_t *event, const char *blob)
{
    uint32_t bits = (uint32_t)event[1], length = (uint32_t)event[3];
    if (bits & AMS_EV_ACCEPTED)
        accepted(fuzz, event[0], event[2]);
    if (bits & AMS_EV_CONGESTION)
        outside(fuzz, host, event[0]);
    int k = connection_of(fuzz, host, event[0]);
    FUZZ_ASSERT(!(bits & AMS_EV_DATA) == !length);
    if (k < 0)
        return length;
    struct end *end = &fuzz->ends[host][k];
    if (bits & AMS_EV_DATA)
        received(fuzz, host, k, blob, length);
    if (bits & AMS_EV_EOF) {
        FUZZ_ASSERT(!end->eof && fuzz->ends[1 - host][k].shut);
        size_t left;
        if (!ams_tcp_peek(fuzz->stack[host], end->id, &left)) {
            FUZZ_ASSERT(end->read == fuzz->ends[1 - host][k].written);
            end->eof = true;
        } else {
            FUZZ_ASSERT(end->read + left <= fuzz->ends[1 - host][k].written);
            read_some(fuzz, host, k, STREAM);
            read_some(fuzz, host, k, STREAM - 1);
            end->eof = true;
        }
    }
    if (bits & AMS_EV_REFS) {
        FUZZ_ASSERT((uint32_t)event[2] <= end->refs);
        end->refs -= (uint32_t)event[2];
    }
    if (bits & AMS_EV_CLOSED && event[2] != 0) {
        FUZZ_ASSERT(broken(fuzz, k));
        ams_tcp_close(fuzz->stack[host], end->id);
        end->id = -1;
    } else if (bits & AMS_EV_RELEASED) {
        FUZZ_ASSERT(end->refs == 0);
        end->id = -1;
    }
    return length;
}

/* ---- both engines ---------------------------------------------------------------------------- */

/* Lets one host do what it can now.  Return: true if it did anything. */
static bool step(struct fuzz *fuzz, int host)
{
    static char blob[65536];
    struct ams_tx tx[BATCH];
    int32_t events[BATCH * AMS_EVENT_WORDS];
    memset(tx, 0, sizeof(tx));
    int sent = stack_output(fuzz->stack[host], tx, BATCH, fuzz->now);
    FUZZ_ASSERT(sent >= 0 && sent <= BATCH);
    for (int i = 0; i < sent; i++)
        send_frame(fuzz, host, &tx[i]);
    stack_output_done(fuzz->stack[host], tx, sent);
    int n = stack_events(fuzz->stack[host], events, BATCH, blob, sizeof(blob));
    uint32_t at = 0;
    for (int i = 0; i < n; i++)
        at += on_event(fuzz, host, &events[AMS_EVENT_WORDS * i], blob + at);
    return sent || n;
}

static void settle(struct fuzz *fuzz)
{
    for (int round = 0;; round++) {
        bool busy = step(fuzz, CLIENT);
        busy = step(fuzz, SERVER) || busy;
        if (!busy)
            break;
        FUZZ_ASSERT(round < 10000);
    }
    for (int host = 0; host < HOSTS; host++) {
        const char *wrong = ams_stack_check(fuzz->stack[host]);
        fuzz->starved = fuzz->starved || fuzz->stack[host]->counters.no_memory > fuzz->refused[host];
        if (wrong)
            fprintf(stderr, "%s\n", wrong);
        FUZZ_ASSERT(!wrong && stack_deadline(fuzz->stack[host]) > fuzz->now);
    }
}

/* Carries all that is under way. */
static void carry(struct fuzz *fuzz)
{
    for (int round = 0; fuzz->links[CLIENT].count || fuzz->links[SERVER].count; round++) {
        FUZZ_ASSERT(round < 100000);
        for (int from = 0; from < HOSTS; from++)
            for (int n = fuzz->links[from].count; n > 0; n--)
                deliver(fuzz, from, link_take(&fuzz->links[from], 0));
        settle(fuzz);
    }
}

/* Lets time pass until `end`, deadline by deadline. */
static void run_until(struct fuzz *fuzz, uint64_t end)
{
    for (;;) {
        settle(fuzz);
        if (fuzz->healed)
            carry(fuzz);
        uint64_t next = ams_min_u64(stack_deadline(fuzz->stack[CLIENT]), stack_deadline(fuzz->stack[SERVER]));
        if (next >= end)
            break;
        fuzz->now = ams_max_u64(next, fuzz->now + 1);
    }
    fuzz->now = end;
    settle(fuzz);
}

#endif
