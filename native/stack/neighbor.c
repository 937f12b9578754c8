/* SPDX-License-Identifier: BSD-2-Clause
 *
 * neighbor.c - the neighbour cache.
 *
 * Theory of operation.  One entry per next hop, found by a keyed hash of its
 * address, holds the complete Ethernet header for packets to it.  Cached
 * paths point straight at entries; so sending to a reachable neighbour is
 * one comparison (usable_until) and one 16-byte copy.  REACHABLE turns into
 * STALE just by that time passing.
 *
 * The table is bounded.  When it is full a clock hand goes round the entries
 * and recycles the first that was not used since it last passed (LRU, nearly,
 * for the price of one store per packet); gateways stay.  Recycling starts a
 * new path generation.  Entries are not given back to the allocator before
 * the stack ends: neighbor_confirm() relies on it.
 *
 * Packets to a neighbour being resolved wait in the entry (RFC 4861 section
 * 7.2.2): NEIGHBOR_QUEUE_LIMIT and NEIGHBOR_QUEUE_BYTES at most, so that a
 * burst of connects fits; the oldest is dropped.  If nobody answers three
 * solicitations they fail with "host unreachable".
 *
 * Groups and ourselves have entries too, so that a path is always one kind
 * of thing.
 */
#include "stack/neighbor.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/icmp.h"
#include "stack/ip.h"
#include "stack/router.h"
#include "wire/bytes.h"

#define BUCKETS 1024u
/* RFC 4861 section 10. */
#define MAX_PROBES 3u
#define DELAY_FIRST_PROBE (5 * AMS_NS_PER_S)

struct neighbor_table {
    struct neighbor *buckets[BUCKETS];
    struct neighbor *entries[NEIGHBOR_LIMIT];
    uint32_t n_entries;
    uint32_t hand;
};

/* ---- table ----------------------------------------------------------------- */

/* The hash chain of ip. */
static struct neighbor **bucket_of(const struct ams_stack *stack, const uint8_t ip[16])
{
    uint64_t words[2];
    memcpy(words, ip, 16);
    return &stack->neighbors->buckets[siphash13(&stack->key, words, 2) % BUCKETS];
}

struct neighbor *neighbor_find(struct ams_stack *stack, const uint8_t ip[16])
{
    for (struct neighbor *neighbor = *bucket_of(stack, ip); neighbor; neighbor = neighbor->hash_next)
        if (ip_equal(neighbor->ip, ip))
            return neighbor;
    return NULL;
}

/* Detaches the wait queue.  Owns: the caller. */
static struct ams_frame *queue_take(struct neighbor *neighbor)
{
    struct ams_frame *head = neighbor->queue_head;
    neighbor->queue_head = neighbor->queue_tail = NULL;
    neighbor->queued = 0;
    neighbor->queued_bytes = 0;
    return head;
}

/* Frees what waits, and counts it. */
static void queue_drop(struct ams_stack *stack, struct neighbor *neighbor)
{
    struct ams_frame *frame = queue_take(neighbor);
    while (frame) {
        struct ams_frame *next = frame->next;
        stack->counters.neighbor_queue_full++;
        frame_free(frame);
        frame = next;
    }
}

/* Takes an entry out of the table, whole and empty. */
static void entry_clear(struct ams_stack *stack, struct neighbor *neighbor)
{
    timer_cancel(&stack->wheel, &neighbor->timer);
    queue_drop(stack, neighbor);
    if (neighbor->linked) {
        struct neighbor **link = bucket_of(stack, neighbor->ip);
        while (*link != neighbor)
            link = &(*link)->hash_next;
        *link = neighbor->hash_next;
        neighbor->linked = false;
    }
}

/* An entry for a new neighbour: fresh while the limit allows, else recycled. */
static struct neighbor *entry_alloc(struct ams_stack *stack)
{
    struct neighbor_table *table = stack->neighbors;
    if (table->n_entries < NEIGHBOR_LIMIT) {
        struct neighbor *neighbor = mem_zalloc(1, sizeof(*neighbor));
        if (neighbor) {
            neighbor->stack = stack;
            table->entries[table->n_entries++] = neighbor;
        }
        return neighbor;
    }
    /* Two rounds find one: the first clears `used`, and gateways are few. */
    for (uint32_t step = 0; step < 2 * NEIGHBOR_LIMIT + ROUTER_LIMIT + 2; step++) {
        struct neighbor *neighbor = table->entries[table->hand];
        table->hand = (table->hand + 1) % NEIGHBOR_LIMIT;
        if (neighbor->linked && route_is_gateway(stack, neighbor->ip))
            continue;
        if (neighbor->used) {
            neighbor->used = false;
            continue;
        }
        entry_clear(stack, neighbor);
        stack->path_generation++;
        return neighbor;
    }
    AMS_ASSERT(!"a full table has something to recycle");
    return NULL;
}

/* The MAC of a group: broadcast, RFC 1112 section 6.4, RFC 2464 section 7. */
static void group_mac(const struct ams_stack *stack, const uint8_t ip[16], uint8_t mac[ETH_ADDR])
{
    if (!ip_is4(ip)) {
        mac[0] = mac[1] = 0x33;
        memcpy(mac + 2, ip + 12, 4);
    } else if (iface_is_broadcast(stack, ip)) {
        memset(mac, 0xff, ETH_ADDR);
    } else {
        mac[0] = 0x01;
        mac[1] = 0x00;
        mac[2] = 0x5e;
        mac[3] = ip[13] & 0x7f;
        mac[4] = ip[14];
        mac[5] = ip[15];
    }
}

/* Fills an unlinked entry in and links it. */
static void entry_setup(struct ams_stack *stack, struct neighbor *neighbor, const uint8_t ip[16], enum route_kind kind)
{
    memcpy(neighbor->ip, ip, 16);
    neighbor->kind = (uint8_t)kind;
    neighbor->probes = 0;
    neighbor->used = true;
    neighbor->usable_until = 0;
    neighbor->state = NEIGHBOR_IDLE;
    neighbor->timer.kind = STACK_TIMER_NEIGHBOR;
    memset(neighbor->header, 0, sizeof(neighbor->header));
    memcpy(neighbor->header + 6, stack->mac, ETH_ADDR);
    store_be16(neighbor->header + 12, ip_is4(ip) ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6);
    if (kind == ROUTE_GROUP) {
        group_mac(stack, ip, neighbor->header);
        neighbor->state = NEIGHBOR_FIXED;
        neighbor->usable_until = UINT64_MAX;
    } else if (kind == ROUTE_LOOP) {
        memcpy(neighbor->header, stack->mac, ETH_ADDR);
        neighbor->state = NEIGHBOR_LOOP;
    } else if (kind == ROUTE_HAIRPIN) {
        memcpy(neighbor->header, stack->mac, ETH_ADDR);
        neighbor->state = NEIGHBOR_FIXED;
        neighbor->usable_until = UINT64_MAX;
    }
    struct neighbor **bucket = bucket_of(stack, ip);
    neighbor->hash_next = *bucket;
    *bucket = neighbor;
    neighbor->linked = true;
}

struct neighbor *neighbor_get(struct ams_stack *stack, const uint8_t ip[16], enum route_kind kind)
{
    struct neighbor *neighbor = neighbor_find(stack, ip);
    if (neighbor) {
        if (neighbor->kind == kind)
            return neighbor;
        entry_clear(stack, neighbor); /* an address that turned out not to be ours */
        stack->path_generation++;
    } else {
        neighbor = entry_alloc(stack);
        if (!neighbor)
            return NULL;
    }
    entry_setup(stack, neighbor, ip, kind);
    return neighbor;
}

/* ---- states ------------------------------------------------------------------ */

/* Asks for the neighbour once more, and arms the timer for the next time. */
static void solicit(struct ams_stack *stack, struct neighbor *neighbor, bool unicast, uint64_t now)
{
    bool ipv4 = ip_is4(neighbor->ip);
    neighbor->probes++;
    timer_arm(&stack->wheel, &neighbor->timer,
              now + (ipv4 ? NEIGHBOR_RETRANS_MS : stack->retrans_ms6) * AMS_NS_PER_MS);
    if (ipv4)
        arp_solicit(stack, neighbor, unicast);
    else
        ndp_solicit(stack, neighbor, unicast);
}

void neighbor_reachable(struct neighbor *neighbor, uint64_t now)
{
    if (neighbor->state < NEIGHBOR_REACHABLE || neighbor->state > NEIGHBOR_PROBE)
        return; /* no MAC, or none needed */
    struct ams_stack *stack = neighbor->stack;
    neighbor->state = NEIGHBOR_REACHABLE;
    neighbor->probes = 0;
    timer_cancel(&stack->wheel, &neighbor->timer);
    /* RFC 4861 section 6.3.2: MIN_RANDOM_FACTOR 0.5 to MAX_RANDOM_FACTOR 1.5 */
    uint32_t base = ip_is4(neighbor->ip) ? NEIGHBOR_REACHABLE_MS : stack->reachable_ms6;
    neighbor->usable_until = now + (base / 2 + rng_below(&stack->rng, base)) * AMS_NS_PER_MS;
}

/* The MAC is known, but not whether it still answers. */
static void make_stale(struct ams_stack *stack, struct neighbor *neighbor)
{
    neighbor->state = NEIGHBOR_STALE;
    neighbor->usable_until = 0;
    neighbor->probes = 0;
    timer_cancel(&stack->wheel, &neighbor->timer);
}

bool neighbor_refresh(struct neighbor *neighbor, uint64_t now)
{
    switch ((enum neighbor_state)neighbor->state) {
    case NEIGHBOR_REACHABLE: /* its time is over: as STALE */
    case NEIGHBOR_STALE:
        neighbor->state = NEIGHBOR_DELAY;
        timer_arm(&neighbor->stack->wheel, &neighbor->timer, now + DELAY_FIRST_PROBE);
        return true;
    case NEIGHBOR_DELAY:
    case NEIGHBOR_PROBE:
    case NEIGHBOR_FIXED:
        return true;
    case NEIGHBOR_IDLE:
    case NEIGHBOR_INCOMPLETE:
    case NEIGHBOR_LOOP:
        break;
    }
    return false;
}

int neighbor_wait(struct ams_stack *stack, struct neighbor *neighbor, struct ams_frame *frame, uint64_t now)
{
    memcpy(frame->data, neighbor->header, ETH_HEADER);
    if (neighbor->state == NEIGHBOR_LOOP)
        return ip_loop(stack, frame);
    while (neighbor->queued && (neighbor->queued == NEIGHBOR_QUEUE_LIMIT ||
                                neighbor->queued_bytes + frame->capacity > NEIGHBOR_QUEUE_BYTES)) {
        struct ams_frame *oldest = neighbor->queue_head;
        neighbor->queue_head = oldest->next;
        neighbor->queued--;
        neighbor->queued_bytes -= oldest->capacity;
        stack->counters.neighbor_queue_full++;
        frame_free(oldest);
    }
    frame->next = NULL;
    if (neighbor->queue_head)
        neighbor->queue_tail->next = frame;
    else
        neighbor->queue_head = frame;
    neighbor->queue_tail = frame;
    neighbor->queued++;
    neighbor->queued_bytes += frame->capacity;
    if (neighbor->state == NEIGHBOR_IDLE) {
        neighbor->state = NEIGHBOR_INCOMPLETE;
        neighbor->probes = 0;
        solicit(stack, neighbor, false, now);
    }
    return 0;
}

/* Sends a packet another way, now that its next hop does not answer.
 * Consumes frame.  Return: false if there is none: frame is the caller's. */
static bool reroute(struct ams_stack *stack, const struct neighbor *failed, struct ams_frame *frame, uint64_t now)
{
    const uint8_t *packet = frame->data + ETH_HEADER;
    struct ip_path path = {0};
    uint8_t dst[16];
    if (ip_is4(failed->ip))
        ip_map4(dst, packet + 16);
    else
        memcpy(dst, packet + 24, 16);
    if (ip_path_find(stack, dst, &path) < 0 || path.neighbor == failed || path.neighbor->kind != ROUTE_UNICAST)
        return false;
    if (neighbor_ready(path.neighbor, now)) {
        memcpy(frame->data, path.neighbor->header, ETH_HEADER);
        ip_transmit(stack, frame);
    } else {
        neighbor_wait(stack, path.neighbor, frame, now);
    }
    return true;
}

/* Nobody answers: what waits goes by another router if there is one; else it
 * fails, and its senders are told. */
static void neighbor_fail(struct ams_stack *stack, struct neighbor *neighbor, uint64_t now)
{
    neighbor->state = NEIGHBOR_IDLE;
    neighbor->usable_until = 0;
    stack->counters.neighbor_failed++;
    struct icmp_error error = {.status = -AMS_EHOSTUNREACH};
    struct ams_frame *frame = queue_take(neighbor); /* telling may use the entry again */
    bool elsewhere = router_failed(stack, neighbor->ip, now);
    while (frame) {
        struct ams_frame *next = frame->next;
        if (elsewhere && reroute(stack, neighbor, frame, now)) {
            frame = next;
            continue;
        }
        icmp_report(stack, frame->data + ETH_HEADER, frame->len - ETH_HEADER, &error, now);
        frame_free(frame);
        frame = next;
    }
}

void neighbor_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    struct neighbor *neighbor = AMS_CONTAINER_OF(timer, struct neighbor, timer);
    if (neighbor->state == NEIGHBOR_DELAY) {
        neighbor->state = NEIGHBOR_PROBE;
        neighbor->probes = 0;
    }
    if (neighbor->state != NEIGHBOR_INCOMPLETE && neighbor->state != NEIGHBOR_PROBE)
        return;
    if (neighbor->probes < MAX_PROBES)
        solicit(stack, neighbor, neighbor->state == NEIGHBOR_PROBE, now);
    else
        neighbor_fail(stack, neighbor, now);
}

/* ---- news ---------------------------------------------------------------------- */

/* Sends what waited for the MAC. */
static void queue_flush(struct ams_stack *stack, struct neighbor *neighbor)
{
    struct ams_frame *frame = queue_take(neighbor);
    while (frame) {
        struct ams_frame *next = frame->next;
        memcpy(frame->data, neighbor->header, ETH_HEADER);
        ip_transmit(stack, frame);
        frame = next;
    }
}

void neighbor_learn(struct ams_stack *stack, const uint8_t ip[16], const uint8_t mac[ETH_ADDR],
                    enum neighbor_news news, uint64_t now)
{
    if (!eth_is_station(mac))
        return;
    struct neighbor *neighbor = neighbor_find(stack, ip);
    if (!neighbor) {
        if (news != NEIGHBOR_ASKED)
            return;
        neighbor = neighbor_get(stack, ip, ROUTE_UNICAST);
        if (!neighbor)
            return;
    }
    if (neighbor->kind != ROUTE_UNICAST)
        return;
    bool known = neighbor->state >= NEIGHBOR_REACHABLE;
    bool changed = !known || !eth_equal(neighbor->header, mac);
    if (neighbor->state == NEIGHBOR_IDLE && news == NEIGHBOR_OVERHEARD)
        return; /* nobody needs it */
    memcpy(neighbor->header, mac, ETH_ADDR);
    if (changed)
        make_stale(stack, neighbor);
    if (news == NEIGHBOR_ANSWERED) {
        neighbor_reachable(neighbor, now);
        router_answered(stack, ip);
    }
    if (!known)
        queue_flush(stack, neighbor);
}

int ams_stack_neighbor(struct ams_stack *stack, const struct ams_endpoint *address, uint8_t *mac, uint64_t now)
{
    uint8_t next[16];
    enum route_kind kind;
    stack->now = now = ams_max_u64(stack->now, now);
    if (route_next_hop(stack, address->ip, next, &kind) < 0 || kind != ROUTE_UNICAST || !ip_equal(next, address->ip))
        return -AMS_EHOSTUNREACH;
    struct neighbor *neighbor = neighbor_get(stack, next, kind);
    if (!neighbor)
        return -AMS_ENOMEM;
    if (neighbor_ready(neighbor, now)) {
        memcpy(mac, neighbor->header, ETH_ADDR);
        return 1;
    }
    if (neighbor->state == NEIGHBOR_IDLE) {
        neighbor->state = NEIGHBOR_INCOMPLETE;
        neighbor->probes = 0;
        solicit(stack, neighbor, false, now);
    }
    return 0;
}

void neighbor_announce(struct ams_stack *stack, const struct iface_addr *addr)
{
    if (ip_is_loopback(addr->ip))
        return;
    if (addr->family == AMS_IPV4)
        arp_announce(stack, addr);
    else
        ndp_announce(stack, addr);
}

/* ---- life cycle ------------------------------------------------------------------ */

int neighbor_init(struct ams_stack *stack)
{
    stack->neighbors = mem_zalloc(1, sizeof(*stack->neighbors));
    return stack->neighbors ? 0 : -AMS_ENOMEM;
}

void neighbor_fini(struct ams_stack *stack)
{
    struct neighbor_table *table = stack->neighbors;
    if (!table)
        return;
    for (uint32_t i = 0; i < table->n_entries; i++) {
        entry_clear(stack, table->entries[i]);
        mem_free(table->entries[i]);
    }
    mem_free(table);
    stack->neighbors = NULL;
}

uint64_t neighbor_memory(const struct ams_stack *stack)
{
    return sizeof(struct neighbor_table) + stack->neighbors->n_entries * sizeof(struct neighbor);
}
