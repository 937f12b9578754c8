/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_cc.h - congestion control as a table of operations.
 *
 * An algorithm is one file that exports one struct tcp_cc_ops; the table in
 * tcp_cc.c lists them by name.  Loss detection and recovery are not its
 * business: when told what happened, it sets conn->cwnd and conn->ssthresh
 * (bytes) and, if it paces, conn->pacing_rate (bytes per second).
 *
 * What is called when:
 *
 *   init      the connection is established, or the algorithm was chosen;
 *             cwnd and ssthresh are set, the state is zeroed
 *   on_ack    each ACK that delivers something, after loss detection.  An
 *             algorithm that leaves cwnd to PRR during recovery
 *             (no TCP_CC_OWN_CWND) is not called then, nor while the sender
 *             does not use its window (RFC 7661)
 *   on_loss   loss was detected, once per window: returns the new ssthresh
 *   on_rto    the same after a retransmission timeout, and cwnd is one segment
 *   on_ecn    an ECN signal, once per window: the new ssthresh.  NULL: on_loss
 *   on_undo   the loss was none: cwnd and ssthresh have been restored
 *   on_exit   recovery is over.  NULL: nothing to do
 *   on_idle   the sender starts again after it was idle for an RTO, and cwnd
 *             has been reduced; with TCP_CC_OWN_CWND whenever it starts again
 *   fini      the state goes.  NULL: nothing to do
 */
#ifndef AMS_STACK_TCP_CC_H
#define AMS_STACK_TCP_CC_H

#include "core/base.h"

#define TCP_CC_WORDS 8 /* 64-bit words of algorithm state in the TCB; larger states are allocated */
#define TCP_CWND_MAX (1u << 30)

#define TCP_CC_OWN_CWND 1u /* sets cwnd in recovery, too; no PRR */
#define TCP_CC_PACED 2u    /* wants its output paced */

struct ams_stack;
struct tcp_conn;

/* What one ACK says (bytes, ns). */
struct tcp_cc_sample {
    uint32_t acked;           /* by cumulative ACK */
    uint32_t delivered;       /* newly delivered, SACKed bytes included */
    uint32_t lost;            /* newly marked lost */
    uint32_t prior_pipe;      /* in flight before this ACK */
    uint64_t rtt;             /* 0: no sample */
    /* the delivery rate: rate_delivered bytes in rate_interval ns; 0: no sample */
    uint64_t rate_delivered;
    uint64_t rate_interval;
    uint32_t rate_prior;      /* conn->delivered (low bits) when the sample's segment was sent */
    bool rate_valid;          /* rate_prior is set */
    bool app_limited;
};

struct tcp_cc_ops {
    const char *name;
    uint32_t flags;           /* TCP_CC_* */
    uint32_t state_size;      /* bytes that tcp_cc_state() points at */
    void (*init)(struct tcp_conn *conn, uint64_t now);
    void (*on_ack)(struct tcp_conn *conn, const struct tcp_cc_sample *sample, uint64_t now);
    uint32_t (*on_loss)(struct tcp_conn *conn, uint64_t now);
    void (*on_rto)(struct tcp_conn *conn, uint64_t now);
    uint32_t (*on_ecn)(struct tcp_conn *conn, uint64_t now);
    void (*on_undo)(struct tcp_conn *conn, uint64_t now);
    void (*on_exit)(struct tcp_conn *conn, uint64_t now);
    void (*on_idle)(struct tcp_conn *conn, uint64_t now);
    void (*fini)(struct tcp_conn *conn);
};

extern const struct tcp_cc_ops cc_reno;
extern const struct tcp_cc_ops cc_cubic;
extern const struct tcp_cc_ops cc_bbr;

/* ---- cc_external.c ------------------------------------------------------------- */

#define TCP_CC_EXTERNAL_MAX 16
struct tcp_host;
/* The registration of that name; NULL if there is none. */
const struct tcp_cc_ops *tcp_cc_external_find(const struct tcp_host *tcp, const char *name);
/* Frees all registrations; no connection uses them any more. */
void tcp_cc_external_fini(struct tcp_host *tcp);

/* ---- tcp_cc.c ------------------------------------------------------------------ */

/* The algorithm of that name; NULL if unknown. */
const struct tcp_cc_ops *tcp_cc_find(const struct ams_stack *stack, const char *name);
/* The algorithm at index; NULL past the end. */
const struct tcp_cc_ops *tcp_cc_at(int index);
/* The algorithm's state in the TCB, or outside of it. */
void *tcp_cc_state(struct tcp_conn *conn);
/* Gives a connection an algorithm, whose state starts anew.  Without memory
 * for it the connection keeps what it has.  Return: 0 or -AMS_ENOMEM. */
int tcp_cc_choose(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_cc_ops *cc);
/* The initial window (RFC 6928 section 2), and the algorithm's start.  An
 * algorithm that finds no memory for its state gives way to Reno. */
void tcp_cc_start(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now);
/* Frees the algorithm's state; legal at any time. */
void tcp_cc_fini(struct ams_stack *stack, struct tcp_conn *conn);
/* RFC 6928 section 2, in bytes. */
uint32_t tcp_initial_window(const struct tcp_conn *conn);

/* An ACK was taken in: cwnd by PRR or by the algorithm. */
struct tcp_delivery;
void tcp_cc_ack(struct tcp_conn *conn, const struct tcp_delivery *delivery, uint64_t now);
/* Output has done what it could: is the sender using its window (RFC 7661)?
 * @limited: it had to stop because of cwnd */
void tcp_cc_sent(struct tcp_conn *conn, bool limited, uint64_t now);
/* The sender has been idle: what is left of cwnd (RFC 2861, RFC 5681 section 4.1). */
void tcp_cc_restart(struct tcp_conn *conn, uint64_t now);

/* Slow start of RFC 5681 with appropriate byte counting.
 * Return: the acknowledged bytes left when ssthresh was reached. */
uint32_t tcp_cc_slow_start(struct tcp_conn *conn, uint32_t acked);
/* One MSS per `window` bytes acknowledged; *credit carries the remainder. */
void tcp_cc_additive_increase(struct tcp_conn *conn, uint32_t acked, uint32_t window, uint64_t *credit);

#endif
