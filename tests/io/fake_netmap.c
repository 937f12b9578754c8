/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap ports on the device of netmap_fake.h, for Python's tests: linked with
 * what of native/ they need into a library of its own.
 */
#define _GNU_SOURCE /* memfd_create */

#include <stdio.h>

#include "io/netmap.h"
#include "netmap_fake.h"

#define EXPORT __attribute__((visibility("default")))

/* Only the fake's ports are opened here. */
const struct port_ops *const port_drivers[] = {NULL};

const struct netmap_sys *netmap_system(void)
{
    return NULL;
}

EXPORT struct fake *fake_netmap_new(void);
EXPORT void fake_netmap_free(struct fake *fake);
EXPORT int fake_netmap_open(struct fake *fake, struct ams_port **port, const char *name, char *error, size_t size);
EXPORT void fake_netmap_poll(struct fake *fake);

struct fake *fake_netmap_new(void)
{
    struct fake *fake = calloc(1, sizeof(*fake));

    if (fake)
        fake_init(fake);
    return fake;
}

void fake_netmap_free(struct fake *fake)
{
    fake_fini(fake);
    free(fake);
}

/* As ams_port_open(): the port owns its pool. */
int fake_netmap_open(struct fake *fake, struct ams_port **port, const char *name, char *error, size_t size)
{
    struct ams_port_config config = {.spec = name};
    struct port_error reason = {error, size};
    struct frame_pool *pool = malloc(sizeof(*pool));

    if (!pool)
        abort();
    frame_pool_init(pool, 1000, false);
    int status = netmap_open_on(&fake->sys, port, name, &config, pool, &reason);
    if (status) {
        frame_pool_fini(pool);
        free(pool);
        return status;
    }
    (*port)->own = pool;
    return 0;
}

/* Sets what poll() in the kernel would find. */
void fake_netmap_poll(struct fake *fake)
{
    fake_poll(fake);
}
