/* SPDX-License-Identifier: BSD-2-Clause
 *
 * linux_info.h - struct tcp_info as Linux 6.18 lays it out (280 bytes), which
 * is more than older distributions' headers know.
 */
#ifndef PD_LINUX_INFO_H
#define PD_LINUX_INFO_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "aiomultistack.h"

struct linux_tcp_info {
    uint8_t state, ca_state, retransmits, probes, backoff, options;
    uint8_t wscales;          /* ours to send in the low half, to receive in the high */
    uint8_t bits;             /* 0: delivery rate limited by the application; 1, 2: fast open failure */
    uint32_t rto, ato, snd_mss, rcv_mss;
    uint32_t unacked, sacked, lost, retrans, fackets;
    uint32_t last_data_sent, last_ack_sent, last_data_recv, last_ack_recv;
    uint32_t pmtu, rcv_ssthresh, rtt, rttvar, snd_ssthresh, snd_cwnd, advmss, reordering;
    uint32_t rcv_rtt, rcv_space;
    uint32_t total_retrans;
    uint64_t pacing_rate, max_pacing_rate, bytes_acked, bytes_received;
    uint32_t segs_out, segs_in;
    uint32_t notsent_bytes, min_rtt, data_segs_in, data_segs_out;
    uint64_t delivery_rate;
    uint64_t busy_time, rwnd_limited, sndbuf_limited;
    uint32_t delivered, delivered_ce;
    uint64_t bytes_sent, bytes_retrans;
    uint32_t dsack_dups, reord_seen, rcv_ooopack, snd_wnd, rcv_wnd, rehash;
    uint16_t total_rto, total_rto_recoveries;
    uint32_t total_rto_time;
    uint32_t received_ce;
    uint32_t delivered_e1_bytes, delivered_e0_bytes, delivered_ce_bytes;
    uint32_t received_e1_bytes, received_e0_bytes, received_ce_bytes;
    uint32_t accecn;          /* failure mode, option seen, options2 */
};

_Static_assert(sizeof(struct linux_tcp_info) == 280, "the size that Linux 6.18 gives it");

#define LINUX_SSTHRESH_INFINITE 0x7fffffffu

static inline uint32_t linux_packets(uint32_t bytes, uint32_t mss)
{
    return mss ? (bytes + mss - 1) / mss : 0;
}

static inline uint32_t linux_us(uint64_t ns)
{
    return (uint32_t)(ns / 1000);
}

static inline uint32_t linux_ms(uint64_t ns)
{
    return (uint32_t)(ns / 1000000);
}

/* Fills in Linux's view of the engine's statistics. */
static inline void linux_info_fill(struct linux_tcp_info *out, const struct ams_tcp_info *info)
{
    uint32_t mss = info->snd_mss;
    memset(out, 0, sizeof(*out));
    out->state = info->state;
    out->ca_state = info->ca_state;
    out->retransmits = info->backoff;
    out->backoff = info->backoff;
    out->probes = info->probes;
    out->options = info->options;
    out->wscales = (uint8_t)(info->snd_wscale | info->rcv_wscale << 4);
    out->rto = linux_us(info->rto);
    out->snd_mss = mss;
    out->rcv_mss = info->rcv_mss;
    out->unacked = linux_packets(info->unacked, mss);
    out->sacked = linux_packets(info->sacked, mss);
    out->lost = linux_packets(info->lost, mss);
    out->retrans = linux_packets(info->retrans_out, mss);
    out->last_data_sent = linux_ms(info->last_data_sent);
    out->last_data_recv = linux_ms(info->last_data_received);
    out->last_ack_recv = linux_ms(info->last_received);
    out->pmtu = info->pmtu;
    out->advmss = info->adv_mss;
    out->rtt = linux_us(info->srtt);
    out->rttvar = linux_us(info->rttvar);
    out->snd_ssthresh = info->snd_ssthresh == UINT32_MAX || !mss ? LINUX_SSTHRESH_INFINITE : info->snd_ssthresh / mss;
    out->snd_cwnd = mss ? info->snd_cwnd / mss : 0;
    out->reordering = info->reordering;
    out->bytes_acked = info->bytes_acked;
    out->bytes_received = info->bytes_received;
    out->segs_out = (uint32_t)info->segs_out;
    out->segs_in = (uint32_t)info->segs_in;
    out->notsent_bytes = info->not_sent;
    out->total_retrans = (uint32_t)info->segs_retrans;
    out->delivery_rate = info->delivery_rate;
    out->busy_time = info->busy_time / 1000;
    out->rwnd_limited = info->rwnd_limited / 1000;
    out->data_segs_in = info->data_segs_in;
    out->data_segs_out = info->data_segs_out;
    out->pacing_rate = info->pacing_rate ? info->pacing_rate : UINT64_MAX;
    out->max_pacing_rate = UINT64_MAX;
    out->delivered = info->delivered_segs;
    out->min_rtt = linux_us(info->min_rtt);
    out->bytes_sent = info->bytes_sent;
    out->bytes_retrans = info->bytes_retrans;
    out->dsack_dups = (uint32_t)info->dsack_dups;
    out->snd_wnd = info->snd_wnd;
    out->rcv_wnd = info->rcv_wnd;
    out->received_ce = info->received_ce;
    out->delivered_ce = info->delivered_ce;
    out->received_e1_bytes = info->received_ect1_bytes;
    out->received_e0_bytes = info->received_ect0_bytes;
    out->received_ce_bytes = info->received_ce_bytes;
    out->delivered_e1_bytes = info->delivered_ect1_bytes;
    out->delivered_e0_bytes = info->delivered_ect0_bytes;
    out->delivered_ce_bytes = info->delivered_ce_bytes;
}

#endif
