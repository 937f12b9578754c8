/* SPDX-License-Identifier: BSD-2-Clause
 *
 * node.c - the embedded deployment: one port, one switch, one stack.
 *
 * Theory of operation.  The switch is in the path as it is in the daemon: the
 * stack is its port 0 and its control owner, and there is no host, so that
 * what nobody claimed goes to the stack too (it answers with RST or port
 * unreachable), and later fragments that overtook their first one are the
 * stack's to reassemble.
 *
 *   poll   port -> switch_rx -> stack, timers, events to the caller
 *   flush  stack -> switch_tx -> port, as long as both have and take frames
 *
 * A frame that validation refuses is counted, and freed with the others once
 * the batch is sent; the stack's retransmission is its own affair.
 *
 * On a link that is shared with others (port.h) the stack may have to go by
 * the link's Ethernet address, or take its addresses from the link; and every
 * address served and tuple claimed in the switch is served and claimed at the
 * port too, once for each tuple, so that both always know the same.  When such
 * a link was lost, the connections on it are lost.
 *
 * The node owns the pool that the stack and a TAP take frames from; a hub's
 * frames come from, and return to, the hub's.
 */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/owner.h"
#include "core/status.h"
#include "io/node_capture.h"
#include "io/pages.h"
#include "io/port.h"
#include "stack/stack.h"
#include "switch/switch.h"
#include "wire/bytes.h"

#define NODE_STACK_PORT 0
#define NODE_ROUNDS 4        /* batches taken from the port by one poll */
#define NODE_ADDRESSES 64    /* a guess, tried first */

/* Counters of the port, from its info. */
#define NODE_PORT_COUNTERS(X) X(rx_frames) X(rx_bytes) X(tx_frames) X(tx_bytes) X(rx_dropped) X(tx_dropped)

static const char *const node_port_names[] = {
#define NODE_PORT_NAME(name) "port." #name,
    NODE_PORT_COUNTERS(NODE_PORT_NAME)
#undef NODE_PORT_NAME
};
#define NODE_PORT_COUNT ((int)AMS_ARRAY_SIZE(node_port_names))

static const char *const node_switch_names[] = {
#define NODE_SWITCH_NAME(NAME, name, text) "switch." name,
    SWITCH_COUNTER_TABLE(NODE_SWITCH_NAME)
#undef NODE_SWITCH_NAME
};

static const char *const node_switch_texts[] = {
#define NODE_SWITCH_TEXT(NAME, name, text) text,
    SWITCH_COUNTER_TABLE(NODE_SWITCH_TEXT)
#undef NODE_SWITCH_TEXT
};

struct ams_node {
    struct ams_port *port;
    struct ams_stack *stack;
    struct ams_switch sw;
    struct frame_pool pool;
    uint64_t now;                   /* of the last call */
    int broken;                     /* status of a port that is gone; 0 */
    struct node_capture *capture;   /* NULL: nobody captures */
    struct ams_tx tx[PORT_BURST];
};

/* ---- the stack's claim interface ------------------------------------------------- */

/* Lets the switch, and a port that has to know, serve an address. */
static int node_serve_one(struct ams_node *node, const struct ams_ifaddr *address, struct port_error *error)
{
    const struct port_ops *ops = node->port->ops;
    int status = switch_add_address(&node->sw, address);

    if (!status && ops->serve) {
        status = ops->serve(node->port, &address->address, error);
        if (status > 0)
            status = 0;
        if (status < 0)
            switch_remove_address(&node->sw, &address->address);
    }
    return status;
}

static int node_claim(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct ams_node *node = ctx;
    const struct port_ops *ops = node->port->ops;
    int status = switch_claim(&node->sw, NODE_STACK_PORT, protocol, local);

    if (status || !ops->claim || switch_claims(&node->sw, NODE_STACK_PORT, protocol, local) > 1)
        return status;
    status = ops->claim(node->port, protocol, local, PORT_PROVE);
    if (status)
        switch_release(&node->sw, NODE_STACK_PORT, protocol, local);
    return status;
}

static void node_release(void *ctx, uint8_t protocol, const struct ams_endpoint *local)
{
    struct ams_node *node = ctx;
    const struct port_ops *ops = node->port->ops;
    int status = switch_release(&node->sw, NODE_STACK_PORT, protocol, local);

    AMS_ASSERT(status == 0);
    if (ops->release && !switch_claims(&node->sw, NODE_STACK_PORT, protocol, local))
        ops->release(node->port, protocol, local);
}

static int node_lend(void *ctx, uint16_t *low, uint16_t *high)
{
    struct ams_node *node = ctx;
    return node->port->ops->lend(node->port, low, high);
}

static void node_flow(void *ctx, const struct ams_endpoint *local, const struct ams_endpoint *remote, bool begins)
{
    struct ams_node *node = ctx;
    node->port->ops->flow(node->port, local, remote, begins);
}

/* The stack has one more address (struct ams_owner). */
static int node_serve_learned(void *ctx, const struct ams_ifaddr *address)
{
    struct port_error nobody = {NULL, 0};
    return node_serve_one(ctx, address, &nobody);
}

static void node_unserve(void *ctx, const struct ams_endpoint *address)
{
    struct ams_node *node = ctx;
    if (node->port->ops->unserve)
        node->port->ops->unserve(node->port, address);
    switch_remove_address(&node->sw, address);
}

/* ---- construction -------------------------------------------------------------- */

/* Lets the switch serve all addresses of the stack. */
static int node_serve(struct ams_node *node, struct port_error *error)
{
    struct ams_ifaddr few[NODE_ADDRESSES], *all = few;
    int status = 0, n = stack_addresses(node->stack, few, NODE_ADDRESSES);

    if (node->port->ops->station)
        status = node->port->ops->station(node->port, stack_mac(node->stack), error);
    if (n > NODE_ADDRESSES) {
        all = mem_zalloc((size_t)n, sizeof(*all));
        if (!all)
            return -AMS_ENOMEM;
        stack_addresses(node->stack, all, n);
    }
    for (int i = 0; i < n && !status; i++)
        status = node_serve_one(node, &all[i], error);
    if (all != few)
        mem_free(all);
    return status;
}

/* True if all configured addresses are the link's. */
static bool node_has_addresses(const struct ams_port_identity *identity, const struct ams_stack_config *config)
{
    for (uint32_t i = 0; i < config->n_addresses; i++) {
        uint32_t j = 0;
        while (j < identity->n_addresses &&
               !ip_equal(identity->addresses[j].address.ip, config->addresses[i].address.ip))
            j++;
        if (j == identity->n_addresses)
            return false;
    }
    return true;
}

/* Makes the stack, as the link dictates.  The addresses of a configuration
 * that has some must be among the link's.
 * Return: NULL with *status set on failure. */
static struct ams_stack *node_stack_new(struct ams_node *node, const struct ams_stack_config *wanted,
                                        struct stack_link *link, int *status)
{
    struct ams_stack_config config = *wanted;
    struct ams_port_identity identity;

    memset(&identity, 0, sizeof(identity));
    *status = ams_port_identity(node->port, &identity);
    if (*status == -AMS_EOPNOTSUPP)
        return stack_new(wanted, link, node->now, status);
    if (*status)
        return NULL;
    memcpy(config.mac, identity.mac, 6);
    if (identity.flags & AMS_IDENTITY_QUIET)
        link->flags |= STACK_LINK_QUIET;
    if (identity.flags & AMS_IDENTITY_HAIRPIN)
        link->flags |= STACK_LINK_HAIRPIN;
    if (identity.n_addresses && !config.n_addresses) {
        config.addresses = identity.addresses;
        config.n_addresses = identity.n_addresses;
    } else if (identity.n_addresses && !node_has_addresses(&identity, wanted)) {
        *status = -AMS_EADDRNOTAVAIL;
        return NULL;
    }
    if (!config.gateway4.family)
        config.gateway4 = identity.gateway4;
    if (!config.gateway6.family)
        config.gateway6 = identity.gateway6;
    return stack_new(&config, link, node->now, status);
}

/* Makes the stack, and a switch that knows its MAC and addresses.  The stack
 * claims nothing while it is made.  Undoes itself on failure. */
static int node_build(struct ams_node *node, const struct ams_stack_config *given, struct port_error *error)
{
    static const uint8_t no_mac[6];
    struct ams_stack_config config = *given;
    struct ams_switch_config sw;
    struct stack_link link;
    int status = -AMS_ENOMEM;

    if (node->port->ops->station && memcmp(config.mac, no_mac, 6) == 0)
        memcpy(config.mac, node->port->info.mac, 6);
    memset(&link, 0, sizeof(link));
    link.mtu = node->port->info.mtu;
    link.caps = node->port->info.caps;
    link.pool = &node->pool;
    link.settle = pages_settle;
    link.owner = (struct ams_owner){
        .claim = node_claim,
        .release = node_release,
        .lend = node->port->ops->lend ? node_lend : NULL,
        .serve = node_serve_learned,
        .unserve = node_unserve,
        .flow = node->port->ops->flow ? node_flow : NULL,
        .ctx = node,
    };
    node->stack = node_stack_new(node, &config, &link, &status);
    if (!node->stack)
        return status;
    memset(&sw, 0, sizeof(sw));
    memcpy(sw.mac, stack_mac(node->stack), 6);
    sw.control = NODE_STACK_PORT;
    sw.unclaimed = AMS_SWITCH_TO_CONTROL;
    sw.flags = AMS_SWITCH_ORPHANS;
    sw.mtu = link.mtu;
    sw.seed[0] = config.seed[0] ^ 0x737769746368; /* a stream of its own */
    sw.seed[1] = config.seed[1];
    status = switch_init(&node->sw, &sw);
    if (!status) {
        status = node_serve(node, error);
        if (status)
            switch_fini(&node->sw);
    }
    if (status)
        stack_free(node->stack);
    return status;
}

int ams_node_new(struct ams_node **out, const struct ams_port_config *port, const struct ams_stack_config *config,
                 char *error, size_t error_size)
{
    struct port_error reason = {error, error ? error_size : 0};

    *out = NULL;
    struct ams_node *node = mem_zalloc(1, sizeof(*node));
    if (!node)
        return port_fail(&reason, -AMS_ENOMEM, "out of memory");
    node->now = port_now(config->now);
    frame_pool_init(&node->pool, port->pool_frames ? port->pool_frames : PORT_POOL_FRAMES, false);
    int status = port_open(&node->port, port, &node->pool, &reason);
    if (status) {
        frame_pool_fini(&node->pool);
        mem_free(node);
        return status;
    }
    status = node_build(node, config, &reason);
    if (status) {
        ams_port_close(node->port);
        frame_pool_fini(&node->pool);
        mem_free(node);
        if (!reason.size || !*reason.text)
            port_fail(&reason, status, "cannot build the stack on %s: %s", port->spec, ams_status_text(status));
        return status;
    }
    *out = node;
    return 0;
}

void ams_node_free(struct ams_node *node)
{
    if (!node)
        return;
    stack_abort_all(node->stack, node->now);
    ams_node_flush(node, node->now);
    stack_free(node->stack);
    switch_fini(&node->sw);
    ams_port_close(node->port);
    frame_pool_fini(&node->pool);
    node_capture_free(node->capture);
    mem_free(node);
}

struct ams_stack *ams_node_stack(struct ams_node *node)
{
    return node->stack;
}

struct ams_port *ams_node_port(struct ams_node *node)
{
    return node->port;
}

/* ---- the path in ----------------------------------------------------------------- */

/* Says who gets received frames, while somebody captures. */
static void node_receive_captured(struct ams_node *node, struct ams_frame *const *frames, int n, int32_t *targets)
{
    uint8_t reasons[PORT_BURST];

    switch_rx_reasons(&node->sw, frames, n, targets, reasons, node->now);
    node_capture_rx(node->capture, frames, n, targets, reasons, NODE_PORT_COUNT, node->now);
}

/* Receives one batch.
 * Return: how many frames came; a status if the port is broken. */
static int node_receive(struct ams_node *node)
{
    struct ams_frame *frames[PORT_BURST];
    int32_t targets[PORT_BURST];
    int kept = 0, n = node->port->ops->rx(node->port, frames, PORT_BURST, node->now);

    if (n <= 0)
        return n;
    if (AMS_UNLIKELY(node->capture != NULL))
        node_receive_captured(node, frames, n, targets);
    else
        switch_rx(&node->sw, frames, n, targets, node->now);
    for (int i = 0; i < n; i++) {
        if (AMS_LIKELY(targets[i] != SWITCH_TO_NOBODY))
            frames[kept++] = frames[i];
        else
            frame_free(frames[i]);
    }
    stack_input(node->stack, frames, kept, node->now);
    return n;
}

int ams_node_poll(struct ams_node *node, uint64_t now, int32_t *events, int max_events, char *blob, size_t blob_size)
{
    node->now = port_now(now);
    for (int round = 0; round < NODE_ROUNDS && !node->broken; round++) {
        int n = node_receive(node);
        if (n < 0)
            node->broken = n;
        if (n < PORT_BURST)
            break;
    }
    if (node->port->lost) {
        stack_link_lost(node->stack, node->port->lost, node->now);
        node->port->lost = 0;
    }
    if (node->broken)
        return node->broken;
    stack_timers(node->stack, node->now);
    return stack_events(node->stack, events, max_events, blob, blob_size);
}

/* ---- the path out ---------------------------------------------------------------- */

/* Moves the descriptors that passed to the front, in order.  The others stay
 * behind them, to be freed with the batch. */
static void node_compact(struct ams_tx *tx, int n, const uint8_t *verdicts)
{
    int kept = 0;

    for (int i = 0; i < n; i++) {
        if (verdicts[i] != SWITCH_PASSED)
            continue;
        if (kept != i) {
            struct ams_tx refused = tx[kept];
            tx[kept] = tx[i];
            tx[i] = refused;
        }
        kept++;
    }
}

/* Sends one batch.
 * @room: frames that the port takes
 * Return: how many the stack had. */
static int node_transmit(struct ams_node *node, int room)
{
    uint8_t verdicts[PORT_BURST];
    int n = stack_output(node->stack, node->tx, room < PORT_BURST ? room : PORT_BURST, node->now);

    if (!n)
        return 0;
    int passed = switch_tx(&node->sw, NODE_STACK_PORT, node->tx, n, verdicts, node->now);
    if (AMS_UNLIKELY(node->capture != NULL))
        node_capture_tx(node->capture, node->tx, n, verdicts, NODE_PORT_COUNT, node->now);
    if (AMS_UNLIKELY(passed < n))
        node_compact(node->tx, n, verdicts);
    node->port->ops->tx(node->port, node->tx, passed, node->now);
    stack_output_done(node->stack, node->tx, n);
    return n;
}

uint64_t ams_node_flush(struct ams_node *node, uint64_t now)
{
    const struct port_ops *ops = node->port->ops;
    int room;

    node->now = port_now(now);
    if (node->broken)
        return AMS_NEVER;
    ops->flush(node->port, node->now);
    while ((room = ops->room(node->port)) > 0) {
        int wanted = room < PORT_BURST ? room : PORT_BURST;
        if (node_transmit(node, room) < wanted)
            break;
    }
    ops->flush(node->port, node->now);
    uint64_t deadline = ops->deadline(node->port);
    /* While the port is full the stack can do nothing, however much it wants to. */
    return room > 0 ? ams_min_u64(deadline, stack_deadline(node->stack)) : deadline;
}

/* ---- capture --------------------------------------------------------------------- */

int ams_node_capture(struct ams_node *node, uint32_t snap, size_t size)
{
    struct node_capture *capture = size ? node_capture_new(snap, size) : NULL;

    if (size && !capture)
        return -AMS_ENOMEM;
    node_capture_free(node->capture);
    node->capture = capture;
    return 0;
}

size_t ams_node_captured(struct ams_node *node, char *buffer, size_t size)
{
    return node->capture ? node_capture_take(node->capture, buffer, size) : 0;
}

uint64_t ams_node_capture_lost(struct ams_node *node)
{
    return node->capture ? node->capture->lost : 0;
}

/* ---- counters -------------------------------------------------------------------- */

int ams_node_counters(struct ams_node *node, uint64_t *values, int max)
{
    struct ams_port_info info;
    int n = 0;

    ams_port_info(node->port, &info);
    const uint64_t port[] = {
#define NODE_PORT_VALUE(name) info.name,
        NODE_PORT_COUNTERS(NODE_PORT_VALUE)
#undef NODE_PORT_VALUE
    };
    for (int i = 0; i < NODE_PORT_COUNT; i++, n++) {
        if (n < max)
            values[n] = port[i];
    }
    for (int i = 0; i < SWITCH_COUNTERS; i++, n++) {
        if (n < max)
            values[n] = node->sw.counters[i];
    }
    int left = max > n ? max - n : 0;
    return n + stack_counter_values(node->stack, left ? values + n : NULL, left);
}

const char *ams_counter_name(int index)
{
    if (index < 0)
        return NULL;
    if (index < NODE_PORT_COUNT)
        return node_port_names[index];
    index -= NODE_PORT_COUNT;
    if (index < SWITCH_COUNTERS)
        return node_switch_names[index];
    return stack_counter_name(index - SWITCH_COUNTERS);
}

const char *ams_counter_text(int index)
{
    index -= NODE_PORT_COUNT;
    return index >= 0 && index < SWITCH_COUNTERS ? node_switch_texts[index] : NULL;
}
