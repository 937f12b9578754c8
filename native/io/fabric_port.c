/* SPDX-License-Identifier: BSD-2-Clause
 *
 * fabric_port.c - what the control plane asks of the fabric: clients, claims,
 * addresses.
 *
 * Each function packs its arguments and has them carried out on the data
 * thread.  What takes long (memory, descriptors) is done before or after, on
 * the caller's.  An uplink that has to know which frames are ours (port.h's
 * serve and claim) is told of each address and tuple.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/fabric.h"
#include "io/flows.h"
#include "io/wait.h"
#include "wire/bytes.h"
#include "wire/proto.h"

/* ---- attaching -------------------------------------------------------------------------- */

/* Closes and frees what a client's port holds. */
static void client_free(struct fabric_port *port)
{
    ring_region_discard(&port->region);
    ring_region_close(&port->region);
    if (port->kick_fd >= 0)
        close(port->kick_fd);
    if (port->notify_fd >= 0)
        close(port->notify_fd);
    if (port->reader_fd >= 0)
        close(port->reader_fd);
    mem_free(port);
}

/* Makes the descriptors: ours, and those for the client. */
static int client_fds(struct fabric_port *port, struct ams_fabric_link *link)
{
    int pipe_fds[2];

    port->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (port->kick_fd < 0 || pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return port_status(errno);
    port->reader_fd = pipe_fds[0];
    port->notify_fd = pipe_fds[1];
    link->notify_fd = fcntl(port->reader_fd, F_DUPFD_CLOEXEC, 0);
    link->kick_fd = fcntl(port->kick_fd, F_DUPFD_CLOEXEC, 0);
    link->memory_fd = fcntl(port->region.fd, F_DUPFD_CLOEXEC, 0);
    return link->kick_fd < 0 || link->memory_fd < 0 || link->notify_fd < 0 ? port_status(errno) : 0;
}

static void link_close(struct ams_fabric_link *link)
{
    int32_t *const fds[] = {&link->memory_fd, &link->kick_fd, &link->notify_fd};

    for (size_t i = 0; i < AMS_ARRAY_SIZE(fds); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

struct attach_args {
    struct fabric_port *port;
    bool control;
};

/* Gives a port an index and lets it in.  Return: the index, or a status. */
static int attach_run(struct ams_fabric *fabric, void *args)
{
    struct attach_args *attach = args;
    struct fabric_port *port = attach->port;
    uint32_t index = AMS_FABRIC_CLIENTS;

    if (attach->control && fabric->sw.control != AMS_FABRIC_CONTROL)
        return -AMS_EBUSY;
    while (index < fabric->n_ports && fabric->ports[index])
        index++;
    if (index == fabric->n_ports)
        return -AMS_EMFILE;
    int status = wait_add(fabric->wait_fd, port->kick_fd, index, true);
    if (status)
        return status;
    port->index = (uint16_t)index;
    fabric->ports[index] = port;
    if (attach->control)
        fabric->sw.control = port->index;
    return (int)index;
}

/* Makes a client's port with its memory.  Return: NULL with *status set. */
static struct fabric_port *client_new(const struct ams_fabric *fabric, const struct ams_fabric_limits *limits,
                                      struct ams_fabric_link *link, int *status)
{
    struct ring_layout layout = fabric->layout;
    struct ring_link about = {.mtu = fabric->mtu, .features = RING_LINK_SUPER};
    struct fabric_port *port = mem_aligned(AMS_CACHE_LINE, sizeof(*port));

    *status = -AMS_ENOMEM;
    if (!port)
        return NULL;
    memset(port, 0, sizeof(*port));
    port->kick_fd = port->notify_fd = port->reader_fd = -1;
    port->client = true;
    memcpy(about.mac, fabric->sw.mac, 6);
    if (limits->tx_slots)
        layout.tx_slots = limits->tx_slots;
    if (limits->rx_slots)
        layout.rx_slots = limits->rx_slots;
    *status = layout.tx_slots > fabric->max_slots || layout.rx_slots > fabric->max_slots ? -AMS_EINVAL : 0;
    if (!*status)
        *status = ring_region_create(&port->region, "aiomultistack-port", &layout, &about);
    else
        port->region.fd = -1;
    if (!*status)
        *status = client_fds(port, link);
    if (*status) {
        client_free(port);
        return NULL;
    }
    port->rx = port->region.rx;
    port->tell_after = ams_min_u32(port->rx.num_slots / 4, FABRIC_PUBLISH_ONE);
    port->tx = port->region.tx;
    port->user_bell = port->region.user_bell;
    port->device_bell = port->region.device_bell;
    return port;
}

int ams_fabric_attach(struct ams_fabric *fabric, const struct ams_fabric_limits *limits, struct ams_fabric_link *link)
{
    static const struct ams_fabric_limits none;
    struct attach_args args;
    int status;

    if (!limits)
        limits = &none;
    link->index = link->memory_fd = link->kick_fd = link->notify_fd = -1;
    if (limits->flags & ~(uint32_t)AMS_ATTACH_CONTROL)
        return -AMS_EINVAL;
    args.control = limits->flags & AMS_ATTACH_CONTROL;
    args.port = client_new(fabric, limits, link, &status);
    if (args.port) {
        close(args.port->region.fd); /* the mapping and the client's descriptor are enough */
        args.port->region.fd = -1;
        status = fabric_call(fabric, attach_run, &args);
        if (status < 0)
            client_free(args.port);
    }
    if (status < 0)
        link_close(link);
    link->index = status;
    return status;
}

/* ---- claims ---------------------------------------------------------------------------------- */

#define CLAIMS_AT_ONCE 64u       /* an uplink may make a system call for each, while frames wait */

struct claim_args {
    int index;
    uint8_t protocol;
    uint32_t flags;
    const struct ams_endpoint *local;
    uint32_t n;                  /* port numbers from local's on */
};

/* Claims one tuple for a port. */
static int claim_do(struct ams_fabric *fabric, struct fabric_port *port, const struct claim_args *claim,
                    const struct ams_endpoint *local)
{
    struct ams_port *uplink = fabric->uplink.port;

    if (port->claims >= fabric->max_claims)
        return -AMS_EMFILE;
    int status = (claim->flags & AMS_CLAIM_GROUP ? switch_join : switch_claim)(&fabric->sw, port->index,
                                                                               claim->protocol, local);
    if (!status && uplink && uplink->ops->claim) {
        status = uplink->ops->claim(uplink, claim->protocol, local, 0);
        if (status)
            switch_release(&fabric->sw, port->index, claim->protocol, local);
    }
    port->claims += !status;
    return status;
}

/* Undoes one claim of a port. */
static int claim_undo(struct ams_fabric *fabric, struct fabric_port *port, uint8_t protocol,
                      const struct ams_endpoint *local)
{
    struct ams_port *uplink = fabric->uplink.port;
    int status = switch_release(&fabric->sw, port->index, protocol, local);

    if (status)
        return status;
    port->claims--;
    if (uplink && uplink->ops->release)
        uplink->ops->release(uplink, protocol, local);
    return 0;
}

/* Claims all of them, or none. */
static int claim_run(struct ams_fabric *fabric, void *args)
{
    const struct claim_args *claim = args;
    struct fabric_port *port = fabric_client(fabric, claim->index);
    struct ams_endpoint local = *claim->local;
    int status = port ? 0 : -AMS_EINVAL;
    uint32_t done = 0;

    for (; done < claim->n && !status; done += !status, local.port += !status)
        status = claim_do(fabric, port, claim, &local);
    for (; status && done; done--) {
        local.port--;
        claim_undo(fabric, port, claim->protocol, &local);
    }
    return status;
}

/* Undoes as many of them as there are. */
static int release_run(struct ams_fabric *fabric, void *args)
{
    const struct claim_args *claim = args;
    struct fabric_port *port = fabric_client(fabric, claim->index);
    struct ams_endpoint local = *claim->local;
    int status = port ? 0 : -AMS_EINVAL;

    for (uint32_t i = 0; port && i < claim->n; i++, local.port++) {
        int one = claim_undo(fabric, port, claim->protocol, &local);
        status = status ? status : one;
    }
    return status;
}

int ams_fabric_claim(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local,
                     uint32_t flags)
{
    return ams_fabric_claim_ports(fabric, index, protocol, local, 1, flags);
}

int ams_fabric_claim_ports(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local, int n,
                           uint32_t flags)
{
    struct ams_endpoint first = *local;
    struct claim_args args = {index, (uint8_t)protocol, flags, &first, 0};
    int status = 0, done = 0;

    if (protocol < 0 || protocol > UINT8_MAX || flags & ~(uint32_t)AMS_CLAIM_GROUP || n < 1 ||
        n > UINT16_MAX + 1 - local->port)
        return -AMS_EINVAL;
    for (; done < n; done += (int)args.n) {
        first.port = (uint16_t)(local->port + done);
        args.n = ams_min_u32((uint32_t)(n - done), CLAIMS_AT_ONCE);
        status = fabric_call(fabric, claim_run, &args);
        if (status)
            break;
    }
    for (first.port = local->port; status && done; done -= (int)args.n, first.port += (uint16_t)args.n) {
        args.n = ams_min_u32((uint32_t)done, CLAIMS_AT_ONCE);
        fabric_call(fabric, release_run, &args);
    }
    return status;
}

int ams_fabric_release(struct ams_fabric *fabric, int index, int protocol, const struct ams_endpoint *local)
{
    struct claim_args args = {index, (uint8_t)protocol, 0, local, 1};

    if (protocol < 0 || protocol > UINT8_MAX)
        return -AMS_EINVAL;
    return fabric_call(fabric, release_run, &args);
}

struct ams_endpoint fabric_slot_local(const struct tuple_slot *slot)
{
    struct ams_endpoint local = {.port = slot->tuple.port,
                                 .family = (uint16_t)(slot->tuple.family & ~TUPLE_WILDCARD)};

    memcpy(local.ip, slot->tuple.ip, 16);
    return local;
}

/* Undoes all claims of a port, one by one: the uplink counts them, too. */
static void claim_undo_all(struct ams_fabric *fabric, struct fabric_port *port)
{
    struct ams_switch *sw = &fabric->sw;
    bool again = true;

    while (again) { /* a removal may move a slot to a place already passed */
        again = false;
        for (uint32_t i = 0; i <= sw->tuples.mask; i++) {
            struct tuple_slot *slot = &sw->tuples.slots[i];
            while (slot->refs && switch_owns(sw, slot, port->index)) {
                struct ams_endpoint local = fabric_slot_local(slot);
                claim_undo(fabric, port, slot->tuple.protocol, &local);
                again = true;
            }
        }
    }
    switch_release_port(sw, port->index); /* its fragments */
}

static int detach_run(struct ams_fabric *fabric, void *args)
{
    struct claim_args *detach = args;
    struct fabric_port *port = fabric_client(fabric, detach->index);

    if (!port)
        return -AMS_EINVAL;
    claim_undo_all(fabric, port);
    if (fabric->sw.control == port->index)
        fabric->sw.control = AMS_FABRIC_CONTROL;
    fabric_deactivate(fabric, port);
    fabric_publish(fabric); /* so that it isn't among the dirty ones */
    wait_remove(fabric->wait_fd, port->kick_fd);
    for (int i = 0; i < FABRIC_COUNTERS; i++)
        fabric->retired[i] += port->counters[i];
    fabric->ports[port->index] = NULL;
    detach->local = (const void *)port;
    return 0;
}

int ams_fabric_detach(struct ams_fabric *fabric, int index)
{
    return ams_fabric_detach_flows(fabric, index, NULL, 0);
}

int ams_fabric_detach_flows(struct ams_fabric *fabric, int index, struct ams_fabric_flow *out, int max)
{
    struct claim_args args = {.index = index};
    int status = fabric_call(fabric, detach_run, &args);

    if (status)
        return status;
    struct fabric_port *port = (struct fabric_port *)(uintptr_t)args.local; /* nobody else has it now */
    int n = max > 0 ? flows_list(port->region.flows, out, max) : 0;
    client_free(port);
    return n;
}

/* ---- addresses --------------------------------------------------------------------------------- */

static int add_address_run(struct ams_fabric *fabric, void *args)
{
    const struct ams_ifaddr *address = args;
    struct ams_port *uplink = fabric->uplink.port;
    struct port_error quiet = {NULL, 0};
    int status = switch_add_address(&fabric->sw, address);

    if (status || !uplink || !uplink->ops->serve)
        return status;
    status = uplink->ops->serve(uplink, &address->address, &quiet);
    if (status < 0)
        switch_remove_address(&fabric->sw, &address->address);
    return status < 0 ? status : 0;
}

int ams_fabric_add_address(struct ams_fabric *fabric, const struct ams_ifaddr *address)
{
    return fabric_call(fabric, add_address_run, (void *)(uintptr_t)address);
}

static int remove_address_run(struct ams_fabric *fabric, void *args)
{
    const struct ams_endpoint *address = args;
    struct ams_switch *sw = &fabric->sw;
    bool again = true;

    while (again) { /* its claims first, one by one */
        again = false;
        for (uint32_t i = 0; i <= sw->tuples.mask; i++) {
            struct tuple_slot *slot = &sw->tuples.slots[i];
            if (!slot->refs || slot->tuple.family != address->family || !ip_equal(slot->tuple.ip, address->ip))
                continue;
            struct ams_endpoint local = fabric_slot_local(slot);
            int owner = slot->group ? group_first(&sw->groups, slot->group) : slot->owner;
            claim_undo(fabric, fabric->ports[owner], slot->tuple.protocol, &local);
            again = true;
        }
    }
    int status = switch_remove_address(sw, address);
    if (!status && fabric->uplink.port && fabric->uplink.port->ops->unserve)
        fabric->uplink.port->ops->unserve(fabric->uplink.port, address);
    return status;
}

int ams_fabric_remove_address(struct ams_fabric *fabric, const struct ams_endpoint *address)
{
    return fabric_call(fabric, remove_address_run, (void *)(uintptr_t)address);
}
