/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_program.h - the XDP program: the switch's demux, in the kernel.
 *
 * Theory of operation.  The program gives a frame to the socket of the queue
 * that it came in by, or leaves it to the operating system (XDP_PASS).  It
 * leaves whatever it doesn't recognise as its user's, so that the system
 * loses nothing.  What it takes may still be refused by the switch, which
 * looks closer: the two agree on whose a frame is, not on whether it is good.
 *
 *   Ethernet   unicast to the user's station; of group frames only ARP and
 *              neighbour discovery about addresses of the user's own.  VLAN
 *              tags, and all that is neither IPv4, IPv6 nor ARP: the system's.
 *   address    XDP_ADDRESS_OWN: everything.  XDP_ADDRESS_SHARED: as follows.
 *   TCP, UDP   if the destination tuple is claimed.  IPv4 options and IPv6
 *              extension headers (eight at most) are stepped over.
 *   fragments  The first one is judged by its ports, and its fate noted in a
 *              map of XDP_FRAGMENTS entries, least recently used goes first;
 *              later ones follow it for XDP_FRAGMENT_LIFETIME_NS.  One that
 *              overtakes its first one is left to the system: to the user the
 *              datagram is lost, as it may always be.
 *   ICMP       errors that quote a packet from a claimed tuple.  All else
 *              (echo, neighbour discovery, errors about errors): the system's.
 *
 * A frame for the user that comes by a queue without a socket (the port was
 * opened for one queue only) is dropped: the system would answer with RST.
 *
 * Names in maps are in network byte order.
 */
#ifndef AMS_IO_XDP_PROGRAM_H
#define AMS_IO_XDP_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define XDP_ADDRESSES 4096u
#define XDP_TUPLES 262144u
#define XDP_FRAGMENTS 4096u
#define XDP_FRAGMENT_LIFETIME_NS 30000000000ull /* as the switch's */

/* Values of the map of addresses. */
#define XDP_ADDRESS_OWN 1u
#define XDP_ADDRESS_SHARED 2u

/* Key of the map of addresses: 16 bytes, IPv4-mapped for IPv4.  Key of the
 * map of tuples: */
struct xdp_tuple {
    uint8_t ip[16];
    uint8_t port[2];
    uint8_t protocol;
    uint8_t family;    /* AMS_IPV4, AMS_IPV6 */
};

/* Descriptors of maps; -1: none. */
struct xdp_maps {
    int sockets;       /* by queue */
    int addresses;     /* address -> uint32_t XDP_ADDRESS_* */
    int tuples;        /* struct xdp_tuple -> uint32_t, any */
    int fragments;     /* the program's own */
    int station;       /* 0 -> 8 bytes, the Ethernet address first */
};

/* Makes the maps.
 * @queues: entries of the map of sockets
 * Return: 0 or -errno; then all are -1. */
int xdp_maps_init(struct xdp_maps *maps, uint32_t queues);
void xdp_maps_fini(struct xdp_maps *maps);

#define XDP_PROGRAM_ALL 1u   /* takes every frame */
#define XDP_PROGRAM_FRAGS 2u /* sees frames of several buffers */

/* Writes and loads the program.
 * @log: see bpf_program_load()
 * Return: a descriptor or -errno. */
int xdp_program_new(const struct xdp_maps *maps, uint32_t flags, char *log, uint32_t log_size);

#endif
