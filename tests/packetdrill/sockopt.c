/* SPDX-License-Identifier: BSD-2-Clause
 *
 * sockopt.c - getsockopt and setsockopt as Linux has them.
 *
 * Options set before a socket is bound to anything are kept and applied when
 * the engine learns of it; until then what was kept answers, or what Linux
 * says of a new socket.
 */
#include <errno.h>
#include <limits.h>
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
#define MAXSEG_LEAST 88
#define MEMINFO_VARS 9
#define TCP_CC_INFO_NAME 26

/* Options that are one int for the engine too: what Linux takes for them, what
 * a new socket says, and the sysctl that says otherwise. */
static const struct number {
    int level;
    int name;
    int engine;
    int least, most;
    int fallback;
    const char *sysctl;
} numbers[] = {
    {SOL_TCP, TCP_NODELAY, AMS_OPT_NODELAY, INT_MIN, INT_MAX, 0, NULL},
    {SOL_TCP, TCP_CORK, AMS_OPT_CORK, INT_MIN, INT_MAX, 0, NULL},
    {SOL_TCP, TCP_KEEPIDLE, AMS_OPT_KEEPIDLE, 1, 32767, 7200, "tcp_keepalive_time"},
    {SOL_TCP, TCP_KEEPINTVL, AMS_OPT_KEEPINTVL, 1, 32767, 75, "tcp_keepalive_intvl"},
    {SOL_TCP, TCP_KEEPCNT, AMS_OPT_KEEPCNT, 1, 127, 9, "tcp_keepalive_probes"},
    {SOL_TCP, TCP_QUICKACK, AMS_OPT_QUICKACK, INT_MIN, INT_MAX, 1, NULL},
    {SOL_TCP, TCP_USER_TIMEOUT, AMS_OPT_USER_TIMEOUT, 0, INT_MAX, 0, NULL},
    {SOL_TCP, TCP_MAXSEG, AMS_OPT_MAXSEG, 0, 32767, 536, NULL},
    {SOL_TCP, TCP_SYNCNT, AMS_OPT_SYNCNT, 1, 127, 6, "tcp_syn_retries"},
    {SOL_TCP, TCP_LINGER2, AMS_OPT_LINGER2, INT_MIN, INT_MAX, 60, "tcp_fin_timeout"},
    {SOL_TCP, TCP_WINDOW_CLAMP, AMS_OPT_WINDOW_CLAMP, 0, INT_MAX, 0, NULL},
    {SOL_TCP, TCP_DEFER_ACCEPT, AMS_OPT_DEFER_ACCEPT, INT_MIN, INT_MAX, 0, NULL},
    {SOL_TCP, TCP_FASTOPEN, AMS_OPT_FASTOPEN, 0, INT_MAX, 0, NULL},
    {SOL_SOCKET, SO_KEEPALIVE, AMS_OPT_KEEPALIVE, INT_MIN, INT_MAX, 0, NULL},
    {SOL_SOCKET, SO_RCVBUF, AMS_OPT_RCVBUF, INT_MIN, INT_MAX, 131072, NULL},
    {SOL_IP, IP_TOS, AMS_OPT_TOS, INT_MIN, INT_MAX, 0, NULL},
    {SOL_IP, IP_TTL, AMS_OPT_TTL, -1, 255, 64, NULL},
    {SOL_IPV6, IPV6_TCLASS, AMS_OPT_TCLASS, -1, 255, 0, NULL},
    {SOL_IPV6, IPV6_UNICAST_HOPS, AMS_OPT_HOPS, -1, 255, 64, NULL},
};

#define N_NUMBERS (sizeof(numbers) / sizeof(*numbers))

static const struct number *number_find(int level, int name)
{
    for (size_t i = 0; i < N_NUMBERS; i++)
        if (numbers[i].level == level && numbers[i].name == name)
            return &numbers[i];
    return NULL;
}

/* What a new socket says. */
static int number_default(const struct number *number)
{
    if (number->level == SOL_SOCKET && number->name == SO_RCVBUF)
        return (int)settings_rmem(1);
    return number->sysctl ? (int)settings_number(number->sysctl, number->fallback) : number->fallback;
}

/* ---- set ------------------------------------------------------------------------------ */

void sockopt_apply(struct pd_world *world, struct pd_file *file)
{
    for (size_t i = 0; i < N_NUMBERS; i++)
        if (numbers[i].sysctl && number_default(&numbers[i]) != numbers[i].fallback)
            ams_tcp_setopt(world->stack, file->id, numbers[i].engine, number_default(&numbers[i]));
    for (int i = 0; i < file->n_options; i++) {
        const struct number *number = number_find(file->options[i].level, file->options[i].name);
        if (number)
            ams_tcp_setopt(world->stack, file->id, number->engine, file->options[i].value);
    }
    if (file->lingers)
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_LINGER, file->linger);
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

/* Keeps an option's value.  Return: 0 or -1 with errno. */
static int keep_option(struct pd_file *file, int level, int name, int value)
{
    int i = 0;
    while (i < file->n_options && (file->options[i].level != level || file->options[i].name != name))
        i++;
    if (i == PD_OPTIONS) {
        errno = ENOBUFS;
        return -1;
    }
    file->options[i] = (struct pd_option){level, name, value};
    file->n_options += i == file->n_options;
    return 0;
}

/* Sets now, or keeps for later. */
static int set_engine(struct pd_world *world, struct pd_file *file, const struct number *option, int value)
{
    if (file->id < 0)
        return keep_option(file, option->level, option->name, value);
    int status = ams_tcp_setopt(world->stack, file->id, option->engine, value);
    return status < 0 ? world_fail(status) : 0;
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
    file->lingers = true;
    file->linger = linger.l_onoff ? linger.l_linger : -1;
    if (file->id >= 0)
        ams_tcp_setopt(world->stack, file->id, AMS_OPT_LINGER, file->linger);
    return 0;
}

/* Options of the IP layer and the socket layer that change nothing here, but
 * are what they were set to. */
static bool harmless(int level, int name)
{
    if (level == SOL_SOCKET)
        return name == SO_REUSEADDR || name == SO_REUSEPORT || name == SO_MARK || name == SO_PRIORITY ||
               name == SO_TIMESTAMP || name == SO_TIMESTAMPNS || name == SO_OOBINLINE || name == SO_BROADCAST ||
               name == SO_DONTROUTE || name == SO_BUSY_POLL;
    return (level == SOL_IP || level == SOL_IPV6) && !number_find(level, name);
}

/* What an option is when it was set to a value: those of IP know defaults, and leave the ECN bits to TCP. */
static int number_taken(const struct number *number, int value)
{
    if (number->engine == AMS_OPT_TOS || number->engine == AMS_OPT_TCLASS)
        return value < 0 && number->engine == AMS_OPT_TCLASS ? 0 : value & 0xfc;
    return (number->engine == AMS_OPT_TTL || number->engine == AMS_OPT_HOPS) && value < 0 ? number->fallback : value;
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
    } else if (level == SOL_IPV6 && name == IPV6_V6ONLY) {
        file->v6only = value;
    } else if (harmless(level, name)) {
        keep_option(file, level, name, value);
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
    const struct number *option = number_find(level, name);
    if (len < sizeof(number) && harmless(level, name)) /* a byte for IP's, nothing for some */
        return 0;
    if (len < sizeof(number) && !(level == SOL_IP && option && len)) {
        errno = EINVAL;
        return -1;
    }
    if (len < sizeof(number))
        number = *(const uint8_t *)value;
    else
        memcpy(&number, value, sizeof(number));
    if (set_own(world, file, level, name, number, &status))
        return status;
    bool tiny = option && option->engine == AMS_OPT_MAXSEG && number && number < MAXSEG_LEAST;
    tiny |= option && option->engine == AMS_OPT_TTL && number == 0;
    if (!option || number < option->least || number > option->most || tiny) {
        errno = option ? EINVAL : ENOPROTOOPT;
        return -1;
    }
    if (level == SOL_SOCKET && name == SO_RCVBUF) /* socket(7): doubled */
        number = number > (1 << 29) ? 1 << 30 : number * 2;
    return set_engine(world, file, option, number_taken(option, number));
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
    int seconds = file->lingers ? file->linger : -1;
    if (file->id >= 0)
        ams_tcp_getopt(world->stack, file->id, AMS_OPT_LINGER, &seconds);
    struct linger linger = {seconds >= 0, seconds >= 0 ? seconds : 0};
    return put(value, len, &linger, sizeof(linger));
}

/* What was kept of an option; `missing` where nothing was. */
static int kept_option(const struct pd_file *file, int level, int name, int missing)
{
    for (int i = 0; i < file->n_options; i++)
        if (file->options[i].level == level && file->options[i].name == name)
            return file->options[i].value;
    return missing;
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

/* Those of the socket layer. */
static bool get_socket(struct pd_world *world, struct pd_file *file, int name, int *value)
{
    switch (name) {
    case SO_ERROR:
        *value = take_error(world, file);
        return true;
    case SO_SNDBUF:
        *value = (int)sendbuf_limit(file);
        return true;
    case SO_ZEROCOPY:
        *value = file->errors.zerocopy;
        return true;
    case SO_TIMESTAMPING:
        *value = (int)file->errors.timestamping;
        return true;
    case SO_TYPE:
        *value = SOCK_STREAM;
        return true;
    case SO_DOMAIN:
        *value = file->family;
        return true;
    case SO_PROTOCOL:
        *value = IPPROTO_TCP;
        return true;
    case SO_ACCEPTCONN:
        *value = file->state == PD_LISTENING;
        return true;
    case SO_RCVLOWAT:
    case SO_SNDLOWAT:
        *value = 1;
        return true;
    default:
        return false;
    }
}

static int get_congestion(struct pd_world *world, struct pd_file *file, void *value, socklen_t *len)
{
    struct ams_tcp_info info = {0};
    if (file->id >= 0)
        ams_tcp_get_info(world->stack, file->id, &info, world->now);
    else
        snprintf(info.congestion, sizeof(info.congestion), "%s", file->congestion[0] ? file->congestion : "cubic");
    return put(value, len, info.congestion, sizeof(info.congestion));
}

/* Options that the engine doesn't know.  Return: false if it is none. */
static bool get_own(struct pd_world *world, struct pd_file *file, int level, int name, int *value)
{
    if (level == SOL_TCP && name == TCP_NOTSENT_LOWAT)
        *value = (int)file->notsent_lowat;
    else if (level == SOL_TCP && name == TCP_INQ)
        *value = file->inq;
    else if (level == SOL_TCP && name == TCP_FASTOPEN_CONNECT)
        *value = file->fastopen_connect;
    else if (level == SOL_IPV6 && name == IPV6_V6ONLY)
        *value = file->v6only;
    else if (harmless(level, name))
        *value = kept_option(file, level, name, 0);
    else if (level == SOL_SOCKET)
        return get_socket(world, file, name, value);
    else
        return false;
    return true;
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
    if (level == SOL_TCP && name == TCP_CONGESTION)
        return get_congestion(world, file, value, len);
    if (!get_own(world, file, level, name, &number)) {
        const struct number *option = number_find(level, name);
        int status = -1;
        if (!option) {
            errno = ENOPROTOOPT;
            return -1;
        }
        if (file->id >= 0)
            status = ams_tcp_getopt(world->stack, file->id, option->engine, &number);
        if (status < 0) /* not yet, or no longer, known to the engine */
            number = kept_option(file, level, name, number_default(option));
    }
    return put(value, len, &number, sizeof(number));
}
