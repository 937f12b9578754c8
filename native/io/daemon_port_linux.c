/* SPDX-License-Identifier: BSD-2-Clause
 *
 * daemon_port_linux.c - `switch:PATH`: a port of the switch daemon.
 *
 * Theory of operation.  Frames pass through rings in shared memory (shm.c);
 * the Unix socket to the daemon carries claims, and shows by its end that the
 * daemon is gone.  The port's fd is an epoll instance over both.  The socket
 * is looked at when a receive finds nothing, so that it costs nothing under
 * load.
 *
 *   state      socket     rings   what happens
 *   UP         connected  mapped  frames pass
 *   DOWN       none       none    frames to send are dropped; DAEMON_RETRY later
 *                                 another attempt is made
 *   GREETING   connected  none    the welcome is awaited
 *   BROKEN     none       none    the daemon that came back is another one: rx()
 *                                 fails for good
 *
 * On the way from UP to DOWN port->lost is set: connections end, since their
 * peers' packets go to nobody from now on.  On the way back all tuples are
 * claimed anew with the kernel sockets that prove them, which were kept, so
 * that nobody else has taken them meanwhile; listeners notice nothing.
 */
#define _GNU_SOURCE /* program_invocation_short_name */

#include "io/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/flows.h"
#include "io/shm.h"
#include "wire/bytes.h"

#define DAEMON_RETRY (100 * AMS_NS_PER_MS)
#define DAEMON_GREETING (5 * AMS_NS_PER_S) /* a welcome later than this does not come */

enum daemon_state { DAEMON_DOWN, DAEMON_GREETING_SENT, DAEMON_UP, DAEMON_BROKEN };

struct daemon_port {
    struct shm_port shm;      /* first: what the world sees is shm.port */
    struct daemon daemon;
    struct daemon_grants grants;
    struct ams_port_identity identity;
    enum daemon_state state;
    int epoll_fd;
    int broken;               /* status of rx() when BROKEN */
    uint32_t flags;           /* AMS_PORT_* */
    uint32_t mtu;             /* as opened: no later daemon may have less */
    uint32_t caps;            /* likewise */
    uint64_t retry_at;        /* DOWN: the next attempt; GREETING: its end */
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static struct daemon_port *daemon_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct daemon_port, shm.port);
}

/* ---- going up and down ----------------------------------------------------------- */

/* Lets epoll_fd show that fd is readable. */
static int daemon_watch(const struct daemon_port *dp, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(dp->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? port_status(errno) : 0;
}

/* Connects and says hello.  Return: 0 or a status. */
static int daemon_hello(struct daemon_port *dp, struct port_error *error)
{
    struct ams_msg_hello hello;
    int status = daemon_connect(&dp->daemon, dp->path, error);

    if (status)
        return status;
    memset(&hello, 0, sizeof(hello));
    snprintf(hello.name, sizeof(hello.name), "%s", program_invocation_short_name);
    status = daemon_send(&dp->daemon, &hello.head, AMS_MSG_HELLO, sizeof(hello), -1);
    if (!status)
        status = daemon_watch(dp, dp->daemon.fd);
    if (status) {
        daemon_disconnect(&dp->daemon);
        return port_fail(error, status, "the switch at %s hung up", dp->path);
    }
    dp->state = DAEMON_GREETING_SENT;
    return 0;
}

/* Closes what a connection consists of.  The pipe is taken out of epoll_fd
 * first: others may hold it open, and it would stay there. */
static void daemon_cut(struct daemon_port *dp)
{
    daemon_disconnect(&dp->daemon);
    if (dp->state == DAEMON_UP) {
        epoll_ctl(dp->epoll_fd, EPOLL_CTL_DEL, dp->shm.notify_fd, NULL);
        shm_close_fds(&dp->shm);
    }
    dp->state = DAEMON_DOWN;
}

/* The daemon is gone.
 * @lost: what connections end with; 0 if there were none */
static void daemon_down(struct daemon_port *dp, int lost, uint64_t now)
{
    daemon_cut(dp);
    dp->retry_at = now + DAEMON_RETRY;
    if (lost)
        dp->shm.port.lost = lost;
}

/* Maps the rings that came with a welcome; info keeps its counts.
 * Return: 0 or a status. */
static int daemon_map(struct daemon_port *dp, const struct daemon_message *message, struct port_error *error)
{
    struct shm_fds fds = {message->fds[0], message->fds[1], message->fds[2]};
    struct ams_port old = dp->shm.port;
    int status = shm_open_fds(&dp->shm, old.ops, &fds, old.pool, dp->flags, error);

    if (!status) {
        dp->caps = dp->shm.port.info.caps;
        status = daemon_watch(dp, dp->shm.notify_fd);
        if (status)
            shm_close_fds(&dp->shm);
    }
    dp->shm.port = old;
    return status;
}

/* Checks a welcome.  Return: 0 or a status, with *error saying why. */
static int daemon_welcomed(struct daemon_port *dp, struct daemon_message *message, struct port_error *error)
{
    const struct ams_msg_welcome *welcome = &message->u.welcome;

    if (message->u.head.type != (AMS_MSG_HELLO | AMS_MSG_ANSWER))
        return port_fail(error, -AMS_EPROTO, "%s answers in a language of its own", dp->path);
    if (message->u.head.status < 0)
        return port_fail(error, message->u.head.status, "the switch at %s: %s", dp->path, daemon_reason(message));
    if (message->length < sizeof(*welcome) || message->n_fds != DAEMON_FDS ||
        welcome->identity.n_addresses > AMS_PORT_ADDRESSES || welcome->mtu < PORT_MTU_MIN)
        return port_fail(error, -AMS_EPROTO, "%s is not a switch of this version of aiomultistack", dp->path);
    return daemon_map(dp, message, error);
}

/* True if another daemon's identity will do for a stack made for the old one. */
static bool daemon_same(const struct daemon_port *dp, const struct ams_msg_welcome *welcome)
{
    const struct ams_port_identity *old = &dp->identity, *new = &welcome->identity;

    if (memcmp(old->mac, new->mac, 6) != 0 || old->n_addresses != new->n_addresses || welcome->mtu < dp->mtu ||
        dp->shm.port.info.caps & ~dp->caps)
        return false;
    for (uint32_t i = 0; i < old->n_addresses; i++) {
        if (!ip_equal(old->addresses[i].address.ip, new->addresses[i].address.ip))
            return false;
    }
    return true;
}

/* The daemon is back: everything is as it was, or nothing is. */
static void daemon_back(struct daemon_port *dp, struct daemon_message *message, uint64_t now)
{
    struct port_error quiet = {NULL, 0};
    int status = daemon_welcomed(dp, message, &quiet);

    if (status) {
        daemon_down(dp, 0, now);
        return;
    }
    dp->state = DAEMON_UP;
    status = daemon_same(dp, &message->u.welcome) ? grants_renew(&dp->grants, &dp->daemon) : -AMS_EADDRNOTAVAIL;
    if (status == -AMS_ENETDOWN || status == -AMS_ETIMEDOUT) {
        daemon_down(dp, 0, now);
    } else if (status) {
        daemon_cut(dp);
        dp->broken = status;
        dp->state = DAEMON_BROKEN;
    }
}

/* Looks at the socket, and at the clock when there is none. */
static void daemon_look(struct daemon_port *dp, uint64_t now)
{
    struct port_error quiet = {NULL, 0};
    struct daemon_message message;

    if (dp->state == DAEMON_DOWN && now >= dp->retry_at) {
        dp->retry_at = now + DAEMON_RETRY;
        if (daemon_hello(dp, &quiet) == 0)
            dp->retry_at = now + DAEMON_GREETING;
    }
    if (dp->state != DAEMON_UP && dp->state != DAEMON_GREETING_SENT)
        return;
    int status = daemon_receive(&dp->daemon, &message);
    if (status == -AMS_ENETDOWN)
        daemon_down(dp, dp->state == DAEMON_UP ? -AMS_ENETDOWN : 0, now);
    else if (!status && dp->state == DAEMON_GREETING_SENT)
        daemon_back(dp, &message, now);
    else if (status && dp->state == DAEMON_GREETING_SENT && now >= dp->retry_at)
        daemon_down(dp, 0, now);
    daemon_message_fini(&message);
}

/* ---- the verbs ------------------------------------------------------------------------ */

static int daemon_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now)
{
    struct daemon_port *dp = daemon_from(port);
    int taken = dp->state == DAEMON_UP ? shm_rx(port, frames, n, now) : 0;

    if (!taken)
        daemon_look(dp, now);
    return dp->state == DAEMON_BROKEN ? dp->broken : taken;
}

static int daemon_room(struct ams_port *port)
{
    return daemon_from(port)->state == DAEMON_UP ? shm_room(port) : PORT_BURST;
}

static int daemon_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now)
{
    if (daemon_from(port)->state == DAEMON_UP)
        return shm_tx(port, tx, n, now);
    port->info.tx_dropped += (uint64_t)n;
    return n;
}

static void daemon_flush(struct ams_port *port, uint64_t now)
{
    if (daemon_from(port)->state == DAEMON_UP)
        shm_flush(port, now);
}

static uint64_t daemon_deadline(struct ams_port *port)
{
    const struct daemon_port *dp = daemon_from(port);
    return dp->state == DAEMON_DOWN || dp->state == DAEMON_GREETING_SENT ? dp->retry_at : AMS_NEVER;
}

static int daemon_identity(struct ams_port *port, struct ams_port_identity *identity)
{
    *identity = daemon_from(port)->identity;
    return 0;
}

static int daemon_claim(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local, uint32_t flags)
{
    struct daemon_port *dp = daemon_from(port);

    (void)flags; /* the daemon always wants a proof */
    if (dp->state != DAEMON_UP) /* nothing new can begin, whatever covers it */
        return -AMS_ENETDOWN;
    return grants_add(&dp->grants, &dp->daemon, protocol, local);
}

static void daemon_release(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local)
{
    struct daemon_port *dp = daemon_from(port);
    grants_remove(&dp->grants, &dp->daemon, protocol, local);
}

static int daemon_show(struct ams_port *port, int fd)
{
    return grants_show(&daemon_from(port)->grants, fd);
}

static int daemon_lend(struct ams_port *port, uint16_t *low, uint16_t *high)
{
    struct daemon_port *dp = daemon_from(port);
    return dp->state == DAEMON_UP ? grants_lend(&dp->grants, &dp->daemon, low, high) : -AMS_ENETDOWN;
}

static int daemon_lookup(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *address)
{
    struct daemon_port *dp = daemon_from(port);
    struct ams_msg_tuple request;
    struct daemon_message answer;

    if (dp->state != DAEMON_UP)
        return -AMS_ENETDOWN;
    memset(&request, 0, sizeof(request));
    request.local = *address;
    request.protocol = protocol;
    int status = daemon_call(&dp->daemon, &request.head, AMS_MSG_LOOKUP, sizeof(request), -1, &answer);
    if (!status)
        status = answer.length < sizeof(answer.u.tuple) ? -AMS_EPROTO : answer.u.tuple.index >= 0;
    daemon_message_fini(&answer);
    return status;
}

static void daemon_flow(struct ams_port *port, const struct ams_endpoint *local, const struct ams_endpoint *remote,
                        bool begins)
{
    struct daemon_port *dp = daemon_from(port);

    if (dp->state == DAEMON_UP && dp->shm.region.flows)
        (begins ? flows_add : flows_remove)(dp->shm.region.flows, local, remote);
}

/* ---- opening and closing ---------------------------------------------------------------- */

static void daemon_close(struct ams_port *port)
{
    struct daemon_port *dp = daemon_from(port);

    daemon_cut(dp);
    grants_fini(&dp->grants);
    if (dp->epoll_fd >= 0)
        close(dp->epoll_fd);
    mem_free(dp);
}

/* Waits for the welcome of the first daemon. */
static int daemon_first(struct daemon_port *dp, struct port_error *error)
{
    struct ams_msg_hello hello;
    struct daemon_message message;
    int status = daemon_connect(&dp->daemon, dp->path, error);

    if (status)
        return status;
    memset(&hello, 0, sizeof(hello));
    snprintf(hello.name, sizeof(hello.name), "%s", program_invocation_short_name);
    status = daemon_call(&dp->daemon, &hello.head, AMS_MSG_HELLO, sizeof(hello), -1, &message);
    if (message.length)
        status = daemon_welcomed(dp, &message, error);
    else if (status == -AMS_ENETDOWN)
        status = port_fail(error, -AMS_EACCES, "the switch at %s hung up: this user may not attach (its --allow)",
                           dp->path);
    else
        status = port_fail(error, status, "the switch at %s does not answer", dp->path);
    if (!status) {
        dp->state = DAEMON_UP;
        dp->identity = message.u.welcome.identity;
        dp->mtu = message.u.welcome.mtu;
        status = daemon_watch(dp, dp->daemon.fd);
    }
    daemon_message_fini(&message);
    return status;
}

static int daemon_open(struct ams_port **port, const char *name, const struct ams_port_config *config,
                       struct frame_pool *pool, struct port_error *error)
{
    struct daemon_port *dp = mem_zalloc(1, sizeof(*dp));

    if (!dp)
        return port_fail(error, -AMS_ENOMEM, "out of memory");
    dp->daemon.fd = -1;
    dp->shm.port.ops = &switch_ops;
    dp->shm.port.pool = pool;
    dp->flags = config->flags;
    snprintf(dp->path, sizeof(dp->path), "%s", name);
    dp->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int status = 0;
    if (dp->epoll_fd < 0)
        status = port_fail(error, port_status(errno), "cannot make an epoll instance: %s", strerror(errno));
    if (!status && strlen(name) >= sizeof(dp->path))
        status = port_fail(error, -AMS_EINVAL, "the name of the socket is too long: %s", name);
    if (!status)
        status = daemon_first(dp, error);
    if (!status && config->mtu > dp->mtu)
        status = port_fail(error, -AMS_EINVAL, "MTU %u is above the switch's, %u", config->mtu, dp->mtu);
    if (status) {
        daemon_close(&dp->shm.port);
        return status;
    }
    struct ams_port_info *info = &dp->shm.port.info;
    memcpy(info->mac, dp->identity.mac, 6);
    dp->mtu = info->mtu = config->mtu ? config->mtu : dp->mtu;
    info->fd = dp->epoll_fd;
    info->caps = dp->caps;
    *port = &dp->shm.port;
    return 0;
}

const struct port_ops switch_ops = {
    .scheme = "switch",
    .open = daemon_open,
    .rx = daemon_rx,
    .room = daemon_room,
    .tx = daemon_tx,
    .flush = daemon_flush,
    .deadline = daemon_deadline,
    .identity = daemon_identity,
    .claim = daemon_claim,
    .release = daemon_release,
    .show = daemon_show,
    .lend = daemon_lend,
    .lookup = daemon_lookup,
    .flow = daemon_flow,
    .close = daemon_close,
};
