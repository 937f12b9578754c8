/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bench_switch.c - how many frames a fabric moves, and how fast.
 *
 * Theory of operation.  A fabric with its thread on one core; on another core
 * one thread that is all clients at once: it goes round the ports, takes what
 * has arrived, and fills up to BENCH_BURST free slots.  It works on the rings
 * themselves, as a stack's driver would: writes each frame's headers, reads
 * the first bytes of each frame received, publishes an index once per burst,
 * kicks where a bell is armed.
 *
 * Each port owns one UDP tuple of the one address.  Ports send to their
 * neighbour (1 to 2, 2 to 1, 3 to 4, ...), or, spread, each frame to another
 * port in turn.
 *
 * Latency is taken from *probes*: every BENCH_STRIDE-th frame, or every one
 * where few are sent, carries a number in its payload (0: it is no probe), and
 * its port notes when that number was sent.  So a lost probe makes no other's
 * time wrong; it is counted.  A limited rate is a bucket that holds BENCH_BURST
 * frames: a load that was not on its core for a while doesn't send later in
 * one go what it missed, which would be an overload, and not the rate asked
 * for.  At the end the load waits until nothing is under way any more.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/fabric.h"
#include "io/wait.h"
#include "wire/bytes.h"
#include "wire/proto.h"

#define BENCH_BURST 32u
#define BENCH_STRIDE 16u         /* frames to a probe */
#define BENCH_FEW 1000000u       /* frames a second up to which each one is a probe */
#define BENCH_STAMPS 4096u       /* probes whose time a port remembers; a power of two */
#define BENCH_SAMPLES (1u << 17) /* the last ones are kept */
#define BENCH_HEAD 64u           /* bytes that are written anew for each frame */
#define BENCH_PROBE 62u          /* where a probe's number is: payload in both families */
#define BENCH_PORT 10000u
#define BENCH_PATIENCE_NS (10 * AMS_NS_PER_S) /* for the first frame, where others take the cores */
#define BENCH_WARM_NS (50 * AMS_NS_PER_MS)
#define BENCH_DRAIN_NS (2 * AMS_NS_PER_MS)    /* nothing arrived for so long: nothing is under way */

/* A probe under way.  Probe n has number n % UINT16_MAX + 1 in its frame. */
struct bench_stamp {
    uint64_t time;               /* when it was sent; 0: it has arrived, or never was */
    uint64_t number;
};

struct bench_port {
    struct ring_region region;
    int kick_fd;
    int notify_fd;
    uint32_t peer;               /* the neighbour; or, spread, the next one */
    uint64_t sent;
    uint32_t probes;             /* sent */
    struct bench_stamp *stamps;  /* BENCH_STAMPS of them, by a probe's number */
};

struct bench {
    const struct ams_bench_switch_plan *plan;
    struct ams_fabric *fabric;
    struct bench_port *ports;
    uint8_t (*heads)[BENCH_HEAD]; /* the first bytes of a frame from each port */
    struct bench_stamp *stamps;  /* all ports' */
    uint32_t *samples;
    uint32_t stride;             /* frames to a probe; 0: none */
    uint64_t sent;               /* frames, and below probes, while it counted */
    uint64_t probes, arrived;
    uint64_t began;              /* when it began to count; 0: not yet */
    uint64_t moved;              /* frames received while it counted */
    uint64_t elapsed;
    uint64_t polled;             /* ns in the switch, without a thread */
    uint64_t touched;            /* keeps the reads */
};

/* ---- frames ------------------------------------------------------------------------ */

static struct ams_endpoint bench_local(const struct bench *bench, uint32_t port)
{
    struct ams_endpoint local = {.port = (uint16_t)(BENCH_PORT + port)};
    static const uint8_t v4[4] = {10, 0, 0, 1};

    local.family = bench->plan->v6 ? AMS_IPV6 : AMS_IPV4;
    if (bench->plan->v6) {
        local.ip[0] = 0xfd;
        local.ip[15] = 1;
    } else {
        ip_map4(local.ip, v4);
    }
    return local;
}

/* Writes the headers of a port's frames, but for the destination port. */
static void bench_head(const struct bench *bench, uint32_t port)
{
    uint8_t *head = bench->heads[port], *ip = head + ETH_HEADER, *udp;
    struct ams_endpoint local = bench_local(bench, port);
    uint32_t size = bench->plan->size;

    memset(head, 0, BENCH_HEAD);
    memcpy(head, bench->fabric->sw.mac, 6);
    memcpy(head + 6, bench->fabric->sw.mac, 6);
    store_be16(head + 12, bench->plan->v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
    if (bench->plan->v6) {
        ip[0] = 0x60;
        store_be16(ip + 4, size - ETH_HEADER - IP6_HEADER);
        ip[6] = PROTO_UDP;
        ip[7] = 64;
        memcpy(ip + 8, local.ip, 16);
        memcpy(ip + 24, local.ip, 16);
        udp = ip + IP6_HEADER;
        store_be16(udp + 4, size - ETH_HEADER - IP6_HEADER);
    } else {
        ip[0] = 0x45;
        store_be16(ip + 2, size - ETH_HEADER);
        ip[8] = 64;
        ip[9] = PROTO_UDP;
        memcpy(ip + 12, local.ip + 12, 4);
        memcpy(ip + 16, local.ip + 12, 4);
        udp = ip + IP4_HEADER;
        store_be16(udp + 4, size - ETH_HEADER - IP4_HEADER);
    }
    store_be16(udp, local.port);
}

/* Offset of the destination port. */
static uint32_t bench_dport(const struct bench *bench)
{
    return ETH_HEADER + (bench->plan->v6 ? IP6_HEADER : IP4_HEADER) + 2;
}

/* ---- one port's turn ------------------------------------------------------------------ */

/* Reads a frame that may be a probe, and takes its time. */
static void bench_probe(struct bench *bench, const uint8_t *data, uint64_t now)
{
    uint32_t number = load_be16(data + BENCH_PROBE), from = load_be16(data + bench_dport(bench) - 2) - BENCH_PORT;

    if (!number || from >= bench->plan->ports)
        return;
    struct bench_stamp *stamp = &bench->ports[from].stamps[number % BENCH_STAMPS];
    if (stamp->number != number || !stamp->time)
        return;
    if (bench->began && stamp->time >= bench->began) {
        bench->samples[bench->arrived++ % BENCH_SAMPLES] = (uint32_t)ams_min_u64(now - stamp->time, UINT32_MAX);
    }
    stamp->time = 0;
}

/* Takes what has arrived. */
static uint32_t bench_receive(struct bench *bench, uint32_t number)
{
    struct ring *rx = &bench->ports[number].region.rx;
    uint32_t n = ring_user_refresh(rx);

    if (!n)
        return 0;
    uint64_t now = bench->stride ? ams_clock_now() : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct ring_item item;
        const uint8_t *data = ring_extract(rx, &item);
        uint64_t word;
        if (!data)
            continue;
        memcpy(&word, data, sizeof(word));
        bench->touched += word;
        if (now)
            bench_probe(bench, data, now);
    }
    ring_user_pull(rx);
    return n;
}

/* Makes the frame that is sent next a probe if it is its turn. */
static void bench_mark(struct bench *bench, struct bench_port *port, uint8_t *data, uint64_t now)
{
    if (port->sent % bench->stride)
        return;
    uint32_t number = port->probes++ % UINT16_MAX + 1;
    store_be16(data + BENCH_PROBE, number);
    port->stamps[number % BENCH_STAMPS] = (struct bench_stamp){now, number};
    bench->probes++;
}

/* Sends up to n frames. */
static uint32_t bench_send(struct bench *bench, uint32_t number, uint32_t n)
{
    struct bench_port *port = &bench->ports[number];
    struct ring *tx = &port->region.tx;
    uint32_t room = ring_avail(tx), dport = bench_dport(bench);
    uint64_t one = 1;

    if (room < n)
        room = ring_user_refresh(tx);
    n = ams_min_u32(n, room);
    if (!n)
        return 0;
    uint64_t now = bench->stride ? ams_clock_now() : 0;
    for (uint32_t i = 0; i < n; i++) {
        struct ring_item item;
        uint8_t *data = ring_peek(tx, &item);
        AMS_ASSERT(data);
        memcpy(data, bench->heads[number], BENCH_HEAD);
        store_be16(data + dport, BENCH_PORT + port->peer);
        if (bench->plan->spread)
            port->peer = port->peer + 1 < bench->plan->ports ? port->peer + 1 : 0;
        if (now)
            bench_mark(bench, port, data, now);
        port->sent++;
        ring_insert(tx, item, bench->plan->size, 0);
    }
    ring_user_push(tx);
    ring_fence();
    if (ring_bell_due(port->region.device_bell, RING_WAKE_TX) && write(port->kick_fd, &one, sizeof(one)) < 0)
        return n; /* readable as can be */
    return n;
}

/* Frames that may be sent at a rate. */
struct bench_bucket {
    double tokens;
    uint64_t filled;             /* when */
};

/* How many frames may be sent now. */
static uint32_t bench_allowance(const struct bench *bench, struct bench_bucket *bucket, uint64_t now)
{
    const struct ams_bench_switch_plan *plan = bench->plan;
    double most = (double)BENCH_BURST * plan->ports;

    if (!plan->rate)
        return UINT32_MAX;
    bucket->tokens += (double)plan->rate * (double)(now - bucket->filled) / 1e9;
    bucket->filled = now;
    if (bucket->tokens > most)
        bucket->tokens = most;
    return (uint32_t)bucket->tokens;
}

/* Lets the switch work where it has no thread of its own. */
static void bench_poll(struct bench *bench)
{
    uint64_t start = ams_clock_now();

    while (ams_fabric_poll(bench->fabric, AMS_NOW) > 0)
        ;
    bench->polled += ams_clock_now() - start;
}

/* Lets each port receive, and send its share of what is allowed.
 * Return: how many frames were sent. */
static uint32_t bench_round(struct bench *bench, uint32_t allowed)
{
    uint32_t sent = 0;

    for (uint32_t i = 0; i < bench->plan->ports; i++) {
        bench->moved += bench_receive(bench, i);
        sent += bench_send(bench, i, ams_min_u32(allowed - sent, BENCH_BURST));
    }
    if (!bench->plan->threaded)
        bench_poll(bench);
    bench->sent += sent;
    return sent;
}

/* Receives until nothing is under way any more. */
static void bench_drain(struct bench *bench)
{
    uint64_t last = ams_clock_now();

    for (uint64_t now = last; now - last < BENCH_DRAIN_NS; now = ams_clock_now()) {
        uint64_t before = bench->moved;
        bench_round(bench, 0);
        if (bench->moved != before)
            last = now;
    }
}

/* Loads the switch for the plan's time.  The first moments don't count. */
static void *bench_main(void *arg)
{
    struct bench *bench = arg;
    const struct ams_bench_switch_plan *plan = bench->plan;
    uint64_t start = ams_clock_now(), now = start;
    struct bench_bucket bucket = {.filled = start};

    while (!bench->began || now - bench->began < plan->duration_ms * AMS_NS_PER_MS ||
           (!bench->moved && now - bench->began < BENCH_PATIENCE_NS)) {
        bucket.tokens -= bench_round(bench, bench_allowance(bench, &bucket, now));
        now = ams_clock_now();
        if (!bench->began && now - start >= BENCH_WARM_NS) {
            bench->began = now;
            bench->moved = bench->polled = bench->sent = bench->probes = 0;
        }
    }
    bench->elapsed = ams_max_u64(now - bench->began, 1);
    uint64_t moved = bench->moved;
    if (bench->stride)
        bench_drain(bench);
    bench->moved = moved;
    return NULL;
}

/* ---- setting up ------------------------------------------------------------------------- */

/* Attaches one port and claims its tuple. */
static int bench_attach(struct bench *bench, uint32_t number)
{
    struct bench_port *port = &bench->ports[number];
    struct ams_endpoint local = bench_local(bench, number);
    struct ams_fabric_link link;
    int status = ams_fabric_attach(bench->fabric, NULL, &link);

    port->region.fd = port->kick_fd = port->notify_fd = -1;
    if (status < 0)
        return status;
    port->kick_fd = link.kick_fd;
    port->notify_fd = link.notify_fd;
    status = ring_region_open(&port->region, link.memory_fd);
    close(link.memory_fd);
    if (!status)
        status = ams_fabric_claim(bench->fabric, link.index, PROTO_UDP, &local, 0);
    if (status)
        return status;
    ring_bell_disarm(port->region.user_bell); /* it never sleeps */
    port->peer = bench->plan->spread ? (number + 1) % bench->plan->ports : number ^ (bench->plan->ports > 1);
    port->stamps = bench->stamps + (bench->stride ? (size_t)number * BENCH_STAMPS : 0);
    bench_head(bench, number);
    for (uint32_t i = 0; i < port->region.tx.num_slots; i++) { /* payload is written once */
        uint8_t *data = ring_buffer(&port->region.tx, ring_load(&port->region.tx.slots[i]).buf_idx);
        memset(data, 0x5a, bench->plan->size);
    }
    return 0;
}

static int bench_open(struct bench *bench, char *error, size_t error_size)
{
    const struct ams_bench_switch_plan *plan = bench->plan;
    struct ams_fabric_config config = {.cpu = plan->switch_cpu, .max_clients = plan->ports, .tx_slots = plan->slots,
                                       .rx_slots = plan->slots, .spin_us = 1000,
                                       .mtu = ams_max_u32(1500, plan->size - ETH_HEADER)};
    struct ams_ifaddr address = {.prefix_len = plan->v6 ? 64 : 24};
    int status = ams_fabric_new(&bench->fabric, &config, error, error_size);

    if (status)
        return status;
    address.address = bench_local(bench, 0);
    status = ams_fabric_add_address(bench->fabric, &address);
    for (uint32_t i = 0; i < plan->ports && !status; i++)
        status = bench_attach(bench, i);
    return status;
}

static void bench_close(struct bench *bench)
{
    for (uint32_t i = 0; bench->ports && i < bench->plan->ports; i++) {
        struct bench_port *port = &bench->ports[i];
        if (!port->region.base)
            continue;
        ring_region_close(&port->region);
        close(port->kick_fd);
        close(port->notify_fd);
    }
    ams_fabric_free(bench->fabric);
    mem_free(bench->ports);
    mem_free(bench->heads);
    mem_free(bench->stamps);
    mem_free(bench->samples);
}

static int compare_samples(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Gathers what came out. */
static void bench_report(struct bench *bench, struct ams_bench_switch_result *result)
{
    uint64_t values[FABRIC_COUNTERS];

    ams_fabric_counters(bench->fabric, -1, values, FABRIC_COUNTERS);
    memset(result, 0, sizeof(*result));
    result->frames = bench->moved;
    result->bytes = bench->moved * bench->plan->size;
    result->nanoseconds = bench->elapsed;
    result->switch_ns = bench->polled;
    result->wakeups = values[FABRIC_WAKEUPS];
    result->kicks = values[FABRIC_KICKS];
    for (int i = 0; i < FABRIC_COUNTERS; i++)
        result->dropped += ams_fabric_counter_drop(i) ? values[i] : 0;
    result->sent = bench->sent;
    result->probes = bench->probes;
    result->probes_lost = bench->probes - bench->arrived;
    uint32_t samples = (uint32_t)ams_min_u64(bench->arrived, BENCH_SAMPLES);
    if (!samples)
        return;
    qsort(bench->samples, samples, sizeof(*bench->samples), compare_samples);
    result->samples = samples;
    result->p50_ns = bench->samples[samples / 2];
    result->p99_ns = bench->samples[samples - 1 - samples / 100];
}

/* Runs the load on its core. */
static int bench_run(struct bench *bench)
{
    pthread_attr_t attr;
    pthread_t thread;
    int status = bench->plan->threaded ? ams_fabric_start(bench->fabric) : 0;

    if (status)
        return status;
    if (pthread_attr_init(&attr) != 0)
        return -AMS_ENOMEM;
    if (bench->plan->load_cpu >= 0)
        status = wait_pin(&attr, bench->plan->load_cpu);
    if (!status && pthread_create(&thread, &attr, bench_main, bench) != 0)
        status = -AMS_EAGAIN;
    pthread_attr_destroy(&attr);
    if (!status)
        pthread_join(thread, NULL);
    return status;
}

int ams_bench_switch(const struct ams_bench_switch_plan *plan, struct ams_bench_switch_result *result, char *error,
                     size_t error_size)
{
    struct port_error reason = {error, error ? error_size : 0};
    struct bench bench = {.plan = plan};
    uint32_t least = plan->v6 ? ETH_HEADER + IP6_HEADER + UDP_HEADER : ETH_HEADER + IP4_HEADER + UDP_HEADER;

    memset(result, 0, sizeof(*result));
    if (!plan->ports || plan->ports > FABRIC_CLIENTS_MAX || (plan->ports > 1 && plan->ports % 2) ||
        plan->size < ams_max_u32(least, BENCH_HEAD) || plan->size > 1518)
        return port_fail(&reason, -AMS_EINVAL, "ports are 1 or an even number, frames from 64 to 1518 bytes");
    if (plan->latency)
        bench.stride = plan->rate && plan->rate < BENCH_FEW ? 1 : BENCH_STRIDE;
    bench.ports = mem_zalloc(plan->ports, sizeof(*bench.ports));
    bench.heads = mem_zalloc(plan->ports, sizeof(*bench.heads));
    bench.stamps = mem_zalloc(bench.stride ? plan->ports * (size_t)BENCH_STAMPS : 1, sizeof(*bench.stamps));
    bench.samples = mem_zalloc(BENCH_SAMPLES, sizeof(*bench.samples));
    bool made = bench.ports && bench.heads && bench.stamps && bench.samples;
    int status = made ? bench_open(&bench, error, error_size) : -AMS_ENOMEM;
    if (!status)
        status = bench_run(&bench);
    if (!status)
        bench_report(&bench, result);
    else if (reason.size && !error[0])
        port_fail(&reason, status, "cannot run the switch: %s", ams_status_text(status));
    bench_close(&bench);
    return status;
}
