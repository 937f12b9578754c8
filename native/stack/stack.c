/* SPDX-License-Identifier: BSD-2-Clause
 *
 * stack.c - life cycle of a stack, its verbs, and the queue of whole frames.
 *
 * Theory of operation.  stack_input() sorts received frames by EtherType and
 * lets each run up through the layers to the end; nothing is put off.  TCP may
 * take what follows in the batch along with a segment (tcp_train.c).
 * stack_output() runs the timers that are due, then hands out first the
 * whole frames that wait in `out`, then what TCP builds.
 *
 * Frames to our own addresses never reach the link: they wait in the loop
 * queue and are received at the next stack_output(), which goes round until
 * a conversation with ourselves has nothing more to say or the caller's
 * descriptors are used up.
 *
 * All secrets are made from the seed by SipHash with a number each, so that
 * none can be told from another (the MAC is visible to everybody).
 */
#include <string.h>

#include "core/alloc.h"
#include "stack/multicast.h"
#include "stack/icmp.h"
#include "stack/iface.h"
#include "stack/ip.h"
#include "stack/neighbor.h"
#include "stack/reass.h"
#include "stack/router.h"
#include "stack/udp.h"
#include "wire/bytes.h"
#include "wire/eth.h"

/* How often caches are trimmed while there is something to do. */
#define TRIM_INTERVAL 1000000000u

/* Timers per call: those beyond have the deadline pass, and wait for the next
 * one, so that frames are not kept waiting for all of them. */
#define TIMER_WORK 512u

/* Rounds of talking to ourselves per stack_output(). */
#define LOOP_ROUNDS 64

/* ---- configuration ------------------------------------------------------------- */

enum seed_use { SEED_KEY0, SEED_KEY1, SEED_RNG0, SEED_RNG1, SEED_MAC, SEED_IDS, SEED_AUTOCONF0, SEED_AUTOCONF1 };

/* 64 secret bits for one use, from the configured seed. */
static uint64_t derive(const struct ams_stack_config *config, enum seed_use use)
{
    struct siphash_key seed = {.k = {config->seed[0], config->seed[1]}};
    uint64_t word = use;
    return siphash24(&seed, &word, 1);
}

/* A locally administered unicast address (IEEE 802 section 8.2). */
static void make_mac(const struct ams_stack_config *config, uint8_t mac[ETH_ADDR])
{
    if (eth_is_station(config->mac)) {
        memcpy(mac, config->mac, ETH_ADDR);
        return;
    }
    uint64_t word = derive(config, SEED_MAC);
    memcpy(mac, &word, ETH_ADDR);
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 2);
}

#define DEFAULT_TO(field, value) \
    do {                         \
        if (!(field))            \
            (field) = (value);   \
    } while (0)

/* Copies the configuration, fills in the header's defaults, and checks it.
 * Return: 0, -AMS_EINVAL, -AMS_ENOMEM. */
static int config_copy(struct ams_stack *stack, const struct ams_stack_config *config)
{
    struct ams_stack_config *own = &stack->config;
    *own = *config;
    own->addresses = NULL;
    own->congestion = NULL;
    if (eth_is_group(config->mac) || (config->n_addresses && !config->addresses))
        return -AMS_EINVAL;
    DEFAULT_TO(own->max_endpoints, 1u << 20);
    DEFAULT_TO(own->time_wait_ms, 60000);
    DEFAULT_TO(own->max_time_wait, 65536);
    DEFAULT_TO(own->rto_min_ms, 200);
    DEFAULT_TO(own->delack_ms, 40);
    DEFAULT_TO(own->ephemeral_low, 32768);
    DEFAULT_TO(own->ephemeral_high, 60999);
    if (!own->autoconf_key[0] && !own->autoconf_key[1]) {
        own->autoconf_key[0] = derive(config, SEED_AUTOCONF0);
        own->autoconf_key[1] = derive(config, SEED_AUTOCONF1);
    }
    if (own->ephemeral_low > own->ephemeral_high || own->max_endpoints > INT32_MAX)
        return -AMS_EINVAL;

    const char *congestion = config->congestion ? config->congestion : "cubic";
    size_t name_size = strlen(congestion) + 1;
    char *name = mem_alloc(name_size);
    struct ams_ifaddr *addresses = mem_zalloc(config->n_addresses + 1, sizeof(*addresses));
    if (!name || !addresses) {
        mem_free(name);
        mem_free(addresses);
        return -AMS_ENOMEM;
    }
    memcpy(name, congestion, name_size);
    if (config->n_addresses)
        memcpy(addresses, config->addresses, config->n_addresses * sizeof(*addresses));
    own->congestion = name;
    own->addresses = addresses;
    return 0;
}

/* Frees the copies that config_copy() made. */
static void config_fini(struct ams_stack *stack)
{
    mem_free((void *)(uintptr_t)stack->config.congestion);
    mem_free((void *)(uintptr_t)stack->config.addresses);
}

/* ---- life cycle ------------------------------------------------------------------ */

struct module {
    int (*init)(struct ams_stack *stack);
    void (*fini)(struct ams_stack *stack);
};

static const struct module modules[] = {
    {iface_init, iface_fini}, {multicast_init, multicast_fini}, {route_init, route_fini}, {neighbor_init, neighbor_fini},
    {router_init, router_fini}, {redirect_init, redirect_fini},
    {reass_init, reass_fini}, {udp_init, udp_fini},     {tcp_init, tcp_fini},
};

/* Undoes the first n module inits, in reverse, and frees what is left. */
static void unwind(struct ams_stack *stack, size_t n)
{
    while (n-- > 0)
        modules[n].fini(stack);
    struct ams_frame *queues[] = {stack->out_head, stack->loop_head};
    for (size_t i = 0; i < AMS_ARRAY_SIZE(queues); i++) {
        while (queues[i]) {
            struct ams_frame *next = queues[i]->next;
            frame_free(queues[i]);
            queues[i] = next;
        }
    }
    mem_free(stack->socks);
    mem_free(stack->sock_links);
    config_fini(stack);
    mem_free(stack);
}

/* The owner of a stack that is alone: it may use what it likes. */
static int claim_freely(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    (void)ctx, (void)protocol, (void)local;
    return 0;
}

static void release_freely(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    (void)ctx, (void)protocol, (void)local;
}

/* Sets the fields that belong to no module. */
static int stack_setup(struct ams_stack *stack, const struct ams_stack_config *config, const struct stack_link *link,
                       uint64_t now)
{
    stack->pool = link->pool;
    stack->caps = link->caps;
    stack->link_flags = link->flags | (config->flags & AMS_STACK_HAIRPIN ? STACK_LINK_HAIRPIN : 0) |
                        (config->flags & AMS_STACK_QUIET ? STACK_LINK_QUIET : 0);
    stack->settle = link->settle;
    stack->owner = link->owner.claim ? link->owner
                                     : (struct ams_owner){.claim = claim_freely, .release = release_freely};
    stack->mtu = config->mtu ? ams_min_u32(config->mtu, link->mtu) : link->mtu;
    stack->now = now;
    stack->path_generation = 1; /* a zeroed path is never valid */
    stack->free_sock = -1;
    stack->out_limit = STACK_OUT_LIMIT;
    bucket_init(&stack->icmp_errors, ICMP_BURST, now);
    make_mac(config, stack->mac);
    stack->key.k[0] = derive(config, SEED_KEY0);
    stack->key.k[1] = derive(config, SEED_KEY1);
    rng_init(&stack->rng, derive(config, SEED_RNG0), derive(config, SEED_RNG1));
    struct ams_rng ids;
    rng_init(&ids, derive(config, SEED_IDS), 0);
    for (size_t i = 0; i < STACK_IP_IDS; i++)
        stack->ip_ids[i] = (uint32_t)rng_next(&ids);
    timer_wheel_init(&stack->wheel, now);
    int status = config_copy(stack, config);
    if (status < 0)
        return status;
    stack->socks_limit = stack->config.max_endpoints;
    return stack->mtu < IP4_MIN_MTU || stack->mtu > 65535 ? -AMS_EINVAL : 0;
}

struct ams_stack *stack_new(const struct ams_stack_config *config, const struct stack_link *link, uint64_t now,
                            int *status)
{
    struct ams_stack *stack = mem_zalloc(1, sizeof(*stack));
    if (!stack) {
        *status = -AMS_ENOMEM;
        return NULL;
    }
    size_t done = 0;
    *status = stack_setup(stack, config, link, now);
    while (*status == 0 && done < AMS_ARRAY_SIZE(modules)) {
        *status = modules[done].init(stack);
        if (*status == 0)
            done++;
    }
    if (*status < 0) {
        unwind(stack, done);
        return NULL;
    }
    iface_start(stack, now);
    router_start(stack, now);
    return stack;
}

void stack_free(struct ams_stack *stack)
{
    if (stack)
        unwind(stack, AMS_ARRAY_SIZE(modules));
}

void stack_abort_all(struct ams_stack *stack, uint64_t now)
{
    stack->now = ams_max_u64(stack->now, now);
    stack->out_limit = UINT32_MAX; /* one RST each; nothing comes after it */
    tcp_abort_all(stack);
}

void stack_link_lost(struct ams_stack *stack, int status, uint64_t now)
{
    stack->now = ams_max_u64(stack->now, now);
    tcp_drop_all(stack, status);
}

/* ---- received frames ---------------------------------------------------------------- */

/* Receives one frame.  Consumes it. */
static inline void input_frame(struct ams_stack *stack, struct ams_frame *frame, uint64_t now)
{
    struct eth_repr eth;
    stack->counters.rx_frames++;
    if (AMS_UNLIKELY(eth_parse(frame->data, frame->len, &eth) != WIRE_OK)) {
        stack->counters.rx_short++;
        frame_free(frame);
        return;
    }
    struct ip_arrival arrival = {.group = eth_is_group(eth.dst)};
    if (AMS_UNLIKELY(!arrival.group && !eth_equal(eth.dst, stack->mac))) {
        stack->counters.rx_not_for_us++;
        frame_free(frame);
        return;
    }
    frame->next = NULL;
    switch (eth.type) {
    case ETHERTYPE_IPV4:
        ip4_input(stack, frame, arrival, now);
        return;
    case ETHERTYPE_IPV6:
        ip6_input(stack, frame, arrival, now);
        return;
    case ETHERTYPE_ARP:
        arp_input(stack, frame, &eth, now);
        return;
    default:
        stack->counters.rx_bad_ethertype++;
        frame_free(frame);
    }
}

void stack_input(struct ams_stack *stack, struct ams_frame **frames, int n, uint64_t now)
{
    struct tcp_ahead ahead;
    stack->now = ams_max_u64(stack->now, now);
    stack->rx_next = frames;
    stack->rx_end = frames + n;
    tcp_ahead_begin(stack, &ahead, frames, n);
    while (stack->rx_next < stack->rx_end) {
        int next = (int)(stack->rx_next - frames);
        if (AMS_UNLIKELY(next >= ahead.next))
            tcp_ahead_run(stack, &ahead, next);
        struct ams_frame *frame = *stack->rx_next++;
        if (stack->rx_next < stack->rx_end)
            AMS_PREFETCH((*stack->rx_next)->data);
        input_frame(stack, frame, stack->now); /* and perhaps some behind it (tcp_train.c) */
    }
}

/* ---- frames to send -------------------------------------------------------------------- */

int stack_enqueue(struct ams_stack *stack, struct ams_frame *frame)
{
    if (AMS_UNLIKELY(stack->out_count >= stack->out_limit)) {
        stack->counters.out_queue_full++;
        frame_free(frame);
        return -AMS_EAGAIN;
    }
    frame->next = NULL;
    if (stack->out_head)
        stack->out_tail->next = frame;
    else
        stack->out_head = frame;
    stack->out_tail = frame;
    stack->out_count++;
    return 0;
}

/* Takes one whole frame off `out` and describes it. */
static void output_frame(struct ams_stack *stack, struct ams_tx *tx)
{
    struct ams_frame *frame = stack->out_head;
    stack->out_head = frame->next;
    stack->out_count--;
    frame->next = NULL;
    tx->head = frame->data;
    tx->head_len = tx->total = frame->len;
    tx->flags = frame->marks & (TX_CSUM | TX_GSO4 | TX_GSO6);
    tx->csum_start = frame->aux16;
    tx->csum_offset = (uint16_t)(frame->aux >> 16);
    tx->gso_size = frame->gso_size;
    tx->gso_hdr_len = (uint16_t)frame->aux;
    tx->n_frags = 0;
    tx->owned = frame;
}

/* Gives back what a burst has left in the caches: a part of it each second, all when nobody is connected any more.
 * An idle stack isn't woken up for that. */
static void stack_trim(struct ams_stack *stack)
{
    bool all = stack->trim_at == 0;
    stack->trim_at = stack->now + TRIM_INTERVAL;
    frame_pool_trim(stack->pool, all);
    tcp_trim(stack, all);
}

int stack_output(struct ams_stack *stack, struct ams_tx *tx, int n, uint64_t now)
{
    int count = 0;
    stack_timers(stack, now);
    if (AMS_UNLIKELY(stack->now >= stack->trim_at))
        stack_trim(stack);
    for (int round = 0; round < LOOP_ROUNDS; round++) {
        ip_loop_run(stack, stack->now);
        while (stack->out_head && count < n)
            output_frame(stack, &tx[count++]);
        if (count < n && tcp_output_pending(stack))
            count += tcp_output(stack, tx + count, n - count, stack->now);
        /* TCP may have asked for a neighbour, or talked to ourselves. */
        if (count == n || (!stack->loop_head && !stack->out_head))
            break;
    }
    return count;
}

void stack_output_done(struct ams_stack *stack, struct ams_tx *tx, int n)
{
    tcp_output_done(stack);
    for (int i = 0; i < n; i++) {
        frame_free(tx[i].owned);
        tx[i].owned = NULL;
    }
}

/* ---- time ---------------------------------------------------------------------------------- */

void stack_timers(struct ams_stack *stack, uint64_t now)
{
    struct ams_timer *timer;
    uint32_t work = TIMER_WORK;
    stack->now = ams_max_u64(stack->now, now);
    while ((timer = timer_pop(&stack->wheel, stack->now, &work)) != NULL) {
        tcp_timer_fetch(timer_ahead(timer)); /* nearly all are TCP's */
        switch ((enum stack_timer_kind)timer->kind) {
        case STACK_TIMER_TCP:
            tcp_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_TCP_TW:
            tcp_tw_expired(stack, timer);
            break;
        case STACK_TIMER_NEIGHBOR:
            neighbor_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_REASS:
            reass_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_IFACE:
            iface_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_ROUTE:
            route_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_MULTICAST:
            multicast_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_ROUTER:
            router_timer_expired(stack, timer, stack->now);
            break;
        case STACK_TIMER_REDIRECT:
            redirect_timer_expired(stack, timer, stack->now);
            break;
        }
    }
}

/* Events that wait to be reported are a reason to be called, too: timers
 * and traffic with ourselves make them during stack_output(). */
uint64_t stack_deadline(struct ams_stack *stack)
{
    if (stack->out_head || stack->loop_head || stack->ready_head || tcp_output_pending(stack))
        return 0;
    return timer_wheel_deadline(&stack->wheel);
}

int stack_ephemeral(struct ams_stack *stack, bool more, uint32_t *low, uint32_t *range)
{
    const struct ams_owner *owner = &stack->owner;
    struct ams_stack_config *config = &stack->config;

    if (owner->lend && (more || !stack->borrowed)) {
        int status = owner->lend(owner->ctx, &config->ephemeral_low, &config->ephemeral_high);
        if (status < 0)
            return status;
        AMS_ASSERT(config->ephemeral_low && config->ephemeral_low <= config->ephemeral_high);
        stack->borrowed = true;
    } else if (more) {
        return -AMS_EADDRNOTAVAIL;
    }
    *low = config->ephemeral_low;
    *range = config->ephemeral_high - config->ephemeral_low + 1u;
    return 0;
}

/* ---- what the node and the application ask ---------------------------------------------------- */

const uint8_t *stack_mac(const struct ams_stack *stack)
{
    return stack->mac;
}

const char *stack_counter_name(int index)
{
    static const char *const names[] = {
#define COUNTER_NAME(name) "stack." #name,
        STACK_COUNTER_TABLE(COUNTER_NAME)
#undef COUNTER_NAME
    };
    return index >= 0 && (size_t)index < AMS_ARRAY_SIZE(names) ? names[index] : NULL;
}

int stack_counter_values(const struct ams_stack *stack, uint64_t *values, int max)
{
    int count = 0;
#define COUNTER_VALUE(name)                             \
    if (count < max)                                    \
        values[count] = stack->counters.name;           \
    count++;
    STACK_COUNTER_TABLE(COUNTER_VALUE)
#undef COUNTER_VALUE
    return count;
}

int ams_stack_owns(struct ams_stack *stack, const struct ams_endpoint *address)
{
    return ip_is_any(address->ip) || iface_may_bind(stack, address->ip);
}

int ams_stack_routes(struct ams_stack *stack, const struct ams_endpoint *address)
{
    uint8_t next[16];
    enum route_kind kind;
    return route_next_hop(stack, address->ip, next, &kind) == 0;
}

int ams_stack_frames(struct ams_stack *stack)
{
    return (int)stack->pool->in_use;
}

int ams_stack_endpoints(struct ams_stack *stack)
{
    return (int)stack->socks_used;
}

uint64_t ams_stack_memory(struct ams_stack *stack)
{
    return sizeof(*stack) + stack->n_socks * (sizeof(*stack->socks) + sizeof(*stack->sock_links)) +
           neighbor_memory(stack) + router_memory(stack) + redirect_memory(stack) + multicast_memory(stack) +
           reass_memory(stack) + udp_memory(stack) + tcp_memory(stack) + stack->pool->bytes;
}

int ams_stack_list(struct ams_stack *stack, struct ams_tcp_info *out, int max, uint64_t now)
{
    int count = tcp_list(stack, out, max, now);
    int written = count < max ? count : max;
    return count + udp_list(stack, out ? out + written : NULL, max - written);
}
