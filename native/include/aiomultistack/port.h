/* SPDX-License-Identifier: BSD-2-Clause
 *
 * port.h - ports: frames in, frames out; hubs, and what a port shares with others.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_PORT_H
#define AIOMULTISTACK_PORT_H

#include "common.h"

/* CFFI-BEGIN */

/* ---- hub: an Ethernet segment inside the process ----------------------- */

struct ams_hub;

/* What a hub does to the frames that cross it.  Probabilities 0..1 per
 * frame and receiver; every decision comes from the hub's seed. */
struct ams_impairment {
    double loss;
    double duplicate;
    double reorder;         /* this frame is held back reorder_delay_ns */
    double corrupt;         /* one random bit after the MAC header is flipped */
    uint64_t delay_ns;      /* constant one-way delay */
    uint64_t jitter_ns;     /* uniform extra delay, order kept */
    uint64_t reorder_delay_ns; /* 0: four times delay_ns, at least 1 ms */
    uint64_t rate_bps;      /* 0: unlimited; serialisation per receiver */
    uint32_t queue_frames;  /* frames that may wait for rate_bps; 0: 1000 */
    uint32_t mark_frames;   /* ECN: more frames waiting than that: Congestion Experienced; 0: never */
    double burst;           /* this frame begins a burst of losses */
    double burst_frames;    /* mean length of bursts; 0: 1 */
};

#define AMS_HUB_NO_OFFLOAD 1 /* ports see MTU-sized frames, real checksums */

/* Makes a hub.  seed feeds its impairments.  mtu 0 means 1500.
 * Returns NULL when out of memory. */
struct ams_hub *ams_hub_new(uint64_t seed, uint32_t mtu, uint32_t flags);
/* Drops the caller's reference; the hub goes with its last port. */
void ams_hub_free(struct ams_hub *hub);
/* Sets the impairment from here on.  A hub that impairs must have been made
 * with AMS_HUB_NO_OFFLOAD (else -AMS_EINVAL), or its faults would hit 64 KB
 * super-frames whose checksums nobody verifies. */
int ams_hub_impair(struct ams_hub *hub, const struct ams_impairment *what);
/* Earliest time at which a held-back frame becomes deliverable. */
uint64_t ams_hub_deadline(struct ams_hub *hub);

/* ---- raw port: frames without a stack (tests, capture, generators) ----- */

struct ams_port;

struct ams_port_config {
    const char *spec;       /* "tap:NAME", "mem:NAME", "xdp:IFNAME[@QUEUE]", "switch:PATH" */
    struct ams_hub *hub;    /* for mem: */
    uint32_t mtu;           /* 0: the port's own */
    uint32_t flags;         /* AMS_PORT_* */
    uint32_t pool_frames;   /* limit of frames held; 0: 65536 */
};

#define AMS_PORT_NO_OFFLOAD 1 /* don't use vnet headers, checksum or TSO */
#define AMS_PORT_MONITOR 2    /* mem: receives a copy of every frame, as its sender sent it, and no other */
#define AMS_PORT_ALL 4        /* xdp: takes every frame of its link; the system gets none */

/* What a port can do, in caps. */
#define AMS_CAP_CSUM_TX 1   /* fills in TCP/UDP checksums on transmit */
#define AMS_CAP_CSUM_RX 2   /* says which received checksums are good */
#define AMS_CAP_TSO4 4
#define AMS_CAP_TSO6 8
#define AMS_CAP_LRO 16      /* may deliver frames above the MTU */

struct ams_port_info {
    uint32_t mtu;
    uint32_t caps;
    uint8_t mac[6];         /* the link's own address; zero if none */
    uint8_t reserved[2];
    int32_t fd;             /* readable when frames wait; -1 if none */
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t rx_dropped;
    uint64_t tx_dropped;
};

/* Opens a port.  On failure returns a negative status and writes a sentence
 * that says what to do into error[0..error_size).  Frames on a switch's port
 * are as on a wire: no longer than its MTU, with checksums. */
int ams_port_open(struct ams_port **port, const struct ams_port_config *config, char *error, size_t error_size);
/* Closes a port; NULL is legal. */
void ams_port_close(struct ams_port *port);
/* What a port is and has counted, up to now. */
void ams_port_info(struct ams_port *port, struct ams_port_info *info);
/* Sends one Ethernet frame, copied.  -AMS_EAGAIN when the port is full. */
int ams_port_send(struct ams_port *port, const char *frame, size_t length, uint64_t now);
/* Receives one frame into buffer.  Returns its length (which may exceed
 * size: then it was cut), or -AMS_EAGAIN. */
int ams_port_recv(struct ams_port *port, char *buffer, size_t size, uint64_t now);
/* Passes up to max received frames on to another port without looking at
 * them and without copying: two netmap: ports of one memory region.  Returns
 * how many; -AMS_EOPNOTSUPP if the two share no memory. */
int ams_port_forward(struct ams_port *from, struct ams_port *to, int max, uint64_t now);

/* ---- what a port shares with others ---------------------------------------- */

#define AMS_PORT_ADDRESSES 32

/* What a link dictates to the stack on it. */
struct ams_port_identity {
    uint8_t mac[6];         /* the source of all that is sent */
    uint8_t reserved[2];
    uint32_t flags;         /* AMS_IDENTITY_* */
    uint32_t n_addresses;   /* 0: the stack brings its own */
    struct ams_ifaddr addresses[AMS_PORT_ADDRESSES];
    struct ams_endpoint gateway4;
    struct ams_endpoint gateway6;
};

#define AMS_IDENTITY_QUIET 1   /* somebody else answers for the addresses (ARP, NDP, echo) */
#define AMS_IDENTITY_HAIRPIN 2 /* other stacks share the addresses: packets to them leave like any others */

/* Fills in the identity; -AMS_EOPNOTSUPP if the link dictates nothing. */
int ams_port_identity(struct ams_port *port, struct ams_port_identity *identity);
/* Claims a local 3-tuple on a link that is shared: from here on the port
 * receives what is sent to it, and may send from it.  A wildcard address
 * stands for all addresses of its family.  -AMS_EADDRINUSE, -AMS_EACCES
 * (a port below 1024), -AMS_EADDRNOTAVAIL, -AMS_EMFILE, -AMS_ENETDOWN.
 * -AMS_EOPNOTSUPP on a link that is the port's alone, where no claim is
 * needed. */
int ams_port_claim(struct ams_port *port, int protocol, const struct ams_endpoint *local);
/* Undoes one claim. */
int ams_port_release(struct ams_port *port, int protocol, const struct ams_endpoint *local);
/* Shows a kernel socket that the caller has bound, and that proves its right
 * to the address: the next claims that it covers use it, instead of one that
 * the port would bind itself.  Two processes that show the same socket, or
 * two of one user with SO_REUSEPORT, share the tuple as a group. */
int ams_port_show(struct ams_port *port, int fd);
/* Borrows a range of ports for outgoing connections, of TCP and UDP; their
 * claims need no proof. */
int ams_port_lend(struct ams_port *port, uint16_t *low, uint16_t *high);
/* 1 if a stack on this link has the 3-tuple, or the address to itself; 0 if
 * none has: then it is the operating system's, if that has the address.
 * -AMS_EOPNOTSUPP on a link that is the port's alone. */
int ams_port_lookup(struct ams_port *port, int protocol, const struct ams_endpoint *address);

/* Ports of one hub that the same thread drives may form a group (any number
 * but 0; 0 leaves it).  Frames between them signal no fd: after each flush or
 * send the thread asks ams_port_waiting of the others, and polls those where
 * it is 1.  Does nothing for other ports. */
void ams_port_set_group(struct ams_port *port, uint64_t group);
int ams_port_waiting(struct ams_port *port);

/* CFFI-END */

#endif /* AIOMULTISTACK_PORT_H */
