/* SPDX-License-Identifier: BSD-2-Clause
 *
 * port.c - finding the driver for a port's name, and raw access to a port.
 */
#include "io/port.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/status.h"
#include "wire/bytes.h"
#include "wire/checksum.h"
#include "wire/proto.h"

int port_fail(const struct port_error *error, int status, const char *format, ...)
{
    va_list args;

    if (error->size) {
        va_start(args, format);
        vsnprintf(error->text, error->size, format, args);
        va_end(args);
    }
    return status;
}

int port_status(int number)
{
    switch (number) {
    case ENOMEM: return -AMS_ENOMEM;
    case EINVAL: return -AMS_EINVAL;
    case EPERM: return -AMS_EPERM;
    case EACCES: return -AMS_EACCES;
    case ENOENT:
    case ENXIO:
    case ENODEV: return -AMS_ENODEV;
    case EBUSY: return -AMS_EBUSY;
    case ENFILE:
    case EMFILE: return -AMS_EMFILE;
    case EADDRINUSE: return -AMS_EADDRINUSE;
    case EADDRNOTAVAIL: return -AMS_EADDRNOTAVAIL;
    case EAFNOSUPPORT: return -AMS_EAFNOSUPPORT;
    case ENOBUFS: return -AMS_ENOBUFS;
    case ENETDOWN: return -AMS_ENETDOWN;
    case EOPNOTSUPP: return -AMS_EOPNOTSUPP;
    default: return -AMS_EIO;
    }
}

/* Says which schemes there are.  Return: -AMS_EINVAL. */
static int port_unknown(const char *spec, const struct port_error *error)
{
    char known[128];
    size_t used = 0;

    for (size_t i = 0; port_drivers[i]; i++) {
        int more = snprintf(known + used, sizeof(known) - used, "%s%s:", i ? ", " : "", port_drivers[i]->scheme);
        used = more > 0 && used + (size_t)more < sizeof(known) ? used + (size_t)more : sizeof(known) - 1;
    }
    return port_fail(error, -AMS_EINVAL, "unknown port '%.60s': it must begin with one of %s as in tap:ams0", spec,
                     known);
}

int port_open(struct ams_port **port, const struct ams_port_config *config, struct frame_pool *pool,
              struct port_error *error)
{
    const char *spec = config->spec ? config->spec : "";

    *port = NULL;
    if (error->size)
        error->text[0] = '\0';
    if (config->mtu && (config->mtu < PORT_MTU_MIN || config->mtu > PORT_MTU_MAX))
        return port_fail(error, -AMS_EINVAL, "MTU %u is out of range: %u to %u are possible", config->mtu,
                         PORT_MTU_MIN, PORT_MTU_MAX);
    for (size_t i = 0; port_drivers[i]; i++) {
        const struct port_ops *ops = port_drivers[i];
        size_t length = strlen(ops->scheme);
        if (strncmp(spec, ops->scheme, length) == 0 && spec[length] == ':')
            return ops->open(port, spec + length + 1, config, pool, error);
        if (ops->knows && ops->knows(spec))
            return ops->open(port, spec, config, pool, error);
    }
    return port_unknown(spec, error);
}

int ams_port_open(struct ams_port **port, const struct ams_port_config *config, char *error, size_t error_size)
{
    struct port_error reason = {error, error ? error_size : 0};
    struct frame_pool *pool = mem_alloc(sizeof(*pool));
    struct ams_port_config raw = *config;

    *port = NULL;
    raw.flags |= PORT_RAW;
    if (!pool)
        return port_fail(&reason, -AMS_ENOMEM, "out of memory");
    frame_pool_init(pool, config->pool_frames ? config->pool_frames : PORT_POOL_FRAMES, false);
    int status = port_open(port, &raw, pool, &reason);
    if (status) {
        frame_pool_fini(pool);
        mem_free(pool);
        return status;
    }
    (*port)->own = pool;
    return 0;
}

void ams_port_close(struct ams_port *port)
{
    if (!port)
        return;
    struct frame_pool *own = port->own;
    port->ops->close(port);
    if (own) {
        frame_pool_fini(own);
        mem_free(own);
    }
}

void ams_port_info(struct ams_port *port, struct ams_port_info *info)
{
    if (port->ops->refresh)
        port->ops->refresh(port);
    *info = port->info;
}

int ams_port_send(struct ams_port *port, const char *frame, size_t length, uint64_t now)
{
    if (length < ETH_HEADER)
        return -AMS_EINVAL;
    if (length > port->info.mtu + ETH_HEADER || length > PORT_FRAME_MAX)
        return -AMS_EMSGSIZE;
    now = port_now(now);
    port->ops->flush(port, now);
    if (port->ops->room(port) < 1)
        return -AMS_EAGAIN;
    /* A copy, since a driver may write in front of the head. */
    struct ams_frame *copy = frame_new(port->pool, port_frame_class((uint32_t)length));
    if (!copy)
        return -AMS_ENOBUFS;
    memcpy(copy->data, frame, length);
    struct ams_tx tx;
    memset(&tx, 0, offsetof(struct ams_tx, frags));
    tx.head = copy->data;
    tx.head_len = tx.total = (uint32_t)length;
    int sent = port->ops->tx(port, &tx, 1, now);
    port->ops->flush(port, now);
    frame_free(copy);
    return sent < 0 ? sent : 0;
}

int ams_port_recv(struct ams_port *port, char *buffer, size_t size, uint64_t now)
{
    struct ams_frame *frame;
    int n = port->ops->rx(port, &frame, 1, port_now(now));

    if (n <= 0)
        return n ? n : -AMS_EAGAIN;
    int length = (int)frame->len;
    memcpy(buffer, frame->data, frame->len < size ? frame->len : size);
    frame_free(frame);
    return length;
}

int ams_port_forward(struct ams_port *from, struct ams_port *to, int max, uint64_t now)
{
    if (from == to || max < 0)
        return -AMS_EINVAL;
    return from->ops->forward ? from->ops->forward(from, to, max, port_now(now)) : -AMS_EOPNOTSUPP;
}

/* ---- links that are shared ---------------------------------------------------- */

int ams_port_identity(struct ams_port *port, struct ams_port_identity *identity)
{
    return port->ops->identity ? port->ops->identity(port, identity) : -AMS_EOPNOTSUPP;
}

int ams_port_claim(struct ams_port *port, int protocol, const struct ams_endpoint *local)
{
    if ((protocol != PROTO_TCP && protocol != PROTO_UDP) || !local->port)
        return -AMS_EINVAL;
    return port->ops->claim ? port->ops->claim(port, (uint8_t)protocol, local, PORT_PROVE) : -AMS_EOPNOTSUPP;
}

int ams_port_release(struct ams_port *port, int protocol, const struct ams_endpoint *local)
{
    if ((protocol != PROTO_TCP && protocol != PROTO_UDP) || !local->port)
        return -AMS_EINVAL;
    if (!port->ops->release)
        return -AMS_EOPNOTSUPP;
    port->ops->release(port, (uint8_t)protocol, local);
    return 0;
}

int ams_port_show(struct ams_port *port, int fd)
{
    return port->ops->show ? port->ops->show(port, fd) : -AMS_EOPNOTSUPP;
}

int ams_port_lend(struct ams_port *port, uint16_t *low, uint16_t *high)
{
    return port->ops->lend ? port->ops->lend(port, low, high) : -AMS_EOPNOTSUPP;
}

int ams_port_lookup(struct ams_port *port, int protocol, const struct ams_endpoint *address)
{
    if (protocol != PROTO_TCP && protocol != PROTO_UDP)
        return -AMS_EINVAL;
    return port->ops->lookup ? port->ops->lookup(port, (uint8_t)protocol, address) : -AMS_EOPNOTSUPP;
}

void port_finish_csum(const struct ams_tx *tx)
{
    uint32_t start = tx->csum_start, length = tx->head_len - start, offset = length;

    AMS_ASSERT(start + tx->csum_offset + 2u <= tx->head_len);
    uint64_t sum = checksum_add(0, tx->head + start, length);
    for (uint32_t i = 0; i < tx->n_frags; i++) {
        sum = checksum_add_at(sum, tx->frags[i].data, tx->frags[i].len, offset);
        offset += tx->frags[i].len;
    }
    uint16_t checksum = checksum_finish(sum);
    if (!checksum && tx->csum_offset == 6) /* RFC 768: zero would mean "none" */
        checksum = 0xffff;
    store_be16(tx->head + start + tx->csum_offset, checksum);
}
