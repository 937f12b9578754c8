/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_fixture.h - a fabric that serves 10.0.0.1 and fd00::1, and clients.
 */
#ifndef AMS_TESTS_FABRIC_FIXTURE_H
#define AMS_TESTS_FABRIC_FIXTURE_H

#include <poll.h>
#include <unistd.h>

#include "check.h"
#include "core/status.h"
#include "io/fabric.h"
#include "packets.h"

struct client {
    struct ams_fabric_link link;
    struct ams_port *port;
};

static inline struct ams_fabric_config fabric_config(void)
{
    struct ams_fabric_config config = {.cpu = -1, .seed = {3, 4}, .tx_slots = 64, .rx_slots = 64};
    memcpy(config.mac, packets_us_mac, 6);
    return config;
}

/* Serves the addresses.  Return: 0 or a status. */
static inline int fabric_serve(struct ams_fabric *fabric)
{
    int status = 0;
    for (int v6 = 0; v6 < 2 && !status; v6++) {
        struct ams_ifaddr address = {packets_endpoint(v6, 1, 0), v6 ? 64 : 24};
        status = ams_fabric_add_address(fabric, &address);
    }
    return status;
}

static inline void client_close(struct client *client)
{
    ams_port_close(client->port);
    close(client->link.memory_fd);
    close(client->link.kick_fd);
    close(client->link.notify_fd);
    client->port = NULL;
}

/* Attaches a client and opens its port.  Return: 0 or a status. */
static inline int client_open(struct ams_fabric *fabric, struct client *client)
{
    char spec[64], error[256];
    int status = ams_fabric_attach(fabric, NULL, &client->link);

    client->port = NULL;
    if (status < 0)
        return status;
    snprintf(spec, sizeof(spec), "shm:%d,%d,%d", client->link.memory_fd, client->link.kick_fd,
             client->link.notify_fd);
    struct ams_port_config config = {.spec = spec};
    status = ams_port_open(&client->port, &config, error, sizeof(error));
    if (status) {
        client_close(client);
        ams_fabric_detach(fabric, client->link.index);
    }
    return status;
}

/* Claims a UDP port number on both addresses. */
static inline int client_claim(struct ams_fabric *fabric, const struct client *client, uint16_t number, uint32_t flags)
{
    int status = 0;
    for (int v6 = 0; v6 < 2 && !status; v6++) {
        struct ams_endpoint local = packets_endpoint(v6, 1, number);
        status = ams_fabric_claim(fabric, client->link.index, PROTO_UDP, &local, flags);
    }
    return status;
}

/* A frame from one of our tuples to another, with a number in its payload. */
static inline uint32_t client_frame(uint8_t *frame, bool v6, uint16_t from, uint16_t to, uint32_t number)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = from, .dport = to,
                                 .payload = 24};
    packets_ip(what.dst, v6, 1);
    uint32_t length = packets_build(frame, &what);
    memcpy(frame, packets_us_mac, 6);
    memcpy(frame + length - 4, &number, 4);
    return length;
}

static inline int client_send(struct client *client, bool v6, uint16_t from, uint16_t to, uint32_t number)
{
    uint8_t frame[PACKETS_MAX];
    uint32_t length = client_frame(frame, v6, from, to, number);
    return ams_port_send(client->port, (const char *)frame, length, 1);
}

/* The number in the next frame, or a status. */
static inline long long client_receive(struct client *client)
{
    char frame[PACKETS_MAX];
    uint32_t number;
    int length = ams_port_recv(client->port, frame, sizeof(frame), 1);
    if (length < 0)
        return length;
    CHECK(length > 4);
    memcpy(&number, frame + length - 4, 4);
    return number;
}

static inline uint64_t fabric_counter(struct ams_fabric *fabric, int index, int counter)
{
    uint64_t values[FABRIC_COUNTERS];
    CHECK_EQ(ams_fabric_counters(fabric, index, values, FABRIC_COUNTERS), FABRIC_COUNTERS);
    return values[counter];
}

#endif
