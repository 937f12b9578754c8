/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bench.h - what `aiomultistack bench` measures without Python.  A part of aiomultistack.h.
 */
#ifndef AIOMULTISTACK_BENCH_H
#define AIOMULTISTACK_BENCH_H

#include "port.h"

/* CFFI-BEGIN */

/* ---- benchmarks ----------------------------------------------------------- */

#define AMS_BENCH_ACK 0         /* an acknowledgement of two segments */
#define AMS_BENCH_DATA 1        /* a data segment in order, read in place */
#define AMS_BENCH_SACK 2        /* a data segment of which every second one comes early */
#define AMS_BENCH_TRANSACTION 3 /* accept, request, response of 1 KB, close */
#define AMS_BENCH_TRAIN 4       /* a data segment in order, 16 of a connection one behind the other */
#define AMS_BENCH_CONNECTION 5  /* accept, close */

struct ams_bench_result {
    uint64_t operations;    /* segments, connections, or transactions */
    uint64_t nanoseconds;   /* spent in the engine */
    uint64_t bytes;         /* payload that the application has read (ack: that was acknowledged) */
    uint64_t memory;        /* bytes that the idle connections took, all together */
    uint64_t interrupted;   /* operations that are not counted: something else ran meanwhile */
    uint32_t endpoints;     /* at the end: connections and one listener */
    uint32_t reserved;
};

/* Measures the engine alone, without switch and port, with `connections` that
 * are served in turn, beside `idle` others (together 1 to 200000), until at
 * least `operations` are done (fewer if the machine is so busy that most are
 * interrupted), the first turn not counted.
 * Returns 0 or a status. */
int ams_bench_engine(int kind, uint32_t connections, uint32_t idle, uint64_t operations,
                     struct ams_bench_result *result);

/* How a switch is loaded by ams_bench_switch(). */
struct ams_bench_switch_plan {
    uint32_t ports;         /* 1, or an even number */
    uint32_t size;          /* bytes of a frame, without its check sequence: 64 to 1518 */
    uint32_t v6;            /* 1: IPv6 */
    uint32_t spread;        /* 0: ports send to their neighbours; 1: each frame to another port */
    uint32_t slots;         /* of each ring; 0: the fabric's default */
    uint32_t duration_ms;
    uint64_t rate;          /* frames a second that are offered; 0: as many as go */
    uint32_t latency;       /* 1: send probes */
    uint32_t threaded;      /* 1: switch and load have a thread each; 0: they alternate */
    int32_t switch_cpu;     /* cores; -1: any */
    int32_t load_cpu;
};

struct ams_bench_switch_result {
    uint64_t frames;        /* received at the other end */
    uint64_t bytes;
    uint64_t nanoseconds;
    uint64_t switch_ns;     /* of them in the switch, if it has no thread */
    uint64_t dropped;
    uint64_t wakeups;       /* system calls that woke a client */
    uint64_t kicks;         /* and the switch */
    uint64_t sent;          /* frames */
    uint64_t probes;        /* of them, to measure latency by */
    uint64_t probes_lost;
    uint64_t samples;       /* of latency */
    uint64_t p50_ns;
    uint64_t p99_ns;
};

/* Measures a switch between ports in shared memory.  Returns 0 or a status,
 * with a sentence in error. */
int ams_bench_switch(const struct ams_bench_switch_plan *plan, struct ams_bench_switch_result *result, char *error,
                     size_t error_size);

/* What ams_bench_port() does with a port. */
#define AMS_BENCH_RECEIVE 1 /* receives and drops */
#define AMS_BENCH_SEND 2    /* sends one frame again and again */
#define AMS_BENCH_ECHO 3    /* sends back what it receives, the Ethernet addresses exchanged */

struct ams_bench_frames {
    uint64_t received;
    uint64_t sent;
    uint64_t nanoseconds;
};

/* Drives a port for a time, in batches, without Python; waits while there is
 * nothing to do.  frame is what AMS_BENCH_SEND sends.
 * Returns 0, -AMS_EINVAL, -AMS_EMSGSIZE, -AMS_ENOMEM, or the status of a port that broke. */
int ams_bench_port(struct ams_port *port, int what, const char *frame, size_t length, uint64_t nanoseconds,
                   struct ams_bench_frames *result);

/* CFFI-END */

#endif /* AIOMULTISTACK_BENCH_H */
