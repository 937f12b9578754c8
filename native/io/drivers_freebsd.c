/* SPDX-License-Identifier: BSD-2-Clause
 *
 * drivers_freebsd.c - the port drivers that FreeBSD has.
 */
#include "io/port.h"

const struct port_ops *const port_drivers[] = {&tap_ops, &mem_ops, &shm_ops, &netmap_ops, NULL};
