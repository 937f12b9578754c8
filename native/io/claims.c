/* SPDX-License-Identifier: BSD-2-Clause */
#define _GNU_SOURCE /* SOCK_CLOEXEC under -std=c11 */

#include "io/claims.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"
#include "io/port.h"
#include "wire/bytes.h"
#include "wire/ipv6.h"
#include "wire/proto.h"

#define CLAIMS_FIRST 64u /* slots to begin with */

static const uint8_t any4[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
static const uint8_t any6[16];

static bool key_is_wildcard(const struct claim_key *key)
{
    return ip_equal(key->ip, key->family == AMS_IPV4 ? any4 : any6);
}

static uint8_t ip_family(const uint8_t ip[16])
{
    return ip_is4(ip) ? AMS_IPV4 : AMS_IPV6;
}

/* ---- the table -------------------------------------------------------------------- */

_Static_assert(sizeof(struct claim_key) == 20, "hashed and compared as bytes");

/* FNV-1a: keys are chosen by the user of the port, not by the network. */
static uint32_t key_hash(const struct claim_key *key)
{
    uint8_t bytes[sizeof(*key)];
    uint32_t hash = 2166136261u;

    memcpy(bytes, key, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        hash = (hash ^ bytes[i]) * 16777619u;
    return hash ^ hash >> 15;
}

/* The slot of a key, or the free one where it would be. */
static struct claim *claims_slot(const struct claim_table *table, const struct claim_key *key)
{
    uint32_t i = key_hash(key) & table->mask;

    while (table->slots[i].refs && memcmp(&table->slots[i].key, key, sizeof(*key)) != 0)
        i = (i + 1) & table->mask;
    return &table->slots[i];
}

/* Makes room for one more.  Return: 0 or -AMS_ENOMEM. */
static int claims_grow(struct claim_table *table)
{
    if (table->slots && (table->used + 1) * 2 <= table->mask)
        return 0;
    struct claim_table bigger = *table;
    bigger.mask = table->slots ? table->mask * 2 + 1 : CLAIMS_FIRST - 1;
    bigger.slots = mem_zalloc(bigger.mask + 1, sizeof(*bigger.slots));
    if (!bigger.slots)
        return -AMS_ENOMEM;
    for (uint32_t i = 0; table->slots && i <= table->mask; i++) {
        if (table->slots[i].refs)
            *claims_slot(&bigger, &table->slots[i].key) = table->slots[i];
    }
    mem_free(table->slots);
    *table = bigger;
    return 0;
}

/* Frees a slot and moves those behind it that would not be found any more. */
static void claims_erase(struct claim_table *table, struct claim *claim)
{
    uint32_t hole = (uint32_t)(claim - table->slots);

    table->used--;
    for (uint32_t i = (hole + 1) & table->mask; table->slots[i].refs; i = (i + 1) & table->mask) {
        uint32_t home = key_hash(&table->slots[i].key) & table->mask;
        if (((i - home) & table->mask) < ((i - hole) & table->mask))
            continue;
        table->slots[hole] = table->slots[i];
        hole = i;
    }
    table->slots[hole].refs = 0;
}

int claims_init(struct claim_table *table, uint32_t ifindex,
                int (*change)(void *ctx, const struct claim_key *key, bool claimed), void *ctx)
{
    memset(table, 0, sizeof(*table));
    table->ifindex = ifindex;
    table->change = change;
    table->ctx = ctx;
    return claims_grow(table);
}

void claims_fini(struct claim_table *table)
{
    for (uint32_t i = 0; table->slots && i <= table->mask; i++) {
        if (table->slots[i].refs && table->slots[i].fd >= 0)
            close(table->slots[i].fd);
    }
    for (uint32_t i = 0; i < table->n_shown; i++)
        close(table->shown[i]);
    mem_free(table->slots);
    mem_free(table->addresses);
    memset(table, 0, sizeof(*table));
}

bool claims_shared(const struct claim_table *table, const uint8_t ip[16])
{
    for (uint32_t i = 0; i < table->n_addresses; i++) {
        if (ip_equal(table->addresses[i], ip))
            return true;
    }
    return false;
}

/* ---- proof ------------------------------------------------------------------------ */

/* The status for an errno of bind(2). */
static int proof_status(int number)
{
    switch (number) {
    case EADDRINUSE: return -AMS_EADDRINUSE;
    case EADDRNOTAVAIL: return -AMS_EADDRNOTAVAIL;
    case EAFNOSUPPORT: return -AMS_EAFNOSUPPORT;
    default: return port_status(number);
    }
}

/* A socket address of either family. */
union proof_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* True if a kernel socket is bound to a tuple, exactly or by a wildcard. */
static bool proof_covers(int fd, const struct claim_key *key)
{
    union proof_address address;
    socklen_t size = sizeof(address), length = sizeof(int);
    int type = 0, only6 = 1;
    uint8_t ip[16];

    memset(&address, 0, sizeof(address));
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || getsockname(fd, &address.any, &size) < 0 ||
        type != (key->protocol == PROTO_TCP ? SOCK_STREAM : SOCK_DGRAM))
        return false;
    if (address.any.sa_family == AF_INET) {
        ip_map4(ip, (const uint8_t *)&address.v4.sin_addr);
        return ntohs(address.v4.sin_port) == key->port && key->family == AMS_IPV4 &&
               (ip_equal(ip, key->ip) || ip_equal(ip, any4));
    }
    if (address.any.sa_family != AF_INET6 || ntohs(address.v6.sin6_port) != key->port)
        return false;
    memcpy(ip, &address.v6.sin6_addr, 16);
    if (!ip_equal(ip, any6))
        return ip_equal(ip, key->ip);
    length = sizeof(only6);
    return key->family == AMS_IPV6 ||
           (getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, &length) == 0 && !only6);
}

/* A copy of a shown socket that is bound to a tuple; -1 if there is none. */
static int proof_shown(const struct claim_table *table, const struct claim_key *key)
{
    for (uint32_t i = 0; i < table->n_shown; i++) {
        if (proof_covers(table->shown[i], key))
            return fcntl(table->shown[i], F_DUPFD_CLOEXEC, 0);
    }
    return -1;
}

/* Closes a shown socket. */
static void proof_drop(struct claim_table *table, uint32_t i)
{
    close(table->shown[i]);
    table->n_shown--;
    memmove(&table->shown[i], &table->shown[i + 1], (table->n_shown - i) * sizeof(table->shown[0]));
}

/* Binds a kernel socket to a tuple, if none was shown that is.
 * Return: its descriptor or a status. */
static int proof_bind(const struct claim_table *table, const struct claim_key *key)
{
    union proof_address address;
    int shown = proof_shown(table, key);

    if (shown >= 0)
        return shown;
    bool v4 = key->family == AMS_IPV4;
    int type = key->protocol == PROTO_TCP ? SOCK_STREAM : SOCK_DGRAM;
    int fd = socket(v4 ? AF_INET : AF_INET6, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return proof_status(errno);
    memset(&address, 0, sizeof(address));
    if (v4) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(key->port);
        memcpy(&address.v4.sin_addr, key->ip + 12, 4);
    } else {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(key->port);
        address.v6.sin6_scope_id = ipv6_is_link_local(key->ip) ? table->ifindex : 0;
        memcpy(&address.v6.sin6_addr, key->ip, 16);
    }
    if (claims_prepare(fd, key->family) < 0 ||
        bind(fd, &address.any, v4 ? sizeof(address.v4) : sizeof(address.v6)) < 0) {
        int status = proof_status(errno);
        close(fd);
        return status;
    }
    return fd;
}

/* ---- claims ----------------------------------------------------------------------- */

/* Claims one exact tuple of a shared address.  Return: 0 or a status. */
static int claims_take(struct claim_table *table, const struct claim_key *key, bool prove)
{
    int fd = -1, status = claims_grow(table);

    if (status)
        return status;
    struct claim *claim = claims_slot(table, key);
    if (claim->refs) {
        claim->refs++;
        return 0;
    }
    if (prove) {
        fd = proof_bind(table, key);
        if (fd < 0)
            return fd;
    }
    status = table->change(table->ctx, key, true);
    if (status) {
        if (fd >= 0)
            close(fd);
        return status;
    }
    *claim = (struct claim){*key, 1, fd, prove};
    table->used++;
    return 0;
}

/* Undoes claims_take(). */
static void claims_give(struct claim_table *table, const struct claim_key *key)
{
    struct claim *claim = claims_slot(table, key);

    AMS_ASSERT(claim->refs);
    if (--claim->refs)
        return;
    /* The driver first: what comes now must not find the socket gone. */
    table->change(table->ctx, key, false);
    if (claim->fd >= 0)
        close(claim->fd);
    for (uint32_t i = table->n_shown; i; i--) { /* who showed them is done with them */
        if (proof_covers(table->shown[i - 1], key))
            proof_drop(table, i - 1);
    }
    claims_erase(table, claim);
}

/* Gives the tuples of a wildcard back, for the first n shared addresses. */
static void claims_give_all(struct claim_table *table, const struct claim_key *wildcard, uint32_t n)
{
    struct claim_key key = *wildcard;

    for (uint32_t i = 0; i < n; i++) {
        memcpy(key.ip, table->addresses[i], 16);
        if (ip_family(key.ip) == key.family)
            claims_give(table, &key);
    }
}

/* Claims a wildcard that is new: all its tuples, and itself. */
static int claims_take_all(struct claim_table *table, const struct claim_key *wildcard, bool prove)
{
    struct claim_key key = *wildcard;
    uint32_t i = 0;
    int status = 0;

    for (; i < table->n_addresses && !status; i++) {
        memcpy(key.ip, table->addresses[i], 16);
        if (ip_family(key.ip) == key.family)
            status = claims_take(table, &key, prove);
        if (status)
            break;
    }
    if (!status)
        status = claims_grow(table);
    if (status) {
        claims_give_all(table, wildcard, i);
        return status;
    }
    *claims_slot(table, wildcard) = (struct claim){*wildcard, 1, -1, prove};
    table->used++;
    return 0;
}

int claims_show(struct claim_table *table, int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (copy < 0)
        return port_status(errno);
    if (table->n_shown == CLAIMS_SHOWN)
        proof_drop(table, 0);
    table->shown[table->n_shown++] = copy;
    return 0;
}

static struct claim_key claims_key(uint8_t protocol, const struct ams_endpoint *local)
{
    struct claim_key key = {.port = local->port, .protocol = protocol, .family = (uint8_t)local->family};

    memcpy(key.ip, local->ip, 16);
    return key;
}

int claims_add(struct claim_table *table, uint8_t protocol, const struct ams_endpoint *local, bool prove)
{
    struct claim_key key = claims_key(protocol, local);

    if (!key_is_wildcard(&key))
        return claims_shared(table, key.ip) ? claims_take(table, &key, prove) : 0;
    struct claim *claim = claims_slot(table, &key);
    if (!claim->refs)
        return claims_take_all(table, &key, prove);
    claim->refs++;
    return 0;
}

void claims_remove(struct claim_table *table, uint8_t protocol, const struct ams_endpoint *local)
{
    struct claim_key key = claims_key(protocol, local);

    if (!key_is_wildcard(&key)) {
        if (claims_shared(table, key.ip))
            claims_give(table, &key);
        return;
    }
    struct claim *claim = claims_slot(table, &key);
    AMS_ASSERT(claim->refs);
    if (--claim->refs)
        return;
    claims_erase(table, claim);
    claims_give_all(table, &key, table->n_addresses);
}

int claims_lookup(const struct claim_table *table, uint8_t protocol, const struct ams_endpoint *address)
{
    struct claim_key key = claims_key(protocol, address);
    return !claims_shared(table, key.ip) || claims_slot(table, &key)->refs != 0;
}

/* ---- addresses -------------------------------------------------------------------- */

/* Claims an address' share of every wildcard of its family.  Collects them
 * first: the table changes under the walk. */
static int claims_extend(struct claim_table *table, const uint8_t ip[16])
{
    struct claim *found = mem_zalloc(table->used + 1, sizeof(*found));
    uint32_t n = 0, done = 0;
    int status = found ? 0 : -AMS_ENOMEM;

    for (uint32_t i = 0; !status && i <= table->mask; i++) {
        const struct claim *claim = &table->slots[i];
        if (!claim->refs || claim->key.family != ip_family(ip) || !key_is_wildcard(&claim->key))
            continue;
        found[n] = *claim;
        memcpy(found[n++].key.ip, ip, 16);
    }
    for (; done < n && !status; done += !status)
        status = claims_take(table, &found[done].key, found[done].prove);
    while (status && done)
        claims_give(table, &found[--done].key);
    mem_free(found);
    return status;
}

int claims_share(struct claim_table *table, const uint8_t ip[16])
{
    if (claims_shared(table, ip))
        return 0;
    void *more = mem_realloc(table->addresses, (table->n_addresses + 1) * sizeof(*table->addresses));
    if (!more)
        return -AMS_ENOMEM;
    table->addresses = more;
    int status = claims_extend(table, ip);
    if (!status)
        memcpy(table->addresses[table->n_addresses++], ip, 16);
    return status;
}

/* Forgets all that is claimed of an address. */
static void claims_forget(struct claim_table *table, const uint8_t ip[16])
{
    for (uint32_t i = 0; i <= table->mask;) {
        struct claim *claim = &table->slots[i];
        if (claim->refs && ip_equal(claim->key.ip, ip)) {
            struct claim_key key = claim->key;
            claim->refs = 1;
            claims_give(table, &key); /* moves others */
            i = 0;
        } else {
            i++;
        }
    }
}

void claims_unshare(struct claim_table *table, const uint8_t ip[16])
{
    for (uint32_t i = 0; i < table->n_addresses; i++) {
        if (!ip_equal(table->addresses[i], ip))
            continue;
        claims_forget(table, ip);
        memmove(table->addresses[i], table->addresses[table->n_addresses - 1], 16);
        table->n_addresses--;
        return;
    }
}
