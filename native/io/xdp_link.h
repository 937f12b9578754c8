/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_link.h - what the XDP driver must know of an interface, and have of it.
 */
#ifndef AMS_IO_XDP_LINK_H
#define AMS_IO_XDP_LINK_H

#include "aiomultistack.h"
#include "io/netlink.h"
#include "io/port.h"

struct xdp_link {
    char name[16];
    uint32_t ifindex;
    uint32_t queues;           /* for receiving */
    uint32_t mtu;
    uint8_t mac[6];
    bool up;
    bool partial;              /* may deliver unfinished checksums: see link_mark.h */
    int groups;                /* socket that holds the link's address filters open; -1: not yet */
};

/* Looks an interface up.  Return: 0, or a status with *error saying why. */
int xdp_link_find(struct xdp_link *link, const char *name, const struct port_error *error);
/* Gives the address filters back. */
void xdp_link_release(struct xdp_link *link);
/* True if the operating system has an address, or will have it: the link's
 * own link-local one, where IPv6 is enabled. */
bool xdp_link_system_has(const struct xdp_link *link, const uint8_t ip[16]);
/* Lets the link receive frames to a MAC address; the kernel takes it back when
 * link->groups is closed.  Return: 0 or -errno. */
int xdp_link_listen(struct xdp_link *link, const uint8_t mac[6]);
/* The name of the XDP program that is attached, with its id, for people. */
void xdp_link_program(const struct xdp_link *link, char *text, size_t size);

#endif
