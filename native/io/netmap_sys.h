/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap_sys.h - what the netmap driver asks of the system.
 *
 * Everything that the driver cannot do in memory goes through this table, so
 * that a test can answer in the kernel's place: netmap_posix.c with
 * netmap_linux.c or netmap_freebsd.c holds the real one.
 */
#ifndef AMS_IO_NETMAP_SYS_H
#define AMS_IO_NETMAP_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/netmap_abi.h"

#define NETMAP_DEVICE "/dev/netmap"

/* What the system knows of a network interface. */
struct netmap_link {
    uint32_t index;
    uint32_t mtu;
    uint8_t mac[6];
    bool up;
    bool partial;        /* may deliver unfinished checksums (link_mark.h) */
};

/* Functions that return an int: >= 0, or a negative errno. */
struct netmap_sys {
    /* Opens the device.  Return: a descriptor. */
    int (*open)(void *ctx);
    /* A NIOCCTRL request. */
    int (*control)(void *ctx, int fd, struct nm_header *header);
    /* NIOCTXSYNC, NIOCRXSYNC. */
    int (*sync)(void *ctx, int fd, bool tx);
    /* Maps the region of a registered descriptor.  Return: NULL if it can't be. */
    void *(*map)(void *ctx, int fd, size_t size);
    void (*unmap)(void *ctx, void *base, size_t size);
    /* Closes any descriptor that one of these functions gave. */
    void (*close)(void *ctx, int fd);
    /* Looks an interface up by its name. */
    int (*link)(void *ctx, const char *name, struct netmap_link *link);
    /* Opens a descriptor that is readable when something about some link has changed. */
    int (*watch)(void *ctx);
    /* Empties it.  Return: whether there was anything. */
    bool (*drain)(void *ctx, int fd);
    /* Lets an interface receive frames to all addresses until the descriptor is closed. */
    int (*promiscuous)(void *ctx, const char *name);
    /* Says whether the operating system has an IP address (IPv4-mapped for IPv4), or will have it. */
    bool (*has_address)(void *ctx, const char *name, const uint8_t ip[16]);
    /* Fills memory with what nobody can guess. */
    void (*random)(void *ctx, void *out, size_t size);
    void *ctx;
};

/* The system's own. */
const struct netmap_sys *netmap_system(void);

#endif
