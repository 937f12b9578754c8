/* SPDX-License-Identifier: BSD-2-Clause
 *
 * hub_fixture.h - mem ports, and frames that carry a number.
 */
#ifndef AMS_TESTS_HUB_FIXTURE_H
#define AMS_TESTS_HUB_FIXTURE_H

#include <poll.h>

#include "check.h"
#include "core/base.h"
#include "core/status.h"
#include "io/port.h"
#include "wire/bytes.h"
#include "wire/eth.h"

#define BROADCAST 0xff

static inline struct ams_port *mem_port(struct ams_hub *hub)
{
    char error[200];
    struct ams_port *port;
    struct ams_port_config config = {.spec = "mem:test", .hub = hub};
    CHECK_EQ(ams_port_open(&port, &config, error, sizeof(error)), 0);
    return port;
}

/* Sends a 64-byte frame with a number in it, between MAC addresses
 * 02:..:from and 02:..:to. */
static inline int send_number(struct ams_port *port, uint8_t from, uint8_t to, uint32_t number, uint64_t now)
{
    uint8_t frame[64] = {0};
    struct eth_repr eth = {.dst = {2, 0, 0, 0, 0, to}, .src = {2, 0, 0, 0, 0, from}, .type = 0x88b5};
    if (to == BROADCAST)
        memset(eth.dst, 0xff, 6);
    eth_emit(frame, &eth);
    store_be32(frame + ETH_HEADER, number);
    return ams_port_send(port, (const char *)frame, sizeof(frame), now);
}

/* The number of the next frame, or the status. */
static inline long long receive_number(struct ams_port *port, uint64_t now)
{
    uint8_t frame[64];
    int length = ams_port_recv(port, (char *)frame, sizeof(frame), now);
    if (length < 0)
        return length;
    CHECK_EQ(length, 64);
    return load_be32(frame + ETH_HEADER);
}

static inline struct ams_port_info port_info(struct ams_port *port)
{
    struct ams_port_info info;
    ams_port_info(port, &info);
    return info;
}

static inline bool port_readable(struct ams_port *port)
{
    struct pollfd entry = {port_info(port).fd, POLLIN, 0};
    CHECK(poll(&entry, 1, 0) >= 0);
    return entry.revents & POLLIN;
}

#endif
