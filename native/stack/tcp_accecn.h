/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_accecn.h - what a connection with Accurate ECN keeps (tcp_accecn.c).
 */
#ifndef AMS_STACK_TCP_ACCECN_H
#define AMS_STACK_TCP_ACCECN_H

#include "stack/tcp.h"

/* Code points of the IP-ECN field (RFC 3168 section 5). */
#define IP_NOT_ECT 0u
#define IP_ECT1 1u
#define IP_ECT0 2u
#define IP_CE 3u

/* struct tcp_accecn's marks */
#define ACC_HANDSHAKE_ACK (1u << 0)  /* the ACK of the SYN-ACK is owed, in the handshake's encoding */
#define ACC_THIRD (1u << 1)          /* the segment at hand is that ACK: its ACE field is no counter */
#define ACC_IGNORE (1u << 2)         /* the feedback makes no sense: it isn't obeyed */
#define ACC_CHECKED (1u << 3)        /* the first counter has been looked at */
#define ACC_OPTION_SEEN (1u << 4)    /* the peer's options arrive */
#define ACC_OPTION_ZEROED (1u << 5)  /* but somebody clears them */
#define ACC_NO_OPTION (1u << 6)      /* ours don't seem to arrive: none is sent */
#define ACC_RESPOND (1u << 7)        /* the SYN met congestion */
#define ACC_SYNACK_CE (1u << 8)      /* a SYN-ACK with CE was counted */
#define ACC_NOT_ALL (1u << 9)        /* data has arrived without CE: no network marks everything */
#define ACC_SYNACK_SENT (1u << 10)
#define ACC_SYNACK_BARE (1u << 11)   /* SYN-ACKs go without the option from here on */
#define ACC_DUP_REPORTED (1u << 12)  /* our latest segment had the option, and a DSACK */

/* The counters of RFC 9768 section 3.2; those of bytes are in the order of
 * the code points: ECT(1), ECT(0), CE. */
struct tcp_accecn {
    uint32_t r_cep;           /* packets with CE that came */
    uint32_t r_bytes[3];
    uint32_t s_cep;           /* and those that the peer says it got */
    uint32_t s_bytes[3];
    uint32_t field[3];        /* of the option in the segment at hand */
    uint32_t newest_tsval;    /* of the feedback that was taken in */
    uint32_t round_end;
    uint16_t marks;           /* ACC_* */
    uint8_t fields;           /* which of field[] there are; likewise bit i for code point i + 1: */
    uint8_t touched;          /* which of r_bytes[] have ever changed */
    uint8_t news;             /* which have changed since the peer was told */
    uint8_t demands;          /* segments that carry the option in any case */
    uint8_t syn_ecn;          /* IP-ECN of the latest SYN or SYN-ACK that came */
    uint8_t last_ecn;         /* and of the latest packet */
    uint8_t ce_owed;          /* CE marks since our last ACK */
    uint8_t rounds;           /* in which every packet seems to be marked */
    uint16_t rate;            /* prevailing share of marked packets, in 1/256 */
    uint16_t per_ack;         /* packets that an ACK stands for, on average, in 1/64 */
};

/* The state of a connection in AccECN mode (ECN_ACCURATE). */
static inline struct tcp_accecn *tcp_accecn_of(const struct tcp_conn *conn)
{
    _Static_assert(TCP_OPTION_ACCECN == 0, "its state is the first");
    return (struct tcp_accecn *)conn->ext->states;
}

/* Sets counters to what they begin with (section 3.2.1). */
void tcp_accecn_counters(struct tcp_accecn *acc);
/* Enters AccECN mode.  @ecn: IP-ECN of the SYN or SYN-ACK
 * Return: false without memory. */
bool tcp_accecn_start(struct ams_stack *stack, struct tcp_conn *conn, uint8_t ecn);
/* How a handshake's segment says with which IP-ECN another one came (tables 2 and 3). */
uint16_t tcp_accecn_reflect(uint8_t ecn);
/* The first sender's view: a SYN-ACK that agrees (section 3.1.1). */
void tcp_accecn_synack(struct tcp_conn *conn, uint32_t ace);
/* An acceptable segment came.
 * @packets: how many were merged into it */
void tcp_accecn_arrived(struct tcp_conn *conn, uint8_t tos, uint32_t payload, uint32_t packets);
/* The feedback in an acknowledgement. */
void tcp_accecn_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                    const struct tcp_delivery *delivery, uint64_t now);

#endif
