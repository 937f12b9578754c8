/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_option.h - TCP options as tables of operations.
 *
 * An option beside the usual ones is one file that exports one struct
 * tcp_option_ops.  Either tcp_option.c lists it, or it is registered with a
 * stack before that has connections.  docs/options.md tells how to write one.
 *
 * Life of an option on one connection:
 *
 *   join      our SYN is about to leave, or a peer's SYN came: does the
 *             connection take part?  If so it has a state from here on, of
 *             zeros.  NULL: others decide, with tcp_option_enable()
 *   answered  the SYN-ACK came, or the SYN of a simultaneous open: is the
 *             option in force?  NULL: if it was answered
 *   size      a segment is built: how long will the value be?
 *   emit      writes a value of just that length
 *   receive   an acceptable segment brought the option, also a SYN that the
 *             connection takes part in
 *
 * A connection without such an option pays nothing but the test of one
 * pointer for each segment, a stack without any the same.  With options the
 * work is a few calls for those that the connection takes part in.
 */
#ifndef AMS_STACK_TCP_OPTION_H
#define AMS_STACK_TCP_OPTION_H

#include "core/base.h"
#include "wire/tcp.h"

#define TCP_OPTIONS_KNOWN 8u     /* of a stack */
#define TCP_OPTION_ABSENT UINT32_MAX
#define TCP_OPTION_EXID_SIZE 2u

struct ams_stack;
struct tcp_conn;

/* Where an option would go. */
enum tcp_place {
    TCP_PLACE_SYN,
    TCP_PLACE_SYN_ACK,
    TCP_PLACE_DATA,  /* payload or FIN for the first time; all parts of a super-frame repeat it */
    TCP_PLACE_AGAIN, /* what was sent before */
    TCP_PLACE_ACK,   /* no payload: acknowledgements, probes */
};

/* An option's bytes behind kind, length and experiment's number. */
struct tcp_option_value {
    const uint8_t *data;
    uint32_t length;
    uint8_t kind;
};

struct tcp_option_ops {
    const char *name;
    uint8_t kind;             /* TCP_OPT_EXPERIMENTAL and 253 are shared: */
    uint8_t kind_also;        /* a second kind of the same option, 0: none */
    uint16_t exid;            /* who else has this kind (RFC 6994 section 3); with other kinds 0 */
    uint16_t state_size;      /* bytes for each connection that takes part */
    /* @offered: what the peer's SYN said; NULL: it has no such option, or the
     * SYN is ours (conn->state tells) */
    bool (*join)(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_option_value *offered);
    /* @answer: NULL: the peer didn't send the option */
    bool (*answered)(struct ams_stack *stack, struct tcp_conn *conn, void *state,
                     const struct tcp_option_value *answer);
    /* @room: bytes for the value at most.  Return: the value's length, or
     * TCP_OPTION_ABSENT.  It may be asked twice for one segment, and more
     * room must not make a value shorter. */
    uint32_t (*size)(const struct ams_stack *stack, const struct tcp_conn *conn, const void *state,
                     enum tcp_place place, uint32_t room);
    /* Return: the kind, where there are two. */
    uint8_t (*emit)(struct ams_stack *stack, struct tcp_conn *conn, void *state, enum tcp_place place, uint8_t *out,
                    uint32_t length);
    void (*receive)(struct ams_stack *stack, struct tcp_conn *conn, void *state, const struct tcp_repr *seg,
                    const struct tcp_option_value *value, uint64_t now);
};

/* The options that are listed in tcp_option.c, by index. */
enum tcp_option_index { TCP_OPTION_ACCECN, TCP_OPTION_USER_TIMEOUT };

extern const struct tcp_option_ops tcp_option_accecn;
extern const struct tcp_option_ops tcp_option_user_timeout;

/* What options cost a connection that takes part in any: states behind each other. */
struct tcp_ext {
    uint32_t enabled;         /* bit i: the stack's i-th option */
    uint32_t reserved;
    uint64_t states[];
};

/* What options take from a segment, the timestamps apart. */
struct tcp_option_plan {
    uint8_t sack_blocks;      /* at most */
    uint8_t others;           /* bytes, padded */
};

/* Adds an option to a stack.  Return: its index, -AMS_EADDRINUSE (its kind is
 * taken), -AMS_EINVAL, -AMS_ENOMEM (TCP_OPTIONS_KNOWN), -AMS_EBUSY (there are
 * connections). */
int tcp_option_register(struct ams_stack *stack, const struct tcp_option_ops *ops);
/* Registers those that are always there. */
void tcp_option_init(struct ams_stack *stack);
/* Makes a connection take part.  Return: its state, which is kept if it took
 * part already; NULL without memory. */
void *tcp_option_enable(struct ams_stack *stack, struct tcp_conn *conn, uint32_t index);
/* The state; NULL if the connection doesn't take part. */
void *tcp_option_state(const struct ams_stack *stack, const struct tcp_conn *conn, uint32_t index);
/* Frees all states of a connection. */
void tcp_option_fini(struct ams_stack *stack, struct tcp_conn *conn);

/* Our first SYN is about to leave (seg NULL), or the peer's came. */
void tcp_option_join(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now);
/* The answer to our SYN came. */
void tcp_option_answered(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now);
/* Hands a segment's options to those that take part. */
void tcp_option_receive(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint64_t now);

/* Divides the room for options of a segment that is no SYN: two SACK blocks
 * come first (RFC 9768 section 3.2.3.3), then the others, then more blocks.
 * Return: the bytes that are missing for payload. */
uint32_t tcp_option_plan(const struct ams_stack *stack, const struct tcp_conn *conn, enum tcp_place place,
                         struct tcp_option_plan *plan);
/* Writes options into scratch, which must live as long as repr, and points
 * repr at them.
 * @room: bytes at most, as planned */
void tcp_option_emit(struct ams_stack *stack, struct tcp_conn *conn, enum tcp_place place, struct tcp_repr *repr,
                     uint8_t scratch[TCP_OPTIONS_MAX], uint32_t room);

#endif
