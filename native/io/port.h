/* SPDX-License-Identifier: BSD-2-Clause
 *
 * port.h - the driver interface: where io and switch meet.
 *
 * Each driver is one file that fills a struct port_ops.  A port is used by
 * one thread at a time.  Drivers never wait.
 *
 *   open   makes a port from what stands behind the scheme and the colon.
 *   rx     up to n received frames, each contiguous, from the Ethernet
 *          header on; ownership passes to the caller.  FRAME_CSUM_OK and
 *          FRAME_GSO are set from what the link says.  Fewer than n: there
 *          may be more, and then fd is readable.  < 0: broken for good.
 *   room   how many frames tx would take now: a promise, until tx is called.
 *   tx     sends frames; takes all of them if n <= room().  What the kernel
 *          refuses after that is kept by the driver, or dropped and counted
 *          when it is not a matter of waiting.
 *   flush  pushes what the driver still holds; called once per batch.
 *   deadline  when rx or flush should be called even if fd stays silent.
 *   refresh   brings info up to date; may be NULL.
 *
 *   knows     true for specs that are the driver's though they don't begin with
 *             its scheme; may be NULL.
 *   forward   passes up to n received frames on to another port of the driver,
 *             unseen and without copying them, and flushes it; may be NULL.
 *             Return: how many; -AMS_EOPNOTSUPP if the two share no memory.
 *
 * A driver that shares its link with the operating system (a NIC's), rather
 * than having one to itself, also has these, all or none of them.  They tell
 * it which frames are its user's; all others stay the system's.
 *
 *   station  the Ethernet address that the user sends from and is reached at.
 *            A user without an address of its own takes the link's, info.mac.
 *   serve    frames to this address are the user's.  Returns PORT_OWN: all of
 *            them, with ARP, NDP and ICMP, since the system doesn't have the
 *            address; or PORT_SHARED: the system has it too, and the user gets
 *            those of the tuples that it claims.  < 0: it cannot be served.
 *   unserve  undoes it.
 *   claim    frames to this tuple are the user's.  A wildcard stands for every
 *            address served in its family, now or later.  Claims are counted.
 *            With PORT_PROVE the driver holds the tuple of a shared address
 *            with a kernel socket bound to it, so that no application of the
 *            system can have it too: -AMS_EADDRINUSE, -AMS_EACCES as bind(2).
 *            Without, the caller has such a socket.
 *   release  undoes one claim.
 *
 * Links whose addresses are shared, with the system or with other stacks, have
 * more verbs; they may wait, for whoever is at the link's other end.  NULL where
 * there is nothing to do:
 *
 *   identity  what the link dictates to the stack on it.
 *   claim, release  as above; the driver knows what proof is needed.
 *   show      a kernel socket that may prove the claims to come; duplicated.
 *   lend      another range of ephemeral ports.
 *   flow      a connection of the user's begins, or has ended; whoever is at the
 *             link's other end may tell its peer if the user dies.
 *   lookup    0 if the address is shared and no stack on the link has this tuple,
 *             which then is the system's; else 1 or a status.
 *
 * A driver whose link was lost sets port->lost to the status that connections
 * end with; it gets the link back by itself, with all that was claimed.
 */
#ifndef AMS_IO_PORT_H
#define AMS_IO_PORT_H

#include "aiomultistack.h"
#include "core/base.h"
#include "core/frame.h"

/* Where an open that fails says why. */
struct port_error {
    char *text;
    size_t size;
};

struct port_ops {
    const char *scheme;
    bool (*knows)(const char *spec);
    int (*open)(struct ams_port **port, const char *name, const struct ams_port_config *config,
                struct frame_pool *pool, struct port_error *error);
    int (*rx)(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now);
    int (*room)(struct ams_port *port);
    int (*tx)(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now);
    void (*flush)(struct ams_port *port, uint64_t now);
    uint64_t (*deadline)(struct ams_port *port);
    void (*refresh)(struct ams_port *port);
    int (*forward)(struct ams_port *port, struct ams_port *to, int n, uint64_t now);
    int (*station)(struct ams_port *port, const uint8_t mac[6], struct port_error *error);
    int (*serve)(struct ams_port *port, const struct ams_endpoint *address, struct port_error *error);
    void (*unserve)(struct ams_port *port, const struct ams_endpoint *address);
    int (*claim)(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local, uint32_t flags);
    void (*release)(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *local);
    int (*identity)(struct ams_port *port, struct ams_port_identity *identity);
    int (*show)(struct ams_port *port, int fd);
    int (*lend)(struct ams_port *port, uint16_t *low, uint16_t *high);
    int (*lookup)(struct ams_port *port, uint8_t protocol, const struct ams_endpoint *address);
    void (*flow)(struct ams_port *port, const struct ams_endpoint *local, const struct ams_endpoint *remote, bool begins);
    void (*close)(struct ams_port *port);
};

/* The common part, first member of every driver's own struct. */
struct ams_port {
    const struct port_ops *ops;
    struct frame_pool *pool;  /* where rx takes frames from, unless the driver has its own */
    struct frame_pool *own;   /* set by ams_port_open(): the port's to free */
    struct ams_port_info info;
    int lost;                 /* see above; whoever uses the port sets it back to 0 */
};

/* The drivers of this system, NULL at the end: drivers_linux.c or
 * drivers_freebsd.c. */
extern const struct port_ops *const port_drivers[];

extern const struct port_ops tap_ops;
extern const struct port_ops mem_ops;
extern const struct port_ops shm_ops;
extern const struct port_ops xdp_ops;
extern const struct port_ops netmap_ops;
extern const struct port_ops switch_ops;

#define PORT_RAW 0x80000000u  /* in a config's flags: the user is no stack, and has no way to tell of offloads */

#define PORT_OWN 0            /* of serve() */
#define PORT_SHARED 1
#define PORT_PROVE 1u         /* of claim() */

#define PORT_BURST 64         /* frames that the users of a port move at a time */
#define PORT_POOL_FRAMES 65536u
#define PORT_MTU_MIN 68u      /* RFC 791 section 3.2 */
#define PORT_MTU_MAX 65535u
#define PORT_FRAME_MAX 65549u /* Ethernet header and the longest IP packet */

/* Opens a port whose frames come from a pool of the caller's.
 * @pool: outlives the port
 * Return: 0 or a status, with *error saying what to do about it. */
int port_open(struct ams_port **port, const struct ams_port_config *config, struct frame_pool *pool,
              struct port_error *error);

/* Writes a sentence into error, printf-like.
 * Return: status, so that a caller may return it on. */
int port_fail(const struct port_error *error, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The status for an errno; -AMS_EIO for those without one of their own. */
int port_status(int number);

/* now itself, or the clock's reading for AMS_NOW. */
static inline uint64_t port_now(uint64_t now)
{
    return now != AMS_NOW ? now : ams_clock_now();
}

/* The class of the smallest frame that holds `length` bytes. */
static inline enum frame_class port_frame_class(uint32_t length)
{
    return length <= FRAME_SMALL - FRAME_HEADROOM ? FRAME_CLASS_SMALL : FRAME_CLASS_LARGE;
}

/* Finishes the partial checksum of a TX_CSUM frame in its head, for links
 * that don't. */
void port_finish_csum(const struct ams_tx *tx);

#endif
