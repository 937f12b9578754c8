/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netlink.h - what the kernel knows of a link and of its neighbours
 * (rtnetlink(7)).
 *
 * Requests are answered before they return: rtnetlink does its work within
 * the sender's system call.
 */
#ifndef AMS_IO_NETLINK_H
#define AMS_IO_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "aiomultistack.h"

/* Opens a socket for requests, or for news of links.
 * Return: a descriptor or -errno. */
int netlink_open(bool news);
/* Lets a socket for news have those of neighbours too.  Return: 0 or -errno. */
int netlink_join_neighbors(int fd);

struct netlink_link {
    uint32_t mtu;
    uint32_t flags;        /* IFF_* */
    uint8_t mac[6];
    bool ethernet;
    uint32_t program;      /* id of the XDP program attached; 0: none */
};

/* Asks about an interface.  Return: 0 or -errno. */
int netlink_get_link(int fd, uint32_t ifindex, struct netlink_link *link);

/* Asks for a neighbour's Ethernet address.
 * @certain: result: it was confirmed a short time ago, or needs no confirmation
 * Return: 0, -ENOENT: it isn't known (now), or -errno. */
int netlink_get_neighbor(int fd, uint32_t ifindex, const struct ams_endpoint *ip, uint8_t mac[6], bool *certain);
/* Makes the kernel find out, or confirm.  Return: 0 or -errno. */
int netlink_use_neighbor(int fd, uint32_t ifindex, const struct ams_endpoint *ip);

enum netlink_news {
    NETLINK_NOTHING,       /* no more */
    NETLINK_OTHER,
    NETLINK_LINK,          /* of the interface, whose flags may have changed */
    NETLINK_LINK_GONE,
    NETLINK_NEIGHBOR,      /* is reachable */
    NETLINK_LOST,          /* news were lost: ask again */
};

struct netlink_event {
    uint32_t flags;             /* NETLINK_LINK */
    struct ams_endpoint ip;     /* NETLINK_NEIGHBOR */
    uint8_t mac[6];
};

/* A reader of news; a datagram may bring several. */
struct netlink_reader {
    uint32_t ifindex;           /* the interface that it is about */
    size_t length;              /* bytes in buffer */
    size_t next;                /* where the next message starts */
    _Alignas(8) char buffer[8192];
};

/* Reads one piece of news, without waiting. */
enum netlink_news netlink_read(int fd, struct netlink_reader *reader, struct netlink_event *event);

#endif
