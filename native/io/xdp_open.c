/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_open.c - opening an XDP port: sockets, maps, program, link; and why it
 * may be refused, with what to do about it.
 */
#define _GNU_SOURCE /* EPOLL_CLOEXEC under -std=c11 */

#include "io/xdp.h"

#include <ctype.h>
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/bpf.h"
#include "wire/proto.h"

#define ALL_QUEUES UINT32_MAX
#define QUEUES_MAX 256u
#define LOG_SIZE 65536u
#define LOG_SHOWN 200u                 /* bytes of the verifier's log in an error's text */
#define SMALL_CHUNK 2048u
#define LARGE_CHUNK 4096u
#define TX_CHUNKS 2048u

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

/* Makes maps and program.  Return: 0 or -errno. */
static int xdp_load(struct xdp_port *xdp, uint32_t flags, char *log)
{
    int status = xdp_maps_init(&xdp->maps, xdp->link.queues);

    if (status)
        return status;
    xdp->program = xdp_program_new(&xdp->maps, flags, log, LOG_SIZE);
    if (xdp->program >= 0)
        return 0;
    xdp_maps_fini(&xdp->maps);
    return xdp->program;
}

/* The same where maps count as locked memory (before Linux 5.11), of which
 * there is too little as a rule: once more without a limit, if that may be. */
static int xdp_load_unlimited(struct xdp_port *xdp, uint32_t flags, char *log)
{
    const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    struct rlimit before;
    int status = xdp_load(xdp, flags, log);

    if (status != -EPERM || getrlimit(RLIMIT_MEMLOCK, &before) < 0 || setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0)
        return status;
    status = xdp_load(xdp, flags, log);
    setrlimit(RLIMIT_MEMLOCK, &before);
    return status;
}

/* Makes the maps and the program, and tells it the sockets. */
static int xdp_open_program(struct xdp_port *xdp, bool all, const struct port_error *error)
{
    uint32_t flags = (all ? XDP_PROGRAM_ALL : 0) | (xdp->sockets[0].several ? XDP_PROGRAM_FRAGS : 0);
    char *log = mem_zalloc(1, LOG_SIZE);

    if (!log)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    int status = xdp_load_unlimited(xdp, flags, log);
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

int xdp_set_up(struct xdp_port *xdp, const char *text, const struct ams_port_config *config,
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
