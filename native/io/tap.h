/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tap.h - the TAP driver's port, and what each system adds to it.
 */
#ifndef AMS_IO_TAP_H
#define AMS_IO_TAP_H

#include "io/port.h"

#define LINEAR_MAX 4096u

struct tap_port {
    struct ams_port port;
    int fd;
    uint32_t header;          /* bytes of virtio-net header before each frame: 0 without */
    uint32_t lone;            /* calls in a row that found exactly one frame */
    bool gone;                /* the device was deleted */
    struct ams_frame *queue_head; /* what the kernel didn't take, header included */
    struct ams_frame *queue_tail;
    uint64_t retry_at;        /* when to try the queue again; AMS_NEVER while it is empty */
    uint8_t linear[FRAME_HEADROOM + LINEAR_MAX]; /* a short frame on its way out */
};

/* ---- of the system's own file -------------------------------------------------- */

/* Checks a name of a possible length for what the kernel would refuse, or
 * worse, expand.
 * Return: 0, or a status with *error set. */
int tap_system_check(const char *name, const struct port_error *error);
/* Opens the device: sets fd, header, and info's mac, mtu and caps.  What it
 * has set when it fails is tap_close()'s to undo.
 * Return: 0, or an errno. */
int tap_system_open(struct tap_port *tap, const char *name, bool offload);
/* Explains why a TAP could not be had.  Return: the status for number. */
int tap_system_refused(const char *name, int number, const struct port_error *error);
/* What an error of read() means.  Return: 0 (nothing there), or the status
 * of a port that is broken for good. */
int tap_system_rx_error(int number);

#endif
