/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_open.c - having a netmap port, and why it can't be had.
 *
 * A descriptor of the device is registered to the port, and the region that
 * holds its rings is mapped.  netmap_if says where they are: offsets of all TX
 * rings, host TX rings, RX rings and host RX rings, in this order, 0 for those
 * that are not ours.
 *
 * Closing the descriptor is not enough: the mapping holds the port too.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/netmap.h"
#include "io/waitset.h"
#include "wire/proto.h"

#define RINGS_MAX 4096u
#define BUF_FIRST 2u         /* netmap keeps buffers 0 and 1 for itself */
#define MTU_DEFAULT 1500u    /* of ports that are no interface */
#define VNET_CAPS (AMS_CAP_CSUM_TX | AMS_CAP_CSUM_RX | AMS_CAP_TSO4 | AMS_CAP_TSO6 | AMS_CAP_LRO)

/* ---- errors ------------------------------------------------------------------------ */

#define LOAD "load netmap's kernel module (Linux: modprobe netmap, from github.com/luigirizzo/netmap; FreeBSD: " \
             "device netmap is in GENERIC)"

/* Explains why the device can't be opened.  Return: a status. */
static int netmap_no_device(int number, const struct port_error *error)
{
    switch (number) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        return port_fail(error, -AMS_ENODEV, NETMAP_DEVICE " is missing: " LOAD);
    case EACCES:
    case EPERM:
        return port_fail(error, port_status(number), "no permission for " NETMAP_DEVICE ": run as root, or let your "
                         "group have it (chgrp and chmod g+rw)");
    default:
        return port_fail(error, port_status(number), "cannot open " NETMAP_DEVICE ": %s", strerror(number));
    }
}

/* Explains why a port can't be registered.  Return: a status. */
static int netmap_refused(const struct netmap_name *name, int number, const struct port_error *error)
{
    const char *port = name->port;
    int status = port_status(number);

    switch (number) {
    case ENXIO:
    case ENODEV:
        return port_fail(error, -AMS_ENODEV, "there is no port %.40s: no such interface in this network namespace, or "
                         "none that netmap can use", port);
    case EBUSY:
        return port_fail(error, status, "%.40s is used by another process%s", port,
                         name->flags & NM_FLAG_EXCLUSIVE ? ", and /x asks for it alone" : "");
    case EINVAL:
        return port_fail(error, status, "netmap refuses %.40s: no such ring or memory region, or the module's API is "
                         "not version %u", port, NM_API);
    case ENOMEM:
        return port_fail(error, status, "netmap has no memory for the rings of %.40s: raise its parameters ring_num "
                         "and buf_num", port);
    case EPERM:
    case EACCES: return port_fail(error, status, "no permission for %.40s: run as root", port);
    case EIO:
        return port_fail(error, status, "%.40s has virtio-net headers switched on, which AMS_PORT_NO_OFFLOAD forbids",
                         port);
    default: return port_fail(error, status, "cannot register %.40s: %s", port, strerror(number));
    }
}

/* ---- requests ------------------------------------------------------------------------ */

/* Makes a request about a port.  Return: 0 or a negative errno. */
static int netmap_request(struct netmap_port *netmap, uint16_t request, void *body)
{
    struct nm_header header;

    memset(&header, 0, sizeof(header));
    header.version = NM_API;
    header.request = request;
    memcpy(header.name, netmap->name.port, sizeof(header.name));
    header.body = (uint64_t)(uintptr_t)body;
    return netmap->sys->control(netmap->sys->ctx, netmap->fd, &header);
}

/* Registers the port, with virtio-net headers on a VALE switch.
 * Return: 0 or a negative errno. */
static int netmap_register(struct netmap_port *netmap, bool offload, struct nm_register *request)
{
    const struct netmap_name *name = &netmap->name;
    bool vnet = offload && name->kind == NETMAP_VALE;

    memset(request, 0, sizeof(*request));
    request->mode = name->mode;
    request->ringid = name->ringid;
    request->mem_id = name->mem_id;
    request->flags = name->flags | (vnet ? NM_FLAG_ACCEPT_VNET : 0);
    int status = netmap_request(netmap, NM_REGISTER, request);
    if (status < 0 || !vnet)
        return status;
    struct nm_port_hdr length = {VNET_HEADER};
    if (netmap_request(netmap, NM_PORT_HDR_SET, &length) >= 0) {
        netmap->vnet = VNET_HEADER;
        return 0;
    }
    /* It keeps the length that it has, which somebody else may have set. */
    length.length = 0;
    if (netmap_request(netmap, NM_PORT_HDR_GET, &length) < 0)
        length.length = 0;
    netmap->vnet = length.length;
    return length.length == 0 || length.length == VNET_HEADER || length.length == VNET_HEADER_MERGED ? 0 : -EIO;
}

/* ---- rings ----------------------------------------------------------------------------- */

/* Makes a view of one ring.
 * @offset: of it in the region
 * Return: 0 or -AMS_EINVAL. */
static int netmap_view(const struct netmap_port *netmap, uint64_t offset, struct ring *ring)
{
    struct ring_bounds bounds = {netmap->base, netmap->size, BUF_FIRST, 0};
    struct ring_shared shared;

    if (offset > netmap->size || netmap->size - offset < sizeof(shared))
        return -AMS_EINVAL;
    memcpy(&shared, netmap->base + offset, sizeof(shared));
    uint64_t buffers = offset + (uint64_t)shared.buf_ofs;
    if (buffers > netmap->size || shared.buf_size < ETH_HEADER + PORT_MTU_MIN + VNET_HEADER_MERGED)
        return -AMS_EINVAL;
    uint64_t count = (netmap->size - buffers) / shared.buf_size;
    if (count <= BUF_FIRST || count > UINT32_MAX)
        return -AMS_EINVAL;
    bounds.buf_count = (uint32_t)count - BUF_FIRST;
    return ring_init(ring, &bounds, offset, false);
}

/* Makes views of those rings of a kind that are ours.
 * @table: offset of this kind's part of ring_ofs[] in the region
 * @nifp: of netmap_if
 * @n: rings of this kind
 * @next: where the views go; moved on */
static int netmap_views(struct netmap_port *netmap, uint64_t table, uint64_t nifp, uint32_t n, struct ring **next,
                        struct netmap_rings *out)
{
    out->rings = *next;
    for (uint32_t i = 0; i < n; i++) {
        int64_t offset;
        memcpy(&offset, netmap->base + table + 8ull * i, sizeof(offset));
        if (!offset)
            continue;
        int status = netmap_view(netmap, nifp + (uint64_t)offset, *next);
        if (status)
            return status;
        (*next)++;
        out->n++;
    }
    return 0;
}

/* Finds all rings.  Return: 0 or a status. */
static int netmap_find_rings(struct netmap_port *netmap, uint64_t nifp)
{
    struct ring_if facts;

    if (nifp > netmap->size || netmap->size - nifp < RING_IF_OFFSETS)
        return -AMS_EINVAL;
    memcpy(&facts, netmap->base + nifp, sizeof(facts));
    const uint32_t counts[4] = {facts.tx_rings, facts.host_tx_rings, facts.rx_rings, facts.host_rx_rings};
    struct netmap_rings *sets[4] = {&netmap->tx, &netmap->host_tx, &netmap->rx, &netmap->host_rx};
    uint64_t total = 0, table = nifp + RING_IF_OFFSETS;
    for (int i = 0; i < 4; i++)
        total += counts[i];
    if (total > RINGS_MAX || netmap->size - table < total * 8)
        return -AMS_EINVAL;
    netmap->all = mem_zalloc(total ? total : 1, sizeof(*netmap->all));
    if (!netmap->all)
        return -AMS_ENOMEM;
    struct ring *next = netmap->all;
    for (int i = 0; i < 4; i++) {
        int status = netmap_views(netmap, table, nifp, counts[i], &next, sets[i]);
        if (status)
            return status;
        table += 8ull * counts[i];
    }
    if (!netmap->tx.n && !netmap->rx.n) { /* host rings alone are a port like any other */
        netmap->tx = netmap->host_tx;
        netmap->rx = netmap->host_rx;
        netmap->host_tx.n = netmap->host_rx.n = 0;
    }
    return netmap->tx.n && netmap->rx.n ? 0 : -AMS_EINVAL;
}

/* ---- open and close ---------------------------------------------------------------------- */

/* Sets what the port says of itself.  Return: 0 or a status. */
static int netmap_describe(struct netmap_port *netmap, const struct ams_port_config *config,
                           const struct port_error *error)
{
    struct ams_port_info *info = &netmap->port.info;
    const struct ring *ring = &netmap->tx.rings[0];
    uint32_t slot_mtu = ring->buf_size - ETH_HEADER - netmap->vnet, largest = slot_mtu;

    if (netmap->vnet) {
        uint32_t slots = (PORT_FRAME_MAX + netmap->vnet + ring->buf_size - 1) / ring->buf_size;
        largest = PORT_MTU_MAX;
        info->caps = VNET_CAPS;
        netmap->frame_slots = slots;
        if (ring->num_slots - 1 < slots)
            return port_fail(error, -AMS_EINVAL, "the rings of %.40s are too short for super-frames: give its memory "
                             "longer ones, or set AMS_PORT_NO_OFFLOAD", netmap->name.port);
    } else {
        netmap->frame_slots = 1;
        info->caps = netmap->link.partial ? AMS_CAP_CSUM_RX | AMS_CAP_LRO : 0;
    }
    info->mtu = config->mtu ? config->mtu : ams_min_u32(netmap->link.mtu, largest);
    if (info->mtu > largest)
        return port_fail(error, -AMS_EINVAL, "MTU %u is more than the buffers of %.40s hold: %u", info->mtu,
                         netmap->name.port, largest);
    memcpy(info->mac, netmap->link.mac, 6);
    info->fd = netmap->wait >= 0 ? netmap->wait : netmap->fd;
    return 0;
}

/* Begins to watch the link.  A pipe's may not exist; else only its end
 * matters to the pipe.
 * Return: 0 or a negative errno. */
static int netmap_watch(struct netmap_port *netmap)
{
    struct netmap_link link;
    bool nic = netmap->name.kind == NETMAP_NIC;

    if (!nic && netmap->sys->link(netmap->sys->ctx, netmap->name.link, &link) < 0)
        return 0;
    netmap->watch = netmap->sys->watch(netmap->sys->ctx);
    if (netmap->watch < 0)
        return netmap->watch;
    netmap->wait = waitset_new();
    if (netmap->wait < 0)
        return netmap->wait;
    int status = waitset_add(netmap->wait, netmap->watch);
    /* Only now, so that no change is missed: */
    if (!status)
        status = netmap->sys->link(netmap->sys->ctx, netmap->name.link, &link);
    if (status < 0)
        return status;
    if (nic)
        netmap->link = link;
    netmap->link.index = link.index;
    return netmap->link.up ? waitset_add(netmap->wait, netmap->fd) : 0;
}

void netmap_end(struct netmap_port *netmap)
{
    const struct netmap_sys *sys = netmap->sys;
    const int fds[] = {netmap->wait, netmap->fd, netmap->watch, netmap->listen};

    if (netmap->unsynced)
        netmap_sync(netmap, true);
    netmap_share_free(netmap->share);
    if (netmap->base)
        sys->unmap(sys->ctx, netmap->base, netmap->size);
    for (size_t i = 0; i < AMS_ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0)
            sys->close(sys->ctx, fds[i]);
    }
    mem_free(netmap->all);
    mem_free(netmap);
}

/* Registers and maps.  Return: 0 or a status with *error set. */
static int netmap_attach(struct netmap_port *netmap, const struct ams_port_config *config,
                         const struct port_error *error)
{
    const struct netmap_sys *sys = netmap->sys;
    struct nm_register request;

    netmap->fd = sys->open(sys->ctx);
    if (netmap->fd < 0)
        return netmap_no_device(-netmap->fd, error);
    int status = netmap_register(netmap, !(config->flags & AMS_PORT_NO_OFFLOAD), &request);
    if (status < 0)
        return netmap_refused(&netmap->name, -status, error);
    netmap->size = (size_t)request.memsize;
    netmap->mem_id = request.mem_id;
    netmap->base = sys->map(sys->ctx, netmap->fd, netmap->size);
    if (!netmap->base)
        return port_fail(error, -AMS_ENOMEM, "cannot map the %llu MiB of rings of %.40s",
                         (unsigned long long)(request.memsize >> 20), netmap->name.port);
    status = netmap_find_rings(netmap, request.offset);
    if (status)
        return port_fail(error, status, "the rings of %.40s are not as netmap's API version %u has them",
                         netmap->name.port, NM_API);
    return 0;
}

int netmap_open_on(const struct netmap_sys *sys, struct ams_port **port, const char *name,
                   const struct ams_port_config *config, struct frame_pool *pool, struct port_error *error)
{
    struct netmap_name parsed;
    int status = netmap_parse(name, &parsed, error);

    if (status)
        return status;
    struct netmap_port *netmap = mem_zalloc(1, sizeof(*netmap));
    if (!netmap)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    bool nic = parsed.kind == NETMAP_NIC && parsed.mode != NM_MODE_SW && parsed.mode != NM_MODE_ONE_SW;
    netmap->port.ops = nic ? &netmap_nic_ops : &netmap_ops;
    netmap->port.pool = pool;
    netmap->sys = sys;
    netmap->name = parsed;
    netmap->fd = netmap->watch = netmap->wait = netmap->listen = -1;
    netmap->link = (struct netmap_link){.mtu = MTU_DEFAULT, .up = true};
    netmap->retry_at = AMS_NEVER;
    status = netmap_attach(netmap, config, error);
    if (!status && *parsed.link) {
        status = netmap_watch(netmap);
        if (status)
            status = port_fail(error, port_status(-status), "cannot watch %.40s: %s", parsed.link, strerror(-status));
    }
    if (!status)
        status = netmap_describe(netmap, config, error);
    if (!status && netmap->host_rx.n && netmap->host_tx.n) {
        status = netmap_share_new(netmap);
        if (status)
            status = port_fail(error, status, "out of memory");
    }
    if (status) {
        netmap_end(netmap);
        return status;
    }
    *port = &netmap->port;
    return 0;
}
