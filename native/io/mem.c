/* SPDX-License-Identifier: BSD-2-Clause
 *
 * mem.c - `mem:NAME`: a port on a hub inside the process.
 *
 * NAME is for people; the hub comes with the config.  On an offloading hub
 * frames pass as they are: with unfinished checksums, which nobody verifies,
 * and up to 64 KB long.
 */
#include "io/port.h"

#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/hub.h"
#include "wire/proto.h"

struct mem_port {
    struct ams_port port;
    struct hub_member *member;
    uint32_t hub_flags;
};

static struct mem_port *mem_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct mem_port, port);
}

static int mem_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    int taken = hub_receive(mem_from(port)->member, frames, n, now);

    for (int i = 0; i < taken; i++)
        port->info.rx_bytes += frames[i]->len;
    port->info.rx_frames += (uint64_t)taken;
    return taken;
}

static int mem_room(struct ams_port *port)
{
    (void)port;
    return PORT_BURST;
}

/* Gathers a descriptor into a frame of the hub's.
 * Return: NULL if it is too long or no memory is left. */
static struct ams_frame *mem_gather(struct mem_port *mem, const struct ams_tx *tx)
{
    uint32_t limit = tx->gso_size ? PORT_FRAME_MAX : mem->port.info.mtu + ETH_HEADER;

    if (tx->total > limit || tx->total < ETH_HEADER)
        return NULL;
    if (tx->flags & TX_CSUM && mem->hub_flags & AMS_HUB_NO_OFFLOAD)
        port_finish_csum(tx);
    struct ams_frame *frame = frame_new(&mem->member->hub->pool, port_frame_class(tx->total));
    if (!frame)
        return NULL;
    frame->len = tx_gather(tx, frame->data);
    if (mem->hub_flags & AMS_HUB_NO_OFFLOAD)
        return frame;
    if (tx->flags & TX_CSUM)
        frame->flags |= FRAME_CSUM_OK | FRAME_CSUM_PARTIAL;
    if (tx->gso_size) {
        frame->flags |= FRAME_GSO;
        frame->gso_size = tx->gso_size;
    }
    return frame;
}

static int mem_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    struct mem_port *mem = mem_from(port);
    struct ams_frame *frames[PORT_BURST];
    int done = 0;

    while (done < n) {
        int made = 0;
        for (; done < n && made < PORT_BURST; done++) {
            struct ams_frame *frame = mem_gather(mem, &tx[done]);
            if (!frame) {
                port->info.tx_dropped++;
                continue;
            }
            frames[made++] = frame;
            port->info.tx_bytes += frame->len;
        }
        port->info.tx_frames += (uint64_t)made;
        hub_send(mem->member, frames, made, now);
    }
    return n;
}

static void mem_flush(struct ams_port *port, uint64_t now)
{
    (void)port, (void)now;
}

static uint64_t mem_deadline(struct ams_port *port)
{
    return hub_member_deadline(mem_from(port)->member);
}

static void mem_refresh(struct ams_port *port)
{
    port->info.rx_dropped = hub_member_dropped(mem_from(port)->member);
}

static void mem_close(struct ams_port *port)
{
    struct mem_port *mem = mem_from(port);

    hub_detach(mem->member);
    mem_free(mem);
}

void ams_port_set_group(struct ams_port *port, uint64_t group)
{
    if (port->ops == &mem_ops)
        hub_set_group(mem_from(port)->member, group);
}

int ams_port_waiting(struct ams_port *port)
{
    return port->ops == &mem_ops && hub_waiting(mem_from(port)->member);
}

static int mem_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                    struct frame_pool *pool, struct port_error *error)
{
    if (!*name)
        return port_fail(error, -AMS_EINVAL, "a mem: port needs a hub's name, as in mem:lan0");
    if (!config->hub)
        return port_fail(error, -AMS_EINVAL, "no hub given (ams_hub_new makes one)");
    if (config->flags & AMS_PORT_NO_OFFLOAD && !(config->hub->flags & AMS_HUB_NO_OFFLOAD))
        return port_fail(error, -AMS_EINVAL, "offloads are the hub's: make it with AMS_HUB_NO_OFFLOAD");
    if (config->mtu > config->hub->mtu)
        return port_fail(error, -AMS_EINVAL, "MTU %u is more than the hub's %u", config->mtu, config->hub->mtu);
    struct mem_port *mem = mem_zalloc(1, sizeof(*mem));
    if (!mem)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    int status = hub_attach(config->hub, &mem->member);
    if (status) {
        mem_free(mem);
        return port_fail(error, status, "cannot join the hub: %s", ams_status_text(status));
    }
    if (config->flags & AMS_PORT_MONITOR)
        hub_monitor(mem->member);
    mem->port.ops = &mem_ops;
    mem->port.pool = pool;
    mem->hub_flags = config->hub->flags;
    mem->port.info.fd = mem->member->wake_fd;
    mem->port.info.mtu = config->mtu ? config->mtu : config->hub->mtu;
    mem->port.info.caps = mem->hub_flags & AMS_HUB_NO_OFFLOAD ? 0 : HUB_CAPS;
    *port = &mem->port;
    return 0;
}

const struct port_ops mem_ops = {
    .scheme = "mem",
    .open = mem_open,
    .rx = mem_rx,
    .room = mem_room,
    .tx = mem_tx,
    .flush = mem_flush,
    .deadline = mem_deadline,
    .refresh = mem_refresh,
    .close = mem_close,
};
