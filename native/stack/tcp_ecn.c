/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_ecn.c - Explicit Congestion Notification (RFC 3168).
 *
 * Theory of operation.  Who opens a connection asks with ECE and CWR on its
 * SYN, and a listener that agrees answers with ECE (section 6.1.1).  From then
 * on new data is sent as ECT(0), never pure ACKs, SYNs, probes or anything
 * that is sent again (sections 6.1.4 to 6.1.6).  A receiver that sees CE sets
 * ECE on all its ACKs until CWR arrives (section 6.1.3); a sender that sees
 * ECE reduces its window once per window of data, and says so with CWR on
 * the next new segment (section 6.1.2).
 *
 * A SYN that had to be repeated asks no longer: something on the path may
 * drop those that do (section 6.1.1.1).
 */
#include "stack/tcp.h"

#define IP_ECN_MASK 3u
#define IP_ECN_CE 3u
#define SIGNAL_QUICKACKS 2u /* the sender may have a very small window: no delayed ACKs now */

uint8_t tcp_ecn_syn(const struct ams_stack *stack, struct tcp_conn *conn, bool first)
{
    conn->ecn = first && stack->config.ecn == AMS_ECN_ASK ? ECN_ASKED : 0;
    return conn->ecn ? TCP_ECE | TCP_CWR : 0;
}

bool tcp_ecn_asked(const struct ams_stack *stack, const struct tcp_repr *syn)
{
    return stack->config.ecn != AMS_ECN_OFF && (syn->flags & (TCP_ECE | TCP_CWR)) == (TCP_ECE | TCP_CWR);
}

void tcp_ecn_passive(const struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn)
{
    if (tcp_ecn_asked(stack, syn))
        conn->ecn |= ECN_OK;
}

void tcp_ecn_active(struct tcp_conn *conn, const struct tcp_repr *synack)
{
    if (conn->ecn & ECN_ASKED && (synack->flags & (TCP_ECE | TCP_CWR)) == TCP_ECE)
        conn->ecn |= ECN_OK;
}

void tcp_ecn_receive(struct tcp_conn *conn, uint8_t tos, uint8_t flags)
{
    if (flags & TCP_CWR) {
        conn->ecn &= (uint8_t)~ECN_ECHO;
        conn->flags |= CONN_ACK_NOW;
    }
    if (!(tos & IP_ECN_MASK))
        return;
    conn->ecn |= ECN_SEEN;
    if ((tos & IP_ECN_MASK) == IP_ECN_CE && !(conn->ecn & ECN_ECHO)) {
        conn->ecn |= ECN_ECHO;
        conn->flags |= CONN_ACK_NOW;
        if (conn->quickacks < SIGNAL_QUICKACKS)
            conn->quickacks = SIGNAL_QUICKACKS;
    }
}

void tcp_ecn_ack(struct ams_stack *stack, struct tcp_conn *conn, uint8_t flags, uint64_t now)
{
    if (flags & TCP_ECE && !(flags & TCP_SYN))
        tcp_cc_ecn(stack, conn, now);
}
