/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_icmp.c - echo, errors sent and received, path MTU discovery.
 */
#include "net_fixture.h"

static struct world world;

static const struct world_options plain = {.flags = AMS_STACK_NO_DAD};

static uint32_t l4_of(bool v6)
{
    return ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
}

/* Sends an echo request with that payload from B to A, as B's IP layer would. */
static void ping(bool v6, const uint8_t *payload, uint32_t len)
{
    uint8_t src[16], dst[16];
    struct ams_frame *frame = frame_new(&world.pool, FRAME_CLASS_LARGE);
    struct icmp_repr icmp = {v6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST, 0, 0x12345678};
    packets_ip(src, v6, 2);
    packets_ip(dst, v6, 1);
    frame->data += ip_headroom(v6 ? AMS_IPV6 : AMS_IPV4);
    icmp_emit(frame->data, &icmp);
    memcpy(frame->data + ICMP_HEADER, payload, len);
    frame->len = ICMP_HEADER + len;
    CHECK_EQ(ip_send_frame(world.host[B], frame, src, dst, v6 ? PROTO_ICMPV6 : PROTO_ICMP, ICMP_CHECKSUM_AT,
                           (struct ip_class){0}, world.now), 0);
}

/* The reply's payload is the request's, over all fragments. */
static void check_reply(bool v6, const uint8_t *payload, uint32_t len)
{
    uint32_t received = 0, l4 = l4_of(v6), fragments = 0;
    for (uint32_t i = 0; i < world.n_trace; i++) {
        const struct world_frame *frame = &world.trace[i];
        const uint8_t *ip = frame->data + ETH_HEADER;
        if (frame->from != A || load_be16(frame->data + 12) != (v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4))
            continue;
        uint32_t at = l4, offset = 0;
        if (v6 && ip[6] == PROTO_FRAGMENT) {
            struct ipv6_fragment fragment;
            CHECK_EQ(ipv6_fragment_parse(frame->data + l4, 8, &fragment), WIRE_OK);
            offset = fragment.offset;
            at += IP6_FRAGMENT_HEADER;
        } else if (!v6) {
            struct ipv4_repr repr;
            CHECK_EQ(ipv4_parse(ip, frame->len - ETH_HEADER, &repr), WIRE_OK);
            CHECK(!repr.dont_fragment);
            offset = repr.frag_off;
        }
        if (offset == 0) {
            if (frame->data[at] == ICMP6_NEIGHBOR_SOLICIT || frame->data[at] == ICMP6_NEIGHBOR_ADVERT)
                continue;
            CHECK_EQ(frame->data[at], v6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY);
            CHECK_EQ(load_be32(frame->data + at + 4), 0x12345678);
            CHECK_MEM(frame->data + at + 8, payload, frame->len - at - 8);
            received += 8;
            at += 8;
            offset += 8;
        }
        CHECK_MEM(frame->data + at, payload + offset - 8, frame->len - at);
        received += frame->len - at;
        fragments++;
    }
    CHECK_EQ(received, len + 8);
    CHECK_EQ(fragments > 1, len + 8 + l4 - ETH_HEADER > 1500);
}

static void test_echo(void)
{
    static uint8_t payload[65536];
    world_pattern(payload, sizeof(payload), 8);
    BOTH(v6) {
        static const uint32_t sizes[] = {0, 1, 56, 1452, 1453, 1472, 1473, 2000, 9000, 65479};
        for (size_t i = 0; i < AMS_ARRAY_SIZE(sizes); i++) {
            world_init(&world, plain);
            world_settle(&world);
            world.n_trace = 0;
            ping(v6, payload, sizes[i]);
            world_settle(&world);
            if (sizes[i] <= 20000)
                check_reply(v6, payload, sizes[i]);
            CHECK_EQ(world_counters(&world, A)->icmp_echo, 1);
            CHECK_EQ(world_counters(&world, B)->icmp_bad, 0);
            CHECK_EQ(world_counters(&world, B)->frag_done, sizes[i] + 8 + l4_of(v6) - ETH_HEADER > 1500);
            world_fini(&world);
        }
    }
}

/* Nobody is at the unspecified address: pings from there, to us or to a group, are not answered. */
static void test_ping_from_nowhere(void)
{
    static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
    for (int group = 0; group < 2; group++) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame what = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = ICMP6_ECHO_REQUEST,
                                     .zero_src = true, .payload = 8};
        world_init(&world, plain);
        world_settle(&world);
        if (group)
            memcpy(what.dst, all_nodes, 16);
        uint32_t len = packets_build(frame, &what);
        if (group)
            memcpy(frame, (uint8_t[]){0x33, 0x33, 0, 0, 0, 1}, 6);
        packets_checksum(frame, len, true, PROTO_ICMPV6, ICMP_CHECKSUM_AT);
        uint64_t before = world_counters(&world, A)->icmp_rx;
        world_inject(&world, A, frame, len);
        CHECK_EQ(world_counters(&world, A)->icmp_rx, before + 1);
        world.n_trace = 0;
        world_settle(&world);
        CHECK_EQ(world_count(&world, A, ETHERTYPE_IPV6), 0);
        world_fini(&world);
    }
}

/* Builds and injects an ICMP message to A. */
static void inject_icmp(bool v6, uint8_t type, uint8_t code, uint32_t rest, const uint8_t *body, uint16_t body_len,
                        bool break_checksum)
{
    uint8_t frame[PACKETS_MAX], protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP;
    struct packets_frame what = {.v6 = v6, .protocol = protocol, .icmp_type = type, .icmp_code = code,
                                 .payload = body_len, .body = body};
    uint32_t len = packets_build(frame, &what);
    store_be32(frame + l4_of(v6) + 4, rest);
    packets_checksum(frame, len, v6, protocol, ICMP_CHECKSUM_AT);
    frame[l4_of(v6) + 7] ^= break_checksum;
    world_inject(&world, A, frame, len);
}

static void test_bad_checksum(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        inject_icmp(v6, v6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST, 0, 0, NULL, 10, true);
        CHECK_EQ(world_counters(&world, A)->icmp_bad, 1);
        CHECK_EQ(world_counters(&world, A)->icmp_echo, 0);
        inject_icmp(v6, v6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST, 0, 0, NULL, 10, false);
        CHECK_EQ(world_counters(&world, A)->icmp_echo, 1);
        world_fini(&world);
    }
}

/* A ping to all nodes is answered for IPv6 (RFC 4443), not for IPv4. */
static void test_ping_to_groups(void)
{
    BOTH(v6) {
        uint8_t frame[PACKETS_MAX], protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP;
        world_init(&world, plain);
        struct packets_frame what = {.v6 = v6, .protocol = protocol, .payload = 4,
                                     .icmp_type = v6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST};
        if (v6) {
            what.dst[0] = 0xff;
            what.dst[1] = 2;
            what.dst[15] = 1;
        } else {
            packets_ip(what.dst, false, 255);
        }
        uint32_t len = packets_build(frame, &what);
        frame[0] |= 1;
        packets_checksum(frame, len, v6, protocol, ICMP_CHECKSUM_AT);
        world_inject(&world, A, frame, len);
        CHECK_EQ(world_counters(&world, A)->icmp_rx, 1);
        CHECK_EQ(world_counters(&world, A)->icmp_echo, v6);
        world_fini(&world);
    }
}

/* ---- errors that we receive ------------------------------------------------------- */

/* A quotes a UDP packet of its own to B, as a router would have seen it. */
static uint16_t quote_udp(uint8_t *out, bool v6, uint16_t sport, uint16_t dport, uint16_t payload)
{
    struct packets_frame what = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = sport, .dport = dport,
                                 .payload = payload};
    return (uint16_t)packets_build_ip(out, &what);
}

static void test_errors_reach_the_endpoint(void)
{
    static const struct {
        bool v6;
        uint8_t type, code;
        int status;
    } cases[] = {
        {false, ICMP4_UNREACHABLE, 0, -AMS_ENETUNREACH},  {false, ICMP4_UNREACHABLE, 1, -AMS_EHOSTUNREACH},
        {false, ICMP4_UNREACHABLE, 2, -AMS_ENOPROTOOPT},  {false, ICMP4_UNREACHABLE, 3, -AMS_ECONNREFUSED},
        {false, ICMP4_UNREACHABLE, 13, -AMS_EACCES},      {false, ICMP4_UNREACHABLE, 200, 0},
        {false, ICMP4_TIME_EXCEEDED, 0, -AMS_EHOSTUNREACH}, {false, ICMP4_PARAMETER_PROBLEM, 0, -AMS_EPROTO},
        {false, ICMP4_SOURCE_QUENCH, 0, 0},               {false, ICMP4_REDIRECT, 1, 0},
        {true, ICMP6_UNREACHABLE, 0, -AMS_ENETUNREACH},   {true, ICMP6_UNREACHABLE, 1, -AMS_EACCES},
        {true, ICMP6_UNREACHABLE, 2, -AMS_EHOSTUNREACH},  {true, ICMP6_UNREACHABLE, 3, -AMS_EHOSTUNREACH},
        {true, ICMP6_UNREACHABLE, 4, -AMS_ECONNREFUSED},  {true, ICMP6_TIME_EXCEEDED, 0, -AMS_EHOSTUNREACH},
        {true, ICMP6_PARAMETER_PROBLEM, 1, -AMS_ENOPROTOOPT}, {true, 100, 0, 0},
    };
    for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
        bool v6 = cases[i].v6;
        uint8_t quoted[256];
        world_init(&world, plain);
        struct ams_endpoint local = packets_endpoint(v6, 1, 7), peer = packets_endpoint(v6, 2, 9);
        int id = ams_udp_open(world.host[A], &local, &peer, 0);
        uint16_t len = quote_udp(quoted, v6, 7, 9, 20);
        inject_icmp(v6, cases[i].type, cases[i].code, 0, quoted, len, false);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), cases[i].status ? cases[i].status : -AMS_EAGAIN);
        quote_udp(quoted, v6, 7, 10, 20); /* a packet to somebody else */
        inject_icmp(v6, cases[i].type, cases[i].code, 0, quoted, len, false);
        quote_udp(quoted, v6, 8, 9, 20); /* a port that nobody has */
        inject_icmp(v6, cases[i].type, cases[i].code, 0, quoted, len, false);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EAGAIN);
        world_fini(&world);
    }
}

/* Quotes cut anywhere, and of packets that were never ours. */
static void test_bad_quotes(void)
{
    BOTH(v6) {
        uint8_t quoted[256], type = v6 ? ICMP6_UNREACHABLE : ICMP4_UNREACHABLE, code = v6 ? 4 : 3;
        uint16_t header = v6 ? IP6_HEADER : IP4_HEADER;
        world_init(&world, plain);
        struct ams_endpoint local = packets_endpoint(v6, 1, 7), peer = packets_endpoint(v6, 2, 9);
        int id = ams_udp_open(world.host[A], &local, &peer, 0);
        quote_udp(quoted, v6, 7, 9, 20);
        for (uint16_t len = 0; len < header + 8; len++) {
            inject_icmp(v6, type, code, 0, quoted, len, false);
            CHECK_EQ(world_counters(&world, A)->icmp_bad, len + 1u);
        }
        struct packets_frame foreign = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = 7, .dport = 9};
        packets_ip(foreign.src, v6, 55);
        uint16_t len = (uint16_t)packets_build_ip(quoted, &foreign);
        inject_icmp(v6, type, code, 0, quoted, len, false);
        CHECK_EQ(world_counters(&world, A)->icmp_bad, header + 9u);
        foreign = (struct packets_frame){.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .frag_offset = 80, .payload = 40};
        len = (uint16_t)packets_build_ip(quoted, &foreign); /* a later fragment has no ports */
        inject_icmp(v6, type, code, 0, quoted, len, false);
        CHECK_EQ(world_counters(&world, A)->icmp_bad, header + 10u);
        CHECK_EQ(ams_udp_recv(world.host[A], id, NULL, NULL, 0), -AMS_EAGAIN);
        world_fini(&world);
    }
}

/* ---- path MTU ------------------------------------------------------------------------ */

/* Tells A that a packet from port 7 to port 9 was too big. */
static void too_big(bool v6, uint16_t dport, uint32_t mtu)
{
    uint8_t quoted[1600];
    uint16_t len = quote_udp(quoted, v6, 7, dport, 500);
    store_be16(quoted + (v6 ? 4 : 2), 1500 - (v6 ? IP6_HEADER : 0)); /* its length was 1500 */
    inject_icmp(v6, v6 ? ICMP6_TOO_BIG : ICMP4_UNREACHABLE, v6 ? 0 : ICMP4_CODE_FRAGMENTATION, mtu, quoted, len, false);
}

static uint32_t path_mtu(bool v6, uint8_t host)
{
    uint8_t ip[16];
    packets_ip(ip, v6, host);
    return route_mtu(world.host[A], ip);
}

static void test_path_mtu(void)
{
    static uint8_t data[1400];
    BOTH(v6) {
        world_init(&world, plain);
        int a = world_udp(&world, A, v6, 7), b = world_udp(&world, B, v6, 9);
        struct ams_endpoint to = packets_endpoint(v6, 2, 9);
        CHECK_EQ(path_mtu(v6, 2), 1500);
        too_big(v6, 9, 1300);
        CHECK_EQ(path_mtu(v6, 2), 1300);
        CHECK_EQ(path_mtu(v6, 3), 1500);
        CHECK_EQ(ams_udp_send(world.host[A], a, &to, (char *)data, sizeof(data), world.now), 0);
        world_settle(&world);
        CHECK_EQ(ams_udp_recv(world.host[B], b, NULL, NULL, 0), sizeof(data));
        CHECK_EQ(world_counters(&world, B)->frag_rx, 2); /* what did not fit was cut */
        too_big(v6, 9, 1400); /* never up again */
        CHECK_EQ(path_mtu(v6, 2), 1300);
        too_big(v6, 9, 100); /* and not below the floor */
        CHECK_EQ(path_mtu(v6, 2), v6 ? 1280 : 552);
        world_advance(&world, 599 * SECOND);
        CHECK_EQ(path_mtu(v6, 2), v6 ? 1280 : 552);
        world_advance(&world, 2 * SECOND); /* forgotten after ten minutes */
        CHECK_EQ(path_mtu(v6, 2), 1500);
        world_fini(&world);
    }
}

/* A too big about what we never sent changes nothing. */
static void test_path_mtu_is_not_believed(void)
{
    BOTH(v6) {
        world_init(&world, plain);
        too_big(v6, 9, 1300);
        CHECK_EQ(path_mtu(v6, 2), 1500);
        struct ams_endpoint local = packets_endpoint(v6, 1, 7), peer = packets_endpoint(v6, 2, 9);
        ams_udp_open(world.host[A], &local, &peer, 0);
        too_big(v6, 10, 1300);
        CHECK_EQ(path_mtu(v6, 2), 1500);
        too_big(v6, 9, 1300);
        CHECK_EQ(path_mtu(v6, 2), 1300);
        world_fini(&world);
    }
}

/* RFC 1191 section 7: routers of old don't tell the next hop's MTU. */
static void test_plateau(void)
{
    world_init(&world, plain);
    world_udp(&world, A, false, 7);
    too_big(false, 9, 0);
    CHECK_EQ(path_mtu(false, 2), 1492);
    world_fini(&world);
}

/* ---- errors that we send ----------------------------------------------------------------- */

static uint64_t errors_after(bool v6, const struct packets_frame *what, bool link_group)
{
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    uint32_t len = packets_build(frame, what);
    uint8_t protocol = what->protocol;
    if (protocol == PROTO_UDP)
        packets_checksum(frame, len, v6, protocol, UDP_CHECKSUM_AT);
    if (link_group)
        frame[0] |= 1;
    world_inject(&world, A, frame, len);
    uint64_t sent = world_counters(&world, A)->icmp_error_tx;
    world_fini(&world);
    return sent;
}

static void test_port_unreachable(void)
{
    BOTH(v6) {
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .sport = 5, .dport = 9, .payload = 4};
        CHECK_EQ(errors_after(v6, &udp, false), 1);
        CHECK_EQ(errors_after(v6, &udp, true), 0); /* RFC 1122 section 3.2.2: link-layer broadcast */
        struct packets_frame unknown = {.v6 = v6, .protocol = 200, .payload = 4};
        CHECK_EQ(errors_after(v6, &unknown, false), 1);
    }
}

/* What the error quotes, and where it goes. */
static void test_port_unreachable_quotes(void)
{
    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        world_init(&world, plain);
        world_settle(&world);
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .sport = 5, .dport = 9, .payload = 1400};
        uint32_t len = packets_build(frame, &udp), l4 = l4_of(v6);
        packets_checksum(frame, len, v6, PROTO_UDP, UDP_CHECKSUM_AT);
        world.n_trace = 0;
        world_inject(&world, A, frame, len);
        world_settle(&world);
        const struct world_frame *error = NULL;
        for (uint32_t i = 0; i < world.n_trace; i++)
            if (world.trace[i].from == A && world.trace[i].data[l4] == (v6 ? ICMP6_UNREACHABLE : ICMP4_UNREACHABLE) &&
                world.trace[i].len > 100)
                error = &world.trace[i];
        CHECK(error != NULL);
        CHECK_EQ(error->data[l4 + 1], v6 ? ICMP6_CODE_PORT : ICMP4_CODE_PORT);
        CHECK_EQ(error->len - ETH_HEADER, v6 ? 1280 : 576);
        CHECK_MEM(error->data + l4 + ICMP_HEADER, frame + ETH_HEADER, error->len - l4 - ICMP_HEADER);
        CHECK_EQ(world_counters(&world, B)->icmp_error_rx, 1);
        world_fini(&world);
    }
}

/* No error about an error, however malformed its path. */
static void test_no_error_about_errors(void)
{
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    /* an ICMPv6 error behind a routing header that asks for a detour */
    struct packets_frame what = {.v6 = true, .protocol = PROTO_ROUTING, .payload = 24};
    uint32_t len = packets_build(frame, &what), at = ETH_HEADER + IP6_HEADER;
    frame[at] = PROTO_ICMPV6;
    frame[at + 3] = 1;
    world_inject(&world, A, frame, len);
    CHECK_EQ(world_counters(&world, A)->icmp_error_tx, 1); /* about the routing header: the rest is not looked at */
    world_fini(&world);
    for (int type = 0; type < 128; type++) {
        struct packets_frame icmp = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = (uint8_t)type, .payload = 4};
        CHECK_EQ(errors_after(true, &icmp, false), 0);
    }
}

/* Fifty in a row, then a thousand per second. */
static void test_rate_limit(void)
{
    uint8_t frame[PACKETS_MAX];
    world_init(&world, plain);
    struct packets_frame udp = {.protocol = PROTO_UDP, .sport = 5, .dport = 9, .payload = 4};
    uint32_t len = packets_build(frame, &udp);
    for (int i = 0; i < 80; i++)
        world_inject(&world, A, frame, len);
    CHECK_EQ(world_counters(&world, A)->icmp_error_tx, 50);
    CHECK_EQ(world_counters(&world, A)->icmp_rate_limited, 30);
    world.now += 10 * MS;
    for (int i = 0; i < 80; i++)
        world_inject(&world, A, frame, len);
    CHECK_EQ(world_counters(&world, A)->icmp_error_tx, 60);
    world.now += 10 * SECOND;
    for (int i = 0; i < 80; i++)
        world_inject(&world, A, frame, len);
    CHECK_EQ(world_counters(&world, A)->icmp_error_tx, 110);
    world_fini(&world);
}

int main(void)
{
    RUN(test_echo);
    RUN(test_ping_from_nowhere);
    RUN(test_bad_checksum);
    RUN(test_ping_to_groups);
    RUN(test_errors_reach_the_endpoint);
    RUN(test_bad_quotes);
    RUN(test_path_mtu);
    RUN(test_path_mtu_is_not_believed);
    RUN(test_plateau);
    RUN(test_port_unreachable);
    RUN(test_port_unreachable_quotes);
    RUN(test_no_error_about_errors);
    RUN(test_rate_limit);
    return check_report();
}
