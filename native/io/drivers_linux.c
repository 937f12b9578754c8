/* SPDX-License-Identifier: BSD-2-Clause
 *
 * drivers_linux.c - the port drivers that Linux has.
 */
#include "io/port.h"

const struct port_ops *const port_drivers[] = {&tap_ops, &mem_ops, &shm_ops, &xdp_ops, &netmap_ops, &switch_ops, NULL};
