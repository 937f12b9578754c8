/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The netmap driver over the device of netmap_fake.h: what the device refuses,
 * frames both ways, chains, rings that are full, lengths and indices that
 * can't be.
 */
#define _GNU_SOURCE /* memfd_create */

#include "io/netmap_posix.h"
#include "netmap_fixture.h"

/* ---- what is refused ------------------------------------------------------------------ */

static void test_requests_have_the_numbers_of_the_real_module(void)
{
    CHECK_EQ(NM_IOCTL_CONTROL, 0xc0586997);
    CHECK_EQ(NM_IOCTL_TXSYNC, 0x6994);
    CHECK_EQ(NM_IOCTL_RXSYNC, 0x6995);
}

static void test_what_the_device_refuses_is_explained(void)
{
    struct ams_port *port, *other;

    begin();
    CHECK_EQ(try_open(&port, "eth7", 0), -AMS_ENODEV);
    CHECK(strstr(reason, "eth7") != NULL);
    CHECK_EQ(try_open(&port, "eth0-9", 0), -AMS_EINVAL);
    CHECK(strstr(reason, "no such ring") != NULL);
    CHECK_EQ(try_open(&port, "eth0@99", 0), -AMS_EINVAL);
    port = open_port("eth0/x", 0);
    CHECK_EQ(try_open(&other, "eth0", 0), -AMS_EBUSY);
    CHECK(strstr(reason, "another process") != NULL);
    ams_port_close(port);
    const int numbers[] = {ENOENT, EACCES, EMFILE};
    const int statuses[] = {-AMS_ENODEV, -AMS_EACCES, -AMS_EMFILE};
    for (int i = 0; i < 3; i++) {
        fake.missing = numbers[i];
        CHECK_EQ(try_open(&port, "eth0", 0), statuses[i]);
        CHECK(strstr(reason, "/dev/netmap") != NULL);
    }
    fake.missing = 0;
    port = open_port("vale0:x", 0); /* with headers */
    CHECK_EQ(try_open(&other, "vale0:x", AMS_PORT_NO_OFFLOAD), -AMS_EIO);
    CHECK(strstr(reason, "virtio-net") != NULL);
    ams_port_close(port);
    struct ams_port_config config = {.mtu = 2040};
    struct port_error error = {reason, sizeof(reason)};
    CHECK_EQ(netmap_open_on(&fake.sys, &port, "eth0", &config, &pool, &error), -AMS_EINVAL);
    CHECK(strstr(reason, "2034") != NULL);
    end();
}

static bool body_open(void)
{
    struct ams_port *port = NULL;

    if (try_open(&port, "eth0*", 0))
        return false;
    ams_port_close(port);
    return true;
}

static void test_every_allocation_may_fail(void)
{
    begin();
    CHECK(check_every_allocation(body_open) > 3);
    end();
}

/* ---- frames ---------------------------------------------------------------------------- */

static void test_frames_pass_a_pipe_in_order(void)
{
    begin();
    struct ams_port *a = open_port("eth0{1", 0), *b = open_port("eth0}1", 0);
    const uint32_t lengths[] = {14, 60, 1513, 1514};

    CHECK_EQ(a->info.caps, 0);
    CHECK_EQ(a->info.mtu, 1500);
    for (uint32_t i = 0; i < 500; i++) {
        uint32_t length = lengths[i % 4];
        CHECK(a->ops->room(a) > 0);
        CHECK_EQ(send_pattern(a, length, i, i % 3 ? 14 : 0), 1);
        if (i % 4 == 3) {
            uint32_t before = fake.tx_syncs;
            a->ops->flush(a, 1000);
            a->ops->flush(a, 1000);
            CHECK_EQ(fake.tx_syncs, before + 1); /* one call for all of them, none for nothing */
            for (uint32_t j = i - 3; j <= i; j++)
                expect_pattern(b, lengths[j % 4], j);
        }
    }
    expect_nothing(b);
    CHECK_EQ(a->info.tx_frames, 500);
    CHECK_EQ(b->info.rx_frames, 500);
    CHECK_EQ(a->info.tx_bytes, b->info.rx_bytes);
    CHECK_EQ(b->info.rx_dropped + a->info.tx_dropped, 0);
    ams_port_close(a);
    ams_port_close(b);
    end();
}

static void test_receiving_needs_a_call_only_when_nothing_is_visible(void)
{
    struct ams_frame *frames[8];
    uint8_t bytes[60] = {0};

    begin();
    struct ams_port *port = open_port("eth0", 0);
    for (int i = 0; i < 3; i++)
        CHECK(fake_wire_send(&fake, (uint32_t)i % 2, bytes, 60, 0));
    CHECK_EQ(port->ops->rx(port, frames, 8, 1), 3);
    CHECK_EQ(fake.rx_syncs, 0);
    for (int i = 0; i < 3; i++)
        frame_free(frames[i]);
    CHECK_EQ(port->ops->rx(port, frames, 8, 1), 0);
    CHECK_EQ(fake.rx_syncs, 1);
    ams_port_close(port);
    end();
}

static void test_a_pipe_that_is_full_pushes_back(void)
{
    begin();
    struct ams_port *a = open_port("eth0{1", 0), *b = open_port("eth0}1", 0);
    uint32_t sent = 0, got = 0;

    CHECK_EQ(a->ops->deadline(a), AMS_NEVER);
    while (a->ops->room(a)) {
        CHECK_EQ(send_pattern(a, 60, sent++, 0), 1);
        if (sent % 16 == 0)
            a->ops->flush(a, 1000);
    }
    CHECK(sent >= 2 * (FAKE_SLOTS - 1)); /* one ring full in front of another */
    a->ops->flush(a, 1000);
    CHECK(a->ops->deadline(a) > 1000 && a->ops->deadline(a) < 1000 + AMS_NS_PER_MS);
    CHECK_EQ(send_pattern(a, 60, 999, 0), 1); /* against the promise */
    CHECK_EQ(a->info.tx_dropped, 1);
    for (uint64_t now = 2000000; got < sent; now += 1000000) {
        expect_pattern(b, 60, got++);
        if (got % 10 == 0) {
            a->ops->flush(a, now); /* as its deadline asks for */
            CHECK(a->ops->deadline(a) == AMS_NEVER || a->ops->deadline(a) > now);
            b->ops->rx(b, NULL, 0, now);
        }
    }
    a->ops->flush(a, 100000000);
    CHECK_EQ(a->ops->deadline(a), AMS_NEVER);
    CHECK_EQ(a->ops->room(a), PORT_BURST);
    ams_port_close(a);
    ams_port_close(b);
    end();
}

static void test_retries_get_rarer_while_nothing_moves(void)
{
    begin();
    struct ams_port *a = open_port("eth0{1", 0); /* nobody at the other end */
    uint64_t now = 1000, last = 0;

    CHECK_EQ(send_pattern(a, 60, 1, 0), 1);
    a->ops->flush(a, now);
    for (int i = 0; i < 12; i++) {
        uint64_t at = a->ops->deadline(a);
        CHECK(at > now && at - now >= last && at - now <= 64 * AMS_NS_PER_MS);
        last = at - now;
        now = at;
        a->ops->flush(a, now);
    }
    CHECK_EQ(last, 64 * AMS_NS_PER_MS);
    ams_port_close(a);
    end();
}

static void test_no_ring_starves_another(void)
{
    struct ams_frame *frames[32];
    uint8_t bytes[60] = {0};
    int from[2] = {0, 0};

    begin();
    struct ams_port *port = open_port("eth0", 0);
    for (int round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < 40; i++) {
            for (uint32_t r = 0; r < 2; r++) {
                bytes[20] = (uint8_t)r;
                fake_wire_send(&fake, r, bytes, 60, 0);
            }
        }
        fake_poll(&fake);
        int n = port->ops->rx(port, frames, 32, 1);
        for (int i = 0; i < n; i++) {
            from[frames[i]->data[20]]++;
            frame_free(frames[i]);
        }
    }
    CHECK(from[0] >= 40 && from[1] >= 40);
    ams_port_close(port);
    end();
}

/* ---- chains, lengths, indices ------------------------------------------------------------- */

static void test_chains_become_one_frame(void)
{
    struct ams_frame *frames[4];
    uint8_t bytes[2048];

    begin();
    struct ams_port *port = open_port("eth0", 0);
    pattern(bytes, 2048, 5);
    CHECK(fake_wire_send(&fake, 0, bytes, 2048, RING_MOREFRAG));
    CHECK(fake_wire_send(&fake, 0, bytes, 2048, RING_MOREFRAG));
    expect_nothing(port); /* its end isn't there yet */
    CHECK(fake_wire_send(&fake, 0, bytes, 100, 0));
    CHECK(fake_wire_send(&fake, 0, bytes, 60, 0));
    /* On a link that merges nothing, a frame above the MTU that is no TCP is of no use. */
    CHECK_EQ(port->ops->rx(port, frames, 4, 1), 1);
    CHECK_EQ(frames[0]->len, 60);
    CHECK_EQ(port->info.rx_dropped, 1);
    frame_free(frames[0]);
    for (int i = 0; i < 3; i++)
        CHECK(fake_wire_send(&fake, 0, bytes, 400, i < 2 ? RING_MOREFRAG : 0));
    CHECK_EQ(port->ops->rx(port, frames, 4, 1), 1);
    CHECK_EQ(frames[0]->len, 1200);
    for (int i = 0; i < 3; i++)
        CHECK_MEM(frames[0]->data + 400 * i, bytes, 400);
    frame_free(frames[0]);
    ams_port_close(port);
    end();
}

static void test_a_ring_of_one_endless_chain_is_emptied(void)
{
    struct ams_frame *frames[4];
    uint8_t bytes[2048] = {0};

    begin();
    struct ams_port *port = open_port("eth0-0", 0);
    for (uint32_t i = 0; i < FAKE_SLOTS - 1; i++)
        CHECK(fake_wire_send(&fake, 0, bytes, 2048, RING_MOREFRAG));
    CHECK_EQ(port->ops->rx(port, frames, 4, 1), 0);
    CHECK_EQ(port->info.rx_dropped, 1);
    fake_poll(&fake);
    CHECK(fake_wire_send(&fake, 0, bytes, 60, 0));
    CHECK_EQ(port->ops->rx(port, frames, 4, 1), 1);
    frame_free(frames[0]);
    ams_port_close(port);
    end();
}

static void test_impossible_slots_are_dropped(void)
{
    struct ams_frame *frames[8];
    uint8_t bytes[60] = {0};

    begin();
    struct ams_port *port = open_port("eth0-0", 0);
    struct fake_ring *rx = fake_ring(fake_find(&fake, "eth0"), false, false, 0);
    for (uint32_t i = 0; i < 5; i++)
        CHECK(fake_wire_send(&fake, 0, bytes, 60, 0));
    fake_slot(rx, 0)->buf_idx = 0xffffffffu;
    fake_slot(rx, 1)->buf_idx = 1;              /* the kernel's own */
    fake_slot(rx, 2)->len = 65535;              /* beyond its buffer: clamped, and then above the MTU */
    fake_slot(rx, 3)->len = 13;
    CHECK_EQ(port->ops->rx(port, frames, 8, 1), 1);
    CHECK_EQ(port->info.rx_dropped, 4);
    frame_free(frames[0]);
    /* And for TX: the frame is dropped, the ring goes on with the next buffer that is one. */
    struct fake_ring *tx = fake_ring(fake_find(&fake, "eth0"), true, false, 0);
    uint32_t index = fake_slot(tx, 0)->buf_idx;
    fake_slot(tx, 0)->buf_idx = 0x7fffffff;
    CHECK_EQ(send_pattern(port, 60, 1, 0), 1);
    CHECK_EQ(port->info.tx_dropped, 1);
    fake_slot(tx, 0)->buf_idx = index;
    CHECK_EQ(send_pattern(port, 60, 2, 0), 1);
    CHECK_EQ(port->info.tx_frames, 1);
    ams_port_close(port);
    end();
}

static void test_a_ring_that_the_kernel_resets_goes_on(void)
{
    uint8_t bytes[2048], expected[60];
    struct ring_slot slot;

    begin();
    struct ams_port *port = open_port("eth0-0", 0);
    struct fake_ring *tx = fake_ring(fake_find(&fake, "eth0"), true, false, 0);
    CHECK_EQ(send_pattern(port, 60, 1, 0), 1);
    fake_shared(tx)->cur = 9999; /* what the kernel finds impossible */
    port->ops->flush(port, 1000);
    CHECK_EQ(fake_take(tx, bytes, &slot), 0);
    CHECK_EQ(send_pattern(port, 60, 2, 0), 1);
    port->ops->flush(port, 2000);
    CHECK_EQ(fake_take(tx, bytes, &slot), 60);
    pattern(expected, 60, 2);
    CHECK_MEM(bytes, expected, 60);
    ams_port_close(port);
    end();
}

/* ---- virtio-net headers ---------------------------------------------------------------------- */

static void test_super_frames_pass_a_vale_switch(void)
{
    static uint8_t bytes[FRAME_HEADROOM + 65549], payload[65549];
    const uint32_t lengths[] = {60, 2037, 2038, 2039, 4086, 9000, 65549};
    struct ams_frame *frame;

    begin();
    struct ams_port *a = open_port("vale0:a", 0), *b = open_port("vale0:b", 0);
    CHECK_EQ(a->info.caps, AMS_CAP_CSUM_TX | AMS_CAP_CSUM_RX | AMS_CAP_TSO4 | AMS_CAP_TSO6 | AMS_CAP_LRO);
    for (size_t i = 0; i < AMS_ARRAY_SIZE(lengths); i++) {
        struct ams_tx tx;
        memset(&tx, 0, sizeof(tx));
        pattern(payload, lengths[i], (uint32_t)i);
        memcpy(bytes + FRAME_HEADROOM, payload, 54);
        tx = (struct ams_tx){.head = bytes + FRAME_HEADROOM, .head_len = 54, .total = lengths[i], .n_frags = 1,
                             .flags = TX_CSUM | TX_GSO4, .csum_start = 34, .csum_offset = 16, .gso_size = 1448,
                             .gso_hdr_len = 54, .frags = {{payload + 54, lengths[i] - 54}}};
        CHECK(a->ops->room(a) > 0);
        CHECK_EQ(a->ops->tx(a, &tx, 1, 1), 1);
        a->ops->flush(a, 1);
        CHECK_EQ(b->ops->rx(b, &frame, 1, 1), 1);
        CHECK_EQ(frame->len, lengths[i]);
        CHECK_MEM(frame->data, payload, lengths[i]);
        CHECK_EQ(frame->flags, FRAME_CSUM_OK | FRAME_CSUM_PARTIAL | FRAME_GSO);
        CHECK_EQ(frame->gso_size, 1448);
        frame_free(frame);
    }
    CHECK_EQ(a->info.tx_dropped, 0);
    /* room() promises for the longest frames. */
    CHECK_EQ(a->ops->room(a), (FAKE_SLOTS - 1) / 33);
    ams_port_close(a);
    ams_port_close(b);
    end();
}

static void test_members_with_and_without_headers_talk(void)
{
    begin();
    struct ams_port *with = open_port("vale0:a", 0), *without = open_port("vale0:b", AMS_PORT_NO_OFFLOAD);
    CHECK_EQ(without->info.caps, 0);
    send_pattern(with, 1514, 1, 14);
    with->ops->flush(with, 1);
    expect_pattern(without, 1514, 1);
    send_pattern(without, 1514, 2, 14);
    without->ops->flush(without, 1);
    expect_pattern(with, 1514, 2);
    ams_port_close(with);
    ams_port_close(without);
    end();
}

/* ---- passing on ---------------------------------------------------------------------------------- */

static void test_forwarding_exchanges_buffers(void)
{
    uint8_t bytes[2048];

    begin();
    struct ams_port *nic = open_port("eth0-0", 0), *host = open_port("eth0^", 0), *pipe = open_port("eth0{1", 0),
                    *reader = open_port("eth0}1", 0), *vale = open_port("vale0:a", AMS_PORT_NO_OFFLOAD);
    struct fake_ring *rx = fake_ring(fake_find(&fake, "eth0"), false, false, 0);
    struct fake_ring *host_tx = fake_ring(fake_find(&fake, "eth0"), true, true, 0);
    struct ring_slot slot;
    CHECK_EQ(ams_port_forward(nic, vale, 8, 1), -AMS_EOPNOTSUPP); /* another region */
    CHECK_EQ(ams_port_forward(nic, nic, 8, 1), -AMS_EINVAL);
    for (uint32_t i = 0; i < 200; i++) {
        pattern(bytes, 700, i);
        uint32_t index = fake_slot(rx, rx->tail)->buf_idx;
        CHECK(fake_wire_send(&fake, 0, bytes, 700, 0));
        CHECK_EQ(ams_port_forward(nic, host, 8, 1), 1);
        uint8_t out[2048];
        CHECK_EQ(fake_take(host_tx, out, &slot), 700);
        CHECK_EQ(slot.buf_idx, index); /* the very buffer */
        CHECK(slot.flags & RING_BUF_CHANGED);
        CHECK_MEM(out, bytes, 700);
        fake_poll(&fake);
    }
    for (uint32_t i = 0; i < 10; i++) { /* a chain stays one */
        CHECK(fake_wire_send(&fake, 0, bytes, 700, RING_MOREFRAG));
        CHECK(fake_wire_send(&fake, 0, bytes, 500, 0));
    }
    CHECK_EQ(ams_port_forward(nic, pipe, 4, 1), 4);
    CHECK_EQ(ams_port_forward(nic, pipe, 100, 1), 6);
    CHECK_EQ(ams_port_forward(nic, pipe, 100, 1), 0);
    struct ams_frame *frames[16];
    CHECK_EQ(reader->ops->rx(reader, frames, 16, 1), 10);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(frames[i]->len, 1200);
        CHECK_MEM(frames[i]->data + 700, bytes, 500);
        frame_free(frames[i]);
    }
    CHECK_EQ(nic->info.rx_frames, 210);
    CHECK_EQ(host->info.tx_frames, 200);
    CHECK_EQ(pipe->info.tx_frames, 10);
    ams_port_close(nic);
    ams_port_close(host);
    ams_port_close(pipe);
    ams_port_close(reader);
    ams_port_close(vale);
    end();
}

int main(void)
{
    RUN(test_requests_have_the_numbers_of_the_real_module);
    RUN(test_what_the_device_refuses_is_explained);
    RUN(test_every_allocation_may_fail);
    RUN(test_frames_pass_a_pipe_in_order);
    RUN(test_receiving_needs_a_call_only_when_nothing_is_visible);
    RUN(test_a_pipe_that_is_full_pushes_back);
    RUN(test_retries_get_rarer_while_nothing_moves);
    RUN(test_no_ring_starves_another);
    RUN(test_chains_become_one_frame);
    RUN(test_a_ring_of_one_endless_chain_is_emptied);
    RUN(test_impossible_slots_are_dropped);
    RUN(test_a_ring_that_the_kernel_resets_goes_on);
    RUN(test_super_frames_pass_a_vale_switch);
    RUN(test_members_with_and_without_headers_talk);
    RUN(test_forwarding_exchanges_buffers);
    return check_report();
}
