/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_fixture.h - ports on the device of netmap_fake.h, and frames of a pattern.
 *
 * Include it under _GNU_SOURCE.
 */
#ifndef AMS_TESTS_NETMAP_FIXTURE_H
#define AMS_TESTS_NETMAP_FIXTURE_H

#include "check.h"
#include "core/status.h"
#include "io/netmap.h"
#include "netmap_fake.h"

static struct fake fake;
static struct frame_pool pool;
static char reason[300];

static inline int try_open(struct ams_port **port, const char *name, uint32_t flags)
{
    struct ams_port_config config = {.spec = name, .flags = flags};
    struct port_error error = {reason, sizeof(reason)};

    *reason = '\0';
    return netmap_open_on(&fake.sys, port, name, &config, &pool, &error);
}

static inline struct ams_port *open_port(const char *name, uint32_t flags)
{
    struct ams_port *port = NULL;
    int status = try_open(&port, name, flags);

    if (status)
        fprintf(stderr, "%s: %s\n", name, reason);
    CHECK_EQ(status, 0);
    return port;
}

static inline void begin(void)
{
    fake_init(&fake);
    frame_pool_init(&pool, 1000, false);
}

static inline void end(void)
{
    frame_pool_fini(&pool); /* traps if a frame is left */
    CHECK_EQ(fake.maps, 0);
    for (int i = 0; i < FAKE_PORTS; i++)
        CHECK_EQ(fake.fds[i].fd, 0);
    CHECK_EQ(fake.watch, 0);
    CHECK_EQ(fake.promiscuous, 0);
    fake_fini(&fake);
}

/* Bytes that tell one frame and one place in it from another. */
static inline void pattern(uint8_t *out, uint32_t length, uint32_t number)
{
    for (uint32_t i = 0; i < length; i++)
        out[i] = (uint8_t)(number * 31 + i * 7 + (i >> 8));
}

/* Sends a frame of a pattern, in pieces. */
static inline int send_pattern(struct ams_port *port, uint32_t length, uint32_t number, uint32_t head)
{
    static uint8_t bytes[70000];
    struct ams_tx tx;

    pattern(bytes + FRAME_HEADROOM, length, number);
    memset(&tx, 0, sizeof(tx));
    tx.head = bytes + FRAME_HEADROOM;
    tx.head_len = tx.total = length;
    if (head && head < length) {
        uint32_t rest = length - head, half = rest / 2;
        tx.head_len = head;
        tx.n_frags = 2;
        tx.frags[0] = (struct ams_tx_frag){tx.head + head, half};
        tx.frags[1] = (struct ams_tx_frag){tx.head + head + half, rest - half};
    }
    return port->ops->tx(port, &tx, 1, 1000);
}

/* Receives one frame and compares it with a pattern. */
static inline void expect_pattern(struct ams_port *port, uint32_t length, uint32_t number)
{
    static uint8_t bytes[70000];
    struct ams_frame *frame;

    pattern(bytes, length, number);
    CHECK_EQ(port->ops->rx(port, &frame, 1, 1000), 1);
    CHECK_EQ(frame->len, length);
    CHECK_MEM(frame->data, bytes, length);
    frame_free(frame);
}

static inline void expect_nothing(struct ams_port *port)
{
    struct ams_frame *frames[4];
    CHECK_EQ(port->ops->rx(port, frames, 4, 1000), 0);
}

#endif
