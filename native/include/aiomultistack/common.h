/* SPDX-License-Identifier: BSD-2-Clause
 *
 * common.h - status codes, time, addresses.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_COMMON_H
#define AIOMULTISTACK_COMMON_H

#include <stddef.h>
#include <stdint.h>

/* CFFI-BEGIN */

/* ---- status ----------------------------------------------------------- */

/* The errno of a negative status, as the platform numbers it; 0 if none. */
int ams_status_errno(int status);
/* "ECONNRESET" for a negative status; NULL past the end of the table, so
 * that -1, -2, ... can be enumerated. */
const char *ams_status_name(int status);
/* One short English phrase. */
const char *ams_status_text(int status);

/* ---- time ------------------------------------------------------------- */

#define AMS_NOW 0
#define AMS_NEVER 0xffffffffffffffff

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t ams_clock_now(void);

/* ---- addresses -------------------------------------------------------- */

#define AMS_IPV4 4
#define AMS_IPV6 6

/* An IP address with a port.  IPv4 is kept IPv4-mapped (RFC 4291 section
 * 2.5.5.2), so that one 16-byte key serves both families.  port is in host
 * order.  family is AMS_IPV4 or AMS_IPV6; for a wildcard IPv4 bind ip is
 * ::ffff:0.0.0.0, for IPv6 it is ::. */
struct ams_endpoint {
    uint8_t ip[16];
    uint16_t port;
    uint16_t family;
    uint32_t scope_id;
};

/* A local address with its prefix length (0..32 or 0..128). */
struct ams_ifaddr {
    struct ams_endpoint address;
    uint32_t prefix_len;
};

/* CFFI-END */

#endif /* AIOMULTISTACK_COMMON_H */
