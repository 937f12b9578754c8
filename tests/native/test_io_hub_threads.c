/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hub under threads: each frame arrives once and in order, no wakeup is
 * lost (each receiver sleeps in poll() without a timeout), and ports may come
 * and go meanwhile.
 */
#include <pthread.h>

#include "hub_fixture.h"

#define PAIRS 2
#define FRAMES 20000u
#define WINDOW 512u /* frames under way: no inbox overflows, and receivers fall asleep */

struct pair {
    struct ams_port *sender, *receiver;
    uint8_t from, to;
    _Atomic(uint32_t) received;
};

static void wait_readable(struct ams_port *port)
{
    struct pollfd entry = {port_info(port).fd, POLLIN, 0};
    CHECK_EQ(poll(&entry, 1, 20000), 1);
}

static void *send_all(void *arg)
{
    struct pair *pair = arg;

    for (uint32_t i = 0; i < FRAMES; i++) {
        while (i - pair->received >= WINDOW)
            sched_yield();
        CHECK_EQ(send_number(pair->sender, pair->from, pair->to, i, 1), 0);
    }
    return NULL;
}

static void *receive_all(void *arg)
{
    struct pair *pair = arg;

    for (uint32_t expected = 0; expected < FRAMES;) {
        wait_readable(pair->receiver);
        long long number;
        while ((number = receive_number(pair->receiver, 1)) >= 0) {
            if (number >= FRAMES) /* the visitor's broadcast */
                continue;
            CHECK_EQ(number, expected);
            pair->received = ++expected;
        }
        CHECK_EQ(number, -AMS_EAGAIN);
    }
    return NULL;
}

static void *visit(void *arg)
{
    for (int i = 0; i < 300; i++) {
        struct ams_port *port = mem_port(arg);
        CHECK_EQ(send_number(port, 200, BROADCAST, FRAMES + 1, 1), 0);
        ams_port_close(port);
    }
    return NULL;
}

static void test_frames_arrive_once_and_in_order(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct pair pairs[PAIRS];
    pthread_t threads[2 * PAIRS + 1];

    for (int i = 0; i < PAIRS; i++) {
        pairs[i].from = (uint8_t)(2 * i + 1);
        pairs[i].to = (uint8_t)(2 * i + 2);
        pairs[i].received = 0;
        pairs[i].sender = mem_port(hub);
        pairs[i].receiver = mem_port(hub);
        CHECK_EQ(send_number(pairs[i].receiver, pairs[i].to, 250, FRAMES, 1), 0); /* to be learnt */
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(pthread_create(&threads[2 * i], NULL, send_all, &pairs[i]), 0);
        CHECK_EQ(pthread_create(&threads[2 * i + 1], NULL, receive_all, &pairs[i]), 0);
    }
    CHECK_EQ(pthread_create(&threads[2 * PAIRS], NULL, visit, hub), 0);
    for (int i = 0; i <= 2 * PAIRS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(port_info(pairs[i].receiver).rx_dropped, 0);
        ams_port_close(pairs[i].sender);
        ams_port_close(pairs[i].receiver);
    }
    ams_hub_free(hub);
}

int main(void)
{
    RUN(test_frames_arrive_once_and_in_order);
    return check_report();
}
