/* SPDX-License-Identifier: BSD-2-Clause
 *
 * switch_fixture.h - a switch that serves 10.0.0.1 and fd00::1, with the
 * control owner at port 0 and another owner at port 1.
 */
#ifndef AMS_TESTS_SWITCH_FIXTURE_H
#define AMS_TESTS_SWITCH_FIXTURE_H

#include "check.h"
#include "core/status.h"
#include "packets.h"
#include "switch/switch.h"

#define CONTROL 0
#define OWNER 1
#define OTHER 2
#define OWNED 80   /* port number that OWNER has, TCP and UDP */
#define UNOWNED 81

static inline struct ams_switch *fixture_new(int32_t unclaimed, uint32_t flags)
{
    struct ams_switch *sw;
    struct ams_switch_config config = {.mtu = 1500, .control = CONTROL, .unclaimed = unclaimed, .flags = flags,
                                       .seed = {5, 6}};

    memcpy(config.mac, packets_us_mac, 6);
    CHECK_EQ(ams_switch_new(&sw, &config), 0);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_ifaddr address = {packets_endpoint(v6, 1, 0), v6 ? 64 : 24};
        struct ams_endpoint local = packets_endpoint(v6, 1, OWNED);
        CHECK_EQ(ams_switch_add_address(sw, &address), 0);
        CHECK_EQ(ams_switch_claim(sw, OWNER, PROTO_TCP, &local), 0);
        CHECK_EQ(ams_switch_claim(sw, OWNER, PROTO_UDP, &local), 0);
    }
    return sw;
}

/* Where a received frame goes. */
static inline int route(struct ams_switch *sw, const struct packets_frame *what)
{
    uint8_t frame[PACKETS_MAX];
    return ams_switch_route(sw, (const char *)frame, packets_build(frame, what), 1);
}

static inline int check_bytes(struct ams_switch *sw, int port, const uint8_t *frame, uint32_t length)
{
    return ams_switch_check(sw, port, (const char *)frame, length, 1);
}

/* The verdict on a frame that `port` wants to send. */
static inline int verdict(struct ams_switch *sw, int port, const struct packets_frame *what)
{
    uint8_t frame[PACKETS_MAX];
    return check_bytes(sw, port, frame, packets_build(frame, what));
}

/* Runs a test for IPv4 and for IPv6. */
#define BOTH(v6) for (int v6 = 0; v6 < 2; v6++)

#endif
