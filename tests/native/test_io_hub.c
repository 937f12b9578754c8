/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hub: learning, bounds, wakeups, offloads, impairments in virtual time.
 */
#include <dirent.h>

#include "hub_fixture.h"
#include "io/hub.h"
#include "wire/ipv4.h"

#define NOTHING (-(long long)AMS_EAGAIN)

static void test_floods_what_it_does_not_know_and_learns(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_port *a = mem_port(hub), *b = mem_port(hub), *c = mem_port(hub);

    CHECK_EQ(send_number(a, 1, 2, 10, 1), 0);
    CHECK_EQ(receive_number(b, 1), 10);
    CHECK_EQ(receive_number(c, 1), 10);
    CHECK_EQ(receive_number(a, 1), NOTHING);
    CHECK_EQ(send_number(b, 2, 1, 11, 1), 0);
    CHECK_EQ(receive_number(a, 1), 11);
    CHECK_EQ(receive_number(c, 1), NOTHING);
    CHECK_EQ(send_number(a, 1, BROADCAST, 12, 1), 0);
    CHECK_EQ(receive_number(b, 1), 12);
    CHECK_EQ(receive_number(c, 1), 12);
    /* an address that moves is learnt anew, one whose port went is forgotten */
    CHECK_EQ(send_number(c, 2, 1, 13, 1), 0);
    CHECK_EQ(receive_number(a, 1), 13);
    CHECK_EQ(send_number(a, 1, 2, 14, 1), 0);
    CHECK_EQ(receive_number(c, 1), 14);
    CHECK_EQ(receive_number(b, 1), NOTHING);
    ams_port_close(c);
    CHECK_EQ(send_number(a, 1, 2, 15, 1), 0);
    CHECK_EQ(receive_number(b, 1), 15);
    ams_port_close(b);
    CHECK_EQ(send_number(a, 1, 2, 16, 1), 0);
    ams_hub_free(hub);
    ams_port_close(a); /* the hub goes with its last port */
}

static void test_many_ports_come_and_go(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_port *ports[40];

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 40; i++)
            ports[i] = mem_port(hub);
        CHECK_EQ(send_number(ports[0], 1, BROADCAST, 7, 1), 0);
        for (int i = 0; i < 40; i += 2)
            ams_port_close(ports[i]); /* half of them with the frame unread */
        for (int i = 1; i < 40; i += 2) {
            CHECK_EQ(receive_number(ports[i], 1), 7);
            ams_port_close(ports[i]);
        }
    }
    ams_hub_free(hub);
}

static void test_fd_is_readable_while_frames_wait(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_port *a = mem_port(hub), *b = mem_port(hub);

    CHECK(!port_readable(b));
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(send_number(a, 1, BROADCAST, i, 1), 0);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(port_readable(b));
        CHECK_EQ(receive_number(b, 1), i);
    }
    CHECK(!port_readable(b));
    CHECK_EQ(receive_number(b, 1), NOTHING);
    CHECK_EQ(send_number(a, 1, BROADCAST, 3, 1), 0);
    CHECK(port_readable(b));
    ams_port_close(a);
    CHECK_EQ(receive_number(b, 1), 3);
    ams_port_close(b);
    ams_hub_free(hub);
}

static void test_a_group_signals_nobody_in_it(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_port *a = mem_port(hub), *b = mem_port(hub), *stranger = mem_port(hub);

    ams_port_set_group(a, 7);
    ams_port_set_group(b, 7);
    CHECK_EQ(send_number(a, 1, BROADCAST, 10, 1), 0);
    CHECK(!port_readable(b) && ams_port_waiting(b) && !ams_port_waiting(a));
    CHECK(port_readable(stranger) && !ams_port_waiting(stranger));
    CHECK_EQ(receive_number(stranger, 1), 10);
    CHECK_EQ(receive_number(b, 1), 10);
    CHECK(!ams_port_waiting(b));
    /* strangers signal, whatever waits already */
    CHECK_EQ(send_number(a, 1, BROADCAST, 11, 1), 0);
    CHECK_EQ(receive_number(stranger, 1), 11);
    CHECK_EQ(send_number(stranger, 3, BROADCAST, 12, 1), 0);
    CHECK(port_readable(b));
    CHECK_EQ(receive_number(b, 1), 11);
    CHECK(port_readable(b)); /* what is left behind is signalled */
    CHECK_EQ(receive_number(b, 1), 12);
    CHECK(!port_readable(b));
    /* so it is when the group is left, and when a frame is held back */
    CHECK_EQ(receive_number(a, 1), 12);
    CHECK_EQ(send_number(b, 2, BROADCAST, 13, 1), 0);
    CHECK(!port_readable(a));
    ams_port_set_group(a, 0);
    CHECK(port_readable(a) && !ams_port_waiting(a));
    CHECK_EQ(receive_number(a, 1), 13);
    ams_port_set_group(a, 7);
    struct ams_impairment slow = {.delay_ns = 100};
    CHECK_EQ(ams_hub_impair(hub, &slow), 0);
    CHECK_EQ(send_number(b, 2, 1, 14, 1), 0);
    CHECK(!port_readable(a) && ams_port_waiting(a));
    CHECK_EQ(receive_number(a, 50), NOTHING);
    CHECK_EQ(receive_number(a, 101), 14);
    CHECK(!port_readable(a) && !ams_port_waiting(a));
    ams_port_close(a);
    ams_port_close(b);
    ams_port_close(stranger);
    ams_hub_free(hub);
}

static void test_an_inbox_is_bounded(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_port *a = mem_port(hub), *b = mem_port(hub);

    for (uint32_t i = 0; i < HUB_INBOX_FRAMES + 5; i++)
        CHECK_EQ(send_number(a, 1, BROADCAST, i, 1), 0);
    CHECK_EQ(port_info(b).rx_dropped, 5);
    for (uint32_t i = 0; i < HUB_INBOX_FRAMES; i++)
        CHECK_EQ(receive_number(b, 1), i);
    CHECK_EQ(receive_number(b, 1), NOTHING);
    CHECK_EQ(port_info(b).rx_frames, HUB_INBOX_FRAMES);
    CHECK_EQ(port_info(a).tx_frames, HUB_INBOX_FRAMES + 5);
    ams_port_close(a);
    ams_port_close(b);
    ams_hub_free(hub);
}

static void test_offloads_pass_frames_as_they_are(void)
{
    static uint8_t head[FRAME_HEADROOM + 54], payload[40000];
    struct ams_hub *hub = ams_hub_new(1, 0, 0), *plain = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_port *a = mem_port(hub), *b = mem_port(hub), *c = mem_port(plain), *d = mem_port(plain);
    struct ams_tx tx = {.head = head + FRAME_HEADROOM, .head_len = 54, .total = 54 + sizeof(payload), .n_frags = 2,
                        .flags = TX_CSUM | TX_GSO4, .csum_start = 34, .csum_offset = 16, .gso_size = 1460,
                        .gso_hdr_len = 54, .frags = {{payload, 1001}, {payload + 1001, sizeof(payload) - 1001}}};
    struct ams_frame *frame;

    memset(payload, 0x5a, sizeof(payload));
    CHECK_EQ(port_info(a).caps, HUB_CAPS);
    CHECK_EQ(port_info(c).caps, 0);
    CHECK_EQ(a->ops->tx(a, &tx, 1, 1), 1);
    CHECK_EQ(b->ops->rx(b, &frame, 1, 1), 1);
    CHECK_EQ(frame->len, tx.total);
    CHECK_EQ(frame->flags, FRAME_CSUM_OK | FRAME_CSUM_PARTIAL | FRAME_GSO);
    CHECK_EQ(frame->gso_size, 1460);
    CHECK_MEM(frame->data + 54, payload, sizeof(payload));
    frame_free(frame);
    /* Without offloads the checksum is real, over pieces of odd lengths. */
    tx.flags = TX_CSUM;
    tx.gso_size = 0;
    tx.total = 54 + 33;
    tx.frags[0].len = 11;
    tx.frags[1].len = 22;
    CHECK_EQ(c->ops->tx(c, &tx, 1, 1), 1);
    CHECK_EQ(d->ops->rx(d, &frame, 1, 1), 1);
    CHECK_EQ(frame->flags, 0);
    uint32_t sum = 0;
    for (uint32_t i = 34; i < frame->len; i += 2)
        sum += load_be16(frame->data + i) & (i + 1 < frame->len ? 0xffff : 0xff00);
    CHECK_EQ((sum & 0xffff) + (sum >> 16), 0xffff);
    CHECK(load_be16(frame->data + 50) != 0);
    frame_free(frame);
    tx.total = tx.frags[1].len = 1600; /* too long for the MTU */
    tx.head_len = tx.n_frags = 0;
    tx.flags = 0;
    CHECK_EQ(c->ops->tx(c, &tx, 1, 1), 1);
    CHECK_EQ(port_info(c).tx_dropped, 1);
    ams_port_close(a);
    ams_port_close(b);
    ams_port_close(c);
    ams_port_close(d);
    ams_hub_free(hub);
    ams_hub_free(plain);
}

/* ---- impairments --------------------------------------------------------------- */

struct lab {
    struct ams_hub *hub;
    struct ams_port *a, *b;
};

static struct lab lab_new(uint64_t seed, struct ams_impairment what)
{
    struct lab lab = {.hub = ams_hub_new(seed, 0, AMS_HUB_NO_OFFLOAD)};
    lab.a = mem_port(lab.hub);
    lab.b = mem_port(lab.hub);
    CHECK_EQ(ams_hub_impair(lab.hub, &what), 0);
    return lab;
}

static void lab_free(struct lab *lab)
{
    ams_port_close(lab->a);
    ams_port_close(lab->b);
    ams_hub_free(lab->hub);
}

static void test_delay_holds_frames_until_their_time(void)
{
    struct lab lab = lab_new(1, (struct ams_impairment){.delay_ns = 1000});

    CHECK_EQ(ams_hub_deadline(lab.hub), AMS_NEVER);
    CHECK_EQ(send_number(lab.a, 1, BROADCAST, 1, 100), 0);
    CHECK_EQ(send_number(lab.a, 1, BROADCAST, 2, 200), 0);
    CHECK_EQ(ams_hub_deadline(lab.hub), 1100);
    CHECK_EQ(lab.b->ops->deadline(lab.b), 1100);
    CHECK(port_readable(lab.b)); /* so that a sleeper learns of the deadline */
    CHECK_EQ(receive_number(lab.b, 1099), NOTHING);
    CHECK(!port_readable(lab.b));
    CHECK_EQ(receive_number(lab.b, 1100), 1);
    CHECK_EQ(receive_number(lab.b, 1100), NOTHING);
    CHECK_EQ(lab.b->ops->deadline(lab.b), 1200);
    CHECK_EQ(receive_number(lab.b, 1200), 2);
    CHECK_EQ(ams_hub_deadline(lab.hub), AMS_NEVER);
    lab_free(&lab);
}

static void test_rate_serialises_and_its_queue_is_bounded(void)
{
    /* 64 bytes at 512 kb/s: 1 ms each */
    struct lab lab = lab_new(1, (struct ams_impairment){.rate_bps = 512000, .queue_frames = 4});

    for (uint32_t i = 0; i < 6; i++)
        CHECK_EQ(send_number(lab.a, 1, BROADCAST, i, 100), 0);
    CHECK_EQ(port_info(lab.b).rx_dropped, 2);
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t due = 100 + (i + 1) * AMS_NS_PER_MS;
        CHECK_EQ(receive_number(lab.b, due - 1), NOTHING);
        CHECK_EQ(receive_number(lab.b, due), i);
    }
    CHECK_EQ(send_number(lab.a, 1, BROADCAST, 9, 5 * AMS_NS_PER_MS), 0);
    CHECK_EQ(receive_number(lab.b, 6 * AMS_NS_PER_MS), 9);
    lab_free(&lab);
}

static void test_jitter_keeps_order_and_reordering_does_not(void)
{
    struct lab lab = lab_new(2, (struct ams_impairment){.delay_ns = 1000, .jitter_ns = 5000});
    for (uint32_t i = 0; i < 500; i++)
        CHECK_EQ(send_number(lab.a, 1, BROADCAST, i, 100 + i), 0);
    for (uint32_t i = 0; i < 500; i++)
        CHECK_EQ(receive_number(lab.b, 10000), i);
    lab_free(&lab);

    lab = lab_new(2, (struct ams_impairment){.delay_ns = 1000, .reorder = 0.1, .reorder_delay_ns = 50});
    uint32_t late = 0;
    long long last = -1;
    for (uint32_t i = 0; i < 500; i++)
        CHECK_EQ(send_number(lab.a, 1, BROADCAST, i, 100 + i), 0);
    for (uint32_t i = 0; i < 500; i++) {
        long long number = receive_number(lab.b, 10000);
        CHECK(number >= 0);
        late += number < last;
        last = number;
    }
    CHECK(late > 20 && late < 100);
    lab_free(&lab);
}

/* What arrives of 2000 frames, as a hash, and how many. */
static uint64_t fate(uint64_t seed, struct ams_impairment what, uint32_t *arrived)
{
    struct lab lab = lab_new(seed, what);
    uint64_t hash = 1469598103934665603u;
    char frame[64];

    *arrived = 0;
    for (uint32_t i = 0; i < 2000; i++) {
        CHECK_EQ(send_number(lab.a, 1, BROADCAST, i, 1000 + i * 100), 0);
        while (ams_port_recv(lab.b, frame, sizeof(frame), 1000 + i * 100) > 0) {
            for (int k = 0; k < 64; k++)
                hash = (hash ^ (uint8_t)frame[k]) * 1099511628211u;
            hash = (hash ^ i) * 1099511628211u;
            ++*arrived;
        }
    }
    lab_free(&lab);
    return hash;
}

static void test_the_seed_decides(void)
{
    struct ams_impairment what = {.loss = 0.05, .duplicate = 0.03, .reorder = 0.05, .corrupt = 0.02, .delay_ns = 700,
                                  .reorder_delay_ns = 3000, .jitter_ns = 300};
    uint32_t first, second, other;
    uint64_t hash = fate(7, what, &first);

    CHECK(fate(7, what, &second) == hash && first == second);
    CHECK(fate(8, what, &other) != hash);
    CHECK(first > 1900 && first < 2020);
}

static void test_each_impairment_does_what_it_says(void)
{
    uint32_t arrived;
    uint64_t clean = fate(1, (struct ams_impairment){.delay_ns = 1}, &arrived);

    CHECK_EQ(arrived, 1999); /* the last one is still under way */
    fate(1, (struct ams_impairment){.loss = 1}, &arrived);
    CHECK_EQ(arrived, 0);
    fate(1, (struct ams_impairment){.loss = 0.2}, &arrived);
    CHECK(arrived > 1500 && arrived < 1700);
    fate(1, (struct ams_impairment){.duplicate = 1}, &arrived);
    CHECK_EQ(arrived, 4000);
    CHECK(fate(1, (struct ams_impairment){.corrupt = 1, .delay_ns = 1}, &arrived) != clean);
    CHECK_EQ(arrived, 1999); /* the MAC addresses are spared */
}

static void test_losses_come_in_bursts(void)
{
    struct lab lab = lab_new(3, (struct ams_impairment){.burst = 0.01, .burst_frames = 10});
    uint32_t lost = 0, bursts = 0, run = 0;

    for (uint32_t i = 0; i < 20000; i++) {
        CHECK_EQ(send_number(lab.a, 1, BROADCAST, i, 1000 + i), 0);
        bool arrived = receive_number(lab.b, 1000 + i) >= 0;
        bursts += !arrived && !run;
        run = arrived ? 0 : run + 1;
        lost += !arrived;
    }
    CHECK(bursts > 120 && bursts < 260);
    CHECK(lost > 7 * bursts && lost < 13 * bursts);
    lab_free(&lab);
}

/* Sends an IP header with an ECN field into a queue of three, and returns
 * the first bytes of the last frame. */
static void marked(bool v6, uint8_t ecn, uint8_t out[20])
{
    struct lab lab = lab_new(3, (struct ams_impairment){.rate_bps = 1000000, .mark_frames = 2});
    struct ipv4_repr ip4 = {.src = {10, 0, 0, 1}, .dst = {10, 0, 0, 2}, .ttl = 64, .protocol = 6, .total_len = 46,
                            .tos = ecn};
    uint8_t frame[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x00};
    char got[128];

    if (v6) {
        frame[12] = 0x86, frame[13] = 0xdd, frame[14] = 0x60, frame[15] = (uint8_t)(ecn << 4);
    } else {
        ipv4_emit(frame + 14, &ip4);
    }
    for (int i = 0; i < 3; i++)
        CHECK_EQ(ams_port_send(lab.a, (const char *)frame, sizeof(frame), 1000), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(ams_port_recv(lab.b, got, sizeof(got), 1000000000), sizeof(frame));
    memcpy(out, got + 14, 20);
    lab_free(&lab);
}

static void test_a_long_queue_marks_who_understands_it(void)
{
    struct ipv4_repr ip4;
    uint8_t header[20];

    marked(false, 2, header);
    CHECK_EQ(header[1] & 3, 3);
    CHECK_EQ(ipv4_parse(header, 46, &ip4), WIRE_OK); /* the checksum was renewed */
    marked(false, 0, header);
    CHECK_EQ(header[1] & 3, 0);
    marked(true, 1, header);
    CHECK_EQ(header[1] & 0x30, 0x30);
    marked(true, 0, header);
    CHECK_EQ(header[1] & 0x30, 0);
}

static void test_impossible_impairments_are_refused(void)
{
    struct ams_hub *offloading = ams_hub_new(1, 0, 0), *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_impairment loss = {.loss = 0.1}, none = {0}, wrong = {.loss = 1.1}, nan = {.corrupt = 0.0 / 0.0};

    CHECK_EQ(ams_hub_impair(offloading, &loss), -AMS_EINVAL);
    CHECK_EQ(ams_hub_impair(offloading, &none), 0);
    CHECK_EQ(ams_hub_impair(hub, &wrong), -AMS_EINVAL);
    CHECK_EQ(ams_hub_impair(hub, &nan), -AMS_EINVAL);
    CHECK_EQ(ams_hub_impair(hub, &loss), 0);
    CHECK(ams_hub_new(1, 20, 0) == NULL);
    ams_hub_free(hub);
    ams_hub_free(offloading);
    ams_hub_free(NULL);
}

/* ---- errors ------------------------------------------------------------------------ */

static void test_bad_specs_say_what_to_do(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    const struct {
        const char *spec;
        struct ams_hub *hub;
        uint32_t mtu, flags;
        const char *word;
    } bad[] = {
        {NULL, NULL, 0, 0, "tap:, mem:, shm:"},    {"", NULL, 0, 0, "tap:, mem:"}, {"eth0", NULL, 0, 0, "tap:, mem:"},
        {"taps:x", NULL, 0, 0, "tap:, mem:, shm:"}, {"tap:", NULL, 0, 0, "name"},   {"tap:a/b", NULL, 0, 0, "a/b"},
        {"tap:t%d", NULL, 0, 0, "t%d"},      {"tap:0123456789abcdef", NULL, 0, 0, "too long"},
        {"mem:", hub, 0, 0, "name"},         {"mem:x", NULL, 0, 0, "hub"},   {"mem:x", hub, 9000, 0, "MTU"},
        {"mem:x", hub, 20, 0, "MTU"},        {"mem:x", hub, 0, AMS_PORT_NO_OFFLOAD, "AMS_HUB_NO_OFFLOAD"},
    };

    for (size_t i = 0; i < AMS_ARRAY_SIZE(bad); i++) {
        char error[200] = "";
        struct ams_port *port = (struct ams_port *)1;
        struct ams_port_config config = {.spec = bad[i].spec, .hub = bad[i].hub, .mtu = bad[i].mtu,
                                         .flags = bad[i].flags};
        CHECK_EQ(ams_port_open(&port, &config, error, sizeof(error)), -AMS_EINVAL);
        CHECK(port == NULL);
        CHECK(strstr(error, bad[i].word) != NULL);
        CHECK_EQ(ams_port_open(&port, &config, NULL, 0), -AMS_EINVAL);
    }
    struct ams_port *port = mem_port(hub);
    static char big[70000];
    CHECK_EQ(ams_port_send(port, big, 13, 1), -AMS_EINVAL);
    CHECK_EQ(ams_port_send(port, big, 1515, 1), -AMS_EMSGSIZE);
    CHECK_EQ(ams_port_send(port, big, 1514, 1), 0);
    ams_port_close(port);
    ams_port_close(NULL);
    ams_hub_free(hub);
}

static int open_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int n = 0;

    CHECK(directory != NULL);
    while (readdir(directory))
        n++;
    closedir(directory);
    return n;
}

static bool open_ports(void)
{
    char error[100];
    struct ams_port *a = NULL, *b = NULL;
    struct ams_impairment what = {.rate_bps = 1000, .delay_ns = 5};
    struct ams_hub *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_port_config config = {.spec = "mem:x", .hub = hub};
    bool good = hub && ams_hub_impair(hub, &what) == 0 && ams_port_open(&a, &config, error, sizeof(error)) == 0 &&
                ams_port_open(&b, &config, error, sizeof(error)) == 0;

    if (good && send_number(a, 1, BROADCAST, 1, 1) == 0) /* without memory: counted as dropped */
        good = port_info(a).tx_dropped + port_info(b).rx_dropped == 0;
    else
        good = false;
    ams_port_close(a);
    ams_port_close(b);
    ams_hub_free(hub);
    return good;
}

static void test_every_allocation_may_fail(void)
{
    int before = open_fds();
    CHECK(check_every_allocation(open_ports) >= 8);
    CHECK_EQ(open_fds(), before);
}

int main(void)
{
    RUN(test_floods_what_it_does_not_know_and_learns);
    RUN(test_many_ports_come_and_go);
    RUN(test_fd_is_readable_while_frames_wait);
    RUN(test_a_group_signals_nobody_in_it);
    RUN(test_an_inbox_is_bounded);
    RUN(test_offloads_pass_frames_as_they_are);
    RUN(test_delay_holds_frames_until_their_time);
    RUN(test_rate_serialises_and_its_queue_is_bounded);
    RUN(test_jitter_keeps_order_and_reordering_does_not);
    RUN(test_the_seed_decides);
    RUN(test_each_impairment_does_what_it_says);
    RUN(test_losses_come_in_bursts);
    RUN(test_a_long_queue_marks_who_understands_it);
    RUN(test_impossible_impairments_are_refused);
    RUN(test_bad_specs_say_what_to_do);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
