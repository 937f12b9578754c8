/* SPDX-License-Identifier: BSD-2-Clause
 *
 * super_fixture.h - a fabric with two clients, and the super-frames that one sends.
 */
#ifndef AMS_TESTS_SUPER_FIXTURE_H
#define AMS_TESTS_SUPER_FIXTURE_H

#include "fabric_fixture.h"
#include "io/shm.h"
#include "wire/checksum.h"

#define ONE 1001
#define TWO 1002
#define NOBODY 1003
#define SLOTS 128u
#define MSS 1400u
#define LONGEST 65000u
#define SEQUENCE 0xfffffff0u /* wraps around within the first segment */
#define FLAGS (TCP_ACK | TCP_PSH | TCP_CWR)

/* Two clients; the second one may do without super-frames. */
struct stage {
    struct ams_fabric *fabric;
    struct client one, two;
};

static uint8_t payload[LONGEST];
static struct frame_pool pool; /* of all clients */

/* Opens a client's port as a stack does.  Return: 0 or a status. */
static inline int open_client(struct ams_fabric *fabric, struct client *client, uint32_t flags)
{
    char spec[64], error[256];
    struct port_error reason = {error, sizeof(error)};
    int status = ams_fabric_attach(fabric, NULL, &client->link);

    client->port = NULL;
    if (status < 0)
        return status;
    snprintf(spec, sizeof(spec), "shm:%d,%d,%d", client->link.memory_fd, client->link.kick_fd, client->link.notify_fd);
    struct ams_port_config config = {.spec = spec, .flags = flags};
    status = port_open(&client->port, &config, &pool, &reason);
    if (status)
        client_close(client);
    return status;
}

static inline void claim(struct ams_fabric *fabric, const struct client *client, uint16_t number)
{
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint local = packets_endpoint(v6, 1, number);
        CHECK_EQ(ams_fabric_claim(fabric, client->link.index, PROTO_TCP, &local, 0), 0);
    }
}

static inline struct stage stage_new(uint32_t flags)
{
    struct stage stage;
    struct ams_fabric_config config = fabric_config();
    char error[256];

    config.tx_slots = config.rx_slots = SLOTS;
    config.punt_frames = 64;
    CHECK_EQ(ams_fabric_new(&stage.fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(stage.fabric), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.one, 0), 0);
    CHECK_EQ(open_client(stage.fabric, &stage.two, flags), 0);
    claim(stage.fabric, &stage.one, ONE);
    claim(stage.fabric, &stage.two, TWO);
    for (uint32_t i = 0; i < LONGEST; i++)
        payload[i] = (uint8_t)(i * 31 + (i >> 8));
    return stage;
}

static inline void stage_free(struct stage *stage)
{
    client_close(&stage->one);
    client_close(&stage->two);
    ams_fabric_free(stage->fabric);
}

static inline uint64_t counter(const struct stage *stage, const struct client *client, int which)
{
    return fabric_counter(stage->fabric, client->link.index, which);
}

/* Writes the headers of a super-frame.  Return: their length. */
static inline uint32_t super_head(uint8_t *head, bool v6, uint16_t to, uint32_t length)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .sport = ONE, .dport = to, .tcp_flags = FLAGS};

    packets_ip(what.dst, v6, 1);
    uint32_t header = packets_build(head, &what);
    memcpy(head, packets_us_mac, 6);
    store_be32(head + header - 16, SEQUENCE);
    if (v6) {
        store_be16(head + ETH_HEADER + 4, header - ETH_HEADER - IP6_HEADER + length);
    } else {
        store_be16(head + ETH_HEADER + 2, header - ETH_HEADER + length);
        store_be16(head + ETH_HEADER + 10, 0);
        store_be16(head + ETH_HEADER + 10, checksum_finish(checksum_add(0, head + ETH_HEADER, IP4_HEADER)));
    }
    return header;
}

/* Describes a super-frame in a head and three pieces. */
static inline struct ams_tx super_tx(uint8_t *head, bool v6, uint16_t to, uint32_t length)
{
    struct ams_tx tx;

    memset(&tx, 0, sizeof(tx));
    tx.head = head;
    tx.head_len = super_head(head, v6, to, length);
    tx.total = tx.head_len + length;
    tx.flags = (uint16_t)(TX_CSUM | (v6 ? TX_GSO6 : TX_GSO4));
    tx.csum_start = (uint16_t)(tx.head_len - 20);
    tx.csum_offset = 16;
    tx.gso_size = MSS;
    tx.gso_hdr_len = (uint16_t)tx.head_len;
    tx.n_frags = 3;
    tx.frags[0] = (struct ams_tx_frag){payload, 1};
    tx.frags[1] = (struct ams_tx_frag){payload + 1, length / 2};
    tx.frags[2] = (struct ams_tx_frag){payload + 1 + length / 2, length - 1 - length / 2};
    return tx;
}

static inline void send_super(struct stage *stage, bool v6, uint16_t to, uint32_t length)
{
    uint8_t head[PACKETS_MAX];
    struct ams_tx tx = super_tx(head, v6, to, length);
    struct ams_port *port = stage->one.port;

    CHECK(port->ops->room(port) > 0);
    CHECK_EQ(port->ops->tx(port, &tx, 1, 1), 1);
    port->ops->flush(port, 1);
    CHECK_EQ(port->info.tx_dropped, 0);
    while (ams_fabric_poll(stage->fabric, 1) > 0)
        ;
}

/* The next frame that a client gets; NULL: none. */
static inline struct ams_frame *receive(struct client *client)
{
    struct ams_frame *frame = NULL;
    int n = client->port->ops->rx(client->port, &frame, 1, 1);

    CHECK(n >= 0);
    return n ? frame : NULL;
}

/* Checks a segment.  Return: its payload's length. */
static inline uint32_t check_segment(const struct ams_frame *frame, bool v6, uint32_t offset, uint32_t length)
{
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER), header = l4 + 20, part = frame->len - header;
    uint8_t flags = TCP_ACK;
    const uint8_t *ip = frame->data + ETH_HEADER, *tcp = frame->data + l4;

    CHECK(frame->len > header && frame->len <= header + MSS && offset + part <= length);
    if (v6) {
        CHECK_EQ(load_be16(ip + 4), frame->len - l4);
    } else {
        CHECK_EQ(load_be16(ip + 2), frame->len - ETH_HEADER);
        CHECK_EQ(load_be16(ip + 4), offset / MSS);
        CHECK_EQ(checksum_fold(checksum_add(0, ip, IP4_HEADER)), 0xffff);
    }
    CHECK_EQ(checksum_fold(packets_sum(frame->data, frame->len, v6, PROTO_TCP)), 0xffff);
    CHECK_EQ(load_be32(tcp + 4), SEQUENCE + offset);
    if (!offset)
        flags |= TCP_CWR;
    if (offset + part == length)
        flags |= TCP_PSH;
    CHECK_EQ(tcp[13], flags);
    CHECK_MEM(frame->data + header, payload + offset, part);
    return part;
}

#endif
