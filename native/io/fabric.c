/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric.c - the data thread: its rounds, its sleep, its calls, its life.
 */
#define _GNU_SOURCE

#include "io/fabric.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/wait.h"
#include "wire/proto.h"

#define FABRIC_EVENTS 64
#define FABRIC_SLOTS 512u
#define FABRIC_SLOTS_LIMIT 4096u
#define FABRIC_CLIENTS 256u
#define FABRIC_PUNTS 512u
#define FABRIC_SPIN_US 50u
#define FABRIC_CLAIMS 65536u
#define FABRIC_EVENT_WAKE UINT32_MAX /* a token; others are port indices */

/* ---- capture ---------------------------------------------------------------------- */

void fabric_tap(struct ams_fabric *fabric, uint16_t index, bool outgoing, int reason, const uint8_t *head,
                uint32_t head_length, const uint8_t *rest, uint32_t length)
{
    struct ams_fabric_frame info = {.time = fabric->now, .index = index, .outgoing = outgoing, .reason = reason,
                                    .length = length};

    if (fabric->capture_index < 0 || fabric->capture_index == index)
        fabric_queue_put(&fabric->captures, &info, head, head_length, rest);
}

/* ---- who is polled ------------------------------------------------------------------ */

void fabric_activate(struct ams_fabric *fabric, struct fabric_port *port)
{
    port->last_frame = fabric->now;
    if (port->active)
        return;
    port->active = true;
    port->place = fabric->n_active;
    fabric->active[fabric->n_active++] = port;
}

void fabric_deactivate(struct ams_fabric *fabric, struct fabric_port *port)
{
    if (!port->active)
        return;
    port->active = false;
    fabric->active[port->place] = fabric->active[--fabric->n_active];
    fabric->active[port->place]->place = port->place;
}

/* Arms the bell of a client from which nothing came for a while.  What came
 * in between keeps it awake. */
static void fabric_rest(struct ams_fabric *fabric, struct fabric_port *port)
{
    ring_bell_arm(port->device_bell, RING_WAKE_TX);
    if (ring_device_pending(&port->tx))
        ring_bell_disarm(port->device_bell);
    else
        fabric_deactivate(fabric, port);
}

/* ---- a round ----------------------------------------------------------------------------- */

/* Runs the calls that wait. */
static void fabric_answer(struct ams_fabric *fabric)
{
    struct fabric_call *call;

    AMS_ASSERT(pthread_mutex_lock(&fabric->lock) == 0);
    __atomic_store_n(&fabric->calls_waiting, 0, __ATOMIC_RELAXED);
    while ((call = fabric->calls)) {
        fabric->calls = call->next;
        if (!fabric->calls)
            fabric->last_call = &fabric->calls;
        AMS_ASSERT(pthread_mutex_unlock(&fabric->lock) == 0);
        int result = call->run(fabric, call->args);
        fabric_publish(fabric);
        AMS_ASSERT(pthread_mutex_lock(&fabric->lock) == 0);
        call->result = result;
        call->done = true;
        pthread_cond_broadcast(&fabric->called);
    }
    AMS_ASSERT(pthread_mutex_unlock(&fabric->lock) == 0);
}

/* True if enough was delivered to tell the receivers.  Where there are many of
 * them, they wait for some frames each: telling costs the same for one as for
 * eight, a cache line that the receiver has, and has to have back.  But nobody
 * is left alone with a ring that fills up. */
static inline bool fabric_publish_due(const struct ams_fabric *fabric)
{
    uint32_t enough = ams_min_u32(FABRIC_PUBLISH_EACH * fabric->n_dirty, FABRIC_PUBLISH_MAX);

    return fabric->urgent || fabric->unpublished >= ams_max_u32(enough, FABRIC_PUBLISH);
}

/* One batch from everybody who is awake.  Return: how many frames. */
static uint32_t fabric_round(struct ams_fabric *fabric)
{
    uint32_t frames = 0;

    for (uint32_t i = 0; i < fabric->n_active;) {
        struct fabric_port *port = fabric->active[i];
        if (i + 1 < fabric->n_active)
            AMS_PREFETCH(&fabric->active[i + 1]->tx.shared->head);
        uint32_t n = fabric_pull(fabric, port);
        frames += n;
        if (n)
            port->last_frame = fabric->now;
        else if (fabric->now - port->last_frame >= fabric->spin_ns)
            fabric_rest(fabric, port);
        i += port->active; /* else another took its place */
        if (fabric_publish_due(fabric))
            fabric_publish(fabric);
    }
    if (fabric->uplink.hot)
        frames += fabric_wire_pull(fabric, &fabric->uplink);
    if (fabric->host.hot)
        frames += fabric_wire_pull(fabric, &fabric->host);
    fabric_wire_flush(fabric, &fabric->uplink);
    fabric_wire_flush(fabric, &fabric->host);
    fabric_publish(fabric);
    return frames;
}

/* Takes note of one event. */
static void fabric_event(struct ams_fabric *fabric, uint64_t which)
{
    uint64_t count;

    if (which == FABRIC_EVENT_WAKE) {
        if (read(fabric->wake_fd, &count, sizeof(count)) < 0)
            return; /* read before */
    } else if (which == AMS_FABRIC_UPLINK) {
        fabric->uplink.hot = true;
    } else if (which == AMS_FABRIC_HOST) {
        fabric->host.hot = true;
    } else if (fabric->ports[which]) {
        fabric_count(fabric->ports[which], FABRIC_KICKS, 1);
        fabric_activate(fabric, fabric->ports[which]);
    }
}

/* Waits no longer for a broken wire, which would be readable for ever. */
static void fabric_bury(struct ams_fabric *fabric, struct fabric_wire *wire)
{
    if (wire->broken && wire->port->info.fd >= 0)
        wait_remove(fabric->wait_fd, wire->port->info.fd);
}

/* Sees what there is to do.
 * @timeout: ms to wait for it; -1: for ever */
static void fabric_wait(struct ams_fabric *fabric, int timeout)
{
    uint64_t tokens[FABRIC_EVENTS];

    if (fabric->uplink.broken)
        fabric_bury(fabric, &fabric->uplink);
    if (fabric->host.broken)
        fabric_bury(fabric, &fabric->host);
    int n = wait_for(fabric->wait_fd, tokens, FABRIC_EVENTS, timeout);
    fabric->now = ams_clock_now();
    for (int i = 0; i < n; i++)
        fabric_event(fabric, tokens[i]);
}

/* Milliseconds until a driver wants to be called although its fd is silent. */
static int fabric_timeout(const struct ams_fabric *fabric)
{
    const struct fabric_wire *const wires[] = {&fabric->uplink, &fabric->host};
    uint64_t deadline = AMS_NEVER;

    for (size_t i = 0; i < AMS_ARRAY_SIZE(wires); i++) {
        if (wires[i]->port && !wires[i]->broken)
            deadline = ams_min_u64(deadline, wires[i]->port->ops->deadline(wires[i]->port));
    }
    if (deadline == AMS_NEVER)
        return -1;
    if (deadline <= fabric->now)
        return 0;
    return (int)ams_min_u64((deadline - fabric->now + AMS_NS_PER_MS - 1) / AMS_NS_PER_MS, INT32_MAX);
}

/* Drivers whose deadline has passed get a call of rx. */
static void fabric_overdue(struct ams_fabric *fabric)
{
    struct fabric_wire *const wires[] = {&fabric->uplink, &fabric->host};

    for (size_t i = 0; i < AMS_ARRAY_SIZE(wires); i++) {
        if (wires[i]->port && !wires[i]->broken && wires[i]->port->ops->deadline(wires[i]->port) <= fabric->now)
            wires[i]->hot = true;
    }
}

static bool fabric_idle(const struct ams_fabric *fabric)
{
    return !fabric->n_active && !fabric->uplink.hot && !fabric->host.hot &&
           !__atomic_load_n(&fabric->calls_waiting, __ATOMIC_ACQUIRE);
}

int ams_fabric_poll(struct ams_fabric *fabric, uint64_t now)
{
    if (fabric->running)
        return -AMS_EBUSY;
    fabric_wait(fabric, 0);
    fabric->now = port_now(now);
    fabric_overdue(fabric);
    return (int)fabric_round(fabric);
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* Rounds and calls until the fabric is stopped; waits while there is nothing to do. */
static void *fabric_main(void *arg)
{
    struct ams_fabric *fabric = arg;
    uint64_t asked = 0;

    while (!__atomic_load_n(&fabric->stopping, __ATOMIC_ACQUIRE)) {
        fabric->now = ams_clock_now();
        if (__atomic_load_n(&fabric->calls_waiting, __ATOMIC_ACQUIRE))
            fabric_answer(fabric);
        if (fabric_idle(fabric)) {
            fabric_wait(fabric, fabric_timeout(fabric));
            fabric_overdue(fabric);
            asked = fabric->now;
        } else if (fabric->now - asked >= FABRIC_POLL_NS) {
            fabric_wait(fabric, 0);
            fabric_overdue(fabric);
            asked = fabric->now;
        }
        fabric_round(fabric);
    }
    return NULL;
}

int ams_fabric_start(struct ams_fabric *fabric)
{
    pthread_attr_t attr;
    sigset_t all, before;

    if (fabric->running)
        return -AMS_EBUSY;
    if (pthread_attr_init(&attr) != 0)
        return -AMS_EAGAIN;
    if (fabric->cpu >= 0 && wait_pin(&attr, fabric->cpu)) {
        pthread_attr_destroy(&attr);
        return -AMS_EINVAL;
    }
    sigfillset(&all); /* signals are for other threads; SIGPIPE is for nobody */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    fabric->running = true;
    __atomic_store_n(&fabric->stopping, false, __ATOMIC_RELEASE);
    int failed = pthread_create(&fabric->thread, &attr, fabric_main, fabric);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed) {
        fabric->running = false;
        return failed == EINVAL ? -AMS_EINVAL : -AMS_EAGAIN;
    }
    return 0;
}

static void fabric_wake(struct ams_fabric *fabric)
{
    uint64_t one = 1;
    ssize_t written = write(fabric->wake_fd, &one, sizeof(one));

    AMS_ASSERT(written == sizeof(one));
}

void ams_fabric_stop(struct ams_fabric *fabric)
{
    if (!fabric->running)
        return;
    __atomic_store_n(&fabric->stopping, true, __ATOMIC_RELEASE);
    fabric_wake(fabric);
    AMS_ASSERT(pthread_join(fabric->thread, NULL) == 0);
    while (fabric->running) { /* calls that came too late for the thread */
        fabric_answer(fabric);
        AMS_ASSERT(pthread_mutex_lock(&fabric->lock) == 0);
        fabric->running = fabric->calls != NULL;
        AMS_ASSERT(pthread_mutex_unlock(&fabric->lock) == 0);
    }
}

int fabric_call(struct ams_fabric *fabric, int (*run)(struct ams_fabric *fabric, void *args), void *args)
{
    struct fabric_call call = {.run = run, .args = args};

    AMS_ASSERT(pthread_mutex_lock(&fabric->lock) == 0);
    if (!fabric->running) {
        fabric->now = ams_clock_now();
        call.result = run(fabric, args);
        fabric_publish(fabric);
        AMS_ASSERT(pthread_mutex_unlock(&fabric->lock) == 0);
        return call.result;
    }
    *fabric->last_call = &call;
    fabric->last_call = &call.next;
    __atomic_store_n(&fabric->calls_waiting, 1, __ATOMIC_RELEASE);
    fabric_wake(fabric);
    while (!call.done)
        pthread_cond_wait(&fabric->called, &fabric->lock);
    AMS_ASSERT(pthread_mutex_unlock(&fabric->lock) == 0);
    return call.result;
}

/* ---- construction ----------------------------------------------------------------------------- */

/* Takes the limits out of the configuration, with defaults for zeros. */
static int fabric_configure(struct ams_fabric *fabric, const struct ams_fabric_config *config,
                            struct port_error *error)
{
    uint32_t clients = config->max_clients ? config->max_clients : FABRIC_CLIENTS;
    uint32_t usual = config->max_slots ? ams_min_u32(config->max_slots, FABRIC_SLOTS) : FABRIC_SLOTS;
    uint32_t tx = config->tx_slots ? config->tx_slots : usual;
    uint32_t rx = config->rx_slots ? config->rx_slots : usual;
    uint32_t limit = config->max_slots ? config->max_slots : ams_max_u32(ams_max_u32(tx, rx), FABRIC_SLOTS_LIMIT);

    if (clients > FABRIC_CLIENTS_MAX)
        return port_fail(error, -AMS_EINVAL, "a switch has at most %u clients", FABRIC_CLIENTS_MAX);
    if (tx < RING_SLOTS_MIN || tx > limit || rx < RING_SLOTS_MIN || rx > limit || limit > RING_SLOTS_MAX)
        return port_fail(error, -AMS_EINVAL, "rings have from %u to %u slots", RING_SLOTS_MIN, RING_SLOTS_MAX);
    fabric->n_ports = AMS_FABRIC_CLIENTS + clients;
    fabric->layout.tx_slots = tx;
    fabric->layout.rx_slots = rx;
    fabric->max_slots = limit;
    fabric->max_claims = config->max_claims ? config->max_claims : FABRIC_CLAIMS;
    fabric->spin_ns = (config->spin_us ? config->spin_us : FABRIC_SPIN_US) * AMS_NS_PER_US;
    fabric->flags = config->flags;
    fabric->cpu = config->cpu;
    return 0;
}

/* Makes the ports that always exist, and the lists. */
static int fabric_tables(struct ams_fabric *fabric)
{
    fabric->ports = mem_zalloc(fabric->n_ports, sizeof(struct fabric_port *));
    fabric->active = mem_zalloc(fabric->n_ports, sizeof(struct fabric_port *));
    fabric->dirty = mem_zalloc(fabric->n_ports, sizeof(struct fabric_port *));
    if (!fabric->ports || !fabric->active || !fabric->dirty)
        return -AMS_ENOMEM;
    for (uint16_t i = 0; i < AMS_FABRIC_CLIENTS; i++) {
        fabric->ports[i] = mem_zalloc(1, sizeof(struct fabric_port));
        if (!fabric->ports[i])
            return -AMS_ENOMEM;
        fabric->ports[i]->index = i;
        fabric->ports[i]->kick_fd = fabric->ports[i]->notify_fd = -1;
    }
    return 0;
}

/* Opens what there is to open. */
static int fabric_wires(struct ams_fabric *fabric, const struct ams_fabric_config *config, struct port_error *error)
{
    struct fabric_wire *const wires[] = {&fabric->uplink, &fabric->host};
    const struct ams_port_config *const configs[] = {&config->uplink, &config->host};
    const uint16_t indices[] = {AMS_FABRIC_UPLINK, AMS_FABRIC_HOST};
    int status = 0;

    for (size_t i = 0; i < AMS_ARRAY_SIZE(wires) && !status; i++) {
        if (!configs[i]->spec || !configs[i]->spec[0])
            continue;
        status = fabric_wire_open(fabric, wires[i], indices[i], configs[i], error);
        if (!status)
            status = wait_add(fabric->wait_fd, wires[i]->port->info.fd, indices[i], false);
    }
    return status;
}

/* Chooses MAC address and MTU, and makes the switch. */
static int fabric_switch(struct ams_fabric *fabric, const struct ams_fabric_config *config, struct port_error *error)
{
    static const uint8_t none[6];
    const struct ams_port *uplink = fabric->uplink.port;
    struct ams_switch_config sw = {.control = AMS_FABRIC_CONTROL, .max_flows = config->max_flows};
    struct ams_rng rng;

    memcpy(sw.mac, config->mac, 6);
    if (memcmp(sw.mac, none, 6) == 0 && uplink && uplink->ops->station)
        memcpy(sw.mac, uplink->info.mac, 6);
    rng_init(&rng, config->seed[0], config->seed[1] ^ 0x666162726963 /* a stream of its own */);
    if (memcmp(sw.mac, none, 6) == 0) {
        uint64_t random = rng_next(&rng);
        memcpy(sw.mac, &random, 6);
        sw.mac[0] = (uint8_t)((sw.mac[0] & 0xfc) | 2); /* locally administered, one station */
    }
    sw.mtu = config->mtu ? config->mtu : uplink ? uplink->info.mtu : 1500;
    if (sw.mtu > FABRIC_FRAME_MAX - ETH_HEADER)
        return port_fail(error, -AMS_EINVAL, "MTU %u is above %u, the most that a switch's clients may have", sw.mtu,
                         FABRIC_FRAME_MAX - ETH_HEADER);
    if (uplink && sw.mtu > uplink->info.mtu)
        return port_fail(error, -AMS_EINVAL, "MTU %u is above the uplink's, %u", sw.mtu, uplink->info.mtu);
    bool shares = fabric->host.port && fabric->flags & AMS_FABRIC_HOST_SHARES;
    sw.unclaimed = shares ? AMS_SWITCH_TO_HOST : AMS_SWITCH_TO_CONTROL;
    sw.seed[0] = rng_next(&rng);
    sw.seed[1] = rng_next(&rng);
    fabric->mtu = sw.mtu;
    fabric->layout.buf_size = ring_buffer_size(sw.mtu + ETH_HEADER);
    int status = switch_init(&fabric->sw, &sw);
    if (status)
        return port_fail(error, status, "cannot make the switch: %s", ams_status_text(status));
    fabric->sw.beside = fabric->host.port && !shares;
    if (uplink && uplink->ops->station)
        status = uplink->ops->station(fabric->uplink.port, sw.mac, error);
    return status;
}

/* Makes what the thread waits on, and the queues. */
static int fabric_plumbing(struct ams_fabric *fabric, const struct ams_fabric_config *config)
{
    uint32_t punts = config->punt_frames ? config->punt_frames : FABRIC_PUNTS;

    fabric->wait_fd = wait_new();
    fabric->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fabric->wait_fd < 0 || fabric->wake_fd < 0)
        return fabric->wait_fd < 0 ? fabric->wait_fd : port_status(errno);
    int status = wait_add(fabric->wait_fd, fabric->wake_fd, FABRIC_EVENT_WAKE, false);
    if (!status)
        status = fabric_queue_init(&fabric->punts, fabric->n_ports);
    if (!status)
        status = fabric_queue_init(&fabric->captures, fabric->n_ports);
    if (!status)
        status = fabric_queue_resize(&fabric->punts, punts, ams_max_u32(punts / 8, 1), FABRIC_FRAME_MAX);
    return status;
}

int ams_fabric_new(struct ams_fabric **out, const struct ams_fabric_config *config, char *error, size_t error_size)
{
    struct port_error reason = {error, error ? error_size : 0};
    struct ams_fabric *fabric = NULL;

    *out = NULL;
    if (reason.size)
        error[0] = '\0';
    fabric = mem_aligned(AMS_CACHE_LINE, sizeof(*fabric));
    if (!fabric)
        return port_fail(&reason, -AMS_ENOMEM, "out of memory");
    memset(fabric, 0, sizeof(*fabric));
    fabric->wait_fd = fabric->wake_fd = -1;
    fabric->last_call = &fabric->calls;
    AMS_ASSERT(pthread_mutex_init(&fabric->lock, NULL) == 0 && pthread_cond_init(&fabric->called, NULL) == 0);
    frame_pool_init(&fabric->pool, PORT_POOL_FRAMES, false);
    fabric->now = ams_clock_now();
    int status = fabric_configure(fabric, config, &reason);
    if (!status)
        status = fabric_tables(fabric);
    if (!status)
        status = fabric_plumbing(fabric, config);
    if (!status)
        status = fabric_wires(fabric, config, &reason);
    if (!status)
        status = fabric_switch(fabric, config, &reason);
    if (status) {
        ams_fabric_free(fabric);
        return reason.size && !error[0] ? port_fail(&reason, status, "cannot make the switch: %s",
                                                    ams_status_text(status)) : status;
    }
    *out = fabric;
    return 0;
}

void ams_fabric_free(struct ams_fabric *fabric)
{
    if (!fabric)
        return;
    ams_fabric_stop(fabric);
    for (uint32_t i = AMS_FABRIC_CLIENTS; fabric->ports && i < fabric->n_ports; i++) {
        if (fabric->ports[i])
            ams_fabric_detach(fabric, (int)i);
    }
    for (uint32_t i = 0; fabric->ports && i < AMS_FABRIC_CLIENTS; i++)
        mem_free(fabric->ports[i]);
    fabric_wire_close(&fabric->uplink);
    fabric_wire_close(&fabric->host);
    switch_fini(&fabric->sw);
    frame_pool_fini(&fabric->pool);
    fabric_queue_fini(&fabric->punts);
    fabric_queue_fini(&fabric->captures);
    if (fabric->wait_fd >= 0)
        close(fabric->wait_fd);
    if (fabric->wake_fd >= 0)
        close(fabric->wake_fd);
    mem_free(fabric->ports);
    mem_free(fabric->active);
    mem_free(fabric->dirty);
    pthread_cond_destroy(&fabric->called);
    pthread_mutex_destroy(&fabric->lock);
    mem_free(fabric);
}
