/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A fabric between a network and the operating system's stack, both of which
 * send anything at all: who may say what about our addresses, and to whom.
 */
#define _GNU_SOURCE

#include "core/hash.h"
#include "fabric_fixture.h"
#include "io/hub.h"
#include "wire/arp.h"
#include "wire/bytes.h"

#define ONE 1001
#define FRAMES 20000u

enum { US = 1, PEER = 2, HOST = 3 }; /* 10.0.0.N, fd00::N */

static const uint8_t host_mac[6] = {2, 0, 0, 0, 0, 0x99};

/* A link in memory with the fabric at one end and us at the other. */
struct side {
    struct ams_hub *hub;
    struct ams_port *port;
    const uint8_t *mac;
    uint8_t number;
};

static struct ams_fabric *fabric;
static struct client one;
static struct side network, host;

static void side_open(struct side *side, struct ams_port_config *config, const uint8_t *mac, uint8_t number)
{
    char error[256];

    *side = (struct side){.hub = ams_hub_new(1, 0, AMS_HUB_NO_OFFLOAD), .mac = mac, .number = number};
    struct ams_port_config wire = {.spec = "mem:x", .hub = side->hub, .flags = AMS_PORT_MONITOR};
    CHECK_EQ(ams_port_open(&side->port, &wire, error, sizeof(error)), 0);
    *config = (struct ams_port_config){.spec = "mem:x", .hub = side->hub};
}

static void side_close(struct side *side)
{
    ams_port_close(side->port);
    ams_hub_free(side->hub);
}

static void begin(uint16_t flags)
{
    struct ams_fabric_config config = fabric_config();
    char error[256];

    side_open(&network, &config.uplink, packets_peer_mac, PEER);
    side_open(&host, &config.host, flags & AMS_FABRIC_HOST_SHARES ? packets_us_mac : host_mac,
              flags & AMS_FABRIC_HOST_SHARES ? US : HOST);
    config.flags = flags;
    CHECK_EQ(ams_fabric_new(&fabric, &config, error, sizeof(error)), 0);
    CHECK_EQ(fabric_serve(fabric), 0);
    CHECK_EQ(client_open(fabric, &one), 0);
    CHECK_EQ(client_claim(fabric, &one, ONE, 0), 0);
}

static void end(void)
{
    client_close(&one);
    ams_fabric_free(fabric); /* traps if a frame is left */
    side_close(&network);
    side_close(&host);
}

/* ARP, or a solicitation or advertisement, between any two of the addresses. */
static uint32_t about_neighbours(struct ams_rng *rng, uint8_t *frame, const uint8_t *mac)
{
    uint8_t sender = (uint8_t)(1 + rng_below(rng, 4)), target = (uint8_t)(1 + rng_below(rng, 4)), body[24] = {0};

    if (rng_below(rng, 2)) {
        struct arp_repr arp = {.operation = (uint16_t)(1 + rng_below(rng, 2)), .sender_ip = {10, 0, 0, sender},
                               .target_ip = {10, 0, 0, target}};
        memcpy(arp.sender_mac, mac, 6);
        return packets_arp(frame, mac, &arp);
    }
    struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .payload = 24, .hop_limit = 255, .body = body,
                                 .icmp_type = (uint8_t)(135 + rng_below(rng, 2))};
    packets_ip(body, true, target);
    body[16] = 1;
    body[17] = 1;
    memcpy(body + 18, mac, 6);
    packets_ip(what.src, true, sender);
    packets_ip(what.dst, true, (uint8_t)(1 + rng_below(rng, 4)));
    return packets_build(frame, &what);
}

/* A frame from a side to anybody. */
static uint32_t any_frame(struct ams_rng *rng, uint8_t *frame, const struct side *from)
{
    static const uint8_t everybody[6] = {255, 255, 255, 255, 255, 255}, group[6] = {0x33, 0x33, 255, 0, 0, 1};
    const uint8_t *const stations[] = {packets_us_mac, packets_us_mac, packets_peer_mac, host_mac, everybody, group};
    uint32_t length;

    if (rng_below(rng, 2)) {
        length = about_neighbours(rng, frame, from->mac);
    } else {
        struct packets_frame what = {.v6 = rng_below(rng, 2), .protocol = rng_below(rng, 2) ? PROTO_UDP : PROTO_TCP,
                                     .sport = 7, .dport = rng_below(rng, 2) ? ONE : 22, .payload = 30,
                                     .more_fragments = !rng_below(rng, 8)};
        packets_ip(what.src, what.v6, from->number);
        packets_ip(what.dst, what.v6, (uint8_t)(1 + rng_below(rng, 4)));
        what.payload = what.more_fragments ? 32 : 30;
        length = packets_build(frame, &what);
    }
    memcpy(frame, stations[rng_below(rng, 6)], 6);
    memcpy(frame + 6, from->mac, 6);
    for (uint32_t flips = rng_below(rng, 3); !rng_below(rng, 3) && flips; flips--)
        frame[12 + rng_below(rng, length - 12)] = (uint8_t)rng_next(rng);
    return length;
}

/* What the fabric has sent to a side, of which `frame` may be part.
 * Return: how many frames; *bits: what they say about neighbours. */
static uint32_t arrived(struct side *side, const uint8_t *frame, uint32_t length, uint32_t *bits)
{
    uint8_t got[PACKETS_MAX];
    uint32_t n = 0;
    int size;

    *bits = 0;
    for (; (size = ams_port_recv(side->port, (char *)got, sizeof(got), 1)) >= 0; n++) {
        CHECK_EQ((uint32_t)size, length);
        CHECK_MEM(got, frame, length);
        *bits |= switch_neighbor(&fabric->sw, got, length);
    }
    return n;
}

/* Sends a frame and lets the fabric work.
 * @bits: what came out at the other side says about neighbours
 * Return: how many frames came out there. */
static uint32_t pass(struct side *from, struct side *to, const uint8_t *frame, uint32_t length, uint32_t *bits)
{
    char drain[PACKETS_MAX];
    uint32_t back;
    int size;

    CHECK_EQ(ams_port_send(from->port, (const char *)frame, length, 1), 0);
    while (ams_fabric_poll(fabric, AMS_NOW) > 0)
        ;
    CHECK_EQ(arrived(from, frame, length, &back), 0); /* nothing comes back to where it came from */
    struct ams_fabric_frame info;
    while (ams_fabric_punted(fabric, &info, drain, sizeof(drain)) == 1)
        CHECK_MEM(drain, frame, ams_min_u32(length, info.captured));
    while ((size = ams_port_recv(one.port, drain, sizeof(drain), 1)) >= 0) {
        struct packet packet;
        CHECK_EQ(packet_parse((const uint8_t *)drain, (uint32_t)size, (uint32_t)size, &packet), PACKET_OK);
        if (packet.flags & PACKET_PORTS && !packet_is_icmp_error(&packet))
            CHECK_EQ(packet.dport, ONE);
    }
    return arrived(to, frame, length, bits);
}

static void test_anything_from_both_sides(void)
{
    static const uint16_t modes[] = {0, AMS_FABRIC_HOST_SHARES, AMS_FABRIC_HOST_APART};

    for (size_t m = 0; m < AMS_ARRAY_SIZE(modes); m++) {
        uint32_t out = 0, in = 0, bits;
        uint8_t frame[PACKETS_MAX];
        struct ams_rng rng;
        begin(modes[m]);
        rng_init(&rng, 7, m);
        for (uint32_t i = 0; i < FRAMES; i++) {
            uint32_t length = any_frame(&rng, frame, &host);
            uint32_t n = pass(&host, &network, frame, length, &bits);
            CHECK(n <= 1);
            CHECK(!(bits & SWITCH_NEIGHBOR_POSES)); /* nobody but us speaks for our addresses */
            CHECK(!(bits & SWITCH_NEIGHBOR_OURS));
            if (modes[m] == AMS_FABRIC_HOST_SHARES)
                CHECK(!(bits & SWITCH_NEIGHBOR_ASKS)); /* nor asks with them as its own */
            out += n;
            length = any_frame(&rng, frame, &network);
            n = pass(&network, &host, frame, length, &bits);
            CHECK(n <= 1);
            CHECK(!(bits & SWITCH_NEIGHBOR_OURS)); /* nobody but us answers for them */
            in += n;
        }
        if (modes[m] == AMS_FABRIC_HOST_APART)
            CHECK_EQ(in + out, 0);
        else
            CHECK(in > FRAMES / 20 && out > FRAMES / 20);
        CHECK(fabric_counter(fabric, AMS_FABRIC_HOST, FABRIC_OWN_COUNTERS + SWITCH_TX_ARP) > 0);
        CHECK(fabric_counter(fabric, AMS_FABRIC_HOST, FABRIC_OWN_COUNTERS + SWITCH_TX_NDP) > 0);
        end();
    }
}

int main(void)
{
    RUN(test_anything_from_both_sides);
    return check_report();
}
