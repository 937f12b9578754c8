/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_super.c - chains of slots and super-frames; fabric_super.h tells how.
 */
#include "io/fabric_super.h"

#include <string.h>

#include "core/status.h"
#include "io/fabric.h"
#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/proto.h"

#define TCP_SEQUENCE 4u          /* offsets in a TCP header */
#define TCP_FLAGS 13u
#define TCP_CHECKSUM 16u
#define TCP_FIRST_ONLY 0x80u     /* CWR: of the first segment alone (RFC 3168 section 6.1.2) */
#define TCP_LAST_ONLY 0x09u      /* FIN, PSH: of the last one alone */

_Static_assert(SUPER_PIECES >= SUPER_SLOTS, "a chain of the greatest length fits");
_Static_assert(SUPER_SLOTS * (uint64_t)RING_BUFFER_MIN >= PORT_FRAME_MAX, "the longest super-frame fits a chain");

/* A super-frame, wherever it came from. */
struct super {
    struct ams_tx tx;            /* its description; head is the first part */
    const struct super_piece *parts;
    uint32_t segments;
};

/* A place in a frame. */
struct super_cursor {
    const struct super_piece *part;
    uint32_t offset;
};

/* ---- pieces -------------------------------------------------------------------------- */

static void cursor_skip(struct super_cursor *cursor, uint32_t n)
{
    while (n >= cursor->part->length - cursor->offset && n) {
        n -= cursor->part->length - cursor->offset;
        cursor->part++;
        cursor->offset = 0;
    }
    cursor->offset += n;
}

/* Copies the next n bytes out.  There are as many. */
static void cursor_copy(struct super_cursor *cursor, uint8_t *out, uint32_t n)
{
    while (n) {
        uint32_t part = ams_min_u32(n, cursor->part->length - cursor->offset);
        memcpy(out, cursor->part->data + cursor->offset, part);
        out += part;
        n -= part;
        cursor->offset += part;
        if (cursor->offset == cursor->part->length) {
            cursor->part++;
            cursor->offset = 0;
        }
    }
}

void super_gather(const struct super_piece *pieces, uint8_t *out, uint32_t length)
{
    struct super_cursor cursor = {pieces, 0};

    cursor_copy(&cursor, out, length);
}

/* Checks one slot of a chain.  Return: its buffer; NULL with *reason set. */
static const uint8_t *chain_slot(const struct ring *tx, const struct ring_item *item, uint16_t *reason)
{
    const uint8_t *data = ring_buffer(tx, item->buf_idx);

    if (data && item->len <= tx->buf_size && !(item->flags & RING_INDIRECT))
        return data;
    *reason = !data ? FABRIC_IN_SLOT : item->len > tx->buf_size ? FABRIC_IN_LENGTH : FABRIC_IN_CHAIN;
    return NULL;
}

uint32_t super_read(struct ring *tx, uint32_t left, struct super_piece *pieces, uint32_t *used,
                    struct super_chain *chain, uint16_t *reason)
{
    const struct ring_slot *slot = &tx->slots[tx->next];
    uint16_t wrong = 0; /* no reason is 0: that counts frames */
    uint32_t slots = 0;
    struct ring_item item;

    memset(chain, 0, sizeof(*chain));
    chain->first = (uint16_t)*used;
    do {
        item = ring_load(&tx->slots[tx->next]);
        tx->next = ring_after(tx, tx->next);
        if (slots == 0 && item.flags & RING_SUPER)
            chain->size = ring_super_size(slot);
        const uint8_t *data = wrong ? NULL : chain_slot(tx, &item, &wrong);
        if (data && slots < SUPER_SLOTS) {
            pieces[*used + slots] = (struct super_piece){data, item.len};
            chain->total += item.len;
        }
        slots++;
    } while (item.flags & RING_MOREFRAG && slots < left);
    if (!wrong && (item.flags & RING_MOREFRAG || slots > SUPER_SLOTS || chain->total > PORT_FRAME_MAX))
        wrong = FABRIC_IN_CHAIN;
    *reason = wrong;
    if (wrong)
        return slots;
    chain->n = (uint16_t)slots;
    *used += slots;
    return slots;
}

/* ---- what it is ----------------------------------------------------------------------- */

/* Fills in the description of a super-frame from its headers.
 * @head_len: bytes that can be read, all of the frame or at least SWITCH_HEAD
 * Return: false if it isn't TCP in the common shape: nobody makes such ones. */
static bool super_describe(struct super *super, uint8_t *head, uint32_t head_len, uint32_t total, uint16_t size)
{
    struct ams_tx *tx = &super->tx;
    struct packet packet;

    memset(tx, 0, offsetof(struct ams_tx, frags));
    tx->head = head;
    tx->head_len = head_len;
    tx->total = total;
    tx->gso_size = size;
    tx->n_frags = total > head_len;
    tx->frags[0] = (struct ams_tx_frag){NULL, total - head_len}; /* only its length counts */
    if (!packet_fast(head, head_len, total, &packet) || packet.protocol != PROTO_TCP || !size)
        return false;
    tx->csum_start = (uint16_t)packet.l4;
    tx->csum_offset = TCP_CHECKSUM;
    tx->gso_hdr_len = (uint16_t)(packet.l4 + packet.l4_hlen);
    tx->flags = (uint16_t)(TX_CSUM | (packet.family == AMS_IPV4 ? TX_GSO4 : TX_GSO6));
    if (tx->gso_hdr_len > head_len || tx->gso_hdr_len >= total)
        return false;
    super->segments = (total - tx->gso_hdr_len + size - 1) / size;
    return true;
}

/* Shows a super-frame to those who capture. */
static void super_tap(struct ams_fabric *fabric, uint16_t index, bool outgoing, int reason, const struct super *super)
{
    struct ams_frame *frame;

    if (!fabric->capturing)
        return;
    frame = frame_new(&fabric->pool, port_frame_class(super->tx.total));
    if (!frame)
        return;
    super_gather(super->parts, frame->data, super->tx.total);
    fabric_tap(fabric, index, outgoing, reason, frame->data, super->tx.total, NULL, super->tx.total);
    frame_free(frame);
}

/* ---- cutting ------------------------------------------------------------------------------ */

/* Makes a segment's headers right; its payload is in place.
 * @number: of the segment; @offset, @length: of its payload in the super-frame */
static void segment_finish(uint8_t *out, const struct super *super, uint32_t number, uint32_t offset, uint32_t length)
{
    uint32_t l4 = super->tx.csum_start, end = super->tx.gso_hdr_len + length;
    uint8_t *ip = out + ETH_HEADER, *tcp = out + l4;
    uint8_t src[16], dst[16];

    if (super->tx.flags & TX_GSO4) {
        store_be16(ip + 2, end - ETH_HEADER);
        store_be16(ip + 4, load_be16(ip + 4) + number); /* RFC 6864: of no account where it isn't fragmented */
        store_be16(ip + 10, 0);
        store_be16(ip + 10, checksum_finish(checksum_add(0, ip, IP4_HEADER)));
        ip_map4(src, ip + 12);
        ip_map4(dst, ip + 16);
    } else {
        store_be16(ip + 4, end - ETH_HEADER - IP6_HEADER);
        memcpy(src, ip + 8, 16);
        memcpy(dst, ip + 24, 16);
    }
    store_be32(tcp + TCP_SEQUENCE, load_be32(tcp + TCP_SEQUENCE) + offset);
    if (number)
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_FIRST_ONLY;
    if (number + 1 < super->segments)
        tcp[TCP_FLAGS] &= (uint8_t)~TCP_LAST_ONLY;
    store_be16(tcp + TCP_CHECKSUM, 0);
    uint64_t sum = checksum_add(checksum_pseudo(src, dst, PROTO_TCP, end - l4), tcp, end - l4);
    store_be16(tcp + TCP_CHECKSUM, checksum_finish(sum));
}

/* Writes a segment to fabric->segment.
 * @cursor: at its payload, which is taken
 * Return: its length. */
static uint32_t segment_make(struct ams_fabric *fabric, const struct super *super, struct super_cursor *cursor,
                             uint32_t number)
{
    uint32_t header = super->tx.gso_hdr_len, offset = number * super->tx.gso_size;
    uint32_t length = ams_min_u32(super->tx.gso_size, super->tx.total - header - offset);

    memcpy(fabric->segment, super->tx.head, header);
    cursor_copy(cursor, fabric->segment + header, length);
    segment_finish(fabric->segment, super, number, offset, length);
    return header + length;
}

/* Cuts a super-frame, and sends its segments to a client or into a wire. */
static void super_cut(struct ams_fabric *fabric, struct fabric_port *from, const struct super *super,
                      struct fabric_port *to, struct fabric_wire *wire)
{
    struct super_cursor cursor = {super->parts, 0};

    fabric_count(to ? to : fabric->ports[wire->index], FABRIC_OUT_CUT, 1);
    cursor_skip(&cursor, super->tx.gso_hdr_len);
    for (uint32_t number = 0; number < super->segments; number++) {
        uint32_t length = segment_make(fabric, super, &cursor, number);
        if (to)
            fabric_deliver(fabric, to, fabric->segment, length, RING_CSUM_OK);
        else
            fabric_wire_put(fabric, wire, from, fabric->segment, length, NULL, length);
    }
}

/* Gives the first segment to whoever answers for a tuple that nobody has: one
 * answer (RFC 9293 section 3.5.2) is enough. */
static void super_to_control(struct ams_fabric *fabric, struct fabric_port *from, const struct super *super)
{
    struct super_cursor cursor = {super->parts, 0};

    cursor_skip(&cursor, super->tx.gso_hdr_len);
    uint32_t length = segment_make(fabric, super, &cursor, 0);
    fabric_control(fabric, from, fabric->segment, length);
}

/* ---- delivering ----------------------------------------------------------------------------- */

bool super_wanted(const struct fabric_port *to)
{
    return __atomic_load_n(&to->rx.shared->flags, __ATOMIC_RELAXED) & RING_TAKES_SUPER &&
           ring_fits_super(&to->rx, PORT_FRAME_MAX);
}

/* Copies a super-frame into as many of a client's slots as it takes.
 * Return: false with *reason set if it could not be; the ring is as before. */
static bool super_put(struct fabric_port *to, const struct super *super, enum fabric_counter *reason)
{
    struct ring *rx = &to->rx;
    uint32_t left = super->tx.total, slots = ring_slots_for(rx, left), start = rx->next;
    struct super_cursor cursor = {super->parts, 0};
    struct ring_item item;

    if (ring_avail(rx) < slots && ring_device_room(rx) < slots) {
        *reason = FABRIC_OUT_FULL;
        return false;
    }
    ring_note_super(&rx->slots[start], super->tx.gso_size);
    for (uint16_t flags = RING_SUPER | RING_CSUM_OK; slots; slots--, flags = 0) {
        uint8_t *buffer = ring_peek(rx, &item);
        if (!buffer) {
            rx->next = start;
            *reason = FABRIC_OUT_SLOT;
            return false;
        }
        uint32_t length = ams_min_u32(left, rx->buf_size);
        cursor_copy(&cursor, buffer, length);
        left -= length;
        ring_insert(rx, item, length, flags | (slots > 1 ? RING_MOREFRAG : 0));
    }
    return true;
}

/* Gives a super-frame to a client: whole if it takes them, in segments if not. */
static void super_to_client(struct ams_fabric *fabric, struct fabric_port *from, const struct super *super,
                            struct fabric_port *to)
{
    enum fabric_counter reason;

    if (!super_wanted(to)) {
        super_cut(fabric, from, super, to, NULL);
        return;
    }
    bool put = super_put(to, super, &reason);
    if (put) {
        fabric_count(to, FABRIC_OUT_FRAMES, 1);
        fabric_count(to, FABRIC_OUT_BYTES, super->tx.total);
        fabric_count(to, FABRIC_OUT_SUPER, 1);
        fabric_filled(fabric, to, ring_slots_for(&to->rx, super->tx.total));
    } else {
        fabric_count(to, reason, 1);
    }
    super_tap(fabric, to->index, true, put ? FABRIC_NO_REASON : (int)reason, super);
}

/* Sends a super-frame into a wire, whole if its driver segments. */
static void super_to_wire(struct ams_fabric *fabric, struct fabric_port *from, const struct super *super,
                          struct fabric_wire *wire)
{
    uint32_t cap = super->tx.flags & TX_GSO4 ? AMS_CAP_TSO4 : AMS_CAP_TSO6;

    if (!(wire->port->info.caps & cap) || super->tx.gso_hdr_len + super->tx.gso_size > wire->port->info.mtu + ETH_HEADER) {
        super_cut(fabric, from, super, NULL, wire);
        return;
    }
    struct ams_frame *frame = frame_new(&fabric->pool, port_frame_class(super->tx.total));
    if (!frame) {
        fabric_count(from, FABRIC_NO_MEMORY, 1);
        return;
    }
    super_gather(super->parts, frame->data, super->tx.total);
    frame->len = super->tx.total;
    frame->flags = FRAME_GSO | FRAME_CSUM_PARTIAL;
    frame->gso_size = super->tx.gso_size;
    fabric_count(fabric->ports[wire->index], FABRIC_OUT_SUPER, 1);
    fabric_wire_add(fabric, wire, frame);
}

/* ---- from where ------------------------------------------------------------------------------ */

static void super_drop(struct ams_fabric *fabric, struct fabric_port *from, int reason, const struct super *super)
{
    from->counters[reason]++;
    super_tap(fabric, from->index, false, reason, super);
}

void super_forward(struct ams_fabric *fabric, struct fabric_port *from, const struct super_chain *chain)
{
    const struct super_piece *pieces = &fabric->batch.pieces[chain->first];
    struct super_piece parts[SUPER_SLOTS + 1];
    struct super super = {.parts = parts};
    struct super_cursor rest = {pieces, 0};
    uint32_t head = ams_min_u32(chain->total, SWITCH_HEAD), n = 1;
    int32_t target;

    cursor_copy(&rest, fabric->scratch, head); /* what is judged is ours from here on */
    parts[0] = (struct super_piece){fabric->scratch, head};
    for (; rest.part < pieces + chain->n; rest.part++, rest.offset = 0)
        parts[n++] = (struct super_piece){rest.part->data + rest.offset, rest.part->length - rest.offset};
    bool known = super_describe(&super, fabric->scratch, head, chain->total, chain->size);
    if (!known || super.segments > SUPER_SEGMENTS) {
        super_drop(fabric, from, FABRIC_OWN_COUNTERS + SWITCH_TX_OFFLOAD, &super);
        return;
    }
    enum switch_counter verdict = switch_forward_tx(&fabric->sw, from->index, &super.tx, &target, fabric->now);
    if (verdict != SWITCH_PASSED) {
        super_drop(fabric, from, FABRIC_OWN_COUNTERS + (int)verdict, &super);
        return;
    }
    from->counters[FABRIC_OWN_COUNTERS + SWITCH_PASSED]++;
    super_tap(fabric, from->index, false, FABRIC_NO_REASON, &super);
    if (target >= 0) {
        super_to_client(fabric, from, &super, fabric->ports[target]);
        return;
    }
    if (target == SWITCH_TO_CONTROL || target == SWITCH_TO_HOST) { /* as path_dispatch() */
        super_to_control(fabric, from, &super);
        return;
    }
    struct fabric_wire *wire = target == SWITCH_TO_WIRE ? fabric_wire_to(fabric, super.tx.head, from->index) : NULL;
    if (wire)
        super_to_wire(fabric, from, &super, wire);
    else /* a group address has no use for TCP */
        fabric_count(from, FABRIC_NOWHERE, 1);
}

void super_from_wire(struct ams_fabric *fabric, struct fabric_port *from, const struct ams_frame *frame,
                     struct fabric_port *to, struct fabric_wire *wire)
{
    struct super_piece part = {frame->data, frame->len};
    struct super super = {.parts = &part};

    if (!super_describe(&super, frame->data, frame->len, frame->len, frame->gso_size))
        fabric_count(from, FABRIC_IN_CHAIN, 1);
    else if (super.tx.gso_hdr_len + super.tx.gso_size > fabric->mtu + ETH_HEADER)
        fabric_count(to ? to : fabric->ports[wire ? wire->index : AMS_FABRIC_CONTROL], FABRIC_OUT_LENGTH, 1);
    else if (to)
        super_to_client(fabric, from, &super, to);
    else if (wire)
        super_to_wire(fabric, from, &super, wire);
    else
        super_to_control(fabric, from, &super);
}
