/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_wire.c - uplink, host, and who answers for the addresses.
 *
 * Theory of operation.  A *wire* is a port driver: the uplink to the network,
 * or the host port to the operating system's stack.  What a client sends to a
 * station that isn't ours goes to the host if that is its address, else to
 * the uplink, else to the host.  A frame for a group address goes to all of
 * them, but not back to where it came from.
 *
 * What arrives from a wire goes to the owner of its destination tuple.  What
 * is for the addresses themselves (ARP, NDP, ICMP), or for a tuple that nobody
 * owns, goes to whoever answers for them: a client that attached as control
 * owner, or else the control plane.  Nobody else speaks ARP or NDP for them:
 * what the host says about an address of ours is dropped.
 *
 * Drivers that segment and fill in checksums are used so.  What arrives from
 * them may be a super-frame (fabric_super.h), or lack its checksum, which is
 * filled in for all who would miss it.
 *
 * The host has one of three places:
 *
 *   a station of its own   it has addresses and a MAC address of its own, and
 *                          answers for them; uplink and host see each other's
 *                          frames to groups and to stations that aren't ours
 *   AMS_FABRIC_HOST_APART  the same, but nothing passes between uplink and
 *                          host: the system is on the uplink by itself, and
 *                          what it said there would contradict what we relay
 *   AMS_FABRIC_HOST_SHARES it has our addresses and our MAC address.  It gets
 *                          what nobody claimed, and ICMP; as clients do, it
 *                          asks the control plane for its next hops.  Clients'
 *                          frames don't reach it: it would take them for its
 *                          own, come back.
 */
#define _GNU_SOURCE

#include <string.h>

#include "core/status.h"
#include "io/fabric.h"
#include "io/link_mark.h"
#include "wire/bytes.h"
#include "wire/proto.h"

/* ---- opening ------------------------------------------------------------------------- */

int fabric_wire_open(struct ams_fabric *fabric, struct fabric_wire *wire, uint16_t index,
                     const struct ams_port_config *config, struct port_error *error)
{
    int status = port_open(&wire->port, config, &fabric->pool, error);

    if (status) {
        wire->port = NULL;
        return status;
    }
    wire->index = index;
    memcpy(wire->mac, wire->port->info.mac, 6);
    wire->hot = true;
    return 0;
}

/* Frees the frames of a batch that was sent, or can't be. */
static void wire_forget(struct fabric_wire *wire)
{
    for (int i = 0; i < wire->n; i++)
        frame_free(wire->tx[i].owned);
    wire->n = 0;
}

void fabric_wire_close(struct fabric_wire *wire)
{
    if (!wire->port)
        return;
    wire_forget(wire);
    ams_port_close(wire->port);
    wire->port = NULL;
}

/* ---- sending ---------------------------------------------------------------------------- */

/* Sends the batch; what finds no room is dropped. */
static void wire_send(struct ams_fabric *fabric, struct fabric_wire *wire)
{
    const struct port_ops *ops = wire->port->ops;
    struct fabric_port *port = fabric->ports[wire->index];
    int room = wire->broken ? 0 : ops->room(wire->port), n = wire->n;
    uint64_t bytes = 0;

    if (!n)
        return;
    if (room < n && !wire->broken) {
        ops->flush(wire->port, fabric->now);
        room = ops->room(wire->port);
    }
    if (room < n) {
        fabric_count(port, wire->broken ? FABRIC_OUT_BROKEN : FABRIC_OUT_FULL, (uint64_t)(n - room));
        n = room;
    }
    for (int i = 0; i < n; i++)
        bytes += wire->tx[i].total;
    if (n)
        ops->tx(wire->port, wire->tx, n, fabric->now);
    fabric_count(port, FABRIC_OUT_FRAMES, (uint64_t)n);
    fabric_count(port, FABRIC_OUT_BYTES, bytes);
    wire_forget(wire);
}

void fabric_wire_flush(struct ams_fabric *fabric, struct fabric_wire *wire)
{
    if (!wire->port)
        return;
    wire_send(fabric, wire);
    if (!wire->broken)
        wire->port->ops->flush(wire->port, fabric->now);
}

/* Tells the driver what it has to finish of a super-frame. */
static void wire_describe(struct ams_tx *tx, const struct ams_frame *frame)
{
    struct packet packet;

    if (!(frame->flags & FRAME_GSO) || !packet_fast(frame->data, frame->len, frame->len, &packet))
        return;
    tx->flags = (uint16_t)(TX_CSUM | (packet.family == AMS_IPV4 ? TX_GSO4 : TX_GSO6));
    tx->csum_start = (uint16_t)packet.l4;
    tx->csum_offset = 16; /* TCP's */
    tx->gso_size = frame->gso_size;
    tx->gso_hdr_len = (uint16_t)(packet.l4 + packet.l4_hlen);
}

void fabric_wire_add(struct ams_fabric *fabric, struct fabric_wire *wire, struct ams_frame *frame)
{
    if (wire->n == PORT_BURST)
        wire_send(fabric, wire);
    struct ams_tx *tx = &wire->tx[wire->n++];
    memset(tx, 0, offsetof(struct ams_tx, frags));
    tx->head = frame->data;
    tx->head_len = tx->total = frame->len;
    tx->owned = frame;
    wire_describe(tx, frame);
    if (fabric->capturing)
        fabric_tap(fabric, wire->index, true, FABRIC_NO_REASON, frame->data, frame->len, NULL, frame->len);
}

bool fabric_wire_put(struct ams_fabric *fabric, struct fabric_wire *wire, struct fabric_port *from,
                     const uint8_t *head, uint32_t head_length, const uint8_t *rest, uint32_t length)
{
    if (length > wire->port->info.mtu + ETH_HEADER) {
        fabric_count(fabric->ports[wire->index], FABRIC_OUT_LENGTH, 1);
        return false;
    }
    struct ams_frame *frame = frame_new(&fabric->pool, port_frame_class(length));
    if (!frame) {
        fabric_count(from, FABRIC_NO_MEMORY, 1);
        return false;
    }
    memcpy(frame->data, head, head_length);
    if (length > head_length)
        memcpy(frame->data + head_length, rest, length - head_length);
    frame->len = length;
    fabric_wire_add(fabric, wire, frame);
    return true;
}

/* True if the host has our addresses, too. */
static bool wire_shares(const struct ams_fabric *fabric)
{
    return fabric->host.port && fabric->flags & AMS_FABRIC_HOST_SHARES;
}

/* True if frames may pass from a port to a wire. */
static bool wire_open(const struct ams_fabric *fabric, uint16_t from, const struct fabric_wire *wire)
{
    if (!wire->port || from == wire->index)
        return false;
    if (from == AMS_FABRIC_UPLINK || from == AMS_FABRIC_HOST)
        return !(fabric->flags & AMS_FABRIC_HOST_APART);
    return wire->index == AMS_FABRIC_UPLINK || !wire_shares(fabric);
}

struct fabric_wire *fabric_wire_to(struct ams_fabric *fabric, const uint8_t *mac, uint16_t from)
{
    struct fabric_wire *uplink = &fabric->uplink, *host = &fabric->host;

    if (wire_open(fabric, from, host) && (!uplink->port || memcmp(mac, host->mac, 6) == 0))
        return host;
    return wire_open(fabric, from, uplink) ? uplink : NULL;
}

/* ---- who answers ---------------------------------------------------------------------------- */

void fabric_punt(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length)
{
    struct ams_fabric_frame info = {.time = fabric->now, .index = from->index, .reason = FABRIC_NO_REASON,
                                    .length = length};
    bool taken = fabric_queue_put(&fabric->punts, &info, data, length, NULL);

    fabric_count(from, taken ? FABRIC_PUNTED : FABRIC_PUNT_FULL, 1);
    if (fabric->capturing)
        fabric_tap(fabric, AMS_FABRIC_CONTROL, true, taken ? FABRIC_NO_REASON : (int)FABRIC_PUNT_FULL, data, length,
                   NULL, length);
}

void fabric_control(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length)
{
    uint16_t owner = fabric->sw.control;

    if (wire_shares(fabric) && from->index == AMS_FABRIC_UPLINK && !switch_neighbor(&fabric->sw, data, length))
        fabric_wire_put(fabric, &fabric->host, from, data, length, NULL, length);
    else if (owner != AMS_FABRIC_CONTROL && owner != from->index)
        fabric_deliver(fabric, fabric->ports[owner], data, length, 0);
    else
        fabric_punt(fabric, from, data, length);
}

/* Copies a frame for a group address to the wires that it may reach. */
static void wire_copies(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length)
{
    struct fabric_wire *const wires[] = {&fabric->uplink, &fabric->host};

    for (size_t i = 0; i < AMS_ARRAY_SIZE(wires); i++) {
        if (wire_open(fabric, from->index, wires[i]))
            fabric_wire_put(fabric, wires[i], from, data, length, NULL, length);
    }
}

void fabric_flood(struct ams_fabric *fabric, struct fabric_port *from, const uint8_t *data, uint32_t length)
{
    int32_t local = switch_group_receiver(&fabric->sw, data, length, fabric->now);

    wire_copies(fabric, from, data, length);
    if (local >= 0 && local != from->index)
        fabric_deliver(fabric, fabric->ports[local], data, length, 0);
}

/* ---- receiving --------------------------------------------------------------------------------- */

/* Looks whether the host speaks for an address of ours.
 * @neighbor: what switch_neighbor() says of the frame
 * Return: the counter by which it is dropped, or FABRIC_NO_REASON. */
static int wire_refused(const struct ams_fabric *fabric, const struct fabric_wire *wire,
                        const struct ams_frame *frame, uint32_t neighbor)
{
    if (wire->index != AMS_FABRIC_HOST || !(neighbor & SWITCH_NEIGHBOR_POSES) ||
        (wire_shares(fabric) && neighbor & SWITCH_NEIGHBOR_ASKS))
        return FABRIC_NO_REASON;
    return FABRIC_OWN_COUNTERS + (load_be16(frame->data + 12) == ETHERTYPE_ARP ? SWITCH_TX_ARP : SWITCH_TX_NDP);
}

/* The wire that a frame from a wire leaves by: it is for a station that isn't
 * ours, or for the host.  Return: NULL if there is none; it is counted. */
static struct fabric_wire *wire_out(struct ams_fabric *fabric, struct fabric_wire *wire, const struct ams_frame *frame,
                                    int32_t target)
{
    struct fabric_port *from = fabric->ports[wire->index];
    struct fabric_wire *out = target == SWITCH_TO_HOST ? &fabric->host
                                                       : fabric_wire_to(fabric, frame->data, wire->index);

    if (!out || !wire_open(fabric, wire->index, out)) {
        fabric_count(from, FABRIC_NOWHERE, 1);
        return NULL;
    }
    if (frame->len > out->port->info.mtu + ETH_HEADER && !(frame->flags & FRAME_GSO)) {
        fabric_count(fabric->ports[out->index], FABRIC_OUT_LENGTH, 1);
        return NULL;
    }
    return out;
}

/* A frame from a wire that isn't a client's.
 * Return: true if it was given away and must not be freed. */
static bool wire_elsewhere(struct ams_fabric *fabric, struct fabric_wire *wire, struct ams_frame *frame,
                           int32_t target, uint32_t neighbor)
{
    struct fabric_port *from = fabric->ports[wire->index];
    bool group = frame->data[0] & 1;

    if (wire->index == AMS_FABRIC_HOST) {
        if (wire_shares(fabric) && neighbor & SWITCH_NEIGHBOR_ASKS) {
            fabric_punt(fabric, from, frame->data, frame->len);
            return false;
        }
        if (target == SWITCH_TO_HOST) /* for the network, or for a tuple of ours that nobody has */
            target = memcmp(frame->data, fabric->sw.mac, 6) == 0 ? SWITCH_TO_CONTROL : SWITCH_TO_WIRE;
    }
    if (neighbor & SWITCH_NEIGHBOR_OURS) /* whatever station it was sent to */
        target = SWITCH_TO_CONTROL;
    if (target == SWITCH_TO_CONTROL) {
        /* What a host that shares our address gets of a group's frames, it has got. */
        if (frame->flags & FRAME_GSO)
            super_from_wire(fabric, from, frame, NULL, NULL);
        else if (!group || neighbor || !wire_shares(fabric))
            fabric_control(fabric, from, frame->data, frame->len);
        return false;
    }
    struct fabric_wire *out = group ? NULL : wire_out(fabric, wire, frame, target);
    if (out && frame->flags & FRAME_GSO) {
        super_from_wire(fabric, from, frame, NULL, out);
        return false;
    }
    if (out)
        fabric_wire_add(fabric, out, frame);
    return out != NULL;
}

/* A frame from a wire that is a client's. */
static void wire_deliver(struct ams_fabric *fabric, struct fabric_port *from, struct ams_frame *frame,
                         struct fabric_port *to)
{
    if (frame->flags & FRAME_GSO) {
        super_from_wire(fabric, from, frame, to, NULL);
        return;
    }
    if (frame->flags & FRAME_CSUM_PARTIAL && !super_wanted(to)) /* its stack may go by the checksum alone */
        link_finish(frame->data, frame->len);
    fabric_deliver(fabric, to, frame->data, frame->len, frame->flags & FRAME_CSUM_OK ? RING_CSUM_OK : 0);
}

/* Sends one received frame on. */
static void wire_dispatch(struct ams_fabric *fabric, struct fabric_wire *wire, struct ams_frame *frame, int32_t target,
                          int reason)
{
    struct fabric_port *from = fabric->ports[wire->index];
    uint32_t neighbor = target < 0 ? switch_neighbor(&fabric->sw, frame->data, frame->len) : 0;
    int refused = wire_refused(fabric, wire, frame, neighbor);

    if (refused >= 0) {
        target = SWITCH_TO_NOBODY;
        reason = refused;
    }
    if (fabric->capturing)
        fabric_tap(fabric, wire->index, false, reason, frame->data, frame->len, NULL, frame->len);
    if (wire->index == AMS_FABRIC_HOST && frame->len >= ETH_HEADER && !(frame->data[6] & 1) &&
        memcmp(frame->data + 6, fabric->sw.mac, 6) != 0)
        memcpy(wire->mac, frame->data + 6, 6);
    bool group = frame->len >= ETH_HEADER && frame->data[0] & 1;
    if ((frame->flags & (FRAME_CSUM_PARTIAL | FRAME_GSO)) == FRAME_CSUM_PARTIAL && (group || target < 0))
        link_finish(frame->data, frame->len);
    /* Who asks for us gets no other answer than ours. */
    if (group && !(neighbor & SWITCH_NEIGHBOR_OURS) && refused < 0 &&
        !(wire->index == AMS_FABRIC_HOST && wire_shares(fabric) && neighbor & SWITCH_NEIGHBOR_ASKS))
        wire_copies(fabric, from, frame->data, frame->len);
    if (target >= 0) {
        wire_deliver(fabric, from, frame, fabric->ports[target]);
    } else if (target != SWITCH_TO_NOBODY) {
        if (wire_elsewhere(fabric, wire, frame, target, neighbor))
            return;
    } else {
        from->counters[reason]++;
    }
    frame_free(frame);
}

uint32_t fabric_wire_pull(struct ams_fabric *fabric, struct fabric_wire *wire)
{
    struct fabric_port *from = fabric->ports[wire->index];
    struct ams_frame *frames[PORT_BURST];
    int32_t targets[PORT_BURST];
    uint8_t reasons[PORT_BURST];
    uint64_t bytes = 0;

    if (!wire->port || wire->broken)
        return 0;
    int n = wire->port->ops->rx(wire->port, frames, PORT_BURST, fabric->now);
    wire->hot = n == PORT_BURST;
    if (n < 0) {
        wire->broken = n;
        wire_forget(wire);
        return 0;
    }
    if (!n)
        return 0;
    switch_rx_reasons(&fabric->sw, frames, n, targets, reasons, fabric->now);
    for (int i = 0; i < n; i++)
        bytes += frames[i]->len;
    fabric_count(from, FABRIC_IN_FRAMES, (uint64_t)n);
    fabric_count(from, FABRIC_IN_BYTES, bytes);
    for (int i = 0; i < n; i++)
        wire_dispatch(fabric, wire, frames[i], targets[i],
                      targets[i] == SWITCH_TO_NOBODY ? FABRIC_OWN_COUNTERS + reasons[i] : FABRIC_NO_REASON);
    return (uint32_t)n;
}
