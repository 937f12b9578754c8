/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Demux: each shape of received frame, and who gets it.
 */
#include "switch_fixture.h"

#define NOBODY AMS_SWITCH_TO_NOBODY
#define TO_CONTROL AMS_SWITCH_TO_CONTROL
#define TO_HOST AMS_SWITCH_TO_HOST

static void test_tuples_go_to_their_owner(void)
{
    struct ams_switch *sw = fixture_new(TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame tcp = {.v6 = v6, .sport = 9, .dport = OWNED};
        struct packets_frame udp = {.v6 = v6, .protocol = PROTO_UDP, .sport = 9, .dport = OWNED, .payload = 20};
        CHECK_EQ(route(sw, &tcp), OWNER);
        CHECK_EQ(route(sw, &udp), OWNER);
        tcp.dport = UNOWNED;
        CHECK_EQ(route(sw, &tcp), TO_CONTROL);
        packets_ip(tcp.dst, v6, 7);
        CHECK_EQ(route(sw, &tcp), NOBODY);
    }
    CHECK_EQ(sw->counters[SWITCH_RX_OWNER], 4);
    CHECK_EQ(sw->counters[SWITCH_RX_CONTROL], 2);
    CHECK_EQ(sw->counters[SWITCH_RX_NOT_OURS], 2);
    ams_switch_free(sw);
}

static void test_a_wildcard_covers_all_addresses_but_the_exact_claim_wins(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);

    BOTH(v6) {
        struct ams_endpoint any = packets_wildcard(v6, 90);
        struct packets_frame syn = {.v6 = v6, .sport = 9, .dport = 90};
        CHECK_EQ(route(sw, &syn), NOBODY);
        CHECK_EQ(ams_switch_claim(sw, OTHER, PROTO_TCP, &any), 0);
        CHECK_EQ(route(sw, &syn), OTHER);
        packets_ip(syn.dst, v6, 7);
        CHECK_EQ(route(sw, &syn), NOBODY);
    }
    CHECK_EQ(sw->counters[SWITCH_RX_UNCLAIMED], 2);
    CHECK_EQ(sw->counters[SWITCH_RX_NOT_OURS], 2);
    ams_switch_free(sw);
}

static void test_policies_for_what_nobody_claimed(void)
{
    const int32_t policies[] = {TO_CONTROL, TO_HOST, NOBODY};

    for (int i = 0; i < 3; i++) {
        struct ams_switch *sw = fixture_new(policies[i], 0);
        BOTH(v6) {
            struct packets_frame syn = {.v6 = v6, .sport = 9, .dport = UNOWNED};
            CHECK_EQ(route(sw, &syn), policies[i]);
            packets_ip(syn.dst, v6, 7);
            CHECK_EQ(route(sw, &syn), policies[i] == TO_HOST ? TO_HOST : NOBODY);
        }
        ams_switch_free(sw);
    }
}

static void test_broadcast_and_multicast(void)
{
    static const uint8_t subnet[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 255};
    static const uint8_t limited[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 255, 255, 255, 255};
    static const uint8_t group6[16] = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    struct ams_switch *sw = fixture_new(TO_CONTROL, 0);
    struct ams_endpoint any = packets_wildcard(false, 90);
    struct packets_frame datagram = {.protocol = PROTO_UDP, .sport = 9, .dport = 90};

    CHECK_EQ(ams_switch_claim(sw, OTHER, PROTO_UDP, &any), 0);
    memcpy(datagram.dst, subnet, 16);
    CHECK_EQ(route(sw, &datagram), OTHER);
    memcpy(datagram.dst, limited, 16);
    CHECK_EQ(route(sw, &datagram), OTHER);
    datagram.dport = OWNED; /* owned, but on another address */
    CHECK_EQ(route(sw, &datagram), TO_CONTROL);
    datagram.v6 = true;
    memcpy(datagram.dst, group6, 16);
    CHECK_EQ(route(sw, &datagram), TO_CONTROL);
    ams_switch_free(sw);
}

static void test_arp_icmp_and_igmp_go_to_control(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);
    struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, 1}};
    uint8_t frame[PACKETS_MAX];

    memcpy(arp.sender_mac, packets_peer_mac, 6);
    uint32_t length = packets_arp(frame, packets_peer_mac, &arp);
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, length, 1), TO_CONTROL);
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, length - 1, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_TRUNCATED], 1);
    struct packets_frame echo = {.protocol = PROTO_ICMP, .icmp_type = ICMP4_ECHO_REQUEST, .payload = 10};
    CHECK_EQ(route(sw, &echo), TO_CONTROL);
    struct packets_frame echo6 = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = ICMP6_NEIGHBOR_SOLICIT};
    CHECK_EQ(route(sw, &echo6), TO_CONTROL);
    struct packets_frame igmp = {.protocol = 2, .payload = 8};
    CHECK_EQ(route(sw, &igmp), TO_CONTROL);
    struct packets_frame esp = {.protocol = 50, .payload = 80};
    CHECK_EQ(route(sw, &esp), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_UNCLAIMED], 1);
    ams_switch_free(sw);
}

static void test_icmp_errors_go_to_who_sent_the_quoted_packet(void)
{
    struct ams_switch *sw = fixture_new(TO_CONTROL, 0);

    BOTH(v6) {
        uint8_t quoted[PACKETS_MAX];
        struct packets_frame sent = {.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9};
        uint32_t length = packets_build_ip(quoted, &sent);
        struct packets_frame error = {.v6 = v6, .protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP,
                                      .icmp_type = v6 ? ICMP6_UNREACHABLE : ICMP4_UNREACHABLE, .body = quoted,
                                      .payload = (uint16_t)length};
        CHECK_EQ(route(sw, &error), OWNER);
        error.payload = v6 ? IP6_HEADER + 8 : IP4_HEADER + 8; /* as little as RFC 792 promises */
        CHECK_EQ(route(sw, &error), OWNER);
        error.payload = v6 ? IP6_HEADER + 3 : IP4_HEADER + 3;
        CHECK_EQ(route(sw, &error), NOBODY);
        CHECK_EQ(sw->counters[SWITCH_RX_ICMP_QUOTE], 2 * v6 + 1);
        error.payload = (uint16_t)length;
        sent.sport = UNOWNED;
        packets_build_ip(quoted, &sent);
        CHECK_EQ(route(sw, &error), TO_CONTROL);
        sent.outgoing = false; /* quotes what we never sent */
        packets_build_ip(quoted, &sent);
        CHECK_EQ(route(sw, &error), NOBODY);
        CHECK_EQ(sw->counters[SWITCH_RX_ICMP_QUOTE], 2 * v6 + 2);
    }
    ams_switch_free(sw);
}

static void test_later_fragments_follow_the_first(void)
{
    struct ams_switch *sw = fixture_new(TO_CONTROL, 0), *lax = fixture_new(TO_CONTROL, AMS_SWITCH_ORPHANS);

    BOTH(v6) {
        struct packets_frame first = {.v6 = v6, .protocol = PROTO_UDP, .dport = OWNED, .payload = 1000,
                                      .more_fragments = true, .frag_id = 7};
        struct packets_frame later = {.v6 = v6, .protocol = PROTO_UDP, .payload = 500, .frag_offset = 1008,
                                      .frag_id = 7};
        CHECK_EQ(route(sw, &later), NOBODY);
        CHECK_EQ(sw->counters[SWITCH_RX_FRAG_ORPHAN], v6 + 1);
        CHECK_EQ(route(lax, &later), TO_CONTROL);
        CHECK_EQ(route(sw, &first), OWNER);
        CHECK_EQ(route(sw, &later), OWNER);
        later.frag_id = 8;
        CHECK_EQ(route(lax, &later), TO_CONTROL);
    }
    CHECK_EQ(sw->counters[SWITCH_RX_FRAGMENTS], 6);
    ams_switch_free(sw);
    ams_switch_free(lax);
}

static void test_tiny_and_impossible_fragments_are_dropped(void)
{
    struct ams_switch *sw = fixture_new(TO_CONTROL, AMS_SWITCH_ORPHANS);

    struct packets_frame overwrite = {.protocol = PROTO_TCP, .payload = 40, .frag_offset = 8};
    CHECK_EQ(route(sw, &overwrite), NOBODY);
    /* A first fragment whose TCP header is cut: built as UDP, so that it is 8 bytes long. */
    uint8_t frame[PACKETS_MAX];
    struct packets_frame tiny = {.protocol = PROTO_UDP, .more_fragments = true};
    uint32_t length = packets_build(frame, &tiny);
    frame[ETH_HEADER + 9] = PROTO_TCP;
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, length, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_FRAG_TINY], 2);
    struct packets_frame beyond = {.protocol = PROTO_UDP, .payload = 80, .frag_offset = 65528};
    CHECK_EQ(route(sw, &beyond), NOBODY);
    struct packets_frame uneven = {.protocol = PROTO_UDP, .payload = 81, .frag_offset = 80, .more_fragments = true};
    CHECK_EQ(route(sw, &uneven), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_BAD_LENGTH], 2);
    ams_switch_free(sw);
}

static void test_vlan_tags(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);
    uint8_t frame[PACKETS_MAX], tagged[PACKETS_MAX];
    struct packets_frame syn = {.sport = 9, .dport = OWNED};
    uint32_t length = packets_build(frame, &syn);

    memcpy(tagged, frame, 12);
    store_be16(tagged + 12, 0x8100);
    store_be16(tagged + 14, 5 << 13); /* priority 5, VLAN 0 */
    memcpy(tagged + 16, frame + 12, length - 12);
    CHECK_EQ(ams_switch_route(sw, (const char *)tagged, length + 4, 1), OWNER);
    CHECK_EQ(sw->counters[SWITCH_RX_PRIORITY_TAG], 1);
    store_be16(tagged + 14, 7);
    CHECK_EQ(ams_switch_route(sw, (const char *)tagged, length + 4, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_VLAN], 1);
    ams_switch_free(sw);
}

static void test_link_level_oddities(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0), *hosted = fixture_new(TO_HOST, 0);
    uint8_t frame[PACKETS_MAX];
    struct packets_frame syn = {.sport = 9, .dport = OWNED};
    uint32_t length = packets_build(frame, &syn);

    CHECK_EQ(ams_switch_route(sw, (const char *)frame, 13, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_RUNT], 1);
    frame[5] ^= 1;
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, length, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_OTHER_MAC], 1);
    CHECK_EQ(ams_switch_route(hosted, (const char *)frame, length, 1), TO_HOST);
    frame[5] ^= 1;
    store_be16(frame + 12, 0x88cc);
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, length, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_ETHERTYPE], 1);
    CHECK_EQ(ams_switch_route(hosted, (const char *)frame, length, 1), TO_HOST);
    ams_switch_free(sw);
    ams_switch_free(hosted);
}

static void test_no_cut_of_a_frame_reaches_the_owner(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);

    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame data = {.v6 = v6, .sport = 9, .dport = OWNED, .payload = 5};
        uint32_t length = packets_build(frame, &data);
        for (uint32_t cut = 0; cut < length; cut++) {
            uint8_t *exact = malloc(cut + 1); /* so that reading on is seen */
            CHECK(exact != NULL);
            memcpy(exact, frame, cut);
            CHECK_EQ(ams_switch_route(sw, (const char *)exact, cut, 1), NOBODY);
            free(exact);
        }
        CHECK_EQ(ams_switch_route(sw, (const char *)frame, length, 1), OWNER);
        CHECK_EQ(ams_switch_route(sw, (const char *)frame, length + 6, 1), OWNER); /* padding */
    }
    ams_switch_free(sw);
}

static void test_ip_options_and_source_routes(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);
    uint8_t frame[PACKETS_MAX], plain[PACKETS_MAX];
    struct packets_frame syn = {.sport = 9, .dport = OWNED};
    uint32_t length = packets_build(plain, &syn);
    const uint8_t options[][4] = {{1, 1, 1, 0}, {131, 3, 4, 0}, {7, 0, 0, 0}};
    const int expected[] = {OWNER, NOBODY, NOBODY};

    for (int i = 0; i < 3; i++) {
        memcpy(frame, plain, 34);
        memcpy(frame + 34, options[i], 4);
        memcpy(frame + 38, plain + 34, length - 34);
        frame[14] = 0x46;
        store_be16(frame + 16, length + 4 - ETH_HEADER);
        CHECK_EQ(ams_switch_route(sw, (const char *)frame, length + 4, 1), expected[i]);
    }
    CHECK_EQ(sw->counters[SWITCH_RX_IP_OPTIONS], 1);
    CHECK_EQ(sw->counters[SWITCH_RX_SOURCE_ROUTE], 1);
    CHECK_EQ(sw->counters[SWITCH_RX_BAD_HEADER], 1);
    ams_switch_free(sw);
}

/* Puts `count` destination options headers before the transport header. */
static uint32_t add_extensions(uint8_t *out, const uint8_t *plain, uint32_t length, int count, uint8_t kind)
{
    uint32_t at = ETH_HEADER + IP6_HEADER, extra = (uint32_t)count * 8;

    memcpy(out, plain, at);
    memset(out + at, 0, extra);
    memcpy(out + at + extra, plain + at, length - at);
    store_be16(out + ETH_HEADER + 4, length - at + extra);
    out[ETH_HEADER + 6] = kind;
    for (int i = 0; i < count; i++) {
        out[at + i * 8] = i + 1 < count ? kind : PROTO_TCP;
        out[at + i * 8 + 2] = 1; /* PadN */
        out[at + i * 8 + 3] = 4;
    }
    return length + extra;
}

static void test_extension_headers(void)
{
    struct ams_switch *sw = fixture_new(NOBODY, 0);
    uint8_t frame[PACKETS_MAX], plain[PACKETS_MAX];
    struct packets_frame syn = {.v6 = true, .sport = 9, .dport = OWNED};
    uint32_t length = packets_build(plain, &syn);

    uint32_t longer = add_extensions(frame, plain, length, PACKET_EXTENSIONS_MAX, PROTO_DSTOPTS);
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, longer, 1), OWNER);
    longer = add_extensions(frame, plain, length, PACKET_EXTENSIONS_MAX + 1, PROTO_DSTOPTS);
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, longer, 1), NOBODY);
    longer = add_extensions(frame, plain, length, 2, PROTO_HOPOPTS); /* only the first may be one */
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, longer, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_BAD_EXTENSION], 2);
    longer = add_extensions(frame, plain, length, 1, PROTO_ROUTING);
    frame[ETH_HEADER + IP6_HEADER + 2] = 0; /* type 0, segments left */
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, longer, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_SOURCE_ROUTE], 1);
    longer = add_extensions(frame, plain, length, 1, PROTO_DSTOPTS);
    frame[ETH_HEADER + IP6_HEADER + 1] = 200; /* longer than the packet */
    CHECK_EQ(ams_switch_route(sw, (const char *)frame, longer, 1), NOBODY);
    CHECK_EQ(sw->counters[SWITCH_RX_BAD_EXTENSION], 3);
    ams_switch_free(sw);
}

static void test_a_batch_equals_its_frames(void)
{
    enum { FRAMES = 150 };
    static uint8_t bytes[FRAMES][PACKETS_MAX];
    struct ams_frame frames[FRAMES], *list[FRAMES];
    int32_t targets[FRAMES];
    struct ams_switch *sw = fixture_new(TO_CONTROL, 0);

    memset(frames, 0, sizeof(frames));
    for (int i = 0; i < FRAMES; i++) {
        struct packets_frame what = {.v6 = i % 3 == 0, .sport = 9, .dport = i % 5 ? OWNED : UNOWNED};
        frames[i].data = bytes[i];
        frames[i].len = packets_build(bytes[i], &what);
        if (i % 7 == 0)
            frames[i].len = 30;
        list[i] = &frames[i];
    }
    switch_rx(sw, list, FRAMES, targets, 1);
    for (int i = 0; i < FRAMES; i++)
        CHECK_EQ(targets[i], i % 7 == 0 ? NOBODY : i % 5 ? OWNER : TO_CONTROL);
    ams_switch_free(sw);
}

int main(void)
{
    RUN(test_tuples_go_to_their_owner);
    RUN(test_a_wildcard_covers_all_addresses_but_the_exact_claim_wins);
    RUN(test_policies_for_what_nobody_claimed);
    RUN(test_broadcast_and_multicast);
    RUN(test_arp_icmp_and_igmp_go_to_control);
    RUN(test_icmp_errors_go_to_who_sent_the_quoted_packet);
    RUN(test_later_fragments_follow_the_first);
    RUN(test_tiny_and_impossible_fragments_are_dropped);
    RUN(test_vlan_tags);
    RUN(test_link_level_oddities);
    RUN(test_no_cut_of_a_frame_reaches_the_owner);
    RUN(test_ip_options_and_source_routes);
    RUN(test_extension_headers);
    RUN(test_a_batch_equals_its_frames);
    return check_report();
}
