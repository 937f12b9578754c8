/* SPDX-License-Identifier: BSD-2-Clause
 *
 * reass.c - reassembly of IPv4 and IPv6 fragments.
 *
 * Theory of operation.  A datagram under way has one large frame, into which
 * each fragment is copied to its place, and a bit map of the 8-byte blocks
 * that have arrived (fragments start at multiples of 8, so no list of holes
 * as in RFC 815 is needed).  It is complete when its end is known and all
 * its blocks are there; then the first fragment's header is put in front and
 * the frame goes up like any received packet.
 *
 * Overlaps are an attack (RFC 5722): a fragment that brings bytes which are
 * there already is ignored if it is nothing but a duplicate, byte for byte
 * (RFC 8200 section 4.5 allows that; networks do duplicate), and else the
 * datagram is given up.  A datagram given up stays as a tombstone without
 * frame until its time is over, so that its other fragments are dropped too.
 *
 * Bounds: REASS_LIMIT datagrams, the oldest making room; 30 seconds for IPv4
 * (RFC 1122 section 3.3.2 asks for 60 to 120; attackers fill the table for
 * less), 60 for IPv6 (RFC 8200 section 4.5).
 */
#include "stack/reass.h"

#include <string.h>

#include "core/alloc.h"
#include "stack/icmp.h"
#include "stack/ip.h"
#include "wire/bytes.h"

#define REASS_LIMIT 64u
#define REASS_BUCKETS 64u
#define LIFETIME4 (30 * AMS_NS_PER_S)
#define LIFETIME6 (60 * AMS_NS_PER_S)
#define PAYLOAD_MAX 65535u
/* Room for the headers before the payload; a longer unfragmentable part is
 * refused. */
#define HEADER_ROOM 512u
#define PAYLOAD_AT (ETH_HEADER + HEADER_ROOM)
#define BLOCKS (65536u / 8)

/* Bits of `ecn`, by the two low bits of the traffic class (RFC 3168). */
#define ECN_NOT_ECT (1u << 0)
#define ECN_CE (1u << 3)

struct reass_key {
    uint8_t src[16];
    uint8_t dst[16];
    uint32_t id;
    uint32_t protocol;        /* 0 for IPv6: not part of its key */
};

struct datagram {
    struct reass_key key;
    struct ams_frame *frame;  /* NULL: given up */
    uint32_t total;           /* payload bytes, once the last fragment came; else 0 */
    uint32_t received;        /* payload bytes */
    uint32_t header_len;      /* IP header up to the payload; 0: first fragment missing */
    uint32_t first_len;       /* payload of the first fragment */
    uint32_t named_at;        /* IPv6: see struct ipv6_walk */
    uint8_t next;             /* IPv6: what the payload begins with */
    uint8_t ecn;              /* which code points came */
    struct ip_info ip;        /* of the first fragment */
    struct ams_timer timer;
    struct datagram *hash_next;
    struct datagram *older, *newer;
    uint64_t have[BLOCKS / 64];
};

struct reass_table {
    struct datagram *buckets[REASS_BUCKETS];
    struct datagram *oldest, *newest;
    uint32_t count;
};

/* One fragment, of either family. */
struct fragment {
    uint32_t offset;
    uint32_t len;
    bool more;
    const uint8_t *payload;
    uint32_t header_len;      /* IP header and what else lies before the payload, fragment header not counted */
    uint32_t named_at;
    uint8_t next;
    uint64_t lifetime;
};

/* ---- table ----------------------------------------------------------------- */

/* The hash chain of a key. */
static struct datagram **bucket_of(const struct ams_stack *stack, const struct reass_key *key)
{
    uint64_t words[sizeof(*key) / 8];
    memcpy(words, key, sizeof(*key));
    return &stack->reass->buckets[siphash13(&stack->key, words, AMS_ARRAY_SIZE(words)) % REASS_BUCKETS];
}

/* Takes a datagram out of the table and frees it. */
static void datagram_free(struct ams_stack *stack, struct datagram *datagram)
{
    struct reass_table *table = stack->reass;
    struct datagram **link = bucket_of(stack, &datagram->key);
    while (*link != datagram)
        link = &(*link)->hash_next;
    *link = datagram->hash_next;
    if (datagram->older)
        datagram->older->newer = datagram->newer;
    else
        table->oldest = datagram->newer;
    if (datagram->newer)
        datagram->newer->older = datagram->older;
    else
        table->newest = datagram->older;
    table->count--;
    timer_cancel(&stack->wheel, &datagram->timer);
    frame_free(datagram->frame);
    mem_free(datagram);
}

/* The datagram with that key, or its tombstone; NULL: neither. */
static struct datagram *datagram_find(struct ams_stack *stack, const struct reass_key *key)
{
    struct datagram *datagram = *bucket_of(stack, key);
    while (datagram && memcmp(&datagram->key, key, sizeof(*key)) != 0)
        datagram = datagram->hash_next;
    return datagram;
}

/* Begins a datagram; the oldest goes when there are too many.
 * Return: NULL without memory. */
static struct datagram *datagram_new(struct ams_stack *stack, const struct reass_key *key, uint64_t expires)
{
    struct reass_table *table = stack->reass;
    if (table->count >= REASS_LIMIT) {
        stack->counters.frag_limit++;
        datagram_free(stack, table->oldest);
    }
    struct datagram *datagram = mem_zalloc(1, sizeof(*datagram));
    struct ams_frame *frame = datagram ? frame_new(stack->pool, FRAME_CLASS_LARGE) : NULL;
    if (!frame) {
        mem_free(datagram);
        stack->counters.no_memory++;
        return NULL;
    }
    datagram->key = *key;
    datagram->frame = frame;
    datagram->timer.kind = STACK_TIMER_REASS;
    timer_arm(&stack->wheel, &datagram->timer, expires);
    struct datagram **bucket = bucket_of(stack, key);
    datagram->hash_next = *bucket;
    *bucket = datagram;
    datagram->older = table->newest;
    if (table->newest)
        table->newest->newer = datagram;
    else
        table->oldest = datagram;
    table->newest = datagram;
    table->count++;
    return datagram;
}

/* Gives a datagram up; its tombstone stays until the time is over. */
static void datagram_bury(struct datagram *datagram)
{
    frame_free(datagram->frame);
    datagram->frame = NULL;
}

/* ---- bit map ------------------------------------------------------------------ */

/* How many of the blocks [first, first + n) are there. */
static uint32_t blocks_count(const struct datagram *datagram, uint32_t first, uint32_t n)
{
    uint32_t count = 0;
    for (uint32_t block = first; block < first + n; block++)
        count += datagram->have[block / 64] >> (block % 64) & 1;
    return count;
}

/* Notes that the blocks [first, first + n) are there. */
static void blocks_set(struct datagram *datagram, uint32_t first, uint32_t n)
{
    for (uint32_t block = first; block < first + n; block++)
        datagram->have[block / 64] |= 1ull << (block % 64);
}

/* ---- fragments ------------------------------------------------------------------ */

enum add_result { ADD_TAKEN, ADD_DUPLICATE, ADD_CONFLICT };

/* Copies a fragment to its place. */
static enum add_result datagram_add(struct datagram *datagram, const struct fragment *fragment)
{
    uint32_t end = fragment->offset + fragment->len;
    uint32_t first = fragment->offset / 8, n = (fragment->len + 7) / 8;
    uint8_t *place = datagram->frame->data + PAYLOAD_AT + fragment->offset;
    if (datagram->total && (end > datagram->total || (!fragment->more && end != datagram->total)))
        return ADD_CONFLICT;
    uint32_t present = blocks_count(datagram, first, n);
    if (present) {
        bool same = present == n && memcmp(place, fragment->payload, fragment->len) == 0;
        return same ? ADD_DUPLICATE : ADD_CONFLICT;
    }
    if (!fragment->more) {
        if (blocks_count(datagram, first + n, BLOCKS - first - n))
            return ADD_CONFLICT; /* something beyond the end came before */
        datagram->total = end;
    }
    memcpy(place, fragment->payload, fragment->len);
    blocks_set(datagram, first, n);
    datagram->received += fragment->len;
    return ADD_TAKEN;
}

/* Keeps what the first fragment alone carries: the header. */
static void datagram_add_header(struct datagram *datagram, const struct ams_frame *frame, const struct ip_info *ip,
                                const struct fragment *fragment)
{
    uint8_t *payload = datagram->frame->data + PAYLOAD_AT;
    datagram->header_len = fragment->header_len;
    datagram->first_len = fragment->len;
    datagram->named_at = fragment->named_at;
    datagram->next = fragment->next;
    datagram->ip = *ip;
    datagram->ip.l3_off = ETH_HEADER;
    memcpy(payload - fragment->header_len, frame->data + ip->l3_off, fragment->header_len);
    memcpy(payload - fragment->header_len - ETH_HEADER, frame->data, ETH_HEADER);
}

/* Moves the window of a datagram's frame over header and payload, and makes
 * the header that of a whole packet.
 * @payload: bytes of payload to include */
static void datagram_finish(struct datagram *datagram, uint32_t payload)
{
    struct ams_frame *frame = datagram->frame;
    struct ip_info *ip = &datagram->ip;
    frame->data += PAYLOAD_AT - datagram->header_len - ETH_HEADER;
    frame->len = ETH_HEADER + datagram->header_len + payload;
    ip->l4_off = ETH_HEADER + datagram->header_len;
    ip->l4_len = payload;
    uint8_t *header = frame->data + ETH_HEADER;
    if (datagram->ecn & ECN_CE)
        ip->tos |= 3;
    if (ip->family == AMS_IPV4) {
        header[1] = ip->tos;
        store_be16(header + 2, datagram->header_len + payload);
        store_be16(header + 6, 0);
        ipv4_update_checksum(header, datagram->header_len);
        return;
    }
    header[0] = (uint8_t)(0x60 | ip->tos >> 4);
    header[1] = (uint8_t)((header[1] & 0xf) | ip->tos << 4);
    store_be16(header + 4, datagram->header_len - IP6_HEADER + payload);
    header[datagram->named_at] = datagram->next;
}

/* Hands a complete datagram up; it leaves the table. */
static void datagram_deliver(struct ams_stack *stack, struct datagram *datagram, uint64_t now)
{
    uint32_t limit = PAYLOAD_MAX + (datagram->ip.family == AMS_IPV4 ? 0 : IP6_HEADER);
    bool ecn_forged = (datagram->ecn & ECN_CE) && (datagram->ecn & ECN_NOT_ECT); /* RFC 3168 section 5.3 */
    if (datagram->header_len + datagram->total > limit || ecn_forged) {
        stack->counters.frag_bad++;
        datagram_free(stack, datagram);
        return;
    }
    datagram_finish(datagram, datagram->total);
    struct ams_frame *frame = datagram->frame;
    struct ip_info ip = datagram->ip;
    struct ipv6_walk walk = {
        .next = datagram->next,
        .offset = datagram->header_len,
        .named_at = datagram->named_at,
    };
    datagram->frame = NULL;
    datagram_free(stack, datagram);
    stack->counters.frag_done++;
    if (ip.family == AMS_IPV4)
        ip4_deliver(stack, frame, &ip, now);
    else
        ip6_deliver(stack, frame, &ip, walk, true, now);
}

/* Takes one checked fragment.  Consumes frame. */
static void reass_add(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip,
                      const struct reass_key *key, const struct fragment *fragment, uint64_t now)
{
    struct datagram *datagram = datagram_find(stack, key);
    if (!datagram)
        datagram = datagram_new(stack, key, now + fragment->lifetime);
    if (!datagram || !datagram->frame) {
        stack->counters.frag_bad += datagram != NULL;
        frame_free(frame);
        return;
    }
    enum add_result result = datagram_add(datagram, fragment);
    if (result == ADD_TAKEN) {
        datagram->ecn |= (uint8_t)(1u << (ip->tos & 3));
        if (fragment->offset == 0)
            datagram_add_header(datagram, frame, ip, fragment);
    } else if (result == ADD_CONFLICT) {
        stack->counters.frag_overlap++;
        datagram_bury(datagram);
    }
    frame_free(frame);
    if (datagram->frame && datagram->total && datagram->received == datagram->total)
        datagram_deliver(stack, datagram, now);
}

/* Frees a fragment that makes no sense, and counts it. */
static void frag_refuse(struct ams_stack *stack, struct ams_frame *frame)
{
    stack->counters.frag_bad++;
    frame_free(frame);
}

void reass_input4(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip,
                  const struct ipv4_repr *repr, uint64_t now)
{
    struct fragment fragment = {
        .offset = repr->frag_off,
        .len = ip->l4_len,
        .more = repr->more_fragments,
        .payload = frame->data + ip->l4_off,
        .header_len = repr->header_len,
        .lifetime = LIFETIME4,
    };
    stack->counters.frag_rx++;
    if (fragment.len == 0 || (fragment.more && fragment.len % 8) ||
        fragment.offset + fragment.len > PAYLOAD_MAX - IP4_HEADER) {
        frag_refuse(stack, frame);
        return;
    }
    struct reass_key key = {.id = repr->id, .protocol = repr->protocol};
    memcpy(key.src, ip->src, 16);
    memcpy(key.dst, ip->dst, 16);
    reass_add(stack, frame, ip, &key, &fragment, now);
}

/* A field of the fragment header cannot be right (RFC 8200 section 4.5). */
static void frag_problem(struct ams_stack *stack, struct ams_frame *frame, const struct ip_info *ip, uint32_t pointer,
                         uint64_t now)
{
    icmp_send_error(stack, frame, ip, &(struct icmp_repr){.type = ICMP6_PARAMETER_PROBLEM, .rest = pointer}, now);
    frag_refuse(stack, frame);
}

void reass_input6(struct ams_stack *stack, struct ams_frame *frame, struct ip_info *ip, const struct ipv6_walk *walk,
                  uint64_t now)
{
    struct ipv6_fragment header;
    stack->counters.frag_rx++;
    if (ipv6_fragment_parse(frame->data + ip->l4_off, ip->l4_len, &header) != WIRE_OK) {
        frag_refuse(stack, frame);
        return;
    }
    if (header.offset == 0 && !header.more) { /* RFC 6946: a packet of its own */
        struct ipv6_walk onward = *walk;
        onward.next = header.next;
        onward.named_at = walk->offset;
        onward.offset += IP6_FRAGMENT_HEADER;
        ip6_deliver(stack, frame, ip, onward, true, now);
        return;
    }
    struct fragment fragment = {
        .offset = header.offset,
        .len = ip->l4_len - IP6_FRAGMENT_HEADER,
        .more = header.more,
        .payload = frame->data + ip->l4_off + IP6_FRAGMENT_HEADER,
        .header_len = walk->offset,
        .named_at = walk->named_at,
        .next = header.next,
        .lifetime = LIFETIME6,
    };
    if (fragment.more && fragment.len % 8) {
        frag_problem(stack, frame, ip, 4, now);
        return;
    }
    if (fragment.offset + fragment.len > PAYLOAD_MAX) {
        frag_problem(stack, frame, ip, walk->offset + 2, now);
        return;
    }
    if (fragment.len == 0 || fragment.header_len > HEADER_ROOM) {
        frag_refuse(stack, frame);
        return;
    }
    struct reass_key key = {.id = header.id};
    memcpy(key.src, ip->src, 16);
    memcpy(key.dst, ip->dst, 16);
    reass_add(stack, frame, ip, &key, &fragment, now);
}

void reass_timer_expired(struct ams_stack *stack, struct ams_timer *timer, uint64_t now)
{
    struct datagram *datagram = AMS_CONTAINER_OF(timer, struct datagram, timer);
    stack->counters.frag_timeout++;
    if (datagram->frame && datagram->header_len) { /* else there is nothing to quote */
        datagram_finish(datagram, datagram->first_len);
        uint8_t type = datagram->ip.family == AMS_IPV4 ? ICMP4_TIME_EXCEEDED : ICMP6_TIME_EXCEEDED;
        struct icmp_repr icmp = {.type = type, .code = ICMP_CODE_REASSEMBLY};
        icmp_send_error(stack, datagram->frame, &datagram->ip, &icmp, now);
    }
    datagram_free(stack, datagram);
}

/* ---- life cycle -------------------------------------------------------------------- */

int reass_init(struct ams_stack *stack)
{
    stack->reass = mem_zalloc(1, sizeof(*stack->reass));
    return stack->reass ? 0 : -AMS_ENOMEM;
}

void reass_fini(struct ams_stack *stack)
{
    if (!stack->reass)
        return;
    while (stack->reass->oldest)
        datagram_free(stack, stack->reass->oldest);
    mem_free(stack->reass);
    stack->reass = NULL;
}

uint64_t reass_memory(const struct ams_stack *stack)
{
    return sizeof(struct reass_table) + stack->reass->count * sizeof(struct datagram);
}
