/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_wire_headers.c - parsers and emitters: what is emitted parses to the
 * same, and what is cut or contradicts itself is refused.
 */
#include "check.h"
#include "core/hash.h"
#include "wire/arp.h"
#include "wire/checksum.h"
#include "wire/icmp.h"
#include "wire/ipv4.h"
#include "wire/ipv6.h"
#include "wire/ndp.h"
#include "wire/udp.h"

/* A copy of exactly len bytes: reading behind it is a sanitizer's business. */
static uint8_t *exact(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    return copy;
}

/* ---- Ethernet and ARP ----------------------------------------------------------- */

static void test_eth(void)
{
    struct eth_repr in = {{1, 2, 3, 4, 5, 6}, {7, 8, 9, 10, 11, 12}, 0x86dd}, out;
    uint8_t bytes[ETH_HEADER];
    eth_emit(bytes, &in);
    CHECK_EQ(eth_parse(bytes, sizeof(bytes), &out), WIRE_OK);
    CHECK_MEM(&in, &out, sizeof(in));
    CHECK_EQ(eth_parse(bytes, sizeof(bytes) - 1, &out), WIRE_TRUNCATED);
    CHECK(eth_is_group(in.dst) && !eth_is_group(bytes + 1));
    CHECK(!eth_is_station((const uint8_t[6]){0}) && eth_is_station((const uint8_t[6]){0, 0, 0, 0, 0, 1}));
    for (int i = 0; i < 6; i++) {
        uint8_t other[6];
        memcpy(other, in.dst, 6);
        CHECK(eth_equal(other, in.dst));
        other[i] ^= 0x80;
        CHECK(!eth_equal(other, in.dst));
    }
}

static void test_arp(void)
{
    struct arp_repr in = {ARP_REPLY, {2, 0, 0, 0, 0, 1}, {10, 0, 0, 1}, {2, 0, 0, 0, 0, 2}, {10, 0, 0, 2}}, out;
    uint8_t bytes[ARP_LENGTH];
    arp_emit(bytes, &in);
    CHECK_EQ(arp_parse(bytes, sizeof(bytes), &out), WIRE_OK);
    CHECK_MEM(&in, &out, sizeof(in));
    for (size_t len = 0; len < sizeof(bytes); len++) {
        uint8_t *cut = exact(bytes, len);
        CHECK_EQ(arp_parse(cut, len, &out), WIRE_TRUNCATED);
        free(cut);
    }
    for (int at = 0; at < 8; at++) { /* each byte of types, lengths and operation matters */
        bytes[at] ^= 0x40;
        CHECK_EQ(arp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
        bytes[at] ^= 0x40;
    }
    bytes[8] |= 1; /* a group cannot speak */
    CHECK_EQ(arp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
}

/* ---- IPv4 --------------------------------------------------------------------------- */

static const struct ipv4_repr ipv4_sample = {
    .src = {10, 0, 0, 1}, .dst = {192, 168, 7, 9}, .header_len = 20, .tos = 0xb8, .ttl = 63, .protocol = 17,
    .total_len = 48, .id = 0xbeef, .frag_off = 1480, .dont_fragment = false, .more_fragments = true,
};

static void test_ipv4_round_trip(void)
{
    for (int flags = 0; flags < 4; flags++) {
        struct ipv4_repr in = ipv4_sample, out;
        uint8_t bytes[48] = {0};
        in.dont_fragment = flags & 1;
        in.more_fragments = flags & 2;
        ipv4_emit(bytes, &in);
        CHECK_EQ(ipv4_parse(bytes, sizeof(bytes), &out), WIRE_OK);
        CHECK_MEM(out.src, in.src, 4);
        CHECK_MEM(out.dst, in.dst, 4);
        CHECK_EQ(out.header_len, 20);
        CHECK_EQ(out.tos, in.tos);
        CHECK_EQ(out.ttl, in.ttl);
        CHECK_EQ(out.protocol, in.protocol);
        CHECK_EQ(out.total_len, in.total_len);
        CHECK_EQ(out.id, in.id);
        CHECK_EQ(out.frag_off, in.frag_off);
        CHECK_EQ(out.dont_fragment, in.dont_fragment);
        CHECK_EQ(out.more_fragments, in.more_fragments);
    }
}

static void test_ipv4_refused(void)
{
    struct ipv4_repr out;
    uint8_t bytes[48] = {0};
    ipv4_emit(bytes, &ipv4_sample);
    for (size_t len = 0; len < sizeof(bytes); len++) {
        uint8_t *cut = exact(bytes, len);
        CHECK_EQ(ipv4_parse(cut, len, &out), WIRE_TRUNCATED);
        CHECK_EQ(ipv4_parse_quoted(cut, len, &out), len < 20 ? WIRE_TRUNCATED : WIRE_OK);
        free(cut);
    }
    for (int bit = 0; bit < 160; bit++) { /* no flipped bit gets through */
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        CHECK(ipv4_parse(bytes, sizeof(bytes), &out) != WIRE_OK);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    bytes[0] = 0x65;
    CHECK_EQ(ipv4_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
    bytes[0] = 0x44; /* shorter than a header can be */
    CHECK_EQ(ipv4_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
    bytes[0] = 0x4f; /* longer than what there is */
    CHECK_EQ(ipv4_parse(bytes, 40, &out), WIRE_TRUNCATED);
    bytes[0] = 0x45;
    store_be16(bytes + 2, 19);
    ipv4_update_checksum(bytes, 20);
    CHECK_EQ(ipv4_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
}

static enum ipv4_options options_of(const uint8_t *options, size_t len)
{
    uint8_t header[60] = {0};
    memcpy(header + 20, options, len);
    return ipv4_check_options(header, 20 + (unsigned)len);
}

static void test_ipv4_options(void)
{
    static const uint8_t plain[] = {1, 1, 1, 0}, timestamp[] = {68, 4, 5, 0}, after_end[] = {0, 131, 3, 4};
    static const uint8_t loose[] = {1, 131, 3, 4}, strict[] = {137, 4, 4, 0};
    static const uint8_t zero_len[] = {7, 0, 0, 0}, one_len[] = {7, 1, 0, 0}, long_len[] = {7, 5, 0, 0};
    static const uint8_t no_len[] = {1, 1, 1, 7};
    CHECK_EQ(options_of(plain, 4), IPV4_OPTIONS_PLAIN);
    CHECK_EQ(options_of(timestamp, 4), IPV4_OPTIONS_PLAIN);
    CHECK_EQ(options_of(after_end, 4), IPV4_OPTIONS_PLAIN);
    CHECK_EQ(options_of(loose, 4), IPV4_OPTIONS_ROUTED);
    CHECK_EQ(options_of(strict, 4), IPV4_OPTIONS_ROUTED);
    CHECK_EQ(options_of(zero_len, 4), IPV4_OPTIONS_MALFORMED);
    CHECK_EQ(options_of(one_len, 4), IPV4_OPTIONS_MALFORMED);
    CHECK_EQ(options_of(long_len, 4), IPV4_OPTIONS_MALFORMED);
    CHECK_EQ(options_of(no_len, 4), IPV4_OPTIONS_MALFORMED);
}

/* ---- IPv6 --------------------------------------------------------------------------- */

static void test_ipv6_round_trip(void)
{
    struct ipv6_repr in = {.src = {0xfd, [15] = 1}, .dst = {0xfd, [15] = 2}, .flow_label = 0xabcde, .payload_len = 8,
                           .traffic_class = 0xb9, .next = 17, .hop_limit = 255}, out;
    uint8_t bytes[48] = {0};
    ipv6_emit(bytes, &in);
    CHECK_EQ(ipv6_parse(bytes, sizeof(bytes), &out), WIRE_OK);
    CHECK_MEM(out.src, in.src, 16);
    CHECK_MEM(out.dst, in.dst, 16);
    CHECK_EQ(out.flow_label, in.flow_label);
    CHECK_EQ(out.traffic_class, in.traffic_class);
    CHECK_EQ(out.payload_len, in.payload_len);
    CHECK_EQ(out.next, in.next);
    CHECK_EQ(out.hop_limit, in.hop_limit);
    for (size_t len = 0; len < sizeof(bytes); len++) {
        uint8_t *cut = exact(bytes, len);
        CHECK_EQ(ipv6_parse(cut, len, &out), WIRE_TRUNCATED);
        CHECK_EQ(ipv6_parse_quoted(cut, len, &out), len < 40 ? WIRE_TRUNCATED : WIRE_OK);
        free(cut);
    }
    bytes[0] ^= 0x20;
    CHECK_EQ(ipv6_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
}

/* Walks a chain of headers that lies behind an IPv6 header. */
static enum ipv6_walk_result walk_chain(uint8_t next, const uint8_t *chain, size_t len, bool multicast,
                                        struct ipv6_walk *walk)
{
    uint8_t packet[IP6_HEADER + 256] = {0};
    memcpy(packet + IP6_HEADER, chain, len);
    uint8_t *copy = exact(packet, IP6_HEADER + len);
    *walk = ipv6_walk_start(next);
    enum ipv6_walk_result result = ipv6_walk(copy, IP6_HEADER + len, multicast, walk);
    free(copy);
    return result;
}

static void test_ipv6_walk(void)
{
    struct ipv6_walk walk;
    static const uint8_t chain[] = {
        PROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0,                             /* hop-by-hop: PadN */
        PROTO_ROUTING, 1, 0, 0, 1, 2, 0, 0, 0, 0, 30, 2, 9, 9, 0, 0,    /* destination options: unknown, to be skipped */
        PROTO_TCP, 0, 4, 0, 0, 0, 0, 0,                                 /* routing: no segments left */
        1, 2, 3, 4,
    };
    CHECK_EQ(walk_chain(PROTO_HOPOPTS, chain, sizeof(chain), false, &walk), IPV6_WALK_UPPER);
    CHECK_EQ(walk.next, PROTO_TCP);
    CHECK_EQ(walk.offset, IP6_HEADER + 32);
    CHECK_EQ(walk.named_at, IP6_HEADER + 24);
    for (size_t len = 0; len < 32; len++) {
        /* cut anywhere, it is dropped */
        CHECK_EQ(walk_chain(PROTO_HOPOPTS, chain, len, false, &walk), IPV6_WALK_DROP);
    }
    CHECK_EQ(walk_chain(PROTO_TCP, chain, 0, false, &walk), IPV6_WALK_UPPER);
    CHECK_EQ(walk.offset, IP6_HEADER);
    CHECK_EQ(walk.named_at, 6);
    CHECK_EQ(walk_chain(PROTO_FRAGMENT, chain, 0, false, &walk), IPV6_WALK_FRAGMENT);
}

/* RFC 8200 section 4.2: the two high bits of an unknown option. */
static void test_ipv6_option_actions(void)
{
    for (unsigned action = 0; action < 4; action++) {
        for (int multicast = 0; multicast < 2; multicast++) {
            struct ipv6_walk walk;
            uint8_t header[8] = {PROTO_UDP, 0, 1, 0, (uint8_t)(action << 6 | 0x1e), 2, 0, 0};
            enum ipv6_walk_result expected[] = {IPV6_WALK_UPPER, IPV6_WALK_DROP, IPV6_WALK_REJECT,
                                                multicast ? IPV6_WALK_DROP : IPV6_WALK_REJECT};
            CHECK_EQ(walk_chain(PROTO_DSTOPTS, header, 8, multicast, &walk), expected[action]);
            if (expected[action] == IPV6_WALK_REJECT) {
                CHECK_EQ(walk.error_code, 2);
                CHECK_EQ(walk.error_pointer, IP6_HEADER + 4);
            }
        }
    }
}

static void test_ipv6_walk_refuses(void)
{
    struct ipv6_walk walk;
    uint8_t routing[8] = {PROTO_TCP, 0, 0, 1}, nested[16] = {PROTO_HOPOPTS, 0, 1, 4}, many[128] = {0};
    CHECK_EQ(walk_chain(PROTO_ROUTING, routing, 8, false, &walk), IPV6_WALK_REJECT); /* RFC 5095 */
    CHECK_EQ(walk.error_code, 0);
    CHECK_EQ(walk.error_pointer, IP6_HEADER + 2);
    CHECK_EQ(walk_chain(PROTO_DSTOPTS, nested, 16, false, &walk), IPV6_WALK_REJECT); /* hop-by-hop comes first or not */
    CHECK_EQ(walk.error_code, 1);
    CHECK_EQ(walk.error_pointer, IP6_HEADER);
    for (size_t i = 0; i < sizeof(many); i += 8) {
        many[i] = PROTO_DSTOPTS;
        many[i + 2] = 1;
        many[i + 3] = 4;
    }
    CHECK_EQ(walk_chain(PROTO_DSTOPTS, many, sizeof(many), false, &walk), IPV6_WALK_DROP);
    CHECK(walk.count <= IP6_MAX_EXTENSIONS + 1);
}

static void test_ipv6_fragment(void)
{
    struct ipv6_fragment in = {PROTO_UDP, 1448, true, 0xdeadbeef}, out;
    uint8_t bytes[8];
    ipv6_fragment_emit(bytes, &in);
    CHECK_EQ(ipv6_fragment_parse(bytes, 8, &out), WIRE_OK);
    CHECK_EQ(out.next, in.next);
    CHECK_EQ(out.offset, in.offset);
    CHECK_EQ(out.more, in.more);
    CHECK_EQ(out.id, in.id);
    CHECK_EQ(ipv6_fragment_parse(bytes, 7, &out), WIRE_TRUNCATED);
}

static void test_ipv6_addresses(void)
{
    static const uint8_t mac[6] = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};
    static const uint8_t local[16] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x00, 0x11, 0x22, 0xff, 0xfe, 0x33, 0x44, 0x55};
    static const uint8_t group[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0x33, 0x44, 0x55};
    uint8_t out[16];
    ipv6_link_local(out, mac);
    CHECK_MEM(out, local, 16);
    CHECK(ipv6_is_link_local(out));
    ipv6_solicited_node(out, local);
    CHECK_MEM(out, group, 16);
    CHECK(ipv6_is_multicast(out) && !ipv6_is_multicast(local));
    CHECK(ipv6_is_loopback((const uint8_t[16]){[15] = 1}) && !ipv6_is_loopback((const uint8_t[16]){[14] = 1}));
    CHECK(ipv6_is_unspecified((const uint8_t[16]){0}) && !ipv6_is_unspecified(local));
}

/* ---- NDP, UDP --------------------------------------------------------------------------- */

static void test_ndp(void)
{
    for (uint8_t type = ICMP6_NEIGHBOR_SOLICIT; type <= ICMP6_NEIGHBOR_ADVERT; type++) {
        for (int with = 0; with < 2; with++) {
            struct ndp_repr in = {.type = type, .flags = NDP_SOLICITED | NDP_OVERRIDE, .target = {0xfe, 0x80, [15] = 9},
                                  .has_lladdr = with, .lladdr = {2, 3, 4, 5, 6, 7}}, out;
            uint8_t bytes[NDP_LENGTH_LLADDR];
            uint32_t len = ndp_emit(bytes, &in);
            CHECK_EQ(len, with ? NDP_LENGTH_LLADDR : NDP_LENGTH);
            CHECK_EQ(ndp_parse(bytes, len, &out), WIRE_OK);
            CHECK_EQ(out.type, type);
            CHECK_EQ(out.flags, in.flags);
            CHECK_MEM(out.target, in.target, 16);
            CHECK_EQ(out.has_lladdr, with);
            if (with)
                CHECK_MEM(out.lladdr, in.lladdr, 6);
            for (size_t cut = 0; cut < len; cut++) {
                uint8_t *copy = exact(bytes, cut);
                CHECK_EQ(ndp_parse(copy, cut, &out), cut == NDP_LENGTH ? WIRE_OK : WIRE_TRUNCATED);
                free(copy);
            }
        }
    }
}

static void test_ndp_refused(void)
{
    struct ndp_repr in = {.type = ICMP6_NEIGHBOR_SOLICIT, .target = {0xfe, 0x80}, .has_lladdr = true}, out;
    uint8_t bytes[NDP_LENGTH_LLADDR];
    ndp_emit(bytes, &in);
    bytes[25] = 0; /* RFC 4861 section 4.6: discard options of length zero */
    CHECK_EQ(ndp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
    bytes[25] = 2; /* an option longer than the message */
    CHECK_EQ(ndp_parse(bytes, sizeof(bytes), &out), WIRE_TRUNCATED);
    bytes[25] = 1;
    bytes[24] = 2; /* the target's address has no place in a solicitation */
    CHECK_EQ(ndp_parse(bytes, sizeof(bytes), &out), WIRE_OK);
    CHECK(!out.has_lladdr);
    bytes[8] = 0xff;
    CHECK_EQ(ndp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
    bytes[8] = 0xfe;
    bytes[1] = 1;
    CHECK_EQ(ndp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
}

static void test_udp(void)
{
    struct udp_repr in = {1234, 80, 12, 0xabcd}, out;
    uint8_t bytes[12] = {0};
    udp_emit(bytes, &in);
    CHECK_EQ(udp_parse(bytes, sizeof(bytes), &out), WIRE_OK);
    CHECK_MEM(&in, &out, sizeof(in));
    for (size_t len = 0; len < sizeof(bytes); len++) {
        uint8_t *cut = exact(bytes, len);
        CHECK_EQ(udp_parse(cut, len, &out), WIRE_TRUNCATED);
        free(cut);
    }
    store_be16(bytes + 4, 7);
    CHECK_EQ(udp_parse(bytes, sizeof(bytes), &out), WIRE_MALFORMED);
}

/* No parser reads outside what it was given, whatever is in it. */
static void test_noise(void)
{
    struct ams_rng rng;
    rng_init(&rng, 5, 6);
    for (int round = 0; round < 50000; round++) {
        uint8_t noise[128];
        size_t len = rng_below(&rng, sizeof(noise));
        for (size_t i = 0; i < len; i++)
            noise[i] = (uint8_t)(rng_next(&rng) >> (rng_next(&rng) & 31));
        noise[0] = rng_below(&rng, 2) ? (uint8_t)(0x40 | noise[0] % 16) : (uint8_t)(0x60 | noise[0] % 16);
        uint8_t *copy = exact(noise, len);
        struct ipv4_repr ip4;
        struct ipv6_repr ip6;
        struct ndp_repr ndp;
        struct arp_repr arp;
        struct udp_repr udp;
        if (ipv4_parse_quoted(copy, len, &ip4) == WIRE_OK)
            ipv4_check_options(copy, ip4.header_len);
        if (ipv6_parse_quoted(copy, len, &ip6) == WIRE_OK) {
            uint8_t first = (uint8_t[]){PROTO_HOPOPTS, PROTO_ROUTING, PROTO_DSTOPTS}[round % 3];
            struct ipv6_walk walk = ipv6_walk_start(first);
            if (ipv6_walk(copy, len, round & 1, &walk) == IPV6_WALK_UPPER)
                CHECK(walk.offset <= len);
        }
        ndp_parse(copy, len, &ndp);
        arp_parse(copy, len, &arp);
        udp_parse(copy, len, &udp);
        free(copy);
    }
}

int main(void)
{
    RUN(test_eth);
    RUN(test_arp);
    RUN(test_ipv4_round_trip);
    RUN(test_ipv4_refused);
    RUN(test_ipv4_options);
    RUN(test_ipv6_round_trip);
    RUN(test_ipv6_walk);
    RUN(test_ipv6_option_actions);
    RUN(test_ipv6_walk_refuses);
    RUN(test_ipv6_fragment);
    RUN(test_ipv6_addresses);
    RUN(test_ndp);
    RUN(test_ndp_refused);
    RUN(test_udp);
    RUN(test_noise);
    return check_report();
}
