/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp_ecn.c - Explicit Congestion Notification (RFC 3168), and which kind of
 * feedback a connection has (RFC 9768 section 3.1).
 *
 * Theory of operation.  Who opens a connection asks with ECE and CWR on its
 * SYN, for Accurate ECN with AE, too.  A listener that agrees answers with
 * ECE, or, to the latter, with which IP-ECN field the SYN came; who asked for
 * Accurate ECN and meets a host that knows the older kind makes do with it.
 * A mode that was entered is never changed.
 *
 * From then on new data is sent as ECT(0), never pure ACKs, SYNs, probes or
 * anything that is sent again (RFC 3168 sections 6.1.4 to 6.1.6), except with
 * Accurate ECN, which tells of the marks of all that but the SYNs.  With
 * RFC 3168's feedback a receiver that sees CE sets ECE on all its ACKs until
 * CWR arrives (section 6.1.3); a sender that sees ECE reduces its window once
 * per window of data, and says so with CWR on the next new segment (section
 * 6.1.2).  Accurate feedback is in tcp_accecn.c.
 *
 * Something on the path may drop SYNs that ask: RFC 3168's asks once (section
 * 6.1.1.1), RFC 9768's twice (section 3.1.4.1).
 */
#include "stack/tcp_accecn.h"

#define SIGNAL_QUICKACKS 2u /* the sender may have a very small window: no delayed ACKs now */
#define ACCURATE_TRIES 2u   /* SYNs or SYN-ACKs that speak of Accurate ECN */

/* AE, CWR and ECE as a number, as the RFCs' tables write them. */
#define ACE_NONE 0u
#define ACE_CLASSIC_ANSWER 1u
#define ACE_CLASSIC 3u
#define ACE_ALL 7u

static uint32_t ace_of(const struct tcp_repr *seg)
{
    return (seg->flags & TCP_ACE) >> TCP_ACE_SHIFT;
}

/* Do listeners agree to Accurate ECN? */
static bool accepts_accurate(const struct ams_stack *stack)
{
    uint32_t mode = stack->config.ecn;
    return mode == AMS_ECN_ACCURATE || mode == AMS_ECN_ACCURATE_CLASSIC || mode == AMS_ECN_ACCURATE_ACCEPT;
}

static bool asks_accurately(uint32_t ace)
{
    return ace != ACE_NONE && ace != ACE_CLASSIC; /* also in ways yet to be defined (section 3.1.3) */
}

/* ---- negotiation ------------------------------------------------------------------- */

uint16_t tcp_ecn_syn(const struct ams_stack *stack, struct tcp_conn *conn, bool first)
{
    uint32_t mode = stack->config.ecn;
    if (first && mode == AMS_ECN_ACCURATE)
        conn->ecn = ECN_ASKED_ACCURATE;
    else if (first && (mode == AMS_ECN_ASK || mode == AMS_ECN_ACCURATE_CLASSIC))
        conn->ecn = ECN_ASKED;
    else if (!(conn->ecn & ECN_ASKED_ACCURATE))
        conn->ecn = 0;
    if (conn->ecn & ECN_ASKED_ACCURATE)
        return conn->backoff < ACCURATE_TRIES ? TCP_AE | TCP_CWR | TCP_ECE : 0;
    return conn->ecn ? TCP_ECE | TCP_CWR : 0;
}

uint16_t tcp_ecn_answer(const struct ams_stack *stack, const struct tcp_repr *syn, uint8_t tos)
{
    uint32_t ace = ace_of(syn);
    if (stack->config.ecn == AMS_ECN_OFF)
        return 0;
    if (accepts_accurate(stack) && asks_accurately(ace))
        return tcp_accecn_reflect(tos & IP_ECN_MASK);
    return (ace & ACE_CLASSIC) == ACE_CLASSIC ? TCP_ECE : 0;
}

bool tcp_ecn_answered_accurately(const struct ams_stack *stack, const struct tcp_repr *ack)
{
    return accepts_accurate(stack) && ace_of(ack) > ACE_CLASSIC_ANSWER;
}

void tcp_ecn_passive(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn, uint8_t tos)
{
    uint32_t ace = ace_of(syn);
    if (stack->config.ecn == AMS_ECN_OFF)
        return;
    if (asks_accurately(ace)) {
        if (accepts_accurate(stack) && tcp_accecn_start(stack, conn, tos & IP_ECN_MASK))
            return;
        conn->ecn |= ECN_ASKED_ACCURATE; /* it isn't wanted, though it may be when the SYN comes again; or no memory */
    }
    if ((ace & ACE_CLASSIC) == ACE_CLASSIC)
        conn->ecn |= ECN_OK | ECN_ECT;
}

bool tcp_ecn_syn_again(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *syn, uint8_t tos)
{
    uint32_t ace = ace_of(syn);
    if (conn->ecn & ECN_ACCURATE) {
        if (ace == ACE_CLASSIC)
            return false;
        if (ace == ACE_NONE)
            conn->ecn &= (uint8_t)~ECN_ECT; /* will the peer be in AccECN mode, too? */
        tcp_accecn_of(conn)->syn_ecn = tos & IP_ECN_MASK;
        return true;
    }
    return !(conn->ecn & ECN_OK && accepts_accurate(stack) && asks_accurately(ace)) || conn->ecn & ECN_ASKED_ACCURATE;
}

uint16_t tcp_ecn_synack(struct tcp_conn *conn)
{
    if (!(conn->ecn & ECN_ACCURATE))
        return conn->ecn & ECN_OK ? TCP_ECE : 0;
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    acc->marks |= acc->marks & ACC_SYNACK_SENT ? ACC_SYNACK_BARE : ACC_SYNACK_SENT; /* section 3.2.3.2.2 */
    if (conn->backoff >= ACCURATE_TRIES) {
        conn->ecn &= (uint8_t)~ECN_ECT; /* section 3.1.5 */
        return 0;
    }
    return tcp_accecn_reflect(acc->syn_ecn);
}

void tcp_ecn_active(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *synack, uint8_t tos)
{
    uint32_t ace = ace_of(synack);
    if (conn->ecn & ECN_ASKED_ACCURATE) {
        if (ace == ACE_NONE || ace == ACE_ALL) /* no ECN, or flags that were just sent back */
            return;
        if (ace == ACE_CLASSIC_ANSWER)
            conn->ecn |= ECN_OK | ECN_ECT;
        else if (tcp_accecn_start(stack, conn, tos & IP_ECN_MASK))
            tcp_accecn_synack(conn, ace);
    } else if (conn->ecn & ECN_ASKED && (ace & ACE_CLASSIC) == ACE_CLASSIC_ANSWER) {
        conn->ecn |= ECN_OK | ECN_ECT;
    }
}

void tcp_ecn_opened(struct ams_stack *stack, struct tcp_conn *conn, uint64_t now)
{
    if (!(conn->ecn & ECN_ACCURATE) || !(tcp_accecn_of(conn)->marks & ACC_RESPOND))
        return;
    tcp_accecn_of(conn)->marks &= (uint16_t)~ACC_RESPOND;
    tcp_cc_ecn(stack, conn, now);
}

void tcp_ecn_third(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *ack, uint32_t payload,
                   uint64_t now)
{
    if (!(conn->ecn & ECN_ACCURATE) || payload || ack->n_sack || ack->flags & TCP_SYN)
        return;
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    acc->marks |= ACC_THIRD;
    switch (ace_of(ack)) { /* table 4 */
    case 0:
        acc->marks |= ACC_IGNORE;
        conn->ecn &= (uint8_t)~ECN_ECT;
        break;
    case 6:
        acc->s_cep++;
        acc->marks |= ACC_RESPOND;
        tcp_ecn_opened(stack, conn, now);
        conn->ecn &= (uint8_t)~ECN_ECT;
        break;
    case 3:
    case 4: /* our SYN-ACK was Not-ECT (section 3.2.2.3) */
        conn->ecn &= (uint8_t)~ECN_ECT;
        break;
    default:
        break;
    }
}

void tcp_ecn_synack_again(struct tcp_conn *conn, uint8_t tos)
{
    if (!(conn->ecn & ECN_ACCURATE))
        return;
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    acc->syn_ecn = tos & IP_ECN_MASK;
    acc->demands += !acc->demands;
    acc->marks |= ACC_HANDSHAKE_ACK;
    if (acc->syn_ecn == IP_CE && !(acc->marks & ACC_SYNACK_CE)) { /* once, however many come (section 3.2.2.2) */
        acc->marks |= ACC_SYNACK_CE;
        acc->r_cep++;
    }
}

/* ---- what is sent --------------------------------------------------------------------- */

bool tcp_ecn_handshake_ack(const struct tcp_conn *conn)
{
    return tcp_accecn_of(conn)->marks & ACC_HANDSHAKE_ACK;
}

uint16_t tcp_ecn_ack_flags(struct tcp_conn *conn, bool handshake)
{
    if (!(conn->ecn & ECN_ACCURATE))
        return conn->ecn & ECN_ECHO ? TCP_ECE : 0;
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    acc->ce_owed = 0;
    acc->marks &= (uint16_t)~ACC_DUP_REPORTED;
    if (handshake) {
        acc->marks &= (uint16_t)~ACC_HANDSHAKE_ACK;
        return tcp_accecn_reflect(acc->syn_ecn);
    }
    return (uint16_t)(acc->r_cep << TCP_ACE_SHIFT & TCP_ACE);
}

bool tcp_ecn_unsplittable(const struct tcp_conn *conn)
{
    return tcp_accecn_of(conn)->r_cep << TCP_ACE_SHIFT & TCP_CWR;
}

void tcp_ecn_timeout(struct tcp_conn *conn)
{
    if (conn->ecn & ECN_ACCURATE && conn->snd_una == conn->iss + 1)
        tcp_accecn_of(conn)->marks |= ACC_NO_OPTION; /* section 3.2.3.2.2 */
}

void tcp_ecn_duplicate(struct tcp_conn *conn)
{
    struct tcp_accecn *acc = tcp_accecn_of(conn);
    if (acc->marks & ACC_DUP_REPORTED)
        acc->marks |= ACC_NO_OPTION; /* section 3.2.3.2.2 */
}

/* ---- what comes ------------------------------------------------------------------------- */

/* A segment for a connection with RFC 3168's feedback. */
static void classic_arrived(struct tcp_conn *conn, uint8_t tos, uint16_t flags)
{
    if (flags & TCP_CWR) {
        conn->ecn &= (uint8_t)~ECN_ECHO;
        conn->flags |= CONN_ACK_NOW;
    }
    if ((tos & IP_ECN_MASK) == IP_NOT_ECT)
        return;
    conn->ecn |= ECN_SEEN;
    if ((tos & IP_ECN_MASK) == IP_CE && !(conn->ecn & ECN_ECHO)) {
        conn->ecn |= ECN_ECHO;
        conn->flags |= CONN_ACK_NOW;
        if (conn->quickacks < SIGNAL_QUICKACKS)
            conn->quickacks = SIGNAL_QUICKACKS;
    }
}

void tcp_ecn_arrived(struct tcp_conn *conn, const struct tcp_repr *seg, uint8_t tos, uint32_t payload,
                     uint32_t segment)
{
    if (!(conn->ecn & ECN_ACCURATE)) {
        if (payload)
            classic_arrived(conn, tos, seg->flags);
    } else if (!(seg->flags & TCP_SYN)) {
        tcp_accecn_arrived(conn, tos, payload, segment ? (payload + segment - 1) / segment : 1);
    }
}

bool tcp_ecn_predict(const struct tcp_conn *conn, uint8_t tos, uint16_t *flags)
{
    *flags = 0;
    if (AMS_LIKELY(!(conn->ecn & (ECN_OK | ECN_ACCURATE))))
        return true;
    if ((tos & IP_ECN_MASK) == IP_CE)
        return false;
    if (!(conn->ecn & ECN_ACCURATE))
        return true;
    const struct tcp_accecn *acc = tcp_accecn_of(conn);
    *flags = (uint16_t)(acc->s_cep << TCP_ACE_SHIFT & TCP_ACE);
    return (acc->marks & (ACC_CHECKED | ACC_THIRD)) == ACC_CHECKED;
}

void tcp_ecn_predicted(struct tcp_conn *conn, uint8_t tos, uint32_t payload, uint32_t tsval)
{
    if (!(conn->ecn & ECN_ACCURATE)) {
        classic_arrived(conn, tos, 0);
        return;
    }
    if (conn->flags & CONN_TS_OK)
        tcp_accecn_of(conn)->newest_tsval = tsval;
    tcp_accecn_arrived(conn, tos, payload, 0);
}

void tcp_ecn_ack(struct ams_stack *stack, struct tcp_conn *conn, const struct tcp_repr *seg, uint32_t payload,
                 const struct tcp_delivery *delivery, uint64_t now)
{
    if (conn->ecn & ECN_ACCURATE)
        tcp_accecn_ack(stack, conn, seg, payload, delivery, now);
    else if (seg->flags & TCP_ECE && !(seg->flags & TCP_SYN))
        tcp_cc_ecn(stack, conn, now);
}
