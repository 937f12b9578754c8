/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The XDP driver where no device is needed: the marks on received frames, and
 * a port on a loopback interface of a namespace of its own, which has no XDP
 * in its driver (so the kernel's generic path is taken) and allocations that
 * fail.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "core/frame.h"
#include "core/status.h"
#include "io/link_mark.h"
#include "packets.h"
#include "io/xdp_resolve.h"
#include "wire/checksum.h"

/* ---- marks ------------------------------------------------------------------------ */

struct marked {
    struct ams_frame frame;
    uint8_t bytes[65536];
};

/* Builds a TCP or UDP frame.
 * @finished: with a whole checksum; else with the pseudo-header's sum */
static struct marked *marked_new(bool v6, uint8_t protocol, uint16_t payload, bool finished)
{
    struct marked *marked = calloc(1, sizeof(*marked));
    uint32_t l4 = ETH_HEADER + (v6 ? IP6_HEADER : IP4_HEADER), at = protocol == PROTO_TCP ? 16 : 6;
    struct packets_frame what = {.v6 = v6, .protocol = protocol, .sport = 9, .dport = 80, .payload = payload};
    uint8_t src[16], dst[16];

    CHECK(marked != NULL);
    marked->frame.data = marked->bytes;
    marked->frame.len = packets_build(marked->bytes, &what);
    packets_ip(src, v6, 2);
    packets_ip(dst, v6, 1);
    store_be16(marked->bytes + l4 + at, 0);
    uint64_t sum = checksum_pseudo(src, dst, protocol, marked->frame.len - l4);
    if (finished)
        store_be16(marked->bytes + l4 + at,
                   checksum_finish(checksum_add(sum, marked->bytes + l4, marked->frame.len - l4)));
    else
        store_be16(marked->bytes + l4 + at, checksum_fold(sum));
    return marked;
}

static void test_unfinished_checksums_are_seen_on_links_that_have_them(void)
{
    for (int i = 0; i < 16; i++) {
        bool v6 = i & 1, finished = i & 2, partial = i & 4;
        struct marked *marked = marked_new(v6, i & 8 ? PROTO_UDP : PROTO_TCP, 100, finished);
        CHECK(link_mark(&marked->frame, 1500, partial));
        CHECK_EQ(marked->frame.flags, partial && !finished ? FRAME_CSUM_OK | FRAME_CSUM_PARTIAL : 0);
        free(marked);
    }
}

static void test_merged_segments_are_super_frames_and_merged_datagrams_are_dropped(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        struct marked *tcp = marked_new(v6, PROTO_TCP, 20000, false), *udp = marked_new(v6, PROTO_UDP, 20000, false);
        CHECK(link_mark(&tcp->frame, 1500, true));
        CHECK_EQ(tcp->frame.flags, FRAME_CSUM_OK | FRAME_CSUM_PARTIAL | FRAME_GSO);
        CHECK_EQ(tcp->frame.gso_size, v6 ? 1440 : 1460);
        CHECK(!link_mark(&udp->frame, 1500, true));
        free(tcp);
        free(udp);
    }
}

static void test_marks_survive_every_cut_and_every_changed_byte(void)
{
    for (int v6 = 0; v6 < 2; v6++) {
        for (uint32_t i = 0; i < 120; i++) {
            struct marked *marked = marked_new(v6, PROTO_TCP, 20, false);
            uint32_t length = marked->frame.len;
            for (int value = 0; value < 256 && i < length; value += 15) {
                uint8_t *exact = malloc(length); /* so that a read beyond it is seen */
                memcpy(exact, marked->bytes, length);
                exact[i] = (uint8_t)value;
                struct ams_frame frame = {.data = exact, .len = length};
                link_mark(&frame, 40, true);
                frame = (struct ams_frame){.data = exact, .len = i};
                link_mark(&frame, 40, true);
                free(exact);
            }
            free(marked);
        }
    }
}

/* ---- next hops of shared addresses ---------------------------------------------- */

#define SHARED 1
#define OWN 3
#define NEIGHBOR 2

struct resolving {
    struct frame_pool pool;
    struct claim_table claims;
    struct xdp_resolver resolver; /* without a socket: the kernel knows nothing */
};

static int no_change(void *ctx, const struct claim_key *key, bool claimed)
{
    return 0;
}

static struct resolving *resolving_new(void)
{
    struct resolving *r = calloc(1, sizeof(*r));
    uint8_t ip[16];

    CHECK(r != NULL);
    frame_pool_init(&r->pool, 1000, false);
    CHECK_EQ(claims_init(&r->claims, 1, no_change, NULL), 0);
    resolver_init(&r->resolver, 1, &r->pool, &r->claims);
    memcpy(r->resolver.mac, packets_us_mac, 6);
    for (int v6 = 0; v6 < 2; v6++) {
        packets_ip(ip, v6, SHARED);
        CHECK_EQ(claims_share(&r->claims, ip), 0);
    }
    return r;
}

static void resolving_free(struct resolving *r)
{
    resolver_fini(&r->resolver);
    claims_fini(&r->claims);
    frame_pool_fini(&r->pool); /* traps if a frame is left */
    free(r);
}

/* Sends a question (or, `answers`, an answer) from one host about another.
 * Return: whether the resolver keeps it from leaving. */
static bool sends(struct resolving *r, bool v6, bool answers, uint8_t from, uint8_t about)
{
    uint8_t bytes[FRAME_HEADROOM + PACKETS_MAX], *frame = bytes + FRAME_HEADROOM, message[NDP_LENGTH_LLADDR];
    struct ams_tx tx = {.head = frame};

    if (v6) {
        struct ndp_repr ndp = {.type = answers ? ICMP6_NEIGHBOR_ADVERT : ICMP6_NEIGHBOR_SOLICIT, .has_lladdr = true};
        packets_ip(ndp.target, true, about);
        ndp_emit(message, &ndp);
        struct packets_frame what = {.v6 = true, .outgoing = true, .protocol = PROTO_ICMPV6, .icmp_type = ndp.type,
                                     .payload = NDP_LENGTH_LLADDR - ICMP_HEADER, .body = message + ICMP_HEADER};
        packets_ip(what.src, true, from);
        tx.head_len = packets_build(frame, &what);
    } else {
        struct arp_repr arp = {.operation = answers ? ARP_REPLY : ARP_REQUEST, .sender_ip = {10, 0, 0, from},
                               .target_ip = {10, 0, 0, about}};
        memcpy(arp.sender_mac, packets_us_mac, 6);
        tx.head_len = packets_arp(frame, packets_us_mac, &arp);
    }
    tx.total = tx.head_len;
    return resolver_takes(&r->resolver, &tx);
}

static void test_nothing_is_said_about_a_shared_address(void)
{
    struct resolving *r = resolving_new();

    for (int v6 = 0; v6 < 2; v6++) {
        CHECK(sends(r, v6, false, SHARED, NEIGHBOR));    /* a question */
        CHECK(sends(r, v6, false, SHARED, SHARED));      /* an announcement, or a probe */
        CHECK(sends(r, v6, true, SHARED, SHARED));       /* an answer */
        CHECK(!sends(r, v6, false, OWN, NEIGHBOR));
        CHECK(!sends(r, v6, true, OWN, OWN));
    }
    resolving_free(r);
}

static void test_questions_are_answered_when_the_news_comes(void)
{
    static const uint8_t mac[6] = {2, 9, 9, 9, 9, 9};
    struct resolving *r = resolving_new();
    struct ams_frame *frame;

    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint asked = packets_endpoint(v6, NEIGHBOR, 0), other = packets_endpoint(v6, 7, 0);
        CHECK(sends(r, v6, false, SHARED, NEIGHBOR));
        CHECK(sends(r, v6, false, SHARED, NEIGHBOR)); /* again: one answer is enough */
        resolver_news(&r->resolver, &other, mac);
        CHECK_EQ(resolver_receive(&r->resolver, &frame, 1), 0);
        resolver_news(&r->resolver, &asked, mac);
        CHECK_EQ(r->resolver.n_answers, 1);
        CHECK_EQ(resolver_receive(&r->resolver, &frame, 1), 1);
        CHECK_MEM(frame->data, packets_us_mac, 6);
        CHECK_MEM(frame->data + 6, mac, 6);
        if (v6) {
            struct ndp_repr ndp;
            CHECK_EQ(ndp_parse(frame->data + ETH_HEADER + IP6_HEADER, frame->len - ETH_HEADER - IP6_HEADER, &ndp), WIRE_OK);
            CHECK_EQ(ndp.type, ICMP6_NEIGHBOR_ADVERT);
            CHECK_MEM(ndp.target, asked.ip, 16);
            CHECK_MEM(ndp.lladdr, mac, 6);
        } else {
            struct arp_repr arp;
            CHECK_EQ(arp_parse(frame->data + ETH_HEADER, frame->len - ETH_HEADER, &arp), WIRE_OK);
            CHECK_EQ(arp.operation, ARP_REPLY);
            CHECK_MEM(arp.sender_ip, asked.ip + 12, 4);
            CHECK_MEM(arp.sender_mac, mac, 6);
        }
        frame_free(frame);
        resolver_news(&r->resolver, &asked, mac); /* nobody asks any more */
        CHECK_EQ(r->resolver.n_answers, 0);
    }
    resolving_free(r);
}

static void test_questions_are_bounded(void)
{
    struct resolving *r = resolving_new();
    struct ams_frame *frame;
    int answers = 0;

    for (int i = 10; i < 250; i++)
        CHECK(sends(r, false, false, SHARED, (uint8_t)i));
    for (int i = 10; i < 250; i++) {
        struct ams_endpoint asked = packets_endpoint(false, (uint8_t)i, 0);
        resolver_news(&r->resolver, &asked, packets_peer_mac);
    }
    while (resolver_receive(&r->resolver, &frame, 1)) {
        frame_free(frame);
        answers++;
    }
    CHECK_EQ(answers, RESOLVE_QUESTIONS);
    resolving_free(r);
}

/* ---- a port ----------------------------------------------------------------------- */

static struct ams_port *port_new(const char *spec, uint32_t flags, char *error)
{
    struct ams_port_config config = {.spec = spec, .flags = flags};
    struct ams_port *port;
    int status = ams_port_open(&port, &config, error, 256);

    CHECK_EQ(status == 0, port != NULL);
    return port;
}

static void test_bad_names_say_what_is_wrong(void)
{
    static const char *const cases[][2] = {
        {"xdp:", "name"}, {"xdp:@0", "name"}, {"xdp:no-such-link", "no interface"}, {"xdp:lo@x", "no queue"},
        {"xdp:lo@", "no queue"}, {"xdp:lo@1", "no queue 1"}, {"xdp:lo@-1", "no queue"}, {"xdp:lo@300", "no queue"},
        {"xdp:a-name-that-is-too-long", "too long"},
    };
    char error[256];

    for (size_t i = 0; i < AMS_ARRAY_SIZE(cases); i++) {
        CHECK(port_new(cases[i][0], 0, error) == NULL);
        CHECK(strstr(error, cases[i][1]) != NULL);
    }
}

/* What one port sends over the loopback interface it receives. */
static void test_a_link_without_xdp_in_its_driver(void)
{
    char error[256], sent[100], got[100];
    struct ams_port *port = port_new("xdp:lo@0", AMS_PORT_ALL, error);

    CHECK(port != NULL);
    memset(sent, 7, sizeof(sent));
    CHECK_EQ(ams_port_send(port, sent, sizeof(sent), AMS_NOW), 0);
    for (int tries = 0; tries < 500; tries++) {
        int length = ams_port_recv(port, got, sizeof(got), AMS_NOW);
        if (length > 0) {
            CHECK_EQ(length, sizeof(got));
            CHECK_MEM(sent, got, sizeof(got));
            ams_port_close(port);
            return;
        }
        usleep(10000);
    }
    CHECK(!"the frame came back");
}

static bool port_may_be_opened(void)
{
    char error[256] = "";
    struct ams_port *port = port_new("xdp:lo", 0, error);

    CHECK(port || strstr(error, "emory"));
    ams_port_close(port);
    return port != NULL;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(port_may_be_opened) >= 5);
}

/* A namespace whose loopback interface is up.  Return: false if there can be none. */
static bool namespace_enter(void)
{
    struct ifreq request = {.ifr_name = "lo"};

    if (unshare(CLONE_NEWNET) < 0)
        return false;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    request.ifr_flags = IFF_UP;
    CHECK_EQ(ioctl(fd, SIOCSIFFLAGS, &request), 0);
    close(fd);
    return true;
}

int main(void)
{
    RUN(test_unfinished_checksums_are_seen_on_links_that_have_them);
    RUN(test_merged_segments_are_super_frames_and_merged_datagrams_are_dropped);
    RUN(test_marks_survive_every_cut_and_every_changed_byte);
    RUN(test_nothing_is_said_about_a_shared_address);
    RUN(test_questions_are_answered_when_the_news_comes);
    RUN(test_questions_are_bounded);
    if (!namespace_enter()) {
        printf("  the others skipped: need a network namespace: %s\n", strerror(errno));
        return check_report();
    }
    char error[256];
    struct ams_port *port = port_new("xdp:lo", 0, error);
    if (!port && (strstr(error, "no permission") || strstr(error, "no AF_XDP"))) {
        printf("  the others skipped: %s\n", error);
        return check_report();
    }
    ams_port_close(port);
    RUN(test_bad_names_say_what_is_wrong);
    RUN(test_a_link_without_xdp_in_its_driver);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
