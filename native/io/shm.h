/* SPDX-License-Identifier: BSD-2-Clause
 *
 * shm.h - the client's end of a port of the fabric.
 *
 * `shm:MEMORY,KICK,NOTIFY` opens it from three descriptors that the process
 * was given (struct ams_fabric_link); drivers that get them in another way
 * use shm_open_fds(), and put shm's functions into a vtable of their own.
 */
#ifndef AMS_IO_SHM_H
#define AMS_IO_SHM_H

#include "io/port.h"
#include "io/ring.h"

struct shm_port {
    struct ams_port port;
    struct ring_region region;
    int kick_fd;                 /* eventfd, written */
    int notify_fd;               /* pipe, read: port.info.fd */
    bool dirty;                  /* slots were filled and not yet pushed */
    bool rung;                   /* a byte is in the pipe, or about to be */
    bool starved;                /* room() found none: wake us when there is */
    uint32_t longest;            /* slots of the longest frame that may be sent */
};

struct shm_fds {
    int memory;
    int kick;
    int notify;
};

/* Opens a port over what a fabric's attach gave.
 * @shm: memory of the caller's, often the first member of its own struct
 * @ops: the vtable that the port shows: shm_ops, or one that wraps it
 * @fds: duplicated, they stay the caller's
 * @flags: AMS_PORT_NO_OFFLOAD, PORT_RAW: super-frames neither way
 * Return: 0, or a status with *error saying why. */
int shm_open_fds(struct shm_port *shm, const struct port_ops *ops, const struct shm_fds *fds, struct frame_pool *pool,
                 uint32_t flags, struct port_error *error);
/* Closes what shm_open_fds() opened; the memory is the caller's. */
void shm_close_fds(struct shm_port *shm);

/* The verbs, for wrappers; port.h says what they do. */
int shm_rx(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now);
int shm_room(struct ams_port *port);
int shm_tx(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now);
void shm_flush(struct ams_port *port, uint64_t now);
uint64_t shm_deadline(struct ams_port *port);

#endif
