/* SPDX-License-Identifier: BSD-2-Clause
 *
 * sockopt.c - getsockopt and setsockopt as Linux has them.
 *
 * Options set before a socket is bound to anything are kept and applied when
 * the engine learns of it.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "linux_info.h"
#include "world.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef TCP_INQ
#define TCP_INQ 36
#endif
#define MEMINFO_VARS 9
#define TCP_CC_INFO_NAME 26

/* Options that are one int for the engine too. */
static const struct {
    int level;
    int name;
    int engine;
} numbers[] = {
    {SOL_TCP, TCP_NODELAY, AMS_OPT_NODELAY},
    {SOL_TCP, TCP_CORK, AMS_OPT_CORK},
    {SOL_TCP, TCP_KEEPIDLE, AMS_OPT_KEEPIDLE},
    {SOL_TCP, TCP_KEEPINTVL, AMS_OPT_KEEPINTVL},
    {SOL_TCP, TCP_KEEPCNT, AMS_OPT_KEEPCNT},
    {SOL_TCP, TCP_QUICKACK, AMS_OPT_QUICKACK},
    {SOL_TCP, TCP_USER_TIMEOUT, AMS_OPT_USER_TIMEOUT},
    {SOL_TCP, TCP_MAXSEG, AMS_OPT_MAXSEG},
    {SOL_TCP, TCP_SYNCNT, AMS_OPT_SYNCNT},
    {SOL_TCP, TCP_LINGER2, AMS_OPT_LINGER2},
    {SOL_TCP, TCP_WINDOW_CLAMP, AMS_OPT_WINDOW_CLAMP},
    {SOL_TCP, TCP_FASTOPEN, AMS_OPT_FASTOPEN},
    {SOL_TCP, TCP_FASTOPEN_CONNECT, AMS_OPT_FASTOPEN_CONNECT},
    {SOL_SOCKET, SO_KEEPALIVE, AMS_OPT_KEEPALIVE},
    {SOL_SOCKET, SO_RCVBUF, AMS_OPT_RCVBUF},
};

static int engine_name(int level, int name)
{
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if (numbers[i].level == level && numbers[i].name == name)
            return numbers[i].engine;
    return 0;
}

/* ---- set ------------------------------------------------------------------------------ */

void sockopt_apply(struct pd_world *world, struct pd_file *file)
{
    for (int i = 0; i < file->n_options; i++)
        ams_tcp_setopt(world->stack, file->id, file->options[i].name, file->options[i].value);
    if (file->congestion[0])
        ams_tcp_set_congestion(world->stack, file->id, file->congestion);
    /* the sysctl's may be all zeros, which is none in the engine's configuration */
    if (file->state == PD_LISTENING && (file->fastopen_keyed || settings_fastopen_key(file->fastopen_key)))
        ams_tcp_fastopen_key(world->stack, file->id, file->fastopen_key, sizeof(file->fastopen_key));
}

/* TCP_FASTOPEN_KEY: of this listener, or of one that the socket will be. */
static int set_fastopen_key(struct pd_world *world, struct pd_file *file, const void *value, socklen_t len)
{
    if (len != sizeof(file->fastopen_key)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(file->fastopen_key, value, sizeof(file->fastopen_key));
    file->fastopen_keyed = true;
    if (file->id >= 0)
        sockopt_apply(world, file);
    return 0;
}

/* TCP_FASTOPEN_CONNECT: before connect(), and only where the client may. */
static int set_fastopen_connect(struct pd_world *world, struct pd_file *file, int value)
{
    if (value < 0 || value > 1 || file->state != PD_NEW) {
        errno = EINVAL;
        return -1;
    }
    if (!(settings_fastopen(world) & AMS_FASTOPEN_CLIENT)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    file->fastopen_connect = value;
    return 0;
}

/* Sets now, or keeps for later. */
static int set_engine(struct pd_world *world, struct pd_file *file, int name, int value)
{
    if (file->id >= 0) {
        int status = ams_tcp_setopt(world->stack, file->id, name, value);
        return status < 0 ? world_fail(status) : 0;
    }
    for (int i = 0; i < file->n_options; i++)
        if (file->options[i].name == name) {
            file->options[i].value = value;
            return 0;
        }
    if (file->n_options == PD_OPTIONS) {
        errno = ENOBUFS;
        return -1;
    }
    file->options[file->n_options++] = (struct pd_option){name, value};
    return 0;
}

static int set_congestion(struct pd_world *world, struct pd_file *file, const void *value, socklen_t len)
{
    snprintf(file->congestion, sizeof(file->congestion), "%.*s", (int)len, (const char *)value);
    if (file->id < 0)
        return 0;
    int status = ams_tcp_set_congestion(world->stack, file->id, file->congestion);
    if (status == 0)
        return 0;
    errno = ENOENT; /* what Linux says of a name that it doesn't know */
    return -1;
}

static int set_linger(struct pd_world *world, struct pd_file *file, const void *value, socklen_t len)
{
    struct linger linger;
    if (len < sizeof(linger)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&linger, value, sizeof(linger));
    return set_engine(world, file, AMS_OPT_LINGER, linger.l_onoff ? linger.l_linger : -1);
}

/* Options of the IP layer and the socket layer that change nothing here. */
static bool harmless(int level, int name)
{
    if (level == SOL_SOCKET)
        return name == SO_REUSEADDR || name == SO_REUSEPORT || name == SO_MARK || name == SO_PRIORITY || name == SO_TIMESTAMP || name == SO_TIMESTAMPNS;
    return level == SOL_IP || level == SOL_IPV6;
}

/* Options that are the adapter's, not the engine's.  Return: false if it is none. */
static bool set_own(struct pd_world *world, struct pd_file *file, int level, int name, int value, int *status)
{
    *status = 0;
    if (level == SOL_TCP && name == TCP_NOTSENT_LOWAT) {
        file->notsent_lowat = (uint32_t)value;
        file->changes++;
    } else if (level == SOL_TCP && name == TCP_INQ) {
        file->inq = value;
    } else if (level == SOL_SOCKET && name == SO_SNDBUF) {
        sendbuf_set(file, value);
    } else if (level == SOL_SOCKET && name == SO_ZEROCOPY) {
        file->errors.zerocopy = value;
    } else if (level == SOL_SOCKET && name == SO_TIMESTAMPING) {
        *status = errqueue_timestamping(world, file, value);
    } else if (level == SOL_TCP && name == TCP_FASTOPEN_CONNECT) {
        *status = set_fastopen_connect(world, file, value);
    } else {
        return false;
    }
    return true;
}

int sockopt_set(struct pd_world *world, int fd, int level, int name, const void *value, socklen_t len)
{
    struct pd_file *file = world_file(world, fd, PD_TCP);
    int number = 0, status;
    if (!file)
        return -1;
    if (!value && len) {
        errno = EFAULT;
        return -1;
    }
    if (level == SOL_TCP && name == TCP_CONGESTION)
        return set_congestion(world, file, value, len);
    if (level == SOL_SOCKET && name == SO_LINGER)
        return set_linger(world, file, value, len);
    if (level == SOL_TCP && name == TCP_FASTOPEN_KEY)
        return set_fastopen_key(world, file, value, len);
    if (harmless(level, name))
        return 0;
    if (len < sizeof(number)) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&number, value, sizeof(number));
    if (set_own(world, file, level, name, number, &status))
        return status;
    int engine = engine_name(level, name);
    if (!engine) {
        errno = ENOPROTOOPT;
        return -1;
    }
    if (level == SOL_SOCKET && name == SO_RCVBUF) /* socket(7): doubled */
        number = number > (1 << 29) ? 1 << 30 : number * 2;
    return set_engine(world, file, engine, number);
}

/* ---- get ------------------------------------------------------------------------------- */

static int put(void *value, socklen_t *len, const void *from, socklen_t size)
{
    *len = *len < size ? *len : size;
    memcpy(value, from, *len);
    return 0;
}

static int get_info(struct pd_world *world, struct pd_file *file, void *value, socklen_t *len)
{
    struct ams_tcp_info info = {.state = AMS_TCP_CLOSED};
    struct linux_tcp_info out;
    if (file->id >= 0)
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
    if (info.last_data_received > world->now - file->connected_at)
        info.last_data_received = world->now - file->connected_at; /* none yet: Linux counts from the handshake */
    linux_info_fill(&out, &info);
    out.sndbuf_limited = sendbuf_limited(world, file) / 1000;
    return put(value, len, &out, sizeof(out));
}

static int get_meminfo(struct pd_world *world, struct pd_file *file, void *value, socklen_t *len)
{
    struct ams_tcp_info info = {0};
    uint32_t out[MEMINFO_VARS] = {0};
    int rcvbuf = 0;
    if (file->id >= 0) {
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
        ams_tcp_getopt(world->stack, file->id, AMS_OPT_RCVBUF, &rcvbuf);
    }
    out[0] = info.recv_queue;
    out[1] = (uint32_t)rcvbuf;
    out[3] = sendbuf_limit(file);
    out[5] = sendbuf_used(file);
    return put(value, len, out, sizeof(out));
}

static int get_linger(struct pd_world *world, struct pd_file *file, void *value, socklen_t *len)
{
    int seconds = -1;
    if (file->id >= 0)
        ams_tcp_getopt(world->stack, file->id, AMS_OPT_LINGER, &seconds);
    struct linger linger = {seconds >= 0, seconds >= 0 ? seconds : 0};
    return put(value, len, &linger, sizeof(linger));
}

/* What was set before the id existed. */
static bool kept_option(const struct pd_file *file, int name, int *value)
{
    for (int i = 0; i < file->n_options; i++)
        if (file->options[i].name == name) {
            *value = file->options[i].value;
            return true;
        }
    return false;
}

/* SO_ERROR reports once. */
static int take_error(struct pd_world *world, struct pd_file *file)
{
    int error = 0, status = 0;
    if (file->state == PD_CLOSED && file->error && !file->told) {
        error = file->error;
        file->told = true;
    } else if (file->id >= 0 && file->state != PD_CLOSED) {
        ams_tcp_getopt(world->stack, file->id, AMS_OPT_ERROR, &status);
        error = status < 0 ? ams_status_errno(status) : 0;
    }
    return error;
}

int sockopt_get(struct pd_world *world, int fd, int level, int name, void *value, socklen_t *len)
{
    struct pd_file *file = world_file(world, fd, PD_TCP);
    int number = 0;
    if (!file)
        return -1;
    if (!len || !value) {
        errno = EFAULT;
        return -1;
    }
    if (level == SOL_TCP && name == TCP_INFO)
        return get_info(world, file, value, len);
    if (level == SOL_SOCKET && name == SO_MEMINFO)
        return get_meminfo(world, file, value, len);
    if (level == SOL_SOCKET && name == SO_LINGER)
        return get_linger(world, file, value, len);
    if (level == SOL_TCP && name == TCP_CC_INFO_NAME) { /* no algorithm publishes any */
        *len = 0;
        return 0;
    }
    if (level == SOL_TCP && name == TCP_CONGESTION) {
        struct ams_tcp_info info = {0};
        if (file->id >= 0)
            ams_tcp_get_info(world->stack, file->id, &info, world->now);
        return put(value, len, info.congestion, sizeof(info.congestion));
    }
    int engine = engine_name(level, name);
    if (level == SOL_SOCKET && name == SO_ERROR) {
        number = take_error(world, file);
    } else if (level == SOL_TCP && name == TCP_NOTSENT_LOWAT) {
        number = (int)file->notsent_lowat;
    } else if (level == SOL_TCP && name == TCP_INQ) {
        number = file->inq;
    } else if (level == SOL_SOCKET && name == SO_SNDBUF) {
        number = (int)sendbuf_limit(file);
    } else if (level == SOL_SOCKET && name == SO_ZEROCOPY) {
        number = file->errors.zerocopy;
    } else if (!engine) {
        errno = ENOPROTOOPT;
        return -1;
    } else if (file->id >= 0) {
        int status = ams_tcp_getopt(world->stack, file->id, engine, &number);
        if (status < 0)
            return world_fail(status);
    } else {
        kept_option(file, engine, &number);
    }
    return put(value, len, &number, sizeof(number));
}
