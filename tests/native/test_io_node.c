/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes: two of them on a hub in virtual time; construction when every
 * allocation may fail; what is left after they are gone; a batch of which
 * validation refuses a part.
 */
#include "hub_fixture.h"
#include "io/hub.h"
#include "io/node.c" /* to look inside a node */
#include "packets.h"

#define STEP AMS_NS_PER_MS
#define EVENTS 64

struct host {
    struct ams_node *node;
    int32_t events[EVENTS * AMS_EVENT_WORDS];
    char blob[65536];
};

static int host_new(struct host *host, struct ams_hub *hub, uint8_t n)
{
    char error[200];
    struct ams_ifaddr addresses[2] = {{packets_endpoint(false, n, 0), 24}, {packets_endpoint(true, n, 0), 64}};
    struct ams_port_config port = {.spec = "mem:node", .hub = hub};
    struct ams_stack_config stack = {.seed = {n, 2}, .addresses = addresses, .n_addresses = 2,
                                     .flags = AMS_STACK_NO_DAD, .now = STEP};
    return ams_node_new(&host->node, &port, &stack, error, sizeof(error));
}

/* Lets both hosts work until `want` is seen at host, or 10 virtual seconds.
 * Return: the event's id. */
static int32_t run_until(struct host *hosts, int who, int32_t want, uint64_t *now)
{
    for (int i = 0; i < 10000; i++, *now += STEP) {
        for (int h = 0; h < 2; h++) {
            struct host *host = &hosts[h];
            ams_node_flush(host->node, *now);
            int n = ams_node_poll(host->node, *now, host->events, EVENTS, host->blob, sizeof(host->blob));
            CHECK(n >= 0 && n < EVENTS);
            for (int e = 0; e < n; e++) {
                const int32_t *event = &host->events[e * AMS_EVENT_WORDS];
                if (h == who && event[1] & want)
                    return event[0];
            }
        }
    }
    CHECK(!"the event came");
    return -1;
}

static uint64_t counter(struct ams_node *node, const char *name)
{
    uint64_t values[400];
    int n = ams_node_counters(node, values, 400);

    CHECK(n < 400 && ams_counter_name(n) == NULL && ams_counter_name(-1) == NULL);
    for (int i = 0; i < n; i++) {
        if (strcmp(ams_counter_name(i), name) == 0)
            return values[i];
    }
    CHECK(!"there is such a counter");
    return 0;
}

static void test_two_nodes_talk_and_leave_nothing(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_hub *hub = ams_hub_new(1, 0, 0);
        struct host *hosts = calloc(2, sizeof(*hosts));
        struct ams_endpoint server = packets_endpoint(v6, 1, 80);
        uint64_t now = STEP;

        CHECK(hosts != NULL);
        CHECK_EQ(host_new(&hosts[0], hub, 1), 0);
        CHECK_EQ(host_new(&hosts[1], hub, 2), 0);
        CHECK(ams_tcp_listen(ams_node_stack(hosts[0].node), &server, 16, 0) >= 0);
        int id = ams_tcp_connect(ams_node_stack(hosts[1].node), NULL, &server, now);
        CHECK(id >= 0);
        CHECK_EQ(run_until(hosts, 1, AMS_EV_CONNECTED, &now), id);
        CHECK(ams_tcp_send(ams_node_stack(hosts[1].node), id, "hello", 5) >= 0);
        run_until(hosts, 0, AMS_EV_DATA, &now);
        CHECK_MEM(hosts[0].blob, "hello", 5);
        CHECK(counter(hosts[0].node, "switch.rx_owner") > 0);
        CHECK(counter(hosts[0].node, "switch.tx_passed") > 0);
        CHECK_EQ(counter(hosts[1].node, "switch.tx_tuple"), 0);
        CHECK_EQ(counter(hosts[1].node, "port.tx_frames"), counter(hosts[1].node, "switch.tx_passed"));
        /* Freeing the server resets the connection that it has open. */
        ams_node_free(hosts[0].node);
        ams_node_flush(hosts[1].node, now);
        int n = ams_node_poll(hosts[1].node, now, hosts[1].events, EVENTS, hosts[1].blob, sizeof(hosts[1].blob));
        CHECK(n >= 1);
        CHECK(hosts[1].events[1] & AMS_EV_CLOSED);
        CHECK_EQ(hosts[1].events[2], -AMS_ECONNRESET);
        ams_node_free(hosts[1].node); /* traps if a frame is left */
        CHECK_EQ(hub->pool.in_use, 0);
        ams_hub_free(hub);
        free(hosts);
    }
    ams_node_free(NULL);
}

static void test_claims_of_a_stack_are_the_switch_s(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct host *host = calloc(1, sizeof(*host));
    struct ams_endpoint local = packets_endpoint(false, 1, 80), any = packets_wildcard(true, 443);

    CHECK(host != NULL);
    CHECK_EQ(host_new(host, hub, 1), 0);
    int a = ams_tcp_listen(ams_node_stack(host->node), &local, 16, 0);
    int b = ams_tcp_listen(ams_node_stack(host->node), &any, 16, AMS_LISTEN_V6ONLY);
    CHECK(a >= 0 && b >= 0);
    CHECK_EQ(host->node->sw.tuples.used, 2);
    CHECK_EQ(host->node->sw.wildcards, 1);
    ams_tcp_close(ams_node_stack(host->node), a);
    ams_tcp_close(ams_node_stack(host->node), b);
    CHECK_EQ(host->node->sw.tuples.used, 0);
    ams_node_free(host->node);
    ams_hub_free(hub);
    free(host);
}

static void test_refused_descriptors_make_way(void)
{
    static struct ams_tx tx[6];
    const uint8_t verdicts[6] = {SWITCH_TX_TUPLE, 0, SWITCH_TX_ARP, 0, 0, SWITCH_TX_NDP};
    uint32_t seen = 0;

    for (uint32_t i = 0; i < 6; i++)
        tx[i].total = i;
    node_compact(tx, 6, verdicts);
    CHECK_EQ(tx[0].total, 1);
    CHECK_EQ(tx[1].total, 3);
    CHECK_EQ(tx[2].total, 4);
    for (int i = 0; i < 6; i++)
        seen |= 1u << tx[i].total; /* all are still there, to be freed */
    CHECK_EQ(seen, 63);
}

/* A received frame over some bytes, as far as a capture looks at it. */
static struct ams_frame seen_frame(uint8_t *bytes, uint32_t length)
{
    return (struct ams_frame){.data = bytes, .len = length};
}

static void test_captures_keep_whole_records(void)
{
    static uint8_t bytes[100] = "received";
    struct node_capture *capture = node_capture_new(0, 128); /* room for 24 + 36 bytes, and 24 + 10 */
    struct ams_frame first = seen_frame(bytes, 36), second = seen_frame(bytes, 10);
    struct ams_frame *const frames[] = {&first, &second, &second};
    const int32_t targets[] = {0, SWITCH_TO_NOBODY, 0};
    const uint8_t reasons[] = {0, SWITCH_RX_RUNT, 0};
    struct ams_captured info;
    char out[200];

    CHECK(capture != NULL);
    node_capture_rx(capture, frames, 3, targets, reasons, 100, 7);
    CHECK_EQ(capture->lost, 1);
    CHECK_EQ(node_capture_take(capture, out, 50), 0); /* not a part of one */
    CHECK_EQ(node_capture_take(capture, out, 70), 64);
    memcpy(&info, out, sizeof(info));
    CHECK_EQ(info.time, 7);
    CHECK_EQ(info.length, 36);
    CHECK_EQ(info.captured, 36);
    CHECK_EQ(info.reason, -1);
    CHECK_EQ(info.outgoing, 0);
    CHECK_MEM(out + sizeof(info), bytes, 36);
    CHECK_EQ(node_capture_take(capture, out, sizeof(out)), 40);
    memcpy(&info, out, sizeof(info));
    CHECK_EQ(info.length, 10);
    CHECK_EQ(info.reason, 100 + SWITCH_RX_RUNT);
    CHECK_EQ(node_capture_take(capture, out, sizeof(out)), 0);
    node_capture_rx(capture, frames, 1, targets, reasons, 100, 8); /* there is room again */
    CHECK_EQ(node_capture_take(capture, out, sizeof(out)), 64);
    CHECK_EQ(capture->lost, 1);
    node_capture_free(capture);
    node_capture_free(NULL);
}

static void test_captures_gather_and_cut_what_is_sent(void)
{
    struct node_capture *capture = node_capture_new(12, 4096);
    uint8_t head[] = "headhead";
    const uint8_t verdicts[] = {SWITCH_PASSED, SWITCH_TX_TUPLE};
    struct ams_tx tx[2] = {
        {.head = head, .head_len = 8, .total = 18, .n_frags = 2, .frags = {{(const uint8_t *)"ab", 2},
                                                                           {(const uint8_t *)"cdefghij", 8}}},
        {.head = head, .head_len = 5, .total = 5},
    };
    struct ams_captured info;
    char out[200];

    CHECK(capture != NULL);
    node_capture_tx(capture, tx, 2, verdicts, 50, 9);
    CHECK_EQ(node_capture_take(capture, out, sizeof(out)), 40 + 32);
    memcpy(&info, out, sizeof(info));
    CHECK_EQ(info.outgoing, 1);
    CHECK_EQ(info.length, 18);
    CHECK_EQ(info.captured, 12);
    CHECK_MEM(out + sizeof(info), "headheadabcd", 12);
    memcpy(&info, out + 40, sizeof(info));
    CHECK_EQ(info.captured, 5);
    CHECK_EQ(info.reason, 50 + SWITCH_TX_TUPLE);
    node_capture_free(capture);
}

static void test_a_node_captures_what_its_port_has(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct host *hosts = calloc(2, sizeof(*hosts));
    struct ams_endpoint server = packets_endpoint(false, 1, 80);
    uint64_t now = STEP;
    static char out[1 << 16];
    size_t size, frames[2] = {0, 0};

    CHECK(hosts != NULL);
    CHECK_EQ(host_new(&hosts[0], hub, 1), 0);
    CHECK_EQ(host_new(&hosts[1], hub, 2), 0);
    CHECK_EQ(ams_node_captured(hosts[0].node, out, sizeof(out)), 0); /* nobody captures */
    CHECK_EQ(ams_node_capture(hosts[0].node, 0, sizeof(out)), 0);
    CHECK(ams_tcp_listen(ams_node_stack(hosts[0].node), &server, 16, 0) >= 0);
    CHECK(ams_tcp_connect(ams_node_stack(hosts[1].node), NULL, &server, now) >= 0);
    run_until(hosts, 1, AMS_EV_CONNECTED, &now);
    size = ams_node_captured(hosts[0].node, out, sizeof(out));
    for (size_t at = 0; at < size;) {
        struct ams_captured info;
        memcpy(&info, out + at, sizeof(info));
        CHECK(info.length >= 42 && info.captured == info.length && info.time >= STEP);
        frames[info.outgoing]++;
        at += (sizeof(info) + info.captured + 7) / 8 * 8;
    }
    CHECK_EQ(frames[0], counter(hosts[0].node, "port.rx_frames"));
    CHECK_EQ(frames[1], counter(hosts[0].node, "port.tx_frames"));
    CHECK_EQ(ams_node_capture_lost(hosts[0].node), 0);
    CHECK_EQ(ams_node_capture(hosts[0].node, 0, 0), 0);
    CHECK_EQ(ams_node_capture_lost(hosts[0].node), 0);
    CHECK_EQ(ams_node_capture(hosts[0].node, 64, 4096), 0); /* ends with the node */
    ams_node_free(hosts[0].node);
    ams_node_free(hosts[1].node);
    ams_hub_free(hub);
    free(hosts);
}

static bool begin_capture(void)
{
    struct node_capture *capture = node_capture_new(0, 100);

    node_capture_free(capture);
    return capture != NULL;
}

static void test_texts_are_the_switch_s(void)
{
    int texts = 0;

    for (int i = 0; ams_counter_name(i); i++) {
        CHECK((ams_counter_text(i) != NULL) == (strncmp(ams_counter_name(i), "switch.", 7) == 0));
        texts += ams_counter_text(i) != NULL;
    }
    CHECK_EQ(texts, SWITCH_COUNTERS);
    CHECK(ams_counter_text(-1) == NULL);
}

static bool build_node(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    static struct host host;
    struct ams_endpoint local = packets_endpoint(false, 1, 80);
    bool good = false;

    host.node = NULL;
    if (hub) {
        int status = host_new(&host, hub, 1);
        CHECK(status == 0 || status == -AMS_ENOMEM);
        CHECK((status == 0) == (host.node != NULL));
        good = status == 0 && ams_tcp_listen(ams_node_stack(host.node), &local, 16, 0) >= 0;
    }
    ams_node_free(host.node);
    ams_hub_free(hub);
    return good;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(build_node) >= 10);
    CHECK(check_every_allocation(begin_capture) >= 2);
}

static void test_impossible_configs_are_explained(void)
{
    struct ams_hub *hub = ams_hub_new(1, 0, 0);
    struct ams_node *node = (struct ams_node *)1;
    struct ams_port_config port = {.spec = "mem:node", .hub = hub};
    struct ams_ifaddr loopback = {packets_wildcard(false, 0), 24};
    struct ams_stack_config none = {.seed = {1, 2}}, wild = {.addresses = &loopback, .n_addresses = 1};
    char error[200] = "";

    CHECK(ams_node_new(&node, &port, &none, error, sizeof(error)) < 0);
    CHECK(node == NULL && strstr(error, "mem:node") != NULL);
    CHECK(ams_node_new(&node, &port, &wild, error, sizeof(error)) < 0);
    port.spec = "nowhere:x";
    CHECK_EQ(ams_node_new(&node, &port, &none, NULL, 0), -AMS_EINVAL);
    ams_hub_free(hub);
}

int main(void)
{
    RUN(test_two_nodes_talk_and_leave_nothing);
    RUN(test_claims_of_a_stack_are_the_switch_s);
    RUN(test_refused_descriptors_make_way);
    RUN(test_captures_keep_whole_records);
    RUN(test_captures_gather_and_cut_what_is_sent);
    RUN(test_a_node_captures_what_its_port_has);
    RUN(test_texts_are_the_switch_s);
    RUN(test_every_allocation_may_fail);
    RUN(test_impossible_configs_are_explained);
    return check_report();
}
