/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tuples of shared addresses: what a driver is told, and what the kernel's
 * sockets prove.  The addresses are nobody's (IP_FREEBIND lets them be bound).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "core/status.h"
#include "io/claims.h"
#include "packets.h"

#define PORT 4711

/* What the driver was told: the tuples that are claimed now. */
struct driver {
    struct claim_key keys[512];
    int n;
    bool refuses;
};

static int driver_change(void *ctx, const struct claim_key *key, bool claimed)
{
    struct driver *driver = ctx;
    int i = 0;

    while (i < driver->n && memcmp(&driver->keys[i], key, sizeof(*key)) != 0)
        i++;
    CHECK_EQ(i == driver->n, claimed);
    if (claimed && driver->refuses)
        return -AMS_ENOBUFS;
    if (claimed)
        driver->keys[driver->n++] = *key;
    else
        driver->keys[i] = driver->keys[--driver->n];
    return 0;
}

static void table_new(struct claim_table *table, struct driver *driver)
{
    uint8_t ip[16];

    memset(driver, 0, sizeof(*driver));
    CHECK_EQ(claims_init(table, 1, driver_change, driver), 0);
    for (int v6 = 0; v6 < 2; v6++) {
        for (uint8_t n = 1; n <= 2; n++) {
            packets_ip(ip, v6, n);
            CHECK_EQ(claims_share(table, ip), 0);
        }
    }
}

/* A socket of the system's, bound.  Return: a descriptor, or a negative errno. */
static int bind_socket(const struct ams_endpoint *at, int type, bool reuse)
{
    bool v6 = at->family == AMS_IPV6;
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(at->port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(at->port)};
    int on = 1, fd = socket(v6 ? AF_INET6 : AF_INET, type, 0);

    CHECK(fd >= 0);
    memcpy(&in4.sin_addr, at->ip + 12, 4);
    memcpy(&in6.sin6_addr, at->ip, 16);
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)), 0);
    if (reuse)
        CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), 0);
    if (!(v6 ? bind(fd, (struct sockaddr *)&in6, sizeof(in6)) : bind(fd, (struct sockaddr *)&in4, sizeof(in4))))
        return fd;
    int number = errno;
    close(fd);
    return -number;
}

/* Whether the kernel lets an application bind a tuple: 0 or an errno. */
static int system_binds(bool v6, uint8_t n, int type)
{
    struct ams_endpoint at = packets_endpoint(v6, n, PORT);
    int fd = bind_socket(&at, type, true);

    if (fd < 0)
        return -fd;
    close(fd);
    return 0;
}

static void test_the_first_and_the_last_claim_are_told(void)
{
    struct claim_table table;
    struct driver driver;

    table_new(&table, &driver);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint at = packets_endpoint(v6, 1, PORT), elsewhere = packets_endpoint(v6, 9, PORT);
        CHECK_EQ(claims_add(&table, PROTO_TCP, &at, false), 0);
        CHECK_EQ(claims_add(&table, PROTO_TCP, &at, false), 0);
        CHECK_EQ(claims_add(&table, PROTO_TCP, &elsewhere, false), 0); /* not shared: nothing to do */
        CHECK_EQ(driver.n, 1);
        claims_remove(&table, PROTO_TCP, &elsewhere);
        claims_remove(&table, PROTO_TCP, &at);
        CHECK_EQ(driver.n, 1);
        claims_remove(&table, PROTO_TCP, &at);
        CHECK_EQ(driver.n, 0);
    }
    claims_fini(&table);
}

static void test_a_wildcard_is_all_addresses_of_its_family_now_and_later(void)
{
    struct claim_table table;
    struct driver driver;
    uint8_t third[16];

    table_new(&table, &driver);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint any = packets_wildcard(v6, PORT), exact = packets_endpoint(v6, 1, PORT);
        CHECK_EQ(claims_add(&table, PROTO_UDP, &any, false), 0);
        CHECK_EQ(driver.n, 2);
        CHECK_EQ(claims_add(&table, PROTO_UDP, &exact, false), 0);
        CHECK_EQ(driver.n, 2);
        packets_ip(third, v6, 3);
        CHECK_EQ(claims_share(&table, third), 0);
        CHECK_EQ(driver.n, 3);
        claims_unshare(&table, third);
        CHECK_EQ(driver.n, 2);
        claims_remove(&table, PROTO_UDP, &any);
        CHECK_EQ(driver.n, 1);
        claims_remove(&table, PROTO_UDP, &exact);
        CHECK_EQ(driver.n, 0);
    }
    claims_fini(&table);
}

static void test_a_proved_tuple_is_nobody_elses(void)
{
    struct claim_table table;
    struct driver driver;
    const int types[] = {SOCK_STREAM, SOCK_DGRAM};
    const uint8_t protocols[] = {PROTO_TCP, PROTO_UDP};

    table_new(&table, &driver);
    for (int i = 0; i < 4; i++) {
        bool v6 = i / 2;
        struct ams_endpoint any = packets_wildcard(v6, PORT);
        CHECK_EQ(claims_add(&table, protocols[i % 2], &any, true), 0);
        CHECK_EQ(system_binds(v6, 1, types[i % 2]), EADDRINUSE);
        CHECK_EQ(system_binds(v6, 2, types[i % 2]), EADDRINUSE);
        CHECK_EQ(system_binds(v6, 3, types[i % 2]), 0);
        CHECK_EQ(system_binds(v6, 1, types[1 - i % 2]), 0);
        claims_remove(&table, protocols[i % 2], &any);
        CHECK_EQ(system_binds(v6, 1, types[i % 2]), 0);
    }
    claims_fini(&table);
}

/* A bound socket.  @n: the last byte of its address; 0: the wildcard, of both families if v6 */
static int bound(bool v6, uint8_t n, int type)
{
    struct ams_endpoint at = n ? packets_endpoint(v6, n, PORT) : packets_wildcard(v6, PORT);
    int fd = bind_socket(&at, type, false);

    CHECK(fd >= 0);
    return fd;
}

static void test_a_shown_socket_proves_what_it_is_bound_to(void)
{
    struct claim_table table;
    struct driver driver;

    table_new(&table, &driver);
    for (int i = 0; i < 8; i++) {
        bool v6 = i & 1, wildcard = i & 2;
        int type = i & 4 ? SOCK_DGRAM : SOCK_STREAM, fd = bound(v6, wildcard ? 0 : 1, type);
        uint8_t protocol = i & 4 ? PROTO_UDP : PROTO_TCP;
        struct ams_endpoint local = packets_endpoint(v6, 1, PORT), other = packets_endpoint(!v6, 1, PORT);
        CHECK_EQ(claims_add(&table, protocol, &local, true), -AMS_EADDRINUSE);
        CHECK_EQ(claims_show(&table, fd), 0);
        close(fd);
        CHECK_EQ(claims_lookup(&table, protocol, &local), 0);
        CHECK_EQ(claims_add(&table, protocol, &local, true), 0);
        CHECK_EQ(claims_lookup(&table, protocol, &local), 1);
        /* it says nothing of the other family, unless it is a wildcard of both: then it does */
        CHECK_EQ(claims_add(&table, protocol, &other, true), 0);
        claims_remove(&table, protocol, &other);
        claims_remove(&table, protocol, &local);
        CHECK_EQ(driver.n, 0);
        CHECK_EQ(system_binds(v6, 1, type), 0); /* nothing holds it any more */
    }
    claims_fini(&table);
}

static void test_shown_sockets_are_bounded_and_closed(void)
{
    struct claim_table table;
    struct driver driver;
    int fd = bound(false, 1, SOCK_STREAM);

    table_new(&table, &driver);
    CHECK_EQ(claims_show(&table, -1), -AMS_EIO);
    for (int i = 0; i < 100; i++)
        CHECK_EQ(claims_show(&table, fd), 0);
    CHECK_EQ(table.n_shown, CLAIMS_SHOWN);
    close(fd);
    CHECK_EQ(system_binds(false, 1, SOCK_STREAM), EADDRINUSE);
    claims_fini(&table);
    CHECK_EQ(system_binds(false, 1, SOCK_STREAM), 0);
}

static void test_what_the_system_has_is_refused_and_nothing_stays(void)
{
    struct claim_table table;
    struct driver driver;
    struct sockaddr_in taken = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct ams_endpoint at = packets_endpoint(false, 2, PORT), any = packets_wildcard(false, PORT);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

    memcpy(&taken.sin_addr, at.ip + 12, 4);
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)), 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&taken, sizeof(taken)), 0);
    table_new(&table, &driver);
    CHECK_EQ(claims_add(&table, PROTO_TCP, &any, true), -AMS_EADDRINUSE);
    CHECK_EQ(claims_add(&table, PROTO_TCP, &at, true), -AMS_EADDRINUSE);
    CHECK_EQ(driver.n, 0);
    CHECK_EQ(table.used, 0);
    CHECK_EQ(system_binds(false, 1, SOCK_STREAM), 0);
    driver.refuses = true;
    CHECK_EQ(claims_add(&table, PROTO_UDP, &any, true), -AMS_ENOBUFS);
    CHECK_EQ(system_binds(false, 1, SOCK_DGRAM), 0);
    CHECK_EQ(table.used, 0);
    close(fd);
    claims_fini(&table);
}

static void test_many_come_and_go_in_any_order(void)
{
    struct claim_table table;
    struct driver driver;

    table_new(&table, &driver);
    for (uint16_t port = 1; port <= 400; port++) {
        struct ams_endpoint at = packets_endpoint(port % 2, 1 + port % 3 % 2, port);
        CHECK_EQ(claims_add(&table, PROTO_TCP, &at, false), 0);
    }
    CHECK_EQ(driver.n, 400);
    for (uint32_t i = 0; i < 400; i++) {
        uint16_t port = (uint16_t)(1 + i * 171 % 400);
        struct ams_endpoint at = packets_endpoint(port % 2, 1 + port % 3 % 2, port);
        claims_remove(&table, PROTO_TCP, &at);
        CHECK_EQ(driver.n, 399 - (int)i);
    }
    CHECK_EQ(table.used, 0);
    claims_fini(&table);
}

/* Claims enough for the table to grow, and shares an address afterwards. */
static bool claims_may_be_made(void)
{
    struct claim_table table;
    struct driver driver = {.n = 0};
    uint8_t ip[16];
    bool all = claims_init(&table, 1, driver_change, &driver) == 0;

    for (uint16_t port = 1; port <= 40 && all; port++) {
        struct ams_endpoint any = packets_wildcard(port % 2, port);
        packets_ip(ip, port % 2, (uint8_t)port);
        int status = port <= 4 ? claims_share(&table, ip) : claims_add(&table, PROTO_TCP, &any, false);
        CHECK(status == 0 || status == -AMS_ENOMEM);
        all = !status;
    }
    packets_ip(ip, false, 99);
    all = all && claims_share(&table, ip) == 0;
    claims_fini(&table);
    return all;
}

static void test_every_allocation_may_fail(void)
{
    CHECK(check_every_allocation(claims_may_be_made) > 5);
}

int main(void)
{
    RUN(test_the_first_and_the_last_claim_are_told);
    RUN(test_a_wildcard_is_all_addresses_of_its_family_now_and_later);
    RUN(test_a_proved_tuple_is_nobody_elses);
    RUN(test_a_shown_socket_proves_what_it_is_bound_to);
    RUN(test_shown_sockets_are_bounded_and_closed);
    RUN(test_what_the_system_has_is_refused_and_nothing_stays);
    RUN(test_many_come_and_go_in_any_order);
    RUN(test_every_allocation_may_fail);
    return check_report();
}
