/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_list.c - what the control plane sees of the fabric: tuples, ports,
 * counters, and frames by hand; carried out on the data thread as what
 * fabric_port.c does.
 */
#include <string.h>

#include "core/status.h"
#include "io/fabric.h"
#include "wire/proto.h"

struct counter_row {
    const char *name;
    const char *text;
    int drop;
};

static const struct counter_row counter_rows[FABRIC_OWN_COUNTERS] = {
#define FABRIC_COUNTER_ROW(NAME, name, text, drop) {name, text, drop},
    FABRIC_COUNTER_TABLE(FABRIC_COUNTER_ROW)
#undef FABRIC_COUNTER_ROW
};

/* ---- listings ------------------------------------------------------------------------------------ */

struct list_args {
    void *out;
    int max;
    int index;
};

static int tuples_run(struct ams_fabric *fabric, void *args)
{
    const struct list_args *list = args;
    struct ams_fabric_tuple *out = list->out;
    const struct ams_switch *sw = &fabric->sw;
    int n = 0;

    for (uint32_t i = 0; i <= sw->tuples.mask; i++) {
        const struct tuple_slot *slot = &sw->tuples.slots[i];
        if (!slot->refs)
            continue;
        struct ams_fabric_tuple tuple = {.local = fabric_slot_local(slot), .protocol = slot->tuple.protocol,
                                         .group = slot->group != 0, .index = slot->owner, .claims = slot->refs};
        const struct switch_group *group = slot->group ? group_get(&sw->groups, slot->group) : NULL;
        for (uint32_t member = 0; member < (group ? group->n : 1); member++, n++) {
            if (group) {
                tuple.index = group->members[member].port;
                tuple.claims = group->members[member].refs;
            }
            if (n < list->max)
                out[n] = tuple;
        }
    }
    return n;
}

int ams_fabric_tuples(struct ams_fabric *fabric, struct ams_fabric_tuple *out, int max)
{
    struct list_args args = {.out = out, .max = max};

    return fabric_call(fabric, tuples_run, &args);
}

static int ports_run(struct ams_fabric *fabric, void *args)
{
    const struct list_args *list = args;
    int *out = list->out, n = 0;

    for (uint32_t i = 0; i < fabric->n_ports; i++) {
        if (!fabric->ports[i] || (i == AMS_FABRIC_UPLINK && !fabric->uplink.port) ||
            (i == AMS_FABRIC_HOST && !fabric->host.port))
            continue;
        if (n < list->max)
            out[n] = (int)i;
        n++;
    }
    return n;
}

int ams_fabric_ports(struct ams_fabric *fabric, int *out, int max)
{
    struct list_args args = {.out = out, .max = max};

    return fabric_call(fabric, ports_run, &args);
}

static int info_run(struct ams_fabric *fabric, void *args)
{
    const struct list_args *list = args;
    struct ams_port_info *info = list->out;
    const struct fabric_wire *wire = list->index == AMS_FABRIC_UPLINK ? &fabric->uplink
                                     : list->index == AMS_FABRIC_HOST ? &fabric->host : NULL;

    memset(info, 0, sizeof(*info));
    if (wire && wire->port) {
        ams_port_info(wire->port, info);
        return wire->broken;
    }
    const struct fabric_port *port = list->index == AMS_FABRIC_CONTROL ? fabric->ports[0]
                                                                       : fabric_client(fabric, list->index);
    if (!port)
        return -AMS_EINVAL;
    info->mtu = fabric->mtu;
    info->fd = -1;
    memcpy(info->mac, fabric->sw.mac, 6);
    info->rx_frames = port->counters[FABRIC_OUT_FRAMES];
    info->rx_bytes = port->counters[FABRIC_OUT_BYTES];
    info->tx_frames = port->counters[FABRIC_IN_FRAMES];
    info->tx_bytes = port->counters[FABRIC_IN_BYTES];
    for (int i = 0; i < FABRIC_COUNTERS; i++) {
        if (ams_fabric_counter_drop(i) && i >= FABRIC_OUT_FULL && i <= FABRIC_OUT_BROKEN)
            info->rx_dropped += port->counters[i];
        else if (ams_fabric_counter_drop(i))
            info->tx_dropped += port->counters[i];
    }
    return 0;
}

int ams_fabric_port_info(struct ams_fabric *fabric, int index, struct ams_port_info *info)
{
    struct list_args args = {.out = info, .index = index};

    return fabric_call(fabric, info_run, &args);
}

static int counters_run(struct ams_fabric *fabric, void *args)
{
    const struct list_args *list = args;
    uint64_t *values = list->out;

    if (list->index >= (int)fabric->n_ports || (list->index >= 0 && !fabric->ports[list->index]))
        return -AMS_EINVAL;
    for (int i = 0; i < FABRIC_COUNTERS && i < list->max; i++) {
        uint64_t sum = list->index < 0 ? fabric->retired[i] : 0;
        for (uint32_t index = 0; index < fabric->n_ports; index++) {
            if (fabric->ports[index] && (list->index < 0 || (uint32_t)list->index == index))
                sum += fabric->ports[index]->counters[i];
        }
        values[i] = sum;
    }
    return FABRIC_COUNTERS;
}

int ams_fabric_counters(struct ams_fabric *fabric, int index, uint64_t *values, int max)
{
    struct list_args args = {.out = values, .max = max, .index = index};

    return fabric_call(fabric, counters_run, &args);
}

const char *ams_fabric_counter_name(int index)
{
    if (index >= 0 && index < FABRIC_OWN_COUNTERS)
        return counter_rows[index].name;
    return index < 0 ? NULL : ams_switch_counter_name(index - FABRIC_OWN_COUNTERS);
}

const char *ams_fabric_counter_text(int index)
{
    if (index >= 0 && index < FABRIC_OWN_COUNTERS)
        return counter_rows[index].text;
    return index < 0 ? NULL : ams_switch_counter_text(index - FABRIC_OWN_COUNTERS);
}

int ams_fabric_counter_drop(int index)
{
    if (index >= 0 && index < FABRIC_OWN_COUNTERS)
        return counter_rows[index].drop;
    index -= FABRIC_OWN_COUNTERS;
    return index >= SWITCH_RX_RUNT && index < SWITCH_COUNTERS;
}

/* ---- frames by hand ------------------------------------------------------------------------------- */

int ams_fabric_punted(struct ams_fabric *fabric, struct ams_fabric_frame *info, char *buffer, size_t size)
{
    return fabric_queue_take(&fabric->punts, info, buffer, size);
}

int ams_fabric_punt_fd(struct ams_fabric *fabric)
{
    return fabric->punts.fd;
}

struct inject_args {
    int index;
    const uint8_t *frame;
    uint32_t length;
};

/* Sends a frame of the control plane's to whom it is addressed.
 * Return: false if there was no room. */
static bool inject_anywhere(struct ams_fabric *fabric, const struct inject_args *inject)
{
    struct fabric_port *from = fabric->ports[AMS_FABRIC_CONTROL];
    struct fabric_wire *wire = NULL;

    if (memcmp(inject->frame, fabric->sw.mac, 6) == 0) {
        int32_t target = switch_rx_local(&fabric->sw, inject->frame, inject->length, inject->length, fabric->now);
        if (target >= AMS_FABRIC_CLIENTS)
            return fabric_deliver(fabric, fabric->ports[target], inject->frame, inject->length, 0);
        if (fabric->host.port && fabric->flags & AMS_FABRIC_HOST_SHARES)
            wire = &fabric->host; /* what nobody has */
    } else {
        wire = fabric_wire_to(fabric, inject->frame, AMS_FABRIC_CONTROL);
    }
    if (!wire)
        return true;
    bool sent = fabric_wire_put(fabric, wire, from, inject->frame, inject->length, NULL, inject->length);
    fabric_wire_flush(fabric, wire);
    return sent;
}

static int inject_run(struct ams_fabric *fabric, void *args)
{
    const struct inject_args *inject = args;
    struct fabric_wire *wire = inject->index == AMS_FABRIC_UPLINK ? &fabric->uplink
                               : inject->index == AMS_FABRIC_HOST ? &fabric->host : NULL;
    struct fabric_port *port = fabric_client(fabric, inject->index);
    bool sent;

    if (wire && wire->port) {
        sent = fabric_wire_put(fabric, wire, fabric->ports[AMS_FABRIC_CONTROL], inject->frame, inject->length, NULL,
                               inject->length);
        fabric_wire_flush(fabric, wire);
    } else if (port) {
        sent = fabric_deliver(fabric, port, inject->frame, inject->length, 0);
    } else if (inject->index == AMS_FABRIC_CONTROL) {
        sent = inject_anywhere(fabric, inject);
    } else {
        return -AMS_EINVAL;
    }
    return sent ? 0 : -AMS_EAGAIN;
}

int ams_fabric_inject(struct ams_fabric *fabric, int index, const char *frame, size_t length)
{
    struct inject_args args = {index, (const uint8_t *)frame, (uint32_t)length};

    if (length < ETH_HEADER || length > FABRIC_FRAME_MAX)
        return -AMS_EINVAL;
    return fabric_call(fabric, inject_run, &args);
}

/* ---- capture ----------------------------------------------------------------------------------------- */

struct capture_args {
    int index;
    bool on;
};

static int capture_run(struct ams_fabric *fabric, void *args)
{
    const struct capture_args *capture = args;

    fabric->capture_index = capture->index;
    fabric->capturing = capture->on;
    return 0;
}

int ams_fabric_capture(struct ams_fabric *fabric, int index, uint32_t snap, uint32_t frames)
{
    struct capture_args off = {-1, false}, on = {index, true};

    if (index < -1 || index >= (int)fabric->n_ports || snap > PORT_FRAME_MAX || frames > 1u << 20)
        return -AMS_EINVAL;
    fabric_call(fabric, capture_run, &off);
    int status = fabric_queue_resize(&fabric->captures, frames, frames, snap);
    return status || !frames ? status : fabric_call(fabric, capture_run, &on);
}

int ams_fabric_captured(struct ams_fabric *fabric, struct ams_fabric_frame *info, char *buffer, size_t size)
{
    return fabric_queue_take(&fabric->captures, info, buffer, size);
}

int ams_fabric_capture_fd(struct ams_fabric *fabric)
{
    return fabric->captures.fd;
}

uint64_t ams_fabric_capture_lost(struct ams_fabric *fabric)
{
    return fabric_queue_lost(&fabric->captures);
}
