/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The netmap driver when its link goes down, comes back, or is gone.
 */
#define _GNU_SOURCE /* memfd_create */

#include <fcntl.h>
#include <poll.h>

#include "netmap_fixture.h"

static bool readable(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    return poll(&entry, 1, 0) == 1;
}

static void test_a_link_that_is_down_is_not_polled(void)
{
    uint8_t bytes[2048] = {0};
    struct ring_slot slot;

    begin();
    struct ams_port *port = open_port("eth0", 0);
    CHECK(port->info.fd != fake.fds[0].fd);
    CHECK(!readable(port->info.fd));
    CHECK(fake_wire_send(&fake, 0, bytes, 60, 0));
    fake_poll(&fake);
    CHECK(readable(port->info.fd));
    struct ams_frame *frame;
    CHECK_EQ(port->ops->rx(port, &frame, 1, 1), 1);
    frame_free(frame);
    fake_poll(&fake);

    fake.link.up = false;
    fake_announce(&fake);
    CHECK(readable(port->info.fd));
    expect_nothing(port);
    CHECK(!readable(port->info.fd));
    uint32_t rx = fake.rx_syncs, tx = fake.tx_syncs;
    CHECK(fake_wire_send(&fake, 1, bytes, 60, 0)); /* it would be readable */
    fake_poll(&fake);
    CHECK(!readable(port->info.fd));
    CHECK(port->ops->room(port) > 0);
    send_pattern(port, 60, 1, 0);
    port->ops->flush(port, 1);
    CHECK_EQ(port->info.tx_dropped, 1);
    CHECK_EQ(fake.rx_syncs, rx);
    CHECK_EQ(fake.tx_syncs, tx);

    fake.link.up = true;
    fake_announce(&fake);
    CHECK_EQ(port->ops->rx(port, &frame, 1, 1), 1);
    frame_free(frame);
    expect_nothing(port);
    send_pattern(port, 60, 2, 0);
    port->ops->flush(port, 1);
    CHECK_EQ(fake_take(fake_ring(fake_find(&fake, "eth0"), true, false, 0), bytes, &slot), 60);
    ams_port_close(port);
    end();
}

static void test_an_interface_that_is_gone_breaks_the_port_for_good(void)
{
    struct ams_frame *frame;

    for (int how = 0; how < 3; how++) {
        begin();
        struct ams_port *port = open_port("eth0", 0);
        if (how == 0)
            fake.link.index = 0;
        else if (how == 1)
            fake.link.index = 9; /* another one of the same name */
        else
            fake.sync_error = ENXIO;
        fake_announce(&fake);
        CHECK_EQ(port->ops->rx(port, &frame, 1, 1), -AMS_ENODEV);
        CHECK_EQ(port->ops->rx(port, &frame, 1, 1), -AMS_ENODEV);
        send_pattern(port, 60, 1, 0);
        port->ops->flush(port, 1);
        CHECK_EQ(port->info.tx_dropped, 1);
        CHECK_EQ(fake.maps, 0); /* the kernel waits for that */
        CHECK(!fake.fds[0].fd);
        CHECK(fcntl(port->info.fd, F_GETFD) >= 0); /* whoever waits still may */
        ams_port_close(port);
        end();
    }
}

static void test_a_pipe_ends_with_its_interface_but_doesn_t_care_about_its_state(void)
{
    begin();
    struct ams_port *a = open_port("eth0{1", 0), *b = open_port("vale0:x{1", 0);
    CHECK_EQ(b->info.fd, fake.fds[1].fd);
    fake.link.up = false;
    fake_announce(&fake);
    expect_nothing(a);
    send_pattern(a, 60, 1, 0);
    CHECK_EQ(a->info.tx_frames, 1);
    fake.link.index = 0;
    fake_announce(&fake);
    struct ams_frame *frame;
    CHECK_EQ(a->ops->rx(a, &frame, 1, 1), -AMS_ENODEV);
    CHECK_EQ(fake.maps, 1);
    a->ops->flush(a, 2000);
    CHECK_EQ(a->ops->deadline(a), AMS_NEVER);
    ams_port_close(a);
    ams_port_close(b);
    end();
}

static void test_errors_of_a_sync_that_pass_are_no_end(void)
{
    begin();
    struct ams_port *port = open_port("eth0", 0);
    fake.sync_error = EIO;
    expect_nothing(port);
    expect_nothing(port);
    ams_port_close(port);
    end();
}

int main(void)
{
    RUN(test_a_link_that_is_down_is_not_polled);
    RUN(test_an_interface_that_is_gone_breaks_the_port_for_good);
    RUN(test_a_pipe_ends_with_its_interface_but_doesn_t_care_about_its_state);
    RUN(test_errors_of_a_sync_that_pass_are_no_end);
    return check_report();
}
