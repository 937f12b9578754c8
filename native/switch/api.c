/* SPDX-License-Identifier: BSD-2-Clause
 *
 * api.c - the switch as others see it: one frame at a time, plain arguments.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "switch/switch.h"

struct counter_row {
    const char *name;
    const char *text;
};

static const struct counter_row counter_rows[SWITCH_COUNTERS] = {
#define SWITCH_COUNTER_ROW(NAME, name, text) {name, text},
    SWITCH_COUNTER_TABLE(SWITCH_COUNTER_ROW)
#undef SWITCH_COUNTER_ROW
};

_Static_assert(SWITCH_COUNTERS <= UINT8_MAX, "a verdict is a byte");

int ams_switch_new(struct ams_switch **sw, const struct ams_switch_config *config)
{
    *sw = NULL;
    struct ams_switch *made = mem_alloc(sizeof(*made));
    if (!made)
        return -AMS_ENOMEM;
    int status = switch_init(made, config);
    if (status) {
        mem_free(made);
        return status;
    }
    *sw = made;
    return 0;
}

void ams_switch_free(struct ams_switch *sw)
{
    if (!sw)
        return;
    switch_fini(sw);
    mem_free(sw);
}

int ams_switch_add_address(struct ams_switch *sw, const struct ams_ifaddr *address)
{
    return switch_add_address(sw, address);
}

static bool api_port_ok(int port)
{
    return port >= 0 && (unsigned)port < SWITCH_PORTS_MAX;
}

int ams_switch_claim(struct ams_switch *sw, int port, int protocol, const struct ams_endpoint *local)
{
    if (!api_port_ok(port) || protocol < 0 || protocol > UINT8_MAX)
        return -AMS_EINVAL;
    return switch_claim(sw, (uint16_t)port, (uint8_t)protocol, local);
}

int ams_switch_release(struct ams_switch *sw, int port, int protocol, const struct ams_endpoint *local)
{
    if (!api_port_ok(port) || protocol < 0 || protocol > UINT8_MAX)
        return -AMS_EINVAL;
    return switch_release(sw, (uint16_t)port, (uint8_t)protocol, local);
}

int ams_switch_release_port(struct ams_switch *sw, int port)
{
    if (!api_port_ok(port))
        return -AMS_EINVAL;
    switch_release_port(sw, (uint16_t)port);
    return 0;
}

int ams_switch_route(struct ams_switch *sw, const char *frame, size_t length, uint64_t now)
{
    int32_t target;
    uint8_t *copy = length <= UINT32_MAX ? mem_alloc(length + 1) : NULL;

    if (!copy) {
        sw->counters[SWITCH_RX_NO_MEMORY]++;
        return SWITCH_TO_NOBODY;
    }
    memcpy(copy, frame, length); /* a priority tag is taken off in place */
    struct ams_frame view = {.data = copy, .len = (uint32_t)length}, *frames = &view;
    switch_rx(sw, &frames, 1, &target, now);
    mem_free(copy);
    return target;
}

int ams_switch_check(struct ams_switch *sw, int port, const char *frame, size_t length, uint64_t now)
{
    struct ams_tx tx;
    uint8_t verdict;

    if (!api_port_ok(port))
        return SWITCH_TX_TUPLE;
    memset(&tx, 0, sizeof(tx));
    tx.head = (uint8_t *)(uintptr_t)frame; /* read only */
    tx.head_len = tx.total = length > UINT32_MAX ? UINT32_MAX : (uint32_t)length;
    switch_tx(sw, (uint16_t)port, &tx, 1, &verdict, now);
    return verdict;
}

int ams_switch_counters(struct ams_switch *sw, uint64_t *values, int max)
{
    for (int i = 0; i < max && i < SWITCH_COUNTERS; i++)
        values[i] = sw->counters[i];
    return SWITCH_COUNTERS;
}

const char *ams_switch_counter_name(int index)
{
    return index >= 0 && index < SWITCH_COUNTERS ? counter_rows[index].name : NULL;
}

const char *ams_switch_counter_text(int index)
{
    return index >= 0 && index < SWITCH_COUNTERS ? counter_rows[index].text : NULL;
}
