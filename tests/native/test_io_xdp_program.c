/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The XDP program, run by the kernel (BPF_PROG_TEST_RUN) on frames of every
 * kind, beside the switch: both must agree on whose a frame is.
 *
 * 10.0.0.1 and fd00::1 are shared with the system, and OWNER has a port of
 * them; 10.0.0.3 and fd00::3 are the user's own.
 */
#include "switch_fixture.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/hash.h"
#include "io/bpf.h"
#include "io/xdp_program.h"

#define SHARED 1
#define OWN 3
#define PASS 2  /* XDP_PASS */
#define TAKE 4  /* XDP_REDIRECT */
#define LOG 65536

struct rig {
    struct xdp_maps maps;
    int program;
    int socket;
    struct ams_switch *sw;
};

/* Serves an address in the maps. */
static void rig_address(struct rig *rig, bool v6, uint8_t n, uint32_t kind)
{
    uint8_t ip[16];

    packets_ip(ip, v6, n);
    CHECK_EQ(bpf_map_put(rig->maps.addresses, ip, &kind), 0);
}

static void rig_tuple(struct rig *rig, bool v6, uint8_t protocol, uint16_t port)
{
    struct xdp_tuple tuple = {.protocol = protocol, .family = v6 ? AMS_IPV6 : AMS_IPV4};
    uint32_t value = 1;

    packets_ip(tuple.ip, v6, SHARED);
    store_be16(tuple.port, port);
    CHECK_EQ(bpf_map_put(rig->maps.tuples, &tuple, &value), 0);
}

static struct rig rig_new(uint32_t flags)
{
    static char log[LOG];
    struct rig rig;
    uint32_t key = 0;
    uint8_t station[8] = {0};

    CHECK_EQ(xdp_maps_init(&rig.maps, 1), 0);
    rig.program = xdp_program_new(&rig.maps, flags, log, sizeof(log));
    if (rig.program < 0)
        fprintf(stderr, "%s\n", log);
    CHECK(rig.program >= 0);
    rig.socket = socket(44 /* AF_XDP */, SOCK_RAW, 0);
    CHECK(rig.socket >= 0);
    CHECK_EQ(bpf_map_put(rig.maps.sockets, &key, &rig.socket), 0);
    memcpy(station, packets_us_mac, 6);
    CHECK_EQ(bpf_map_put(rig.maps.station, &key, station), 0);
    rig.sw = fixture_new(AMS_SWITCH_TO_HOST, 0);
    BOTH(v6) {
        struct ams_ifaddr own = {packets_endpoint(v6, OWN, 0), v6 ? 64 : 24};
        CHECK_EQ(ams_switch_add_address(rig.sw, &own), 0);
        rig_address(&rig, v6, SHARED, XDP_ADDRESS_SHARED);
        rig_address(&rig, v6, OWN, XDP_ADDRESS_OWN);
        rig_tuple(&rig, v6, PROTO_TCP, OWNED);
        rig_tuple(&rig, v6, PROTO_UDP, OWNED);
    }
    return rig;
}

static void rig_free(struct rig *rig)
{
    close(rig->socket);
    close(rig->program);
    xdp_maps_fini(&rig->maps);
    ams_switch_free(rig->sw);
}

static int run_bytes(struct rig *rig, const uint8_t *frame, uint32_t length)
{
    return bpf_program_run(rig->program, frame, length, 0, NULL);
}

static int run(struct rig *rig, const struct packets_frame *what)
{
    uint8_t frame[PACKETS_MAX];
    return run_bytes(rig, frame, packets_build(frame, what));
}

/* ---- one kind at a time ---------------------------------------------------------- */

static void test_claimed_tuples_are_taken_and_nothing_else(void)
{
    struct rig rig = rig_new(0);

    BOTH(v6) {
        struct packets_frame frame = {.v6 = v6, .sport = 9, .dport = OWNED, .payload = 30};
        CHECK_EQ(run(&rig, &frame), TAKE);
        frame.protocol = PROTO_UDP;
        CHECK_EQ(run(&rig, &frame), TAKE);
        frame.protocol = 132; /* SCTP */
        CHECK_EQ(run(&rig, &frame), PASS);
        frame.protocol = PROTO_TCP;
        frame.dport = UNOWNED;
        CHECK_EQ(run(&rig, &frame), PASS);
        frame.dport = OWNED;
        packets_ip(frame.dst, v6, 7);
        CHECK_EQ(run(&rig, &frame), PASS);
    }
    rig_free(&rig);
}

static void test_all_is_taken_of_an_address_of_its_own(void)
{
    struct rig rig = rig_new(0);

    BOTH(v6) {
        struct packets_frame frame = {.v6 = v6, .sport = 9, .dport = UNOWNED, .payload = 32};
        packets_ip(frame.dst, v6, OWN);
        CHECK_EQ(run(&rig, &frame), TAKE);
        frame.frag_offset = 800;
        CHECK_EQ(run(&rig, &frame), TAKE);
        frame.frag_offset = 0;
        frame.protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP;
        frame.icmp_type = v6 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST;
        CHECK_EQ(run(&rig, &frame), TAKE);
        packets_ip(frame.dst, v6, SHARED);
        CHECK_EQ(run(&rig, &frame), PASS);
    }
    rig_free(&rig);
}

static void test_frames_to_another_station_pass(void)
{
    struct rig rig = rig_new(0);
    uint8_t bytes[PACKETS_MAX];

    BOTH(v6) {
        struct packets_frame frame = {.v6 = v6, .sport = 9, .dport = OWNED};
        uint32_t length = packets_build(bytes, &frame);
        for (int i = 0; i < 6; i++) {
            bytes[i] ^= 2;
            CHECK_EQ(run_bytes(&rig, bytes, length), PASS);
            bytes[i] ^= 2;
        }
        memset(bytes, 0xff, 6);
        CHECK_EQ(run_bytes(&rig, bytes, length), PASS);
    }
    rig_free(&rig);
}

static void test_arp_belongs_to_whose_address_it_asks_for(void)
{
    struct rig rig = rig_new(0);
    const uint8_t asked[3] = {OWN, SHARED, 7};

    for (int unicast = 0; unicast < 2; unicast++) {
        for (int i = 0; i < 3; i++) {
            uint8_t bytes[PACKETS_MAX];
            struct arp_repr arp = {.operation = ARP_REQUEST, .sender_ip = {10, 0, 0, 2}, .target_ip = {10, 0, 0, asked[i]}};
            memcpy(arp.sender_mac, packets_peer_mac, 6);
            uint32_t length = packets_arp(bytes, packets_peer_mac, &arp);
            if (unicast)
                memcpy(bytes, packets_us_mac, 6);
            CHECK_EQ(run_bytes(&rig, bytes, length), asked[i] == OWN ? TAKE : PASS);
            CHECK_EQ(run_bytes(&rig, bytes, length - 1), PASS);
            bytes[ETH_HEADER + 1] = 6; /* another kind of hardware */
            CHECK_EQ(run_bytes(&rig, bytes, length), PASS);
        }
    }
    rig_free(&rig);
}

static void test_solicitations_of_groups_belong_to_whose_address_they_are_about(void)
{
    struct rig rig = rig_new(0);
    const uint8_t asked[3] = {OWN, SHARED, 7};

    for (int i = 0; i < 3; i++) {
        uint8_t bytes[PACKETS_MAX], message[NDP_LENGTH_LLADDR];
        struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_SOLICIT, .has_lladdr = true};
        packets_ip(ndp.target, true, asked[i]);
        ndp_emit(message, &ndp);
        struct packets_frame frame = {.v6 = true, .protocol = PROTO_ICMPV6, .icmp_type = ICMP6_NEIGHBOR_SOLICIT,
                                      .payload = NDP_LENGTH_LLADDR - ICMP_HEADER, .body = message + ICMP_HEADER};
        ipv6_solicited_node(frame.dst, ndp.target);
        uint32_t length = packets_build(bytes, &frame);
        memcpy(bytes, (const uint8_t[]){0x33, 0x33, 0xff, 0, 0, asked[i]}, 6);
        CHECK_EQ(run_bytes(&rig, bytes, length), asked[i] == OWN ? TAKE : PASS);
        bytes[ETH_HEADER + IP6_HEADER] = ICMP6_ROUTER_ADVERT;
        CHECK_EQ(run_bytes(&rig, bytes, length), PASS);
    }
    rig_free(&rig);
}

static void test_later_fragments_follow_their_first_one(void)
{
    struct rig rig = rig_new(0);

    BOTH(v6) {
        struct packets_frame first = {.v6 = v6, .protocol = PROTO_UDP, .sport = 9, .dport = OWNED, .payload = 64,
                                      .more_fragments = true, .frag_id = 77};
        struct packets_frame later = {.v6 = v6, .protocol = PROTO_UDP, .payload = 64, .frag_offset = 72, .frag_id = 77};
        CHECK_EQ(run(&rig, &later), PASS); /* overtook its first one */
        CHECK_EQ(run(&rig, &first), TAKE);
        CHECK_EQ(run(&rig, &later), TAKE);
        CHECK_EQ(run(&rig, &later), TAKE);
        later.frag_id = 78;
        CHECK_EQ(run(&rig, &later), PASS);
        later.frag_id = 77;
        packets_ip(later.src, v6, 9);
        CHECK_EQ(run(&rig, &later), PASS);
        memset(later.src, 0, 16);
        first.dport = UNOWNED; /* the number again, for a packet of the system's */
        CHECK_EQ(run(&rig, &first), PASS);
        CHECK_EQ(run(&rig, &later), PASS);
    }
    rig_free(&rig);
}

/* A frame with an ICMP error about a packet that came from port `sport`.
 * @cut: bytes of the quoted packet that are left out */
static uint32_t icmp_error(uint8_t out[PACKETS_MAX], bool v6, uint16_t sport, uint8_t type, uint32_t cut)
{
    uint8_t quoted[PACKETS_MAX];
    struct packets_frame inner = {.v6 = v6, .outgoing = true, .sport = sport, .dport = 9, .payload = 4};
    uint32_t length = packets_build_ip(quoted, &inner) - cut;
    struct packets_frame outer = {.v6 = v6, .protocol = v6 ? PROTO_ICMPV6 : PROTO_ICMP, .icmp_type = type,
                                  .payload = (uint16_t)length, .body = quoted};
    return packets_build(out, &outer);
}

static void test_icmp_errors_belong_to_whoever_sent_the_packet(void)
{
    struct rig rig = rig_new(0);
    uint8_t bytes[PACKETS_MAX];

    BOTH(v6) {
        uint8_t error = v6 ? ICMP6_TOO_BIG : ICMP4_UNREACHABLE, echo = v6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY;
        CHECK_EQ(run_bytes(&rig, bytes, icmp_error(bytes, v6, OWNED, error, 0)), TAKE);
        CHECK_EQ(run_bytes(&rig, bytes, icmp_error(bytes, v6, OWNED, error, 20)), TAKE); /* ports and 4 bytes are left */
        CHECK_EQ(run_bytes(&rig, bytes, icmp_error(bytes, v6, OWNED, error, 22)), PASS);
        CHECK_EQ(run_bytes(&rig, bytes, icmp_error(bytes, v6, UNOWNED, error, 0)), PASS);
        CHECK_EQ(run_bytes(&rig, bytes, icmp_error(bytes, v6, OWNED, echo, 0)), PASS);
    }
    rig_free(&rig);
}

/* Inserts n bytes into a frame. */
static uint32_t insert(uint8_t *frame, uint32_t length, uint32_t at, const uint8_t *bytes, uint32_t n)
{
    memmove(frame + at + n, frame + at, length - at);
    memcpy(frame + at, bytes, n);
    return length + n;
}

static void test_options_and_extension_headers_are_stepped_over(void)
{
    static const uint8_t options[4] = {148, 4, 0, 0}; /* router alert (RFC 2113) */
    struct rig rig = rig_new(0);
    uint8_t bytes[PACKETS_MAX];

    for (uint16_t port = OWNED; port <= UNOWNED; port++) {
        int expected = port == OWNED ? TAKE : PASS;
        struct packets_frame v4 = {.sport = 9, .dport = port};
        uint32_t length = insert(bytes, packets_build(bytes, &v4), ETH_HEADER + IP4_HEADER, options, 4);
        bytes[ETH_HEADER]++;
        bytes[ETH_HEADER + 3] += 4;
        CHECK_EQ(run_bytes(&rig, bytes, length), expected);

        struct packets_frame v6 = {.v6 = true, .sport = 9, .dport = port};
        length = packets_build(bytes, &v6);
        for (int n = 1; n <= 9; n++) { /* destination options, one more each time */
            uint8_t header[8] = {bytes[ETH_HEADER + 6], 0, 1, 4};
            length = insert(bytes, length, ETH_HEADER + IP6_HEADER, header, 8);
            bytes[ETH_HEADER + 6] = PROTO_DSTOPTS;
            store_be16(bytes + ETH_HEADER + 4, load_be16(bytes + ETH_HEADER + 4) + 8u);
            CHECK_EQ(run_bytes(&rig, bytes, length), n <= 8 ? expected : PASS);
        }
    }
    rig_free(&rig);
}

static void test_vlan_tags_pass(void)
{
    static const uint8_t tag[4] = {0x81, 0x00, 0x00, 0x05};
    struct rig rig = rig_new(0);
    uint8_t bytes[PACKETS_MAX];

    BOTH(v6) {
        struct packets_frame frame = {.v6 = v6, .sport = 9, .dport = OWNED};
        CHECK_EQ(run_bytes(&rig, bytes, insert(bytes, packets_build(bytes, &frame), 12, tag, 4)), PASS);
    }
    rig_free(&rig);
}

static void test_without_a_socket_what_is_taken_is_dropped(void)
{
    struct rig rig = rig_new(0);
    uint32_t key = 0;
    struct packets_frame frame = {.sport = 9, .dport = OWNED}, other = {.sport = 9, .dport = UNOWNED};

    CHECK_EQ(bpf_map_remove(rig.maps.sockets, &key), 0);
    CHECK_EQ(run(&rig, &frame), 1 /* XDP_DROP */);
    CHECK_EQ(run(&rig, &other), PASS);
    rig_free(&rig);
}

static void test_a_program_that_takes_everything(void)
{
    struct rig rig = rig_new(XDP_PROGRAM_ALL);
    uint8_t bytes[60] = {0};

    CHECK_EQ(run_bytes(&rig, bytes, sizeof(bytes)), TAKE);
    rig_free(&rig);
}

/* ---- random frames ---------------------------------------------------------------- */

#define ROUNDS 60000

/* A frame of any kind: usual values most of the time. */
static uint32_t random_frame(struct ams_rng *rng, uint8_t out[PACKETS_MAX], uint32_t id)
{
    static const uint8_t protocols[] = {PROTO_TCP, PROTO_TCP, PROTO_UDP, PROTO_UDP, 132, 2};
    static const uint8_t hosts[] = {SHARED, SHARED, SHARED, OWN, 7};
    bool v6 = rng_below(rng, 2);
    struct packets_frame what = {.v6 = v6, .sport = 9, .dport = (uint16_t)(OWNED + rng_below(rng, 2)), .frag_id = id,
                                 .protocol = protocols[rng_below(rng, sizeof(protocols))],
                                 .payload = (uint16_t)(8 * rng_below(rng, 20))};

    if (rng_below(rng, 5) == 0)
        return icmp_error(out, v6, (uint16_t)(OWNED + rng_below(rng, 2)),
                          (uint8_t)(v6 ? 1 + rng_below(rng, 4) : 3 + 8 * rng_below(rng, 2)), rng_below(rng, 24));
    packets_ip(what.dst, v6, hosts[rng_below(rng, sizeof(hosts))]);
    if (rng_below(rng, 4) == 0) {
        what.more_fragments = rng_below(rng, 2);
        what.frag_offset = (uint16_t)(rng_below(rng, 2) * 8 * rng_below(rng, 100));
    }
    uint32_t length = packets_build(out, &what);
    for (uint32_t n = v6 ? rng_below(rng, 4) : 0; n; n--) { /* extension headers, sound or not */
        static const uint8_t kinds[] = {PROTO_HOPOPTS, PROTO_ROUTING, PROTO_DSTOPTS, PROTO_FRAGMENT, 51};
        uint8_t header[16] = {out[ETH_HEADER + 6], (uint8_t)rng_below(rng, 2)};
        uint32_t size = (header[1] + 1u) * 8;
        uint8_t kind = kinds[rng_below(rng, sizeof(kinds))];
        if (kind == PROTO_FRAGMENT) {
            header[1] = 0, size = 8;
            store_be16(header + 2, rng_below(rng, 3) ? 0 : rng_below(rng, 65536));
            store_be32(header + 4, id);
        }
        length = insert(out, length, ETH_HEADER + IP6_HEADER, header, size);
        out[ETH_HEADER + 6] = kind;
        store_be16(out + ETH_HEADER + 4, load_be16(out + ETH_HEADER + 4) + size);
    }
    return length;
}

/* Changes some bits, or cuts. */
static uint32_t mutate(struct ams_rng *rng, uint8_t *frame, uint32_t length)
{
    for (uint32_t n = rng_below(rng, 3); n; n--)
        frame[rng_below(rng, ams_min_u32(length, 90))] ^= (uint8_t)(1u << rng_below(rng, 8));
    if (rng_below(rng, 8) == 0)
        length = ETH_HEADER + rng_below(rng, length - ETH_HEADER + 1);
    return length;
}

/* True if a frame is an ICMP error whose quoted packet is no packet: the
 * program looks less closely at it than the switch. */
static bool bad_quote(const uint8_t *frame, uint32_t length)
{
    struct packet outer, quoted;

    return packet_parse(frame, length, length, &outer) == PACKET_OK &&
           (outer.protocol == PROTO_ICMP || outer.protocol == PROTO_ICMPV6) && packet_is_icmp_error(&outer) &&
           packet_parse_quoted(frame, ams_min_u32(length, outer.l3_end), outer.l4 + ICMP_HEADER, outer.family,
                               &quoted) != PACKET_OK;
}

/* True if a frame's destination is 10.0.0.n or fd00::n. */
static bool is_to(uint8_t n, const uint8_t *frame, uint32_t length)
{
    uint8_t ip[16], wanted[16];
    uint32_t type = load_be16(frame + 12);

    if (type == ETHERTYPE_IPV4 && length >= ETH_HEADER + IP4_HEADER)
        ip_map4(ip, frame + ETH_HEADER + 16);
    else if (type == ETHERTYPE_IPV6 && length >= ETH_HEADER + IP6_HEADER && frame[ETH_HEADER] >> 4 == 6)
        memcpy(ip, frame + ETH_HEADER + 24, 16);
    else
        return false;
    packets_ip(wanted, !ip_is4(ip), n);
    return ip_equal(ip, wanted);
}

static void test_program_and_switch_agree(void)
{
    struct rig rig = rig_new(0);
    struct ams_rng rng;
    uint8_t frame[PACKETS_MAX];
    uint32_t taken = 0, passed = 0, dropped = 0;

    rng_init(&rng, 1, 2);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t length = mutate(&rng, frame, random_frame(&rng, frame, round / 2));
        int program = run_bytes(&rig, frame, length);
        int owner = ams_switch_route(rig.sw, (const char *)frame, length, 1);
        bool mine = memcmp(frame, packets_us_mac, 6) == 0, shared = is_to(SHARED, frame, length);
        CHECK(program == TAKE || program == PASS);
        if (mine && is_to(OWN, frame, length))
            CHECK_EQ(program, TAKE);
        else if (!mine || !shared || (owner < 0 && owner != AMS_SWITCH_TO_NOBODY && !bad_quote(frame, length)))
            CHECK_EQ(program, PASS);
        else if (owner == OWNER)
            CHECK_EQ(program, TAKE);
        taken += program == TAKE, passed += program == PASS, dropped += owner == AMS_SWITCH_TO_NOBODY;
    }
    CHECK(taken > ROUNDS / 5 && passed > ROUNDS / 5 && dropped > ROUNDS / 50);
    rig_free(&rig);
}

static bool program_may_be_made(void)
{
    struct xdp_maps maps;

    CHECK_EQ(xdp_maps_init(&maps, 1), 0);
    int program = xdp_program_new(&maps, 0, NULL, 0);
    CHECK(program >= 0 || program == -ENOMEM);
    if (program >= 0)
        close(program);
    xdp_maps_fini(&maps);
    return program >= 0;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(program_may_be_made) > 0);
}

int main(void)
{
    struct xdp_maps maps;
    int status = xdp_maps_init(&maps, 1);

    if (status == -EPERM || status == -ENOSYS) {
        printf("  skipped: needs bpf(2): %s\n", strerror(-status));
        return 0;
    }
    xdp_maps_fini(&maps);
    RUN(test_claimed_tuples_are_taken_and_nothing_else);
    RUN(test_all_is_taken_of_an_address_of_its_own);
    RUN(test_frames_to_another_station_pass);
    RUN(test_arp_belongs_to_whose_address_it_asks_for);
    RUN(test_solicitations_of_groups_belong_to_whose_address_they_are_about);
    RUN(test_later_fragments_follow_their_first_one);
    RUN(test_icmp_errors_belong_to_whoever_sent_the_packet);
    RUN(test_options_and_extension_headers_are_stepped_over);
    RUN(test_vlan_tags_pass);
    RUN(test_without_a_socket_what_is_taken_is_dropped);
    RUN(test_a_program_that_takes_everything);
    RUN(test_program_and_switch_agree);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
