/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The TAP driver over a socket pair instead of a device, for what a device
 * can't be made to do: refuse a frame, break in the middle, hand over any
 * virtio-net header.  (tests/io runs the driver over real devices.)
 */
#include "check.h"
#include "io/tap.c"

#include <linux/virtio_net.h> /* the kernel's word on what ours must be */
#include <sys/socket.h>

#include "wire/bytes.h"

struct pair {
    struct frame_pool pool;
    struct tap_port *tap;
    int peer;
};

static struct pair pair_new(uint32_t header)
{
    struct pair pair;
    int fds[2], size = 4096;

    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    CHECK_EQ(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    pair.peer = fds[1];
    pair.tap = calloc(1, sizeof(*pair.tap));
    CHECK(pair.tap != NULL);
    pair.tap->port.ops = &tap_ops;
    pair.tap->fd = fds[0];
    pair.tap->header = header;
    pair.tap->retry_at = AMS_NEVER;
    return pair;
}

static void pair_free(struct pair *pair)
{
    tap_close(&pair->tap->port);
    frame_pool_fini(&pair->pool); /* traps if a frame is left */
    close(pair->peer);
}

/* A pair in place: the pool must not move. */
#define PAIR(name, header)                          \
    struct pair name = pair_new(header);            \
    frame_pool_init(&name.pool, 1000, false);       \
    name.tap->port.pool = &name.pool

/* Sends a 300-byte frame in two pieces, with a number at byte 14. */
static void send_number(struct pair *pair, uint32_t number)
{
    uint8_t buffer[FRAME_HEADROOM + 40] = {0}, rest[260];
    struct ams_tx tx = {.head = buffer + FRAME_HEADROOM, .head_len = 40, .total = 300, .n_frags = 1, .flags = TX_CSUM,
                        .csum_start = 20, .csum_offset = 16, .frags = {{rest, 260}}};

    memset(rest, (int)number, sizeof(rest));
    store_be32(tx.head + 14, number);
    CHECK_EQ(tap_tx(&pair->tap->port, &tx, 1, 1000), 1);
}

/* Takes what the device was given, up to n frames of send_number().
 * @first: the number that the first of them must have */
static uint32_t drain(struct pair *pair, uint32_t first, uint32_t n)
{
    uint8_t data[400];
    struct virtio_net_hdr header;
    uint32_t count = 0;

    while (count < n) {
        ssize_t got = read(pair->peer, data, sizeof(data));
        if (got < 0)
            break;
        CHECK_EQ(got, 300 + (ssize_t)sizeof(header));
        memcpy(&header, data, sizeof(header));
        CHECK_EQ(header.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
        CHECK_EQ(header.csum_start, 20);
        CHECK_EQ(header.csum_offset, 16);
        CHECK_EQ(load_be32(data + sizeof(header) + 14), first + count);
        CHECK_EQ(data[sizeof(header) + 299], (uint8_t)(first + count));
        count++;
    }
    return count;
}

static void test_what_the_kernel_refuses_waits_in_order(void)
{
    PAIR(pair, sizeof(struct virtio_net_hdr));
    uint32_t sent = 0, got = 0;

    CHECK_EQ(tap_room(&pair.tap->port), PORT_BURST);
    while (tap_room(&pair.tap->port))
        send_number(&pair, sent++);
    CHECK(sent > 2);
    CHECK_EQ(tap_deadline(&pair.tap->port), 1000 + RETRY_DELAY);
    tap_flush(&pair.tap->port, 5000);
    CHECK_EQ(tap_room(&pair.tap->port), 0);
    CHECK_EQ(tap_deadline(&pair.tap->port), 5000 + RETRY_DELAY);
    send_number(&pair, sent++); /* against the promise, still nothing is lost */
    while (got < sent) {
        uint32_t part = drain(&pair, got, 3);
        CHECK(part > 0);
        got += part;
        tap_flush(&pair.tap->port, 6000);
    }
    CHECK_EQ(tap_room(&pair.tap->port), PORT_BURST);
    CHECK_EQ(tap_deadline(&pair.tap->port), AMS_NEVER);
    CHECK_EQ(pair.tap->port.info.tx_frames, sent);
    CHECK_EQ(pair.tap->port.info.tx_bytes, sent * 300);
    CHECK_EQ(pair.tap->port.info.tx_dropped, 0);
    pair_free(&pair);
}

static void test_a_closed_port_drops_its_queue(void)
{
    PAIR(pair, sizeof(struct virtio_net_hdr));

    for (uint32_t i = 0; tap_room(&pair.tap->port); i++)
        send_number(&pair, i);
    CHECK_EQ(pair.pool.in_use, 1);
    pair_free(&pair);
}

static void test_without_memory_the_queue_drops_and_counts(void)
{
    PAIR(pair, sizeof(struct virtio_net_hdr));

    pair.pool.limit = 0;
    for (uint32_t i = 0; !pair.tap->port.info.tx_dropped; i++)
        send_number(&pair, i);
    CHECK_EQ(tap_room(&pair.tap->port), PORT_BURST);
    pair_free(&pair);
}

static void test_without_vnet_headers_checksums_are_finished(void)
{
    PAIR(pair, 0);
    uint8_t data[400];
    uint32_t sum = 0;

    send_number(&pair, 7);
    CHECK_EQ(read(pair.peer, data, sizeof(data)), 300);
    for (int i = 20; i < 300; i += 2)
        sum += load_be16(data + i);
    CHECK_EQ((sum & 0xffff) + (sum >> 16), 0xffff);
    pair_free(&pair);
}

/* Gives the driver a frame to read. */
static void feed(struct pair *pair, const struct virtio_net_hdr *header, const uint8_t *frame, size_t length)
{
    struct iovec parts[2] = {{(void *)(uintptr_t)header, sizeof(*header)}, {(void *)(uintptr_t)frame, length}};
    CHECK_EQ(writev(pair->peer, parts, 2), (ssize_t)(sizeof(*header) + length));
}

static void test_received_headers_become_flags(void)
{
    PAIR(pair, sizeof(struct virtio_net_hdr));
    static uint8_t bytes[65549];
    struct virtio_net_hdr plain = {0}, partial = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM},
                          valid = {.flags = VIRTIO_NET_HDR_F_DATA_VALID},
                          gso = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                 .gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, .gso_size = 1448};
    struct ams_frame *frames[8];

    for (uint32_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 8));
    feed(&pair, &plain, bytes, 60);
    feed(&pair, &partial, bytes, SMALL_ROOM);
    feed(&pair, &valid, bytes, SMALL_ROOM + 1);
    feed(&pair, &gso, bytes, sizeof(bytes));
    CHECK_EQ(tap_rx(&pair.tap->port, frames, 8, 1), 4);
    CHECK_EQ(pair.pool.in_use, 4); /* no spare frame is kept */
    const uint32_t lengths[] = {60, SMALL_ROOM, SMALL_ROOM + 1, sizeof(bytes)};
    const uint32_t flags[] = {0, FRAME_CSUM_OK | FRAME_CSUM_PARTIAL, FRAME_CSUM_OK,
                              FRAME_CSUM_OK | FRAME_CSUM_PARTIAL | FRAME_GSO};
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(frames[i]->len, lengths[i]);
        CHECK_EQ(frames[i]->flags, flags[i]);
        CHECK_EQ(frames[i]->gso_size, i == 3 ? 1448 : 0);
        CHECK_MEM(frames[i]->data, bytes, lengths[i]);
        frame_free(frames[i]);
    }
    CHECK_EQ(write(pair.peer, bytes, 12), 12); /* less than a header and a frame */
    CHECK_EQ(tap_rx(&pair.tap->port, frames, 8, 1), 0);
    CHECK_EQ(pair.tap->port.info.rx_dropped, 1);
    pair_free(&pair);
}

static void test_single_frames_spare_the_empty_read_but_nothing_is_left(void)
{
    PAIR(pair, sizeof(struct virtio_net_hdr));
    struct virtio_net_hdr plain = {0};
    struct ams_frame *frames[8];
    uint8_t bytes[60] = {0};

    for (uint32_t i = 0; i < 3 * LONE_STREAK; i++) {
        feed(&pair, &plain, bytes, 60);
        CHECK_EQ(tap_rx(&pair.tap->port, frames, 8, 1), 1);
        frame_free(frames[0]);
    }
    for (int i = 0; i < 40; i++)
        feed(&pair, &plain, bytes, 60);
    uint32_t calls = 0;
    for (int left = 40; left > 0; calls++) {
        int n = tap_rx(&pair.tap->port, frames, 8, 1);
        CHECK(n > 0);
        for (int i = 0; i < n; i++)
            frame_free(frames[i]);
        left -= n;
    }
    CHECK(calls <= LONE_PROBE + 5); /* it notices within LONE_PROBE calls that there is more */
    CHECK_EQ(tap_rx(&pair.tap->port, frames, 8, 1), 0);
    pair_free(&pair);
}

int main(void)
{
    RUN(test_what_the_kernel_refuses_waits_in_order);
    RUN(test_a_closed_port_drops_its_queue);
    RUN(test_without_memory_the_queue_drops_and_counts);
    RUN(test_without_vnet_headers_checksums_are_finished);
    RUN(test_received_headers_become_flags);
    RUN(test_single_frames_spare_the_empty_read_but_nothing_is_left);
    return check_report();
}
