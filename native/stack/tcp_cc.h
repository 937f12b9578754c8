/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_cc.h - congestion control as an ops table.
 *
 * An algorithm is one file that exports one struct tcp_cc_ops; cc_table.c
 * lists them by name.  Loss detection and recovery are not its business: it
 * sets cwnd and ssthresh, in bytes, when told what happened.
 */
#ifndef AMS_STACK_TCP_CC_H
#define AMS_STACK_TCP_CC_H

#include "core/base.h"

#define TCP_CC_PRIVATE 9 /* 64-bit words of algorithm state in the TCB */

struct tcp_conn;

struct tcp_cc_ops {
    const char *name;
    /* Resets the algorithm's state; cwnd and ssthresh are set already. */
    void (*init)(struct tcp_conn *conn, uint64_t now);
    /* New data was acknowledged outside of loss recovery, and the sender was
     * limited by cwnd.  acked: bytes; rtt: sample in ns or 0. */
    void (*on_ack)(struct tcp_conn *conn, uint32_t acked, uint64_t rtt, uint64_t now);
    /* Loss was detected: returns the new ssthresh in bytes. */
    uint32_t (*ssthresh)(struct tcp_conn *conn, uint64_t now);
    /* A retransmission timeout happened (after ssthresh). */
    void (*on_rto)(struct tcp_conn *conn, uint64_t now);
    /* The sender was idle for longer than an RTO (RFC 5681 section 4.1). */
    void (*on_idle)(struct tcp_conn *conn, uint64_t now);
};

extern const struct tcp_cc_ops cc_reno;
extern const struct tcp_cc_ops cc_cubic;

/* The algorithm of that name; NULL if unknown. */
const struct tcp_cc_ops *tcp_cc_find(const char *name);
/* The algorithm at index; NULL past the end. */
const struct tcp_cc_ops *tcp_cc_at(int index);

/* Slow start and congestion avoidance of RFC 5681 with appropriate byte
 * counting (RFC 3465), shared by algorithms. */
uint32_t tcp_cc_slow_start(struct tcp_conn *conn, uint32_t acked);
void tcp_cc_additive_increase(struct tcp_conn *conn, uint32_t acked, uint32_t window);

#endif
