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
#define _GNU_SOURCE /* EPOLL_CLOEXEC under -std=c11 */

#include "io/port.h"

#include <ctype.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/bpf.h"
#include "io/claims.h"
#include "io/netlink.h"
#include "io/xdp_link.h"
#include "io/link_mark.h"
#include "io/xdp_program.h"
#include "io/xdp_resolve.h"
#include "io/xdp_socket.h"
#include "wire/ipv6.h"
#include "wire/proto.h"

#define ALL_QUEUES UINT32_MAX
#define QUEUES_MAX 256u
#define NEWS_EVERY 256u                /* busy calls of rx() between looks at the news */
#define RETRY_DELAY AMS_NS_PER_MS      /* no event tells when a full link has room again */
#define LOG_SIZE 65536u
#define LOG_SHOWN 200u                 /* bytes of the verifier's log in an error's text */
#define SMALL_CHUNK 2048u
#define LARGE_CHUNK 4096u
#define TX_CHUNKS 2048u

struct xdp_port {
    struct ams_port port;
    struct xdp_link link;
    struct xdp_maps maps;
    struct claim_table claims;
    struct xdp_resolver resolver;
    struct netlink_reader reader;
    struct xdp_socket *sockets;
    uint32_t n_sockets;
    uint32_t next;                     /* socket to receive from first */
    int program;
    int bpf_link;
    int news;                          /* netlink's socket for news */
    int epoll;
    uint32_t busy;                     /* calls of rx() since the last look at the news */
    uint32_t frame_max;                /* bytes of the longest frame sent */
    bool gone;
    bool neighbors;                    /* news of neighbours come too */
    uint8_t station[6];
    uint64_t retry_at;                 /* when to kick again; AMS_NEVER: needn't */
    uint64_t rx_lost, tx_lost;         /* dropped by this driver */
};

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

static int xdp_station(struct ams_port *port, const uint8_t mac[6], struct port_error *error)
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

/* Keeps the map of tuples as the table of claims is. */
static int xdp_claim_change(void *ctx, const struct claim_key *key, bool claimed)
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

/* Splits IFNAME[@QUEUE].  Return: 0 or a status. */
static int xdp_parse(const char *text, char name[IFNAMSIZ], uint32_t *queue, const struct port_error *error)
{
    const char *at = strrchr(text, '@');
    size_t length = at ? (size_t)(at - text) : strlen(text);

    *queue = ALL_QUEUES;
    if (!length)
        return port_fail(error, -AMS_EINVAL, "an XDP port needs the name of an interface, as in xdp:eth0");
    if (length >= IFNAMSIZ)
        return port_fail(error, -AMS_EINVAL, "interface name '%.40s' is too long: at most %d characters", text,
                         IFNAMSIZ - 1);
    memcpy(name, text, length);
    name[length] = '\0';
    if (!at)
        return 0;
    char *end;
    unsigned long number = strtoul(at + 1, &end, 10);
    if (!isdigit((unsigned char)at[1]) || *end || number >= QUEUES_MAX)
        return port_fail(error, -AMS_EINVAL, "'%.40s' is no queue: write xdp:%s@0 for the first one, or xdp:%s for all",
                         at + 1, name, name);
    *queue = (uint32_t)number;
    return 0;
}

#define PRIVILEGES "run as root, or with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON"

/* Explains why a socket could not be had. */
static int xdp_socket_refused(const struct xdp_port *xdp, const struct xdp_socket_config *config, int number,
                              const struct port_error *error)
{
    const char *name = xdp->link.name;

    switch (number) {
    case EPERM:
    case EACCES:
        return port_fail(error, -AMS_EPERM, "no permission for AF_XDP on %s: " PRIVILEGES, name);
    case EAFNOSUPPORT:
        return port_fail(error, -AMS_EOPNOTSUPP, "this kernel has no AF_XDP: it needs Linux 5.10 or newer, built with "
                         "CONFIG_XDP_SOCKETS; tap: ports need neither");
    case EBUSY:
        return port_fail(error, -AMS_EBUSY, "queue %u of %s is used by another AF_XDP socket", config->queue, name);
    case EMSGSIZE:
        return port_fail(error, -AMS_EMSGSIZE, "the MTU of %s, %u bytes, is too large: this kernel or driver has no "
                         "AF_XDP frames of several buffers (Linux 6.6); at most %u are possible: "
                         "ip link set %s mtu %u", name, xdp->link.mtu, LARGE_CHUNK - XDP_CHUNK_RESERVED - ETH_HEADER,
                         name, LARGE_CHUNK - XDP_CHUNK_RESERVED - ETH_HEADER);
    case ENOBUFS:
        return port_fail(error, -AMS_ENOBUFS, "AF_XDP may not lock the memory that it needs: raise the limit "
                         "(ulimit -l), or give the process CAP_IPC_LOCK");
    default:
        return port_fail(error, port_status(number), "cannot open queue %u of %s: %s", config->queue, name,
                         strerror(number));
    }
}

/* Chunks for receiving on each queue, so that many queues don't take much
 * more memory than a few. */
static uint32_t xdp_chunks(uint32_t queues)
{
    return queues <= 4 ? 4096 : queues <= 16 ? 2048 : 1024;
}

/* Opens the sockets of all queues, or of one. */
static int xdp_open_sockets(struct xdp_port *xdp, uint32_t queue, const struct port_error *error)
{
    struct xdp_socket_config config = {.ifindex = xdp->link.ifindex};
    uint32_t longest = xdp->link.mtu + ETH_HEADER;

    if (queue != ALL_QUEUES && queue >= xdp->link.queues)
        return port_fail(error, -AMS_EINVAL, "%s has no queue %u: it has %u, from 0 on", xdp->link.name, queue,
                         xdp->link.queues);
    uint32_t n = queue == ALL_QUEUES ? xdp->link.queues : 1;
    if (n > QUEUES_MAX)
        return port_fail(error, -AMS_EINVAL, "%s has %u queues, of which %u can be served: ethtool -L %s combined %u",
                         xdp->link.name, n, QUEUES_MAX, xdp->link.name, QUEUES_MAX);
    xdp->sockets = mem_zalloc(n, sizeof(*xdp->sockets));
    if (!xdp->sockets)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    config.chunk = longest <= SMALL_CHUNK - XDP_CHUNK_RESERVED ? SMALL_CHUNK : LARGE_CHUNK;
    config.several_needed = longest > LARGE_CHUNK - XDP_CHUNK_RESERVED;
    config.rx_chunks = xdp_chunks(n);
    config.tx_chunks = TX_CHUNKS;
    for (uint32_t i = 0; i < n; i++) {
        config.queue = queue == ALL_QUEUES ? i : queue;
        config.may_send = i == 0;
        int status = xdp_socket_open(&xdp->sockets[i], &config);
        if (status)
            return xdp_socket_refused(xdp, &config, -status, error);
        xdp->n_sockets++;
    }
    return 0;
}

/* Explains why the maps or the program could not be had.
 * @log: the verifier's; its end, without the statistics, is shown as one line */
static int xdp_program_refused(const struct xdp_port *xdp, int number, char *log, const struct port_error *error)
{
    char *statistics = strstr(log, "processed ");

    if (statistics)
        *statistics = '\0';
    for (char *c = log; *c; c++) {
        if (*c == '\n')
            *c = ' ';
    }
    size_t length = strlen(log), skip = length > LOG_SHOWN ? length - LOG_SHOWN : 0;

    if (number == EPERM || number == EACCES) /* EACCES: the verifier forbids arithmetic without CAP_PERFMON */
        return port_fail(error, -AMS_EPERM, "no permission to load a BPF program for %s: " PRIVILEGES "%s",
                         xdp->link.name, "; before Linux 5.11 the limit of locked memory (ulimit -l) counts too");
    return port_fail(error, port_status(number), "the kernel refuses the BPF program (%s): %s", strerror(number),
                     length ? log + skip : "it says nothing more");
}

/* Makes the maps and the program. */
static int xdp_open_program(struct xdp_port *xdp, bool all, const struct port_error *error)
{
    uint32_t flags = (all ? XDP_PROGRAM_ALL : 0) | (xdp->sockets[0].several ? XDP_PROGRAM_FRAGS : 0);
    char *log = mem_zalloc(1, LOG_SIZE);

    if (!log)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    int status = xdp_maps_init(&xdp->maps, xdp->link.queues);
    if (!status)
        xdp->program = xdp_program_new(&xdp->maps, flags, log, LOG_SIZE);
    if (!status && xdp->program < 0)
        status = xdp->program;
    for (uint32_t i = 0; i < xdp->n_sockets && !status; i++)
        status = bpf_map_put(xdp->maps.sockets, &xdp->sockets[i].queue, &xdp->sockets[i].fd);
    if (status)
        status = xdp_program_refused(xdp, -status, log, error);
    mem_free(log);
    return status;
}

/* Explains why the program could not be attached. */
static int xdp_attach_refused(const struct xdp_port *xdp, int number, const struct port_error *error)
{
    const char *name = xdp->link.name;
    char other[64];

    switch (number) {
    case EBUSY:
    case EEXIST:
        xdp_link_program(&xdp->link, other, sizeof(other));
        return port_fail(error, -AMS_EBUSY, "%s has an XDP program already (%s), and only one is possible: another "
                         "aiomultistack, or 'ip link set %s xdp off' takes it away", name, other, name);
    case EPERM:
    case EACCES: return port_fail(error, -AMS_EPERM, "no permission to attach a program to %s: " PRIVILEGES, name);
    case EINVAL: /* no such attach type */
        return port_fail(error, -AMS_EOPNOTSUPP, "this kernel cannot attach XDP programs by links: it needs Linux 5.10 "
                         "or newer; tap: ports work on older ones");
    default: return port_fail(error, port_status(number), "cannot attach to %s: %s", name, strerror(number));
    }
}

/* Attaches the program: in the driver, or where it has no XDP, in the generic path. */
static int xdp_attach(struct xdp_port *xdp, const struct port_error *error)
{
    xdp->bpf_link = bpf_link_xdp(xdp->program, xdp->link.ifindex, XDP_FLAGS_DRV_MODE);
    if (xdp->bpf_link == -EOPNOTSUPP || xdp->bpf_link == -ERANGE || xdp->bpf_link == -EINVAL ||
        xdp->bpf_link == -ENOMEM)
        xdp->bpf_link = bpf_link_xdp(xdp->program, xdp->link.ifindex, XDP_FLAGS_SKB_MODE);
    return xdp->bpf_link >= 0 ? 0 : xdp_attach_refused(xdp, -xdp->bpf_link, error);
}

/* Makes the descriptor that stands for all sockets and the news. */
static int xdp_open_epoll(struct xdp_port *xdp, const struct port_error *error)
{
    struct epoll_event event = {.events = EPOLLIN};

    xdp->epoll = epoll_create1(EPOLL_CLOEXEC);
    bool added = xdp->epoll >= 0 && epoll_ctl(xdp->epoll, EPOLL_CTL_ADD, xdp->news, &event) == 0;
    for (uint32_t i = 0; i < xdp->n_sockets && added; i++)
        added = epoll_ctl(xdp->epoll, EPOLL_CTL_ADD, xdp->sockets[i].fd, &event) == 0;
    if (!added)
        return port_fail(error, port_status(errno), "cannot watch %s: %s", xdp->link.name, strerror(errno));
    return 0;
}

/* Opens all that an allocated port needs.  What is open on failure, xdp_close() closes. */
static int xdp_set_up(struct xdp_port *xdp, const char *text, const struct ams_port_config *config,
                      struct port_error *error)
{
    char name[IFNAMSIZ];
    uint32_t queue;
    int status = xdp_parse(text, name, &queue, error);

    if (!status)
        status = xdp_link_find(&xdp->link, name, error);
    if (status)
        return status;
    if (config->mtu > xdp->link.mtu)
        return port_fail(error, -AMS_EINVAL, "MTU %u is more than that of %s, which is %u", config->mtu, name,
                         xdp->link.mtu);
    /* The news before the facts could change. */
    xdp->news = netlink_open(true);
    if (xdp->news < 0)
        return port_fail(error, port_status(-xdp->news), "cannot follow %s: %s", name, strerror(-xdp->news));
    xdp->reader.ifindex = xdp->link.ifindex;
    resolver_init(&xdp->resolver, xdp->link.ifindex, xdp->port.pool, &xdp->claims);
    status = claims_init(&xdp->claims, xdp->link.ifindex, xdp_claim_change, xdp);
    if (status)
        return port_fail(error, status, "out of memory");
    status = xdp_open_sockets(xdp, queue, error);
    if (!status)
        status = xdp_open_program(xdp, config->flags & AMS_PORT_ALL, error);
    if (!status)
        status = xdp_open_epoll(xdp, error);
    if (!status)
        status = xdp_station(&xdp->port, xdp->link.mac, error);
    return status ? status : xdp_attach(xdp, error);
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
    info->mtu = config->mtu ? config->mtu : xdp->link.mtu;
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
    .close = xdp_close,
};
