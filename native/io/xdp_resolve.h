/* SPDX-License-Identifier: BSD-2-Clause
 *
 * xdp_resolve.h - next hops of addresses that the operating system has too.
 *
 * Theory of operation.  Only one may speak for an address in ARP and neighbour
 * discovery, and for a shared one that is the system.  What the user sends
 * about one doesn't leave: its announcements and answers are dropped, for the
 * system makes its own; its questions are answered from the kernel's table of
 * neighbours, with frames as the neighbour would have sent them.
 *
 * What the kernel doesn't know, or not for certain, it is told to use
 * (NTF_USE), which makes it ask as if it had a packet to send.  The question is
 * kept, and answered when the news comes that the neighbour is reachable; if it
 * never does, the user's own retries end in "no answer", as on any link.
 */
#ifndef AMS_IO_XDP_RESOLVE_H
#define AMS_IO_XDP_RESOLVE_H

#include "core/base.h"
#include "core/frame.h"
#include "io/claims.h"

#define RESOLVE_QUESTIONS 64u /* kept at a time; the oldest gives way */
#define RESOLVE_ANSWERS 256u  /* frames that wait to be received */

/* Who asks for whom. */
struct resolve_question {
    struct ams_endpoint target;  /* family 0: none */
    uint8_t asker[16];
};

struct xdp_resolver {
    int fd;                      /* of netlink; -1: not open */
    uint32_t ifindex;
    uint8_t mac[6];              /* the user's */
    struct frame_pool *pool;
    const struct claim_table *claims;
    struct resolve_question questions[RESOLVE_QUESTIONS];
    uint32_t n_questions;        /* ever kept */
    struct ams_frame *answers, **answers_end;
    uint32_t n_answers;
};

void resolver_init(struct xdp_resolver *resolver, uint32_t ifindex, struct frame_pool *pool,
                   const struct claim_table *claims);
/* Makes it able to ask the kernel, before an address is shared.  Return: 0 or -errno. */
int resolver_open(struct xdp_resolver *resolver);
void resolver_fini(struct xdp_resolver *resolver);
/* Looks at a frame that is about to be sent.
 * Return: true if it is about a shared address: it is dealt with, and must not be sent. */
bool resolver_takes(struct xdp_resolver *resolver, const struct ams_tx *tx);
/* A neighbour is reachable at mac. */
void resolver_news(struct xdp_resolver *resolver, const struct ams_endpoint *ip, const uint8_t mac[6]);
/* News were lost: looks every question up again. */
void resolver_again(struct xdp_resolver *resolver);
/* Takes up to n answers.  Return: how many. */
int resolver_receive(struct xdp_resolver *resolver, struct ams_frame **frames, int n);

#endif
