/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp.h - an XDP port, inside (see xdp.c).
 */
#ifndef AMS_IO_XDP_H
#define AMS_IO_XDP_H

#include "io/claims.h"
#include "io/netlink.h"
#include "io/port.h"
#include "io/xdp_link.h"
#include "io/xdp_program.h"
#include "io/xdp_resolve.h"
#include "io/xdp_socket.h"

struct xdp_port {
    struct ams_port port;
    struct xdp_link link;
    struct xdp_maps maps;
    struct claim_table claims;
    struct xdp_resolver resolver;
    struct netlink_reader reader;
    struct xdp_socket *sockets;
    uint32_t n_sockets;
    uint32_t next;                     /* socket to receive from first */
    int program;
    int bpf_link;
    int news;                          /* netlink's socket for news */
    int epoll;
    uint32_t busy;                     /* calls of rx() since the last look at the news */
    uint32_t frame_max;                /* bytes of the longest frame sent */
    bool gone;
    bool neighbors;                    /* news of neighbours come too */
    uint8_t station[6];
    uint64_t retry_at;                 /* when to kick again; AMS_NEVER: needn't */
    uint64_t rx_lost, tx_lost;         /* dropped by this driver */
};

/* Opens all that a port needs, whose descriptors are -1 (xdp_open.c).  What
 * is open on failure is the caller's to close.
 * @text: IFNAME[@QUEUE]
 * Return: 0, or a status with *error saying what to do about it. */
int xdp_set_up(struct xdp_port *xdp, const char *text, const struct ams_port_config *config, struct port_error *error);
/* port_ops.station, which the set-up calls with the link's own address. */
int xdp_station(struct ams_port *port, const uint8_t mac[6], struct port_error *error);
/* Keeps the map of tuples as the table of claims is.  @ctx: the port */
int xdp_claim_change(void *ctx, const struct claim_key *key, bool claimed);

#endif
