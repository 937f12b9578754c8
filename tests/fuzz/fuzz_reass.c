/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fuzzes reassembly against what was cut.
 *
 * The input cuts datagrams into fragments as it likes: in any order, twice,
 * overlapping, with holes, several datagrams at a time; and to each datagram
 * there is an evil twin of the same length and identification but with other
 * bytes, whose fragments mix with it.
 *
 * What is checked beyond the sanitizers: of a datagram that arrives each
 * eight bytes were sent in one version only, and in that version, so that no
 * overlap decides what is read (RFC 5722); without overlaps and loss it does
 * arrive; what waits is bounded, and gone after a minute (RFC 8200 section
 * 4.5, RFC 1122 section 3.3.2).  A datagram and its twin that take turns
 * without an overlap are the UDP checksum's business.
 */
#include <stdbool.h>

#include "fuzz.h"
#include "packets.h"
#include "stack/stack.h"
#include "wire/checksum.h"

#define IDS 3
#define LENGTH_MAX 5000u
#define FRAMES_MAX 20000u        /* far above what may wait */
#define MAX_RECORDS 300

struct datagram {
    uint32_t length;             /* UDP header included */
    uint8_t sent[LENGTH_MAX / 8 + 1]; /* by units of eight bytes: 1: as it is, 2: the twin's */
    bool dirty;                  /* overlaps, twins and odd ends: it may be dropped */
    bool delivered;
};

struct fuzz {
    struct fuzz_input input;
    struct frame_pool pool;
    struct ams_stack *stack;
    struct datagram datagrams[IDS];
    uint64_t now;
    int udp[2];
    bool v6;
};

/* The byte at `at` of datagram k or its twin. */
static uint8_t content(int k, bool twin, uint32_t at)
{
    return (uint8_t)((at * 2654435761u + (uint32_t)k * 40503u + (twin ? 7919u : 0)) >> 11);
}

/* Writes a whole datagram, its checksum included. */
static void compose(const struct fuzz *fuzz, int k, bool twin, uint8_t *out)
{
    uint32_t length = fuzz->datagrams[k].length;
    uint8_t src[16], dst[16];
    udp_emit(out, &(struct udp_repr){(uint16_t)(100 + k + (twin ? 50 : 0)), 9, (uint16_t)length, 0});
    for (uint32_t i = UDP_HEADER; i < length; i++)
        out[i] = content(k, twin, i);
    packets_ip(src, fuzz->v6, 2);
    packets_ip(dst, fuzz->v6, 1);
    uint16_t sum = checksum_finish(checksum_add(checksum_pseudo(src, dst, PROTO_UDP, length), out, length));
    store_be16(out + UDP_CHECKSUM_AT, sum ? sum : 0xffff);
}

/* Takes what was delivered, and compares it. */
static void collect(struct fuzz *fuzz)
{
    static char buffer[70000];
    struct ams_endpoint from;
    int length;
    while ((length = ams_udp_recv(fuzz->stack, fuzz->udp[fuzz->v6], &from, buffer, sizeof(buffer))) >= 0) {
        int k = (from.port - 100) % 50;
        bool twin = from.port >= 150;
        FUZZ_ASSERT(k >= 0 && k < IDS && (uint32_t)length + UDP_HEADER == fuzz->datagrams[k].length);
        struct datagram *datagram = &fuzz->datagrams[k];
        FUZZ_ASSERT(datagram->sent[0] == (twin ? 2 : 1));
        for (uint32_t i = 0; i < (uint32_t)length; i++) {
            uint8_t version = datagram->sent[(i + UDP_HEADER) / 8];
            FUZZ_ASSERT(version == 1 || version == 2);
            FUZZ_ASSERT((uint8_t)buffer[i] == content(k, version == 2, i + UDP_HEADER));
        }
        datagram->delivered = datagram->dirty = true;
    }
}

static void settle(struct fuzz *fuzz)
{
    struct ams_tx tx[16];
    int32_t events[16 * AMS_EVENT_WORDS];
    int sent;
    do {
        memset(tx, 0, sizeof(tx));
        sent = stack_output(fuzz->stack, tx, 16, fuzz->now);
        stack_output_done(fuzz->stack, tx, sent);
    } while (sent);
    while (stack_events(fuzz->stack, events, 16, NULL, 0) > 0)
        ;
    collect(fuzz);
}

/* Sends bytes [offset, offset + len) of a datagram. */
static void send_fragment(struct fuzz *fuzz, int k, bool twin, uint32_t offset, uint32_t len)
{
    static uint8_t whole[LENGTH_MAX];
    uint8_t bytes[PACKETS_MAX];
    struct datagram *datagram = &fuzz->datagrams[k];
    if (len == datagram->length) { /* that would be no fragment */
        send_fragment(fuzz, k, twin, 0, 8);
        send_fragment(fuzz, k, twin, 8, len - 8);
        return;
    }
    compose(fuzz, k, twin, whole);
    bool more = offset + len < datagram->length;
    for (uint32_t unit = offset / 8; unit < (offset + len + 7) / 8; unit++) {
        datagram->dirty = datagram->dirty || datagram->sent[unit];
        datagram->sent[unit] |= twin ? 2 : 1;
    }
    datagram->dirty = datagram->dirty || twin;
    struct packets_frame what = {.v6 = fuzz->v6, .protocol = PROTO_NONE, .payload = (uint16_t)len,
                                 .body = whole + offset, .frag_offset = (uint16_t)offset, .more_fragments = more,
                                 .frag_id = 77u + (uint32_t)k};
    uint32_t length = packets_build(bytes, &what);
    uint32_t protocol_at = ETH_HEADER + (fuzz->v6 ? (offset || more ? IP6_HEADER : 6) : 9);
    bytes[protocol_at] = PROTO_UDP;
    if (!fuzz->v6)
        ipv4_update_checksum(bytes + ETH_HEADER, IP4_HEADER);
    struct ams_frame *frame = frame_new(&fuzz->pool, FRAME_CLASS_SMALL);
    FUZZ_ASSERT(frame);
    memcpy(frame->data, bytes, length);
    frame->len = length;
    uint64_t done = fuzz->stack->counters.frag_done;
    stack_input(fuzz->stack, &frame, 1, fuzz->now);
    collect(fuzz);
    if (fuzz->stack->counters.frag_done != done) { /* with a wrong checksum, perhaps: what comes now begins another one */
        memset(datagram->sent, 0, sizeof(datagram->sent));
        datagram->dirty = true;
    }
}

/* One fragment, as the input wants it. */
static void do_fragment(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int k = (how & 3) % IDS;
    const struct datagram *datagram = &fuzz->datagrams[k];
    uint32_t units = (datagram->length + 7) / 8;
    uint32_t offset = take16(&fuzz->input) % units * 8, len = (1 + take8(&fuzz->input) % 128) * 8;
    if (offset + len > datagram->length)
        len = datagram->length - offset;
    send_fragment(fuzz, k, how & 4, offset, len);
}

/* Sends all that was not sent yet of a datagram, in fragments of one size. */
static void do_rest(struct fuzz *fuzz)
{
    uint8_t how = take8(&fuzz->input);
    int k = (how & 3) % IDS;
    struct datagram *datagram = &fuzz->datagrams[k];
    uint32_t step = (1 + (how >> 2)) * 16, units = (datagram->length + 7) / 8;
    if (datagram->delivered)
        return;
    for (uint32_t unit = 0; unit < units;) {
        uint32_t first = unit;
        while (unit < units && !datagram->sent[unit] && (unit - first) * 8 < step)
            unit++;
        if (unit > first)
            send_fragment(fuzz, k, false, first * 8, ams_min_u32((unit - first) * 8, datagram->length - first * 8));
        else
            unit++;
    }
    settle(fuzz);
    FUZZ_ASSERT(datagram->delivered || datagram->dirty);
}

/* A new datagram takes the place of an old one, a minute later. */
static void do_next(struct fuzz *fuzz)
{
    uint16_t length = take16(&fuzz->input);
    for (int second = 0; second < 70; second++) { /* also for the error about it to be given up on */
        fuzz->now += AMS_NS_PER_S;
        settle(fuzz);
    }
    FUZZ_ASSERT(fuzz->pool.in_use == 0);
    memset(fuzz->datagrams, 0, sizeof(fuzz->datagrams));
    for (int k = 0; k < IDS; k++)
        fuzz->datagrams[k].length = UDP_HEADER + 1 + (length + 500u * (uint32_t)k) % (LENGTH_MAX - UDP_HEADER - 1);
}

static void fuzz_init(struct fuzz *fuzz)
{
    struct ams_ifaddr addresses[2] = {{packets_endpoint(false, 1, 0), 24}, {packets_endpoint(true, 1, 0), 64}};
    struct ams_stack_config config = {.seed = {5, 6}, .addresses = addresses, .n_addresses = 2,
                                      .flags = AMS_STACK_NO_DAD};
    struct stack_link link = {.mtu = 1500, .pool = &fuzz->pool};
    int status;
    memcpy(config.mac, packets_us_mac, 6);
    frame_pool_init(&fuzz->pool, FRAMES_MAX, false);
    fuzz->now = 1000 * AMS_NS_PER_S;
    fuzz->stack = stack_new(&config, &link, fuzz->now, &status);
    FUZZ_ASSERT(fuzz->stack);
    for (int v6 = 0; v6 < 2; v6++) {
        struct ams_endpoint any = packets_wildcard(v6, 9);
        fuzz->udp[v6] = ams_udp_open(fuzz->stack, &any, NULL, AMS_LISTEN_V6ONLY);
        FUZZ_ASSERT(fuzz->udp[v6] >= 0);
    }
    fuzz->v6 = take8(&fuzz->input) & 1;
    do_next(fuzz);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz fuzz = {.input = {data, size}};
    fuzz_init(&fuzz);
    for (int record = 0; record < MAX_RECORDS && fuzz.input.left; record++) {
        uint8_t action = take8(&fuzz.input);
        if (action < 224)
            do_fragment(&fuzz);
        else if (action < 250)
            do_rest(&fuzz);
        else
            do_next(&fuzz);
        settle(&fuzz);
    }
    stack_free(fuzz.stack);
    FUZZ_ASSERT(fuzz.pool.in_use == 0);
    frame_pool_fini(&fuzz.pool);
    return 0;
}
