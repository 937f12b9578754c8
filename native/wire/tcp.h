/* SPDX-License-Identifier: BSD-2-Clause
 *
 * tcp.h - the TCP header and its options (RFC 9293 section 3.1, RFC 7323,
 * RFC 2018, RFC 2883, RFC 9768).
 */
#ifndef AMS_WIRE_TCP_H
#define AMS_WIRE_TCP_H

#include "core/base.h"

#define TCP_HEADER 20u
#define TCP_OPTIONS_MAX 40u

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_PSH 0x08u
#define TCP_ACK 0x10u
#define TCP_URG 0x20u
#define TCP_ECE 0x40u
#define TCP_CWR 0x80u
#define TCP_AE 0x100u                /* RFC 9768 section 7 */
#define TCP_ACE_SHIFT 6              /* AE, CWR and ECE as a number (RFC 9768 section 3.2.2) */
#define TCP_ACE (7u << TCP_ACE_SHIFT)

#define TCP_CSUM_OFFSET 16u
#define TCP_SACK_BLOCKS 4
#define TCP_FASTOPEN_COOKIE_MAX 16u
#define TCP_OPT_FASTOPEN 34u         /* RFC 7413 section 4.1.1 */
#define TCP_OPT_EXPERIMENTAL 254u    /* RFC 6994; with Fast Open's magic */
#define TCP_TIMESTAMPS_ALIGNED 0x0101080au /* NOP NOP TIMESTAMPS 10: how nearly every segment's options begin */
#define TCP_OTHERS_MAX 4u            /* options of other kinds that are passed on */

struct tcp_sack_block {
    uint32_t start;
    uint32_t end; /* one past the last */
};

/* A parsed or to-be-emitted header. */
struct tcp_repr {
    uint16_t src_port;
    uint16_t dst_port;
    uint32_t seq;
    uint32_t ack;
    uint16_t window;          /* as on the wire, unscaled */
    uint16_t flags;
    uint16_t urgent;
    uint8_t header_len;       /* parse: whole header with options */
    /* Options of other kinds (tcp_option.c).  parse: where they lie in the
     * header at `raw`; emit: `raw` has so many bytes of them, complete */
    uint8_t n_others;
    uint8_t others[TCP_OTHERS_MAX];
    uint8_t raw_len;
    uint16_t mss;             /* 0: no MSS option */
    bool has_wscale;
    bool sack_permitted;
    bool has_timestamps;
    uint8_t wscale;           /* at most 14 (RFC 7323 section 2.3) */
    uint8_t n_sack;
    uint32_t tsval;
    uint32_t tsecr;
    struct tcp_sack_block sack[TCP_SACK_BLOCKS];
    /* Fast Open (RFC 7413): the option's kind, 34 or 254, 0: none; an empty
     * cookie asks for one */
    uint8_t fastopen_kind;
    uint8_t fastopen_len;
    uint8_t fastopen[TCP_FASTOPEN_COOKIE_MAX];
    const uint8_t *raw;
};

/* Parses a header.
 * @data, @length: the segment, from its header on
 * Return: true; false when it is truncated or its data offset is wrong.
 * Malformed options end the parsing of options, as RFC 9293 section 3.1
 * (MUST-7) lets a receiver do. */
bool tcp_parse(const uint8_t *data, uint32_t length, struct tcp_repr *out);

/* Bytes that tcp_emit() will write. */
uint32_t tcp_header_size(const struct tcp_repr *repr);

/* Writes a header, checksum zero.  Options in Linux's order: MSS,
 * SACK-permitted with timestamps, others, SACK-permitted without, window
 * scale, Fast Open, SACK blocks, each padded with NOPs.
 * @out: at least tcp_header_size() bytes
 * Return: the header's length. */
uint32_t tcp_emit(const struct tcp_repr *repr, uint8_t *out);

#endif
