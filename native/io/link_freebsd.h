/* SPDX-License-Identifier: BSD-2-Clause
 *
 * link_freebsd.h - what FreeBSD's drivers ask about interfaces.
 */
#ifndef AMS_IO_LINK_FREEBSD_H
#define AMS_IO_LINK_FREEBSD_H

#include <stdint.h>

/* Finds the MAC address of an interface; mac stays as it is if it has none.
 * Return: 0, or an errno. */
int link_read_mac(const char *name, uint8_t mac[6]);

#endif
