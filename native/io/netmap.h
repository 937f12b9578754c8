/* SPDX-License-Identifier: BSD-2-Clause
 *
 * netmap.h - the parts of the netmap driver.
 *
 *   netmap_name.c   what a spec means
 *   netmap_open.c   registering, mapping, closing, and why it failed
 *   netmap.c        frames in and out
 *   netmap_share.c  one NIC for the operating system and for us
 *   netmap_posix.c, netmap_linux.c, netmap_freebsd.c
 *                   the system's calls (netmap_sys.h)
 */
#ifndef AMS_IO_NETMAP_H
#define AMS_IO_NETMAP_H

#include "io/netmap_abi.h"
#include "io/netmap_sys.h"
#include "io/port.h"
#include "io/ring.h"
#include "io/vnet.h"

/* ---- names ---------------------------------------------------------------------- */

enum netmap_kind { NETMAP_NIC, NETMAP_VALE, NETMAP_PIPE };

struct netmap_name {
    char port[64];       /* as the kernel has it */
    char link[16];       /* the network interface behind it, of a pipe perhaps; empty for VALE ports */
    enum netmap_kind kind;
    uint32_t mode;       /* NM_MODE_* */
    uint16_t ringid;
    uint16_t mem_id;
    uint64_t flags;      /* NM_FLAG_* */
};

/* Understands what stands behind "netmap:".
 * Return: 0, or -AMS_EINVAL with *error saying why not. */
int netmap_parse(const char *text, struct netmap_name *name, const struct port_error *error);
/* True for specs that are netmap's without saying so: "vale0:x". */
bool netmap_claims_spec(const char *spec);

/* ---- the port ------------------------------------------------------------------- */

struct netmap_share;

/* Rings of one direction. */
struct netmap_rings {
    struct ring *rings;
    uint32_t n;
};

struct netmap_port {
    struct ams_port port;
    const struct netmap_sys *sys;
    struct netmap_name name;
    int fd;
    int watch;                   /* news of links; -1: the port has no link */
    int wait;                    /* both of them; -1: fd alone */
    int listen;                  /* keeps the link promiscuous; -1: it isn't */
    uint8_t *base;               /* the region */
    size_t size;
    uint16_t mem_id;             /* of the region */
    struct ring *all;            /* what the following point into */
    struct netmap_rings tx, rx;  /* of the link: NIC, VALE port, pipe end, or host rings alone */
    struct netmap_rings host_tx, host_rx; /* beside a NIC's */
    uint32_t next;               /* RX ring to begin with */
    uint32_t vnet;               /* bytes of virtio-net header before each frame; 0: none */
    uint32_t frame_slots;        /* TX slots that the longest frame takes */
    struct netmap_link link;     /* of a NETMAP_NIC; up for others */
    uint32_t busy;               /* calls of rx() since the last look at the news */
    uint32_t unreturned;         /* RX slots read that the kernel may not know of */
    bool gone;                   /* the interface is no more */
    bool unsynced;               /* TX slots that the kernel hasn't been told of */
    uint64_t retry_at;           /* when to call the kernel again for TX; AMS_NEVER: needn't */
    uint64_t retry_after;        /* the delay that led to it */
    struct netmap_share *share;  /* NULL: the link is ours alone */
};

static inline struct netmap_port *netmap_from(struct ams_port *port)
{
    return AMS_CONTAINER_OF(port, struct netmap_port, port);
}

extern const struct port_ops netmap_nic_ops; /* of a NETMAP_NIC with NIC rings */

/* Opens a port on a system of the caller's choice; as port_ops.open. */
int netmap_open_on(const struct netmap_sys *sys, struct ams_port **port, const char *name,
                   const struct ams_port_config *config, struct frame_pool *pool, struct port_error *error);

/* Gives everything back. */
void netmap_end(struct netmap_port *netmap);

/* ---- inside the driver ------------------------------------------------------------ */

/* The bytes of the frame that begins at a ring's next slot.
 * @slots: result: the slots that it takes
 * Return: false if it isn't there as a whole. */
bool netmap_chain(const struct ring *ring, uint32_t *slots, uint32_t *bytes);
/* Uses up slots without looking at them. */
void netmap_skip(struct ring *ring, uint32_t slots);
/* Copies the frame that begins at a ring's next slot, and uses up its slots.
 * Return: NULL if it is of no use, or the pool is dry; it is counted then. */
struct ams_frame *netmap_take(struct netmap_port *netmap, struct ring *ring, uint32_t slots, uint32_t bytes);
/* Copies a frame into slots of a ring.  Only while there are enough.
 * Return: false if the frame doesn't fit, or the ring has no buffers. */
bool netmap_put(struct netmap_port *netmap, struct ring *ring, const struct ams_tx *tx);
/* Passes the frame at the next slot of `from` on to the next slot of `to` by
 * exchanging their buffers.  Both rings live in one region, and both have a
 * slot left.  Return: false if one of them names no buffer. */
bool netmap_swap(struct ring *from, struct ring *to, uint32_t length);
/* Tells the kernel of slots filled or read, and hears what it did.
 * Return: false if the port is gone. */
bool netmap_sync(struct netmap_port *netmap, bool tx);
/* Takes what is visible, up to n frames, from a set of rings. */
int netmap_receive(struct netmap_port *netmap, struct ams_frame **frames, int n);

/* ---- sharing (netmap_share.c) ----------------------------------------------------- */

/* Prepares to share a NIC.  Return: 0 or -AMS_ENOMEM. */
int netmap_share_new(struct netmap_port *netmap);
void netmap_share_free(struct netmap_share *share);
/* As netmap_receive(), with the frames that are the system's passed on. */
int netmap_share_receive(struct netmap_port *netmap, struct ams_frame **frames, int n, uint64_t now);
/* Gives the system its part of a frame that we send.
 * Return: true if the wire is to have it too. */
bool netmap_share_send(struct netmap_port *netmap, const struct ams_tx *tx);

int netmap_station(struct ams_port *port, const uint8_t mac[6], struct port_error *error);
int netmap_serve(struct ams_port *port, const struct ams_endpoint *address, struct port_error *error);
void netmap_unserve(struct ams_port *port, const struct ams_endpoint *address);
int netmap_claim(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local, uint32_t flags);
void netmap_release(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local);
int netmap_show(struct ams_port *port, int fd);
int netmap_lookup(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *address);

#endif
