/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Validation: what may leave, and each way around that must not.
 */
#include "switch_fixture.h"

static void test_only_the_owner_of_the_source_tuple_sends(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        for (int udp = 0; udp < 2; udp++) {
            struct packets_frame data = {.v6 = v6, .outgoing = true, .protocol = udp ? PROTO_UDP : PROTO_TCP,
                                         .sport = OWNED, .dport = 9, .payload = 30};
            CHECK_EQ(verdict(sw, OWNER, &data), SWITCH_PASSED);
            CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_TX_TUPLE);
            CHECK_EQ(verdict(sw, CONTROL, &data), SWITCH_TX_TUPLE);
            data.sport = UNOWNED;
            CHECK_EQ(verdict(sw, OWNER, &data), SWITCH_TX_TUPLE);
            CHECK_EQ(verdict(sw, CONTROL, &data), SWITCH_TX_TUPLE);
            data.sport = OWNED;
            packets_ip(data.src, v6, 2);
            CHECK_EQ(verdict(sw, OWNER, &data), SWITCH_TX_SOURCE_ADDRESS);
        }
    }
    ams_switch_free(sw);
}

static void test_traffic_class_and_hop_limit_are_the_sender_s(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame data = {.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9, .payload = 30};
        for (unsigned value = 0; value < 256; value++) {
            data.tos = (uint8_t)value;
            data.hop_limit = (uint8_t)~value;
            CHECK_EQ(verdict(sw, OWNER, &data), SWITCH_PASSED);
            CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_TX_TUPLE);
        }
    }
    ams_switch_free(sw);
}

static void test_a_wildcard_claim_sends_from_served_addresses_only(void)
{
    static const uint8_t broadcast[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 255};
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct ams_endpoint any = packets_wildcard(v6, 90);
        struct packets_frame data = {.v6 = v6, .outgoing = true, .sport = 90, .dport = 9};
        CHECK_EQ(ams_switch_claim(sw, OTHER, PROTO_TCP, &any), 0);
        CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OWNER, &data), SWITCH_TX_TUPLE);
        packets_ip(data.src, v6, 7);
        CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_TX_SOURCE_ADDRESS);
        memset(data.src, 0, 16);
        data.zero_src = true;
        CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_TX_SOURCE_ADDRESS);
        if (!v6) {
            memcpy(data.src, broadcast, 16);
            CHECK_EQ(verdict(sw, OTHER, &data), SWITCH_TX_SOURCE_ADDRESS);
        }
    }
    ams_switch_free(sw);
}

static void test_resets_for_what_nobody_owns_are_control_s(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame rst = {.v6 = v6, .outgoing = true, .sport = UNOWNED, .dport = 9, .tcp_flags = TCP_RST};
        CHECK_EQ(verdict(sw, CONTROL, &rst), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OTHER, &rst), SWITCH_TX_TUPLE);
        rst.sport = OWNED;
        CHECK_EQ(verdict(sw, CONTROL, &rst), SWITCH_TX_TUPLE);
        CHECK_EQ(verdict(sw, OWNER, &rst), SWITCH_PASSED);
    }
    ams_switch_free(sw);
}

static void test_link_header(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);
    uint8_t frame[PACKETS_MAX];
    struct packets_frame data = {.outgoing = true, .sport = OWNED, .dport = 9, .payload = 40};
    uint32_t length = packets_build(frame, &data);

    CHECK_EQ(check_bytes(sw, OWNER, frame, 13), SWITCH_TX_RUNT);
    frame[6] ^= 4;
    CHECK_EQ(check_bytes(sw, OWNER, frame, length), SWITCH_TX_SOURCE_MAC);
    frame[6] ^= 4;
    store_be16(frame + 12, 0x8100);
    CHECK_EQ(check_bytes(sw, OWNER, frame, length), SWITCH_TX_VLAN);
    store_be16(frame + 12, 0x88cc);
    CHECK_EQ(check_bytes(sw, OWNER, frame, length), SWITCH_TX_ETHERTYPE);
    ams_switch_free(sw);
}

static void test_lengths_must_fill_the_frame(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame data = {.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9, .payload = 40};
        memset(frame, 0, sizeof(frame));
        uint32_t length = packets_build(frame, &data);
        CHECK_EQ(check_bytes(sw, OWNER, frame, length), SWITCH_PASSED);
        CHECK_EQ(check_bytes(sw, OWNER, frame, length + 1), SWITCH_TX_BAD_LENGTH);
        for (uint32_t cut = ETH_HEADER; cut < length; cut++)
            CHECK(check_bytes(sw, OWNER, frame, cut) != SWITCH_PASSED);
        data.payload = 1500;
        length = packets_build(frame, &data);
        CHECK_EQ(check_bytes(sw, OWNER, frame, length), SWITCH_TX_TOO_LONG);
    }
    uint8_t frame[PACKETS_MAX];
    struct packets_frame small = {.outgoing = true, .sport = OWNED, .dport = 9};
    memset(frame, 0, sizeof(frame));
    CHECK_EQ(packets_build(frame, &small), 54);
    CHECK_EQ(check_bytes(sw, OWNER, frame, 60), SWITCH_PASSED); /* padded to the Ethernet minimum */
    CHECK_EQ(check_bytes(sw, OWNER, frame, 61), SWITCH_TX_BAD_LENGTH);
    ams_switch_free(sw);
}

static void test_fragments(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame first = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = OWNED, .dport = 9,
                                      .payload = 80, .more_fragments = true, .frag_id = 5};
        struct packets_frame later = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .payload = 80,
                                      .frag_offset = 88, .frag_id = 5};
        CHECK_EQ(verdict(sw, OWNER, &later), SWITCH_TX_FRAG_ORPHAN);
        CHECK_EQ(verdict(sw, OTHER, &first), SWITCH_TX_TUPLE);
        CHECK_EQ(verdict(sw, OTHER, &later), SWITCH_TX_FRAG_ORPHAN);
        CHECK_EQ(verdict(sw, OWNER, &first), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OWNER, &later), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OTHER, &later), SWITCH_TX_FRAG_CONFLICT);
        /* Another owner's first fragment with the same identification would mix with ours. */
        struct ams_endpoint theirs = packets_endpoint(v6, 1, 99);
        CHECK_EQ(ams_switch_claim(sw, OTHER, PROTO_UDP, &theirs), 0);
        first.sport = 99;
        CHECK_EQ(verdict(sw, OTHER, &first), SWITCH_TX_FRAG_CONFLICT);
        first.frag_id = 6;
        CHECK_EQ(verdict(sw, OTHER, &first), SWITCH_PASSED);
        /* A later fragment from a foreign address. */
        packets_ip(later.src, v6, 2);
        CHECK(verdict(sw, OWNER, &later) != SWITCH_PASSED);
    }
    struct packets_frame overwrite = {.outgoing = true, .payload = 40, .frag_offset = 8};
    CHECK_EQ(verdict(sw, OWNER, &overwrite), SWITCH_TX_FRAG_TINY);
    ams_switch_free(sw);
}

/* Whatever comes after a first fragment that passed, no byte of its ports is written again. */
static void test_overlapping_fragments(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame first = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .sport = OWNED,
                                      .payload = 64, .more_fragments = true, .frag_id = 7};
        CHECK_EQ(verdict(sw, OWNER, &first), SWITCH_PASSED);
        for (uint16_t offset = 8; offset < 80; offset += 8) { /* over its payload, if it must be */
            struct packets_frame later = {.v6 = v6, .outgoing = true, .protocol = PROTO_UDP, .frag_offset = offset,
                                          .payload = 64, .frag_id = 7};
            CHECK_EQ(verdict(sw, OWNER, &later), SWITCH_PASSED);
        }
        first.sport = UNOWNED; /* over its ports: it is a first fragment itself */
        CHECK_EQ(verdict(sw, OWNER, &first), SWITCH_TX_TUPLE);
        first.payload = 0;
        CHECK_EQ(verdict(sw, OWNER, &first), SWITCH_TX_TUPLE);
    }
    ams_switch_free(sw);
}

static void test_arp(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);
    uint8_t frame[PACKETS_MAX];
    struct arp_repr good = {.operation = ARP_REPLY, .sender_ip = {10, 0, 0, 1}, .target_ip = {10, 0, 0, 2}}, arp;

    memcpy(good.sender_mac, packets_us_mac, 6);
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_us_mac, &good)), SWITCH_PASSED);
    CHECK_EQ(check_bytes(sw, OWNER, frame, packets_arp(frame, packets_us_mac, &good)), SWITCH_TX_ARP);
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_peer_mac, &good)), SWITCH_TX_SOURCE_MAC);
    arp = good;
    arp.sender_ip[3] = 2;
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_us_mac, &arp)), SWITCH_TX_ARP);
    arp = good;
    memcpy(arp.sender_mac, packets_peer_mac, 6);
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_us_mac, &arp)), SWITCH_TX_ARP);
    struct arp_repr probe = {.operation = ARP_REQUEST, .target_ip = {10, 0, 0, 1}};
    memcpy(probe.sender_mac, packets_us_mac, 6);
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_us_mac, &probe)), SWITCH_PASSED);
    probe.target_ip[3] = 2;
    CHECK_EQ(check_bytes(sw, CONTROL, frame, packets_arp(frame, packets_us_mac, &probe)), SWITCH_TX_ARP);
    ams_switch_free(sw);
}

/* The verdict on an NDP message of the control owner's. */
static int ndp_verdict(struct ams_switch *sw, int port, const struct ndp_repr *ndp, struct packets_frame what)
{
    uint8_t message[NDP_LENGTH_LLADDR];
    uint32_t length = ndp_emit(message, ndp);

    what.v6 = what.outgoing = true;
    what.protocol = PROTO_ICMPV6;
    what.icmp_type = ndp->type;
    if (!what.hop_limit)
        what.hop_limit = 255;
    what.body = message + ICMP_HEADER; /* the rest behind the first 8 bytes */
    what.payload = (uint16_t)(length - ICMP_HEADER);
    return verdict(sw, port, &what);
}

static void test_neighbour_discovery(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);
    struct packets_frame plain = {0};
    struct ndp_repr advert = {.type = ICMP6_NEIGHBOR_ADVERT, .has_lladdr = true};
    struct ndp_repr solicit = {.type = ICMP6_NEIGHBOR_SOLICIT, .has_lladdr = true}, lie;

    packets_ip(advert.target, true, 1);
    memcpy(advert.lladdr, packets_us_mac, 6);
    packets_ip(solicit.target, true, 2);
    memcpy(solicit.lladdr, packets_us_mac, 6);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &advert, plain), SWITCH_PASSED);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &solicit, plain), SWITCH_PASSED);
    CHECK_EQ(ndp_verdict(sw, OWNER, &advert, plain), SWITCH_TX_ICMP);
    lie = advert;
    packets_ip(lie.target, true, 2);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &lie, plain), SWITCH_TX_NDP);
    lie = advert;
    memcpy(lie.lladdr, packets_peer_mac, 6);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &lie, plain), SWITCH_TX_NDP);
    plain.hop_limit = 64;
    CHECK_EQ(ndp_verdict(sw, CONTROL, &advert, plain), SWITCH_TX_NDP);
    struct packets_frame foreign = {0};
    packets_ip(foreign.src, true, 2);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &solicit, foreign), SWITCH_TX_NDP);
    /* Duplicate address detection: from ::, about ourselves, without an option. */
    struct packets_frame unspecified = {.zero_src = true};
    struct ndp_repr dad = {.type = ICMP6_NEIGHBOR_SOLICIT};
    packets_ip(dad.target, true, 1);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &dad, unspecified), SWITCH_PASSED);
    packets_ip(dad.target, true, 2);
    CHECK_EQ(ndp_verdict(sw, CONTROL, &dad, unspecified), SWITCH_TX_NDP);
    struct packets_frame advertise = {.v6 = true, .outgoing = true, .protocol = PROTO_ICMPV6, .hop_limit = 255,
                                      .icmp_type = ICMP6_ROUTER_ADVERT, .payload = 8};
    CHECK_EQ(verdict(sw, CONTROL, &advertise), SWITCH_TX_ICMP);
    ams_switch_free(sw);
}

static void test_icmp(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        struct packets_frame echo = {.v6 = v6, .outgoing = true, .protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP,
                                     .icmp_type = v6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY, .payload = 56};
        CHECK_EQ(verdict(sw, CONTROL, &echo), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OWNER, &echo), SWITCH_TX_ICMP);
        echo.icmp_type = v6 ? ICMP6_REDIRECT : ICMP4_REDIRECT;
        CHECK_EQ(verdict(sw, CONTROL, &echo), SWITCH_TX_ICMP);
        uint8_t quoted[PACKETS_MAX];
        struct packets_frame got = {.v6 = v6, .sport = 9, .dport = OWNED, .protocol = PROTO_UDP, .payload = 20};
        struct packets_frame error = {.v6 = v6, .outgoing = true, .protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP,
                                      .icmp_type = v6 ? ICMP6_UNREACHABLE : ICMP4_UNREACHABLE, .body = quoted};
        error.payload = (uint16_t)packets_build_ip(quoted, &got);
        CHECK_EQ(verdict(sw, OWNER, &error), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OTHER, &error), SWITCH_TX_ICMP);
        CHECK_EQ(verdict(sw, CONTROL, &error), SWITCH_TX_ICMP);
        got.dport = UNOWNED;
        packets_build_ip(quoted, &got);
        CHECK_EQ(verdict(sw, CONTROL, &error), SWITCH_PASSED);
        CHECK_EQ(verdict(sw, OWNER, &error), SWITCH_TX_ICMP);
        packets_ip(got.src, v6, 9); /* answers somebody else */
        packets_build_ip(quoted, &got);
        CHECK_EQ(verdict(sw, CONTROL, &error), SWITCH_TX_ICMP);
        got = (struct packets_frame){.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9};
        packets_build_ip(quoted, &got); /* quotes what we sent, not what we got */
        CHECK_EQ(verdict(sw, OWNER, &error), SWITCH_TX_ICMP);
    }
    struct packets_frame wrong = {.outgoing = true, .protocol = PROTO_ICMPV6, .icmp_type = ICMP6_ECHO_REPLY};
    CHECK_EQ(verdict(sw, CONTROL, &wrong), SWITCH_TX_PROTOCOL);
    struct packets_frame esp = {.outgoing = true, .protocol = 50, .payload = 80};
    CHECK_EQ(verdict(sw, CONTROL, &esp), SWITCH_TX_PROTOCOL);
    ams_switch_free(sw);
}

/* The verdict on a descriptor. */
static int tx_verdict(struct ams_switch *sw, const struct ams_tx *tx)
{
    uint8_t result;
    int passed = switch_tx(sw, OWNER, tx, 1, &result, 1);
    CHECK_EQ(passed, result == SWITCH_PASSED);
    return result;
}

static void test_headers_in_pieces(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame data = {.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9, .payload = 600};
        uint32_t length = packets_build(frame, &data);
        for (uint32_t cut = 0; cut <= length; cut += 7) {
            struct ams_tx tx = {.head = frame, .head_len = cut, .total = length, .n_frags = 1,
                                .frags = {{frame + cut, length - cut}}};
            CHECK_EQ(tx_verdict(sw, &tx), SWITCH_PASSED);
            tx.frags[0].len--;
            CHECK_EQ(tx_verdict(sw, &tx), SWITCH_TX_DESCRIPTOR);
        }
        data.sport = UNOWNED;
        packets_build(frame, &data);
        struct ams_tx tx = {.head = frame, .head_len = 20, .total = length, .n_frags = 1,
                            .frags = {{frame + 20, length - 20}}};
        CHECK_EQ(tx_verdict(sw, &tx), SWITCH_TX_TUPLE);
        tx.n_frags = TX_FRAGS + 1;
        CHECK_EQ(tx_verdict(sw, &tx), SWITCH_TX_DESCRIPTOR);
    }
    ams_switch_free(sw);
}

static void test_offloads_must_fit_the_packet(void)
{
    static uint8_t payload[30000];
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);

    BOTH(v6) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame data = {.v6 = v6, .outgoing = true, .sport = OWNED, .dport = 9};
        uint32_t head = packets_build(frame, &data), l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER);
        uint32_t total = head + sizeof(payload);
        store_be16(frame + ETH_HEADER + (v6 ? 4 : 2), v6 ? total - l4 : total - ETH_HEADER);
        struct ams_tx good = {.head = frame, .head_len = head, .total = total, .n_frags = 1,
                              .flags = (uint16_t)(TX_CSUM | (v6 ? TX_GSO6 : TX_GSO4)), .csum_start = (uint16_t)l4,
                              .csum_offset = 16, .gso_size = 1400, .gso_hdr_len = (uint16_t)head,
                              .frags = {{payload, sizeof(payload)}}}, bad;
        CHECK_EQ(tx_verdict(sw, &good), SWITCH_PASSED);
        bad = good;
        bad.csum_offset = 0; /* would overwrite the source port */
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
        bad = good;
        bad.csum_start -= 8;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
        bad = good;
        bad.gso_hdr_len--;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
        bad = good;
        bad.flags ^= TX_GSO4 | TX_GSO6;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
        bad = good;
        bad.flags = (uint16_t)(bad.flags & ~TX_CSUM);
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
        bad = good;
        bad.gso_size = 1500;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_TOO_LONG);
        bad = good;
        bad.flags = TX_CSUM;
        bad.gso_size = 0;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_TOO_LONG);
        bad = good;
        bad.flags |= 0x80;
        CHECK_EQ(tx_verdict(sw, &bad), SWITCH_TX_OFFLOAD);
    }
    uint8_t frame[PACKETS_MAX];
    struct arp_repr arp = {.operation = ARP_REPLY, .sender_ip = {10, 0, 0, 1}};
    memcpy(arp.sender_mac, packets_us_mac, 6);
    struct ams_tx tx = {.head = frame, .flags = TX_CSUM, .csum_start = 14, .csum_offset = 16};
    tx.head_len = tx.total = packets_arp(frame, packets_us_mac, &arp);
    CHECK_EQ(tx_verdict(sw, &tx), SWITCH_TX_OFFLOAD);
    ams_switch_free(sw);
}

static void test_every_drop_is_counted_once(void)
{
    struct ams_switch *sw = fixture_new(AMS_SWITCH_TO_CONTROL, 0);
    struct ams_rng rng;
    uint64_t counted = 0;

    rng_init(&rng, 11, 12);
    for (int i = 0; i < 20000; i++) {
        uint8_t frame[PACKETS_MAX];
        struct packets_frame data = {.v6 = i & 1, .outgoing = true, .sport = OWNED, .dport = 9, .payload = 20};
        uint32_t length = packets_build(frame, &data);
        for (uint32_t flips = rng_below(&rng, 4); flips; flips--)
            frame[rng_below(&rng, length)] ^= (uint8_t)(1 << rng_below(&rng, 8));
        check_bytes(sw, OWNER, frame, length);
    }
    for (int i = 0; i < SWITCH_COUNTERS; i++) {
        if (i == SWITCH_PASSED || strncmp(ams_switch_counter_name(i), "tx_", 3) == 0)
            counted += sw->counters[i];
        else
            CHECK_EQ(sw->counters[i], 0);
    }
    CHECK_EQ(counted - sw->counters[SWITCH_TX_FRAG_EVICTED], 20000);
    CHECK(sw->counters[SWITCH_PASSED] > 1000);
    CHECK(ams_switch_counter_name(SWITCH_COUNTERS) == NULL && ams_switch_counter_text(-1) == NULL);
    ams_switch_free(sw);
}

int main(void)
{
    RUN(test_only_the_owner_of_the_source_tuple_sends);
    RUN(test_traffic_class_and_hop_limit_are_the_sender_s);
    RUN(test_a_wildcard_claim_sends_from_served_addresses_only);
    RUN(test_resets_for_what_nobody_owns_are_control_s);
    RUN(test_link_header);
    RUN(test_lengths_must_fill_the_frame);
    RUN(test_fragments);
    RUN(test_overlapping_fragments);
    RUN(test_arp);
    RUN(test_neighbour_discovery);
    RUN(test_icmp);
    RUN(test_headers_in_pieces);
    RUN(test_offloads_must_fit_the_packet);
    RUN(test_every_drop_is_counted_once);
    return check_report();
}
