/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp.c - `xdp:IFNAME[@QUEUE]`: a Linux interface beside the system's own
 * stack, by AF_XDP.
 *
 * Theory of operation.  A BPF program on the interface (xdp_program.h) takes
 * the frames that are the user's out of the driver's hands, before the
 * kernel's stack sees them; all others go on as if nothing were there.  Which
 * are the user's is in maps that station(), serve() and claim() keep.  Each
 * receive queue has a socket (xdp_socket.h); what is sent leaves by the first.
 * One epoll descriptor stands for them all, and for the news that rtnetlink
 * has of the link.
 *
 * The program is attached by a BPF link, which ends with its descriptor: after
 * SIGKILL as after close().  It is tried in the driver first, and then, where
 * that has no XDP, in the kernel's generic path.  BPF links came with Linux
 * 5.9, so no supported kernel needs another way of attaching.
 *
 * An address that the system has too is shared: xdp_resolve.h stands in for
 * ARP and neighbour discovery, claims.h for the exclusive use of tuples.  For
 * an address of the user's own, all frames to it are taken; the link is told to
 * listen for its solicited-node group, and for the user's MAC address if it
 * isn't the link's.
 *
 * A link that is down takes nothing: frames are dropped and counted, and it
 * goes on when the link is up again.  When the interface is gone, the port is
 * broken for good.
 */
#define _GNU_SOURCE /* IFF_UP under -std=c11 */

#include "io/xdp.h"

#include <errno.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/bpf.h"
#include "io/link_mark.h"
#include "wire/bytes.h"
#include "wire/proto.h"

#define NEWS_EVERY 256u                /* busy calls of rx() between looks at the news */
#define RETRY_DELAY AMS_NS_PER_MS      /* no event tells when a full link has room again */

static struct xdp_port *xdp_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct xdp_port, port);
}

/* ---- news --------------------------------------------------------------------- */

/* Looks the link up after news were lost. */
static void xdp_look_again(struct xdp_port *xdp)
{
    struct netlink_link facts;
    int fd = netlink_open(false);

    if (fd < 0)
        return;
    int status = netlink_get_link(fd, xdp->link.ifindex, &facts);
    close(fd);
    if (status == -ENODEV)
        xdp->gone = true;
    else if (!status)
        xdp->link.up = facts.flags & IFF_UP;
    resolver_again(&xdp->resolver);
}

/* Reads all news that there are. */
static void xdp_read_news(struct xdp_port *xdp)
{
    struct netlink_event event;

    xdp->busy = 0;
    for (;;) {
        switch (netlink_read(xdp->news, &xdp->reader, &event)) {
        case NETLINK_NOTHING: return;
        case NETLINK_OTHER: break;
        case NETLINK_LINK: xdp->link.up = event.flags & IFF_UP; break;
        case NETLINK_LINK_GONE: xdp->gone = true; return;
        case NETLINK_NEIGHBOR: resolver_news(&xdp->resolver, &event.ip, event.mac); break;
        case NETLINK_LOST: xdp_look_again(xdp); break;
        }
    }
}

/* ---- receive ------------------------------------------------------------------ */

/* Marks and counts n frames, dropping those that are of no use.
 * Return: how many are left. */
static int xdp_accept(struct xdp_port *xdp, struct ams_frame **frames, int n)
{
    int kept = 0;

    for (int i = 0; i < n; i++) {
        struct ams_frame *frame = frames[i];
        if (AMS_UNLIKELY(frame->len < ETH_HEADER || !link_mark(frame, xdp->port.info.mtu, xdp->link.partial))) {
            frame_free(frame);
            xdp->rx_lost++;
            continue;
        }
        xdp->port.info.rx_bytes += frame->len;
        frames[kept++] = frame;
    }
    xdp->port.info.rx_frames += (uint64_t)kept;
    return kept;
}

static int xdp_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    struct xdp_port *xdp = xdp_from(port);
    int taken = 0;

    (void)now;
    if (AMS_UNLIKELY(xdp->gone))
        return -AMS_ENODEV;
    if (AMS_UNLIKELY(xdp->resolver.n_answers))
        taken = resolver_receive(&xdp->resolver, frames, n);
    for (uint32_t i = 0; i < xdp->n_sockets && taken < n; i++) {
        struct xdp_socket *socket = &xdp->sockets[(xdp->next + i) % xdp->n_sockets];
        int got = xdp_socket_receive(socket, port->pool, frames + taken, n - taken, &xdp->rx_lost);
        taken += xdp_accept(xdp, frames + taken, got);
    }
    if (taken == n)
        xdp->next = (xdp->next + 1) % xdp->n_sockets; /* so that no queue starves the others */
    if (!taken || ++xdp->busy >= NEWS_EVERY) {
        xdp_read_news(xdp);
        if (xdp->gone && !taken)
            return -AMS_ENODEV;
    }
    return taken;
}

/* ---- transmit ----------------------------------------------------------------- */

static int xdp_room(struct ams_port *port)
{
    struct xdp_port *xdp = xdp_from(port);
    uint32_t room = xdp_socket_room(&xdp->sockets[0], xdp->frame_max);

    return room < PORT_BURST ? (int)room : PORT_BURST;
}

static int xdp_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    struct xdp_port *xdp = xdp_from(port);
    bool shares = xdp->claims.n_addresses != 0;

    (void)now;
    for (int i = 0; i < n; i++) {
        if (shares && resolver_takes(&xdp->resolver, &tx[i]))
            continue;
        if (AMS_UNLIKELY(!xdp->link.up || xdp->gone || tx[i].total > xdp->frame_max)) {
            xdp->tx_lost++;
            continue;
        }
        if (tx[i].flags & TX_CSUM)
            port_finish_csum(&tx[i]);
        xdp_socket_send(&xdp->sockets[0], &tx[i]);
        port->info.tx_frames++;
        port->info.tx_bytes += tx[i].total;
    }
    return n;
}

static void xdp_flush(struct ams_port *port, uint64_t now)
{
    struct xdp_port *xdp = xdp_from(port);
    int status = xdp->gone ? -ENODEV : xdp_socket_kick(&xdp->sockets[0]);

    xdp->retry_at = AMS_NEVER;
    if (AMS_LIKELY(!status))
        return;
    if (status == -ENETDOWN)
        xdp->link.up = false; /* the news will say when it is up again */
    else if (!xdp->gone)
        xdp->retry_at = now + RETRY_DELAY;
}

static uint64_t xdp_deadline(struct ams_port *port)
{
    struct xdp_port *xdp = xdp_from(port);
    return xdp->resolver.n_answers ? 0 : xdp->retry_at;
}

static void xdp_refresh(struct ams_port *port)
{
    struct xdp_port *xdp = xdp_from(port);

    port->info.rx_dropped = xdp->rx_lost;
    port->info.tx_dropped = xdp->tx_lost;
    for (uint32_t i = 0; i < xdp->n_sockets; i++) {
        uint64_t rx, tx;
        xdp_socket_drops(&xdp->sockets[i], &rx, &tx);
        port->info.rx_dropped += rx;
        port->info.tx_dropped += tx;
    }
}

/* ---- whose frames -------------------------------------------------------------- */

int xdp_station(struct ams_port *port, const uint8_t mac[6], struct port_error *error)
{
    struct xdp_port *xdp = xdp_from(port);
    uint32_t key = 0;
    uint8_t value[8] = {0};

    memcpy(value, mac, 6);
    int status = memcmp(mac, xdp->link.mac, 6) == 0 ? 0 : xdp_link_listen(&xdp->link, mac);
    if (!status)
        status = bpf_map_put(xdp->maps.station, &key, value);
    if (status)
        return port_fail(error, port_status(-status), "%s cannot have another MAC address: %s", xdp->link.name,
                         strerror(-status));
    memcpy(xdp->station, mac, 6);
    memcpy(xdp->resolver.mac, mac, 6);
    return 0;
}

/* Takes on an address that the system has too. */
static int xdp_share(struct xdp_port *xdp, const struct ams_endpoint *address, struct port_error *error)
{
    if (memcmp(xdp->station, xdp->link.mac, 6) != 0)
        return port_fail(error, -AMS_EINVAL, "an address of this machine itself can only be shared under the MAC "
                         "address of %s: leave mac unset, or give the user-space stack an address of its own",
                         xdp->link.name);
    if (!xdp->neighbors) {
        int status = resolver_open(&xdp->resolver);
        if (!status)
            status = netlink_join_neighbors(xdp->news);
        if (status)
            return port_fail(error, port_status(-status), "cannot follow the system's neighbours: %s",
                             strerror(-status));
        xdp->neighbors = true;
    }
    int status = claims_share(&xdp->claims, address->ip);
    return status ? port_fail(error, status, "cannot share the system's address: %s", ams_status_text(status)) : 0;
}

static int xdp_serve(struct ams_port *port, const struct ams_endpoint *address, struct port_error *error)
{
    struct xdp_port *xdp = xdp_from(port);
    bool shared = xdp_link_system_has(&xdp->link, address->ip);
    uint32_t value = shared ? XDP_ADDRESS_SHARED : XDP_ADDRESS_OWN;
    uint8_t group[6] = {0x33, 0x33, 0xff}; /* RFC 2464 section 7, RFC 4291 section 2.7.1 */

    int status = shared ? xdp_share(xdp, address, error) : 0;
    if (status)
        return status;
    memcpy(group + 3, address->ip + 13, 3);
    if (!shared && address->family == AMS_IPV6)
        status = xdp_link_listen(&xdp->link, group);
    if (!status)
        status = bpf_map_put(xdp->maps.addresses, address->ip, &value);
    if (status) {
        claims_unshare(&xdp->claims, address->ip);
        return port_fail(error, port_status(-status), "%s cannot serve an address: %s", xdp->link.name,
                         strerror(-status));
    }
    return shared ? PORT_SHARED : PORT_OWN;
}

static void xdp_unserve(struct ams_port *port, const struct ams_endpoint *address)
{
    struct xdp_port *xdp = xdp_from(port);

    bpf_map_remove(xdp->maps.addresses, address->ip);
    claims_unshare(&xdp->claims, address->ip);
}

int xdp_claim_change(void *ctx, const struct claim_key *key, bool claimed)
{
    struct xdp_port *xdp = ctx;
    struct xdp_tuple tuple = {.protocol = key->protocol, .family = key->family};
    uint32_t value = 1;

    memcpy(tuple.ip, key->ip, 16);
    store_be16(tuple.port, key->port);
    int status = claimed ? bpf_map_put(xdp->maps.tuples, &tuple, &value) : bpf_map_remove(xdp->maps.tuples, &tuple);
    return status == -E2BIG ? -AMS_ENOBUFS : status ? port_status(-status) : 0;
}

static int xdp_claim(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local, uint32_t flags)
{
    return claims_add(&xdp_from(port)->claims, protocol, local, flags & PORT_PROVE);
}

static void xdp_release(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local)
{
    claims_remove(&xdp_from(port)->claims, protocol, local);
}

static int xdp_show(struct ams_port *port, int fd)
{
    struct xdp_port *xdp = xdp_from(port);
    return xdp->claims.n_addresses ? claims_show(&xdp->claims, fd) : 0;
}

static int xdp_lookup(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *address)
{
    return claims_lookup(&xdp_from(port)->claims, protocol, address);
}

/* ---- open and close ------------------------------------------------------------ */

static void xdp_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void xdp_close(struct ams_port *port)
{
    struct xdp_port *xdp = xdp_from(port);

    xdp_close_fd(&xdp->bpf_link); /* the program first, so that nothing is taken that nobody receives */
    for (uint32_t i = 0; i < xdp->n_sockets; i++)
        xdp_socket_close(&xdp->sockets[i]);
    mem_free(xdp->sockets);
    xdp_close_fd(&xdp->program);
    xdp_maps_fini(&xdp->maps);
    xdp_close_fd(&xdp->epoll);
    xdp_close_fd(&xdp->news);
    resolver_fini(&xdp->resolver);
    claims_fini(&xdp->claims);
    xdp_link_release(&xdp->link);
    mem_free(xdp);
}

static int xdp_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                    struct frame_pool *pool, struct port_error *error)
{
    struct xdp_port *xdp = mem_zalloc(1, sizeof(*xdp));

    if (!xdp)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    xdp->port.ops = &xdp_ops;
    xdp->port.pool = pool;
    xdp->program = xdp->bpf_link = xdp->news = xdp->epoll = xdp->link.groups = -1;
    xdp->maps = (struct xdp_maps){-1, -1, -1, -1, -1};
    xdp->retry_at = AMS_NEVER;
    resolver_init(&xdp->resolver, 0, pool, &xdp->claims);
    int status = xdp_set_up(xdp, name, config, error);
    if (status) {
        xdp_close(&xdp->port);
        return status;
    }
    struct ams_port_info *info = &xdp->port.info;
    info->mtu = config->mtu ? config->mtu : ams_min_u32(xdp->link.mtu, PORT_MTU_MAX); /* lo has 65,536 */
    info->caps = (xdp->link.partial ? AMS_CAP_CSUM_RX : 0) | (xdp->sockets[0].several ? AMS_CAP_LRO : 0);
    info->fd = xdp->epoll;
    memcpy(info->mac, xdp->link.mac, 6);
    xdp->frame_max = info->mtu + ETH_HEADER;
    *port = &xdp->port;
    return 0;
}

const struct port_ops xdp_ops = {
    .scheme = "xdp",
    .open = xdp_open,
    .rx = xdp_rx,
    .room = xdp_room,
    .tx = xdp_tx,
    .flush = xdp_flush,
    .deadline = xdp_deadline,
    .refresh = xdp_refresh,
    .station = xdp_station,
    .serve = xdp_serve,
    .unserve = xdp_unserve,
    .claim = xdp_claim,
    .release = xdp_release,
    .show = xdp_show,
    .lookup = xdp_lookup,
    .close = xdp_close,
};
