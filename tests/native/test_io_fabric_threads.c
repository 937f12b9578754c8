/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fabric under threads: pairs of clients that sleep in poll() whenever
 * they can, while others attach, claim, look and leave.
 */
#include <pthread.h>
#include <sched.h>

#include "fabric_fixture.h"

#define PAIRS 2
#define FRAMES 8000u
#define WINDOW 48u /* frames under way: nothing overflows, and receivers fall asleep */
#define PATIENCE 20000

struct pair {
    struct client sender, receiver;
    uint16_t from, to;
    _Atomic(uint32_t) received;
};

static void *send_all(void *arg)
{
    struct pair *pair = arg;

    for (uint32_t i = 0; i < FRAMES; i++) {
        while (i - pair->received >= WINDOW)
            sched_yield();
        while (client_send(&pair->sender, i & 1, pair->from, pair->to, i) == -AMS_EAGAIN)
            sched_yield();
    }
    return NULL;
}

static void *receive_all(void *arg)
{
    struct pair *pair = arg;
    struct ams_port_info info;

    ams_port_info(pair->receiver.port, &info);
    for (uint32_t expected = 0; expected < FRAMES;) {
        struct pollfd entry = {info.fd, POLLIN, 0};
        CHECK_EQ(poll(&entry, 1, PATIENCE), 1);
        long long number;
        while ((number = client_receive(&pair->receiver)) >= 0) {
            CHECK_EQ(number, expected);
            pair->received = ++expected;
        }
        CHECK_EQ(number, -AMS_EAGAIN);
    }
    return NULL;
}

/* The control plane, and a client that comes and goes. */
static void *disturb(void *arg)
{
    struct ams_fabric *fabric = arg;
    struct ams_fabric_tuple tuples[64];
    uint64_t values[FABRIC_COUNTERS];
    int indices[64];

    for (int i = 0; i < 150; i++) {
        struct client client;
        struct ams_fabric_frame info;
        char buffer[256];
        CHECK_EQ(client_open(fabric, &client), 0);
        uint16_t number = (uint16_t)(5000 + client.link.index);
        CHECK_EQ(client_claim(fabric, &client, number, 0), 0);
        CHECK_EQ(client_claim(fabric, &client, 80, AMS_CLAIM_GROUP), 0);
        CHECK_EQ(ams_fabric_capture(fabric, i % 5 - 1, 64, 100), 0);
        CHECK_EQ(client_send(&client, false, number, 9, 0), 0);
        CHECK(ams_fabric_tuples(fabric, tuples, 64) >= 2);
        CHECK(ams_fabric_ports(fabric, indices, 64) >= 2);
        CHECK_EQ(ams_fabric_counters(fabric, -1, values, FABRIC_COUNTERS), FABRIC_COUNTERS);
        while (ams_fabric_captured(fabric, &info, buffer, sizeof(buffer)) == 1)
            CHECK(info.captured <= 64);
        while (ams_fabric_punted(fabric, &info, buffer, sizeof(buffer)) == 1)
            CHECK(info.index >= AMS_FABRIC_CLIENTS);
        client_close(&client);
        CHECK_EQ(ams_fabric_detach(fabric, client.link.index), 0);
    }
    return NULL;
}

static void test_frames_arrive_once_and_in_order(void)
{
    struct ams_fabric_config config = fabric_config();
    struct ams_fabric *fabric;
    struct pair pairs[PAIRS];
    pthread_t threads[2 * PAIRS + 2];
    char error[256];

    config.spin_us = 1; /* it sleeps often */
    CHECK_EQ(ams_fabric_new(&fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(fabric), 0);
    CHECK_EQ(ams_fabric_start(fabric), 0);
    for (int i = 0; i < PAIRS; i++) {
        pairs[i].from = (uint16_t)(1000 + i);
        pairs[i].to = (uint16_t)(2000 + i);
        pairs[i].received = 0;
        CHECK_EQ(client_open(fabric, &pairs[i].sender), 0);
        CHECK_EQ(client_open(fabric, &pairs[i].receiver), 0);
        CHECK_EQ(client_claim(fabric, &pairs[i].sender, pairs[i].from, 0), 0);
        CHECK_EQ(client_claim(fabric, &pairs[i].receiver, pairs[i].to, 0), 0);
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(pthread_create(&threads[2 * i], NULL, send_all, &pairs[i]), 0);
        CHECK_EQ(pthread_create(&threads[2 * i + 1], NULL, receive_all, &pairs[i]), 0);
    }
    CHECK_EQ(pthread_create(&threads[2 * PAIRS], NULL, disturb, fabric), 0);
    CHECK_EQ(pthread_create(&threads[2 * PAIRS + 1], NULL, disturb, fabric), 0);
    for (int i = 0; i < 2 * PAIRS + 2; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    ams_fabric_stop(fabric);
    for (int i = 0; i < PAIRS; i++) {
        CHECK_EQ(fabric_counter(fabric, pairs[i].receiver.link.index, FABRIC_OUT_FRAMES), FRAMES);
        CHECK_EQ(fabric_counter(fabric, pairs[i].receiver.link.index, FABRIC_OUT_FULL), 0);
        client_close(&pairs[i].sender);
        client_close(&pairs[i].receiver);
    }
    ams_fabric_free(fabric);
}

int main(void)
{
    RUN(test_frames_arrive_once_and_in_order);
    return check_report();
}
