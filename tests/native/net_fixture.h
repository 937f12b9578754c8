/* SPDX-License-Identifier: BSD-2-Clause
 *
 * net_fixture.h - two stacks back to back, in virtual time.
 *
 * A world has hosts A (10.0.0.1, fd00::1) and B (10.0.0.2, fd00::2) on a
 * perfect link without delay.  world_settle() lets them talk until both are
 * silent; world_advance() lets time pass, jumping from deadline to deadline.
 * A filter may look at each frame, and drop it; what nobody drops is kept in
 * a short trace for tests to look at.
 */
#ifndef AMS_TESTS_NET_FIXTURE_H
#define AMS_TESTS_NET_FIXTURE_H

#include "check.h"
#include "stack/icmp.h"
#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/neighbor.h"
#include "stack/stack.h"
#include "packets.h"
#include "wire/checksum.h"

#define MS AMS_NS_PER_MS
#define SECOND AMS_NS_PER_S
#define WORLD_START (1000 * SECOND)
#define WORLD_TRACE 64

enum { A, B, HOSTS };

struct world_frame {
    int from;
    uint64_t at;
    uint32_t len;
    uint16_t flags;           /* of its descriptor */
    uint8_t data[1600];       /* its beginning */
};

struct world {
    struct frame_pool pool;
    struct ams_stack *host[HOSTS];
    uint64_t now;
    uint64_t silence;         /* when each deadline is past */
    bool (*filter)(struct world *world, int from, const uint8_t *frame, uint32_t len); /* false: drop */
    void *filter_arg;
    uint32_t n_trace;
    struct world_frame trace[WORLD_TRACE];
};

struct world_options {
    uint32_t mtu;             /* 0: 1500 */
    uint32_t caps;
    uint32_t flags;           /* AMS_STACK_*; AMS_STACK_NO_DAD is usual */
    bool same_address;        /* B has A's addresses, too */
    bool gateway;             /* A's gateways are B */
    uint32_t frames;          /* limit of the pool, 0: enough */
    uint32_t syn_cookies;     /* AMS_SYN_COOKIES_* */
};

static inline struct ams_ifaddr world_address(bool v6, uint8_t n)
{
    return (struct ams_ifaddr){packets_endpoint(v6, n, 0), v6 ? 64 : 24};
}

/* Makes host number `which`.  Return: NULL with *status set. */
static inline struct ams_stack *world_host(struct frame_pool *pool, int which, const struct world_options *options,
                                           uint64_t now, int *status)
{
    uint8_t n = options->same_address ? 1 : (uint8_t)(which + 1);
    struct ams_ifaddr addresses[2] = {world_address(false, n), world_address(true, n)};
    struct ams_stack_config config = {
        .mac = {2, 0, 0, 0, 0, (uint8_t)(which + 1)},
        .seed = {77, (uint64_t)which},
        .addresses = addresses,
        .n_addresses = 2,
        .flags = options->flags,
        .syn_cookies = options->syn_cookies,
    };
    if (options->gateway && which == A) {
        config.gateway4 = packets_endpoint(false, 2, 0);
        config.gateway6 = packets_endpoint(true, 2, 0);
    }
    struct stack_link link = {.mtu = options->mtu ? options->mtu : 1500, .caps = options->caps, .pool = pool};
    return stack_new(&config, &link, now, status);
}

static inline void world_init(struct world *world, struct world_options options)
{
    int status;
    memset(world, 0, sizeof(*world));
    frame_pool_init(&world->pool, options.frames ? options.frames : 4 * STACK_OUT_LIMIT, false);
    world->now = WORLD_START;
    for (int i = 0; i < HOSTS; i++) {
        world->host[i] = world_host(&world->pool, i, &options, world->now, &status);
        CHECK_EQ(status, 0);
    }
}

/* Ends a world and checks that no frame is left behind. */
static inline void world_fini(struct world *world)
{
    for (int i = 0; i < HOSTS; i++)
        stack_free(world->host[i]);
    CHECK_EQ(world->pool.in_use, 0);
    frame_pool_fini(&world->pool);
}

static inline void world_record(struct world *world, int from, const struct ams_frame *frame, uint16_t flags)
{
    if (world->n_trace == WORLD_TRACE)
        return;
    struct world_frame *entry = &world->trace[world->n_trace++];
    entry->from = from;
    entry->at = world->now;
    entry->len = frame->len;
    entry->flags = flags;
    memcpy(entry->data, frame->data, frame->len < sizeof(entry->data) ? frame->len : sizeof(entry->data));
}

/* Carries what one host wants to send to the other.  Return: frames moved. */
static inline int world_carry(struct world *world, int from)
{
    struct ams_tx tx[8];
    static uint8_t heads[8][FRAME_HEADROOM + TX_HEAD_MAX];
    struct ams_frame *frames[8];
    int kept = 0;
    memset(tx, 0, sizeof(tx));
    for (int i = 0; i < 8; i++)
        tx[i].head = heads[i] + FRAME_HEADROOM;
    int n = stack_output(world->host[from], tx, 8, world->now);
    for (int i = 0; i < n; i++) {
        struct ams_frame *frame = frame_new(&world->pool, FRAME_CLASS_LARGE);
        if (!frame)
            continue; /* lost, as a port loses it */
        frame->len = tx_gather(&tx[i], frame->data);
        if (tx[i].flags & TX_CSUM)
            frame->flags |= FRAME_CSUM_OK;
        if (world->filter && !world->filter(world, from, frame->data, frame->len)) {
            frame_free(frame);
            continue;
        }
        world_record(world, from, frame, tx[i].flags);
        frames[kept++] = frame;
    }
    stack_output_done(world->host[from], tx, n);
    stack_input(world->host[1 - from], frames, kept, world->now);
    return n;
}

static inline void world_settle(struct world *world)
{
    for (int round = 0; round < 1000; round++)
        if (world_carry(world, A) + world_carry(world, B) == 0)
            return;
    CHECK(!"the hosts fall silent");
}

/* Lets `ns` pass. */
static inline void world_advance(struct world *world, uint64_t ns)
{
    uint64_t end = world->now + ns;
    for (;;) {
        world_settle(world);
        uint64_t next = end;
        for (int i = 0; i < HOSTS; i++) {
            int32_t events[16 * AMS_EVENT_WORDS];
            while (stack_events(world->host[i], events, 16, NULL, 0) > 0)
                ;
            uint64_t deadline = stack_deadline(world->host[i]);
            CHECK(deadline != 0); /* settled, and events taken */
            next = ams_min_u64(next, ams_max_u64(deadline, world->now + 1));
        }
        world->now = next;
        if (next >= end)
            break;
    }
    world_settle(world);
}

/* Gives host `to` one frame of bytes. */
static inline void world_inject(struct world *world, int to, const uint8_t *data, uint32_t len)
{
    struct ams_frame *frame = frame_new(&world->pool, len > 1900 ? FRAME_CLASS_LARGE : FRAME_CLASS_SMALL);
    CHECK(frame != NULL);
    memcpy(frame->data, data, len);
    frame->len = len;
    stack_input(world->host[to], &frame, 1, world->now);
}

/* Frames in the trace that one host sent with that EtherType. */
static inline int world_count(const struct world *world, int from, uint16_t ethertype)
{
    int count = 0;
    for (uint32_t i = 0; i < world->n_trace; i++)
        count += world->trace[i].from == from && load_be16(world->trace[i].data + 12) == ethertype;
    return count;
}

/* The host's counters. */
static inline struct stack_counters *world_counters(struct world *world, int which)
{
    return &world->host[which]->counters;
}

/* ---- UDP ---------------------------------------------------------------------- */

/* Opens an endpoint of host `which` on its own address. */
static inline int world_udp(struct world *world, int which, bool v6, uint16_t port)
{
    struct ams_endpoint local = packets_endpoint(v6, (uint8_t)(which + 1), port);
    int id = ams_udp_open(world->host[which], &local, NULL, 0);
    CHECK(id >= 0);
    return id;
}

/* A payload of `len` bytes that depends on seed. */
static inline void world_pattern(uint8_t *out, uint32_t len, uint32_t seed)
{
    for (uint32_t i = 0; i < len; i++)
        out[i] = (uint8_t)((i * 2654435761u + seed * 40503u) >> 13);
}

/* Runs a test for IPv4 and for IPv6. */
#define BOTH(v6) for (int v6 = 0; v6 < 2; v6++)

#endif
