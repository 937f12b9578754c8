/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_name.c - what a netmap port's name means.
 *
 * netmap's user-space syntax, read from the end: a port, then which of its
 * rings, then options.
 *
 *   eth0        all rings of a NIC        vale0:x    a port x of a VALE switch
 *   eth0-2      one pair of its rings     eth0{1     end of pipe 1 of eth0
 *   eth0^       its host rings            vale0:x}1  the other end of a pipe
 *   eth0*       NIC and host rings
 *   .../x       nobody else may open it   ...@7      rings in memory region 7
 *
 * The kernel gets the port only; all else is fields of the request.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/status.h"
#include "io/netmap.h"

#define LINK_MAX 15u /* IFNAMSIZ - 1, on Linux and FreeBSD */

/* A decimal number that ends where text ends.
 * Return: -1 if it is none, or above 65535. */
static long name_number(const char *text)
{
    char *end;

    if (!isdigit((unsigned char)*text))
        return -1;
    unsigned long value = strtoul(text, &end, 10);
    return *end || value > 65535 ? -1 : (long)value;
}

/* Cuts the options "/x" and "@N" off the end.  Return: 0 or a status. */
static int name_cut_options(char *text, struct netmap_name *name, const struct port_error *error)
{
    for (char *at; (at = strpbrk(text, "/@")) != NULL;) {
        char *last = at;
        for (char *more = at; (more = strpbrk(more, "/@")) != NULL; more++)
            last = more;
        if (*last == '/' && strcmp(last + 1, "x") == 0) {
            name->flags |= NM_FLAG_EXCLUSIVE;
        } else if (*last == '@' && name_number(last + 1) > 0) {
            name->mem_id = (uint16_t)name_number(last + 1);
        } else {
            return port_fail(error, -AMS_EINVAL, "'%.40s' is no option of a netmap port: /x (exclusive) and @N "
                             "(memory region N) are", last);
        }
        *last = '\0';
    }
    return 0;
}

/* Cuts "^", "*" or "-N" off the end. */
static void name_cut_mode(char *text, struct netmap_name *name)
{
    size_t length = strlen(text);
    char *dash = strrchr(text, '-');

    name->mode = NM_MODE_ALL_NIC;
    if (dash && dash != text && name_number(dash + 1) >= 0) {
        name->ringid = (uint16_t)name_number(dash + 1);
        name->mode = NM_MODE_ONE_NIC;
        *dash = '\0';
        if (dash[-1] == '^') {
            name->mode = NM_MODE_ONE_SW;
            dash[-1] = '\0';
        }
    } else if (length && text[length - 1] == '^') {
        name->mode = NM_MODE_SW;
        text[length - 1] = '\0';
    } else if (length && text[length - 1] == '*') {
        name->mode = NM_MODE_NIC_SW;
        text[length - 1] = '\0';
    }
}

bool netmap_claims_spec(const char *spec)
{
    const char *colon = strchr(spec, ':');

    if (strncmp(spec, "vale", 4) != 0 || !colon)
        return false;
    for (const char *at = spec + 4; at < colon; at++) {
        if (!isalnum((unsigned char)*at))
            return false;
    }
    return true;
}

/* Says what kind of port text names.  Return: 0 or a status. */
static int name_classify(const char *text, struct netmap_name *name, const struct port_error *error)
{
    bool host = name->mode == NM_MODE_SW || name->mode == NM_MODE_NIC_SW || name->mode == NM_MODE_ONE_SW;
    const char *pipe = strpbrk(text, "{}");

    name->kind = pipe ? NETMAP_PIPE : netmap_claims_spec(text) ? NETMAP_VALE : NETMAP_NIC;
    if (pipe && (pipe == text || !pipe[1] || strpbrk(pipe + 1, "{}")))
        return port_fail(error, -AMS_EINVAL, "'%.40s' is no netmap pipe: write netmap:eth0{1 and netmap:eth0}1 for "
                         "the two ends of one", text);
    if (name->kind == NETMAP_VALE && !strchr(text, ':')[1])
        return port_fail(error, -AMS_EINVAL, "'%.40s' lacks the name of a port of that VALE switch, as in vale0:x",
                         text);
    if (name->kind == NETMAP_PIPE && pipe - text <= LINK_MAX && !memchr(text, ':', (size_t)(pipe - text)))
        memcpy(name->link, text, (size_t)(pipe - text));
    if (name->kind != NETMAP_NIC)
        return host ? port_fail(error, -AMS_EINVAL, "'%.40s' has no host rings: only network interfaces do", text) : 0;
    if (strlen(text) > LINK_MAX)
        return port_fail(error, -AMS_EINVAL, "interface name '%.40s' is too long: at most %u characters", text,
                         LINK_MAX);
    if (strpbrk(text, ": \t\n%*^"))
        return port_fail(error, -AMS_EINVAL, "'%.40s' is not the name of an interface: write netmap:eth0, or "
                         "netmap:eth0* to share it with the operating system", text);
    memcpy(name->link, text, strlen(text) + 1);
    return 0;
}

int netmap_parse(const char *text, struct netmap_name *name, const struct port_error *error)
{
    char copy[128];
    size_t length = strlen(text);

    memset(name, 0, sizeof(*name));
    if (length >= sizeof(copy))
        return port_fail(error, -AMS_EINVAL, "port name '%.40s...' is too long", text);
    memcpy(copy, text, length + 1);
    int status = name_cut_options(copy, name, error);
    if (status)
        return status;
    name_cut_mode(copy, name);
    length = strlen(copy);
    if (!length)
        return port_fail(error, -AMS_EINVAL, "a netmap port needs the name of an interface, of a VALE port or of a "
                         "pipe, as in netmap:eth0, vale0:x or netmap:eth0{1");
    if (length >= sizeof(name->port))
        return port_fail(error, -AMS_EINVAL, "port name '%.40s...' is too long: at most %zu characters", copy,
                         sizeof(name->port) - 1);
    status = name_classify(copy, name, error);
    memcpy(name->port, copy, length + 1);
    return status;
}
