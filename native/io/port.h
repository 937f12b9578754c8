/* SPDX-License-Identifier: BSD-2-Clause
 *
 * port.h - the driver interface: where io and switch meet.
 *
 * Each driver is one file that fills a struct port_ops.  A port is used by
 * one thread at a time.  Drivers never wait.
 *
 *   rx     up to n received frames, each contiguous, from the Ethernet
 *          header on; ownership passes to the caller.  FRAME_CSUM_OK and
 *          FRAME_GSO are set from what the link says.  < 0: broken for good.
 *   room   how many frames tx would take now: a promise, until tx is called.
 *   tx     sends frames; takes all of them if n <= room().  What the kernel
 *          refuses after that is kept by the driver, or dropped and counted
 *          when it is not a matter of waiting.
 *   flush  pushes what the driver still holds; called once per batch.
 *   deadline  when rx or flush should be called even if fd stays silent.
 */
#ifndef AMS_IO_PORT_H
#define AMS_IO_PORT_H

#include "aiomultistack.h"
#include "core/frame.h"

struct port_ops {
    const char *scheme;
    int (*rx)(struct ams_port *port, struct ams_frame **frames, int n, uint64_t now);
    int (*room)(struct ams_port *port);
    int (*tx)(struct ams_port *port, const struct ams_tx *tx, int n, uint64_t now);
    void (*flush)(struct ams_port *port, uint64_t now);
    uint64_t (*deadline)(struct ams_port *port);
    void (*close)(struct ams_port *port);
};

/* The common part, first member of every driver's own struct. */
struct ams_port {
    const struct port_ops *ops;
    struct frame_pool *pool;  /* where rx takes frames from, unless the driver has its own */
    struct ams_port_info info;
};

#endif
