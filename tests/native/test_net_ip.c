/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_ip.c - what IP accepts, where it sends, and the headers it writes.
 */
#include "net_fixture.h"

static struct world world;

static const struct world_options plain = {.flags = AMS_STACK_NO_DAD};

#define PORT 9

/* Injects a UDP packet to PORT after `change` had its way with it; the
 * checksums are right unless it broke them on purpose.
 * Return: true if the datagram arrived. */
static bool arrives(const struct packets_frame *what, void (*change)(uint8_t *frame, uint32_t *len), bool repair)
{
    uint8_t frame[PACKETS_MAX];
    struct packets_frame udp = *what;
    udp.protocol = udp.protocol ? udp.protocol : PROTO_UDP;
    udp.sport = 5;
    udp.dport = PORT;
    world_init(&world, plain);
    struct ams_endpoint any = packets_wildcard(what->v6, PORT);
    int id = ams_udp_open(world.host[A], &any, NULL, 0);
    uint32_t len = packets_build(frame, &udp);
    if (udp.protocol == PROTO_UDP)
        packets_checksum(frame, len, what->v6, PROTO_UDP, UDP_CHECKSUM_AT);
    if (change)
        change(frame, &len);
    if (repair && !what->v6)
        ipv4_update_checksum(frame + ETH_HEADER, (frame[ETH_HEADER] & 0xfu) * 4);
    world_inject(&world, A, frame, len);
    return ams_udp_recv(world.host[A], id, NULL, NULL, 0) >= 0;
}

/* Ends the world that arrives() made.  Return: the drops counted under name. */
static uint64_t drops(const char *name)
{
    uint64_t values[256];
    int n = stack_counter_values(world.host[A], values, 256), found = -1;
    for (int i = 0; i < n; i++)
        if (strcmp(stack_counter_name(i) + strlen("stack."), name) == 0)
            found = i;
    CHECK(found >= 0);
    world_fini(&world);
    return values[found];
}

static void pad(uint8_t *frame, uint32_t *len)
{
    memset(frame + *len, 0xaa, 60);
    *len += 60;
}

static void cut(uint8_t *frame, uint32_t *len)
{
    (void)frame;
    *len -= 1;
}

static void wrong_mac(uint8_t *frame, uint32_t *len)
{
    (void)len;
    frame[5] ^= 0x10;
}

static void broadcast_mac(uint8_t *frame, uint32_t *len)
{
    (void)len;
    memset(frame, 0xff, 6);
}

static void break_version(uint8_t *frame, uint32_t *len)
{
    (void)len;
    frame[ETH_HEADER] ^= 0x30;
}

static void break_checksum(uint8_t *frame, uint32_t *len)
{
    (void)len;
    frame[ETH_HEADER + 10] ^= 0x30;
}

static void vlan(uint8_t *frame, uint32_t *len)
{
    (void)len;
    store_be16(frame + 12, 0x8100);
}

static void test_frames(void)
{
    BOTH(v6) {
        struct packets_frame udp = {.v6 = v6, .payload = 4};
        CHECK(arrives(&udp, NULL, true));
        CHECK_EQ(drops("ip_bad_header"), 0);
        CHECK(arrives(&udp, pad, true)); /* the link's padding */
        CHECK_EQ(drops("udp_bad"), 0);
        CHECK(!arrives(&udp, cut, true));
        CHECK_EQ(drops("ip_truncated"), 1);
        CHECK(!arrives(&udp, wrong_mac, true));
        CHECK_EQ(drops("rx_not_for_us"), 1);
        CHECK(!arrives(&udp, broadcast_mac, true)); /* RFC 1122 section 3.3.6 */
        CHECK_EQ(drops("rx_not_for_us"), 1);
        CHECK(!arrives(&udp, break_version, true));
        CHECK_EQ(drops("ip_bad_header"), 1);
        CHECK(!arrives(&udp, vlan, true));
        CHECK_EQ(drops("rx_bad_ethertype"), 1);
    }
    struct packets_frame udp = {.payload = 4};
    CHECK(!arrives(&udp, break_checksum, false));
    CHECK_EQ(drops("ip_bad_checksum"), 1);
}

static void test_runts(void)
{
    world_init(&world, plain);
    uint8_t frame[PACKETS_MAX];
    for (int v6 = 0; v6 < 2; v6++) {
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .payload = 4, .dport = PORT};
        uint32_t len = packets_build(frame, &udp);
        for (uint32_t n = 0; n < len; n++)
            world_inject(&world, A, frame, n);
    }
    CHECK_EQ(world_counters(&world, A)->rx_short, 2 * ETH_HEADER);
    CHECK_EQ(world_counters(&world, A)->ip_truncated, world_counters(&world, A)->rx_frames - 2 * ETH_HEADER);
    world_fini(&world);
}

/* Addresses that no packet may come from, or that are not for us. */
static void test_addresses(void)
{
    static const uint8_t bad_v4[][4] = {{127, 0, 0, 1}, {224, 0, 0, 1}, {255, 255, 255, 255}, {10, 0, 0, 255},
                                        {0, 0, 0, 0}, {10, 0, 0, 1}, {240, 0, 0, 1}};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(bad_v4); i++) {
        struct packets_frame udp = {.payload = 4};
        ip_map4(udp.src, bad_v4[i]);
        CHECK(!arrives(&udp, NULL, true));
        CHECK_EQ(drops("ip_bad_header"), 1);
    }
    static const uint8_t bad_v6[][16] = {{[15] = 1}, {0xff, 2, [15] = 1}, {0}, {0xfd, [15] = 1},
                                         {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 2}};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(bad_v6); i++) {
        struct packets_frame udp = {.v6 = true, .payload = 4, .zero_src = true};
        memcpy(udp.src, bad_v6[i], 16);
        CHECK(!arrives(&udp, NULL, true));
        CHECK_EQ(drops("ip_bad_header"), 1);
    }
    BOTH(v6) {
        struct packets_frame udp = {.v6 = v6, .payload = 4};
        packets_ip(udp.dst, v6, 9);
        CHECK(!arrives(&udp, NULL, true));
        CHECK_EQ(drops("rx_not_for_us"), 1);
    }
    static const uint8_t loopback4[4] = {127, 0, 0, 1};
    struct packets_frame inwards = {.payload = 4};
    ip_map4(inwards.dst, loopback4); /* RFC 1122 section 3.2.1.3 (g) */
    CHECK(!arrives(&inwards, NULL, true));
    CHECK_EQ(drops("rx_not_for_us"), 1);
    struct packets_frame inwards6 = {.v6 = true, .payload = 4, .dst = {[15] = 1}};
    CHECK(!arrives(&inwards6, NULL, true));
    CHECK_EQ(drops("rx_not_for_us"), 1);
    /* ::ffff:10.0.0.1 in an IPv6 header is not 10.0.0.1 */
    struct packets_frame mapped = {.v6 = true, .payload = 4, .dst = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1}};
    CHECK(!arrives(&mapped, NULL, true));
    CHECK_EQ(drops("rx_not_for_us"), 1);
}

/* ---- options and extension headers ---------------------------------------------- */

static uint8_t option[4];

static void insert_option(uint8_t *frame, uint32_t *len)
{
    uint8_t *ip = frame + ETH_HEADER;
    memmove(ip + 24, ip + 20, *len - ETH_HEADER - 20);
    memcpy(ip + 20, option, 4);
    ip[0] = 0x46;
    *len += 4;
    store_be16(ip + 2, *len - ETH_HEADER);
}

static void test_ipv4_options(void)
{
    struct packets_frame udp = {.payload = 4};
    memcpy(option, (uint8_t[]){1, 1, 1, 0}, 4);
    CHECK(arrives(&udp, insert_option, true));
    CHECK_EQ(drops("ip_options_dropped"), 0);
    memcpy(option, (uint8_t[]){131, 3, 4, 0}, 4);
    CHECK(!arrives(&udp, insert_option, true));
    CHECK_EQ(drops("ip_options_dropped"), 1);
    memcpy(option, (uint8_t[]){131, 0, 4, 0}, 4);
    CHECK(!arrives(&udp, insert_option, true));
    CHECK_EQ(drops("ip_bad_header"), 1);
}

static uint8_t extension_kind;
static uint8_t extension[8];

static void insert_extension(uint8_t *frame, uint32_t *len)
{
    uint8_t *ip = frame + ETH_HEADER;
    memmove(ip + 48, ip + 40, *len - ETH_HEADER - 40);
    memcpy(ip + 40, extension, 8);
    ip[40] = ip[6];
    ip[6] = extension_kind;
    *len += 8;
    store_be16(ip + 4, *len - ETH_HEADER - 40);
}

static bool extension_arrives(uint8_t kind, uint8_t byte2, uint8_t byte3, uint8_t byte4)
{
    struct packets_frame udp = {.v6 = true, .payload = 4};
    memset(extension, 0, sizeof(extension));
    extension_kind = kind;
    extension[2] = byte2;
    extension[3] = byte3;
    extension[4] = byte4;
    return arrives(&udp, insert_extension, true);
}

static void test_ipv6_extensions(void)
{
    CHECK(extension_arrives(PROTO_HOPOPTS, 1, 4, 0));
    CHECK_EQ(drops("icmp_error_tx"), 0);
    CHECK(extension_arrives(PROTO_DSTOPTS, 1, 4, 0));
    CHECK_EQ(drops("icmp_error_tx"), 0);
    CHECK(extension_arrives(PROTO_ROUTING, 0, 0, 0));
    CHECK_EQ(drops("icmp_error_tx"), 0);
    CHECK(extension_arrives(PROTO_FRAGMENT, 0, 0, 0));
    CHECK_EQ(drops("frag_rx"), 1);
    CHECK(!extension_arrives(PROTO_ROUTING, 0, 1, 0)); /* type 0 with a segment left (RFC 5095) */
    CHECK_EQ(drops("icmp_error_tx"), 1);
    CHECK(!extension_arrives(PROTO_DSTOPTS, 0x5e, 2, 0)); /* unknown, discard silently */
    CHECK_EQ(drops("icmp_error_tx"), 0);
    CHECK(!extension_arrives(PROTO_DSTOPTS, 0x9e, 2, 0)); /* unknown, discard and say so */
    CHECK_EQ(drops("icmp_error_tx"), 1);
    CHECK(!extension_arrives(PROTO_DSTOPTS, 0x1e, 200, 0)); /* longer than its header */
    CHECK_EQ(drops("ip6_ext_dropped"), 1);
    CHECK(!extension_arrives(PROTO_NONE, 0, 0, 0)); /* nothing follows, so nothing is wrong */
    CHECK_EQ(drops("ip_unknown_protocol"), 0);
    CHECK(!extension_arrives(51, 0, 0, 0)); /* authentication: not spoken */
    CHECK_EQ(drops("ip_unknown_protocol"), 1);
}

/* ---- routes and sources ---------------------------------------------------------------- */

static struct ams_endpoint address(const char *hex, bool v6)
{
    struct ams_endpoint endpoint = {.family = v6 ? AMS_IPV6 : AMS_IPV4};
    uint8_t bytes[16] = {0};
    for (int i = 0; i < (v6 ? 16 : 4); i++) {
        unsigned byte = 0;
        if (hex[2 * i])
            sscanf(hex + 2 * i, "%2x", &byte);
        else
            break;
        bytes[i] = (uint8_t)byte;
    }
    if (v6)
        memcpy(endpoint.ip, bytes, 16);
    else
        ip_map4(endpoint.ip, bytes);
    return endpoint;
}

static void test_routes(void)
{
    static const struct {
        const char *dst;
        bool v6;
        bool plain, gateway;  /* reachable without and with a gateway */
    } cases[] = {
        {"0a000002", false, true, true}, {"0a0000ff", false, true, true},   {"0a000001", false, true, true},
        {"c0a80101", false, false, true}, {"7f000001", false, false, false}, {"00000000", false, false, false},
        {"e00000fb", false, true, true}, {"ffffffff", false, true, true},
        {"fd000000000000000000000000000002", true, true, true}, {"20010db8", true, false, true},
        {"fe800000000000000000000000000009", true, true, true}, {"ff02000000000000000000000000000c", true, true, true},
        {"00000000000000000000000000000001", true, false, false}, {"", true, false, false},
    };
    for (int gateway = 0; gateway < 2; gateway++) {
        world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD, .gateway = gateway});
        for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
            struct ams_endpoint dst = address(cases[i].dst, cases[i].v6);
            CHECK_EQ(ams_stack_routes(world.host[A], &dst), gateway ? cases[i].gateway : cases[i].plain);
        }
        struct ams_endpoint own = packets_endpoint(false, 1, 0), other = packets_endpoint(false, 2, 0);
        struct ams_endpoint any4 = packets_wildcard(false, 0), any6 = packets_wildcard(true, 0);
        CHECK_EQ(ams_stack_owns(world.host[A], &own), 1);
        CHECK_EQ(ams_stack_owns(world.host[A], &other), 0);
        CHECK_EQ(ams_stack_owns(world.host[A], &any4), 1);
        CHECK_EQ(ams_stack_owns(world.host[A], &any6), 1);
        world_fini(&world);
    }
}

/* Off-link packets carry the gateway's MAC. */
static void test_gateway(void)
{
    BOTH(v6) {
        world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD, .gateway = true});
        int a = world_udp(&world, A, v6, 7);
        struct ams_endpoint far = address(v6 ? "20010db8" : "08080808", v6);
        far.port = 53;
        world_settle(&world);
        uint64_t before = world_counters(&world, B)->rx_not_for_us;
        CHECK_EQ(ams_udp_send(world.host[A], a, &far, "x", 1, world.now), 0);
        world_settle(&world);
        const struct world_frame *last = &world.trace[world.n_trace - 1];
        CHECK_MEM(last->data, packets_peer_mac, 6);
        CHECK_EQ(world_counters(&world, B)->rx_not_for_us, before + 1); /* it is no router */
        world_fini(&world);
    }
}

/* RFC 6724: same scope first, then the longest prefix. */
static void test_source_selection(void)
{
    static const char *const own[] = {"20010db800010000", "fd00000000000000", "20010db800020000"};
    struct ams_ifaddr addresses[4] = {{packets_endpoint(false, 1, 0), 24}};
    for (int i = 0; i < 3; i++) {
        addresses[i + 1] = (struct ams_ifaddr){address(own[i], true), 64};
        addresses[i + 1].address.ip[15] = 1;
    }
    struct frame_pool pool;
    frame_pool_init(&pool, 64, false);
    struct ams_stack_config config = {.addresses = addresses, .n_addresses = 4, .flags = AMS_STACK_NO_DAD};
    struct stack_link link = {.mtu = 1500, .pool = &pool};
    int status;
    struct ams_stack *stack = stack_new(&config, &link, WORLD_START, &status);
    CHECK(stack != NULL);
    uint8_t source[16];
    for (int i = 0; i < 3; i++) {
        struct ams_endpoint dst = addresses[i + 1].address;
        dst.ip[15] = 9;
        CHECK(iface_source(stack, dst.ip, source));
        CHECK_MEM(source, addresses[i + 1].address.ip, 16);
    }
    struct ams_endpoint local = address("fe80", true), group = address("ff02", true), far = address("2600", true);
    CHECK(iface_source(stack, local.ip, source) && ipv6_is_link_local(source));
    CHECK(iface_source(stack, group.ip, source) && ipv6_is_link_local(source));
    CHECK(iface_source(stack, far.ip, source) && !ipv6_is_link_local(source));
    CHECK(iface_source(stack, packets_endpoint(false, 200, 0).ip, source));
    CHECK_MEM(source, addresses[0].address.ip, 16);

    struct ams_ifaddr all[8];
    CHECK_EQ(stack_addresses(stack, all, 8), 5); /* the link-local one is there, too */
    CHECK(ipv6_is_link_local(all[4].address.ip));
    CHECK_EQ(all[0].prefix_len, 24);
    CHECK_EQ(stack_addresses(stack, all, 0), 5);
    stack_free(stack);
    frame_pool_fini(&pool);
}

/* ---- output --------------------------------------------------------------------------------- */

/* Sends what TCP would, a header and two frags of odd lengths, through
 * ip_output() on host A.  Return: what that returned. */
static bool output_segment(bool v6, const uint8_t *payload, uint32_t len, uint16_t gso_size)
{
    static uint8_t scratch[FRAME_HEADROOM + TX_HEAD_MAX];
    uint8_t src[16], dst[16];
    struct ip_path path = {0};
    struct tcp_repr tcp = {.src_port = 80, .dst_port = 8080, .flags = TCP_ACK, .window = 1};
    struct ams_tx tx = {.head = scratch + FRAME_HEADROOM, .gso_size = gso_size, .n_frags = 2};
    uint32_t l4 = ip_headroom(v6 ? AMS_IPV6 : AMS_IPV4), first = len / 3 | 1;
    packets_ip(src, v6, 1);
    packets_ip(dst, v6, 2);
    tx.head_len = l4 + tcp_emit(&tcp, tx.head + l4);
    tx.total = tx.head_len + len;
    tx.frags[0] = (struct ams_tx_frag){payload, first};
    tx.frags[1] = (struct ams_tx_frag){payload + first, len - first};
    ip_l4_checksum(world.host[A], &tx, src, dst, PROTO_TCP, l4, 16);
    bool now = ip_output(world.host[A], &path, &tx, src, dst, &(struct ip_service){0}, 0, world.now);
    CHECK_EQ(tx.csum_start, l4);
    if (gso_size) {
        CHECK_EQ(tx.gso_hdr_len, tx.head_len);
        CHECK_EQ(tx.flags & (TX_GSO4 | TX_GSO6), v6 ? TX_GSO6 : TX_GSO4);
    }
    if (now) { /* as the port would */
        struct ams_frame *frame = ip_frame_from_tx(world.host[A], &tx);
        stack_enqueue(world.host[A], frame);
    }
    return now;
}

/* Checksums over pieces, and super-frames that wait for a neighbour with all
 * that the port must know of them. */
static void test_output(void)
{
    static uint8_t payload[60000];
    world_pattern(payload, sizeof(payload), 4);
    BOTH(v6) {
        for (int offload = 0; offload < 2; offload++) {
            world_init(&world, (struct world_options){.flags = AMS_STACK_NO_DAD,
                                                      .caps = offload ? AMS_CAP_CSUM_TX | AMS_CAP_TSO4 | AMS_CAP_TSO6 : 0});
            world_settle(&world);
            uint32_t len = offload ? 60000 : 1000;
            CHECK(!output_segment(v6, payload, len, offload ? 1400 : 0)); /* the neighbour is not known */
            world_settle(&world);
            CHECK(output_segment(v6, payload, len, offload ? 1400 : 0));
            world_settle(&world);
            CHECK_EQ(world_counters(&world, B)->tcp_rx, 2);
            CHECK_EQ(world_counters(&world, B)->tcp_bad_checksum, 0);
            CHECK_EQ(world_counters(&world, B)->tcp_no_conn, 2);
            int found = 0;
            for (uint32_t i = 0; i < world.n_trace; i++) {
                const struct world_frame *frame = &world.trace[i];
                if (frame->len < 1000)
                    continue;
                CHECK_EQ(frame->len, ip_headroom(v6 ? AMS_IPV6 : AMS_IPV4) + 20 + len);
                CHECK_EQ(frame->flags, offload ? TX_CSUM | (v6 ? TX_GSO6 : TX_GSO4) : 0);
                found++;
            }
            CHECK_EQ(found, 2);
            world_fini(&world);
        }
    }
}

/* The header as RFC 791 has it, checked by the parser. */
static void test_output_header(void)
{
    static const uint8_t payload[100];
    world_init(&world, plain);
    output_segment(false, payload, sizeof(payload), 0);
    world_settle(&world);
    const struct world_frame *frame = NULL;
    for (uint32_t i = 0; i < world.n_trace; i++)
        if (world.trace[i].len == ETH_HEADER + 140)
            frame = &world.trace[i];
    CHECK(frame != NULL);
    struct ipv4_repr ip;
    CHECK_EQ(ipv4_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &ip), WIRE_OK);
    CHECK(ip.dont_fragment && !ip.more_fragments);
    CHECK_EQ(ip.ttl, 64);
    CHECK_EQ(ip.total_len, 140);
    world_fini(&world);
}

/* One flow, one label; RFC 6437. */
static void test_flow_labels(void)
{
    uint32_t labels[4];
    world_init(&world, plain);
    int ids[2] = {world_udp(&world, A, true, 7), world_udp(&world, A, true, 8)};
    struct ams_endpoint to = packets_endpoint(true, 2, 9);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(ams_udp_send(world.host[A], ids[i / 2], &to, "x", 1, world.now), 0);
        world_settle(&world);
        struct ipv6_repr ip;
        const struct world_frame *frame = NULL;
        for (uint32_t j = 0; j < world.n_trace; j++)
            if (world.trace[j].from == A && world.trace[j].data[ETH_HEADER + 6] == PROTO_UDP)
                frame = &world.trace[j];
        CHECK(frame != NULL);
        CHECK_EQ(ipv6_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &ip), WIRE_OK);
        labels[i] = ip.flow_label;
        world.n_trace = 0;
    }
    CHECK_EQ(labels[0], labels[1]);
    CHECK_EQ(labels[2], labels[3]);
    CHECK(labels[0] != labels[2] && labels[0] != 0);
    world_fini(&world);
}

int main(void)
{
    RUN(test_frames);
    RUN(test_runts);
    RUN(test_addresses);
    RUN(test_ipv4_options);
    RUN(test_ipv6_extensions);
    RUN(test_routes);
    RUN(test_gateway);
    RUN(test_source_selection);
    RUN(test_output);
    RUN(test_output_header);
    RUN(test_flow_labels);
    return check_report();
}
