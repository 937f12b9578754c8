/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap:IF*: who gets which frame when a NIC is shared with the operating
 * system, over the device of netmap_fake.h.
 */
#define _GNU_SOURCE /* memfd_create */

#include <netinet/in.h>
#include <sys/socket.h>

#include "check.h"
#include "io/netmap.h"
#include "netmap_fake.h"

#include "core/status.h"
#include "packets.h"
#include "wire/arp.h"
#include "wire/bytes.h"
#include "wire/checksum.h"

#define US 1u
#define SYSTEM 2u
#define WIRE 4u

static struct fake fake;
static struct frame_pool pool;
static struct ams_port *port;
static uint8_t frame[PACKETS_MAX];
static struct fake_ring *nic_tx, *host_tx;
static const uint8_t own_mac[6] = {2, 0, 0, 0, 0, 7};

/* Opens eth0* of a system that has 10.0.0.1, or fd00::1. */
static void begin(bool v6)
{
    struct ams_port_config config = {0};
    struct port_error error = {NULL, 0};

    fake_init(&fake);
    memcpy(fake.link.mac, packets_us_mac, 6);
    packets_ip(fake.address, v6, 1);
    frame_pool_init(&pool, 1000, false);
    CHECK_EQ(netmap_open_on(&fake.sys, &port, "eth0*", &config, &pool, &error), 0);
    struct fake_adapter *nic = fake_find(&fake, "eth0");
    nic_tx = fake_ring(nic, true, false, 0);
    host_tx = fake_ring(nic, true, true, 0);
}

static void end(void)
{
    ams_port_close(port);
    frame_pool_fini(&pool); /* traps if a frame is left */
    CHECK_EQ(fake.maps, 0);
    fake_fini(&fake);
}

static int serve(bool v6, uint8_t n)
{
    struct ams_endpoint address = packets_endpoint(v6, n, 0);
    struct port_error error = {NULL, 0};

    return port->ops->serve(port, &address, &error);
}

static void claim(bool v6, uint8_t protocol, uint16_t number)
{
    struct ams_endpoint local = packets_wildcard(v6, number);
    CHECK_EQ(port->ops->claim(port, protocol, &local, 0), 0);
}

/* Lets the driver work, and says who got the frame that was sent.
 * @length: of it; every copy must have it, and its bytes */
static uint32_t who_got(uint32_t length)
{
    struct ams_frame *frames[8];
    struct ring_slot slot;
    uint8_t copy[FAKE_BUF_SIZE];
    uint32_t who = 0;

    fake_poll(&fake);
    int n = port->ops->rx(port, frames, 8, 1000);
    port->ops->flush(port, 1000);
    CHECK(n == 0 || n == 1);
    if (n) {
        CHECK_EQ(frames[0]->len, length);
        CHECK_MEM(frames[0]->data, frame, length);
        frame_free(frames[0]);
        who |= US;
    }
    for (int i = 0; i < 2; i++) {
        uint32_t got = fake_take(i ? nic_tx : host_tx, copy, &slot);
        if (!got)
            continue;
        CHECK_EQ(got, length);
        CHECK_MEM(copy, frame, length);
        CHECK_EQ(fake_take(i ? nic_tx : host_tx, copy, &slot), 0);
        who |= i ? WIRE : SYSTEM;
    }
    return who;
}

static uint32_t from_wire(uint32_t length)
{
    CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)length, 0));
    return who_got(length);
}

static uint32_t from_system(uint32_t length)
{
    CHECK(fake_host_send(&fake, frame, (uint16_t)length));
    return who_got(length);
}

static uint32_t from_us(uint32_t length)
{
    static uint8_t bytes[FRAME_HEADROOM + PACKETS_MAX];
    struct ams_tx tx;

    memset(&tx, 0, sizeof(tx));
    memcpy(bytes + FRAME_HEADROOM, frame, length);
    tx.head = bytes + FRAME_HEADROOM;
    tx.head_len = tx.total = length;
    CHECK_EQ(port->ops->tx(port, &tx, 1, 1000), 1);
    return who_got(length);
}

static void set_mac(const uint8_t dst[6], const uint8_t src[6])
{
    memcpy(frame, dst, 6);
    memcpy(frame + 6, src, 6);
}

/* A packet of the peer's to 10.0.0.N or fd00::N. */
static uint32_t packet_to(bool v6, uint8_t n, uint8_t protocol, uint16_t dport)
{
    struct packets_frame what = {.v6 = v6, .protocol = protocol, .sport = 5000, .dport = dport, .payload = 40,
                                 .icmp_type = v6 ? 128 : 8};

    packets_ip(what.dst, v6, n);
    return packets_build(frame, &what);
}

/* ARP about 10.0.0.N. */
static uint32_t arp_about(uint16_t operation, uint8_t n, const uint8_t dst[6], const uint8_t src[6])
{
    struct arp_repr arp = {.operation = operation, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, n}};

    memset(frame, 0, 60);
    set_mac(dst, src);
    memcpy(arp.sender_mac, src, 6);
    memcpy(arp.target_mac, dst, 6);
    store_be16(frame + 12, ETHERTYPE_ARP);
    arp_emit(frame + ETH_HEADER, &arp);
    return 60;
}

static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255};

static void test_of_a_shared_address_only_what_is_claimed_is_ours(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        begin(v6);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), SYSTEM);
        CHECK_EQ(serve(v6, 1), PORT_SHARED);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), SYSTEM);
        claim(v6, PROTO_TCP, 80);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), US);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 81)), SYSTEM);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_UDP, 80)), SYSTEM);
        CHECK_EQ(from_wire(packet_to(v6, 9, PROTO_TCP, 80)), SYSTEM); /* the system may route it */
        CHECK_EQ(from_wire(packet_to(v6, 1, v6 ? PROTO_ICMPV6 : PROTO_ICMP, 0)), SYSTEM);
        struct packets_frame first = {.v6 = v6, .sport = 1, .dport = 80, .payload = 44, .more_fragments = true,
                                      .frag_id = 9};
        struct packets_frame later = {.v6 = v6, .frag_offset = 1000, .payload = 64, .frag_id = 9};
        CHECK_EQ(from_wire(packets_build(frame, &first)), US);
        CHECK_EQ(from_wire(packets_build(frame, &later)), US); /* with the first one */
        later.frag_id = 10;
        CHECK_EQ(from_wire(packets_build(frame, &later)), SYSTEM);
        uint32_t length = packet_to(v6, 1, PROTO_TCP, 80);
        frame[ETH_HEADER] = 0x75; /* no such IP version */
        CHECK_EQ(from_wire(length), SYSTEM);
        length = packet_to(v6, 1, PROTO_TCP, 80);
        frame[5] ^= 1; /* another station's */
        CHECK_EQ(from_wire(length), SYSTEM);
        struct ams_endpoint any = packets_wildcard(v6, 80), address = packets_endpoint(v6, 1, 0);
        port->ops->release(port, PROTO_TCP, &any);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), SYSTEM);
        claim(v6, PROTO_TCP, 80);
        port->ops->unserve(port, &address);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), SYSTEM);
        port->ops->release(port, PROTO_TCP, &any);
        CHECK_EQ(port->info.rx_dropped, 0);
        end();
    }
}

static void test_all_of_an_own_address_is_ours(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        begin(v6);
        CHECK_EQ(serve(v6, 5), PORT_OWN);
        CHECK_EQ(serve(v6, 5), PORT_OWN);
        CHECK_EQ(from_wire(packet_to(v6, 5, PROTO_TCP, 80)), US);
        CHECK_EQ(from_wire(packet_to(v6, 5, v6 ? PROTO_ICMPV6 : PROTO_ICMP, 0)), US);
        CHECK_EQ(from_wire(packet_to(v6, 1, PROTO_TCP, 80)), SYSTEM);
        uint32_t length = packet_to(v6, 9, PROTO_UDP, 5353);
        frame[0] = 1; /* group traffic */
        CHECK_EQ(from_wire(length), US | SYSTEM);
        struct ams_endpoint address = packets_endpoint(v6, 5, 0);
        port->ops->unserve(port, &address);
        CHECK_EQ(from_wire(packet_to(v6, 5, PROTO_TCP, 80)), SYSTEM);
        end();
    }
}

static void test_neighbours_are_found_by_both(void)
{
    begin(false);
    CHECK_EQ(serve(false, 1), PORT_SHARED);
    CHECK_EQ(serve(false, 5), PORT_OWN);
    CHECK_EQ(from_wire(arp_about(ARP_REQUEST, 1, everybody, packets_peer_mac)), SYSTEM);
    CHECK_EQ(from_wire(arp_about(ARP_REQUEST, 5, everybody, packets_peer_mac)), US | SYSTEM);
    CHECK_EQ(from_wire(arp_about(ARP_REQUEST, 5, packets_us_mac, packets_peer_mac)), US);
    CHECK_EQ(from_wire(arp_about(ARP_REQUEST, 1, packets_us_mac, packets_peer_mac)), SYSTEM);
    CHECK_EQ(from_wire(arp_about(ARP_REPLY, 1, packets_us_mac, packets_peer_mac)), US | SYSTEM);
    end();
    begin(true);
    CHECK_EQ(serve(true, 1), PORT_SHARED);
    CHECK_EQ(serve(true, 5), PORT_OWN);
    for (uint8_t n = 1; n <= 9; n += 4) {
        uint8_t body[16];
        packets_ip(body, true, n);
        struct packets_frame ask = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = 135, .hop_limit = 255,
                                    .payload = 16, .body = body};
        CHECK_EQ(from_wire(packets_build(frame, &ask)), n == 5 ? US : SYSTEM);
        uint32_t length = packets_build(frame, &ask);
        frame[0] = frame[1] = 0x33;
        CHECK_EQ(from_wire(length), n == 5 ? US | SYSTEM : SYSTEM);
        ask.icmp_type = 136;
        CHECK_EQ(from_wire(packets_build(frame, &ask)), US | SYSTEM);
    }
    end();
}

static void test_what_the_system_sends_goes_to_the_wire(void)
{
    begin(false);
    CHECK_EQ(serve(false, 5), PORT_OWN);
    struct packets_frame out = {.outgoing = true, .sport = 80, .dport = 99, .payload = 30};
    struct fake_ring *host_rx = fake_ring(fake_find(&fake, "eth0"), false, true, 0);
    uint32_t buffer = fake_slot(host_rx, host_rx->tail)->buf_idx;
    CHECK_EQ(from_system(packets_build(frame, &out)), WIRE);
    CHECK_EQ(fake_slot(nic_tx, nic_tx->head + FAKE_SLOTS - 1)->buf_idx, buffer); /* not copied */
    CHECK_EQ(from_system(arp_about(ARP_REQUEST, 2, everybody, packets_us_mac)), WIRE);
    CHECK_EQ(from_system(arp_about(ARP_REQUEST, 5, everybody, packets_us_mac)), US | WIRE);
    for (int i = 0; i < 200; i++) /* around the rings */
        CHECK_EQ(from_system(packets_build(frame, &out)), WIRE);
    CHECK_EQ(port->info.rx_dropped, 0);
    end();
}

static void test_the_system_and_an_own_address_talk(void)
{
    struct port_error error = {NULL, 0};

    begin(false);
    CHECK_EQ(port->ops->station(port, own_mac, &error), 0);
    CHECK(fake.promiscuous > 0);
    CHECK_EQ(serve(false, 5), PORT_OWN);
    CHECK_EQ(serve(false, 1), -AMS_EINVAL); /* the system's address needs the system's Ethernet address */
    uint32_t length = packet_to(false, 5, PROTO_TCP, 80);
    set_mac(own_mac, packets_us_mac);
    CHECK_EQ(from_system(length), US);
    CHECK_EQ(from_wire(length), US);
    set_mac(packets_us_mac, own_mac);
    CHECK_EQ(from_us(length), SYSTEM);
    set_mac(packets_peer_mac, own_mac);
    CHECK_EQ(from_us(length), WIRE);
    set_mac(everybody, own_mac);
    CHECK_EQ(from_us(length), WIRE | SYSTEM);
    CHECK_EQ(from_wire(packet_to(false, 5, PROTO_TCP, 80)), SYSTEM); /* to the link's address */
    CHECK_EQ(port->info.tx_frames, 3);
    CHECK_EQ(port->info.tx_dropped, 0);
    end();
}

static void test_a_full_ring_drops_for_its_receiver_only(void)
{
    struct ams_frame *frames[8];
    uint32_t ours = 0, n;

    begin(false);
    CHECK_EQ(serve(false, 1), PORT_SHARED);
    claim(false, PROTO_TCP, 80);
    for (int i = 0; i < 200; i++) { /* the system takes nothing */
        n = packet_to(false, 1, PROTO_TCP, 81);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)n, 0));
        n = packet_to(false, 1, PROTO_TCP, 80);
        CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)n, 0));
        int got = port->ops->rx(port, frames, 8, 1000);
        for (int f = 0; f < got; f++, ours++)
            frame_free(frames[f]);
        fake_poll(&fake);
    }
    CHECK_EQ(ours, 200);
    CHECK_EQ(port->info.rx_dropped, 200 - (FAKE_SLOTS - 1));
    /* A chain has no place in the system's rings. */
    uint64_t dropped = port->info.rx_dropped;
    struct ring_slot slot;
    uint8_t copy[FAKE_BUF_SIZE];
    while (fake_take(host_tx, copy, &slot))
        continue;
    n = packet_to(false, 1, PROTO_TCP, 81);
    CHECK(fake_wire_send(&fake, 0, frame, (uint16_t)n, RING_MOREFRAG));
    CHECK(fake_wire_send(&fake, 0, frame, 100, 0));
    CHECK_EQ(port->ops->rx(port, frames, 8, 1000), 0);
    CHECK_EQ(port->info.rx_dropped, dropped + 1);
    CHECK_EQ(from_wire(packet_to(false, 1, PROTO_TCP, 81)), SYSTEM);
    end();
}

static void test_unfinished_checksums_are_finished(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        begin(v6);
        struct packets_frame out = {.v6 = v6, .outgoing = true, .sport = 80, .dport = 99, .payload = 31,
                                    .body = (const uint8_t *)"an odd number of bytes, thirty."};
        uint32_t length = packets_build(frame, &out), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
        uint8_t src[16], dst[16], copy[FAKE_BUF_SIZE];
        struct ams_frame *frames[8];
        struct ring_slot slot;
        packets_ip(src, v6, 1);
        packets_ip(dst, v6, 2);
        store_be16(frame + l4 + 16, checksum_fold(checksum_pseudo(src, dst, PROTO_TCP, length - l4)));
        CHECK(checksum_fold(packets_sum(frame, length, v6, PROTO_TCP)) != 0xffff);
        CHECK(fake_host_send(&fake, frame, (uint16_t)length));
        CHECK_EQ(port->ops->rx(port, frames, 8, 1000), 0);
        CHECK_EQ(fake_take(nic_tx, copy, &slot), length);
        CHECK_EQ(checksum_fold(packets_sum(copy, length, v6, PROTO_TCP)), 0xffff);
        end();
    }
}

static void test_no_frame_is_lost_whatever_it_is(void)
{
    uint32_t seed = 12345;
    uint32_t seen[8] = {0};

    begin(false);
    CHECK_EQ(serve(false, 1), PORT_SHARED);
    CHECK_EQ(serve(false, 5), PORT_OWN);
    claim(false, PROTO_TCP, 80);
    for (int i = 0; i < 20000; i++) {
        uint32_t length = packet_to(false, i % 3 ? 1 : 5, i % 2 ? PROTO_TCP : PROTO_UDP, i % 5 ? 80 : 81);
        for (int k = i % 4; k > 0; k--) {
            seed = seed * 1664525u + 1013904223u;
            frame[(seed >> 16) % length] ^= (uint8_t)(1u << (seed >> 29));
        }
        if (i % 11 == 0)
            length = 14 + (seed >> 8) % (length - 14);
        uint32_t who = from_wire(length);
        CHECK(who == US || who == SYSTEM || who == (US | SYSTEM));
        seen[who]++;
    }
    CHECK(seen[US] > 1000 && seen[SYSTEM] > 1000 && seen[US | SYSTEM] > 10);
    CHECK_EQ(port->info.rx_dropped, 0);
    end();
}

static bool body_share(void)
{
    struct ams_port_config config = {0};
    struct port_error error = {NULL, 0};
    struct ams_endpoint shared = packets_endpoint(false, 1, 0), own = packets_endpoint(false, 5, 0),
                        any = packets_wildcard(false, 80);
    bool good = false;

    port = NULL;
    if (netmap_open_on(&fake.sys, &port, "eth0*", &config, &pool, &error))
        return false;
    if (port->ops->station(port, packets_us_mac, &error) == 0 && port->ops->serve(port, &own, &error) >= 0 &&
        port->ops->serve(port, &shared, &error) >= 0 && port->ops->claim(port, PROTO_TCP, &any, 0) == 0)
        good = true;
    ams_port_close(port);
    return good;
}

static int lookup(bool v6, uint8_t n, uint16_t number)
{
    struct ams_endpoint address = packets_endpoint(v6, n, number);
    return ams_port_lookup(port, PROTO_TCP, &address);
}

static void test_whose_a_tuple_is(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        begin(v6);
        CHECK_EQ(serve(v6, 1), PORT_SHARED);
        CHECK_EQ(serve(v6, 5), PORT_OWN);
        CHECK_EQ(lookup(v6, 1, 80), 0); /* the system's */
        claim(v6, PROTO_TCP, 80);
        CHECK_EQ(lookup(v6, 1, 80), 1);
        CHECK_EQ(lookup(v6, 1, 81), 0);
        CHECK_EQ(lookup(v6, 5, 81), 1);
        CHECK_EQ(lookup(v6, 9, 81), 1); /* not shared */
        end();
    }
}

static void test_a_system_that_is_cut_off_shares_nothing(void)
{
    struct ams_port_config config = {0};
    struct port_error error = {NULL, 0};

    begin(false);
    ams_port_close(port);
    CHECK_EQ(netmap_open_on(&fake.sys, &port, "eth0", &config, &pool, &error), 0);
    CHECK_EQ(serve(false, 1), PORT_OWN);
    CHECK_EQ(lookup(false, 1, 80), -AMS_EOPNOTSUPP);
    end();
}

static void test_a_shown_socket_proves_a_claim(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(at);
    struct ams_endpoint local = {.ip = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, .family = AMS_IPV4};
    struct port_error error = {NULL, 0};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, size) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)&at, &size) == 0);
    begin(false);
    memcpy(fake.address, local.ip, 16);
    CHECK_EQ(ams_port_show(port, fd), 0); /* before anything is shared: not kept */
    CHECK_EQ(port->ops->serve(port, &local, &error), PORT_SHARED);
    local.port = ntohs(at.sin_port);
    CHECK_EQ(port->ops->claim(port, PROTO_TCP, &local, PORT_PROVE), -AMS_EADDRINUSE);
    CHECK_EQ(ams_port_show(port, fd), 0);
    CHECK_EQ(port->ops->claim(port, PROTO_TCP, &local, PORT_PROVE), 0);
    CHECK_EQ(ams_port_lookup(port, PROTO_TCP, &local), 1);
    port->ops->release(port, PROTO_TCP, &local);
    close(fd);
    end();
}

static void test_every_allocation_may_fail(void)
{
    begin(false);
    ams_port_close(port);
    CHECK(check_every_allocation(body_share) > 8);
    port = NULL;
    end();
}

int main(void)
{
    RUN(test_of_a_shared_address_only_what_is_claimed_is_ours);
    RUN(test_all_of_an_own_address_is_ours);
    RUN(test_neighbours_are_found_by_both);
    RUN(test_what_the_system_sends_goes_to_the_wire);
    RUN(test_the_system_and_an_own_address_talk);
    RUN(test_a_full_ring_drops_for_its_receiver_only);
    RUN(test_unfinished_checksums_are_finished);
    RUN(test_no_frame_is_lost_whatever_it_is);
    RUN(test_whose_a_tuple_is);
    RUN(test_a_system_that_is_cut_off_shares_nothing);
    RUN(test_a_shown_socket_proves_a_claim);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
