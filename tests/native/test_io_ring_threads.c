/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Both ends of a ring in threads of their own, in one mapping, so that
 * ThreadSanitizer sees them meet.  Either end sleeps without a timeout to
 * speak of whenever it has nothing to do: a lost wakeup would hang the test.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "core/hash.h"
#include "io/ring.h"

#define FRAMES 60000u
#define PATIENCE 20000

struct meeting {
    struct ring_region device, user;
    int to_user[2], to_device[2]; /* pipes */
};

static void ring_the_bell(struct ring_bell *bell, uint32_t what, const int pipe[2])
{
    ring_fence();
    if (ring_bell_due(bell, what))
        CHECK_EQ(write(pipe[1], "", 1), 1);
}

static void sleep_on(const int pipe[2])
{
    struct pollfd entry = {pipe[0], POLLIN, 0};
    char bytes[64];
    CHECK_EQ(poll(&entry, 1, PATIENCE), 1);
    CHECK(read(pipe[0], bytes, sizeof(bytes)) > 0);
}

/* The user: sends numbers. */
static void *send_numbers(void *arg)
{
    struct meeting *meeting = arg;
    struct ring *tx = &meeting->user.tx;
    struct ams_rng rng;
    uint32_t number = 0;

    rng_init(&rng, 1, 1);
    while (number < FRAMES) {
        uint32_t burst = 1 + rng_below(&rng, 12);
        while (burst-- && number < FRAMES && !ring_user_full(tx)) {
            struct ring_item item;
            uint8_t *buffer = ring_peek(tx, &item);
            memcpy(buffer, &number, 4);
            ring_insert(tx, item, 4, 0);
            number++;
        }
        ring_user_push(tx);
        ring_the_bell(meeting->user.device_bell, RING_WAKE_TX, meeting->to_device);
        if (!ring_user_full(tx))
            continue;
        ring_bell_arm(meeting->user.user_bell, RING_WAKE_TX);
        if (ring_user_full(tx))
            sleep_on(meeting->to_user);
        else if (!ring_bell_due(meeting->user.user_bell, RING_WAKE_TX))
            sleep_on(meeting->to_user); /* it was rung after all: its byte is, or will be, there */
    }
    return NULL;
}

/* The device: takes them. */
static void *take_numbers(void *arg)
{
    struct meeting *meeting = arg;
    struct ring *tx = &meeting->device.tx;
    uint32_t expected = 0;

    while (expected < FRAMES) {
        while (!ring_device_empty(tx)) {
            struct ring_item item;
            const uint8_t *buffer = ring_extract(tx, &item);
            uint32_t number;
            memcpy(&number, buffer, 4);
            CHECK_EQ(number, expected);
            expected++;
            if (expected % 5 == 0) {
                ring_device_pull(tx);
                ring_the_bell(meeting->device.user_bell, RING_WAKE_TX, meeting->to_user);
            }
        }
        ring_device_pull(tx);
        ring_the_bell(meeting->device.user_bell, RING_WAKE_TX, meeting->to_user);
        if (expected == FRAMES)
            break;
        ring_bell_arm(meeting->device.device_bell, RING_WAKE_TX);
        if (ring_device_empty(tx) || !ring_bell_due(meeting->device.device_bell, RING_WAKE_TX))
            sleep_on(meeting->to_device);
    }
    return NULL;
}

static void test_no_frame_and_no_wakeup_is_lost(void)
{
    const struct ring_layout layout = {16, 8, 2048};
    const struct ring_link link = {.mtu = 1500};
    struct meeting meeting;
    pthread_t threads[2];

    CHECK_EQ(ring_region_create(&meeting.device, "test", &layout, &link), 0);
    CHECK_EQ(ring_region_alias(&meeting.user, &meeting.device), 0);
    ring_bell_disarm(meeting.device.user_bell);
    ring_bell_disarm(meeting.device.device_bell);
    CHECK(pipe(meeting.to_user) == 0 && pipe(meeting.to_device) == 0);
    CHECK_EQ(pthread_create(&threads[0], NULL, send_numbers, &meeting), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, take_numbers, &meeting), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < 2; i++) {
        close(meeting.to_user[i]);
        close(meeting.to_device[i]);
    }
    ring_region_close(&meeting.device);
}

int main(void)
{
    RUN(test_no_frame_and_no_wakeup_is_lost);
    return check_report();
}
