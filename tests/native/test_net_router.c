/* SPDX-License-Identifier: BSD-2-Clause
 *
 * test_net_router.c - what is learnt from routers: formats, floods, whom the
 * stack tells of its addresses, and failing memory.  How it behaves on a link
 * is in tests/engine/test_rfc4861_routers.py and its neighbours.
 */
#include "net_fixture.h"
#include "router_packets.h"
#include "stack/router.h"

#define LEARNING (AMS_STACK_NO_DAD | AMS_STACK_AUTOCONF | AMS_STACK_REDIRECTS4 | AMS_STACK_REDIRECTS6)

static struct world world;

static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
static const uint8_t router_mac[6] = {2, 0, 0, 0, 0xff, 1};

/* Lets A hear router N advertise a prefix. */
static void advertise(uint16_t router, uint32_t prefix, uint32_t valid)
{
    uint8_t frame[PACKETS_MAX], message[256], src[16];
    uint32_t len = router_packets_advert(message, 64, 0, 1800);
    len += router_packets_mac(message + len, 1, router_mac);
    len += router_packets_prefix(message + len, prefix, 64, 0xc0, valid, valid);
    router_packets_ip(src, router);
    world_inject(&world, A, frame, router_packets_frame(frame, src, all_nodes, message, len));
}

static int learned(void)
{
    struct ams_net_info rows[64];
    int count = 0, n = ams_stack_network(world.host[A], rows, 64, world.now);
    for (int i = 0; i < n; i++)
        count += rows[i].kind == AMS_NET_ADDRESS && rows[i].flags & AMS_NET_LEARNED;
    return count;
}

/* ---- formats ------------------------------------------------------------------------ */

static void test_advertisement(void)
{
    uint8_t bytes[256];
    struct router_advert advert;
    struct router_prefix prefix;
    uint32_t len = router_packets_advert(bytes, 64, 0x08, 1800);
    store_be32(bytes + 8, 30000);
    store_be32(bytes + 12, 1000);
    len += router_packets_mac(bytes + len, 1, router_mac);
    len += router_packets_prefix(bytes + len, 1, 64, 0xc0, 7200, 3600);
    memcpy(bytes + len, (const uint8_t[]){5, 1, 0, 0, 0, 0, 0x05, 0x00}, 8);
    len += 8;
    len += router_packets_prefix(bytes + len, 2, 33, 0x40, ROUTER_INFINITE, 0);
    CHECK_EQ(router_advert_parse(bytes, len, &advert), WIRE_OK);
    CHECK_EQ(advert.hop_limit, 64);
    CHECK_EQ(advert.lifetime, 1800);
    CHECK_EQ(advert.preference, 1);
    CHECK_EQ(advert.reachable_ms, 30000);
    CHECK_EQ(advert.retrans_ms, 1000);
    CHECK_EQ(advert.mtu, 1280);
    CHECK(advert.has_lladdr);
    CHECK_MEM(advert.lladdr, router_mac, 6);
    size_t at = 0;
    CHECK(router_advert_prefix(bytes, len, &at, &prefix));
    CHECK(prefix.on_link && prefix.autonomous && prefix.length == 64 && prefix.valid == 7200 && prefix.preferred == 3600);
    CHECK(router_advert_prefix(bytes, len, &at, &prefix));
    CHECK(!prefix.on_link && prefix.autonomous && prefix.length == 33 && prefix.valid == ROUTER_INFINITE);
    CHECK_MEM(prefix.prefix, ((const uint8_t[16]){0x20, 0x01, 0x0d, 0xb8}), 16); /* bits behind 33 are gone */
    CHECK(!router_advert_prefix(bytes, len, &at, &prefix));
    for (uint32_t cut = 0; cut < len; cut++)
        CHECK_EQ(router_advert_parse(bytes, cut, &advert) == WIRE_OK,
                 cut == 16 || cut == 24 || cut == 56 || cut == 64);
    bytes[17] = 0;
    CHECK_EQ(router_advert_parse(bytes, len, &advert), WIRE_MALFORMED);
    bytes[17] = 1;
    bytes[1] = 1;
    CHECK_EQ(router_advert_parse(bytes, len, &advert), WIRE_MALFORMED);
}

/* RFC 4191 section 2.2: a router that is none has no preference. */
static void test_preferences(void)
{
    static const int8_t meaning[] = {0, 1, 0, -1};
    uint8_t bytes[ROUTER_ADVERT_LENGTH];
    struct router_advert advert;
    for (uint8_t value = 0; value < 4; value++) {
        router_packets_advert(bytes, 0, (uint8_t)(value << 3 | 0xe7), 1);
        CHECK_EQ(router_advert_parse(bytes, sizeof(bytes), &advert), WIRE_OK);
        CHECK_EQ(advert.preference, meaning[value]);
        router_packets_advert(bytes, 0, (uint8_t)(value << 3), 0);
        CHECK_EQ(router_advert_parse(bytes, sizeof(bytes), &advert), WIRE_OK);
        CHECK_EQ(advert.preference, 0);
    }
}

static void test_redirect(void)
{
    static const uint8_t group[16] = {0xff, 0x0e};
    uint8_t bytes[128], router[16], destination[16];
    struct router_redirect redirect;
    router_packets_ip(router, 1);
    packets_ip(destination, true, 77);
    uint32_t len = router_packets_redirect(bytes, router, destination);
    len += router_packets_mac(bytes + len, 2, router_mac);
    memset(bytes + len, 0, 56);
    bytes[len] = 4;
    bytes[len + 1] = 7;
    len += 56;
    CHECK_EQ(router_redirect_parse(bytes, len, &redirect), WIRE_OK);
    CHECK_MEM(redirect.target, router, 16);
    CHECK_MEM(redirect.destination, destination, 16);
    CHECK(redirect.has_lladdr && redirect.quoted == bytes + 56 && redirect.quoted_len == 48);
    CHECK_EQ(router_redirect_parse(bytes, 39, &redirect), WIRE_TRUNCATED);
    CHECK_EQ(router_redirect_parse(bytes, len - 1, &redirect), WIRE_TRUNCATED);
    router_packets_redirect(bytes, destination, destination);
    CHECK_EQ(router_redirect_parse(bytes, ROUTER_REDIRECT_LENGTH, &redirect), WIRE_OK);
    router_packets_redirect(bytes, destination, router);
    CHECK_EQ(router_redirect_parse(bytes, ROUTER_REDIRECT_LENGTH, &redirect), WIRE_MALFORMED);
    router_packets_redirect(bytes, router, group);
    CHECK_EQ(router_redirect_parse(bytes, ROUTER_REDIRECT_LENGTH, &redirect), WIRE_MALFORMED);
}

/* ---- floods -------------------------------------------------------------------------- */

/* A million would do no more: after the first few nothing is remembered. */
static void test_floods_are_bounded(void)
{
    world_init(&world, (struct world_options){.flags = LEARNING});
    advertise(1, 1, 86400);
    world_advance(&world, 3 * SECOND);
    world.n_trace = 0;
    uint64_t before = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        advertise((uint16_t)(2 + i), 2 + i, 1 + i % 5);
        if (i % 64 == 0)
            world_advance(&world, 100 * MS);
        if (i == 2000)
            before = ams_stack_memory(world.host[A]);
    }
    CHECK(ams_stack_memory(world.host[A]) <= before);
    CHECK(learned() <= (int)IFACE_LEARNED);
    uint8_t first[16];
    router_packets_ip(first, 1);
    CHECK_MEM(router_default(world.host[A])->ip, first, 16);
    world_advance(&world, 30 * SECOND);
    CHECK_EQ(learned(), 1); /* what the flood brought has expired */
    world_fini(&world);
}

/* The table of places is made anew with each address; all are still found. */
static void test_addresses_are_found(void)
{
    world_init(&world, (struct world_options){.flags = LEARNING});
    for (uint32_t round = 0; round < 200; round++) {
        advertise(1, round % 23, 1 + round % 11);
        world_advance(&world, 700 * MS);
        const struct iface_table *table = world.host[A]->iface;
        for (uint32_t i = 0; i < table->n_addrs; i++)
            if (table->addrs[i].family)
                CHECK(iface_find(world.host[A], table->addrs[i].ip) == &table->addrs[i]);
    }
    world_advance(&world, 60 * SECOND);
    CHECK_EQ(learned(), 0);
    world_fini(&world);
}

/* ---- who serves the addresses -------------------------------------------------------------- */

/* What an owner was told. */
struct books {
    int served, unserved, claimed, released;
    bool refuse;
};

static int serve(void *ctx, const struct ams_ifaddr *address)
{
    struct books *books = ctx;
    CHECK_EQ(address->prefix_len, 64);
    if (books->refuse)
        return -AMS_ENOMEM;
    books->served++;
    return 0;
}

static void unserve(void *ctx, const struct ams_endpoint *address)
{
    struct books *books = ctx;
    CHECK_EQ(address->family, AMS_IPV6);
    CHECK_EQ(books->claimed, books->released); /* nothing is left on it */
    books->unserved++;
}

static int claim(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct books *books = ctx;
    (void)protocol, (void)local;
    books->claimed++;
    return 0;
}

static void release(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct books *books = ctx;
    (void)protocol, (void)local;
    books->released++;
}

static void test_the_owner_is_told(void)
{
    struct books books = {0};
    struct ams_net_info rows[8];
    struct ams_endpoint local = {0};
    world_init(&world, (struct world_options){.flags = LEARNING});
    world.host[A]->iface->owner =
        (struct ams_owner){.claim = claim, .release = release, .serve = serve, .unserve = unserve, .ctx = &books};
    books.refuse = true;
    advertise(1, 1, 10);
    CHECK_EQ(learned(), 0);
    books.refuse = false;
    world_advance(&world, 2500 * MS); /* it is tried again */
    CHECK_EQ(learned(), 1);
    CHECK_EQ(books.served, 1);
    int n = ams_stack_network(world.host[A], rows, 8, world.now);
    for (int i = 0; i < n; i++)
        if (rows[i].kind == AMS_NET_ADDRESS && rows[i].flags & AMS_NET_LEARNED)
            local = rows[i].address.address;
    local.port = 5000;
    int id = ams_udp_open(world.host[A], &local, NULL, 0);
    CHECK(id >= 0);
    world_advance(&world, 10 * SECOND);
    CHECK_EQ(books.unserved, 0); /* an endpoint is bound to it */
    struct ams_endpoint peer = packets_endpoint(true, 2, 9);
    CHECK_EQ(ams_udp_send(world.host[A], id, &peer, "x", 1, world.now), -AMS_EADDRNOTAVAIL);
    CHECK_EQ(ams_udp_close(world.host[A], id), 1);
    CHECK_EQ(books.unserved, 1);
    CHECK_EQ(learned(), 0);
    world_fini(&world);
}

/* On a link that others share, nothing is learnt. */
static void test_not_on_a_shared_link(void)
{
    struct frame_pool pool;
    int status;
    struct ams_ifaddr address = world_address(true, 1);
    struct ams_stack_config config = {.seed = {1, 2}, .addresses = &address, .n_addresses = 1, .flags = LEARNING};
    struct stack_link link = {.mtu = 1500, .pool = &pool, .flags = STACK_LINK_QUIET};
    frame_pool_init(&pool, 100, false);
    struct ams_stack *stack = stack_new(&config, &link, WORLD_START, &status);
    CHECK_EQ(status, 0);
    CHECK_EQ(ams_stack_autoconf(stack, WORLD_START), AMS_AUTOCONF_OFF);
    CHECK(!stack->routers && !stack->redirects);
    stack_free(stack);
    config.n_addresses = 0;
    CHECK(stack_new(&config, &link, WORLD_START, &status) == NULL);
    CHECK_EQ(status, -AMS_EINVAL);
    frame_pool_fini(&pool);
}

/* ---- memory ------------------------------------------------------------------------------------ */

/* Learns a router, an address and a redirect.  Return: true if all of it was there. */
static bool learn_once(void)
{
    struct world_options options = {.flags = LEARNING};
    uint8_t frame[PACKETS_MAX], message[256], router[16], better[16], far[16] = {0x20, 0x01};
    int status;
    memset(&world, 0, sizeof(world));
    frame_pool_init(&world.pool, 100, false);
    world.now = WORLD_START;
    struct ams_stack *stack = world.host[A] = world_host(&world.pool, A, &options, world.now, &status);
    bool good = stack != NULL;
    CHECK(good || status == -AMS_ENOMEM);
    for (int i = 0; stack && i < 2; i++) {
        router_packets_ip(router, 1);
        router_packets_ip(better, 2);
        uint32_t len = router_packets_advert(message, 64, 0, 1800);
        len += router_packets_prefix(message + len, 1, 64, 0xc0, 86400, 86400);
        if (i) {
            len = router_packets_redirect(message, better, far);
            len += router_packets_mac(message + len, 2, router_mac);
        }
        uint32_t size = router_packets_frame(frame, router, i ? world_address(true, 1).address.ip : all_nodes, message, len);
        struct ams_frame *received = frame_new(&world.pool, FRAME_CLASS_SMALL);
        if (!received)
            good = false;
        else {
            memcpy(received->data, frame, size);
            received->len = size;
            stack_input(stack, &received, 1, world.now);
        }
        for (int step = 0; step < 8; step++) {
            struct ams_tx tx[4];
            uint8_t heads[4][FRAME_HEADROOM + TX_HEAD_MAX];
            memset(tx, 0, sizeof(tx));
            for (int j = 0; j < 4; j++)
                tx[j].head = heads[j] + FRAME_HEADROOM;
            stack_output_done(stack, tx, stack_output(stack, tx, 4, world.now));
            world.now += 300 * MS;
        }
    }
    if (stack)
        good = good && stack->counters.no_memory == 0 && learned() == 1 && router_default(stack) != NULL &&
               redirect_list(stack, NULL, 0) == 1 && neighbor_find(stack, better) != NULL;
    stack_free(stack);
    CHECK_EQ(world.pool.in_use, 0);
    frame_pool_fini(&world.pool);
    return good;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(learn_once) > 15);
}

int main(void)
{
    RUN(test_advertisement);
    RUN(test_preferences);
    RUN(test_redirect);
    RUN(test_floods_are_bounded);
    RUN(test_addresses_are_found);
    RUN(test_the_owner_is_told);
    RUN(test_not_on_a_shared_link);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
