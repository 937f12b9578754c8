/* SPDX-License-Identifier: BSD-2-Clause */
#include "wire/tcp.h"

#include <string.h>

#include "wire/bytes.h"

#define OPT_END 0
#define OPT_NOP 1
#define OPT_MSS 2
#define OPT_WSCALE 3
#define OPT_SACK_PERMITTED 4
#define OPT_SACK 5
#define OPT_TIMESTAMPS 8
#define WSCALE_MAX 14
#define FASTOPEN_MAGIC 0xf989u
#define FASTOPEN_COOKIE_MIN 4u /* RFC 7413 section 4.1.1 */

/* Reads a SACK option's blocks. */
static void parse_sack(const uint8_t *option, uint32_t length, struct tcp_repr *out)
{
    uint32_t blocks = (length - 2) / 8;
    if (blocks > TCP_SACK_BLOCKS)
        blocks = TCP_SACK_BLOCKS;
    for (uint32_t i = 0; i < blocks; i++) {
        out->sack[i].start = load_be32(option + 2 + i * 8);
        out->sack[i].end = load_be32(option + 6 + i * 8);
    }
    out->n_sack = (uint8_t)blocks;
}

/* Reads a Fast Open cookie, which may be empty.  Other lengths are ignored. */
static void parse_fastopen(const uint8_t *cookie, uint32_t length, uint8_t kind, struct tcp_repr *out)
{
    if (length && (length < FASTOPEN_COOKIE_MIN || length > TCP_FASTOPEN_COOKIE_MAX || length % 2))
        return;
    out->fastopen_kind = kind;
    out->fastopen_len = (uint8_t)length;
    memcpy(out->fastopen, cookie, length);
}

/* Notes where an option lies that somebody else may know. */
static void note_other(const uint8_t *option, struct tcp_repr *out)
{
    if (out->n_others < TCP_OTHERS_MAX)
        out->others[out->n_others++] = (uint8_t)(option - out->raw);
}

/* Reads one option of known length. */
static void parse_option(const uint8_t *option, uint32_t length, struct tcp_repr *out)
{
    switch (option[0]) {
    case OPT_MSS:
        if (length == 4)
            out->mss = load_be16(option + 2);
        break;
    case OPT_WSCALE:
        if (length == 3) {
            out->has_wscale = true;
            out->wscale = option[2] > WSCALE_MAX ? WSCALE_MAX : option[2];
        }
        break;
    case OPT_SACK_PERMITTED:
        if (length == 2)
            out->sack_permitted = true;
        break;
    case OPT_SACK:
        if (length >= 10 && (length - 2) % 8 == 0)
            parse_sack(option, length, out);
        break;
    case OPT_TIMESTAMPS:
        if (length == 10) {
            out->has_timestamps = true;
            out->tsval = load_be32(option + 2);
            out->tsecr = load_be32(option + 6);
        }
        break;
    case TCP_OPT_FASTOPEN:
        parse_fastopen(option + 2, length - 2, TCP_OPT_FASTOPEN, out);
        break;
    case TCP_OPT_EXPERIMENTAL:
        if (length >= 4 && load_be16(option + 2) == FASTOPEN_MAGIC)
            parse_fastopen(option + 4, length - 4, TCP_OPT_EXPERIMENTAL, out);
        else
            note_other(option, out);
        break;
    default:
        note_other(option, out);
        break;
    }
}

/* Reads all options that are whole; what follows a malformed one is left. */
static void parse_options(const uint8_t *p, uint32_t length, struct tcp_repr *out)
{
    while (length > 0) {
        if (*p == OPT_END)
            return;
        if (*p == OPT_NOP) {
            p++;
            length--;
            continue;
        }
        if (length < 2 || p[1] < 2 || p[1] > length)
            return;
        uint32_t size = p[1];
        parse_option(p, size, out);
        p += size;
        length -= size;
    }
}

bool tcp_parse(const uint8_t *data, uint32_t length, struct tcp_repr *out)
{
    if (length < TCP_HEADER)
        return false;
    uint32_t header_len = (uint32_t)(data[12] >> 4) * 4;
    if (header_len < TCP_HEADER || header_len > length)
        return false;
    out->src_port = load_be16(data);
    out->dst_port = load_be16(data + 2);
    out->seq = load_be32(data + 4);
    out->ack = load_be32(data + 8);
    out->header_len = (uint8_t)header_len;
    out->flags = (uint16_t)((data[12] & 1u) << 8 | data[13]);
    out->window = load_be16(data + 14);
    out->urgent = load_be16(data + 18);
    out->mss = 0;
    out->has_wscale = out->sack_permitted = out->has_timestamps = false;
    out->wscale = 0;
    out->n_sack = 0;
    out->fastopen_kind = 0;
    out->n_others = out->raw_len = 0;
    const uint8_t *options = data + TCP_HEADER;
    if (AMS_LIKELY(header_len == TCP_HEADER + 12 && load_be32(options) == TCP_TIMESTAMPS_ALIGNED)) {
        out->has_timestamps = true;
        out->tsval = load_be32(options + 4);
        out->tsecr = load_be32(options + 8);
    } else if (header_len > TCP_HEADER) {
        out->raw = data;
        parse_options(options, header_len - TCP_HEADER, out);
    }
    return true;
}

/* The Fast Open option's bytes, padding included. */
static uint32_t fastopen_size(const struct tcp_repr *repr)
{
    uint32_t size = (repr->fastopen_kind == TCP_OPT_FASTOPEN ? 2u : 4u) + repr->fastopen_len;
    return (size + 3u) & ~3u;
}

uint32_t tcp_header_size(const struct tcp_repr *repr)
{
    uint32_t size = TCP_HEADER;
    if (repr->mss)
        size += 4;
    if (repr->has_timestamps)
        size += repr->sack_permitted ? 10 + 2 : 12;
    else if (repr->sack_permitted)
        size += 4;
    if (repr->has_wscale)
        size += 4;
    if (repr->fastopen_kind)
        size += fastopen_size(repr);
    if (repr->n_sack)
        size += 4 + 8u * repr->n_sack;
    return size + ((repr->raw_len + 3u) & ~3u);
}

/* Writes the options of a SYN: everything that is negotiated. */
static uint8_t *emit_timestamps(uint8_t *p, const struct tcp_repr *repr)
{
    if (repr->sack_permitted) { /* fills the two bytes that NOPs would */
        *p++ = OPT_SACK_PERMITTED;
        *p++ = 2;
    } else {
        *p++ = OPT_NOP;
        *p++ = OPT_NOP;
    }
    *p++ = OPT_TIMESTAMPS;
    *p++ = 10;
    store_be32(p, repr->tsval);
    store_be32(p + 4, repr->tsecr);
    return p + 8;
}

/* Writes the cookie, under its own kind or the experimental one (RFC 7413
 * appendix A), padded with NOPs.  Return: where it ends. */
static uint8_t *emit_fastopen(uint8_t *p, const struct tcp_repr *repr)
{
    uint8_t *end = p + fastopen_size(repr);
    bool experimental = repr->fastopen_kind != TCP_OPT_FASTOPEN;
    *p++ = repr->fastopen_kind;
    *p++ = (uint8_t)((experimental ? 4 : 2) + repr->fastopen_len);
    if (experimental) {
        store_be16(p, FASTOPEN_MAGIC);
        p += 2;
    }
    memcpy(p, repr->fastopen, repr->fastopen_len);
    p += repr->fastopen_len;
    while (p < end)
        *p++ = OPT_NOP;
    return end;
}

/* Writes the options in the order in which Linux has them, padded with NOPs.
 * Return: where they end. */
static uint8_t *emit_options(uint8_t *p, const struct tcp_repr *repr)
{
    if (repr->mss) {
        *p++ = OPT_MSS;
        *p++ = 4;
        store_be16(p, repr->mss);
        p += 2;
    }
    if (repr->has_timestamps)
        p = emit_timestamps(p, repr);
    if (AMS_UNLIKELY(repr->raw_len)) {
        memcpy(p, repr->raw, repr->raw_len);
        p += repr->raw_len;
        for (uint32_t odd = repr->raw_len; odd % 4; odd++)
            *p++ = OPT_NOP;
    }
    if (repr->sack_permitted && !repr->has_timestamps) {
        *p++ = OPT_NOP;
        *p++ = OPT_NOP;
        *p++ = OPT_SACK_PERMITTED;
        *p++ = 2;
    }
    if (repr->has_wscale) {
        *p++ = OPT_NOP;
        *p++ = OPT_WSCALE;
        *p++ = 3;
        *p++ = repr->wscale;
    }
    if (repr->fastopen_kind)
        p = emit_fastopen(p, repr);
    if (repr->n_sack) {
        *p++ = OPT_NOP;
        *p++ = OPT_NOP;
        *p++ = OPT_SACK;
        *p++ = (uint8_t)(2 + 8 * repr->n_sack);
        for (uint32_t i = 0; i < repr->n_sack; i++) {
            store_be32(p, repr->sack[i].start);
            store_be32(p + 4, repr->sack[i].end);
            p += 8;
        }
    }
    return p;
}

uint32_t tcp_emit(const struct tcp_repr *repr, uint8_t *out)
{
    uint8_t *end = emit_options(out + TCP_HEADER, repr);
    uint32_t header_len = (uint32_t)(end - out);
    store_be16(out, repr->src_port);
    store_be16(out + 2, repr->dst_port);
    store_be32(out + 4, repr->seq);
    store_be32(out + 8, repr->ack);
    out[12] = (uint8_t)(header_len / 4 << 4 | repr->flags >> 8);
    out[13] = (uint8_t)repr->flags;
    store_be16(out + 14, repr->window);
    store_be16(out + 16, 0);
    store_be16(out + 18, repr->urgent);
    return header_len;
}
