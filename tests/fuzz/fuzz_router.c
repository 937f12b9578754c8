/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes what is learnt from routers: a stack with nothing but a link-local
 * address hears advertisements, redirects and neighbours, while time passes
 * and endpoints come and go on the addresses that it makes.
 *
 * The input is a list of records: what to do, and arguments, which are small
 * numbers (routers, prefixes, destinations), so that the same ones come again.
 *
 * What is checked beyond the sanitizers: the limits hold; every address is
 * found where it is; whoever serves the addresses is told of each once, and
 * that it is gone once, when nothing is claimed on it any more; no deadline
 * in the past stays; when the stack is freed no frame is left.
 */
#include "fuzz.h"
#include "packets.h"
#include "router_packets.h"
#include "stack/router.h"
#include "stack/stack.h"

#define MAX_RECORDS 200
#define BATCH 16
#define IDS 8
#define ROWS 320
#define LEARNING (AMS_STACK_NO_DAD | AMS_STACK_AUTOCONF | AMS_STACK_REDIRECTS4 | AMS_STACK_REDIRECTS6)

enum action { ADVERTISE, REDIRECT, NEIGHBOUR, TIME, OPEN, SEND, CLOSE, ACTIONS };

struct fuzz {
    struct frame_pool pool;
    struct ams_stack *stack;
    uint64_t now;
    struct fuzz_input input;
    int ids[IDS];
    bool refuses;             /* addresses are not served now */
    int served, claims;
};

/* ---- who serves the addresses -------------------------------------------------- */

static int serve(void *ctx, const struct ams_ifaddr *address)
{
    struct fuzz *fuzz = ctx;
    FUZZ_ASSERT(address->address.family == AMS_IPV6 && address->prefix_len == 64);
    if (fuzz->refuses)
        return -AMS_ENOMEM;
    fuzz->served++;
    return 0;
}

static void unserve(void *ctx, const struct ams_endpoint *address)
{
    struct fuzz *fuzz = ctx;
    FUZZ_ASSERT(!iface_find(fuzz->stack, address->ip));
    fuzz->served--;
}

static int claim(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct fuzz *fuzz = ctx;
    (void)protocol, (void)local;
    fuzz->claims++;
    return 0;
}

static void release(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct fuzz *fuzz = ctx;
    (void)protocol, (void)local;
    fuzz->claims--;
}

/* ---- frames -------------------------------------------------------------------------- */

static void inject(struct fuzz *fuzz, const uint8_t *bytes, uint32_t len)
{
    struct ams_frame *frame = frame_new(&fuzz->pool, FRAME_CLASS_SMALL);
    FUZZ_ASSERT(frame != NULL);
    memcpy(frame->data, bytes, len);
    frame->len = len;
    stack_input(fuzz->stack, &frame, 1, fuzz->now);
}

/* Sends a message of ICMPv6 from router `who` to all nodes, or to our link-local address. */
static void tell(struct fuzz *fuzz, uint8_t who, const uint8_t *message, uint32_t len)
{
    uint8_t frame[PACKETS_MAX], src[16], dst[16] = {0xff, 0x02, [15] = 1};
    router_packets_ip(src, 1 + (who & 15));
    if (who & 16)
        memcpy(dst, fuzz->stack->iface->addrs[0].ip, 16);
    inject(fuzz, frame, router_packets_frame(frame, src, dst, message, len));
}

/* Lifetimes of all sizes: none, seconds, around the two hours that matter, days, for ever. */
static uint32_t take_lifetime(struct fuzz *fuzz)
{
    static const uint32_t values[] = {0, 1, 2, 5, 60, 3600, 7199, 7200, 7201, 86400, 86400 * 30, ROUTER_INFINITE};
    return values[take8(&fuzz->input) % AMS_ARRAY_SIZE(values)];
}

static void do_advertise(struct fuzz *fuzz)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0xff, 1};
    uint8_t message[1024], who = take8(&fuzz->input), how = take8(&fuzz->input);
    uint32_t len = router_packets_advert(message, take8(&fuzz->input), how & 0x18, (uint16_t)take_lifetime(fuzz));
    store_be32(message + 8, how & 32 ? take16(&fuzz->input) : 0);
    store_be32(message + 12, how & 64 ? take16(&fuzz->input) : 0);
    if (how & 1)
        len += router_packets_mac(message + len, 1, mac);
    for (uint32_t i = 0; i < (how >> 1 & 3); i++) {
        uint8_t which = take8(&fuzz->input), length = which & 32 ? take8(&fuzz->input) : 64;
        uint32_t valid = take_lifetime(fuzz);
        len += router_packets_prefix(message + len, which & 31, length, which, valid, take_lifetime(fuzz));
    }
    if (how & 128)
        len += (uint32_t)take_bytes(&fuzz->input, message + len, take8(&fuzz->input));
    tell(fuzz, who, message, len);
}

static void do_redirect(struct fuzz *fuzz)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0xff, 2};
    uint8_t message[256], target[16], far[16] = {0x20, 0x01, 0x0d, 0xb8, 0xff};
    uint8_t who = take8(&fuzz->input), how = take8(&fuzz->input);
    far[15] = how & 7;
    router_packets_ip(target, 1 + (how >> 3 & 15));
    uint32_t len = router_packets_redirect(message, how & 128 ? far : target, far);
    if (who & 32)
        len += router_packets_mac(message + len, 2, mac);
    if (who & 64)
        len += (uint32_t)take_bytes(&fuzz->input, message + len, take8(&fuzz->input) % 100);
    tell(fuzz, who | 16, message, len);
}

/* Somebody answers for a router, or has an address that we made. */
static void do_neighbour(struct fuzz *fuzz)
{
    uint8_t message[NDP_LENGTH_LLADDR], who = take8(&fuzz->input), how = take8(&fuzz->input);
    const struct iface_table *table = fuzz->stack->iface;
    struct ndp_repr ndp = {.type = ICMP6_NEIGHBOR_ADVERT, .flags = (uint32_t)(how & 0xe0) << 24, .has_lladdr = how & 1,
                           .lladdr = {2, 0, 0, 0, 0xff, 3}};
    router_packets_ip(ndp.target, 1 + (who & 15));
    if (how & 2)
        memcpy(ndp.target, table->addrs[who % table->n_addrs].ip, 16);
    tell(fuzz, how & 0x40 ? who | 16 : who, message, ndp_emit(message, &ndp));
}

/* ---- time, and the application ---------------------------------------------------------- */

static void do_time(struct fuzz *fuzz)
{
    static const uint64_t units[] = {AMS_NS_PER_MS, 100 * AMS_NS_PER_MS, AMS_NS_PER_S, 600 * AMS_NS_PER_S};
    uint8_t how = take8(&fuzz->input);
    fuzz->refuses = how & 0x80;
    fuzz->now += (how & 31) * units[how >> 5 & 3];
}

/* Binds UDP or listens on one of the addresses, whatever its state, or on all. */
static void do_open(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input), which = take8(&fuzz->input);
    const struct iface_table *table = fuzz->stack->iface;
    struct ams_endpoint local = {.port = 1000u + (how & 7), .family = AMS_IPV6};
    if (!(how & 64) && table->addrs[which % table->n_addrs].family == AMS_IPV6)
        memcpy(local.ip, table->addrs[which % table->n_addrs].ip, 16);
    int *id = &fuzz->ids[which % IDS];
    if (*id >= 0)
        return;
    *id = how & 32 ? ams_tcp_listen(fuzz->stack, &local, 4, AMS_LISTEN_V6ONLY)
                   : ams_udp_open(fuzz->stack, &local, NULL, AMS_LISTEN_V6ONLY);
}

static void do_send(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    struct ams_endpoint to = {.port = 9, .family = AMS_IPV6, .ip = {0x20, 0x01, 0x0d, 0xb8, 0xff}};
    to.ip[15] = how & 7;
    if (how & 8) { /* on the link, perhaps */
        memset(to.ip + 4, 0, 4);
        to.ip[7] = how >> 4;
    }
    ams_udp_send(fuzz->stack, fuzz->ids[how >> 3 & 7], &to, "x", 1, fuzz->now);
}

static void do_close(struct fuzz *fuzz)
{
    int *id = &fuzz->ids[take8(&fuzz->input) % IDS];
    if (*id >= 0 && ams_udp_close(fuzz->stack, *id) != 1)
        ams_tcp_close(fuzz->stack, *id);
    *id = -1;
}

/* ---- what must hold ------------------------------------------------------------------------ */

static void check(struct fuzz *fuzz)
{
    static struct ams_net_info rows[ROWS];
    const struct iface_table *table = fuzz->stack->iface;
    int count[AMS_NET_REDIRECT + 1] = {0}, served = 0, current = 0;
    int n = ams_stack_network(fuzz->stack, rows, ROWS, fuzz->now);
    FUZZ_ASSERT(n <= ROWS);
    for (int i = 0; i < n; i++) {
        FUZZ_ASSERT(rows[i].kind >= AMS_NET_ADDRESS && rows[i].kind <= AMS_NET_REDIRECT);
        count[rows[i].kind]++;
        current += rows[i].flags & AMS_NET_CURRENT && rows[i].kind == AMS_NET_ROUTER;
    }
    FUZZ_ASSERT(count[AMS_NET_ADDRESS] <= 1 + (int)IFACE_LEARNED && count[AMS_NET_ROUTER] <= (int)ROUTER_LIMIT);
    FUZZ_ASSERT(count[AMS_NET_PREFIX] <= (int)ROUTER_PREFIXES && current == (count[AMS_NET_ROUTER] > 0));
    for (uint32_t i = 0; i < table->n_addrs; i++) {
        if (!table->addrs[i].family)
            continue;
        FUZZ_ASSERT(iface_find(fuzz->stack, table->addrs[i].ip) == &table->addrs[i]);
        FUZZ_ASSERT(table->addrs[i].state != IFACE_INVALID || table->addrs[i].claims);
        served += table->addrs[i].learned;
    }
    FUZZ_ASSERT(served == fuzz->served && fuzz->claims >= 0);
    ams_stack_autoconf(fuzz->stack, fuzz->now);
}

static void poll_stack(struct fuzz *fuzz)
{
    int32_t events[BATCH * AMS_EVENT_WORDS];
    for (int round = 0; round < 64; round++) {
        struct ams_tx tx[BATCH];
        memset(tx, 0, sizeof(tx));
        int sent = stack_output(fuzz->stack, tx, BATCH, fuzz->now);
        stack_output_done(fuzz->stack, tx, sent);
        int n = stack_events(fuzz->stack, events, BATCH, NULL, 0);
        if (sent == 0 && n == 0)
            break;
    }
    FUZZ_ASSERT(stack_deadline(fuzz->stack) > fuzz->now);
    check(fuzz);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const actions[ACTIONS])(struct fuzz *) = {
        [ADVERTISE] = do_advertise, [REDIRECT] = do_redirect, [NEIGHBOUR] = do_neighbour, [TIME] = do_time,
        [OPEN] = do_open,           [SEND] = do_send,         [CLOSE] = do_close,
    };
    int status;
    struct fuzz fuzz = {.input = {data, size}, .now = 1000 * AMS_NS_PER_S};
    struct ams_stack_config config = {.seed = {3, 4}, .flags = LEARNING};
    struct stack_link link = {
        .mtu = 1500,
        .pool = &fuzz.pool,
        .owner = {.claim = claim, .release = release, .serve = serve, .unserve = unserve, .ctx = &fuzz},
    };
    memcpy(config.mac, packets_us_mac, 6);
    memset(fuzz.ids, 0xff, sizeof(fuzz.ids));
    frame_pool_init(&fuzz.pool, 2000, false);
    fuzz.stack = stack_new(&config, &link, fuzz.now, &status);
    FUZZ_ASSERT(fuzz.stack != NULL);
    for (int record = 0; record < MAX_RECORDS && fuzz.input.left > 0; record++) {
        actions[take8(&fuzz.input) % ACTIONS](&fuzz);
        poll_stack(&fuzz);
    }
    stack_free(fuzz.stack);
    FUZZ_ASSERT(fuzz.pool.in_use == 0);
    frame_pool_fini(&fuzz.pool);
    return 0;
}
