/* SPDX-License-Identifier: BSD-2-Clause
 *
 * aiomultistack.h - the public header of the native module.
 *
 * It consists of the parts that are included below.  Everything between the
 * two CFFI markers of a part is read by native/build_ffi.py as it stands:
 * plain declarations, integer #defines, no #ifdef, no inline.
 *
 * The layers that this header shows, from the outside in:
 *
 *   node    the embedded deployment: one port, one switch, one stack
 *   port    a driver: frames in, frames out (tap, xdp, netmap, switch, mem)
 *   hub     an in-process Ethernet segment that mem ports attach to
 *   fabric  the shared deployment: the switch as a thread, clients on rings
 *   stack   the sans-I/O engine: endpoints (TCP, UDP) addressed by id
 *
 * Return values: >= 0 is success; < 0 is a status (-AMS_E...), which
 * ams_status_errno(), ams_status_name() and ams_status_text() explain.
 * Time is uint64_t nanoseconds of a monotonic clock.  AMS_NOW asks the
 * function to read the clock itself (native/io only).  AMS_NEVER is "no
 * deadline".
 *
 * Threads: a node, its stack and its port belong to one thread at a time.
 * A hub may be shared by nodes in different threads.
 */
#ifndef AIOMULTISTACK_H
#define AIOMULTISTACK_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#include "aiomultistack/common.h"
#include "aiomultistack/port.h"
#include "aiomultistack/protocol.h"
#include "aiomultistack/stack.h"
#include "aiomultistack/network.h"
#include "aiomultistack/switch.h"
#include "aiomultistack/bench.h"

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#endif /* AIOMULTISTACK_H */
