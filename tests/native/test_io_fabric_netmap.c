/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A fabric whose uplink is netmap's, over the device of netmap_fake.h: what
 * is in the NIC's rings and in the host's, and a link that fails.
 */
#define _GNU_SOURCE /* memfd_create */

#include "fabric_fixture.h"
#include "io/netmap.h"
#include "netmap_fake.h"
#include "wire/bytes.h"
#include "wire/checksum.h"

#define SHARED_PORT 1u
#define OTHER_PORT 2u

static struct fake fake;
static struct ams_fabric *fabric;
static struct client one, two;
static struct fake_ring *nic_tx, *host_tx;
static uint8_t frame[PACKETS_MAX];

/* In place of the system's: `netmap:` opens the fake's ports. */
const struct netmap_sys *netmap_system(void)
{
    return &fake.sys;
}

/* A fabric on an uplink, with two clients.
 * @system: the operating system has our addresses of this family; -1: of none */
static void begin(const char *spec, int system)
{
    struct ams_fabric_config config = fabric_config();
    char error[256] = "";

    fake_init(&fake);
    memcpy(fake.link.mac, packets_us_mac, 6);
    if (system >= 0)
        packets_ip(fake.address, system, 1);
    memset(config.mac, 0, 6); /* the uplink's */
    config.uplink.spec = spec;
    int status = ams_fabric_new(&fabric, &config, error, sizeof(error));
    if (status)
        printf("%s\n", error);
    CHECK_EQ(status, 0);
    CHECK_EQ(fabric_serve(fabric), 0);
    CHECK_EQ(client_open(fabric, &one), 0);
    CHECK_EQ(client_open(fabric, &two), 0);
    CHECK_EQ(client_claim(fabric, &one, SHARED_PORT, 0), 0);
    CHECK_EQ(client_claim(fabric, &two, OTHER_PORT, 0), 0);
    struct fake_adapter *nic = fake_find(&fake, "eth0");
    nic_tx = fake_ring(nic, true, false, 0);
    host_tx = fake_ring(nic, true, true, 0);
}

static void end(void)
{
    client_close(&one);
    client_close(&two);
    ams_fabric_free(fabric);
    CHECK_EQ(fake.maps, 0);
    CHECK_EQ(fake.promiscuous, 0);
    fake_fini(&fake);
}

/* Lets everybody work until nothing moves. */
static void run(void)
{
    for (int quiet = 0; quiet < 3;) {
        fake_poll(&fake);
        quiet = ams_fabric_poll(fabric, 0) > 0 ? 0 : quiet + 1;
    }
}

/* A datagram of the peer's to one of our ports. */
static uint32_t packet_to(bool v6, uint16_t number)
{
    struct packets_frame what = {.v6 = v6, .protocol = PROTO_UDP, .sport = 5000, .dport = number, .payload = 40};
    return packets_build(frame, &what);
}

/* A datagram of ours to the peer. */
static uint32_t packet_from(bool v6, uint16_t number)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = number, .dport = 5000,
                                 .payload = 40};
    return packets_build(frame, &what);
}

/* The next frame in a ring is frame[]; there is none behind it. */
static void expect_in(struct fake_ring *ring, uint32_t length)
{
    struct ring_slot slot;
    uint8_t copy[FAKE_BUF_SIZE];

    CHECK_EQ(fake_take(ring, copy, &slot), length);
    CHECK_EQ(slot.flags & RING_MOREFRAG, 0);
    CHECK_MEM(copy, frame, length);
    CHECK_EQ(fake_take(ring, copy, &slot), 0);
}

static void expect_empty(struct fake_ring *ring)
{
    struct ring_slot slot;
    uint8_t copy[FAKE_BUF_SIZE];

    CHECK_EQ(fake_take(ring, copy, &slot), 0);
}

/* The next frame of a client is frame[]. */
static void expect_at(struct client *client, uint32_t length)
{
    char copy[PACKETS_MAX];

    CHECK_EQ(ams_port_recv(client->port, copy, sizeof(copy), 1), (int)length);
    CHECK_MEM(copy, frame, length);
    CHECK_EQ(ams_port_recv(client->port, copy, sizeof(copy), 1), -AMS_EAGAIN);
}

static bool punted(uint32_t length)
{
    struct ams_fabric_frame info;
    char copy[PACKETS_MAX];

    if (ams_fabric_punted(fabric, &info, copy, sizeof(copy)) != 1)
        return false;
    CHECK_EQ(info.captured, length);
    CHECK_MEM(copy, frame, length);
    return true;
}

static void test_a_nic_of_our_own(void)
{
    begin("netmap:eth0", -1);
    CHECK_MEM(fabric->sw.mac, packets_us_mac, 6);
    for (int v6 = 0; v6 < 2; v6++) {
        for (uint32_t ring = 0; ring < FAKE_NIC_RINGS; ring++) {
            uint32_t length = packet_to(v6, SHARED_PORT);
            CHECK(fake_wire_send(&fake, ring, frame, (uint16_t)length, 0));
            run();
            expect_at(&one, length);
        }
        uint32_t length = packet_to(v6, 99);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        CHECK(punted(length));
        length = packet_from(v6, OTHER_PORT);
        CHECK_EQ(ams_port_send(two.port, (const char *)frame, length, 1), 0);
        CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0); /* a forgery */
        run();
        expect_in(nic_tx, length);
        CHECK_EQ(fabric_counter(fabric, one.link.index, FABRIC_OWN_COUNTERS + SWITCH_TX_TUPLE), (uint64_t)v6 + 1);
    }
    expect_empty(host_tx);
    end();
}

static void test_the_system_keeps_what_nobody_claimed(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        begin("netmap:eth0*", v6);
        uint32_t length = packet_to(v6, SHARED_PORT);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        expect_at(&one, length);
        expect_empty(host_tx);
        length = packet_to(v6, 22);
        CHECK(fake_wire_send(&fake, 1, frame, (uint16_t)length, 0));
        run();
        expect_in(host_tx, length);
        length = packet_from(v6, 22);
        CHECK(fake_host_send(&fake, frame, (uint16_t)length));
        run();
        expect_in(nic_tx, length);
        length = packet_from(v6, SHARED_PORT);
        CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0);
        run();
        expect_in(nic_tx, length);
        CHECK(!punted(0));
        /* Who lets go of a tuple leaves it to the system. */
        struct ams_endpoint local = packets_endpoint(v6, 1, SHARED_PORT);
        CHECK_EQ(ams_fabric_release(fabric, one.link.index, PROTO_UDP, &local), 0);
        length = packet_to(v6, SHARED_PORT);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        expect_in(host_tx, length);
        /* So does who dies. */
        client_close(&two);
        CHECK_EQ(ams_fabric_detach(fabric, (int)two.link.index), 0);
        length = packet_to(v6, OTHER_PORT);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        expect_in(host_tx, length);
        CHECK_EQ(client_open(fabric, &two), 0);
        end();
    }
}

static void test_tags_pass_to_the_system_and_no_client_sends_one(void)
{
    uint8_t tagged[PACKETS_MAX];

    begin("netmap:eth0*", 0);
    uint32_t length = packet_to(false, SHARED_PORT);
    memcpy(tagged, frame, 12);
    store_be16(tagged + 12, 0x8100);
    store_be16(tagged + 14, 5);
    memcpy(tagged + 16, frame + 12, length - 12);
    memcpy(frame, tagged, length + 4);
    CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)(length + 4), 0));
    run();
    expect_in(host_tx, length + 4);
    CHECK_EQ(client_receive(&one), -AMS_EAGAIN);
    CHECK_EQ(ams_port_send(one.port, (const char *)frame, length + 4, 1), 0);
    run();
    expect_empty(nic_tx);
    end();
}

static void test_a_full_ring_of_the_nic_drops_and_goes_on(void)
{
    struct ring_slot slot;
    uint8_t copy[FAKE_BUF_SIZE];
    uint32_t length, sent = 0, taken = 0;

    begin("netmap:eth0-0", -1);
    for (int i = 0; i < 5; i++) {
        length = packet_from(false, SHARED_PORT);
        for (int k = 0; k < 50; k++)
            sent += ams_port_send(one.port, (const char *)frame, length, 1) == 0;
        run();
    }
    CHECK_EQ(sent, 250);
    while (fake_take(nic_tx, copy, &slot))
        taken++;
    CHECK(taken >= FAKE_SLOTS - 1 && taken < sent);
    CHECK_EQ(fabric_counter(fabric, AMS_FABRIC_UPLINK, FABRIC_OUT_FULL) +
             fabric_counter(fabric, AMS_FABRIC_UPLINK, FABRIC_OUT_FRAMES), sent);
    length = packet_from(false, SHARED_PORT);
    CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0);
    run();
    while (fake_take(nic_tx, copy, &slot))
        taken++;
    CHECK(taken > FAKE_SLOTS - 1);
    end();
}

/* Clients don't depend on the uplink. */
static void expect_neighbours(void)
{
    static uint32_t number;

    number++;
    CHECK_EQ(client_send(&one, number % 2, SHARED_PORT, OTHER_PORT, number), 0);
    run();
    CHECK_EQ(client_receive(&two), (long long)number);
}

static void test_a_link_that_goes_down_and_up(void)
{
    struct ams_port_info info;

    begin("netmap:eth0", -1);
    fake.link.up = false;
    fake_announce(&fake);
    run();
    uint32_t length = packet_from(false, SHARED_PORT);
    CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0);
    run();
    expect_empty(nic_tx);
    CHECK_EQ(ams_fabric_port_info(fabric, AMS_FABRIC_UPLINK, &info), 0);
    CHECK_EQ(info.tx_dropped, 1); /* by the driver, which says so */
    expect_neighbours();
    fake.link.up = true;
    fake_announce(&fake);
    run();
    CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0);
    run();
    expect_in(nic_tx, length);
    length = packet_to(true, SHARED_PORT);
    CHECK(fake_wire_send(&fake, 1, frame, (uint16_t)length, 0));
    run();
    expect_at(&one, length);
    end();
}

static void test_a_device_that_is_gone(void)
{
    for (int how = 0; how < 3; how++) {
        begin("netmap:eth0", -1);
        if (how == 0)
            fake.link.index = 0;
        else if (how == 1)
            fake.link.index = 9; /* another one of the same name */
        else
            fake.sync_error = ENXIO;
        fake_announce(&fake);
        run();
        CHECK_EQ(fake.maps, 0); /* the kernel waits for that */
        uint32_t length = packet_from(false, SHARED_PORT);
        CHECK_EQ(ams_port_send(one.port, (const char *)frame, length, 1), 0);
        run();
        CHECK_EQ(fabric_counter(fabric, AMS_FABRIC_UPLINK, FABRIC_OUT_BROKEN), 1);
        expect_neighbours();
        struct client more; /* comes and goes as ever */
        CHECK_EQ(client_open(fabric, &more), 0);
        CHECK_EQ(client_claim(fabric, &more, 3, 0), 0);
        client_close(&more);
        CHECK_EQ(ams_fabric_detach(fabric, (int)more.link.index), 0);
        CHECK_EQ(ams_fabric_start(fabric), 0); /* a dead uplink doesn't keep the thread awake */
        CHECK_EQ(ams_fabric_claim(fabric, one.link.index, PROTO_TCP, &(struct ams_endpoint){.family = AMS_IPV6,
                                                                                            .port = 7}, 0), 0);
        ams_fabric_stop(fabric);
        end();
    }
}

/* A veth leaves checksums to its receiver: who is no client, and isn't told, gets them finished. */
static void test_unfinished_checksums_are_finished(void)
{
    static const uint8_t host_mac[6] = {2, 0, 0, 0, 0, 0x99};
    struct ams_hub *hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD);
    struct ams_port_config port = {.spec = "mem:x", .hub = hub, .flags = AMS_PORT_MONITOR};
    struct ams_port *monitor;
    char error[256];

    CHECK_EQ(ams_port_open(&monitor, &port, error, sizeof(error)), 0);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_fabric_config config = fabric_config();
        uint8_t copy[PACKETS_MAX], src[16], dst[16];
        struct ams_fabric_frame info;
        fake_init(&fake);
        fake.link.partial = true;
        config.uplink.spec = "netmap:eth0";
        config.host = (struct ams_port_config){.spec = "mem:y", .hub = hub};
        CHECK_EQ(ams_fabric_new(&fabric, &config, error, sizeof(error)), 0);
        CHECK_EQ(fabric_serve(fabric), 0);
        struct packets_frame what = {.v6 = v6, .sport = 5000, .dport = 22, .payload = 31};
        uint32_t length = packets_build(frame, &what), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
        packets_ip(src, v6, 2);
        packets_ip(dst, v6, 1);
        store_be16(frame + l4 + 16, checksum_fold(checksum_pseudo(src, dst, PROTO_TCP, length - l4)));
        CHECK(checksum_fold(packets_sum(frame, length, v6, PROTO_TCP)) != 0xffff);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        CHECK_EQ(ams_fabric_punted(fabric, &info, (char *)copy, sizeof(copy)), 1);
        CHECK_EQ(checksum_fold(packets_sum(copy, length, v6, PROTO_TCP)), 0xffff);
        memcpy(frame, host_mac, 6);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
        run();
        CHECK_EQ(ams_port_recv(monitor, (char *)copy, sizeof(copy), 1), (int)length);
        CHECK_EQ(checksum_fold(packets_sum(copy, length, v6, PROTO_TCP)), 0xffff);
        ams_fabric_free(fabric);
        fake_fini(&fake);
    }
    ams_port_close(monitor);
    ams_hub_free(hub);
}

static bool attempt(void)
{
    struct ams_fabric_config config = fabric_config();
    char error[256];

    fake_init(&fake);
    config.uplink.spec = "netmap:eth0*";
    int status = ams_fabric_new(&fabric, &config, error, sizeof(error));
    if (!status)
        status = fabric_serve(fabric);
    ams_fabric_free(fabric);
    CHECK_EQ(fake.maps, 0);
    fake_fini(&fake);
    return !status;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(attempt) > 10);
}

int main(void)
{
    RUN(test_a_nic_of_our_own);
    RUN(test_the_system_keeps_what_nobody_claimed);
    RUN(test_tags_pass_to_the_system_and_no_client_sends_one);
    RUN(test_a_full_ring_of_the_nic_drops_and_goes_on);
    RUN(test_a_link_that_goes_down_and_up);
    RUN(test_a_device_that_is_gone);
    RUN(test_unfinished_checksums_are_finished);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
